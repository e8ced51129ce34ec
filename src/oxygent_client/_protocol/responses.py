"""Parse responses that are not event streams: errors and envelopes.

Rule: responses are validated here; an error describes the problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, cast

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
