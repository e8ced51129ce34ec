"""Access checks of inbound requests: host, origin, token; and the headers of CORS.

Rule 1: a browser names the page that sends a request in `Origin`. Only listed origins are accepted, and, where `hosts`
    or a token is given, pages of this server itself. Without this rule any page that a user visits could call a local
    agent; without `hosts`, it could be a page of this server by DNS rebinding, which has no token.
Rule 2: `hosts` lists the names under which the server is called. Any other name is refused, which stops DNS rebinding.
Rule 3: a token is compared in constant time. Health checks need none.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from typing import Final
from urllib.parse import SplitResult, urlsplit

import attrs

from oxygent_client.errors import ConfigurationError
from oxygent_client.serve._core.exchange import Exchange
from oxygent_client.serve._core.failures import Refused

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""The names of this machine."""


def _check_token(_: object, __: object, token: str) -> None:
    if not token.isascii() or any(character.isspace() for character in token):
        raise ConfigurationError("token must be ASCII without spaces")


def _check_origins(_: object, __: object, origins: Collection[str]) -> None:
    if isinstance(origins, str):
        raise ConfigurationError("cors must be a list of origins, such as ['https://app.example.com']")
    for origin in origins:
        parts = urlsplit(origin)
        if origin not in ("*", f"{parts.scheme}://{parts.netloc}"):
            raise ConfigurationError(f"cors: {origin[:100]!r} is no origin, such as https://app.example.com")


@attrs.frozen(kw_only=True)
class Access:
    """The checks that a request must pass."""

    token: str = attrs.field(default="", repr=False, validator=_check_token)
    """The bearer token that every client must send; empty for none."""
    origins: Collection[str] = attrs.field(default=(), validator=_check_origins)
    """The origins of pages whose requests are accepted (CORS); `*` accepts all."""
    hosts: Collection[str] | None = None
    """The host names under which the server may be called, without ports; None accepts all."""

    def check_place(self, exchange: Exchange) -> None:
        """Check host and origin, and set the headers of CORS.

        Raises:
            Refused: one of them is not accepted.
        """
        host = exchange.headers.get("host", "")
        if self.hosts is not None and _parts(f"//{host}").hostname not in self.hosts:
            raise Refused(403, "host_not_allowed", "this server is not called by that host name")
        origin = exchange.headers.get("origin")
        if origin is None:
            return
        if origin in self.origins or "*" in self.origins:
            exchange.response_headers.update(
                {
                    "access-control-allow-origin": "*" if "*" in self.origins else origin,
                    "access-control-expose-headers": "x-request-id, retry-after, mcp-session-id",
                    "vary": "origin",
                }
            )
        elif (self.hosts is None and not self.token) or _parts(origin).netloc != host:
            raise Refused(403, "origin_not_allowed", "requests from pages of this origin are not accepted")

    def check_token(self, exchange: Exchange) -> None:
        """Check the token.

        Raises:
            Refused: it is missing or wrong.
        """
        kind, _, given = exchange.headers.get("authorization", "").partition(" ")
        if self.token and not (
            kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self.token.encode())
        ):
            raise Refused(401, "invalid_token", "the bearer token is missing or wrong")


def _parts(url: str) -> SplitResult:
    """The parts of a URL; of an invalid one, those of the empty URL, which no rule accepts."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def preflight_headers(exchange: Exchange) -> dict[str, str] | None:
    """Return the headers of the response to a preflight request of CORS; None if it is another request."""
    if exchange.method != "OPTIONS" or "access-control-request-method" not in exchange.headers:
        return None
    return {
        "access-control-allow-methods": "GET, POST, DELETE",
        "access-control-allow-headers": exchange.headers.get("access-control-request-headers", ""),
        "access-control-max-age": "600",
    }
