"""Make a trace of a recorded event stream, with the recorded times."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from oxygent_client._core.call_tree import CallStatus
from oxygent_client._core.events import Answer
from oxygent_client._core.redaction import scrub_json
from oxygent_client._core.settings import Limits
from oxygent_client._core.trace import Trace
from oxygent_client._protocol.messages import to_events
from oxygent_client._run.event_buffer import EventBuffer
from oxygent_client._run.trace import TRACED, TraceCollector


def recorded_trace(
    pieces: Iterable[tuple[float, bytes]],
    *,
    ended_at: float,
    status: int | None,
    failure: str,
    is_left: bool,
    **fields: Any,
) -> Trace:
    """Return the trace of a run whose stream has these pieces, each with the seconds since the request.

    `status` is that of the response, `failure` the text of the transport's error; with `is_left` the reader left.

    Raises:
        TooLargeError: an event is too large.
    """
    limits, collector = Limits(), TraceCollector()
    buffer = EventBuffer(limits)
    answer: Answer | None = None
    collector.begin(0.0)
    for at, data in pieces:
        buffer.feed(data)
        while received := buffer.take(sys.maxsize):
            for event in to_events(received, limits):
                if event.__class__ in TRACED:
                    collector.note(event, at)
                elif isinstance(event, Answer):
                    answer = event
    collector.end(ended_at)
    ending: tuple[CallStatus, str] = ("completed", "")
    if status not in (200, None):
        ending = "failed", f"the server responded with status {status}"
    elif failure or not (buffer.is_closed or buffer.holds_done):
        ending = ("canceled", "") if is_left else ("failed", failure or "the stream ended without its close event")
    elif answer is None:
        ending = "failed", "the stream ended without an answer event"
    output = None if answer is None or ending[0] != "completed" else scrub_json(answer.content)
    return collector.trace(
        now=lambda: ended_at,
        status=ending[0],
        record=None,
        clean=scrub_json,
        began=None,
        error=ending[1],
        output=output,
        **fields,
    )
