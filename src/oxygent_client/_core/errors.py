"""The error classes and `Outcome`.

```
OxyError(Exception)
├── ConfigurationError(ValueError)          the call is wrong; nothing was sent
│   ├── InsecureTransportError
│   ├── PayloadError
│   ├── UnknownCalleeError
│   └── UnknownNodeError
├── ConnectError(ConnectionError)           no connection; nothing was sent         (ClientError is an alias)
│   ├── TLSError
│   └── ConnectTimeoutError                 an OxyTimeoutError too
├── ConnectionLostError(ConnectionError)    the connection broke before the answer's headers
├── OxyTimeoutError(TimeoutError)
│   ├── SilenceTimeoutError                 no bytes, although the server had sent heartbeats
│   ├── IdleTimeoutError                    no event, perhaps heartbeats
│   ├── DeadlineExceededError               the whole call took too long
│   └── UnconfirmedError                    an answer that no record confirmed, with `confirm_state=True`
├── StatusError                             .status .body .retry_after
│   ├── RedirectError                       3xx
│   ├── AuthenticationError                 401
│   ├── PermissionDeniedError               403
│   ├── NotFoundError                       404
│   ├── RateLimitedError                    429
│   └── ServerError                         5xx
├── RemoteProtocolError                     the response violates the protocol
│   ├── NotAnEventStreamError
│   ├── EnvelopeError                       .code: an error inside an HTTP 200
│   ├── MalformedResponseError
│   ├── TooLargeError
│   ├── IncompleteStreamError               the stream ended without its close event
│   └── NoAnswerError                       the stream ended properly, without an answer event
├── RemoteAgentError                        .state .output: the remote agent failed
├── HandlerError                            your handler, provider or `send_message` raised; see `__cause__`
├── NoHealthyReplicaError
└── ClosedError                             used after it was closed, or before it was opened
```

Rule 1: every error is an `OxyError`, and also the built-in error that a caller would catch.
Rule 2: an error of a library is never raised; it is the `__cause__`.
Rule 3: every error tells whether the agent ran (`outcome`) and whether the same call may be retried (`retryable`).
Rule 4: every error pickles. Its text holds no secret, is bounded, and is escaped for terminals and logs, since it may
    quote the remote.
"""

from __future__ import annotations

import enum
from typing import Any, Final

from oxygent_client._core.events import OxyState, Partial, ServerSentEvent
from oxygent_client._core.text import escape_text

__all__ = [
    "AuthenticationError",
    "ClientError",
    "ClosedError",
    "ConfigurationError",
    "ConnectError",
    "ConnectTimeoutError",
    "ConnectionLostError",
    "DeadlineExceededError",
    "EnvelopeError",
    "HandlerError",
    "IdleTimeoutError",
    "IncompleteStreamError",
    "InsecureTransportError",
    "MalformedResponseError",
    "NoAnswerError",
    "NoHealthyReplicaError",
    "NotAnEventStreamError",
    "NotFoundError",
    "Outcome",
    "OxyError",
    "OxyTimeoutError",
    "Partial",
    "PayloadError",
    "PermissionDeniedError",
    "RateLimitedError",
    "RedirectError",
    "RemoteAgentError",
    "RemoteProtocolError",
    "ServerError",
    "SilenceTimeoutError",
    "StatusError",
    "TLSError",
    "TooLargeError",
    "UnconfirmedError",
    "UnknownCalleeError",
    "UnknownNodeError",
]


TEXT: Final = 2000
"""Limit of an error's text, in characters."""


class Outcome(enum.StrEnum):
    """Whether the agent ran at the remote, as far as known."""

    NOT_SENT = "not_sent"
    """The request was not sent: no agent ran."""
    REJECTED = "rejected"
    """The server refused the request before an agent ran."""
    UNKNOWN = "unknown"
    """The request may have arrived; an agent may have run."""
    STARTED = "started"
    """An agent started; its end was not received."""
    COMPLETED = "completed"
    """The run ended."""

    @property
    def may_have_run(self) -> bool:
        """Whether an agent may have run; if not, the run surely did not start."""
        return self not in {Outcome.NOT_SENT, Outcome.REJECTED}


class OxyError(Exception):
    """Base class of all errors of this package.

    `str(error)` is one sentence that describes the problem. The attributes are set as far as they are known.
    """

    default_outcome = Outcome.UNKNOWN
    has_lines = False
    """Whether the text of the error may have several lines; it is one line otherwise."""
    transient = False
    """True if the cause may pass by waiting. An error is retryable if it is transient and the run did not start."""

    outcome: Outcome
    """Whether the agent ran. Failover to another server depends on this alone."""
    trace_id: str
    """The caller's trace id; empty if there was none yet."""
    server_url: str
    """The server's base URL, without user information and query."""
    attempts: int
    """How many attempts were made to send the request."""
    partial: Partial | None
    """The last events, the text and the answer received before the error; None if no stream was open."""

    def __init__(
        self,
        message: str = "",
        *,
        outcome: Outcome | None = None,
        trace_id: str = "",
        server_url: str = "",
        attempts: int = 1,
        partial: Partial | None = None,
    ) -> None:
        super().__init__(escape_text(message, TEXT, lines=self.has_lines))
        self.outcome = self.default_outcome if outcome is None else outcome
        self.trace_id = trace_id
        self.server_url = server_url
        self.attempts = attempts
        self.partial = partial

    @property
    def retryable(self) -> bool:
        """True if the same call may be retried soon: surely no agent ran, and the cause may pass."""
        return self.transient and not self.outcome.may_have_run

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with `args` alone; subclasses have further parameters.
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(cls: type[OxyError], args: tuple[Any, ...], state: dict[str, Any]) -> OxyError:
    """Restore a pickled error without calling its `__init__`."""
    error = cls.__new__(cls)
    error.args = args  # `OSError.__new__` leaves them to `__init__`
    error.__dict__.update(state)
    return error


# --- the call is wrong ------------------------------------------------------------------------------------------------


class ConfigurationError(OxyError, ValueError):
    """An argument is wrong, or cannot be combined with another. Nothing was sent; change the call."""

    default_outcome = Outcome.NOT_SENT


class InsecureTransportError(ConfigurationError):
    """The call, or a credential in it, must not go over plain http. Use https, or allow the host."""


class PayloadError(ConfigurationError):
    """The payload cannot be built: an argument has a reserved name, or is not JSON. The text names the key."""


class UnknownCalleeError(ConfigurationError):
    """The remote has no agent of the callee's name. Use one of the names in the text, or leave `callee` out."""


class UnknownNodeError(ConfigurationError):
    """The server's record has no such call, or the call cannot be restarted; the text has the reason.

    A server that is asked to restart a call that it does not have never answers, or runs everything again. Use the ids
    of `lookup`.
    """


# --- the connection ---------------------------------------------------------------------------------------------------


class ConnectError(OxyError, ConnectionError):
    """No connection could be made (refused, unknown host, proxy). Nothing was sent; it is safe to retry."""

    default_outcome = Outcome.NOT_SENT
    transient = True


ClientError = ConnectError
"""Alias for code written for aiohttp, with `errors as aiohttp`: it retries on `aiohttp.ClientError`. A run that may
have started raises other errors, so such code does not repeat it."""


class TLSError(ConnectError):
    """The TLS handshake failed; the text has the reason (self-signed, expired, wrong host). A retry will not help."""

    transient = False


class ConnectionLostError(OxyError, ConnectionError):
    """The connection broke after the request was sent and before the response headers.

    An agent may have run, so retry only an idempotent call.
    """

    transient = True


# --- time-outs --------------------------------------------------------------------------------------------------------


class OxyTimeoutError(OxyError, TimeoutError):
    """A time-out; the class says which. The connection is closed, which stops the remote run unless it is detached."""


class ConnectTimeoutError(OxyTimeoutError, ConnectError):
    """No connection within `Timeouts.connect`. Nothing was sent; it is safe to retry."""

    default_outcome = Outcome.NOT_SENT
    transient = True


class SilenceTimeoutError(OxyTimeoutError):
    """No bytes within `Timeouts.silence` from a server that sent heartbeats: the server or the network is down."""


class IdleTimeoutError(OxyTimeoutError):
    """No event within `Timeouts.idle`; heartbeats do not count. The agent died, or is slow: raise the time-out."""


class DeadlineExceededError(OxyTimeoutError):
    """The whole call took longer than `Timeouts.total`, or a lookup longer than its 30 s."""


class UnconfirmedError(OxyTimeoutError):
    """With `confirm_state=True`: no record confirmed the answer within `Timeouts.confirm`, or there are no records.

    The run is over; its answer is `partial.answer`. `lookup` may return its record later.
    """

    default_outcome = Outcome.COMPLETED


# --- HTTP status ------------------------------------------------------------------------------------------------------


class StatusError(OxyError):
    """The server answered with a status other than 200."""

    status: int
    """The HTTP status code."""
    body: str
    """The beginning of the response body, for display."""
    retry_after: float | None
    """Seconds to wait before a retry, from `Retry-After`; None without one."""

    def __init__(
        self, message: str = "", *, status: int = 0, body: str = "", retry_after: float | None = None, **known: Any
    ) -> None:
        super().__init__(message, **known)
        self.status = status
        self.body = body
        self.retry_after = retry_after


class RedirectError(StatusError):
    """A redirect (3xx) that is not followed. Use the URL that it names, if you trust it."""

    default_outcome = Outcome.REJECTED


class AuthenticationError(StatusError):
    """401: the credentials are missing or not accepted. Pass `auth=`, or another token."""

    default_outcome = Outcome.REJECTED


class PermissionDeniedError(StatusError):
    """403: the credentials do not allow this. A retry will not help."""

    default_outcome = Outcome.REJECTED


class NotFoundError(StatusError):
    """404: unknown path; `server_url` is probably not the root of an OxyGent server."""

    default_outcome = Outcome.REJECTED


class RateLimitedError(StatusError):
    """429: rate limit of the server. Nothing ran; wait `retry_after` seconds."""

    default_outcome = Outcome.REJECTED
    transient = True


class ServerError(StatusError):
    """5xx. An agent may have run, unless the server sent 503 with a Retry-After."""

    transient = True


# --- the protocol -----------------------------------------------------------------------------------------------------


class RemoteProtocolError(OxyError):
    """The response violates HTTP or the protocol of OxyGent; see `__cause__`, if there is one."""


class NotAnEventStreamError(RemoteProtocolError):
    """A 200 that is not an event stream: a login page, a proxy, or another service at this URL."""


class EnvelopeError(RemoteProtocolError):
    """An error inside an HTTP 200: a JSON envelope instead of a stream."""

    code: int | None
    """The envelope's `code`; None without one."""

    def __init__(self, message: str = "", *, code: int | None = None, **known: Any) -> None:
        super().__init__(message, **known)
        self.code = code


class MalformedResponseError(RemoteProtocolError):
    """A response is not JSON of the expected shape; with `strict=True`, also a message that its schema rejects."""


class TooLargeError(RemoteProtocolError):
    """The response exceeds `Limits`: size, depth or count. Raise the limit if you trust the remote."""

    events: tuple[ServerSentEvent, ...]
    """The complete events in the same chunk, before the limit was exceeded."""

    def __init__(self, message: str = "", *, events: tuple[ServerSentEvent, ...] = (), **known: Any) -> None:
        super().__init__(message, **known)
        self.events = events


class IncompleteStreamError(RemoteProtocolError):
    """The stream ended without its close event: the run was cut off. `partial` has the events before."""


class NoAnswerError(RemoteProtocolError):
    """The stream ended properly, without an answer event: the agent was stopped, or sent nothing."""

    default_outcome = Outcome.COMPLETED


# --- the agent, the user's code, and the rest -------------------------------------------------------------------------


class RemoteAgentError(OxyError):
    """The remote agent failed, according to an error event, the server's record, or your `failure_detector`."""

    default_outcome = Outcome.COMPLETED

    state: OxyState | None
    """FAILED, CANCELED or SKIPPED, if the record or the detector gave a state."""
    output: Any
    """The agent's answer all the same (any JSON); for a failed agent, usually the text of its error."""

    def __init__(self, message: str = "", *, state: OxyState | None = None, output: Any = None, **known: Any) -> None:
        super().__init__(message, **known)
        self.state = state
        self.output = output


class HandlerError(OxyError):
    """Your event handler, event filter, `send_message` or provider raised; `__cause__` is its exception."""


class NoHealthyReplicaError(OxyError):
    """The cluster has no replica at present. Nothing was sent; it is safe to retry later."""

    default_outcome = Outcome.NOT_SENT
    transient = True


class ClosedError(OxyError):
    """An object was used after it was closed, or before it was opened."""

    default_outcome = Outcome.NOT_SENT
