"""Virtual time is time: it passes in order, costs nothing, and can be moved by hand."""

from __future__ import annotations

import time

import anyio
import anyio.lowlevel
import pytest

from tests.support.virtual import advance
from tests.support.virtual import anyio_backend as anyio_backend


async def test_an_hour_costs_nothing() -> None:
    """Sleepers wake in the order of their times, a deadline is kept to the second, and the wall clock hardly moves."""
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


async def test_moved_by_hand() -> None:
    """Time that passes while nobody waits makes a deadline due; asyncio hears it at the second checkpoint."""
    start = anyio.current_time()
    with anyio.move_on_after(10) as scope:
        advance(11)
        assert not scope.cancelled_caught
        assert anyio.current_time() - start == pytest.approx(11)
        for _ in range(2):
            await anyio.lowlevel.checkpoint()
        pytest.fail("the deadline was not kept")
    assert scope.cancelled_caught


async def test_other_threads_are_waited_for() -> None:
    """Work in a thread comes back, though no timer is set."""
    assert await anyio.to_thread.run_sync(lambda: 42) == 42
