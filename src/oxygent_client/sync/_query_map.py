"""`SyncQueryResults`: the results of many queries, for programs without `async`.

Rule: a plain iterable of queries is read in the calling thread, while it waits for the next result; so it may block.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Final, cast

from oxygent_client import OxyRequest, QueryResult, QueryResults
from oxygent_client.errors import ClosedError
from oxygent_client.sync._portal import Block, BlockOwner, Portal

Query = str | OxyRequest


_END: Final = object()


class _Feed(AsyncIterator[Query]):
    """Queries that another thread hands over, until it hands over `_END`."""

    def __init__(self) -> None:
        self._queries: asyncio.Queue[Any] = asyncio.Queue()
        self.put = self._queries.put

    async def __anext__(self) -> Query:
        query = await self._queries.get()
        if query is _END:
            raise StopAsyncIteration
        return cast("Query", query)


class SyncQueryResults(BlockOwner[QueryResults]):
    """The results of many queries: `for result in agent.map(queries, limit=8): ...`.

    Leaving the `for`, at any time, cancels the runs in progress, which makes the remote stop. So does leaving
    `with agent.map(queries) as results`, or `close`.
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
        self._has_all = self._queries is None
        self._begun = 0
        self._read = 0
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
        block = self._enter()
        self._read_queries(block)
        result = cast("QueryResult | None", block.do(anext, self._results, None))
        if result is None:
            error, self._input_error = self._input_error, None
            raise error or StopIteration
        self._read += 1
        return result

    def _read_queries(self, block: Block[QueryResults]) -> None:
        """Read queries in this thread, while fewer than `limit` are in progress or not read."""
        while self._queries is not None and self._begun - self._read < self._results.limit:
            try:
                query = next(self._queries)
            except StopIteration:
                self._queries = None
            except Exception as error:  # noqa: BLE001  (raised after the results)
                self._queries, self._input_error = None, error
            else:
                self._begun += 1
                block.do(self._feed.put, query)
        if self._queries is None and not self._has_all:
            self._has_all = True
            block.do(self._feed.put, _END)
