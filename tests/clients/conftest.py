"""For all clients: each test of a target meets a toy and a real server, the fixtures `toy` and `real` of its file."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(params=["toy", "real"])
def target(request: pytest.FixtureRequest) -> Any:
    """A served agent, on a toy, then on a real server."""
    return request.getfixturevalue(request.param)
