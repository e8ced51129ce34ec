"""What an agent counts of its runs, and how near its quantiles are.

Rule: time is virtual; every run is a script.
"""

from __future__ import annotations

import copy
import gc
import math
import pickle
import threading
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import Cluster, Limits, OxyRequest, Retry, RunHandle, SSEOxyGent, Transport, errors
from oxygent_client.policies import RetryTransport
from oxygent_client.telemetry import Quantiles
from oxygent_client.telemetry._observers import RunObservation
from oxygent_client.telemetry._stats import LONGEST, SHORTEST, StatsCollector, _Times, after_fork
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
    """The numbers of runs, events and retries."""
    return tuple(getattr(stats, name) for name in FIELDS)


def agent_for(*replies: Reply, **options: Any) -> SSEOxyGent:
    """An agent whose runs go like that, one after the other."""
    return plain(server_url=URL, transport=FakeTransport({"/sse/chat": replies}), **options)


async def outcomes(agent: SSEOxyGent, times: int = 1) -> list[str]:
    """How runs went: the output, or the class of the error."""
    said: list[str] = []
    for _ in range(times):
        try:
            said.append((await agent.ask("hi")).output)
        except errors.OxyError as error:
            said.append(type(error).__name__)
    return said


# -------------------------------------------------------------------------------------------------------------- Counts


def test_nothing_yet() -> None:
    """Before the first run there is nothing, and no time to show; outside of an event loop, too."""
    stats = SSEOxyGent(server_url=URL).stats()
    assert counts(stats) == (0, 0, {}, 0, 0, 0, 0)
    assert [stats.headers, stats.first_byte, stats.first_event, stats.end] == [NONE] * 4
    assert stats.bytes == 0
    assert stats.buffered == 0
    assert stats.buffered_peak == 0
    assert stats.oldest == 0.0


async def test_ends_are_counted_by_what_they_are() -> None:
    """A response is a success, an error a failure by its class, and what was left is neither."""
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


async def test_retries_are_counted() -> None:
    """A request that was sent again counts as one run, with a retry."""
    transport = FakeTransport({"/sse/chat": [Reply(before=errors.ConnectError("no")), ANSWER]})
    agent = SSEOxyGent(server_url=URL, transport=transport, retry=Retry(base=0))
    assert await outcomes(agent) == ["42"]
    assert counts(agent.stats()) == (1, 1, {}, 0, 0, 1, 1)


async def test_attached_runs_count() -> None:
    """So does a run that is only listened to; that it was begun is no run."""
    begun = Reply.json({"code": 200, "message": "SUCCESS", "data": {}})
    transport = FakeTransport({"/async/chat": begun, "/async/trace": ANSWER})
    agent = plain(server_url=URL, transport=transport)
    handle = await agent.start("hi")
    assert agent.stats().runs == 0
    async with agent.attach(handle.to_token()) as run:
        await run.final_response()
    assert counts(agent.stats()) == (1, 1, {}, 0, 0, 1, 0)


# --------------------------------------------------------------------------------------------------------------- Times


def near(seconds: float) -> Any:
    """What a time is shown as, within the bound that is promised."""
    return pytest.approx(seconds, rel=0.05 + 1e-9)


async def test_times() -> None:
    """Times count from the beginning, up to the headers, the first byte, the first event and the end."""
    steps = (pause(2), b": hello\r\n\r\n", pause(4), delta("a"), pause(8), answer("42"), close())
    agent = agent_for(Reply(steps, before=pause(1)))
    await outcomes(agent)
    stats = agent.stats()
    shown = [stats.headers, stats.first_byte, stats.first_event, stats.end]
    assert [(1, near(seconds)) for seconds in (1, 3, 7, 15)] == [(each.count, each.p50) for each in shown]
    assert all(each.p50 == each.p90 == each.p99 for each in shown)


async def test_who_attaches_again_has_one_time_of_each() -> None:
    """The headers of a later connection are not those of the run."""
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


async def test_what_was_left_has_no_time_to_its_end() -> None:
    """That somebody left says nothing of how long runs take; a failure does."""
    agent = agent_for(ANSWER, Reply((pause(4),)))
    async with agent.stream("hi") as run:
        await anext(run)
    assert agent.stats().end.count == 0
    await outcomes(agent)
    stats = agent.stats()
    assert stats.headers.count == 2
    assert stats.end.count == 1
    assert stats.end.p99 == near(4)


@given(st.lists(st.floats(SHORTEST, LONGEST), min_size=1, max_size=200))
def test_quantiles_are_near(seconds: list[float]) -> None:
    """A quantile is the time of its rank, off by no more than is promised, however many there are."""
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
def test_times_out_of_bounds(shown: float, seconds: float) -> None:
    """What is shorter or longer than can be told is counted at the bound."""
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


async def test_bytes_and_what_is_buffered() -> None:
    """Bytes count as they come, over all runs; the peak is of all runs at once."""
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


async def test_an_event_in_pieces_is_buffered() -> None:
    """Of an event that is not complete all is held; what is too large is held no longer."""
    agent = agent_for(Reply((b"data: " + b"x" * 500, b"y" * 500, b"z" * 500)), limits=Limits(event_bytes=1200))
    assert await outcomes(agent) == ["TooLargeError"]
    stats = agent.stats()
    assert stats.buffered == 0
    assert stats.buffered_peak == 1506


def test_the_oldest() -> None:
    """The age of the run that was entered first, of those in flight."""
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
    """A transport that can say what it keeps."""

    def connections(self) -> tuple[int, int]:
        """As `Pool.connections`."""
        return (5, 2)


class Clueless(FakeTransport):
    """One that could say, and does not know."""

    def connections(self) -> None:
        """As `Pool.connections`."""


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
    """Those of the agent's transport, or of what it wraps, where it can say; None is no number."""
    stats = StatsCollector().stats(transport)
    assert (stats.connections, stats.idle_connections) == expected


# ------------------------------------------------------------------------------------------------- Snapshots and copies


async def test_a_snapshot_stays_as_it_is() -> None:
    """What is counted later is in a later one; nothing in it can be changed; it pickles."""
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
    """What comes out of another process."""
    return pickle.loads(pickle.dumps(value))


def copied(value: Any) -> Any:
    """A deep copy."""
    return copy.deepcopy(value)


@pytest.mark.parametrize("again", [copied, pickled])
def test_a_copy_begins_at_nothing(again: Any) -> None:
    """Each agent counts for itself; one that travelled has no runs behind it."""
    agent = plain(server_url=URL)
    agent._stats.observed(()).note("begun", Context(), {})
    clone: SSEOxyGent = again(agent)
    assert agent.stats().runs == 1
    assert clone.stats().runs == 0


def test_threads() -> None:
    """Runs of several threads are all counted, while others look; what they see adds up."""
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


async def test_agents_count_for_themselves() -> None:
    """Two agents over one transport are two counts."""
    transport = FakeTransport({"/sse/chat": [ANSWER, ANSWER]})
    one, other = (plain(server_url=URL, transport=transport) for _ in range(2))
    await one.execute(OxyRequest(arguments={"query": "hi"}))
    assert one.stats().runs == 1
    assert other.stats().runs == 0


async def test_a_cancelled_run_is_no_failure() -> None:
    """It was left, and nothing of it is in flight or buffered."""
    agent = agent_for(Reply((delta("a"), pause(100))))
    with anyio.move_on_after(1):
        await agent.ask("hi")
    assert counts(agent.stats()) == (1, 0, {}, 1, 0, 1, 0)
    assert agent.stats().buffered == 0


def test_a_run_that_was_dropped() -> None:
    """A run that nobody ends was left when it is gone: nothing of it is in flight, buffered or in the next peak."""
    keeper = StatsCollector()
    dropped, other = keeper.observed(()), keeper.observed(())
    for run in (dropped, other):
        run.note("begun", Context(), {})
        run.hold(10)
    assert keeper.stats().in_flight == 2
    assert keeper.stats().left == 0
    assert keeper.stats().buffered == 20
    del dropped, run
    gc.collect()
    stats = keeper.stats()
    assert stats.runs == 2
    assert stats.in_flight == 1
    assert stats.left == 1
    assert stats.buffered == 10
    other.hold(19)
    assert keeper.stats().buffered == 19
    assert keeper.stats().buffered_peak == 20


def test_a_keeper_of_another_process() -> None:
    """In a forked child the counts begin at nothing, and the end of a run of the parent is not counted."""
    keeper = StatsCollector()
    inherited = keeper.observed(())
    inherited.note("begun", Context(), {})
    after_fork()
    assert keeper.stats().runs == 0
    inherited.note("ended", Context(), {"end": "completed", "seconds": 1.0})
    assert keeper.stats().successes == 0
    assert keeper.stats().left == 0


def test_a_run_that_the_collector_closes() -> None:
    """It may do so at any moment, also in a thread that is counting: that one does not wait for itself."""

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


def test_who_observes_nothing() -> None:
    """A run that nobody counts may hold what it will."""
    observed = RunObservation()
    observed.hold(5)
    assert observed.buffered == 5
