"""The tables of docs/soak.md: tests add rows (`@pytest.mark.table`), and a soak writes them at its end.

Rule 1: a table is between two marks on the page. It is written as a whole, below a line with the day, the commit and
    the outcomes of its tests.
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
    "batch": ("queries", "kills", "in progress at a kill", "completed", "unknown", "ran", "most"),
    "replicas": (
        *("strategy", "seed", "loop", "SIGKILL", "SIGTERM", "calls", "answered", "started", "unknown", "ran"),
        *("most", "least share", "largest share"),
    ),
}
"""The columns of each table."""


def marks(name: str) -> tuple[str, str]:
    """Return the lines around a table."""
    return f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"


def cell(value: object) -> str:
    """Return a value as it is shown."""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def table(name: str, rows: list[tuple[object, ...]]) -> str:
    """Return the table in Markdown."""
    columns = COLUMNS[name]
    assert {len(row) for row in rows} <= {len(columns)}, (name, rows)
    numbers = [all(isinstance(row[number], int | float) for row in rows) for number in range(len(columns))]
    lines = [columns, ["---:" if is_number else "---" for is_number in numbers], *(map(cell, row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def placed(page: str, name: str, text: str) -> str:
    """Return the page with `text` in the table's place."""
    start, end = marks(name)
    before, found, rest = page.partition(start)
    _, ended, after = rest.partition(end)
    assert found, f"the page has no place for {name}"
    assert ended, f"the page has no place for {name}"
    return f"{before}{start}\n{text}\n{end}{after}"


@attrs.define
class Tables:
    """The rows of one test run."""

    _rows: dict[str, list[tuple[object, ...]]] = attrs.field(factory=lambda: collections.defaultdict(list), init=False)
    _tests: dict[str, str] = attrs.field(factory=dict[str, str], init=False)
    _ended: dict[str, collections.Counter[str]] = attrs.field(
        factory=lambda: collections.defaultdict(collections.Counter), init=False
    )
    _seconds: collections.Counter[str] = attrs.field(factory=collections.Counter[str], init=False)

    def begun(self, test: str, name: str) -> None:
        """Register `test` as adding rows to this table."""
        self._tests[test] = name

    def add(self, test: str, *cells: object) -> None:
        """Add a row of `test`."""
        self._rows[self._tests[test]].append(cells)
        sys.stdout.write(f"| {' | '.join(map(cell, cells))} |\n")

    def ended(self, test: str, outcome: str, seconds: float) -> None:
        """Record the outcome of a test."""
        if test in self._tests:
            self._ended[self._tests[test]][outcome] += 1
            self._seconds[self._tests[test]] += round(seconds)

    def written(self, page: str, when: str) -> str:
        """Return the page with all rows."""
        for name, rows in self._rows.items():
            went = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self._ended[name].items()))
            page = placed(page, name, f"{when}; {went} in {self._seconds[name]} s.\n\n{table(name, rows)}")
        return page

    def write(self) -> None:
        """Write the page."""
        if self._rows:
            PAGE.write_text(self.written(PAGE.read_text(), here()))


def here() -> str:
    """Return the day, the commit and the machine."""
    git = ["git", "-C", str(PAGE.parent), "describe", "--always", "--dirty", "--exclude", "*"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    today = dt.datetime.now(dt.UTC).date()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{today}, commit {commit}, {python}, {os.cpu_count()} cores"
