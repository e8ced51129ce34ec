"""A toy server in a thread, and an event loop that is started before descriptors are counted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from oxygent_client.sync._portal import current_portal
from oxygent_client.testing import ToyRemote, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

LEFT_SECONDS = 1.0
"""Seconds within which a remote must notice that its run was left."""


class ServedToy(ToyRemote):
    """A toy server, and its URL."""

    url = ""

    def state_after_leaving(self) -> str:
        """Return the state of the last run, once it has ended or `LEFT_SECONDS` have passed."""
        until = time.monotonic() + LEFT_SECONDS
        while self.runs[-1].state == "started" and time.monotonic() < until:
            time.sleep(0.002)
        return self.runs[-1].state


@pytest.fixture(scope="package")
def toy() -> Iterator[ServedToy]:
    """A toy server on loopback."""
    remote = ServedToy()
    with serve(remote) as remote.url:
        yield remote


@pytest.fixture(scope="package", autouse=True)
def portal() -> None:
    """Start the event loop, whose sockets outlive each test."""
    current_portal()
