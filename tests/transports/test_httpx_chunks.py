"""Chunks that were received together are read together over httpx and httpx2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from oxygent_client import HTTPRequest, errors
from oxygent_client.transports._httpx_base import MOST_CHUNKS
from tests.support.servers import LAST, OK, chunk, play, serving
from tests.transports.test_network_transports import FAMILY, Library
from tests.transports.test_network_transports import library as library

if TYPE_CHECKING:
    from oxygent_client import HTTPResponse


async def read(response: HTTPResponse, pieces: list[bytes]) -> None:
    """Read all of a body into `pieces`."""
    with anyio.fail_after(15):
        async for piece in response.chunks:
            pieces.append(piece)  # noqa: PERF401  (those before an error are kept)


@FAMILY
async def test_chunks_are_joined(library: Library) -> None:
    """A read returns several chunks, of which no byte is lost, but no more than leave other tasks their turn."""
    pieces: list[bytes] = []
    async with serving(play(OK + chunk(b"a") * 300 + LAST)) as server:
        transport = library.transport(trust_env=False)
        async with transport.exchange(HTTPRequest("GET", server.url, "/")) as response:
            await read(response, pieces)
        await transport.aclose()
    assert b"".join(pieces) == b"a" * 300
    assert max(map(len, pieces)) == MOST_CHUNKS


@FAMILY
async def test_what_was_received_before_invalid_bytes(library: Library) -> None:
    """The chunks before an invalid one are read, and then the error is raised, at each further read."""
    pieces: list[bytes] = []
    async with serving(play(OK + chunk(b"a") + chunk(b"b") + b"zz\r\n")) as server:
        transport = library.transport(trust_env=False)
        async with transport.exchange(HTTPRequest("GET", server.url, "/")) as response:
            for _ in range(2):
                with pytest.raises(errors.RemoteProtocolError):
                    await read(response, pieces)
        await transport.aclose()
    assert b"".join(pieces) == b"ab"
