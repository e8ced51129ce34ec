"""Time-outs of a run and of discovery, in virtual time.

Rule 1: in each test only the time-out under test can expire; the others are off.
Rule 2: a body without a pause between its chunks advances the clock itself, since no cancel scope can expire there.
"""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest

from oxygent_client import Event, HTTPResponse, Outcome, OxyRequest, Progress, SSEOxyGent, Timeouts, errors
from oxygent_client._run.event_reader import CHECKPOINT_EVERY
from oxygent_client.testing import (
    FakeTransport,
    Reply,
    answer,
    close,
    heartbeat,
    pause,
    progress,
    text,
)
from tests.support.plain import plain
from tests.support.virtual import advance
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

    from oxygent_client import HTTPRequest
    from oxygent_client.testing import Step

URL: Final = "https://user:secret@remote.test/base?token=secret"
SHOWN: Final = "https://remote.test/base"
FOREVER: Final = pause(math.inf)
OFF: Final = Timeouts(connect=None, silence=None, idle=None, total=None)
END: Final = (answer("42"), close())
DEAD: Final = (heartbeat(), pause(15)) * 1000
"""A server whose task has died: it sends heartbeats forever."""


def clock(**seconds: float | None) -> Timeouts:
    """Return these time-outs, with the others off."""
    return attrs.evolve(OFF, **seconds)


@attrs.define
class Timed:
    """The result and the duration of a run."""

    result: Any
    events: int
    seconds: float
    error: errors.OxyError | None


async def timed(transport: FakeTransport, timeouts: Timeouts, **options: Any) -> Timed:
    """Read a run to its end."""
    began = anyio.current_time()
    events: list[Event] = []
    error = None
    run = plain(server_url=URL, transport=transport, timeouts=timeouts, **options).stream("hi")
    try:
        async with run:
            async for event in run:
                events.append(event)  # noqa: PERF401  (the events before an error count)
    except errors.OxyError as caught:
        error = caught
    if error is not None:
        assert run.trace_id == error.trace_id
        assert error.server_url == SHOWN
        assert run.outcome == error.outcome
        assert "secret" not in f"{error!r} {error}"
        assert error.partial is None or len(error.partial.events) == len(events)
    assert transport.requests == transport.left
    result = type(error) if error else run.response.output
    return Timed(result, len(events), round(anyio.current_time() - began, 2), error)


# -------------------------------------------------------------------------------------------------------------- One run

SILENCE, IDLE, TOTAL = errors.SilenceTimeoutError, errors.IdleTimeoutError, errors.DeadlineExceededError

RUNS: Final[dict[str, tuple[Timeouts, Sequence[Step], Any, int, float]]] = {
    # case: (the time-outs, the steps, the result, the number of events, the seconds)
    "silence counts from the first heartbeat on": (clock(silence=45), [pause(5000), *END], "42", 1, 5000),
    "silence": (clock(silence=45), [heartbeat(), FOREVER], SILENCE, 0, 45),
    "silence after an event": (clock(silence=45), [heartbeat(), progress(1), FOREVER], SILENCE, 1, 45),
    "silence without a heartbeat": (clock(silence=45, idle=100), [progress(1), FOREVER], IDLE, 1, 100),
    "half a heartbeat is none": (clock(silence=45, idle=100), [b": pi", FOREVER], IDLE, 0, 100),
    "any byte breaks the silence": (clock(silence=45), [heartbeat(), *(pause(44), b"d") * 9, FOREVER], SILENCE, 0, 441),
    "heartbeats break it": (clock(silence=45), [*DEAD[:200], *END], "42", 1, 1500),
    "idle": (clock(idle=600), [FOREVER], IDLE, 0, 600),
    "idle though heartbeats flow": (Timeouts(), DEAD, IDLE, 0, 600),
    "idle though bytes flow": (clock(idle=600), (b"data: x\n", pause(7)) * 200, IDLE, 0, 600),
    "idle begins again with each event": (
        clock(idle=600),
        [pause(599), progress(1), pause(599), progress(2), FOREVER],
        IDLE,
        2,
        1798,
    ),
    "total": (clock(total=3600), [FOREVER], TOTAL, 0, 3600),
    "total though events flow": (clock(total=3600), (progress(1), pause(100)) * 99, TOTAL, 36, 3600),
    "total though heartbeats flow": (clock(total=3600), DEAD, TOTAL, 0, 3600),
    "the defaults": (Timeouts(), (progress(1), *(heartbeat(), pause(15)) * 30) * 99, TOTAL, 8, 3600),
    "all off": (OFF, [heartbeat(), pause(10**6), progress(1), pause(10**6), *END], "42", 2, 2 * 10**6),
    "silence off": (attrs.evolve(Timeouts(), silence=None), [heartbeat(), pause(599), *END], "42", 1, 599),
    "idle off": (attrs.evolve(Timeouts(), idle=None), [*DEAD[:400], *END], "42", 1, 3000),
    "total off": (attrs.evolve(Timeouts(), total=None), (progress(1), pause(500)) * 10 + END, "42", 11, 5000),
}


@pytest.mark.parametrize("which", RUNS)
async def test_timeouts_of_a_run(which: str) -> None:
    """`silence` counts from the first heartbeat, `idle` from the last event, `total` from the start."""
    timeouts, steps, result, events, seconds = RUNS[which]
    got = await timed(FakeTransport.script(*steps), timeouts)
    assert got.result == result
    assert got.events == events
    assert got.seconds == seconds


TIMEOUT_TEXTS: Final[dict[str, tuple[type[errors.OxyError], Outcome, Timeouts, Sequence[Step]]]] = {
    # the named setting and its value: (class, outcome, time-outs, script)
    "Timeouts.silence (45 s)": (
        errors.SilenceTimeoutError,
        Outcome.UNKNOWN,
        clock(silence=45),
        [heartbeat(), FOREVER],
    ),
    "Timeouts.idle (0.5 s)": (errors.IdleTimeoutError, Outcome.STARTED, clock(idle=0.5), [progress(1), FOREVER]),
    "Timeouts.total (3600 s)": (
        errors.DeadlineExceededError,
        Outcome.STARTED,
        clock(total=3600.0),
        [progress(1), FOREVER],
    ),
}


@pytest.mark.parametrize("setting", TIMEOUT_TEXTS)
async def test_timeout_texts(setting: str) -> None:
    """The error of a time-out names the setting with its value, and carries the outcome."""
    cls, outcome, timeouts, steps = TIMEOUT_TEXTS[setting]
    error = (await timed(FakeTransport.script(*steps), timeouts)).error
    assert error is not None
    assert type(error) is cls
    assert setting in str(error)
    assert error.outcome is outcome
    assert isinstance(error, TimeoutError)
    assert not error.retryable


SLOW_ORG: Final = Reply([pause(20), b'{"code": 200, "data": {"organization": {}}}'])
TOTALS: Final[dict[str, tuple[dict[str, Reply], dict[str, Any], Outcome, int]]] = {
    "discovery": ({"/get_organization": Reply(before=FOREVER)}, {"callee": "x"}, Outcome.NOT_SENT, 0),
    "its body": ({"/get_organization": Reply([FOREVER])}, {"callee": "x"}, Outcome.NOT_SENT, 0),
    "opening": ({"/sse/chat": Reply(before=FOREVER)}, {}, Outcome.UNKNOWN, 1),
    "stream": ({"/sse/chat": Reply([pause(24), progress(1), FOREVER])}, {}, Outcome.STARTED, 1),
    "together": (
        {"/get_organization": SLOW_ORG, "/sse/chat": Reply([progress(1), FOREVER], before=pause(4))},
        {"callee": "x"},
        Outcome.STARTED,
        1,
    ),
}


@pytest.mark.parametrize("name", TOTALS)
async def test_total_is_one_deadline_over_all(name: str) -> None:
    """`total` covers discovery, opening and the stream; its error carries the outcome so far."""
    replies, options, outcome, runs = TOTALS[name]
    transport = FakeTransport(replies)
    got = await timed(transport, clock(total=25), **options)
    assert got.error is not None
    assert got.result == TOTAL
    assert got.error.outcome == outcome
    assert got.seconds == 25
    assert len([request for request in transport.requests if request.method == "POST"]) == runs
    assert all(request.context.deadline for request in transport.requests if request.method == "POST")


async def test_a_refusal_without_an_end() -> None:
    """A refusal whose body does not end raises its status error, not DeadlineExceededError."""
    transport = FakeTransport({"/sse/chat": Reply([b"no", FOREVER], status=500, before=pause(22))})
    got = await timed(transport, clock(total=25))
    assert isinstance(got.error, errors.ServerError)
    assert got.error.body == "no"
    assert got.seconds == 24.95


@pytest.mark.parametrize("total", [25, None])
async def test_the_deadline_of_a_request(total: float | None) -> None:
    """The context of a request carries the deadline of the call, or None."""
    deadline = None if total is None else anyio.current_time() + total
    transport = FakeTransport.script(*END)
    await timed(transport, clock(total=total))
    assert [request.context.deadline for request in transport.requests] == [deadline]


async def test_idle_stands_still_between_attempts() -> None:
    """`idle` counts while a request waits for its headers, and not while the next attempt is waited for."""
    refused = Reply(status=503, headers={"retry-after": "50"})
    transport = FakeTransport({"/sse/chat": [refused, Reply((pause(20), *END))]})
    agent, began = SSEOxyGent(server_url=URL, transport=transport, timeouts=clock(idle=30)), anyio.current_time()
    assert (await agent.ask("hi")).output == "42"
    assert anyio.current_time() - began >= 70


async def test_idle_counts_again_after_a_close_that_failed() -> None:
    """Where closing an attempt fails that `idle` has interrupted, the next attempt has its time-outs too."""
    failing = iter([errors.ConnectionLostError("it could not be closed")])

    def closed(_: HTTPRequest) -> None:
        for error in failing:
            raise error

    transport = FakeTransport({"/sse/chat": Reply(before=FOREVER, on_close=closed)})
    agent = SSEOxyGent(server_url=URL, transport=transport, timeouts=clock(idle=30, total=500, lookup=None))
    with pytest.raises(errors.IdleTimeoutError), anyio.fail_after(600):
        await agent.ask("hi", idempotent=True)
    assert len(transport.requests) == 2


async def test_total_during_the_look_up_of_a_record() -> None:
    """`total` ends the run also while the record is looked up because `idle` has fired before the headers."""
    no_record = Reply.json({"code": 200, "message": "SUCCESS", "data": {"nodes": [], "trace_id": "t"}})
    views = [no_record, attrs.evolve(no_record, before=FOREVER)]
    transport = FakeTransport({"/sse/chat": Reply(before=FOREVER), "/view": views})
    agent = SSEOxyGent(server_url=URL, transport=transport, timeouts=clock(idle=5, total=8, lookup=5))
    began = anyio.current_time()
    with pytest.raises(TOTAL):
        await agent.ask("hi")
    assert anyio.current_time() - began == pytest.approx(8)


async def test_idle_after_a_legacy_done() -> None:
    """A legacy `done` that may still be followed by events does not keep `idle` from ending the run."""
    transport = FakeTransport.script(b"data: done\n\n", FOREVER)
    with pytest.raises(IDLE):
        await plain(server_url=URL, transport=transport, timeouts=clock(idle=1)).ask("hi")


# ---------------------------------------------------------------------------------------------- Time spent in user code


async def test_time_in_user_code() -> None:
    """`silence` and `idle` stand still while user code holds an event; `total` goes on."""

    async def slow(*anything: Any) -> None:
        await anyio.sleep(1000)

    steps: list[Step] = [heartbeat() + progress(1) + progress(2), pause(20), progress(3), pause(20), *END]
    places: dict[str, dict[str, Any]] = {
        "in the loop": {},
        "in a handler": {"event_handlers": {"progress": slow}},
        "in the progress callback": {"progress_callback": slow},
        "in send_message": {},
    }
    for place, options in places.items():
        request = OxyRequest(arguments={"query": "hi"})
        if place == "in send_message":
            vars(request)["send_message"] = slow
        agent = plain(
            server_url=URL, transport=FakeTransport.script(*steps), timeouts=clock(silence=25, idle=30), **options
        )
        began = anyio.current_time()
        async with agent.stream(request) as run:
            async for event in run:
                if place == "in the loop" and event.type == "progress":
                    await slow()
        assert (place, run.response.output) == (place, "42")
        assert anyio.current_time() - began >= 2000
        agent.timeouts = clock(total=2500)
        agent.transport = FakeTransport.script(*steps)
        if place != "in the progress callback":  # it is called only at the beginning and the end of this run
            with pytest.raises(TOTAL) as caught:
                async with agent.stream(request) as run:
                    async for event in run:
                        if place == "in the loop" and event.type == "progress":
                            await slow()
            assert caught.value.partial is not None
            assert (place, len(caught.value.partial.events)) == (place, 3)


async def test_waits_for_one_event_add_up() -> None:
    """The waits for one event add up, even with chunks that hold no event, or user code, between them."""
    steps: list[Step] = [progress(1), pause(20), heartbeat(), pause(9), heartbeat(), pause(9), heartbeat(), FOREVER]
    agent = plain(server_url=URL, transport=FakeTransport.script(*steps), timeouts=clock(idle=30))
    began = anyio.current_time()
    with pytest.raises(IDLE):
        async with agent.stream("hi") as run:
            async for _ in run:
                await anyio.sleep(100)
    assert anyio.current_time() - began == pytest.approx(130)


# --------------------------------------------------------------------------------------------------------------- Floods


class Flooding(FakeTransport):
    """A transport whose chunks are always ready, so that reading never waits."""

    def __init__(self, path: str, next_piece: Callable[[int], bytes], reply: Reply) -> None:
        super().__init__({path: reply})
        self.path = path
        self.next_piece = next_piece
        self.pieces = 0

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        async with super().exchange(request) as response:
            yield attrs.evolve(response, chunks=self) if request.path == self.path else response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self.pieces += 1
        assert self.pieces < 100_000, "nobody looks at the clock"
        return self.next_piece(self.pieces)


FLOODS: Final = {
    "heartbeats": heartbeat(),
    "blank lines": b"\r\n",
    "nothing": b"",
    "half a line": b"x",
    "data": b"data:x\n",
}
EVENTS: Final = {"events": progress(1), "two at a time": progress(1) + progress(2), "texts": text("x")}


@pytest.mark.parametrize(
    ("timeouts", "error"),
    [(clock(idle=10, silence=1), IDLE), (clock(total=10, silence=1), TOTAL)],
    ids=["idle", "total"],
)
@pytest.mark.parametrize("what", FLOODS)
async def test_floods_end(what: str, timeouts: Timeouts, error: type[errors.OxyError]) -> None:
    """A flood without events ends by `idle` or `total`; `silence` does not expire."""

    def flood(number: int) -> bytes:
        advance(0.01)
        return FLOODS[what]

    got = await timed(Flooding("/sse/chat", flood, Reply()), timeouts)
    assert got.result == error
    assert got.events == 0
    assert round(got.seconds) == 10


@pytest.mark.parametrize("what", EVENTS)
async def test_floods_of_events_end(what: str) -> None:
    """A flood of events ends by `total`."""

    def flood(number: int) -> bytes:
        advance(0.01)
        return EVENTS[what]

    got = await timed_events(Flooding("/sse/chat", flood, Reply()))
    assert got == pytest.approx(10, abs=0.1)


async def timed_events(transport: FakeTransport) -> float:
    """Return when `total` ended a run of many events."""
    began = anyio.current_time()
    agent = plain(server_url=URL, transport=transport, timeouts=clock(total=10))
    with pytest.raises(TOTAL):
        await agent.ask("hi")
    return anyio.current_time() - began


@pytest.mark.parametrize("what", [*FLOODS, *EVENTS])
async def test_cancellation_during_a_flood(what: str) -> None:
    """Reading a flood has a checkpoint at least every 64 chunks, so it can be cancelled."""
    scope = anyio.CancelScope()

    def flood(number: int) -> bytes:
        if number == 500:
            scope.cancel()
        return {**FLOODS, **EVENTS}[what]

    transport = Flooding("/sse/chat", flood, Reply())
    with scope:
        await plain(server_url=URL, transport=transport, timeouts=OFF).ask("hi")
    assert scope.cancelled_caught
    assert 500 <= transport.pieces <= 564
    assert transport.requests == transport.left


async def test_a_checkpoint_before_a_wait() -> None:
    """What other tasks do at a checkpoint before the program waits is no time without an event."""
    events = CHECKPOINT_EVERY // 2  # each counts as a piece and as an event: then a checkpoint is due
    transport = Flooding(
        "/sse/chat", lambda piece: {events + 1: heartbeat(), events + 2: b"".join(END)}.get(piece, progress(1)), Reply()
    )
    agent = SSEOxyGent(server_url=URL, transport=transport, timeouts=clock(idle=30))

    async def busy() -> None:
        advance(40)

    async with anyio.create_task_group() as group, agent.stream("hi") as run:
        assert isinstance(await anext(run), Progress)
        group.start_soon(busy)
        assert (await run.final_response()).output == "42"
    assert anyio.current_time() >= 40


# ------------------------------------------------------------------------------------------------------------ Discovery

ORG: Final = b'{"code": 200, "data": {"organization": {"name": "master"}}}'


DRIP: Final[list[Step]] = [pause(1), b" "] * 1000
DISCOVERIES: Final[dict[str, tuple[dict[str, Reply], type[errors.OxyError] | None, float]]] = {
    # name: (replies, the error, after so many seconds)
    "headers": ({"/get_organization": Reply(before=FOREVER)}, TOTAL, 30),
    "body": ({"/get_organization": Reply([b"{", FOREVER])}, TOTAL, 30),
    "dripping": ({"/get_organization": Reply(DRIP)}, TOTAL, 30),
    "just in time": ({"/get_organization": Reply([*DRIP[:40], ORG], before=pause(9))}, None, 29),
    "the second": ({"/get_organization": Reply([pause(20), ORG]), "/get_description": Reply(DRIP)}, TOTAL, 30),
    "the third": ({"/get_organization": Reply([pause(20), ORG]), "/get_agents": Reply(before=FOREVER)}, TOTAL, 30),
    "a refusal's body": ({"/get_organization": Reply(DRIP, status=500)}, errors.ServerError, 5),
}


@pytest.mark.parametrize("what", DISCOVERIES)
async def test_discovery_takes_30_seconds_in_all(what: str) -> None:
    """Discovery ends after 30 s in all, headers and bodies of the three documents together."""
    replies, expected, seconds = DISCOVERIES[what]
    transport = FakeTransport(replies)
    agent = plain(server_url=URL, transport=transport)
    began = anyio.current_time()
    got = None
    try:
        await agent.init()
    except errors.OxyError as error:
        got = type(error)
    assert got == expected
    assert anyio.current_time() - began == pytest.approx(seconds, abs=0.01)
    assert transport.requests == transport.left


async def test_a_slow_discovery_does_not_stop_a_run() -> None:
    """A run whose discovery gets no answer goes on after 30 s."""
    transport = FakeTransport({"/get_organization": Reply(before=FOREVER), "/sse/chat": Reply(END)})
    got = await timed(transport, Timeouts(), callee="x")
    assert got.result == "42"
    assert got.seconds == 30


async def test_floods_in_a_discovery() -> None:
    """Discovery of a body without an end stops after 30 s and can be cancelled."""

    def slow(number: int) -> bytes:
        advance(0.01)
        return b""

    began = anyio.current_time()
    with pytest.raises(TOTAL, match="/get_organization"):
        await plain(server_url=URL, transport=Flooding("/get_organization", slow, Reply())).init()
    assert anyio.current_time() - began == pytest.approx(30, abs=0.1)
    scope = anyio.CancelScope()

    def cancelled(number: int) -> bytes:
        if number == 500:
            scope.cancel()
        return b""

    transport = Flooding("/get_organization", cancelled, Reply())
    with scope:
        await plain(server_url=URL, transport=transport).init()
    assert scope.cancelled_caught
    assert 500 <= transport.pieces <= 564
