"""`HTTPSOnly`: refuse plain http where credentials would be readable.

Rule 1: what is checked is what is sent. Where the server is not chosen yet (`base_url` is empty), or is chosen under
    another name (`checks_secure`), whoever chooses checks; a transport that sends it to a proxy checks that. So the
    policy goes along in `Context.https_only`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import ClassVar

import attrs

from oxygent_client._core.plain_http import PlaintextRules, check_secure
from oxygent_client._core.transport import HTTPRequest, HTTPResponse, Transport
from oxygent_client.policies._base import PolicyKind, Wrapper

__all__ = ["HTTPSOnly", "HTTPSOnlyTransport", "check_secure"]


@attrs.frozen(kw_only=True)
class HTTPSOnly(PlaintextRules):
    """What may go over plain http: nothing secret, unless to this machine or to `plaintext_hosts`.

    Raises:
        ConfigurationError: `plaintext_hosts` is one string, or holds what is no host's name.
    """

    kind: ClassVar[PolicyKind] = "https-only"

    def remember(self) -> None:
        """Nothing is remembered."""

    def over(self, inner: Transport, _memory: None = None) -> HTTPSOnlyTransport:
        """The transport that checks what goes through `inner`."""
        return HTTPSOnlyTransport(inner, self)


@attrs.define(eq=False)
class HTTPSOnlyTransport(Wrapper):
    """Sends nothing that `HTTPSOnly` forbids."""

    kind: ClassVar[PolicyKind] = "https-only"

    policy: HTTPSOnly = attrs.field(factory=HTTPSOnly)

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`.

        Raises:
            InsecureTransportError: the request may not go over plain http.
        """
        request = attrs.evolve(request, context=attrs.evolve(request.context, https_only=self.policy))
        if request.base_url and not getattr(self.inner, "checks_secure", False):
            check_secure(request.url, request.headers, self.policy, marked=request.context.secret_headers)
        async with self.inner.exchange(request) as response:
            yield response
