"""Pool the connections of httpx or httpx2: as many as there are requests at one time, and a few idle ones.

The libraries' own pools look at all connections and requests when a request begins and when it ends, which is quadratic
in the streams that a program opens. They do it for a limit and a queue that are not used here (`_httpx_base`, rule 4).

Rule 1: a connection is idle, or used by one request, which closes it or gives it back.
Rule 2: the idle connection that was used last is used next, so that those that are not needed expire.
Rule 3: nothing here waits but the closing of connections.
Rule 4: a connection is looked at before it is used again. All idle ones are looked at when they are too many, and at
    the end of a request at most once in LOOK_SECONDS.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from oxygent_client.transports._cancellation import run_to_end

LOOK_SECONDS: Final = 1.0


class ConnectionPool:
    """What the transport of httpx or httpx2 uses of a pool.

    Args:
        create: create a connection of the library to an origin.
        most_idle: how many connections stay open when no request uses them.
        clock: tells the time in seconds.
    """

    def __init__(
        self, create: Callable[[Any], Any], most_idle: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._create: Final = create
        self._most_idle: Final = most_idle
        self._clock: Final = clock
        self._look_at = clock() + LOOK_SECONDS
        self._idle: list[Any] = []  # that used last comes last
        self._used: set[Any] = set()

    @property
    def connections(self) -> list[Any]:
        """The connections, idle or used."""
        return [*self._idle, *self._used]

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request of the library, and return its response."""
        origin = request.url.origin
        while (connection := self._take(origin)) is not None and _is_spent(connection):
            await connection.aclose()
        if connection is None:
            connection = self._create(origin)
        self._used.add(connection)
        try:
            response = await connection.handle_async_request(request)
        except BaseException:
            self._used.discard(connection)
            if not connection.is_closed():  # it was made, and not used
                await run_to_end(connection.aclose)
            raise
        response.stream = _Lent(self, connection, response.stream)
        return response

    def _take(self, origin: Any) -> Any:
        """Return the idle connection to `origin` that was used last; None if there is none."""
        for index in range(len(self._idle) - 1, -1, -1):
            if self._idle[index].can_handle_request(origin):
                return self._idle.pop(index)
        return None

    async def give_back(self, connection: Any) -> None:
        """Take a connection whose request is over."""
        if connection not in self._used:  # the pool was closed
            return
        self._used.remove(connection)
        if connection.is_idle():
            self._idle.append(connection)
        if len(self._idle) > self._most_idle or self._clock() >= self._look_at:
            await self._look()

    async def _look(self) -> None:
        """Close the idle connections that cannot be used again, and the oldest of those that are too many."""
        self._look_at = self._clock() + LOOK_SECONDS
        closing = [each for each in self._idle if _is_spent(each)]
        kept = [each for each in self._idle if each not in closing]
        self._idle = kept[-self._most_idle :]
        for connection in (*closing, *kept[: -self._most_idle]):
            await connection.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        closing = self.connections
        self._idle.clear()
        self._used.clear()
        for connection in closing:
            await connection.aclose()


def _is_spent(connection: Any) -> bool:
    """Return whether an idle connection is too old, or was closed by one of the sides."""
    return bool(connection.is_closed() or connection.has_expired())


class _Lent:
    """The body of a response; once it is closed, its connection is the pool's again."""

    __slots__ = ("_connection", "_pool", "_stream")

    def __init__(self, pool: ConnectionPool, connection: Any, stream: Any) -> None:
        self._pool = pool
        self._connection = connection
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[bytes]:
        body: AsyncIterator[bytes] = aiter(self._stream)
        return body

    async def aclose(self) -> None:
        """Close the body."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await self._stream.aclose()
            finally:
                await self._pool.give_back(connection)
