"""States of runs that only the server's record shows: failures, lost answers, and runs in progress."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from oxygent_client import OxyRequest, OxyResponse, OxyState, SSEOxyGent, Timeouts, errors

from .cuts import Cut, line
from .environments import RELEASES
from .harness import PATIENT, RECORDED, UNRECORDED, unrecorded

if TYPE_CHECKING:
    from collections.abc import Callable

    from .harness import RemoteServer

pytestmark = [
    pytest.mark.anyio,
    # 1.0.8 has no way to stop a run, and its records are tested in `test_records.py`.
    pytest.mark.parametrize("server", RELEASES[:2], indirect=True),
]

IMPATIENT: Final = Timeouts(idle=0.6, total=60.0)
WAITING: Final = Timeouts(idle=1.0, total=60.0)
STARTED: Final = errors.Outcome.STARTED


def failure(agent: str) -> str:
    """Return the answer of real servers when `agent` fails."""
    return f"Error executing oxy {agent}: scripted failure"


# --------------------------------------------------------------------------------------------------------------- States


async def both_ways(agent: SSEOxyGent, query: str) -> tuple[OxyResponse, errors.OxyError]:
    """Return the response of `execute` and the error of `ask`, of concurrent runs."""
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
@pytest.mark.parametrize("options", [{}, {"confirm_state": True}], ids=["auto", "always"])
async def test_a_failed_run(
    server: RemoteServer, state: OxyState, output: str, query: str, options: dict[str, Any]
) -> None:
    """The state is the record's, and the output the agent's own text."""
    async with SSEOxyGent(server_url=server.url, timeouts=RECORDED, **options) as agent:
        response, error = await both_ways(agent, query)

    assert response.state == state
    assert response.output == output
    assert isinstance(error, errors.RemoteAgentError)
    assert error.state == state
    assert error.output == output
    assert error.outcome == errors.Outcome.COMPLETED
    assert output in str(error)


async def test_a_failed_run_at_a_blocked_server(server: RemoteServer) -> None:
    """While a blocking agent delays the record, the record check is repeated."""
    stall = f"block 1.5 {uuid.uuid4().hex}"
    ended: tuple[OxyState | None, str] | None = None
    async with (
        SSEOxyGent(server_url=server.url, confirm_state=True, timeouts=PATIENT) as agent,
        anyio.create_task_group() as tasks,
        agent.stream("raise") as run,
    ):
        with pytest.raises(errors.RemoteAgentError) as caught:
            async for event in run:
                if event.type == "answer":
                    tasks.start_soon(agent.ask, stall)
                    await server.wait_for("started", within=10, query=stall)
        ended = caught.value.state, caught.value.output

    assert (OxyState.FAILED, failure("master")) == ended


async def test_a_successful_run_is_not_checked(server: RemoteServer) -> None:
    """The answer of a successful run is not checked."""
    before = len(server.records())
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        await agent.ask("echo fine")

    assert [r.get("path") for r in server.records("request", since=before)] == ["/sse/chat"]


@pytest.mark.parametrize("attached", [False, True], ids=["ask", "attach"])
@pytest.mark.parametrize(("query", "expected"), [("closed 42", "42"), ("closed", errors.NoAnswerError)])
async def test_a_run_that_ends_its_stream(server: RemoteServer, query: str, expected: Any, attached: bool) -> None:
    """An answer that was not sent is taken from the record, if it has one, for attached and detached runs."""
    async with SSEOxyGent(server_url=server.url, timeouts=RECORDED) as agent:
        run = agent.attach((await agent.start(query)).to_token()) if attached else agent.stream(query)
        found: Any
        try:
            async with run:
                found = (await run.final_response()).output
        except errors.NoAnswerError as error:
            found = type(error)

    assert found == expected


@pytest.mark.parametrize("stored", ["before", "by default"])
async def test_lookup_after_the_answer(server: RemoteServer, stored: str) -> None:
    """`lookup` waits for the end of the run in the record, which may lag behind the answer."""
    states: list[OxyState | None] = []
    async with SSEOxyGent(server_url=server.url, timeouts=RECORDED) as agent:
        for n in range(20):
            request = OxyRequest(arguments={"query": f"echo {n}", "stored": stored})
            response = await agent.ask(request)
            record = await agent.lookup(response.extra["trace_id"])
            states.append(None if record is None else record.state)

    assert states == [OxyState.COMPLETED] * 20


async def test_lookup_of_a_run_in_progress(server: RemoteServer) -> None:
    """`lookup` of a run in progress takes at most `Timeouts.lookup`."""
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent, agent.stream("quiet 30") as run:
        await anext(run)
        began = time.monotonic()
        record = await agent.lookup(run.trace_id)
        seconds = time.monotonic() - began

    assert record is not None
    assert record.state is None
    assert seconds < 10 * (Timeouts().lookup or 0)


async def test_confirm_state_of_a_successful_run(server: RemoteServer) -> None:
    """With `confirm_state` a successful run is a success."""
    async with SSEOxyGent(server_url=server.url, confirm_state=True, timeouts=PATIENT) as agent:
        response = await agent.ask("tools")

    assert response.state is OxyState.COMPLETED
    assert response.output == "5 20 BOTH"
    assert "recovered" not in response.extra


@pytest.mark.parametrize("cut", [Cut(said=b'"type": "answer"'), Cut(said=b"event: close", reset=True)])
async def test_a_cut_after_the_end(server: RemoteServer, cut: Cut) -> None:
    """An answer lost by a cut is recovered from the record, with its state."""
    query = f"echo {uuid.uuid4().hex}"
    async with line(server.port, cut) as way:
        response = await SSEOxyGent(server_url=way.url, timeouts=RECORDED).ask(query)
        assert way.cut == 1

    assert response.state is OxyState.COMPLETED
    assert response.output == query.split()[1]
    assert response.extra["recovered"] is True
    assert len(server.records("started", query=query)) == 1


async def test_a_cut_failed_run(server: RemoteServer) -> None:
    """A failure that the stream does not show is found by the record check after a cut."""
    async with line(server.port, Cut(said=b'"type": "answer"')) as way:
        with pytest.raises(errors.RemoteAgentError) as caught:
            await SSEOxyGent(server_url=way.url, timeouts=RECORDED).ask("raise")

    assert caught.value.state is OxyState.FAILED
    assert caught.value.output == failure("master")


# ----------------------------------------------------------------------------------------------------- Runs in progress


async def test_an_unknown_callee(server: RemoteServer) -> None:
    """A run of an unknown callee ends at the first check after `idle`, with outcome STARTED."""
    began = time.monotonic()
    agent = SSEOxyGent(server_url=server.url, callee="nobody", check_callee=False, timeouts=IMPATIENT)
    with pytest.raises(errors.IdleTimeoutError, match="no record of the run"):
        await agent.ask("echo anyone?")

    assert time.monotonic() - began < 0.6 + 2.0


async def test_a_quiet_run(server: RemoteServer) -> None:
    """A quiet run at work is waited for when `idle` expires."""
    response = await SSEOxyGent(server_url=server.url, timeouts=WAITING).ask("quiet 1.5")

    assert response.state is OxyState.COMPLETED
    assert response.output == "quiet"


async def test_a_quiet_run_whose_record_changes(server: RemoteServer) -> None:
    """A run whose record changes is waited for, however often `idle` expires."""
    response = await SSEOxyGent(server_url=server.url, timeouts=WAITING).ask("steps 7")

    assert response.state is OxyState.COMPLETED
    assert response.output == "steps"


@pytest.mark.parametrize("attached", [False, True], ids=["ask", "attach"])
async def test_a_dead_run(server: RemoteServer, attached: bool) -> None:
    """The record of a dead run has no end and does not change: `idle` ends it."""
    agent = SSEOxyGent(server_url=server.url, timeouts=WAITING)
    run = agent.attach((await agent.start("unsendable")).to_token()) if attached else agent.stream("unsendable")
    began = time.monotonic()
    with pytest.raises(errors.IdleTimeoutError) as caught:
        async with run:
            await run.final_response()

    assert caught.value.outcome is STARTED
    assert time.monotonic() - began < 20


async def test_a_killed_server(start_server: Callable[[str], RemoteServer], server: RemoteServer) -> None:
    """A detached run whose server was killed and restarted with its store ends at `idle`, not at `total`."""
    own = start_server(server.version)
    async with SSEOxyGent(server_url=own.url, timeouts=WAITING) as agent:
        handle = await agent.start("quiet 60")
        async with agent.attach(handle.to_token()) as run:
            await anext(run)
            own.kill()
            own.start_again()
            began = time.monotonic()
            with pytest.raises(errors.OxyError) as caught:
                await run.final_response()

    assert isinstance(caught.value, errors.IdleTimeoutError | errors.IncompleteStreamError)
    assert caught.value.outcome is STARTED
    assert time.monotonic() - began < 30


# ---------------------------------------------------------------------------------------------- Servers without records

without_records = pytest.mark.parametrize("kind", UNRECORDED)


async def test_a_failure_without_records(server: RemoteServer) -> None:
    """Without records a failed agent's text is the answer."""
    answers: dict[str, OxyResponse] = {}

    async def ask(kind: str) -> None:
        answers[kind] = await unrecorded(kind, server.url, timeouts=PATIENT).ask("raise")

    async with anyio.create_task_group() as tasks:
        for kind in UNRECORDED:
            tasks.start_soon(ask, kind)

    assert {kind: (OxyState.COMPLETED, failure(agent)) for kind, (agent, _) in UNRECORDED.items()} == {
        kind: (response.state, response.output) for kind, response in answers.items()
    }


@without_records
async def test_confirm_state_without_records(server: RemoteServer, kind: str) -> None:
    """With `confirm_state=True` and no record an error is raised, which carries the answer."""
    agent = unrecorded(kind, server.url, confirm_state=True, timeouts=Timeouts(confirm=1))
    with pytest.raises(errors.UnconfirmedError) as caught:
        await agent.ask("echo sure?")

    assert caught.value.partial is not None
    assert caught.value.partial.answer == "sure?"
    assert caught.value.outcome is errors.Outcome.COMPLETED


@without_records
async def test_a_quiet_run_without_records(server: RemoteServer, kind: str) -> None:
    """Without records `idle` ends a quiet run with the outcome so far."""
    with pytest.raises(errors.IdleTimeoutError) as caught:
        await unrecorded(kind, server.url, timeouts=IMPATIENT).ask("quiet 30")

    assert caught.value.outcome is STARTED
    assert "never began" not in str(caught.value)


@without_records
async def test_a_cut_without_records(server: RemoteServer, kind: str) -> None:
    """Without records a cut run raises an error with all events so far."""
    seen: list[Any] = []
    async with line(server.port, Cut(said=b'"step": 5}', further=40)) as way:
        agent = unrecorded(kind, way.url, timeouts=PATIENT)
        with pytest.raises(errors.IncompleteStreamError) as caught:
            async with agent.stream("slow 30") as run:
                async for event in run:
                    seen.append(event)  # noqa: PERF401  (what came before the error counts)

    assert caught.value.outcome is STARTED
    assert caught.value.partial is not None
    assert tuple(seen) == caught.value.partial.events
    steps = [event.content["step"] for event in seen if event.type == "progress"]
    assert steps[:5] == [0, 1, 2, 3, 4]
