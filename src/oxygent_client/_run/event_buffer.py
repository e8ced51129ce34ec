"""Buffer received events until the reader takes them.

Rule 1: pure: bytes in, events out, in order.
Rule 2: the end is `event: close`, whatever its data. What follows it is not looked at.
Rule 3: in a stream that names no event at all (servers of 1.0.8 and older) a bare `data: done` is the end too, unless
    another event follows: then an agent said "done". `oxygent_client._run.state` bounds how long that may take.
Rule 4: what is too large ends the stream, after the events before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from oxygent_client._core.errors import TooLargeError
from oxygent_client._core.events import ServerSentEvent
from oxygent_client._core.settings import Limits
from oxygent_client._protocol.messages import CLOSE, LEGACY_DONE
from oxygent_client._protocol.sse import Decoder

LARGE: Final = 256 * 1024
"""Bytes of events that are taken together at most: what is made of them is several times as large."""


class MaybeEnd:
    """A bare `done` that was received before any event was named: the end, or an agent's message (rule 3)."""

    __slots__ = ("sse",)

    def __init__(self, sse: ServerSentEvent) -> None:
        self.sse: Final = sse


Unread: TypeAlias = ServerSentEvent | MaybeEnd
"""An event that was received and not handed out yet."""


def sse_of(unread: Unread) -> ServerSentEvent:
    """The event itself."""
    return unread.sse if isinstance(unread, MaybeEnd) else unread


class EventBuffer:
    """The events of one run between the decoder and the reader.

    `on_received` is called with each event that is decoded.
    """

    __slots__ = (
        *("_close", "_decoder", "_failure", "_limits", "_next", "_on_received", "done", "heartbeats"),
        *("held_bytes", "is_closed", "is_complete", "may_be_large", "ready"),
    )

    def __init__(self, limits: Limits, on_received: Callable[[ServerSentEvent], object] | None = None) -> None:
        self._limits = limits
        self._on_received = on_received
        self._decoder = Decoder(limits)
        self.ready: list[ServerSentEvent] = []
        """Empty once all were handed out; until then some of the first ones were."""
        self._next = 0  # from here on they were not: an empty deque takes 760 bytes of each idle run
        self.done: ServerSentEvent | None = None
        """A bare `done` after the events that are ready: the end, or an event."""
        self._close: ServerSentEvent | None = None  # after them
        self._failure: TooLargeError | None = None
        self.may_be_large = False
        """Whether the ready events were received in a large piece, and so may be too large to be taken at once."""
        self.is_closed = False
        """Whether the reader has reached the close event."""
        self.heartbeats = 0
        """How many comments were received on this connection."""
        self.held_bytes = 0
        """The bytes of an event that is not complete."""
        self.is_complete = False
        """Whether no more bytes are needed: the close event was received, or an event was too large."""

    @property
    def closing(self) -> ServerSentEvent | None:
        """The close event, once it was reached."""
        return self._close if self.is_closed else None

    @property
    def holds_done(self) -> bool:
        """Whether all events were handed out but a bare `done`, which may be the end."""
        return self.done is not None and not self.ready

    @property
    def holds_events(self) -> bool:
        """Whether there are events, or the end, that were not handed out."""
        return bool(self.ready) or self._close is not None

    @property
    def is_within_event(self) -> bool:
        """Whether a part of an event was received, without its end."""
        return self._decoder.is_within_event

    @property
    def leftovers(self) -> tuple[str, str]:
        """As `Decoder.leftovers`."""
        return self._decoder.leftovers

    def feed(self, piece: bytes) -> bool:
        """Decode bytes; returns whether they completed an event."""
        decoder = self._decoder
        unnamed_before = decoder.unnamed_events
        try:
            events = decoder.feed(piece)
        except TooLargeError as error:
            events, self._failure = [*error.events], error
            self.is_complete = True
        self.heartbeats, self.held_bytes = decoder.comments, decoder.held_bytes
        if not events:
            return False
        if len(piece) > LARGE:
            self.may_be_large = True
        if self._on_received is not None:
            for sse in events:
                self._on_received(sse)
        # Whether a bare `done` may be the end depends on the names before it, not on those after it in the same piece.
        unnamed = decoder.unnamed_events - unnamed_before
        if unnamed or self.done is not None or self._close is not None:
            for number, sse in enumerate(events):
                self._add(MaybeEnd(sse) if number < unnamed and sse.data == LEGACY_DONE else sse)
            return True
        for number, sse in enumerate(events):
            if sse.event == CLOSE:
                self._close, self.is_complete = sse, True
                del events[number:]
                break
        if self.ready:
            self.ready += events
        else:
            self.ready = events
        return True

    def put_back(self, events: Iterable[Unread]) -> None:
        """Add, before any bytes are fed, what `take_all` of another buffer returned."""
        self.may_be_large = True
        for unread in events:
            self._add(unread)

    def _add(self, unread: Unread) -> None:
        if self._close is not None:
            return
        sse = sse_of(unread)
        if sse.event == CLOSE:
            self._close, self.is_complete = sse, True
            return
        if self.done is not None:  # it was not the end
            self.ready.append(self.done)
            self.done = None
        if isinstance(unread, MaybeEnd):
            self.done = sse
        else:
            self.ready.append(sse)

    def take(self, most: int) -> list[ServerSentEvent]:
        """The next events, at most `most`, and fewer if they are large.

        The list is empty at the end (`is_closed`), and if more bytes are needed.

        Raises:
            TooLargeError: the next event is too large.
        """
        ready = self.ready
        if not ready:
            if self._close is not None:
                self.is_closed, self.done = True, None
            elif self._failure is not None:
                raise self._failure
            return []
        if self._next or self.may_be_large or len(ready) > most:
            return self._take_some(most)
        self.ready = []
        return ready

    def _take_some(self, most: int) -> list[ServerSentEvent]:
        taken = self.ready[self._next : self._next + most]
        if self.may_be_large:
            del taken[max(_count_small(taken), 1) :]
        self._next += len(taken)
        if self._next == len(self.ready):
            self._start_over()
        return taken

    def _start_over(self) -> None:
        """No event is ready."""
        self.ready, self._next, self.may_be_large = [], 0, False

    def give_back(self, events: Iterable[ServerSentEvent]) -> None:
        """Put events that were taken, the last one first, in front of the others."""
        self.ready[: self._next] = [*events][::-1]
        self._next = 0

    def take_all(self) -> list[Unread]:
        """All events that need no more bytes, up to the close event, which is included."""
        found: list[Unread] = [*self.ready[self._next :]]
        if self.done is not None:
            found.append(MaybeEnd(self.done))
        if self._close is not None:
            found.append(self._close)
            self.is_closed = True
        self._start_over()
        self.done = self._close = None
        return found

    def end(self) -> None:
        """Nothing more will be received: a bare `done` was the end."""
        self.done = None

    def start_anew(self) -> None:
        """The connection is gone, and half an event with it."""
        self.heartbeats = self.held_bytes = 0
        self._decoder = Decoder(self._limits)


def _count_small(events: Sequence[ServerSentEvent]) -> int:
    """Count the first events that are small together."""
    left = LARGE
    for number, sse in enumerate(events):
        left -= len(sse.data)
        if left < 0:
            return number
    return len(events)
