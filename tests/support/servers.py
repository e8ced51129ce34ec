"""A raw server on loopback, in the test's event loop: it sends scripted bytes, and records requests and closes.

Rule 1: it knows nothing of HTTP but the end of a request; responses are bytes of the test's own.
Rule 2: a server ends with its block, and so do its connections.
Rule 3: time is real, so tests wait for events, not for seconds.
"""

from __future__ import annotations

import socket
import ssl
import struct
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc
import attrs
from anyio.streams.tls import TLSListener

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

__all__ = ["CLOSE", "LAST", "OK", "Conversation", "Received", "Server", "chunk", "closed_port", "play", "serving"]

OK: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"connection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n"
)
"""The head of a stream, as a real server sends it."""
LAST: Final = b"0\r\n\r\n"
"""The end of a chunked body."""


class CLOSE:
    """A step of `play`: close the connection."""


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@attrs.frozen
class Received:
    """One request as received."""

    line: str
    headers: dict[str, str]
    body: bytes


@attrs.define
class Conversation:
    """One connection at the server."""

    _stream: anyio.abc.ByteStream
    _server: Server
    _kept: bytes = b""

    async def request(self) -> Received | None:
        """Return the next request; None if the client has closed."""
        while b"\r\n\r\n" not in self._kept:
            if not await self._more():
                return None
        head, _, rest = self._kept.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        headers: dict[str, str] = {}
        for each in lines:
            name, _, value = each.partition(": ")
            before = headers.get(name.lower())
            headers[name.lower()] = value if before is None else f"{before}, {value}"
        length = int(headers.get("content-length", "0"))
        self._kept = rest
        while len(self._kept) < length:
            if not await self._more():
                return None
        body, self._kept = self._kept[:length], self._kept[length:]
        received = Received(line, headers, body)
        self._server.take(received)
        return received

    async def some(self) -> bytes:
        """Return the next bytes; empty if the client has closed."""
        if not self._kept and not await self._more():
            return b""
        data, self._kept = self._kept, b""
        return data

    async def _more(self) -> bool:
        try:
            self._kept += await self._stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return False
        return True

    async def send(self, data: bytes) -> None:
        """Send at once."""
        await self._stream.send(data)

    async def client_left(self) -> None:
        """Wait until the client has closed the connection."""
        while await self._more():
            pass

    async def close(self) -> None:
        """Close the connection in an orderly way."""
        await self._stream.aclose()

    async def reset(self) -> None:
        """Reset the connection."""
        raw = self._stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self._stream.aclose()


@attrs.define
class Server:
    """A running server."""

    port: int = 0
    scheme: str = "http"
    connections: int = 0
    """The number of connections."""
    requests: list[Received] = attrs.field(factory=list[Received])
    """All requests, in order."""

    _waited_for: dict[int, anyio.Event] = attrs.field(factory=dict[int, anyio.Event])

    def take(self, request: Received) -> None:
        """Record a request."""
        self.requests.append(request)
        if (event := self._waited_for.get(len(self.requests))) is not None:
            event.set()

    async def have_come(self, requests: int) -> None:
        """Wait until so many requests were received."""
        if len(self.requests) < requests:
            await self._waited_for.setdefault(requests, anyio.Event()).wait()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"{self.scheme}://127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(
    handle: Callable[[Conversation], Awaitable[None]],
    *,
    tls: ssl.SSLContext | None = None,
    unix_socket: Path | None = None,
) -> AsyncGenerator[Server, None]:
    """Yield a server that runs `handle` for each connection."""
    server = Server(scheme="https" if tls else "http")

    async def converse(stream: anyio.abc.ByteStream) -> None:
        server.connections += 1
        async with stream:
            # The client may close at any time.
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError):
                await handle(Conversation(stream, server))

    async def refused(error: BaseException, stream: anyio.abc.AnyByteStream) -> None:
        """Ignore a failed handshake: the client's error is tested."""
        await anyio.aclose_forcefully(stream)

    plain: anyio.abc.Listener[anyio.abc.SocketStream]
    if unix_socket is None:
        plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
        server.port = plain.extra(anyio.abc.SocketAttribute.local_port)
    else:
        plain = await anyio.create_unix_listener(unix_socket)
    listener: anyio.abc.Listener[anyio.abc.ByteStream] = plain
    if tls:
        quiet = type("Quiet", (TLSListener,), {"handle_handshake_error": staticmethod(refused)})
        listener = quiet(plain, tls, standard_compatible=False)
    async with plain, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, converse)
        yield server
        tasks.cancel_scope.cancel()


def play(*replies: bytes | list[bytes | type[CLOSE] | anyio.Event]) -> Callable[[Conversation], Awaitable[None]]:
    """Return a handler that answers each request with the next of `replies`, and later ones with the last.

    A reply is bytes, or steps: bytes to send, an event to wait for, `CLOSE`. Requests are counted over all connections.
    """
    count = 0

    async def handle(conversation: Conversation) -> None:
        nonlocal count
        while await conversation.request() is not None:
            reply = replies[min(count, len(replies) - 1)]
            count += 1
            for step in [reply] if isinstance(reply, bytes) else reply:
                if isinstance(step, bytes):
                    await conversation.send(step)
                elif isinstance(step, anyio.Event):
                    await step.wait()
                else:
                    await conversation.close()
                    return

    return handle


def closed_port() -> int:
    """Return a loopback port without a listener."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
