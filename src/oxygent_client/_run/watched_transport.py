"""Report each request of a run, and its outcome, to the run.

Rule: it changes nothing. Through it a run that is cancelled while it waits for a token, or for its next attempt, knows
whether a request was sent.
"""

from __future__ import annotations

from oxygent_client._core.errors import Outcome, OxyError
from oxygent_client._core.log import log_event
from oxygent_client._core.settings import Limits
from oxygent_client._core.transport import HTTPRequest, HTTPResponse, OpenExchange
from oxygent_client._protocol.responses import error_from_response
from oxygent_client.cluster._lookup import cluster_of
from oxygent_client.policies._base import COUNTED, Layer


class OutcomeTransport(Layer):
    """Reports the outcome of each request for a stream to `Context.outcome`."""

    __slots__ = ()

    @property
    def checks_secure(self) -> bool:
        """Whether the inner transport itself checks what is sent over plain http (`policies.HTTPSOnlyTransport`)."""
        return cluster_of(self.inner) is not None

    async def _respond(self, exchange: OpenExchange, request: HTTPRequest) -> HTTPResponse:
        context = request.context
        report = context.outcome
        if report is None or context.purpose not in COUNTED:
            return await Layer.respond(self.inner, exchange, request)
        path = request.path.partition("?")[0]
        log_event("connect", context, "sending %s %s", request.method, path, attempt=context.attempt)
        report(Outcome.UNKNOWN)
        report.waits(True)
        try:
            response = await Layer.respond(self.inner, exchange, request)
        except OxyError as error:
            report(error.outcome)
            raise
        finally:
            report.waits(False)
        if response.status == 200:
            log_event("opened", context, "received the response headers", status=response.status)
        else:
            report(error_from_response(response.status, response.headers, b"", Limits()).outcome)
            log_event("refused", context, "status %d", response.status, status=response.status)
        return response
