"""The fault library: each fault ends as in the table, on each transport in memory, in virtual time.

Rule 1: the result of a run with a fault is a line of tests/support/fault_cases.py; tests over sockets are in
    tests/testing/test_faults_loopback.py.
Rule 2: the change of a fault to a body is a plain generator, tested as one.
"""

from __future__ import annotations

import gzip
import math
import pickle
import zlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from oxygent_client import HTTPRequest, SSEOxyGent, Timeouts, errors
from oxygent_client.testing import (
    Cassette,
    FakeTransport,
    Pause,
    RecordingTransport,
    ReplayTransport,
    Reply,
    ToyRemote,
    answer,
    close,
    faults,
    heartbeat,
    progress,
)
from oxygent_client.testing.faults import Fault, Faulty
from oxygent_client.transports import Context
from oxygent_client.transports.asgi import ASGITransport
from tests.support.fault_cases import CASES, PAGE, QUERY, Case, allowed, expected, page, play
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from oxygent_client import HTTPResponse, Transport

URL: Final = "http://remote.test"
REQUEST: Final = HTTPRequest("POST", URL, "/sse/chat", {}, b"{}")


async def recorded() -> Cassette:
    """A recorded run of the toy remote."""
    cassette = Cassette()
    recording = RecordingTransport(ASGITransport(ToyRemote(pace=0)), cassette)
    await SSEOxyGent(server_url=URL, transport=recording).ask(QUERY)
    return cassette


async def in_process() -> Transport:
    """Return the toy remote in this process."""
    return ASGITransport(ToyRemote(pace=0))


async def scripted() -> Transport:
    """Return the toy remote's events as a script, without the run's id, since it is used for another run."""
    (entry,) = (await recorded()).entries
    named, other = b'"current_trace_id"', b'"another_trace_id"'
    return FakeTransport.script(*(piece.data.replace(named, other) for piece in entry.pieces))


async def replayed() -> Transport:
    """Return the toy remote's events from a cassette."""
    return ReplayTransport(await recorded())


TRANSPORTS: Final[dict[str, Callable[[], Any]]] = {"fake": scripted, "asgi": in_process, "cassette": replayed}


# ---------------------------------------------------------------------------------------------------------------- Table


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_each_fault(case: Case, transport: str) -> None:
    """The error, outcome, partial result, attempts and duration of each fault are those of the table."""
    ended, seconds = await play(case, await TRANSPORTS[transport](), URL)
    assert expected(case) == ended
    least, most = allowed(case, Timeouts())
    assert least <= seconds <= most


def test_the_page_has_the_table() -> None:
    """docs/faults.md is the output of `python -m tests.support.fault_cases`."""
    assert page() == PAGE.read_text(encoding="utf-8")


def test_each_fault_is_in_the_table() -> None:
    """Each fault of the library has a line in the table."""
    functions = {name for name in faults.__all__ if name.islower()}
    assert {case.name.partition("(")[0] for case in CASES} == functions
    assert all(case.happens.endswith(".") for case in CASES)


# --------------------------------------------------------------------------------------------------- Affected exchanges


async def pieces_of(transport: Transport, request: HTTPRequest = REQUEST) -> list[bytes]:
    """Return the chunks of an exchange."""
    async with transport.exchange(request) as response:
        return [piece async for piece in response.chunks]


def asking(purpose: Any) -> HTTPRequest:
    """Return a request with this purpose."""
    return HTTPRequest("GET", URL, "/sse/chat", context=Context(purpose=purpose))


AFFECTED: Final[dict[str, tuple[list[bool], list[str], dict[str, Any]]]] = {
    # case: (which of the exchanges are affected, their purposes, the options of the fault)
    "defaults": ([True, True, False, False, False], ["run", "attach", "discover", "feedback", "health"], {}),
    "purposes": ([False, True, True], ["run", "discover", "health"], {"purposes": ("discover", "health")}),
    "once": ([True, False, False, False], ["run", "discover", "run", "attach"], {"times": 1}),
    "twice": ([True, False, True, False], ["run", "discover", "run", "run"], {"times": 2}),
    "never": ([False], ["run"], {"times": 0}),
}


@pytest.mark.parametrize(("affected", "purposes", "options"), AFFECTED.values(), ids=AFFECTED)
async def test_purposes_and_times(affected: list[bool], purposes: list[str], options: dict[str, Any]) -> None:
    """A fault affects runs and attachments, or other purposes if set, as often as set."""
    faulty = faults.empty_body(FakeTransport.script(b"x"), **options)
    assert [await pieces_of(faulty, asking(purpose)) == [] for purpose in purposes] == affected
    assert faulty.struck == sum(affected)


@pytest.mark.parametrize(("options", "calls"), [({}, 1), ({"times": 2}, 2)], ids=["default", "twice"])
async def test_refuse(options: dict[str, Any], calls: int) -> None:
    """`refuse` affects one connection unless more are set, and nothing is sent."""
    fake = FakeTransport.script(b"x")
    faulty = faults.refuse(fake, **options)
    raised: list[errors.ConnectError] = []
    for _ in range(calls):
        with pytest.raises(errors.ConnectError) as caught:
            await pieces_of(faulty)
        raised.append(caught.value)
    assert [error.outcome for error in raised] == [errors.Outcome.NOT_SENT] * calls
    assert len(set(map(id, raised))) == calls, "an error is raised once: a run writes into it"
    assert fake.requests == []
    assert await pieces_of(faulty) == [b"x"]


async def test_the_wrapped_transport() -> None:
    """The wrapped transport gets the request, an error of the block is raised unchanged, and `aclose` closes it."""
    fake = FakeTransport.script(b"one", b"two")
    faulty = faults.split_every(fake, 1)
    error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError) as caught:
        async with faulty.exchange(REQUEST) as response:
            assert REQUEST is response.request is fake.requests[0]
            raise error
    assert caught.value is error
    assert fake.left == [REQUEST]
    await faulty.aclose()
    assert fake.closed


async def test_a_cancelled_wait() -> None:
    """After a cancelled wait, waiting again neither loses a chunk nor ends a hang."""
    gate = anyio.Event()

    def body() -> faults.Body:
        yield gate.wait
        piece = yield faults.MORE
        yield (piece or b"").upper()
        yield b""
        yield Pause(math.inf)

    fake = FakeTransport.script(Pause(10), b"x")
    async with Faulty(fake, Fault(name="mine", body=body)).exchange(REQUEST) as response:
        for seconds in (5, 5):
            with anyio.move_on_after(seconds) as scope:
                await anext(response.chunks)
            assert scope.cancelled_caught
        gate.set()
        began = anyio.current_time()
        assert await anext(response.chunks) == b"X"
        assert anyio.current_time() - began == pytest.approx(10)
        for _ in range(2):
            with anyio.move_on_after(1000) as scope:
                await anext(response.chunks)
            assert scope.cancelled_caught


async def test_nested_faults() -> None:
    """A fault is a transport, so faults can be nested."""
    inner = faults.cut_after(FakeTransport.script(b"abcdef"), bytes=5)
    assert await pieces_of(faults.split_every(inner, 2)) == [b"ab", b"cd", b"e"]
    (piece,) = await pieces_of(faults.one_piece(faults.split_every(inner, 2)))
    assert piece == b"abcde"


def test_values() -> None:
    """A fault's repr has its name and no header values; it pickles with its transport."""
    faulty = faults.status(ASGITransport(ToyRemote()), 503, b"body", {"x-key": "secret"})
    assert "fault=status(503) with x-key" in repr(faulty)
    assert "secret" not in repr(faulty)
    for case in CASES:
        fault = case.make(FakeTransport({})).fault
        copy = pickle.loads(pickle.dumps(fault))
        assert fault.name == repr(fault) == repr(copy)


# --------------------------------------------------------------------------------------------------------------- Bodies

E: Final = b"id: 1\r\nevent: message\r\ndata: 1\r\n\r\n"
C: Final = close()
BODIES: Final[list[tuple[Callable[[Transport], Faulty], Sequence[bytes], list[bytes]]]] = [
    # the fault, the real body, the changed body
    (lambda inner: faults.cut_after(inner, bytes=0), [b"abc"], []),
    (lambda inner: faults.cut_after(inner, bytes=2), [b"abc", b"d"], [b"ab"]),
    (lambda inner: faults.cut_after(inner, bytes=4), [b"abc", b"def"], [b"abc", b"d"]),
    (lambda inner: faults.cut_after(inner, bytes=9), [b"abc", b"def"], [b"abc", b"def"]),
    (faults.half_event, [E, E, C], [E + E[:17]]),
    (lambda inner: faults.half_event(inner, after=0), [E[:5], E[5:]], [E[:17]]),
    (lambda inner: faults.half_event(inner, after=5), [E, C], [E + C]),
    (faults.no_close, [E, C], [E]),
    (faults.no_close, [E + C[:9], C[9:]], [E]),
    (faults.no_close, [b"d: event: close\n\nevent:close\rdata\r\rd: half"], [b"d: event: close\n\n", b"d: half"]),
    (faults.duplicate_close, [E, C], [E, C * 2]),
    (faults.close_first, [E], [C, E]),
    (faults.bom, [E], [b"\xef\xbb\xbf", E]),
    (faults.lf_only, [E], [b"id: 1\nevent: message\ndata: 1\n\n"]),
    (faults.heartbeats_between, [E + C], [heartbeat() + E, heartbeat() + C]),
    (faults.crlf_split, [b"a\r\nb\rc\n", b"\r\n\r\n"], [b"a\r", b"\nb\rc\n", b"\r", b"\n\r", b"\n"]),
    (lambda inner: faults.split_every(inner, 2), [b"abc", b"d"], [b"ab", b"c", b"d"]),
    (faults.one_piece, [b"abc", b"d"], [b"abcd"]),
    (faults.empty_body, [E], []),
    (lambda inner: faults.status(inner, 500, b"oh"), [E], [b"oh"]),
    (lambda inner: faults.status(inner, 500), [E], []),
    (faults.wrong_content_type, [E], [E]),
]  # fmt: skip


@pytest.mark.parametrize(("make", "real", "comes"), BODIES)
async def test_bodies(make: Callable[[Transport], Faulty], real: Sequence[bytes], comes: list[bytes]) -> None:
    """The chunks of a body with each fault."""
    assert await pieces_of(make(FakeTransport.script(*real))) == comes


PLAIN: Final = "text/plain; charset=utf-8"
LATER: Final = {"retry-after": "1"}
HEADERS: Final[list[tuple[Callable[[Transport], Faulty], int, dict[str, str]]]] = [
    # the fault, the status, the headers
    (faults.bom, 207, {"content-type": "text/x", "x-real": "1"}),
    (lambda inner: faults.status(inner, 503, headers=LATER), 503, {"content-type": PLAIN, "x-real": "1", **LATER}),
    (faults.html_page, 200, {"content-type": "text/html; charset=utf-8", "x-real": "1"}),
    (faults.envelope, 200, {"content-type": "application/json", "x-real": "1"}),
    (lambda inner: faults.wrong_content_type(inner, "a/b"), 207, {"content-type": "a/b", "x-real": "1"}),
    (faults.gzip_body, 207, {"content-type": "text/x", "x-real": "1", "content-encoding": "gzip"}),
    (faults.garbage, 207, {"content-type": "text/event-stream; charset=utf-8", "x-real": "1"}),
]  # fmt: skip


@pytest.mark.parametrize(("make", "status", "headers"), HEADERS)
async def test_heads(make: Callable[[Transport], Faulty], status: int, headers: dict[str, str]) -> None:
    """Status and headers are kept, except what the fault changes and the length."""
    real = {"content-type": "text/x", "x-real": "1", "content-length": "1"}
    fake = FakeTransport({"/sse/chat": Reply([b"x"], status=207, headers=real)})
    async with make(fake).exchange(REQUEST) as response:
        assert response.status == status
        assert response.headers == headers


async def test_compressed_bodies() -> None:
    """A compressed body can be decoded in order; a bomb grows a thousandfold."""
    pieces = await pieces_of(faults.gzip_body(FakeTransport.script(E, C)))
    inflate = zlib.decompressobj(wbits=31).decompress
    assert [inflate(piece) for piece in pieces] == [E, C]
    async with faults.gzip_bomb(FakeTransport.script()).exchange(REQUEST) as response:
        piece = await anext(response.chunks)
        assert len(piece) < 2048
        assert len(zlib.decompressobj(wbits=31).decompress(piece)) == 1024 * 1024
        assert len(await anext(response.chunks)) < 2048
    assert gzip.compress(b"")[:2] == piece[:2]


async def test_steps_that_take_time() -> None:
    """Heartbeats come every 15 s, and a slow stream delays each chunk."""
    began = anyio.current_time()
    async with faults.heartbeats_only(FakeTransport.script()).exchange(REQUEST) as response:
        for _ in range(3):
            assert await anext(response.chunks) == heartbeat()
    assert anyio.current_time() - began == pytest.approx(30)
    await pieces_of(faults.slow(FakeTransport.script(E, E), 7))
    assert anyio.current_time() - began == pytest.approx(44)


@pytest.mark.parametrize("hanging", [faults.hang_before_headers, faults.fall_silent])
async def test_steps_that_never_end(hanging: Callable[[Transport], Transport]) -> None:
    """A hang never ends."""
    with anyio.move_on_after(10_000) as scope:
        await pieces_of(hanging(FakeTransport.script()))
    assert scope.cancelled_caught


class Watching:
    """A transport that records the exceptions of its blocks."""

    def __init__(self) -> None:
        self.left: list[type[BaseException] | None] = []

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As a script does it."""
        try:
            async with FakeTransport.script(progress(1), answer(2), close()).exchange(request) as response:
                yield response
        except BaseException as error:
            self.left.append(type(error))
            raise
        self.left.append(None)

    async def aclose(self) -> None:
        """Do nothing."""


async def test_exceptions_in_the_wrapped_transport() -> None:
    """A fault before the headers leaves the real exchange with its error; one in the body without."""
    watching = Watching()
    with pytest.raises(errors.ConnectionLostError):
        await pieces_of(faults.lose_before_headers(watching))
    await pieces_of(faults.cut_after(watching, bytes=1))
    with pytest.raises(errors.ConnectionLostError):
        await pieces_of(faults.reset_after(watching, bytes=1))
    assert watching.left == [errors.ConnectionLostError, None, errors.ConnectionLostError]
    await watching.aclose()
