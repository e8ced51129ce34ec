"""Members of a cluster: replica URLs and DNS names.

Rule 1: a member is a frozen value that compares by content; its repr shows no user information and no query.
Rule 2: what a name stands for is asked for again when it is older than `every`. An answer that fails, or is empty,
    changes nothing.
Rule 3: a replica found by a name is reached by its address. What may be sent to it over plain http is judged by that
    address; `plaintext_hosts` may hold the name, too.
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

__all__ = ["DNS", "Member", "Replica", "ResolvedReplica", "Resolver", "as_members", "places"]

Resolver: TypeAlias = Callable[[str, int], Awaitable[Iterable[str]]]
"""Gives the addresses of a host (with a port); if it fails, or there are none, all stays as it was."""
RESOLVE_SECONDS: Final = 5.0
"""How long an answer is waited for: a call waits for it, and is better served by what was known before."""


async def resolve(host: str, port: int) -> Iterable[str]:
    """The addresses of `host` as the system knows them: A and AAAA."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [address[0] for *_, address in found]


def _plain_url(url: str) -> str:
    if urlsplit(check_url(url)).scheme == "https":
        raise ConfigurationError("DNS is for http: an https server's certificate is for a name, not for an address")
    return url


@attrs.frozen(repr=False)
class Replica:
    """One server among several that can each do the same.

    Raises:
        ConfigurationError: the URL is no server's, or the weight is not more than 0.
    """

    url: str = attrs.field(converter=check_url)
    weight: float = attrs.field(default=1.0, kw_only=True, validator=number(gt=0))
    """Its size, beside the others'. `round_robin` takes no notice of it."""

    def __repr__(self) -> str:
        return f"Replica({redact_url(self.url)!r}, weight={self.weight:g})"


@attrs.frozen(repr=False)
class DNS:
    """A name that stands for several replicas, one for each of its addresses (a Kubernetes headless service).

    Raises:
        ConfigurationError: the URL is no server's, or is one of https: an address has no certificate, so name each
            replica by a URL of its own there.
    """

    url: str = attrs.field(converter=_plain_url)
    every: float = attrs.field(default=30.0, kw_only=True, validator=number(ge=0))
    """After how many seconds the addresses are asked for again."""
    resolver: Resolver = attrs.field(default=resolve, kw_only=True)

    def __repr__(self) -> str:
        return f"DNS({redact_url(self.url)!r}, every={self.every:g})"

    async def addresses(self) -> tuple[str, ...]:
        """The URLs of the replicas.

        Raises:
            ConnectError: there is no answer, or an empty one.
        """
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
        urls: tuple[str, ...] = ()
        said, cause = "no address", None
        with anyio.move_on_after(RESOLVE_SECONDS) as waiting:
            try:
                found = await self.resolver(host, port)
                urls = tuple(dict.fromkeys(_at(parts, address) for address in found))
            except Exception as error:  # noqa: BLE001  (a resolver of the user's has errors of its own)
                said, cause = getattr(error, "strerror", None) or type(error).__name__, error
        if waiting.cancelled_caught:
            said = f"no answer within {RESOLVE_SECONDS:g} s"
        if not urls:
            raise ConnectError(f"could not find the replicas of {host!r}: {said}") from cause
        return urls


def _at(parts: SplitResult, address: str) -> str:
    """The URL, with the host replaced by its address."""
    user, at, _ = parts.netloc.rpartition("@")
    shown = f"[{address}]" if ":" in address else address
    port = "" if parts.port is None else f":{parts.port}"
    return check_url(parts._replace(netloc=f"{user}{at}{shown}{port}").geturl())


Member: TypeAlias = Replica | DNS


def as_members(given: Collection[str | Member]) -> tuple[Member, ...]:
    """What a user gave, as values.

    Raises:
        ConfigurationError: it is one string, or holds the same URL twice or a replica that is none.
    """
    if isinstance(given, str):
        raise ConfigurationError("a cluster is several replicas: write [url] for one")
    made = tuple(Replica(each) if isinstance(each, str) else each for each in given)
    for each in made:
        if not isinstance(each, Replica | DNS):  # pyright: ignore[reportUnnecessaryIsInstance]  (users need no checker)
            raise ConfigurationError(f"a {type(each).__name__} is no replica: give a URL, a Replica or a DNS")
    if len({(type(each), server_address(each.url)) for each in made}) < len(made):
        raise ConfigurationError("a replica stands in the cluster twice")
    return made


@attrs.frozen
class ResolvedReplica:
    """A replica, and where it comes from."""

    replica: Replica
    named: str
    """The URL by which the user named it."""


def places(of: Iterable[Member], found: dict[DNS, tuple[str, ...]]) -> dict[str, ResolvedReplica]:
    """All replicas by their URLs."""
    all_of_them: dict[str, ResolvedReplica] = {}
    for member in of:
        if isinstance(member, Replica):
            all_of_them[member.url] = ResolvedReplica(member, member.url)
        else:
            for url in found.get(member, ()):
                all_of_them.setdefault(url, ResolvedReplica(Replica(url), member.url))
    return all_of_them
