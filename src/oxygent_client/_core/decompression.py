"""Decompress response bodies in bounded steps.

A server or proxy may compress a response although the request asks it not to; the run has started then.

Rule 1: pure, and only zlib of the standard library. The result does not depend on how the input is cut into chunks.
Rule 2: output is not delayed: all that the input so far decompresses to is returned, so that events arrive in time.
Rule 3: a piece of output is at most STEP bytes and computed on demand, so that a decompression bomb is stopped by the
    limits of the reader. An empty piece is a step without output; the reader may run other tasks then.
Source: RFC 9110, section 8.4; RFC 1950 (zlib), RFC 1951 (deflate), RFC 1952 (gzip).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from oxygent_client._core.errors import RemoteProtocolError
from oxygent_client._core.text import escape_text

if TYPE_CHECKING:
    from zlib import _Decompress  # pyright: ignore[reportPrivateUsage]  (the class has no other name)

STEP: Final = 64 * 1024
"""Size of a piece of output, in bytes."""
INPUT_STEP: Final = 16 * 1024
"""Size of a piece of input to zlib, in bytes: zlib copies the input that it does not consume."""
MOST_CODINGS: Final = 4
"""How many nested codings are decompressed."""
GZIP_BITS: Final = 16 + zlib.MAX_WBITS
PLAIN: Final = ("", "identity")
NAMES: Final[Mapping[str, str]] = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}


def content_codings(headers: Mapping[str, str]) -> tuple[str, ...]:
    """The codings of a body, in the order in which they were applied; empty if it is not compressed.

    Raises:
        RemoteProtocolError: a coding is not supported (`br`, `zstd`), or there are more than MOST_CODINGS.
    """
    given = headers.get("content-encoding", "")
    if not given:
        return ()
    named = [name.strip() for name in given.split(",")]
    named = [name for name in named if name.lower() not in PLAIN]
    unknown = next((name for name in named if name.lower() not in NAMES), None)
    if unknown is not None:
        raise RemoteProtocolError(
            f"the response is compressed with '{escape_text(unknown, 40)}', which is not supported and was not accepted"
        )
    if len(named) > MOST_CODINGS:
        raise RemoteProtocolError(f"the response is compressed {len(named)} times")
    return tuple(NAMES[name.lower()] for name in named)


class Decompressor:
    """Decompress a body with these codings, chunk by chunk."""

    def __init__(self, applied: tuple[str, ...]) -> None:
        self._layers = [_Layer(name) for name in reversed(applied)]

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Decompress `piece`; the result is computed on demand.

        Raises:
            RemoteProtocolError: the bytes do not match the coding.
        """
        pieces: Iterable[bytes] = (piece[at : at + INPUT_STEP] for at in range(0, len(piece), INPUT_STEP))
        for layer in self._layers:
            pieces = layer.feed(pieces)
        return iter(pieces)

    def end(self) -> None:
        """Check that the body is complete.

        Raises:
            RemoteProtocolError: the body is not complete.
        """
        for layer in self._layers:
            layer.end()


class _Layer:
    """The state of one coding."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._zlib: _Decompress | None = None
        """None before the first byte, and between two members of gzip."""
        self._head = b""
        """The first byte of deflate: the second decides whether this is a zlib header."""
        self._is_over = False
        """Whether a gzip member is complete; another one may follow."""

    def feed(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            rest = self._head + piece
            while rest:
                if self._zlib is None:
                    rest = self._begin(rest)
                if (inflate := self._zlib) is not None:
                    made, rest = self._step(inflate, rest)
                    while len(made) == STEP and not inflate.eof:  # zlib may hold more output
                        yield made
                        made, rest = self._step(inflate, rest)
                    yield made
            yield b""

    def _begin(self, rest: bytes) -> bytes:
        """Create the zlib object as soon as the format is known; returns the input that is left."""
        if self._is_over:
            rest = rest.lstrip(b"\0")  # zero padding, as on tapes
            if self._name == "deflate" and rest:
                raise self._corrupt()
        if self._name == "gzip":
            self._zlib = zlib.decompressobj(GZIP_BITS) if rest else None
            return rest
        if len(rest) == 1 and rest[0] & 0x0F == zlib.DEFLATED:
            self._head = rest
            return b""
        self._head = b""
        self._zlib = zlib.decompressobj(zlib.MAX_WBITS if _is_zlib(rest) else -zlib.MAX_WBITS)
        return rest

    def _step(self, inflate: _Decompress, rest: bytes) -> tuple[bytes, bytes]:
        """Decompress up to STEP bytes of output; returns the output and the input that is left."""
        try:
            made = inflate.decompress(rest, STEP)
        except zlib.error as error:
            raise self._corrupt() from error
        if not inflate.eof:
            return made, inflate.unconsumed_tail
        self._zlib, self._is_over = None, True
        return made, inflate.unused_data

    def _corrupt(self) -> RemoteProtocolError:
        return RemoteProtocolError(f"the response body is not valid {self._name}")

    def end(self) -> None:
        if self._zlib is not None or self._head:
            raise RemoteProtocolError(f"the response body, compressed with {self._name}, is incomplete")


def _is_zlib(head: bytes) -> bool:
    """Whether a stream begins with a zlib header (RFC 1950, section 2.2); some servers omit it."""
    return head[0] & 0x0F == zlib.DEFLATED and head[0] >> 4 <= 7 and int.from_bytes(head[:2], "big") % 31 == 0
