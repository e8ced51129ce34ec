"""Discover the agents of a server: organization, description, names.

Rule 1: all documents are read within DISCOVERY_SECONDS and within the limits; none is trusted.
Rule 2: only the organization is required. Servers may lack the other documents.
Rule 3: the result is cached for the server that it was read from. A failure, or a missing name, is not cached: the next
    call asks the server again.
Rule 4: one discovery at a time: other tasks wait for it and share its result. If its task is cancelled, the next takes
    over.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import anyio
import attrs

from oxygent_client._api.fetch import MISSING, fetch_data
from oxygent_client._core.errors import (
    ConnectError,
    DeadlineExceededError,
    EnvelopeError,
    Outcome,
    OxyError,
    StatusError,
    UnknownCalleeError,
)
from oxygent_client._core.log import log_event
from oxygent_client._core.per_loop import PerLoop
from oxygent_client._core.sent_secrets import SentSecrets
from oxygent_client._core.settings import Limits
from oxygent_client._core.transport import HTTPRequest, Transport, redact_url
from oxygent_client._protocol.endpoints import PATHS
from oxygent_client._protocol.responses import KnownAgents, parse_organization
from oxygent_client.cluster._lookup import servers_of

DISCOVERY_SECONDS: Final = 30.0
"""Time-out for all documents together: connections, headers and bodies."""
NO_LIST_SECONDS: Final = 60.0
"""How long it is cached that a server has no `/get_agents`: an update may add it."""


@attrs.frozen(kw_only=True)
class RemoteInfo:
    """The result of a discovery."""

    organization: dict[str, Any]
    """The tree, as received."""
    description: str
    """Description of the master agent; empty without one."""
    agents: KnownAgents
    """The names of the remote's agents."""
    shown_names: str = ""
    """The first of them, redacted and escaped for display."""
    has_no_list: bool = False
    """True if the remote's version has no `/get_agents`, so that another discovery finds no more."""


UNKNOWN: Final = RemoteInfo(organization={}, description="", agents=KnownAgents(frozenset(), complete=False))
"""A remote whose discovery failed; it may run agents all the same."""


@attrs.frozen
class CatalogEntry:
    """The result of a discovery, and the server that it is from."""

    remote: RemoteInfo
    servers: frozenset[str]
    """The server, or the members of the cluster: one of them was asked."""
    read_at: float
    """By the event loop's clock."""


@attrs.define(eq=False)
class _Discovery:
    """A discovery in progress. Done without `found` and `error`: its task was cancelled."""

    done: anyio.Event = attrs.field(factory=anyio.Event)
    found: RemoteInfo | None = None
    error: OxyError | None = None


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
            discovery.found = await discover(transport, request, limits, until=until)
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


async def discover(transport: Transport, request: HTTPRequest, limits: Limits, *, until: float) -> RemoteInfo:
    """Discover a remote, within DISCOVERY_SECONDS and until `until`; `request` is the template of each request.

    Raises:
        OxyError: the organization could not be read.
    """
    data = partial(_data, transport, request, limits, min(until, anyio.current_time() + DISCOVERY_SECONDS))
    root = parse_organization(await data(PATHS["organization"]), limits)
    description, _ = await _optional(data, PATHS["description"], request)
    listing, is_missing = await _optional(data, PATHS["agents"], request)
    text = (description or {}).get("description")
    agents = KnownAgents.read(root, listing)
    # Redacted now, with the secrets of these requests: a later call may have other credentials.
    sent = request.context.sent
    return RemoteInfo(
        organization=root,
        description=text if isinstance(text, str) else "",
        agents=agents,
        shown_names=", ".join(f"'{sent.shown(name, 60)}'" for name in sorted(agents.names)[:10]),
        has_no_list=is_missing,
    )


async def _data(transport: Transport, template: HTTPRequest, limits: Limits, until: float, path: str) -> dict[str, Any]:
    return await fetch_data(transport, attrs.evolve(template, path=path), limits, until=until)


async def _optional(
    data: Callable[[str], Awaitable[dict[str, Any]]], path: str, template: HTTPRequest
) -> tuple[dict[str, Any] | None, bool]:
    """The data of a document that some servers lack, or None; and whether the server lacks it."""
    try:
        return await data(path), False
    except (StatusError, EnvelopeError) as error:
        log_event("debug", template.context, "reading %s failed: %s", path, error)
        return None, isinstance(error, StatusError) and error.status in MISSING
