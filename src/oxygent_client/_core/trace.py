"""`Trace`: the calls of one run as a tree, with times, arguments, outputs and errors.

Rule 1: a trace is a value: frozen, compares by content, pickles, and goes through JSON and back.
Rule 2: the calls are a flat tuple, each after its parent, so that nothing here recurses, however deep the tree.
Rule 3: remote text is escaped in `to_tree` and `to_mermaid`, and nowhere else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Literal, Self, TypeAlias, cast, get_args

import attrs

from oxygent_client._core import json_codec
from oxygent_client._core.errors import ConfigurationError, TooLargeError
from oxygent_client._core.text import escape_text

CallStatus: TypeAlias = Literal["running", "completed", "failed", "canceled", "skipped", "lost"]
"""How a call or a run stands; `lost`: it is over, and its end was not seen."""
Source: TypeAlias = Literal["events", "record"]

VERSION: Final = 1
DEEPEST: Final = 1000
"""Levels of nested JSON that `from_json` reads; received JSON has at most 400."""
DRAWN_DEPTH: Final = 40
"""Levels of the tree that are drawn; 80 columns have no room for more."""
DRAWN_CALLS: Final = 300
"""Calls in a Mermaid diagram, which draws 500 edges at most."""
LINE: Final = 160
"""Characters of a line of the tree, without its branches."""
MARKS: Final[Mapping[CallStatus, str]] = {
    "running": "…",
    "completed": "✓",
    "failed": "✗",
    "canceled": "✗",
    "skipped": "-",
    "lost": "?",
}


@attrs.frozen(kw_only=True)
class TraceCall:
    """One call of an agent, tool or model in a run. Times are seconds since the run began."""

    index: int
    """Its place in `Trace.calls`."""
    parent: int | None = None
    """The place of the call that made it; None at the top."""
    depth: int = 0
    """The number of calls above it."""
    node_id: str = ""
    """Its id in the events and in the server's record."""
    name: str = ""
    """The callee."""
    category: str = ""
    """`agent`, `tool`, `llm`, ..."""
    status: CallStatus = "running"
    started: float | None = None
    """None if the start was not seen."""
    ended: float | None = None
    """None if the end was not seen."""
    arguments: dict[str, Any] = attrs.field(factory=dict[str, Any], repr=False, hash=False)
    """Redacted. Events of real servers have the `query` only; a record has all."""
    output: Any = attrs.field(default=None, repr=False, hash=False)
    """Redacted. A record has texts only."""
    error: str = attrs.field(default="", repr=False)
    """The text of the failure, or of an error that was reported during the call; redacted."""
    is_cut: bool = False
    """Whether the output was too large to be kept."""

    @property
    def seconds(self) -> float | None:
        """How long it took; None if its start or end was not seen."""
        return None if self.started is None or self.ended is None else self.ended - self.started


def _children(calls: tuple[TraceCall, ...]) -> dict[int | None, list[TraceCall]]:
    found: dict[int | None, list[TraceCall]] = {}
    for call in calls:
        found.setdefault(call.parent, []).append(call)
    return found


@attrs.frozen(kw_only=True)
class Trace:
    """The calls of one run, from its events (`Run.trace`) or from the server's record (`RunRecord.trace`)."""

    trace_id: str = ""
    """The caller's trace id; from a record, the server's is not known either."""
    remote_trace_id: str = ""
    """The server's trace id."""
    server_url: str = ""
    """Without user information and query; empty if it is not known."""
    source: Source = "events"
    began: datetime | None = None
    """When the run began: in UTC from events, without a time zone from a record, in the server's own."""
    seconds: float | None = None
    """How long the run took, or has taken so far."""
    status: CallStatus = "running"
    error: str = ""
    """The text of the error that ended the run; redacted."""
    output: Any = attrs.field(default=None, repr=False, hash=False)
    """The answer; redacted."""
    calls: tuple[TraceCall, ...] = attrs.field(default=(), repr=lambda calls: f"<{len(calls)} calls>")
    """All calls in the order in which they began, each after its parent."""
    dropped: int = 0
    """How many calls were left out, since there were too many or they were too large."""
    _below: dict[int | None, list[TraceCall]] = attrs.field(
        default=attrs.Factory(lambda self: _children(self.calls), takes_self=True), init=False, eq=False, repr=False
    )

    @property
    def roots(self) -> tuple[TraceCall, ...]:
        """The calls at the top; usually one."""
        return tuple(self._below.get(None, ()))

    def children(self, call: TraceCall) -> tuple[TraceCall, ...]:
        """Return the calls that `call` made, in the order in which they began."""
        return tuple(self._below.get(call.index, ()))

    def walk(self) -> Iterator[TraceCall]:
        """Iterate over all calls from the top down, each followed by those that it made."""
        waiting = [*reversed(self.roots)]
        while waiting:
            call = waiting.pop()
            yield call
            waiting.extend(reversed(self._below.get(call.index, ())))

    # --- JSON ---

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the trace as JSON in ASCII. NaN and infinite numbers become texts, since JSON has none."""
        fields = {name: getattr(self, name) for name in _TRACE_TEXTS}
        document = {
            "version": VERSION,
            **fields,
            "began": None if self.began is None else self.began.isoformat(),
            "seconds": self.seconds,
            "output": self.output,
            "dropped": self.dropped,
            "calls": [{name: getattr(call, name) for name in _CALL_FIELDS} for call in self.calls],
        }
        try:
            return json.dumps(document, indent=indent, allow_nan=False)
        except ValueError:
            return json.dumps(_finite(document), indent=indent, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the trace that `to_json` made a text of.

        Raises:
            ConfigurationError: `text` is no such text.
        """
        try:
            document: Any = json_codec.loads(text, depth=DEEPEST)
            if _read(document, "version", int) != VERSION:
                raise ValueError("another version")
            began = _optional(document, "began", str)
            calls: list[TraceCall] = []
            for fields in _read(document, "calls", list):
                calls.append(_call(fields, calls))
            return cls(
                **{name: _read(document, name, str) for name in _TRACE_TEXTS},
                began=None if began is None else datetime.fromisoformat(began),
                seconds=_seconds(document, "seconds"),
                output=document.get("output"),
                dropped=_read(document, "dropped", int),
                calls=tuple(calls),
            )
        except (ValueError, TypeError, LookupError, AttributeError, TooLargeError) as error:
            raise ConfigurationError("text is no trace in JSON") from error

    # --- drawings ---

    def to_tree(self) -> str:
        """Return a tree for a terminal, a line for each call: mark, name, arguments, seconds, output or error.

        Calls deeper than 40 levels are only counted.
        """
        lines: list[str] = []
        last: list[bool] = []
        hidden = 0
        for call in self.walk():
            if call.depth >= DRAWN_DEPTH:
                hidden += 1
                continue
            siblings = self._below[call.parent]
            del last[call.depth :]
            last.append(call is siblings[-1])
            branches = "".join("   " if each else "│  " for each in last[1:-1])
            if call.depth:
                branches += "└─ " if last[-1] else "├─ "
            lines.append(branches + _line(call))
        for count, what in ((hidden, "deeper"), (self.dropped, "more")):
            if count:
                lines.append(f"({count} {what} calls)")
        return "\n".join(lines)

    def to_mermaid(self) -> str:
        """Return a flow chart in the language of Mermaid (https://mermaid.js.org), of the first 300 calls."""
        lines = ["flowchart TD"]
        for call in self.calls[:DRAWN_CALLS]:
            seconds = "" if call.seconds is None else f"<br/>{call.seconds:.2f} s"
            lines.append(f'    c{call.index}["{_label(call.name)}{seconds}"]:::{call.status}')
            if call.parent is not None:
                lines.append(f"    c{call.parent} --> c{call.index}")
        left_out = len(self.calls[DRAWN_CALLS:]) + self.dropped
        if left_out:
            lines.append(f'    more["{left_out} more calls"]')
        lines.append("    classDef failed,canceled stroke:#c00,stroke-width:2px")
        lines.append("    classDef lost,running stroke-dasharray:4")
        return "\n".join(lines) + "\n"


_TRACE_TEXTS: Final = ("trace_id", "remote_trace_id", "server_url", "source", "status", "error")
_CALL_TEXTS: Final = ("node_id", "name", "category", "status", "error")
_CALL_FIELDS: Final = ("parent", *_CALL_TEXTS, "started", "ended", "arguments", "output", "is_cut")


# --- reading ----------------------------------------------------------------------------------------------------------


def _read(fields: Any, name: str, cls: type[Any]) -> Any:
    value = fields[name]
    if type(value) is not cls:
        raise TypeError(name)
    if name == "status" and value not in get_args(CallStatus):
        raise ValueError(name)
    if name == "source" and value not in get_args(Source):
        raise ValueError(name)
    if cls is int and value < 0:
        raise ValueError(name)
    return value


def _optional(fields: Any, name: str, cls: type[Any]) -> Any:
    return None if fields[name] is None else _read(fields, name, cls)


def _seconds(fields: Any, name: str) -> float | None:
    value = fields[name]
    if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
        raise TypeError(name)
    return cast("float | None", value)


def _call(fields: Any, before: list[TraceCall]) -> TraceCall:
    parent = cast("int | None", _optional(fields, "parent", int))
    return TraceCall(
        index=len(before),
        parent=parent,
        depth=0 if parent is None else before[parent].depth + 1,
        **{name: _read(fields, name, str) for name in _CALL_TEXTS},
        started=_seconds(fields, "started"),
        ended=_seconds(fields, "ended"),
        arguments=_read(fields, "arguments", dict),
        output=fields["output"],
        is_cut=_read(fields, "is_cut", bool),
    )


def _finite(value: Any) -> Any:
    """`value` with a text in place of each number that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_finite(item) for item in cast("list[Any]", value)]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


# --- drawing ----------------------------------------------------------------------------------------------------------


def _line(call: TraceCall) -> str:
    arguments = ", ".join(f"{name}={_json(value)}" for name, value in call.arguments.items())
    shown = escape_text(arguments, LINE // 2)
    if len(shown) < len(arguments):
        shown = f"{shown[:-1]}…"
    text = f"{MARKS[call.status]} {escape_text(call.name, LINE // 2)}({shown})"
    if call.seconds is not None:
        text += f" {call.seconds:.2f} s"
    is_failed = call.status in ("failed", "canceled", "skipped")
    if call.ended is not None and call.parent is not None and not is_failed:  # the output of the root is the answer
        text += f" → {_json(call.output)}"
    if call.error:
        text += f" ! {call.error}"
    return escape_text(text, LINE)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[: 4 * LINE]


def _label(text: str) -> str:
    """A text for a label: characters with a meaning in Mermaid or HTML by their numbers."""
    shown = escape_text(text, LINE // 2)
    return "".join(each if each.isalnum() or each in " _-." else f"#{ord(each)};" for each in shown)
