"""Errors as a client sees them: a status, a code and a text, by the outcome of the run.

Rule 1: if the agent may have run, the status is 424, which HTTP clients do not retry; a client that retries would run
    the agent twice.
Rule 2: a text for a client names no server, path or setting of this side. Only the text of an agent's own failure, and
    of an invalid argument, is passed on; the log has the rest.
Rule 3: any other exception, such as a fault of this program or of a hook, is an error of its request alone: its client
    is told of an unexpected error, and the log has the exception.
"""

from __future__ import annotations

import logging
from typing import Final

import attrs

from oxygent_client import Outcome, OxyError, errors

_logger: Final = logging.getLogger("oxygent_client.serve")

MAY_HAVE_RUN: Final = 424
"""Failed Dependency: the status of a failed run that may have started. No common HTTP client retries it."""


@attrs.frozen(kw_only=True)
class Failure:
    """One error, for a protocol to put into its own shape."""

    status: int
    """The HTTP status."""
    code: str
    """A stable name of the error, such as `agent_failed`."""
    message: str
    """A text for people."""
    param: str = ""
    """The member of the request that is wrong; empty if none is."""
    outcome: Outcome = Outcome.NOT_SENT
    """Whether the agent ran."""
    retryable: bool = False
    """Whether the same request may succeed later, and surely runs the agent only once."""
    retry_after: float | None = None
    """Seconds to wait before a retry."""
    trace_id: str = ""
    """The trace id of the run; empty if there was none."""

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers that go with it."""
        headers = {"x-should-retry": "true" if self.retryable else "false"}
        if self.retry_after is not None:
            headers["retry-after"] = f"{max(1, round(self.retry_after))}"
        if self.trace_id:
            headers["x-request-id"] = self.trace_id
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


class Refused(Exception):
    """A request that is refused here; `failure` says why."""

    failure: Failure

    def __init__(self, status: int, code: str, message: str, *, param: str = "", retry_after: float | None = None):
        self.failure = Failure(
            status=status,
            code=code,
            message=message,
            param=param,
            retryable=retry_after is not None,
            retry_after=retry_after,
        )
        super().__init__(message)


@attrs.frozen
class _Row:
    """What a client is told about errors of a class."""

    error: type[OxyError]
    status: int
    """The status if nothing ran."""
    code: str
    text: str
    """The message; empty for the error's own."""


_ROWS: Final = (
    # the first match counts
    _Row(errors.UnknownCalleeError, 404, "agent_not_found", "there is no such agent"),
    _Row(errors.PayloadError, 400, "invalid_request", ""),
    _Row(errors.ConfigurationError, 500, "misconfigured", "this gateway is not configured correctly"),
    _Row(errors.RateLimitedError, 429, "rate_limited", "the agent's server limits the rate of requests"),
    _Row(errors.ConnectError, 503, "unreachable", "the agent's server cannot be reached"),
    _Row(errors.NoHealthyReplicaError, 503, "unreachable", "the agent's server cannot be reached"),
    _Row(errors.DeadlineExceededError, 504, "timeout", "the run took too long"),
    _Row(errors.UnconfirmedError, 504, "unconfirmed", "the agent's server did not confirm the answer"),
    _Row(errors.OxyTimeoutError, 504, "timeout", "the agent's server stopped sending"),
    _Row(errors.RemoteAgentError, 502, "agent_failed", ""),
    _Row(errors.NoAnswerError, 502, "no_answer", "the agent ended without an answer"),
    _Row(errors.IncompleteStreamError, 502, "cut", "the run was cut off before its end"),
    _Row(errors.ConnectionLostError, 502, "cut", "the connection to the agent's server broke"),
    _Row(errors.TooLargeError, 502, "too_large", "the agent sent more than this gateway accepts"),
    _Row(errors.ServerError, 503, "server_error", "the agent's server failed"),
    _Row(errors.StatusError, 502, "server_error", "the agent's server refused the request"),
    _Row(OxyError, 502, "failed", "the run failed"),
)
INTERNAL: Final = Failure(
    status=500, code="internal_error", message="unexpected error of this gateway", outcome=Outcome.UNKNOWN
)


def failure_of(error: Exception) -> Failure:
    """Return what a client is told about an error. One that is not expected is logged."""
    if isinstance(error, Refused):
        return error.failure
    if not isinstance(error, OxyError):
        _logger.error("unexpected error", exc_info=error)
        return INTERNAL
    if isinstance(error, errors.HandlerError):
        _logger.error("run %s: a hook failed", error.trace_id, exc_info=error)
    row = next(row for row in _ROWS if isinstance(error, row.error))
    return Failure(
        status=MAY_HAVE_RUN if error.outcome.may_have_run else row.status,
        code=row.code,
        message=row.text or str(error),
        outcome=error.outcome,
        retryable=error.retryable,
        retry_after=getattr(error, "retry_after", None),
        trace_id=error.trace_id,
    )
