"""Encode values as tokens: texts that a program stores and passes on.

Rule: a token consists of letters, digits, `.`, `-` and `_`, and is not signed. Reading one validates it.
"""

from __future__ import annotations

import base64
import json
from typing import Any, cast


def encode_token(prefix: str, fields: object) -> str:
    """Return JSON as a token; `prefix` tells its kind and version."""
    return prefix + base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")


def decode_token(prefix: str, token: str) -> list[Any]:
    """Return the JSON list in a token.

    Raises:
        ValueError, TypeError, RecursionError: it is no token of this kind.
    """
    if not token.startswith(prefix):
        raise ValueError("another prefix")
    body = token.removeprefix(prefix)
    fields: Any = json.loads(base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True))
    if not isinstance(fields, list):
        raise TypeError("no list")
    return cast("list[Any]", fields)
