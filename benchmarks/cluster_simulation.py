"""How a cluster spreads calls, fails and recovers, beside plain round robin: a simulation in virtual time.

Measured: for each way to pick a replica, in three parts of a story, how unevenly the load is spread over the replicas
that work (the busiest beside the mean), how long the slowest calls take, and what part of the attempts and of the calls
fails. Against: round robin that knows nothing of health and asks nobody else when a call fails.

What rests on it: the defaults of `Health`, and the advice in docs/howto/cluster.md on which strategy to take.

It uses the pure parts of the package (`ReplicaHealth`, `usable`, `pick`) and a seed, so each run gives the same: the
picture docs/assets/cluster.svg and the tables in docs/howto/cluster.md, which it writes. (The figures are of the model,
not of a machine.) That a `Cluster` asks the same replicas in the same order is shown by a test, in a smaller world: a
`Cluster` that is really driven takes three times as long.

The story: 200 replicas, 100 calls a second, for 120 s of virtual time. A call takes 5 s in the mean, and longer at a
replica that has more than five. 20 replicas are four times as slow as the others all the time. From 30 s to 60 s 60
replicas are dead: each call to them is refused at once and has run nothing. (What they had before runs on.) Two lines
of the table tell the story without slow replicas.

Usage: python benchmarks/cluster_simulation.py [--check]; with --check it writes nothing and says whether all is as
it would write it.
"""

from __future__ import annotations

import argparse
import bisect
import heapq
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from oxygent_client.cluster import Health
from oxygent_client.cluster._health import ReplicaHealth, usable
from oxygent_client.cluster._strategies import Candidate, pick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from oxygent_client.cluster import Strategy

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "howto" / "cluster.md"
PICTURE: Final = ROOT / "docs" / "assets" / "cluster.svg"
BEGIN, END = "<!-- made by benchmarks/cluster_simulation.py -->", "<!-- end of simulation output -->"

SLOWER: Final = 4.0
SECONDS: Final = 5.0
ROOM: Final = 5
"""So many calls at a time a replica serves without slowing down."""
TRIES: Final = 5
HEALTH: Final = Health()


@attrs.frozen(kw_only=True)
class World:
    """How many replicas there are, and what happens to them."""

    replicas: int = 200
    slow: int = 20
    dead: int = 60
    calls_per_second: float = 100.0
    dies: float = 30.0
    back: float = 60.0
    over: float = 120.0


WORLD: Final = World()
NONE_SLOW: Final = World(slow=0)
PARTS: Final = (("before", 10.0, WORLD.dies), ("failure", WORLD.dies, WORLD.back), ("after", WORLD.back, WORLD.over))
PLAIN: Final = "plain round robin"
WAYS: Final[tuple[tuple[str, Strategy, World], ...]] = (
    (PLAIN, "round_robin", WORLD),
    ("`round_robin`", "round_robin", WORLD),
    ("`random`", "random", WORLD),
    ("`power_of_two`", "power_of_two", WORLD),
    ("`least_in_flight`", "least_in_flight", WORLD),
    (f"{PLAIN}, none slow", "round_robin", NONE_SLOW),
    ("`round_robin`, none slow", "round_robin", NONE_SLOW),
)


@attrs.define(eq=False)
class Server:
    """A replica of the model, and what the cluster knows of it."""

    number: int
    world: World
    standing: ReplicaHealth = attrs.field(factory=ReplicaHealth)
    in_flight: int = 0
    last: int = 0

    def seconds(self, lots: random.Random) -> float:
        """How long a call takes that begins now."""
        slowness = SLOWER if self.number < self.world.slow else 1.0
        return lots.expovariate(1 / SECONDS) * slowness * max(1.0, self.in_flight / ROOM)

    @property
    def is_mortal(self) -> bool:
        """Whether it is one of those that are dead for a time."""
        return self.number >= self.world.replicas - self.world.dead

    def is_dead(self, now: float) -> bool:
        """Whether it refuses."""
        return self.is_mortal and self.world.dies <= now < self.world.back


@attrs.frozen
class Call:
    """One call, when it is over."""

    begun: float
    attempts: int
    server: Server | None
    """Who served it; None: it failed."""
    seconds: float = 0.0
    """Until its end."""


@attrs.frozen
class Told:
    """What became of all calls with one way to pick."""

    name: str
    world: World
    calls: list[Call]
    """In the order in which they began."""
    asked: list[str]
    """Which replica, with each attempt."""
    load: list[tuple[float, list[int]]]
    """Each second, how many calls each replica has."""


def servers_of(world: World) -> dict[str, Server]:
    """The replicas by their URLs; slow and dead ones stand anywhere among the others."""
    order = random.Random(7).sample(range(world.replicas), world.replicas)
    return {f"http://10.0.0.{number}": Server(number, world) for number in order}


def randoms() -> tuple[random.Random, random.Random]:
    """What lots and lengths of calls are drawn from, and when calls come."""
    return random.Random(20261121), random.Random(42)


def simulate(name: str, strategy: Strategy, world: World = WORLD) -> Told:
    """The story, with this way to pick a replica."""
    (lots, arrivals), servers = randoms(), servers_of(world)
    memory: dict[str, float] = {}
    told = Told(name, world, [], [], [])
    ends: list[tuple[float, int, Server]] = []
    careful = not name.startswith(PLAIN)

    def settle(until: float) -> None:
        while ends and ends[0][0] <= until:
            at, _, server = heapq.heappop(ends)
            server.in_flight -= 1
            server.standing = server.standing.succeeded(at)

    def following(now: float, tried: set[str]) -> Server:
        able = usable({url: each.standing for url, each in servers.items()}, HEALTH, now) if careful else servers
        urls = [url for url in able if url not in tried]
        if not urls:
            urls = sorted((url for url in servers if url not in tried), key=lambda url: servers[url].standing.badness)[
                :1
            ]
        candidates = [
            Candidate(url, 1.0, servers[url].standing.share(HEALTH, now), servers[url].in_flight, servers[url].last)
            for url in urls
        ]
        url = pick(strategy, candidates, "", memory, lots.random, again=bool(tried)).url
        told.asked.append(url)
        tried.add(url)
        servers[url].last = len(told.asked)
        return servers[url]

    now = 0.0
    while now < world.over:
        now += arrivals.expovariate(world.calls_per_second)
        settle(now)
        if now >= len(told.load):
            numbers = {server.number: server.in_flight for server in servers.values()}
            told.load.append((now, [numbers[number] for number in range(world.replicas)]))
        tried: set[str] = set()
        server = following(now, tried)
        while server.is_dead(now):
            if careful:
                server.standing = server.standing.failed(HEALTH, now, lots.random())
            if not careful or len(tried) == min(TRIES, len(servers)):
                told.calls.append(Call(now, len(tried), None))
                break
            server = following(now, tried)
        else:
            seconds = server.seconds(lots)
            server.in_flight += 1
            heapq.heappush(ends, (now + seconds, len(told.asked), server))
            told.calls.append(Call(now, len(tried), server, seconds))
    return told


def quantile(values: Iterable[float], part: float) -> float:
    """The value below which this part of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def busiest(told: Told, since: float, until: float) -> float:
    """How many calls the busiest working replica has beside the mean, on average."""
    ratios: list[float] = []
    for at, numbers in told.load:
        if since <= at < until:
            working = numbers[: WORLD.replicas - WORLD.dead] if WORLD.dies <= at < WORLD.back else numbers
            ratios.append(max(working) * len(working) / max(1, sum(working)))
    return sum(ratios) / len(ratios)


def served_seconds(calls: Iterable[Call]) -> list[float]:
    """How long those took that were served."""
    return [call.seconds for call in calls if call.server]


def percent_failed(calls: Sequence[Call]) -> float:
    """Of these calls."""
    return 100 * sum(call.server is None for call in calls) / len(calls)


def percent_back(calls: Sequence[Call]) -> float:
    """Of those of these calls that were served, what the replicas serve that are dead for a time."""
    served = [call.server for call in calls if call.server]
    return 100 * sum(server.is_mortal for server in served) / len(served)


def rows(stories: Sequence[Told]) -> list[list[str]]:
    """The table of load and errors."""
    table: list[list[str]] = []
    for told in stories:
        for part, since, until in PARTS if told.world is WORLD else PARTS[2:]:
            calls = [call for call in told.calls if since <= call.begun < until]
            attempts = sum(call.attempts for call in calls)
            refused = attempts - sum(call.server is not None for call in calls)
            table.append(
                [
                    told.name,
                    part,
                    f"{busiest(told, since, until):.1f}",
                    *(f"{quantile(served_seconds(calls), p):.2f}" for p in (0.5, 0.99)),
                    f"{100 * refused / attempts:.2f} %",
                    f"{percent_failed(calls):.2f} %",
                ]
            )
    return table


WINDOW: Final = 3.0
STEP: Final = 0.1


def until_well(told: Told, since: float, is_ill: Callable[[Sequence[Call]], bool]) -> float:
    """Seconds from `since` until what is in a sliding window is ill no more; 0 if it never is."""
    begun = [call.begun for call in told.calls]
    ill = 0.0
    for number in range(round((told.world.over - WINDOW - since) / STEP)):
        at = since + number * STEP
        if is_ill(told.calls[bisect.bisect(begun, at) : bisect.bisect(begun, at + WINDOW)]):
            ill = (number + 1) * STEP
    return ill


def recovery(stories: Sequence[Told]) -> list[list[str]]:
    """The table of how long it takes until all is well again."""
    half = 100 * WORLD.dead / WORLD.replicas / 2
    table: list[list[str]] = []
    for told in stories:
        first = {call.server: call.begun for call in reversed(told.calls) if call.begun >= WORLD.back}
        back = [begun - WORLD.back for server, begun in first.items() if server is not None and server.is_mortal]
        assert len(back) == WORLD.dead
        seconds = (
            until_well(told, WORLD.dies, lambda calls: percent_failed(calls) >= 1),
            until_well(told, WORLD.back, lambda calls: percent_back(calls) < half),
            max(back),
        )
        table.append([told.name, *(f"{each:.1f}" for each in seconds)])
    return table


HEAD: Final = ("strategy", "part", "busiest / mean", "median, s", "99 %, s", "attempts refused", "calls failed")
RECOVERY_HEAD: Final = ("strategy", "fewer than 1 % fail, s", "half their share, s", "the last one serves, s")


def table_text(head: Sequence[str], table: Sequence[Sequence[str]], texts: int) -> str:
    """The table in Markdown; its first columns are texts."""
    lines = [head, (*("---",) * texts, *("---:",) * (len(head) - texts)), *table]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --------------------------------------------------------------------------------------------------------- The picture

COLOURS: Final = {
    PLAIN: "#c0392b",
    "`round_robin`": "#8e6bb8",
    "`random`": "#7f8c8d",
    "`power_of_two`": "#2471a3",
    "`least_in_flight`": "#1e8449",
}
DASHED: Final = ("`round_robin`", "`random`")
BIN: Final = 3.0
"""Seconds of calls that are one point of a line."""
WIDTH, HEIGHT, LEFT, TOP, GAP = 760, 150, 60, 62, 48


def line(points: Sequence[tuple[float, float]], most: float, top: float, colour: str, *, dashed: bool) -> str:
    """A line of one panel; what is above its most is drawn at the edge."""
    placed = " ".join(
        f"{LEFT + x / WORLD.over * (WIDTH - LEFT - 20):.1f},{top + HEIGHT * (1 - min(y, most) / most):.1f}"
        for x, y in points
    )
    dash = ' stroke-dasharray="6 3"' if dashed else ""
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.6"{dash} points="{placed}"/>'


def panel(title: str, unit: str, most: float, top: float, curves: dict[str, list[tuple[float, float]]]) -> list[str]:
    """One of the picture's parts."""
    right = WIDTH - 20
    at = {x: LEFT + x / WORLD.over * (right - LEFT) for x in (0, 30, 60, 90, 120)}
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
    return drawn + [line(points, most, top, COLOURS[name], dashed=name in DASHED) for name, points in curves.items()]


def in_bins(told: Told) -> list[tuple[float, list[Call]]]:
    """The calls that began in each few seconds."""
    bins: list[list[Call]] = [[] for _ in range(round(WORLD.over / BIN))]
    for call in told.calls:
        bins[min(int(call.begun / BIN), len(bins) - 1)].append(call)
    return [((number + 0.5) * BIN, calls) for number, calls in enumerate(bins)]


def picture(stories: Sequence[Told]) -> str:
    """The picture, as SVG."""
    bins = {told.name: in_bins(told) for told in stories}
    failed = {name: [(at, percent_failed(calls)) for at, calls in each] for name, each in bins.items()}
    slowest = {name: [(at, quantile(served_seconds(calls), 0.99)) for at, calls in each] for name, each in bins.items()}
    back = {name: [(at, percent_back(calls)) for at, calls in each] for name, each in bins.items()}
    spread = {told.name: [(at, busiest(told, at, at + 1e-9)) for at, _ in told.load] for told in stories}
    tops = [TOP + number * (HEIGHT + GAP) for number in range(4)]
    drawn = [
        *panel("Calls that failed", " %", 40, tops[0], failed),
        *panel("The slowest 1 % of the calls took longer than", " s", 300, tops[1], slowest),
        *panel("The busiest working replica, beside the mean (1: all alike)", "", 12, tops[2], spread),
        *panel("What the 60 that fail for a time serve of all calls (fair: 30 %)", " %", 40, tops[3], back),
    ]
    legend: list[str] = []
    for number, name in enumerate(COLOURS):
        x = LEFT + number * 136
        dash = ' stroke-dasharray="6 3"' if name in DASHED else ""
        colour = COLOURS[name]
        legend.append(f'<line x1="{x}" y1="20" x2="{x + 20}" y2="20" stroke="{colour}" stroke-width="2.5"{dash}/>')
        legend.append(f'<text x="{x + 25}" y="24">{name.strip("`")}</text>')
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
    """Simulate, print the tables, and write the picture and the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    check: bool = parser.parse_args().check
    stories = [simulate(*way) for way in WAYS]
    drawn = [told for told in stories if told.world is WORLD]
    tables = f"{table_text(HEAD, rows(stories), 2)}\n\n{table_text(RECOVERY_HEAD, recovery(drawn), 1)}"
    print(tables)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    page = f"{before}{BEGIN}\n{tables}\n{END}{rest.partition(END)[2]}"
    made = {PAGE: page, PICTURE: picture(drawn)}
    if check:
        stale = [path.name for path, text in made.items() if path.read_text(encoding="utf-8") != text]
        sys.exit(f"not as it would be written: {', '.join(stale)}" if stale else 0)
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
