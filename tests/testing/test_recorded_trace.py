"""`Entry.trace`: the trace of a recorded run.

Rule 1: time is virtual.
"""

from __future__ import annotations

from typing import Any, Final

import pytest

from oxygent_client import Outcome, SSEOxyGent
from oxygent_client.testing import (
    Cassette,
    Entry,
    Failure,
    Piece,
    RecordingTransport,
    ToyRemote,
    answer,
    close,
    text,
    tool_call,
)
from oxygent_client.transports.asgi import ASGITransport
from tests.support.virtual import anyio_backend as anyio_backend


async def test_a_recorded_run() -> None:
    """The recording of a run has the trace that the run had, with the recorded times."""
    cassette = Cassette()
    transport = RecordingTransport(ASGITransport(ToyRemote()), cassette)
    async with SSEOxyGent(server_url="http://remote.test", transport=transport).stream("trip") as run:
        await run.final_response()
    seen, recorded = run.trace(), cassette.entries[0].trace()
    assert [(call.name, call.parent, call.output, call.status) for call in recorded.calls] == [
        (call.name, call.parent, call.output, call.status) for call in seen.calls
    ]
    assert [call.started for call in recorded.calls] == pytest.approx([call.started for call in seen.calls], abs=0.01)
    assert (recorded.status, recorded.output, recorded.trace_id) == (seen.status, seen.output, seen.trace_id)
    assert recorded.seconds == pytest.approx(6.75, abs=0.01)
    assert recorded.began is None


def entry(*pieces: bytes, **fields: Any) -> Entry:
    """Return a recorded run with these pieces, one a second."""
    placed = tuple(Piece(float(at), data) for at, data in enumerate(pieces))
    values: dict[str, Any] = {"status": 200, "ended_at": 9.0, **fields}
    return Entry(method="POST", path="/sse/chat", purpose="run", pieces=placed, **values)


ENDS: Final[dict[str, tuple[Entry, str, str]]] = {
    # the entry, the status, a part of the error
    "complete": (entry(answer("hi"), close()), "completed", ""),
    "the old end": (entry(b'data: {"type": "answer", "content": "hi"}\n\n', b"data: done\n\n"), "completed", ""),
    "no answer": (entry(text("hi"), close()), "failed", "answer"),
    "no close event": (entry(answer("hi")), "failed", "close event"),
    "left": (entry(answer("hi"), end="left"), "canceled", ""),
    "left at its end": (entry(answer("hi"), close(), end="left"), "completed", ""),
    "an error": (entry(answer("hi"), end=Failure("ConnectionLostError", "reset", Outcome.STARTED)), "failed", "reset"),
    "no response": (
        entry(status=None, end=Failure("ConnectError", "refused", Outcome.NOT_SENT)),
        "failed",
        "refused",
    ),
    "another status": (entry(status=401), "failed", "401"),
}


@pytest.mark.parametrize(("recorded", "status", "error"), ENDS.values(), ids=ENDS)
def test_ends(recorded: Entry, status: str, error: str) -> None:
    """The status and the error of a trace tell how the recording ends; only a completed run has an output."""
    trace = recorded.trace()
    assert trace.status == status
    assert error in trace.error
    assert bool(trace.error) is bool(error)
    assert trace.output == ("hi" if status == "completed" else None)


def test_the_times() -> None:
    """A call begins when the piece with its event was received; without an end it is lost."""
    trace = entry(text("hi"), tool_call("add"), answer("hi"), close()).trace()
    assert [(call.name, call.started, call.status) for call in trace.calls] == [("add", 1.0, "lost")]
    assert trace.seconds == 9.0
