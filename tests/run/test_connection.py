"""The connection of a run, alone."""

from __future__ import annotations

import math

import pytest

from oxygent_client import Limits, errors
from oxygent_client._run.connection import RunConnection
from oxygent_client.transports import Context


async def test_nothing_is_read_after_another_task_left() -> None:
    """A reader that has not begun to wait does not read after another task has left the run."""
    connection = RunConnection(Context(), Limits())
    assert not connection.dismiss()
    with pytest.raises(errors.ClosedError):
        await connection.read(math.inf)
