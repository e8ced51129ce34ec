"""The `Transport` protocol, and the requests and responses that pass through it.

Rule 1: what moves bytes is a `Transport`; what changes how they move is a `Transport` that holds one.
Rule 2: a request and what is known about it are frozen; a wrapper that changes one makes another.
Rule 3: no repr here shows a body, a header's value, user information or a query.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable
from urllib.parse import SplitResult, urlsplit, urlunsplit

import attrs

from oxygent_client._core.errors import ConfigurationError
from oxygent_client._core.plain_http import PlaintextRules
from oxygent_client._core.sent_secrets import SentSecrets

__all__ = [
    "BufferedChunks",
    "Claiming",
    "Context",
    "HTTPRequest",
    "HTTPResponse",
    "Purpose",
    "RunNotifier",
    "Transport",
    "check_url",
    "find_wrapped",
    "redact_url",
]

Purpose = Literal["run", "discover", "attach", "feedback", "health"]


def check_url(url: str) -> str:
    """`url`, if it can be a server's base URL.

    Raises:
        ConfigurationError: it is not http or https, names no host, or holds what others might read in another way: a
            space, a backslash, a second `@` before the host, or a character that is not printable.
    """
    try:
        parts = urlsplit(url)
        well_formed = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        well_formed = well_formed and parts.netloc.count("@") < 2
    except ValueError:
        well_formed = False
    if not well_formed or " " in url or "\\" in url or not url.isprintable():
        raise ConfigurationError("server_url must be an http:// or https:// URL with a host")
    return url


def redact_url(url: str) -> str:
    """`url` as it may be shown: scheme, host, port and path; no user information, no query."""
    parts = urlsplit(url)
    return urlunsplit(SplitResult(parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?")  # no space at either end: RFC 9110, section 5.5


def _frozen(headers: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in headers.items():
        is_text = isinstance(cast("Any", value), str)  # a subclass makes headers of anything
        if not is_text or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ConfigurationError(f"the header {name[:60]!r} has a name or a value that HTTP does not allow")
    return MappingProxyType(dict(headers))


def _plain(instance: object, attribute: object, path: str) -> None:
    """Refuse a path that could begin another line of a request. What else a URL may not hold, transports encode."""
    if not path.isprintable():
        raise ConfigurationError("the path of a request holds a character that is not printable")


class Claiming(Protocol):
    """Claims the trace id of a run at each server that its request goes to: none has one id in flight twice."""

    def fit(self, request: HTTPRequest, /) -> HTTPRequest:
        """`request`, which is about to go to `context.replica`, with an id that is free there."""
        ...

    def heard(self, request: HTTPRequest, /) -> None:
        """The response to `request` is handed on: of several that were sent, it is the run's."""
        ...

    def unused(self, request: HTTPRequest, /) -> None:
        """The replica surely ran nothing of `request`."""
        ...


class RunNotifier(Protocol):
    """Passes notifications about one run to its observers."""

    def note(self, event: str, context: Context, fields: Mapping[str, Any]) -> None:
        """Notify the observers of one event in the life of the run."""
        ...


@attrs.frozen(kw_only=True)
class Context:
    """What wrappers of a transport may decide by. None of it is on the wire."""

    purpose: Purpose = "run"
    """What it is for: `run` asks for a run, `attach` listens to a detached one, `discover` only looks something up,
    `feedback` gives a run or the server something, `health` asks whether the server is there."""
    trace_id: str = ""
    """What the caller calls the run; empty where there is none."""
    group_id: str = ""
    """What the caller calls the conversation."""
    deadline: float | None = None
    """When the whole call must be over, by the event loop's clock (`anyio.current_time()`); None: never."""
    remote_trace_id: str = ""
    """What the server calls the run; for what finds it there again."""
    idempotent: bool = False
    """It may be sent twice: nothing runs, or the caller allows that an agent runs twice."""
    node_id: str = ""
    """The caller's own node of the call; for logs and traces."""
    attempt: int = 1
    """How many times it has been sent or tried, this one included. A wrapper that repeats a request counts here."""
    secret_headers: frozenset[str] = frozenset()
    """Names, in lower case, of headers that hold a credential whatever they are called. A wrapper that adds one says so
    here."""
    https_only: PlaintextRules | None = attrs.field(default=None, repr=False)
    """What may go over plain http, for a transport that chooses the server itself or sends it to a proxy; None: as
    `PlainHTTP()` has it."""
    replica: str = attrs.field(default="", repr=False)
    """The URL of the replica that a `Cluster` asked; it stays when a redirect of that replica is followed."""
    claims: Claiming | None = attrs.field(default=None, repr=False, eq=False)
    """What claims the run's trace id at the replica that a `Cluster` chooses; None if it is claimed already."""
    sent: SentSecrets = attrs.field(factory=SentSecrets, repr=False, eq=False)
    """What was sent in confidence until now: whatever shows a text of the remote's takes it out by this. A wrapper
    hands it on; a transport that adds a credential of its own notes that here."""
    observed: RunNotifier | None = attrs.field(default=None, repr=False, eq=False)
    """The run that the request is for, and who observes it. A wrapper hands it on."""


@attrs.frozen
class HTTPRequest:
    """One HTTP request, before it is sent.

    Raises:
        ConfigurationError: a header or the path holds what HTTP does not allow there.
    """

    method: str
    base_url: str
    """The server's own URL; empty where a `Cluster` is to choose the server."""
    path: str = attrs.field(validator=_plain)
    """Below the base URL; a query may stand behind it."""
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str], converter=_frozen)
    body: bytes = attrs.field(default=b"", repr=False)
    context: Context = attrs.field(factory=Context, kw_only=True)
    """What is known about it; not sent."""

    def __attrs_post_init__(self) -> None:
        self.context.sent.note(self.base_url, self.headers, self.context.secret_headers)

    @property
    def url(self) -> str:
        """Where it goes: the base URL's own path stays in front of `path`, and its query behind that of `path`."""
        base = urlsplit(self.base_url)
        path, _, query = self.path.partition("?")
        query = "&".join(part for part in (query, base.query) if part)
        return urlunsplit(base._replace(path=base.path.rstrip("/") + path, query=query, fragment=""))

    def __repr__(self) -> str:
        return f"<HTTPRequest {self.method} {redact_url(self.url)} {self.context.purpose} {len(self.body)} bytes>"


@attrs.frozen
class HTTPResponse:
    """A response whose headers have come and whose body is still to be read."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case. Content codings are as in `content-encoding`: a transport does not undo them."""
    chunks: AsyncIterator[bytes]
    """The body, piece by piece, each as soon as it is there. To be read within the exchange's block, once."""
    request: HTTPRequest
    """The request as it was really sent."""

    def __repr__(self) -> str:
        return f"<HTTPResponse {self.status} to {self.request!r}>"


class BufferedChunks:
    """A body in memory, as an async iterator of its chunks; empty ones are skipped."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = filter(None, chunks)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration


@runtime_checkable
class Transport(Protocol):
    """Moves bytes.

    An implementation keeps these promises; `oxygent_client.testing.check_transport` tests them:

    - Entering the block sends the request and waits for the response's headers; a chunk is handed over as it comes.
    - Leaving the block, at any time and for any reason, closes the exchange at once. An exception of the block comes
      out as it is.
    - A status is handed over, whatever it is. Nothing is retried, and no redirect followed, unless that is what the
      class is for.
    - An error is an `OxyError` with its `outcome`: `ConnectError` if nothing was sent, else `ConnectionLostError`.
    - Cancellation passes through; the transport stays usable.
    - No cancel scope and no task group is left open between entering and leaving: the caller enters under a deadline of
      its own.
    """

    def exchange(self, request: HTTPRequest, /) -> AbstractAsyncContextManager[HTTPResponse]:
        """Send `request`; the block of the context manager is the life of the exchange."""
        ...

    async def aclose(self) -> None:
        """Close what the transport keeps open between exchanges. Doing so twice is no error.

        A transport that keeps something open does not open it again: in this event loop, each later exchange is a
        `ClosedError`.
        """
        ...


T = TypeVar("T")


def find_wrapped(transport: object, kind: type[T]) -> T | None:
    """The first of this kind among a transport and what it wraps (its `inner`), from the outside in."""
    while transport is not None and not isinstance(transport, kind):
        transport = getattr(transport, "inner", None)
    return transport
