"""`AskAgent`: answer the queries of a Ray dataset, on as many machines as the cluster has (extra `[ray]`).

Rule 1: Ray repeats the work of a worker that died. So the trace id of a run follows from the job, the id of the row and
    the query, and a run that the server has a record of is not started again. A row whose record
    cannot be read is `unknown`, and is not run.
Rule 2: a row that fails has a status and an error; it does not end the pipeline.
Rule 3: credentials that a run sent are redacted in its row.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio

from oxygent_client import Outcome, OxyRequest, OxyState, RunHandle, RunRecord, SSEOxyGent, sync
from oxygent_client.errors import ConfigurationError, OxyError
from oxygent_client.sanitize import without_credentials

__all__ = ["AskAgent"]

_STATUSES: Final[Mapping[Outcome, str]] = {
    Outcome.NOT_SENT: "not_run",
    Outcome.REJECTED: "not_run",
    Outcome.UNKNOWN: "unknown",
    Outcome.STARTED: "unknown",
    Outcome.COMPLETED: "failed",
}
_COLUMNS: Final = ("status", "output", "error", "trace_id")


class AskAgent:
    """Answers queries in batches: `dataset.map_batches(AskAgent, fn_constructor_kwargs={...}, concurrency=2)`.

    It adds the columns `status` (`completed`, `failed`, `not_run`, `unknown`), `output` (a text; other values as JSON),
    `error` and `trace_id`. The server needs detached runs and records.
    """

    def __init__(
        self, server_url: str, *, job: str, query: str = "query", id: str = "id", limit: int = 8, **settings: Any
    ) -> None:
        """Make the agent of a worker.

        Args:
            server_url: the base URL of the remote.
            job: the name of the job. A row of a job runs once, also if the job is started again.
            query: the column of the queries.
            id: the column of the ids, which differ within a job.
            limit: how many runs of this worker are in progress at a time.
            settings: more settings of `SSEOxyGent`, which can be pickled.

        Raises:
            ConfigurationError: a setting is invalid.
        """
        if not job:
            raise ConfigurationError("job must not be empty: it tells the runs of two jobs apart")
        self._agent = SSEOxyGent(server_url, **settings)
        self._job = job
        self._query = query
        self._id = id
        self._limit = limit

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
        """Answer the queries of a batch, and return it with more columns."""
        pairs = [(str(name), str(query)) for name, query in zip(batch[self._id], batch[self._query], strict=True)]
        rows = sync.call(self._answer_all, pairs)
        return {**batch, **{column: [row[column] for row in rows] for column in _COLUMNS}}

    async def _answer_all(self, pairs: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
        rows: list[dict[str, str]] = [{} for _ in pairs]
        limiter = anyio.CapacityLimiter(self._limit)

        async def answer(row: dict[str, str], name: str, query: str) -> None:
            async with limiter:
                row.update(await self._answer(name, query))

        async with self._agent, anyio.create_task_group() as tasks:
            for row, (name, query) in zip(rows, pairs, strict=True):
                tasks.start_soon(answer, row, name, query)
        return rows

    async def _answer(self, name: str, query: str) -> dict[str, str]:
        seed = json.dumps([self._job, name, query])
        trace_id = uuid.uuid5(uuid.NAMESPACE_URL, seed).hex
        request = OxyRequest(arguments={"query": query}, current_trace_id=trace_id, node_id=trace_id[:16])
        row = {"status": "completed", "output": "", "error": "", "trace_id": trace_id}
        try:
            record = await self._agent.lookup(trace_id, must_read=True)
        except OxyError as error:  # a worker that died may have started the run, whatever its outcome
            return row | {"status": "unknown", "error": str(error)}
        try:
            if record is not None and record.is_over:
                return row | _of_record(record)
            return row | {"output": await self._run(request, is_new=record is None)}
        except OxyError as error:
            return row | {"status": _STATUSES[error.outcome], "error": str(error)}

    async def _run(self, request: OxyRequest, *, is_new: bool) -> str:
        """Start a detached run, or attach to one that was started, and return its output."""
        agent, trace_id = self._agent, str(request.current_trace_id)
        if is_new:
            handle = await agent.start(request)
        else:
            handle = RunHandle(
                server_url=agent.server_url,
                trace_id=trace_id,
                remote_trace_id=trace_id,
                node_id=request.node_id or "",
                call_stack=("user", agent.name),
            )
        async with agent.attach(handle.to_token()) as run:
            response = await run.final_response()
            return _text(without_credentials(run.sent)(response.output))


def _of_record(record: RunRecord) -> dict[str, str]:
    trace = record.trace()
    if record.state is OxyState.COMPLETED:
        return {"output": _text(trace.output)}
    return {"status": "failed", "error": trace.error}


def _text(output: Any) -> str:
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
