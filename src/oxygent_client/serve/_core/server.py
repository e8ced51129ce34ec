"""Run a service on a port until a signal ends it.

Rule 1: SIGINT and SIGTERM stop it gracefully: no new connections, no new runs, and `grace` seconds for those that run.
    A second SIGINT ends that time.
Rule 2: runs that are still active then are stopped at the remote, and their clients get an error.
Rule 3: a connection that is to be closed, to a client that does not read what is left to be sent, is cut.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import anyio

from oxygent_client.errors import ConfigurationError
from oxygent_client.serve._core.service import Service

if TYPE_CHECKING:
    import uvicorn

_logger: Final = logging.getLogger("oxygent_client.serve")

CLOSE_SECONDS: Final = 2.0
"""How long the last responses get to be sent after their runs were stopped."""

SIGNAL_SECONDS: Final = 0.1
"""How often it looks for a second signal; uvicorn does likewise."""

TICKS: Final = 300
"""How often uvicorn ticks, ten times a second, in the time that a client gets to take more of what is left for it."""


def cut_stuck(connections: Iterable[Any], before: Mapping[Any, float]) -> dict[Any, float]:
    """Cut the connections that are closing and have as many bytes left to be sent as `before`.

    Return the others that are closing, with their bytes.
    """
    closing = dict[Any, float]()
    for each in connections:
        if each.transport.is_closing():
            left = each.transport.get_write_buffer_size()
            if left < before.get(each, math.inf):
                closing[each] = left
            else:
                each.transport.abort()
    return closing


def make_server(service: Service, *, grace: float) -> uvicorn.Server:
    """Return a uvicorn server of the service.

    Raises:
        ConfigurationError: uvicorn is not installed.
    """
    try:
        import uvicorn
    except ImportError as missing:
        raise ConfigurationError("serving needs uvicorn: pip install 'oxygent-client[openai]'") from missing

    class Server(uvicorn.Server):
        closing: Mapping[Any, float] = {}

        async def on_tick(self, counter: int) -> bool:
            if counter % TICKS == 0:
                self.closing = cut_stuck([*self.server_state.connections], self.closing)
            return await super().on_tick(counter)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            for listener in self.servers:
                listener.close()
            if running := service.runs.running:
                _logger.info(
                    "stopping: waiting up to %g s for active runs (%d); Ctrl-C again stops them", grace, running
                )
            async with anyio.create_task_group() as group:
                group.start_soon(self._wait_for_signal, group.cancel_scope)
                await service.stop(grace)
                group.cancel_scope.cancel()
            await service.stop()
            await super().shutdown(sockets)

        async def _wait_for_signal(self, scope: anyio.CancelScope) -> None:
            while not self.force_exit:  # noqa: ASYNC110  (a signal sets nothing else)
                await anyio.sleep(SIGNAL_SECONDS)
            self.force_exit = False  # the clients get their errors
            scope.cancel()

    config = uvicorn.Config(
        service,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=int(CLOSE_SECONDS),
    )
    return Server(config)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the function that makes a loop of uvloop, as uvicorn uses it; None if uvloop is not installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def serve_forever(
    service: Service, *, host: str, port: int, grace: float = 30.0, on_start: Callable[[str], None]
) -> None:
    """Serve until SIGINT or SIGTERM, in the main thread; `on_start` gets the URL.

    Raises:
        KeyboardInterrupt: SIGINT ended it. After SIGTERM it returns.
        ConfigurationError: the address is not available, or uvicorn is not installed.
    """
    server = make_server(service, grace=grace)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigurationError(f"{host} port {port} is not available: {error.strerror}; choose another") from error
    with listener:
        shown = f"[{host}]" if ":" in host else host
        on_start(f"http://{shown}:{listener.getsockname()[1]}")

        def stop(*_: object) -> None:  # uvicorn raises a signal again when it has stopped
            server.should_exit = True

        with ExitStack() as handlers:
            handlers.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, stop))
            # Not `server.run`: older uvicorn changes the event loop policy of the process, and leaves it so.
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(server.serve(sockets=[listener]))
