"""Read the events of one run, over as many connections as needed.

Rule 1: nothing waits forever. One cancel scope per wait for bytes; a look at the clocks on every piece; a checkpoint at
    least every CHECKPOINT_EVERY events, because a loop over what is buffered would else hear no cancellation.
Rule 2: cancellation passes through as it is, and no cancel scope is held across two calls.
Rule 3: an end without its close event is an `IncompleteStreamError`. After a bare `done` (see `_inbox`) the end of the
    stream is an end, and LEGACY_SILENCE too, once an answer came: an agent that said "done" may be at work still, and
    leaving would stop it.
Rule 4: when `idle` fires, the server's record may say that the run ended, or that it is at work. A record that has not
    changed between two such times, without an event, is that of a run that has died.
Rule 5: a detached run is only listened to: whose connection breaks is attached to again, until a clock runs out.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from typing import Final

import anyio
import attrs
from anyio.lowlevel import checkpoint

from oxygent_client._api.records import RunRecord
from oxygent_client._core.errors import (
    ConnectError,
    ConnectionLostError,
    IncompleteStreamError,
    Outcome,
    OxyError,
    RateLimitedError,
    RemoteProtocolError,
    ServerError,
)
from oxygent_client._core.events import ServerSentEvent
from oxygent_client._core.ids import uniform
from oxygent_client._core.log import log_event
from oxygent_client._core.tasks import plain_task_group
from oxygent_client._core.transport import Context, redact_url
from oxygent_client._run.config import RunConfig
from oxygent_client._run.connection import RunConnection
from oxygent_client._run.event_buffer import EventBuffer
from oxygent_client._run.outcome import OutcomeTracker
from oxygent_client._run.received import ReceivedEvents
from oxygent_client._run.reconnect import ReconnectState
from oxygent_client._run.recovery import RecordRecovery
from oxygent_client._run.reported_errors import early_end_error
from oxygent_client._run.timers import Patience, RunTimers

__all__ = ["EventReader"]

CHECKPOINT_EVERY: Final = 64
GATHER_PAUSE: Final = 0.1
GATHER_SECONDS: Final = 1.0
GATHER_BYTES: Final = 1024 * 1024
"""What is still read when a reader leaves a detached run: pieces that come one upon the other, within these bounds.
A pause of 0.02 s lost events of a real server on a busy machine, which was just emptying a queue of 300."""
LEGACY_SILENCE: Final = 2.0
"""Seconds without an event after which a bare `data: done`, after an answer, was the end."""
HELD_SECONDS: Final = 1.0
"""How long a piece with several heartbeats must have been waited for; a server sends one every 15 s."""
PASSING: Final = (ConnectError, ConnectionLostError, RateLimitedError, RemoteProtocolError, ServerError)
"""Errors after which a detached run is attached to again."""
ASKING: Final = ("idle", "record")
"""Clocks at which the record is asked."""
SOON: Final = 60.0
"""Seconds before such a clock runs out within which the connection is kept while the record is asked. That costs more
than the reading itself. Heartbeats come more often, so without them alone a longer wait loses its connection."""


@attrs.define(eq=False, repr=False, kw_only=True)
class EventReader:
    """Reads one run: opens its line, waits for bytes, and gives its events one by one."""

    plan: RunConfig
    context: Context
    line: RunConnection
    inbox: EventBuffer
    clocks: RunTimers
    inquiry: RecordRecovery
    seen: ReceivedEvents
    """What the run has made of the events until now."""
    word: OutcomeTracker
    again: ReconnectState | None
    """What is remembered over the connections of a detached run; None for any other."""
    was_held_back: bool = attrs.field(default=False, init=False)
    """Whether something on the way kept the stream until it had much of it."""
    _is_silent: bool = attrs.field(default=True, init=False)
    _is_reading: bool = attrs.field(default=False, init=False)
    """Whether a read was begun, and gave no bytes."""
    _gave_up: bool = attrs.field(default=False, init=False)
    """Whether a read was called off by `idle`, and the run goes on all the same."""
    _asked: float | None = attrs.field(default=None, init=False)
    """When, until the first piece is there: a proxy may hold back the headers, too."""
    _fingerprint: int | None = attrs.field(default=None, init=False)
    """Of the record when `idle` ran out last, if no event came since."""
    _since_checkpoint: int = attrs.field(default=0, init=False)

    async def open(self, before_asking: Callable[[], object] | None = None) -> None:
        """Ask for the run, or attach to it; there may be its record in the place of a stream.

        `before_asking` is called before the record is asked for.

        Raises:
            OxyError: there is no stream of events.
        """
        sent = anyio.current_time()
        with self.line.waiting() as wait:

            def watch(on: bool) -> None:
                nonlocal sent
                sent = anyio.current_time() if on else sent
                wait.deadline = anyio.current_time() + (self.clocks.timeouts.idle or math.inf) if on else math.inf

            self.word.watch = watch
            try:
                await self._open()
            finally:
                self.word.watch = None
        self.clocks.restart(sent)
        if wait.cancelled_caught:
            if before_asking is not None:
                before_asking()
            if await self._goes_on("idle"):
                raise self.clocks.ran_out("idle", "; the record says that the run is at work")

    async def _open(self) -> None:
        self._asked = anyio.current_time()
        sent = await self.line.open()
        said = {"url": redact_url(sent.url), "seconds": self.clocks.seconds}
        self.plan.observed.note("streaming", self.context, said)

    async def next(self) -> ServerSentEvent | None:
        """The next event; None if the run has come to its end, by its stream or by its record.

        Raises:
            OxyError: the stream ended before the run, or a clock ran out.
        """
        await self._breathe()
        if anyio.current_time() >= self.clocks.deadline:
            raise self.clocks.ran_out("total")
        while (sse := self.inbox.take()) is None and not self.inbox.is_closed:
            if not await self._read():
                self.inbox.end()
                return None
        return sse

    # --- the bytes ---

    async def _read(self) -> bool:
        """Wait for bytes and decode them; False if the run is at its end."""
        clocks, chunks = self.clocks, self.line.chunks
        if chunks is None:  # all that was kept of a detached run is handed out
            with self.line.waiting(clocks.deadline):
                await self.open()
                return self.inquiry.record is None
            raise self.line.refusal or clocks.ran_out("total")
        self.plan.observed.hold(self.inbox.held_bytes)
        began = clocks.resume()
        patience, clock = self._patience(began)
        if clock == "record" and patience <= 0:  # it was due while there was no connection
            return await self._goes_on(clock)
        piece = None
        self._is_reading = True
        try:
            if clock in ASKING and patience <= SOON and self.plan.timeouts.lookup is not None:
                with self.line.waiting():
                    piece, clock = await self._read_and_look(chunks)
            else:
                with self.line.waiting(began + patience) as wait:
                    piece = await anext(chunks)
                self._gave_up = wait.cancelled_caught
        except (StopAsyncIteration, ConnectionLostError, RemoteProtocolError) as error:
            return await self._broke(error if isinstance(error, OxyError) else None)
        self._is_reading = piece is None
        now = clocks.count()
        if self.inquiry.record is not None:
            return False
        if piece is not None:
            self._take_in(piece, since=began if self._asked is None else self._asked)
            self._asked = None
            patience, clock = self._patience(now)
        if piece is None or patience <= 0:
            return await self._goes_on(clock)
        await self._breathe()
        return True

    async def _read_and_look(self, chunks: AsyncIterator[bytes]) -> tuple[bytes | None, str]:
        """The next bytes; None if their time is over, and the clock that says so, or if the record ended the run.

        The record is asked beside the reading, which goes on: of a read that is cancelled, the connection is lost.
        """
        clocks = self.clocks
        piece: bytes | None = None
        clock = ""
        failure: BaseException | None = None
        began = clocks.counted
        async with plain_task_group() as group:

            async def look() -> None:
                nonlocal clock, failure
                try:
                    while True:
                        patience, clock = self._patience(clocks.counted, silent=clocks.counted - began)
                        await anyio.sleep(max(patience, 0.0))
                        await checkpoint()  # bytes that come at this very moment come first
                        clocks.count()
                        if clock not in ASKING or not await self._goes_on(clock):
                            break
                        clocks.resume()
                except Exception as error:  # noqa: BLE001  (a group would wrap it; a hook of the user's may be at work)
                    failure = error
                group.cancel_scope.cancel()

            group.start_soon(look)
            try:
                piece = await anext(chunks)
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001  (likewise, also what Ctrl-C raises)
                failure = error
            group.cancel_scope.cancel()
        if failure is not None and piece is None:
            raise failure
        return piece, clock

    async def gather(self) -> None:
        """Take in what is on its way already to a reader of a detached run who leaves: it would be lost.

        A read that was called off has lost its connection, so after that there is nothing to be had.
        """
        chunks, now = self.line.chunks, anyio.current_time()
        if chunks is None or self._is_reading:
            return
        until, most = now + GATHER_SECONDS, self.plan.observed.bytes + GATHER_BYTES
        with anyio.CancelScope(deadline=now + GATHER_PAUSE, shield=True) as scope:
            try:
                while not self.inbox.is_complete and now < until and self.plan.observed.bytes < most:
                    piece = await anext(chunks)
                    self.plan.observed.bytes += len(piece)
                    self.inbox.feed(piece)
                    now = anyio.current_time()
                    scope.deadline = min(now + GATHER_PAUSE, until)
            except Exception as error:  # noqa: BLE001  (whatever a transport raises: the run is left)
                log_event("debug", self.context, "nothing more could be read: %s", type(error).__name__)

    def _take_in(self, piece: bytes, *, since: float) -> None:
        """Decode `piece`, which was waited for since then."""
        observed, clocks, inbox = self.plan.observed, self.clocks, self.inbox
        if not observed.bytes:
            observed.note("first_byte", self.context, {"seconds": clocks.seconds})
        observed.bytes += len(piece)
        observed.hold(observed.buffered + len(piece))
        came, beats = clocks.counted, inbox.heartbeats
        if inbox.feed(piece):
            if self._is_silent:
                self._is_silent = False
                log_event("first_event", self.context, "the first event came", seconds=clocks.seconds)
            clocks.heard()
            self._fingerprint = None
            self.word.know(Outcome.STARTED)
        else:
            clocks.count()  # bytes that never pause: this is where the time goes
        if inbox.heartbeats - beats > 1 and came - since > HELD_SECONDS and not self.was_held_back:
            # Several heartbeats came at once, and not because nobody had read.
            self.was_held_back = True
            headers = self.line.headers
            who = self.context.sent.shown(headers.get("via") or headers.get("server", "nobody who gives a name"), 60)
            log_event(
                "warning", self.context, "the stream was held back on its way: a proxy buffers it (%s answered)", who
            )

    async def _breathe(self) -> None:
        """Let others run, and cancellation through, now and then."""
        self._since_checkpoint += 1
        if self._since_checkpoint >= CHECKPOINT_EVERY:
            self._since_checkpoint = 0
            await checkpoint()

    # --- no bytes ---

    def _patience(self, now: float, *, silent: float = 0.0) -> Patience:
        """How long to wait for the next bytes, and the clock that says so; `silent` seconds went without a byte."""
        clocks, others = self.clocks, list[Patience]()
        if clocks.timeouts.silence is not None and self.inbox.heartbeats:
            others.append((clocks.timeouts.silence - silent, "silence"))
        if self.inbox.holds_done and (self.seen.answer is not None or self.seen.unread):
            others.append((LEGACY_SILENCE - clocks.waited, "legacy"))
        if self.again is not None and self.again.check is not None and clocks.timeouts.lookup is not None:
            others.append((self.again.check - clocks.waited, "record"))
        return clocks.patience(now, *others)

    async def _goes_on(self, clock: str) -> bool:
        """What a clock that ran out means: True if the run goes on, False if it is at its end, else its error."""
        again, clocks = self.again, self.clocks
        if clock == "legacy":
            return False
        if clock == "silence" and again is not None:
            return await self._reattach(again, "fell silent")
        if clock not in ASKING:
            raise clocks.ran_out(clock)
        record = await self.inquiry.look(lambda record: record.has_begun)
        if record is not None and record.has_begun:
            self.word.know(Outcome.STARTED)
        if record is not None and record.is_over:
            if clock == "record" and again is not None and not again.is_over(clocks.waited):
                return True  # its last events may be on their way
            self.inquiry.settle(record)
            return False
        if again is not None:
            again.goes_on(clocks.waited, known=record is not None)
        if clock == "idle":
            if record is None or not record.has_begun:
                raise self._unheard_of(record)
            before, self._fingerprint = self._fingerprint, record.fingerprint
            if before == self._fingerprint:
                raise clocks.ran_out("idle", ", twice, and meanwhile nothing moved in the server's record of the run")
            clocks.heard()  # it is at work, and quiet: `total` bounds that
        return True

    def _unheard_of(self, record: RunRecord | None) -> OxyError:
        """The error where nothing came for so long, and no record says why."""
        if self.again is not None and self.again.is_lost:
            return IncompleteStreamError("the connection broke, and nothing came since: the end of the run is lost")
        # A server may be told to store nothing of a run: an empty record says something only if nothing came. And the
        # run may be at another worker of the same address, so it is not said that it never began.
        more = "; the server has no record of the run" if record is not None and self._is_silent else ""
        return self.clocks.ran_out("idle", more)

    # --- no connection ---

    async def _broke(self, error: OxyError | None) -> bool:
        """The stream ended by `error`, or without one: False if that was the run's end, True if it was come back to."""
        if self.inbox.holds_done:
            return False
        self.clocks.count()
        if self._gave_up:  # a library does not go on with a read that was called off: the connection is lost by that
            raise self.clocks.ran_out("idle", "; the record says that the run is at work") from None
        how = "ended without its close event" if error is None else f"broke off ({error})"
        if self.again is not None:
            return await self._reattach(self.again, how)
        raise early_end_error(how, self.seen, self.inbox.leftovers, self.line.clean) from error

    async def _reattach(self, again: ReconnectState, how: str) -> bool:
        """Come back to a detached run; False if its record says that it is at its end."""
        clocks = self.clocks
        self.seen.drop(self.inbox.is_within_event)
        self.inbox.start_anew()
        self.plan.observed.hold(0)
        while True:
            await self.line.leave()
            now = clocks.resume()
            pause = uniform(0.5, 1) * again.broke()
            patience, clock = self._patience(now)
            until = now + patience
            log_event("reattach", self.context, "the stream %s; attaching again", how, seconds=pause)
            with self.line.waiting(until):
                try:
                    await anyio.sleep(pause)
                    await self._open()
                except PASSING as error:
                    how = f"could not be had ({error})"
                else:
                    clocks.count()
                    again.came_back(clocks.waited)
                    return True
            if clocks.count() >= until and not await self._goes_on(clock):
                return False
