"""The state of one run, without an event loop: time-outs, the end, records, reconnecting. Times are numbers."""

from __future__ import annotations

import math
from typing import Final

import attrs
import pytest

from oxygent_client import Limits, Outcome, Timeouts, errors
from oxygent_client._core.events import OxyState
from oxygent_client._protocol.messages import to_event
from oxygent_client._protocol.router import SetAnswer
from oxygent_client._protocol.run_record import RunNode, RunRecord
from oxygent_client._run.state import RunState, Verdict, how_it_ended
from oxygent_client.testing import close, delta, heartbeat, progress

OFF: Final = Timeouts(connect=None, silence=None, idle=None, total=None)
DONE: Final = b"data: done\n\n"
NOTHING: Final = RunRecord(None, None, ())


def record(state: OxyState | None = None) -> RunRecord:
    """Return the record of a run with one call."""
    node = RunNode(
        node_id="n",
        caller="user",
        callee="master",
        node_type="agent",
        father_node_id="",
        call_stack=(),
        state=state,
        output="42",
    )
    return RunRecord(state, "42", (node,))


def started(timeouts: Timeouts = OFF, *, attached: bool = False) -> RunState:
    """Return a run that began at 100 and has a stream."""
    state = RunState(timeouts, Limits(), attached=attached)
    state.start(100.0)
    state.request_sent(100.0)
    state.restart(100.0, 100.0)
    return state


def clean(text: str) -> str:
    """Redact nothing."""
    return text


# ------------------------------------------------------------------------------------------------------------ Events


def test_events_and_the_end() -> None:
    """Events are returned in order, then the need for data; after the close event the run has ended."""
    state = started()
    state.receive_data(progress(1) + progress(2), 101.0)
    first, second = state.next_events(101.0, 1), state.next_events(101.0, 64)
    assert first is not None
    assert second is not None
    assert [to_event(sse).content for sse in (*first, *second)] == [1, 2]
    assert state.next_events(101.0, 64) is None
    assert state.need() == (math.inf, "total")
    state.receive_data(close(), 102.0)
    assert state.next_events(102.0, 64) == []
    assert state.is_closed


@pytest.mark.parametrize(
    ("data", "outcome", "is_silent"),
    [(heartbeat(), Outcome.NOT_SENT, True), (progress(1), Outcome.STARTED, False)],
    ids=["heartbeat", "event"],
)
def test_an_event_shows_that_the_run_started(data: bytes, outcome: Outcome, is_silent: bool) -> None:
    """Bytes without an event leave the outcome as it was; the first event sets it to STARTED."""
    state = started()
    state.receive_data(data, 101.0)
    assert state.outcome is outcome
    assert state.is_silent is is_silent


def test_a_record_ends_the_run() -> None:
    """After a record has given the result, no event is returned."""
    state = started()
    state.receive_data(progress(1), 101.0)
    state.record = record(OxyState.COMPLETED)
    assert state.next_events(101.0, 64) == []


def test_total() -> None:
    """After `total` no event is returned, even if some are buffered."""
    state = started(attrs.evolve(OFF, total=10))
    state.receive_data(progress(1), 101.0)
    with pytest.raises(errors.DeadlineExceededError):
        state.next_events(110.0, 64)


# ---------------------------------------------------------------------------------------------------------- Time-outs

NEEDS: Final[dict[str, tuple[Timeouts, list[tuple[bytes, float]], tuple[float, str]]]] = {
    # name: (time-outs, chunks and when they were received, the state's need at 120)
    "all off": (OFF, [], (math.inf, "total")),
    "total": (attrs.evolve(OFF, total=50), [], (150, "total")),
    "idle counts waiting only": (attrs.evolve(OFF, idle=30), [(heartbeat(), 110.0)], (140, "idle")),
    "idle, after an event": (attrs.evolve(OFF, idle=30), [(progress(1), 110.0)], (150, "idle")),
    "silence, before a heartbeat": (attrs.evolve(OFF, silence=45), [(progress(1), 110.0)], (math.inf, "total")),
    "silence": (attrs.evolve(OFF, silence=45), [(heartbeat(), 110.0)], (165, "silence")),
    "the first of several": (
        Timeouts(silence=5, idle=30, total=100),
        [(heartbeat(), 110.0)],
        (125, "silence"),
    ),
    "of two at once, total": (Timeouts(silence=None, idle=100, total=100), [], (200, "total")),
    "done, without an answer": (OFF, [(DONE, 110.0)], (math.inf, "total")),
}


@pytest.mark.parametrize(("is_waiting", "deadline"), [(False, 140), (True, 130)], ids=["the program", "the decoder"])
def test_time_that_counts_for_idle(is_waiting: bool, deadline: float) -> None:
    """The time between two chunks counts for `idle` if the decoder used it, not if the program did."""
    state = started(attrs.evolve(OFF, idle=30))
    state.receive_data(heartbeat(), 110.0)
    if not is_waiting:
        state.ask(120.0)
    assert state.need() == (deadline, "idle")


@pytest.mark.parametrize("name", NEEDS)
def test_the_next_time_out(name: str) -> None:
    """The next time-out is the earliest; time that the program spends on events does not count."""
    timeouts, pieces, expected = NEEDS[name]
    state = started(timeouts)
    for piece, now in pieces:
        state.receive_data(piece, now)
        state.buffer.take(64)
    state.ask(120.0)
    assert state.need() == expected


@pytest.mark.parametrize("how", ["an answer", "an answer that could not be read"])
def test_a_bare_done_after_an_answer(how: str) -> None:
    """A bare `done` after an answer is the end unless an event follows within two seconds."""
    state = started()
    state.receive_data(DONE, 110.0)
    if how == "an answer":
        state.received.answer = SetAnswer("42")
    else:
        state.received.unread = "too deep"
    state.ask(120.0)
    assert state.need() == (122.0, "legacy")
    assert state.timed_out("legacy") is Verdict.ENDED


FIRED: Final[dict[str, tuple[str, bool, Verdict | type[errors.OxyError]]]] = {
    "total": ("total", False, errors.DeadlineExceededError),
    "silence": ("silence", False, errors.SilenceTimeoutError),
    "silence of a detached run": ("silence", True, Verdict.RECONNECT),
    "idle": ("idle", False, Verdict.CHECK_RECORD),
    "record": ("record", True, Verdict.CHECK_RECORD),
    "legacy": ("legacy", False, Verdict.ENDED),
}


@pytest.mark.parametrize("name", FIRED)
def test_each_time_out(name: str) -> None:
    """Each time-out ends the run with its own error, or returns the next step."""
    clock, attached, expected = FIRED[name]
    state = started(Timeouts(), attached=attached)
    if isinstance(expected, Verdict):
        assert state.timed_out(clock) is expected
    else:
        with pytest.raises(expected):
            state.timed_out(clock)


# ------------------------------------------------------------------------------------------------------------ Records


def test_a_record_of_a_run_that_ended() -> None:
    """A record of a run that ended ends the run."""
    state = started(Timeouts())
    assert state.receive_record("idle", record(OxyState.COMPLETED)) is Verdict.ENDED
    assert state.outcome is Outcome.STARTED


def test_a_record_of_a_quiet_run() -> None:
    """A quiet run at work is waited for; if its record is unchanged at the next check, it is dead."""
    state = started(Timeouts())
    assert state.receive_record("idle", record()) is Verdict.KEEP_READING
    with pytest.raises(errors.IdleTimeoutError):
        state.receive_record("idle", record())


def test_an_event_between_two_looks() -> None:
    """An event between two checks shows that the run is alive, whatever its record shows."""
    state = started(Timeouts())
    assert state.receive_record("idle", record()) is Verdict.KEEP_READING
    state.receive_data(progress(1), 200.0)
    assert state.receive_record("idle", record()) is Verdict.KEEP_READING


@pytest.mark.parametrize("found", [None, NOTHING], ids=["no records", "no record of the run"])
def test_no_record(found: RunRecord | None) -> None:
    """A quiet run without a record is given up."""
    state = started(Timeouts())
    with pytest.raises(errors.IdleTimeoutError):
        state.receive_record("idle", found)
    assert state.outcome is Outcome.NOT_SENT


def test_the_last_events_of_a_detached_run() -> None:
    """A detached run whose record has ended is read for a moment, and has ended at the second check."""
    state = started(Timeouts(), attached=True)
    assert state.receive_record("record", record(OxyState.COMPLETED)) is Verdict.KEEP_READING
    assert state.receive_record("record", record(OxyState.COMPLETED)) is Verdict.ENDED


def test_a_detached_run_that_goes_on() -> None:
    """A record of a detached run that goes on doubles the time until the next check."""
    state = started(attrs.evolve(OFF, lookup=1.0), attached=True)
    state.ask(100.0)
    assert state.need() == (102.0, "record")
    assert state.receive_record("record", record()) is Verdict.KEEP_READING
    state.ask(100.0)
    assert state.need() == (104.0, "record")


# -------------------------------------------------------------------------------------------------- The connection ends


def test_an_end_without_a_close_event() -> None:
    """A stream that ends before its close event was cut; the error quotes the cause."""
    state = started()
    with pytest.raises(errors.IncompleteStreamError) as caught:
        state.receive_eof(errors.ConnectionLostError("reset"), 101.0, clean, was_interrupted=False)
    assert isinstance(caught.value.__cause__, errors.ConnectionLostError)
    with pytest.raises(errors.IncompleteStreamError):
        state.receive_eof(None, 101.0, clean, was_interrupted=False)


def test_an_end_after_a_bare_done() -> None:
    """The end of the stream after a bare `done` is the end of the run."""
    state = started()
    state.receive_data(DONE, 101.0)
    state.ask(101.0)
    assert state.need() == (math.inf, "total")
    assert state.receive_eof(None, 101.0, clean, was_interrupted=False) is Verdict.ENDED


def test_an_end_after_an_interrupted_read() -> None:
    """A connection lost by an interrupted read is not the cause: the error is the time-out's."""
    state = started(Timeouts())
    with pytest.raises(errors.IdleTimeoutError):
        state.receive_eof(None, 101.0, clean, was_interrupted=True)


def test_reconnecting() -> None:
    """A detached run reconnects after a delay, drops half an event and checks the record soon after."""
    state = started(attrs.evolve(OFF, lookup=1.0), attached=True)
    state.receive_data(progress(1) + b"data: half", 101.0)
    state.buffer.take(64)
    assert state.receive_eof(None, 103.0, clean, was_interrupted=False) is Verdict.RECONNECT
    state.drop_half_event()
    assert state.connection_lost(103.0) == 1.0
    assert state.connection_lost(104.0) == 2.0
    state.connection_restored(106.0)
    state.ask(106.0)
    assert state.need() == (108.0, "record")
    assert state.partial.dropped == 1


def test_a_detached_run_whose_end_is_lost() -> None:
    """If no event came since the connection broke, the end of a quiet run is lost."""
    state = started(Timeouts(), attached=True)
    state.connection_lost(101.0)
    with pytest.raises(errors.IncompleteStreamError):
        state.receive_record("idle", None)


@pytest.mark.parametrize(
    ("seconds", "pieces", "expected"),
    [
        (20.0, heartbeat() * 2, True),
        (0.5, heartbeat() * 2, False),
        (20.0, heartbeat(), False),
        (20.0, progress(1) * 2, False),
    ],
    ids=["several after a wait", "several at once", "one", "events"],
)
def test_a_stream_that_was_held_back(seconds: float, pieces: bytes, expected: bool) -> None:
    """Several heartbeats in one chunk after a wait show that a proxy buffers the stream."""
    state = started()
    assert state.receive_data(pieces, 100.0 + seconds) is expected
    assert state.was_held_back is expected
    assert state.receive_data(pieces, 100.0 + 2 * seconds) is False  # it is reported once


def test_the_answer_is_part_of_the_state() -> None:
    """The text and the partial result are those of the received events."""
    state = started()
    state.receive_data(delta("abc"), 101.0)
    received = state.next_events(101.0, 64)
    assert received is not None
    state.received.note(to_event(received[0]), SetAnswer("42"))
    assert state.received.texts.text == "abc"
    assert state.partial.answer == "42"


def test_the_description_of_the_end() -> None:
    """The end of a stream is described as a part of a sentence."""
    assert how_it_ended(None) == "ended without its close event"
    assert "reset" in how_it_ended(errors.ConnectionLostError("reset"))
