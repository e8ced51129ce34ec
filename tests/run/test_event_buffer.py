"""The event buffer: the end of a run in bytes, events once and in order, and no event lost."""

from __future__ import annotations

import itertools
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import Limits, errors
from oxygent_client._core.events import ServerSentEvent
from oxygent_client._protocol.sse import Decoder
from oxygent_client._run.event_buffer import LARGE, EventBuffer, sse_of

CLOSE: Final = "event: close\ndata: done\n\n"
DONE: Final = "data: done\n\n"
A: Final = "data: a\n\n"
NAMED: Final = "event: message\ndata: a\n\n"
BEAT: Final = ": ping\n\n"

Found = tuple[list[str], str]


def read(buffer: EventBuffer, pieces: list[bytes]) -> Found:
    """Return the events, and the state of the end: `closed`, `done` (perhaps) or `open`."""
    got: list[str] = []
    for piece in pieces:
        buffer.feed(piece)
        while received := buffer.take(2):
            got += [sse.data for sse in received]
        if buffer.is_closed:
            return got, "closed"
    return got, "done" if buffer.holds_done else "open"


ENDS: Final[list[tuple[Found, str]]] = [
    ((["a"], "closed"), A + CLOSE),
    ((["a"], "closed"), A + "event: close\ndata: whatever\n\n"),
    ((["a"], "closed"), A + CLOSE + A + CLOSE),
    ((["a"], "open"), A),
    (([], "open"), BEAT * 3),
    (([], "open"), ""),
    ((["a"], "open"), A + "event: close\ndata: cut"),
    # streams without event names
    ((["a"], "done"), A + DONE),
    ((["a"], "done"), A + DONE + BEAT),
    ((["a"], "closed"), A + DONE + CLOSE),
    ((["a", "done", "a"], "open"), A + DONE + A),
    ((["done"], "done"), DONE + DONE),
    ((["done", "a"], "closed"), DONE + A + CLOSE),
    # streams with event names
    ((["a", "done"], "open"), NAMED + DONE),
    ((["a", "done"], "closed"), NAMED + DONE + CLOSE),
    ((["done", "a", "done"], "open"), DONE + NAMED + DONE),
]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(("expected", "text"), ENDS)
def test_the_end(expected: Found, text: str, size: int) -> None:
    """Only `close` is the end; in a stream without event names a bare `done` may be, until another event follows."""
    data = text.encode()
    assert read(EventBuffer(Limits()), [data[start : start + size] for start in range(0, len(data), size)]) == expected


@pytest.mark.parametrize(
    ("expected", "is_closed", "text"),
    [
        (["a", "a"], False, A + A),
        (["a", "done"], True, A + CLOSE + A),
        (["done"], False, DONE),
        (["a", "done", "done"], True, A + DONE + CLOSE),
        ([], False, ""),
    ],
)
def test_the_rest(expected: list[str], is_closed: bool, text: str) -> None:
    """The rest of a run is its events not yet handed out, up to its close event."""
    buffer = EventBuffer(Limits())
    buffer.feed(text.encode())
    assert [sse_of(unread).data for unread in buffer.take_all()] == expected
    assert buffer.is_closed == is_closed
    assert buffer.take_all() == []


def test_done_was_the_end() -> None:
    """A bare `done` that was the end is not an event."""
    buffer = EventBuffer(Limits())
    assert read(buffer, [DONE.encode()]) == ([], "done")
    buffer.end()
    assert buffer.holds_done is False
    assert buffer.take_all() == []


def test_too_large() -> None:
    """Events before an event that is too large are handed out first; then each call raises the error."""
    buffer = EventBuffer(Limits(event_bytes=10))
    assert buffer.feed(b"data: a\n\ndata: b\n\ndata: " + b"c" * 20)
    assert [sse.data for sse in buffer.take(64)] == ["a", "b"]
    for _ in range(2):
        with pytest.raises(errors.TooLargeError):
            buffer.take(64)


def test_reported_events() -> None:
    """Each event from the wire is reported once; an event that is put back is not reported again."""
    heard: list[str] = []
    buffer = EventBuffer(Limits(), lambda sse: heard.append(sse.data))
    assert buffer.feed(b"data: a\n\ndata: b\n\n")
    buffer.put_back(buffer.take_all())
    assert heard == ["a", "b"]


@pytest.mark.parametrize("taken", [0, 1, 2, 3])
@pytest.mark.parametrize(("expected", "text"), ENDS)
def test_events_left_to_another_reader(expected: Found, text: str, taken: int) -> None:
    """Events that one reader leaves are read first by the next, which comes to the same end."""
    one, other = EventBuffer(Limits()), EventBuffer(Limits())
    one.feed(text.encode())
    got = [sse.data for _ in range(taken) for sse in one.take(1)]
    other.put_back(one.take_all())
    rest, end = read(other, [b""])
    assert ([*got, *rest], end) == expected


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (False, ""),
        (False, A),
        (False, A + BEAT + ": pi"),
        (True, A + "data: b"),
        (True, A + "data: b\n"),
        (True, A + "event: close\n"),
        (True, A + "da"),
    ],
)
def test_a_part_of_an_event(expected: bool, text: str) -> None:
    """The buffer knows whether it holds a part of an event; a part of a heartbeat does not count."""
    buffer = EventBuffer(Limits())
    buffer.feed(text.encode())
    assert buffer.is_within_event is expected


@pytest.mark.parametrize(("expected", "text"), [(False, A + DONE), (True, A + CLOSE), (True, CLOSE + A), (False, "")])
def test_no_more_bytes_are_needed(expected: bool, text: str) -> None:
    """No more bytes are needed after the close event, or after an event that was too large."""
    one, other = EventBuffer(Limits()), EventBuffer(Limits())
    one.feed(text.encode())
    assert one.is_complete is expected
    assert one.holds_events is bool(text)
    other.put_back(one.take_all())
    assert other.is_complete is expected
    small = EventBuffer(Limits(event_bytes=10))
    small.feed(b"data: " + b"c" * 20)
    assert small.is_complete


def test_a_new_connection() -> None:
    """A new connection drops half an event and keeps complete events."""
    buffer = EventBuffer(Limits())
    buffer.feed(b": ping\n\n: ping\n\ndata: a\n\ndata: half")
    assert buffer.heartbeats == 2
    assert buffer.held_bytes == len("data: half")
    buffer.start_anew()
    assert buffer.heartbeats == 0
    assert buffer.held_bytes == 0
    assert read(buffer, [b"data: b\n\n"]) == (["a", "b"], "open")


PARTS: Final = st.lists(st.sampled_from([A, NAMED, DONE, BEAT, CLOSE, "data: b\n"]), max_size=12).map("".join)


@given(text=PARTS, cuts=st.lists(st.integers(0, 200), max_size=6), stop=st.integers(0, 12))
def test_nothing_is_lost(text: str, cuts: list[int], stop: int) -> None:
    """For any chunks and any stop, each event up to `close` was handed out or is in the rest."""
    data = text.encode()
    marks = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    pieces = [data[start:end] for start, end in itertools.pairwise(marks)]
    whole = Decoder().feed(data)
    names = [sse.event for sse in whole]
    expected = whole[: names.index("close")] if "close" in names else whole
    buffer, got = EventBuffer(Limits()), list[ServerSentEvent]()
    for piece in pieces:
        buffer.feed(piece)
        while len(got) < stop and (received := buffer.take(1)):
            got += received
    got += [sse for sse in map(sse_of, buffer.take_all()) if sse.event != "close"]
    is_done = expected and got == expected[:-1] and buffer.is_closed and expected[-1].data == "done"
    assert got == expected or is_done


def test_events_that_are_taken_together() -> None:
    """The next events are taken together, up to a number, and can be given back."""
    buffer = EventBuffer(Limits())
    buffer.feed((A * 5).encode())
    assert len(buffer.take(3)) == 3
    rest = buffer.take(3)
    assert len(rest) == 2
    buffer.give_back(reversed(rest))
    assert buffer.take(3) == rest


BIG: Final = "data: " + "x" * (LARGE + 1) + "\n\n"


@pytest.mark.parametrize(
    ("piece", "taken"),
    [
        pytest.param(A * LARGE, 64, id="small_events"),
        pytest.param(BIG + A, 1, id="a_large_event"),
        pytest.param(A * 2 + BIG + A, 2, id="up_to_a_large_event"),
        pytest.param(("data: " + "x" * (LARGE // 4) + "\n\n") * 10, 4, id="small_ones_that_are_large_together"),
    ],
)
def test_events_of_a_large_piece(piece: str, taken: int) -> None:
    """Of a large piece, as many events are taken together as are small together."""
    buffer = EventBuffer(Limits())
    buffer.feed(piece.encode())
    assert len(buffer.take(64)) == taken


def test_events_after_a_large_piece() -> None:
    """Events that are received after a large piece are taken together again, once its events are handed out."""
    buffer = EventBuffer(Limits())
    buffer.feed(BIG.encode())
    assert len(buffer.take(64)) == 1
    buffer.feed((A * 2).encode())
    assert not buffer.may_be_large
    assert len(buffer.take(64)) == 2


def test_large_events_that_were_put_back() -> None:
    """Events that were kept for another reader may be large: these are not taken together."""
    buffer = EventBuffer(Limits())
    buffer.put_back([ServerSentEvent(data="a"), ServerSentEvent(data="x" * (LARGE + 1))])
    assert len(buffer.take(3)) == 1
