"""The SSE decoder: the standard's events for any chunks, within the limits.

Rule 1: the oracle is `reference.py`, written from the standard; recordings of real servers are in `fixtures/wire`.
Rule 2: the cutting of a stream into chunks is a parameter, never an example.
Rule 3: each difference from another decoder has a name and a row.
"""

from __future__ import annotations

import base64
import itertools
import json
import pickle
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any, Final

import httpx
import httpx2
import pytest
from attrs import frozen
from httpx_sse import EventSource
from hypothesis import example, given
from hypothesis import strategies as st

from oxygent_client import Decoder, Limits, ServerSentEvent, errors
from tests.conftest import CONFORMANCE, WIRE
from tests.support.reference import Dispatched, Interpretation, interpret, passed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

KIB: Final = 1024
MIB: Final = 1024 * KIB
BOM: Final = b"\xef\xbb\xbf"

# ------------------------------------------------------------------------------------------------------ Ways of feeding


def whole(pieces: Sequence[bytes]) -> list[bytes]:
    """One chunk."""
    return [b"".join(pieces)]


def single(pieces: Sequence[bytes]) -> list[bytes]:
    """Chunks of one byte."""
    return [bytes([byte]) for byte in b"".join(pieces)]


def own(pieces: Sequence[bytes]) -> list[bytes]:
    """The given chunks."""
    return [*pieces]


def with_empty(pieces: Sequence[bytes]) -> list[bytes]:
    """The given chunks, with an empty chunk before, between and after them."""
    return [b"", *(part for piece in pieces for part in (piece, b""))]


def with_tail(pieces: Sequence[bytes]) -> list[bytes]:
    """Two chunks: all but the last byte, and the last byte."""
    stream = b"".join(pieces)
    return [stream[:-1], stream[-1:]]


WAYS: Final[list[Callable[[Sequence[bytes]], list[bytes]]]] = [whole, single, own, with_empty, with_tail]


def cut(stream: bytes, sizes: Sequence[int]) -> list[bytes]:
    """Return `stream` in chunks of these sizes, repeated; 0 gives an empty chunk."""
    pieces: list[bytes] = []
    turn = start = 0
    while start < len(stream):
        size = sizes[turn % len(sizes)] if any(sizes) else len(stream)
        pieces.append(stream[start : start + size])
        start, turn = start + size, turn + 1
    return pieces


SIZES: Final = st.lists(st.integers(0, 40), min_size=1, max_size=6)


def decoded(pieces: Iterable[bytes]) -> tuple[list[ServerSentEvent], Decoder]:
    """Return the events of these chunks, and the decoder."""
    decoder = Decoder()
    return [event for piece in pieces for event in decoder.feed(piece)], decoder


def interpretation(pieces: Iterable[bytes]) -> Interpretation:
    """Return the decoder's result in the form of the reference."""
    events, decoder = decoded(pieces)
    return Interpretation(
        [Dispatched(event.event, event.data, event.id, event.retry) for event in events],
        decoder.last_event_id,
        decoder.reconnection_time,
        decoder.comments,
        decoder.names_events,
    )


# -------------------------------------------------------------------------------------------------- Conformance cases


@frozen
class Case:
    """One case of `fixtures/conformance/cases.json`."""

    name: str
    pieces: list[bytes]
    events: list[ServerSentEvent]
    end_state: tuple[str, int | None]
    prompt: list[tuple[int, int]]
    content_type: str

    def __str__(self) -> str:
        return self.name


def read_case(row: dict[str, Any]) -> Case:
    """Return the case of a row."""
    return Case(
        row["name"],
        [base64.b64decode(piece) for piece in row["chunks_b64"]],
        [ServerSentEvent(**event) for event in row["expect"]],
        (row["end_state"]["last_event_id"], row["end_state"]["reconnection_time"]),
        [(lazy, eager) for lazy, eager in row["prompt"]],
        row.get("content_type", "text/event-stream"),
    )


CASES: Final = [read_case(row) for row in json.loads(CONFORMANCE.read_text(encoding="utf-8"))]
each_case: Final = pytest.mark.parametrize("case", CASES, ids=str)


@each_case
@pytest.mark.parametrize("way", WAYS)
def test_conformance(case: Case, way: Callable[[Sequence[bytes]], list[bytes]]) -> None:
    """Each case gives its events and its end state, for each way of feeding."""
    events, decoder = decoded(way(case.pieces))
    assert case.events == events
    assert case.end_state == (decoder.last_event_id, decoder.reconnection_time)


@each_case
def test_promptness(case: Case) -> None:
    """After each chunk, as many events are returned as the standard allows."""
    decoder = Decoder()
    out = [0]
    for piece in case.pieces:
        out.append(out[-1] + len(decoder.feed(piece)))
    assert [eager for _, eager in case.prompt] == out[1:]
    assert all(lazy <= eager for lazy, eager in case.prompt)


@each_case
def test_the_reference_conforms(case: Case) -> None:
    """The reference gives the events of each case."""
    found = interpret(b"".join(case.pieces))
    assert [Dispatched(event.event, event.data, event.id, event.retry) for event in case.events] == found.events
    assert case.end_state == (found.last_event_id, found.reconnection_time)


def test_charset_is_ignored() -> None:
    """Cases with another charset are decoded as UTF-8: the decoder ignores the charset."""
    foreign = [case.name for case in CASES if "charset" in case.content_type and "utf-8" not in case.content_type]
    assert foreign == ["wpt-format-utf-8"]


# ----------------------------------------------------------------------------------------------------------- Recordings

MANIFEST: Final[list[dict[str, Any]]] = json.loads((WIRE / "manifest.json").read_text(encoding="utf-8"))


def recorded_events(recording: dict[str, Any]) -> list[ServerSentEvent]:
    """Return the events of a recording as in the manifest; an id is valid until the next one."""
    events: list[ServerSentEvent] = []
    last_id = ""
    for block in recording["events"]:
        last_id = block.get("id", last_id)
        events.append(ServerSentEvent(block.get("event", "message"), block["data"], last_id, block.get("retry")))
    return events


RECORDINGS: Final = {
    recording["file"]: ((WIRE / recording["file"]).read_bytes(), recorded_events(recording)) for recording in MANIFEST
}
SMALL: Final = 4 * KIB
LARGE: Final = "(the longest, one after the other)"


def places(stream: bytes) -> list[int]:
    """Return where to cut a stream: everywhere if it is small, else within two bytes of each line end."""
    if len(stream) < SMALL:
        return [*range(len(stream) + 1)]
    ends = [index for index, byte in enumerate(stream) if byte in b"\r\n"]
    near = {end + distance for end in ends for distance in range(-2, 3)}
    return sorted(place for place in near if 0 <= place <= len(stream))


def test_every_recording_is_in_the_manifest() -> None:
    """The manifest has each recorded stream, with its bytes, events and comments."""
    assert {path.name for path in WIRE.glob("*.sse")} == set(RECORDINGS)
    for recording in MANIFEST:
        stream, events = RECORDINGS[recording["file"]]
        _, decoder = decoded([stream])
        said = (recording["bytes"], recording["n_events"], recording["n_comments"])
        assert (len(stream), len(events), decoder.comments) == said


@pytest.mark.parametrize("way", [whole, single, with_empty, with_tail])
@pytest.mark.parametrize("file", RECORDINGS)
def test_recordings(file: str, way: Callable[[Sequence[bytes]], list[bytes]]) -> None:
    """A recorded stream gives the events of the manifest."""
    stream, expected = RECORDINGS[file]
    assert decoded(way([stream]))[0] == expected


@pytest.mark.seconds
def test_recordings_cut_in_two(capsys: pytest.CaptureFixture[str]) -> None:
    """A recorded stream in two chunks gives the same events, wherever it is cut."""
    streams = dict(RECORDINGS)
    # No recording is large, so one is made of the three longest. Each block in them has an id of its own.
    longest = sorted(RECORDINGS.values(), key=lambda recorded: len(recorded[0]))[-3:]
    streams[LARGE] = (b"".join(stream for stream, _ in longest), [each for _, events in longest for each in events])
    pairs = 0
    for file, (stream, expected) in streams.items():
        for place in places(stream):
            decoder = Decoder()
            found = decoder.feed(stream[:place]) + decoder.feed(stream[place:])
            assert found == expected, f"{file} cut at {place}"
            pairs += 1
    # Counted in another way. Small: a place before each byte, and the end. Large: six around each CRLF (two before it,
    # two in it, two after it); lines of less than four bytes share some with the line before, and the last is beyond
    # the stream's end.
    small = sum(recording["bytes"] + 1 for recording in MANIFEST)
    large_places = sum(min(6, len(line) + 2) for line in streams[LARGE][0].split(b"\r\n")[:-1]) - 1
    assert small + large_places == pairs
    assert max(recording["bytes"] for recording in MANIFEST) < SMALL
    with capsys.disabled():
        sys.stdout.write(f"\n{pairs} pairs of a recording and a cut\n")


# ------------------------------------------------------------------------------------------------ The reference decoder

TOKENS: Final = (
    *(
        b"data",
        b"data:",
        b"data: ",
        b"event: ",
        b"event:\n",
        b"id: ",
        b"id\n",
        b"retry: ",
        b"retry:",
        b"Data: ",
        b"unknown: ",
    ),
    *(b"\n", b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b":", b": ping\n\n", b" ", b"\t"),
    *(b"0", b"7", b"3000", b"+5", b"\xd9\xa3", b"9" * 4300, b"9" * 4301, b"0" * 4301 + b"5"),
    *(
        b"x",
        b"close",
        b"done",
        b"\0",
        BOM,
        b"\xef",
        b"\xbb\xbf",
        b"\xe2\x80\xa8",
        b"\xc2\x85",
        b"\x0b",
        b"\x0c",
        b"\x1c",
    ),
    *(b"\xf0\x9f\x9a\x80", b"\xf0\x9f", b"\x80", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80"),
)
USUAL: Final = (
    *(b"data: x\n\n", b"data: x\r\n\r\n", b"data: \r\n\r\n", b"data: \xe2\x80\xa8\r\n\r\n", b"data: \xff\n\n"),
    *(b"id: 1\r\ndata: x\r\n\r\n", b"id: \r\ndata: x\n\n", b"id: 2\0\r\ndata: x\r\n\r\n", b"id: 3\r\n\r\n"),
    *(b"event: message\r\ndata: x\r\nretry: 3000\r\n\r\n", b"event: \ndata: x\n\n", b"event: x\n\n"),
    *(b"id: 4\r\nevent: close\r\ndata: done\r\nretry: 007\r\n\r\n", b"data: x\r\ndata: y\r\n\r\n"),
    *(b": ping\r\n\r\n", b":\n\n", b": ping\n", b"data:x\n\n", b"data: x\r\r", b"data: half"),
    *(b"data: x\nretry: 1234567890\n\n", b"retry: 5\n\n", b"\r\n", b"\n", b"\r", BOM),
)
"""Blocks as servers send them, and near misses."""
LONG: Final = (*(b"data: " + b"x" * 64 + end for end in (b"\n\n", b"\r\n\r\n")), b": " + b"x" * 64 + b"\r\n\r\n")
"""Blocks so long that the decoder looks for whole blocks in a piece that holds one."""
STREAMS: Final = st.one_of(
    st.lists(st.sampled_from(USUAL), max_size=12).map(b"".join),
    st.lists(st.sampled_from(USUAL + LONG), min_size=2, max_size=12).map(b"".join),
    st.lists(st.sampled_from(TOKENS), max_size=40).map(b"".join),
    st.tuples(
        st.sampled_from([b"", BOM, BOM + BOM, BOM[:2], BOM[:1]]), st.lists(st.sampled_from(TOKENS), max_size=12)
    ).map(lambda drawn: drawn[0] + b"".join(drawn[1])),
    st.binary(max_size=60),
)


@given(STREAMS, SIZES)
@example(b"id: 1\n\n: ping\n\ndata: x\n\n", [1])
@example(BOM + b"data: x\r\n\r\ndata: \xe2\x80\xa8\r\r", [2, 1])
@example(b"id: kept\ndata: x\n\nid: not yet\nretry: 5\n", [7])
@example(b"data: x\n\nevent: y\ndata: y\n\n: ping\n\ndata:z\n\ndata: z\n\n", [100])
@example(LONG[0] + b"event: y\ndata: y\n\n: ping\n\ndata: z\n\nid: 2\0\ndata: z\n\n", [100])
@example(LONG[0] + b"event: y\ndata: y\n\n: ping\n\ndata: z\n\ndata:z\n\ndata: z\n\n", [100])
@example(LONG[1] + b"data: y\ndata: z\r\n\r\n", [100])
@example(LONG[1] + b": ping\nid: 1\r\n\r\ndata: z\r\n\r\n", [100])
@example(LONG[1] + b"id: \xff\r\ndata: z\r\n\r\ndata: half", [100])
@example(LONG[1] + b"data: \xe2\x80\xa8\r\n\r\n", [len(LONG[1]) + 7])
@example(b"data: " + b"x" * 600 + b"\n: " + b"y" * 600 + b"\ndata: \xe2\x80\xa8" + b"z" * 600 + b"\n\n", [7])
def test_any_bytes(stream: bytes, sizes: list[int]) -> None:
    """Any bytes in any chunks give the reference's events, ids, reconnection time and comments."""
    assert interpret(stream) == interpretation(cut(stream, sizes)) == interpretation([stream])


@given(STREAMS, SIZES)
@example(b"data: x\n\nevent\ndata: y\n\nevent: z\ndata: z\n\ndata: x\n\n", [0])
def test_unnamed_events(stream: bytes, sizes: list[int]) -> None:
    """`unnamed_events` counts the events before the first block with a name."""
    slow, unnamed = Decoder(), 0
    for piece in single([stream]):
        events = slow.feed(piece)
        unnamed += 0 if slow.names_events else len(events)
    assert unnamed == slow.unnamed_events == decoded(cut(stream, sizes))[1].unnamed_events


def test_a_huge_chunk() -> None:
    """A chunk of many internal slices is decoded like small chunks, and a block may span slices."""
    stream = b"".join(b"data: %d\r\n\r\n" % number for number in range(20_000)) + b"data: " + b"x" * 200_000 + b"\n\n"
    expected = [ServerSentEvent(data=data) for data in [*map(str, range(20_000)), "x" * 200_000]]
    assert expected == decoded([stream])[0] == decoded(cut(stream, [1000, 7]))[0]


def test_events_and_errors_are_values() -> None:
    """Events pickle, and events of the same content are equal."""
    (event,), _ = decoded([b"id: 1\nevent: x\nretry: 5\ndata: y\n\n"])
    assert ServerSentEvent("x", "y", "1", 5) == event == pickle.loads(pickle.dumps(event))


# ------------------------------------------------------------------------------------------------------------ httpx-sse


def peer(stream: bytes, content_type: str = "text/event-stream") -> list[tuple[str, str, str, int | None]]:
    """Return the events of httpx-sse."""
    response = httpx.Response(200, headers={"content-type": content_type}, content=iter([stream]))
    return [(event.event, event.data, event.id, event.retry) for event in EventSource(response).iter_sse()]


def ours(stream: bytes) -> list[tuple[str, str, str, int | None]]:
    """Return the events of our decoder."""
    return [(event.event, event.data, event.id, event.retry) for event in decoded([stream])[0]]


PLAIN: Final = "text/event-stream"
DIFFERENCES: Final[dict[str, tuple[bytes, str, list[str], list[str]]]] = {
    # name: (stream, Content-Type, our data, the data of httpx-sse)
    "after one id, each heartbeat is an empty event": (
        b"id: 1\ndata: x\n\n: ping\n\n: ping\n\n",
        PLAIN,
        ["x"],
        ["x", "", ""],
    ),
    "a name without data is an empty event": (b"event: x\n\n", PLAIN, [], [""]),
    "a retry without data is an empty event": (b"retry: 5\n\n", PLAIN, [], [""]),
    "a byte order mark eats the first field": (BOM + b"data: x\n\ndata: y\n\n", PLAIN, ["x", "y"], ["y"]),
    "the charset is obeyed": (b"data: \xc3\xbc\n\n", f"{PLAIN}; charset=windows-1252", ["\xfc"], ["\xc3\xbc"]),
}
RETRIES: Final[dict[str, tuple[bytes, int | None, int | None]]] = {
    # name: (the field's value, our retry, the retry of httpx-sse)
    "a sign": (b"+5", None, 5),
    "less than nothing": (b"-5", None, -5),
    "an underscore": (b"1_000", None, 1000),
    "space around": (b" 5 ", None, 5),
    "digits of other scripts": ("\u0663".encode(), None, 3),
    "thousands of zeros in front": (b"0" * 4301 + b"5", 5, None),
}


@pytest.mark.parametrize(("stream", "content_type", "expected", "theirs"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_known_differences(stream: bytes, content_type: str, expected: list[str], theirs: list[str]) -> None:
    """Each difference from the events of httpx-sse has a name."""
    assert expected == [data for _, data, _, _ in ours(stream)] == [event.data for event in interpret(stream).events]
    assert [data for _, data, _, _ in peer(stream, content_type)] == theirs


@pytest.mark.parametrize(("value", "expected", "theirs"), RETRIES.values(), ids=RETRIES)
def test_known_differences_of_retry(value: bytes, expected: int | None, theirs: int | None) -> None:
    """httpx-sse reads `retry:` by `int()`, which accepts more than the standard."""
    stream = b"data: x\nretry: " + value + b"\n\n"
    assert ours(stream) == [("message", "x", "", expected)]
    assert peer(stream) == [("message", "x", "", theirs)]


def test_a_known_difference_of_size() -> None:
    """httpx-sse does not bound a line; our decoder does."""
    stream = b"data: " + b"x" * MIB + b"\n\n"
    assert [len(data) for _, data, _, _ in peer(stream)] == [MIB]
    with pytest.raises(errors.TooLargeError):
        Decoder(Limits(line_bytes=MIB)).feed(stream)


SEPARATORS: Final = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"
# Older releases of httpx-sse (0.4.0 does) end a line at these too, which no generated stream can then hold.
ALSO_ENDS: Final = "" if peer(f"data: {SEPARATORS}\n\n".encode())[0][1] == SEPARATORS else SEPARATORS
LINE: Final = st.text(st.characters(exclude_characters="\r\n" + ALSO_ENDS, exclude_categories=["Cs"]), max_size=12)
FIELDS: Final = st.one_of(
    LINE.map("data: {}".format),
    LINE.map("data:{}".format),
    LINE.map(":{}".format),
    LINE.map("event: {}".format),
    LINE.map("id: {}".format),
    LINE.map("unknown: {}".format),
    st.integers(0, 10**12).map("retry: {}".format),
    st.sampled_from(["data", "id", "event", "retry", "retry: soon", "retry: ", "unknown"]),
)
ENDS: Final = st.sampled_from(["\n", "\r", "\r\n"])


@st.composite
def well_behaved_streams(draw: st.DrawFn) -> bytes:
    """Streams without the known differences: each block has data, and there is no byte order mark."""
    text = ""
    for _ in range(draw(st.integers(0, 5))):
        fields = draw(st.lists(FIELDS, max_size=5))
        fields.insert(draw(st.integers(0, len(fields))), "data: " + draw(LINE))
        end = draw(ENDS)
        text += end.join([*fields, "", ""])
    return text.encode()


@given(well_behaved_streams(), SIZES)
def test_agreement_with_httpx_sse(stream: bytes, sizes: list[int]) -> None:
    """Without the known differences, httpx-sse gives our events."""
    assert peer(stream) == ours(stream) == [(e.event, e.data, e.id, e.retry) for e in decoded(cut(stream, sizes))[0]]


# --------------------------------------------------------------------------------------------------------------- httpx2


def peer2(pieces: Iterable[bytes], content_type: str = PLAIN) -> Iterator[tuple[str, str, str, int | None]]:
    """Yield the events of httpx2."""
    request = httpx2.Request("GET", "http://peer.test")  # its decoder names the request in an error
    response = httpx2.Response(200, headers={"content-type": content_type}, content=iter(pieces), request=request)
    for event in httpx2.EventSource(response):
        yield event.event, event.data, event.id, event.retry


DIFFERENCES2: Final[dict[str, tuple[bytes, str, list[str], list[str]]]] = {
    # name: (stream, Content-Type, our data, the data of httpx2)
    "an id without data is an empty event": (b"id: 1\n\n: ping\n\n", PLAIN, [], [""]),
    "a name without data is an empty event": (b"event: x\n\n", PLAIN, [], [""]),
    "a retry without data is an empty event": (b"retry: 5\n\n", PLAIN, [], [""]),
    "a byte order mark eats the first field": (BOM + b"data: x\n\ndata: y\n\n", PLAIN, ["x", "y"], ["y"]),
    "a CR at the very end is a blank line too": (b"data: cut in its CRL\r", PLAIN, [], ["cut in its CRL"]),
    "the charset is obeyed": (b"data: \xc3\xbc\n\n", f"{PLAIN}; charset=windows-1252", ["\xfc"], ["\xc3\xbc"]),
}


@pytest.mark.parametrize(("stream", "content_type", "expected", "theirs"), DIFFERENCES2.values(), ids=DIFFERENCES2)
def test_known_differences_from_httpx2(
    stream: bytes, content_type: str, expected: list[str], theirs: list[str]
) -> None:
    """Each difference from the events of httpx2 has a name."""
    assert expected == [data for _, data, _, _ in ours(stream)] == [event.data for event in interpret(stream).events]
    assert [data for _, data, _, _ in peer2([stream], content_type)] == theirs


@pytest.mark.parametrize(("value", "expected", "theirs"), RETRIES.values(), ids=RETRIES)
def test_known_differences_of_retry_from_httpx2(value: bytes, expected: int | None, theirs: int | None) -> None:
    """httpx2 reads `retry:` by `int()` too."""
    stream = b"data: x\nretry: " + value + b"\n\n"
    assert ours(stream) == [("message", "x", "", expected)]
    assert [*peer2([stream])] == [("message", "x", "", theirs)]


SIZES2: Final[dict[str, tuple[bytes, bool, bool]]] = {
    # name: (stream, whether we refuse it under event_bytes=1 MiB, whether httpx2 does, whose default that is)
    "a line": (b"data: " + b"x" * MIB + b"\n\n", True, True),
    "comments": ((b":" + b"x" * (64 * KIB) + b"\n") * 17 + b"data: x\n\n", True, False),
    "line ends": (b"data\n" * (MIB // 5) + b"data\n\n", True, False),
}


@pytest.mark.parametrize(("stream", "we_refuse", "it_refuses"), SIZES2.values(), ids=SIZES2)
def test_known_differences_of_size_from_httpx2(stream: bytes, we_refuse: bool, it_refuses: bool) -> None:
    """httpx2 bounds an event without counting comments and line ends."""

    def refuses(read: Callable[[], object], error: type[Exception]) -> bool:
        try:
            read()
        except error:
            return True
        return False

    pieces = cut(stream, [64 * KIB])
    decoder = Decoder(Limits(event_bytes=MIB))
    assert refuses(lambda: [decoder.feed(piece) for piece in pieces], errors.TooLargeError) == we_refuse
    assert refuses(lambda: [*peer2(pieces)], httpx2.SSEError) == it_refuses


def test_a_known_difference_of_promptness_from_httpx2() -> None:
    """httpx2 holds a CR until the next byte; our event is returned with the CR of its blank line."""
    given_out: list[bytes] = []

    def pieces() -> Iterator[bytes]:
        for piece in (b"data: x\r\n\r", b"\n: ping"):
            given_out.append(piece)
            yield piece

    assert Decoder().feed(next(pieces())) == [ServerSentEvent(data="x")]
    given_out.clear()
    assert next(peer2(pieces())) == ("message", "x", "", None)
    assert given_out == [b"data: x\r\n\r", b"\n: ping"]


@given(well_behaved_streams(), SIZES)
def test_agreement_with_httpx2(stream: bytes, sizes: list[int]) -> None:
    """Without the known differences, httpx2 gives our events."""
    assert ours(stream) == [*peer2([stream])] == [*peer2(cut(stream, sizes))]


# ------------------------------------------------------------------------------------------------------------- Limits


def fed(pieces: Iterable[bytes], limits: Limits) -> tuple[str, list[ServerSentEvent]]:
    """Return the error's text under these limits, and all events before it."""
    decoder = Decoder(limits)
    events: list[ServerSentEvent] = []
    for piece in pieces:
        try:
            events += decoder.feed(piece)
        except errors.TooLargeError as error:
            return str(error), [*events, *error.events]
    return "", events


# 40 bytes, with line ends (each counts as one, a CRLF too) and without the blank line.
BLOCKS: Final = {
    "one line": b"data: " + b"x" * 33 + b"\n",
    "one line, CRLF": b"data: " + b"x" * 33 + b"\r\n",
    "many lines": b"data: x\r\n" * 5,
    "lines without a value": b"data\n" * 8,
    "a comment": b":" + b"x" * 38 + b"\n",
    "comments": b": ping\r" * 5 + b": pin",
    "an unknown field": b"what: " + b"x" * 33 + b"\n",
    "a field without a colon": b"w" * 39 + b"\n",
    "a name": b"event: " + b"x" * 32 + b"\n",
    "an id": b"id: " + b"x" * 35 + b"\n",
    "a retry": b"retry: " + b"5" * 32 + b"\n",
    "of all kinds": b":12345678\ndata: x\nid: 12345\nwhat: ever!\n",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_event_bytes(block: bytes, way: Callable[[Sequence[bytes]], list[bytes]]) -> None:
    """Each byte of a block counts: the limit is allowed, one byte more is not."""
    stream = b"data: before\n\n" + block
    if block.endswith((b"\n", b"\r")):
        stream += b"\ndata: after\n\n"
    first = ServerSentEvent(data="before")
    said, events = fed(way([stream]), Limits(event_bytes=40))
    assert said == ""
    assert events[0] == first
    assert events[-1].data == ("after" if stream.endswith(b"after\n\n") else "before")
    said, events = fed(way([stream]), Limits(event_bytes=39))
    assert said == "an event is larger than Limits.event_bytes (39)"
    assert events == [first]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("start", [b"data: ", b":", b"what: ", b"what", b"id: ", BOM + b"data: "])
def test_line_bytes(start: bytes, way: Callable[[Sequence[bytes]], list[bytes]]) -> None:
    """The bytes of a line count without its end and without a byte order mark."""
    line = start.ljust(23 if start.startswith(BOM) else 20, b"x")
    stream = line + b"\r\n\r\ndata:y\n\n"
    assert ("", decoded([stream])[0]) == fed(way([stream]), Limits(line_bytes=20))
    assert fed(way([stream]), Limits(line_bytes=19)) == ("a line is longer than Limits.line_bytes (19)", [])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tail", [b"", b"data: x", b": ping\n\n", b"\r\n" * 5, b"data: y\r\n\r"])
def test_stream_bytes(tail: bytes, way: Callable[[Sequence[bytes]], list[bytes]]) -> None:
    """Each byte of a stream counts, with blank lines and the byte order mark; events before the limit are kept."""
    stream = BOM + b"data: x\n\n" + tail
    events = decoded([stream])[0]
    assert fed(way([stream]), Limits(stream_bytes=len(stream))) == ("", events)
    said = f"the stream is larger than Limits.stream_bytes ({len(stream)})"
    assert fed(way([stream, b"data: z\n\n"]), Limits(stream_bytes=len(stream))) == (said, events)


MAYBE: Final = st.one_of(st.none(), st.integers(1, 60))


@given(STREAMS, SIZES, MAYBE, MAYBE, MAYBE)
@example(b"\xef\xbbdata", [1], 5, 5, None)
@example(b"data: x\r\n\r\ndata", [9, 1], None, None, 9)
@example(b"data:12345\n\n", [1], 10, 10, None)
@example(b":1\ndata:12345\n\n", [1], 10, 12, 12)
@example(BOM + b":\n\n", [2, 1, 1], 1, 1, None)
def test_limits_do_not_depend_on_chunks(
    stream: bytes, sizes: list[int], line: int | None, event: int | None, all_: int | None
) -> None:
    """A stream passes the same limit, after the same events, however it is cut."""
    limits = Limits(line_bytes=line, event_bytes=event, stream_bytes=all_)
    said, events = fed([stream], limits)
    assert (said, events) == fed(cut(stream, sizes), limits) == fed(single([stream]), limits)
    if line is None and event is None and all_ is None:
        assert said == ""


@given(STREAMS, MAYBE, MAYBE, MAYBE)
@example(BOM + b":\n\n", 1, 1, None)
@example(BOM + b"ab\n\n", 1, None, None)
def test_limits_of_the_reference(stream: bytes, line: int | None, event: int | None, all_: int | None) -> None:
    """The limit is passed at the reference's byte, after the reference's events."""
    if BOM.startswith(stream[:2]) and not stream.startswith(BOM):
        stream = b"\n" + stream  # half a byte order mark at the end counts for nothing: it is no line yet
    limits = Limits(line_bytes=line, event_bytes=event, stream_bytes=all_)
    found = passed(stream, limits)
    name, length = ("", len(stream)) if found is None else found
    said, events = fed([stream], limits)
    assert name in said
    assert bool(name) == bool(said)
    assert [event.data for event in interpret(stream[:length]).events] == [event.data for event in events]


@pytest.mark.parametrize("piece", [b"", b"\n\n", b"data: y\n\n"], ids=["empty", "blank lines", "an event"])
def test_a_failed_decoder_stays_failed(piece: bytes) -> None:
    """After a limit was passed each call raises the same error, even for an empty chunk."""
    decoder = Decoder(Limits(event_bytes=10))
    with pytest.raises(errors.TooLargeError) as first:
        decoder.feed(b"data: x\n\ndata: 12345\n\n")
    assert first.value.events == (ServerSentEvent(data="x"),)
    with pytest.raises(errors.TooLargeError) as again:
        decoder.feed(piece)
    assert again.value is first.value


# -------------------------------------------------------------------------------------------------------------- Memory

PIECE: Final = 64 * KIB
ENDLESS: Final = {
    # name: (the limit, the first bytes, the chunk that is repeated); many objects are slow to trace
    "a line": (16 * MIB, b"data: ", b"x" * PIECE),
    "an event of lines": (16 * MIB, b"", b"data: " + b"x" * (PIECE - 7) + b"\n"),
    "an event of small lines": (MIB, b"", b"data: x\n" * (PIECE // 8)),
    "an event of empty lines": (MIB, b"", b"data\n" * (PIECE // 5)),
    "a comment": (16 * MIB, b": ", b"x" * PIECE),
    "comments": (MIB, b"", b": ping\n" * (PIECE // 7)),
    "an unknown field": (16 * MIB, b"what: ", b"x" * PIECE),
    "a name": (16 * MIB, b"event: ", b"x" * PIECE),
    "a byte order mark and then a line": (16 * MIB, BOM, b"x" * PIECE),
}


def traced(work: Callable[[], object]) -> int:
    """Return the greatest growth of traced memory during `work`."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        work()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - before


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "start", "piece"), ENDLESS.values(), ids=ENDLESS)
def test_memory(limit: int, start: bytes, piece: bytes) -> None:
    """An endless line, event or stream is refused at the limit, and costs no more memory than that and 16 MiB."""
    decoder = Decoder(Limits(event_bytes=limit))

    def feed_endlessly() -> None:
        decoder.feed(start)
        with pytest.raises(errors.TooLargeError):
            for _ in range(2 * limit // len(piece)):
                assert decoder.feed(piece) == []

    grown = traced(feed_endlessly)
    assert grown < limit + 16 * MIB
    assert grown < 1.25 * limit + 2 * MIB


@pytest.mark.parametrize("piece", [b"x" * PIECE, b"\ndata: " + b"x" * PIECE], ids=["a line", "an event"])
def test_memory_after_a_failure(piece: bytes) -> None:
    """The error does not keep the refused data, even through the decoder."""
    kept: list[errors.TooLargeError] = []

    def fail() -> int:
        with pytest.raises(errors.TooLargeError) as caught:
            decoded(itertools.chain([b"data: "], itertools.repeat(piece)))
        kept.append(caught.value)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        after_one, after_four = fail(), [fail() for _ in range(3)][-1]
    finally:
        tracemalloc.stop()
    assert len(kept) == 4
    assert after_four - after_one < MIB


@pytest.mark.parametrize("piece", [b": ping\r\n\r\n", b"id: 1\ndata: x\n\n", b"\n"])
def test_memory_of_a_long_stream(piece: bytes) -> None:
    """Decoded events are not kept: a stream of many small blocks costs the memory of one."""
    decoder = Decoder(Limits(stream_bytes=None))
    many = piece * (PIECE // len(piece))

    once = traced(lambda: decoder.feed(many))
    for _ in range(3):
        assert traced(lambda: decoder.feed(many)) < once + KIB
