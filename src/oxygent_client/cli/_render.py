"""What the conversation looks like: a View in, something that rich can print out.

Rule 1: no state and no clock; the same view at the same moment is the same picture.
Rule 2: remote text is never markup: it is a Text, or Markdown whose output is escaped once more (Escaped).
Rule 3: every line of the tree is one line of the terminal; what is too long ends in an ellipsis.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from attrs import frozen
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import Markdown
from rich.panel import Panel
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from oxygent_client.cli._safe import block, escaped, line
from oxygent_client.cli._view import Line, Mark, View

__all__ = ["Escaped", "Fitted", "answer", "organization", "question", "summary", "tree"]

# The longest text that is laid out as Markdown (characters): a megabyte takes seconds, and a person reads a page.
_MARKDOWN = 50_000
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAMES_PER_SECOND = 12


@frozen
class _Look:
    glyph: str
    ascii: str
    style: str
    words: str  # the style of the text behind it


LOOKS: Mapping[Mark, _Look] = {
    "running": _Look("", "", "cyan", "dim"),
    "done": _Look("✓", "+", "green", "dim"),
    "lost": _Look("○", "o", "yellow", "dim"),
    "think": _Look("✻", "*", "magenta", "italic dim"),
    "progress": _Look("▸", ">", "blue", "blue"),
    "text": _Look("»", ">", "blue", ""),
    "error": _Look("!", "!", "bold yellow", "yellow"),
    "other": _Look("·", "-", "dim", "dim"),
}
# Guides for the levels above and for the line's own, without and with more to follow.
_GUIDES = {False: ("   ", "│  ", "└─ ", "├─ "), True: ("   ", "|  ", "`- ", "|- ")}


@frozen
class Escaped:
    """A renderable whose text is escaped when it is laid out: Markdown turns `&#x202e;` into the character itself."""

    inner: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.inner, options):
            yield segment if segment.control else Segment(escaped(segment.text), segment.style)


@frozen
class Fitted:
    """A renderable in no more lines than the terminal has: the first, and as many of the last as there is room for."""

    inner: RenderableType
    height: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self.inner, options.update(height=None), pad=False)
        if len(lines) > self.height:
            more = [Segment(f"   … {len(lines) - self.height + 1} lines above", console.get_style("dim"))]
            lines = [*lines[:2], more, *lines[len(lines) - self.height + 3 :]]
        for row in lines:
            yield from row
            yield Segment.line()


def question(query: str) -> RenderableType:
    """The query, as the first line."""
    return Text.assemble(("▌ ", "bold cyan"), (line(query), "bold"), overflow="ellipsis", no_wrap=True)


def tree(view: View, at: float, *, ascii_only: bool = False) -> RenderableType:
    """The calls and notes so far, each with its time at the right edge."""
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    grid.add_column(justify="right", no_wrap=True)
    for shown in view.lines(at):
        seconds = Text("" if shown.seconds is None else f"{shown.seconds:.1f}s", LOOKS[shown.mark].words)
        grid.add_row(_line(shown, at, ascii_only=ascii_only), seconds)
    if view.hidden:
        grid.add_row(Text(f"and {view.hidden} more, not shown", "dim"))
    return grid


def _line(shown: Line, at: float, *, ascii_only: bool) -> Text:
    blank, through, last, more = _GUIDES[ascii_only]
    text = Text()
    for follows in shown.guide[:-1]:
        text.append(through if follows else blank, "bright_black")
    for follows in shown.guide[-1:]:
        text.append(more if follows else last, "bright_black")
    look = LOOKS[shown.mark]
    glyph = look.ascii if ascii_only else look.glyph
    if shown.mark == "running":
        frames = "-\\|/" if ascii_only else _SPINNER
        glyph = frames[int(at * _FRAMES_PER_SECOND) % len(frames)]
    text.append(f"{glyph} ", look.style)
    if shown.name:
        text.append(shown.name, "bold" if shown.category == "agent" else "")
        text.append("  " if shown.text else "")
    if shown.share is not None:
        done = round(shown.share * 10)
        text.append(("#" if ascii_only else "━") * done, "blue")
        text.append(("." if ascii_only else "━") * (10 - done), "bright_black")
        text.append(" ")
    text.append(shown.text, look.words)
    return text


def answer(content: Any, *, finished: bool) -> RenderableType:
    """The answer in its frame: text as Markdown, anything else as indented JSON."""
    if not isinstance(content, str):
        inner: RenderableType = Text(block(json.dumps(content, indent=2, ensure_ascii=False)))
    elif len(content) <= _MARKDOWN:
        # No hyperlinks: a terminal would show the words of a link and hide where it leads.
        inner = Escaped(Markdown(block(content), hyperlinks=False))
    else:
        inner = Text(block(content))
    style = "green" if finished else "bright_black"
    return Panel(inner, box=box.ROUNDED, border_style=style, padding=(1, 2), title="answer" if finished else None)


def summary(view: View, at: float, trace_id: str) -> RenderableType:
    """The closing line: how much came in how long, and the id that finds it again in the server's records."""
    facts = [f"{view.events} events", f"{view.calls} calls", f"{at:.1f} s"]
    return Text("  ".join([" · ".join(facts), f"trace {line(trace_id)}"]), "dim")


def organization(document: Mapping[str, Any]) -> RenderableType:
    """The agents and tools of a remote, as a tree."""
    drawn = Tree(_member(document), guide_style="bright_black")
    _grow(drawn, document)
    return drawn


def _member(document: Mapping[str, Any]) -> Text:
    kind, name = line(str(document.get("type", ""))), line(str(document.get("name", ""))) or "(no agents)"
    style = {"agent": "bold cyan", "flow": "bold cyan", "llm": "magenta"}.get(kind, "")
    return Text.assemble((name, style), (f"  {kind}", "dim") if kind else "")


def _grow(drawn: Tree, document: Mapping[str, Any]) -> None:
    children = document.get("children")
    for child in cast("list[Any]", children) if isinstance(children, list) else []:
        if isinstance(child, dict):
            member = cast("dict[str, Any]", child)
            _grow(drawn.add(_member(member)), member)
