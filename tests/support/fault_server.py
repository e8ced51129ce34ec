"""A server with faults, one for each line of a table, and the results of runs over real sockets.

Rule 1: a fault is data: the bytes and times of the response, and the expected result of a run. A step is bytes, or
    another action of a server.
Rule 2: each fault has its own port, which serves properly as soon as it is told to: the same agent's next call uses it.
Rule 3: the server runs in a thread with its own event loop, so it serves clients of each loop. It ends with its block,
    and logs nothing.
Rule 4: only `judged` decides what is wrong with a line. A line that may be wrong for lack of time is run again, alone
    and with longer time-outs; time that a busy machine took from a run is measured beside it, and allowed for.
Rule 5: `python -m tests.support.fault_server` writes the page.
"""

from __future__ import annotations

import gzip
import platform
import socket
import ssl
import tempfile
import zlib
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import anyio
import anyio.abc
import attrs
import trustme
from anyio.from_thread import BlockingPortal, start_blocking_portal
from anyio.streams.tls import TLSStream

from oxygent_client import HTTPXTransport, Limits, Outcome, Retry, SSEOxyGent, Timeouts, errors
from oxygent_client.testing import answer, close, progress
from oxygent_client.transports.aiohttp import AiohttpTransport
from oxygent_client.transports.httpx2 import HTTPX2Transport
from tests.conftest import ROOT
from tests.support.servers import LAST, OK, Conversation, Server, chunk
from tests.support.tls import client_context

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence

    from oxygent_client import HTTPRequest, HTTPResponse, Transport

__all__ = [
    "FAULTS",
    "FLOODS",
    "LIMITS",
    "LOOPS_OF",
    "PAGE",
    "PIECE",
    "SHORT",
    "SLOWER",
    "TRANSPORTS",
    "Fault",
    "FaultServer",
    "Line",
    "Metronome",
    "Stand",
    "judged",
    "page",
    "play",
    "play_all",
    "serving_faults",
    "stable",
    "wrong_of",
]

PAGE: Final = ROOT / "docs" / "fault-server.md"

TRANSPORTS: Final[dict[str, Callable[..., Transport]]] = {
    "httpx": HTTPXTransport,
    "httpx2": HTTPX2Transport,
    "aiohttp": AiohttpTransport,
}
LOOPS_OF: Final = {"httpx": ("asyncio", "trio"), "httpx2": ("asyncio", "trio"), "aiohttp": ("asyncio",)}
SHORT: Final = {"connect": 0.8, "silence": 0.3, "idle": 0.5, "total": 0.6}
"""The time-out under test in seconds; the others keep their defaults."""
SOON: Final = Retry(base=0.05)
"""A refused call is retried as by default, but soon."""
AT_WORK: Final = 3.0
"""Seconds that a complete run may take: some read 10,000 events, and the tests trace each line."""
A_MOMENT: Final = 1.0
"""Seconds that a run may take beyond its time-out."""
SLOWER: Final = (1.0, 4.0, 16.0)
"""Factors of the time-out, one for each repetition: a wrong line stays wrong."""
A_BEAT: Final = 0.01
"""Seconds between two measurements of the delay of this process."""
A_LAG: Final = 0.05
"""Seconds of delay within one run, after which the machine counts as busy."""
LAGS: Final = 2.0
"""The factor of the delay that is allowed for: its server is delayed as much."""
A_TICK: Final = 0.02
"""Seconds by which two clocks may differ."""
PATIENCE: Final = 20.0
"""Seconds for the next call, which only other faults at the same time can delay."""
HANGS: Final = 5.0
"""Seconds after which a run counts as hanging."""
LIMITS: Final = Limits(event_bytes=64 * 1024, stream_bytes=256 * 1024, body_bytes=64 * 1024, partial_bytes=64 * 1024)
PIECE: Final = 1024 * 1024
"""The largest chunk of a transport: aiohttp was seen to return 768 KiB."""
POSTS: Final = {Outcome.NOT_SENT: 0, Outcome.REJECTED: 8}
"""The most requests that may be read completely where no agent ran; more would be a storm of refusals."""
AT_ONCE: Final = 16
"""The number of faults at the same time."""

# ---------------------------------------------------------------------------------------------------------------- Steps

Step: TypeAlias = "bytes | Callable[[Conversation], Awaitable[None]]"
BLOCK: Final = 16 * 1024


async def cut(conversation: Conversation) -> None:
    """Close the connection."""
    await conversation.close()


async def reset(conversation: Conversation) -> None:
    """Reset the connection."""
    await conversation.reset()


async def hang(conversation: Conversation) -> None:
    """Do nothing until the client has closed."""
    await conversation.client_left()


async def pause(_: Conversation) -> None:
    """Give the client the time to read the bytes sent before."""
    await anyio.sleep(0.15)


async def read_some(conversation: Conversation) -> None:
    """Read the first bytes."""
    await conversation.some()


def flood(unit: bytes) -> Step:
    """Send it repeatedly, at full speed, until the client has closed."""
    block = unit * max(1, BLOCK // len(unit))

    async def forever(conversation: Conversation) -> None:
        while True:
            await conversation.send(block)

    return forever


def drip(unit: bytes, seconds: float = 0.05, size: int = 1) -> Step:
    """Send it repeatedly, so many bytes at a time, with pauses, until the client has closed."""

    async def forever(conversation: Conversation) -> None:
        while True:
            for start in range(0, len(unit), size):
                await conversation.send(unit[start : start + size])
                await anyio.sleep(seconds)

    return forever


# ---------------------------------------------------------------------------------------------------------------- Bytes

ANSWER: Final = "42"
BEGUN: Final = progress(1)
END: Final = answer(ANSWER) + close()
WHOLE: Final = BEGUN + END
PING: Final = b": ping - 2026-11-20 09:27:10.682690+00:00\r\n\r\n"
SSE: Final = b"content-type: text/event-stream"
CHUNKED: Final = b"transfer-encoding: chunked"
GOOD: Final = OK + chunk(WHOLE) + LAST
BOMB: Final = gzip.compress(bytes(64 * 1024 * 1024))
"""64 KiB."""
ELSEWHERE: Final = "/elsewhere"
"""A path with a proper response."""
HTML: Final = b"<!doctype html><title>Sign in</title>"


def head(*lines: bytes, status: bytes = b"200 OK") -> bytes:
    """Return the head of a response."""
    return b"\r\n".join((b"HTTP/1.1 " + status, *lines, b"", b""))


def document(body: bytes, *lines: bytes, status: bytes = b"200 OK") -> bytes:
    """Return a response with a length."""
    return head(*lines, b"content-length: %d" % len(body), status=status) + body


def stream(data: bytes, *lines: bytes) -> bytes:
    """Return a stream of events with a length."""
    return document(data, SSE, *lines)


def message(json: bytes) -> bytes:
    """Return an event with this JSON."""
    return b"data: " + json + b"\n\n"


def deflated(data: bytes) -> bytes:
    """Return the bytes as in `content-encoding: deflate`."""
    return zlib.compress(data)


# --------------------------------------------------------------------------------------------------------------- Faults

UNKNOWN, STARTED, COMPLETED = Outcome.UNKNOWN, Outcome.STARTED, Outcome.COMPLETED
NOT_SENT, REJECTED = Outcome.NOT_SENT, Outcome.REJECTED
LOST: Final = errors.ConnectionLostError
LATE: Final = errors.DeadlineExceededError
IDLE: Final = errors.IdleTimeoutError
PROTOCOL: Final = errors.RemoteProtocolError
INCOMPLETE: Final = errors.IncompleteStreamError
NO_STREAM: Final = errors.NotAnEventStreamError
TOO_LARGE: Final = errors.TooLargeError

End: TypeAlias = "tuple[type[errors.OxyError] | None, Outcome]"
FINE: Final[End] = (None, COMPLETED)
BROKEN: Final[tuple[End, ...]] = ((errors.RemoteProtocolError, Outcome.UNKNOWN),)
DEAF: Final[tuple[End, ...]] = ((errors.IdleTimeoutError, Outcome.STARTED),)
"""aiohttp ignores the extension of a chunk, however long it is."""


@attrs.frozen
class Fault:
    """The behaviour of a server, and the expected result of a run."""

    name: str
    does: str
    """The behaviour, for the page."""
    steps: tuple[Step, ...]
    error: type[errors.OxyError] | None
    outcome: Outcome
    clock: Literal["connect", "silence", "idle", "total"] | None = None
    """The setting of `Timeouts` that ends the run."""
    but: Mapping[str, tuple[End, ...]] = attrs.field(factory=dict[str, "tuple[End, ...]"], kw_only=True)
    """The result over transports whose library differs."""
    also: tuple[End, ...] = attrs.field(default=(), kw_only=True)
    """Other results that are right too, depending on what the client sees first."""
    before: bool = attrs.field(default=False, kw_only=True)
    """The server does not wait for a request."""
    everywhere: bool = attrs.field(default=False, kw_only=True)
    """A GET gets the same response; otherwise a 404."""
    door: Literal["open", "closed", "full"] = attrs.field(default="open", kw_only=True)
    """Whether a connection is accepted: the port may have no listener, or one with a full queue."""
    tls: str | None = attrs.field(default=None, kw_only=True)
    """The name of the server's certificate for an https URL; `none`: the server speaks no TLS."""
    most: str = attrs.field(default="stream_bytes", kw_only=True)
    """The setting of `Limits` that bounds the bytes taken from the transport."""
    posts: int = attrs.field(default=1, kw_only=True)
    """The number of requests that may be read completely, where an agent may have run."""

    @property
    def usual(self) -> tuple[End, ...]:
        """Return the possible results of a run."""
        return ((self.error, self.outcome), *self.also)

    def ends(self, transport: str) -> tuple[End, ...]:
        """Return the possible results over this transport."""
        return self.but.get(transport, self.usual)

    def clock_over(self, transport: str) -> str | None:
        """Return the time-out that ends the run over this transport, or None."""
        by_clock = any(error and issubclass(error, TimeoutError) for error, _ in self.ends(transport))
        # A refusal is raised shortly before the deadline, so it bounds that too.
        return self.clock if by_clock or self.clock == "total" else None


def fine(name: str, does: str, *steps: Step, **more: Any) -> Fault:
    """Return an unusual but valid response."""
    return Fault(name, does, steps, None, COMPLETED, **more)


def whole(name: str, does: str, data: bytes, *lines: bytes, **more: Any) -> Fault:
    """Return an unusual but valid stream with a length."""
    return fine(name, does, stream(data, *lines), **more)


def broken(name: str, does: str, *steps: Step, **more: Any) -> Fault:
    """Return an invalid response."""
    return Fault(name, does, steps, PROTOCOL, UNKNOWN, **more)


def late(name: str, does: str, *steps: Step, **more: Any) -> Fault:
    """Return a fault that only the deadline ends."""
    return Fault(name, does, steps, LATE, UNKNOWN, "total", **more)


def status(line: bytes, error: type[errors.OxyError], outcome: Outcome, *lines: bytes, **more: Any) -> Fault:
    """Return a refusal with a short text."""
    name = more.pop("name", line.partition(b" ")[0].decode())
    does = more.pop("does", f"answers {line.decode()}")
    return Fault(name, does, (document(b"no", *lines, status=line),), error, outcome, **more)


def redirect(line: bytes, location: bytes, name: str, does: str, **more: Any) -> Fault:
    """Return a redirect that is not followed."""
    lines = (b"location: " + location,) if location else ()
    return status(line, errors.RedirectError, REJECTED, *lines, name=name, does=does, **more)


def coded(coding: bytes, body: bytes, error: type[errors.OxyError] | None = None, name: str = "") -> Fault:
    """Return a compressed stream that was not requested; with an error, in an unknown coding."""
    name = name or coding.decode()
    steps = (document(body, SSE, b"content-encoding: " + coding),)
    return Fault(f"encoding {name}", f"sends the stream as {name}", steps, error, STARTED if error else COMPLETED)


def tls(name: str, does: str, kind: str, *steps: Step, **more: Any) -> Fault:
    """Return a failed handshake: nothing is sent, and the error is not retryable."""
    return Fault(name, does, steps, errors.TLSError, NOT_SENT, tls=kind, before=True, **more)


CONNECTION: Final = (
    Fault("refused", "does not listen", (), errors.ConnectError, NOT_SENT, door="closed"),
    Fault("no room", "has no room for a connection", (), errors.ConnectTimeoutError, NOT_SENT, "connect", door="full"),
    Fault("closes at once", "accepts, and closes", (cut,), LOST, UNKNOWN, before=True),
    Fault(
        "resets at once",
        "accepts, and resets",
        (reset,),
        LOST,
        UNKNOWN,
        before=True,
        also=((errors.ConnectError, NOT_SENT),),
    ),
    late("never reads", "accepts, and does nothing", hang, before=True),
    Fault("resets early", "resets at the first bytes", (read_some, reset), LOST, UNKNOWN, before=True),
    Fault("closes", "reads the request, and closes", (cut,), LOST, UNKNOWN),
    Fault("closes on everyone", "likewise, on every GET too", (cut,), LOST, UNKNOWN, everywhere=True),
    Fault("resets", "reads the request, and resets", (reset,), LOST, UNKNOWN),
    late("never answers", "reads the request, and does nothing", hang),
    late("never answers anyone", "likewise, on every GET too", hang, everywhere=True),
)

HEADS: Final = (
    Fault("half a status line", "closes in the status line", (b"HTTP/1.1 2", cut), LOST, UNKNOWN),
    late("half a status line, then nothing", "stops in the status line", b"HTTP/1.1 2", hang),
    broken("garbage", "answers random bytes", b"\x00\x01\x02\xff\xfe\r\n\r\n", cut),
    broken("HTTP/0.9", "answers a page without a head", HTML, b"\r\n\r\n", cut),
    broken("HTTP/2", "answers with frames of HTTP/2", b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18), cut),
    broken("SSH", "answers with the banner of SSH", b"SSH-2.0-OpenSSH_9.6\r\n\r\n", cut),
    broken("status 2000", "answers a status of four digits", GOOD.replace(b"200 OK", b"2000 OK", 1), cut),
    broken("status abc", "answers a status that is not a number", GOOD.replace(b"200 OK", b"abc OK", 1), cut),
    broken("endless status line", "never ends the status line", b"HTTP/1.1 200 O", flood(b"K")),
    late("status line drip", "sends the status line byte by byte, for ever", b"HTTP/1.1 200 O", drip(b"K")),
    late("header drip", "sends a header byte by byte, for ever", b"HTTP/1.1 200 OK\r\nx: ", drip(b"y")),
    late("headers drip", "sends short headers, for ever", b"HTTP/1.1 200 OK\r\n", drip(b"x: y\r\n", size=6)),
    broken("endless headers", "sends headers at full speed, for ever", b"HTTP/1.1 200 OK\r\n", flood(b"x: y\r\n")),
    broken("endless header", "never ends a header", b"HTTP/1.1 200 OK\r\nx: ", flood(b"y")),
    broken("header of 2 MiB", "sends one header of 2 MiB", head(SSE, b"x: " + b"y" * 2**21) + WHOLE, cut),
    broken("10,000 headers", "sends 10,000 headers", head(SSE, *[b"x-%d: %s" % (n, b"y" * 20) for n in range(10_000)])),
    broken("NUL in a header", "sends a NUL in a header", stream(WHOLE, b"x: a\0b")),
    broken("header without a colon", "sends a header without a colon", stream(WHOLE, b"nonsense")),
    broken("space in a header's name", "sends a space before the colon", stream(WHOLE, b"x : y")),
    broken("control in a header's name", "sends a control character in a name", stream(WHOLE, b"x\x01: y")),
    whole("folded header", "folds a header over two lines", WHOLE, b"x: a\r\n b"),
    whole("bytes in a header", "sends a header that is not text", WHOLE, b"x: \xff\xfe\x80"),
    whole("Set-Cookie", "sets fifty cookies", WHOLE, *[b"set-cookie: c%d=v" % n for n in range(50)]),
    Fault("closes in the head", "closes between two headers", (b"HTTP/1.1 200 OK\r\nx: y\r\n", cut), LOST, UNKNOWN),
    late("stops in the head", "stops between two headers", b"HTTP/1.1 200 OK\r\nx: y\r\n", hang),
    late("100 flood", "sends 100 Continue, for ever", flood(head(status=b"100 Continue"))),
    late("103 flood", "sends 103 Early Hints, for ever", flood(head(b"link: </x>", status=b"103 Early Hints"))),
    late("103 drip", "sends 103 Early Hints now and then", drip(head(status=b"103 Early Hints"), 0.05, 1000)),
    late("103, then nothing", "sends one 103, and nothing more", head(status=b"103 Early Hints"), hang),
    fine("103 before", "sends three 103 before the stream", head(status=b"103 Early Hints") * 3 + GOOD),
    Fault(
        "101",
        "switches to another protocol",
        (head(b"upgrade: x", b"connection: upgrade", status=b"101 Switching Protocols"), hang),
        PROTOCOL,
        UNKNOWN,
    ),
)

FRAMING: Final = (
    fine(
        "length and chunked",
        "sends a length, and chunks",
        head(SSE, CHUNKED, b"content-length: 5") + chunk(WHOLE) + LAST,
        but={"aiohttp": BROKEN},
    ),
    broken("two lengths", "sends two lengths", head(SSE, b"content-length: 5", b"content-length: 900") + WHOLE),
    broken("negative length", "sends a length below 0", head(SSE, b"content-length: -5") + WHOLE),
    broken("length in words", "sends a length that is not a number", head(SSE, b"content-length: five") + WHOLE),
    broken(
        "unknown transfer coding",
        "sends an unknown coding",
        head(SSE, b"transfer-encoding: foo") + WHOLE,
    ),
    Fault(
        "length too long",
        "closes before the length is reached",
        (head(SSE, b"content-length: 9999") + BEGUN, cut),
        INCOMPLETE,
        STARTED,
    ),
    fine("length too long, and complete", "likewise, after the close event", head(SSE, b"content-length: 9999"), WHOLE),
    Fault(
        "length too short",
        "sends more than the length",
        (head(SSE, b"content-length: %d" % len(BEGUN)) + WHOLE,),
        INCOMPLETE,
        STARTED,
    ),
    Fault(
        "chunk size in words",
        "sends a size that is not a number",
        (OK + chunk(BEGUN), pause, b"zz\r\n", cut),
        INCOMPLETE,
        STARTED,
    ),
    Fault(
        "chunk size in words, then nothing",
        "likewise, and does not close",
        (OK + chunk(BEGUN), pause, b"zz\r\n", hang),
        INCOMPLETE,
        STARTED,
    ),
    Fault(
        "chunk size too large",
        "sends a size of 40 digits",
        (OK + chunk(BEGUN), pause, b"f" * 40 + b"\r\n", flood(b"x")),
        INCOMPLETE,
        STARTED,
    ),
    Fault(
        "negative chunk size",
        "sends a size below 0",
        (OK + chunk(BEGUN), pause, b"-5\r\n", cut),
        INCOMPLETE,
        STARTED,
    ),
    Fault(
        "chunk without its end",
        "leaves out the line end of a chunk",
        (OK + chunk(BEGUN)[:-2], pause, chunk(END), hang),
        INCOMPLETE,
        STARTED,
    ),
    Fault(
        "endless chunk extension",
        "never ends the line of a size",
        (OK + chunk(BEGUN), pause, b"5;x=", flood(b"y")),
        INCOMPLETE,
        STARTED,
        "idle",
        but={"aiohttp": DEAF},
    ),
    Fault(
        "endless trailers",
        "never ends the trailers",
        (OK + chunk(BEGUN), pause, b"0\r\n", flood(b"x: y\r\n")),
        INCOMPLETE,
        STARTED,
        "idle",
        but={"aiohttp": ((INCOMPLETE, STARTED), *DEAF)},
    ),
    fine(
        "endless trailers, and complete",
        "likewise, after the close event",
        OK + chunk(WHOLE),
        pause,
        b"0\r\n",
        flood(b"x: y\r\n"),
    ),
    Fault("chunk of 4 GiB", "announces 4 GiB, and stops", (OK + b"ffffffff\r\n" + BEGUN, hang), IDLE, STARTED, "idle"),
    Fault(
        "flood in a chunk of 4 GiB",
        "announces 4 GiB, and sends them",
        (OK + b"ffffffff\r\ndata: ", flood(b"x")),
        TOO_LARGE,
        UNKNOWN,
        most="event_bytes",
    ),
    Fault("no last chunk", "closes between two chunks", (OK + chunk(BEGUN), cut), INCOMPLETE, STARTED),
    fine("no last chunk, and complete", "likewise, after the close event", OK + chunk(WHOLE), cut),
    Fault("closes in a chunk", "closes in a chunk", (OK + b"fff\r\n" + BEGUN, cut), INCOMPLETE, STARTED),
    Fault("resets in a chunk", "resets before the first event", (OK + b"fff\r\ndata: ", reset), INCOMPLETE, UNKNOWN),
    fine(
        "chunk extensions",
        "sends extensions with each chunk",
        OK + chunk(WHOLE).replace(b"\r\n", b";a=b\r\n", 1) + LAST,
    ),
    fine("chunks of one byte", "sends each byte as a chunk", OK, b"".join(chunk(bytes([b])) for b in WHOLE) + LAST),
    fine("no framing", "sends a stream up to the end of the connection", head(SSE) + WHOLE, cut),
    Fault("no framing, cut", "likewise, without the close event", (head(SSE) + BEGUN, cut), INCOMPLETE, STARTED),
)

STREAMS: Final = (
    Fault("empty stream", "ends the stream at once", (OK + LAST,), INCOMPLETE, UNKNOWN),
    Fault("drip", "sends events byte by byte, for ever", (head(SSE), drip(BEGUN, 0.03)), LATE, UNKNOWN, "total"),
    Fault(
        "events for ever", "sends an event now and then", (head(SSE), drip(BEGUN, 0.05, 999)), LATE, STARTED, "total"
    ),
    Fault("event flood", "sends events at full speed", (head(SSE), flood(BEGUN)), TOO_LARGE, STARTED),
    Fault("ping flood", "sends heartbeats at full speed", (head(SSE), flood(PING)), TOO_LARGE, UNKNOWN),
    Fault("blank line flood", "sends blank lines at full speed", (head(SSE), flood(b"\r\n")), TOO_LARGE, UNKNOWN),
    Fault(
        "endless comment",
        "never ends a comment",
        (head(SSE) + b": ", flood(b"x")),
        TOO_LARGE,
        UNKNOWN,
        most="event_bytes",
    ),
    Fault(
        "endless comments", "never ends a block", (head(SSE), flood(b": x\n")), TOO_LARGE, UNKNOWN, most="event_bytes"
    ),
    Fault(
        "endless line",
        "never ends a line of data",
        (head(SSE) + b"data: ", flood(b"x")),
        TOO_LARGE,
        UNKNOWN,
        most="event_bytes",
    ),
    Fault(
        "endless event",
        "sends lines of data, and no blank line",
        (head(SSE), flood(b"data: x\n")),
        TOO_LARGE,
        UNKNOWN,
        most="event_bytes",
    ),
    Fault(
        "endless field",
        "sends lines of an unknown field",
        (head(SSE), flood(b"what: x\n")),
        TOO_LARGE,
        UNKNOWN,
        most="event_bytes",
    ),
    Fault(
        "endless name",
        "never ends the name of a field",
        (head(SSE), flood(b"w")),
        TOO_LARGE,
        UNKNOWN,
        most="event_bytes",
    ),
    Fault(
        "heartbeats only", "sends heartbeats, and no event", (head(SSE), drip(PING, 0.05, 99)), IDLE, UNKNOWN, "idle"
    ),
    Fault(
        "heartbeats to everyone",
        "likewise, on every GET too",
        (head(SSE), drip(PING, 0.05, 99)),
        IDLE,
        UNKNOWN,
        "idle",
        everywhere=True,
    ),
    Fault(
        "falls silent",
        "sends one heartbeat, and nothing more",
        (head(SSE) + PING, hang),
        errors.SilenceTimeoutError,
        UNKNOWN,
        "silence",
    ),
    Fault("stops", "sends an event, and nothing more", (OK + chunk(BEGUN), hang), IDLE, STARTED, "idle"),
    Fault("stops in an event", "sends half an event", (OK + chunk(BEGUN[:-4]), hang), IDLE, UNKNOWN, "idle"),
    Fault("stops before the first event", "sends the head, and nothing more", (OK, hang), IDLE, UNKNOWN, "idle"),
    Fault("no close", "ends without the close event", (stream(BEGUN + answer(ANSWER)),), INCOMPLETE, STARTED),
    Fault(
        "only answers",
        "sends the answer, and neither closes nor ends",
        (OK + chunk(BEGUN + answer(ANSWER)), hang),
        IDLE,
        STARTED,
        "idle",
    ),
    Fault("close first", "sends the close event first", (stream(close() + WHOLE),), errors.NoAnswerError, COMPLETED),
    Fault("half a close", "ends in the close event", (stream((BEGUN + END)[:-3]),), INCOMPLETE, STARTED),
    fine("flood after the close", "goes on after the close event", head(SSE) + WHOLE, flood(PING)),
    fine("nothing after the close", "does not end after the close event", OK + chunk(WHOLE), hang),
    whole("close twice", "sends the close event twice", WHOLE + close()),
    whole("retry of 5,000 digits", "asks for a pause of 5,000 digits", b"retry: " + b"9" * 5000 + b"\n\n" + WHOLE),
    whole("10,000 events", "sends 10,000 events at once", b"data:1\n\n" * 10_000 + END),
)

LATER: Final = b"retry-after: "
REDIRECTED: Final = errors.RedirectError
SERVER: Final = errors.ServerError
LIMITED: Final = errors.RateLimitedError
FAR: Final = b"retry-after: Wed, 21 Oct 2099 07:28:00 GMT\r\ndate: Sat, 21 Nov 2026 00:00:00 GMT"

STATUSES: Final = (
    Fault("204", "answers 204 No Content", (head(status=b"204 No Content"),), errors.StatusError, UNKNOWN),
    status(
        b"204 No Content",
        errors.StatusError,
        UNKNOWN,
        name="204 with a body",
        does="answers 204 No Content, and a text",
    ),
    status(b"206 Partial Content", errors.StatusError, UNKNOWN, SSE),
    status(b"226 IM Used", errors.StatusError, UNKNOWN),
    redirect(b"300 Multiple Choices", b"", "300", "offers choices"),
    redirect(b"301 Moved Permanently", b"http://localhost:{port}/x", "301", "sends to another origin"),
    redirect(b"302 Found", b"http://localhost:{port}/x", "302", "sends to another origin"),
    redirect(b"303 See Other", b"http://localhost:{port}/x", "303", "sends to another origin"),
    redirect(b"302 Found", b"/x", "302 here", "sends to another path as a GET"),
    Fault("304", "answers 304 Not Modified", (head(status=b"304 Not Modified"),), REDIRECTED, REJECTED),
    status(
        b"304 Not Modified",
        REDIRECTED,
        REJECTED,
        name="304 with a body",
        does="answers 304 Not Modified, and a text",
    ),
    redirect(b"307 Temporary Redirect", b"http://localhost:{port}/x", "307", "sends to another origin"),
    redirect(b"308 Permanent Redirect", b"http://localhost:{port}/x", "308", "sends to another origin"),
    fine(
        "307 here",
        "sends to another path, and answers there",
        document(b"", b"location: " + ELSEWHERE.encode(), status=b"307 Temporary Redirect"),
        posts=2,
    ),
    fine(
        "308 here",
        "likewise, with the whole URL",
        document(b"", b"location: http://127.0.0.1:{port}" + ELSEWHERE.encode(), status=b"308 Permanent Redirect"),
        posts=2,
    ),
    redirect(b"307 Temporary Redirect", b"/sse/chat", "307 loop", "sends back to itself, for ever"),
    redirect(b"307 Temporary Redirect", b"", "307 without a place", "sends nowhere"),
    redirect(b"308 Permanent Redirect", b"http://[", "308 garbage", "sends to an invalid URL"),
    redirect(b"307 Temporary Redirect", b"file:///etc/passwd", "307 file", "sends to a file"),
    status(b"400 Bad Request", errors.StatusError, REJECTED),
    status(b"401 Unauthorized", errors.AuthenticationError, REJECTED, b"www-authenticate: Bearer"),
    status(b"403 Forbidden", errors.PermissionDeniedError, REJECTED),
    status(b"404 Not Found", errors.NotFoundError, REJECTED),
    status(b"413 Content Too Large", errors.StatusError, REJECTED),
    status(b"429 Too Many Requests", LIMITED, REJECTED),
    status(b"429 Too Many Requests", LIMITED, REJECTED, LATER + b"9" * 30, name="429 for ages"),
    status(b"429 Too Many Requests", LIMITED, REJECTED, LATER + b"-5", name="429 negative"),
    status(b"429 Too Many Requests", LIMITED, REJECTED, LATER + b"3600", name="429 for an hour"),
    status(b"429 Too Many Requests", LIMITED, REJECTED, FAR, name="429 until a date"),
    status(b"429 Too Many Requests", LIMITED, REJECTED, LATER + b"0", name="429 for no time"),
    status(b"500 Internal Server Error", SERVER, UNKNOWN),
    status(b"502 Bad Gateway", SERVER, UNKNOWN),
    status(b"503 Service Unavailable", SERVER, UNKNOWN),
    status(b"503 Service Unavailable", SERVER, REJECTED, LATER + b"3600", name="503 for an hour"),
    status(b"503 Service Unavailable", SERVER, REJECTED, LATER + b"0", name="503 for no time"),
    status(b"504 Gateway Timeout", SERVER, UNKNOWN),
    status(b"599 What", SERVER, UNKNOWN),
    status(b"999 What", errors.StatusError, UNKNOWN),
    Fault(
        "endless error",
        "answers 500 with a body without end",
        (head(status=b"500 No"), flood(b"no ")),
        SERVER,
        UNKNOWN,
        most="error_body_bytes",
    ),
    Fault(
        "error of 1 GiB",
        "answers 500, and announces 1 GiB",
        (head(b"content-length: 1073741824", status=b"500 No"), flood(b"no ")),
        SERVER,
        UNKNOWN,
        most="error_body_bytes",
    ),
    Fault(
        "error drip",
        "answers 500 with a body byte by byte",
        (head(status=b"500 No"), drip(b"no ")),
        SERVER,
        UNKNOWN,
        "total",
    ),
    Fault(
        "error in one word",
        "answers 500 with a word of 64 KiB",
        (document(b"x" * 2**16, status=b"500 No"),),
        SERVER,
        UNKNOWN,
        most="error_body_bytes",
    ),
    Fault(
        "error, cut",
        "answers 500, and closes in its body",
        (head(b"content-length: 99", status=b"500 No") + b"no", cut),
        SERVER,
        UNKNOWN,
    ),
    Fault(
        "error in bad chunks",
        "answers 500 with an invalid chunk size",
        (head(CHUNKED, status=b"500 No"), pause, b"zz\r\n", cut),
        SERVER,
        UNKNOWN,
        "total",
    ),
    Fault(
        "error as a bomb",
        "answers 500 with 64 MiB in 64 KiB of gzip",
        (head(b"content-encoding: gzip", status=b"500 No"), BOMB, cut),
        SERVER,
        UNKNOWN,
        most="error_body_bytes",
    ),
)

JSON: Final = b"content-type: application/json"

CONTENT: Final = (
    Fault(
        "envelope",
        "answers an error in a 200",
        (document(b'{"code": 500, "message": "no", "data": {}}', JSON),),
        errors.EnvelopeError,
        UNKNOWN,
    ),
    Fault("JSON", "answers a JSON document", (document(b'{"answer": "42"}', JSON),), errors.EnvelopeError, UNKNOWN),
    Fault("broken JSON", "answers half a JSON document", (document(b'{"answer": ', JSON),), NO_STREAM, UNKNOWN),
    Fault("deep JSON", "answers JSON of 10,000 levels", (document(b"[" * 10_000, JSON),), NO_STREAM, UNKNOWN),
    Fault(
        "endless JSON",
        "answers JSON without end",
        (head(JSON) + b'{"data": "', flood(b"x")),
        NO_STREAM,
        UNKNOWN,
        most="error_body_bytes",
    ),
    Fault("JSON drip", "answers JSON byte by byte", (head(JSON), drip(b" ")), NO_STREAM, UNKNOWN, "total"),
    Fault("page", "answers a page", (document(HTML, b"content-type: text/html"),), NO_STREAM, UNKNOWN),
    Fault("no content type", "sends the stream without a type", (document(WHOLE),), NO_STREAM, UNKNOWN),
    Fault(
        "plain text", "sends the stream as text", (document(WHOLE, b"content-type: text/plain"),), NO_STREAM, UNKNOWN
    ),
    Fault("nothing", "answers 200 and no byte", (document(b""),), NO_STREAM, UNKNOWN),
    coded(b"gzip", gzip.compress(WHOLE)),
    coded(b"deflate", deflated(WHOLE)),
    coded(b"deflate", deflated(WHOLE)[2:-4], name="deflate without a header"),
    coded(b"br", b"\x0b\x02\x80" + WHOLE, NO_STREAM),
    coded(b"zstd", b"\x28\xb5\x2f\xfd" + WHOLE, NO_STREAM),
    coded(b"gzip, gzip", gzip.compress(gzip.compress(WHOLE))),
    coded(b"x-unknown", WHOLE, NO_STREAM),
    Fault(
        "half a gzip",
        "sends half the stream, as gzip",
        (document(gzip.compress(WHOLE)[:40], SSE, b"content-encoding: gzip"),),
        INCOMPLETE,
        UNKNOWN,
    ),
    Fault(
        "no gzip",
        "sends a stream that is not compressed as gzip",
        (document(WHOLE, SSE, b"content-encoding: gzip"),),
        INCOMPLETE,
        UNKNOWN,
    ),
    Fault(
        "gzip bomb",
        "sends 64 MiB in 64 KiB of gzip",
        (head(SSE, b"content-encoding: gzip"), BOMB, cut),
        TOO_LARGE,
        UNKNOWN,
        most="event_bytes",
    ),
    whole("encoding identity", "says that nothing is encoded", WHOLE, b"content-encoding: identity"),
    fine("another charset", "says UTF-16, and sends UTF-8", document(WHOLE, SSE + b"; charset=utf-16")),
    Fault("UTF-16", "sends UTF-16", (stream(WHOLE.decode().encode("utf-16")),), INCOMPLETE, UNKNOWN),
    whole("byte order mark", "sends a byte order mark first", b"\xef\xbb\xbf" + WHOLE),
    whole("no UTF-8", "sends an event that is not UTF-8", message(b"\xff\xfe\xc0\x80") + WHOLE),
    whole("NUL bytes", "sends NUL bytes", message(b"\0" * 100) + b"\0\0\n\n" + WHOLE),
    whole("deep event", "sends JSON of 10,000 levels", BEGUN + message(b"[" * 10_000) + END),
    Fault(
        "deep answer",
        "sends an answer of 10,000 levels",
        (stream(BEGUN + message(b'{"type": "answer", "content": ' + b"[" * 10_000) + close()),),
        TOO_LARGE,
        COMPLETED,
    ),
    whole("5,000 digits", "sends an integer of 5,000 digits", message(b"9" * 5000) + WHOLE),
    whole(
        "lone surrogates",
        "sends halves of a surrogate pair",
        message(rb'{"type": "\ud800", "content": "\udfff"}') + WHOLE,
    ),
    whole("NaN", "sends NaN and Infinity", message(b'{"content": [NaN, -Infinity]}') + WHOLE),
    whole(
        "no object", "sends JSON that is not an object", message(b"null") + message(b"[1]") + message(b'"x"') + WHOLE
    ),
    whole("call without content", "sends a tool call without content", message(b'{"type": "tool_call"}') + WHOLE),
    Fault(
        "error event",
        "sends an error, and closes",
        (stream(message(b'{"type": "error", "content": "no"}') + close()),),
        errors.RemoteAgentError,
        COMPLETED,
    ),
)

TLS: Final = (
    tls("self-signed", "has a certificate of its own", "self-signed"),
    tls("unknown authority", "has a certificate of an unknown authority", "unknown authority"),
    tls("expired", "has a certificate of the past", "expired"),
    tls("not yet valid", "has a certificate of the future", "not yet valid"),
    tls("wrong host", "has a certificate of another host", "wrong host"),
    tls("no TLS", "speaks HTTP where TLS is wanted", "none", read_some, document(b"no", status=b"400 Bad"), cut),
    tls(
        "garbage for TLS", "answers the handshake with garbage", "none", read_some, b"\x16\x03\x03" + b"\xff" * 99, cut
    ),
    Fault(
        "handshake that never ends",
        "does not answer the handshake",
        (hang,),
        errors.ConnectTimeoutError,
        NOT_SENT,
        "connect",
        tls="none",
        before=True,
    ),
    Fault(
        "handshake drip",
        "answers the handshake byte by byte",
        (read_some, b"\x16\x03\x03\x40\x00", drip(b"\x02")),
        errors.ConnectTimeoutError,
        NOT_SENT,
        "connect",
        tls="none",
        before=True,
    ),
    Fault(
        "handshake, cut",
        "closes in the handshake",
        (read_some, cut),
        errors.TLSError,
        NOT_SENT,
        tls="none",
        before=True,
        also=((errors.ConnectError, NOT_SENT),),
    ),
    Fault(
        "handshake, reset",
        "resets in the handshake",
        (read_some, reset),
        errors.TLSError,
        NOT_SENT,
        tls="none",
        before=True,
        also=((errors.ConnectError, NOT_SENT),),
    ),
    broken("TLS on a plain port", "answers with an alert of TLS", b"\x15\x03\x03\x00\x02\x02\x46", cut),
    Fault("wants a certificate", "wants the client's certificate", (), LOST, UNKNOWN, tls="client certificate"),
    tls(
        "wants a certificate, TLS 1.2",
        "likewise, and closes in the handshake",
        "client certificate, TLS 1.2",
        also=((errors.ConnectError, NOT_SENT),),
    ),
    Fault(
        "TLS, cut",
        "closes in the stream, without close_notify",
        (OK + chunk(BEGUN), cut),
        INCOMPLETE,
        STARTED,
        tls="good",
    ),
    Fault("TLS, reset", "resets before the first event", (OK + b"fff\r\n", reset), INCOMPLETE, UNKNOWN, tls="good"),
    Fault("TLS, stops", "stops in the stream", (OK + chunk(BEGUN), hang), IDLE, STARTED, "idle", tls="good"),
    Fault("TLS, never answers", "reads the request, and does nothing", (hang,), LATE, UNKNOWN, "total", tls="good"),
    fine("TLS, cut after the close", "closes after the close event", OK + chunk(WHOLE), cut, tls="good"),
)

FAULTS: Final = (*CONNECTION, *HEADS, *FRAMING, *STREAMS, *STATUSES, *CONTENT, *TLS)
FLOODS: Final = (
    "endless status line",
    "endless headers",
    "endless header",
    "header of 2 MiB",
    "10,000 headers",
    "100 flood",
    "103 flood",
    "chunk size too large",
    "endless chunk extension",
    "endless trailers",
    "endless trailers, and complete",
)
"""Faults whose bytes a library buffers and does not hand over: only the size of the process shows them."""


# --------------------------------------------------------------------------------------------------------------- Server


@attrs.define(eq=False)
class Stand:
    """One port: it has a fault until it is told to serve properly."""

    fault: Fault
    _server: FaultServer
    _seen: Server = attrs.field(factory=Server)
    _proper: bool = False
    _tasks: anyio.abc.TaskGroup | None = None
    _listener: anyio.abc.Listener[anyio.abc.SocketStream] | None = None
    _sockets: list[socket.socket] = attrs.field(factory=list[socket.socket])
    """Sockets that keep a port closed, or full."""

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http{'s' if self.fault.tls else ''}://127.0.0.1:{self._seen.port}"

    def count(self, method: str) -> int:
        """Return how many requests of this method it has read completely."""
        return sum(request.line.startswith(f"{method} ") for request in [*self._seen.requests])

    def serve_properly(self) -> None:
        """Serve properly from now on."""
        self._server.portal.call(self._serve_properly)

    async def _serve_properly(self) -> None:
        self._proper = True
        if self._listener is None:
            await self._listen(self._seen.port)
        assert self._listener is not None
        if self.fault.door != "open":
            # Make room at once: otherwise the next call's first attempt is dropped, and the second comes a second
            # later.
            self._listener.extra(anyio.abc.SocketAttribute.raw_socket).listen(100)
            self._accept()
            self._empty()

    async def open(self, tasks: anyio.abc.TaskGroup) -> None:
        """Accept connections, if the fault does, and serve them in `tasks`."""
        self._tasks = tasks
        match self.fault.door:
            case "open":
                await self._listen()
                self._accept()
            case "full":
                await self._listen(backlog=0)
                for _ in range(4):  # Linux queues one more than the backlog says
                    guest = socket.socket()
                    self._sockets.append(guest)
                    guest.setblocking(False)
                    guest.connect_ex(("127.0.0.1", self._seen.port))
            case "closed":  # taken, so that no other process listens there
                taken = socket.socket()
                self._sockets.append(taken)
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                taken.bind(("127.0.0.1", 0))
                self._seen.port = taken.getsockname()[1]

    async def _listen(self, port: int = 0, backlog: int = 100) -> None:
        self._listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port, backlog=backlog)
        self._seen.port = self._listener.extra(anyio.abc.SocketAttribute.local_port)

    def _accept(self) -> None:
        assert self._tasks is not None
        assert self._listener is not None
        self._tasks.start_soon(self._listener.serve, self._converse)

    def _empty(self) -> None:
        for each in self._sockets:
            each.close()

    async def aclose(self) -> None:
        """Close the port."""
        self._empty()
        if self._listener is not None:
            await self._listener.aclose()

    async def _converse(self, stream: anyio.abc.ByteStream) -> None:
        async with stream:
            # The client may close at any time, and a handshake may fail: both are tested.
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError):
                await self._speak(stream)

    async def _speak(self, stream: anyio.abc.ByteStream) -> None:
        fault, proper = self.fault, self._proper
        kind = fault.tls and ("good" if proper else fault.tls)
        if kind and kind != "none":
            context = self._server.contexts[kind]
            stream = await TLSStream.wrap(stream, server_side=True, ssl_context=context, standard_compatible=False)
        conversation = Conversation(stream, self._seen)
        if fault.before and not proper:
            await self._strike(conversation)
            return
        while (request := await conversation.request()) is not None:
            if request.line.startswith("GET ") and not (fault.everywhere and not self._proper):
                await conversation.send(document(b"no", status=b"404 Not Found"))
            elif self._proper or ELSEWHERE in request.line:
                await conversation.send(GOOD)
            else:
                await self._strike(conversation)

    async def _strike(self, conversation: Conversation) -> None:
        for step in self.fault.steps:
            if isinstance(step, bytes):
                await conversation.send(step.replace(b"{port}", b"%d" % self._seen.port))
            else:
                await step(conversation)


@attrs.frozen
class FaultServer:
    """Opens a port for each fault, in its own thread."""

    portal: BlockingPortal
    contexts: Mapping[str, ssl.SSLContext]
    """The TLS contexts, by the name of the certificate."""
    trust: ssl.SSLContext
    """The authority that a client trusts."""

    @contextmanager
    def standing(self, fault: Fault) -> Generator[Stand]:
        """Yield a port with this fault; it ends with the block, and so do its connections."""
        with self.portal.wrap_async_context_manager(self._standing(fault)) as stand:
            yield stand

    @asynccontextmanager
    async def _standing(self, fault: Fault) -> AsyncGenerator[Stand, None]:
        stand = Stand(fault, self)
        try:
            async with anyio.create_task_group() as tasks:
                await stand.open(tasks)
                yield stand
                tasks.cancel_scope.cancel()
        finally:
            await stand.aclose()


def _server_side(pem: bytes) -> ssl.SSLContext:
    """Return a server's context for a key and its certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "server.pem"
        file.write_bytes(pem)
        context.load_cert_chain(file)
    return context


def _contexts(authority: trustme.CA) -> dict[str, ssl.SSLContext]:
    own, other, now = trustme.CA(), trustme.CA(), datetime.now(UTC)
    leaves = {
        "good": authority.issue_cert("127.0.0.1"),
        "unknown authority": other.issue_cert("127.0.0.1"),
        "expired": authority.issue_cert("127.0.0.1", not_after=now - timedelta(days=1)),
        "not yet valid": authority.issue_cert("127.0.0.1", not_before=now + timedelta(days=1)),
        "wrong host": authority.issue_cert("other.test"),
    }
    contexts = {name: _server_side(leaf.private_key_and_cert_chain_pem.bytes()) for name, leaf in leaves.items()}
    contexts["self-signed"] = _server_side(own.private_key_pem.bytes() + own.cert_pem.bytes())
    for name in ("client certificate", "client certificate, TLS 1.2"):
        context = _server_side(leaves["good"].private_key_and_cert_chain_pem.bytes())
        authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  (trustme types it by another package)
        context.verify_mode = ssl.CERT_REQUIRED
        contexts[name] = context
    contexts["client certificate, TLS 1.2"].maximum_version = ssl.TLSVersion.TLSv1_2
    return contexts


@contextmanager
def serving_faults() -> Generator[FaultServer]:
    """Yield a server of faults."""
    authority = trustme.CA()
    trust = client_context(authority)
    with start_blocking_portal() as portal:
        yield FaultServer(portal, _contexts(authority), trust)


# ----------------------------------------------------------------------------------------------------------------- Runs


@attrs.define(eq=False)
class Tally:
    """A transport that counts the bytes taken from it, and the open exchanges."""

    inner: Transport
    taken: int = 0
    open: int = 0

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """Use the wrapped transport."""
        self.open += 1
        try:
            async with self.inner.exchange(request) as response:
                yield attrs.evolve(response, chunks=_Counted(response.chunks, self))
        finally:
            self.open -= 1

    async def aclose(self) -> None:
        """Close the wrapped transport."""
        await self.inner.aclose()


@attrs.define(eq=False)
class _Counted:
    chunks: AsyncIterator[bytes]
    tally: Tally

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await anext(self.chunks)
        self.tally.taken += len(piece)
        return piece


@attrs.frozen(kw_only=True)
class Line:
    """The result of a run with a fault."""

    error: type[BaseException] | None
    """None for an answer; `TimeoutError` if it hung."""
    outcome: Outcome
    seconds: float
    posts: int
    """Requests that the server read completely, without the next call's."""
    gets: int
    taken: int
    """Bytes of bodies taken from the transport."""
    held: int
    """Bytes that the error, or the run, still holds."""
    left_open: int = 0
    """Exchanges that were not left."""
    then: str = ""
    """The failure of the same agent's next call."""
    slower: float = 1.0
    """The factor of the fault's time-out."""
    lag: float = 0.0
    """Seconds of delay of this process during the run."""


@attrs.define(eq=False)
class Metronome:
    """Adds up the delay of its wake-ups, which other tasks have too."""

    lag: float = 0.0

    async def beat(self) -> None:
        """Measure until it is cancelled."""
        while True:
            before = anyio.current_time()
            await anyio.sleep(A_BEAT)
            self.lag += anyio.current_time() - before - A_BEAT


def agent_for(fault: Fault, transport: str, url: str, tally: Tally, slower: float = 1.0) -> SSEOxyGent:
    """Return an agent with default time-outs except the one under test.

    A call that could not connect in time is not retried: it would wait each time.
    """
    clock = fault.clock_over(transport)
    return SSEOxyGent(
        server_url=url,
        transport=tally,
        timeouts=attrs.evolve(Timeouts(), **{clock: SHORT[clock] * slower}) if clock else Timeouts(),
        retry=Retry(attempts=1) if clock == "connect" else SOON,
        limits=LIMITS,
    )


def _held(error: errors.OxyError | None, partial: Any) -> int:
    """Return the received bytes that are still held."""
    body = getattr(error, "body", "")
    return len(body.encode()) + len(partial.text.encode()) + sum(len(e.sse.data.encode()) for e in partial.events)


async def play(
    fault: Fault,
    server: FaultServer,
    transport: str,
    make: Callable[..., Transport],
    *,
    metronome: Metronome,
    slower: float = 1.0,
) -> Line:
    """Return the result of a run with the fault, over a transport made by `make`, and of the next call."""
    with server.standing(fault) as stand:
        connect = SHORT["connect"] * slower if fault.clock == "connect" else 10.0
        tally = Tally(make(verify=server.trust, connect=connect, trust_env=False))
        agent = agent_for(fault, transport, stand.url, tally, slower)
        try:
            async with agent:
                before = metronome.lag
                line = await _first(agent, tally, HANGS * slower)
                line = attrs.evolve(line, slower=slower, lag=metronome.lag - before)
                stand.serve_properly()
                agent.timeouts = Timeouts(total=PATIENCE)
                then = await _next(agent)
        finally:
            await tally.aclose()
        return attrs.evolve(line, posts=stand.count("POST") - (not then), gets=stand.count("GET"), then=then)


async def _first(agent: SSEOxyGent, tally: Tally, hangs: float) -> Line:
    """Make the run with the fault."""
    run, error, began = agent.stream("hi"), None, anyio.current_time()
    with anyio.move_on_after(hangs) as hung:
        try:
            async with run:
                assert (await run.final_response()).output == ANSWER
        except errors.OxyError as caught:
            error = caught
    assert error is None or error.outcome is run.outcome
    return Line(
        error=TimeoutError if hung.cancelled_caught else None if error is None else type(error),
        outcome=run.outcome,
        seconds=anyio.current_time() - began,
        posts=0,
        gets=0,
        taken=tally.taken,
        held=_held(error, run.partial),
        left_open=tally.open,
    )


async def _next(agent: SSEOxyGent) -> str:
    """Make the next call; return its failure, or an empty text."""
    try:
        output = (await agent.ask("hi again")).output
    except errors.OxyError as error:
        return f"{type(error).__name__}: {error}"
    return "" if output == ANSWER else f"the answer was {output!r}"


def _called(error: type[BaseException] | None, clock: str | None = None) -> str:
    if error is None:
        return "its answer"
    return f"`{error.__name__}`" + (f" (`{clock}`)" if clock and issubclass(error, TimeoutError) else "")


def is_late(fault: Fault, transport: str, line: Line) -> bool:
    """Return whether it took longer than its time-out, a margin and the delay of the machine."""
    clock = fault.clock_over(transport)
    at_work = any(error is None for error, _ in fault.ends(transport))
    allowed = (SHORT[clock] * line.slower if clock else 0.0) + A_MOMENT + (AT_WORK if at_work else 0.0)
    return line.seconds > allowed + LAGS * line.lag


def is_early(fault: Fault, line: Line) -> bool:
    """Return whether a time-out ended it early."""
    by_clock = line.error is not None and issubclass(line.error, TimeoutError)
    return by_clock and line.seconds < (SHORT[fault.clock] if fault.clock else HANGS) * line.slower - A_TICK


def may_lack_time(fault: Fault, transport: str, line: Line) -> bool:
    """Return whether it may be wrong because the machine was busy."""
    by_clock = line.error is not None and issubclass(line.error, TimeoutError)
    return bool(judged(fault, transport, line)) and (by_clock or line.lag > A_LAG or is_late(fault, transport, line))


def judged(fault: Fault, transport: str, line: Line) -> list[str]:
    """Return the failures of a line, or an empty text."""
    ends = fault.ends(transport)
    most: int = getattr(LIMITS, fault.most) + PIECE
    checks = {
        f"ended with {_called(line.error)}, {line.outcome.name}": (line.error, line.outcome) in ends,
        f"took {line.seconds:.2f} s": not is_early(fault, line) and not is_late(fault, transport, line),
        f"sent {line.posts} POSTs": line.posts <= POSTS.get(line.outcome, fault.posts),
        f"took {line.taken} bytes from the transport, of {most}": line.taken <= most,
        f"holds {line.held} bytes": line.held <= LIMITS.partial_bytes + LIMITS.error_body_bytes,
        f"left {line.left_open} exchanges open": line.left_open == 0,
        f"spoilt the next call: {line.then}": not line.then,
    }
    return [wrong for wrong, right in checks.items() if not right]


def wrong_of(transport: str, lines: Mapping[str, Line]) -> list[str]:
    """Return the failures of the lines of this transport."""
    return [
        f"{transport}, {fault.name}: {wrong}"
        for fault in FAULTS
        if fault.name in lines
        for wrong in judged(fault, transport, lines[fault.name])
    ]


async def play_all(
    server: FaultServer,
    transport: str,
    faults: Sequence[Fault] = FAULTS,
    *,
    make: Callable[..., Transport] | None = None,
    metronome: Metronome | None = None,
    slower: float = 1.0,
    again: bool = True,
    player: Callable[..., Awaitable[Line]] = play,
) -> dict[str, Line]:
    """Return the lines of all faults by name: some at a time, and those that may lack time `again`, alone.

    `make` replaces the transport of that name, and `player` replaces `play`.
    """
    lines: dict[str, Line] = {}
    places = anyio.CapacityLimiter(AT_ONCE)
    beside = metronome or Metronome()

    async def one(fault: Fault, slower: float) -> None:
        async with places:
            made = make or TRANSPORTS[transport]
            lines[fault.name] = await player(fault, server, transport, made, metronome=beside, slower=slower)

    async with anyio.create_task_group() as beating:
        beating.start_soon(beside.beat)
        async with anyio.create_task_group() as tasks:
            for fault in faults:
                tasks.start_soon(one, fault, slower)
        for longer in SLOWER if again else ():
            for fault in faults:
                if may_lack_time(fault, transport, lines[fault.name]):
                    await one(fault, longer)
        beating.cancel_scope.cancel()
    return lines


# ----------------------------------------------------------------------------------------------------------------- Page

HEAD: Final = """\
# Server faults, and how a run ends

How the client handles {faults} faults of a real server on loopback. `python -m tests.support.fault_server` writes this
page: {date}, CPython {python}, httpx {httpx}, httpx2 {httpx2}, aiohttp {aiohttp}. Each fault meets a run over each
transport, on asyncio and, except for aiohttp, on trio. The time-out that ends a run follows its error. Time-outs are
short: `connect` {connect:g} s, `silence` {silence:g} s, `idle` {idle:g} s, `total` {total:g} s. Limits are {event} KiB
for an event and {stream} KiB for a stream. A safe retry follows after at most {base:g} s of backoff.

A transport's cell has four figures, each for the worse of both loops: seconds until the run ended (its time-out plus
one second at most), POSTs that the server read completely, bytes taken from the transport, and bytes that the error or
the run still holds. After each fault the next good call of the same agent succeeds. Deviations would be noted in the
cell.

[Faults in tests](faults.md) lists the faults that you can put around a transport in your own tests.

"""
COLUMNS: Final = ("Fault", "What the server does", "The run ends with", "`outcome`", *TRANSPORTS)
STABLE: Final = 4
"""The number of columns, from the left, that are the same in each run."""


def _stable_cells(fault: Fault) -> tuple[str, ...]:
    ends, outcomes = _ways(fault.usual, fault.clock)
    for transport, ways in fault.but.items():
        theirs = _ways(ways, fault.clock)
        ends, outcomes = f"{ends}; {transport}: {theirs[0]}", f"{outcomes}; {transport}: {theirs[1]}"
    return fault.name, fault.does, ends, outcomes


def _ways(ends: Sequence[End], clock: str | None) -> tuple[str, str]:
    """Return the errors and the outcomes, each once, as on the page."""
    errors_of = {_called(error, clock): None for error, _ in ends}
    return " or ".join(errors_of), " or ".join({f"`{outcome.name}`": None for _, outcome in ends})


def _cell(fault: Fault, transport: str, lines: Sequence[Line]) -> str:
    seconds, posts = max(line.seconds for line in lines), max(line.posts for line in lines)
    taken, held = max(line.taken for line in lines), max(line.held for line in lines)
    wrong = {each: None for line in lines for each in judged(fault, transport, line)}
    return "; ".join((f"{seconds:.1f} s, {posts}, {taken:,}, {held:,}", *wrong))


def stable(text: str) -> list[list[str]]:
    """Return the columns of a page that are the same in each run, row by row."""
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines() if row.startswith("|")]
    return [row[:STABLE] for row in rows]


def page(results: Mapping[str, Sequence[Mapping[str, Line]]]) -> str:
    """Return the page; `results` are the lines of each transport for each loop. Without any, the stable columns."""
    facts: dict[str, Any] = {
        "faults": len(FAULTS),
        "date": datetime.now(UTC).date(),
        "python": platform.python_version(),
        "base": SOON.base,
        "event": (LIMITS.event_bytes or 0) // 1024,
        "stream": (LIMITS.stream_bytes or 0) // 1024,
    }
    text = HEAD.format(**facts, **{name: version(name) for name in TRANSPORTS}, **SHORT)
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for fault in FAULTS:
        cells = [_cell(fault, name, [lines[fault.name] for lines in loops]) for name, loops in results.items()]
        rows.append((*_stable_cells(fault), *cells))
    return text + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    """Run all faults, and write the page.

    Raises:
        SystemExit: a line is wrong.
    """
    results: dict[str, list[dict[str, Line]]] = {}
    wrong: list[str] = []
    with serving_faults() as server:
        for name, loops in LOOPS_OF.items():
            results[name] = [anyio.run(play_all, server, name, backend=loop) for loop in loops]
            for lines in results[name]:
                wrong += wrong_of(name, lines)
    PAGE.write_text(page(results), encoding="utf-8")
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
