"""Keep the last events of one relayed run, numbered, and hand them to its viewers. Pure.

Rule 1: an event `gap` tells a viewer how many events before its first one are no longer kept, and an event `dropped`
    that it was too slow.
Rule 2: the last event of a run, `end`, has a number like the others: a viewer that has seen it has seen all. `gap` and
    `dropped` have none, so that a browser resumes after the last event of the run that it got.
"""

from __future__ import annotations

from typing import Any, Final

from oxygent_client.serve import PieceLog
from oxygent_client.serve._relay.documents import DROPPED, END, GAP, frame, json_bytes

FRAME: Final = 64
"""More than the bytes of an event beside its data."""
SLOW: Final[Any] = {"code": "slow_viewer", "message": "this viewer read too slowly: connect again to resume"}


class EventLog(PieceLog):
    """The events of one run, and its viewers."""

    def must_pause(self, data: bytes) -> bool:
        """Whether this event may drop one that a viewer, which was not too slow so far, has not taken."""
        fits = self.fits(len(data) + FRAME)
        return not fits and any(self.dropped <= viewer.seen < self.last for viewer in self.viewers)

    def add(self, data: bytes) -> None:
        """Add an event of the run."""
        self.append(frame(data, number=self.last + 1))

    def end(self, data: bytes) -> None:
        """Add the last event."""
        self.append(frame(data, END, self.last + 1))
        self.is_ended = True

    def gap_piece(self, missed: int) -> bytes:
        """Return the event `gap`."""
        return frame(json_bytes({"missed": missed}), GAP)

    def dropped_piece(self) -> bytes:
        """Return the event `dropped`."""
        return frame(json_bytes(SLOW), DROPPED)
