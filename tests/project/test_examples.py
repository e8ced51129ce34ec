"""The examples of the documentation's fifteen use cases: each prints its documented output, on both event loops.

Rule 1: an example is a program. The tests run its `main` with its toy remote in virtual time, and the one command for
    all of docs/examples in a process.
Rule 2: its output is in its docstring only; what only the remote sees of it is in SEEN.
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

from docs.examples.documentation.harness import EXCEPTIONS
from tests.agent.test_documentation import POINTS
from tests.conftest import ROOT
from tests.project.test_project import project_table
from tests.support.documentation import BLOCKS
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Callable

    from oxygent_client.testing import ToyRemote
    from oxygent_client.testing._toy_server import ToyRun

RUN_ALL: Final = ROOT / "docs" / "examples" / "run_all.py"
ALL: Final[dict[str, Any]] = runpy.run_path(str(RUN_ALL))
EXAMPLES: Final[dict[str, Path]] = {path.stem: path for path in ALL["EXAMPLES"]}
MOST_LINES: Final = 40
INDEX: Final = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")


SEEN: Final[dict[str, tuple[Any, Callable[[list[ToyRun]], Any]]]] = {
    # example: (what the remote received, how to get it from its runs)
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
async def test_output(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its toy remote an example prints the output in its docstring, and sends the expected requests."""
    monkeypatch.delenv("OXYGENT_URL", raising=False)
    monkeypatch.setenv("SEARCH_TOKEN", "t0p-secret")
    program = runpy.run_path(str(EXAMPLES[example]))
    with redirect_stdout(io.StringIO()) as printed:
        await program["main"]()
    assert ALL["expected"](EXAMPLES[example]) == printed.getvalue()
    remote = cast("ToyRemote", (program.get("TOY") or program["MOVER"])._app)
    expected, read = SEEN.get(example, ("finished", lambda runs: runs[-1].state))
    assert read(remote.runs) == expected


ENTRIES: Final = len(ALL["ENTRIES"])
BLOCKS_RAN: Final = f"\n{len(BLOCKS)} blocks: {len(BLOCKS) - len(EXCEPTIONS)} ran, {len(EXCEPTIONS)} cannot\n"


def command(*words: str | Path, url: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python without the settings of these tests, and return the result."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OXYGENT", "PYTEST", "PYTHON"))}
    environment = kept | ({"OXYGENT_URL": url} if url else {})
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_command() -> None:
    """One command runs all of docs/examples: programs, code blocks and the project."""
    assert f"documentation's {len(BLOCKS)} code blocks" in INDEX
    (line,) = re.findall(r"^python .*$", INDEX, re.MULTILINE)
    done = command("-W", "error", *line.split()[1:])
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    entries = {path.name for path in RUN_ALL.parent.iterdir() if path.name[0] not in "._"} - {RUN_ALL.name}
    assert sorted(entries) == re.findall(r"^--- (.*)$", done.stdout, re.MULTILINE)
    for block in BLOCKS:
        excepted = f"cannot run as it stands: {EXCEPTIONS[block][1]}" if block in EXCEPTIONS else "ran"
        assert re.search(rf"^{block}: {re.escape(excepted)}", done.stdout, re.MULTILINE), block
    assert BLOCKS_RAN in done.stdout
    assert re.search(r"^--- trip_service\n\.+ .*\n\d+ passed in ", done.stdout, re.MULTILINE)
    assert done.stdout.splitlines()[-1] == f"{ENTRIES} of {ENTRIES} passed"


WITHOUT_EXTRAS: Final = """
import runpy, sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split()))
runpy.run_path(sys.argv[1], run_name="__main__")
"""
EXTRAS: Final = "a2a aiohttp dotenv httpx2 mcp opentelemetry oxygent pytest rich typer uvicorn"


@pytest.mark.seconds
def test_without_extras() -> None:
    """The examples run without extras; the project, whose tests need one, is skipped by name."""
    done = command("-c", WITHOUT_EXTRAS, EXTRAS, RUN_ALL)
    last = f"{ENTRIES - 1} of {ENTRIES} passed; skipped: trip_service"
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == last
    assert "\n--- trip_service\nits tests need the extra [pytest]\n" in done.stdout
    extra = project_table()["optional-dependencies"]["pytest"]
    assert {name for each in extra for name in re.findall(r"^\w+", each)} == {*ALL["EXTRA"]}
    assert BLOCKS_RAN in done.stdout


SAID: Final = '"""Says.\n\nPrints:\n    x\n"""\n'
PROJECT: Final = {"tests/pyproject.toml": "[tool.pytest]\n"}
HARNESS: Final = "documentation/harness.py"
DOCUMENTATION_FAILED: Final = "0 of 1 passed; failed: documentation"
PROGRAMS: Final = {"good.py": "print('x')", "lying.py": "print('y')", "raising.py": "print('x'); raise ValueError"}
ENDING: Final = {"bad.py": "print('x'); raise SystemExit(3)", "good.py": "print('x'); raise SystemExit"}
NOT_ANSWERED: Final = """async def bad(_): 1 / 0
SSEOxyGent(server_url='https://remote.test', event_handlers={'progress': bad})"""
UNKNOWN: Final = {"notes.txt": "x", "other/program.py": "print('x')"}
COMMANDS: Final[dict[str, tuple[dict[str, str], int, str, str]]] = {
    # the directory: (its files, how many fail, a line about one, the last line)
    "programs": (PROGRAMS, 2, "ValueError", "1 of 3 passed; failed: lying.py raising.py"),
    "programs that end by themselves": (ENDING, 1, "--- bad.py", "1 of 2 passed; failed: bad.py"),
    "a block": ({"long/good.py": "await asyncio.sleep(0)"}, 0, "good: ran", "1 of 1 passed"),
    "a block that fails": ({"long/bad.py": "nobody"}, 1, "bad: FAILED: NameError", DOCUMENTATION_FAILED),
    "a block that is no Python": ({"new/bad.txt": "no Python"}, 1, "bad: FAILED: SyntaxError", DOCUMENTATION_FAILED),
    "an agent that is not answered": ({"long/bad.py": NOT_ANSWERED}, 1, "was not answered", DOCUMENTATION_FAILED),
    "an exception that runs": ({"long/monitored.py": "pass"}, 1, "an exception, and runs", DOCUMENTATION_FAILED),
    "a project": (PROJECT | {"tests/test_it.py": "def test_it(): pass"}, 0, "1 passed", "1 of 1 passed"),
    "a project that fails": (
        PROJECT | {"tests/test_it.py": "def test_it(): assert 0"}, 1, "1 failed", "0 of 1 passed; failed: tests",
    ),
    "a project without a test": (PROJECT, 1, "no tests ran", "0 of 1 passed; failed: tests"),
    "an unknown file": (UNKNOWN, 2, "not an example", "0 of 2 passed; failed: notes.txt other"),
}  # fmt: skip


def laid(directory: Path, files: dict[str, str]) -> Path:
    """Lay out the command with these files; a block is put where blocks are, with its harness."""
    for name, text in {RUN_ALL.name: RUN_ALL.read_text(encoding="utf-8"), **files}.items():
        in_documentation = name.startswith(("long/", "new/"))
        path = directory / ("documentation" if in_documentation else "") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        is_program = name in PROGRAMS.keys() | ENDING.keys()
        path.write_text(f"{SAID}{text}\n" if is_program else text, encoding="utf-8")
        if in_documentation:
            (directory / HARNESS).write_text((RUN_ALL.parent / HARNESS).read_text(encoding="utf-8"), encoding="utf-8")
    return directory / RUN_ALL.name


@pytest.mark.slow
@pytest.mark.parametrize("there", COMMANDS)
def test_failures_of_the_command(there: str, tmp_path: Path) -> None:
    """A file that fails, prints another output or is not run is named, and the exit code is 1."""
    files, failed, said, last = COMMANDS[there]
    done = command(laid(tmp_path, files))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (failed, last), f"{done.stdout}\n{done.stderr}"
    assert said in done.stdout


def test_with_a_users_server(tmp_path: Path) -> None:
    """With a user's own server any output is accepted, with a note."""
    done = command(laid(tmp_path, PROGRAMS), url="http://127.0.0.1:1")
    last = "1 of 3 passed; printed something else: lying.py; failed: raising.py"
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == last


def test_length() -> None:
    """No example is longer than 40 lines."""
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in EXAMPLES.items()}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_each_use_case_has_an_example() -> None:
    """Each of the fifteen use cases has an example with its name at the top, in order."""
    cases = [each["point"] for each in POINTS if each["section"] == "Common Use Cases"]
    assert len(cases) == 15
    rows = re.findall(r"^\| ([^|]+) \| \[(\w+)\.py\]\(examples/(\w+)\.py\) \|", INDEX, re.MULTILINE)
    assert [case for case, *_ in rows] == cases
    assert sorted(name for _, name, _ in rows) == sorted(EXAMPLES)
    for case, shown, name in rows:
        said = ast.get_docstring(ast.parse(EXAMPLES[name].read_text(encoding="utf-8"))) or ""
        assert name == shown
        assert said.partition(": ")[0] == case
