"""Shared code of the httpx and httpx2 transports.

Rule 1: neither library is imported here; a subclass names its library, and the error table is made from that.
Rule 2: an exception that the library raises while an exchange is left is logged, since raised it would hide the
    block's own exception.
Rule 3: the library's read time-out is not used: it is no deadline.
Rule 4: connections are not capped (`_connection_pool`): in a contended pool of httpx 0.28 a cancelled request leaks its
    slot for the life of the client.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, ClassVar, Final, TypeVar

import attrs
from anyio.lowlevel import checkpoint

from oxygent_client._core.errors import (
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    Outcome,
    RemoteProtocolError,
)
from oxygent_client._core.log import log_event
from oxygent_client._core.per_loop import this_loop
from oxygent_client._core.transport import Context, HTTPRequest, HTTPResponse, OpenExchange
from oxygent_client.transports._cancellation import cancel_once, run_to_end
from oxygent_client.transports._connection_count import ConnectionCounter
from oxygent_client.transports._connection_pool import ConnectionPool
from oxygent_client.transports._direct_client import direct_client
from oxygent_client.transports._environment import PORTS, Proxy, check_proxied_request, no_trust, trust
from oxygent_client.transports._error_map import (
    LOST,
    NOT_CONNECTED,
    NOT_HTTP,
    UNDECODABLE,
    ErrorMap,
    reason,
    standard_phrase,
)
from oxygent_client.transports._http_base import KEEP_ALIVE_SECONDS, HTTPBase, closes_safely, needs_tls
from oxygent_client.transports._library_log import our_records
from oxygent_client.transports._plain_connection import plain_connection
from oxygent_client.transports._plain_stream import plain_backend
from oxygent_client.transports._response_head import parse_head
from oxygent_client.transports._sockets import shut_down

KEEP_ALIVE_CONNECTIONS: Final = 20
OK: Final = 200
REDIRECT: Final = 3
"""The class of the redirect statuses."""

ClientT = TypeVar("ClientT")


def error_map(library: Any) -> ErrorMap:
    """Return the error map of httpx or httpx2."""
    name = library.__name__
    return ErrorMap(
        name,
        (
            (library.ConnectTimeout, ConnectTimeoutError, "could not connect to {} within the connect time-out"),
            (library.PoolTimeout, ConnectTimeoutError, "no free connection in the client's pool"),
            (library.ConnectError, ConnectError, NOT_CONNECTED),
            (library.ProxyError, ConnectError, "{proxy} refused to connect"),
            (library.UnsupportedProtocol, ConfigurationError, f"{name} does not support this URL"),
            (library.InvalidURL, ConfigurationError, f"{name} does not support this URL"),
            (library.LocalProtocolError, ConfigurationError, f"{name} cannot send this request"),
            (library.RemoteProtocolError, RemoteProtocolError, NOT_HTTP),
            (library.DecodingError, RemoteProtocolError, UNDECODABLE),
            # Raised only by a hook or an auth flow of the user's own client, after a response.
            (library.HTTPStatusError, RemoteProtocolError, "a hook of the client refused the response"),
            (library.TooManyRedirects, RemoteProtocolError, "the client followed too many redirects"),
            (library.CookieConflict, RemoteProtocolError, "the client has several cookies of one name"),
            (library.StreamError, ConnectionLostError, "the response was read elsewhere, perhaps by a client hook"),
            (library.HTTPError, ConnectionLostError, LOST),
        ),
        functools.partial(_describe, library),
    )


def _describe(library: Any, error: Exception) -> str:
    """Return the text of `error`, without what must not be shown."""
    if isinstance(error, library.LocalProtocolError | library.HTTPStatusError):
        return ""  # they quote a header value, or the whole URL
    if isinstance(error, library.ProxyError):
        return standard_phrase(str(error))
    # h11 quotes the line that it cannot parse.
    return reason(error) if isinstance(error, library.RemoteProtocolError) else str(error)


@functools.cache
def _with_environment(create: Callable[..., ssl.SSLContext], trust_env: bool) -> Callable[[], ssl.SSLContext]:
    """Return `create` with this argument; always the same function, as `trust` needs it."""
    return functools.partial(create, trust_env=trust_env)


_NO_HTTP2: Final = (
    "{}: http2 is not supported: leaving a run would not end it at the server, since over HTTP/2 the library neither"
    " resets the stream nor returns its window. Leave http2 out"
)


async def _close_quietly(close: Callable[[], Awaitable[object]], context: Context) -> None:
    """Close something, and log an error of it, which would replace the block's own exception."""
    try:
        await close()
    except Exception as failure:  # noqa: BLE001  (closing goes on, whatever fails)
        log_event("debug", context, "closing the connection failed: %s", type(failure).__name__)


async def _leave(library: OpenExchange, body: _Body | None, trace: _Trace, client: Any, context: Context) -> None:
    """Close an exchange that may have been left before its end, and the connection that was made for it."""
    if body is not None:
        await body.aclose()
    await _close_quietly(library.aclose, context)
    if trace.unused is not None:
        await _close_quietly(functools.partial(trace.close_unused, client), context)


def _fileno(stream: Any) -> int:
    """Return the descriptor of the socket below one of the library's network streams; -1 if it is closed."""
    number: int = -1 if getattr(stream, "is_closed", False) else stream.get_extra_info("socket").fileno()
    return number


def _close_socket(stream: Any) -> None:
    """Close the socket below a network stream whose event loop is closed; uvloop has closed its own by then."""
    below = stream.get_extra_info("socket")
    with suppress(AttributeError):
        below._sock.close()  # noqa: SLF001  (asyncio's view of the socket cannot close it)


_CONNECTED: Final = (".connect_tcp.complete", ".connect_unix_socket.complete", ".start_tls.complete")
"""Events of httpcore that return a network stream."""
_SENDING: Final = "send_request_headers.started"
"""The event of httpcore before a request is sent over a connection."""
_NOT_SENT: Final = ("ConnectionNotAvailable", "ClosedResourceError")
"""Errors of httpcore, and of anyio below it, where a connection was closed before a request was sent over it."""
_TO_THE_CONNECTION: Final = ("_httpcore_stream", "_stream", "_connection")
"""Attributes that lead from the `stream` of a transport's response to its httpcore connection; there is no public way.
"""


class _NoChunks:
    """The empty body of a response that the library has discarded."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


MOST_CHUNKS: Final = 64
"""How many chunks are joined before other tasks run."""
READ_BYTES: Final = 64 * 1024
NEEDS_BYTES: Final = "NEED_DATA"
"""The name of the parser's event that asks for more bytes."""


class _Body:
    """The chunks of a response over HTTP/1.1, with the library's errors mapped; closes the exchange.

    The library passes each chunk through five generators, which takes several times as long as to parse it, and asyncio
    makes a task for each generator that is left before its end. So the bytes are read from the library's network stream
    and given to its parser here, and the chunks that the parser has are joined.

    A connection is reused only if no byte is known to follow the response. Any other is shut down first and then
    closed; a pool drops connections that are closed, or that the other side seems to have closed.
    """

    def __init__(self, response: Any, context: Context, errors: ErrorMap, url: str, client: Any, library: Any) -> None:
        self.stream: Any = response.extensions.get("network_stream")
        """httpcore's network stream; None if the user's own client has a transport without a network."""
        self.may_use_tls = True
        """Whether the connection may be one with TLS; to ask the library takes as long as to parse the response."""
        self.closes_at_once = False
        """Whether closing it does not wait."""
        self.is_closed = False
        self._response = response
        self._context = context
        self._client = client
        self._library = library
        self._mapped = errors.mapped(url, reading=True)
        connection: Any = getattr(response.stream, "_stream", response.stream)  # a client wraps it
        for name in _TO_THE_CONNECTION:
            connection = getattr(connection, name, None)
        self._connection = connection
        # `aiter_raw` returns a connection to the pool before it is known whether it can be reused. It is still used
        # where a hook of the user's client has read the body, for the error that it raises then.
        is_read = response.is_closed or response.is_stream_consumed
        self._parser: Any = None if is_read else getattr(connection, "_h11_state", None)
        self._raw: AsyncGenerator[bytes, None] | None = None
        if self._parser is None:
            self._raw = response.aiter_raw() if is_read else aiter(response.stream)
        self._failure: Exception | None = None
        self._is_whole = False

    def connection(self) -> object:
        """Return the network stream in use; None once it is free again."""
        return None if self._response.is_closed else self.stream

    @property
    def is_over(self) -> bool:
        """Whether the body was read to its end."""
        return self._is_whole and self._failure is None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        with self._mapped:
            if self._failure is not None:
                raise self._failure
            if self._raw is not None:
                with our_records():
                    async for chunk in self._raw:
                        return chunk
                self._is_whole = True
            while not self._is_whole:
                if chunks := self._parsed():
                    return b"".join(chunks)
                if not self._is_whole:
                    try:
                        piece = await self.stream.read(READ_BYTES)
                    except Exception as error:
                        raise self._library.ReadError(str(error)) from error
                    self._parser.receive_data(piece)
            if not self.is_closed:
                with our_records():
                    await (self.aclose() if self.closes_at_once else run_to_end(self.aclose))
        raise StopAsyncIteration

    def _parsed(self) -> list[bytes | bytearray]:
        """Return the chunks that the parser has, and note the end of the body."""
        chunks: list[bytes | bytearray] = []
        try:
            while len(chunks) < MOST_CHUNKS:
                event = self._parser.next_event()
                if (data := getattr(event, "data", None)) is None:
                    self._is_whole = type(event).__name__ != NEEDS_BYTES
                    break
                chunks.append(data)
        except Exception as error:
            failure: Exception = self._library.RemoteProtocolError(str(error))
            if not chunks:
                raise failure from error
            self._failure = failure  # raised by the next read: the chunks before it come first
        return chunks

    async def aclose(self) -> None:
        """Close the exchange. The remote sees it at once, unless the connection is reused.

        Only a connection with a 200 is reused: bytes after a 204 or 304 would be taken for the next response, and real
        servers close the connection after a 500. None of a closed client is: its pool closes no connection any more.
        """
        reusable = (
            self._is_whole and self._response.status_code == OK and not self._client.is_closed and self._is_clean()
        )
        stream: Any = None if reusable else self.stream
        if stream is not None:
            shut_down(stream.get_extra_info("socket"))
        # In this order closing the library's generators does nothing and does not wait.
        await _close_quietly(self._response.aclose, self._context)
        if self._raw is not None:
            await _close_quietly(self._raw.aclose, self._context)
        if stream is not None:  # a second cancellation may have kept the library from it
            await _close_quietly((self._connection or stream).aclose, self._context)
        self.is_closed = True

    def _is_clean(self) -> bool:
        """Return whether no byte follows the response, which has been read to its end.

        h11 keeps bytes beyond the end, and would take them for the next response. A TLS connection may have read more
        than it has decrypted. Bytes that are still in the socket are seen by the pool.
        """
        if self._parser is None or self._parser.trailing_data[0]:
            return False
        tls = self.stream.get_extra_info("ssl_object") if self.may_use_tls else None
        try:
            return tls is None or tls.read(1) is None  # it returns bytes, or none at the end
        except ssl.SSLError as error:
            return isinstance(error, ssl.SSLWantReadError)


def _pools_of(client: Any) -> list[Any]:
    """Return httpcore's pools below `client`, None for a transport without one; there is no public way."""
    transports = [getattr(client, "_transport", None), *getattr(client, "_mounts", {}).values()]
    return [getattr(transport, "_pool", None) for transport in transports]


def _offers_http2(client: Any) -> bool:
    """Return whether one of the client's transports would negotiate HTTP/2."""
    return any(getattr(pool, "_http2", False) for pool in _pools_of(client))


def _is_over(connection: Any, stream: Any) -> bool:
    """Return whether this connection of a pool, perhaps through a proxy, uses the network stream."""
    while connection is not None:
        if getattr(connection, "_network_stream", None) is stream:
            return True
        connection = getattr(connection, "_connection", None)
    return False


NO_HEAD: Final[tuple[int, Any]] = 0, ()


@attrs.define(eq=False, repr=False)
class _Trace:
    """Keeps a new connection until it is used, by the `trace` extension of httpx.

    A request that is cancelled between the making of a connection and its first use leaves the connection in the pool,
    where nothing uses or closes it: httpcore 1.0 counts it as active. And the transport may be closed meanwhile.
    """

    check_open: Callable[[], None]
    """Raises `ClosedError` if the transport was closed."""
    head: tuple[int, Any] = attrs.field(default=NO_HEAD, init=False)
    """Status and headers of the last response, if they are kept; status 0 if there is none."""
    unused: Any = attrs.field(default=None, init=False)
    """The network stream of a connection that was made for the request and not used yet."""
    proxy: str = attrs.field(default="", init=False)
    """A proxy that the user's own client uses, safe to show."""

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        """Keep a new connection; once the request is sent, there is nothing more to trace."""
        sent = self._note(event, info)
        if sent is not None and sent.method != b"CONNECT":
            sent.extensions.pop("trace", None)

    def _note(self, event: str, info: dict[str, Any]) -> Any:
        """Keep a new connection until a request is sent over it, which is returned; else return None.

        Raises:
            ClosedError: the transport was closed meanwhile.
        """
        if event.endswith(_SENDING):
            self.check_open()
            self.unused = None
            return info["request"]
        if event.endswith(_CONNECTED):
            self.unused = info["return_value"]
        return None

    async def close_unused(self, client: Any) -> None:
        """Close the connection that was made and not used, so that the pool drops it."""
        stream, self.unused = self.unused, None
        below = [
            connection
            for pool in _pools_of(client)
            for connection in getattr(pool, "connections", ())
            if _is_over(connection, stream)
        ]
        for closable in (*below, stream):
            await closable.aclose()

    def __bool__(self) -> bool:
        return bool(self.proxy)

    def __str__(self) -> str:
        return self.proxy


@attrs.define(eq=False, repr=False)
class _OwnClientTrace(_Trace):
    """For the user's own client: also checks its proxies, notes the secrets that it sends, and keeps a response's head.

    A client of the library prepares the request that would follow a redirect even if redirects are not followed. Where
    the redirect's `Location` is not a URL, that fails, and the response is lost.

    It is true once there was a proxy, and its `str` is that proxy.
    """

    library: Any
    request: HTTPRequest
    _method: bytes = attrs.field(default=b"", init=False)

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        """Refuse a proxy that must not see the request; keep the head, but not of a proxy's response to CONNECT."""
        sent = self._note(event, info)
        if sent is not None:
            self._method = sent.method
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in sent.headers}
            self.request.context.sent.note(headers=headers, marked=self.request.context.secret_headers)
            there = sent.url
            scheme, host, port = there.scheme.decode("ascii"), there.host.decode("ascii"), there.port
        elif event.endswith("connect_tcp.started"):
            scheme, host, port = "http", info["host"], info["port"]
        else:
            if event.endswith("receive_response_headers.complete") and self._method != b"CONNECT":
                # With HTTP/1.1 the version comes before the status.
                returned = info["return_value"]
                self.head = next(each for each in returned if isinstance(each, int)), returned[-1]
            return
        url = self.library.URL(self.request.url)
        port = port or PORTS[scheme]
        if (host, port) != (url.raw_host.decode("ascii"), url.port or PORTS[url.scheme]):
            self.proxy = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            check_proxied_request(self.request, f"{scheme}://{self.proxy}")


class HTTPXBase(HTTPBase[ClientT]):
    """A transport over httpx or httpx2; a subclass documents the arguments."""

    _library: ClassVar[Any]
    """`httpx` or `httpx2`."""

    def __init__(
        self,
        *,
        client: ClientT | None = None,
        verify: ssl.SSLContext | bool = True,
        proxy: str | None = None,
        connect: float | None = 10.0,
        trust_env: bool = True,
        http2: bool = False,
        unix_socket: str | None = None,
    ) -> None:
        super().__init__(
            client,
            self._library.AsyncClient,
            ("stream", "is_closed", "timeout"),
            verify=verify,
            proxy=proxy,
            connect=connect,
            trust_env=trust_env,
            unix_socket=unix_socket,
            counter=ConnectionCounter(_fileno, _close_socket),
        )
        if http2:
            raise ConfigurationError(_NO_HTTP2.format(type(self).__name__))
        self._has_no_network = False  # true of some clients of the user's own

    @closes_safely
    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        found, proxy, url = self._start(request, request.url)
        client: Any = found
        at_once = self._own is None and client.closes_at_once
        check = functools.partial(self._check_open, client)
        trace = _Trace(check) if self._own is None else _OwnClientTrace(check, self._library, request)
        if request.url.startswith("https:") and _offers_http2(client):
            raise ConfigurationError(_NO_HTTP2.format(type(self).__name__))
        library, body, context = OpenExchange(), None, request.context
        with self._counter.exchange() as use:
            try:
                with our_records(), self._errors.mapped(url, proxy=proxy or trace):
                    sending = self._send(library, client, request, trace)
                    status, lines, response = await (sending if at_once else cancel_once(sending))
                    if response is not None:
                        body = _Body(response, context, self._errors, url, client, self._library)
                        body.may_use_tls = self._own is not None or needs_tls(request.url, proxy)
                        body.closes_at_once = at_once
                    headers = parse_head(status, lines.multi_items())
                answer = [HTTPResponse(status, headers, _NoChunks() if body is None else body, request)]
                if body is not None and response is not None:
                    if body.stream is None:
                        self._has_no_network = True
                    else:
                        self._counter.add(body.stream)
                        use(body)
                    if response.http_version == "HTTP/2":
                        raise ConfigurationError(_NO_HTTP2.format(type(self).__name__), outcome=Outcome.UNKNOWN)
                del request, headers, lines, response  # an idle stream holds only what it still needs
                yield answer.pop()
            finally:
                with our_records():
                    if body is not None and body.is_closed:
                        await _close_quietly(library.aclose, context)  # without waiting
                    elif at_once:
                        await _leave(library, body, trace, client, context)
                    else:
                        await run_to_end(functools.partial(_leave, library, body, trace, client, context))

    async def _send(
        self, exchange: OpenExchange, client: Any, request: HTTPRequest, trace: _Trace
    ) -> tuple[int, Any, Any]:
        """Enter the library's block, and return status, headers and the library's response.

        The response is None if it was a redirect whose `Location` is not a URL: the library has discarded it.
        """
        self._check_open(client)  # on asyncio this is another task, and the transport may be closed before it begins
        library, own = self._library, client.timeout
        options: dict[str, Any] = {
            "headers": dict(request.headers),
            "content": client.upload(request.body) if self._own is None else request.body,
            "timeout": own
            if self._own is None
            else library.Timeout(None, connect=own.connect, write=own.write, pool=own.pool),
            "follow_redirects": False,
            "extensions": {"trace": trace},
        }
        try:
            entered: Any = await exchange.enter(self._open(client, request, options))
        except (library.InvalidURL, library.RemoteProtocolError) as error:
            status, headers = trace.head
            if status // 100 == REDIRECT:
                return status, library.Headers(headers), None
            if isinstance(error, library.InvalidURL):
                library.URL(request.url)  # raises the same error if the request's own URL is invalid
                # A client without a network has no trace.
                raise RemoteProtocolError(f"{NOT_HTTP}: the Location of a redirect is not a URL") from error
            raise
        except Exception as error:
            if type(error).__name__ in _NOT_SENT:
                self._check_open(client)
            raise
        trace.head = NO_HEAD  # the response has it
        response: Any = getattr(entered, "response", entered)  # httpx-sse wraps it
        return response.status_code, response.headers, response

    def _open(self, client: Any, request: HTTPRequest, options: dict[str, Any]) -> AbstractAsyncContextManager[Any]:
        """Return the library's context manager of the response, or of an object with the attribute `response`."""
        block: AbstractAsyncContextManager[Any] = client.stream(request.method, request.url, **options)
        return block

    def _tls_context(self, *, needs_tls: bool) -> ssl.SSLContext:
        if isinstance(self._verify, ssl.SSLContext):
            return self._verify
        if not needs_tls:  # httpx reads certificates for a client of plain http too: slow, and it may fail
            return no_trust()
        create = self._library.create_ssl_context
        if not self._verify:
            context: ssl.SSLContext = create(verify=False)
            return context
        return trust(_with_environment(create, self._trust_env), trust_env=self._trust_env)

    def _new_client(self, needs_tls: bool, proxy: Proxy | None) -> ClientT:
        library, context = self._library, self._tls_context(needs_tls=needs_tls)
        options: dict[str, Any] = {
            "verify": context,
            "trust_env": False,  # `_environment` has read it
            "limits": library.Limits(keepalive_expiry=KEEP_ALIVE_SECONDS),
        }
        secure = {"ssl_context": context} if proxy is not None and proxy.is_secure else {}
        try:
            transport = library.AsyncHTTPTransport(
                proxy=None if proxy is None else library.Proxy(proxy.url, **secure), uds=self._unix_socket, **options
            )
        except (ImportError, ValueError, library.InvalidURL) as error:  # SOCKS without socksio; an invalid URL
            why = str(error) if isinstance(error, ImportError) else type(error).__name__  # the others quote the URL
            source = "proxy" if proxy is None else proxy.source
            raise ConfigurationError(f"{type(self).__name__}: {source} cannot be used: {why}") from error
        pool = transport._pool  # noqa: SLF001  (there is no public way)
        create, is_plain = pool.create_connection, not needs_tls and proxy is None and self._unix_socket is None
        if closes_at_once := is_plain and isinstance(this_loop(), asyncio.AbstractEventLoop):
            core = sys.modules[type(pool).__module__.partition(".")[0]]
            create = functools.partial(
                plain_connection(core), network_backend=plain_backend(core)(), keepalive_expiry=KEEP_ALIVE_SECONDS
            )
        transport._pool = ConnectionPool(create, KEEP_ALIVE_CONNECTIONS)  # noqa: SLF001  (it has no argument for it)
        time_outs = library.Timeout(None, connect=self._connect)
        client: ClientT = direct_client(library)(transport, time_outs, closes_at_once=closes_at_once)
        return client

    @staticmethod
    def _is_closed(client: Any) -> bool:
        return bool(client.is_closed)

    @staticmethod
    async def _close_client(client: Any) -> None:
        await client.aclose()
        await checkpoint()  # a plain connection is closed with the next turn of the event loop

    def connections(self) -> tuple[int, int] | None:
        """As `Pool.connections`; a connection is counted from its first response headers on."""
        return None if self._has_no_network else self._counter()
