"""Redirects within one origin: a server that moved a path, or misses a slash.

Rule 1: only 307 and 308 keep the method and the body, so only they are followed, and only to the same scheme, host and
    port: no header and no body goes to anyone else. They go to the host as the user wrote it, also where the redirect
    has another name of this machine's loopback.
Rule 2: what is not followed is handed on as it came.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import ClassVar, Final
from urllib.parse import urljoin, urlsplit, urlunsplit

import attrs

from oxygent_client._errors import OxyError
from oxygent_client._identity import origin
from oxygent_client._transport import HTTPRequest, HTTPResponse, Transport
from oxygent_client.policies._policy import Kind, Wrapper, drain, whole

__all__ = ["Redirect", "RedirectTransport"]

FOLLOWED: Final = (307, 308)
"""Statuses that say: the same request again, there. The server has run nothing."""
_WRITTEN_WELL: Final = re.compile(r"[\x21-\x5b\x5d-\x7e]+")
"""What a URL may consist of. urllib drops tabs and line ends unseen; some read a backslash as a slash."""


@attrs.frozen
class Redirect:
    """How many redirects in a row are followed (307 and 308, to the same origin). With 0 none is.

    Raises:
        ConfigurationError: it is no whole number, or negative.
    """

    kind: ClassVar[Kind] = "redirect"

    hops: int = attrs.field(default=3, validator=whole(0))

    def remember(self) -> None:
        """Nothing is remembered, not even a 308."""

    def over(self, inner: Transport, _memory: None = None) -> RedirectTransport:
        """The transport that follows what comes through `inner`."""
        return RedirectTransport(inner, self)


@attrs.define(eq=False)
class RedirectTransport(Wrapper):
    """Follows redirects as `Redirect` has it; `HTTPResponse.request` is the last request."""

    kind: ClassVar[Kind] = "redirect"

    redirect: Redirect = attrs.field(factory=Redirect)

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`; entering it may take several exchanges, one after the other."""
        async with AsyncExitStack() as stack:
            response = await stack.enter_async_context(self.inner.exchange(request))
            for _ in range(self.redirect.hops):
                following = followed(response)
                if following is None:
                    break
                await drain(response)
                with suppress(OxyError):  # that it did not end well matters to nobody any more
                    await stack.aclose()
                response = await stack.enter_async_context(self.inner.exchange(following))
            yield response


def followed(response: HTTPResponse) -> HTTPRequest | None:
    """The request that follows a redirect; None if it is none, or none to follow."""
    location = response.headers.get("location", "")
    if response.status not in FOLLOWED or not _WRITTEN_WELL.fullmatch(location):
        return None
    request = response.request
    here = urlsplit(request.url)
    try:
        said, target = urlsplit(location), urljoin(request.url, location)
        there, is_same = urlsplit(target), origin(request.url) == origin(target)
    except ValueError:  # no URL at all
        return None
    if not is_same or (said.scheme and not said.netloc):  # urllib takes `http:///x` for a path
        return None
    # Scheme, host and user information stay as the user wrote them; the query is the server's to say.
    path = there.path or "/"
    return attrs.evolve(
        request,
        base_url=urlunsplit((here.scheme, here.netloc, "", "", "")),
        path=f"{path}?{there.query}" if there.query else path,
    )
