"""Connection counts of a transport, without a network: open, idle and forgotten connections."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import weakref
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import pytest

from oxygent_client.transports._connection_count import ConnectionCounter

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable


class Socket:
    """A connection that is open until it is closed."""

    def __init__(self) -> None:
        self.number = 3

    def fileno(self) -> int:
        """Return -1 after `close`, like a socket."""
        return self.number

    def close(self) -> None:
        """Close it, like a socket."""
        self.number = -1


class Body:
    """What uses a connection, until it is set to None."""

    def __init__(self, used: Socket | None) -> None:
        self.used = used

    def connection(self) -> Socket | None:
        """Return the connection in use."""
        return self.used


@pytest.mark.parametrize(
    ("expected", "uses"),
    [
        ((3, 3), []),
        ((3, 2), [0]),
        ((3, 2), [0, 0]),
        ((3, 1), [0, 1]),
        ((3, 1), [0, 0, 1]),
        ((3, 2), [None]),
        ((3, 0), [None, None, None, None]),
        ((3, 1), [0, None]),
    ],
)
async def test_idle_connections(expected: tuple[int, int], uses: list[int | None]) -> None:
    """Exchanges may share a connection; an exchange whose connection is not known yet (None) counts as one."""
    counted = ConnectionCounter(Socket.fileno, Socket.close)
    connections = [counted.add(Socket()) for _ in range(3)]
    with ExitStack() as exchanges:
        for use in uses:
            occupies = exchanges.enter_context(counted.exchange())
            if use is not None:
                occupies(Body(connections[use]))
        assert counted() == expected
    assert counted() == (3, 3)


async def test_released_connections() -> None:
    """An exchange that has released its connection occupies none, though its block goes on."""
    counted = ConnectionCounter(Socket.fileno, Socket.close)
    kept = counted.add(Socket())
    body = Body(kept)
    with counted.exchange() as occupies:
        occupies(body)
        assert counted() == (1, 0)
        body.used = None
        assert counted() == (1, 1)


async def test_open_connections() -> None:
    """Each open connection is counted once; a connection that was closed or freed is not counted."""
    counted = ConnectionCounter(Socket.fileno, Socket.close)
    one, other, third = (counted.add(Socket()) for _ in range(3))
    counted.add(one)
    assert counted() == (3, 3)
    other.number = -1
    assert counted() == (2, 2)
    del third
    gc.collect()
    assert counted() == (1, 1)


COPIES: Final[dict[str, Callable[[Any], Any]]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda counted: pickle.loads(pickle.dumps(counted)),
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
async def test_a_copy(make: Callable[[Any], Any]) -> None:
    """A copy starts at zero."""
    counted = ConnectionCounter(Socket.fileno, Socket.close)
    kept = counted.add(Socket())
    clone = make(counted)
    assert clone() == (0, 0)
    clone.add(kept)
    assert clone() == (1, 1)


async def test_a_running_loop() -> None:
    """Connections of a running event loop stay open."""
    counted = ConnectionCounter(Socket.fileno, Socket.close)
    kept = counted.add(Socket())
    counted.close_orphans()
    assert kept.number == 3


def test_a_closed_loop() -> None:
    """Connections left open by a closed or freed event loop are closed."""
    counted = ConnectionCounter(Socket.fileno, Socket.close)

    async def add() -> Socket:
        return counted.add(Socket())

    loop, gone = asyncio.new_event_loop(), asyncio.new_event_loop()
    kept, other = loop.run_until_complete(add()), gone.run_until_complete(add())
    loop.close()
    gone.close()
    del gone
    gc.collect()
    counted.close_orphans()
    assert kept.number == -1
    assert other.number == -1


def test_an_exchange_of_a_closed_loop() -> None:
    """An exchange whose block a closed event loop never left occupies no connection, and keeps none."""
    counted = ConnectionCounter(Socket.fileno, Socket.close)
    seen: list[weakref.ref[Socket]] = []

    async def exchange() -> AsyncGenerator[None, None]:
        connection = counted.add(Socket())
        seen.append(weakref.ref(connection))
        with counted.exchange() as occupies:
            occupies(Body(connection))
            yield

    async def begin() -> AsyncGenerator[None, None]:
        begun = exchange()
        await anext(begun)
        return begun

    loop = asyncio.new_event_loop()
    begun = loop.run_until_complete(begin())
    assert counted() == (1, 0)
    loop.close()
    del begun
    gc.collect()
    assert [each() for each in seen] == [None]
    assert counted() == (0, 0)
