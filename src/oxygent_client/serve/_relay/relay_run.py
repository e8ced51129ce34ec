"""Run an agent for the viewers of one relayed run.

Rule 1: a run goes on while it has viewers, and for `grace_seconds` without one; then it is stopped at the remote.
Rule 2: no viewer slows a run. Before an event drops another that a viewer has not taken, the viewers get their turn
    `PAUSES` times; they get no time of the clock.
Rule 3: each question of an agent takes one answer, from whichever viewer answers first. One that surely did not reach
    the agent does not count.
Rule 4: each way in which a run can end is an event of its own; so is a failure of the relay itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import anyio
import anyio.lowlevel
import attrs

from oxygent_client import Outcome, OxyError, Run, TextDelta
from oxygent_client.serve import Audience, Failure, Runs
from oxygent_client.serve._relay.documents import (
    Question,
    cancelled_end,
    completed_end,
    failed_end,
    json_bytes,
)
from oxygent_client.serve._relay.event_log import EventLog

PAUSES: Final = 2
"""One more than a viewer that waits needs to get its turn, on trio too."""

STOPPING: Final = Failure(status=424, code="stopping", message="the server is stopping", outcome=Outcome.UNKNOWN)


@attrs.define(eq=False)
class RelayRun:
    """One run, its events and its viewers."""

    id: str
    runs: Runs
    audience: Audience[EventLog]
    """Its events and its viewers."""
    trace_id: str = attrs.field(default="", init=False)
    """The remote's trace id, once the remote has accepted the run."""
    error: Exception | None = attrs.field(default=None, init=False)
    """The error that ended it."""
    opened: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Set once the remote has accepted the run, or it has ended without that."""
    ended: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _run: Run | None = attrs.field(default=None, init=False)
    _questions: int = attrs.field(default=0, init=False)
    """The questions of agents that no viewer has answered."""
    _is_stopped: bool = attrs.field(default=False, init=False)

    async def execute(self, question: Question, headers: Mapping[str, str]) -> None:
        """Run the agent up to its end."""
        end = failed_end(STOPPING)
        try:
            with self.audience.scope:
                end = await self._relay(question, headers)
            if self.audience.scope.cancelled_caught:
                end = self._cancelled_end()
        except Exception as error:  # noqa: BLE001  (the end of the run, for its viewers)
            self.error, end = error, failed_end(self.runs.failure_of(error))
        finally:
            self.log.end(json_bytes(end))
            self.audience.notify()
            self.opened.set()
            self.ended.set()

    def stop(self) -> None:
        """Stop the run at the remote; `ended` is set when it has ended."""
        self._is_stopped = True
        self.audience.scope.cancel()

    async def answer(self, data: Any) -> bool:
        """Answer an agent that asks; False if none does.

        Raises:
            OxyError: the remote could not be reached, or refused.
        """
        if self._run is None or self.ended.is_set() or not self._questions:
            return False
        self._questions -= 1
        try:
            is_taken = await self.runs.answer(self._run, data)
        except OxyError as error:
            self._questions += not error.outcome.may_have_run
            raise
        self._questions += not is_taken
        return is_taken

    @property
    def log(self) -> EventLog:
        """Its events."""
        return self.audience.log

    async def _relay(self, question: Question, headers: Mapping[str, str]) -> Any:
        """Add the events of the run; return its end."""
        async with self.runs.stream(
            question.query, agent=question.agent, from_trace_id=question.context, headers=headers
        ) as run:
            self._run, self.trace_id = run, run.remote_trace_id
            self.audience.wait_for_viewers()
            self.opened.set()
            outbound = self.runs.outbound(run)
            async for event in run:
                if self.runs.whole_answers and isinstance(event, TextDelta):
                    continue
                data = json_bytes(outbound.message(event.message))
                for _ in range(PAUSES):
                    if self.log.must_pause(data):
                        await anyio.lowlevel.checkpoint()
                self.log.add(data)
                self._questions += event.type == "feedback"
                self.audience.notify()
            return completed_end(outbound.output(run.response.output), run.remote_trace_id)

    def _cancelled_end(self) -> Any:
        outcome = Outcome.UNKNOWN if self._run is None else self._run.outcome
        return cancelled_end("stopped" if self._is_stopped else "no_viewers", outcome, self.trace_id)
