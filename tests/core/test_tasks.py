"""Task groups that raise an error unchanged, not in a group."""

from __future__ import annotations

from typing import Final

import anyio
import pytest

from oxygent_client._core.tasks import plain_task_group

RAISED: Final = {
    "an error": ValueError("mine"),
    "exit": SystemExit(3),
    "Ctrl-C": KeyboardInterrupt(),
}


@pytest.mark.parametrize("raised", RAISED.values(), ids=RAISED)
async def test_in_the_block(raised: BaseException) -> None:
    """An exception of the block is raised as the same object with its cause."""
    raised.__cause__ = cause = OSError()
    with pytest.raises(type(raised)) as caught:
        async with plain_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            raise raised
    assert caught.value is raised
    assert caught.value.__cause__ is cause


async def test_an_exception_group_of_the_block() -> None:
    """An exception group of the block is raised as one group, unchanged."""
    raised = ValueError("mine")
    with pytest.raises(ExceptionGroup, match="mine") as caught:
        async with plain_task_group():
            raise ExceptionGroup("mine", [raised])
    assert caught.value.exceptions == (raised,)


async def test_in_a_task() -> None:
    """An exception of a task is raised unchanged, and cancels the block."""
    raised = ValueError("mine")

    async def fails() -> None:
        raise raised

    with pytest.raises(ValueError, match="mine") as caught:
        async with plain_task_group() as tasks:
            tasks.start_soon(fails)
            await anyio.sleep_forever()
    assert caught.value is raised


async def test_exit_comes_first() -> None:
    """Of several exceptions, KeyboardInterrupt or SystemExit is raised."""

    async def fails() -> None:
        raise ValueError

    with pytest.raises(SystemExit):
        async with plain_task_group() as tasks:
            tasks.start_soon(fails)
            try:
                await anyio.sleep_forever()
            finally:
                raise SystemExit


async def test_cancellation() -> None:
    """A cancellation from outside is raised unchanged."""
    with anyio.CancelScope() as scope:
        async with plain_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_no_error() -> None:
    """A task group without errors raises nothing."""
    ended: list[int] = []

    async def works() -> None:
        await anyio.lowlevel.checkpoint()
        ended.append(1)

    async with plain_task_group() as tasks:
        tasks.start_soon(works)
    assert ended == [1]
