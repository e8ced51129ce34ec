"""Measure one client in a process of its own, and print the results as JSON.

CPU time is that of this process, which makes no difference between waiting and being kept waiting.

Usage: python -m benchmarks.worker JSON     (`client`, `loop`, `url`, and the sizes of what is to be measured)
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import statistics
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
from anyio import to_thread

from benchmarks.clients import CLIENTS
from benchmarks.server import raise_file_limit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from benchmarks.clients import Read

PAGE: Final = resource.getpagesize()
READINGS: Final = 3
WARM: Final = 10
WAVE: Final = 100
"""So many streams are opened at a time: if it were all, the last would wait longer than the connect time-out."""


def resident() -> int:
    """Bytes of memory in use."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def query(**wanted: Any) -> str:
    """A query to the server."""
    return json.dumps(wanted)


async def cpu(read: Read, *queries: str) -> float:
    """CPU seconds of reading these streams, one after the other."""
    gc.collect()
    start = time.process_time()
    for each in queries:
        expected = json.loads(each)["events"] + 2
        if (found := await read(each)) != expected:
            raise SystemExit(f"{found} events instead of {expected}")
    return time.process_time() - start


async def opened(url: str, number: int) -> None:
    """Wait until the server has so many streams that are idle or wait."""
    import urllib.request

    def count() -> int:
        with urllib.request.urlopen(f"{url}/open") as response:
            return int(response.read())

    while await to_thread.run_sync(count) < number:  # noqa: ASYNC110  (the server has no way to call us)
        await anyio.sleep(0.05)


class Worker:
    """What is measured, by the name of the result."""

    def __init__(self, read: Read, url: str) -> None:
        self.read, self.url = read, url

    async def burst(self, events: int) -> float:
        """Microseconds per event, an event per chunk; the median of READINGS streams."""
        return await self._median(events)

    async def batch(self, events: int) -> float:
        """Microseconds per event, 50 events per chunk; the median of READINGS streams."""
        return await self._median(events, per=50)

    async def _median(self, events: int, **wanted: Any) -> float:
        each = query(events=events, **wanted)
        return statistics.median([await cpu(self.read, each) for _ in range(READINGS)]) / events * 1e6

    async def calls(self, number: int) -> float:
        """Microseconds per call of two events, once the first have filled what is kept between calls."""
        await cpu(self.read, *[query(events=1)] * WARM)
        return await cpu(self.read, *[query(events=1)] * number) / number * 1e6

    async def sizes(self, sizes: Iterable[int], total: int) -> list[tuple[int, float]]:
        """Microseconds per event of each size, for at most so many bytes."""
        found = list[tuple[int, float]]()
        for size in sizes:
            events = min(2000, max(1, total // size))
            found.append((size, await cpu(self.read, query(events=events, size=size)) / events * 1e6))
        return found

    async def growth(self, numbers: Iterable[int]) -> list[tuple[int, float]]:
        """Microseconds per call, up to each number of calls in this process."""
        found, before = list[tuple[int, float]](), 0
        for number in numbers:
            took = await cpu(self.read, *[query(events=1)] * (number - before))
            found.append((number, took / (number - before) * 1e6))
            before = number
        return found

    async def paced(self, streams: int, rate: int, seconds: float) -> float:
        """Microseconds per event of so many streams with `rate` events a second each."""
        events = round(rate * seconds)
        each, start = query(events=events, every=1 / rate, wait=streams), 0.0
        async with anyio.create_task_group() as group:
            for _ in range(streams):
                group.start_soon(self.read, each)
            await opened(self.url, streams)  # the server waits for half a second then
            start = time.process_time()
        return (time.process_time() - start) / (streams * events) * 1e6

    after = paced
    """The same, in a process that has read bursts."""

    async def profile(self, streams: int, rate: int, seconds: float) -> dict[str, float]:
        """The share of each package in the profile of the paced case."""
        import cProfile
        import pstats

        profiler = cProfile.Profile(time.process_time)
        profiler.enable()
        await self.paced(streams, rate, seconds)
        profiler.disable()
        found = Counter[str]()
        stats: dict[Any, Any] = vars(pstats.Stats(profiler))["stats"]
        for function, (_, _, own, _, callers) in stats.items():
            if function[0] != "~":
                found[package_of(function[0])] += own
            else:  # a built-in function: its time is that of its caller
                for caller, (_, _, part, _) in callers.items():
                    found[package_of(caller[0])] += part
        found.pop("", None)
        return {name: taken / found.total() for name, taken in found.most_common()}

    async def idle(self, streams: int, seconds: float = 0) -> dict[str, float]:
        """Memory of idle streams, CPU time of opening them, and of `seconds` with heartbeats."""
        found = dict[str, float]()
        async with anyio.create_task_group() as group:

            async def open_more(number: int, begun: int) -> None:
                for start in range(0, number, WAVE):
                    wave = min(WAVE, number - start)
                    for _ in range(wave):
                        group.start_soon(self.read, query(idle=True))
                    await opened(self.url, begun + start + wave)
                await anyio.sleep(0.1)

            warm = min(WARM, streams)
            await open_more(warm, 0)
            before, start = resident(), time.process_time()
            await open_more(streams, warm)
            found["open_us"] = (time.process_time() - start) / streams * 1e6
            found["kib"] = (resident() - before) / streams / 1024
            start = time.process_time()
            found["lag"] = await longest_wait(partial(anyio.sleep, seconds))
            found["cpu_share"] = (time.process_time() - start) / seconds if seconds else 0.0
            group.cancel_scope.cancel()
        return found

    async def large(self, size: int) -> dict[str, float]:
        """Peak memory of one event, in times of its size, and the longest wait of the event loop meanwhile."""
        await self.read(query(events=1))
        before = resident()
        lag = await longest_wait(partial(self.read, query(events=1, size=size)))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"times": (peak - before) / size, "lag": lag}


def package_of(path: str) -> str:
    """Whose code a file holds; empty for the measurement itself."""
    if f"benchmarks{os.sep}worker" in path or path == "~":
        return ""
    parts = Path(path).parts
    if "oxygent_client" in parts:
        return "oxygent-client"
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1]
    return "the program" if "benchmarks" in parts else "asyncio" if "asyncio" in parts else "standard library"


async def longest_wait(work: Callable[[], Awaitable[object]]) -> float:
    """Run `work`; return how long another task had to wait for its turn."""
    longest, pause = 0.0, 0.01
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            nonlocal longest
            while True:
                start = time.monotonic()
                await anyio.sleep(pause)
                longest = max(longest, time.monotonic() - start - pause)

        group.start_soon(watch)
        await work()
        group.cancel_scope.cancel()
    return longest


async def measure(client: str, url: str, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """All that is asked for."""
    async with CLIENTS[client](url) as read:
        worker = Worker(read, url)
        found = dict[str, Any]()
        for name, arguments in sizes.items():
            if name not in {"idle", "large"}:  # whose memory is that of a process which did nothing else
                await read(query(events=200))
            found[name] = await getattr(worker, name)(**arguments)
        return found


def main() -> None:
    """Measure and print."""
    raise_file_limit()
    asked = json.loads(sys.argv[1])
    if not asked["client"].endswith("fast"):
        cast("dict[str, Any]", sys.modules)["msgspec"] = None  # as if the extra was not installed
    loop = asked["loop"]
    backend, options = ("trio", {}) if loop == "trio" else ("asyncio", {"use_uvloop": loop == "uvloop"})
    if loop == "asyncio":
        found = asyncio.run(measure(asked["client"], asked["url"], asked["sizes"]))
    else:
        found = anyio.run(
            measure, asked["client"], asked["url"], asked["sizes"], backend=backend, backend_options=options
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
