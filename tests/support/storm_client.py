"""A client in a storm: calls that end early, or streams that are cancelled all at once; and the resources left.

Rule 1: each storm has a process of its own, so that open resources and memory are those of the storm.
Rule 2: the plan is drawn by a seeded generator; the rest depends on the scheduler.
Rule 3: the state of the runs is read from the server's log, by a request like any other.

Usage: python -m tests.support.storm_client STORM URL TRANSPORT LOOP OPTIONS, the options as JSON; prints the
result as JSON.
"""

from __future__ import annotations

import gc
import json
import random
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs

from oxygent_client import HTTPXTransport, OxyError, SSEOxyGent, Timeouts
from tests.support.flood_client import memory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from oxygent_client import Transport

WORKERS: Final = 100
"""The number of concurrent calls."""
RIGHT_AFTER: Final = 100
"""The number of calls that must succeed after the storm."""
KEPT_SECONDS: Final = 2.1
"""Seconds after which a transport drops unused connections."""
SETTLED_SECONDS: Final = 20.0
"""Seconds to wait until all resources are released."""


def transport_of(name: str) -> Transport:
    """Return a transport; only its own library is imported."""
    if name == "httpx2":
        from oxygent_client.transports.httpx2 import HTTPX2Transport

        return HTTPX2Transport(trust_env=False)
    if name == "aiohttp":
        from oxygent_client.transports.aiohttp import AiohttpTransport

        return AiohttpTransport(trust_env=False)
    return HTTPXTransport(trust_env=False)


@attrs.frozen
class Held:
    """The resources of this process."""

    tasks: int
    sockets: int
    descriptors: int


def held() -> Held:
    """Return the current resources."""
    names: list[str] = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            names.append(str(link.readlink()))
        except OSError:  # it was the one that listed the directory
            continue
    return Held(len(anyio.get_running_tasks()), sum(name.startswith("socket:") for name in names), len(names))


async def settled(before: Held, look: Callable[[], Awaitable[object]], pause: float) -> Held:
    """Return the resources once they are as before, or at the end of the wait."""
    until = anyio.current_time() + SETTLED_SECONDS
    while True:
        await anyio.sleep(pause)
        await look()
        now = held()
        if now == before or anyio.current_time() > until:
            return now


# ------------------------------------------------------------------------------------------------------------ Deadlines


@attrs.frozen(kw_only=True)
class Call:
    """One call: its query and time-outs."""

    query: str
    total: float
    manner: str
    """"ask", "leave" (after so many events), "cancel" (from outside, after so many seconds)."""
    events: int
    seconds: float
    there: bool
    """False for an address without a server."""


@attrs.frozen(kw_only=True)
class Ended:
    """Its result at the client."""

    query: str
    end: str
    """"answer", "left", "cancelled", or the name of the error."""
    outcome: str
    late: float
    """Seconds beyond `total`."""


@attrs.frozen(kw_only=True)
class Storm:
    """The results of a storm of deadlines."""

    ended: list[Ended]
    log: dict[str, dict[str, int]]
    running: int
    seconds: float
    """Seconds of the storm."""
    after: float
    """Seconds of the calls that had to succeed after it, together."""
    before: Held
    left: Held


WORDS: Final = {"quick": 6, "slow": 6, "late": 3, "endless": 6, "cut": 3, "refused": 1, "busy": 1, "nobody": 1}
"""The count of each, over all calls."""
MANNERS: Final = {"ask": 4, "leave": 1, "cancel": 2}

SURE: Final = {"quick": 30.0, "cut": 30.0, "refused": 30.0, "nobody": 30.0, "late": 0.05}
"""Calls with known outcomes, each with its `total`; they are made after the storm."""


def planned(calls: int, seed: int) -> Iterator[Call]:
    """Return the calls of a storm."""
    lots = random.Random(seed)
    for number in range(calls):
        (word,) = lots.choices([*WORDS], [*WORDS.values()])
        (manner,) = lots.choices([*MANNERS], [*MANNERS.values()])
        yield Call(
            query=f"{number} {word}",
            total=lots.uniform(0.001, 0.3),
            manner=manner,
            events=lots.randrange(3),
            seconds=lots.uniform(0, 0.3),
            there=word != "nobody",
        )


async def make(agent: SSEOxyGent, call: Call) -> Ended:
    """Make one call."""
    agent.timeouts = Timeouts(total=call.total)  # an agent reads it for each call
    run = agent.stream(call.query)
    end = "left"
    failure = None
    began = anyio.current_time()
    with anyio.CancelScope() as scope:
        if call.manner == "cancel":
            scope.deadline = began + call.seconds
        try:
            async with run:
                if call.manner == "leave":
                    for _ in range(call.events):
                        await anext(run, None)
                else:
                    assert (await run.final_response()).output == call.query, "a wrong answer"
                    end = "answer"
        except OxyError as error:
            end, failure = type(error).__name__, error
    assert failure is None or failure.outcome is run.outcome
    if scope.cancelled_caught:
        end = "cancelled"
    late = anyio.current_time() - began - call.total
    return Ended(query=call.query, end=end, outcome=run.outcome.name, late=late)


async def deadlines(url: str, transport: Transport, *, calls: int, seed: int, nobody: str) -> Storm:
    """Make calls that end early; then calls that must succeed."""
    agent = SSEOxyGent(server_url=url, transport=transport)
    plan = planned(calls, seed)
    elsewhere = SSEOxyGent(server_url=nobody, transport=transport)
    ended: list[Ended] = []

    async def work(calls: Iterable[Call]) -> None:
        ended.extend([await make(agent if call.there else elsewhere, call) for call in calls])

    async def succeed() -> None:
        for _ in range(RIGHT_AFTER // 10):
            assert (await agent.ask("after quick")).output == "after quick"

    await agent.ask("census")
    before = held()
    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        for _ in range(WORKERS):
            group.start_soon(work, plan)
    over = anyio.current_time()
    agent.timeouts = Timeouts(total=30)
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(succeed)
    after = anyio.current_time() - over
    async with anyio.create_task_group() as group:
        for word, total in SURE.items():
            call = Call(query=f"sure {word}", total=total, manner="ask", events=0, seconds=0.0, there=word != "nobody")
            group.start_soon(work, [call])
    agent.timeouts = Timeouts(total=30)
    # The next call closes the connections that were kept too long.
    left = await settled(before, lambda: agent.ask("census"), KEPT_SECONDS)
    census = (await agent.ask("census")).output
    log = (await agent.ask("log")).output
    return Storm(
        ended=ended,
        log=log,
        running=census["running"],
        seconds=over - began,
        after=after,
        before=before,
        left=left,
    )


# -------------------------------------------------------------------------------------------------------------- Streams


@attrs.frozen(kw_only=True)
class Round:
    """Many streams, and the resources left."""

    opening: float
    """Seconds until all had an event."""
    leaving: float
    """Seconds from the cancellation until the last task ended."""
    stopped: int
    """The number of runs that the server stopped, in all rounds so far."""
    stopping: float
    """Seconds from the cancellation until the server stopped them."""
    full: int
    """Bytes of the process with all streams open."""
    empty: int
    """Bytes of the process afterwards."""
    left: dict[str, int]
    """The resources afterwards, as `Held`."""


@attrs.frozen(kw_only=True)
class Streams:
    """All rounds, and the resources before the first."""

    before: Held
    rounds: list[Round]


async def streams(url: str, transport: Transport, *, count: int, seconds: float) -> Streams:
    """Open many streams and cancel all at once; twice, over one transport."""
    agent = SSEOxyGent(server_url=url, transport=transport)
    await agent.ask("census")
    before = held()
    rounds = [await crowd(agent, before, number * count, count, seconds) for number in range(2)]
    return Streams(before=before, rounds=rounds)


async def crowd(agent: SSEOxyGent, before: Held, first: int, count: int, seconds: float) -> Round:
    """One round of it."""
    there = 0
    all_there = anyio.Event()

    async def listen(number: int) -> None:
        nonlocal there
        async with agent.stream(f"{number} endless") as run:
            async for _ in run:
                there += 1
                if there == count:
                    all_there.set()

    full = 0
    began = opened = cancelled = anyio.current_time()
    async with anyio.create_task_group() as group:
        for number in range(first, first + count):
            group.start_soon(listen, number)
        await all_there.wait()
        opened = anyio.current_time()
        await anyio.sleep(seconds)
        gc.collect()
        full = memory("VmRSS")
        cancelled = anyio.current_time()
        group.cancel_scope.cancel()
    leaving = anyio.current_time() - cancelled
    stopped = 0
    while stopped < first + count and anyio.current_time() < cancelled + SETTLED_SECONDS:
        stopped = (await agent.ask("census")).output["stopped"]
    stopping = anyio.current_time() - cancelled
    left = await settled(before, lambda: agent.ask("census"), 0.05)
    gc.collect()
    return Round(
        opening=opened - began,
        leaving=leaving,
        stopped=stopped,
        stopping=stopping,
        full=full,
        empty=memory("VmRSS"),
        left=attrs.asdict(left),
    )


STORMS: Final[dict[str, Callable[..., Awaitable[Any]]]] = {"deadlines": deadlines, "streams": streams}


async def weather(storm: str, url: str, name: str, options: dict[str, Any]) -> Any:
    """Run the storm, and close the transport."""
    transport = transport_of(name)
    try:
        return await STORMS[storm](url, transport, **options)
    finally:
        await transport.aclose()


def main() -> None:
    """Read the command line, and print the results."""
    storm, url, transport, loop, options = sys.argv[1:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    result = anyio.run(weather, storm, url, transport, json.loads(options), backend=loop)
    sys.stdout.write(json.dumps(attrs.asdict(result)))


if __name__ == "__main__":
    main()
