"""The tables of docs/soak.md: tests add rows as they go (`@pytest.mark.table`), and a soak writes them when it is over.

Rule 1: a table stands in the page between two marks. It is written as a whole, under a line that says when, of which
    commit, and how the tests went that made it.
Rule 2: a run of another size prints its rows and writes nothing.
"""

from __future__ import annotations

import collections
import datetime as dt
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Final

import attrs

PAGE: Final = Path(__file__).parent.parent.parent / "docs" / "soak.md"
COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "floods": ("flood", "loop", "how the last round ended", "rounds", "received", "grown"),
    "deadlines": (
        *("transport", "loop", "calls", "NOT_SENT", "REJECTED", "UNKNOWN", "STARTED", "COMPLETED"),
        *("seconds", "late", "after"),
    ),
    "crowds": ("transport", "loop", "streams", "round", "open", "left", "stopped", "full", "empty"),
    "cuts": ("how it was cut", "transport", "loop", "cuts"),
    "real cuts": (
        *("cut", "loop", "runs", "not sent", "rejected", "unknown", "started", "completed"),
        *("recovered", "ran", "most"),
    ),
    "detached": (
        *("cut", "loop", "runs", "not sent", "rejected", "unknown", "started", "completed"),
        *("recovered", "ran", "most"),
    ),
    "replicas": (
        *("strategy", "seed", "loop", "SIGKILL", "SIGTERM", "calls", "answered", "started", "unknown", "ran"),
        *("most", "least share", "largest share"),
    ),
}
"""What each table holds."""


def marks(name: str) -> tuple[str, str]:
    """Between which lines a table stands."""
    return f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"


def cell(value: object) -> str:
    """A value as it is shown."""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def table(name: str, rows: list[tuple[object, ...]]) -> str:
    """The table in Markdown."""
    columns = COLUMNS[name]
    assert {len(row) for row in rows} <= {len(columns)}, (name, rows)
    numbers = [all(isinstance(row[number], int | float) for row in rows) for number in range(len(columns))]
    lines = [columns, ["---:" if is_number else "---" for is_number in numbers], *(map(cell, row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def placed(page: str, name: str, text: str) -> str:
    """The page with `text` in the table's place."""
    start, end = marks(name)
    before, found, rest = page.partition(start)
    _, ended, after = rest.partition(end)
    assert found, f"the page has no place for {name}"
    assert ended, f"the page has no place for {name}"
    return f"{before}{start}\n{text}\n{end}{after}"


@attrs.define
class Tables:
    """What the tests of one run have found."""

    _rows: dict[str, list[tuple[object, ...]]] = attrs.field(factory=lambda: collections.defaultdict(list), init=False)
    _tests: dict[str, str] = attrs.field(factory=dict[str, str], init=False)
    _ended: dict[str, collections.Counter[str]] = attrs.field(
        factory=lambda: collections.defaultdict(collections.Counter), init=False
    )
    _seconds: collections.Counter[str] = attrs.field(factory=collections.Counter[str], init=False)

    def begun(self, test: str, name: str) -> None:
        """From now on `test` adds rows to this table."""
        self._tests[test] = name

    def add(self, test: str, *cells: object) -> None:
        """A row that `test` has found."""
        self._rows[self._tests[test]].append(cells)
        sys.stdout.write(f"| {' | '.join(map(cell, cells))} |\n")

    def ended(self, test: str, outcome: str, seconds: float) -> None:
        """How a test went."""
        if test in self._tests:
            self._ended[self._tests[test]][outcome] += 1
            self._seconds[self._tests[test]] += round(seconds)

    def written(self, page: str, when: str) -> str:
        """The page with all that was found."""
        for name, rows in self._rows.items():
            went = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self._ended[name].items()))
            page = placed(page, name, f"{when}; {went} in {self._seconds[name]} s.\n\n{table(name, rows)}")
        return page

    def write(self) -> None:
        """Write the page."""
        if self._rows:
            PAGE.write_text(self.written(PAGE.read_text(), here()))


def here() -> str:
    """When, what and where."""
    git = ["git", "-C", str(PAGE.parent), "describe", "--always", "--dirty", "--exclude", "*"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    today = dt.datetime.now(dt.UTC).date()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{today}, commit {commit}, {python}, {os.cpu_count()} cores"
