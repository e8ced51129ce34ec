"""OpenTelemetry spans and metrics for runs (extra `[otel]`).

Rule 1: names follow the conventions for generative AI (https://github.com/open-telemetry/semantic-conventions-genai),
    which are still in development; what they lack begins with `oxygent.`.
Rule 2: what was asked, called and answered is on no span, unless `content` is set; an error is its class.
Rule 3: a span begins when the block is entered, and ends with the run: after the last event, and however the run ends.
Rule 4: the remote decides how many calls it shows, and what they are called. Of one run at most MOST_CALLS have a span
    at a time, and MOST_SPANS in all, under MOST_NAMES names; of each only digests are kept, and what is written is cut.
    How many calls went without span or name is one attribute of the run. Metrics hold nothing that a remote can name.
Rule 5: what was sent in confidence is taken out of what the remote says before it is on a span.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import attrs

try:
    from opentelemetry import metrics, propagate, trace
except ImportError as missing:
    raise ImportError("OTelObserver needs opentelemetry: pip install 'oxygent-client[otel]'") from missing
from opentelemetry.context import Context as OTelContext

from oxygent_client._core.errors import ConfigurationError
from oxygent_client._core.events import Observation, ToolCall
from oxygent_client._core.requests import OxyRequest
from oxygent_client._version import __version__
from oxygent_client.telemetry._observers import Notification, RunObservation

__all__ = ["OTelObserver"]

PROVIDER: Final = "oxygent"
MOST_CALLS: Final = 1000
MOST_SPANS: Final = 5000
MOST_NAMES: Final = 100
MOST_CONTENT: Final = 16_384
"""Characters of an attribute with content."""
NAME_LENGTH: Final = 200

DURATION: Final = "gen_ai.client.operation.duration"
FIRST_EVENT: Final = "gen_ai.client.operation.time_to_first_chunk"
ACTIVE: Final = "oxygent.client.active_runs"
# What the conventions advise; the first ends below what a run with many tools takes, so it goes on.
DURATION_BOUNDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 600.0)
FIRST_EVENT_BOUNDS: Final = DURATION_BOUNDS[:-1]
PORTS: Final = {"http": 80, "https": 443}

Attributes = Mapping[str, str | int]


def _server(url: str) -> dict[str, str | int]:
    """Where a URL leads."""
    parts = urlsplit(url)
    if not parts.hostname:
        return {}
    return {"server.address": parts.hostname, "server.port": parts.port or PORTS.get(parts.scheme, 0)}


def _messages(role: str, content: Any, clean: Callable[[str], str] = str, **more: str) -> str:
    """One message, as the conventions have it in an attribute."""
    text = _cut(clean(content if isinstance(content, str) else _json(content)))
    return _json([{"role": role, "parts": [{"type": "text", "content": text}], **more}])


def _json(value: Any) -> str:
    """A text that can be exported: half a surrogate pair, which JSON may hold, would cost a whole batch of spans."""
    return json.dumps(value, ensure_ascii=False, default=str).encode(errors="backslashreplace").decode()


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CONTENT else f"{text[:MOST_CONTENT]}…"


def _digest(names: Iterable[str]) -> bytes:
    """What stands for these names, whatever their size."""
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        data = name.encode(errors="surrogatepass")
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.digest()


@attrs.define
class _Call:
    """A call inside the remote, that is not over."""

    span: trace.Span
    context: OTelContext
    stack: bytes


@attrs.define
class _Trace:
    """The spans of one run."""

    span: trace.Span
    context: OTelContext
    """In which the run's span is the current one."""
    active: Attributes
    """What the run counts as, while it goes."""
    conversation: str
    server: Attributes
    calls: dict[bytes, _Call] = attrs.field(factory=dict[bytes, _Call])
    """Those that are open, by the digest of their node id."""
    open_at: dict[bytes, dict[bytes, _Call]] = attrs.field(factory=dict[bytes, dict[bytes, _Call]])
    """Likewise, by the digest of their call stack, in the order of their beginning."""
    spans: int = 0
    names: set[str] = attrs.field(factory=set[str])
    over: int = 0
    """How many calls had no span, or no name of their own."""

    def father(self, call: ToolCall) -> OTelContext:
        """Within which span a call stands: of its caller, if that is open.

        The wire says who that is by name, so of several that run at once under one name it is the last to have begun.
        """
        there = self.open_at.get(_digest(call.call_stack[:-1]))
        return self.context if there is None else next(reversed(there.values())).context

    def add(self, node: bytes, call: _Call) -> None:
        """A call has begun."""
        self.calls[node] = self.open_at.setdefault(call.stack, {})[node] = call
        self.spans += 1

    def pop(self, node: bytes) -> _Call | None:
        """The open call with this node id, which is over."""
        call = self.calls.pop(node, None)
        if call is not None:
            there = self.open_at[call.stack]
            del there[node]
            if not there:
                del self.open_at[call.stack]
        return call

    def named(self, name: str) -> str:
        """The name, if the run may have one more; empty if not."""
        if name not in self.names and len(self.names) >= MOST_NAMES:
            self.over += 1
            return ""
        self.names.add(name)
        return name


class OTelObserver:
    """Hands runs to OpenTelemetry: `SSEOxyGent(observers=[OTelObserver()])`.

    Args:
        tracer_provider: None takes the program's own.
        meter_provider: likewise.
        content: whether queries, arguments, outputs and the texts of errors are put on the spans, too.
    """

    wants_events: Final = True

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        *,
        content: bool = False,
    ) -> None:
        self._content = content
        self._is_global = tracer_provider is None and meter_provider is None
        self._tracer = trace.get_tracer("oxygent_client", __version__, tracer_provider)
        meter = metrics.get_meter("oxygent_client", __version__, meter_provider)
        self._duration = meter.create_histogram(
            DURATION,
            unit="s",
            description="How long a run took.",
            explicit_bucket_boundaries_advisory=DURATION_BOUNDS,
        )
        self._first_event = meter.create_histogram(
            FIRST_EVENT,
            unit="s",
            description="How long a run took to its first event.",
            explicit_bucket_boundaries_advisory=FIRST_EVENT_BOUNDS,
        )
        self._active = meter.create_up_down_counter(ACTIVE, unit="{run}", description="Runs in flight.")
        self._traces: WeakKeyDictionary[RunObservation, _Trace] = WeakKeyDictionary()
        self._process = os.getpid()

    def note(self, happening: Notification, /) -> None:
        """As `Observer.note`."""
        if os.getpid() != self._process:
            self._forget()
        if happening.event == "begun":
            self._begin(happening)
            return
        act = self._ACTS.get(happening.event)
        run = self._traces.get(happening.run)
        if act is not None and run is not None:
            act(self, run, happening)

    def _forget(self) -> None:
        """Leave the runs of the process from which this one was forked to that process: it ends their spans."""
        self._process = os.getpid()
        for run in self._traces.values():
            self._active.add(-1, run.active)
        self._traces = WeakKeyDictionary()

    def headers(self, run: RunObservation, /) -> Mapping[str, str]:
        """As `Propagator.headers`: by the program's own propagators, `traceparent` unless it says otherwise.

        What begins a detached run has no span, and names the caller's.
        """
        carrier: dict[str, str] = {}
        known = self._traces.get(run)
        propagate.inject(carrier, context=known.context if known is not None else None)
        return carrier

    def _begin(self, happening: Notification) -> None:
        request: OxyRequest = happening.fields["request"]
        name = request.callee or ""
        server = _server(happening.fields["server_url"])
        operation = {"gen_ai.operation.name": "invoke_agent", "gen_ai.provider.name": PROVIDER}
        attributes: dict[str, str | int] = {**operation, "gen_ai.agent.name": name, **server}
        attributes["gen_ai.conversation.id"] = request.group_id
        attributes["oxygent.trace_id"] = happening.context.trace_id
        attributes["oxygent.node_id"] = happening.context.node_id
        if self._content:
            attributes["gen_ai.input.messages"] = _messages("user", request.get_query())
        # The parent is the current span of whoever asked for the run: the run has seen to that.
        span = self._tracer.start_span(f"invoke_agent {name}", kind=trace.SpanKind.CLIENT, attributes=attributes)
        context = trace.set_span_in_context(span)
        self._traces[happening.run] = _Trace(span, context, operation, request.group_id, server)
        self._active.add(1, operation)

    def _mark(self, run: _Trace, happening: Notification) -> None:
        """A moment of the run: another attempt, another attachment, a second replica."""
        run.span.add_event(happening.event, {f"oxygent.{name}": value for name, value in happening.fields.items()})

    def _arrive(self, run: _Trace, happening: Notification) -> None:
        """Whose headers came, where there are several servers, is known only now."""
        run.server = _server(happening.fields["url"])
        run.span.set_attributes(run.server)

    def _time(self, run: _Trace, happening: Notification) -> None:
        self._first_event.record(happening.fields["seconds"], {**run.active, **run.server}, run.context)

    def _call(self, run: _Trace, happening: Notification) -> None:
        call: ToolCall = happening.fields["event"]
        if call.caller_category == "user":  # the remote's own view of the run
            return
        node = _digest([call.node_id])
        before = run.pop(node)
        if before is not None:  # it began anew
            before.span.end()
        if len(run.calls) >= MOST_CALLS or run.spans >= MOST_SPANS:
            run.over += 1
            return
        sent = happening.context.sent
        name = run.named(sent.shown(call.callee, NAME_LENGTH))
        attributes: dict[str, str] = {"oxygent.node_id": sent.shown(call.node_id, NAME_LENGTH)}
        if call.callee_category == "agent":
            operation = "invoke_agent"
            attributes["gen_ai.agent.name"] = name
            attributes["gen_ai.provider.name"] = PROVIDER
            attributes["gen_ai.conversation.id"] = run.conversation
        else:
            operation = "execute_tool"
            attributes["gen_ai.tool.name"] = name
            attributes["gen_ai.tool.call.id"] = attributes["oxygent.node_id"]
        attributes["gen_ai.operation.name"] = operation
        if self._content:
            attributes["gen_ai.tool.call.arguments"] = _cut(sent.clean(_json(call.arguments)))
        context = run.father(call)
        span = self._tracer.start_span(f"{operation} {name}".rstrip(), context, attributes=attributes)
        run.add(node, _Call(span, trace.set_span_in_context(span, context), _digest(call.call_stack)))

    def _observe(self, run: _Trace, happening: Notification) -> None:
        observation: Observation = happening.fields["event"]
        call = run.pop(_digest([observation.node_id]))
        if call is not None:
            if self._content:
                said = _cut(happening.context.sent.clean(_json(observation.output)))
                call.span.set_attribute("gen_ai.tool.call.result", said)
            call.span.end()

    def _end(self, run: _Trace, happening: Notification) -> None:
        """The run is over, and what it called with it."""
        fields = happening.fields
        error: BaseException | None = fields["error"]
        measured = {**run.active, **run.server}
        del self._traces[happening.run]
        with ExitStack() as last:  # a span that cannot be ended keeps no other from its end
            last.callback(self._active.add, -1, run.active)
            last.callback(run.span.end)
            run.span.set_attributes({"oxygent.end": fields["end"], "oxygent.outcome": fields["outcome"]})
            if run.over:
                run.span.set_attribute("oxygent.calls_over_limit", run.over)
            if self._content and fields["response"] is not None:
                clean = happening.context.sent.clean
                said = _messages("assistant", fields["response"].output, clean, finish_reason="stop")
                run.span.set_attribute("gen_ai.output.messages", said)
            if fields["end"] == "failed":
                measured["error.type"] = type(error).__name__
                self._fail(run.span, error)
            for call in run.calls.values():
                last.callback(call.span.end)
                if fields["end"] == "failed":
                    self._fail(call.span, error)
            self._duration.record(fields["seconds"], measured, run.context)

    def _fail(self, span: trace.Span, error: BaseException | None) -> None:
        kind = type(error).__name__
        span.set_attribute("error.type", kind)
        span.set_status(trace.StatusCode.ERROR, f"{kind}: {error}" if self._content else kind)

    _ACTS: ClassVar[Mapping[str, Callable[[Any, _Trace, Notification], None]]] = {
        "retry": _mark,
        "reattach": _mark,
        "hedge": _mark,
        "streaming": _arrive,
        "first_event": _time,
        "tool_call": _call,
        "observation": _observe,
        "ended": _end,
    }

    def __getstate__(self) -> dict[str, Any]:
        if not self._is_global:
            raise ConfigurationError("OTelObserver: a provider is live and cannot be pickled or copied")
        return {"content": self._content}

    def __setstate__(self, state: dict[str, Any]) -> None:
        OTelObserver.__init__(self, **state)

    def __repr__(self) -> str:
        return f"OTelObserver({'content=True' if self._content else ''})"
