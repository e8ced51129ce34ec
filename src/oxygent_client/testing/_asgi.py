"""Types and helpers of the ASGI applications in this folder."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

import anyio

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]


async def read_body(receive: Receive) -> bytes:
    """Read the body of a request to its end."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), bool(message.get("more_body", False))
    return body


async def cancel_on_disconnect(receive: Receive, scope: anyio.CancelScope) -> None:
    """Cancel `scope` when the client disconnects; call it after the body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
