"""Bodies of responses, read within bounds.

Rule: between two pieces others run, and cancellation comes through; pieces that are there already would let none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import anyio
from anyio.lowlevel import checkpoint

from oxygent_client._errors import OxyError

__all__ = ["beginning", "whole"]


async def whole(chunks: AsyncIterator[bytes], most: float) -> bytes | None:
    """All bytes; None if they are more than `most`.

    Raises:
        OxyError: the body broke off.
    """
    body = bytearray()
    await _fill(body, chunks, most)
    return bytes(body) if len(body) <= most else None


async def beginning(chunks: AsyncIterator[bytes], most: int, *, until: float) -> bytes:
    """At most so many bytes: what came of them before `until`, by the event loop's clock, and before they broke off."""
    body = bytearray()
    with anyio.CancelScope(deadline=until), suppress(OxyError):
        await _fill(body, chunks, most - 1)
    return bytes(body[:most])


async def _fill(body: bytearray, chunks: AsyncIterator[bytes], most: float) -> None:
    async for piece in chunks:
        body += piece
        if len(body) > most:
            break
        await checkpoint()
