"""The registry: how calls are placed, who answers, when members are opened and closed, and who stands in.

Rule 1: how the framework places a call is compared with what a real one sent (`tests/fixtures/wire`), and with its
    rules on call trees that hypothesis draws.
Rule 2: what a remote is asked is seen in its scripted transport.
"""

from __future__ import annotations

import copy
import functools
import json
import logging
import pickle
import re
from typing import TYPE_CHECKING, Any, Final, Self, cast

import anyio
import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import AgentRegistry, OxyRequest, OxyResponse, OxyState, Retry, SSEOxyGent, errors
from oxygent_client.registry import Function
from oxygent_client.sanitize import redact
from oxygent_client.testing import FakeTransport, Reply, answer, close, progress, tool_call
from tests.conftest import WIRE
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

URL: Final = "https://remote.test"
ONCE: Final = Retry(attempts=1)
ORGANIZATION: Final = {
    "name": "master",
    "type": "agent",
    "children": [{"name": "flights", "type": "agent", "children": [{"name": "search", "type": "tool"}]}],
}
FOUND: Final = {
    "/get_organization": Reply.json({"code": 200, "data": {"organization": ORGANIZATION}}),
    "/get_description": Reply.json({"code": 200, "data": {"description": "plans trips"}}),
}


def brain(*steps: Any, name: str = "brain", **options: Any) -> tuple[SSEOxyGent, FakeTransport]:
    """A remote agent, and its transport."""
    transport = FakeTransport({"/sse/chat": Reply(steps or (answer("42"), close())), **FOUND})
    return SSEOxyGent(
        server_url=URL, name=name, transport=transport, retry=options.pop("retry", ONCE), **options
    ), transport


def refusing(before: Exception, name: str = "brain") -> SSEOxyGent:
    """A remote agent whose runs fail so, before anything is answered."""
    transport = FakeTransport({"/sse/chat": Reply((), before=before)})
    return SSEOxyGent(server_url=URL, name=name, transport=transport, retry=ONCE)


async def echo(request: OxyRequest) -> Any:
    """Gives the query back.

    It does nothing else.
    """
    return request.get_query()


def asked(request: OxyRequest) -> Any:
    """Gives the query back, at once."""
    return request.get_query()


def said(what: Any, request: OxyRequest) -> Any:
    """Gives what it is made with."""
    del request
    return what


def pickled(value: Any) -> Any:
    """A copy that went through a pickle."""
    return pickle.loads(pickle.dumps(value))


def add(a: int, b: int = 1) -> int:
    """Adds."""
    return a + b


async def slow_add(a: int, b: int = 1) -> int:
    """Adds, in its own time."""
    await anyio.sleep(3600)
    return a + b


async def plan(request: OxyRequest) -> OxyResponse:
    """Hands on."""
    return await request.call(callee="brain", arguments={"query": f"plan: {request.get_query()}"})


class Sage:
    """A member that is no agent of ours, and notes what is done to it."""

    def __init__(
        self, name: str = "sage", *, noted: list[str] | None = None, fails: str = "", gives: Any = "wise"
    ) -> None:
        self.name = name
        self.noted = [] if noted is None else noted
        self.fails = fails
        self.gives = gives
        self.requests: list[OxyRequest] = []

    def _did(self, what: str) -> None:
        self.noted.append(f"{what} {self.name}")
        if what in self.fails:
            raise ValueError("t0p-secret")

    async def __aenter__(self) -> Self:
        await anyio.sleep(1)
        self._did("open")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await anyio.sleep(1)
        self._did("close")

    async def init(self) -> None:
        """Finds out nothing."""
        await anyio.sleep(1)
        self._did("init")

    async def execute(self, oxy_request: OxyRequest) -> OxyResponse:
        """Notes the request."""
        self.requests.append(oxy_request)
        self._did("ask")
        return OxyResponse(OxyState.COMPLETED, self.gives)


@attrs.frozen
class Plain:
    """The least that is a member."""

    response: Any
    name: str = "plain"

    async def execute(self, oxy_request: OxyRequest) -> Any:
        """What it was made with."""
        del oxy_request
        return self.response


# ----------------------------------------------------------------------------------------------- As the framework does


def same_names(value: Any, ids: dict[str, str]) -> Any:
    """`value` with each id that was drawn by lot replaced by a number, the same for the same id."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {key: same_names(fields[key], ids) for key in sorted(fields)}
    if isinstance(value, list):
        return [same_names(item, ids) for item in cast("list[Any]", value)]
    if isinstance(value, str) and len(value) == 16 and value.isalnum():
        return ids.setdefault(value, f"id {len(ids)}")
    return value


OURS: Final = frozenset({"input_md5", "create_time", "update_time", "copied_node_id", "original_payload"}) | {
    "is_load_data_for_restart"
}
"""Fields that only some versions have, and those that a MAS fills in for its own records."""


@pytest.mark.parametrize("version", ["1.1.3", "1.0.13"])
@pytest.mark.parametrize("shares", [True, False])
async def test_a_remote_is_sent_what_the_real_framework_sends(version: str, shares: bool) -> None:
    """A remote that a local member calls gets the stacks, ids and data that a real MAS sends."""
    captured = (WIRE / f"v{version}_client_post_share_{shares}.http").read_bytes()
    expected: dict[str, Any] = json.loads(captured.partition(b"\r\n\r\n")[2])
    del expected["shared_data"]["_metrics"]  # times that the MAS takes
    remote, transport = brain(name="remote", callee="remote", check_callee=False, is_share_call_stack=shares)

    async def local_master(request: OxyRequest) -> OxyResponse:
        return await request.call(callee="remote", arguments={"query": "hello remote ü🚀"})

    registry = AgentRegistry(local_master, remote)
    response = await registry.call(
        "local_master",
        query="go",
        request_id="localreq",
        current_trace_id=expected["current_trace_id"],
        shared_data={"mine": 1},
        group_data={"user_pin": "u1"},
    )
    assert response.output == "42"
    (payload,) = transport.payloads
    for field in OURS:
        expected.pop(field, None)
        payload.pop(field, None)
    assert same_names(expected, {}) == same_names(payload, {})


Tree = tuple["Tree", ...]
TREES: Final[st.SearchStrategy[Tree]] = st.recursive(
    st.just(()), lambda below: st.lists(below, max_size=3).map(tuple), max_leaves=12
)


def placed(tree: Tree) -> tuple[list[OxyRequest], dict[str, Any]]:
    """What the members saw when each called its own children one after the other, and the data that they shared."""
    seen: list[OxyRequest] = []
    shared: dict[str, Any] = {}

    async def walker(request: OxyRequest) -> int:
        seen.append(request)
        below = request.arguments["tree"]
        for child in below:
            await request.call(callee="walker", arguments={"tree": child})
        return len(below)

    anyio.run(functools.partial(AgentRegistry(walker).call, "walker", arguments={"tree": tree}, shared_data=shared))
    return seen, shared


@given(TREES)
def test_calls_are_placed_by_the_rules_of_the_framework(tree: Tree) -> None:
    """In every tree of calls: stacks that grow together, the father above, the sibling before, one run's data."""
    seen, shared = placed(tree)
    nodes = {request.node_id: request for request in seen}
    assert len(seen) == len(nodes)
    assert len({(request.current_trace_id, request.request_id, request.group_id) for request in seen}) == 1
    last: dict[str | None, str | None] = {}
    for request in seen:
        depth = len(request.call_stack) - 1
        assert request.call_stack == ["user", *["walker"] * depth]
        assert request.node_id == request.node_id_stack[-1]
        father = request.node_id_stack[-2]
        assert request.father_node_id == father
        assert (["user", "user"] if depth == 1 else ["walker", "agent"]) == [request.caller, request.caller_category]
        assert [request.callee, request.callee_category] == ["walker", "agent"]
        if father:
            assert nodes[father].node_id_stack == request.node_id_stack[:-1]
        before = last.get(father)
        assert ([before] if before else []) == request.pre_node_ids
        last[father] = request.node_id
        assert request.shared_data is shared


async def test_calls_of_one_batch_stand_beside_each_other() -> None:
    """With one `parallel_id` calls have the same nodes before them, and what follows has all of them before it."""
    sage = Sage()

    async def fan_out(request: OxyRequest) -> None:
        await request.call(callee="sage", arguments={})
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(functools.partial(request.call, callee="sage", arguments={}, parallel_id="batch"))
        await request.call(callee="sage", arguments={}, pre_node_ids=["mine"])
        await request.call(callee="sage", arguments={})

    await AgentRegistry(fan_out, sage).call("fan_out")
    first, *batch, told, last = sage.requests
    assert [[first.node_id]] * 3 == [request.pre_node_ids for request in batch]
    assert {request.parallel_id for request in batch} == {"batch"}
    assert told.pre_node_ids == ["mine"]
    assert [told.node_id] == last.pre_node_ids
    assert len({request.node_id for request in sage.requests}) == 6
    assert len({request.parallel_id for request in sage.requests}) == 4


@pytest.mark.parametrize(
    ("expected", "latest"),
    [([], []), ("n1", "n1"), (None, None), (["n1"], ["n1"])],
    ids=["none", "text", "null", "list"],
)
async def test_what_stood_before_a_request_may_be_anything_that_the_wire_allows(expected: Any, latest: Any) -> None:
    """The fields that a request brought along may be a list, a text or null; the wire has all of them."""
    sage = Sage()
    request = OxyRequest(mas=AgentRegistry(sage), parallel_dict=None, latest_node_ids=latest)
    await request.call(callee="sage")
    assert sage.requests[0].pre_node_ids == expected
    assert [sage.requests[0].node_id] == request.latest_node_ids


async def test_a_call_from_outside() -> None:
    """The caller is the user, ids are drawn, the data are the caller's own, and its arguments are left alone."""
    sage, shared, arguments = Sage(), {"key": "value"}, {"depth": [1]}
    registry = AgentRegistry(sage)
    response = await registry.call("sage", query="why", arguments=arguments, shared_data=shared, group_id="talk")
    (request,) = sage.requests
    assert response.state is OxyState.COMPLETED
    assert response.output == "wise"
    assert response.oxy_request == request
    assert request.caller == "user"
    assert request.caller_category == "user"
    assert request.callee == "sage"
    assert request.callee_category == "agent"
    assert request.father_node_id == ""
    assert request.arguments == {"depth": [1], "query": "why"}
    assert arguments == {"depth": [1]}
    assert request.shared_data is shared
    assert request.get_query(master_level=True) == "why"
    assert request.group_id == "talk"
    assert request.mas == registry
    assert all((request.request_id, request.current_trace_id, request.node_id))
    await registry.call("sage")
    assert sage.requests[1].arguments == {}
    assert sage.requests[1].shared_data == {}
    assert request.current_trace_id != sage.requests[1].current_trace_id
    with pytest.raises(AttributeError, match="qeury"):
        await registry.call("sage", qeury="why")


async def test_the_call_of_the_documentation() -> None:
    """`oxy_request.call(callee=..., arguments={...})` gives the remote all arguments, and answers."""
    remote, transport = brain(name="enterprise_brain")
    oxy_request = OxyRequest(mas=AgentRegistry(remote))
    arguments = {
        "query": "Process quarterly financial analysis",
        "department": "finance",
        "quarter": "Q3_2024",
        "include_forecasting": True,
    }
    response = await oxy_request.call(callee="enterprise_brain", arguments=arguments)
    assert response.state is OxyState.COMPLETED
    assert response.output == "42"
    assert {key: transport.payloads[0][key] for key in arguments} == arguments


# ------------------------------------------------------------------------------------------------------------- Members


@pytest.mark.parametrize(
    ("expected", "member", "arguments"),
    [
        ("hi", echo, {"query": "hi"}),
        ("hi", lambda: Function(asked, name="f"), {"query": "hi"}),
        ("partial", lambda: Function(functools.partial(said, "partial"), name="f"), {}),
        (3, lambda: Function(add, by_name=True), {"a": 1, "b": 2}),
        (2, lambda: Function(add, by_name=True), {"a": 1}),
        (3, lambda: Function(slow_add, by_name=True), {"a": 1, "b": 2}),
        ("as it is", lambda: Plain(OxyResponse(OxyState.COMPLETED, "as it is")), {}),
        ("wise", Sage, {}),
        ("42", lambda: brain()[0], {"query": "hi"}),
    ],
    ids=["async", "sync", "partial", "by_name", "default", "async_by_name", "plain", "sage", "remote"],
)
async def test_what_may_be_a_member(expected: Any, member: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Remote agents, functions of a request or of their arguments, and whatever executes, all answer."""
    registry = AgentRegistry(member if member is echo else member())
    response = await registry.call(registry.names[0], arguments=arguments)
    assert response.state is OxyState.COMPLETED
    assert response.output == expected
    assert response.oxy_request is not None
    assert ["user", registry.names[0]] == response.oxy_request.call_stack


async def test_a_function_may_give_a_response() -> None:
    """An `OxyResponse` that a function returns is the response, and is left as it was."""
    given = OxyResponse(OxyState.SKIPPED, "not today")
    registry = AgentRegistry(Function(functools.partial(said, given), name="f"))
    response = await registry.call("f")
    assert given == response
    assert given.oxy_request is None


def test_how_a_function_shows_itself() -> None:
    """Name and description are those of the function, unless you say others; a tool is what knows no request."""
    functions = (Function(echo), Function(add, by_name=True), Function(add, name="sum", desc="sums"))
    assert [(function.name, function.desc, function.category) for function in functions] == [
        ("echo", "Gives the query back.", "agent"),
        ("add", "Adds.", "tool"),
        ("sum", "sums", "agent"),
    ]


@pytest.mark.parametrize(
    ("because", "make"),
    [
        ("'echo'", lambda: AgentRegistry(echo, echo)),
        ("'echo'", lambda: AgentRegistry(echo, Sage("echo"))),
        ("str ", lambda: AgentRegistry("brain")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  (wrong on purpose)
        ("type ", lambda: AgentRegistry(int)),
        ("Sage has no `name`", lambda: AgentRegistry(Sage(""))),
        ("name=", lambda: AgentRegistry(lambda: 1)),
        ("name=", lambda: AgentRegistry(functools.partial(add, 1))),
        ("'max'", lambda: Function(max, by_name=True)),
        ("'ecko'; did you mean 'echo'?", lambda: AgentRegistry(echo, fallback={"ecko": "echo"})),
        ("'brain'; it has 'echo'", lambda: AgentRegistry(echo, fallback={"echo": "brain"})),
        ("echo > echo", lambda: AgentRegistry(echo, fallback={"echo": "echo"})),
        (
            "echo > add > echo",
            lambda: AgentRegistry(echo, Function(add, by_name=True), fallback={"echo": "add", "add": "echo"}),
        ),
        ("'echo'", lambda: AgentRegistry(echo, fallback={"echo": echo})),
    ],
    ids=[
        *("twice", "twice_of_two_kinds", "text", "class", "no_name", "lambda", "partial", "builtin"),
        *("unknown", "unknown_instead", "itself", "circle", "function_twice"),
    ],
)
def test_what_a_registry_cannot_be_made_of(because: str, make: Callable[[], Any]) -> None:
    """What is no member, has no name, or the name of another, is refused at once; so are circles."""
    with pytest.raises(errors.ConfigurationError) as caught:
        make()
    assert because in str(caught.value)


@pytest.mark.parametrize(
    ("callee", "members", "named"),
    [
        ("brian", ("brain", "sage"), ["brain"]),
        ("zzz", ("brain", "sage"), ["brain", "sage"]),
        ("", ("brain", "sage"), ["brain", "sage"]),
        ("brain", (), []),
    ],
    ids=["similar", "all", "empty", "no members"],
)
async def test_an_unknown_member(callee: str, members: tuple[str, ...], named: list[str]) -> None:
    """The error names similar members, otherwise all, from outside as from within a member."""

    async def mistaken(request: OxyRequest) -> OxyResponse:
        return await request.call(callee=callee)

    with pytest.raises(errors.UnknownCalleeError) as caught:
        await AgentRegistry(*map(Sage, members)).call(callee)
    assert re.findall("'([^']*)'", str(caught.value)) == [callee, *named]
    with pytest.raises(errors.UnknownCalleeError):
        await AgentRegistry(*map(Sage, members), mistaken).call("mistaken")
    with pytest.raises(errors.UnknownCalleeError):
        await OxyRequest(mas=AgentRegistry(*map(Sage, members))).call()


@pytest.mark.parametrize("max_depth", [1, 2, 7])
async def test_members_that_call_each_other_in_a_circle(max_depth: int) -> None:
    """They are stopped at `max_depth` calls, and the error shows the way."""
    calls: list[str] = []

    async def ping(request: OxyRequest) -> OxyResponse:
        calls.append("ping")
        return await request.call(callee="pong")

    async def pong(request: OxyRequest) -> OxyResponse:
        calls.append("pong")
        return await request.call(callee="ping")

    with pytest.raises(errors.ConfigurationError, match=rf"max_depth \({max_depth}\).* > p.ng$"):
        await AgentRegistry(ping, pong, max_depth=max_depth).call("ping")
    assert len(calls) == max_depth


# ------------------------------------------------------------------------------------------------------------ Failures


@pytest.mark.parametrize(
    ("error", "outcome", "text", "member"),
    [
        ("ConnectError", "not_sent", "no route", refusing(errors.ConnectError("no route"))),
        ("ServerError", "unknown", "oops", refusing(errors.ServerError("oops", status=500))),
        ("IncompleteStreamError", "started", "", brain(progress("a"))[0]),
        ("HandlerError", "unknown", "'brain' raised ValueError (test_registry.py:", Sage("brain", fails="ask")),
        ("HandlerError", "unknown", "OxyResponse, not dict", Plain({}, name="brain")),
        (
            "HandlerError",
            "not_sent",
            "'brain': missing",
            Function(add, name="brain", by_name=True),
        ),
    ],
)
async def test_a_member_that_fails(error: str, outcome: str, text: str, member: Any) -> None:
    """The response is FAILED and says how, for every kind of member; a foreign error's text is not in it."""
    registry = AgentRegistry(member)
    response = await registry.call("brain", query="hi", current_trace_id="mine")
    assert response.state is OxyState.FAILED
    assert response.extra["error"] == error
    assert response.extra["outcome"] == outcome
    assert response.extra["trace_id"] == "mine"
    assert response.extra.keys() == {"error", "outcome", "retryable", "attempts", "trace_id"}
    assert text in response.output
    assert "t0p-secret" not in repr((response, response.extra))


@pytest.mark.parametrize(
    ("state", "output", "error"),
    [
        (OxyState.FAILED, "no route", errors.ConnectError("no route")),
        (OxyState.FAILED, "it said so", errors.RemoteAgentError("it said so")),
        (OxyState.CANCELED, ["half"], errors.RemoteAgentError("left", state=OxyState.CANCELED, output=["half"])),
    ],
)
async def test_a_failure_is_one_response_whoever_answers(state: OxyState, output: Any, error: errors.OxyError) -> None:
    """An agent's own `execute`, and the registry for a function that raises the same, give the same response."""
    agent = refusing(error)

    async def ask(request: OxyRequest) -> OxyResponse:
        return await agent.ask(str(request.get_query()))

    ours = await AgentRegistry(ask).call("ask", query="hi", current_trace_id="mine")
    theirs = await agent.execute(OxyRequest(arguments={"query": "hi"}, current_trace_id="mine"))
    assert (state, output) == (theirs.state, theirs.output) == (ours.state, ours.output)
    assert theirs.extra | {"outcome": "", "retryable": False, "trace_id": ""} == ours.extra | {
        "outcome": "",
        "trace_id": "",
    }


async def working(request: OxyRequest) -> OxyResponse:
    """Does something, calls, and hands the failure on."""
    request.shared_data["done"] = True
    return await request.call(callee="brain")


async def raising(request: OxyRequest) -> None:
    """Likewise, with an exception."""
    request.shared_data["done"] = True
    await refusing(errors.ConnectError("no route")).ask("hi")


class Twice(SSEOxyGent):
    """Asks more than once."""

    async def _execute(self, oxy_request: OxyRequest) -> OxyResponse:
        oxy_request.shared_data["done"] = True
        return await super()._execute(oxy_request)


class Answering(SSEOxyGent):
    """Likewise, where it answers."""

    async def execute(self, oxy_request: OxyRequest, **options: Any) -> OxyResponse:
        """Asks, after something else."""
        oxy_request.shared_data["done"] = True
        return await super().execute(oxy_request, **options)


def unreachable(cls: type[SSEOxyGent]) -> SSEOxyGent:
    """An agent of a class whose remote cannot be reached."""
    transport = FakeTransport({"/sse/chat": Reply((), before=errors.ConnectError("no route"))})
    return cls(server_url=URL, name="worker", transport=transport, retry=ONCE)


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Function(working, name="worker"),
        lambda: Function(raising, name="worker"),
        lambda: unreachable(Twice),
        lambda: unreachable(Answering),
    ],
    ids=["hands_on", "raises", "execute_replaced", "answer_replaced"],
)
async def test_who_may_have_done_something_before(make: Callable[[], Any], idempotent: bool) -> None:
    """The outcome of a call within a member is not the member's: nobody stands in, unless running twice is allowed."""
    shared: dict[str, Any] = {}
    member = make()
    registry = AgentRegistry(member, refusing(errors.ConnectError("no route")), Sage(), fallback={"worker": "sage"})
    response = await registry.call("worker", query="hi", shared_data=shared, idempotent=idempotent)
    assert shared == {"query": "hi", "done": True}
    if idempotent:
        assert response.output == "wise"
    else:
        assert response.state is OxyState.FAILED
        assert response.extra["error"] == "ConnectError"
        assert response.extra["outcome"] == "unknown"
        assert response.extra["retryable"] is False


async def test_arguments_that_do_not_fit_ran_nothing() -> None:
    """Another may be asked then."""
    registry = AgentRegistry(Function(add, by_name=True), Sage(), fallback={"add": "sage"})
    assert (await registry.call("add")).output == "wise"


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ("arguments must be a mapping", {"arguments": "hi"}),
        ("arguments must be a mapping", {"arguments": None}),
        ("shared_data must be a dict", {"shared_data": None}),
        ("group_data must be a dict", {"group_data": [1]}),
        ("idempotent must be True or False", {"idempotent": 1}),
    ],
)
async def test_a_call_with_values_of_another_kind(said: str, changes: dict[str, Any]) -> None:
    """Is refused at once, from outside as from within, and asks nobody."""
    sage = Sage()
    registry = AgentRegistry(sage)
    for call in (
        functools.partial(registry.call, "sage"),
        functools.partial(OxyRequest(mas=registry).call, callee="sage"),
    ):
        with pytest.raises(errors.ConfigurationError, match=said):
            await call(**changes)
    assert sage.noted == []


async def test_an_error_of_the_callers_own_is_raised() -> None:
    """A wrong call is no failed member: it is raised, through all members in between."""
    registry = AgentRegistry(plan, brain()[0])
    with pytest.raises(errors.PayloadError, match="'call_stack'"):
        await registry.call("brain", arguments={"call_stack": []})
    with pytest.raises(errors.ConfigurationError):
        await registry.call("plan", query=object())


async def test_cancellation_passes() -> None:
    """A call that is cancelled ends at once, and answers nothing."""
    with anyio.move_on_after(1) as scope:
        await AgentRegistry(Function(slow_add, by_name=True)).call("slow_add", arguments={"a": 1})
    assert scope.cancelled_caught


REFUSED: Final = errors.RateLimitedError("later", status=429)
LOST: Final = errors.ConnectionLostError("gone")


@pytest.mark.parametrize(
    ("instead", "idempotent", "member"),
    [
        (True, False, refusing(errors.ConnectError("no route"))),
        (True, False, refusing(REFUSED)),
        (False, False, refusing(LOST)),
        (True, True, refusing(LOST)),
        (False, False, brain(progress("a"))[0]),
        (True, True, brain(progress("a"))[0]),
        (False, False, brain(close())[0]),
        (True, True, brain(close())[0]),
        (False, True, brain()[0]),
        (False, False, Sage("brain", fails="ask")),
        (True, True, Sage("brain", fails="ask")),
        (False, True, Plain(OxyResponse(OxyState.CANCELED, extra={"outcome": "not_sent"}), name="brain")),
        (False, True, Plain(OxyResponse(OxyState.SKIPPED), name="brain")),
    ],
)
async def test_who_answers_instead(instead: bool, idempotent: bool, member: Any) -> None:
    """The fallback is asked if nothing ran, and where running twice does no harm after every failure."""
    sage = Sage()
    registry = AgentRegistry(member, sage, fallback={"brain": "sage"})
    response = await registry.call("brain", query="hi", idempotent=idempotent)
    assert instead == (response.output == "wise") == bool(sage.requests)
    assert ("brain" if instead else None) == response.extra.get("fallback_for")


async def test_a_fallback_is_another_call_of_the_same_caller(caplog: pytest.LogCaptureFixture) -> None:
    """It has the run's ids, the caller's stacks, a node of its own after that which failed; the log tells of it."""
    caplog.set_level(logging.WARNING, "oxygent_client")
    failing, sage = refusing(errors.ConnectError("no route")), Sage()
    registry = AgentRegistry(plan, failing, sage, fallback={"brain": "sage"})
    response = await registry.call("plan", query="Rome")
    (request,) = sage.requests
    assert response.output == "wise"
    assert response.extra["fallback_for"] == "brain"
    assert request.arguments == {"query": "plan: Rome"}
    assert request.call_stack == ["user", "plan", "sage"]
    assert request.caller == "plan"
    assert request.callee == "sage"
    assert isinstance(request.pre_node_ids, list)
    assert len(request.pre_node_ids) == 1
    assert request.node_id not in request.pre_node_ids
    (text,) = [record.message for record in caplog.records]
    assert re.findall("brain|ConnectError|sage", text) == ["brain", "ConnectError", "sage"]
    assert request.current_trace_id == caplog.records[0].__dict__["trace_id"]


async def test_a_fallback_may_be_a_function_and_have_a_fallback() -> None:
    """A function that stands in is a member like any other; of a chain the response names whom the caller asked."""
    down = [refusing(errors.ConnectError("no route"), name) for name in ("brain", "second")]
    registry = AgentRegistry(*down, fallback={"brain": "second", "second": echo})
    assert registry.names == ("brain", "second", "echo")
    response = await registry.call("brain", query="hi")
    assert response.output == "hi"
    assert response.extra["fallback_for"] == "brain"
    response = await registry.call("second", query="hi")
    assert response.extra["fallback_for"] == "second"


async def test_a_fallback_that_fails_too() -> None:
    """Its failure is the response, and says for whom it stood in."""
    down = [refusing(errors.ConnectError(f"{name} is down"), name) for name in ("brain", "second")]
    response = await AgentRegistry(*down, fallback={"brain": "second"}).call("brain", query="hi")
    assert response.state is OxyState.FAILED
    assert response.output == "second is down"
    assert response.extra["fallback_for"] == "brain"


# ------------------------------------------------------------------------------------------------------------ Messages


async def test_who_watches() -> None:
    """`on_message` gets what members send and what remotes forward, with the request within which it was sent."""
    heard: list[tuple[Any, ...]] = []

    async def watch(message: Any, *, request: OxyRequest, **about: Any) -> None:
        heard.append((message, request.callee, about))

    async def talk(request: OxyRequest) -> OxyResponse:
        await request.send_message("thinking", event="thought", id="7", retry=5)
        await request.clone_with(is_send_message=False).send_message("unheard")
        return await request.call(callee="brain", arguments={"query": "hi"})

    registry = AgentRegistry(talk, brain(progress("half"), answer("42"), close())[0])
    assert (await registry.call("talk")).output == "42"
    assert heard == []
    registry.on_message = watch
    await registry.call("talk")
    assert [(message if isinstance(message, str) else message["type"], callee) for message, callee, _ in heard[:4]] == [
        ("tool_call", "talk"),
        ("thinking", "talk"),
        ("tool_call", "brain"),
        ("progress", "brain"),
    ]
    assert [(each[0]["type"], each[1]) for each in heard[4:]] == [("observation", "brain"), ("observation", "talk")]
    assert heard[1][2] == {"event": "thought", "id": "7", "retry": 5}
    assert heard[3][0] == {"type": "progress", "content": "half"}
    assert [heard[place][2] for place in (0, 2, 4, 5)] == [{"event": None, "id": None, "retry": None}] * 4


async def leaf_agent(request: OxyRequest) -> str:
    """The last agent of the real server's chain."""
    await request.send_message({"type": "progress", "content": {"from": "leaf"}})
    total = await request.call(callee="add", arguments={"a": 20, "b": 22})
    return f"leaf({total.output})"


async def middle_agent(request: OxyRequest) -> str:
    """The one before."""
    below = await request.call(callee="leaf_agent", arguments={"query": "leaf"})
    return f"middle({below.output})"


async def master(request: OxyRequest) -> str:
    """The first."""
    below = await request.call(callee="middle_agent", arguments={"query": request.get_query()})
    return f"nested -> {below.output}"


async def test_who_watches_hears_what_a_real_front_end_hears() -> None:
    """The messages about calls are a real server's, for the same chain of members; the answer is what `call` gives."""
    stream = (WIRE / "v1.1.3_nested.sse").read_text(encoding="utf-8").splitlines()
    real = [json.loads(line.removeprefix("data: ")) for line in stream if line.startswith("data: {")]
    heard: list[Any] = []

    async def watch(message: Any, **_: Any) -> None:
        heard.append(message)

    members = (master, middle_agent, leaf_agent, Function(add, by_name=True))
    response = await AgentRegistry(*members, on_message=watch).call(
        "master", query="nested", request_id="req-nested", current_trace_id=real[-1]["current_trace_id"]
    )
    assert real.pop()["content"] == response.output
    assert same_names(real, {}) == same_names(heard, {})


async def test_a_call_of_a_remote_is_told_around_what_it_sends() -> None:
    """Without arguments other than the query, and also where nothing ran; the call of a stand-in is told, too."""
    heard: list[tuple[str, list[str]]] = []
    told: list[dict[str, Any]] = []

    async def watch(message: Any, *, request: OxyRequest, **_: Any) -> None:
        heard.append((message["type"], message["content"]["call_stack"]))
        if request.call_stack == message["content"]["call_stack"]:
            told.append(message["content"])

    down = refusing(errors.ConnectError("no route"), "down")
    remote, _ = brain(tool_call("search", caller="brain", call_stack=["user", "brain", "search"]), answer(42), close())
    registry = AgentRegistry(remote, down, fallback={"down": "brain"}, on_message=watch)
    await registry.call("down", query="hi", arguments={"mine": 1})
    assert heard == [
        ("tool_call", ["user", "down"]),
        ("observation", ["user", "down"]),
        ("tool_call", ["user", "brain"]),
        ("tool_call", ["user", "brain", "search"]),
        ("observation", ["user", "brain"]),
    ]
    assert [content.get("arguments", content.get("output")) for content in told] == [
        {"query": "hi"},
        "no route",
        {"query": "hi"},
        42,
    ]


FOREIGN: Final = ValueError("t0p-secret")
GONE: Final = errors.ClosedError("the front end is gone")  # by itself it says that nothing was sent


@pytest.mark.parametrize(
    ("error", "outcome", "runs", "kind", "raised"),
    [
        ("HandlerError", "unknown", 0, "tool_call", FOREIGN),
        ("HandlerError", "unknown", 1, "thought", FOREIGN),
        ("HandlerError", "unknown", 1, "observation", FOREIGN),
        ("ClosedError", "not_sent", 0, "tool_call", GONE),
        ("ClosedError", "unknown", 1, "thought", GONE),
        ("ClosedError", "unknown", 1, "observation", GONE),
    ],
)
async def test_a_watcher_that_raises(error: str, outcome: str, runs: int, kind: str, raised: Exception) -> None:
    """The call of which it was told has failed with it; a foreign error is named, and not quoted."""
    ran: list[str] = []

    async def watch(message: Any, **_: Any) -> None:
        if message["type"] == kind:
            raise raised

    async def talk(request: OxyRequest) -> None:
        ran.append("talk")
        await request.send_message({"type": "thought"})

    response = await AgentRegistry(talk, on_message=watch).call("talk")
    assert response.state is OxyState.FAILED
    assert response.extra["error"] == error
    assert response.extra["outcome"] == outcome
    assert len(ran) == runs
    assert "t0p-secret" not in response.output


async def test_what_is_told_of_a_call_is_sanitized_like_the_members_own_messages() -> None:
    """Who watches sees no secret in query and output; the member and its caller have them as they are."""
    heard: list[Any] = []

    async def watch(message: Any, **_: Any) -> None:
        heard.append(message["content"].get("arguments", message["content"].get("output")))

    secret: dict[str, Any] = {"user": "ada", "password": "t0p-secret"}
    remote, transport = brain(answer(secret), close(), sanitize=redact())
    response = await AgentRegistry(remote, on_message=watch).call("brain", query="api_key=t0p-secret")
    assert response.output == secret
    assert transport.payloads[0]["query"] == "api_key=t0p-secret"
    assert heard[1] == {"user": "ada", "password": "[scrubbed]"}
    assert "t0p-secret" not in repr(heard)


async def test_a_member_that_replaces_its_own_send_message() -> None:
    """It gets the messages of the calls that it makes; what is told of its own call goes where it went before."""
    heard: dict[str, list[str]] = {"outside": [], "inside": []}

    async def watch(message: Any, **_: Any) -> None:
        heard["outside"].append(f"{message['type']} {message['content']['callee']}")

    async def keeps(request: OxyRequest) -> None:
        async def mine(message: Any) -> None:
            heard["inside"].append(f"{message['type']} {message['content']['callee']}")

        request.send_message = mine
        await request.call(callee="sage")

    await AgentRegistry(keeps, Sage(), on_message=watch).call("keeps")
    assert heard == {
        "outside": ["tool_call keeps", "observation keeps"],
        "inside": ["tool_call sage", "observation sage"],
    }


async def test_a_replaced_send_message_wins() -> None:
    """A `send_message` that was replaced on a request is the one that its calls use; what it raises is a failure."""
    heard: list[Any] = []

    async def mine(message: Any) -> None:
        heard.append((message["type"], message["content"]["callee"]))
        if len(heard) > 3:
            raise FOREIGN

    request = OxyRequest(mas=AgentRegistry(brain(tool_call("search", caller="m"), answer("42"), close())[0]))
    request.send_message = mine
    await request.call(callee="brain", arguments={"query": "hi"})
    assert heard == [("tool_call", "brain"), ("tool_call", "search"), ("observation", "brain")]
    response = await request.call(callee="brain", arguments={"query": "hi"})
    assert response.extra["error"] == "HandlerError"
    assert response.output == "on_message or sanitize raised ValueError"


# ------------------------------------------------------------------------------------------------------------ The block


async def test_members_are_opened_late_and_closed_in_reverse() -> None:
    """A member is opened at its first call inside the block; the last one opened is closed first."""
    noted: list[str] = []
    registry = AgentRegistry(*(Sage(name, noted=noted) for name in "abc"))
    await registry.call("a")
    async with registry:
        assert noted == ["ask a"]
        await registry.call("b")
        await registry.call("a")
        async with registry:
            await registry.call("b")
        assert "close b" not in noted
    assert noted == ["ask a", "open b", "ask b", "open a", "ask a", "ask b", "close a", "close b"]
    async with registry:
        await registry.call("b")
    assert noted[8:] == ["open b", "ask b", "close b"]


async def test_a_remote_keeps_its_connections_inside_the_block() -> None:
    """Inside the block an agent is entered, so that its connections are used again."""
    made: list[FakeTransport] = []

    class Agent(SSEOxyGent):
        async def __aenter__(self) -> Self:
            made.append(FakeTransport.script(answer(1), close()))
            self.transport = made[-1]
            return await super().__aenter__()

    async with AgentRegistry(Agent(server_url=URL, name="brain")) as registry:
        assert made == []
        for _ in range(3):
            await registry.call("brain", query="hi")
    assert [len(transport.payloads) for transport in made] == [3]


async def test_calls_that_come_together_open_a_member_once() -> None:
    """Who comes while a member is being opened waits for it; other members are not held up."""
    noted: list[str] = []
    async with AgentRegistry(Sage("a", noted=noted), echo) as registry, anyio.create_task_group() as group:
        for name in ("a", "a", "echo"):
            group.start_soon(functools.partial(registry.call, name, query=name))
        await anyio.wait_all_tasks_blocked()
        assert noted == []
    assert noted == ["open a", "ask a", "ask a", "close a"]


async def test_a_member_that_cannot_be_opened() -> None:
    """It failed and ran nothing, so its fallback is asked; the next call tries to open it anew."""
    sage = Sage("a", fails="open")
    async with AgentRegistry(sage, fallback={"a": echo}) as registry:
        response = await registry.call("a", query="hi")
        assert response.output == "hi"
        assert response.extra["fallback_for"] == "a"
        sage.fails = ""
        assert (await registry.call("a")).output == "wise"
    assert sage.noted == ["open a", "open a", "ask a", "close a"]


async def test_an_error_of_ours_on_opening_is_the_failure() -> None:
    """What a member raises as an `OxyError` when it is opened comes out as it is."""

    class Closed(Sage):
        async def __aenter__(self) -> Self:
            raise errors.ConnectError("no route")

    async with AgentRegistry(Closed()) as registry:
        response = await registry.call("sage")
    assert response.extra["error"] == "ConnectError"
    assert response.output == "no route"


async def test_members_that_cannot_be_closed(caplog: pytest.LogCaptureFixture) -> None:
    """All others are closed; the first error comes out as ours, each is logged, and none shows a secret."""
    noted: list[str] = []
    members = [Sage(name, noted=noted, fails=fails) for name, fails in zip("abc", ("close", "", "close"), strict=True)]
    with pytest.raises(errors.HandlerError, match=r"closing 'c' raised ValueError \(test_registry.py:\d+\)") as caught:
        async with AgentRegistry(*members) as registry:
            for name in registry.names:
                await registry.call(name)
    assert noted[-3:] == ["close c", "close b", "close a"]
    assert isinstance(caught.value.__cause__, ValueError)
    assert [record.message[:11] for record in caplog.records] == ["closing 'c'", "closing 'a'"]
    assert "t0p-secret" not in caplog.text


async def test_the_error_of_the_block_goes_before_that_of_closing() -> None:
    """What the block raised comes out, also where a member cannot be closed."""
    sage = Sage(fails="close")
    with pytest.raises(ZeroDivisionError):
        async with AgentRegistry(sage) as registry:
            await registry.call("sage")
            raise ZeroDivisionError
    assert sage.noted[-1] == "close sage"


async def test_a_block_that_is_cancelled_closes_its_members() -> None:
    """Cancelled or not, every member is told to close."""
    left: list[str] = []

    class Quick(Sage):
        async def __aexit__(self, *_: object) -> None:
            left.append(self.name)

    with anyio.move_on_after(5) as scope:
        async with AgentRegistry(Quick("a"), Quick("b")) as registry:
            await registry.call("a")
            await registry.call("b")
            await anyio.sleep(3600)
    assert scope.cancelled_caught
    assert left == ["b", "a"]


async def test_a_member_that_is_being_opened_when_the_block_is_left() -> None:
    """It is closed by the call that opened it, and the call is answered all the same."""
    sage, outputs = Sage(), list[Any]()
    async with anyio.create_task_group() as group:

        async def call() -> None:
            outputs.append((await registry.call("sage")).output)

        async with AgentRegistry(sage) as registry:
            group.start_soon(call)
            await anyio.sleep(0.5)
    assert outputs == ["wise"]
    assert sage.noted == ["open sage", "close sage", "ask sage"]


async def test_a_block_that_was_not_entered_here() -> None:
    """Leaving what this event loop has not entered is an error that says so."""
    with pytest.raises(errors.ClosedError, match="not opened in this event loop"):
        await AgentRegistry(echo).__aexit__(None, None, None)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_registry_in_two_loops(backend: str) -> None:
    """Configuration is shared, what is open is not: each loop opens and closes its own."""
    sage = Sage()
    registry = AgentRegistry(sage)

    async def inner() -> None:
        async with registry:
            await registry.call("sage")

    async def outer() -> None:
        async with registry:
            await registry.call("sage")
            await anyio.to_thread.run_sync(functools.partial(anyio.run, inner, backend="asyncio"))
            assert sage.noted == ["open sage", "ask sage", "open sage", "ask sage", "close sage"]
            await registry.call("sage")

    anyio.run(outer, backend=backend)
    assert sage.noted[5:] == ["ask sage", "close sage"]


# ---------------------------------------------------------------------------------------------------------- Finding out


async def test_finding_out() -> None:
    """All members are asked at once, those that fail are named, and the others know what they are."""
    lost = refusing(errors.ConnectError("unused"), "lost")  # its organization is not in the script: 404
    wrong, slow = Sage("wrong", fails="init"), Sage("slow")
    registry = AgentRegistry(echo, lost, wrong, slow, brain()[0])
    began = anyio.current_time()
    async with registry:
        failed = await registry.init()
        assert anyio.current_time() - began == 2  # a second to open, a second to ask
    assert {name: type(error).__name__ for name, error in failed.items()} == {
        "lost": "NotFoundError",
        "wrong": "HandlerError",
    }
    assert [*failed] == ["lost", "wrong"]
    assert "init slow" in slow.noted
    assert await AgentRegistry(echo).init() == {}


async def test_the_organization() -> None:
    """One tree: before `init` names alone, after it the remote's members under the agent, marked; always a copy."""
    registry = AgentRegistry(echo, Function(add, by_name=True), Sage(), brain()[0], name="office")
    members: list[dict[str, Any]] = [
        {"name": "echo", "type": "agent", "desc": "Gives the query back."},
        {"name": "add", "type": "tool", "desc": "Adds."},
        {"name": "sage", "type": "agent"},
    ]
    remote: dict[str, Any] = {"name": "brain", "type": "agent", "children": []}
    assert registry.organization() == {"name": "office", "type": "agent", "children": [*members, remote]}
    assert await registry.init() == {}
    search = {"name": "search", "type": "tool", "is_remote": True}
    flights = {"name": "flights", "type": "agent", "is_remote": True, "children": [search]}
    remote = {**remote, "desc": "plans trips", "children": [flights]}
    assert registry.organization() == {"name": "office", "type": "agent", "children": [*members, remote]}
    registry.organization()["children"][3]["children"].clear()
    assert registry.organization()["children"][3] == remote


async def test_members_that_have_the_same_names_below() -> None:
    """Two remotes with one organization, and a local member of a name in it: each name stands where it belongs."""
    registry = AgentRegistry(brain(name="a")[0], brain(name="b")[0], Function(echo, name="flights"))
    await registry.init()
    first, second, local = registry.organization()["children"]
    assert [first["name"], second["name"], local["name"]] == ["a", "b", "flights"]
    assert [node["name"] for node in first["children"]] == ["flights"]
    assert first["children"] == second["children"]
    assert first["children"][0] is not second["children"][0]
    assert "is_remote" not in local
    assert (await registry.call("flights", query="hi")).output == "hi"


# --------------------------------------------------------------------------------------------------------------- Travel


@pytest.mark.parametrize("travel", [pickled, copy.deepcopy], ids=["pickle", "copy"])
async def test_a_registry_travels_as_configuration(travel: Callable[[Any], Any]) -> None:
    """Members, fallbacks and limits travel; what is open does not."""
    registry = AgentRegistry(
        Function(add, by_name=True),
        SSEOxyGent(server_url=URL, name="brain"),
        Sage(),
        fallback={"brain": echo},
        max_depth=3,
    )
    async with registry:
        await registry.call("sage")
        other: AgentRegistry = travel(registry)
        assert registry.names == other.names
        assert repr(registry) == repr(other)
        assert other.max_depth == 3
        assert (await other.call("add", arguments={"a": 2})).output == 3
        async with other:
            await other.call("sage")
        noted = getattr(other.member("sage"), "noted")  # noqa: B009  (the protocol does not promise it)
        assert noted == ["open sage", "ask sage", "open sage", "ask sage", "close sage"]


def test_a_member_that_cannot_travel() -> None:
    """A live thing in a member is the member's own error."""
    with pytest.raises(errors.ConfigurationError, match=r"SSEOxyGent.auth|cannot be pickled"):
        pickle.dumps(AgentRegistry(SSEOxyGent(server_url=URL, name="brain", event_filter=lambda _: True)))


def test_repr() -> None:
    """A registry shows whom it has."""
    assert repr(AgentRegistry(echo, Sage())) == "<AgentRegistry 'echo', 'sage'>"
