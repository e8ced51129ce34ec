"""`SSEOxyGent`: construction, requests, results, subclasses, copies and transports.

Rule 1: requests are checked at the scripted transport, never inside the agent.
Rule 2: the caller's objects are compared with deep copies made before the call.
"""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
import threading
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast
from unittest.mock import ANY

import anyio
import anyio.lowlevel
import anyio.to_thread
import attrs
import httpx
import pytest

from oxygent_client import (
    AgentRegistry,
    EventRouter,
    HTTPXTransport,
    Limits,
    OxyRequest,
    OxyResponse,
    OxyState,
    RemoteAgent,
    SSEOxyGent,
    Timeouts,
    errors,
)
from oxygent_client._agent.transport_lease import TransportPool
from oxygent_client._core.ids import ALPHABET, new_id
from oxygent_client._protocol.payload import RESTART
from oxygent_client.policies import BearerAuth, ConcurrencyLimit, Retry, Wrapper
from oxygent_client.testing import FakeTransport, Reply, answer, close, observation, pause, progress, tool_call
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from oxygent_client import HTTPRequest, HTTPResponse, Transport

URL: Final = "https://remote.test"


def remote(*steps: Any, **replies: Any) -> FakeTransport:
    """Return a remote that answers runs, and these documents: `get_agents=Reply.json(...)`."""
    run = Reply(steps or (answer("42"), close()))
    return FakeTransport({"/sse/chat": run, **{f"/{path}": reply for path, reply in replies.items()}})


def made(transport: FakeTransport | None = None, **options: Any) -> tuple[SSEOxyGent, FakeTransport]:
    """Return an agent and its transport."""
    transport = transport or remote()
    return SSEOxyGent(server_url=URL, transport=transport, **options), transport


async def sent(request: OxyRequest | str = "hi", **options: Any) -> dict[str, Any]:
    """Return the payload that an agent sends."""
    agent, transport = made(**options)
    await agent.ask(request)
    return transport.payloads[0]


# --------------------------------------------------------------------------------------------------------- Construction


@pytest.mark.parametrize(
    "url",
    [
        "remote.test",
        "ftp://remote.test",
        "http://",
        "http:///path",
        "http://remote.test:0",
        "http://remote.test:99999",
        "http://remote test",
        "http://remote.test/\n",
        " http://remote.test",
    ],
)
@pytest.mark.parametrize("cls", [SSEOxyGent, RemoteAgent])
def test_wrong_addresses(cls: type[RemoteAgent], url: str) -> None:
    """Only an http or https URL with a host is accepted; the error does not show another one."""
    with pytest.raises(errors.ConfigurationError) as caught:
        cls(server_url=url)
    assert str(caught.value) == "server_url must be an http:// or https:// URL with a host"


@pytest.mark.parametrize("url", ["http://remote.test/sse/chat", "https://remote.test/base/sse/chat/?a=b"])
def test_the_address_of_runs(url: str) -> None:
    """The URL of runs is no base URL; the error shows what is too much."""
    with pytest.raises(errors.ConfigurationError, match=r"server_url .*base URL.* /sse/chat"):
        SSEOxyGent(url)


@pytest.mark.parametrize("cls", [SSEOxyGent, RemoteAgent])
def test_no_address(cls: type[RemoteAgent]) -> None:
    """Without a URL the error names the setting, and the transport that needs none."""
    with pytest.raises(errors.ConfigurationError, match=r"^server_url .*Cluster"):
        cls(server_url="")


def test_constructor_arguments() -> None:
    """Each argument but the URL is a keyword, and is the attribute of its name, with the documented default."""
    agent = SSEOxyGent(server_url=URL)
    assert agent.server_url == URL
    assert agent.name == "remote"
    assert agent.desc == ""
    assert agent.is_share_call_stack is True
    assert agent.call_stack_strategy is None
    assert agent.callee is None
    assert agent.check_callee is True
    assert agent.transport is None
    assert agent.timeouts == Timeouts(connect=10, silence=45, idle=600, total=3600)
    assert agent.limits == Limits()
    assert agent.event_handlers == {}
    assert agent.event_filter is None
    assert agent.headers == {}
    assert agent.org == {}
    assert {**dict.fromkeys(agent.forward_headers), **dict.fromkeys(agent.argument_overrides)} == {}
    assert agent.share_data is True
    assert agent.category == "agent"
    router, transport = EventRouter(), remote()
    given: dict[str, Any] = {
        "name": "mine",
        "desc": "what for",
        "is_share_call_stack": False,
        "call_stack_strategy": "full",
        "callee": "theirs",
        "check_callee": False,
        "transport": transport,
        "router": router,
        "event_handlers": {"x": _module_level},
        "event_filter": bool,
        "progress_callback": _module_level,
        "headers": {"x-a": "1"},
        "forward_headers": {"x-b"},
        "timeouts": Timeouts(idle=1),
        "limits": Limits(depth=2),
        "argument_overrides": {"caller"},
        "share_data": {"key"},
    }
    agent = SSEOxyGent(server_url=URL, **given)
    assert {name: getattr(agent, name) for name in given} == given
    assert SSEOxyGent(URL).server_url == RemoteAgent(URL).server_url == URL
    with pytest.raises(TypeError):
        SSEOxyGent(URL, "mine")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  (wrong on purpose)


def test_repr_shows_no_secret() -> None:
    """`repr` shows the class, the name and the URL without user information and query."""
    agent = SSEOxyGent(server_url="https://user:pw@remote.test/base?key=secret", headers={"authorization": "secret"})
    assert repr(agent) == "<SSEOxyGent 'remote' at https://remote.test/base>"


# --------------------------------------------------------------------------------------------------- Calls and payloads


async def test_three_ways_to_ask() -> None:
    """`ask`, `stream` and `execute` send the same payload."""
    agent, transport = made()
    assert (await agent.ask("hi", trace_id="t1", arguments={"k": 1})).output == "42"
    async with agent.stream("hi", trace_id="t1", arguments={"k": 1}) as run:
        assert (await run.final_response()).output == "42"
    request = OxyRequest(arguments={"k": 1, "query": "hi"}, current_trace_id="t1")
    response = await agent.execute(request)
    assert response.state is OxyState.COMPLETED
    assert response.output == "42"
    assert response.oxy_request is not request
    drawn = {"request_id", "group_id", "node_id", "node_id_stack"}
    payloads = [{key: value for key, value in body.items() if key not in drawn} for body in transport.payloads]
    assert [payloads[0]] * 3 == payloads
    assert payloads[0]["query"] == "hi"
    assert payloads[0]["k"] == 1
    assert payloads[0]["current_trace_id"] == "t1"
    assert [each.method for each in transport.requests] == ["POST"] * 3
    assert {each.url for each in transport.requests} == {f"{URL}/sse/chat"}


async def test_options_of_ask() -> None:
    """Each option of `ask` is sent in its own place; the query wins over an argument `query`."""
    agent, transport = made()
    response = await agent.ask(
        "hi",
        arguments={"query": "no", "k": [1]},
        trace_id="t2",
        from_trace_id="t1",
        group_id="g",
        shared_data={"s": 1},
        group_data={"g": 2},
        idempotent=True,
    )
    payload = transport.payloads[0]
    expected = {
        "query": "hi",
        "k": [1],
        "current_trace_id": "t2",
        "from_trace_id": "t1",
        "group_id": "g",
        "shared_data": {"s": 1},
        "group_data": {"g": 2},
    }
    assert {key: payload[key] for key in expected} == expected
    assert "idempotent" not in payload
    context = transport.requests[0].context
    assert context.purpose == "run"
    assert context.trace_id == "t2"
    assert context.group_id == "g"
    assert context.idempotent is True
    assert response.extra == {"trace_id": "t2", "remote_trace_id": "t2"}


CALLS: Final = pytest.mark.parametrize("call", ["ask", "stream", "start"])


async def call_of(agent: SSEOxyGent, call: str, query: Any, **options: Any) -> None:
    """Call one of the three methods that take a query."""
    if call == "stream":
        agent.stream(query, **options)
    else:
        await getattr(agent, call)(query, **options)


@CALLS
@pytest.mark.parametrize("query", [None, 1, ["x"], {"query": "x"}, b"x"], ids=repr)
async def test_wrong_queries(query: Any, call: str) -> None:
    """A query that is not a str raises ConfigurationError, and nothing is sent."""
    agent, transport = made()
    with pytest.raises(errors.ConfigurationError, match=r"^query must be"):
        await call_of(agent, call, query)
    assert transport.requests == []


@CALLS
async def test_a_request_with_options_beside_it(call: str) -> None:
    """Options beside an OxyRequest raise ConfigurationError, and nothing is sent."""
    agent, transport = made()
    with pytest.raises(errors.ConfigurationError, match=r"^trace_id, group_id cannot be combined"):
        await call_of(agent, call, OxyRequest(), trace_id="t", group_id="g")
    assert transport.requests == []


@CALLS
async def test_an_unknown_option(call: str) -> None:
    """An unknown keyword raises TypeError, and nothing is sent."""
    agent, transport = made()
    with pytest.raises(TypeError, match="idempotant"):
        await call_of(agent, call, "hi", idempotant=True)
    assert transport.requests == []


WRONG_ARGUMENTS: Final[list[dict[str, Any]]] = [
    {"callee": "x"},
    {"arguments": {}},
    {"when": object()},
    {"n": math.nan},
    {"s": {1}},
]


@pytest.mark.parametrize("arguments", WRONG_ARGUMENTS, ids=lambda arguments: next(iter(arguments)))
async def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    """An argument that the protocol or JSON does not allow raises PayloadError with its name; nothing is sent."""
    agent, transport = made()
    with pytest.raises(errors.PayloadError, match=repr(next(iter(arguments)))):
        await agent.execute(OxyRequest(arguments={"query": "x", **arguments}))
    assert transport.requests == []


class Incomparable:
    """A value without a truth value of its comparisons, as the arrays of numpy are."""

    def __eq__(self, _other: object) -> bool:
        raise ValueError

    def __hash__(self) -> int:
        return 0


@CALLS
@pytest.mark.parametrize(
    ("said", "fields"),
    [
        ("arguments must be ", {"arguments": ["t0p-secret"]}),
        ("shared_data must be ", {"shared_data": [1]}),
        ("group_data must be ", {"group_data": "t0p-secret"}),
        ("trace_id must be ", {"trace_id": 7}),
        ("from_trace_id must be ", {"from_trace_id": b"x"}),
        ("group_id must be ", {"group_id": str}),
        ("idempotent must be ", {"idempotent": "no"}),
        ("idempotent must be ", {"idempotent": 0}),
        ("arguments must be ", {"arguments": Incomparable()}),
        ("shared_data must be ", {"shared_data": Incomparable()}),
        ("shared_data must be ", {"shared_data": ANY}),
    ],
)
async def test_invalid_options_of_a_call(said: str, fields: dict[str, Any], call: str) -> None:
    """An invalid option of a call raises an error with its name and without its value; nothing is sent."""
    agent, transport = made()
    with pytest.raises(errors.ConfigurationError) as caught:
        await call_of(agent, call, "hi", **fields)
    assert str(caught.value).startswith(said)
    assert "t0p-secret" not in str(caught.value)
    assert transport.requests == []


@pytest.mark.parametrize("name", ["shared_data", "group_data"])
async def test_data_is_shared_with_the_caller(name: str) -> None:
    """Changes to a run's shared data by the agent's code are made in the caller's own dictionary, empty or not."""

    class Writing(SSEOxyGent):
        async def handle_tool_call_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
            getattr(oxy_request, name)["seen"] = True

    data: dict[str, Any] = {}
    agent = Writing(URL, transport=remote(tool_call("search"), answer(1), close()))
    await agent.ask("hi", **cast("Any", {name: data}))
    assert data == {"seen": True}


WRONG_SETTINGS: Final[list[tuple[str, dict[str, Any]]]] = [
    ("timeouts must be ", {"timeouts": 5}),
    ("limits must be ", {"limits": 5}),
    ("retry must be ", {"retry": 3}),
    ("retry must be ", {"retry": Retry}),
    ("headers must be ", {"headers": [("a", "t0p-secret")]}),
    ("headers must be ", {"headers": {"a": 1}}),
    ("headers must be ", {"headers": {1: "t0p-secret"}}),
    ("transport must be ", {"transport": "x"}),
    ("policies must be ", {"policies": Retry()}),
    ("forward_headers must be ", {"forward_headers": 3}),
    ("forward_headers must be ", {"forward_headers": "x-a"}),
    ("argument_overrides must be ", {"argument_overrides": [1]}),
    ("share_data must be ", {"share_data": 1}),
    ("auth must be ", {"auth": "t0p-secret"}),
    ("auth must be ", {"auth": ("u", "t0p-secret")}),
    ("router must be ", {"router": {"x": 1}}),
    ("event_handlers must be ", {"event_handlers": [print]}),
    ("event_filter must be ", {"event_filter": True}),
    ("callee must be ", {"callee": 5}),
    ("server_url must be ", {"server_url": 5}),
    ("call_stack_strategy must be ", {"call_stack_strategy": "half"}),
    ("plaintext_hosts must be ", {"plaintext_hosts": "remote.test"}),
    ("progress_callback must be ", {"progress_callback": print}),
    ("confirm_state must be ", {"confirm_state": "yes"}),
    ("event_handlers['x'] must be ", {"event_handlers": {"x": print}}),
]


@pytest.mark.parametrize(("said", "options"), WRONG_SETTINGS, ids=str)
def test_invalid_settings(said: str, options: dict[str, Any]) -> None:
    """An invalid setting is refused at construction; the error names it and does not show the value."""
    with pytest.raises(errors.ConfigurationError) as caught:
        SSEOxyGent(**cast("Any", {"server_url": URL, **options}))
    assert str(caught.value).startswith(f"SSEOxyGent.{said}")
    assert "t0p-secret" not in str(caught.value)


@pytest.mark.parametrize(("said", "options"), WRONG_SETTINGS, ids=str)
def test_assigning_settings(said: str, options: dict[str, Any]) -> None:
    """An invalid assignment is refused and changes nothing."""

    class Mine(SSEOxyGent):
        """An agent of a user's class."""

    agent = Mine(URL)
    before = {**vars(agent)}
    [(name, value)] = options.items()
    with pytest.raises(errors.ConfigurationError) as caught:
        setattr(agent, name, value)
    assert str(caught.value).startswith(f"Mine.{said}")
    assert "t0p-secret" not in str(caught.value)
    assert vars(agent) == before


@pytest.mark.parametrize(("name", "default"), [("event_handlers", {}), ("headers", {}), ("schema", {})], ids=str)
def test_none_is_the_default(name: str, default: object) -> None:
    """None stands for the default, at construction and at assignment."""
    agent = SSEOxyGent(URL, **cast("Any", {name: None}))
    assert getattr(agent, name) == default
    setattr(agent, name, None)
    assert getattr(agent, name) == default


@pytest.mark.parametrize("inbound", [[("a", "t0p-secret")], "t0p-secret", {1: "t0p-secret"}, {"a": 2}])
async def test_invalid_inbound_headers(inbound: Any) -> None:
    """Invalid inbound headers in `shared_data["_headers"]` are named in the error, without their values."""
    agent, transport = made()
    with pytest.raises(errors.ConfigurationError, match="_headers must be") as caught:
        await agent.ask("hi", shared_data={"_headers": inbound})
    assert "t0p-secret" not in str(caught.value)
    assert transport.requests == []


async def test_invalid_headers_from_a_hook() -> None:
    """A header from a hook that HTTP does not allow raises ConfigurationError; nothing is sent."""

    class Own(SSEOxyGent):
        def prepare_headers(self, oxy_request: OxyRequest) -> dict[str, str]:
            return {**super().prepare_headers(oxy_request), "x-count": cast("Any", 1)}

    transport = remote()
    with pytest.raises(errors.ConfigurationError, match="'x-count'"):
        await Own(URL, transport=transport).ask("hi")
    assert transport.requests == []


@pytest.mark.parametrize("hook", ["prepare_payload", "prepare_headers"])
async def test_an_error_of_ours_from_a_hook(hook: str) -> None:
    """A hook may refuse a request with an error of this package, which is raised as it is; nothing is sent."""
    refusal = errors.PayloadError("too secret to be sent")

    def refuse(oxy_request: OxyRequest) -> Any:
        raise refusal

    agent, transport = made()
    setattr(agent, hook, refuse)
    with pytest.raises(errors.PayloadError) as caught:
        await agent.ask("hi")
    assert caught.value is refusal
    assert transport.requests == []


@pytest.mark.parametrize("token", [5, None, b"oxyrun1.x", ("oxyrun1.", "x")])
def test_invalid_tokens(token: Any) -> None:
    """An argument of `attach` that is not a RunHandle or a token is refused with the expected types."""
    with pytest.raises(errors.ConfigurationError, match=r"^token must be "):
        made()[0].attach(token)


def test_empty_settings_are_kept() -> None:
    """An empty dict given as a setting stays the caller's own object, and a falsy router is used."""

    class Falsy(EventRouter):
        def __len__(self) -> int:
            return 0

    given: dict[str, Any] = {"event_handlers": {}, "headers": {}, "schema": {}, "router": Falsy()}
    agent = SSEOxyGent(server_url=URL, **given)
    assert all(getattr(agent, name) is value for name, value in given.items())


@pytest.mark.parametrize("way", ["itself", "pickle", "old pickle", "deepcopy", "copy"])
async def test_timeouts_of_the_transport(way: str) -> None:
    """`timeouts` assigned before the transport is made apply to it, also in a copy."""
    original = SSEOxyGent(server_url=URL)
    ways: dict[str, Callable[[Any], Any]] = {"copy": copy.copy, **COPIES}
    agent: SSEOxyGent = ways[way](original) if way in ways else original
    agent.timeouts = Timeouts(connect=0.5)
    async with agent, agent._transports.lease(None) as transport:
        assert isinstance(transport, HTTPXTransport)
        assert transport._connect == 0.5


async def test_new_ids() -> None:
    """Empty ids are replaced by new random ones in the format of real servers; given ids are kept."""
    payloads = [await sent(), await sent()]
    for name, length in {"request_id": 22, "group_id": 16, "current_trace_id": 16, "node_id": 16}.items():
        values = [payload[name] for payload in payloads]
        assert (name, len({*values}), {len(value) for value in values}) == (name, 2, {length})
        assert {*"".join(values)} <= {*ALPHABET}
    given = {"request_id": "r", "group_id": "g", "current_trace_id": new_id(), "node_id": "n"}
    payload = await sent(OxyRequest(**cast("Any", given), arguments={"query": "x"}))
    assert {name: payload[name] for name in given} == given
    payload = await sent(OxyRequest(current_trace_id=cast("Any", 7), arguments={"query": "x"}))
    assert payload["current_trace_id"] == "7"


class Greedy(SSEOxyGent):
    """An agent that changes its payload."""

    def prepare_payload(self, oxy_request: OxyRequest) -> dict[str, Any]:
        """Change lists of the payload."""
        payload = super().prepare_payload(oxy_request)
        payload["deep"]["list"].append(2)
        payload["call_stack"].append("more")
        return payload


@pytest.mark.parametrize("cls", [SSEOxyGent, Greedy])
@pytest.mark.parametrize("fails", [False, True])
async def test_the_callers_request_is_not_changed(fails: bool, cls: type[SSEOxyGent]) -> None:
    """A request of the caller's is unchanged after each kind of call, stacks and data included."""
    request = OxyRequest(
        arguments={"query": "x", "deep": {"list": [1]}},
        call_stack=["user", "boss"],
        node_id_stack=["", "n1"],
        shared_data={"_headers": {"x-a": "1"}, "k": [1]},
        group_data={"g": {}},
        parallel_dict={"p": 1},
        callee="before",
        caller="boss",
    )
    before = copy.deepcopy(vars(request))
    steps = () if fails else (tool_call("search"), answer({"a": 1}), close())
    agent = cls(server_url=URL, transport=remote(*(steps or (progress(1),))), callee="x", name="me")
    await agent.execute(request)
    with pytest.raises(errors.OxyError) if fails else nullcontext():
        await agent.ask(request)
    async with agent.stream(request) as run:
        await anext(run)
    assert vars(request) == before


STACK_OPTIONS: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "shared": ({}, {"call_stack": ["user", "boss"], "node_id_stack": ["", "n1"], "caller": "boss"}),
    "not shared": ({"is_share_call_stack": False}, {"caller": "user"}),
    "full": (
        {"call_stack_strategy": "full", "is_share_call_stack": False},
        {"call_stack": ["user", "boss", "me"], "node_id_stack": ["", "n1", "n2"], "caller": "boss"},
    ),
    "none": ({"call_stack_strategy": "none"}, {"caller": "user"}),
}


@pytest.mark.parametrize("name", STACK_OPTIONS)
async def test_stacks(name: str) -> None:
    """The executed request has this agent on both stacks; the payload does so only in the strategy "full"."""
    request = OxyRequest(
        arguments={"query": "x"}, call_stack=["user", "boss"], node_id_stack=["", "n1"], node_id="n2", caller="boss"
    )
    agent, _ = made(name="me")
    executed = (await agent.execute(request)).oxy_request
    assert executed is not None
    assert executed.call_stack == ["user", "boss", "me"]
    assert executed.node_id_stack == ["", "n1", "n2"]
    assert executed.callee == "me"
    assert executed.callee_category == "agent"
    assert executed.node_id == "n2"
    options, expected = STACK_OPTIONS[name]
    payload = await sent(request, name="me", **options)
    fields = ("call_stack", "node_id_stack", "caller")
    assert {key: payload[key] for key in fields if key in payload} == expected
    assert payload["caller_category"] == "user"


@pytest.mark.parametrize("name", ["_execute", "_get_base_execution_logic"])
@pytest.mark.parametrize(
    ("stack", "expected"),
    [(["user", "boss"], ["user", "boss"]), (["user", "me"], ["user"])],
    ids=["another agent last", "this agent last"],
)
async def test_execute_directly(stack: list[str], expected: list[str], name: str) -> None:
    """`_execute` pushes nothing on the stack, so only an entry of this agent is removed."""
    agent, transport = made(name="me")
    await getattr(agent, name)(OxyRequest(arguments={"query": "x"}, call_stack=stack, node_id_stack=["", "n"]))
    assert transport.payloads[0]["call_stack"] == expected


async def test_messages_are_always_requested() -> None:
    """A request without messages is sent as one with messages, of a user."""
    payload = await sent(OxyRequest(arguments={"query": "x"}, is_send_message=False, caller_category="tool"))
    assert payload["is_send_message"] is True
    assert payload["caller_category"] == "user"


class Prepared(SSEOxyGent):
    """An agent whose `prepare_payload` sets or removes fields."""

    changes: Mapping[str, Any] = MappingProxyType({})
    without: str = ""

    def prepare_payload(self, oxy_request: OxyRequest) -> dict[str, Any]:
        """Return the default payload, changed."""
        payload = super().prepare_payload(oxy_request)
        payload.pop(self.without, None)
        return {**payload, **self.changes}


BEFORE: Final[dict[str, tuple[Any, dict[str, Any], str]]] = {
    # the previous turn as sent; the fields that `prepare_payload` sets; the fields that it removes
    "the request's": ("asked", {}, ""),
    "set in the payload": ("mine", {"from_trace_id": "mine"}, ""),
    "emptied in the payload": ("", {"from_trace_id": ""}, ""),
    "none in the payload": (None, {"from_trace_id": None}, ""),
    "a payload without it": ("asked", {}, "from_trace_id"),
}


@pytest.mark.parametrize(("expected", "changes", "without"), BEFORE.values(), ids=BEFORE)
async def test_previous_turn(expected: Any, changes: dict[str, Any], without: str) -> None:
    """A previous turn set by `prepare_payload` is sent; otherwise the one of the call."""
    agent = Prepared(server_url=URL, transport=(transport := remote()))
    agent.changes, agent.without = changes, without
    await agent.ask("hi", from_trace_id="asked")
    assert transport.payloads[0]["from_trace_id"] == expected


async def test_previous_turn_with_another_id_at_the_remote() -> None:
    """The caller's trace id of a previous turn is replaced by the remote's id, in `prepare_payload` too."""
    agent = Prepared(server_url="https://renaming.test", transport=(transport := remote()))
    for _ in range(2):
        await agent.ask(OxyRequest(arguments={"query": "x"}, current_trace_id="turn", node_id="n"))
    agent.changes = {"from_trace_id": "turn"}
    await agent.ask("and then?")
    assert transport.payloads[1]["current_trace_id"] != "turn"
    assert transport.payloads[2]["from_trace_id"] == transport.payloads[1]["current_trace_id"]


Call = Callable[[SSEOxyGent, OxyRequest], Awaitable[Any]]
RESTARTING: Final[dict[str, Call]] = {
    "ask": lambda agent, request: agent.ask(request),
    "execute": lambda agent, request: agent.execute(request),
    "_execute": lambda agent, request: agent._execute(request),
    "start": lambda agent, request: agent.start(request),
    "stream": lambda agent, request: agent.stream(request).__aenter__(),
    "a registry": lambda agent, request: AgentRegistry(agent).call(
        "remote", query="x", **{name: getattr(request, name) for name in RESTART}
    ),
}


@pytest.mark.parametrize("call", RESTARTING.values(), ids=RESTARTING)
@pytest.mark.parametrize("name", RESTART)
async def test_a_restart_is_refused(name: str, call: Call) -> None:
    """A request for a restart is refused and nothing is sent: it would start a new run."""
    agent, transport = made(callee="master")
    fields: dict[str, Any] = {"arguments": {"query": "x"}, name: "x"}
    with pytest.raises(errors.PayloadError, match=name) as caught:
        await call(agent, OxyRequest(**fields))
    assert caught.value.outcome is errors.Outcome.NOT_SENT
    assert transport.requests == []


@pytest.mark.parametrize("name", RESTART)
async def test_a_restart_in_prepare_payload(name: str) -> None:
    """A restart in the payload of `prepare_payload` is refused."""
    agent = Prepared(server_url=URL, transport=(transport := remote()))
    agent.changes = {name: "x"}
    with pytest.raises(errors.PayloadError, match=name):
        await agent.ask("hi")
    assert transport.requests == []


async def test_a_restart_of_a_local_function() -> None:
    """A registry refuses a restart for each member, within a call too."""

    async def boss(request: OxyRequest) -> OxyResponse:
        return await request.call(callee="worker", arguments={}, restart_node_id="n")

    async def worker(request: OxyRequest) -> str:
        return "worked"

    with pytest.raises(errors.PayloadError, match="restart_node_id"):
        await AgentRegistry(boss, worker).call("boss", query="x")


async def test_argument_overrides() -> None:
    """An argument may overwrite a protocol field that is listed."""
    payload = await sent(OxyRequest(arguments={"query": "x", "caller": "other"}), argument_overrides={"caller"})
    assert payload["caller"] == "other"


@pytest.mark.parametrize("name", ["mas", "arguments", "current_trace_id", "call_stack", "node_id_stack"])
async def test_fields_that_cannot_be_overwritten(name: str) -> None:
    """The fields that identify a run cannot be overwritten."""
    with pytest.raises(errors.PayloadError, match=name):
        await sent(OxyRequest(arguments={"query": "x", name: "x"}), argument_overrides={name})


SHARES: Final[list[tuple[Any, dict[str, Any]]]] = [
    # share_data, the data that is sent
    (True, {"a": 1, "b": {"c": 2}}),
    (False, {}),
    ({"a"}, {"a": 1}),
    (["b", "none"], {"b": {"c": 2}}),
    ((), {}),
    ({"a", "_headers"}, {"a": 1}),
]


@pytest.mark.parametrize(("share", "expected"), SHARES, ids=["all", "none", "one", "missing", "empty", "headers"])
async def test_share_data(share: Any, expected: dict[str, Any]) -> None:
    """`share_data` selects the data that is sent; inbound headers are never in it."""
    data = {"a": 1, "b": {"c": 2}, "_headers": {"authorization": "secret"}}
    agent, transport = made(share_data=share)
    await agent.ask(OxyRequest(arguments={"query": "x"}, shared_data=data, group_data=data))
    assert transport.payloads[0]["shared_data"] == expected
    assert transport.payloads[0]["group_data"] == expected
    assert b"secret" not in transport.requests[0].body


# -------------------------------------------------------------------------------------------------------------- Headers


class OwnHeaders(SSEOxyGent):
    """An agent that adds its own headers."""

    def prepare_headers(self, oxy_request: OxyRequest) -> dict[str, str]:
        """Return the headers as the documentation does."""
        return {**super().prepare_headers(oxy_request), "X-Own": oxy_request.get_query(), "User-Agent": "me"}


HEADERS: Final[dict[str, tuple[type[SSEOxyGent], dict[str, Any], dict[str, str]]]] = {
    # the class, its settings, the headers beside the protocol's
    "none": (SSEOxyGent, {}, {}),
    "own": (
        SSEOxyGent,
        {"headers": {"X-A": "1", "Authorization": "mine"}},
        {"x-a": "1", "authorization": "mine"},
    ),
    "overruled": (SSEOxyGent, {"headers": {"Accept": "x", "ACCEPT-ENCODING": "gzip", "Content-Type": "x"}}, {}),
    "forwarded": (SSEOxyGent, {"forward_headers": ["x-request-ID", "x-none"]}, {"x-request-id": "7"}),
    "own before forwarded": (
        SSEOxyGent,
        {"forward_headers": {"authorization"}, "headers": {"authorization": "mine"}},
        {"authorization": "mine"},
    ),
    "prepared": (OwnHeaders, {}, {"x-own": "x", "user-agent": "me"}),
}
PROTOCOL_HEADERS: Final = {
    "accept": "text/event-stream",
    "accept-encoding": "identity",
    "cache-control": "no-store",
    "content-type": "application/json",
}


@pytest.mark.parametrize(("cls", "options", "expected"), HEADERS.values(), ids=HEADERS)
async def test_headers(cls: type[SSEOxyGent], options: dict[str, Any], expected: dict[str, str]) -> None:
    """The protocol's headers win over the user's; only allowed inbound headers are forwarded."""
    inbound = {"Authorization": "inbound", "X-Request-Id": "7", "Cookie": "c", "Transfer-Encoding": "chunked"}
    request = OxyRequest(arguments={"query": "x"}, shared_data={"_headers": inbound})
    agent = cls(URL, transport=(transport := remote()), **options)
    await agent.ask(request)
    got = dict(transport.requests[0].headers)
    expected = {"user-agent": got["user-agent"], **PROTOCOL_HEADERS, **expected}
    assert got == expected
    assert b"inbound" not in transport.requests[0].body


async def test_headers_of_a_get() -> None:
    """A GET has the same headers, except those of a stream."""
    agent, transport = made(headers={"X-A": "1"})
    await _init(agent)
    assert transport.requests[0].method == "GET"
    assert transport.requests[0].headers["accept-encoding"] == "identity"
    assert transport.requests[0].headers["x-a"] == "1"


async def _init(agent: SSEOxyGent) -> None:
    with pytest.raises(errors.NotFoundError):
        await agent.init()


@pytest.mark.parametrize(
    "headers",
    [
        {"x": "secret\r\nx-evil: 1"},
        {"x": "secret\n"},
        {"x y": "secret"},
        {"": "secret"},
        {"x": "s\0ecret"},
    ],
    ids=["two lines", "a line end", "a space in a name", "no name", "a null"],
)
async def test_header_injection(headers: dict[str, str]) -> None:
    """A header that HTTP does not allow is refused before anything is sent, without its value in the error."""
    agent, transport = made(headers=headers)
    with pytest.raises(errors.ConfigurationError) as caught:
        await agent.ask("hi")
    assert "ecret" not in str(caught.value)
    assert transport.requests == []
    assert transport.left == []


async def test_header_injection_by_a_forwarded_header() -> None:
    """An inbound header that HTTP does not allow is refused too."""
    inbound = OxyRequest(arguments={"query": "x"}, shared_data={"_headers": {"x-a": "1\r\nx-evil: 1"}})
    agent, transport = made(forward_headers={"x-a"})
    with pytest.raises(errors.ConfigurationError):
        await agent.execute(inbound)
    assert transport.requests == []


# --------------------------------------------------------------------------------------------------- Results and errors


FAILURES: Final[dict[str, tuple[str, bool, int, Reply]]] = {
    # the class of the error: (outcome, retryable, attempts, the reply)
    "ConnectError": ("not_sent", True, 3, Reply(before=errors.ConnectError("no"))),
    "AuthenticationError": ("rejected", False, 1, Reply(status=401)),
    "RateLimitedError": ("rejected", True, 3, Reply(status=429)),
    "ServerError": ("unknown", False, 1, Reply(status=500)),
    "IncompleteStreamError": ("started", False, 1, Reply([progress(1)])),
    "NoAnswerError": ("completed", False, 1, Reply([close()])),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_execute_returns_errors_of_the_remote(name: str) -> None:
    """`execute` returns a FAILED response for an error; `ask` and `stream` raise it."""
    outcome, retryable, attempts, reply = FAILURES[name]
    agent, _ = made(FakeTransport({"/sse/chat": reply}))
    response = await agent.execute(OxyRequest(arguments={"query": "x"}, current_trace_id="t"))
    assert response.state is OxyState.FAILED
    assert response.extra == {
        "error": name,
        "outcome": outcome,
        "retryable": retryable,
        "attempts": attempts,
        "trace_id": "t",
    }
    with pytest.raises(errors.OxyError) as caught:
        await agent.ask("x")
    assert type(caught.value).__name__ == name
    assert str(caught.value) == response.output
    with pytest.raises(errors.OxyError) as caught:
        async with agent.stream("x") as run:
            await run.final_response()
    assert type(caught.value).__name__ == name


async def test_execute_raises_configuration_errors() -> None:
    """`execute` raises a ConfigurationError."""
    agent, _ = made(FakeTransport({"/sse/chat": Reply(before=errors.InsecureTransportError("no"))}))
    with pytest.raises(errors.InsecureTransportError):
        await agent.execute(OxyRequest(arguments={"query": "x"}))


async def test_remote_agent() -> None:
    """`RemoteAgent` has a URL and `execute`; `_execute` is left to subclasses."""
    base = RemoteAgent(server_url=URL, name="base", desc="d")
    await base.init()
    assert base.org == {}
    assert base.get_org() == []
    assert base.desc == "d"
    with pytest.raises(NotImplementedError):
        await base.execute(OxyRequest())

    class Echo(RemoteAgent):
        async def _execute(self, oxy_request: OxyRequest) -> OxyResponse:
            return OxyResponse(OxyState.COMPLETED, oxy_request.get_query())

    response = await Echo(server_url=URL).execute(OxyRequest(arguments={"query": "x"}))
    assert response.state is OxyState.COMPLETED
    assert response.output == "x"


# ---------------------------------------------------------------------------------------- Subclasses change the payload


THEIRS: Final = ["user", "master", "search"]
OURS: Final = ["user", "boss", "me", "search"]
STACKS: Final[dict[str, tuple[dict[str, Any], list[str] | None, list[str]]]] = {
    # the attributes of the agent, the stack that is sent, the stack in forwarded messages
    "shared": ({}, ["user", "boss"], THEIRS),
    "not shared": ({"is_share_call_stack": False}, None, OURS),
    "set late": ({"call_stack_strategy": "none"}, None, OURS),
}


@pytest.mark.parametrize(("changes", "stack", "forwarded"), STACKS.values(), ids=STACKS)
async def test_rewritten_stacks(changes: dict[str, Any], stack: list[str] | None, forwarded: list[str]) -> None:
    """Forwarded messages get the caller's stack only if the payload had none."""
    request = OxyRequest(arguments={"query": "x"}, call_stack=["user", "boss"], node_id_stack=["", "n1"])
    transport = remote(
        tool_call("search"), observation("search", 1), tool_call("master", caller="user"), answer(1), close()
    )
    agent = SSEOxyGent(URL, transport=transport, name="me")
    for attribute, value in changes.items():
        setattr(agent, attribute, value)
    heard: list[Any] = []

    async def hear(message: Any) -> None:
        heard.append(message["content"]["call_stack"])

    request.send_message = hear
    async with agent.stream(request) as run:
        seen = [event.content["call_stack"] async for event in run if event.type == "tool_call"]
    assert transport.payloads[0].get("call_stack") == stack
    assert heard == [forwarded] * 2
    assert seen == [THEIRS, ["user", "master"]], "what was received is never changed"


async def test_fields_after_prepare_payload() -> None:
    """The protocol's own fields are set even after an overridden `prepare_payload`."""

    class Wild(SSEOxyGent):
        payload: Any = None

        def prepare_payload(self, oxy_request: OxyRequest) -> dict[str, Any]:
            return cast("dict[str, Any]", self.payload)

    agent = Wild(server_url=URL, transport=(transport := remote()), callee="x", check_callee=False)
    agent.payload = {
        "q": 1,
        "current_trace_id": "evil",
        "callee": "evil",
        "caller_category": "agent",
        "is_send_message": False,
        "original_payload": "p",
        "mas": object(),
        "shared_data": {"_headers": {"a": "secret"}},
    }
    await agent.ask("hi", trace_id="t4")
    assert {name: value for name, value in transport.payloads[0].items() if name != "node_id"} == {
        "q": 1,
        "current_trace_id": "t4",
        "from_trace_id": "",
        "callee": "x",
        "caller_category": "user",
        "is_send_message": True,
        "original_payload": "",
        "shared_data": {},
    }
    assert transport.payloads[0]["node_id"]  # these identify the run in the server's record
    for wrong in cast("list[Any]", [None, [], "x", {1: 2}, {"x": object()}]):
        agent.payload = wrong
        with pytest.raises(errors.PayloadError):
            await agent.ask("hi")
    assert len(transport.requests) == 1


# --------------------------------------------------------------------------------------------------- Pickles and copies


class Handling(SSEOxyGent):
    """An agent whose handlers are its own methods."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.heard: list[Any] = []
        self.event_handlers = {"progress": self.hear, "metrics": self.hear}

    async def hear(self, content: Any) -> None:
        """Append the value."""
        self.heard.append(content)


class Brittle:
    """An object whose pickling fails with its own message."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise errors.ConfigurationError("Brittle stays at home")


COPIES: Final[dict[str, Callable[[Any], Any]]] = {
    "pickle": lambda agent: pickle.loads(pickle.dumps(agent)),
    "old pickle": lambda agent: pickle.loads(pickle.dumps(agent, protocol=2)),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", COPIES)
async def test_pickles_and_copies(way: str) -> None:
    """A pickled or copied agent is configured like its original, works, and shares nothing live with it."""
    options: dict[str, Any] = {
        "name": "me",
        "desc": "d",
        "callee": "x",
        "headers": {"x-a": "1"},
        "timeouts": Timeouts(idle=7),
        "limits": Limits(depth=9),
        "event_handlers": {"progress": _module_level},
        "event_filter": bool,
    }
    original = SSEOxyGent(server_url=URL, **options)
    org = Reply.json({"code": 200, "data": {"organization": {"name": "x", "children": [{"name": "y"}]}}})
    original.transport = FakeTransport({"/get_organization": org})
    await original.init()
    original.transport = HTTPXTransport()
    async with original:
        clone = COPIES[way](original)
    assert {name: getattr(clone, name) for name in options} == options
    assert original.org == clone.org
    assert original.get_org() == clone.get_org()
    assert clone.org is not original.org
    assert [*vars(clone)] == [*vars(original)]
    assert isinstance(clone.transport, HTTPXTransport)
    clone.transport = remote()
    assert (await clone.ask("hi")).output == "42"
    assert [request.path for request in clone.transport.requests] == ["/sse/chat"], "what was discovered travels too"


async def test_a_shallow_copy() -> None:
    """A shallow copy has the same configuration, with literal secrets, and no live object of the original."""
    original = SSEOxyGent(server_url=URL, auth=BearerAuth("t0p-secret"), headers={}, policies=(ConcurrencyLimit(1),))
    async with original:
        clone = copy.copy(original)
        assert vars(original).keys() == vars(clone).keys()
        assert all(getattr(clone, name) is getattr(original, name) for name in ("auth", "headers", "policies", "org"))
        transport = remote(pause(1), answer("42"), close())
        original.transport = clone.transport = transport
        async with original.stream("hi"), clone.stream("hi"):
            assert original.stats().in_flight == 1
            assert clone.stats().in_flight == 1
        clone.transport = None
        async with original._transports.lease(None) as kept, clone._transports.lease(None) as own:
            assert kept is not own


def test_pickling_in_several_threads() -> None:
    """Threads that pickle one agent at the same time do not disturb each other."""
    agent = Handling(server_url=URL)
    both = threading.Barrier(2)
    failed: list[BaseException] = []

    class Meeting:
        """Waits for the other thread in the middle of the check."""

        def __reduce__(self) -> tuple[Any, ...]:
            both.wait(10)
            return str, ()

    vars(agent)["headers"] = Meeting()

    def work() -> None:
        try:
            for _ in range(3):
                pickle.dumps(agent)
        except Exception as error:  # noqa: BLE001  (whatever it is)
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


@pytest.mark.parametrize("way", COPIES)
async def test_copies_of_method_handlers(way: str) -> None:
    """Handlers that are bound methods of the agent become methods of the copy."""
    original = Handling(server_url=URL)
    clone = COPIES[way](original)
    clone.transport = remote(progress(1), answer(2), close())
    await clone.ask("hi")
    assert original.heard == []
    assert clone.heard == [1]


def _local(*anything: Any) -> Any:
    """Return a function that cannot be pickled."""

    def local(*anything: Any) -> Any:
        return True

    return local


LIVE: Final[dict[str, tuple[str, list[str], Callable[[], dict[str, Any]]]]] = {
    # the text in the error, the ways that fail, the settings
    "function": ("SSEOxyGent.event_filter is live", ["pickle", "old pickle"], lambda: {"event_filter": _local()}),
    "route": ("SSEOxyGent.router is live", ["pickle"], lambda: {"router": EventRouter({"x": _local()})}),
    "client": (
        "`client` is live",
        [*COPIES],
        lambda: {"transport": HTTPXTransport(client=httpx.AsyncClient())},
    ),
    "observer": ("Brittle stays", ["pickle"], lambda: {"observers": (Brittle(),)}),
    "lock": ("SSEOxyGent.event_handlers is live", [*COPIES], lambda: {"event_handlers": {"x": Locked()}}),
}


@pytest.mark.parametrize(("name", "way"), [(name, way) for name, (_, ways, _) in LIVE.items() for way in ways])
def test_settings_that_cannot_be_pickled(name: str, way: str) -> None:
    """A live object or a local function raises ConfigurationError with its attribute; the agent is unchanged."""
    said, _, settings = LIVE[name]
    agent = SSEOxyGent(URL, **settings())
    before = {**vars(agent)}
    with pytest.raises(errors.ConfigurationError) as caught:
        COPIES[way](agent)
    assert said in str(caught.value)
    assert vars(agent) == before


async def _module_level(content: Any) -> None:
    """A handler that can be pickled."""


class Locked:
    """A handler that holds a live object."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    async def __call__(self, content: Any) -> None:
        """Do nothing."""


# ----------------------------------------------------------------------------------------------------------- Transports


class Lent(FakeTransport):
    """A transport made by an agent; all of them are recorded."""

    made: Final[list[Lent]] = []

    def __init__(self) -> None:
        super().__init__({"/sse/chat": Reply([answer("42"), close()])})
        self.made.append(self)

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """Fail if the transport was closed."""
        assert not self.closed
        async with super().exchange(request) as response:
            yield response


def lending() -> SSEOxyGent:
    """Return an agent whose own transports are fakes."""
    agent = SSEOxyGent(server_url=URL)
    agent._transports = TransportPool(Lent)
    Lent.made.clear()
    return agent


async def test_transports_of_an_agent() -> None:
    """An agent that is not entered opens a transport for each operation; one that is entered keeps one."""
    agent = lending()
    await agent.ask("1")
    await agent.ask("2")
    await _init(agent)
    assert [(len(each.requests), each.closed) for each in Lent.made] == [(1, True), (1, True), (1, True)]
    Lent.made.clear()
    async with agent as entered, agent:
        assert entered is agent
        await agent.ask("1")
        await agent.ask("2")
        async with agent:
            await agent.ask("3")
        await agent.ask("4")
        assert [(len(each.requests), each.closed) for each in Lent.made] == [(4, False)]
    assert [(len(each.requests), each.closed) for each in Lent.made] == [(4, True)]
    await agent.ask("1")
    assert len(Lent.made) == 2


async def test_closing_an_agent() -> None:
    """`aclose` may be called often; afterwards the agent works like one that was not entered."""
    agent = lending()
    async with agent:
        await agent.ask("1")
        await agent.aclose()
        await agent.aclose()
        assert [each.closed for each in Lent.made] == [True]
        await agent.ask("2")
    assert [each.closed for each in Lent.made] == [True, True]


async def test_a_failed_operation_closes_its_transport() -> None:
    """The transport of one operation is closed when that fails, is left early or is cancelled."""
    agent = lending()
    with pytest.raises(errors.NotFoundError):
        await agent.init()
    async with agent.stream("hi") as run:
        await anext(run)
    with anyio.CancelScope() as scope:
        async with agent.stream("hi") as run:
            scope.cancel()
            await anyio.sleep(1)
    assert [(len(each.left), each.closed) for each in Lent.made] == [(1, True)] * 3


async def test_a_given_transport_is_never_closed() -> None:
    """A transport that was given is not closed."""
    agent, transport = made()
    async with agent:
        await agent.ask("hi")
    await agent.aclose()
    await agent.ask("hi")
    assert transport.closed is False
    assert len(transport.requests) == 2


def test_one_agent_in_two_event_loops() -> None:
    """One agent works in several event loops in turn, asyncio and trio, entered or not."""
    knows = Reply.json({"code": 200, "data": {"agents": [{"name": "x"}], "organization": {}}})
    transport = remote(get_organization=knows, get_agents=knows)
    agent = lending()
    checking = SSEOxyGent(server_url=URL, transport=transport, callee="x")

    async def use() -> None:
        await agent.ask("hi")
        async with agent:
            await agent.ask("hi")
        checking._catalog.entry = None
        async with anyio.create_task_group() as tasks:  # two, so that one waits for the other's discovery
            tasks.start_soon(checking.ask, "hi")
            tasks.start_soon(checking.ask, "hi")

    for backend in ("asyncio", "trio", "asyncio"):
        anyio.run(use, backend=backend)
    assert [(len(each.requests), each.closed) for each in Lent.made] == [(1, True)] * 6
    assert len([request for request in transport.requests if request.path == "/get_organization"]) == 3


async def test_one_agent_in_two_event_loops_at_once() -> None:
    """Leaving the agent in one event loop closes the connections of that loop only."""
    agent = lending()

    async def elsewhere() -> None:
        async with agent:
            await agent.ask("theirs")

    async with agent:
        await agent.ask("ours")
        for backend in ("asyncio", "trio"):
            await anyio.to_thread.run_sync(partial(anyio.run, elsewhere, backend=backend))
        assert [each.closed for each in Lent.made] == [False, True, True]
        await agent.ask("ours")
    assert [(len(each.requests), each.closed) for each in Lent.made] == [(2, True), (1, True), (1, True)]


def test_a_policy_with_a_lock_in_several_event_loops() -> None:
    """The wrapper of a policy stays in one event loop, also around a given transport."""

    class OneAtATime(Wrapper):
        """A wrapper with a lock, which belongs to the first event loop that waits for it."""

        kind = "concurrency"

        def __init__(self, inner: Transport) -> None:
            super().__init__(inner)
            self.lock = asyncio.Lock()

        @asynccontextmanager
        async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
            async with self.lock, self.inner.exchange(request) as response:
                await anyio.lowlevel.checkpoint()  # the other request begins to wait
                yield response

    @attrs.frozen
    class Locking:
        """A policy with such wrappers."""

        kind = OneAtATime.kind

        def new_state(self) -> None:
            """Keep nothing."""

        def wrap(self, inner: Transport, _state: None, /) -> Transport:
            return OneAtATime(inner)

    agent, transport = made(policies=[Locking()])

    async def use() -> None:
        await asyncio.gather(agent.ask("a"), agent.ask("b"))

    for _ in range(2):
        asyncio.run(use())
    assert len(transport.requests) == 4


@pytest.mark.parametrize(("desc", "expected"), [("", "theirs"), ("mine", "mine")])
async def test_init(desc: str, expected: str) -> None:
    """`init` stores the organization, and the remote's description only if the agent has none."""
    org = Reply.json({"code": 200, "data": {"organization": {"name": "master"}}})
    about = Reply.json({"code": 200, "data": {"description": "theirs"}})
    agent, transport = made(remote(get_organization=org, get_description=about), desc=desc)
    await agent.init()
    assert agent.desc == expected
    assert agent.org == {"name": "master"}
    assert agent.get_org() == []
    assert [each.path for each in transport.requests] == ["/get_organization", "/get_description", "/get_agents"]
    assert {each.context.purpose for each in transport.requests} == {"discover"}


async def test_cancelling_init_leaves_nothing_open() -> None:
    """A cancelled `init` leaves its exchange and closes its transport."""
    hanging = FakeTransport({"/get_organization": Reply(before=pause(math.inf))})
    agent = SSEOxyGent(server_url=URL)
    agent._transports = TransportPool(lambda: hanging)
    with anyio.move_on_after(1) as scope:
        await agent.init()
    assert scope.cancelled_caught
    assert hanging.closed
    assert len(hanging.requests) == 1
    assert hanging.requests == hanging.left
