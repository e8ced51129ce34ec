"""Escape remote text for a terminal.

Rule 1: remote text is untrusted; all of it is escaped here before it reaches a terminal.
Rule 2: readable text is unchanged, in every script and with every emoji.
"""

from __future__ import annotations

import json
import re
from typing import Any, cast

from oxygent_client.sanitize import escape_control_characters

_SPACE = re.compile("[ \t\r\n]+")
# Characters of a text that a line can show; longer texts are cut before they are escaped.
_LINE = 1000
# The longest JSON that is indented (characters): deeply nested JSON grows a hundredfold by it.
_INDENTED = 50_000


def escaped(text: str) -> str:
    """Replace unsafe characters by their numbers; tabs and line feeds stay."""
    return str(escape_control_characters(text))


def line(text: str) -> str:
    """Return the text in one line."""
    clipped = text if len(text) <= _LINE else f"{text[:_LINE]}…"
    return escaped(_SPACE.sub(" ", clipped)).strip()


def block(text: str) -> str:
    """Return the text with its lines, and tabs expanded."""
    return escaped(text.replace("\r\n", "\n")).expandtabs(4)


def brief(value: Any) -> str:
    """Return any JSON value in one line: of a lone `query` its text; empty for None and `{}`."""
    if isinstance(value, dict) and list(cast("dict[str, Any]", value)) == ["query"]:
        value = cast("dict[str, Any]", value)["query"]
    if value is None or value == {}:
        return ""
    return line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def indented(value: Any) -> str:
    """Return any JSON value as indented JSON, or in one line if it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) > _INDENTED else json.dumps(value, indent=2, ensure_ascii=False)


def as_json(value: Any) -> str:
    """Return the value as one line of valid ASCII JSON; NaN and infinities, which JSON lacks, become strings."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(json.loads(json.dumps(value), parse_constant=str))
