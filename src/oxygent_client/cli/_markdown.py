"""Markdown as a terminal shows it: headings, lists, quotes, emphasis, code and links; all else stays as it was written.

Rule 1: linear. A line is looked at by itself, and what stands between two marks is at most SPAN characters long.
Rule 2: no lexer. Code is shown as it is; the language that a fence names is a word like any other.
Rule 3: a link is shown with its address, and an entity as its character, escaped like all other text.
"""

from __future__ import annotations

import html
import re
from typing import Final

from rich.text import Text

from oxygent_client.cli._safe import escaped

__all__ = ["SPAN", "laid_out"]

SPAN: Final = 200
"""How long the text between two marks may be (characters)."""
_LONGEST: Final = 2000
"""The longest line in which marks are looked for (characters)."""

_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING: Final = re.compile(r" {0,3}#{1,6}[ \t]+")
_BULLET: Final = re.compile(r"( *)[-*+][ \t]+")
_QUOTE: Final = re.compile(r"(?: {0,3}> ?)+")
_RULE: Final = re.compile(r" {0,3}([-*_])(?: *\1){2,} *$")
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


def laid_out(text: str, *, last: int | None = None) -> list[Text]:
    """A Text for each line; of the last `last` lines alone, where that is given. `text` is safe to show."""
    lines: list[tuple[bool, str]] = []  # whether it is code, and the line
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
    shown = lines if last is None else lines[-last:]
    return [Text(each, "cyan", overflow="fold") if code else _line(each) for code, each in shown]


def _line(each: str) -> Text:
    if len(each) > _LONGEST:
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
