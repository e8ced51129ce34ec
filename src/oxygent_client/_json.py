"""Text to JSON and back, bounded; the one place where an optional faster library may stand.

Rule 1: what is received may hold NaN and Infinity (real answers do); what is sent may not.
Rule 2: nothing here ends in a `RecursionError`: depth is looked at before a text is parsed.
"""

from __future__ import annotations

import json
import re
from typing import Any

from oxygent_client._errors import TooLargeError

__all__ = ["dumps", "loads"]

_STRINGS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NO_BRACKETS = re.compile(r"[^\[\]{}]+")


def _deeper_than(text: str, limit: int) -> bool:
    """Whether brackets stand more than `limit` deep in `text`; those within strings do not count."""
    if text.count("[") + text.count("{") <= limit:
        return False
    depth = 0
    for bracket in _NO_BRACKETS.sub("", _STRINGS.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > limit:
            return True
    return False


def loads(text: str, *, depth: int) -> Any:
    """The value that `text` holds.

    Raises:
        ValueError: it is no JSON, or holds an integer of more digits than Python takes (4,300).
        TooLargeError: it is nested deeper than `depth`, or than Python can read.
    """
    if _deeper_than(text, depth):
        raise TooLargeError(f"JSON is nested deeper than Limits.depth ({depth})")
    try:
        return json.loads(text)
    except RecursionError as error:  # `depth` allows more than Python does
        raise TooLargeError("JSON is nested deeper than Python can read") from error


def dumps(value: Any) -> bytes:
    """`value` as JSON in UTF-8.

    Raises:
        TypeError, ValueError, RecursionError: it holds something that has no JSON (NaN and lone surrogates included).
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
