"""Keep live objects (clients, locks, sessions) one per event loop.

Rule 1: a connection belongs to the event loop in which it was made. Configuration may be shared by loops and threads,
    a live object may not.
Rule 2: a value lives as long as its loop and its holder, not longer. It is stored on the loop, since a value refers to
    its loop: as the value of a weak dictionary that has the loop as its key it would keep the loop alive for ever.
Rule 3: a value that has to be closed is closed while its loop still runs: asyncio, uvloop and trio close all open async
    generators at the end of a loop, and one of them closes the value. `over` has the values of loops that were closed
    without that (`loop.close()` alone).
Rule 4: a copy is empty, and so is what was pickled.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from weakref import WeakKeyDictionary, ref

import anyio
from anyio.lowlevel import current_token

from oxygent_client._core.errors import ClosedError

if TYPE_CHECKING:
    import trio

__all__ = ["Closed", "PerLoop", "is_over", "this_loop"]

T = TypeVar("T")

CLOSING_SECONDS: Final = 2.0
"""How long closing one value may hold up the end of its loop."""

_NAME: Final = "_oxygent_client_live"
"""The attribute of asyncio's loop, and trio's variable."""


def this_loop() -> object:
    """The running event loop: asyncio's loop, or trio's token."""
    return current_token().native_token


def is_over(loop: object) -> bool:
    """Whether this event loop was closed. Of trio it is not known, nor needed: it leaves nothing behind."""
    return isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed()


class _Kept(Generic[T]):
    """A value, and the generator that closes it at the end of its loop."""

    __slots__ = ("closing", "value")

    def __init__(self, value: T, closing: AsyncGenerator[None, None] | None) -> None:
        self.value = value
        self.closing = closing
        self.step()

    def step(self) -> None:
        """Begin the generator, or end it without closing the value. It waits for nothing in either case."""
        if self.closing is not None:
            with suppress(StopIteration, StopAsyncIteration):
                self.closing.asend(None).send(None)


class _Store(WeakKeyDictionary["PerLoop[Any]", _Kept[Any]]):
    """What one event loop has, by holder. The loop alone keeps it."""


def _store() -> _Store:
    """The running loop's."""
    loop = this_loop()
    if not isinstance(loop, asyncio.AbstractEventLoop):
        return _store_of_trio()
    store: _Store | None = getattr(loop, _NAME, None)
    if store is None:
        store = _Store()
        setattr(loop, _NAME, store)
    return store


def _store_of_trio() -> _Store:
    try:
        return _variable_of_trio().get()
    except LookupError:
        _variable_of_trio().set(_Store())
        return _variable_of_trio().get()


@functools.cache
def _variable_of_trio() -> trio.lowlevel.RunVar[_Store]:
    import trio  # only where trio is running already

    return trio.lowlevel.RunVar(_NAME)


async def _close_at_the_end(
    store: _Store, holder: ref[PerLoop[Any]], value: T, close: Callable[[T], Awaitable[object]]
) -> AsyncGenerator[None, None]:
    try:
        yield
    except GeneratorExit:
        if (this := holder()) is not None:
            store.pop(this, None)
        # Trio ends a generator in a scope that is cancelled.
        with anyio.move_on_after(CLOSING_SECONDS, shield=True):
            await close(value)
        raise


class PerLoop(Generic[T]):
    """At most one value for each event loop."""

    def __init__(self) -> None:
        self._stores: WeakKeyDictionary[object, ref[_Store]] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[PerLoop[T]], tuple[()]]:
        return type(self), ()

    def get(self) -> T | None:
        """The running loop's value; None if it has none."""
        kept: _Kept[T] | None = _store().get(self)
        return None if kept is None else kept.value

    def everywhere(self) -> list[T]:
        """The values of all loops. Any thread may ask."""
        found = [store.get(self) for _, store in self._there()]
        return [kept.value for kept in found if kept is not None]

    def _there(self) -> list[tuple[object, _Store]]:
        """The loops that had a value, as far as they are still there, and what they have."""
        loops = [loop for each in self._stores.keyrefs() if (loop := each()) is not None]
        return [(loop, store) for loop in loops if (store := self._stores[loop]()) is not None]

    def put(self, value: T, close: Callable[[T], Awaitable[object]] | None = None) -> T:
        """`value`, which is the running loop's from now on; `close` is called at the loop's end if it still is then."""
        self.take()
        self.over()
        store = _store()
        closing = None if close is None else _close_at_the_end(store, ref(self), value, close)
        self._stores[this_loop()] = ref(store)
        store[self] = _Kept(value, closing)
        return value

    def take(self) -> T | None:
        """The running loop's value, which it has no more and does not close; None if it had none."""
        kept: _Kept[T] | None = _store().pop(self, None)
        if kept is None:
            return None
        kept.step()
        return kept.value

    def over(self) -> list[T]:
        """The values of closed loops, which are forgotten. None of them can be closed as usual any more."""
        found: list[_Kept[T] | None] = [store.pop(self, None) for loop, store in self._there() if is_over(loop)]
        return [kept.value for kept in found if kept is not None]


class Closed:
    """In which event loops something was closed. What is closed does not open itself again; other loops may use it."""

    def __init__(self) -> None:
        self._loops: PerLoop[bool] = PerLoop()

    def __reduce__(self) -> tuple[type[Closed], tuple[()]]:
        return type(self), ()

    def note(self) -> None:
        """The running loop's is closed from now on."""
        self._loops.put(True)

    def check(self, owner: object) -> None:
        """Refuse to use what was closed.

        Raises:
            ClosedError: it was, in this event loop; nothing was sent.
        """
        if self._loops.get():
            raise ClosedError(f"this {type(owner).__name__} was closed in this event loop; make another one")
