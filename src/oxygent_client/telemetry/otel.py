"""OpenTelemetry spans and metrics for runs (extra `[otel]`).

Rule 1: names follow the conventions for generative AI (https://github.com/open-telemetry/semantic-conventions-genai),
    which are still in development; names that they lack begin with `oxygent.`.
Rule 2: queries, arguments and outputs are on spans only with `content=True`; an error is shown by its class.
Rule 3: a span starts when the block is entered, and ends with the run, however it ends.
Rule 4: the remote controls the number and the names of its calls. A run has at most MOST_CALLS open spans, MOST_SPANS
    spans and MOST_NAMES names; open calls are stored by hashes, and texts are cut. One attribute counts the calls
    beyond these limits. No attribute of a metric is controlled by the remote.
Rule 5: secrets that were sent are redacted from remote texts on spans.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import attrs

try:
    from opentelemetry import metrics, propagate, trace
except ImportError as _missing:
    raise ImportError("OTelObserver needs opentelemetry: pip install 'oxygent-client[otel]'") from _missing
from opentelemetry.context import Context as OTelContext

from oxygent_client._core.errors import ConfigurationError
from oxygent_client._core.events import Observation, ToolCall
from oxygent_client._core.open_calls import OpenCalls
from oxygent_client._core.requests import OxyRequest
from oxygent_client._core.server_identity import PORTS
from oxygent_client._version import __version__
from oxygent_client.telemetry._observers import Notification, RunObservation

__all__ = ["OTelObserver"]

PROVIDER: Final = "oxygent"
MOST_CALLS: Final = 1000
MOST_SPANS: Final = 5000
MOST_NAMES: Final = 100
MOST_CONTENT: Final = 16_384
"""Limit of an attribute with content, in characters."""
NAME_LENGTH: Final = 200

DURATION: Final = "gen_ai.client.operation.duration"
FIRST_EVENT: Final = "gen_ai.client.operation.time_to_first_chunk"
ACTIVE: Final = "oxygent.client.active_runs"
# The boundaries that the conventions advise, and one more for long runs with many tools.
DURATION_BOUNDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 600.0)
FIRST_EVENT_BOUNDS: Final = DURATION_BOUNDS[:-1]

Attributes = Mapping[str, str | int]


def _server(url: str) -> dict[str, str | int]:
    """Attributes of the server of a URL."""
    parts = urlsplit(url)
    if not parts.hostname:
        return {}
    return {"server.address": parts.hostname, "server.port": parts.port or PORTS.get(parts.scheme, 0)}


def _messages(role: str, content: Any, clean: Callable[[str], str] = str, **more: str) -> str:
    """An attribute with one message, in the form of the conventions."""
    text = _cut(clean(content if isinstance(content, str) else _json(content)))
    return _json([{"role": role, "parts": [{"type": "text", "content": text}], **more}])


def _json(value: Any) -> str:
    """Encode as JSON that can be exported: a lone surrogate would make the export of a whole batch of spans fail."""
    return json.dumps(value, ensure_ascii=False, default=str).encode(errors="backslashreplace").decode()


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CONTENT else f"{text[:MOST_CONTENT]}…"


@attrs.define
class _Call:
    """An open call inside the remote."""

    span: trace.Span
    context: OTelContext


@attrs.define
class _Trace:
    """The spans of one run."""

    span: trace.Span
    context: OTelContext
    """The context in which the run's span is the current one."""
    active: Attributes
    """Attributes of the metric of runs in flight."""
    conversation: str
    server: Attributes
    calls: OpenCalls[_Call] = attrs.field(factory=OpenCalls["_Call"])
    spans: int = 0
    names: set[str] = attrs.field(factory=set[str])
    over: int = 0
    """Number of calls beyond the limits: without a span, or without a name."""

    def parent(self, call: ToolCall) -> OTelContext:
        """The parent context of a call: of its caller's span, if that is open, otherwise of the run."""
        caller = self.calls.caller_of(call)
        return self.context if caller is None else caller.context

    def limited_name(self, name: str) -> str:
        """The name, if the run has it or may have one more; otherwise empty."""
        if name not in self.names and len(self.names) >= MOST_NAMES:
            self.over += 1
            return ""
        self.names.add(name)
        return name


class OTelObserver:
    """Export runs to OpenTelemetry: `SSEOxyGent(observers=[OTelObserver()])`.

    Args:
        tracer_provider: None for the program's global one.
        meter_provider: None for the program's global one.
        content: put queries, arguments, outputs and the texts of errors on spans, too.
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
            description="Duration of a run.",
            explicit_bucket_boundaries_advisory=DURATION_BOUNDS,
        )
        self._first_event = meter.create_histogram(
            FIRST_EVENT,
            unit="s",
            description="Time to the first event of a run.",
            explicit_bucket_boundaries_advisory=FIRST_EVENT_BOUNDS,
        )
        self._active = meter.create_up_down_counter(ACTIVE, unit="{run}", description="Runs in flight.")
        self._traces: WeakKeyDictionary[RunObservation, _Trace] = WeakKeyDictionary()
        self._process = os.getpid()

    def note(self, notification: Notification, /) -> None:
        """As `Observer.note`."""
        if os.getpid() != self._process:
            self._reset_after_fork()
        if notification.event == "begun":
            self._begin(notification)
            return
        act = self._ACTS.get(notification.event)
        run = self._traces.get(notification.run)
        if act is not None and run is not None:
            act(self, run, notification)

    def _reset_after_fork(self) -> None:
        """Drop the runs of the parent process, which ends their spans itself."""
        self._process = os.getpid()
        for run in self._traces.values():
            self._active.add(-1, run.active)
        self._traces = WeakKeyDictionary()

    def headers(self, run: RunObservation, /) -> Mapping[str, str]:
        """As `Propagator.headers`: from the program's propagators, by default `traceparent`.

        The request that starts a detached run has no span of its own, and propagates the caller's.
        """
        carrier: dict[str, str] = {}
        known = self._traces.get(run)
        propagate.inject(carrier, context=known.context if known is not None else None)
        return carrier

    def _begin(self, notification: Notification) -> None:
        request: OxyRequest = notification.fields["request"]
        name = request.callee or ""
        server = _server(notification.fields["server_url"])
        operation = {"gen_ai.operation.name": "invoke_agent", "gen_ai.provider.name": PROVIDER}
        attributes: dict[str, str | int] = {**operation, "gen_ai.agent.name": name, **server}
        attributes["gen_ai.conversation.id"] = request.group_id
        attributes["oxygent.trace_id"] = notification.context.trace_id
        attributes["oxygent.node_id"] = notification.context.node_id
        if self._content:
            attributes["gen_ai.input.messages"] = _messages("user", request.get_query())
        # The run calls this in the caller's context, so the caller's span is the parent.
        span = self._tracer.start_span(f"invoke_agent {name}", kind=trace.SpanKind.CLIENT, attributes=attributes)
        context = trace.set_span_in_context(span)
        self._traces[notification.run] = _Trace(span, context, operation, request.group_id, server)
        self._active.add(1, operation)

    def _mark(self, run: _Trace, notification: Notification) -> None:
        """Add a span event: a retry, a reconnect, a hedge."""
        run.span.add_event(
            notification.event, {f"oxygent.{name}": value for name, value in notification.fields.items()}
        )

    def _arrive(self, run: _Trace, notification: Notification) -> None:
        """Set the server's attributes: with a cluster the replica is known only now."""
        run.server = _server(notification.fields["url"])
        run.span.set_attributes(run.server)

    def _time(self, run: _Trace, notification: Notification) -> None:
        self._first_event.record(notification.fields["seconds"], {**run.active, **run.server}, run.context)

    def _call(self, run: _Trace, notification: Notification) -> None:
        call: ToolCall = notification.fields["event"]
        if call.caller_category == "user":  # the run itself, as the remote shows it
            return
        before = run.calls.forget(call.node_id)
        if before is not None:  # a second start with the same node id
            before.span.end()
        if len(run.calls) >= MOST_CALLS or run.spans >= MOST_SPANS:
            run.over += 1
            return
        sent = notification.context.sent
        name = run.limited_name(sent.shown(call.callee, NAME_LENGTH))
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
        context = run.parent(call)
        span = self._tracer.start_span(f"{operation} {name}".rstrip(), context, attributes=attributes)
        run.calls.begin(call, _Call(span, trace.set_span_in_context(span, context)))
        run.spans += 1

    def _observe(self, run: _Trace, notification: Notification) -> None:
        observation: Observation = notification.fields["event"]
        call = run.calls.forget(observation.node_id)
        if call is not None:
            if self._content:
                result = _cut(notification.context.sent.clean(_json(observation.output)))
                call.span.set_attribute("gen_ai.tool.call.result", result)
            call.span.end()

    def _end(self, run: _Trace, notification: Notification) -> None:
        """End the spans of the run and of its open calls, and record the metrics."""
        fields = notification.fields
        error: BaseException | None = fields["error"]
        measured = {**run.active, **run.server}
        del self._traces[notification.run]
        with ExitStack() as last:  # all spans are ended, also if ending one raises
            last.callback(self._active.add, -1, run.active)
            last.callback(run.span.end)
            run.span.set_attributes({"oxygent.end": fields["end"], "oxygent.outcome": fields["outcome"]})
            if run.over:
                run.span.set_attribute("oxygent.calls_over_limit", run.over)
            if self._content and fields["response"] is not None:
                clean = notification.context.sent.clean
                message = _messages("assistant", fields["response"].output, clean, finish_reason="stop")
                run.span.set_attribute("gen_ai.output.messages", message)
            if fields["end"] == "failed":
                measured["error.type"] = type(error).__name__
                self._fail(run.span, error)
            for call in run.calls:
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
            raise ConfigurationError("OTelObserver with a provider cannot be pickled or copied: set a global provider")
        return {"content": self._content}

    def __setstate__(self, state: dict[str, Any]) -> None:
        OTelObserver.__init__(self, **state)

    def __repr__(self) -> str:
        return f"OTelObserver({'content=True' if self._content else ''})"
