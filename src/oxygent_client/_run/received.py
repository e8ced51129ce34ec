"""Keep the answer, the texts and the last events of a run, within limits.

Rule: pure. Each event is noted once, in its order, and dropped events are counted.
"""

from __future__ import annotations

from collections import deque

from oxygent_client._core.events import (
    Event,
    Partial,
    RemoteErrorEvent,
    ServerSentEvent,
    Text,
    TextDelta,
    ToolCall,
)
from oxygent_client._core.settings import Limits
from oxygent_client._protocol.messages import to_event
from oxygent_client._protocol.router import Action, SetAnswer
from oxygent_client._run.texts import Texts


class ReceivedEvents:
    """The events that were received so far."""

    def __init__(self, limits: Limits) -> None:
        self.answer: SetAnswer | None = None
        self.unread = ""
        """Why the last answer could not be read; empty if it could."""
        self.error: Event | None = None
        """The last error that the remote reported: by a message's type, or by the name of an event without a type."""
        self.problem = ""
        """Why the first of the messages that could not be read could not be."""
        self._limits = limits
        self._most_events, self._most_bytes = limits.partial_events, limits.partial_bytes
        # Events are made again when they are looked at: to keep what was parsed takes several times the memory, and
        # fresh memory takes as much time as to parse. Problems may be those of a schema, which is not asked twice.
        self._events: deque[ServerSentEvent | Event] = deque()
        self._bytes = 0
        self._dropped = 0
        self.texts = Texts()

    def note(self, event: Event, action: Action) -> None:
        """Add an event, and the action of the router."""
        if isinstance(action, SetAnswer):
            self.answer, self.unread = action, ""
        sse, data = event.sse, event.sse.data
        if isinstance(event, TextDelta):
            self.texts.add_delta(event)
        elif isinstance(event, ToolCall):
            self.texts.add_call(event)
        elif isinstance(event, RemoteErrorEvent) or (sse.event == "error" and event.type is None):
            self.error = event
        if event.problems and isinstance(event, Text):
            self.problem = self.problem or event.problems[0]
            if event.type == "answer":
                self.answer, self.unread = None, event.problems[0]
        events = self._events
        events.append(event if event.problems else sse)
        self._bytes += len(data) if data.isascii() else len(data.encode())
        while len(events) > self._most_events or self._bytes > self._most_bytes:
            oldest = events.popleft()
            data = (oldest.sse if isinstance(oldest, Event) else oldest).data
            self._bytes -= len(data) if data.isascii() else len(data.encode())
            self._dropped += 1

    def _event(self, kept: ServerSentEvent | Event) -> Event:
        return kept if isinstance(kept, Event) else to_event(kept, self._limits)

    def drop(self, count: int) -> None:
        """Count events that were received and are lost."""
        self._dropped += count

    @property
    def has_answer(self) -> bool:
        """Whether an answer was received, even if it could not be read."""
        return self.answer is not None or bool(self.unread)

    @property
    def last(self) -> Event | None:
        """The last event; None before the first."""
        return self._event(self._events[-1]) if self._events else None

    @property
    def count(self) -> int:
        """The number of received events."""
        return len(self._events) + self._dropped

    @property
    def partial(self) -> Partial:
        """The received events as a value."""
        answer = self.answer.output if self.answer else None
        events = tuple(map(self._event, self._events))
        return Partial(events=events, text=self.texts.text, answer=answer, dropped=self._dropped)
