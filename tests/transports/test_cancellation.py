"""Opening and closing under repeated cancellation, in virtual time."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine

import anyio
import pytest
from anyio.lowlevel import checkpoint

from oxygent_client.transports._cancellation import CLOSE_SECONDS, cancel_once, run_to_end
from tests.support.virtual import anyio_backend as anyio_backend


@pytest.fixture
def on_asyncio(anyio_backend_name: str) -> bool:
    """Return whether native cancellations are available."""
    return anyio_backend_name == "asyncio"


async def test_the_result() -> None:
    """Without a cancellation the result is returned."""

    async def opened() -> int:
        await anyio.sleep(1)
        return 42

    assert await cancel_once(opened()) == 42


@pytest.mark.parametrize("way", [cancel_once, run_to_end])
async def test_an_error(way: Callable[..., Coroutine[object, object, object]]) -> None:
    """An error is raised unchanged."""
    own = KeyError("own")

    async def fails() -> None:
        await anyio.sleep(1)
        raise own

    with pytest.raises(KeyError) as caught:
        await way(fails() if way is cancel_once else fails)
    assert caught.value is own


async def cancelled(work: Callable[[], Coroutine[object, object, object]], times: int, native: bool) -> float:
    """Cancel `work` so many times, a second apart; return the seconds from the first to the end."""
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
async def test_repeated_cancellation_while_opening(times: int, on_asyncio: bool) -> None:
    """Further cancellations do not interrupt the cleaning up after the first."""
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


async def test_an_error_after_a_cancellation(on_asyncio: bool) -> None:
    """A cancellation is raised even if it led to an error."""

    async def opened() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            if on_asyncio:
                raise KeyError

    await cancelled(lambda: cancel_once(opened()), 1, on_asyncio)
    gc.collect()


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_cancellation_while_closing(times: int, on_asyncio: bool) -> None:
    """Closing is not interrupted; the cancellation is raised after it."""
    done: list[float] = []

    async def closing() -> None:
        await checkpoint()
        await anyio.sleep(2.0 - 0.1)
        await checkpoint()
        done.append(anyio.current_time())

    async def leaves() -> None:
        await run_to_end(closing)
        await anyio.sleep_forever()

    await cancelled(leaves, times, on_asyncio)
    assert len(done) == 1


async def test_an_error_while_closing(on_asyncio: bool) -> None:
    """A cancellation is raised even if closing fails meanwhile."""

    async def closing() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1.5)
        if on_asyncio:
            raise KeyError

    async def leaves() -> None:
        await run_to_end(closing)
        await anyio.sleep_forever()

    await cancelled(leaves, 1, on_asyncio)
    gc.collect()


async def test_closing_that_hangs() -> None:
    """Closing that hangs is cancelled after 2 seconds."""
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


async def test_closing_that_cancels_itself() -> None:
    """A closing task that cancels itself does not cancel its caller."""

    async def closing() -> None:
        with anyio.move_on_after(0.5):
            await anyio.sleep_forever()

    await run_to_end(closing)
