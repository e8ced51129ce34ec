"""The router: the documented action for every message, whatever it holds, and no event is changed by it.

Rule 1: the documentation's own loop is the second oracle, on what real servers sent.
Rule 2: any JSON is routed: no message makes the router fail.
"""

from __future__ import annotations

import copy
import json
import pickle
from typing import TYPE_CHECKING, Any, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import Custom, Decoder, Event, EventRouter, OxyRequest, ServerSentEvent
from oxygent_client._router import ROUTES, Action, Answered, Drop, Forward, Link, Route, copy_json, pass_on
from oxygent_client._wire import CLOSE, EVENTS, to_event
from tests.conftest import WIRE

if TYPE_CHECKING:
    from collections.abc import Coroutine

LOCAL: Final = ("user", "local", "me")
INDEPENDENT: Final = Link(call_stack=LOCAL, trace_id="mine", remote_trace_id="theirs")
SHARED: Final = Link(trace_id="mine", remote_trace_id="mine")
ROOT: Final = "the root of the remote's run"


def event(message: Any) -> Event:
    """The event that this message is."""
    return to_event(ServerSentEvent(data=message if isinstance(message, str) else json.dumps(message)))


def step(kind: str = "tool_call", **content: Any) -> dict[str, Any]:
    """A message about an inner step."""
    return {"type": kind, "content": {"caller_category": "agent", "callee_category": "tool"} | content}


def rewritten(stack: Any, trace_id: Any = "theirs", link: Link = INDEPENDENT) -> Any:
    """The stack and the trace id of a step, as they are forwarded."""
    action = EventRouter().route(event(step(call_stack=stack, current_trace_id=trace_id)), link)
    assert isinstance(action, Forward)
    return action.message["content"]["call_stack"], action.message["content"]["current_trace_id"]


# --------------------------------------------------------------------------------------------- The documented defaults

ANSWERS: Final = ["text", "", None, False, 0, 3, {"a": [1]}, [1, {"b": 2}]]


@pytest.mark.parametrize("content", ANSWERS)
def test_an_answer_is_kept(content: Any) -> None:
    """An answer's content is the output, any JSON; it is not forwarded."""
    assert EventRouter().route(event({"type": "answer", "content": content}), INDEPENDENT) == Answered(content)


def test_an_answer_without_content() -> None:
    """An agent can send an answer that says nothing."""
    assert EventRouter().route(event({"type": "answer"})) == Answered(None)


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
    assert (expected, "mine") == rewritten(stack)


@pytest.mark.parametrize("stack", [stack for _, stack in STACKS])
def test_stacks_in_shared_mode(stack: Any) -> None:
    """A remote that was told of the caller's stack has it already: nothing is rewritten."""
    assert (stack, "mine") == rewritten(stack, "mine", SHARED)


def test_a_step_without_a_stack() -> None:
    """No stack is made up."""
    assert EventRouter().route(event(step()), INDEPENDENT) == Forward(step())


TRACES: Final[list[tuple[Any, Any, Link]]] = [
    # expected, the trace id in the message, the link
    ("mine", "theirs", INDEPENDENT),
    ("other", "other", INDEPENDENT),
    (None, None, INDEPENDENT),
    (["theirs"], ["theirs"], INDEPENDENT),
    ("mine", "theirs", Link(trace_id="mine", remote_trace_id="theirs")),
    ("theirs", "theirs", Link(trace_id="theirs", remote_trace_id="theirs")),
    ("theirs", "theirs", Link()),
]


@pytest.mark.parametrize(("expected", "trace_id", "link"), TRACES)
def test_the_trace_id(expected: Any, trace_id: Any, link: Link) -> None:
    """The remote's name of the run becomes the caller's; any other id is left alone, and none is added."""
    assert expected == rewritten([], trace_id, link)[1]
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
def test_everything_else_is_passed_on(message: Any, link: Link) -> None:
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
    assert {*EVENTS, "think", None} == set(ROUTES)


# ------------------------------------------------------------------------------------------------------- Other tables


def drop(event: Event, link: Link) -> Action:
    """A route of a user's own."""
    return Drop("unwanted")


def test_custom_routes() -> None:
    """A table of one's own adds lines and replaces lines; the others stay, and the documented table does."""
    router = EventRouter({"metrics": drop, "think": drop})
    kinds: list[Any] = ["metrics", "think", "answer", "unknown", None]
    assert [type(router.route(event({"type": kind}))) for kind in kinds] == [Drop, Drop, Answered, Forward, Forward]
    assert (drop, "metrics" in ROUTES) == (router.routes["metrics"], False)
    assert type(EventRouter({None: drop}).route(event("text"))) is Drop


def test_a_route_for_steps_never_gets_a_malformed_one() -> None:
    """A route of one's own for tool calls may rely on their shape: a malformed one goes by the line of all others."""
    router = EventRouter({"tool_call": drop})
    malformed = event({"type": "tool_call", "content": None})
    assert [Drop, Forward] == [type(router.route(each)) for each in (event(step()), malformed)]
    assert isinstance(malformed, Custom)


def test_a_router_pickles() -> None:
    """A router is its table: a copy routes alike, and its repr names the types."""
    router = EventRouter({"metrics": drop})
    for clone in (pickle.loads(pickle.dumps(router)), copy.deepcopy(router), copy.copy(router)):
        assert router.routes == clone.routes
    assert repr(router) == f"EventRouter({[*ROUTES, 'metrics']})"
    assert {**ROUTES, "metrics": drop} == dict(router.routes)


def test_a_table_is_read_only() -> None:
    """A router's table cannot be changed behind its back."""
    mine: dict[str | None, Route] = {"metrics": pass_on}
    router = EventRouter(mine)
    mine["metrics"] = drop
    assert router.routes["metrics"] is pass_on
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


@given(MESSAGES, st.sampled_from([INDEPENDENT, SHARED, Link()]))
def test_any_message_is_routed(message: Any, link: Link) -> None:
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


# ---------------------------------------------------------------------------------------- The documentation's own loop


async def documented(content: Lines, oxy_request: OxyRequest, is_share_call_stack: bool) -> Any:
    """The body of `_execute` in the OxyGent `SSEOxyGent` documentation, as it stands there, from `answer = ""` on."""
    answer = ""
    async for line in content:
        if line:
            decoded_line = line.decode("utf-8").strip()
            if decoded_line.startswith("data: "):
                data = decoded_line[6:]

                # Handle termination signal
                if data == "done":
                    break

                # Process JSON messages
                data = json.loads(data)

                if data["type"] == "answer":
                    answer = data.get("content")
                elif data["type"] in ["tool_call", "observation"]:
                    # Filter user-category messages
                    if data["content"]["caller_category"] == "user" or data["content"]["callee_category"] == "user":
                        continue
                    else:  # noqa: RET507  (the documentation's own words)
                        # Adjust call stack for forwarded messages
                        if not is_share_call_stack:
                            data["content"]["call_stack"] = oxy_request.call_stack + data["content"]["call_stack"][2:]
                        await oxy_request.send_message(data)
                else:
                    # Forward other message types
                    await oxy_request.send_message(data)
    return answer


class Lines:
    """The lines of a body, as aiohttp gives them; none has to be waited for."""

    def __init__(self, stream: bytes) -> None:
        self._lines = iter(stream.splitlines(keepends=True))

    def __aiter__(self) -> Lines:
        return self

    async def __anext__(self) -> bytes:
        for line in self._lines:
            return line
        raise StopAsyncIteration


def at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """What this comes to, which it does without waiting."""
    with pytest.raises(StopIteration) as done:
        work.send(None)
    return done.value.value


NOT_DOCUMENTED: Final = {
    # What the documentation's loop fails on, or ends at, though a real server sent it.
    "v1.1.3_close_early.sse": "closes with a word of its own",
    "v1.1.3_progress.sse": "a message without a type",
    "v1.1.3_strings.sse": "messages that are no objects",
}
STREAMS: Final = sorted({path.name for path in WIRE.glob("*.sse")} - NOT_DOCUMENTED.keys())


@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("file", STREAMS)
def test_the_documentations_loop(file: str, is_shared: bool) -> None:
    """On what real servers sent, answer and forwarded messages are those of the documentation's loop."""
    stream = (WIRE / file).read_bytes()
    request = OxyRequest(call_stack=[*LOCAL])
    forwarded: list[Any] = []

    async def send_message(
        message: Any = None, event: str | None = None, id: str | None = None, retry: int | None = None
    ) -> None:
        forwarded.append(message)

    request.send_message = send_message  # type: ignore[method-assign]  # replaced as the documentation's examples do
    answer = at_once(documented(Lines(stream), request, is_shared))

    link = Link(call_stack=None if is_shared else LOCAL)
    actions = [EventRouter().route(to_event(sse), link) for sse in Decoder().feed(stream) if sse.event != CLOSE]
    assert forwarded == [action.message for action in actions if isinstance(action, Forward)]
    assert answer == ["", *(action.output for action in actions if isinstance(action, Answered))][-1]


@pytest.mark.parametrize("file", NOT_DOCUMENTED)
def test_where_the_documentations_loop_ends(file: str) -> None:
    """The recordings that are left out above are those that the documentation's loop fails on."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        at_once(documented(Lines((WIRE / file).read_bytes()), OxyRequest(), is_share_call_stack=True))
