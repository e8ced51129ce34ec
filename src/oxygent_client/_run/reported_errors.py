"""Errors that a server reports inside an event stream.

Rule 1: pure. The server's own words are in the error's text: without secrets, bounded, and safe to show.
Rule 2: an error envelope with nothing beside it is an `EnvelopeError`, like one in the place of a stream.
    After other events the run is one that was cut off, or that gave no answer.
"""

from __future__ import annotations

from typing import Any, Final, cast

from oxygent_client._core import json_codec
from oxygent_client._core.errors import EnvelopeError, IncompleteStreamError, NoAnswerError, Outcome, OxyError
from oxygent_client._core.events import Event
from oxygent_client._core.redaction import Redactor, for_display
from oxygent_client._protocol.messages import SAYS, as_text
from oxygent_client._protocol.responses import error_envelope
from oxygent_client._run.received import ReceivedEvents

SHOWN: Final = 500
DEPTH: Final = 100


def early_end_error(how: str, seen: ReceivedEvents, leftovers: tuple[str, str], clean: Redactor) -> OxyError:
    """The error of a stream that `how`: its connection ended before the close event."""
    envelope, words = _said(seen, leftovers, clean)
    if envelope is not None:
        return envelope
    return IncompleteStreamError(f"the stream {how}: the run was cut off{words}")


def no_answer_error(seen: ReceivedEvents, leftovers: tuple[str, str], clean: Redactor) -> OxyError:
    """The error of a stream that closed without an answer."""
    envelope, words = _said(seen, leftovers, clean)
    if envelope is not None:
        envelope.outcome = Outcome.COMPLETED
        return envelope
    return NoAnswerError(f"the stream closed as it should and held no answer{words}")


def error_content(event: Event) -> Any:
    """What an event that reports an error says."""
    return event.message if event.content is None else event.content


def _said(seen: ReceivedEvents, leftovers: tuple[str, str], clean: Redactor) -> tuple[EnvelopeError | None, str]:
    """The envelope that is all that came, or what is added to the text of another error."""
    if seen.error is not None:
        return None, _words(error_content(seen.error), clean)
    stray = leftovers[0]
    last = None if seen.last is None or seen.last.type is not None else seen.last.message
    candidates = [*(_read(text) for text in leftovers), last]
    if seen.count == (last is not None):
        envelope = next((error for said in candidates if (error := _envelope(said, clean)) is not None), None)
        if envelope is not None:
            return envelope, ""
    unread = f"; a message could not be read: {seen.problem}" if seen.problem else ""
    said = next((said for said in candidates if _reports(said)), stray.strip())
    return None, unread + (_words(said, clean) if said else "")


def _read(text: str) -> Any:
    try:
        return json_codec.loads(text, depth=DEPTH)
    except (ValueError, OxyError):
        return None


def _envelope(message: Any, clean: Redactor) -> EnvelopeError | None:
    if not isinstance(message, dict) or not {"code", "message"} <= cast("dict[str, Any]", message).keys():
        return None
    return error_envelope(cast("dict[str, Any]", message), clean)


def _reports(message: Any) -> bool:
    """Whether an object says what went wrong; one with a type is a message of the run."""
    if not isinstance(message, dict) or "type" in message:
        return False
    fields = cast("dict[str, Any]", message)
    return fields.get("code") not in (200, "200") and any(name in fields for name in SAYS)


def _words(said: Any, clean: Redactor) -> str:
    return f"; the server said: {for_display(as_text(said), SHOWN, clean)}"
