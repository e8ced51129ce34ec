"""The error classes and `Outcome`.

```
OxyError(Exception)
├── ConfigurationError(ValueError)          the call is wrong; nothing was sent
│   ├── InsecureTransportError
│   ├── PayloadError
│   └── UnknownCalleeError
├── ConnectError(ConnectionError)           no connection; nothing was sent         (ClientError is an alias)
│   ├── TLSError
│   └── ConnectTimeoutError                 an OxyTimeoutError too
├── ConnectionLostError(ConnectionError)    the connection broke before the answer's headers
├── OxyTimeoutError(TimeoutError)
│   ├── SilenceTimeoutError                 not a byte, though heartbeats had been coming
│   ├── IdleTimeoutError                    bytes perhaps, but no event
│   ├── DeadlineExceededError               the whole call took too long
│   └── UnconfirmedError                    an answer came, and with `confirm_state=True` no record confirmed it
├── StatusError                             .status .body .retry_after
│   ├── RedirectError                       3xx
│   ├── AuthenticationError                 401
│   ├── PermissionDeniedError               403
│   ├── NotFoundError                       404
│   ├── RateLimitedError                    429
│   └── ServerError                         5xx
├── RemoteProtocolError                     the other side does not speak what it should
│   ├── NotAnEventStreamError
│   ├── EnvelopeError                       .code: an error inside an HTTP 200
│   ├── MalformedResponseError
│   ├── TooLargeError
│   ├── IncompleteStreamError               the stream ended without its close event
│   └── NoAnswerError                       the stream closed properly and held no answer
├── RemoteAgentError                        .state .output: the remote agent failed
├── HandlerError                            your handler, provider or `send_message` raised; see `__cause__`
├── NoHealthyReplicaError
└── ClosedError                             used after it was closed, or before it was opened
```

Rules of this file:

1. Every error is an `OxyError`, and the built-in error that a caller would look for as well.
2. An error of a library is never raised to the user: it is the `__cause__`.
3. What is safe to do next is data: `outcome` says what became of the run, `retryable` whether the same call may be made
   again.
4. Every error pickles. No secret is ever in a text, and nothing that a terminal, a log or an encoding would choke on:
   texts quote remote ones, and are bounded and made safe here, for all of them.
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
]


TEXT: Final = 2000
"""How many characters of a text are kept."""


class Outcome(enum.StrEnum):
    """What became of the run at the remote, as far as it is known."""

    NOT_SENT = "not_sent"
    """The request never left: no agent ran."""
    REJECTED = "rejected"
    """The server refused the request before an agent ran."""
    UNKNOWN = "unknown"
    """The request may have arrived; an agent may have run."""
    STARTED = "started"
    """An agent ran, and its end was not seen."""
    COMPLETED = "completed"
    """The run came to its end."""


UNRUN: Final = (Outcome.NOT_SENT, Outcome.REJECTED)
"""The outcomes of a run that surely did not begin."""


class OxyError(Exception):
    """The base of every error of this package.

    `str(error)` is one sentence that says whose fault it is. The attributes say the rest; they are filled in as far as
    they are known where the error is raised.
    """

    default_outcome = Outcome.UNKNOWN
    transient = False
    """True where waiting a little may help. With a run that surely did not start, that makes an error retryable."""

    outcome: Outcome
    """What became of the run. Whether another server may be asked instead hangs on this alone."""
    trace_id: str
    """The caller's trace id; empty where there was none yet."""
    server_url: str
    """The base URL without user information and query."""
    attempts: int
    """How many times the request was sent, or tried."""
    partial: Partial | None
    """What had been received by then; None where no stream was open."""

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
        super().__init__(escape_text(message, TEXT))
        self.outcome = self.default_outcome if outcome is None else outcome
        self.trace_id = trace_id
        self.server_url = server_url
        self.attempts = attempts
        self.partial = partial

    @property
    def retryable(self) -> bool:
        """True if the same call may be made again soon: it surely ran nothing, and the cause may pass."""
        return self.transient and self.outcome in (Outcome.NOT_SENT, Outcome.REJECTED)

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException's own would call the class with `args` alone and lose nothing else only by luck.
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(cls: type[OxyError], args: tuple[Any, ...], state: dict[str, Any]) -> OxyError:
    """An error as it was pickled, made without calling its `__init__`."""
    error = cls.__new__(cls)
    error.args = args  # OSError's own `__new__` leaves them to `__init__`
    error.__dict__.update(state)
    return error


# --- the call is wrong ------------------------------------------------------------------------------------------------


class ConfigurationError(OxyError, ValueError):
    """An argument is wrong or does not go with another. Nothing was sent; change the call."""

    default_outcome = Outcome.NOT_SENT


class InsecureTransportError(ConfigurationError):
    """The call would have gone, or a secret would have travelled, over plain http. Use https, or allow the host."""


class PayloadError(ConfigurationError):
    """The request cannot become a payload: an argument has a reserved name or is no JSON. The text names the key."""


class UnknownCalleeError(ConfigurationError):
    """The remote says that it has nothing of the callee's name. Choose one of those in the text, or leave it out."""


# --- the connection ---------------------------------------------------------------------------------------------------


class ConnectError(OxyError, ConnectionError):
    """No connection could be made (refused, no such host, proxy). Nothing was sent; it is safe to try again."""

    default_outcome = Outcome.NOT_SENT
    transient = True


ClientError = ConnectError
"""What code written for aiohttp catches as `aiohttp.ClientError`: with `errors as aiohttp` it keeps its meaning, and a
run that may have started is never started again by it."""


class TLSError(ConnectError):
    """The TLS handshake failed; the text says why (self-signed, expired, wrong host). Trying again will not help."""

    transient = False


class ConnectionLostError(OxyError, ConnectionError):
    """The connection broke after the request was sent and before the response's headers came.

    An agent may have run, so only an idempotent call may be made again; for that a try may help.
    """

    transient = True


# --- the clocks -------------------------------------------------------------------------------------------------------


class OxyTimeoutError(OxyError, TimeoutError):
    """A clock ran out; the class says which. The connection is closed, which makes the remote stop, unless detached."""


class ConnectTimeoutError(OxyTimeoutError, ConnectError):
    """No connection within `Timeouts.connect`. Nothing was sent; it is safe to try again."""

    default_outcome = Outcome.NOT_SENT
    transient = True


class SilenceTimeoutError(OxyTimeoutError):
    """Not one byte within `Timeouts.silence`, though heartbeats had been coming: the server or the network is gone."""


class IdleTimeoutError(OxyTimeoutError):
    """No event within `Timeouts.idle`; heartbeats do not count. The agent's task may have died, or it is slow."""


class DeadlineExceededError(OxyTimeoutError):
    """The whole call took longer than `Timeouts.total`, or a question to the server longer than the 30 s it has."""


class UnconfirmedError(OxyTimeoutError):
    """With `confirm_state=True`: no record confirmed the answer within `Timeouts.confirm`, or the server keeps none.

    The run is over, and its answer is `partial.answer`; `lookup` may know later how it ended.
    """

    default_outcome = Outcome.COMPLETED


# --- HTTP status ------------------------------------------------------------------------------------------------------


class StatusError(OxyError):
    """The server answered with a status other than 200."""

    status: int
    """The HTTP status code."""
    body: str
    """The beginning of the response's body, for a person to read."""
    retry_after: float | None
    """Seconds to wait before another try, as the server asked; None where it did not."""

    def __init__(
        self, message: str = "", *, status: int = 0, body: str = "", retry_after: float | None = None, **known: Any
    ) -> None:
        super().__init__(message, **known)
        self.status = status
        self.body = body
        self.retry_after = retry_after


class RedirectError(StatusError):
    """The server points elsewhere (3xx) and was not followed. Use the address it names, if you trust it."""

    default_outcome = Outcome.REJECTED


class AuthenticationError(StatusError):
    """401: the server does not accept the credentials, or wants some. Give `auth=`, or another token."""

    default_outcome = Outcome.REJECTED


class PermissionDeniedError(StatusError):
    """403: the server knows who asks, and refuses. Trying again will not help."""

    default_outcome = Outcome.REJECTED


class NotFoundError(StatusError):
    """404: there is no such path; `server_url` is probably not the root of an OxyGent server."""

    default_outcome = Outcome.REJECTED


class RateLimitedError(StatusError):
    """429: too many calls. Nothing ran; wait `retry_after` seconds."""

    default_outcome = Outcome.REJECTED
    transient = True


class ServerError(StatusError):
    """5xx. An agent may have run, unless the server sent 503 with a Retry-After."""

    transient = True


# --- the protocol -----------------------------------------------------------------------------------------------------


class RemoteProtocolError(OxyError):
    """The other side does not speak what it should; `__cause__`, where there is one, says more."""


class NotAnEventStreamError(RemoteProtocolError):
    """The response is a 200, and no event stream: a login page, a proxy, or another service answers at this address."""


class EnvelopeError(RemoteProtocolError):
    """An error inside an HTTP 200: the server answered with a JSON envelope instead of a stream."""

    code: int | None
    """The envelope's `code`; None where it had none."""

    def __init__(self, message: str = "", *, code: int | None = None, **known: Any) -> None:
        super().__init__(message, **known)
        self.code = code


class MalformedResponseError(RemoteProtocolError):
    """A response that should be JSON of a known shape is not; where the agent is `strict`, so is an invalid message."""


class TooLargeError(RemoteProtocolError):
    """What came is larger, deeper or more than `Limits` allows. Raise the limit if the remote is to be trusted."""

    events: tuple[ServerSentEvent, ...]
    """The events that were complete in the same piece of bytes, before the limit was passed."""

    def __init__(self, message: str = "", *, events: tuple[ServerSentEvent, ...] = (), **known: Any) -> None:
        super().__init__(message, **known)
        self.events = events


class IncompleteStreamError(RemoteProtocolError):
    """The stream ended without its close event: the run was cut off. `partial` holds what came until then."""


class NoAnswerError(RemoteProtocolError):
    """The stream closed as it should and held no answer: the agent was told to stop, or sent nothing."""

    default_outcome = Outcome.COMPLETED


# --- the agent, the user's code, and the rest -------------------------------------------------------------------------


class RemoteAgentError(OxyError):
    """The remote agent failed: it said so, or the server's record of the run, or your `failure_detector`."""

    default_outcome = Outcome.COMPLETED

    state: OxyState | None
    """FAILED, CANCELED or SKIPPED, where the server's record or your detector said so."""
    output: Any
    """What the agent gave as its answer all the same (any JSON); for a failed one, usually the text of its error."""

    def __init__(self, message: str = "", *, state: OxyState | None = None, output: Any = None, **known: Any) -> None:
        super().__init__(message, **known)
        self.state = state
        self.output = output


class HandlerError(OxyError):
    """Your event handler, event filter, `send_message` or credentials provider raised; `__cause__` is its error."""


class NoHealthyReplicaError(OxyError):
    """No replica may be asked at present. Nothing was sent; it is safe to try again later."""

    default_outcome = Outcome.NOT_SENT
    transient = True


class ClosedError(OxyError):
    """Something was used after it was closed, or before it was opened."""

    default_outcome = Outcome.NOT_SENT
