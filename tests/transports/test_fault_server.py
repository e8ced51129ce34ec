"""The table of the fault server, over real sockets; and that each of its checks can fail.

Rule 1: all faults of one transport run at the same time in one test, since they mostly wait.
Rule 2: bytes that a library buffers are not in the table; they are measured by the size of the process.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio
import attrs
import pytest

from oxygent_client import HTTPXTransport, Outcome, errors
from tests.conftest import SIZE, UVLOOP
from tests.support.fault_server import (
    A_MOMENT,
    FAULTS,
    FLOODS,
    HANGS,
    LIMITS,
    LOOPS_OF,
    PAGE,
    PIECE,
    SHORT,
    SLOWER,
    TRANSPORTS,
    FaultServer,
    Line,
    Metronome,
    judged,
    page,
    play_all,
    serving_faults,
    stable,
    wrong_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from oxygent_client import HTTPRequest, HTTPResponse, Transport

pytestmark = pytest.mark.seconds

BY_NAME: Final = {fault.name: fault for fault in FAULTS}
MIB: Final = 1024 * 1024


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    """A fault server in a thread, so that its sockets do not count as the test's."""
    with serving_faults() as server:
        yield server


@pytest.fixture
async def writes_after_abort(loop: str) -> AsyncIterator[None]:
    """Let uvloop write, at times, to a TLS connection that it has aborted itself: its loop reports an error then."""
    if loop != UVLOOP:
        yield
        return
    running = asyncio.get_running_loop()
    report = running.get_exception_handler()
    assert report is not None

    def handle(of: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "the handler is closed" not in str(context.get("exception")):
            report(of, context)

    running.set_exception_handler(handle)
    yield
    running.set_exception_handler(report)


ALL_FAULTS_ON: Final = {"httpx": "trio", "httpx2": "asyncio", "aiohttp": "uvloop"}
"""The loop on which each transport meets every fault; on the others it meets every tenth, but in a soak all.

In a smoke run only aiohttp does: the others share their code, and meet a tenth.
"""


# In httpcore on trio and uvloop, a cancelled connection attempt leaves its socket to the garbage collector; each async
# test checks that none stays open.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in. 'uvloop.loop:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed resource <TCPTransport:ResourceWarning")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_each_fault(transport: str, loop: str, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """Each fault ends with the error, outcome, time and requests of the table, and the agent's next call succeeds."""
    is_chosen = ALL_FAULTS_ON[transport] == loop and (SIZE != "smoke" or transport == "aiohttp")
    faults = FAULTS if SIZE == "soak" or is_chosen else FAULTS[::10]
    lines = await play_all(server, transport, faults)
    assert lines.keys() == {fault.name for fault in faults}
    assert "\n".join(wrong_of(transport, lines)) == ""
    assert {"oxygent_client"} >= {record.name.partition(".")[0] for record in caplog.records if record.levelno > 20}


def test_the_table() -> None:
    """There are at least 60 faults with distinct names, the floods among them."""
    assert len(FAULTS) == len(BY_NAME) >= 60
    assert BY_NAME.keys() >= set(FLOODS)
    assert TRANSPORTS.keys() == LOOPS_OF.keys()


def test_the_page_has_the_table() -> None:
    """The page has the table, except the measured values; `python -m tests.support.fault_server` writes it."""
    assert stable(page({})) == stable(PAGE.read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------ Memory of the process

GROWTH: Final = 24 * MIB
"""For all floods at once, each with a connection, a client and a server's block: about 2 MiB for each."""


async def grown(
    server: FaultServer, transport: str, floods: tuple[str, ...] = FLOODS, make: Any = None, slower: float = 1.0
) -> int:
    """Return the greatest growth of the process, in bytes, during all floods at once."""
    tracemalloc.start()
    try:
        await play_all(server, transport, [BY_NAME[name] for name in floods], make=make, slower=slower, again=False)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_memory_in_a_flood_of_headers(transport: str, server: FaultServer) -> None:
    """The headers that a library reads and does not hand over are bounded."""
    assert GROWTH > await grown(server, transport)


@attrs.define(eq=False)
class Hoarder:
    """A transport that buffers the response to its first request up to a limit."""

    kept: list[bytes] = attrs.field(factory=list[bytes])

    @classmethod
    def made(cls, **_: object) -> Hoarder:
        """Return one, whatever the options."""
        return cls()

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """Read until it is stopped."""
        if self.kept:
            raise errors.ClosedError("enough")
        async with await anyio.connect_tcp("127.0.0.1", urlsplit(request.url).port or 0) as stream:
            await stream.send(b"POST / HTTP/1.1\r\n\r\n")
            while sum(map(len, self.kept)) < 2 * GROWTH:
                self.kept.append(await stream.receive(MIB))
        raise errors.ClosedError("enough")
        yield  # type: ignore[unreachable]  # makes it a generator

    async def aclose(self) -> None:
        """Do nothing."""


async def test_a_transport_that_buffers_a_flood_is_found(server: FaultServer) -> None:
    """A transport that buffers a flood is found by the size of the process."""
    assert await grown(server, "httpx", ("100 flood", "103 flood"), Hoarder.made, slower=100) > GROWTH


# ----------------------------------------------------------------------------------------------------------- Judgements

CLOSES: Final = BY_NAME["closes"]
FINE: Final = Line(
    error=errors.ConnectionLostError, outcome=Outcome.UNKNOWN, seconds=0.1, posts=1, gets=1, taken=0, held=0
)
REFUSED: Final = attrs.evolve(FINE, error=errors.NotFoundError, outcome=Outcome.REJECTED)
IDLE: Final = attrs.evolve(FINE, error=errors.IdleTimeoutError, outcome=Outcome.STARTED, seconds=SHORT["idle"])
MOST: Final = 8
STREAM: Final = LIMITS.stream_bytes or 0


@pytest.mark.parametrize(
    ("wrong", "name", "line"),
    [
        ("", "closes", FINE),
        ("ended with its answer, COMPLETED", "closes", attrs.evolve(FINE, error=None, outcome=Outcome.COMPLETED)),
        ("ended with `ConnectionLostError`, STARTED", "closes", attrs.evolve(FINE, outcome=Outcome.STARTED)),
        ("took 5.00 s", "closes", attrs.evolve(FINE, error=TimeoutError, seconds=HANGS)),
        ("", "closes", attrs.evolve(FINE, seconds=A_MOMENT)),
        ("took 1.10 s", "closes", attrs.evolve(FINE, seconds=A_MOMENT + 0.1)),
        ("", "stops", IDLE),
        ("", "stops", attrs.evolve(IDLE, seconds=SHORT["idle"] + A_MOMENT)),
        ("took 1.60 s", "stops", attrs.evolve(IDLE, seconds=SHORT["idle"] + A_MOMENT + 0.1)),
        ("", "closes", attrs.evolve(FINE, seconds=A_MOMENT + 1, lag=0.5)),
        ("took 2.10 s", "closes", attrs.evolve(FINE, seconds=A_MOMENT + 1.1, lag=0.5)),
        ("", "stops", attrs.evolve(IDLE, seconds=4 * SHORT["idle"] + A_MOMENT, slower=4)),
        ("took 0.50 s", "stops", attrs.evolve(IDLE, slower=4)),
        ("took 0.40 s", "stops", attrs.evolve(IDLE, seconds=SHORT["idle"] - 0.1)),
        ("sent 2 POSTs", "closes", attrs.evolve(FINE, posts=2)),
        ("", "404", attrs.evolve(REFUSED, posts=MOST)),
        ("sent 9 POSTs", "404", attrs.evolve(REFUSED, posts=MOST + 1)),
        ("", "ping flood", attrs.evolve(FINE, error=errors.TooLargeError, taken=STREAM + PIECE)),
        ("bytes from the transport", "ping flood", attrs.evolve(FINE, taken=STREAM + PIECE + 1)),
        ("bytes from the transport", "endless line", attrs.evolve(FINE, taken=STREAM + PIECE)),
        ("holds", "closes", attrs.evolve(FINE, held=LIMITS.partial_bytes + LIMITS.error_body_bytes + 1)),
        ("left 1 exchanges open", "closes", attrs.evolve(FINE, left_open=1)),
        ("spoilt the next call: no", "closes", attrs.evolve(FINE, then="no")),
    ],
)
def test_each_fault_of_a_line_is_reported(wrong: str, name: str, line: Line) -> None:
    """Each fault of a line is reported: false success, wrong outcome, second request, growth, and each time limit."""
    said = judged(BY_NAME[name], "httpx", line)
    assert wrong in "\n".join(said)
    assert bool(wrong) == bool(said)


@attrs.define(eq=False)
class Wrapped:
    """A transport that does everything right; those below do not."""

    inner: Transport
    exchanges: int = 0

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """Use the wrapped transport."""
        async with self.inner.exchange(request) as response:
            yield response

    async def aclose(self) -> None:
        """Close the wrapped transport."""
        await self.inner.aclose()


class Stubborn(Wrapped):
    """Leaves late, even when cancelled."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """Leave late, except in the next call."""
        self.exchanges += 1
        try:
            async with super().exchange(request) as response:
                yield response
        finally:
            if self.exchanges == 1:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(A_MOMENT + 0.5)


class Eager(Wrapped):
    """Sends a lost request again."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """Send twice."""
        try:
            async with super().exchange(request):
                pass
        except errors.ConnectionLostError:
            pass
        async with super().exchange(request) as response:
            yield response


class Spoilt(Wrapped):
    """Fails after an error."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """Work once."""
        self.exchanges += 1
        if self.exchanges > 1:
            raise errors.ClosedError("used up")
        async with super().exchange(request) as response:
            yield response


class Steady(Metronome):
    """Reports a machine that is not busy, so that a late fault counts as late."""

    async def beat(self) -> None:
        """Measure nothing."""


BAD: Final[dict[type[Wrapped], str]] = {
    Stubborn: "httpx, closes: took ",
    Eager: "httpx, closes: sent 3 POSTs",  # its next call is sent twice too
    Spoilt: "httpx, closes: spoilt the next call: ClosedError: used up",
}


@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_transport_is_found(bad: type[Wrapped], server: FaultServer) -> None:
    """A transport that is late, sends twice or fails after an error is found."""

    def make(**options: Any) -> Wrapped:
        return bad(HTTPXTransport(**options))

    lines = await play_all(server, "httpx", [CLOSES], make=make, metronome=Steady(), again=False)
    (said,) = wrong_of("httpx", lines)
    assert said.startswith(BAD[bad])


@pytest.mark.parametrize(
    ("late", "slower", "wrong"),
    [
        pytest.param(0, [1.0], 0, id="in time"),
        pytest.param(1, [1.0, SLOWER[0]], 0, id="in time alone"),
        pytest.param(2, [1.0, *SLOWER[:2]], 0, id="in time with longer clocks"),
        pytest.param(9, [1.0, *SLOWER], 1, id="always late"),
    ],
)
async def test_late_faults_run_again(late: int, slower: list[float], wrong: int, server: FaultServer) -> None:
    """A fault that may have failed for lack of time only is run again with longer time-outs, until it passes."""
    played: list[float] = []

    async def player(*_: object, slower: float, **__: object) -> Line:
        played.append(slower)
        return attrs.evolve(FINE, seconds=A_MOMENT + 1 if len(played) <= late else 0.1, slower=slower)

    lines = await play_all(server, "httpx", [CLOSES], player=player)
    assert len(wrong_of("httpx", lines)) == wrong
    assert played == slower


async def test_a_server_ends_with_its_block() -> None:
    """The port of a server is free after its block, though a client still hangs there."""
    with serving_faults() as server, server.standing(BY_NAME["never answers"]) as stand:
        port = urlsplit(stand.url).port or 0
        stream = await anyio.connect_tcp("127.0.0.1", port)
        await stream.send(b"POST / HTTP/1.1\r\n\r\n")
    async with stream:
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()
        with pytest.raises(OSError, match="All connection attempts failed"):
            await anyio.connect_tcp("127.0.0.1", port)
