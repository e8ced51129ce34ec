"""Explain errors on the command line: one line with advice, and an exit code.

Rule 1: every error class of `oxygent_client.errors` finds its line in REMEDIES; the first that fits counts.
Rule 2: the numbers are documented (`oxygent-client --help`) and do not change.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from oxygent_client import errors
from oxygent_client.cli._terminal_text import line

__all__ = [
    "EXIT_CODES",
    "INTERRUPTED",
    "PIPE_CLOSED",
    "REMEDIES",
    "UNEXPECTED",
    "USAGE",
    "Remedy",
    "complaint",
    "remedy_of",
]

UNEXPECTED, USAGE, UNREACHABLE, REFUSED, LATE, BROKEN, FAILED = range(1, 8)
INTERRUPTED, PIPE_CLOSED = 130, 141  # as a shell reports SIGINT and SIGPIPE

EXIT_CODES: Sequence[tuple[int, str]] = (
    (0, "the remote answered"),
    (UNEXPECTED, "something nobody foresaw"),
    (USAGE, "the command or its options are wrong"),
    (UNREACHABLE, "no connection"),
    (REFUSED, "the server refused"),
    (LATE, "a time-out"),
    (BROKEN, "the stream broke, or is none"),
    (FAILED, "the remote agent failed, or gave no answer"),
    (INTERRUPTED, "Ctrl-C; the remote run is stopped too"),
    (PIPE_CLOSED, "the reader of the output has left"),
)


@frozen
class Remedy:
    """For errors of this class: the exit code, and what to do."""

    error: type[errors.OxyError]
    code: int
    advice: str


REMEDIES: Sequence[Remedy] = (
    Remedy(errors.InsecureTransportError, USAGE, "Use https://, or leave the credentials out."),
    Remedy(errors.UnknownCalleeError, USAGE, "`oxygent-client tree URL` shows the names there are."),
    Remedy(errors.ConfigurationError, USAGE, "`oxygent-client ask --help` shows what goes where."),
    Remedy(errors.TLSError, UNREACHABLE, "Check the certificate, the host name and the clock."),
    Remedy(errors.ConnectError, UNREACHABLE, "Is the server running, and are host and port right?"),
    Remedy(errors.NoHealthyReplicaError, UNREACHABLE, "Wait a little and try again."),
    Remedy(errors.RedirectError, REFUSED, "Use the address that the server points to, if you trust it."),
    Remedy(
        errors.AuthenticationError, REFUSED, "Give credentials: --token-env VARIABLE, --header @FILE or --profile NAME."
    ),
    Remedy(errors.PermissionDeniedError, REFUSED, "These credentials do not allow it; ask who runs the server."),
    Remedy(errors.NotFoundError, REFUSED, "Give the server's root URL, without /sse/chat."),
    Remedy(errors.RateLimitedError, REFUSED, "Wait a little and try again."),
    Remedy(errors.StatusError, REFUSED, "The server's log says more."),
    Remedy(errors.EnvelopeError, REFUSED, "The server's log says more."),
    Remedy(errors.DeadlineExceededError, LATE, "Allow more with --timeout."),
    Remedy(errors.UnconfirmedError, LATE, "The run is over; the server's log says how it ended."),
    Remedy(errors.OxyTimeoutError, LATE, "The agent may have died; the server's log says more."),
    Remedy(errors.NotAnEventStreamError, BROKEN, "Something else answers there; is it an OxyGent server's root URL?"),
    Remedy(errors.NoAnswerError, FAILED, "The agent ended without a word; the server's log says more."),
    Remedy(errors.TooLargeError, BROKEN, "Ask for less, or raise the Limits in a program of your own."),
    Remedy(errors.RemoteProtocolError, BROKEN, "The agent may have run; look at the server before asking again."),
    Remedy(errors.ConnectionLostError, BROKEN, "The agent may have run; look at the server before asking again."),
    Remedy(errors.RemoteAgentError, FAILED, "The server's log says more."),
    Remedy(errors.OxyError, UNEXPECTED, "--debug shows where it happened."),
)


def remedy_of(error: errors.OxyError) -> Remedy:
    """The line of the table that fits the error."""
    return next(remedy for remedy in REMEDIES if isinstance(error, remedy.error))


def complaint(text: str, advice: str) -> str:
    """The one line that is shown."""
    said = line(text) or "no reason given"
    return f"oxygent-client: {said}{'' if said.endswith(('.', '!', '?')) else '.'} {advice}\n"
