"""A task whose cancellation takes time to come through."""

from __future__ import annotations

import math

import anyio


async def wait_and_clean_up() -> None:
    """Wait until the task is cancelled, and then for a second more, shielded."""
    try:
        await anyio.sleep(math.inf)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1)
