"""Follow redirects within one origin.

Rule 1: only 307 and 308, which keep method and body, are followed, and only to the same origin (scheme, host, port), so
    headers and body reach no other server. The request keeps the host as the user wrote it, also where the redirect
    has another name of the loopback interface.
Rule 2: a redirect must stay below the path of `server_url`, in every reading of that path, unless `any_path` is set:
    behind a gateway another path may belong to another tenant.
Rule 3: a redirect that is not followed is returned unchanged.
"""

from __future__ import annotations

from typing import ClassVar, Final
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

import attrs

from oxygent_client._core.bodies import drain
from oxygent_client._core.patterns import compiled
from oxygent_client._core.server_identity import url_origin
from oxygent_client._core.transport import HTTPRequest, HTTPResponse, OpenExchange, Transport
from oxygent_client._core.validation import FLAG, integer
from oxygent_client.policies._base import Layer, PolicyKind, StatelessPolicy, Wrapper

FOLLOWED: Final = (307, 308)
"""Statuses that mean: send the same request again, there. The server has run nothing."""
_URL_CHARACTERS: Final = r"[\x21-\x5b\x5d-\x7e]+"
"""Characters of a valid URL. urllib silently drops tabs and line ends; some libraries read a backslash as a slash."""
_ASCII: Final = "".join(map(chr, range(0x21, 0x7F)))
_ESCAPE: Final = "%[0-9a-fA-F]{2}"
_READINGS: Final = 3
"""How a server may read a path: as written, or with its escapes decoded once or twice."""


@attrs.frozen
class Redirect(StatelessPolicy):
    """Which redirects are followed: 307 and 308, to the same origin, below the path of `server_url`.

    Raises:
        ConfigurationError: `hops` is not a whole number >= 0, or `any_path` not a bool.
    """

    kind: ClassVar[PolicyKind] = "redirect"

    hops: int = attrs.field(default=3, validator=integer(ge=0))
    """How many redirects in a row. 0 follows none."""
    any_path: bool = attrs.field(default=False, kw_only=True, validator=FLAG)
    """Follow to any path of the origin: `http://host/one` may send its requests, with their credentials, to
    `http://host/other`."""

    def wrap(self, inner: Transport, _state: None = None) -> RedirectTransport:
        """As `Policy.wrap`."""
        return RedirectTransport(inner, self)


@attrs.define(eq=False)
class RedirectTransport(Wrapper):
    """Follows redirects as `Redirect` allows; `HTTPResponse.request` is the last request."""

    kind: ClassVar[PolicyKind] = "redirect"

    redirect: Redirect = attrs.field(factory=Redirect)

    async def _respond(self, exchange: OpenExchange, request: HTTPRequest) -> HTTPResponse:
        response = await Layer.respond(self.inner, exchange, request)
        if response.status not in FOLLOWED:
            return response
        base_path = "" if self.redirect.any_path else urlsplit(response.request.base_url).path
        for _ in range(self.redirect.hops):
            following = redirected(response, base_path)
            if following is None:
                break
            await drain(response.chunks)
            await exchange.close_quietly()
            response = await Layer.respond(self.inner, exchange, following)
        return response


def redirected(response: HTTPResponse, base_path: str) -> HTTPRequest | None:
    """The request that follows a redirect to `base_path` or below; None if the response is not such a redirect."""
    location = response.headers.get("location", "")
    if response.status not in FOLLOWED or not compiled(_URL_CHARACTERS).fullmatch(location):
        return None
    request = response.request
    here = urlsplit(request.url)
    try:
        given, target = urlsplit(location), urljoin(request.url, location)
        there, is_same = urlsplit(target), url_origin(request.url) == url_origin(target)
    except ValueError:  # not a URL
        return None
    names_a_host = given.scheme or location.startswith("//")
    if not is_same or (names_a_host and not given.netloc):  # urllib reads `http:///x` as a path, and `//` as empty
        return None
    # Scheme, host and user information stay as the user wrote them; the query is from the redirect.
    path = there.path or "/"
    if not _is_below(path, base_path):
        return None
    return attrs.evolve(
        request,
        base_url=urlunsplit((here.scheme, here.netloc, "", "", "")),
        path=f"{path}?{there.query}" if there.query else path,
    )


def _is_below(path: str, base: str) -> bool:
    """Whether `path` is `base`, or below it, in every reading of the two."""
    path, base = (
        compiled(_ESCAPE).sub(lambda found: found[0].upper(), quote(each, safe=_ASCII)) for each in (path, base)
    )
    for _ in range(_READINGS):
        first = _segments(base)
        if _segments(path)[: len(first)] != first:
            return False
        path, base = unquote(path), unquote(base)
    return True


def _segments(path: str) -> list[str]:
    """The segments of a path, without dot segments and without an empty one at its end.

    Some servers ignore a parameter (`..;x`), some read a backslash as a slash.
    """
    found: list[str] = []
    for segment in path.replace("\\", "/").removesuffix("/").split("/"):
        name = segment.partition(";")[0]
        if name == "..":
            found = found[:-1] or [""]
        elif name != ".":
            found.append(segment)
    return found
