"""`Service`: one ASGI application that serves an agent by one or more protocols.

Rule 1: a request passes, in this order: host and origin, health checks, token, route, body limit, handler.
Rule 2: when the client leaves, the handler is cancelled, and with it the run.
Rule 3: a handler raises an error before its response begins; the protocol's `error_document` puts it into its shape. Of
    an exception that is no `Refused` and no `OxyError` the text is not sent; it is logged.
Rule 4: the access log has method, route, status and time; no query, no body, no header.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final, Protocol

import anyio
import attrs

from oxygent_client import SSEOxyGent
from oxygent_client.errors import ConfigurationError
from oxygent_client.serve._core.access import Access, preflight_headers
from oxygent_client.serve._core.exchange import (
    ASGIApp,
    Exchange,
    Message,
    Receive,
    Send,
    check_declared,
    limited,
    read_body,
)
from oxygent_client.serve._core.failures import Failure, Refused
from oxygent_client.serve._core.runs import Runs, ServeLimits

_logger: Final = logging.getLogger("oxygent_client.serve")

HEALTH: Final = "/healthz"
"""Responds with 200 while the process runs."""
READY: Final = "/readyz"
"""Responds with 200 if the remote reports that it is alive, else with 503."""
LEFT: Final = 499
"""The status in the access log of a client that left; the one that nginx uses."""


@attrs.frozen
class Route:
    """A method and a path, and the handler of such requests; a path that ends with `/*` has anything there."""

    method: str
    path: str
    handler: Callable[[Exchange], Awaitable[None]]
    needs_token: bool = True
    """Whether a token is needed, if the service has one; without, the path has a secret, or the response has none."""

    def matches(self, path: str) -> bool:
        """Whether it is the route of this path."""
        return path.startswith(self.path[:-1]) if self.path.endswith("/*") else path == self.path


@attrs.frozen
class Mount:
    """A path, and the ASGI application that serves all requests to it and below it."""

    path: str
    app: ASGIApp

    def matches(self, path: str) -> bool:
        """Whether it is the application of this path."""
        return path == self.path or path.startswith(self.path.rstrip("/") + "/")


class Adapter(Protocol):
    """One protocol: its routes, and the shape of its errors."""

    def routes(self, runs: Runs) -> Sequence[Route | Mount]:
        """Return the routes of the protocol, whose handlers use `runs`."""
        ...

    def error_document(self, failure: Failure) -> Any:
        """Return the JSON document of an error."""
        ...

    def running(self) -> AbstractAsyncContextManager[None]:
        """Return a block that lasts while the service runs."""
        ...


class Service:
    """An ASGI application that serves an agent; mount it, or run it with any ASGI server."""

    def __init__(
        self,
        agent: SSEOxyGent,
        adapters: Sequence[Adapter],
        *,
        token: str = "",
        cors: Sequence[str] = (),
        hosts: Sequence[str] | None = None,
        limits: ServeLimits | None = None,
        whole_answers: bool = False,
    ) -> None:
        self.runs: Runs = Runs(agent, limits or ServeLimits(), whole_answers=whole_answers)
        self._access = Access(token=token, origins=cors, hosts=hosts)
        self._adapters = tuple(adapters)
        self._routes: list[tuple[Route | Mount, Adapter]] = []
        for adapter in self._adapters:
            for route in adapter.routes(self.runs):
                if any(route.path == other.path and _method(route) == _method(other) for other, _ in self._routes):
                    raise ConfigurationError(f"two protocols have the path {route.path}")
                self._routes.append((route, adapter))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI: an HTTP request, or the server's lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:  # a websocket, of which there are none
            await receive()
            await send({"type": "websocket.close"})

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Keep connections to the remote while the block lasts.

        An application that mounts the service enters it in its own lifespan; a server that runs the service need not.
        """
        async with AsyncExitStack() as entered:
            await entered.enter_async_context(self.runs.open())
            for adapter in self._adapters:
                await entered.enter_async_context(adapter.running())
            yield

    async def stop(self, grace: float = 0.0) -> None:
        """Refuse new runs, wait up to `grace` seconds for those that are running, then stop them."""
        await self.runs.stop(grace)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with self.running():
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        exchange, begun = Exchange(scope, send), anyio.current_time()
        found = self._find(exchange)
        shown = exchange.path if exchange.path in (HEALTH, READY) else found[0].path if found else "(no route)"
        try:
            try:
                await self._handle(exchange, scope, receive, found)
            except Exception as error:  # noqa: BLE001  (the response, or its end)
                if not exchange.is_left:
                    await self._fail(exchange, error, found)
        finally:
            seconds = anyio.current_time() - begun
            status = LEFT if exchange.is_left or not exchange.status else exchange.status
            _logger.info("%s %s %d %.3f s", exchange.method, shown, status, seconds)

    def _find(self, exchange: Exchange) -> tuple[Route | Mount, Adapter] | None:
        """The route of a request; if there is only one with another method, that one."""
        fitting = [each for each in self._routes if each[0].matches(exchange.path)]
        exact = [each for each in fitting if _method(each[0]) in (exchange.method, "")]
        return next(iter([*exact, *fitting]), None)

    async def _handle(
        self, exchange: Exchange, scope: Message, receive: Receive, found: tuple[Route | Mount, Adapter] | None
    ) -> None:
        self._access.check_place(exchange)
        if (preflight := preflight_headers(exchange)) is not None:
            await exchange.respond_empty(204, preflight)
        elif exchange.path in (HEALTH, READY):
            await self._respond_health(exchange)
        else:
            if found is None or not isinstance(found[0], Route) or found[0].needs_token:
                self._access.check_token(exchange)
            if found is None:
                raise Refused(404, "not_found", "there is no such path")
            route, _ = found
            if isinstance(route, Mount):
                await self._pass_on(exchange, route, scope, receive)
            elif route.method != exchange.method:
                methods = [_method(each) for each, _ in self._routes if each.matches(exchange.path)]
                exchange.response_headers["allow"] = allowed = ", ".join(dict.fromkeys(methods))
                raise Refused(405, "method_not_allowed", f"the method must be one of {allowed}")
            else:
                await self._run_handler(exchange, route, receive)

    async def _run_handler(self, exchange: Exchange, route: Route, receive: Receive) -> None:
        limits = self.runs.limits
        if not await read_body(exchange, receive, limits.body_bytes, limits.body_seconds):
            return
        error: Exception | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(_cancel_when_left, exchange, receive, group.cancel_scope)
            exchange.group = group
            try:
                await route.handler(exchange)
            except Exception as raised:  # noqa: BLE001  (it leaves the group unwrapped, below)
                error = raised
            group.cancel_scope.cancel()
        if error is not None:
            raise error

    async def _pass_on(self, exchange: Exchange, mount: Mount, scope: Message, receive: Receive) -> None:
        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                own = [(name.encode(), value.encode("latin-1")) for name, value in exchange.response_headers.items()]
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await exchange.send(message)

        limits = self.runs.limits
        check_declared(exchange, limits.body_bytes)
        await mount.app(scope, limited(receive, limits.body_bytes, limits.body_seconds), send)

    async def _respond_health(self, exchange: Exchange) -> None:
        if exchange.path == HEALTH:
            await exchange.respond(200, {"status": "ok"})
        else:
            ready = await self.runs.is_ready()
            await exchange.respond(200 if ready else 503, {"status": "ready" if ready else "not ready"})

    async def _fail(self, exchange: Exchange, error: Exception, found: tuple[Route | Mount, Adapter] | None) -> None:
        failure = self.runs.failure_of(error)
        if exchange.status:  # too late for a response of its own: without its end, the client sees that it is cut
            return
        adapter = self._adapters[0] if found is None else found[1]
        await exchange.respond(failure.status, adapter.error_document(failure), failure.headers)


def _method(route: Route | Mount) -> str:
    return route.method if isinstance(route, Route) else ""


async def _cancel_when_left(exchange: Exchange, receive: Receive, scope: anyio.CancelScope) -> None:
    await receive()  # after the body, nothing but a disconnect can follow
    if not exchange.is_finished:  # a server reports a complete response in the same way
        exchange.is_left = True
        scope.cancel()
