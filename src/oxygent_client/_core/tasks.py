"""Task groups that raise a single error unwrapped.

anyio's task group raises an exception group, even for one error. `except SomeError` would not catch it, and a program
would end with a traceback after `SystemExit` or Ctrl-C.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

__all__ = ["plain_task_group"]


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
