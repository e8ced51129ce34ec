"""What a recording must not keep, and how it goes.

Rule 1: pure, and by rule: a header is kept if its name is on a list, a value in JSON unless its key looks secret, a
    text but for what looks like a credential in it. What cannot be read for certain is treated as if it held a secret.
Rule 2: what holds no secret is not touched: it stays the same byte for byte.
Rule 3: what is scrubbed leaves its place: the key, the name, the event are still there.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast
from urllib.parse import parse_qsl

from oxygent_client._wire import is_event_stream

__all__ = [
    "SCRUBBED",
    "body_without",
    "scrub_body",
    "scrub_headers",
    "scrub_json",
    "scrub_path",
    "scrub_text",
    "without",
]

SCRUBBED: Final = "[scrubbed]"

KEPT_HEADERS: Final = frozenset(
    """
    accept accept-encoding accept-ranges age allow cache-control connection content-encoding content-language
    content-type date expires retry-after server transfer-encoding user-agent vary x-accel-buffering
    """.split()
)
"""Headers, of requests and responses, whose values are kept."""

SECRET: Final = re.compile(
    r"""
    \b( auth | authentication | authorization | bearer | credentials? | csrf | jwt | otp | passcode | passphrase
      | passwd | pwd | session[ ]?id | xsrf
      | \w*(cookie|password|secret|token|apikey)s?
      | (access|account|api|client|encryption|private|signing|subscription)[ ]keys?
    )\b | 密码 | 密钥 | 口令 | 令牌
    """,
    re.VERBOSE,
)
"""What a key that looks secret holds, in lower case, its words apart."""
INBOUND: Final = "_headers"
"""Where the framework puts a request's headers in `shared_data`: all of them count as secret."""
WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\x00-\x7f]+")
COUNTS: Final = re.compile(r"token")
"""Under such a key a number is no secret, but a count: `max_tokens`."""

CREDENTIALS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]] = (
    (re.compile(r"(?<=://)[^\s/?#@\"'<>]+(?=@)"), lambda _: SCRUBBED),
    (
        re.compile(r"(?i)\b(bearer )(?:(?=[\w.~+/=-]*\d)[\w.~+/=-]{8,}|[\w.~+/=-]{20,})"),
        lambda match: match[1] + SCRUBBED,
    ),
    (re.compile(r"\beyJ[\w-]{5,}\.[\w-]+\.[\w-]*"), lambda _: SCRUBBED),  # a JSON web token
    (
        re.compile(r"([\w.-]+)=([^\s&;,\"'<>\\]+)"),  # in a query, a form, a cookie
        lambda match: f"{match[1]}={SCRUBBED}" if is_secret(match[1], match[2]) else match[0],
    ),
)
"""What in a text looks like a credential."""
QUOTED_KEY: Final = re.compile(r"""(["'])((?:(?!\1)[^\\]|\\.)*)\1\s*:\s*""")

DEEPEST: Final = 128
"""How deep JSON is looked into (levels); what is deeper is too deep for a run as well, and goes as a whole."""

Span: TypeAlias = tuple[int, int, bytes]
"""Where something begins and ends in a body, and what takes its place."""


def is_secret(key: str, value: Any) -> bool:
    """Whether `key` says that `value` is a secret."""
    if value is None or value is True or value is False or value == "":
        return False
    words = " ".join(WORDS.findall(key)).lower()
    if not SECRET.search(words):
        return key == INBOUND
    is_number = isinstance(value, int | float) or (isinstance(value, str) and value.isdigit())
    return not (is_number and COUNTS.search(words))


def scrub_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """All names; the values of those on the list. Names are in lower case."""
    return {
        name.lower(): scrub_text(value) if name.lower() in KEPT_HEADERS else SCRUBBED for name, value in headers.items()
    }


def scrub_path(path: str) -> str:
    """The path, and of its query the names."""
    bare, mark, query = path.partition("?")
    return bare + mark + "&".join(f"{name}={SCRUBBED}" for name, _ in parse_qsl(query, keep_blank_values=True))


def scrub_json(value: Any) -> Any:
    """`value` without the secrets in it; the very same object if it holds none."""
    try:
        return _clean(value, DEEPEST)
    except RecursionError:
        return SCRUBBED


def scrub_text(text: str) -> str:
    """`text` without the credentials in it; JSON in a text is JSON; the very same object if it holds none."""
    try:
        return _clean_text(text, DEEPEST)
    except RecursionError:
        return json.dumps(SCRUBBED)


def _clean(value: Any, depth: int) -> Any:
    if not depth:
        raise RecursionError
    if isinstance(value, str):
        return _clean_text(value, depth)
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        clean = {key: SCRUBBED if is_secret(key, item) else _clean(item, depth - 1) for key, item in fields.items()}
        return clean if any(clean[key] is not item for key, item in fields.items()) else fields
    if isinstance(value, list):
        items = cast("list[Any]", value)
        cleaned = [_clean(item, depth - 1) for item in items]
        return cleaned if any(new is not item for new, item in zip(cleaned, items, strict=True)) else items
    return value


def _clean_text(text: str, depth: int) -> str:
    clean_text = text
    if text.lstrip()[:1] in {"{", "["}:
        read = _read(text)
        if read is not None:
            document, is_exact = read
            clean = _clean(document, depth - 1)
            # JSON in ASCII: half a surrogate pair could not be written otherwise.
            return text if clean is document and is_exact else json.dumps(clean)
        clean_text = _broken(text)
    for pattern, instead in CREDENTIALS:
        clean_text = pattern.sub(instead, clean_text)
    return text if clean_text == text else clean_text


def _read(text: str) -> tuple[Any, bool] | None:
    """The document in `text`, and whether it holds all that stands there; None if it is none."""
    is_exact = True

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal is_exact
        fields = dict(pairs)
        is_exact = is_exact and len(fields) == len(pairs)  # of members with the same name only the last is read
        return fields

    try:
        return json.loads(text, object_pairs_hook=members), is_exact
    except ValueError:
        return None


def _broken(text: str) -> str:
    """What looked like JSON and is none, perhaps because it was cut off: up to the first secret."""
    for match in QUOTED_KEY.finditer(text):
        if is_secret(match[2], text[match.end() :]):
            return f'{text[: match.end()]}"{SCRUBBED}"'
    return text


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
