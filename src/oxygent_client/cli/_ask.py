"""Ask one question and show the run while it streams.

Rule 1: leaving, for whatever reason, leaves the stream's block: the remote run stops too.
Rule 2: what cannot be shown does not end the run: one line says so at the end. What can no longer be written does.
Rule 3: what was sent in confidence is not drawn: a terminal is seen by others, and what goes into a pipe is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import anyio
from attrs import define, evolve

from oxygent_client import Event, OxyRequest, SSEOxyGent
from oxygent_client.cli._error_advice import complaint
from oxygent_client.cli._output import RunSummary, Show
from oxygent_client.sanitize import without_credentials

__all__ = ["converse"]

Hide = Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def _hidden(event: Event, hide: Hide) -> Event:
    sse = evolve(event.sse, event=hide(event.sse.event), id=hide(event.sse.id), data=hide(event.sse.data))
    return evolve(event, type=hide(event.type), content=hide(event.content), message=hide(event.message), sse=sse)


@define
class _Told:
    """A show, which is told what `hide` leaves, and what it could not show."""

    show: Show
    hide: Hide = _same
    failed: int = 0
    first: str = ""

    def see(self, event: Event, at: float) -> None:
        self._try(f"an event of the class {type(event).__name__}", lambda: self.show.see(_hidden(event, self.hide), at))

    def tick(self, at: float) -> None:
        self._try("the picture", lambda: self.show.tick(at))

    def finish(self, outcome: RunSummary, at: float) -> None:
        self._try("the answer", lambda: self.show.finish(self._hidden(outcome), at))

    def _hidden(self, outcome: RunSummary) -> RunSummary:
        response = outcome.response
        return evolve(outcome, response=evolve(response, output=self.hide(response.output)))

    def _try(self, what: str, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError:  # the reader has left, or the disk is full
            raise
        except Exception as error:  # noqa: BLE001  (a remote's data did it, and the run goes on)
            self.failed += 1
            self.first = self.first or f"{what} ({type(error).__name__})"

    @property
    def words(self) -> str:
        """The line about what could not be shown; empty where all was shown."""
        if not self.failed:
            return ""
        more = f", and {self.failed - 1} times more" if self.failed > 1 else ""
        return complaint(f"cannot show {self.first}{more}", "--json shows what was received.")


def _say(text: str) -> None:
    sys.stderr.write(text)


async def converse(
    agent: SSEOxyGent,
    query: str | OxyRequest,
    show: Show,
    *,
    clock: Callable[[], float] = anyio.current_time,
    say: Callable[[str], object] = _say,
) -> RunSummary:
    """How the run ended, after every event of it was shown.

    What could not be shown is one line for `say`.

    Raises:
        OxyError: as `agent.stream` does; what came until then was shown.
        OSError: what is shown can no longer be written.
    """
    start = clock()
    failed: list[BaseException] = []
    outcome: RunSummary | None = None
    told = _Told(show)

    async def tick(seconds: float) -> None:
        try:
            while True:
                began = clock()
                told.tick(began - start)
                # Drawing takes half of the time at the most, however long a picture takes.
                await anyio.sleep(max(seconds, clock() - began))
        except OSError as error:
            failed.append(error)  # raised below: a task group would wrap it
            group.cancel_scope.cancel()

    try:
        with show:
            async with anyio.create_task_group() as group:
                if show.interval is not None:
                    group.start_soon(tick, show.interval)
                try:
                    async with agent, agent.stream(query) as run:
                        told.hide = without_credentials(run.sent)
                        async for event in run:
                            told.see(event, clock() - start)
                    outcome = RunSummary(run.response, run.trace_id, run.remote_trace_id)
                    told.finish(outcome, clock() - start)
                except anyio.get_cancelled_exc_class():
                    raise
                except BaseException as error:  # noqa: BLE001  (raised below, also Ctrl-C: a task group would wrap it)
                    failed.append(error)
                group.cancel_scope.cancel()
            if failed:
                raise failed[0]
    finally:
        if told.words:
            say(told.words)
    assert outcome is not None, "either it failed or it ended"
    return outcome
