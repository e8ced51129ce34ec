"""Rules for plain http: which hosts may be called without TLS.

Rule 1: credentials are sent over https, to the loopback interface, or to a host that is allowed by name; nowhere else.
Rule 2: what counts is where the bytes go: a request to an http URL over a proxy goes to the proxy, a request to a
    resolved address goes to that address, whatever the name.
Rule 3: loopback is exactly `localhost`, or a loopback address in its usual form. HTTP libraries read other spellings
    differently, and a name that ends in `.localhost` resolves as its DNS says.
Rule 4: a request is refused before anything is sent; the error names the host and never the secret.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

import attrs

from oxygent_client._core.errors import ConfigurationError, InsecureTransportError
from oxygent_client._core.patterns import compiled
from oxygent_client._core.redaction import is_secret
from oxygent_client._core.server_identity import address_of

_NAME: Final = r"[^\s/\\:@?#*\[\]]+"
_AUTHORITY: Final = re.compile(r"(?:\[[0-9a-fA-F.]*:[0-9a-fA-F:.]*\]|[0-9a-zA-Z.-]+)(?::[0-9]*)?")
"""Host and port in the form that every library reads alike."""


def _hosts(names: Iterable[str]) -> tuple[str, ...]:
    """Normalise host names for comparison."""
    if isinstance(names, str):
        raise ConfigurationError("plaintext_hosts must be a collection of names: pass (name,) for one")
    hosts = {_host(name) for name in names}
    for host in hosts:
        if not compiled(_NAME).fullmatch(host) and not isinstance(address_of(host), IPv6Address):
            raise ConfigurationError(
                "plaintext_hosts must be host names or addresses: no scheme, port, path or pattern"
            )
    return tuple(sorted(hosts))


def _host(name: str) -> str:
    return name.lower().rstrip(".")


@attrs.frozen(kw_only=True)
class PlaintextRules:
    """Rules for plain http: no credential, unless to loopback or to `plaintext_hosts`.

    Raises:
        ConfigurationError: `plaintext_hosts` is a `str`, or holds something that is not a host name.
    """

    https_only: bool = False
    """Refuse all plain http, also to loopback, except to `plaintext_hosts`."""
    plaintext_hosts: tuple[str, ...] = attrs.field(default=(), converter=_hosts)
    """Hosts that may receive anything over plain http, by exactly this name, on any port."""


def check_secure(
    url: str,
    headers: Mapping[str, str],
    policy: PlaintextRules,
    *,
    marked: Collection[str] = frozenset(),
    named: str = "",
) -> None:
    """Refuse a request with these headers to `url` if it would send a credential over plain http.

    `marked` are headers that hold a credential, whatever their name: `Context.secret_headers`. `named` is the URL that
    the user gave, if `url` has a resolved address: `plaintext_hosts` may hold that name. Loopback is decided by the
    address alone.

    Raises:
        InsecureTransportError: use https, or add the host to `plaintext_hosts`.
    """
    parts = urlsplit(url)
    host = _host(parts.hostname or "")
    name = _host(urlsplit(named).hostname or "") if named else ""
    if parts.scheme == "https" or host in policy.plaintext_hosts or name in policy.plaintext_hosts:
        return
    shown = repr(parts.hostname or "this address")
    if name not in ("", host):
        shown = f"{name!r} at {shown}"
    advice = "use https://, or name the host in plaintext_hosts"
    if policy.https_only:
        raise InsecureTransportError(f"{shown} is not https, and https_only is set: {advice}")
    if not _is_local(parts) and (secret := _secret(parts, headers, marked)):
        raise InsecureTransportError(f"{secret} would go to {shown} over plain http: {advice}")


def may_hold_credentials(url: str, policy: PlaintextRules) -> bool:
    """Whether `check_secure` accepts any headers with this URL."""
    parts = urlsplit(url)
    is_named = _host(parts.hostname or "") in policy.plaintext_hosts
    return parts.scheme == "https" or is_named or (not policy.https_only and _is_local(parts))


def check_proxied(
    url: str, proxy: str, headers: Mapping[str, str], policy: PlaintextRules, *, marked: Collection[str] = frozenset()
) -> None:
    """Refuse a request to `url` over the proxy at the URL `proxy` if the proxy could read a credential.

    The request has passed `check_secure`. The proxy reads all requests to http URLs, and may be another machine.

    Raises:
        InsecureTransportError: do not use the proxy, or add its host to `plaintext_hosts`.
    """
    parts, there = urlsplit(url), urlsplit(proxy)
    host, is_tls = _host(there.hostname or ""), there.scheme == "https"
    if parts.scheme == "https" or host in policy.plaintext_hosts:
        return
    advice = "reach this server without the proxy, or name the proxy's host in plaintext_hosts"
    if policy.https_only and not is_tls:
        raise InsecureTransportError(f"the proxy {host!r} is not https, and https_only is set: {advice}")
    # Behind a remote proxy, a loopback name means the proxy's own machine.
    goes_on = is_tls and not _is_local(parts)
    secret = _secret(parts, headers, marked)
    if secret and not goes_on and not _is_local(there):
        raise InsecureTransportError(f"{secret} would go to the proxy {host!r} in the clear: {advice}")


def _secret(url: SplitResult, headers: Mapping[str, str], marked: Collection[str]) -> str:
    """Describe the credential in a request without showing it; empty without a credential."""
    if "@" in url.netloc:
        return "the user information in the URL"
    for name, value in headers.items():
        # In a header, digits are no count: `x-max-tokens: 5` may be a credential.
        if value and (name.lower() in marked or is_secret(name, "of whatever form")):
            return f"the header {name!r}"
    if any(is_secret(name, value) for part in url.query.split(";") for name, value in parse_qsl(part)):
        return "a credential in the query"
    return ""


def _is_local(url: SplitResult) -> bool:
    """Whether a request to this URL stays on this machine, with every library that may read the URL."""
    return bool(_AUTHORITY.fullmatch(url.netloc.rpartition("@")[2])) and is_loopback(url.hostname or "")


@functools.lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether this host name or address, in lower case, is loopback in its usual form."""
    address = None if "%" in host else address_of(host)  # a zone names an interface
    return host == "localhost" or (address is not None and address.is_loopback)
