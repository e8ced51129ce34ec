"""Build the events and documents of the relay, and read its requests. Pure.

Rule 1: the data of each event is JSON that a browser reads: `NaN` and infinite numbers, which a remote may send, are
    null, and a lone surrogate is `?`.
Rule 2: messages of the remote are unnamed events, so that a remote cannot send an event of the relay.
Rule 3: a request has the members in `MEMBERS` and no others, and an answer has `ANSWER` only.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import attrs

from oxygent_client import Outcome
from oxygent_client.serve import Failure, Refused

END: Final = "end"
GAP: Final = "gap"
DROPPED: Final = "dropped"
RETRY_MILLISECONDS: Final = 1000
"""How long a browser waits before it connects again."""
MEMBERS: Final = ("query", "agent", "context")
ANSWER: Final = "answer"
_CONTEXT_CHARACTERS: Final = 200
_OWN_END: Final = frozenset({"agent_failed", "no_answer"})
"""The codes of runs that came to their end and have no answer."""


def json_bytes(document: Any) -> bytes:
    """Return JSON in UTF-8, without line breaks."""
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    except ValueError:
        finite = json.loads(json.dumps(document), parse_constant=lambda _: None)
        text = json.dumps(finite, ensure_ascii=False)
    return text.encode("utf-8", "replace")


def frame(data: bytes, event: str = "", number: int = 0) -> bytes:
    """Return an event of a stream; without a number, it does not count for resuming."""
    head = f"id: {number}\n" if number else ""
    name = f"event: {event}\n" if event else ""
    return f"{head}{name}data: ".encode() + data + b"\n\n"


RETRY: Final = f"retry: {RETRY_MILLISECONDS}\n\n".encode()


def completed_end(output: Any, trace_id: str) -> Any:
    """Return the data of the last event of a run with an answer."""
    return {"state": "completed", "outcome": str(Outcome.COMPLETED), "trace_id": trace_id, "output": output}


def failed_end(failure: Failure) -> Any:
    """Return that of a run that failed, or was cut off before its end."""
    is_cut = failure.outcome.may_have_run and failure.code not in _OWN_END
    return {"state": "cut" if is_cut else "failed", **_members(failure)}


def cancelled_end(code: str, outcome: Outcome, trace_id: str) -> Any:
    """Return that of a run that was stopped here."""
    return {"state": "cancelled", "code": code, "outcome": str(outcome), "trace_id": trace_id}


def error_document(failure: Failure) -> Any:
    """Return the document of an error."""
    param = {"param": failure.param} if failure.param else {}
    return {"error": {**_members(failure), **param}}


def _members(failure: Failure) -> dict[str, Any]:
    return {
        "code": failure.code,
        "message": failure.message,
        "outcome": str(failure.outcome),
        "retryable": failure.retryable,
        "trace_id": failure.trace_id,
    }


@attrs.frozen
class Question:
    """One question to an agent."""

    query: str
    agent: str = ""
    """The name of the agent; empty for the default."""
    context: str = ""
    """The remote's trace id of the previous turn."""


def question_of(document: Mapping[str, Any]) -> Question:
    """Read the body of a request for a run.

    Raises:
        Refused: it is invalid.
    """
    for name in document:
        if name not in MEMBERS:
            raise _invalid(name[:100], f"the body may have {', '.join(MEMBERS)} only", "unsupported_value")
    given = {name: document.get(name, "") for name in MEMBERS}
    for name, value in given.items():
        if not isinstance(value, str):
            raise _invalid(name, f"{name} must be a string")
    if not given["query"]:
        raise _invalid("query", "query must not be empty")
    if len(given["context"]) > _CONTEXT_CHARACTERS or not given["context"].isprintable():
        raise _invalid("context", "context must be the trace_id of an earlier run")
    return Question(**given)


def answer_of(document: Mapping[str, Any]) -> Any:
    """Read the body of an answer to an agent that asks: any JSON; empty if there is none.

    Raises:
        Refused: it is invalid.
    """
    for name in document:
        if name != ANSWER:
            raise _invalid(name[:100], f"the body may have {ANSWER} only", "unsupported_value")
    return document.get(ANSWER)


def last_seen(headers: Mapping[str, str], newest: int) -> int:
    """Return the number of the event that a client has seen last; 0 if it has seen none.

    Raises:
        Refused: there is no such event.
    """
    given = headers.get("last-event-id", "")
    if not given:
        return 0
    if not (given.isascii() and given.isdecimal() and len(given) < 20 and int(given) <= newest):
        raise _invalid("Last-Event-ID", "Last-Event-ID must be the id of an event of this run")
    return int(given)


def _invalid(param: str, text: str, code: str = "invalid_value") -> Refused:
    return Refused(400, code, text, param=param)
