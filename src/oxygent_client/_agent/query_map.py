"""Run many queries, a limited number at a time: `agent.map`.

Rule 1: a query that fails is a result with an error. Only an error of the iterable of queries itself is raised, after
    the results of the queries before it.
Rule 2: the runs in progress and the results that were not read yet are at most `limit` together: a slow reader stops
    the reading of queries.
Rule 3: the runs belong to a block. Leaving it cancels those in progress.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import anyio
import anyio.lowlevel
import attrs
from anyio.abc import TaskGroup

from oxygent_client._core.errors import ClosedError, OxyError
from oxygent_client._core.requests import OxyRequest, OxyResponse
from oxygent_client._core.tasks import plain_task_group
from oxygent_client._core.validation import FLAG, Rule, integer

Query: TypeAlias = str | OxyRequest
Queries: TypeAlias = Iterable[Query] | AsyncIterable[Query]


def _is_iterable(value: Any) -> bool:
    return isinstance(value, Iterable | AsyncIterable) and not isinstance(value, str | bytes)


_QUERIES: Final = Rule("an iterable, or async iterable, of str and OxyRequest", _is_iterable)
_LIMIT: Final = integer(ge=1)


@attrs.frozen
class QueryResult:
    """The result of one query of `agent.map`: a response or an error."""

    index: int
    """The position of the query in the input, from 0."""
    query: str | OxyRequest
    """The query."""
    response: OxyResponse | None = None
    """The response; None if the query failed."""
    error: OxyError | None = None
    """The error that `ask` would have raised; None if there is a response."""


class QueryResults:
    """The results of many queries: `async with agent.map(queries) as results: async for result in results: ...`.

    Leaving the block, at any time, cancels the runs in progress, which makes the remote stop.
    """

    limit: int
    """The largest number of runs at a time."""

    def __init__(
        self, ask: Callable[[Query], Awaitable[OxyResponse]], queries: Queries, *, limit: int, ordered: bool
    ) -> None:
        _QUERIES.check("queries", queries)
        _LIMIT.check("limit", limit)
        FLAG.check("ordered", ordered)
        self.limit = limit
        self._ask = ask
        self._queries = queries
        self._ordered = ordered
        self._stack = AsyncExitStack()
        self._tasks: TaskGroup | None = None
        self._is_open = False
        self._begun = 0
        self._read = 0
        self._ready: dict[int, QueryResult] = {}  # in the order in which the runs ended
        self._has_all = False
        self._input_error: Exception | None = None

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise ClosedError("the results of a map are entered once; call map again")
        self._tasks = await self._stack.enter_async_context(plain_task_group())
        self._is_open = True
        self._changed = anyio.Event()
        self._tasks.start_soon(self._read_queries, self._tasks)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_open = False
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()
        await self._stack.__aexit__(kind, error, traceback)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> QueryResult:
        """Return the next result.

        Raises:
            StopAsyncIteration: all results were read.
            ClosedError: the block was left, or not entered.
            Exception: the iterable of queries raised it.
        """
        await anyio.lowlevel.checkpoint()
        while True:
            if not self._is_open:
                raise ClosedError("results can be read inside their block: `async with agent.map(...) as results`")
            key = self._read if self._ordered else next(iter(self._ready), -1)
            if (result := self._ready.pop(key, None)) is not None:
                self._read += 1
                self._notify()
                return result
            if self._has_all and self._read == self._begun:
                error, self._input_error = self._input_error, None
                raise error or StopAsyncIteration
            await self._changed.wait()

    async def _read_queries(self, tasks: TaskGroup) -> None:
        try:
            if isinstance(self._queries, AsyncIterable):
                async for query in self._queries:
                    await self._begin(tasks, query)
            else:
                for query in self._queries:
                    await self._begin(tasks, query)
        except Exception as error:  # noqa: BLE001  (raised to the reader)
            self._input_error = error
        self._has_all = True
        self._notify()

    async def _begin(self, tasks: TaskGroup, query: Query) -> None:
        """Begin the run of a query, and wait until another may begin."""
        tasks.start_soon(self._run, self._begun, query)
        self._begun += 1
        await anyio.lowlevel.checkpoint()
        while self._begun - self._read >= self.limit:
            await self._changed.wait()

    async def _run(self, index: int, query: Query) -> None:
        try:
            result = QueryResult(index, query, response=await self._ask(query))
        except OxyError as error:
            result = QueryResult(index, query, error=error)
        self._ready[index] = result
        self._notify()

    def _notify(self) -> None:
        """Wake all tasks that wait for a change."""
        self._changed.set()
        self._changed = anyio.Event()
