"""Pool connections without TLS on asyncio, below httpx or httpx2, without locks.

The locks of httpcore let other tasks run, also where they are free (those of httpcore2 do not): three turns of the
event loop for a request, a tenth of the time of a short call. A pool gives a connection over HTTP/1.1 one request at a
time, and what the locks guard does not wait; so a connection that was made takes none.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any, Final

from oxygent_client.transports._plain_stream import plain_backend

_NO_LOCK: Final = nullcontext()


@functools.cache
def plain_pool(core: types.ModuleType) -> Callable[..., Any]:
    """Return the class of connection pools; `core` is `httpcore` or `httpcore2`."""
    library: Any = core

    class PlainConnection(library.AsyncHTTPConnection):  # type: ignore[misc]  # the library is an argument
        """A connection of the library, without locks once it is made."""

        def handle_async_request(self, request: Any) -> Awaitable[Any]:
            """As the library's."""
            made: Any = getattr(self, "_connection", None)
            if made is None:
                connecting: Awaitable[Any] = library.AsyncHTTPConnection.handle_async_request(self, request)
                return connecting
            made._state_lock = _NO_LOCK  # noqa: SLF001  (there is no public way)
            sending: Awaitable[Any] = made.handle_async_request(request)
            return sending

    class PlainPool(library.AsyncConnectionPool):  # type: ignore[misc]  # the library is an argument
        """A pool of the library, for plain http without a proxy."""

        def __init__(self, **options: Any) -> None:
            self._options: Final = {**options, "network_backend": plain_backend(core)()}
            library.AsyncConnectionPool.__init__(self, **self._options)

        def create_connection(self, origin: Any) -> Any:
            """As the library's."""
            names = ("keepalive_expiry", "uds", "network_backend")
            return PlainConnection(origin, **{name: self._options[name] for name in names})

        async def _close_connections(self, closing: list[Any]) -> None:
            """As the library's, which makes a cancel scope also where nothing is to be closed."""
            if closing:
                await library.AsyncConnectionPool._close_connections(self, closing)  # noqa: SLF001  (it overrides it)

    return PlainPool


def use_plain_streams(transport: Any, **options: Any) -> None:
    """Let connections of the library's transport be made, read and written here; `options` are those of its pool."""
    core = sys.modules[type(transport._pool).__module__.partition(".")[0]]  # noqa: SLF001  (there is no public way)
    transport._pool = plain_pool(core)(**options)  # noqa: SLF001  (httpx has no argument for it)
