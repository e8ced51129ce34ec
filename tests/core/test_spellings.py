"""Secrets are found in each usual spelling, and other text is not."""

from __future__ import annotations

import base64
import html
import json
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client._core.spellings import find, needles

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET: Final = 'ca/na+ry="7é\\<&> q'
"""Contains a character of each kind that some spelling escapes."""

SPELLINGS: Final[dict[str, Callable[[str], str]]] = {
    "as it is": str,
    "percent": lambda text: quote(text, safe=""),
    "percent, small": lambda text: quote(text, safe="").replace("%2F", "%2f").replace("%2B", "%2b"),
    "percent, less of it": lambda text: quote(text, safe="/+= "),
    "percent, all of it": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "percent, twice": lambda text: quote(quote(text, safe=""), safe=""),
    "a form": quote_plus,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON in UTF-8": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON with slashes": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "JSON for a page": lambda text: json.dumps(text)[1:-1].replace("<", "\\u003c").replace("&", "\\u0026"),
    "JSON within JSON": lambda text: json.dumps(json.dumps(text))[3:-3],
    "JSON, all of it": lambda text: re.sub("(....)", r"\\u\1", text.encode("utf-16-be").hex()),
    "HTML": html.escape,
    "HTML, decimal": lambda text: "".join(f"&#{ord(character)};" for character in text),
    "HTML, hexadecimal": lambda text: "".join(f"&#x{ord(character):X};" for character in text),
    "a repr": lambda text: repr(f"{text}'\"")[1:-4],
    "a repr of bytes": lambda text: repr(text.encode())[2:-1],
    "JSON in a query": lambda text: quote(json.dumps(text)[1:-1]),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "base64 without padding": lambda text: base64.b64encode(text.encode()).decode().rstrip("="),
    "base64 in a query": lambda text: quote(base64.b64encode(text.encode()).decode(), safe=""),
    "hexadecimal": lambda text: text.encode().hex(),
    "hexadecimal, large": lambda text: text.encode().hex().upper(),
}


@pytest.mark.parametrize("secret", [SECRET, "plain-secret-1", "密码🔑 of mine"], ids=["odd", "plain", "beyond ASCII"])
@pytest.mark.parametrize("spelt", SPELLINGS.values(), ids=SPELLINGS)
def test_every_usual_spelling(spelt: Callable[[str], str], secret: str) -> None:
    """A secret in any spelling is found as a whole, and the text around it is unchanged."""
    assert needles([secret]).replace_in(f"before <{spelt(secret)}> after", "X").rstrip("=") == "before <X> after"


@pytest.mark.parametrize("before", ["", "u", "us", "use"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode], ids=["standard", "URLs"])
def test_base64_of_more(encode: Callable[[bytes], bytes], before: str) -> None:
    """A secret inside the base64 of a longer text is found at each offset, except a few bits at its ends."""
    text = encode(f"{before}:correct?horse>battery:more".encode()).decode()
    left = needles(["correct?horse>battery"]).replace_in(text, "X")
    assert len(left.replace("X", "")) <= len(text) - 24


KEPT: Final[dict[str, tuple[str, str, str]]] = {
    # the secret, a text, the redacted text
    "a short one in a word": ("ada", "adamant", "adamant"),
    "a short one alone": ("ada", "ada, ada-b", "X, X-b"),
    "a short one beside a letter": ("ada", "éada ada", "éada X"),
    "a short one, escaped": ("a/d", "no %22a%2fd%22", "no %22X%22"),
    "cut off at the end": ("canary-secret", "you sent canary-se", "you sent X"),
    "cut off within an escape": ("canary/secret", "you sent canary%2", "you sent X"),
    "cut off within an entity": ("canary&secret", "you sent canary&am", "you sent X"),
    "too little of it": ("canary-secret", "you sent can", "you sent can"),
    "a part that is none": ("canary-secret", "a canary is a bird", "a canary is a bird"),
    "a long one that was cut": ("0123456789" * 10, f"<{'0123456789' * 4}...>", "<X...>"),
    "a long one that was cut within an escape": ("01234/6789" * 10, "<" + "01234%2F6789" * 4 + "01234%2", "<X"),
    "a long one of equal parts": ("0" * 40 + "1", "<" + "0" * 70, "<XX"),
    "a long one, not all ASCII": ("é" * 40, "<" + "é" * 30 + "è>", "<X>"),
    "twice": ("canary", "canarycanary", "XX"),
    "one in another": ("canary", "canary-one", "X-one"),
    "no escapes": ("canary", "100 %, a & b, \\d", "100 %, a & b, \\d"),
    "half a pair": ("canary", "\\ud800 canary \ud800", "\\ud800 X \ud800"),
    "an entity for nothing": ("canary", "&#1;canary&nothing;", "&#1;X&nothing;"),
}


@pytest.mark.parametrize(("secret", "text", "left"), KEPT.values(), ids=KEPT)
def test_redacted_texts(secret: str, text: str, left: str) -> None:
    """Only secrets, and a possible beginning of one at the end of a text, are redacted."""
    assert needles([secret]).replace_in(text, "X") == left


def test_overlapping_secrets_are_one() -> None:
    """Overlapping secrets get one mark."""
    assert needles(["canary-one", "ada:canary-one", "canary"]).replace_in("ada:canary-one", "X") == "X"


@pytest.mark.parametrize(
    ("secrets", "short"), [((), True), (("",), True), (("ada",), False)], ids=["none", "empty", "short"]
)
def test_a_text_without_secrets(secrets: tuple[str, ...], short: bool) -> None:
    """A text without secrets is returned as the same object."""
    text = "ada was here"
    assert needles(secrets, short=short).replace_in(text, "X") is text


@given(st.binary(max_size=80))
def test_spans_are_in_order(text: bytes) -> None:
    """For any bytes, spans are not empty and do not overlap."""
    spans = find(text, needles(["aaaaaa", "%41&#65;", "b"]))
    assert sorted({(start, end) for start, end in spans if start < end}) == spans
