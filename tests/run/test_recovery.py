"""Recovery of a run by the server's record: cut streams, time-outs, and answers to confirm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest

from oxygent_client import Cluster, Outcome, OxyRequest, OxyState, Retry, RunHandle, SSEOxyGent, Timeouts, errors
from oxygent_client._protocol.failure_texts import is_failure_text
from oxygent_client.cluster import Hedge
from oxygent_client.policies import BearerAuth
from oxygent_client.testing import FakeTransport, Pause, Reply, answer, close, heartbeat, message, pause, progress
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Iterable

URL: Final = "https://remote.test"
REQUEST: Final = OxyRequest(arguments={"query": "hi"}, node_id="n")
FOREVER: Final = Pause(float("inf"))
PINGS: Final = (heartbeat(), pause(15)) * 300


def record(state: int | None, output: Any = None, **more: Any) -> Reply:
    """Return the body of `/view` for a run in this state."""
    root = {
        "node_id": "n",
        "caller": "user",
        "callee": "master",
        "father_node_id": "",
        "call_stack": ["user", "master"],
    }
    return view({**root, "state": state, "output": output, "input": {"query": "SECRET"}, **more})


def view(*nodes: dict[str, Any]) -> Reply:
    """Return a record with these nodes."""
    return Reply.json({"code": 200, "message": "SUCCESS", "data": {"nodes": [*nodes], "trace_id": "t"}})


NOTHING: Final = view()
RUNNING, DONE, FAILED, CANCELLED = record(None), record(3, "42"), record(4, "it broke"), record(7, "Tool was cancelled")
SKIPPED: Final = record(6, "not today")
HANGING: Final = attrs.evolve(DONE, before=FOREVER)
NO_RECORDS: Final = Reply.json({"detail": "Not Found"}, status=404)


@attrs.frozen
class Ended:
    """The output or the error of a run, and its outcome."""

    what: Any
    outcome: Outcome
    looks: int
    seconds: float
    recovered: bool = False


async def end(*steps: Any, records: Reply | Iterable[Reply], before: Any = None, **options: Any) -> Ended:
    """Run this stream against a server with these records."""
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
    assert len(transport.payloads) == 1
    assert len(transport.left) == len(transport.requests)
    looks = sum(request.path.startswith("/view?item_id=") for request in transport.requests)
    return Ended(what, run.outcome, looks, round(anyio.current_time() - began, 2), recovered)


INCOMPLETE, IDLE = errors.IncompleteStreamError, errors.IdleTimeoutError
AGENT: Final = errors.RemoteAgentError
UNKNOWN, STARTED, COMPLETED = Outcome.UNKNOWN, Outcome.STARTED, Outcome.COMPLETED
LOST: Final = errors.ConnectionLostError("reset")

CUTS: Final[dict[str, tuple[Ended, tuple[Any, ...], Any, Any]]] = {
    # name: (the result, the stream, the records, the steps in place of the stream)
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
        HANGING,
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
    "skipped, and cut": (Ended(AGENT, COMPLETED, 1, 0), (progress(1),), SKIPPED, None),
}


@pytest.mark.parametrize("name", CUTS)
async def test_a_cut_stream(name: str) -> None:
    """A run that was cut has the answer or the failure of its record, which is checked for a short time only."""
    expected, steps, records, before = CUTS[name]
    assert await end(*steps, records=records, before=before) == expected


NO_SILENCE: Final = Timeouts(idle=60, silence=None)
ROOTED: Final = [
    {"node_id": "n", "callee": "master", "state": None},
    *({"node_id": f"n{n}", "callee": "tool", "father_node_id": "n", "state": None} for n in range(8)),
]

IDLES: Final[dict[str, tuple[Ended, tuple[Any, ...], Any, Timeouts]]] = {
    "never began": (Ended(IDLE, UNKNOWN, 4, 600.35), PINGS, NOTHING, Timeouts()),
    "at work, and then an answer": (
        Ended("1", COMPLETED, 1, 900),
        (progress(1), *(heartbeat(), pause(15)) * 60, answer("1"), close()),
        RUNNING,
        Timeouts(),
    ),
    "dead": (Ended(IDLE, STARTED, 2, 1200), PINGS, RUNNING, Timeouts()),
    "dead, after an event": (Ended(IDLE, STARTED, 2, 1200), (progress(1), *PINGS), RUNNING, Timeouts()),
    "dead, after an event between two looks": (
        Ended(IDLE, STARTED, 3, 2100),
        (*PINGS[:120], progress(1), *PINGS),
        RUNNING,
        Timeouts(),
    ),
    "dead, and without a connection": (Ended(IDLE, STARTED, 2, 120), (heartbeat(), FOREVER), RUNNING, NO_SILENCE),
    "at work, and its connection was lost by waiting": (
        Ended(IDLE, STARTED, 1, 100),
        (heartbeat(), FOREVER),
        RUNNING,
        Timeouts(idle=100, silence=None),
    ),
    "stored again and again": (
        Ended(errors.DeadlineExceededError, STARTED, 5, 3600),
        PINGS,
        [record(None, update_time=f"2026-01-01 00:00:0{n}.000000000") for n in range(9)],
        Timeouts(),
    ),
    "calling again and again": (
        Ended(errors.DeadlineExceededError, STARTED, 5, 3600),
        PINGS,
        [view(*ROOTED[: n + 1]) for n in range(9)],
        Timeouts(),
    ),
    "its calls end, and then nothing": (
        Ended(IDLE, STARTED, 3, 1800),
        PINGS,
        [view(*ROOTED[:2]), *[view(ROOTED[0], {**ROOTED[1], "state": 3})] * 9],
        Timeouts(),
    ),
    "moved, but not since": (
        Ended(IDLE, STARTED, 3, 1800),
        PINGS,
        [RUNNING, *[record(None, update_time="later")] * 9],
        Timeouts(),
    ),
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
async def test_recovery_after_idle(name: str) -> None:
    """After `idle` the record tells a run at work, which changes, from one that is dead or over."""
    expected, steps, records, timeouts = IDLES[name]
    assert await end(*steps, records=records, timeouts=timeouts) == expected


NO_HEADERS: Final[dict[str, tuple[Ended, Any, Timeouts]]] = {
    # name: (the result, the records, the time-outs)
    "no records": (Ended(IDLE, UNKNOWN, 1, 600), NO_RECORDS, Timeouts()),
    "no records, and no end to it": (Ended(IDLE, UNKNOWN, 1, 600), NO_RECORDS, Timeouts(total=None)),
    "records are not asked": (Ended(IDLE, UNKNOWN, 0, 600), DONE, Timeouts(total=None, lookup=None)),
    "never began": (Ended(IDLE, UNKNOWN, 4, 600.35), NOTHING, Timeouts(total=None)),
    "at work": (Ended(IDLE, STARTED, 1, 600), RUNNING, Timeouts(total=None)),
    "done": (Ended("42", COMPLETED, 1, 600, recovered=True), DONE, Timeouts(total=None)),
    "failed": (Ended(AGENT, COMPLETED, 1, 600), FAILED, Timeouts(total=None)),
    "cancelled": (Ended(AGENT, COMPLETED, 1, 600), CANCELLED, Timeouts(total=None)),
    "no idle": (Ended(errors.DeadlineExceededError, UNKNOWN, 0, 50), DONE, Timeouts(total=50, idle=None)),
}


@pytest.mark.parametrize("name", NO_HEADERS)
async def test_a_response_without_headers(name: str) -> None:
    """`idle` also counts while headers are missing: the connection is closed and the record is checked."""
    expected, records, timeouts = NO_HEADERS[name]
    assert await end(records=records, before=FOREVER, timeouts=timeouts) == expected


async def endless() -> str:
    """A token provider that takes two seconds."""
    await anyio.sleep(50)
    return "token"


SENT: Final[dict[str, tuple[float, list[Reply], dict[str, Any]]]] = {
    # name: (the seconds until idle ends it, the replies, the agent's options)
    "at once": (10, [Reply(before=FOREVER)], {}),
    "after a token": (60, [Reply(before=FOREVER)], {"auth": BearerAuth(provider=endless)}),
    "after a refusal, and a pause": (
        40,
        [Reply(status=429, headers={"retry-after": "30"}), Reply(before=FOREVER)],
        {"retry": Retry(base=0)},
    ),
    "headers, and then no event": (10, [Reply((FOREVER,), before=Pause(9))], {}),
    "headers, and heartbeats": (10, [Reply((heartbeat(), Pause(1)) * 99, before=Pause(9))], {}),
    "headers, an event, and then none": (19, [Reply((progress(1), FOREVER), before=Pause(9))], {}),
}


@pytest.mark.parametrize("name", SENT)
async def test_idle_counts_from_the_request(name: str) -> None:
    """`idle` counts from the sending of the request: token refresh, earlier attempts and backoff do not count."""
    seconds, replies, options = SENT[name]
    transport = FakeTransport({"/sse/chat": replies})
    timeouts = Timeouts(idle=10, total=None, lookup=None)
    agent = SSEOxyGent(server_url=URL, transport=transport, timeouts=timeouts, **options)
    began = anyio.current_time()
    with pytest.raises(errors.IdleTimeoutError):
        await agent.ask("hi")
    assert anyio.current_time() - began == pytest.approx(seconds, abs=0.1)
    assert transport.left == transport.requests


@pytest.mark.parametrize(("hedge", "requests"), [(None, 1), (Hedge(after=3), 2)], ids=["in turn", "hedged"])
async def test_idle_with_replicas(hedge: Hedge | None, requests: int) -> None:
    """Replicas are tried in turn or hedged; without headers from any, `idle` ends the run."""
    fake = FakeTransport({"/sse/chat": Reply(before=FOREVER)})
    cluster = Cluster(["http://127.0.0.1:1", "http://127.0.0.1:2"], transport=fake, hedge=hedge)
    timeouts = Timeouts(idle=10, total=None, lookup=None)
    agent = SSEOxyGent(transport=cluster, timeouts=timeouts)
    began = anyio.current_time()
    with pytest.raises(errors.IdleTimeoutError) as caught:
        await agent.ask(OxyRequest(arguments={"query": "hi"}, idempotent=hedge is not None))
    assert anyio.current_time() - began == pytest.approx(10)
    assert len(fake.left) == len(fake.requests) == requests
    assert caught.value.outcome is UNKNOWN


# -------------------------------------------------------------------------------------------------- Runs with an answer

BROKE: Final = "Error executing oxy master: it broke"
UNCONFIRMED: Final = errors.UnconfirmedError

CONFIRMED: Final[dict[str, tuple[Ended, Any, Any, Any, Timeouts]]] = {
    # name: (the result, `confirm_state`, the answer, the records, the time-outs)
    "True, done": (Ended("1", COMPLETED, 1, 0), True, "1", DONE, Timeouts()),
    "True, failed": (Ended(AGENT, COMPLETED, 1, 0), True, "1", FAILED, Timeouts()),
    "True, cancelled": (Ended(AGENT, COMPLETED, 1, 0), True, "1", CANCELLED, Timeouts()),
    "True, skipped": (Ended(AGENT, COMPLETED, 1, 0), True, "1", SKIPPED, Timeouts()),
    "True, failed a moment later": (Ended(AGENT, COMPLETED, 2, 0.05), True, "1", [RUNNING, FAILED], Timeouts()),
    "True, said to be failed by a server that stalls": (
        Ended(AGENT, COMPLETED, 1, 9),
        True,
        "1",
        attrs.evolve(FAILED, before=Pause(9)),
        Timeouts(),
    ),
    "True, failed after errors": (
        Ended(AGENT, COMPLETED, 3, 0.15),
        True,
        "1",
        [Reply(status=500), Reply(before=LOST), FAILED],
        Timeouts(),
    ),
    "True, not seen": (Ended(UNCONFIRMED, COMPLETED, 20, 29.15), True, "1", NOTHING, Timeouts()),
    "True, running": (Ended(UNCONFIRMED, COMPLETED, 20, 29.15), True, "1", RUNNING, Timeouts()),
    "True, no records": (Ended(UNCONFIRMED, COMPLETED, 1, 0), True, "1", NO_RECORDS, Timeouts()),
    "True, records that hang": (Ended(UNCONFIRMED, COMPLETED, 1, 30), True, "1", HANGING, Timeouts()),
    "True, a clock of one's own": (Ended(UNCONFIRMED, COMPLETED, 1, 1), True, "1", HANGING, Timeouts(confirm=1)),
    "True, no clock": (Ended(UNCONFIRMED, COMPLETED, 1, 99), True, "1", HANGING, Timeouts(confirm=None, total=99)),
    "True, little time is left": (Ended(UNCONFIRMED, COMPLETED, 1, 5), True, "1", HANGING, Timeouts(total=5)),
    "True, no look-ups": (Ended(AGENT, COMPLETED, 1, 0), True, "1", FAILED, Timeouts(lookup=None)),
    "auto, reads like a failure, and is one": (Ended(AGENT, COMPLETED, 1, 0), "auto", BROKE, FAILED, Timeouts()),
    "auto, reads like a failure, and is a refusal": (Ended(AGENT, COMPLETED, 1, 0), "auto", BROKE, SKIPPED, Timeouts()),
    "auto, reads like a failure, and is none": (Ended(BROKE, COMPLETED, 1, 0), "auto", BROKE, DONE, Timeouts()),
    "auto, failed a moment later": (
        Ended(AGENT, COMPLETED, 3, 0.15),
        "auto",
        BROKE,
        [NOTHING, RUNNING, FAILED],
        Timeouts(),
    ),
    "auto, running": (Ended(BROKE, COMPLETED, 4, 0.35), "auto", BROKE, RUNNING, Timeouts()),
    "auto, no records": (Ended(BROKE, COMPLETED, 1, 0), "auto", BROKE, NO_RECORDS, Timeouts()),
    "auto, records that hang": (Ended(BROKE, COMPLETED, 1, 0.75), "auto", BROKE, HANGING, Timeouts()),
    "auto, no look-ups": (Ended(BROKE, COMPLETED, 0, 0), "auto", BROKE, FAILED, Timeouts(lookup=None)),
    "auto, an answer like any other": (Ended("1", COMPLETED, 0, 0), "auto", "1", FAILED, Timeouts()),
    "auto, an answer that is no text": (
        Ended({"text": BROKE}, COMPLETED, 0, 0),
        "auto",
        {"text": BROKE},
        FAILED,
        Timeouts(),
    ),
    "False": (Ended(BROKE, COMPLETED, 0, 0), False, BROKE, FAILED, Timeouts()),
}


@pytest.mark.parametrize("name", CONFIRMED)
async def test_an_answer_and_its_record(name: str) -> None:
    """With True an answer counts only if the record confirms it; "auto" checks answers that look like a failure."""
    expected, confirm_state, output, records, timeouts = CONFIRMED[name]
    ended = await end(answer(output), close(), records=records, confirm_state=confirm_state, timeouts=timeouts)
    assert ended == expected


async def test_auto_is_the_default() -> None:
    """By default a failed agent of a server with records raises an error."""
    assert (await end(answer(BROKE), close(), records=FAILED)).what is AGENT


async def test_an_answer_that_is_not_confirmed() -> None:
    """The error of an unconfirmed answer carries the answer and outcome COMPLETED, and names the time-out."""
    transport = FakeTransport({"/sse/chat": Reply((answer("1"), close())), "/view": RUNNING})
    agent = SSEOxyGent(server_url=URL, transport=transport, confirm_state=True, timeouts=Timeouts(confirm=2))
    with pytest.raises(errors.UnconfirmedError, match=r"Timeouts\.confirm") as caught:
        await agent.ask(REQUEST)
    assert caught.value.partial is not None
    assert caught.value.partial.answer == "1"
    assert caught.value.outcome is COMPLETED
    assert not caught.value.retryable


async def test_the_connection_is_released_before_the_check() -> None:
    """The stream's connection is released before the record is checked."""
    transport = FakeTransport({"/sse/chat": Reply((answer("1"), close())), "/view": HANGING})
    agent = SSEOxyGent(server_url=URL, transport=transport, confirm_state=True)
    with anyio.move_on_after(1) as scope:
        await agent.ask(REQUEST)
    assert scope.cancelled_caught
    assert [request.path.partition("?")[0] for request in transport.left] == ["/sse/chat", "/view"]


@pytest.mark.parametrize("value", ["yes", "", None, 1, 0, "AUTO", ["auto"]])
def test_values_of_confirm_state(value: Any) -> None:
    """A value other than True, False and "auto" raises ConfigurationError, at assignment too."""
    transport = FakeTransport.script(answer("1"), close())
    with pytest.raises(errors.ConfigurationError, match="confirm_state"):
        SSEOxyGent(server_url=URL, transport=transport, confirm_state=value)
    agent = SSEOxyGent(server_url=URL, transport=transport)
    with pytest.raises(errors.ConfigurationError, match="confirm_state"):
        agent.confirm_state = value


FAILURE_TEXTS: Final = [
    "Error executing oxy master: boom",
    "Error executing oxy a name: with a colon: boom\nand a second line",
    "Error executing tool search: boom",
    "Executing tool search timed out",
    "Tool nobody not exists",
    "Tool master was cancelled",
    "No permission for tool: search",
    "Sorry, I seem to have encountered a problem. Please try again.",
    "SSE connection failed after 3 retries: refused",
    "Unexpected error in SSE connection: 'x'",
    "WorkflowAgent 'master' has no func_workflow defined.",
    "Workflow 'flow' has no func_workflow defined.",
    "[pool] agent_generate_one_step failed",
    "[pool] agent_generate_one_step failed to return response or generated_ids",
]


@pytest.mark.parametrize("text", FAILURE_TEXTS)
def test_answers_that_look_like_a_failure(text: str) -> None:
    """The framework's texts for a failed oxy look like failures (see `tests/interop/test_states.py`)."""
    assert is_failure_text(text)


@pytest.mark.parametrize(
    "output",
    [
        "",
        "42",
        "error executing oxy",
        "An Error executing oxy a: b",
        "Tool not exist",
        "Tool not exists",
        None,
        7,
        ["Tool a not exists"],
    ],
)
def test_answers_that_do_not_look_like_a_failure(output: Any) -> None:
    """Other answers are not checked, even if their text mentions a failure."""
    assert not is_failure_text(output)


# ----------------------------------------------------------------------------------------------- Runs without an answer

UNANSWERED: Final[dict[str, tuple[Any, Outcome, Any, tuple[Any, ...], dict[str, Any]]]] = {
    # name: (the result, the outcome, the records, the stream, options)
    "done": ("42", COMPLETED, DONE, (close(),), {}),
    "done, and never confirmed": ("42", COMPLETED, DONE, (close(),), {"confirm_state": False}),
    "done, and always confirmed": ("42", COMPLETED, DONE, (close(),), {"confirm_state": True}),
    "done a moment later": ("42", COMPLETED, [NOTHING, RUNNING, DONE], (progress(1), close()), {}),
    "done, with nothing given": (errors.NoAnswerError, COMPLETED, record(3, None), (close(),), {}),
    "done, with None given": (errors.NoAnswerError, COMPLETED, record(3, "null"), (close(),), {}),
    "done, with an empty text": (errors.NoAnswerError, COMPLETED, record(3, ""), (close(),), {}),
    "failed": (AGENT, COMPLETED, FAILED, (close(),), {}),
    "cancelled": (AGENT, COMPLETED, CANCELLED, (close(),), {}),
    "skipped": (AGENT, COMPLETED, SKIPPED, (close(),), {}),
    "at work": (errors.NoAnswerError, COMPLETED, RUNNING, (close(),), {}),
    "at work, and always confirmed": (errors.NoAnswerError, COMPLETED, RUNNING, (close(),), {"confirm_state": True}),
    "not seen": (errors.NoAnswerError, COMPLETED, NOTHING, (close(),), {}),
    "no records": (errors.NoAnswerError, COMPLETED, NO_RECORDS, (close(),), {}),
    "records that hang": (errors.NoAnswerError, COMPLETED, HANGING, (close(),), {}),
    "no look-ups": (errors.NoAnswerError, COMPLETED, DONE, (close(),), {"timeouts": Timeouts(lookup=None)}),
    "an error was reported": (AGENT, COMPLETED, DONE, (message({"type": "error", "content": "no"}), close()), {}),
    "dead at the server": (IDLE, STARTED, RUNNING, PINGS, {}),
}


@pytest.mark.parametrize("how", ["ask", "attach"])
@pytest.mark.parametrize("name", UNANSWERED)
async def test_no_answer(name: str, how: str) -> None:
    """For a run without an answer the record decides, whether it was streamed or attached to."""
    expected, outcome, records, steps, options = UNANSWERED[name]
    transport = FakeTransport({"/sse/chat": Reply(steps), "/async/trace": Reply(steps), "/view": records})
    agent = SSEOxyGent(server_url=URL, transport=transport, **options)
    handle = RunHandle(server_url=URL, trace_id="t", remote_trace_id="t", node_id="n")
    run = agent.attach(handle.to_token()) if how == "attach" else agent.stream(REQUEST)
    found: Any
    try:
        async with run:
            response = await run.final_response()
        found = response.output
        assert response.extra["recovered"]
    except errors.OxyError as failure:
        found = type(failure)
    assert found == expected
    assert run.outcome is outcome


@pytest.mark.parametrize(
    ("state", "output", "steps", "reply"),
    [
        (OxyState.FAILED, "sorry", (answer("sorry"), close()), FAILED),
        (OxyState.FAILED, "it broke", (close(),), FAILED),
        (OxyState.CANCELED, "Tool was cancelled", (close(),), CANCELLED),
        (OxyState.COMPLETED, "fine", (answer("fine"), close()), DONE),
    ],
)
async def test_execute_returns_the_state(state: OxyState, output: str, steps: tuple[Any, ...], reply: Reply) -> None:
    """`execute` returns the state of the record and the agent's own text."""
    transport = FakeTransport({"/sse/chat": Reply(steps), "/view": reply})
    agent = SSEOxyGent(server_url=URL, transport=transport, confirm_state=True)
    response = await agent.execute(REQUEST)
    assert response.state == state
    assert response.output == output


async def test_failure_detector() -> None:
    """A failure detector turns an answer into a failure; its own exception is a HandlerError."""

    def broken(output: Any) -> bool:
        raise KeyError(output)

    def failed(output: Any) -> bool:
        output.clear()  # it gets its own copy
        return True

    def is_fine(output: Any) -> bool:
        return "fine" in output

    steps = (answer({"text": "Error executing oxy"}), close())
    assert (await end(*steps, records=NO_RECORDS, failure_detector=failed)).what is AGENT
    assert (await end(*steps, records=NO_RECORDS, failure_detector=broken)).what is errors.HandlerError
    fine = await end(*steps, records=NO_RECORDS, failure_detector=is_fine)
    assert fine.what == {"text": "Error executing oxy"}
    transport = FakeTransport.script(*steps)
    agent = SSEOxyGent(server_url=URL, transport=transport, failure_detector=bool)
    response = await agent.execute(REQUEST)
    assert response.state is OxyState.FAILED
    assert response.output == {"text": "Error executing oxy"}


async def test_the_error_of_a_failure() -> None:
    """The error has the agent's text, output and state, but nothing of its input."""
    transport = FakeTransport({"/sse/chat": Reply((progress(1),)), "/view": record(4, "no\x1b[31m")})
    with pytest.raises(errors.RemoteAgentError) as caught:
        await SSEOxyGent(server_url=URL, transport=transport).ask(REQUEST)
    error = caught.value
    assert str(error) == "the remote agent failed: no\\x1b[31m"
    assert error.state is OxyState.FAILED
    assert error.output == "no\x1b[31m"
    assert error.outcome == COMPLETED
    assert isinstance(error.__cause__, errors.IncompleteStreamError)
    assert "SECRET" not in repr(vars(error))


LOOKUPS: Final[dict[str, tuple[tuple[OxyState | None, Any] | None, int, float, Any, Timeouts]]] = {
    # name: (state and output, number of checks, seconds, the records, the time-outs)
    "no records": (None, 1, 0, NO_RECORDS, Timeouts()),
    "not seen": (None, 4, 0.35, NOTHING, Timeouts()),
    "no connection": (None, 4, 0.35, Reply(before=LOST), Timeouts()),
    "running": ((None, None), 4, 0.35, RUNNING, Timeouts()),
    "done": ((OxyState.COMPLETED, "42"), 1, 0, DONE, Timeouts()),
    "failed": ((OxyState.FAILED, "it broke"), 1, 0, FAILED, Timeouts()),
    "skipped": ((OxyState.SKIPPED, "not today"), 1, 0, SKIPPED, Timeouts()),
    "done a moment later": ((OxyState.COMPLETED, "42"), 3, 0.15, [NOTHING, RUNNING, DONE], Timeouts()),
    "done, after errors": (
        (OxyState.COMPLETED, "42"),
        3,
        0.15,
        [Reply(status=500), Reply(status=500), DONE],
        Timeouts(),
    ),
    "running, said by a server that stalls": ((None, None), 1, 5, attrs.evolve(RUNNING, before=Pause(5)), Timeouts()),
    "running, by a server that stalls then": ((None, None), 2, 0.75, [RUNNING, HANGING], Timeouts()),
    "running, and a clock of one's own": ((None, None), 6, 1.55, RUNNING, Timeouts(lookup=2)),
    "running, and one look": ((None, None), 1, 0, RUNNING, Timeouts(lookup=None)),
    "a server that stalls for ever": (None, 1, 30, HANGING, Timeouts()),
}


@pytest.mark.parametrize("name", LOOKUPS)
async def test_lookup(name: str) -> None:
    """`lookup` returns the stored record or None, and polls until the run has ended."""
    expected, looks, seconds, records, timeouts = LOOKUPS[name]
    agent = SSEOxyGent(
        server_url=URL,
        transport=(transport := FakeTransport({"/view": records})),
        timeouts=timeouts,
        retry=Retry(attempts=1),
    )
    began = anyio.current_time()
    found = await agent.lookup("a b")
    assert (found and (found.state, found.output)) == expected
    assert len(transport.requests) == looks
    assert round(anyio.current_time() - began, 2) == seconds
    assert {request.path for request in transport.requests} == {"/view?item_id=a%20b"}
    assert "SECRET" not in repr(found)
