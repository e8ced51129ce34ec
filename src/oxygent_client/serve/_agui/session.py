"""Run an agent for a client of AG-UI: one run at the remote, and one or more runs of AG-UI.

Rule 1: a stream begins when the remote has accepted the run, so that a refusal is a status. A later error is the event
    RUN_ERROR, which tells whether the agent ran.
Rule 2: a run is hosted by a task of the service, since it outlives a request if its agent asks the user: then the
    response ends with an interrupt, and the next request goes on with the same run.
Rule 3: a client that leaves stops its run at the remote. So does one that gives no answer in time.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import anyio
import attrs

from oxygent_client import AnyEvent, Run, TextDelta
from oxygent_client.serve import Exchange, Outbound, Refused, Runs
from oxygent_client.serve._agui.events import Document, RunEvents, join
from oxygent_client.serve._agui.requests import Answer, RunInput
from oxygent_client.serve._agui.threads import Threads

_logger: Final = logging.getLogger("oxygent_client.serve")


class Interrupts:
    """The runs that wait for an answer of the user."""

    def __init__(self) -> None:
        self._waiting: dict[str, RunSession] = {}

    def add(self, interrupt_id: str, session: RunSession) -> None:
        """Add a run."""
        self._waiting[interrupt_id] = session

    def remove(self, interrupt_id: str) -> None:
        """Remove a run."""
        self._waiting.pop(interrupt_id, None)

    def check_answered(self, asked: RunInput) -> None:
        """Check that no run of the thread waits.

        Raises:
            Refused: one does.
        """
        if any(each.thread_id == asked.thread_id for each in self._waiting.values()):
            raise Refused(409, "interrupt_open", "the agent waits for an answer: send `resume`", param="resume")

    def take(self, asked: RunInput) -> tuple[RunSession, Answer]:
        """Return the run that gets an answer of the input, and the answer.

        Raises:
            Refused: there is none; it may be over, or have its answer already.
        """
        for answer in asked.answers:
            session = self._waiting.get(answer.interrupt_id)
            if session is not None and session.thread_id == asked.thread_id:
                self.remove(answer.interrupt_id)
                return session, answer
        raise Refused(409, "interrupt_unknown", "no agent waits for this answer: the run is over", param="resume")


@attrs.define(eq=False)
class RunSession:
    """One run at the remote."""

    runs: Runs
    threads: Threads
    interrupts: Interrupts
    asked: RunInput
    exchange: Exchange
    """The request that is being answered."""
    agent: str = ""
    reasoning: bool = False
    answer_seconds: float = 300.0
    on_begin: Callable[[Run], None] | None = None
    """Gets the run at its beginning."""
    _scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False)
    _events: RunEvents | None = attrs.field(default=None, init=False)
    _run: Run | None = attrs.field(default=None, init=False)
    _responded: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _error: Exception | None = attrs.field(default=None, init=False)
    """An error before the response has begun."""
    _answer: Answer | None = attrs.field(default=None, init=False)
    _answered: anyio.Event = attrs.field(factory=anyio.Event, init=False)

    @property
    def thread_id(self) -> str:
        """The id of its thread."""
        return self.asked.thread_id

    # --- the request's side ---

    async def respond(self) -> None:
        """Wait until the response to the request is complete.

        Raises:
            Exception: the run failed before the response had begun.
        """
        responded = self._responded
        try:
            await responded.wait()
        finally:
            if not responded.is_set():
                self._scope.cancel()
        if self._error is not None:
            raise self._error

    def resume(self, asked: RunInput, exchange: Exchange, answer: Answer) -> None:
        """Go on with the answer of the user, as the response to another request."""
        self._answer, self.exchange = answer, exchange
        assert self._events is not None  # it has asked
        self._events.asked = attrs.evolve(asked, query=self.asked.query)
        self._responded = anyio.Event()
        self._answered.set()

    # --- the task of the run ---

    async def host(self) -> None:
        """Run the agent, and send the events, up to the end."""
        try:
            with self._scope:
                try:
                    await self._host()
                except Exception as error:  # noqa: BLE001  (it is the response, or its end)
                    await self._fail(error)
        finally:
            self._responded.set()

    async def _host(self) -> None:
        conversation = self.threads.conversation(self.asked, self.agent)
        memory: dict[str, Any] = {"conversation": conversation}
        if conversation is None:
            memory["arguments"] = {"short_memory": [dict(each) for each in self.asked.history]}
        async with self.runs.stream(
            self.asked.query_with_context(has_memory=conversation is not None),
            agent=self.agent,
            headers=self.exchange.headers,
            **memory,
        ) as run:
            self._run = run
            if self.on_begin is not None:
                self.on_begin(run)
            outbound = self.runs.outbound(run)
            self._events = events = RunEvents(self.asked, run.remote_trace_id, outbound, self.reasoning)
            await self._begin(events.begin())
            await self._read(run, events, outbound)
            if conversation is not None:
                self.threads.remember(self.asked, self.agent, conversation)
            await self._end(events.finish(run))

    async def _read(self, run: Run, events: RunEvents, outbound: Outbound) -> None:
        take_update = self.runs.text_updates(run)
        async for received in run:
            sent: list[Document] = []
            if isinstance(received, TextDelta):
                if (update := take_update()) is not None:
                    sent = events.write(update)
            elif received.type != "feedback":
                sent = events.take(outbound.event(received))
            elif events.asked.is_current:
                await self._interrupt(run, events, outbound.event(received))
            else:
                sent = events.ask(outbound.event(received))
            if sent:
                await self.exchange.send_event(join(sent))

    async def _interrupt(self, run: Run, events: RunEvents, question: AnyEvent) -> None:
        """Ask the user, and send the answer to the agent that waits for it, and then that it is all."""
        interrupt_id, self._answered = uuid.uuid4().hex, anyio.Event()
        until = datetime.now(UTC) + timedelta(seconds=self.answer_seconds)
        self.interrupts.add(interrupt_id, self)
        try:
            await self._end(events.interrupt(question, interrupt_id, until.isoformat(timespec="seconds")))
            self._responded.set()
            await self._wait_for_answer()
        finally:
            self.interrupts.remove(interrupt_id)
        if self._answer is None:
            _logger.warning("run %s was stopped: its agent got no answer", run.trace_id)
            self._scope.cancel()
            await anyio.lowlevel.checkpoint()
        assert self._answer is not None
        answer, self._answer = self._answer, None
        await self._begin(events.begin())
        await self.runs.answer(run, answer.data)

    async def _wait_for_answer(self) -> None:
        """Wait until there is an answer; no longer than `answer_seconds`, or until the service stops."""
        async with anyio.create_task_group() as group:

            async def wait_for(event: anyio.Event) -> None:
                await event.wait()
                group.cancel_scope.cancel()

            group.start_soon(wait_for, self._answered)
            group.start_soon(wait_for, self.runs.on_stop)
            await anyio.sleep(self.answer_seconds)
            group.cancel_scope.cancel()

    async def _begin(self, events: list[Document]) -> None:
        assert self._run is not None  # it has begun
        await self.exchange.start_stream({"x-request-id": self._run.trace_id})
        await self.exchange.send_event(join(events))

    async def _end(self, events: list[Document]) -> None:
        await self.exchange.send_event(join(events))
        await self.exchange.end_stream()

    async def _fail(self, error: Exception) -> None:
        if not self.exchange.status:
            self._error = error
            return
        failure = self.runs.failure_of(error)
        if not self.exchange.is_finished:  # else it waits for an answer, and no request for its end
            assert self._events is not None  # the response has begun
            try:
                ended = self._events.fail(failure, self._run)
            except Exception as raised:  # noqa: BLE001  (`sanitize` fails, which may be why: no state, then)
                self.runs.failure_of(raised)
                ended = self._events.fail(failure)
            await self._end(ended)
