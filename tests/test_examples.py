"""The examples of the documentation's fifteen use cases: each prints what it says, on both event loops.

Rule 1: an example is a program. The tests run its `main` with the toy remote that it brings, in virtual time, and the
    one command for all of them as a process.
Rule 2: what it prints is in its docstring, and nowhere else; what of it only the remote sees is in SEEN.
"""

from __future__ import annotations

import ast
import io
import os
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from tests.conftest import ROOT
from tests.test_documentation import POINTS
from tests.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Callable

    from oxygent_client.testing import ToyRemote
    from oxygent_client.testing._toy import ToyRun

RUN_ALL: Final = ROOT / "docs" / "examples" / "run_all.py"
ALL: Final[dict[str, Any]] = runpy.run_path(str(RUN_ALL))
EXAMPLES: Final[dict[str, Path]] = {path.stem: path for path in ALL["EXAMPLES"]}
MOST_LINES: Final = 40
INDEX: Final = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")


SEEN: Final[dict[str, tuple[Any, Callable[[list[ToyRun]], Any]]]] = {
    # example: (what the remote was told, how to read it off its runs)
    "chat": (True, lambda runs: runs[1].payload["from_trace_id"] == runs[0].trace_id),
    "cloud": (["call 1", "call 2", "call 3"], lambda runs: [run.query.removeprefix("echo ") for run in runs]),
    "collaboration": (["trip-42"] * 3, lambda runs: [run.payload["group_id"] for run in runs]),
    "hybrid": (["user", "planner"], lambda runs: runs[0].payload["call_stack"]),
    "integration": ([False, False], lambda runs: ["call_stack" in run.payload for run in runs]),
    "microservices": (["Bearer t0p-secret"], lambda runs: [run.headers["authorization"] for run in runs]),
    "remote_processing": (["detached"], lambda runs: [run.state for run in runs]),
    "workflow": (["yes, book it", ""], lambda runs: runs[1].feedback),
}


@pytest.mark.parametrize("example", EXAMPLES)
async def test_each_prints_what_it_says(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own toy remote, an example prints what stands in its docstring, word for word, and asks as it should."""
    monkeypatch.delenv("OXYGENT_URL", raising=False)
    monkeypatch.setenv("SEARCH_TOKEN", "t0p-secret")
    program = runpy.run_path(str(EXAMPLES[example]))
    with redirect_stdout(io.StringIO()) as printed:
        await program["main"]()
    assert ALL["expected"](EXAMPLES[example]) == printed.getvalue()
    remote = cast("ToyRemote", (program.get("TOY") or program["MOVER"])._app)
    expected, read = SEEN.get(example, ("finished", lambda runs: runs[-1].state))
    assert expected == read(remote.runs)


def test_one_command_runs_them_all() -> None:
    """The command of the docs runs every example, and ends well if each prints what it says."""
    (command,) = re.findall(r"^python .*$", INDEX, re.MULTILINE)
    environment = {name: value for name, value in os.environ.items() if name != "OXYGENT_URL"}
    words = [sys.executable, "-W", "error", *command.split()[1:]]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert [f"--- {path.name}" for path in EXAMPLES.values()] == re.findall(r"^--- .*$", done.stdout, re.MULTILINE)
    assert "15 of 15 print what they say" == done.stdout.splitlines()[-1]


WITHOUT_EXTRAS: Final = """
import runpy, sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split()))
runpy.run_path(sys.argv[1], run_name="__main__")
"""
EXTRAS: Final = "aiohttp dotenv httpx2 mcp opentelemetry oxygent pytest rich typer uvicorn"


def test_they_need_no_extra() -> None:
    """They run where nothing is installed that an extra brings."""
    environment = {name: value for name, value in os.environ.items() if name != "OXYGENT_URL"}
    words = [sys.executable, "-c", WITHOUT_EXTRAS, EXTRAS, str(RUN_ALL)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert "15 of 15 print what they say" == done.stdout.splitlines()[-1]


def test_a_command_that_fails_says_so(tmp_path: Path) -> None:
    """An example that prints something else, or fails, is named, and the command ends badly."""
    (tmp_path / RUN_ALL.name).write_text(RUN_ALL.read_text(encoding="utf-8"), encoding="utf-8")
    said = '"""Says.\n\nPrints:\n    x\n"""\n'
    for name, body in {"good": "print('x')", "lying": "print('y')", "raising": "print('x'); raise ValueError"}.items():
        (tmp_path / f"{name}.py").write_text(f"{said}{body}\n", encoding="utf-8")
    for url, expected in (
        (None, 2),
        ("http://127.0.0.1:1", 1),
    ):  # with a server of one's own it may print what it likes
        environment = {name: value for name, value in os.environ.items() if name != "OXYGENT_URL"}
        environment |= {"OXYGENT_URL": url} if url else {}
        done = subprocess.run(
            [sys.executable, tmp_path / RUN_ALL.name], env=environment, capture_output=True, text=True, check=False
        )
        assert (expected, "1 of 3 print what they say: lying.py raising.py") == (
            done.returncode,
            done.stdout.splitlines()[-1],
        )


def test_they_are_small() -> None:
    """No example is longer than 40 lines."""
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in EXAMPLES.items()}
    assert {} == {name: length for name, length in lengths.items() if length > MOST_LINES}


def test_there_is_one_for_each_use_case() -> None:
    """The documents' fifteen use cases, in their order, have an example each, which names its own at its top."""
    cases = [each["point"] for each in POINTS if each["section"] == "Common Use Cases"]
    assert 15 == len(cases)
    rows = re.findall(r"^\| ([^|]+) \| \[(\w+)\.py\]\(examples/(\w+)\.py\) \|", INDEX, re.MULTILINE)
    assert cases == [case for case, *_ in rows]
    assert sorted(EXAMPLES) == sorted(name for _, name, _ in rows)
    for case, shown, name in rows:
        said = ast.get_docstring(ast.parse(EXAMPLES[name].read_text(encoding="utf-8"))) or ""
        assert (shown, case) == (name, said.partition(": ")[0])
