"""`Run.trace`: the calls of a run from its events, or from the record after a cut.

Rule 1: time is virtual.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

import anyio
import pytest

from oxygent_client import Cluster, Event, Limits, Observation, OxyState, SSEOxyGent, ToolCall, Trace, errors
from oxygent_client._core.events import RemoteErrorEvent, ServerSentEvent
from oxygent_client._run.trace import TraceCollector, status_of
from oxygent_client._run.traced_calls import MOST_BYTES, MOST_CALLS
from oxygent_client.policies import BearerAuth
from oxygent_client.testing import FakeTransport, Reply, ToyRemote, answer, close, message, pause, tool_call
from oxygent_client.transports.asgi import ASGITransport
from tests.run.test_recovery import view
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from oxygent_client import OxyError, OxyResponse, Run
    from oxygent_client._core.call_tree import CallStatus

URL: Final = "http://127.0.0.1:1"


def step(kind: str, node_id: str, stack: list[str] | None = None, **content: Any) -> bytes:
    """Return a message about a call."""
    callee = content.pop("callee", stack[-1] if stack else "")
    caller = content.pop("caller", stack[-2] if stack else "")
    more = {} if stack is None else {"call_stack": stack}
    fields = {"node_id": node_id, "caller": caller, "callee": callee, **more, **content}
    return message({"type": kind, "content": fields})


def called(node_id: str, *stack: str, **content: Any) -> bytes:
    """Return the start of a call."""
    return step("tool_call", node_id, [*stack], **content)


def returned(node_id: str, *stack: str, output: Any = "done") -> bytes:
    """Return the end of a call."""
    return step("observation", node_id, [*stack], output=output)


def agent_of(*steps: Any, **options: Any) -> SSEOxyGent:
    """Return an agent whose server sends these steps."""
    return SSEOxyGent(server_url=URL, transport=FakeTransport({"/sse/chat": Reply(steps)}), **options)


async def traced(*steps: Any, **options: Any) -> Trace:
    """Return the trace of a run with these steps, and an answer."""
    async with agent_of(*steps, answer("hi"), close(), **options).stream("hi") as run:
        await run.final_response()
    return run.trace()


# --------------------------------------------------------------------------------------------------- The toy's trip


async def test_a_run() -> None:
    """Each call of the demo is below its caller, with times, arguments and output, as in the record."""
    agent = SSEOxyGent(server_url=URL, transport=ASGITransport(ToyRemote()))
    before = datetime.now(UTC)
    async with agent.stream("trip", trace_id="t") as run:
        response = await run.final_response()
    trace, record = run.trace(), await agent.lookup("t")
    assert record is not None
    stored = record.trace()
    assert trace.to_tree().replace(" ! upstream timed out, using yesterday's prices", "").replace("409", '"409"') == (
        stored.to_tree()
    )
    assert (trace.status, trace.source, trace.output) == ("completed", "events", response.output)
    assert (trace.trace_id, trace.remote_trace_id, trace.server_url) == ("t", "t", URL)
    assert trace.seconds == pytest.approx(6.75)
    assert trace.began is not None
    assert before <= trace.began <= before + timedelta(seconds=60)
    assert (stored.source, stored.remote_trace_id, stored.status) == ("record", "t", "completed")
    assert Trace.from_json(trace.to_json()) == trace


async def test_a_run_in_progress() -> None:
    """A call without an end is running, and lost once the run is over; before the block there is none."""
    agent = agent_of(called("r", "user", "master"), pause(2), answer("hi"), close())
    run = agent.stream("hi")
    traces = [run.trace()]
    async with run:
        await anext(run)
        traces.append(run.trace())
        await run.final_response()
    traces.append(run.trace())
    await anyio.sleep(10)
    assert [trace.status for trace in traces] == ["running", "running", "completed"]
    assert [[call.status for call in trace.calls] for trace in traces] == [[], ["running"], ["lost"]]
    assert [trace.seconds for trace in [*traces, run.trace()]] == [None, 0.0, 2.0, 2.0]


# -------------------------------------------------------------------------------------------------------------- Parents

NESTED: Final[dict[str, tuple[list[bytes], list[int | None]]]] = {
    "by their stacks": (
        [called("r", "user", "m"), called("a", "user", "m", "a"), called("b", "user", "m", "a", "b")],
        [None, 0, 1],
    ),
    "in parallel": (
        [called("r", "user", "m"), called("a", "user", "m", "a"), called("b", "user", "m", "b")],
        [None, 0, 0],
    ),
    "the latest open one": (
        [
            called("r", "user", "m"),
            called("a", "user", "m", "a"),
            called("a2", "user", "m", "a"),
            called("b", "user", "m", "a", "b"),
            returned("a2", "user", "m", "a"),
            called("c", "user", "m", "a", "c"),
        ],
        [None, 0, 0, 2, 1],
    ),
    "after their caller's end": (
        [called("r", "user", "m"), returned("r", "user", "m"), called("a", "user", "m", "a")],
        [None, None],
    ),
    "without stacks, by name": (
        [step("tool_call", "r", caller="user", callee="m"), step("tool_call", "a", caller="m", callee="a")],
        [None, 0],
    ),
    "an end without a start": (
        [called("r", "user", "m"), returned("a", "user", "m", "a")],
        [None, 0],
    ),
    "without node ids": (
        [called("", "user", "m"), called("", "user", "m", "a")],
        [None, 0],
    ),
}


@pytest.mark.parametrize(("steps", "parents"), NESTED.values(), ids=NESTED)
async def test_parents(steps: list[bytes], parents: list[int | None]) -> None:
    """A call is below the latest open call with the stack of its caller."""
    trace = await traced(*steps)
    assert [call.parent for call in trace.calls] == parents


async def test_a_node_id_that_comes_again() -> None:
    """The end belongs to the latest call with the node id."""
    trace = await traced(called("r", "user", "m"), called("r", "user", "m"), returned("r", "user", "m"))
    assert [call.status for call in trace.calls] == ["lost", "completed"]


# ------------------------------------------------------------------------------------------------------------ Errors


async def test_failures() -> None:
    """A call whose output is a failure text of the framework has failed."""
    text = "Error executing oxy add: no"
    trace = await traced(called("r", "user", "m"), returned("r", "user", "m", output=text))
    assert (trace.calls[0].status, trace.calls[0].error, trace.calls[0].output) == ("failed", text, text)


REPORTS: Final[dict[str, tuple[dict[str, Any], list[str]]]] = {
    "by node id": ({"content": {"node_id": "a", "why": 1}}, ["", "{'node_id': 'a', 'why': 1}", ""]),
    "by agent": ({"content": "late", "agent": "b"}, ["", "", "late"]),
    "by an agent in the content": ({"content": {"agent": "b"}}, ["", "", "{'agent': 'b'}"]),
    "of another agent": ({"content": "late", "agent": "x"}, ["late", "", ""]),
    "without a name": ({"content": "late"}, ["late", "", ""]),
}


@pytest.mark.parametrize(("fields", "expected"), REPORTS.values(), ids=REPORTS)
async def test_reported_errors(fields: dict[str, Any], expected: list[str]) -> None:
    """A reported error is at the call that it names, otherwise at the root."""
    calls = [called("r", "user", "m"), called("a", "user", "m", "a"), called("b", "user", "m", "b")]
    trace = await traced(*calls, message({"type": "error", **fields}))
    assert [call.error for call in trace.calls] == expected


async def test_an_error_before_the_first_call() -> None:
    """An error before the first call is at no call."""
    assert (await traced(message({"type": "error", "content": "late"}))).calls == ()


ENDS: Final[dict[str, tuple[tuple[Any, ...], CallStatus]]] = {
    "no answer": ((close(),), "failed"),
    "a lost connection": ((errors.ConnectionLostError("reset"),), "failed"),
    "an error of the remote": ((message({"type": "error", "content": "no"}), close()), "failed"),
}


@pytest.mark.parametrize(("steps", "status"), ENDS.values(), ids=ENDS)
async def test_a_run_that_fails(steps: tuple[Any, ...], status: str) -> None:
    """The trace of a failed run has its calls so far, and the error."""
    run = agent_of(called("r", "user", "m"), *steps).stream("hi")
    with pytest.raises(errors.OxyError) as caught:
        async with run:
            await run.final_response()
    assert (run.trace().status, run.trace().error) == (status, str(caught.value))
    assert [call.status for call in run.trace().calls] == ["lost"]


async def test_a_run_that_is_left() -> None:
    """The trace of a run that was left shows it as cancelled."""
    async with agent_of(called("r", "user", "m"), pause(60)).stream("hi") as run:
        await anext(run)
    assert run.trace().status == "canceled"


STATUSES: Final[list[tuple[BaseException | None, bool, bool, CallStatus]]] = [
    (None, False, False, "running"),
    (None, True, False, "canceled"),
    (None, True, True, "lost"),
    (KeyboardInterrupt(), False, False, "canceled"),
    (errors.ClosedError("left"), True, False, "canceled"),
    (errors.RemoteAgentError("no"), False, False, "failed"),
    (errors.RemoteAgentError("no", state=OxyState.CANCELED), False, False, "canceled"),
    (errors.RemoteAgentError("no", state=OxyState.SKIPPED), False, False, "skipped"),
]


@pytest.mark.parametrize(("error", "is_left", "is_detached", "expected"), STATUSES)
def test_the_status_of_a_run(error: OxyError | None, is_left: bool, is_detached: bool, expected: str) -> None:
    """The status of a run depends on its error, and on whether its block was left."""
    response: OxyResponse | None = None
    assert status_of(response, error, is_left=is_left, is_detached=is_detached) == expected


# -------------------------------------------------------------------------------------------------------- A cut stream


async def test_a_recovered_run() -> None:
    """The calls of a recovered run are those of the record, with the arguments from the events."""
    root = {"node_id": "n", "callee": "master", "call_stack": ["user", "master"], "state": 3, "output": "hi"}
    tool = {"node_id": "a", "callee": "add", "father_node_id": "n", "state": 3, "output": "42"}
    times = {"create_time": "2026-01-01 00:00:00", "update_time": "2026-01-01 00:00:02"}

    class Named(SSEOxyGent):
        def prepare_payload(self, oxy_request: Any) -> dict[str, Any]:
            return super().prepare_payload(oxy_request) | {"node_id": "n"}

    steps = (called("n", "user", "master", arguments={"query": "hi"}), errors.ConnectionLostError("reset"))
    fake = FakeTransport({"/sse/chat": Reply(steps), "/view": view({**root, **times}, {**tool, **times})})
    async with Named(server_url=URL, transport=fake).stream("hi", trace_id="t") as run:
        await run.final_response()
    trace = run.trace()
    assert (trace.source, trace.status, trace.trace_id, trace.output) == ("record", "completed", "t", "hi")
    assert [(call.name, call.parent, call.arguments, call.seconds) for call in trace.calls] == [
        ("master", None, {"query": "hi"}, 2.0),
        ("add", 0, {}, 2.0),
    ]


# ---------------------------------------------------------------------------------------------- Secrets and limits


async def test_secrets() -> None:
    """Sent credentials, and members with names of secrets, are redacted."""
    token = "t0p-secret-token"
    repeats = {"echo": [f"you sent {token}"], token: 1, "password": "hunter2", "n": 7}
    trace = await traced(
        called("r", "user", "m", arguments=repeats), returned("r", "user", "m", output=repeats), auth=BearerAuth(token)
    )
    shown = {"echo": ["you sent [scrubbed]"], "[scrubbed]": 1, "password": "[scrubbed]", "n": 7}
    assert (trace.calls[0].arguments, trace.calls[0].output) == (shown, shown)


async def test_secrets_of_a_report() -> None:
    """No credential that was sent is in the report, wherever the server repeats it."""
    token = "t0p-secret-token"
    steps = called(f"n-{token}", "user", token, arguments={token: token}, callee_category=token), answer(token), close()
    async with agent_of(*steps, auth=BearerAuth(token)).stream("hi") as run:
        await run.final_response()
    assert token not in run.report()
    assert "n-[scrubbed]" in run.report()


async def test_arguments_that_are_too_deep_to_search() -> None:
    """Arguments that are too deep to search are left out."""
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    trace = await traced(called("r", "user", "m", arguments={"query": deep}), limits=Limits(depth=300))
    assert trace.calls[0].arguments == {}


def event(kind: type[Event], type_: str, size: int, **content: Any) -> Event:
    """Return an event with data of so many characters."""
    return kind(type_, content, {"type": type_, "content": content}, ServerSentEvent(data="x" * size))


def test_too_many_calls() -> None:
    """Calls over the limit are counted, and their ends are no new calls."""
    collector = TraceCollector()
    collector.begin(0.0)
    for number in range(MOST_CALLS + 2):
        collector.note(event(ToolCall, "tool_call", 1, node_id=str(number)), 1.0)
    for number in range(MOST_CALLS + 2):
        collector.note(event(Observation, "observation", 1, node_id=str(number)), 2.0)
    trace = collector.trace(now=lambda: 3.0, status="running", record=None, clean=lambda value: value)
    assert (len(trace.calls), trace.dropped) == (MOST_CALLS, 2)
    assert {call.status for call in trace.calls} == {"completed"}


def test_events_are_not_kept() -> None:
    """An event that is assigned to its call is not kept: it may be several times as large as its text."""
    collector = TraceCollector()
    collector.begin(0.0)
    begins = event(ToolCall, "tool_call", 1, node_id="a")
    kept = ref(begins)
    collector.note(begins, 1.0)
    called = collector.call_of(begins, lambda value: value)
    del begins
    assert called is not None
    assert kept() is None


def test_too_much_data() -> None:
    """An output over the limit is left out with a mark; a call or an error over the limit is dropped."""
    collector = TraceCollector()
    collector.begin(0.0)
    collector.note(event(ToolCall, "tool_call", 10, node_id="a"), 1.0)
    collector.note(event(Observation, "observation", MOST_BYTES, node_id="a", output="x"), 2.0)
    collector.note(event(Observation, "observation", MOST_BYTES, node_id="b", output="x"), 2.0)
    collector.note(event(RemoteErrorEvent, "error", MOST_BYTES), 2.0)
    collector.note(event(ToolCall, "tool_call", MOST_BYTES, node_id="c"), 3.0)
    trace = collector.trace(now=lambda: 3.0, status="running", record=None, clean=lambda value: value)
    assert [(call.node_id, call.status, call.output, call.is_cut, call.error) for call in trace.calls] == [
        ("a", "completed", None, True, "")
    ]
    assert trace.dropped == 1


def test_values_are_made_once() -> None:
    """Calls that did not change are reused in the next trace."""
    collector, cleaned = TraceCollector(), list[Any]()

    def clean(value: Any) -> Any:
        cleaned.append(value)
        return value

    def make(status: CallStatus) -> Trace:
        return collector.trace(now=lambda: 3.0, status=status, record=None, clean=clean)

    collector.begin(0.0)
    collector.note(event(ToolCall, "tool_call", 1, node_id="a"), 1.0)
    first = make("running")
    count = len(cleaned)
    again, over = make("running"), make("completed")
    assert len(cleaned) == count
    assert again.calls[0] is first.calls[0]
    assert over.calls[0].status == "lost"


async def test_the_call_of_an_event() -> None:
    """A step's call is its own, also without a node id; other events name theirs by node id or agent."""
    steps = (
        called("", "user", "m"),
        called("a", "user", "m", "tool"),
        message({"type": "think", "content": "hm", "agent": "m"}),
        message({"type": "progress", "content": {"node_id": "a", "step": 1}}),
        returned("a", "user", "m", "tool", output="t0p-secret"),
        message({"type": "progress", "content": {"agent": "nobody"}}),
    )
    agent = agent_of(*steps, answer("hi"), close(), auth=BearerAuth("t0p-secret"))
    async with agent.stream("hi") as run:
        calls = [run.call_of(event) async for event in run]
    assert [None if call is None else (call.name, call.status) for call in calls] == [
        ("m", "running"),
        ("tool", "running"),
        ("m", "running"),
        ("tool", "running"),
        ("tool", "completed"),
        None,
        None,
    ]
    assert calls[4] is run.trace().calls[1]
    assert "t0p-secret" not in run.trace().to_json()


async def test_a_run_of_an_agent_without_a_url() -> None:
    """The server of the trace is the one that got the request."""

    def of(run: Run) -> str:
        return run.trace().server_url

    fake = FakeTransport({"/sse/chat": Reply((tool_call("add"), answer("hi"), close()))})
    agent = SSEOxyGent(transport=Cluster([f"{URL}?key=secret"], transport=fake))
    run = agent.stream("hi")
    before = of(run)
    async with run:
        await run.final_response()
    assert (before, of(run)) == ("", URL)
