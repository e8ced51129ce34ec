"""Tables and pictures of a run of the benchmarks."""

from __future__ import annotations

import statistics
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from benchmarks.clients import bare_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

Table: TypeAlias = dict[tuple[str, str, str], list[float]]
"""From event loop, client and column to the value of each round."""
Curves: TypeAlias = dict[str, dict[str, Any]]

HEARD: Final = ("idle=30", "a handler", "send_message")
"""Who listens, or what else differs from the default."""
BUILTIN: Final = "OxyGent 1.1.3"
COLUMNS: Final = {
    "burst": "1 event per chunk, µs",
    "batch": "50 events per chunk, µs",
    "paced": "200 streams at 50 Hz, µs",
    "calls": "a short call, µs",
    "idle": "an idle stream, KiB",
}
BEGIN, END = "<!-- made by benchmarks/bench.py -->", "<!-- end of the results -->"


def rows(header: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown; all columns but the first hold numbers."""
    line = ["| --- |" + " ---: |" * (len(header) - 1)]
    return [f"| {' | '.join(header)} |", *line, *(f"| {' | '.join(cells)} |" for cells in body), ""]


def ratios(table: Table, loop: str, client: str, base: str, column: str) -> list[float]:
    """The values of each round, in times of another client's in the same round."""
    values, bases = table.get((loop, client, column), []), table.get((loop, base, column), [])
    return [value / least for value, least in zip(values, bases, strict=False)]


def number(value: float) -> str:
    """Three digits, or all of a large number."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def cell(table: Table, loop: str, client: str, column: str) -> str:
    """The median of a column, and the ratio to the bare client with its lowest and highest."""
    values = table.get((loop, client, column))
    if not values:
        return "-"
    found = number(statistics.median(values))
    base = bare_of(client)
    if base == client:
        return found
    times = ratios(table, loop, client, base, column)
    spread = f", {min(times):.2f} to {max(times):.2f}" if len(times) > 1 else ""
    return f"{found} (**{statistics.median(times):.2f}x**{spread})"


def names_of(table: Table, loop: str) -> list[str]:
    """The clients that were measured on this loop."""
    return list(dict.fromkeys(client for each, client, _ in table if each == loop))


def loops(table: Table) -> list[str]:
    """A table for each event loop."""
    found = list[str]()
    for loop in ("asyncio", "uvloop", "trio"):
        clients = names_of(table, loop)
        columns = [column for column in COLUMNS if any((loop, client, column) in table for client in clients)]
        body = [(label(client), *(cell(table, loop, client, column) for column in columns)) for client in clients]
        found += [f"On {loop}:", "", *rows(("client", *(COLUMNS[column] for column in columns)), body)]
    return found


def after(table: Table) -> list[str]:
    """The paced streams in a process that read batches before."""
    clients = [client for client in names_of(table, "asyncio") if ("asyncio", client, "after") in table]
    return [
        "200 streams at 50 Hz on asyncio, in a process that has read large pieces before: the system's allocator then",
        "keeps the 256 KiB that asyncio asks for with each read, where a new process gets fresh pages for them.",
        "",
        *rows(("client", COLUMNS["paced"]), [(label(each), cell(table, "asyncio", each, "after")) for each in clients]),
    ]


def label(client: str) -> str:
    """How a client is called in a table."""
    return client if client.startswith("bare") or client == BUILTIN else f"ours, {client}"


def beside_builtin(table: Table) -> list[str]:
    """Our transports in times of OxyGent's own client."""
    if BUILTIN not in names_of(table, "asyncio"):
        return [f"{BUILTIN} was not installed.", ""]
    body = [
        (
            label(client),
            *(f"{statistics.median(ratios(table, 'asyncio', client, BUILTIN, column)):.2f}x" for column in COLUMNS),
        )
        for client in ("httpx", "httpx2", "aiohttp")
    ]
    header = (f"in times of {BUILTIN}", *(text.rpartition(",")[0] for text in COLUMNS.values()))
    return rows(header, body)


def growth(curves: Curves) -> list[str]:
    """The growth curves as tables."""
    streams = [
        (
            label(client),
            str(count),
            number(found["open_us"]),
            number(found["kib"]),
            f"{found['cpu_share']:.1%}" if found["cpu_share"] else "-",
            f"{found['lag'] * 1000:.0f} ms" if found["cpu_share"] else "-",
        )
        for client, points in curves["streams"].items()
        for count, found in points
    ]
    sizes = sorted({size for points in curves["sizes"].values() for size, _ in points})
    events = [
        (label(client), *(number(dict(map(tuple, points))[size]) for size in sizes))
        for client, points in curves["sizes"].items()
    ]
    large = [
        (label(client), f"{found['times']:.1f}x", f"{found['lag'] * 1000:.0f} ms")
        for client, found in curves["large"].items()
    ]
    calls = curves["calls"]["in process"]
    return [
        "Streams in one process. The last two columns are of a minute in which heartbeats arrive: the share of a core,",
        "and the longest wait of another task for its turn:",
        "",
        *rows(("client", "streams", "opening one, µs", "KiB each", "CPU", "wait"), streams),
        "Profile of the paced case (200 streams at 50 Hz): the share of each package's own code in the CPU time. A",
        "profiler makes function calls slower, so it overstates code with many small functions.",
        "",
        *profiles(curves["profile"]),
        "CPU time of one event by the size of its text, µs:",
        "",
        *rows(("client", *(f"{size:,} B" for size in sizes)), events),
        "One event of 15 MB: peak memory in times of its size, and the longest wait of another task for its turn:",
        "",
        *rows(("client", "memory", "wait"), large),
        "CPU time of one call, by the number of calls in the process before it (in process):",
        "",
        *rows([f"to {count:,}" for count, _ in calls], [[f"{number(each)} µs" for _, each in calls]]),
    ]


def profiles(found: dict[str, dict[str, float]]) -> list[str]:
    """Shares of the packages, those above a hundredth."""
    packages = list(dict.fromkeys(name for shares in found.values() for name, share in shares.items() if share > 0.01))
    body = [(label(client), *(f"{shares.get(name, 0):.0%}" for name in packages)) for client, shares in found.items()]
    return rows(("client", *packages), body)


def peers(found: dict[str, dict[str, float]]) -> list[str]:
    """The decoders."""
    names = list(next(iter(found.values())))
    body = [
        (stream, *(f"{value:.2f} µs" if name == "ours" else f"{value:.2f}x" for name, value in each.items()))
        for stream, each in found.items()
    ]
    return rows(("the decoder alone, CPU time of a piece; others in times of ours", *names), body)


def programs(found: dict[str, tuple[float, float, float]]) -> list[str]:
    """The times of starting programs."""
    header = ("starting a program", "CPU, ms", "in times of `pass`", "in times of `import httpx`")
    return rows(header, [(f"`{name}`", number(ms), f"{a:.1f}x", f"{b:.2f}x") for name, (ms, a, b) in found.items()])


def tables(
    table: Table,
    decoders: dict[str, dict[str, float]],
    imports: dict[str, tuple[float, float, float]],
    curves: Curves | None,
    said: str,
) -> str:
    """All tables, as Markdown."""
    lines = [
        f"{said}. In brackets: in times of the bare client of the same library in the same round, the median and the",
        "range.",
        "",
        *loops(table),
        *beside_builtin(table),
        *after(table),
        *peers(decoders),
        *programs(imports),
        *(growth(curves) if curves else []),
    ]
    return "\n".join(lines)


# --- files ------------------------------------------------------------------------------------------------------------


def replace_between(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what a page has between two marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(f"{before}{begin}\n\n{text.rstrip()}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def write(root: Path, text: str, table: Table, curves: Curves | None) -> None:
    """Write the page and its pictures."""
    replace_between(root / "docs" / "performance.md", BEGIN, END, text)
    assets = root / "docs" / "assets"
    draw_ratios(assets / "performance.svg", table)
    if curves:
        draw_growth(assets / "performance-growth.svg", curves)


def pyplot() -> Any:
    """The plotting library, for files that are the same for the same figures."""
    import_module("matplotlib").use("svg")
    plot: Any = import_module("matplotlib.pyplot")
    plot.rcParams.update({"svg.hashsalt": "oxygent-client", "font.size": 9, "axes.spines.top": False})
    plot.rcParams.update({"axes.spines.right": False, "svg.fonttype": "none"})
    return plot


def draw_ratios(path: Path, table: Table) -> None:
    """CPU time and memory in times of OxyGent's own client, or of bare aiohttp where that was not measured."""
    plot = pyplot()
    base = BUILTIN if BUILTIN in names_of(table, "asyncio") else "bare aiohttp"
    figure, axes = plot.subplots(figsize=(8, 3))
    clients = {"bare aiohttp": "#c7c7c7", "aiohttp": "#1f77b4", "httpx": "#ff7f0e", "httpx2": "#2ca02c"}
    for index, (client, color) in enumerate(clients.items()):
        heights = [statistics.median(ratios(table, "asyncio", client, base, column)) for column in COLUMNS]
        places = [place + (index - 1.5) * 0.2 for place in range(len(COLUMNS))]
        axes.bar(places, heights, 0.19, label=label(client), color=color)
    axes.axhline(1, color="black", linewidth=1, linestyle="--")
    axes.text(len(COLUMNS) - 0.45, 1.02, base, ha="right", va="bottom")
    axes.set_xticks(range(len(COLUMNS)), [text.rpartition(",")[0] for text in COLUMNS.values()])
    axes.set_ylabel(f"in times of {base}")
    axes.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.2))
    save(plot, figure, path)


def draw_growth(path: Path, curves: Curves) -> None:
    """CPU time by the number of streams, by the size of events, and by the number of calls."""
    plot = pyplot()
    figure, (streams, sizes, calls) = plot.subplots(1, 3, figsize=(10, 3))
    for client, points in curves["streams"].items():
        streams.loglog(
            [count for count, _ in points], [each["open_us"] for _, each in points], "o-", label=label(client)
        )
    for client, points in curves["sizes"].items():
        sizes.loglog([size for size, _ in points], [each for _, each in points], "o-", label=label(client))
    points = curves["calls"]["in process"]
    calls.semilogx([count for count, _ in points], [each for _, each in points], "o-")
    calls.set_ylim(bottom=0)
    streams.set(xlabel="streams in one process", ylabel="CPU of opening one, µs")
    sizes.set(xlabel="bytes of an event", ylabel="CPU of one event, µs")
    calls.set(xlabel="calls in one process", ylabel="CPU of one call, µs")
    streams.legend(frameon=False)
    save(plot, figure, path)


def save(plot: Any, figure: Any, path: Path) -> None:
    """Write a picture without a date."""
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plot.close(figure)
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
