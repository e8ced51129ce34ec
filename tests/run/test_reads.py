"""Reads until a deadline: the timer, the check beside a read, and cancellations that meet either.

Rule: time is virtual, so that two things happen at the same moment when a test says so.
"""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeVarTuple

import anyio
import attrs
import pytest
import uvloop
from anyio.lowlevel import current_token

from oxygent_client._core.per_loop import this_loop
from oxygent_client._core.transport import BufferedChunks
from oxygent_client._run.reads import TimerReads, loop_clock, new_reads
from tests.support.slow_cleanup import wait_and_clean_up
from tests.support.virtual import VirtualLoop
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextvars import Context


@attrs.define
class Chunks:
    """Chunks, each after so many seconds; the last step may be an error."""

    steps: list[Any]
    read: int = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        step: float | Exception = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        await anyio.sleep(step)
        self.read += 1
        return b"%d" % self.read


NEVER: Final = math.inf


async def test_pieces_and_the_deadline() -> None:
    """A chunk that arrives in time is returned; at the deadline the read is interrupted."""
    reads, chunks = new_reads(), Chunks([9.0] * 50 + [11.0])
    got: list[bytes | None] = [await reads.read(chunks, anyio.current_time() + 10) for _ in range(51)]
    assert got[:50] == [b"%d" % number for number in range(1, 51)]
    assert got[50] is None
    assert anyio.current_time() - round(anyio.current_time()) == pytest.approx(0)
    reads.close()


async def test_a_deadline_that_moves_earlier() -> None:
    """A deadline earlier than the last read's is used."""
    reads, chunks = new_reads(), Chunks([1.0, NEVER])
    began = anyio.current_time()
    assert await reads.read(chunks, began + 100) == b"1"
    assert await reads.read(chunks, began + 5) is None
    assert anyio.current_time() - began == pytest.approx(5)
    reads.close()


def test_a_deadline_in_the_past_on_uvloop() -> None:
    """On uvloop a timer in the past has no handle; two reads in a row return the chunks that are ready."""

    async def read() -> list[bytes | None]:
        reads, chunks = new_reads(), BufferedChunks(b"1", b"2")
        got = [await reads.read(chunks, 0.0) for _ in range(2)]
        reads.close()
        return got

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(read()) == [b"1", b"2"]


async def test_no_deadline() -> None:
    """A read without a deadline waits as long as needed."""
    reads = new_reads()
    assert await reads.read(Chunks([10_000.0]), NEVER) == b"1"
    reads.close()


async def test_an_error_of_the_read() -> None:
    """An error of the read is raised."""
    reads = new_reads()
    with pytest.raises(StopAsyncIteration):
        await reads.read(Chunks([StopAsyncIteration()]), anyio.current_time() + 10)
    reads.close()


async def test_a_timer_between_two_reads() -> None:
    """A timer that fires between two reads interrupts nothing."""
    reads, chunks = new_reads(), Chunks([1.0, 1.0])
    assert await reads.read(chunks, anyio.current_time() + 10) == b"1"
    await anyio.sleep(100)
    assert await reads.read(chunks, anyio.current_time() + 10) == b"2"
    reads.close()


async def test_interrupt_by_another_task() -> None:
    """`interrupt` ends the read of another task, and returns whether there was one."""
    reads, got = new_reads(), list[Any]()

    async def read() -> None:
        got.append(await reads.read(Chunks([NEVER]), NEVER))

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await anyio.sleep(1)
        got.append(reads.interrupt())
        got.append(reads.interrupt())
    got.append(reads.interrupt())
    assert got == [True, True, None, False]


@pytest.mark.parametrize("seconds", [5.0, 10.0])
async def test_a_scope_that_is_cancelled(seconds: float) -> None:
    """A cancellation before or at the deadline is raised to the caller."""
    reads = new_reads()
    after = False
    with anyio.move_on_after(seconds) as scope:
        await reads.read(Chunks([NEVER]), anyio.current_time() + 10)
        await anyio.sleep(1)
        after = True
    assert scope.cancelled_caught
    assert not after
    reads.close()


# ---------------------------------------------------------------------------------------------------------- The check


async def test_a_cancel_scope_around_fires_during_the_cleanup() -> None:
    """A cancel scope around a read whose task group is not left yet after the deadline takes its own effect."""

    async def chunks() -> AsyncIterator[bytes]:
        async with anyio.create_task_group() as group:
            group.start_soon(wait_and_clean_up)
            await anyio.sleep(NEVER)
        yield b""

    reads = new_reads()
    with anyio.move_on_after(5.5) as around:
        await reads.read(chunks(), anyio.current_time() + 5)
        await anyio.sleep(NEVER)
    assert around.cancelled_caught
    reads.close()


async def test_a_check_that_extends() -> None:
    """The read goes on during the check and then until the deadline that the check returned."""
    reads, checks = new_reads(), list[float]()
    began = anyio.current_time()

    async def expired() -> float:
        checks.append(anyio.current_time() - began)
        await anyio.sleep(1)
        return anyio.current_time() + 10

    assert await reads.read(Chunks([25.0]), began + 10, expired) == b"1"
    assert checks == pytest.approx([10, 21])
    assert anyio.current_time() - began == pytest.approx(25)
    reads.close()


async def test_a_check_that_interrupts() -> None:
    """A check that returns no deadline interrupts the read."""
    reads = new_reads()
    began = anyio.current_time()

    async def expired() -> None:
        await anyio.sleep(1)

    assert await reads.read(Chunks([NEVER]), began + 10, expired) is None
    assert anyio.current_time() - began == pytest.approx(11)
    reads.close()


async def test_a_check_that_fails() -> None:
    """An error of the check ends the read, unless a chunk arrives at the same time."""
    reads = new_reads()

    async def expired() -> float | None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await reads.read(Chunks([NEVER]), anyio.current_time() + 10, expired)
    assert await reads.read(Chunks([10.0]), anyio.current_time() + 10, expired) == b"1"
    reads.close()


@pytest.mark.parametrize("how", ["a piece", "an error", "a cancellation"])
async def test_a_check_ends_with_its_read(how: str) -> None:
    """A read that ends cancels its check and waits for it."""
    reads, ended = new_reads(), list[str]()

    async def expired() -> float | None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)
            ended.append("check")
        return None

    class Failing(Chunks):
        async def __anext__(self) -> bytes:
            await super().__anext__()
            raise ValueError("mine")

    chunks = {"a piece": Chunks([12.0]), "an error": Failing([12.0]), "a cancellation": Chunks([NEVER])}[how]
    got: Any = None
    with anyio.move_on_after(15):
        try:
            got = await reads.read(chunks, anyio.current_time() + 10, expired)
        except ValueError:
            got = "error"
    ended.append("read")
    assert ended == ["check", "read"]
    assert got == {"a piece": b"1", "an error": "error", "a cancellation": None}[how]
    reads.close()


# --------------------------------------------------------------------------------------------------------- asyncio only


def on_asyncio(work: Any) -> Any:
    """Run a coroutine function in virtual time on asyncio."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work())


@pytest.mark.parametrize("first", ["the cancellation", "the deadline"])
def test_a_native_cancellation_that_meets_the_deadline(first: str) -> None:
    """A task that is cancelled at the deadline is cancelled, whichever comes first."""

    async def work() -> tuple[bool, int]:
        reads = new_reads()
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(reads.read(Chunks([NEVER]), loop.time() + 10))
        await asyncio.sleep(5)  # the read has armed its timer
        if first == "the cancellation":
            loop.call_later(5, task.cancel)
            loop.call_later(5, reads.interrupt)
        else:
            loop.call_later(5, reads.interrupt)
            loop.call_later(5, task.cancel)
        await asyncio.wait({task})
        reads.close()
        return task.cancelled(), task.cancelling()

    assert on_asyncio(work)[0]


@pytest.mark.parametrize("first", ["the cancellation", "the interruption"])
def test_a_native_cancellation_and_an_interruption_in_one_turn(first: str) -> None:
    """A task that is cancelled and interrupted in one turn of the loop is cancelled."""

    async def work() -> bool:
        reads = new_reads()
        task = asyncio.ensure_future(reads.read(Chunks([NEVER]), NEVER))
        await asyncio.sleep(1)
        for act in (task.cancel, reads.interrupt) if first == "the cancellation" else (reads.interrupt, task.cancel):
            act()
        await asyncio.wait({task})
        reads.close()
        return task.cancelled()

    assert on_asyncio(work)


def test_an_armed_timer_holds_no_connection() -> None:
    """After a read its timer no longer holds the check or the connection."""

    class Check:
        async def __call__(self) -> float | None:
            return None

    async def work() -> bool:
        reads, check = new_reads(), Check()
        await reads.read(Chunks([1.0]), asyncio.get_running_loop().time() + 10, check)
        held = weakref.ref(check)
        del check
        gc.collect()
        gone = held() is None
        reads.close()
        return gone

    assert on_asyncio(work)


def test_a_check_that_another_task_cancels() -> None:
    """If a task cancels the check, the deadline still holds and the next check follows at once."""

    async def work() -> tuple[bytes | None, int]:
        reads, loop, checks = new_reads(), asyncio.get_running_loop(), 0

        async def expired() -> float | None:
            nonlocal checks
            checks += 1
            if checks == 1:
                await asyncio.sleep(NEVER)
            return None

        task = asyncio.ensure_future(reads.read(Chunks([NEVER]), loop.time() + 10, expired))
        await asyncio.sleep(11)
        for other in asyncio.all_tasks() - {task, asyncio.current_task()}:
            other.cancel()
        got = await task
        reads.close()
        return got, checks

    assert on_asyncio(work) == (None, 2)


def test_an_interrupted_task_is_not_cancelled() -> None:
    """After an interrupted read the task has no pending cancellation, so `asyncio.timeout` around it works."""

    async def work() -> list[Any]:
        reads, task = new_reads(), asyncio.current_task()
        assert task is not None
        got: list[Any] = [await reads.read(Chunks([NEVER]), asyncio.get_running_loop().time() + 10), task.cancelling()]
        try:
            async with asyncio.timeout(5):
                await reads.read(Chunks([NEVER]), asyncio.get_running_loop().time() + 10)
        except TimeoutError:
            got.append("timeout")
        got.append(task.cancelling())
        reads.close()
        return got

    assert on_asyncio(work) == [None, 0, "timeout", 0]


def test_a_read_that_answers_a_cancellation_by_an_error() -> None:
    """If a read raises an error in place of a cancellation, the error is raised and the task is not cancelled."""

    class Closing(Chunks):
        async def __anext__(self) -> bytes:
            try:
                return await super().__anext__()
            except asyncio.CancelledError:
                raise OSError("closed") from None

    async def work() -> int:
        reads, task = new_reads(), asyncio.current_task()
        assert task is not None
        with pytest.raises(OSError, match="closed"):
            await reads.read(Closing([NEVER]), asyncio.get_running_loop().time() + 10)
        reads.close()
        return task.cancelling()

    assert on_asyncio(work) == 0


def test_a_second_cancellation_while_a_check_ends() -> None:
    """A native cancellation that arrives while the check ends is raised after it has ended."""

    async def work() -> tuple[bool, list[str]]:
        reads, ended = new_reads(), list[str]()
        loop = asyncio.get_running_loop()

        async def expired() -> float | None:
            try:
                await asyncio.sleep(NEVER)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(2)
                ended.append("check")
            return None

        task = asyncio.ensure_future(reads.read(Chunks([15.0]), loop.time() + 10, expired))
        loop.call_later(16, task.cancel)
        await asyncio.wait({task})
        ended.append("read")
        reads.close()
        return task.cancelled(), ended

    assert on_asyncio(work) == (True, ["check", "read"])


def test_no_timer_is_left() -> None:
    """Reads share one timer at most, and `close` cancels it."""

    async def work() -> list[int]:
        loop: Any = asyncio.get_running_loop()
        reads, chunks = new_reads(), Chunks([1.0] * 100)

        def timers() -> int:
            return sum(not handle.cancelled() for handle in loop._scheduled)

        counts = list[int]()
        for _ in range(100):
            await reads.read(chunks, loop.time() + 600)
            counts.append(timers())
        reads.close()
        return [*sorted(set(counts)), timers()]

    assert on_asyncio(work) == [1, 0]


async def test_the_clock() -> None:
    """Each event loop has its own clock and reader."""
    assert loop_clock(this_loop())() == anyio.current_time()
    is_asyncio = isinstance(current_token().native_token, asyncio.AbstractEventLoop)
    assert isinstance(new_reads(), TimerReads) is is_asyncio


@pytest.mark.parametrize("is_for_all", [False, True])
def test_a_clock_of_the_users_own(is_for_all: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that was assigned to the event loop or its class, as some fake clocks are, is the clock of its runs."""

    def fixed(*_: object) -> float:
        return 42.0

    async def work() -> float:
        target = asyncio.BaseEventLoop if is_for_all else asyncio.get_running_loop()
        monkeypatch.setattr(target, "time", fixed)
        return loop_clock(this_loop())()

    loop = asyncio.new_event_loop()
    try:
        assert loop.run_until_complete(work()) == 42
    finally:
        loop.close()


Ts = TypeVarTuple("Ts")


class EarlyLoop(asyncio.SelectorEventLoop):
    """An event loop whose timers fire half a millisecond early, as those of uvloop may."""

    armed = 0

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As of any event loop, and count."""
        self.armed += 1
        return super().call_at(when - 0.0005, callback, *args, context=context)


def test_a_timer_that_fires_early() -> None:
    """It is armed once more, not again and again until it is due, and the read ends no earlier than its deadline."""

    async def work() -> tuple[bytes | None, bool]:
        reads, loop = new_reads(), asyncio.get_running_loop()
        deadline = loop.time() + 0.01
        piece = await reads.read(Chunks([NEVER]), deadline)
        return piece, loop.time() >= deadline

    with asyncio.Runner(loop_factory=EarlyLoop) as runner:
        loop = runner.get_loop()
        assert runner.run(work()) == (None, True)
        assert isinstance(loop, EarlyLoop)
        assert loop.armed <= 4  # two of them are those of `Chunks`


def test_a_deadline_that_is_over_on_uvloop() -> None:
    """On uvloop the timer of a deadline that has passed has no time; the next read still has a deadline."""

    async def work() -> list[bytes | None]:
        reads, loop = new_reads(), asyncio.get_running_loop()
        got = [await reads.read(Chunks([0.0, 0.0]), loop.time()) for _ in range(2)]
        got.append(await reads.read(Chunks([NEVER]), loop.time()))
        reads.close()
        return got

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(work())[-1] is None
