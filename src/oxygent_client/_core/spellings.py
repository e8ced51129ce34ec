"""Find secrets in a text in every usual spelling: plain, escaped, or in base64.

Rule 1: `find` works on bytes, so that positions stay valid in a text that was cut into pieces.
Rule 2: linear in the text. Escapes are decoded at most LAYERS times, and each layer is searched.
Rule 3: a secret of fewer than SHORT characters is found only as a whole word, since it may be a part of any word.
"""

from __future__ import annotations

import base64
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias
from urllib.parse import unquote_plus

import attrs

Span: TypeAlias = tuple[int, int]

SHORT: Final = 6
"""A shorter secret, in characters, is found only as a whole word."""
PART: Final = 4
"""Characters at the end of a text that was cut off within a secret that count as a part of the secret."""
LONG: Final = 24
"""A longer secret is found by so many of its first characters, wherever the text was cut off after them."""
LAYERS: Final = 3
"""How many times escapes are decoded: JSON within JSON, or a URL within a form, is escaped twice."""

_ESCAPE: Final = re.compile(
    rb"%[0-9A-Fa-f]{2}"  # RFC 3986, section 2.1
    rb"|\\u[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\[\"\\/bfnrt]"  # RFC 8259
    rb"|\\x[0-9A-Fa-f]{2}|\\'"  # `repr` of Python
    rb"|&#[0-9]{1,7};|&#[xX][0-9A-Fa-f]{1,6};|&[A-Za-z][A-Za-z0-9]{1,31};"  # HTML, section 13.5
)
_HALF: Final = re.compile(rb"(?:%[0-9A-Fa-f]?|\\(?:u[0-9A-Fa-f]{0,3}|x[0-9A-Fa-f]?)?|&[#0-9A-Za-z]{0,9})?\Z")
"""An incomplete escape at the end of a text."""
_LETTERS: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


@attrs.frozen
class Needles:
    """Byte strings to search for: each secret in its plain and encoded forms."""

    plain: tuple[bytes, ...] = ()
    """Found anywhere; their beginnings also at the end of a text that was cut off."""
    coded: tuple[bytes, ...] = ()
    """In base64 or hexadecimal."""
    alone: re.Pattern[bytes] | None = None
    """Short secrets."""

    def __bool__(self) -> bool:
        """Whether there is anything to search for; `coded` is made from `plain`."""
        return bool(self.plain or self.alone)

    def replace_in(self, text: str, instead: str) -> str:
        """Replace each secret in the text by `instead`; returns the same object if there is nothing to replace."""
        if not self:  # asked for each text of a remote, of which a message may have a hundred thousand
            return text
        raw = text.encode("utf-8", "surrogatepass")
        parts, read = list[bytes](), 0
        for start, end in find(raw, self):
            parts += (raw[read:start], instead.encode())
            read = end
        if not parts:
            return text
        return b"".join((*parts, raw[read:])).decode("utf-8", "surrogatepass")


def needles(secrets: Iterable[str], *, short: bool = True) -> Needles:
    """Build the needles for these secrets; `short=False` leaves out short ones."""
    forms = {form for secret in secrets for form in _forms(secret) if form}
    plain = sorted((form for form in forms if len(form) >= SHORT), key=len, reverse=True)
    coded = sorted({code for form in plain for code in _codes(form)} - forms, key=len, reverse=True)
    few = sorted((form for form in forms if len(form) < SHORT), key=len, reverse=True) if short else []
    # Bytes of 0x80 and more belong to letters beyond ASCII.
    alone = rb"(?<![\w\x80-\xff])(?:%s)(?![\w\x80-\xff])" % b"|".join(map(re.escape, few))
    return Needles(tuple(plain), tuple(coded), re.compile(alone) if few else None)


def _forms(secret: str) -> Iterator[bytes]:
    """The secret itself, with its own escapes decoded, and with its spaces as in a form."""
    # A `+` is a space in a form, and a plus elsewhere.
    for form in {secret, unquote_plus(secret), secret.replace(" ", "+")}:
        raw = form.encode("utf-8", "surrogatepass")
        yield raw
        for layer in _layers(raw):
            yield layer.text


def _codes(form: bytes) -> Iterator[bytes]:
    """The secret in hexadecimal, and the part of its base64 that no neighbour changes, at each of three alignments."""
    digits = form.hex().encode()
    yield from (digits, digits.upper())
    for whole in (base64.b64encode(form), base64.urlsafe_b64encode(form)):
        yield from (whole, whole.rstrip(b"="))
    for before in range(3):
        end = (before + len(form)) // 3 * 3 - before
        start = -before % 3
        if end - start >= 6:  # eight characters
            yield from (base64.b64encode(form[start:end]), base64.urlsafe_b64encode(form[start:end]))


# --- escapes ----------------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False, repr=False)
class _Layer:
    """A text with its escapes decoded, and the original positions of its bytes."""

    text: bytes
    at: list[int]
    """Start of each stretch in this text, in ascending order."""
    origin: list[tuple[int, int]]
    """Start and length of each stretch in the original; one of equal length was copied unchanged."""

    def original(self, span: Span) -> Span:
        """The position of a span in the original."""
        return self._position(span[0]), self._position(span[1] - 1, is_end=True)

    def _position(self, here: int, *, is_end: bool = False) -> int:
        number = bisect_right(self.at, here) - 1
        start, size = self.origin[number]
        following = self.at[number + 1] if number + 1 < len(self.at) else len(self.text)
        if following - self.at[number] == size:
            return start + here - self.at[number] + is_end
        return start + size if is_end else start


def _layers(text: bytes) -> Iterator[_Layer]:
    """The text with its escapes decoded once, twice, ...; nothing without escapes."""
    for _ in range(LAYERS):
        layer = _decode(text)
        if layer is None:
            return
        yield layer
        text = layer.text


def _decode(text: bytes) -> _Layer | None:
    parts, at, origin = list[bytes](), list[int](), list[Span]()
    here = read = 0
    for match in _ESCAPE.finditer(text):
        for start, end, decoded in ((read, match.start(), None), (*match.span(), _decode_escape(match[0]))):
            part = text[start:end] if decoded is None else decoded
            if part:
                parts.append(part)
                at.append(here)
                origin.append((start, end - start))
                here += len(part)
        read = match.end()
    if not read:
        return None
    if read < len(text):
        parts.append(text[read:])
        at.append(here)
        origin.append((read, len(text) - read))
    return _Layer(b"".join(parts), at, origin)


def _decode_escape(escape: bytes) -> bytes:
    """Decode one escape; never empty."""
    if escape.startswith(b"&"):
        import html  # whose table of names takes long to load

        return html.unescape(escape.decode()).encode("utf-8", "surrogatepass") or escape
    if escape[:2] == b"\\u":
        units = b"".join(int(unit, 16).to_bytes(2, "big") for unit in escape.split(b"\\u")[1:])
        return units.decode("utf-16-be", "surrogatepass").encode("utf-8", "surrogatepass")
    if escape[:1] == b"%" or escape[:2] == b"\\x":
        return bytes([int(escape[-2:], 16)])
    return _LETTERS.get(escape[1:], escape[1:])


# --- the search -------------------------------------------------------------------------------------------------------


def find(text: bytes, wanted: Needles) -> list[Span]:
    """The positions of the secrets in the text, in ascending order; overlapping spans are merged."""
    if not wanted:
        return []
    found = _found(text, wanted)
    layers = list[_Layer]()
    for layer in _layers(text):
        layers.append(layer)
        for here in _found(layer.text, wanted):
            span = here
            for each in reversed(layers):
                span = each.original(span)
            found.append(span)
    return _merged(found)


def _found(text: bytes, wanted: Needles) -> list[Span]:
    found = list[Span]()
    whole = len(text) - len(_HALF.findall(text[-LONG:])[0])
    for needle in (*wanted.plain, *wanted.coded):
        found += _each(text, needle, whole)
    if wanted.alone is not None:
        found += [match.span() for match in wanted.alone.finditer(text)]
    size = max((_cut_off(text[:whole], needle) for needle in wanted.plain), default=0)
    if size:
        found.append((whole - size, len(text)))
    return found


def _each(text: bytes, needle: bytes, whole: int) -> Iterator[Span]:
    """The positions of the needle, and of its beginning, as far as the text matches it.

    A match that `whole` cut off, the length of the text without half an escape at its end, includes that half.
    """
    begins = needle[:LONG]
    end = 0
    while (start := text.find(begins, end)) >= 0:
        end = start + len(begins)
        if text.startswith(needle, start):
            end = start + len(needle)
        while end < len(text) and (
            text[end : end + 1] == needle[end - start : end - start + 1] or _is_within(text, end)
        ):
            end += 1
        if end == whole and end - start < len(needle):
            end = len(text)
        yield start, end


def _is_within(text: bytes, at: int) -> bool:
    """Whether the position is inside a UTF-8 character."""
    return text[at] & 0xC0 == 0x80


def _cut_off(text: bytes, needle: bytes) -> int:
    """How many of the first bytes of a needle, from PART to LONG, are the end of the text; `_each` finds more."""
    if needle[:PART] not in text[-LONG:]:  # the usual case
        return 0
    sizes = range(min(len(needle), LONG) - 1, PART - 1, -1)
    return next((size for size in sizes if text.endswith(needle[:size])), 0)


def _merged(spans: list[Span]) -> list[Span]:
    merged = list[Span]()
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged
