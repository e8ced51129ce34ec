"""Run an agent for a task of A2A, and send its events.

Rule 1: the answer is one artifact. It is sent in pieces while it is written; where a model takes a text back, the next
    piece replaces the artifact. So does the last, which has the whole text: Google ADK keeps that one only.
    Calls inside the remote are status updates; thoughts stay here.
Rule 2: a task is completed only if its run is. Every other end is a state of its own, with the code, the outcome and
    the trace id, after all text that was received.
Rule 3: a context is a conversation: a task has the memory of the good ones before it, one task at a time.
Rule 4: a client that leaves does not stop its task, as the protocol demands; one that cancels it does.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import anyio
import attrs
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.tasks import TaskUpdater
from a2a.types import Task, TaskState, TaskStatus

from oxygent_client import Conversation, Run, ToolCall
from oxygent_client.serve import Failure, Outbound, Refused, Runs, call_of, text_of
from oxygent_client.serve._a2a.documents import failure_metadata, line, question_of, text_parts
from oxygent_client.serve._a2a.sent_messages import SENT

PIECE_SECONDS: Final = 0.05
"""The shortest time between two pieces of an artifact."""
MOST_CALLS: Final = 200
"""More calls of one run are not reported: a task keeps all its statuses."""
MOST_CONTEXTS: Final = 1000
"""The conversations that are remembered, those of the last tasks."""
ARTIFACT: Final = "answer"
"""The id and the name of the artifact."""


class RunExecutor(AgentExecutor):
    """The runs of one served agent, as the package calls for them."""

    def __init__(self, runs: Runs, contexts: int = MOST_CONTEXTS) -> None:
        self._runs = runs
        self._tasks: dict[str, _TaskRun] = {}
        self._contexts = _Contexts(runs, contexts)

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Run the agent, and send the events of the task up to its end."""
        assert context.message is not None  # the package builds the context of a message
        message = context.message
        submitted = TaskStatus(state=TaskState.TASK_STATE_SUBMITTED)
        task = Task(id=message.task_id, context_id=message.context_id, status=submitted, history=[message])
        await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        running = self._tasks[task.id] = _TaskRun(self._runs, self._contexts, context, updater)
        try:
            await running.run()
        finally:
            del self._tasks[task.id]
            running.ended.set()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Stop the run, and return when it has; `execute` sends the end of the task."""
        running = self._tasks.get(str(context.task_id))
        if running is not None:
            running.scope.cancel()
            await running.ended.wait()


class _Contexts:
    """The conversations of the contexts."""

    def __init__(self, runs: Runs, most: int) -> None:
        self._runs = runs
        self._most = most
        self._tokens: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._busy: set[tuple[str, str]] = set()

    def begin(self, key: tuple[str, str]) -> Conversation:
        """Return the conversation of a context and an agent, which is then busy.

        Raises:
            Refused: it is busy already.
        """
        if key in self._busy:
            raise Refused(409, "context_busy", "another task of this context is running", retry_after=1.0)
        self._busy.add(key)
        return self._runs.conversation(self._tokens.get(key, ""))

    def end(self, key: tuple[str, str], conversation: Conversation | None) -> None:
        """Remember the conversation; None if its turn failed."""
        self._busy.discard(key)
        if conversation is not None:
            self._tokens[key] = conversation.to_token()
        if key in self._tokens:
            self._tokens.move_to_end(key)
        while len(self._tokens) > self._most:
            self._tokens.popitem(last=False)


@attrs.define(eq=False)
class _TaskRun:
    """One task, and its run."""

    runs: Runs
    contexts: _Contexts
    context: RequestContext
    updater: TaskUpdater
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False)
    ended: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _is_answering: bool = attrs.field(default=False, init=False)
    """Whether a piece of the answer was sent."""
    _calls: int = attrs.field(default=0, init=False)

    async def run(self) -> None:
        with self.scope:
            try:
                await self._run()
            except Exception as error:  # noqa: BLE001  (the end of the task)
                await self._fail(self.runs.failure_of(error), is_refused=isinstance(error, Refused))
        if self.scope.cancelled_caught:
            await self.updater.cancel()

    async def _run(self) -> None:
        assert self.context.message is not None  # as above
        question = question_of(self.context.message)
        key = (self.updater.context_id, question.agent)
        conversation, is_good = self.contexts.begin(key), False
        try:
            async with self.runs.stream(
                question.query,
                agent=question.agent,
                conversation=conversation,
                headers=self.context.call_context.state["headers"],
            ) as run:
                await self.updater.update_status(
                    TaskState.TASK_STATE_WORKING, metadata={"trace_id": run.remote_trace_id}
                )
                await self._read(run)
            is_good = True
        finally:
            self.contexts.end(key, conversation if is_good else None)
        await self.updater.complete()

    async def _read(self, run: Run) -> None:
        """Send what the run has, up to its end."""
        outbound, ended = self.runs.outbound(run), anyio.CancelScope()
        error: Exception | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._send_pieces, run, outbound, ended)
            try:
                await self._send_calls(run, outbound)
            except Exception as raised:  # noqa: BLE001  (it leaves the group unwrapped, below)
                error = raised
            ended.cancel()
        if error is None:
            await self._send_answer(text_of(outbound.output(run.response.output)), is_last=True)
        else:
            if (text := self.runs.received(run)) or self._is_answering:
                await self._send_answer(text, is_last=True)
            raise error

    async def _send_calls(self, run: Run, outbound: Outbound) -> None:
        async for event in run:
            if isinstance(event, ToolCall) and self._calls < MOST_CALLS and (call := call_of(outbound.event(event))):
                self._calls += 1
                said = text_parts(line(outbound.value(call)))
                await self.updater.start_work(self.updater.new_agent_message(said))

    async def _send_pieces(self, run: Run, outbound: Outbound, ended: anyio.CancelScope) -> None:
        take_update = self.runs.text_updates(run)
        with ended:
            while True:
                if (update := take_update()) is not None:
                    await self._send_answer(
                        outbound.text(update.delta), append=self._is_answering and not update.is_reset
                    )
                await anyio.sleep(PIECE_SECONDS)

    async def _send_answer(self, text: str, *, append: bool = False, is_last: bool = False) -> None:
        await self.updater.add_artifact(text_parts(text), ARTIFACT, ARTIFACT, append=append, last_chunk=is_last)
        self._is_answering = True

    async def _fail(self, failure: Failure, *, is_refused: bool = False) -> None:
        message = self.updater.new_agent_message(text_parts(failure.message), failure_metadata(failure))
        sent = self.context.call_context.state.get(SENT)
        if sent is not None and not failure.outcome.may_have_run:
            sent.forget()
        is_rejected = is_refused and not failure.outcome.may_have_run
        state = TaskState.TASK_STATE_REJECTED if is_rejected else TaskState.TASK_STATE_FAILED
        await self.updater.update_status(state, message, metadata=failure_metadata(failure))
