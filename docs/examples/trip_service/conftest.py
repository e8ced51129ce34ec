"""Fixtures of all tests."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """The event loop of the service."""
    return "asyncio"
