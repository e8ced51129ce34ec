"""Transports that inject faults: delays, cuts, corrupt data.

    agent = SSEOxyGent(server_url="http://remote", transport=faults.cut_after(FakeTransport.script(...), bytes=100))

Rule 1: a fault is a value, `Fault`; `Faulty` is the only class here that moves bytes, and it keeps the promises of
    `Transport`.
Rule 2: the body of a response is changed by a plain generator: `yield MORE` gives the next piece of the real body
    (None at its end), `yield step` hands a step on. It neither waits nor reads a clock, and ends when nobody reads it.
Rule 3: an error is made anew each time it is raised: the run that gets it writes into it.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Generator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeAlias, TypedDict, Unpack

import anyio
import attrs
from anyio.lowlevel import checkpoint

from oxygent_client._core.errors import ConnectError, ConnectionLostError
from oxygent_client._core.transport import HTTPRequest, HTTPResponse, Purpose, Transport
from oxygent_client.testing._fake_transport import EVENT_STREAM, Pause, Step, close, heartbeat

__all__ = [
    "MORE",
    "Body",
    "Fault",
    "Faulty",
    "When",
    "blank_lines",
    "bom",
    "close_first",
    "crlf_split",
    "cut_after",
    "duplicate_close",
    "empty_body",
    "endless_comments",
    "endless_event",
    "endless_field",
    "endless_line",
    "envelope",
    "fall_silent",
    "garbage",
    "gzip_body",
    "gzip_bomb",
    "half_event",
    "hang_after",
    "hang_before_headers",
    "heartbeats_between",
    "heartbeats_only",
    "html_page",
    "lf_only",
    "lose_before_headers",
    "no_close",
    "one_piece",
    "refuse",
    "reset_after",
    "slow",
    "split_every",
    "status",
    "wrong_content_type",
]

Body: TypeAlias = Generator[Step | None, bytes | None, None]
"""What becomes of a body, as rule 2 has it."""

MORE: Final = None
RUNS: Final[tuple[Purpose, ...]] = ("run", "attach")
HEARTBEAT_SECONDS: Final = 15.0
"""As on real servers."""
FLOOD_BYTES: Final = 64 * 1024
"""The size of a piece of a flood."""
FOREVER: Final = Pause(math.inf)

# --- the mechanism ----------------------------------------------------------------------------------------------------


def _unchanged() -> Body:
    while (piece := (yield MORE)) is not None:
        yield piece


def _no_headers() -> Mapping[str, str]:
    return {}


@attrs.frozen(kw_only=True)
class Fault:
    """What becomes of an exchange."""

    name: str
    """As it was asked for: `cut_after(bytes=100)`."""
    refusal: Callable[[], Exception] | None = None
    """Raised instead of sending the request."""
    before: Callable[[], Pause | Exception] | None = None
    """What happens between the request and the headers of the response: a wait, or an error."""
    status: int | None = None
    """In the place of the real status."""
    headers: Mapping[str, str] = attrs.field(factory=_no_headers)
    """Over the real ones; names in lower case."""
    body: Callable[[], Body] = _unchanged

    def __repr__(self) -> str:
        return self.name


class When(TypedDict, total=False):
    """Which exchanges a fault strikes."""

    purposes: Collection[Purpose]
    """Those with one of these purposes; runs and attaching to runs if it is not said."""
    times: int | None
    """The first so many of them; None, or not said: all."""


@attrs.define(eq=False)
class Faulty:
    """A transport whose exchanges suffer a fault; any other exchange is as the wrapped transport makes it."""

    inner: Transport
    fault: Fault
    purposes: Collection[Purpose] = attrs.field(default=RUNS, kw_only=True, repr=False)
    times: int | None = attrs.field(default=None, kw_only=True, repr=False)
    struck: int = attrs.field(default=0, init=False, repr=False)
    """How many exchanges the fault has struck."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`, but for what the fault does."""
        fault = self._next(request)
        if fault is not None and fault.refusal is not None:
            await checkpoint()
            raise fault.refusal()
        async with self.inner.exchange(request) as response:
            if fault is None:
                yield response
                return
            if fault.before is not None:
                step = fault.before()
                if isinstance(step, Exception):
                    raise step
                await anyio.sleep(step.seconds)
            # The length that was announced is that of the real body.
            real = {name: value for name, value in response.headers.items() if name != "content-length"}
            yield attrs.evolve(
                response,
                status=fault.status or response.status,
                headers={**real, **fault.headers},
                chunks=_Spoiled(response.chunks, fault.body()),
            )

    def _next(self, request: HTTPRequest) -> Fault | None:
        if request.context.purpose not in self.purposes or self.struck == self.times:
            return None
        self.struck += 1
        return self.fault

    async def aclose(self) -> None:
        """As `Transport.aclose`: closes the wrapped transport."""
        await self.inner.aclose()


class _Spoiled:
    """The pieces that a body's generator makes of the real ones. A wait that was cancelled can be waited for again."""

    def __init__(self, chunks: AsyncIterator[bytes], body: Body) -> None:
        self._chunks = chunks
        self._body = body
        self._piece: bytes | None = None
        self._step: Step | None = None
        self._is_done = True  # with this step

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while True:
            if self._is_done:
                try:
                    self._step = self._body.send(self._piece)
                except StopIteration:
                    raise StopAsyncIteration from None
                self._is_done, self._piece = False, None
            step = self._step
            if step is None:
                self._piece = await anext(self._chunks, None)
            elif not isinstance(step, bytes | Exception):
                await (anyio.sleep(step.seconds) if isinstance(step, Pause) else step())
            self._is_done = True
            if isinstance(step, Exception):
                raise step
            if isinstance(step, bytes) and step:
                return step


# --- no response ------------------------------------------------------------------------------------------------------


def refuse(inner: Transport, *, times: int | None = 1, purposes: Collection[Purpose] = RUNS) -> Faulty:
    """No connection: nothing is sent. Unless told otherwise, only once."""
    fault = Fault(name="refuse()", refusal=partial(ConnectError, "could not connect: refused by a fault"))
    return Faulty(inner, fault, times=times, purposes=purposes)


def lose_before_headers(inner: Transport, **when: Unpack[When]) -> Faulty:
    """The request is sent, and the connection breaks before the headers of the response."""
    return Faulty(inner, Fault(name="lose_before_headers()", before=_lost), **when)


def hang_before_headers(inner: Transport, **when: Unpack[When]) -> Faulty:
    """The request is sent, and nothing ever comes."""
    return Faulty(inner, Fault(name="hang_before_headers()", before=_hang), **when)


def _lost() -> ConnectionLostError:
    return ConnectionLostError("the connection was lost: reset by a fault")


def _hang() -> Pause:
    return FOREVER


# --- another response -------------------------------------------------------------------------------------------------


def status(
    inner: Transport, code: int, body: bytes = b"", headers: Mapping[str, str] | None = None, **when: Unpack[When]
) -> Faulty:
    """Another status, and a text in the place of the stream."""
    fault = Fault(
        name=f"status({code})" + (f" with {', '.join(headers)}" if headers else ""),
        status=code,
        headers={"content-type": "text/plain; charset=utf-8", **(headers or {})},
        body=partial(_instead, body),
    )
    return Faulty(inner, fault, **when)


def _page(inner: Transport, name: str, content_type: str, body: bytes, when: When) -> Faulty:
    fault = Fault(name=name, status=200, headers={"content-type": content_type}, body=partial(_instead, body))
    return Faulty(inner, fault, **when)


def html_page(inner: Transport, **when: Unpack[When]) -> Faulty:
    """A page with status 200, as a proxy or a login answers."""
    page = b"<!doctype html><title>Sign in</title><p>Please sign in."
    return _page(inner, "html_page()", "text/html; charset=utf-8", page, when)


def envelope(inner: Transport, code: int = 500, message: str = "failed", **when: Unpack[When]) -> Faulty:
    """A JSON document with status 200 that says that something failed."""
    body = json.dumps({"code": code, "message": message, "data": {}}).encode()
    return _page(inner, f"envelope({code})", "application/json", body, when)


def wrong_content_type(
    inner: Transport, content_type: str = "application/octet-stream", **when: Unpack[When]
) -> Faulty:
    """The real stream, announced as something else."""
    return Faulty(inner, Fault(name="wrong_content_type()", headers={"content-type": content_type}), **when)


def empty_body(inner: Transport, **when: Unpack[When]) -> Faulty:
    """A stream that ends before its first byte."""
    return _stream(inner, "empty_body()", partial(_instead), when)


def garbage(inner: Transport, **when: Unpack[When]) -> Faulty:
    """A stream of all bytes there are, none of which is an event."""
    return _stream(inner, "garbage()", partial(_instead, bytes(range(256)) * 4), when)


def _stream(inner: Transport, name: str, body: Callable[[], Body], when: When) -> Faulty:
    """A stream that holds something else."""
    return Faulty(inner, Fault(name=name, headers=EVENT_STREAM, body=body), **when)


def _instead(*steps: Step) -> Body:
    yield from steps


# --- a stream that ends, or does not ----------------------------------------------------------------------------------


def cut_after(inner: Transport, *, bytes: int, **when: Unpack[When]) -> Faulty:
    """The stream ends after so many bytes, cleanly: a real server that is told to stop does this."""
    return Faulty(inner, Fault(name=f"cut_after(bytes={bytes})", body=partial(_first, bytes)), **when)


def reset_after(inner: Transport, *, bytes: int, **when: Unpack[When]) -> Faulty:
    """The connection breaks after so many bytes."""
    return Faulty(inner, Fault(name=f"reset_after(bytes={bytes})", body=partial(_first, bytes, _lost)), **when)


def hang_after(inner: Transport, *, bytes: int, **when: Unpack[When]) -> Faulty:
    """After so many bytes nothing comes any more, and nothing ends."""
    return Faulty(inner, Fault(name=f"hang_after(bytes={bytes})", body=partial(_first, bytes, _hang)), **when)


def _first(size: int, then: Callable[[], Step] | None = None) -> Body:
    while size > 0 and (piece := (yield MORE)) is not None:
        yield piece[:size]
        size -= len(piece)
    if then is not None:
        yield then()


def half_event(inner: Transport, *, after: int = 1, **when: Unpack[When]) -> Faulty:
    """The stream ends in the middle of an event, after so many whole ones."""
    return Faulty(inner, Fault(name=f"half_event(after={after})", body=partial(_half, after)), **when)


def _half(after: int) -> Body:
    seen = b""
    while (piece := (yield MORE)) is not None:
        seen += piece
        blocks = _BLOCK.findall(seen)
        if len(blocks) > after:
            yield b"".join(blocks[:after]) + blocks[after][: len(blocks[after]) // 2]
            return
    yield seen


def no_close(inner: Transport, **when: Unpack[When]) -> Faulty:
    """The close event is missing: the stream ends after its last message."""
    return Faulty(inner, Fault(name="no_close()", body=partial(_each_block, _without_close)), **when)


def close_first(inner: Transport, **when: Unpack[When]) -> Faulty:
    """A close event stands before everything else: an orderly end without an answer."""
    return Faulty(inner, Fault(name="close_first()", body=partial(_after, close())), **when)


def heartbeats_only(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Heartbeats every 15 s, for ever: a real server whose task has died."""
    return _stream(inner, "heartbeats_only()", _heartbeats, when)


def fall_silent(inner: Transport, **when: Unpack[When]) -> Faulty:
    """One heartbeat, then not a byte more: the server or the network is gone."""
    return _stream(inner, "fall_silent()", partial(_instead, heartbeat(), FOREVER), when)


def _heartbeats() -> Body:
    while True:
        yield heartbeat()
        yield Pause(HEARTBEAT_SECONDS)


# --- too much ---------------------------------------------------------------------------------------------------------


def endless_line(inner: Transport, **when: Unpack[When]) -> Faulty:
    """A line of data that never ends, at full speed."""
    return _flood(inner, "endless_line()", b"data: ", b"x", when)


def endless_event(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Lines of data without a blank line, for ever."""
    return _flood(inner, "endless_event()", b"", b"data: x\n", when)


def endless_comments(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Comment lines without a blank line, for ever."""
    return _flood(inner, "endless_comments()", b"", b": x\n", when)


def endless_field(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Lines of a field that nobody knows, for ever."""
    return _flood(inner, "endless_field()", b"", b"unknown: x\n", when)


def blank_lines(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Blank lines, for ever."""
    return _flood(inner, "blank_lines()", b"", b"\n", when)


def _flood(inner: Transport, name: str, first: bytes, unit: bytes, when: When) -> Faulty:
    return _stream(inner, name, partial(_endless, first, unit * (FLOOD_BYTES // len(unit))), when)


def _endless(first: bytes, piece: bytes) -> Body:
    yield first
    while True:
        yield piece


# --- a content coding -------------------------------------------------------------------------------------------------

GZIP: Final = {"content-encoding": "gzip"}


def gzip_body(inner: Transport, **when: Unpack[When]) -> Faulty:
    """The real stream, compressed though nobody asked for it, and said to be."""
    return Faulty(inner, Fault(name="gzip_body()", headers=GZIP, body=_compressed), **when)


def gzip_bomb(inner: Transport, **when: Unpack[When]) -> Faulty:
    """A compressed stream that never ends, whose every kilobyte holds a megabyte."""
    return Faulty(inner, Fault(name="gzip_bomb()", headers={**EVENT_STREAM, **GZIP}, body=_bomb), **when)


def _gzip() -> Callable[[bytes], bytes]:
    compressor = zlib.compressobj(wbits=31)  # 16 + 15: with the header of gzip, and the usual window
    return lambda piece: compressor.compress(piece) + compressor.flush(zlib.Z_SYNC_FLUSH)


def _compressed() -> Body:
    compress = _gzip()
    while (piece := (yield MORE)) is not None:
        yield compress(piece)


def _bomb() -> Body:
    compress = _gzip()
    while True:
        yield compress(bytes(1024 * 1024))


# --- odd, and still right ---------------------------------------------------------------------------------------------


def split_every(inner: Transport, n: int, **when: Unpack[When]) -> Faulty:
    """The real stream in pieces of `n` bytes at most."""
    return Faulty(inner, Fault(name=f"split_every({n})", body=partial(_split, n)), **when)


def crlf_split(inner: Transport, **when: Unpack[When]) -> Faulty:
    """The real stream, cut between each CR and its LF."""
    return Faulty(inner, Fault(name="crlf_split()", body=_crlf_split), **when)


def one_piece(inner: Transport, **when: Unpack[When]) -> Faulty:
    """The whole stream in one piece, when it is over: a proxy that buffers."""
    return Faulty(inner, Fault(name="one_piece()", body=_whole), **when)


def slow(inner: Transport, seconds: float, **when: Unpack[When]) -> Faulty:
    """Each piece comes so much later."""
    return Faulty(inner, Fault(name=f"slow({seconds:g})", body=partial(_slowly, seconds)), **when)


def bom(inner: Transport, **when: Unpack[When]) -> Faulty:
    """A byte order mark stands before the first event."""
    return Faulty(inner, Fault(name="bom()", body=partial(_after, b"\xef\xbb\xbf")), **when)


def lf_only(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Lines end with LF, where a real server sends CR LF."""
    return Faulty(inner, Fault(name="lf_only()", body=partial(_each_block, _with_lf)), **when)


def heartbeats_between(inner: Transport, **when: Unpack[When]) -> Faulty:
    """A heartbeat stands before each event."""
    return Faulty(inner, Fault(name="heartbeats_between()", body=partial(_each_block, _after_heartbeat)), **when)


def duplicate_close(inner: Transport, **when: Unpack[When]) -> Faulty:
    """The close event comes twice."""
    return Faulty(inner, Fault(name="duplicate_close()", body=partial(_each_block, _with_close_twice)), **when)


def _split(size: int) -> Body:
    while (piece := (yield MORE)) is not None:
        for start in range(0, len(piece), size):
            yield piece[start : start + size]


def _crlf_split() -> Body:
    while (piece := (yield MORE)) is not None:
        yield from re.split(rb"(?<=\r)(?=\n)", piece)


def _whole() -> Body:
    whole = b""
    while (piece := (yield MORE)) is not None:
        whole += piece
    yield whole


def _slowly(seconds: float) -> Body:
    while (piece := (yield MORE)) is not None:
        yield Pause(seconds)
        yield piece


def _after(first: bytes) -> Body:
    yield first
    yield from _unchanged()


# --- by event ---------------------------------------------------------------------------------------------------------

_BLOCK: Final = re.compile(rb".*?(?:\r\n|\n|\r(?!\n)){2}", re.DOTALL)
_CLOSE: Final = re.compile(rb"(?:^|[\r\n])event: ?close[\r\n]")


def _each_block(change: Callable[[bytes], bytes]) -> Body:
    """`change` of each block, whatever pieces it came in."""
    rest = b""
    while (piece := (yield MORE)) is not None:
        rest += piece
        blocks = _BLOCK.findall(rest)
        rest = rest[sum(map(len, blocks)) :]
        for block in blocks:
            yield change(block)
    yield rest


def _without_close(block: bytes) -> bytes:
    return b"" if _CLOSE.search(block) else block


def _with_close_twice(block: bytes) -> bytes:
    return block * 2 if _CLOSE.search(block) else block


def _after_heartbeat(block: bytes) -> bytes:
    return heartbeat() + block


def _with_lf(block: bytes) -> bytes:
    return block.replace(b"\r\n", b"\n")
