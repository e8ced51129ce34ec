"""`SyncQueryResults`: the results of many queries, for programs without `async`.

Rule 1: a plain iterable of queries is read in the calling thread, while it waits for the next result; so it may block.
Rule 2: threads may share the results: calls are served one after the other, so that each result goes to one thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final, cast

from oxygent_client import OxyRequest, QueryResult, QueryResults
from oxygent_client.errors import ClosedError
from oxygent_client.sync._portal import BlockOwner, Portal, in_calling_thread

Query = str | OxyRequest


_END: Final = object()


class _Feed(AsyncIterator[Query]):
    """Queries that another thread hands over, until it hands over `_END`."""

    def __init__(self) -> None:
        self._queries: asyncio.Queue[Any] = asyncio.Queue()
        self.put = self._queries.put_nowait

    async def __anext__(self) -> Query:
        query = await self._queries.get()
        if query is _END:
            raise StopAsyncIteration
        return cast("Query", query)


class SyncQueryResults(BlockOwner[QueryResults]):
    """The results of many queries: `for result in agent.map(queries, limit=8): ...`.

    Leaving the `for`, at any time, cancels the runs in progress, which makes the remote stop. So does leaving
    `with agent.map(queries) as results`, or `close`. Threads that iterate over the same results share them: each result
    goes to one thread. If one of them leaves its `for` before the end, the others get a `ClosedError`.
    """

    def __init__(
        self,
        map_queries: Callable[[Any], QueryResults],
        queries: Iterable[Query] | AsyncIterable[Query],
        portal: Callable[[], Portal],
    ) -> None:
        self._feed = _Feed()
        is_fed = isinstance(cast("Any", queries), Iterable) and not isinstance(queries, str | bytes)
        self._queries = iter(cast("Iterable[Query]", queries)) if is_fed else None
        self._results = map_queries(self._feed if is_fed else queries)
        super().__init__(self._results, portal)
        self._begun = 0
        self._read = 0
        self._is_done = False
        self._input_error: Exception | None = None

    def _entered_twice(self) -> ClosedError:
        return ClosedError("the results of a map are entered once; call map again")

    def __iter__(self) -> Iterator[QueryResult]:
        return self._each(lambda: next(self, None), None)

    def __next__(self) -> QueryResult:
        """Return the next result.

        Raises:
            StopIteration: all results were read.
            ClosedError: the results were left before.
            Exception: the iterable of queries raised it.
        """
        try:
            result = cast("QueryResult | None", self._enter().do(self._take))
        except ClosedError:
            if not self._is_done:
                raise
            result = None  # another thread got the end, and left the block
        if result is None:
            raise StopIteration
        return result

    async def _take(self) -> QueryResult | None:
        """Return the next result, or None at the end; queries are read in the thread that waits for it."""
        if self._queries is not None:
            await in_calling_thread(self._read_queries, self._queries)
        if (result := await anext(self._results, None)) is not None:
            self._read += 1
            return result
        self._is_done = True
        error, self._input_error = self._input_error, None
        if error is not None:
            raise error
        return None

    def _read_queries(self, queries: Iterator[Query]) -> None:
        """Read queries, while fewer than `limit` are in progress or not read; `_END` follows the last one."""
        put = partial(self._enter().portal.post, self._feed.put)
        try:
            while self._begun - self._read < self._results.limit:
                put(next(queries))
                self._begun += 1
        except StopIteration:
            self._queries = None
        except Exception as error:  # noqa: BLE001  (raised after the results)
            self._queries, self._input_error = None, error
        if self._queries is None:
            put(_END)
