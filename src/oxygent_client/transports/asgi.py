"""Transport into an ASGI application in the same process.

Rule 1: the application runs in a task of its own; what it sends arrives at once, and a slow reader makes it wait.
Rule 2: leaving before the end of the response sends the application `http.disconnect` and cancels it. After a complete
    response it is not cancelled: its background tasks run to their end.
Rule 3: leaving waits for the end of the application, for LEAVE_SECONDS at most.
Rule 4: an exception of the application is raised unchanged, so that a test shows where it was raised; one that it
    raises after the exchange stopped waiting is logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import unquote_to_bytes, urlsplit

import anyio

from oxygent_client._core.errors import ConnectionLostError, RemoteProtocolError
from oxygent_client._core.log import log_event
from oxygent_client._core.per_loop import Closed, PerLoop
from oxygent_client._core.tasks import spawn, wait_until_done
from oxygent_client._core.transport import HTTPRequest, HTTPResponse
from oxygent_client.transports._response_head import parse_head

__all__ = ["ASGIApp", "ASGITransport"]

Message = MutableMapping[str, Any]
ASGIApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
"""An ASGI 3 application: `async def app(scope, receive, send)`."""

LEAVE_SECONDS: Final = 2.0
"""Seconds that leaving waits for the application to end."""


class ASGITransport:
    """Transport to an ASGI application in this process. It does not run the application's lifespan.

    Leaving an exchange waits up to 2 seconds for the application to end. If it takes longer (a background task, a call
    in a thread, code that ignores its cancellation), it continues in the background, and a warning is logged.

    Args:
        app: an ASGI 3 application.
        root_path: the path under which the application is mounted, for its `scope`.
    """

    def __init__(self, app: ASGIApp, *, root_path: str = "") -> None:
        self._app = app
        self._root_path = root_path
        self._tasks = PerLoop[set["asyncio.Task[None]"]]()  # an event loop keeps only weak references to tasks
        self._closed = Closed()

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`, but exceptions of the application are raised unchanged."""
        self._closed.check(self)
        call = _ApplicationCall(self._app, request, self._root_path)
        call.start(self._tasks)
        try:
            status, headers = await call.head()
            yield HTTPResponse(status, headers, call, request)
        finally:
            await call.leave()
        call.raise_error()

    async def aclose(self) -> None:
        """As `Transport.aclose`; no connection is kept open."""
        self._closed.note()

    def __repr__(self) -> str:
        return f"ASGITransport({self._app!r})"


class _ApplicationCall(AsyncIterator[bytes]):
    """One call of the application, and the chunks of its response."""

    def __init__(self, app: ASGIApp, request: HTTPRequest, root_path: str) -> None:
        self._app = app
        self._scope = _scope(request, root_path)
        self._context = request.context
        self._body: bytes | None = request.body
        self._head: tuple[int, list[tuple[str, str]]] | None = None
        self._has_head = anyio.Event()
        self._complete = False
        self._left = anyio.Event()
        self._ended = anyio.Event()
        self._error: Exception | None = None
        self._cancel = anyio.CancelScope()
        self._in_background = False
        self._task: asyncio.Task[None] | None = None  # None on trio
        # No buffer: the application waits in `send` until the chunk is read.
        self._send, self._receive = anyio.create_memory_object_stream[bytes](0)

    def start(self, tasks: PerLoop[set[asyncio.Task[None]]]) -> None:
        """Run the application in a task outside the caller's task groups: the exchange must leave no scope open.

        On asyncio `tasks` holds the task until it is done.
        """
        self._task = spawn(self._run)
        if self._task is not None:
            kept = tasks.get() or tasks.put(set())
            kept.add(self._task)
            self._task.add_done_callback(kept.discard)
            self._task.add_done_callback(self._end)  # a task cancelled before its first step runs no `finally`

    async def _run(self) -> None:
        try:
            with self._cancel:
                await self._app(self._scope, self._on_receive, self._on_send)
        except Exception as error:  # noqa: BLE001  (kept, and raised in the caller's task)
            self._error = error
            if self._in_background:
                self._warn("the application raised an exception after the client had left", cause=error)
        except BaseException:
            if self._complete:
                self._warn("the application was cancelled after its response, by the end of the event loop")
            raise
        finally:
            self._end()

    def _end(self, _: object = None) -> None:
        self._send.close()
        self._has_head.set()
        self._ended.set()

    def _warn(self, text: str, cause: BaseException | None = None) -> None:
        log_event("warning", self._context, text, cause=cause)

    # --- the application's side ---

    async def _on_receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _on_send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            raw = message.get("headers", ())
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]
            self._head = (message["status"], headers)
            self._has_head.set()
        elif message["type"] == "http.response.body":
            if message.get("body"):
                try:
                    await self._send.send(bytes(message["body"]))
                except anyio.BrokenResourceError:  # the reader has left; the specification (2.4) requires an OSError
                    raise OSError("the client has disconnected") from None
            if not message.get("more_body", False):
                self._complete = True
                self._left.set()
                self._send.close()

    # --- the caller's side ---

    async def head(self) -> tuple[int, dict[str, str]]:
        """Wait for the status and the headers, and return them."""
        await self._has_head.wait()
        if self._head is None:
            self.raise_error()
            raise RemoteProtocolError("the application ended without a response")
        status, lines = self._head
        return status, parse_head(status, lines)

    async def __anext__(self) -> bytes:
        with suppress(anyio.EndOfStream):
            return await self._receive.receive()
        self.raise_error()
        if not self._complete:
            raise ConnectionLostError("the application ended before its response was complete")
        raise StopAsyncIteration

    async def leave(self) -> None:
        """Cancel the application, unless its response is complete, and wait at most LEAVE_SECONDS for its end.

        A cancelled caller does not wait for what the application does after a complete response.
        """
        early = not self._complete and not self._ended.is_set()
        self._left.set()
        self._receive.close()
        if early:
            self._cancel.cancel()
        try:
            await self._wait_until_ended(shield=early)
        finally:
            self._in_background = not self._ended.is_set()
            if self._in_background:
                how = "its cancellation" if early else "its response"
                self._warn(f"the application has not ended {LEAVE_SECONDS:g} s after {how}; it continues in background")
            if early:
                self._error = None  # a consequence of its cancellation

    async def _wait_until_ended(self, *, shield: bool) -> None:
        """Return after LEAVE_SECONDS at most; `shield` defers a cancellation until then."""
        if self._task is not None and shield:  # on asyncio a native cancellation passes anyio's shields
            cancelled = await wait_until_done(self._task, LEAVE_SECONDS)
            if cancelled is not None:
                raise cancelled
            return
        with anyio.move_on_after(LEAVE_SECONDS, shield=shield):
            await self._ended.wait()

    def raise_error(self) -> None:
        """Raise the application's exception, once, if there is one."""
        error, self._error = self._error, None
        if error is not None:
            raise error


def _scope(request: HTTPRequest, root_path: str) -> dict[str, Any]:
    url = urlsplit(request.url)
    port = url.port or (443 if url.scheme == "https" else 80)
    headers = {
        "host": url.netloc.rpartition("@")[2],
        **{name.lower(): value for name, value in request.headers.items()},
    }
    headers["content-length"] = str(len(request.body))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": url.scheme,
        "path": unquote_to_bytes(url.path).decode("utf-8", "replace"),
        "raw_path": url.path.encode(),
        "query_string": url.query.encode(),
        "root_path": root_path,
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("127.0.0.1", 0),
        "server": (url.hostname, port),
    }
