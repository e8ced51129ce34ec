"""Keep unread events of a detached run for its next reader.

A real server hands out each event once, so events that a reader has received and not read exist nowhere else.

Rule 1: the next reader gets them first, in their order, including the end of the run.
Rule 2: the table is bounded in runs, events and bytes. The oldest events are dropped first, and counted.
Rule 3: the table belongs to one process and is shared by its threads; a forked child begins with an empty one.
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

MIB: Final = 1024 * 1024


@attrs.define(eq=False)
class UnreadRun:
    """The unread events of one run."""

    events: deque[Unread] = attrs.field(factory=deque[Unread])
    dropped: int = 0
    """The number of events that were received and could not be kept."""


@attrs.define(kw_only=True)
class UnreadEvents:
    """The unread events of the runs of this process."""

    runs: int = 1000
    events: int = 20_000
    bytes: int = 32 * MIB
    """The limits of all runs together; `bytes` are the characters of the events' data."""
    _rests: OrderedDict[tuple[str, str], UnreadRun] = attrs.field(
        factory=OrderedDict[tuple[str, str], UnreadRun], init=False
    )
    _held_events: int = attrs.field(default=0, init=False)
    _held_bytes: int = attrs.field(default=0, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def put(self, base_url: str, remote: str, events: Iterable[Unread], *, dropped: int = 0) -> int:
        """Keep `events` of the run with the id `remote`; return how many were dropped, including `dropped` before.

        The table has no events of this run: its reader has taken them.
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
        """Return the unread events of a run, and remove them from the table."""
        with self._lock:
            rest = self._rests.pop((server_identity(base_url), remote), None)
            if rest is None:
                return UnreadRun()
            self._forget(rest)
            return rest

    def forget(self) -> None:
        """Remove all events."""
        with self._lock:
            self._rests.clear()
            self._held_events = self._held_bytes = 0

    def after_fork(self) -> None:
        """Remove all events in a forked child: its parent hands them out."""
        self._lock = threading.Lock()  # another thread may have held it at that moment
        self.forget()

    def _forget(self, rest: UnreadRun) -> None:
        self._held_events -= len(rest.events)
        self._held_bytes -= sum(map(_size, rest.events))

    def _shorten(self, rest: UnreadRun) -> None:
        """Drop the oldest events of this run until there is room."""
        while rest.events and (self._held_events > self.events or self._held_bytes > self.bytes):
            self._held_bytes -= _size(rest.events.popleft())
            self._held_events -= 1
            rest.dropped += 1


def _size(event: Unread) -> int:
    return len(sse_of(event).data)


UNREAD_EVENTS: Final = UnreadEvents()
"""The unread events of this process."""
if hasattr(os, "register_at_fork"):  # pragma: no branch  (absent on Windows)
    os.register_at_fork(after_in_child=UNREAD_EVENTS.after_fork)
