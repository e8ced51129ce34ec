"""Find runs by their ids, and forget finished ones. Pure.

Rule 1: a finished run is kept for a time, and the last ones up to a number. Running ones always are.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

R = TypeVar("R")


class RunTable(Generic[R]):
    """Runs by their ids; the time is an argument. A run may be a message or a response that stands for one."""

    def __init__(self, finished: int, seconds: float) -> None:
        self._most = finished
        self._seconds = seconds
        self._runs: dict[Hashable, R] = {}
        self._until: dict[Hashable, float] = {}
        """How long each finished run is kept, the oldest first."""

    def add(self, key: Hashable, run: R) -> None:
        """Add a run."""
        self._runs[key] = run

    def remove(self, key: Hashable) -> None:
        """Remove a run, finished or not."""
        del self._runs[key]
        self._until.pop(key, None)

    def find(self, key: Hashable, now: float) -> R | None:
        """Return a run; None if there is none, or none any longer."""
        self._forget(now)
        return self._runs.get(key)

    def finish(self, key: Hashable, now: float) -> None:
        """Note that a run has finished."""
        self._until[key] = now + self._seconds
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._until:
            oldest, until = next(iter(self._until.items()))
            if until > now and len(self._until) <= self._most:
                break
            del self._until[oldest], self._runs[oldest]
