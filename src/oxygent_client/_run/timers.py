"""The time-outs of one run.

Rule 1: nothing waits forever, and each clock of `Timeouts` has its error.
Rule 2: what is counted is waiting: the clocks stand still while the user's code holds an event, except `total`.
"""

from __future__ import annotations

import math
from operator import itemgetter
from typing import Final, TypeAlias

import anyio

from oxygent_client._core.errors import DeadlineExceededError, IdleTimeoutError, OxyTimeoutError, SilenceTimeoutError
from oxygent_client._core.settings import Timeouts

__all__ = ["Patience", "RunTimers"]

Patience: TypeAlias = tuple[float, str]
"""Seconds, and the clock that says so."""

CLOCKS: Final[dict[str, tuple[type[OxyTimeoutError], str]]] = {
    "total": (DeadlineExceededError, "the call did not come to its end"),
    "idle": (IdleTimeoutError, "no event"),
    "silence": (SilenceTimeoutError, "not a byte"),
}
"""The error of each clock, by its name in `Timeouts`."""


class RunTimers:
    """The clocks of one run; times are by the event loop's clock."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        self.deadline = math.inf
        """When `total` is over."""
        self.waited = 0.0
        """Seconds without an event, of those that were waited."""
        self.counted = 0.0
        """Until when `waited` was added up."""
        self._began = 0.0

    def start(self) -> None:
        """The run begins now."""
        self._began = anyio.current_time()
        if self.timeouts.total is not None:
            self.deadline = self._began + self.timeouts.total

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return anyio.current_time() - self._began

    def heard(self) -> None:
        """An event came."""
        self.waited = 0.0

    def restart(self, since: float) -> None:
        """An event was waited for since then."""
        self.counted = anyio.current_time()
        self.waited = self.counted - since

    def resume(self) -> float:
        """The run waits, from now on, until `count`; the time."""
        self.counted = anyio.current_time()
        return self.counted

    def count(self) -> float:
        """Add up what was waited; the time."""
        now = anyio.current_time()
        self.waited += now - self.counted
        self.counted = now
        return now

    def patience(self, now: float, *others: Patience) -> Patience:
        """How long to wait for the next bytes, and the clock that says so: `total`, `idle`, or one of `others`."""
        idle = (self.timeouts.idle or math.inf) - self.waited
        return min((self.deadline - now, "total"), (idle, "idle"), *others, key=itemgetter(0))

    def ran_out(self, clock: str, more: str = "") -> OxyTimeoutError:
        """The error of a clock."""
        cls, text = CLOCKS[clock]
        return cls(f"{text} within Timeouts.{clock} ({getattr(self.timeouts, clock):g} s){more}")
