"""Run many queries as detached runs: some at a time, with a journal, so that a batch can be resumed.

Rule 1: no query runs twice. A query whose run may have started is never requested again: its result is read from the
    server, or it is `unknown`.
Rule 2: the status of a result follows from the outcome of its error: see STATUSES.
Rule 3: credentials that a run sent are redacted in its result.
Rule 4: several new queries in a row without a result end the batch: the server is down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final, TypeAlias

import anyio
import anyio.lowlevel
from attrs import define
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from oxygent_client import Outcome, OxyRequest, RunHandle, RunRecord, SSEOxyGent
from oxygent_client.cli._batch_files import FINAL, Attempt, BatchFiles, Item
from oxygent_client.cli._options import shown_url
from oxygent_client.errors import NotFoundError, OxyError, RemoteAgentError
from oxygent_client.sanitize import without_credentials

STATUSES: Final[Mapping[Outcome, str]] = {
    Outcome.NOT_SENT: "not_run",
    Outcome.REJECTED: "not_run",
    Outcome.UNKNOWN: "unknown",
    Outcome.STARTED: "unknown",
    Outcome.COMPLETED: "failed",
}
"""The status of a query by the outcome of its error."""
STOP_AFTER: Final = 20
"""New queries in a row without a result that end a batch."""
POLL_SECONDS: Final = 0.5
"""Pause between two requests for a record."""
DOUBT_SECONDS: Final = 10.0
"""How long to wait for a sign of a run that the server's record does not have: records may lag behind."""

Work: TypeAlias = tuple[Item, Attempt | None]


@define
class Batch:
    """A batch at work."""

    agent: SSEOxyGent
    files: BatchFiles
    on_result: Callable[[str], object]
    """Called with the status of each query."""
    stop_after: int = STOP_AFTER
    _in_a_row: int = 0
    """Queries without a result, since the last one that had one."""
    _stopped_by: Exception | None = None

    async def run(self, work: Sequence[Work], concurrency: int) -> None:
        """Run the queries, `concurrency` at a time.

        Raises:
            OxyError: the server cannot be reached, now or after `stop_after` queries.
            OSError: a result cannot be written.
        """
        async with self.agent:
            await self.agent.check_alive()
            todo = iter(work)
            async with anyio.create_task_group() as tasks:
                for _ in range(min(concurrency, len(work))):
                    tasks.start_soon(self._work, todo, tasks.cancel_scope)
        if self._stopped_by is not None:
            raise self._stopped_by

    async def _work(self, todo: Iterator[Work], scope: anyio.CancelScope) -> None:
        for item, attempt in todo:
            await anyio.lowlevel.checkpoint()
            try:
                status, error = await self._perform(item, attempt)
            except OSError as failure:  # raised by `run`: a task group would wrap it
                self._stop(failure, scope)
                return
            if attempt is None:  # earlier attempts may all be unknown
                self._in_a_row = 0 if status in FINAL else self._in_a_row + 1
            if self._in_a_row >= self.stop_after:
                self._stop(error, scope)
            self.on_result(status)

    def _stop(self, error: Exception | None, scope: anyio.CancelScope) -> None:
        self._stopped_by = error
        scope.cancel()

    async def _perform(self, item: Item, attempt: Attempt | None) -> tuple[str, Exception | None]:
        """Run a query, or read the result of its earlier attempt; write the result, and return its status and error."""
        is_new = attempt is None
        attempt = attempt or self.files.begin(item)
        known: dict[str, Any] = {"id": item.id, "query": item.query, "trace_id": attempt.trace_id}
        try:
            result = await (self._start(item, attempt) if is_new else self._resolve(attempt))
            found: OxyError | None = None
        except OxyError as error:
            found = error
            described = {"type": type(error).__name__, "message": str(error)}
            result = {"status": STATUSES[error.outcome], "error": described}
        self.files.finish(known | result)
        return str(result["status"]), found

    async def _start(self, item: Item, attempt: Attempt) -> dict[str, Any]:
        request = OxyRequest(
            arguments={**item.arguments, "query": item.query},
            current_trace_id=attempt.trace_id,
            node_id=attempt.node_id,
        )
        try:
            await self.agent.start(request)
        except OxyError as error:
            if error.outcome is not Outcome.UNKNOWN:
                raise
            return await self._resolve(attempt)
        return await self._read(attempt)

    async def _resolve(self, attempt: Attempt) -> dict[str, Any]:
        """Read the result of a run that may have started."""
        record = await self.agent.lookup(attempt.trace_id)
        return await self._read(attempt, None if record is not None else DOUBT_SECONDS)

    async def _read(self, attempt: Attempt, doubt: float | None = None) -> dict[str, Any]:
        """Read the result of a run; with `doubt`, give up if there is no sign of it within so many seconds.

        Raises:
            OxyError: the run failed, or its result cannot be had.
        """
        handle = RunHandle(
            server_url=self.agent.server_url,
            trace_id=attempt.trace_id,
            remote_trace_id=attempt.trace_id,
            node_id=attempt.node_id,
            call_stack=("user", self.agent.name),
        )
        try:
            async with self.agent.attach(handle.to_token()) as run:
                with anyio.move_on_after(doubt) as scope:
                    await anext(run, None)
                if scope.cancelled_caught:
                    raise OxyError("the server shows no sign of the run; it may not have started")
                response = await run.final_response()
                output = without_credentials(run.sent)(response.output)
        except NotFoundError:  # releases before 1.0.13 have no events of detached runs
            return await self._poll(attempt, self.agent.timeouts.total if doubt is None else doubt)
        recovered = {"recovered": True} if response.recovered else {}
        return {"status": "completed", "output": output, **recovered}

    async def _finished(self, attempt: Attempt) -> RunRecord | None:
        record = await self.agent.lookup(attempt.trace_id)
        return record if record is not None and record.is_over else None

    async def _poll(self, attempt: Attempt, seconds: float | None) -> dict[str, Any]:
        """Read the result of a run from the server's record, within so many seconds.

        Raises:
            OxyError: the run failed, or the record does not have its end.
        """
        with anyio.move_on_after(seconds):
            while (record := await self._finished(attempt)) is None:  # noqa: ASYNC110  (it is at the server)
                await anyio.sleep(POLL_SECONDS)
            trace = record.trace()
            if record.is_failure:
                raise RemoteAgentError(trace.error)
            return {"status": "completed", "output": trace.output, "recovered": True}
        raise OxyError("the server's record does not have the end of the run")


class _Rate(ProgressColumn):
    """Queries per second, of late."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


def run_batch(agent: SSEOxyGent, items: Sequence[Item], output: Path, concurrency: int, console: Console) -> bool:
    """Run a batch, or what is left of it; return whether all queries are completed.

    `console` shows the progress, if it is a terminal, and a summary at the end.

    Raises:
        OxyError: the batch cannot be run, or was stopped.
        OSError: a result cannot be written.
    """
    with BatchFiles(output, shown_url(agent.server_url)) as files:
        work = files.to_do(items)
        progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failures]} without an answer"),
            console=console,
        )
        task = progress.add_task("", total=len(items), completed=len(items) - len(work), failures=0)
        failures = Counter[str]()

        def show(status: str) -> None:
            failures[status] += 1
            progress.update(task, advance=1, failures=failures.total() - failures["completed"])

        async def run() -> bool:
            await Batch(agent, files, show).run(work, concurrency)
            return all(files.status(item) == "completed" for item in items)

        try:
            with progress if console.is_terminal else nullcontext():
                return anyio.run(run)
        finally:
            statuses = Counter(files.status(item) for item in items)
            console.print(_summary(statuses, output), highlight=False, soft_wrap=True, markup=False)


LABELS: Final[Mapping[str, str]] = {
    "completed": "completed",
    "failed": "failed",
    "unknown": "unknown (may have run)",
    "not_run": "not run",
    "": "left",
}


def _summary(statuses: Counter[str], output: Path) -> str:
    parts = ", ".join(f"{statuses[status]} {label}" for status, label in LABELS.items() if statuses[status])
    again = "" if statuses.keys() <= {*FINAL} else ". Run the same command again for those without a result"
    return f"{statuses.total()} queries: {parts}; results in {output}{again}."
