"""`SyncQueryResults`: the results of many queries, for programs without `async`.

Rule: a plain iterable of queries is read in the calling thread, while it waits for the next result; so it may block.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Final, Self, cast

from oxygent_client import OxyRequest, QueryResult, QueryResults
from oxygent_client.errors import ClosedError
from oxygent_client.sync._portal import Block, Portal
from oxygent_client.sync._run import LEAVE_SECONDS

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


class SyncQueryResults:
    """The results of many queries: `for result in agent.map(queries, limit=8): ...`.

    Leaving the `for`, at any time, cancels the runs in progress, which makes the remote stop. So does leaving
    `with agent.map(queries) as results`, or `close`.
    """

    _block: Block[QueryResults] | None = None

    def __init__(
        self,
        map_queries: Callable[[Any], QueryResults],
        queries: Iterable[Query] | AsyncIterable[Query],
        portal: Callable[[], Portal],
    ) -> None:
        self._feed = _Feed()
        self._portal = portal
        is_fed = isinstance(cast("Any", queries), Iterable) and not isinstance(queries, str | bytes)
        self._queries = iter(cast("Iterable[Query]", queries)) if is_fed else None
        self._results = map_queries(self._feed if is_fed else queries)
        self._has_all = self._queries is None
        self._begun = 0
        self._read = 0
        self._input_error: Exception | None = None

    def __enter__(self) -> Self:
        if self._block is not None:
            raise ClosedError("the results of a map are entered once; call map again")
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._block is not None:
            self._block.leave(error)

    def close(self) -> None:
        """Cancel the runs in progress."""
        if self._block is not None:
            self._block.leave()

    def __del__(self) -> None:
        if self._block is not None:
            self._block.leave_soon()

    def __iter__(self) -> Iterator[QueryResult]:
        block = self._enter()
        try:
            while (result := next(self, None)) is not None:
                yield result
        except GeneratorExit:  # perhaps of the garbage collector
            block.leave_soon(LEAVE_SECONDS)
            raise
        except BaseException:
            self.close()
            raise
        self.close()

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

    def _enter(self) -> Block[QueryResults]:
        if self._block is None:
            self._block = Block(self._portal(), self._results)
            self._block.enter()
        return self._block
