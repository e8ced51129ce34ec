"""A toy server in a thread, and an event loop that is started before descriptors are counted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from oxygent_client.sync import SyncSSEOxyGent
from oxygent_client.sync._portal import current_portal
from oxygent_client.testing import ToyRemote, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

LEFT_SECONDS = 1.0
"""Seconds within which a remote must notice that its run was left; more if single calls take long."""
CALLS = 50
"""The remote may take the time of this number of calls."""


class ServedToy(ToyRemote):
    """A toy server, and its URL."""

    url = ""
    seconds = LEFT_SECONDS

    def measure(self) -> None:
        """Measure how long a call takes; the first one also starts what later calls find started."""
        agent = SyncSSEOxyGent(self.url)
        agent.ask("echo 1")
        began = time.monotonic()
        agent.ask("echo 2")
        self.seconds = max(LEFT_SECONDS, CALLS * (time.monotonic() - began))

    def state_after_leaving(self) -> str:
        """Return the state of the last run, once it has ended or `seconds` have passed."""
        until = time.monotonic() + self.seconds
        while self.runs[-1].state == "started" and time.monotonic() < until:
            time.sleep(0.002)
        return self.runs[-1].state


@pytest.fixture(scope="package")
def toy() -> Iterator[ServedToy]:
    """A toy server on loopback."""
    remote = ServedToy()
    with serve(remote) as remote.url:
        remote.measure()
        yield remote


@pytest.fixture(scope="package", autouse=True)
def portal() -> None:
    """Start the event loop, whose sockets outlive each test."""
    current_portal()
