"""`SyncSSEOxyGent.map`: many queries in a plain `for`."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, assert_type

import pytest

from oxygent_client import QueryResult, QueryResults, SSEOxyGent
from oxygent_client.errors import ClosedError, ConfigurationError
from oxygent_client.sync import SyncQueryResults, SyncSSEOxyGent
from oxygent_client.sync._portal import current_portal
from oxygent_client.testing import ToyRemote
from oxygent_client.transports.asgi import ASGITransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import TracebackType

    from tests.sync.conftest import ServedToy

URL: Final = "http://remote.test"


@pytest.fixture
def agent() -> SyncSSEOxyGent:
    """An agent whose remote is in the same process."""
    return SyncSSEOxyGent(URL, transport=ASGITransport(ToyRemote(pace=0)))


def outputs(results: SyncQueryResults) -> list[Any]:
    """Return the output of each result, in order; a failed query gives the name of its error."""
    return [
        result.response.output if result.response else type(result.error).__name__
        for result in (assert_type(each, QueryResult) for each in results)
    ]


def test_the_results(agent: SyncSSEOxyGent) -> None:
    """A plain `for` gives a result for each query, failed ones too, in the order of the queries."""
    queries = [*(f"echo {number}" for number in range(20)), "fail"]
    assert outputs(agent.map(queries, limit=3)) == [*map(str, range(20)), "RemoteAgentError"]


def test_queries_are_read_in_the_calling_thread(agent: SyncSSEOxyGent) -> None:
    """A plain iterable is read in the calling thread, as far as queries are needed."""
    threads: list[threading.Thread] = []

    def queries() -> Iterator[str]:
        for number in range(9):
            threads.append(threading.current_thread())
            yield f"echo {number}"

    results = iter(agent.map(queries(), limit=2, ordered=False))
    next(results)
    assert len(threads) == 2
    assert len([*results]) == 8
    assert {*threads} == {threading.current_thread()}


def test_an_async_iterable(agent: SyncSSEOxyGent) -> None:
    """An async iterable is read in the event loop."""

    async def queries() -> AsyncIterator[str]:
        yield "echo 1"
        yield "echo 2"

    assert outputs(agent.map(queries())) == ["1", "2"]


def test_no_queries(agent: SyncSSEOxyGent) -> None:
    """Without queries there are no results."""
    assert outputs(agent.map([])) == []


def test_an_iterable_that_fails(agent: SyncSSEOxyGent) -> None:
    """The error of the iterable is raised after the results of the queries before it."""

    def queries() -> Iterator[str]:
        yield "echo 1"
        raise ZeroDivisionError

    results = iter(agent.map(queries()))
    assert isinstance(next(results), QueryResult)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_leaving(toy: ServedToy) -> None:
    """Leaving the `for` cancels the runs in progress."""
    before = len(toy.runs)

    def becomes(states: list[str]) -> bool:
        until = time.monotonic() + toy.seconds
        while (found := [run.state for run in toy.runs[before:] if run.query == "hang"]) != states:
            if time.monotonic() > until:
                return False
            time.sleep(0.002)
        return found == states

    for _ in SyncSSEOxyGent(toy.url).map(["echo 1", "hang", "hang"], ordered=False):
        assert becomes(["started"] * 2)
        break
    assert becomes(["cancelled"] * 2)


def test_leaving_by_an_exception_inside(agent: SyncSSEOxyGent) -> None:
    """An exception that is thrown into the iterator leaves the block."""
    results: Any = iter(agent.map(["echo 1", "hang"]))
    next(results)
    with pytest.raises(ZeroDivisionError):
        results.throw(ZeroDivisionError())


def test_a_block(agent: SyncSSEOxyGent) -> None:
    """A block is entered once; results are read inside of it."""
    results = agent.map(["echo 1", "hang"], ordered=False)
    results.close()  # it has not begun
    results.__exit__(None, None, None)
    with results:
        assert next(results).index == 0
        with pytest.raises(ClosedError), results:
            pass
    with pytest.raises(ClosedError):
        next(results)


class Counted(QueryResults):
    """Results that count how often their block is left."""

    left = 0

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.left += 1
        await super().__aexit__(kind, error, traceback)


def test_threads_that_share_the_results() -> None:
    """Each result goes to one thread; both threads come to the end, and the block is left once."""
    agent = SSEOxyGent(URL, transport=ASGITransport(ToyRemote(pace=0)))
    made: list[Counted] = []

    def map_queries(queries: Any) -> Counted:
        made.append(Counted(agent.ask, queries, limit=2, ordered=False))
        return made[0]

    results = SyncQueryResults(map_queries, (f"echo {number}" for number in range(20)), current_portal)
    both_have_one = threading.Barrier(2)

    def read() -> list[Any]:
        found: list[Any] = []
        for result in results:
            found.append(result.index)
            if len(found) == 1:
                both_have_one.wait(60)
        return found

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(read), pool.submit(read)
    assert sorted([*first.result(), *second.result()]) == [*range(20)]
    assert made[0].left == 1


def test_the_end_is_the_end(agent: SyncSSEOxyGent) -> None:
    """After the last result there is none, also for a thread that asks later."""
    results = agent.map(["echo 1"])
    assert outputs(results) == ["1"]
    assert [*results] == []


@pytest.mark.parametrize("queries", ["a text", 5], ids=["a text", "no iterable"])
def test_wrong_queries(agent: SyncSSEOxyGent, queries: Any) -> None:
    """Queries that are no iterable of queries are an error at the call."""
    with pytest.raises(ConfigurationError, match="queries"):
        agent.map(queries)
