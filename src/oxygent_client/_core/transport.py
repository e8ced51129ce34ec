"""The `Transport` protocol, and the requests and responses that pass through it.

Rule 1: a `Transport` moves bytes; retry, authentication and the like are transports that wrap a transport.
Rule 2: requests and their contexts are frozen; a wrapper that changes one creates a new one.
Rule 3: no repr shows a body, the value of a header, user information or a query.
Rule 4: the frozen classes have their slots from base classes that are not frozen, as in `_core/events`: a copy takes a
    fifth of the time.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from functools import lru_cache
from types import MappingProxyType, TracebackType
from typing import Any, Final, Literal, Protocol, Self, TypeVar, runtime_checkable
from urllib.parse import SplitResult, urlsplit, urlunsplit

import attrs

from oxygent_client._core.errors import ConfigurationError, Outcome, OxyError
from oxygent_client._core.plain_http import PlaintextRules
from oxygent_client._core.sent_secrets import SentSecrets

Purpose = Literal["run", "discover", "attach", "feedback", "health"]


_STREAM_PATH = "/sse/chat"
"""The path of runs, which is added to the base URL."""


def check_url(url: str) -> str:
    """Return `url` if it can be a server's base URL.

    Raises:
        ConfigurationError: it is not http or https, has no host, or has a character that URL parsers read differently:
            a space, a backslash, a second `@` before the host, or one that is not printable; or it is the URL of runs.
    """
    try:
        parts = urlsplit(url)
        well_formed = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        well_formed = well_formed and parts.netloc.count("@") < 2
    except ValueError:
        well_formed = False
    if not well_formed or " " in url or "\\" in url or not url.isprintable():
        raise ConfigurationError("server_url must be an http:// or https:// URL with a host")
    if urlsplit(url).path.rstrip("/").endswith(_STREAM_PATH):
        raise ConfigurationError(f"server_url must be the base URL of the server, without {_STREAM_PATH} at its end")
    return url


MOST_USUAL: Final = 64
_WITHOUT_SECRETS = re.compile(r"https?://[0-9A-Za-z.-]+(?::[0-9]+)?(?:/[0-9A-Za-z._~%/-]*)?")
"""The usual form of a URL, which has no secret parts."""
_usual: Final = set[str]()
"""URLs that have it, of late; none of them has a secret."""


def _is_usual(url: str) -> bool:
    """Whether a URL has the usual form. Each call looks at the same few URLs several times."""
    if url in _usual:
        return True
    if not _WITHOUT_SECRETS.fullmatch(url):
        return False
    if len(_usual) >= MOST_USUAL:
        _usual.clear()
    _usual.add(url)
    return True


def redact_url(url: str) -> str:
    """Remove the secret parts of a URL: only scheme, host, port and path stay."""
    if _is_usual(url):
        return url
    parts = urlsplit(url)
    return urlunsplit(SplitResult(parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?")  # no space at either end: RFC 9110, section 5.5
_is_name: Final[Callable[[str], object]] = lru_cache(maxsize=256)(_NAME.fullmatch)


def _frozen(headers: Mapping[str, str]) -> Mapping[str, str]:
    own = dict(headers)
    try:
        values = " ".join(["", *own.values(), ""])
        is_valid = "  " not in values and values.isascii() and values.isprintable() and all(map(_is_name, own))
    except TypeError:  # `prepare_headers` of a subclass may return anything
        is_valid = False
    if not is_valid:  # or perhaps not: a value may be empty, and hold a tab or two spaces
        for name, value in own.items():
            if not _is_header(name, value):
                raise ConfigurationError(
                    f"the header {str(name)[:60]!r} has a name or a value that HTTP does not allow"
                )
    return MappingProxyType(own)


def _is_header(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, str) and bool(_is_name(name)) and bool(_VALUE.fullmatch(value))


class Claiming(Protocol):
    """Reserves the trace id of a run at each replica that the request goes to, so that no id is in flight twice."""

    def assign(self, request: HTTPRequest, /) -> HTTPRequest:
        """Return `request`, about to be sent to `context.replica`, with a trace id that is free there."""
        ...

    def confirm(self, request: HTTPRequest, /) -> None:
        """Note that the response to `request` is the run's, of several requests that were sent."""
        ...

    def discard(self, request: HTTPRequest, /) -> None:
        """Note that the replica surely ran nothing for `request`."""
        ...


class RunNotifier(Protocol):
    """Passes notifications about one run to its observers."""

    def note(self, event: str, context: Context, fields: Mapping[str, Any]) -> None:
        """Notify the observers of one event in the life of the run."""
        ...


class OutcomeListener(Protocol):
    """Tracks the outcome of a run, attempt by attempt."""

    def __call__(self, outcome: Outcome, /) -> None:
        """Note the outcome after a request was sent (UNKNOWN) or failed."""
        ...

    def waits(self, on: bool, /) -> None:
        """Note that a request waits for its response headers, or no longer does."""
        ...


class _ContextSlots:
    __slots__ = (
        *(
            "__weakref__",
            "attempt",
            "claims",
            "deadline",
            "group_id",
            "https_only",
            "idempotent",
            "node_id",
            "observed",
        ),
        *("outcome", "purpose", "remote_trace_id", "replica", "secret_headers", "sent", "server_url", "trace_id"),
    )


@attrs.frozen(kw_only=True)
class Context(_ContextSlots):
    """Information about a request that wrappers may use. It is not sent."""

    purpose: Purpose = "run"
    """`run` starts a run, `attach` reads a detached one, `discover` is a lookup, `feedback` sends feedback or a file,
    `health` is a health check."""
    trace_id: str = ""
    """The caller's trace id; empty without one."""
    group_id: str = ""
    """The caller's id of the conversation."""
    deadline: float | None = None
    """End of the whole call, by the event loop's clock (`anyio.current_time()`); None for no deadline."""
    remote_trace_id: str = ""
    """The trace id at the server."""
    idempotent: bool = False
    """True if it may be sent twice: nothing runs, or the caller allows that the agent runs twice."""
    node_id: str = ""
    """The caller's node id of the call, for logs and traces."""
    server_url: str = attrs.field(default="", repr=False)
    """URL of the server, for logs; empty if a `Cluster` picks the server."""
    attempt: int = 1
    """Number of this attempt. A wrapper that repeats a request increments it."""
    secret_headers: frozenset[str] = frozenset()
    """Headers that hold a credential, whatever their name, in lower case. A wrapper that adds one lists it here."""
    https_only: PlaintextRules | None = attrs.field(default=None, repr=False)
    """Rules for plain http, for a transport that chooses the server itself or uses a proxy; None for the defaults."""
    replica: str = attrs.field(default="", repr=False)
    """URL of the replica that a `Cluster` picked; it stays the same when a redirect of that replica is followed."""
    claims: Claiming | None = attrs.field(default=None, repr=False, eq=False)
    """Reserves the run's trace id at the replica that a `Cluster` picks; None if it is reserved already."""
    sent: SentSecrets = attrs.field(factory=SentSecrets, repr=False, eq=False)
    """The secrets sent so far, to redact remote texts. A wrapper passes it on; a transport that adds a credential of
    its own notes it here."""
    observed: RunNotifier | None = attrs.field(default=None, repr=False, eq=False)
    """Notifies the observers of the run. A wrapper passes it on."""

    outcome: OutcomeListener | None = attrs.field(default=None, repr=False, eq=False)
    """Tracks the outcome of the run. A wrapper passes it on."""

    def changed(self, **changes: Any) -> Context:
        """Return this context with other values, in a fifth of the time of `attrs.evolve`."""
        made: Any = _ContextSlots()
        made.attempt = self.attempt
        made.claims = self.claims
        made.deadline = self.deadline
        made.group_id = self.group_id
        made.https_only = self.https_only
        made.idempotent = self.idempotent
        made.node_id = self.node_id
        made.observed = self.observed
        made.outcome = self.outcome
        made.purpose = self.purpose
        made.remote_trace_id = self.remote_trace_id
        made.replica = self.replica
        made.secret_headers = self.secret_headers
        made.sent = self.sent
        made.server_url = self.server_url
        made.trace_id = self.trace_id
        for name, value in changes.items():
            setattr(made, name, value)
        made.__class__ = Context
        context: Context = made
        return context


NO_CONTEXT: Final = Context()
"""All defaults, to be `changed`; give each change a `sent` of its own."""


class _HTTPRequestSlots:
    __slots__ = ("__weakref__", "_url", "base_url", "body", "context", "headers", "method", "path")


@attrs.frozen
class HTTPRequest(_HTTPRequestSlots):
    """One HTTP request, before it is sent.

    Raises:
        ConfigurationError: a header or the path holds what HTTP does not allow there.
    """

    method: str
    base_url: str
    """The server's URL; empty if a `Cluster` picks the server."""
    path: str
    """Path below the base URL, perhaps with a query."""
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str], converter=_frozen)
    body: bytes = attrs.field(default=b"", repr=False)
    context: Context = attrs.field(factory=Context, kw_only=True)
    """Information about the request; not sent."""
    _url: str = attrs.field(default="", init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        if not self.path.isprintable():  # it could start another line of the request; all other characters are encoded
            raise ConfigurationError("the path of a request has a character that is not printable")
        self.context.sent.note(self.base_url, self.headers, self.context.secret_headers)

    @property
    def url(self) -> str:
        """The URL to send to: the base URL's path, then `path`; the query of `path`, then that of the base URL."""
        if not self._url:
            _set(self, "_url", _joined(self.base_url, self.path))
        return self._url

    def with_context(self, **changes: Any) -> HTTPRequest:
        """Return this request with other values in its context.

        In a tenth of the time of `attrs.evolve`, which checks all headers again.
        """
        made: Any = _HTTPRequestSlots()
        made.method, made.base_url, made.path = self.method, self.base_url, self.path
        made.headers, made.body, made._url = self.headers, self.body, self._url  # noqa: SLF001  (of this class)
        context = made.context = self.context.changed(**changes)
        made.__class__ = HTTPRequest
        request: HTTPRequest = made
        if context.sent is not self.context.sent:
            context.sent.note(self.base_url, self.headers, context.secret_headers)
        return request

    def __repr__(self) -> str:
        return f"<HTTPRequest {self.method} {redact_url(self.url)} {self.context.purpose} {len(self.body)} bytes>"


T = TypeVar("T")
_set: Final = object.__setattr__


def _joined(base_url: str, below: str) -> str:
    if below.startswith("/") and "?" not in below and _is_usual(base_url):
        return _added(base_url, below)  # the same as what follows, which takes ten times as long
    base = urlsplit(base_url)
    path, _, query = below.partition("?")
    query = "&".join(part for part in (query, base.query) if part)
    return urlunsplit(base._replace(path=base.path.rstrip("/") + path, query=query, fragment=""))


@lru_cache(maxsize=64)
def _added(base_url: str, path: str) -> str:
    """One URL for all requests to it, since each open stream has that of its request."""
    return base_url.rstrip("/") + path


@attrs.frozen
class HTTPResponse:
    """Status and headers of a response, and its body to be read."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case. A transport does not decompress: the body is encoded as `content-encoding` says."""
    chunks: AsyncIterator[bytes]
    """The body in chunks, each as soon as it arrives. Read it once, within the exchange's block."""
    request: HTTPRequest
    """The request that was sent, with all that wrappers added."""

    def __repr__(self) -> str:
        return f"<HTTPResponse {self.status} to {self.request!r}>"


class SelfClosing:
    """Base class of exchanges that close themselves when they are dropped, as event loops close generators."""

    __slots__ = ()


class OpenExchange:
    """Holds the open exchange of a request: one at most, of several that follow each other.

    Each idle stream has one; an `AsyncExitStack` would take ten times the memory.
    """

    __slots__ = ("_block", "closes_safely")

    def __init__(self) -> None:
        self._block: AbstractAsyncContextManager[HTTPResponse] | None = None
        self.closes_safely: bool = False
        """Whether leaving is shielded and bounded by the transport itself."""

    async def enter(self, block: AbstractAsyncContextManager[HTTPResponse]) -> HTTPResponse:
        """Enter an exchange; the one before was closed."""
        response = await block.__aenter__()
        self._block = block
        return response

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        block, self._block = self._block, None
        return None if block is None else await block.__aexit__(kind, error, traceback)

    async def aclose(self) -> None:
        """Close the open exchange, if there is one."""
        await self.__aexit__(None, None, None)

    async def close_quietly(self) -> None:
        """Close an exchange whose response is not used; an error while closing does not matter."""
        with suppress(OxyError):
            await self.aclose()


class BufferedChunks(AsyncIterator[bytes]):
    """A body in memory, as an async iterator of its chunks; empty ones are skipped."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = filter(None, chunks)

    async def __anext__(self) -> bytes:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration


@runtime_checkable
class Transport(Protocol):
    """Moves bytes.

    An implementation keeps these promises; `oxygent_client.testing.check_transport` tests them:

    - Entering the block sends the request and waits for the response headers; each chunk is returned when it arrives.
    - Leaving the block, at any time and for any reason, closes the exchange at once. An exception of the block is
      raised unchanged.
    - Every status is returned. There is no retry and no redirect, unless that is the purpose of the class.
    - An error is an `OxyError` with its `outcome`: `ConnectError` if nothing was sent, otherwise `ConnectionLostError`.
    - Cancellation is not caught; the transport stays usable.
    - No cancel scope and no task group stays open between entering and leaving, since the caller enters under its own
      deadline.
    """

    def exchange(self, request: HTTPRequest, /) -> AbstractAsyncContextManager[HTTPResponse]:
        """Send `request`; the exchange lasts as long as the block of the context manager."""
        ...

    async def aclose(self) -> None:
        """Close the connections that the transport keeps open. Closing twice is allowed.

        A transport with connections does not open them again: a later exchange in this event loop raises `ClosedError`.
        """
        ...


def find_wrapped(transport: object, kind: type[T]) -> T | None:
    """Find the outermost transport of this class among a transport and those it wraps (`inner`)."""
    while transport is not None and not isinstance(transport, kind):
        transport = getattr(transport, "inner", None)
    return transport
