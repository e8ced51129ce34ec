"""The state of a conversation as a tree: events in, lines out.

Rule 1: pure. No terminal, no clock: the time, in seconds since the question was asked, comes with each event.
Rule 2: every class of event has its line in SEEN.
Rule 3: every text in a Line is safe to show and has no line break; `View.text` and `answer` are as received.
Rule 4: bounded. A remote that never stops calling fills no memory: what is beyond MOST is counted, not kept.
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
    ToolCall,
)
from oxygent_client.cli._safe import brief, line

__all__ = ["Line", "Mark", "Node", "Note", "View"]

MOST = 2000
"""How many calls and notes are kept together (a count). A terminal shows fifty lines."""
DEEPEST = 40
"""How deep calls are shown within calls (levels). In 80 columns there is no room for more."""

Mark: TypeAlias = Literal["running", "done", "lost", "think", "progress", "text", "error", "other"]
"""What a line tells: a call that runs, is over, or never came back; or the kind of a note."""
TEXT = 8000
"""How much of a text is kept while it grows (characters): a terminal shows less, and it is laid out again and again."""


@frozen
class Note:
    """Something an agent said. `share` is how much of its work is done, 0 to 1, where it told so."""

    mark: Mark
    text: str
    share: float | None = None


@define(eq=False)
class Node:
    """A call: whom, with what, since when; what came of it, and everything below it in the order it came."""

    node_id: str
    name: str
    category: str
    stack: tuple[str, ...]
    asked: str
    started: float
    depth: int = 0
    ended: float | None = None
    told: str = ""
    text: str = ""
    parts: list[Node | Note] = field(factory=list["Node | Note"])


@frozen
class Line:
    """One line of the picture: `guide` holds for each level above whether more follows there (innermost last)."""

    guide: tuple[bool, ...]
    mark: Mark
    name: str = ""
    category: str = ""
    text: str = ""
    seconds: float | None = None
    share: float | None = None


def _share(content: Any) -> tuple[float | None, str]:
    """How much is done and what else was said, from the shapes of progress that agents use."""
    if not isinstance(content, dict):
        return None, brief(content)
    fields = cast("dict[str, Any]", content)
    done, total = fields.get("step", fields.get("progress")), fields.get("of", 100 if "progress" in fields else None)
    words = next((fields[key] for key in ("message", "status", "text") if isinstance(fields.get(key), str)), "")
    if isinstance(done, int | float) and isinstance(total, int | float) and total > 0 and math.isfinite(done / total):
        return min(max(done / total, 0.0), 1.0), line(words) or f"{done} of {total}"
    return None, line(words) or brief(fields)


@define
class View:
    """A conversation so far. `see` takes each event; `lines` is the tree at a moment."""

    query: str = ""
    events: int = 0
    calls: int = 0
    hidden: int = 0
    """Calls and notes that were not kept (rule 4)."""
    text: str = ""
    """What the root has written so far, the last TEXT characters."""
    answer: Any = None
    answered: bool = False
    closed: bool = False
    """Nothing more will come: a call that is still open never came back."""
    top: list[Node | Note] = field(factory=list["Node | Note"], init=False)
    nodes: dict[str, Node] = field(factory=dict[str, Node], init=False)
    kept: int = field(default=0, init=False)

    def see(self, event: Event, at: float) -> None:
        """Take one event that came `at` seconds after the question."""
        self.events += 1
        SEEN.get(type(event), _other)(self, event, at)

    def lines(self, at: float) -> Iterator[Line]:
        """The tree, top down, as it stands `at` seconds after the question."""
        for part in self.top:
            yield from self._lines(part, (), at)

    @property
    def root(self) -> Node | None:
        """The call that the question became; None before it came."""
        return next(iter(self.nodes.values()), None)

    def youngest(self, *, name: str | None = None, stack: tuple[str, ...] | None = None) -> Node | None:
        """The open call of that name, or with that stack, that began last."""
        open_nodes = (node for node in reversed(self.nodes.values()) if node.ended is None)
        return next((node for node in open_nodes if name == node.name or stack == node.stack), None)

    def owner(self, event: Event) -> Node | None:
        """Whose event it is: by its node id, else the youngest open call of the agent it names, else the root's."""
        content = cast("dict[str, Any]", event.content) if isinstance(event.content, dict) else {}
        message = cast("dict[str, Any]", event.message) if isinstance(event.message, dict) else {}
        agent = content.get("agent", message.get("agent"))
        named = self.youngest(name=line(agent)) if isinstance(agent, str) else None
        return self.nodes.get(str(content.get("node_id", ""))) or named or self.root

    def keep(self, part: Node | Note, parent: Node | None) -> None:
        """Append to what a node shows; without a parent, to the top."""
        if self.kept >= MOST or (parent is not None and parent.depth >= DEEPEST):
            self.hidden += 1
            return
        self.kept += 1
        (self.top if parent is None else parent.parts).append(part)
        if isinstance(part, Node):
            self.nodes[part.node_id or f"#{self.calls}"] = part

    def _lines(self, part: Node | Note, guide: tuple[bool, ...], at: float) -> Iterator[Line]:
        if isinstance(part, Note):
            yield Line(guide, part.mark, text=part.text, share=part.share)
            return
        root = part is self.root
        if part.ended is not None:
            mark: Mark = "done"
            text = "" if root else part.told  # the root's is the answer, which is shown by itself
        else:
            mark = "lost" if self.closed else "running"
            text = line(part.text) or ("" if root else part.asked)
        seconds = None if mark == "lost" else (at if part.ended is None else part.ended) - part.started
        yield Line(guide, mark, part.name, part.category, text, seconds)
        for place, inner in enumerate(part.parts):
            yield from self._lines(inner, (*guide, place < len(part.parts) - 1), at)


# --- one function for each class of event -------------------------------------------------------------------------


def _note(view: View, event: Event, note: Note) -> None:
    view.keep(note, view.owner(event))


def _called(view: View, event: ToolCall, at: float) -> None:
    view.calls += 1
    stack = event.call_stack
    above = view.youngest(stack=stack[:-1]) if stack else view.youngest(name=line(event.caller))
    node = Node(event.node_id, line(event.callee), line(event.callee_category), stack, brief(event.arguments), at)
    node.depth = 0 if above is None else above.depth + 1
    view.keep(node, above)


def _returned(view: View, event: Observation, at: float) -> None:
    node = view.nodes.get(event.node_id)
    if node is not None:
        node.ended, node.told, node.text = at, brief(event.output), ""


def _answered(view: View, event: Answer, _: float) -> None:
    view.answer, view.answered = event.content, True


def _wrote(view: View, event: TextDelta, _: float) -> None:
    owner = view.owner(event)
    if owner is None or owner is view.root:
        view.text = (view.text + event.text)[-TEXT:]
    else:
        # Of an inner agent's text the line that is being written is enough.
        owner.text = (owner.text + event.text).rstrip("\n").rpartition("\n")[2]


def _progressed(view: View, event: Progress, _: float) -> None:
    share, words = _share(event.content)
    note = Note("progress", words, share)
    owner = view.owner(event)
    parts = view.top if owner is None else owner.parts
    for place, part in enumerate(parts):
        if isinstance(part, Note) and part.mark == "progress":
            parts[place] = note  # what counts is how far it is, not how it came there
            return
    view.keep(note, owner)


def _failed(view: View, event: RemoteErrorEvent, _: float) -> None:
    _note(view, event, Note("error", brief(event.content)))


def _said(view: View, event: Text, _: float) -> None:
    _note(view, event, Note("text", line(event.text)))


def _other(view: View, event: Event, _: float) -> None:
    if event.type == "think":
        _note(view, event, Note("think", brief(event.content)))
    else:
        kind = "" if event.type is None else f"{line(event.type)} "
        _note(view, event, Note("other", f"{kind}{brief(event.content)}"))


SEEN: Mapping[type[Event], Callable[[View, Any, float], None]] = {
    ToolCall: _called,
    Observation: _returned,
    Answer: _answered,
    TextDelta: _wrote,
    Progress: _progressed,
    RemoteErrorEvent: _failed,
    Text: _said,
    Custom: _other,
}
