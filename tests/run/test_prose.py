"""The filter of a model's prose, which holds back possible tool calls and thoughts.

Rule 1: a row is a whole text and its shown part, for any chunks.
"""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client._run.prose import LOOK_AHEAD, ProseFilter
from tests.core.test_linear import MOST, times_as_long

CALL: Final = '{"think": "I need to add", "tool_name": "add_tool", "arguments": {"a": 40}}'

TEXTS: Final[dict[str, tuple[str, str]]] = {
    "prose": ("The sum is forty-two.", "The sum is forty-two."),
    "an empty text": ("", ""),
    "white space at the end": ("42\n\n", "42"),
    "white space alone": (" \n ", ""),
    "white space at the beginning": ("\n\n42 it is", "\n\n42 it is"),
    # JSON
    "a tool call": (CALL, ""),
    "a tool call after white space": (f"\n {CALL}", ""),
    "a tool call after prose": (f"Let me add.\n{CALL}\nDone.", "Let me add."),
    "a list of tool calls": (f"[{CALL}]", ""),
    "a list of tool calls after prose": (f"I do: [\n{CALL}]", "I do:"),
    "a call as Python writes it": ("I do: {'tool_name': 'x'}", "I do:"),
    "an object of another form": ("{tool}", ""),
    "a list of texts": ('["a"]', ""),
    "a list of texts in prose": ('Use ["a"] here', 'Use ["a"] here'),
    "a brace in prose": ("Type { or }", "Type { or }"),
    "a formula": (r"It is \frac{a}{b}.", r"It is \frac{a}{b}."),
    "a brace and much space": ("{".join(["x", " " * LOOK_AHEAD + "y"]), "{".join(["x", " " * LOOK_AHEAD + "y"])),
    "a link": ("[OxyGent](https://x.test) is it", "[OxyGent](https://x.test) is it"),
    "a bracket and much space": ("a [" + " " * LOOK_AHEAD + "{x", "a [" + " " * LOOK_AHEAD + "{x"),
    # tags
    "a thought": ("<think>hm {</think>\n\nIt is 42.", "It is 42."),
    "two thoughts": ("<think>hm</think><think>hm</think> 42", "42"),
    "a thought without an end": ("<think>hm", ""),
    "a thought and a tool call": (f"<think>hm</think>{CALL}", ""),
    "a thought and white space": ("<think>hm</think> \n ", ""),
    "a thought in prose": ("It is <think>hm</think> 42", "It is"),
    "another tag": ("<answer>42</answer>", ""),
    "a tag that begins like a thought": ("<thinker>42", ""),
    "a tag for a tool in prose": ("I do <tool_call>x</tool_call>", "I do"),
    "a tag for functions, with a bar": ("I do <|function_calls|>", "I do"),
    "a closing tag for a tool": ("I do </invoke>", "I do"),
    "a tag of HTML in prose": ("It is <b>42</b>.", "It is <b>42</b>."),
    "a comparison": ("1 < 2 and x<y here", "1 < 2 and x<y here"),
    "a comparison at the beginning": ("< 2", "< 2"),
    "a long name": ("It is <" + "b" * LOOK_AHEAD + "> so", "It is <" + "b" * LOOK_AHEAD + "> so"),
    # fences
    "a fence": ("```python\nx\n```", ""),
    "JSON in a fence": (f"I do:\n```json\n{CALL}\n```", "I do:"),
    "JSON in a fence without a name": (f"I do:\n```\n{CALL}\n```", "I do:"),
    "code for a tool": ("I do:\n```tool_code\nadd(1)\n```", "I do:"),
    "code in prose": ("So:\n```python\nx = {'a': 1}\n```\nis it.", "So:\n```python\nx = {'a': 1}\n```\nis it."),
    "code without a name": ("So:\n```\nx\n```\nis it.", "So:\n```\nx\n```\nis it."),
    "a call after code": (f"So:\n```sh\nls\n```\n{CALL}", "So:\n```sh\nls\n```"),
    "a fence in one line": ("So ```x``` is\nit", "So ```x``` is\nit"),
    "a fence and a long line": ("So ```" + "x" * LOOK_AHEAD, "So ```" + "x" * LOOK_AHEAD),
    "a fence and much space": ("So\n```\n" + " " * LOOK_AHEAD + "{", "So\n```\n" + " " * LOOK_AHEAD + "{"),
    "code within a line": ("Use `x` or ``y``, so", "Use `x` or ``y``, so"),
    "code within a line at the beginning": ("`x` is it", "`x` is it"),
}

UNKNOWN: Final[dict[str, tuple[str, str]]] = {
    # incomplete texts: (the text, the shown part)
    "a brace": ("a {", "a"),
    "a bracket": ("a [ ", "a"),
    "the beginning of a tag": ("a <to", "a"),
    "one backtick": ("a `", "a"),
    "a fence": ("a ```py", "a"),
    "a fence and its line": ("a ```\n", "a"),
    "the end of code": ("a\n```py\nx``", "a\n```py\nx"),
}


def shown(pieces: list[str]) -> str:
    """Return the shown part of a text in chunks."""
    each = ProseFilter()
    return "".join(each.feed(piece) for piece in pieces)


@pytest.mark.parametrize(("text", "expected"), TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("size", [1, 4, 1000])
def test_a_text(text: str, expected: str, size: int) -> None:
    """Prose is shown and the rest held back, for chunks of any size."""
    assert shown([text[at : at + size] for at in range(0, len(text), size)]) == expected


@pytest.mark.parametrize(("text", "expected"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_text_that_goes_on(text: str, expected: str) -> None:
    """A character that may begin a tool call is held back until the next ones."""
    assert shown([text]) == expected


def test_prose_is_shown_at_once() -> None:
    """A chunk is shown before the next one is received; white space is held back until the next text."""
    each = ProseFilter()
    assert [each.feed(piece) for piece in ["The ", "sum", " is", " 42."]] == ["The", " sum", " is", " 42."]


@given(st.text(alphabet='ab {}[]<>`"\n/' + "think"), st.lists(st.integers(1, 5)))
def test_the_cuts_change_nothing(text: str, sizes: list[int]) -> None:
    """The shown text does not depend on the chunks, and without a thought is a part of the text."""
    pieces: list[str] = []
    rest = text
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    whole = shown([text])
    assert shown([*pieces, rest]) == whole
    assert text.startswith(whole) or "<think>" in text


@pytest.mark.parametrize("piece", ["a", " ", "{", "<", "`", "``` ", "[", "<think>", "a <b"])
def test_linear_time(piece: str) -> None:
    """The time for each chunk of a suspicious text does not grow with the text."""

    def filter_text(count: int) -> None:
        each = ProseFilter()
        for _ in range(count):
            each.feed(piece)

    assert times_as_long(filter_text, 2000) < MOST
