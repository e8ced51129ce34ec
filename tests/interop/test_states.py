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
from .harness import PATIENT, RECORDED, UNRECORDED, unrecorded

if TYPE_CHECKING:
    from collections.abc import Callable

    from .harness import RemoteServer

pytestmark = [
    pytest.mark.anyio,
    # 1.0.8 has no way to stop a run, and is asked for its records in `test_records.py`.
    pytest.mark.parametrize("server", RELEASES[:2], indirect=True),
]

IMPATIENT: Final = Timeouts(idle=0.6, total=60.0)
WAITING: Final = Timeouts(idle=1.0, total=60.0)
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
@pytest.mark.parametrize("options", [{}, {"confirm_state": True}], ids=["auto", "always"])
async def test_a_run_that_failed(
    server: RemoteServer, state: OxyState, output: str, query: str, options: dict[str, Any]
) -> None:
    """The state is the record's, and the output the agent's own words."""
    async with SSEOxyGent(server_url=server.url, timeouts=RECORDED, **options) as agent:
        response, error = await both_ways(agent, query)

    assert response.state == state
    assert response.output == output
    assert isinstance(error, errors.RemoteAgentError)
    assert error.state == state
    assert error.output == output
    assert error.outcome == errors.Outcome.COMPLETED
    assert output in str(error)


async def test_a_run_that_failed_at_a_server_that_stalls(server: RemoteServer) -> None:
    """A blocking agent beside the run keeps the server from showing the record; the look-up goes on until it can."""
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


async def test_a_run_that_never_fails_costs_no_question(server: RemoteServer) -> None:
    """The answer of a run that went well is asked about by nobody."""
    before = len(server.records())
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        await agent.ask("echo fine")

    assert [r.get("path") for r in server.records("request", since=before)] == ["/sse/chat"]


@pytest.mark.parametrize("attached", [False, True], ids=["ask", "attach"])
@pytest.mark.parametrize(("query", "expected"), [("closed 42", "42"), ("closed", errors.NoAnswerError)])
async def test_a_run_that_closes_its_stream_itself(
    server: RemoteServer, query: str, expected: Any, attached: bool
) -> None:
    """The answer that never came is the record's, if it has one, whoever listens."""
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
async def test_a_look_right_after_the_answer(server: RemoteServer, stored: str) -> None:
    """The record that `lookup` gives has the end of the run, though it may lag behind the answer."""
    states: list[OxyState | None] = []
    async with SSEOxyGent(server_url=server.url, timeouts=RECORDED) as agent:
        for n in range(20):
            request = OxyRequest(arguments={"query": f"echo {n}", "stored": stored})
            response = await agent.ask(request)
            record = await agent.lookup(response.extra["trace_id"])
            states.append(None if record is None else record.state)

    assert states == [OxyState.COMPLETED] * 20


async def test_a_look_at_a_run_that_is_at_work(server: RemoteServer) -> None:
    """A run that has no end yet is not waited for longer than `Timeouts.lookup`."""
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent, agent.stream("quiet 30") as run:
        await anext(run)
        began = time.monotonic()
        record = await agent.lookup(run.trace_id)
        seconds = time.monotonic() - began

    assert record is not None
    assert record.state is None
    assert seconds < 10 * (Timeouts().lookup or 0)


async def test_a_run_that_did_not_fail(server: RemoteServer) -> None:
    """With `confirm_state` a run that went well has gone well."""
    async with SSEOxyGent(server_url=server.url, confirm_state=True, timeouts=PATIENT) as agent:
        response = await agent.ask("tools")

    assert response.state is OxyState.COMPLETED
    assert response.output == "5 20 BOTH"
    assert "recovered" not in response.extra


@pytest.mark.parametrize("cut", [Cut(said=b'"type": "answer"'), Cut(said=b"event: close", reset=True)])
async def test_a_run_that_was_cut_after_its_end(server: RemoteServer, cut: Cut) -> None:
    """What was lost on its way is in the record: the answer, and that it was one."""
    query = f"echo {uuid.uuid4().hex}"
    async with line(server.port, cut) as way:
        response = await SSEOxyGent(server_url=way.url, timeouts=RECORDED).ask(query)
        assert way.cut == 1

    assert response.state is OxyState.COMPLETED
    assert response.output == query.split()[1]
    assert response.extra["recovered"] is True
    assert len(server.records("started", query=query)) == 1


async def test_a_run_that_failed_and_was_cut(server: RemoteServer) -> None:
    """A failure that the wire would not have told is told by the record that was asked for the answer."""
    async with line(server.port, Cut(said=b'"type": "answer"')) as way:
        with pytest.raises(errors.RemoteAgentError) as caught:
            await SSEOxyGent(server_url=way.url, timeouts=RECORDED).ask("raise")

    assert caught.value.state is OxyState.FAILED
    assert caught.value.output == failure("master")


# ---------------------------------------------------------------------------------------------- Whether it is under way


async def test_a_run_that_never_began(server: RemoteServer) -> None:
    """An unknown callee is known at the first look at the idle clock; that it never began is not said."""
    began = time.monotonic()
    agent = SSEOxyGent(server_url=server.url, callee="nobody", check_callee=False, timeouts=IMPATIENT)
    with pytest.raises(errors.IdleTimeoutError, match="no record of the run"):
        await agent.ask("echo anyone?")

    assert time.monotonic() - began < 0.6 + 2.0


async def test_a_run_that_is_quiet(server: RemoteServer) -> None:
    """A run that is at work is waited for, when the idle clock runs out."""
    response = await SSEOxyGent(server_url=server.url, timeouts=WAITING).ask("quiet 1.5")

    assert response.state is OxyState.COMPLETED
    assert response.output == "quiet"


async def test_a_run_that_is_quiet_and_moves(server: RemoteServer) -> None:
    """A run whose record moves is waited for, however often the idle clock runs out."""
    response = await SSEOxyGent(server_url=server.url, timeouts=WAITING).ask("steps 7")

    assert response.state is OxyState.COMPLETED
    assert response.output == "steps"


@pytest.mark.parametrize("attached", [False, True], ids=["ask", "attach"])
async def test_a_run_that_died(server: RemoteServer, attached: bool) -> None:
    """The record of a run that died says for ever that it has no end; it does not move, and `idle` ends it."""
    agent = SSEOxyGent(server_url=server.url, timeouts=WAITING)
    run = agent.attach((await agent.start("unsendable")).to_token()) if attached else agent.stream("unsendable")
    began = time.monotonic()
    with pytest.raises(errors.IdleTimeoutError) as caught:
        async with run:
            await run.final_response()

    assert caught.value.outcome is STARTED
    assert time.monotonic() - began < 20


async def test_a_server_that_was_killed(start_server: Callable[[str], RemoteServer], server: RemoteServer) -> None:
    """A detached run whose server was killed and came back with its store ends at `idle`, not at `total`."""
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
    """Nobody says that the agent failed, so its words are an answer."""
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
async def test_certainty_without_records(server: RemoteServer, kind: str) -> None:
    """An answer that no record can confirm is an error with `confirm_state=True`, and the answer is in it."""
    agent = unrecorded(kind, server.url, confirm_state=True, timeouts=Timeouts(confirm=1))
    with pytest.raises(errors.UnconfirmedError) as caught:
        await agent.ask("echo sure?")

    assert caught.value.partial is not None
    assert caught.value.partial.answer == "sure?"
    assert caught.value.outcome is errors.Outcome.COMPLETED


@without_records
async def test_silence_without_records(server: RemoteServer, kind: str) -> None:
    """Nobody says that the agent is at work, so `idle` ends it, and is not said to be more than it is."""
    with pytest.raises(errors.IdleTimeoutError) as caught:
        await unrecorded(kind, server.url, timeouts=IMPATIENT).ask("quiet 30")

    assert caught.value.outcome is STARTED
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

    assert caught.value.outcome is STARTED
    assert caught.value.partial is not None
    assert tuple(seen) == caught.value.partial.events
    steps = [event.content["step"] for event in seen if event.type == "progress"]
    assert steps[:5] == [0, 1, 2, 3, 4]
