"""Other endpoints: feedback, file upload, health check, start of a detached run.

Rule 1: one function, one exchange, and the body of the answer within the limits. Nothing is repeated here.
Rule 2: an error inside an HTTP 200 is an error; its code says what became of the request, as a status would.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from oxygent_client._api.fetch import fetch_body, fetch_data
from oxygent_client._core.errors import EnvelopeError, Outcome, PayloadError
from oxygent_client._core.ids import new_id
from oxygent_client._core.settings import Limits
from oxygent_client._core.transport import HTTPRequest, Purpose, Transport
from oxygent_client._protocol.endpoints import PATHS
from oxygent_client._protocol.payload import encode
from oxygent_client._protocol.responses import parse_alive, parse_stored_name

__all__ = ["check_alive", "feedback", "start", "upload"]


async def check_alive(transport: Transport, pattern: HTTPRequest, limits: Limits, *, until: float) -> bool:
    """Whether the server says that it is alive: a server that answers says so, so what counts is that none raises.

    Raises:
        OxyError: it could not be asked, or is no OxyGent server.
    """
    request = attrs.evolve(
        pattern,
        path=PATHS["alive"],
        context=attrs.evolve(pattern.context, purpose="health", deadline=until, idempotent=True),
    )
    return parse_alive(await fetch_body(transport, request, limits, until=until), limits)


async def feedback(
    transport: Transport, pattern: HTTPRequest, channel_id: str, data: Any, limits: Limits, *, until: float
) -> None:
    """Give a running agent what it asked the human for; `data` is any JSON.

    The channel is the one that the agent opened: the server's trace id of the run, unless the agent chose a name.
    Empty data (None, "", 0, False, [], {}) ends the agent's feedback. It may be given twice if you repeat the call.

    Raises:
        PayloadError: `data` is no JSON.
        EnvelopeError: no run has such a channel, or no longer; nothing was given.
        OxyError: the server could not be reached, or refused.
    """
    request = _post(pattern, "feedback", encode({"channel_id": channel_id, "data": data}), "application/json", until)
    await _accepted(transport, request, limits, until)


async def upload(
    transport: Transport,
    pattern: HTTPRequest,
    name: str,
    content: bytes,
    limits: Limits,
    *,
    until: float,
    content_type: str = "application/octet-stream",
) -> str:
    """The server's own name of a file that it has stored now: what `arguments["attachments"]` lists.

    Raises:
        PayloadError: `name` cannot be a file's name, or `content_type` is none.
        StatusError: the server does not take such a file (real servers go by the end of its name), or any.
        OxyError: the server could not be reached, or answered nonsense.
    """
    boundary = new_id(32)
    body = _multipart(boundary, name, content, content_type)
    request = _post(pattern, "upload", body, f"multipart/form-data; boundary={boundary}", until)
    return parse_stored_name(await _accepted(transport, request, limits, until))


async def start(transport: Transport, request: HTTPRequest, limits: Limits, *, until: float) -> None:
    """Send `request`, which asks for a detached run; when this returns, the server has taken it on.

    A server takes on what it cannot run as well, such as an unknown callee: only the run's record tells.

    Raises:
        EnvelopeError: the server refused; REJECTED where its code says so for sure.
        OxyError: the server could not be reached, or refused; `outcome` says whether a run may have started.
    """
    await _accepted(transport, request, limits, until)


def _post(pattern: HTTPRequest, service: str, body: bytes, content_type: str, until: float) -> HTTPRequest:
    purpose: Purpose = "feedback"
    headers: Mapping[str, str] = {**pattern.headers, "content-type": content_type}
    context = attrs.evolve(pattern.context, purpose=purpose, deadline=None, idempotent=False)
    return attrs.evolve(pattern, method="POST", path=PATHS[service], headers=headers, body=body, context=context)


async def _accepted(transport: Transport, request: HTTPRequest, limits: Limits, until: float) -> dict[str, Any]:
    """The data of an envelope; an error in its place has the outcome that a status of its code would have."""
    try:
        return await fetch_data(transport, request, limits, until=until)
    except EnvelopeError as error:
        if error.code is not None and 400 <= error.code < 500:
            error.outcome = Outcome.REJECTED
        raise


_NO_NAME: Final = re.compile(r'["/\\\x00-\x1f\x7f]')
"""What would end the name, or lead out of the directory in which a server stores it."""
_TYPE: Final = re.compile(r"[!#$&^_.+0-9A-Za-z-]+/[!#$&^_.+0-9A-Za-z-]+(?:; ?[ -~]+)?")


def _multipart(boundary: str, name: str, content: bytes, content_type: str) -> bytes:
    """A form (RFC 7578) with one field, `file`."""
    if not name or name in (".", "..") or _NO_NAME.search(name):
        raise PayloadError("the name of a file must hold no quotation mark, path separator or control character")
    if not _TYPE.fullmatch(content_type):
        raise PayloadError("the content type of a file must be like 'text/plain'")
    head = (
        f"--{boundary}\r\n"
        f'content-disposition: form-data; name="file"; filename="{name}"\r\n'
        f"content-type: {content_type}\r\n\r\n"
    )
    try:
        return b"".join((head.encode(), content, f"\r\n--{boundary}--\r\n".encode()))
    except UnicodeEncodeError as error:
        raise PayloadError("the name of a file must be text that UTF-8 can say") from error
