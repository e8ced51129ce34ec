"""`Trace`: the calls of one run as a tree, with times, arguments, outputs and errors.

Rule 1: a trace is a value: frozen, compares by content, pickles, and goes through JSON and back.
Rule 2: remote text is escaped in `to_tree`, `to_mermaid` and `report`, and nowhere else.
"""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any, Final, Self, cast, get_args

import attrs

from oxygent_client._core import json_codec
from oxygent_client._core.call_tree import CallStatus, CallTree, Source, TraceCall
from oxygent_client._core.errors import ConfigurationError, TooLargeError
from oxygent_client._core.text import escape_text

VERSION: Final = 1
DEEPEST: Final = 1000
"""Levels of nested JSON that `from_json` reads; received JSON has at most 400."""
DRAWN_CALLS: Final = 300
"""Calls in a Mermaid diagram, which draws 500 edges at most."""
LINE: Final = 160
"""Characters of a line of the tree, without its branches."""


@attrs.frozen(kw_only=True)
class Trace(CallTree):
    """The calls of one run, from its events (`Run.trace`) or from the server's record (`RunRecord.trace`)."""

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
            finite = json.loads(json.dumps(document), parse_constant=lambda name: str(float(name)))
            return json.dumps(finite, indent=indent)

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
        lines = [branches + _line(call) for branches, call in self.outline()]
        for count, what in ((len(self.calls) - len(lines), "deeper"), (self.dropped, "more")):
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

    def report(self) -> str:
        """Return a page of HTML for people: the tree, a timeline, and arguments, output and error of each call.

        It is one file that needs no other, and no network. It shows the first 2,000 calls; a long text is cut, and the
        page tells how much is left out. Text of the remote is escaped, and runs nothing. Credentials are redacted.
        """
        from oxygent_client._core.report import render

        return render(self)


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


# --- drawing ----------------------------------------------------------------------------------------------------------


def _line(call: TraceCall) -> str:
    arguments = ", ".join(f"{name}={_json(value)}" for name, value in call.arguments.items())
    shown = escape_text(arguments, LINE // 2)
    if len(shown) < len(arguments):
        shown = f"{shown[:-1]}…"
    text = f"{call.mark} {escape_text(call.name, LINE // 2)}({shown})"
    if call.seconds is not None:
        text += f" {call.seconds:.2f} s"
    # The output of the root is the answer.
    if call.ended is not None and call.parent is not None and not call.is_failed:
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
