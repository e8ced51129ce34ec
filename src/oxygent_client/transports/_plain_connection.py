"""Connections without TLS on asyncio, below httpx or httpx2, without locks and without a task for each request.

The locks of httpcore let other tasks run, also where they are free (those of httpcore2 do not): three turns of the
event loop for a request. A connection over HTTP/1.1 has one request at a time (`_connection_pool`), so one that was
made takes none.

Rule: only connecting waits when it is cancelled, so it has a task of its own (`_cancellation`). A connection that was
    made is closed without waiting (`_plain_stream`).
"""

from __future__ import annotations

import functools
import types
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any, Final

from oxygent_client.transports._cancellation import cancel_once

_NO_LOCK: Final = nullcontext()


@functools.cache
def plain_connection(core: types.ModuleType) -> Callable[..., Any]:
    """Return the class of connections; `core` is `httpcore` or `httpcore2`."""
    library: Any = core

    class PlainConnection(library.AsyncHTTPConnection):  # type: ignore[misc]  # the library is an argument
        """A connection of the library."""

        def handle_async_request(self, request: Any) -> Awaitable[Any]:
            """As the library's."""
            made: Any = getattr(self, "_connection", None)
            if made is None:
                return cancel_once(self._connect_and_send(request))
            request.extensions.pop("trace", None)  # there is no new connection to be told of
            sending: Awaitable[Any] = made.handle_async_request(request)
            return sending

        async def _connect_and_send(self, request: Any) -> Any:
            response = await library.AsyncHTTPConnection.handle_async_request(self, request)
            self._connection._state_lock = _NO_LOCK  # noqa: SLF001  (there is no public way)
            return response

    return PlainConnection
