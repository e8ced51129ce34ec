"""The toy remote beside streams: detached runs, records, feedback and uploads.

Rule 1: the state is computed when it is requested, so each test sets when it requests it.
Rule 2: time is virtual.
"""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import quote

import anyio
import pytest

from oxygent_client.testing import ToyRemote
from oxygent_client.testing.script import Call, Close, Cut, Fail, Hang, Pause, Ping, Say, Script, Together
from tests.support.virtual import anyio_backend as anyio_backend
from tests.testing.test_toy import Client, Message, chat, request


def toy(script: Script, **options: Any) -> ToyRemote:
    """Return a remote with one script."""
    return ToyRemote(default=script, **options)


async def post(remote: ToyRemote, path: str, document: Any) -> Any:
    """Return the response to a POST."""
    client = await request(remote, "POST", path, Client(json.dumps(document).encode()))
    return json.loads(client.chunks[0])


async def start(remote: ToyRemote, **payload: Any) -> None:
    """Start a detached run, `t`."""
    started = await post(remote, "/async/chat", {"current_trace_id": "t", **payload})
    assert started == {"code": 200, "message": "SUCCESS", "data": {}}


async def read(remote: ToyRemote, seconds: float, trace_id: str = "t", **how: Any) -> Client:
    """Read a detached run for so long, then leave."""
    client = Client(json.dumps({"trace_id": trace_id, "timestamp": 0}).encode(), **how)
    async with anyio.create_task_group() as group:
        group.start_soon(request, remote, "POST", "/async/trace", client)
        await anyio.sleep(seconds)
        client.left.set()
    return client


async def view(remote: ToyRemote, item_id: str = "t") -> list[Message]:
    """Return the nodes of a run."""
    client = await request(remote, "GET", "/view", Client(), f"item_id={quote(item_id)}".encode())
    nodes: list[Message] = json.loads(client.chunks[0])["data"]["nodes"]
    return nodes


async def states(remote: ToyRemote) -> list[tuple[str, int | None, Any]]:
    """Return callee, state and output of each node."""
    return [(node["callee"], node["state"], node["output"]) for node in await view(remote)]


STEPS: Final = Script([step for n in range(10) for step in (Say(n + 1), Ping(), Pause(1))], output="at last")

# ------------------------------------------------------------------------------------------------------- Detached runs


async def test_the_stream() -> None:
    """A detached run that is read from its start has the messages of a direct one, and ends with `close`."""
    attached, detached = toy(STEPS), toy(STEPS)
    expected = await chat(attached, {"query": "?", "current_trace_id": "t"})
    await start(detached, query="?")
    client = await read(detached, 20)
    assert expected.events == client.events
    assert client.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert len(detached.runs) == 1
    assert detached.runs[0].state == "detached"
    assert len(detached.runs[0].messages) == 14


async def test_reading_again() -> None:
    """Messages are queued while no client reads, and none is repeated; after `close` there are heartbeats only."""
    remote = toy(STEPS)
    await start(remote)
    clients: list[Client] = []
    for seconds in (3.5, 2.0, 0.0, 10.0, 40.0):
        clients.append(await read(remote, seconds))
        await anyio.sleep(0.1)
    numbers = [[message for message in client.messages if isinstance(message, int)] for client in clients]
    assert numbers == [[1, 2, 3, 4], [5, 6], [], [7, 8, 9, 10], []]
    assert [event.event for event in clients[3].events][-1:] == ["close"]
    assert [len(clients[4].chunks), clients[4].chunks[0].decode()[:6]] == [2, ": ping"]


async def test_a_message_to_a_client_that_left() -> None:
    """A message written to a client that had left is lost, as with real servers."""
    remote = toy(STEPS)
    await start(remote)
    await anyio.sleep(5.5)
    for breaks in (False, True):
        await read(remote, 0.1, leaves_after=3, breaks=breaks)
    client = await read(remote, 20)
    # Two messages of each, and the one that it did not take: tool_call, 1, (2), 3, 4, (5).
    assert [message for message in client.messages if isinstance(message, int)] == [6, 7, 8, 9, 10]


async def test_two_readers() -> None:
    """Two readers share the messages, and only one of them gets the end."""
    remote = toy(STEPS)
    await start(remote)
    both: list[Client] = []

    async def one() -> None:
        both.append(await read(remote, 20))

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        group.start_soon(one)
    numbers = [message for client in both for message in client.messages if isinstance(message, int)]
    assert list(range(1, 11)) == sorted(numbers)
    assert sum(event.event == "close" for client in both for event in client.events) == 1


async def test_the_queue() -> None:
    """The queue holds 1,024 messages and drops the oldest; an unread run keeps only its time."""
    remote = toy(Script([Say(n + 1) for n in range(1500)]))
    await start(remote)
    client = await read(remote, 1)
    assert len(client.events) == 1024
    assert client.messages[0] == 1500 - 1021 + 1  # the observation, the answer and `close` wait too
    assert client.events[-1].event == "close"


@pytest.mark.parametrize("trace_id", ["unknown", "attached"])
async def test_nothing_to_read(trace_id: str) -> None:
    """An unknown trace gives endless heartbeats."""
    remote = ToyRemote(pace=0)
    await chat(remote, {"query": "echo hi", "current_trace_id": "attached"})
    client = await read(remote, 50, trace_id)
    assert [chunk.startswith(b": ping") for chunk in client.chunks] == [True] * 3


async def test_the_latest_run_is_read() -> None:
    """Of several detached runs of one trace, the latest is read."""
    remote = ToyRemote(pace=0)
    for query in ("echo one", "echo two"):
        await start(remote, query=query)
    assert (await read(remote, 1)).messages[-1]["content"] == "two"


async def test_a_detached_run_that_is_cut() -> None:
    """A run that is cut ends the stream cleanly without `close`."""
    remote = toy(Script([Say(1), Cut()]))
    await start(remote)
    client = await read(remote, 1)
    assert [client.chunks[-1], client.messages[-1]] == [b"", 1]


async def test_an_unknown_callee() -> None:
    """A run of an unknown callee is accepted, and sends nothing."""
    remote = ToyRemote(pace=0)
    await start(remote, callee="nobody")
    assert (await read(remote, 10)).chunks == []
    assert await view(remote) == []


NEEDS: Final = [
    ("/async/trace", b"{}"),
    ("/async/trace", b'{"trace_id": "t"}'),
    ("/async/trace", b'{"timestamp": 0}'),
    *((path, body) for path in ("/async/trace", "/async/chat", "/feedback") for body in (b"{", b"[]", b"")),
]


@pytest.mark.parametrize(("path", "body"), NEEDS)
async def test_bad_bodies(path: str, body: bytes) -> None:
    """A body that is not JSON, or lacks required fields, is a bare 500."""
    client = await request(ToyRemote(), "POST", path, Client(body))
    assert client.status == 500
    assert client.chunks == [b"Internal Server Error"]


# ------------------------------------------------------------------------------------------------------------- Records

WORK: Final = Script([Call("flight_agent", [Pause(2)], query="q", output={"a": 1}), Pause(2)], output="done")
LOST: Final = [("trip_planner", None, None), ("price_history", None, None)]

RECORDS: Final = [
    # the script, when it is looked up: callee, state and output
    (WORK, 1, [("trip_planner", None, None), ("flight_agent", None, None)]),
    (WORK, 3, [("trip_planner", None, None), ("flight_agent", 3, '{"a": 1}')]),
    (WORK, 5, [("trip_planner", 3, "done"), ("flight_agent", 3, '{"a": 1}')]),
    (Script([Fail("no luck")], output="never"), 0, [("trip_planner", 4, "Error executing oxy trip_planner: no luck")]),
    (
        Script([Call("add_up", [Fail()]), Pause(1)], output=42),
        1,
        [("trip_planner", 3, "42"), ("add_up", 4, "Error executing oxy add_up: scripted failure")],
    ),
    # An agent that ended the stream itself still ends; a server that died stores nothing more.
    (Script([Close(), Pause(1)], output="later"), 1, [("trip_planner", 3, "later")]),
    (Script([Pause(1), Call("price_history", [Hang()])]), 9, LOST),
    (Script([Call("price_history", [Cut()])]), 9, LOST),
]


@pytest.mark.parametrize(("script", "seconds", "expected"), RECORDS)
async def test_the_record(script: Script, seconds: float, expected: list[Any]) -> None:
    """The record has the state of each call at that time."""
    remote = toy(script)
    await start(remote)
    await anyio.sleep(seconds)
    assert await states(remote) == expected


async def test_the_record_of_a_run_that_is_left() -> None:
    """When the client leaves, ended calls keep their state; the others are cancelled."""
    remote = toy(Script([Call("add_up", [Pause(1)], output=5), Call("price_history", [Pause(5)])]))
    client = Client(b'{"current_trace_id": "t"}')
    async with anyio.create_task_group() as group:
        group.start_soon(request, remote, "POST", "/sse/chat", client)
        await anyio.sleep(2)
        assert [state for _, state, _ in await states(remote)] == [None, 3, None]
        client.left.set()
    await anyio.sleep(60)
    assert await states(remote) == [
        ("trip_planner", 7, "Tool trip_planner was cancelled"),
        ("add_up", 3, "5"),
        ("price_history", 7, "Tool price_history was cancelled"),
    ]


async def test_a_node() -> None:
    """A node has its parents and children, and the data of a real one: arguments and headers too."""
    remote = toy(Script([Call("add_up", query="1 + 1")]))
    payload = {"node_id": "r", "father_node_id": "f", "call_stack": ["user", "front"], "shared_data": {"key": 1}}
    await start(remote, query="sum", **payload)
    root, child = await view(remote)
    assert root["node_id"] == "r"
    assert root["father_node_id"] == "f"
    assert root["caller"] == "user"
    assert root["call_stack"] == ["user", "front", "trip_planner"]
    assert root["node_type"] == "agent"
    assert child["father_node_id"] == "r"
    assert child["caller"] == "trip_planner"
    assert child["node_type"] == "tool"
    assert json.loads(root["shared_data"]) == {"key": 1, "_headers": {"x-test": "yes"}}
    assert [json.loads(node["input"])["arguments"]["query"] for node in (root, child)] == ["sum", "1 + 1"]
    assert await view(remote, child["node_id"]) == [root, child]  # a node's id does as well


async def test_two_runs_of_one_trace() -> None:
    """The record has both runs in order; another trace is empty."""
    remote = ToyRemote(pace=0)
    for query in ("echo one", "echo two"):
        await chat(remote, {"query": query, "current_trace_id": "t"})
    await chat(remote, {"query": "echo three", "current_trace_id": "another"})
    assert [output for _, _, output in await states(remote)] == ["one", "two"]


WITHOUT: Final[list[tuple[str, str, bytes, dict[str, Any], int]]] = [
    ("GET", "/view", b"item_id=t", {"records": False}, 404),
    ("GET", "/view", b"", {}, 422),
    ("POST", "/view", b"item_id=t", {}, 405),
    ("GET", "/view", b"item_id=t", {"dialect": "1.0.8"}, 200),
    ("POST", "/async/trace", b"", {"dialect": "1.0.8"}, 404),
    ("POST", "/feedback", b"", {"dialect": "1.0.8"}, 404),
    ("GET", "/upload", b"", {}, 405),
    ("POST", "/rating", b"", {}, 422),
]


@pytest.mark.parametrize(("method", "path", "query", "options", "status"), WITHOUT)
async def test_missing_features(method: str, path: str, query: bytes, options: Any, status: int) -> None:
    """A remote may have no records, and an old one cannot read detached runs."""
    assert (await request(ToyRemote(**options), method, path, Client(), query)).status == status


# ------------------------------------------------------------------------------------------------------------- Failures


@pytest.mark.parametrize("dialect", ["1.1.3", "1.0.8"])
async def test_an_agent_that_raises(dialect: str) -> None:
    """A failed agent sends a normal answer with the framework's text; no later steps are sent."""
    remote = toy(Script([Say("before"), Fail(), Say("after")], output="never"), dialect=dialect)
    client = await chat(remote, {"query": "?"})
    text = "Error executing oxy trip_planner: scripted failure"
    call, before, observation, answer = client.messages
    assert call["type"] == "tool_call"
    assert before == "before"
    assert observation["content"]["output"] == text
    assert answer["content"] == text
    assert client.events[-1].event == "close"


async def test_a_part_that_raises() -> None:
    """If one of several calls fails, the others go on."""
    remote = toy(Script([Together([Call("add_up", [Fail("a")]), Call("price_history", output="b")])], output="both"))
    outputs = [each["content"]["output"] for each in (await chat(remote, {})).objects if each["type"] == "observation"]
    assert outputs == ["Error executing oxy add_up: a", "b", "both"]


async def test_the_script_raise() -> None:
    """`raise` is a script of the toy's library."""
    client = await chat(ToyRemote(pace=0), {"query": "raise"})
    assert client.messages[-1]["content"] == "Error executing oxy trip_planner: scripted failure"


# ------------------------------------------------------------------------------------------------- Feedback and uploads


async def test_feedback() -> None:
    """A run accepts feedback while it runs; its trace id is the channel."""
    remote = toy(STEPS)
    refused: Message = {"code": 400, "message": "illegal channel_id", "data": {}}
    assert await post(remote, "/feedback", {"channel_id": "t", "data": "too soon"}) == refused
    await start(remote)
    for said in ("yes", {"a": 1}, None):
        assert await post(remote, "/feedback", {"channel_id": "t", "data": said}) == {
            "code": 200,
            "message": "SUCCESS",
            "data": {},
        }
    await anyio.sleep(20)
    assert await post(remote, "/feedback", {"channel_id": "t", "data": "too late"}) == refused
    assert await post(remote, "/feedback", {}) == refused
    assert remote.runs[0].feedback == ["yes", {"a": 1}, None]


def form(name: str, *, field: str = "file") -> bytes:
    """Return a form with one file."""
    head = f'--b\r\ncontent-disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    return head.encode() + b"con\r\n--tent" + b"\r\n--b--\r\n"


UPLOADS: Final = [
    # the file's name, the dialect: the stored name, or the error
    ("a b#ü.TXT", "1.1.3", "../static/20260101000000_a_b_ü.txt"),
    ("a b#ü.TXT", "1.0.8", "../static/20260101000000_a b#ü.TXT"),
    ("x.exe", "1.0.8", "../static/20260101000000_x.exe"),
    ("x.EXE", "1.1.3", "File type '.exe' is not allowed."),
    ("none", "1.1.3", "File type '' is not allowed."),
    (".txt", "1.1.3", "File type '' is not allowed."),
]


@pytest.mark.parametrize(("name", "dialect", "expected"), UPLOADS)
async def test_upload(name: str, dialect: str, expected: str) -> None:
    """The newest release accepts some kinds of files under a safe name; the oldest accepts all unchanged."""
    remote = ToyRemote(dialect=dialect)
    client = await uploaded(remote, form(name))
    said = json.loads(client.chunks[0])
    if expected.startswith("File"):
        assert client.status == 400
        assert said == {"detail": expected}
        assert remote.files == {}
    else:
        assert said["data"]["file_name"] == expected
        assert remote.files == {expected: b"con\r\n--tent"}


@pytest.mark.parametrize("body", [b"", b"nonsense", form("a.txt", field="other")])
async def test_an_upload_without_a_file(body: bytes) -> None:
    """A form without the file is a 422."""
    client = await uploaded(ToyRemote(), body)
    assert client.status == 422
    assert json.loads(client.chunks[0])["detail"][0]["type"] == "missing"


async def uploaded(remote: ToyRemote, body: bytes) -> Client:
    """Upload a file, and return the client."""
    client = Client(body)
    scope: Message = {
        "type": "http",
        "method": "POST",
        "path": "/upload",
        "query_string": b"",
        "headers": [(b"content-type", b"multipart/form-data; boundary=b")],
    }
    await remote(scope, client.receive, client.send)
    return client
