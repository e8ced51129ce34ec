"""Exit codes, and the line that reports an error.

Rule: exit codes are documented (`oxygent-client --help`) and do not change.
"""

from __future__ import annotations

from collections.abc import Sequence

UNEXPECTED, USAGE, UNREACHABLE, REFUSED, LATE, BROKEN, FAILED, UNHEALTHY = range(1, 9)
NOT_ENDED = 75  # EX_TEMPFAIL of sysexits.h: try again later
INTERRUPTED, PIPE_CLOSED = 130, 141  # as a shell reports SIGINT and SIGPIPE

EXIT_CODES: Sequence[tuple[int, str]] = (
    (0, "the run completed"),
    (UNEXPECTED, "unexpected error"),
    (USAGE, "invalid command, option or configuration"),
    (UNREACHABLE, "no connection to the server"),
    (REFUSED, "the server refused the request"),
    (LATE, "time-out"),
    (BROKEN, "the event stream broke or is invalid"),
    (FAILED, "the remote agent failed or gave no answer"),
    (UNHEALTHY, "`doctor` found an error"),
    (NOT_ENDED, "the run has not ended yet (`lookup`)"),
    (INTERRUPTED, "interrupted (Ctrl-C); the remote run is stopped too, unless it is detached"),
    (PIPE_CLOSED, "broken pipe: the reader of the output has closed it"),
)


def error_line(text: str, advice: str) -> str:
    """Return the line to print for an error."""
    from oxygent_client.cli._terminal_text import line

    shown = line(text) or "no reason given"
    return f"oxygent-client: {shown}{'' if shown.endswith(('.', '!', '?')) else '.'} {advice}".rstrip() + "\n"
