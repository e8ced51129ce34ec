"""The toy remote: the bytes of real servers, from a script, on both event loops.

Rule 1: the oracle is recordings of real servers (`fixtures/wire`); names, ids and times are the toy's own.
Rule 2: pauses have pace 0, or are milliseconds where time is tested.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, cast

import anyio
import pytest
from attrs import define, field

from oxygent_client import Custom, Decoder, HTTPRequest, ServerSentEvent, SSEOxyGent, Timeouts, errors
from oxygent_client._protocol.endpoints import PATHS
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

# ------------------------------------------------------------------------------------------------------- An ASGI client


@define
class Client:
    """An ASGI client: keeps the messages, and leaves when told to."""

    body: bytes = b"{}"
    pieces_in: int = 1
    leaves_after: float = math.inf
    """The number of messages after which the client leaves."""
    breaks: bool = False
    """Whether leaving is seen by `send` (an OSError) instead of `receive`."""
    sent: list[Message] = field(factory=list[Message])
    left: anyio.Event = field(factory=anyio.Event)

    async def receive(self) -> Message:
        """Return the request in chunks, then wait until the client leaves."""
        if self.pieces_in:
            self.pieces_in -= 1
            half = len(self.body) // 2 if self.pieces_in else len(self.body)
            piece, self.body = self.body[:half], self.body[half:]
            return {"type": "http.request", "body": piece, "more_body": bool(self.pieces_in)}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        """Keep a message."""
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
        """The chunks of the body."""
        return [message["body"] for message in self.sent[1:]]

    @property
    def events(self) -> list[ServerSentEvent]:
        """The events of the body."""
        decoder = Decoder()
        return [event for chunk in self.chunks for event in decoder.feed(chunk)]

    @property
    def objects(self) -> list[Message]:
        """The messages that are objects."""
        return [cast("Message", message) for message in self.messages if isinstance(message, dict)]

    @property
    def messages(self) -> list[Any]:
        """The data of each event but `close`, decoded if it is JSON."""
        return [_json_or_text(event.data) for event in self.events if event.event != "close"]


def _json_or_text(data: str) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data


async def request(toy: ToyRemote, method: str, path: str, client: Client, query_string: bytes = b"") -> Client:
    """Serve one request by the toy, and return the client."""
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
    """Serve a run with this `payload`, and return the client."""
    return await request(toy, "POST", "/sse/chat", Client(json.dumps(payload).encode()))


def captured(name: str) -> list[ServerSentEvent]:
    """Return the bytes of a recording."""
    return Decoder().feed((WIRE / f"{name}.sse").read_bytes())


def shape(value: Any) -> Any:
    """Return the keys of a message in order, with types in place of values."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in cast("Message", value).items()}
    return type(value).__name__


def outline(events: list[ServerSentEvent]) -> list[Any]:
    """Return the framing and the outline of the message of each event."""
    framing = [(event.event, len(event.id or ""), event.retry) for event in events]
    shapes = [shape(_json_or_text(event.data)) for event in events]
    ordered = [json.dumps(each, sort_keys=False) for each in shapes]
    return list(zip(framing, ordered, strict=True))


# ----------------------------------------------------------------------------------------------------------- Recordings

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
    # (the recording, its release, the same in the script language, the query)
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
async def test_recordings(name: str, dialect: str, script: Script, query: str) -> None:
    """The same script gives the events of a real server: framing, keys in order, types and texts."""
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
    """A text is sent as `stream` events and one `stream_end`; together they give the text with its white space."""
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
    """Each event is one chunk with CRLF line ends, and the last is `close`."""
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
    # (a message of an agent, its data lines in 1.1.3, whether 1.0.8 sends it)
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


@pytest.mark.parametrize("dialect", ["1.1.3", "1.0.8"])
@pytest.mark.parametrize(("message", "lines", "in_old"), ODD, ids=[repr(row[0]) for row in ODD])
async def test_messages_of_agents(message: Any, lines: list[str], in_old: bool, dialect: str) -> None:
    """A message of an agent is sent as by real servers; the oldest drops false values."""
    client = await chat(ToyRemote(dialect=dialect, default=Script([Say(message)]), pace=0), {})
    data = "".join(f"data: {line}\r\n" for line in lines).encode()
    assert any(data in chunk for chunk in client.chunks[1:-4]) == (in_old or dialect == "1.1.3")


async def test_own_framing() -> None:
    """An agent may set the event name, id and retry of a message; 1.0.8 ignores them."""
    script = Script([Say("own", event="named", id="my-id-1", retry=1500)])
    new = (await chat(ToyRemote(default=script, pace=0), {})).chunks[1]
    old = (await chat(ToyRemote(dialect="1.0.8", default=script, pace=0), {})).chunks[1]
    assert new == b"id: my-id-1\r\nevent: named\r\ndata: own\r\nretry: 1500\r\n\r\n"
    assert old == b"data: own\r\n\r\n"


# ------------------------------------------------------------------------------------------------------------ Requests

TYPES: Final[list[tuple[Message, list[str] | None]]] = [
    # (the payload, the types of the messages)
    ({"query": "echo hi"}, ["tool_call", "observation", "answer"]),
    ({"query": "echo hi", "caller_category": "agent"}, ["tool_call", "observation"]),
    ({"query": "echo hi", "is_send_message": False}, []),
    ({"query": "silent"}, ["tool_call"]),
    ({"query": "fail"}, ["tool_call", "error"]),
    ({"query": "cut"}, ["tool_call", "progress"]),
    ({}, None),
]


@pytest.mark.parametrize(("payload", "types"), TYPES, ids=[str(row[0]) for row in TYPES])
async def test_payloads(payload: Message, types: list[str] | None) -> None:
    """The first word of the query selects the script; caller and callee decide which messages are sent."""
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
    """The default script has parallel and nested calls, thought, progress, text, error and heartbeat."""
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
    """Remotes with one seed send the same bytes at any pace; another seed has other ids."""
    first, second = await trip(), await chat(ToyRemote(pace=1e-9), {"query": "Plan a trip"})
    other = await chat(ToyRemote(pace=0, seed=1), {"query": "Plan a trip"})
    assert first.chunks == second.chunks
    assert first.chunks[0] != other.chunks[0]


async def test_ids_of_the_payload() -> None:
    """Ids, stack and caller are taken from the payload; the record has it and the headers."""
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
    """A callee does its part of the default script; without a callee the master runs."""
    toy = ToyRemote(pace=0)
    messages = (await chat(toy, {"query": "?", "callee": callee})).messages
    assert messages[0]["content"]["callee_category"] == category
    assert messages[-1]["content"] == output


async def test_a_callee_outside_the_script() -> None:
    """A member of the organization that is not in the script acts as the master."""
    toy = ToyRemote(default=Script(output="the master's"), organization=MASTER, pace=0)
    assert (await chat(toy, {"query": "?", "callee": "leaf_agent"})).messages[-1]["content"] == "the master's"


async def test_a_lost_call() -> None:
    """A call may have no observation, and a parallel step may have no calls."""
    script = Script([Call("add", [Together([])], lost=True)])
    types = [message["type"] for message in (await chat(ToyRemote(default=script, pace=0), {})).messages]
    assert types == ["tool_call", "tool_call", "observation", "answer"]


ENDLESS: Final = [{"callee": "nobody"}, {"query": "hang"}, {"query": ["no", "text"]}]


@pytest.mark.parametrize("payload", ENDLESS, ids=str)
async def test_endless_runs(payload: Message) -> None:
    """An unknown callee, a query that is not text, and a dead task give endless heartbeats without close."""
    client = Client(json.dumps(payload).encode(), leaves_after=8)
    toy = ToyRemote(heartbeat=0.001, pace=0)
    await request(toy, "POST", "/sse/chat", client)
    assert "close" not in [event.event for event in client.events]
    assert all(chunk.startswith(b": ping - ") for chunk in client.chunks[-5:])
    assert toy.runs[0].state == "cancelled"
    assert toy.runs[0].pings >= 5


@pytest.mark.parametrize("breaks", [False, True])
async def test_the_client_leaves(breaks: bool) -> None:
    """A run stops when the client leaves, by either signal, and its record has it."""
    toy = ToyRemote(pace=0)
    client = Client(b'{"query": "slow"}', leaves_after=4, breaks=breaks)
    await request(toy, "POST", "/sse/chat", client)
    assert len(client.sent) == 4
    assert toy.runs[0].state == "cancelled"
    assert len(toy.runs[0].messages) <= 4


async def test_the_task_is_cancelled() -> None:
    """A run that the server cancels is cancelled in its record."""
    toy = ToyRemote()
    with anyio.move_on_after(0):
        await chat(toy, {"query": "hang"})
    with anyio.CancelScope() as scope:
        scope.cancel()
        await chat(toy, {"query": "hang"})
    assert {run.state for run in toy.runs} == {"cancelled"}


async def test_pace() -> None:
    """The pace scales the pauses, not the heartbeats."""
    toy = ToyRemote(default=Script([Pause(1), Ping(), Pause(1)]), pace=0.01, heartbeat=0.006)
    start = anyio.current_time()
    client = await chat(toy, {})
    assert anyio.current_time() - start >= 0.019  # a clock of uvloop has milliseconds
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
    """The documents have the keys of a real server's, and the toy's members."""
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


@pytest.mark.parametrize("path", PATHS.values())
async def test_each_path_of_the_client(path: str) -> None:
    """The toy knows each path that the client uses, and has a response for it."""
    client = await request(ToyRemote(pace=0), "GET", path, Client())
    assert client.status != 404
    assert client.chunks


async def test_without_agents() -> None:
    """A remote without agents has the same organization as a real one."""
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
    """A path that a release lacks is a 404, and a wrong method a 405, both in JSON."""
    client = await request(ToyRemote(dialect=dialect), method, path, Client())
    assert client.status == status
    if status != 200:
        name = {404: "wrong_path_404", 405: "sse_put_405"}[status]
        assert (WIRE / f"v1.1.3_{name}.json").read_bytes() == client.chunks[0]


BODIES: Final = [b"", b"{", b"[]", b'"x"', b"null", b'{"shared_data": null}', b"\xff"]


@pytest.mark.parametrize("body", BODIES)
async def test_bad_bodies(body: bytes) -> None:
    """A body that is not a JSON object is a bare 500, as with real servers, and nothing runs."""
    toy = ToyRemote()
    client = await request(toy, "POST", "/sse/chat", Client(body))
    assert client.status == 500
    assert client.chunks == [b"Internal Server Error"]
    assert toy.runs == []


async def test_body_in_chunks_and_by_get() -> None:
    """A payload may come in several chunks, or by GET; a GET without one runs an empty query."""
    toy = ToyRemote(pace=0)
    pieces = await request(toy, "POST", "/sse/chat", Client(b'{"query": "echo in pieces"}', pieces_in=2))
    by_get = await request(toy, "GET", "/sse/chat", Client(), b"payload=%7B%22query%22%3A%20%22echo%20by%20get%22%7D")
    empty = await request(toy, "GET", "/sse/chat", Client())
    assert [each.messages[-1]["content"] for each in (pieces, by_get, empty)] == ["in pieces", "by get", TRIP.output]


async def test_the_lifespan() -> None:
    """The ASGI lifespan is supported."""
    events = iter(["lifespan.startup", "lifespan.shutdown"])
    sent: list[Any] = []

    async def receive() -> Message:
        return {"type": next(events)}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await ToyRemote()({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_an_unknown_dialect() -> None:
    """Only releases with a known protocol are accepted."""
    with pytest.raises(ValueError, match=r"1\.1\.3.*1\.0\.8"):
        ToyRemote(dialect="2")


def test_scripts_compare() -> None:
    """Scripts compare by content, and take any iterable of steps."""
    steps: list[AgentStep] = [Pause(1), Ping(), Cut(), Hang(), Close(), Think("x")]
    assert Script(steps) == Script(iter(steps))
    assert Together(steps) == Together(tuple(steps))
    assert SCRIPTS["trip"] is TRIP


# ----------------------------------------------------------------------------------------------------------- The client


def client_of(toy: ToyRemote, **options: Any) -> SSEOxyGent:
    """Return an agent that uses the toy in process."""
    return SSEOxyGent(server_url="http://toy", transport=ASGITransport(toy), **options)


@pytest.mark.parametrize("dialect", ["1.1.3", "1.0.8"])
async def test_a_run_of_the_client(dialect: str) -> None:
    """The client reads a run of each dialect: all messages, the text, the answer."""
    toy = ToyRemote(dialect=dialect, pace=0)
    async with client_of(toy) as agent, agent.stream("Plan a trip") as run:
        events = [event async for event in run]
    assert [message for message in toy.runs[0].messages if message != "done"] == [event.message for event in events]
    assert TRIP.output == run.text == run.response.output
    assert toy.runs[0].state == "finished"
    assert run.remote_trace_id == toy.runs[0].trace_id


async def test_odd_messages_reach_the_client() -> None:
    """No message of an agent is lost, and messages of other types are no answer."""
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
    """Each end without an answer has its own error; with a record, a quiet run is waited for."""
    toy = ToyRemote(pace=0, records=False)
    async with client_of(toy, timeouts=Timeouts(idle=0.05)) as agent:
        with pytest.raises(error):
            await agent.ask(query)


async def test_leaving_the_block() -> None:
    """Leaving the client's block stops the run at the remote."""
    toy = ToyRemote(pace=0)
    async with client_of(toy) as agent, agent.stream("hang") as run:
        async for _ in run:
            break
    assert [each.state for each in toy.runs] == ["cancelled"]


@pytest.mark.parametrize("dialect", ["1.1.3", "1.0.8"])
async def test_discovery(dialect: str) -> None:
    """The client discovers the organization of each dialect, and the description if there is one."""
    toy = ToyRemote(dialect=dialect)
    agent = client_of(toy)
    async with agent:
        await agent.init()
        names = [child["name"] for child in agent.get_org()]
    assert names == ["flight_agent", "hotel_agent", "price_history", "add_up"]
    assert (toy.description if dialect == "1.1.3" else "") == agent.desc


def test_repr() -> None:
    """The repr has the settings without the scripts."""
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
