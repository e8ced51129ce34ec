"""Servers and scenarios for `check_transport`.

Rule 1: a scenario is a value. A server, an ASGI application and the replies of a `FakeTransport` play it alike, so one
    table of checks serves every kind of transport.
Rule 2: whoever plays it says what was asked, and when the exchange was over, for whatever reason.
Rule 3: the server listens on loopback alone, and hangs up on what it cannot read.
"""

from __future__ import annotations

import enum
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote, unquote, urlsplit

import anyio
import attrs

from oxygent_client._core.errors import ConnectionLostError
from oxygent_client._core.transport import HTTPRequest
from oxygent_client.testing._fake_transport import Reply, Wait

__all__ = ["Break", "Framing", "Peer", "Scenario", "Visit", "target_of"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

LOOPBACK: Final = "127.0.0.1"
SMALL_BUFFER: Final = 64 * 1024
"""Of the server's sockets, so that a slow reader makes the server wait."""
LINGER_NOT: Final = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
"""Closing a socket resets its connection."""


class Break(enum.Enum):
    """How the connection breaks. In process there is one way only."""

    CLOSED = "closed"
    RESET = "reset"


Framing = Literal["chunked", "length", "until closed"]
"""How HTTP/1.1 says where a body ends. In process it says nothing."""


def _steps(steps: Iterable[bytes | Wait | Break]) -> tuple[bytes | Wait | Break, ...]:
    return tuple(steps)


@attrs.frozen
class Scenario:
    """What one path is answered with."""

    steps: tuple[bytes | Wait | Break, ...] = attrs.field(default=(), converter=_steps)
    """Pieces of the body, each sent by itself; waits; the end of the connection."""
    status: int = attrs.field(default=200, kw_only=True)
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str], kw_only=True)
    framing: Framing = attrs.field(default="chunked", kw_only=True)
    before: Break | Wait | None = attrs.field(default=None, kw_only=True)
    """The connection breaks in the place of a response, or what is waited for before the headers are sent."""
    unread: Wait | None = attrs.field(default=None, kw_only=True)
    """What is waited for before the body of the request is read. A server only; in process it is read at once."""

    @property
    def body(self) -> bytes:
        """All that is sent if nothing breaks."""
        return b"".join(step for step in self.steps if isinstance(step, bytes))


UNKNOWN_PATH: Final = Scenario((b"there is no such scenario",), status=404)


@attrs.define
class Visit:
    """One request, as it came in."""

    method: str
    target: str
    """Path and query, as they were sent."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    over: bool = False
    """The response was sent to its end, or nobody is there to read it."""

    @property
    def path(self) -> str:
        """Without the query, decoded."""
        return unquote(urlsplit(self.target).path)


def target_of(request: HTTPRequest) -> str:
    """What stands in the request line for `request`."""
    url = urlsplit(request.url)
    return url.path + (f"?{url.query}" if url.query else "")


class Peer:
    """What a transport under `check_transport` talks to; use the one way that fits it.

    A transport that goes by the URL of a request needs none of them: the requests hold `peer.url`. One that runs in
    process takes `peer.app` or `peer.replies`, which tells the check that there is no network to be looked at.
    """

    in_process: bool
    """Whether `app` or `replies` was asked for."""
    visits: list[Visit]
    """What came, in its order."""
    connections: int
    """How many connections the server holds open."""

    def __init__(self, scenarios: Mapping[str, Scenario], *, listening: bool = True, full: bool = False) -> None:
        """`full`: connections are not made until `accept`, as at a server whose queue is full (on Linux)."""
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
        return {path: self._reply(scenario) for path, scenario in self._scenarios.items()}

    # --- what the checks do and see ---

    def accept(self) -> None:
        """Be full no more."""
        self._filler.close()
        self._accepting.set()

    def visited(self, path: str) -> int:
        """How many requests there were for `path`."""
        return sum(visit.path.endswith(unquote(path)) for visit in self.visits)

    async def all_over(self, at_least: int, *, until: float) -> bool:
        """Whether by then all exchanges are over, and there were so many; returns as soon as it is so."""
        with anyio.CancelScope(deadline=until):
            while not all(visit.over for visit in self.visits) or len(self.visits) < at_least:
                await self._changed.wait()
            return True
        return False

    async def all_hung_up(self, *, until: float) -> bool:
        """Whether by then nobody holds a connection to the server; returns as soon as it is so."""
        with anyio.CancelScope(deadline=until):
            while self.connections:
                await self._changed.wait()
            return True
        return False

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _came(self, visit: Visit) -> Scenario:
        self.visits.append(visit)
        self._change()
        return self._scenario(visit.path)

    def _scenario(self, asked: str) -> Scenario:
        fitting = (scenario for path, scenario in self._scenarios.items() if asked.endswith(unquote(path)))
        return next(fitting, UNKNOWN_PATH)

    def _over(self, visit: Visit) -> None:
        visit.over = True
        self._change()

    # --- as replies ---

    def _reply(self, scenario: Scenario) -> Reply:
        def left(request: HTTPRequest) -> None:
            headers = {name.lower(): value for name, value in request.headers.items()}
            visit = Visit(request.method, target_of(request), headers, request.body)
            self._came(visit)
            self._over(visit)

        broken = ConnectionLostError("the connection broke, as the scenario says")
        return Reply(
            (broken if isinstance(step, Break) else step for step in scenario.steps),
            status=scenario.status,
            headers=scenario.headers,
            before=broken if isinstance(scenario.before, Break) else scenario.before,
            left=left,
        )

    # --- as an application ---

    async def _app(self, scope: Message, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        path = scope.get("raw_path") or quote(scope["path"]).encode()
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
        visit = Visit(scope["method"], (path + query).decode(), headers, body)
        scenario = self._came(visit)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_wait_for_disconnect, receive, tasks.cancel_scope)
                with suppress(OSError):  # nobody reads any more
                    await _perform(scenario, send)
                tasks.cancel_scope.cancel()
        finally:
            self._over(visit)

    # --- as a server ---

    async def serve(self) -> None:
        """Runs until `stop`. Without listening the port is held, so that surely nobody listens there."""
        try:
            with self._socket, self._filler, self._scope:
                async with anyio.create_task_group() as tasks:
                    await self._accepting.wait()
                    while self._listening:
                        await anyio.wait_readable(self._socket)
                        tasks.start_soon(self._converse, self._socket.accept()[0])
                    await anyio.sleep_forever()
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        """Returns when every connection is closed."""
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._stopped.wait()

    async def _converse(self, connected: socket.socket) -> None:
        self.connections += 1
        try:
            with connected, suppress(OSError, ValueError):  # rule 3
                connection = _Connection(connected, self._before_body)
                while (visit := await connection.request()) is not None:
                    scenario = self._came(visit)
                    try:
                        if not await connection.answer(scenario):
                            break
                    finally:
                        self._over(visit)
        finally:
            self.connections -= 1
            self._change()

    async def _before_body(self, target: str) -> None:
        if (unread := self._scenario(unquote(urlsplit(target).path)).unread) is not None:
            await unread()


async def _wait_for_disconnect(receive: Receive, scope: anyio.CancelScope) -> None:
    await receive()  # the request was received to its end, so there is nothing else to come
    scope.cancel()


async def _perform(scenario: Scenario, send: Send) -> None:
    if isinstance(scenario.before, Break):
        return  # an application breaks off by ending too early
    if scenario.before is not None:
        await scenario.before()
    # The specification wants the names in lower case.
    headers = [(name.lower().encode(), value.encode()) for name, value in scenario.headers.items()]
    await send({"type": "http.response.start", "status": scenario.status, "headers": headers})
    for step in scenario.steps:
        if isinstance(step, Break):
            return
        if isinstance(step, bytes):
            await send({"type": "http.response.body", "body": step, "more_body": True})
        else:
            await step()
    await send({"type": "http.response.body"})


class _Connection:
    """One connection of the server: just enough of HTTP/1.1 (RFC 9112) for the requests of a client."""

    def __init__(self, connected: socket.socket, before_body: Callable[[str], Awaitable[None]]) -> None:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each piece goes out by itself, at once
        self._socket = connected
        self._before_body = before_body
        self._received = bytearray()

    async def request(self) -> Visit | None:
        """The next request; None when there is none."""
        while b"\r\n\r\n" not in self._received:
            if not await self._more():
                return None
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
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
        """Play `scenario`; whether the connection can serve again."""
        usable = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._wait_for_hang_up, tasks.cancel_scope)
            with suppress(OSError):  # nobody reads any more
                usable = await self._respond(scenario)
            tasks.cancel_scope.cancel()
        return usable

    async def _respond(self, scenario: Scenario) -> bool:
        if isinstance(scenario.before, Break):
            return self._break(scenario.before)
        if scenario.before is not None:
            await scenario.before()
        headers = {**scenario.headers}
        bodiless = scenario.status in (204, 304)
        chunked = scenario.framing == "chunked" and not bodiless
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif scenario.framing == "until closed":
            headers["Connection"] = "close"
        elif not bodiless:
            headers["Content-Length"] = str(len(scenario.body) + any(isinstance(s, Break) for s in scenario.steps))
        lines = [f"HTTP/1.1 {scenario.status} Scenario", *(f"{name}: {value}" for name, value in headers.items())]
        await self._send("\r\n".join([*lines, "", ""]).encode())
        for step in scenario.steps:
            if isinstance(step, Break):
                return self._break(step)
            if isinstance(step, bytes):
                await self._send(b"%x\r\n%b\r\n" % (len(step), step) if chunked else step)
            else:
                await step()
        if chunked:
            await self._send(b"0\r\n\r\n")
        return scenario.framing != "until closed"

    def _break(self, how: Break) -> bool:
        if how is Break.RESET:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        return False

    async def _wait_for_hang_up(self, scope: anyio.CancelScope) -> None:
        with suppress(OSError):  # reset
            while await self._more():
                pass
        scope.cancel()

    # --- bytes ---

    async def _chunks(self) -> bytes:
        body = b""
        while size := int((await self._line()).partition(b";")[0], 16):
            body += await self._exactly(size)
            await self._line()
        while await self._line():
            pass  # trailers
        return body

    async def _line(self) -> bytes:
        while b"\r\n" not in self._received:
            await self._must_have_more()
        line, _, self._received = self._received.partition(b"\r\n")
        return bytes(line)

    async def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            await self._must_have_more()
        body = bytes(self._received[:size])
        del self._received[:size]
        return body

    async def _must_have_more(self) -> None:
        if not await self._more():
            raise ConnectionResetError("the request was not sent to its end")

    async def _more(self) -> bool:
        """Read what there is; False at the end. Being cancelled, it has read nothing."""
        while True:
            try:
                data = self._socket.recv(64 * 1024)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
            else:
                self._received += data
                return bool(data)

    async def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
