"""Parse responses that are not event streams: errors, envelopes, organizations.

Rule: a response that must have a shape is checked here, and the error says what was wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
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
from oxygent_client._core.redaction import Redactor, scrub_text
from oxygent_client._core.settings import Limits
from oxygent_client._core.text import escape_text
from oxygent_client._protocol.messages import SAYS, _is_type, as_text

__all__ = [
    "KnownAgents",
    "error_envelope",
    "error_from_response",
    "parse_alive",
    "parse_envelope",
    "parse_organization",
    "parse_stored_name",
    "retry_after",
]


# --- responses that are no stream -------------------------------------------------------------------------------------

STATUS: Final[dict[int, type[StatusError]]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    429: RateLimitedError,
}
CLASSES: Final[dict[int, type[StatusError]]] = {3: RedirectError, 5: ServerError}
"""The class for each status that has one of its own, and for each hundred that has one."""
TEXT: Final = 4096
"""How many characters of a text are looked at that is shown in an error: more than are shown, so that what is secret in
it is there as a whole."""
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


def error_from_response(
    status: int, headers: Mapping[str, str], body: bytes, limits: Limits = Limits(), *, clean: Redactor = scrub_text
) -> OxyError:
    """The error that a response is, if it is not a stream of events; `body` may be cut short.

    No text in it holds what `clean` takes away, or a character that is unsafe to show.
    """
    if status != 200:
        cls = STATUS.get(status) or CLASSES.get(status // 100, StatusError)
        wait = retry_after(headers)
        # Only these say for sure that no agent ran; a bare 503 may be a proxy that gave up on a run.
        refused = 400 <= status < 500 or (status == 503 and wait is not None)
        name = PHRASES.get(status, "a status without a name")
        outcome = Outcome.REJECTED if refused else cls.default_outcome
        text = escape_text(clean(body.decode("utf-8", "replace")), limits.error_body_bytes, lines=True)
        return cls(
            f"the server answered {status} ({name})", status=status, body=text, retry_after=wait, outcome=outcome
        )
    if _is_type(headers.get("content-type", ""), "application/json"):
        try:
            parse_envelope(body, limits, clean=clean)
        except EnvelopeError as error:
            return error
        except OxyError:
            pass
    kind = escape_text(clean(headers.get("content-type", "")[:TEXT]), 100)
    words = ""
    if any(_is_type(headers.get("content-type", ""), each) for each in ("application/json", "text/plain")) and body:
        words = f": {escape_text(clean(body[:TEXT].decode('utf-8', 'replace')), 300)}"
    return NotAnEventStreamError(
        f"the server answered 200 with '{kind or 'no content type'}', not with an event stream{words}"
    )


# --- JSON documents ---------------------------------------------------------------------------------------------------


def _document(body: bytes, limits: Limits) -> dict[str, Any]:
    """The JSON object in `body`."""
    try:
        document = json_codec.loads(body.decode(), depth=limits.depth)
    except TooLargeError:
        raise
    except ValueError as error:
        raise MalformedResponseError("the response should be JSON and is not") from error
    if not isinstance(document, dict):
        raise MalformedResponseError("the response should be a JSON object and is another value")
    return cast("dict[str, Any]", document)


def parse_envelope(body: bytes, limits: Limits = Limits(), *, clean: Redactor = scrub_text) -> dict[str, Any]:
    """The `data` of a server's `{"code": 200, "message": ..., "data": {...}}`.

    An envelope without `code`, or with one that is the text "200", is one of success.

    Raises:
        EnvelopeError: the code says that the call failed. Of the server's words it holds what `clean` leaves.
        MalformedResponseError, TooLargeError: the body is nothing of the kind.
    """
    document = _document(body, limits)
    if (error := error_envelope(document, clean)) is not None:
        raise error
    data = document.get("data")
    if not isinstance(data, dict):
        raise MalformedResponseError("the envelope's `data` should be an object")
    return cast("dict[str, Any]", data)


def error_envelope(document: dict[str, Any], clean: Redactor = scrub_text) -> EnvelopeError | None:
    """The error that an envelope is; None if it is one of success.

    One without `code` is one of success if it has `data`.
    """
    code = document.get("code")
    if code in (200, "200") or (code is None and "data" in document):
        return None
    message = next((document[name] for name in SAYS if name in document), None)
    said = clean(as_text(message)[:TEXT])
    said = f"code '{escape_text(clean(as_text(code)[:TEXT]), 20)}', message '{escape_text(said, 300)}'"
    return EnvelopeError(
        f"the server answered with an error envelope: {said}", code=code if type(code) is int else None
    )


def parse_alive(body: bytes, limits: Limits = Limits()) -> bool:
    """What the `parse_alive` of a `/check_alive` document says.

    Raises:
        MalformedResponseError, TooLargeError: the body is nothing of the kind.
    """
    said = _document(body, limits).get("alive")
    if not isinstance(said, int):
        raise MalformedResponseError("the server should say `parse_alive` and a number")
    return bool(said)


def parse_stored_name(data: dict[str, Any]) -> str:
    """The name under which a server has stored a file: in the data of an `/upload` envelope.

    Raises:
        MalformedResponseError: it says none.
    """
    name = data.get("file_name")
    if not isinstance(name, str) or not name:
        raise MalformedResponseError("the server should say under which name it stored the file")
    return name


def parse_organization(data: dict[str, Any], limits: Limits = Limits()) -> dict[str, Any]:
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
class KnownAgents:
    """What discovery found out about a remote."""

    names: frozenset[str]
    """Every name that the remote is known to have."""
    complete: bool
    """True if `/get_agents` listed them: a name that is not among them is unknown to the remote."""

    @classmethod
    def read(cls, root: dict[str, Any], listing: dict[str, Any] | None) -> KnownAgents:
        """From an organization and, where the server has it, the data of `/get_agents`."""
        listed = listing.get("agents") if listing is not None else None
        rows: list[Any] = [*members(root)]
        if isinstance(listed, list):
            rows += cast("list[Any]", listed)
        names = (cast("dict[str, Any]", row).get("name") for row in rows if isinstance(row, dict))
        return cls(frozenset(name for name in names if isinstance(name, str) and name), isinstance(listed, list))
