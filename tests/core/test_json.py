"""JSON: a depth limit, strict encoding, lenient decoding."""

from __future__ import annotations

import inspect
import json
import math
from typing import Any, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import errors
from oxygent_client._core.json_codec import PARSERS, Parser, dumps, loads, read, text_member


@pytest.fixture(params=["json", "msgspec"])
def parse(request: pytest.FixtureRequest) -> Parser:
    """Each parser that a program may have."""
    return parser(request.param)


def parser(name: str) -> Parser:
    """The parser of this library."""
    if name not in PARSERS:
        pytest.skip(f"needs {name}")
    return PARSERS[name]


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    """Return brackets nested so many levels deep."""
    return opening * depth + closing * depth


READ: Final[list[tuple[Any, str]]] = [
    # expected, the text
    ({"a": [1, 2.5, None, True]}, '{"a": [1, 2.5, null, true]}'),
    (2**70, str(2**70)),
    (math.inf, "Infinity"),
    (-math.inf, "-Infinity"),
    (math.inf, "1e999"),
    ("\u2028\x85", '"\u2028\x85"'),
    ("[[[[", '"[[[["'),
    ([[["deep enough"]]], '[[["deep enough"]]]'),
    ('"[[[[', r'"\"[[[["'),
    ("\\", r'"\\"'),
    ([["]", "["]], '[["]", "["]]'),
    ([], " [ ] "),
]


@pytest.mark.parametrize(("expected", "text"), READ)
def test_reading(parse: Parser, expected: Any, text: str) -> None:
    """JSON of real servers is decoded, with infinities; brackets in strings do not count for depth."""
    assert read(text, depth=3, parse=parse)[0] == expected


def test_reading_nan(parse: Parser) -> None:
    """NaN is decoded."""
    assert math.isnan(read("[NaN]", depth=1, parse=parse)[0][0])


NO_JSON: Final = [
    "",
    " ",
    "done",
    "{",
    "]",
    "[[[",
    "[1,]",
    "{'a': 1}",
    '"open',
    '"open\\',
    "\ufeff{}",
    "1 2",
    '{"a": ' + "9" * 5000,
    "\0",
    "]]]]",
    "}{",
]


@pytest.mark.parametrize("text", NO_JSON)
def test_invalid_json(parse: Parser, text: str) -> None:
    """Invalid JSON raises ValueError, even with a number of 5,000 digits."""
    with pytest.raises(ValueError):  # noqa: PT011  (its texts are the library's)
        read(text, depth=3, parse=parse)


LONG: Final = {
    # name: (the text, the value, how many problems)
    "alone": ("9" * 5000, "9" * 5000, 1),
    "negative": ("-" + "9" * 5000, "-" + "9" * 5000, 1),
    "among others": ('{"a": [1, ' + "9" * 5000 + ', "9"]}', {"a": [1, "9" * 5000, "9"]}, 1),
    "many": (f"[{','.join(['9' * 4301] * 30)}]", ["9" * 4301] * 30, 20),
    "as long as may be": ("9" * 4300, int("9" * 4300), 0),
    "none": ("[1]", [1], 0),
}


@pytest.mark.parametrize(("text", "value", "problems"), LONG.values(), ids=LONG)
def test_integers_that_are_too_long(parse: Parser, text: str, value: Any, problems: int) -> None:
    """An integer with more digits than Python converts is a str, with a problem."""
    read_value, said = read(text, depth=3, parse=parse)
    assert read_value == value
    assert len(said) == problems
    assert all("digits" in each for each in said)


MEMBERS: Final = {
    # name: (the text, its member `type`)
    "before": ('{"type": "answer", "content": ' + nested(300) + "}", "answer"),
    "after": ('{"content": ' + nested(300) + ', "type": "answer"}', "answer"),
    "between": ('{"a": ' + nested(300) + ', "type": "answer", "b": ' + nested(300) + "}", "answer"),
    "the last of two": ('{"type": "other", "a": ' + nested(300) + ', "type": "answer"}', "answer"),
    "further down": ('{"a": {"type": "answer"}, "b": ' + nested(300) + "}", None),
    "with brackets in it": (r'{"type": "a]}\"", "a": [' + nested(300) + "]}", 'a]}"'),
    "beside a long integer": ('{"a": ' + "9" * 5000 + ', "type": "answer"}', "answer"),
    "far behind": ('{"a": [' + "1,[]," * 200_000 + '1], "type": "answer"}', None),
    "before much": ('{"type": "answer", "a": [' + "1,[]," * 200_000 + "1]}", "answer"),
    "no text": ('{"type": {}}', None),
    "no object": (nested(300), None),
    "no member": ("{}", None),
    "open": ('{"type": "answer", "a": ' + "[" * 300, "answer"),
    "open from the beginning": ("{" * 300, None),
    "closed too often": ('{"type": "answer"}}}', None),
}


@pytest.mark.parametrize(("text", "expected"), MEMBERS.values(), ids=MEMBERS)
def test_a_member_of_a_deep_object(text: str, expected: str | None) -> None:
    """A member of the outermost object is found without decoding the values nested in it."""
    assert text_member(text, "type") == expected


DEEP: Final = {
    # name: (the limit, the text)
    "lists": (3, nested(4)),
    "objects": (3, '{"a":' * 4 + "1" + "}" * 4),
    "mixed": (3, '[{"a":[{}]}]'),
    "a bracket in a string on the way": (3, "[[[" + '"]]]",' + "[1]]]]"),
    "one too many": (1, "[[]]"),
    "one too many of the usual": (128, nested(129)),
    "a million": (128, nested(1_000_000)),
    "a million that never close": (128, "[" * 1_000_000),
    "objects that never close": (128, '{"a":' * 100_000),
    "deeper than Python reads": (10**9, nested(1_000_000)),
}


@pytest.mark.parametrize(("depth", "text"), DEEP.values(), ids=DEEP)
def test_depth(parse: Parser, depth: int, text: str) -> None:
    """Nesting over the limit, or over Python's own, raises TooLargeError and no RecursionError."""
    with pytest.raises(errors.TooLargeError, match="deeper than"):
        read(text, depth=depth, parse=parse)


@pytest.mark.parametrize("depth", [1, 2, 128])
def test_exactly_at_the_limit(depth: int) -> None:
    """Nesting up to the limit is allowed."""
    assert nested(depth) == dumps(loads(nested(depth), depth=depth)).decode()


def test_brackets_side_by_side() -> None:
    """Many brackets side by side are not deep."""
    assert len(loads("[" + "[]," * 10_000 + "[]]", depth=2)) == 10_001


JSON: Final[st.SearchStrategy[Any]] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def depth_of(value: Any) -> int:
    """Return the depth of a value."""
    match value:
        case dict():
            return 1 + max(map(depth_of, cast("dict[str, Any]", value).values()), default=0)
        case list():
            return 1 + max(map(depth_of, cast("list[Any]", value)), default=0)
        case _:
            return 0


@given(JSON, st.booleans())
def test_round_trip(value: Any, is_ascii: bool) -> None:
    """Encoded values are decoded to equal values, by the standard library too, and depth is counted correctly."""
    assert value == loads(dumps(value).decode(), depth=99) == json.loads(dumps(value))
    text = json.dumps(value, ensure_ascii=is_ascii)
    depth = depth_of(value)
    assert loads(text, depth=depth) == value
    if depth:
        with pytest.raises(errors.TooLargeError):
            loads(text, depth=depth - 1)


@given(st.text(alphabet='[]{}"\\a,:1 \n', max_size=30))
def test_any_text(text: str) -> None:
    """Any text is decoded, or raises ValueError or TooLargeError, as without the limit except for depth."""
    try:
        value = json.loads(text)
    except ValueError:
        with pytest.raises((ValueError, errors.TooLargeError)):
            loads(text, depth=2)
        return
    if depth_of(value) <= 2:
        assert loads(text, depth=2) == value
    else:
        with pytest.raises(errors.TooLargeError):
            loads(text, depth=2)


NUMBERS: Final = st.from_regex(r"-?[0-9]{1,25}(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
STRINGS: Final = st.text(st.characters(), max_size=8).map(json.dumps)
ESCAPES: Final = st.sampled_from(
    [r"\ud800", r"\udc00", r"\ud83d\ude00", r"\u0000", r"\/", r"\x", r"\u12", "\n", "\t", "\0"]
)
SCALARS: Final = (
    NUMBERS
    | STRINGS
    | st.lists(ESCAPES, max_size=3).map(lambda parts: f'"{"".join(parts)}"')
    | st.text(st.characters(), max_size=4).map(lambda text: json.dumps(text, ensure_ascii=False))
    | st.sampled_from(["NaN", "-Infinity", "1e999", "-0", "-0.0", str(2**63), str(2**64), str(2**70), "9" * 5000, "01"])
    | st.sampled_from(["null", "true", "nul", "", " ", "\ufeff", '"\ud800"', "[" * 500 + "]" * 500, "[" * 100_000])
)
TEXTS: Final[st.SearchStrategy[str]] = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda parts: f"[{', '.join(parts)}]")
        | st.lists(st.tuples(st.sampled_from(['"a"', '"b"', '""']), inner), max_size=4).map(  # names come twice
            lambda pairs: "{" + ",".join(f"{name}: {value}" for name, value in pairs) + "}"
        )
    ),
    max_leaves=10,
)


def outcome(text: str, name: str) -> str:
    """The value and the problems, or the class of the error."""
    try:
        return repr(read(text, depth=9, parse=parser(name)))
    except (ValueError, errors.TooLargeError) as error:
        return type(error).__name__


@given(TEXTS | st.text(alphabet='[]{}"\\,:1.eE-u0 \n', max_size=20))
def test_the_parsers_agree(text: str) -> None:
    """With msgspec, each text is the same value or the same error as without, in the same order of members."""
    assert outcome(text, "msgspec") == outcome(text, "json")


def test_the_last_parser_is_used() -> None:
    """Where msgspec is installed, it reads."""
    assert inspect.signature(read).parameters["parse"].default is [*PARSERS.values()][-1]


UNSENDABLE: Final[list[tuple[type[Exception], Any]]] = [
    (ValueError, math.nan),
    (ValueError, [math.inf]),
    (ValueError, "\ud800"),
    (TypeError, {1, 2}),
    (TypeError, b"bytes"),
    (TypeError, {("a",): 1}),
]


@pytest.mark.parametrize(("expected", "value"), UNSENDABLE)
def test_values_that_are_not_json(expected: type[Exception], value: Any) -> None:
    """A value without JSON is refused."""
    with pytest.raises(expected):
        dumps(value)
