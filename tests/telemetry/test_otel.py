"""OpenTelemetry spans and metrics of runs, with the SDK's in-memory exporters.

Rule 1: time is virtual; every run is scripted, or the toy remote in process.
Rule 2: spans hold no content unless it was enabled.
"""

from __future__ import annotations

import copy
import gc
import importlib
import inspect
import json
import logging
import pickle
import re
import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.semconv.attributes import error_attributes, server_attributes
from opentelemetry.trace import SpanKind, StatusCode, TraceFlags

from oxygent_client import OxyRequest, Retry, SSEOxyGent, Timeouts, errors
from oxygent_client.cluster import Cluster, Hedge
from oxygent_client.telemetry import RunObservation, otel
from oxygent_client.telemetry.otel import MOST_CALLS, OTelObserver
from oxygent_client.testing import (
    FakeTransport,
    Pause,
    Reply,
    ToyRemote,
    answer,
    close,
    message,
    observation,
    pause,
    tool_call,
)
from oxygent_client.transports.asgi import ASGITransport
from tests.conftest import WIRE
from tests.support.plain import plain
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oxygent_client import Run
    from oxygent_client.testing import Step

URL: Final = "https://user:secret@remote.test:8443/base?token=secret"
CANARY: Final = "CANARY"
TOKEN: Final = "t0p-secret-4711"


class Spans:
    """The spans exported by an SDK instance."""

    def __init__(self, *, content: bool = False, exporter: SpanExporter | None = None, **options: Any) -> None:
        self.memory = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(exporter or self.memory))
        self.reader = InMemoryMetricReader()
        meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.observer = OTelObserver(self.provider, meters, content=content)

    @property
    def ended(self) -> list[ReadableSpan]:
        """All spans, in the order of their ends."""
        return [*self.memory.get_finished_spans()]

    @property
    def run(self) -> ReadableSpan:
        """The span of the one run."""
        (span,) = (span for span in self.ended if span.kind is SpanKind.CLIENT)
        return span

    def named(self, name: str) -> ReadableSpan:
        """Return the one span of that name."""
        (span,) = (span for span in self.ended if span.name == name)
        return span

    def tree(self) -> set[tuple[str, str | None]]:
        """Return the parent's name of each span."""
        names = {span.context.span_id: span.name for span in self.ended if span.context}
        return {(span.name, names.get(span.parent.span_id) if span.parent else None) for span in self.ended}

    def metrics(self) -> dict[str, list[Any]]:
        """Return the data points of each metric."""
        data: Any = self.reader.get_metrics_data()
        return {
            metric.name: [*metric.data.data_points]
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


def agent_for(spans: Spans, *steps: Step, **options: Any) -> SSEOxyGent:
    """Return an agent whose runs follow this script."""
    given: dict[str, Any] = {"transport": FakeTransport.script(*steps), "server_url": URL, "name": "finder"}
    return plain(observers=[spans.observer], **(given | options))


async def ask(agent: SSEOxyGent, **fields: Any) -> Any:
    """Return the output of a run, or the class of its error."""
    try:
        return (await agent.ask("hi", **fields)).output
    except errors.OxyError as error:
        return type(error)


# ----------------------------------------------------------------------------------------------------------------- Runs


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # of trio, for generators of a dropped run
async def test_a_dropped_run() -> None:
    """The spans of a run that was garbage-collected end, and it is not active any more."""
    spans = Spans()
    agent = agent_for(spans, tool_call("search"), pause(1000))
    run = agent.stream("hi")
    await run.__aenter__()
    await anext(run)
    del run
    gc.collect()
    await anyio.sleep(0.1)
    assert spans.tree() == {("invoke_agent finder", None), ("execute_tool search", "invoke_agent finder")}
    assert (spans.run.attributes or {})["oxygent.end"] == "left"
    assert [point.value for point in spans.metrics()[otel.ACTIVE]] == [0]


async def test_a_forked_child() -> None:
    """A run of the parent process is not active in a forked child, which exports no span of it."""
    spans = Spans()
    async with agent_for(spans, tool_call("search"), answer("42"), close()).stream("hi") as run:
        await anext(run)
        spans.observer._process = 0
        async for _ in run:
            pass
    assert spans.ended == []
    assert [point.value for point in spans.metrics()[otel.ACTIVE]] == [0]


async def test_the_span_of_a_run() -> None:
    """A run is a client span named after the agent, with server and operation, and without content."""
    spans = Spans()
    agent = agent_for(spans, answer("42"), close())
    assert await ask(agent, group_id="talk", trace_id="t-otel") == "42"
    span = spans.run
    attributes = dict(span.attributes or {})
    assert span.name == "invoke_agent finder"
    assert attributes.pop("oxygent.node_id")
    assert attributes == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "oxygent",
        "gen_ai.agent.name": "finder",
        "gen_ai.conversation.id": "talk",
        "server.address": "remote.test",
        "server.port": 8443,
        "oxygent.trace_id": "t-otel",
        "oxygent.end": "completed",
        "oxygent.outcome": "completed",
    }
    assert span.status.status_code == StatusCode.UNSET
    assert span.parent is None


@pytest.mark.parametrize(
    ("expected", "url"),
    [
        ({"server.address": "remote.test", "server.port": 443}, "https://remote.test"),
        ({"server.address": "127.0.0.1", "server.port": 80}, "http://127.0.0.1/x"),
        ({"server.address": "::1", "server.port": 8082}, "http://[::1]:8082"),
        ({}, ""),
    ],
)
def test_the_server(expected: dict[str, Any], url: str) -> None:
    """The address and port of the server, by default the scheme's port."""
    assert otel._server(url) == expected


async def test_the_span_ends_after_the_last_event() -> None:
    """The span is open until the stream ends, also after the answer."""
    spans = Spans()
    more = anyio.Event()
    agent = agent_for(
        spans, tool_call("search"), observation("search", 1), answer("42"), more.wait, answer("43"), close()
    )
    async with agent.stream("hi") as run:
        seen = [await anext(run) for _ in range(3)]
        assert [span.name for span in spans.ended] == ["execute_tool search"]
        more.set()
        seen.append(await anext(run))
        assert len(spans.ended) == 1
        response = await run.final_response()
        assert len(spans.ended) == 2
    assert response.output == "43"
    tool = spans.named("execute_tool search")
    assert [spans.run] == spans.ended[-1:]
    assert (spans.run.start_time or 0) <= (tool.start_time or 0) <= (tool.end_time or 0) <= (spans.run.end_time or 0)


@pytest.mark.parametrize(
    ("expected", "reply"),
    [
        ("PermissionDeniedError", Reply((CANARY.encode(),), status=403)),
        ("IncompleteStreamError", Reply((tool_call("search"), answer(CANARY)))),
        ("NoAnswerError", Reply((tool_call("search"), close()))),
        ("RemoteAgentError", Reply((tool_call("search"), message({"type": "error", "content": CANARY}), close()))),
        ("ConnectError", Reply(before=errors.ConnectError(CANARY))),
        ("IdleTimeoutError", Reply((tool_call("search"), pause(60)))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_failure(expected: str, reply: Reply) -> None:
    """The spans of a failed run and of its open calls have status ERROR with the class, without the text."""
    spans = Spans()
    transport = FakeTransport({"/sse/chat": reply})
    agent = agent_for(spans, transport=transport, timeouts=Timeouts(idle=5))
    assert (await ask(agent)).__name__ == expected
    for span in spans.ended:
        assert span.status.status_code == StatusCode.ERROR
        assert span.status.description == expected
        assert (span.attributes or {})["error.type"] == expected
    assert len(spans.ended) == 1 + any(b"search" in step for step in reply.steps if isinstance(step, bytes))
    assert CANARY not in "".join(span.to_json() for span in spans.ended)


async def test_a_detected_failure() -> None:
    """A failure found by the failure detector fails the span."""
    spans = Spans()
    await ask(agent_for(spans, answer("no"), close(), failure_detector="no".__eq__))
    assert spans.run.status.description == "RemoteAgentError"


async def cancel(run: Run) -> None:
    """Be cancelled while reading."""
    with anyio.move_on_after(1):
        async with run:
            await run.final_response()


async def leave(run: Run) -> None:
    """Leave early."""
    async with run:
        await anext(run)


async def stumble(run: Run) -> None:
    """Leave by an exception of the user's own."""
    async with run:
        await anext(run)
        raise KeyError(CANARY)


@pytest.mark.parametrize("how", [cancel, leave, stumble])
async def test_a_run_that_is_left(how: Callable[[Run], Any]) -> None:
    """A run that is left ends its spans, without status ERROR."""
    spans = Spans()
    agent = agent_for(spans, tool_call("search"), pause(60))
    with suppress(KeyError):
        await how(agent.stream("hi"))
    assert spans.tree() == {("execute_tool search", "invoke_agent finder"), ("invoke_agent finder", None)}
    assert {span.status.status_code for span in spans.ended} == {StatusCode.UNSET}
    assert (spans.run.attributes or {})["oxygent.end"] == "left"
    assert CANARY not in "".join(span.to_json() for span in spans.ended)


async def test_retries_are_events_of_the_span() -> None:
    """A retried run is one span with its retries as events."""
    spans = Spans()
    transport = FakeTransport(
        {"/sse/chat": [Reply(before=errors.ConnectError(CANARY)), Reply((answer("42"), close()))]}
    )
    agent = SSEOxyGent(server_url=URL, transport=transport, retry=Retry(base=0), observers=[spans.observer])
    assert await ask(agent) == "42"
    (event,) = spans.run.events
    assert event.name == "retry"
    assert dict(event.attributes or {}) == {
        "oxygent.attempt": 2,
        "oxygent.seconds": 0,
        "oxygent.reason": "ConnectError",
    }
    headers = [request.headers["traceparent"] for request in transport.requests]
    assert [headers[0]] * 2 == headers


async def test_hedging_is_an_event() -> None:
    """Hedging is an event of the run's span."""
    spans = Spans()
    transport = FakeTransport({"/sse/chat": [Reply(before=Pause(60)), Reply((answer("42"), close()))]})
    cluster = Cluster(["https://a.example", "https://b.example"], transport=transport, hedge=Hedge(after=2))
    async with SSEOxyGent(transport=cluster, observers=[spans.observer]) as agent:
        assert (await agent.ask("hi", idempotent=True)).output == "42"
    (event,) = spans.run.events
    attributes = {"oxygent.attempt": 2, "oxygent.seconds": 2}
    assert event.name == "hedge"
    assert dict(event.attributes or {}) == attributes


# ---------------------------------------------------------------------------------------------------------------- Calls


def call(callee: str, node: str, *above: str, category: str = "agent") -> tuple[bytes, bytes]:
    """Return the messages of a call within those `above`, and of its end."""
    content = {
        "node_id": node,
        "caller": above[-1],
        "callee": callee,
        "caller_category": "user" if len(above) == 1 else "agent",
        "callee_category": category,
        "call_stack": [*above, callee],
    }
    begin = message({"type": "tool_call", "content": {**content, "arguments": {"query": CANARY}}})
    return begin, message({"type": "observation", "content": {**content, "output": CANARY}})


def tool(callee: str, node: str, *above: str) -> tuple[bytes, bytes]:
    """Return the messages of a tool's call."""
    return call(callee, node, *above, category="tool")


ROOT, ROOT_END = call("master", "n0", "user")
A, A_END = call("a", "n1", "user", "master")
B, B_END = call("b", "n2", "user", "master", "a")
ADD, ADD_END = tool("add", "n3", "user", "master", "a", "b")
MUL, MUL_END = tool("mul", "n4", "user", "master", "a")
A2, A2_END = call("a", "n5", "user", "master")
SUB, SUB_END = tool("sub", "n6", "user", "master", "elsewhere")
RUN: Final = "invoke_agent finder"


@pytest.mark.parametrize(
    ("expected", "steps"),
    [
        (set[Any](), [ROOT, ROOT_END]),
        ({("invoke_agent a", RUN)}, [ROOT, A, A_END, ROOT_END]),
        (
            {("invoke_agent a", RUN), ("invoke_agent b", "invoke_agent a"), ("execute_tool add", "invoke_agent b")},
            [ROOT, A, B, ADD, ADD_END, B_END, A_END, ROOT_END],
        ),
        (
            {
                ("invoke_agent a", RUN),
                ("invoke_agent b", "invoke_agent a"),
                ("execute_tool mul", "invoke_agent a"),
                ("execute_tool add", "invoke_agent b"),
            },
            [ROOT, A, B, MUL, ADD, MUL_END, ADD_END, B_END, A_END, ROOT_END],
        ),
        ({("execute_tool sub", RUN)}, [ROOT, SUB, SUB_END, ROOT_END]),
        ({("invoke_agent a", RUN), ("execute_tool mul", RUN)}, [ROOT, A, A_END, MUL, MUL_END, ROOT_END]),
        ({("invoke_agent a", RUN), ("invoke_agent b", "invoke_agent a")}, [ROOT, A, B]),
        (set[Any](), [ROOT, A_END, ROOT_END]),
    ],
    ids=["root", "one", "nested", "parallel", "caller-unseen", "caller-over", "no-observation", "no-call"],
)
async def test_the_spans_of_calls(expected: set[tuple[str, str]], steps: Sequence[bytes]) -> None:
    """The parent of a call is its caller by the call stack; the root's is the run."""
    spans = Spans()
    assert await ask(agent_for(spans, *steps, answer("42"), close())) == "42"
    assert spans.tree() == {(RUN, None), *expected}
    assert {span.status.status_code for span in spans.ended} == {StatusCode.UNSET}
    assert CANARY not in "".join(span.to_json() for span in spans.ended)


async def test_calls_under_one_name() -> None:
    """Calls are told apart by node id; of callers with one name the last is the parent."""
    spans = Spans()
    assert await ask(agent_for(spans, ROOT, A, A2, MUL, A_END, MUL_END, A2_END, answer("42"), close())) == "42"
    by_node = {
        (span.attributes or {})["oxygent.node_id"]: span for span in spans.ended if span.kind is SpanKind.INTERNAL
    }
    parent = by_node["n4"].parent
    assert parent is not None
    assert by_node["n5"].context == parent
    assert [(span.attributes or {})["oxygent.node_id"] for span in spans.ended[:3]] == ["n1", "n4", "n5"]


async def test_a_repeated_node_id() -> None:
    """A second call with the same node id ends the first and has its own span."""
    spans = Spans()
    assert await ask(agent_for(spans, ROOT, A, A, A_END, answer("42"), close())) == "42"
    assert [(span.name, RUN) for span in spans.ended[:2]] == [("invoke_agent a", RUN)] * 2
    assert len(spans.ended) == 3


async def test_the_attributes_of_calls() -> None:
    """A tool has its name and call id, an agent its name."""
    spans = Spans()
    await ask(agent_for(spans, ROOT, A, MUL, MUL_END, A_END, answer("42"), close()), group_id="talk")
    assert dict(spans.named("execute_tool mul").attributes or {}) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "mul",
        "gen_ai.tool.call.id": "n4",
        "oxygent.node_id": "n4",
    }
    assert dict(spans.named("invoke_agent a").attributes or {}) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "oxygent",
        "gen_ai.agent.name": "a",
        "gen_ai.conversation.id": "talk",
        "oxygent.node_id": "n1",
    }


async def test_an_empty_name() -> None:
    """An empty name is not part of a span's name."""
    spans = Spans()
    await ask(agent_for(spans, *tool("", "n1", "user", "master"), answer("42"), close()))
    assert spans.tree() == {(RUN, None), ("execute_tool", RUN)}


@pytest.mark.seconds
async def test_many_calls() -> None:
    """Calls beyond MOST_CALLS at a time have no span, and names are bounded."""
    spans = Spans()
    steps = [tool("x" * 500 + "\x1b[31m", f"n{number}", "user", "master")[0] for number in range(MOST_CALLS + 5)]
    assert await ask(agent_for(spans, *steps, answer("42"), close())) == "42"
    assert len(spans.ended) == MOST_CALLS + 1
    assert {"execute_tool " + "x" * otel.NAME_LENGTH} == {span.name for span in spans.ended[:-1]}
    assert (spans.run.attributes or {})["oxygent.calls_over_limit"] == 5


@pytest.mark.seconds
async def test_many_names() -> None:
    """Beyond MOST_NAMES a span has no name, and beyond MOST_SPANS there is none; both are counted."""
    spans = Spans()
    steps = [
        step for number in range(otel.MOST_SPANS + 7) for step in tool(f"tool{number}", f"n{number}", "user", "master")
    ]
    assert await ask(agent_for(spans, *steps, answer("42"), close())) == "42"
    assert len(spans.ended) == otel.MOST_SPANS + 1
    assert len({span.name for span in spans.ended}) == otel.MOST_NAMES + 2
    assert len({str((span.attributes or {}).get("gen_ai.tool.name")) for span in spans.ended}) == otel.MOST_NAMES + 2
    assert (spans.run.attributes or {})["oxygent.calls_over_limit"] == otel.MOST_SPANS - otel.MOST_NAMES + 7


async def test_few_names() -> None:
    """A remote with few names keeps all of them."""
    spans = Spans()
    steps = [step for number in range(300) for step in tool(f"tool{number % 50}", f"n{number}", "user", "master")]
    assert await ask(agent_for(spans, *steps, answer("42"), close())) == "42"
    assert len({span.name for span in spans.ended}) == 51
    assert "oxygent.calls_over_limit" not in (spans.run.attributes or {})


async def test_memory_of_open_calls() -> None:
    """Open calls keep digests of ids and stacks, so that their memory is bounded."""
    spans = Spans()
    node, above = "n" * 1_000_000, [f"agent{number}" for number in range(10_000)]
    steps = [tool("inner", f"{number}{node}", *above)[0] for number in range(4)]
    kept: list[int] = []

    async def weigh() -> None:
        waiting: list[object] = [*spans.observer._traces.values()]
        seen: dict[int, object] = {}
        ours = frozenset[type[object]]((dict, tuple, list, set, str, bytes, otel._Trace, otel._Call))
        sized = frozenset[type[object]]((tuple, str, bytes))
        while waiting:
            each = waiting.pop()
            if id(each) not in seen and type(each) in ours:
                seen[id(each)] = each
                waiting += gc.get_referents(each)
        kept.append(sum(sys.getsizeof(each) for each in seen.values() if type(each) in sized))

    assert await ask(agent_for(spans, *steps, weigh, answer("42"), close())) == "42"
    assert len(kept) == 1
    assert kept[0] < 100_000


async def test_a_credential_that_comes_back() -> None:
    """A credential that comes back is on no span, not in a name, an id or content."""
    spans = Spans(content=True)
    steps = tool(f"tool {TOKEN}", f"node {TOKEN}", "user", "master")
    said = message({"type": "tool_call", "content": {"callee": "t", "node_id": "m", "arguments": {"a": TOKEN}}})
    seen = message({"type": "observation", "content": {"callee": "t", "node_id": "m", "output": f"you sent {TOKEN}"}})
    await ask(agent_for(spans, *steps, said, seen, answer(f"42 {TOKEN}"), close(), headers={"x-api-key": TOKEN}))
    assert TOKEN not in "".join(span.to_json() for span in spans.ended)
    assert len(spans.ended) == 3


async def test_content_is_cut() -> None:
    """An attribute holds at most MOST_CONTENT characters."""
    spans = Spans(content=True)
    _, end = tool("t", "n1", "user", "master")
    begin = message(
        {"type": "tool_call", "content": {"callee": "t", "node_id": "n1", "arguments": {"a": "x" * 50_000}}}
    )
    await ask(agent_for(spans, begin, end, answer("y" * 50_000), close()))
    lengths = [len(str(value)) for span in spans.ended for value in (span.attributes or {}).values()]
    assert otel.MOST_CONTENT < max(lengths) < otel.MOST_CONTENT + 200


async def test_the_recording_of_a_real_server() -> None:
    """The spans of the recording of oxygent 1.1.3: three nested agents and a tool."""
    spans = Spans()
    recording = (WIRE / "v1.1.3_nested.sse").read_bytes()
    await ask(agent_for(spans, recording))
    assert spans.tree() == {
        (RUN, None),
        ("invoke_agent middle_agent", RUN),
        ("invoke_agent leaf_agent", "invoke_agent middle_agent"),
        ("execute_tool add", "invoke_agent leaf_agent"),
    }


async def test_the_toy_remote() -> None:
    """The spans of parallel agents with tools, over a streaming transport."""
    spans = Spans()
    async with plain(
        server_url="http://127.0.0.1",
        name="trip",
        transport=ASGITransport(ToyRemote(pace=0)),
        observers=[spans.observer],
    ) as agent:
        await agent.ask("trip")
    assert spans.tree() == {
        ("invoke_agent trip", None),
        ("invoke_agent flight_agent", "invoke_agent trip"),
        ("execute_tool search_flights", "invoke_agent flight_agent"),
        ("execute_tool baggage_rules", "invoke_agent flight_agent"),
        ("invoke_agent hotel_agent", "invoke_agent trip"),
        ("execute_tool search_hotels", "invoke_agent hotel_agent"),
        ("invoke_agent review_agent", "invoke_agent hotel_agent"),
        ("execute_tool read_reviews", "invoke_agent review_agent"),
        ("execute_tool price_history", "invoke_agent trip"),
        ("execute_tool add_up", "invoke_agent trip"),
    }


# ------------------------------------------------------------------------------------------------------------- Content


async def test_content() -> None:
    """With content enabled, spans have query, answer, arguments and outputs by the semantic conventions."""
    spans = Spans(content=True)
    agent = agent_for(spans, ROOT, MUL, MUL_END, answer({"sum": 42}), close())
    await agent.ask("what?")
    run, mul = dict(spans.run.attributes or {}), dict(spans.named("execute_tool mul").attributes or {})
    assert json.loads(str(run["gen_ai.input.messages"])) == [
        {"role": "user", "parts": [{"type": "text", "content": "what?"}]}
    ]
    parts = [{"type": "text", "content": '{"sum": 42}'}]
    assert json.loads(str(run["gen_ai.output.messages"])) == [
        {"role": "assistant", "parts": parts, "finish_reason": "stop"}
    ]
    assert json.loads(str(mul["gen_ai.tool.call.arguments"])) == {"query": CANARY}
    assert json.loads(str(mul["gen_ai.tool.call.result"])) == CANARY


async def test_lone_surrogates() -> None:
    """Lone surrogates are escaped for export; other text is unchanged."""
    spans = Spans(content=True)
    steps = [step.replace(b"HALF", rb"\ud83d") for step in (*tool("HALF", "HALF", "user", "master"), answer("é HALF"))]
    await ask(agent_for(spans, *steps, close()))
    texts = [text for span in spans.ended for text in (span.name, *map(str, (span.attributes or {}).values()))]
    assert b"\xc3\xa9 \\ud83d" in "".join(texts).encode()
    (said,) = json.loads(str((spans.run.attributes or {})["gen_ai.output.messages"]))
    assert said["parts"][0]["content"] == "é \ud83d"


async def test_the_text_of_an_error_is_content() -> None:
    """The text of an error is content: it may quote the remote."""
    spans = Spans(content=True)
    await ask(agent_for(spans, message({"type": "error", "content": CANARY}), close()))
    description = spans.run.status.description or ""
    assert description.startswith("RemoteAgentError: ")
    assert CANARY in description


# --------------------------------------------------------------------------------------------------------- Propagation


async def test_propagation() -> None:
    """`traceparent` has the run's span, and the baggage is the caller's, by the configured propagators."""
    spans = Spans()
    transport = FakeTransport.script(answer("42"), close())
    agent = agent_for(spans, transport=transport)
    token = otel_context.attach(baggage.set_baggage("tenant", "blue"))
    try:
        await ask(agent)
    finally:
        otel_context.detach(token)
    context = spans.run.context
    assert context is not None
    assert {name: transport.requests[0].headers[name] for name in ("traceparent", "baggage")} == {
        "traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}",
        "baggage": "tenant=blue",
    }


async def test_a_detached_run() -> None:
    """The start of a detached run has no span and propagates the caller's; its reader has one."""
    spans = Spans()
    begun = Reply.json({"code": 200, "message": "SUCCESS", "data": {}})
    transport = FakeTransport({"/async/chat": begun, "/async/trace": Reply((answer("42"), close()))})
    agent = agent_for(spans, transport=transport)
    with spans.provider.get_tracer("test").start_as_current_span("asked") as asked:
        handle = await agent.start("hi")
    assert [span.name for span in spans.ended] == ["asked"]
    async with agent.attach(handle.to_token()) as run:
        await run.final_response()
    ids = [request.headers["traceparent"].split("-")[2] for request in transport.requests]
    assert [asked.get_span_context().span_id, (spans.run.context or asked.get_span_context()).span_id] == [
        int(each, 16) for each in ids
    ]
    assert asked.get_span_context().span_id != int(ids[1], 16)


async def test_a_run_that_is_not_sampled() -> None:
    """A run that is not sampled exports no span, and `traceparent` has the flag."""
    spans = Spans(sampler=ALWAYS_OFF)
    transport = FakeTransport.script(tool_call("search"), answer("42"), close())
    assert await ask(agent_for(spans, transport=transport)) == "42"
    assert spans.ended == []
    flags = int(transport.requests[0].headers["traceparent"].rpartition("-")[2], 16)
    assert flags & TraceFlags.SAMPLED == 0


async def test_without_an_sdk() -> None:
    """With the API alone there is no span and no header."""
    transport = FakeTransport.script(tool_call("search"), answer("42"), close())
    agent = plain(server_url=URL, transport=transport, observers=[OTelObserver(trace.NoOpTracerProvider())])
    assert await ask(agent) == "42"
    assert "traceparent" not in transport.requests[0].headers


async def test_the_parent() -> None:
    """The parent is the current span when the run is made, and it stays current while the run is read."""
    spans = Spans()
    tracer = spans.provider.get_tracer("test")
    agent = agent_for(spans, tool_call("search"), observation("search", 1), answer("42"), close())
    with tracer.start_as_current_span("asked") as asked:
        run = agent.stream("hi")
    with tracer.start_as_current_span("entered") as entered:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(run)
            assert entered is trace.get_current_span()
            async with anyio.create_task_group() as group:
                group.start_soon(run.final_response)
            with tracer.start_as_current_span("inside"):
                pass
        assert entered is trace.get_current_span()
    assert trace.INVALID_SPAN is trace.get_current_span()
    assert spans.tree() == {
        ("asked", None),
        (RUN, "asked"),
        ("execute_tool search", RUN),
        ("entered", None),
        ("inside", "entered"),
    }
    assert asked.get_span_context().trace_id == (spans.run.context or asked.get_span_context()).trace_id


async def test_concurrent_runs() -> None:
    """Concurrent runs have their own spans, even with one trace id and the same node ids."""
    spans = Spans()
    agent = agent_for(spans, ROOT, A, anyio.lowlevel.checkpoint, MUL, MUL_END, A_END, answer("42"), close())
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(agent.execute, OxyRequest(arguments={"query": "hi"}, current_trace_id="same"))
    assert len(spans.ended) == 15
    traces = {span.context.trace_id for span in spans.ended if span.context}
    assert len(traces) == 5
    assert spans.tree() == {(RUN, None), ("invoke_agent a", RUN), ("execute_tool mul", "invoke_agent a")}


# ------------------------------------------------------------------------------------------------------------- Metrics


async def test_metrics() -> None:
    """Durations and times to the first event, by server and error, and the number of active runs."""
    spans = Spans()
    replies = [Reply((answer("42"), close())), Reply((answer("42"), close())), Reply((b"no",), status=403)]
    agent = agent_for(spans, transport=FakeTransport({"/sse/chat": replies}))
    async with agent.stream("hi") as run:
        await anext(run)
        assert [point.value for point in spans.metrics()[otel.ACTIVE]] == [1]
        await run.final_response()
    for _ in range(2):
        await ask(agent)
    metrics = spans.metrics()
    common = {"gen_ai.operation.name": "invoke_agent", "gen_ai.provider.name": "oxygent"}
    server = {"server.address": "remote.test", "server.port": 8443}
    assert [(point.value, dict(point.attributes)) for point in metrics[otel.ACTIVE]] == [(0, common)]
    assert [(point.count, dict(point.attributes)) for point in metrics[otel.DURATION]] == [
        (2, {**common, **server}),
        (1, {**common, **server, "error.type": "PermissionDeniedError"}),
    ]
    assert [(point.count, dict(point.attributes)) for point in metrics[otel.FIRST_EVENT]] == [(2, {**common, **server})]
    assert [otel.DURATION_BOUNDS] * 2 == [point.explicit_bounds for point in metrics[otel.DURATION]]


def test_semantic_conventions() -> None:
    """All names but our own are from the semantic conventions."""
    draft = "opentelemetry.semconv._incubating"  # the conventions for generative AI are not stable
    drafts = [
        importlib.import_module(f"{draft}.{name}")
        for name in ("attributes.gen_ai_attributes", "metrics.gen_ai_metrics")
    ]
    known = {
        value
        for module in (*drafts, error_attributes, server_attributes)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    }
    if otel.FIRST_EVENT not in known:
        pytest.skip("needs newer opentelemetry-semantic-conventions")
    source = inspect.getsource(otel)
    used = set(re.findall(r'"((?:gen_ai|error|server)\.[a-z_.]+)"', source))
    assert 15 <= len(used)
    assert set() == used - known


# ------------------------------------------------------------------------------------------------------------- Failures


class Failing(SpanExporter):
    """An exporter that fails."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Raise."""
        raise OSError("the collector is gone")


class FailingProcessor(SimpleSpanProcessor):
    """A processor that raises where the SDK does not catch it."""

    def on_end(self, span: ReadableSpan) -> None:
        """Raise."""
        super().on_end(span)
        raise OSError("the collector is gone")


async def test_a_failing_exporter(caplog: pytest.LogCaptureFixture) -> None:
    """A failing exporter does not affect the run."""
    spans = Spans(exporter=Failing())
    with caplog.at_level(logging.CRITICAL):
        assert await ask(agent_for(spans, ROOT, A, A_END, answer("42"), close())) == "42"


async def test_a_failing_processor(caplog: pytest.LogCaptureFixture) -> None:
    """A failing processor does not affect the run; all spans end, and the number of active runs returns to zero."""
    spans = Spans()
    spans.provider.add_span_processor(FailingProcessor(InMemorySpanExporter()))
    with caplog.at_level(logging.WARNING, "oxygent_client"):
        assert await ask(agent_for(spans, ROOT, A, B, answer("42"), close())) == "42"
    assert spans.tree() == {(RUN, None), ("invoke_agent a", RUN), ("invoke_agent b", "invoke_agent a")}
    assert [point.value for point in spans.metrics()[otel.ACTIVE]] == [0]
    (said,) = [record.getMessage() for record in caplog.records if record.name == "oxygent_client"]
    assert "OTelObserver raised OSError" in said


class FailingSampler(TracerProvider):
    """A provider that cannot make spans."""

    def get_tracer(self, *arguments: Any, **options: Any) -> Any:
        """Return a tracer that fails."""

        class Tracer(trace.NoOpTracer):
            def start_span(self, *arguments: Any, **options: Any) -> Any:
                raise RuntimeError("no span")

        return Tracer()


async def test_a_provider_that_fails() -> None:
    """A run without a span goes on without `traceparent`."""
    transport = FakeTransport.script(ROOT, A, A_END, answer("42"), close())
    observer = OTelObserver(FailingSampler(shutdown_on_exit=False))
    assert await ask(plain(server_url=URL, transport=transport, observers=[observer])) == "42"
    assert "traceparent" not in transport.requests[0].headers
    assert observer.headers(RunObservation()) == {}


# ------------------------------------------------------------------------------------------- Copies and missing library


def pickled(value: Any) -> Any:
    """Return the copy made by pickling."""
    return pickle.loads(pickle.dumps(value))


def copied(value: Any) -> Any:
    """Return a deep copy."""
    return copy.deepcopy(value)


@pytest.mark.parametrize("again", [copied, pickled])
@pytest.mark.parametrize("content", [True, False])
def test_a_copy(content: bool, again: Callable[[Any], Any]) -> None:
    """An observer with the global providers is copied and pickled; one with its own providers is not."""
    agent = SSEOxyGent(server_url=URL, observers=[OTelObserver(content=content)])
    (observer,) = again(agent).observers
    assert repr(OTelObserver(content=content)) == repr(observer)
    assert observer.headers(RunObservation()) == {}
    with pytest.raises(errors.ConfigurationError, match="OTelObserver"):
        again(SSEOxyGent(server_url=URL, observers=[Spans().observer]))


WITHOUT: Final = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
import oxygent_client.telemetry
oxygent_client.SSEOxyGent(server_url="http://127.0.0.1").stats()
try:
    import oxygent_client.telemetry.otel
except ImportError as error:
    print(error)
"""


def test_without_opentelemetry() -> None:
    """Without opentelemetry the error names the extra to install, and the statistics work."""
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert done.stdout == "OTelObserver needs opentelemetry: pip install 'oxygent-client[otel]'\n"


def test_without_opentelemetry_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in this process, for coverage."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "oxygent_client.telemetry.otel")
    with pytest.raises(ImportError, match="OTelObserver needs opentelemetry: pip install"):
        importlib.import_module("oxygent_client.telemetry.otel")
