"""Conversations, restarts, ratings and the welcome message of real servers."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from oxygent_client import Cluster, Custom, OxyState, SSEOxyGent, Trace, errors

from .harness import PATIENT

if TYPE_CHECKING:
    from oxygent_client import RunRecord

    from .harness import RemoteServer

pytestmark = pytest.mark.anyio

NUMBERS: Final = itertools.count(1)
"""For queries that are not used in another test."""
BY_DEFAULT: Final = {"stored": "by default"}
"""As servers store by default: beside the run, unless the request forbids it."""


async def test_a_turn_remembers_those_before(server: RemoteServer) -> None:
    """The third turn has the memory of the first two, and a failed turn is not in it."""
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT).conversation() as chat:
        await chat.ask("echo my name is Ada", arguments=BY_DEFAULT)
        with pytest.raises(errors.RemoteAgentError):
            await chat.ask("raise", arguments=BY_DEFAULT)
        async with chat.stream("echo I like tea", arguments=BY_DEFAULT) as run:
            await run.final_response()
        third = await chat.ask("memory", arguments=BY_DEFAULT)
    assert third.output == {"asked": ["echo my name is Ada", "echo I like tea"], "answered": 2}


async def test_a_token_and_a_branch(server: RemoteServer) -> None:
    """Another client continues from a token, reads the history from the records, and makes a branch."""
    first = SSEOxyGent(server_url=server.url, timeouts=PATIENT)
    chat = first.conversation()
    await chat.ask("echo one")
    await chat.ask("echo two")
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT).conversation(chat.to_token()) as later:
        history = await later.load_history()
        branch = await later.branch(0).ask("memory")
        whole = await later.ask("memory")
    assert [(turn.query, turn.output) for turn in history] == [("echo one", "one"), ("echo two", "two")]
    assert branch.output["asked"] == ["echo one"]
    assert whole.output["asked"] == ["echo one", "echo two"]


async def test_replicas_without_a_shared_storage(server: RemoteServer, newest: RemoteServer) -> None:
    """All turns go to the replica of the first."""
    agent = SSEOxyGent(transport=Cluster([server.url, f"{newest.url}/bare"]), timeouts=PATIENT)
    async with agent.conversation() as chat:
        await chat.ask("echo one")
        await chat.ask("echo two")
        third = await chat.ask("memory")
    assert third.output["asked"] == ["echo one", "echo two"]


def call_of(record: RunRecord | None, callee: str) -> str:
    """Return the node id of a call."""
    assert record is not None
    return next(node.node_id for node in record.nodes if node.callee == callee)


async def test_a_restart(server: RemoteServer) -> None:
    """The answer has the replaced output; the tool did not run again, but the calls after it did."""
    numbers = f"40 {next(NUMBERS)}"
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        first = await agent.ask(f"total {numbers}", arguments={"city": "Lisbon"})
        record = await agent.lookup(first.trace_id)
        before = len(server.records("tool", query=numbers))
        async with agent.restart(first.trace_id, call_of(record, "add"), output="99") as run:
            types = [event.type async for event in run if isinstance(event, Custom)]
        again = await agent.lookup(run.trace_id)
    assert first.output == f"THE SUM IS {sum(map(int, numbers.split()))}"
    assert run.response.output == "THE SUM IS 99"
    assert len(server.records("tool", query=numbers)) == before  # 1.0.13 may try a tool several times by itself
    assert types == (["re_run"] if server.version == "1.1.3" else [])
    assert again is not None
    assert again.state is OxyState.COMPLETED
    assert again.output == "THE SUM IS 99"


async def test_a_later_call_is_restarted(server: RemoteServer) -> None:
    """Calls before the restarted one are replayed from the record."""
    numbers = f"40 {next(NUMBERS)}"
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        first = await agent.ask(f"total {numbers}")
        record = await agent.lookup(first.trace_id)
        before = len(server.records("tool", query=numbers))
        async with agent.restart(first.trace_id, call_of(record, "shout"), output="hush") as run:
            response = await run.final_response()
    assert response.output == "hush"
    assert len(server.records("tool", query=numbers)) == before


async def test_a_call_of_another_server(server: RemoteServer) -> None:
    """A call of another server raises an error within a second, and nothing runs."""
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        first = await agent.ask("echo one")
        before = len(server.records("started"))
        with anyio.fail_after(1), pytest.raises(errors.UnknownNodeError):
            async with agent.restart(first.trace_id, "a-node-of-another-server", output="99"):
                pass
    assert len(server.records("started")) == before


async def test_the_times_of_a_record(server: RemoteServer) -> None:
    """Each call in the record has its start, its end and its arguments."""
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        first = await agent.ask("total 1 2")
        record = await agent.lookup(first.trace_id)
    assert record is not None
    assert record.root is not None
    assert record.root.arguments["query"] == "total 1 2"
    assert {node.callee: node.arguments for node in record.nodes}["add"] == {"a": 1, "b": 2}
    assert all(node.seconds is not None and node.seconds >= 0 for node in record.nodes)


async def test_a_trace(server: RemoteServer) -> None:
    """The tree of calls is the same from the events and from the record."""
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        async with agent.stream("nested") as run:
            response = await run.final_response()
        record = await agent.lookup(run.trace_id)
    assert record is not None
    seen, stored = run.trace(), record.trace()
    tree = [(call.depth, call.name, call.category, call.status) for call in seen.walk()]
    assert tree == [(call.depth, call.name, call.category, call.status) for call in stored.walk()]
    assert [name for _, name, _, _ in tree] == ["master", "middle_agent", "leaf_agent", "add"]
    assert {status for _, _, _, status in tree} == {"completed"}
    assert seen.output == response.output
    assert Trace.from_json(stored.to_json()) == stored


async def test_the_trace_of_a_tool_that_fails(server: RemoteServer) -> None:
    """The trace from the record has the failure that the events do not show."""
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        run = agent.stream("raise")
        with pytest.raises(errors.RemoteAgentError):
            async with run:
                await run.final_response()
        record = await agent.lookup(run.trace_id)
    assert record is not None
    assert (run.trace().status, record.trace().status) == ("failed", "failed")
    assert "scripted failure" in record.trace().error


async def test_rating_and_welcome(server: RemoteServer) -> None:
    """A rating is stored, in releases with ratings; the welcome message is the framework's."""
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        welcome = await agent.welcome()
        first = await agent.ask("echo one")
        if server.version == "1.0.8":
            with pytest.raises(errors.NotFoundError):
                await agent.rate(first.trace_id, "like")
        else:
            await agent.rate(first.trace_id, "like", "well done")
    assert welcome.message.startswith("Hi, I")
    assert welcome.first_queries == ()
