"""Runs that are garbage-collected while open: they end as left and release what they hold.

Rule: time is virtual; the garbage collection is real.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio
import attrs
import pytest

from oxygent_client import Heartbeat, SSEOxyGent
from oxygent_client._core.per_loop import this_loop
from oxygent_client._run.abandoned import forget, sweep, watch
from oxygent_client._run.outcome import OutcomeTracker
from oxygent_client.policies import ConcurrencyLimit
from oxygent_client.telemetry._observers import RunObservation
from oxygent_client.testing import FakeTransport, Reply, answer, close, pause, progress, tool_call
from oxygent_client.transports import Context
from tests.conftest import ROOT
from tests.support.plain import plain
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from oxygent_client import Event, HTTPRequest, HTTPResponse, Run
    from oxygent_client.telemetry import Notification

# trio warns of each asynchronous generator that is garbage-collected, and a dropped run has some
pytestmark: Final = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")

URL: Final = "https://remote.test"
ENDLESS: Final = Reply((tool_call("x"), pause(1000)))
ANSWER: Final = Reply((answer("42"), close()))


@attrs.define
class Ends:
    """Records how runs end."""

    ends: list[tuple[str, object]] = attrs.field(factory=list[tuple[str, object]])

    def note(self, happening: Notification, /) -> None:
        """As `Observer.note`."""
        if happening.event == "ended":
            self.ends.append((happening.fields["end"], happening.fields["outcome"]))


async def entered(run: Run) -> Run:
    """Return a run whose first event was read."""
    await run.__aenter__()
    await anext(run)
    return run


def agent_for(*replies: Reply, observers: tuple[Ends, ...] = ()) -> SSEOxyGent:
    """Return an agent whose runs follow this script and whose detached runs do not end."""
    transport = FakeTransport(
        {"/sse/chat": replies, "/async/trace": [ENDLESS] * 5, "/async/chat": Reply.json({"code": 200, "data": {}})}
    )
    return plain(server_url=URL, transport=transport, observers=observers)


async def test_a_dropped_run_is_reported() -> None:
    """A dropped run is reported as left in the event loop, without waiting for another run."""
    ends = Ends()
    agent = agent_for(ENDLESS, observers=(ends,))
    await entered(agent.stream("hi"))
    gc.collect()
    await anyio.sleep(0.1)
    assert ends.ends == [("left", "started")]


async def test_a_dropped_run_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A warning with the run's trace id is logged."""
    agent = agent_for(ENDLESS)
    await entered(agent.stream("hi", trace_id="t"))
    gc.collect()
    with caplog.at_level(logging.WARNING, "oxygent_client"):
        await anyio.sleep(0.1)
    assert [record.__dict__["trace_id"] for record in caplog.records] == ["t"]


@pytest.mark.parametrize("again", [True, False], ids=["the run", "the agent's statistics"])
async def test_a_run_that_ended(again: bool) -> None:
    """A run that ended before it was dropped ends once."""
    ends = Ends()
    agent = agent_for(ANSWER, ENDLESS, ANSWER, observers=(ends,))
    await agent.ask("hi")
    async with agent.stream("hi") as run:
        await anext(run)
    del run
    gc.collect()
    await anyio.sleep(0.1)
    if again:
        await agent.ask("hi")
    assert [end for end, _ in ends.ends] == ["completed", "left", "completed"][: 2 + again]
    assert agent.stats().left == 1


async def test_statistics() -> None:
    """A dropped run is not in flight, and none of its data is buffered."""
    agent = agent_for(ENDLESS)
    await entered(agent.stream("hi"))
    gc.collect()
    stats = agent.stats()
    assert stats.in_flight == 0
    assert stats.left == 1
    assert stats.buffered == 0


async def test_the_trace_id_of_a_dropped_run() -> None:
    """The trace id of a dropped run may be used again, but is replaced at the server."""
    agent = agent_for(ENDLESS, ANSWER)
    await entered(agent.stream("hi", trace_id="dropped"))
    gc.collect()
    response = await agent.ask("hi", trace_id="dropped")
    assert response.extra["remote_trace_id"].startswith("dropped-")


async def test_the_slot_of_a_dropped_run() -> None:
    """A dropped run frees the slot of a concurrency limit, once its generators are closed."""
    agent = agent_for(ENDLESS, ANSWER)
    agent.policies = (ConcurrencyLimit(1),)
    await entered(agent.stream("hi"))
    gc.collect()
    response = await agent.ask("hi", timeout=10)
    assert response.output == "42"


@attrs.define
class Classic:
    """A transport whose exchanges are no generators."""

    inner: FakeTransport
    left: int = 0

    def exchange(self, request: HTTPRequest, /) -> ClassicExchange:
        """As `Transport.exchange`."""
        return ClassicExchange(self, self.inner.exchange(request))

    async def aclose(self) -> None:
        """As `Transport.aclose`."""


@attrs.define
class ClassicExchange:
    """One of its exchanges."""

    transport: Classic
    inner: AbstractAsyncContextManager[HTTPResponse]

    async def __aenter__(self) -> HTTPResponse:
        return await self.inner.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self.transport.left += 1
        return await self.inner.__aexit__(kind, error, traceback)


async def test_any_exchange_of_a_dropped_run() -> None:
    """The exchange of a dropped run is left, though it is no generator."""
    transport = Classic(FakeTransport({"/sse/chat": ENDLESS}))
    await entered(plain(server_url=URL, transport=transport).stream("hi"))
    gc.collect()
    await anyio.sleep(0.1)
    assert transport.left == 1


async def test_a_run_dropped_after_a_heartbeat() -> None:
    """A run that is dropped while it waits in the background ends at once, and its exchange is left."""
    ends, transport = Ends(), Classic(FakeTransport({"/sse/chat": ENDLESS}))
    run = await entered(plain(server_url=URL, transport=transport, observers=(ends,)).stream("hi"))
    item = await anext(run.events(keepalive=5))
    del run
    gc.collect()
    await anyio.sleep(0.1)
    assert isinstance(item, Heartbeat)
    assert ends.ends == [("left", "started")]
    assert transport.left == 1


async def test_another_reader_may_attach() -> None:
    """After the reader of a detached run was dropped, another reader may attach."""
    agent = agent_for()
    token = (await agent.start("hi")).to_token()
    await entered(agent.attach(token))
    gc.collect()
    async with agent.attach(token) as run:
        event = await anext(run)
    assert event.type == "tool_call"


def test_a_loop_that_is_closed() -> None:
    """A run that outlived its closed event loop is reported when the next loop runs."""
    ends = Ends()
    agent = agent_for(ENDLESS, ANSWER, observers=(ends,))
    with asyncio.Runner() as runner:
        runs = [runner.run(entered(agent.stream("hi")))]
    runs.clear()
    gc.collect()
    assert ends.ends == []
    asyncio.run(agent.ask("hi"))
    assert ends.ends[0] == ("left", "started")


def test_a_loop_that_is_gone() -> None:
    """A run that outlived its event loop object is reported when the next loop runs."""

    class Lost:
        def abandon(self) -> None:
            """Counts calls of `abandon`, as a run has it."""

    async def begin(run: Lost) -> weakref.ref[asyncio.AbstractEventLoop]:
        watch(run, this_loop(), RunObservation(observers=(ends,)), Context(), OutcomeTracker())
        return weakref.ref(asyncio.get_running_loop())

    ends, runs = Ends(), [Lost()]
    loop = asyncio.run(begin(runs[0]))
    gc.collect()
    assert loop() is None
    runs.clear()
    sweep()
    assert ends.ends == [("left", "not_sent")]


def test_a_loop_that_is_looked_for_during_garbage_collection() -> None:
    """A run of a closed loop that is garbage already, but not reported as lost yet, is reported."""

    class Lost:
        def abandon(self) -> None:
            """Not called."""

    def begin(ends: Ends, loop: asyncio.AbstractEventLoop) -> Lost:
        run = Lost()
        watch(run, loop, RunObservation(observers=(ends,)), Context(), OutcomeTracker())
        return run

    ends, loops = Ends(), [asyncio.new_event_loop() for _ in range(2)]
    others, garbage = list[Lost](), list[object]()
    garbage += [garbage, first := Lost(), begin(ends, loops[0])]
    early = weakref.ref(first, lambda _: others.append(begin(Ends(), loops[1])))  # is called before that of the run
    loops[0].close()
    del garbage, first
    gc.collect()
    sweep()
    loops[1].close()
    assert early() is None
    assert len(others) == 1
    assert ends.ends == [("left", "not_sent")]


def test_bytes_of_a_run_in_a_loop_that_was_closed() -> None:
    """Bytes that a run had buffered when its loop was closed are not buffered any more."""
    agent = agent_for(Reply((b"data: half an event", pause(100))), ANSWER)

    async def read() -> None:
        async with agent.stream("hi") as run:
            await anext(run)

    loop = asyncio.new_event_loop()
    reading = loop.create_task(read())
    loop.run_until_complete(asyncio.sleep(0.1))
    loop.close()
    assert agent.stats().buffered > 0
    asyncio.run(agent.ask("hi"))
    assert agent.stats().in_flight == 0
    assert agent.stats().buffered == 0
    with suppress(RuntimeError):  # as above
        reading.get_coro().close()


def test_a_reader_in_a_loop_that_was_closed() -> None:
    """A reader that was pending when its loop was closed does not keep another reader out."""

    async def read() -> None:
        async with agent.attach(token) as run:
            async for _ in run:
                pass

    async def read_on() -> Event:
        async with agent.attach(token) as run:
            return await anext(run)

    ends = Ends()
    agent = agent_for(observers=(ends,))
    token = asyncio.run(agent.start("hi")).to_token()
    loop = asyncio.new_event_loop()
    reading = loop.create_task(read())
    loop.run_until_complete(asyncio.sleep(0.1))
    loop.close()
    assert asyncio.run(read_on()).type == "tool_call"
    assert [end for end, _ in ends.ends] == ["left", "left"]
    assert agent.stats().in_flight == 0
    assert not reading.done()
    with suppress(RuntimeError):  # a coroutine that waits for its connection to close, in a loop that no longer runs
        reading.get_coro().close()


async def test_events_that_the_wait_of_an_abandoned_run_has_found() -> None:
    """Events that were received between two heartbeats are the next reader's if the run is abandoned."""
    first = Reply((pause(20), progress(1) + progress(2), pause(1000)))
    transport = FakeTransport({"/async/trace": [first, ANSWER], "/async/chat": Reply.json({"code": 200, "data": {}})})
    agent = plain(server_url=URL, transport=transport)
    token = (await agent.start("hi")).to_token()
    abandoned = await agent.attach(token).__aenter__()
    assert isinstance(await anext(aiter(abandoned.events(keepalive=15))), Heartbeat)
    await anyio.sleep(10)
    abandoned.abandon()
    async with agent.attach(token) as run:
        assert [event.content async for event in run] == [1, 2, "42"]


def test_runs_of_the_parent_process() -> None:
    """Runs of the parent process are not reported in a forked child."""
    ends = Ends()
    runs = [asyncio.run(entered(agent_for(ENDLESS, observers=(ends,)).stream("hi")))]
    forget()
    runs.clear()
    gc.collect()
    sweep()
    assert ends.ends == []


FORK: Final = """
import asyncio, os, sys
from tests.run.test_dropped import ANSWER, ENDLESS, Ends, agent_for, entered

async def parent():
    agent = agent_for(ENDLESS, ENDLESS, ANSWER, observers=(ends,))
    token = (await agent.start("hi")).to_token()
    runs = [await entered(agent.attach(token)), await entered(agent.stream("hi", trace_id="t"))]
    return agent, token, runs

async def child(agent, token):
    async with agent.attach(token) as run:
        event = await anext(run)
    return event.type, agent.stats().runs, agent.stats().in_flight

ends = Ends()
agent, token, runs = asyncio.run(parent())
if (pid := os.fork()) == 0:
    runs.clear()
    print(asyncio.run(child(agent, token)), ends.ends, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(agent.stats().in_flight, ends.ends)
os._exit(0)
"""


@pytest.mark.seconds
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child() -> None:
    """A forked child may read its parent's runs, starts with empty statistics and ends no run of the parent."""
    said = subprocess.run(
        [sys.executable, "-c", FORK], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert said.stdout.splitlines() == ["('tool_call', 1, 0) [('left', 'started')]", "2 []"]
