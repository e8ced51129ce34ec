"""Cache the discovery of a server's agents.

Rule 1: a discovery takes at most DISCOVERY_SECONDS.
Rule 2: the result is cached for the server that it was read from. A failure, or a missing name, is not cached: the next
    call asks the server again.
Rule 3: one discovery at a time: other tasks wait for it and share its result. If its task is cancelled, the next takes
    over.
Rule 4: the code of a discovery is loaded for the first: most agents do without.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final

import anyio

from oxygent_client._core.errors import (
    ConnectError,
    DeadlineExceededError,
    Outcome,
    OxyError,
    UnknownCalleeError,
)
from oxygent_client._core.log import log_event
from oxygent_client._core.per_loop import PerLoop
from oxygent_client._core.sent_secrets import SentSecrets
from oxygent_client._core.settings import Limits
from oxygent_client._core.transport import HTTPRequest, Transport, redact_url
from oxygent_client.cluster._lookup import servers_of

if TYPE_CHECKING:
    from oxygent_client._api.discovery import CatalogEntry, RemoteInfo

DISCOVERY_SECONDS: Final = 30.0
"""Time-out for all documents together: connections, headers and bodies."""
NO_LIST_SECONDS: Final = 60.0
"""How long it is cached that a server has no `/get_agents`: an update may add it."""


class _Discovery:
    """A discovery in progress. Done without `found` and `error`: its task was cancelled."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.found: RemoteInfo | None = None
        self.error: OxyError | None = None


class RemoteCatalog:
    """Cache of one agent's discovery, for the server that it was read from."""

    def __init__(self) -> None:
        self.entry: CatalogEntry | None = None
        self.sent = SentSecrets()
        """The secrets that the latest discovery sent."""
        self._discoveries: PerLoop[dict[frozenset[str], _Discovery]] = PerLoop()

    async def refresh(self, transport: Transport, request: HTTPRequest, limits: Limits, *, until: float) -> RemoteInfo:
        """Discover the remote and cache the result. While another task does so, wait for its result or error.

        Raises:
            OxyError: the organization could not be read.
        """
        from oxygent_client._api.discovery import CatalogEntry, discover

        servers = servers_of(transport, request.base_url)
        discoveries = self._discoveries.get() or self._discoveries.put({})
        while (other := discoveries.get(servers)) is not None:
            with anyio.CancelScope(deadline=until):
                await other.done.wait()
            if other.found is not None:
                return other.found
            if other.error is not None:
                raise copy.copy(other.error) from other.error
            if not other.done.is_set():
                raise DeadlineExceededError("the discovery did not end before the deadline", outcome=Outcome.NOT_SENT)
        discovery = discoveries[servers] = _Discovery()
        self.sent = request.context.sent
        try:
            latest = anyio.current_time() + DISCOVERY_SECONDS
            discovery.found = await discover(transport, request, limits, until=min(until, latest))
        except OxyError as error:
            error.server_url = error.server_url or redact_url(request.base_url)
            discovery.error = copy.copy(error)  # a copy for each caller: attributes are set on it
            discovery.error.__cause__ = error
            raise
        finally:
            del discoveries[servers]
            discovery.done.set()
        self.entry = CatalogEntry(discovery.found, servers, anyio.current_time())
        return discovery.found

    async def require(
        self, callee: str, transport: Transport, request: HTTPRequest, limits: Limits, *, until: float
    ) -> None:
        """Check that the remote may have an agent `callee`; discovers the remote if the cache does not have it.

        Raises:
            UnknownCalleeError: the remote listed its agents, and `callee` is not among them.
            ConnectError: the remote cannot be reached.
        """
        from oxygent_client._api.discovery import UNKNOWN

        remote = self._cached(servers_of(transport, request.base_url))
        if remote is None or self._is_due(remote, callee):
            try:
                remote = await self.refresh(transport, request, limits, until=until)
            except ConnectError:
                raise
            except OxyError as error:
                log_event("warning", request.context, "discovery of the remote's agents failed: %s", error)
                remote = remote or UNKNOWN
        agents = remote.agents
        if callee not in agents.names and agents.complete:
            names = remote.shown_names or "no agents"
            raise UnknownCalleeError(f"the remote has no agent {callee!r}; it has {names}")
        if callee not in agents.names:
            text = "the remote's organization has no agent %r; a run of an unknown agent never ends there"
            log_event("warning", request.context, text, callee)

    def knows(self, name: str, servers: frozenset[str]) -> bool:
        """Whether a discovery of one of these servers found `name`."""
        remote = self._cached(servers)
        return remote is not None and name in remote.agents.names

    def _cached(self, servers: frozenset[str]) -> RemoteInfo | None:
        entry = self.entry
        return entry.remote if entry is not None and entry.servers & servers else None

    def _is_due(self, remote: RemoteInfo, callee: str) -> bool:
        """Whether to discover again: a missing name is not cached, if the remote has a list of its agents."""
        assert self.entry is not None
        age = anyio.current_time() - self.entry.read_at
        return callee not in remote.agents.names and not (remote.has_no_list and 0 <= age < NO_LIST_SECONDS)
