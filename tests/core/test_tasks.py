"""Task groups whose error comes out as it is."""

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
    """What the block raises comes out as the same object, and its cause stays."""
    raised.__cause__ = cause = OSError()
    with pytest.raises(type(raised)) as caught:
        async with plain_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            raise raised
    assert caught.value is raised
    assert caught.value.__cause__ is cause


async def test_a_group_of_the_program() -> None:
    """A group that the block raises is one error: it comes out as one group, with what it held."""
    raised = ValueError("mine")
    with pytest.raises(ExceptionGroup, match="mine") as caught:
        async with plain_task_group():
            raise ExceptionGroup("mine", [raised])
    assert caught.value.exceptions == (raised,)


async def test_in_a_task() -> None:
    """What a task raises comes out as it is, and the block is cancelled."""
    raised = ValueError("mine")

    async def fails() -> None:
        raise raised

    with pytest.raises(ValueError, match="mine") as caught:
        async with plain_task_group() as tasks:
            tasks.start_soon(fails)
            await anyio.sleep_forever()
    assert caught.value is raised


async def test_the_end_of_the_program_comes_first() -> None:
    """Of several errors the one that ends the program comes out."""

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
    """Cancellation from outside passes through as it is."""
    with anyio.CancelScope() as scope:
        async with plain_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_at_its_end() -> None:
    """A group that ends well raises nothing."""
    ended: list[int] = []

    async def works() -> None:
        await anyio.lowlevel.checkpoint()
        ended.append(1)

    async with plain_task_group() as tasks:
        tasks.start_soon(works)
    assert ended == [1]
