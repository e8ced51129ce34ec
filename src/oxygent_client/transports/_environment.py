"""Proxies and certificates from environment variables.

Rule 1: loopback is not proxied because of the environment. A `proxy=` argument is used for every URL.
Rule 2: a proxy that cannot be used, and a file that cannot be read, is an error where it is needed and only there: a
    plain http request that needs no proxy works whatever the environment says.
Rule 3: the error is a `ConfigurationError` that names the variable, and shows no password.
Rule 4: what is sent to an http URL over a proxy is sent to the proxy: `check_proxied` judges that.

`NO_PROXY` is a list of host names (each with its subdomains; a leading `.` or `*.` is ignored), IP addresses, networks
such as `10.0.0.0/8` and `fd07::/64`, each with a port if wanted, or `*`. What is none of these matches no host.
"""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, getproxies_environment, proxy_bypass

import attrs

from oxygent_client._core.errors import ConfigurationError
from oxygent_client._core.log import log_event
from oxygent_client._core.plain_http import PlaintextRules, address_of, check_proxied, is_loopback
from oxygent_client._core.transport import Context, HTTPRequest

__all__ = [
    "PORTS",
    "Proxies",
    "Proxy",
    "accepts_all",
    "check_proxied_request",
    "check_verify",
    "no_trust",
    "trust",
    "without_bad_key_log",
]

KEY_LOG: Final = "SSLKEYLOGFILE"
PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
"""The schemes of proxies, each with its port."""


# --- proxies ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Proxy:
    """One proxy. Its URL may hold a password; `str()` shows none."""

    url: str = attrs.field(repr=False)
    """With a scheme."""
    source: str
    """The variable or argument that names it."""

    @classmethod
    def read(cls, given: str, source: str, schemes: tuple[str, ...]) -> Proxy:
        """The proxy that `given` names.

        Raises:
            ConfigurationError: it is no URL with a host, or its scheme is not one of `schemes`.
        """
        url = given if "://" in given else f"http://{given}"
        try:
            parts = urlsplit(url)
            usable = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ConfigurationError(f"{source}: the proxy must be a URL with a host and one of {', '.join(schemes)}")
        return cls(url, source)

    @property
    def is_secure(self) -> bool:
        """Whether TLS is spoken with the proxy itself."""
        return self.url.lower().startswith("https:")

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        shown = f"[{host}]" if ":" in host else host
        return f"{shown}:{parts.port or PORTS[parts.scheme]} ({self.source})"


@attrs.frozen
class _Exception:
    """One entry of `NO_PROXY`."""

    host: str
    """In lower case, without a leading `*.` or `.`."""
    port: int | None
    network: IPv4Network | IPv6Network | None
    """What it means if it is an address or a network."""

    @classmethod
    def read(cls, entry: str) -> _Exception:
        """`name`, `name:port`, `address`, `[address]:port`, `network`; with a scheme in front, which is ignored."""
        host, rest = entry.strip().lower().rpartition("://")[2], ""
        if host.startswith("["):
            host, _, rest = host[1:].partition("]")
            if rest.startswith("/"):
                host, rest = f"{host}{rest}", ""
        elif host.count(":") == 1:
            host, _, rest = host.partition(":")
        port = rest.removeprefix(":")
        network = None
        with suppress(ValueError):
            network = ip_network(host, strict=False)
        # No port has more digits than five, and `int` takes no more than some thousands.
        return cls(host.removeprefix("*").strip("."), int(port[:6]) if port.isdecimal() else None, network)

    def fits(self, host: str, port: int | None) -> bool:
        """Whether `host` (in lower case, without a dot at its end) at `port` is excepted."""
        if not self.host or self.port not in (None, port):
            return False
        if self.network is not None:
            address = address_of(host)
            return address is not None and address in self.network
        return host == self.host or host.endswith(f".{self.host}")


def _nothing(_host: str) -> bool:
    return False


@attrs.frozen
class Proxies:
    """Which proxy leads to which URL, as the arguments of a transport and the environment had it when it was read."""

    named: Proxy | None = None
    """The transport's argument `proxy`."""
    by_scheme: Mapping[str, tuple[str, str]] = attrs.field(factory=dict[str, tuple[str, str]], repr=False)
    """The environment's, each with what names it; `all` is for the schemes that have none."""
    exceptions: tuple[_Exception, ...] = ()
    is_excepted: Callable[[str], object] = attrs.field(default=_nothing, repr=False)
    """What else is excepted: everything, or what the system's own settings say (macOS, Windows)."""
    schemes: tuple[str, ...] = tuple(PORTS)
    """Those of proxies that the library can use."""

    @classmethod
    def read(
        cls,
        named: str | None,
        *,
        trust_env: bool,
        schemes: tuple[str, ...] = tuple(PORTS),
        found: Mapping[str, str] | None = None,
    ) -> Proxies:
        """That of the argument, else those that were `found`: in the environment, if it is trusted.

        Raises:
            ConfigurationError: the argument is no proxy that can be used.
        """
        if named is not None:
            return cls(Proxy.read(named, "proxy", schemes), schemes=schemes)
        if not trust_env:
            return cls()
        found = getproxies() if found is None else found
        entries = [entry for entry in found.get("no", "").split(",") if entry.strip()]
        # Where no variable names a proxy, `getproxies` looks into the system's settings, as `proxy_bypass` does.
        is_excepted = _nothing if getproxies_environment() or not found else proxy_bypass
        if any(entry.strip() == "*" for entry in entries):
            return cls()
        by_scheme = {key: (value, _variable(key)) for key, value in found.items() if value}
        return cls(None, by_scheme, tuple(map(_Exception.read, entries)), is_excepted, schemes)

    def find(self, url: str) -> Proxy | None:
        """The proxy that leads to `url`; None if it is reached directly.

        Raises:
            ConfigurationError: the proxy cannot be used, or this is no URL.
        """
        if self.named is not None or not self.by_scheme:
            return self.named
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip("."), parts.port or PORTS.get(parts.scheme)
        except ValueError as error:
            raise ConfigurationError("the URL of the request cannot be read") from error
        given = self.by_scheme.get(parts.scheme) or self.by_scheme.get("all")
        # A name below `localhost` is for this machine, too (RFC 6761); to go there directly gives nothing away.
        is_local = is_loopback(host) or host.endswith(".localhost")
        if given is None or is_local or self.is_excepted(host):
            return None
        if any(exception.fits(host, port) for exception in self.exceptions):
            return None
        return Proxy.read(*given, self.schemes)


def _variable(key: str) -> str:
    """The environment variable that names the proxy for `key`, as `getproxies` finds it."""
    name = f"{key}_proxy"
    set_ones = [each for each in (name, name.upper()) if os.environ.get(each)]
    return set_ones[0] if set_ones else f"the system's settings for {key}"


def check_proxied_request(request: HTTPRequest, proxy: str) -> None:
    """Nothing, if `request` may be sent through the proxy at this URL.

    Raises:
        InsecureTransportError: it would bring a credential to the proxy in the clear.
    """
    request.context.sent.note(proxy)
    policy, marked = request.context.https_only or PlaintextRules(), request.context.secret_headers
    check_proxied(request.url, proxy, request.headers, policy, marked=marked)


# --- certificates -----------------------------------------------------------------------------------------------------


def check_verify(given: object, transport: str) -> None:
    """Nothing, if this can be the argument `verify`; logs a warning if it accepts every certificate.

    Raises:
        ConfigurationError: it is neither True, False nor a context. What counts as false would verify nothing.
    """
    if not isinstance(given, bool | ssl.SSLContext):
        advice = "for a file of authorities, ssl.create_default_context(cafile=...)"
        raise ConfigurationError(f"{transport}: verify must be True, False or an ssl.SSLContext ({advice})")
    if shown := accepts_all(given):
        log_event(
            "warning",
            Context(),
            "%s(%s): no certificate is verified, anybody in between can read along",
            transport,
            shown,
        )


def accepts_all(verify: ssl.SSLContext | bool) -> str:
    """A `verify` that accepts every certificate, as a repr shows it; empty if it verifies them."""
    if isinstance(verify, ssl.SSLContext):
        return "verify=CERT_NONE" if verify.verify_mode is ssl.CERT_NONE else ""
    return "" if verify else "verify=False"


def trust(make: Callable[[], ssl.SSLContext], *, trust_env: bool) -> ssl.SSLContext:
    """The context that `make` makes: once for each function and environment, since that takes longer than a call.

    Raises:
        ConfigurationError: `SSL_CERT_FILE`, `SSL_CERT_DIR` or `SSLKEYLOGFILE` names what cannot be used.
    """
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR") if trust_env else ()
    return _trust(make, tuple((name, os.environ.get(name, "")) for name in (*names, KEY_LOG)))


@functools.lru_cache(maxsize=16)
def _trust(make: Callable[[], ssl.SSLContext], variables: tuple[tuple[str, str], ...]) -> ssl.SSLContext:
    values = {name: value for name, value in variables if value}
    file, folders = values.get("SSL_CERT_FILE"), values.get("SSL_CERT_DIR")
    if file is not None:
        with _naming("SSL_CERT_FILE"), Path(file).open("rb"):
            pass
    elif folders is not None and not any(map(os.path.isdir, folders.split(os.pathsep))):
        raise ConfigurationError("SSL_CERT_DIR: there is no such directory")
    if KEY_LOG in values:
        with _naming(KEY_LOG), Path(values[KEY_LOG]).open("ab"):
            pass
    with _naming("SSL_CERT_FILE" if file else "SSL_CERT_DIR" if folders else "the system's certificates"):
        return make()


@contextmanager
def _naming(source: str) -> Generator[None]:
    try:
        yield
    except OSError as error:  # ssl.SSLError is one
        said = error.strerror or type(error).__name__
        raise ConfigurationError(f"{source}: the file cannot be used: {said}"[:200]) from error


@functools.cache
def no_trust() -> ssl.SSLContext:
    """For a client of plain http, whose library wants a context all the same: it accepts no certificate at all."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@contextmanager
def without_bad_key_log() -> Generator[None]:
    """Leave `SSLKEYLOGFILE` out in the block if it cannot be written to: aiohttp makes a context as it is imported."""
    named = os.environ.get(KEY_LOG)
    try:
        if named:
            with suppress(OSError), Path(named).open("ab"):
                named = None
        if named:
            del os.environ[KEY_LOG]
        yield
    finally:
        if named:
            os.environ[KEY_LOG] = named
