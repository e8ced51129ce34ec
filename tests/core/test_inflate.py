"""Content decoding: any chunks and any order of codings, bounded chunks of output, and errors for corrupt data."""

from __future__ import annotations

import gzip
import itertools
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import HTTPRequest, HTTPResponse, Limits, Outcome, SSEOxyGent, Timeouts, errors
from oxygent_client._core.bodies import decompressed, read_all
from oxygent_client._core.decompression import STEP, Decompressor, content_codings
from oxygent_client.testing import FakeTransport, Pause, Reply, answer, close, progress
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

URL: Final = "https://remote.test"
PLAIN: Final = progress("é") + answer("42") + close()


def raw(data: bytes) -> bytes:
    """Return raw deflate, without the zlib header, as some servers send it."""
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return squeeze.compress(data) + squeeze.flush()


CODERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "raw deflate": raw,
    "identity": bytes,
}


def coded(names: Sequence[str], data: bytes) -> bytes:
    """Return `data` with these codings, the first one first."""
    for name in names:
        data = CODERS[name](data)
    return data


def header(names: Sequence[str]) -> str:
    """Return the header for these codings."""
    return ", ".join("deflate" if name == "raw deflate" else name for name in names)


def undone(value: str, pieces: Iterable[bytes]) -> bytes:
    """Return the decoded bytes of `pieces`."""
    inflater = Decompressor(content_codings({"content-encoding": value}))
    made = b"".join(b"".join(inflater.feed(piece)) for piece in pieces)
    inflater.end()
    return made


CODINGS: Final = [
    ["gzip"],
    ["x-gzip"],
    ["deflate"],
    ["raw deflate"],
    ["identity"],
    ["gzip", "gzip"],
    ["deflate", "gzip"],
    ["gzip", "identity", "raw deflate", "deflate"],
]


@pytest.mark.parametrize("names", CODINGS, ids=", ".join)
@pytest.mark.parametrize("size", [1, 2, 7, 1_000_000])
def test_codings(names: list[str], size: int) -> None:
    """Each coding is decoded, alone and combined, for any chunks."""
    body = coded(names, PLAIN)
    assert undone(header(names), [body[at : at + size] for at in range(0, len(body), size)]) == PLAIN


@given(st.lists(st.sampled_from([*CODERS]), max_size=4), st.binary(max_size=500), st.lists(st.integers(0, 2000)))
def test_any_cut(names: list[str], data: bytes, cuts: list[int]) -> None:
    """The decoded bytes do not depend on the chunks."""
    body = coded(names, data)
    at = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    assert undone(header(names), [body[a:b] for a, b in itertools.pairwise(at)]) == data


VALUES: Final = {
    # the header: the codings
    "": (),
    "identity": (),
    ",": (),
    "GZIP": ("gzip",),
    " gzip ,": ("gzip",),
    "X-Gzip, Deflate": ("gzip", "deflate"),
    "gzip, identity, gzip": ("gzip", "gzip"),
}


@pytest.mark.parametrize(("value", "expected"), VALUES.items())
def test_content_encoding(value: str, expected: tuple[str, ...]) -> None:
    """Codings are case-insensitive, and lists may have empty items."""
    assert content_codings({"content-encoding": value}) == expected


@pytest.mark.parametrize("value", ["br", "zstd", "gzip, br", "compress", "gzip;q=1", "gzip, " * 5, "\x1b[2J" * 50])
def test_unknown_codings(value: str) -> None:
    """An unknown coding, and too many, raise an error that is safe to show."""
    with pytest.raises(errors.RemoteProtocolError) as caught:
        content_codings({"content-encoding": value})
    assert len(str(caught.value)) < 200
    assert "\x1b" not in str(caught.value)


MEMBERS: Final = {
    "two": gzip.compress(b"a") + gzip.compress(b"b"),
    "padded": gzip.compress(b"ab") + bytes(100),
    "padded between": gzip.compress(b"a") + bytes(10) + gzip.compress(b"b"),
    "an empty one": gzip.compress(b"") + gzip.compress(b"ab") + gzip.compress(b""),
    "many": b"".join(gzip.compress(b"ab"[number : number + 1]) for number in range(2000)),
}


@pytest.mark.parametrize("body", MEMBERS.values(), ids=MEMBERS)
@pytest.mark.parametrize("size", [1, 1_000_000])
def test_members(body: bytes, size: int) -> None:
    """Several gzip members are one body: some servers compress each event by itself."""
    assert undone("gzip", [body[at : at + size] for at in range(0, len(body), size)]) == b"ab"


CORRUPT: Final = {
    # name: (the coding, the bytes)
    "text": ("gzip", b"data: 1\n\n"),
    "text as deflate": ("deflate", b"data: 1\n\n"),
    "after gzip": ("gzip", gzip.compress(b"a") + b"data: 1\n\n"),
    "after deflate": ("deflate", zlib.compress(b"a") + b"\r\n"),
    "a wrong checksum": ("gzip", gzip.compress(b"a")[:-5] + b"12345"),
    "a wrong checksum of zlib": ("deflate", zlib.compress(b"a")[:-1] + b"x"),
    "a byte in the middle": ("gzip", gzip.compress(PLAIN)[:30] + b"\xff\xff\xff\xff" + gzip.compress(PLAIN)[34:]),
    "once instead of twice": ("gzip, gzip", gzip.compress(PLAIN)),
}


@pytest.mark.parametrize(("value", "body"), CORRUPT.values(), ids=CORRUPT)
@pytest.mark.parametrize("size", [1, 1000])
def test_corrupt(value: str, body: bytes, size: int) -> None:
    """Corrupt data raises an error, in any chunk."""
    with pytest.raises(errors.RemoteProtocolError):
        undone(value, [body[at : at + size] for at in range(0, len(body), size)])


@pytest.mark.parametrize("names", CODINGS[:4], ids=", ".join)
def test_truncated(names: list[str]) -> None:
    """A truncated body raises an error at any place; an empty body is empty."""
    body = coded(names, PLAIN)
    for size in range(1, len(body)):
        with pytest.raises(errors.RemoteProtocolError, match="incomplete"):
            undone(header(names), [body[:size]])
    assert undone(header(names), []) == b""


@pytest.mark.parametrize("names", CODINGS[:4], ids=", ".join)
def test_flushed_data(names: list[str]) -> None:
    """Flushed data is decoded at once."""
    bits = {"deflate": zlib.MAX_WBITS, "raw deflate": -zlib.MAX_WBITS}.get(names[0], 16 + zlib.MAX_WBITS)
    squeeze = zlib.compressobj(wbits=bits)
    inflater = Decompressor(content_codings({"content-encoding": header(names)}))
    for number in range(100):
        sent = b"data: %d\n\n" % number
        piece = squeeze.compress(sent) + squeeze.flush(zlib.Z_SYNC_FLUSH)
        assert b"".join(inflater.feed(piece)) == sent


@pytest.mark.parametrize("times", [1, 2, 3])
def test_chunks_are_bounded(times: int) -> None:
    """A compression bomb is decoded in small chunks, each on demand."""
    bomb = coded(["gzip"] * times, bytes(64 * 1024 * 1024))
    tracemalloc.start()
    pieces = Decompressor(("gzip",) * times).feed(bomb)
    largest = sum(len(next(pieces)) for _ in range(100)) / 100
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest <= STEP
    assert peak < 2 * 1024 * 1024


# --------------------------------------------------------------------------------------------------- Runs and documents

REQUEST: Final = HTTPRequest("GET", URL, "/x", {})


class Chunks:
    """Chunks of a body that are ready."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = iter(pieces)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


async def test_cancellation_without_output() -> None:
    """Decoding that gives no output can be cancelled."""
    empty = gzip.compress(b"") * 200
    response = HTTPResponse(200, {"content-encoding": "gzip"}, Chunks(*[empty] * 50), REQUEST)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancels, scope)
            await read_all(decompressed(response), 1)
    assert scope.cancelled_caught


async def _cancels(scope: Any) -> None:
    scope.cancel()


def agent_of(reply: Reply, **options: Any) -> SSEOxyGent:
    """Return an agent with this reply."""
    transport = FakeTransport({"/sse/chat": reply})
    return SSEOxyGent(server_url=URL, transport=transport, timeouts=Timeouts(lookup=None, idle=50), **options)


def packed(names: Sequence[str], *steps: Any) -> Reply:
    """Return a compressed stream of events."""
    return Reply(steps, headers={"content-type": "text/event-stream", "content-encoding": header(names)})


@pytest.mark.parametrize("names", CODINGS, ids=", ".join)
async def test_a_run(names: list[str]) -> None:
    """A compressed event stream is decoded."""
    body = coded(names, PLAIN)
    run = await agent_of(packed(names, *[body[at : at + 5] for at in range(0, len(body), 5)])).ask("hi")
    assert run.output == "42"


async def test_flushed_events() -> None:
    """A flushed event is received before the next one is sent."""
    squeeze = zlib.compressobj(wbits=31)
    first = squeeze.compress(progress(1)) + squeeze.flush(zlib.Z_SYNC_FLUSH)
    rest = squeeze.compress(answer(2) + close()) + squeeze.flush()
    async with agent_of(packed(["gzip"], first, Pause(1000), rest)).stream("hi") as run:
        event = await anext(run)
    assert event.content == 1


BROKEN: Final = {
    "truncated": (gzip.compress(progress(1) + answer(2))[:-4], errors.IncompleteStreamError),
    "corrupt": (gzip.compress(progress(1) + answer(2)) + b"data: 3\n\n", errors.IncompleteStreamError),
    "whole, without its close": (gzip.compress(progress(1) + answer(2)), errors.IncompleteStreamError),
}


@pytest.mark.parametrize(("body", "cls"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_stream(body: bytes, cls: type[errors.OxyError]) -> None:
    """The events before corrupt data are kept."""
    with pytest.raises(cls) as caught:
        await agent_of(packed(["gzip"], body)).ask("hi")
    assert caught.value.outcome is Outcome.STARTED
    assert caught.value.partial is not None
    assert [event.content for event in caught.value.partial.events] == [1, 2]


@pytest.mark.parametrize("limit", ["event_bytes", "stream_bytes", "line_bytes"])
async def test_a_bomb(limit: str) -> None:
    """Limits count decompressed bytes."""
    limits = Limits(**{limit: 100_000})
    body = gzip.compress(progress(1) + b"data: " + bytes(10_000_000))
    with pytest.raises(errors.TooLargeError, match=limit):
        await agent_of(packed(["gzip"], body), limits=limits).ask("hi")


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, br"])
async def test_a_run_with_an_unknown_coding(coding: str) -> None:
    """An unknown coding raises an error with outcome STARTED."""
    reply = Reply([b"x"], headers={"content-type": "text/event-stream", "content-encoding": coding})
    with pytest.raises(errors.NotAnEventStreamError, match="the run has started") as caught:
        await agent_of(reply).ask("hi")
    assert caught.value.outcome is Outcome.STARTED


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw deflate"])
async def test_the_body_of_an_error(coding: str) -> None:
    """The compressed body of an error is read."""
    reply = Reply([coded([coding], b"model overloaded")], status=500, headers={"content-encoding": header([coding])})
    with pytest.raises(errors.ServerError) as caught:
        await agent_of(reply).ask("hi")
    assert caught.value.body == "model overloaded"


@pytest.mark.parametrize(("coding", "body"), [("gzip", b"plain"), ("br", b"\x8b\x02\x80")])
async def test_a_corrupt_body_of_an_error(coding: str, body: bytes) -> None:
    """If the body of an error is corrupt, its status is raised."""
    with pytest.raises(errors.ServerError) as caught:
        await agent_of(Reply([body], status=500, headers={"content-encoding": coding})).ask("hi")
    assert caught.value.body == ""


DOCUMENT: Final = b'{"code": 200, "data": {"organization": {"name": "n", "children": []}}}'
DOCUMENTS: Final[dict[str, tuple[str, bytes, type[errors.OxyError] | None]]] = {
    # name: (the coding, the bytes, the error)
    "gzip": ("gzip", gzip.compress(DOCUMENT), None),
    "deflate": ("deflate", raw(DOCUMENT), None),
    "truncated": ("gzip", gzip.compress(DOCUMENT)[:-1], errors.RemoteProtocolError),
    "corrupt": ("gzip", DOCUMENT, errors.RemoteProtocolError),
    "unknown": ("br", DOCUMENT, errors.RemoteProtocolError),
    "a bomb": ("gzip", gzip.compress(bytes(1_000_000)), errors.TooLargeError),
}


@pytest.mark.parametrize(("coding", "body", "cls"), DOCUMENTS.values(), ids=DOCUMENTS)
async def test_documents(coding: str, body: bytes, cls: type[errors.OxyError] | None) -> None:
    """A compressed document is decoded, or raises an error."""
    reply = Reply([body], headers={"content-encoding": coding, "content-type": "application/json"})
    transport = FakeTransport({"/get_organization": reply, "/get_description": Reply.json({"code": 200, "data": {}})})
    agent = SSEOxyGent(server_url=URL, transport=transport, limits=Limits(body_bytes=100_000))
    raised: type[BaseException] | None = None
    try:
        await agent.init()
    except errors.OxyError as error:
        raised = type(error)
    assert raised is cls
