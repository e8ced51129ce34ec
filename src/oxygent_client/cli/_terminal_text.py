"""Escape remote text for a terminal.

Rule 1: remote text is untrusted; nothing of it reaches a terminal but through here.
Rule 2: what is readable stays as it is, in every script and with every emoji.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, cast

from oxygent_client.sanitize import escape_control_characters

__all__ = ["as_json", "block", "brief", "escaped", "indented", "line"]

_SPACE = re.compile("[ \t\r\n]+")
# As much of a text as any line of any terminal shows; what is longer is clipped before it is looked at.
_LINE = 1000
# The longest JSON that is indented (characters): what is nested deep grows a hundredfold by it.
_INDENTED = 50_000


def escaped(text: str) -> str:
    """The text with everything unsafe spelled out by its number; tabs and line feeds stay."""
    return str(escape_control_characters(text))


def line(text: str) -> str:
    """The text in one line."""
    clipped = text if len(text) <= _LINE else f"{text[:_LINE]}…"
    return escaped(_SPACE.sub(" ", clipped)).strip()


def block(text: str) -> str:
    """The text in its own lines, tabs made spaces."""
    return escaped(text.replace("\r\n", "\n")).expandtabs(4)


def brief(value: Any) -> str:
    """Any JSON value in one line, for a person: a lone `query` is its text, nothing is empty."""
    if isinstance(value, dict) and list(cast("dict[str, Any]", value)) == ["query"]:
        value = cast("dict[str, Any]", value)["query"]
    if value is None or value == {}:
        return ""
    return line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def indented(value: Any) -> str:
    """Any JSON value for a person to read: indented, and in one line where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) > _INDENTED else json.dumps(value, indent=2, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in cast("list[Any]", value)]
    return value


def as_json(value: Any) -> str:
    """The value as one line of valid JSON in ASCII: NaN and the infinities, which JSON lacks, become texts."""
    return json.dumps(_finite(value), allow_nan=False)
