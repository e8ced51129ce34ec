"""Count open and idle connections.

Rule 1: the counter keeps no connection alive: what its library forgets is forgotten here.
Rule 2: a connection counts as open until it is closed on this side; its socket may stay open for one more turn of the
    event loop.
Rule 3: any thread may read the counts: what other threads change is copied in one step.
Rule 4: a copy of a counter starts empty.
Rule 5: connections that a closed event loop left open are closed by `close_orphans`, since their library no longer can.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, Self, TypeVar
from weakref import WeakKeyDictionary, ref

from oxygent_client._core.per_loop import is_closed, this_loop

T = TypeVar("T")


class Use(Protocol):
    """What uses a connection, such as the body of a response."""

    def connection(self) -> object:
        """Return the object that identifies the connection in use; None once the connection is free again."""
        ...


class _Unknown:
    """Uses a connection that is not known yet."""

    __slots__ = ()

    def connection(self) -> object:
        """As `Use.connection`."""
        return self


class CountedExchange:
    """An exchange that uses a connection, from now until its `end`; as a context manager, until the end of the block.

    It is called once it is known which connection is in use, since exchanges may share one.
    """

    __slots__ = ("_key", "_uses")

    def __init__(self, counter: ConnectionCounter[Any]) -> None:
        uses = self._uses = counter.uses
        key = self._key = _Unknown()  # not this object, which the dictionary would keep
        uses[key] = key

    def end(self) -> None:
        """End the exchange."""
        self._uses.pop(self._key, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def __del__(self) -> None:
        self.end()  # an event loop that was closed meanwhile never leaves the block

    def __call__(self, use: Use) -> None:
        """Note what uses the connection."""
        self._uses[self._key] = use


class ConnectionCounter(Generic[T]):
    """The connections of one transport, in all event loops."""

    def __init__(self, fileno: Callable[[T], int], close: Callable[[T], object]) -> None:
        self._fileno = fileno
        self._close = close
        self._known: WeakKeyDictionary[T, ref[object]] = WeakKeyDictionary()
        self.uses: dict[object, Use] = {}
        """What uses the connections, by exchange."""

    def __reduce__(self) -> tuple[type[ConnectionCounter[T]], tuple[Callable[[T], int], Callable[[T], object]]]:
        return ConnectionCounter, (self._fileno, self._close)

    def add(self, connection: T) -> T:
        """Count `connection` from now on, and return it."""
        self._known[connection] = ref(this_loop())
        return connection

    def close_orphans(self) -> None:
        """Close the connections whose event loop was closed or garbage collected."""
        for connection in self._alive():
            loop = self._known[connection]()
            if loop is None or is_closed(loop):
                self._close(connection)

    def _alive(self) -> list[T]:
        return [connection for each in self._known.keyrefs() if (connection := each()) is not None]

    def exchange(self) -> CountedExchange:
        """Count an exchange as using a connection from now on."""
        return CountedExchange(self)

    def __call__(self) -> tuple[int, int]:
        """Return the number of open connections, and how many of them are idle."""
        open_count = sum(self._fileno(connection) != -1 for connection in self._alive())
        busy = {id(connection) for use in [*self.uses.values()] if (connection := use.connection()) is not None}
        return open_count, max(open_count - len(busy), 0)
