"""Decide when and how to reconnect to a detached run.

Rule 1: pure; it waits for nothing and reads no clock. Seconds are seconds without an event.
Rule 2: a real server hands out each event once, and an id is the agent's own: so each event after a break is new, also
    where it has the id, the name and the data of an event before.
Rule 3: what was on its way when a connection broke is lost for good, the end of the run too. So over each connection
    the server's record is asked, first soon, then more and more rarely, until an event shows that the queue speaks.
"""

from __future__ import annotations

from typing import Final

from oxygent_client._core.events import ServerSentEvent

FIRST_PAUSE: Final = 1.0
"""Seconds before coming back, unless the stream's `retry:` says otherwise; doubled with each failure."""
SHORTEST_PAUSE: Final = 0.1
"""However soon a stream's `retry:` wants its reader back: a server that breaks off at once is not to be stormed."""
LONGEST_PAUSE: Final = 30.0
FIRST_CHECK: Final = 2.0
"""Seconds without an event after which the record is asked; doubled each time."""
LAST_WORDS: Final = 1.0
"""Seconds that the events have to come once the record says that the run is over. A real server stores the end of a run
before it hands out the last events, and looks for those ten times a second."""


class ReconnectState:
    """What one reader of a detached run remembers over its connections."""

    def __init__(self) -> None:
        self.check: float | None = FIRST_CHECK
        """Seconds without an event after which the record is to be asked; None: not at all."""
        self._missed: float | None = None  # a check for which the connection did not last
        self._is_over = False
        self._first_pause = self._pause = FIRST_PAUSE
        self._heard = True  # since the last break

    @property
    def is_lost(self) -> bool:
        """Whether a connection broke, and no event came since."""
        return not self._heard

    def heard(self, sse: ServerSentEvent) -> None:
        """An event came."""
        if sse.retry is not None:  # in whole numbers: it may have thousands of digits
            self._first_pause = max(min(sse.retry, 1000 * LONGEST_PAUSE) / 1000, SHORTEST_PAUSE)
        self._pause = self._first_pause
        self._heard = True
        self.check = self._missed = None
        self._is_over = False

    def broke(self) -> float:
        """Seconds to pause, less what the reader shortens by lot: the connection broke, or there was none to be had."""
        self._heard = False
        self._missed, self.check = self._missed if self.check is None else self.check, None
        pause = self._pause
        self._pause = min(2 * pause, LONGEST_PAUSE)
        return pause

    def came_back(self, waited: float) -> None:
        """There is a connection again, after `waited` seconds without an event."""
        soon = waited + FIRST_CHECK
        self.check = soon if self._missed is None else min(self._missed, soon)

    def goes_on(self, waited: float, *, known: bool) -> None:
        """The record was asked, and does not say that the run is over; `known` if there are records at all."""
        self._missed, self._is_over = None, False
        self.check = 2 * max(self.check, waited) if known and self.check is not None else None

    def is_over(self, waited: float) -> bool:
        """The record says that the run is over: whether it did so a moment ago as well, and no event came since."""
        was_over, self._is_over = self._is_over, True
        self.check = waited + LAST_WORDS
        return was_over
