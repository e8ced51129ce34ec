"""What it costs to be observed: runs in memory, with nothing, with the agent's own statistics, and with more.

Each line is one kind of run. The first column is what it takes with no observer at all, the statistics left out too;
the others are in times of that, from runs that take turns with it: the median of several. 1.00 is free.

What rests on it: statistics are always on, because they cost next to nothing; events are told only to those who want
them.

    run                            alone, us         stats        silent          otel
    an answer                            870         1.04x         1.05x         1.33x
    200 deltas, a piece each           14695         1.03x         1.07x         1.05x
    200 deltas in one piece             6228         1.02x         1.00x         1.06x
    50 tool calls                       8633         1.03x         1.06x         1.45x

(2026-11-21, after 8886d74, CPython 3.11.7, 2 cores with other work on them, `--repeat 21`; ratios differ by 0.03 from
one time to the next. `silent` and `otel` hold the statistics, too.)

Usage: python benchmarks/observers.py [--repeat 41]
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import sys
import time
from typing import TYPE_CHECKING

import anyio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from oxygent_client import SSEOxyGent
from oxygent_client.telemetry import RunObservation
from oxygent_client.telemetry.otel import OTelObserver
from oxygent_client.testing import FakeTransport, answer, close, delta, observation, tool_call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from oxygent_client.telemetry import Notification, Observer

URL = "http://127.0.0.1"


class Unobserved(SSEOxyGent):
    """An agent without statistics."""

    def __init__(self, transport: FakeTransport) -> None:
        super().__init__(server_url=URL, transport=transport)
        self._stats = Nobody()  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]  (to compare)


class Nobody:
    """In the place of the agent's statistics."""

    def observed(self, observers: Iterable[Observer]) -> RunObservation:
        """A run that nobody hears of."""
        return RunObservation()


class Silent:
    """An observer that wants everything and does nothing."""

    wants_events = True

    def note(self, happening: Notification, /) -> None:
        """As `Observer.note`."""


def observed_by(*observers: Observer) -> Callable[[FakeTransport], SSEOxyGent]:
    """An agent with statistics, and these observers."""
    return lambda transport: SSEOxyGent(server_url=URL, transport=transport, observers=observers)


def runs() -> dict[str, tuple[int, list[bytes]]]:
    """How many runs of which steps are measured at a time."""
    tools = [step for n in range(50) for step in (tool_call("t", node_id=f"{n}"), observation("t", n, node_id=f"{n}"))]
    end = [answer("42"), close()]
    return {
        "an answer": (20, end),
        "200 deltas, a piece each": (2, [delta("word ")] * 200 + end),
        "200 deltas in one piece": (2, [delta("word ") * 200, *end]),
        "50 tool calls": (4, [*tools, *end]),
    }


async def seconds(agent: SSEOxyGent, times: int) -> float:
    """What a run takes of the processor: others on the machine do not count."""
    gc.collect()
    start = time.process_time()
    for _ in range(times):
        await agent.ask("hi")
    return (time.process_time() - start) / times


async def compare(agents: dict[str, Callable[[FakeTransport], SSEOxyGent]], repeat: int) -> None:
    """Print a line for each kind of run."""
    print(f"{'run':28}{'alone, us':>12}" + "".join(f"{name:>14}" for name in agents))
    for name, (times, steps) in runs().items():
        bare = Unobserved(FakeTransport.script(*steps))
        made = {kind: make(FakeTransport.script(*steps)) for kind, make in agents.items()}
        alone: list[float] = []
        ratios: dict[str, list[float]] = {kind: [] for kind in made}
        for _ in range(repeat):
            for kind, agent in made.items():
                before, taken, after = [await seconds(each, times) for each in (bare, agent, bare)]
                alone += [before, after]
                ratios[kind].append(2 * taken / (before + after))
        print(f"{name:28}{statistics.median(alone) * 1e6:12.0f}" + "".join(shown(each) for each in ratios.values()))


def shown(ratios: Sequence[float]) -> str:
    """Their median."""
    return f"{statistics.median(ratios):13.2f}x"


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    arguments.add_argument("--repeat", type=int, default=41, help="each ratio is the median of so many")
    logging.getLogger("oxygent_client").setLevel(logging.ERROR)
    gc.disable()  # it would fall on one or the other; seconds() sees to it
    print(f"Python {sys.version.split()[0]}\n")
    traces = OTelObserver(TracerProvider(shutdown_on_exit=False), MeterProvider(shutdown_on_exit=False))
    agents = {"stats": observed_by(), "silent": observed_by(Silent()), "otel": observed_by(traces)}
    anyio.run(compare, agents, arguments.parse_args().repeat)


if __name__ == "__main__":
    main()
