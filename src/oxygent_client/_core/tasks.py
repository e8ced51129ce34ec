"""Task groups that raise a single error unwrapped.

A task group of anyio raises a group of errors, also around one. A caller who catches the error by its class would not
see it, and a program that ends itself (`SystemExit`, Ctrl-C) would end with a traceback instead.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

__all__ = ["plain_task_group"]


@asynccontextmanager
async def plain_task_group() -> AsyncGenerator[TaskGroup, None]:
    """A task group that raises an error as it is; of several, what ends the program, else the first."""
    found: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        found = next((error for error in group.exceptions if not isinstance(error, Exception)), group.exceptions[0])
    if found is not None:  # not within the `except`: the group would be its context
        raise found
