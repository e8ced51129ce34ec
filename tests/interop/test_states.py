"""What the wire of a real server does not say and its record does: how a run ended, and whether it ever began."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from oxygent_client import OxyRequest, OxyResponse, OxyState, SSEOxyGent, Timeouts, errors

from .cuts import Cut, line
from .environments import RELEASES
from .harness import PATIENT, UNRECORDED, unrecorded

if TYPE_CHECKING:
    from .harness import RemoteServer

pytestmark = [
    pytest.mark.anyio,
    # 1.0.8 has no way to stop a run, and is asked for its records in `test_records.py`.
    pytest.mark.parametrize("server", RELEASES[:2], indirect=True),
]

IMPATIENT: Final = Timeouts(idle=0.6, total=60.0)
STARTED: Final = errors.Outcome.STARTED


def failure(agent: str) -> str:
    """What real servers answer when `agent` raises."""
    return f"Error executing oxy {agent}: scripted failure"


# ------------------------------------------------------------------------------------------------------ How a run ended


async def both_ways(agent: SSEOxyGent, query: str) -> tuple[OxyResponse, errors.OxyError]:
    """What `execute` gives and what `ask` raises, of a run each, at the same time."""
    given: list[Any] = []

    async def execute() -> None:
        given.insert(0, await agent.execute(OxyRequest(arguments={"query": query})))

    async def ask() -> None:
        with pytest.raises(errors.OxyError) as caught:
            await agent.ask(query)
        given.append(caught.value)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(execute)
        tasks.start_soon(ask)
    response, error = given
    return response, error


@pytest.mark.parametrize(
    ("state", "output", "query"),
    [
        (OxyState.FAILED, failure("master"), "raise"),
        (OxyState.CANCELED, "Tool master was cancelled", "stopped"),
    ],
)
async def test_a_run_that_failed(server: RemoteServer, state: OxyState, output: str, query: str) -> None:
    """With `confirm_state` the state is the record's, and the output the agent's own words."""
    async with SSEOxyGent(server_url=server.url, confirm_state=True, timeouts=PATIENT) as agent:
        response, error = await both_ways(agent, query)

    assert (state, output) == (response.state, response.output)
    assert isinstance(error, errors.RemoteAgentError)
    assert (state, output, errors.Outcome.COMPLETED) == (error.state, error.output, error.outcome)
    assert output in str(error)


async def test_a_run_that_did_not_fail(server: RemoteServer) -> None:
    """With `confirm_state` a run that went well has gone well."""
    async with SSEOxyGent(server_url=server.url, confirm_state=True, timeouts=PATIENT) as agent:
        response = await agent.ask("tools")

    assert (OxyState.COMPLETED, "5 20 BOTH") == (response.state, response.output)
    assert "recovered" not in response.extra


@pytest.mark.parametrize("cut", [Cut(said=b'"type": "answer"'), Cut(said=b"event: close", reset=True)])
async def test_a_run_that_was_cut_after_its_end(server: RemoteServer, cut: Cut) -> None:
    """What was lost on its way is in the record: the answer, and that it was one."""
    query = f"echo {uuid.uuid4().hex}"
    async with line(server.port, cut) as way:
        response = await SSEOxyGent(server_url=way.url, timeouts=PATIENT).ask(query)
        assert way.cut == 1

    assert (OxyState.COMPLETED, query.split()[1]) == (response.state, response.output)
    assert response.extra["recovered"] is True
    assert 1 == len(server.records("started", query=query))


async def test_a_run_that_failed_and_was_cut(server: RemoteServer) -> None:
    """A failure that the wire would not have told is told by the record that was asked for the answer."""
    async with line(server.port, Cut(said=b'"type": "answer"')) as way:
        with pytest.raises(errors.RemoteAgentError) as caught:
            await SSEOxyGent(server_url=way.url, timeouts=PATIENT).ask("raise")

    assert (OxyState.FAILED, failure("master")) == (caught.value.state, caught.value.output)


# ---------------------------------------------------------------------------------------------- Whether it is under way


async def test_a_run_that_never_began(server: RemoteServer) -> None:
    """An unknown callee is known at the first look at the idle clock, and said to be what it is."""
    began = time.monotonic()
    agent = SSEOxyGent(server_url=server.url, callee="nobody", check_callee=False, timeouts=IMPATIENT)
    with pytest.raises(errors.IdleTimeoutError, match="never began"):
        await agent.ask("echo anyone?")

    assert time.monotonic() - began < 0.6 + 2.0


async def test_a_run_that_is_quiet(server: RemoteServer) -> None:
    """A run that is at work is waited for, however often the idle clock runs out."""
    response = await SSEOxyGent(server_url=server.url, timeouts=IMPATIENT).ask("quiet 1.5")

    assert (OxyState.COMPLETED, "quiet") == (response.state, response.output)


# ---------------------------------------------------------------------------------------------- Servers without records

without_records = pytest.mark.parametrize("kind", UNRECORDED)


async def test_a_failure_without_records(server: RemoteServer) -> None:
    """Nobody says that the agent failed, so its words are an answer, `confirm_state` or not."""
    answers: dict[str, OxyResponse] = {}

    async def ask(kind: str) -> None:
        answers[kind] = await unrecorded(kind, server.url, confirm_state=True, timeouts=PATIENT).ask("raise")

    async with anyio.create_task_group() as tasks:
        for kind in UNRECORDED:
            tasks.start_soon(ask, kind)

    assert {kind: (OxyState.COMPLETED, failure(agent)) for kind, (agent, _) in UNRECORDED.items()} == {
        kind: (response.state, response.output) for kind, response in answers.items()
    }


@without_records
async def test_silence_without_records(server: RemoteServer, kind: str) -> None:
    """Nobody says that the agent is at work, so `idle` ends it, and is not said to be more than it is."""
    with pytest.raises(errors.IdleTimeoutError) as caught:
        await unrecorded(kind, server.url, timeouts=IMPATIENT).ask("quiet 30")

    assert STARTED is caught.value.outcome
    assert "never began" not in str(caught.value)


@without_records
async def test_a_cut_without_records(server: RemoteServer, kind: str) -> None:
    """What was seen is all there is, and it is all there."""
    seen: list[Any] = []
    async with line(server.port, Cut(said=b'"step": 5}', further=40)) as way:
        agent = unrecorded(kind, way.url, timeouts=PATIENT)
        with pytest.raises(errors.IncompleteStreamError) as caught:
            async with agent.stream("slow 30") as run:
                async for event in run:
                    seen.append(event)  # noqa: PERF401  (what came before the error counts)

    assert STARTED is caught.value.outcome
    assert caught.value.partial is not None
    assert tuple(seen) == caught.value.partial.events
    steps = [event.content["step"] for event in seen if event.type == "progress"]
    assert [0, 1, 2, 3, 4] == steps[:5]
