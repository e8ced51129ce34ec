"""`HTTPSOnly`: refuse plain http where credentials would be readable.

Rule: the check is made on the request to be sent. A transport that chooses the server (`checks_secure`, for example a
    `Cluster`) checks that server's URL, and one that uses a proxy checks the proxy. The policy reaches them by
    `Context.https_only`.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import ClassVar

import attrs

from oxygent_client._core.plain_http import PlaintextRules, check_secure, may_hold_credentials
from oxygent_client._core.transport import HTTPRequest, HTTPResponse, OpenExchange, Transport
from oxygent_client.policies._base import Layer, PolicyKind, StatelessPolicy, Wrapper


class HTTPSOnly(PlaintextRules, StatelessPolicy):
    """Rules for plain http: no credential, unless to loopback or to `plaintext_hosts`.

    Raises:
        ConfigurationError: `plaintext_hosts` is a `str`, or holds something that is not a host name.
    """

    __slots__ = ()
    kind: ClassVar[PolicyKind] = "https-only"

    def wrap(self, inner: Transport, _state: None = None) -> HTTPSOnlyTransport:
        """As `Policy.wrap`."""
        return HTTPSOnlyTransport(inner, self)


@attrs.define(eq=False)
class HTTPSOnlyTransport(Wrapper):
    """Refuses requests that `HTTPSOnly` forbids.

    Raises:
        InsecureTransportError: `exchange` would send a credential over plain http. Nothing was sent.
    """

    kind: ClassVar[PolicyKind] = "https-only"

    policy: HTTPSOnly = attrs.field(factory=HTTPSOnly)
    _checked: tuple[str, HTTPSOnly] | None = attrs.field(default=None, init=False, repr=False)
    """The URL of the last request, if credentials may be sent to it by this policy."""

    def _respond(self, exchange: OpenExchange, request: HTTPRequest) -> Awaitable[HTTPResponse]:
        if request.context.https_only is not self.policy:
            request = request.with_context(https_only=self.policy)
        url = request.url if request.base_url else ""
        if url and (url, self.policy) != self._checked and not getattr(self.inner, "checks_secure", False):
            check_secure(url, request.headers, self.policy, marked=request.context.secret_headers)
            self._checked = (url, self.policy) if may_hold_credentials(url, self.policy) else None
        return Layer.respond(self.inner, exchange, request)
