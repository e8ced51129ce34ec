"""`FakeTransport`: a scripted transport that records its requests.

Rule 1: a reply is a value; the same script always gives the same bytes.
Rule 2: a step is a chunk of bytes, a wait or an error. The builders (`tool_call`, `answer`, ...) return the bytes that
    a real server sends.
Rule 3: a request without a scripted reply is an error or a 404, never a default answer.
"""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias, cast

import anyio
import attrs

from oxygent_client._core.errors import ConfigurationError, OxyError
from oxygent_client._core.per_loop import Closed
from oxygent_client._core.transport import HTTPRequest, HTTPResponse

EVENT_STREAM: Final = {"content-type": "text/event-stream; charset=utf-8"}


@attrs.frozen
class Pause:
    """Wait before the next step. In a script for `ToyRemote`, the seconds are multiplied by the remote's `pace`."""

    seconds: float
    """`math.inf` waits until the reader leaves."""


Wait: TypeAlias = Callable[[], Awaitable[object]]
"""An async function to call and await: `event.wait` waits until the test sets the event."""
Step: TypeAlias = bytes | Pause | Wait | Exception
"""A chunk to send, a wait, or an error to raise in the reader."""


async def wait(step: Pause | Wait) -> None:
    """Perform a step that waits."""
    await (anyio.sleep(step.seconds) if isinstance(step, Pause) else step())


# --- builders ---------------------------------------------------------------------------------------------------------


def message(data: Any, *, event: str = "message", id: str = "", retry: int | None = None) -> bytes:
    """Return any message as one event: a `str` unchanged, any other value as JSON."""
    lines = (data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)).split("\n")
    fields = [f"id: {id}"] * bool(id) + [f"event: {event}"] + [f"data: {line}" for line in lines]
    fields += [f"retry: {retry}"] * (retry is not None)
    return "".join(f"{field}\r\n" for field in (*fields, "")).encode()


def _inner(kind: str, callee: str, caller: str, node_id: str, stack: Sequence[str], **more: Any) -> bytes:
    content = {
        "node_id": node_id or callee,
        "caller": caller,
        "callee": callee,
        "caller_category": "user" if caller == "user" else "agent",
        "callee_category": "agent" if caller == "user" else "tool",
        "call_stack": [*(stack or ("user", *((caller,) if caller != "user" else ()), callee))],
        **more,
    }
    return message({"type": kind, "content": content})


def tool_call(
    callee: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    caller: str = "master",
    node_id: str = "",
    call_stack: Sequence[str] = (),
) -> bytes:
    """Return the event of a call of `callee`; with `caller="user"` the root of the run, which is not forwarded."""
    return _inner("tool_call", callee, caller, node_id, call_stack, arguments=dict(arguments or {}))


def observation(
    callee: str, output: Any, *, caller: str = "master", node_id: str = "", call_stack: Sequence[str] = ()
) -> bytes:
    """Return the event with the output of `callee`."""
    return _inner("observation", callee, caller, node_id, call_stack, output=output)


def answer(content: Any) -> bytes:
    """Return an answer event; the last answer of a run is its output."""
    return message({"type": "answer", "content": content})


def delta(text: str, *, agent: str = "master", node_id: str = "") -> bytes:
    """Return the event of a piece of text that a model streams."""
    return message({"type": "stream", "content": {"delta": text, "agent": agent, "node_id": node_id}})


def progress(content: Any) -> bytes:
    """Return a progress event."""
    return message({"type": "progress", "content": content})


def text(line: str) -> bytes:
    """Return a plain text message."""
    return message(line)


def heartbeat() -> bytes:
    """Return the comment that a server sends as a heartbeat."""
    return b": ping\r\n\r\n"


def pause(seconds: float) -> Pause:
    """Return a wait before the next step."""
    return Pause(seconds)


def close(data: str = "done") -> bytes:
    """Return the event that ends a run; a stream without it is incomplete."""
    return message(data, event="close")


# --- the transport ----------------------------------------------------------------------------------------------------


def _steps(steps: Iterable[Step]) -> tuple[Step, ...]:
    return tuple(steps)


def _stream_headers() -> dict[str, str]:
    return dict(EVENT_STREAM)


@attrs.frozen
class Reply:
    """The reply to one request."""

    steps: tuple[Step, ...] = attrs.field(default=(), converter=_steps)
    status: int = attrs.field(default=200, kw_only=True)
    headers: Mapping[str, str] = attrs.field(factory=_stream_headers, kw_only=True)
    before: Pause | Wait | Exception | None = attrs.field(default=None, kw_only=True)
    """A wait before the response headers, or an error instead of a response."""
    on_close: Callable[[HTTPRequest], object] | None = attrs.field(default=None, kw_only=True)
    """Called when the exchange has ended, for any reason."""

    @classmethod
    def json(cls, value: Any, *, status: int = 200) -> Reply:
        """Return the reply with a JSON document."""
        return cls((json.dumps(value).encode(),), status=status, headers={"content-type": "application/json"})


NOT_FOUND: Final = Reply.json({"detail": "Not Found"}, status=404)


def _fresh(error: Exception) -> Exception:
    """Return a copy of a scripted `OxyError`, since a run changes the error that it receives."""
    return copy.copy(error) if isinstance(error, OxyError) else error


class FakeTransport:
    """A scripted transport.

    `FakeTransport.script(tool_call("search"), answer("42"), close())` replies to every run with these steps. For more
    control pass a mapping from paths to replies: one `Reply` for all requests, or an iterable of replies, used in
    order. Other paths are a 404.
    """

    requests: list[HTTPRequest]
    """The requests, in the order in which they were sent."""
    left: list[HTTPRequest]
    """The requests whose exchange has ended, for any reason, in that order."""
    closed: bool
    """Whether `aclose` was called."""

    def __init__(self, replies: Mapping[str, Reply | Iterable[Reply]]) -> None:
        self._always = {path: reply for path, reply in replies.items() if isinstance(reply, Reply)}
        self._queues = {path: iter(queue) for path, queue in replies.items() if not isinstance(queue, Reply)}
        self.requests = []
        self.left = []
        self.closed = False
        self._closed = Closed()

    @classmethod
    def script(cls, *steps: Step) -> FakeTransport:
        """Return a transport that replies to every run with `steps`. Without a final `close()` a run is incomplete."""
        return cls({"/sse/chat": Reply(steps)})

    @property
    def payloads(self) -> list[dict[str, Any]]:
        """The payloads of the requests, in the order in which they were sent."""
        return [cast("dict[str, Any]", json.loads(request.body)) for request in self.requests if request.body]

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`.

        Raises:
            ConfigurationError: no reply is left for this path; add one to the script.
            ClosedError: the transport was closed.
        """
        self._closed.check(self)
        self.requests.append(request)
        reply = self._reply(request.path.partition("?")[0])
        try:
            await anyio.lowlevel.checkpoint()
            if isinstance(reply.before, Exception):
                raise _fresh(reply.before)
            if reply.before is not None:
                await wait(reply.before)
            headers = {name.lower(): value for name, value in reply.headers.items()}
            yield HTTPResponse(reply.status, headers, _Chunks(reply.steps), request)
        finally:
            self.left.append(request)
            if reply.on_close is not None:
                reply.on_close(request)

    def _reply(self, path: str) -> Reply:
        if path in self._always:
            return self._always[path]
        if path not in self._queues:
            return NOT_FOUND
        for reply in self._queues[path]:
            return reply
        raise ConfigurationError(f"FakeTransport: no reply is left for {path}; add one to the script")

    async def aclose(self) -> None:
        """As `Transport.aclose`."""
        self.closed = True
        self._closed.note()


class _Chunks(AsyncIterator[bytes]):
    """The chunks of a reply."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = iter(steps)

    async def __anext__(self) -> bytes:
        for step in self._steps:
            if isinstance(step, bytes):
                return step
            if isinstance(step, Exception):
                raise _fresh(step)
            await wait(step)
        raise StopAsyncIteration
