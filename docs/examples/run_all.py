"""Run all examples in this directory and report the results: `python docs/examples/run_all.py`.

A program must print the output in its docstring; a directory with a `harness.py` is run by it, a project by its
tests. Anything else is a failure, so that no file goes unchecked.
"""

import ast
import importlib.util
import io
import os
import runpy
import subprocess
import sys
import textwrap
import traceback
from contextlib import redirect_stdout
from pathlib import Path

HERE = Path(__file__).parent
ENTRIES = sorted(path for path in HERE.iterdir() if path != Path(__file__) and path.name[0] not in "._")
EXAMPLES = [path for path in ENTRIES if path.suffix == ".py"]
"""The programs; each also runs alone."""
EXTRA = ("pytest", "uvicorn")
"""Required by the tests of a project: the extra `[pytest]`."""


def expected(example: Path) -> str:
    """The output in its docstring, with the toy server."""
    said = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8"))) or ""
    return textwrap.dedent(said.partition("Prints:\n")[2]) + "\n"


def run(program: Path) -> tuple[str, bool]:
    """Run it; return its output, and whether it succeeded."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        try:
            runpy.run_path(str(program), run_name="__main__")
        except SystemExit as exc:
            return printed.getvalue(), not exc.code
        except Exception:  # noqa: BLE001  (run the others too)
            traceback.print_exc(file=printed)
            return printed.getvalue(), False
    return printed.getvalue(), True


def test(project: Path) -> tuple[str, bool]:
    """Run its tests in a process of their own; return their output, and whether they passed."""
    words = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(words, cwd=project, capture_output=True, text=True, check=False)  # noqa: S603  (our own tests)
    return done.stdout + done.stderr, done.returncode == 0


def outcome(entry: Path) -> tuple[str, str]:
    """Its output and its result: `passed`, `skipped`, `printed something else` or `failed`."""
    if entry in EXAMPLES:
        printed, ended = run(entry)
        if ended and printed != expected(entry):  # a server of yours may answer differently
            return printed, "printed something else" if "OXYGENT_URL" in os.environ else "failed"
    elif (entry / "harness.py").is_file():
        printed, ended = run(entry / "harness.py")
    elif (entry / "pyproject.toml").is_file():
        if not all(importlib.util.find_spec(name) for name in EXTRA):
            return "its tests need the extra [pytest]\n", "skipped"
        printed, ended = test(entry)
    else:
        return "not an example: no program, harness or project\n", "failed"
    return printed, "passed" if ended else "failed"


def main() -> int:
    """Run all of them; return the number of failures."""
    outcomes: dict[str, list[str]] = {"passed": []}
    for entry in ENTRIES:
        printed, what = outcome(entry)
        print(f"--- {entry.name}\n{printed}")
        outcomes.setdefault(what, []).append(entry.name)
    others = "".join(f"; {what}: {' '.join(names)}" for what, names in outcomes.items() if what != "passed")
    print(f"{len(outcomes['passed'])} of {len(ENTRIES)} passed{others}")
    return len(outcomes.get("failed", []))


if __name__ == "__main__":
    sys.exit(main())
