"""Rules for plain http: which hosts may be called without TLS.

Rule 1: a credential goes over https, to this machine, or to a host that is allowed by name; nowhere else.
Rule 2: it is judged by where the bytes go: what is sent to an http URL over a proxy is sent to the proxy's host, and
    what is sent to an address that was looked up is sent there, whatever the name was.
Rule 3: this machine is `localhost` exactly, or a loopback address in its usual form. Other spellings are read in
    different ways by different libraries, and a name that ends in `.localhost` resolves wherever its DNS says.
Rule 4: what is refused is refused before anything is sent, and the text names the host and never the secret.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

import attrs

from oxygent_client._core.errors import ConfigurationError, InsecureTransportError
from oxygent_client._core.redaction import is_secret
from oxygent_client._core.secret_names import is_count_name

__all__ = ["PlaintextRules", "address_of", "check_proxied", "check_secure", "is_loopback"]

_NAME: Final = re.compile(r"[^\s/\\:@?#*\[\]]+")
_AUTHORITY: Final = re.compile(r"(?:\[[0-9a-fA-F.]*:[0-9a-fA-F:.]*\]|[0-9a-zA-Z.-]+)(?::[0-9]*)?")
"""Host and port as every library reads them."""


def _hosts(names: Iterable[str]) -> tuple[str, ...]:
    """Host names as they are compared."""
    if isinstance(names, str):
        raise ConfigurationError("plaintext_hosts is several names: write (name,) for one")
    hosts = {_host(name) for name in names}
    for host in hosts:
        if not _NAME.fullmatch(host) and not isinstance(address_of(host), IPv6Address):
            raise ConfigurationError("plaintext_hosts are names or addresses alone: no scheme, port, path or pattern")
    return tuple(sorted(hosts))


def _host(name: str) -> str:
    return name.lower().rstrip(".")


def address_of(host: str) -> IPv4Address | IPv6Address | None:
    """The IP address that `host` is, one of version 4 if it is that in disguise; None if it is a name."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


@attrs.frozen(kw_only=True)
class PlaintextRules:
    """What may go over plain http: nothing secret, unless to this machine or to `plaintext_hosts`.

    Raises:
        ConfigurationError: `plaintext_hosts` is one string, or holds what is no host's name.
    """

    https_only: bool = False
    """Nothing at all may, but to `plaintext_hosts`; not even to this machine."""
    plaintext_hosts: tuple[str, ...] = attrs.field(default=(), converter=_hosts)
    """Hosts, by exactly this name and whatever the port, that may be sent anything over plain http."""


def check_secure(
    url: str,
    headers: Mapping[str, str],
    policy: PlaintextRules,
    *,
    marked: Collection[str] = frozenset(),
    named: str = "",
) -> None:
    """Nothing, if a request with these headers may go to `url`.

    `marked` are headers that hold a credential whatever they are called: `Context.secret_headers`. `named` is the URL
    by which the user named the server, where `url` has an address that was looked up: `plaintext_hosts` may hold that
    name. Whether it is this machine is judged by the address alone.

    Raises:
        InsecureTransportError: it may not. Use https, or name the host in `plaintext_hosts`.
    """
    parts = urlsplit(url)
    host = _host(parts.hostname or "")
    name = _host(urlsplit(named).hostname or "")
    if parts.scheme == "https" or host in policy.plaintext_hosts or name in policy.plaintext_hosts:
        return
    shown = repr(parts.hostname or "this address")
    if name not in ("", host):
        shown = f"{name!r} at {shown}"
    advice = "use https://, or name the host in plaintext_hosts"
    if policy.https_only:
        raise InsecureTransportError(f"{shown} is not https, and https_only is set: {advice}")
    secret = _secret(parts, headers, marked)
    if secret and not _is_here(parts):
        raise InsecureTransportError(f"{secret} would go to {shown} over plain http: {advice}")


def check_proxied(
    url: str, proxy: str, headers: Mapping[str, str], policy: PlaintextRules, *, marked: Collection[str] = frozenset()
) -> None:
    """Nothing, if a request with these headers may go to `url` over the proxy at the URL `proxy`.

    The request has passed `check_secure`. The proxy reads all that is sent to an http URL, and may be another machine.

    Raises:
        InsecureTransportError: it may not. Do without the proxy, or name its host in `plaintext_hosts`.
    """
    parts, there = urlsplit(url), urlsplit(proxy)
    host, is_tls = _host(there.hostname or ""), there.scheme == "https"
    if parts.scheme == "https" or host in policy.plaintext_hosts:
        return
    advice = "reach this server without the proxy, or name the proxy's host in plaintext_hosts"
    if policy.https_only and not is_tls:
        raise InsecureTransportError(f"the proxy {host!r} is not https, and https_only is set: {advice}")
    # Behind a proxy elsewhere, a name of this machine means another one.
    goes_on = is_tls and not _is_here(parts)
    secret = _secret(parts, headers, marked)
    if secret and not goes_on and not _is_here(there):
        raise InsecureTransportError(f"{secret} would go to the proxy {host!r} in the clear: {advice}")


def _secret(url: SplitResult, headers: Mapping[str, str], marked: Collection[str]) -> str:
    """What in a request is a credential, in words that do not tell it; empty if nothing is."""
    if "@" in url.netloc:
        return "the user information in the URL"
    for name, value in headers.items():
        # Digits under `x-token` are no count.
        if value and (name.lower() in marked or is_secret(name, "of whatever form")):
            return f"the header {name!r}"
    if any(_is_credential(name, value) for part in url.query.split(";") for name, value in parse_qsl(part)):
        return "a credential in the query"
    return ""


def _is_credential(name: str, value: str) -> bool:
    """Whether a field of a query is one, whatever its form: digits under `token` too, but not under `max_tokens`."""
    return is_secret(name, value) or (is_secret(name, "of whatever form") and not is_count_name(name))


def _is_here(url: SplitResult) -> bool:
    """Whether what is sent to this URL stays on this machine, for every library that may read the URL."""
    return bool(_AUTHORITY.fullmatch(url.netloc.rpartition("@")[2])) and is_loopback(url.hostname or "")


def is_loopback(host: str) -> bool:
    """Whether this host name or address, in lower case, is this machine."""
    address = None if "%" in host else address_of(host)  # a zone names an interface
    return host == "localhost" or (address is not None and address.is_loopback)
