"""Heartbeats for a program that waits for events: they come on time, and the wait loses nothing.

Rule 1: every run here is a script; time is virtual.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
import pytest

from oxygent_client import Heartbeat, Timeouts, errors
from oxygent_client._run.keepalive import Background
from oxygent_client.testing import FakeTransport, Reply, answer, close, heartbeat, pause, progress
from tests.support.plain import plain
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from oxygent_client import AnyEvent, Run
    from oxygent_client.testing import Step

URL: Final = "https://remote.test"
SLOW: Final = (progress(1), pause(40), progress(2), answer("42"), close())
PINGS: Final = (pause(10), heartbeat(), pause(10), heartbeat(), heartbeat(), pause(15), answer("42"), close())
FOREVER: Final = (pause(math.inf),)


def stream(*steps: Step, **options: Any) -> tuple[Run, FakeTransport]:
    """A run with this script, and its transport."""
    transport = FakeTransport.script(*steps)
    return plain(server_url=URL, transport=transport, **options).stream("hi"), transport


def brief(item: AnyEvent | Heartbeat) -> Any:
    """A heartbeat, or the content of an event."""
    return item if isinstance(item, Heartbeat) else item.content


@pytest.mark.parametrize(
    ("steps", "items"),
    [
        pytest.param(SLOW, [1, Heartbeat(15, 0), Heartbeat(30, 0), 2, "42"], id="a slow agent"),
        pytest.param(PINGS, [Heartbeat(15, 1), Heartbeat(30, 2), "42"], id="a server with heartbeats"),
        pytest.param((pause(14), answer("42"), close()), ["42"], id="a quick agent"),
        pytest.param((answer("42"), pause(20), close()), ["42", Heartbeat(15, 0)], id="a late end"),
        pytest.param((b"".join(map(progress, range(200))), answer("42"), close()), [*range(200), "42"], id="a flood"),
    ],
)
async def test_the_items(steps: tuple[Step, ...], items: list[Any]) -> None:
    """Between events there is a heartbeat whenever so many seconds have passed; the response follows as ever."""
    run, transport = stream(*steps)
    async with run:
        assert [brief(item) async for item in run.events(keepalive=15)] == items
    assert run.response.output == "42"
    assert len(transport.requests) == 1


async def test_events_without_heartbeats() -> None:
    """`events()` is the run itself."""
    run, _ = stream(*SLOW)
    async with run:
        assert [brief(item) async for item in run.events()] == [1, 2, "42"]


async def test_events_in_one_piece() -> None:
    """Events that were received together are returned together; the period may change in between."""
    run, _ = stream(progress(1) + progress(2), pause(20), answer("42"), close())
    async with run:
        first = await anext(aiter(run.events(keepalive=15)))
        items = [brief(item) async for item in run.events(keepalive=8)]
    assert brief(first) == 1
    assert items == [2, Heartbeat(8, 0), Heartbeat(16, 0), "42"]


@pytest.mark.parametrize("keepalive", [0, -1, "15", math.nan])
def test_an_invalid_period(keepalive: Any) -> None:
    """It is an error that names the argument."""
    with pytest.raises(errors.ConfigurationError, match="keepalive"):
        stream(*SLOW)[0].events(keepalive=keepalive)


async def test_events_while_the_program_is_busy() -> None:
    """A program that takes its time with a heartbeat finds all events afterwards."""
    run, _ = stream(pause(20), progress(1), progress(2), answer("42"), close())
    items: list[Any] = []
    async with run:
        async for item in run.events(keepalive=15):
            items.append(brief(item))
            await anyio.sleep(100 if isinstance(item, Heartbeat) else 0)
    assert items == [Heartbeat(15, 0), 1, 2, "42"]


async def test_plain_iteration_goes_on() -> None:
    """After the heartbeats the events can be read as ever."""
    run, _ = stream(*SLOW)
    async with run:
        async for item in run.events(keepalive=15):
            if isinstance(item, Heartbeat):
                break
        assert [event.content async for event in run] == [2, "42"]


@pytest.mark.parametrize(
    ("steps", "timeouts", "error", "seconds"),
    [
        pytest.param(FOREVER, Timeouts(idle=50, lookup=None), errors.IdleTimeoutError, 50, id="idle"),
        pytest.param(FOREVER, Timeouts(total=40, lookup=None), errors.DeadlineExceededError, 40, id="total"),
        pytest.param((heartbeat(), *FOREVER), Timeouts(silence=20), errors.SilenceTimeoutError, 20, id="silence"),
        pytest.param((pause(20),), Timeouts(lookup=None), errors.IncompleteStreamError, 20, id="a cut"),
    ],
)
async def test_the_time_outs(
    steps: tuple[Step, ...], timeouts: Timeouts, error: type[Exception], seconds: float
) -> None:
    """Heartbeats for the program do not stop the clocks, and a failure is raised as ever."""
    run, _ = stream(*steps, timeouts=timeouts)
    began = anyio.current_time()
    with pytest.raises(error):
        async with run:
            async for _ in run.events(keepalive=7):
                pass
    assert anyio.current_time() - began == pytest.approx(seconds)


async def test_leaving_at_a_heartbeat() -> None:
    """The connection is closed at once."""
    run, transport = stream(*FOREVER)
    began = anyio.current_time()
    async with run:
        async for item in run.events(keepalive=15):
            assert item == Heartbeat(15, 0)
            break
    assert transport.left == transport.requests
    assert anyio.current_time() - began < 17


async def test_cancellation_during_the_wait() -> None:
    """It ends the wait and closes the connection."""
    run, transport = stream(*FOREVER)
    with anyio.move_on_after(20):
        async with run:
            async for _ in run.events(keepalive=15):
                pass
    assert transport.left == transport.requests
    with pytest.raises(errors.ClosedError, match="cancelled"):
        _ = run.response


async def test_a_cancellation_after_the_wait_has_found_events() -> None:
    """Events that were received while the program had a heartbeat are part of the partial result."""
    run, _ = stream(progress(0), pause(20), progress(1) + progress(2), *FOREVER)
    with anyio.CancelScope() as scope:
        async with run:
            items = run.events(keepalive=15)
            assert [brief(await anext(items)) for _ in range(2)] == [0, Heartbeat(15, 0)]
            await anyio.sleep(10)
            scope.cancel()
            await anext(items)
    assert [event.content for event in run.partial.events] == [0, 1, 2]


async def test_leaving_after_the_wait_has_found_events() -> None:
    """Events of a detached run that were received while the program had a heartbeat are its next reader's."""
    first = Reply((pause(20), progress(1) + progress(2), *FOREVER))
    second = Reply((answer("42"), close()))
    transport = FakeTransport({"/async/chat": Reply.json({"code": 200, "data": {}}), "/async/trace": [first, second]})
    agent = plain(server_url=URL, transport=transport)
    token = (await agent.start("hi")).to_token()
    async with agent.attach(token) as run:
        assert isinstance(await anext(aiter(run.events(keepalive=15))), Heartbeat)
        await anyio.sleep(10)
    async with agent.attach(token) as run:
        assert [event.content async for event in run] == [1, 2, "42"]


async def test_another_task_leaves_the_run() -> None:
    """The wait ends with the error that says so."""
    run, transport = stream(*FOREVER)
    await run.__aenter__()
    async with anyio.create_task_group() as group:

        async def read() -> None:
            with pytest.raises(errors.ClosedError):
                async for _ in run.events(keepalive=15):
                    pass

        group.start_soon(read)
        await anyio.sleep(20)
        await run.__aexit__(None, None, None)
    assert transport.left == transport.requests


async def test_a_new_connection_counts_anew() -> None:
    """A detached run is attached to again: its heartbeats are those of both connections."""
    first = Reply((pause(1), heartbeat(), heartbeat(), heartbeat(), pause(10)))
    second = Reply((pause(10), heartbeat(), pause(10), answer("42"), close()))
    transport = FakeTransport({"/async/chat": Reply.json({"code": 200, "data": {}}), "/async/trace": [first, second]})
    agent = plain(server_url=URL, transport=transport)
    token = (await agent.start("hi")).to_token()
    async with agent.attach(token) as run:
        items = [item async for item in run.events(keepalive=8)]
    beats = [item.server_heartbeats for item in items if isinstance(item, Heartbeat)]
    assert beats[0] == 3
    assert sum(beats) == 4


async def test_a_second_cancellation() -> None:
    """A native cancellation during the end of the background waits for that end, and is raised."""
    ended: list[str] = []

    async def stubborn() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)
            ended.append("background")

    background = Background(stubborn)
    await anyio.lowlevel.checkpoint()
    task = asyncio.ensure_future(background.cancel())
    await anyio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["background"]
