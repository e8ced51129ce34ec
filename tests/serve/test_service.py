"""The service without a protocol: access, limits, health, cancellation, shutdown and logging.

Rule: time is virtual; the remote is a toy in the same process, and so are the clients.
"""

from __future__ import annotations

import json
import logging
import math
from contextlib import asynccontextmanager
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest

from oxygent_client import (
    BearerAuth,
    Cluster,
    Custom,
    Event,
    Outcome,
    OxyError,
    SSEOxyGent,
    Timeouts,
    ToolCall,
    Trace,
    TraceCall,
    errors,
)
from oxygent_client.errors import ConfigurationError
from oxygent_client.serve import (
    Exchange,
    Failure,
    Mount,
    Outbound,
    Refused,
    Route,
    Runs,
    ServeLimits,
    Service,
    failure_of,
)
from oxygent_client.testing import FakeTransport, Reply, ToyRemote, answer, close
from oxygent_client.testing.script import Pause, Say, Script
from oxygent_client.transports.asgi import ASGITransport
from tests.support.asgi_client import ByServer, Call, request
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, MutableMapping, Sequence

REMOTE: Final = "http://remote.test"


@attrs.define(eq=False)
class Plain:
    """A protocol whose requests are `{"query": ..., "agent": ...}`, and whose responses are objects."""

    log: list[str] = attrs.field(factory=list[str])

    def routes(self, runs: Runs) -> Sequence[Route | Mount]:
        """Return routes for a whole response, for a stream, and for errors."""

        async def ask(exchange: Exchange) -> None:
            asked = exchange.json()
            async with runs.stream(asked["query"], agent=asked.get("agent", ""), headers=exchange.headers) as run:
                response = await run.final_response()
            await exchange.respond(200, {"answer": response.output, "running": runs.running})

        async def stream(exchange: Exchange) -> None:
            await exchange.start_stream()
            async with runs.stream(exchange.json()["query"]) as run:
                async for event in run:
                    await exchange.send_event({"type": event.type}, "message")
            await exchange.end_stream()

        async def empty(exchange: Exchange) -> None:
            await exchange.respond_empty(204)

        async def raises(_: Exchange) -> None:
            raise ValueError("a secret of the program")

        async def mounted(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            message = await receive()
            await send({"type": "http.response.start", "status": 202, "headers": [(b"x-own", b"1")]})
            await send({"type": "http.response.body", "body": scope["path"].encode() + message["body"]})

        return (
            Route("POST", "/ask", ask),
            Route("POST", "/stream", stream),
            Route("GET", "/empty", empty),
            Route("GET", "/raises", raises),
            Route("GET", "/below/*", empty),
            Mount("/mounted", mounted),
        )

    def error_document(self, failure: Failure) -> Any:
        """Return the members of a failure."""
        return {"code": failure.code, "message": failure.message, "outcome": str(failure.outcome)}

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Record its beginning and its end."""
        self.log.append("begin")
        yield
        self.log.append("end")


@attrs.define
class Site:
    """A service, and the toy that it serves."""

    service: Service
    toy: ToyRemote

    async def ask(self, query: str, **headers: str) -> Call:
        """Send a request."""
        return await request(self.service, "POST", "/ask", {"query": query}, **headers)


def site(*, agent: dict[str, Any] | None = None, toy: dict[str, Any] | None = None, **options: Any) -> Site:
    """Yield a service of a toy."""
    remote = ToyRemote(**(toy or {}))
    served = SSEOxyGent(server_url=REMOTE, transport=ASGITransport(remote), **(agent or {}))
    return Site(Service(served, [Plain()], **options), remote)


# ------------------------------------------------------------------------------------------------------------- Answers


async def test_an_answer() -> None:
    """A request runs the agent once, and its slot is free afterwards."""
    here = site()
    reply = await here.ask("echo hello")
    assert reply.document == {"answer": "hello", "running": 0}
    assert [run.query for run in here.toy.runs] == ["echo hello"]


async def test_an_answer_of_an_agent_by_name() -> None:
    """A name of the organization selects that agent; with the master's name the remote chooses."""
    here = site()
    replies = [
        await request(here.service, "POST", "/ask", {"query": "echo x", "agent": name})
        for name in ("flight_agent", "trip_planner", "flight_agent")
    ]
    assert [reply.document["answer"] for reply in replies] == ["x", "x", "x"]
    assert [run.payload.get("callee") for run in here.toy.runs] == ["flight_agent", None, "flight_agent"]


@pytest.mark.parametrize("name", ["search_flights", "nobody"], ids=["tool", "unknown"])
async def test_what_is_no_agent_is_not_called(name: str) -> None:
    """Tools of the remote, and unknown names, are refused before anything runs."""
    here = site()
    reply = await request(here.service, "POST", "/ask", {"query": "echo x", "agent": name})
    assert (reply.status, reply.document["code"]) == (404, "agent_not_found")
    assert here.toy.runs == []


async def test_the_agents() -> None:
    """The agents are the master and the agents below it, each once, with descriptions and without tools."""
    here = site()
    agents = await here.service.runs.agents()
    assert [agent.name for agent in agents] == ["trip_planner", "flight_agent", "hotel_agent", "review_agent"]
    assert await here.service.runs.agents() is agents
    assert agents[0].description == "Plans trips with flights and hotels"


def rename(message: Any) -> Any:
    """Give an agent another name, and hide what is about hotels."""
    text = json.dumps(message)
    return None if "hotel" in text and "Plans" not in text else json.loads(text.replace("flight_", "air_"))


def hide_names(message: Any) -> Any:
    """Return an agent without its name, as no message of its type, or unchanged."""
    content = message["content"]
    return {"review_agent": {**message, "type": "other"}}.get(content["name"], {**message, "content": {"desc": "x"}})


NAMES: Final[list[Any]] = [
    # `sanitize`, the callee of the agent, the names for clients
    pytest.param(rename, None, ["trip_planner", "air_agent", "review_agent"], id="renamed-and-hidden"),
    pytest.param(rename, "flight_agent", ["air_agent"], id="callee"),
    pytest.param(hide_names, None, ["remote"], id="no-names"),
    pytest.param(str, None, ["remote"], id="no-messages"),
    pytest.param(str, "flight_agent", ["remote"], id="callee-without-a-name"),
]


@pytest.mark.parametrize(("sanitize", "callee", "shown"), NAMES)
async def test_sanitized_names(sanitize: Any, callee: str | None, shown: list[str]) -> None:
    """Agents have the names that `sanitize` returns: without, an agent is hidden, and the default has the local one."""
    here = site(agent={"sanitize": sanitize, "callee": callee})
    assert [agent.name for agent in await here.service.runs.agents()] == shown


async def test_calls_by_sanitized_names() -> None:
    """An agent is called by its name for clients, and by no other."""
    here = site(agent={"sanitize": rename})
    replies = [
        await request(here.service, "POST", "/ask", {"query": "echo x", "agent": name})
        for name in ("air_agent", "trip_planner", "flight_agent", "hotel_agent")
    ]
    assert [reply.status for reply in replies] == [200, 200, 404, 404]
    assert [run.payload.get("callee") for run in here.toy.runs] == ["flight_agent", None]


@pytest.mark.parametrize("name", ["flight_agent", "search_flights"], ids=["agent", "tool"])
async def test_a_local_name_that_the_remote_has(name: str) -> None:
    """The default agent is the master also if the remote has another agent, or a tool, of the local name."""
    here = site(agent={"name": name})
    for asked in ("", "trip_planner", ""):
        await request(here.service, "POST", "/ask", {"query": "echo x", "agent": asked})
    assert [run.payload.get("callee") for run in here.toy.runs] == [None, "trip_planner", "trip_planner"]


async def test_sanitize_that_fails_at_an_agent() -> None:
    """A list of agents that `sanitize` fails at is an error, and its text is not shown."""
    here = site(agent={"sanitize": itemgetter("nothing")})
    with pytest.raises(KeyError):
        await here.service.runs.agents()


async def test_an_agent_with_a_callee_serves_that_one_only() -> None:
    """An agent with a callee serves that callee only."""
    here = site(agent={"callee": "flight_agent"})
    assert [agent.name for agent in await here.service.runs.agents()] == ["flight_agent"]
    reply = await here.ask("echo x")
    assert reply.document["answer"] == "x"
    assert here.toy.runs[0].payload["callee"] == "flight_agent"


async def test_a_remote_without_agents() -> None:
    """A remote without agents is listed under the local name."""
    here = site(toy={"organization": {}})
    assert [agent.name for agent in await here.service.runs.agents()] == ["remote"]


async def test_a_remote_that_hangs() -> None:
    """Requests that wait for a reading of the organization fail with it, and do not begin another."""
    transport = FakeTransport({"/get_organization": Reply((), before=Pause(1000))})
    runs = Runs(SSEOxyGent(server_url=REMOTE, transport=transport, timeouts=Timeouts(total=10)), ServeLimits())
    failed = list[str]()

    async def ask() -> None:
        with pytest.raises(errors.DeadlineExceededError) as caught:
            await runs.agents()
        failed.append(f"{caught.value}")

    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(ask)
    assert anyio.current_time() - began == pytest.approx(10)
    assert len(failed) == 5


async def test_a_health_check_that_hangs() -> None:
    """A health check that the remote does not answer keeps no request from the list of agents."""
    shape = {"code": 200, "message": "", "data": {"id_dict": {}, "organization": {"name": "one", "type": "agent"}}}
    hangs = Reply((), before=Pause(1000))
    transport = FakeTransport({"/get_organization": Reply.json(shape), "/check_alive": hangs})
    runs = Runs(SSEOxyGent(server_url=REMOTE, transport=transport), ServeLimits())
    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(runs.is_ready)
        await anyio.sleep(1)
        await runs.agents()
        assert anyio.current_time() - began == pytest.approx(1)
        group.cancel_scope.cancel()


async def test_the_organization_is_read_again() -> None:
    """The organization is cached for a minute, and a failure is not cached."""
    shape = {"code": 200, "message": "", "data": {"id_dict": {}, "organization": {"name": "one", "type": "agent"}}}
    transport = FakeTransport(
        {
            "/get_organization": [Reply.json({}, status=403), *[Reply.json(shape)] * 3],
            "/get_description": Reply.json({}),
        }
    )
    runs = Runs(SSEOxyGent(server_url=REMOTE, transport=transport, desc="x"), ServeLimits())
    with pytest.raises(OxyError):
        await runs.agents()
    for pause in (0, 59, 2):
        await anyio.sleep(pause)
        assert [agent.name for agent in await runs.agents()] == ["one"]
    assert len([each for each in transport.requests if each.path == "/get_organization"]) == 3


async def test_a_cluster() -> None:
    """With a cluster as the agent, requests are balanced over its replicas."""
    toys = {f"http://{name}.test": ToyRemote() for name in "ab"}
    transports = {url: ASGITransport(toy) for url, toy in toys.items()}
    by_host = Cluster([*toys], transport=ByServer(transports), strategy="round_robin")
    service = Service(SSEOxyGent(transport=by_host), [Plain()])
    for _ in range(4):
        assert (await request(service, "POST", "/ask", {"query": "echo x"})).document["answer"] == "x"
    assert [len(toy.runs) for toy in toys.values()] == [2, 2]


async def test_only_allowed_headers_are_forwarded() -> None:
    """Only the inbound headers in `forward_headers` are sent to the remote."""
    here = site(
        agent={
            "forward_headers": ["X-Tenant"],
            "auth": BearerAuth("of-the-gateway"),
            "plaintext_hosts": ["remote.test"],
        }
    )
    await here.ask("echo x", x_tenant="acme", cookie="c=1", authorization="Bearer of-the-client")
    sent = here.toy.runs[0].headers
    assert sent["x-tenant"] == "acme"
    assert sent["authorization"] == "Bearer of-the-gateway"
    assert "cookie" not in sent
    assert "_headers" not in here.toy.runs[0].payload["shared_data"]


# -------------------------------------------------------------------------------------------------------------- Access


ORIGIN: Final = "https://app.example.com"
PLACES: Final[list[Any]] = [
    # options of the service, headers of the request, the status
    pytest.param({}, {}, 200, id="no-origin"),
    pytest.param({}, {"origin": ORIGIN}, 403, id="origin-not-listed"),
    pytest.param({}, {"origin": "http://testserver"}, 403, id="own-origin-but-hosts-unknown"),
    pytest.param({"hosts": ["testserver"]}, {"origin": "http://testserver"}, 200, id="own-origin"),
    pytest.param({"token": "t0ken"}, {"origin": "http://testserver"}, 401, id="own-origin-without-the-token"),
    pytest.param(
        {"token": "t0ken"},
        {"origin": "http://testserver", "authorization": "Bearer t0ken"},
        200,
        id="own-origin-with-the-token",
    ),
    pytest.param(
        {"token": "t0ken"}, {"origin": "http://evil.test", "authorization": "Bearer t0ken"}, 403, id="another-origin"
    ),
    pytest.param({"hosts": ["testserver"]}, {"origin": "http://evil.test"}, 403, id="another-page"),
    pytest.param({"hosts": ["localhost"]}, {}, 403, id="rebound-name"),
    pytest.param({"hosts": ["localhost"]}, {"host": "localhost:8000"}, 200, id="port-does-not-count"),
    pytest.param({"hosts": ["::1"]}, {"host": "[::1]:8000"}, 200, id="ipv6"),
    pytest.param({"hosts": ["localhost"]}, {"host": ""}, 403, id="no-host"),
    pytest.param({"cors": [ORIGIN]}, {"origin": ORIGIN}, 200, id="listed"),
    pytest.param({"cors": ["*"]}, {"origin": ORIGIN}, 200, id="all"),
    pytest.param({"cors": [ORIGIN]}, {"origin": "null"}, 403, id="null"),
    pytest.param({"hosts": ["testserver"]}, {"origin": "http://["}, 403, id="origin-no-url"),
    pytest.param({"hosts": ["testserver"]}, {"host": "["}, 403, id="host-no-name"),
    pytest.param({"token": "t0ken"}, {}, 401, id="no-token"),
    pytest.param({"token": "t0ken"}, {"authorization": "Bearer t0ken"}, 200, id="token"),
    pytest.param({"token": "t0ken"}, {"authorization": "bearer  t0ken"}, 200, id="token-in-lower-case"),
    pytest.param({"token": "t0ken"}, {"authorization": "Bearer t0ke"}, 401, id="wrong-token"),
    pytest.param({"token": "t0ken"}, {"authorization": "Bearer t0k\xe9n"}, 401, id="token-not-ascii"),
    pytest.param({"token": "t0ken"}, {"authorization": "Basic t0ken"}, 401, id="another-scheme"),
]


@pytest.mark.parametrize(("options", "headers", "status"), PLACES)
async def test_who_may_ask(options: dict[str, Any], headers: dict[str, str], status: int) -> None:
    """Another origin, a rebound host name and a missing token are refused before anything runs."""
    here = site(**options)
    reply = await here.ask("echo x", **headers)
    assert reply.status == status
    assert len(here.toy.runs) == (1 if status == 200 else 0)


async def test_the_headers_of_cors() -> None:
    """A listed origin may read the response, and a refusal too."""
    here = site(cors=[ORIGIN], token="t0ken")
    reply = await here.ask("echo x", origin=ORIGIN)
    assert reply.status == 401
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert reply.headers["vary"] == "origin"
    assert reply.headers["www-authenticate"] == "Bearer"


async def test_a_preflight_request() -> None:
    """A preflight request needs no token, and allows the requested headers."""
    here = site(cors=["*"], token="t0ken")
    asked = {"origin": ORIGIN, "access_control_request_method": "POST", "access_control_request_headers": "x-stainless"}
    reply = await request(here.service, "OPTIONS", "/ask", **asked)
    assert reply.status == 204
    assert reply.headers["access-control-allow-origin"] == "*"
    assert reply.headers["access-control-allow-headers"] == "x-stainless"


WRONG: Final[list[Any]] = [
    # options, the setting in the error
    pytest.param({"token": "with space"}, "token", id="token-with-space"),
    pytest.param({"token": "t\xf6ken"}, "token", id="token-not-ascii"),
    pytest.param({"cors": ORIGIN}, "cors", id="cors-is-a-str"),
    pytest.param({"cors": [f"{ORIGIN}/path"]}, "cors", id="cors-with-path"),
]


@pytest.mark.parametrize(("options", "name"), WRONG)
def test_wrong_options(options: dict[str, Any], name: str) -> None:
    """An invalid option raises an error with its name."""
    with pytest.raises(ConfigurationError, match=name):
        site(**options)


@pytest.mark.parametrize("name", ["runs", "body_bytes", "body_seconds", "run_seconds"])
@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, True, "5"])
def test_wrong_limits(name: str, value: Any) -> None:
    """A limit must be a positive number."""
    with pytest.raises(ConfigurationError, match=name):
        ServeLimits(**{name: value})


def test_two_protocols_with_one_path() -> None:
    """Two protocols with one path are refused."""
    with pytest.raises(ConfigurationError, match="/ask"):
        Service(SSEOxyGent(server_url=REMOTE), [Plain(), Plain()])


# -------------------------------------------------------------------------------------------------------------- Routes

ROUTES: Final[list[Any]] = [
    pytest.param("GET", "/healthz", 200, id="health"),
    pytest.param("GET", "/empty", 204, id="route"),
    pytest.param("GET", "/below/a/b", 204, id="prefix"),
    pytest.param("GET", "/nowhere", 404, id="unknown"),
    pytest.param("GET", "/ask", 405, id="method"),
    pytest.param("GET", "/raises", 500, id="error"),
    pytest.param("POST", "/mounted", 202, id="mounted"),
    pytest.param("DELETE", "/mounted/below", 202, id="below-mounted"),
    pytest.param("GET", "/mountedness", 404, id="not-below"),
]


@pytest.mark.parametrize(("method", "path", "status"), ROUTES)
async def test_a_route(method: str, path: str, status: int) -> None:
    """Each path has its handler; another method is a 405."""
    reply = await request(site().service, method, path)
    assert reply.status == status


async def test_another_method() -> None:
    """The response to another method names those of the path."""
    reply = await request(site().service, "GET", "/ask")
    assert reply.headers["allow"] == "POST"
    assert "POST" in reply.document["message"]


async def test_an_unexpected_error_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The text of an unexpected error is logged and not sent to the client."""
    reply = await request(site().service, "GET", "/raises")
    assert reply.document["code"] == "internal_error"
    assert "a secret" not in reply.text
    assert "a secret" in caplog.text


async def test_a_mounted_application() -> None:
    """A mounted application gets the request within the body limit, and its response the CORS headers."""
    here = site(cors=[ORIGIN], limits=ServeLimits(body_bytes=10))
    reply = await request(here.service, "POST", "/mounted", b"body", origin=ORIGIN)
    assert reply.text == "/mountedbody"
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert reply.headers["x-own"] == "1"
    large = await request(here.service, "POST", "/mounted", b"x" * 11)
    assert large.status == 413


async def test_the_service_below_another_application() -> None:
    """Below another application, paths are relative to its mount."""
    reply = await Call(site().service, "GET", "/empty", root_path="/agents")()
    assert reply.status == 204


async def test_a_websocket_is_refused() -> None:
    """WebSocket connections are refused."""
    sent: list[Any] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await site().service({"type": "websocket"}, receive, send)
    assert sent == [{"type": "websocket.close"}]


BODIES: Final[list[Any]] = [
    pytest.param(b"[1]", 400, "invalid_json", id="no-object"),
    pytest.param(b"{", 400, "invalid_json", id="no-json"),
    pytest.param(b"[" * 50_000, 400, "invalid_json", id="deep"),
    pytest.param(b'{"query": "' + b"x" * 100_000 + b'"}', 413, "body_too_large", id="large"),
]


@pytest.mark.parametrize(("body", "status", "code"), BODIES)
async def test_a_body_that_is_refused(body: bytes, status: int, code: str) -> None:
    """A body that is not a JSON object, or too large, is a client error."""
    reply = await request(site(limits=ServeLimits(body_bytes=90_000)).service, "POST", "/ask", body)
    assert (reply.status, reply.document["code"]) == (status, code)


@pytest.mark.parametrize("length", ["90001", "9" * 5000], ids=["more", "a-long-number"])
async def test_a_declared_length_is_refused_at_once(length: str) -> None:
    """A declared length over the limit is refused without reading the body."""
    here = site(limits=ServeLimits(body_bytes=90_000))
    call = Call(here.service, "POST", "/ask", given={"content-length": length}, is_body_slow=True)
    assert (await call()).status == 413


async def test_a_body_that_does_not_come() -> None:
    """A client that sends no body is refused after a time-out."""
    began = anyio.current_time()
    reply = await Call(site().service, "POST", "/ask", is_body_slow=True)()
    assert (reply.status, anyio.current_time() - began) == (408, 30.0)


async def test_a_body_in_pieces() -> None:
    """A body may arrive in pieces, which count together."""
    here, pieces = site(limits=ServeLimits(body_bytes=60)), [b'{"query": ', b'"echo hello"}', b" " * 50]
    given = iter([{"type": "http.request", "body": piece, "more_body": True} for piece in pieces])
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return next(given)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await here.service({"type": "http", "method": "POST", "path": "/ask", "headers": []}, receive, send)
    assert sent[0]["status"] == 413


async def test_a_client_that_leaves_before_its_body() -> None:
    """If the client leaves before its body is complete, no agent runs and no response is sent."""
    call = Call(site().service, "POST", "/ask", is_body_slow=True)
    call.left.set()
    assert (await call()).status == 0


# -------------------------------------------------------------------------------------------------------------- Limits


async def test_too_many_runs() -> None:
    """A run over the limit is refused at once as retryable, and its slot becomes free again."""
    here = site(limits=ServeLimits(runs=2))
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(here.ask, "slow")
        await anyio.sleep(1)
        refused = await here.ask("echo x")
        assert (refused.status, refused.document["code"]) == (429, "too_many_runs")
        assert refused.headers["x-should-retry"] == "true"
        assert refused.headers["retry-after"] == "1"
    assert (await here.ask("echo x")).status == 200
    assert len(here.toy.runs) == 3


@pytest.mark.parametrize(
    ("own", "limit", "seconds"), [(None, 5, 5), (3.0, 5, 3), (9.0, 5, 5)], ids=["limit", "own", "both"]
)
async def test_a_run_that_takes_too_long(own: float | None, limit: float, seconds: float) -> None:
    """A run ends at the time limit, or at the agent's own deadline, and is not retryable."""
    here = site(agent={"timeouts": Timeouts(total=own)}, limits=ServeLimits(run_seconds=limit))
    began = anyio.current_time()
    reply = await here.ask("slow")
    assert (reply.status, reply.document["code"]) == (424, "timeout")
    assert anyio.current_time() - began == pytest.approx(seconds, abs=0.5)
    assert reply.headers["x-should-retry"] == "false"
    assert here.toy.runs[0].state == "cancelled"


# --------------------------------------------------------------------------------------------------------- Cancellation


@pytest.mark.parametrize("path", ["/ask", "/stream"])
async def test_a_client_that_leaves(path: str) -> None:
    """When the client leaves, the remote run is stopped at once."""
    here = site()
    call = Call(here.service, "POST", path, b'{"query": "slow"}')
    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await anyio.sleep(1)
        assert here.toy.runs[0].state == "started"
        call.left.set()
    assert here.toy.runs[0].state == "cancelled"
    assert anyio.current_time() - began == pytest.approx(1.0)
    assert here.service.runs.running == 0


async def test_a_server_that_raises_when_the_client_has_left() -> None:
    """If `send` raises after the client has left, as with some servers, the run is stopped too."""
    here = site()
    call = Call(here.service, "POST", "/stream", b'{"query": "slow"}')
    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await call.wait_for("progress")
        call.is_broken = True
    assert here.toy.runs[0].state == "cancelled"


async def test_heartbeats() -> None:
    """A stream has a comment after each 15 s without events, and none after its end."""
    here = site(toy={"scripts": {"quiet": Script([Pause(20), Say("a"), Pause(40)], output="x")}})
    call = Call(here.service, "POST", "/stream", b'{"query": "quiet"}')
    await call()
    kinds = [piece.split(b" ")[0] for piece in call.pieces]
    assert kinds == [b"event:", b":", b"event:", b":", b":", b"event:", b"event:", b""]


async def test_heartbeats_to_a_client_that_has_left() -> None:
    """Heartbeats after the client has left end without an error, before the server reports it."""
    here = site(toy={"scripts": {"quiet": Script([Pause(40)], output="x")}})
    call = Call(here.service, "POST", "/stream", b'{"query": "quiet"}')
    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await anyio.sleep(1)
        call.is_broken = True
        await anyio.sleep(20)
        call.left.set()
    assert here.toy.runs[0].state == "cancelled"


# ------------------------------------------------------------------------------------------------------------- Feedback

WAITS: Final[list[Any]] = [
    # the replies before the agent waits, the data, whether it was delivered, the requests
    pytest.param(0, "yes", True, 1, id="waits-already"),
    pytest.param(3, "yes", True, 4, id="waits-soon"),
    pytest.param(99, "yes", False, 21, id="never-waits"),
    pytest.param(99, "", False, 1, id="the-end-is-not-repeated"),
]


@pytest.mark.parametrize(("replies", "data", "is_delivered", "requests"), WAITS)
async def test_feedback(replies: int, data: str, is_delivered: bool, requests: int) -> None:
    """Feedback is repeated for 5 s until the agent waits for it: its question may come first."""
    unknown = Reply.json({"code": 400, "message": "illegal channel_id", "data": {}})
    done = Reply.json({"code": 200, "message": "", "data": {}})
    transport = FakeTransport({"/feedback": [*[unknown] * replies, done], "/sse/chat": Reply([answer("x"), close()])})
    runs = Runs(SSEOxyGent(server_url=REMOTE, transport=transport), ServeLimits())
    async with runs.stream("x") as run:
        await run.final_response()
        assert await runs.feedback(run, data) == is_delivered
    assert len([each for each in transport.requests if each.path == "/feedback"]) == requests


# ------------------------------------------------------------------------------------------------------------- Shutdown


async def ask_slowly(here: Site, replies: list[Call]) -> None:
    """Add the reply to a slow run."""
    replies.append(await here.ask("slow"))


async def test_stopping_lets_runs_end() -> None:
    """During shutdown new runs are refused, and running ones get the grace period."""
    here = site()
    replies: list[Call] = []
    async with anyio.create_task_group() as group:
        group.start_soon(ask_slowly, here, replies)
        await anyio.sleep(1)
        group.start_soon(here.service.stop, 60.0)
        await anyio.sleep(1)
        refused = await here.ask("echo x")
        assert (refused.status, refused.document["code"]) == (503, "stopping")
        assert refused.headers["x-should-retry"] == "true"
    assert replies[0].status == 200


async def test_stopping_ends_runs() -> None:
    """After the grace period a run is stopped, and its client is told that it may have run."""
    here = site()
    replies: list[Call] = []
    async with anyio.create_task_group() as group:
        group.start_soon(ask_slowly, here, replies)
        await anyio.sleep(1)
        await here.service.stop(2.0)
    (reply,) = replies
    assert (reply.status, reply.document) == (
        424,
        {"code": "stopping", "message": "the server is stopping", "outcome": "started"},
    )
    assert reply.headers["x-should-retry"] == "false"
    assert here.toy.runs[0].state == "cancelled"


async def test_stopping_before_a_run_was_sent() -> None:
    """A run that was not sent before the shutdown is retryable."""
    released = anyio.Event()
    transport = FakeTransport({"/get_organization": Reply(steps=[released.wait])})
    service = Service(SSEOxyGent(server_url=REMOTE, transport=transport), [Plain()])
    replies: list[Call] = []
    async with anyio.create_task_group() as group:

        async def ask() -> None:
            replies.append(await request(service, "POST", "/ask", {"query": "x", "agent": "y"}))

        group.start_soon(ask)
        await anyio.sleep(1)
        await service.stop()
    assert (replies[0].status, replies[0].headers["x-should-retry"]) == (503, "true")


async def test_the_lifespan() -> None:
    """The ASGI lifespan keeps connections open and runs the protocols' tasks."""
    plain = Plain()

    class Noted(SSEOxyGent):
        async def __aexit__(self, *error: Any) -> None:  # noqa: PYI036  (passed on as they are)
            plain.log.append("closed")
            await super().__aexit__(*error)

    service = Service(Noted(server_url=REMOTE, transport=ASGITransport(ToyRemote())), [plain])
    send_in, receive_in = anyio.create_memory_object_stream[Any](1)
    answers: list[str] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        answers.append(message["type"])

    async with anyio.create_task_group() as group, send_in, receive_in:
        group.start_soon(service, {"type": "lifespan"}, receive_in.receive, send)
        await send_in.send({"type": "lifespan.startup"})
        await anyio.sleep(1)
        assert (answers, plain.log) == (["lifespan.startup.complete"], ["begin"])
        await send_in.send({"type": "lifespan.shutdown"})
    assert (answers[-1], plain.log) == ("lifespan.shutdown.complete", ["begin", "end", "closed"])


# -------------------------------------------------------------------------------------------------------------- Health


async def test_health_needs_no_token() -> None:
    """Health needs no token."""
    here = site(token="t0ken")
    assert (await request(here.service, "GET", "/healthz")).document == {"status": "ok"}
    assert (await request(here.service, "GET", "/readyz")).document == {"status": "ready"}


async def test_readiness() -> None:
    """Readiness is the remote's health, checked every 2 s at most; a service in shutdown is not ready."""
    alive = [Reply.json({"alive": 1}), Reply.json({}, status=403), Reply.json({"alive": 1})]
    transport = FakeTransport({"/check_alive": alive})
    service = Service(SSEOxyGent(server_url=REMOTE, transport=transport), [Plain()])
    found: list[int] = []
    for pause in (0, 1, 1.5, 2):
        await anyio.sleep(pause)
        found.append((await request(service, "GET", "/readyz")).status)
    assert found == [200, 200, 503, 200]
    await service.stop()
    assert (await request(service, "GET", "/readyz")).status == 503


# -------------------------------------------------------------------------------------------------------------- Logging


async def test_the_access_log(caplog: pytest.LogCaptureFixture) -> None:
    """The access log has method, route and status, and no content of the request."""
    caplog.set_level(logging.INFO, "oxygent_client.serve")
    here = site(token="t0ken-of-the-server")
    await here.ask("echo of a secret", authorization="Bearer t0ken-of-the-server")
    await request(here.service, "GET", "/no-such-path-secret", authorization="Bearer wrong-secret")
    await request(here.service, "GET", "/healthz")
    call = Call(here.service, "POST", "/stream", b'{"query": "slow"}', {"authorization": "Bearer t0ken-of-the-server"})
    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await call.wait_for("progress")
        call.left.set()
    lines = [record.getMessage() for record in caplog.records if record.name == "oxygent_client.serve"]
    shown = [line.rpartition(" ")[0].rpartition(" ")[0] for line in lines]
    assert shown == ["POST /ask 200", "GET (no route) 401", "GET /healthz 200", "POST /stream 499"]
    assert "secret" not in caplog.text
    assert "t0ken" not in caplog.text


# -------------------------------------------------------------------------------------------------------------- Errors

FAILURES: Final[list[Any]] = [
    # error, status, code, whether it is retryable
    (errors.ConnectError("refused at 10.0.0.1"), 503, "unreachable", True),
    (errors.TLSError("self-signed"), 503, "unreachable", False),
    (errors.NoHealthyReplicaError("none"), 503, "unreachable", True),
    (errors.RateLimitedError(status=429, retry_after=7.0), 429, "rate_limited", True),
    (errors.AuthenticationError(status=401), 502, "server_error", False),
    (errors.ServerError(status=503, outcome=Outcome.REJECTED, retry_after=0.2), 503, "server_error", True),
    (errors.ServerError(status=502), 424, "server_error", False),
    (errors.UnknownCalleeError("x"), 404, "agent_not_found", False),
    (errors.PayloadError("'callee' is reserved"), 400, "invalid_request", False),
    (errors.ConfigurationError("transport is wrong"), 500, "misconfigured", False),
    (errors.ConnectionLostError("reset"), 424, "cut", False),
    (errors.IncompleteStreamError("cut", outcome=Outcome.STARTED), 424, "cut", False),
    (errors.IdleTimeoutError("quiet"), 424, "timeout", False),
    (errors.DeadlineExceededError("late", outcome=Outcome.NOT_SENT), 504, "timeout", False),
    (errors.UnconfirmedError("no record"), 424, "unconfirmed", False),
    (errors.RemoteAgentError("it failed"), 424, "agent_failed", False),
    (errors.NoAnswerError("nothing"), 424, "no_answer", False),
    (errors.TooLargeError("large"), 424, "too_large", False),
    (errors.HandlerError("yours"), 424, "failed", False),
]


@pytest.mark.parametrize(
    ("error", "status", "code", "retryable"), FAILURES, ids=[f"{type(row[0]).__name__}-{row[1]}" for row in FAILURES]
)
def test_a_failure(error: OxyError, status: int, code: str, retryable: bool) -> None:
    """An error of a run that may have started has a status that clients do not retry."""
    failure = failure_of(error)
    assert (failure.status, failure.code, failure.retryable) == (status, code, retryable)
    assert failure.headers["x-should-retry"] == ("true" if retryable else "false")


@pytest.mark.parametrize("row", FAILURES, ids=[f"{type(row[0]).__name__}-{row[1]}" for row in FAILURES])
def test_the_text_of_a_failure(row: Any) -> None:
    """Only the texts of an agent's failure and of an invalid argument are shown to clients."""
    error: OxyError = row[0]
    shown = failure_of(error).message == str(error)
    assert shown == isinstance(error, errors.RemoteAgentError | errors.PayloadError)


@pytest.mark.parametrize(("seconds", "shown"), [(7.0, "7"), (0.2, "1")])
def test_when_to_retry(seconds: float, shown: str) -> None:
    """The Retry-After header has whole seconds, at least one."""
    failure = failure_of(errors.RateLimitedError(status=429, retry_after=seconds, trace_id="t"))
    assert failure.headers["retry-after"] == shown
    assert failure.headers["x-request-id"] == "t"


def test_a_refusal_is_its_own_failure() -> None:
    """A refusal by the service keeps its own failure."""
    assert failure_of(Refused(400, "wrong", "it is wrong", param="x")).param == "x"


async def test_an_error_in_a_stream_that_its_protocol_leaves() -> None:
    """If a protocol leaves a stream at an error, the response stays incomplete, so that the client sees the cut."""
    call = Call(site().service, "POST", "/stream", b'{"query": "raise"}')
    await call()
    assert (call.status, call.is_complete) == (200, False)


class _Blocked(Call):
    """A client that takes a heartbeat only after some time."""

    async def _send(self, message: Any) -> None:
        if message.get("body", b"").startswith(b": heartbeat"):
            await anyio.sleep(5)
        await super()._send(message)


@pytest.mark.parametrize("has_event", [True, False], ids=["event", "end"])
async def test_what_follows_while_a_heartbeat_is_sent(has_event: bool) -> None:
    """Two parts of a stream are not sent at the same time: what follows waits for the heartbeat."""

    class Waits(Plain):
        def routes(self, runs: Runs) -> Sequence[Route | Mount]:
            return (Route("GET", "/waits", self.waits),)

        async def waits(self, exchange: Exchange) -> None:
            await exchange.start_stream()
            await anyio.sleep(16)
            if has_event:
                await exchange.send_event("late")
            await exchange.end_stream()

    service = Service(SSEOxyGent(server_url=REMOTE, transport=ASGITransport(ToyRemote())), [Waits()])
    began = anyio.current_time()
    call = await _Blocked(service, "GET", "/waits")()
    assert call.text == (": heartbeat\n\ndata: late\n\n" if has_event else ": heartbeat\n\n")
    assert anyio.current_time() - began == pytest.approx(20)


def hide(message: Any) -> Any:
    """Change a message in place, as some do."""
    message["content"] = "hidden"
    return message


def returning(value: Any) -> Callable[[Any], Any]:
    """Return a `sanitize` that returns this."""

    def sanitize(_: Any) -> Any:
        return value

    return sanitize


def outbound(sanitize: Any) -> Outbound:
    """Return what an agent with this `sanitize` sends."""
    agent = SSEOxyGent(server_url="http://127.0.0.1:1", sanitize=sanitize)
    return Runs(agent, ServeLimits()).outbound(agent.stream("hi"))


def test_sanitize_gets_a_copy() -> None:
    """A `sanitize` that changes its argument does not change the message of the run."""
    message = {"type": "progress", "content": {"step": 1}}
    assert outbound(hide).message(message) == {"type": "progress", "content": "hidden"}
    assert message == {"type": "progress", "content": {"step": 1}}


SHOWN: Final[list[Any]] = [
    # what `sanitize` returns for the message of a call; the type, content and class of the event that a client gets
    pytest.param(
        {"type": "tool_call", "content": {"callee": "x"}}, "tool_call", {"callee": "x"}, ToolCall, id="cleaned"
    ),
    pytest.param({"type": "tool_call", "content": "gone"}, "tool_call", "gone", Custom, id="no-call"),
    pytest.param({"type": "other", "content": {}}, "other", {}, Custom, id="another-type"),
    pytest.param({"type": 5}, None, None, Custom, id="no-type"),
    pytest.param("gone", None, "gone", Custom, id="text"),
    pytest.param(None, None, None, Custom, id="nothing"),
]


@pytest.mark.parametrize(("returned", "kind", "content", "expected"), SHOWN)
def test_a_sanitized_event(returned: Any, kind: str | None, content: Any, expected: type[Event]) -> None:
    """An event is what `sanitize` makes of its message: a call only if that is one."""
    received = {"type": "tool_call", "content": {"callee": "secret"}}
    event = outbound(returning(returned)).event(ToolCall("tool_call", received["content"], received))
    assert (event.type, event.content, type(event)) == (kind, content, expected)


@pytest.mark.parametrize("returned", [None, "gone", {"type": "x"}, {"content": 5}])
def test_what_is_no_text_any_more(returned: Any) -> None:
    """Where `sanitize` returns no message of the kind, there is nothing of it."""
    sent = outbound(returning(returned))
    assert sent.text("secret") == ""
    assert sent.error("secret") == ""
    (call,) = sent.trace(Trace(calls=(TraceCall(index=0, name="secret", arguments={"a": "secret"}),))).calls
    assert (call.name, call.arguments, call.output) == ("", {}, None)


def test_without_sanitize() -> None:
    """Without a `sanitize`, events and traces are those of the run."""
    sent, event, trace = outbound(None), Custom("x", 1, {"type": "x"}), Trace()
    assert sent.event(event) is event
    assert sent.trace(trace) is trace
    assert (sent.text("a"), sent.error("b"), sent.output({"c": 1})) == ("a", "b", {"c": 1})


def test_a_failure_that_cannot_be_sanitized(caplog: pytest.LogCaptureFixture) -> None:
    """If `sanitize` fails at the text of a failure, the client gets none of it."""
    agent = SSEOxyGent(server_url="http://127.0.0.1:1", sanitize=lambda message: message["no such member"])
    failure = Runs(agent, ServeLimits()).failure_of(errors.RemoteAgentError("secret", outcome=Outcome.COMPLETED))
    assert (failure.code, failure.outcome) == ("agent_failed", Outcome.COMPLETED)
    assert "secret" not in failure.message
    assert "no such member" in caplog.text
