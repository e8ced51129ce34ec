"""Measure everything, and write docs/performance.md and its pictures. How to read it: benchmarks/README.md.

Usage: nox -s bench     (or: python -m benchmarks.bench [--scale 0.05] [--rounds 5] [--streams 10000] [--no-write])
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks import decoders, report

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

ROOT: Final = Path(__file__).parent.parent
BUILTIN: Final = "OxyGent 1.1.3"
IDLE: Final = ("idle",)
BURSTS: Final = ("burst", "batch")
SOME: Final = (*BURSTS, "calls")
ALL: Final = ("calls", "paced", *BURSTS)
"""Large pieces are last: then asyncio's memory for a read costs less, which "after" shows."""
ANY_LOOP: Final = ("bare httpx", "httpx", "bare httpx2", "httpx2")
AIOHTTP: Final = ("bare aiohttp", "aiohttp")
OTHERS: Final = ("bare in process", "in process")
PLAN: Final = (
    # The event loop, the client, what is measured in one process. Idle streams have their own: they leave the memory of
    # a process in pieces.
    *(("asyncio", name, IDLE) for name in (*ANY_LOOP, *AIOHTTP, BUILTIN)),
    *(("asyncio", name, ALL) for name in ANY_LOOP),
    *(("asyncio", name, (*ALL, "after")) for name in (*AIOHTTP, BUILTIN)),
    *(("asyncio", f"{name}, {heard}", BURSTS) for name in ("httpx", "aiohttp") for heard in report.HEARD),
    ("asyncio", "aiohttp, fast", BURSTS),
    *(("asyncio", name, SOME) for name in OTHERS),
    *(("uvloop", name, SOME) for name in (*ANY_LOOP, *AIOHTTP, *OTHERS)),
    *(("trio", name, SOME) for name in (*ANY_LOOP, *OTHERS)),
)

PROGRAMS: Final = {
    "pass": ("-c", "pass"),
    "import oxygent_client": ("-c", "import oxygent_client"),
    "import httpx": ("-c", "import httpx"),
    "from oxygent_client import SSEOxyGent": ("-c", "from oxygent_client import SSEOxyGent"),
    "... SSEOxyGent, HTTPXTransport": ("-c", "from oxygent_client import SSEOxyGent, HTTPXTransport"),
    "oxygent-client --help": ("-m", "oxygent_client", "--help"),
}


class Bench:
    """One run of all measurements."""

    def __init__(self, scale: float, rounds: int, streams: int) -> None:
        self.scale, self.rounds, self.streams = scale, rounds, streams
        self.builtin = builtin_python()
        self.url = self.directory = ""
        self.began = time.monotonic()
        self.skipped: set[str] = set()

    def scaled(self, number: int) -> int:
        """A size, but never nothing."""
        return max(10, round(number * self.scale))

    def sizes(self, columns: Iterable[str]) -> dict[str, Any]:
        """What is measured of a client in each round."""
        paced = {"streams": self.scaled(200), "rate": 50, "seconds": min(0.6, 0.2 + self.scale)}
        each: dict[str, Any] = {
            "idle": {"streams": self.scaled(200)},
            "burst": {"events": self.scaled(2500)},
            "batch": {"events": self.scaled(6000) // 50 * 50 or 50},
            "paced": paced,
            "after": paced,
            "calls": {"number": self.scaled(200)},
        }
        return {column: each[column] for column in columns}

    def measure(self, loop: str, client: str, sizes: dict[str, Any]) -> dict[str, Any] | None:
        """Measure one client in a new process; None, and a line that says so, if it is not installed."""
        python = self.builtin if client == BUILTIN else sys.executable
        if python is None:
            self.skip(f"{client}: its environment is not built (tests/interop/environments.py)")
            return None
        asked = {"loop": loop, "client": client, "url": "" if "in process" in client else self.url, "sizes": sizes}
        done = subprocess.run(
            [python, "-m", "benchmarks.worker", json.dumps(asked)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=self.directory,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{client} on {loop} failed")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def skip(self, what: str) -> None:
        """Say what is left out, once."""
        if what not in self.skipped:
            self.skipped.add(what)
            print(f"skipped: {what}", flush=True)

    def say(self, what: str) -> None:
        """Show how far it is."""
        print(f"{time.monotonic() - self.began:6.0f} s  {what}", flush=True)

    def table(self) -> report.Table:
        """Interleaved rounds of every client."""
        found: report.Table = defaultdict(list)
        for number in range(self.rounds):
            self.say(f"round {number + 1} of {self.rounds}")
            for loop, client, columns in PLAN:
                results = self.measure(loop, client, self.sizes(columns)) or {}
                for column, value in results.items():
                    found[loop, client, column].append(value["kib"] if column == "idle" else value)
        return found

    def decoders(self) -> dict[str, dict[str, float]]:
        """Times of each decoder, beside ours, as the medians of the ratios of interleaved rounds."""
        self.say("decoders")
        installed = decoders.installed()
        found = dict[str, dict[str, float]]()
        for name, pieces in decoders.streams(self.scaled(3000)).items():
            ratios = defaultdict[str, list[float]](list)
            for _ in range(self.rounds):
                taken = {each: decoders.seconds(decode, pieces) for each, decode in installed.items()}
                for each, seconds in taken.items():
                    ratios[each].append(seconds / taken["ours"] if each != "ours" else seconds / len(pieces) * 1e6)
            found[name] = {each: statistics.median(values) for each, values in ratios.items()}
        return found

    def imports(self) -> dict[str, tuple[float, float, float]]:
        """CPU milliseconds of starting a program, and their ratios to an empty one and to one that imports httpx."""
        self.say("imports")
        times = defaultdict[str, list[float]](list)
        for _ in range(self.rounds):
            for name, arguments in PROGRAMS.items():
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                times[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        least, httpx = (statistics.median(times[name]) for name in ("pass", "import httpx"))
        medians = {name: statistics.median(values) for name, values in times.items()}
        return {name: (taken * 1000, taken / least, taken / httpx) for name, taken in medians.items()}

    def curves(self) -> report.Curves:
        """How time and memory grow with the number of streams, the size of an event, and the number of calls."""
        curves: report.Curves = {"streams": {}, "sizes": {}, "calls": {}, "large": {}, "profile": {}}
        numbers = [10**power for power in range(6) if 10**power <= 100_000 * self.scale]
        with ThreadPoolExecutor() as pool:  # calls in process need one core
            calls = pool.submit(self.asked, "in process", "growth", numbers=numbers)
            for client in ("bare aiohttp", "aiohttp", "bare httpx", "httpx"):
                self.say(f"growth: {client}")
                curves["streams"][client] = [
                    (number, self.asked(client, "idle", streams=number))
                    for number in (1, 10, 100, 1000)
                    if number <= self.streams
                ]
                curves["large"][client] = self.asked(client, "large", size=15_000_000)
                if not client.startswith("bare"):
                    curves["profile"][client] = self.asked(client, "profile", **self.sizes(["paced"])["paced"])
                sizes, total = [10**power for power in range(8)], round(2e6 * self.scale)
                curves["sizes"][client] = self.asked(client, "sizes", sizes=sizes, total=total)
            self.say("growth: many streams for a while")
            minute = 60 * min(1.0, self.scale)
            for client, number, seconds in (("httpx", self.streams // 4, 0.0), ("aiohttp", self.streams, minute)):
                held = self.asked(client, "idle", streams=number, seconds=seconds)
                curves["streams"][client].append((number, held))
            curves["calls"]["in process"] = calls.result()
        return curves

    def asked(self, client: str, name: str, **sizes: Any) -> Any:
        """One measurement of one client."""
        found = self.measure("asyncio", client, {name: sizes})
        assert found is not None
        return found[name]


def builtin_python() -> str | None:
    """The interpreter of the environment of OxyGent's own client; None if it was not built."""
    chosen = os.environ.get("OXYGENT_PYTHON")
    if chosen:
        return chosen
    from tests.interop.environments import built_python

    python = built_python("1.1.3")
    return str(python) if python is not None else None


@contextmanager
def server() -> Generator[str]:
    """A server in a process of its own; yields its URL."""
    command = [sys.executable, "-m", "benchmarks.server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.stdin.close()


def environment() -> str:
    """Date, commit, interpreter and machine."""
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    today = dt.datetime.now(dt.UTC).date()
    return (
        f"{today}, commit {commit or 'unknown'}, {platform.python_implementation()} {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    )


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--scale", type=float, default=1.0, help="sizes, in times of the normal ones")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--streams", type=int, default=10_000, help="the most streams in one process")
    parser.add_argument("--no-write", action="store_true", help="only print")
    parser.add_argument("--no-curves", action="store_true", help="only the tables")
    chosen = parser.parse_args()
    bench = Bench(chosen.scale, chosen.rounds, chosen.streams)
    # OxyGent leaves files where it runs.
    with server() as bench.url, tempfile.TemporaryDirectory() as bench.directory:
        table = bench.table()
        peers = bench.decoders()
        imports = bench.imports()
        curves = None if chosen.no_curves else bench.curves()
    bench.say("done")
    said = f"{environment()}; medians of {chosen.rounds} rounds"
    text = report.tables(table, peers, imports, curves, said)
    print(text)
    if not chosen.no_write:
        report.write(ROOT, text, table, curves)


if __name__ == "__main__":
    main()
