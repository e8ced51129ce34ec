"""The router: the documented action for each message, for any JSON, without changing the event.

Rule: no message makes the router fail. A second oracle, the documentation's own loop on recorded streams, is in
    `tests/agent/test_documentation.py`.
"""

from __future__ import annotations

import copy
import json
import pickle
from typing import TYPE_CHECKING, Any, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import Custom, Event, EventRouter, ServerSentEvent, errors
from oxygent_client._protocol.messages import EVENTS, to_event
from oxygent_client._protocol.router import ROUTES, Action, Drop, Forward, NameMap, Route, SetAnswer, copy_json, forward

if TYPE_CHECKING:
    from collections.abc import Callable

LOCAL: Final = ("user", "local", "me")
INDEPENDENT: Final = NameMap(call_stack=LOCAL, trace_id="mine", remote_trace_id="theirs")
SHARED: Final = NameMap(trace_id="mine", remote_trace_id="mine")
ROOT: Final = "the root of the remote's run"


def event(message: Any) -> Event:
    """Return the event of this message."""
    return to_event(ServerSentEvent(data=message if isinstance(message, str) else json.dumps(message)))


def step(kind: str = "tool_call", **content: Any) -> dict[str, Any]:
    """Return a message about an inner step."""
    return {"type": kind, "content": {"caller_category": "agent", "callee_category": "tool"} | content}


def rewritten(stack: Any, trace_id: Any = "theirs", link: NameMap = INDEPENDENT) -> Any:
    """Return the stack and the trace id of a step, as forwarded."""
    action = EventRouter().route(event(step(call_stack=stack, current_trace_id=trace_id)), link)
    assert isinstance(action, Forward)
    return action.message["content"]["call_stack"], action.message["content"]["current_trace_id"]


def test_a_forwarded_message_is_a_value() -> None:
    """Actions with the same message are equal, have the same hash and representation, and can be pickled."""
    made = Forward("text", str.upper)
    assert made == Forward("TEXT")
    assert hash(made) == hash(Forward("TEXT"))
    assert repr(made) == "Forward(message='TEXT')"
    assert pickle.loads(pickle.dumps(made)) == made


# ------------------------------------------------------------------------------------------------------ Default actions

ANSWERS: Final = ["text", "", None, False, 0, 3, {"a": [1]}, [1, {"b": 2}]]


@pytest.mark.parametrize("content", ANSWERS)
def test_an_answer_is_kept(content: Any) -> None:
    """The content of an answer, any JSON, is the output, and is not forwarded."""
    assert EventRouter().route(event({"type": "answer", "content": content}), INDEPENDENT) == SetAnswer(content)


def test_an_answer_without_content() -> None:
    """An answer may have no content."""
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
def test_steps_of_the_root_are_dropped(expected: Action | None, content: dict[str, Any], kind: str) -> None:
    """A step from or to the user is not forwarded; a missing category is not "user"."""
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
    """The caller's stack replaces the first two entries of the remote's; a value that is not a list is unchanged."""
    assert rewritten(stack) == (expected, "mine")


@pytest.mark.parametrize("stack", [stack for _, stack in STACKS])
def test_stacks_in_shared_mode(stack: Any) -> None:
    """A remote that got the caller's stack sends it back, so nothing is rewritten."""
    assert rewritten(stack, "mine", SHARED) == (stack, "mine")


def test_a_step_without_a_stack() -> None:
    """A step without a stack gets none."""
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
    """The remote's trace id of the run is replaced by the caller's; other ids are unchanged and none is added."""
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
def test_other_messages_are_forwarded(message: Any, link: NameMap) -> None:
    """Other messages are forwarded unchanged, even if they have names with another meaning."""
    received = event(message)
    assert EventRouter().route(received, link) == Forward(received.message)


def containers(value: Any) -> set[int]:
    """Return the identities of all dicts and lists in a JSON value."""
    if not isinstance(value, dict | list):
        return set()
    members = cast("dict[str, Any] | list[Any]", value)
    inner = members.values() if isinstance(members, dict) else members
    return {id(members)}.union(*map(containers, inner))


def shares_a_container(one: Any, other: Any) -> bool:
    """Return whether two JSON values have a dict or a list in common."""
    return not containers(one).isdisjoint(containers(other))


@pytest.mark.parametrize("kind", ["tool_call", "observation", "think", "metrics"])
def test_forwarded_messages_are_copies(kind: str) -> None:
    """Changing a forwarded message does not change the event, however deep."""
    received = event(step(kind, arguments={"a": [{"b": [1]}]}, call_stack=["user", "x", "y"]))
    action = EventRouter().route(received, INDEPENDENT)
    assert isinstance(action, Forward)
    assert not shares_a_container(action.message, received.message)


def test_every_known_type_has_a_route() -> None:
    """Each event class with a type has its route, and so do all other types."""
    assert {*EVENTS, None} == set(ROUTES)


# ------------------------------------------------------------------------------------------------------- Other tables


def drop(event: Event, link: NameMap) -> Action:
    """A route of the user's own."""
    return Drop("unwanted")


def test_custom_routes() -> None:
    """A custom table adds and replaces routes; the other routes and the default table are unchanged."""
    router = EventRouter({"metrics": drop, "think": drop})
    kinds: list[Any] = ["metrics", "think", "answer", "unknown", None]
    assert [type(router.route(event({"type": kind}))) for kind in kinds] == [Drop, Drop, SetAnswer, Forward, Forward]
    assert router.routes["metrics"] == drop
    assert "metrics" not in ROUTES
    assert type(EventRouter({None: drop}).route(event("text"))) is Drop


def test_malformed_steps_and_custom_routes() -> None:
    """A route for tool calls gets well-formed ones only; a malformed one takes the route of other types."""
    router = EventRouter({"tool_call": drop})
    malformed = event({"type": "tool_call", "content": None})
    assert [type(router.route(each)) for each in (event(step()), malformed)] == [Drop, Forward]
    assert isinstance(malformed, Custom)


COPIES: Final[dict[str, Callable[[EventRouter], EventRouter]]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda router: pickle.loads(pickle.dumps(router)),
}


@pytest.mark.parametrize("clone", COPIES.values(), ids=COPIES)
def test_a_copy_of_a_router(clone: Callable[[EventRouter], EventRouter]) -> None:
    """A copy of a router routes alike."""
    router = EventRouter({"metrics": drop})
    assert clone(router).routes == router.routes


def test_the_repr_of_a_router() -> None:
    """The repr lists the types."""
    router = EventRouter({"metrics": drop})
    assert repr(router) == f"EventRouter({[*ROUTES, 'metrics']})"
    assert dict(router.routes) == {**ROUTES, "metrics": drop}


def test_a_table_is_read_only() -> None:
    """The table of a router is read-only."""
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
    """Any JSON is routed, the event is unchanged, and a forwarded message differs in two fields at most."""
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
    """A copy of JSON is equal and shares no mutable value."""
    copied = copy_json(value)
    assert value == copied
    assert not shares_a_container(value, copied)


async def _late(event: Event, link: NameMap) -> Action:
    return Drop("late")


@pytest.mark.parametrize("route", [_late, None, "drop"])
def test_invalid_routes(route: Any) -> None:
    """An async route, or one that is not callable, is refused at construction."""
    with pytest.raises(errors.ConfigurationError, match="the route of 'x' must be"):
        EventRouter({"x": route})
