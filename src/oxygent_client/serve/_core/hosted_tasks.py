"""The tasks of a service that outlive the request that began them.

Rule: they run while the service does; at its end they get a time to end by themselves, and are cancelled then.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVarTuple

import anyio
import anyio.abc

Ts = TypeVarTuple("Ts")


def not_running() -> RuntimeError:
    """Return the error of a request to an application whose service does not run."""
    return RuntimeError("the service is not running: enter `app.running()` in the lifespan of your application")


class HostedTasks:
    """The tasks of one protocol."""

    def __init__(self, close_seconds: float = 0.0) -> None:
        self._close_seconds = close_seconds
        self._group: anyio.abc.TaskGroup | None = None

    @property
    def is_running(self) -> bool:
        """Whether the block of `running` has begun, and not ended."""
        return self._group is not None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Host tasks while the block lasts, and for `close_seconds` after it."""
        async with anyio.create_task_group() as group:
            self._group = group
            try:
                yield
            finally:
                self._group = None
                group.cancel_scope.deadline = anyio.current_time() + self._close_seconds

    def check_running(self) -> None:
        """Refuse a request that needs a task.

        Raises:
            RuntimeError: the service is not running.
        """
        if self._group is None:
            raise not_running()

    def start(self, function: Callable[[*Ts], Coroutine[Any, Any, Any]], *arguments: *Ts) -> None:
        """Start a task.

        Raises:
            RuntimeError: as `check_running`.
        """
        if self._group is None:
            raise not_running()
        self._group.start_soon(function, *arguments)
