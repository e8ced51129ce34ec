"""A run as a stream: complete and cut streams, partial results, leaving early, cancellation and trace ids.

Rule 1: every run is scripted and time is virtual, so a pause costs nothing.
Rule 2: trace ids live as long as the process, so a test that sets one uses a server of its own.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import re
import weakref
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import anyio.lowlevel
import attrs
import pytest
import trio
from anyio.lowlevel import current_token
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import (
    Answer,
    Custom,
    Event,
    EventRouter,
    Limits,
    Outcome,
    OxyRequest,
    OxyResponse,
    OxyState,
    Progress,
    RemoteErrorEvent,
    Retry,
    SSEOxyGent,
    Text,
    TextDelta,
    Timeouts,
    ToolCall,
    errors,
)
from oxygent_client._core.ids import new_id
from oxygent_client.testing import (
    FakeTransport,
    Pause,
    Reply,
    answer,
    close,
    delta,
    heartbeat,
    message,
    pause,
    progress,
    text,
    tool_call,
)
from tests.support.plain import plain
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence

    from oxygent_client import HTTPRequest, HTTPResponse, Run
    from oxygent_client.testing import Step

URL: Final = "https://user:secret@remote.test/base?token=secret"
SHOWN: Final = "https://remote.test/base"
FOREVER: Final = pause(math.inf)
ERROR: Final = message({"type": "error", "content": "no tool"})


def legacy(data: str) -> bytes:
    """Return an event as servers of 1.0.8 send it: without an `event:` line."""
    return f"data: {data}\n\n".encode()


LEGACY_ANSWER: Final = legacy('{"type": "answer", "content": "42"}')


@attrs.define
class Played:
    """The events, the outcome and the duration of one run."""

    events: list[Event]
    run: Run
    error: errors.OxyError | None
    transport: FakeTransport
    seconds: float

    @property
    def result(self) -> Any:
        """The output, or the class of the error."""
        return self.run.response.output if self.error is None else type(self.error)


async def play(transport: FakeTransport, *, url: str = URL, **options: Any) -> Played:
    """Read a run to its end or to its error."""
    began = anyio.current_time()
    run = plain(server_url=url, transport=transport, **options).stream("hi")
    events: list[Event] = []
    error = None
    try:
        async with run:
            async for event in run:
                events.append(event)  # noqa: PERF401  (the events before an error count)
    except errors.OxyError as caught:
        error = caught
    assert transport.left == transport.requests, "an exchange was not left"
    return Played(events, run, error, transport, anyio.current_time() - began)


def shown(events: Iterable[Event]) -> list[tuple[str, Any]]:
    """Return (class name, content) of each event."""
    return [(type(event).__name__, event.content) for event in events]


# --------------------------------------------------------------------------------------------- Complete and cut streams

STREAMS: Final[dict[str, tuple[list[bytes], Any, Outcome]]] = {
    # stream: (the bytes, the result if the stream is complete, the outcome if it is cut)
    "nothing": ([], errors.NoAnswerError, Outcome.UNKNOWN),
    "heartbeat": ([heartbeat()], errors.NoAnswerError, Outcome.UNKNOWN),
    "no answer": ([progress(1), tool_call("search")], errors.NoAnswerError, Outcome.STARTED),
    "answer": ([answer("42")], "42", Outcome.STARTED),
    "answer first": ([answer({"a": [1]}), progress(1)], {"a": [1]}, Outcome.STARTED),
    "several answers": ([answer("1"), answer("2"), answer("3")], "3", Outcome.STARTED),
    "no content": ([message({"type": "answer"})], None, Outcome.STARTED),
    "error": ([ERROR], errors.RemoteAgentError, Outcome.STARTED),
    "error, answer": ([ERROR, answer("42")], "42", Outcome.STARTED),
    "answer, error": ([answer("42"), ERROR], "42", Outcome.STARTED),
    "says done": ([answer("42"), text("done")], "42", Outcome.STARTED),
    "legacy": ([LEGACY_ANSWER], "42", Outcome.STARTED),
    "legacy, no answer": ([legacy("hello")], errors.NoAnswerError, Outcome.STARTED),
}
UNNAMED: Final = frozenset({"nothing", "heartbeat", "legacy", "legacy, no answer"})
"""The streams in which no event has a name, as servers of 1.0.8 send them."""
DONE: Final = legacy("done")
ENDS: Final[dict[str, tuple[Sequence[Step], bool, bool]]] = {
    # end: (the steps, whether the stream is then complete, and whether it is if no event of it had a name)
    "close": ([close()], True, True),
    "close with other data": ([close("bye")], True, True),
    "close without data": ([b"event: close\ndata\n\n"], True, True),
    "close with JSON": ([close('{"type": "answer", "content": "no"}')], True, True),
    "close, then more": ([close() + answer("late"), answer("later")], True, True),
    "close, then a reset": ([close(), errors.ConnectionLostError("reset")], True, True),
    "close, then for ever": ([close(), FOREVER], True, True),
    "end of stream": ([], False, False),
    "reset": ([errors.ConnectionLostError("reset")], False, False),
    "cut chunk": ([errors.RemoteProtocolError("incomplete chunked read")], False, False),
    "close cut in its name": ([b"event: clo"], False, False),
    "close without its blank line": ([b"event: close\r\ndata: done\r\n"], False, False),
    "done, end of stream": ([DONE], False, True),
    "done, reset": ([DONE, errors.ConnectionLostError("reset")], False, True),
    "done, cut chunk": ([DONE, errors.RemoteProtocolError("incomplete chunked read")], False, True),
    "done, close": ([DONE, close()], True, True),
    "done and close at once": ([DONE + close()], True, True),
    "done, heartbeats": ([DONE, *(pause(0.5), heartbeat()) * 100], False, True),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("stream", STREAMS)
async def test_terminal_contract(stream: str, end: str) -> None:
    """A stream is complete after `close`, or after a last `done` if no event had a name; any other end is a cut."""
    pieces, result, outcome = STREAMS[stream]
    steps, ends_named, ends_unnamed = ENDS[end]
    played = await play(FakeTransport.script(*pieces, *steps))
    is_complete = ends_unnamed if stream in UNNAMED else ends_named
    assert played.result == (result if is_complete else errors.IncompleteStreamError)
    assert played.run.outcome == (Outcome.COMPLETED if is_complete else outcome)
    if played.error is not None:
        assert played.error.outcome == played.run.outcome
        assert played.error.trace_id == played.run.trace_id
        assert played.error.server_url == SHOWN
        assert played.error.partial == played.run.partial
        assert shown(played.run.partial.events) == shown(played.events)


SILENT: Final[dict[str, tuple[Any, Outcome]]] = {
    **dict.fromkeys(STREAMS, (errors.IdleTimeoutError, Outcome.STARTED)),
    "heartbeat": (errors.SilenceTimeoutError, Outcome.STARTED),
    "legacy": ("42", Outcome.COMPLETED),
}


@pytest.mark.parametrize("stream", SILENT)
async def test_silence_after_done(stream: str) -> None:
    """Silence after a `done` ends a legacy stream with an answer; any other run then times out."""
    played = await play(FakeTransport.script(*STREAMS[stream][0], DONE, FOREVER))
    result, outcome = SILENT[stream]
    assert played.result == result
    assert played.run.outcome is outcome


LATE: Final = legacy('{"type": "answer", "content": "late"}')
SAYS_DONE: Final = ("Text", "done")
AFTER_DONE: Final[dict[str, tuple[Sequence[Step], Any, list[tuple[str, Any]]]]] = {
    # what comes: (the steps, the result, the events)
    "at once": ([DONE + LATE, close()], "late", [SAYS_DONE, ("Answer", "late")]),
    "works on": ([DONE, pause(590), LATE, close()], "late", [SAYS_DONE, ("Answer", "late")]),
    "in time": (
        [LEGACY_ANSWER, DONE, pause(1.9), LATE, close()],
        "late",
        [("Answer", "42"), SAYS_DONE, ("Answer", "late")],
    ),
    "too late": ([LEGACY_ANSWER, DONE, pause(2.1), LATE, close()], "42", [("Answer", "42")]),
    "twice": ([DONE, DONE, LEGACY_ANSWER, DONE], "42", [SAYS_DONE, SAYS_DONE, ("Answer", "42")]),
    "then names": ([DONE, answer("42"), text("done"), close()], "42", [SAYS_DONE, ("Answer", "42"), SAYS_DONE]),
    "names in the same piece": ([DONE + answer("42") + DONE + close()], "42", [SAYS_DONE, ("Answer", "42"), SAYS_DONE]),
    "name after data": ([b"data: done\nevent: message\n\n", answer(1), close()], 1, [SAYS_DONE, ("Answer", 1)]),
    "cut after more": ([DONE, legacy("x")], errors.IncompleteStreamError, [SAYS_DONE, ("Text", "x")]),
    "not quite": (
        [LEGACY_ANSWER, legacy("done ")],
        errors.IncompleteStreamError,
        [("Answer", "42"), ("Text", "done ")],
    ),
}


@pytest.mark.parametrize("name", AFTER_DONE)
async def test_done_in_a_legacy_stream(name: str) -> None:
    """A legacy `done` that another event follows is a text of the agent, and the run goes on."""
    steps, result, events = AFTER_DONE[name]
    played = await play(FakeTransport.script(*steps))
    assert played.result == result
    assert shown(played.events) == events


async def test_user_time_does_not_end_a_legacy_run() -> None:
    """The two seconds after a legacy `done` count only while the client waits, not while the caller works."""
    agent = plain(
        server_url=URL, transport=FakeTransport.script(LEGACY_ANSWER + DONE, pause(1.5), legacy("more"), close())
    )
    async with agent.stream("hi") as run:
        seen: list[Event] = []
        async for event in run:
            await anyio.sleep(60)
            seen.append(event)
    assert shown(seen) == [("Answer", "42"), ("Text", "done"), ("Text", "more")]


NOTHING: Final = type(None)
ERROR_TEXTS: Final[dict[str, tuple[type[errors.OxyError], str, type[object], Sequence[Step]]]] = {
    # name: (class, what its text shows, class of its cause, script)
    "no end": (errors.IncompleteStreamError, "close", NOTHING, [progress(1)]),
    "a loss": (
        errors.IncompleteStreamError,
        "reset",
        errors.ConnectionLostError,
        [progress(1), errors.ConnectionLostError("reset")],
    ),
    "no answer": (errors.NoAnswerError, "answer", NOTHING, [close()]),
    "a reported text": (errors.RemoteAgentError, "no tool", NOTHING, [ERROR, close()]),
    "a reported object": (
        errors.RemoteAgentError,
        "{'a': 1}",
        NOTHING,
        [message({"type": "error", "content": {"a": 1}}), close()],
    ),
}


@pytest.mark.parametrize(("cls", "shown", "cause", "steps"), ERROR_TEXTS.values(), ids=ERROR_TEXTS)
async def test_error_texts(cls: type[errors.OxyError], shown: str, cause: type[object], steps: Sequence[Step]) -> None:
    """The text of an error shows what the server or the connection reported, and its cause is the transport's error."""
    error = (await play(FakeTransport.script(*steps))).error
    assert error is not None
    assert type(error) is cls
    assert shown in str(error)
    assert type(error.__cause__) is cause


# ----------------------------------------------------------------------------------------------------- Results of a run


async def test_a_complete_run() -> None:
    """A complete run gives typed events in order, and its outcome, text and response."""
    script = [delta("4"), heartbeat(), delta("2"), tool_call("search"), progress({"p": 1}), text("hello"), answer("42")]
    transport = FakeTransport.script(*script, message([1]), close())
    agent = plain(server_url=URL, transport=transport)
    run = agent.stream("hi", trace_id="")
    assert run.remote_trace_id == ""
    assert run.text == ""
    assert repr(run) == f"<Run {run.trace_id} not_sent>"
    outcomes = [run.outcome]
    async with run as entered:
        assert entered is run
        outcomes.append(run.outcome)
        events: list[Event] = []
        async for event in run:
            outcomes.append(run.outcome)
            events.append(event)
            with pytest.raises(errors.ClosedError, match="events have not come to their end"):
                _ = run.response
    kinds = [TextDelta, TextDelta, ToolCall, Progress, Text, Answer, Custom]
    assert [type(event) for event in events] == kinds
    assert outcomes == [Outcome.NOT_SENT, Outcome.UNKNOWN, *[Outcome.STARTED] * 7]
    assert run.outcome is Outcome.COMPLETED
    assert run.text == "42"
    assert run.partial.dropped == 0
    assert run.partial.events == (*events,)
    response = run.response
    assert response.state is OxyState.COMPLETED
    assert response.output == "42"
    assert response.extra == {"trace_id": run.trace_id, "remote_trace_id": run.trace_id}
    assert transport.payloads[0]["current_trace_id"] == run.trace_id


async def test_misuse() -> None:
    """Reading before entering, entering twice and two readers at once are errors."""
    agent = plain(server_url=URL, transport=FakeTransport.script(progress(1), FOREVER))
    run = agent.stream("hi")
    with pytest.raises(errors.ClosedError, match="enter the run first"):
        await anext(run)
    async with run:
        with pytest.raises(errors.ClosedError, match="entered once"):
            await run.__aenter__()
        assert type(await anext(run)) is Progress
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anext, run, None)
            await anyio.sleep(1)
            with pytest.raises(errors.ConfigurationError, match="one reader at a time"):
                await anext(run)
            tasks.cancel_scope.cancel()
        # The reader was cancelled, so the exchange is closed: there are no more events and no response.
        with pytest.raises(errors.ClosedError):
            await anext(run)
        with pytest.raises(errors.ClosedError):
            await run.final_response()
    assert run.outcome is Outcome.STARTED


async def _cut_read(run: Run) -> None:
    """Wait for the next event in a cancel scope that expires."""
    with anyio.move_on_after(1) as scope:
        await anext(run)
    assert scope.cancelled_caught


async def _own_limit(run: Run) -> None:
    """Wait for the next event under a time-out of the event loop's own library."""
    with pytest.raises((TimeoutError, trio.TooSlowError)):
        if isinstance(current_token().native_token, asyncio.AbstractEventLoop):
            await asyncio.wait_for(anext(run), 1)
        else:
            with trio.fail_after(1):
                await anext(run)


async def _leave(run: Run) -> None:
    await run.__aexit__(None, None, None)


async def _close_generator(run: Run) -> None:
    """Close a generator of the user's that holds the run open while it is suspended at a yield."""

    async def relay() -> AsyncGenerator[Event, None]:
        try:
            async for event in run:
                yield event
        finally:
            await run.__aexit__(None, None, None)

    events = relay()
    await events.asend(None)
    await events.aclose()


def _fails_by(expected: type[errors.OxyError]) -> Callable[[Run], Awaitable[None]]:
    async def read(run: Run) -> None:
        with pytest.raises(expected):
            async for _ in run:
                pass

    return read


async def _refuse(content: Any) -> None:
    raise ValueError(content)


HALF: Final = (progress(1),)
UNFINISHED: Final[dict[str, tuple[Callable[[Run], Awaitable[None]], tuple[Any, ...], dict[str, Any]]]] = {
    # name: (how the run ends early, its steps, the agent's options)
    "a scope around one read": (_cut_read, (FOREVER,), {}),
    "a scope around one read, and bytes before": (_cut_read, (progress(1)[:9], FOREVER), {}),
    "the event loop's own limit of time": (_own_limit, (FOREVER,), {}),
    "the block is left": (_leave, (*HALF, FOREVER), {}),
    "a generator around it is closed": (_close_generator, (*HALF, FOREVER), {}),
    "the stream is cut": (_fails_by(errors.IncompleteStreamError), HALF, {}),
    "the connection breaks": (
        _fails_by(errors.IncompleteStreamError),
        (*HALF, errors.ConnectionLostError("reset")),
        {},
    ),
    "total": (_fails_by(errors.DeadlineExceededError), (*HALF, FOREVER), {"timeouts": Timeouts(total=5)}),
    "idle": (_fails_by(errors.IdleTimeoutError), (*HALF, FOREVER), {"timeouts": Timeouts(idle=5)}),
    "no answer": (_fails_by(errors.NoAnswerError), (*HALF, close()), {}),
    "an error of the remote": (_fails_by(errors.RemoteAgentError), (message({"type": "error"}), close()), {}),
    "too large": (
        _fails_by(errors.TooLargeError),
        (*HALF, b"data: " + b"x" * 2000),
        {"limits": Limits(event_bytes=999)},
    ),
    "a handler fails": (
        _fails_by(errors.HandlerError),
        (*HALF, answer("42"), close()),
        {"event_handlers": {"progress": _refuse}},
    ),
    "the failure detector": (
        _fails_by(errors.RemoteAgentError),
        (answer("42"), close()),
        {"failure_detector": bool},
    ),
}


@pytest.mark.parametrize("name", UNFINISHED)
async def test_reading_after_an_early_end(name: str) -> None:
    """A run that was left, cancelled or failed never looks complete: each later read raises ClosedError."""
    end, steps, options = UNFINISHED[name]
    agent = plain(server_url=URL, transport=FakeTransport.script(*steps), **options)
    async with agent.stream("hi") as run:
        await end(run)
        for _ in range(2):
            with pytest.raises(errors.ClosedError):
                await anext(run)
        with pytest.raises(errors.OxyError) as inside:
            await run.final_response()
    with pytest.raises(errors.ClosedError) as after:
        await anext(run, None)
    with pytest.raises(errors.OxyError) as response:
        _ = run.response
    assert after.value.outcome == run.outcome
    assert after.value.trace_id == run.trace_id
    assert after.value.server_url == SHOWN
    assert after.value.partial == run.partial
    assert type(inside.value) is type(response.value)


async def test_a_failed_start() -> None:
    """If entering the block failed, reading raises ClosedError and `final_response` raises the first error."""
    run = plain(server_url=URL, transport=FakeTransport({})).stream("hi")
    with pytest.raises(errors.NotFoundError):
        await run.__aenter__()
    with pytest.raises(errors.ClosedError) as caught:
        await anext(run)
    assert type(caught.value.__cause__) is errors.NotFoundError
    with pytest.raises(errors.NotFoundError):
        await run.final_response()


async def test_final_response() -> None:
    """`final_response` reads the rest of the run; if the run failed, it raises the same error each time."""
    agent = plain(server_url=URL, transport=FakeTransport.script(progress(1), progress(2), answer(42), close()))
    async with agent.stream("hi") as run:
        assert type(await anext(run)) is Progress
        first = await run.final_response()
        assert first.output == 42
        assert await run.final_response() == first
    cut = plain(server_url=URL, transport=FakeTransport.script(progress(1)))
    async with cut.stream("hi") as run:
        for _ in range(2):
            with pytest.raises(errors.IncompleteStreamError):
                await run.final_response()
    with pytest.raises(errors.IncompleteStreamError):
        _ = run.response


# ------------------------------------------------------------------------------------------------------ Partial results


MANY: Final = [progress(n) for n in range(1203)]
WIDE: Final = [message("é" * 1000) for _ in range(600)]  # 2,000 bytes each: 524 of them are within 1 MiB
DEEP: Final = message("[" * 99 + "]" * 99)
KEPT: Final[dict[str, tuple[Sequence[Step], Limits, tuple[int, int, str, Any]]]] = {
    # case: (the steps, limits, (events kept, events dropped, text, answer))
    "nothing": ([], Limits(), (0, 0, "", None)),
    "all kinds": ([delta("a"), answer(1), delta("b"), answer([2]), ERROR], Limits(), (5, 0, "ab", [2])),
    "a thousand": (MANY, Limits(), (1000, 203, "", None)),
    "1 MiB": (WIDE, Limits(), (524, 76, "", None)),
    "few": ([delta("a"), answer(1), delta("b")], Limits(partial_events=1), (1, 2, "ab", 1)),
    "one too large": ([delta("a" * 99), delta("b")], Limits(partial_bytes=100), (1, 1, "a" * 99 + "b", None)),
    "nothing fits": ([delta("a" * 99)], Limits(partial_bytes=10), (0, 1, "a" * 99, None)),
    "a problem": ([delta("a"), DEEP, delta("b")], Limits(depth=50), (3, 0, "ab", None)),
    "a problem that does not fit": ([DEEP], Limits(depth=50, partial_bytes=10), (0, 1, "", None)),
}


@pytest.mark.parametrize("name", KEPT)
async def test_partial_result(name: str) -> None:
    """An error carries the events, the text, the last answer and the number of dropped events."""
    steps, limits, expected = KEPT[name]
    played = await play(FakeTransport.script(*steps), limits=limits)
    assert played.error is not None
    partial_ = played.error.partial
    assert partial_ is not None
    assert (len(partial_.events), partial_.dropped, partial_.text, partial_.answer) == expected
    assert (*played.events[partial_.dropped :],) == partial_.events


PIECE: Final = delta("a") + progress(2) + answer(3) + delta("b")
NOT_HANDED_OUT: Final[dict[str, tuple[bytes, list[tuple[str, Any]], Outcome]]] = {
    "running": (PIECE, [("Progress", 2), ("Answer", 3)], Outcome.STARTED),
    "over": (PIECE + close() + answer("late"), [("Progress", 2), ("Answer", 3)], Outcome.COMPLETED),
    "too deep": (
        PIECE + DEEP + progress(4),
        [("Progress", 2), ("Answer", 3), ("Text", "[" * 99 + "]" * 99), ("Progress", 4)],
        Outcome.STARTED,
    ),
}


@pytest.mark.parametrize("name", NOT_HANDED_OUT)
async def test_partial_result_includes_events_not_handed_out(name: str) -> None:
    """If a handler fails, the partial result includes the events received after its event, up to `close`."""
    sent, middle, outcome = NOT_HANDED_OUT[name]
    played = await play(FakeTransport.script(sent), event_handlers={"progress": _fail}, limits=Limits(depth=50))
    assert isinstance(played.error, errors.HandlerError)
    assert played.error.partial is not None
    events = played.error.partial.events
    assert [row for row in shown(events) if row[0] != "TextDelta"] == middle
    assert played.run.text == "ab"
    assert played.error.partial.answer == 3
    assert played.error.outcome == outcome
    assert len(played.events) == 1


@pytest.mark.parametrize(
    ("steps", "result", "events"),
    [
        ([DONE, FOREVER], errors.IdleTimeoutError, [("Text", "done")]),
        ([DONE], errors.NoAnswerError, []),
        ([DONE, close()], errors.NoAnswerError, []),
    ],
    ids=["a time-out", "the end of the stream", "close"],
)
async def test_legacy_done_in_the_partial_result(steps: Sequence[Step], result: Any, events: list[Any]) -> None:
    """A legacy `done` is kept as an event if the run fails, and is no event if it ended the run."""
    played = await play(FakeTransport.script(*steps), timeouts=Timeouts(idle=1))
    assert played.result == result
    assert shown(played.run.partial.events) == events


LARGE: Final = message("x" * 5000)
OVER_A_LIMIT: Final[dict[str, tuple[list[bytes], Limits, str]]] = {
    "event": ([progress(1), LARGE], Limits(event_bytes=1000), "event_bytes"),
    "event, one piece": ([progress(1) + LARGE + progress(2)], Limits(event_bytes=1000), "event_bytes"),
    "event, unnamed": ([legacy("1") + legacy("x" * 5000)], Limits(event_bytes=1000), "event_bytes"),
    "line": ([progress(1) + LARGE], Limits(line_bytes=1000), "line_bytes"),
    "stream": ([progress(1) + LARGE], Limits(stream_bytes=1000), "stream_bytes"),
}


@pytest.mark.parametrize("name", OVER_A_LIMIT)
async def test_limits(name: str) -> None:
    """Data over a limit ends the run with TooLargeError, after the events before it were handed out."""
    pieces, limits, word = OVER_A_LIMIT[name]
    played = await play(FakeTransport.script(*pieces), limits=limits)
    assert played.result == errors.TooLargeError
    assert len(played.events) == 1
    assert played.error is not None
    assert f"Limits.{word} " in str(played.error)
    assert played.error.outcome is Outcome.STARTED


# ----------------------------------------------------------------------------------------------------- Chunk boundaries

WHOLE_STREAMS: Final = {
    "modern": progress(1) + heartbeat() + delta("é🚀") + text("done") + answer({"a": 1}) + close() + answer("late"),
    "no answer": delta("a") + tool_call("search") + close("bye"),
    "cut": delta("a") + answer(1) + b"event: message\r\ndata: 2\r\n",
    "legacy": legacy("hi") + LEGACY_ANSWER + DONE,
    "legacy, close": legacy("hi") + LEGACY_ANSWER + DONE + b"event: close\ndata: done\n\n",
    "legacy, done is a word": DONE + LEGACY_ANSWER + DONE + DONE,
    "names come late": DONE + legacy("x") + DONE + answer(1) + DONE + close(),
    "names in the block of done": b"data: done\nevent: message\n\n" + LEGACY_ANSWER + close(),
    "error": ERROR + b"\n\n" + close(),
    "too large": progress(1) + DONE + message("x" * 300) + answer(1) + close(),
    "carriage returns": (DONE + LEGACY_ANSWER + DONE + close()).replace(b"\r\n", b"\n").replace(b"\n", b"\r"),
}


@given(
    stream_name=st.sampled_from([*WHOLE_STREAMS]),
    thousandths=st.lists(st.integers(0, 999), min_size=1, max_size=20, unique=True),
)
async def test_chunk_boundaries(stream_name: str, thousandths: list[int]) -> None:
    """The events, the result and the partial result do not depend on how the stream is cut into chunks."""
    stream = WHOLE_STREAMS[stream_name]
    cuts = sorted(len(stream) * at // 1000 for at in thousandths)
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    await _same(stream, pieces)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 40])
@pytest.mark.parametrize("stream_name", WHOLE_STREAMS)
async def test_byte_by_byte(stream_name: str, size: int) -> None:
    """Chunks of one byte, and of other fixed sizes, give the same run."""
    stream = WHOLE_STREAMS[stream_name]
    await _same(stream, [stream[at : at + size] for at in range(0, len(stream), size)])


async def _same(stream: bytes, pieces: list[bytes]) -> None:
    limits = Limits(event_bytes=256)
    whole = await play(FakeTransport.script(stream), limits=limits)
    cut = await play(FakeTransport.script(*pieces), limits=limits)
    assert whole.result == cut.result
    assert shown(whole.events) == shown(cut.events)
    assert whole.run.partial == cut.run.partial
    assert whole.run.outcome == cut.run.outcome
    assert str(whole.error) == str(cut.error)


# --------------------------------------------------------------------------------- Responses that are not event streams


PLAIN_TEXT: Final = {"content-type": "text/plain"}
NO_STREAM: Final[dict[str, tuple[Reply, type[errors.OxyError], Outcome, str]]] = {
    "401": (Reply([b"who?"], status=401, headers=PLAIN_TEXT), errors.AuthenticationError, Outcome.REJECTED, "who?"),
    "403": (Reply([b"no"], status=403, headers=PLAIN_TEXT), errors.PermissionDeniedError, Outcome.REJECTED, "no"),
    "404": (Reply.json({}, status=404), errors.NotFoundError, Outcome.REJECTED, "{}"),
    "429": (Reply(status=429, headers=PLAIN_TEXT), errors.RateLimitedError, Outcome.REJECTED, ""),
    "302": (Reply(status=302, headers=PLAIN_TEXT), errors.RedirectError, Outcome.REJECTED, ""),
    "500, a stream": (Reply([b"x" * 99], status=500), errors.ServerError, Outcome.UNKNOWN, "x" * 20),
    "503": (Reply(status=503, headers=PLAIN_TEXT), errors.ServerError, Outcome.UNKNOWN, ""),
    "503, later": (Reply(status=503, headers={"retry-after": "3"}), errors.ServerError, Outcome.REJECTED, ""),
    "204": (Reply(status=204), errors.StatusError, Outcome.UNKNOWN, ""),
    "broken body": (
        Reply([b"ab", errors.ConnectionLostError()], status=500),
        errors.ServerError,
        Outcome.UNKNOWN,
        "ab",
    ),
    "endless body": (Reply([b"ab", FOREVER], status=500), errors.ServerError, Outcome.UNKNOWN, "ab"),
}


@pytest.mark.parametrize("name", NO_STREAM)
async def test_error_statuses(name: str) -> None:
    """An error status raises its typed error, which holds the first bytes of the body."""
    reply, cls, outcome, body = NO_STREAM[name]
    played = await play(FakeTransport({"/sse/chat": reply}), limits=Limits(error_body_bytes=20))
    error = played.error
    assert isinstance(error, errors.StatusError)
    assert type(error) is cls
    assert error.outcome == outcome
    assert error.body == body
    assert error.status == reply.status
    assert error.partial is None
    assert round(played.seconds, 6) == (0.0 if name != "endless body" else 5.0)


def coded(coding: str) -> dict[str, str]:
    """Return the headers of an event stream with this content coding."""
    return {"content-type": "text/event-stream", "content-encoding": coding}


@pytest.mark.parametrize(
    ("reply", "expected", "outcome"),
    [
        (Reply([b"<html>"], headers={"content-type": "text/html"}), errors.NotAnEventStreamError, Outcome.UNKNOWN),
        (Reply([close()], headers={}), errors.NotAnEventStreamError, Outcome.UNKNOWN),
        (Reply([close()], headers=coded("br")), errors.NotAnEventStreamError, Outcome.STARTED),
        (Reply([close()], headers=coded("GZIP")), errors.IncompleteStreamError, Outcome.UNKNOWN),
        (Reply.json({"code": 400, "message": "no", "data": {}}), errors.EnvelopeError, Outcome.UNKNOWN),
        (Reply.json([]), errors.NotAnEventStreamError, Outcome.UNKNOWN),
        (
            Reply(
                [answer("42"), close()], headers={**coded(" identity"), "content-type": "Text/Event-Stream ; charset=x"}
            ),
            "42",
            Outcome.COMPLETED,
        ),
    ],
    ids=["login page", "no type", "a coding that is not supported", "not in its coding", "envelope", "json", "well"],
)
async def test_a_200_that_is_not_an_event_stream(reply: Reply, expected: Any, outcome: Outcome) -> None:
    """A 200 with another content type, or with a body that cannot be decoded, is a typed error."""
    played = await play(FakeTransport({"/sse/chat": reply}))
    assert played.result == expected
    assert played.run.outcome is outcome


async def test_iterating_after_the_end() -> None:
    """Iterating again over a complete run gives no events."""
    async with plain(server_url=URL, transport=FakeTransport.script(answer("42"), close())).stream("hi") as run:
        assert len([event async for event in run]) == 1
        assert [event async for event in run] == []


# ---------------------------------------------------------------------------------------------------- Leaving the block


class Closing(FakeTransport):
    """A transport whose exchanges are slow to close, or fail to."""

    seconds: float = 0.0
    failure: Exception | None = None

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        async with super().exchange(request) as response:
            try:
                yield response
            finally:
                await anyio.sleep(self.seconds)
                if self.failure is not None:
                    raise self.failure


class Stop(BaseException):
    """An exception that does not derive from `Exception`."""


async def test_leaving_early() -> None:
    """Leaving the block by `break` closes the exchange; then there is no response and no more events."""
    transport = FakeTransport.script(progress(1) + progress(2), FOREVER)
    async with plain(server_url=URL, transport=transport).stream("hi") as run:
        async for _ in run:
            break
        assert transport.left == []
    assert transport.requests == transport.left
    assert run.outcome is Outcome.STARTED
    with pytest.raises(errors.ClosedError):
        _ = run.response
    with pytest.raises(errors.ClosedError):
        await anext(run)


@pytest.mark.parametrize("events", [0, 1])
@pytest.mark.parametrize(
    "own",
    [ValueError("own"), StopAsyncIteration(), Stop(), ExceptionGroup("own", [ValueError()]), errors.OxyError("own")],
)
async def test_leaving_by_an_exception(own: BaseException, events: int) -> None:
    """The user's exception leaves the block unchanged, before the first event and after it."""
    transport = FakeTransport.script(progress(1) + progress(2), FOREVER)
    with pytest.raises(type(own)) as caught:
        async with plain(server_url=URL, transport=transport).stream("hi") as run:
            for _ in range(events):
                await anext(run)
            raise own
    assert caught.value is own
    assert own.__cause__ is None
    assert own.__context__ is None
    assert transport.requests == transport.left


BYSTANDERS: Final[dict[str, tuple[Any, Any, dict[str, Any]]]] = {
    # name: (the reply to the run, the server's record, the agent's options); the name says where the reader waits after
    # 1 s
    "for bytes": (Reply((*HALF, FOREVER)), FOREVER, {}),
    "for bytes, with a clock that asks the record": (Reply((*HALF, FOREVER)), FOREVER, {"timeouts": Timeouts(idle=9)}),
    "for the record, beside the bytes": (
        Reply((*HALF, FOREVER)),
        FOREVER,
        {"timeouts": Timeouts(idle=0.5, lookup=99)},
    ),
    "for the record, after a cut": (Reply(HALF), FOREVER, {"timeouts": Timeouts(lookup=99)}),
    "for the record, at the end": (
        Reply((*HALF, answer("42"), close())),
        FOREVER,
        {"timeouts": Timeouts(lookup=99), "confirm_state": True},
    ),
}


@pytest.mark.parametrize("name", BYSTANDERS)
async def test_leaving_by_another_task(name: str) -> None:
    """If another task leaves the run, a waiting reader gets ClosedError at once and no more requests are sent."""
    reply, record, options = BYSTANDERS[name]
    transport = FakeTransport({"/sse/chat": reply, "/view": Reply(before=record)})
    agent = SSEOxyGent(server_url=URL, transport=transport, **options)
    caught: list[BaseException] = []

    async def read(run: Run) -> None:
        with pytest.raises(errors.ClosedError) as raised:
            async for _ in run:
                pass
        caught.append(raised.value)

    began, asked, run = anyio.current_time(), 0, agent.stream("hi")
    async with anyio.create_task_group() as tasks:
        async with run:
            tasks.start_soon(read, run)
            await anyio.sleep(1)
        assert anyio.current_time() == began + 1
        assert len(transport.left) == len(transport.requests)
        asked = len(transport.requests)
        await anyio.sleep(1000)
    assert len(transport.requests) == asked
    assert [type(each) for each in caught] == [errors.ClosedError]
    with pytest.raises(errors.ClosedError):
        await run.final_response()


async def test_leaving_while_a_handler_works() -> None:
    """Leaving while a handler works does not wait for the handler; its event is still handed out, and no other."""
    go, got = anyio.Event(), list[str | None]()

    async def slow(content: Any) -> None:
        await go.wait()

    transport = FakeTransport.script(*HALF, answer("42"), close())
    agent = plain(server_url=URL, transport=transport, event_handlers={"progress": slow})

    async def read(run: Run) -> None:
        with pytest.raises(errors.ClosedError):
            async for event in run:
                got.append(event.type)

    began = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        async with agent.stream("hi") as run:
            tasks.start_soon(read, run)
            await anyio.sleep(1)
        assert anyio.current_time() == began + 1
        assert transport.left == transport.requests
        go.set()
    assert got == ["progress"]


async def test_leaving_while_the_reader_closes() -> None:
    """Leaving while the reader closes the connection waits until it is closed."""
    transport = Closing({"/sse/chat": Reply((answer("42"), close()))})
    transport.seconds = 1.0
    agent = plain(server_url=URL, transport=transport)

    async def read(run: Run) -> None:
        assert (await run.final_response()).output == "42"

    async with anyio.create_task_group() as tasks:
        async with agent.stream("hi") as run:
            tasks.start_soon(read, run)
            await anyio.sleep(0.5)
        assert transport.left == transport.requests


async def test_leaving_before_the_record_is_requested() -> None:
    """A run that was left does not ask for the record any more, even if its reader was about to."""
    transport = Closing({"/sse/chat": Reply((answer("42"), close()))})
    transport.seconds = 1.0
    agent = SSEOxyGent(server_url=URL, transport=transport, confirm_state=True)

    async def read(run: Run) -> None:
        with pytest.raises(errors.ClosedError):
            await run.final_response()

    async with anyio.create_task_group() as tasks, agent.stream("hi") as run:
        tasks.start_soon(read, run)
        await anyio.sleep(0.5)
    assert len(transport.requests) == 1


CLOSINGS: Final[dict[str, tuple[float, Exception | None, float]]] = {
    "quick": (0.5, None, 0.5),
    "hangs": (math.inf, None, 2.0),
    "fails": (0.5, errors.ConnectionLostError("closing"), 0.5),
}


@pytest.mark.parametrize("name", CLOSINGS)
async def test_slow_closing(name: str) -> None:
    """Closing takes at most 2 seconds, also if the caller is cancelled; an error in closing is ignored."""
    seconds, failure, expected = CLOSINGS[name]
    transport = Closing({"/sse/chat": Reply([answer("42"), close()])})
    transport.seconds, transport.failure = seconds, failure
    played = await play(transport)
    assert played.result == "42"
    assert round(played.seconds, 6) == expected
    transport = Closing({"/sse/chat": Reply([progress(1), FOREVER])})
    transport.seconds, transport.failure = seconds, failure
    began = anyio.current_time()
    with anyio.move_on_after(10) as scope:
        async with plain(server_url=URL, transport=transport).stream("hi") as run:
            await anext(run)
            await anext(run)
    assert scope.cancelled_caught
    assert round(anyio.current_time() - began, 6) == 10 + expected
    assert transport.requests == transport.left


TAIL: Final = b":" + b"x" * 1023
DRAINED: Final[dict[str, tuple[Sequence[Step], int, float]]] = {
    "end": ([], 0, 0),
    "a little": ([b"\n", b"", b"\n"], 3, 0),
    "much": ([TAIL] * 100, 64, 0),
    "empty pieces": ([b""] * 10, 10, 0),
    "slow": ([pause(0.1), TAIL] * 100, 2, 0.25),
    "never": ([FOREVER], 0, 0.25),
    "broken": ([TAIL, errors.ConnectionLostError()], 1, 0),
}


@pytest.mark.parametrize("name", DRAINED)
async def test_draining(name: str) -> None:
    """After `close` the rest of the body is drained for at most 0.25 s and 64 KiB, so that the connection is reused."""
    read: list[int] = []

    class Counted:
        def __init__(self, chunks: AsyncIterator[bytes]) -> None:
            self._chunks = chunks

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self

        async def __anext__(self) -> bytes:
            piece = await anext(self._chunks)
            read.append(len(piece))
            return piece

    class Counting(FakeTransport):
        @asynccontextmanager
        async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
            async with super().exchange(request) as response:
                yield attrs.evolve(response, chunks=Counted(response.chunks))

    rest, pieces, seconds = DRAINED[name]
    read.clear()
    played = await play(Counting({"/sse/chat": Reply([answer("42") + close(), *rest])}))
    assert played.result == "42"
    assert len(read) == pieces + 1
    assert round(played.seconds, 6) == seconds


# --------------------------------------------------------------------------------------------------------- Cancellation


async def _by_scope(work: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    with anyio.move_on_after(seconds) as scope:
        await work()
    assert scope.cancelled_caught


async def _by_group(work: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await anyio.sleep(seconds)
        tasks.cancel_scope.cancel()


async def _by_task(work: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    task = asyncio.ensure_future(work())
    await asyncio.sleep(seconds)
    task.cancel("mine")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def _by_timeout(work: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(seconds):
            await work()
    assert type(caught.value) is TimeoutError


async def _by_wait_for(work: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    with pytest.raises(TimeoutError) as caught:
        await asyncio.wait_for(work(), seconds)
    assert type(caught.value) is TimeoutError


async def _by_trio(work: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    with pytest.raises(trio.TooSlowError):
        with trio.fail_after(seconds):
            await work()


async def _by_nursery(work: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()


NATIVE: Final = {"asyncio": (_by_task, _by_timeout, _by_wait_for), "trio": (_by_trio, _by_nursery)}


async def _hang(*anything: Any) -> None:
    await anyio.sleep_forever()


PLACES: Final[dict[str, tuple[dict[str, Reply], dict[str, Any], float, float]]] = {
    # where the run is: (the replies, the agent's options, when it is cancelled, how many seconds closing takes)
    "progress, before": ({}, {"progress_callback": _hang}, 5, 0),
    "discovering": ({"/get_organization": Reply(before=FOREVER)}, {"callee": "x"}, 5, 0),
    "opening": ({"/sse/chat": Reply(before=FOREVER)}, {}, 5, 0),
    "a refusal's body": ({"/sse/chat": Reply([FOREVER], status=500)}, {}, 3, 0),
    "waiting": ({"/sse/chat": Reply([FOREVER])}, {}, 5, 0),
    "waiting for more": ({"/sse/chat": Reply([progress(1), heartbeat(), FOREVER])}, {}, 5, 0),
    "after done": ({"/sse/chat": Reply([LEGACY_ANSWER, DONE, FOREVER])}, {}, 1, 0),
    "in a handler": ({"/sse/chat": Reply([progress(1)])}, {"event_handlers": {"progress": _hang}}, 5, 0),
    "draining": ({"/sse/chat": Reply([answer(1), close(), FOREVER])}, {}, 0.1, 0),
    "closing": ({"/sse/chat": Reply([answer(1), close()])}, {}, 1, 2),
    "closing a failure": ({"/sse/chat": Reply([answer(1)])}, {}, 1, 2),
    "in the block": ({"/sse/chat": Reply([text("stay"), FOREVER])}, {}, 5, 0),
}


async def _in_place(
    place: str, stop: Callable[[Callable[[], Coroutine[Any, Any, None]], float], Awaitable[None]]
) -> None:
    """Cancel a run at `place` by `stop`, then check the duration and that its exchange was closed."""
    replies, options, seconds, closing = PLACES[place]
    transport = Closing(replies)
    transport.seconds = math.inf if closing else 0.0
    agent = plain(server_url=URL, transport=transport, **options)
    out: list[BaseException] = []

    async def work() -> None:
        try:
            with suppress(errors.IncompleteStreamError):  # it had failed before it was cancelled
                async with agent.stream("hi") as run:
                    async for event in run:
                        if event.content == "stay":
                            await anyio.sleep_forever()
            await anyio.lowlevel.checkpoint()
        except BaseException as error:
            out.append(error)
            raise

    began = anyio.current_time()
    await stop(work, seconds)
    assert seconds - 0.01 <= anyio.current_time() - began <= (closing or seconds) + 0.01
    assert transport.requests == transport.left
    assert [isinstance(error, anyio.get_cancelled_exc_class()) for error in out] == [True]


@pytest.mark.parametrize("stop", [_by_scope, _by_group])
@pytest.mark.parametrize("place", PLACES)
async def test_cancellation(place: str, stop: Any) -> None:
    """A cancelled run ends at once, closes its exchange and raises the cancellation unchanged."""
    await _in_place(place, stop)


@pytest.mark.parametrize("place", PLACES)
async def test_native_cancellation(place: str, anyio_backend_name: str) -> None:
    """The same with the cancellation of asyncio or trio itself."""
    for stop in NATIVE[anyio_backend_name]:
        if place.startswith("closing") and anyio_backend_name == "asyncio":
            continue  # asyncio cannot shield these from cancellation: see the next test
        await _in_place(place, stop)


@pytest.mark.parametrize("place", ["closing", "closing a failure"])
async def test_native_cancellation_while_closing(anyio_backend_name: str, place: str) -> None:
    """A cancellation by asyncio itself interrupts closing at once and is not swallowed."""
    if anyio_backend_name == "trio":
        return
    for stop in NATIVE["asyncio"]:
        transport = Closing(PLACES[place][0])
        transport.seconds = math.inf
        agent = plain(server_url=URL, transport=transport)
        began = anyio.current_time()
        await stop(cast("Any", partial(agent.ask, "hi")), 1)
        assert anyio.current_time() - began == pytest.approx(1)
        assert transport.requests == transport.left


async def test_cancellation_with_buffered_events() -> None:
    """A loop over 10,000 buffered events notices a cancellation within 64 events."""
    transport = FakeTransport.script(b"".join(progress(n) for n in range(10_000)), close())
    seen = 0
    with anyio.CancelScope() as scope:
        async with plain(server_url=URL, transport=transport).stream("hi") as run:
            async for _ in run:
                seen += 1
                if seen == 100:
                    scope.cancel()
    assert scope.cancelled_caught
    assert 100 <= seen <= 164
    assert transport.requests == transport.left


async def test_yielding_to_other_tasks() -> None:
    """A run that always has events yields to other tasks at least every 64 events."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        await play(FakeTransport.script(*[progress(n) for n in range(1000)], answer(1), close()))
        tasks.cancel_scope.cancel()
    assert turns >= 1000 // 64


# --------------------------------------------------------------------------------------- Sending the same request again


async def _fail(content: Any) -> None:
    raise ValueError(content)


async def once(agent: SSEOxyGent, request: OxyRequest) -> OxyResponse:
    """Call `_execute` as a subclass does."""
    return await agent._execute(request)


AGAIN: Final[dict[str, tuple[Reply, dict[str, Any], Outcome, bool]]] = {
    # how the first run ended: (the reply, the agent's options, its outcome, whether the request may be sent again)
    "connection refused": (Reply(before=errors.ConnectError()), {}, Outcome.NOT_SENT, True),
    "401": (Reply(status=401), {}, Outcome.REJECTED, True),
    "429": (Reply(status=429), {}, Outcome.REJECTED, True),
    "503, retry-after": (Reply(status=503, headers={"retry-after": "1"}), {}, Outcome.REJECTED, True),
    "503": (Reply(status=503), {}, Outcome.UNKNOWN, False),
    "500": (Reply(status=500), {}, Outcome.UNKNOWN, False),
    "lost": (Reply(before=errors.ConnectionLostError()), {}, Outcome.UNKNOWN, False),
    "a login page": (Reply(headers={}), {}, Outcome.UNKNOWN, False),
    "cut at once": (Reply(), {}, Outcome.UNKNOWN, False),
    "cut": (Reply([progress(1)]), {}, Outcome.STARTED, False),
    "idle": (Reply([progress(1), FOREVER]), {}, Outcome.STARTED, False),
    "handler": (Reply([progress(1), FOREVER]), {"event_handlers": {"progress": _fail}}, Outcome.STARTED, False),
    "no answer": (Reply([close()]), {}, Outcome.COMPLETED, False),
    "error": (Reply([ERROR, close()]), {}, Outcome.COMPLETED, False),
}


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("how", AGAIN)
async def test_the_same_request_again(how: str, idempotent: bool) -> None:
    """Executing a request again that may have run raises its first error, unless the request is idempotent."""
    reply, options, outcome, may = AGAIN[how]
    transport = FakeTransport({"/sse/chat": reply})
    agent = plain(server_url=URL, transport=transport, **options)
    request = agent.prepared(OxyRequest(arguments={"query": "hi"}, idempotent=idempotent))
    with pytest.raises(errors.OxyError) as first:
        await once(agent, request)
    with pytest.raises(errors.OxyError) as second:
        await once(agent, request)
    assert first.value.outcome is outcome
    if may or idempotent:
        assert type(first.value) is type(second.value)
        assert len(transport.requests) == 2
    else:
        assert second.value is first.value
        assert len(transport.requests) == 1


@pytest.mark.parametrize(
    ("steps", "outcome"), [((), Outcome.UNKNOWN), ((progress(1),), Outcome.STARTED)], ids=["no event", "an event"]
)
async def test_the_same_request_again_after_cancellation(steps: Sequence[Step], outcome: Outcome) -> None:
    """Executing a request again whose run was cancelled raises IncompleteStreamError."""
    transport = FakeTransport.script(*steps, FOREVER)
    agent = plain(server_url=URL, transport=transport)
    request = agent.prepared(OxyRequest(arguments={"query": "hi"}))
    with anyio.move_on_after(1) as scope:
        await once(agent, request)
    assert scope.cancelled_caught
    with pytest.raises(errors.IncompleteStreamError, match="left before its end") as caught:
        await once(agent, request)
    error = caught.value
    assert error.outcome == outcome
    assert error.server_url == SHOWN
    assert error.trace_id == request.current_trace_id
    assert error.partial is not None
    assert len(error.partial.events) == len(steps)
    assert len(transport.requests) == 1


async def test_executing_twice() -> None:
    """`execute` works on a clone, so the same request may be executed again after any outcome."""
    transport = FakeTransport.script(progress(1))
    agent = plain(server_url=URL, transport=transport)
    request = OxyRequest(arguments={"query": "hi"})
    for sent in (1, 2):
        response = await agent.execute(request)
        assert response.state is OxyState.FAILED
        assert len(transport.requests) == sent
    well = plain(server_url=URL, transport=FakeTransport.script(answer(1), close()))
    prepared = well.prepared(request)
    assert [(await once(well, prepared)).output for _ in range(2)] == [1, 1]


@pytest.mark.parametrize(
    ("reply", "sent"),
    [(Reply([progress(1)]), 1), (Reply(before=errors.ConnectError()), 3)],
    ids=["started", "not sent"],
)
async def test_a_retry_loop_in_a_subclass(reply: Reply, sent: int) -> None:
    """A retry loop in a subclass sends a run once if it may have started, and three times if it did not."""

    class Stubborn(SSEOxyGent):
        async def _execute(self, oxy_request: OxyRequest) -> OxyResponse:
            for _ in range(2):
                try:
                    return await super()._execute(oxy_request)
                except Exception:  # noqa: BLE001  (as a careless program does)
                    await anyio.sleep(1)
            return await super()._execute(oxy_request)

    transport = FakeTransport({"/sse/chat": reply})
    with pytest.raises(errors.OxyError):
        await Stubborn(server_url=URL, transport=transport, retry=Retry(attempts=1)).ask("hi")
    assert len(transport.payloads) == sent


# ------------------------------------------------------------------------------------------------------------ Trace ids

RENAMED: Final = re.compile(r"t-[2-9A-HJ-NP-Za-km-z]{12}")


def own_server() -> str:
    """Return the URL of a server that no other test uses."""
    return f"http://{new_id().lower()}.test"


async def test_a_trace_id_in_use() -> None:
    """A trace id that is in use, or whose last run did not end cleanly, is replaced at the remote."""
    url = own_server()

    def agent(*steps: Step) -> tuple[SSEOxyGent, FakeTransport]:
        transport = FakeTransport.script(*steps)
        return plain(server_url=url, transport=transport), transport

    first, _ = agent(progress(1), answer(1), close())
    second, transport = agent(answer(2), close())
    async with first.stream("hi", trace_id="t") as run:
        await anext(run)
        assert run.trace_id == "t"
        assert run.remote_trace_id == "t"
        async with second.stream("hi", trace_id="t") as other:
            sent: str = transport.payloads[0]["current_trace_id"]
            assert RENAMED.fullmatch(sent)
            assert other.trace_id == "t"
            assert other.remote_trace_id == sent
            response = await other.final_response()
        assert response.extra == {"trace_id": "t", "remote_trace_id": sent}
        assert (await run.final_response()).output == 1
    # That run ended cleanly, so its id is free again; the next run does not end cleanly.
    third, transport = agent(progress(0))
    with pytest.raises(errors.IncompleteStreamError) as caught:
        await third.ask("hi", trace_id="t")
    assert transport.payloads[0]["current_trace_id"] == "t"
    assert caught.value.trace_id == "t"
    # It did not end cleanly: the remote gets another id, and the next turn refers to that id.
    remote = ""
    for attempt in range(2):
        fourth, transport = agent()
        async with fourth.stream("hi", trace_id="t") as run:
            pass
        remote = run.remote_trace_id
        assert RENAMED.fullmatch(remote), attempt
        assert transport.payloads[0]["current_trace_id"] == remote
    fifth, transport = agent(answer(5), close())
    await fifth.ask("and then?", from_trace_id="t")
    assert transport.payloads[0]["from_trace_id"] == remote
    elsewhere = FakeTransport.script(answer(6), close())
    await plain(server_url=own_server(), transport=elsewhere).ask("hi", trace_id="t", from_trace_id="t")
    assert elsewhere.payloads[0]["current_trace_id"] == "t"
    assert elsewhere.payloads[0]["from_trace_id"] == "t"


class Echoing(FakeTransport):
    """A remote that puts the trace id of the request into its messages."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        async with super().exchange(request) as response:
            trace = json.loads(request.body)["current_trace_id"]
            steps = [
                message({"type": "observation", "content": {"callee": "x", "output": 1, "current_trace_id": of}})
                for of in (trace, "another", None)
            ]
            async with FakeTransport.script(*steps, answer(trace), close()).exchange(request) as scripted:
                yield attrs.evolve(response, chunks=scripted.chunks)


async def test_trace_ids_of_forwarded_messages() -> None:
    """Forwarded messages carry the caller's trace id; other ids, and the events, are unchanged."""
    url = own_server()
    agent = plain(server_url=url, transport=Echoing({"/sse/chat": Reply()}))
    cut = plain(server_url=url, transport=FakeTransport.script(progress(1)))
    with pytest.raises(errors.IncompleteStreamError):
        await cut.ask("hi", trace_id="t")
    heard: list[Any] = []

    async def hear(message: Any) -> None:
        heard.append(message["content"]["current_trace_id"])

    request = OxyRequest(arguments={"query": "hi"}, current_trace_id="t")
    cast("Any", request).send_message = hear
    async with agent.stream(request) as run:
        seen = [event.content["current_trace_id"] async for event in run if event.type == "observation"]
    assert run.remote_trace_id != "t"
    assert heard == ["t", "another", None]
    assert [run.remote_trace_id, "another", None] == seen
    assert run.remote_trace_id == run.response.output


async def test_twenty_runs_with_one_trace_id() -> None:
    """Twenty runs at once with one trace id have twenty ids at the server, and each gets its own answer."""
    transport = Echoing({"/sse/chat": Reply()})
    agent = plain(server_url=own_server(), transport=transport)
    got: list[tuple[str, str]] = []
    async with anyio.create_task_group() as tasks:

        async def one() -> None:
            async with agent.stream("hi", trace_id="t") as run:
                await anyio.sleep(1)
                got.append((run.remote_trace_id, (await run.final_response()).output))

        for _ in range(20):
            tasks.start_soon(one)
    sent = [payload["current_trace_id"] for payload in transport.payloads]
    assert len(got) == 20
    assert len({*sent}) == 20
    assert sent.count("t") == 1
    assert all(remote == output for remote, output in got)


# ------------------------------------------------------------------------------------------------------------ User code


async def test_a_failing_route() -> None:
    """A route of the user's that raises is a HandlerError; the events received so far are kept."""

    def broken(event: Event, link: Any) -> Any:
        raise KeyError("route")

    transport = FakeTransport.script(progress(1) + answer(2) + message({"type": "own"}) + progress(3) + progress(4))
    played = await play(transport, router=EventRouter({"own": broken, "progress": broken}))
    assert isinstance(played.error, errors.HandlerError)
    assert str(played.error) == "the route of 'progress' raised KeyError"
    assert type(played.error.__cause__) is KeyError
    assert played.error.partial is not None
    assert shown(played.error.partial.events) == [("Progress", 1), ("Answer", 2), ("Custom", None)]


async def test_error_events_do_not_end_a_run() -> None:
    """An error event is handed out like any other event, and the run goes on."""
    played = await play(FakeTransport.script(ERROR, progress(1), answer(2), close()))
    assert [type(event) for event in played.events] == [RemoteErrorEvent, Progress, Answer]
    assert played.result == 2


def test_pauses_are_values() -> None:
    """FOREVER equals `Pause(math.inf)`."""
    assert Pause(math.inf) == FOREVER


@pytest.mark.parametrize("is_left", [False, True])
def test_a_kept_run_holds_no_event_loop(is_left: bool) -> None:
    """A run that has ended, or was left, and is kept does not keep its event loop."""

    async def work() -> tuple[Any, weakref.ref[asyncio.AbstractEventLoop]]:
        transport = FakeTransport.script(progress(1), answer("42"), close())
        async with SSEOxyGent(server_url="http://remote.test", transport=transport).stream("hi") as run:
            await anext(run)
            if not is_left:
                await run.final_response()
        return run, weakref.ref(asyncio.get_running_loop())

    run, loop = asyncio.run(work())
    gc.collect()
    assert loop() is None
    assert run.remote_trace_id


@pytest.mark.parametrize("is_left", [False, True])
async def test_no_reference_cycle(is_left: bool) -> None:
    """A run that ended or was left is freed without the garbage collector: it is in no reference cycle."""
    gc.disable()
    try:
        transport = FakeTransport.script(progress(1), answer("42"), close())
        run = SSEOxyGent(server_url="http://remote.test", transport=transport).stream("hi")
        watched = weakref.ref(run)
        async with run:
            if not is_left:
                await run.final_response()
        del run
        assert watched() is None
    finally:
        gc.enable()
