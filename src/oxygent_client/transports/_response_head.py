"""Validate the status and headers of a response.

Rule 1: a response that one library rejects, with no option to accept it, is rejected with every library.
    docs/howto/choose-a-transport.md lists the differences that remain.
Rule 2: linear in the headers: the mappings of some libraries search all of them for each.
Source: RFC 9112, sections 6.1 to 6.3 (framing); RFC 9110, section 15.2 (interim responses).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from oxygent_client._core.errors import RemoteProtocolError

MAX_HEADERS: Final = 500
"""Headers of a response. A library may buffer that many headers of the maximum size before it returns them."""
MAX_VALUE_BYTES: Final = 32 * 1024
"""Size of one header's value."""
MAX_HEADERS_BYTES: Final = 64 * 1024
"""Size of all headers together."""
FIRST_FINAL_STATUS: Final = 200


def parse_head(status: int, lines: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the headers of a response: names in lower case; the values of a repeated name joined by commas.

    Raises:
        RemoteProtocolError: the response is an interim one, has a transfer coding other than `chunked`, or its headers
            are too large or too many.
    """
    headers: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}
    count = size = largest = 0
    for name, value in lines:
        key, length = name.lower(), len(value)
        count, size = count + 1, size + len(name) + length
        if length > largest:  # noqa: PLR1730  (`max` is a call)
            largest = length
        if key in headers:
            repeated.setdefault(key, [headers[key]]).append(value)
        else:
            headers[key] = value
    if count > MAX_HEADERS or size > MAX_HEADERS_BYTES or largest > MAX_VALUE_BYTES:
        raise RemoteProtocolError(f"the response headers exceed the limit: {count} headers, {size} bytes")
    if status < FIRST_FINAL_STATUS:
        raise RemoteProtocolError(f"the server sent an unexpected interim response ({status})")
    for name, parts in repeated.items():
        headers[name] = ", ".join(parts)
    if headers.get("transfer-encoding", "chunked").strip().lower() != "chunked":
        raise RemoteProtocolError("the response has an unsupported transfer coding; only `chunked` is supported")
    return headers
