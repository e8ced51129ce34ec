"""Blocks with a deadline: the timer that they share, and cancellations that meet a deadline.

Rule: time is virtual, so that two things happen at the same moment when a test says so.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from oxygent_client._core.per_loop import this_loop
from oxygent_client._run.waits import Scope, TimedScope, Timer, new_scope, new_timer
from tests.support.slow_cleanup import wait_and_clean_up
from tests.support.virtual import VirtualLoop
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

NEVER: Final = math.inf


def scope(seconds: float) -> Scope:
    """A block of so many seconds."""
    return new_scope(new_timer(this_loop()), anyio.current_time() + seconds)


async def test_the_deadline() -> None:
    """A block is interrupted at its deadline."""
    began = anyio.current_time()
    with scope(5) as block:
        await anyio.sleep(NEVER)
    assert block.cancelled_caught
    assert anyio.current_time() - began == pytest.approx(5)


async def test_no_deadline() -> None:
    """A block without a deadline waits as long as needed."""
    with scope(NEVER) as block:
        await anyio.sleep(10_000)
    assert not block.cancelled_caught


async def test_after_the_block() -> None:
    """A deadline that passes after the block interrupts nothing."""
    with scope(5) as block:
        await anyio.sleep(1)
    await anyio.sleep(10)
    assert not block.cancelled_caught


@pytest.mark.parametrize(("first", "then"), [(100, 5), (5, 100)], ids=["earlier", "later"])
async def test_a_deadline_that_moves(first: float, then: float) -> None:
    """The deadline that was set last counts."""
    began = anyio.current_time()
    with scope(first) as block:
        block.deadline = began + then
        await anyio.sleep(NEVER)
    assert anyio.current_time() - began == pytest.approx(then)
    assert block.deadline == began + then


@pytest.mark.parametrize(
    ("outer", "inner", "interrupted"),
    [(100, 5, (False, True)), (5, 100, (True, False))],
    ids=["the inner one", "the outer one"],
)
async def test_blocks_in_blocks(outer: float, inner: float, interrupted: tuple[bool, bool]) -> None:
    """Of two blocks with one timer the one whose deadline has passed is interrupted."""
    timer, now = new_timer(this_loop()), anyio.current_time()
    with new_scope(timer, now + outer) as around, new_scope(timer, now + inner) as within:
        await anyio.sleep(NEVER)
    assert (around.cancelled_caught, within.cancelled_caught) == interrupted


async def test_blocks_side_by_side() -> None:
    """Blocks of two tasks with one timer end in any order; the one that goes on keeps its deadline."""
    timer, now, ended = new_timer(this_loop()), anyio.current_time(), list[tuple[float, bool]]()

    async def wait(deadline: float, seconds: float) -> None:
        with new_scope(timer, now + deadline) as block:
            await anyio.sleep(seconds)
        ended.append((anyio.current_time() - now, block.cancelled_caught))

    async with anyio.create_task_group() as group:
        for arguments in ((100, 3), (5, NEVER), (50, 4)):
            group.start_soon(wait, *arguments)
    assert ended == [(3, False), (4, False), (5, True)]


async def test_a_cancel_scope_around_fires_during_the_cleanup() -> None:
    """A cancel scope around a block that its task group has not left yet after the deadline takes its own effect."""
    with anyio.move_on_after(5.5) as around:
        with scope(5):
            async with anyio.create_task_group() as group:
                group.start_soon(wait_and_clean_up)
                await anyio.sleep(NEVER)
        await anyio.sleep(NEVER)
    assert around.cancelled_caught


async def test_cancel_by_another_task() -> None:
    """`cancel` interrupts the block of another task, also if it is called twice."""
    with scope(NEVER) as block:
        async with anyio.create_task_group() as group:

            async def cancel() -> None:
                await anyio.sleep(3)
                block.cancel()
                block.cancel()

            group.start_soon(cancel)
            await anyio.sleep(NEVER)
    assert block.cancelled_caught


async def test_cancel_by_its_own_task() -> None:
    """`cancel` in the block itself interrupts it where it waits next, and nothing after the block."""
    with scope(NEVER) as block:
        block.cancel()
        await anyio.sleep(NEVER)
    assert block.cancelled_caught
    with scope(NEVER) as block:
        block.cancel()
    await anyio.sleep(1)
    assert not block.cancelled_caught


@pytest.mark.parametrize("seconds", [3, 5], ids=["before the deadline", "at the deadline"])
async def test_a_cancellation_from_outside(seconds: float) -> None:
    """A cancellation from outside is not swallowed, also at the moment of the deadline."""
    reached = False
    with anyio.move_on_after(seconds) as outside:
        with scope(5):
            await anyio.sleep(NEVER)
        await anyio.sleep(NEVER)
        reached = True
    assert outside.cancelled_caught
    assert not reached


async def test_an_error_of_the_block() -> None:
    """An error of a block that was interrupted is raised."""
    with pytest.raises(ValueError, match="failed"), scope(5):
        try:
            await anyio.sleep(NEVER)
        finally:
            raise ValueError("failed")


# --- asyncio alone ---


async def one_timer(timer: Timer) -> None:
    """Many blocks arm the timer once, if the first one's deadline is the soonest."""
    now, armed = timer.loop.time(), list[float]()
    timer.arm(now + 10)
    for number in range(20):
        with TimedScope(timer, now + 20 + number):
            armed.append(timer.at)
    assert armed == [now + 10] * 20
    timer.disarm()


async def native_cancellation(timer: Timer) -> None:
    """A native cancellation at the moment of the deadline is not swallowed, and is counted as one."""

    async def wait() -> None:
        with TimedScope(timer, timer.loop.time() + 5):
            await asyncio.sleep(NEVER)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    timer.loop.call_at(timer.loop.time() + 5, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelling() == 1


async def three_at_once(timer: Timer) -> None:
    """A native cancellation that meets a cancel scope of anyio and the end of a block is not swallowed."""

    async def wait(scopes: list[anyio.CancelScope], blocks: list[TimedScope]) -> None:
        with anyio.CancelScope() as around, TimedScope(timer, NEVER) as block:
            scopes.append(around)
            blocks.append(block)
            await asyncio.sleep(NEVER)
        await asyncio.sleep(1)

    for order in itertools.permutations(range(3)):
        scopes, blocks = list[anyio.CancelScope](), list[TimedScope]()
        task = asyncio.create_task(wait(scopes, blocks))
        await asyncio.sleep(0)
        cancels = (task.cancel, scopes[0].cancel, blocks[0].cancel)
        for number in order:
            timer.loop.call_soon(cancels[number])
        with pytest.raises(asyncio.CancelledError):
            await task


async def about_to_end(timer: Timer) -> None:
    """A wait whose result is there when the deadline passes is not interrupted."""
    result = timer.loop.create_future()
    timer.loop.call_at(timer.loop.time() + 5, result.set_result, "there")
    with TimedScope(timer, timer.loop.time() + 5) as block:
        assert await result == "there"
    assert not block.cancelled_caught


async def uncancelled(timer: Timer) -> None:
    """A task that was interrupted is not cancelled afterwards."""
    with TimedScope(timer, timer.loop.time() + 5):
        await asyncio.sleep(NEVER)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.parametrize("work", [one_timer, native_cancellation, three_at_once, about_to_end, uncancelled])
def test_timed_scopes(work: Callable[[Timer], Coroutine[Any, Any, None]]) -> None:
    """Blocks on asyncio behave as each function describes."""

    async def with_a_timer() -> None:
        await work(Timer(asyncio.get_running_loop()))

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(with_a_timer())
