"""Send one request and read its response within the limits.

Rule: an error says which server it came from, and holds nothing of what was sent in confidence.
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

__all__ = ["fetch_body", "fetch_data", "read_error"]

MARGIN: Final = 0.05
"""Seconds before the deadline of a call by which a refusal is made known: what is known of it must not be lost."""
REFUSAL_SECONDS: Final = 5.0
"""How long the body of a refusal is read."""


async def fetch_data(transport: Transport, request: HTTPRequest, limits: Limits, *, until: float) -> dict[str, Any]:
    """The data of an envelope; an error that the envelope holds does not repeat a secret that was sent.

    Raises:
        EnvelopeError, MalformedResponseError: it holds an error, or is none.
        OxyError: as `fetch_body`.
    """
    sent, body = await _fetched(transport, request, limits, until)
    with _said_by(sent):
        return parse_envelope(body, limits, clean=sent.context.sent.clean)


async def fetch_body(transport: Transport, request: HTTPRequest, limits: Limits, *, until: float) -> bytes:
    """The body of a response with status 200, read until `until` by the event loop's clock.

    Raises:
        StatusError: another status.
        DeadlineExceededError: it took longer.
        TooLargeError: the body is larger than `limits.body_bytes`.
        OxyError: what the transport raises.
    """
    return (await _fetched(transport, request, limits, until))[1]


async def _fetched(
    transport: Transport, request: HTTPRequest, limits: Limits, until: float
) -> tuple[HTTPRequest, bytes]:
    """The request as it was sent, and the body."""
    ends = until if request.context.deadline is None else min(until, request.context.deadline)
    deadline = ends if ends < math.inf else None
    request = attrs.evolve(request, context=attrs.evolve(request.context, deadline=deadline))
    with anyio.CancelScope(deadline=until), _stripped(request):
        async with transport.exchange(request) as response:
            with _said_by(response.request):
                if response.status != 200:
                    raise await read_error(response, limits)
                most = math.inf if limits.body_bytes is None else limits.body_bytes
                body = await read_all(decompressed(response), most)
                if body is None:
                    raise TooLargeError(f"the response is larger than Limits.body_bytes ({most})")
                return response.request, body
    raise DeadlineExceededError(f"no answer to {request.method} {request.path.partition('?')[0]} in time")


@contextmanager
def _stripped(sent: HTTPRequest) -> Generator[None]:
    """An error of the block holds nothing of what was sent in confidence."""
    try:
        yield
    except OxyError as error:
        sent.context.sent.strip_error(error)
        raise


@contextmanager
def _said_by(sent: HTTPRequest) -> Generator[None]:
    """An error of the block names the server that the request went to, which a transport may have chosen."""
    try:
        yield
    except OxyError as error:
        error.server_url = error.server_url or redact_url(sent.base_url)
        raise


async def read_error(response: HTTPResponse, limits: Limits) -> OxyError:
    """The error that `response` is, which is not what was asked for.

    Its body serves a person only: what came within REFUSAL_SECONDS, before the deadline of the call, and before it
    broke off, is enough.
    """
    sent = response.request
    until = anyio.current_time() + REFUSAL_SECONDS
    if sent.context.deadline is not None:
        until = min(until, sent.context.deadline - MARGIN)
    body = await read_up_to(decompressed(response), limits.error_body_bytes, deadline=until)
    error = error_from_response(response.status, response.headers, body, limits, clean=sent.context.sent.clean)
    error.attempts = sent.context.attempt
    return error
