"""What is opened and closed as a whole, in virtual time: however often the caller is cancelled, and for how long."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import anyio
import pytest

from oxygent_client.transports._cancellation import CLOSE_SECONDS, cancel_once, run_to_end
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


@pytest.fixture
def on_asyncio(anyio_backend_name: str) -> bool:
    """Whether a native cancellation can be asked for."""
    return anyio_backend_name == "asyncio"


async def test_the_result() -> None:
    """What is not cancelled is as it would be without."""

    async def opened() -> int:
        await anyio.sleep(1)
        return 42

    assert await cancel_once(opened()) == 42


@pytest.mark.parametrize("way", [cancel_once, run_to_end])
async def test_an_error(way: Callable[..., Coroutine[object, object, object]]) -> None:
    """An error comes out as it is."""
    own = KeyError("own")

    async def fails() -> None:
        await anyio.sleep(1)
        raise own

    with pytest.raises(KeyError) as caught:
        await way(fails() if way is cancel_once else fails)
    assert caught.value is own


async def cancelled(work: Callable[[], Coroutine[object, object, object]], times: int, native: bool) -> float:
    """Cancel `work` so many times, a second apart; how long it took after the first."""
    if native:
        task = asyncio.ensure_future(work())
        await anyio.sleep(1)
        began = anyio.current_time()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.25)
        await asyncio.wait({task})
        assert task.cancelled()
        assert task.cancelling() >= 1
        return anyio.current_time() - began
    with anyio.move_on_after(1) as scope:
        await work()
    assert scope.cancelled_caught
    return anyio.current_time() - scope.deadline


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_what_is_told_once(times: int, on_asyncio: bool) -> None:
    """However often the caller is cancelled, the cleaning up after the first is not interrupted."""
    told: list[str] = []

    async def opened() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            told.append("told")
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1.5)
            told.append("cleaned up")

    await cancelled(lambda: cancel_once(opened()), times, on_asyncio)
    assert told == ["told", "cleaned up"]


async def test_an_error_while_it_is_told(on_asyncio: bool) -> None:
    """The cancellation counts, not the error that it led to."""

    async def opened() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            if on_asyncio:
                raise KeyError

    await cancelled(lambda: cancel_once(opened()), 1, on_asyncio)
    gc.collect()


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_what_is_run_to_its_end(times: int, on_asyncio: bool) -> None:
    """Closing is not interrupted, and the cancellation is raised when it is over."""
    done: list[float] = []

    async def closing() -> None:
        await anyio.sleep(2.0 - 0.1)
        done.append(anyio.current_time())

    async def leaves() -> None:
        await run_to_end(closing)
        await anyio.sleep_forever()

    await cancelled(leaves, times, on_asyncio)
    assert len(done) == 1


async def test_what_does_not_end() -> None:
    """Closing that hangs is cancelled after 2 seconds, and keeps the caller no longer."""
    began = anyio.current_time()
    told = anyio.Event()

    async def closing() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            told.set()

    await run_to_end(closing)
    assert anyio.current_time() - began == pytest.approx(CLOSE_SECONDS)
    await told.wait()


async def test_what_is_cancelled_by_itself() -> None:
    """Closing whose task ends by a cancellation of its own cancels nobody else."""

    async def closing() -> None:
        with anyio.move_on_after(0.5):
            await anyio.sleep_forever()

    await run_to_end(closing)
