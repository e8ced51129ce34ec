"""Servers and scenarios for `check_transport`.

Rule 1: a scenario is a value. A server, an ASGI application and the replies of a `FakeTransport` perform it alike, so
    one table of checks serves every kind of transport.
Rule 2: each of them records the requests, and when each exchange ended, for any reason.
Rule 3: the server listens on loopback only, and closes connections with invalid requests.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final, Literal
from urllib.parse import quote, unquote, urlsplit

import anyio
import attrs

from oxygent_client._core.errors import ConnectionLostError
from oxygent_client._core.transport import HTTPRequest
from oxygent_client.testing._asgi import Message, Receive, Send, cancel_on_disconnect, read_body
from oxygent_client.testing._fake_transport import Reply, Wait, wait

LOOPBACK: Final = "127.0.0.1"
SMALL_BUFFER: Final = 64 * 1024
"""Size of the sockets' send buffers, so that a slow reader makes the server wait."""
NO_LINGER: Final = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
"""Makes closing a socket reset its connection."""


CLOSED: Final = ConnectionLostError("the connection was closed, as scripted")
RESET: Final = ConnectionLostError("the connection was reset, as scripted")
"""Steps that break the connection. In process there is no difference."""

Framing = Literal["chunked", "length", "until closed"]
"""How an HTTP/1.1 response marks the end of its body. Not used in process."""


@attrs.frozen
class Scenario(Reply):
    """The reply to one path. Each chunk is sent by itself."""

    headers: Mapping[str, str] = attrs.field(factory=dict[str, str], kw_only=True)
    framing: Framing = attrs.field(default="chunked", kw_only=True)
    unread: Wait | None = attrs.field(default=None, kw_only=True)
    """A wait before the server reads the body of the request; ignored in process."""

    @property
    def body(self) -> bytes:
        """The whole body, if nothing breaks the connection."""
        return b"".join(step for step in self.steps if isinstance(step, bytes))


UNKNOWN_PATH: Final = Scenario((b"unknown path",), status=404)


@attrs.define
class Visit:
    """One request, as received."""

    method: str
    target: str
    """Path and query, as received."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    over: bool = False
    """Whether the response was sent to its end, or the client has left."""

    @property
    def path(self) -> str:
        """The path without the query, decoded."""
        return unquote(urlsplit(self.target).path)


def target_of(request: HTTPRequest) -> str:
    """Return the target in the request line of `request`."""
    url = urlsplit(request.url)
    return url.path + (f"?{url.query}" if url.query else "")


class Peer:
    """The other side of a transport under `check_transport`.

    The requests go to `peer.url`, a server on loopback. A transport in process uses `peer.app` or `peer.replies`
    instead; the checks of connections are skipped then.
    """

    in_process: bool
    """Whether `app` or `replies` was used."""
    visits: list[Visit]
    """The requests, in the order in which they arrived."""
    connections: int
    """How many connections are open at the server."""

    def __init__(self, scenarios: Mapping[str, Scenario], *, listening: bool = True, full: bool = False) -> None:
        """With `full`, connections are established only after `accept`, as at a server with a full queue (on Linux)."""
        self.in_process = False
        self.visits = []
        self.connections = 0
        self._scenarios = scenarios
        self._changed = anyio.Event()
        self._stopped = anyio.Event()
        self._scope = anyio.CancelScope()
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        self._socket.bind((LOOPBACK, 0))
        self._url = f"http://{LOOPBACK}:{self._socket.getsockname()[1]}"
        self._listening = listening
        self._accepting = anyio.Event()
        self._filler = socket.socket()
        if listening:
            self._socket.listen(0 if full else 100)
        if full:
            self._filler.setblocking(False)
            self._filler.connect_ex(self._socket.getsockname())
        else:
            self._accepting.set()

    # --- the three ways ---

    @property
    def url(self) -> str:
        """The base URL of an HTTP/1.1 server on loopback."""
        return self._url

    @property
    def app(self) -> Callable[[Message, Receive, Send], Awaitable[None]]:
        """An ASGI 3 application."""
        self.in_process = True
        return self._app

    @property
    def replies(self) -> dict[str, Reply]:
        """For `FakeTransport(peer.replies)`."""
        self.in_process = True
        return {path: attrs.evolve(each, on_close=self._record) for path, each in self._scenarios.items()}

    # --- for the checks ---

    def accept(self) -> None:
        """Establish connections from now on."""
        self._filler.close()
        self._accepting.set()

    def visited(self, path: str) -> int:
        """Return the number of requests for `path`."""
        return sum(visit.path.endswith(unquote(path)) for visit in self.visits)

    async def all_over(self, at_least: int, *, until: float) -> bool:
        """Wait until all exchanges are over, at least so many; return False if that is not so at `until`."""
        return await self._wait(lambda: len(self.visits) >= at_least and all(each.over for each in self.visits), until)

    async def all_disconnected(self, *, until: float) -> bool:
        """Wait until no connection is open; return False if that is not so at `until`."""
        return await self._wait(lambda: not self.connections, until)

    async def _wait(self, is_so: Callable[[], bool], until: float) -> bool:
        with anyio.CancelScope(deadline=until):
            while not is_so():
                await self._changed.wait()
            return True
        return False

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _arrived(self, visit: Visit) -> Scenario:
        self.visits.append(visit)
        self._notify()
        return self._scenario(visit.path)

    def _scenario(self, path: str) -> Scenario:
        matching = (scenario for end, scenario in self._scenarios.items() if path.endswith(unquote(end)))
        return next(matching, UNKNOWN_PATH)

    def _over(self, visit: Visit) -> None:
        visit.over = True
        self._notify()

    # --- as replies ---

    def _record(self, request: HTTPRequest) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        visit = Visit(request.method, target_of(request), headers, request.body)
        self._arrived(visit)
        self._over(visit)

    # --- as an application ---

    async def _app(self, scope: Message, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        path = scope.get("raw_path") or quote(scope["path"]).encode()
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
        visit = Visit(scope["method"], (path + query).decode(), headers, body)
        scenario = self._arrived(visit)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cancel_on_disconnect, receive, tasks.cancel_scope)
                with suppress(OSError):  # the client has left
                    await _perform(scenario, send)
                tasks.cancel_scope.cancel()
        finally:
            self._over(visit)

    # --- as a server ---

    async def serve(self) -> None:
        """Serve until `stop`. A server that does not listen holds its port, so that no other program listens there."""
        try:
            with self._socket, self._filler, self._scope:
                async with anyio.create_task_group() as tasks:
                    await self._accepting.wait()
                    while self._listening:
                        await anyio.wait_readable(self._socket)
                        tasks.start_soon(self._serve_connection, self._socket.accept()[0])
                    await anyio.sleep_forever()
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        """Stop, and return when every connection is closed."""
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._stopped.wait()

    async def _serve_connection(self, connected: socket.socket) -> None:
        self.connections += 1
        try:
            with connected, suppress(OSError, ValueError):  # rule 3
                connection = _Connection(connected, self._before_body)
                usable = True
                while usable:
                    visit = await connection.request()
                    scenario = self._arrived(visit)
                    try:
                        usable = await connection.answer(scenario)
                    finally:
                        self._over(visit)
        finally:
            self.connections -= 1
            self._notify()

    async def _before_body(self, target: str) -> None:
        if (unread := self._scenario(unquote(urlsplit(target).path)).unread) is not None:
            await unread()


async def _perform(scenario: Scenario, send: Send) -> Exception | None:
    """Respond as an ASGI application; return the step that broke the response off, as an application does."""
    if isinstance(scenario.before, Exception):
        return scenario.before
    if scenario.before is not None:
        await wait(scenario.before)
    # The specification requires names in lower case.
    headers = [(name.lower().encode(), value.encode()) for name, value in scenario.headers.items()]
    await send({"type": "http.response.start", "status": scenario.status, "headers": headers})
    for step in scenario.steps:
        if isinstance(step, Exception):
            return step
        if isinstance(step, bytes):
            await send({"type": "http.response.body", "body": step, "more_body": True})
        else:
            await wait(step)
    await send({"type": "http.response.body"})
    return None


class _Connection:
    """One connection of the server, with the parts of HTTP/1.1 (RFC 9112) that clients use."""

    def __init__(self, connected: socket.socket, before_body: Callable[[str], Awaitable[None]]) -> None:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each chunk is sent by itself, at once
        self._socket = connected
        self._before_body = before_body
        self._received = bytearray()

    async def request(self) -> Visit:
        """Read the next request.

        Raises:
            OSError: the connection has ended.
        """
        first, *lines = (await self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        await self._before_body(target)
        if "chunked" in headers.get("transfer-encoding", ""):
            body = await self._chunks()
        else:
            body = await self._exactly(int(headers.get("content-length", "0")))
        return Visit(method, target, headers, body)

    async def answer(self, scenario: Scenario) -> bool:
        """Perform `scenario`; return whether the connection can be reused."""
        usable = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._cancel_on_disconnect, tasks.cancel_scope)
            with suppress(OSError):  # the client has left
                usable = await self._respond(scenario)
            tasks.cancel_scope.cancel()
        return usable

    async def _respond(self, scenario: Scenario) -> bool:
        headers = {**scenario.headers}
        bodiless = scenario.status in (204, 304)
        chunked = scenario.framing == "chunked" and not bodiless
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif scenario.framing == "until closed":
            headers["Connection"] = "close"
        elif not bodiless:
            headers["Content-Length"] = str(len(scenario.body) + any(isinstance(s, Exception) for s in scenario.steps))
        lines = [f"HTTP/1.1 {scenario.status} Scenario", *(f"{name}: {value}" for name, value in headers.items())]

        async def send(message: Message) -> None:
            body = message.get("body", b"")
            if message["type"] == "http.response.start":
                body = "\r\n".join([*lines, "", ""]).encode()
            elif chunked:
                body = b"%x\r\n%b\r\n" % (len(body), body)  # without a body it is the last chunk
            await self._send(body)

        broken_by = await _perform(scenario, send)
        if broken_by is RESET:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        return broken_by is None and scenario.framing != "until closed"

    async def _cancel_on_disconnect(self, scope: anyio.CancelScope) -> None:
        with suppress(OSError):
            while True:
                await self._more()
        scope.cancel()

    # --- bytes ---

    async def _chunks(self) -> bytes:
        body = b""
        while size := int((await self._until(b"\r\n")).partition(b";")[0], 16):
            body += await self._exactly(size)
            await self._until(b"\r\n")
        while await self._until(b"\r\n"):
            pass  # trailers
        return body

    async def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            await self._more()
        part, _, self._received = self._received.partition(end)
        return bytes(part)

    async def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            await self._more()
        body = bytes(self._received[:size])
        del self._received[:size]
        return body

    async def _more(self) -> None:
        """Read some bytes. If cancelled, it has read nothing."""
        while True:
            try:
                data = self._socket.recv(64 * 1024)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
            else:
                if not data:
                    raise ConnectionResetError("the connection has ended")
                self._received += data
                return

    async def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
