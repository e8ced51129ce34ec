"""The simulation of a cluster: the picture and the table in the docs are what it makes, and show what is said of it."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Final

import pytest

from tests.conftest import ROOT

PAGE: Final = (ROOT / "docs" / "howto" / "cluster.md").read_text(encoding="utf-8")
OURS: Final = ("round_robin", "random", "power_of_two", "least_in_flight")


@pytest.mark.slow
def test_the_page_is_what_the_simulation_makes() -> None:
    """It has a seed and virtual time, so it makes the same picture and the same table whenever it is run."""
    command = [sys.executable, str(ROOT / "benchmarks" / "cluster_simulation.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)


def figures(strategy: str, part: str) -> list[float]:
    """A row of the table: the busiest beside the mean, two times, and two percentages."""
    row = re.search(rf"^\| `?{strategy}`? \| {part} \| (.*) \|$", PAGE, re.MULTILINE)
    assert row is not None
    return [float(cell.removesuffix(" %")) for cell in row[1].split(" | ")]


@pytest.mark.parametrize("strategy", OURS)
def test_what_the_simulation_shows(strategy: str) -> None:
    """Hardly a call fails where plain round robin fails by its share of the dead, and afterwards none."""
    *_, plain_refused, plain_failed = figures("plain round robin", "failure")
    *_, refused, failed = figures(strategy, "failure")
    assert 30 == plain_failed == plain_refused
    assert failed < 0.1
    assert refused < plain_refused / 1.9
    assert [0, 0] == figures(strategy, "after")[-2:]


def test_who_is_less_busy_is_asked() -> None:
    """Strategies that look at what is in flight spread it better than plain round robin does, at any time."""
    for part in ("before", "failure", "after"):
        plain, *_ = figures("plain round robin", part)
        assert all(figures(strategy, part)[0] < plain / 1.5 for strategy in ("power_of_two", "least_in_flight"))
