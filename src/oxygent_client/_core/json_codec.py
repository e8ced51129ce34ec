"""Encode and decode JSON within limits.

Rule 1: received JSON may hold NaN and Infinity (real answers do), sent JSON may not.
Rule 2: reading never ends in a `RecursionError`.
Rule 3: no value is lost for its size: an integer of more digits than Python takes is kept as a text of its digits.
Rule 4: msgspec (extra `[fast]`) reads JSON where it is installed. Whatever it refuses, `json` reads, or refuses in its
    own words: so the results are the same, which a test shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias, cast

from oxygent_client._core.errors import TooLargeError
from oxygent_client._core.patterns import compiled

_TOKENS = r'(?s)"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]|[^"\[\]{}]+'
_MOST_TOKENS = 100_000
"""How much of a text that is nested too deep is looked at for what it is."""
_MOST_PROBLEMS = 20


def _is_deeper(value: Any, limit: int) -> bool:
    """Whether `value` is nested more than `limit` levels deep.

    To look at the parsed value, level by level, costs less than to look at each bracket of its text.
    """
    level: list[Any] = [value] if value.__class__ in _CONTAINERS else []
    for _ in range(limit):
        level = [
            member
            for place in level
            for member in (place.values() if place.__class__ is dict else place)
            if member.__class__ in _CONTAINERS
        ]
        if not level:
            return False
    return bool(level)


_CONTAINERS: Final[frozenset[type]] = frozenset({dict, list})


Parser: TypeAlias = Callable[[str], Any]

_scan: Final[Callable[[str, int], tuple[Any, int]]] = cast("Any", json.JSONDecoder()).scan_once
"""The scanner inside `json.loads`. To call it directly saves half of the time of a short message."""


def _parse(text: str) -> Any:
    try:
        value, end = _scan(text, 0)
    except StopIteration:  # white space in front, or no JSON: `json.loads` knows which
        return json.loads(text)
    return value if end == len(text) else json.loads(text)


def _first(decode: Parser, refusal: type[Exception]) -> Parser:
    """A parser that asks `decode` first, and `json` about what that refuses: rule 4."""

    def parse(text: str) -> Any:
        try:
            return decode(text)
        except (refusal, ValueError, RecursionError):
            return _parse(text)

    return parse


PARSERS: Final[dict[str, Parser]] = {"json": _parse}
"""The parsers that are installed."""
with suppress(ImportError):
    import msgspec

    PARSERS["msgspec"] = _first(msgspec.json.Decoder().decode, msgspec.DecodeError)
PARSER: Final = [*PARSERS.values()][-1]
"""The one that is used."""


def loads(text: str, *, depth: int) -> Any:
    """Parse JSON.

    Raises:
        ValueError: `text` is not JSON.
        TooLargeError: it is nested deeper than `depth`, or than Python can parse.
    """
    return read(text, depth)[0]


def read(text: str, depth: int, parse: Parser = PARSER) -> tuple[Any, tuple[str, ...]]:
    """Parse JSON; returns the value and a list of problems: integers that were kept as text (rule 3).

    Raises:
        ValueError, TooLargeError: as for `loads`.
    """
    problems: tuple[str, ...] = ()
    try:
        try:
            value = parse(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # an integer of more digits than Python takes; a function for each integer takes longer
            value, problems = _with_long_integers(text)
    except RecursionError as error:  # `depth` allows more than Python does, or the program is nested deep itself
        raise TooLargeError("JSON is nested deeper than Python can read here") from error
    # A text needs two brackets for a level. To count them costs a quarter of reading a short text.
    if len(text) > 2 * depth and text.count("[") + text.count("{") > depth and _is_deeper(value, depth):
        raise TooLargeError(f"JSON is nested deeper than Limits.depth ({depth})")
    return value, problems


def _with_long_integers(text: str) -> tuple[Any, tuple[str, ...]]:
    problems: list[str] = []

    def integer(digits: str) -> int | str:
        try:
            return int(digits)
        except ValueError:  # sys.set_int_max_str_digits
            if len(problems) < _MOST_PROBLEMS:
                problems.append(f"an integer of {len(digits.lstrip('-'))} digits is kept as a text")
            return digits

    return json.loads(text, parse_int=integer), tuple(problems)


def text_member(text: str, name: str) -> str | None:
    """The text at `name` of the JSON object in `text`, which may be nested too deep to be read.

    None where there is none, or it cannot be found without looking at more than the object's beginning.
    """
    depth, surface = 0, list[str]()  # the object, with null in the place of what it holds that is an object or a list
    for number, token in enumerate(compiled(_TOKENS).finditer(text)):
        if number == _MOST_TOKENS:
            break
        opens, closes = token[0] in "[{", token[0] in "]}"
        depth -= closes
        if depth < 2 and not (depth == 1 and closes):
            surface.append("null" if depth == 1 and opens else token[0])
        depth += opens
    if depth:
        surface.append("}")
    try:
        value = cast("dict[str, Any]", json.loads("".join(surface), parse_int=str)).get(name)
    except (ValueError, AttributeError):
        return None
    return value if isinstance(value, str) else None


_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
"""As in `json.dumps`, which makes an encoder for each call with such options."""


def dumps(value: Any) -> bytes:
    """`value` as JSON in UTF-8.

    Raises:
        TypeError, ValueError, RecursionError: it holds something that has no JSON (NaN and lone surrogates included).
    """
    return _encode(value).encode()
