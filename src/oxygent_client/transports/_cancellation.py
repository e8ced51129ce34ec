"""Open and close connections completely, despite cancellation.

Rule 1: on asyncio, a native cancellation passes anyio's shields, and a second one interrupts the cleanup after the
    first. So the work runs in a task of its own there, and is awaited; `run_through` makes its steps instead.
Rule 2: no cancellation is swallowed: it is raised again when the work has ended. `uncancel` is never called.
Rule 3: no task is left behind, unless closing takes longer than CLOSE_SECONDS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
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


async def run_through(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """As `run_to_end`, for work that mostly lets other tasks run and waits for little, without a time-out of its own.

    A task takes several times as long as such work. So its steps are made here, and what it waits for is awaited in its
    place: a cancellation reaches this function, and not the work.
    """
    if not _is_asyncio():
        await run_to_end(work)
        return
    now, steps = asyncio.get_running_loop().time, work()
    until, cancelled = now() + CLOSE_SECONDS, None
    try:
        while now() < until:
            waits: asyncio.Future[Any] | None = steps.send(None)
            if waits is None:  # it lets other tasks run
                error = await _caught(asyncio.sleep(0))
                cancelled = error or cancelled
                continue
            waits._asyncio_future_blocking = False  # noqa: SLF001  (as a task does that is given a future)
            while not waits.done() and (left := until - now()) > 0:
                error = await _caught(asyncio.wait({waits}, timeout=left))
                cancelled = error or cancelled
    except StopIteration:
        pass
    except Exception:
        if cancelled is None:
            raise
    finally:
        steps.close()
    if cancelled is not None:
        raise cancelled


async def _caught(wait: Awaitable[object]) -> asyncio.CancelledError | None:
    """Await something; return the cancellation that ended that."""
    try:
        await wait
    except asyncio.CancelledError as error:
        return error
    return None


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
