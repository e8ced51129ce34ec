"""What all tests share."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """The event loop of the service."""
    return "asyncio"
