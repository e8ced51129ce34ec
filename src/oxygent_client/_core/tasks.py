"""Task groups that raise a single error unwrapped, tasks outside of them, and a wait that no cancellation ends.

anyio's task group raises an exception group, even for one error. `except SomeError` would not catch it, and a program
would end with a traceback after `SystemExit` or Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import current_token

TURNS: Final = 8
"""Turns of the event loop within which a task that waits for nothing ends, such as one that closes a connection."""


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


def spawn(function: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None] | None:
    """Run `function` in a task outside all task groups; it must not raise an `Exception`.

    Returns the task on asyncio, which keeps a weak reference only, and None on trio.
    """
    if isinstance(loop := current_token().native_token, asyncio.AbstractEventLoop):
        return loop.create_task(function())
    import trio  # it is running, so it is installed

    trio.lowlevel.spawn_system_task(function, context=contextvars.copy_context())
    return None


async def wait_until_done(task: asyncio.Task[Any], seconds: float = math.inf) -> asyncio.CancelledError | None:
    """Wait at most `seconds` until `task` is done; return the last cancellation that came meanwhile.

    A native cancellation of asyncio passes the shields of anyio, so it is caught, and raised by the caller afterwards.
    Most tasks end within a few turns of the event loop, and need no timer.
    """
    cancelled, turns, now = None, TURNS, asyncio.get_running_loop().time
    until = now() + seconds
    with anyio.CancelScope(shield=True):
        while not task.done() and (left := until - now()) > 0:
            try:
                if turns:
                    turns -= 1
                    await asyncio.sleep(0)
                else:
                    await asyncio.wait({task}, timeout=None if left == math.inf else left)
            except asyncio.CancelledError as error:
                cancelled = error
    return cancelled
