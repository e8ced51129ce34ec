"""The command `report`: a page of HTML about a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import oxygent_client
from oxygent_client.cli._detached import trace_of_record
from oxygent_client.cli._options import Connection, Seconds, command, write

if TYPE_CHECKING:
    from oxygent_client import Trace
    from oxygent_client.testing import Entry

SHOWN = 10
"""Runs of a cassette that an error names."""


@command
def report(
    words: Annotated[
        list[str],
        typer.Argument(
            help="RUN: a file (a recording of `record`, or the output of `lookup --json`), the trace id of a run, or"
            " the token of a detached one. URL: the server of a trace id, as for `ask`.",
            metavar="[URL] RUN",
            show_default=False,
        ),
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write (default: stdout).", metavar="FILE", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    run: Annotated[
        int | None,
        typer.Option("--run", help="Which run of a recording, counted from 1.", min=1, metavar="N", show_default=False),
    ] = None,
    timeout: Seconds = None,
    connection: Connection,
) -> int:
    """Make a page of HTML about a run: its calls, a timeline, arguments, outputs and errors.

    The page needs no network. It is as confidential as the run.
    """
    if len(words) == 1 and Path(words[0]).is_file():
        trace = _trace_of_file(Path(words[0]), run)
    else:
        trace = trace_of_record(words, connection, timeout)
    page = trace.report()
    if output is None:
        write(page)
    else:
        _save(page, output, force=force)
    return 0


def _trace_of_file(path: Path, number: int | None) -> Trace:
    """Return the trace in a file: JSON of a trace, or run `number` of a cassette."""
    from oxygent_client import Trace
    from oxygent_client.cli._terminal_text import line
    from oxygent_client.testing import Cassette

    text = path.read_text(encoding="utf-8", errors="replace")
    if not text.startswith('{"cassette"'):
        return Trace.from_json(text)
    runs = [entry for entry in Cassette.loads(text).entries if _has_stream(entry)]
    if number is None and len(runs) == 1:
        number = 1
    if number is None or number > len(runs):
        names = ", ".join(f"{place} {line(entry.query)[:60]!r}" for place, entry in enumerate(runs[:SHOWN], start=1))
        raise oxygent_client.errors.ConfigurationError(
            f"--run must be the number of a run of {path}: {names or 'it holds none'}"
        )
    return runs[number - 1].trace()


def _has_stream(entry: Entry) -> bool:
    """Whether this is an exchange of a run, other than the start of a detached one."""
    return entry.purpose in ("run", "attach") and not entry.path.endswith("/async/chat")


def _save(page: str, path: Path, *, force: bool) -> None:
    """Write a file. A new one is readable by its owner only; an existing one keeps its mode."""
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    try:
        with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(page)
    except FileExistsError as error:
        raise oxygent_client.errors.ConfigurationError(
            f"--output: the file {path} exists; use --force to replace it"
        ) from error
    except OSError as error:
        raise oxygent_client.errors.ConfigurationError(
            f"--output: the file {path} cannot be written: {error.strerror}"
        ) from error
