"""AG-UI: run inputs, events and their order, threads, interrupts.

Rule 1: time is virtual; the remote is a toy in the same process, and so are the clients. Real clients are in
    tests/clients.
Rule 2: each stream that a test reads passes `checked`: the types of the package, and the order that the protocol
    demands.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest
from ag_ui.core import Event
from pydantic import TypeAdapter

from oxygent_client import BearerAuth, SSEOxyGent, Trace
from oxygent_client.errors import ConfigurationError, ConnectError
from oxygent_client.serve import Exchange, Refused, ServeLimits
from oxygent_client.serve._agui.events import MOST_CALLS, TEXT
from oxygent_client.serve._agui.page import Page
from oxygent_client.serve._agui.requests import run_input
from oxygent_client.serve._agui.threads import Threads
from oxygent_client.serve.agui import create_app
from oxygent_client.testing import (
    FakeTransport,
    Reply,
    ToyRemote,
    answer,
    close,
    delta,
    message,
    observation,
    tool_call,
)
from oxygent_client.testing.script import Call as Calls
from oxygent_client.testing.script import Cut, Pause, Say, Script, Stream, Think, Together
from oxygent_client.transports.asgi import ASGITransport
from tests.support.asgi_client import Call
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from oxygent_client.serve import Service

REMOTE: Final = "https://remote.test"
EVENTS: Final[TypeAdapter[Any]] = TypeAdapter(Event)
QUESTION: Final = {"type": "feedback", "content": "May I?"}
ASK: Final = Say(QUESTION)
SCRIPTS: Final = {
    **ToyRemote().scripts,
    "json": Script(output={"sum": 42, "ö": [None, math.nan]}),
    "think": Script([Think("hm"), Calls("flight_agent", [Think("well")]), Think("")], output="thought"),
    "team": Script(
        [
            Together(
                [
                    Calls("flight_agent", [Pause(0.2), Calls("search_flights", query="BER", output=5)], query="fly"),
                    Calls("hotel_agent", [Calls("review_agent", output="good")], output="Casa"),
                ]
            )
        ],
        output="both",
    ),
    "many": Script([Calls("add_up") for _ in range(MOST_CALLS + 5)], output="done"),
    "long": Script([Calls("add_up", query="x" * 5000, output="y" * 5000)], output="done"),
    "failing": Script([Calls("flight_agent", output="Error executing oxy flight_agent: boom")], output="done"),
    "lost": Script([Calls("flight_agent", lost=True), Calls("add_up", lost=True)], output="done"),
    "slow": Script([Calls("add_up"), Pause(100)], output="late"),
    "cut": Script([Stream("Nara has", 1), Pause(1), Cut()]),
    "ask": Script(
        [Calls("flight_agent", [Say(QUESTION | {"agent": "flight_agent"}), Pause(1)], output="yes")], output="asked"
    ),
    "ask_twice": Script([ASK, Pause(1), ASK, Pause(1)], output="asked"),
    "ask_then_fail": Script([ASK, Pause(1), Cut()]),
}
"""Answers that fail have the text of the framework."""


def checked(events: list[Any]) -> list[Any]:
    """Return the events, which are valid, and in an order that the protocol allows."""
    for each in events:
        EVENTS.validate_python(each)
    assert events[0]["type"] == "RUN_STARTED"
    opened: dict[Any, Any] = {}
    announced: set[str] = set()
    for number, each in enumerate(events[1:], 1):
        kind, _, place = each["type"].rpartition("_")
        key = next(
            (each[name] for name in ("toolCallId", "messageId", "stepName", "subagentRunId") if name in each), ""
        )
        if kind in ("SUBAGENT", "STEP"):
            key = each["subagentRunId" if kind == "SUBAGENT" else "stepName"]
        if kind == "SUBAGENT" and place == "STARTED":
            assert each.get("parentSubagentRunId", "") in {*announced, ""}
            announced.add(key)
        if place in ("START", "STARTED"):
            assert (kind, key) not in opened
            opened[kind, key] = each.get("subagentRunId")
        elif place in ("CONTENT", "ARGS"):
            assert (kind, key) in opened
        elif place in ("END", "FINISHED", "ERROR") and kind != "RUN":
            assert opened.pop((kind, key)) == each.get("subagentRunId")
        elif kind == "RUN":
            assert number == len(events) - 1
            assert each["type"] == "RUN_ERROR" or opened == {}
    return events


NUMBERS: Final = itertools.count()


def given(text: str, *, history: list[Any] | None = None, thread: str = "t", **members: Any) -> dict[str, Any]:
    """Return a run input whose last message is this text, with a run id of its own."""
    messages = [*(history or []), {"id": "m", "role": "user", "content": text}]
    usual: dict[str, Any] = {
        "threadId": thread,
        "runId": f"r{next(NUMBERS)}",
        "protocolVersion": "1.0",
        "state": {},
        "messages": messages,
    }
    return {name: value for name, value in {**usual, **members}.items() if value is not None}


def said(*texts: str) -> list[Any]:
    """Return messages: of the user, of the assistant, and so on."""
    roles = ("user", "assistant")
    return [{"id": str(place), "role": roles[place % 2], "content": text} for place, text in enumerate(texts)]


def answered(events: list[Any], *, status: str = "resolved", **members: Any) -> dict[str, Any]:
    """Return a run input that answers the interrupt of these events."""
    (interrupt,) = events[-1]["outcome"]["interrupts"]
    return given("", resume=[{"interruptId": interrupt["id"], "status": status, **members}])


@attrs.define(eq=False)
class Site:
    """A service, and the toy that it serves."""

    service: Service
    toy: ToyRemote

    def call(self, document: Any, path: str = "/agui", **headers: str) -> Call:
        """Return a request."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return Call(self.service, "POST", path, body, {name.replace("_", "-"): each for name, each in headers.items()})

    async def events(self, document: Any, path: str = "/agui", **headers: str) -> list[Any]:
        """Return the events of the response to a run input."""
        reply = await self.call(document, path, **headers)()
        assert reply.status == 200, reply.text
        return checked(reply.events)


@asynccontextmanager
async def site(agent: dict[str, Any] | None = None, **options: Any) -> AsyncGenerator[Site]:
    """Serve a toy while the block lasts."""
    toy = ToyRemote(scripts=SCRIPTS)
    service = create_app(SSEOxyGent(server_url=REMOTE, transport=ASGITransport(toy), **(agent or {})), **options)
    async with service.running():
        yield Site(service, toy)


@asynccontextmanager
async def of_one_agent(*steps: Any, **options: Any) -> AsyncGenerator[Site]:
    """Serve an agent that sends these steps."""
    remote = FakeTransport({"/sse/chat": Reply(steps), "/feedback": [Reply.json({"code": 200, "data": {}})] * 200})
    service = create_app(SSEOxyGent(server_url=REMOTE, transport=remote), **options)
    async with service.running():
        yield Site(service, ToyRemote())


def shown(events: list[Any]) -> list[str]:
    """Return the type of each event, with its name and its text."""
    names = ("toolCallName", "stepName", "name", "delta", "content", "result", "message")
    return [" ".join(map(str, [each["type"], *(each[name] for name in names if name in each)])) for each in events]


def text_of(events: list[Any]) -> list[str]:
    """Return the text of each message."""
    texts: dict[str, str] = {}
    for each in events:
        if each["type"].startswith("TEXT_MESSAGE"):
            texts[each["messageId"]] = texts.get(each["messageId"], "") + each.get("delta", "")
    return [*texts.values()]


def of_type(events: list[Any], kind: str) -> list[Any]:
    """Return the events of a type."""
    return [each for each in events if each["type"] == kind]


# ------------------------------------------------------------------------------------------------------------- Answers


async def test_a_stream() -> None:
    """The events of a run: its ids, the state of the client with facts of the run, the answer once, and the outcome."""
    async with site() as here:
        reply = await here.call(given("echo hello", state={"own": 1}, runId="r"))()
    trace_id = here.toy.runs[0].trace_id
    assert reply.headers["x-request-id"] == trace_id
    begin, state, *message, last_state, end = checked(reply.events)
    assert begin == {"type": "RUN_STARTED", "threadId": "t", "runId": "r", "protocolVersion": "1.0"}
    assert state["snapshot"] == {"own": 1, "oxygent": {"trace_id": trace_id}}
    assert shown(message) == ["TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT hello", "TEXT_MESSAGE_END"]
    assert last_state["snapshot"]["oxygent"]["status"] == "completed"
    assert [each["name"] for each in last_state["snapshot"]["oxygent"]["calls"]] == ["trip_planner"]
    assert end == {
        "type": "RUN_FINISHED",
        "threadId": "t",
        "runId": "r",
        "outcome": {"type": "success"},
        "result": "hello",
    }
    assert len(here.toy.runs) == 1


async def test_an_answer_that_is_json() -> None:
    """JSON is the result, and its text the message; what JSON does not have is text."""
    async with site() as here:
        events = await here.events(given("json"))
    assert events[-1]["result"] == {"sum": 42, "ö": [None, "NaN"]}
    assert text_of(events) == ['{"sum": 42, "ö": [null, NaN]}']


async def test_an_empty_answer() -> None:
    """An empty answer is an empty message."""
    async with of_one_agent(answer(""), close()) as here:
        events = await here.events(given("x"))
    assert text_of(events) == [""]


async def test_pieces() -> None:
    """The answer comes in pieces; a text that the model takes back, and the answer, are messages of their own."""
    steps = (
        tool_call("x", caller="user", node_id="1"),
        delta("Let me look that up.", agent="x", node_id="2"),
        tool_call("search", {"query": "Nara"}, caller="x"),
        observation("search", "deer", caller="x"),
        delta("Nara has ", agent="x", node_id="3"),
        delta("deer", agent="x", node_id="3"),
    )
    async with of_one_agent(*steps, answer("Nara has deer."), close()) as here:
        events = await here.events(given("x"))
    assert text_of(events) == ["Let me look that up.", "Nara has deer."]
    assert len(of_type(events, "TEXT_MESSAGE_CONTENT")) == 4


async def test_an_answer_that_replaces_the_text() -> None:
    """An answer that is not what was written is a message of its own."""
    steps = (tool_call("x", caller="user", node_id="1"), delta("A draft.", agent="x", node_id="1"))
    async with of_one_agent(*steps, answer("Done."), close()) as here:
        assert text_of(await here.events(given("x"))) == ["A draft.", "Done."]


async def test_a_text_that_is_complete() -> None:
    """If all of the answer was written, nothing follows."""
    steps = (tool_call("x", caller="user", node_id="1"), delta("Done.", agent="x", node_id="1"))
    async with of_one_agent(*steps, answer("Done."), close()) as here:
        events = await here.events(given("x"))
    assert len(of_type(events, "TEXT_MESSAGE_CONTENT")) == 1


async def test_an_agent_by_its_name() -> None:
    """The path selects an agent."""
    async with site() as here:
        assert text_of(await here.events(given("echo x"), "/agui/flight_agent")) == ["x"]
    assert here.toy.runs[0].payload["callee"] == "flight_agent"


# --------------------------------------------------------------------------------------------------------------- Calls


async def test_a_team() -> None:
    """Agents are sub-agents with their queries, also two at once; tool calls are those of their agents."""
    async with site() as here:
        events = await here.events(given("team"))
    started = {each["name"]: each for each in of_type(events, "SUBAGENT_STARTED")}
    ids = {name: each["subagentRunId"] for name, each in started.items()}
    assert started["flight_agent"]["description"] == "fly"
    assert started["review_agent"]["parentSubagentRunId"] == ids["hotel_agent"]
    assert "parentSubagentRunId" not in started["hotel_agent"]
    (call,) = of_type(events, "TOOL_CALL_START")
    assert (call["toolCallName"], call["subagentRunId"]) == ("search_flights", ids["flight_agent"])
    (result,) = of_type(events, "TOOL_CALL_RESULT")
    assert (result["toolCallId"], result["content"]) == (call["toolCallId"], "5")
    ended = {each["subagentRunId"]: each["result"] for each in of_type(events, "SUBAGENT_FINISHED")}
    assert ended == {ids["flight_agent"]: "", ids["hotel_agent"]: "Casa", ids["review_agent"]: "good"}
    assert text_of(events) == ["both"]


async def test_a_client_of_an_older_protocol() -> None:
    """A client that names no version gets agents as steps, no reasoning, and nothing else that it does not know."""
    async with site(reasoning=True) as here:
        team = await here.events(given("team", protocolVersion=None))
        think = await here.events(given("think", protocolVersion=None))
    assert [each["stepName"] for each in of_type(team, "STEP_STARTED")] == [
        "flight_agent",
        "hotel_agent",
        "review_agent",
    ]
    assert "subagentRunId" not in of_type(team, "STEP_STARTED")[2]
    assert {each["type"].partition("_")[0] for each in [*team, *think]} == {"RUN", "STATE", "STEP", "TOOL", "TEXT"}


async def test_models() -> None:
    """Calls of models are steps, each name only once at a time."""
    fields: dict[str, Any] = {
        "caller": "x",
        "caller_category": "agent",
        "callee": "m",
        "callee_category": "llm",
        "call_stack": [],
    }
    calls = [{"type": "tool_call", "content": {**fields, "node_id": str(number)}} for number in range(2)]
    ends = [{"type": "observation", "content": {**fields, "node_id": str(number)}} for number in range(2)]
    sent = [f"data: {json.dumps(each)}\r\n\r\n".encode() for each in (*calls, *ends[:1])]
    async with of_one_agent(tool_call("x", caller="user", node_id="r"), *sent, answer("ok"), close()) as here:
        events = await here.events(given("x"))
    names = [each["stepName"] for each in events if each["type"].startswith("STEP")]
    assert names[0] == "m"
    assert names[1].startswith("m ")
    assert names[2:] == names[:2]


async def test_thoughts() -> None:
    """With `reasoning`, thoughts are reasoning of their agents; without it they are not sent."""
    async with site(reasoning=True) as here:
        events = await here.events(given("think"))
    (agent,) = of_type(events, "SUBAGENT_STARTED")
    thoughts = of_type(events, "REASONING_MESSAGE_CONTENT")
    assert [each["delta"] for each in thoughts] == ["hm", "well"]
    assert [each.get("subagentRunId") for each in thoughts] == [None, agent["subagentRunId"]]
    async with site() as here:
        assert of_type(await here.events(given("think")), "REASONING_MESSAGE_CONTENT") == []


async def test_a_thought_of_no_call() -> None:
    """A thought without a call is one of the run."""
    thought = message({"type": "think", "content": "hm"})
    async with of_one_agent(thought, answer("ok"), close(), reasoning=True) as here:
        (each,) = of_type(await here.events(given("x")), "REASONING_MESSAGE_CONTENT")
    assert "subagentRunId" not in each


async def test_limits_of_calls() -> None:
    """Of many calls the first are reported; long texts are cut."""
    async with site() as here:
        events = await here.events(given("many"))
        long = await here.events(given("long"))
    assert len(of_type(events, "TOOL_CALL_START")) == MOST_CALLS - 1  # the root is one, too
    assert len(of_type(events, "TOOL_CALL_RESULT")) == MOST_CALLS - 1
    assert len(of_type(long, "TOOL_CALL_ARGS")[0]["delta"]) == TEXT
    assert len(of_type(long, "TOOL_CALL_RESULT")[0]["content"]) == TEXT


async def test_a_failing_sub_agent() -> None:
    """A sub-agent whose output is a failure has failed; the run goes on."""
    async with site() as here:
        events = await here.events(given("failing"))
    (error,) = of_type(events, "SUBAGENT_ERROR")
    assert error["message"].endswith("boom")
    assert text_of(events) == ["done"]


async def test_calls_without_an_end() -> None:
    """A sub-agent whose end was not seen is closed as failed, and a tool call is answered by an empty text."""
    async with site() as here:
        events = await here.events(given("lost"))
    assert len(of_type(events, "SUBAGENT_ERROR")) == 1
    assert [each["content"] for each in of_type(events, "TOOL_CALL_RESULT")] == [""]


async def test_a_call_that_begins_again() -> None:
    """A sub-agent that begins again with the same id is another one; the first is closed."""
    fields = {"caller": "x", "caller_category": "agent", "callee": "y", "callee_category": "agent", "node_id": "2"}
    begin = message({"type": "tool_call", "content": {**fields, "call_stack": ["user", "x", "y"]}})
    async with of_one_agent(tool_call("x", caller="user", node_id="1"), begin, begin, answer("ok"), close()) as here:
        events = await here.events(given("x"))
    ids = [each["subagentRunId"] for each in of_type(events, "SUBAGENT_STARTED")]
    assert len({*ids}) == 2
    assert [each["subagentRunId"] for each in of_type(events, "SUBAGENT_ERROR")] == ids


@pytest.mark.parametrize("seed", range(10))
async def test_any_calls(seed: int) -> None:
    """Whatever calls, ends, texts and questions a remote sends, the events are in an order that the protocol allows."""
    draw = random.Random(seed)

    def sent() -> bytes:
        kind = draw.choice(("tool_call", "tool_call", "observation", "stream", "think", "feedback"))
        content = {
            "node_id": draw.choice(("1", "2", "3", "")),
            "caller": draw.choice("xyz"),
            "callee": draw.choice("xyz"),
            "caller_category": draw.choice(("user", "agent", "agent", "")),
            "callee_category": draw.choice(("agent", "agent", "llm", "tool", None)),
            "call_stack": draw.choice((["user", "x"], ["user", "x", "y"], ["user", "x", "y", "z"], None)),
            "output": draw.choice(("ok", math.inf, "Error executing oxy y: boom")),
            "delta": draw.choice(("hello ", "world")),
        }
        return message({"type": kind, "content": "hm" if kind in ("think", "feedback") else content})

    async with of_one_agent(*(sent() for _ in range(60)), answer("hello world"), close(), reasoning=True) as here:
        events = await here.events(given("x"))
        while events[-1]["outcome"]["type"] == "interrupt":
            events = await here.events(answered(events, payload="yes"))
    assert events[-1]["outcome"] == {"type": "success"}


async def test_texts_of_the_remote() -> None:
    """Names are bounded lines without hidden characters; lone surrogates are replaced."""
    name = "evil\u202e\n" + "x" * 300
    lone = rb'data: {"type": "answer", "content": "a\ud800b"}' + b"\r\n\r\n"
    async with of_one_agent(
        tool_call("m", caller="user", node_id="r"), tool_call(name, caller="m"), lone, close()
    ) as here:
        events = await here.events(given("x"))
    (call,) = of_type(events, "TOOL_CALL_START")
    assert call["toolCallName"].startswith("evil xx")
    assert len(call["toolCallName"]) == 200
    assert text_of(events) == ["a?b"]


# ---------------------------------------------------------------------------------------------------------------- Ends

ENDS: Final[list[Any]] = [
    # the query, the code, the outcome, the text before
    pytest.param("fail", "agent_failed", "completed", [], id="failed"),
    pytest.param("cut", "cut", "started", ["Nara has"], id="cut"),
    pytest.param("slow", "timeout", "started", [], id="time-out"),
]


@pytest.mark.parametrize(("query", "code", "outcome", "text"), ENDS)
async def test_failed_runs(query: str, code: str, outcome: str, text: list[str]) -> None:
    """A run that fails, is cut or takes too long is an error with code, outcome and trace id; it ran once."""
    async with site(limits=ServeLimits(run_seconds=50)) as here:
        events = await here.events(given(query))
    assert events[-1]["type"] == "RUN_ERROR"
    assert events[-1]["code"] == code
    facts = {"outcome": outcome, "retryable": False, "trace_id": here.toy.runs[0].trace_id}
    assert events[-1]["metadata"] == {"oxygent": facts}
    assert text_of(events) == text
    assert len(here.toy.runs) == 1


async def test_an_unreachable_remote() -> None:
    """A remote that cannot be reached is a status, and nothing ran."""
    remote = FakeTransport({"/sse/chat": Reply(before=ConnectError("refused"))})
    service = create_app(SSEOxyGent(server_url=REMOTE, transport=remote))
    async with service.running():
        reply = await Site(service, ToyRemote()).call(given("x"))()
    assert (reply.status, reply.document["code"]) == (503, "unreachable")
    assert (reply.document["outcome"], reply.document["retryable"]) == ("not_sent", True)


async def test_too_many_runs() -> None:
    """A request beyond the limit is a status."""
    async with site(limits=ServeLimits(runs=1)) as here, anyio.create_task_group() as group:
        group.start_soon(here.call(given("slow")))
        await anyio.sleep(1)
        reply = await here.call(given("echo x", thread="other"))()
        assert (reply.status, reply.document["code"]) == (429, "too_many_runs")


class _Broken(SSEOxyGent):
    """An agent with a fault, before or within a run."""

    is_early = True

    def conversation(self, token: str = "", **options: Any) -> Any:
        """Raise an error whose text is not for clients."""
        if self.is_early:
            raise ValueError("a secret of the program")
        return super().conversation(token, **options)

    async def feedback(self, channel_id: str, data: Any) -> None:
        """Raise such an error."""
        raise ValueError("a secret of the program")


async def test_unexpected_errors(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is a status, or the last event, without its text, which is logged."""
    agent = _Broken(server_url=REMOTE, transport=ASGITransport(ToyRemote(scripts=SCRIPTS)))
    service = create_app(agent)
    async with service.running():
        here = Site(service, ToyRemote())
        early = await here.call(given("x"))()
        agent.is_early = False
        late = await here.events(answered(await here.events(given("ask"))))
    assert (early.status, early.document["code"]) == (500, "internal_error")
    assert late[-1]["code"] == "internal_error"
    assert "secret" not in f"{early.text}{late}"
    assert caplog.text.count("a secret of the program") >= 2


async def test_a_client_that_leaves() -> None:
    """When the client has left and does not come back, the run is stopped at the remote."""
    async with site() as here, anyio.create_task_group() as group:
        call = here.call(given("slow"))
        group.start_soon(call)
        await call.wait_for("add_up")
        call.left.set()
        await anyio.sleep(0.9)
        before = here.toy.runs[0].state
        await anyio.sleep(0.2)
        assert before == "started"
        assert here.toy.runs[0].state == "cancelled"
        assert here.service.runs.running == 0


async def test_a_client_that_cannot_be_written_to() -> None:
    """An error of the connection stops the run, and the service goes on."""
    async with site() as here:
        broken = here.call(given("slow"))
        broken.is_broken = True
        await broken()
        assert text_of(await here.events(given("echo x"))) == ["x"]
    assert here.toy.runs[0].state == "cancelled"


async def test_heartbeats() -> None:
    """A stream has a comment every 15 s while the remote is quiet."""
    async with site() as here:
        reply = await here.call(given("slow"))()
    assert reply.text.count(": heartbeat") == 6


async def test_stopping() -> None:
    """A service that stops ends its runs with an error."""
    async with site() as here:
        call = here.call(given("slow"))
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await call.wait_for("add_up")
            await here.service.stop()
        assert checked(call.events)[-1]["code"] == "stopping"
        assert here.toy.runs[0].state == "cancelled"


async def test_a_service_that_is_not_running() -> None:
    """Without its lifespan the service has no place for runs."""
    service = create_app(SSEOxyGent(server_url=REMOTE, transport=ASGITransport(ToyRemote())))
    reply = await Site(service, ToyRemote()).call(given("echo x"))()
    assert (reply.status, reply.document["code"]) == (500, "internal_error")


# -------------------------------------------------------------------------------------------------------------- Inputs

INPUTS: Final[list[Any]] = [
    # the run input, the status, the member that the error names
    pytest.param(b"{", 400, None, id="no-json"),
    pytest.param({}, 400, "threadId", id="empty"),
    pytest.param(given("x", messages=[]), 400, "messages", id="no-message"),
    pytest.param(given("x", messages=said("a", "b")), 400, "messages", id="last-is-not-the-user's"),
    pytest.param(given(""), 400, "messages", id="no-text"),
    pytest.param(given("x", messages=[{"id": "1", "role": "user"}]), 400, "messages.0", id="no-content"),
    pytest.param(given("x", thread="x" * 201), 400, "threadId", id="long-thread"),
    pytest.param(given("x", runId="x" * 201), 400, "runId", id="long-run"),
    pytest.param(given("x", resume=[{"interruptId": "?", "status": "resolved"}]), 409, "resume", id="no-interrupt"),
    pytest.param(b"x" * 2000, 413, None, id="too-large"),
]


@pytest.mark.parametrize(("document", "status", "param"), INPUTS)
async def test_refused_inputs(document: Any, status: int, param: str | None) -> None:
    """An invalid input is a status with the name of its member, and nothing runs."""
    async with site(limits=ServeLimits(body_bytes=1000)) as here:
        reply = await here.call(document)()
    assert reply.status == status
    assert (reply.document["param"] or "").startswith(param or "")
    assert here.toy.runs == []


async def test_an_unknown_agent() -> None:
    """A path with the name of no agent is not found."""
    async with site() as here:
        reply = await here.call(given("x"), "/agui/search_flights")()
    assert (reply.status, reply.document["code"]) == (404, "agent_not_found")


async def test_what_is_sent_to_the_agent() -> None:
    """The agent gets the context and the text of the query; no state, no tools, no properties, no media."""
    parts = [{"type": "text", "text": "echo"}, {"type": "image", "source": {"type": "url", "value": "https://x.test"}}]
    members: dict[str, Any] = {
        "messages": [{"id": "1", "role": "user", "content": parts}],
        "context": [{"description": "place", "value": "Nara"}],
        "forwardedProps": {"secret": "p"},
        "state": {"secret": "s"},
        "tools": [{"name": "secret", "description": "t", "parameters": {}}],
    }
    async with site() as here:
        await here.events(given("", **members))
    (run,) = here.toy.runs
    assert run.query == "place: Nara\n\necho"
    assert "secret" not in json.dumps(run.payload)


async def test_only_allowed_headers_are_forwarded() -> None:
    """Of a client's headers, the agent gets those in `forward_headers`."""
    async with site({"forward_headers": ["x-tenant"]}) as here:
        await here.events(given("echo x"), x_tenant="t1", x_other="o")
    assert here.toy.runs[0].headers["x-tenant"] == "t1"
    assert "x-other" not in here.toy.runs[0].headers


async def test_echoed_credentials() -> None:
    """A credential that the remote returns is removed."""
    async with site({"auth": BearerAuth("s3cret-token")}) as here:
        events = await here.events(given("echo s3cret-token"))
    assert "s3cret" not in json.dumps(events)
    assert text_of(events) == ["[scrubbed]"]


@pytest.mark.parametrize("seconds", [0, True, math.inf, "5"])
def test_wrong_seconds(seconds: Any) -> None:
    """An invalid time raises an error with the name of the setting."""
    with pytest.raises(ConfigurationError, match="answer_seconds"):
        create_app(SSEOxyGent(server_url=REMOTE), answer_seconds=seconds)


# ------------------------------------------------------------------------------------------------------------- Threads


def links(here: Site) -> list[Any]:
    """Return which run each run follows, by index; None for the first of a conversation."""
    ids = [run.trace_id for run in here.toy.runs]
    return [ids.index(found) if (found := run.payload.get("from_trace_id")) else None for run in here.toy.runs]


def memories(here: Site) -> list[Any]:
    """Return the texts of the history that each run got from its client."""
    return [[each["content"] for each in run.payload.get("short_memory", [])] for run in here.toy.runs]


async def test_a_thread() -> None:
    """A thread has the memory of the remote, and only the query is sent, with the instructions."""
    async with site() as here:
        await here.events(given("echo 1"))
        await here.events(given("echo 2", history=said("echo 1", "1")))
        instructions = {"id": "s", "role": "developer", "content": "be brief"}
        await here.events(given("echo 3", history=[instructions, *said("echo 1", "1", "echo 2", "2")]))
    assert links(here) == [None, 0, 1]
    assert memories(here) == [[], [], []]
    assert here.toy.runs[2].query == "be brief\n\necho 3"
    assert "t" not in {run.payload["group_id"] for run in here.toy.runs}


HISTORIES: Final[list[Any]] = [
    # the history, the thread
    pytest.param(said("echo other", "1"), "t", id="edited"),
    pytest.param(said("echo 1", "1", "fail", "?"), "t", id="after-a-failure"),
    pytest.param(said("echo 1", "1"), "other", id="another-thread"),
]


@pytest.mark.parametrize(("history", "thread"), HISTORIES)
async def test_the_history_of_the_client_counts(history: list[Any], thread: str) -> None:
    """A history that is not the one of the conversation is sent to the agent."""
    async with site() as here:
        await here.events(given("echo 1"))
        await here.events(given("echo x", history=history, thread=thread))
    assert links(here) == [None, None]
    assert memories(here)[1] == [each["content"] for each in history]


async def test_messages_that_are_no_history() -> None:
    """Tool messages, reasoning and messages without a text are not sent to the agent."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    history = [
        *said("echo 1"),
        {"id": "a", "role": "assistant", "toolCalls": [call]},
        {"id": "b", "role": "tool", "toolCallId": "c", "content": "5"},
        {"id": "d", "role": "reasoning", "content": "hm"},
        {"id": "e", "role": "system", "content": "be brief"},
    ]
    async with site() as here:
        await here.events(given("echo x", history=history))
    assert memories(here) == [["echo 1", "be brief"]]


async def test_a_new_thread_of_the_same_name() -> None:
    """A thread without a history is a new conversation, as is one with another agent."""
    async with site() as here:
        for path in ("/agui", "/agui", "/agui/flight_agent"):
            await here.events(given("echo 1"), path)
        await here.events(given("echo 2", history=said("echo 1", "1")), "/agui/flight_agent")
    assert links(here) == [None, None, None, 2]


async def test_old_threads_are_forgotten() -> None:
    """The threads of the last good turns are kept."""
    async with site() as here:
        threads = Threads(here.service.runs, most=1)
        asked = [run_input(given("1", thread=name)) for name in "ab"]
        for each in asked:
            threads.remember(each, "", here.service.runs.conversation())
        after = [run_input(given("2", thread=name, history=said("1"))) for name in "ab"]
        found = [threads.conversation(each, "") for each in after]
    assert [each is not None for each in found] == [False, True]


# ---------------------------------------------------------------------------------------------------------- Interrupts

ANSWERS: Final[list[Any]] = [
    # the answer, what the agent gets
    pytest.param({"payload": "yes"}, ["yes", ""], id="text"),
    pytest.param({"payload": {"ok": True}}, [{"ok": True}, ""], id="json"),
    pytest.param({"payload": ""}, [""], id="empty"),
    pytest.param({"status": "cancelled"}, [""], id="abandoned"),
]


@pytest.mark.parametrize(("members", "feedback"), ANSWERS)
async def test_an_agent_that_asks(members: dict[str, Any], feedback: list[Any]) -> None:
    """The run ends with an interrupt, and goes on with the answer; it is one run at the remote."""
    async with site() as here:
        first = await here.events(given("ask"))
        second = await here.events(answered(first, **members))
    (interrupt,) = first[-1]["outcome"]["interrupts"]
    (suspended,) = of_type(first, "SUBAGENT_FINISHED")
    assert (interrupt["reason"], interrupt["message"]) == ("input_required", "May I?")
    assert interrupt["subagentRunId"] == suspended["subagentRunId"]
    assert suspended["outcome"] == {"type": "suspended", "interruptIds": [interrupt["id"]]}
    assert [each["subagentRunId"] for each in of_type(second, "SUBAGENT_STARTED")] == [suspended["subagentRunId"]]
    assert second[-1]["outcome"] == {"type": "success"}
    assert text_of(second) == ["asked"]
    assert len(here.toy.runs) == 1
    assert here.toy.runs[0].feedback == feedback


async def test_an_agent_that_asks_twice() -> None:
    """Each question is an interrupt of its own; the thread remembers the turn."""
    async with site() as here:
        first = await here.events(given("ask_twice"))
        second = await here.events(answered(first, payload="a"))
        third = await here.events(answered(second, payload="b"))
        await here.events(given("echo x", history=said("ask_twice", "asked")))
    assert third[-1]["outcome"] == {"type": "success"}
    assert here.toy.runs[0].feedback == ["a", "", "b", ""]
    assert links(here) == [None, 0]


async def test_what_is_open_at_a_question() -> None:
    """Texts and steps are closed before the interrupt; the text goes on in the same message."""
    model = {"caller": "x", "callee": "m", "caller_category": "agent", "callee_category": "llm", "node_id": "2"}
    steps = (
        tool_call("x", caller="user", node_id="1"),
        message({"type": "tool_call", "content": {**model, "call_stack": ["user", "x", "m"]}}),
        delta("I wonder. ", agent="x", node_id="2"),
        tool_call("wait", caller="other", node_id="3", call_stack=["other"]),
        message({"type": "feedback", "content": "?"}),
        delta("I know.", agent="x", node_id="2"),
        message({"type": "observation", "content": {**model, "output": ""}}),
        observation("wait", "ok", node_id="3"),
        answer("I wonder. I know."),
        close(),
    )
    async with of_one_agent(*steps) as here:
        first = await here.events(given("x"))
        second = await here.events(answered(first, payload="yes"))
    assert text_of(first) == ["I wonder."]
    assert text_of(second) == [" I know."]
    ids = {each["messageId"] for each in [*first, *second] if each["type"].startswith("TEXT")}
    assert len(ids) == 1
    assert len(of_type(first, "STEP_FINISHED")) == 1
    assert of_type(second, "STEP_FINISHED") == []
    assert len(of_type(second, "TOOL_CALL_RESULT")) == 1


async def test_a_question_without_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    """A run whose agent gets no answer in time is stopped at the remote, and the answer is refused then."""
    async with site(answer_seconds=5) as here:
        first = await here.events(given("ask"))
        await anyio.sleep(6)
        late = await here.call(answered(first, payload="yes"))()
    assert (late.status, late.document["code"]) == (409, "interrupt_unknown")
    assert here.toy.runs[0].state == "cancelled"
    assert "no answer" in caplog.text


async def test_other_requests_while_an_agent_waits() -> None:
    """Until it has its answer, its thread takes no query, and no other thread's answer; then no second answer."""
    async with site() as here:
        first = await here.events(given("ask"))
        query = await here.call(given("echo x"))()
        other = await here.call({**answered(first, payload="no"), "threadId": "other"})()
        await here.events(given("echo x", thread="other"))
        await here.events(answered(first, payload="yes"))
        again = await here.call(answered(first, payload="yes"))()
    assert [each.document["code"] for each in (query, other, again)] == [
        "interrupt_open",
        "interrupt_unknown",
        "interrupt_unknown",
    ]
    assert here.toy.runs[0].feedback == ["yes", ""]


async def test_a_failure_after_an_answer() -> None:
    """A run that fails after the answer is an error of the second run."""
    async with site() as here:
        second = await here.events(answered(await here.events(given("ask_then_fail")), payload="yes"))
    assert second[-1]["code"] == "cut"


async def test_a_client_that_leaves_with_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    """A client that leaves as soon as it has answered stops the run, without an error."""
    async with site() as here:
        call = here.call(answered(await here.events(given("ask")), payload="yes"))
        call.left.set()
        await call()
        await anyio.sleep(1.1)
        assert here.toy.runs[0].state == "cancelled"
        assert here.service.runs.running == 0
    assert "failed" not in caplog.text


@pytest.mark.parametrize("grace", [0, 30])
async def test_stopping_while_an_agent_waits(grace: float) -> None:
    """A run that waits for an answer is stopped with the service, at once: no answer can come any more."""
    async with site() as here:
        await here.events(given("ask"))
        began = anyio.current_time()
        await here.service.stop(grace)
        assert anyio.current_time() - began < 1
    assert here.toy.runs[0].state == "cancelled"


async def test_a_question_for_an_older_client() -> None:
    """A client that does not know interrupts gets the question as an event of its own; others may answer the agent."""
    async with site() as here:
        events = await here.events(given("ask", protocolVersion=None))
    assert [each["value"] for each in of_type(events, "CUSTOM")] == ["May I?"]
    assert text_of(events) == ["asked"]


# ------------------------------------------------------------------------------------------------------------ The page


async def test_the_page() -> None:
    """The page needs no token; its policy allows its own script and style only, and those of a report."""
    async with site(page=True, token="t0ken") as here:
        reply = await Call(here.service, "GET", "/")()
    policy = reply.headers["content-security-policy"]
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for each in (reply.text, Trace().report()):
        for name in ("style", "script"):
            code = each.partition(f"<{name}>")[2].partition(f"</{name}>")[0]
            digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
    assert "http://" not in reply.text
    assert "https://" not in reply.text


@pytest.mark.parametrize("path", ["/agui/agents", "/agui/reports/x"])
async def test_what_the_page_reads_needs_the_token(path: str) -> None:
    """What the page reads needs the token."""
    async with site(page=True, token="t0ken") as here:
        assert (await Call(here.service, "GET", path)()).status == 401


async def test_the_agents_of_the_page() -> None:
    """The page gets the agents with their descriptions."""
    async with site(page=True, hosts=["testserver"]) as here:
        reply = await Call(here.service, "GET", "/agui/agents")()
    assert reply.document[0] == {"name": "trip_planner", "description": "Plans trips with flights and hotels"}
    assert [each["name"] for each in reply.document[1:]] == ["flight_agent", "hotel_agent", "review_agent"]


@pytest.mark.parametrize("query", ["team", "cut"])
async def test_a_report(query: str) -> None:
    """A run has a report, which names no server; a run of another program has none."""
    async with site(page=True, hosts=["testserver"]) as here:
        await here.events(given(query))
        reply = await Call(here.service, "GET", f"/agui/reports/{here.toy.runs[0].trace_id}")()
        unknown = await Call(here.service, "GET", "/agui/reports/other")()
    assert reply.status == 200
    assert "trip_planner" in reply.text
    assert "remote.test" not in reply.text
    assert (unknown.status, unknown.document["code"]) == (404, "not_found")


async def test_old_reports() -> None:
    """The last runs are kept for their reports."""
    async with site(page=True, hosts=["testserver"]) as here:
        page = Page(here.service.runs, most=1)
        runs = [SSEOxyGent(server_url=REMOTE, transport=ASGITransport(here.toy)).stream("echo x") for _ in range(2)]
        for run in runs:
            async with run:
                page.keep(run)
        replies = [f"/agui/reports/{run.remote_trace_id}" for run in runs]
        exchanges = [_Recorded(path) for path in replies]
        with pytest.raises(Refused):
            await page.report(exchanges[0])
        await page.report(exchanges[1])
    assert exchanges[1].status == 200


class _Recorded(Exchange):
    """A request whose response goes nowhere."""

    def __init__(self, path: str) -> None:
        async def send(_: Any) -> None:
            await anyio.lowlevel.checkpoint()

        super().__init__({"method": "GET", "path": path, "headers": []}, send)


def test_a_page_that_could_not_be_used() -> None:
    """Without the names of the server, and without a token, requests of the page would be refused."""
    with pytest.raises(ConfigurationError, match="hosts"):
        create_app(SSEOxyGent(server_url=REMOTE), page=True)


async def test_without_the_page() -> None:
    """Without the option there is no page."""
    async with site() as here:
        assert (await Call(here.service, "GET", "/")()).status == 404
