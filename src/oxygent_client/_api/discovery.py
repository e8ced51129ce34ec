"""Discover the agents of a server: organization, description, names.

Rule 1: all documents are read within the deadline and within the limits; none is trusted.
Rule 2: only the organization is required. Servers may lack the other documents.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import attrs

from oxygent_client._api.fetch import MISSING, fetch_data
from oxygent_client._core.errors import EnvelopeError, StatusError
from oxygent_client._core.log import log_event
from oxygent_client._core.settings import Limits
from oxygent_client._core.transport import HTTPRequest, Transport
from oxygent_client._protocol.documents import KnownAgents, parse_organization
from oxygent_client._protocol.endpoints import PATHS


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


async def discover(transport: Transport, request: HTTPRequest, limits: Limits, *, until: float) -> RemoteInfo:
    """Discover a remote until `until`, by the event loop's clock; `request` is the template of each request.

    Raises:
        OxyError: the organization could not be read.
    """
    data = partial(_data, transport, request, limits, until)
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
