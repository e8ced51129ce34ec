"""Other endpoints: feedback, rating, welcome message, file upload, health check, start of a detached run.

Rule 1: each function makes one exchange and reads the body within the limits. There is no retry here.
Rule 2: an error inside an HTTP 200 is raised; its code sets the outcome, as a status would.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

import attrs

from oxygent_client._api.fetch import MISSING, fetch_body, fetch_data
from oxygent_client._core.errors import ConfigurationError, EnvelopeError, Outcome, PayloadError, StatusError
from oxygent_client._core.ids import new_id
from oxygent_client._core.settings import Limits
from oxygent_client._core.transport import HTTPRequest, Purpose, Transport
from oxygent_client._protocol.documents import (
    Welcome,
    parse_first_queries,
    parse_stored_name,
    parse_welcome_message,
)
from oxygent_client._protocol.endpoints import PATHS
from oxygent_client._protocol.payload import encode
from oxygent_client._protocol.responses import parse_alive

Rating = Literal["like", "dislike"]
LONGEST_COMMENT: Final = 500
"""Characters of the comment of a rating that servers accept."""


async def check_alive(transport: Transport, template: HTTPRequest, limits: Limits, *, until: float) -> bool:
    """Run a health check of the server. Real servers always respond True, so what counts is that nothing is raised.

    Raises:
        OxyError: the server cannot be reached, or is not an OxyGent server.
    """
    request = attrs.evolve(
        template,
        path=PATHS["alive"],
        context=attrs.evolve(template.context, purpose="health", deadline=until, idempotent=True),
    )
    return parse_alive(await fetch_body(transport, request, limits, until=until), limits)


async def feedback(
    transport: Transport, template: HTTPRequest, channel_id: str, data: Any, limits: Limits, *, until: float
) -> None:
    """Send a running agent the human feedback that it waits for; `data` is any JSON.

    The channel is the server's trace id of the run, unless the agent chose another name. Empty data (None, "", 0,
    False, [], {}) ends the agent's feedback. Calling it twice may send the feedback twice.

    Raises:
        PayloadError: `data` is not JSON.
        EnvelopeError: no run has such a channel (any more); nothing was delivered.
        OxyError: the server could not be reached, or refused.
    """
    request = _post(template, "feedback", encode({"channel_id": channel_id, "data": data}), "application/json", until)
    await _accepted(transport, request, limits, until)


async def upload(
    transport: Transport,
    template: HTTPRequest,
    name: str,
    content: bytes,
    limits: Limits,
    *,
    until: float,
    content_type: str = "application/octet-stream",
) -> str:
    """Upload a file and return the server's name of it, for `arguments["attachments"]`.

    Raises:
        PayloadError: `name` is not a valid file name, or `content_type` not a content type.
        StatusError: the server does not accept this file (real servers decide by its extension), or any.
        OxyError: the server could not be reached, or its response is malformed.
    """
    boundary = new_id(32)
    body = _multipart(boundary, name, content, content_type)
    request = _post(template, "upload", body, f"multipart/form-data; boundary={boundary}", until)
    return parse_stored_name(await _accepted(transport, request, limits, until))


async def rate(
    transport: Transport,
    template: HTTPRequest,
    trace_id: str,
    rating: Rating,
    comment: str,
    limits: Limits,
    *,
    until: float,
) -> None:
    """Store a rating of a run, by the server's trace id. A server accepts ratings of runs that it does not have.

    Raises:
        ConfigurationError: `rating` is not one of the words, or `comment` is too long.
        NotFoundError: the server's release has no ratings.
        OxyError: the server could not be reached, or refused.
    """
    if rating not in get_args(Rating):
        raise ConfigurationError(f"rating must be 'like' or 'dislike'; got {rating!r:.60}")
    if len(comment) > LONGEST_COMMENT:
        raise ConfigurationError(f"comment must have at most {LONGEST_COMMENT} characters; it has {len(comment)}")
    fields = {"trace_id": trace_id, "rating_type": rating} | ({"comment": comment} if comment else {})
    await _accepted(transport, _post(template, "rating", encode(fields), "application/json", until), limits, until)


async def welcome(transport: Transport, template: HTTPRequest, limits: Limits, *, until: float) -> Welcome:
    """Read the welcome message and the suggested queries; both are empty at a server without them.

    Raises:
        OxyError: the server could not be reached, or its response is malformed.
    """
    message = await _optional(transport, template, "welcome", limits, until)
    queries = await _optional(transport, template, "first_query", limits, until)
    return Welcome(parse_welcome_message(message), parse_first_queries(queries))


async def _optional(
    transport: Transport, template: HTTPRequest, service: str, limits: Limits, until: float
) -> dict[str, Any]:
    """The data of a document; empty if the server does not have it."""
    try:
        return await fetch_data(transport, attrs.evolve(template, path=PATHS[service]), limits, until=until)
    except StatusError as error:
        if error.status not in MISSING:
            raise
        return {}


async def start(transport: Transport, request: HTTPRequest, limits: Limits, *, until: float) -> None:
    """Send `request` to start a detached run; when this returns, the server has accepted it.

    A server also accepts runs that it cannot execute, for example of an unknown callee: only the record shows that.

    Raises:
        EnvelopeError: the server refused; `outcome` is REJECTED if the code is 4xx.
        OxyError: the server could not be reached, or refused; `outcome` tells whether a run may have started.
    """
    await _accepted(transport, request, limits, until)


def _post(template: HTTPRequest, service: str, body: bytes, content_type: str, until: float) -> HTTPRequest:
    purpose: Purpose = "feedback"
    headers: Mapping[str, str] = {**template.headers, "content-type": content_type}
    context = attrs.evolve(template.context, purpose=purpose, deadline=None, idempotent=False)
    return attrs.evolve(template, method="POST", path=PATHS[service], headers=headers, body=body, context=context)


async def _accepted(transport: Transport, request: HTTPRequest, limits: Limits, until: float) -> dict[str, Any]:
    """Fetch the data of an envelope; an error envelope gets the outcome that a status of its code would have."""
    try:
        return await fetch_data(transport, request, limits, until=until)
    except EnvelopeError as error:
        if error.code is not None and 400 <= error.code < 500:
            error.outcome = Outcome.REJECTED
        raise


_BAD_IN_NAME: Final = re.compile(r'["/\\\x00-\x1f\x7f]')
"""Characters that would end the name, or lead out of the server's upload directory."""
_TYPE: Final = re.compile(r"[!#$&^_.+0-9A-Za-z-]+/[!#$&^_.+0-9A-Za-z-]+(?:; ?[ -~]+)?")


def _multipart(boundary: str, name: str, content: bytes, content_type: str) -> bytes:
    """A form (RFC 7578) with one field, `file`."""
    if not name or name in (".", "..") or _BAD_IN_NAME.search(name):
        raise PayloadError("name must not have a quotation mark, path separator or control character")
    if not _TYPE.fullmatch(content_type):
        raise PayloadError("content_type must have a form like 'text/plain'")
    head = (
        f"--{boundary}\r\n"
        f'content-disposition: form-data; name="file"; filename="{name}"\r\n'
        f"content-type: {content_type}\r\n\r\n"
    )
    try:
        return b"".join((head.encode(), content, f"\r\n--{boundary}--\r\n".encode()))
    except UnicodeEncodeError as error:
        raise PayloadError("name must not have a lone surrogate") from error
