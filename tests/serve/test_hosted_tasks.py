"""Tasks of a service that outlive a request: started, ended with the service, and refused without one."""

from __future__ import annotations

import anyio
import pytest

from oxygent_client.serve import HostedTasks
from tests.support.virtual import anyio_backend as anyio_backend


@pytest.mark.parametrize(("close_seconds", "ended"), [(0.0, []), (3.0, ["task"])], ids=["at once", "in time"])
async def test_the_end(close_seconds: float, ended: list[str]) -> None:
    """A task that is active when the service ends has `close_seconds` to end; then it is cancelled."""
    found: list[str] = []

    async def work(name: str) -> None:
        await anyio.sleep(2)
        found.append(name)

    tasks = HostedTasks(close_seconds)
    async with tasks.running():
        tasks.start(work, "task")
        await anyio.sleep(1)
    assert found == ended


async def test_is_running() -> None:
    """A service runs from the beginning of its block to its end."""
    tasks = HostedTasks()
    seen = [tasks.is_running]
    async with tasks.running():
        seen.append(tasks.is_running)
    assert [*seen, tasks.is_running] == [False, True, False]


async def test_without_a_service() -> None:
    """A task cannot be started before the service runs."""
    tasks = HostedTasks()
    with pytest.raises(RuntimeError, match="running"):
        tasks.check_running()
    with pytest.raises(RuntimeError, match="running"):
        tasks.start(anyio.sleep, 1)
