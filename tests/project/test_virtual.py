"""Virtual time passes in order, costs nothing, and can be advanced by hand."""

from __future__ import annotations

import time

import anyio
import anyio.lowlevel
import pytest

from tests.support.virtual import advance
from tests.support.virtual import anyio_backend as anyio_backend


async def test_virtual_time() -> None:
    """Sleeping tasks wake in order, a deadline is exact, and hardly any real time passes."""
    began, start = time.monotonic(), anyio.current_time()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await anyio.sleep(seconds)
        woken.append((name, round(anyio.current_time() - start, 6)))

    with anyio.move_on_after(3600) as scope:
        async with anyio.create_task_group() as tasks:
            for name, seconds in (("b", 20.5), ("a", 3), ("c", 1800), ("d", 4000)):
                tasks.start_soon(sleeper, name, seconds)
    assert woken == [("a", 3), ("b", 20.5), ("c", 1800)]
    assert scope.cancelled_caught
    assert anyio.current_time() - start == pytest.approx(3600)
    assert time.monotonic() - began < 600


async def test_advance() -> None:
    """Advancing the clock expires a deadline; asyncio delivers it at the second checkpoint."""
    start = anyio.current_time()
    with anyio.move_on_after(10) as scope:
        advance(11)
        assert not scope.cancelled_caught
        assert anyio.current_time() - start == pytest.approx(11)
        for _ in range(2):
            await anyio.lowlevel.checkpoint()
        pytest.fail("the deadline was not kept")
    assert scope.cancelled_caught


async def test_threads() -> None:
    """Work in a thread is waited for without a timer."""
    assert await anyio.to_thread.run_sync(lambda: 42) == 42
