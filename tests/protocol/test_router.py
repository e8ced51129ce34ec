"""The router: the documented action for every message, whatever it holds, and no event is changed by it.

Rule: any JSON is routed: no message makes the router fail. A second oracle, the documentation's own loop on what real
    servers sent, is in `tests/agent/test_documentation.py`.
"""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import Custom, Event, EventRouter, ServerSentEvent, errors
from oxygent_client._protocol.messages import EVENTS, to_event
from oxygent_client._protocol.router import ROUTES, Action, Drop, Forward, NameMap, Route, SetAnswer, copy_json, forward

LOCAL: Final = ("user", "local", "me")
INDEPENDENT: Final = NameMap(call_stack=LOCAL, trace_id="mine", remote_trace_id="theirs")
SHARED: Final = NameMap(trace_id="mine", remote_trace_id="mine")
ROOT: Final = "the root of the remote's run"


def event(message: Any) -> Event:
    """The event that this message is."""
    return to_event(ServerSentEvent(data=message if isinstance(message, str) else json.dumps(message)))


def step(kind: str = "tool_call", **content: Any) -> dict[str, Any]:
    """A message about an inner step."""
    return {"type": kind, "content": {"caller_category": "agent", "callee_category": "tool"} | content}


def rewritten(stack: Any, trace_id: Any = "theirs", link: NameMap = INDEPENDENT) -> Any:
    """The stack and the trace id of a step, as they are forwarded."""
    action = EventRouter().route(event(step(call_stack=stack, current_trace_id=trace_id)), link)
    assert isinstance(action, Forward)
    return action.message["content"]["call_stack"], action.message["content"]["current_trace_id"]


# --------------------------------------------------------------------------------------------- The documented defaults

ANSWERS: Final = ["text", "", None, False, 0, 3, {"a": [1]}, [1, {"b": 2}]]


@pytest.mark.parametrize("content", ANSWERS)
def test_an_answer_is_kept(content: Any) -> None:
    """An answer's content is the output, any JSON; it is not forwarded."""
    assert EventRouter().route(event({"type": "answer", "content": content}), INDEPENDENT) == SetAnswer(content)


def test_an_answer_without_content() -> None:
    """An agent can send an answer that says nothing."""
    assert EventRouter().route(event({"type": "answer"})) == SetAnswer(None)


CATEGORIES: Final[list[tuple[Action | None, dict[str, Any]]]] = [
    # expected (None: it is forwarded), the content
    (Drop(ROOT), {"caller_category": "user", "callee_category": "agent"}),
    (Drop(ROOT), {"caller_category": "agent", "callee_category": "user"}),
    (Drop(ROOT), {"caller_category": "user"}),
    (Drop(ROOT), {"callee_category": "user"}),
    (None, {"caller_category": "agent", "callee_category": "tool"}),
    (None, {"caller_category": "User", "callee_category": ""}),
    (None, {"caller_category": None, "callee_category": ["user"]}),
    (None, {"caller_category": 1, "callee_category": {"user": "user"}}),
    (None, {"caller": "user", "callee": "user"}),
    (None, {}),
]


@pytest.mark.parametrize("kind", ["tool_call", "observation"])
@pytest.mark.parametrize(("expected", "content"), CATEGORIES)
def test_the_root_is_dropped(expected: Action | None, content: dict[str, Any], kind: str) -> None:
    """A step from or to the user is the caller's own to show; a category that is missing is not "user"."""
    message = {"type": kind, "content": content}
    assert (expected or Forward(message)) == EventRouter().route(event(message), SHARED)


STACKS: Final[list[tuple[Any, Any]]] = [
    # expected, the remote's stack
    ([*LOCAL, "tool"], ["user", "master", "tool"]),
    ([*LOCAL, "inner", "tool"], ["user", "master", "inner", "tool"]),
    ([*LOCAL], ["user", "master"]),
    ([*LOCAL], ["user"]),
    ([*LOCAL], []),
    ([*LOCAL, 1, None], ["user", "master", 1, None]),
    ("user", "user"),
    (None, None),
    ({"0": "user"}, {"0": "user"}),
]


@pytest.mark.parametrize(("expected", "stack"), STACKS)
def test_stacks_in_independent_mode(expected: Any, stack: Any) -> None:
    """The caller's stack stands for the remote's first two entries; what is no list is left alone."""
    assert rewritten(stack) == (expected, "mine")


@pytest.mark.parametrize("stack", [stack for _, stack in STACKS])
def test_stacks_in_shared_mode(stack: Any) -> None:
    """A remote that was told of the caller's stack has it already: nothing is rewritten."""
    assert rewritten(stack, "mine", SHARED) == (stack, "mine")


def test_a_step_without_a_stack() -> None:
    """No stack is made up."""
    assert EventRouter().route(event(step()), INDEPENDENT) == Forward(step())


TRACES: Final[list[tuple[Any, Any, NameMap]]] = [
    # expected, the trace id in the message, the link
    ("mine", "theirs", INDEPENDENT),
    ("other", "other", INDEPENDENT),
    (None, None, INDEPENDENT),
    (["theirs"], ["theirs"], INDEPENDENT),
    ("mine", "theirs", NameMap(trace_id="mine", remote_trace_id="theirs")),
    ("theirs", "theirs", NameMap(trace_id="theirs", remote_trace_id="theirs")),
    ("theirs", "theirs", NameMap()),
]


@pytest.mark.parametrize(("expected", "trace_id", "link"), TRACES)
def test_the_trace_id(expected: Any, trace_id: Any, link: NameMap) -> None:
    """The remote's name of the run becomes the caller's; any other id is left alone, and none is added."""
    assert rewritten([], trace_id, link)[1] == expected
    assert EventRouter().route(event(step()), link) == Forward(step())


PASSED_ON: Final[list[Any]] = [
    {"type": "stream", "content": {"delta": "x", "agent": "a", "node_id": "n"}},
    {"type": "stream_end", "content": {"delta": "", "agent": "a", "node_id": "n"}},
    {"type": "think", "content": "hm", "agent": "a"},
    {"type": "progress", "content": {"stage": "processing", "progress": 45}},
    {"type": "error", "content": "disk full"},
    {"type": "re_run", "content": {}},
    {"type": "metrics", "content": {"current_trace_id": "theirs", "call_stack": ["user", "x", "y"]}},
    {"type": None, "content": 1},
    {"type": ["answer"], "content": 1},
    {"content": {"caller_category": "user"}},
    {"type": "tool_call", "content": "malformed"},
    {"type": "observation"},
    {},
    [1, [2]],
    "just a text",
    "",
    "12",
    3,
    None,
    False,
]


@pytest.mark.parametrize("message", PASSED_ON)
@pytest.mark.parametrize("link", [SHARED, INDEPENDENT])
def test_everything_else_is_passed_on(message: Any, link: NameMap) -> None:
    """What is neither answer nor step is forwarded as it is, also with names that mean something elsewhere."""
    received = event(message)
    assert EventRouter().route(received, link) == Forward(received.message)


def containers(value: Any) -> set[int]:
    """The identities of all dictionaries and lists in a JSON value."""
    if not isinstance(value, dict | list):
        return set()
    members = cast("dict[str, Any] | list[Any]", value)
    inner = members.values() if isinstance(members, dict) else members
    return {id(members)}.union(*map(containers, inner))


def shares_a_container(one: Any, other: Any) -> bool:
    """Whether two JSON values have a dictionary or a list in common."""
    return not containers(one).isdisjoint(containers(other))


@pytest.mark.parametrize("kind", ["tool_call", "observation", "think", "metrics"])
def test_what_is_forwarded_is_a_copy(kind: str) -> None:
    """Nobody who changes a forwarded message changes the event, however deep."""
    received = event(step(kind, arguments={"a": [{"b": [1]}]}, call_stack=["user", "x", "y"]))
    action = EventRouter().route(received, INDEPENDENT)
    assert isinstance(action, Forward)
    assert not shares_a_container(action.message, received.message)


def test_every_known_type_has_its_line() -> None:
    """Each type with a class of its own has a line in the table, and the line of all others is there."""
    assert {*EVENTS, None} == set(ROUTES)


# ------------------------------------------------------------------------------------------------------- Other tables


def drop(event: Event, link: NameMap) -> Action:
    """A route of a user's own."""
    return Drop("unwanted")


def test_custom_routes() -> None:
    """A table of one's own adds lines and replaces lines; the others stay, and the documented table does."""
    router = EventRouter({"metrics": drop, "think": drop})
    kinds: list[Any] = ["metrics", "think", "answer", "unknown", None]
    assert [type(router.route(event({"type": kind}))) for kind in kinds] == [Drop, Drop, SetAnswer, Forward, Forward]
    assert router.routes["metrics"] == drop
    assert "metrics" not in ROUTES
    assert type(EventRouter({None: drop}).route(event("text"))) is Drop


def test_a_route_for_steps_never_gets_a_malformed_one() -> None:
    """A route of one's own for tool calls may rely on their shape: a malformed one goes by the line of all others."""
    router = EventRouter({"tool_call": drop})
    malformed = event({"type": "tool_call", "content": None})
    assert [type(router.route(each)) for each in (event(step()), malformed)] == [Drop, Forward]
    assert isinstance(malformed, Custom)


def test_a_router_pickles() -> None:
    """A router is its table: a copy routes alike, and its repr names the types."""
    router = EventRouter({"metrics": drop})
    for clone in (pickle.loads(pickle.dumps(router)), copy.deepcopy(router), copy.copy(router)):
        assert router.routes == clone.routes
    assert repr(router) == f"EventRouter({[*ROUTES, 'metrics']})"
    assert dict(router.routes) == {**ROUTES, "metrics": drop}


def test_a_table_is_read_only() -> None:
    """A router's table cannot be changed behind its back."""
    mine: dict[str | None, Route] = {"metrics": forward}
    router = EventRouter(mine)
    mine["metrics"] = drop
    assert router.routes["metrics"] is forward
    with pytest.raises(TypeError):
        cast("dict[str, Any]", router.routes)["x"] = drop


# ---------------------------------------------------------------------------------------------------------- Properties

JSON: Final[st.SearchStrategy[Any]] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
KINDS: Final = st.sampled_from(["answer", "tool_call", "observation", "stream", "think", "error", "x", None])
CONTENTS: Final[st.SearchStrategy[Any]] = st.fixed_dictionaries(
    {},
    optional={
        "caller_category": st.sampled_from(["user", "agent"]) | JSON,
        "callee_category": st.sampled_from(["user", "tool"]) | JSON,
        "call_stack": st.lists(st.text(max_size=3)) | JSON,
        "current_trace_id": st.sampled_from(["mine", "theirs"]) | JSON,
        "output": JSON,
    },
)
MESSAGES: Final[st.SearchStrategy[Any]] = st.one_of(
    JSON, st.fixed_dictionaries({}, optional={"type": KINDS | JSON, "content": CONTENTS | JSON, "agent": JSON})
)


@given(MESSAGES, st.sampled_from([INDEPENDENT, SHARED, NameMap()]))
def test_any_message_is_routed(message: Any, link: NameMap) -> None:
    """Any JSON has its action; the event is as it was, and what is forwarded differs from it in two fields at most."""
    received = to_event(ServerSentEvent(data=json.dumps(message)))
    before = copy.deepcopy(received)
    action = EventRouter().route(received, link)
    assert before == received
    if isinstance(action, Forward):
        assert not shares_a_container(action.message, received.message)
        forwarded, original = copy.deepcopy((action.message, received.message))
        if received.type in {"tool_call", "observation"} and not isinstance(received, Custom):
            for content in (forwarded["content"], original["content"]):
                content.pop("call_stack", None)
                content.pop("current_trace_id", None)
        assert forwarded == original


@given(JSON)
def test_copies_of_json(value: Any) -> None:
    """A copy is equal, and has nothing in common that could be changed."""
    copied = copy_json(value)
    assert value == copied
    assert not shares_a_container(value, copied)


async def _late(event: Event, link: NameMap) -> Action:
    return Drop("late")


@pytest.mark.parametrize("route", [_late, None, "drop"])
def test_a_route_of_the_wrong_kind(route: Any) -> None:
    """A route is not awaited: an async one is refused where the router is made, as is what is no function."""
    with pytest.raises(errors.ConfigurationError, match="the route of 'x' must be"):
        EventRouter({"x": route})
