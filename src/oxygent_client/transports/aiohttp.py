"""Transport over aiohttp (extra `[aiohttp]`).

Rule 1: aiohttp runs on asyncio only; on trio an exchange raises a `ConfigurationError` that names a transport for it.
Rule 2: aiohttp's `trust_env` would send credentials of `.netrc`, over http too; so the environment's proxies are found
    without it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from oxygent_client.transports._environment import Proxy, check_proxied_request, trust, without_bad_key_log

try:
    with without_bad_key_log():
        import aiohttp
        import aiohttp.http
        from aiohttp.client_proto import ResponseHandler
except ImportError as _missing:
    raise ImportError("AiohttpTransport needs aiohttp: pip install 'oxygent-client[aiohttp]'") from _missing
from multidict import CIMultiDict, istr
from yarl import URL

from oxygent_client._core.errors import (
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    RemoteProtocolError,
    TLSError,
)
from oxygent_client._core.per_loop import call_soon, this_loop
from oxygent_client._core.transport import BufferedChunks, HTTPRequest, HTTPResponse, SelfClosing
from oxygent_client.transports._connection_count import ConnectionCounter, CountedExchange
from oxygent_client.transports._error_map import (
    LOST,
    NO_TLS,
    NOT_CONNECTED,
    NOT_HTTP,
    ErrorMap,
    reason,
    standard_phrase,
)
from oxygent_client.transports._http_base import KEEP_ALIVE_SECONDS, HTTPBase, closes_safely, needs_tls
from oxygent_client.transports._library_log import our_records
from oxygent_client.transports._response_head import MAX_HEADERS, MAX_VALUE_BYTES, parse_head
from oxygent_client.transports._sockets import is_readable

__all__ = ["AiohttpTransport"]

UPLOAD_BYTES: Final = 64 * 1024
"""Size of the pieces of a request body: asyncio sends what it has buffered even after a close."""
_PARAMETERS: Final = inspect.signature(aiohttp.ClientSession).parameters
_OPTIONS: Final[dict[str, Any]] = {
    name: value
    for name, value in (
        ("raise_for_status", False),
        ("auto_decompress", False),
        # The limits of the other transports; aiohttp's own are 8,190 bytes for a header, and 128 headers.
        ("max_line_size", MAX_VALUE_BYTES),
        ("max_field_size", MAX_VALUE_BYTES),
        ("max_headers", MAX_HEADERS),
    )
    if name in _PARAMETERS
}
"""Options that a session of ours has, and that each request over the user's own session gets."""

_UNSUPPORTED_URL: Final = "aiohttp does not support this URL"

QUOTING: Final = (
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    aiohttp.RedirectClientError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerDisconnectedError,
    aiohttp.http.HttpProcessingError,
)
"""Exceptions whose text quotes a whole URL, or parts of a response head, which may be secret."""


def _describe(error: Exception) -> str:
    """Return the text of `error`, without what must not be shown."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return standard_phrase(str(error.status))
    if isinstance(error, aiohttp.ClientResponseError):  # its own text ends with the URL
        return f"{error.status} {reason(error.message)}"
    if isinstance(error, aiohttp.ClientPayloadError):
        return reason(error)
    return "" if isinstance(error, QUOTING) else str(error)


ERRORS: Final = ErrorMap(
    "aiohttp",
    (
        (aiohttp.ClientSSLError, TLSError, NO_TLS),
        (aiohttp.ServerFingerprintMismatch, TLSError, NO_TLS),
        (aiohttp.ConnectionTimeoutError, ConnectTimeoutError, "could not connect to {} within the connect time-out"),
        (aiohttp.ClientProxyConnectionError, ConnectError, "{proxy} cannot be reached"),
        (aiohttp.ClientHttpProxyError, ConnectError, "{proxy} refused to connect"),
        (aiohttp.ClientConnectorError, ConnectError, NOT_CONNECTED),
        (aiohttp.InvalidURL, ConfigurationError, _UNSUPPORTED_URL),
        (aiohttp.NonHttpUrlClientError, ConfigurationError, _UNSUPPORTED_URL),
        (aiohttp.ClientResponseError, RemoteProtocolError, NOT_HTTP),
        (aiohttp.RedirectClientError, RemoteProtocolError, "the client followed a redirect to an unsupported URL"),
        # Raised by the parser itself; the pure Python one lets it out while a body is read.
        (aiohttp.http.HttpProcessingError, RemoteProtocolError, NOT_HTTP),
        (aiohttp.ClientError, ConnectionLostError, LOST),
    ),
    _describe,
)


END_OF_HEAD: Final = b"\r\n\r\n"
KEPT: Final = len(END_OF_HEAD) - 1
"""So many bytes of a read may be the beginning of the end of a head."""
INTERIM: Final = {*range(100, 200)} - {101}
LAST_CHUNK: Final = re.compile(rb"\n[0 \t]").search
"""Finds what may be the beginning of a last chunk; aiohttp's parser in Python strips its size."""
READ_BYTES: Final = 64 * 1024
"""How much a connection reads at once."""


class _Heads(list[Any]):
    """The response heads that were received and not taken yet. They are few; an empty deque takes 760 bytes."""

    __slots__ = ()

    def popleft(self) -> Any:
        """As that of a deque."""
        return self.pop(0)


class _Connection(ResponseHandler, asyncio.BufferedProtocol):
    """aiohttp's protocol for one connection, which is reused only if no byte followed its last response.

    aiohttp takes bytes after a response for the next response. It does not report bytes that it cannot parse to the
    reader of a body: it would wait for ever, even after the other side has closed.

    The connections of a session read into the same memory, one after the other. For a protocol without a buffer asyncio
    allocates 256 KiB for each read: two page faults for an event. uvloop has a buffer of its own, and calls
    `data_received`.

    The reader of a body waits for `news`: aiohttp's own wait takes two more coroutines and a context manager.
    """

    # In its dictionary, which is full, they would take 800 bytes.
    __slots__ = ("_awaited", "_awaits_head", "_is_idle", "_is_paused", "_last", "_may_end", "_memory", "body")

    def __init__(self, loop: asyncio.AbstractEventLoop, memory: memoryview) -> None:
        super().__init__(loop)
        self._buffer: Any = _Heads()  # aiohttp has no public way; under another name it would keep its deque
        self._memory = memory
        self._is_paused = False
        self._is_idle = False  # whether the response has ended, and the next request has not begun
        self._awaits_head = True
        # Whether the response may end with the next byte: it has no chunks, or what may be the last one has begun.
        self._may_end = False
        self._last = b""  # the KEPT bytes that were received last
        self._awaited: asyncio.Future[None] | None = None
        self.body: aiohttp.StreamReader | None = None
        """What is being received; None before its head, and after its end or failure."""

    def set_response_params(self, **params: Any) -> None:
        """Note that a request begins."""
        self._is_idle, self._awaits_head, self._may_end = False, True, False
        super().set_response_params(**params)

    def feed_data(self, data: tuple[Any, aiohttp.StreamReader], size: int = 0) -> None:
        """Take a response head, after which its body begins.

        Interim responses are dropped: the reader skips them, and a flood of them would fill the memory.
        """
        message, body = data
        if message.code not in INTERIM:
            self._awaits_head, self.body = False, body
            self._may_end = self._may_end or not message.chunked
            super().feed_data(data, size)
            body.on_eof(self._ended)

    def _ended(self) -> None:
        self._is_idle, self.body = True, None
        self._wake()

    def news(self) -> asyncio.Future[None]:
        """Return a future that is done as soon as bytes, or the end or failure of `body`, are received.

        Raises:
            RuntimeError: another task waits for it, as aiohttp's own wait does.
        """
        if self._awaited is not None and not self._awaited.done():
            raise RuntimeError("another task is reading this body")
        waiter = self._awaited = self._loop.create_future()
        return waiter

    def _wake(self) -> None:
        waiter, self._awaited = self._awaited, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """Fail the connection, and the body that is being read."""
        super().set_exception(exc, *[exc_cause] if exc_cause is not None else [])
        body, self.body = self.body, None
        if body is not None and body.exception() is None:
            body.set_exception(exc)
        self._wake()

    def pause_reading(self) -> None:
        """Stop reading until `resume_reading`: the reader of a body is slower than the connection."""
        self._is_paused = True
        super().pause_reading()

    def resume_reading(self, *args: Any, **options: Any) -> None:
        """Read on after a pause.

        aiohttp calls it whenever a body is read, and parses nothing then (as `data_received(b"")`): a sixth of its time
        for a small event.
        """
        if self._is_paused:
            self._is_paused = False
            super().resume_reading(*args, **options)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the memory into which asyncio reads."""
        return self._memory

    def buffer_updated(self, nbytes: int) -> None:
        """Take so many bytes that were read."""
        self.data_received(self._memory[:nbytes].tobytes())

    def data_received(self, data: bytes) -> None:
        """Parse received bytes in pieces, to see whether the response ended before the last of them.

        Each head is a piece of its own: otherwise invalid bytes after a response would lose the whole response. Where
        the response cannot end, all is one piece: to parse costs more than to look for the beginning of a last chunk.
        """
        if self._awaits_head:
            data = self._parse_heads(data)
        if data:  # aiohttp itself calls with none, when it reads on after a pause
            received = self._last + data
            self._last = received[-KEPT:]
            self._may_end = self._may_end or LAST_CHUNK(received) is not None
        if self._may_end or self._awaits_head:
            data = self._parse_until(-1, data)
        if not self._is_idle:
            if self.exception() is None:
                ResponseHandler.data_received(self, data)  # in less time than by `super()`
                self._wake()
        elif data:
            self.force_close()  # where an exchange still uses it
            self.close()
        if self._awaits_head and self.transport is not None:
            # uvloop reads up to 8 MB at once: a flood of interim responses would delay all time-outs for seconds.
            self.transport.pause_reading()
            self._loop.call_soon(self._read_on)

    def _parse_heads(self, data: bytes) -> bytes:
        """Parse the heads that end in `data`, unless nothing would be left; return the rest."""
        received, start = self._last + data, len(self._last)
        while self._awaits_head:
            end = received.find(END_OF_HEAD, max(start - len(self._last), 0)) + len(END_OF_HEAD)
            if not start < end < len(received):
                break
            super().data_received(received[start:end])
            start, self._last = end, b"\n"
        return received[start:]

    def _parse_until(self, end: int, data: bytes) -> bytes:
        """Parse a part of `data`, unless the response has ended or nothing would be left; return the rest."""
        if self._is_idle or not data[:end] or not data[end:]:
            return data
        super().data_received(data[:end])
        return data[end:]

    def _read_on(self) -> None:
        if self.transport is not None:
            self.transport.resume_reading()

    def is_connected(self) -> bool:
        """Return whether it is open: a remote that closed it while it was idle may not be heard yet."""
        transport = self.transport
        view = transport.get_extra_info("socket") if self._is_idle and transport is not None else None
        return super().is_connected() and (view is None or not is_readable(view))

    def close(self) -> None:
        """Close at once, and drop unsent bytes, unless the last response is complete."""
        if self.transport is not None and not self._is_idle:
            self.transport.abort()
        super().close()


class _OneWrite:
    """The transport of a connection until its next write, which takes a body along."""

    __slots__ = ("_body", "_protocol", "_transport")

    def __init__(self, protocol: Any, body: bytes) -> None:
        self._protocol = protocol
        self._transport = protocol.transport
        self._body = body

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """As that of the transport; each request asks, and `__getattr__` takes longer than all the rest."""
        return bool(self._transport.is_closing())

    def write(self, data: bytes) -> None:
        """Write `data` and the body."""
        self._protocol.transport = self._transport
        self._transport.write(data + self._body)


class _Request(aiohttp.ClientRequest):
    """A request that leaves in one write. For a body, aiohttp starts a task, which waits for a turn of the loop."""

    _rest = b""

    def update_headers(self, headers: Any) -> None:
        """Set the headers, whose names differ, at once; aiohttp adds one after the other."""
        super().update_headers(None)
        self.headers.update(headers)

    def update_body_from_data(self, body: Any, *args: Any, **options: Any) -> None:
        """Keep the body of a POST: aiohttp is told of its length alone. It may send other requests again by itself."""
        if self.method == "POST" and isinstance(body, bytes):
            self.headers["content-length"] = str(len(body))  # a wrong one would shift all that follows
            self._rest, body = body, None
        super().update_body_from_data(body, *args, **options)

    def update_expect_continue(self, expect: bool = False) -> None:
        """Wait for no interim response: `Expect` is a header as any other, as over the other libraries."""

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        """Write the request."""
        if self._rest and conn.protocol.transport is not None:  # else aiohttp raises
            conn.protocol.transport = _OneWrite(conn.protocol, self._rest)
        return await super().send(conn)


class _Chunks:
    """The chunks of a response."""

    __slots__ = ("_connection", "_content", "_protocol", "_response", "_taken", "_url")

    def __init__(self, response: aiohttp.ClientResponse, url: str, *, is_ours: bool) -> None:
        self._response = response
        self._content: Any = response.content
        self._url = url
        self._taken = 0  # so many bytes were handed out
        is_framed = "Transfer-Encoding" in response.headers or "Content-Length" in response.headers
        connection = response.connection if is_ours or not is_framed else None
        protocol = None if connection is None else connection.protocol
        self._connection: Any = protocol if is_ours else None  # it tells of news
        self._protocol = None if is_framed else protocol  # it tells whether the end was a reset

    def connection(self) -> object:
        """Return the connection in use; None once it is free again."""
        return self._response.connection

    @property
    def is_over(self) -> bool:
        """Whether the body was read to its end."""
        return bool(self._content.at_eof())

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        content, connection = self._content, self._connection
        try:
            if connection is not None and connection.body is content and content.total_bytes == self._taken:
                await connection.news()
            piece: bytes = content.read_nowait() or await content.readany()
        except Exception as error:  # noqa: BLE001  (it is mapped)
            piece = self._rest(error)
        if not piece:
            self._check_end()
            raise StopAsyncIteration
        self._taken += len(piece)
        return piece

    def _rest(self, error: Exception) -> bytes:
        """Return the bytes that were received before `error`, which aiohttp raises first; else raise it."""
        with our_records(), ERRORS.mapped(self._url, reading=True):
            rest: bytes = self._content._read_nowait(-1)  # noqa: SLF001  (there is no public way)
            if not rest:
                raise error
        return rest

    def _check_end(self) -> None:
        """Refuse a reset: aiohttp takes any end of the connection for the end of a body of unknown length."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None and isinstance(lost := protocol.exception(), OSError):
            with ERRORS.mapped(self._url, reading=True):
                raise lost


class _Exchange(CountedExchange, SelfClosing):
    """An exchange that holds no more than an idle stream needs: a generator takes ten times the memory."""

    __slots__ = ("_respond", "loop", "response")

    def __init__(
        self, counter: ConnectionCounter[socket.socket], respond: Callable[[_Exchange], Awaitable[HTTPResponse]]
    ) -> None:
        super().__init__(counter)
        self._respond: Callable[[_Exchange], Awaitable[HTTPResponse]] | None = respond
        self.loop: asyncio.AbstractEventLoop | None = None
        self.response: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> HTTPResponse:
        respond, self._respond = self._respond, None  # it has the request, whose body may be large
        assert respond is not None
        try:
            return await respond(self)
        except BaseException:
            self._close()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        response, self.response = self.response, None
        # After the end of the body the connection is back in the pool already.
        if response is not None and (not response.content.at_eof() or response.connection is not None):
            with our_records():
                response.close()
        self.end()

    def __del__(self) -> None:
        super().__del__()
        if self.response is not None:
            call_soon(self.loop, self.response.close)


CONNECTOR_CLOSED: Final = "Connector is closed."
"""What aiohttp says when its session was closed while a connection was made."""

_header_name: Final = functools.lru_cache(maxsize=256)(istr)
"""A name as aiohttp keeps it as long as its response: of another `str` it makes one for each request."""


@functools.lru_cache(maxsize=16)
def _connect_timeout(connect: float | None, sock_connect: float | None) -> aiohttp.ClientTimeout:
    """Return the time-outs of a request: those to connect alone."""
    return aiohttp.ClientTimeout(connect=connect, sock_connect=sock_connect)


def _options_for(session: aiohttp.ClientSession) -> dict[str, Any]:
    """Return the options of a request over the user's own session."""
    own = session.timeout
    return {**_OPTIONS, "timeout": _connect_timeout(own.connect, own.sock_connect)}


def _socket(counter: ConnectionCounter[socket.socket], address: Any) -> socket.socket:
    """Create the socket that aiohttp itself would create for an entry of `getaddrinfo`."""
    return counter.add(socket.socket(*address[:3]))


def _default_trust() -> ssl.SSLContext:
    """Trust the system's certificates; OpenSSL lets `SSL_CERT_FILE` and `SSL_CERT_DIR` replace them."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _system_trust() -> ssl.SSLContext:
    """Trust the system's certificates, whatever the environment says."""
    paths = ssl.get_default_verify_paths()
    file = paths.openssl_cafile if Path(paths.openssl_cafile).is_file() else None
    folder = paths.openssl_capath if Path(paths.openssl_capath).is_dir() else None
    context = ssl.create_default_context(cafile=file, capath=folder)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _proxy_of(session: aiohttp.ClientSession, url: str) -> str | None:
    """Return the proxy that the user's own session uses for `url`."""
    given: object = getattr(session, "_default_proxy", None)
    if given is not None or not getattr(session, "trust_env", False):
        return None if given is None else str(given)
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


class AiohttpTransport(HTTPBase[aiohttp.ClientSession]):
    """Transport over aiohttp, on asyncio only.

    Args:
        session: your own session, with its connector, proxies, certificates and connect time-out. It is never changed
            or closed.
        verify: False, or an `ssl.SSLContext`, to replace the system's trust store. A context can also hold a client
            certificate.
        proxy: the URL of a proxy for all requests. None uses the proxies of the environment, but not for loopback.
        connect: connect time-out in seconds. None waits as long as the run's `total` allows.
        trust_env: False ignores the proxies and certificates of the environment.
        unix_socket: the path of a Unix socket to connect to, instead of the URL's host. No proxy is used then.

    Raises:
        ConfigurationError: an argument is wrong or cannot be combined with another; the text names it.
    """

    _errors: ClassVar[ErrorMap] = ERRORS
    _argument: ClassVar[str] = "session"
    _proxy_schemes: ClassVar[tuple[str, ...]] = ("http", "https")

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
        super().__init__(
            session,
            aiohttp.ClientSession,
            ("request", "closed", "timeout"),
            verify=verify,
            proxy=proxy,
            connect=connect,
            trust_env=trust_env,
            unix_socket=unix_socket,
            counter=ConnectionCounter(socket.socket.fileno, socket.socket.close),
        )

    @closes_safely
    def exchange(self, request: HTTPRequest, /) -> AbstractAsyncContextManager[HTTPResponse]:
        """As `Transport.exchange`.

        Raises:
            ConfigurationError: the event loop is not asyncio's; use `HTTPXTransport`.
        """
        return _Exchange(self._counter, partial(self._respond, request))

    async def _respond(self, request: HTTPRequest, exchange: _Exchange) -> HTTPResponse:
        loop = this_loop()
        if not isinstance(loop, asyncio.AbstractEventLoop):
            raise ConfigurationError("AiohttpTransport runs on asyncio only; use HTTPXTransport on trio")
        url = request.url
        session, proxy, place = self._start(request, url)
        headers = CIMultiDict(zip(map(_header_name, request.headers), request.headers.values(), strict=True))
        data: object = request.body or None
        if len(request.body) > UPLOAD_BYTES:
            starts = range(0, len(request.body), UPLOAD_BYTES)
            data = BufferedChunks(*(request.body[start : start + UPLOAD_BYTES] for start in starts))
            headers["content-length"] = str(len(request.body))
        options = {} if self._own is None else _options_for(session)
        exchange.loop = loop
        try:
            with our_records():
                response = exchange.response = await session.request(
                    request.method,
                    URL(url, encoded=True),
                    data=data,
                    headers=headers,
                    allow_redirects=False,
                    proxy=None if proxy is None else proxy.url,
                    ssl=self._tls_context(url, proxy),
                    **options,
                )
        except Exception as error:
            if str(error) == CONNECTOR_CLOSED and request.method == "POST":  # others it may have sent before
                self._check_open(session)
            with ERRORS.mapped(place, proxy=proxy):
                raise
        chunks = _Chunks(response, place, is_ours=self._own is None)
        exchange(chunks)
        if self._own is not None or proxy is not None:
            # These include the headers of a session, of its cookies, and for its proxy.
            request.context.sent.note(headers=response.request_info.headers, marked=request.context.secret_headers)
        return HTTPResponse(response.status, parse_head(response.status, response.headers.items()), chunks, request)

    def _check_own(self, request: HTTPRequest, url: str, own: aiohttp.ClientSession) -> None:
        super()._check_own(request, url, own)
        if url.startswith("http:") and (own_proxy := _proxy_of(own, url)):
            check_proxied_request(request, own_proxy)

    def _client_key(self, url: str, proxy: Proxy | None) -> tuple[bool, Proxy | None]:
        return True, None  # one session serves all: proxy and context are arguments of a request

    def _tls_context(self, url: str, proxy: Proxy | None) -> ssl.SSLContext | bool:
        """Return aiohttp's `ssl` argument; True without TLS, and with the user's own session, which has its own."""
        if self._verify is not True or self._own is not None or not needs_tls(url, proxy):
            return self._verify
        return trust(_default_trust if self._trust_env else _system_trust, trust_env=self._trust_env)

    def _new_client(self, needs_tls: bool, proxy: Proxy | None) -> aiohttp.ClientSession:
        connector: Any
        if self._unix_socket is not None:
            connector = aiohttp.UnixConnector(self._unix_socket, limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS)
        else:
            connector = aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=KEEP_ALIVE_SECONDS,
                socket_factory=partial(_socket, self._counter),  # a complete response names no connection to count
            )
        # tests/transports/test_surplus.py fails if this no longer sets the class of connections.
        memory = memoryview(bytearray(READ_BYTES))
        factory = partial(_Connection, loop=asyncio.get_running_loop(), memory=memory)
        connector._factory = factory  # noqa: SLF001  (there is no public way)
        timeout = aiohttp.ClientTimeout(connect=self._connect)
        return aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            request_class=_Request,
            **_OPTIONS,
        )

    @staticmethod
    def _is_closed(client: Any) -> bool:
        return bool(client.closed)

    @staticmethod
    async def _close_client(client: Any) -> None:
        await client.close()

    def connections(self) -> tuple[int, int] | None:
        """As `Pool.connections`; None with your own session, and with a Unix socket."""
        return self._counter() if self._own is None and self._unix_socket is None else None
