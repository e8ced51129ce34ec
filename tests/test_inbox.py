"""What counts as the end of a run, in bytes alone: events come out once, in order, and nothing that came is lost."""

from __future__ import annotations

import itertools
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import Limits, errors
from oxygent_client._inbox import Inbox
from oxygent_client._sse import Decoder, ServerSentEvent

CLOSE: Final = "event: close\ndata: done\n\n"
DONE: Final = "data: done\n\n"
A: Final = "data: a\n\n"
NAMED: Final = "event: message\ndata: a\n\n"
BEAT: Final = ": ping\n\n"

Found = tuple[list[str], str]


def read(inbox: Inbox, pieces: list[bytes]) -> Found:
    """What a reader gets, and how it stands with the end: `closed`, `done` (perhaps), or `open`."""
    got: list[str] = []
    for piece in pieces:
        inbox.feed(piece)
        while (sse := inbox.take()) is not None:
            got.append(sse.data)
        if inbox.is_closed:
            return got, "closed"
    return got, "done" if inbox.holds_done else "open"


ENDS: Final[list[tuple[Found, str]]] = [
    ((["a"], "closed"), A + CLOSE),
    ((["a"], "closed"), A + "event: close\ndata: whatever\n\n"),
    ((["a"], "closed"), A + CLOSE + A + CLOSE),
    ((["a"], "open"), A),
    (([], "open"), BEAT * 3),
    (([], "open"), ""),
    ((["a"], "open"), A + "event: close\ndata: cut"),
    # a stream that names no event
    ((["a"], "done"), A + DONE),
    ((["a"], "done"), A + DONE + BEAT),
    ((["a"], "closed"), A + DONE + CLOSE),
    ((["a", "done", "a"], "open"), A + DONE + A),
    ((["done"], "done"), DONE + DONE),
    ((["done", "a"], "closed"), DONE + A + CLOSE),
    # a stream that does
    ((["a", "done"], "open"), NAMED + DONE),
    ((["a", "done"], "closed"), NAMED + DONE + CLOSE),
    ((["done", "a", "done"], "open"), DONE + NAMED + DONE),
]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(("expected", "text"), ENDS)
def test_the_end(expected: Found, text: str, size: int) -> None:
    """Only `close` is the end; where no event has a name, a bare `done` may be it, until another event follows."""
    data = text.encode()
    assert expected == read(Inbox(Limits()), [data[start : start + size] for start in range(0, len(data), size)])


@pytest.mark.parametrize(
    ("expected", "is_closed", "text"),
    [
        (["a", "a"], False, A + A),
        (["a"], True, A + CLOSE + A),
        (["done"], False, DONE),
        (["a", "done"], True, A + DONE + CLOSE),
        ([], False, ""),
    ],
)
def test_the_rest(expected: list[str], is_closed: bool, text: str) -> None:
    """Who stops reading is given all that came and was not handed out, up to the end if that came too."""
    inbox = Inbox(Limits())
    inbox.feed(text.encode())
    assert expected == [sse.data for sse in inbox.take_rest()]
    assert (is_closed, []) == (inbox.is_closed, inbox.take_rest())


def test_done_was_the_end() -> None:
    """Once it is clear that a bare `done` was the end, it is no event any more."""
    inbox = Inbox(Limits())
    assert ([], "done") == read(inbox, [DONE.encode()])
    inbox.end()
    assert (False, []) == (inbox.holds_done, inbox.take_rest())


def test_too_large() -> None:
    """What came before an event that is too large is handed out first, and the error comes each time after it."""
    inbox = Inbox(Limits(event_bytes=10))
    assert inbox.feed(b"data: a\n\ndata: b\n\ndata: " + b"c" * 20)
    assert ["a", "b"] == [sse.data for sse in (inbox.take(), inbox.take()) if sse is not None]
    for _ in range(2):
        with pytest.raises(errors.TooLargeError):
            inbox.take()


def test_what_is_not_new() -> None:
    """Events that the reader has heard are left out, and still show that the stream speaks."""
    seen: list[ServerSentEvent] = []

    def is_new(sse: ServerSentEvent) -> bool:
        seen.append(sse)
        return sse.data != "a"

    inbox = Inbox(Limits(), is_new)
    assert inbox.feed(b"data: a\n\n")
    assert inbox.take() is None
    assert (["b"], "open") == read(inbox, [b"data: a\n\ndata: b\n\n"])
    assert ["a", "a", "b"] == [sse.data for sse in seen]


def test_a_new_connection() -> None:
    """Half an event is gone with its connection; what was complete stays."""
    inbox = Inbox(Limits())
    inbox.feed(b": ping\n\n: ping\n\ndata: a\n\ndata: half")
    assert (2, len("data: half")) == (inbox.heartbeats, inbox.held_bytes)
    inbox.start_anew()
    assert (0, 0) == (inbox.heartbeats, inbox.held_bytes)
    assert (["a", "b"], "open") == read(inbox, [b"data: b\n\n"])


PARTS: Final = st.lists(st.sampled_from([A, NAMED, DONE, BEAT, CLOSE, "data: b\n"]), max_size=12).map("".join)


@given(text=PARTS, cuts=st.lists(st.integers(0, 200), max_size=6), stop=st.integers(0, 12))
def test_nothing_is_lost(text: str, cuts: list[int], stop: int) -> None:
    """However the bytes are cut, and whenever the reader stops: it was handed, or is given, every event up to close."""
    data = text.encode()
    marks = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    pieces = [data[start:end] for start, end in itertools.pairwise(marks)]
    whole = Decoder().feed(data)
    names = [sse.event for sse in whole]
    expected = whole[: names.index("close")] if "close" in names else whole
    inbox, got = Inbox(Limits()), list[ServerSentEvent]()
    for piece in pieces:
        inbox.feed(piece)
        while len(got) < stop and (sse := inbox.take()) is not None:
            got.append(sse)
    got += inbox.take_rest()
    is_done = expected and got == expected[:-1] and inbox.is_closed and expected[-1].data == "done"
    assert got == expected or is_done
