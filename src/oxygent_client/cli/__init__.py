"""The command `oxygent-client`.

Rule 1: an edge. It uses the public package as any program would.
Rule 2: typer, rich and uvicorn are the extra [cli]; without them one line says so, and nothing else needs them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

__all__ = ["main"]

_EXTRA = ("typer", "rich", "uvicorn")


def _load() -> Callable[[Sequence[str] | None], int]:
    from oxygent_client.cli._app import run

    return run


def main(
    argv: Sequence[str] | None = None, *, load: Callable[[], Callable[[Sequence[str] | None], int]] = _load
) -> int:
    """The exit code of the command line `argv`; None reads the process's own."""
    try:
        run = load()
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        sys.stderr.write(f"oxygent-client: needs {error.name}: pip install 'oxygent-client[cli]'\n")
        return 2
    return run(argv)
