"""`agent.map`: many queries, a limited number at a time.

Time is virtual. The remote takes as many seconds as the query says.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, assert_type

import anyio
import pytest

from oxygent_client import HTTPResponse, OxyRequest, QueryResult, QueryResults, SSEOxyGent, Timeouts
from oxygent_client.errors import (
    ClosedError,
    ConfigurationError,
    DeadlineExceededError,
    PayloadError,
    RemoteAgentError,
)
from oxygent_client.testing import answer, close, message
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from oxygent_client import HTTPRequest

URL: Final = "https://remote.test"


class SlowRemote:
    """A transport whose runs take the seconds that their query says; a negative number fails."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.began: list[str] = []
        self.left: list[str] = []
        self.headers: list[str] = []

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        query = json.loads(request.body or b"{}").get("query", "")
        self.began.append(query)
        self.headers.append(request.headers.get("x-tenant", ""))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            yield HTTPResponse(200, {"content-type": "text/event-stream"}, self._chunks(float(query)), request)
        finally:
            self.running -= 1
            self.left.append(query)

    async def _chunks(self, seconds: float) -> AsyncIterator[bytes]:
        await anyio.sleep(abs(seconds))
        yield answer(f"after {seconds:g}") + close() if seconds >= 0 else message({"type": "error", "content": "no"})
        if seconds < 0:
            yield close()

    async def aclose(self) -> None:
        pass


@pytest.fixture
def remote() -> SlowRemote:
    """The remote of the test."""
    return SlowRemote()


@pytest.fixture
def agent(remote: SlowRemote) -> SSEOxyGent:
    """An agent of that remote."""
    return SSEOxyGent(URL, transport=remote, confirm_state=False, timeouts=Timeouts(lookup=None))


async def read(results: QueryResults) -> list[QueryResult]:
    """Read all results."""
    async with results:
        return [result async for result in results]


@pytest.mark.parametrize(
    ("ordered", "expected"),
    [
        pytest.param(True, [0, 1, 2, 3], id="in the order of the queries"),
        pytest.param(False, [1, 2, 0, 3], id="as the runs end"),
    ],
)
async def test_the_order(agent: SSEOxyGent, remote: SlowRemote, ordered: bool, expected: list[int]) -> None:
    """Results are in the order of the queries, or of the ends of their runs."""
    results = await read(agent.map(["5", "1", "2", "9"], limit=3, ordered=ordered))
    assert [result.index for result in results] == expected
    assert sorted(result.response.output for result in results if result.response) == [
        f"after {seconds}" for seconds in (1, 2, 5, 9)
    ]
    assert remote.most == 3


async def test_more_queries_than_the_limit(agent: SSEOxyGent, remote: SlowRemote) -> None:
    """At most `limit` runs are in progress, and a run begins as soon as another ends."""
    began = anyio.current_time()
    results = await read(agent.map(["1"] * 100, limit=10))
    assert len(results) == 100
    assert remote.most == 10
    assert anyio.current_time() - began == pytest.approx(10)


async def test_types(agent: SSEOxyGent) -> None:
    """Type checkers know the results."""
    async with assert_type(agent.map(["0"]), QueryResults) as results:
        async for result in results:
            assert_type(result, QueryResult)
            assert result.query == "0"


async def test_failures(agent: SSEOxyGent) -> None:
    """A query that fails is a result with its error, and the others go on."""
    bad: Any = 5
    request = OxyRequest(arguments={"query": "0", "callee": "x"})
    results = await read(agent.map(["1", "-1", "60", bad, request, "2"], timeout=30))
    assert [type(result.error) for result in results] == [
        type(None),
        RemoteAgentError,
        DeadlineExceededError,
        ConfigurationError,
        PayloadError,
        type(None),
    ]
    assert [result.response is None for result in results] == [False, True, True, True, True, False]
    assert results[4].query is request


async def test_options_of_the_calls(agent: SSEOxyGent, remote: SlowRemote) -> None:
    """Options hold for each call."""
    await read(agent.map(["0", "0"], headers={"x-tenant": "acme"}))
    assert remote.headers == ["acme", "acme"]


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as they end"])
async def test_a_slow_reader(agent: SSEOxyGent, ordered: bool) -> None:
    """Queries are read as they are needed: those in progress and those not read are at most `limit`."""
    taken: list[int] = []

    def queries() -> Iterator[str]:
        for number in range(20):
            taken.append(number)
            yield "1"

    async with agent.map(queries(), limit=4, ordered=ordered) as results:
        for read_so_far in range(1, 15):
            await anext(results)
            await anyio.sleep(100)
            assert len(taken) == read_so_far + 4


async def test_an_async_iterable(agent: SSEOxyGent) -> None:
    """Results are given while the next query is not there yet."""

    async def queries() -> AsyncIterator[str]:
        for _ in range(3):
            yield "1"
            await anyio.sleep(10)

    began = anyio.current_time()
    async with agent.map(queries()) as results:
        times = [anyio.current_time() - began async for _ in results]
    assert times == pytest.approx([1, 11, 21])


async def test_an_iterable_that_fails(agent: SSEOxyGent) -> None:
    """The error of the iterable is raised after the results of the queries before it, once."""

    def queries() -> Iterator[str]:
        yield "3"
        yield "1"
        raise ZeroDivisionError

    async with agent.map(queries()) as results:
        assert [(await anext(results)).index, (await anext(results)).index] == [0, 1]
        with pytest.raises(ZeroDivisionError):
            await anext(results)
        assert [result async for result in results] == []


@pytest.mark.parametrize("error", [None, KeyError("mine")], ids=["break", "an exception"])
async def test_leaving(agent: SSEOxyGent, remote: SlowRemote, error: KeyError | None) -> None:
    """Leaving the block cancels the runs in progress at once; an exception passes unchanged."""
    began = anyio.current_time()
    try:
        async with agent.map(["1", "100", "100", "100"], limit=3) as results:
            async for _ in results:
                if error is not None:
                    raise error
                break
    except KeyError as raised:
        assert raised is error  # noqa: PT017  (it must be the same object)
    assert remote.running == 0
    assert remote.left == remote.began
    assert anyio.current_time() - began == pytest.approx(1)


async def test_cancellation(agent: SSEOxyGent, remote: SlowRemote) -> None:
    """A cancelled reader cancels the runs in progress."""
    with anyio.move_on_after(5) as scope:
        await read(agent.map(["100", "100"]))
    assert scope.cancelled_caught
    assert remote.left == ["100", "100"]


async def test_an_agent_with_a_fault(remote: SlowRemote) -> None:
    """An exception that is no OxyError, of a subclass, is raised as it is, and ends the block."""

    class Faulty(SSEOxyGent):
        async def ask(self, query: Any, **options: Any) -> Any:
            if query == "1":
                raise ZeroDivisionError
            return await super().ask(query, **options)

    with pytest.raises(ZeroDivisionError):
        await read(Faulty(URL, transport=remote).map(["100", "1"]))
    assert remote.left == ["100"]


async def test_outside_of_the_block(agent: SSEOxyGent) -> None:
    """Results are read inside their block, which is entered once."""
    results = agent.map(["0"])
    with pytest.raises(ClosedError):
        await anext(results)
    assert len(await read(results)) == 1
    with pytest.raises(ClosedError):
        await anext(results)
    with pytest.raises(ClosedError):
        await results.__aenter__()
    await agent.map(["0"]).__aexit__(None, None, None)


WRONG: Final[dict[str, dict[str, Any]]] = {
    "queries": {"queries": "one text"},
    "limit": {"limit": 0},
    "ordered": {"ordered": 1},
    "timeout": {"timeout": -1},
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(agent: SSEOxyGent, name: str) -> None:
    """An invalid argument is an error that names it, before the first query is sent."""
    arguments: dict[str, Any] = {"queries": ["0"], **WRONG[name]}
    with pytest.raises(ConfigurationError, match=name):
        agent.map(**arguments)
