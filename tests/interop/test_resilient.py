"""The two `ResilientSSEAgent` classes of the OxyGent `SSEOxyGent` documentation, unchanged.

Rule 1: a class is read from the file of its block of the documentation; names that it does not import are in HEADER.
Rule 2: the server's record has how often its agent ran, and the transport how often a run was requested.
"""

from __future__ import annotations

import asyncio
import logging
import runpy
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from docs.examples.documentation.harness import FILES
from oxygent_client import (
    HTTPXTransport,
    OxyRequest,
    OxyResponse,
    OxyState,
    Retry,
    SSEOxyGent,
    Timeouts,
    errors,
)

from .cuts import Cut, line
from .harness import PATIENT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from oxygent_client import HTTPRequest, HTTPResponse

    from .harness import Record, RemoteServer

pytestmark = pytest.mark.anyio

HEADER: Final[dict[str, Any]] = {
    "OxyRequest": OxyRequest,
    "OxyResponse": OxyResponse,
    "OxyState": OxyState,
    "SSEOxyGent": SSEOxyGent,
    "aiohttp": errors,  # as by `from oxygent_client import errors as aiohttp`
    "asyncio": asyncio,
    "logger": logging.getLogger(__name__),
}
BLOCKS: Final = ("resilient_short", "resilient_long")
CLASSES: Final[dict[str, type[SSEOxyGent]]] = {
    path.stem: runpy.run_path(str(path), HEADER)["ResilientSSEAgent"] for path in FILES if path.stem in BLOCKS
}
# The class's own loop retries, and so does the agent's policy within each of its turns.
RETRIES: Final = {"once": Retry(attempts=1), "by default": Retry()}

each_class = pytest.mark.parametrize("block", BLOCKS)
each_retry = pytest.mark.parametrize("retry", RETRIES)


class Asked:
    """One of the classes, called once, and what the server saw."""

    def __init__(self, server: RemoteServer, block: str, query: str, **options: Any) -> None:
        self._server = server
        self._before = len(server.records())
        self._query = query
        given: dict[str, Any] = {"retry_delay": 0.02, "timeouts": PATIENT, **options}
        self._agent = CLASSES[block](**given)

    async def response(self) -> OxyResponse:
        """Return the response of `execute`."""
        return await self._agent.execute(OxyRequest(arguments={"query": self._query}))

    def seen(self) -> tuple[int, int]:
        """Return how often a run was requested, and how often the agent ran."""
        new: list[Record] = self._server.records(since=self._before)
        posts = sum(record.get("path") == "/sse/chat" for record in new)
        return posts, sum(record["event"] == "started" for record in new)


@attrs.define
class Knocking:
    """A transport that opens the server before its third exchange."""

    inner: HTTPXTransport
    open: Callable[[], Awaitable[None]]
    exchanges: int = 0

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        self.exchanges += 1
        if self.exchanges == 3:
            await self.open()
        async with self.inner.exchange(request) as response:
            yield response

    async def aclose(self) -> None:
        """As `Transport.aclose`."""
        await self.inner.aclose()


@each_class
@each_retry
async def test_two_refused_connections(newest: RemoteServer, block: str, retry: str) -> None:
    """After two refused connections there is one run, and its answer."""
    async with line(newest.port, shut=True) as way:
        knocking = Knocking(HTTPXTransport(), way.open)
        asked = Asked(newest, block, "echo hello", server_url=way.url, transport=knocking, retry=RETRIES[retry])
        try:
            response = await asked.response()
        finally:
            await knocking.aclose()

    assert response.state is OxyState.COMPLETED
    assert response.output == "hello"
    assert knocking.exchanges == 3
    assert asked.seen() == (1, 1)


@each_class
@each_retry
@pytest.mark.parametrize("reset", [False, True])
async def test_a_cut_run(newest: RemoteServer, block: str, retry: str, *, reset: bool) -> None:
    """A run that is cut is not repeated: the class gets no connection error."""
    async with line(newest.port, Cut(said=b'"step": 3}', reset=reset)) as way:
        asked = Asked(newest, block, "slow 30", server_url=way.url, retry=RETRIES[retry])
        response = await asked.response()
        assert way.cut == 1

    assert response.state is OxyState.FAILED
    assert "cut off" in response.output
    assert asked.seen() == (1, 1)


@each_class
@each_retry
@pytest.mark.parametrize(
    ("path", "timeouts"),
    [
        ("/bare", Timeouts(idle=0.4)),
        ("", Timeouts(idle=0.4, total=0.9)),  # the server's record shows it at work: it is waited for
    ],
)
async def test_idle(newest: RemoteServer, block: str, retry: str, path: str, timeouts: Timeouts) -> None:
    """A run without events is given up in time, and requested once."""
    asked = Asked(newest, block, "quiet 30", server_url=newest.url + path, timeouts=timeouts, retry=RETRIES[retry])
    response = await asked.response()

    assert response.state is OxyState.FAILED
    assert "within Timeouts." in response.output
    assert asked.seen() == (1, 1)
