"""Task groups that raise a single error unwrapped, and a wait for a task that no cancellation ends.

anyio's task group raises an exception group, even for one error. `except SomeError` would not catch it, and a program
would end with a traceback after `SystemExit` or Ctrl-C.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup


@asynccontextmanager
async def plain_task_group() -> AsyncGenerator[TaskGroup, None]:
    """A task group that raises a single error; of several errors a `BaseException` first, otherwise the first error."""
    found: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        found = next((error for error in group.exceptions if not isinstance(error, Exception)), group.exceptions[0])
    if found is not None:  # outside of the `except`, so that the group is not its context
        raise found


async def wait_until_done(task: asyncio.Task[Any], seconds: float = math.inf) -> asyncio.CancelledError | None:
    """Wait at most `seconds` until `task` is done; return the last cancellation that came meanwhile.

    A native cancellation of asyncio passes the shields of anyio, so it is caught, and raised by the caller afterwards.
    """
    cancelled = None
    until = anyio.current_time() + seconds
    with anyio.CancelScope(shield=True):
        while not task.done() and (left := until - anyio.current_time()) > 0:
            try:
                await asyncio.wait({task}, timeout=None if left == math.inf else left)
            except asyncio.CancelledError as error:
                cancelled = error
    return cancelled
