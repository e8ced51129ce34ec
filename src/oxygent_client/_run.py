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
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Final, Protocol, Self

import anyio
import attrs
from anyio.lowlevel import checkpoint

from oxygent_client._discovery import refused
from oxygent_client._errors import (
    ClosedError,
    ConfigurationError,
    ConnectionLostError,
    DeadlineExceededError,
    HandlerError,
    IdleTimeoutError,
    IncompleteStreamError,
    NoAnswerError,
    NotAnEventStreamError,
    Outcome,
    OxyError,
    OxyTimeoutError,
    RemoteAgentError,
    RemoteProtocolError,
    SilenceTimeoutError,
    TooLargeError,
)
from oxygent_client._models import Event, OxyRequest, OxyResponse, OxyState, Partial, RemoteErrorEvent, TextDelta
from oxygent_client._router import Action, Answered, Drop, EventRouter, Link
from oxygent_client._settings import Limits, Timeouts
from oxygent_client._sse import Decoder, ServerSentEvent
from oxygent_client._traces import TRACES
from oxygent_client._transport import HTTPRequest, HTTPResponse, Transport, shown_url
from oxygent_client._wire import CLOSE, LEGACY_DONE, is_event_stream, to_event

__all__ = ["Listener", "Plan", "Run"]

logger = logging.getLogger("oxygent_client")

CHECKPOINT_EVERY: Final = 64
LEGACY_SILENCE: Final = 2.0
"""Seconds without an event after which a bare `data: done`, after an answer, was the end."""
DRAIN_SECONDS: Final = 0.25
DRAIN_BYTES: Final = 64 * 1024
"""What is still read after the close event, so that the connection can be used again."""
CLOSE_SECONDS: Final = 2.0
"""How long closing may take; it goes on when the caller is cancelled."""
ENDED_BADLY: Final = "_ended_badly"
"""Where a request keeps the error of its run."""

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
    lease: Callable[[], AbstractAsyncContextManager[Transport]]
    """Lends a transport for the time of the run."""
    prepare: Callable[[Transport, str, float], Awaitable[tuple[HTTPRequest, Link]]]
    """The request to send, and how the remote's names translate; from a transport, the run's id at the remote, and the
    deadline (`math.inf` for none)."""
    router: EventRouter
    listener: Listener
    timeouts: Timeouts
    limits: Limits


class Run:
    """One run of a remote agent: `async with agent.stream(query) as run: async for event in run: ...`.

    Leaving the block, at any time, closes the connection, which makes the remote stop. Once the events have come to
    their end, `response` is there.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._stack = AsyncExitStack()
        self._opened = False
        self._reading = False
        self._closed = False
        self._outcome = Outcome.NOT_SENT
        self._remote_trace_id = ""
        self._link = Link()
        self._response: OxyResponse | None = None
        self._error: BaseException | None = None
        # What came:
        self._chunks: AsyncIterator[bytes] | None = None
        self._decoder = Decoder(plan.limits)
        self._waiting: deque[_Waiting] = deque()
        self._failure: TooLargeError | None = None  # raised when the events before it are out
        self._legacy_done: ServerSentEvent | None = None  # rule 1: the end, or an agent's word
        self._close_seen = False
        self._seen = _Seen(plan.limits)
        # Clocks:
        self._deadline = math.inf
        self._waited = 0.0  # for an event, since the last one; the user's time does not count
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
            raise ClosedError("a run is entered once; ask the agent for another")
        request = self._plan.request
        before: OxyError | None = request.__dict__.get(ENDED_BADLY)
        if before is not None and not request.idempotent:
            raise before
        self._opened = True
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
        await self._close(error)

    async def _open(self) -> None:
        plan = self._plan
        if plan.timeouts.total is not None:
            self._deadline = anyio.current_time() + plan.timeouts.total
        self._remote_trace_id = TRACES.claim(plan.base_url, self.trace_id)
        with anyio.CancelScope(deadline=self._deadline):
            transport = await self._stack.enter_async_context(plan.lease())
            request, self._link = await plan.prepare(transport, self._remote_trace_id, self._deadline)
            logger.debug("run %s: %s %s", self.trace_id, request.method, shown_url(request.url))
            self._outcome = Outcome.UNKNOWN
            response = await self._stack.enter_async_context(transport.exchange(request))
            await self._accept(response)
            return
        raise self._out_of("total")

    async def _accept(self, response: HTTPResponse) -> None:
        """Begin to read, if the response is a stream of events."""
        if response.status != 200 or not is_event_stream(response.headers.get("content-type", "")):
            raise await refused(response, self._plan.limits)
        coding = response.headers.get("content-encoding", "").strip().lower()
        if coding not in ("", "identity"):
            raise NotAnEventStreamError(f"the stream is compressed ({coding[:40]!r}), which was not asked for")
        self._chunks = response.chunks

    # --- the events ---

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        if not self._opened:
            raise ClosedError("enter the run first: `async with agent.stream(...) as run`")
        if self._reading:
            raise ConfigurationError("a run has one reader at a time, and another task is waiting for its next event")
        if self._closed:
            raise StopAsyncIteration
        self._reading = True
        try:
            event = await self._next()
            if event is None:
                await self._finish()
            else:
                await self._plan.listener.heard(event, self._note(event))
        except BaseException as error:
            await self._fail(error)
            raise
        finally:
            self._reading = False
        if event is None:
            raise StopAsyncIteration
        return event

    def _note(self, event: Event) -> Action:
        """What the router makes of `event`, which has been received."""
        action: Action = Drop("its route failed")
        try:
            action = self._plan.router.route(event, self._link)
        except Exception as error:  # a route may be the user's own
            raise HandlerError(f"the route of {event.type!r} raised {type(error).__name__}") from error
        finally:
            self._seen.note(event, action)
        return action

    async def _next(self) -> Event | None:
        """The next event; None if the run has come to its end (rule 1)."""
        await self._breathe()
        while True:
            while self._waiting:
                first = self._waiting[0]
                if first.sse.event == CLOSE:
                    self._close_seen = True
                    self._legacy_done = None
                    return None
                if self._legacy_done is not None:
                    said, self._legacy_done = self._legacy_done, None
                    return to_event(said, self._plan.limits)
                self._waiting.popleft()
                if not first.may_be_end:
                    return to_event(first.sse, self._plan.limits)
                self._legacy_done = first.sse
            if self._failure is not None:
                raise self._failure
            if not await self._read():
                self._legacy_done = None
                return None

    async def _read(self) -> bool:
        """Wait for bytes and decode them; False if the stream, being a legacy one, is at its end."""
        assert self._chunks is not None
        start = anyio.current_time()
        patience, clock = self._patience(start)
        piece = None
        with anyio.CancelScope(deadline=start + patience):
            try:
                piece = await anext(self._chunks)
            except (StopAsyncIteration, ConnectionLostError, RemoteProtocolError) as error:
                if self._legacy_done is not None:
                    return False
                broken = isinstance(error, OxyError)
                how = f"broke off ({error})" if broken else "ended without its close event"
                raise IncompleteStreamError(f"the stream {how}: the run was cut off") from (error if broken else None)
        now = anyio.current_time()
        self._waited += now - start
        if piece is not None:
            if not self._decode(piece):
                self._waited += anyio.current_time() - now  # bytes that never pause: this is where the time goes
            patience, clock = self._patience(now)
        if piece is None or patience <= 0:
            if clock == "legacy":
                return False
            raise self._out_of(clock)
        await self._breathe()
        return True

    def _decode(self, piece: bytes) -> bool:
        """Whether there was an event in `piece`."""
        before = self._decoder.unnamed_events
        try:
            events = self._decoder.feed(piece)
        except TooLargeError as error:
            events, self._failure = [*error.events], error
        # Whether a bare `done` may be the end hangs on the names before it, not on those after it in the same piece.
        unnamed = self._decoder.unnamed_events - before
        self._waiting.extend(
            _Waiting(sse, number < unnamed and sse.data == LEGACY_DONE) for number, sse in enumerate(events)
        )
        if events:
            self._waited = 0.0
            self._outcome = Outcome.STARTED
        return bool(events)

    def _patience(self, now: float) -> tuple[float, str]:
        """How long to wait for the next bytes, and the clock that says so."""
        clocks = self._plan.timeouts
        waits = {"total": self._deadline - now, "idle": (clocks.idle or math.inf) - self._waited}
        if clocks.silence is not None and self._decoder.comments:
            waits["silence"] = clocks.silence
        if self._legacy_done is not None and self._seen.answer is not None:
            waits["legacy"] = LEGACY_SILENCE - self._waited
        clock = min(waits, key=lambda name: waits[name])
        return waits[clock], clock

    def _out_of(self, clock: str) -> OxyTimeoutError:
        cls, text = CLOCKS[clock]
        return cls(f"{text} within Timeouts.{clock} ({getattr(self._plan.timeouts, clock):g} s)")

    async def _breathe(self) -> None:
        """Let others run, and cancellation through, now and then."""
        self._since_checkpoint += 1
        if self._since_checkpoint >= CHECKPOINT_EVERY:
            self._since_checkpoint = 0
            await checkpoint()

    # --- the end ---

    async def _finish(self) -> None:
        """The run has come to its end: let the connection go, and make the response."""
        self._outcome = Outcome.COMPLETED
        await self._drain()
        await self._close(None)
        seen = self._seen
        if seen.answer is None:
            if seen.error is not None:
                raise RemoteAgentError(f"the remote agent reported an error: {str(seen.error.content)[:500]!r}")
            raise NoAnswerError("the stream closed as it should and held no answer")
        extra = {"trace_id": self.trace_id, "remote_trace_id": self._remote_trace_id}
        await self._plan.listener.completed()
        self._response = OxyResponse(OxyState.COMPLETED, seen.answer.output, extra, self._plan.request)

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
        if self._outcome is Outcome.UNKNOWN:
            self._outcome = known.outcome
        known.outcome = self._outcome
        known.trace_id = self.trace_id
        known.server_url = known.server_url or (shown_url(self._plan.base_url) if self._plan.base_url else "")
        known.partial = self.partial if self._chunks is not None else None
        if self._outcome not in (Outcome.NOT_SENT, Outcome.REJECTED):
            self._plan.request.__dict__[ENDED_BADLY] = known
        await self._close(error)

    def _take_rest(self) -> None:
        """What was received and not yet handed out belongs to `partial` too."""
        rest = [*([self._legacy_done] if self._legacy_done else []), *(waiting.sse for waiting in self._waiting)]
        self._waiting.clear()
        for sse in rest:
            if sse.event == CLOSE:
                break
            try:
                self._note(to_event(sse, self._plan.limits))
            except (TooLargeError, HandlerError):
                break

    async def _close(self, error: BaseException | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._decoder = Decoder(self._plan.limits)  # who keeps the error of a run keeps the run, but not half an event
        if self._remote_trace_id:
            clean = self._close_seen or self._outcome in (Outcome.NOT_SENT, Outcome.REJECTED)
            TRACES.release(self._plan.base_url, self._remote_trace_id, closed=clean)
        kind, traceback = type(error) if error else None, error.__traceback__ if error else None
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + CLOSE_SECONDS):
            try:
                await self._stack.__aexit__(kind, error, traceback)
            except OxyError as failure:
                logger.debug("run %s: closing failed: %s", self.trace_id, failure)

    def __repr__(self) -> str:
        return f"<Run {self.trace_id} {self._outcome}>"


@attrs.frozen
class _Waiting:
    """An event that was received and not yet handed out."""

    sse: ServerSentEvent
    may_be_end: bool
    """A bare `done`, and no event was named until then (rule 1)."""


class _Seen:
    """What has been received: the answer, the text, and the last events within their bounds."""

    def __init__(self, limits: Limits) -> None:
        self.answer: Answered | None = None
        self.error: RemoteErrorEvent | None = None
        self._limits = limits
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._dropped = 0
        self._texts: list[str] = []

    def note(self, event: Event, action: Action) -> None:
        """Take in one event, and what the router made of it."""
        if isinstance(action, Answered):
            self.answer = action
        if isinstance(event, TextDelta):
            self._texts.append(event.text)
        elif isinstance(event, RemoteErrorEvent):
            self.error = event
        self._events.append(event)
        self._bytes += _size(event)
        while len(self._events) > self._limits.partial_events or self._bytes > self._limits.partial_bytes:
            self._bytes -= _size(self._events.popleft())
            self._dropped += 1

    @property
    def text(self) -> str:
        """The text of all deltas."""
        self._texts = ["".join(self._texts)]
        return self._texts[0]

    @property
    def partial(self) -> Partial:
        """All of it, as a value."""
        answer = self.answer.output if self.answer else None
        return Partial(events=tuple(self._events), text=self.text, answer=answer, dropped=self._dropped)


def _size(event: Event) -> int:
    """The bytes of an event's data."""
    return len(event.sse.data.encode())
