"""Read response bodies within limits, decompressed.

Rule 1: between two pieces others run, and cancellation comes through; pieces that are there already would let none.
Rule 2: a body that came compressed is inflated here, for streams and documents of every transport. What is counted are
    inflated bytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from oxygent_client._core.decompression import Decompressor, content_codings
from oxygent_client._core.errors import OxyError
from oxygent_client._core.transport import HTTPResponse

__all__ = ["inflated", "read_all", "read_up_to"]


async def read_all(chunks: AsyncIterator[bytes], most: float) -> bytes | None:
    """All bytes; None if they are more than `most`.

    Raises:
        OxyError: the body broke off.
    """
    body = bytearray()
    await _fill(body, chunks, most)
    return bytes(body) if len(body) <= most else None


async def read_up_to(chunks: AsyncIterator[bytes], most: int, *, until: float) -> bytes:
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


WORKS: Final = 64
"""After so many steps of inflating that gave nothing, others run."""


def inflated(response: HTTPResponse) -> AsyncIterator[bytes]:
    """The body of a response as it was before it was compressed.

    Reading it raises:
        RemoteProtocolError: it has a coding that is not known here, or it is not as its coding says.
    """
    coded = response.headers.get("content-encoding", "")
    return _Inflated(response.chunks, response.headers) if coded else response.chunks


class _Inflated:
    """Chunks, without their content codings."""

    def __init__(self, chunks: AsyncIterator[bytes], headers: Mapping[str, str]) -> None:
        self._chunks = chunks
        self._headers = headers
        self._inflater: Decompressor | None = None
        self._pieces: Iterator[bytes] = iter(())
        self._worked = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        inflater = self._inflater = self._inflater or Decompressor(content_codings(self._headers))
        while True:
            for piece in self._pieces:
                if piece:
                    return piece
                self._worked += 1
                if self._worked % WORKS == 0:
                    await checkpoint()
            try:
                received = await anext(self._chunks)
            except StopAsyncIteration:
                inflater.end()
                raise
            self._pieces = inflater.feed(received)
