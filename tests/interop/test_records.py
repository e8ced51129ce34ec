"""Records and services of real servers: records, feedback, uploads, health."""

from __future__ import annotations

import json
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from oxygent_client import HTTPRequest, HTTPXTransport, Limits, OxyState, errors
from oxygent_client._api.fetch import fetch_body
from oxygent_client._api.records import RunRecord, look_until
from oxygent_client._api.services import check_alive, feedback, start, upload
from oxygent_client._protocol.endpoints import PATHS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from .harness import RemoteServer

pytestmark = pytest.mark.anyio

LIMITS = Limits()
PATIENT = 30.0
"""Seconds for anything to happen; none should be needed."""


class Asking:
    """One server and one transport."""

    def __init__(self, server: RemoteServer, transport: HTTPXTransport) -> None:
        self.server = server
        self.transport = transport
        self.pattern = HTTPRequest("GET", server.url, "")
        self.until = anyio.current_time() + PATIENT

    def run(self, kind: str, query: str, trace_id: str, **fields: Any) -> HTTPRequest:
        """Return the POST of a run, attached ("run") or detached ("start")."""
        payload = {"query": query, "current_trace_id": trace_id, "is_send_message": True, **fields}
        headers = {"content-type": "application/json"}
        return HTTPRequest("POST", self.server.url, PATHS[kind], headers, json.dumps(payload).encode())

    async def stream(self, query: str, trace_id: str, **fields: Any) -> None:
        """Read an attached run to its end."""
        await fetch_body(self.transport, self.run("run", query, trace_id, **fields), LIMITS, until=self.until)

    async def record(
        self, trace_id: str, is_there: Callable[[RunRecord], bool] = lambda _: True, node_id: str = ""
    ) -> RunRecord:
        """Return the record once it fulfils the condition.

        Servers store it beside the run, and while the 1.0 releases write their store they may be unable to read it.
        """
        while True:
            found = await look_until(
                is_there, self.transport, self.pattern, trace_id, LIMITS, until=self.until, node_id=node_id
            )
            if found is not None and is_there(found):
                return found
            assert anyio.current_time() < self.until, f"the server says {found}"
            await anyio.sleep(0.02)


@asynccontextmanager
async def asking(server: RemoteServer) -> AsyncGenerator[Asking]:
    """Yield a transport for this server, closed afterwards."""
    transport = HTTPXTransport()
    try:
        yield Asking(server, transport)
    finally:
        await transport.aclose()


def ended(record: RunRecord) -> bool:
    """Return whether the run is over."""
    return record.state is not None


# ------------------------------------------------------------------------------------------------------------- Records

STATES = [
    ("echo hi", OxyState.COMPLETED, "hi"),
    ("memory", OxyState.COMPLETED, '{"asked": [], "answered": 0}'),
    ("raise", OxyState.FAILED, "Error executing oxy master: scripted failure"),
]


@pytest.mark.parametrize(("query", "state", "output"), STATES)
async def test_an_ended_run(server: RemoteServer, query: str, state: OxyState, output: str) -> None:
    """The record has the state of a run, even if the stream has not; it has JSON of an output that is not text."""
    trace = uuid.uuid4().hex
    async with asking(server) as ask:
        await ask.stream(query, trace)
        record = await ask.record(trace, ended)
    assert record.state == state
    assert record.output == output
    assert len(record.nodes) == 1


async def test_the_nodes(server: RemoteServer) -> None:
    """Each call has its node. The root's id and parent are those that the caller sent."""
    trace, node = uuid.uuid4().hex, uuid.uuid4().hex
    async with asking(server) as ask:
        await ask.stream("nested", trace, node_id=node, father_node_id="mine", call_stack=["user", "front"])
        record = await ask.record(trace, ended)
    assert record.state is OxyState.COMPLETED
    assert record.output == "master(middle(leaf(42)))"
    assert [(each.caller, each.callee, each.node_type, each.call_stack, each.output) for each in record.nodes] == [
        ("user", "master", "agent", ("user", "front", "master"), "master(middle(leaf(42)))"),
        ("master", "middle_agent", "agent", ("user", "front", "master", "middle_agent"), "middle(leaf(42))"),
        ("middle_agent", "leaf_agent", "agent", ("user", "front", "master", "middle_agent", "leaf_agent"), "leaf(42)"),
        ("leaf_agent", "add", "tool", ("user", "front", "master", "middle_agent", "leaf_agent", "add"), "42"),
    ]
    assert ["mine", *(each.node_id for each in record.nodes[:-1])] == [each.father_node_id for each in record.nodes]
    assert record.nodes[0].node_id == node


async def test_two_runs_with_one_trace_id(server: RemoteServer) -> None:
    """One trace id may have several runs: the latest is used, unless another is named."""
    trace, first, second = (uuid.uuid4().hex for _ in range(3))
    async with asking(server) as ask:
        for node, query in ((first, "echo one"), (second, "echo two")):
            await ask.stream(query, trace, node_id=node)
            await ask.record(trace, ended, node)
        found = [(await ask.record(trace, node_id=node)).output for node in ("", first, second, "another")]
    assert found == ["two", "one", "two", None]


async def test_a_run_that_is_left(server: RemoteServer) -> None:
    """A run in progress has nodes and no state; after its client left, it and its calls are CANCELED."""
    trace = uuid.uuid4().hex
    async with asking(server) as ask:
        async with ask.transport.exchange(ask.run("run", "quiet 30", trace)):
            running = await ask.record(trace, lambda record: bool(record.nodes))
        record = await ask.record(trace, ended)
    assert running.state is None
    assert running.output is None
    assert record.state is OxyState.CANCELED
    assert record.output == "Tool master was cancelled"


@pytest.mark.parametrize("callee", [None, "nobody"])
async def test_unknown_runs(server: RemoteServer, callee: str | None) -> None:
    """Neither an unknown trace nor an unknown callee has a node; such a detached run is accepted."""
    trace = uuid.uuid4().hex
    async with asking(server) as ask:
        if callee is not None:
            await start(ask.transport, ask.run("start", "echo", trace, callee=callee), LIMITS, until=ask.until)
        assert await ask.record(trace) == RunRecord(None, None, ())


# ------------------------------------------------------------------------------------------------------------ Services


async def test_a_detached_run(server: RemoteServer) -> None:
    """A detached run goes on without a reader, and its record has the answer."""
    trace = uuid.uuid4().hex
    async with asking(server) as ask:
        await start(ask.transport, ask.run("start", "echo later", trace), LIMITS, until=ask.until)
        record = await ask.record(trace, ended)
    assert record.state is OxyState.COMPLETED
    assert record.output == "later"


async def test_a_start_that_fails(server: RemoteServer) -> None:
    """A server that fails to read the request raises an error with outcome UNKNOWN."""
    async with asking(server) as ask:
        bad = HTTPRequest("POST", server.url, PATHS["start"], body=b"nonsense")
        with pytest.raises(errors.ServerError) as caught:
            await start(ask.transport, bad, LIMITS, until=ask.until)
    assert caught.value.outcome == errors.Outcome.UNKNOWN


async def test_feedback(server: RemoteServer) -> None:
    """An agent that asks the human gets all feedback until it is empty; then its channel is closed."""
    trace = uuid.uuid4().hex
    async with asking(server) as ask:
        if server.version == "1.0.8":
            with pytest.raises(errors.NotFoundError):
                await feedback(ask.transport, ask.pattern, trace, "yes", LIMITS, until=ask.until)
            return
        await start(ask.transport, ask.run("start", "human", trace), LIMITS, until=ask.until)
        await server.wait_for("started", within=PATIENT, trace_id=trace)
        for said in ("yes", {"a": [1, "ü"]}, ""):
            await _say_when_asked(ask, trace, said)
        record = await ask.record(trace, ended)
        # The server stores the record before it closes the channel.
        with pytest.raises(errors.EnvelopeError) as caught:
            while anyio.current_time() < ask.until:
                await feedback(ask.transport, ask.pattern, trace, "too late", LIMITS, until=ask.until)
                await anyio.sleep(0.02)
    assert record.state is OxyState.COMPLETED
    assert json.loads(record.output) == ["yes", {"a": [1, "ü"]}]
    assert caught.value.code == 400
    assert caught.value.outcome == errors.Outcome.REJECTED


async def _say_when_asked(ask: Asking, channel: str, said: Any) -> None:
    """Give feedback, repeatedly until the agent has opened the channel."""
    while True:
        try:
            return await feedback(ask.transport, ask.pattern, channel, said, LIMITS, until=ask.until)
        except errors.EnvelopeError:
            if anyio.current_time() > ask.until:
                raise
            await anyio.sleep(0.02)


async def test_alive(server: RemoteServer) -> None:
    """A server reports that it is alive."""
    async with asking(server) as ask:
        assert await check_alive(ask.transport, ask.pattern, LIMITS, until=ask.until)


CONTENT = bytes(range(256)) * 300 + b"\r\n--boundary--\r\n"


async def test_upload(server: RemoteServer) -> None:
    """A file arrives byte by byte, under a name that the server derives from ours."""
    async with asking(server) as ask:
        name = await upload(
            ask.transport, ask.pattern, "a b#ü.txt", CONTENT, LIMITS, until=ask.until, content_type="text/plain"
        )
    assert name.startswith("../static/")
    assert name.endswith("_a_b_ü.txt" if server.version == "1.1.3" else "_a b#ü.txt")
    (stored,) = server.directory.rglob(name.rpartition("/")[2])
    assert stored.read_bytes() == CONTENT


async def test_a_refused_file(newest: RemoteServer) -> None:
    """The newest release accepts some kinds of files only."""
    async with asking(newest) as ask:
        with pytest.raises(errors.StatusError, match="400") as caught:
            await upload(ask.transport, ask.pattern, "a.exe", b"", LIMITS, until=ask.until)
    assert caught.value.outcome == errors.Outcome.REJECTED
