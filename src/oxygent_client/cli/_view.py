"""State of the live view: a tree of agents built from events.

Rule 1: pure. No terminal, no clock: the time, in seconds since the question was asked, comes with each event.
Rule 2: every class of event has its line in SEEN.
Rule 3: every text in a TreeLine is safe to show and has no line break; `View.text` and `answer` are as received.
Rule 4: bounded. A remote that never stops calling fills no memory: what is beyond MOST is counted, not kept. Of ids and
stacks a digest is kept where they are long, of texts as much as a line shows.
Rule 5: linear. An event is found its call by look-ups, however many are open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
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
from oxygent_client.cli._terminal_text import brief, line

__all__ = ["Mark", "Node", "Note", "TreeLine", "View"]

MOST = 2000
"""How many calls and notes are kept together (a count). A terminal shows fifty lines."""
DEEPEST = 40
"""How deep calls are shown within calls (levels). In 80 columns there is no room for more."""

Mark: TypeAlias = Literal["running", "done", "lost", "think", "progress", "text", "error", "other"]
"""What a line tells: a call that runs, is over, or never came back; or the kind of a note."""
TEXT = 8000
"""How much of a text is kept while it grows (characters): a terminal shows less, and it is laid out again and again."""
LINE = 1000
"""How much of the line that an inner agent writes is kept (characters)."""
_SHORT = 64  # the longest key that is no digest (characters)


@frozen
class Note:
    """Something an agent said. `share` is how much of its work is done, 0 to 1, where it told so."""

    mark: Mark
    text: str
    share: float | None = None


@define(eq=False)
class Parts:
    """What is shown below a call, or at the top, in the order it came; and where in it the last progress stands."""

    shown: list[Node | Note] = field(factory=list["Node | Note"])
    progress: int | None = None


@define(eq=False)
class Node:
    """A call: whom, with what, since when; what came of it, and everything below it."""

    key: str
    name: str
    category: str
    stack: str
    """The key of its stack."""
    asked: str
    started: float
    depth: int = 0
    ended: float | None = None
    told: str = ""
    text: str = ""
    parts: Parts = field(factory=Parts)


@frozen
class TreeLine:
    """One line of the picture: `guide` holds for each level above whether more follows there (innermost last)."""

    guide: tuple[bool, ...]
    mark: Mark
    name: str = ""
    category: str = ""
    text: str = ""
    seconds: float | None = None
    share: float | None = None


def _key(*names: str) -> str:
    """A short text for these names, and another for others."""
    text = "".join(f"{len(name)}:{name}" for name in names)
    if len(text) <= _SHORT:
        return text
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _ratio(done: Any, total: Any) -> float | None:
    """How much is done, 0 to 1; None where these are no numbers that say so."""
    if not _number(done) or not _number(total):
        return None
    try:
        known = total > 0 and math.isfinite(total) and math.isfinite(done / total)
        return min(max(done / total, 0.0), 1.0) if known else None
    except OverflowError:  # an integer that no float can hold
        return None


def _share(content: Any) -> tuple[float | None, str]:
    """How much is done and what else was said, from the shapes of progress that agents use."""
    if not isinstance(content, dict):
        return None, brief(content)
    fields = cast("dict[str, Any]", content)
    done, total = fields.get("step", fields.get("progress")), fields.get("of", 100 if "progress" in fields else None)
    words = next((fields[key] for key in ("message", "status", "text") if isinstance(fields.get(key), str)), "")
    share = _ratio(done, total)
    return share, line(words) or (brief(fields) if share is None else line(f"{done} of {total}"))


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
    top: Parts = field(factory=Parts, init=False)
    nodes: dict[str, Node] = field(factory=dict[str, Node], init=False)
    kept: int = field(default=0, init=False)
    _named: dict[str, dict[str, Node]] = field(factory=dict[str, dict[str, Node]], init=False)
    """The open calls, by their names and their keys, the youngest last."""
    _stacked: dict[str, dict[str, Node]] = field(factory=dict[str, dict[str, Node]], init=False)
    """The same by the keys of their stacks."""

    def see(self, event: Event, at: float) -> None:
        """Take one event that came `at` seconds after the question."""
        self.events += 1
        SEEN.get(type(event), _other)(self, event, at)

    def lines(self, at: float) -> Iterator[TreeLine]:
        """The tree, top down, as it stands `at` seconds after the question."""
        for part in self.top.shown:
            yield from self._lines(part, (), at)

    @property
    def root(self) -> Node | None:
        """The call that the question became; None before it came."""
        return next(iter(self.nodes.values()), None)

    def named(self, name: str) -> Node | None:
        """The open call of that name that began last."""
        return next(reversed(self._named.get(name, {}).values()), None)

    def stacked(self, stack: str) -> Node | None:
        """The open call with the stack of that key that began last."""
        return next(reversed(self._stacked.get(stack, {}).values()), None)

    def find(self, node_id: Any) -> Node | None:
        """The call of that node id."""
        return self.nodes.get(_key(node_id)) if isinstance(node_id, str) else None

    def owner(self, event: Event) -> Node | None:
        """Whose event it is: by its node id, else the youngest open call of the agent it names, else the root's."""
        content = cast("dict[str, Any]", event.content) if isinstance(event.content, dict) else {}
        message = cast("dict[str, Any]", event.message) if isinstance(event.message, dict) else {}
        agent = content.get("agent", message.get("agent"))
        named = self.named(line(agent)) if isinstance(agent, str) else None
        return self.find(content.get("node_id")) or named or self.root

    def keep(self, part: Node | Note, parent: Node | None) -> None:
        """Append to what a node shows; without a parent, to the top."""
        if self.kept >= MOST or (parent is not None and parent.depth >= DEEPEST):
            self.hidden += 1
            return
        self.kept += 1
        (self.top if parent is None else parent.parts).shown.append(part)
        if isinstance(part, Node):
            self._open(part)

    def close(self, node: Node) -> None:
        """Find the call no more by its name and stack."""
        for known in (self._named.get(node.name, {}), self._stacked.get(node.stack, {})):
            known.pop(node.key, None)

    def _open(self, node: Node) -> None:
        again = self.nodes.get(node.key)
        if again is not None:  # two calls of one id: the later one is meant from now on
            self.close(again)
        self.nodes[node.key] = node
        self._named.setdefault(node.name, {})[node.key] = node
        self._stacked.setdefault(node.stack, {})[node.key] = node

    def _lines(self, part: Node | Note, guide: tuple[bool, ...], at: float) -> Iterator[TreeLine]:
        if isinstance(part, Note):
            yield TreeLine(guide, part.mark, text=part.text, share=part.share)
            return
        root = part is self.root
        if part.ended is not None:
            mark: Mark = "done"
            text = "" if root else part.told  # the root's is the answer, which is shown by itself
        else:
            mark = "lost" if self.closed else "running"
            text = line(part.text) or ("" if root else part.asked)
        seconds = None if mark == "lost" else (at if part.ended is None else part.ended) - part.started
        yield TreeLine(guide, mark, part.name, part.category, text, seconds)
        for place, inner in enumerate(part.parts.shown):
            yield from self._lines(inner, (*guide, place < len(part.parts.shown) - 1), at)


# --- one function for each class of event -------------------------------------------------------------------------


def _note(view: View, event: Event, note: Note) -> None:
    view.keep(note, view.owner(event))


def _called(view: View, event: ToolCall, at: float) -> None:
    view.calls += 1
    stack = event.call_stack
    above = view.stacked(_key(*stack[:-1])) if stack else view.named(line(event.caller))
    node = Node(
        key=_key(event.node_id) if event.node_id else f"#{view.calls}",
        name=line(event.callee),
        category=line(event.callee_category),
        stack=_key(*stack),
        asked=brief(event.arguments),
        started=at,
        depth=0 if above is None else above.depth + 1,
    )
    view.keep(node, above)


def _returned(view: View, event: Observation, at: float) -> None:
    node = view.find(event.node_id)
    if node is not None:
        node.ended, node.told, node.text = at, brief(event.output), ""
        view.close(node)


def _answered(view: View, event: Answer, _: float) -> None:
    view.answer, view.answered = event.content, True


def _wrote(view: View, event: TextDelta, _: float) -> None:
    owner = view.owner(event)
    if owner is None or owner is view.root:
        view.text = (view.text + event.text)[-TEXT:]
    else:
        # Of an inner agent's text the line that is being written is enough.
        owner.text = (owner.text + event.text).rstrip("\n").rpartition("\n")[2][:LINE]


def _progressed(view: View, event: Progress, _: float) -> None:
    share, words = _share(event.content)
    note = Note("progress", words, share)
    owner = view.owner(event)
    parts = view.top if owner is None else owner.parts
    if parts.progress is not None:
        parts.shown[parts.progress] = note  # what counts is how far it is, not how it came there
        return
    place = len(parts.shown)
    view.keep(note, owner)
    if len(parts.shown) > place:
        parts.progress = place


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
