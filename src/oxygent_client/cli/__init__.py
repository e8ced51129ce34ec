"""The command `oxygent-client`.

Rule 1: it uses only public names, as any program would.
Rule 2: it needs the extra `[cli]` (typer, rich, uvicorn); without it, one line tells what to install.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

__all__ = ["main"]

_EXTRA = ("typer", "rich")


def _load() -> Callable[[Sequence[str] | None], int]:
    from oxygent_client.cli._app import run

    return run


def main(
    argv: Sequence[str] | None = None, *, load: Callable[[], Callable[[Sequence[str] | None], int]] = _load
) -> int:
    """Run the command line `argv` (None: `sys.argv`) and return its exit code."""
    try:
        run = load()
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        sys.stderr.write(f"oxygent-client: needs {error.name}: pip install 'oxygent-client[cli]'\n")
        return 2
    return run(argv)
