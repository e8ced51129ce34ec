"""The simulation of a cluster: the chart and tables in the docs are its output, and show what the page states."""

from __future__ import annotations

import re
import runpy
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from oxygent_client import HTTPRequest, HTTPResponse, errors
from oxygent_client.cluster import Cluster
from oxygent_client.cluster._strategies import STRATEGIES
from tests.conftest import ROOT, SIZE
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from oxygent_client.cluster import Strategy

SCRIPT: Final = ROOT / "benchmarks" / "cluster_simulation.py"
MODEL: Final[dict[str, Any]] = runpy.run_path(str(SCRIPT))
PAGE: Final = (ROOT / "docs" / "howto" / "cluster.md").read_text(encoding="utf-8")
PLAIN: Final = "plain round robin"
OURS: Final = ("`round_robin`", "`random`", "`power_of_two`", "`least_in_flight`")
BUSY_AWARE: Final = OURS[2:]
PARTS: Final = ("before", "failure", "after")


WAYS: Final = MODEL["WAYS"] if SIZE == "soak" else MODEL["WAYS"][-1:]
"""All strategies in the soak, which take a minute; otherwise the fastest."""


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=[way[0] for way in WAYS])
def test_the_page_has_the_output(way: tuple[Any, ...]) -> None:
    """The simulation is seeded and in virtual time, so that it gives the same rows each time."""
    for row in MODEL["rows"]([MODEL["simulate"](*way)]):
        assert f"| {' | '.join(row)} |" in PAGE


def figures(*row: str) -> list[float]:
    """Return the figures of the row that begins with these cells."""
    found = re.search(rf"^\| {re.escape(' | '.join(row))} \| ([\d.% |]+) \|$", PAGE, re.MULTILINE)
    assert found is not None
    return [float(cell.removesuffix(" %")) for cell in found[1].split(" | ")]


def busiest(strategy: str, part: str) -> float:
    """Return the calls of the busiest replica over the mean."""
    return figures(strategy, part)[0]


@pytest.mark.parametrize("strategy", OURS)
def test_failed_calls(strategy: str) -> None:
    """Hardly a call fails where plain round robin fails by the share of dead replicas, and later none."""
    *_, plain_refused, plain_failed = figures(PLAIN, "failure")
    *_, refused, failed = figures(strategy, "failure")
    assert 30 == plain_failed == plain_refused
    assert failed < 0.1
    assert refused < plain_refused / 1.9
    assert figures(strategy, "after")[-2:] == [0, 0]


@pytest.mark.parametrize("strategy", OURS)
def test_recovery(strategy: str) -> None:
    """In at most three seconds 1 % of calls fail, with plain round robin for 30 s; recovered replicas are used."""
    plain_calm, plain_half, plain_last = figures(PLAIN)
    calm, half, last = figures(strategy)
    assert plain_calm == pytest.approx(30, abs=0.5)
    assert calm == 0
    assert plain_half == 0
    assert plain_last < 2
    assert 4 < half < 13
    assert half <= last < 28


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("strategy", BUSY_AWARE)
def test_least_busy_strategies(strategy: str, part: str) -> None:
    """Strategies that use the calls in flight balance them better than plain round robin."""
    assert busiest(strategy, part) < busiest(PLAIN, part) / 1.5
    assert busiest(strategy, "after") < busiest(strategy, "before") * 1.3


def test_slow_replicas() -> None:
    """Round robin and random do not avoid slow replicas until calls fail."""
    assert figures(PLAIN, "before") == figures("`round_robin`", "before")
    for strategy in ("`round_robin`", "`random`"):
        for part in PARTS[1:]:
            assert busiest(PLAIN, part) < busiest(strategy, part) < busiest(PLAIN, part) * 1.25
            assert figures(PLAIN, part)[2] < figures(strategy, part)[2]
    plain, ours = (figures(f"{name}, none slow", "after") for name in (PLAIN, "`round_robin`"))
    assert ours == pytest.approx(plain, rel=0.05)


# ---------------------------------------------------------------------------------------------------------- The cluster

WORLDS: Final = {
    "some fail": MODEL["World"](replicas=12, slow=2, dead=4, calls_per_second=6, dies=5, back=25, over=50),
    "all fail": MODEL["World"](replicas=7, slow=1, dead=7, calls_per_second=4, dies=5, back=15, over=50),
}


class Replicas:
    """The replicas of the model, as a transport; a header sets the duration of a call."""

    def __init__(self, world: Any, lots: Any) -> None:
        self.servers = MODEL["servers_of"](world)
        self.lots = lots
        self.begun = anyio.current_time()
        self.asked: list[str] = []

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        self.asked.append(request.base_url)
        server = self.servers[request.base_url]
        if server.is_dead(anyio.current_time() - self.begun):
            raise errors.ConnectError("refused")
        seconds = server.seconds(self.lots)
        server.in_flight += 1
        try:
            yield HTTPResponse(200, {"seconds": repr(seconds)}, nothing(), request)
        finally:
            server.in_flight -= 1

    async def aclose(self) -> None:
        """As `Transport.aclose`."""


async def nothing() -> AsyncIterator[bytes]:
    """Yield an empty body."""
    for chunk in list[bytes]():
        yield chunk


@pytest.mark.seconds
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
async def test_a_cluster_follows_the_model(strategy: Strategy, world: str) -> None:
    """A real `Cluster` picks the same replicas in the same order; a failed call was tried at five."""
    model = MODEL["simulate"](strategy, strategy, WORLDS[world])
    lots, arrivals = MODEL["randoms"]()
    replicas = Replicas(WORLDS[world], lots)
    cluster = Cluster([*replicas.servers], transport=replicas, strategy=strategy, rng=lots.random)
    served = 0

    async def call() -> None:
        nonlocal served
        with suppress(errors.ConnectError):
            async with cluster.exchange(HTTPRequest("POST", "", "/sse/chat")) as response:
                await anyio.sleep(float(response.headers["seconds"]))
            served += 1

    now = 0.0
    async with anyio.create_task_group() as tasks:
        while now < WORLDS[world].over:
            now += arrivals.expovariate(WORLDS[world].calls_per_second)
            await anyio.sleep_until(replicas.begun + now)
            tasks.start_soon(call)
    assert model.asked == replicas.asked
    assert sum(call.server is not None for call in model.calls) == served
    assert (world == "all fail") == (served < len(model.calls))
    assert {5} >= {each.attempts for each in model.calls if each.server is None}
