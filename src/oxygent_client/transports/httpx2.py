"""Transport over httpx2, the successor of httpx (extra `[httpx2]`).

The code shared with httpx is in `_httpx_base`.
"""

from __future__ import annotations

from typing import Any, ClassVar

try:
    import httpx2
except ImportError as _missing:
    raise ImportError("HTTPX2Transport needs httpx2: pip install 'oxygent-client[httpx2]'") from _missing

from oxygent_client.transports._error_map import ErrorMap
from oxygent_client.transports._httpx_base import HTTPXBase, error_map

__all__ = ["HTTPX2Transport"]


class HTTPX2Transport(HTTPXBase[httpx2.AsyncClient]):
    """Transport over httpx2, on asyncio and trio.

    Args:
        client: your own client, with its proxies, certificates and limits. It is never changed or closed.
        verify: False, or an `ssl.SSLContext`, to replace the system's trust store. A context can also hold a client
            certificate.
        proxy: the URL of a proxy for all requests. None uses the proxies of the environment, but not for loopback.
        connect: connect time-out in seconds. None waits as long as the run's `total` allows.
        trust_env: False ignores the proxies and certificates of the environment.
        http2: not supported; True is a ConfigurationError, since leaving a run would not end it at the server.
        unix_socket: the path of a Unix socket to connect to, instead of the URL's host. No proxy is used then.

    Raises:
        ConfigurationError: an argument is wrong or cannot be combined with another; the text names it.
    """

    # `client.stream`, not `client.sse`, which refuses responses that are not event streams; every status is returned.
    _library: ClassVar[Any] = httpx2
    _errors: ClassVar[ErrorMap] = error_map(httpx2)
