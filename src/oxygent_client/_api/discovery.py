"""Discover the agents of a server: organization, description, names.

Rule 1: all of it is read within DISCOVERY_SECONDS, and within the limits; nothing of it is trusted.
Rule 2: only the organization must be there. A server without the other documents is still a server.
Rule 3: what was read belongs to the server that it was read from. That a server could not be asked, or does not have a
    name, is not kept: the next call asks again.
Rule 4: one task asks for all that wait, and they share what comes of it. If it is cancelled, the next one asks.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import anyio
import attrs

from oxygent_client._api.fetch import fetch_data
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
from oxygent_client.cluster import servers_of

__all__ = ["DISCOVERY_SECONDS", "Known", "RemoteCatalog", "RemoteInfo", "discover"]

DISCOVERY_SECONDS: Final = 30.0
"""For all documents together: connections, headers and bodies."""
NO_LIST_SECONDS: Final = 60.0
"""How long it is remembered that a server has no `/get_agents`. It may be another one after an update."""
MISSING: Final = (404, 405, 410, 501)
"""Statuses that say so: servers of 1.0.8 answer 404."""


@attrs.frozen(kw_only=True)
class RemoteInfo:
    """What discovery found."""

    organization: dict[str, Any]
    """The tree, as the server gave it."""
    description: str
    """The master agent's own words; empty where it has none."""
    agents: KnownAgents
    """The names that the remote knows."""
    shown_names: str = ""
    """The first of them, as they may be shown."""
    has_no_list: bool = False
    """Whether the remote is of a version without `/get_agents`, so that asking again shows no more."""


UNKNOWN: Final = RemoteInfo(organization={}, description="", agents=KnownAgents(frozenset(), complete=False))
"""A remote that cannot say what it is; it may run agents all the same."""


@attrs.frozen
class Known:
    """A discovery, and where it comes from."""

    remote: RemoteInfo
    servers: frozenset[str]
    """The server that it was read from, or the members of the cluster: one of them was."""
    read_at: float
    """By the event loop's clock."""


@attrs.define(eq=False)
class _Look:
    """A discovery that goes on. It is over without `found` and `error` if the task that asked was cancelled."""

    over: anyio.Event = attrs.field(factory=anyio.Event)
    found: RemoteInfo | None = None
    error: OxyError | None = None


class RemoteCatalog:
    """What one agent knows of its remote: asked for by one for all who wait, and kept for the server that said it."""

    def __init__(self) -> None:
        self.known: Known | None = None
        self.sent = SentSecrets()
        """What the latest discovery has sent in confidence."""
        self._looks: PerLoop[dict[frozenset[str], _Look]] = PerLoop()

    async def look(self, transport: Transport, request: HTTPRequest, limits: Limits, *, until: float) -> RemoteInfo:
        """Ask the remote, and keep what it says. If another task is asking, what that finds is taken, its error too.

        Raises:
            OxyError: the organization could not be had.
        """
        servers = servers_of(transport, request.base_url)
        looks = self._looks.get() or self._looks.put({})
        while (other := looks.get(servers)) is not None:
            with anyio.CancelScope(deadline=until):
                await other.over.wait()
            if other.found is not None:
                return other.found
            if other.error is not None:
                raise copy.copy(other.error) from other.error
            if not other.over.is_set():
                raise DeadlineExceededError("the remote did not say in time what it is", outcome=Outcome.NOT_SENT)
        look = looks[servers] = _Look()
        self.sent = request.context.sent
        try:
            look.found = await discover(transport, request, limits, until=until)
        except OxyError as error:
            error.server_url = error.server_url or redact_url(request.base_url)
            look.error = copy.copy(error)  # each caller has one of its own: what became of its run is written into it
            look.error.__cause__ = error
            raise
        finally:
            del looks[servers]
            look.over.set()
        self.known = Known(look.found, servers, anyio.current_time())
        return look.found

    async def check(
        self, callee: str, transport: Transport, request: HTTPRequest, limits: Limits, *, until: float
    ) -> None:
        """Nothing, if the remote may have `callee`; asks the remote unless it has said before that it does.

        Raises:
            UnknownCalleeError: the remote listed its members, and `callee` is not among them.
            ConnectError: there is no remote.
        """
        remote = self._of(servers_of(transport, request.base_url))
        if remote is None or self._is_due(remote, callee):
            try:
                remote = await self.look(transport, request, limits, until=until)
            except ConnectError:
                raise
            except OxyError as error:
                log_event("warning", request.context, "the remote does not say whom it knows: %s", error)
                remote = remote or UNKNOWN
        known = remote.agents
        if callee not in known.names and known.complete:
            there = remote.shown_names or "nothing at all"
            raise UnknownCalleeError(f"the remote has nothing called {callee!r}; it has {there}")
        if callee not in known.names:
            said = "the remote does not show anything called %r; a run of an unknown name never ends there"
            log_event("warning", request.context, said, callee)

    def shows(self, name: str, servers: frozenset[str]) -> bool:
        """Whether a discovery of one of these servers has happened and showed `name`."""
        remote = self._of(servers)
        return remote is not None and name in remote.agents.names

    def _of(self, servers: frozenset[str]) -> RemoteInfo | None:
        """What is known of these servers."""
        known = self.known
        return known.remote if known is not None and known.servers & servers else None

    def _is_due(self, remote: RemoteInfo, callee: str) -> bool:
        """Whether it is asked again who is there: that a name is missing is not remembered, if there is a list."""
        assert self.known is not None
        age = anyio.current_time() - self.known.read_at
        return callee not in remote.agents.names and not (remote.has_no_list and 0 <= age < NO_LIST_SECONDS)


async def discover(transport: Transport, request: HTTPRequest, limits: Limits, *, until: float) -> RemoteInfo:
    """Ask a remote what it is, within DISCOVERY_SECONDS and until then; `request` is the pattern of each request.

    Raises:
        OxyError: the organization could not be had.
    """
    data = partial(_data, transport, request, limits, min(until, anyio.current_time() + DISCOVERY_SECONDS))
    root = parse_organization(await data(PATHS["organization"]), limits)
    description, _ = await _optional(data, PATHS["description"], request)
    listing, is_missing = await _optional(data, PATHS["agents"], request)
    words = (description or {}).get("description")
    agents = KnownAgents.read(root, listing)
    # What the requests above carried is known now; who is told of the names later may have other credentials.
    sent = request.context.sent
    return RemoteInfo(
        organization=root,
        description=words if isinstance(words, str) else "",
        agents=agents,
        shown_names=", ".join(f"'{sent.shown(name, 60)}'" for name in sorted(agents.names)[:10]),
        has_no_list=is_missing,
    )


async def _data(transport: Transport, pattern: HTTPRequest, limits: Limits, until: float, path: str) -> dict[str, Any]:
    return await fetch_data(transport, attrs.evolve(pattern, path=path), limits, until=until)


async def _optional(
    data: Callable[[str], Awaitable[dict[str, Any]]], path: str, pattern: HTTPRequest
) -> tuple[dict[str, Any] | None, bool]:
    """The data of a document that some servers cannot give, None then; and whether there is no such document."""
    try:
        return await data(path), False
    except (StatusError, EnvelopeError) as error:
        log_event("debug", pattern.context, "%s: %s", path, error)
        return None, isinstance(error, StatusError) and error.status in MISSING
