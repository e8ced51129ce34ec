"""The same bytes to each network transport give the same result, with listed differences.

Rule 1: a line of SAME is one behaviour of all transports.
Rule 2: a line of DIFFERENT is a difference of a library that cannot be removed; docs/howto/choose-a-transport.md has it
    too.
Sources: RFC 9112 (messages, framing), RFC 9110 (headers, status codes).
"""

from __future__ import annotations

import gzip
import time
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from oxygent_client import HTTPXTransport, Timeouts, errors
from oxygent_client.testing import answer, close
from oxygent_client.transports._response_head import MAX_HEADERS, MAX_HEADERS_BYTES, MAX_VALUE_BYTES, parse_head
from oxygent_client.transports.aiohttp import AiohttpTransport
from oxygent_client.transports.httpx2 import HTTPX2Transport
from tests.support.plain import plain
from tests.support.servers import chunk, play, serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from oxygent_client import Transport

TRANSPORTS: Final[dict[str, Callable[..., Transport]]] = {
    "httpx": HTTPXTransport,
    "httpx2": HTTPX2Transport,
    "aiohttp": AiohttpTransport,
}

BODY: Final = answer("42") + close()
STREAM: Final = b"content-type: text/event-stream"
CHUNKED: Final = b"transfer-encoding: chunked"
LAST: Final = b"0\r\n\r\n"
OK: Final = b"HTTP/1.1 200 OK"
SIZE: Final = len(BODY)


def head(*lines: bytes, status: bytes = OK) -> bytes:
    """Return the head of a response."""
    return b"".join(line + b"\r\n" for line in (status, *lines)) + b"\r\n"


def stream(*lines: bytes, status: bytes = OK, body: bytes = BODY, kind: bytes = STREAM) -> bytes:
    """Return a whole stream, with its length."""
    return head(kind, b"content-length: %d" % len(body), *lines, status=status) + body


def framed(*lines: bytes, body: bytes = chunk(BODY) + LAST) -> bytes:
    """Return a stream in chunks, unless its headers differ."""
    return head(STREAM, *lines) + body


def many(count: int, value: bytes = b"1") -> list[bytes]:
    """Return so many headers."""
    return [b"x-%d: %b" % (number, value) for number in range(count)]


def sized(size: bytes) -> bytes:
    """Return a chunk with this size line."""
    return size + b"\r\n" + BODY + b"\r\n" + LAST


@attrs.frozen
class Ended:
    """The result and outcome of a run."""

    output: Any = None
    error: type[errors.OxyError] | None = None
    outcome: str = "completed"


FINE: Final = Ended("42")
BROKEN: Final = Ended(error=errors.RemoteProtocolError, outcome="unknown")
NO_STREAM: Final = Ended(error=errors.NotAnEventStreamError, outcome="unknown")
ODD_STATUS: Final = Ended(error=errors.StatusError, outcome="unknown")
CUT: Final = Ended(error=errors.IncompleteStreamError, outcome="unknown")

SAME: Final[dict[str, tuple[bytes, Ended]]] = {
    # --- the status line
    "as it should be": (stream(), FINE),
    "no reason": (stream(status=b"HTTP/1.1 200"), FINE),
    "an empty reason": (stream(status=b"HTTP/1.1 200 "), FINE),
    "a reason that is no ASCII": (stream(status=b"HTTP/1.1 200 \xc3\xa9\xff\t!"), FINE),
    "HTTP/1.0": (stream(status=b"HTTP/1.0 200 OK"), FINE),
    "HTTP/1.0, kept alive": (stream(b"connection: keep-alive", status=b"HTTP/1.0 200 OK"), FINE),
    "HTTP/1.0, to the end of the connection": (head(STREAM, status=b"HTTP/1.0 200 OK") + BODY, FINE),
    "HTTP/1.0, in chunks": (head(STREAM, CHUNKED, status=b"HTTP/1.0 200 OK") + chunk(BODY) + LAST, FINE),
    "lower case": (stream(status=b"http/1.1 200 OK"), BROKEN),
    "two spaces": (stream(status=b"HTTP/1.1  200 OK"), BROKEN),
    "another protocol": (stream(status=b"ICY 200 OK"), BROKEN),
    "a status of two digits": (stream(status=b"HTTP/1.1 20 X"), BROKEN),
    "a status of four digits": (stream(status=b"HTTP/1.1 2000 X"), BROKEN),
    "a status below 100": (stream(status=b"HTTP/1.1 099 X"), BROKEN),
    "a status above 599": (stream(status=b"HTTP/1.1 999 X"), ODD_STATUS),
    # --- interim responses
    "100": (head(status=b"HTTP/1.1 100 Continue") + stream(), FINE),
    "100 with a length": (head(b"content-length: 0", status=b"HTTP/1.1 100 Continue") + stream(), FINE),
    "102": (head(status=b"HTTP/1.1 102 Processing") * 2 + stream(), FINE),
    "103": (head(b"link: </a>; rel=preload", status=b"HTTP/1.1 103 Early Hints") * 2 + stream(), FINE),
    "an interim status nobody knows": (head(status=b"HTTP/1.1 199 X") + stream(), FINE),
    "101": (head(b"upgrade: x", b"connection: upgrade", status=b"HTTP/1.1 101 X") + stream(), BROKEN),
    "101 without an upgrade": (head(status=b"HTTP/1.1 101 X") + stream(), BROKEN),
    # --- other statuses
    "202": (stream(status=b"HTTP/1.1 202 Accepted"), ODD_STATUS),
    "204": (head(status=b"HTTP/1.1 204 No Content"), ODD_STATUS),
    "205": (head(b"content-length: 0", status=b"HTTP/1.1 205 X"), ODD_STATUS),
    "206": (stream(status=b"HTTP/1.1 206 Partial Content"), ODD_STATUS),
    "304": (
        head(b"content-length: 5", status=b"HTTP/1.1 304 X"),
        Ended(error=errors.RedirectError, outcome="rejected"),
    ),
    "nothing, with a length": (head(STREAM, b"content-length: 0"), CUT),
    # --- Content-Type
    "upper case in a header": (stream(kind=b"CONTENT-TYPE: TEXT/EVENT-STREAM"), FINE),
    "parameters": (stream(kind=STREAM + b'; charset=UTF-8; x="a,b\\"/c"'), FINE),
    "an empty parameter": (stream(kind=STREAM + b" ;"), FINE),
    "a folded parameter": (stream(kind=STREAM + b";\r\n charset=utf-8"), FINE),
    "the type twice": (stream(STREAM), FINE),
    "the type twice, in upper case": (stream(b"Content-Type: Text/Event-Stream;x=1"), FINE),
    "a comma after the type": (stream(kind=STREAM + b","), FINE),
    "another type, too": (stream(b"content-type: text/html"), NO_STREAM),
    "no type": (stream(kind=b"x: y"), NO_STREAM),
    "an empty type": (stream(kind=b"content-type:"), NO_STREAM),
    # --- Content-Encoding
    "gzip": (stream(b"content-encoding: gzip", body=gzip.compress(BODY)), FINE),
    "gzip, to the end of the connection": (head(STREAM, b"content-encoding: gzip") + gzip.compress(BODY), FINE),
    "gzip, in chunks": (framed(CHUNKED, b"content-encoding: gzip", body=chunk(gzip.compress(BODY)) + LAST), FINE),
    "gzip twice": (
        stream(b"content-encoding: gzip", b"Content-Encoding: X-GZIP", body=gzip.compress(gzip.compress(BODY))),
        FINE,
    ),
    "identity": (stream(b"content-encoding: identity"), FINE),
    "an empty coding": (stream(b"content-encoding:"), FINE),
    "br": (stream(b"content-encoding: br"), attrs.evolve(NO_STREAM, outcome="started")),
    # --- Transfer-Encoding
    "chunked": (framed(CHUNKED), FINE),
    "Chunked": (framed(b"Transfer-Encoding: Chunked"), FINE),
    "chunked, with spaces": (framed(b"transfer-encoding:  chunked \t"), FINE),
    "gzip, chunked": (framed(b"transfer-encoding: gzip, chunked", body=chunk(gzip.compress(BODY)) + LAST), BROKEN),
    "chunked twice": (framed(CHUNKED, CHUNKED), BROKEN),
    "chunked, chunked": (framed(b"transfer-encoding: chunked, chunked"), BROKEN),
    "chunked and a comma": (framed(b"transfer-encoding: chunked,"), BROKEN),
    "an unknown transfer coding": (framed(b"transfer-encoding: foo", body=BODY), BROKEN),
    "identity as a transfer coding": (framed(b"transfer-encoding: identity", body=BODY), BROKEN),
    "an empty transfer coding": (framed(b"transfer-encoding:", b"content-length: %d" % SIZE, body=BODY), BROKEN),
    "a chunk extension": (framed(CHUNKED, body=sized(b'%x;a=b;c="d e"' % SIZE)), FINE),
    "a space after the size": (framed(CHUNKED, body=sized(b"%x  " % SIZE)), FINE),
    "zeros before the size": (framed(CHUNKED, body=sized(b"000%X" % SIZE)), FINE),
    "zeros as the last chunk": (framed(CHUNKED, body=chunk(BODY) + b"000\r\n\r\n"), FINE),
    "trailers": (framed(CHUNKED, body=chunk(BODY) + b"0\r\nx-a: 1\r\nx-b: 2\r\n\r\n"), FINE),
    # --- Content-Length
    "to the end of the connection": (framed(body=BODY), FINE),
    "spaces around the length": (framed(b"content-length:   %d   " % SIZE, body=BODY), FINE),
    "zeros before the length": (framed(b"content-length: 000%d" % SIZE, body=BODY), FINE),
    "two lengths": (framed(b"content-length: %d" % SIZE, b"content-length: 5", body=BODY), BROKEN),
    "a list of lengths": (framed(b"content-length: %d, 5" % SIZE, body=BODY), BROKEN),
    "a comma after the length": (framed(b"content-length: %d," % SIZE, body=BODY), BROKEN),
    "an empty length": (framed(b"content-length:", body=BODY), BROKEN),
    "a sign": (framed(b"content-length: +%d" % SIZE, body=BODY), BROKEN),
    "a hexadecimal length": (framed(b"content-length: 0x%x" % SIZE, body=BODY), BROKEN),
    "an underscore in the length": (framed(b"content-length: 1_0", body=BODY), BROKEN),
    "a length of 30 digits": (framed(b"content-length: " + b"9" * 30, body=BODY), BROKEN),
    # --- other headers
    "a folded header": (stream(b"x-a: 1\r\n  2"), FINE),
    "a header twice": (stream(b"x-a: 1", b"X-A: 2"), FINE),
    "empty values": (stream(b"x-a:", b"x-b: \t "), FINE),
    "a value that is no ASCII": (stream(b"x-a: \xc3\xa9\xff"), FINE),
    "a name that is no ASCII": (stream(b"x-\xe9: 1"), BROKEN),
    "odd characters in a name": (stream(b"x!#$%&'*+-.^_`|~1: 1"), FINE),
    "a parenthesis in a name": (stream(b"x(a): 1"), BROKEN),
    "a space before the colon": (stream(b"x-a : 1"), BROKEN),
    "no name": (stream(b": 1"), BROKEN),
    "no colon": (stream(b"nonsense"), BROKEN),
    "NUL in a value": (stream(b"x: a\0b"), BROKEN),
    "CR in a value": (stream(b"x: a\rb"), BROKEN),
    "controls in a value": (stream(b"x: a\x01\x7fb"), FINE),
    "many headers": (stream(*many(400)), FINE),
    "too many headers": (stream(*many(4000)), BROKEN),
    "a large header": (stream(b"x: " + b"y" * 30_000), FINE),
    "too large a header": (stream(b"x: " + b"y" * 40_000), BROKEN),
    "large headers": (stream(*many(3, b"y" * 20_000)), FINE),
    "too large headers": (stream(*many(4, b"y" * 20_000)), BROKEN),
    "connection: upgrade": (stream(b"connection: upgrade", b"upgrade: h2c"), FINE),
    "a location": (stream(b"location: https://elsewhere.test/"), FINE),
    # --- chunks
    "a space before an extension": (framed(CHUNKED, body=sized(b"%x ; a" % SIZE)), CUT),
    "LF after the size": (framed(CHUNKED, body=sized(b"%x" % SIZE).replace(b"\r\n", b"\n", 1)), CUT),
    "a size with 0x": (framed(CHUNKED, body=sized(b"0x%x" % SIZE)), CUT),
    # --- line ends
    "LF as each line end": (stream().replace(b"\r\n", b"\n"), FINE),
    "LF as one line end": (stream(b"x: y\nz: w"), FINE),
    "LF as the end of the head": (stream().replace(b"\r\n\r\n", b"\r\n\n", 1), FINE),
}

DIFFERENT: Final[dict[str, tuple[bytes, Ended, Ended]]] = {
    # name: (the bytes, httpx and httpx2, aiohttp)
    "a length and chunks": (framed(CHUNKED, b"content-length: %d" % SIZE), FINE, BROKEN),
    "the length twice": (framed(*[b"content-length: %d" % SIZE] * 2, body=BODY), FINE, BROKEN),
    "the length in a list": (framed(b"content-length: %d, %d" % (SIZE, SIZE), body=BODY), FINE, BROKEN),
    "an empty line before the status": (b"\r\n" + stream(), BROKEN, FINE),
    "a folded first header": (head(b" x: y", STREAM) + BODY, BROKEN, FINE),
    "HTTP/1.2": (stream(status=b"HTTP/1.2 200 OK"), FINE, BROKEN),
}


async def ended(make: Callable[..., Transport], sent: bytes) -> Ended:
    """Return the result of a run whose server sends these bytes."""
    transport = make(trust_env=False)
    async with serving(play(sent)) as server:
        agent = plain(server_url=server.url, transport=transport, timeouts=Timeouts(total=15))
        try:
            return Ended((await agent.ask("hi")).output)
        except errors.OxyError as error:
            return Ended(error=type(error), outcome=error.outcome.value)
        finally:
            await transport.aclose()


@pytest.mark.seconds
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("case", SAME)
async def test_the_same_bytes(case: str, transport: str) -> None:
    """A run has the same result over each library."""
    sent, expected = SAME[case]
    assert await ended(TRANSPORTS[transport], sent) == expected


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("case", DIFFERENT)
async def test_known_differences(case: str, transport: str) -> None:
    """Where libraries differ, each does what the page states, and no outcome is better than known."""
    sent, usual, of_aiohttp = DIFFERENT[case]
    assert await ended(TRANSPORTS[transport], sent) == (of_aiohttp if transport == "aiohttp" else usual)


# ---------------------------------------------------------------------------------------------------------------- Heads


def test_headers_of_one_name() -> None:
    """Header names are in lower case, and the values of one name are joined in order."""
    assert parse_head(200, [("X-A", "1"), ("b", "2"), ("x-a", "3")]) == {"x-a": "1, 3", "b": "2"}


BOUNDS: Final = {
    "headers": ([("x", "y")] * MAX_HEADERS, ("x", "y")),
    "bytes of one": ([("x", "y" * (MAX_VALUE_BYTES))], ("z", "y" * (MAX_VALUE_BYTES + 1))),
    "bytes": ([("x", "y" * (MAX_HEADERS_BYTES // 4 - 1))] * 4, ("x", "")),
}


@pytest.mark.parametrize(("most", "more"), BOUNDS.values(), ids=BOUNDS)
def test_bounds(most: list[tuple[str, str]], more: tuple[str, str]) -> None:
    """Heads up to the bounds in number and size are accepted, and no larger ones."""
    assert parse_head(200, most)
    with pytest.raises(errors.RemoteProtocolError):
        parse_head(200, [*most, more])


def test_linear_time() -> None:
    """The time to read headers grows linearly with their number."""

    def seconds(count: int) -> float:
        lines = [(f"x-{number}", "1") for number in range(count)]
        best = 1e9
        for _ in range(5):
            began = time.process_time()
            with pytest.raises(errors.RemoteProtocolError):
                parse_head(200, lines)
            best = min(best, time.process_time() - began)
        return best

    assert seconds(20_000) < 40 * seconds(2000)
