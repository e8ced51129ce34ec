"""`FakeTransport`: a scripted transport that records its requests.

Rule 1: a reply is a value; the same script gives the same bytes each time.
Rule 2: steps are bytes to hand over, seconds or something to wait for, or an error to raise. The builders
    (`tool_call`, `answer`, ...) make the bytes that a real server sends.
Rule 3: what was not scripted is an error that says so, never a silent default.
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

__all__ = [
    "FakeTransport",
    "Pause",
    "Reply",
    "Step",
    "Wait",
    "answer",
    "close",
    "delta",
    "heartbeat",
    "message",
    "observation",
    "pause",
    "progress",
    "text",
    "tool_call",
]

EVENT_STREAM: Final = {"content-type": "text/event-stream; charset=utf-8"}


@attrs.frozen
class Pause:
    """Wait, before the next step."""

    seconds: float
    """`math.inf` waits until the reader leaves."""


Wait: TypeAlias = Callable[[], Awaitable[object]]
"""Called and awaited: `event.wait` goes on when the test says so."""
Step: TypeAlias = bytes | Pause | Wait | Exception
"""A chunk to hand over, a wait, or an error that the reader gets."""

# --- builders ---------------------------------------------------------------------------------------------------------


def message(data: Any, *, event: str = "message", id: str = "", retry: int | None = None) -> bytes:
    """Any message as one event: a text as it is, any other value as JSON."""
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
    """The remote calls `callee`. With `caller="user"` it is the root of the run, which is not forwarded."""
    return _inner("tool_call", callee, caller, node_id, call_stack, arguments=dict(arguments or {}))


def observation(
    callee: str, output: Any, *, caller: str = "master", node_id: str = "", call_stack: Sequence[str] = ()
) -> bytes:
    """What `callee` gave."""
    return _inner("observation", callee, caller, node_id, call_stack, output=output)


def answer(content: Any) -> bytes:
    """An answer; the last one of a run is its output."""
    return message({"type": "answer", "content": content})


def delta(text: str, *, agent: str = "master", node_id: str = "") -> bytes:
    """A piece of text as a model writes it."""
    return message({"type": "stream", "content": {"delta": text, "agent": agent, "node_id": node_id}})


def progress(content: Any) -> bytes:
    """A word about how far the remote is."""
    return message({"type": "progress", "content": content})


def text(line: str) -> bytes:
    """A message that is plain text."""
    return message(line)


def heartbeat() -> bytes:
    """The comment by which a server says that it lives."""
    return b": ping\r\n\r\n"


def pause(seconds: float) -> Pause:
    """Wait, before the next step."""
    return Pause(seconds)


def close(data: str = "done") -> bytes:
    """The end of a run; a stream that ends without it was cut off."""
    return message(data, event="close")


# --- the transport ----------------------------------------------------------------------------------------------------


def _steps(steps: Iterable[Step]) -> tuple[Step, ...]:
    return tuple(steps)


def _stream_headers() -> dict[str, str]:
    return dict(EVENT_STREAM)


@attrs.frozen
class Reply:
    """What one request is answered with."""

    steps: tuple[Step, ...] = attrs.field(default=(), converter=_steps)
    status: int = attrs.field(default=200, kw_only=True)
    headers: Mapping[str, str] = attrs.field(factory=_stream_headers, kw_only=True)
    before: Pause | Wait | Exception | None = attrs.field(default=None, kw_only=True)
    """What happens before the headers come: a wait, or an error in the place of a response."""
    left: Callable[[HTTPRequest], object] | None = attrs.field(default=None, kw_only=True)
    """Called when the exchange has ended, for whatever reason."""

    @classmethod
    def json(cls, value: Any, *, status: int = 200) -> Reply:
        """A JSON document."""
        return cls((json.dumps(value).encode(),), status=status, headers={"content-type": "application/json"})


NOT_FOUND: Final = Reply.json({"detail": "Not Found"}, status=404)


def _anew(error: Exception) -> Exception:
    """An error as it was scripted: whoever raised it before may have written into it."""
    return copy.copy(error) if isinstance(error, OxyError) else error


async def _wait(step: Pause | Wait) -> None:
    await (anyio.sleep(step.seconds) if isinstance(step, Pause) else step())


class FakeTransport:
    """A scripted transport.

    `FakeTransport.script(tool_call("search"), answer("42"), close())` answers every run in this way; more is said by a
    table from path to replies, which are used up in their order. A path that is not in the table is a 404, as on a
    server.
    """

    requests: list[HTTPRequest]
    """What was sent, in its order."""
    left: list[HTTPRequest]
    """Those whose exchange has ended, for whatever reason, in that order."""
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
        """A transport that answers every run with `steps`. Without `close()` at their end the run was cut off."""
        return cls({"/sse/chat": Reply(steps)})

    @property
    def payloads(self) -> list[dict[str, Any]]:
        """The payloads of the runs, in their order."""
        return [cast("dict[str, Any]", json.loads(request.body)) for request in self.requests if request.body]

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`.

        Raises:
            ConfigurationError: the script has no reply left for this path.
            ClosedError: it was closed.
        """
        self._closed.check(self)
        self.requests.append(request)
        reply = self._reply(request.path.partition("?")[0])
        try:
            await anyio.lowlevel.checkpoint()
            if isinstance(reply.before, Exception):
                raise _anew(reply.before)
            if reply.before is not None:
                await _wait(reply.before)
            headers = {name.lower(): value for name, value in reply.headers.items()}
            yield HTTPResponse(reply.status, headers, _Chunks(reply.steps), request)
        finally:
            self.left.append(request)
            if reply.left is not None:
                reply.left(request)

    def _reply(self, path: str) -> Reply:
        if path in self._always:
            return self._always[path]
        if path not in self._queues:
            return NOT_FOUND
        for reply in self._queues[path]:
            return reply
        raise ConfigurationError(f"FakeTransport: there is no reply left for {path}")

    async def aclose(self) -> None:
        """As `Transport.aclose`."""
        self.closed = True
        self._closed.note()


class _Chunks:
    """The steps of a reply, as they are read."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = iter(steps)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for step in self._steps:
            if isinstance(step, bytes):
                return step
            if isinstance(step, Exception):
                raise _anew(step)
            await _wait(step)
        raise StopAsyncIteration
