"""The guard against slow-downs: how counted instructions are compared with the stored ones."""

from __future__ import annotations

import json
import runpy
from typing import Any, Final

import pytest

from tests.conftest import ROOT

GUARD: Final[dict[str, Any]] = runpy.run_path(str(ROOT / "benchmarks" / "instructions.py"))
STORED: Final[dict[str, dict[str, float]]] = json.loads(GUARD["STORED"].read_text(encoding="utf-8"))

VERDICTS: Final = {
    # name: (the figure, the stored one, what is said)
    "the same": (1.0, 1.0, ""),
    "noise": (1.02, 1.0, ""),
    "slower by a fifth": (1.2, 1.0, "SLOWER by 20%"),
    "slower by a tenth": (1.1, 1.0, "SLOWER by 10%"),
    "a little faster": (0.95, 1.0, ""),
    "much faster": (0.8, 1.0, "faster by 20%: record it"),
    "new": (1.0, None, "not recorded"),
}


@pytest.mark.parametrize(("figure", "stored", "expected"), VERDICTS.values(), ids=VERDICTS)
def test_a_verdict(figure: float, stored: float | None, expected: str) -> None:
    """A slow-down of a tenth is found; so is a stored figure that would hide the next one."""
    assert GUARD["verdict"](figure, stored) == expected


@pytest.mark.parametrize("minor", ["3.11", "3.12", "3.13"])
def test_every_figure_is_stored(minor: str) -> None:
    """For every supported version of Python, all pieces of work have a stored figure."""
    assert STORED[minor].keys() == GUARD["WORK"].keys() - {GUARD["REFERENCE"]}
