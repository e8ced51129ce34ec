"""Decide whether two URLs name the same server.

Rule 1: user information, query and fragment are ignored. Scheme and host are compared without case, a default port
    equals none, and the path is normalised (RFC 3986, section 6.2.2; a slash at its end is ignored).
Rule 2: `server_identity` treats all names of the loopback interface as one host, for uses where confusing two servers
    is harmless: trace ids, and access to a run. `server_address` keeps them apart.
"""

from __future__ import annotations

import functools
import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from oxygent_client._core.patterns import compiled

PORTS: Final = {"http": 80, "https": 443}
LOOPBACK: Final = "localhost"
_ASCII: Final = "".join(map(chr, range(0x21, 0x7F)))
_ESCAPED: Final = re.compile("%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = r"[A-Za-z0-9._~-]"


def server_identity(url: str) -> str:
    """Normalise `url`, with `localhost` for every name of the loopback interface.

    Raises:
        ValueError: it is not a URL.
    """
    parts = urlsplit(url)
    return _identity(parts.scheme, parts.netloc.rpartition("@")[2], parts.path)


@functools.lru_cache(maxsize=256)  # a call asks for its server a few times; these parts hold no secret
def _identity(scheme: str, netloc: str, path: str) -> str:
    scheme, host, port = _origin(SplitResult(scheme, netloc, "", "", ""))
    return _joined(scheme, host.removesuffix("."), port, path)


def server_address(url: str) -> str:
    """Normalise `url`; the host stays.

    Raises:
        ValueError: it is not a URL.
    """
    parts = urlsplit(url)
    return _joined(parts.scheme, _host(parts.hostname or "").removesuffix("."), _port(parts), parts.path)


def url_origin(url: str) -> tuple[str, str, int | None]:
    """The origin of `url`: scheme, host (`localhost` for every name of the loopback interface) and port.

    A name with a dot at its end is another origin: certificates and virtual hosts tell them apart.

    Raises:
        ValueError: it is not a URL.
    """
    return _origin(urlsplit(url))


def _origin(parts: SplitResult) -> tuple[str, str, int | None]:
    host = _host(parts.hostname or "")
    return parts.scheme, LOOPBACK if _is_loopback(host) else host, _port(parts)


def _port(parts: SplitResult) -> int | None:
    return parts.port or PORTS.get(parts.scheme)


def _joined(scheme: str, host: str, port: int | None, path: str) -> str:
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{_path(path)}"


def _host(host: str) -> str:
    """A name in lower case and ASCII, or an IP address in its shortest form."""
    if (address := address_of(host)) is not None:
        return str(address)
    try:
        return _short_address(host)
    except ValueError:
        pass
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        return host


@functools.lru_cache(maxsize=256)  # a call asks for its host a dozen times
def address_of(host: str) -> IPv4Address | IPv6Address | None:
    """Parse an IP address (an IPv4-mapped one as IPv4); None for a name."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _short_address(host: str) -> str:
    """Parse a short address as `inet_aton` does (127.1, 2130706433, 0x7f.1): the last number fills the rest.

    Raises:
        ValueError: it is not such an address.
    """
    *first, last = (int(part, 0) for part in host.split("."))
    return str(IPv4Address(sum(number << 24 - 8 * place for place, number in enumerate(first)) + last))


def _is_loopback(host: str) -> bool:
    """Whether a connection to `host` stays on this machine; so does one to an unspecified address (0.0.0.0)."""
    if (address := address_of(host)) is None:
        return host.removesuffix(".") == LOOPBACK
    return address.is_loopback or address.is_unspecified


def _path(path: str) -> str:
    """Normalise a path: no dot segments, no slash at its end, no needless escapes."""
    segments: list[str] = []
    for segment in _ESCAPED.sub(_unescaped, quote(path, safe=_ASCII, errors="replace")).split("/"):
        if segment == "..":
            segments = segments[:-1] or [""]
        elif segment != ".":
            segments.append(segment)
    return "/".join(segments).rstrip("/")


def _unescaped(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    return character if compiled(_UNRESERVED).fullmatch(character) else found[0].upper()
