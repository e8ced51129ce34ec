"""A connection made for a request that is cancelled before it is sent."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any, Final

import anyio
import pytest

from oxygent_client import HTTPRequest, HTTPXTransport
from oxygent_client.transports._httpx_base import _Trace
from oxygent_client.transports.httpx2 import HTTPX2Transport
from tests.support.servers import Conversation, play, serving

LIBRARIES: Final = {"httpx": ("httpcore", HTTPXTransport), "httpx2": ("httpcore2", HTTPX2Transport)}
"""A library: the library below it, and our transport."""


@pytest.mark.parametrize("name", LIBRARIES)
async def test_cancelled_between_connecting_and_sending(name: str, loop: str) -> None:
    """The connection is closed at once, and the pool drops it with its next request."""
    below, ours = LIBRARIES[name]
    library: Any = importlib.import_module(name)
    core: Any = importlib.import_module(below)
    scope = anyio.CancelScope()
    closed = anyio.Event()

    class CancelsWhenConnected:
        """A network backend; if it `cancels`, the next await after connecting is cancelled."""

        inner: Any = core.AnyIOBackend()
        cancels = False

        async def connect_tcp(self, *args: Any, **options: Any) -> Any:
            stream = await self.inner.connect_tcp(*args, **options)
            if not self.cancels:
                return stream
            if loop == "trio":
                scope.cancel()
            elif (task := asyncio.current_task()) is not None:
                task.cancel()
            return stream

    async def handle(conversation: Conversation) -> None:
        if await conversation.request() is not None:  # httpcore2 awaits nothing before it sends, on asyncio
            await conversation.client_left()
        closed.set()

    inner: Any = library.AsyncHTTPTransport()
    backend = CancelsWhenConnected()
    inner._pool = pool = core.AsyncConnectionPool(network_backend=backend)  # it has no argument for this
    document = play(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    async with serving(handle) as server, serving(document) as other, library.AsyncClient(transport=inner) as client:
        async with ours(client=client).exchange(HTTPRequest("GET", other.url, "/get_agents")) as response:
            assert [chunk async for chunk in response.chunks] == [b"{}"]  # and its connection stays open
        backend.cancels = True
        request = HTTPRequest("GET", server.url, "/get_agents")
        with scope:
            try:
                async with ours(client=client).exchange(request):
                    pytest.fail("the request was sent")
            except asyncio.CancelledError:
                pass
        with anyio.fail_after(20):
            await closed.wait()
        assert [each.is_idle() for each in pool.connections if not each.is_closed()] == [True]


@pytest.mark.parametrize(("method", "goes_on"), [("POST", False), ("CONNECT", True)])
@pytest.mark.parametrize("below", ["httpcore", "httpcore2"])
async def test_the_trace_ends_when_the_request_is_sent(below: str, method: str, goes_on: bool) -> None:
    """What follows costs nothing; a proxy's tunnel is made before the request is sent."""
    core: Any = importlib.import_module(below)
    trace = _Trace(lambda: None)
    await trace("connection.connect_tcp.complete", {"return_value": "a stream"})
    request = core.Request(method, "http://here", extensions={"trace": trace})
    await trace("http11.send_request_headers.started", {"request": request})
    assert trace.unused is None
    assert ("trace" in request.extensions) == goes_on
