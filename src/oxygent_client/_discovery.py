"""What a remote is: its organization, its description, and the names it knows.

Rule 1: all of it is read within DISCOVERY_SECONDS, and within the limits; nothing of it is trusted.
Rule 2: only the organization must be there. A server without the other documents is still a server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import anyio
import attrs

from oxygent_client._ask import ask
from oxygent_client._errors import (
    ConnectError,
    EnvelopeError,
    OxyError,
    StatusError,
    UnknownCalleeError,
)
from oxygent_client._log import tell
from oxygent_client._per_loop import PerLoop
from oxygent_client._settings import Limits
from oxygent_client._transport import HTTPRequest, Transport, shown_url
from oxygent_client._wire import PATHS, Agents, organization

__all__ = ["DISCOVERY_SECONDS", "Directory", "Remote", "discover"]

DISCOVERY_SECONDS: Final = 30.0
"""For all documents together: connections, headers and bodies."""


@attrs.frozen(kw_only=True)
class Remote:
    """What discovery found."""

    organization: dict[str, Any]
    """The tree, as the server gave it."""
    description: str
    """The master agent's own words; empty where it has none."""
    agents: Agents
    """The names that the remote knows."""


UNKNOWN: Final = Remote(organization={}, description="", agents=Agents(frozenset(), complete=False))
"""A remote that cannot say what it is; it may run agents all the same."""


class Directory:
    """What one agent knows of its remote: asked for once, and kept."""

    def __init__(self) -> None:
        self.remote: Remote | None = None
        self._locks: PerLoop[anyio.Lock] = PerLoop()

    async def look(self, transport: Transport, request: HTTPRequest, limits: Limits) -> Remote:
        """Ask the remote, and keep what it says.

        Raises:
            OxyError: the organization could not be had.
        """
        try:
            self.remote = await discover(transport, request, limits)
        except OxyError as error:
            error.server_url = error.server_url or shown_url(request.base_url)
            raise
        return self.remote

    async def check(self, callee: str, transport: Transport, request: HTTPRequest, limits: Limits) -> None:
        """Nothing, if the remote may have `callee`; asks the remote the first time.

        Raises:
            UnknownCalleeError: the remote listed its members, and `callee` is not among them.
            ConnectError: there is no remote.
        """
        async with self._locks.get() or self._locks.put(anyio.Lock()):
            if self.remote is None:
                try:
                    await self.look(transport, request, limits)
                except ConnectError:
                    raise
                except OxyError as error:
                    tell("odd", request.context, "the remote does not say whom it knows: %s", error)
                    self.remote = UNKNOWN
        known = (self.remote or UNKNOWN).agents
        if callee not in known.names and known.complete:
            some = ", ".join(repr(name[:60]) for name in sorted(known.names)[:10])
            raise UnknownCalleeError(f"the remote has nothing called {callee!r}; it has {some or 'nothing at all'}")
        if callee not in known.names:
            said = "the remote does not show anything called %r; a run of an unknown name never ends there"
            tell("odd", request.context, said, callee)

    def shows(self, name: str) -> bool:
        """Whether a discovery has happened and showed `name`."""
        return self.remote is not None and name in self.remote.agents.names


async def discover(transport: Transport, request: HTTPRequest, limits: Limits) -> Remote:
    """Ask a remote what it is; `request` serves as the pattern of each request.

    Raises:
        OxyError: the organization could not be had.
    """
    until = anyio.current_time() + DISCOVERY_SECONDS
    data = partial(_data, transport, request, limits, until)
    root = organization(await data(PATHS["organization"]), limits)
    description = await _optional(data, PATHS["description"], request)
    listing = await _optional(data, PATHS["agents"], request)
    words = (description or {}).get("description")
    return Remote(
        organization=root,
        description=words if isinstance(words, str) else "",
        agents=Agents.read(root, listing),
    )


async def _data(transport: Transport, pattern: HTTPRequest, limits: Limits, until: float, path: str) -> dict[str, Any]:
    return await ask(transport, attrs.evolve(pattern, path=path), limits, until=until)


async def _optional(
    data: Callable[[str], Awaitable[dict[str, Any]]], path: str, pattern: HTTPRequest
) -> dict[str, Any] | None:
    """The data of a document that some servers do not have, or cannot give: None then."""
    try:
        return await data(path)
    except (StatusError, EnvelopeError) as error:
        tell("detail", pattern.context, "%s: %s", path, error)
        return None
