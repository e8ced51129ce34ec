"""The default transport, over httpx and httpx-sse.

The code shared with httpx2 is in `_httpx_base`.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Final

import httpx
from httpx_sse import aconnect_sse

from oxygent_client._core.transport import HTTPRequest
from oxygent_client.transports._error_map import ErrorMap
from oxygent_client.transports._httpx_base import HTTPXBase, error_map

__all__ = ["HTTPXTransport"]


ADDED: Final = {"accept": "text/event-stream", "cache-control": "no-store"}.items()
"""Headers that httpx-sse adds to those that it is given: they would be sent twice."""


class HTTPXTransport(HTTPXBase[httpx.AsyncClient]):
    """Transport over httpx, on asyncio and trio.

    Args:
        client: your own client, with its proxies, certificates and limits. It is never changed or closed.
        verify: False, or an `ssl.SSLContext`, to replace httpx's trust store (certifi's bundle or `SSL_CERT_FILE`). A
            context can also hold a client certificate.
        proxy: the URL of a proxy for all requests. None uses the proxies of the environment, but not for loopback.
        connect: connect time-out in seconds. None waits as long as the run's `total` allows.
        trust_env: False ignores the proxies and certificates of the environment.
        http2: not supported; True is a ConfigurationError, since leaving a run would not end it at the server.
        unix_socket: the path of a Unix socket to connect to, instead of the URL's host. No proxy is used then.

    Raises:
        ConfigurationError: an argument is wrong or cannot be combined with another; the text names it.
    """

    _library: ClassVar[Any] = httpx
    _errors: ClassVar[ErrorMap] = error_map(httpx)

    def _open(self, client: Any, request: HTTPRequest, options: dict[str, Any]) -> AbstractAsyncContextManager[Any]:
        if request.context.purpose in ("run", "attach"):
            given: dict[str, str] = options["headers"]
            options["headers"] = {name: value for name, value in given.items() if (name, value) not in ADDED}
            return aconnect_sse(client, request.method, request.url, **options)
        return super()._open(client, request, options)
