"""Keep the answer, the texts and the last events of a run, within limits.

Rule 1: pure. Each event is noted once, in its order, and dropped events are counted.
Rule 2: what only a reader of `texts` or `partial` needs waits until it is read, or until many events wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from oxygent_client._core.events import (
    Event,
    Partial,
    Progress,
    RemoteErrorEvent,
    ServerSentEvent,
    Text,
    TextDelta,
    Thought,
)
from oxygent_client._core.settings import Limits
from oxygent_client._protocol.messages import to_event
from oxygent_client._protocol.router import Action, SetAnswer

if TYPE_CHECKING:
    from oxygent_client._run.texts import Texts

PLAIN: Final[frozenset[type[Event]]] = frozenset({Progress, TextDelta, Thought})
"""The classes of events that only `texts` and `partial` take note of."""
MOST_WAITING: Final = 64
MOST_BYTES: Final = 64 * 1024
"""How many events wait, and bytes of the stream: what was made of them takes several times the memory."""


class ReceivedEvents:
    """The events that were received so far."""

    __slots__ = (
        *("_dropped", "_events", "_limits", "_most_bytes", "_most_events", "_size", "_texts", "answer", "error"),
        *("problem", "settle_at", "unread", "waiting"),
    )

    def __init__(self, limits: Limits) -> None:
        self.answer: SetAnswer | None = None
        self.unread: str = ""
        """Why the last answer could not be read; empty if it could."""
        self.error: Event | None = None
        """The last error that the remote reported: by a message's type, or by the name of an event without a type."""
        self.problem: str = ""
        """Why the first of the messages that could not be read could not be."""
        self._limits = limits
        self._most_events, self._most_bytes = limits.partial_events, limits.partial_bytes
        # Events are made again when they are looked at: to keep what was parsed takes several times the memory, and
        # fresh memory takes as much time as to parse. Problems may be those of a schema, which is not asked twice.
        self._events: list[ServerSentEvent | Event] = cast("Any", ())  # until events are settled
        self._size = 0
        """Characters of these events."""
        self._dropped = 0
        self._texts: Texts | None = None  # until events are settled
        self.waiting: Final[list[Event]] = []
        """An event of a class in PLAIN that has no problems may be added here; `settle` is to be called soon after."""
        self.settle_at: int = MOST_BYTES
        """With so many bytes of the stream, or `MOST_WAITING` events `waiting`, `settle_some` is to be called."""

    def note(self, event: Event, action: Action) -> None:
        """Add an event, and the action of the router."""
        cls = event.__class__
        if type(action) is SetAnswer:
            self.answer, self.unread = action, ""
        if cls is RemoteErrorEvent or (event.type is None and event.sse.event == "error"):
            self.error = event
        if event.problems and cls is Text:
            self.problem = self.problem or event.problems[0]
            if event.type == "answer":
                self.answer, self.unread = None, event.problems[0]
        self.waiting.append(event)
        if len(self.waiting) >= MOST_WAITING:
            self.settle()

    def settle_some(self, received: int) -> None:
        """Settle what many events, or large ones, wait for; `received` are the bytes of the stream so far."""
        self.settle_at = received + MOST_BYTES
        self.settle()

    def settle(self) -> Texts:
        """Add the waiting events to the texts, which are returned, and to the log."""
        if self._texts is None:
            from oxygent_client._run.texts import Texts

            self._texts, self._events = Texts(), []
        waiting, texts = self.waiting, self._texts
        texts.add(waiting)
        self._events += [event if event.problems else event.sse for event in waiting]
        self._size += sum([len(event.sse.data) for event in waiting])
        waiting.clear()
        if len(self._events) >= 2 * self._most_events or self._size >= 2 * self._most_bytes:
            self._trim()
        return texts

    def _trim(self) -> None:
        """Drop the oldest events beyond the limits. It is done for many at once: to count bytes takes time."""
        events, left = self._events, self._most_bytes
        first = len(events)
        while first and len(events) - first < self._most_events:
            size = len(_sse(events[first - 1]).data.encode())
            if size > left:
                break
            first, left = first - 1, left - size
        del events[:first]
        self._dropped += first
        self._size = self._most_bytes - left

    def _event(self, kept: ServerSentEvent | Event) -> Event:
        return kept if isinstance(kept, Event) else to_event(kept, self._limits)

    def drop(self, count: int) -> None:
        """Count events that were received and are lost."""
        self._dropped += count

    @property
    def texts(self) -> Texts:
        """The texts of the agents."""
        return self.settle()

    @property
    def has_answer(self) -> bool:
        """Whether an answer was received, even if it could not be read."""
        return self.answer is not None or bool(self.unread)

    @property
    def last(self) -> Event | None:
        """The last event; None before the first."""
        self.settle()
        return self._event(self._events[-1]) if self._events else None

    @property
    def count(self) -> int:
        """The number of received events."""
        return len(self._events) + len(self.waiting) + self._dropped

    @property
    def partial(self) -> Partial:
        """The received events as a value."""
        texts = self.settle()
        self._trim()
        answer = self.answer.output if self.answer else None
        events = tuple(map(self._event, self._events))
        return Partial(events=events, text=texts.text, answer=answer, dropped=self._dropped)


def _sse(kept: ServerSentEvent | Event) -> ServerSentEvent:
    return kept.sse if isinstance(kept, Event) else kept
