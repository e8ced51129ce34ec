"""The default transport: httpx, with httpx-sse opening the stream.

Rule 1: an exception of httpx is translated here, by one table, and is never seen elsewhere but as a `__cause__`.
Rule 2: the clocks are the run's, so only the time to connect is kept here; httpx's time per read is no deadline.
Rule 3: the pool is never contended, nor stale: connections are not capped (a cancelled request leaks its slot of a
    contended httpx 0.28 pool, until the client is dead), few are kept, and none for longer than 2 s (uvicorn closes
    after 5 s, and a POST that meets the close is an UNKNOWN).
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from typing import Any, Final, cast

import httpx
from httpx_sse import aconnect_sse

from oxygent_client._errors import (
    ClosedError,
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    OxyError,
    RemoteProtocolError,
    TLSError,
)
from oxygent_client._per_loop import PerLoop
from oxygent_client._transport import HTTPRequest, HTTPResponse

__all__ = ["HTTPXTransport"]

KEPT_CONNECTIONS: Final = 20
KEPT_SECONDS: Final = 2.0

ERRORS: Final[tuple[tuple[type[Exception], type[OxyError], str], ...]] = (
    (httpx.ConnectTimeout, ConnectTimeoutError, "no connection within the time to connect"),
    (httpx.PoolTimeout, ConnectTimeoutError, "no free connection in the pool of the client"),
    (httpx.ConnectError, ConnectError, "could not connect"),
    (httpx.ProxyError, ConnectError, "the proxy made no connection"),
    (httpx.UnsupportedProtocol, ConfigurationError, "httpx does not take this URL"),
    (httpx.InvalidURL, ConfigurationError, "httpx does not take this URL"),
    (httpx.LocalProtocolError, ConfigurationError, "httpx cannot send this request"),
    (httpx.RemoteProtocolError, RemoteProtocolError, "the server does not speak proper HTTP"),
    (httpx.DecodingError, RemoteProtocolError, "the response cannot be decoded"),
    # Only a hook or an auth flow of the user's own client raises these, of a response that is there.
    (httpx.HTTPStatusError, RemoteProtocolError, "a hook of the client refused the response"),
    (httpx.TooManyRedirects, RemoteProtocolError, "the client was redirected too often"),
    (httpx.CookieConflict, RemoteProtocolError, "the client has several cookies of one name"),
    (httpx.StreamError, ConnectionLostError, "the response was read by somebody else, perhaps a hook of the client"),
    # The server may refuse a client's certificate after the handshake; on asyncio nobody wraps that.
    (ssl.SSLError, ConnectionLostError, "the connection was lost"),
    (httpx.HTTPError, ConnectionLostError, "the connection was lost"),
)
"""The first line that fits counts. The last takes what httpx may yet add."""
FOREIGN: Final = (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict, httpx.StreamError, ssl.SSLError)
"""Above all that is translated; the rest is the user's own, or a bug."""
QUOTES: Final = (httpx.LocalProtocolError, httpx.HTTPStatusError)
"""Their texts quote a header's value or a whole URL, which may be secrets."""
DISCONNECTED: Final = ("Server disconnected", "peer closed connection", "incomplete chunked read")
"""httpx has one class for a lost connection and for garbage; only the text of httpcore and h11 tells them apart."""


def _translate(error: Exception) -> OxyError:
    """The error of this package that `error`, of httpx, is."""
    cls, text = next((ours, text) for theirs, ours, text in ERRORS if isinstance(error, theirs))
    reason = type(error).__name__ if isinstance(error, QUOTES) else str(error) or type(error).__name__
    if cls is RemoteProtocolError and any(sign in reason for sign in DISCONNECTED):
        cls, text = ConnectionLostError, "the connection was lost"
    if cls is ConnectError and (tls := _tls_reason(error)):
        cls, text, reason = TLSError, "the TLS handshake failed", tls
    return cls(f"{text}: {reason}"[:500])


def _tls_reason(error: BaseException | None) -> str:
    """What OpenSSL says, somewhere in the causes of `error`; empty if it is not about TLS."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return "" if error is None else getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)


@contextmanager
def _translated() -> Generator[None]:
    """Errors of httpx leave the block as errors of this package."""
    try:
        yield
    except FOREIGN as error:
        raise _translate(error) from error


@functools.cache
def _system_trust() -> ssl.SSLContext:
    """The default of httpx, made once: reading the certificates takes longer than a call on loopback."""
    return httpx.create_ssl_context()


class _Chunks:
    """The chunks of a response, with httpx's errors translated."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        with _translated():
            return await anext(self._chunks)


class HTTPXTransport:
    """Moves bytes by httpx.

    Args:
        client: a client of your own, with its proxies, certificates and limits; it is used as it is and never closed.
        verify: False, or a context, in the place of the system's trust.
        proxy: the URL of a proxy; None takes those of the environment.
        connect: seconds to have a connection; None waits as long as the run's `total` does.
        trust_env: False leaves the environment's proxies and certificates out.
    """

    def __init__(
        self,
        *,
        client: httpx.AsyncClient | None = None,
        verify: ssl.SSLContext | bool = True,
        proxy: str | None = None,
        connect: float | None = 10.0,
        trust_env: bool = True,
    ) -> None:
        if client is not None and (verify is not True or proxy is not None):
            raise ConfigurationError("HTTPXTransport: a client of your own brings its own verify and proxy")
        self._client = client
        self._verify = verify
        self._proxy = proxy
        self._connect = connect
        self._trust_env = trust_env
        self._live: PerLoop[httpx.AsyncClient] = PerLoop()

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        client = self._client or self._live.get() or self._live.put(self._new_client())
        if client.is_closed:
            raise ClosedError("the httpx client of this transport was closed")
        own = client.timeout
        options: dict[str, Any] = {
            "headers": dict(request.headers),
            "content": request.body,
            "timeout": httpx.Timeout(None, connect=own.connect, write=own.write, pool=own.pool),
            "follow_redirects": False,
        }
        async with AsyncExitStack() as stack:
            with _translated():
                if request.context.purpose in ("run", "attach"):
                    source = await stack.enter_async_context(
                        aconnect_sse(client, request.method, request.url, **options)
                    )
                    response = source.response
                else:
                    response = await stack.enter_async_context(client.stream(request.method, request.url, **options))
            # httpx annotates an iterator; it is a generator, and must be closed before its response is.
            raw = cast("AsyncGenerator[bytes, None]", response.aiter_raw())
            chunks = await stack.enter_async_context(aclosing(raw))
            yield HTTPResponse(response.status_code, dict(response.headers), _Chunks(chunks), request)

    def _new_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            verify=_system_trust() if self._verify is True and self._trust_env else self._verify,
            proxy=self._proxy,
            trust_env=self._trust_env,
            timeout=httpx.Timeout(None, connect=self._connect),
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=KEPT_CONNECTIONS, keepalive_expiry=KEPT_SECONDS
            ),
        )

    async def aclose(self) -> None:
        """As `Transport.aclose`; a client of your own stays open."""
        client = self._live.take()
        if client is not None:
            await client.aclose()

    def __getstate__(self) -> dict[str, Any]:
        if self._client is not None:
            raise ConfigurationError("HTTPXTransport: `client` is live and cannot be pickled or copied")
        return {name: value for name, value in self.__dict__.items() if name != "_live"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _live=PerLoop[httpx.AsyncClient]())

    def __repr__(self) -> str:
        return f"HTTPXTransport({'client=...' if self._client else ''})"
