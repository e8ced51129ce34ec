"""Turn a server-sent event into a typed event.

Rule: unknown is not wrong: it becomes `Custom` or `Text`, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from inspect import get_annotations
from typing import Any, Final, cast, get_args

from oxygent_client._core import json_codec
from oxygent_client._core.errors import TooLargeError
from oxygent_client._core.events import AnyEvent, Custom, Event, Observation, ServerSentEvent, Text, ToolCall, new_event
from oxygent_client._core.patterns import compiled
from oxygent_client._core.settings import Limits

CLOSE: Final = "close"
"""The name of the event that ends a stream, whatever its data. Nothing else does."""
LEGACY_DONE: Final = "done"
"""In a stream that names no event, a message that may be the end: see `oxygent_client._run.event_buffer`."""

EVENTS: Final[Mapping[str, type[AnyEvent]]] = {
    name: cls for cls in get_args(AnyEvent) for name in get_args(get_annotations(cls, eval_str=True).get("type"))
}
"""The class of each known message type, as the classes declare it; any other is `Custom`."""

STEPS: Final = frozenset({ToolCall, Observation})
"""The classes whose content is an object; a message with another is `Custom`."""


def to_event(sse: ServerSentEvent, limits: Limits = Limits()) -> AnyEvent:
    """The typed event in `sse`.

    JSON that is nested deeper than `limits.depth` is a `Text` whose `problems` say so; where it is an answer all the
    same, its type is `answer`.
    """
    return to_events((sse,), limits)[0]


def to_events(received: Iterable[ServerSentEvent], limits: Limits = Limits()) -> list[AnyEvent]:
    """The typed events in `received`, each as `to_event` gives it."""
    depth, parse, read = limits.depth, json_codec.PARSER, json_codec.read
    short = 2 * depth  # in a text of so many characters JSON is not too deep
    events: list[AnyEvent] = []
    problems: tuple[str, ...]
    for sse in received:
        data = sse.data
        try:
            if len(data) <= short:
                message, problems = parse(data), ()
            else:
                message, problems = read(data, depth)
            kind, content = message["type"], message["content"]
            cls = EVENTS[kind]
        except (LookupError, TypeError, ValueError, RecursionError, TooLargeError):
            events.append(unusual_event(sse, depth))
            continue
        if cls in STEPS and type(content) is not dict:
            cls = Custom
        events.append(new_event(cls, kind, content, message, sse, problems))
    return events


def unusual_event(sse: ServerSentEvent, depth: int) -> AnyEvent:
    """As `to_event`, for any message: one without a known type, or without content, too."""
    data = sse.data
    try:
        message, problems = json_codec.read(data, depth)
    except TooLargeError as error:
        kind = "answer" if json_codec.text_member(data, "type") == "answer" else None
        return Text(kind, data, data, sse, problems=(str(error),))
    except ValueError:
        return Text(None, data, data, sse)
    if type(message) is not dict:
        return new_event(Custom, None, message, message, sse, problems)
    fields = cast("dict[str, Any]", message)
    kind, content = fields.get("type"), fields.get("content")
    if type(kind) is not str:
        return new_event(Custom, None, content, fields, sse, problems)
    cls = EVENTS.get(kind, Custom)
    if cls in STEPS and type(content) is not dict:
        cls = Custom
    return new_event(cls, kind, content, fields, sse, problems)


def trace_id_of(event: Event) -> str:
    """The server's trace id of the run that an event which ends a run says it belongs to; else empty.

    That is an answer, an observation of a root, or the close event. Others may come from runs within the run, and the
    content of an answer is the agent's own.
    """
    fields: dict[str, Any] = event.message
    if not isinstance(event.message, dict):
        return ""
    named = fields.get("current_trace_id")
    if isinstance(event, Observation):
        content: dict[str, Any] = event.content
        if content.get("caller_category") != "user":
            return ""
        own = content.get("current_trace_id")
        named = named if own == "" or type(own) not in _IDS else own
    return str(named) if type(named) in _IDS else ""


_IDS: Final = (str, int)
"""Classes of what may be a trace id."""


def is_event_stream(content_type: str) -> bool:
    """Whether a Content-Type says `text/event-stream`; its parameters do not matter.

    A header that was sent twice arrives as one with a comma; it counts if all its parts say the same.
    """
    return content_type in _USUAL or is_content_type(content_type, "text/event-stream")


_USUAL: Final = ("text/event-stream", "text/event-stream; charset=utf-8")
"""How servers say so."""


def is_content_type(content_type: str, expected: str) -> bool:
    """Whether a Content-Type header names the type `expected`, whatever its parameters."""
    if "," not in content_type and '"' not in content_type:
        return content_type.partition(";")[0].strip().lower() == expected
    parts = (part.partition(";")[0].strip().lower() for part in compiled(_QUOTED).sub("", content_type).split(","))
    return {part for part in parts if part} == {expected}


_QUOTED: Final = r'"[^"\\]*(?:\\.[^"\\]*)*"?'
"""A value of a parameter, which may hold a comma."""


SAYS: Final = ("message", "error", "errors", "detail")
"""Members of an object by which servers and proxies say what went wrong."""


def as_text(value: Any) -> str:
    """Any JSON as a text for a person."""
    try:
        return str(value)
    except RecursionError:
        return "(JSON that is nested too deep to be shown)"
