"""The messages and agents of a remote for clients: through the agent's `sanitize`, and without credentials.

Rule 1: `sanitize` gets whole messages, and copies, since it may change its argument. Other parts, such as a piece of
    the answer's text, an output or an agent of the organization, are shown to it as a message of that kind.
Rule 2: documents are built from its results. Where a result is no longer a message of its type, nothing is sent of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import attrs

from oxygent_client import AnyEvent, Custom, Observation, ToolCall, Trace, TraceCall


@attrs.frozen
class Outbound:
    """Prepares the messages of one run."""

    _sanitize: Callable[[Any], Any] | None
    value: Callable[[Any], Any]
    """Removes credentials from a value of an event that has passed `event`."""

    def message(self, message: Any) -> Any:
        """Return a message as a client gets it."""
        return self.value(self._sanitized(message))

    def event(self, event: AnyEvent) -> AnyEvent:
        """Return the event of the sanitized message; credentials are still in it."""
        if self._sanitize is None:
            return event
        message: Any = self._sanitized(event.message)
        content: Any = message
        kind: Any = None
        fields = cast("dict[str, Any]", message) if isinstance(message, dict) else {}
        if fields:
            kind, content = fields.get("type"), fields.get("content")
        is_step = isinstance(event, ToolCall | Observation)
        if kind != event.type or (is_step and not isinstance(content, dict)):
            return Custom(kind if isinstance(kind, str) else None, content, message, event.sse)
        return attrs.evolve(event, content=content, message=message)

    def text(self, piece: str) -> str:
        """Return a piece of the answer's text."""
        if self._sanitize is None:
            return str(self.value(piece))
        content = self._content({"type": "stream", "content": {"delta": piece}}, None)
        delta = cast("dict[str, Any]", content).get("delta") if isinstance(content, dict) else content
        return self.value(delta) if isinstance(delta, str) else ""

    def received(self, text: str) -> str:
        """Return the text of a run that has failed; empty if `sanitize` fails, too, which may be why."""
        try:
            return self.text(text)
        except Exception:  # noqa: BLE001  (the run has its error)
            return ""

    def output(self, output: Any) -> Any:
        """Return an answer."""
        return self.value(self._content({"type": "answer", "content": output}, output))

    def error(self, text: str) -> str:
        """Return the text of an agent's failure."""
        content = self.value(self._content({"type": "error", "content": text}, text))
        return content if isinstance(content, str) else ""

    def agent(self, name: str, description: str) -> tuple[str, str]:
        """Return the name and the description of an agent; without a name, it is not listed."""
        fields = self.value(self._fields("agent", {"name": name, "desc": description}))
        shown, about = fields.get("name"), fields.get("desc")
        return shown if isinstance(shown, str) else "", about if isinstance(about, str) else ""

    def trace(self, trace: Trace) -> Trace:
        """Return the calls of a run."""
        if self._sanitize is None:
            return trace
        calls = tuple(map(self._call, trace.calls))
        return attrs.evolve(trace, calls=calls, output=self.output(trace.output), error=self.error(trace.error))

    def _call(self, call: TraceCall) -> TraceCall:
        about = {"callee": call.name, "callee_category": call.category, "node_id": call.node_id}
        begun = self._fields("tool_call", {**about, "arguments": call.arguments})
        ended = self._fields("observation", {**about, "output": call.output})
        name, arguments = begun.get("callee"), begun.get("arguments")
        return attrs.evolve(
            call,
            name=name if isinstance(name, str) else "",
            arguments=arguments if isinstance(arguments, dict) else {},
            output=ended.get("output"),
            error=self.error(call.error) if call.error else "",
        )

    def _fields(self, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        found = self._content({"type": kind, "content": content}, content)
        return cast("dict[str, Any]", found) if isinstance(found, dict) else {}

    def _content(self, message: dict[str, Any], content: Any) -> Any:
        """The content of a sanitized message; `content` if there is no `sanitize`."""
        if self._sanitize is None:
            return content
        found: Any = self._sanitized(message)
        fields = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
        return fields.get("content") if fields.get("type") == message["type"] else None

    def _sanitized(self, message: Any) -> Any:
        return message if self._sanitize is None else self._sanitize(json.loads(json.dumps(message)))
