"""Send one request and read its response within the limits.

Rule: an error names the server it is from, and holds no secret that was sent.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import anyio
import attrs

from oxygent_client._core.bodies import decompressed, read_all, read_up_to
from oxygent_client._core.errors import DeadlineExceededError, OxyError, TooLargeError
from oxygent_client._core.settings import Limits
from oxygent_client._core.transport import HTTPRequest, HTTPResponse, Transport, redact_url
from oxygent_client._protocol.responses import error_from_response, parse_envelope

MARGIN: Final = 0.05
"""Seconds before the deadline of a call at which reading a refusal ends, so that its error is raised in time."""
MISSING: Final = (404, 405, 410, 501)
"""Statuses that mean that a server does not have a document; servers of 1.0.8 respond 404."""
REFUSAL_SECONDS: Final = 5.0
"""Time-out for reading the body of a refusal."""


async def fetch_data(transport: Transport, request: HTTPRequest, limits: Limits, *, until: float) -> dict[str, Any]:
    """Fetch an envelope and return its data.

    Raises:
        EnvelopeError: the envelope is an error; secrets that were sent are redacted.
        MalformedResponseError: the body is not an envelope.
        OxyError: as `fetch_body`.
    """
    sent, body = await _fetch(transport, request, limits, until)
    with _errors_of(sent):
        return parse_envelope(body, limits, clean=sent.context.sent.clean)


async def fetch_body(transport: Transport, request: HTTPRequest, limits: Limits, *, until: float) -> bytes:
    """Fetch the body of a response with status 200, until `until` by the event loop's clock.

    Raises:
        StatusError: another status.
        DeadlineExceededError: it took longer.
        TooLargeError: the body is larger than `limits.body_bytes`.
        OxyError: an error of the transport.
    """
    return (await _fetch(transport, request, limits, until))[1]


async def _fetch(transport: Transport, request: HTTPRequest, limits: Limits, until: float) -> tuple[HTTPRequest, bytes]:
    """Return the request that was sent, and the body."""
    ends = until if request.context.deadline is None else min(until, request.context.deadline)
    deadline = ends if ends < math.inf else None
    request = attrs.evolve(request, context=attrs.evolve(request.context, deadline=deadline))
    with anyio.CancelScope(deadline=until), _errors_of(request):
        async with transport.exchange(request) as response:
            with _errors_of(response.request):
                if response.status != 200:
                    raise await read_error(response, limits)
                most = math.inf if limits.body_bytes is None else limits.body_bytes
                body = await read_all(decompressed(response), most)
                if body is None:
                    raise TooLargeError(f"the response is larger than Limits.body_bytes ({most})")
                return response.request, body
    raise DeadlineExceededError(f"no response to {request.method} {request.path.partition('?')[0]} before the deadline")


@contextmanager
def _errors_of(sent: HTTPRequest) -> Generator[None]:
    """Redact the secrets that were sent in an error of the block, and set its `server_url`."""
    try:
        yield
    except OxyError as error:
        sent.context.sent.strip_error(error)
        error.server_url = error.server_url or redact_url(sent.base_url)
        raise


async def read_error(response: HTTPResponse, limits: Limits) -> OxyError:
    """Read a response that is a refusal, and return it as an error.

    The body is for display only: reading ends after REFUSAL_SECONDS, before the deadline of the call, or when the
    connection breaks.
    """
    sent = response.request
    until = anyio.current_time() + REFUSAL_SECONDS
    if sent.context.deadline is not None:
        until = min(until, sent.context.deadline - MARGIN)
    body = await read_up_to(decompressed(response), limits.error_body_bytes, deadline=until)
    error = error_from_response(response.status, response.headers, body, limits, clean=sent.context.sent.clean)
    error.attempts = sent.context.attempt
    return error
