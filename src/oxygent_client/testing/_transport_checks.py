"""The single checks of `check_transport`.

Rule 1: a check is a function in CHECKS; its name is the check's name, its docstring the promise that it tests.
Rule 2: a check depends on no other promise where possible: only `live` fails when a chunk is late. So every other check
    sends a second chunk before it waits for the reader, and ends its body by itself.
Rule 3: the text of a broken promise names what was sent and what was received.
"""

from __future__ import annotations

import functools
import gc
import gzip
import itertools
import math
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final, TypeAlias

import anyio
import anyio.abc
import attrs
from anyio.lowlevel import checkpoint

from oxygent_client._core.errors import ConnectError, ConnectionLostError, Outcome, RemoteProtocolError
from oxygent_client._core.transport import Context, HTTPRequest, HTTPResponse, Transport
from oxygent_client.testing._check_server import CLOSED, RESET, Framing, Peer, Scenario, target_of
from oxygent_client.testing._fake_transport import Wait

SECONDS: Final = 5.0
"""Time limit of a check, counted from the last transport that it made, since many exchanges take long."""
TOTAL_SECONDS: Final = 120.0
"""Time limit of a check."""
ENDING: Final = 4.0
"""Seconds in which a cancelled exchange must end; less than SECONDS, so that this is what the finding says."""
PROMPTLY: Final = 1.0
"""Seconds in which the other side must notice."""
PATIENTLY: Final = 2.0
"""Seconds for what takes no time on an idle machine."""
AT_ONCE: Final = 20
"""Number of concurrent exchanges."""
BODY: Final = b"one, two, three"
PIECES: Final = (b"one, ", b"two, ", b"three")

# Objects that a library leaves to the garbage collector although the connection is closed; no transport can avoid it.
# https://github.com/encode/httpcore/pull/1019
KNOWN_LEAKS: Final = (
    *("'httpx._client.", "'httpx._transports.", "'httpcore."),
    *("'httpx2._client.", "'httpx2._transports.", "'httpcore2."),
)

IN_PROCESS: Final = "there is no connection in process"
"""The reason to skip a check."""

Make: TypeAlias = Callable[[Peer], Transport]

# --- helpers ------------------------------------------------------------------------------------------


class BrokenPromise(Exception):
    """A finding; its text is what was observed."""


class SkippedCheck(Exception):
    """A check does not apply; its text is the reason."""


def expect(condition: object, finding: str) -> None:
    """Raise BrokenPromise unless `condition` is true."""
    if not condition:
        raise BrokenPromise(finding)


def shown(error: BaseException | None) -> str:
    """Return an exception as findings show it."""
    return "no error" if error is None else f"{type(error).__name__}({str(error)[:200]!r})"


def request_for(peer: Peer, path: str, *, method: str = "POST", body: bytes = b"question") -> HTTPRequest:
    """Return an ordinary request."""
    return HTTPRequest(method, peer.url, path, {"content-type": "application/json"}, body)


async def read(transport: Transport, request: HTTPRequest) -> tuple[HTTPResponse, bytes]:
    """Perform a whole exchange, and return the response and its body."""
    async with transport.exchange(request) as response:
        return response, b"".join([piece async for piece in response.chunks])


@attrs.define
class Bench:
    """The environment of the checks; it closes what it opens."""

    make: Make
    servers: anyio.abc.TaskGroup
    check: str = ""
    """The running check."""
    unusable: dict[str, str] = attrs.field(factory=dict[str, str])
    """The checks after which a transport could not be used again, with the reason."""
    checkpoints: int = 0
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope)
    """The scope of the running check; its deadline moves with each transport."""
    until: float = 0.0
    """The latest end of the running check."""
    closing_seconds: float = PROMPTLY
    """Time limit for `aclose`, reduced once it was exceeded; `aclose` has its own checks."""

    @asynccontextmanager
    async def open(
        self, scenarios: Mapping[str, Scenario], *, listening: bool = True, full: bool = False, probe: bool = True
    ) -> AsyncGenerator[tuple[Transport, Peer]]:
        """Open a new transport and its peer. After a successful block, probe whether the transport is still usable."""
        self.scope.deadline = min(anyio.current_time() + SECONDS, self.until)
        peer = Peer({**scenarios, "/probe": Scenario(PIECES)}, listening=listening, full=full)
        self.servers.start_soon(peer.serve)
        try:
            transport = self.make(peer)
            try:
                yield transport, peer
                if probe and self.check not in self.unusable and (trouble := await self.probe(transport, peer)):
                    self.unusable[self.check] = trouble
            finally:
                await self.close(transport)
        finally:
            await peer.stop()

    async def close(self, transport: Transport) -> None:
        """Close a transport, and ignore errors."""
        with anyio.move_on_after(self.closing_seconds, shield=True) as closing, suppress(Exception):
            await transport.aclose()
        if closing.cancel_called:
            self.closing_seconds = 0.1

    def begin(self, check: str) -> anyio.CancelScope:
        """Return the scope in which the next check runs, with its time limit."""
        now = anyio.current_time()
        self.check, self.until = check, now + TOTAL_SECONDS
        self.scope = anyio.CancelScope(deadline=now + SECONDS)
        return self.scope

    async def probe(self, transport: Transport, peer: Peer) -> str:
        """Return why the transport cannot be used; empty if it can."""
        with anyio.move_on_after(PATIENTLY):
            try:
                response, body = await read(transport, request_for(peer, "/probe"))
            except Exception as error:  # noqa: BLE001  (it is the finding)
                return f"an ordinary exchange ended with {shown(error)}"
            return "" if (response.status, body) == (200, BODY) else f"status {response.status} and the body {body!r}"
        return f"an ordinary exchange did not end within {PATIENTLY:g} s"


# --- the body ---------------------------------------------------------------------------------------------------------


async def live(bench: Bench) -> None:
    """The headers, and then each chunk of the body, are returned as soon as they arrive."""
    entered, read_first = anyio.Event(), anyio.Event()
    steps = (entered.wait, b"first", read_first.wait, b"second")
    async with bench.open({"/live": Scenario(steps)}) as (transport, peer):
        stage = "the headers were sent, and no chunk yet: the exchange was not entered"
        with anyio.move_on_after(PATIENTLY):
            async with transport.exchange(request_for(peer, "/live")) as response:
                stage = "the first chunk was sent, and the second not yet: the first was not returned"
                entered.set()
                body = b""
                while body != b"first":
                    body += await anext(response.chunks)
                stage = "the second chunk was sent: the body did not end"
                read_first.set()
                async for piece in response.chunks:
                    body += piece
            stage = "" if body == b"firstsecond" else f"the body was {body!r}"
        expect(not stage, stage)


BODIES: Final[Mapping[str, tuple[bytes, ...]]] = {
    "all byte values": (bytes(range(256)), b"\r\n\n\r", bytes(reversed(range(256)))),
    "a megabyte": (bytes(range(256)) * 2048,) * 2,
    "many small pieces": (b"\n", b"\r", b"\xe2\x82", b"\xac") * 25,
    "nothing": (),
}
FRAMINGS: Final[tuple[Framing, ...]] = ("chunked", "length", "until closed")


async def exact(bench: Bench) -> None:
    """A body is returned exactly as it was sent, also an empty one."""
    for (name, pieces), framing in itertools.product(BODIES.items(), FRAMINGS):
        scenario = Scenario(pieces, framing=framing)
        async with bench.open({"/exact": scenario}) as (transport, peer):
            _, body = await read(transport, request_for(peer, "/exact"))
            finding = f"{name} ({framing}): {len(scenario.body)} bytes were sent; {len(body)} other bytes were returned"
            expect(body == scenario.body, finding)


async def undecoded(bench: Bench) -> None:
    """Content codings are not decoded: the body is encoded as `content-encoding` says."""
    packed = gzip.compress(BODY, mtime=0)
    scenario = Scenario((packed,), headers={"Content-Encoding": "gzip"}, framing="length")
    async with bench.open({"/undecoded": scenario}) as (transport, peer):
        response, body = await read(transport, request_for(peer, "/undecoded"))
        coding = response.headers.get("content-encoding")
        expect((packed, "gzip") == (body, coding), f"content-encoding {coding!r}, and the body {body[:100]!r}")


# --- leaving ----------------------------------------------------------------------------------------------------------


LEAVES: Final[Mapping[str, tuple[int, tuple[type[Exception], ...]]]] = {
    # how: (chunks read before leaving, exceptions raised then; `own_exception` checks those)
    "before it reads": (0, ()),
    "after a piece": (1, ()),
    "by an exception": (1, (Exception,)),
}
SOME_STATUSES: Final = (200, 401, 404, 503)


async def left_early(bench: Bench) -> None:
    """Leaving before the end of the body, in any way, closes the exchange, and the other side notices promptly."""
    for code, (how, (pieces, raised)) in itertools.product(SOME_STATUSES, LEAVES.items()):
        try:
            await _leave(bench, how if code == 200 else f"{how}, the status {code}", code, pieces, raised)
        except BrokenPromise:
            raise
        except Exception:
            if code == 200:  # other codes are checked by `status`
                raise


async def _leave(bench: Bench, how: str, code: int, pieces: int, raised: tuple[type[Exception], ...]) -> None:
    scenarios = {"/endless": Scenario((b"one, ", b"two, ", anyio.sleep_forever), status=code)}
    async with bench.open(scenarios) as (transport, peer):
        with anyio.move_on_after(PATIENTLY) as scope, suppress(*raised):
            async with transport.exchange(request_for(peer, "/endless")) as response:
                for _ in range(pieces):
                    await anext(response.chunks)
                scope.deadline = anyio.current_time() + PROMPTLY
                for leave in raised:
                    raise leave
        expect(not scope.cancel_called, f"leaving {how} took longer than {PROMPTLY:g} s")
        noticed = await peer.all_over(1, until=scope.deadline)
        expect(noticed, f"the reader left {how}; the other side had not noticed after {PROMPTLY:g} s")


class _NoException(BaseException):
    """A BaseException that is not an Exception; a transport must not change it either."""


OWN: Final = (ValueError, ConnectionResetError, TimeoutError, ConnectionLostError, _NoException)
"""Includes classes that a transport may mistake for its own errors."""


async def own_exception(bench: Bench) -> None:
    """An exception of the block is raised unchanged: the same object, not wrapped."""
    for cls, reading in itertools.product(OWN, (False, True)):
        own: BaseException = cls("the caller's own")
        async with bench.open({"/own": Scenario(PIECES)}) as (transport, peer):
            raised: BaseException | None = None
            try:
                async with transport.exchange(request_for(peer, "/own")) as response:
                    if reading:
                        await anext(response.chunks)
                    raise own
            except (Exception, BaseExceptionGroup, _NoException) as error:  # noqa: BLE001  (it is compared)
                raised = error
            expect(raised is own, f"the block raised {shown(own)}, and the exchange {shown(raised)}")


async def abandoned(bench: Bench) -> None:
    """A body that is not read to its end causes no ResourceWarning."""
    gc.collect()  # other objects
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        async with bench.open({"/abandoned": Scenario(PIECES)}) as (transport, peer):
            for pieces in (0, 1):
                await _abandon(transport, request_for(peer, "/abandoned"), pieces)
        gc.collect()
        await checkpoint()
        gc.collect()
    leaks = [str(warning.message) for warning in caught if issubclass(warning.category, ResourceWarning)]
    leaks = [text for text in leaks if not any(known in text for known in KNOWN_LEAKS)]
    expect(not leaks, f"ResourceWarning: {leaks[:1]}")


async def _abandon(transport: Transport, request: HTTPRequest, pieces: int) -> None:
    async with transport.exchange(request) as response:
        for _ in range(pieces):
            await anext(response.chunks)


# --- failures -------------------------------------------------------------------------------------------


async def _failure(
    transport: Transport, request: HTTPRequest, entered: anyio.Event | None = None
) -> tuple[bytes, Exception | None]:
    """Return what was read of a response, and the error, if there was one."""
    body = b""
    try:
        async with transport.exchange(request) as response:
            if entered is not None:
                entered.set()
            async for piece in response.chunks:
                body += piece
    except Exception as error:  # noqa: BLE001  (it is returned)
        return body, error
    return body, None


async def refused(bench: Bench) -> None:
    """Entering raises ConnectError, outcome NOT_SENT, where no server listens."""
    async with bench.open({}, listening=False, probe=False) as (transport, peer):
        if peer.in_process:
            raise SkippedCheck(IN_PROCESS)
        _, error = await _failure(transport, request_for(peer, "/refused"))
        good = isinstance(error, ConnectError) and error.outcome is Outcome.NOT_SENT
        expect(good, f"{shown(error)}, outcome {getattr(error, 'outcome', None)}")


def _expect_loss(event: str, error: Exception | None) -> None:
    good = isinstance(error, ConnectionLostError | RemoteProtocolError)
    expect(good, f"{event}: {shown(error)}; expected ConnectionLostError or RemoteProtocolError")
    outcome = getattr(error, "outcome", None)
    unsure = outcome in (Outcome.UNKNOWN, Outcome.STARTED)
    expect(unsure, f"{event}: outcome {outcome}; expected UNKNOWN or STARTED")


async def broken_head(bench: Bench) -> None:
    """A connection that breaks before the headers is ConnectionLostError or RemoteProtocolError, outcome UNKNOWN."""
    for how in (CLOSED, RESET):
        async with bench.open({"/broken": Scenario(before=how)}) as (transport, peer):
            _, error = await _failure(transport, request_for(peer, "/broken"))
            _expect_loss(f"instead of a response {how}", error)


BROKEN_BODIES: Final[tuple[tuple[Framing, ConnectionLostError], ...]] = (
    ("chunked", CLOSED),
    ("length", CLOSED),
    ("chunked", RESET),
)


async def broken_body(bench: Bench) -> None:
    """A connection that breaks within the body is ConnectionLostError or RemoteProtocolError, never the body's end."""
    for framing, how in BROKEN_BODIES:
        await _expect_broken_body(bench, framing, how)


async def reset_unframed(bench: Bench) -> None:
    """A reset is an error also within a body whose end is only marked by the end of the connection."""
    await _expect_broken_body(bench, "until closed", RESET)


async def _expect_broken_body(bench: Bench, framing: Framing, how: ConnectionLostError) -> None:
    entered = anyio.Event()
    scenario = Scenario((b"one, ", b"two, ", entered.wait, how), framing=framing)
    async with bench.open({"/broken": scenario}) as (transport, peer):
        if peer.in_process and framing == "until closed":
            raise SkippedCheck(IN_PROCESS)
        body, error = await _failure(transport, request_for(peer, "/broken"), entered)
        _expect_loss(f"within the body ({framing}) {how}", error)
        expect((b"one, two, ").startswith(body), f"returned bytes that were never sent: {body!r}")


# --- the request and the response -------------------------------------------------------------------------------------

REQUESTS: Final[tuple[tuple[str, str, str, bytes, Context], ...]] = (
    ("POST", "", "/sse/chat", b'{"query": "\xc3\xa9"}\r\n\x00\xff', Context()),
    ("POST", "/prefix", "/sse/chat", b"", Context(purpose="feedback")),
    ("POST", "/prefix/?tenant=a%20b&x=", "/a%20b/c%2Fd", bytes(range(256)) * 1024, Context(purpose="attach")),
    ("GET", "/prefix?q=1", "/get_agents", b"", Context(purpose="discover")),
    ("GET", "", "/check_alive", b"", Context(purpose="health")),
)
HEADERS: Final = {"Accept": "text/event-stream", "X-Check": 'Mixed "Case", q=0.5', "content-type": "application/json"}


async def as_given(bench: Bench) -> None:
    """The request is sent as given: method, URL with the base's prefix and query, headers, body; it is not changed."""
    for method, suffix, path, body, context in REQUESTS:
        async with bench.open({path: Scenario(PIECES)}) as (transport, peer):
            request = HTTPRequest(method, peer.url + suffix, path, HEADERS, body, context=context)
            before = HTTPRequest(method, peer.url + suffix, path, HEADERS, body, context=context)
            response, _ = await read(transport, request)
            _expect_as_given(before, request, response, peer)


def _expect_as_given(before: HTTPRequest, request: HTTPRequest, response: HTTPResponse, peer: Peer) -> None:
    line = f"{before.method} {target_of(before)}"
    expect(before == request, f"{line}: the caller's request was changed")
    sent = response.request
    expect((before.method, before.url) == (sent.method, sent.url), f"response.request is {sent!r} for {before!r}")
    expect(len(peer.visits) == 1, f"{line}: {len(peer.visits)} requests arrived")
    (visit,) = peer.visits
    received = f"{visit.method} {visit.target}"
    expect(line == received, f"{line} was given, and {received} arrived")
    for name, value in before.headers.items():
        got = visit.headers.get(name.lower())
        expect(value == got, f"{line}: the header {name} was {value!r}, and {got!r} arrived")
    expect(
        before.body == visit.body, f"{line}: a body of {len(before.body)} bytes; {len(visit.body)} other bytes arrived"
    )


async def lower_case(bench: Bench) -> None:
    """The names of response headers are in lower case; the values are unchanged."""
    sent = {"Content-Type": "text/Event-Stream; charset=UTF-8", "X-CHECK": "Mixed, Case; Q=1", "x-lower": "yes"}
    async with bench.open({"/headers": Scenario(PIECES, headers=sent)}) as (transport, peer):
        response, _ = await read(transport, request_for(peer, "/headers"))
        for name, value in sent.items():
            got = dict(response.headers).get(name.lower())
            expect(value == got, f"{name}: {value} was sent, and {name.lower()!r} is {got!r}")
        mixed = [name for name in response.headers if name != name.lower()]
        expect(not mixed, f"not in lower case: {mixed}")


STATUSES: Final = (200, 201, 204, 304, 400, 401, 403, 404, 429, 500, 502, 503, 504)
REDIRECTS: Final = (301, 302, 303, 307, 308)


async def status(bench: Bench) -> None:
    """Every status is returned with its body, and is not an error."""
    for code in STATUSES:
        scenario = Scenario(() if code in (204, 304) else PIECES, status=code)
        async with bench.open({"/status": scenario}) as (transport, peer):
            try:
                response, body = await read(transport, request_for(peer, "/status"))
            except Exception as error:
                raise BrokenPromise(f"{code}: {shown(error)}") from error
            expect(code == response.status, f"{code} was sent, and {response.status} returned")
            expect(scenario.body == body, f"{code}: the body was {body!r}")


async def redirect(bench: Bench) -> None:
    """A redirect is returned like any status, and not followed."""
    for code, method in itertools.product(REDIRECTS, ("POST", "GET")):
        scenario = Scenario(PIECES, status=code, headers={"Location": "/elsewhere"})
        async with bench.open({"/redirect": scenario, "/elsewhere": Scenario((b"elsewhere",))}) as (transport, peer):
            response, body = await read(transport, request_for(peer, "/redirect", method=method))
            location = response.headers.get("location")
            got = (response.status, body, location)
            expect(got == (code, BODY, "/elsewhere"), f"{method}, {code}: {response.status}, {body!r}, {location!r}")
            expect(not peer.visited("/elsewhere"), f"{method}, {code}: the redirect was followed")


async def once(bench: Bench) -> None:
    """A POST is sent once, whatever happens to it, also on a reused connection."""
    scenarios = {
        "/once/whole": Scenario(PIECES),
        "/once/closed": Scenario(before=CLOSED),
        "/once/reset": Scenario(before=RESET),
        "/once/within": Scenario((b"one, ", b"two, ", CLOSED)),
    }
    for path, before in itertools.product(scenarios, (False, True)):
        async with bench.open(scenarios) as (transport, peer):
            if before:
                await read(transport, request_for(peer, "/once/whole"))
            await _failure(transport, request_for(peer, path))
            await peer.all_over(1 + before, until=anyio.current_time() + PROMPTLY)
            times = peer.visited(path) - (before and path == "/once/whole")
            expect(times == 1, f"{path}{' on a reused connection' if before else ''}: sent {times} times")


# --- many exchanges, scopes, closing ----------------------------------------------------------------------------------


async def concurrent(bench: Bench) -> None:
    """Twenty concurrent exchanges are all open at the same time, and each gets its own response."""
    started: list[str] = []
    all_started = anyio.Event()
    bodies: dict[str, bytes] = {}
    paths = [f"/concurrent/{number:02}" for number in range(AT_ONCE)]
    scenarios = {
        path: Scenario((f"{path} one, ".encode(), f"{path} two, ".encode(), all_started.wait, b"end")) for path in paths
    }

    async def one(transport: Transport, request: HTTPRequest) -> None:
        async with transport.exchange(request) as response:
            body = await anext(response.chunks)
            started.append(request.path)
            scope.deadline = (
                anyio.current_time() + PATIENTLY
            )  # as long as one after the other starts, they are waited for
            if len(started) == AT_ONCE:
                all_started.set()
                scope.deadline = math.inf
            bodies[request.path] = body + b"".join([piece async for piece in response.chunks])

    async with bench.open(scenarios) as (transport, peer):
        with anyio.move_on_after(PATIENTLY) as scope:
            async with anyio.create_task_group() as tasks:
                for path in paths:
                    tasks.start_soon(one, transport, request_for(peer, path))
        expect(not scope.cancel_called, f"only {len(started)} of {AT_ONCE} exchanges were open at the same time")
        for path, scenario in scenarios.items():
            expect(bodies[path] == scenario.body, f"{path}: {bodies[path]!r}; {scenario.body!r} was sent")


async def no_open_scope(bench: Bench) -> None:
    """No cancel scope or task group stays open within the block: the caller may enter under its own deadline."""
    async with bench.open({"/scope": Scenario(PIECES)}) as (transport, peer):
        findings = ["the task was cancelled without a request"]
        # In a task of its own, which breaks if scopes are left in the wrong order.
        with suppress(ExceptionGroup):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_enter_under_a_scope, transport.exchange(request_for(peer, "/scope")), findings)
        expect(not findings, "".join(findings))


async def _enter_under_a_scope(exchange: AbstractAsyncContextManager[HTTPResponse], findings: list[str]) -> None:
    response: HTTPResponse | None = None
    stage = "entering"
    try:
        with anyio.CancelScope():
            response = await exchange.__aenter__()
            stage = "leaving the caller's scope, in which the exchange was entered,"
        assert response is not None
        stage = "reading and leaving"
        body = b"".join([piece async for piece in response.chunks])
        await exchange.__aexit__(None, None, None)
        expect(body == BODY, f"the body was {body!r}")
        findings.clear()
    except Exception as error:  # noqa: BLE001  (it is the finding)
        findings[:] = [f"{stage} ended with {shown(error)}"]
        with suppress(Exception):
            await exchange.__aexit__(None, None, None)


async def aclose(bench: Bench) -> None:
    """`aclose` may be called twice, and before the first request."""
    for use in (False, True):
        async with bench.open({"/used": Scenario(PIECES)}, probe=False) as (transport, peer):
            if use:
                await read(transport, request_for(peer, "/used"))
            for time in ("first", "second"):
                try:
                    await transport.aclose()
                except Exception as error:
                    raise BrokenPromise(f"the {time} call raised {shown(error)}") from error


async def closes_kept(bench: Bench) -> None:
    """`aclose` closes the connections that were kept open between exchanges."""
    async with bench.open({"/kept": Scenario(PIECES)}, probe=False) as (transport, peer):
        if peer.in_process:
            raise SkippedCheck(IN_PROCESS)
        await read(transport, request_for(peer, "/kept"))
        with suppress(Exception):  # errors are checked by `aclose`
            await transport.aclose()
        closed = await peer.all_disconnected(until=anyio.current_time() + PROMPTLY)
        expect(closed, f"{peer.connections} connections were still open {PROMPTLY:g} s after `aclose`")


async def usable(bench: Bench) -> None:
    """After each of these checks an ordinary exchange on the same transport succeeds."""
    expect(not bench.unusable, "; ".join(f"after {check}: {why}" for check, why in bench.unusable.items()))


# --- cancellation -----------------------------------------------------------------------------------------------------


class _CancelledAt:
    """Awaits a coroutine, and cancels the scope at its n-th checkpoint.

    A coroutine waits by yielding to the event loop through all awaiting objects, so this object sees every checkpoint,
    on any event loop.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, None], n: int, scope: anyio.CancelScope) -> None:
        self.count = 0
        self._coroutine = coroutine
        self._n = n
        self._scope = scope

    def __await__(self) -> Generator[Any, Any, None]:
        waiting = self._coroutine.__await__()
        resume: Callable[[], Any] = functools.partial(waiting.send, None)
        while True:
            try:
                awaited = resume()
            except StopIteration:
                return
            self.count += 1
            if self.count == self._n:
                self._scope.cancel()
            try:
                value = yield awaited
            except BaseException as error:  # noqa: BLE001  (thrown into the coroutine)
                resume = functools.partial(waiting.throw, error)
            else:
                resume = functools.partial(waiting.send, value)


async def _two_exchanges(transport: Transport, peer: Peer, gate: anyio.Event) -> None:
    """Perform two exchanges, on one connection if the transport keeps it alive; the second waits in the middle."""
    for path in ("/whole", "/gated"):
        ended = False
        body = b""
        async with transport.exchange(request_for(peer, path)) as response:
            async for piece in response.chunks:
                body += piece
                if path == "/gated":
                    gate.set()
            ended = True
        expect(ended, "the cancellation was swallowed: the code after the block ran")
        expect(body == BODY, f"the body ended after {len(body)} of {len(BODY)} bytes")
    await checkpoint()  # delivers a cancellation that came while nothing could be interrupted


async def _cancel(bench: Bench, n: int) -> bool:
    """Cancel two exchanges at their n-th checkpoint; return whether there was such a checkpoint."""
    gate = anyio.Event()
    scenarios = {"/whole": Scenario(PIECES), "/gated": Scenario((*PIECES[:2], gate.wait, *PIECES[2:]))}
    async with bench.open(scenarios, probe=False) as (transport, peer):
        raised: BaseException | None = None
        scope = anyio.CancelScope()
        exchanges = _CancelledAt(_two_exchanges(transport, peer, gate), n, scope)
        with anyio.move_on_after(ENDING) as bound:
            try:
                with scope:  # catches cancellations, on trio also a group of them
                    await exchanges
            except BrokenPromise:
                raise
            except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001  (it is the finding)
                raised = error
        expect(not bound.cancel_called, f"the exchange had not ended {ENDING:g} s later")
        expect(raised is None, f"{shown(raised)} was raised instead of the cancellation")
        noticed = await peer.all_over(0, until=anyio.current_time() + PROMPTLY)
        expect(noticed, f"the other side had not noticed after {PROMPTLY:g} s")
        trouble = await bench.probe(transport, peer)
        expect(not trouble, f"the transport was unusable then: {trouble}")
        return exchanges.count >= n


LARGE: Final = bytes(16 * 1024 * 1024)
"""Larger than the buffers of a connection."""


@attrs.frozen
class _Stage:
    """A stage of an exchange; `scenario(hold)` makes it wait there."""

    scenario: Callable[[Wait], Scenario]
    body: bytes = b"question"
    certain: bool = True
    """Whether the exchange always reaches the stage; otherwise `status` checks that."""


def _held_in_the_body(code: int) -> Callable[[Wait], Scenario]:
    return lambda hold: Scenario((b"one, ", b"two, ", hold), status=code)


SENDING: Final = "while the body of the request was being sent"
STAGES: Final[Mapping[str, _Stage]] = {
    SENDING: _Stage(lambda hold: Scenario(PIECES, unread=hold), LARGE),
    "before the headers came": _Stage(lambda hold: Scenario(PIECES, before=hold)),
    **{
        f"within the body, the status {code}": _Stage(_held_in_the_body(code), certain=code == 200)
        for code in SOME_STATUSES
    },
}


async def _cancel_in(bench: Bench, name: str, stage: _Stage) -> None:
    """Cancel an exchange while it waits at `stage`."""
    reached, released = anyio.Event(), anyio.Event()

    async def hold() -> None:
        reached.set()
        await released.wait()

    async with bench.open({"/held": stage.scenario(hold)}, probe=False) as (transport, peer):
        if peer.in_process and name == SENDING:
            return
        raised: Exception | None = None
        scope = anyio.CancelScope()

        async def cancel() -> None:
            await reached.wait()
            scope.cancel()

        with anyio.move_on_after(ENDING) as bound:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cancel)
                try:
                    with scope:
                        await read(transport, request_for(peer, "/held", body=stage.body))
                except Exception as error:  # noqa: BLE001  (it is the finding)
                    raised = error
                tasks.cancel_scope.cancel()
        if not reached.is_set() and not stage.certain:
            return
        expect(reached.is_set(), f"the exchange ended with {shown(raised)} before it could be cancelled")
        expect(not bound.cancel_called, f"the exchange had not ended {ENDING:g} s later")
        expect(raised is None, f"{shown(raised)} was raised instead of the cancellation")
        expect(scope.cancelled_caught, "the cancellation was swallowed")
        if name == SENDING:
            released.set()  # the other side reads on, to the end of the connection or of the request
            closed = await peer.all_disconnected(until=anyio.current_time() + PROMPTLY)
            expect(not peer.visits, "the request was still sent completely")
            expect(closed, f"the connection was still open after {PROMPTLY:g} s")
        noticed = await peer.all_over(0 if name == SENDING else 1, until=anyio.current_time() + PROMPTLY)
        expect(noticed, f"the other side had not noticed after {PROMPTLY:g} s")
        trouble = await bench.probe(transport, peer)
        expect(not trouble, f"the transport was unusable then: {trouble}")


async def cancelled(bench: Bench) -> None:
    """Cancelled at any checkpoint, an exchange ends, the other side notices, and the transport stays usable."""
    try:
        while await _cancel(bench, bench.checkpoints + 1):
            bench.checkpoints += 1
    except BrokenPromise as found:
        raise BrokenPromise(f"cancelled at checkpoint {bench.checkpoints + 1}: {found}") from found
    bench.checkpoints -= 1  # without the check's own
    for name, stage in STAGES.items():
        try:
            await _cancel_in(bench, name, stage)
        except BrokenPromise as found:
            raise BrokenPromise(f"cancelled {name}: {found}") from found


CONNECTING_SECONDS: Final = 0.2
"""Seconds until an exchange that waits for its connection is cancelled."""
SYN_SECONDS: Final = 1.3
"""Seconds until the system retries to connect: 1 s (RFC 6298), and a margin."""


async def connecting(bench: Bench) -> None:
    """Cancelled while it connects, an exchange ends; no connection is made and nothing sent later."""
    async with bench.open({"/late": Scenario(PIECES)}, full=True, probe=False) as (transport, peer):
        if peer.in_process:
            raise SkippedCheck(IN_PROCESS)
        with anyio.move_on_after(ENDING) as bound:
            with anyio.move_on_after(CONNECTING_SECONDS):
                await _failure(transport, request_for(peer, "/late"))
        expect(not bound.cancel_called, f"the exchange had not ended {ENDING:g} s later")
        peer.accept()
        await anyio.sleep(SYN_SECONDS)
        expect(not peer.visits, "the request was sent after the exchange had been cancelled")
        closed = await peer.all_disconnected(until=anyio.current_time() + PROMPTLY)
        expect(closed, "a connection was made after the exchange had been cancelled, and stayed open")


async def closing(bench: Bench) -> None:
    """Cancelled at any checkpoint, `aclose` ends; after another `aclose` no connection is open."""
    n = 0
    while True:
        n += 1
        async with bench.open({"/used": Scenario(PIECES)}, probe=False) as (transport, peer):
            if peer.in_process:
                raise SkippedCheck(IN_PROCESS)
            await read(transport, request_for(peer, "/used"))
            scope = anyio.CancelScope()
            closes = _CancelledAt(transport.aclose(), n, scope)
            with anyio.move_on_after(PATIENTLY) as bound, suppress(Exception), scope:  # errors: the check `aclose`
                await closes
            expect(not bound.cancel_called, f"cancelled at checkpoint {n}, it had not ended after {PATIENTLY:g} s")
            await bench.close(transport)
            closed = await peer.all_disconnected(until=anyio.current_time() + PROMPTLY)
            finding = f"cancelled at checkpoint {n}, then called again: {peer.connections} connections stayed open"
            expect(closed, finding)
            if closes.count < n:
                return


# --- the table ------------------------------------------------------------------------------------------------------

Check: TypeAlias = Callable[[Bench], Awaitable[None]]


def _by_name(*checks: Check) -> Mapping[str, Check]:
    return {getattr(check, "__name__", ""): check for check in checks}


CHECKS: Final = _by_name(
    live,
    exact,
    undecoded,
    left_early,
    own_exception,
    abandoned,
    refused,
    broken_head,
    broken_body,
    reset_unframed,
    as_given,
    lower_case,
    status,
    redirect,
    once,
    concurrent,
    no_open_scope,
    aclose,
    closes_kept,
    cancelled,
    connecting,
    closing,
    usable,  # last: it reports on the transports of all others
)
TRANSPORT_PROMISES: Final[Mapping[str, str]] = {name: str(check.__doc__) for name, check in CHECKS.items()}
"""The checks of `check_transport`: each name with the promise that it tests."""
