"""Buffer received events until the reader takes them.

Rule 1: pure: bytes in, events out, in their order. It waits for nothing.
Rule 2: the end is `event: close`, whatever its data. What comes after it is not looked at.
Rule 3: in a stream that names no event at all (servers of 1.0.8 and older) a bare `data: done` is the end too, unless
    another event follows: then an agent said "done". How long that may take is `_feed`'s.
Rule 4: what is too large ends the stream, after the events before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import attrs

from oxygent_client._core.errors import TooLargeError
from oxygent_client._core.events import ServerSentEvent
from oxygent_client._core.settings import Limits
from oxygent_client._protocol.messages import CLOSE, LEGACY_DONE
from oxygent_client._protocol.sse import Decoder

__all__ = ["EventBuffer", "Waiting"]


@attrs.frozen
class Waiting:
    """An event that was received and not yet handed out."""

    sse: ServerSentEvent
    may_be_end: bool
    """A bare `done`, and no event was named until then (rule 3)."""


class EventBuffer:
    """The events of one run between the wire and its reader; `heard` is told of each that comes from the wire."""

    def __init__(self, limits: Limits, heard: Callable[[ServerSentEvent], object] | None = None) -> None:
        self._limits = limits
        self._heard = heard
        self._decoder = Decoder(limits)
        self._waiting: deque[Waiting] = deque()
        self._done: ServerSentEvent | None = None
        self._failure: TooLargeError | None = None
        self.is_closed = False
        """Whether the reader has come to the close event."""
        self.closing: ServerSentEvent | None = None
        """That event."""
        self.is_complete = False
        """Whether no more bytes are needed: the close event is among those that came, or one was too large."""

    @property
    def holds_done(self) -> bool:
        """Whether all that came was handed out but a bare `done`: the end, or an agent's word."""
        return self._done is not None

    @property
    def heartbeats(self) -> int:
        """Comments so far, since the last new start."""
        return self._decoder.comments

    @property
    def holds_events(self) -> bool:
        """Whether there are events that were not handed out."""
        return bool(self._waiting)

    @property
    def is_within_event(self) -> bool:
        """Whether a part of an event came, and its end did not."""
        return self._decoder.is_within_event

    @property
    def held_bytes(self) -> int:
        """Bytes of an event that is not complete."""
        return self._decoder.held_bytes

    @property
    def leftovers(self) -> tuple[str, str]:
        """As `Decoder.leftovers`."""
        return self._decoder.leftovers

    def feed(self, piece: bytes) -> bool:
        """Take in bytes; whether they completed an event."""
        before = self._decoder.unnamed_events
        try:
            events = self._decoder.feed(piece)
        except TooLargeError as error:
            events, self._failure = [*error.events], error
            self.is_complete = True
        # Whether a bare `done` may be the end hangs on the names before it, not on those after it in the same piece.
        unnamed = self._decoder.unnamed_events - before
        for number, sse in enumerate(events):
            if self._heard is not None:
                self._heard(sse)
            self.is_complete = self.is_complete or sse.event == CLOSE
            self._waiting.append(Waiting(sse, number < unnamed and sse.data == LEGACY_DONE))
        return bool(events)

    def put_back(self, events: Iterable[Waiting]) -> None:
        """Take in, before any bytes, what `take_all` of another inbox gave."""
        for waiting in events:
            self.is_complete = self.is_complete or waiting.sse.event == CLOSE
            self._waiting.append(waiting)

    def take(self) -> ServerSentEvent | None:
        """The next event; None at the end (`is_closed`), or where more bytes are needed.

        Raises:
            TooLargeError: what came next was.
        """
        while self._waiting:
            first = self._waiting[0]
            if first.sse.event == CLOSE:
                self.is_closed, self.closing, self._done = True, first.sse, None
                return None
            if self._done is not None:
                said, self._done = self._done, None
                return said
            self._waiting.popleft()
            if not first.may_be_end:
                return first.sse
            self._done = first.sse
        if self._failure is not None:
            raise self._failure
        return None

    def take_all(self) -> list[Waiting]:
        """All that can be had without more bytes, up to the close event, which is among it."""
        found = [Waiting(self._done, may_be_end=True)] if self._done is not None else []
        for waiting in self._waiting:
            found.append(waiting)
            if waiting.sse.event == CLOSE:
                self.is_closed = True
                break
        self._waiting.clear()
        self._done = None
        return found

    def end(self) -> None:
        """Nothing more will come: a bare `done` was the end."""
        self._done = None

    def start_anew(self) -> None:
        """The connection is gone, and half an event with it."""
        self._decoder = Decoder(self._limits)
