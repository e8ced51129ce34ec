"""Decode bytes into server-sent events.

It follows the algorithm of the standard to the letter
(https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation), and:

Rule 1: no I/O, no clock. `feed` is a plain function of the bytes so far; how they are cut into pieces changes nothing.
Rule 2: nothing is held back that the standard would dispatch: a blank line's CR is enough, its LF may come later.
Rule 3: work is linear in the bytes, memory is bounded by the limits, whatever the other side sends.
Rule 4: text is UTF-8, always; invalid bytes decode to U+FFFD. A `charset` is ignored.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from oxygent_client._core.errors import TooLargeError
from oxygent_client._core.events import ServerSentEvent, new_sse
from oxygent_client._core.settings import Limits

_BOM = b"\xef\xbb\xbf"
_LF, _CR, _COLON = b"\n\r:"


def _blocks(character: str, line_end: str) -> Callable[[str], list[tuple[str, str, str, str, str, str]]]:
    """Return a function that finds blocks whose lines end with `line_end`, with values of `character`."""
    return re.compile(
        rf"(?:id: ({character}++){line_end}|)(?:event: ({character}++){line_end}|)data: ({character}*+){line_end}"
        rf"(?:retry: ([0-9]{{1,9}}+){line_end}|){line_end}"
        rf"|(:[^\r\n]*+){line_end}{line_end}"
        r"|([\s\S]++)"
    ).findall


_WITH_LF = _blocks(".", r"\n")
_WITH_CRLF = _blocks(r"[^\r]", r"\r\n")
"""Each finds a block as real servers send it, a heartbeat, or else all the rest: so matches follow each other without a
gap. A value that `_WITH_CRLF` finds may have an LF, and no CR; one that `_WITH_LF` finds may have a CR, and no LF.

Nothing in them backtracks further than to the beginning of a block. They exclude one character from a value, which is
found several times as fast as one of two.
"""
_SLICE = 64 * 1024
"""How many bytes are cut into lines at a time, so that a huge piece does not become a huge list."""
_LEAST = 64
"""In a piece of so many bytes no blocks of the usual shape are looked for: that takes longer than to read its lines."""
_SHORT = 512
"""A line of at most so many bytes is copied when it grows, in less time than it takes to make a bytearray."""
_RETRY_DIGITS = 4300
"""Python's own bound for int(); a `retry` with more digits is ignored like any other that is no number of use."""
_STRAY = 4096
"""How many bytes are kept of lines that are no field."""


class Decoder:
    """The state between two pieces of an event stream.

    `feed` each piece as it arrives. `last_event_id` and `reconnection_time` are what a reconnect must use.
    """

    __slots__ = (
        *("_allowance", "_block_bytes", "_data", "_event", "_event_limit", "_failure", "_head", "_id", "_line"),
        *("_line_limit", "_retry", "_retry_text", "_skip", "_stray", "_stream_left", "_stream_limit"),
        *("comments", "held_bytes", "last_event_id", "names_events", "reconnection_time", "unnamed_events"),
    )

    last_event_id: str
    """The id of the last block that was dispatched."""
    reconnection_time: int | None
    """Milliseconds; None until the stream said so."""
    comments: int
    """How many comment lines came: heartbeats, on real servers."""
    names_events: bool
    """True once a block named its event. Servers of 1.0.8 and older name none but the last."""
    unnamed_events: int
    """How many events came before that."""
    held_bytes: int
    """How many bytes are held of an event that is not complete."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self.last_event_id = ""
        self.reconnection_time = None
        self.comments = 0
        self.names_events = False
        self.unnamed_events = 0
        self.held_bytes = 0
        # Integers also where there is no limit: to compare one with a float takes several times as long.
        self._line_limit = sys.maxsize if limits.line_bytes is None else limits.line_bytes
        self._event_limit = sys.maxsize if limits.event_bytes is None else limits.event_bytes
        self._stream_limit = sys.maxsize if limits.stream_bytes is None else limits.stream_bytes
        # So many bytes pass no limit, whatever they are.
        self._allowance = min(self._line_limit, self._event_limit, self._stream_limit, _SLICE)
        self._stream_left = self._stream_limit - self._allowance
        self._skip = _BOM  # what is skipped if it follows; after the CR of a line end, its LF
        self._head = b""  # the beginning of that
        self._line: bytes | bytearray = b""  # the line that has no end yet
        self._failure: TooLargeError | None = None
        self._stray = b""  # the beginning of the lines that are no field
        # The block that has no blank line yet:
        self._block_bytes = 0
        self._event = ""
        self._data: bytes | bytearray | None = None
        self._id = ""  # not reset between blocks: the standard's "last event ID buffer"
        self._retry: int | None = None
        self._retry_text = ""  # what `reconnection_time` was read from; empty if it is not known

    @property
    def leftovers(self) -> tuple[str, str]:
        """The beginning of bytes that became no event: lines that are no field; the data of an incomplete block.

        A server that fails may send its error so.
        """
        line = bytes(self._line[:_STRAY])
        name, _, value = line.partition(b":")
        stray, data = [self._stray], [bytes(self._data or b"")[:_STRAY]]
        (data if name == b"data" else stray).append(value.removeprefix(b" ") if name == b"data" else line)
        first, second = (b"\n".join(filter(None, parts))[:_STRAY].decode("utf-8", "replace") for parts in (stray, data))
        return first, second

    @property
    def is_within_event(self) -> bool:
        """Whether an event has begun, by its name or its data, and is not complete. A part of a comment is none."""
        has_field = bool(self._line) and not self._line.startswith(b":")
        return has_field or bool(self._event) or self._data is not None

    def feed(self, piece: bytes, /) -> list[ServerSentEvent]:
        """The events that `piece` completes, in their order.

        Raises:
            TooLargeError: a limit was passed; `.events` are those that were complete before. The decoder is of no
                further use: each later call raises the same error.
        """
        size = len(piece)
        allowance = self._allowance - size
        if allowance < 0:
            return self._feed_within_limits(piece)
        self._allowance = allowance
        if self._skip:
            piece = self._skipped(piece)
            size = len(piece)
        if _LF not in piece and _CR not in piece:
            held = self.held_bytes = self.held_bytes + size
            if held > _SHORT and isinstance(self._line, bytes):
                self._line = bytearray(self._line)
            self._line += piece
            return []
        events: list[ServerSentEvent] = []
        if size > _LEAST:
            if self._block_bytes or self._line:  # a block has begun: it ends with the first blank line
                blank = piece.find(b"\n\r\n") + 3
                if blank < 3 and (blank := piece.find(b"\n\n") + 2) < 2:
                    blank = len(piece)
                self._cut(piece[:blank], events)
                piece = piece[blank:]
            piece = piece and self._take_blocks(piece, events)
        if piece:
            self._cut(piece, events)
        return events

    def _feed_within_limits(self, piece: bytes) -> list[ServerSentEvent]:
        """Feed a piece that may pass a limit, or is too large to be cut into lines at once."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        events: list[ServerSentEvent] = []
        left = self._stream_left + self._allowance
        is_too_large, piece = len(piece) > left, piece[:left]
        left -= len(piece)
        if self._skip:
            piece = self._skipped(piece)
        start = 0
        while start < len(piece):
            room = self._room()
            if room == 0:  # there is none but for a line end: a line does not count its own, an event no blank line
                is_end = piece[start] in b"\r\n"
                if not is_end and len(self._line) == self._line_limit:
                    raise self._failed(f"a line is longer than Limits.line_bytes ({self._line_limit})", events)
                if not is_end or (self._line and self._block_bytes + len(self._line) == self._event_limit):
                    raise self._failed(f"an event is larger than Limits.event_bytes ({self._event_limit})", events)
                room = 1
            self._allowance = room
            events += Decoder.feed(self, piece[start : start + room])  # not that of a subclass, which has seen `piece`
            start += room
        if is_too_large:
            raise self._failed(f"the stream is larger than Limits.stream_bytes ({self._stream_limit})", events)
        self._allowance = min(self._room(), left)
        self._stream_left = left - self._allowance
        return events

    def _room(self) -> int:
        """How many bytes can be taken at once, and make no line and no event too large, whatever they are."""
        line_bytes = len(self._line) + len(self._head)
        return min(self._line_limit - line_bytes, self._event_limit - self._block_bytes - line_bytes, _SLICE)

    def _failed(self, text: str, events: list[ServerSentEvent]) -> TooLargeError:
        """The error, which each later call raises again."""
        error = self._failure = TooLargeError(text)
        error.events = tuple(events)
        self._allowance = -1
        # Who keeps the error keeps its traceback, and this: a decoder and its failure hold each other.
        self._line, self._data, self.held_bytes = b"", None, 0
        return error

    def _skipped(self, piece: bytes) -> bytes:
        """`piece` without what is to be skipped; empty while it may be a part of that."""
        piece, skip = self._head + piece, self._skip
        if len(piece) < len(skip) and skip.startswith(piece):
            self._head = piece
            return b""
        self._head = self._skip = b""
        return piece.removeprefix(skip)

    def _take_blocks(self, piece: bytes, events: list[ServerSentEvent]) -> bytes:
        """Take the first blocks of the usual shape, of a piece that begins with a block; return the rest of it.

        The piece passes no limit, so no block that lies in it does.
        """
        if 0 in piece:
            return piece
        try:
            blocks = (_WITH_CRLF if _CR in piece else _WITH_LF)(piece.decode())
        except UnicodeDecodeError:
            end = piece.rfind(b"\n") + 1  # maybe the last character is not complete
            return self._take_blocks(piece[:end], events) + piece[end:] if end < len(piece) else piece
        rest, start = b"", len(events)
        last_id, names_events, unnamed, comments = self._id, self.names_events, 0, 0
        for id_, event, data, retry, comment, other in blocks:
            if "\n" in data or "\n" in id_ or "\n" in event:  # which ends a line, too
                del events[start:]
                return piece
            if not data and (other or comment):
                if comment:
                    comments += 1
                    continue
                rest = other.encode()
                break
            if id_:
                last_id = id_
            if event:
                names_events = True
            elif not names_events:
                unnamed += 1
            if not retry:
                milliseconds = None
            elif retry == self._retry_text:
                milliseconds = self.reconnection_time
            else:
                milliseconds = self.reconnection_time = int(retry)
                self._retry_text = retry
            events.append(new_sse(event or "message", data, last_id, milliseconds))
        self._id = self.last_event_id = last_id
        self.names_events = names_events
        if unnamed or comments:
            self.unnamed_events += unnamed
            self.comments += comments
        return rest

    def _cut(self, piece: bytes, events: list[ServerSentEvent]) -> None:
        # bytes.splitlines ends a line at LF, CR and CRLF only; str.splitlines would break JSON at U+2028.
        lines = piece.splitlines()
        rest = b""
        last = piece[-1]
        if last == _CR:
            self._skip = b"\n"
        elif last != _LF:
            rest = lines.pop()
        read = self._read
        if self._line:  # it ends in this piece
            self._line += lines.pop(0)
            read(self._line)  # without another name for it: a long line is freed before its data is decoded
        self._line = rest
        for line in lines:
            if line:
                read(line)
            else:
                self._dispatch(events)
        data = self._data
        self.held_bytes = len(rest) if data is None else len(rest) + len(data)

    def _read(self, line: bytes | bytearray) -> None:
        self._block_bytes += len(line) + 1  # a line end counts as one, however it was written: rule 1
        name, found, value = line.partition(b": ")
        if not found or _COLON in name:  # no space follows the first colon
            name, _, value = line.partition(b":")
        if name == b"data":
            if self._data is None:
                self._data = value
            else:
                if isinstance(self._data, bytes):
                    self._data = bytearray(self._data)
                self._data += b"\n"
                self._data += value
        elif not name:
            self.comments += 1
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
            if value:
                self.names_events = True
        elif name == b"id":
            if 0 not in value:
                self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(digits := value.lstrip(b"0")) <= _RETRY_DIGITS:
            self._retry = self.reconnection_time = int(digits or b"0")
            self._retry_text = ""
        elif name != b"retry" and len(self._stray) < _STRAY:
            self._stray += line[: _STRAY - len(self._stray)] + b"\n"

    def _dispatch(self, events: list[ServerSentEvent]) -> None:
        self.last_event_id = self._id
        if self._data is not None:
            data = self._data.decode("utf-8", "replace")
            events.append(new_sse(self._event or "message", data, self._id, self._retry))
            if not self.names_events:
                self.unnamed_events += 1
        self._block_bytes = 0
        self._event = ""
        self._data = None
        self._retry = None
