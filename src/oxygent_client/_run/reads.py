"""Read from a connection until a deadline, with one timer per run.

A cancel scope for each read costs as much as the reading itself on asyncio, and a task group several times that. So on
asyncio the timer of the run (`oxygent_client._run.waits`) stays armed over many reads.

Rule 1: a cancellation from outside is never swallowed, also if it meets the deadline: `uncancel` tells them apart.
Rule 2: bytes that arrive at the very moment of the deadline come first.
Rule 3: `expired`, if there is one, runs beside the read, which goes on: a read that was cancelled has lost its
    connection. It gives the next deadline, or None to interrupt the read, and has ended when `read` returns.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Protocol, TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from oxygent_client._core.per_loop import this_loop
from oxygent_client._core.tasks import plain_task_group, wait_until_done
from oxygent_client._run.waits import TICK, Interruption, Timer, is_cancelled, new_timer

_USUAL_TIME: Final = asyncio.BaseEventLoop.time
Expired: TypeAlias = Callable[[], Awaitable[float | None]]


class Reads(Protocol):
    """The reads of one run, one after the other."""

    is_pending: bool
    """Whether a read was begun that gave no bytes: the connection may be lost by that."""
    was_pending: bool
    """As `is_pending`, before the last read."""

    async def read(self, chunks: AsyncIterator[bytes], deadline: float, expired: Expired | None = None) -> bytes | None:
        """The next piece; None if the read was interrupted, by the deadline or by `interrupt`."""
        ...

    def interrupt(self) -> bool:
        """End the read of another task; whether there is one."""
        ...

    def close(self) -> None:
        """Read no more."""
        ...


def new_reads(timer: Timer | None = None) -> Reads:
    """For the running event loop, with the timer of the run if it has one."""
    timer = timer or new_timer(this_loop())
    return ScopeReads() if timer is None else TimerReads(timer)


def loop_clock(loop: object) -> Callable[[], float]:
    """The clock of this event loop, which is running."""
    if not isinstance(loop, asyncio.AbstractEventLoop):
        return anyio.current_time
    return time.monotonic if getattr(loop.time, "__func__", None) is _USUAL_TIME else loop.time  # which calls it


class TimerReads:
    """On asyncio."""

    __slots__ = (
        *("_check", "_deadline", "_expired", "_failure", "_interruption", "_loop", "_reader", "_requests"),
        *("_timer", "is_pending", "was_pending"),
    )

    def __init__(self, timer: Timer) -> None:
        self._loop = timer.loop
        self._timer = timer
        timer.add(self)
        self._deadline = math.inf
        self._expired: Expired | None = None
        self._reader: asyncio.Task[Any] | None = None
        self._interruption: Interruption | None = None
        self._requests = 0  # to cancel the reader, when its read began
        self._check: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self.is_pending = self.was_pending = False

    async def read(self, chunks: AsyncIterator[bytes], deadline: float, expired: Expired | None = None) -> bytes | None:
        """As `Reads.read`."""
        reader = self._reader = asyncio.current_task(self._loop)
        assert reader is not None
        self._deadline, self._expired, self._failure = deadline, expired, None
        self._requests = reader.cancelling()
        if deadline < self._timer.at:
            self._timer.arm(deadline)
        self.was_pending, self.is_pending = self.is_pending, True
        piece: bytes | None = None
        try:
            piece = await anext(chunks)
            self.is_pending = False
        except asyncio.CancelledError as error:
            if self._interruption is None or not self._interruption.is_cause(error):
                raise
        finally:
            self._reader = self._expired = None  # a timer that stays armed holds no connection
            if self._interruption is not None:
                self._interruption.take_back()
                self._interruption = None
            if self._check is not None:
                await self._end_check()
        if piece is None and self._failure is not None:
            raise self._failure
        return piece

    def interrupt(self) -> bool:
        """As `Reads.interrupt`."""
        reader = self._reader
        if reader is None:
            return False
        if self._interruption is None:
            if is_cancelled(reader):
                self._loop.call_soon(self.interrupt)  # if the read goes on nevertheless
            else:
                self._interruption = Interruption(self._loop, reader, self._requests)
        return True

    def close(self) -> None:
        """As `Reads.close`."""
        self._timer.remove(self)
        self._timer.disarm()

    def look(self) -> None:
        """As `Sleeper.look`; if nothing is read now, the next read arms the timer."""
        if self._expired is None:
            self._look_at_deadline()
        else:
            self._loop.call_soon(self._look_at_deadline)  # what is due at the same moment runs first: rule 2

    def _look_at_deadline(self) -> None:
        reader = self._reader
        if self._check is not None and self._check.done():  # another task cancelled it
            self._check = None
        if reader is None or self._check is not None or self._interruption is not None:
            return
        waiter = getattr(reader, "_fut_waiter", None)
        now = self._loop.time()
        if now < self._deadline:
            self._timer.arm(max(self._deadline, now + TICK))
        elif waiter is not None and waiter.done():  # the read is about to go on
            self._loop.call_soon(self._look_at_deadline)
        elif self._expired is None:
            self.interrupt()
        else:
            self._check = self._loop.create_task(self._run_check(self._expired))

    async def _run_check(self, expired: Expired) -> None:
        deadline: float | None = None
        try:
            deadline = await expired()
        except asyncio.CancelledError:
            if self._reader is not None and self._interruption is None:  # not by `_end_check`: the deadline still holds
                self._loop.call_soon(self._look_at_deadline)
            raise
        except Exception as error:  # noqa: BLE001  (the reader raises it; a hook of the user's may be at work)
            self._failure = error
        if deadline is None:
            self.interrupt()
        else:
            self._deadline, self._check = deadline, None
            self._timer.arm(deadline)

    async def _end_check(self) -> None:
        """Cancel the check and wait for its end; a cancellation meanwhile is raised after that."""
        check, self._check = self._check, None
        assert check is not None
        check.cancel()
        cancelled = await wait_until_done(check)
        if cancelled is not None:
            raise cancelled


class ScopeReads:
    """On trio, whose cancel scopes and nurseries are cheap."""

    def __init__(self) -> None:
        self._scope: anyio.CancelScope | None = None
        self.is_pending = self.was_pending = False

    async def read(self, chunks: AsyncIterator[bytes], deadline: float, expired: Expired | None = None) -> bytes | None:
        """As `Reads.read`."""
        piece: bytes | None = None
        self.was_pending, self.is_pending = self.is_pending, True
        with anyio.CancelScope(deadline=math.inf if expired else deadline) as scope:
            self._scope = scope
            try:
                if expired is None:
                    piece = await anext(chunks)
                else:
                    piece = await self._read_beside(chunks, deadline, expired)
            finally:
                self._scope = None
        self.is_pending = piece is None
        return piece

    async def _read_beside(self, chunks: AsyncIterator[bytes], deadline: float, expired: Expired) -> bytes | None:
        piece: bytes | None = None
        failure: BaseException | None = None
        async with plain_task_group() as group:

            async def watch() -> None:
                nonlocal failure
                until: float | None = deadline
                try:
                    while until is not None:
                        await anyio.sleep_until(until)
                        await checkpoint()  # rule 2
                        until = await expired()
                except Exception as error:  # noqa: BLE001  (a group would wrap it; a hook of the user's may be at work)
                    failure = error
                group.cancel_scope.cancel()

            group.start_soon(watch)
            try:
                piece = await anext(chunks)
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001  (likewise, also what Ctrl-C raises)
                failure = error
            group.cancel_scope.cancel()
        if failure is not None and piece is None:
            raise failure
        return piece

    def interrupt(self) -> bool:
        """As `Reads.interrupt`."""
        if self._scope is not None:
            self._scope.cancel()
        return self._scope is not None

    def close(self) -> None:
        """As `Reads.close`; each read ends its scope."""
