"""Keep live objects (clients, locks, sessions) one per event loop.

Rule 1: a connection belongs to the event loop that opened it. Loops and threads may share configuration, not
    connections.
Rule 2: a value lives as long as its loop and its holder. It is stored on the loop, since it refers to the loop: in a
    weak dictionary keyed by loop it would keep the loop alive forever.
Rule 3: a value is closed while its loop still runs: asyncio, uvloop and trio close open async generators at the end of
    a loop, and one of those closes the value. `take_closed` returns the values of loops that were closed without that
    (`loop.close()` alone).
Rule 4: a copy, also by pickle, is empty.
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

T = TypeVar("T")

CLOSING_SECONDS: Final = 2.0
"""Time-out for closing one value at the end of its loop."""

_NAME: Final = "_oxygent_client_live"
"""Name of the attribute on asyncio's loop, and of trio's variable."""


def this_loop() -> object:
    """The running event loop: asyncio's loop, or trio's token."""
    try:
        loop = asyncio.get_running_loop()
        if asyncio.current_task(loop) is not None:  # in a fifth of the time that anyio takes to find out
            return loop
    except RuntimeError:
        pass
    return current_token().native_token


def is_closed(loop: object) -> bool:
    """Whether this event loop was closed. Always False for trio, which leaves nothing behind."""
    return isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed()


def call_soon(loop: object, function: Callable[[], object]) -> None:
    """Call `function` in this event loop soon; from any thread. Nothing happens if the loop is closed or gone."""
    soon: Any = getattr(loop, "call_soon_threadsafe", None) or getattr(loop, "run_sync_soon", None)
    if soon is not None:
        with suppress(RuntimeError):  # the loop is closed
            soon(function)


class _Kept(Generic[T]):
    """A value, and the generator that closes it at the end of its loop."""

    __slots__ = ("closing", "value")

    def __init__(self, value: T, closing: AsyncGenerator[None, None] | None) -> None:
        self.value = value
        self.closing = closing
        self.step()

    def step(self) -> None:
        """Start the generator, or end it without closing the value. It does not wait in either case."""
        if self.closing is not None:
            with suppress(StopIteration, StopAsyncIteration):
                self.closing.asend(None).send(None)


class _Store(WeakKeyDictionary["PerLoop[Any]", _Kept[Any]]):
    """The values of one event loop, by holder. Only the loop refers to it strongly."""


def _store() -> _Store:
    """The store of the running loop."""
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
    import trio  # only called while trio runs

    return trio.lowlevel.RunVar(_NAME)


async def _close_at_end(
    store: _Store, holder: ref[PerLoop[Any]], value: T, close: Callable[[T], Awaitable[object]]
) -> AsyncGenerator[None, None]:
    try:
        yield
    except GeneratorExit:
        if (this := holder()) is not None:
            store.pop(this, None)
        # trio finalizes generators in a cancelled scope.
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
        """The value of the running loop; None without one."""
        kept: _Kept[T] | None = _store().get(self)
        return None if kept is None else kept.value

    def everywhere(self) -> list[T]:
        """The values of all loops. Thread-safe."""
        found = [store.get(self) for _, store in self._alive()]
        return [kept.value for kept in found if kept is not None]

    def _alive(self) -> list[tuple[object, _Store]]:
        """The loops that had a value and still exist, with their stores."""
        loops = [loop for each in self._stores.keyrefs() if (loop := each()) is not None]
        return [(loop, store) for loop in loops if (store := self._stores[loop]()) is not None]

    def put(self, value: T, close: Callable[[T], Awaitable[object]] | None = None) -> T:
        """Set and return the value of the running loop; `close` is called at the loop's end, unless it was taken."""
        self.take()
        self.take_closed()
        store = _store()
        closing = None if close is None else _close_at_end(store, ref(self), value, close)
        self._stores[this_loop()] = ref(store)
        store[self] = _Kept(value, closing)
        return value

    def take(self) -> T | None:
        """Remove and return the value of the running loop without closing it; None without one."""
        kept: _Kept[T] | None = _store().pop(self, None)
        if kept is None:
            return None
        kept.step()
        return kept.value

    def take_closed(self) -> list[T]:
        """Remove and return the values of closed loops. They can no longer be closed normally."""
        found: list[_Kept[T] | None] = [store.pop(self, None) for loop, store in self._alive() if is_closed(loop)]
        return [kept.value for kept in found if kept is not None]


class Closed:
    """Remembers the event loops in which an object was closed. It stays closed there; other loops may use it."""

    def __init__(self) -> None:
        self._loops: PerLoop[bool] = PerLoop()
        self._is_noted = False  # in any event loop

    def __reduce__(self) -> tuple[type[Closed], tuple[()]]:
        return type(self), ()

    def note(self) -> None:
        """Note that the object is closed in the running loop."""
        self._is_noted = self._loops.put(True)

    def check(self, owner: object) -> None:
        """Refuse to use a closed object.

        Raises:
            ClosedError: it was closed in this event loop. Nothing was sent; create a new one.
        """
        if self._is_noted and self._loops.get():
            raise ClosedError(f"this {type(owner).__name__} was closed in this event loop; create a new one")
