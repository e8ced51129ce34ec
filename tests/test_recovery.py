"""What a run makes of the server's own record, where its stream leaves something open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest

from oxygent_client import Outcome, OxyRequest, OxyState, RunRecord, SSEOxyGent, Timeouts, errors
from oxygent_client.testing import FakeTransport, Pause, Reply, answer, close, heartbeat, pause, progress
from tests.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Iterable

URL: Final = "https://remote.test"
REQUEST: Final = OxyRequest(arguments={"query": "hi"}, node_id="n")
FOREVER: Final = Pause(float("inf"))
PINGS: Final = (heartbeat(), pause(15)) * 300


def record(state: int | None, output: Any = None, **more: Any) -> Reply:
    """What a server answers to `/view` whose run is in this state."""
    root = {
        "node_id": "n",
        "caller": "user",
        "callee": "master",
        "father_node_id": "",
        "call_stack": ["user", "master"],
    }
    return view({**root, "state": state, "output": output, "input": {"query": "SECRET"}, **more})


def view(*nodes: dict[str, Any]) -> Reply:
    """A record with these nodes."""
    return Reply.json({"code": 200, "message": "SUCCESS", "data": {"nodes": [*nodes], "trace_id": "t"}})


NOTHING: Final = view()
RUNNING, DONE, FAILED, CANCELLED = record(None), record(3, "42"), record(4, "it broke"), record(7, "Tool was cancelled")
NO_RECORDS: Final = Reply.json({"detail": "Not Found"}, status=404)


@attrs.frozen
class Ended:
    """How a run ended: its output or its error, and what is known of it."""

    what: Any
    outcome: Outcome
    looks: int
    seconds: float
    recovered: bool = False


async def end(*steps: Any, records: Reply | Iterable[Reply], before: Any = None, **options: Any) -> Ended:
    """How a run with this stream ends at a server with these records."""
    run_reply = Reply(steps, before=before) if not isinstance(before, Reply) else before
    transport = FakeTransport({"/sse/chat": run_reply, "/view": records})
    agent = SSEOxyGent(server_url=URL, transport=transport, **options)
    run = agent.stream(REQUEST)
    began = anyio.current_time()
    what: Any
    recovered = False
    try:
        async with run:
            response = await run.final_response()
        what, recovered = response.output, response.extra.get("recovered", False)
    except errors.OxyError as error:
        what, known = type(error), error.outcome
    else:
        known = run.outcome
    assert run.outcome is known
    assert 1 == len(transport.payloads)
    assert len(transport.left) == len(transport.requests)
    looks = sum(request.path.startswith("/view?item_id=") for request in transport.requests)
    return Ended(what, run.outcome, looks, round(anyio.current_time() - began, 2), recovered)


INCOMPLETE, IDLE = errors.IncompleteStreamError, errors.IdleTimeoutError
AGENT: Final = errors.RemoteAgentError
UNKNOWN, STARTED, COMPLETED = Outcome.UNKNOWN, Outcome.STARTED, Outcome.COMPLETED
LOST: Final = errors.ConnectionLostError("reset")

CUTS: Final[dict[str, tuple[Ended, tuple[Any, ...], Any, Any]]] = {
    # name: (how it ends, the stream, the records, what is in the place of the stream)
    "finished": (Ended("42", COMPLETED, 1, 0, recovered=True), (progress(1),), DONE, None),
    "finished a moment later": (
        Ended("42", COMPLETED, 3, 0.15, recovered=True),
        (progress(1),),
        [RUNNING, RUNNING, DONE],
        None,
    ),
    "finished, cut by a reset": (Ended("42", COMPLETED, 1, 0, recovered=True), (progress(1), LOST), DONE, None),
    "finished, before its headers": (Ended("42", COMPLETED, 1, 0, recovered=True), (), DONE, LOST),
    "failed": (Ended(AGENT, COMPLETED, 1, 0), (progress(1),), FAILED, None),
    "failed, before its headers": (Ended(AGENT, COMPLETED, 1, 0), (), FAILED, LOST),
    "cancelled, since it was cut": (Ended(INCOMPLETE, STARTED, 1, 0), (progress(1),), CANCELLED, None),
    "running": (Ended(INCOMPLETE, STARTED, 4, 0.35), (progress(1),), RUNNING, None),
    "running, nothing came": (Ended(INCOMPLETE, STARTED, 4, 0.35), (heartbeat(),), RUNNING, None),
    "running, before its headers": (Ended(errors.ConnectionLostError, STARTED, 4, 0.35), (), RUNNING, LOST),
    "never seen": (Ended(INCOMPLETE, UNKNOWN, 4, 0.35), (heartbeat(),), NOTHING, None),
    "never seen, before its headers": (Ended(errors.ConnectionLostError, UNKNOWN, 4, 0.35), (), NOTHING, LOST),
    "seen a moment later": (
        Ended(INCOMPLETE, STARTED, 2, 0.05),
        (heartbeat(),),
        [NOTHING, CANCELLED],
        None,
    ),
    "no records": (Ended(INCOMPLETE, UNKNOWN, 1, 0), (heartbeat(),), NO_RECORDS, None),
    "no records, an event": (Ended(INCOMPLETE, STARTED, 1, 0), (progress(1),), NO_RECORDS, None),
    "records that hang": (
        Ended(INCOMPLETE, STARTED, 1, 0.75),
        (progress(1),),
        attrs.evolve(DONE, before=FOREVER),
        None,
    ),
    "records of nonsense": (Ended(INCOMPLETE, STARTED, 1, 0), (progress(1),), Reply((b"<html>",)), None),
    "a bad gateway": (Ended("42", COMPLETED, 1, 0, recovered=True), (), DONE, Reply(status=502)),
    "a bad gateway, no records": (Ended(errors.ServerError, UNKNOWN, 1, 0), (), NO_RECORDS, Reply(status=502)),
    "refused": (Ended(errors.PermissionDeniedError, Outcome.REJECTED, 0, 0), (), DONE, Reply(status=403)),
    "too large": (
        Ended(errors.TooLargeError, UNKNOWN, 0, 0),
        (b"data: " + b"x" * 2**24, b"x" * 2**10),
        DONE,
        None,
    ),
    "closed": (Ended("1", COMPLETED, 0, 0), (answer("1"), close()), FAILED, None),
    "closed without an answer": (Ended(errors.NoAnswerError, COMPLETED, 0, 0), (close(),), DONE, None),
}


@pytest.mark.parametrize("name", CUTS)
async def test_a_cut(name: str) -> None:
    """A run that was cut off has the answer, or the failure, that its record has; it is asked for a moment only."""
    expected, steps, records, before = CUTS[name]
    assert expected == await end(*steps, records=records, before=before)


IDLES: Final[dict[str, tuple[Ended, tuple[Any, ...], Any, Timeouts]]] = {
    "never began": (Ended(IDLE, UNKNOWN, 4, 600.35), PINGS, NOTHING, Timeouts()),
    "at work, and then an answer": (
        Ended("1", COMPLETED, 1, 900),
        (progress(1), *(heartbeat(), pause(15)) * 60, answer("1"), close()),
        RUNNING,
        Timeouts(),
    ),
    "at work for ever": (Ended(errors.DeadlineExceededError, STARTED, 5, 3600), PINGS, RUNNING, Timeouts()),
    "its end was lost": (Ended("42", COMPLETED, 1, 600, recovered=True), (progress(1), *PINGS), DONE, Timeouts()),
    "failed, and nobody said so": (Ended(AGENT, COMPLETED, 1, 600), PINGS, FAILED, Timeouts()),
    "cancelled, and nobody said so": (Ended(AGENT, COMPLETED, 1, 600), PINGS, CANCELLED, Timeouts()),
    "no records": (Ended(IDLE, STARTED, 1, 600), (progress(1), *PINGS), NO_RECORDS, Timeouts()),
    "records are not asked": (Ended(IDLE, UNKNOWN, 0, 600), PINGS, DONE, Timeouts(lookup=None)),
    "silence": (Ended("42", COMPLETED, 1, 45, recovered=True), (heartbeat(), FOREVER), DONE, Timeouts()),
    "no time is left": (Ended(errors.DeadlineExceededError, UNKNOWN, 0, 60), PINGS, DONE, Timeouts(total=60)),
    "little time is left": (Ended(IDLE, UNKNOWN, 3, 60.15), PINGS, NOTHING, Timeouts(idle=60, total=60.2)),
}


@pytest.mark.parametrize("name", IDLES)
async def test_a_stream_without_events(name: str) -> None:
    """When `idle` runs out, the record tells a run that never began from one that is quiet, or at its end."""
    expected, steps, records, timeouts = IDLES[name]
    assert expected == await end(*steps, records=records, timeouts=timeouts)


STATES: Final[dict[str, tuple[Any, Any]]] = {
    "done": ("text", DONE),
    "failed": (AGENT, FAILED),
    "cancelled": (AGENT, CANCELLED),
    "failed a moment later": (AGENT, [RUNNING, FAILED]),
    "not seen": ("text", NOTHING),
    "no records": ("text", NO_RECORDS),
}


@pytest.mark.parametrize("name", STATES)
async def test_confirm_state(name: str) -> None:
    """With `confirm_state` a run that its record calls failed is one; without it nothing is asked."""
    expected, records = STATES[name]
    ended = await end(answer("text"), close(), records=records, confirm_state=True)
    assert (expected, COMPLETED) == (ended.what, ended.outcome)
    unasked = await end(answer("text"), close(), records=records)
    assert ("text", 0) == (unasked.what, unasked.looks)


@pytest.mark.parametrize(
    ("state", "output", "steps", "reply"),
    [
        (OxyState.FAILED, "sorry", (answer("sorry"), close()), FAILED),
        (OxyState.FAILED, "it broke", (close(),), FAILED),
        (OxyState.CANCELED, "Tool was cancelled", (close(),), CANCELLED),
        (OxyState.COMPLETED, "fine", (answer("fine"), close()), DONE),
    ],
)
async def test_execute_says_how_it_ended(state: OxyState, output: str, steps: tuple[Any, ...], reply: Reply) -> None:
    """`execute` gives the state of the record, and the agent's own words."""
    transport = FakeTransport({"/sse/chat": Reply(steps), "/view": reply})
    agent = SSEOxyGent(server_url=URL, transport=transport, confirm_state=True)
    response = await agent.execute(REQUEST)
    assert (state, output) == (response.state, response.output)


async def test_failure_detector() -> None:
    """A detector of one's own makes a failure of an answer; what it raises is a HandlerError."""

    def broken(output: Any) -> bool:
        raise KeyError(output)

    def failed(output: Any) -> bool:
        output.clear()  # what it gets is its own
        return True

    def is_fine(output: Any) -> bool:
        return "fine" in output

    steps = (answer({"text": "Error executing oxy"}), close())
    assert AGENT is (await end(*steps, records=NO_RECORDS, failure_detector=failed)).what
    assert errors.HandlerError is (await end(*steps, records=NO_RECORDS, failure_detector=broken)).what
    fine = await end(*steps, records=NO_RECORDS, failure_detector=is_fine)
    assert {"text": "Error executing oxy"} == fine.what
    transport = FakeTransport.script(*steps)
    agent = SSEOxyGent(server_url=URL, transport=transport, failure_detector=bool)
    response = await agent.execute(REQUEST)
    assert (OxyState.FAILED, {"text": "Error executing oxy"}) == (response.state, response.output)


async def test_what_a_failure_says() -> None:
    """The agent's own words stand in the error, and its output and state beside them; nothing of its input does."""
    transport = FakeTransport({"/sse/chat": Reply((progress(1),)), "/view": record(4, "no\x1b[31m")})
    with pytest.raises(errors.RemoteAgentError) as caught:
        await SSEOxyGent(server_url=URL, transport=transport).ask(REQUEST)
    error = caught.value
    assert "the remote agent failed: no\\x1b[31m" == str(error)
    assert (OxyState.FAILED, "no\x1b[31m", COMPLETED) == (error.state, error.output, error.outcome)
    assert isinstance(error.__cause__, errors.IncompleteStreamError)
    assert "SECRET" not in repr(vars(error))


@pytest.mark.parametrize(
    ("expected", "reply"),
    [
        (None, NO_RECORDS),
        (None, NOTHING),
        (None, Reply(before=errors.ConnectError())),
        ((None, None, 1), RUNNING),
        ((OxyState.COMPLETED, "42", 1), DONE),
        ((OxyState.FAILED, "it broke", 1), FAILED),
    ],
)
async def test_lookup(expected: Any, reply: Reply) -> None:
    """`lookup` gives what the server has stored, and None where that is nothing."""
    agent = SSEOxyGent(server_url=URL, transport=(transport := FakeTransport({"/view": reply})))
    found = await agent.lookup("a b")
    assert expected == (found and (found.state, found.output, len(found.nodes)))
    assert found is None or isinstance(found, RunRecord)
    assert {"/view?item_id=a%20b"} == {request.path for request in transport.requests}
    assert "SECRET" not in repr(found)
