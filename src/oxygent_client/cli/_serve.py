"""Serve an ASGI application on a local port for the length of a block.

Rule 1: only this machine can reach it: 127.0.0.1, and a port that the system chooses unless one is named.
Rule 2: it listens before the block begins, so nobody need ask whether it is up yet.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import uvicorn

from oxygent_client.errors import ConfigurationError

__all__ = ["serving"]


@contextmanager
def serving(app: Any, port: int = 0) -> Generator[str]:
    """The URL of `app`, served by uvicorn in a thread of its own, so that whatever the block does, it is answered.

    Raises:
        ConfigurationError: the port cannot be had.
    """
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise ConfigurationError(f"port {port} cannot be had: {error.strerror}") from error
    with listening as listener:
        # No access log: the terminal belongs to the block. A second is enough for streams that nobody reads any more.
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10.0)
