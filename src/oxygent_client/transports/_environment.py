"""Proxies and certificates from environment variables.

Rule 1: the proxies of the environment are not used for loopback. The argument `proxy` is used for every URL.
Rule 2: an unusable proxy or an unreadable file is an error only where it is needed: a plain http request that needs no
    proxy works whatever the environment contains.
Rule 3: the error is a `ConfigurationError` that names the variable, and shows no password.
Rule 4: a proxy reads what is sent through it to an http URL; `check_proxied` decides whether it may.

`NO_PROXY` is a list of host names (each includes its subdomains; a leading `.` or `*.` is ignored), IP addresses and
networks such as `10.0.0.0/8` and `fd07::/64`, each with an optional port; or `*`. Other entries match no host.
"""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, getproxies_environment, proxy_bypass

import attrs

from oxygent_client._core.errors import ConfigurationError
from oxygent_client._core.log import log_event
from oxygent_client._core.plain_http import PlaintextRules, check_proxied, is_loopback
from oxygent_client._core.server_identity import address_of
from oxygent_client._core.transport import Context, HTTPRequest

KEY_LOG: Final = "SSLKEYLOGFILE"
PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
"""The schemes of proxies, with their default ports."""


# --- proxies ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Proxy:
    """A proxy. Its URL may contain a password, which `str()` does not show."""

    url: str = attrs.field(repr=False)
    """Always with a scheme."""
    source: str
    """The variable or argument that it was read from."""

    @classmethod
    def read(cls, given: str, source: str, schemes: tuple[str, ...]) -> Proxy:
        """Parse a proxy URL; its scheme defaults to http.

        Raises:
            ConfigurationError: it is not a URL with a host, or its scheme is not one of `schemes`.
        """
        url = given if "://" in given else f"http://{given}"
        try:
            parts = urlsplit(url)
            usable = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ConfigurationError(f"{source} must be a URL with a host and one of the schemes {', '.join(schemes)}")
        return cls(url, source)

    @property
    def is_secure(self) -> bool:
        """Whether the connection to the proxy itself uses TLS."""
        return self.url.lower().startswith("https:")

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        shown = f"[{host}]" if ":" in host else host
        return f"{shown}:{parts.port or PORTS[parts.scheme]} ({self.source})"


@functools.lru_cache(maxsize=256)
def _is_included(entry: str, host: str, port: int | None) -> bool:
    """Whether an entry of `NO_PROXY` includes `host` (in lower case, without a trailing dot) at `port`.

    An entry is `name`, `name:port`, `address`, `[address]:port` or `network`; a scheme in front is ignored.
    """
    name, rest = entry.strip().lower().rpartition("://")[2], ""
    if name.startswith("["):
        name, _, rest = name[1:].partition("]")
        if rest.startswith("/"):
            name, rest = f"{name}{rest}", ""
    elif name.count(":") == 1:
        name, _, rest = name.partition(":")
    digits = rest.removeprefix(":")
    # A port has at most five digits, and `int` refuses a few thousand.
    if digits.isdecimal() and int(digits[:6]) != port:
        return False
    with suppress(ValueError):
        network = ip_network(name, strict=False)
        address = address_of(host)
        return address is not None and address in network
    name = name.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _never(_host: str) -> bool:
    return False


@attrs.frozen
class Proxies:
    """The proxy of each URL, by a transport's arguments and the environment at the time of reading."""

    argument: Proxy | None = None
    """The transport's argument `proxy`."""
    by_scheme: Mapping[str, tuple[str, str]] = attrs.field(factory=dict[str, tuple[str, str]], repr=False)
    """The environment's proxy and variable for each scheme; `all` is for the other schemes."""
    no_proxy: tuple[str, ...] = ()
    """The entries of `NO_PROXY`."""
    is_bypassed: Callable[[str], object] = attrs.field(default=_never, repr=False)
    """Whether the system's own settings (macOS, Windows) exclude a host."""
    schemes: tuple[str, ...] = tuple(PORTS)
    """The schemes of proxies that the library supports."""

    @classmethod
    def read(
        cls,
        argument: str | None,
        *,
        trust_env: bool,
        schemes: tuple[str, ...] = tuple(PORTS),
        found: Mapping[str, str] | None = None,
    ) -> Proxies:
        """Read the argument `proxy`; without it, `found`, or the environment if `trust_env`.

        Raises:
            ConfigurationError: the argument is not a usable proxy.
        """
        if argument is not None:
            return cls(Proxy.read(argument, "proxy", schemes), schemes=schemes)
        if not trust_env:
            return cls()
        found = getproxies() if found is None else found
        entries = [entry for entry in found.get("no", "").split(",") if entry.strip()]
        # Without a variable that names a proxy, `getproxies` and `proxy_bypass` read the system's settings.
        is_bypassed = _never if getproxies_environment() or not found else proxy_bypass
        if any(entry.strip() == "*" for entry in entries):
            return cls()
        by_scheme = {key: (value, _variable(key)) for key, value in found.items() if value}
        return cls(None, by_scheme, tuple(entries), is_bypassed, schemes)

    def find(self, url: str) -> Proxy | None:
        """Return the proxy for `url`; None if it is reached directly.

        Raises:
            ConfigurationError: the proxy or the URL cannot be used.
        """
        if self.argument is not None or not self.by_scheme:
            return self.argument
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip("."), parts.port or PORTS.get(parts.scheme)
        except ValueError as error:
            raise ConfigurationError("the URL of the request is invalid; check server_url") from error
        given = self.by_scheme.get(parts.scheme) or self.by_scheme.get("all")
        # Names below `localhost` are this machine too (RFC 6761); reaching them directly discloses nothing.
        is_local = is_loopback(host) or host.endswith(".localhost")
        if given is None or is_local or self.is_bypassed(host):
            return None
        if any(_is_included(entry, host, port) for entry in self.no_proxy):
            return None
        return Proxy.read(*given, self.schemes)


def _variable(key: str) -> str:
    """Return the environment variable that `getproxies` read for `key`."""
    name = f"{key}_proxy"
    set_ones = [each for each in (name, name.upper()) if os.environ.get(each)]
    return set_ones[0] if set_ones else f"the system's settings for {key}"


def check_proxied_request(request: HTTPRequest, proxy: str) -> None:
    """Check that `request` may be sent through the proxy at this URL.

    Raises:
        InsecureTransportError: the proxy would read a credential in plain text.
    """
    request.context.sent.note(proxy)
    policy, marked = request.context.https_only or PlaintextRules(), request.context.secret_headers
    check_proxied(request.url, proxy, request.headers, policy, marked=marked)


# --- certificates -----------------------------------------------------------------------------------------------------


def check_verify(given: object, transport: str) -> None:
    """Check the argument `verify`, and log a warning if it accepts every certificate.

    Raises:
        ConfigurationError: it is not True, False or an `ssl.SSLContext`.
    """
    if not isinstance(given, bool | ssl.SSLContext):
        advice = "to trust the authorities in a file, ssl.create_default_context(cafile=...)"
        raise ConfigurationError(f"{transport}: verify must be True, False or an ssl.SSLContext ({advice})")
    if shown := accepts_all(given):
        log_event(
            "warning", Context(), "%s(%s): no certificate is verified; others can read the traffic", transport, shown
        )


def accepts_all(verify: ssl.SSLContext | bool) -> str:
    """Return how a repr shows a `verify` that accepts every certificate; empty if certificates are verified."""
    if isinstance(verify, ssl.SSLContext):
        return "verify=CERT_NONE" if verify.verify_mode is ssl.CERT_NONE else ""
    return "" if verify else "verify=False"


def trust(make: Callable[[], ssl.SSLContext], *, trust_env: bool) -> ssl.SSLContext:
    """Return the context of `make`, cached by function and environment, since creating one is slow.

    Raises:
        ConfigurationError: `SSL_CERT_FILE`, `SSL_CERT_DIR` or `SSLKEYLOGFILE` names a file that cannot be used.
    """
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR") if trust_env else ()
    return _trust(make, tuple((name, os.environ.get(name, "")) for name in (*names, KEY_LOG)))


@functools.lru_cache(maxsize=16)
def _trust(make: Callable[[], ssl.SSLContext], variables: tuple[tuple[str, str], ...]) -> ssl.SSLContext:
    values = {name: value for name, value in variables if value}
    file, folders = values.get("SSL_CERT_FILE"), values.get("SSL_CERT_DIR")
    if file is not None:
        with _errors_name("SSL_CERT_FILE"), Path(file).open("rb"):
            pass
    elif folders is not None and not any(map(os.path.isdir, folders.split(os.pathsep))):
        raise ConfigurationError("SSL_CERT_DIR: no such directory")
    if KEY_LOG in values:
        with _errors_name(KEY_LOG), Path(values[KEY_LOG]).open("ab"):
            pass
    with _errors_name("SSL_CERT_FILE" if file else "SSL_CERT_DIR" if folders else "the system's certificates"):
        return make()


@contextmanager
def _errors_name(source: str) -> Generator[None]:
    """Raise an OSError of the block as a ConfigurationError that names `source`."""
    try:
        yield
    except OSError as error:  # ssl.SSLError is one
        why = error.strerror or type(error).__name__
        raise ConfigurationError(f"{source}: the file cannot be used: {why}"[:200]) from error


@functools.cache
def no_trust() -> ssl.SSLContext:
    """Return a context that accepts no certificate, for clients of plain http, whose library requires a context."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@contextmanager
def without_bad_key_log() -> Generator[None]:
    """Unset `SSLKEYLOGFILE` in the block if it is not writable: aiohttp creates a context when it is imported."""
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
