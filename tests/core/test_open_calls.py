"""`OpenCalls`: which call made a call, and which call a message is about."""

from __future__ import annotations

from typing import Any, Final

import pytest

from oxygent_client import Custom, Event, Observation, ToolCall
from oxygent_client.telemetry import OpenCalls


def called(*stack: str, node: str = "", caller: str = "") -> ToolCall:
    """Return the start of a call."""
    content = {"node_id": node, "caller": caller, "callee": stack[-1], "call_stack": [*stack]}
    return ToolCall("tool_call", content, {"content": content})


def calls_of(*steps: ToolCall) -> OpenCalls[int]:
    """Return these calls, each with its place as the value."""
    calls = OpenCalls[int]()
    for place, step in enumerate(steps):
        calls.begin(step, place)
    return calls


def test_a_call_is_found_by_its_node_id() -> None:
    """A call is found while it is open and afterwards, until it is forgotten."""
    calls = calls_of(called("user", "m", node="r"), called("user", "m", "a", node="a"))
    assert [*calls] == [0, 1]
    assert calls.end("a") == 1
    assert [*calls] == [0]
    assert calls.find("a") == 1
    assert calls.end("a") is None
    assert calls.forget("a") is None
    assert calls.find("a") is None
    assert calls.forget("r") == 0
    assert len(calls) == 0


@pytest.mark.parametrize("node_id", ["x", "", None, 7], ids=["unknown", "empty", "none", "a number"])
def test_ids_of_no_call(node_id: Any) -> None:
    """What is no node id of a call finds none; a call without an id is found by its stack alone."""
    calls = calls_of(called("user", "m", node="r"), called("user", "m", "a"))
    assert calls.find(node_id) is None
    assert calls.caller_of(called("user", "m", "a", "b")) == 1


def test_a_node_id_that_comes_again() -> None:
    """A second call with a node id ends the first."""
    calls = calls_of(called("user", "m", node="r"), called("user", "m", node="r"))
    assert [*calls] == [1]
    assert calls.find("r") == 1


STEPS: Final = (
    called("user", "m", node="r"),
    called("user", "m", "a", node="a1"),
    called("user", "m", "a", node="a2"),
    called("user", "m", "b", node="b"),
)
NAMED: Final = ToolCall("tool_call", {"caller": "a", "callee": "c"}, {})
CALLERS: Final[dict[str, tuple[ToolCall | Observation, str, int | None]]] = {
    # the call, a call that has ended, the caller
    "the root": (called("user", "m"), "", None),
    "by its stack": (called("user", "m", "b", "c"), "", 3),
    "the latest": (called("user", "m", "a", "c"), "", 2),
    "the latest open one": (called("user", "m", "a", "c"), "a2", 1),
    "an end": (Observation("observation", {"call_stack": ["user", "m", "b", "c"]}, {}), "", 3),
    "none is open": (called("user", "m", "b", "c"), "b", None),
    "without a stack, by name": (NAMED, "", 2),
    "without a stack, none": (ToolCall("tool_call", {"caller": "x", "callee": "c"}, {}), "", None),
}


@pytest.mark.parametrize(("step", "ended", "expected"), CALLERS.values(), ids=CALLERS)
def test_callers(step: ToolCall, ended: str, expected: int | None) -> None:
    """The caller of a call is the latest open call with the stack of its caller."""
    calls = calls_of(*STEPS)
    calls.end(ended)
    assert calls.caller_of(step) == expected


def message(content: Any, **fields: Any) -> Event:
    """Return a message."""
    return Custom("note", content, {"content": content, **fields})


SUBJECTS: Final[dict[str, tuple[Event, int | None]]] = {
    "by node id": (message({"node_id": "a1", "agent": "b"}), 1),
    "the first place": (message({"node_id": "r", "agent": "b"}), 0),
    "by agent": (message("text", agent="a"), 2),
    "by an agent in the content": (message({"agent": "b"}, agent="a"), 3),
    "an unknown node id": (message({"node_id": "x", "agent": "b"}), 3),
    "an unknown agent": (message({"agent": "x"}), None),
    "no names": (message({"node_id": 7, "agent": ["a"]}), None),
    "no object": (Custom(None, 7, 7), None),
}


@pytest.mark.parametrize(("event", "expected"), SUBJECTS.values(), ids=SUBJECTS)
def test_subjects(event: Event, expected: int | None) -> None:
    """A message is about the call with its node id, else about the latest open call of its agent."""
    assert calls_of(*STEPS).subject_of(event) == expected
