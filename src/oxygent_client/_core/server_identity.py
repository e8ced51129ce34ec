"""Decide whether two URLs name the same server.

Rule 1: user information, query and fragment do not count. The scheme and the host are compared without case, a default
    port is the same as none, and the path is normalised (RFC 3986, section 6.2.2; a slash at its end does not count).
Rule 2: `server_identity` takes all names of this machine's loopback for one host. It
    serves where taking two servers for one is harmless: for trace ids, and for who may read a run. `server_address`
    keeps them apart.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, ip_address
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

__all__ = ["server_address", "server_identity", "url_origin"]

PORTS: Final = {"http": 80, "https": 443}
LOOPBACK: Final = "localhost"
_ASCII: Final = "".join(map(chr, range(0x21, 0x7F)))
_ESCAPED: Final = re.compile("%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~-]")


def server_identity(url: str) -> str:
    """`url` in normal form, with `localhost` for every name of this machine's loopback.

    Raises:
        ValueError: it is no URL.
    """
    scheme, host, port = url_origin(url)
    return _joined(scheme, host.removesuffix("."), port, urlsplit(url).path)


def server_address(url: str) -> str:
    """`url` in normal form, with the host that it names.

    Raises:
        ValueError: it is no URL.
    """
    parts = urlsplit(url)
    return _joined(parts.scheme, _host(parts.hostname or "").removesuffix("."), _port(parts), parts.path)


def url_origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host (`localhost` for every name of this machine's loopback) and port.

    A name with the dot of the root at its end is another one: what goes by names, certificates too, tells them apart.

    Raises:
        ValueError: it is no URL.
    """
    parts = urlsplit(url)
    host = _host(parts.hostname or "")
    return parts.scheme, LOOPBACK if _is_loopback(host) else host, _port(parts)


def _port(parts: SplitResult) -> int | None:
    return parts.port or PORTS.get(parts.scheme)


def _joined(scheme: str, host: str, port: int | None, path: str) -> str:
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{_path(path)}"


def _host(host: str) -> str:
    """A name in lower case and ASCII, or an IP address in its shortest form."""
    try:
        found = ip_address(host)
    except ValueError:
        pass
    else:
        return str(getattr(found, "ipv4_mapped", None) or found)
    try:
        return _short_address(host)
    except ValueError:
        pass
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        return host


def _short_address(host: str) -> str:
    """The address that systems make of 127.1, 2130706433 or 0x7f.1 (`inet_aton`): the last number fills what is left.

    Raises:
        ValueError: it is none.
    """
    *first, last = (int(part, 0) for part in host.split("."))
    return str(IPv4Address(sum(number << 24 - 8 * place for place, number in enumerate(first)) + last))


def _is_loopback(host: str) -> bool:
    """Whether a connection to `host` stays on this machine; to an unspecified address (0.0.0.0) it does as well."""
    try:
        found = ip_address(host)
    except ValueError:
        return host.removesuffix(".") == LOOPBACK
    return found.is_loopback or found.is_unspecified


def _path(path: str) -> str:
    """The path without dot segments and without a slash at its end; only what needs it is escaped."""
    segments: list[str] = []
    for segment in _ESCAPED.sub(_unescaped, quote(path, safe=_ASCII, errors="replace")).split("/"):
        if segment == "..":
            segments = segments[:-1] or [""]
        elif segment != ".":
            segments.append(segment)
    return "/".join(segments).rstrip("/")


def _unescaped(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    return character if _UNRESERVED.fullmatch(character) else found[0].upper()
