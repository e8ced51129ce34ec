"""A run as a stream: what counts as its end, what is kept of it, and that leaving it, however, closes the exchange.

Rule 1: every run here is a script; time is virtual, so a second costs nothing.
Rule 2: trace ids live as long as the process: a test that names one has a server of its own.
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
    """An event as servers of 1.0.8 send it: without a name."""
    return f"data: {data}\n\n".encode()


LEGACY_ANSWER: Final = legacy('{"type": "answer", "content": "42"}')


@attrs.define
class Played:
    """How a run went."""

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
    """Read a run to its end, whatever that is."""
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
    """Events as one compares them."""
    return [(type(event).__name__, event.content) for event in events]


# ------------------------------------------------------------------------------------------------------ What is the end

STREAMS: Final[dict[str, tuple[list[bytes], Any, Outcome]]] = {
    # what came before the end: (the bytes, what the run is if it came to its end, what is known if not)
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
DONE: Final = legacy("done")
ENDS: Final[dict[str, tuple[Sequence[Step], bool, bool]]] = {
    # how it ends: (the steps, whether that is the end, whether it is in a stream that names no event)
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
    "done, silence": ([DONE, FOREVER], False, True),
    "done, heartbeats": ([DONE, *(pause(0.5), heartbeat()) * 100], False, True),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("stream", STREAMS)
async def test_terminal_contract(stream: str, end: str) -> None:
    """Complete means that `close` came, or a bare `done` at the end of a stream without names; all else was cut off."""
    pieces, complete, known = STREAMS[stream]
    steps, ends, ends_legacy = ENDS[end]
    names_none = stream in ("nothing", "heartbeat", "legacy", "legacy, no answer")
    is_complete = ends_legacy if names_none else ends
    if end == "done, silence" and complete is errors.NoAnswerError:  # an agent that says "done" may be at work still
        is_complete = False
    if DONE in steps and not names_none:  # it is an agent's word then
        known = Outcome.STARTED
    played = await play(FakeTransport.script(*pieces, *steps))
    if end == "done, silence" and not is_complete:  # it goes on until a clock is over
        clock = errors.SilenceTimeoutError if stream == "heartbeat" else errors.IdleTimeoutError
        assert (played.result, played.run.outcome) == (clock, Outcome.STARTED)
        return
    if end.startswith("done,") and not is_complete and names_none:
        known = Outcome.STARTED
    assert (complete if is_complete else errors.IncompleteStreamError) == played.result
    assert (Outcome.COMPLETED if is_complete else known) == played.run.outcome
    if played.error is not None:
        assert (played.run.outcome, played.run.trace_id, SHOWN) == (
            played.error.outcome,
            played.error.trace_id,
            played.error.server_url,
        )
        assert shown(played.events) == shown(played.run.partial.events)
        assert played.error.partial == played.run.partial


async def test_only_what_follows_done_tells() -> None:
    """In a legacy stream a `done` that something follows was a word of an agent, and the run goes on."""
    late = legacy('{"type": "answer", "content": "late"}')
    says = ("Text", "done")
    cases: dict[str, tuple[Sequence[Step], Any, list[tuple[str, Any]]]] = {
        # what comes: (the steps, the result, the events)
        "at once": ([DONE + late, close()], "late", [says, ("Answer", "late")]),
        "works on": ([DONE, pause(590), late, close()], "late", [says, ("Answer", "late")]),
        "in time": (
            [LEGACY_ANSWER, DONE, pause(1.9), late, close()],
            "late",
            [("Answer", "42"), says, ("Answer", "late")],
        ),
        "too late": ([LEGACY_ANSWER, DONE, pause(2.1), late, close()], "42", [("Answer", "42")]),
        "twice": ([DONE, DONE, LEGACY_ANSWER, DONE], "42", [says, says, ("Answer", "42")]),
        "then names": ([DONE, answer("42"), text("done"), close()], "42", [says, ("Answer", "42"), says]),
        "names in the same piece": ([DONE + answer("42") + DONE + close()], "42", [says, ("Answer", "42"), says]),
        "name after data": ([b"data: done\nevent: message\n\n", answer(1), close()], 1, [says, ("Answer", 1)]),
        "cut after more": ([DONE, legacy("x")], errors.IncompleteStreamError, [says, ("Text", "x")]),
        "not quite": (
            [LEGACY_ANSWER, legacy("done ")],
            errors.IncompleteStreamError,
            [("Answer", "42"), ("Text", "done ")],
        ),
    }
    for name, (steps, result, events) in cases.items():
        played = await play(FakeTransport.script(*steps))
        assert (name, played.result, shown(played.events)) == (name, result, events)


async def test_user_time_does_not_end_a_legacy_run() -> None:
    """The two seconds after `done` are seconds of waiting, not of the caller's work."""
    agent = plain(
        server_url=URL, transport=FakeTransport.script(LEGACY_ANSWER + DONE, pause(1.5), legacy("more"), close())
    )
    async with agent.stream("hi") as run:
        seen: list[Event] = []
        async for event in run:
            await anyio.sleep(60)
            seen.append(event)
    assert shown(seen) == [("Answer", "42"), ("Text", "done"), ("Text", "more")]


async def test_texts_of_errors() -> None:
    """An error says what happened in one sentence, and its cause is what the transport said."""
    cases: list[tuple[str, type[BaseException] | None, Sequence[Step]]] = [
        ("the stream ended without its close event: the run was cut off", None, [progress(1)]),
        (
            "the stream broke off (reset): the run was cut off",
            errors.ConnectionLostError,
            [progress(1), errors.ConnectionLostError("reset")],
        ),
        ("the stream closed as it should and held no answer", None, [close()]),
        ("the remote agent reported an error: no tool", None, [ERROR, close()]),
        (
            "the remote agent reported an error: {'a': 1}",
            None,
            [message({"type": "error", "content": {"a": 1}}), close()],
        ),
    ]
    for said, cause, steps in cases:
        error = (await play(FakeTransport.script(*steps))).error
        assert error is not None
        assert (str(error), type(error.__cause__) if error.__cause__ else None) == (said, cause)


# ------------------------------------------------------------------------------------------------------ What came of it


async def test_a_whole_run() -> None:
    """The events are typed and in order; outcome, text and response say how far it is."""
    script = [delta("4"), heartbeat(), delta("2"), tool_call("search"), progress({"p": 1}), text("hello"), answer("42")]
    transport = FakeTransport.script(*script, message([1]), close())
    agent = plain(server_url=URL, transport=transport)
    run = agent.stream("hi", trace_id="")
    assert (run.outcome, run.remote_trace_id, run.text) == (Outcome.NOT_SENT, "", "")
    assert repr(run) == f"<Run {run.trace_id} not_sent>"
    outcomes: list[Outcome] = []
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
    assert outcomes == [Outcome.UNKNOWN, *[Outcome.STARTED] * 7]
    assert (run.text, run.outcome, run.partial.dropped) == ("42", Outcome.COMPLETED, 0)
    assert run.partial.events == (*events,)
    response = run.response
    assert (response.state, response.output) == (OxyState.COMPLETED, "42")
    assert {"trace_id": run.trace_id, "remote_trace_id": run.trace_id} == response.extra
    assert transport.payloads[0]["current_trace_id"] == run.trace_id


async def test_misuse() -> None:
    """A run is entered once, read by one task, and over when it is over."""
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
        # The reader was cancelled, so the exchange is closed; there is nothing more, and no response.
        with pytest.raises(errors.ClosedError):
            await anext(run)
        with pytest.raises(errors.ClosedError):
            await run.final_response()
    assert run.outcome is Outcome.STARTED


async def _cut_read(run: Run) -> None:
    """Wait for the next event under a time limit, which runs out."""
    with anyio.move_on_after(1) as scope:
        await anext(run)
    assert scope.cancelled_caught


async def _own_limit(run: Run) -> None:
    """Likewise with the event loop's own."""
    with pytest.raises((TimeoutError, trio.TooSlowError)):
        if isinstance(current_token().native_token, asyncio.AbstractEventLoop):
            await asyncio.wait_for(anext(run), 1)
        else:
            with trio.fail_after(1):
                await anext(run)


async def _leave(run: Run) -> None:
    await run.__aexit__(None, None, None)


async def _close_generator(run: Run) -> None:
    """A generator of the user's own that holds the block is closed at a yield."""

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
    # name: (how the run ends before its end, its steps, the agent's options)
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
async def test_an_end_before_the_end(name: str) -> None:
    """A run that was left, cancelled, or failed never looks complete: each later read is a ClosedError."""
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
    assert (after.value.outcome, after.value.trace_id, after.value.server_url) == (run.outcome, run.trace_id, SHOWN)
    assert after.value.partial == run.partial
    assert type(inside.value) is type(response.value)


async def test_a_run_that_could_not_begin() -> None:
    """Where entering the block failed, reading is a ClosedError too, and the response is the error."""
    run = plain(server_url=URL, transport=FakeTransport({})).stream("hi")
    with pytest.raises(errors.NotFoundError):
        await run.__aenter__()
    with pytest.raises(errors.ClosedError) as caught:
        await anext(run)
    assert type(caught.value.__cause__) is errors.NotFoundError
    with pytest.raises(errors.NotFoundError):
        await run.final_response()


async def test_final_response() -> None:
    """`final_response` reads what is left; the error of a run is there as often as one asks."""
    agent = plain(server_url=URL, transport=FakeTransport.script(progress(1), progress(2), answer(42), close()))
    async with agent.stream("hi") as run:
        assert type(await anext(run)) is Progress
        first = await run.final_response()
        assert (first.output, await run.final_response()) == (42, first)
    cut = plain(server_url=URL, transport=FakeTransport.script(progress(1)))
    async with cut.stream("hi") as run:
        for _ in range(2):
            with pytest.raises(errors.IncompleteStreamError):
                await run.final_response()
    with pytest.raises(errors.IncompleteStreamError):
        _ = run.response


# -------------------------------------------------------------------------------------------------------------- Partial


async def test_partial_is_what_was_sent() -> None:
    """An error holds the events, the text, the last answer and the number of those that were dropped."""
    many = [progress(n) for n in range(1203)]
    wide = [message("é" * 1000) for _ in range(600)]  # 2,000 bytes each: 524 of them are within 1 MiB
    cases: dict[str, tuple[Sequence[Step], Limits, tuple[int, int, str, Any]]] = {
        # what comes: (the steps, limits, (events kept, dropped, text, answer))
        "nothing": ([], Limits(), (0, 0, "", None)),
        "all kinds": ([delta("a"), answer(1), delta("b"), answer([2]), ERROR], Limits(), (5, 0, "ab", [2])),
        "a thousand": (many, Limits(), (1000, 203, "", None)),
        "1 MiB": (wide, Limits(), (524, 76, "", None)),
        "few": ([delta("a"), answer(1), delta("b")], Limits(partial_events=1), (1, 2, "ab", 1)),
        "one too large": ([delta("a" * 99), delta("b")], Limits(partial_bytes=100), (1, 1, "a" * 99 + "b", None)),
        "nothing fits": ([delta("a" * 99)], Limits(partial_bytes=10), (0, 1, "a" * 99, None)),
    }
    for name, (steps, limits, expected) in cases.items():
        played = await play(FakeTransport.script(*steps), limits=limits)
        assert played.error is not None
        partial_ = played.error.partial
        assert partial_ is not None
        assert (name, (len(partial_.events), partial_.dropped, partial_.text, partial_.answer)) == (name, expected)
        assert (*played.events[partial_.dropped :],) == partial_.events


async def test_partial_holds_what_was_not_handed_out() -> None:
    """When the user's handler fails, what was received behind its event is not lost; what is behind `close` is."""
    piece = delta("a") + progress(2) + answer(3) + delta("b")
    cases: dict[str, tuple[bytes, list[tuple[str, Any]], Outcome]] = {
        "running": (piece, [("Progress", 2), ("Answer", 3)], Outcome.STARTED),
        "over": (piece + close() + answer("late"), [("Progress", 2), ("Answer", 3)], Outcome.COMPLETED),
        "too deep": (
            piece + message("[" * 99 + "]" * 99) + progress(4),
            [("Progress", 2), ("Answer", 3), ("Text", "[" * 99 + "]" * 99), ("Progress", 4)],
            Outcome.STARTED,
        ),
    }
    for name, (sent, middle, outcome) in cases.items():
        played = await play(FakeTransport.script(sent), event_handlers={"progress": _fail}, limits=Limits(depth=50))
        assert isinstance(played.error, errors.HandlerError)
        assert played.error.partial is not None
        events = played.error.partial.events
        assert (name, [row for row in shown(events) if row[0] != "TextDelta"]) == (name, middle)
        assert (played.run.text, played.error.partial.answer, played.error.outcome) == ("ab", 3, outcome)
        assert len(played.events) == 1


async def test_legacy_done_belongs_to_partial_unless_it_was_the_end() -> None:
    """A `done` whose meaning is open when the run fails is an event of it; one that was the end is none."""
    failed = await play(FakeTransport.script(DONE, FOREVER), timeouts=Timeouts(idle=1))
    assert (failed.result, shown(failed.run.partial.events)) == (errors.IdleTimeoutError, [("Text", "done")])
    ends: list[Sequence[Step]] = [[DONE], [DONE, close()]]
    for steps in ends:
        ended = await play(FakeTransport.script(*steps))
        assert (ended.result, shown(ended.run.partial.events)) == (errors.NoAnswerError, [])


async def test_limits_on_the_way() -> None:
    """What passes a limit ends the run, after the events that came before it, also those of the same piece."""
    large = message("x" * 5000)
    cases: dict[str, tuple[list[bytes], Limits, str]] = {
        "event": ([progress(1), large], Limits(event_bytes=1000), "event_bytes"),
        "event, one piece": ([progress(1) + large + progress(2)], Limits(event_bytes=1000), "event_bytes"),
        "event, unnamed": ([legacy("1") + legacy("x" * 5000)], Limits(event_bytes=1000), "event_bytes"),
        "line": ([progress(1) + large], Limits(line_bytes=1000), "line_bytes"),
        "stream": ([progress(1) + large], Limits(stream_bytes=1000), "stream_bytes"),
    }
    for name, (pieces, limits, word) in cases.items():
        played = await play(FakeTransport.script(*pieces), limits=limits)
        assert (name, played.result, len(played.events)) == (name, errors.TooLargeError, 1)
        assert played.error is not None
        assert f"Limits.{word} " in str(played.error)
        assert played.error.outcome is Outcome.STARTED


# ------------------------------------------------------------------------------------------------ Bytes come as they do

TALES: Final = {
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


@given(tale=st.sampled_from([*TALES]), thousandths=st.lists(st.integers(0, 999), min_size=1, max_size=20, unique=True))
async def test_pieces_do_not_matter(tale: str, thousandths: list[int]) -> None:
    """However a stream is cut into pieces, its events, its result and what an error keeps are the same."""
    stream = TALES[tale]
    cuts = sorted(len(stream) * at // 1000 for at in thousandths)
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    await _same(stream, pieces)


@pytest.mark.parametrize("tale", TALES)
async def test_byte_by_byte(tale: str) -> None:
    """The same, for pieces of one byte, and of every one size up to a whole event."""
    stream = TALES[tale]
    for size in (1, 2, 3, 7, 16, 40):
        await _same(stream, [stream[at : at + size] for at in range(0, len(stream), size)])


async def _same(stream: bytes, pieces: list[bytes]) -> None:
    limits = Limits(event_bytes=256)
    whole = await play(FakeTransport.script(stream), limits=limits)
    cut = await play(FakeTransport.script(*pieces), limits=limits)
    assert (whole.result, shown(whole.events)) == (cut.result, shown(cut.events))
    assert (whole.run.partial, whole.run.outcome) == (cut.run.partial, cut.run.outcome)
    assert str(whole.error) == str(cut.error)


# ------------------------------------------------------------------------------------------------------ Other responses


async def test_what_is_no_stream() -> None:
    """A response that is no stream of events is a typed error, which holds the beginning of the body."""
    plain = {"content-type": "text/plain"}
    cases: dict[str, tuple[Reply, type[errors.OxyError], Outcome, str]] = {
        "401": (Reply([b"who?"], status=401, headers=plain), errors.AuthenticationError, Outcome.REJECTED, "who?"),
        "403": (Reply([b"no"], status=403, headers=plain), errors.PermissionDeniedError, Outcome.REJECTED, "no"),
        "404": (Reply.json({}, status=404), errors.NotFoundError, Outcome.REJECTED, "{}"),
        "429": (Reply(status=429, headers=plain), errors.RateLimitedError, Outcome.REJECTED, ""),
        "302": (Reply(status=302, headers=plain), errors.RedirectError, Outcome.REJECTED, ""),
        "500, a stream": (Reply([b"x" * 99], status=500), errors.ServerError, Outcome.UNKNOWN, "x" * 20),
        "503": (Reply(status=503, headers=plain), errors.ServerError, Outcome.UNKNOWN, ""),
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
    for name, (reply, cls, outcome, body) in cases.items():
        played = await play(FakeTransport({"/sse/chat": reply}), limits=Limits(error_body_bytes=20))
        error = played.error
        assert isinstance(error, errors.StatusError)
        assert (name, cls, outcome, body, reply.status) == (name, type(error), error.outcome, error.body, error.status)
        assert (error.partial, round(played.seconds, 6)) == (None, 0.0 if name != "endless body" else 5.0)


def coded(coding: str) -> dict[str, str]:
    """The headers of an event stream under this content coding."""
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
async def test_a_200_that_is_no_stream(reply: Reply, expected: Any, outcome: Outcome) -> None:
    """A 200 with another content type, or with a body that cannot be decoded, is a typed error."""
    played = await play(FakeTransport({"/sse/chat": reply}))
    assert played.result == expected
    assert played.run.outcome is outcome


async def test_after_the_end_there_are_no_events() -> None:
    """A run that ended well can be iterated over again, and gives nothing."""
    async with plain(server_url=URL, transport=FakeTransport.script(answer("42"), close())).stream("hi") as run:
        assert len([event async for event in run]) == 1
        assert [event async for event in run] == []


# ---------------------------------------------------------------------------------------------------- Leaving the block


class Closing(FakeTransport):
    """A transport whose exchanges take their time to close, or fail to."""

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
    """What is no `Exception`."""


async def test_leaving_early() -> None:
    """Leaving the block by `break` closes the exchange at once; there is no response, and no more is to be read."""
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


@pytest.mark.parametrize(
    "own",
    [ValueError("own"), StopAsyncIteration(), Stop(), ExceptionGroup("own", [ValueError()]), errors.OxyError("own")],
)
async def test_leaving_by_an_exception(own: BaseException) -> None:
    """The user's exception comes out as the object that it is, from the loop and from before it."""
    for events in (0, 1):
        transport = FakeTransport.script(progress(1) + progress(2), FOREVER)
        with pytest.raises(type(own)) as caught:
            async with plain(server_url=URL, transport=transport).stream("hi") as run:
                for _ in range(events):
                    await anext(run)
                raise own
        assert caught.value is own
        assert (own.__cause__, own.__context__) == (None, None)
        assert transport.requests == transport.left


BYSTANDERS: Final[dict[str, tuple[Any, Any, dict[str, Any]]]] = {
    # name: (what the run is answered with, the server's record, the agent's options): where the reader waits after 1 s
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
async def test_left_by_another_task(name: str) -> None:
    """Leaving is final: the task that reads is woken at once by a ClosedError, and nothing is asked for any more."""
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


async def test_left_while_a_handler_works() -> None:
    """A handler that holds an event keeps nobody from leaving; its event is still handed out, and no other."""
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


async def test_left_while_the_reader_closes() -> None:
    """A reader that is closing the connection is waited for: when the block is left, it is closed."""
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


async def test_left_before_the_record_is_asked() -> None:
    """A reader that has closed the connection, and would ask for the record now, does not: the run was left."""
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


async def test_a_closing_that_hangs() -> None:
    """Closing takes 2 seconds at most, also when the caller is cancelled meanwhile; one that fails is no failure."""
    cases: list[tuple[str, float, Exception | None, float]] = [
        ("quick", 0.5, None, 0.5),
        ("hangs", math.inf, None, 2.0),
        ("fails", 0.5, errors.ConnectionLostError("closing"), 0.5),
    ]
    for name, seconds, failure, expected in cases:
        transport = Closing({"/sse/chat": Reply([answer("42"), close()])})
        transport.seconds, transport.failure = seconds, failure
        played = await play(transport)
        assert (name, played.result, round(played.seconds, 6)) == (name, "42", expected)
        transport = Closing({"/sse/chat": Reply([progress(1), FOREVER])})
        transport.seconds, transport.failure = seconds, failure
        began = anyio.current_time()
        with anyio.move_on_after(10) as scope:
            async with plain(server_url=URL, transport=transport).stream("hi") as run:
                await anext(run)
                await anext(run)
        assert scope.cancelled_caught
        assert (name, round(anyio.current_time() - began, 6)) == (name, 10 + expected)
        assert transport.requests == transport.left


async def test_the_rest_is_drained_briefly() -> None:
    """After `close` what is left is read, so that the connection can serve again: 0.25 s and 64 KiB at most."""
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

    tail = b":" + b"x" * 1023
    cases: list[tuple[str, Sequence[Step], int, float]] = [
        ("end", [], 0, 0),
        ("a little", [b"\n", b"", b"\n"], 3, 0),
        ("much", [tail] * 100, 64, 0),
        ("empty pieces", [b""] * 10, 10, 0),
        ("slow", [pause(0.1), tail] * 100, 2, 0.25),
        ("never", [FOREVER], 0, 0.25),
        ("broken", [tail, errors.ConnectionLostError()], 1, 0),
    ]
    for name, rest, pieces, seconds in cases:
        read.clear()
        played = await play(Counting({"/sse/chat": Reply([answer("42") + close(), *rest])}))
        assert (name, played.result, len(read), round(played.seconds, 6)) == (name, "42", pieces + 1, seconds)


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
    # where the run is: (what the remote does, how the agent is made, when it is cancelled, how long closing goes on)
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
    """Cancel a run at `place` by `stop`, and look at what is left."""
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
    """A cancelled run ends at once and leaves its exchange; the cancellation comes out as it is."""
    await _in_place(place, stop)


@pytest.mark.parametrize("place", PLACES)
async def test_native_cancellation(place: str, anyio_backend_name: str) -> None:
    """The same, cancelled by the event loop's own means."""
    for stop in NATIVE[anyio_backend_name]:
        if place.startswith("closing") and anyio_backend_name == "asyncio":
            continue  # asyncio has no shield against these: see the next test
        await _in_place(place, stop)


async def test_native_cancellation_while_closing(anyio_backend_name: str) -> None:
    """Cancellation by asyncio itself breaks through the closing; it is not swallowed, and nothing waits after it."""
    if anyio_backend_name == "trio":
        return
    for place in ("closing", "closing a failure"):
        for stop in NATIVE["asyncio"]:
            transport = Closing(PLACES[place][0])
            transport.seconds = math.inf
            agent = plain(server_url=URL, transport=transport)
            began = anyio.current_time()
            await stop(cast("Any", partial(agent.ask, "hi")), 1)
            assert anyio.current_time() - began == pytest.approx(1)
            assert transport.requests == transport.left


async def test_buffered_events_hear_cancellation() -> None:
    """Ten thousand events in one piece: a loop over them hears a cancellation within 64 of them."""
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


async def test_others_run_meanwhile() -> None:
    """A run that always has events leaves the event loop to others now and then."""
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


# ------------------------------------------------------------------------------------------------ Not twice by accident


async def _fail(content: Any) -> None:
    raise ValueError(content)


async def once(agent: SSEOxyGent, request: OxyRequest) -> OxyResponse:
    """What a subclass calls."""
    return await agent._execute(request)


AGAIN: Final[dict[str, tuple[Reply, dict[str, Any], Outcome, bool]]] = {
    # how the first run ended: (what the remote did, how the agent is made, its outcome, whether it may be sent again)
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
    """A request object that may have run is not sent again: its error comes back, unless it is idempotent."""
    reply, options, outcome, may = AGAIN[how]
    transport = FakeTransport({"/sse/chat": reply})
    agent = plain(server_url=URL, transport=transport, **options)
    request = agent.prepared(OxyRequest(arguments={"query": "hi"}, idempotent=idempotent))
    with pytest.raises(errors.OxyError) as first:
        await once(agent, request)
    with pytest.raises(errors.OxyError) as second:
        await once(agent, request)
    assert outcome is first.value.outcome
    if may or idempotent:
        assert (type(first.value), 2) == (type(second.value), len(transport.requests))
    else:
        assert (second.value is first.value, len(transport.requests)) == (True, 1)


async def test_the_same_request_again_after_cancellation() -> None:
    """A request whose run was cancelled has an error of its own: it was left before its end."""
    for steps, outcome in (((), Outcome.UNKNOWN), ((progress(1),), Outcome.STARTED)):
        transport = FakeTransport.script(*steps, FOREVER)
        agent = plain(server_url=URL, transport=transport)
        request = agent.prepared(OxyRequest(arguments={"query": "hi"}))
        with anyio.move_on_after(1) as scope:
            await once(agent, request)
        assert scope.cancelled_caught
        with pytest.raises(errors.IncompleteStreamError, match="left before its end") as caught:
            await once(agent, request)
        error = caught.value
        assert (outcome, SHOWN, request.current_trace_id) == (error.outcome, error.server_url, error.trace_id)
        assert error.partial is not None
        assert (len(steps), 1) == (len(error.partial.events), len(transport.requests))


async def test_executing_twice_is_two_runs() -> None:
    """`execute` works on a clone, so the same request may be executed again, on purpose, whatever came of it."""
    transport = FakeTransport.script(progress(1))
    agent = plain(server_url=URL, transport=transport)
    request = OxyRequest(arguments={"query": "hi"})
    for sent in (1, 2):
        response = await agent.execute(request)
        assert (response.state, len(transport.requests)) == (OxyState.FAILED, sent)
    well = plain(server_url=URL, transport=FakeTransport.script(answer(1), close()))
    prepared = well.prepared(request)
    assert [(await once(well, prepared)).output for _ in range(2)] == [1, 1]


async def test_a_retry_loop_in_a_subclass() -> None:
    """A subclass that tries three times runs the agent once, if it may have started, and three times if it did not."""

    class Stubborn(SSEOxyGent):
        async def _execute(self, oxy_request: OxyRequest) -> OxyResponse:
            for _ in range(2):
                try:
                    return await super()._execute(oxy_request)
                except Exception:  # noqa: BLE001  (what a stubborn program does)
                    await anyio.sleep(1)
            return await super()._execute(oxy_request)

    for reply, sent in ((Reply([progress(1)]), 1), (Reply(before=errors.ConnectError()), 3)):
        transport = FakeTransport({"/sse/chat": reply})
        with pytest.raises(errors.OxyError):
            await Stubborn(server_url=URL, transport=transport, retry=Retry(attempts=1)).ask("hi")
        assert len(transport.payloads) == sent


# ------------------------------------------------------------------------------------------------------------ Trace ids

RENAMED: Final = re.compile(r"t-[2-9A-HJ-NP-Za-km-z]{12}")


def own_server() -> str:
    """A server that no other test knows."""
    return f"http://{new_id().lower()}.test"


async def test_no_trace_id_twice_in_flight() -> None:
    """While a run is in flight, another with its id has another name at the remote; after a clean end it is free."""
    url = own_server()

    def agent(*steps: Step) -> tuple[SSEOxyGent, FakeTransport]:
        transport = FakeTransport.script(*steps)
        return plain(server_url=url, transport=transport), transport

    first, _ = agent(progress(1), answer(1), close())
    second, transport = agent(answer(2), close())
    async with first.stream("hi", trace_id="t") as run:
        await anext(run)
        assert (run.trace_id, run.remote_trace_id) == ("t", "t")
        async with second.stream("hi", trace_id="t") as other:
            sent: str = transport.payloads[0]["current_trace_id"]
            assert RENAMED.fullmatch(sent)
            assert (other.trace_id, other.remote_trace_id) == ("t", sent)
            response = await other.final_response()
        assert response.extra == {"trace_id": "t", "remote_trace_id": sent}
        assert (await run.final_response()).output == 1
    # That end was clean, so the name is free again; the next end is not.
    third, transport = agent(progress(0))
    with pytest.raises(errors.IncompleteStreamError) as caught:
        await third.ask("hi", trace_id="t")
    assert (transport.payloads[0]["current_trace_id"], caught.value.trace_id) == ("t", "t")
    # It was not clean: another name, which the turn after this one is told.
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
    assert (elsewhere.payloads[0]["current_trace_id"], elsewhere.payloads[0]["from_trace_id"]) == ("t", "t")


class Echoing(FakeTransport):
    """A remote that names its own trace in what it sends."""

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


async def test_forwarded_messages_carry_the_callers_id() -> None:
    """Where the remote names its trace, the caller's program reads its own id; other ids, and events, stay."""
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


async def test_twenty_at_once() -> None:
    """Twenty runs with one id at one server are twenty ids there, and each gets its own answer."""
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
    assert (len(got), len({*sent}), sent.count("t")) == (20, 20, 1)
    assert all(remote == output for remote, output in got)


# ---------------------------------------------------------------------------------------------------------- User's code


async def test_a_route_that_fails() -> None:
    """A route of the user's own that raises is a HandlerError, the run is closed, and what came is kept."""

    def broken(event: Event, link: Any) -> Any:
        raise KeyError("route")

    transport = FakeTransport.script(progress(1) + answer(2) + message({"type": "own"}) + progress(3) + progress(4))
    played = await play(transport, router=EventRouter({"own": broken, "progress": broken}))
    assert isinstance(played.error, errors.HandlerError)
    assert (str(played.error), type(played.error.__cause__)) == ("the route of 'progress' raised KeyError", KeyError)
    assert played.error.partial is not None
    assert shown(played.error.partial.events) == [("Progress", 1), ("Answer", 2), ("Custom", None)]


async def test_error_events_do_not_end_a_run() -> None:
    """An error event is an event like others: it is handed out, and the run goes on."""
    played = await play(FakeTransport.script(ERROR, progress(1), answer(2), close()))
    assert [type(event) for event in played.events] == [RemoteErrorEvent, Progress, Answer]
    assert played.result == 2


def test_pauses_are_values() -> None:
    """What is called FOREVER here is what the fake transport takes it for."""
    assert Pause(math.inf) == FOREVER


@pytest.mark.parametrize("is_left", [False, True])
async def test_a_run_that_is_over_is_gone(is_left: bool) -> None:
    """Nothing waits for the garbage collector: a run that ended, or that was left, holds no circle of objects."""
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
