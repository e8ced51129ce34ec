"""One inbound HTTP request and its response: JSON, or server-sent events.

Rule 1: the body is read completely, within a limit and a time, before the handler runs.
Rule 2: an event is one `send`. A heartbeat, a comment, follows after each 15 s without an event, so that proxies keep
    the connection.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, Final, TypeAlias, cast

import anyio
import anyio.abc

from oxygent_client.serve._core.failures import Refused

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

HEARTBEAT: Final = 15.0
BEAT: Final = b": heartbeat\n\n"
_ENCODE: Final = json.JSONEncoder(ensure_ascii=False).encode
"""As `json.dumps`, which makes an encoder for each call."""
_STREAM: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
}


class Exchange:
    """An inbound request, and the response to it."""

    method: str
    """The request's method."""
    path: str
    """The request's path, below the place where the application is mounted."""
    base_url: str
    """The URL of that place, as the client calls it; behind a proxy, as the proxy does."""
    headers: Mapping[str, str]
    """The request's headers, with names in lower case."""
    body: bytes = b""
    """The request's body."""
    status: int = 0
    """The response's status; 0 until the response begins."""
    is_finished: bool = False
    """Whether the response is complete."""
    is_left: bool = False
    """Whether the client left before that."""
    group: anyio.abc.TaskGroup | None = None
    """The tasks of the exchange, which end with its handler; None if its response is recorded."""

    def __init__(self, scope: Message, send: Send) -> None:
        self.method = scope["method"]
        self.path = scope["path"].removeprefix(scope.get("root_path", ""))
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        place = f"{self.headers.get('host', '')}{scope.get('root_path', '')}"
        self.base_url = f"{scope.get('scheme', 'http')}://{place}"
        self.response_headers: dict[str, str] = {}
        self._send = send
        self._is_sending = False
        self._beat_sent: anyio.Event | None = None
        """Set when the heartbeat that is being sent is; None while none is."""
        self._sent_at = 0.0

    async def send(self, message: Message) -> None:
        """Send a message of ASGI.

        Raises:
            OSError: the client has left.
        """
        try:
            await self._send(message)
        except OSError:
            self.is_left = True
            raise

    def json(self) -> dict[str, Any]:
        """Return the body as a JSON object.

        Raises:
            Refused: the body is not a JSON object.
        """
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise Refused(400, "invalid_json", "the body must be a JSON object")
        return cast("dict[str, Any]", document)

    async def respond(self, status: int, document: Any, headers: Mapping[str, str] | None = None) -> None:
        """Send the whole response: a JSON document."""
        body = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
        await self._start(status, {"content-type": "application/json", "content-length": str(len(body))}, headers)
        await self._finish(body)

    async def respond_page(self, page: str, headers: Mapping[str, str] | None = None) -> None:
        """Send the whole response: a page of HTML."""
        body = page.encode("utf-8", "replace")
        await self._start(200, {"content-type": "text/html; charset=utf-8", "content-length": str(len(body))}, headers)
        await self._finish(body)

    async def respond_empty(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        """Send a response without a body."""
        await self._start(status, {}, headers)
        await self._finish(b"")

    async def start_stream(self, headers: Mapping[str, str] | None = None) -> None:
        """Begin a stream of events."""
        await self._start(200, _STREAM, headers)
        self._start_beating()

    def recorded(self, send: Send) -> Exchange:
        """Return an exchange for the same request, whose response goes to `send` without heartbeats."""
        recorded = copy.copy(self)
        recorded.response_headers = {}
        recorded._send = send  # noqa: SLF001  (of its own class)
        recorded.group = None
        return recorded

    async def start_recorded(self, head: Message) -> None:
        """Begin a response that begins as a recorded one did."""
        own = {name.decode("latin-1"): value.decode("latin-1") for name, value in head["headers"]}
        await self._start(head["status"], own, None)
        if own.get("content-type") == _STREAM["content-type"]:
            self._start_beating()

    async def send_event(self, data: Any, event: str = "") -> None:
        """Send an event: `data` as JSON, or unchanged if it is a str."""
        text = data if isinstance(data, str) else _ENCODE(data)
        name = f"event: {event}\n" if event else ""
        await self.send_piece(f"{name}data: {text}\n\n".encode("utf-8", "replace"))

    async def send_piece(self, piece: bytes) -> None:
        """Send bytes of the stream: events or comments, each complete."""
        if self._beat_sent is not None:
            await self._beat_sent.wait()
        self._is_sending = True
        try:
            await self.send({"type": "http.response.body", "body": piece, "more_body": True})
        finally:
            self._is_sending = False
        if self.group is not None:  # else there are no heartbeats
            self._sent_at = anyio.current_time()

    async def end_stream(self) -> None:
        """Complete the stream."""
        if self._beat_sent is not None:
            await self._beat_sent.wait()
        await self._finish(b"")

    def _start_beating(self) -> None:
        if self.group is not None:
            self._sent_at = anyio.current_time()
            self.group.start_soon(self._beat)

    async def _beat(self) -> None:
        with suppress(OSError):  # the client has left, and `receive` reports it, too
            while True:  # until the end of the handler
                await anyio.sleep_until(self._sent_at + HEARTBEAT)
                if self._is_sending or self.is_finished:  # a client that takes nothing needs no more
                    self._sent_at = anyio.current_time()
                elif anyio.current_time() >= self._sent_at + HEARTBEAT:
                    self._beat_sent = anyio.Event()
                    try:
                        await self.send({"type": "http.response.body", "body": BEAT, "more_body": True})
                    finally:
                        self._beat_sent.set()
                        self._beat_sent = None
                    self._sent_at = anyio.current_time()

    async def _start(self, status: int, own: Mapping[str, str], headers: Mapping[str, str] | None) -> None:
        self.status = status
        every = {**own, **self.response_headers, **(headers or {})}
        encoded = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in every.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": encoded})

    async def _finish(self, body: bytes) -> None:
        self.is_finished = True
        await self.send({"type": "http.response.body", "body": body})


def limited(receive: Receive, most: int, seconds: float) -> Receive:
    """Return a `receive` that refuses a body of more than `most` bytes, and one that takes longer than `seconds`."""
    received, until = 0, anyio.current_time() + seconds

    async def counted() -> Message:
        nonlocal received, until
        message: Message = {}
        with anyio.CancelScope(deadline=until) as scope:
            message = await receive()
        if scope.cancelled_caught:
            raise Refused(408, "body_timeout", f"the body must arrive within {seconds:g} s")
        if not message.get("more_body", False):
            until = math.inf  # what follows is the end of the connection
        received += len(message.get("body", b""))
        if received > most:
            raise Refused(413, "body_too_large", f"the body must have at most {most} bytes")
        return message

    return counted


def check_declared(exchange: Exchange, most: int) -> None:
    """Refuse a request whose `content-length` is more than `most`, before its body is read."""
    declared = exchange.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > most:
        raise Refused(413, "body_too_large", f"the body must have at most {most} bytes")


async def read_body(exchange: Exchange, receive: Receive, most: int, seconds: float) -> bool:
    """Read the body of a request; False if the client left before its end.

    Raises:
        Refused: it is too large, or takes too long.
    """
    check_declared(exchange, most)
    receive, pieces, more = limited(receive, most, seconds), list[bytes](), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return False
        pieces.append(message.get("body", b""))
        more = bool(message.get("more_body", False))
    exchange.body = b"".join(pieces)
    return True
