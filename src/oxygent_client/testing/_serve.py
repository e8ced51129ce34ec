"""Serve an ASGI application on a local port for the length of a block.

Rule 1: only this machine can reach it: it listens on 127.0.0.1, at a port that the system chooses by default.
Rule 2: it listens before the block begins, so that no client has to wait for it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from oxygent_client._core.errors import ConfigurationError


@contextmanager
def serve(app: Any, port: int = 0) -> Generator[str]:
    """Run an ASGI application under uvicorn, in a thread of its own, and yield its URL.

    Args:
        app: an ASGI 3 application, such as `ToyRemote()`; its lifespan is run, if it has one.
        port: the port on 127.0.0.1; 0 chooses a free one.

    Raises:
        ConfigurationError: uvicorn is not installed, or the port is not available.
    """
    try:
        import uvicorn
    except ImportError as missing:
        raise ConfigurationError(
            "serving needs uvicorn: pip install 'oxygent-client[pytest]' (or 'oxygent-client[cli]')"
        ) from missing
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise ConfigurationError(f"port {port} is not available: {error.strerror}; choose another") from error
    with listening as listener:
        # No log: the terminal belongs to the block. asyncio's own loop: for uvloop, older uvicorn changes the event
        # loop policy of the process. One second is enough for streams that are no longer read.
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="auto",
            loop="asyncio",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10.0)
