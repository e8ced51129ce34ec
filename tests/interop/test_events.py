"""Messages of a real server are received as events: complete, typed, in order and unchanged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from oxygent_client import (
    Answer,
    Custom,
    Event,
    Observation,
    OxyRequest,
    OxyState,
    Progress,
    SSEOxyGent,
    Text,
    TextDelta,
    Thought,
    ToolCall,
)

from .harness import PATIENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oxygent_client import OxyResponse

    from .harness import RemoteServer

pytestmark = pytest.mark.anyio

# Line ends of Python's `splitlines` that are none in the standard, a NUL, and a BOM in the middle.
ODD = "a\u2028b\u2029c\x85d\x00e\ufefff\x0bg\x0ch\x1ci"

# (the message of an agent, the type of the event, its content)
# Only \r\n, \r and \n are line ends, and their kind is not sent.
MESSAGES: tuple[tuple[object, type[Event], object], ...] = (
    ("plain text", Text, "plain text"),
    ("two\nlines", Text, "two\nlines"),
    ("three\r\nsorts\rof\nend", Text, "three\nsorts\nof\nend"),
    ("trailing\n", Text, "trailing\n"),
    ("  leading spaces", Text, "  leading spaces"),
    ("not { json", Text, "not { json"),
    ("data: looks like a field", Text, "data: looks like a field"),
    (": looks like a comment", Text, ": looks like a comment"),
    ("event: close", Text, "event: close"),
    ("[DONE]", Text, "[DONE]"),
    (ODD, Text, ODD),
    ("\ufeffBOM first", Text, "\ufeffBOM first"),
    ("你好 🦀", Text, "你好 🦀"),
    (123, Custom, 123),
    (2**63, Custom, 2**63),
    (1.5, Custom, 1.5),
    (True, Custom, True),
    ([1, 2], Custom, [1, 2]),
    ([ODD], Custom, [ODD]),
    ("123", Custom, 123),
    ("null", Custom, None),
    ('"x"', Custom, "x"),
    (float("nan"), Custom, float("nan")),
    # False values are sent like any other, but 1.0.8 drops them.
    (None, Text, ""),
    ("", Text, ""),
    (0, Custom, 0),
    (False, Custom, False),
    ([], Custom, []),
)

# Objects are received as `message`, whole; a type that is not a str is no type.
OBJECTS: tuple[dict[str, Any], ...] = (
    {"no": "type"},
    {"type": "house_style", "content": {"deep": [1, {"er": None}]}},
    {"type": None, "content": "x"},
    {"type": 7, "content": "x"},
    {"content": ODD},
    {"type": "house_style", "content": ODD, ODD: ODD},
    {"type": "house_style", "content": {"value": float("nan"), "more": float("-inf")}},
)


async def events_of(agent: SSEOxyGent, query: str) -> tuple[Sequence[Event], OxyResponse]:
    """Return each event of one run, and its response."""
    async with agent.stream(query) as run:
        events = [event async for event in run]
    return events, run.response


def steps(events: Sequence[Event]) -> list[tuple[str, str]]:
    """Return the tool calls and observations, as (kind, callee)."""
    return [
        ("call" if isinstance(e, ToolCall) else "seen", e.callee)
        for e in events
        if isinstance(e, ToolCall | Observation)
    ]


async def test_nested_calls(server: RemoteServer) -> None:
    """The steps of nested agents and a tool are received in order, with their call stacks."""
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        events, response = await events_of(agent, "nested")

    deepest = ["user", "master", "middle_agent", "leaf_agent", "add"]
    down = [("call", callee) for callee in deepest[1:]]
    up = [("seen", callee) for callee in reversed(deepest[1:])]
    assert steps(events) == down + up
    for event in events:
        if isinstance(event, ToolCall | Observation):
            assert list(event.call_stack) == deepest[: deepest.index(event.callee) + 1]
            assert event.caller == event.call_stack[-2]
    assert [e.content for e in events if isinstance(e, Progress)] == [{"from": "leaf"}]
    assert isinstance(events[-1], Answer)
    assert response.state is OxyState.COMPLETED
    assert response.output == "master(middle(leaf(42)))"


@pytest.mark.parametrize(
    ("share", "above"),
    [
        (True, ["user", "front", "master"]),  # the remote got the caller, and appended itself
        (False, ["user", "front", "remote"]),  # the remote got no caller: its steps are below its local name
    ],
)
async def test_forwarded_steps(server: RemoteServer, share: bool, above: list[str]) -> None:
    """Forwarded steps have the caller's own call stack; the root step of the remote's run is not forwarded."""
    forwarded: list[dict[str, Any]] = []

    async def send_message(message: dict[str, Any]) -> None:
        forwarded.append(message)

    request = OxyRequest(caller="front", caller_category="agent", call_stack=["user", "front"], node_id_stack=["", "f"])
    request.set_query("nested")
    request.send_message = send_message
    async with SSEOxyGent(server_url=server.url, is_share_call_stack=share, timeouts=PATIENT) as agent:
        response = await agent.execute(request)

    assert response.output == "master(middle(leaf(42)))"
    below = ["middle_agent", "leaf_agent", "add"]
    stacks = [above + below[: n + 1] for n in range(3)]
    inner = [message for message in forwarded if message["type"] != "progress"]
    assert [step["content"]["call_stack"] for step in inner] == [*stacks, *reversed(stacks)]
    assert [step["type"] for step in inner] == ["tool_call"] * 3 + ["observation"] * 3


async def test_parallel_calls(server: RemoteServer) -> None:
    """Of two parallel tools both calls are received before the observations, which pair by node id."""
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        events, response = await events_of(agent, "tools")

    assert [step for step in steps(events) if step[1] != "master"] == [
        ("call", "add"),
        ("seen", "add"),
        ("call", "multiply"),
        ("call", "shout"),
        ("seen", "shout"),
        ("seen", "multiply"),
    ]
    calls = {e.node_id: e.callee for e in events if isinstance(e, ToolCall)}
    seen = {e.node_id: e.callee for e in events if isinstance(e, Observation)}
    assert calls == seen
    assert len(calls) == 4
    outputs = {e.callee: e.output for e in events if isinstance(e, Observation)}
    # Before 1.0.9 the output of an observation was always a string of JSON.
    whole = str if server.version == "1.0.8" else int
    assert {"add": whole(5), "multiply": whole(20), "shout": "BOTH", "master": "5 20 BOTH"} == outputs
    assert response.output == "5 20 BOTH"


async def test_text_deltas(server: RemoteServer) -> None:
    """The deltas joined are the run's text and the answer, for any characters."""
    deltas = ["Hello ", "你", "好", " 🦀", "👩\u200d💻", "\u2028", " ", "end\n", ODD]
    async with (
        SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent,
        agent.stream(f"stream {json.dumps(deltas)}") as run,
    ):
        pieces: list[str] = []
        async for event in run:
            if isinstance(event, TextDelta):
                pieces.append(event.text)
                assert "".join(each.text for each in run.texts) == "".join(pieces)

    assert [piece for piece in pieces if piece] == deltas
    assert run.text == "".join(deltas)
    assert run.response.output == "".join(deltas)


async def test_messages_that_are_no_objects(server: RemoteServer) -> None:
    """Text is a text event, and JSON that is no object a Custom event without type; none is lost or changed."""
    sent = [message for message, _, _ in MESSAGES]
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        events, response = await events_of(agent, f"strings {json.dumps(sent)}")

    # By their repr, which tells True from 1 and finds NaN equal to itself.
    found = [(type(e).__name__, e.type, repr(e.content)) for e in events if isinstance(e, Text | Custom)]
    kept = [row for row in MESSAGES if row[0] or server.version != "1.0.8"]
    assert [(name, content) for name, _, content in found] == [
        (kind.__name__, repr(content)) for _, kind, content in kept
    ]
    assert {kind for name, kind, _ in found if name == "Custom"} == {None}
    assert response.output == f"sent {len(sent)}"


async def test_messages_that_are_objects(server: RemoteServer) -> None:
    """An object with a type unknown to the framework is received whole."""
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        events, _ = await events_of(agent, f"strings {json.dumps(OBJECTS)}")

    custom = [e for e in events if isinstance(e, Custom)]
    assert [repr(e.message) for e in custom] == [repr(message) for message in OBJECTS]


async def test_odd_characters(server: RemoteServer) -> None:
    """A query with a NUL, a BOM and each false line end is returned unchanged in the answer."""
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        response = await agent.ask(f"echo {ODD}")

    assert response.output == ODD


@pytest.mark.parametrize(
    ("query", "kind", "message"),
    [
        ("progress", Progress, {"type": "progress", "content": {"step": 0, "of": 3}}),
        ("progress", Custom, {"no": "type"}),
        ("progress", Custom, {"type": "named", "content": "own framing"}),  # with event name, id and retry of its own
        ("think", Thought, {"type": "think", "content": "let me see", "agent": "master"}),
    ],
)
async def test_types_of_messages(server: RemoteServer, query: str, kind: type[Event], message: dict[str, Any]) -> None:
    """A message is received as the event of its type, with `message` as sent."""
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        events, _ = await events_of(agent, query)

    assert message in [e.message for e in events if isinstance(e, kind)]


async def test_done_as_a_text(server: RemoteServer) -> None:
    """A `done` text of an agent does not end the run: later messages and the answer are received."""
    # In a stream with event names `done` means nothing, however long the agent is silent after it. The legacy dialect
    # names no event before the last, so that a silence of 2 s there would make it the end.
    pause = 0.5 if server.version == "1.0.8" else 2.5
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        events, response = await events_of(agent, f"done {pause}")

    assert [e.content for e in events if isinstance(e, Text)] == ["done", "done"]
    assert [e.content for e in events if isinstance(e, Progress)] == [{"step": 0}, {"step": 1}, {"step": 2}]
    assert response.state is OxyState.COMPLETED
    assert response.output == "not done before"
