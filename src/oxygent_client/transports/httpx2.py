"""Transport over httpx2, the successor of httpx (extra `[httpx2]`).

What it does is in `_httpx_family`, since httpx does the same.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

try:
    import httpx2
except ImportError as missing:
    raise ImportError("HTTPX2Transport needs httpx2: pip install 'oxygent-client[httpx2]'") from missing

from oxygent_client.transports._error_map import Translation
from oxygent_client.transports._httpx_base import HTTPXFamily, translation

__all__ = ["HTTPX2Transport"]

TRANSLATION: Final = translation(httpx2)


class HTTPX2Transport(HTTPXFamily[httpx2.AsyncClient]):
    """Moves bytes by httpx2.

    Args:
        client: a client of your own, with its proxies, certificates and limits; it is used as it is and never closed.
        verify: False, or a context, in the place of the system's trust. A context brings a client's certificate, too.
        proxy: the URL of a proxy for everything; None takes those of the environment, but not for loopback.
        connect: seconds to have a connection; None waits as long as the run's `total` does.
        trust_env: False leaves the environment's proxies and certificates out.
        http2: not supported; True is a ConfigurationError. Leaving a run could not end it at the server.
        unix_socket: the path of a Unix socket to connect to, in the place of the URL's host; no proxy is used then.
    """

    # `client.stream`, not `client.sse`: that refuses what is no event stream, and a status is to be handed over.
    _library: ClassVar[Any] = httpx2
    _translation: ClassVar[Translation] = TRANSLATION
