"""Keep the last pieces of one stream, numbered, and hand them to its viewers. Pure.

Rule 1: numbers begin with 1. The last pieces are kept, within a number and a size, and at least the newest.
Rule 2: a viewer gets the kept pieces after the one that it has seen, in their order. `gap_piece` comes first, if pieces
    before them are no longer kept.
Rule 3: a viewer takes all that is there at once. If pieces that it has not taken are no longer kept when it has sent
    the taken ones, `dropped_piece` follows, and nothing more. So a slow viewer holds no more than the log does.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Final

import attrs

PIECE: Final = 64 * 1024
"""The bytes of several pieces that are sent at once."""


class PieceLog:
    """The pieces of one stream, and its viewers."""

    def __init__(self, most_pieces: int, most_bytes: int) -> None:
        self._most_pieces = most_pieces
        self._most_bytes = most_bytes
        self._kept: deque[bytes] = deque()
        self._size = 0
        self.last: int = 0
        """The number of the newest piece; 0 before the first."""
        self.is_ended = False
        """Whether no piece follows."""
        self.viewers: set[Viewer] = set()
        """The viewers that have joined, and have not left."""

    @property
    def dropped(self) -> int:
        """How many of the first pieces are no longer kept."""
        return self.last - len(self._kept)

    def fits(self, size: int) -> bool:
        """Whether a piece of this size drops none of those that are kept; a first one of any size drops none."""
        if not self._kept:
            return True
        return len(self._kept) < self._most_pieces and self._size + size <= self._most_bytes

    def append(self, piece: bytes) -> None:
        """Add a piece."""
        self._kept.append(piece)
        self._size += len(piece)
        self.last += 1
        while len(self._kept) > 1 and (len(self._kept) > self._most_pieces or self._size > self._most_bytes):
            self._size -= len(self._kept.popleft())

    def join(self, seen: int = 0) -> Viewer:
        """Add a viewer that has seen the pieces up to this number."""
        viewer = Viewer(self, seen)
        self.viewers.add(viewer)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Remove a viewer."""
        self.viewers.discard(viewer)

    def after(self, number: int) -> list[bytes]:
        """Return the kept pieces after this number."""
        return [*islice(reversed(self._kept), self.last - number)][::-1]

    def gap_piece(self, missed: int) -> bytes | None:
        """Return what a viewer gets in place of pieces that were dropped before it came; None: it is too slow then."""
        return None

    def dropped_piece(self) -> bytes:
        """Return the last that a viewer gets that was too slow."""
        return b""


@attrs.define(eq=False)
class Viewer:
    """One viewer of a stream."""

    log: PieceLog
    seen: int
    """The number of the last piece that it has taken, or had seen before it joined."""
    is_over: bool = attrs.field(default=False, init=False)
    """Whether nothing follows what `take` has returned."""
    is_dropped: bool = attrs.field(default=False, init=False)
    """Whether it was too slow."""
    _has_begun: bool = attrs.field(default=False, init=False)
    _taken: deque[bytes] = attrs.field(factory=deque[bytes], init=False)

    def take(self) -> bytes:
        """Return the next pieces, once those before are sent; empty if there are none yet."""
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
        if missed > 0:
            gap = None if self._has_begun else log.gap_piece(missed)
            if gap is None:
                self.is_dropped = True
                self._taken.append(log.dropped_piece())
                return
            self._taken.append(gap)
        self._has_begun = True
        self._taken.extend(log.after(self.seen))
        self.seen = log.last
