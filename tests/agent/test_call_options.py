"""Options of one call: time-outs, headers and callee, which replace those of the agent.

Rule 1: each method that calls the remote takes them, by name or as `CallOptions`, for that call only.
Rule 2: requests are checked at the scripted transport.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import pytest

from oxygent_client import CallOptions, OxyRequest, OxyResponse, SSEOxyGent, Timeouts, errors
from oxygent_client.policies import BearerAuth
from oxygent_client.testing import FakeTransport, Reply, answer, close, pause
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

URL: Final = "https://remote.test"
OF_ALICE: Final = {"Authorization": "Bearer alice", "x-tenant": "acme"}


def remote(*steps: Any) -> FakeTransport:
    """A remote that answers, has one agent, and starts detached runs."""
    return FakeTransport(
        {
            "/sse/chat": Reply(steps or (answer("42"), close())),
            "/get_organization": Reply.json({"code": 200, "data": {"organization": {"name": "planner"}}}),
            "/get_agents": Reply.json({"code": 200, "data": {"agents": [{"name": "planner"}]}}),
            "/async/chat": Reply.json({"code": 200, "message": "SUCCESS", "data": {}}),
        }
    )


async def ask(agent: SSEOxyGent, **options: Any) -> None:
    """Ask with a text."""
    await agent.ask("hi", **options)


async def ask_with_a_request(agent: SSEOxyGent, **options: Any) -> None:
    """Ask with a request."""
    await agent.ask(OxyRequest(arguments={"query": "hi"}), **options)


async def stream(agent: SSEOxyGent, **options: Any) -> None:
    """Read a stream to its end."""
    async with agent.stream("hi", **options) as run:
        await run.final_response()


async def start(agent: SSEOxyGent, **options: Any) -> None:
    """Start a detached run."""
    await agent.start("hi", **options)


async def execute(agent: SSEOxyGent, **options: Any) -> None:
    """Execute a request with the options as a value."""
    await agent.execute(OxyRequest(arguments={"query": "hi"}), options=CallOptions(**options))


EACH_CALL: Final = pytest.mark.parametrize("call", [ask, ask_with_a_request, stream, start, execute])


def run_requests(transport: FakeTransport) -> list[Any]:
    """The requests that start a run."""
    return [request for request in transport.requests if request.method == "POST"]


@EACH_CALL
async def test_the_headers_of_a_call(call: Callable[..., Awaitable[None]]) -> None:
    """Headers of a call win over those of the agent and its `auth`; the next call does not have them."""
    transport = remote()
    agent = SSEOxyGent(
        URL, transport=transport, headers={"x-tenant": "none", "x-more": "1"}, auth=BearerAuth("service")
    )
    await call(agent, headers=OF_ALICE)
    await call(agent)
    sent = [
        [request.headers[name] for name in ("authorization", "x-tenant", "x-more")]
        for request in run_requests(transport)
    ]
    assert sent == [["Bearer alice", "acme", "1"], ["Bearer service", "none", "1"]]


@EACH_CALL
async def test_the_callee_of_a_call(call: Callable[..., Awaitable[None]]) -> None:
    """The callee of a call replaces that of the agent."""
    transport = remote()
    agent = SSEOxyGent(URL, transport=transport)
    await call(agent, callee="planner")
    await call(agent)
    assert [payload.get("callee") for payload in transport.payloads if payload] == ["planner", None]


async def test_an_unknown_callee_of_a_call() -> None:
    """The callee of a call is checked like that of an agent: a real server would never answer for an unknown one."""
    with pytest.raises(errors.UnknownCalleeError):
        await SSEOxyGent(URL, transport=remote()).ask("hi", callee="nobody")


@pytest.mark.parametrize(
    ("limit", "error"),
    [
        pytest.param(5, errors.DeadlineExceededError, id="seconds are the total"),
        pytest.param(Timeouts(idle=3, lookup=None), errors.IdleTimeoutError, id="all time-outs"),
    ],
)
async def test_the_time_out_of_a_call(limit: float | Timeouts, error: type[errors.OxyError]) -> None:
    """A call ends by its own time-out, even if the agent's is longer."""
    agent = SSEOxyGent(URL, transport=remote(pause(math.inf)), timeouts=Timeouts(total=90, lookup=None))
    with pytest.raises(error):
        await agent.ask("hi", timeout=limit)


async def test_the_time_out_of_a_detached_start() -> None:
    """The time-out of a call also bounds the start of a detached run."""
    transport = FakeTransport({"/async/chat": Reply((pause(math.inf),))})
    with pytest.raises(errors.DeadlineExceededError):
        await SSEOxyGent(URL, transport=transport).start("hi", timeout=2)


async def test_the_record_is_read_with_the_headers_of_the_call() -> None:
    """The record check has the headers of the call, since a server may check a user's credentials there too."""
    transport = FakeTransport(
        {"/sse/chat": Reply((close(),)), "/view": Reply.json({"code": 200, "data": {"nodes": []}})}
    )
    with pytest.raises(errors.NoAnswerError):
        await SSEOxyGent(URL, transport=transport).ask("hi", headers=OF_ALICE)
    looked_up = [request for request in transport.requests if request.path.startswith("/view")]
    assert {request.headers["authorization"] for request in looked_up} == {"Bearer alice"}


async def test_a_hook_sees_the_options() -> None:
    """Hooks see the options in the request."""
    seen: list[CallOptions] = []

    class Seen(SSEOxyGent):
        def prepare_headers(self, oxy_request: OxyRequest) -> dict[str, str]:
            seen.append(oxy_request.call_options)
            return {}

    await Seen(URL, transport=remote()).ask("hi", timeout=7)
    assert seen == [CallOptions(timeout=7)]


async def test_another_agent_does_not_get_them() -> None:
    """The options are not sent to another agent that a hook passes the request to: they may be credentials."""
    there = remote()
    other = SSEOxyGent("https://other.test", transport=there)

    class Asking(SSEOxyGent):
        async def _execute(self, oxy_request: OxyRequest) -> OxyResponse:
            return await other.execute(oxy_request.clone_with(arguments={"query": "and you?"}))

    await Asking(URL, transport=remote()).ask("hi", headers=OF_ALICE)
    assert "authorization" not in there.requests[0].headers


async def test_an_override_may_execute_a_clone() -> None:
    """A subclass that clones the request keeps the options of the call."""
    transport = remote()

    class Louder(SSEOxyGent):
        async def _execute(self, oxy_request: OxyRequest) -> OxyResponse:
            return await super()._execute(oxy_request.clone_with(arguments={"query": "HI"}))

    await Louder(URL, transport=transport).ask("hi", headers=OF_ALICE)
    assert transport.requests[0].headers["authorization"] == "Bearer alice"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("timeout", 0, id="no time"),
        pytest.param("timeout", "5", id="a text as time"),
        pytest.param("headers", {"x": 1}, id="a number as a header"),
        pytest.param("headers", ["x"], id="no mapping"),
        pytest.param("callee", 5, id="a number as callee"),
    ],
)
def test_an_invalid_option(name: str, value: Any) -> None:
    """An invalid option raises an error with its name before anything is sent."""
    with pytest.raises(errors.ConfigurationError, match=name):
        SSEOxyGent(URL, transport=remote()).stream("hi", **{name: value})


async def test_execute_takes_call_options_only() -> None:
    """A dict in place of CallOptions is refused with the name of the argument."""
    with pytest.raises(errors.ConfigurationError, match="options"):
        await SSEOxyGent(URL, transport=remote()).execute(OxyRequest(), options={"timeout": 5})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_execute_takes_a_request_only() -> None:
    """A str in place of a request is refused with the expected type."""
    with pytest.raises(errors.ConfigurationError, match="OxyRequest"):
        await SSEOxyGent(URL, transport=remote()).execute("hi")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_the_repr_shows_no_values_of_headers() -> None:
    """The repr shows no header values, which may be credentials."""
    assert "alice" not in repr(CallOptions(headers=OF_ALICE))
