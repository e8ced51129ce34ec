r"""Escape remote text for display: control, hidden and reordering characters.

Rule 1: remote text is untrusted; it gets into an error or a log only through this module, or as a `repr`.
Rule 2: readable text stays unchanged, in every script and with every emoji: an invisible character stays only where
    the characters around it need it.
Rule 3: escaping twice gives the same result as once: no sequence that is kept begins with a character that may be
    escaped.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Final

from oxygent_client._core.patterns import compiled

_CONTROLS: Final = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff"
"""For a character class: C0 without tab and line feed; DEL and C1; line and paragraph separators; characters that
change the direction of text (https://www.unicode.org/reports/tr9/, CVE-2021-42574); interlinear annotations; lone
surrogates."""
_IGNORABLE: Final = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff"
    "\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Default_Ignorable_Code_Point: invisible characters. `unicodedata` does not have this property; the list is from
https://www.unicode.org/Public/UCD/latest/ucd/DerivedCoreProperties.txt (unchanged since Unicode 14: it includes
unassigned code points)."""
_UNSAFE: Final = f"[{_CONTROLS}{_IGNORABLE}]"

_EMOJI: Final = (
    "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2194-\u2199\u21a9\u21aa\u231a\u231b\u2328\u2388\u23cf\u23e9-\u23f3\u23f8-\u23fa\u24c2"
    "\u25aa\u25ab\u25b6\u25c0\u25fb-\u25fe\u2600-\u2605\u2607-\u2612\u2614-\u2685\u2690-\u2705\u2708-\u2712\u2714\u2716\u271d"
    "\u2721\u2728\u2733\u2734\u2744\u2747\u274c\u274e\u2753-\u2755\u2757\u2763-\u2767\u2795-\u2797\u27a1\u27b0\u27bf\u2934\u2935"
    "\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u3030\u303d\u3297\u3299\U0001f000-\U0001f0ff\U0001f10d-\U0001f10f\U0001f12f"
    "\U0001f16c-\U0001f171\U0001f17e\U0001f17f\U0001f18e\U0001f191-\U0001f19a\U0001f1ad-\U0001f1e5\U0001f201-\U0001f20f"
    "\U0001f21a\U0001f22f\U0001f232-\U0001f23a\U0001f23c-\U0001f23f\U0001f249-\U0001f3fa\U0001f400-\U0001f53d"
    "\U0001f546-\U0001f64f\U0001f680-\U0001f6ff\U0001f774-\U0001f77f\U0001f7d5-\U0001f7ff\U0001f80c-\U0001f80f"
    "\U0001f848-\U0001f84f\U0001f85a-\U0001f85f\U0001f888-\U0001f88f\U0001f8ae-\U0001f8ff\U0001f90c-\U0001f93a"
    "\U0001f93c-\U0001f945\U0001f947-\U0001faff\U0001fc00-\U0001fffd"
)
"""Extended_Pictographic, from https://www.unicode.org/Public/UCD/latest/ucd/emoji/emoji-data.txt."""
_JOINING: Final = (
    "\u0620-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u17b3\u17b6-\u17ff\u1807\u1820-\u18aa\u1b00-\u1bff\ua8e0-\ua8ff\ufb50-\ufdff"
    "\ufe70-\ufefc\U00010ac0-\U00010aff\U00011000-\U00011fff\U0001e900-\U0001e95f"
)
"""Scripts in which a joiner changes the shape of the letters beside it: Arabic and related scripts, those of India,
Myanmar and Cambodia, Mongolian, Adlam. https://www.unicode.org/versions/latest/core-spec/chapter-23/"""
_MONGOLIAN: Final = "\u1820-\u18aa"

# https://www.unicode.org/reports/tr51/#EBNF_and_Regex. A flag's tags are a country and a part of it ("gbeng").
_ONE: Final = f"[{_EMOJI}][\ufe0e\ufe0f]?[\U0001f3fb-\U0001f3ff]?"
_FLAG: Final = "\U0001f3f4[\U000e0061-\U000e007a]{2}[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,4}\U000e007f"
_NEEDED: Final = "|".join(
    (
        f"{_FLAG}",
        f"{_ONE}(?:\u200d{_ONE})*",
        "[0-9#*]\ufe0f\u20e3",  # a keycap
        f"[{_MONGOLIAN}](?:[\u180b-\u180d\u180f]|\u180e(?=[{_MONGOLIAN}]))",  # a variant of a letter; a vowel set apart
        f"[{_JOINING}](?:\u200d|\u200c(?=[{_JOINING}]))",
    )
)
_NEEDS_BEFORE: Final = "[\u180b-\u180f\u200c\u200d\ufe0e\ufe0f\U000e0030-\U000e0039\U000e0061-\U000e007a\U000e007f]+\\Z"
"""The end of a text that was cut within a sequence: without its rest it may be an invisible character."""

_NUMBER: Final = r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"
_LONGEST: Final = len("\\Uffffffff")


@functools.cache
def _pattern(*, lines: bool) -> re.Pattern[str]:
    """Characters to escape, and sequences to keep; compiled when a text is shown, since that takes milliseconds."""
    return re.compile(f"({_NEEDED})|{_UNSAFE}" if lines else f"({_NEEDED})|[\t\n{_CONTROLS}{_IGNORABLE}]")


def escape_character(character: str) -> str:
    r"""Escape a character: `\x1b`, `\u200b`, `\U000e0041`."""
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def replace_unsafe(text: str, by: Callable[[str], str]) -> str:
    """Replace each unsafe character with `by(character)`; tabs and line feeds stay."""
    # The search for sequences is slower; most texts have nothing that is unsafe.
    return _replaced(text, by, _pattern(lines=True)) if compiled(_UNSAFE).search(text) else text


def _replaced(text: str, by: Callable[[str], str], pattern: re.Pattern[str]) -> str:
    return pattern.sub(lambda match: match[1] or by(match[0]), text)


def escape_text(text: str, limit: int, *, lines: bool = False) -> str:
    """Escape unsafe characters; the result has at most `limit` characters, in one line (with `lines`, in several)."""
    shown = _replaced(text[: limit + _LONGEST], escape_character, _pattern(lines=lines))
    for number in compiled(_NUMBER).finditer(shown, max(0, limit - _LONGEST), limit + _LONGEST):
        if number.start() < limit < number.end():
            return shown[: number.start()]  # half an escape would be another text
    return compiled(_NEEDS_BEFORE).sub("", shown[:limit]) if len(shown) > limit else shown
