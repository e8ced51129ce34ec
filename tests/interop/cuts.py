"""A proxy between a client and a real server that cuts connections at chosen moments.

Rule 1: it counts bytes and seconds, and knows no HTTP; each connection in turn has its `Cut`.
Rule 2: connections beyond the cuts are passed on unchanged.
Rule 3: a proxy ends with its block, and so do its connections.
"""

from __future__ import annotations

import math
import socket
import struct
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc
import attrs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["BUSY", "Cut", "Line", "line"]

BUSY: Final = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\nretry-after: 0\r\nconnection: close\r\n\r\n"
"""The response in place of a busy server's."""


@attrs.frozen(kw_only=True)
class Cut:
    """When and how a connection is cut."""

    sent: float = math.inf
    """After so many bytes from the client."""
    received: float = math.inf
    """After so many bytes from the server."""
    said: bytes = b""
    """After this text from the server, and `further` bytes."""
    further: int = 0
    seconds: float = math.inf
    """After so many seconds."""
    reset: bool = False
    """By a reset; otherwise by an orderly end."""
    deaf: bool = False
    """Only the client's side is closed: the server sends on."""
    instead: bytes = b""
    """Not cut: the client gets this response, and the server no request."""


class Line:
    """A proxy for a server on loopback."""

    def __init__(
        self, server_port: int, cuts: tuple[Cut, ...], tasks: anyio.abc.TaskGroup, held: socket.socket
    ) -> None:
        self.connections = 0
        """The number of connections."""
        self.cut = 0
        """The number of cut connections."""
        self._server_port = server_port
        self._cuts = deque(cuts)
        self._tasks = tasks
        self._port: int = held.getsockname()[1]

    @property
    def url(self) -> str:
        """The `server_url` for clients."""
        return f"http://127.0.0.1:{self._port}"

    async def open(self) -> None:
        """Accept connections from now on; before, they are refused."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self._port)

        async def listen() -> None:
            async with listener:
                await listener.serve(self._converse)

        self._tasks.start_soon(listen)

    async def _converse(self, client: anyio.abc.SocketStream) -> None:
        cut = self._cuts.popleft() if self._cuts else Cut()
        self.connections += 1
        async with client:
            if cut.instead:
                await _answer(client, cut.instead)
                return
            async with await anyio.connect_tcp("127.0.0.1", self._server_port) as server:
                if not await _pass_on(client, server, cut):
                    return
                self.cut += 1
                await _end(client, reset=cut.reset)
                if cut.deaf:
                    with suppress(anyio.BrokenResourceError):
                        async for _ in server:
                            pass
                await _end(server, reset=cut.reset)


@asynccontextmanager
async def line(server_port: int, *cuts: Cut, shut: bool = False) -> AsyncGenerator[Line, None]:
    """Yield a proxy for this server whose first connections have these `cuts`; `shut`: not open yet."""
    with socket.socket() as held:  # the port is taken, and refuses connections until it listens
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        async with anyio.create_task_group() as tasks:
            made = Line(server_port, cuts, tasks, held)
            if not shut:
                await made.open()
            yield made
            tasks.cancel_scope.cancel()


async def _pass_on(client: anyio.abc.SocketStream, server: anyio.abc.SocketStream, cut: Cut) -> bool:
    """Pass on bytes in both directions; return True at the cut, False if one side closed before."""
    deadline = anyio.current_time() + cut.seconds
    came = False

    async def one_way(source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream, gate: _Gate) -> None:
        nonlocal came
        with suppress(anyio.BrokenResourceError):
            async for piece in source:
                if part := gate.let_through(piece):
                    await sink.send(part)
                if gate.is_shut:
                    came = True
                    break
        both.cancel_scope.cancel()

    async with anyio.create_task_group() as both:
        both.cancel_scope.deadline = deadline
        both.start_soon(one_way, client, server, _Gate(cut.sent))
        both.start_soon(one_way, server, client, _Gate(cut.received, cut.said, cut.further))
    return came or anyio.current_time() >= deadline


@attrs.define
class _Gate:
    """Passes so many bytes, or all up to a text and some more."""

    _left: float
    _words: bytes = b""
    _further: int = 0
    _before: bytes = b""

    @property
    def is_shut(self) -> bool:
        return self._left <= 0

    def let_through(self, piece: bytes) -> bytes:
        """Return the part of `piece` that may pass."""
        if self._words:
            seen = self._before + piece
            begin = seen.find(self._words)
            if begin >= 0:
                self._left = min(self._left, begin + len(self._words) - len(self._before) + self._further)
                self._words = b""
            else:
                self._before = seen[len(seen) - min(len(seen), len(self._words) - 1) :]
        part = piece[: int(min(self._left, len(piece)))]
        self._left -= len(part)
        return part


async def _answer(client: anyio.abc.SocketStream, answer: bytes) -> None:
    """Read a request to its end, and answer it."""
    heard = b""
    with suppress(anyio.BrokenResourceError):
        async for piece in client:
            heard += piece
            head, end, body = heard.partition(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            if end and len(body) >= int(length or 0):
                await client.send(answer)
                return


async def _end(stream: anyio.abc.SocketStream, *, reset: bool) -> None:
    """Close a connection."""
    if reset:
        raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()
