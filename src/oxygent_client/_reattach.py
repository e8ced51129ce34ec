"""How a reader comes back to a detached run after its connection broke: when, and what it has heard already.

Rule 1: pure; it waits for nothing and reads no clock. Seconds are seconds without an event.
Rule 2: nothing is told twice and nothing is left out: what comes again is what has the same id, name and data as an
    event before the break, and each such event is left out once.
Rule 3: what was on its way when a connection broke is lost for good, the end of the run too. So after each connection
    the server's record is asked, first soon, then more and more rarely, until an event shows that the queue speaks.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

from oxygent_client._sse import ServerSentEvent

__all__ = ["Reattachment"]

FIRST_PAUSE: Final = 1.0
"""Seconds before coming back, unless the stream's `retry:` says otherwise; doubled with each failure."""
LONGEST_PAUSE: Final = 30.0
FIRST_CHECK: Final = 2.0
"""Seconds without an event after which the record is asked; doubled each time."""
REMEMBERED: Final = 2048
"""Events that may be recognised. A real server queues 1,024."""

Key = tuple[str, str, str]


class Reattachment:
    """What one reader of a detached run remembers over its connections."""

    def __init__(self) -> None:
        self.check: float | None = FIRST_CHECK
        """Seconds without an event after which the record is to be asked; None: not at all."""
        self._pause = FIRST_PAUSE
        self._failures = 0
        self._told: deque[Key] = deque(maxlen=REMEMBERED)
        self._again: Counter[Key] = Counter()

    def is_new(self, sse: ServerSentEvent) -> bool:
        """Whether this event was not heard over an earlier connection."""
        self._failures = 0
        self.check = None
        if sse.retry is not None:
            self._pause = min(sse.retry / 1000, LONGEST_PAUSE)
        if not sse.id:
            return True
        key = sse.id, sse.event, sse.data
        if self._again[key] > 0:
            self._again[key] -= 1
            return False
        self._told.append(key)
        return True

    def checked(self, *, known: bool) -> None:
        """The record was asked, and the run goes on; `known` if the server has records at all."""
        self.check = self.check * 2 if self.check is not None and known else None

    def broke(self, waited: float) -> float:
        """Seconds to pause, less what the reader shortens by lot: the connection broke, or there was none to be had.

        That was after `waited` seconds without an event.
        """
        if not self._failures:
            self._again = Counter(self._told)
        pause = min(self._pause * 2**self._failures, LONGEST_PAUSE)
        self._failures += 1
        self.check = waited + pause + FIRST_CHECK
        return pause
