"""Parse responses that are not event streams: errors, envelopes, organizations.

Rule: responses are validated here; an error describes the problem.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, cast

import attrs

from oxygent_client._core import json_codec
from oxygent_client._core.errors import (
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
from oxygent_client._core.redaction import SEARCHED, Redactor, for_display, scrub_text
from oxygent_client._core.settings import Limits
from oxygent_client._protocol.messages import SAYS, as_text, is_content_type

# --- errors -----------------------------------------------------------------------------------------------------------

STATUS: Final[dict[int, type[StatusError]]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    429: RateLimitedError,
}
CLASSES: Final[dict[int, type[StatusError]]] = {3: RedirectError, 5: ServerError}
"""Error classes by status, and by the first digit of the status."""
PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of a `Retry-After` header; None without a valid one.

    A date is compared with the server's own `Date`, so that the client's clock does not matter.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value) if len(value) < 10 else None
    until, now = _date(value), _date(headers.get("date", ""))
    return max(0.0, (until - now).total_seconds()) if until and now else None


def _date(value: str) -> datetime | None:
    from email.utils import parsedate_to_datetime  # which few responses need, and takes long to load

    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # the latter for numbers beyond C's
        return None
    return moment if moment.tzinfo else None


def error_from_response(
    status: int, headers: Mapping[str, str], body: bytes, limits: Limits = Limits(), *, clean: Redactor = scrub_text
) -> OxyError:
    """Create the error of a response that is not an event stream; `body` may be cut off.

    Its texts are redacted by `clean` and escaped for display.
    """
    if status != 200:
        cls = STATUS.get(status) or CLASSES.get(status // 100, StatusError)
        wait = retry_after(headers)
        # Only these mean surely that no agent ran; a bare 503 may be of a proxy that gave up on a run.
        refused = 400 <= status < 500 or (status == 503 and wait is not None)
        name = PHRASES.get(status, "unknown status")
        outcome = Outcome.REJECTED if refused else cls.default_outcome
        text = for_display(body.decode("utf-8", "replace"), limits.error_body_bytes, clean, lines=True)
        return cls(
            f"the server responded {status} ({name})", status=status, body=text, retry_after=wait, outcome=outcome
        )
    if is_content_type(headers.get("content-type", ""), "application/json"):
        try:
            parse_envelope(body, limits, clean=clean)
        except EnvelopeError as error:
            return error
        except OxyError:
            pass
    kind = for_display(headers.get("content-type", ""), 100, clean)
    excerpt = ""
    if (
        any(is_content_type(headers.get("content-type", ""), each) for each in ("application/json", "text/plain"))
        and body
    ):
        excerpt = f": {for_display(body[:SEARCHED].decode('utf-8', 'replace'), 300, clean)}"
    return NotAnEventStreamError(
        f"the server responded 200 with '{kind or 'no content type'}', not with an event stream{excerpt}"
    )


# --- JSON documents ---------------------------------------------------------------------------------------------------


def _document(body: bytes, limits: Limits) -> dict[str, Any]:
    """Parse `body` as a JSON object."""
    try:
        document = json_codec.loads(body.decode(), depth=limits.depth)
    except TooLargeError:
        raise
    except ValueError as error:
        raise MalformedResponseError("the response must be JSON") from error
    if not isinstance(document, dict):
        raise MalformedResponseError("the response must be a JSON object")
    return cast("dict[str, Any]", document)


def parse_envelope(body: bytes, limits: Limits = Limits(), *, clean: Redactor = scrub_text) -> dict[str, Any]:
    """Parse an envelope `{"code": 200, "message": ..., "data": {...}}` and return its `data`.

    An envelope without `code`, or with the `str` "200", is a success.

    Raises:
        EnvelopeError: the code is one of failure. The server's message is redacted by `clean`.
        MalformedResponseError, TooLargeError: the body is not an envelope.
    """
    document = _document(body, limits)
    if (error := error_envelope(document, clean)) is not None:
        raise error
    data = document.get("data")
    if not isinstance(data, dict):
        raise MalformedResponseError("the envelope's `data` must be an object")
    return cast("dict[str, Any]", data)


def error_envelope(document: dict[str, Any], clean: Redactor = scrub_text) -> EnvelopeError | None:
    """The error of an envelope; None for a success. An envelope without `code` is a success if it has `data`."""
    code = document.get("code")
    if code in (200, "200") or (code is None and "data" in document):
        return None
    message = next((document[name] for name in SAYS if name in document), None)
    text = f"code '{for_display(as_text(code), 20, clean)}', message '{for_display(as_text(message), 300, clean)}'"
    return EnvelopeError(
        f"the server responded with an error envelope: {text}", code=code if type(code) is int else None
    )


def parse_alive(body: bytes, limits: Limits = Limits()) -> bool:
    """Parse `alive` of a `/check_alive` document.

    Raises:
        MalformedResponseError, TooLargeError: the body is not such a document.
    """
    alive = _document(body, limits).get("alive")
    if not isinstance(alive, int):
        raise MalformedResponseError("the response must have `alive` with a number")
    return bool(alive)


def parse_stored_name(data: dict[str, Any]) -> str:
    """Parse the server's name of an uploaded file from the data of an `/upload` envelope.

    Raises:
        MalformedResponseError: the name is missing.
    """
    name = data.get("file_name")
    if not isinstance(name, str) or not name:
        raise MalformedResponseError("the response must have the `file_name` of the uploaded file")
    return name


@attrs.frozen
class Welcome:
    """A server's greeting for a new conversation, for a chat window."""

    message: str = ""
    """The welcome message; empty without one."""
    first_queries: tuple[str, ...] = ()
    """Queries that the server suggests; empty without any."""


def parse_welcome_message(data: dict[str, Any]) -> str:
    """Parse the data of a `/get_welcome_message` envelope; empty without a message."""
    message = data.get("welcome_message")
    return message if isinstance(message, str) else ""


def parse_first_queries(data: dict[str, Any]) -> tuple[str, ...]:
    """Parse the data of a `/get_first_query` envelope: one query, or a list."""
    given = data.get("first_query")
    queries = cast("list[Any]", given) if isinstance(given, list) else [given]
    return tuple(query for query in queries if isinstance(query, str) and query)


def parse_organization(data: dict[str, Any], limits: Limits = Limits()) -> dict[str, Any]:
    """Parse the tree in the data of a `/get_organization` envelope; all `children` are lists of objects.

    Raises:
        MalformedResponseError: it is not a tree of objects.
        TooLargeError: it has more nodes than `limits.nodes`.
    """
    tree = data.get("organization")
    if not isinstance(tree, dict):
        raise MalformedResponseError("the organization must be an object")
    root = cast("dict[str, Any]", tree)
    for count, node in enumerate(members(root), start=1):
        if count > limits.nodes:
            raise TooLargeError(f"the organization has more nodes than Limits.nodes ({limits.nodes})")
        children = node.get("children", [])
        if not isinstance(children, list) or not all(isinstance(child, dict) for child in cast("list[Any]", children)):
            raise MalformedResponseError("the `children` of an organization must be a list of objects")
    return root


def members(root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Iterate over a tree of objects, the root first, without recursion. Children are read after their node."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(cast("list[dict[str, Any]]", node.get("children", []))))


@attrs.frozen
class KnownAgents:
    """The names of a remote's agents, from its discovery."""

    names: frozenset[str]
    """All names that were found."""
    complete: bool
    """True if `/get_agents` listed them: the remote has no other agents."""

    @classmethod
    def read(cls, root: dict[str, Any], listing: dict[str, Any] | None) -> KnownAgents:
        """Collect the names from an organization and the data of `/get_agents`, if the server has it."""
        listed = listing.get("agents") if listing is not None else None
        rows: list[Any] = [*members(root)]
        if isinstance(listed, list):
            rows += cast("list[Any]", listed)
        names = (cast("dict[str, Any]", row).get("name") for row in rows if isinstance(row, dict))
        return cls(frozenset(name for name in names if isinstance(name, str) and name), isinstance(listed, list))
