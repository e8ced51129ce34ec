"""The default transport, over real sockets on loopback.

Rule 1: what the server saw counts: connections, requests, and the moment when the client left.
Rule 2: no exception of httpx comes out but as a cause.
"""

from __future__ import annotations

import copy
import json
import pickle
import socket
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import httpx
import httpx_sse
import pytest
import trustme

from oxygent_client import Context, HTTPRequest, HTTPXTransport, Outcome, SSEOxyGent, Timeouts, Transport, errors
from oxygent_client.testing import answer, close, progress
from oxygent_client.transports.httpx import ERRORS, FOREIGN, KEPT_SECONDS, _translate
from tests.servers import CLOSE, LAST, OK, Conversation, Server, chunk, closed_port, play, serving

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

ANSWER: Final = OK + chunk(answer("42")) + chunk(close()) + LAST
BEGUN: Final = OK + chunk(progress(1))
SOON: Final = 2.0
"""Seconds within which what happens "at once" must have happened."""


def document(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    """A response with a length."""
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


@asynccontextmanager
async def asking(
    handle: Callable[[Conversation], Awaitable[None]], *, tls: ssl.SSLContext | None = None, **options: Any
) -> AsyncGenerator[tuple[SSEOxyGent, Server], None]:
    """An agent, and the server it asks, with a transport of its own."""
    transport = HTTPXTransport(trust_env=False, **options)
    async with serving(handle, tls=tls) as server:
        with anyio.fail_after(20):
            yield SSEOxyGent(server_url=server.url, transport=transport, timeouts=Timeouts(total=15)), server
        await transport.aclose()


async def failure(agent: SSEOxyGent) -> errors.OxyError:
    """The error of a run."""
    try:
        await agent.ask("hi")
    except errors.OxyError as error:
        return error
    raise AssertionError("it went well")


def causes(error: BaseException | None) -> list[type[BaseException]]:
    """The classes of an error and of its causes."""
    found: list[type[BaseException]] = []
    while error is not None:
        found.append(type(error))
        error = error.__cause__
    return found


# ---------------------------------------------------------------------------------------------------------- On the wire


async def test_what_is_sent() -> None:
    """The request on the wire: one POST with its length, no compression wanted, and nothing of the context."""
    async with asking(play(ANSWER)) as (agent, server):
        agent.headers = {"x-a": "1"}
        await agent.ask("é", trace_id="t", idempotent=True)
    (request,) = server.requests
    assert "POST /sse/chat HTTP/1.1" == request.line
    expected = {
        "host": f"127.0.0.1:{server.port}",
        "accept": "text/event-stream",
        "accept-encoding": "identity",
        "cache-control": "no-store",
        "content-type": "application/json",
        "content-length": str(len(request.body)),
        "connection": "keep-alive",
        "x-a": "1",
    }
    user_agent = request.headers.pop("user-agent")
    assert user_agent.startswith("oxygent-client/")
    assert expected == request.headers
    payload = json.loads(request.body)
    assert ("é", "t", False) == (payload["query"], payload["current_trace_id"], "idempotent" in payload)


async def test_a_chunk_is_there_when_it_was_sent() -> None:
    """An event is handed out while the server still has the rest."""
    seen = anyio.Event()
    runs = play([BEGUN, seen, chunk(answer("42")), chunk(close()), LAST])
    async with asking(runs) as (agent, _), agent.stream("hi") as run:
        assert "progress" == (await anext(run)).type
        seen.set()
        assert "42" == (await run.final_response()).output


async def test_bodies_are_handed_over_raw() -> None:
    """A document is handed over as it came, also one that says that it is compressed; a run sends what it accepts."""
    raw = b"\x1f\x8b no gzip"
    reply = document(raw, headers="content-encoding: gzip\r\nX-Two: a\r\nx-two: b\r\n")
    async with asking(play(reply)) as (agent, server):
        request = HTTPRequest("GET", server.url + "/base?k=v", "/get_agents", context=Context(purpose="discover"))
        assert isinstance(agent.transport, Transport)
        async with agent.transport.exchange(request) as response:
            body = b"".join([piece async for piece in response.chunks])
            assert [] == [piece async for piece in response.chunks]
    assert (200, raw, "gzip", "a, b") == (
        response.status,
        body,
        response.headers["content-encoding"],
        response.headers["x-two"],
    )
    assert "GET /base/get_agents?k=v HTTP/1.1" == server.requests[0].line


# ---------------------------------------------------------------------------------------------------------- Connections


async def test_connections_are_used_again() -> None:
    """Five calls and a discovery inside the block are one connection; outside, each call has its own."""
    organization = document(b'{"code": 200, "data": {"organization": {}}}')
    async with serving(play(ANSWER, ANSWER, organization)) as server:
        agent = SSEOxyGent(server_url=server.url)
        async with agent:
            for _ in range(2):
                await agent.ask("hi")
            await agent.init()
        assert (1, 5) == (server.connections, len(server.requests))
    async with serving(play(ANSWER)) as server:
        agent = SSEOxyGent(server_url=server.url)
        async with agent:
            for _ in range(5):
                await agent.ask("hi")
        assert (1, 5) == (server.connections, len(server.requests))
        for _ in range(2):
            await agent.ask("hi")
        assert 3 == server.connections


async def test_two_at_once() -> None:
    """Runs side by side have a connection each; a run never waits for another's."""
    go = anyio.Event()
    runs = play([BEGUN, go, chunk(answer("42")), chunk(close()), LAST])
    async with asking(runs) as (agent, server), anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(agent.ask, "hi")
        await server.have_come(30)
        assert 30 == server.connections
        go.set()


async def test_a_kept_connection_that_the_server_closed() -> None:
    """A connection that the server has closed meanwhile is not used again; the next call has a new one."""
    async with asking(play([ANSWER, CLOSE], ANSWER)) as (agent, server):
        await agent.ask("hi")
        await anyio.sleep(0.05)  # until the close is here: nothing tells of it
        await agent.ask("hi")
    assert (2, 2) == (server.connections, len(server.requests))


@pytest.mark.slow
async def test_a_kept_connection_grows_stale() -> None:
    """A connection is kept for 2 s at most, though the server would keep it longer."""
    async with asking(play(ANSWER)) as (agent, server):
        await agent.ask("hi")
        await anyio.sleep(KEPT_SECONDS / 2)
        await agent.ask("hi")
        assert 1 == server.connections
        await anyio.sleep(KEPT_SECONDS + 0.2)  # httpcore reads the system's clock
        await agent.ask("hi")
        assert 2 == server.connections


async def test_a_run_that_was_left_gives_its_connection_up() -> None:
    """Leaving early, by whatever way, closes the socket at once: the server sees it."""

    async def by_break(agent: SSEOxyGent) -> None:
        async with agent.stream("hi") as run:
            async for _ in run:
                break

    async def by_error(agent: SSEOxyGent) -> None:
        with pytest.raises(KeyError):
            async with agent.stream("hi") as run:
                async for _ in run:
                    raise KeyError

    async def by_cancellation(agent: SSEOxyGent) -> None:
        with anyio.CancelScope() as scope:
            async with agent.stream("hi") as run:
                async for _ in run:
                    scope.cancel()
        assert scope.cancelled_caught

    async def by_a_clock(agent: SSEOxyGent) -> None:
        agent.timeouts = Timeouts(idle=0.05)
        with pytest.raises(errors.IdleTimeoutError):
            await agent.ask("hi")

    for leave in (by_break, by_error, by_cancellation, by_a_clock):
        seen = anyio.Event()

        async def watch(conversation: Conversation, seen: anyio.Event = seen) -> None:
            await conversation.request()
            await conversation.send(BEGUN)
            await conversation.client_left()
            seen.set()

        async with asking(watch) as (agent, _):
            await leave(agent)
            with anyio.fail_after(SOON):
                await seen.wait()


async def test_cancelled_before_the_headers() -> None:
    """A run that is cancelled while it waits for headers closes its socket, and the transport stays usable."""
    seen, begun = anyio.Event(), anyio.Event()
    first = True

    async def watch(conversation: Conversation) -> None:
        nonlocal first
        while await conversation.request():
            if not first:
                await conversation.send(ANSWER)
                continue
            first = False
            begun.set()
            await conversation.client_left()
            seen.set()

    async with asking(watch) as (agent, _):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agent.ask, "hi")
            await begun.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(SOON):
            await seen.wait()
        assert "42" == (await agent.ask("hi")).output


# ------------------------------------------------------------------------------------------------------------- Statuses


@pytest.mark.parametrize(
    ("status", "expected", "outcome"),
    [
        ("301 Moved", errors.RedirectError, Outcome.REJECTED),
        ("302 Found", errors.RedirectError, Outcome.REJECTED),
        ("303 See Other", errors.RedirectError, Outcome.REJECTED),
        ("307 Temporary", errors.RedirectError, Outcome.REJECTED),
        ("308 Permanent", errors.RedirectError, Outcome.REJECTED),
        ("401 Who", errors.AuthenticationError, Outcome.REJECTED),
        ("403 No", errors.PermissionDeniedError, Outcome.REJECTED),
        ("404 Where", errors.NotFoundError, Outcome.REJECTED),
        ("405 How", errors.StatusError, Outcome.REJECTED),
        ("429 Slow", errors.RateLimitedError, Outcome.REJECTED),
        ("500 Ouch", errors.ServerError, Outcome.UNKNOWN),
        ("503 Busy", errors.ServerError, Outcome.REJECTED),
        ("204 Empty", errors.StatusError, Outcome.UNKNOWN),
        ("200 OK", errors.NotAnEventStreamError, Outcome.UNKNOWN),
    ],
)
async def test_statuses(status: str, expected: type[errors.OxyError], outcome: Outcome) -> None:
    """A status is a typed error; nothing is tried again and no redirect is followed: the server sees one request."""
    headers = "location: /elsewhere\r\nretry-after: 7\r\n"
    body = b"" if status.startswith("204") else b"the body"
    async with asking(play(document(body, status, headers))) as (agent, server):
        error = await failure(agent)
        assert ["POST /sse/chat HTTP/1.1"] == [request.line for request in server.requests]
    assert (expected, outcome) == (type(error), error.outcome)
    if isinstance(error, errors.StatusError):
        assert (int(status[:3]), body.decode(), 7.0) == (error.status, error.body, error.retry_after)


# ---------------------------------------------------------------------------------------------------- What can go wrong


async def test_nobody_listens() -> None:
    """A port where nobody listens is a ConnectError: nothing was sent, and it may be tried again."""
    agent = SSEOxyGent(server_url=f"http://user:secret@127.0.0.1:{closed_port()}/?k=secret")
    error = await failure(agent)
    assert [errors.ConnectError, httpx.ConnectError] == causes(error)[:2]
    assert (Outcome.NOT_SENT, True) == (error.outcome, error.retryable)
    assert isinstance(error, ConnectionError)
    assert "secret" not in f"{error} {error!r} {error.server_url}"
    with pytest.raises(errors.ConnectError):
        await agent.init()


async def test_no_answer_to_connecting() -> None:
    """A listener whose queue is full does not answer: that is a ConnectTimeoutError, and nothing was sent."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        agent = SSEOxyGent(server_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeouts=Timeouts(connect=0.1))
        error = await failure(agent)
        agent = SSEOxyGent(server_url=agent.server_url, timeouts=Timeouts(connect=None, total=0.1))
        with pytest.raises(errors.DeadlineExceededError):
            await agent.ask("hi")
        for each in waiting:
            each.close()
    assert [errors.ConnectTimeoutError, httpx.ConnectTimeout] == causes(error)[:2]
    assert (Outcome.NOT_SENT, True) == (error.outcome, error.retryable)
    assert "no connection within the time to connect: ConnectTimeout" == str(error)


def handler(*steps: bytes, reset: bool = False) -> Callable[[Conversation], Awaitable[None]]:
    """A server that reads a request, sends these bytes, and ends the connection."""

    async def handle(conversation: Conversation) -> None:
        await conversation.request()
        for step in steps:
            await conversation.send(step)
        if reset:
            await anyio.sleep(0.05)  # a reset that comes with the data takes them away
            await conversation.reset()

    return handle


LOST, PROTOCOL, CUT = errors.ConnectionLostError, errors.RemoteProtocolError, errors.IncompleteStreamError
BROKEN: Final[dict[str, tuple[Callable[[Conversation], Awaitable[None]], list[type[BaseException]], Outcome]]] = {
    # what the server does: (the handler, the error and its causes, what is known of the run)
    "closes before the headers": (handler(), [LOST, httpx.RemoteProtocolError], Outcome.UNKNOWN),
    "resets before the headers": (handler(reset=True), [LOST, httpx.ReadError], Outcome.UNKNOWN),
    "closes in the headers": (handler(OK[:50]), [LOST, httpx.RemoteProtocolError], Outcome.UNKNOWN),
    "speaks no HTTP": (handler(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), [PROTOCOL, httpx.RemoteProtocolError], Outcome.UNKNOWN),
    "has headers that are none": (
        handler(b"HTTP/1.1 200 OK\r\nno header\r\n\r\n"),
        [PROTOCOL, httpx.RemoteProtocolError],
        Outcome.UNKNOWN,
    ),
    "closes before an event": (handler(OK), [CUT, LOST, httpx.RemoteProtocolError], Outcome.UNKNOWN),
    "closes after an event": (handler(BEGUN), [CUT, LOST, httpx.RemoteProtocolError], Outcome.STARTED),
    "closes in a chunk": (handler(BEGUN, b"ff\r\ndata"), [CUT, LOST, httpx.RemoteProtocolError], Outcome.STARTED),
    "resets after an event": (handler(BEGUN, reset=True), [CUT, LOST, httpx.ReadError], Outcome.STARTED),
    "ends as it should, but for close": (handler(BEGUN, LAST), [CUT], Outcome.STARTED),
    "breaks the chunks": (
        handler(BEGUN, b"no length\r\n"),
        [CUT, PROTOCOL, httpx.RemoteProtocolError],
        Outcome.STARTED,
    ),
    "is shorter than it says": (
        handler(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 999\r\n\r\n" + progress(1)),
        [CUT, LOST, httpx.RemoteProtocolError],
        Outcome.STARTED,
    ),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_broken_servers(what: str) -> None:
    """A connection that breaks is told from a server that speaks nonsense; the cause is httpx's own error."""
    handle, expected, outcome = BROKEN[what]
    async with asking(handle) as (agent, server):
        error = await failure(agent)
        assert 1 == len(server.requests)
    assert (expected, outcome, False) == (causes(error)[: len(expected)], error.outcome, error.retryable)
    assert server.url == error.server_url
    if outcome is Outcome.STARTED:
        assert error.partial is not None
        assert ["progress"] == [event.type for event in error.partial.events]


async def test_a_stream_until_the_connection_ends() -> None:
    """A stream without length and chunks is complete if its close event came, however the connection ends."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    for reset in (False, True):
        async with asking(handler(head + answer("42") + close(), reset=reset)) as (agent, _):
            assert "42" == (await agent.ask("hi")).output


# ------------------------------------------------------------------------------------------------------------------ TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of our own."""
    return trustme.CA()


def _server_side(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  (trustme types it by another package)
    return context


def _client_side(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  (trustme types it by another package)
    return context


async def test_tls(authority: trustme.CA) -> None:
    """A good certificate is taken; a bad one is a TLSError that says why: nothing was sent, and trying is no use."""
    good = authority.issue_cert("127.0.0.1")
    cases: dict[str, tuple[trustme.LeafCert, dict[str, Any], str]] = {
        "good": (good, {"verify": _client_side(authority)}, ""),
        "not looked at": (good, {"verify": False}, ""),
        "unknown issuer": (good, {}, "unable to get local issuer certificate"),
        "another host": (
            authority.issue_cert("other.test"),
            {"verify": _client_side(authority)},
            "IP address mismatch, certificate is not valid for '127.0.0.1'.",
        ),
        "expired": (
            authority.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC)),
            {"verify": _client_side(authority)},
            "certificate has expired",
        ),
    }
    for name, (certificate, options, reason) in cases.items():
        async with asking(play(ANSWER), tls=_server_side(certificate), **options) as (agent, server):
            if not reason:
                assert (name, "42") == (name, (await agent.ask("hi")).output)
                continue
            error = await failure(agent)
            assert (name, f"the TLS handshake failed: {reason}") == (name, str(error))
            assert [errors.TLSError, httpx.ConnectError] == causes(error)[:2]
            assert (Outcome.NOT_SENT, False, []) == (error.outcome, error.retryable, server.requests)


async def test_https_to_a_plain_server() -> None:
    """A server that does not speak TLS is a TLSError, too."""

    async def plain(conversation: Conversation) -> None:
        await conversation.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await conversation.client_left()

    async with asking(plain) as (agent, server):
        agent.server_url = server.url.replace("http:", "https:")
        error = await failure(agent)
    assert (errors.TLSError, Outcome.NOT_SENT) == (type(error), error.outcome)


# httpx leaves the generator of a body that could not be sent: https://github.com/encode/httpx/issues/3686
@pytest.mark.filterwarnings("ignore:Async generator 'httpx._content.ByteStream:ResourceWarning")
async def test_a_client_certificate_that_is_wanted(authority: trustme.CA) -> None:
    """A server that refuses the client after the handshake is a lost connection, never a raw ssl.SSLError."""
    context = _server_side(authority.issue_cert("127.0.0.1"))
    authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  (trustme types it by another package)
    context.verify_mode = ssl.CERT_REQUIRED
    async with asking(play(ANSWER), tls=context, verify=_client_side(authority)) as (agent, server):
        for _ in range(5):
            error = await failure(agent)
            assert (LOST, Outcome.UNKNOWN, []) == (type(error), error.outcome, server.requests)


# ---------------------------------------------------------------------------------------------------------- Translation


def _tree(cls: type[Exception]) -> Iterator[type[Exception]]:
    yield cls
    for below in cls.__subclasses__():
        yield from _tree(below)


TRANSLATED: Final[dict[str, type[errors.OxyError]]] = {
    "HTTPError": LOST,
    "RequestError": LOST,
    "TransportError": LOST,
    "TimeoutException": LOST,
    "ConnectTimeout": errors.ConnectTimeoutError,
    "ReadTimeout": LOST,
    "WriteTimeout": LOST,
    "PoolTimeout": errors.ConnectTimeoutError,
    "NetworkError": LOST,
    "ReadError": LOST,
    "WriteError": LOST,
    "ConnectError": errors.ConnectError,
    "CloseError": LOST,
    "ProxyError": errors.ConnectError,
    "UnsupportedProtocol": errors.ConfigurationError,
    "ProtocolError": LOST,
    "LocalProtocolError": errors.ConfigurationError,
    "RemoteProtocolError": PROTOCOL,
    "SSEError": LOST,
    "DecodingError": PROTOCOL,
    "TooManyRedirects": PROTOCOL,
    "HTTPStatusError": PROTOCOL,
    "InvalidURL": errors.ConfigurationError,
    "CookieConflict": PROTOCOL,
    "StreamError": LOST,
    "StreamConsumed": LOST,
    "StreamClosed": LOST,
    "ResponseNotRead": LOST,
    "RequestNotRead": LOST,
}
REQUEST: Final = httpx.Request("POST", "http://user:secret@remote.test/?k=secret")
SPECIAL: Final[dict[str, Callable[[], Exception]]] = {
    "HTTPStatusError": lambda: httpx.HTTPStatusError(
        f"Client error '401' for url '{REQUEST.url}'", request=REQUEST, response=httpx.Response(401, request=REQUEST)
    ),
    "LocalProtocolError": lambda: httpx.LocalProtocolError("Illegal header value b'Bearer secret '"),
    "StreamConsumed": httpx.StreamConsumed,
    "StreamClosed": httpx.StreamClosed,
    "ResponseNotRead": httpx.ResponseNotRead,
    "RequestNotRead": httpx.RequestNotRead,
}


def test_every_exception_of_httpx_is_translated() -> None:
    """Every class of httpx's tree has its class here, without a secret in the text; new ones are lost connections."""
    roots = [cls for cls in FOREIGN if cls is not ssl.SSLError]
    found = {cls.__name__: cls for root in roots for cls in _tree(root)}
    public = {name for name, value in vars(httpx).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert {*TRANSLATED} == {*found} | public
    assert httpx_sse.SSEError is found["SSEError"]
    for name, expected in TRANSLATED.items():
        theirs = SPECIAL[name]() if name in SPECIAL else found[name]("why")
        ours = _translate(theirs)
        assert (name, expected) == (name, type(ours))
        assert "secret" not in str(ours)
        assert (name in SPECIAL) or str(ours).endswith(": why")
    assert LOST is type(_translate(type("New", (httpx.NetworkError,), {})("")))
    assert "the connection was lost: ReadError" == str(_translate(httpx.ReadError("")))
    assert LOST is type(_translate(ssl.SSLError(1, "alert")))
    assert 500 == len(str(_translate(httpx.ReadError("x" * 999))))
    assert all(issubclass(theirs, FOREIGN) and issubclass(ours, errors.OxyError) for theirs, ours, _ in ERRORS)


def test_what_is_behind_a_connect_error() -> None:
    """A ConnectError is one of TLS if one of its causes is; the text is what OpenSSL says."""
    verify = ssl.SSLCertVerificationError(1, "long text")
    verify.verify_message = "self-signed certificate"
    cases: list[tuple[type[errors.OxyError], str, BaseException]] = [
        (errors.ConnectError, "could not connect: x", OSError("refused")),
        (errors.TLSError, "the TLS handshake failed: self-signed certificate", verify),
        (errors.TLSError, "the TLS handshake failed: alert", ssl.SSLError(1, "alert")),
    ]
    for cls, said, cause in cases:
        middle = OSError("middle")
        middle.__context__ = cause
        outer = httpx.ConnectError("x")
        outer.__cause__ = middle
        ours = _translate(outer)
        assert (cls, said) == (type(ours), str(ours))


async def test_requests_that_httpx_refuses() -> None:
    """What httpx cannot send is a ConfigurationError, and no value of a header is in its text."""
    async with asking(play(ANSWER)) as (agent, server):
        agent.headers = {"authorization": "Bearer secret "}
        error = await failure(agent)
        assert (errors.ConfigurationError, Outcome.NOT_SENT) == (type(error), error.outcome)
        assert "secret" not in f"{error} {error!r}"
        agent.headers = {}
        assert "42" == (await agent.ask("hi")).output
        assert 1 == len(server.requests)


# ------------------------------------------------------------------------------------------------ A client of one's own


async def test_a_client_of_ones_own() -> None:
    """It is used as it is and never closed; its redirects and its time for reading do no harm."""
    go = anyio.Event()
    slow: list[bytes | type[CLOSE] | anyio.Event] = [BEGUN, go, chunk(answer("42")), chunk(close()), LAST]
    redirect = document(b"", "307 Temporary", "location: /elsewhere\r\n")
    async with httpx.AsyncClient(
        timeout=0.1, follow_redirects=True, headers={"x-theirs": "1", "accept": "no"}, trust_env=False
    ) as client:
        async with asking(
            play(slow, redirect, document(b"{}", "307 Temporary", "location: /x\r\n")), client=client
        ) as (
            agent,
            server,
        ):
            assert "HTTPXTransport(client=...)" == repr(agent.transport)
            async with agent.stream("hi") as run:
                await anext(run)
                await anyio.sleep(0.3)  # more than the client's own time for reading
                go.set()
                assert "42" == (await run.final_response()).output
            assert isinstance(await failure(agent), errors.RedirectError)
            with pytest.raises(errors.RedirectError):
                await agent.init()
            async with agent:
                pass
            await agent.aclose()
            assert agent.transport is not None
            await agent.transport.aclose()
        assert not client.is_closed
        assert (["/sse/chat", "/sse/chat", "/get_organization"], {"1"}) == (
            [request.line.split()[1] for request in server.requests],
            {request.headers["x-theirs"] for request in server.requests},
        )
        assert {"text/event-stream"} == {request.headers["accept"] for request in server.requests[:2]}
    error = await failure(agent)
    assert (errors.ClosedError, Outcome.NOT_SENT) == (type(error), error.outcome)


async def test_hooks_of_a_client_of_ones_own() -> None:
    """What a hook of the client makes of a response is an error of this package, without a secret in its text."""

    async def refuse(response: httpx.Response) -> None:
        response.raise_for_status()

    async def read(response: httpx.Response) -> None:
        await response.aread()

    cases: list[tuple[Any, bytes, type[errors.OxyError]]] = [
        (refuse, document(b"", "401 Who"), PROTOCOL),
        (read, ANSWER, CUT),
    ]
    for hook, reply, expected in cases:
        async with (
            httpx.AsyncClient(event_hooks={"response": [hook]}, trust_env=False) as client,
            asking(play(reply), client=client) as (agent, server),
        ):
            agent.server_url = f"http://user:secret@127.0.0.1:{server.port}/?k=secret"
            error = await failure(agent)
            assert (expected, Outcome.UNKNOWN) == (type(error), error.outcome)
            assert "secret" not in f"{error} {error!r}"


async def test_a_crowded_client_of_ones_own() -> None:
    """A client whose pool is full is a ConnectTimeoutError: nothing was sent."""
    limits = httpx.Limits(max_connections=1)
    timeout = httpx.Timeout(None, pool=0.05)
    async with (
        httpx.AsyncClient(limits=limits, timeout=timeout, trust_env=False) as client,
        asking(play([BEGUN, anyio.Event()]), client=client) as (agent, server),
    ):
        async with agent.stream("hi") as run:
            await anext(run)
            error = await failure(agent)
        assert (errors.ConnectTimeoutError, Outcome.NOT_SENT, 1) == (
            type(error),
            error.outcome,
            len(server.requests),
        )


def test_arguments_that_do_not_go_together() -> None:
    """A client brings its own verify and proxy."""
    client = httpx.AsyncClient()
    wrong: list[dict[str, Any]] = [{"verify": False}, {"proxy": "http://p.test"}]
    for options in wrong:
        with pytest.raises(errors.ConfigurationError, match="brings its own"):
            HTTPXTransport(client=client, **options)


# -------------------------------------------------------------------------------------------------------------- Proxies


async def test_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that is named is used, else that of the environment, unless the environment is left out."""
    target = "http://remote.test:8000"
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with serving(play(ANSWER)) as named, serving(play(ANSWER)) as of_environment, serving(play(ANSWER)) as direct:
        monkeypatch.setenv("HTTP_PROXY", of_environment.url)
        cases: list[tuple[Server, str, dict[str, Any]]] = [
            (named, target, {"proxy": named.url}),
            (of_environment, target, {}),
            (direct, direct.url, {"trust_env": False}),
        ]
        for server, url, options in cases:
            transport = HTTPXTransport(**options)
            assert "42" == (await SSEOxyGent(server_url=url, transport=transport).ask("hi")).output
            await transport.aclose()
            (request,) = server.requests
            expected = f"{target}/sse/chat" if url == target else "/sse/chat"
            assert f"POST {expected} HTTP/1.1" == request.line


async def test_a_proxy_that_refuses() -> None:
    """A proxy that makes no connection is a ConnectError: nothing was sent."""
    async with serving(play(document(b"", "407 Pay"))) as proxy:
        transport = HTTPXTransport(proxy=proxy.url, trust_env=False)
        error = await failure(SSEOxyGent(server_url="https://remote.test", transport=transport))
        await transport.aclose()
        assert (["CONNECT remote.test:443 HTTP/1.1"], errors.ConnectError, Outcome.NOT_SENT) == (
            [request.line for request in proxy.requests],
            type(error),
            error.outcome,
        )


# --------------------------------------------------------------------------------------------------------- Its own life


async def test_its_own_life() -> None:
    """It may be closed twice, opens again by itself, and travels as its configuration."""
    transport = HTTPXTransport(verify=False, connect=3, trust_env=False)
    assert "HTTPXTransport()" == repr(transport)
    await transport.aclose()
    async with serving(play(ANSWER)) as server:
        agent = SSEOxyGent(server_url=server.url, transport=transport)
        for count in (1, 2):
            await agent.ask("hi")
            await transport.aclose()
            await transport.aclose()
            assert count == server.connections
        await agent.ask("hi")
        for clone in (pickle.loads(pickle.dumps(transport)), copy.deepcopy(transport)):
            assert isinstance(clone, HTTPXTransport)
            await SSEOxyGent(server_url=server.url, transport=clone).ask("hi")
            await clone.aclose()
            assert {**vars(transport), "_live": None} == {**vars(clone), "_live": None}
        assert 5 == server.connections
        await transport.aclose()


def test_a_live_client_does_not_travel() -> None:
    """A client of one's own is live; that is said."""
    transport = HTTPXTransport(client=httpx.AsyncClient())
    for travel in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(errors.ConfigurationError, match="`client` is live"):
            travel(transport)


async def test_one_transport_in_two_loops() -> None:
    """A transport that is used in two loops at once has connections of its own in each."""
    transport = HTTPXTransport(trust_env=False)
    async with serving(play(ANSWER)) as server:
        agent = SSEOxyGent(server_url=server.url, transport=transport)

        async def elsewhere() -> str:
            output = (await agent.ask("hi")).output
            await transport.aclose()
            return str(output)

        await agent.ask("hi")
        for backend in ("asyncio", "trio"):
            assert "42" == await anyio.to_thread.run_sync(partial(anyio.run, elsewhere, backend=backend))
        await agent.ask("hi")
        assert (3, 4) == (server.connections, len(server.requests))
    await transport.aclose()
