"""The example project and all examples, as a user runs them: copied, in a separate environment, with a built wheel.

Rule: this tree is not on its path; its imports are installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

EXAMPLE: Final = ROOT / "docs" / "examples" / "trip_service"
MOST_LINES: Final = 40
PYTEST: Final = ("-m", "pytest", "-p", "no:cacheprovider")
NOT_OURS: Final = shutil.ignore_patterns("__pycache__", ".*")
PYTHON: Final = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"


def run(command: Sequence[str | Path], directory: Path, *, expected: int = 0) -> str:
    """Return the output of the command; assert its exit code. Our own environment's settings are removed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON", "COV"))}
    done = subprocess.run(command, cwd=directory, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == expected, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the built wheel with its extra `[pytest]`."""
    home = tmp_path_factory.mktemp("example")
    run([sys.executable, "-m", "venv", "--without-pip", home / "environment"], home)
    python = home / "environment" / PYTHON
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check"]
    wheel = Path(os.environ.get("OXYGENT_CLIENT_WHEEL", ""))
    if not wheel.is_file():  # outside of nox
        run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", home, ROOT], home)
        (wheel,) = home.glob("*.whl")
    run([*pip, "install", "--no-compile", f"oxygent-client[pytest] @ {wheel.resolve().as_uri()}"], home)
    return python


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the example project."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "project", ignore=NOT_OURS))


@pytest.mark.slow
def test_it_passes_offline(python: Path, project: Path) -> None:
    """Its tests pass without a network, with its own cassette."""
    said = run([python, *PYTEST, "-rA"], project)
    assert "oxygent: network forbid, record none" in said
    assert len(re.findall(r"^PASSED ", said, re.MULTILINE)) == 3
    assert re.search(r"^=+ 3 passed in ", said, re.MULTILINE)
    where = run([python, "-c", "import oxygent_client; print(oxygent_client.__file__)"], project)
    assert Path(where.strip()).is_relative_to(python.parent.parent)


@pytest.mark.slow
def test_the_network_guard(python: Path, project: Path) -> None:
    """A test added to it that opens a connection is refused with the address."""
    (project / "tests" / "test_out.py").write_text(
        "import socket\n\n\ndef test_out():\n    socket.create_connection(('198.51.100.7', 443), 1)\n", encoding="utf-8"
    )
    said = run([python, *PYTEST, "tests/test_out.py"], project, expected=pytest.ExitCode.TESTS_FAILED)
    assert "may not reach '198.51.100.7'" in said


@pytest.mark.slow
def test_without_its_cassette(python: Path, project: Path) -> None:
    """Without its cassette the error has the command to record one."""
    shutil.rmtree(project / "tests" / "cassettes")
    said = run([python, *PYTEST, "tests/test_trips.py"], project, expected=pytest.ExitCode.TESTS_FAILED)
    assert "pytest --oxygent-record=once 'tests/test_trips.py::test_a_trip_to_lisbon'" in said


@pytest.mark.slow
def test_all_examples_run_with_the_wheel(python: Path, tmp_path: Path) -> None:
    """One command runs all examples: programs, code blocks, and this project."""
    examples = shutil.copytree(EXAMPLE.parent, tmp_path / "examples", ignore=NOT_OURS)
    said = run([python, examples / "run_all.py"], tmp_path)
    assert re.fullmatch(r"(\d+) of \1 passed", said.splitlines()[-1])


def test_module_length() -> None:
    """Each module has at most a page."""
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in EXAMPLE.rglob("*.py")}
    assert lengths
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_each_module_is_run() -> None:
    """Each module is a test file or imported by one."""
    texts = {path.relative_to(EXAMPLE).as_posix(): path.read_text(encoding="utf-8") for path in EXAMPLE.rglob("*.py")}
    found = {name for name in texts if re.search(r"(^|/)(conftest|test_\w+)\.py$", name)}
    imported = set(re.findall(r"^(?:from|import) (\w+)", "\n".join(texts[name] for name in found), re.MULTILINE))
    assert {name for name in texts if Path(name).stem in imported} == texts.keys() - found
