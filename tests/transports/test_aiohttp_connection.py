"""The connections and requests of the transport over aiohttp, without a socket: reads, pauses, closing, one write."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import attrs
import pytest
from yarl import URL

from oxygent_client.transports.aiohttp import _Connection, _Request

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


@attrs.define
class Fake:
    """A transport of asyncio's that records its calls."""

    told: list[str] = attrs.field(factory=list[str])
    written: list[bytes] = attrs.field(factory=list[bytes])
    is_closed: bool = False

    def write(self, data: bytes) -> None:
        """Record what is written."""
        self.written.append(data)

    def is_closing(self) -> bool:
        """Return whether nothing can be written any more."""
        return self.is_closed

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self.told.append(name)

    def get_extra_info(self, _: str) -> None:
        """Return None, as a transport without information."""


INTERIM = b"HTTP/1.1 103 Early Hints\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


def played(play: Callable[[_Connection], Coroutine[Any, Any, None]]) -> list[str]:
    """Return the calls of a connection on its transport while a request is answered."""

    async def main() -> list[str]:
        fake: Any = Fake()
        connection = _Connection(loop=asyncio.get_running_loop(), memory=memoryview(b""))
        connection.connection_made(fake)
        connection.set_response_params(timer=aiohttp.helpers.TimerNoop())
        await play(connection)
        told: list[str] = fake.told
        return told

    return asyncio.run(main())


def test_interim_responses() -> None:
    """After an interim response, reading pauses for one turn of the loop, and nothing of it is kept."""

    async def play(connection: _Connection) -> None:
        for _ in range(2):
            connection.data_received(INTERIM * 100)
            await asyncio.sleep(0)
        assert len(connection) == 0

    assert played(play) == ["pause_reading", "resume_reading"] * 2


def test_closed_in_that_turn() -> None:
    """A connection that was closed in that turn does not resume reading."""

    async def play(connection: _Connection) -> None:
        connection.data_received(INTERIM)
        connection.close()
        await asyncio.sleep(0)

    assert played(play) == ["pause_reading", "abort", "close"]


@pytest.mark.parametrize(
    ("behind", "expected"), [(b"", []), (b"\r\n", ["close"]), (b"x", ["close"])], ids=["nothing", "a line", "a byte"]
)
def test_data_after_a_response(behind: bytes, expected: list[str]) -> None:
    """Data after a response closes the connection; an empty read does not."""

    async def play(connection: _Connection) -> None:
        connection.data_received(EMPTY)
        connection.data_received(behind)
        assert len(connection) == 1

    assert played(play) == expected


def test_reading_on() -> None:
    """The connection reads on after a pause, and only then."""

    async def play(connection: _Connection) -> None:
        connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n12")
        connection.resume_reading()
        connection.pause_reading()
        connection.resume_reading()
        connection.resume_reading(resume_parser=False)

    assert played(play) == ["pause_reading", "resume_reading"]


def test_connections_that_read_into_the_same_memory() -> None:
    """What one connection reads does not change what another has read into the same memory before."""

    async def main() -> list[bytes]:
        memory = memoryview(bytearray(100))
        bodies = list[aiohttp.StreamReader]()
        for text in (b"one", b"two"):
            fake: Any = Fake()
            connection = _Connection(asyncio.get_running_loop(), memory)
            connection.connection_made(fake)
            connection.set_response_params(timer=aiohttp.helpers.TimerNoop(), read_until_eof=True)
            received = b"HTTP/1.1 200 OK\r\n\r\n" + text
            connection.get_buffer(-1)[: len(received)] = received
            connection.buffer_updated(len(received))
            bodies.append((await connection.read())[1])
        return [await body.readany() for body in bodies]

    assert asyncio.run(main()) == [b"one", b"two"]


def test_a_head_that_cannot_be_parsed() -> None:
    """Data after a head that cannot be parsed is not parsed, and the transport is closed."""

    async def play(connection: _Connection) -> None:
        connection.data_received(b"nonsense\r\n\r\nnonsense")
        assert connection.exception() is not None

    assert "close" in played(play)


CHUNKED: Final = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n"
NEWS: Final[dict[str, Callable[[_Connection], None]]] = {
    "bytes": lambda connection: connection.data_received(b"1\r\n6\r\n"),
    "the end": lambda connection: connection.data_received(b"0\r\n\r\n"),
    "nonsense": lambda connection: connection.data_received(b"x\r\n"),
    "the end of the connection": lambda connection: connection.connection_lost(None),
    "a reset": lambda connection: connection.connection_lost(ConnectionResetError()),
}


@pytest.mark.parametrize("news", NEWS.values(), ids=NEWS)
@pytest.mark.parametrize("is_cancelled", [False, True], ids=["waiting", "cancelled"])
def test_news_of_a_body(news: Callable[[_Connection], None], is_cancelled: bool) -> None:
    """A reader that waits for news of a body is woken by each, once; a wait that was cancelled is left alone."""

    async def play(connection: _Connection) -> None:
        connection.data_received(CHUNKED)
        _, body = await connection.read()
        assert connection.body is body
        waiting = connection.news()
        if is_cancelled:
            waiting.cancel()
        assert waiting.done() is is_cancelled
        news(connection)
        assert waiting.done()
        connection.data_received(b"")
        assert (connection.body is body) is (news is NEWS["bytes"])

    played(play)


def test_two_readers_of_a_body() -> None:
    """The second is refused, so the first is woken; a wait that was cancelled is no reader."""

    async def play(connection: _Connection) -> None:
        connection.data_received(CHUNKED)
        await connection.read()
        connection.news().cancel()
        waiting = connection.news()
        with pytest.raises(RuntimeError, match="reading"):
            _ = connection.news()
        connection.data_received(b"1\r\n6\r\n")
        assert waiting.done()

    played(play)


@attrs.define
class Used:
    """A connection of aiohttp's in use by a request; the request asks its connector whether it is kept."""

    protocol: _Connection
    force_close: bool = False

    @property
    def _connector(self) -> Used:
        return self


@pytest.mark.parametrize("is_paused", [False, True], ids=["writing", "paused"])
@pytest.mark.parametrize("body", [b"", b"1", b"1" * 70_000], ids=len)
def test_one_write(body: bytes, is_paused: bool) -> None:
    """Head and body are written at once, also while writing pauses; later writes are the transport's own."""

    async def play(connection: _Connection) -> None:
        transport: Any = connection.transport
        if is_paused:
            connection.pause_writing()
        names = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "tests", "content-type": "text/plain"}
        request = _Request(
            "POST",
            URL("http://agents.test/sse/chat"),
            headers={"x-one": "1", **names},
            data=body,
            loop=asyncio.get_running_loop(),
        )
        before = len(asyncio.all_tasks())
        await request.send(Used(connection))
        if is_paused:
            await asyncio.sleep(0)
            connection.resume_writing()
        else:
            assert len(asyncio.all_tasks()) == before
        await request.close()
        (written,) = transport.written
        head, end, rest = written.partition(b"\r\n\r\n")
        assert b"content-length: %d" % len(body) in head.lower()
        assert (end, rest) == (b"\r\n\r\n", body)
        assert connection.transport is transport

    played(play)


@pytest.mark.parametrize("is_noticed", [False, True], ids=["closing", "lost"])
def test_a_connection_that_is_lost_before_the_write(is_noticed: bool) -> None:
    """The request fails at once, nothing is written, and the connection can be closed."""

    async def play(connection: _Connection) -> None:
        transport: Any = connection.transport
        transport.is_closed = True
        if is_noticed:
            connection.connection_lost(None)
        request = _Request("POST", URL("http://agents.test"), headers={}, data=b"1", loop=asyncio.get_running_loop())
        with pytest.raises(aiohttp.ClientConnectionResetError):
            await request.send(Used(connection))
        connection.close()
        assert transport.written == []
        assert ("abort" in transport.told) is not is_noticed

    played(play)
