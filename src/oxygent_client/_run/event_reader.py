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
from oxygent_client._core.transport import Context, redact_url
from oxygent_client._run.config import RunConfig
from oxygent_client._run.connection import RunConnection
from oxygent_client._run.recovery import RecordRecovery
from oxygent_client._run.state import ASKING, Ended, NeedData, RunState, Verdict, how_it_ended
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


@attrs.define(eq=False, repr=False, kw_only=True)
class EventReader:
    """Does the I/O of one run."""

    config: RunConfig
    context: Context
    state: RunState
    connection: RunConnection
    recovery: RecordRecovery
    observed: RunObservation = attrs.field(
        default=attrs.Factory(lambda self: self.config.observed, takes_self=True), init=False
    )
    now: Callable[[], float] = anyio.current_time
    """The clock of the event loop."""
    steps: int = attrs.field(default=0, init=False)
    """Pieces and events since the last checkpoint."""

    async def breathe(self) -> None:
        """Let other tasks run, and a cancellation through."""
        self.steps = 0
        await checkpoint()

    async def open(self, before_lookup: Callable[[], object] | None = None) -> None:
        """Request the stream. The record may say instead how the run ended.

        `before_lookup` is called before the record is looked up.

        Raises:
            OxyError: there is no event stream.
        """
        state = self.state
        sent = self.now()
        with self.connection.waiting() as wait:

            def watch(on: bool) -> None:
                nonlocal sent
                sent = self.now() if on else sent
                wait.deadline = self.now() + (state.timeouts.idle or math.inf) if on else math.inf

            state.tracker.watch = watch
            try:
                await self._open()
            finally:
                state.tracker.watch = None
        state.restart(self.now(), sent)
        if wait.cancelled_caught:
            if before_lookup is not None:
                before_lookup()
            if await self._follow("idle"):
                raise state.timeout_error("idle", "; the record says that the run is at work")

    async def _open(self) -> None:
        self.state.request_sent(self.now())
        sent = await self.connection.open()
        said = {"url": redact_url(sent.url), "seconds": self.now() - self.state.began}
        self.observed.note("streaming", self.context, said)

    async def next(self, need: NeedData, now: float) -> ServerSentEvent | None:
        """Wait for the next event from `now` on; None if the run has ended, by its stream or by its record.

        Raises:
            OxyError: the stream ended before the run, or a time-out fired.
        """
        try:
            while (read := await self._read(need, now)) is not None:
                now = read
                self.steps += 1
                if self.steps >= CHECKPOINT_EVERY:
                    await self.breathe()
                    now = self.now()
                step = self.state.next_event(now, is_waiting=True)
                if isinstance(step, ServerSentEvent):
                    return step
                if isinstance(step, Ended):
                    break
                need = step
        except OxyError as error:
            if await self.recovery.recovers(error):
                return None
            raise
        self.state.buffer.end()
        return None

    # --- bytes ---

    async def _read(self, need: NeedData, now: float) -> float | None:
        """Wait for bytes and decode them; return the time, or None if the run has ended."""
        state, connection = self.state, self.connection
        if connection.chunks is None:  # all that was kept of a detached run is handed out
            with connection.waiting(state.deadline):
                await self.open()
                return None if state.record is not None else self.now()
            raise connection.refusal or state.timeout_error("total")
        self.observed.hold(state.buffer.held_bytes)
        expired = None
        if need.clock in ASKING and need.deadline <= now + SOON:
            if need.clock == "record" and need.deadline <= now:  # it was due while there was no connection
                return self.now() if await self._follow("record") else None
            expired = None if state.timeouts.lookup is None else self._look_up
        was_interrupted = connection.is_reading
        try:
            piece = await connection.read(need.deadline, expired)
        except (StopAsyncIteration, ConnectionLostError, RemoteProtocolError) as error:
            lost = error if isinstance(error, OxyError) else None
            return self.now() if await self._lost(lost, was_interrupted=was_interrupted) else None
        now = self.now()
        if state.record is not None:
            return None
        if piece is None:
            connection.check_left()
            state.count(now)
            return self.now() if await self._follow(state.need().clock) else None
        self._receive(piece, now)
        if state.buffer.holds_events:  # `next_event` looks at `total`, and no other time-out fires then
            return now
        need = state.need()
        if need.deadline > now:
            return now
        return self.now() if await self._follow(need.clock) else None

    def _receive(self, piece: bytes, now: float) -> None:
        observed, state = self.observed, self.state
        if not observed.bytes:
            observed.note("first_byte", self.context, {"seconds": now - state.began})
        observed.bytes += len(piece)
        observed.hold(observed.buffered + len(piece))
        was_silent, was_held_back = state.is_silent, state.was_held_back
        state.receive_data(piece, now)
        if was_silent and not state.is_silent:
            log_event("first_event", self.context, "received the first event", seconds=now - state.began)
        if state.was_held_back and not was_held_back:
            headers = self.connection.headers
            who = self.context.sent.shown(headers.get("via") or headers.get("server", "unknown server"), 60)
            log_event("warning", self.context, "a proxy buffers the stream: it was held back (answered by: %s)", who)

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
        clock = state.need().clock
        if clock not in ASKING or not await self._follow(clock):
            return None
        state.resume(self.now())
        return state.need().deadline

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

    async def _lost(self, error: OxyError | None, *, was_interrupted: bool) -> bool:
        """The stream ended: False if that was the run's end, True once it is attached to again."""
        clean = self.connection.clean
        verdict = self.state.receive_eof(error, self.now(), clean, was_interrupted=was_interrupted)
        return verdict is Verdict.RECONNECT and await self._reattach(how_it_ended(error))

    async def _reattach(self, how: str) -> bool:
        """Connect to a detached run again; False if its record says that it has ended."""
        state, connection = self.state, self.connection
        state.drop_half_event()
        self.observed.hold(0)
        while True:
            await connection.disconnect()
            pause = uniform(0.5, 1) * state.connection_lost(self.now())
            need = state.need()
            log_event("reattach", self.context, "the stream %s; reconnecting in %.2f s", how, pause, seconds=pause)
            with connection.waiting(need.deadline):
                try:
                    await anyio.sleep(pause)
                    await self._open()
                except PASSING as error:
                    how = f"could not be had ({error})"
                else:
                    state.connection_restored(self.now())
                    return True
            now = self.now()
            state.count(now)
            if now >= need.deadline and not await self._follow(need.clock):
                return False
