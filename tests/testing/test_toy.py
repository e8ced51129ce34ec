"""The toy remote: the bytes of real servers, from a script, on both event loops.

Rule 1: what real servers sent (`fixtures/wire`) is the measure; names, ids and times are the toy's own.
Rule 2: nothing here waits: pauses are of pace 0, and where time is the question it is milliseconds.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, cast

import anyio
import pytest
from attrs import define, field

from oxygent_client import Custom, Decoder, HTTPRequest, ServerSentEvent, SSEOxyGent, Timeouts, errors
from oxygent_client.testing import ToyRemote
from oxygent_client.testing.script import (
    SCRIPTS,
    TRIP,
    AgentStep,
    Call,
    Close,
    Cut,
    Hang,
    Pause,
    Ping,
    Say,
    Script,
    Stream,
    Think,
    Together,
)
from oxygent_client.transports.asgi import ASGITransport
from tests.conftest import WIRE

Message = dict[str, Any]

# --------------------------------------------------------------------------------------------------- Driving it by hand


@define
class Client:
    """What stands at the other end of an ASGI application: keeps what was sent, leaves when it is told to."""

    body: bytes = b"{}"
    pieces_in: int = 1
    leaves_after: float = math.inf
    """So many messages are taken in, then the client leaves."""
    breaks: bool = False
    """Whether leaving shows in `send` (an OSError) instead of in `receive`."""
    sent: list[Message] = field(factory=list[Message])
    left: anyio.Event = field(factory=anyio.Event)

    async def receive(self) -> Message:
        """The request in its pieces, then nothing until the client has left."""
        if self.pieces_in:
            self.pieces_in -= 1
            half = len(self.body) // 2 if self.pieces_in else len(self.body)
            piece, self.body = self.body[:half], self.body[half:]
            return {"type": "http.request", "body": piece, "more_body": bool(self.pieces_in)}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        """Take a message in."""
        if len(self.sent) >= self.leaves_after:
            if self.breaks:
                raise OSError("the client has left")
            self.left.set()
            await anyio.sleep_forever()
        self.sent.append(message)

    @property
    def status(self) -> int:
        """The HTTP status that was sent."""
        status: int = self.sent[0]["status"]
        return status

    @property
    def chunks(self) -> list[bytes]:
        """The body, as it was cut."""
        return [message["body"] for message in self.sent[1:]]

    @property
    def events(self) -> list[ServerSentEvent]:
        """The body, as a client understands it."""
        decoder = Decoder()
        return [event for chunk in self.chunks for event in decoder.feed(chunk)]

    @property
    def objects(self) -> list[Message]:
        """The messages that are objects."""
        return [cast("Message", message) for message in self.messages if isinstance(message, dict)]

    @property
    def messages(self) -> list[Any]:
        """The data of every event but `close`, as JSON where it is JSON."""
        return [_json_or_text(event.data) for event in self.events if event.event != "close"]


def _json_or_text(data: str) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data


async def request(toy: ToyRemote, method: str, path: str, client: Client, query_string: bytes = b"") -> Client:
    """The client, after the toy has served one request of it."""
    scope: Message = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query_string,
        "headers": [(b"x-test", b"yes")],
    }
    await toy(scope, client.receive, client.send)
    return client


async def chat(toy: ToyRemote, payload: Any) -> Client:
    """The client, after one run that was asked for with `payload`."""
    return await request(toy, "POST", "/sse/chat", Client(json.dumps(payload).encode()))


def captured(name: str) -> list[ServerSentEvent]:
    """What a real server sent."""
    return Decoder().feed((WIRE / f"{name}.sse").read_bytes())


def shape(value: Any) -> Any:
    """What a message is made of, without its values: keys in their order, types of what is not an object."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in cast("Message", value).items()}
    return type(value).__name__


def outline(events: list[ServerSentEvent]) -> list[Any]:
    """For every event its framing and the shape of its message."""
    framing = [(event.event, len(event.id or ""), event.retry) for event in events]
    shapes = [shape(_json_or_text(event.data)) for event in events]
    ordered = [json.dumps(each, sort_keys=False) for each in shapes]
    return list(zip(framing, ordered, strict=True))


# --------------------------------------------------------------------------------------------------------- The measure

MASTER_TOOLS = Script(
    [
        Call("add", query="2+3", output=5),
        Together([Call("mul", [Pause(2)], output=20), Call("upper", [Pause(1)], output="HELLO")]),
    ],
    output="add=5 mul=20 upper=HELLO",
)
MASTER_NESTED = Script(
    [
        Call(
            "middle_agent",
            [
                Call(
                    "leaf_agent",
                    [Say({"type": "progress", "content": {"from": "leaf"}}), Call("add", output=42)],
                    query="leaf",
                    output="leaf(42)",
                )
            ],
            query="nested",
            output="middle(leaf(42))",
        )
    ],
    output="nested -> middle(leaf(42))",
)
MASTER: Final = {
    "name": "master",
    "type": "agent",
    "children": [{"name": "middle_agent", "type": "agent"}, {"name": "leaf_agent", "type": "agent"}],
}

MEASURES: Final = [
    # (what a real server sent, its release, the same in the script language, the query)
    ("v1.1.3_tools", "1.1.3", MASTER_TOOLS, "tools"),
    ("v1.0.8_tools", "1.0.8", MASTER_TOOLS, "tools"),
    ("v1.1.3_nested", "1.1.3", MASTER_NESTED, "nested"),
    ("v1.1.3_echo", "1.1.3", Script(output="echo: hello"), "echo hello"),
    ("v1.0.8_echo", "1.0.8", Script(output="echo: hello"), "echo hello"),
    ("v1.1.3_think", "1.1.3", Script([Think("let me think")], output="thought"), "think"),
    ("v1.1.3_out_dict", "1.1.3", Script(output={"a": 1, "b": [1, 2, None], "c": {"d": "é🚀"}}), "out dict"),
    ("v1.0.8_out_dict", "1.0.8", Script(output={"a": 1, "b": [1, 2, None], "c": {"d": "é🚀"}}), "out dict"),
]


@pytest.mark.parametrize(("name", "dialect", "script", "query"), MEASURES, ids=[row[0] for row in MEASURES])
async def test_the_measure(name: str, dialect: str, script: Script, query: str) -> None:
    """The same doings give the events of a real server: framing, keys in their order, types, and everything said."""
    toy = ToyRemote(dialect=dialect, default=script, scripts={}, organization=MASTER, pace=0)
    client = await chat(toy, {"query": query})
    real = captured(name)
    assert outline(real) == outline(client.events)
    kept = (
        "type",
        "delta",
        "caller",
        "callee",
        "caller_category",
        "callee_category",
        "call_stack",
        "arguments",
        "output",
    )
    for expected, event in zip(real[:-1], client.events[:-1], strict=True):
        told, tells = json.loads(expected.data), json.loads(event.data)
        if told["type"] == "answer":
            assert told["content"] == tells["content"]
        elif isinstance(told["content"], dict):
            assert {k: told["content"][k] for k in kept if k in told["content"]} == {
                k: tells["content"][k] for k in kept if k in tells["content"]
            }


async def test_deltas() -> None:
    """A text comes as `stream` and one `stream_end`; the pieces together are the text, and keep its white space."""
    text = "  # A title\n\nwords  and words\n"
    client = await chat(ToyRemote(default=Script([Stream(text, 1)]), pace=0), {})
    contents = [message for message in client.messages if message["type"].startswith("stream")]
    assert "".join(message["content"]["delta"] for message in contents) == text
    assert {shape_of["type"] for shape_of in contents[:-1]} == {"stream"}
    assert contents[-1]["type"] == "stream_end"
    real = json.loads(captured("v1.1.3_stream")[1].data)
    assert list(real["content"]) == list(contents[0]["content"])


CLOSING: Final = {
    "1.1.3": b"event: close\r\ndata: done\r\nretry: 3000\r\n\r\n",
    "1.0.8": b"event: close\r\ndata: done\r\n\r\n",
}


@pytest.mark.parametrize("dialect", CLOSING)
async def test_the_bytes(dialect: str) -> None:
    """One event is one chunk, every line ends in CRLF, and the last is `close`."""
    client = await chat(ToyRemote(dialect=dialect, pace=0), {"query": "odd"})
    *chunks, closing, end = client.chunks
    assert end == b""
    assert closing.endswith(CLOSING[dialect])
    for chunk in chunks:
        assert len(Decoder().feed(chunk)) == 1
        assert chunk.endswith(b"\r\n\r\n")
        assert chunk.count(b"\n") == chunk.count(b"\r") == chunk.count(b"\r\n")
    assert client.status == 200
    assert client.sent[-1]["more_body"] is False
    assert (b"content-type", b"text/event-stream; charset=utf-8") in client.sent[0]["headers"]


ODD: Final[list[tuple[Any, list[str], bool]]] = [
    # (what an agent says, the data lines it becomes in 1.1.3, whether 1.0.8 sends it)
    ("two\nlines", ["two", "lines"], True),
    ("a\r\nb\rc", ["a", "b", "c"], True),
    ("", [""], False),
    (None, [""], False),
    (0, ["0"], False),
    ([], ["[]"], False),
    (42, ["42"], True),
    (math.nan, ["NaN"], True),
    ("\u2028\x0b\x85", ["\u2028\x0b\x85"], True),
    ({"é": "🚀"}, ['{"é": "🚀"}'], True),
]


@pytest.mark.parametrize(("message", "lines", "in_old"), ODD, ids=[repr(row[0]) for row in ODD])
async def test_what_agents_say(message: Any, lines: list[str], in_old: bool) -> None:
    """Whatever an agent says arrives as real servers send it; the oldest drop what is falsy."""
    for dialect, is_sent in (("1.1.3", True), ("1.0.8", in_old)):
        client = await chat(ToyRemote(dialect=dialect, default=Script([Say(message)]), pace=0), {})
        data = "".join(f"data: {line}\r\n" for line in lines).encode()
        assert any(data in chunk for chunk in client.chunks[1:-4]) == is_sent


async def test_own_framing() -> None:
    """An agent may choose the event name, the id and the retry of a message; 1.0.8 sends the message alone."""
    script = Script([Say("own", event="named", id="my-id-1", retry=1500)])
    new = (await chat(ToyRemote(default=script, pace=0), {})).chunks[1]
    old = (await chat(ToyRemote(dialect="1.0.8", default=script, pace=0), {})).chunks[1]
    assert new == b"id: my-id-1\r\nevent: named\r\ndata: own\r\nretry: 1500\r\n\r\n"
    assert old == b"data: own\r\n\r\n"


# ------------------------------------------------------------------------------------------------------------ Requests

TYPES: Final[list[tuple[Message, list[str] | None]]] = [
    # (the payload, the types of the messages that come)
    ({"query": "echo hi"}, ["tool_call", "observation", "answer"]),
    ({"query": "echo hi", "caller_category": "agent"}, ["tool_call", "observation"]),
    ({"query": "echo hi", "is_send_message": False}, []),
    ({"query": "silent"}, ["tool_call"]),
    ({"query": "fail"}, ["tool_call", "error"]),
    ({"query": "cut"}, ["tool_call", "progress"]),
    ({}, None),
]


@pytest.mark.parametrize(("payload", "types"), TYPES, ids=[str(row[0]) for row in TYPES])
async def test_what_a_payload_chooses(payload: Message, types: list[str] | None) -> None:
    """The first word of the query chooses the script; who asks, and for what, decides what is sent."""
    client = await chat(ToyRemote(pace=0), payload)
    told = [message["type"] for message in client.objects]
    wanted = types if types is not None else [message["type"] for message in (await trip()).objects]
    assert told == wanted
    closes = [event.data for event in client.events if event.event == "close"]
    assert closes == ([] if payload.get("query") == "cut" else ["done"])


HINT: Final = "Looking at flights and hotels for you."


async def trip() -> Client:
    """A run of the trip planner."""
    return await chat(ToyRemote(pace=0), {"query": "Plan a trip"})


async def test_the_trip() -> None:
    """The default script shows all there is: parallel, nested calls, thought, progress, text, error, heartbeat."""
    toy = ToyRemote(pace=0)
    client = await chat(toy, {"query": "Plan a trip"})
    messages = client.messages
    objects = client.objects
    types = {message["type"] for message in objects}
    assert types == {"tool_call", "observation", "answer", "stream", "stream_end", "think", "progress", "error"}
    assert HINT in messages
    assert 1 == sum(chunk.startswith(b": ping - 2026-01-01 ") for chunk in client.chunks) == toy.runs[0].pings
    stacks = {tuple(m["content"]["call_stack"]) for m in objects if m["type"] == "tool_call"}
    assert ("user", "trip_planner", "hotel_agent", "review_agent", "read_reviews") in stacks
    deltas = "".join(m["content"]["delta"] for m in objects if m["type"].startswith("stream"))
    assert objects[-1]["content"] == deltas


async def test_the_same_bytes() -> None:
    """Two remotes of one seed send the same bytes, whatever the pace; another seed has other ids."""
    first, second = await trip(), await chat(ToyRemote(pace=1e-9), {"query": "Plan a trip"})
    other = await chat(ToyRemote(pace=0, seed=1), {"query": "Plan a trip"})
    assert first.chunks == second.chunks
    assert first.chunks[0] != other.chunks[0]


async def test_what_the_client_gives() -> None:
    """Ids, stack and caller are taken from the payload; the record keeps it and the headers."""
    toy = ToyRemote(pace=0)
    payload = {
        "query": "echo hi",
        "current_trace_id": "trace-1",
        "request_id": "request-1",
        "node_id": "node-1",
        "caller": "front",
        "call_stack": ["user", "front"],
    }
    call, _, answer = (await chat(toy, payload)).messages
    run = toy.runs[0]
    expected = ("node-1", "front", ["user", "front", "trip_planner"], "request-1")
    content = call["content"]
    assert (content["node_id"], content["caller"], content["call_stack"], content["request_id"]) == expected
    assert answer["content"] == "hi"
    assert answer["current_trace_id"] == "trace-1"
    assert run.query == "echo hi"
    assert run.trace_id == "trace-1"
    assert run.callee == "trip_planner"
    assert run.state == "finished"
    assert run.payload == payload
    assert run.headers == {"x-test": "yes"}
    assert run.messages == [call, _, answer, "done"]


CALLEES: Final = [
    # (the callee, its category, its answer)
    ("hotel_agent", "agent", "Casa do Miradouro, €89 a night"),
    ("read_reviews", "tool", "212 reviews, 4.7 of 5"),
    ("trip_planner", "agent", TRIP.output),
    ("", "agent", TRIP.output),
    (None, "agent", TRIP.output),
]


@pytest.mark.parametrize(("callee", "category", "output"), CALLEES)
async def test_callees(callee: str | None, category: str, output: str) -> None:
    """Whoever is called by name does what it does in the default script; nobody in particular is the master."""
    toy = ToyRemote(pace=0)
    messages = (await chat(toy, {"query": "?", "callee": callee})).messages
    assert messages[0]["content"]["callee_category"] == category
    assert messages[-1]["content"] == output


async def test_a_callee_that_the_script_never_calls() -> None:
    """A member of the organization that the script leaves out does what the master does."""
    toy = ToyRemote(default=Script(output="the master's"), organization=MASTER, pace=0)
    assert (await chat(toy, {"query": "?", "callee": "leaf_agent"})).messages[-1]["content"] == "the master's"


async def test_a_lost_call() -> None:
    """A call may stay without observation; steps that begin together may be none."""
    script = Script([Call("add", [Together([])], lost=True)])
    types = [message["type"] for message in (await chat(ToyRemote(default=script, pace=0), {})).messages]
    assert types == ["tool_call", "tool_call", "observation", "answer"]


ENDLESS: Final = [{"callee": "nobody"}, {"query": "hang"}, {"query": ["no", "text"]}]


@pytest.mark.parametrize("payload", ENDLESS, ids=str)
async def test_what_never_ends(payload: Message) -> None:
    """An unknown callee, a query that is no text, and a task that died have heartbeats for ever, and no close."""
    client = Client(json.dumps(payload).encode(), leaves_after=8)
    toy = ToyRemote(heartbeat=0.001, pace=0)
    await request(toy, "POST", "/sse/chat", client)
    assert "close" not in [event.event for event in client.events]
    assert all(chunk.startswith(b": ping - ") for chunk in client.chunks[-5:])
    assert toy.runs[0].state == "cancelled"
    assert toy.runs[0].pings >= 5


@pytest.mark.parametrize("breaks", [False, True])
async def test_the_client_leaves(breaks: bool) -> None:
    """The run stops where it is when the client leaves, however the server tells of it; the record says so."""
    toy = ToyRemote(pace=0)
    client = Client(b'{"query": "slow"}', leaves_after=4, breaks=breaks)
    await request(toy, "POST", "/sse/chat", client)
    assert len(client.sent) == 4
    assert toy.runs[0].state == "cancelled"
    assert len(toy.runs[0].messages) <= 4


async def test_the_task_is_cancelled() -> None:
    """A server that cancels the run finds it cancelled in the record too."""
    toy = ToyRemote()
    with anyio.move_on_after(0):
        await chat(toy, {"query": "hang"})
    with anyio.CancelScope() as scope:
        scope.cancel()
        await chat(toy, {"query": "hang"})
    assert {run.state for run in toy.runs} == {"cancelled"}


async def test_pauses_take_time() -> None:
    """The pace multiplies the pauses; the heartbeat is not paced."""
    toy = ToyRemote(default=Script([Pause(1), Ping(), Pause(1)]), pace=0.01, heartbeat=0.006)
    start = anyio.current_time()
    client = await chat(toy, {})
    assert anyio.current_time() - start >= 0.02
    assert 4 == toy.runs[0].pings == sum(chunk.startswith(b":") for chunk in client.chunks)


# ----------------------------------------------------------------------------------------------------------- Documents

FIXTURES: Final = {
    "/get_organization": "get_organization",
    "/get_description": "get_description",
    "/get_agents": "get_agents",
    "/check_alive": "check_alive",
}


@pytest.mark.parametrize(("path", "name"), FIXTURES.items())
async def test_documents(path: str, name: str) -> None:
    """The documents have the keys of a real server's, and the toy's own members."""
    client = await request(ToyRemote(), "GET", path, Client())
    real, toys = json.loads((WIRE / f"v1.1.3_{name}.json").read_bytes()), json.loads(client.chunks[0])
    assert client.status == 200
    assert list(real) == list(toys)
    assert shape(real.get("data", {}).keys()) == shape(toys.get("data", {}).keys())
    if name == "get_organization":
        assert toys["data"]["organization"]["name"] == "trip_planner"
        assert toys["data"]["id_dict"] == {"trip_planner": 0, "flight_agent": 1, "hotel_agent": 2, "review_agent": 3}
        leaf = toys["data"]["organization"]["children"][1]["children"][1]["children"][0]
        assert leaf["path"] == ["trip_planner", "hotel_agent", "review_agent", "read_reviews"]
    if name == "get_agents":
        assert list(real["data"]["agents"][0]) == list(toys["data"]["agents"][0])


async def test_without_agents() -> None:
    """A remote without agents has the organization that real ones have then."""
    client = await request(ToyRemote(organization={}), "GET", "/get_organization", Client())
    assert json.loads((WIRE / "v1.1.3_noagent_get_organization.json").read_bytes()) == json.loads(client.chunks[0])


REFUSALS: Final = [
    # the method, the path, the dialect: the status
    ("GET", "/nowhere", "1.1.3", 404),
    ("GET", "/get_description", "1.0.8", 404),
    ("GET", "/get_agents", "1.0.8", 404),
    ("GET", "/get_organization", "1.0.8", 200),
    ("GET", "/check_alive", "1.0.8", 200),
    ("PUT", "/sse/chat", "1.1.3", 405),
    ("HEAD", "/sse/chat", "1.1.3", 405),
    ("POST", "/get_organization", "1.1.3", 405),
]


@pytest.mark.parametrize(("method", "path", "dialect", "status"), REFUSALS)
async def test_refusals(method: str, path: str, dialect: str, status: int) -> None:
    """What a release does not have is a 404, and a wrong method a 405, both in JSON."""
    client = await request(ToyRemote(dialect=dialect), method, path, Client())
    assert client.status == status
    if status != 200:
        name = {404: "wrong_path_404", 405: "sse_put_405"}[status]
        assert (WIRE / f"v1.1.3_{name}.json").read_bytes() == client.chunks[0]


BODIES: Final = [b"", b"{", b"[]", b'"x"', b"null", b'{"shared_data": null}', b"\xff"]


@pytest.mark.parametrize("body", BODIES)
async def test_bad_bodies(body: bytes) -> None:
    """What is no JSON object is a bare 500, as real servers have it; nothing runs."""
    toy = ToyRemote()
    client = await request(toy, "POST", "/sse/chat", Client(body))
    assert client.status == 500
    assert client.chunks == [b"Internal Server Error"]
    assert toy.runs == []


async def test_a_body_in_pieces_and_in_the_query_string() -> None:
    """A payload may come in several pieces, or by GET; a GET without one runs an empty query."""
    toy = ToyRemote(pace=0)
    pieces = await request(toy, "POST", "/sse/chat", Client(b'{"query": "echo in pieces"}', pieces_in=2))
    by_get = await request(toy, "GET", "/sse/chat", Client(), b"payload=%7B%22query%22%3A%20%22echo%20by%20get%22%7D")
    empty = await request(toy, "GET", "/sse/chat", Client())
    assert [each.messages[-1]["content"] for each in (pieces, by_get, empty)] == ["in pieces", "by get", TRIP.output]


async def test_the_lifespan() -> None:
    """A server may start it up and shut it down."""
    events = iter(["lifespan.startup", "lifespan.shutdown"])
    sent: list[Any] = []

    async def receive() -> Message:
        return {"type": next(events)}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await ToyRemote()({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_an_unknown_dialect() -> None:
    """Only releases whose wire is known are spoken."""
    with pytest.raises(ValueError, match=r"1\.1\.3.*1\.0\.8"):
        ToyRemote(dialect="2")


def test_scripts_compare() -> None:
    """A script is data: it compares by what it says, and its steps may come from anything iterable."""
    steps: list[AgentStep] = [Pause(1), Ping(), Cut(), Hang(), Close(), Think("x")]
    assert Script(steps) == Script(iter(steps))
    assert Together(steps) == Together(tuple(steps))
    assert SCRIPTS["trip"] is TRIP


# ------------------------------------------------------------------------------------------------------ With the client


def client_of(toy: ToyRemote, **options: Any) -> SSEOxyGent:
    """An agent that talks to the toy in process."""
    return SSEOxyGent(server_url="http://toy", transport=ASGITransport(toy), **options)


@pytest.mark.parametrize("dialect", ["1.1.3", "1.0.8"])
async def test_a_run_of_the_client(dialect: str) -> None:
    """The client understands a run of either dialect: every message once, the text, the answer."""
    toy = ToyRemote(dialect=dialect, pace=0)
    async with client_of(toy) as agent, agent.stream("Plan a trip") as run:
        events = [event async for event in run]
    assert [message for message in toy.runs[0].messages if message != "done"] == [event.message for event in events]
    assert TRIP.output == run.text == run.response.output
    assert toy.runs[0].state == "finished"
    assert run.remote_trace_id == toy.runs[0].trace_id


async def test_odd_messages_reach_the_client() -> None:
    """Nothing an agent says is lost on the way, and what it says with another type is no answer."""
    toy = ToyRemote(pace=0)
    async with client_of(toy) as agent, agent.stream("odd") as run:
        events = [event async for event in run]
    texts = [event.message for event in events if not isinstance(event.message, dict)]
    assert repr(texts) == "['two\\nlines', 'done', 42, [1, 2, {'three': None}], '', '', True, nan]"
    assert SCRIPTS["odd"].output == run.response.output
    assert any(isinstance(event, Custom) and event.type is None for event in events)


ENDS: Final[list[tuple[str, type[Exception]]]] = [
    ("fail", errors.RemoteAgentError),
    ("silent", errors.NoAnswerError),
    ("bye", errors.NoAnswerError),
    ("cut", errors.IncompleteStreamError),
    ("hang", errors.IdleTimeoutError),
]


@pytest.mark.parametrize(("query", "error"), ENDS)
async def test_ends_without_an_answer(query: str, error: type[Exception]) -> None:
    """However a run fails to answer, the client has a name for it. With a record, a quiet run is waited for."""
    toy = ToyRemote(pace=0, records=False)
    async with client_of(toy, timeouts=Timeouts(idle=0.05)) as agent:
        with pytest.raises(error):
            await agent.ask(query)


async def test_leaving_the_block() -> None:
    """Leaving the client's block stops the run of the remote."""
    toy = ToyRemote(pace=0)
    async with client_of(toy) as agent, agent.stream("hang") as run:
        async for _ in run:
            break
    assert [each.state for each in toy.runs] == ["cancelled"]


@pytest.mark.parametrize("dialect", ["1.1.3", "1.0.8"])
async def test_discovery(dialect: str) -> None:
    """The client finds the organization of either dialect, and the description where there is one."""
    toy = ToyRemote(dialect=dialect)
    agent = client_of(toy)
    async with agent:
        await agent.init()
        names = [child["name"] for child in agent.get_org()]
    assert names == ["flight_agent", "hotel_agent", "price_history", "add_up"]
    assert (toy.description if dialect == "1.1.3" else "") == agent.desc


def test_repr() -> None:
    """The repr says how it is set up, and leaves out its scripts."""
    assert repr(ToyRemote()).startswith(
        "ToyRemote(dialect='1.1.3', description='Plans trips with flights and hotels', pace=1"
    )


async def test_a_restart_of_an_unknown_call_hangs() -> None:
    """As a real 1.1.3 does."""
    toy = ToyRemote(pace=0)
    payload = {"query": "tools", "restart_node_id": "another"}
    request = HTTPRequest("POST", "http://127.0.0.1:1", "/sse/chat", body=json.dumps(payload).encode())
    async with ASGITransport(toy).exchange(request) as response:
        with anyio.move_on_after(0.05) as scope:
            async for _ in response.chunks:
                pass
    assert scope.cancelled_caught
    assert [run.messages for run in toy.runs] == [[]]


async def test_the_oldest_dialect_restarts_without_a_word() -> None:
    """It replaces the output, and sends no `re_run`."""
    toy = ToyRemote(pace=0, dialect="1.0.8")
    agent = client_of(toy)
    first = await agent.ask("tools")
    record = await agent.lookup(first.trace_id)
    assert record is not None
    node_id = next(node.node_id for node in record.nodes if node.callee == "search_flights")
    async with agent.restart(first.trace_id, node_id, output="99") as run:
        types = {event.type async for event in run}
    assert run.response.output == "99 20 HELLO"
    assert "re_run" not in types
