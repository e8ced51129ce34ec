"""Follow redirects within one origin.

Rule 1: only 307 and 308 keep the method and the body, so only they are followed, and only to the same scheme, host and
    port: no header and no body goes to anyone else. They go to the host as the user wrote it, also where the redirect
    has another name of this machine's loopback.
Rule 2: a redirect stays below the path of `server_url`, however that path is read, unless `any_path` is set: behind one
    gateway, another path may be another tenant's.
Rule 3: what is not followed is handed on as it came.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import ClassVar, Final
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

import attrs

from oxygent_client._core.errors import OxyError
from oxygent_client._core.server_identity import url_origin
from oxygent_client._core.transport import HTTPRequest, HTTPResponse, Transport
from oxygent_client._core.validation import FLAG, integer
from oxygent_client.policies._base import PolicyKind, Wrapper, drain

__all__ = ["Redirect", "RedirectTransport"]

FOLLOWED: Final = (307, 308)
"""Statuses that say: the same request again, there. The server has run nothing."""
_WRITTEN_WELL: Final = re.compile(r"[\x21-\x5b\x5d-\x7e]+")
"""What a URL may consist of. urllib drops tabs and line ends unseen; some read a backslash as a slash."""
_ASCII: Final = "".join(map(chr, range(0x21, 0x7F)))
_ESCAPE: Final = re.compile("%[0-9a-fA-F]{2}")
_READINGS: Final = 3
"""How a server may read a path: as it is, and with its escapes undone once or twice."""


@attrs.frozen
class Redirect:
    """Which redirects are followed: 307 and 308, to the same origin, below the path of `server_url`.

    Raises:
        ConfigurationError: `hops` is no whole number, or negative; `any_path` is neither True nor False.
    """

    kind: ClassVar[PolicyKind] = "redirect"

    hops: int = attrs.field(default=3, validator=integer(ge=0))
    """How many in a row. With 0 none is followed."""
    any_path: bool = attrs.field(default=False, kw_only=True, validator=FLAG)
    """Follow to any path of the origin: `http://host/one` may send its requests, and their credentials, to
    `http://host/other`."""

    def remember(self) -> None:
        """Nothing is remembered, not even a 308."""

    def over(self, inner: Transport, _memory: None = None) -> RedirectTransport:
        """The transport that follows what comes through `inner`."""
        return RedirectTransport(inner, self)


@attrs.define(eq=False)
class RedirectTransport(Wrapper):
    """Follows redirects as `Redirect` has it; `HTTPResponse.request` is the last request."""

    kind: ClassVar[PolicyKind] = "redirect"

    redirect: Redirect = attrs.field(factory=Redirect)

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`; entering it may take several exchanges, one after the other."""
        async with AsyncExitStack() as stack:
            response = await stack.enter_async_context(self.inner.exchange(request))
            below = "" if self.redirect.any_path else urlsplit(response.request.base_url).path
            for _ in range(self.redirect.hops):
                following = followed(response, below)
                if following is None:
                    break
                await drain(response)
                with suppress(OxyError):  # that it did not end well matters to nobody any more
                    await stack.aclose()
                response = await stack.enter_async_context(self.inner.exchange(following))
            yield response


def followed(response: HTTPResponse, below: str) -> HTTPRequest | None:
    """The request that follows a redirect to a path below this one; None if it is none, or none to follow."""
    location = response.headers.get("location", "")
    if response.status not in FOLLOWED or not _WRITTEN_WELL.fullmatch(location):
        return None
    request = response.request
    here = urlsplit(request.url)
    try:
        said, target = urlsplit(location), urljoin(request.url, location)
        there, is_same = urlsplit(target), url_origin(request.url) == url_origin(target)
    except ValueError:  # no URL at all
        return None
    names_a_host = said.scheme or location.startswith("//")
    if not is_same or (names_a_host and not said.netloc):  # urllib takes `http:///x` for a path, and `//` for nothing
        return None
    # Scheme, host and user information stay as the user wrote them; the query is the server's to say.
    path = there.path or "/"
    if not _is_below(path, below):
        return None
    return attrs.evolve(
        request,
        base_url=urlunsplit((here.scheme, here.netloc, "", "", "")),
        path=f"{path}?{there.query}" if there.query else path,
    )


def _is_below(path: str, base: str) -> bool:
    """Whether `path` is `base`, or below it, in each way in which a server may read the two."""
    path, base = (_ESCAPE.sub(lambda found: found[0].upper(), quote(each, safe=_ASCII)) for each in (path, base))
    for _ in range(_READINGS):
        first = _segments(base)
        if _segments(path)[: len(first)] != first:
            return False
        path, base = unquote(path), unquote(base)
    return True


def _segments(path: str) -> list[str]:
    """The segments of a path, without dot segments and without an empty one at its end.

    A parameter (`..;x`) is no part of a name to some servers, and a backslash is a slash to others.
    """
    found: list[str] = []
    for segment in path.replace("\\", "/").removesuffix("/").split("/"):
        name = segment.partition(";")[0]
        if name == "..":
            found = found[:-1] or [""]
        elif name != ".":
            found.append(segment)
    return found
