"""Decompress response bodies in bounded steps.

A server or a proxy may compress although the request asks it not to, and the run is at work by then.

Rule 1: pure, and the standard library's zlib alone. How the bytes are cut into pieces changes nothing.
Rule 2: nothing is held back: what the bytes so far stand for comes out, so an event is seen as soon as it was sent.
Rule 3: a piece that comes out is STEP bytes at most, and is made when it is asked for: of a bomb no more is inflated
    than the limits of the reader let in. An empty piece is work that had no result yet; others may run then.
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

__all__ = ["Decompressor", "content_codings"]

STEP: Final = 64 * 1024
"""How many bytes come out at a time."""
TAKEN: Final = 16 * 1024
"""How many bytes are given to zlib at a time: it copies those that it leaves."""
MOST_CODINGS: Final = 4
"""How many codings are undone after each other."""
GZIP_BITS: Final = 16 + zlib.MAX_WBITS
PLAIN: Final = ("", "identity")
NAMES: Final[Mapping[str, str]] = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}


def content_codings(headers: Mapping[str, str]) -> tuple[str, ...]:
    """The codings of a body, in the order in which they were applied; none if it is as it is.

    Raises:
        RemoteProtocolError: one is not known here (`br`, `zstd`), or they are more than MOST_CODINGS.
    """
    named = [name.strip() for name in headers.get("content-encoding", "").split(",")]
    named = [name for name in named if name.lower() not in PLAIN]
    unknown = next((name for name in named if name.lower() not in NAMES), None)
    if unknown is not None:
        raise RemoteProtocolError(
            f"the response is compressed with '{escape_text(unknown, 40)}', which was not asked for and cannot be read"
        )
    if len(named) > MOST_CODINGS:
        raise RemoteProtocolError(f"the response is compressed {len(named)} times")
    return tuple(NAMES[name.lower()] for name in named)


class Decompressor:
    """The state between two pieces of a body with these codings."""

    def __init__(self, applied: tuple[str, ...]) -> None:
        self._layers = [_Layer(name) for name in reversed(applied)]

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """What `piece` stands for, each part when it is asked for.

        Raises:
            RemoteProtocolError: the bytes are not of this coding.
        """
        pieces: Iterable[bytes] = (piece[at : at + TAKEN] for at in range(0, len(piece), TAKEN))
        for layer in self._layers:
            pieces = layer.feed(pieces)
        return iter(pieces)

    def end(self) -> None:
        """Nothing more will come.

        Raises:
            RemoteProtocolError: the body is not complete.
        """
        for layer in self._layers:
            layer.end()


class _Layer:
    """One coding."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._zlib: _Decompress | None = None
        """None before the first byte, and between two members of gzip."""
        self._head = b""
        """The first byte of deflate: the second says whether a header of zlib begins with it."""
        self._is_over = False
        """Whether a member is complete; in gzip another one may follow."""

    def feed(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            rest = self._head + piece
            while rest:
                if self._zlib is None:
                    rest = self._begin(rest)
                if (inflate := self._zlib) is not None:
                    made, rest = self._step(inflate, rest)
                    while len(made) == STEP and not inflate.eof:  # zlib may hold more, of nothing that is left
                        yield made
                        made, rest = self._step(inflate, rest)
                    yield made
            yield b""

    def _begin(self, rest: bytes) -> bytes:
        """Begin with zlib if it is known how; what is left to be given to it."""
        if self._is_over:
            rest = rest.lstrip(b"\0")  # padding, as of tapes
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
        """What comes out of `rest`, up to STEP bytes, and what is left of it."""
        try:
            made = inflate.decompress(rest, STEP)
        except zlib.error as error:
            raise self._corrupt() from error
        if not inflate.eof:
            return made, inflate.unconsumed_tail
        self._zlib, self._is_over = None, True
        return made, inflate.unused_data

    def _corrupt(self) -> RemoteProtocolError:
        return RemoteProtocolError(f"the response is said to be compressed with {self._name}, and its bytes are not")

    def end(self) -> None:
        if self._zlib is not None or self._head:
            raise RemoteProtocolError(f"the response, which is compressed with {self._name}, is incomplete")


def _is_zlib(head: bytes) -> bool:
    """Whether a stream begins with a header of zlib (RFC 1950, section 2.2); some servers leave it out."""
    return head[0] & 0x0F == zlib.DEFLATED and head[0] >> 4 <= 7 and int.from_bytes(head[:2], "big") % 31 == 0
