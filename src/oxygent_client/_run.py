"""A run of a remote agent as a stream of events: the clocks, and what counts as its end.

Rule 1: complete means that `event: close` came, whatever its data. In a stream that names no event at all (servers of
    1.0.8 and older) a bare `data: done` is the end too, if the end of the stream, `close`, or, once an answer came,
    LEGACY_SILENCE follows; else an agent said "done" and may be at work still: leaving would stop it. Every other end
    is an `IncompleteStreamError`.
Rule 2: nothing waits forever. One cancel scope per wait for bytes; a look at the clocks on every piece; a checkpoint at
    least every CHECKPOINT_EVERY events, because a loop over what is buffered would else hear no cancellation. The
    clocks stand still while the user's code holds an event, except `total`.
Rule 3: leaving the block closes the connection at once, which makes the remote stop. Cancellation passes through as it
    is.
Rule 4: no cancel scope is held across two calls; this is a class with `__anext__`, not a generator.
Rule 5: a request that may have run is not run again: it remembers how its run ended.
Rule 6: where the wire is silent, the server's own record of the run speaks: after a cut, when `idle` fires, and, if
    `confirm_state` is set, at the end. It is asked within `Timeouts.lookup`; a server without records changes nothing.
Rule 7: a detached run is only listened to: whose connection breaks is attached to again, until a clock runs out.
"""

from __future__ import annotations

import contextvars
import json
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Any, Final, Protocol, Self

import anyio
import attrs
from anyio.lowlevel import checkpoint

from oxygent_client._discovery import refused
from oxygent_client._errors import (
    ClosedError,
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    DeadlineExceededError,
    HandlerError,
    IdleTimeoutError,
    IncompleteStreamError,
    MalformedResponseError,
    NoAnswerError,
    NotAnEventStreamError,
    Outcome,
    OxyError,
    OxyTimeoutError,
    RateLimitedError,
    RemoteAgentError,
    RemoteProtocolError,
    ServerError,
    SilenceTimeoutError,
    TooLargeError,
)
from oxygent_client._ids import between
from oxygent_client._log import tell
from oxygent_client._models import Custom, Event, OxyRequest, OxyResponse, OxyState, Partial
from oxygent_client._observe import Observed
from oxygent_client._reattach import Reattachment
from oxygent_client._record import RunRecord, look_until
from oxygent_client._router import Action, Drop, EventRouter, Link, copy_json
from oxygent_client._schema import Schema, Validator, check, malformed
from oxygent_client._secrets import cleaner, scrub_text
from oxygent_client._seen import Seen
from oxygent_client._settings import Limits, Timeouts
from oxygent_client._sse import Decoder, ServerSentEvent
from oxygent_client._text import shown_text
from oxygent_client._traces import TRACES
from oxygent_client._transport import Context, HTTPRequest, Transport, shown_url
from oxygent_client._watched import Word
from oxygent_client._wire import CLOSE, LEGACY_DONE, is_event_stream, refusal, to_event
from oxygent_client.policies import Retry

__all__ = ["Listener", "Plan", "Run"]

CHECKPOINT_EVERY: Final = 64
LEGACY_SILENCE: Final = 2.0
"""Seconds without an event after which a bare `data: done`, after an answer, was the end."""
DRAIN_SECONDS: Final = 0.25
DRAIN_BYTES: Final = 64 * 1024
"""What is still read after the close event, so that the connection can be used again."""
HELD_SECONDS: Final = 1.0
"""How long a piece with several heartbeats must have been waited for; a server sends one every 15 s."""
CLOSE_SECONDS: Final = 2.0
"""How long closing may take; it goes on when the caller is cancelled."""
ENDED_BADLY: Final = "_ended_badly"
"""Where a request keeps the error of its run."""

UNCLEAR: Final = (ConnectionLostError, RemoteProtocolError, ServerError, SilenceTimeoutError)
"""Errors after which the record may know more, but for those of:"""
CLEAR: Final = (MalformedResponseError, TooLargeError)
PASSING: Final = (ConnectError, ConnectionLostError, RateLimitedError, RemoteProtocolError, ServerError)
"""Errors after which a detached run is attached to again."""
ENDED: Final = (OxyState.COMPLETED, OxyState.FAILED, OxyState.CANCELED)
ASKING: Final = ("idle", "record")
"""Clocks at which the record is asked."""
SOON: Final = 60.0
"""Seconds before such a clock runs out within which the connection is kept while the record is asked. That costs more
than the reading itself. Heartbeats come more often, so without them alone a longer wait loses its connection."""

CLOCKS: Final[dict[str, tuple[type[OxyTimeoutError], str]]] = {
    "total": (DeadlineExceededError, "the call did not come to its end"),
    "idle": (IdleTimeoutError, "no event"),
    "silence": (SilenceTimeoutError, "not a byte"),
}
"""The error of each clock, by its name in `Timeouts`."""


class Listener(Protocol):
    """Who hears of a run as it goes; what a listener raises ends the run."""

    async def opened(self) -> None:
        """The run is about to be asked for."""
        ...

    async def heard(self, event: Event, action: Action) -> None:
        """An event came, and `action` is what the router made of it."""
        ...

    async def completed(self) -> None:
        """The run has come to its end, with an answer."""
        ...


@attrs.frozen(kw_only=True)
class Plan:
    """Everything that a run needs, so that it knows no agent."""

    request: OxyRequest
    """What is executed; it is not changed, but for the note of rule 5."""
    trace_id: str
    """What the caller calls the run."""
    base_url: str
    lease: Callable[[Callable[[Outcome], None]], AbstractAsyncContextManager[Transport]]
    """Lends a transport for the time of the run, which says what becomes of a request that departs."""
    prepare: Callable[[Transport, str, float], Awaitable[tuple[HTTPRequest, Link]]]
    """The request to send, and how the remote's names translate; from a transport, the run's id at the remote, and the
    deadline (`math.inf` for none)."""
    router: EventRouter
    listener: Listener
    timeouts: Timeouts
    limits: Limits
    question: Callable[[], HTTPRequest]
    """The pattern of the GETs by which the server is asked for its record of the run."""
    confirm_state: bool = False
    """Whether a run counts as completed only if its record does not say otherwise."""
    failure_detector: Callable[[Any], bool] | None = None
    """Whether an output is one of a run that failed."""
    schema: Schema = attrs.field(factory=dict[str, Validator])
    """What is expected of messages."""
    strict: bool = False
    """Whether a message that is not as expected is an error."""
    retry: Retry = attrs.field(factory=Retry)
    """How often, and when, an idempotent run is asked for again that may have run already."""
    attached_to: str = ""
    """The id, at the remote, of the detached run that is listened to; empty: the run is asked for."""
    observed: Observed = attrs.field(factory=Observed)
    """This run, for those who observe it."""


class Run:
    """One run of a remote agent: `async with agent.stream(query) as run: async for event in run: ...`.

    Leaving the block, at any time, closes the connection, which makes the remote stop. Once the events have come to
    their end, `response` is there.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._context = Context(
            purpose="attach" if plan.attached_to else "run",
            trace_id=plan.trace_id,
            group_id=plan.request.group_id,
            node_id=plan.request.node_id or "",
            observed=plan.observed,
        )
        self._caller = contextvars.copy_context()  # who asked for the run: its traces hang there, whoever reads it
        self._lent = AsyncExitStack()  # the transport
        self._exchange = AsyncExitStack()
        self._transport: Transport | None = None
        self._http: HTTPRequest | None = None
        self._opened = False
        self._reading = False
        self._closed = False
        self._end_told = False
        self._outcome = Outcome.STARTED if plan.attached_to else Outcome.NOT_SENT
        self._word = Word()
        self._remote_trace_id = ""
        self._link = Link()
        self._response: OxyResponse | None = None
        self._error: BaseException | None = None
        # What came:
        self._refusal: OxyError | None = None  # known, and its body not read yet
        self._sent: HTTPRequest | None = None  # as it really was, with what the policies added
        self._chunks: AsyncIterator[bytes] | None = None
        self._decoder = Decoder(plan.limits)
        self._silent = True
        self._held_back = False
        self._gave_up = False  # a read was called off by `idle`, and the run goes on all the same
        self._headers: Mapping[str, str] = {}
        self._asked = math.inf  # when, until the first piece is there: a proxy may hold back the headers, too
        self._waiting: deque[_Waiting] = deque()
        self._failure: TooLargeError | None = None  # raised when the events before it are out
        self._legacy_done: ServerSentEvent | None = None  # rule 1: the end, or an agent's word
        self._close_seen = False
        self._record: RunRecord | None = None  # rule 6: it said how the run ended
        self._again = Reattachment() if plan.attached_to else None
        self._seen = Seen(plan.limits)
        # Clocks:
        self._began = 0.0
        self._deadline = math.inf
        self._waited = 0.0  # for an event, since the last one; the user's time does not count
        self._counted = 0.0  # until when that was added up
        self._since_checkpoint = 0

    # --- what a reader may ask ---

    @property
    def trace_id(self) -> str:
        """What the caller calls this run."""
        return self._plan.trace_id

    @property
    def remote_trace_id(self) -> str:
        """What the remote calls it: the same, unless that id was still in use there. Empty before the block."""
        return self._remote_trace_id

    @property
    def outcome(self) -> Outcome:
        """What is known of the run so far."""
        return self._outcome

    @property
    def text(self) -> str:
        """The text of all deltas so far."""
        return self._seen.text

    @property
    def partial(self) -> Partial:
        """What has been received so far, within `Limits.partial_events` and `Limits.partial_bytes`."""
        return self._seen.partial

    @property
    def response(self) -> OxyResponse:
        """The response, once the events have come to their end.

        Raises:
            OxyError: the run failed; it is that error.
            ClosedError: the run has not come to its end. Read all events first, or ask for `final_response()`.
        """
        if self._response is not None:
            return self._response
        if isinstance(self._error, OxyError):
            raise self._error
        raise ClosedError("there is no response: the events have not come to their end", outcome=self._outcome)

    async def final_response(self) -> OxyResponse:
        """The response, after all events that are still to come.

        Raises:
            OxyError: the run failed.
        """
        async for _ in self:
            pass
        return self.response

    # --- the block ---

    async def __aenter__(self) -> Self:
        if self._opened:
            raise ClosedError("a run is entered once; ask the agent for another", outcome=self._outcome)
        request = self._plan.request
        before: OxyError | None = request.__dict__.get(ENDED_BADLY)
        if before is not None and not request.idempotent:
            raise before
        self._opened = True
        self._began = anyio.current_time()
        url = self._plan.base_url
        begun = {"request": request, "server_url": shown_url(url) if url else ""}
        self._caller.run(self._plan.observed.note, "begun", self._context, begun)
        try:
            await self._plan.listener.opened()
            await self._open()
        except BaseException as error:
            await self._fail(error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._close(error)
        finally:
            self._tell_end("left", error)

    async def _open(self) -> None:
        plan = self._plan
        if plan.timeouts.total is not None:
            self._deadline = self._began + plan.timeouts.total
        self._remote_trace_id = self._claim()
        with anyio.CancelScope(deadline=self._deadline):
            self._transport = await self._lent.enter_async_context(plan.lease(self._departed))
            attempt = 0
            while True:
                attempt += 1
                http, self._link = await plan.prepare(self._transport, self._remote_trace_id, self._deadline)
                self._http = plan.observed.mark(http)
                try:
                    await self._begin()
                except OxyError as error:
                    if await self._is_settled(error):
                        return
                    if not await self._is_to_be_repeated(error, attempt):
                        raise
                else:
                    return
        raise self._refusal or self._out_of("total")

    async def _is_to_be_repeated(self, error: OxyError, attempt: int) -> bool:
        """Whether an idempotent run is asked for once more, though it may have run; waits until it is time to.

        The run is another one then, so it gets an id of its own at the remote (`oxygent_client._traces`).
        """
        plan = self._plan
        if plan.attached_to or not plan.request.idempotent:
            return False
        if not error.transient or error.outcome is not Outcome.UNKNOWN:  # a sure refusal was repeated by the policy
            return False
        pause = plan.retry.wait(attempt, getattr(error, "retry_after", None), between)
        if pause is None or anyio.current_time() + pause >= self._deadline:
            return False
        fields = {"attempt": attempt + 1, "seconds": pause, "reason": type(error).__name__}
        tell("retry", self._context, "%s; the idempotent run is asked for again", fields["reason"], **fields)
        await self._leave(self._exchange, None)
        TRACES.release(plan.base_url, self._remote_trace_id, closed=False)
        self._remote_trace_id = ""
        await anyio.sleep(pause)
        self._remote_trace_id, self._refusal = self._claim(), None
        return True

    def _claim(self) -> str:
        """The run's id at the remote, which nobody else uses or reads while this run does."""
        plan = self._plan
        if not plan.attached_to:
            return TRACES.claim(plan.base_url, self.trace_id, plan.request.node_id or "")
        if not TRACES.hold(plan.base_url, plan.attached_to):
            raise ConfigurationError("this run has a reader in this program already, and two would share its events")
        return plan.attached_to

    def _departed(self, outcome: Outcome) -> None:
        """A request of this run departs, or came to nothing."""
        if not self._plan.attached_to:
            self._outcome = self._word(outcome)

    async def _begin(self) -> None:
        """Make the exchange, and begin to read if it brings a stream of events."""
        assert self._transport is not None
        assert self._http is not None
        self._asked = anyio.current_time()
        response = await self._exchange.enter_async_context(self._transport.exchange(self._http))
        self._sent = response.request
        if response.status != 200 or not is_event_stream(response.headers.get("content-type", "")):
            self._refusal = refusal(response.status, response.headers, b"", self._plan.limits)
            raise await refused(response, self._plan.limits)
        coding = response.headers.get("content-encoding", "").strip().lower()
        if coding not in ("", "identity"):
            raise NotAnEventStreamError(f"the stream is compressed ({coding[:40]!r}), which was not asked for")
        self._chunks, self._headers = response.chunks, response.headers
        self._observe("streaming", url=shown_url(response.request.url))

    def _observe(self, event: str, **fields: Any) -> None:
        """Tell the observers what happened, and after how many seconds."""
        seconds = anyio.current_time() - self._began
        self._plan.observed.note(event, self._context, {**fields, "seconds": seconds})

    # --- the events ---

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        if not self._opened:
            raise ClosedError("enter the run first: `async with agent.stream(...) as run`")
        if self._reading:
            text = "a run has one reader at a time, and another task is waiting for its next event"
            raise ConfigurationError(text, outcome=self._outcome)
        if self._closed:
            raise StopAsyncIteration
        self._reading = True
        try:
            event = await self._next_or_settled()
            if event is None:
                await self._finish()
            else:
                action = self._note(event)
                if event.problems:
                    self._complain(event)
                await self._plan.listener.heard(event, action)
        except BaseException as error:
            await self._fail(error)
            raise
        finally:
            self._reading = False
        if event is None:
            raise StopAsyncIteration
        return event

    def _complain(self, event: Event) -> None:
        kind, problems = shown_text(str(event.type), 200), "; ".join(event.problems)
        tell("odd", self._context, "a message of type '%s' is not as expected: %s", kind, problems)
        if self._plan.strict:
            raise malformed(event)

    def _note(self, event: Event) -> Action:
        """What the router makes of `event`, which has been received."""
        action: Action = Drop("its route failed")
        try:
            action = self._plan.router.route(event, self._link)
        except Exception as error:  # a route may be the user's own
            raise HandlerError(f"the route of {event.type!r} raised {type(error).__name__}") from error
        finally:
            self._seen.note(event, action)
            self._plan.observed.hear(event, self._context)
        return action

    async def _next_or_settled(self) -> Event | None:
        """The next event; None if the run has come to its end, by its stream or by its record (rules 1 and 6)."""
        if self._record is not None:
            return None
        try:
            return await self._next()
        except OxyError as error:
            if await self._is_settled(error):
                return None
            raise

    async def _next(self) -> Event | None:
        """The next event; None if the run has come to its end."""
        await self._breathe()
        if anyio.current_time() >= self._deadline:
            raise self._out_of("total")
        while True:
            while self._waiting:
                first = self._waiting[0]
                if first.sse.event == CLOSE:
                    self._close_seen = True
                    self._legacy_done = None
                    return None
                if self._legacy_done is not None:
                    said, self._legacy_done = self._legacy_done, None
                    return self._event(said)
                self._waiting.popleft()
                if not first.may_be_end:
                    return self._event(first.sse)
                self._legacy_done = first.sse
            if self._failure is not None:
                raise self._failure
            if not await self._read():
                self._legacy_done = None
                return None

    def _event(self, sse: ServerSentEvent) -> Event:
        event = to_event(sse, self._plan.limits)
        if type(event) is Custom and event.type in ("tool_call", "observation"):
            tell("odd", self._context, "a %s without an object as its content is passed on as it is", event.type)
        return check(event, self._plan.schema) if self._plan.schema else event

    async def _read(self) -> bool:
        """Wait for bytes and decode them; False if the run is at its end."""
        assert self._chunks is not None
        self._plan.observed.hold(self._decoder.held_bytes)
        began = self._counted = anyio.current_time()
        patience, clock = self._patience(self._counted)
        if clock == "record" and patience <= 0:  # it was due while there was no connection
            return await self._goes_on(clock)
        piece = None
        try:
            if clock in ASKING and patience <= SOON and self._plan.timeouts.lookup is not None:
                piece, clock = await self._read_and_look(self._chunks)
            else:
                with anyio.CancelScope(deadline=self._counted + patience) as wait:
                    piece = await anext(self._chunks)
                self._gave_up = wait.cancelled_caught
        except (StopAsyncIteration, ConnectionLostError, RemoteProtocolError) as error:
            if self._legacy_done is not None:
                return False
            self._count()
            if (
                self._gave_up
            ):  # a library does not go on with a read that was called off: the connection is lost by that
                raise self._out_of("idle", "; the record says that the run is at work") from None
            broken = isinstance(error, OxyError)
            how = f"broke off ({error})" if broken else "ended without its close event"
            if self._again is not None:
                return await self._reattach(self._again, how)
            raise IncompleteStreamError(f"the stream {how}: the run was cut off") from (error if broken else None)
        self._count()
        if self._record is not None:
            return False
        if piece is not None:
            now, beats = self._counted, self._decoder.comments
            if not self._decode(piece):
                self._count()  # bytes that never pause: this is where the time goes
            at_once = self._decoder.comments - beats > 1 and now - min(began, self._asked) > HELD_SECONDS
            if at_once and not self._held_back:
                self._was_held_back()
            self._asked = math.inf
            patience, clock = self._patience(now)
        if piece is None or patience <= 0:
            return await self._goes_on(clock)
        await self._breathe()
        return True

    async def _read_and_look(self, chunks: AsyncIterator[bytes]) -> tuple[bytes | None, str]:
        """The next bytes; None if their time is over, and the clock that says so, or if the record ended the run.

        The record is asked beside the reading, which goes on: of a read that is cancelled, the connection is lost.
        """
        piece: bytes | None = None
        clock = ""
        failure: BaseException | None = None
        began = self._counted
        async with anyio.create_task_group() as group:

            async def look() -> None:
                nonlocal clock, failure
                try:
                    while True:
                        patience, clock = self._patience(self._counted, silent=self._counted - began)
                        await anyio.sleep(max(patience, 0.0))
                        await checkpoint()  # bytes that come at this very moment come first
                        self._count()
                        if clock not in ASKING or not await self._goes_on(clock):
                            break
                        self._counted = anyio.current_time()
                except Exception as error:  # noqa: BLE001  (likewise; a hook of the user's may be at work)
                    failure = error
                group.cancel_scope.cancel()

            group.start_soon(look)
            try:
                piece = await anext(chunks)
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001  (a group would wrap it, also what Ctrl-C raises)
                failure = error
            group.cancel_scope.cancel()
        if failure is not None and piece is None:
            raise failure
        return piece, clock

    def _was_held_back(self) -> None:
        """Several heartbeats came at once, and not because nobody had read: something on the way buffers the stream."""
        self._held_back = True
        who = shown_text(self._headers.get("via") or self._headers.get("server", "nobody who gives a name"), 60)
        tell("odd", self._context, "the stream was held back on its way: a proxy buffers it (%s answered)", who)

    def _count(self) -> None:
        """Add up the time without an event."""
        now = anyio.current_time()
        self._waited += now - self._counted
        self._counted = now

    def _decode(self, piece: bytes) -> bool:
        """Whether there was an event in `piece`."""
        observed = self._plan.observed
        if not observed.bytes:
            self._observe("first_byte")
        observed.bytes += len(piece)
        observed.hold(observed.buffered + len(piece))
        before = self._decoder.unnamed_events
        try:
            events = self._decoder.feed(piece)
        except TooLargeError as error:
            events, self._failure = [*error.events], error
        # Whether a bare `done` may be the end hangs on the names before it, not on those after it in the same piece.
        unnamed = self._decoder.unnamed_events - before
        self._waiting.extend(
            _Waiting(sse, number < unnamed and sse.data == LEGACY_DONE)
            for number, sse in enumerate(events)
            if self._again is None or self._again.is_new(sse)
        )
        if events:
            if self._silent:
                self._silent = False
                tell("first_event", self._context, "the first event came", seconds=anyio.current_time() - self._began)
            self._waited = 0.0
            self._outcome = Outcome.STARTED
        return bool(events)

    def _patience(self, now: float, *, silent: float = 0.0) -> tuple[float, str]:
        """How long to wait for the next bytes, and the clock that says so; `silent` seconds went without a byte."""
        clocks = self._plan.timeouts
        waits = {"total": self._deadline - now, "idle": (clocks.idle or math.inf) - self._waited}
        if clocks.silence is not None and self._decoder.comments:
            waits["silence"] = clocks.silence - silent
        if self._legacy_done is not None and self._seen.answer is not None:
            waits["legacy"] = LEGACY_SILENCE - self._waited
        if self._again is not None and self._again.check is not None and clocks.lookup is not None:
            waits["record"] = self._again.check - self._waited
        clock = min(waits, key=lambda name: waits[name])
        return waits[clock], clock

    def _out_of(self, clock: str, more: str = "") -> OxyTimeoutError:
        cls, text = CLOCKS[clock]
        return cls(f"{text} within Timeouts.{clock} ({getattr(self._plan.timeouts, clock):g} s){more}")

    async def _goes_on(self, clock: str) -> bool:
        """What a clock that ran out means: True if the run goes on, False if it is at its end, else its error."""
        if clock == "legacy":
            return False
        if clock == "silence" and self._again is not None:
            return await self._reattach(self._again, "fell silent")
        if clock not in ("idle", "record"):
            raise self._out_of(clock)
        record = await self._look(enough=lambda record: bool(record.nodes))
        if record is not None and record.nodes:
            self._outcome = Outcome.STARTED
        again = self._again
        if record is not None and record.state in ENDED:
            if clock == "record" and again is not None and not again.is_over(self._waited):
                return True  # its last events may be on their way
            self._settle(record)
            return False
        if again is not None:
            again.goes_on(self._waited, known=record is not None)
        if clock == "idle":
            if record is None or not record.nodes:
                raise self._unheard_of(record)
            self._waited = 0.0  # it is at work, and quiet: `total` bounds that
        return True

    def _unheard_of(self, record: RunRecord | None) -> OxyError:
        """The error where nothing came for so long, and no record says why."""
        if self._again is not None and self._again.is_lost:
            return IncompleteStreamError("the connection broke, and nothing came since: the end of the run is lost")
        # A server may be told to store nothing of a run: an empty record says something only if nothing came.
        never = record is not None and self._silent
        return self._out_of("idle", "; the server has no record of the run, so it never began" if never else "")

    async def _reattach(self, again: Reattachment, how: str) -> bool:
        """Come back to a detached run (rule 7); False if its record says that it is at its end."""
        self._decoder = Decoder(self._plan.limits)  # half an event is gone with its connection
        while True:
            await self._leave(self._exchange, None)
            self._counted = anyio.current_time()
            pause = between(0.5, 1) * again.broke()
            patience, clock = self._patience(self._counted)
            until = self._counted + patience
            tell("reattach", self._context, "the stream %s; attaching again", how, seconds=pause)
            with anyio.CancelScope(deadline=until):
                try:
                    await anyio.sleep(pause)
                    await self._begin()
                except PASSING as error:
                    how = f"could not be had ({error})"
                else:
                    self._count()
                    again.came_back(self._waited)
                    return True
            self._count()
            if self._counted >= until and not await self._goes_on(clock):
                return False

    async def _breathe(self) -> None:
        """Let others run, and cancellation through, now and then."""
        self._since_checkpoint += 1
        if self._since_checkpoint >= CHECKPOINT_EVERY:
            self._since_checkpoint = 0
            await checkpoint()

    # --- the record ---

    async def _look(self, *, enough: Callable[[RunRecord], bool]) -> RunRecord | None:
        """What the server has stored of this run, looked at until it is `enough`, or the time for it is over."""
        patience = self._plan.timeouts.lookup
        # A trace id may cover several runs; which is meant says the node that the payload named.
        node_id = self._http.context.node_id if self._http is not None else ""
        place = self._plan.base_url or TRACES.place_of(node_id)  # of several servers one has it
        if patience is None or self._transport is None or self._http is None or not place:
            return None
        record = await look_until(
            enough,
            self._transport,
            attrs.evolve(self._plan.question(), base_url=place),
            self._remote_trace_id,
            self._plan.limits,
            until=min(anyio.current_time() + patience, self._deadline),
            node_id=node_id,
        )
        said = "nothing" if record is None else record.state and record.state.name
        tell("record", self._context, "the record of the run says %s", said, state=said)
        return record

    async def _is_settled(self, error: OxyError) -> bool:
        """Whether the record says how the run ended, which `error` left open.

        Raises:
            RemoteAgentError: it says that the run failed.
        """
        unknown = Outcome.UNKNOWN in (self._outcome, error.outcome) or self._outcome is Outcome.STARTED
        if not unknown or not isinstance(error, UNCLEAR) or isinstance(error, CLEAR):
            return False
        record = await self._look(enough=lambda record: record.state in ENDED)
        if record is None:
            return False
        if not record.nodes:
            error.args = (f"{error}; the server has no record of the run",)
            return False
        self._outcome = Outcome.STARTED
        # A run whose stream was left is cancelled for that: the record says no more than `error` does.
        if record.state not in (OxyState.COMPLETED, OxyState.FAILED):
            return False
        self._settle(record, error)
        return True

    def _settle(self, record: RunRecord, error: OxyError | None = None) -> None:
        """The record says how the run ended."""
        self._outcome = Outcome.COMPLETED
        if record.state is not OxyState.COMPLETED:
            raise self._failed(record.state, record.output) from error
        self._record = record

    def _failed(self, state: OxyState | None, output: Any) -> RemoteAgentError:
        how = "was cancelled" if state is OxyState.CANCELED else "failed"
        return RemoteAgentError(f"the remote agent {how}: {self._shown(output)}", state=state, output=output)

    # --- the end ---

    async def _finish(self) -> None:
        """The run has come to its end: let the connection go, and make the response."""
        self._outcome = Outcome.COMPLETED
        plan, seen, record = self._plan, self._seen, self._record
        extra: dict[str, Any] = {"trace_id": self.trace_id, "remote_trace_id": self._remote_trace_id}
        if record is None:
            await self._drain()
            # What was on its way when the connection of a detached run broke is lost, and the answer may be among it.
            lost = self._again is not None and seen.answer is None and seen.error is None
            if plan.confirm_state or lost:
                record = await self._look(enough=lambda record: record.state in ENDED)
                if record is not None and record.state in (OxyState.FAILED, OxyState.CANCELED):
                    output = record.output if seen.answer is None else seen.answer.output
                    raise self._failed(record.state, output)
            if seen.answer is not None:
                output = seen.answer.output
            elif seen.error is not None:
                raise RemoteAgentError(f"the remote agent reported an error: {self._shown(seen.error.content)}")
            elif lost and record is not None and record.state is OxyState.COMPLETED:
                output = record.output
                extra["recovered"] = True
            else:
                raise NoAnswerError("the stream closed as it should and held no answer")
        else:
            output = record.output
            if seen.answer is not None and _is_stored_as(seen.answer.output, output):
                output = seen.answer.output  # a record holds texts only
            extra["recovered"] = True
        if self._held_back:
            extra["held_back"] = True
        await self._close(None)
        if plan.failure_detector is not None and self._is_failure(plan.failure_detector, output):
            raise self._failed(OxyState.FAILED, output)
        await plan.listener.completed()
        self._response = OxyResponse(OxyState.COMPLETED, output, extra, plan.request)
        self._tell_end("completed", None)

    def _shown(self, content: Any) -> str:
        """The remote's own words, as they may stand in an error: without what it was sent in confidence."""
        sent = self._sent
        clean = cleaner(sent.base_url, sent.headers, sent.context.secret_headers) if sent else scrub_text
        return shown_text(clean(str(content)[:4096]), 500)

    def _is_failure(self, detector: Callable[[Any], bool], output: Any) -> bool:
        try:
            return detector(copy_json(output))
        except Exception as error:  # it is the user's own
            raise HandlerError(f"the failure detector raised {type(error).__name__}") from error

    async def _drain(self) -> None:
        """Read what little is left, so that the connection can serve again."""
        assert self._chunks is not None
        left = DRAIN_BYTES
        with anyio.CancelScope(deadline=min(anyio.current_time() + DRAIN_SECONDS, self._deadline)):
            try:
                while left > 0:
                    left -= len(await anext(self._chunks)) or 1
            except (StopAsyncIteration, OxyError):
                pass

    async def _fail(self, error: BaseException) -> None:
        """Note how the run failed, complete the error, and close."""
        self._error = error
        if any(waiting.sse.event == CLOSE for waiting in self._waiting):
            self._close_seen = True
            self._outcome = Outcome.COMPLETED
        self._take_rest()
        known = error if isinstance(error, OxyError) else IncompleteStreamError("the run was left before its end")
        if self._outcome is Outcome.UNKNOWN and not self._word.is_last:
            self._outcome = known.outcome
        known.outcome = self._outcome
        known.attempts = max(known.attempts, self._sent.context.attempt if self._sent else 1)
        known.trace_id = self.trace_id
        known.server_url = known.server_url or shown_url(
            self._plan.base_url or (self._sent.base_url if self._sent else "")
        )
        known.partial = self.partial if self._chunks is not None else None
        if self._outcome not in (Outcome.NOT_SENT, Outcome.REJECTED):
            self._plan.request.__dict__[ENDED_BADLY] = known
        try:
            await self._close(error)
        finally:
            self._tell_end("failed" if isinstance(error, Exception) else "left", error)

    def _tell_end(self, end: str, error: BaseException | None) -> None:
        """Tell the observers, once, that the run is over."""
        if not self._end_told:
            self._end_told = True
            self._observe("ended", end=end, error=error, response=self._response, outcome=str(self._outcome))

    def _take_rest(self) -> None:
        """What was received and not yet handed out belongs to `partial` too."""
        rest = [*([self._legacy_done] if self._legacy_done else []), *(waiting.sse for waiting in self._waiting)]
        self._waiting.clear()
        for sse in rest:
            if sse.event == CLOSE:
                break
            try:
                self._note(self._event(sse))
            except (TooLargeError, HandlerError):
                break

    async def _close(self, error: BaseException | None) -> None:
        if self._closed:
            return
        self._closed = True
        observed = self._plan.observed
        observed.hold(0)
        self._decoder = Decoder(self._plan.limits)  # who keeps the error of a run keeps the run, but not half an event
        if self._remote_trace_id:
            clean = self._close_seen or self._outcome in (Outcome.NOT_SENT, Outcome.REJECTED)
            TRACES.release(self._plan.base_url, self._remote_trace_id, closed=clean)
        reason = type(error).__name__ if error else "its end" if self._close_seen or self._record else "left"
        tell(
            "closed",
            self._context,
            "%s: %s",
            reason,
            self._outcome,
            reason=reason,
            outcome=str(self._outcome),
            seconds=anyio.current_time() - self._began,
            bytes=observed.bytes,
            events=observed.events,
        )
        for stack in (self._exchange, self._lent):
            await self._leave(stack, error)

    async def _leave(self, stack: AsyncExitStack, error: BaseException | None) -> None:
        """Close the exchange, or give the transport back; it takes CLOSE_SECONDS at the most."""
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + CLOSE_SECONDS):
            try:
                await stack.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)
            except OxyError as failure:
                tell("detail", self._context, "closing failed: %s", failure)

    def __repr__(self) -> str:
        return f"<Run {self.trace_id} {self._outcome}>"


@attrs.frozen
class _Waiting:
    """An event that was received and not yet handed out."""

    sse: ServerSentEvent
    may_be_end: bool
    """A bare `done`, and no event was named until then (rule 1)."""


def _is_stored_as(output: Any, stored: Any) -> bool:
    """Whether a server that stores texts would store `output` as this."""
    if output == stored or str(output) == stored:
        return True
    try:
        return isinstance(stored, str) and bool(json.loads(stored) == output)
    except (ValueError, RecursionError):
        return False
