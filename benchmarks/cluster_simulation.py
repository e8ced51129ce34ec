"""How a cluster spreads calls, fails and recovers, beside plain round robin: a simulation in virtual time.

Measured: for each way to pick a replica, in three parts of a story, how unevenly the load is spread over the replicas
that work (the busiest beside the mean), how long the slowest calls take, and what part of the attempts and of the calls
fails. Against: round robin that knows nothing of health and asks nobody else when a call fails.

What rests on it: the defaults of `Health`, and the advice in docs/howto/cluster.md on which strategy to take.

It uses the pure parts of the package (`Standing`, `usable`, `pick`) and a seed, so each run gives the same: the
picture docs/assets/cluster.svg and the table in docs/howto/cluster.md, which it writes. (The figures are of the model,
not of a machine.)

The story: 200 replicas, 100 calls a second, for 120 s of virtual time. A call takes 5 s in the mean, and longer at a
replica that has more than five. 20 replicas are four times as slow as the others all the time. From 30 s to 60 s 60
replicas are dead: each call to them is refused at once and has run nothing. (What they had before runs on.)

Usage: python benchmarks/cluster_simulation.py [--check]; with --check it writes nothing and says whether all is as
it would write it.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from oxygent_client.cluster import Health
from oxygent_client.cluster._health import Standing, usable
from oxygent_client.cluster._pick import Candidate, pick

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from oxygent_client.cluster import Strategy

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "howto" / "cluster.md"
PICTURE: Final = ROOT / "docs" / "assets" / "cluster.svg"
BEGIN, END = "<!-- made by benchmarks/cluster_simulation.py -->", "<!-- end of what it made -->"

REPLICAS: Final = 200
SLOW: Final = 20
SLOWER: Final = 4.0
DEAD: Final = 60
DIES, BACK, OVER = 30.0, 60.0, 120.0
CALLS_PER_SECOND: Final = 100
SECONDS: Final = 5.0
ROOM: Final = 5
"""So many calls at a time a replica serves without slowing down."""
REFUSED_SECONDS: Final = 0.001
TRIES: Final = 5
HEALTH: Final = Health()
PARTS: Final = (("before", 10.0, DIES), ("failure", DIES, BACK), ("after", BACK, OVER))
PLAIN: Final = "plain round robin"
WAYS: Final[tuple[tuple[str, Strategy], ...]] = (
    (PLAIN, "round_robin"),
    ("round_robin", "round_robin"),
    ("random", "random"),
    ("power_of_two", "power_of_two"),
    ("least_in_flight", "least_in_flight"),
)


@attrs.define(eq=False)
class Server:
    """A replica of the model, and what the cluster knows of it."""

    number: int
    standing: Standing = attrs.field(factory=Standing)
    in_flight: int = 0
    last: int = 0

    def seconds(self, lots: random.Random) -> float:
        """How long a call takes that begins now."""
        slowness = SLOWER if self.number < SLOW else 1.0
        return lots.expovariate(1 / SECONDS) * slowness * max(1.0, self.in_flight / ROOM)

    def is_dead(self, now: float) -> bool:
        """Whether it refuses."""
        return self.number >= REPLICAS - DEAD and DIES <= now < BACK


@attrs.frozen
class Call:
    """One call, when it is over."""

    begun: float
    seconds: float
    """Until its end."""
    failed: bool
    attempts: int


@attrs.frozen
class Told:
    """What became of all calls with one way to pick."""

    name: str
    calls: list[Call]
    load: list[tuple[float, list[int]]]
    """Each second, how many calls each replica has."""


def simulate(name: str, strategy: Strategy) -> Told:
    """The story, with this way to pick a replica."""
    lots, arrivals = random.Random(20261121), random.Random(42)
    # Slow and dead ones stand anywhere among the others.
    order = random.Random(7).sample(range(REPLICAS), REPLICAS)
    servers = {f"http://10.0.0.{number}": Server(number) for number in order}
    memory: dict[str, float] = {}
    calls: list[Call] = []
    ends: list[tuple[float, int, str]] = []
    load: list[tuple[float, list[int]]] = []
    picks, careful = 0, name != PLAIN

    def settle(until: float) -> None:
        while ends and ends[0][0] <= until:
            at, _, url = heapq.heappop(ends)
            servers[url].in_flight -= 1
            servers[url].standing = servers[url].standing.succeeded(at)

    now, able = 0.0, tuple(servers)
    while now < OVER:
        now += arrivals.expovariate(CALLS_PER_SECOND)
        settle(now)
        if now >= len(load):
            load.append((now, [server.in_flight for server in sorted(servers.values(), key=lambda each: each.number)]))
        tried: set[str] = set()
        while True:
            at = now + REFUSED_SECONDS * len(tried)
            if careful:
                able = usable({url: each.standing for url, each in servers.items()}, HEALTH, at)
            candidates = [
                Candidate(url, 1.0, servers[url].standing.share(HEALTH, at), servers[url].in_flight, servers[url].last)
                for url in able
                if url not in tried
            ]
            url = pick(strategy, candidates, "", memory, lots.random, again=bool(tried)).url
            server = servers[url]
            picks += 1
            server.last = picks
            tried.add(url)
            if not server.is_dead(at):
                seconds = server.seconds(lots)
                server.in_flight += 1
                heapq.heappush(ends, (at + seconds, picks, url))
                calls.append(Call(now, at + seconds - now, failed=False, attempts=len(tried)))
                break
            if careful:
                server.standing = server.standing.failed(HEALTH, at, lots.random())
            if not careful or len(tried) == TRIES:
                calls.append(Call(now, REFUSED_SECONDS * len(tried), failed=True, attempts=len(tried)))
                break
    return Told(name, calls, load)


def quantile(values: Iterable[float], part: float) -> float:
    """The value below which this part of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def busiest(told: Told, since: float, until: float) -> float:
    """How many calls the busiest working replica has beside the mean, on average."""
    ratios: list[float] = []
    for at, numbers in told.load:
        if since <= at < until:
            working = numbers[: REPLICAS - DEAD] if DIES <= at < BACK else numbers
            ratios.append(max(working) * len(working) / max(1, sum(working)))
    return sum(ratios) / len(ratios)


def rows(stories: Sequence[Told]) -> list[list[str]]:
    """The table."""
    table: list[list[str]] = []
    for told in stories:
        for part, since, until in PARTS:
            calls = [call for call in told.calls if since <= call.begun < until]
            attempts = sum(call.attempts for call in calls)
            failed = sum(call.failed for call in calls)
            refused = attempts - len(calls) + failed
            table.append(
                [
                    told.name if told.name == PLAIN else f"`{told.name}`",
                    part,
                    f"{busiest(told, since, until):.1f}",
                    *(f"{quantile((call.seconds for call in calls if not call.failed), p):.2f}" for p in (0.5, 0.99)),
                    f"{100 * refused / attempts:.2f} %",
                    f"{100 * failed / len(calls):.2f} %",
                ]
            )
    return table


HEAD: Final = ("strategy", "part", "busiest / mean", "median, s", "99 %, s", "attempts refused", "calls failed")


def table_text(table: list[list[str]]) -> str:
    """The table in Markdown."""
    lines = [HEAD, ("---", "---", *("---:",) * (len(HEAD) - 2)), *table]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --------------------------------------------------------------------------------------------------------- The picture

COLOURS: Final = {
    PLAIN: "#c0392b",
    "round_robin": "#8e6bb8",
    "random": "#7f8c8d",
    "power_of_two": "#2471a3",
    "least_in_flight": "#1e8449",
}
BIN: Final = 3.0
"""Seconds of calls that are one point of a line."""
WIDTH, HEIGHT, LEFT, TOP, GAP = 760, 150, 60, 62, 48


def line(points: Sequence[tuple[float, float]], most: float, top: float, colour: str, *, dashed: bool) -> str:
    """A line of one panel; what is above its most is drawn at the edge."""
    placed = " ".join(
        f"{LEFT + x / OVER * (WIDTH - LEFT - 20):.1f},{top + HEIGHT * (1 - min(y, most) / most):.1f}" for x, y in points
    )
    dash = ' stroke-dasharray="6 3"' if dashed else ""
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.6"{dash} points="{placed}"/>'


def panel(title: str, unit: str, most: float, top: float, curves: dict[str, list[tuple[float, float]]]) -> list[str]:
    """One of the picture's parts."""
    right = WIDTH - 20
    at = {x: LEFT + x / OVER * (right - LEFT) for x in (0, 30, 60, 90, 120)}
    drawn = [
        f'<rect x="{at[30]:.1f}" y="{top}" width="{at[60] - at[30]:.1f}" height="{HEIGHT}" fill="#f6e3df"/>',
        f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{title}</text>',
    ]
    for part in (0, 0.5, 1):
        y = top + HEIGHT * (1 - part)
        drawn.append(f'<line x1="{LEFT}" y1="{y}" x2="{right}" y2="{y}" stroke="#ccc" stroke-width="0.7"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{most * part:g}{unit}</text>')
    drawn += [f'<text x="{x:.1f}" y="{top + HEIGHT + 15}" text-anchor="middle">{s} s</text>' for s, x in at.items()]
    # Drawn thin over thick: where two run together both are seen.
    return drawn + [
        line(points, most, top, COLOURS[name], dashed=name in {"random", "round_robin"})
        for name, points in curves.items()
    ]


def in_bins(told: Told) -> list[tuple[float, list[Call]]]:
    """The calls that began in each few seconds."""
    bins: list[list[Call]] = [[] for _ in range(round(OVER / BIN))]
    for call in told.calls:
        bins[min(int(call.begun / BIN), len(bins) - 1)].append(call)
    return [((number + 0.5) * BIN, calls) for number, calls in enumerate(bins)]


def picture(stories: Sequence[Told]) -> str:
    """The picture, as SVG."""
    bins = {told.name: in_bins(told) for told in stories}
    failed = {
        name: [(at, 100 * sum(call.failed for call in calls) / len(calls)) for at, calls in each]
        for name, each in bins.items()
    }
    slowest = {
        name: [(at, quantile((call.seconds for call in calls if not call.failed), 0.99)) for at, calls in each]
        for name, each in bins.items()
    }
    spread = {told.name: [(at, busiest(told, at, at + 1e-9)) for at, _ in told.load] for told in stories}
    tops = [TOP + number * (HEIGHT + GAP) for number in range(3)]
    drawn = [
        *panel("Calls that failed", " %", 40, tops[0], failed),
        *panel("The slowest 1 % of the calls took longer than", " s", 300, tops[1], slowest),
        *panel("The busiest working replica, beside the mean (1: all alike)", "", 12, tops[2], spread),
    ]
    legend: list[str] = []
    for number, name in enumerate(COLOURS):
        x = LEFT + number * 136
        dash = ' stroke-dasharray="6 3"' if name in {"random", "round_robin"} else ""
        colour = COLOURS[name]
        legend.append(f'<line x1="{x}" y1="20" x2="{x + 20}" y2="20" stroke="{colour}" stroke-width="2.5"{dash}/>')
        legend.append(f'<text x="{x + 25}" y="24">{name}</text>')
    height = tops[-1] + HEIGHT + 30
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
            '<g font-family="sans-serif" font-size="11" fill="#222">',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            *legend,
            *drawn,
            "</g>",
            "</svg>",
            "",
        ]
    )


def main() -> None:
    """Simulate, print the table, and write the picture and the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    check: bool = parser.parse_args().check
    stories = [simulate(name, strategy) for name, strategy in WAYS]
    table = table_text(rows(stories))
    print(table)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    page = f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}"
    made = {PAGE: page, PICTURE: picture(stories)}
    if check:
        stale = [path.name for path, text in made.items() if path.read_text(encoding="utf-8") != text]
        sys.exit(f"not as it would be written: {', '.join(stale)}" if stale else 0)
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
