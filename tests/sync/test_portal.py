"""The thread of the event loop: interruption, fork, exit, and failure."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
import pytest

from oxygent_client.errors import ClosedError
from oxygent_client.sync import SyncSSEOxyGent, call, hold
from oxygent_client.sync._mirror import PlainCallback
from oxygent_client.sync._portal import (
    Block,
    Call,
    Cancellation,
    Portal,
    Process,
    Waiter,
    current_portal,
    in_calling_thread,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from oxygent_client import AnyEvent
    from tests.sync.conftest import ServedToy


# ------------------------------------------------------------------------------------------------------- Interruption


@pytest.fixture
def sigint() -> None:
    """Let SIGINT raise KeyboardInterrupt, however the tests were started."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupt_soon(_: object = None) -> None:
    """Send SIGINT to this process while the main thread waits."""
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()


@pytest.mark.usefixtures("sigint")
def test_ctrl_c_while_a_stream_waits(toy: ServedToy) -> None:
    """Ctrl-C is raised in the `for`, after the remote run was cancelled."""
    seen: list[AnyEvent] = []
    with pytest.raises(KeyboardInterrupt):
        for event in SyncSSEOxyGent(toy.url).stream("hang"):
            seen.append(event)
            interrupt_soon()
    assert [event.type for event in seen] == ["tool_call"]
    assert toy.state_after_leaving() == "cancelled"


@pytest.mark.usefixtures("sigint")
def test_ctrl_c_while_an_answer_is_waited_for(toy: ServedToy) -> None:
    """Ctrl-C cancels the call of any method."""
    agent = SyncSSEOxyGent(toy.url, event_handlers={"tool_call": interrupt_soon})
    with pytest.raises(KeyboardInterrupt):
        agent.ask("hang")
    assert toy.state_after_leaving() == "cancelled"


def test_an_interruption_in_a_callback(toy: ServedToy) -> None:
    """A KeyboardInterrupt raised by a plain handler is raised unchanged, and ends the call."""

    def leave(content: Any) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        SyncSSEOxyGent(toy.url, event_handlers={"tool_call": leave}).ask("hang")
    assert toy.state_after_leaving() == "cancelled"


def test_callbacks_after_an_interruption() -> None:
    """A callback that is queued when the call is interrupted is not run."""
    ran: list[int] = []

    def leave() -> None:
        raise SystemExit(3)

    async def both() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(in_calling_thread, leave)
            tasks.start_soon(in_calling_thread, ran.append, 1)

    with pytest.raises(SystemExit):
        call(both)
    assert ran == []


@pytest.mark.usefixtures("sigint")
def test_ctrl_c_before_a_block_is_entered() -> None:
    """Ctrl-C cancels a block that waits in `__aenter__`."""

    @asynccontextmanager
    async def never() -> AsyncGenerator[None]:
        await anyio.sleep_forever()
        yield

    interrupt_soon()
    with pytest.raises(KeyboardInterrupt), hold(never()):
        pass


# -------------------------------------------------------------------------------------------------------------- Blocks


@asynccontextmanager
async def suppressing(log: list[str]) -> AsyncGenerator[int]:
    """A block with a task group that suppresses a ValueError."""
    try:
        async with anyio.create_task_group():
            yield 42
    except* ValueError:
        log.append("suppressed")
    finally:
        log.append("left")


def test_a_block() -> None:
    """A block is entered and left in one task, so that it may hold a task group."""
    log: list[str] = []
    with hold(suppressing(log)) as value:
        assert value == 42
    assert log == ["left"]


def test_a_block_that_suppresses_an_exception() -> None:
    """The exception of the `with` block is raised in the `async with` block, which may suppress it."""
    log: list[str] = []
    with hold(suppressing(log)):
        int("no number")
    assert log == ["suppressed", "left"]


def test_an_exception_of_a_block() -> None:
    """An exception in leaving is raised; one of the `with` block that is not suppressed is raised unchanged."""

    @asynccontextmanager
    async def failing() -> AsyncGenerator[None]:
        yield
        raise OSError("leaving")

    with pytest.raises(OSError, match="leaving"), hold(failing()):
        pass
    with pytest.raises(KeyError), hold(failing()):
        raise KeyError


def test_a_block_that_is_left_twice() -> None:
    """Threads may use and leave a block concurrently: later uses raise an error."""
    block = Block(current_portal(), suppressing([]))
    block.enter()

    async def in_the_loop() -> None:
        block._leave(first, None)
        block._put(queued)
        await wait_for(lambda: block.is_over)
        block._leave(second, None)
        block._put(late)

    first, second = Waiter[bool](), Waiter[bool]()
    queued, late = Call(anyio.lowlevel.checkpoint), Call(anyio.lowlevel.checkpoint)
    call(in_the_loop)
    assert first.wait().value is False
    assert second.wait().value is False
    assert isinstance(queued.wait().error, ClosedError)
    assert isinstance(late.wait().error, ClosedError)


async def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds."""
    while not condition():
        await anyio.lowlevel.checkpoint()


# ------------------------------------------------------------------------------------------------------------ The end


async def end_the_loop() -> None:
    """Stop the event loop, as no program should."""
    asyncio.get_running_loop().stop()
    await anyio.sleep_forever()


def test_the_end_of_the_loop(toy: ServedToy) -> None:
    """If the event loop ends, all calls and runs fail at once, and the next call starts a new one."""
    with SyncSSEOxyGent(toy.url) as agent:
        run, before = agent.stream("hang"), current_portal()
        next(run)
        asked = threading.Event()

        def note(content: Any) -> None:
            asked.set()

        agent.event_handlers = {"tool_call": note}
        waiting = threading.Thread(target=pytest.raises, args=(ClosedError, agent.ask, "hang"))
        waiting.start()
        assert asked.wait(10)
        agent.event_handlers = {}
        with pytest.raises(ClosedError) as caught:
            call(end_the_loop)
        assert isinstance(caught.value.__cause__, RuntimeError)
        waiting.join()
        run.close()
        with pytest.raises(ClosedError):
            next(run)
        assert agent.ask("echo 42").output == "42"
        assert agent.stats().connections == 1
        assert current_portal() is not before
    del run


def test_the_exit_of_a_process() -> None:
    """At exit open connections are closed, and the portal is gone."""
    process = Process()
    process.exit()
    with pytest.raises(ClosedError):
        process.portal()
    process = Process()
    portal = process.portal()
    process.exit()
    assert portal.is_over
    with pytest.raises(ClosedError):
        process.portal()


def test_a_forked_process() -> None:
    """A forked child does not use its parent's portal, and starts another."""
    process = Process()
    process.forget()
    before = process.portal()
    process.forget()
    assert before.is_over
    with pytest.raises(ClosedError, match="forked"):
        before.run(anyio.sleep, 0)
    after = process.portal()
    assert after is not before
    for portal in (after, before):
        portal.is_over = False
        portal.stop("the test is over", 5)


@pytest.mark.parametrize("is_over", [True, False], ids=["ended", "ending"])
def test_a_loop_that_was_stopped(is_over: bool) -> None:
    """Calls after the loop was stopped raise an error with the reason, also before its thread has ended."""
    portal = Portal()
    portal.stop("that is enough", 5)
    portal.is_over = is_over
    with pytest.raises(ClosedError, match="that is enough"):
        portal.run(anyio.sleep, 0)
    with pytest.raises(ClosedError, match="that is enough"):
        portal.post(print)


def test_a_loop_that_broke() -> None:
    """A call whose loop fails raises an error with the exception as its cause."""
    portal = Portal()
    with pytest.raises(ClosedError) as caught:
        portal.run(end_the_loop)
    assert isinstance(caught.value.__cause__, RuntimeError)


class NoThread(threading.Thread):
    """A thread that cannot be started."""

    def start(self) -> None:
        raise RuntimeError("can't start new thread")


def test_a_thread_that_cannot_start() -> None:
    """If the thread cannot be started the first call raises an error with the cause."""
    process = Process(lambda: Portal(NoThread))
    with pytest.raises(ClosedError) as caught:
        process.portal()
    assert isinstance(caught.value.__cause__, RuntimeError)


async def test_a_cancellation_before_the_task_begins() -> None:
    """A call that is cancelled before its task begins is entered cancelled."""
    cancellation = Cancellation()
    cancellation.cancel()
    with cancellation.scope() as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_callback_without_a_call() -> None:
    """A plain callback outside of a call, or after its end, runs in a worker thread."""
    thread = await in_calling_thread(threading.current_thread)
    assert thread is not threading.current_thread()
    assert await PlainCallback(int)("42") == 42


def test_a_callback_after_its_call() -> None:
    """A callback of a task that outlives its call does not wait for the calling thread."""
    threads: list[threading.Thread] = []
    done = threading.Event()

    async def later() -> None:
        await anyio.lowlevel.checkpoint()
        threads.append(await in_calling_thread(threading.current_thread))
        done.set()

    tasks: list[Any] = []

    async def start() -> None:
        tasks.append(asyncio.get_running_loop().create_task(later()))

    call(start)
    assert done.wait(10)
    assert threads[0] is not threading.current_thread()


# ----------------------------------------------------------------------------------------------------------- Processes

HEAD: Final = """
import os, sys, threading
from oxygent_client.sync import SyncSSEOxyGent
from oxygent_client.errors import ClosedError
agent = SyncSSEOxyGent(sys.argv[1])
"""
PROGRAMS: Final = {
    # name: program, its output
    "exit": (
        """
        import atexit
        import oxygent_client.sync._portal as portal

        @atexit.register
        def soon(): print(agent.ask("echo 3").output)

        asked = threading.Event()
        waiting = SyncSSEOxyGent(sys.argv[1], event_handlers={"tool_call": lambda _: asked.set()})
        def wait():
            try: waiting.ask("hang")
            except ClosedError as error: os.write(1, f"{error}\\n".encode())

        atexit.unregister(portal._PROCESS.exit)

        @atexit.register
        def late():
            daemon.join()
            try: agent.ask("hi")
            except ClosedError as error: print(error)

        atexit.register(portal._PROCESS.exit)
        atexit.unregister(soon)
        atexit.register(soon)
        run = agent.stream("hang")
        print(next(run).type)
        daemon = threading.Thread(target=wait, daemon=True)
        daemon.start()
        asked.wait()
        """,
        """
        tool_call
        3
        the interpreter is exiting; what was open in it is closed
        the interpreter is exiting
        """,
    ),
    "fork": (
        """
        agent.__enter__()
        agent.ask("echo 1")
        run = agent.stream("hang")
        next(run)
        if (child := os.fork()) == 0:
            print(agent.ask("echo 2").output)
            try: next(run)
            except ClosedError as error: print("forked" in str(error))
            run.close()
            del run
            agent.__exit__(None, None, None)
            print(agent.ask("echo 3").output, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        run.close()
        print(agent.ask("echo 4").output)
        if (child := os.fork()) == 0:
            agent.__exit__(None, None, None)
            print(agent.ask("echo 5").output, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        agent.__exit__(None, None, None)
        """,
        """
        2
        True
        3
        4
        5
        """,
    ),
    "nested_loops": (
        """
        import asyncio, nest_asyncio
        nest_asyncio.apply()
        async def main():
            for event in agent.stream("slow"): break
            print(agent.ask("echo 42").output)
        asyncio.run(main())
        """,
        "42",
    ),
}


@pytest.mark.seconds
@pytest.mark.parametrize(("program", "printed"), PROGRAMS.values(), ids=PROGRAMS)
def test_a_program(toy: ServedToy, program: str, printed: str) -> None:
    """Each program ends soon with its output, and leaves no run at the remote."""
    code = HEAD + textwrap.dedent(program)
    command = [sys.executable, "-u", "-W", "ignore::DeprecationWarning", "-c", code, toy.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert sorted((done.stdout + done.stderr).split()) == sorted(printed.split())
    assert [run.query for run in toy.runs if run.state == "started"] == []


INTERRUPTED: Final = """
import signal
for event in agent.stream("hang"):
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
"""


@pytest.mark.seconds
def test_ctrl_c_ends_a_program(toy: ServedToy) -> None:
    """Ctrl-C ends a program at once without extra code, and cancels the remote run."""
    command = [sys.executable, "-c", HEAD + INTERRUPTED, toy.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    assert done.returncode == -signal.SIGINT
    assert toy.state_after_leaving() == "cancelled"
