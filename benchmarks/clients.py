"""The clients that are compared: this package on each transport, bare HTTP libraries, and OxyGent's own client.

"bare" is the least that a program can do: read chunks, split them at blank lines, call `json.loads`; no time-outs, no
limits, no typed events. Each client is an async context manager that yields `read(query)`, which reads one whole stream
and returns the number of its events.

Nothing is imported before it is used: each client is measured in a process of its own, OxyGent's client in its own
environment.
"""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping

    Read = Callable[[str], Coroutine[Any, Any, int]]
    Client = Callable[[str], AbstractAsyncContextManager[Read]]

SEPARATOR: Final = b"\r\n\r\n"
CONNECT: Final = 60
"""Seconds: many streams are opened at a time, perhaps on a slow machine."""


async def count(pieces: AsyncIterator[bytes]) -> int:
    """Split and parse; return the number of events."""
    found, rest, loads = 0, b"", json.loads
    async for piece in pieces:
        *blocks, rest = (rest + piece).split(SEPARATOR)
        for block in blocks:
            start = block.find(b"data: ") + 6
            if start > 5:
                loads(block[start : block.index(b"\r\n", start)])
                found += 1
    return found


def bare_httpx(library: str) -> Client:
    """Bare httpx, or httpx2."""

    @asynccontextmanager
    async def client(url: str) -> AsyncGenerator[Read]:
        from importlib import import_module

        http: Any = import_module(library)
        limits = http.Limits(max_connections=None, max_keepalive_connections=100)
        async with http.AsyncClient(timeout=None, trust_env=False, limits=limits) as session:

            async def read(query: str) -> int:
                async with session.stream("POST", f"{url}/sse/chat", json={"query": query}) as response:
                    return await count(response.aiter_raw())

            yield read

    return client


@asynccontextmanager
async def bare_aiohttp(url: str) -> AsyncGenerator[Read]:
    """Bare aiohttp."""
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(None), connector=connector) as session:

        async def read(query: str) -> int:
            async with session.post(f"{url}/sse/chat", json={"query": query}) as response:
                return await count(response.content.iter_any())

        yield read


@asynccontextmanager
async def bare_asgi(url: str) -> AsyncGenerator[Read]:
    """The least in process: the chunks themselves."""
    from benchmarks.server import chunks

    async def pieces(query: str) -> AsyncIterator[bytes]:
        for piece in chunks(**json.loads(query)):
            yield piece

    async def read(query: str) -> int:
        return await count(pieces(query))

    yield read


async def app(scope: Any, receive: Any, send: Any) -> None:
    """The server as an ASGI application."""
    from benchmarks.server import chunks

    body = (await receive())["body"]
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for piece in chunks(**json.loads(json.loads(body)["query"])):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def transport(kind: str) -> Any:
    """A transport of this package."""
    if kind == "aiohttp":
        from oxygent_client.transports.aiohttp import AiohttpTransport

        return AiohttpTransport(connect=CONNECT)
    if kind == "httpx2":
        from oxygent_client.transports.httpx2 import HTTPX2Transport

        return HTTPX2Transport(connect=CONNECT)
    if kind == "asgi":
        from oxygent_client.transports.asgi import ASGITransport

        return ASGITransport(app)
    from oxygent_client import HTTPXTransport

    return HTTPXTransport(connect=CONNECT)


def ours(kind: str, heard: str = "") -> Client:
    """An agent of this package; `heard` names the callback that gets the messages, or is `idle` for that time-out."""

    @asynccontextmanager
    async def client(url: str) -> AsyncGenerator[Read]:
        from oxygent_client import OxyRequest, SSEOxyGent, Timeouts

        async def callback(_: Any) -> None:
            """Take a message."""

        moves = transport(kind)
        agent = SSEOxyGent(
            server_url=url or "http://127.0.0.1",
            transport=moves,
            timeouts=Timeouts(idle=30) if heard == "idle" else Timeouts(),
            event_handlers={"stream": callback} if heard == "handler" else {},
        )

        async def read(query: str) -> int:
            found, request = 0, OxyRequest(arguments={"query": query})
            if heard == "send_message":
                vars(request)["send_message"] = callback
            async with agent.stream(request) as run:
                async for _event in run:
                    found += 1
            return found + 1  # the close event

        yield read
        await moves.aclose()

    return client


@asynccontextmanager
async def builtin(url: str) -> AsyncGenerator[Read]:
    """OxyGent's own remote agent."""
    import logging
    from importlib import import_module

    oxygent: Any = import_module("oxygent")
    logging.disable(logging.INFO)
    agent = import_module("oxygent.oxy").SSEOxyGent(name="remote", desc="remote", server_url=url)

    async def read(query: str) -> int:
        response = await agent._execute(oxygent.OxyRequest(arguments={"query": query}))  # noqa: SLF001  (as it calls it)
        assert response.output == "42"
        return int(json.loads(query)["events"]) + 2

    yield read


CLIENTS: Final[Mapping[str, Client]] = {
    "bare httpx": bare_httpx("httpx"),
    "httpx": ours("httpx"),
    "httpx, idle=30": ours("httpx", "idle"),
    "httpx, a handler": ours("httpx", "handler"),
    "httpx, send_message": ours("httpx", "send_message"),
    "bare httpx2": bare_httpx("httpx2"),
    "httpx2": ours("httpx2"),
    "bare aiohttp": bare_aiohttp,
    "aiohttp": ours("aiohttp"),
    "aiohttp, idle=30": ours("aiohttp", "idle"),
    "aiohttp, a handler": ours("aiohttp", "handler"),
    "aiohttp, send_message": ours("aiohttp", "send_message"),
    "aiohttp, fast": ours("aiohttp"),
    "bare in process": bare_asgi,
    "in process": ours("asgi"),
    "OxyGent 1.1.3": builtin,
}


def bare_of(name: str) -> str:
    """The bare client of the same library; OxyGent's is compared with bare aiohttp, on which it stands."""
    if name == "OxyGent 1.1.3":
        return "bare aiohttp"
    return name if name.startswith("bare") else f"bare {name.partition(',')[0]}"
