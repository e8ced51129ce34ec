"""The transports over httpx, httpx2 and aiohttp, over real sockets on loopback: one table of tests for all.

Rule 1: the server's log is checked: connections, requests, and when the client closed.
Rule 2: an exception of a library is raised only as a cause.
Rule 3: a difference of one library is a field of `Library`, or a test that names it.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import gc
import importlib
import json
import os
import pickle
import socket
import ssl
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import anyio
import attrs
import httpx
import httpx2
import pytest

from oxygent_client import (
    BearerAuth,
    HTTPRequest,
    HTTPXTransport,
    Outcome,
    OxyRequest,
    OxyState,
    RunHandle,
    SSEOxyGent,
    Timeouts,
    Transport,
    errors,
)
from oxygent_client.testing import answer, close, progress
from oxygent_client.transports import Context
from oxygent_client.transports._http_base import KEEP_ALIVE_SECONDS
from oxygent_client.transports.aiohttp import AiohttpTransport
from oxygent_client.transports.httpx2 import HTTPX2Transport
from tests.support.plain import plain
from tests.support.servers import CLOSE, LAST, OK, Conversation, Server, chunk, closed_port, play, serving
from tests.support.tls import AUTHORITY, NO_AUTHORITY, client_context, server_context

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
    from pathlib import Path

    from oxygent_client import Run

ANSWER: Final = OK + chunk(answer("42")) + chunk(close()) + LAST
BEGUN: Final = OK + chunk(progress(1))
SOON: Final = 20.0
"""Seconds within which an immediate effect must have happened."""


def document(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    """Return a response with a length."""
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


# ------------------------------------------------------------------------------------------------------------ Libraries


@attrs.frozen
class Library:
    """A library below a transport, and its differences."""

    name: str
    transport: Callable[..., Transport]
    own: str
    """The argument for a client of the user's own."""
    bare: Callable[..., Any]
    """Returns one with the settings of the library, which trusts no authority."""
    client: Callable[..., Any]
    """Returns one with `headers`, a short read time-out, and settings that must do no harm."""
    crowded: Callable[[], Any]
    """Returns one that has one connection, and waits for it for 0.05 s."""
    module: Any
    sends: dict[str, str]
    """The headers that it adds."""
    loops: tuple[str, ...] = ("asyncio", "trio")
    watches: bool = False
    """Whether it notices at once that the server closed an idle connection, or with its next request."""
    causes: dict[str, str] = attrs.field(factory=dict[str, str])
    """Names of httpx, and its own names for the same."""

    def cause(self, name: str) -> type[BaseException]:
        """Return its class for the one that httpx calls `name`."""
        cls: type[BaseException] = getattr(self.module, self.causes.get(name, name))
        return cls


def _of_httpx(module: Any, transport: Callable[..., Transport]) -> Library:
    bare = partial(module.AsyncClient, verify=NO_AUTHORITY)
    return Library(
        name=module.__name__,
        transport=transport,
        own="client",
        bare=bare,
        client=partial(bare, timeout=0.1, follow_redirects=True, trust_env=False),
        crowded=lambda: bare(
            limits=module.Limits(max_connections=1), timeout=module.Timeout(None, pool=0.05), trust_env=False
        ),
        module=module,
        sends={"connection": "keep-alive"},
    )


LIBRARIES: Final = {
    "httpx": _of_httpx(httpx, HTTPXTransport),
    "httpx2": _of_httpx(httpx2, HTTPX2Transport),
    "aiohttp": Library(
        name="aiohttp",
        transport=AiohttpTransport,
        own="session",
        bare=aiohttp.ClientSession,
        client=partial(
            aiohttp.ClientSession,
            timeout=aiohttp.ClientTimeout(total=0.1, sock_read=0.1),
            raise_for_status=True,
        ),
        crowded=lambda: aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1), timeout=aiohttp.ClientTimeout(connect=0.05)
        ),
        module=aiohttp,
        sends={},
        loops=("asyncio",),
        watches=True,
        causes={
            "ConnectError": "ClientConnectorError",
            "ConnectTimeout": "ConnectionTimeoutError",
        },
    ),
}


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Library:
    """Each library in turn; aiohttp on asyncio only (ONE_LOOP in conftest.py)."""
    return LIBRARIES[request.param]


FAMILY: Final = pytest.mark.parametrize("library", ["httpx", "httpx2"], indirect=True)
"""For tests of httpx and httpx2 only."""


@asynccontextmanager
async def asking(
    library: Library,
    handle: Callable[[Conversation], Awaitable[None]],
    *,
    tls: ssl.SSLContext | None = None,
    **options: Any,
) -> AsyncGenerator[tuple[SSEOxyGent, Server], None]:
    """Yield an agent with its own transport, and its server."""
    transport = library.transport(trust_env=False, **options)
    async with serving(handle, tls=tls) as server:
        with anyio.fail_after(20):
            yield plain(server_url=server.url, transport=transport, timeouts=Timeouts(total=15)), server
        await transport.aclose()


async def failure(agent: SSEOxyGent) -> errors.OxyError:
    """Return the error of a run."""
    try:
        await agent.ask("hi")
    except errors.OxyError as error:
        return error
    raise AssertionError("it went well")


def causes(error: BaseException | None) -> list[type[BaseException]]:
    """Return the classes of an error and of its causes."""
    found: list[type[BaseException]] = []
    while error is not None:
        found.append(type(error))
        error = error.__cause__
    return found


# -------------------------------------------------------------------------------------------------- Requests and bodies


async def test_the_request_of_a_run(library: Library) -> None:
    """A run is one POST with its length, no compression wanted, and nothing of the context."""
    async with asking(library, play(ANSWER)) as (agent, server):
        agent.headers = {"x-a": "1"}
        await agent.ask("é", trace_id="t", idempotent=True)
    (request,) = server.requests
    assert request.line == "POST /sse/chat HTTP/1.1"
    expected = {
        "host": f"127.0.0.1:{server.port}",
        "accept": "text/event-stream",
        "accept-encoding": "identity",
        "cache-control": "no-store",
        "content-type": "application/json",
        "content-length": str(len(request.body)),
        "x-a": "1",
        **library.sends,
    }
    user_agent = request.headers.pop("user-agent")
    assert user_agent.startswith("oxygent-client/")
    assert request.headers == expected
    payload = json.loads(request.body)
    assert payload["query"] == "é"
    assert payload["current_trace_id"] == "t"
    assert "idempotent" not in payload


async def test_streaming(library: Library) -> None:
    """An event is received while the server still has the rest."""
    seen = anyio.Event()
    runs = play([BEGUN, seen, chunk(answer("42")), chunk(close()), LAST])
    async with asking(library, runs) as (agent, _), agent.stream("hi") as run:
        assert (await anext(run)).type == "progress"
        seen.set()
        assert (await run.final_response()).output == "42"


async def test_raw_bodies(library: Library) -> None:
    """Bodies are handed over as received, compressed or not; a run sends what it accepts."""
    raw = b"\x1f\x8b no gzip"
    reply = document(raw, headers="content-encoding: gzip\r\nX-Two: a\r\nx-two: b\r\n")
    async with asking(library, play(reply)) as (agent, server):
        request = HTTPRequest("GET", server.url + "/base?k=v", "/get_agents", context=Context(purpose="discover"))
        assert isinstance(agent.transport, Transport)
        async with agent.transport.exchange(request) as response:
            pieces = [piece async for piece in response.chunks]
            assert [piece async for piece in response.chunks] == []
    assert response.status == 200
    assert b"".join(pieces) == raw
    assert {*map(type, pieces)} == {bytes}
    assert response.headers["content-encoding"] == "gzip"
    assert response.headers["x-two"] == "a, b"
    assert server.requests[0].line == "GET /base/get_agents?k=v HTTP/1.1"


# ---------------------------------------------------------------------------------------------------------- Connections


async def test_keep_alive(library: Library) -> None:
    """Successive calls, and discovery, use one connection."""
    organization = document(b'{"code": 200, "data": {"organization": {}}}')
    async with asking(library, play(*[ANSWER] * 5, organization)) as (agent, server):
        for _ in range(5):
            await agent.ask("hi")
        await agent.init()
        assert server.connections == 1
        assert len(server.requests) == 8


@pytest.mark.parametrize(
    "reply", [ANSWER, [BEGUN, chunk(answer("42")), chunk(close()), LAST]], ids=["at once", "in parts"]
)
async def test_no_generator_is_left(library: Library, reply: Any, request: pytest.FixtureRequest) -> None:
    """A call leaves no generator to the garbage collector: asyncio would make a task to close each."""
    left: list[str] = []
    async with asking(library, play(reply)) as (agent, _):
        hooks = sys.get_asyncgen_hooks()
        request.addfinalizer(lambda: sys.set_asyncgen_hooks(*hooks))
        sys.set_asyncgen_hooks(finalizer=lambda generator: left.append(repr(generator)))
        await agent.ask("hi")
        gc.collect()
        sys.set_asyncgen_hooks(*hooks)
    assert left == []


async def test_connections_of_an_agent() -> None:
    """Inside the agent's block calls share a connection; outside, each has its own."""
    async with serving(play(ANSWER)) as server:
        agent = plain(server_url=server.url)
        async with agent:
            for _ in range(5):
                await agent.ask("hi")
        assert server.connections == 1
        assert len(server.requests) == 5
        for _ in range(2):
            await agent.ask("hi")
        assert server.connections == 3


async def test_concurrent_runs(library: Library) -> None:
    """Concurrent runs have a connection each and do not wait for each other."""
    go = anyio.Event()
    runs = play([BEGUN, go, chunk(answer("42")), chunk(close()), LAST])
    async with asking(library, runs) as (agent, server), anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(agent.ask, "hi")
        await server.have_come(30)
        assert server.connections == 30
        go.set()


async def test_a_kept_connection_that_the_server_closed(library: Library) -> None:
    """A connection that the server has closed is not reused; the next call opens a new one."""
    async with asking(library, play([ANSWER, CLOSE], ANSWER)) as (agent, server):
        await agent.ask("hi")
        await anyio.sleep(0.05)  # until the server's close is received, which cannot be observed
        await agent.ask("hi")
    assert server.connections == 2
    assert len(server.requests) == 2


def counted(agent: SSEOxyGent) -> tuple[int | None, int | None]:
    """Return the numbers of open and of idle connections."""
    stats = agent.stats()
    return stats.connections, stats.idle_connections


async def becomes(expected: tuple[int, int], agent: SSEOxyGent) -> None:
    """Wait for this count: a socket is closed in a later turn of the event loop."""
    with anyio.fail_after(SOON):
        while expected != counted(agent):  # noqa: ASYNC110  (nothing tells of it)
            await anyio.sleep(0.001)


async def test_connections_are_counted(library: Library) -> None:
    """Connections with an open socket are counted; those without an exchange, or read to the end, are idle."""
    go = anyio.Event()
    async with asking(library, play([BEGUN, go, chunk(answer("42")), chunk(close()), LAST])) as (agent, server):
        assert counted(agent) == (0, 0)
        async with agent.stream("hi") as run:
            await anext(run)
            assert counted(agent) == (1, 0)
            async with agent.stream("hi") as other:
                await anext(other)
                assert counted(agent) == (2, 0)
            await becomes((1, 0), agent)
            go.set()
            await run.final_response()
            assert counted(agent) == (1, 1)
        await agent.ask("hi")
        assert server.connections == 2
        assert counted(agent) == (1, 1)
        assert agent.transport is not None
        await agent.transport.aclose()
        await becomes((0, 0), agent)


async def test_connections_that_wait_for_headers_are_not_idle(library: Library) -> None:
    """From the request on a connection belongs to its exchange, also if the response comes whole."""
    go = anyio.Event()
    async with asking(library, play(ANSWER, [go, ANSWER])) as (agent, server):
        await agent.ask("hi")
        assert counted(agent) == (1, 1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agent.ask, "hi")
            await server.have_come(2)
            assert counted(agent) == (1, 0)
            go.set()
        assert counted(agent) == (1, 1)


async def test_a_response_releases_its_connection(library: Library) -> None:
    """A response that was read to the end has released its connection, though its block goes on."""
    async with asking(library, play([BEGUN, chunk(answer("42")), LAST])) as (agent, server):
        request = HTTPRequest("POST", server.url, "/sse/chat")
        assert isinstance(agent.transport, Transport)
        async with agent.transport.exchange(request) as response:
            assert response.status == 200
            assert [piece async for piece in response.chunks] != []
            assert counted(agent) == (1, 1)


async def test_the_count_after_the_server_has_closed(library: Library) -> None:
    """A connection that the server closed while idle is counted until the library notices."""
    go = anyio.Event()
    async with asking(library, play([ANSWER, go, CLOSE], ANSWER)) as (agent, server):
        await agent.ask("hi")
        assert counted(agent) == (1, 1)
        go.set()
        if library.watches:
            await becomes((0, 0), agent)
        await anyio.sleep(0.05)  # until the server's close is received, which cannot be observed
        assert ((0, 0) if library.watches else (1, 1)) == counted(agent)
        await agent.ask("hi")
        assert server.connections == 2
        assert counted(agent) == (1, 1)


async def test_closed_connections_are_freed(library: Library) -> None:
    """A transport keeps no reference to closed connections."""
    async with asking(library, play([BEGUN, CLOSE])) as (agent, _):
        for _ in range(5):
            await failure(agent)
        transport: Any = agent.transport
        with anyio.fail_after(SOON):
            while len(transport._counter._known):
                await anyio.sleep(0.001)
                gc.collect()
        assert transport._counter.uses == {}


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # of trio, as the run is dropped
@pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")  # of aiohttp, likewise
async def test_a_dropped_exchange(library: Library) -> None:
    """An exchange that is dropped closes its connection."""
    async with asking(library, play([BEGUN, anyio.Event()])) as (agent, _):
        run = await agent.stream("hi").__aenter__()
        await anext(run)
        assert counted(agent) == (1, 0)
        del run
        with anyio.fail_after(SOON):
            while counted(agent) != (0, 0):
                gc.collect()
                await anyio.sleep(0.001)


async def test_the_count_of_a_users_client(library: Library) -> None:
    """The connections of a user's httpx or httpx2 client are counted; those of an aiohttp session are not."""
    async with serving(play(ANSWER)) as server, library.client() as own:
        agent = plain(server_url=server.url, transport=library.transport(**{library.own: own}))
        await agent.ask("hi")
        assert ((None, None) if library.own == "session" else (1, 1)) == counted(agent)


@FAMILY
async def test_the_count_without_a_network(library: Library) -> None:
    """The count of a client without a network is None, not 0."""

    async def body() -> AsyncGenerator[bytes, None]:
        yield answer("42") + close()

    def respond(request: object) -> Any:
        return library.module.Response(200, headers={"content-type": "text/event-stream"}, content=body())

    async with library.client(transport=library.module.MockTransport(respond)) as own:
        agent = plain(server_url="http://127.0.0.1", transport=library.transport(client=own))
        assert (await agent.ask("hi")).output == "42"
        assert counted(agent) == (None, None)


async def test_the_count_of_an_agent() -> None:
    """The connections of an agent's own transport are counted while it is entered, from any thread."""
    async with serving(play(ANSWER)) as server:
        agent = plain(server_url=server.url)
        await agent.ask("hi")
        assert counted(agent) == (None, None)
        async with agent:
            await agent.ask("hi")
            assert (1, 1) == counted(agent) == await anyio.to_thread.run_sync(counted, agent)
        assert counted(agent) == (None, None)


@pytest.mark.slow
async def test_keep_alive_expiry(library: Library) -> None:
    """A connection is kept for 2 s at most, even if the server would keep it longer."""
    async with asking(library, play(ANSWER)) as (agent, server):
        await agent.ask("hi")
        await anyio.sleep(KEEP_ALIVE_SECONDS / 2)
        await agent.ask("hi")
        assert server.connections == 1
        await anyio.sleep(KEEP_ALIVE_SECONDS + 0.2)  # httpcore reads the system's clock
        await agent.ask("hi")
        assert server.connections == 2


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "ws://127.0.0.1:1", "127.0.0.1", "//127.0.0.1:1"])
async def test_another_scheme(library: Library, url: str) -> None:
    """A URL that is not one of http is an error of the program."""
    transport: Any = library.transport(trust_env=False)
    with pytest.raises(errors.ConfigurationError) as caught:
        async with transport.exchange(HTTPRequest("GET", url, "/get_agents")):
            pytest.fail("the request was sent")
    assert caught.value.outcome is Outcome.NOT_SENT
    await transport.aclose()


async def test_leaving_early_closes_the_connection(library: Library) -> None:
    """Leaving early, in any way, closes the socket at once, as the server sees."""

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

        async with asking(library, watch) as (agent, _):
            await leave(agent)
            with anyio.fail_after(SOON):
                await seen.wait()


async def test_cancelled_before_the_headers(library: Library) -> None:
    """A run cancelled while it waits for headers closes its socket, and the transport can be used again."""
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

    async with asking(library, watch) as (agent, _):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agent.ask, "hi")
            await begun.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(SOON):
            await seen.wait()
        assert (await agent.ask("hi")).output == "42"


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
async def test_statuses(library: Library, status: str, expected: type[errors.OxyError], outcome: Outcome) -> None:
    """A status is a typed error without retry or redirect: the server sees one request."""
    headers = "location: http://elsewhere.test/\r\nretry-after: 7\r\n"
    body = b"" if status.startswith("204") else b"the body"
    async with asking(library, play(document(body, status, headers))) as (agent, server):
        error = await failure(agent)
        assert [request.line for request in server.requests] == ["POST /sse/chat HTTP/1.1"]
    assert type(error) is expected
    assert error.outcome == outcome
    if isinstance(error, errors.StatusError):
        assert error.status == int(status[:3])
        assert error.body == body.decode()
        assert error.retry_after == 7.0


# ------------------------------------------------------------------------------------------------------------- Failures


async def test_connection_refused(library: Library) -> None:
    """A port without a listener raises ConnectError with outcome NOT_SENT, and is retryable."""
    transport = library.transport(trust_env=False)
    agent = plain(server_url=f"http://user:secret@127.0.0.1:{closed_port()}/?k=secret", transport=transport)
    error = await failure(agent)
    assert [errors.ConnectError, library.cause("ConnectError")] == causes(error)[:2]
    assert error.outcome is Outcome.NOT_SENT
    assert error.retryable is True
    assert isinstance(error, ConnectionError)
    assert "secret" not in f"{error} {error!r} {error.server_url}"
    with pytest.raises(errors.ConnectError):
        await agent.init()
    await transport.aclose()


async def test_connect_timeout(library: Library) -> None:
    """A listener with a full queue raises ConnectTimeoutError with outcome NOT_SENT."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        url = f"http://user:secret@127.0.0.1:{listener.getsockname()[1]}?k=secret"
        transport = library.transport(trust_env=False, connect=0.1)
        error = await failure(plain(server_url=url, transport=transport))
        await transport.aclose()
        transport = library.transport(trust_env=False, connect=None)
        with pytest.raises(errors.DeadlineExceededError):
            await plain(server_url=url, transport=transport, timeouts=Timeouts(total=0.1)).ask("hi")
        await transport.aclose()
        for each in waiting:
            each.close()
    cause = library.cause("ConnectTimeout")
    assert causes(error)[:2] == [errors.ConnectTimeoutError, cause]
    assert error.outcome is Outcome.NOT_SENT
    assert error.retryable is True
    place = f"127.0.0.1:{url.rpartition(':')[2].partition('?')[0]}"
    assert f" {place} " in str(error)


async def test_the_agents_connect_timeout() -> None:
    """The default transport uses the agent's connect time-out."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert type(await failure(plain(server_url=url, timeouts=Timeouts(connect=0.1)))) is errors.ConnectTimeoutError
        for each in waiting:
            each.close()


def handler(*steps: bytes, reset: bool = False) -> Callable[[Conversation], Awaitable[None]]:
    """Return a server that reads a request, sends these bytes, and ends the connection."""

    async def handle(conversation: Conversation) -> None:
        await conversation.request()
        for step in steps:
            await conversation.send(step)
        if reset:
            await anyio.sleep(0.05)  # a reset that arrives with the data discards it
            await conversation.reset()

    return handle


UNFRAMED: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
"""The head of a stream with neither a length nor chunks."""
LOST, PROTOCOL, CUT = errors.ConnectionLostError, errors.RemoteProtocolError, errors.IncompleteStreamError
BROKEN: Final[
    dict[str, tuple[Callable[[Conversation], Awaitable[None]], list[type[BaseException]], str, str, Outcome]]
] = {
    # server behaviour: (the handler, the error and its causes, then the cause of httpx and of aiohttp, the outcome)
    "closes before the headers": (
        handler(),
        [LOST],
        "RemoteProtocolError",
        "ServerDisconnectedError",
        Outcome.UNKNOWN,
    ),
    "resets before the headers": (handler(reset=True), [LOST], "ReadError", "ClientOSError", Outcome.UNKNOWN),
    "closes in the headers": (
        handler(OK[:50]),
        [LOST],
        "RemoteProtocolError",
        "ServerDisconnectedError",
        Outcome.UNKNOWN,
    ),
    "speaks no HTTP": (
        handler(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        [PROTOCOL],
        "RemoteProtocolError",
        "ClientResponseError",
        Outcome.UNKNOWN,
    ),
    "has headers that are none": (
        handler(b"HTTP/1.1 200 OK\r\nno header\r\n\r\n"),
        [PROTOCOL],
        "RemoteProtocolError",
        "ClientResponseError",
        Outcome.UNKNOWN,
    ),
    "closes before an event": (
        handler(OK),
        [CUT, LOST],
        "RemoteProtocolError",
        "ClientPayloadError",
        Outcome.UNKNOWN,
    ),
    "closes after an event": (
        handler(BEGUN),
        [CUT, LOST],
        "RemoteProtocolError",
        "ClientPayloadError",
        Outcome.STARTED,
    ),
    "closes in a chunk": (
        handler(BEGUN, b"ff\r\ndata"),
        [CUT, LOST],
        "RemoteProtocolError",
        "ClientPayloadError",
        Outcome.STARTED,
    ),
    "resets after an event": (
        handler(BEGUN, reset=True),
        [CUT, LOST],
        "ReadError",
        "ClientPayloadError",
        Outcome.STARTED,
    ),
    "resets a body without an end": (
        handler(UNFRAMED + progress(1), reset=True),
        [CUT, LOST],
        "ReadError",
        "ClientOSError",
        Outcome.STARTED,
    ),
    "ends as it should, but for close": (handler(BEGUN, LAST), [CUT], "", "", Outcome.STARTED),
    "is shorter than it says": (
        handler(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 999\r\n\r\n" + progress(1)),
        [CUT, LOST],
        "RemoteProtocolError",
        "ClientPayloadError",
        Outcome.STARTED,
    ),
}


ECHOES: Final = [
    # bytes of the server; the reason that each library gives
    ((b"HTTP/1.1 2x0 CANARY\r\n\r\n",), "status"),  # line, or code
    ((b"HTTP/1.1 200 OK\r\nCANARY\r\n\r\n",), "header"),
    ((UNFRAMED[:-2] + b"content-length: CANARY\r\n\r\n",), "Content-Length"),
    ((BEGUN + b"CANARY\r\n",), "the server"),  # by itself, aiohttp waits for more
]


@pytest.mark.parametrize("what", BROKEN)
async def test_broken_servers(library: Library, what: str) -> None:
    """A broken connection is told from invalid HTTP; the cause is the library's own error."""
    handle, ours, of_httpx, of_aiohttp, outcome = BROKEN[what]
    async with asking(library, handle) as (agent, server):
        agent.server_url = f"http://user:secret@127.0.0.1:{server.port}?k=secret"
        error = await failure(agent)
        assert len(server.requests) == 1
    cause = of_aiohttp if library.name == "aiohttp" else of_httpx
    expected = [*ours, getattr(library.module, cause)] if cause else ours
    assert causes(error)[: len(expected)] == expected
    assert error.outcome == outcome
    assert error.retryable is False
    assert server.url == error.server_url
    assert "secret" not in f"{error} {error!r}"
    if outcome is Outcome.STARTED:
        assert error.partial is not None
        assert [event.type for event in error.partial.events] == ["progress"]


@pytest.mark.parametrize("ends", [True, False])
async def test_a_malformed_chunk_in_mid_stream(library: Library, *, ends: bool) -> None:
    """An invalid chunk size ends the run with a typed error, by a time-out if the library waits forever.

    aiohttp's parser, written in C, waits even when the server has closed the connection.
    """
    seen = anyio.Event()

    async def handle(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(BEGUN)
        await seen.wait()
        await conversation.send(b"no length\r\n")
        if ends:
            await conversation.close()
        else:
            await conversation.client_left()

    async with asking(library, handle) as (agent, _):
        agent.timeouts = Timeouts(idle=1)  # the first event comes at once, if the machine is not busy
        with anyio.fail_after(SOON), pytest.raises((errors.IdleTimeoutError, CUT)) as raised:
            async with agent.stream("hi") as run:
                await anext(run)
                seen.set()
                await anext(run)
    assert raised.value.outcome is Outcome.STARTED
    if library.name != "aiohttp":
        assert [CUT, PROTOCOL, library.cause("RemoteProtocolError")] == causes(raised.value)[:3]


@pytest.mark.parametrize("reset", [False, True])
async def test_a_stream_until_the_connection_ends(library: Library, reset: bool) -> None:
    """A stream without length and chunks is complete after its close event, however the connection ends."""
    async with asking(library, handler(UNFRAMED + answer("42") + close(), reset=reset)) as (agent, _):
        assert (await agent.ask("hi")).output == "42"


# ------------------------------------------------------------------------------------------------------------------ TLS


# httpx leaves the generator of a body that could not be sent: https://github.com/encode/httpx/issues/3686
@pytest.mark.filterwarnings("ignore:Async generator 'httpx2?._content.ByteStream:ResourceWarning")
async def test_client_certificates(library: Library) -> None:
    """A server that refuses the client after the handshake is a lost connection; with the certificate it answers."""
    context = server_context()
    AUTHORITY.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  (trustme types it by another package)
    context.verify_mode = ssl.CERT_REQUIRED
    async with asking(library, play(ANSWER), tls=context, verify=client_context()) as (agent, server):
        for _ in range(5):
            error = await failure(agent)
            assert type(error) is LOST
            assert error.outcome is Outcome.UNKNOWN
            assert server.requests == []
    client_side = client_context()
    AUTHORITY.issue_cert("client.test").configure_cert(client_side)  # pyright: ignore[reportUnknownMemberType]  (trustme types it by another package)
    async with asking(library, play(ANSWER), tls=context, verify=client_side) as (agent, server):
        assert (await agent.ask("hi")).output == "42"


async def test_requests_that_are_refused(library: Library) -> None:
    """A request that cannot be sent raises ConfigurationError without header values in its text."""
    async with asking(library, play(ANSWER)) as (agent, server):
        agent.headers = {"authorization": "Bearer secret "}
        error = await failure(agent)
        assert type(error) is errors.ConfigurationError
        assert error.outcome is Outcome.NOT_SENT
        assert "secret" not in f"{error} {error!r}"
        agent.headers = {}
        assert (await agent.ask("hi")).output == "42"
        assert len(server.requests) == 1


# -------------------------------------------------------------------------------------------- Clients of the user's own


async def test_a_users_client(library: Library) -> None:
    """A client of the user's is used as it is and never closed; its redirects and read time-out do no harm."""
    go = anyio.Event()
    slow: list[bytes | type[CLOSE] | anyio.Event] = [BEGUN, go, chunk(answer("42")), chunk(close()), LAST]
    redirect = document(b"", "307 Temporary", "location: http://elsewhere.test/\r\n")
    replies = play(slow, redirect, document(b"{}", "307 Temporary", "location: //elsewhere.test/x\r\n"))
    async with library.client(headers={"x-theirs": "1", "accept": "no"}) as client:
        async with asking(library, replies, **{library.own: client}) as (agent, server):
            assert repr(agent.transport) == f"{type(agent.transport).__name__}({library.own}=...)"
            async with agent.stream("hi") as run:
                await anext(run)
                await anyio.sleep(0.3)  # more than the client's own read time-out
                go.set()
                assert (await run.final_response()).output == "42"
            assert isinstance(await failure(agent), errors.RedirectError)
            with pytest.raises(errors.RedirectError):
                await agent.init()
            async with agent:
                pass
            await agent.aclose()
            assert agent.transport is not None
            await agent.transport.aclose()
        assert not (client.closed if library.name == "aiohttp" else client.is_closed)
        assert [request.line.split()[1] for request in server.requests] == [
            "/sse/chat",
            "/sse/chat",
            "/get_organization",
        ]
        assert {request.headers["x-theirs"] for request in server.requests} == {"1"}
        assert {request.headers["accept"] for request in server.requests[:2]} == {"text/event-stream"}
    error = await failure(agent)
    assert type(error) is errors.ClosedError
    assert error.outcome is Outcome.NOT_SENT


@pytest.mark.parametrize("size", [1, 100_000])
async def test_a_request_that_expects_an_interim_response(library: Library, size: int) -> None:
    """Its body is sent without waiting for one."""
    async with asking(library, play(ANSWER)) as (agent, server):
        answered = await agent.ask("x" * size, headers={"expect": "100-continue"})
        assert answered.output == "42"
        assert json.loads(server.requests[0].body)["query"] == "x" * size
        assert server.requests[0].headers["expect"] == "100-continue"


@pytest.mark.parametrize("size", [3, 100_000])
async def test_a_wrong_length_of_a_request(library: Library, size: int) -> None:
    """It is an error, or is replaced: what follows on the connection would be taken for another request."""
    async with asking(library, play(ANSWER)) as (agent, server):
        for _ in range(2):
            with suppress(errors.OxyError):
                await agent.ask("x" * size, headers={"content-length": "2"})
        assert all(request.body.endswith(b"}") for request in server.requests)
        assert len(server.requests) == (2 if library.name == "aiohttp" else 0)


async def test_a_request_that_is_sent_again(library: Library) -> None:
    """Where a library sends an idempotent request again by itself, it is the whole request."""
    transport = library.transport(trust_env=False)
    async with serving(play(document(b"{}"), [CLOSE], document(b"{}"))) as server:
        for _ in range(2):
            with suppress(errors.ConnectionLostError):
                async with transport.exchange(HTTPRequest("PUT", server.url, "/file", body=b"1")) as response:
                    assert [piece async for piece in response.chunks] == [b"{}"]
        await transport.aclose()
    assert [request.body for request in server.requests] == [b"1"] * (3 if library.name == "aiohttp" else 2)


async def test_statuses_with_a_users_client(library: Library) -> None:
    """A status is handed over, even if a session is set to raise it."""
    async with (
        library.client() as client,
        asking(library, play(document(b"no", "403 No")), **{library.own: client}) as (agent, _),
    ):
        error = await failure(agent)
    assert type(error) is errors.PermissionDeniedError
    assert error.outcome is Outcome.REJECTED


async def _refuse(response: Any) -> None:
    response.raise_for_status()


async def _read(response: Any) -> None:
    await response.aread()


@FAMILY
@pytest.mark.parametrize(
    ("hook", "reply", "expected"),
    [(_refuse, document(b"", "401 Who"), PROTOCOL), (_read, ANSWER, CUT)],
    ids=["raises for a status", "reads the body"],
)
async def test_hooks_of_a_users_client(
    library: Library, hook: Any, reply: bytes, expected: type[errors.OxyError]
) -> None:
    """An exception of a client's hook becomes an error of this package, without a secret in its text."""
    async with (
        library.bare(event_hooks={"response": [hook]}, trust_env=False) as client,
        asking(library, play(reply), client=client) as (agent, server),
    ):
        agent.server_url = f"http://user:secret@127.0.0.1:{server.port}/?k=secret"
        error = await failure(agent)
        assert type(error) is expected
        assert error.outcome is Outcome.UNKNOWN
        assert "secret" not in f"{error} {error!r}"


async def test_a_full_pool_of_a_users_client(library: Library) -> None:
    """A full pool of a user's client raises ConnectTimeoutError with outcome NOT_SENT."""
    async with (
        library.crowded() as client,
        asking(library, play([BEGUN, anyio.Event()]), **{library.own: client}) as (agent, server),
    ):
        async with agent.stream("hi") as run:
            await anext(run)
            error = await failure(agent)
        assert type(error) is errors.ConnectTimeoutError
        assert error.outcome is Outcome.NOT_SENT
        assert len(server.requests) == 1


def test_conflicting_arguments(library: Library) -> None:
    """A client cannot be combined with verify, proxy or a Unix socket, nor a proxy with a Unix socket."""
    wrong: list[dict[str, Any]] = [{"verify": False}, {"proxy": "http://p.test"}, {"unix_socket": "/s"}]
    for options in wrong:
        with pytest.raises(errors.ConfigurationError, match="verify, proxy or unix_socket"):
            library.transport(**{library.own: object()}, **options)
    with pytest.raises(errors.ConfigurationError, match="unix_socket"):
        library.transport(proxy="http://p.test", unix_socket="/s")


# -------------------------------------------------------------------------------------------------------------- Proxies


PROXIES: Final[dict[str, tuple[dict[str, str], bool, bool, str]]] = {
    # case: (the environment, whether a proxy is given, whether the environment is used, the server of the request)
    "the argument": ({"HTTP_PROXY": "E"}, True, True, "named"),
    "HTTP_PROXY": ({"HTTP_PROXY": "E"}, False, True, "environment"),
    "ALL_PROXY": ({"ALL_PROXY": "E"}, False, True, "environment"),
    "NO_PROXY": ({"ALL_PROXY": "E", "NO_PROXY": "127.0.0.1"}, False, True, "direct"),
    "without the environment": ({"HTTP_PROXY": "E"}, False, False, "direct"),
    "none": ({}, False, True, "direct"),
}


@pytest.mark.parametrize(("environment", "is_named", "trust_env", "expected"), PROXIES.values(), ids=PROXIES)
async def test_proxies(
    library: Library,
    environment: dict[str, str],
    is_named: bool,
    trust_env: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The proxy argument is used, or else the environment's, unless the environment is ignored."""
    target = "http://remote.test:8000"
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with serving(play(ANSWER)) as named, serving(play(ANSWER)) as other, serving(play(ANSWER)) as direct:
        servers = {"named": named, "environment": other, "direct": direct}
        for name, value in environment.items():
            monkeypatch.setenv(name, other.url if value == "E" else value)
        proxy = named.url.replace("//", "//user:secret@") if is_named else None
        transport = library.transport(proxy=proxy, trust_env=trust_env)
        url = direct.url if expected == "direct" else target
        assert (await plain(server_url=url, transport=transport).ask("hi")).output == "42"
        await transport.aclose()
    assert [name for name, server in servers.items() for _ in server.requests] == [expected]
    (request,) = servers[expected].requests
    path = "/sse/chat" if expected == "direct" else f"{target}/sse/chat"
    assert request.line == f"POST {path} HTTP/1.1"
    assert ("proxy-authorization" in request.headers) == is_named


async def test_a_proxy_that_refuses(library: Library) -> None:
    """A proxy that refuses to connect raises ConnectError with outcome NOT_SENT."""
    async with serving(play(document(b"", "407 Pay"))) as proxy:
        transport = library.transport(proxy=proxy.url, trust_env=False)
        error = await failure(plain(server_url="https://remote.test?k=secret", transport=transport))
        await transport.aclose()
        assert [request.line for request in proxy.requests] == ["CONNECT remote.test:443 HTTP/1.1"]
        assert type(error) is errors.ConnectError
        assert error.outcome is Outcome.NOT_SENT
        assert "secret" not in f"{error} {error!r}"


PROXY_BASIC: Final = base64.b64encode(b"ada:canarypw77").decode()
QUOTES: Final = f"no: ada:canarypw77, Basic {PROXY_BASIC}"


@pytest.mark.parametrize("target", ["https://remote.test", "http://remote.test"], ids=["a tunnel", "plain http"])
@pytest.mark.parametrize("status", ["407", "799"], ids=["a known status", "a status without a name"])
async def test_a_proxy_that_echoes_its_password(library: Library, status: str, target: str) -> None:
    """Neither the reason phrase nor the body of a proxy brings its password into an error."""
    refusal = document(QUOTES.encode(), f"{status} {QUOTES}", "content-type: text/plain\r\nconnection: close\r\n")
    async with serving(play([refusal, CLOSE])) as proxy:
        url = proxy.url.replace("://", "://ada:canarypw77@")
        transport = library.transport(proxy=url, trust_env=False)
        error = await failure(plain(server_url=target, transport=transport))
        await transport.aclose()
        assert PROXY_BASIC in proxy.requests[0].headers["proxy-authorization"]
    shown = f"{error} {getattr(error, 'body', '')}"
    assert status in shown
    assert "canarypw77" not in shown
    assert PROXY_BASIC not in shown


async def test_credentials_of_a_users_client(library: Library) -> None:
    """A credential known only to the client or session is redacted in the server's text too."""
    refusal = document(b"bad canarykey77, canarycookie77", "403 No", "content-type: text/plain\r\n")
    headers = {"x-api-key": "canarykey77", "cookie": "session=canarycookie77"}
    async with (
        library.client(headers=headers) as client,
        asking(library, play(refusal), **{library.own: client}) as (agent, server),
    ):
        error = await failure(agent)
        assert server.requests[0].headers["x-api-key"] == "canarykey77"
    assert isinstance(error, errors.PermissionDeniedError)
    assert error.body == "bad [scrubbed], [scrubbed]"


async def test_the_proxy_of_a_users_client(library: Library) -> None:
    """A credential that such a client sends to its own proxy is redacted."""
    refusal = document(QUOTES.encode(), f"407 {QUOTES}", "content-type: text/plain\r\nconnection: close\r\n")
    async with serving(play([refusal, CLOSE])) as proxy:
        url = proxy.url.replace("://", "://ada:canarypw77@")
        async with library.client(proxy=url) as client:
            transport = library.transport(**{library.own: client})
            error = await failure(plain(server_url="http://remote.test", transport=transport))
            assert PROXY_BASIC in proxy.requests[0].headers["proxy-authorization"]
    assert isinstance(error, errors.StatusError)
    assert error.body == "no: [scrubbed], [scrubbed]"


@pytest.mark.parametrize(
    ("proxy", "expected"),
    [
        ("http://user:secret@127.0.0.1:{port}", errors.ConnectError),
        ("ftp://user:secret@proxy.test", errors.ConfigurationError),
        ("socks5://user:secret@proxy.test", errors.ConfigurationError),
    ],
    ids=["missing", "ftp", "socks5"],
)
async def test_missing_and_unusable_proxies(library: Library, proxy: str, expected: type[errors.OxyError]) -> None:
    """A missing proxy raises ConnectError, an unusable one ConfigurationError, without a secret."""
    transport = library.transport(proxy=proxy.format(port=closed_port()), trust_env=False)
    error = await failure(plain(server_url="http://remote.test", transport=transport))
    await transport.aclose()
    assert type(error) is expected
    assert error.outcome is Outcome.NOT_SENT
    assert "secret" not in f"{error} {error!r} {transport!r}"


USELESS: Final = {
    "HTTP_PROXY": "http://proxy.test:9",
    "ALL_PROXY": "socks://127.0.0.1:9/",
    "NO_PROXY": "::1/128,fd07::/64",
    "SSL_CERT_FILE": "/nonexistent/cacert.pem",
    "SSL_CERT_DIR": "/nonexistent/certs",
    "SSLKEYLOGFILE": "/nonexistent/keys.log",
}
"""Files that do not exist."""


async def test_loopback_is_not_proxied(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's proxy is not used for loopback, and its secrets are not sent there."""
    for name, value in USELESS.items():
        monkeypatch.setenv(name, value)
    transport = library.transport()
    async with serving(play(ANSWER)) as server:
        agent = plain(server_url=f"http://localhost:{server.port}", transport=transport, auth=BearerAuth("s3cret"))
        assert (await agent.ask("hi")).output == "42"
        await transport.aclose()
    assert server.requests[0].headers["authorization"] == "Bearer s3cret"


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"])
async def test_certificates_that_cannot_be_read(
    library: Library, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Unreadable certificates raise an error with the variable where they are needed; nothing is sent."""
    monkeypatch.setenv(variable, USELESS[variable])
    transport = library.transport()
    error = await failure(plain(server_url="https://remote.test", transport=transport))
    await transport.aclose()
    assert isinstance(error, errors.ConfigurationError)
    assert variable in str(error)
    assert error.outcome is Outcome.NOT_SENT


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
async def test_an_unusable_proxy_of_the_environment(
    library: Library, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """An unusable proxy in the environment raises an error with the variable where it is needed; nothing is sent."""
    monkeypatch.setenv(variable, "socks://s3cret@127.0.0.1:9/")
    transport = library.transport()
    error = await failure(plain(server_url="http://remote.test", transport=transport))
    await transport.aclose()
    assert isinstance(error, errors.ConfigurationError)
    assert variable in str(error)
    assert "s3cret" not in str(error)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("is_named", [True, False], ids=["named", "environment"])
async def test_an_unreachable_proxy(
    library: Library, monkeypatch: pytest.MonkeyPatch, scheme: str, is_named: bool
) -> None:
    """The error of an unreachable proxy names the proxy and the setting."""
    port = closed_port()
    monkeypatch.setenv(f"{scheme}_proxy", f"http://user:s3cret@127.0.0.1:{port}")
    transport = library.transport(proxy=f"http://user:s3cret@127.0.0.1:{port}" if is_named else None)
    error = await failure(plain(server_url=f"{scheme}://remote.test", transport=transport))
    await transport.aclose()
    assert type(error) is errors.ConnectError
    assert f"proxy 127.0.0.1:{port} ({'proxy' if is_named else f'{scheme}_proxy'})" in str(error)
    assert "s3cret" not in str(error)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_an_unreachable_proxy_of_a_users_client(
    library: Library, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """The error of an unreachable proxy calls it a proxy even if only the client knows of it."""
    monkeypatch.setenv(f"{scheme}_proxy", f"http://127.0.0.1:{closed_port()}")
    async with library.bare(trust_env=True) as client:
        error = await failure(
            plain(server_url=f"{scheme}://remote.test", transport=library.transport(**{library.own: client}))
        )
    assert type(error) is errors.ConnectError
    assert "the proxy" in str(error)
    assert "remote.test" not in str(error)


async def test_a_proxy_whose_name_is_unknown(library: Library) -> None:
    """An unknown host name is reported as the proxy's, not the server's."""
    transport = library.transport(proxy="http://proxy.invalid:3128")
    error = await failure(plain(server_url="https://remote.test", transport=transport))
    await transport.aclose()
    assert type(error) is errors.ConnectError
    assert "proxy proxy.invalid:3128" in str(error)
    assert "remote.test" not in str(error)


async def test_connect_timeout_through_a_proxy(library: Library) -> None:
    """A connect time-out through a proxy names both, proxy and server."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:  # the queue is full
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        transport = library.transport(proxy=f"http://127.0.0.1:{port}", connect=0.1)
        error = await failure(plain(server_url="https://remote.test", transport=transport))
        await transport.aclose()
        for each in waiting:
            each.close()
    assert type(error) is errors.ConnectTimeoutError
    assert f"remote.test:443 over the proxy 127.0.0.1:{port}" in str(error)


ELSEWHERE: Final = "0.0.0.0"
"""A host name that is not known as loopback, but is where a server on it can be reached."""


@asynccontextmanager
async def behind(
    library: Library, proxy: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Transport, None]:
    """Return a transport over this proxy, which is set in one of three ways."""
    async with AsyncExitStack() as stack:
        options: dict[str, Any] = {"proxy": proxy}
        if how != "argument":
            if how == "environment":
                monkeypatch.setenv("HTTP_PROXY", proxy)
                options = {"trust_env": True}
            options = {library.own: await stack.enter_async_context(library.bare(**options))}
        transport = library.transport(**options)
        yield transport
        await transport.aclose()


HOW: Final = pytest.mark.parametrize("how", ["argument", "own", "environment"])
"""The argument `proxy`, a client of the user's own, and one that reads the environment itself."""
TOLD: Final = [
    pytest.param("http://localhost:8082", (), False, id="loopback"),
    pytest.param("http://127.0.0.1", (), False, id="loopback by its address"),
    pytest.param("http://remote.test", ("remote.test",), False, id="only the server is named"),
    pytest.param("http://remote.test", ("remote.test", ELSEWHERE), True, id="both are named"),
    pytest.param("http://localhost:8082", (ELSEWHERE,), True, id="the proxy is named"),
]


@HOW
@pytest.mark.parametrize(("url", "hosts", "is_seen"), TOLD)
async def test_credentials_over_a_proxy(
    library: Library, monkeypatch: pytest.MonkeyPatch, url: str, hosts: tuple[str, ...], how: str, is_seen: bool
) -> None:
    """A credential is sent in the clear over a proxy only if the proxy is in plaintext_hosts."""
    failed: list[errors.InsecureTransportError] = []
    async with (
        serving(play(ANSWER)) as proxy,
        behind(library, f"http://{ELSEWHERE}:{proxy.port}", how, monkeypatch) as transport,
    ):
        agent = plain(server_url=url, transport=transport, auth=BearerAuth("s3cret"), plaintext_hosts=hosts)
        try:
            await agent.ask("hi")
        except errors.InsecureTransportError as error:
            failed.append(error)
    assert [error.outcome for error in failed] == [Outcome.NOT_SENT] * (not is_seen)
    assert all(f"proxy '{ELSEWHERE}'" in str(error) for error in failed)
    assert [request.headers.get("authorization") for request in proxy.requests] == ["Bearer s3cret"] * is_seen


@HOW
async def test_requests_without_a_credential_over_a_proxy(
    library: Library, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A request without a credential may be sent over any proxy."""
    async with (
        serving(play(ANSWER)) as proxy,
        behind(library, f"http://{ELSEWHERE}:{proxy.port}", how, monkeypatch) as transport,
    ):
        assert (await plain(server_url="http://localhost:8082", transport=transport).ask("hi")).output == "42"
    assert proxy.requests[0].line == "POST http://localhost:8082/sse/chat HTTP/1.1"


async def test_credentials_over_a_loopback_proxy(library: Library) -> None:
    """A request to loopback over a proxy on loopback may hold a credential."""
    async with serving(play(ANSWER)) as proxy:
        transport = library.transport(proxy=proxy.url)
        agent = plain(server_url="http://localhost:8082", transport=transport, auth=BearerAuth("s3cret"))
        assert (await agent.ask("hi")).output == "42"
        await transport.aclose()


# ------------------------------------------------------------------------------------------ Redirects to an invalid URL


NO_URLS: Final = {
    "no slash": "http:x",
    "a script": "javascript:x",
    "an address of mail": "mailto:a@b",
    "no end of the host": "http://[::1",
    "a port that is none": "http://a.test:port/",
    "no host": "http://",
    "two slashes": "//",
    "nothing": "",
    "very long": "http:" + "x" * 30_000,
    "not ASCII": "http:\xe9",
    "a space": "http://a b/",
}


@pytest.mark.parametrize(
    ("status", "location"),
    [*((302, location) for location in NO_URLS), *((status, "no slash") for status in (301, 303, 307, 308))],
)
async def test_a_redirect_to_an_invalid_url(library: Library, status: int, location: str) -> None:
    """A redirect to an invalid URL is a refusal with outcome REJECTED, and `execute` returns it."""
    moved = f"HTTP/1.1 {status} X\r\nlocation: {NO_URLS[location]}\r\ncontent-length: 0\r\n\r\n".encode("latin-1")
    async with asking(library, play(moved)) as (agent, server):
        error = await failure(agent)
        response = await agent.execute(OxyRequest(arguments={"query": "hi"}))
    assert type(error) is errors.RedirectError
    assert error.outcome is Outcome.REJECTED
    assert response.state is OxyState.FAILED
    assert len(server.requests) == 2


@FAMILY
@pytest.mark.parametrize("is_users", [False, True], ids=["a client of ours", "a client of the user's"])
async def test_the_response_of_a_redirect_to_an_invalid_url(library: Library, is_users: bool) -> None:
    """A wrapper of the transport sees its status and headers, and an empty body."""
    moved = b"HTTP/1.1 302 X\r\nlocation: http:x\r\ncontent-length: 0\r\n\r\n"
    async with serving(play(moved)) as server, library.client() as client:
        transport = library.transport(client=client) if is_users else library.transport()
        async with transport.exchange(HTTPRequest("GET", server.url, "/get_agents")) as response:
            assert response.headers["location"] == "http:x"
            assert [chunk async for chunk in response.chunks] == []
        await transport.aclose()


async def test_a_closed_client(library: Library) -> None:
    """A closed client or session of the user's raises ClosedError, and nothing is sent."""
    client = library.client()
    await (client.aclose if hasattr(client, "aclose") else client.close)()
    transport = library.transport(**{library.own: client})
    error = await failure(plain(server_url="http://127.0.0.1:1", transport=transport))
    assert type(error) is errors.ClosedError
    assert error.outcome is Outcome.NOT_SENT


@FAMILY
async def test_a_redirect_to_an_invalid_url_behind_a_proxy(library: Library) -> None:
    """The server's response decides, not the proxy's response to CONNECT, which is no redirect."""
    moved = b"HTTP/1.1 302 X\r\nlocation: http:x\r\ncontent-length: 0\r\n\r\n"
    async with serving(play(moved)) as proxy:
        transport = library.transport(proxy=proxy.url)
        tunnelled = await failure(plain(server_url="https://remote.test", transport=transport))
        forwarded = await failure(plain(server_url="http://remote.test", transport=transport))
        await transport.aclose()
    assert type(tunnelled) is errors.ConnectError
    assert tunnelled.outcome is Outcome.NOT_SENT
    assert type(forwarded) is errors.RedirectError
    assert forwarded.outcome is Outcome.REJECTED


@pytest.mark.parametrize("location", ["http:x", "http://[::1"])
async def test_a_redirect_to_an_invalid_url_without_a_network(location: str) -> None:
    """A client without a network keeps such a response to itself, so the outcome is not NOT_SENT."""
    moved = httpx.Response(302, headers={"location": location})
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: moved)) as client:
        error = await failure(plain(server_url="http://remote.test", transport=HTTPXTransport(client=client)))
    assert type(error) is PROTOCOL
    assert error.outcome is Outcome.UNKNOWN


# -------------------------------------------------------------------------------------------------- The argument verify


@pytest.mark.parametrize(
    "verify", [0, 1, 0.0, None, "", "no-such-file.pem", [], ssl.CERT_NONE, ssl.SSLContext, ("a", "b")], ids=repr
)
def test_values_of_verify(library: Library, verify: object) -> None:
    """`verify` must be True, False or an SSL context; other false values are refused."""
    with pytest.raises(errors.ConfigurationError, match="verify") as caught:
        library.transport(verify=verify)
    assert caught.value.outcome is Outcome.NOT_SENT


def _of_all() -> ssl.SSLContext:
    context = client_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.parametrize(
    ("verify", "shown"),
    [
        pytest.param(lambda: True, "", id="True"),
        pytest.param(client_context, "", id="a context that verifies"),
        pytest.param(lambda: False, "verify=False", id="False"),
        pytest.param(_of_all, "verify=CERT_NONE", id="a context that does not"),
    ],
)
def test_without_verification(
    library: Library, verify: Callable[[], ssl.SSLContext | bool], shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Disabled verification is logged as a warning once for a transport, and shown in its repr."""
    transport = library.transport(verify=verify())
    assert repr(transport) == f"{type(transport).__name__}({shown})"
    told = [(record.levelname, shown in record.getMessage()) for record in caplog.records]
    assert [("WARNING", True)] * bool(shown) == told


# ------------------------------------------------------------------------------------------- Clients of other libraries


OTHERS: Final[dict[str, tuple[Any, str]]] = {
    "httpx": (httpx.AsyncClient, "HTTPXTransport"),
    "httpx2": (httpx2.AsyncClient, "HTTPX2Transport"),
    "aiohttp": (aiohttp.ClientSession, "AiohttpTransport"),
}


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("other", OTHERS)
async def test_a_client_of_another_library(name: str, other: str) -> None:
    """It is refused at construction, with the expected class and the transport that takes this one."""
    library, (make, place) = LIBRARIES[name], OTHERS[other]
    async with make() as client:
        if name == other:
            library.transport(**{library.own: client})
            return
        with pytest.raises(errors.ConfigurationError, match=rf"{library.own} .*{name}\..*{place}"):
            library.transport(**{library.own: client})


STRANGERS: Final = [
    pytest.param(object(), id="an object"),
    pytest.param(httpx.AsyncClient, id="a class"),
    pytest.param(aiohttp.ClientSession, id="another class"),
    pytest.param(httpx.Client(), id="a client that is synchronous"),
    pytest.param("http://proxy.test", id="a text"),
]


@pytest.mark.parametrize("given", STRANGERS)
def test_objects_that_are_not_clients(library: Library, given: object) -> None:
    """An object that is not a client of the library is refused at construction."""
    with pytest.raises(errors.ConfigurationError, match=rf"{library.own} must be an instance of {library.name}\."):
        library.transport(**{library.own: given})


@FAMILY
async def test_a_client_without_a_network_that_refuses(library: Library) -> None:
    """A status other than 200 is handed over even without a connection to close."""

    def refuse(_request: object) -> Any:
        return library.module.Response(404, content=b"no")

    async with library.module.AsyncClient(transport=library.module.MockTransport(refuse)) as client:
        error = await failure(plain(server_url="http://remote.test", transport=library.transport(client=client)))
    assert type(error) is errors.NotFoundError


async def test_a_client_in_another_loop(library: Library) -> None:
    """A client of the user's belongs to the event loop of its first use, over all transports."""
    async with serving(play(ANSWER, ANSWER)) as server, library.bare() as client:

        def agent() -> SSEOxyGent:
            return plain(server_url=server.url, transport=library.transport(**{library.own: client}))

        async def elsewhere() -> errors.OxyError:
            return await failure(agent())

        assert (await agent().ask("hi")).output == "42"
        for backend in library.loops:
            error = await anyio.to_thread.run_sync(partial(anyio.run, elsewhere, backend=backend))
            assert type(error) is errors.ConfigurationError
            assert "event loop" in str(error)
            assert error.outcome is Outcome.NOT_SENT
        assert (await agent().ask("hi")).output == "42"


def test_aiohttp_with_an_unusable_key_log() -> None:
    """The transport can be imported with an unusable key log, though aiohttp makes an SSL context at import."""
    environment = {**os.environ, "SSLKEYLOGFILE": "/nonexistent/keys.log"}
    command = [sys.executable, "-c", "import oxygent_client.transports.aiohttp as a; print(a.__name__)"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "oxygent_client.transports.aiohttp", done.stderr


# ------------------------------------------------------------------------------------------------- Event loops that end


def run_and_close(ask: Callable[[], Coroutine[Any, Any, str]]) -> str:
    """Return the output of `ask` in a new event loop of asyncio that is only closed."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(ask())
    finally:
        loop.close()


async def test_a_loop_that_ends(library: Library) -> None:
    """A transport that outlives an event loop keeps none of its connections."""
    transport: Any = library.transport()
    async with serving(play(ANSWER)) as server:

        async def ask() -> str:
            return str((await plain(server_url=server.url, transport=transport).ask("hi")).output)

        for backend in library.loops:
            assert await anyio.to_thread.run_sync(partial(anyio.run, ask, backend=backend)) == "42"
        assert transport.connections() == (0, 0)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # such a loop leaves its tasks
@pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")
async def test_a_loop_that_is_only_closed(library: Library) -> None:
    """The connections of a loop that was only closed are closed when the transport is used in another."""
    transport: Any = library.transport()
    async with serving(play(ANSWER)) as server:

        async def ask() -> str:
            return str((await plain(server_url=server.url, transport=transport).ask("hi")).output)

        for _ in range(3):
            assert await anyio.to_thread.run_sync(run_and_close, ask) == "42"
        await ask()
        assert transport.connections() == (1, 1)
        await transport.aclose()
    gc.collect()


# --------------------------------------------------------------------------------------------------------- Unix sockets


async def test_a_unix_socket(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Unix socket is used in place of the URL's host, which stays the Host header; no proxy is used."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    path = tmp_path / "s"
    replies, left = play(ANSWER), anyio.Event()

    async def handle(conversation: Conversation) -> None:
        await replies(conversation)
        left.set()

    async with serving(handle, unix_socket=path) as server:
        transport = library.transport(unix_socket=str(path))
        agent = plain(server_url="http://agents.test/base", transport=transport)
        for _ in range(2):
            assert (await agent.ask("hi")).output == "42"
        assert ((None, None) if library.own == "session" else (1, 1)) == counted(agent)
        await transport.aclose()
        await left.wait()  # anyio 4.16 raises if cancelled at the moment when such a socket is closed
        assert server.connections == 1
        assert server.requests[0].line == "POST /base/sse/chat HTTP/1.1"
        assert server.requests[0].headers["host"] == "agents.test"
    path.unlink()
    transport = library.transport(unix_socket=str(path))
    error = await failure(plain(server_url="http://agents.test/base", transport=transport))
    assert type(error) is errors.ConnectError
    assert error.outcome is Outcome.NOT_SENT
    await transport.aclose()


# -------------------------------------------------------------------------------------------------- Closing and copying


async def test_closing_and_copying(library: Library) -> None:
    """A transport may be closed twice, does not open again, and is copied as its configuration."""
    transport: Any = library.transport(verify=False, connect=3, trust_env=False)
    assert repr(transport) == f"{type(transport).__name__}(verify=False)"
    async with serving(play(ANSWER)) as server:
        agent = plain(server_url=server.url, transport=transport)
        await agent.ask("hi")
        for _ in range(2):
            await transport.aclose()
        error = await failure(agent)
        assert type(error) is errors.ClosedError
        assert error.outcome is Outcome.NOT_SENT
        for clone in (pickle.loads(pickle.dumps(transport)), copy.deepcopy(transport), copy.copy(transport)):
            assert type(clone) is type(transport)
            await plain(server_url=server.url, transport=clone).ask("hi")
            await clone.aclose()
            live = {"_live": None, "_closed": None, "_counter": None}
            assert vars(transport) | live == vars(clone) | live
            assert transport._counter is not clone._counter
        assert server.connections == 4


async def test_data_left_by_a_reader(library: Library) -> None:
    """Data of a detached run that was received but not read when its reader leaves goes to the next reader."""
    stream = [OK + chunk(progress(0)), *(chunk(progress(number)) for number in range(1, 300)), chunk(close()), LAST]
    sent = anyio.Event()

    async def handle(conversation: Conversation) -> None:
        await conversation.request()
        for piece in stream:
            await conversation.send(piece)
        sent.set()

    async with asking(library, handle) as (agent, server):
        token = RunHandle(server_url=server.url, trace_id="t", remote_trace_id="t", node_id="n").to_token()
        async with agent.attach(token) as run:
            told = [await anext(run)]
            await sent.wait()
        with pytest.raises(errors.NoAnswerError):
            async with agent.attach(token) as run:
                async for event in run:
                    told.append(event)  # noqa: PERF401  (it ends by an error)
        assert [event.content for event in told] == [*range(300)]
        assert len(server.requests) == 1


async def test_closing_during_a_run(library: Library) -> None:
    """Closing the transport during a run raises an error in the reader, and no request follows."""
    async with asking(library, play([BEGUN, anyio.Event()])) as (agent, server):
        agent.timeouts = Timeouts(total=15, lookup=5)
        transport = agent.transport
        assert transport is not None

        async def read(run: Run) -> None:
            with pytest.raises(errors.OxyError) as caught:
                await run.final_response()
            assert caught.value.outcome is Outcome.STARTED

        async with anyio.create_task_group() as tasks, agent.stream("hi") as run:
            await anext(run)
            tasks.start_soon(read, run)
            await anyio.wait_all_tasks_blocked()
            await transport.aclose()
        assert server.connections == 1
        assert len(server.requests) == 1


async def test_leaving_the_agent_during_a_run() -> None:
    """Leaving the agent during a run closes its transport, with the same effect."""
    run: Run | None = None
    async with serving(play([BEGUN, anyio.Event()])) as server:
        async with SSEOxyGent(server_url=server.url, timeouts=Timeouts(total=15, lookup=5)) as agent:
            run = agent.stream("hi")
            await run.__aenter__()
            await anext(run)
        with pytest.raises(errors.OxyError) as caught:
            await anext(run)
        assert caught.value.outcome is Outcome.STARTED
        assert server.connections == 1
        assert len(server.requests) == 1


CLOSED: Final = SimpleNamespace(stream=None, request=None, is_closed=True, closed=True, timeout=None)


@pytest.mark.parametrize("travel", [pickle.dumps, copy.deepcopy, copy.copy])
@pytest.mark.parametrize(("argument", "value"), [("own", CLOSED), ("verify", NO_AUTHORITY)], ids=["own", "verify"])
def test_live_objects_cannot_be_copied(
    library: Library, argument: str, value: object, travel: Callable[[object], object]
) -> None:
    """A transport with a user's client or SSL context cannot be copied or pickled; the error names it."""
    name = {"own": library.own}.get(argument, argument)
    with pytest.raises(errors.ConfigurationError, match=f"`{name}`"):
        travel(library.transport(**{name: value}))


async def test_one_transport_in_two_loops(library: Library) -> None:
    """A transport used in several event loops at once has separate connections in each."""
    transport = library.transport(trust_env=False)
    async with serving(play(ANSWER)) as server:
        agent = plain(server_url=server.url, transport=transport)

        async def elsewhere() -> str:
            output = (await agent.ask("hi")).output
            await transport.aclose()
            return str(output)

        await agent.ask("hi")
        for backend in library.loops:
            assert await anyio.to_thread.run_sync(partial(anyio.run, elsewhere, backend=backend)) == "42"
        await agent.ask("hi")
        assert server.connections == 1 + len(library.loops)
        assert len(server.requests) == 2 + len(library.loops)
    await transport.aclose()


async def test_no_cookie_is_kept_between_runs(library: Library) -> None:
    """A cookie set in one run is not sent in the next: an agent may serve many users."""
    with_cookie = ANSWER.replace(b"\r\n", b"\r\nset-cookie: session=user-a\r\n", 1)
    async with asking(library, play(with_cookie)) as (agent, server):
        agent.server_url = f"http://localhost:{server.port}"  # aiohttp's default cookie jar ignores IP addresses
        for _ in range(2):
            await agent.ask("hi")
    assert [request.headers.get("cookie") for request in server.requests] == [None, None]


async def test_user_information_in_the_url(library: Library) -> None:
    """User information in the URL is sent as basic credentials; a second credential is refused before sending."""
    async with asking(library, play(ANSWER)) as (agent, server):
        agent.server_url = server.url.replace("://", "://ada:p%40ss@")
        assert (await agent.ask("hi")).output == "42"
        agent.auth = BearerAuth("t")
        assert type(await failure(agent)) is errors.ConfigurationError
    assert [request.headers["authorization"] for request in server.requests] == ["Basic YWRhOnBAc3M="]


@pytest.mark.parametrize("end", [b"", b"zz\r\n", chunk(progress(3))[:-4]], ids=["cut", "nonsense", "cut in a chunk"])
async def test_data_before_an_error(library: Library, end: bytes) -> None:
    """A slow reader gets the data received before the connection broke, and then the error."""
    go = anyio.Event()
    runs = play([BEGUN, go, chunk(progress(2)) + end, CLOSE])
    seen: list[object] = []
    async with asking(library, runs) as (agent, _), agent.stream("hi") as run:
        with pytest.raises(errors.IncompleteStreamError):
            async for event in run:
                seen.append(event.type)
                go.set()
                await anyio.sleep(0.05)  # until it is broken, which cannot be observed
    assert seen == ["progress", "progress"]


@pytest.mark.parametrize(("said", "reason"), ECHOES, ids=[reason for _, reason in ECHOES])
async def test_no_echo_in_an_error(library: Library, said: tuple[bytes, ...], reason: str) -> None:
    """An invalid response is described by its fault and not quoted: it may echo a secret."""
    async with asking(library, handler(*said)) as (agent, _):
        agent.auth = BearerAuth("CANARY-4711")
        error = await failure(agent)
    assert "CANARY" not in f"{error} {error.__cause__ if isinstance(error, CUT) else None}"
    assert reason in str(error)


async def test_netrc_is_not_read(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials in `.netrc` are not sent, even if the environment is used."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\n", encoding="utf-8")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with serving(play(ANSWER)) as server:
        transport = library.transport()
        await plain(server_url=server.url, transport=transport).ask("hi")
        await transport.aclose()
    assert "authorization" not in server.requests[0].headers


def test_aiohttp_under_trio() -> None:
    """Under trio the aiohttp transport raises an error that names the others; closing it is no error."""

    async def ask() -> errors.OxyError:
        transport = AiohttpTransport()
        error = await failure(plain(server_url="http://127.0.0.1:9", transport=transport))
        await transport.aclose()
        return error

    error = anyio.run(ask, backend="trio")
    assert type(error) is errors.ConfigurationError
    assert error.outcome is Outcome.NOT_SENT
    assert "HTTPXTransport" in str(error)


# ---------------------------------------------------------------------------------------------------- Missing libraries

MISSING: Final = [("aiohttp", "AiohttpTransport"), ("httpx2", "HTTPX2Transport")]

WITHOUT: Final = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
import oxygent_client
oxygent_client.HTTPXTransport
try:
    __import__(f"oxygent_client.transports.{sys.argv[1]}")
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize(("name", "transport"), MISSING)
def test_without_the_library(name: str, transport: str) -> None:
    """Without the library the error names the extra to install; the rest of the package works."""
    done = subprocess.run([sys.executable, "-c", WITHOUT, name], capture_output=True, text=True, check=True)
    assert done.stdout == f"{transport} needs {name}: pip install 'oxygent-client[{name}]'\n"


@pytest.mark.parametrize(("name", "transport"), MISSING)
def test_without_the_library_in_this_process(name: str, transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in this process, for coverage."""
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"oxygent_client.transports.{name}")
    with pytest.raises(ImportError, match=f"{transport} needs {name}: pip install"):
        importlib.import_module(f"oxygent_client.transports.{name}")
