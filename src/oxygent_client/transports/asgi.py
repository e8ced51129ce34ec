"""Transport into an ASGI application in the same process.

Rule 1: the application runs in a task of its own, so what it sends is there at once, and a slow reader makes it wait.
Rule 2: leaving before the end of the response sends the application `http.disconnect` and cancels it. After a complete
    response it is not cancelled: its background tasks run to their end.
Rule 3: leaving waits until the application has ended, for LEAVE_SECONDS at most, and then goes on without it.
Rule 4: an error of the application is raised as it is, so that a test shows where it was raised; one that is raised
    after the exchange went on without the application is logged.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import unquote_to_bytes, urlsplit

import anyio
from anyio.lowlevel import current_token

from oxygent_client._core.errors import ConnectionLostError, RemoteProtocolError
from oxygent_client._core.log import log_event
from oxygent_client._core.per_loop import Closed, PerLoop
from oxygent_client._core.transport import HTTPRequest, HTTPResponse

__all__ = ["ASGIApp", "ASGITransport"]

Message = MutableMapping[str, Any]
ASGIApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
"""An ASGI 3 application: `async def app(scope, receive, send)`."""

LEAVE_SECONDS: Final = 2.0
"""How long leaving waits for the application to end."""


class ASGITransport:
    """Moves bytes to an ASGI application in this process. Its lifespan is yours to run.

    Leaving an exchange waits up to 2 seconds for the application to end. One that takes longer (a background task, a
    call in a thread, code that ignores its cancellation) goes on by itself; a log record says so.

    Args:
        app: an ASGI 3 application.
        root_path: where the application believes itself mounted.
    """

    def __init__(self, app: ASGIApp, *, root_path: str = "") -> None:
        self._app = app
        self._root_path = root_path
        self._tasks = PerLoop[set["asyncio.Task[None]"]]()  # an event loop alone does not keep a task alive
        self._closed = Closed()

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`, but for the application's own errors, which are raised as they are."""
        self._closed.check(self)
        conversation = _Conversation(self._app, request, self._root_path)
        conversation.start(self._tasks)
        try:
            status, headers = await conversation.head()
            yield HTTPResponse(status, headers, conversation, request)
        finally:
            await conversation.leave()
        conversation.raise_error()

    async def aclose(self) -> None:
        """As `Transport.aclose`: there is nothing that is kept open."""
        self._closed.note()

    def __repr__(self) -> str:
        return f"ASGITransport({self._app!r})"


class _Conversation:
    """One request of the application, and the chunks of its response."""

    def __init__(self, app: ASGIApp, request: HTTPRequest, root_path: str) -> None:
        self._app = app
        self._scope = _scope(request, root_path)
        self._context = request.context
        self._body: bytes | None = request.body
        self._head: tuple[int, dict[str, str]] | None = None
        self._has_head = anyio.Event()
        self._complete = False
        self._left = anyio.Event()
        self._ended = anyio.Event()
        self._error: Exception | None = None
        self._cancel = anyio.CancelScope()
        self._goes_on_alone = False
        self._task: asyncio.Task[None] | None = None  # none on trio
        # No buffer: a chunk is handed over when it is asked for, and until then the application waits in `send`.
        self._send, self._receive = anyio.create_memory_object_stream[bytes](0)

    def start(self, tasks: PerLoop[set[asyncio.Task[None]]]) -> None:
        """Run the application in a task of no block of the caller: the exchange must leave no scope open.

        On asyncio the task is kept in `tasks` until it is done.
        """
        if isinstance(loop := current_token().native_token, asyncio.AbstractEventLoop):
            kept = tasks.get() or tasks.put(set())
            self._task = loop.create_task(self._run())
            kept.add(self._task)
            self._task.add_done_callback(kept.discard)
            self._task.add_done_callback(self._end)  # a task that is cancelled before its first step runs no `finally`
        else:
            import trio  # only where trio is running already

            trio.lowlevel.spawn_system_task(self._run, context=contextvars.copy_context())

    async def _run(self) -> None:
        try:
            with self._cancel:
                await self._app(self._scope, self._hear, self._say)
        except Exception as error:  # noqa: BLE001  (kept for the caller, who gets it as it is)
            self._error = error
            if self._goes_on_alone:
                self._tell("the application failed after its exchange was left", cause=error)
        except BaseException:
            if self._complete:
                self._tell("the application was cancelled after its response, before it ended: the event loop ends")
            raise
        finally:
            self._end()

    def _end(self, _: object = None) -> None:
        self._send.close()
        self._has_head.set()
        self._ended.set()

    def _tell(self, text: str, cause: BaseException | None = None) -> None:
        log_event("warning", self._context, text, cause=cause)

    # --- the application's side ---

    async def _hear(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _say(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers: dict[str, str] = {}
            for raw_name, raw_value in message.get("headers", ()):
                name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
            self._head = (message["status"], headers)
            self._has_head.set()
        elif message["type"] == "http.response.body":
            if message.get("body"):
                try:
                    await self._send.send(bytes(message["body"]))
                except anyio.BrokenResourceError:  # the reader has left; the specification (2.4) wants an OSError
                    raise OSError("the client has disconnected") from None
            if not message.get("more_body", False):
                self._complete = True
                self._left.set()
                self._send.close()

    # --- the caller's side ---

    async def head(self) -> tuple[int, dict[str, str]]:
        """The status and the headers, once the application has sent them."""
        await self._has_head.wait()
        if self._head is None:
            self.raise_error()
            raise RemoteProtocolError("the application ended without a response")
        return self._head

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        with suppress(anyio.EndOfStream):
            return await self._receive.receive()
        self.raise_error()
        if not self._complete:
            raise ConnectionLostError("the application ended in the middle of its response")
        raise StopAsyncIteration

    async def leave(self) -> None:
        """Cancel the application, unless its response is complete, and wait until it has ended or LEAVE_SECONDS passed.

        A caller that is cancelled does not wait for what follows a complete response.
        """
        early = not self._complete and not self._ended.is_set()
        self._left.set()
        self._receive.close()
        if early:
            self._cancel.cancel()
        try:
            await self._wait_for_the_end(shield=early)
        finally:
            self._goes_on_alone = not self._ended.is_set()
            if self._goes_on_alone:
                how = "was cancelled, and has" if early else "has sent its response, and has"
                self._tell(f"the application {how} not ended: it goes on by itself")
            if early:
                self._error = None  # it was told to stop; how it takes that is its own affair

    async def _wait_for_the_end(self, *, shield: bool) -> None:
        """Return after LEAVE_SECONDS at most; `shield` defers a cancellation, of anyio or of asyncio, until then."""
        until = anyio.current_time() + LEAVE_SECONDS
        if self._task is None:
            with anyio.CancelScope(deadline=until, shield=shield):
                await self._ended.wait()
            return
        deferred: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=shield):
            while not self._ended.is_set() and (seconds := until - anyio.current_time()) > 0:
                try:
                    await asyncio.wait({self._task}, timeout=seconds)
                except asyncio.CancelledError as error:
                    deferred = error
                    if not shield:
                        break
        if deferred is not None:
            raise deferred

    def raise_error(self) -> None:
        """Raise what the application raised, once; nothing if it raised nothing."""
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
