"""Keep the last events of one run, numbered, and hand them to its viewers. Pure.

Rule 1: numbers begin with 1. The last events are kept, within a number and a size, and at least the newest.
Rule 2: a viewer gets the kept events after the one that it has seen, in their order. If events before them are no
    longer kept, an event `gap` comes first, which has their number.
Rule 3: a viewer takes all that is there at once. If events that it has not taken are no longer kept when it has sent
    the taken ones, an event `dropped` follows, and nothing more. So a slow viewer holds no more than the log does.
Rule 4: the last event of a run, `end`, has a number like the others: a viewer that has seen it has seen all. `gap` and
    `dropped` have none, so that a browser resumes after the last event of the run that it got.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any, Final

import attrs

from oxygent_client.serve._relay.documents import DROPPED, END, GAP, frame, json_bytes

PIECE: Final = 64 * 1024
"""The bytes of several events that are sent at once."""
FRAME: Final = 64
"""More than the bytes of an event beside its data."""
SLOW: Final[Any] = {"code": "slow_viewer", "message": "this viewer read too slowly: connect again to resume"}


class EventLog:
    """The events of one run, and its viewers."""

    def __init__(self, most_events: int, most_bytes: int) -> None:
        self._most_events = most_events
        self._most_bytes = most_bytes
        self._kept: deque[bytes] = deque()
        self._size = 0
        self.last = 0
        """The number of the newest event; 0 before the first."""
        self.is_ended = False
        """Whether that is the end of the run."""
        self.viewers: set[Viewer] = set()
        """The viewers that have joined, and have not left."""

    @property
    def dropped(self) -> int:
        """How many of the first events are no longer kept."""
        return self.last - len(self._kept)

    def must_pause(self, data: bytes) -> bool:
        """Whether this event may drop one that a viewer, which was not too slow so far, has not taken."""
        fits = len(self._kept) < self._most_events and self._size + len(data) + FRAME <= self._most_bytes
        return not fits and any(self.dropped <= viewer.seen < self.last for viewer in self.viewers)

    def add(self, data: bytes) -> None:
        """Add an event of the run."""
        self._add(frame(data, number=self.last + 1))

    def end(self, data: bytes) -> None:
        """Add the last event."""
        self._add(frame(data, END, self.last + 1))
        self.is_ended = True

    def join(self, seen: int = 0) -> Viewer:
        """Add a viewer that has seen the events up to this number."""
        viewer = Viewer(self, seen)
        self.viewers.add(viewer)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Remove a viewer."""
        self.viewers.discard(viewer)

    def after(self, number: int) -> list[bytes]:
        """Return the kept events after this number."""
        return [*islice(reversed(self._kept), self.last - number)][::-1]

    def _add(self, event: bytes) -> None:
        self._kept.append(event)
        self._size += len(event)
        self.last += 1
        while len(self._kept) > 1 and (len(self._kept) > self._most_events or self._size > self._most_bytes):
            self._size -= len(self._kept.popleft())


@attrs.define(eq=False)
class Viewer:
    """One viewer of a run."""

    log: EventLog
    seen: int
    """The number of the last event that it has taken, or had seen before it joined."""
    is_over: bool = attrs.field(default=False, init=False)
    """Whether nothing follows what `take` has returned."""
    is_dropped: bool = attrs.field(default=False, init=False)
    """Whether it was too slow."""
    _has_begun: bool = attrs.field(default=False, init=False)
    _taken: deque[bytes] = attrs.field(factory=deque[bytes], init=False)

    def take(self) -> bytes:
        """Return the next events, once those before are sent; empty if there are none yet."""
        if not self._taken:
            self._take_all()
        pieces, size = list[bytes](), 0
        while self._taken and size < PIECE:
            pieces.append(self._taken.popleft())
            size += len(pieces[-1])
        self.is_over = not self._taken and (self.is_dropped or (self.log.is_ended and self.seen == self.log.last))
        return b"".join(pieces)

    def _take_all(self) -> None:
        log = self.log
        missed = log.dropped - self.seen
        if missed > 0 and self._has_begun:
            self.is_dropped = True
            self._taken.append(frame(json_bytes(SLOW), DROPPED))
            return
        if missed > 0:
            self._taken.append(frame(json_bytes({"missed": missed}), GAP))
        self._has_begun = True
        self._taken.extend(log.after(self.seen))
        self.seen = log.last
