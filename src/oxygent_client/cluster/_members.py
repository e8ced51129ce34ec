"""Members of a cluster: replica URLs and DNS names.

Rule 1: a member is a frozen value that compares by content; its repr shows no user information and no query.
Rule 2: a DNS name is resolved again when its addresses are older than `every` seconds. A resolution that fails or is
    empty changes nothing.
Rule 3: a replica found by DNS is reached by its address. What may be sent to it over plain http is decided by that
    address; `plaintext_hosts` may also hold the name.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Final, TypeAlias
from urllib.parse import SplitResult, urlsplit

import anyio
import attrs

from oxygent_client._core.errors import ConfigurationError, ConnectError
from oxygent_client._core.server_identity import PORTS, server_address
from oxygent_client._core.transport import check_url, redact_url
from oxygent_client._core.validation import number

Resolver: TypeAlias = Callable[[str, int], Awaitable[Iterable[str]]]
"""Resolves a host and port to addresses. If it raises or returns none, the replicas stay the same."""
RESOLVE_SECONDS: Final = 5.0
"""Time-out of a resolution: a call waits for it, and is better served by the previous addresses."""


async def system_resolver(host: str, port: int) -> Iterable[str]:
    """Resolve `host` with the system's resolver: A and AAAA records."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [address[0] for *_, address in found]


def _plain_url(url: str) -> str:
    if urlsplit(check_url(url)).scheme == "https":
        raise ConfigurationError("DNS takes http URLs only: a certificate is for a name, not for an address")
    return url


@attrs.frozen(repr=False)
class Replica:
    """One of several servers that run the same agents.

    Raises:
        ConfigurationError: `url` is not a server's URL, or `weight` is not > 0.
    """

    url: str = attrs.field(converter=check_url)
    weight: float = attrs.field(default=1.0, kw_only=True, validator=number(gt=0))
    """Its capacity relative to the others. `round_robin` ignores it."""

    def __repr__(self) -> str:
        return f"Replica({redact_url(self.url)!r}, weight={self.weight:g})"


@attrs.frozen(repr=False)
class DNS:
    """A DNS name with one replica per address (for example a Kubernetes headless service).

    Raises:
        ConfigurationError: `url` is not a server's URL, or is https: a certificate is not for an address, so pass one
            URL per replica there.
    """

    url: str = attrs.field(converter=_plain_url)
    every: float = attrs.field(default=30.0, kw_only=True, validator=number(ge=0))
    """Resolve the name again after so many seconds."""
    resolver: Resolver = attrs.field(default=system_resolver, kw_only=True)

    def __repr__(self) -> str:
        return f"DNS({redact_url(self.url)!r}, every={self.every:g})"

    async def addresses(self) -> tuple[str, ...]:
        """Resolve the name to the URLs of its replicas.

        Raises:
            ConnectError: the resolution failed, or found no address.
        """
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
        urls: tuple[str, ...] = ()
        reason, cause = "no address", None
        with anyio.move_on_after(RESOLVE_SECONDS) as scope:
            try:
                found = await self.resolver(host, port)
                urls = tuple(dict.fromkeys(_with_host(parts, address) for address in found))
            except Exception as error:  # noqa: BLE001  (a user's resolver may raise anything)
                reason, cause = getattr(error, "strerror", None) or type(error).__name__, error
        if scope.cancelled_caught:
            reason = f"no answer within {RESOLVE_SECONDS:g} s"
        if not urls:
            raise ConnectError(f"could not resolve the replicas of {host!r}: {reason}") from cause
        return urls


def _with_host(parts: SplitResult, address: str) -> str:
    """The URL with its host replaced by `address`."""
    user, at, _ = parts.netloc.rpartition("@")
    shown = f"[{address}]" if ":" in address else address
    port = "" if parts.port is None else f":{parts.port}"
    return check_url(parts._replace(netloc=f"{user}{at}{shown}{port}").geturl())


Member: TypeAlias = Replica | DNS


def as_members(given: Collection[str | Member]) -> tuple[Member, ...]:
    """Convert the `members` argument to values.

    Raises:
        ConfigurationError: it is one `str`, holds a URL twice, or holds a value of another type.
    """
    if isinstance(given, str):
        raise ConfigurationError("members must be a list of replicas: pass [url] for one")
    members = tuple(Replica(each) if isinstance(each, str) else each for each in given)
    for each in members:
        if not isinstance(each, Replica | DNS):  # pyright: ignore[reportUnnecessaryIsInstance]  (users need no checker)
            raise ConfigurationError(f"members must be URLs, Replica or DNS; got {type(each).__name__}")
    if len({(type(each), server_address(each.url)) for each in members}) < len(members):
        raise ConfigurationError("members must be different: the cluster has a replica twice")
    return members


@attrs.frozen
class ResolvedReplica:
    """A replica and the member that it is from."""

    replica: Replica
    member_url: str
    """The URL as the user wrote it; for DNS it has the name where the replica's has the address."""


def resolve_members(members: Iterable[Member], resolved: dict[DNS, tuple[str, ...]]) -> dict[str, ResolvedReplica]:
    """All replicas of the members, by URL; `resolved` has the URLs of each DNS name."""
    replicas: dict[str, ResolvedReplica] = {}
    for member in members:
        if isinstance(member, Replica):
            replicas[member.url] = ResolvedReplica(member, member.url)
        else:
            for url in resolved.get(member, ()):
                replicas.setdefault(url, ResolvedReplica(Replica(url), member.url))
    return replicas
