"""Transports that inject faults: delays, cuts, corrupt data.

    agent = SSEOxyGent(server_url="http://remote", transport=faults.cut_after(FakeTransport.script(...), bytes=100))

Rule 1: a fault is a value, `Fault`. `Faulty` applies it, and fulfils the `Transport` contract.
Rule 2: a generator changes the body of a response: `yield MORE` returns the next chunk of the real body (None at its
    end), `yield step` passes a step on. It does not wait or read a clock.
Rule 3: an error is created each time it is raised, since the run that receives it changes it.
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
from oxygent_client.testing._fake_transport import EVENT_STREAM, Pause, Step, close, heartbeat, wait

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
"""Changes the body of a response (rule 2)."""

MORE: Final = None
RUNS: Final[tuple[Purpose, ...]] = ("run", "attach")
HEARTBEAT_SECONDS: Final = 15.0
"""As on real servers."""
FLOOD_BYTES: Final = 64 * 1024
"""Size of the chunks of a flood."""
FOREVER: Final = Pause(math.inf)

# --- the mechanism ----------------------------------------------------------------------------------------------------


def _unchanged() -> Body:
    while (piece := (yield MORE)) is not None:
        yield piece


@attrs.frozen(kw_only=True)
class Fault:
    """Changes to an exchange."""

    name: str
    """The call that made it: `cut_after(bytes=100)`."""
    refusal: Callable[[], Exception] | None = None
    """The error to raise instead of sending the request."""
    before: Callable[[], Pause | Exception] | None = None
    """A wait or an error between the request and the response headers."""
    status: int | None = None
    """Replaces the real status."""
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    """Added to the real headers, or replacing them; names in lower case."""
    body: Callable[[], Body] = _unchanged

    def __repr__(self) -> str:
        return self.name


class When(TypedDict, total=False):
    """The exchanges that a fault affects."""

    purposes: Collection[Purpose]
    """The purposes of those exchanges (default: `run` and `attach`)."""
    times: int | None
    """Only the first so many of them (default: None, all)."""


@attrs.define(eq=False)
class Faulty:
    """A transport that applies a fault to the exchanges of another transport."""

    inner: Transport
    fault: Fault
    purposes: Collection[Purpose] = attrs.field(default=RUNS, kw_only=True, repr=False)
    times: int | None = attrs.field(default=None, kw_only=True, repr=False)
    struck: int = attrs.field(default=0, init=False, repr=False)
    """How many exchanges the fault has affected."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`, with the fault applied."""
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
            # The real body has another length.
            real = {name: value for name, value in response.headers.items() if name != "content-length"}
            yield attrs.evolve(
                response,
                status=fault.status or response.status,
                headers={**real, **fault.headers},
                chunks=_ChangedBody(response.chunks, fault.body()),
            )

    def _next(self, request: HTTPRequest) -> Fault | None:
        if request.context.purpose not in self.purposes or self.struck == self.times:
            return None
        self.struck += 1
        return self.fault

    async def aclose(self) -> None:
        """As `Transport.aclose`: closes the wrapped transport."""
        await self.inner.aclose()


class _ChangedBody(AsyncIterator[bytes]):
    """The chunks that a body's generator makes of the real ones. A cancelled wait can be repeated."""

    def __init__(self, chunks: AsyncIterator[bytes], body: Body) -> None:
        self._chunks = chunks
        self._body = body
        self._piece: bytes | None = None
        self._step: Step | None = None
        self._is_done = True  # with this step

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
                await wait(step)
            self._is_done = True
            if isinstance(step, Exception):
                raise step
            if isinstance(step, bytes) and step:
                return step


# --- no response ------------------------------------------------------------------------------------------------------


def refuse(inner: Transport, *, times: int | None = 1, purposes: Collection[Purpose] = RUNS) -> Faulty:
    """Refuse the connection: nothing is sent. By default only once."""
    fault = Fault(name="refuse()", refusal=partial(ConnectError, "could not connect: refused by a fault"))
    return Faulty(inner, fault, times=times, purposes=purposes)


def lose_before_headers(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Send the request, and lose the connection before the response headers."""
    return Faulty(inner, Fault(name="lose_before_headers()", before=_lost), **when)


def hang_before_headers(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Send the request, and wait for ever for the response headers."""
    return Faulty(inner, Fault(name="hang_before_headers()", before=_hang), **when)


def _lost() -> ConnectionLostError:
    return ConnectionLostError("the connection was lost: reset by a fault")


def _hang() -> Pause:
    return FOREVER


# --- another response -------------------------------------------------------------------------------------------------


def status(
    inner: Transport, code: int, body: bytes = b"", headers: Mapping[str, str] | None = None, **when: Unpack[When]
) -> Faulty:
    """Replace the status, and the stream by a text."""
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
    """Respond with an HTML page and status 200, as a proxy or a login page does."""
    page = b"<!doctype html><title>Sign in</title><p>Please sign in."
    return _page(inner, "html_page()", "text/html; charset=utf-8", page, when)


def envelope(inner: Transport, code: int = 500, message: str = "failed", **when: Unpack[When]) -> Faulty:
    """Respond with a JSON document that reports an error, and status 200."""
    body = json.dumps({"code": code, "message": message, "data": {}}).encode()
    return _page(inner, f"envelope({code})", "application/json", body, when)


def wrong_content_type(
    inner: Transport, content_type: str = "application/octet-stream", **when: Unpack[When]
) -> Faulty:
    """Change the content type of the real stream."""
    return Faulty(inner, Fault(name="wrong_content_type()", headers={"content-type": content_type}), **when)


def empty_body(inner: Transport, **when: Unpack[When]) -> Faulty:
    """End the stream before its first byte."""
    return _stream(inner, "empty_body()", partial(_instead), when)


def garbage(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Replace the stream by all byte values, without an event."""
    return _stream(inner, "garbage()", partial(_instead, bytes(range(256)) * 4), when)


def _stream(inner: Transport, name: str, body: Callable[[], Body], when: When) -> Faulty:
    """Replace the stream."""
    return Faulty(inner, Fault(name=name, headers=EVENT_STREAM, body=body), **when)


def _instead(*steps: Step) -> Body:
    yield from steps


# --- a stream that ends, or does not ----------------------------------------------------------------------------------


def cut_after(inner: Transport, *, bytes: int, **when: Unpack[When]) -> Faulty:
    """End the stream cleanly after so many bytes, as a real server does when it is stopped."""
    return Faulty(inner, Fault(name=f"cut_after(bytes={bytes})", body=partial(_first, bytes)), **when)


def reset_after(inner: Transport, *, bytes: int, **when: Unpack[When]) -> Faulty:
    """Reset the connection after so many bytes."""
    return Faulty(inner, Fault(name=f"reset_after(bytes={bytes})", body=partial(_first, bytes, _lost)), **when)


def hang_after(inner: Transport, *, bytes: int, **when: Unpack[When]) -> Faulty:
    """Send nothing more after so many bytes, and do not end the stream."""
    return Faulty(inner, Fault(name=f"hang_after(bytes={bytes})", body=partial(_first, bytes, _hang)), **when)


def _first(size: int, then: Callable[[], Step] | None = None) -> Body:
    while size > 0 and (piece := (yield MORE)) is not None:
        yield piece[:size]
        size -= len(piece)
    if then is not None:
        yield then()


def half_event(inner: Transport, *, after: int = 1, **when: Unpack[When]) -> Faulty:
    """End the stream in the middle of an event, after so many complete ones."""
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
    """Leave out the close event: the stream ends after its last message."""
    return Faulty(inner, Fault(name="no_close()", body=partial(_each_block, _without_close)), **when)


def close_first(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Send a close event before everything else: a complete stream without an answer."""
    return Faulty(inner, Fault(name="close_first()", body=partial(_after, close())), **when)


def heartbeats_only(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Send a heartbeat every 15 s, for ever, as a real server does after its task died."""
    return _stream(inner, "heartbeats_only()", _heartbeats, when)


def fall_silent(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Send one heartbeat, then nothing, as after a failure of the server or the network."""
    return _stream(inner, "fall_silent()", partial(_instead, heartbeat(), FOREVER), when)


def _heartbeats() -> Body:
    while True:
        yield heartbeat()
        yield Pause(HEARTBEAT_SECONDS)


# --- too much ---------------------------------------------------------------------------------------------------------


def endless_line(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Send a data line that never ends, at full speed."""
    return _flood(inner, "endless_line()", b"data: ", b"x", when)


def endless_event(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Send data lines without a blank line, for ever."""
    return _flood(inner, "endless_event()", b"", b"data: x\n", when)


def endless_comments(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Send comment lines without a blank line, for ever."""
    return _flood(inner, "endless_comments()", b"", b": x\n", when)


def endless_field(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Send lines of an unknown field, for ever."""
    return _flood(inner, "endless_field()", b"", b"unknown: x\n", when)


def blank_lines(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Send blank lines, for ever."""
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
    """Compress the real stream with gzip, which was not requested, and declare it."""
    return Faulty(inner, Fault(name="gzip_body()", headers=GZIP, body=_compressed), **when)


def gzip_bomb(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Send a compressed stream that never ends, with a megabyte in each kilobyte."""
    return Faulty(inner, Fault(name="gzip_bomb()", headers={**EVENT_STREAM, **GZIP}, body=_bomb), **when)


def _gzip() -> Callable[[bytes], bytes]:
    compressor = zlib.compressobj(wbits=31)  # 16 + 15: gzip header, default window
    return lambda piece: compressor.compress(piece) + compressor.flush(zlib.Z_SYNC_FLUSH)


def _compressed() -> Body:
    compress = _gzip()
    while (piece := (yield MORE)) is not None:
        yield compress(piece)


def _bomb() -> Body:
    compress = _gzip()
    while True:
        yield compress(bytes(1024 * 1024))


# --- unusual but valid ---------------------------------------------------------------------------------------------


def split_every(inner: Transport, n: int, **when: Unpack[When]) -> Faulty:
    """Split the real stream into chunks of at most `n` bytes."""
    return Faulty(inner, Fault(name=f"split_every({n})", body=partial(_split, n)), **when)


def crlf_split(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Split the real stream between each CR and its LF."""
    return Faulty(inner, Fault(name="crlf_split()", body=_crlf_split), **when)


def one_piece(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Send the whole stream in one chunk at its end, as a buffering proxy does."""
    return Faulty(inner, Fault(name="one_piece()", body=_whole), **when)


def slow(inner: Transport, seconds: float, **when: Unpack[When]) -> Faulty:
    """Delay each chunk by so many seconds."""
    return Faulty(inner, Fault(name=f"slow({seconds:g})", body=partial(_slowly, seconds)), **when)


def bom(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Send a byte order mark before the first event."""
    return Faulty(inner, Fault(name="bom()", body=partial(_after, b"\xef\xbb\xbf")), **when)


def lf_only(inner: Transport, **when: Unpack[When]) -> Faulty:
    """End lines with LF instead of the CR LF of real servers."""
    return Faulty(inner, Fault(name="lf_only()", body=partial(_each_block, _with_lf)), **when)


def heartbeats_between(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Send a heartbeat before each event."""
    return Faulty(inner, Fault(name="heartbeats_between()", body=partial(_each_block, _after_heartbeat)), **when)


def duplicate_close(inner: Transport, **when: Unpack[When]) -> Faulty:
    """Send the close event twice."""
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
    """Apply `change` to each block, independent of how it was split into chunks."""
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
