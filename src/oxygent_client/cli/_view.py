"""State of the live view: the calls of the run's trace, with notes about what the agents say.

Rule 1: pure, without a terminal or a clock. Calls, with their times, errors and ends, are those of the trace
    (`show_trace`); what a trace does not have is taken from the events (`see`): notes, and the lines being written.
Rule 2: every event class has a line in HANDLERS.
Rule 3: the texts of a TreeLine are safe to show and have no line breaks; `View.text`, `draft` and `answer` are as
    received.
Rule 4: bounded memory. Calls and notes beyond MAX_PARTS are only counted; texts are cut to a line.
Rule 5: linear time. An event comes with its call, and the text of a call is made once for each of its values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias, cast

from attrs import define, evolve, field, frozen

from oxygent_client import (
    Answer,
    Custom,
    Event,
    Observation,
    Progress,
    RemoteErrorEvent,
    Text,
    TextDelta,
    Thought,
    ToolCall,
    Trace,
    TraceCall,
)
from oxygent_client.cli._terminal_text import brief, line

MAX_PARTS = 2000
"""The number of calls and notes that are shown. A terminal shows fifty lines."""
MAX_TEXT = 8000
"""Characters stored of a growing text, which is rendered repeatedly."""
MAX_LINE = 1000
"""Characters stored of the line that an inner agent writes."""

MAX_DEPTH = 40
"""The number of levels below the top that are shown. 80 columns have no room for more."""

Mark: TypeAlias = Literal[
    "running", "completed", "failed", "canceled", "skipped", "lost", "think", "progress", "text", "error", "other"
]
"""The kind of a line: how a call stands, or the kind of a note."""


@frozen
class Note:
    """A message of an agent."""

    call: int | None
    """The place of its call in the trace; None at the top."""
    mark: Mark
    text: str
    share: float | None = None
    """The completed share of the agent's work, 0 to 1, if known."""


@frozen
class TreeLine:
    """One line of the tree: its branches, and what stands there."""

    branches: str
    mark: Mark
    glyph: str = ""
    name: str = ""
    category: str = ""
    text: str = ""
    seconds: float | None = None
    share: float | None = None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _ratio(done: Any, total: Any) -> float | None:
    """Return the completed share, 0 to 1; None if it cannot be computed."""
    if not _number(done) or not _number(total):
        return None
    try:
        known = total > 0 and math.isfinite(total) and math.isfinite(done / total)
        return min(max(done / total, 0.0), 1.0) if known else None
    except OverflowError:  # an integer that no float can hold
        return None


def _share(content: Any) -> tuple[float | None, str]:
    """Return the completed share and the text of a progress message, from the formats that agents use."""
    if not isinstance(content, dict):
        return None, brief(content)
    fields = cast("dict[str, Any]", content)
    done, total = fields.get("step", fields.get("progress")), fields.get("of", 100 if "progress" in fields else None)
    words = next((fields[key] for key in ("message", "status", "text") if isinstance(fields.get(key), str)), "")
    share = _ratio(done, total)
    return share, line(words) or (brief(fields) if share is None else line(f"{done} of {total}"))


@define
class View:
    """The state of a run. `see` takes each event, `show_trace` the calls; `lines` returns the tree."""

    events: int = 0
    calls: int = 0
    hidden: int = 0
    """The number of calls and notes that are not shown (rule 4)."""
    text: str = ""
    """The last MAX_TEXT characters of the answer's text so far."""
    draft: str = ""
    """The current line of text that the root, or no known call, writes: of the answer none may be known yet."""
    trace: Trace = field(factory=Trace, init=False)
    """The calls so far."""
    parts: list[int | Note] = field(factory=list["int | Note"], init=False)
    """What is shown, in the order in which it began: the places of calls in the trace, and notes."""
    texts: dict[int, str] = field(factory=dict[int, str], init=False)
    """The line that each open call below the root writes, by the call's place."""
    root: TraceCall | None = field(default=None, init=False)
    """The first call; None before it was received."""
    _begun: int = field(default=0, init=False)
    """The number of calls in the trace so far."""
    _progress: dict[int | None, int] = field(factory=dict["int | None", int], init=False)
    """For each call the place of its progress in `parts`."""
    _shown: dict[int, tuple[TraceCall, str, str, str]] = field(
        factory=dict[int, "tuple[TraceCall, str, str, str]"], init=False
    )
    """Name, category and text of each call, as they were last."""

    def see(self, event: Event, call: TraceCall | None) -> None:
        """Take an event, and the call that it is about."""
        self.events += 1
        if call is not None and call.index >= self._begun:
            self._begun = call.index + 1
            self.root = self.root or call
            self._keep(call.index, call.depth)
        HANDLERS.get(type(event), _other)(self, event, call or self.root)

    def show_text(self, text: str) -> None:
        """Take the answer's text so far."""
        self.text = text[-MAX_TEXT:]

    def show_trace(self, trace: Trace) -> None:
        """Take the calls so far."""
        if trace.source != self.trace.source:  # the stream was cut, and the calls are those of the server's record
            self._replace_calls(trace)
        self.trace = trace

    def _replace_calls(self, trace: Trace) -> None:
        places = {call.node_id: call.index for call in trace.calls}
        owners = [places.get(call.node_id) for call in self.trace.calls]
        notes = [part for part in self.parts if isinstance(part, Note)]
        self.parts = []
        for call in trace.calls:
            self._keep(call.index, call.depth)
        for note in notes:
            self._keep(note if note.call is None else evolve(note, call=owners[note.call]), 0)

    def lines(self) -> Iterator[TreeLine]:
        """Return the tree, top down, at the time of the trace."""
        calls = self.trace.calls
        below: dict[int | None, list[TraceCall | Note]] = {}
        for part in self.parts:
            if isinstance(part, Note):
                below.setdefault(part.call, []).append(part)
            elif part < len(calls):
                below.setdefault(calls[part].parent, []).append(calls[part])
        for branches, shown in self.trace.outline(below, levels=MAX_DEPTH + 1):
            if isinstance(shown, Note):
                yield TreeLine(branches, shown.mark, text=shown.text, share=shown.share)
            else:
                yield self._line(branches, shown)

    def note(self, call: TraceCall | None, mark: Mark, text: str, share: float | None = None) -> None:
        """Take a note of a call. Of its progress only the latest is shown."""
        note = Note(None if call is None else call.index, mark, text, share)
        place = self._progress.get(note.call) if mark == "progress" else None
        if place is not None:
            self.parts[place] = note
        elif self._keep(note, 0 if call is None else call.depth + 1) and mark == "progress":
            self._progress[note.call] = len(self.parts) - 1

    def _keep(self, part: int | Note, depth: int) -> bool:
        """Append a part; beyond the limits, only count it and return False."""
        if len(self.parts) >= MAX_PARTS or depth > MAX_DEPTH:
            self.hidden += 1
            return False
        self.parts.append(part)
        return True

    def _line(self, branches: str, call: TraceCall) -> TreeLine:
        end = self.trace.seconds if call.status == "running" else call.ended
        seconds = None if end is None or call.started is None else end - call.started
        shown = self._shown.get(call.index)
        if shown is None or shown[0] is not call:
            shown = self._shown[call.index] = call, line(call.name), line(call.category), _text(call)
        _, name, category, text = shown
        if call.index in self.texts:
            text = line(self.texts[call.index]) or text
        return TreeLine(branches, call.status, call.mark, name, category, text, seconds)


def _text(call: TraceCall) -> str:
    """Return the text of a call: its error or output, or its arguments until it has ended."""
    if call.parent is None and not call.is_failed:
        return ""  # the query and the answer are shown separately
    return brief(call.error if call.is_failed else call.output if call.ended is not None else call.arguments)


# --- handlers of the event classes --------------------------------------------------------------------------

Handler: TypeAlias = Callable[[View, Any, "TraceCall | None"], None]


def _called(view: View, _event: ToolCall, _call: TraceCall | None) -> None:
    view.calls += 1


def _returned(view: View, _event: Observation, call: TraceCall | None) -> None:
    if call is not None:
        view.texts.pop(call.index, None)


def _answered(_view: View, _event: Answer, _call: TraceCall | None) -> None:
    """The answer is shown separately."""


def _wrote(view: View, event: TextDelta, call: TraceCall | None) -> None:
    if call is None or call.index == 0:  # its text is shown below the tree
        view.draft = _current_line(view.draft, event.text)
    elif call.index in view.texts or len(view.texts) < MAX_PARTS:
        view.texts[call.index] = _current_line(view.texts.get(call.index, ""), event.text)


def _current_line(before: str, piece: str) -> str:
    """Return the line that is being written; the rest of an agent's text is not shown."""
    return (before + piece).rstrip("\n").rpartition("\n")[2][:MAX_LINE]


def _noting(mark: Mark, text: Callable[[Any], str]) -> Handler:
    """Return a handler that takes an event as a note."""

    def handle(view: View, event: Event, call: TraceCall | None) -> None:
        view.note(call, mark, text(event))

    return handle


def _progressed(view: View, event: Progress, call: TraceCall | None) -> None:
    share, words = _share(event.content)
    view.note(call, "progress", words, share)


_other: Handler = _noting(
    "other", lambda event: f"{line(event.type)} {brief(event.content)}" if event.type else brief(event.content)
)
HANDLERS: Mapping[type[Event], Handler] = {
    ToolCall: _called,
    Observation: _returned,
    Answer: _answered,
    TextDelta: _wrote,
    Progress: _progressed,
    RemoteErrorEvent: _noting("error", lambda event: brief(event.content)),
    Text: _noting("text", lambda event: line(event.text)),
    Thought: _noting("think", lambda event: brief(event.content)),
    Custom: _other,
}
