"""Wait until a deadline, with one timer for all waits of a run.

On asyncio a cancel scope of anyio with a deadline takes as long as encoding a payload. So a run has one timer there,
which stays armed: when it fires too early, because a deadline was moved or a wait has ended, it arms itself again.

Rule 1: a cancellation from outside is never swallowed, also if it meets the deadline: `uncancel` tells them apart.
Rule 2: a wait that is about to end when its deadline passes is not interrupted.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeAlias

import anyio

TICK: Final = 0.001
"""The resolution of uvloop's timers, in seconds. One that fires earlier than it is due would be armed for at once."""


INTERRUPTED: Final = "interrupted by oxygent-client"
"""The message of our cancellations, by which they are told from others."""


def is_cancelled(task: asyncio.Task[Any]) -> bool:
    """Whether a cancellation is about to reach the task."""
    waiter: asyncio.Future[Any] | None = getattr(task, "_fut_waiter", None)
    return waiter is not None and waiter.cancelled()


class Interruption:
    """Our cancellation of a task, which no other cancellation is about to reach."""

    __slots__ = ("_others", "_requests", "_task")

    def __init__(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], requests: int) -> None:
        self._task = task
        self._requests = requests  # of others, before
        self._others: int | None = None  # requests of others that came with ours
        task.cancel(INTERRUPTED)
        loop.call_soon(self._count)  # right after the task's turn

    def _count(self) -> None:
        self._others = self._task.cancelling() - self._requests - 1

    def is_cause(self, error: BaseException | None) -> bool:
        """Whether ours alone is the cause of `error`, so that it may be dropped.

        If a cancel scope of anyio has cancelled the task later, while it cleaned up, `error` may be dropped too: the
        scope cancels again where the task waits next. It would not take ours for its own, as happens if a task group
        within the block took both: it would pass that on.
        """
        if not isinstance(error, asyncio.CancelledError):
            return False
        others_now = self._task.cancelling() - self._requests - 1
        if others_now <= 0:
            return True
        others = others_now if self._others is None else self._others
        return others <= 0 and error.args == (INTERRUPTED,) and anyio.current_effective_deadline() == -math.inf

    def take_back(self) -> None:
        """Take the request back, at the end of the block that it has ended."""
        self._task.uncancel()


class Sleeper(Protocol):
    """Has a deadline."""

    def look(self) -> None:
        """Look at the deadline, and arm the timer if it has not passed."""
        ...


class Timer:
    """The timer of one run, on asyncio."""

    __slots__ = ("_handle", "at", "loop", "sleepers")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.at = math.inf
        """When it fires; uvloop's handle of a time that has passed does not tell."""
        self.sleepers: tuple[Sleeper, ...] = ()
        """They look at their deadlines when it fires."""
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, at: float) -> None:
        """Fire at this time, or earlier."""
        if at < self.at:
            if self._handle is not None:
                self._handle.cancel()
            self._handle, self.at = self.loop.call_at(at, self), at

    def disarm(self) -> None:
        """Do not fire."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self.at = None, math.inf

    def __call__(self) -> None:
        """Fire: the event loop calls the timer itself, since a bound method would be one more object of an idle run."""
        self._handle, self.at = None, math.inf
        for each in self.sleepers:
            each.look()

    def add(self, sleeper: Sleeper) -> None:
        """Have `sleeper` look at its deadline whenever the timer fires, until it is removed."""
        self.sleepers += (sleeper,)

    def remove(self, sleeper: Sleeper) -> None:
        """Forget `sleeper`, which was added."""
        sleepers = self.sleepers
        if sleepers[-1] is sleeper:  # as it is where blocks are nested
            self.sleepers = sleepers[:-1]
        else:
            self.sleepers = tuple(each for each in sleepers if each is not sleeper)


def new_timer(loop: object) -> Timer | None:
    """The timer of a run in this event loop, which is running; None on trio, whose cancel scopes are cheap."""
    return Timer(loop) if isinstance(loop, asyncio.AbstractEventLoop) else None


class TimedScope:
    """A block on asyncio, as `asyncio.timeout`, by the timer of its run."""

    __slots__ = ("_deadline", "_interruption", "_requests", "_task", "_timer", "cancelled_caught")

    def __init__(self, timer: Timer, deadline: float) -> None:
        self._timer = timer
        self._deadline = deadline
        self._task: asyncio.Task[Any] | None = None  # within the block
        self._requests = 0  # to cancel the task, when the block began
        self._interruption: Interruption | None = None
        self.cancelled_caught = False

    @property
    def deadline(self) -> float:
        """When the block is interrupted, by the clock of the event loop."""
        return self._deadline

    @deadline.setter
    def deadline(self, at: float) -> None:
        self._deadline = at
        if at < self._timer.at:
            self._timer.arm(at)

    def __enter__(self) -> Self:
        task = self._task = asyncio.current_task(self._timer.loop)
        assert task is not None
        self._requests = task.cancelling()
        self._timer.add(self)
        if self._deadline < self._timer.at:
            self._timer.arm(self._deadline)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._task = None
        self._timer.remove(self)
        if self._interruption is not None:
            self.cancelled_caught = self._interruption.is_cause(error)
            self._interruption.take_back()
        return self.cancelled_caught

    def cancel(self) -> None:
        """Interrupt the block where it waits next."""
        task = self._task
        if task is None or self._interruption is not None:
            return
        if is_cancelled(task) or asyncio.current_task() is task:  # the block may end before it waits again
            self._timer.loop.call_soon(self.cancel)
        else:
            self._interruption = Interruption(self._timer.loop, task, self._requests)

    def look(self) -> None:
        """As `Sleeper.look`."""
        if self._task is None:  # the block has ended
            return
        now, waiter = self._timer.loop.time(), getattr(self._task, "_fut_waiter", None)
        if now < self._deadline:
            self._timer.arm(max(self._deadline, now + TICK))
        elif waiter is not None and waiter.done():  # rule 2
            self._timer.loop.call_soon(self.look)
        else:
            self.cancel()


Scope: TypeAlias = anyio.CancelScope | TimedScope
"""A block that ends at its `deadline`, which can be moved, or when it is cancelled; `cancelled_caught` tells."""


def new_scope(timer: Timer | None, deadline: float) -> Scope:
    """A block that ends at the deadline."""
    return anyio.CancelScope(deadline=deadline) if timer is None else TimedScope(timer, deadline)
