"""Report each request of a run, and its outcome, to the run.

Rule: it changes nothing. Through it a run that is cancelled while it waits for a token, or for its next attempt, knows
whether a request was sent.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import attrs

from oxygent_client._core.errors import Outcome, OxyError
from oxygent_client._core.log import describe_request, log_event
from oxygent_client._core.settings import Limits
from oxygent_client._core.transport import HTTPRequest, HTTPResponse, Purpose, Transport, redact_url
from oxygent_client._protocol.responses import error_from_response
from oxygent_client.cluster import cluster_of

STREAMS: Final[tuple[Purpose, ...]] = ("run", "attach")


@attrs.frozen
class OutcomeTransport:
    """Reports the outcome of each request for a stream to `Context.outcome`."""

    inner: Transport

    @property
    def checks_secure(self) -> bool:
        """Whether the inner transport itself checks what is sent over plain http (`policies.HTTPSOnlyTransport`)."""
        return cluster_of(self.inner) is not None

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        context = request.context
        report = context.outcome
        if report is None or context.purpose not in STREAMS:
            async with self.inner.exchange(request) as response:
                yield response
            return
        log_event("connect", context, "%s %s", request.method, redact_url(request.url), attempt=context.attempt)
        report(Outcome.UNKNOWN)
        report.waits(True)
        entered = False
        try:
            async with self.inner.exchange(request) as response:
                entered = True
                report.waits(False)
                if response.status == 200:
                    log_event("opened", context, "the response has begun", status=response.status)
                else:
                    report(error_from_response(response.status, response.headers, b"", Limits()).outcome)
                    shown = describe_request(context, request.base_url)
                    log_event("refused", context, "%s: status %d", shown, response.status, status=response.status)
                yield response
        except OxyError as error:
            if not entered:
                report(error.outcome)
            raise
        finally:
            if not entered:
                report.waits(False)

    async def aclose(self) -> None:
        """As `Transport.aclose`."""
        await self.inner.aclose()
