"""Decoders with one mistake each that the target must find: known mistakes of others, and likely ones of ours."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from oxygent_client import Decoder, Limits, ServerSentEvent

__all__ = ["MUTANTS"]


class UnicodeLines(Decoder):
    """Ends a line at U+2028, like `str.splitlines`."""

    def feed(self, piece: bytes, /) -> list[ServerSentEvent]:
        return super().feed(piece.replace("\u2028".encode(), b"\n"))


class CutLineEnds(Decoder):
    """Takes a CRLF in two chunks for two line ends."""

    def feed(self, piece: bytes, /) -> list[ServerSentEvent]:
        self._skip = self._skip.removeprefix(b"\n")
        return super().feed(piece)


class CutMarks(Decoder):
    """Strips a byte order mark only if it is in one chunk."""

    def _skipped(self, piece: bytes) -> bytes:
        skip, self._skip = self._skip, b""
        return piece.removeprefix(skip)


class CutCharacters(Decoder):
    """Decodes each chunk on its own."""

    def feed(self, piece: bytes, /) -> list[ServerSentEvent]:
        return super().feed(piece.decode("utf-8", "replace").encode())


class EagerIds(Decoder):
    """Applies an id before its blank line."""

    def _read(self, line: bytes | bytearray) -> None:
        super()._read(line)
        self.last_event_id = self._id


class ForgetfulIds(Decoder):
    """Forgets the id at each blank line."""

    def _dispatch(self, events: list[ServerSentEvent]) -> None:
        super()._dispatch(events)
        self._id = ""


class AnyNumber(Decoder):
    """Accepts any `retry` that `int()` does."""

    def _read(self, line: bytes | bytearray) -> None:
        super()._read(line)
        name, _, value = line.partition(b":")
        if name == b"retry":
            with suppress(ValueError):
                self._retry = self.reconnection_time = int(value)


class FreeComments(Decoder):
    """Does not count the bytes of a comment."""

    def _read(self, line: bytes | bytearray) -> None:
        counted = self._block_bytes
        super()._read(line)
        if line.startswith(b":"):
            self._block_bytes = counted


class OneByteMore(Decoder):
    """Allows a block to be one byte longer than its limit."""

    def __init__(self, limits: Limits = Limits()) -> None:
        super().__init__(limits)
        self._event_limit += 1


class EmptyEvents(Decoder):
    """Dispatches a block that has a name and no data."""

    def _dispatch(self, events: list[ServerSentEvent]) -> None:
        if self._event and self._data is None:
            self._data = b""
        super()._dispatch(events)


MUTANTS: Final[dict[str, type[Decoder]]] = {
    "unicode-lines": UnicodeLines,
    "cut-line-ends": CutLineEnds,
    "cut-marks": CutMarks,
    "cut-characters": CutCharacters,
    "eager-ids": EagerIds,
    "forgetful-ids": ForgetfulIds,
    "any-number": AnyNumber,
    "free-comments": FreeComments,
    "one-byte-more": OneByteMore,
    "empty-events": EmptyEvents,
}
