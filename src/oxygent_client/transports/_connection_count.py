"""Count open and idle connections.

Rule 1: nothing here keeps a connection alive: what is forgotten by its library is forgotten here.
Rule 2: a connection is there as long as its socket is open on this side.
Rule 3: any thread may ask: what other threads change is copied in one step.
Rule 4: a copy begins at nothing.
Rule 5: what a closed event loop has left open is closed by `drop`: nobody else can close it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary, ref

from oxygent_client._core.per_loop import is_over, this_loop

__all__ = ["Counted"]

T = TypeVar("T")
Use = Callable[[], object]
"""What an exchange occupies, by identity; None: nothing any more."""


class Counted(Generic[T]):
    """The connections of one transport, in all event loops."""

    def __init__(self, fileno: Callable[[T], int], close: Callable[[T], object]) -> None:
        self._fileno = fileno
        self._close = close
        self._known: WeakKeyDictionary[T, ref[object]] = WeakKeyDictionary()
        self._uses: dict[object, Use] = {}

    def __reduce__(self) -> tuple[type[Counted[T]], tuple[Callable[[T], int], Callable[[T], object]]]:
        return Counted, (self._fileno, self._close)

    def add(self, connection: T) -> T:
        """`connection`, which is known from now on."""
        self._known[connection] = ref(this_loop())
        return connection

    def drop(self) -> None:
        """Close the connections of event loops that were closed, or are gone."""
        for connection in self._there():
            loop = self._known[connection]()
            if loop is None or is_over(loop):
                self._close(connection)

    def _there(self) -> list[T]:
        return [connection for each in self._known.keyrefs() if (connection := each()) is not None]

    @contextmanager
    def exchange(self) -> Generator[Callable[[Use], None]]:
        """An exchange, which occupies a connection; told which when that is known, since several may share one."""
        this = object()
        self._uses[this] = lambda: this
        try:
            yield lambda use: self._uses.update({this: use})
        finally:
            del self._uses[this]

    def __call__(self) -> tuple[int, int]:
        """How many there are, and how many of them are idle."""
        there = sum(self._fileno(connection) != -1 for connection in self._there())
        busy = {id(occupied) for use in [*self._uses.values()] if (occupied := use()) is not None}
        return there, max(there - len(busy), 0)
