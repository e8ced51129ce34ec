"""Runs all that lies beside it, and says how it went: `python docs/examples/run_all.py`.

A program prints what its docstring says, a directory with a `harness.py` holds what that runs, and a project has tests.
What is none of these is run by nobody, and that is a failure.
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
"""The programs; each runs by itself, too."""
EXTRA = ("pytest", "uvicorn")
"""What the tests of a project need: the extra `[pytest]`."""


def expected(example: Path) -> str:
    """What its docstring says that it prints, with the toy remote."""
    said = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8"))) or ""
    return textwrap.dedent(said.partition("Prints:\n")[2]) + "\n"


def run(program: Path) -> tuple[str, bool]:
    """What it prints, and whether it ended well."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        try:
            runpy.run_path(str(program), run_name="__main__")
        except SystemExit as exc:
            return printed.getvalue(), not exc.code
        except Exception:  # noqa: BLE001  (the others are run all the same)
            traceback.print_exc(file=printed)
            return printed.getvalue(), False
    return printed.getvalue(), True


def test(project: Path) -> tuple[str, bool]:
    """What its tests print, and whether they pass; they have a process of their own, as it has settings of its own."""
    words = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(words, cwd=project, capture_output=True, text=True, check=False)  # noqa: S603  (our own tests)
    return done.stdout + done.stderr, done.returncode == 0


def outcome(entry: Path) -> tuple[str, str]:
    """What it prints, and what came of it: `went well`, `skipped`, `printed something else` or `failed`."""
    if entry in EXAMPLES:
        printed, ended = run(entry)
        if ended and printed != expected(entry):  # a server of one's own may say what it likes
            return printed, "printed something else" if "OXYGENT_URL" in os.environ else "failed"
    elif (entry / "harness.py").is_file():
        printed, ended = run(entry / "harness.py")
    elif (entry / "pyproject.toml").is_file():
        if not all(importlib.util.find_spec(name) for name in EXTRA):
            return "its tests need the extra [pytest]\n", "skipped"
        printed, ended = test(entry)
    else:
        return "nobody runs it\n", "failed"
    return printed, "went well" if ended else "failed"


def main() -> int:
    """How many failed."""
    outcomes: dict[str, list[str]] = {"went well": []}
    for entry in ENTRIES:
        printed, what = outcome(entry)
        print(f"--- {entry.name}\n{printed}")
        outcomes.setdefault(what, []).append(entry.name)
    others = "".join(f"; {what}: {' '.join(names)}" for what, names in outcomes.items() if what != "went well")
    print(f"{len(outcomes['went well'])} of {len(ENTRIES)} went well{others}")
    return len(outcomes.get("failed", []))


if __name__ == "__main__":
    sys.exit(main())
