"""`HTTPSOnly`: refuse plain http where credentials would be readable.

Rule: the check is made on the request to be sent. A transport that chooses the server (`checks_secure`, for example a
    `Cluster`) checks that server's URL, and one that uses a proxy checks the proxy. The policy reaches them by
    `Context.https_only`.
"""

from __future__ import annotations

from typing import ClassVar

import attrs

from oxygent_client._core.plain_http import PlaintextRules, check_secure
from oxygent_client._core.transport import HTTPRequest, HTTPResponse, OpenExchange, Transport
from oxygent_client.policies._base import PolicyKind, StatelessPolicy, Wrapper


@attrs.frozen(kw_only=True)
class HTTPSOnly(PlaintextRules, StatelessPolicy):
    """Rules for plain http: no credential, unless to loopback or to `plaintext_hosts`.

    Raises:
        ConfigurationError: `plaintext_hosts` is a `str`, or holds something that is not a host name.
    """

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

    async def _respond(self, exchange: OpenExchange, request: HTTPRequest) -> HTTPResponse:
        request = request.with_context(https_only=self.policy)
        if request.base_url and not getattr(self.inner, "checks_secure", False):
            check_secure(request.url, request.headers, self.policy, marked=request.context.secret_headers)
        return await super()._respond(exchange, request)
