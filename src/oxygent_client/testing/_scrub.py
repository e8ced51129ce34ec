"""Remove secrets from a recording.

Rule 1: pure, and by rule: a header is kept if its name is on a list; what is secret in JSON and in a text is for
    `oxygent_client._core.redaction` to say. What cannot be read for certain is treated as if it held a secret.
Rule 2: what holds no secret is not touched: it stays the same byte for byte.
Rule 3: what is scrubbed leaves its place: the key, the name, the event are still there.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast
from urllib.parse import parse_qsl

from oxygent_client._core.redaction import KEPT_HEADERS, SCRUBBED, scrub_text
from oxygent_client._core.spellings import Needles, find, replaced
from oxygent_client._protocol.messages import is_event_stream

__all__ = [
    "body_without",
    "scrub_body",
    "scrub_headers",
    "scrub_path",
    "secrets_out_of",
    "secrets_out_of_body",
    "without",
]

Span: TypeAlias = tuple[int, int, bytes]
"""Where something begins and ends in a body, and what takes its place."""


def scrub_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """All names; the values of those on the list. Names are in lower case."""
    return {
        name.lower(): scrub_text(value) if name.lower() in KEPT_HEADERS else SCRUBBED for name, value in headers.items()
    }


def scrub_path(path: str) -> str:
    """The path, and of its query the names."""
    bare, mark, query = path.partition("?")
    return bare + mark + "&".join(f"{name}={SCRUBBED}" for name, _ in parse_qsl(query, keep_blank_values=True))


# --- bodies -----------------------------------------------------------------------------------------------------------


def scrub_body(pieces: Sequence[bytes], headers: Mapping[str, str]) -> list[bytes]:
    """The pieces of a body without the secrets in it; what spans several pieces becomes part of the first."""
    whole = b"".join(pieces)
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        spans: Iterable[Span] = [(0, len(whole), SCRUBBED.encode())]  # nobody can look into it
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
    values: list[tuple[int, int]] = []  # of the data lines of a block
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
    if len(lines) != len(values):  # a document over several lines, now in one; blank lines after it do not matter
        first = next(number for number, (start, end) in enumerate(values) if start < end)
        lines = [clean.replace("\n", " ") if number == first else "" for number in range(len(values))]
    for (start, end), line in zip(values, lines, strict=True):
        yield start, end, line.encode("utf-8", "replace")


def _replaced(pieces: Sequence[bytes], spans: Iterable[Span]) -> list[bytes]:
    """The pieces with the spans replaced, which come in their order; a span belongs to the piece in which it begins."""
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


# --- what was sent as a credential ---------------------------------------------------------------------------------


def secrets_out_of(value: Any, secrets: Needles) -> Any:
    """`value`, any JSON, without these secrets, in whatever usual spelling they stand there."""
    if isinstance(value, str):
        return replaced(value, secrets, SCRUBBED)
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {replaced(key, secrets, SCRUBBED): secrets_out_of(item, secrets) for key, item in fields.items()}
    if isinstance(value, list):
        return [secrets_out_of(item, secrets) for item in cast("list[Any]", value)]
    return value


def secrets_out_of_body(pieces: Sequence[bytes], secrets: Needles) -> list[bytes]:
    """The pieces of a body without these secrets: also in comments and ids, and over the borders of pieces."""
    spans = [(*span, SCRUBBED.encode()) for span in find(b"".join(pieces), secrets)]
    return _replaced(pieces, spans)


# --- what a user wants gone besides -----------------------------------------------------------------------------------


def without(texts: Sequence[str], value: Any) -> Any:
    """`value`, any JSON, with each of these texts replaced wherever it stands."""
    if isinstance(value, str):
        for text in texts:
            value = value.replace(text, SCRUBBED)
        return value
    if isinstance(value, dict):
        return {without(texts, key): without(texts, item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [without(texts, item) for item in cast("list[Any]", value)]
    return value


def body_without(texts: Sequence[str], pieces: Sequence[bytes]) -> list[bytes]:
    """The pieces of a body with each of these texts replaced, as it is and as JSON writes it."""
    spellings = sorted({spelt for text in texts for spelt in (text, json.dumps(text)[1:-1])}, key=len, reverse=True)
    if not spellings:
        return list(pieces)
    pattern = re.compile(b"|".join(re.escape(spelt.encode("utf-8", "replace")) for spelt in spellings))
    spans = [(*match.span(), SCRUBBED.encode()) for match in pattern.finditer(b"".join(pieces))]
    return _replaced(pieces, spans)
