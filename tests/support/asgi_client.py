"""A client of an ASGI application in the same process: one request, its response piece by piece, and leaving early.

Rule 1: `receive` reports the client as gone once the response is complete, as servers do.
Rule 2: nothing here reads a clock: a response is complete when the application returns.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anyio
import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping
    from contextlib import AbstractAsyncContextManager

    from oxygent_client.serve import ASGIApp
    from oxygent_client.transports.asgi import ASGITransport

__all__ = ["ByServer", "Call", "request"]


@attrs.frozen
class ByServer:
    """A transport to several applications, by URL."""

    transports: dict[str, ASGITransport]

    def exchange(self, request: Any, /) -> AbstractAsyncContextManager[Any]:
        """Send the request to the application of its URL."""
        return self.transports[request.base_url].exchange(request)

    async def aclose(self) -> None:
        """Do nothing."""


@attrs.define(eq=False)
class Call:
    """One request to an application, and the response so far."""

    app: ASGIApp
    method: str
    path: str
    body: bytes = b""
    given: Mapping[str, str] = attrs.field(factory=dict[str, str])
    root_path: str = ""
    status: int = 0
    headers: dict[str, str] = attrs.field(factory=dict[str, str])
    pieces: list[bytes] = attrs.field(factory=list[bytes])
    is_complete: bool = False
    on_piece: anyio.Event = attrs.field(factory=anyio.Event)
    """Set with each piece, and made anew by who waits for the next."""
    left: anyio.Event = attrs.field(factory=anyio.Event)
    is_body_slow: bool = False
    is_broken: bool = False
    """Whether `send` raises, as servers do once the client has closed."""
    _asked: int = 0

    async def __call__(self) -> Call:
        """Send the request, and return when the application has returned."""
        headers = {"host": "testserver", **self.given}
        await self.app(
            {
                "type": "http",
                "method": self.method,
                "path": self.root_path + self.path,
                "root_path": self.root_path,
                "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
            },
            self._receive,
            self._send,
        )
        return self

    async def _receive(self) -> MutableMapping[str, Any]:
        self._asked += 1
        if self._asked == 1 and not self.is_body_slow:
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        await anyio.lowlevel.checkpoint()
        if self.is_broken:
            raise BrokenPipeError
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
        else:
            self.pieces.append(message.get("body", b""))
            self.on_piece.set()
            if not message.get("more_body", False):
                self.is_complete = True
                self.left.set()

    async def wait_for(self, text: str) -> None:
        """Wait until this text was received."""
        while text not in self.text:
            self.on_piece = anyio.Event()
            await self.on_piece.wait()

    @property
    def text(self) -> str:
        """Return the body of the response so far."""
        return b"".join(self.pieces).decode()

    @property
    def document(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.text)

    @property
    def events(self) -> list[Any]:
        """Return the data of the events; JSON is decoded."""
        data = [line.removeprefix("data: ") for line in self.text.splitlines() if line.startswith("data: ")]
        return [text if text == "[DONE]" else json.loads(text) for text in data]


async def request(app: ASGIApp, method: str, path: str, document: Any = None, **headers: str) -> Call:
    """Send one request with a JSON document, and return the complete response; `_` in a header's name is a dash."""
    body = b"" if document is None else document if isinstance(document, bytes) else json.dumps(document).encode()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await Call(app, method, path, body, given)()
