"""Keep unread events of a detached run for its next reader.

A real server hands out each event once: what a reader has received and leaves unread is nowhere else. So:

Rule 1: what one reader leaves, the next one has first, in its order, the end of the run too.
Rule 2: the table is bounded in runs, events and bytes. The oldest events go first, and each that goes is counted.
Rule 3: the table is of one process and shared by its threads; a forked child begins with none.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Final

import attrs

from oxygent_client._core.server_identity import server_identity
from oxygent_client._run.event_buffer import Unread, sse_of

__all__ = ["UNREAD_EVENTS", "UnreadEvents", "UnreadRun"]

MIB: Final = 1024 * 1024


@attrs.define(eq=False)
class UnreadRun:
    """What one reader left of a run."""

    events: deque[Unread] = attrs.field(factory=deque[Unread])
    dropped: int = 0
    """How many events were received, and could not be kept."""


@attrs.define(kw_only=True)
class UnreadEvents:
    """What was left of the runs of this process."""

    runs: int = 1000
    events: int = 20_000
    bytes: int = 32 * MIB
    """How much is kept at the most, of all runs together; `bytes` are the characters of the events' data."""
    _rests: OrderedDict[tuple[str, str], UnreadRun] = attrs.field(
        factory=OrderedDict[tuple[str, str], UnreadRun], init=False
    )
    _held_events: int = attrs.field(default=0, init=False)
    _held_bytes: int = attrs.field(default=0, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def put(self, base_url: str, remote: str, events: Iterable[Unread], *, dropped: int = 0) -> int:
        """Keep `events` of the run that this server calls `remote`; how many were dropped, `dropped` of them before.

        There is nothing of this run in the table: its reader had taken it.
        """
        rest = UnreadRun(deque(events), dropped)
        if not rest.events and not dropped:
            return 0
        with self._lock:
            self._rests[server_identity(base_url), remote] = rest
            self._held_events += len(rest.events)
            self._held_bytes += sum(map(_size, rest.events))
            while len(self._rests) > self.runs:
                self._forget(self._rests.popitem(last=False)[1])
            oldest = iter([*self._rests.values()])
            while self._held_events > self.events or self._held_bytes > self.bytes:
                self._shorten(next(oldest))
            return rest.dropped

    def take(self, base_url: str, remote: str) -> UnreadRun:
        """What was left of this run, which is in the table no more."""
        with self._lock:
            rest = self._rests.pop((server_identity(base_url), remote), None)
            if rest is None:
                return UnreadRun()
            self._forget(rest)
            return rest

    def forget(self) -> None:
        """Keep nothing any more."""
        with self._lock:
            self._rests.clear()
            self._held_events = self._held_bytes = 0

    def after_fork(self) -> None:
        """Leave all to the parent process: two would hand out the same events."""
        self._lock = threading.Lock()  # another thread may have held it at that moment
        self.forget()

    def _forget(self, rest: UnreadRun) -> None:
        self._held_events -= len(rest.events)
        self._held_bytes -= sum(map(_size, rest.events))

    def _shorten(self, rest: UnreadRun) -> None:
        """Drop the oldest events of this run, until there is room or none is left."""
        while rest.events and (self._held_events > self.events or self._held_bytes > self.bytes):
            self._held_bytes -= _size(rest.events.popleft())
            self._held_events -= 1
            rest.dropped += 1


def _size(event: Unread) -> int:
    return len(sse_of(event).data)


UNREAD_EVENTS: Final = UnreadEvents()
"""Those of this process."""
if hasattr(os, "register_at_fork"):  # pragma: no branch  (absent on Windows)
    os.register_at_fork(after_in_child=UNREAD_EVENTS.after_fork)
