"""Transport over aiohttp (extra `[aiohttp]`).

Rule 1: aiohttp knows asyncio alone; under trio an exchange is a `ConfigurationError` that names what works there.
Rule 2: an exception of aiohttp is translated here, by one table, and is never seen elsewhere but as a `__cause__`.
Rule 3: the clocks are the run's; only the time to connect is kept here.
Rule 4: secrets stay home: a session of our own keeps no cookie of one run for the next, and sends no credentials of
    `.netrc`, as aiohttp's `trust_env` does, over http too; so the proxies of the environment are found without it.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from oxygent_client.transports._environment import (
    Proxies,
    Proxy,
    accepts_all,
    check_proxied_request,
    check_verify,
    trust,
    without_bad_key_log,
)

try:
    with without_bad_key_log():
        import aiohttp
        import aiohttp.http
        from aiohttp.client_proto import ResponseHandler
except ImportError as missing:
    raise ImportError("AiohttpTransport needs aiohttp: pip install 'oxygent-client[aiohttp]'") from missing
import attrs
from yarl import URL

from oxygent_client._core.errors import (
    ClosedError,
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    RemoteProtocolError,
    TLSError,
)
from oxygent_client._core.per_loop import Closed, PerLoop, this_loop
from oxygent_client._core.transport import BufferedChunks, HTTPRequest, HTTPResponse
from oxygent_client.transports._connection_count import Counted
from oxygent_client.transports._error_map import Translation, reason, without_phrase
from oxygent_client.transports._library_log import our_records, rewrite_records
from oxygent_client.transports._own_client import check_class, check_loop
from oxygent_client.transports._response_head import MOST_HEADERS, MOST_OF_ONE, head_of

__all__ = ["AiohttpTransport"]

KEPT_SECONDS: Final = 2.0
"""As in `_httpx_family`: uvicorn closes after 5 s, and a POST that meets the close is an UNKNOWN."""

TELLS_OF_SOCKETS: Final = hasattr(aiohttp, "SocketFactoryType")
"""aiohttp 3.12 lets a TCP connector's sockets be made elsewhere. A response that has come whole names no connection."""

PIECE: Final = 64 * 1024
"""Bytes of a request's body that are handed to the event loop at once."""
_KNOWN: Final = inspect.signature(aiohttp.ClientSession).parameters
_LARGE_HEADS: Final[dict[str, Any]] = {
    name: size
    for name, size in (("max_line_size", MOST_OF_ONE), ("max_field_size", MOST_OF_ONE), ("max_headers", MOST_HEADERS))
    if name in _KNOWN
}
"""What the other transports take, too: aiohttp's own bounds are 8,190 bytes for a header, and 128 headers."""

_NO_TLS: Final = "the TLS handshake with {} failed"
_NO_URL: Final = "aiohttp does not take this URL"

QUOTES: Final = (
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    aiohttp.RedirectClientError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerDisconnectedError,
    aiohttp.http.HttpProcessingError,
)
"""Their texts quote a whole URL, or what had come of a head; those may be secrets. Others name a reason first."""


def _says(error: Exception) -> str:
    """What `error` says of itself, as far as it may be shown."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return without_phrase(str(error.status))
    if isinstance(error, aiohttp.ClientResponseError):  # its own text ends with the URL
        return f"{error.status} {reason(error.message)}"
    if isinstance(error, aiohttp.ClientPayloadError):
        return reason(error)
    return "" if isinstance(error, QUOTES) else str(error)


TRANSLATION: Final = Translation(
    "aiohttp",
    (
        (aiohttp.ClientSSLError, TLSError, _NO_TLS),
        (aiohttp.ServerFingerprintMismatch, TLSError, _NO_TLS),
        (aiohttp.ConnectionTimeoutError, ConnectTimeoutError, "no connection to {} within the time to connect"),
        (aiohttp.ClientProxyConnectionError, ConnectError, "{proxy} cannot be reached"),
        (aiohttp.ClientHttpProxyError, ConnectError, "{proxy} made no connection"),
        (aiohttp.ClientConnectorError, ConnectError, "could not connect to {}"),
        (aiohttp.InvalidURL, ConfigurationError, _NO_URL),
        (aiohttp.NonHttpUrlClientError, ConfigurationError, _NO_URL),
        (aiohttp.ClientResponseError, RemoteProtocolError, "the server does not speak proper HTTP"),
        (aiohttp.RedirectClientError, RemoteProtocolError, "the client was redirected to where it cannot go"),
        # Its parser's own; the one that is written in Python lets them through from within a body.
        (aiohttp.http.HttpProcessingError, RemoteProtocolError, "the server does not speak proper HTTP"),
        (aiohttp.ClientError, ConnectionLostError, "the connection was lost"),
    ),
    _says,
)


END_OF_HEAD: Final = b"\r\n\r\n"
INTERIM: Final = {*range(100, 200)} - {101}


class _Connection(ResponseHandler):
    """aiohttp's side of one connection, which serves again only if nothing came behind its last response.

    aiohttp takes what comes behind a response for the next one. What it cannot parse it does not tell the reader of a
    body, who would wait for ever, even after the other side is gone.
    """

    _is_idle = False
    """Whether the response has come to its end, and the next request has not begun."""
    _awaits_head = True
    _body: aiohttp.StreamReader | None = None

    def set_response_params(self, **params: Any) -> None:
        """A request begins."""
        self._is_idle, self._awaits_head = False, True
        super().set_response_params(**params)

    def feed_data(self, data: tuple[Any, aiohttp.StreamReader], size: int = 0) -> None:
        """The head of a response is there, and its body begins.

        Interim responses are left out: the reader skips them, and a flood of them would fill the memory.
        """
        message, body = data
        if message.code not in INTERIM:
            self._awaits_head, self._body = False, body
            super().feed_data(data, size)
            body.on_eof(self._ended)

    def _ended(self) -> None:
        self._is_idle, self._body = True, None

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """The connection is of no more use."""
        super().set_exception(exc, *[exc_cause] if exc_cause is not None else [])
        body, self._body = self._body, None
        if body is not None and body.exception() is None:
            body.set_exception(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come. They are parsed in pieces, to see whether the response ended before the last of them.

        The head is one: what cannot be parsed, behind a response, would else take the whole response away.
        """
        head = data.find(END_OF_HEAD) + len(END_OF_HEAD) if self._awaits_head and END_OF_HEAD in data else 0
        for end in (head, -1):
            if not self._is_idle and data[:end] and data[end:]:
                super().data_received(data[:end])
                data = data[end:]
        if not self._is_idle:
            if self.exception() is None:
                super().data_received(data)
        elif data:
            self.force_close()  # while an exchange has it
            self.close()
        if self._awaits_head and self.transport is not None:
            # uvloop reads up to 8 MB in a turn: in a flood of interim responses no clock would strike for seconds.
            self.transport.pause_reading()
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if self.transport is not None:
            self.transport.resume_reading()

    def close(self) -> None:
        """Close at once, and let no unsent byte wait for a server, unless it has served its last request well."""
        if self.transport is not None and not self._is_idle:
            self.transport.abort()
        super().close()


class _Chunks:
    """The chunks of a response, as they come."""

    def __init__(self, response: aiohttp.ClientResponse, url: str) -> None:
        self._content: Any = response.content
        self._url = url
        framed = response.headers.keys() & {"Content-Length", "Transfer-Encoding"}
        connection = None if framed else response.connection
        self._protocol = None if connection is None else connection.protocol

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        with our_records(), TRANSLATION.translated(self._url, reading=True):
            piece: bytes
            try:
                piece = await self._content.readany()
            except Exception:
                # It tells of an error before it hands over what came before that.
                piece = self._content._read_nowait(-1)  # noqa: SLF001  (nothing public hands it over)
                if not piece:
                    raise
            if piece:
                return piece
            # To aiohttp each end of the connection is the end of a body that names none, be it a reset.
            protocol, self._protocol = self._protocol, None
            if protocol is not None and isinstance(lost := protocol.exception(), OSError):
                raise lost
        raise StopAsyncIteration


def _socket(counted: Counted[socket.socket], address: Any) -> socket.socket:
    """The socket that aiohttp itself would make of a line of `getaddrinfo`."""
    return counted.add(socket.socket(*address[:3]))


def _in_pieces(body: bytes) -> AsyncIterator[bytes]:
    """A large body in pieces: what asyncio has buffered is sent even after a close, so it must never be all of it."""
    return BufferedChunks(*(body[start : start + PIECE] for start in range(0, len(body), PIECE)))


def _default_trust() -> ssl.SSLContext:
    """The system's trust, which OpenSSL lets `SSL_CERT_FILE` and `SSL_CERT_DIR` replace."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _system_trust() -> ssl.SSLContext:
    """The system's trust, whatever the environment says."""
    paths = ssl.get_default_verify_paths()
    file = paths.openssl_cafile if Path(paths.openssl_cafile).is_file() else None
    folder = paths.openssl_capath if Path(paths.openssl_capath).is_dir() else None
    context = ssl.create_default_context(cafile=file, capath=folder)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _proxy_of(session: aiohttp.ClientSession, url: str) -> str | None:
    """The proxy that a session of the user's own uses for `url`."""
    given: object = getattr(session, "_default_proxy", None)
    if given is not None or not getattr(session, "trust_env", False):
        return None if given is None else str(given)
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


@attrs.frozen(eq=False)
class _Live:
    """What a transport has in one event loop."""

    session: aiohttp.ClientSession
    proxies: Proxies

    async def aclose(self) -> None:
        """Close the session."""
        await self.session.close()


class AiohttpTransport:
    """Moves bytes by aiohttp. On asyncio only.

    Args:
        session: a session of your own, with its connector, proxies, certificates and time to connect; it is used as it
            is and never closed.
        verify: False, or a context, in the place of the system's trust. A context brings a client's certificate, too.
        proxy: the URL of a proxy for everything; None takes those of the environment, but not for loopback.
        connect: seconds to have a connection; None waits as long as the run's `total` does.
        trust_env: False leaves the environment's proxies and certificates out.
        unix_socket: the path of a Unix socket to connect to, in the place of the URL's host; no proxy is used then.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession | None = None,
        verify: ssl.SSLContext | bool = True,
        proxy: str | None = None,
        connect: float | None = 10.0,
        trust_env: bool = True,
        unix_socket: str | None = None,
    ) -> None:
        check_verify(verify, "AiohttpTransport")
        if session is not None and (verify is not True or proxy is not None or unix_socket is not None):
            raise ConfigurationError(
                "AiohttpTransport: a session of your own brings its own verify, proxy and unix_socket"
            )
        if session is not None:
            check_class(session, aiohttp.ClientSession, "AiohttpTransport: session", ("request", "closed", "timeout"))
        if proxy is not None and unix_socket is not None:
            raise ConfigurationError("AiohttpTransport: a proxy is not reached by a Unix socket; give one of the two")
        self._session = session
        self._verify = verify
        self._proxy = proxy
        self._connect = connect
        self._trust_env = trust_env
        self._unix_socket = unix_socket
        self._live: PerLoop[_Live] = PerLoop()
        self._closed = Closed()
        self._counted: Counted[socket.socket] = Counted(socket.socket.fileno, socket.socket.close)

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`.

        Raises:
            ConfigurationError: the event loop is not asyncio's.
        """
        if not isinstance(this_loop(), asyncio.AbstractEventLoop):
            raise ConfigurationError("AiohttpTransport runs on asyncio only; HTTPXTransport runs on trio too")
        self._closed.check(self)
        session, proxy = self._session_for(request)
        if session.closed:
            raise ClosedError("the aiohttp session of this transport was closed")
        rewrite_records("aiohttp")
        own = session.timeout
        url = request.url if self._unix_socket is None else f"unix:{self._unix_socket}"
        data: object = request.body or None
        length: dict[str, str] = {}
        if len(request.body) > PIECE:
            data, length = _in_pieces(request.body), {"content-length": str(len(request.body))}
        with self._counted.exchange() as occupies:
            with our_records(), TRANSLATION.translated(url, proxy=proxy):
                response = await session.request(
                    request.method,
                    URL(request.url, encoded=True),
                    data=data,
                    headers={**length, **request.headers},
                    allow_redirects=False,
                    raise_for_status=False,
                    auto_decompress=False,
                    **_LARGE_HEADS,
                    proxy=None if proxy is None else proxy.url,
                    ssl=self._context(request, proxy),
                    timeout=aiohttp.ClientTimeout(connect=own.connect, sock_connect=own.sock_connect),
                )
            occupies(lambda: response.connection)
            # Those of a session, of its cookies, and for its proxy are among them.
            request.context.sent.note(headers=response.request_info.headers, marked=request.context.secret_headers)
            try:
                headers = head_of(response.status, response.headers.items())
                yield HTTPResponse(response.status, headers, _Chunks(response, url), request)
            finally:
                # Read to its end, the connection is back in the pool already, and this does nothing.
                with our_records():
                    response.close()

    def _session_for(self, request: HTTPRequest) -> tuple[aiohttp.ClientSession, Proxy | None]:
        """The session that takes this request, and the proxy that leads there, if it is known."""
        if self._session is not None:
            check_loop(self._session, "AiohttpTransport: session", getattr(self._session, "_loop", None))
            if request.url.startswith("http:") and (theirs := _proxy_of(self._session, request.url)):
                check_proxied_request(request, theirs)
            return self._session, None
        live = self._live.get() or self._new_live()
        proxy = live.proxies.find(request.url)
        if proxy is not None:
            check_proxied_request(request, proxy.url)
        return live.session, proxy

    def _new_live(self) -> _Live:
        self._counted.drop()
        trust_env = self._trust_env and self._unix_socket is None
        proxies = Proxies.read(self._proxy, trust_env=trust_env, schemes=("http", "https"))
        return self._live.put(_Live(self._new_session(), proxies), _Live.aclose)

    def _context(self, request: HTTPRequest, proxy: Proxy | None) -> ssl.SSLContext | bool:
        """What says which certificates are accepted; True where none is shown, and where a session sees to that."""
        is_plain = request.url.startswith("http:") and (proxy is None or not proxy.is_secure)
        if self._verify is not True or self._session is not None or is_plain:
            return self._verify
        return trust(_default_trust if self._trust_env else _system_trust, trust_env=self._trust_env)

    def _new_session(self) -> aiohttp.ClientSession:
        connector: Any
        if self._unix_socket is not None:
            connector = aiohttp.UnixConnector(self._unix_socket, limit=0, keepalive_timeout=KEPT_SECONDS)
        else:
            sockets: dict[str, Any] = {"socket_factory": partial(_socket, self._counted)} if TELLS_OF_SOCKETS else {}
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_SECONDS, **sockets)
        # tests/transports/test_surplus.py fails if this no longer says of which class its connections are.
        factory = partial(_Connection, loop=asyncio.get_running_loop())
        connector._factory = factory  # noqa: SLF001  (nothing public does)
        timeout = aiohttp.ClientTimeout(connect=self._connect)
        return aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())

    def connections(self) -> tuple[int, int] | None:
        """As `Pool.connections`; None for a session of your own, a Unix socket, and aiohttp before 3.12."""
        knows = TELLS_OF_SOCKETS and self._session is None and self._unix_socket is None
        return self._counted() if knows else None

    async def aclose(self) -> None:
        """As `Transport.aclose`; a session of your own stays open."""
        self._closed.note()
        live = self._live.take()
        if live is not None:
            with our_records(), TRANSLATION.translated("", reading=True):
                await live.aclose()

    def __getstate__(self) -> dict[str, Any]:
        for name, live in (("session", self._session is not None), ("verify", not isinstance(self._verify, bool))):
            if live:
                raise ConfigurationError(f"AiohttpTransport: `{name}` is live and cannot be pickled or copied")
        counted = Counted(socket.socket.fileno, socket.socket.close)
        own = {"_live": PerLoop[_Live](), "_closed": Closed(), "_counted": counted}
        return {**self.__dict__, **own}

    def __repr__(self) -> str:
        return f"AiohttpTransport({'session=...' if self._session else accepts_all(self._verify)})"
