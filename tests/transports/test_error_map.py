"""Each exception of the libraries below the transports, and the error that each transport raises for it.

Rule 1: a class that a new release of a library adds fails by its name until a table here has it.
Rule 2: exceptions are raised by the library's own client, or where aiohttp's session would: nothing is patched.
Rule 3: the outcome is NOT_SENT only for errors while a request is opened, never while a response is read.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import ssl
import zlib
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import aiohttp
import aiohttp.http
import anyio
import attrs
import h2.exceptions
import h11
import hpack
import httpcore
import httpcore2
import httpx
import httpx2
import httpx_sse
import hyperframe.exceptions
import idna
import pytest
import trio
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from oxygent_client import HTTPRequest, HTTPXTransport, Outcome, errors
from oxygent_client.transports import Context
from oxygent_client.transports._environment import Proxies
from oxygent_client.transports._error_map import ErrorMap
from oxygent_client.transports._http_base import LoopClients
from oxygent_client.transports.aiohttp import AiohttpTransport
from oxygent_client.transports.httpx2 import HTTPX2Transport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

    from oxygent_client import Transport

SECRET_URL: Final = "https://user:secret@remote.test/?k=secret"
REQUEST: Final = HTTPRequest("POST", SECRET_URL, "/sse/chat", body=b"{}", context=Context())

# --------------------------------------------------------------------------------------------------- Raising exceptions


class Raising:
    """A transport of httpx or httpx2, or a session of aiohttp, that raises an exception at a given phase."""

    def __init__(self, library: Any, error: Exception, phase: str) -> None:
        self._library = library
        self._error = error
        self._phase = phase

    def _raise_in(self, phase: str) -> None:
        if phase == self._phase:
            raise self._error

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield a body of one chunk."""
        yield b": begun\n\n"
        self._raise_in("reading")

    # --- what httpx calls on a transport and a body ---

    async def handle_async_request(self, request: Any) -> Any:
        """Return a response, or raise if this is the phase."""
        self._raise_in("opening")
        headers = {"content-type": "text/event-stream"}
        return self._library.Response(200, headers=headers, stream=_body(self._library, self))

    async def leave(self) -> None:
        """End the body."""
        self._raise_in("leaving")

    async def aclose(self) -> None:
        """Close the client of httpx."""
        self._raise_in("closing")

    async def close(self) -> None:
        """Close the session of aiohttp."""
        self._raise_in("closing")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    # --- what our transport calls on a session of aiohttp ---

    closed = False
    timeout = aiohttp.ClientTimeout()

    async def request(self, *_: object, **__: object) -> Any:
        """Return a response, or raise if this is the phase."""
        self._raise_in("opening")
        pieces = self.pieces()

        async def readany() -> bytes:
            return await anext(pieces, b"")

        return SimpleNamespace(
            status=200,
            headers=CIMultiDict({"content-length": "99"}),
            # It has nothing left.
            content=SimpleNamespace(readany=readany, read_nowait=_nothing, _read_nowait=_nothing, at_eof=bool),
            request_info=SimpleNamespace(headers={}),
            close=lambda: None,
        )


def _nothing(_: int = -1) -> bytes:
    return b""


def _body(library: Any, raising: Raising) -> Any:
    """Return a stream of `library`'s own kind."""

    async def iterate(_: object) -> AsyncIterator[bytes]:
        async for piece in raising.pieces():
            yield piece

    async def aclose(_: object) -> None:
        await raising.leave()

    return type("Body", (library.AsyncByteStream,), {"__aiter__": iterate, "aclose": aclose})()


CONFIGURATION, CONNECT, LATE = errors.ConfigurationError, errors.ConnectError, errors.ConnectTimeoutError
LOST, PROTOCOL, TLS = errors.ConnectionLostError, errors.RemoteProtocolError, errors.TLSError
UNFORESEEN: Final = None
"""Stands for a class without a rule: a lost connection, without the exception's text."""
Table: TypeAlias = "dict[type[errors.OxyError] | None, str]"
"""Our error class: the names of the library's exceptions that it is raised for."""


@attrs.frozen
class Library:
    """A library, and our transport over it."""

    name: str
    module: Any
    transport: Callable[..., Transport]
    expected: Table
    secretive: str = ""
    """The exceptions whose text is not shown."""
    while_reading: dict[str, type[errors.OxyError]] = attrs.field(factory=dict[str, type[errors.OxyError]])
    """Exceptions that mean something else while a response is read."""

    def client(self, error: Exception, phase: str) -> Any:
        """Return a client or session in which `error` is raised."""
        if self.module is aiohttp:
            return Raising(self.module, error, phase)
        base = type("Base", (Raising, self.module.AsyncBaseTransport), {})
        return self.module.AsyncClient(transport=base(self.module, error, phase), trust_env=False)

    @asynccontextmanager
    async def raising(self, error: Exception, phase: str) -> AsyncGenerator[Transport, None]:
        """Return our transport over it."""
        async with self.client(error, phase) as client:
            yield self.transport(**{"session" if self.module is aiohttp else "client": client})


OF_HTTPX: Final[Table] = {
    LATE: "ConnectTimeout PoolTimeout",
    CONNECT: "ConnectError ProxyError",
    CONFIGURATION: "UnsupportedProtocol LocalProtocolError",
    PROTOCOL: (
        "RemoteProtocolError DecodingError HTTPStatusError TooManyRedirects CookieConflict"
        " InvalidURL"  # the request's own URL is valid, so it is the `Location` of a redirect
    ),
    LOST: (
        "StreamError StreamConsumed StreamClosed ResponseNotRead RequestNotRead"
        " HTTPError RequestError TransportError TimeoutException ReadTimeout WriteTimeout NetworkError ReadError"
        " WriteError CloseError ProtocolError SSEError"
    ),
}
OF_AIOHTTP: Final[Table] = {
    TLS: "ClientSSLError ClientConnectorSSLError ClientConnectorCertificateError ServerFingerprintMismatch",
    LATE: "ConnectionTimeoutError",
    CONNECT: (
        "ClientProxyConnectionError ClientHttpProxyError ClientConnectorError ClientConnectorDNSError"
        " UnixClientConnectorError"
    ),
    CONFIGURATION: (
        "InvalidURL InvalidUrlClientError NonHttpUrlClientError InvalidUrlRedirectClientError"
        " NonHttpUrlRedirectClientError"
    ),
    PROTOCOL: (
        "ClientResponseError ContentTypeError WSServerHandshakeError TooManyRedirects RedirectClientError"
        # The parser's own:
        " BadHttpMessage BadHttpMethod BadStatusLine ContentEncodingError ContentLengthError DecompressSizeError"
        " HttpBadRequest HttpProcessingError InvalidHeader InvalidURLError LineTooLong PayloadEncodingError"
        " TransferEncodingError"
    ),
    LOST: (
        "ClientError ClientConnectionError ClientConnectionResetError ClientOSError ServerConnectionError"
        " ServerDisconnectedError ServerTimeoutError SocketTimeoutError ClientPayloadError UploadAbortedError"
    ),
    UNFORESEEN: "EofStream WSHandshakeError WSMessageTypeError WebSocketError LookupError TooManyMembersError",
}
QUOTING: Final = (
    "ConnectionTimeoutError InvalidURL InvalidUrlClientError NonHttpUrlClientError InvalidUrlRedirectClientError"
    " NonHttpUrlRedirectClientError RedirectClientError ServerDisconnectedError BadHttpMessage BadHttpMethod"
    " BadStatusLine ContentEncodingError ContentLengthError DecompressSizeError HttpBadRequest HttpProcessingError"
    " InvalidHeader InvalidURLError LineTooLong PayloadEncodingError TransferEncodingError"
)
SECRETIVE: Final = "LocalProtocolError HTTPStatusError"

LIBRARIES: Final = {
    "httpx": Library("httpx", httpx, HTTPXTransport, OF_HTTPX, SECRETIVE, {"InvalidURL": LOST}),
    "httpx2": Library("httpx2", httpx2, HTTPX2Transport, OF_HTTPX, SECRETIVE, {"InvalidURL": LOST}),
    "aiohttp": Library("aiohttp", aiohttp, AiohttpTransport, OF_AIOHTTP, QUOTING),
}

BELOW: Final[dict[str, tuple[Any, Table]]] = {
    # libraries below: (the namespace, likewise)
    "ssl": (
        ssl,
        {
            TLS: "SSLCertVerificationError",
            LOST: ("SSLError SSLEOFError SSLSyscallError SSLWantReadError SSLWantWriteError SSLZeroReturnError"),
        },
    ),
    "zlib": (zlib, {PROTOCOL: "error"}),
    "socket": (socket, {CONNECT: "gaierror", LOST: "herror"}),
    "asyncio": (
        asyncio,
        {
            UNFORESEEN: (
                "BrokenBarrierError IncompleteReadError InvalidStateError LimitOverrunError QueueEmpty QueueFull"
                " QueueShutDown SendfileNotAvailableError"
            )
        },
    ),
    "anyio": (
        anyio,
        {
            LOST: "ConnectionFailed",
            UNFORESEEN: (
                "BrokenResourceError BrokenWorkerInterpreter BrokenWorkerProcess BusyResourceError ClosedResourceError"
                " DelimiterNotFound EndOfStream FutureAlreadyFinished FutureCancelled FutureFailed FutureNotFinished"
                " IncompleteRead NoEventLoopError RunFinishedError TaskCancelled TaskFailed TaskNotFinished"
                " TypedAttributeLookupError WouldBlock"
            ),
        },
    ),
    "trio": (
        trio,
        {
            UNFORESEEN: (
                "BrokenResourceError BusyResourceError ClosedResourceError EndOfChannel NeedHandshakeError"
                " RunFinishedError TooSlowError TrioInternalError WouldBlock"
            )
        },
    ),
    "h11": (h11, {UNFORESEEN: "LocalProtocolError RemoteProtocolError"}),
    "h2": (
        h2.exceptions,
        {
            UNFORESEEN: (
                "DenialOfServiceError FlowControlError FrameDataMissingError FrameTooLargeError H2Error"
                " InvalidBodyLengthError InvalidSettingsValueError NoAvailableStreamIDError NoSuchStreamError"
                " ProtocolError RFC1122Error StreamClosedError StreamIDTooLowError TooManyStreamsError"
                " UnsupportedFrameError"
            )
        },
    ),
    "hpack": (
        hpack,
        {
            UNFORESEEN: (
                "HPACKDecodingError HPACKError InvalidTableIndex InvalidTableIndexError InvalidTableSizeError"
                " OversizedHeaderListError"
            )
        },
    ),
    "hyperframe": (
        hyperframe.exceptions,
        {UNFORESEEN: "HyperframeError InvalidDataError InvalidFrameError InvalidPaddingError UnknownFrameError"},
    ),
    "idna": (
        idna,
        {CONFIGURATION: ("IDNABidiError IDNAError InvalidCodepoint InvalidCodepointContext")},
    ),
    "httpcore": (
        httpcore,
        {
            UNFORESEEN: (
                "ConnectError ConnectTimeout ConnectionNotAvailable LocalProtocolError NetworkError PoolTimeout"
                " ProtocolError ProxyError ReadError ReadTimeout RemoteProtocolError TimeoutException"
                " UnsupportedProtocol WriteError WriteTimeout"
            )
        },
    ),
    "builtins": (
        SimpleNamespace(__name__="builtins", OSError=OSError, UnicodeError=UnicodeError),
        {
            CONNECT: "ConnectionRefusedError",
            PROTOCOL: "UnicodeDecodeError",
            CONFIGURATION: ("UnicodeError UnicodeEncodeError UnicodeTranslateError"),
            LOST: (
                "OSError BlockingIOError ChildProcessError ConnectionError BrokenPipeError ConnectionAbortedError"
                " ConnectionResetError FileExistsError FileNotFoundError InterruptedError IsADirectoryError"
                " NotADirectoryError PermissionError ProcessLookupError TimeoutError"
            ),
        },
    ),
}
BELOW["httpcore2"] = (httpcore2, BELOW["httpcore"][1])

ELSEWHERE: Final[dict[str, str]] = {
    "asyncio.CancelledError": "cancellation passes through as it is",
    "trio.Cancelled": "cancellation passes through as it is",
    "trio.TrioDeprecationWarning": "a warning",
    "httpx2.HTTPXDeprecationWarning": "a warning",
    "aiohttp.BadContentDispositionHeader": "a warning",
    "aiohttp.BadContentDispositionParam": "a warning",
    "h11.ProtocolError": "abstract: it refuses to be made",
    "socket._GiveupOnSendfile": "private to `socket.sendfile`, which nobody calls",
}
"""Exceptions that cannot occur in an exchange, with the reason."""
NOT_EVERYWHERE: Final = {
    "asyncio": "QueueShutDown",
    "aiohttp": (
        "ClientConnectionResetError ClientConnectorDNSError UploadAbortedError UnixClientConnectorError"
        " TooManyMembersError DecompressSizeError WSHandshakeError"
    ),
    "anyio": (
        "BrokenWorkerInterpreter ConnectionFailed FutureAlreadyFinished FutureCancelled FutureFailed"
        " FutureNotFinished NoEventLoopError RunFinishedError TaskCancelled TaskFailed TaskNotFinished"
    ),
    "hpack": "InvalidTableIndexError",
    "httpx": "SSEError",
}
"""Classes that a supported release may lack; httpx has its SSEError from httpx-sse, if that was imported."""


def _below(cls: type[BaseException]) -> Iterator[type[BaseException]]:
    yield cls
    for below in cls.__subclasses__():
        yield from _below(below)


def found(module: Any) -> dict[str, type[Exception]]:
    """Return each exception of a library, public or below a public one, by its name."""
    package = module.__name__.partition(".")[0]
    known = [getattr(module, name) for name in dir(module)]
    public = [value for value in known if isinstance(value, type) and issubclass(value, BaseException)]
    classes = {below for cls in public for below in _below(cls)}
    own = {cls for cls in classes if cls.__module__.partition(".")[0] in (package, f"_{package}")}
    if module is httpx:
        own.add(httpx_sse.SSEError)
    if module is aiohttp:
        own |= {*_below(aiohttp.http.HttpProcessingError)} & {*_named(aiohttp.http)} | {*_named(aiohttp.payload)}
    left = {cls.__name__: cls for cls in own if f"{package}.{cls.__name__}" not in ELSEWHERE}
    return {name: cls for name, cls in left.items() if issubclass(cls, Exception)}


def _named(module: Any) -> Iterator[type[BaseException]]:
    """Return the exceptions of aiohttp's in this module."""
    for name in dir(module):
        value = getattr(module, name)
        if isinstance(value, type) and issubclass(value, BaseException) and value.__module__.startswith("aiohttp"):
            yield from (below for below in _below(value) if below.__module__.startswith("aiohttp"))


def spread(table: Table) -> dict[str, type[errors.OxyError] | None]:
    """Return a table by the names in it."""
    return {name: expected for expected, names in table.items() for name in names.split()}


# ---------------------------------------------------------------------------------------------------- Making exceptions

_KEY: Final = SimpleNamespace(host="remote.test", port=443, is_ssl=True, ssl=True)
_INFO: Final[Any] = aiohttp.RequestInfo(URL(SECRET_URL), "POST", CIMultiDictProxy(CIMultiDict[str]()), URL(SECRET_URL))
_NO_ROUTE: Final = OSError(113, "why")
_REQUEST: Final = httpx.Request("POST", SECRET_URL)


def _response_error(cls: Any) -> Exception:
    error: Exception = cls(_INFO, (), status=400, message="why")
    return error


def _of_status(cls: Any) -> Exception:
    response = httpx.Response(401, request=_REQUEST)
    error: Exception = cls(f"401 for url '{SECRET_URL}'", request=_REQUEST, response=response)
    return error


MAKE: Final[dict[str, Callable[[Any], Exception]]] = {
    "HTTPStatusError": _of_status,
    **dict.fromkeys(
        ["StreamConsumed", "StreamClosed", "ResponseNotRead", "RequestNotRead", "ConnectionNotAvailable"],
        lambda cls: cls(),
    ),
    **dict.fromkeys(
        ["ClientResponseError", "ContentTypeError", "WSServerHandshakeError", "ClientHttpProxyError"], _response_error
    ),
    "TooManyRedirects": lambda cls: _response_error(cls) if cls.__module__.startswith("aiohttp") else cls("why"),
    **dict.fromkeys(
        ["ClientConnectorError", "ClientConnectorDNSError", "ClientProxyConnectionError", "ClientSSLError"],
        lambda cls: cls(_KEY, _NO_ROUTE),
    ),
    "ClientConnectorSSLError": lambda cls: cls(_KEY, ssl.SSLError(1, "why")),
    "ClientConnectorCertificateError": lambda cls: cls(_KEY, Exception("why")),
    "UnixClientConnectorError": lambda cls: cls("path", _KEY, _NO_ROUTE),
    "ServerFingerprintMismatch": lambda cls: cls(b"a", b"b", "remote.test", 443),
    "ContentLengthError": lambda cls: cls("secret"),
    "BadHttpMessage": lambda cls: cls("secret"),
    "HttpBadRequest": lambda cls: cls("secret"),
    "LineTooLong": lambda cls: cls(b"secret", 1),
    "InvalidHeader": lambda cls: cls("secret"),
    "BadStatusLine": lambda cls: cls("secret"),
    "BadHttpMethod": lambda cls: cls("secret"),
    "InvalidURLError": lambda cls: cls("secret"),
    "HttpProcessingError": lambda cls: cls(message="secret"),
    "WebSocketError": lambda cls: cls(1000, "why"),
    "IncompleteReadError": lambda cls: cls(b"secret", 9),
    "LimitOverrunError": lambda cls: cls("secret", 1),
    "StreamClosedError": lambda cls: cls(1),
    "NoSuchStreamError": lambda cls: cls(1),
    "StreamIDTooLowError": lambda cls: cls(1, 3),
    "InvalidBodyLengthError": lambda cls: cls(1, 2),
    "InvalidSettingsValueError": lambda cls: cls("secret", 1),
    "UnknownFrameError": lambda cls: cls(1, 2),
    "UnicodeDecodeError": lambda cls: cls("utf-8", b"\xff", 0, 1, "why"),
    "UnicodeEncodeError": lambda cls: cls("ascii", "\udc80", 0, 1, "why"),
    "UnicodeTranslateError": lambda cls: cls("\udc80", 0, 1, "why"),
    **dict.fromkeys(["IncompleteRead", "RunFinishedError"], lambda cls: cls()),
    "BrokenWorkerInterpreter": lambda cls: cls(SimpleNamespace(formatted="secret", type=None, msg="secret")),
}
"""How to make exceptions that take more than a text."""


def made(name: str, cls: type[Exception], *, is_secret: bool) -> Exception:
    """Return an exception of this class, with a secret as its text."""
    if issubclass(cls, ssl.SSLError) and cls.__module__ == "ssl":
        return cls(1, "why")
    make = MAKE.get(name)
    return make(cls) if make else cls("secret" if is_secret else "why")


# ---------------------------------------------------------------------------------------------------------------- Tests


@pytest.mark.parametrize("name", [*LIBRARIES, *BELOW])
def test_every_class_is_listed(name: str) -> None:
    """Each class of a library has its line in a table, and each line its class."""
    if name in LIBRARIES:
        module, table = LIBRARIES[name].module, LIBRARIES[name].expected
    else:
        module, table = BELOW[name]
    known = {*spread(table)}
    assert set() == {*found(module)} - known, "new: what shall become of it?"
    assert known - {*found(module)} <= {*NOT_EVERYWHERE.get(name, "").split()}, "gone"


async def outcome(library: Library, error: Exception, phase: str) -> errors.OxyError:
    """Return the error that our transport raises."""
    with pytest.raises(errors.OxyError) as raised:
        async with library.raising(error, phase) as transport, transport.exchange(REQUEST) as response:
            assert phase == "reading"
            assert await anext(response.chunks) == b": begun\n\n"
            await anext(response.chunks)
    assert raised.value.__cause__ is error
    return raised.value


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Library:
    """Each library in turn; aiohttp on asyncio only (ONE_LOOP in conftest.py)."""
    return LIBRARIES[request.param]


PHASES: Final[dict[str, dict[type[errors.OxyError], type[errors.OxyError]]]] = {
    # the phase: what is raised in place of a class, by rule 3
    "opening": {},
    "reading": {CONFIGURATION: LOST, CONNECT: LOST, LATE: LOST, TLS: LOST},
}


@attrs.frozen
class Row:
    """An exception, and the error that it becomes in one phase."""

    theirs: Exception
    expected: type[errors.OxyError]
    is_shown: bool
    """Whether the error ends with the text of the exception."""


def rows(library: Library, source: str, phase: str) -> dict[str, Row]:
    """Return the rows of a table, for the exceptions that this release has."""
    module, table = BELOW[source] if source != "itself" else (library.module, library.expected)
    quiet = library.secretive.split() if source == "itself" else []
    classes, later = found(module), library.while_reading if phase == "reading" else {}
    here: dict[str, Row] = {}
    for name, cls in spread(table).items():
        if name in classes:
            is_secret = cls is UNFORESEEN or name in quiet
            expected = later.get(name) or PHASES[phase].get(cls or LOST, cls or LOST)
            is_shown = name not in MAKE and not is_secret and expected is not PROTOCOL
            here[name] = Row(made(name, classes[name], is_secret=is_secret), expected, is_shown)
    return here


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("source", ["itself", *BELOW])
async def test_each_exception(library: Library, source: str, phase: str) -> None:
    """Each exception becomes an error of this package, with a certain outcome and no secret in its text."""
    table = rows(library, source, phase)
    ours = {name: await outcome(library, row.theirs, phase) for name, row in table.items()}
    assert {name: type(error) for name, error in ours.items()} == {name: row.expected for name, row in table.items()}
    assert [name for name, error in ours.items() if "secret" in str(error)] == []
    assert [name for name, row in table.items() if row.is_shown and not str(ours[name]).endswith(": why")] == []


def _of_tomorrow(library: Library) -> Exception:
    new: Any = type("New", (getattr(library.module, "NetworkError", OSError),), {})
    error: Exception = new("")
    return error


UNKNOWN: Final[dict[str, tuple[str, Callable[[Library], Exception]]]] = {
    # name: (the end of our error's text, theirs)
    "too deep": (" failed: RecursionError", lambda _: RecursionError("secret")),
    "a closed loop": (" failed: RuntimeError", lambda _: RuntimeError("Event loop is closed")),
    "a bug": (" failed: KeyError", lambda _: KeyError("secret")),
    "a class of tomorrow": (": New", _of_tomorrow),
    "lines": (": a b c", lambda _: OSError("a\n b\tc")),
    "a long text": (": " + "x" * 475, lambda _: OSError("x" * 999)),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("which", UNKNOWN)
async def test_unknown_exceptions(library: Library, which: str, phase: str) -> None:
    """An unknown exception becomes ConnectionLostError with outcome UNKNOWN."""
    end, theirs = UNKNOWN[which]
    ours = await outcome(library, theirs(library), phase)
    assert type(ours) is LOST
    assert ours.outcome is Outcome.UNKNOWN
    assert str(ours).endswith(end)
    assert len(str(ours)) <= 500


@pytest.mark.parametrize("phase", PHASES)
async def test_our_own_exceptions(library: Library, phase: str) -> None:
    """An `OxyError` is unchanged."""
    own = errors.RateLimitedError("slow down")
    with pytest.raises(errors.RateLimitedError) as raised:
        async with library.raising(own, phase) as transport, transport.exchange(REQUEST) as response:
            await anext(response.chunks)
            await anext(response.chunks)
    assert raised.value is own


async def test_closing(library: Library) -> None:
    """An exception while the transport is closed becomes an error of this package, and the transport is closed."""
    theirs = OSError("why")
    transport: Any = library.transport()
    client = library.client(theirs, "closing")
    transport._live.put(LoopClients(Proxies(), {(True, None): client}))
    with pytest.raises(LOST, match="why") as raised:
        await transport.aclose()
    assert raised.value.__cause__ is theirs
    await transport.aclose()


@pytest.mark.parametrize("name", ["httpx", "httpx2"])
async def test_exceptions_while_leaving(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """An exception while an exchange is left is logged; the block's own error or cancellation is raised."""
    library = LIBRARIES[name]
    error = library.module.ReadError("secret")
    with caplog.at_level(logging.DEBUG, "oxygent_client"):
        async with library.raising(error, "leaving") as transport:
            async with transport.exchange(REQUEST) as response:
                assert response.status == 200
            with pytest.raises(KeyError):
                async with transport.exchange(REQUEST):
                    raise KeyError
            with anyio.CancelScope() as scope:
                async with transport.exchange(REQUEST):
                    scope.cancel()
                    await anyio.sleep_forever()
            assert scope.cancelled_caught
    assert [record.getMessage() for record in caplog.records if record.name.startswith("oxygent_client")] == [
        "closing the connection failed: ReadError"
    ] * 3


# ----------------------------------------------------------------------------------------------------- Chains of causes

ERROR_MAPS: Final[dict[str, ErrorMap]] = {
    "httpx": HTTPXTransport._errors,
    "httpx2": HTTPX2Transport._errors,
}


def chain(*links: BaseException) -> Any:
    """Return the first error, each error caused by the next."""
    for outer, inner in itertools.pairwise(links):
        outer.__cause__ = inner
    return links[0]


def certificate(said: str) -> ssl.SSLCertVerificationError:
    """Return an OpenSSL error about a certificate."""
    error = ssl.SSLCertVerificationError(1, "long text")
    error.verify_message = said
    return error


def alert(reason: str) -> ssl.SSLError:
    """Return an OpenSSL error about a handshake."""
    error = ssl.SSLError(1, "long text")
    error.reason = reason
    return error


def looped() -> OSError:
    """Return an error that is its own cause."""
    error = OSError(111, "x")
    error.__cause__ = ValueError()
    error.__cause__.__context__ = error
    return error


REFUSED: Final = ConnectionRefusedError(111, "Connect call failed")
BEHIND: Final[list[tuple[type[errors.OxyError], str, list[BaseException]]]] = [
    # our class, the reason or the advice in its text, the causes of a ConnectError
    (CONNECT, "Connection refused", [OSError("All attempts failed"), REFUSED]),
    (CONNECT, "Connection refused", [OSError("all"), ExceptionGroup("all", [REFUSED, OSError(113, "x")])]),
    (CONNECT, "Name or service not known", [socket.gaierror(-2, "Name or service not known")]),
    (CONNECT, "theirs", [socket.gaierror()]),
    (CONNECT, "theirs", [OSError("nothing to say")]),
    (CONNECT, "Connection refused", [looped()]),
    (TLS, "clock", [certificate("certificate has expired")]),
    (TLS, "clock", [certificate("certificate is not yet valid")]),
    (TLS, "`verify`", [certificate("self-signed certificate")]),
    (TLS, "`verify`", [certificate("self signed certificate")]),
    (TLS, "`verify`", [certificate("unable to get local issuer certificate")]),
    (TLS, "host name", [certificate("Hostname mismatch, certificate is not valid for 'a'.")]),
    (TLS, "http://", [alert("WRONG_VERSION_NUMBER")]),
    (TLS, "http://", [alert("RECORD_LAYER_FAILURE")]),
    (TLS, "http://", [alert("PACKET_LENGTH_TOO_LONG")]),
    (TLS, "version of TLS", [alert("UNEXPECTED_EOF_WHILE_READING")]),
    (TLS, "version of TLS", [ConnectionResetError()]),
    (TLS, "version of TLS", [ConnectionAbortedError()]),
    (TLS, "SSLV3_ALERT_HANDSHAKE_FAILURE", [anyio.EndOfStream(), alert("SSLV3_ALERT_HANDSHAKE_FAILURE")]),
    (TLS, "nothing more", [ssl.SSLError(1, "nothing more")]),
    (TLS, "nothing more", [ssl.SSLError(1, "wrapped"), ssl.SSLError(1, "nothing more")]),
]


@pytest.mark.parametrize("name", ERROR_MAPS)
@pytest.mark.parametrize(("expected", "shown", "behind"), BEHIND)
def test_causes_of_connection_errors(
    name: str, expected: type[errors.OxyError], shown: str, behind: list[BaseException]
) -> None:
    """A connection error with a TLS error among its causes is a TLSError; the text has the reason and advice."""
    theirs = chain(LIBRARIES[name].module.ConnectError("theirs"), *behind)
    ours = ERROR_MAPS[name](theirs, SECRET_URL)
    assert type(ours) is expected
    assert ours.outcome is Outcome.NOT_SENT
    assert "remote.test:443" in str(ours)
    assert shown in str(ours)


PLACES: Final = {
    "http://user:secret@remote.test/x?k=secret": "remote.test:80",
    "https://remote.test": "remote.test:443",
    "https://remote.test:8443": "remote.test:8443",
    "http://[::1]:9/": "[::1]:9",
    "unix:/run/s": "unix:/run/s",
    "http://remote.test:99999": "the server",
    "http://[": "the server",
    "": "the server",
    "other://remote.test": "remote.test",
}


@pytest.mark.parametrize(("url", "place"), PLACES.items())
def test_the_address_in_connection_errors(url: str, place: str) -> None:
    """A connection error names host and port, or the socket, without user information and query."""
    ours = ERROR_MAPS["httpx"](chain(httpx.ConnectError("x"), ConnectionResetError(104, "x")), url)
    assert f" {place}" in f" {ours}"
    assert "secret" not in str(ours)


def test_protocol_errors_of_h2() -> None:
    """A LocalProtocolError of h2 has outcome UNKNOWN: the agent may have run."""
    theirs = chain(httpx.LocalProtocolError("x"), httpcore.LocalProtocolError("x"), h2.exceptions.FrameTooLargeError())
    ours = ERROR_MAPS["httpx"](theirs, SECRET_URL)
    assert type(ours) is PROTOCOL
    assert ours.outcome is Outcome.UNKNOWN


LOST_BY_THEIR_TEXT: Final = [
    "Server disconnected without sending a response.",
    "peer closed connection without sending complete message body (incomplete chunked read)",
    "incomplete chunked read",
]


@pytest.mark.parametrize("text", LOST_BY_THEIR_TEXT)
def test_lost_connections_and_protocol_errors(text: str) -> None:
    """The text of a ServerDisconnected or protocol error decides between a lost connection and a protocol error."""
    ours = ERROR_MAPS["httpx"](httpx.RemoteProtocolError(text), SECRET_URL)
    assert type(ours) is LOST
    assert str(ours).endswith(f": {text.partition(' (')[0]}")


COMPLAINTS: Final = [
    ("illegal status line", "illegal status line: bytearray(b'Server disconnected secret')"),
    ("Receive buffer too long", "Receive buffer too long"),
    ("can't handle event type X when role", "can't handle event type X when role=SERVER and state=DONE"),
    ("StreamReset stream_id", "<StreamReset stream_id:1, error_code:secret>"),
    ("RemoteProtocolError", "b'secret'"[1:]),
    ("Bad status line", "Bad status line:\n  Invalid character:\n\n    b'secret'\n      ^"),
    ("RemoteProtocolError", ""),
]


@pytest.mark.parametrize(("reason", "text"), COMPLAINTS)
def test_parser_errors(reason: str, text: str) -> None:
    """The text of a parser's error has the reason and not the quoted bytes, which may echo a secret."""
    ours = ERROR_MAPS["httpx"](httpx.RemoteProtocolError(text), SECRET_URL)
    assert type(ours) is PROTOCOL
    assert str(ours).endswith(f": {reason}")
