"""The default transport, over httpx and httpx-sse.

What it does is in `_httpx_family`, since httpx2 does the same; here is what is httpx's own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final

import httpx
from httpx_sse import aconnect_sse

from oxygent_client._core.transport import HTTPRequest
from oxygent_client.transports._error_map import Translation
from oxygent_client.transports._httpx_base import HTTPXFamily, translation

__all__ = ["HTTPXTransport"]

TRANSLATION: Final = translation(httpx)


class HTTPXTransport(HTTPXFamily[httpx.AsyncClient]):
    """Moves bytes by httpx.

    Args:
        client: a client of your own, with its proxies, certificates and limits; it is used as it is and never closed.
        verify: False, or a context, in the place of httpx's own trust, which is certifi's bundle or `SSL_CERT_FILE`. A
            context brings a client's certificate, too.
        proxy: the URL of a proxy for everything; None takes those of the environment, but not for loopback.
        connect: seconds to have a connection; None waits as long as the run's `total` does.
        trust_env: False leaves the environment's proxies and certificates out.
        http2: not supported; True is a ConfigurationError. Leaving a run could not end it at the server.
        unix_socket: the path of a Unix socket to connect to, in the place of the URL's host; no proxy is used then.
    """

    _library: ClassVar[Any] = httpx
    _translation: ClassVar[Translation] = TRANSLATION

    @asynccontextmanager
    async def _open(
        self, client: Any, request: HTTPRequest, options: dict[str, Any]
    ) -> AsyncGenerator[httpx.Response, None]:
        if request.context.purpose in ("run", "attach"):
            async with aconnect_sse(client, request.method, request.url, **options) as source:
                yield source.response
        else:
            async with super()._open(client, request, options) as response:
                yield response
