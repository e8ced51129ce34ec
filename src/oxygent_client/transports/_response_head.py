"""Validate the status and headers of a response.

Rule 1: what one library refuses and cannot be told to take, the others refuse, too; docs/howto/choose-a-transport.md
    has what is left of the differences.
Rule 2: linear in the headers: the mappings of some libraries look through all of them for each.
Source: RFC 9112, sections 6.1 to 6.3 (framing); RFC 9110, section 15.2 (interim responses).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from oxygent_client._core.errors import RemoteProtocolError

__all__ = ["MOST_HEADERS", "MOST_OF_ONE", "head_of"]

MOST_HEADERS: Final = 500
"""How many headers a response may have. A library may hold that many of the largest before it hands them over."""
MOST_OF_ONE: Final = 32 * 1024
"""How many bytes the value of one may have."""
MOST_BYTES: Final = 64 * 1024
"""How many bytes all may have together."""
FINAL: Final = 200


def head_of(status: int, lines: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The headers of a response: names in lower case, and one value for each, joined by commas.

    Raises:
        RemoteProtocolError: the response is an interim one, has a transfer coding other than `chunked`, or its headers
            are too large or too many.
    """
    values: dict[str, list[str]] = {}
    count = size = largest = 0
    for name, value in lines:
        count, size, largest = count + 1, size + len(name) + len(value), max(largest, len(value))
        values.setdefault(name.lower(), []).append(value)
    if count > MOST_HEADERS or size > MOST_BYTES or largest > MOST_OF_ONE:
        raise RemoteProtocolError(f"the response has {count} headers of {size} bytes, which is too much")
    if status < FINAL:
        raise RemoteProtocolError(f"the server answered with an interim response ({status}), which was not asked for")
    headers = {name: ", ".join(held) for name, held in values.items()}
    if headers.get("transfer-encoding", "chunked").strip().lower() != "chunked":
        raise RemoteProtocolError("the response has a transfer coding other than `chunked`, which was not asked for")
    return headers
