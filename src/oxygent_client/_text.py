"""Remote text as it may be shown: what could move a cursor, hide, or reorder is spelled out.

Rule 1: remote text is untrusted; nothing of it gets into an error or a log but through here, or as a `repr`.
Rule 2: what is readable stays as it is, in every script and with every emoji.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["UNSAFE", "shown_text"]

UNSAFE: Final = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""As in a character class: C0, less tab and line feed; DEL and C1; line and paragraph separators; what changes the
direction of the text around it (https://www.unicode.org/reports/tr9/, CVE-2021-42574); halves of a surrogate pair."""
_IN_A_BLOCK: Final = re.compile(f"[{UNSAFE}]")
_IN_A_LINE: Final = re.compile(f"[\t\n{UNSAFE}]")

_NUMBER: Final = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4})")
_LONGEST: Final = len("\\uffff")


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def shown_text(text: str, limit: int, *, lines: bool = False) -> str:
    """At most `limit` characters of `text`, with everything unsafe spelled out by its number; in one line.

    With `lines` its own lines stay.
    """
    shown = (_IN_A_BLOCK if lines else _IN_A_LINE).sub(_spelled, text[: limit + _LONGEST])
    for number in _NUMBER.finditer(shown, max(0, limit - _LONGEST), limit + _LONGEST):
        if number.start() < limit < number.end():
            return shown[: number.start()]  # half a number would be another text
    return shown[:limit]
