"""Open and close connections completely, despite cancellation.

Rule 1: on asyncio, a native cancellation passes anyio's shields, and a second one interrupts the cleanup after the
    first. So the work runs in a task of its own there, and is awaited. Work that does not wait needs none of this.
Rule 2: no cancellation is swallowed: it is raised again when the work has ended. `uncancel` is never called.
Rule 3: no task is left behind, unless closing takes longer than CLOSE_SECONDS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeVar

import anyio

from oxygent_client._core.per_loop import this_loop
from oxygent_client._core.tasks import wait_until_done

CLOSE_SECONDS: Final = 2.0
"""Seconds that closing may block the caller; after that it is cancelled and no longer awaited."""

T = TypeVar("T")


async def cancel_once(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`. A cancellation reaches it once; a second one does not interrupt its cleanup."""
    if not _is_asyncio():
        return await work
    task = asyncio.ensure_future(work)
    done = task.get_loop().create_future()
    task.add_done_callback(partial(_set_done, done))
    try:
        await done  # `asyncio.wait` would make several objects for one task
    except asyncio.CancelledError:
        task.cancel()
        await _wait_or_cancel(task)
        raise
    return task.result()


async def run_to_end(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `work` to its end, for CLOSE_SECONDS at most; then raise a cancellation of the caller that came meanwhile."""
    if not _is_asyncio():
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + CLOSE_SECONDS):
            await work()
        return
    task = asyncio.ensure_future(work())
    cancelled = await _wait_or_cancel(task)
    if cancelled is not None:
        raise cancelled
    if task.done() and not task.cancelled():
        task.result()


def _set_done(done: asyncio.Future[None], _task: asyncio.Task[Any]) -> None:
    if not done.done():  # it was cancelled, with who waits for it
        done.set_result(None)


def _is_asyncio() -> bool:
    return isinstance(this_loop(), asyncio.AbstractEventLoop)


async def _wait_or_cancel(task: asyncio.Task[Any]) -> asyncio.CancelledError | None:
    cancelled = await wait_until_done(task, CLOSE_SECONDS)
    task.cancel()  # does nothing if it is done
    task.add_done_callback(_retrieve_error)
    return cancelled


def _retrieve_error(task: asyncio.Task[Any]) -> None:
    """Mark the error of a task as retrieved, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()
