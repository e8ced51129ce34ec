"""Shared code of the httpx and httpx2 transports.

Rule 1: nothing here imports either; a subclass names its library, and the table of errors is made from that.
Rule 2: an exception of the library is translated here, by one table, and is never seen elsewhere but as a `__cause__`;
    one that comes while the exchange is left is logged, since it would hide what comes out of the block.
Rule 3: the clocks are the run's, so only the time to connect is kept here; the library's time per read is no deadline.
Rule 4: the pool is never contended, nor stale: connections are not capped (a cancelled request leaks its slot of a
    contended httpx 0.28 pool, until the client is dead), few are kept, and none for longer than 2 s (uvicorn closes
    after 5 s, and a POST that meets the close is an UNKNOWN).
Rule 5: secrets stay home: a client of ours keeps no cookie of one run for the next, and what the libraries log of our
    requests is rewritten (`_library_log`).
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, ClassVar, Final, Generic, TypeVar

import attrs

from oxygent_client._core.errors import (
    ClosedError,
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    Outcome,
    RemoteProtocolError,
)
from oxygent_client._core.log import log_event
from oxygent_client._core.per_loop import Closed, PerLoop
from oxygent_client._core.transport import Context, HTTPRequest, HTTPResponse
from oxygent_client.transports._cancellation import run_to_end, told_once
from oxygent_client.transports._connection_count import Counted
from oxygent_client.transports._environment import (
    PORTS,
    Proxies,
    Proxy,
    accepts_all,
    check_proxied_request,
    check_verify,
    no_trust,
    trust,
)
from oxygent_client.transports._error_map import Translation, reason, without_phrase
from oxygent_client.transports._library_log import our_records, rewrite_records
from oxygent_client.transports._own_client import check_class, check_loop
from oxygent_client.transports._response_head import head_of
from oxygent_client.transports._sockets import shut_down

__all__ = ["KEPT_SECONDS", "HTTPXFamily", "translation"]

KEPT_CONNECTIONS: Final = 20
KEPT_SECONDS: Final = 2.0
OK: Final = 200
NO_HTTP: Final = "the server does not speak proper HTTP"
REDIRECT: Final = 3
"""The class of these statuses."""

T = TypeVar("T")
ClientT = TypeVar("ClientT")


def translation(library: Any) -> Translation:
    """That of httpx or httpx2."""
    name = library.__name__
    return Translation(
        name,
        (
            (library.ConnectTimeout, ConnectTimeoutError, "no connection to {} within the time to connect"),
            (library.PoolTimeout, ConnectTimeoutError, "no free connection in the pool of the client"),
            (library.ConnectError, ConnectError, "could not connect to {}"),
            (library.ProxyError, ConnectError, "{proxy} made no connection"),
            (library.UnsupportedProtocol, ConfigurationError, f"{name} does not take this URL"),
            (library.InvalidURL, ConfigurationError, f"{name} does not take this URL"),
            (library.LocalProtocolError, ConfigurationError, f"{name} cannot send this request"),
            (library.RemoteProtocolError, RemoteProtocolError, NO_HTTP),
            (library.DecodingError, RemoteProtocolError, "the response cannot be decoded"),
            # Only a hook or an auth flow of the user's own client raises these, of a response that is there.
            (library.HTTPStatusError, RemoteProtocolError, "a hook of the client refused the response"),
            (library.TooManyRedirects, RemoteProtocolError, "the client was redirected too often"),
            (library.CookieConflict, RemoteProtocolError, "the client has several cookies of one name"),
            (
                library.StreamError,
                ConnectionLostError,
                "the response was read by somebody else, perhaps a hook of the client",
            ),
            (library.HTTPError, ConnectionLostError, "the connection was lost"),
        ),
        functools.partial(_says, library),
    )


def _says(library: Any, error: Exception) -> str:
    """What `error` says of itself, as far as it may be shown."""
    if isinstance(error, library.LocalProtocolError | library.HTTPStatusError):
        return ""  # these quote a header's value, or the whole URL
    if isinstance(error, library.ProxyError):
        return without_phrase(str(error))
    # h11 quotes the line that it cannot read.
    return reason(error) if isinstance(error, library.RemoteProtocolError) else str(error)


@functools.cache
def _with_environment(create: Callable[..., ssl.SSLContext], trust_env: bool) -> Callable[[], ssl.SSLContext]:
    """`create` with this argument; the same function each time."""
    return functools.partial(create, trust_env=trust_env)


_NO_HTTP2: Final = (
    "{}: http2 is not supported: leaving a run would not end it at the server, since over HTTP/2 the library neither"
    " resets the stream nor gives back its window. Leave http2 out"
)


async def _closed(close: Callable[[], Awaitable[object]], context: Context) -> None:
    """Close something; how the library takes that would take the place of what comes out of the block."""
    try:
        await close()
    except Exception as failure:  # noqa: BLE001  (whatever it is: what there was to say is said)
        log_event("debug", context, "closing failed: %s", type(failure).__name__)


async def _entered(stack: AsyncExitStack, block: AbstractAsyncContextManager[T], context: Context) -> T:
    """What `block` gives; `stack` leaves it."""
    value = await block.__aenter__()

    async def leave(*of: Any) -> None:
        await _closed(functools.partial(block.__aexit__, *of), context)

    stack.push_async_exit(leave)
    return value


def _fileno(stream: Any) -> int:
    """That of the socket below a network stream of the library; -1 if it is closed."""
    number: int = stream.get_extra_info("socket").fileno()
    return number


def _close(stream: Any) -> None:
    """Close the socket below a network stream whose event loop is closed; uvloop has closed those of its own."""
    below = stream.get_extra_info("socket")
    with suppress(AttributeError):
        below._sock.close()  # noqa: SLF001  (asyncio hands out a view of the socket that cannot close it)


_TO_THE_CONNECTION: Final = ("_stream", "_httpcore_stream", "_stream", "_connection")
"""From a response's `stream` to the connection of httpcore that it came over: nothing public leads there."""


class _NoChunks:
    """The body of a response that the library has dropped."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


class _Body:
    """The chunks of a response over HTTP/1.1, with the library's errors translated, and the end of its exchange.

    A connection serves again only if it is known that nothing lies behind the response. A connection that must not is
    shut down first, and closed by the library: its pool drops one that the other side seems to have left.
    """

    def __init__(self, response: Any, context: Context, translation: Translation, url: str) -> None:
        self.stream: Any = response.extensions.get("network_stream")
        """httpcore's; None if a transport of the user's own client does without a network."""
        self.is_closed = False
        self._response = response
        self._context = context
        self._translation = translation
        self._url = url
        connection: Any = response.stream
        for name in _TO_THE_CONNECTION:
            connection = getattr(connection, name, None)
        self._connection = connection
        # `aiter_raw` gives a connection back before it is known whether it may serve again. What a hook of the user's
        # client has read it refuses, by an error of its own.
        is_read = response.is_closed or response.is_stream_consumed
        self._raw: AsyncGenerator[bytes, None] = response.aiter_raw() if is_read else aiter(response.stream)
        self._is_whole = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        with our_records(), self._translation.translated(self._url, reading=True):
            try:
                return await anext(self._raw)
            except StopAsyncIteration:
                self._is_whole = True
                if not self.is_closed:
                    await run_to_end(self.aclose)
                raise

    async def aclose(self) -> None:
        """Leave the exchange. The remote sees at once that this side has left, unless the connection is to serve again.

        What a server sends behind a 204 or 304 would be taken for the beginning of the next response, and real servers
        close after a 500.
        """
        serves_again = self._is_whole and self._response.status_code == OK and self._is_clean()
        left: Any = None if serves_again else self.stream
        if left is not None:
            shut_down(left.get_extra_info("socket"))
        # In this order: what the library's generators do when they are closed is nothing then, and need not wait.
        await _closed(self._response.aclose, self._context)
        await _closed(self._raw.aclose, self._context)
        if left is not None:  # a second cancellation may have kept the library from it
            await _closed((self._connection or left).aclose, self._context)
        self.is_closed = True

    def _is_clean(self) -> bool:
        """Whether nothing lies behind the response, which has been read to its end.

        h11 keeps what it has read beyond the end, and would take it for the next response. Of a TLS connection more
        may have been read than was decrypted. What is still in the socket is seen by the pool.
        """
        parser = getattr(self._connection, "_h11_state", None)
        if parser is None or parser.trailing_data[0]:
            return False
        tls = self.stream.get_extra_info("ssl_object")
        try:
            return tls is None or tls.read(1) is None  # it returns bytes, or none at the end
        except ssl.SSLError as error:
            return isinstance(error, ssl.SSLWantReadError)


def _offers_http2(client: Any) -> bool:
    """Whether one of the client's own transports would speak HTTP/2 to a server that does."""
    transports = [getattr(client, "_transport", None), *getattr(client, "_mounts", {}).values()]
    return any(getattr(getattr(transport, "_pool", None), "_http2", False) for transport in transports)


@attrs.define(eq=False)
class _Trace:
    """Sees the head of each response, for the `trace` extension of httpx.

    A client makes the request that would follow a redirect, also if none is to follow. Where the redirect's `Location`
    is no URL that fails, and the response is lost.
    """

    head: tuple[int, Any] = attrs.field(default=(0, ()), init=False)
    """The status and the headers of the last response; 0 if there is none."""
    _method: bytes = attrs.field(default=b"", init=False)
    proxy: str = attrs.field(default="", init=False)
    """A proxy that a client of the user's own uses, as it may be shown."""

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        """Note the head of a response, but not of a proxy's to CONNECT."""
        if event.endswith("send_request_headers.started"):
            self._method = info["request"].method
        elif event.endswith("receive_response_headers.complete") and self._method != b"CONNECT":
            # Of HTTP/1.1 the version stands in front of the status.
            returned = info["return_value"]
            self.head = next(each for each in returned if isinstance(each, int)), returned[-1]

    def __bool__(self) -> bool:
        return bool(self.proxy)

    def __str__(self) -> str:
        return self.proxy


@attrs.define(eq=False)
class _Watch(_Trace):
    """Sees where a client of the user's own connects to, too, and notes what it adds.

    It is true once that was a proxy, and shown as that proxy.
    """

    library: Any
    request: HTTPRequest

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        """Refuse a proxy that must not see what is sent."""
        await _Trace.__call__(self, event, info)
        if event.endswith("connect_tcp.started"):
            scheme, host, port = "http", info["host"], info["port"]
        elif event.endswith("send_request_headers.started"):
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in info["request"].headers}
            self.request.context.sent.note(headers=headers, marked=self.request.context.secret_headers)
            there = info["request"].url
            scheme, host, port = there.scheme.decode("ascii"), there.host.decode("ascii"), there.port
        else:
            return
        url = self.library.URL(self.request.url)
        port = port or PORTS[scheme]
        if (host, port) != (url.raw_host.decode("ascii"), url.port or PORTS[url.scheme]):
            self.proxy = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            check_proxied_request(self.request, f"{scheme}://{self.proxy}")


@attrs.define(eq=False)
class _Live(Generic[ClientT]):
    """What a transport has in one event loop."""

    proxies: Proxies
    clients: dict[tuple[bool, Proxy | None], ClientT] = attrs.field(factory=dict[Any, Any])
    """One for each proxy; apart from each other those that trust certificates and those for plain http."""


async def _close_all(live: _Live[Any]) -> None:
    async with AsyncExitStack() as stack:  # each is closed, whatever comes of the others
        for client in live.clients.values():
            stack.push_async_callback(client.aclose)


class HTTPXFamily(Generic[ClientT]):
    """A transport over httpx or httpx2, whose documentation says what the arguments are."""

    _library: ClassVar[Any]
    """`httpx` or `httpx2`."""
    _translation: ClassVar[Translation]

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
        ours = type(self).__name__
        check_verify(verify, ours)
        if http2:
            raise ConfigurationError(_NO_HTTP2.format(ours))
        if client is not None and (verify is not True or proxy is not None or unix_socket is not None):
            raise ConfigurationError(f"{ours}: a client of your own brings its own verify, proxy and unix_socket")
        if client is not None:
            check_class(client, self._library.AsyncClient, f"{ours}: client", ("stream", "is_closed", "timeout"))
        if proxy is not None and unix_socket is not None:
            raise ConfigurationError(f"{ours}: a proxy is not reached by a Unix socket; give one of the two")
        self._client = client
        self._verify = verify
        self._proxy = proxy
        self._connect = connect
        self._trust_env = trust_env
        self._unix_socket = unix_socket
        self._live: PerLoop[_Live[ClientT]] = PerLoop()
        self._closed = Closed()
        self._counted = Counted(_fileno, _close)
        self._blind = False  # a client of the user's own may have no network behind it

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        self._closed.check(self)
        client, proxy = self._client_for(request)
        trace = _Trace() if self._client is None else _Watch(self._library, request)
        if client.is_closed:
            raise ClosedError(f"the {self._library.__name__} client of this transport was closed")
        if request.url.startswith("https:") and _offers_http2(client):
            raise ConfigurationError(_NO_HTTP2.format(type(self).__name__))
        own = client.timeout
        options: dict[str, Any] = {
            "headers": dict(request.headers),
            "content": request.body,
            "timeout": self._library.Timeout(None, connect=own.connect, write=own.write, pool=own.pool),
            "follow_redirects": False,
            "extensions": {"trace": trace},
        }
        rewrite_records(self._library.__name__)
        url = request.url if self._unix_socket is None else f"unix:{self._unix_socket}"
        library = AsyncExitStack()
        body: _Body | None = None

        async def leave() -> None:
            if body is not None:
                await body.aclose()
            await library.aclose()

        with self._counted.exchange() as occupies:
            try:
                with our_records(), self._translation.translated(url, proxy=proxy or trace):
                    entering = self._entered(library, self._open(client, request, options), request, trace)
                    status, lines, response = await told_once(entering)
                    if response is not None:
                        body = _Body(response, request.context, self._translation, url)
                    headers = head_of(status, lines.multi_items())
                if body is None or response is None:
                    yield HTTPResponse(status, headers, _NoChunks(), request)
                    return
                if body.stream is None:
                    self._blind = True
                else:
                    stream = self._counted.add(body.stream)
                    occupies(lambda: None if response.is_closed else stream)
                if response.http_version == "HTTP/2":
                    raise ConfigurationError(_NO_HTTP2.format(type(self).__name__), outcome=Outcome.UNKNOWN)
                yield HTTPResponse(status, headers, body, request)
            finally:
                with our_records():
                    if body is not None and body.is_closed:
                        await library.aclose()  # nothing is left to wait for
                    else:
                        await run_to_end(leave)

    async def _entered(
        self,
        stack: AsyncExitStack,
        block: AbstractAsyncContextManager[Any],
        request: HTTPRequest,
        trace: _Trace,
    ) -> tuple[int, Any, Any]:
        """Status, headers and response of the library, whose block is in the stack.

        The response is None if it was a redirect whose `Location` is no URL: the library has dropped it.
        """
        library = self._library
        try:
            response = await _entered(stack, block, request.context)
        except (library.InvalidURL, library.RemoteProtocolError) as error:
            status, headers = trace.head
            if status // 100 == REDIRECT:
                return status, library.Headers(headers), None
            if isinstance(error, library.InvalidURL):
                library.URL(request.url)  # raises the same if it is the request's own
                # A client without a network, of which there is no trace.
                raise RemoteProtocolError(f"{NO_HTTP}: the Location of a redirect is not a URL") from error
            raise
        return response.status_code, response.headers, response

    def _open(self, client: Any, request: HTTPRequest, options: dict[str, Any]) -> AbstractAsyncContextManager[Any]:
        """The block of the library's response."""
        block: AbstractAsyncContextManager[Any] = client.stream(request.method, request.url, **options)
        return block

    def _client_for(self, request: HTTPRequest) -> tuple[Any, Proxy | None]:
        """The client that takes this request, and the proxy that it uses, if that is known."""
        if self._client is not None:
            check_loop(self._client, f"{type(self).__name__}: client")
            return self._client, None
        live = self._live.get() or self._new_live()
        proxy = live.proxies.find(request.url)
        if proxy is not None:
            check_proxied_request(request, proxy.url)
        # A library reads certificates for a client of plain http, too; that takes time, and may fail for nothing.
        is_secure = not request.url.startswith("http:") or (proxy is not None and proxy.is_secure)
        client = live.clients.get((is_secure, proxy))
        if client is None:
            client = live.clients[is_secure, proxy] = self._new_client(self._context(is_secure=is_secure), proxy)
        return client, proxy

    def _new_live(self) -> _Live[ClientT]:
        self._counted.drop()
        proxies = Proxies.read(self._proxy, trust_env=self._trust_env and self._unix_socket is None)
        live: _Live[ClientT] = _Live(proxies)
        return self._live.put(live, _close_all)

    def _context(self, *, is_secure: bool) -> ssl.SSLContext:
        if isinstance(self._verify, ssl.SSLContext):
            return self._verify
        if not is_secure:
            return no_trust()
        create = self._library.create_ssl_context
        if not self._verify:
            context: ssl.SSLContext = create(verify=False)
            return context
        return trust(_with_environment(create, self._trust_env), trust_env=self._trust_env)

    def _new_client(self, context: ssl.SSLContext, proxy: Proxy | None) -> ClientT:
        library = self._library
        options: dict[str, Any] = {
            "verify": context,
            "trust_env": False,  # it has been read
            "limits": library.Limits(
                max_connections=None, max_keepalive_connections=KEPT_CONNECTIONS, keepalive_expiry=KEPT_SECONDS
            ),
        }
        transport = None
        if self._unix_socket is not None:
            transport = library.AsyncHTTPTransport(uds=self._unix_socket, **options)
        secure = {"ssl_context": context} if proxy is not None and proxy.is_secure else {}
        try:
            client: ClientT = library.AsyncClient(
                proxy=None if proxy is None else library.Proxy(proxy.url, **secure),
                transport=transport,
                timeout=library.Timeout(None, connect=self._connect),
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
                **options,
            )
        except (ImportError, ValueError, library.InvalidURL) as error:  # SOCKS without socksio; no URL, or another kind
            reason = str(error) if isinstance(error, ImportError) else type(error).__name__  # the others quote the URL
            source = "proxy" if proxy is None else proxy.source
            raise ConfigurationError(f"{type(self).__name__}: {source}: cannot be used: {reason}") from error
        return client

    def connections(self) -> tuple[int, int] | None:
        """As `Pool.connections`; one is known from the first headers that it brought."""
        return None if self._blind else self._counted()

    async def aclose(self) -> None:
        """As `Transport.aclose`; a client of your own stays open."""
        self._closed.note()
        live = self._live.take()
        if live is not None:
            with our_records(), self._translation.translated("", reading=True):
                await run_to_end(functools.partial(_close_all, live))

    def __getstate__(self) -> dict[str, Any]:
        for name, live in (("client", self._client is not None), ("verify", not isinstance(self._verify, bool))):
            if live:
                raise ConfigurationError(f"{type(self).__name__}: `{name}` is live and cannot be pickled or copied")
        counted = Counted(_fileno, _close)
        return {**self.__dict__, "_live": PerLoop[Any](), "_closed": Closed(), "_counted": counted, "_blind": False}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'client=...' if self._client else accepts_all(self._verify)})"
