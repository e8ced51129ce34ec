"""Show a run while it streams.

Rule 1: leaving for any reason leaves the stream's block, so that the remote run stops too.
Rule 2: an event that cannot be shown does not end the run; one line reports it at the end. A failed write does.
Rule 3: credentials of the request are redacted, since others see the terminal and the output may be stored.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
from attrs import define, evolve, field

from oxygent_client import Event, Heartbeat, OxyRequest, OxyState, Run, SSEOxyGent
from oxygent_client.cli._exit_codes import FAILED, error_line
from oxygent_client.cli._options import write_error
from oxygent_client.cli._output import Display, RunSummary
from oxygent_client.sanitize import without_credentials

Redact = Callable[[Any], Any]


def _redacted(event: Event, redact: Redact) -> Event:
    sse = evolve(event.sse, event=redact(event.sse.event), id=redact(event.sse.id), data=redact(event.sse.data))
    return evolve(event, type=redact(event.type), content=redact(event.content), message=redact(event.message), sse=sse)


@define
class _SafeDisplay:
    """Passes redacted events to a display, and counts what it could not show."""

    display: Display
    redact: Redact = field(init=False)
    failures: int = 0
    first_failure: str = ""

    def see(self, event: Event | Heartbeat, at: float, run: Run) -> None:
        if isinstance(event, Event):
            shown = f"an event of the class {type(event).__name__}"
            self._try(shown, lambda: self.display.see(_redacted(event, self.redact), at, run.call_of(event)))

    def show_progress(self, run: Run) -> None:
        """Show the answer's text and the calls so far."""
        self._try("the text", lambda: self.display.show_text(self.redact(run.text)))
        self._try("the calls", lambda: self.display.show_trace(run.trace()))

    def tick(self, at: float) -> None:
        self._try("the picture", lambda: self.display.tick(at))

    def finish(self, summary: RunSummary, at: float) -> None:
        self._try("the answer", lambda: self.display.finish(self._redacted(summary), at))

    def _redacted(self, summary: RunSummary) -> RunSummary:
        response = summary.response
        return evolve(summary, response=evolve(response, output=self.redact(response.output)))

    def _try(self, part: str, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError:  # a broken pipe, or a full disk
            raise
        except Exception as error:  # noqa: BLE001  (caused by remote data; the run continues)
            self.failures += 1
            self.first_failure = self.first_failure or f"{part} ({type(error).__name__})"

    @property
    def report(self) -> str:
        """The line about what could not be shown; empty if everything was."""
        if not self.failures:
            return ""
        more = f", and {self.failures - 1} more" if self.failures > 1 else ""
        return error_line(f"cannot show {self.first_failure}{more}", "Use --json to see what was received.")


async def _nothing() -> None:
    pass


def ask_with(
    agent: SSEOxyGent, query: str | OxyRequest, display: Display, close: Callable[[], Awaitable[None]] = _nothing
) -> int:
    """Run a query and return the exit code; afterwards `close` is called in the same event loop."""

    async def ask() -> RunSummary:
        try:
            return await run_query(agent, query, display)
        finally:
            with anyio.CancelScope(shield=True):
                await close()

    return exit_code(anyio.run(ask))


def exit_code(summary: RunSummary) -> int:
    """Return the exit code of a run that has a response."""
    return 0 if summary.response.state is OxyState.COMPLETED else FAILED


async def run_query(
    agent: SSEOxyGent,
    query: str | OxyRequest,
    display: Display,
    *,
    clock: Callable[[], float] = anyio.current_time,
    report: Callable[[str], object] = write_error,
) -> RunSummary:
    """Send a query, show every event, and return a summary of the run: see `show_run`."""
    return await show_run(agent, lambda: agent.stream(query), display, clock=clock, report=report)


async def show_run(
    agent: SSEOxyGent,
    open_run: Callable[[], AbstractAsyncContextManager[Run]],
    display: Display,
    *,
    clock: Callable[[], float] = anyio.current_time,
    report: Callable[[str], object] = write_error,
    note: Callable[[Event | Heartbeat, Run], Awaitable[None]] | None = None,
) -> RunSummary:
    """Show every event of a run of this agent, and return a summary.

    `report` receives one line about events that could not be shown. `note` is called with each event after it was
    shown, and with a heartbeat whenever there was none for a second.

    Raises:
        OxyError: the run failed; the events until then were shown.
        OSError: the output can no longer be written.
    """
    start = clock()
    failed: list[BaseException] = []
    summary: RunSummary | None = None
    safe = _SafeDisplay(display)
    under_way: list[Run] = []

    async def tick(seconds: float) -> None:
        try:
            while True:
                began = clock()
                for each in under_way:
                    safe.show_progress(each)
                safe.tick(began - start)
                # Drawing takes at most half of the time.
                await anyio.sleep(max(seconds, clock() - began))
        except OSError as error:
            failed.append(error)  # raised below: a task group would wrap it
            group.cancel_scope.cancel()

    try:
        with display:
            try:
                async with anyio.create_task_group() as group:
                    if display.interval is not None:
                        group.start_soon(tick, display.interval)
                    try:
                        async with agent, open_run() as run:
                            safe.redact = without_credentials(run.sent)
                            under_way.append(run)
                            async for event in run if note is None else run.events(keepalive=1.0):
                                safe.see(event, clock() - start, run)
                                if note is not None:
                                    await note(event, run)
                        summary = RunSummary(run.response, run.trace_id, run.remote_trace_id)
                        safe.finish(summary, clock() - start)
                    except anyio.get_cancelled_exc_class():
                        raise
                    except BaseException as error:  # noqa: BLE001  (raised below, also Ctrl-C: a task group would wrap it)
                        failed.append(error)
                    group.cancel_scope.cancel()
            finally:
                for each in under_way:
                    safe.show_progress(each)
            if failed:
                raise failed[0]
    finally:
        if safe.report:
            report(safe.report)
    assert summary is not None
    return summary
