"""The viewers of one stream, and the task that makes it.

Rule 1: the task goes on while it has viewers, and for `grace` seconds without one; then its scope is cancelled.
"""

from __future__ import annotations

import math
from typing import Generic, TypeVar

import anyio
import attrs

from oxygent_client.serve._core.piece_log import PieceLog, Viewer

L = TypeVar("L", bound=PieceLog)


@attrs.define(eq=False)
class Audience(Generic[L]):
    """The viewers of one stream."""

    log: L
    """The pieces of the stream."""
    grace: float
    """Seconds for which the task goes on without viewers."""
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False)
    """The scope of the task."""
    _changed: anyio.Event | None = attrs.field(default=None, init=False)
    """Set when there is another piece; None while no viewer waits for it."""

    def join(self, seen: int = 0) -> Viewer:
        """Add a viewer that has seen the pieces up to this number."""
        self.scope.deadline = math.inf
        return self.log.join(seen)

    def leave(self, viewer: Viewer) -> None:
        """Remove a viewer; after the last one, the grace period begins."""
        self.log.leave(viewer)
        if not self.log.viewers:
            self.wait_for_viewers()

    def wait_for_viewers(self) -> None:
        """Begin the grace period."""
        self.scope.deadline = anyio.current_time() + self.grace

    def notify(self) -> None:
        """Wake the viewers that wait: there is another piece, or the end."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def wait(self) -> None:
        """Wait for another piece."""
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()
