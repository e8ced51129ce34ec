"""Data after a complete response, over real sockets: its connection is not reused.

Rule: the next run gets its own answer, over a connection of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest
from anyio.streams.tls import TLSAttribute

from oxygent_client import HTTPRequest, Outcome, Transport, errors
from oxygent_client.testing import answer, close
from oxygent_client.transports import Context
from tests.support.plain import plain
from tests.support.servers import LAST, OK, Conversation, chunk, play, serving
from tests.support.tls import client_context, server_context
from tests.transports.test_network_transports import (
    ANSWER,
    FAMILY,
    SOON,
    Library,
    asking,
    document,
    failure,
)
from tests.transports.test_network_transports import library as library

if TYPE_CHECKING:
    from collections.abc import Callable

FORGED: Final = OK + chunk(answer("FORGED")) + chunk(close()) + LAST
SURPLUS: Final = {
    "a response": FORGED,
    "a refusal": document(b"", "500 X"),
    "an interim response": b"HTTP/1.1 100 Continue\r\n\r\n",
    "the beginning of a head": b"HTTP/1.1 2",
    "a line break": b"\r\n",
    "a byte": b"\x00",
    "much": b"x" * 300_000,
}
A_MOMENT: Final = 0.05
"""Seconds until sent data has arrived, which cannot be observed."""

every_surplus: Final = pytest.mark.parametrize("surplus", SURPLUS.values(), ids=SURPLUS)


@every_surplus
async def test_in_the_same_read(library: Library, surplus: bytes) -> None:
    """Data that arrives with the end of a stream is not taken for the next response."""
    async with asking(library, play(ANSWER + surplus, ANSWER)) as (agent, server):
        outputs = [(await agent.ask("hi")).output for _ in range(3)]
        assert outputs == ["42"] * 3
        assert server.connections == 2
        assert len(server.requests) == 3


@pytest.mark.seconds
@every_surplus
async def test_while_the_connection_is_idle(library: Library, surplus: bytes) -> None:
    """Data that arrives later, while the connection is idle, is not taken for the next response."""
    go = anyio.Event()
    async with asking(library, play([ANSWER, go, surplus], ANSWER)) as (agent, server):
        first = (await agent.ask("hi")).output
        go.set()
        await anyio.sleep(A_MOMENT)
        outputs = [first, (await agent.ask("hi")).output, (await agent.ask("hi")).output]
        assert outputs == ["42"] * 3
        assert server.connections == 2
        assert len(server.requests) == 3


DOCUMENTS: Final = {
    "with a length": document(b"{}"),
    "empty": document(b""),
    "in chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "with trailers": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx-a: 1\r\n\r\n",
    "no content": b"HTTP/1.1 204 No\r\n\r\n",
    "not modified": b"HTTP/1.1 304 No\r\n\r\n",
    "not found": document(b"{}", "404 No"),
    "an error": document(b"{}", "500 No"),
}
KEPT: Final = {"with a length", "empty", "in chunks", "with trailers"}
"""After these, a connection is reused on each transport."""


async def fetched(agent: Any, url: str) -> bytes:
    """Return the body of a document."""
    assert isinstance(agent.transport, Transport)
    request = HTTPRequest("GET", url, "/get_agents", context=Context(purpose="discover"))
    async with agent.transport.exchange(request) as response:
        return b"".join([piece async for piece in response.chunks])


@pytest.mark.parametrize("surplus", [FORGED, b"\r\n", b"H"], ids=["a response", "a line break", "a byte"])
@pytest.mark.parametrize("name", DOCUMENTS)
async def test_behind_a_document(library: Library, name: str, surplus: bytes) -> None:
    """Data after a document closes the connection, for each status and framing."""
    async with asking(library, play(DOCUMENTS[name] + surplus, ANSWER)) as (agent, server):
        assert await fetched(agent, server.url) in (b"{}", b"")
        assert (await agent.ask("hi")).output == "42"
        assert server.connections == 2


@pytest.mark.parametrize("name", sorted(KEPT))
async def test_without_surplus(library: Library, name: str) -> None:
    """Without surplus data a connection is reused, so the tests above can fail."""
    async with asking(library, play(DOCUMENTS[name], ANSWER)) as (agent, server):
        await fetched(agent, server.url)
        assert (await agent.ask("hi")).output == "42"
        assert server.connections == 1


async def test_byte_by_byte(library: Library) -> None:
    """The last byte of a response may arrive by itself."""
    pieces = [ANSWER[index : index + 1] for index in range(len(ANSWER))]
    async with asking(library, play([*pieces], ANSWER)) as (agent, server):
        outputs = [(await agent.ask("hi")).output for _ in range(2)]
        assert outputs == ["42"] * 2
        assert server.connections == 1


# ----------------------------------------------------------------------------------------------------------------- TLS


def in_one_piece(*records: bytes) -> Callable[[Conversation], Any]:
    """Return a server that answers the first request with these TLS records at once, and later ones with ANSWER."""
    count = 0

    async def handle(conversation: Conversation) -> None:
        nonlocal count
        while await conversation.request() is not None:
            count += 1
            *first, last = records if count == 1 else [ANSWER]
            for record in first:
                conversation._stream.extra(TLSAttribute.ssl_object).write(record)  # sent with the next
            await conversation.send(last)

    return handle


RECORDS: Final = {
    "one": [ANSWER + FORGED],
    "two": [ANSWER, FORGED],
    "a line break": [ANSWER, b"\r\n"],
}


@pytest.mark.parametrize("records", RECORDS.values(), ids=RECORDS)
async def test_over_tls(library: Library, records: list[bytes]) -> None:
    """Data of a TLS connection that was received and not yet decrypted counts too."""
    async with asking(library, in_one_piece(*records), tls=server_context(), verify=client_context()) as (
        agent,
        server,
    ):
        outputs = [(await agent.ask("hi")).output for _ in range(3)]
        assert outputs == ["42"] * 3
        assert server.connections == 2


async def test_tls_without_surplus(library: Library) -> None:
    """Without surplus data a TLS connection is reused."""
    async with asking(library, in_one_piece(ANSWER), tls=server_context(), verify=client_context()) as (agent, server):
        for _ in range(3):
            await agent.ask("hi")
        assert server.connections == 1


@FAMILY  # asyncio's own TLS, below aiohttp, discards the data before it
async def test_data_that_is_no_tls_record(library: Library) -> None:
    """Data after a response that is no TLS record closes the connection."""
    go = anyio.Event()

    async def handle(conversation: Conversation) -> None:
        while await conversation.request() is not None:
            secure: Any = conversation._stream
            secure.extra(TLSAttribute.ssl_object).write(ANSWER)
            nonsense = b"" if go.is_set() else b"\x17\x03\x03\x00\x20" + b"x" * 32
            go.set()
            await secure.transport_stream.send(secure._write_bio.read() + nonsense)

    async with asking(library, handle, tls=server_context(), verify=client_context()) as (agent, server):
        outputs = [(await agent.ask("hi")).output for _ in range(2)]
        assert outputs == ["42"] * 2
        assert server.connections == 2


# -------------------------------------------------------------------------------------------- Clients of the user's own


def _wrapping(module: Any, **options: Any) -> Any:
    """Return a transport of the library that hides its connections, and may speak HTTP/2."""

    class Stream(module.AsyncByteStream):  # type: ignore[misc]  # whose class is known when it runs
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        async def __aiter__(self) -> Any:
            async for piece in self._inner:
                yield piece

        async def aclose(self) -> None:
            await self._inner.aclose()

    class Wrapping(module.AsyncBaseTransport):  # type: ignore[misc]  # likewise
        def __init__(self) -> None:
            self._inner = module.AsyncHTTPTransport(**options)

        async def handle_async_request(self, request: Any) -> Any:
            response = await self._inner.handle_async_request(request)
            response.stream = Stream(response.stream)
            return response

        async def aclose(self) -> None:
            await self._inner.aclose()

    return Wrapping()


@FAMILY
@pytest.mark.parametrize("surplus", [b"", FORGED], ids=["none", "a response"])
async def test_a_hidden_connection(library: Library, surplus: bytes) -> None:
    """A connection of a client that hides it is not reused."""
    async with serving(play(ANSWER + surplus, ANSWER)) as server:
        async with library.bare(transport=_wrapping(library.module)) as own:
            agent = plain(server_url=server.url, transport=library.transport(client=own))
            outputs = [(await agent.ask("hi")).output for _ in range(2)]
        assert outputs == ["42"] * 2
        assert server.connections == 2


@FAMILY
async def test_a_users_client(library: Library) -> None:
    """A connection of a user's client is checked like our own."""
    async with serving(play(ANSWER + FORGED, ANSWER)) as server, library.client() as own:
        agent = plain(server_url=server.url, transport=library.transport(client=own))
        outputs = [(await agent.ask("hi")).output for _ in range(3)]
        assert outputs == ["42"] * 3
        assert server.connections == 2


# -------------------------------------------------------------------------------------------------------------- HTTP/2


@FAMILY
async def test_a_client_that_offers_http2(library: Library) -> None:
    """A user's client that offers HTTP/2 is refused before anything is sent, where it might be used."""
    async with (
        serving(play(ANSWER), tls=server_context()) as secure,
        serving(play(ANSWER)) as server,
        library.module.AsyncClient(http2=True, verify=client_context(), trust_env=False) as own,
    ):
        transport = library.transport(client=own)
        error = await failure(plain(server_url=secure.url, transport=transport))
        assert type(error) is errors.ConfigurationError
        assert "http2" in str(error)
        assert error.outcome is Outcome.NOT_SENT
        assert secure.requests == []
        assert (await plain(server_url=server.url, transport=transport).ask("hi")).output == "42"


SETTINGS_FRAME: Final = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
HEADERS_FRAME: Final = b"\x00\x00\x01\x01\x04\x00\x00\x00\x01\x88"
"""Status 200 for the first stream."""


@FAMILY
async def test_a_response_over_http2(library: Library) -> None:
    """A response over HTTP/2 is refused, and its connection closed."""
    left = anyio.Event()

    async def handle(conversation: Conversation) -> None:
        await conversation.some()
        await conversation.send(SETTINGS_FRAME)
        await conversation.some()
        await conversation.send(HEADERS_FRAME)
        await conversation.client_left()
        left.set()

    tls = server_context()
    tls.set_alpn_protocols(["h2"])
    wrapped = _wrapping(library.module, http2=True, verify=client_context())
    async with serving(handle, tls=tls) as server, library.bare(transport=wrapped) as own:
        error = await failure(plain(server_url=server.url, transport=library.transport(client=own)))
        assert type(error) is errors.ConfigurationError
        assert error.outcome is Outcome.UNKNOWN
        with anyio.fail_after(SOON):
            await left.wait()


@FAMILY
def test_http2(library: Library) -> None:
    """The setting for HTTP/2 of a transport is refused at once, by its name."""
    with pytest.raises(errors.ConfigurationError, match="http2"):
        library.transport(http2=True)
