"""Statistics of an agent's runs: counts, quantiles of durations, and gauges.

Rule: time is virtual; every run is scripted.
"""

from __future__ import annotations

import copy
import math
import pickle
import re
import threading
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oxygent_client import Cluster, Limits, OxyRequest, Retry, RunHandle, SSEOxyGent, Transport, errors
from oxygent_client.policies import RetryTransport
from oxygent_client.telemetry import Quantiles
from oxygent_client.telemetry._observers import RunObservation
from oxygent_client.telemetry._stats_collector import LONGEST, SHORTEST, StatsCollector, _Times, after_fork
from oxygent_client.testing import FakeTransport, Reply, answer, close, delta, pause
from oxygent_client.transports import Context
from tests.conftest import scaled
from tests.support.plain import plain
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from oxygent_client.telemetry import Stats

URL: Final = "https://remote.test"
ANSWER: Final = Reply((answer("42"), close()))
NONE: Final = Quantiles()
FIELDS: Final = ("runs", "successes", "failures", "left", "in_flight", "events", "retries")


def counts(stats: Stats) -> tuple[Any, ...]:
    """Return the numbers of runs, events and retries."""
    return tuple(getattr(stats, name) for name in FIELDS)


def agent_for(*replies: Reply, **options: Any) -> SSEOxyGent:
    """Return an agent whose runs follow these scripts, one after the other."""
    return plain(server_url=URL, transport=FakeTransport({"/sse/chat": replies}), **options)


async def outcomes(agent: SSEOxyGent, times: int = 1) -> list[str]:
    """Return the results of runs: the output, or the class of the error."""
    said: list[str] = []
    for _ in range(times):
        try:
            said.append((await agent.ask("hi")).output)
        except errors.OxyError as error:
            said.append(type(error).__name__)
    return said


# --------------------------------------------------------------------------------------------------------------- Counts


def test_before_the_first_run() -> None:
    """Before the first run all counts are zero and durations are None, also without an event loop."""
    stats = SSEOxyGent(server_url=URL).stats()
    assert counts(stats) == (0, 0, {}, 0, 0, 0, 0)
    assert [stats.headers, stats.first_byte, stats.first_event, stats.end] == [NONE] * 4
    assert stats.bytes == 0
    assert stats.buffered == 0
    assert stats.buffered_peak == 0
    assert stats.oldest == 0.0


async def test_ends() -> None:
    """A response is a success, an error a failure by its class, and a run that was left neither."""
    refused = Reply((b"no",), status=403)
    agent = agent_for(ANSWER, refused, Reply((answer("42"),)), refused, ANSWER, ANSWER)
    said = await outcomes(agent, 5)
    async with agent.stream("hi") as run:
        await anext(run)
        stats = agent.stats()
        assert stats.runs == 6
        assert stats.successes == 2
        assert stats.in_flight == 1
    assert said == ["42", "PermissionDeniedError", "IncompleteStreamError", "PermissionDeniedError", "42"]
    failures = {"PermissionDeniedError": 2, "IncompleteStreamError": 1}
    assert counts(agent.stats()) == (6, 2, failures, 1, 0, 4, 0)


@pytest.mark.parametrize(
    ("replies", "shown"),
    [
        pytest.param((), r"<Stats: 0 runs, 0 successes>", id="none"),
        pytest.param(
            (ANSWER, ANSWER), r"<Stats: 2 runs, 2 successes, first event after .*, end after .*>", id="answers"
        ),
        pytest.param(
            (Reply((b"no",), status=403),),
            r"<Stats: 1 runs, 0 successes, 1 failures \(PermissionDeniedError 1\), end after .*>",
            id="a failure",
        ),
    ],
)
async def test_repr(replies: tuple[Reply, ...], shown: str) -> None:
    """The repr has the counts and durations that a reader looks for first."""
    agent = agent_for(*replies)
    await outcomes(agent, len(replies))
    assert re.fullmatch(shown, repr(agent.stats()))


async def test_repr_of_open_runs() -> None:
    """Runs that were left, and those in flight, are counted in the repr."""
    agent = agent_for(ANSWER, ANSWER)
    async with agent.stream("hi"):
        pass
    async with agent.stream("hi"):
        assert "1 left, 1 in flight" in repr(agent.stats())


async def test_retries() -> None:
    """A retried request counts as one run with a retry."""
    transport = FakeTransport({"/sse/chat": [Reply(before=errors.ConnectError("no")), ANSWER]})
    agent = SSEOxyGent(server_url=URL, transport=transport, retry=Retry(base=0))
    assert await outcomes(agent) == ["42"]
    assert counts(agent.stats()) == (1, 1, {}, 0, 0, 1, 1)


async def test_attached_runs() -> None:
    """An attached run counts as a run; its start does not."""
    begun = Reply.json({"code": 200, "message": "SUCCESS", "data": {}})
    transport = FakeTransport({"/async/chat": begun, "/async/trace": ANSWER})
    agent = plain(server_url=URL, transport=transport)
    handle = await agent.start("hi")
    assert agent.stats().runs == 0
    async with agent.attach(handle.to_token()) as run:
        await run.final_response()
    assert counts(agent.stats()) == (1, 1, {}, 0, 0, 1, 0)


# ------------------------------------------------------------------------------------------------------------ Durations


def near(seconds: float) -> Any:
    """Return the approximate value within the promised error."""
    return pytest.approx(seconds, rel=0.05 + 1e-9)


async def test_durations() -> None:
    """Durations count from the start to the headers, the first byte, the first event and the end."""
    steps = (pause(2), b": hello\r\n\r\n", pause(4), delta("a"), pause(8), answer("42"), close())
    agent = agent_for(Reply(steps, before=pause(1)))
    await outcomes(agent)
    stats = agent.stats()
    shown = [stats.headers, stats.first_byte, stats.first_event, stats.end]
    assert [(1, near(seconds)) for seconds in (1, 3, 7, 15)] == [(each.count, each.p50) for each in shown]
    assert all(each.p50 == each.p90 == each.p99 for each in shown)


async def test_durations_after_a_reconnect() -> None:
    """A run that reconnects has one duration of each kind."""
    cut = errors.ConnectionLostError("cut", outcome=errors.Outcome.STARTED)
    replies = [Reply((pause(1), delta("a"), pause(100), cut), before=pause(2)), Reply((answer("42"), close()))]
    agent = plain(server_url=URL, transport=FakeTransport({"/async/trace": replies}))
    handle = RunHandle(server_url=URL, trace_id="t", remote_trace_id="t", node_id="n")
    async with agent.attach(handle.to_token()) as run:
        assert (await run.final_response()).output == "42"
    stats = agent.stats()
    shown = [stats.headers, stats.first_byte, stats.first_event]
    assert [(1, near(seconds)) for seconds in (2, 3, 3)] == [(each.count, each.p99) for each in shown]
    assert stats.end.count == 1


async def test_durations_of_runs_that_were_left() -> None:
    """A run that was left has no duration to its end; a failed one has."""
    agent = agent_for(ANSWER, Reply((pause(4),)))
    async with agent.stream("hi") as run:
        await anext(run)
    assert agent.stats().end.count == 0
    await outcomes(agent)
    stats = agent.stats()
    assert stats.headers.count == 2
    assert stats.end.count == 1
    assert stats.end.p99 == near(4)


@example([number / 7 for number in range(1, 200)])
@given(st.lists(st.floats(SHORTEST, LONGEST), min_size=1, max_size=200))
def test_quantiles(seconds: list[float]) -> None:
    """A quantile is the duration of its rank within the promised error, for any number of runs."""
    times = _Times()
    for each in seconds:
        times.add(each)
    shown = times.quantiles()
    ranked = sorted(seconds)
    exact = [ranked[math.ceil(share * len(ranked)) - 1] for share in (0.5, 0.9, 0.99)]
    assert [near(each) for each in exact] == [shown.p50, shown.p90, shown.p99]
    assert len(seconds) == shown.count
    assert len(times._counts) <= 12 * 90 + 1


@pytest.mark.parametrize(("shown", "seconds"), [(SHORTEST, 0.0), (SHORTEST, -1.0), (LONGEST, math.inf), (LONGEST, 1e9)])
def test_durations_out_of_bounds(shown: float, seconds: float) -> None:
    """A duration outside the bounds counts as the bound."""
    times = _Times()
    times.add(seconds)
    assert Quantiles(1, *[near(shown)] * 3) == times.quantiles()


def test_quantiles_are_rounded() -> None:
    """A quantile is the duration of its rank, in two significant digits."""
    times = _Times()
    for seconds in (0.1234, 0.1249, 12.345, 0.1251):
        times.add(seconds)
    assert times.quantiles() == Quantiles(4, 0.12, 12.0, 12.0)


# -------------------------------------------------------------------------------------------------------------- Gauges


async def test_bytes_and_buffered_bytes() -> None:
    """Bytes are counted over all runs as received, and the peak is that of all runs together."""
    piece = delta("a") + delta("b")
    agent = agent_for(*[Reply((piece, answer("42"), close()))] * 3)
    async with agent.stream("hi") as one, agent.stream("hi") as other:
        await anext(one)
        assert agent.stats().bytes == len(piece)
        assert agent.stats().buffered == len(piece)
        await anext(other)
        assert agent.stats().bytes == 2 * len(piece)
        assert agent.stats().buffered == 2 * len(piece)
        await one.final_response()
        stats = agent.stats()
        assert stats.buffered == len(piece)
        assert stats.buffered_peak == 2 * len(piece)
    await outcomes(agent)
    stats = agent.stats()
    received = 2 * len(piece + answer("42") + close()) + len(piece)
    assert stats.bytes == received
    assert stats.buffered == 0
    assert stats.buffered_peak == 2 * len(piece)


async def test_an_incomplete_event_is_buffered() -> None:
    """The part of an incomplete event is buffered; data over a limit is not."""
    agent = agent_for(Reply((b"data: " + b"x" * 500, b"y" * 500, b"z" * 500)), limits=Limits(event_bytes=1200))
    assert await outcomes(agent) == ["TooLargeError"]
    stats = agent.stats()
    assert stats.buffered == 0
    assert stats.buffered_peak == 1506


def test_the_oldest() -> None:
    """The age of the oldest run in flight."""
    now = [100.0]
    keeper = StatsCollector(clock=lambda: now[0])
    runs = [keeper.observed(()) for _ in range(2)]
    for run in runs:
        run.note("begun", Context(), {})
        now[0] += 5
    assert keeper.stats().oldest == 10.0
    assert keeper.stats().in_flight == 2
    runs[0].note("ended", Context(), {"end": "left", "error": None, "seconds": 1})
    assert keeper.stats().oldest == 5.0
    assert keeper.stats().in_flight == 1


class Counted(FakeTransport):
    """A transport with connection counts."""

    def connections(self) -> tuple[int, int]:
        """Return the counts."""
        return (5, 2)


class Clueless(FakeTransport):
    """A transport whose counts are unknown."""

    def connections(self) -> None:
        """Return None."""


@pytest.mark.parametrize(
    ("expected", "transport"),
    [
        ((5, 2), Counted({})),
        ((5, 2), Cluster([URL], transport=RetryTransport(Counted({}), Retry()))),
        ((None, None), Clueless({})),
        ((None, None), FakeTransport({})),
        ((None, None), None),
    ],
    ids=["tells", "wrapped", "clueless", "mute", "none"],
)
def test_connections(expected: tuple[int | None, int | None], transport: Transport | None) -> None:
    """The connections are those of the agent's transport or the one it wraps, or None."""
    stats = StatsCollector().stats(transport)
    assert (stats.connections, stats.idle_connections) == expected


# ------------------------------------------------------------------------------------------------- Snapshots and copies


async def test_snapshots() -> None:
    """A snapshot is immutable, does not change later, and pickles."""
    agent = agent_for(ANSWER, Reply((b"no",), status=403))
    before = agent.stats()
    await outcomes(agent, 2)
    after = agent.stats()
    assert (before.runs, before.failures) == (0, {})
    assert (after.runs, after.failures) == (2, {"PermissionDeniedError": 1})
    with pytest.raises(AttributeError):
        after.runs = 0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  (that is the point)
    with pytest.raises(TypeError):
        after.failures["X"] = 1  # type: ignore[index]  # pyright: ignore[reportIndexIssue]  (as above)
    assert after == agent.stats() == pickle.loads(pickle.dumps(after))


def pickled(value: Any) -> Any:
    """Return the copy made by pickling."""
    return pickle.loads(pickle.dumps(value))


def copied(value: Any) -> Any:
    """Return a deep copy."""
    return copy.deepcopy(value)


@pytest.mark.parametrize("again", [copied, pickled])
def test_a_copy(again: Any) -> None:
    """A copied agent has its own counts, from zero."""
    agent = plain(server_url=URL)
    agent._stats.observed(()).note("begun", Context(), {})
    clone: SSEOxyGent = again(agent)
    assert agent.stats().runs == 1
    assert clone.stats().runs == 0


def test_threads() -> None:
    """Runs in several threads are all counted, and concurrent snapshots are consistent."""
    keeper, each = StatsCollector(), scaled(300)
    seen: list[Stats] = []

    def work() -> None:
        for _ in range(each):
            run = keeper.observed(())
            run.note("begun", Context(), {})
            run.hold(10)
            run.bytes += 7
            seen.append(keeper.stats())
            run.hold(0)
            run.note("ended", Context(), {"end": "completed", "error": None, "seconds": 1.0})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(one.successes + one.in_flight, 0) for one in seen] == [(one.runs, one.left) for one in seen]
    stats = keeper.stats()
    assert stats.successes == 4 * each
    assert stats.bytes == 28 * each
    assert stats.buffered == 0
    assert 10 <= stats.buffered_peak <= 40


async def test_two_agents() -> None:
    """Two agents over one transport count separately."""
    transport = FakeTransport({"/sse/chat": [ANSWER, ANSWER]})
    one, other = (plain(server_url=URL, transport=transport) for _ in range(2))
    await one.execute(OxyRequest(arguments={"query": "hi"}))
    assert one.stats().runs == 1
    assert other.stats().runs == 0


async def test_a_cancelled_run() -> None:
    """A cancelled run counts as left; nothing of it is in flight or buffered."""
    agent = agent_for(Reply((delta("a"), pause(100))))
    with anyio.move_on_after(1):
        await agent.ask("hi")
    assert counts(agent.stats()) == (1, 0, {}, 1, 0, 1, 0)
    assert agent.stats().buffered == 0


def test_a_forked_child() -> None:
    """In a forked child counts start at zero, and neither the end of a parent's run nor its bytes are counted."""
    keeper = StatsCollector()
    inherited = keeper.observed(())
    inherited.note("begun", Context(), {})
    inherited.hold(10)
    after_fork()
    assert keeper.stats().runs == 0
    inherited.hold(0)
    inherited.note("ended", Context(), {"end": "completed", "seconds": 1.0})
    assert keeper.stats().successes == 0
    assert keeper.stats().left == 0
    assert keeper.stats().buffered == 0


def test_a_collection_while_counting() -> None:
    """A run may be garbage-collected in a thread that is counting, without a deadlock."""

    def clock() -> float:
        other.hold(0)
        return 0.0

    keeper = StatsCollector(clock)
    run, other = keeper.observed(()), keeper.observed(())
    other.hold(10)
    counting = threading.Thread(target=run.note, args=("begun", Context(), {}), daemon=True)
    counting.start()
    counting.join(10)
    assert not counting.is_alive()
    assert keeper.stats().in_flight == 1
    assert keeper.stats().buffered == 0


def test_a_run_that_ends_while_statistics_are_read() -> None:
    """A run that the garbage collector ends in the thread that reads statistics is still in flight in them."""

    def clock() -> float:
        if reading:
            run.note("ended", Context(), {"end": "left"})
        return 0.0

    reading = list[bool]()
    keeper = StatsCollector(clock)
    run = keeper.observed(())
    run.note("begun", Context(), {})
    reading.append(True)
    assert keeper.stats().in_flight == 1
    assert keeper.stats().left == 1


def test_without_counts() -> None:
    """A run without counts may buffer any number of bytes."""
    observed = RunObservation()
    observed.hold(5)
    assert observed.buffered == 5
