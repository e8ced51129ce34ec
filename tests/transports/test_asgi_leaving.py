"""Cancelling calls of an ASGI application: real event loops and native tasks.

Rule: each test runs its own loops, to check what is left when they end. Tests that can use virtual time are in
test_asgi_transport.py.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
import anyio.to_thread
import pytest
import uvloop
from anyio.lowlevel import checkpoint

from oxygent_client import HTTPRequest, SSEOxyGent, Timeouts, errors
from oxygent_client.transports.asgi import ASGITransport

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.transports.test_asgi_transport import Message, Receive, Send

T = TypeVar("T")

LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

pytestmark = pytest.mark.parametrize("loop", LOOPS)


class Loop:
    """Runs a coroutine in its own event loop, and keeps the loop's error reports."""

    def __init__(self, name: str) -> None:
        self.complaints: list[str] = []
        self._make = LOOPS[name]

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=self._make) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: self.complaints.append(context["message"]))
            runner.run(main)
        gc.collect()


async def started(send: Send) -> None:
    """Begin a response."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})


async def until(said: Callable[[], T]) -> T:
    """Return the result of the condition once it is true."""
    async with asyncio.timeout(20):
        while not (found := said()):
            await checkpoint()
    return found


async def sleeping(scope: Message, receive: Receive, send: Send) -> None:
    """Begins a response and then sleeps forever."""
    await started(send)
    await asyncio.Event().wait()


def agent(app: Any, **options: Any) -> SSEOxyGent:
    """Return an agent whose remote is `app`."""
    return SSEOxyGent(server_url="http://app", transport=ASGITransport(app), timeouts=Timeouts(lookup=None, **options))


@pytest.mark.parametrize("turns", range(8))
def test_all_tasks_are_cancelled(loop: str, turns: int) -> None:
    """An event loop that ends cancels all tasks: the call ends, and no task is left."""
    runs = Loop(loop)

    async def main() -> None:
        call = asyncio.ensure_future(agent(sleeping).ask("hi"))
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        async with asyncio.timeout(10):
            with pytest.raises((asyncio.CancelledError, errors.OxyError)):
                await call
        assert asyncio.all_tasks() == {asyncio.current_task()}

    runs.run(main())
    assert runs.complaints == []


def test_the_application_alone_is_cancelled(loop: str) -> None:
    """If only the application's task is cancelled before it began, the caller gets an error."""

    async def main() -> None:
        others = asyncio.all_tasks()
        call = asyncio.ensure_future(agent(sleeping).ask("hi"))
        others.add(call)
        apps = await until(lambda: asyncio.all_tasks() - others)
        for task in apps:
            task.cancel()
        with pytest.raises(errors.RemoteProtocolError, match="without a response"):
            await call

    Loop(loop).run(main())


def test_a_second_cancellation(loop: str) -> None:
    """A call that is cancelled again while it leaves ends when the application has ended, as cancelled."""
    runs, log = Loop(loop), list[str]()

    async def cleaning_up(scope: Message, receive: Receive, send: Send) -> None:
        try:
            await sleeping(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                log.append("cleaning up")
                await asyncio.sleep(0.05)
                log.append("cleaned up")

    async def exchange(entered: asyncio.Event) -> None:
        async with ASGITransport(cleaning_up).exchange(HTTPRequest("POST", "http://app", "/x")):
            entered.set()
            await asyncio.Event().wait()

    async def main() -> None:
        entered = asyncio.Event()
        call = asyncio.ensure_future(exchange(entered))
        await entered.wait()
        call.cancel()
        await until(lambda: log)
        for _ in range(3):
            call.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await call
        assert log == ["cleaning up", "cleaned up"]

    runs.run(main())
    assert runs.complaints == []


@pytest.mark.seconds
def test_an_application_in_a_thread(loop: str) -> None:
    """A call ends without waiting for an application in a thread, and the loop can be used again."""
    runs, free = Loop(loop), threading.Event()

    async def in_a_thread(scope: Message, receive: Receive, send: Send) -> None:
        await started(send)
        await anyio.to_thread.run_sync(free.wait)

    async def main() -> None:
        with pytest.raises(errors.DeadlineExceededError):
            await agent(in_a_thread, total=0.1).ask("hi")
        assert not free.is_set()
        free.set()
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    runs.run(main())
    assert runs.complaints == []


def test_a_background_task_at_the_end_of_the_loop(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    """A background task that is cancelled with its event loop is logged."""
    runs, ended = Loop(loop), list[str]()
    request = HTTPRequest("GET", "http://app", "/x")

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await started(send)
        await send({"type": "http.response.body"})
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with ASGITransport(app).exchange(request) as response:
                assert [chunk async for chunk in response.chunks] == []
                scope.deadline = anyio.current_time() + 0.01  # leaving waits for the application
        gc.collect()  # what only the loop referred to is garbage now
        await asyncio.sleep(0)
        assert ended == []

    runs.run(main())
    assert ended == ["ended"]
    assert runs.complaints == []
    assert ["was cancelled" in record.message for record in caplog.records] == [False, True]


def test_copies(loop: str) -> None:
    """A copy has no tasks of running applications."""

    async def main() -> None:
        transport = ASGITransport(sleeping, root_path="/mounted")
        async with transport.exchange(HTTPRequest("GET", "http://app", "/x")):
            for copied in (copy.deepcopy(transport), pickle.loads(pickle.dumps(transport))):
                assert repr(copied) == repr(transport)

    Loop(loop).run(main())


@pytest.mark.seconds
def test_an_application_that_ignores_its_cancellation(loop: str) -> None:
    """An application that ignores its cancellation does not hold its caller."""
    runs, stop = Loop(loop), list[bool]()

    async def stubborn(scope: Message, receive: Receive, send: Send) -> None:
        await started(send)
        while not stop:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    async def main() -> None:
        with pytest.raises(errors.DeadlineExceededError):
            await agent(stubborn, total=0.1).ask("hi")
        stop.append(True)
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    runs.run(main())
    assert runs.complaints == []
