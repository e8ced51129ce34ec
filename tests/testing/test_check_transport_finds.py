"""Faults that `check_transport` finds: for each promise a transport that breaks it and keeps all others.

Rule 1: a broken transport is a good one with one realistic fault.
Rule 2: it is found by the check of the promise, and by no other.
Rule 3: all is in process and in virtual time; tests that need a network are in test_check_transport.py.
"""

from __future__ import annotations

import gzip
import socket
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import anyio
import attrs
import pytest
from anyio.lowlevel import checkpoint

from oxygent_client import HTTPRequest, HTTPResponse, Transport
from oxygent_client.errors import (
    ConnectError,
    ConnectionLostError,
    OxyError,
    RemoteProtocolError,
    StatusError,
)
from oxygent_client.testing import (
    TRANSPORT_PROMISES,
    FakeTransport,
    Peer,
    TransportCheckError,
    check_transport,
)
from oxygent_client.transports.asgi import ASGITransport
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

LOST: Final = (ConnectionLostError, RemoteProtocolError)


class Wrapper:
    """A transport that wraps another, unchanged."""

    def __init__(self, inner: Transport) -> None:
        self.inner = inner

    def exchange(self, request: HTTPRequest, /) -> AbstractAsyncContextManager[HTTPResponse]:
        return self.inner.exchange(request)

    async def aclose(self) -> None:
        await self.inner.aclose()


class Pieces:
    """Chunks, unchanged."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self.chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self.chunks)


class Reads(Wrapper):
    """A wrapper with other chunks."""

    def __init__(self, inner: Transport, pieces: type[Pieces]) -> None:
        super().__init__(inner)
        self.pieces = pieces

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(request) as response:
            yield attrs.evolve(response, chunks=self.pieces(response.chunks))


# --- the body ---------------------------------------------------------------------------------------------------------


class LooksAhead(Pieces):
    """Returns each chunk only after the next has arrived."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        super().__init__(chunks)
        self.kept: list[bytes] = []
        self.ended = False

    async def __anext__(self) -> bytes:
        while len(self.kept) < 2 and not self.ended:
            try:
                self.kept.append(await anext(self.chunks))
            except StopAsyncIteration:
                self.ended = True
        if not self.kept:
            raise StopAsyncIteration
        return self.kept.pop(0)


class ReadsLines(Pieces):
    """Knows one kind of line end."""

    async def __anext__(self) -> bytes:
        return (await super().__anext__()).replace(b"\r\n", b"\n")


class Unpacks(Wrapper):
    """Decompresses gzip."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(request) as response:
            if response.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(b"".join([piece async for piece in response.chunks]))
                inner = FakeTransport.script(body)
                async with inner.exchange(attrs.evolve(request, path="/sse/chat")) as unpacked:
                    yield attrs.evolve(response, chunks=unpacked.chunks)
            else:
                yield response


# --- leaving ----------------------------------------------------------------------------------------------------------


class Drains(Wrapper):
    """Reads the rest of the body when left, however long it is."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(request) as response:
            yield response
            async for _ in response.chunks:
                pass


class LingersOn(Wrapper):
    """Keeps the exchange open when the caller's block fails, until `aclose`."""

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner)
        self.open: list[AbstractAsyncContextManager[HTTPResponse]] = []
        self.lingers: Callable[[BaseException], bool] = lambda error: type(error) is Exception

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        exchange = self.inner.exchange(request)
        response = await exchange.__aenter__()
        try:
            yield response
        except BaseException as error:
            if self.lingers(error):
                self.open.append(exchange)
                raise
            await exchange.__aexit__(type(error), error, error.__traceback__)
            raise
        await exchange.__aexit__(None, None, None)

    async def aclose(self) -> None:
        while self.open:
            await self.open.pop().__aexit__(None, None, None)
        await super().aclose()


class Translates(Wrapper):
    """Turns each error into a connection error."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        try:
            async with self.inner.exchange(request) as response:
                yield response
        except OxyError:
            raise
        except Exception as error:
            raise ConnectionLostError("lost") from error


class Groups(Wrapper):
    """Wraps what is no Exception in a group, as a task group does."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(request) as response:
            try:
                yield response
            except (Exception, GeneratorExit, anyio.get_cancelled_exc_class()):
                raise
            except BaseException as error:  # noqa: BLE001  (the fault)
                raise BaseExceptionGroup("unhandled errors in a TaskGroup", [error]) from None


class Swallows(Wrapper):
    """Swallows the caller's exceptions."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(request) as response:
            with suppress(ConnectionResetError):
                yield response


class Forgets(Pieces):
    """Leaves a socket to the garbage collector when a body was not read to its end."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        super().__init__(chunks)
        self.forgotten = socket.socket()

    async def __anext__(self) -> bytes:
        try:
            return await super().__anext__()
        except StopAsyncIteration:
            self.forgotten.close()
            raise


# --- the other side's fault -------------------------------------------------------------------------------------------


class SaysUnsent(Wrapper):
    """Reports a connection lost before the headers as one that was never made."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        entered = False
        try:
            async with self.inner.exchange(request) as response:
                entered = True
                yield response
        except LOST as error:
            if entered:
                raise
            raise ConnectError("no connection") from error


class EndsWell(Pieces):
    """Takes a broken body for a complete one."""

    async def __anext__(self) -> bytes:
        try:
            return await super().__anext__()
        except LOST:
            raise StopAsyncIteration from None


class Raw(Pieces):
    """Raises an exception of its library."""

    async def __anext__(self) -> bytes:
        try:
            return await super().__anext__()
        except LOST:
            raise anyio.BrokenResourceError from None


class SaysNothingWasDone(Pieces):
    """Reports NOT_SENT when the request may have run."""

    async def __anext__(self) -> bytes:
        try:
            return await super().__anext__()
        except LOST:
            raise ConnectionLostError("lost", outcome=ConnectError.default_outcome) from None


class Invents(Pieces):
    """Fills up a body that was cut."""

    broken: Exception | None = None

    async def __anext__(self) -> bytes:
        if self.broken:
            raise self.broken
        try:
            return await super().__anext__()
        except LOST as error:
            self.broken = error
            return b"event: close\r\n\r\n"


# --- the request and the response -------------------------------------------------------------------------------------


class Changes(Wrapper):
    """Sends another request than it was given."""

    @staticmethod
    def change(request: HTTPRequest) -> HTTPRequest:
        return request

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(self.change(request)) as response:
            yield attrs.evolve(response, request=request)


class ForgetsTheQuery(Changes):
    """Joins base URL and path by string concatenation."""

    @staticmethod
    def change(request: HTTPRequest) -> HTTPRequest:
        return attrs.evolve(request, base_url=request.base_url.partition("?")[0])


class ForgetsAHeader(Changes):
    """Sends known headers only."""

    @staticmethod
    def change(request: HTTPRequest) -> HTTPRequest:
        return attrs.evolve(request, headers={name: value for name, value in request.headers.items() if name[0] != "X"})


class CutsTheBody(Changes):
    """Cuts the body after so many bytes."""

    @staticmethod
    def change(request: HTTPRequest) -> HTTPRequest:
        return attrs.evolve(request, body=request.body[:65536])


class Mutates(Wrapper):
    """Changes the caller's request."""

    def exchange(self, request: HTTPRequest, /) -> AbstractAsyncContextManager[HTTPResponse]:
        object.__setattr__(request, "headers", {**request.headers, "x-seen": "yes"})
        return super().exchange(request)


class SaysAnotherWasSent(Wrapper):
    """Does not return the request that was sent."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(request) as response:
            yield attrs.evolve(response, request=HTTPRequest("GET", "http://elsewhere", "/"))


class AsksFirst(Wrapper):
    """Sends a request of its own before the first GET."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        if request.context.purpose == "health":
            async with self.inner.exchange(request):
                pass
        async with self.inner.exchange(request) as response:
            yield response


class _OtherHeaders(Wrapper):
    change: Callable[[str, str], tuple[str, str]]

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(request) as response:
            changed = dict(type(self).change(name, value) for name, value in response.headers.items())
            yield attrs.evolve(response, headers=changed)


class BothCases(Wrapper):
    """Returns each header twice."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(request) as response:
            titled = {name.title(): value for name, value in response.headers.items()}
            yield attrs.evolve(response, headers={**titled, **response.headers})


class TitleCase(_OtherHeaders):
    """Returns header names in title case."""

    @staticmethod
    def change(name: str, value: str) -> tuple[str, str]:
        # Redirect targets and content codings are tested by other checks.
        return (name if name in ("location", "content-encoding") else name.title()), value


class LowersValues(_OtherHeaders):
    """Returns header values in lower case."""

    @staticmethod
    def change(name: str, value: str) -> tuple[str, str]:
        return name, value.lower()


class Raises(Wrapper):
    """Raises an error for an error status."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(request) as response:
            if response.status >= 400:
                raise StatusError("not good", status=response.status)
            yield response


class Generalizes(Wrapper):
    """Knows two statuses."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(request) as response:
            yield attrs.evolve(response, status=200 if response.status < 300 else response.status)


class DropsErrorBodies(Wrapper):
    """Drops the body of an error."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(request) as response:
            yield response if response.status < 400 else attrs.evolve(response, chunks=Nothing())


class Nothing:
    """An empty body."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


class Follows(Wrapper):
    """Follows a redirect."""

    code = 307

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(request) as response:
            location = response.headers.get("location")
            if response.status != self.code or location is None:
                yield response
                return
        async with self.inner.exchange(attrs.evolve(request, path=location)) as response:
            yield response


class FollowsInSecret(Wrapper):
    """Requests the target of a redirect, and drops the result."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(request) as response:
            if (location := response.headers.get("location")) is not None:
                async with self.inner.exchange(attrs.evolve(request, path=location)):
                    pass
            yield response


class HangsAtRedirects(Wrapper):
    """Hangs at a redirect."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(request) as response:
            if response.status == 303:
                await anyio.sleep_forever()
            yield response


class TriesTwice(Wrapper):
    """Retries once when the connection was lost before the headers."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        first, entered = self.inner.exchange(request), self.inner.exchange(request)
        try:
            response = await first.__aenter__()
            entered = first
        except LOST:
            response = await entered.__aenter__()
        try:
            yield response
        except BaseException as error:
            await entered.__aexit__(type(error), error, error.__traceback__)
            raise
        await entered.__aexit__(None, None, None)


# --- many exchanges, scopes, closing ----------------------------------------------------------------------------------


class Mixes(Wrapper):
    """Shares the state of an exchange between exchanges."""

    latest = b""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(request) as response:
            yield attrs.evolve(response, chunks=MixedPieces(self, response.chunks))


class MixedPieces(Pieces):
    """Returns the last chunk of any exchange."""

    def __init__(self, mixes: Mixes, chunks: AsyncIterator[bytes]) -> None:
        super().__init__(chunks)
        self.mixes = mixes

    async def __anext__(self) -> bytes:
        self.mixes.latest = await anext(self.chunks)
        await checkpoint()
        return self.mixes.latest


class TakesTurns(Wrapper):
    """Allows one exchange at a time."""

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner)
        self.turn = anyio.Semaphore(19)

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.turn, self.inner.exchange(request) as response:
            yield response


class OwnDeadline(Wrapper):
    """Has a time-out over the whole exchange."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        with anyio.fail_after(3600):
            async with self.inner.exchange(request) as response:
                yield response


class ClosesOnce(Wrapper):
    """Cannot be closed twice."""

    closed = False

    async def aclose(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True
        await super().aclose()


class NeverCloses(Wrapper):
    """Hangs in `aclose`."""

    async def aclose(self) -> None:
        await super().aclose()
        await anyio.sleep_forever()


# --- cancellation -----------------------------------------------------------------------------------------------------


class WrapsCancellation(Pieces):
    """Takes a cancellation for a lost connection."""

    async def __anext__(self) -> bytes:
        try:
            return await super().__anext__()
        except anyio.get_cancelled_exc_class():
            raise ConnectionLostError("lost") from None


class EndsWhenCancelled(Pieces):
    """Takes a cancellation for the end."""

    async def __anext__(self) -> bytes:
        try:
            return await super().__anext__()
        except anyio.get_cancelled_exc_class():
            raise StopAsyncIteration from None


class SwallowsCancellation(Wrapper):
    """Swallows a cancellation."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(request) as response:
            try:
                yield response
            except anyio.get_cancelled_exc_class():
                pass


class LingersWhenCancelled(LingersOn):
    """Keeps the exchange open when it is cancelled."""

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner)
        self.lingers = lambda error: isinstance(error, anyio.get_cancelled_exc_class())


class LingersAtErrors(Wrapper):
    """Keeps the exchange open when it is cancelled while it reads the body of an error."""

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner)
        self.open: list[AsyncExitStack] = []

    async def aclose(self) -> None:
        while self.open:
            await self.open.pop().aclose()
        await super().aclose()

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with AsyncExitStack() as stack:
            response = await stack.enter_async_context(self.inner.exchange(request))
            try:
                yield response
            except anyio.get_cancelled_exc_class():
                if response.status >= 400:
                    self.open.append(stack.pop_all())
                raise


class HoldsOn(Wrapper):
    """Keeps the exchange for a minute after a cancellation."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(request) as response:
            try:
                yield response
            except anyio.get_cancelled_exc_class():
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(60)
                raise


class Breaks(Wrapper):
    """Fails after some event."""

    broken = False

    @staticmethod
    def by(error: BaseException) -> bool:
        return isinstance(error, anyio.get_cancelled_exc_class())

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        if self.broken:
            await self.refuse()
        try:
            async with self.inner.exchange(request) as response:
                yield response
        except BaseException as error:
            self.broken = self.broken or self.by(error)
            raise

    async def refuse(self) -> None:
        raise ConnectError("the pool is broken")


class BreaksByLoss(Breaks):
    """Fails after a lost connection."""

    @staticmethod
    def by(error: BaseException) -> bool:
        return isinstance(error, LOST)


class HangsByLoss(BreaksByLoss):
    """Hangs after a lost connection."""

    async def refuse(self) -> None:
        await anyio.sleep_forever()


class AnswersByLoss(BreaksByLoss):
    """Sends all requests elsewhere after a lost connection."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        sent = attrs.evolve(request, path="/elsewhere") if self.broken else request
        self.broken, was = False, self.broken
        async with super().exchange(sent) as response:
            yield response
        self.broken = was


# --- the table --------------------------------------------------------------------------------------------------------

BROKEN: Final[list[tuple[str, type[Wrapper | Pieces], str]]] = [
    ("live", LooksAhead, "the first chunk was sent, and the second not yet"),
    ("exact", ReadsLines, "other bytes"),
    ("undecoded", Unpacks, "content-encoding 'gzip', and the body b'one, two, three'"),
    ("left_early", Drains, "longer than 1 s"),
    ("left_early", LingersOn, "by an exception; the other side had not noticed after 1 s"),
    ("own_exception", Translates, "ConnectionLostError('lost')"),
    ("own_exception", Groups, "BaseExceptionGroup("),
    ("own_exception", Swallows, "no error"),
    ("abandoned", Forgets, "unclosed <socket"),
    ("broken_head", SaysUnsent, "ConnectError('no connection')"),
    ("broken_body", EndsWell, "no error"),
    ("broken_body", Raw, "BrokenResourceError('')"),
    ("broken_body", SaysNothingWasDone, "outcome not_sent"),
    ("broken_body", Invents, "bytes that were never sent"),
    ("as_given", ForgetsTheQuery, "/prefix/a%20b/c%2Fd arrived"),
    ("as_given", ForgetsAHeader, "the header X-Check was"),
    ("as_given", CutsTheBody, "262144 bytes; 65536 other bytes"),
    ("as_given", Mutates, "request was changed"),
    ("as_given", SaysAnotherWasSent, "response.request is <HTTPRequest GET http://elsewhere"),
    ("as_given", AsksFirst, "2 requests"),
    ("lower_case", TitleCase, "'content-type' is None"),
    ("lower_case", LowersValues, "is 'text/event-stream; charset=utf-8'"),
    ("lower_case", BothCases, "not in lower case: ['Content-Type'"),
    ("status", Raises, "400: StatusError('not good')"),
    ("status", Generalizes, "201 was sent, and 200"),
    ("status", DropsErrorBodies, "400: the body was b''"),
    ("redirect", Follows, "POST, 307: 200, b'elsewhere', None"),
    ("redirect", FollowsInSecret, "POST, 301:"),
    ("redirect", HangsAtRedirects, "not ended after 5 s"),
    ("once", TriesTwice, "/once/closed: sent 2 times"),
    ("concurrent", Mixes, "was sent"),
    ("concurrent", TakesTurns, "19 of 20"),
    ("no_open_scope", OwnDeadline, "in which the exchange was entered, ended with RuntimeError"),
    ("aclose", ClosesOnce, "the second call raised RuntimeError('closed already')"),
    ("aclose", NeverCloses, "not ended after 5 s"),
    ("cancelled", WrapsCancellation, "ConnectionLostError('lost')"),
    ("cancelled", EndsWhenCancelled, "after 10 of 15 bytes"),
    ("cancelled", SwallowsCancellation, "the cancellation was swallowed"),
    ("cancelled", LingersWhenCancelled, "the other side had not noticed after 1 s"),
    ("cancelled", LingersAtErrors, "within the body, the status 401: the other side had not noticed after 1 s"),
    ("cancelled", HoldsOn, "not ended after 5 s"),
    ("cancelled", Breaks, "unusable then: an ordinary exchange ended with ConnectError('the pool is broken')"),
    ("usable", BreaksByLoss, "after broken_head: an ordinary exchange ended with ConnectError('the pool is broken')"),
    ("usable", HangsByLoss, "an ordinary exchange did not end within 2 s"),
    ("usable", AnswersByLoss, "status 404 and the body"),
]


WITHOUT_WAITING: Final = (WrapsCancellation, EndsWhenCancelled, SwallowsCancellation)
"""The faults of these are hidden by a transport that waits while it is left: it is cancelled again."""


def inner(broken: type[Wrapper | Pieces], peer: Peer) -> Transport:
    """Return the good transport in a broken one."""
    return FakeTransport(peer.replies) if broken in WITHOUT_WAITING else ASGITransport(peer.app)


@pytest.mark.seconds
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize(("check", "broken", "seen"), BROKEN, ids=[broken.__name__ for _, broken, _ in BROKEN])
async def test_a_broken_transport(check: str, broken: type[Wrapper | Pieces], seen: str) -> None:
    """Exactly the broken promise is found, with an observation."""
    with pytest.raises(TransportCheckError) as raised:
        if issubclass(broken, Wrapper):
            await check_transport(lambda peer: broken(inner(broken, peer)))
        else:
            await check_transport(lambda peer: Reads(inner(broken, peer), broken))
    text = str(raised.value)
    assert raised.value.failed == (check,), text
    assert seen in raised.value.report.notes[check]
    assert seen in text
    assert TRANSPORT_PROMISES[check] in text


class LeavesAScopeOpen(Wrapper):
    """Enters a cancel scope and never leaves it."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        async with self.inner.exchange(request) as response:
            anyio.CancelScope().__enter__()
            yield response


async def test_a_transport_that_breaks_its_tasks() -> None:
    """A transport that breaks each of its tasks is reported, and other checks still run."""
    with pytest.raises(TransportCheckError) as raised:
        await check_transport(lambda peer: LeavesAScopeOpen(FakeTransport(peer.replies)))
    assert "no_open_scope" in raised.value.failed
    await check_transport(lambda peer: FakeTransport(peer.replies))
