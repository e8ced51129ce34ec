"""`check_transport`: the transports of this package, its report, and its server.

Rule 1: a line of TRANSPORTS is a transport that keeps each promise, except those in its last column.
Rule 2: the faults it finds are in test_check_transport_finds.py; here are the tests that need a network.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.abc
import attrs
import pytest
from anyio.lowlevel import checkpoint

from oxygent_client import HTTPRequest, HTTPResponse, HTTPXTransport, Transport
from oxygent_client.errors import ConfigurationError, ConnectError, ConnectionLostError
from oxygent_client.testing import (
    TRANSPORT_PROMISES,
    FakeTransport,
    Peer,
    TransportCheckError,
    TransportReport,
    check_transport,
)
from oxygent_client.testing._check_server import Scenario
from oxygent_client.transports.aiohttp import AiohttpTransport
from oxygent_client.transports.asgi import ASGITransport
from oxygent_client.transports.httpx2 import HTTPX2Transport
from tests.conftest import ROOT
from tests.testing.test_check_transport_finds import EndsWell, Wrapper

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = pytest.mark.seconds

IN_PROCESS: Final = ("refused", "reset_unframed", "closes_kept", "connecting", "closing")
"""Promises that can only be checked on a network."""

TRANSPORTS: Final[dict[str, tuple[Callable[[Peer], Transport], tuple[str, ...]]]] = {
    # name: (how one is made, the checks that do not apply to it)
    "httpx": (lambda _: HTTPXTransport(), ()),
    "httpx2": (lambda _: HTTPX2Transport(), ()),
    "aiohttp": (lambda _: AiohttpTransport(), ()),
    "asgi": (lambda peer: ASGITransport(peer.app), IN_PROCESS),
    "fake": (lambda peer: FakeTransport(peer.replies), IN_PROCESS),
    "a wrapper": (lambda peer: Wrapper(ASGITransport(peer.app)), IN_PROCESS),
}


@pytest.mark.parametrize("name", TRANSPORTS)
async def test_a_transport_keeps_its_promises(
    name: str, anyio_backend_name: str, request: pytest.FixtureRequest
) -> None:
    """Each promise is kept, and exactly the checks that do not apply are skipped."""
    make, skipped = TRANSPORTS[name]
    report = await check_transport(make)
    assert report.names("skipped") == skipped
    assert report.names("kept") == tuple(check for check in TRANSPORT_PROMISES if check not in skipped)
    assert report.checkpoints >= 3
    # The number is wanted in the log, whether the test passes or not.
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    reporter.write_line(f"{name} on {anyio_backend_name}: cancelled at {report.checkpoints} checkpoints")


# --- what takes a network ---------------------------------------------------------------------------------------------


class SaysLost(Wrapper):
    """Reports a failed connection attempt as a lost connection."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        entered = False
        try:
            async with self.inner.exchange(request) as response:
                entered = True
                yield response
        except ConnectError as error:
            if entered:
                raise
            raise ConnectionLostError("lost") from error


class TakesAnyEnd(Wrapper):
    """Takes any end of the connection for the end of a body without framing, as aiohttp 3.14 does."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(request) as response:
            framed = {"content-length", "transfer-encoding"} & response.headers.keys()
            yield response if framed else attrs.evolve(response, chunks=EndsWell(response.chunks))


class KeepsOpen(Wrapper):
    """Closes nothing until the test is over."""

    async def aclose(self) -> None:
        pass


class ForgetsItsClient(Wrapper):
    """Forgets its client before it is closed."""

    async def aclose(self) -> None:
        inner, self.inner = self.inner, HTTPXTransport()
        await checkpoint()
        await inner.aclose()


@pytest.mark.parametrize(
    ("broken_checks", "broken", "seen"),
    [
        (("refused",), SaysLost, "ConnectionLostError('lost'), outcome unknown"),
        (("reset_unframed",), TakesAnyEnd, "within the body (until closed)"),
        (("closes_kept", "closing"), KeepsOpen, "1 connections were still open 1 s after `aclose`"),
        (("closing",), ForgetsItsClient, "cancelled at checkpoint 1"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
async def test_a_broken_transport(broken_checks: tuple[str, ...], broken: type[Wrapper], seen: str) -> None:
    """The broken promises are found, and no others."""
    made: list[Transport] = []

    def make(_: Peer) -> Transport:
        made.append(HTTPXTransport())
        return broken(made[-1])

    with pytest.raises(TransportCheckError) as raised:
        await check_transport(make)
    for transport in made:
        await transport.aclose()
    assert raised.value.failed == broken_checks, str(raised.value)
    assert seen in raised.value.report.notes[broken_checks[0]]


class InATask(Wrapper):
    """Runs each exchange in a task; one that `leaks` goes on when its caller is cancelled before the headers.

    So does code that waits for a thread.
    """

    def __init__(self, inner: Transport, tasks: anyio.abc.TaskGroup, leaks: Callable[[HTTPRequest], bool]) -> None:
        super().__init__(inner)
        self.tasks = tasks
        self.leaks = leaks

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        """As `Transport.exchange`."""
        done, left = anyio.Event(), anyio.Event()
        entered, scope = anyio.Event(), anyio.CancelScope()
        found: list[HTTPResponse | Exception] = []

        async def enter() -> None:
            try:
                with scope:
                    async with self.inner.exchange(request) as response:
                        found.append(response)
                        entered.set()
                        await left.wait()
            except Exception as error:  # noqa: BLE001  (it is the caller's)
                found.append(error)
            entered.set()
            done.set()

        self.tasks.start_soon(enter)
        try:
            await entered.wait()
        except anyio.get_cancelled_exc_class():
            if not self.leaks(request):
                scope.cancel()
                with anyio.CancelScope(shield=True):
                    await done.wait()
            raise
        if isinstance(found[0], Exception):
            raise found[0]
        try:
            yield found[0]
        finally:
            left.set()
            with anyio.CancelScope(shield=True):
                await done.wait()


OTHERS: Final = TRANSPORT_PROMISES.keys() - {"left_early", "cancelled", "connecting", "usable"}
LEAKS: Final[dict[str, tuple[Callable[[HTTPRequest], bool], str, str]]] = {
    # where it leaks: (with this request, the broken promise, what is seen)
    "sending": (lambda sent: len(sent.body) > 1_000_000, "cancelled", "sent completely"),
    "before the headers": (
        lambda sent: sent.path == "/held" and len(sent.body) < 1000,
        "cancelled",
        "before the headers came: the other side had not noticed after 1 s",
    ),
    "connecting": (
        lambda sent: sent.path == "/late",
        "connecting",
        "the request was sent after the exchange had been cancelled",
    ),
}


async def broken_by(leaks: Callable[[HTTPRequest], bool]) -> TransportReport:
    """Return the report about the promises on leaving."""
    made: list[Transport] = []
    reports: list[TransportReport] = []
    async with anyio.create_task_group() as tasks:

        def make(_: Peer) -> Transport:
            made.append(InATask(HTTPXTransport(), tasks, leaks))
            return made[-1]

        try:
            reports.append(await check_transport(make, skip=OTHERS))
        except TransportCheckError as error:
            reports.append(error.report)
        tasks.cancel_scope.cancel()
    for transport in made:
        await transport.aclose()
    return reports[0]


@pytest.mark.parametrize("where", LEAKS)
async def test_leaks_when_cancelled(where: str) -> None:
    """A transport that leaks its connection when cancelled at one stage breaks that promise only."""
    leaks, check, seen = LEAKS[where]
    report = await broken_by(leaks)
    assert report.names("broken") == (check,), str(report)
    assert seen in report.notes[check]


async def test_no_leak() -> None:
    """Without a leak it keeps each promise."""
    report = await broken_by(lambda _: False)
    assert report.names("broken") == (), str(report)


# --- what it says -----------------------------------------------------------------------------------------------------


async def test_skipped_checks() -> None:
    """A check can be skipped by its name, and the report lists it as skipped."""
    report = await check_transport(lambda peer: FakeTransport(peer.replies), skip={"redirect", "usable"})
    assert report.names("skipped") == (*IN_PROCESS[:2], "redirect", *IN_PROCESS[2:], "usable")
    assert "skip" in report.notes["redirect"]
    with pytest.raises(ConfigurationError, match="no_such_check"):
        await check_transport(lambda peer: FakeTransport(peer.replies), skip={"no_such_check", "live"})


async def test_a_failing_factory() -> None:
    """An unexpected exception fails the check and is a cause, so that its traceback is shown."""

    def make(_: Peer) -> Transport:
        raise RuntimeError("no such transport")

    with pytest.raises(TransportCheckError) as raised:
        await check_transport(make)
    assert set(raised.value.failed) == set(TRANSPORT_PROMISES) - {"usable"}
    assert raised.value.report.notes["live"] == "raised RuntimeError('no such transport')"
    assert "22 sub-exceptions" in str(raised.value.__cause__)


class Unenterable(Wrapper):
    """Cannot be entered."""

    def exchange(self, request: HTTPRequest, /) -> Any:
        return Failing()


class Failing:
    """A context manager that fails."""

    async def __aenter__(self) -> HTTPResponse:
        raise RuntimeError("no")

    async def __aexit__(self, *_: object) -> None:
        raise RuntimeError("not entered")


async def test_a_transport_that_cannot_be_entered() -> None:
    """The check `no_open_scope` does not fail for an error before its scope."""
    with pytest.raises(TransportCheckError) as raised:
        await check_transport(lambda peer: Unenterable(FakeTransport(peer.replies)))
    assert raised.value.report.notes["no_open_scope"] == "entering ended with RuntimeError('no')"


def test_the_report() -> None:
    """The report is a table of the promises, optionally with observations; it can be pickled."""
    report = TransportReport(
        {"live": "kept", "once": "broken", "refused": "skipped"}, {"once": "sent 2 times", "refused": "in process"}, 7
    )
    assert str(report).splitlines() == [
        "3 promises: 1 kept, 1 broken, 1 skipped; cancelled at 7 checkpoints",
        f"  kept    live           {TRANSPORT_PROMISES['live']}",
        f"  broken  once           {TRANSPORT_PROMISES['once']}",
        "                         found: sent 2 times",
        f"  skipped refused        {TRANSPORT_PROMISES['refused']}",
        "                         reason: in process",
    ]
    error = TransportCheckError(report)
    assert isinstance(error, AssertionError)
    assert str(report) == str(error)
    assert error.failed == ("once",)
    assert pickle.loads(pickle.dumps(error)).report == report


def test_the_page_lists_the_promises() -> None:
    """docs/howto/write-a-transport.md has a line for each promise, with the text of the check."""
    page = (ROOT / "docs" / "howto" / "write-a-transport.md").read_text(encoding="utf-8")
    for name, promise in TRANSPORT_PROMISES.items():
        assert f"| `{name}` | {promise} |" in page


# --- the server -------------------------------------------------------------------------------------------------------


async def converse(scenario: Scenario, *sent: bytes) -> tuple[bytes, Peer]:
    """Return the server's response to these chunks, until it closes, and the requests."""
    peer = Peer({"/path": scenario})
    received = b""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(peer.serve)
        host, _, port = peer.url.removeprefix("http://").partition(":")
        async with await anyio.connect_tcp(host, int(port)) as stream:
            for piece in sent:
                await stream.send(piece)
                await anyio.wait_all_tasks_blocked()
            await stream.send_eof()
            async for data in stream:
                received += data
        await peer.stop()
    return received, peer


HEAD: Final = b"POST /path HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        ((HEAD + b"Content-Length: 3\r\n\r\nabc",), b"abc"),
        ((HEAD + b"content-length: 3\r\n", b"\r\na", b"bc"), b"abc"),
        ((HEAD + b"\r\n",), b""),
        ((HEAD + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n",), b"abc0123456789"),
        ((HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r", b"\nabc\r\n0\r\n", b"Trailer: yes\r\n\r\n"), b"abc"),
    ],
)
async def test_requests(sent: tuple[bytes, ...], body: bytes) -> None:
    """The server reads a request's body in each framing and any chunks."""
    received, peer = await converse(Scenario((b"yes",), framing="until closed"), *sent)
    (visit,) = peer.visits
    assert visit.method == "POST"
    assert visit.target == "/path"
    assert visit.body == body
    assert received == b"HTTP/1.1 200 Scenario\r\nConnection: close\r\n\r\nyes"


@pytest.mark.parametrize(
    "sent",
    [
        (b"nonsense\r\n\r\n",),
        (HEAD + b"Content-Length: many\r\n\r\n",),
        (HEAD + b"Content-Length: 10\r\n\r\nabc",),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc",),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nsize\r\n",),
        (b"POST",),
        (),
    ],
)
async def test_invalid_requests(sent: tuple[bytes, ...]) -> None:
    """The server closes on an invalid request, and does not count it."""
    received, peer = await converse(Scenario((b"yes",)), *sent)
    assert received == b""
    assert peer.visits == []


async def test_pipelined_requests() -> None:
    """A request that arrives during a response is answered after it."""
    gate = anyio.Event()
    peer = Peer({"/path": Scenario((b"1", gate.wait, b"2"), framing="length")})
    answered = b"HTTP/1.1 200 Scenario\r\nContent-Length: 2\r\n\r\n12"
    request = HEAD + b"\r\n"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(peer.serve)
        host, _, port = peer.url.removeprefix("http://").partition(":")
        async with await anyio.connect_tcp(host, int(port)) as stream:
            received = b""
            await stream.send(request)
            while not received.endswith(b"1"):
                received += await stream.receive()
            await stream.send(request[:10])
            await anyio.wait_all_tasks_blocked()
            gate.set()
            await stream.send(request[10:])
            while len(received) < 2 * len(answered):
                received += await stream.receive()
            assert 2 * answered == received
        assert await peer.all_disconnected(until=anyio.current_time() + 20)
        assert [visit.path for visit in peer.visits] == ["/path", "/path"]
        await peer.stop()
