"""What a server's bytes mean: messages of a run, JSON envelopes, an organization.

Rule 1: plain functions of what was received. Unknown is not wrong: it becomes `Custom` or `Text`, and nothing is lost.
Rule 2: what must have a shape (an envelope, an organization) is checked here, and an error says what was wrong with it.
Rule 3: paths and names of the wire are written here and nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, cast

import attrs

from oxygent_client import _json
from oxygent_client._errors import (
    AuthenticationError,
    EnvelopeError,
    MalformedResponseError,
    NotAnEventStreamError,
    NotFoundError,
    Outcome,
    OxyError,
    PermissionDeniedError,
    RateLimitedError,
    RedirectError,
    ServerError,
    StatusError,
    TooLargeError,
)
from oxygent_client._models import (
    Answer,
    Custom,
    Event,
    Observation,
    Progress,
    RemoteErrorEvent,
    Text,
    TextDelta,
    ToolCall,
)
from oxygent_client._settings import Limits
from oxygent_client._sse import ServerSentEvent
from oxygent_client._version import __version__

__all__ = [
    "CLOSE",
    "HEADERS",
    "LEGACY_DONE",
    "PATHS",
    "RUN_HEADERS",
    "Agents",
    "envelope",
    "is_event_stream",
    "organization",
    "refusal",
    "retry_after",
    "to_event",
]

logger = logging.getLogger("oxygent_client")

CLOSE: Final = "close"
"""The name of the event that ends a stream, whatever its data. Nothing else does."""
LEGACY_DONE: Final = "done"
"""In a stream that names no event, a message that may be the end: see `oxygent_client._run`."""
PATHS: Final = {
    "run": "/sse/chat",
    "organization": "/get_organization",
    "description": "/get_description",
    "agents": "/get_agents",
}

HEADERS: Final = {"accept-encoding": "identity", "user-agent": f"oxygent-client/{__version__}"}
RUN_HEADERS: Final = {"accept": "text/event-stream", "cache-control": "no-store", "content-type": "application/json"}
"""What every request carries, and what one that opens a stream carries too. A stream must not be compressed: a proxy
that does holds events back, and one compressed piece can be a thousand times its size."""

EVENTS: Final[dict[str, type[Event]]] = {
    "answer": Answer,
    "tool_call": ToolCall,
    "observation": Observation,
    "stream": TextDelta,
    "stream_end": TextDelta,
    "progress": Progress,
    "error": RemoteErrorEvent,
}
"""The class of each known message type; any other is `Custom`."""


def to_event(sse: ServerSentEvent, limits: Limits = Limits()) -> Event:
    """The typed event in `sse`.

    Raises:
        TooLargeError: its JSON is nested deeper than `limits.depth`.
    """
    try:
        message = _json.loads(sse.data, depth=limits.depth)
    except TooLargeError:
        raise
    except ValueError:
        return Text(None, sse.data, sse.data, sse)
    if not isinstance(message, dict):
        return Custom(None, message, message, sse)
    fields = cast("dict[str, Any]", message)
    kind = fields.get("type")
    kind = kind if isinstance(kind, str) else None
    content = fields.get("content")
    cls = EVENTS.get(kind or "", Custom)
    if issubclass(cls, ToolCall | Observation) and not isinstance(content, dict):
        logger.warning("a %s without an object as its content is passed on as a custom message", kind)
        cls = Custom
    return cls(kind, content, fields, sse)


def is_event_stream(content_type: str) -> bool:
    """Whether a Content-Type says `text/event-stream`; its parameters do not matter."""
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"


# --- responses that are no stream -------------------------------------------------------------------------------------

STATUS: Final[dict[int, type[StatusError]]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    429: RateLimitedError,
}
CLASSES: Final[dict[int, type[StatusError]]] = {3: RedirectError, 5: ServerError}
"""The class for each status that has one of its own, and for each hundred that has one."""
PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a `Retry-After` asks to wait; None without one that is valid.

    A date is read against the server's own `Date`, so that no clock but the server's counts.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value) if len(value) < 10 else None
    until, now = _date(value), _date(headers.get("date", ""))
    return max(0.0, (until - now).total_seconds()) if until and now else None


def _date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # the latter for numbers beyond C's
        return None
    return moment if moment.tzinfo else None


def refusal(status: int, headers: Mapping[str, str], body: bytes, limits: Limits = Limits()) -> OxyError:
    """The error that a response is, if it is not a stream of events; `body` may be cut short."""
    text = body.decode("utf-8", "replace")
    if status != 200:
        cls = STATUS.get(status) or CLASSES.get(status // 100, StatusError)
        wait = retry_after(headers)
        # Only these say for sure that no agent ran; a bare 503 may be a proxy that gave up on a run.
        refused = 400 <= status < 500 or (status == 503 and wait is not None)
        name = PHRASES.get(status, "a status without a name")
        outcome = Outcome.REJECTED if refused else cls.default_outcome
        return cls(
            f"the server answered {status} ({name})", status=status, body=text, retry_after=wait, outcome=outcome
        )
    if headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        try:
            envelope(body, limits)
        except EnvelopeError as error:
            return error
        except OxyError:
            pass
    kind = headers.get("content-type", "")[:100]
    return NotAnEventStreamError(
        f"the server answered 200 with {kind or 'no content type'!r}, not with an event stream"
    )


# --- JSON documents ---------------------------------------------------------------------------------------------------


def _document(body: bytes, limits: Limits) -> dict[str, Any]:
    """The JSON object in `body`."""
    try:
        document = _json.loads(body.decode(), depth=limits.depth)
    except TooLargeError:
        raise
    except ValueError as error:
        raise MalformedResponseError("the response should be JSON and is not") from error
    if not isinstance(document, dict):
        raise MalformedResponseError("the response should be a JSON object and is another value")
    return cast("dict[str, Any]", document)


def envelope(body: bytes, limits: Limits = Limits()) -> dict[str, Any]:
    """The `data` of a server's `{"code": 200, "message": ..., "data": {...}}`.

    Raises:
        EnvelopeError: the code says that the call failed.
        MalformedResponseError, TooLargeError: the body is nothing of the kind.
    """
    document = _document(body, limits)
    code = document.get("code")
    if code != 200:
        message = document.get("message")
        said = f"code {str(code)[:20]!r}, message {str(message)[:300]!r}"
        raise EnvelopeError(
            f"the server answered with an error envelope: {said}", code=code if isinstance(code, int) else None
        )
    data = document.get("data")
    if not isinstance(data, dict):
        raise MalformedResponseError("the envelope's `data` should be an object")
    return cast("dict[str, Any]", data)


def organization(data: dict[str, Any], limits: Limits = Limits()) -> dict[str, Any]:
    """The tree in the data of a `/get_organization` envelope; wherever it has `children`, they are a list of objects.

    Raises:
        MalformedResponseError: it is no tree of objects.
        TooLargeError: it has more members than `limits.nodes`.
    """
    tree = data.get("organization")
    if not isinstance(tree, dict):
        raise MalformedResponseError("the organization should be an object")
    root = cast("dict[str, Any]", tree)
    for count, node in enumerate(members(root), start=1):
        if count > limits.nodes:
            raise TooLargeError(f"the organization has more members than Limits.nodes ({limits.nodes})")
        children = node.get("children", [])
        if not isinstance(children, list) or not all(isinstance(child, dict) for child in cast("list[Any]", children)):
            raise MalformedResponseError("the `children` of an organization should be a list of objects")
    return root


def members(root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every node of a tree of objects, the root first, without recursion. A node's children are looked at after it."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(cast("list[dict[str, Any]]", node.get("children", []))))


@attrs.frozen
class Agents:
    """What discovery found out about a remote."""

    names: frozenset[str]
    """Every name that the remote is known to have."""
    complete: bool
    """True if `/get_agents` listed them: a name that is not among them is unknown to the remote."""

    @classmethod
    def read(cls, root: dict[str, Any], listing: dict[str, Any] | None) -> Agents:
        """From an organization and, where the server has it, the data of `/get_agents`."""
        listed = listing.get("agents") if listing is not None else None
        rows: list[Any] = [*members(root)]
        if isinstance(listed, list):
            rows += cast("list[Any]", listed)
        names = (cast("dict[str, Any]", row).get("name") for row in rows if isinstance(row, dict))
        return cls(frozenset(name for name in names if isinstance(name, str) and name), isinstance(listed, list))
