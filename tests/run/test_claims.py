"""Trace ids at a server, shared by plain agents and clusters that use the server as a replica.

Rule 1: a server is scripted and lists the trace ids of its requests.
Rule 2: time is virtual.
"""

from __future__ import annotations

import json
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest

from oxygent_client import HTTPRequest, HTTPResponse, Outcome, OxyRequest, SSEOxyGent, errors
from oxygent_client._core.ids import new_id
from oxygent_client._run.trace_claims import TraceIdClaims
from oxygent_client._run.trace_ids import TRACE_IDS
from oxygent_client.cluster import Cluster, Hedge
from oxygent_client.policies import Retry
from oxygent_client.testing import FakeTransport, Pause, Reply, close, message
from oxygent_client.transports import Context
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

A: Final = "http://a.example"
B: Final = "http://b.example"
BUSY: Final = Reply(status=503, headers={"retry-after": "1"})


class Servers:
    """Servers by URL. Each run takes five seconds; its answer is the query and the trace id."""

    def __init__(self, **instead: Reply) -> None:
        self.instead = instead
        self.sent: list[tuple[str, str, str]] = []
        """Server, path and trace id of each request for a run."""
        self.flying: set[tuple[str, str]] = set()
        self.views: list[str] = []

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        path = request.path.partition("?")[0]
        if path not in ("/sse/chat", "/async/chat"):
            self.views.append(request.url)
            async with FakeTransport({}).exchange(request) as response:
                yield response
            return
        host = request.url.partition("//")[2][0]
        payload = json.loads(request.body)
        key = host, payload["current_trace_id"]
        self.sent.append((host, path, key[1]))
        assert key not in self.flying, "two runs with one id take each other's messages"
        self.flying.add(key)
        try:
            if host in self.instead:
                async with FakeTransport({path: self.instead[host]}).exchange(request) as response:
                    yield response
            elif path == "/async/chat":
                body = json.dumps({"code": 200, "message": "SUCCESS", "data": {}}).encode()
                yield HTTPResponse(200, {"content-type": "application/json"}, pieces(body), request)
            else:
                yield HTTPResponse(200, {"content-type": "text/event-stream"}, self.answers(payload), request)
        finally:
            if path == "/sse/chat":  # a detached run continues
                self.flying.discard(key)

    async def answers(self, payload: dict[str, Any]) -> AsyncIterator[bytes]:
        """Yield the stream of a run."""
        await anyio.sleep(5)
        trace_id = payload["current_trace_id"]
        said = f"{payload['query']} after {payload['from_trace_id']}"
        yield message({"type": "answer", "content": said, "current_trace_id": trace_id})
        yield close()

    async def aclose(self) -> None:
        """Do nothing: no connection is open."""

    @property
    def ids(self) -> list[str]:
        """Return the trace ids that were sent."""
        return [trace_id for _, _, trace_id in self.sent]


async def pieces(*each: bytes) -> AsyncIterator[bytes]:
    """Yield a body."""
    for piece in each:
        yield piece


def at(servers: Servers, *urls: str, **options: Any) -> SSEOxyGent:
    """Return an agent with a cluster of these replicas."""
    return SSEOxyGent(transport=Cluster(urls, transport=servers, rng=float, **options), retry=Retry(attempts=1))


def plain(servers: Servers, url: str = A) -> SSEOxyGent:
    """Return an agent of one server."""
    return SSEOxyGent(server_url=url, transport=servers)


PAIRS: Final[dict[str, Callable[[Servers], tuple[SSEOxyGent, SSEOxyGent]]]] = {
    "cluster and plain": lambda servers: (at(servers, A), plain(servers)),
    "plain and cluster": lambda servers: (plain(servers, "HTTP://A.EXAMPLE:80/"), at(servers, A)),
    "two clusters": lambda servers: (at(servers, A), at(servers, f"{A}/", B)),
    "one cluster": lambda servers: (ours := at(servers, A), ours),
    "two plain ones": lambda servers: (plain(servers), plain(servers, f"{A}:80/?key=1")),
}


@pytest.mark.parametrize("who", PAIRS)
async def test_two_runs_at_once(who: str) -> None:
    """Two runs at once with one trace id have different ids at the server, and each gets its own answer."""
    servers, trace_id = Servers(), new_id()
    first, second = PAIRS[who](servers)
    async with first.stream("one", trace_id=trace_id) as one, second.stream("two", trace_id=trace_id) as two:
        assert one.remote_trace_id == trace_id
        assert two.remote_trace_id.startswith(f"{trace_id}-")
        assert two.trace_id == trace_id
        answers = [(await run.final_response()).output for run in (one, two)]
    assert answers == ["one after ", "two after "]
    assert servers.ids == [one.remote_trace_id, two.remote_trace_id]
    assert two.response.extra["remote_trace_id"] == two.remote_trace_id


@pytest.mark.parametrize("who", PAIRS)
async def test_one_run_after_the_other(who: str) -> None:
    """After a clean end the id is sent again unchanged; after an unclean end it is replaced at that server."""
    servers, trace_id = Servers(), new_id()
    first, second = PAIRS[who](servers)
    await first.ask("one", trace_id=trace_id)
    async with second.stream("two", trace_id=trace_id):
        pass
    await first.ask("three", trace_id=trace_id)
    assert servers.ids[:2] == [trace_id] * 2
    assert servers.ids[2].startswith(f"{trace_id}-")


async def test_at_another_replica() -> None:
    """A trace id in use at one server may be sent unchanged to another."""
    servers, trace_id = Servers(), new_id()
    async with plain(servers, B).stream("one", trace_id=trace_id):
        await at(servers, A).ask("two", trace_id=trace_id)
    assert servers.ids == [trace_id] * 2


async def test_a_follow_up_turn() -> None:
    """A follow-up turn refers to the first run by the id that the replica knows."""
    servers, trace_id = Servers(), new_id()
    ours = at(servers, A)
    async with plain(servers).stream("one", trace_id=trace_id):
        await ours.ask("two", trace_id=trace_id)
    renamed = servers.ids[1]
    for agent in (ours, plain(servers)):
        response = await agent.ask("three", from_trace_id=trace_id)
        assert response.output == f"three after {renamed}"


async def test_a_detached_run_of_a_cluster() -> None:
    """A detached run of a cluster is known under its replica's URL, to `attach` and to `lookup`."""
    servers, trace_id = Servers(), new_id()
    async with plain(servers).stream("one", trace_id=trace_id):
        handle = await at(servers, A).start("two", trace_id=trace_id)
    assert handle.server_url == A
    assert handle.remote_trace_id == servers.ids[1] != trace_id
    await plain(servers).lookup(trace_id)
    assert servers.views == [f"{A}/view?item_id={handle.remote_trace_id}"]
    await plain(servers).ask("three", trace_id=handle.remote_trace_id)
    assert servers.ids[2].startswith(f"{handle.remote_trace_id}-")


async def test_a_failover() -> None:
    """A failover frees the id at a replica that did not run the request; the replica that answers keeps it."""
    servers, trace_id = Servers(a=BUSY), new_id()
    async with at(servers, A, B).stream("one", trace_id=trace_id):
        del servers.instead["a"]
        await plain(servers, A).ask("two", trace_id=trace_id)
        await plain(servers, B).ask("three", trace_id=trace_id)
    assert [(host, trace == trace_id) for host, _, trace in servers.sent] == [
        ("a", True),
        ("b", True),
        ("a", True),
        ("b", False),
    ]


@pytest.mark.parametrize("error", [errors.ConnectError("refused"), errors.ConnectionLostError("lost")])
async def test_a_run_that_failed(error: errors.OxyError) -> None:
    """An id is sent again to a replica that was never reached, and replaced at one that may have run the request."""
    servers, trace_id = Servers(a=Reply(before=error)), new_id()
    with pytest.raises(type(error)):
        await at(servers, A).ask("one", trace_id=trace_id)
    servers.instead.clear()
    await plain(servers).ask("two", trace_id=trace_id)
    assert (servers.ids[1] == trace_id) is (error.outcome is Outcome.NOT_SENT)


async def test_a_hedge() -> None:
    """With hedging each replica gets an id that is free there; the run has the id of the replica that is used."""
    servers, trace_id = Servers(a=Reply(before=Pause(math.inf))), new_id()
    ours = at(servers, A, B, hedge=Hedge(after=2))
    other = plain(servers, B).stream("one", trace_id=trace_id)
    async with other, ours.stream("two", trace_id=trace_id, idempotent=True) as run:
        assert servers.sent[1:] == [("a", "/sse/chat", trace_id), ("b", "/sse/chat", run.remote_trace_id)]
        assert run.remote_trace_id != trace_id
        assert (await run.final_response()).output == "two after "
    servers.instead.clear()
    await plain(servers, A).ask("three", trace_id=trace_id)
    assert servers.ids[-1] != trace_id, "the replica that was left may have begun it"


async def test_a_redirect_of_a_replica() -> None:
    """A redirect by a replica sends the same id to the new location."""
    trace_id = new_id()
    moved = FakeTransport(
        {
            "/sse/chat": Reply(status=307, headers={"location": "/base/moved"}),
            "/base/moved": Reply([message({"type": "answer", "content": "42", "current_trace_id": trace_id}), close()]),
        }
    )
    ours = SSEOxyGent(transport=Cluster([f"{A}/base"], transport=moved))
    for _ in range(2):
        assert (await ours.ask("hi", trace_id=trace_id)).output == "42"


class Compressing:
    """A transport that changes the body, so that it is no payload any more."""

    def __init__(self, inner: Cluster) -> None:
        self.inner = inner

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        async with self.inner.exchange(attrs.evolve(request, body=b"\x1f\x8b")) as response:
            yield response

    async def aclose(self) -> None:
        """Do nothing: no connection is open."""


async def test_a_payload_that_cannot_be_changed() -> None:
    """If the id must be replaced but the body cannot be changed, the request is not sent and no id is claimed."""
    servers, trace_id = Servers(), new_id()
    ours = SSEOxyGent(transport=Compressing(Cluster([A], transport=servers)))
    async with plain(servers).stream("one", trace_id=trace_id) as run:
        with pytest.raises(errors.ConfigurationError) as caught:
            await ours.execute(OxyRequest(arguments={"query": "hi"}, current_trace_id=trace_id))
        await run.final_response()
    assert caught.value.outcome is Outcome.NOT_SENT
    assert len(servers.sent) == 1
    await plain(servers).ask("two", trace_id=trace_id)
    assert servers.ids == [trace_id] * 2


def test_a_hedge_at_one_replica() -> None:
    """A hedged request that is refused twice by one replica frees both ids."""
    trace_id = new_id()
    first = TRACE_IDS.claim("", trace_id)
    claims = TraceIdClaims(first)
    context = Context(trace_id=trace_id, remote_trace_id=trace_id, replica=f"{A}/twice")
    request = HTTPRequest("POST", A, "/sse/chat", body=b"{}", context=context)
    sent = [claims.assign(request).context.remote_trace_id for _ in range(2)]
    assert sent[0] == trace_id != sent[1]
    for _ in range(2):
        claims.discard(request)
    claims.release(ran=False, closed=False)
    assert TRACE_IDS.claim("", trace_id).remote == trace_id
