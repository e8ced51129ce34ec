"""Plain http: who may be spoken to without encryption, and with what.

Rule 1: a credential goes over https, to this machine, or to a host that is allowed by name; nowhere else.
Rule 2: what is refused is refused before anything is sent, and the text names the host and never the secret.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

import attrs

from oxygent_client._errors import ConfigurationError, InsecureTransportError
from oxygent_client._secrets import is_secret

__all__ = ["PlainHTTP", "check_secure"]

_NAME: Final = re.compile(r"[^\s/\\:@?#*\[\]]+")


def _hosts(names: Iterable[str]) -> tuple[str, ...]:
    """Host names as they are compared."""
    if isinstance(names, str):
        raise ConfigurationError("plaintext_hosts is several names: write (name,) for one")
    hosts = {_host(name) for name in names}
    for host in hosts:
        if not _NAME.fullmatch(host) and not isinstance(_address(host), IPv6Address):
            raise ConfigurationError("plaintext_hosts are names or addresses alone: no scheme, port, path or pattern")
    return tuple(sorted(hosts))


def _host(name: str) -> str:
    return name.lower().rstrip(".")


def _address(host: str) -> object:
    """The IP address that `host` is, one of version 4 if it is that in disguise; None if it is a name."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@attrs.frozen(kw_only=True)
class PlainHTTP:
    """What may go over plain http: nothing secret, unless to this machine or to `plaintext_hosts`.

    Raises:
        ConfigurationError: `plaintext_hosts` is one string, or holds what is no host's name.
    """

    https_only: bool = False
    """Nothing at all may, but to `plaintext_hosts`; not even to this machine."""
    plaintext_hosts: tuple[str, ...] = attrs.field(default=(), converter=_hosts)
    """Hosts, by exactly this name and whatever the port, that may be sent anything over plain http."""


def check_secure(
    url: str, headers: Mapping[str, str], policy: PlainHTTP, *, marked: Collection[str] = frozenset()
) -> None:
    """Nothing, if a request with these headers may go to `url`.

    `marked` are headers that hold a credential whatever they are called: `Context.secret_headers`.

    Raises:
        InsecureTransportError: it may not. Use https, or name the host in `plaintext_hosts`.
    """
    parts = urlsplit(url)
    host = _host(parts.hostname or "")
    if parts.scheme == "https" or host in policy.plaintext_hosts:
        return
    advice = "use https://, or name the host in plaintext_hosts"
    if policy.https_only:
        raise InsecureTransportError(f"{host or 'this address'!r} is not https, and https_only is set: {advice}")
    secret = _secret(parts, headers, marked)
    if secret and not _is_this_machine(host):
        raise InsecureTransportError(f"{secret} would go to {host or 'this address'!r} over plain http: {advice}")


def _secret(url: SplitResult, headers: Mapping[str, str], marked: Collection[str]) -> str:
    """What in a request is a credential, in words that do not tell it; empty if nothing is."""
    if "@" in url.netloc:
        return "the user information in the URL"
    for name, value in headers.items():
        # Digits under `x-token` are no count.
        if value and (name.lower() in marked or is_secret(name, "of whatever form")):
            return f"the header {name!r}"
    if any(is_secret(name, value) for name, value in parse_qsl(url.query)):
        return "a credential in the query"
    return ""


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    return bool(getattr(_address(host), "is_loopback", False))
