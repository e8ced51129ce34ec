"""Five replicas under load, killed or stopped at random: no run twice, and no call fails that failover could save.

Rule 1: each replica is a process of its own (`cluster_server.py`) and logs each run that it begins.
Rule 2: the client's outcomes are compared with the replicas' logs.
Rule 3: at least two replicas are up at any time. So, with an agent's retry around the cluster, no call fails that
    surely did not run.
"""

from __future__ import annotations

import collections
import random
import signal
import socket
import sys
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import anyio
import attrs
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from oxygent_client import HTTPXTransport, OxyError, SSEOxyGent, errors
from oxygent_client.cluster import Cluster, Health, Strategy
from oxygent_client.policies import Retry
from tests.conftest import ROOT, SIZE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    import anyio.abc


SIZES: Final = {
    # seeds, deaths in each group, calls that are balanced afterwards
    "smoke": (1, 1, 50),
    "normal": (2, 2, 100),
    "soak": (20, 20, 5000),
}
SEEDS, DEATHS, SPREAD = SIZES[SIZE]
TENDED: Final = ((0, 1), (2, 3), (4,))
"""At most one of each group is down at a time."""
STRATEGIES: Final[tuple[Strategy, Strategy]] = ("round_robin", "least_in_flight")
"""Of even and of odd seeds."""
CALLERS: Final = 12
DEADLY: Final = (signal.SIGKILL, signal.SIGTERM)
HEALTH: Final = Health(failures=2, base=0.05, cap=0.2, slow_start=0)


def own_port() -> int:
    """Return a port that stays free while unused: not one that the kernel gives to connections."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@attrs.define
class Process:
    """A replica that is started repeatedly at the same port, with the same log."""

    log: Path
    number: int
    port: int = attrs.field(factory=own_port)
    process: anyio.abc.Process | None = None

    @property
    def url(self) -> str:
        """Return its URL."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it and wait until it listens."""
        program, told = ROOT / "tests" / "support" / "cluster_server.py", (self.port, self.log, self.number)
        command = [sys.executable, "-I", str(program), *map(str, told)]
        self.process = await anyio.open_process(command, stderr=None)
        assert self.process.stdout is not None
        assert await BufferedByteReceiveStream(self.process.stdout).receive_until(b"\n", 20) == b"listening"

    async def end(self, number: signal.Signals) -> None:
        """End it and wait until it has ended."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            await process.wait()
            await process.aclose()


@asynccontextmanager
async def replicas(directory: Path) -> AsyncGenerator[list[Process]]:
    """Five replicas."""
    five = [Process(directory / f"log {number}", number) for number in range(5)]
    try:
        async with anyio.create_task_group() as tasks:
            for each in five:
                tasks.start_soon(each.start)
        yield five
    finally:
        with anyio.CancelScope(shield=True):
            for each in five:
                await each.end(signal.SIGKILL)


async def call(agent: SSEOxyGent, nonce: str) -> str:
    """Return the result of a run: "answer", or the outcome of its error."""
    try:
        response = await agent.ask(nonce)
    except OxyError as error:
        return error.outcome
    assert response.output == nonce
    return "answer"


def written(five: list[Process]) -> collections.Counter[str]:
    """Return how often each run was begun, at any replica."""
    return collections.Counter(line for each in five for line in each.log.read_text().split())


@pytest.mark.slow
@pytest.mark.table("replicas")
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_a_storm(seed: int, tmp_path: Path, anyio_backend_name: str, row: Callable[..., None]) -> None:
    """No run happens twice, no call fails that surely did not run, and afterwards the load is balanced."""
    strategy = STRATEGIES[seed % 2]
    lots, over = random.Random(seed), anyio.Event()
    ended, deaths = dict[str, str](), collections.Counter[str]()
    inner, later = HTTPXTransport(trust_env=False), ["http://127.0.0.1:1"]  # set_members follows
    cluster = Cluster(later, transport=inner, strategy=strategy, health=HEALTH, rng=lots.random)

    agent = SSEOxyGent(transport=cluster, retry=Retry(attempts=5, base=0.05))

    async def load(caller: int) -> None:
        number = 0
        while not over.is_set():
            number += 1
            nonce = f"{caller}-{number}"
            ended[nonce] = await call(agent, nonce)

    async def tend(group: tuple[int, ...]) -> None:
        for _ in range(DEATHS):
            await anyio.sleep(lots.uniform(0, 0.2))
            each = five[lots.choice(group)]
            how = lots.choice(DEADLY)
            deaths[how.name] += 1
            await each.end(how)
            await anyio.sleep(lots.uniform(0, 0.2))
            await each.start()

    async with aclosing(cluster), replicas(tmp_path) as five:
        cluster.set_members([each.url for each in five])
        async with anyio.create_task_group() as tasks:
            for caller in range(CALLERS):
                tasks.start_soon(load, caller)
            async with anyio.create_task_group() as tending:
                for group in TENDED:
                    tending.start_soon(tend, group)
            over.set()
        begun, outcomes = written(five), collections.Counter(ended.values())
        assert max(begun.values()) == 1
        assert set(begun) <= set(ended)
        assert {nonce for nonce, end in ended.items() if end in ("answer", errors.Outcome.STARTED)} <= set(begun)
        assert set(outcomes) <= {"answer", errors.Outcome.UNKNOWN, errors.Outcome.STARTED}
        assert outcomes["answer"] > 0
        assert sum(deaths.values()) == DEATHS * len(TENDED)
        with anyio.fail_after(60):
            while not all(each.usable for each in await cluster.status()):  # noqa: ASYNC110  (time alone does it)
                await anyio.sleep(0.02)
        before = [len(each.log.read_text().split()) for each in five]
        for number in range(SPREAD):
            assert await call(agent, f"quick-{number}") == "answer"
        shares = [len(each.log.read_text().split()) - was for each, was in zip(five, before, strict=True)]
        died = (deaths[how.name] for how in DEADLY)
        ends = (outcomes[end] for end in ("answer", errors.Outcome.STARTED, errors.Outcome.UNKNOWN))
        least, largest = (100 * share / SPREAD for share in (min(shares), max(shares)))
        row(
            strategy,
            seed,
            anyio_backend_name,
            *died,
            len(ended),
            *ends,
            len(begun),
            max(begun.values()),
            least,
            largest,
        )
        assert shares == pytest.approx([SPREAD / 5] * 5, rel=0.1)
