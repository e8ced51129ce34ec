"""Render Markdown for a terminal in linear time.

Rule 1: linear time. Each line is parsed by itself, and the text between two marks has at most SPAN characters. Tables
    have at most CELLS cells per text; further tables are shown unformatted.
Rule 2: no lexer. Code is shown unhighlighted, since rich's own renderer lets the remote choose a Pygments lexer, and
    some lexers take exponential time.
Rule 3: a link is shown with its URL, and an entity as its character, escaped like all text.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from itertools import islice, takewhile
from typing import Final, Literal

from rich import box
from rich.table import Table
from rich.text import Text

from oxygent_client.cli._terminal_text import escaped

SPAN: Final = 200
"""The longest text between two marks, in characters."""
CELLS: Final = 1000
"""The number of cells of all tables of a text."""
COLUMNS: Final = 12
"""The number of columns of a table."""
_MAX_LINE: Final = 2000
"""The longest line that is parsed for marks, in characters."""

_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING: Final = re.compile(r" {0,3}#{1,6}[ \t]+")
_BULLET: Final = re.compile(r"( *)[-*+][ \t]+")
_QUOTE: Final = re.compile(r"(?: {0,3}> ?)+")
_RULE: Final = re.compile(r" {0,3}([-*_])(?: *\1){2,} *$")
_DASHES: Final = re.compile(":?-+:?")
_BAR: Final = re.compile(r"(?<!\\)\|")
_JUSTIFIED: Final[Mapping[tuple[bool, bool], Literal["left", "center", "right"]]] = {
    # (colon at the left, colon at the right)
    (False, False): "left",
    (True, False): "left",
    (True, True): "center",
    (False, True): "right",
}
_MARKS: Final = re.compile(
    rf"""
      \\(?P<literal>[!-/:-@\[-`{{-~])
    | (?P<ticks>`{{1,2}})(?P<code>[^`]{{1,{SPAN}}})(?P=ticks)(?!`)
    | \*\*(?=\S)(?P<strong>.{{1,{SPAN}}}?)(?<=\S)\*\*
    | (?<!\w)__(?=\S)(?P<strong_>.{{1,{SPAN}}}?)(?<=\S)__(?!\w)
    | (?<![*\w])\*(?=\S)(?P<em>[^*]{{1,{SPAN}}})(?<=\S)\*(?![*\w])
    | (?<!\w)_(?=\S)(?P<em_>[^_]{{1,{SPAN}}})(?<=\S)_(?!\w)
    | ~~(?=\S)(?P<struck>[^~]{{1,{SPAN}}})(?<=\S)~~
    | \[(?P<words>[^\[\]]{{1,{SPAN}}})\]\((?P<address>[^\s()]{{1,{2 * SPAN}}})\)
    """,
    re.VERBOSE,
)
_STYLES: Final = {
    "literal": "",
    "code": "bold cyan",
    "strong": "bold",
    "strong_": "bold",
    "em": "italic",
    "em_": "italic",
    "struck": "strike",
}


def render_markdown(text: str, *, last: int | None = None) -> list[Text | Table]:
    """Render a safe text as lines and tables; with `last`, only so many last lines."""
    lines = _lines(text.rstrip("\n"))
    if last is not None:
        lines = lines[-last:]
    rendered: list[Text | Table] = []
    cells, place = CELLS, 0
    while place < len(lines):
        code, each = lines[place]
        rows, columns = _table(lines, place) if cells else ([], 0)
        cells = max(cells - len(rows) * columns, 0)
        if rows and cells:
            rendered.append(_grid(rows))
            place += len(rows)
        else:
            rendered.append(Text(each, "cyan", overflow="fold") if code else _line(each))
            place += 1
    return rendered


def _lines(text: str) -> list[tuple[bool, str]]:
    """Return for each line whether it is code, and its text; an opening fence becomes its language."""
    lines: list[tuple[bool, str]] = []
    fence = ""
    for each in text.split("\n"):
        found = _FENCE.match(each)
        if found and not fence:
            fence = found[1]
            lines.append((True, each[found.end() :].strip()))
        elif found and found[1].startswith(fence) and not each[found.end() :].strip():
            fence = ""
        else:
            lines.append((bool(fence), each))
    return lines


def _cells(line: str) -> list[str]:
    return [each.strip() for each in _BAR.split(line.strip().removeprefix("|").removesuffix("|"))]


def _in_a_table(line: tuple[bool, str]) -> bool:
    code, text = line
    return not code and "|" in text and len(text) <= _MAX_LINE


def _table(lines: Sequence[tuple[bool, str]], place: int) -> tuple[list[str], int]:
    """Return the lines of the table that starts at this line, and its number of columns; empty if there is none."""
    first = lines[place : place + 2]
    if len(first) < 2 or not all(map(_in_a_table, first)):
        return [], 0
    names, dashes = (_cells(each) for _, each in first)
    if len(names) != len(dashes) or len(names) > COLUMNS or not all(map(_DASHES.fullmatch, dashes)):
        return [], 0
    return [each for _, each in takewhile(_in_a_table, islice(lines, place, place + CELLS))], len(names)


def _grid(rows: Sequence[str]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, border_style="dim")
    for name, dashes in zip(*map(_cells, rows[:2]), strict=True):
        grid.add_column(_inline(name), justify=_JUSTIFIED[dashes[0] == ":", dashes[-1] == ":"], overflow="fold")
    last = len(grid.columns) - 1
    for cells in map(_cells, rows[2:]):
        more = [" | ".join(cells[last:])] if len(cells) > last else []
        grid.add_row(*map(_inline, cells[:last] + more))
    return grid


def _line(each: str) -> Text:
    if len(each) > _MAX_LINE:
        return Text(each, overflow="fold")
    if _RULE.match(each):
        return Text("─" * 20, "dim")
    text = Text(overflow="fold")
    if heading := _HEADING.match(each):
        text.style = "bold magenta"
        each = each[heading.end() :]
    elif quote := _QUOTE.match(each):
        text.append("▌ " * quote[0].count(">"), "magenta")
        each = each[quote.end() :]
    if bullet := _BULLET.match(each):
        text.append(f"{bullet[1]} • ", "bold yellow")
        each = each[bullet.end() :]
    return text.append_text(_inline(each))


def _inline(each: str) -> Text:
    text = Text(overflow="fold")
    end = 0
    for mark in _MARKS.finditer(each):
        text.append(_plain(each[end : mark.start()]))
        end = mark.end()
        kind = mark.lastgroup or ""
        if kind == "address":
            text.append(_plain(mark["words"]), "bright_blue").append(f" ({_plain(mark[kind])})", "blue")
        else:
            text.append(mark[kind] if kind == "code" else _plain(mark[kind]), _STYLES[kind])
    return text.append(_plain(each[end:]))


def _plain(text: str) -> str:
    return escaped(html.unescape(text))
