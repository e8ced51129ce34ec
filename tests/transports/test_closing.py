"""Leaving a run under repeated cancellation, over real sockets: connections close and the server sees it.

Rule: a native cancellation of asyncio passes the shields of anyio. Wherever it interrupts, the connection closes, and
the cancellation is raised.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from oxygent_client import HTTPRequest, Outcome, OxyError, Timeouts
from oxygent_client.errors import ClosedError, ConnectionLostError
from tests.support.plain import plain
from tests.support.servers import Conversation, Received, serving
from tests.support.tls import client_context, server_context
from tests.transports.test_network_transports import (
    BEGUN,
    SOON,
    Library,
    becomes,
)
from tests.transports.test_network_transports import library as library

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def holding(begins: bool, left: list[int]) -> Callable[[Conversation], Awaitable[None]]:
    """A server that never answers, or only begins to, and counts the clients that have left."""

    async def handle(conversation: Conversation) -> None:
        await conversation.request()
        if begins:
            await conversation.send(BEGUN)
        await conversation.client_left()
        left.append(1)

    return handle


async def until(said: Callable[[], bool]) -> None:
    """Wait until the condition is true."""
    with anyio.fail_after(SOON):
        while not said():  # noqa: ASYNC110  (nothing tells of it)
            await anyio.sleep(0.005)


async def cancelled_often(work: Awaitable[None], ready: anyio.Event, times: int, turns: int) -> None:
    """Cancel `work` so many times, with so many turns of the event loop between."""
    if asyncio_runs():
        task = asyncio.ensure_future(work)
        with anyio.fail_after(SOON):
            await ready.wait()
        await anyio.sleep(0.05)  # until the client waits, which cannot be observed
        for _ in range(times):
            task.cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
        done, _ = await asyncio.wait({task}, timeout=SOON)
        assert done == {task}
        assert task.cancelled()
        return

    async def run() -> None:
        await work

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await ready.wait()
        await anyio.sleep(0.05)
        for _ in range(times):
            tasks.cancel_scope.cancel()
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()


def asyncio_runs() -> bool:
    """Return whether this loop is one of asyncio's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


TIMES: Final = pytest.mark.parametrize(
    ("times", "turns"),
    [(1, 0), (2, 0), (2, 1), (2, 2), (3, 1), (5, 1), (20, 1)],
    ids=str,
)


@pytest.mark.seconds
@TIMES
@pytest.mark.parametrize("begins", [True, False], ids=["reading", "waiting for headers"])
async def test_a_transport_that_stays_open(library: Library, begins: bool, times: int, turns: int) -> None:
    """A cancelled call closes its connection, though the transport stays open."""
    left: list[int] = []
    ready = anyio.Event()
    async with serving(holding(begins, left)) as server:
        transport: Any = library.transport(trust_env=False)
        agent = plain(server_url=server.url, transport=transport, timeouts=Timeouts(total=15))

        async def call() -> None:
            async with agent.stream("hi") as run:
                async for _ in run:
                    pass

        async def tell() -> None:
            await server.have_come(1)
            ready.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tell)
            await cancelled_often(call(), ready, times, turns)
        await until(lambda: len(left) == 1)
        await becomes((0, 0), agent)
        await transport.aclose()


BEFORE_SENDING: Final = 3
"""In so many turns of the event loop a connection is not made, with any library."""


@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("turns", [1, 2, 3, 4, 6, 8, 12])
async def test_a_transport_that_is_closed_while_a_request_begins(library: Library, turns: int, is_secure: bool) -> None:
    """After so many turns of the event loop: no connection stays, and a request that was not sent fails as such."""
    left: list[int] = []
    failed: list[OxyError] = []

    async def handle(conversation: Conversation) -> None:
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream):  # the client may have gone
            if await conversation.request() is not None:
                await conversation.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                await conversation.client_left()
        left.append(1)

    async with serving(handle, tls=server_context() if is_secure else None) as server:
        transport: Any = library.transport(trust_env=False, verify=client_context())

        async def call() -> None:
            try:
                async with transport.exchange(HTTPRequest("POST", server.url, "/sse/chat", body=b"{}")) as response:
                    async for _ in response.chunks:
                        pass
            except OxyError as error:
                failed.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            await transport.aclose()
        if not is_secure:  # a handshake that fails never becomes a conversation
            await until(lambda: len(left) == server.connections)
    assert failed or turns > BEFORE_SENDING
    for error in failed:
        if turns <= BEFORE_SENDING or type(error) is ClosedError:
            assert (type(error), error.outcome, server.requests) == (ClosedError, Outcome.NOT_SENT, [])
        else:
            assert (type(error), error.outcome) == (ConnectionLostError, Outcome.UNKNOWN)


async def test_a_transport_that_is_closed_before_a_request_is_sent(library: Library) -> None:
    """A request whose task has just begun when the transport is closed is not sent."""
    async with serving(holding(False, [])) as server:
        transport: Any = library.transport(trust_env=False)

        async def call() -> None:
            agent = plain(server_url=server.url, transport=transport, timeouts=Timeouts(total=2))
            with pytest.raises((ClosedError, ConnectionLostError)):
                await agent.ask("hi")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await anyio.lowlevel.checkpoint()
            await transport.aclose()
    assert server.requests == []


@TIMES
async def test_a_transport_of_the_agents_own(times: int, turns: int) -> None:
    """A cancelled call of an agent's own transport closes its connection."""
    left: list[int] = []
    ready = anyio.Event()
    async with serving(holding(True, left)) as server:

        async def call() -> None:
            async with plain(server_url=server.url).stream("hi") as run:
                async for _ in run:
                    ready.set()

        await cancelled_often(call(), ready, times, turns)
        await until(lambda: len(left) == 1)


@TIMES
async def test_while_the_agent_is_left(times: int, turns: int) -> None:
    """An agent whose block ends by cancellations closes its transport."""
    left: list[int] = []
    ready = anyio.Event()
    async with serving(holding(True, left)) as server:

        async def call() -> None:
            async with plain(server_url=server.url) as agent, agent.stream("hi") as run:
                async for _ in run:
                    ready.set()

        await cancelled_often(call(), ready, times, turns)
        await until(lambda: len(left) == 1)


@TIMES
async def test_over_tls(library: Library, times: int, turns: int) -> None:
    """A cancelled call over TLS closes its connection."""
    left: list[int] = []
    ready = anyio.Event()
    async with serving(holding(True, left), tls=server_context()) as server:
        transport: Any = library.transport(trust_env=False, verify=client_context())
        agent = plain(server_url=server.url, transport=transport)

        async def call() -> None:
            async with agent.stream("hi") as run:
                async for _ in run:
                    ready.set()

        await cancelled_often(call(), ready, times, turns)
        await until(lambda: len(left) == 1)
        await becomes((0, 0), agent)
        await transport.aclose()


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's
async def test_a_request_that_the_server_does_not_read(library: Library) -> None:
    """A request that is half sent is left like any other: unsent bytes do not keep the connection open."""
    here, left = anyio.Event(), anyio.Event()

    async def handle(_: Conversation) -> None:
        here.set()
        await left.wait()

    async with serving(handle) as server:
        transport: Any = library.transport(trust_env=False)
        agent = plain(server_url=server.url, transport=transport)

        async def call() -> None:
            await agent.ask("x" * 20_000_000)

        await cancelled_often(call(), here, 2, 1)
        await becomes((0, 0), agent)
        left.set()
        await transport.aclose()


async def test_two_time_outs_at_once(library: Library) -> None:
    """Two nested time-outs of the same length raise `TimeoutError`, and the connection closes."""
    left: list[int] = []
    async with serving(holding(True, left)) as server:
        transport: Any = library.transport(trust_env=False)
        agent = plain(server_url=server.url, transport=transport)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as outer, asyncio.timeout(None) as inner, agent.stream("hi") as run:
                async for _ in run:
                    at = asyncio.get_running_loop().time() + 0.05
                    outer.reschedule(at)
                    inner.reschedule(at)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await until(lambda: len(left) == 1)
        await transport.aclose()


NESTED: Final = """
import asyncio, sys
import anyio
import nest_asyncio
from oxygent_client import SSEOxyGent
from tests.support.servers import serving
from tests.support.tls import client_context, server_context
from tests.transports.test_closing import holding, until
from tests.transports.test_network_transports import LIBRARIES

nest_asyncio.apply()

async def main():
    left = []
    async with serving(holding(True, left)) as server:
        transport = LIBRARIES[sys.argv[1]].transport(trust_env=False)
        async with SSEOxyGent(server_url=server.url, transport=transport).stream("hi") as run:
            await anext(run)
        await until(lambda: len(left) == 1)
        await transport.aclose()

        async def own():
            async with SSEOxyGent(server_url=server.url).stream("hi") as run:
                await anext(run)
        asyncio.run(own())
        await until(lambda: len(left) == 2)
    print("left")

asyncio.run(main())
"""


@pytest.mark.slow  # it starts a process
@pytest.mark.parametrize("name", ["httpx", "httpx2", "aiohttp"])
def test_under_nest_asyncio(name: str) -> None:
    """Leaving a block early closes the connection, under nest_asyncio too, as in a notebook."""
    done = subprocess.run([sys.executable, "-c", NESTED, name], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "left\n", done.stderr
    assert done.stderr == ""


async def test_an_open_stream_keeps_no_request(library: Library) -> None:
    """While a run waits for events, its request is not kept: its body may be large."""
    async with serving(holding(begins=True, left=[])) as server:
        transport: Any = library.transport(trust_env=False)
        async with plain(server_url=server.url, transport=transport).stream("hi") as run:
            requests = [each for each in gc.get_objects() if type(each) is HTTPRequest]
            kept = [each for each in requests if each.context.trace_id == run.trace_id]
        await transport.aclose()
    assert kept == []


async def test_an_open_stream_keeps_no_body(library: Library) -> None:
    """While a run waits for events, the body of its request is not kept; the server here keeps a copy."""
    async with serving(holding(begins=True, left=[])) as server:
        transport: Any = library.transport(trust_env=False)
        async with plain(server_url=server.url, transport=transport).stream("a long query"):
            holders = [each for each in gc.get_objects() if not isinstance(each, Received)]
            held = {id(part): part for each in holders for part in gc.get_referents(each)}.values()
            kept = [each for each in held if type(each) is bytes and each.startswith(b"{") and b"a long query" in each]
        await transport.aclose()
    assert kept == []
