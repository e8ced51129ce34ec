"""Advice for errors on the command line, and their exit codes.

Rule: every error class of `oxygent_client.errors` has a line in ADVICE; the first match counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from oxygent_client import errors
from oxygent_client.cli._exit_codes import BROKEN, FAILED, LATE, REFUSED, UNEXPECTED, UNREACHABLE, USAGE


@frozen
class Advice:
    """The exit code and the advice for errors of a class."""

    error: type[errors.OxyError]
    code: int
    text: str


ADVICE: Sequence[Advice] = (
    Advice(errors.InsecureTransportError, USAGE, "Use https://, or remove the credentials."),
    Advice(errors.UnknownCalleeError, USAGE, "Run `oxygent-client tree URL` to see the agents' names."),
    Advice(errors.ConfigurationError, USAGE, "See `oxygent-client COMMAND --help`."),
    Advice(errors.TLSError, UNREACHABLE, "Check the certificate, the host name and the clock."),
    Advice(errors.ConnectError, UNREACHABLE, "Check that the server is running, and check host and port."),
    Advice(errors.NoHealthyReplicaError, UNREACHABLE, "Try again later."),
    Advice(errors.RedirectError, REFUSED, "Use the redirect's target as the URL, if you trust it."),
    Advice(
        errors.AuthenticationError, REFUSED, "Pass credentials: --token-env VARIABLE, --header @FILE or --profile NAME."
    ),
    Advice(errors.PermissionDeniedError, REFUSED, "The credentials lack permission; ask the operator of the server."),
    Advice(errors.NotFoundError, REFUSED, "Use the server's root URL, without /sse/chat."),
    Advice(errors.RateLimitedError, REFUSED, "Try again later."),
    Advice(errors.StatusError, REFUSED, "See the server's log."),
    Advice(errors.EnvelopeError, REFUSED, "See the server's log."),
    Advice(errors.DeadlineExceededError, LATE, "Increase --timeout."),
    Advice(errors.UnconfirmedError, LATE, "The run has ended; see the server's log for its result."),
    Advice(errors.OxyTimeoutError, LATE, "The agent may have crashed; see the server's log."),
    Advice(errors.NotAnEventStreamError, BROKEN, "Check that the URL is the root of an OxyGent server."),
    Advice(errors.NoAnswerError, FAILED, "The agent ended without an answer; see the server's log."),
    Advice(errors.TooLargeError, BROKEN, "Ask for less, or raise Limits in a program of your own."),
    Advice(errors.RemoteProtocolError, BROKEN, "The agent may have run; check the server before you repeat the query."),
    Advice(errors.ConnectionLostError, BROKEN, "The agent may have run; check the server before you repeat the query."),
    Advice(errors.RemoteAgentError, FAILED, "See the server's log."),
    Advice(errors.OxyError, UNEXPECTED, "Use --debug to see the traceback."),
)


def advice_for(error: errors.OxyError) -> Advice:
    """Return the first line of the table that matches the error."""
    return next(advice for advice in ADVICE if isinstance(error, advice.error))
