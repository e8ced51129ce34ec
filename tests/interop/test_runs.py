"""Large and concurrent runs, and turns: an answer of a megabyte, three turns, twenty callers with one trace id."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import anyio
import pytest

from oxygent_client import Cluster, OxyRequest, OxyState, Progress, SSEOxyGent

from .environments import RELEASES
from .harness import PATIENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from .harness import RemoteServer

pytestmark = pytest.mark.anyio


async def test_an_answer_of_a_megabyte(start_server: Callable[[str], RemoteServer]) -> None:
    """One event of a megabyte is received whole."""
    # A server of its own: the framework's local store writes all its content at every change, which slows other tests.
    server = start_server(RELEASES[0])
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        response = await agent.ask("big 1000000")

    assert response.output == "".join(f"{n:07d} " for n in range(125_000))


async def test_three_turns(server: RemoteServer) -> None:
    """Each turn refers to the one before it, and the third has the memory of the first two."""
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        first = await agent.ask("echo my name is Ada")
        second = await agent.ask("echo I like tea", from_trace_id=first.extra["remote_trace_id"])
        third = await agent.ask("memory", from_trace_id=second.extra["remote_trace_id"])
        stranger = await agent.ask("memory")

    assert third.output == {"asked": ["echo my name is Ada", "echo I like tea"], "answered": 2}
    assert stranger.output == {"asked": [], "answered": 0}


@pytest.mark.parametrize("way", ["stream", "ask", "execute"])
async def test_twenty_callers_with_one_trace_id(server: RemoteServer, way: str) -> None:
    """The server keys its queue by trace id; still each caller gets its own messages and answer only."""
    same = f"same-{uuid.uuid4().hex}"
    outputs: dict[str, object] = {}
    heard: dict[str, list[tuple[str, int]]] = {}
    remote: set[str] = set()

    async def call(agent: SSEOxyGent, tag: str) -> None:
        query = f"tagged {tag} 50"
        if way == "execute":
            response = await agent.execute(OxyRequest(current_trace_id=same, arguments={"query": query}))
        elif way == "ask":
            response = await agent.ask(query, trace_id=same)
        else:
            async with agent.stream(query, trace_id=same) as run:
                heard[tag] = [(e.content["tag"], e.content["n"]) async for e in run if isinstance(e, Progress)]
            assert run.trace_id == same
            response = run.response
        assert response.state is OxyState.COMPLETED
        outputs[tag] = response.output
        remote.add(response.extra["remote_trace_id"])

    tags = [f"t{n}" for n in range(20)]
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent, anyio.create_task_group() as tasks:
        for tag in tags:
            tasks.start_soon(call, agent, tag)

    assert {tag: tag for tag in tags} == outputs
    assert len(remote) == len(tags)
    if way == "stream":
        assert {tag: [(tag, n) for n in range(50)] for tag in tags} == heard
    for trace in remote:
        assert [r["event"] for r in server.records(trace_id=trace)] == ["started", "finished"]


@pytest.mark.parametrize("other", ["cluster", "localhost"])
async def test_two_agents_with_one_trace_id(server: RemoteServer, other: str) -> None:
    """Two agents that reach one server by different URLs each get their own answer with one trace id."""
    plain = SSEOxyGent(server_url=server.url, timeouts=PATIENT)
    ways = {
        "cluster": SSEOxyGent(transport=Cluster([server.url]), timeouts=PATIENT),
        "localhost": SSEOxyGent(server_url=server.url.replace("127.0.0.1", "localhost"), timeouts=PATIENT),
    }
    second = ways[other]
    outputs: dict[str, object] = {}

    async def ask(agent: SSEOxyGent, tag: str, trace_id: str) -> None:
        outputs[tag] = (await agent.ask(f"tagged {tag} 20", trace_id=trace_id)).output

    async with plain, second, anyio.create_task_group() as tasks:
        for number in range(8):
            trace_id = f"pair-{uuid.uuid4().hex}"
            tasks.start_soon(ask, plain, f"p{number}", trace_id)
            tasks.start_soon(ask, second, f"s{number}", trace_id)

    assert {f"{who}{number}": f"{who}{number}" for who in "ps" for number in range(8)} == outputs
