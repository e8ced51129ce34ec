"""Open and close connections completely, despite cancellation.

Rule 1: a native cancellation of asyncio passes the shields of anyio, and a second one interrupts the cleaning up after
    the first. So on asyncio a task of its own does what must come to its end, and is waited for.
Rule 2: no cancellation is swallowed: it is raised when the work is over. `uncancel` is never called.
Rule 3: no task is left behind, unless closing takes longer than CLOSE_SECONDS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import anyio
from anyio.lowlevel import current_token

__all__ = ["CLOSE_SECONDS", "run_to_end", "told_once"]

CLOSE_SECONDS: Final = 2.0
"""How long closing may keep the caller; after that it is cancelled, and its end is not waited for."""

T = TypeVar("T")


async def told_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is told of a cancellation once: what it does then is not interrupted by a second."""
    if not _is_asyncio():
        return await work
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await _outlast(task)
        raise
    return task.result()


async def run_to_end(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close something. A cancellation of the caller is raised when that is done."""
    if not _is_asyncio():
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + CLOSE_SECONDS):
            await work()
        return
    task = asyncio.ensure_future(work())
    cancelled = await _outlast(task)
    if cancelled is not None:
        raise cancelled
    if task.done() and not task.cancelled():
        task.result()


def _is_asyncio() -> bool:
    return isinstance(current_token().native_token, asyncio.AbstractEventLoop)


async def _outlast(task: asyncio.Task[Any]) -> asyncio.CancelledError | None:
    """Wait until `task` is done; the last cancellation that came meanwhile."""
    cancelled = None
    until = anyio.current_time() + CLOSE_SECONDS
    with anyio.CancelScope(shield=True):
        while not task.done():
            left = until - anyio.current_time()
            if left <= 0:
                task.cancel()
                break
            try:
                await asyncio.wait({task}, timeout=left)
            except asyncio.CancelledError as error:
                cancelled = error
    task.add_done_callback(_retrieved)
    return cancelled


def _retrieved(task: asyncio.Task[Any]) -> None:
    """An error that nobody is there to hear is not complained of."""
    if not task.cancelled():
        task.exception()
