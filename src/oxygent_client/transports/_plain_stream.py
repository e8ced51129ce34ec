"""Read and write connections without TLS on asyncio, below httpx or httpx2.

The libraries' own stream enters two context managers for each read and write, lets other tasks run before it does
either, pauses reading after each, and has 256 KiB allocated for it: a fifth of the time of a short call. And it sends
the head of a request and its body one by one, for which the system and the server take as long again. Connections are
made and described by that stream; only its bytes take another way.

Rule 1: no byte is lost if a read is cancelled: it waits in the stream for the next read.
Rule 2: pull only: beyond BUFFERED bytes that are not read, reading pauses. A write ends when the system has its bytes;
    less than HELD bytes wait for the next write, for a read, or for the end of the event loop's turn.
Rule 3: no time-out: those of the libraries are not used (`_httpx_base`, rule 3).
Rule 4: if an attribute of anyio is missing, the library's stream is used.
"""

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import Callable
from typing import Any, Final

from oxygent_client.transports._sockets import is_readable

READ_BYTES: Final = 64 * 1024
BUFFERED: Final = READ_BYTES
HELD: Final = 16 * 1024
"""Pieces of less are sent together; that takes a copy, which is too dear for a large body."""


class _Protocol(asyncio.BufferedProtocol):
    """What one connection has received, and whether it takes more.

    The connections of a client read into the same memory, one after the other.
    """

    __slots__ = (
        *("_chunks", "_held", "_loop", "_memory", "_reader", "_size", "_transport", "_writer"),
        *("error", "is_lost", "is_over"),
    )

    def __init__(self, transport: asyncio.Transport, memory: memoryview) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._memory = memory
        self._reader: asyncio.Future[None] | None = None  # while a read waits
        self._writer: asyncio.Future[None] | None = None  # while the system takes no more
        self._size = 0
        self._chunks: list[bytes] = []  # received, and not read
        self._held = b""  # written, and not sent
        self.is_over = False
        """Whether no more bytes will be received."""
        self.is_lost = False
        """Whether the connection is gone, by this side or by the other."""
        self.error: Exception | None = None
        """Why the connection was lost."""

    def take_over(self, former: Any) -> None:
        """Take over from anyio's protocol, which may have received bytes, the end, or the loss of the connection."""
        for chunk in former.read_queue:
            self._keep(chunk)
        self.is_lost = self._transport.is_closing()
        self.is_over = former.is_at_eof or self.is_lost
        self.error = former.exception
        self._transport.set_protocol(self)
        self._transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the memory into which asyncio reads."""
        return self._memory

    def buffer_updated(self, nbytes: int) -> None:
        """Keep so many bytes that were read."""
        self._keep(bytes(self._memory[:nbytes]))
        if self._size > BUFFERED:
            self._transport.pause_reading()
        _wake(self._reader)

    def _keep(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._size += len(chunk)

    def eof_received(self) -> bool:
        """Note the end; the other direction stays open."""
        self.is_over = True
        _wake(self._reader)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end of both directions."""
        self.is_over = self.is_lost = True
        self.error = exc
        self._held = b""  # uvloop refuses to write then
        _wake(self._reader)
        _wake(self._writer)

    def pause_writing(self) -> None:
        """Let the next write wait."""
        self._writer = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let it go on."""
        writer, self._writer = self._writer, None
        _wake(writer)

    @property
    def has_news(self) -> bool:
        """Whether a read would not wait."""
        return bool(self._chunks) or self.is_over

    async def read(self) -> bytes:
        """Wait for bytes, and return them; empty at the end."""
        if self._held:
            self._send()
        if not self.has_news:
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        if not self._chunks:
            return b""
        chunk = self._chunks.pop(0)
        self._size -= len(chunk)
        if not self._chunks and not self._transport.is_reading():
            self._transport.resume_reading()
        return chunk

    async def write(self, data: bytes) -> None:
        """Send these bytes, perhaps a moment later; wait until the system has those before."""
        if len(data) >= HELD:
            self._send()
            self._transport.write(data)
        else:
            if not self._held:
                self._loop.call_soon(self._send)
            self._held += data
            if len(self._held) >= HELD:
                self._send()
        if self._writer is not None:
            await self._writer

    def _send(self) -> None:
        held, self._held = self._held, b""
        if held:
            self._transport.write(held)

    def abort(self) -> None:
        """Close the connection, and send nothing more."""
        self._held = b""
        self._transport.abort()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _protocol_of(made: Any, memory: memoryview) -> _Protocol | None:
    """Return a protocol that has taken over the library's stream; None if anyio has other attributes."""
    stream: Any = getattr(made, "_stream", None)
    transport, former = getattr(stream, "_transport", None), getattr(stream, "_protocol", None)
    if transport is None or former is None:
        return None
    protocol = _Protocol(transport, memory)
    protocol.take_over(former)
    stream._protocol = protocol  # noqa: SLF001  (the former one has queues and events of 2.5 KB)
    return protocol


@functools.cache
def plain_backend(core: types.ModuleType) -> Callable[[], Any]:
    """Return the class of network backends; `core` is `httpcore` or `httpcore2`."""
    library: Any = core

    class PlainStream(library.AsyncNetworkStream):  # type: ignore[misc]  # the library is an argument
        """A stream of the library, whose bytes are read and written here."""

        def __init__(self, made: Any, protocol: _Protocol) -> None:
            self._made = made
            self._protocol = protocol
            self._socket = made.get_extra_info("socket")
            self.is_closed = False
            """Whether it was closed here; its socket is, with the next turn of the event loop."""

        async def read(self, max_bytes: int, **_options: Any) -> bytes:
            """Return at most READ_BYTES, whatever `max_bytes` is; it is as much."""
            chunk = await self._protocol.read()
            if not chunk and (self.is_closed or self._protocol.error is not None):
                raise library.ReadError from self._protocol.error
            return chunk

        async def write(self, buffer: bytes, **_options: Any) -> None:
            """As the library's."""
            if buffer and not self._protocol.is_lost:
                await self._protocol.write(buffer)
            if self._protocol.is_lost:
                raise library.WriteError from self._protocol.error

        async def aclose(self) -> None:
            """As the library's, without waiting."""
            self.is_closed = True
            self._protocol.abort()

        def get_extra_info(self, info: str) -> Any:
            """As the library's, in less time for what each request asks."""
            if info == "ssl_object":
                return None
            if info == "socket":
                return self._socket
            if info == "is_readable":
                return self._protocol.has_news or is_readable(self._socket)
            return self._made.get_extra_info(info)

    class PlainBackend(library.AnyIOBackend):  # type: ignore[misc]  # the library is an argument
        """Makes connections as the library does."""

        def __init__(self) -> None:
            self._memory = memoryview(bytearray(READ_BYTES))

        async def connect_tcp(self, *arguments: Any, **options: Any) -> Any:
            """As the library's."""
            return self._plain(await library.AnyIOBackend.connect_tcp(self, *arguments, **options))

        def _plain(self, made: Any) -> Any:
            protocol = _protocol_of(made, self._memory)
            return made if protocol is None else PlainStream(made, protocol)

    return PlainBackend
