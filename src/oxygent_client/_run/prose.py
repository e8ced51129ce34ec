"""Hold back the parts of a model's text that are no prose: tool calls and thoughts.

Rule 1: pure and linear: what is not decided yet is bounded by LOOK_AHEAD.
Rule 2: a text that begins with JSON, a fence or a tag is held back to its end, except that a leading
    `<think>...</think>` is left out, and what follows it is a text of its own.
Rule 3: prose is shown. Where a tool call may begin within it, the rest is held back: an object of JSON, or a tag or a
    fence whose name is one that models use for tool calls. Other code, and other tags, are prose.
Rule 4: white space is shown with the text that follows it: an agent may strip its answer.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

LOOK_AHEAD: Final = 64
"""Characters within which the shape of a text is recognized."""
SUSPECT: Final = re.compile(r"[{\[<`]")
"""Characters with which something else than prose may begin."""
VISIBLE: Final = re.compile(r"\S")
TICKS: Final = re.compile("`+")
TAG: Final = re.compile(r"<[/!?|\uff5c]?([^\W\d][\w.:-]*)?")
OF_TOOLS: Final = re.compile(r"tool|function|action|invoke|call|think|json|xml", re.IGNORECASE)
"""Names of tags and fences within which models write tool calls."""
FENCE: Final = "```"
THINK: Final = "<think"
THINK_END: Final = "</think>"


class Shape(enum.Enum):
    """What a suspect character begins."""

    PROSE = enum.auto()
    CODE = enum.auto()
    THOUGHT = enum.auto()
    HELD = enum.auto()
    UNKNOWN = enum.auto()
    """The characters that follow decide."""


Judgement: TypeAlias = tuple[Shape, int]
"""A shape, and the position up to which it is certain."""


def _follows(text: str, at: int) -> str:
    """The first visible character from `at` on; empty if it is not there yet, a space if there is none nearby."""
    nearby = text[at : at + LOOK_AHEAD]
    return nearby.lstrip()[:1] or (" " if len(nearby) == LOOK_AHEAD else "")


def _brace(text: str, at: int, is_first: bool) -> Judgement:
    """An object of JSON, or of Python."""
    following = '"' if is_first else _follows(text, at + 1)
    if not following:
        return Shape.UNKNOWN, at
    return (Shape.HELD if following in "\"'" else Shape.PROSE), at + 1


def _bracket(text: str, at: int, is_first: bool) -> Judgement:
    """A list of JSON."""
    following = _follows(text, at + 1)
    if not following:
        return Shape.UNKNOWN, at
    return (Shape.HELD if following in ('{["]' if is_first else "{") else Shape.PROSE), at + 1


def _angle(text: str, at: int, is_first: bool) -> Judgement:
    """A tag."""
    tag = TAG.match(text, at)
    assert tag is not None
    name, end = tag[1] or "", tag.end()
    if end == len(text) and end - at < LOOK_AHEAD:
        return Shape.UNKNOWN, at
    if is_first and tag[0] == THINK and text[end : end + 1] == ">":
        return Shape.THOUGHT, end + 1
    is_held = bool(name) if is_first else OF_TOOLS.search(name) is not None
    return (Shape.HELD if is_held else Shape.PROSE), end


def _ticks(text: str, at: int, is_first: bool) -> Judgement:
    """A fence, or code within a line."""
    ticks = TICKS.match(text, at)
    assert ticks is not None
    end = ticks.end()
    if end - at < len(FENCE):
        return (Shape.UNKNOWN, at) if end == len(text) else (Shape.PROSE, end)
    if is_first:
        return Shape.HELD, end
    break_at = text.find("\n", end, end + LOOK_AHEAD)
    if break_at < 0:
        return (Shape.UNKNOWN, at) if len(text) - end < LOOK_AHEAD else (Shape.PROSE, end)
    name = text[end:break_at].strip()
    if "`" in name:  # it ends in its own line
        return Shape.PROSE, end
    following = "code" if name else _follows(text, break_at + 1)
    if not following:
        return Shape.UNKNOWN, at
    return (Shape.HELD if OF_TOOLS.search(name) or following in "{[<" else Shape.CODE), break_at + 1


JUDGES: Final[Mapping[str, Callable[[str, int, bool], Judgement]]] = {
    "{": _brace,
    "[": _bracket,
    "<": _angle,
    "`": _ticks,
}
"""By suspect character: `f(text, position, is_first)`; `is_first` if nothing visible precedes it."""


class ProseFilter:
    """Decides what of one text is shown, piece by piece."""

    def __init__(self) -> None:
        self._go_on: Callable[[str, int], int] = self._beginning
        """Takes a part of the text from a position on, and returns the next one; the same if it needs more."""
        self._pending = ""
        self._shown: list[str] = []
        self._blanks: list[str] = []

    def feed(self, piece: str) -> str:
        """Take the next piece of the text, and return what is shown now."""
        text, at = self._pending + piece, 0
        while at < len(text):
            before, at = at, self._go_on(text, at)
            if at == before:
                break
        self._pending = text[at:]
        shown = "".join(self._shown)
        self._shown.clear()
        return shown

    def _beginning(self, text: str, at: int) -> int:
        visible = VISIBLE.search(text, at)
        if visible is None or visible.start() > at:
            end = len(text) if visible is None else visible.start()
            self._blanks.append(text[at:end])
            return end
        return self._judge(text, at, is_first=True)

    def _after_thought(self, text: str, at: int) -> int:
        end = self._beginning(text, at)
        if self._go_on == self._after_thought:
            self._blanks.clear()
        return end

    def _thought(self, text: str, at: int) -> int:
        end = text.find(THINK_END, at)
        if end < 0:
            return max(at, len(text) - len(THINK_END) + 1)
        self._go_on = self._after_thought
        return end + len(THINK_END)

    def _prose(self, text: str, at: int) -> int:
        suspect = SUSPECT.search(text, at)
        end = len(text) if suspect is None else suspect.start()
        if end == at:
            return self._judge(text, at, is_first=False)
        self._show(text[at:end])
        return end

    def _code(self, text: str, at: int) -> int:
        end = text.find(FENCE, at)
        if end >= 0:
            end, self._go_on = end + len(FENCE), self._prose
        else:
            end = len(text)
            while end > at and text[end - 1] == "`":  # at most two
                end -= 1
        self._show(text[at:end])
        return end

    def _held(self, text: str, at: int) -> int:
        return len(text)

    def _judge(self, text: str, at: int, *, is_first: bool) -> int:
        judge = JUDGES.get(text[at])
        shape, end = (Shape.PROSE, at + 1) if judge is None else judge(text, at, is_first)
        if shape is Shape.UNKNOWN:
            return at
        if shape is Shape.THOUGHT:
            self._blanks.clear()
            self._go_on = self._thought
        elif shape is Shape.HELD:
            self._go_on = self._held
        else:
            self._show(text[at:end])
            self._go_on = self._code if shape is Shape.CODE else self._prose
        return end

    def _show(self, text: str) -> None:
        visible = text.rstrip()
        if visible:
            self._shown += self._blanks
            self._shown.append(visible)
            self._blanks.clear()
        if len(visible) < len(text):
            self._blanks.append(text[len(visible) :])
