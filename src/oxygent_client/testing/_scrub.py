"""Remove secrets from a recording.

Rule 1: pure functions. A header is kept if its name is on a list; `_core/redaction` decides what is secret in JSON and
    in texts. What cannot be parsed with certainty is treated as secret.
Rule 2: data without secrets stays the same, byte for byte.
Rule 3: only values are replaced: keys, header names and events stay.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias
from urllib.parse import parse_qsl

from oxygent_client._core.redaction import KEPT_HEADERS, SCRUBBED, scrub_text
from oxygent_client._core.spellings import Needles, find
from oxygent_client._protocol.messages import is_event_stream

Span: TypeAlias = tuple[int, int, bytes]
"""Start and end of a part of a body, and its replacement."""


def scrub_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Keep all names, in lower case, and the values of those on the list."""
    return {
        name.lower(): scrub_text(value) if name.lower() in KEPT_HEADERS else SCRUBBED for name, value in headers.items()
    }


def scrub_path(path: str) -> str:
    """Keep the path, and the names of its query."""
    bare, mark, query = path.partition("?")
    return bare + mark + "&".join(f"{name}={SCRUBBED}" for name, _ in parse_qsl(query, keep_blank_values=True))


# --- bodies -----------------------------------------------------------------------------------------------------------


def scrub_body(pieces: Sequence[bytes], headers: Mapping[str, str]) -> list[bytes]:
    """Remove secrets from the pieces of a body; a replacement goes into the piece where the secret starts."""
    whole = b"".join(pieces)
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        spans: Iterable[Span] = [(0, len(whole), SCRUBBED.encode())]  # compressed: it cannot be scanned
    elif is_event_stream(headers.get("content-type", "")):
        spans = _event_spans(whole)
    else:
        text = whole.decode("utf-8", "replace")
        clean = scrub_text(text)
        spans = [] if clean is text else [(0, len(whole), clean.encode("utf-8", "replace"))]
    return _replaced(pieces, spans)


_NO_SPAN: Final[Span] = (sys.maxsize, sys.maxsize, b"")
_LINE: Final = re.compile(rb"([^\r\n]*)(\r\n|\n|\r|$)")
_DATA: Final = re.compile(rb"(?:\xef\xbb\xbf)?data: ?")


def _event_spans(whole: bytes) -> Iterator[Span]:
    values: list[tuple[int, int]] = []  # the data lines of a block
    for line in _LINE.finditer(whole):
        if match := _DATA.match(line[1]):
            values.append((line.start() + match.end(), line.end(1)))
        elif not line[1]:
            yield from _block_spans(whole, values)
            values = []


def _block_spans(whole: bytes, values: list[tuple[int, int]]) -> Iterator[Span]:
    data = "\n".join(whole[start:end].decode("utf-8", "replace") for start, end in values)
    clean = scrub_text(data)
    if clean is data:
        return
    lines = clean.split("\n")
    if len(lines) != len(values):  # a document on several lines, now on one; blank lines after it do not matter
        first = next(number for number, (start, end) in enumerate(values) if start < end)
        lines = [clean.replace("\n", " ") if number == first else "" for number in range(len(values))]
    for (start, end), line in zip(values, lines, strict=True):
        yield start, end, line.encode("utf-8", "replace")


def _replaced(pieces: Sequence[bytes], spans: Iterable[Span]) -> list[bytes]:
    """Replace the spans, which are in order; a span belongs to the piece in which it starts."""
    changed: list[bytes] = []
    waiting = iter(spans)
    start, stop, instead = next(waiting, _NO_SPAN)
    begin = 0
    for piece in pieces:
        kept, at, end = bytearray(), begin, begin + len(piece)
        while start < end:
            if start >= begin:
                kept += piece[at - begin : start - begin] + instead
            at = min(stop, end)
            if stop > end:
                break
            start, stop, instead = next(waiting, _NO_SPAN)
        kept += piece[at - begin :]
        changed.append(bytes(kept))
        begin = end
    return changed


# --- known texts ------------------------------------------------------------------------------------------------------

Remove: TypeAlias = "tuple[Callable[[str], str], Callable[[bytes], Iterable[tuple[int, int]]]]"
"""Removes texts from a `str`, and finds their spans in bytes."""


def remove_secrets(secrets: Needles) -> Remove:
    """Remove these secrets, in every usual spelling."""
    return lambda text: secrets.replace_in(text, SCRUBBED), lambda data: find(data, secrets)


def remove_texts(texts: Sequence[str]) -> Remove:
    """Remove these texts; in bytes also as JSON spells them."""
    spellings = sorted({spelling for text in texts for spelling in (text, json.dumps(text)[1:-1])}, key=len)
    pattern = re.compile(b"|".join(re.escape(each.encode("utf-8", "replace")) for each in reversed(spellings)))

    def remove(text: str) -> str:
        for each in texts:
            text = text.replace(each, SCRUBBED)
        return text

    return remove, lambda data: [match.span() for match in pattern.finditer(data)] if texts else []


def replace_in_body(pieces: Sequence[bytes], find_spans: Callable[[bytes], Iterable[tuple[int, int]]]) -> list[bytes]:
    """Replace the spans in the pieces of a body, also across pieces."""
    return _replaced(pieces, [(start, end, SCRUBBED.encode()) for start, end in find_spans(b"".join(pieces))])
