"""Keep the answer, the texts and the last events of a run, within limits.

Rule 1: pure. Each event is noted once, in its order, and dropped events are counted.
Rule 2: what only a reader of `texts` or `partial` needs waits until it is read, or until the last event of a piece is
    handed out. To wait for longer would keep what was parsed: memory that is cold when it is touched again, and that
    the garbage collector looks at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, cast

from oxygent_client._core.events import (
    Event,
    Partial,
    Progress,
    RemoteErrorEvent,
    Text,
    TextDelta,
    Thought,
    new_sse,
)
from oxygent_client._core.settings import Limits
from oxygent_client._protocol.messages import to_event
from oxygent_client._protocol.router import Action, SetAnswer

if TYPE_CHECKING:
    from oxygent_client._run.texts import Texts

PLAIN: Final[frozenset[type[Event]]] = frozenset({Progress, TextDelta, Thought})
"""The classes of events that only `texts` and `partial` take note of."""
FIELDS: Final = 4
"""So many of an event are kept: its name (the event itself, if it has problems), its data, its id and `retry`."""
MOST_WAITING: Final = 64
"""How many events wait: what was made of them takes several times the memory."""


class ReceivedEvents:
    """The events that were received so far."""

    __slots__ = (
        *("_dropped", "_kept", "_limits", "_most_kept", "_most_size", "_size", "_texts", "answer", "error"),
        *("problem", "unread", "waiting"),
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
        # The events that are kept are trimmed when there are twice as many: to count bytes takes time.
        self._most_kept, self._most_size = 2 * FIELDS * limits.partial_events, 2 * limits.partial_bytes
        # Events are made again when they are looked at: to keep what was parsed takes several times the memory, and
        # fresh memory takes as much time as to parse. Problems may be those of a schema, which is not asked twice.
        # The fields of the server-sent events, one after the other: the garbage collector walks objects, not texts.
        self._kept: list[Any] = cast("Any", ())  # until events are settled
        self._size = 0
        """Characters of these events."""
        self._dropped = 0
        self._texts: Texts | None = None  # until events are settled
        self.waiting: Final[list[Event]] = []
        """An event of a class in PLAIN that has no problems may be added here; `settle` is to be called soon after."""

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
        if event.problems:
            self.settle()
            if self._kept:  # else it was too large to be kept
                self._kept[-FIELDS] = event
        elif len(self.waiting) >= MOST_WAITING:
            self.settle()

    def settle(self) -> Texts:
        """Add the waiting events to the texts, which are returned, and to the log."""
        if self._texts is None:
            from oxygent_client._run.texts import Texts

            self._texts, self._kept = Texts(), []
        waiting, texts, kept, size = self.waiting, self._texts, self._kept, self._size
        texts.add(waiting)
        for event in waiting:  # an `attrgetter` takes three times as long
            sse = event.sse
            data = sse.data
            kept += (sse.event, data, sse.id, sse.retry)
            size += len(data)
        self._size = size
        waiting.clear()
        if len(kept) >= self._most_kept or size >= self._most_size:
            self._trim()
        return texts

    def _trim(self) -> None:
        """Drop the oldest events beyond the limits."""
        kept, limits = self._kept, self._limits
        first = max(len(kept) // FIELDS - limits.partial_events, 0)
        self._size = sum(map(len, map(str.encode, kept[FIELDS * first + 1 :: FIELDS])))
        while self._size > limits.partial_bytes:
            self._size -= len(kept[FIELDS * first + 1].encode())
            first += 1
        del kept[: FIELDS * first]
        self._dropped += first

    def _events(self, first: int = 0) -> Iterator[Event]:
        """The events that are kept, without so many of the first ones; a negative number is that of the last ones."""
        kept = iter(self._kept[FIELDS * first :])
        for event, data, id_, retry in zip(kept, kept, kept, kept, strict=True):
            yield event if isinstance(event, Event) else to_event(new_sse(event, data, id_, retry), self._limits)

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
        return next(self._events(-1), None)

    @property
    def count(self) -> int:
        """The number of received events."""
        return len(self._kept) // FIELDS + len(self.waiting) + self._dropped

    @property
    def partial(self) -> Partial:
        """The received events as a value."""
        texts = self.settle()
        self._trim()
        answer = self.answer.output if self.answer else None
        return Partial(events=tuple(self._events()), text=texts.text, answer=answer, dropped=self._dropped)
