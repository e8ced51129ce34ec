"""`RunState`: the state of one run. No I/O; the time is an argument.

The caller does the I/O and reports it (`receive_data`, `receive_eof`, `timed_out`, `receive_record`). `next_events`
gives the next events; where there are none yet, `need` gives the time until which to wait for them.

Rule 1: each time-out of `Timeouts` has its error. What counts is time spent waiting: while the program holds an event
    nothing counts but `total`.
Rule 2: an end without a close event is an error. After a bare `done` (`oxygent_client._run.event_buffer`) the end of
    the stream is the end of the run, and so are LEGACY_SILENCE seconds without an event once there is an answer.
Rule 3: when `idle` fires, the server's record tells a run that ended, or works quietly, from one that died: its record
    does not change from one firing to the next.
Rule 4: a detached run is only listened to: when its connection breaks, the answer is to reconnect.
"""

from __future__ import annotations

import enum
import math
import operator
from typing import TYPE_CHECKING, Final

from oxygent_client._core.errors import (
    DeadlineExceededError,
    IdleTimeoutError,
    IncompleteStreamError,
    Outcome,
    OxyError,
    OxyTimeoutError,
    SilenceTimeoutError,
)
from oxygent_client._core.events import Partial, ServerSentEvent
from oxygent_client._core.redaction import Redactor
from oxygent_client._core.settings import Limits, Timeouts
from oxygent_client._run.event_buffer import EventBuffer
from oxygent_client._run.outcome import OutcomeTracker
from oxygent_client._run.received import ReceivedEvents
from oxygent_client._run.reconnect import ReconnectState
from oxygent_client._run.reported_errors import early_end_error

if TYPE_CHECKING:
    from oxygent_client._protocol.run_record import RunRecord

LEGACY_SILENCE: Final = 2.0
"""Seconds without an event after which a bare `data: done`, after an answer, was the end."""
HELD_SECONDS: Final = 1.0
"""How long a piece with several heartbeats must have been waited for; a server sends one every 15 s."""
ASKING: Final = ("idle", "record")
"""Time-outs upon which the server's record is looked up."""

ERRORS: Final[dict[str, tuple[type[OxyTimeoutError], str]]] = {
    "total": (DeadlineExceededError, "the call did not come to its end"),
    "idle": (IdleTimeoutError, "no event"),
    "silence": (SilenceTimeoutError, "not a byte"),
}
"""The error of each time-out, by its name in `Timeouts`."""


class Verdict(enum.Enum):
    """What the caller does next."""

    KEEP_READING = enum.auto()
    CHECK_RECORD = enum.auto()
    RECONNECT = enum.auto()
    ENDED = enum.auto()


_first: Final = operator.itemgetter(0)


class RunState:
    """The state of one run; `attached` if it is a detached run, which was started before."""

    __slots__ = (
        *("_counted", "_fingerprint", "_idle", "_quiet_since", "_requested", "_silence", "_since", "began"),
        *("buffer", "deadline", "is_astray", "is_silent", "received", "reconnect", "record", "timeouts"),
        *("tracker", "was_held_back"),
    )

    def __init__(self, timeouts: Timeouts, limits: Limits, *, attached: bool = False) -> None:
        self.timeouts = timeouts
        self._idle = math.inf if timeouts.idle is None else timeouts.idle
        self._silence = math.inf if timeouts.silence is None else timeouts.silence
        self.tracker = OutcomeTracker(Outcome.STARTED if attached else Outcome.NOT_SENT)
        self.received = ReceivedEvents(limits)
        self.reconnect = ReconnectState() if attached else None
        self.buffer = EventBuffer(limits, self.reconnect.heard if self.reconnect else None)
        self.record: RunRecord | None = None
        """The record that gave the run's result, where its stream did not."""
        self.is_astray = False
        """Whether the stream turned out to be that of another run."""
        self.was_held_back = False
        """Whether a proxy kept the stream until it had much of it."""
        self.is_silent = True
        """Whether no event was received so far."""
        self.deadline = math.inf
        """When `total` fires."""
        self.began = 0.0
        self._counted = 0.0  # until when the caller has waited
        self._quiet_since = 0.0  # since when no event was received, as if the caller had waited all the time
        self._since = 0.0  # since when no byte was received, of the time spent waiting
        self._requested: float | None = None  # when, until the first bytes: a proxy may hold back the headers, too
        self._fingerprint: int | None = None  # of the record when `idle` fired last, if no event was received since

    # --- results ---

    @property
    def outcome(self) -> Outcome:
        """What is known of the run so far."""
        return self.tracker.outcome

    @property
    def partial(self) -> Partial:
        """What was received so far, within limits."""
        return self.received.partial

    @property
    def is_closed(self) -> bool:
        """Whether the reader has reached the close event."""
        return self.buffer.is_closed

    # --- inputs ---

    def start(self, now: float) -> None:
        """The run begins."""
        self.began = now
        if self.timeouts.total is not None:
            self.deadline = now + self.timeouts.total

    def request_sent(self, now: float) -> None:
        """A request for the stream is on its way."""
        self._requested = now

    def restart(self, now: float, since: float) -> None:
        """The stream begins, or was waited for in vain; the time without an event counts from `since`."""
        self._counted = now
        self._quiet_since = since

    def ask(self, now: float) -> None:
        """The program asks for events: only `total` counts what it has done since the last ones."""
        self._quiet_since += now - self._counted
        self._counted = self._since = now

    def resume(self, now: float) -> None:
        """The caller waits from now on."""
        self._quiet_since += now - self._counted
        self._counted = now

    def count(self, now: float) -> None:
        """The caller has waited until now."""
        self._counted = now

    @property
    def _without_event(self) -> float:
        """Seconds without an event, of those spent waiting."""
        return self._counted - self._quiet_since

    def receive_data(self, piece: bytes, now: float) -> bool:
        """Bytes were received; `next_events` gives the events in them.

        Returns whether they are the first sign that a proxy holds back the stream (`was_held_back`).
        """
        self._counted = now
        buffer = self.buffer
        beats = buffer.heartbeats
        if buffer.feed(piece):
            if self.is_silent:
                self.is_silent = False
                self.tracker.know(Outcome.STARTED)
            self._quiet_since = now
            self._fingerprint = None
        is_sign = False
        if buffer.heartbeats - beats > 1 and not self.was_held_back:
            since = self._since if self._requested is None else self._requested
            # Several at once, and not because the program did not read.
            is_sign = self.was_held_back = now - since > HELD_SECONDS
        self._requested = None
        self._since = now
        return is_sign

    def receive_eof(self, error: OxyError | None, now: float, clean: Redactor, *, was_interrupted: bool) -> Verdict:
        """The stream ended, by `error` or without one. `clean` redacts what an error quotes.

        Raises:
            OxyError: the run was cut off.
        """
        if self.buffer.holds_done:
            return Verdict.ENDED
        self.count(now)
        if was_interrupted:  # a library does not go on with a read that was cancelled: that lost the connection
            raise self.timeout_error("idle", "; the record says that the run is at work") from None
        if self.reconnect is not None:
            return Verdict.RECONNECT
        raise early_end_error(how_it_ended(error), self.received, self.buffer.leftovers, clean) from error

    def timed_out(self, clock: str) -> Verdict:
        """A time-out fired.

        Raises:
            OxyTimeoutError: it ends the run.
        """
        if clock == "legacy":
            return Verdict.ENDED
        if clock == "silence" and self.reconnect is not None:
            return Verdict.RECONNECT
        if clock in ASKING:
            return Verdict.CHECK_RECORD
        raise self.timeout_error(clock)

    def receive_record(self, clock: str, record: RunRecord | None) -> Verdict:
        """The server's record (None: it has none) was looked up because `clock` fired.

        Raises:
            OxyError: the run is dead, or was never there.
        """
        again = self.reconnect
        has_begun = record is not None and record.has_begun
        if has_begun:
            self.tracker.know(Outcome.STARTED)
        if record is not None and record.is_over:
            if clock == "record" and again is not None and not again.is_over(self._without_event):
                return Verdict.KEEP_READING  # its last events may be on their way
            return Verdict.ENDED
        if again is not None:
            again.goes_on(self._without_event, known=record is not None)
        if clock == "idle":
            if record is None or not has_begun:
                raise self._unknown_run(record)
            before, self._fingerprint = self._fingerprint, record.fingerprint
            if before == self._fingerprint:
                more = ", twice, and meanwhile nothing moved in the server's record of the run"
                raise self.timeout_error("idle", more)
            self._quiet_since = self._counted  # it is at work, and quiet: `total` bounds that
        return Verdict.KEEP_READING

    def connection_lost(self, now: float) -> float:
        """Seconds to pause before reconnecting, without jitter; the part of an event that was received is lost."""
        assert self.reconnect is not None
        self.resume(now)
        return self.reconnect.broke()

    def connection_restored(self, now: float) -> None:
        """The run has a connection again."""
        assert self.reconnect is not None
        self.count(now)
        self.reconnect.came_back(self._without_event)

    def drop_half_event(self) -> None:
        """The connection is gone, and half an event with it."""
        self.received.drop(self.buffer.is_within_event)
        self.buffer.start_anew()

    # --- outputs ---

    def next_events(self, now: float, most: int) -> list[ServerSentEvent] | None:
        """The next events, at most `most`: an empty list if the run is complete, None if more bytes are needed.

        Raises:
            OxyError: `total` is over, or the next event is too large.
        """
        if self.record is not None:
            return []
        if now >= self.deadline:
            raise self.timeout_error("total")
        buffer = self.buffer
        return buffer.take(most) if buffer.ready or buffer.is_complete else None

    def need(self) -> tuple[float, str]:
        """The time-out that fires next if nothing is received: when, by the event loop's clock, and its name.

        That is `total`, `idle`, `silence`, `legacy` (a bare `done` was the end) or `record` (look up the record).
        """
        buffer = self.buffer
        deadline, clock = self.deadline, "total"
        if (at := self._quiet_since + self._idle) < deadline:
            deadline, clock = at, "idle"
        if buffer.heartbeats and (at := self._since + self._silence) < deadline:
            deadline, clock = at, "silence"
        if buffer.done is not None and buffer.holds_done and self.received.has_answer:
            deadline, clock = min((deadline, clock), (self._quiet_since + LEGACY_SILENCE, "legacy"), key=_first)
        if self.reconnect is not None and self.timeouts.lookup is not None and self.reconnect.check is not None:
            deadline, clock = min((deadline, clock), (self._quiet_since + self.reconnect.check, "record"), key=_first)
        return deadline, clock

    def timeout_error(self, clock: str, more: str = "") -> OxyTimeoutError:
        """The error of a time-out."""
        cls, text = ERRORS[clock]
        return cls(f"{text} within Timeouts.{clock} ({getattr(self.timeouts, clock):g} s){more}")

    def _unknown_run(self, record: RunRecord | None) -> OxyError:
        """The error where `idle` fired and no record says why."""
        if self.reconnect is not None and self.reconnect.is_lost:
            return IncompleteStreamError("the connection broke, and nothing came since: the end of the run is lost")
        # A server may be told to store nothing of a run: an empty record says something only if nothing was received.
        # And the run may be at another worker of the same address, so the text does not claim that it never began.
        more = "; the server has no record of the run" if record is not None and self.is_silent else ""
        return self.timeout_error("idle", more)


def how_it_ended(error: OxyError | None) -> str:
    """How a stream ended, as a part of a sentence."""
    return "ended without its close event" if error is None else f"broke off ({error})"
