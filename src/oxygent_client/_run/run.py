"""`Run`: an async iterator over the events of one run.

Rule 1: a run is complete when its stream closed and held an answer, or when its record says so. Any other end is an
    error that says what is known of the run: `outcome`, `partial`.
Rule 2: leaving the block closes the connection at once, which makes the remote stop. Cancellation passes through as it
    is.
Rule 3: no cancel scope is held across two calls; this is a class with `__anext__`, not a generator.
Rule 4: a request that may have run is not run again: it remembers how its run ended.
"""

from __future__ import annotations

import contextvars
import json
import math
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Self, overload

import anyio
import attrs

from oxygent_client._core.errors import (
    ClosedError,
    ConfigurationError,
    HandlerError,
    IncompleteStreamError,
    MalformedResponseError,
    Outcome,
    OxyError,
    RemoteAgentError,
    TooLargeError,
)
from oxygent_client._core.events import (
    Answer,
    AnyEvent,
    Custom,
    Event,
    Observation,
    OxyState,
    Partial,
    ServerSentEvent,
    ToolCall,
)
from oxygent_client._core.log import log_event
from oxygent_client._core.per_loop import this_loop
from oxygent_client._core.requests import OxyResponse
from oxygent_client._core.sent_secrets import SentSecrets
from oxygent_client._core.transport import NO_CONTEXT, redact_url
from oxygent_client._core.validation import number, one_of, optional
from oxygent_client._protocol.messages import CLOSE, EVENTS, to_event, to_events, trace_id_of
from oxygent_client._protocol.router import Action, Drop, copy_json, forward, forwards
from oxygent_client._protocol.schema import check
from oxygent_client._run.abandoned import AbandonedWatch, watch
from oxygent_client._run.config import RunConfig
from oxygent_client._run.connection import CLOSE_SECONDS, RunConnection
from oxygent_client._run.event_buffer import Unread, sse_of
from oxygent_client._run.event_reader import EventReader, StillWaiting
from oxygent_client._run.reads import loop_clock
from oxygent_client._run.received import PLAIN
from oxygent_client._run.reported_errors import error_content, no_answer_error
from oxygent_client._run.state import RunState
from oxygent_client._run.trace import TRACED, TraceCollector, status_of
from oxygent_client._run.trace_claims import TraceIdClaims
from oxygent_client._run.trace_ids import TRACE_IDS
from oxygent_client.policies._retry import find_retry

if TYPE_CHECKING:  # loaded by those who look at them
    from oxygent_client._core.call_tree import TraceCall
    from oxygent_client._core.trace import Trace
    from oxygent_client._run.keepalive import Heartbeat, PatientReader
    from oxygent_client._run.text_updates import TextStream, TextUpdates
    from oxygent_client._run.texts import AgentText

__all__ = ["Run"]

NO_OUTPUT: Final = (None, "", "null")
"""What the record of a run holds as its output that gave none; "null" is how real servers store None."""
ENDED_BADLY: Final = "_ended_badly"
"""Where a request keeps the error of its run."""
HOLD: Final = one_of("shape", "step")
KEEPALIVE: Final = optional(number(gt=0))
FORWARDED: Final = PLAIN | {Observation, ToolCall}
FORWARDED_TYPES: Final = frozenset(kind for kind, cls in EVENTS.items() if cls in FORWARDED)
NONE: Final = frozenset[type[Event]]()
NO_ROUTE: Final = Drop("its route failed, or the program does not listen")
READER_SECONDS: Final = 2 * CLOSE_SECONDS
"""How long whoever leaves a run waits for another task, which reads it, to close the connection."""


class Run:
    """One run of a remote agent: `async with agent.stream(query) as run: async for event in run: ...`.

    Leaving the block, at any time, closes the connection, which makes the remote stop. Once the events have come to
    their end, `response` is there.
    """

    __slots__ = (
        *("__weakref__", "_ahead", "_attempts", "_caller", "_claims", "_closed", "_config", "_connection", "_context"),
        *("_end_notified", "_error", "_forwarded", "_listener", "_now", "_opened", "_patient_reader", "_plain"),
        *("_read_over", "_reader", "_reading", "_remote_trace_id", "_response", "_state", "_trace", "_unrouted"),
        *("_waiting", "_watch"),
    )

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._state = RunState(config.timeouts, config.limits, attached=bool(config.attached_to))
        self._context = NO_CONTEXT.changed(
            purpose="attach" if config.attached_to else "run",
            trace_id=config.trace_id,
            group_id=config.request.group_id,
            node_id=config.request.node_id or "",
            server_url=config.base_url,
            idempotent=config.request.idempotent,
            https_only=config.https_only,
            sent=SentSecrets(),
            observed=config.observed,
            outcome=self._state.tracker,
        )
        self._caller = contextvars.copy_context()  # of the code that starts the run: its traces belong there
        self._connection = RunConnection(self._context, config.limits)
        self._reader = EventReader(
            config=config,
            context=self._context,
            state=self._state,
            connection=self._connection,
            observed=config.observed,
        )
        self._ahead: list[AnyEvent] = []
        """Events that were taken from the buffer ahead of the reader, the next one last."""
        self._forwarded = FORWARDED if forwards(config.router, FORWARDED_TYPES) else NONE
        """Classes of the events whose routes matter only if the program listens."""
        self._plain = self._unrouted = PLAIN if self._forwarded else NONE
        """Classes of the events that are only noted and, if the program listens, forwarded; without problems."""
        self._listener = config.listener
        self._waiting = self._state.received.waiting
        self._trace = TraceCollector()
        self._now: Callable[[], float] = anyio.current_time
        self._remote_trace_id = ""
        self._claims: TraceIdClaims | None = None  # while it holds that id
        self._attempts = 0
        self._response: OxyResponse | None = None
        self._error: BaseException | None = None
        self._patient_reader: PatientReader | None = None  # once `events` was called
        self._opened = False
        self._reading = False
        self._read_over: anyio.Event | None = None  # once another task waits for that
        self._closed = False
        self._end_notified = False
        self._watch: AbandonedWatch | None = None

    # --- what a reader may ask ---

    @property
    def trace_id(self) -> str:
        """What the caller calls this run."""
        return self._config.trace_id

    @property
    def remote_trace_id(self) -> str:
        """What the remote calls it: the same, unless that id was still in use there. Empty before the block."""
        return self._remote_trace_id

    @property
    def outcome(self) -> Outcome:
        """What is known of the run so far."""
        return self._state.tracker.outcome

    @property
    def text(self) -> str:
        """The answer's text so far; `str(response.output)` at the end."""
        if self._response is not None:
            return str(self._response.output)
        return self._state.received.texts.answer.text

    @property
    def texts(self) -> tuple[AgentText, ...]:
        """All text that agents have written so far, by call and agent, in the order in which the texts began."""
        return self._state.received.texts.all

    @property
    def text_stream(self) -> TextStream:
        """The answer's text in pieces, while it is written: `async for text in run.text_stream: ...`.

        Joined, the pieces are `str(response.output)`. If a text that was shown turns out not to be the answer (a
        preface before a tool call), the next piece begins with a blank line, and then the answer begins anew. Text of
        other agents, and tool calls of a model, are not shown. An iterator begins with the text so far.

        Raises:
            OxyError: the run failed; it is raised while iterating.
        """
        from oxygent_client._run.text_updates import TextStream

        return TextStream(self.text_updates())

    def text_updates(self, *, hold: Literal["shape", "step"] = "shape") -> TextUpdates:
        """The changes of the answer's text, while it is written: `async for update in run.text_updates(): ...`.

        Args:
            hold: "shape" holds back what may be a tool call by its shape, and shows prose at once: what turns out not
                to be the answer is replaced by an update that `is_reset`. "step" holds back everything until the
                answer is known: there is one update, at the end, and no reset.

        Raises:
            ConfigurationError: `hold` is neither.
            OxyError: the run failed; it is raised while iterating.
        """
        from oxygent_client._run.text_updates import TextUpdates

        HOLD.check("hold", hold)
        return TextUpdates(self, self._state.received, is_live=hold == "shape")

    def trace(self) -> Trace:
        """Return the calls of the run so far as a value: a tree with times, arguments, outputs and errors.

        Times are those at which your program read the events. If the stream was cut and the server's record has the
        end of the run, the calls are those of the record. For a run that this program did not read:
        `(await agent.lookup(trace_id)).trace()`.
        """
        url = self._config.base_url or self._connection.sent_to
        error, response, clean = self._error, self._response, self._context.sent.clean_json
        return self._trace.trace(
            now=self._now,
            status=status_of(
                response,
                error,
                is_left=self._connection.is_left or (self._closed and error is None),
                is_detached=bool(self._config.attached_to),
            ),
            record=self._state.record,
            clean=clean,
            trace_id=self.trace_id,
            remote_trace_id=self._remote_trace_id,
            server_url=redact_url(url) if url else "",
            output=None if response is None else clean(response.output),
            error=str(error) if isinstance(error, OxyError) else "",
        )

    def call_of(self, event: Event) -> TraceCall | None:
        """Return the call that an event of this run is about, as `trace()` has it; None if it is not known.

        That of a tool call or an observation is its own; other events name theirs by node id or agent. It costs the
        same for each event, however many calls there are.
        """
        return self._trace.call_of(event, self._context.sent.clean_json)

    def report(self) -> str:
        """Return a page of HTML for people, with the calls of the run so far; see `Trace.report`."""
        return self.trace().report()

    @property
    def sent(self) -> SentSecrets:
        """What the run has sent in confidence, for `sanitize.without_credentials`."""
        return self._context.sent

    @property
    def partial(self) -> Partial:
        """What has been received so far, within `Limits.partial_events` and `Limits.partial_bytes`."""
        return self._state.received.partial

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
        if self._closed:
            raise self._was_left("there is no response")
        raise ClosedError("there is no response: the events have not come to their end", outcome=self.outcome)

    async def final_response(self) -> OxyResponse:
        """The response, after all events that are still to come.

        Raises:
            OxyError: the run failed; it is that error.
            ClosedError: the run was left, or cancelled, before its end.
        """
        if not self._closed:
            async for _ in self:
                pass
        return self.response

    # --- the block ---

    async def __aenter__(self) -> Self:
        if self._opened:
            raise ClosedError("a run is entered once; ask the agent for another", outcome=self.outcome)
        request = self._config.request
        before: OxyError | None = request.__dict__.get(ENDED_BADLY)
        if before is not None and not request.idempotent:
            raise before
        self._opened = True
        loop = this_loop()
        self._now = self._reader.now = loop_clock(loop)
        self._connection.begin(loop, self._now)
        now = self._now()
        self._state.start(now)
        self._trace.begin(now)
        url, observed = self._config.base_url, self._config.observed
        begun = {"request": request, "server_url": redact_url(url) if url else ""}
        self._watch = watch(self, loop, observed, self._context, self._state.tracker)
        self._caller.run(observed.note, "begun", self._context, begun)
        del self._caller  # and all that its variables hold
        try:
            await self._config.listener.opened()
            await self._open()
        except BaseException as error:
            await self._finish_with_error(error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._reading:
                await self._dismiss_reader()
            elif self._patient_reader is not None:
                await self._patient_reader.cancel()
            if not self._closed:
                try:
                    await self._keep_rest([])
                finally:
                    await self._close(error, is_own=False)
        finally:
            self._notify_end("left", error)

    async def _dismiss_reader(self) -> None:
        """Have another task, which reads, let the connection go: nobody else may close what it is reading."""
        self._read_over = anyio.Event()
        if self._connection.dismiss():
            with anyio.CancelScope(shield=True, deadline=anyio.current_time() + READER_SECONDS):
                await self._read_over.wait()

    async def _open(self) -> None:
        config, connection = self._config, self._connection
        self._claim_id()
        idle = self._state.timeouts.idle
        with connection.waiting(self._state.deadline, soonest=math.inf if idle is None else self._now() + idle):
            transport = connection.acquire(config.lease())
            while True:
                deadline = self._state.deadline
                context = self._context.changed(
                    remote_trace_id=self._remote_trace_id,
                    deadline=deadline if deadline < math.inf else None,
                    attempt=self._attempts + 1,
                )
                http, connection.names = await config.prepare(transport, context)
                assert self._claims is not None
                http = self._claims.over(http)
                request = connection.request = config.observed.add_headers(http)
                connection.node_id = request.context.node_id
                if (
                    self._state.buffer.holds_events or self._state.buffer.holds_done
                ):  # those first; there may be no need to ask
                    return
                try:
                    await self._reader.open(self._know_claim)
                except OxyError as error:
                    self._attempts = error.attempts
                    self._know_claim()
                    if await self._reader.recovery.recovers(error):
                        return
                    if (when := self._when_again(error)) is None:
                        raise
                else:
                    # The transport says what was really sent: a recording goes by the id that was recorded.
                    if connection.sent_trace_id:
                        self._know_id(connection.sent_trace_id)
                    else:
                        self._know_claim()
                    return
                await self._prepare_again(when)
        raise connection.refusal or self._state.timeout_error("total")

    def _when_again(self, error: OxyError) -> float | None:
        """When an idempotent run is asked for once more, though it may have run; None if it is not."""
        if self._config.attached_to or not self._config.request.idempotent:
            return None
        if not error.transient or error.outcome is not Outcome.UNKNOWN:  # a sure refusal was repeated by the policy
            return None
        policy = find_retry(self._connection.transport)
        context = attrs.evolve(self._context, attempt=self._attempts, deadline=self._state.deadline)
        return policy.retry_at(error, context) if policy is not None else None

    async def _prepare_again(self, when: float) -> None:
        """The run is another one then, so it gets an id of its own at the remote (`oxygent_client._run.trace_ids`)."""
        await self._connection.disconnect()
        self._release()
        await anyio.sleep_until(when)
        self._claim_id()

    def _claim_id(self) -> None:
        """Have an id at the remote which nobody else uses or reads while this run does."""
        config = self._config
        if config.attached_to:
            claim = TRACE_IDS.hold(config.base_url, config.attached_to)
        else:
            claim = TRACE_IDS.claim(config.base_url, self.trace_id, config.request.node_id or "")
        if claim is None:
            raise ConfigurationError("this run has a reader in this program already, and two would share its events")
        self._claims = TraceIdClaims(claim)
        self._remote_trace_id = claim.remote
        if config.attached_to:
            from oxygent_client._run.unread_events import UNREAD_EVENTS

            rest = UNREAD_EVENTS.take(config.base_url, claim.remote)
            self._state.buffer.put_back(rest.events)
            self._state.received.drop(rest.dropped)

    def _know_claim(self) -> None:
        assert self._claims is not None
        self._know_id(self._claims.remote)

    def _know_id(self, remote_trace_id: str) -> None:
        """The remote knows the run by this id, which may be another than was meant."""
        self._remote_trace_id = remote_trace_id
        if self._connection.names.remote_trace_id != remote_trace_id:
            self._connection.names = attrs.evolve(self._connection.names, remote_trace_id=remote_trace_id)

    def abandon(self) -> None:
        """End the run without closing its connection, which is gone with its event loop."""
        if self._patient_reader is not None:
            self._patient_reader.give_back()
        self._give_back()
        self._set_aside()
        self._closed = True
        self._config.observed.hold(0)
        self._release()
        self._notify_end("left", None)

    def _release(self) -> None:
        claims, self._claims = self._claims, None
        if claims is not None:
            claims.release(ran=self._state.tracker.has_run, closed=self._state.buffer.is_closed)

    # --- the events ---

    def __aiter__(self) -> AsyncIterator[AnyEvent]:
        return self

    async def __anext__(self) -> AnyEvent:
        """The next event; StopAsyncIteration only once the run has come to its end, and has a response.

        Raises:
            OxyError: the run failed.
            ClosedError: it was left, cancelled, or failed before: what was received is all there is of it.
        """
        if self._reading or self._closed or not self._opened:
            self._refuse_to_read()
        ahead = self._ahead
        self._reading = True
        try:
            if not ahead:
                if received := await (self._patient_reader or self._reader).next():
                    ahead = self._take(received)
            elif self._now() >= self._state.deadline:
                raise self._state.timeout_error("total")
            if ahead:
                event = ahead.pop()
                is_heard = self._listener.hears(event)
                action: Action = NO_ROUTE
                if event.problems or event.__class__ not in self._plain:
                    event, action = self._checked_and_routed(event, is_heard=is_heard)
                else:
                    self._waiting.append(event)
                    if is_heard:
                        action = forward(event, self._connection.names)
                if is_heard:
                    await self._listener.on_event(event, action)
                if not ahead:
                    buffer = self._state.buffer
                    if buffer.ready or not buffer.is_complete:  # else the run ends with the next call
                        self._state.received.settle()
                return event
            await self._finish()
        except StillWaiting:
            raise
        except BaseException as error:
            await self._finish_with_error(error)
            raise
        finally:
            self._reading = False
            if self._read_over is not None:
                self._read_over.set()
        raise StopAsyncIteration

    def _take(self, received: list[ServerSentEvent]) -> list[AnyEvent]:
        """Take events ahead of the program; return them, the next one last."""
        config, count = self._config, len(received)
        self._plain = NONE if config.schema else self._unrouted  # a schema may be filled during a run
        self._reader.left -= count
        config.observed.taken += count
        received.reverse()
        self._ahead = config.observed.ahead = events = to_events(received, config.limits)
        return events

    def _give_back(self) -> None:
        """Put events that were taken ahead back into the buffer."""
        self._config.observed.taken -= len(self._ahead)
        self._state.buffer.give_back(event.sse for event in self._ahead)
        self._ahead.clear()

    @overload
    def events(self, *, keepalive: None = None) -> AsyncIterator[AnyEvent]: ...
    @overload
    def events(self, *, keepalive: float) -> AsyncIterator[AnyEvent | Heartbeat]: ...
    def events(self, *, keepalive: float | None = None) -> AsyncIterator[AnyEvent | Heartbeat]:
        """The events, and with `keepalive` a `Heartbeat` whenever none was received for so many seconds.

        Between two items the wait for the next event goes on, so that nothing is lost, and its time-outs run.

        Raises:
            ConfigurationError: `keepalive` is no number of seconds.
            OxyError: the run failed; it is raised while iterating.
        """
        KEEPALIVE.check("keepalive", keepalive)
        if keepalive is None:
            return self
        from oxygent_client._run.keepalive import EventsWithHeartbeats, PatientReader

        if self._patient_reader is None:
            self._patient_reader = PatientReader(self._reader)
        return EventsWithHeartbeats(self, self._patient_reader, keepalive)

    def _refuse_to_read(self) -> NoReturn:
        if not self._opened:
            raise ClosedError("enter the run first: `async with agent.stream(...) as run`")
        if self._reading:
            text = "a run has one reader at a time, and another task is waiting for its next event"
            raise ConfigurationError(text, outcome=self.outcome)
        if self._response is not None:
            raise StopAsyncIteration
        raise self._was_left("there are no more events")

    def _checked_and_routed(self, event: AnyEvent, *, is_heard: bool) -> tuple[AnyEvent, Action]:
        event = self._checked(event)
        action = self._route(event, is_heard=is_heard)
        if event.problems:
            self._report_problems(event)
        return event, action

    def _checked(self, event: AnyEvent) -> AnyEvent:
        """Check an event that is about to be handed out; with what its schema finds.

        Raises:
            MalformedResponseError: it ends another run.
        """
        config = self._config
        cls = event.__class__
        if cls is Answer or cls is Observation:
            self._check_whose(event)
        elif cls is Custom and event.type in ("tool_call", "observation"):
            log_event(
                "warning", self._context, "a %s without an object as its content is passed on as it is", event.type
            )
        return check(event, config.schema, self._context.sent.clean) if config.schema else event

    def _check_whose(self, event: Event) -> None:
        """Nothing, unless `event` ends another run: then the stream is that of the other, and nothing of it is taken.

        Raises:
            MalformedResponseError: it does.
        """
        named = trace_id_of(event)
        if named in ("", self._remote_trace_id):
            return
        self._state.is_astray = True
        shown = self._context.sent.shown(named, 100)
        raise MalformedResponseError(f"the server sent what ends another run, of the trace id '{shown}'")

    def _route(self, event: Event, *, is_heard: bool = True) -> Action:
        """What the router makes of `event`, which has been received."""
        action: Action = NO_ROUTE
        try:
            if is_heard or event.__class__ not in self._forwarded:
                action = self._config.router.route(event, self._connection.names)
        except Exception as error:  # a route may be the user's own
            kind = self._context.sent.shown(event.type, 200)
            raise HandlerError(f"the route of '{kind}' raised {type(error).__name__}") from error
        finally:
            self._state.received.note(event, action)
            if event.__class__ in TRACED:
                self._trace.note(event, self._now())
                self._config.observed.note_event(event, self._context)
        return action

    def _report_problems(self, event: Event) -> None:
        kind, problems = self._context.sent.shown(event.type, 200), "; ".join(event.problems)
        log_event("warning", self._context, "a message of type '%s' is not as expected: %s", kind, problems)
        if self._config.strict:
            raise MalformedResponseError(f"a message of type '{kind}' is not valid: {event.problems[0]}")

    # --- the end ---

    async def _finish(self) -> None:
        """The run is complete: close the connection, and make the response."""
        closing = self._state.buffer.closing
        if closing is not None and closing.data.lstrip().startswith("{"):  # anything else than an object names no run
            self._check_whose(to_event(closing, self._config.limits))
        self._state.tracker.know(Outcome.COMPLETED)
        config = self._config
        extra: dict[str, Any] = {"trace_id": self.trace_id, "remote_trace_id": self._remote_trace_id}
        if self._state.record is None:
            await self._connection.drain(self._state.deadline)
            await self._connection.disconnect()  # the record may have to be waited for
        output, is_recovered = await self._output()
        if is_recovered:
            extra["recovered"] = True
        if self._state.was_held_back:
            extra["held_back"] = True
        await self._close(None)
        if config.failure_detector is not None and _is_failure(config.failure_detector, output):
            raise self._reader.recovery.failed(OxyState.FAILED, output)
        await config.listener.completed()
        self._response = OxyResponse(OxyState.COMPLETED, output, extra, config.request)
        self._notify_end("completed", None)

    async def _output(self) -> tuple[Any, bool]:
        """What the run came to, and whether only its record tells.

        Raises:
            RemoteAgentError: it failed.
            UnconfirmedError: its record had to confirm its answer, and did not.
            NoAnswerError: it came to nothing.
        """
        answer, error, record = self._state.received.answer, self._state.received.error, self._state.record
        if record is not None:
            # A record holds texts only.
            is_the_same = answer is not None and _is_stored_as(answer.output, record.output)
            return answer.output if answer is not None and is_the_same else record.output, True
        if self._state.received.unread:
            raise TooLargeError(f"the answer cannot be read: {self._state.received.unread}")
        if answer is None and error is not None:
            raise RemoteAgentError(
                f"the remote agent reported an error: {self._connection.quoted(error_content(error))}"
            )
        record = await self._reader.recovery.ending(answer)
        if record is not None and record.is_failure:
            raise self._reader.recovery.failed(record.state, record.output if answer is None else answer.output)
        if answer is not None:
            return answer.output, False
        if record is not None and record.output not in NO_OUTPUT:
            return record.output, True
        raise no_answer_error(self._state.received, self._state.buffer.leftovers, self._connection.clean)

    async def _finish_with_error(self, error: BaseException) -> None:
        """Note how the run failed, complete the error, and close."""
        self._error = error
        tracker = self._state.tracker
        self._give_back()
        rest = self._state.buffer.take_all()
        self._route_rest(rest)
        if self._state.is_astray:  # what came is no sign of this run
            self._state.buffer.is_closed = False
            tracker.know(Outcome.STARTED if self._config.attached_to else Outcome.UNKNOWN)
        elif self._state.buffer.is_closed:
            tracker.know(Outcome.COMPLETED)
        known = error if isinstance(error, OxyError) else IncompleteStreamError("the run was left before its end")
        if tracker.outcome is Outcome.UNKNOWN:
            tracker(known.outcome)
        known.outcome = tracker.outcome
        known.attempts = max(known.attempts, self._attempts, self._connection.attempt)
        self._context.sent.strip_error(known)
        known.trace_id = self.trace_id
        known.server_url = known.server_url or redact_url(self._config.base_url or self._connection.sent_to)
        if tracker.has_run:
            self._config.request.__dict__[ENDED_BADLY] = known
        is_left = self._connection.is_left or not isinstance(error, Exception)
        try:
            await self._keep_rest(rest)
        finally:
            has_heard = self._connection.chunks is not None or self._config.observed.events > 0
            known.partial = self.partial if has_heard else None
            try:
                await self._close(None if self._connection.is_left else error)
            finally:
                self._notify_end("left" if is_left else "failed", error)

    async def _keep_rest(self, rest: list[Unread]) -> None:
        """Keep what was received of a detached run and not handed out for its next reader in this program."""
        self._give_back()
        self._state.buffer.put_back(rest)
        try:
            if self._leaves_something:
                await self._reader.gather()
        finally:
            self._set_aside()

    @property
    def _leaves_something(self) -> bool:
        """Whether there may be a next reader of the same run, and this one is not at its end."""
        return (
            not self._closed
            and self._state.reconnect is not None
            and self._claims is not None
            and not self._state.is_astray
        )

    def _set_aside(self) -> None:
        if self._leaves_something:
            from oxygent_client._run.unread_events import UNREAD_EVENTS

            config, inbox = self._config, self._state.buffer
            dropped = UNREAD_EVENTS.put(
                config.base_url, config.attached_to, inbox.take_all(), dropped=int(inbox.is_within_event)
            )
            self._state.received.drop(dropped)
            inbox.is_closed = False  # that is for the next reader to come to

    def _was_left(self, what: str) -> ClosedError:
        """The error of whoever asks for more of a run that is over for this program, and did not come to its end."""
        error = self._error
        how = "was left" if error is None or self._connection.is_left else f"failed ({type(error).__name__})"
        if error is not None and not isinstance(error, Exception):
            how = "was cancelled"
        known = ClosedError(
            f"{what}: the run {how} before its end",
            outcome=self.outcome,
            trace_id=self.trace_id,
            server_url=redact_url(self._config.base_url) if self._config.base_url else "",
            partial=self.partial,
        )
        known.__cause__ = error if isinstance(error, Exception) else None
        return known

    def _route_rest(self, rest: list[Unread]) -> None:
        """What was received and not yet handed out belongs to `partial` too."""
        if self._state.is_astray:
            return
        with suppress(HandlerError, MalformedResponseError):
            for sse in map(sse_of, rest):
                if sse.event == CLOSE:
                    self._check_whose(to_event(sse, self._config.limits))
                    break
                self._config.observed.taken += 1
                self._route(self._checked(to_event(sse, self._config.limits)))

    def _notify_end(self, end: str, error: BaseException | None) -> None:
        """Tell the observers, once, that the run is over."""
        if not self._end_notified:
            self._end_notified = True
            self._trace.end(self._now())
            watched, self._watch = self._watch, None
            assert watched is not None  # the block was entered
            watched.end()
            said = {
                "end": end,
                "error": error,
                "response": self._response,
                "outcome": str(self.outcome),
                "seconds": self._seconds,
            }
            self._config.observed.note("ended", self._context, said)
            self._now = self._reader.now = anyio.current_time  # a run that is kept holds no event loop

    async def _close(self, error: BaseException | None, *, is_own: bool = True) -> None:
        """Let all go. An error of the block, which is not the run's own, says nothing of the connection."""
        if self._closed:
            return
        self._closed = True
        observed, inbox = self._config.observed, self._state.buffer
        observed.hold(0)
        if inbox.is_within_event or inbox.held_bytes:
            inbox.start_anew()  # who keeps the error of a run keeps the run, but not half an event
        self._release()
        reason = type(error).__name__ if error else "its end" if inbox.is_closed or self._state.record else "left"
        outcome = str(self._state.tracker.outcome)
        log_event(
            "closed",
            self._context,
            "closed (%s), outcome %s",
            reason,
            outcome,
            reason=reason,
            outcome=outcome,
            seconds=self._seconds,
            bytes=observed.bytes,
            events=observed.events,
        )
        await self._connection.close(None if isinstance(error, Exception) and not is_own else error)

    @property
    def _seconds(self) -> float:
        """Seconds since the block was entered."""
        return self._now() - self._state.began

    def __repr__(self) -> str:
        return f"<Run {self.trace_id} {self.outcome}>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """Return the run as text and HTML, for notebooks."""
        from oxygent_client._run.notebook import mime_bundle

        return mime_bundle(self.trace())

    def _ipython_display_(self) -> None:
        """Show the run in a notebook, and update the display until the run has ended."""
        from oxygent_client._run.notebook import LiveDisplay

        display = LiveDisplay(weakref.WeakMethod(self._repr_mimebundle_))
        self._config.observed.observers += (display,)


def _is_failure(detector: Callable[[Any], bool], output: Any) -> bool:
    try:
        return detector(copy_json(output))
    except Exception as error:  # it is the user's own
        raise HandlerError(f"the failure detector raised {type(error).__name__}") from error


def _is_stored_as(output: Any, stored: Any) -> bool:
    """Whether a server that stores texts would store `output` as this."""
    try:
        return output == stored or str(output) == stored or (isinstance(stored, str) and json.loads(stored) == output)
    except (ValueError, RecursionError):
        return False
