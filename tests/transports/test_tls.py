"""Connection failures, over real sockets on loopback: the error class, address and reason of each.

Rule 1: the server saw no request, and the outcome is NOT_SENT.
Rule 2: the text has the address, the reason and, for TLS, advice.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import anyio
import attrs
import pytest

from oxygent_client import HTTPRequest, HTTPXTransport, Outcome, errors
from oxygent_client.transports import Context
from oxygent_client.transports.aiohttp import AiohttpTransport
from oxygent_client.transports.httpx2 import HTTPX2Transport
from tests.support.servers import LAST, OK, Conversation, closed_port, play, serving
from tests.support.tls import AUTHORITY, client_context, server_context

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from oxygent_client import Transport

TRANSPORTS: Final[dict[str, Callable[..., Transport]]] = {
    "httpx": HTTPXTransport,
    "httpx2": HTTPX2Transport,
    "aiohttp": AiohttpTransport,
}
SOON: Final = 20.0
"""Seconds within which a connection is made or has failed."""


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> Callable[..., Transport]:
    """Each transport in turn; aiohttp on asyncio only (ONE_LOOP in conftest.py)."""
    return TRANSPORTS[request.param]


async def asked(transport: Transport, url: str) -> int:
    """Return the status of a response."""
    request = HTTPRequest("POST", url, "/sse/chat", body=b"{}", context=Context())
    try:
        with anyio.fail_after(SOON):
            async with transport.exchange(request) as response:
                return response.status
    finally:
        await transport.aclose()


async def failure(transport: Transport, url: str) -> errors.OxyError:
    """Return the error of a request; assert that nothing was sent and no secret is shown."""
    with pytest.raises(errors.OxyError) as raised:
        await asked(transport, url.replace("//", "//user:secret@") + "/?k=secret")
    assert raised.value.outcome is Outcome.NOT_SENT
    assert "secret" not in f"{raised.value} {raised.value!r}"
    return raised.value


# ------------------------------------------------------------------------------------------------------- The handshake


def self_signed() -> ssl.SSLContext:
    """Return a server's context whose certificate is self-signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with AUTHORITY.cert_pem.tempfile() as certificate, AUTHORITY.private_key_pem.tempfile() as key:
        context.load_cert_chain(certificate, key)
    return context


@attrs.frozen
class Case:
    """A server, a client, and the reason or advice in the error."""

    shown: str
    tls: ssl.SSLContext | None = None
    verify: ssl.SSLContext | bool = True
    handle: Callable[[Conversation], Awaitable[None]] = attrs.field(factory=lambda: play(OK + LAST))
    host: str = "127.0.0.1"


def saying(*steps: bytes, hears: bool = True, resets: bool = False) -> Callable[[Conversation], Awaitable[None]]:
    """Return a server that reads the first bytes of a client, sends these bytes, and ends the connection."""

    async def handle(conversation: Conversation) -> None:
        if hears:
            await conversation.some()
        for step in steps:
            await conversation.send(step)
        await (conversation.reset() if resets else conversation.close())

    return handle


async def plain(conversation: Conversation) -> None:
    """Speak HTTP without TLS."""
    await conversation.some()
    await conversation.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
    await conversation.client_left()


CUT: Final = "version of TLS"
CASES: Final[dict[str, Callable[[], Case]]] = {
    "unknown issuer": lambda: Case(
        "`verify`",
        server_context(),
    ),
    "self-signed": lambda: Case("`verify`", self_signed()),
    "expired": lambda: Case(
        "certificate has expired",
        server_context(AUTHORITY.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC))),
        client_context(),
    ),
    "not yet valid": lambda: Case(
        "certificate is not yet valid",
        server_context(
            AUTHORITY.issue_cert(
                "127.0.0.1",
                not_before=datetime(2098, 1, 1, tzinfo=UTC),
                not_after=datetime(2099, 1, 1, tzinfo=UTC),
            )
        ),
        client_context(),
    ),
    "another address": lambda: Case(
        "host name",
        server_context(AUTHORITY.issue_cert("other.test")),
        client_context(),
    ),
    "another name": lambda: Case(
        "host name",
        server_context(AUTHORITY.issue_cert("other.test")),
        client_context(),
        host="localhost",
    ),
    "plain HTTP": lambda: Case(
        "http://",
        handle=plain,
    ),
    "closed at once": lambda: Case(CUT, handle=saying(hears=False)),
    "closed in the handshake": lambda: Case(CUT, handle=saying()),
    "closed in a record": lambda: Case(CUT, handle=saying(b"\x16\x03\x03\x00\x7a\x02\x00")),
    "reset in the handshake": lambda: Case(CUT, handle=saying(resets=True)),
}


@pytest.mark.parametrize("which", CASES)
async def test_failed_handshakes(transport: Callable[..., Transport], which: str) -> None:
    """A failed handshake raises TLSError with address, reason and advice, and is not retryable."""
    case = CASES[which]()
    async with serving(case.handle, tls=case.tls) as server:
        url = f"https://{case.host}:{server.port}"
        error = await failure(transport(trust_env=False, verify=case.verify), url)
        assert server.requests == []
    assert type(error) is errors.TLSError
    assert error.retryable is False
    assert f"{case.host}:{server.port}" in str(error)
    assert case.shown in str(error)


def of_a_file() -> ssl.SSLContext:
    """Return a context that trusts what is in a file."""
    with AUTHORITY.cert_pem.tempfile() as path:
        return ssl.create_default_context(cafile=path)


@pytest.mark.parametrize("verify", [client_context(), of_a_file(), False], ids=["a context", "a file", "unverified"])
async def test_good_certificates(transport: Callable[..., Transport], verify: ssl.SSLContext | bool) -> None:
    """A valid certificate is accepted, by a context or a file; without verification any is."""
    async with serving(play(OK + LAST), tls=server_context()) as server:
        assert await asked(transport(trust_env=False, verify=verify), server.url) == 200


async def test_no_common_tls_version(transport: Callable[..., Transport]) -> None:
    """A server without a common TLS version raises TLSError."""
    tls, verify = server_context(), client_context()
    tls.maximum_version, verify.minimum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    async with serving(play(OK + LAST), tls=tls) as server:
        error = await failure(transport(trust_env=False, verify=verify), server.url)
    assert type(error) is errors.TLSError


async def test_a_handshake_that_never_ends(transport: Callable[..., Transport]) -> None:
    """A server that does not answer the handshake raises ConnectTimeoutError: the connect time-out includes TLS."""
    async with serving(Conversation.client_left) as server:
        url = server.url.replace("http:", "https:")
        error = await failure(transport(trust_env=False, connect=0.1), url)
    assert type(error) is errors.ConnectTimeoutError
    assert error.retryable is True
    assert f" 127.0.0.1:{server.port} " in str(error)


# ------------------------------------------------------------------------------------------------- Before the handshake


@pytest.mark.parametrize(("scheme", "host"), [("http", "127.0.0.1"), ("https", "localhost")])
async def test_refused(transport: Callable[..., Transport], scheme: str, host: str) -> None:
    """A port without a listener raises ConnectError with host and port, and is retryable."""
    address = f"{host}:{closed_port()}"
    error = await failure(transport(trust_env=False), f"{scheme}://{address}")
    assert type(error) is errors.ConnectError
    assert error.retryable is True
    assert address in str(error)
    assert "Connection refused" in str(error)


async def test_no_such_host(transport: Callable[..., Transport]) -> None:
    """An unknown host name (RFC 6761: `.invalid` never exists) raises ConnectError at once."""
    error = await failure(transport(trust_env=False), "http://nobody.invalid")
    assert type(error) is errors.ConnectError
    assert error.retryable is True
    assert str(error).startswith("could not connect to nobody.invalid:80: ")


async def test_no_unix_socket(transport: Callable[..., Transport], tmp_path: Path) -> None:
    """A missing Unix socket raises ConnectError with its path."""
    path = tmp_path / "nothing"
    error = await failure(transport(unix_socket=str(path)), "http://agents.test")
    assert type(error) is errors.ConnectError
    assert str(error) == f"could not connect to unix:{path}: No such file or directory"


HOSTS: Final = {
    "empty label": "http://a..b",
    "long label": f"http://{'a' * 70}.test",
    "surrogate": "http://\ud800.test",
    "no punycode": "http://xn--",
    "symbol": "http://\u2603.invalid",
}


@pytest.mark.parametrize("which", HOSTS)
async def test_invalid_host_names(transport: Callable[..., Transport], which: str) -> None:
    """An invalid host name raises ConfigurationError, or ConnectError for a name that is not found."""
    error = await failure(transport(trust_env=False), HOSTS[which])
    assert type(error) in (errors.ConfigurationError, errors.ConnectError)
    assert str(error).encode()
