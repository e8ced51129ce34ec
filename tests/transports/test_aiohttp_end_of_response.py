"""The end of a response on a connection of aiohttp, without a socket: surplus closes it, wherever reads end."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any, Final

import pytest

from oxygent_client.transports.aiohttp import _Connection
from tests.support.servers import OK, chunk

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY: Final = chunk(b"data: a\r\n\r\n") + chunk(b"0\n0")
ENDS: Final = {
    "an empty chunk": b"0\r\n\r\n",
    "zeros": b"0000\r\n\r\n",
    "an extension": b"0;a=b\r\n\r\n",
    "a trailer": b"0\r\nx-a: 1\r\n\r\n",
}
LENGTH: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n{ }\n"
RESPONSES: Final = {name: OK + BODY + end for name, end in ENDS.items()} | {
    "a line before the last chunk": OK + chunk(b"a\n") + b"0\r\n\r\n",
    "no chunk but the last": OK + b"0\r\n\r\n",
    "a length": LENGTH,
    "no content": b"HTTP/1.1 204 No\r\n\r\n",
    "an interim response": b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH,
}


class Wire(asyncio.Transport):
    """A connection that only notes whether it was closed."""

    is_open = True

    def close(self) -> None:
        """Close it."""
        self.is_open = False

    abort = close

    def is_closing(self) -> bool:
        """Whether it is closed."""
        return not self.is_open

    def pause_reading(self) -> None:
        """Do nothing."""

    resume_reading = pause_reading


@pytest.fixture
def loop_without_network() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that never runs."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def after(loop: asyncio.AbstractEventLoop, *pieces: bytes) -> tuple[bool, bool]:
    """Return whether the response has ended, and whether the connection is open, after these reads.

    After each, aiohttp reads on, which it does by a read of nothing.
    """
    wire, connection = Wire(), _Connection(loop, memoryview(b""))
    connection.connection_made(wire)
    parameters: dict[str, Any] = {"timer": None, "read_until_eof": True}
    connection.set_response_params(**parameters)
    for piece in pieces:
        if wire.is_open:
            connection.data_received(piece)
            connection.data_received(b"")
    return connection._is_idle, wire.is_open


def all_reads(data: bytes) -> Iterator[list[bytes]]:
    """Return the data in one read, in two and three around each pair of places, and byte by byte."""
    ends = [*range(len(data) + 1)]
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for cut, width in itertools.product(ends, (0, 1, 2)):
        yield [piece for piece in (data[:cut], data[cut : cut + width], data[cut + width :]) if piece]


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
def test_a_response(loop_without_network: asyncio.AbstractEventLoop, response: bytes) -> None:
    """A response ends with its last byte, and its connection stays open."""
    found = {after(loop_without_network, *reads) for reads in all_reads(response)}
    assert found == {(True, True)}


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
def test_before_its_end(loop_without_network: asyncio.AbstractEventLoop, response: bytes) -> None:
    """A response has not ended one byte before its last."""
    found = {after(loop_without_network, *reads) for reads in all_reads(response[:-1])}
    assert found == {(False, True)}


@pytest.mark.parametrize(
    "surplus",
    [b"\r\n", b"H", OK, b"\0\xff\0\0"],
    ids=["a line break", "a byte", "a response", "invalid bytes"],
)
@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
def test_surplus(loop_without_network: asyncio.AbstractEventLoop, response: bytes, surplus: bytes) -> None:
    """A byte after a response closes the connection."""
    found = {after(loop_without_network, *reads) for reads in all_reads(response + surplus)}
    assert found == {(True, False)}
