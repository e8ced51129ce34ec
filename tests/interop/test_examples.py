"""The examples of the documentation's fifteen use cases, against a real server.

Rule: an example is told of the server by `OXYGENT_URL` alone. What it prints is what its docstring says, in which the
    names of the toy remote's agents and tools stand for those of the server's.
"""

from __future__ import annotations

import io
import re
import runpy
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from .harness import RemoteServer

pytestmark = pytest.mark.anyio

ALL: Final[dict[str, Any]] = runpy.run_path(str(ROOT / "docs" / "examples" / "run_all.py"))
EXAMPLES: Final[dict[str, Path]] = {path.stem: path for path in ALL["EXAMPLES"]}
NAMES: Final = {
    # what the toy remote says: what the server says
    "trip_planner": "master",
    "search_flights": "add",
    "search_hotels": "multiply",
    "add_up": "shout",
    "HELLO": "BOTH",
}


@pytest.mark.parametrize("example", EXAMPLES)
async def test_each_prints_what_it_says(newest: RemoteServer, example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example that is given a real server does with it what it does with the toy."""
    monkeypatch.setenv("OXYGENT_URL", newest.url)
    monkeypatch.setenv("SEARCH_TOKEN", "t0p-secret")
    program = runpy.run_path(str(EXAMPLES[example]))
    with redirect_stdout(io.StringIO()) as printed:
        await program["main"]()
    expected = re.sub("|".join(NAMES), lambda found: NAMES[found[0]], ALL["expected"](EXAMPLES[example]))
    assert expected == printed.getvalue()
