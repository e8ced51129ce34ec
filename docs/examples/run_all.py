"""Runs every example, and says whether each prints what its docstring says: `python docs/examples/run_all.py`."""

import ast
import io
import os
import runpy
import sys
import textwrap
import traceback
from contextlib import redirect_stdout
from pathlib import Path

HERE = Path(__file__).parent
EXAMPLES = sorted(path for path in HERE.glob("*.py") if path.name != Path(__file__).name)
"""All of them; each runs by itself, too."""


def expected(example: Path) -> str:
    """What its docstring says that it prints, with the toy remote."""
    said = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8"))) or ""
    return textwrap.dedent(said.partition("Prints:\n")[2]) + "\n"


def run(example: Path) -> tuple[str, bool]:
    """What it prints, and whether it came to its end."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        try:
            runpy.run_path(str(example), run_name="__main__")
        except Exception:  # noqa: BLE001  (the others are run all the same)
            traceback.print_exc(file=printed)
            return printed.getvalue(), False
    return printed.getvalue(), True


def main() -> int:
    """How many failed; with the toy remote, printing something else is a failure, too."""
    others: list[str] = []
    failed = 0
    for example in EXAMPLES:
        printed, ended = run(example)
        print(f"--- {example.name}\n{printed}")
        if not ended or printed != expected(example):
            others.append(example.name)
            failed += not ended or "OXYGENT_URL" not in os.environ
    print(f"{len(EXAMPLES) - len(others)} of {len(EXAMPLES)} print what they say" + ":" * bool(others), *others)
    return failed


if __name__ == "__main__":
    sys.exit(main())
