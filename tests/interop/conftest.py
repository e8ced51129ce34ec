"""The releases of a test, and the lifetimes of servers.

Rule 1: `server` is each release (the short list of behaviour), `newest` the newest only (the full list).
Rule 2: servers are shared by the tests of a session; a test that ends its server uses `start_server` for its own.
Rule 3: a server starts when a test first needs it, and ends with its fixture.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from .environments import RELEASES
from .harness import RemoteServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _Servers:
    """The shared servers of this session, by release."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._running: dict[str, RemoteServer] = {}
        self._numbers = itertools.count(1)

    def start(self, version: str) -> RemoteServer:
        """Start a server for one user."""
        directory = self._factory.mktemp(f"oxygent-{version}-", numbered=True) / f"server-{next(self._numbers)}"
        return RemoteServer(version, directory)

    def shared(self, version: str) -> RemoteServer:
        """Return the server of this release, started if it is not running."""
        if version not in self._running:
            self._running[version] = self.start(version)
        return self._running[version]

    def close(self) -> None:
        """End all of them."""
        for running in self._running.values():
            running.close()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Servers]:
    """The session's servers."""
    held = _Servers(tmp_path_factory)
    yield held
    held.close()


@pytest.fixture(params=RELEASES)
def server(request: pytest.FixtureRequest, servers: _Servers) -> RemoteServer:
    """A server of each release in turn."""
    version: str = request.param
    return servers.shared(version)


@pytest.fixture
def newest(servers: _Servers) -> RemoteServer:
    """A server of the newest release."""
    return servers.shared(RELEASES[0])


@pytest.fixture
def start_server(servers: _Servers) -> Iterator[Callable[[str], RemoteServer]]:
    """Start a server of a release for this test alone."""
    started: list[RemoteServer] = []

    def start(version: str) -> RemoteServer:
        started.append(servers.start(version))
        return started[-1]

    yield start
    for running in started:
        running.close()
