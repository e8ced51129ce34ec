"""Render the calls of a run as one HTML page.

Rule 1: the page is one file: no script, style, image or font of another one. Its policy allows no other script or style
    than those of `report.html`, by their hashes.
Rule 2: all text of a trace passes `_text` or `_block`, which redact it, show control and invisible characters by their
    numbers, and escape HTML.
Rule 3: bounded: MAX_CALLS calls, MAX_TEXT characters of a text, MAX_TEXTS of all texts; the page tells what is left
    out.
Rule 4: no recursion, and near to linear, however deep or wide the tree.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import importlib.resources
import json
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import itemgetter
from string import Template
from typing import Any, Final

from oxygent_client._core.call_tree import MARKS, CallTree, TraceCall
from oxygent_client._core.redaction import scrub_json, scrub_text
from oxygent_client._core.text import escape_text
from oxygent_client._version import __version__

MAX_CALLS: Final = 2000
MAX_TEXT: Final = 20_000
MAX_TEXTS: Final = 3_000_000
MAX_NAME: Final = 200
MAX_NAMES: Final = 5
"""Names of calls that ran in parallel with a call."""
MAX_INDENT: Final = 9
"""Levels that are indented, each by a rule of the style."""
NARROWEST: Final = 0.3
"""Percent of the time axis that a bar has at least, so that it is seen."""
LONGEST_ESCAPE: Final = 10
"""Characters that an escaped character takes, as in `\\U000e0041`."""
SHORTEST: Final = 1e-6
"""Seconds that the time axis has at least."""

SOURCES: Final = {"events": "the events that were read", "record": "the record of the server"}


@functools.cache
def _template() -> tuple[Template, dict[str, str]]:
    """The page with its placeholders, and the hashes of its style and script."""
    text = importlib.resources.files("oxygent_client._core").joinpath("report.html").read_text("utf-8")
    hashes = dict[str, str]()
    for name in ("style", "script"):
        found = re.search(f"<{name}>(.*?)</{name}>", text, re.DOTALL)
        assert found is not None
        hashes[f"{name}_hash"] = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
    return Template(text), hashes


def render(tree: CallTree) -> str:
    """Return the page, in ASCII: no encoding breaks it."""
    return _Page(tree).page().encode("ascii", "xmlcharrefreplace").decode()


def _text(text: str, limit: int = MAX_NAME) -> str:
    """A text in one line for the page; it is cut to `limit` characters."""
    return html.escape(escape_text(scrub_text(text), limit))


def _readable(value: Any) -> str:
    """A JSON value as text: a text unchanged, others as JSON, with indentation if that is not too long."""
    if value is None or value == {}:
        return ""
    if isinstance(value, str):
        return value
    compact = json.dumps(value, ensure_ascii=False)
    if len(compact) > MAX_TEXT:
        return compact
    indented = "".join(islice(json.JSONEncoder(ensure_ascii=False, indent=2).iterencode(value), MAX_TEXT))
    return indented if len(indented) <= MAX_TEXT else compact


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if abs(seconds) >= 1e6:
        return f"{seconds:.3g} s"
    return f"{seconds * 1000:.0f} ms" if abs(seconds) < 1 else f"{seconds:,.2f} s"


Span = tuple[float, float]


def _union(spans: Sequence[Span]) -> Iterator[Span]:
    """Disjoint spans over the same time, for spans sorted by their start."""
    start = end = -math.inf
    for each in spans:
        if each[0] > end:
            if end > start:
                yield start, end
            start, end = each
        end = max(end, each[1])
    if end > start:
        yield start, end


class _Page:
    """One page in the making."""

    def __init__(self, tree: CallTree) -> None:
        self._tree = tree
        self._left = MAX_TEXTS
        self._calls = [*islice(tree.walk(), MAX_CALLS)]
        times = [at for call in tree.calls for at in (call.started, call.ended) if at is not None]
        self._start = min(0.0, *times, 0.0)
        self._end = max(tree.seconds or 0.0, *times, 0.0)
        if not SHORTEST <= self._end - self._start < math.inf:
            self._start, self._end = 0.0, 1.0
        self._groups: dict[int | None, _Group] = {None: _Group(self, tree.roots)}
        self._groups |= {call.index: _Group(self, tree.children(call)) for call in self._calls}

    def page(self) -> str:
        tree = self._tree
        heading = _text(tree.trace_id or tree.remote_trace_id)
        template, hashes = _template()
        return template.substitute(
            hashes,
            title=f"Run {heading}: {tree.status}",
            heading=f"Run <bdi>{heading}</bdi>",
            status=tree.status,
            facts="\n".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in self._facts() if value),
            result=self._result(),
            ticks="".join(self._ticks()),
            lines="".join(f'<line x1="{at:.2f}%" x2="{at:.2f}%" y1="0" y2="100%"/>' for at, _ in self._marks()),
            calls="\n".join(map(self._call, self._calls)) or '<li class="empty">No call was seen.</li>',
            notes="".join(f'<p class="note">{text}</p>' for text in self._notes()),
            version=html.escape(__version__),
        )

    def _facts(self) -> Iterator[tuple[str, str]]:
        tree = self._tree
        yield "Server", _text(tree.server_url)
        if tree.remote_trace_id != tree.trace_id:
            yield "Trace id at the server", _text(tree.remote_trace_id)
        if tree.began is not None:
            zone = "" if tree.began.tzinfo is not None else " (clock of the server)"
            yield "Began", f"{tree.began.isoformat(' ', 'seconds')}{zone}"
        yield "Duration", _seconds(tree.seconds)
        failed = sum(1 for call in tree.calls if _has_error(call))
        yield "Calls", f"{len(tree.calls) + tree.dropped:,}{f', {failed:,} with an error' if failed else ''}"
        yield "Source", SOURCES[tree.source]

    def _result(self) -> str:
        blocks = (
            self._block("Error", self._tree.error, "error", level=2),
            self._block("Answer", self._tree.output, level=2),
        )
        return "\n".join(blocks)

    def _notes(self) -> Iterator[str]:
        omitted = len(self._tree.calls) - len(self._calls) + self._tree.dropped
        if omitted:
            yield f"{omitted:,} calls are left out."
        if not self._left:
            yield f"Texts are cut, since this page has at most {MAX_TEXTS:,} characters of them."

    def _block(self, title: str, value: Any, css: str = "", level: int = 3) -> str:
        """A JSON value as a block with a title, and with a note if it is cut; nothing for an empty value."""
        text = _readable(scrub_json(value))
        if not text:
            return ""
        shown = text[: min(MAX_TEXT, self._left)]
        self._left -= len(shown)
        escaped = html.escape(escape_text(shown, LONGEST_ESCAPE * len(shown), lines=True))
        omitted = len(text) - len(shown)
        note = f'<p class="note">{omitted:,} of {len(text):,} characters are left out.</p>' if omitted else ""
        return f'<h{level}>{title}</h{level}><pre class="{css}" dir="auto" tabindex="0">{escaped}</pre>{note}'

    # --- the time axis ---

    def _percent(self, at: float) -> float:
        return 100 * min(max((at - self._start) / (self._end - self._start), 0.0), 1.0)

    def _marks(self) -> Iterator[tuple[float, float]]:
        """The marks of the axis, in percent and seconds: about five, at round numbers."""
        if not self._calls:
            return
        rough = (self._end - self._start) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * each for each in (1, 2, 5, 10) if power * each >= rough * 0.999)
        first = math.ceil(self._start / step)
        for number in range(first, first + 7):
            if number * step <= self._end:
                yield self._percent(number * step), number * step

    def _ticks(self) -> Iterator[str]:
        for at, seconds in self._marks():
            anchor = "start" if at < 2 else "end" if at > 96 else "middle"
            yield f'<text x="{at:.2f}%" y="1em" text-anchor="{anchor}">{_seconds(seconds) if seconds else "0"}</text>'

    def span(self, call: TraceCall) -> Span | None:
        """Start and end of a call, as they are drawn: a call without an end lasts to the end of the run."""
        if call.started is None and call.ended is None:
            return None
        start = self._start if call.started is None else call.started
        return start, max(start, self._end if call.ended is None else call.ended)

    # --- one call ---

    def _call(self, call: TraceCall) -> str:
        group, below = self._groups[call.parent], self._groups[call.index]
        css = [call.status, f"d{min(call.depth, MAX_INDENT)}", *(["has-error"] if _has_error(call) else [])]
        caller = "" if call.parent is None else f' data-caller="c{call.parent}"'
        name = _text(call.name) or "(no name)"
        facts = [(term, value) for term, value in self._times(call, group, below) if value]
        blocks = (
            self._block("Error", call.error, "error") if call.error != call.output else "",
            self._block("Arguments", call.arguments),
            self._block("Output", call.output, "error" if call.error and call.error == call.output else ""),
            '<p class="note">The output was too large to be kept.</p>' if call.is_cut else "",
        )
        return (
            f'<li id="c{call.index}" class="{" ".join(css)}"{caller}><details><summary><span class="name">'
            f'<span class="sign" aria-hidden="true">{MARKS[call.status]}</span><bdi>{name}</bdi>'
            f'<span class="kind">{_text(call.category)}</span>'
            f'<span class="hidden">, {call.status}, level {call.depth + 1}</span></span>'
            f'{self._bar(call, below)}<span class="seconds">{_seconds(call.seconds)}</span></summary>\n'
            f'<div class="more"><dl>{"".join(f"<dt>{term}</dt><dd>{value}</dd>" for term, value in facts)}</dl>'
            f"{''.join(blocks)}"
            "</div></details></li>"
        )

    def _times(self, call: TraceCall, group: _Group, below: _Group) -> Iterator[tuple[str, str]]:
        if call.parent is not None:
            caller = self._tree.calls[call.parent]
            yield "Called by", f'<a href="#c{caller.index}"><bdi>{_text(caller.name) or "(no name)"}</bdi></a>'
        yield "Status", call.status if call.status != "lost" else "lost: its end was not seen"
        yield "Started", "" if call.started is None else f"after {_seconds(call.started)}"
        yield "Ended", "" if call.ended is None else f"after {_seconds(call.ended)}"
        waited = below.busy(self.span(call))
        yield "Waited", f"{_seconds(waited)} for the calls that it made" if waited else ""
        yield "In parallel", group.parallel(call)
        yield "After", group.before(call)
        yield "Node id", _text(call.node_id)

    def _bar(self, call: TraceCall, below: _Group) -> str:
        span = self.span(call)
        if span is None:
            return "<span></span>"
        parts = [self._rectangle("work", span)]
        parts += [self._rectangle("wait", each) for each in below.within(span)]
        return f'<svg class="bar" aria-hidden="true">{"".join(parts)}</svg>'

    def _rectangle(self, css: str, span: Span) -> str:
        start, end = self._percent(span[0]), self._percent(span[1])
        width = max(end - start, NARROWEST if css == "work" else 0.0)
        round_ = ' rx="2"' if css == "work" else ""
        return (
            f'<rect class="{css}" x="{min(start, 100 - width):.2f}%" y="2" width="{width:.2f}%" height="12"{round_}/>'
        )


def _has_error(call: TraceCall) -> bool:
    return bool(call.error) or call.status in ("failed", "canceled")


class _Group:
    """The calls of one caller: which of them ran at the same time, and when any of them did."""

    def __init__(self, page: _Page, calls: Sequence[TraceCall]) -> None:
        spans = ((page.span(call), call) for call in calls)
        self._calls = sorted(((*span, call.index, call) for span, call in spans if span is not None))
        self._starts = [start for start, *_ in self._calls]
        self._ends = sorted(((end, call.index, call) for _, end, _, call in self._calls))
        self._union = [*_union([(start, end) for start, end, *_ in self._calls])]
        self._page = page

    def within(self, span: Span) -> Iterator[Span]:
        """The times within `span` at which one of these calls was under way."""
        for start, end in self._union:
            if min(end, span[1]) > max(start, span[0]):
                yield max(start, span[0]), min(end, span[1])

    def busy(self, span: Span | None) -> float:
        """The length of these times."""
        return 0.0 if span is None else sum(end - start for start, end in self.within(span))

    def parallel(self, call: TraceCall) -> str:
        """The calls that ran at the same time as `call`: some names, and the number of others."""
        span = self._page.span(call)
        if span is None or span[0] == span[1]:
            return ""
        count = bisect_left(self._starts, span[1]) - bisect_right(self._ends, span[0], key=itemgetter(0)) - 1
        others = (
            other.name
            for start, end, _, other in self._calls[: 10 * MAX_NAMES]
            if other is not call and start < span[1] and end > span[0]
        )
        names = [f"<bdi>{_text(name)}</bdi>" for name in islice(others, MAX_NAMES)]
        more = [f"{count - len(names):,} more"] if count > len(names) else []
        return f"with {', '.join([*names, *more])}" if count else ""

    def before(self, call: TraceCall) -> str:
        """The call of the same caller that ended last before `call` began."""
        span = self._page.span(call)
        place = 0 if span is None else bisect_right(self._ends, span[0], key=itemgetter(0))
        if span is None or not place:
            return ""
        end, _, other = self._ends[place - 1]
        return "" if other is call else f"<bdi>{_text(other.name)}</bdi>, which ended {_seconds(span[0] - end)} before"
