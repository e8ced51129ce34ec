"""Draw the tree of a run with rich.

Rule 1: no state and no clock: equal views at equal times render equally.
Rule 2: remote text is never rich markup: it is a Text, or rendered by `_markdown`, and never chooses a lexer.
Rule 3: each line of the tree is one line of the terminal; long ones end with an ellipsis.
Rule 4: bounded. The live display renders no more than the terminal shows; text too long for a frame is printed
    unchanged; omitted lines are counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from attrs import frozen
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.segment import Segment
from rich.text import Text

from oxygent_client.cli._markdown import render_markdown
from oxygent_client.cli._terminal_text import block, brief, indented, line
from oxygent_client.cli._view import Mark, TreeLine, View

# The longest text with a frame (characters, lines): a megabyte would take seconds.
_FRAMED = 50_000
_FRAMED_LINES = 2000
MEMBERS: Final = 1000
"""The number of members of an organization that are shown."""
_NAME = 100  # characters of a member's name that are shown
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAMES_PER_SECOND = 12


@frozen
class _Style:
    style: str
    text: str  # the style of the text after it
    glyph: str = ""  # of a note; that of a call is its `mark`


STYLES: Mapping[Mark, _Style] = {
    "running": _Style("cyan", "dim"),
    "completed": _Style("green", "dim"),
    "failed": _Style("red", "red"),
    "canceled": _Style("yellow", "yellow"),
    "skipped": _Style("dim", "dim"),
    "lost": _Style("yellow", "dim"),
    "think": _Style("magenta", "italic dim", "✻"),
    "progress": _Style("blue", "blue", "▸"),
    "text": _Style("blue", "", "»"),
    "error": _Style("bold yellow", "yellow", "!"),
    "other": _Style("dim", "dim", "·"),
}
_ASCII = str.maketrans("✓✗✻▸»·│├└─", "+x*>>-||`-")


@frozen
class Guarded:
    """The renderable that `make` returns, or a line about the error if it cannot be rendered."""

    part: str
    make: Callable[[], RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        try:
            yield from list(console.render(self.make(), options))
        except Exception as error:  # noqa: BLE001  (caused by remote text; the rest is shown)
            yield Text(f"{self.part} cannot be shown ({type(error).__name__})", "yellow")


@frozen
class RawText:
    """An unformatted text whose lines the terminal breaks: fast for any length."""

    text: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment(f"{self.text}\n")


@frozen
class FitHeight:
    """A renderable cut to the height of the terminal: its first lines, and as many of the last as fit."""

    inner: RenderableType
    height: int
    above: int = 0
    """The number of lines that `inner` omitted itself."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self.inner, options.update(height=None), pad=False)
        if len(lines) > self.height:
            more = [Segment(f"   … {len(lines) - self.height + 1 + self.above} lines above", console.get_style("dim"))]
            lines = [*lines[:2], more, *lines[len(lines) - self.height + 3 :]]
        for row in lines:
            yield from row
            yield Segment.line()


def query(text: str) -> RenderableType:
    """Render the query, the first line."""
    return Text.assemble(("▌ ", "bold cyan"), (line(text), "bold"), overflow="ellipsis", no_wrap=True)


@frozen
class _Rows:
    """The lines of the tree, each with its seconds at the right edge."""

    lines: Sequence[TreeLine]
    at: float
    ascii_only: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        times = ["" if each.seconds is None else f"{each.seconds:.1f}s" for each in self.lines]
        edge = max(map(len, times), default=0)
        room = max(options.max_width - edge - 1, 1)
        for each, seconds in zip(self.lines, times, strict=True):
            text = _line(each, self.at, ascii_only=self.ascii_only)
            text.truncate(room, overflow="ellipsis", pad=True)
            yield from text.append(f" {seconds:>{edge}}", STYLES[each.mark].text).render(console, end="\n")


def tree(view: View, at: float, *, ascii_only: bool = False, last: int | None = None) -> RenderableType:
    """Render the calls and notes so far, each with its time at the right edge; with `last`, only so many last lines."""
    rows = _Rows(deque(view.lines(), last), at, ascii_only)
    hidden = view.hidden + view.trace.dropped
    return Group(rows, Text(f"and {hidden} more, not shown", "dim")) if hidden else rows


def _line(shown: TreeLine, at: float, *, ascii_only: bool) -> Text:
    style = STYLES[shown.mark]
    branches, glyph = shown.branches, shown.glyph or style.glyph
    if ascii_only:
        branches, glyph = branches.translate(_ASCII), glyph.translate(_ASCII)
    if shown.mark == "running":
        frames = "-\\|/" if ascii_only else _SPINNER
        glyph = frames[int(at * _FRAMES_PER_SECOND) % len(frames)]
    text = Text.assemble((branches, "bright_black"), (f"{glyph} ", style.style))
    if shown.name:
        text.append(shown.name, "bold" if shown.category == "agent" else "")
        text.append("  " if shown.text else "")
    if shown.share is not None:
        done = round(shown.share * 10)
        text.append(("#" if ascii_only else "━") * done, "blue")
        text.append(("." if ascii_only else "━") * (10 - done), "bright_black")
        text.append(" ")
    text.append(shown.text, style.text)
    return text


def answer(content: Any, *, finished: bool, last: int | None = None) -> RenderableType:
    """Render the answer in a frame: a `str` as Markdown, any other value as indented JSON.

    With `last`, only so many last lines are rendered. Content that is too long for a frame is not formatted.
    """
    text = block(content if isinstance(content, str) else indented(content))
    if len(text) > _FRAMED or text.count("\n") > _FRAMED_LINES:
        return RawText(text)
    inner = Group(*render_markdown(text, last=last)) if isinstance(content, str) else Text(text)
    style = "green" if finished else "bright_black"
    return Panel(inner, box=box.ROUNDED, border_style=style, padding=(1, 2), title="answer" if finished else None)


def summary(view: View, at: float, trace_id: str) -> RenderableType:
    """Render the last line: number of events and calls, duration, and the trace id at the server."""
    facts = [f"{view.events} events", f"{view.calls} calls", f"{at:.1f} s"]
    return Text("  ".join([" · ".join(facts), f"trace {line(trace_id)}"]), "dim")


_Guide: TypeAlias = "tuple[_Guide, bool] | None"
"""Whether siblings follow at a level, linked to the levels above; shared, so that depth costs nothing."""
_BRANCHES = {False: ("    ", "│   ", "└── ", "├── "), True: ("    ", "|   ", "`-- ", "|-- ")}


def organization(document: Mapping[str, Any]) -> RenderableType:
    """Render the agents and tools of a remote as a tree: the first MEMBERS, and the number of others."""
    return _Organization(document)


@frozen
class _Organization:
    document: Mapping[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        blank, through, last, more = _BRANCHES[options.ascii_only]
        deepest = max((options.max_width - 30) // len(blank), 1)  # levels that leave room for a name
        hidden = 0
        for number, (guide, member) in enumerate(_members(self.document)):
            if number >= MEMBERS:
                hidden += 1
                continue
            levels = _levels(guide)
            before = "".join(through if follows else blank for follows in levels[:-1][: deepest - 1])
            branch, below = ((more, through) if levels[-1] else (last, blank)) if levels else ("", "")
            text = _member(member)
            if len(levels) > deepest:  # no room for deeper indentation
                text = Text.assemble((f"level {len(levels) + 1}: ", "dim"), text)
            room = max(options.max_width - len(before + branch), 1)
            parts = [text] if text.cell_len <= room else text.wrap(console, room, overflow="fold")
            for part in parts:
                yield from Text.assemble((before + branch, "bright_black"), part).render(console, end="\n")
                branch = below
        if hidden:
            yield Text(f"and {hidden} more members, not shown; --json shows all", "dim")


def _members(document: Mapping[str, Any]) -> Iterator[tuple[_Guide, Mapping[str, Any]]]:
    waiting: list[tuple[_Guide, Mapping[str, Any]]] = [(None, document)]
    while waiting:
        guide, member = waiting.pop()
        yield guide, member
        listed = member.get("children")
        children = [
            cast("dict[str, Any]", child)
            for child in (cast("list[Any]", listed) if isinstance(listed, list) else ())
            if isinstance(child, dict)
        ]
        waiting.extend(((guide, place > 0), child) for place, child in enumerate(reversed(children)))


def _levels(guide: _Guide) -> list[bool]:
    levels: list[bool] = []
    while guide is not None:
        guide, follows = guide
        levels.append(follows)
    return levels[::-1]


def _member(document: Mapping[str, Any]) -> Text:
    kind, name = (_clipped(brief(document.get(key, ""))) for key in ("type", "name"))
    style = {"agent": "bold cyan", "flow": "bold cyan", "llm": "magenta"}.get(kind, "")
    return Text.assemble((name or "(no agents)", style), (f"  {kind}", "dim") if kind else "")


def _clipped(text: str) -> str:
    return text if len(text) <= _NAME else f"{text[:_NAME]}…"
