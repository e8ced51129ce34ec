"""Connections without TLS below httpx and httpx2, on asyncio: what is read, written, waited for and told."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import attrs
import httpcore
import httpcore2
import pytest
import uvloop

from oxygent_client import HTTPRequest, HTTPXTransport
from oxygent_client.testing import answer, close
from oxygent_client.transports._plain_stream import BUFFERED, HELD, READ_BYTES, _Protocol, plain_backend
from oxygent_client.transports.httpx2 import HTTPX2Transport
from tests.support.servers import LAST, OK, chunk, play, serving

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from oxygent_client import Transport


CORES: Final = pytest.mark.parametrize("core", [httpcore, httpcore2], ids=["httpcore", "httpcore2"])
Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(core: Any) -> AsyncGenerator[tuple[Any, asyncio.StreamReader, asyncio.StreamWriter]]:
    """Yield a stream, and the other side of its connection."""
    peers = asyncio.Queue[Peer]()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peers.put((reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    stream = await plain_backend(core)().connect_tcp("127.0.0.1", server.sockets[0].getsockname()[1], timeout=10)
    reader, writer = await peers.get()
    try:
        yield stream, reader, writer
    finally:
        await stream.aclose()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        server.close()


def run(
    core: Any, test: Callable[[Any, asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
) -> None:
    """Run a test with a stream and the other side."""

    async def main() -> None:
        async with asyncio.timeout(20), connected(core) as (stream, reader, writer):
            await test(stream, reader, writer)

    asyncio.run(main())


@CORES
def test_both_directions(core: Any) -> None:
    """What one side writes the other reads, until its end; the other direction stays open."""

    async def both(stream: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await stream.write(b"")
        await stream.write(b"one")
        assert await reader.read(100) == b"one"
        writer.write(b"two")
        assert await stream.read(READ_BYTES) == b"two"
        writer.write_eof()
        assert await stream.read(READ_BYTES) == b""
        await stream.write(b"three")
        assert await reader.read(100) == b"three"

    run(core, both)


@CORES
def test_a_cancelled_read(core: Any) -> None:
    """A read that is cancelled loses no bytes."""

    async def cancel(stream: Any, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reading = asyncio.ensure_future(stream.read(READ_BYTES))
        await asyncio.sleep(0)
        stream._protocol._memory[:3] = b"one"
        stream._protocol.buffer_updated(3)
        reading.cancel()
        await asyncio.wait({reading})
        assert reading.cancelled()
        writer.write(b"two")
        assert await stream.read(READ_BYTES) == b"one"
        assert await stream.read(READ_BYTES) == b"two"

    run(core, cancel)


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ([b"head", b"body"], [b"headbody"]),
        ([b"head", bytes(HELD)], [b"head", bytes(HELD)]),
        ([b"head", bytes(HELD), b"more", b"end"], [b"head", bytes(HELD), b"moreend"]),
        ([bytes(HELD), bytes(HELD)], [bytes(HELD), bytes(HELD)]),
        ([b"head", bytes(HELD - 1), b"more"], [b"head" + bytes(HELD - 1), b"more"]),
        ([b""], []),
    ],
    ids=["a small body", "a large body", "after a large piece", "large pieces", "many pieces", "nothing"],
)
@pytest.mark.parametrize("then", ["a read", "another turn", "the end"])
def test_small_writes(written: list[bytes], sent: list[bytes], then: str) -> None:
    """What is written in one turn is sent together, at its end at the latest; what is unsent at the end never is."""

    async def main() -> list[bytes]:
        fake: Any = Fake()
        protocol = _Protocol(fake, memoryview(bytearray(READ_BYTES)))
        for data in written:
            await protocol.write(data)
        if then == "a read":
            protocol.eof_received()
            await protocol.read()
        elif then == "the end":
            protocol.abort()
        if then != "a read":
            await asyncio.sleep(0)
        assert fake.told == ["write"] * len(fake.written) + ["abort"] * (then == "the end")
        found: list[bytes] = fake.written
        return found

    unsent = then == "the end" and bool(sent) and len(sent[-1]) < HELD
    assert asyncio.run(main()) == (sent[:-1] if unsent else sent)


def test_a_large_body_is_not_copied() -> None:
    """The piece that is sent is the one that was written."""

    async def main() -> bool:
        fake: Any = Fake()
        protocol, body = _Protocol(fake, memoryview(bytearray(READ_BYTES))), bytes(HELD)
        for data in (b"head", body):
            await protocol.write(data)
        return fake.written[-1] is body

    assert asyncio.run(main())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["the usual", "uvloop"])
@CORES
def test_a_loss_before_small_writes_are_sent(core: Any, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Bytes that wait when the connection is lost are dropped, and the event loop has nothing to report."""
    reported = list[object]()

    async def lose() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        async with asyncio.timeout(20), connected(core) as (stream, _, _):
            stream._protocol._transport.abort()
            await stream.write(b"hello")
            assert stream._protocol._held == b"hello"
            for _ in range(3):
                await asyncio.sleep(0)
            assert stream._protocol._held == b""
            with pytest.raises(core.WriteError):
                await stream.write(b"more")

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(lose())
    assert reported == []


@CORES
def test_a_large_body(core: Any) -> None:
    """A write ends when the system has the bytes: not before the other side reads."""

    async def large(stream: Any, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        body = bytes(20_000_000)
        writing = asyncio.ensure_future(stream.write(body))
        await asyncio.sleep(0)
        assert not writing.done()
        assert await reader.readexactly(len(body)) == body
        await writing

    run(core, large)


@CORES
def test_a_slow_reader(core: Any) -> None:
    """A slow reader slows the sender, and gets everything."""

    async def slow(stream: Any, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = bytes(20_000_000)
        writer.write(body)
        while stream._protocol._transport.is_reading():  # noqa: ASYNC110  (there is no event for it)
            await asyncio.sleep(0)
        assert stream._protocol._size <= BUFFERED + READ_BYTES
        received = 0
        while received < len(body):
            piece = await stream.read(READ_BYTES)
            assert len(piece) <= READ_BYTES
            received += len(piece)

    run(core, slow)


@CORES
def test_a_lost_connection(core: Any) -> None:
    """After a reset, reading and writing fail with the library's errors, whose cause is the system's."""

    async def reset(stream: Any, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        linger = struct.pack("ii", 1, 0)  # closing resets
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
        with pytest.raises(core.ReadError) as caught:
            await stream.read(READ_BYTES)
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        with pytest.raises(core.WriteError):
            await stream.write(b"one")

    run(core, reset)


@CORES
def test_a_write_that_waits_when_the_connection_is_lost(core: Any) -> None:
    """A write that waits fails when the connection is closed."""

    async def close_it(stream: Any, *_: object) -> None:
        writing = asyncio.ensure_future(stream.write(bytes(20_000_000)))
        await asyncio.sleep(0)
        await stream.aclose()
        with pytest.raises(core.WriteError):
            await writing
        with pytest.raises(core.ReadError):
            await stream.read(READ_BYTES)

    run(core, close_it)


@CORES
def test_what_is_told_of_a_connection(core: Any) -> None:
    """A stream describes its connection as the library's own does."""

    async def describe(stream: Any, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for name in ("ssl_object", "socket", "server_addr", "client_addr", "is_readable", "unknown"):
            assert stream.get_extra_info(name) == stream._made.get_extra_info(name)
        writer.write(b"one")
        while not stream._protocol.has_news:
            assert isinstance(stream.get_extra_info("is_readable"), bool)
            await asyncio.sleep(0)
        assert stream.get_extra_info("is_readable") is True

    run(core, describe)


@attrs.define
class Fake:
    """A transport of asyncio's that records its calls."""

    told: list[str] = attrs.field(factory=list[str])
    closing: bool = False
    written: list[bytes] = attrs.field(factory=list[bytes])

    def write(self, data: bytes) -> None:
        """Keep what is sent."""
        self.told.append("write")
        self.written.append(data)

    def is_reading(self) -> bool:
        """Whether reading is not paused."""
        return self.told[-1:] != ["pause_reading"]

    def is_closing(self) -> bool:
        """Whether the connection is gone."""
        return self.closing

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self.told.append(name)


def test_pausing() -> None:
    """Reading pauses beyond the limit, and goes on when all was read."""

    async def main() -> list[str]:
        fake: Any = Fake()
        protocol = _Protocol(fake, memoryview(bytearray(READ_BYTES)))
        for _ in range(3):
            protocol.buffer_updated(BUFFERED // 2)
        for _ in range(3):
            await protocol.read()
        told: list[str] = fake.told
        return told

    assert asyncio.run(main()) == ["pause_reading", "resume_reading"]


@attrs.define
class Former:
    """A protocol of anyio's, and what it has received."""

    read_queue: list[bytes]
    is_at_eof: bool
    exception: Exception | None


@pytest.mark.parametrize(
    ("received", "is_at_eof", "is_closing"),
    [
        ([], False, False),
        ([b"one", b"two"], False, False),
        ([b"one"], True, False),
        ([], True, False),
        ([b"one"], False, True),
    ],
    ids=["nothing", "bytes", "bytes and the end", "the end", "bytes and the loss"],
)
def test_what_came_before(received: list[bytes], is_at_eof: bool, is_closing: bool) -> None:
    """Bytes, an end and a loss that anyio's protocol was told of are those of the new one."""

    async def main() -> list[bytes]:
        fake: Any = Fake(closing=is_closing)
        protocol = _Protocol(fake, memoryview(bytearray(READ_BYTES)))
        protocol.take_over(Former(received, is_at_eof, None))
        assert fake.told == ["set_protocol", "resume_reading"]
        assert protocol.is_lost is is_closing
        chunks = [await protocol.read() for _ in received]
        if protocol.is_over:
            chunks.append(await protocol.read())
        return chunks

    over = [b""] if is_at_eof or is_closing else []
    assert asyncio.run(main()) == received + over


@CORES
def test_a_server_that_speaks_first(core: Any) -> None:
    """What a server sends at once, and its end, are read."""

    async def main() -> bytes:
        async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"first")
            writer.close()
            await writer.wait_closed()

        async with asyncio.timeout(20), await asyncio.start_server(speak, "127.0.0.1", 0) as server:
            stream = await plain_backend(core)().connect_tcp(
                "127.0.0.1", server.sockets[0].getsockname()[1], timeout=10
            )
            received = b""
            while chunk := await stream.read(READ_BYTES):
                received += chunk
            await stream.aclose()
        return received

    assert asyncio.run(main()) == b"first"


@CORES
def test_an_unknown_stream(core: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of the library that has other attributes is used as it is."""
    made = object()

    async def connect_tcp(*_: object, **__: object) -> object:
        return made

    monkeypatch.setattr(core.AnyIOBackend, "connect_tcp", connect_tcp)
    assert asyncio.run(plain_backend(core)().connect_tcp("127.0.0.1", 1)) is made


@pytest.mark.parametrize("make", [HTTPXTransport, HTTPX2Transport], ids=["httpx", "httpx2"])
async def test_the_transports_use_it(make: Callable[[], Transport], anyio_backend_name: str) -> None:
    """A plain connection of a transport of ours is such a stream on asyncio."""
    async with serving(play(OK + chunk(answer("42")) + chunk(close()) + LAST)) as server:
        transport = make()
        async with transport.exchange(HTTPRequest("POST", server.url, "/sse/chat")) as response:
            body: Any = response.chunks
            assert (type(body.stream).__name__ == "PlainStream") == (anyio_backend_name == "asyncio")
        await transport.aclose()
