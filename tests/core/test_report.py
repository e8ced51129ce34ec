"""`Trace.report`: the page as a browser parses it.

Rule 1: the page is read by `html.parser`; no test compares markup.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any, Final

import attrs
import pytest

from oxygent_client import Trace, TraceCall
from oxygent_client._core.report import MAX_CALLS, MAX_TEXT, MAX_TEXTS

VOID: Final = frozenset("input meta br img link".split())
LOADING: Final = frozenset("src srcset href action data poster background style formaction xlink:href".split())
"""Attributes that load something, run something, or hold a style."""


class Page(HTMLParser):
    """A page: elements with their attributes, and the texts of elements by tag or class."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = {name: value or "" for name, value in attrs}
        self.elements.append((tag, fields))
        if tag not in VOID:
            self._open.append((tag, fields.get("class", "")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            tag, css = self._open[-1]
            self.texts += [(tag, data), *((f".{name}", data) for name in css.split())]

    def all(self, name: str) -> list[str]:
        """Return the texts directly in the elements with this tag or `.class`."""
        return [text for at, text in self.texts if at == name]

    def attributes(self, tag: str) -> list[dict[str, str]]:
        """Return the attributes of the elements with this tag."""
        return [fields for name, fields in self.elements if name == tag]

    def facts(self) -> dict[str, str]:
        """Return the terms of all lists, with the text after each; a term that comes again replaces the one before."""
        found: dict[str, str] = {}
        term = ""
        for tag, text in self.texts:
            if tag == "dt":
                term = text
            elif tag in ("dd", "bdi", "a") and term:
                found[term] = found.get(term, "") + text
            elif tag == "summary":
                term = ""
        return found


def page_of(*calls: TraceCall, **fields: Any) -> Page:
    """Return the page of a trace."""
    return Page(Trace(trace_id="t", calls=calls, **fields).report())


def call(index: int, parent: int | None = None, **fields: Any) -> TraceCall:
    """Return a completed call."""
    depth = 0 if parent is None else 1
    values: dict[str, Any] = {"name": f"call{index}", "status": "completed", "started": 0.0, "ended": 1.0, **fields}
    return TraceCall(index=index, parent=parent, depth=depth, **values)


HOSTILE: Final = "<script>alert(1)</script><img src=x onerror=alert(1)></style>&quot;'\"<!--\x1b[2J\u202e\ud800\x00"
SHOWN: Final = "<script>alert(1)</script><img src=x onerror=alert(1)></style>&quot;'\"<!--\\x1b[2J\\u202e\\ud800\\x00"
RUN: Final = Trace(
    trace_id=HOSTILE,
    remote_trace_id=f"{HOSTILE}2",
    server_url=HOSTILE,
    began=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    seconds=3.0,
    status="failed",
    error=HOSTILE,
    output={HOSTILE: [HOSTILE]},
    calls=(
        call(0, name=HOSTILE, category=HOSTILE, node_id=HOSTILE, arguments={HOSTILE: HOSTILE}, output=HOSTILE),
        call(1, 0, name=HOSTILE, status="failed", error=HOSTILE, output=HOSTILE),
    ),
)


# --------------------------------------------------------------------------------------------------------------- Safety


def test_no_text_becomes_markup() -> None:
    """Hostile text adds no element and no attribute, and is shown as text."""
    plain = Trace.from_json(RUN.to_json().replace(json.dumps(HOSTILE)[1:-1], "plain"))
    page, expected = Page(RUN.report()), Page(plain.report())
    assert [name for name, _ in page.elements] == [name for name, _ in expected.elements]
    assert [sorted(fields) for _, fields in page.elements] == [sorted(fields) for _, fields in expected.elements]
    assert SHOWN in page.all("pre")
    assert SHOWN in page.all("bdi")


def test_characters_that_hide() -> None:
    """No control, invisible or reordering character is in the page, and it is ASCII in every encoding."""
    text = RUN.report()
    assert [each for each in html.unescape(text) if not (each.isprintable() or each == "\n")] == []
    assert text.isascii()


def test_nothing_is_loaded() -> None:
    """No element loads anything or has a style, and links stay within the page."""
    found = [(tag, name, value) for tag, each in Page(RUN.report()).elements for name, value in each.items()]
    assert [each for each in found if each[1] in LOADING and not each[2].startswith("#c")] == []
    assert [each for each in found if each[1].startswith("on")] == []


def test_the_content_security_policy() -> None:
    """The policy allows the page's own script and style by their hashes, and nothing else."""
    page = Page(RUN.report())
    policy = next(each["content"] for each in page.attributes("meta") if "http-equiv" in each)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    digests = {
        name: base64.b64encode(hashlib.sha256("".join(page.all(name)).encode()).digest()).decode()
        for name in ("style", "script")
    }
    assert rules == {
        "default-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "style-src": f"'sha256-{digests['style']}'",
        "script-src": f"'sha256-{digests['script']}'",
    }
    assert [len(page.attributes(name)) for name in digests] == [1, 1]


def test_no_secret() -> None:
    """What looks like a credential is redacted, wherever it stands."""
    secret = "Bearer abcdefghijklmnop12345678"
    step = call(0, name=secret, category=secret, node_id=secret, arguments={"password": "hunter22"}, output=secret)
    text = Trace(
        trace_id=secret, server_url="http://u:hunter22@x", error=secret, output=[secret], calls=(step,)
    ).report()
    assert "abcdefghijklmnop" not in text
    assert "hunter22" not in text
    assert "[scrubbed]" in text


# --------------------------------------------------------------------------------------------------------------- Limits


def test_a_long_text() -> None:
    """A long text is cut, with a note of how much is left out."""
    page = page_of(call(0, output="x" * (MAX_TEXT + 1234)))
    assert "x" * MAX_TEXT in page.all("pre")
    assert f"1,234 of {MAX_TEXT + 1234:,} characters are left out." in page.all(".note")


def test_a_long_value() -> None:
    """A long JSON value has no indentation, whose size may be a multiple of its own, and is cut."""
    value = [[0] * 3] * 10_000
    page = page_of(output=value)
    assert [len(text) for text in page.all("pre")] == [MAX_TEXT]
    assert page_of(output=[[[[0]] * 100] * 10] * 3).all("pre")[0].count("\n") == 0


@pytest.mark.seconds
def test_many_texts() -> None:
    """All texts together are bounded."""
    calls = tuple(call(n, output="x" * MAX_TEXT) for n in range(MAX_TEXTS // MAX_TEXT + 2))
    text = Trace(calls=calls).report()
    assert sum(map(len, re.findall("x{9,}", text))) == MAX_TEXTS
    assert text.count(f"{MAX_TEXT:,} of {MAX_TEXT:,} characters are left out.") == 2
    assert text.count("Texts are cut") == 1


def test_many_calls() -> None:
    """Calls beyond the limit are counted."""
    text = Trace(calls=tuple(call(n) for n in range(MAX_CALLS + 5)), dropped=7).report()
    assert text.count('<li id="c') == MAX_CALLS
    assert text.count("12 calls are left out.") == 1
    assert text.count(f"<dd>{MAX_CALLS + 12:,}</dd>") == 1


def test_a_deep_tree() -> None:
    """The elements of a deep tree are not nested."""
    calls = (attrs.evolve(call(n, n - 1 if n else None), depth=n) for n in range(60))
    page = page_of(*calls)
    assert {each["class"] for each in page.attributes("li") if each.get("id")} == {f"completed d{n}" for n in range(10)}


# -------------------------------------------------------------------------------------------------------------- Content


def test_the_head() -> None:
    """The head of the page has the facts of the run, and how many calls have an error."""
    facts = Page(attrs.evolve(RUN, trace_id="mine", remote_trace_id="theirs", server_url="http://a").report()).facts()
    assert facts["Server"] == "http://a"
    assert facts["Trace id at the server"] == "theirs"
    assert facts["Began"] == "2026-01-02 03:04:05+00:00"
    assert facts["Duration"] == "3.00 s"
    assert facts["Calls"] == "2, 1 with an error"


def test_one_trace_id() -> None:
    """The server's trace id is shown only if it is another one."""
    assert "Trace id at the server" not in page_of(remote_trace_id="t").facts()


def test_the_head_of_a_record() -> None:
    """A record has the time of the server's clock, and no trace id of the caller."""
    facts = page_of(began=datetime(2026, 1, 2), source="record").facts()  # noqa: DTZ001  (a record has no time zone)
    assert facts["Began"] == "2026-01-02 00:00:00 (clock of the server)"
    assert facts["Source"] == "the record of the server"


def test_a_run_without_calls() -> None:
    """A run without calls has a page that tells so."""
    page = page_of(status="failed", error="no connection")
    assert page.all(".empty") == ["No call was seen."]
    assert page.all(".error") == ["no connection"]
    assert page.all("text") == []


VALUES: Final[dict[str, tuple[Any, list[str]]]] = {
    "a text": ("two\nlines", ["two\nlines"]),
    "an object": ({"a": [1, "é"]}, ['{\n  "a": [\n    1,\n    "é"\n  ]\n}']),
    "a number": (0, ["0"]),
    "no value": (None, []),
    "no text": ("", []),
}


@pytest.mark.parametrize(("output", "shown"), VALUES.values(), ids=VALUES)
def test_outputs(output: Any, shown: list[str]) -> None:
    """A text is shown unchanged, other values as JSON with indentation."""
    assert page_of(call(0, output=output)).all("pre") == shown


def test_an_output_that_was_not_kept() -> None:
    """An output that was too large is noted."""
    assert page_of(call(0, is_cut=True)).all(".note") == ["The output was too large to be kept."]


def test_an_error() -> None:
    """A failed call is marked; a text that is both output and error is shown once."""
    page = page_of(call(0, status="failed", error="no", output="no"), call(1, error="late", output="yes"))
    marked = [each["class"].split() for each in page.attributes("li") if each.get("id")]
    assert [css[0] for css in marked] == ["failed", "completed"]
    assert ["has-error" in css for css in marked] == [True, True]
    assert page.all("pre") == ["no", "late", "yes"]
    assert page.all(".error") == ["no", "late"]


# ------------------------------------------------------------------------------------------------------------- Timeline


def test_parallel_and_sequential_calls() -> None:
    """A call names those that ran at the same time, and the one before it; its caller tells how long it waited."""
    page = page_of(
        call(0, ended=4.0, name="root"),
        call(1, 0, started=1.0, ended=2.0),
        call(2, 0, started=1.5, ended=2.5),
        call(3, 0, started=3.0, ended=3.25, node_id="last"),
        seconds=4.0,
    )
    texts = [text for tag, text in page.texts if tag in ("dt", "dd", "bdi", "a")]
    assert texts.count("In parallel") == 2
    assert "1.75 s for the calls that it made" in texts
    place = texts.index("After")
    assert texts[place : place + 3] == ["After", "call2", ", which ended 500 ms before"]
    assert page.facts()["Node id"] == "last"


def bars(page: Page) -> list[tuple[str, str, str]]:
    """Return class, beginning and length of each bar, without the legend."""
    return [
        (each["class"], each["x"], each["width"]) for each in page.attributes("rect") if each.get("x", "").endswith("%")
    ]


BARS: Final[dict[str, tuple[list[TraceCall], list[tuple[str, str, str]]]]] = {
    "a caller that waits": (
        [call(0, ended=10.0), call(1, 0, started=2.0, ended=4.0), call(2, 0, started=3.0, ended=5.0)],
        [
            ("work", "0.00%", "100.00%"),
            ("wait", "20.00%", "30.00%"),
            ("work", "20.00%", "20.00%"),
            ("work", "30.00%", "20.00%"),
        ],
    ),
    "in sequence": (
        [call(0, ended=10.0), call(1, 0, started=2.0, ended=3.0), call(2, 0, started=5.0, ended=6.0)],
        [
            ("work", "0.00%", "100.00%"),
            ("wait", "20.00%", "10.00%"),
            ("wait", "50.00%", "10.00%"),
            ("work", "20.00%", "10.00%"),
            ("work", "50.00%", "10.00%"),
        ],
    ),
    "no end": ([call(0, started=5.0, ended=None, status="lost")], [("work", "50.00%", "50.00%")]),
    "no start": ([call(0, started=None, ended=5.0)], [("work", "0.00%", "50.00%")]),
    "no time": ([call(0, started=None, ended=None)], []),
    "no length": ([call(0, started=10.0, ended=10.0)], [("work", "99.70%", "0.30%")]),
    "an end before the start": ([call(0, started=5.0, ended=1.0)], [("work", "50.00%", "0.30%")]),
    "a child after its caller's end": (
        [call(0, ended=5.0), call(1, 0, started=5.0, ended=10.0)],
        [("work", "0.00%", "50.00%"), ("work", "50.00%", "50.00%")],
    ),
}


@pytest.mark.parametrize(("calls", "expected"), BARS.values(), ids=BARS)
def test_bars(calls: list[TraceCall], expected: list[tuple[str, str, str]]) -> None:
    """A bar spans the time of its call, with the times at which it waited for its own calls."""
    assert bars(page_of(*calls, seconds=10.0)) == expected


AXES: Final[dict[str, tuple[list[TraceCall], float | None, list[str]]]] = {
    "seconds": ([call(0)], 10.0, ["0", "2.00 s", "4.00 s", "6.00 s", "8.00 s", "10.00 s"]),
    "milliseconds": ([call(0, ended=0.01)], None, ["0", "2 ms", "4 ms", "6 ms", "8 ms", "10 ms"]),
    "before zero": ([call(0, started=-1.0, ended=1.0)], None, ["-1.00 s", "-500 ms", "0", "500 ms", "1.00 s"]),
    "long": ([call(0, ended=2e9)], None, ["0", "5e+08 s", "1e+09 s", "1.5e+09 s", "2e+09 s"]),
    "no length": ([call(0, ended=0.0)], None, ["0", "200 ms", "400 ms", "600 ms", "800 ms", "1.00 s"]),
    "infinite": ([call(0, started=-1e308, ended=1e308)], None, ["0", "200 ms", "400 ms", "600 ms", "800 ms", "1.00 s"]),
}


@pytest.mark.parametrize(("calls", "seconds", "marks"), AXES.values(), ids=AXES)
def test_the_axis(calls: list[TraceCall], seconds: float | None, marks: list[str]) -> None:
    """The axis has marks at round numbers, whatever the times."""
    assert page_of(*calls, seconds=seconds).all("text") == marks


def test_many_parallel_calls() -> None:
    """Of many parallel calls some are named, and the others are counted."""
    page = page_of(call(0), *(call(n, 0) for n in range(1, 100)))
    assert [text for tag, text in page.texts if tag == "dd" and text.endswith("more")] == [", 93 more"] * 99
