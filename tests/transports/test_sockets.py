"""What is seen of a connection below the HTTP libraries."""

from __future__ import annotations

import asyncio
import select
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest

from oxygent_client.transports._sockets import is_readable
from oxygent_client.transports.aiohttp import _Connection
from tests.support.servers import LAST, OK, chunk

if TYPE_CHECKING:
    from collections.abc import Callable

WAYS: Final[dict[str, Callable[[], Any] | None]] = {"poll": select.poll, "select": None}
NEWS: Final[dict[str, Callable[[socket.socket], object]]] = {
    "a byte": lambda other: other.sendall(b"x"),
    "the end": lambda other: other.shutdown(socket.SHUT_WR),
    "closed": socket.socket.close,
}

each_news: Final = pytest.mark.parametrize("news", NEWS.values(), ids=NEWS)


@each_news
@pytest.mark.parametrize("poll", WAYS.values(), ids=WAYS)
def test_is_readable(poll: Callable[[], Any] | None, news: Callable[[socket.socket], object]) -> None:
    """A read of a connection would wait until there is a byte or its end."""
    ours, other = socket.socketpair()
    with ours, other:
        before = is_readable(ours, poll)
        news(other)
        assert (before, is_readable(ours, poll)) == (False, True)


@each_news
@pytest.mark.parametrize("is_idle", [True, False], ids=["idle", "in use"])
def test_a_connection(news: Callable[[socket.socket], object], is_idle: bool) -> None:
    """News that the event loop has not heard yet end an idle connection of aiohttp, and none that is in use."""

    async def main() -> list[bool]:
        ours, other = socket.socketpair()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        factory = partial(_Connection, loop, memoryview(bytearray(100)))
        transport, connection = await loop.create_connection(factory, sock=ours)
        with other:
            connection.set_response_params(timer=aiohttp.helpers.TimerNoop())
            connection.data_received(OK + chunk(b"1") + (LAST if is_idle else b""))
            before = connection.is_connected()
            news(other)
            after = connection.is_connected()
            transport.abort()
            closed = connection.is_connected()
        await asyncio.sleep(0)
        return [before, after, closed]

    assert asyncio.run(main()) == [True, not is_idle, False]
