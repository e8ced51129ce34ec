"""State of the live view: a tree of agents built from events.

Rule 1: pure, without a terminal or a clock: each event comes with its time, in seconds since the query was sent.
Rule 2: every event class has a line in HANDLERS.
Rule 3: the texts of a TreeLine are safe to show and have no line breaks; `View.text`, `draft` and `answer` are as
received.
Rule 4: bounded memory. Calls and notes beyond MAX_PARTS are only counted; texts are cut to a line.
Rule 5: linear time. The call of an event is found by look-ups (`OpenCalls`), however many calls are open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias, cast

from attrs import define, field, frozen

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
)
from oxygent_client.cli._terminal_text import brief, line
from oxygent_client.telemetry import OpenCalls

MAX_PARTS = 2000
"""The number of calls and notes that are stored. A terminal shows fifty lines."""
MAX_DEPTH = 40
"""The number of levels that are shown. 80 columns have no room for more."""

Mark: TypeAlias = Literal["running", "done", "lost", "think", "progress", "text", "error", "other"]
"""The kind of a line: a call that is running, done, or lost (it never returned); or the kind of a note."""
MAX_TEXT = 8000
"""Characters stored of a growing text, which is rendered repeatedly."""
MAX_LINE = 1000
"""Characters stored of the line that an inner agent writes."""


@frozen
class Note:
    """A message of an agent. `share` is the completed share of its work, 0 to 1, if known."""

    mark: Mark
    text: str
    share: float | None = None


@define(eq=False)
class Parts:
    """The parts below a call, or at the top, in order; and the index of the progress note."""

    shown: list[Node | Note] = field(factory=list["Node | Note"])
    progress: int | None = None


@define(eq=False)
class Node:
    """A call: the callee, its arguments, start, result, and all parts below it."""

    name: str
    category: str
    arguments: str
    started: float
    depth: int = 0
    ended: float | None = None
    result: str = ""
    text: str = ""
    parts: Parts = field(factory=Parts)


@frozen
class TreeLine:
    """One line of the tree; `guide` tells for each level above whether siblings follow (innermost last)."""

    guide: tuple[bool, ...]
    mark: Mark
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
    """The state of a run. `see` takes each event; `lines` returns the tree at a given time."""

    query: str = ""
    events: int = 0
    calls: int = 0
    hidden: int = 0
    """The number of calls and notes that were not stored (rule 4)."""
    text: str = ""
    """The last MAX_TEXT characters of the answer's text so far."""
    draft: str = ""
    """The current line of text that the root, or no known call, writes: of the answer none may be known yet."""
    answer: Any = None
    answered: bool = False
    closed: bool = False
    """Whether the run has ended: a call that is still open was lost."""
    top: Parts = field(factory=Parts, init=False)
    nodes: OpenCalls[Node] = field(factory=OpenCalls["Node"], init=False)
    root: Node | None = field(default=None, init=False)
    """The first call; None before it was received."""
    kept: int = field(default=0, init=False)

    def see(self, event: Event, at: float) -> None:
        """Take an event that was received `at` seconds after the query."""
        self.events += 1
        HANDLERS.get(type(event), _other)(self, event, at)

    def show_text(self, text: str) -> None:
        """Take the answer's text so far."""
        self.text = text[-MAX_TEXT:]

    def lines(self, at: float) -> Iterator[TreeLine]:
        """Return the tree, top down, at `at` seconds after the query."""
        for part in self.top.shown:
            yield from self._lines(part, (), at)

    def owner(self, event: Event) -> Node | None:
        """Return the call of an event: by node id, else the latest open call of its agent, else the root."""
        return self.nodes.subject_of(event) or self.root

    def keep(self, part: Node | Note, parent: Node | None) -> bool:
        """Append a part below `parent`, or at the top; beyond the limits, only count it and return False."""
        if self.kept >= MAX_PARTS or (parent is not None and parent.depth >= MAX_DEPTH):
            self.hidden += 1
            return False
        self.kept += 1
        (self.top if parent is None else parent.parts).shown.append(part)
        return True

    def _lines(self, part: Node | Note, guide: tuple[bool, ...], at: float) -> Iterator[TreeLine]:
        if isinstance(part, Note):
            yield TreeLine(guide, part.mark, text=part.text, share=part.share)
            return
        root = part is self.root
        if part.ended is not None:
            mark: Mark = "done"
            text = "" if root else part.result  # the root's result is the answer, which is shown separately
        else:
            mark = "lost" if self.closed else "running"
            text = line(part.text) or ("" if root else part.arguments)
        seconds = None if mark == "lost" else (at if part.ended is None else part.ended) - part.started
        yield TreeLine(guide, mark, part.name, part.category, text, seconds)
        for place, inner in enumerate(part.parts.shown):
            yield from self._lines(inner, (*guide, place < len(part.parts.shown) - 1), at)


# --- handlers of the event classes --------------------------------------------------------------------------


def _note(view: View, event: Event, note: Note) -> None:
    view.keep(note, view.owner(event))


def _called(view: View, event: ToolCall, at: float) -> None:
    view.calls += 1
    above = view.nodes.caller_of(event)
    node = Node(
        name=line(event.callee),
        category=line(event.callee_category),
        arguments=brief(event.arguments),
        started=at,
        depth=0 if above is None else above.depth + 1,
    )
    if view.keep(node, above):
        view.nodes.begin(event, node)
        view.root = view.root or node


def _returned(view: View, event: Observation, at: float) -> None:
    node = view.nodes.find(event.node_id)
    if node is not None:
        node.ended, node.result, node.text = at, brief(event.output), ""
        view.nodes.end(event.node_id)


def _answered(view: View, event: Answer, _: float) -> None:
    view.answer, view.answered = event.content, True


def _wrote(view: View, event: TextDelta, _: float) -> None:
    owner = view.owner(event)
    if owner is None or owner is view.root:  # its text is shown below the tree
        view.draft = _current_line(view.draft, event.text)
    else:
        owner.text = _current_line(owner.text, event.text)


def _current_line(before: str, piece: str) -> str:
    """Return the line that is being written; the rest of an agent's text is not shown."""
    return (before + piece).rstrip("\n").rpartition("\n")[2][:MAX_LINE]


def _progressed(view: View, event: Progress, _: float) -> None:
    share, words = _share(event.content)
    note = Note("progress", words, share)
    owner = view.owner(event)
    parts = view.top if owner is None else owner.parts
    if parts.progress is not None:
        parts.shown[parts.progress] = note  # only the latest progress is shown
        return
    if view.keep(note, owner):
        parts.progress = len(parts.shown) - 1


def _failed(view: View, event: RemoteErrorEvent, _: float) -> None:
    _note(view, event, Note("error", brief(event.content)))


def _said(view: View, event: Text, _: float) -> None:
    _note(view, event, Note("text", line(event.text)))


def _thought(view: View, event: Thought, _: float) -> None:
    _note(view, event, Note("think", brief(event.content)))


def _other(view: View, event: Event, _: float) -> None:
    kind = "" if event.type is None else f"{line(event.type)} "
    _note(view, event, Note("other", f"{kind}{brief(event.content)}"))


HANDLERS: Mapping[type[Event], Callable[[View, Any, float], None]] = {
    ToolCall: _called,
    Observation: _returned,
    Answer: _answered,
    TextDelta: _wrote,
    Progress: _progressed,
    RemoteErrorEvent: _failed,
    Text: _said,
    Thought: _thought,
    Custom: _other,
}
