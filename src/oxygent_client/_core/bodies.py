"""Read response bodies within limits, decompressed.

Rule 1: reading awaits a checkpoint between two chunks, so that other tasks run and cancellation is delivered, also
    where all chunks are buffered already.
Rule 2: compressed bodies of every transport are decompressed here. Limits count decompressed bytes.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from oxygent_client._core.decompression import Decompressor, content_codings
from oxygent_client._core.errors import OxyError
from oxygent_client._core.transport import HTTPResponse

DRAIN_SECONDS: Final = 0.25
DRAIN_BYTES: Final = 64 * 1024
"""Limits for reading the rest of a response that is not used, so that its connection can be reused."""
EMPTY_STEPS: Final = 64
"""After so many steps of decompression without output, a checkpoint."""


async def read_all(chunks: AsyncIterator[bytes], limit: float) -> bytes | None:
    """Read a body to its end; None if it is larger than `limit` bytes.

    Raises:
        OxyError: the connection broke before the end.
    """
    body = bytearray()
    await _fill(body, chunks, limit)
    return bytes(body) if len(body) <= limit else None


async def read_up_to(chunks: AsyncIterator[bytes], limit: int, *, deadline: float) -> bytes:
    """Read at most `limit` bytes, until `deadline` by the event loop's clock, or until the connection breaks."""
    body = bytearray()
    with anyio.CancelScope(deadline=deadline), suppress(OxyError):
        await _fill(body, chunks, limit - 1)
    return bytes(body[:limit])


async def _fill(body: bytearray, chunks: AsyncIterator[bytes], limit: float) -> None:
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            break
        await checkpoint()


async def drain(chunks: AsyncIterator[bytes], *, deadline: float = math.inf) -> None:
    """Read the rest of a body that is not used, briefly, so that its connection can be reused."""
    await read_up_to(chunks, DRAIN_BYTES, deadline=min(anyio.current_time() + DRAIN_SECONDS, deadline))


def decompressed(response: HTTPResponse) -> AsyncIterator[bytes]:
    """The body of a response without its content codings.

    Reading it raises:
        RemoteProtocolError: the coding is unknown, or the body does not match its coding.
    """
    coded = response.headers.get("content-encoding", "")
    return _Decompressed(response.chunks, response.headers) if coded else response.chunks


class _Decompressed(AsyncIterator[bytes]):
    """Decompressed chunks."""

    def __init__(self, chunks: AsyncIterator[bytes], headers: Mapping[str, str]) -> None:
        self._chunks = chunks
        self._headers = headers
        self._decompressor: Decompressor | None = None
        self._pieces: Iterator[bytes] = iter(())
        self._empty_steps = 0

    async def __anext__(self) -> bytes:
        decompressor = self._decompressor = self._decompressor or Decompressor(content_codings(self._headers))
        while True:
            for piece in self._pieces:
                if piece:
                    return piece
                self._empty_steps += 1
                if self._empty_steps % EMPTY_STEPS == 0:
                    await checkpoint()
            try:
                received = await anext(self._chunks)
            except StopAsyncIteration:
                decompressor.end()
                raise
            self._pieces = decompressor.feed(received)
