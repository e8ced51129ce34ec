"""Read the events of one run, over as many connections as needed.

It does the I/O that `oxygent_client._run.state` asks for; the state of the run is there.

Rule 1: nothing waits forever: each read has a deadline, and the time is looked at after each piece. There is a
    checkpoint at least every CHECKPOINT_EVERY pieces and events, since else a flood would let no cancellation through.
Rule 2: cancellation passes through, and no cancel scope is held across two calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import anyio
import attrs
from anyio.lowlevel import checkpoint

from oxygent_client._core.errors import (
    ConnectError,
    ConnectionLostError,
    OxyError,
    RateLimitedError,
    RemoteProtocolError,
    ServerError,
)
from oxygent_client._core.events import ServerSentEvent
from oxygent_client._core.ids import uniform
from oxygent_client._core.log import log_event
from oxygent_client._core.transport import Context, HTTPRequest, redact_url
from oxygent_client._run.config import RunConfig
from oxygent_client._run.connection import RunConnection
from oxygent_client._run.recovery import RecordRecovery
from oxygent_client._run.state import ASKING, RunState, Verdict, how_it_ended
from oxygent_client._run.waits import Scope
from oxygent_client.telemetry._observers import RunObservation

CHECKPOINT_EVERY: Final = 64
GATHER_PAUSE: Final = 0.1
GATHER_SECONDS: Final = 1.0
GATHER_BYTES: Final = 1024 * 1024
"""What is still read when a reader leaves a detached run: pieces that follow each other within these bounds. A pause of
0.02 s lost events of a real server on a busy machine, which was just emptying a queue of 300."""
PASSING: Final = (ConnectError, ConnectionLostError, RateLimitedError, RemoteProtocolError, ServerError)
"""Errors after which a detached run is attached to again."""
SOON: Final = 60.0
"""Seconds before the record is to be looked up within which a read is not cancelled for that, so that the connection is
kept. Heartbeats are more frequent, so only without them a longer wait loses its connection."""


class StillWaiting(Exception):
    """No event was received in time; the wait goes on (`oxygent_client._run.keepalive`)."""


class _HeaderWatch:
    """Interrupts a wait when `idle` fires, which counts while a request waits for its headers."""

    __slots__ = ("_idle", "_now", "sent", "wait")

    wait: Scope

    def __init__(self, now: Callable[[], float], idle: float | None) -> None:
        self._now = now
        self._idle = idle or math.inf
        self.sent = now()
        """When a request was sent."""

    def __call__(self, on: bool) -> None:
        if on:
            self.sent = self._now()
        self.wait.deadline = self.sent + self._idle if on else math.inf


@attrs.define(eq=False, repr=False, kw_only=True)
class EventReader:
    """Does the I/O of one run."""

    config: RunConfig
    context: Context
    state: RunState
    connection: RunConnection
    observed: RunObservation
    now: Callable[[], float] = anyio.current_time
    """The clock of the event loop."""
    left: int = attrs.field(default=CHECKPOINT_EVERY, init=False)
    """How many pieces and events may follow before the next checkpoint."""

    @property
    def recovery(self) -> RecordRecovery:
        """Looks up the run's record: most runs need none."""
        return RecordRecovery(self.config, self.connection, self.state)

    async def breathe(self) -> None:
        """Let other tasks run, and a cancellation through."""
        self.left = CHECKPOINT_EVERY
        await checkpoint()

    async def open(self, before_lookup: Callable[[], object] | None = None) -> None:
        """Request the stream. The record may say instead how the run ended.

        `before_lookup` is called before the record is looked up.

        Raises:
            OxyError: there is no event stream.
        """
        state = self.state
        watch = _HeaderWatch(self.now, state.timeouts.idle)
        with self.connection.part() as watch.wait:
            state.tracker.watch = watch
            try:
                state.request_sent(self.now())
                self._note_open(await self.connection.open())
            finally:
                state.tracker.watch = None
        state.restart(self.now(), watch.sent)
        if watch.wait.cancelled_caught:
            if before_lookup is not None:
                before_lookup()
            if await self._follow("idle"):
                raise state.timeout_error("idle", "; the record says that the run is at work")

    def _note_open(self, sent: HTTPRequest) -> None:
        observed, seconds = self.observed, self.now() - self.state.began
        if observed.headers_after is None:  # a reconnect brings headers again
            observed.headers_after = seconds
        observed.note("streaming", self.context, {"url": redact_url(sent.url), "seconds": seconds})

    async def next(self) -> list[ServerSentEvent]:
        """Wait for the next events: an empty list if the run has ended, by its stream or by its record.

        Raises:
            OxyError: the stream ended before the run, or a time-out fired.
        """
        state, connection, observed = self.state, self.connection, self.observed
        if self.left <= 0:
            await self.breathe()  # before the program waits: other tasks may take long
        now, has_piece = self.now(), False
        state.ask(now)
        try:
            while True:
                if self.left <= 0:
                    await self.breathe()
                    now = self.now()
                events = state.next_events(now, self.left)
                if events is not None:
                    return events
                deadline, clock = state.need()
                if connection.chunks is None:  # all that was kept of a detached run is handed out
                    goes_on = await self._connect()
                elif deadline <= now and (has_piece or clock == "record"):
                    # There was no event in the piece; or it was due while there was no connection.
                    goes_on = await self._follow(clock)
                else:
                    is_asking = deadline <= now + SOON and clock in ASKING
                    expired = self._look_up if is_asking and state.timeouts.lookup is not None else None
                    if observed.buffered != (held := state.buffer.held_bytes):
                        observed.counter.hold(observed, held)
                    try:
                        piece = await connection.read(deadline, expired)
                    except (StopAsyncIteration, ConnectionLostError, RemoteProtocolError) as error:
                        goes_on = await self._lost(error)
                    else:
                        now = self.now()
                        if piece is None or state.record is not None:
                            goes_on = await self._interrupted(now)
                        else:
                            self.left -= 1
                            self._receive(piece, now)
                            has_piece = True
                            continue
                if not goes_on:
                    break
                now, has_piece = self.now(), False
        except OxyError as error:
            if await self.recovery.recovers(error):
                return []
            raise
        state.buffer.end()
        return []

    async def _connect(self) -> bool:
        """Open the stream; False if the record says how the run ended."""
        state, connection = self.state, self.connection
        with connection.waiting(state.deadline):
            await self.open()
            return state.record is None
        raise connection.refusal or state.timeout_error("total")

    async def _interrupted(self, now: float) -> bool:
        """A read has ended for a time-out, or the record was found meanwhile; whether the run goes on."""
        state = self.state
        if state.record is not None:
            return False
        self.connection.check_left()
        state.count(now)
        _, clock = state.need()
        return await self._follow(clock)

    def _receive(self, piece: bytes, now: float) -> None:
        observed, state, size = self.observed, self.state, len(piece)
        observed.bytes += size
        if state.receive_data(piece, now):
            who = self.context.sent.shown(self.connection.answered_by, 60)
            text = "a proxy buffers the stream: it was held back (answered by: %s)"
            log_event("warning", self.context, text, who)
        if observed.first_event_after is None:
            self._note_first(now)
        buffer = state.buffer
        if observed.buffered or buffer.held_bytes or len(buffer.ready) > 1:  # a piece of one event is handed out now
            observed.counter.hold(observed, observed.buffered + size)

    def _note_first(self, now: float) -> None:
        """Note the first bytes, and the first event."""
        observed, seconds = self.observed, now - self.state.began
        if observed.first_byte_after is None:
            observed.first_byte_after = seconds
            observed.note("first_byte", self.context, {"seconds": seconds})
        if not self.state.is_silent:
            observed.first_event_after = seconds
            log_event("first_event", self.context, "received the first event", seconds=seconds)

    async def gather(self) -> None:
        """Receive what is on its way already to a reader of a detached run who leaves: it would be lost.

        A read that was cancelled has lost its connection, so after that there is nothing to receive.
        """
        chunks, now = self.connection.chunks, self.now()
        if chunks is None or self.connection.is_reading:
            return
        observed, buffer = self.observed, self.state.buffer
        until, most = now + GATHER_SECONDS, observed.bytes + GATHER_BYTES
        with anyio.CancelScope(deadline=now + GATHER_PAUSE, shield=True) as scope:
            try:
                while not buffer.is_complete and now < until and observed.bytes < most:
                    piece = await anext(chunks)
                    observed.bytes += len(piece)
                    buffer.feed(piece)
                    now = self.now()
                    scope.deadline = min(now + GATHER_PAUSE, until)
            except Exception as error:  # noqa: BLE001  (whatever a transport raises: the run is left)
                log_event("debug", self.context, "reading the rest of the stream failed: %s", type(error).__name__)

    # --- time-outs ---

    async def _look_up(self) -> float | None:
        """At the deadline of a read that goes on: the next deadline, or None to interrupt the read."""
        state = self.state
        state.count(self.now())
        _, clock = state.need()
        if clock not in ASKING or not await self._follow(clock):
            return None
        state.resume(self.now())
        deadline, _ = state.need()
        return deadline

    async def _follow(self, clock: str) -> bool:
        """Do what a time-out that fired demands: True if the run goes on, False if it has ended.

        Raises:
            OxyError: it ends the run.
        """
        verdict = self.state.timed_out(clock)
        if verdict is Verdict.RECONNECT:
            return await self._reattach("fell silent")
        if verdict is Verdict.ENDED:
            return False
        record = await self.recovery.look_up(lambda record: record.has_begun)
        if self.state.receive_record(clock, record) is Verdict.KEEP_READING:
            return True
        assert record is not None
        self.recovery.apply(record)
        return False

    # --- no connection ---

    async def _lost(self, end: Exception) -> bool:
        """The stream ended, by an error or without one: False if that was the run's end, True once it has another."""
        error = end if isinstance(end, OxyError) else None
        connection = self.connection
        verdict = self.state.receive_eof(
            error, self.now(), connection.clean, was_interrupted=connection.was_interrupted
        )
        return verdict is Verdict.RECONNECT and await self._reattach(how_it_ended(error))

    async def _reattach(self, how: str) -> bool:
        """Connect to a detached run again; False if its record says that it has ended."""
        state, connection = self.state, self.connection
        state.drop_half_event()
        self.observed.hold(0)
        while True:
            await connection.disconnect()
            pause = uniform(0.5, 1) * state.connection_lost(self.now())
            deadline, clock = state.need()
            log_event("reattach", self.context, "the stream %s; reconnecting in %.2f s", how, pause, seconds=pause)
            with connection.waiting(deadline):
                try:
                    await anyio.sleep(pause)
                    state.request_sent(self.now())
                    self._note_open(await connection.open())
                except PASSING as error:
                    how = f"could not be had ({error})"
                else:
                    state.connection_restored(self.now())
                    return True
            now = self.now()
            state.count(now)
            if now >= deadline and not await self._follow(clock):
                return False
