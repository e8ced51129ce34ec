"""The command `oxygent-client`: output, error messages and exit codes.

Rule 1: the model of the live view is tested by tables without a terminal, the view by the output of rich.
Rule 2: the commands talk to a toy remote on a port of this machine.
Rule 3: no control character of a remote reaches the output.
"""

from __future__ import annotations

import importlib
import io
import json
import math
import os
import re
import runpy
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, ClassVar, Final, Self, get_args

import anyio
import pytest
from attrs import define
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text as Words

import oxygent_client
from oxygent_client import (
    Answer,
    AnyEvent,
    Custom,
    Event,
    Observation,
    OxyResponse,
    OxyState,
    Progress,
    RemoteErrorEvent,
    SSEOxyGent,
    Text,
    TextDelta,
    Thought,
    ToolCall,
    Trace,
    TraceCall,
    errors,
)
from oxygent_client._core.call_tree import CallStatus
from oxygent_client._core.transport import Context
from oxygent_client._run.trace import TRACED, TraceCollector
from oxygent_client.cli import main
from oxygent_client.cli._app import MAX_RUNS, app
from oxygent_client.cli._ask import ask_with, run_query
from oxygent_client.cli._error_advice import ADVICE, advice_for
from oxygent_client.cli._exit_codes import EXIT_CODES, error_line
from oxygent_client.cli._markdown import CELLS, COLUMNS, render_markdown
from oxygent_client.cli._options import attempt, read_query, silence
from oxygent_client.cli._output import AnswerDisplay, JSONDisplay, LinesDisplay, LiveDisplay, RunSummary, bare
from oxygent_client.cli._render import MEMBERS, FitHeight, Guarded, answer, organization, tree
from oxygent_client.cli._terminal_text import as_json, block, brief, escaped, indented, line
from oxygent_client.cli._view import HANDLERS, MAX_DEPTH, MAX_LINE, MAX_PARTS, MAX_TEXT, View
from oxygent_client.serve import ServeLimits
from oxygent_client.testing import Cassette, ToyRemote
from oxygent_client.testing import serve as serving
from oxygent_client.testing.script import SCRIPTS, Call, Say, Script
from oxygent_client.transports.asgi import ASGITransport
from tests.support.command_line import Ran, command

# ------------------------------------------------------------------------------------------------------------- Escaping

UNSAFE: Final = [
    # the text, the shown text
    ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
    ("\x00\x07\x08\x7f", r"\x00\x07\x08\x7f"),
    ("\x9b2J\x85", r"\x9b2J\x85"),
    ("user\u202etxt.exe\u2066", r"user\u202etxt.exe\u2066"),
    ("\u200e\u200f\u061c", r"\u200e\u200f\u061c"),
    ("\u2028\u2029", r"\u2028\u2029"),
    ("\ud800x\udfff", r"\ud800x\udfff"),
    ("a\u200b\u00ad\ufeff\U000e0041", r"a\u200b\xad\ufeff\U000e0041"),
    ("\u2764\ufe0f \u0645\u06cc\u200c\u062e", "\u2764\ufe0f \u0645\u06cc\u200c\u062e"),
    ("你好, ñ, 👩‍🚀, [bold]x[/]", "你好, ñ, 👩‍🚀, [bold]x[/]"),
]


@pytest.mark.parametrize(("text", "shown"), UNSAFE)
def test_escaping(text: str, shown: str) -> None:
    """Control, invisible and bidirectional characters are escaped; readable text is unchanged."""
    assert shown == escaped(text) == line(text) == block(text)
    assert escaped(text).encode()


BRIEF: Final[list[tuple[Any, str]]] = [
    ("two\n  lines\tand\r\nmore", "two lines and more"),
    ({"query": "only\nthis"}, "only this"),
    ({"query": "and", "more": 1}, '{"query": "and", "more": 1}'),
    ({"query": None}, ""),
    ({}, ""),
    (None, ""),
    (0, "0"),
    ([], "[]"),
    (False, "false"),
    (math.nan, "NaN"),
    ({"é": "\x1b"}, '{"é": "\\u001b"}'),
    ("x" * 2000, "x" * 1000 + "…"),
]


@pytest.mark.parametrize(("value", "shown"), BRIEF, ids=[repr(row[0])[:30] for row in BRIEF])
def test_brief(value: Any, shown: str) -> None:
    """A value is shown in one line of bounded length."""
    assert brief(value) == shown


def test_block() -> None:
    """A text keeps its lines; tabs become spaces, and a lone CR is escaped."""
    assert block("a\r\n\tb\rc\n") == "a\n    b\\x0dc\n"


JSON: Final[list[tuple[Any, str]]] = [
    (math.nan, '"NaN"'),
    ({"a": [math.inf, -math.inf, 1.5]}, '{"a": ["Infinity", "-Infinity", 1.5]}'),
    ("é\ud800\u202e", r'"\u00e9\ud800\u202e"'),
    ((None, True, 2**70), "[null, true, 1180591620717411303424]"),
]


@pytest.mark.parametrize(("value", "text"), JSON, ids=[row[1] for row in JSON])
def test_as_json(value: Any, text: str) -> None:
    """Each value is valid JSON in ASCII, even values that JSON lacks."""
    assert as_json(value) == text
    json.loads(text, parse_constant=pytest.fail)


# ---------------------------------------------------------------------------------------------------------------- Model


def called(stack: str, query: str = "", *, node: str = "", **more: Any) -> Event:
    """Return a tool call: the stack as a text, by default the callee as node id; tools begin with `t`."""
    names = stack.split()
    content = {
        "node_id": node or names[-1],
        "caller": names[-2] if len(names) > 1 else "",
        "callee": names[-1],
        "callee_category": "tool" if names[-1].startswith("t") else "agent",
        "call_stack": names,
        "arguments": {"query": query} if query else {},
        **more,
    }
    return ToolCall("tool_call", content, {"type": "tool_call", "content": content})


def returned(node: str, output: Any = "") -> Event:
    """Return its observation."""
    content = {"node_id": node, "callee": node, "output": output}
    return Observation("observation", content, {"type": "observation", "content": content})


def event(kind: type[Event], name: str | None, content: Any, **more: Any) -> Event:
    """Return any other event."""
    return kind(name, content, {"type": name, "content": content, **more})


def said(text: str) -> Event:
    """Return a message that is plain text."""
    return Text(None, text, text)


def delta(text: str, **more: Any) -> Event:
    """Return a text delta."""
    return event(TextDelta, "stream", {"delta": text, **more})


def unchanged(value: Any) -> Any:
    """Redact nothing."""
    return value


class Followed:
    """A view that gets events with their calls, and the trace of them, as from a run."""

    def __init__(self, view: View | None = None) -> None:
        self.view = View() if view is None else view
        self.collector = TraceCollector()
        self.collector.begin(0)

    def see(self, event: Event, at: float = 0) -> None:
        """Pass an event."""
        if type(event) in TRACED:
            self.collector.note(event, at)
        self.view.see(event, self.collector.call_of(event, unchanged))

    def at(self, seconds: float, status: CallStatus = "running") -> View:
        """Pass the trace at this time, and return the view."""
        self.view.show_trace(self.collector.trace(now=lambda: seconds, status=status, record=None, clean=unchanged))
        return self.view


def outlined(view: View) -> list[str]:
    """Return the tree as text: a space for each level, the mark, the name, the text, the seconds."""
    return [
        " ".join(
            part
            for part in (
                " " * (len(each.branches) // 3) + each.mark,
                each.name,
                each.text,
                "" if each.share is None else f"{each.share:.0%}",
                "" if each.seconds is None else f"{each.seconds:g}s",
            )
            if part
        )
        for each in view.lines()
    ]


VIEWS: Final[list[tuple[str, list[Event], list[str]]]] = [
    # the shown tree, the events (one a second), the tree one second after the last
    ("nothing", [], []),
    ("a call that runs", [called("user a", "why")], ["running a 1s"]),
    (
        "what an inner call was asked while it runs, and what it told when it is over",
        [called("user a"), called("user a t1", "asked"), called("user a t2", "asked"), returned("t2", {"told": 1})],
        ["running a 4s", " running t1 asked 3s", ' completed t2 {"told": 1} 1s'],
    ),
    (
        "no output of the root: it is the answer",
        [called("user a"), returned("a", "the answer"), event(Answer, "answer", "the answer")],
        ["completed a 1s"],
    ),
    (
        "nested calls below the youngest open call of their stack",
        [called("user a"), called("user a b"), called("user a b", node="b2"), called("user a b t"), returned("b2")],
        ["running a 5s", " running b 4s", " completed b 2s", "  running t 2s"],
    ),
    (
        "a call without a stack, below its caller",
        [called("user a"), called("x a t", call_stack=None), called("x y t", call_stack=None, node="t2")],
        ["running a 3s", " running t 2s", "running t 1s"],
    ),
    ("a call whose start was not seen", [returned("x")], ["completed x"]),
    (
        "the error of a call that failed",
        [called("user a"), called("user a t"), returned("t", "Error executing tool t")],
        ["running a 3s", " failed t Error executing tool t 1s"],
    ),
    (
        "a call without a node id",
        [called("x a"), called("y t", node_id="")],
        ["running a 2s", "running t 1s"],
    ),
    (
        "notes below who said them: by node, by name, else the root",
        [
            called("user a"),
            called("user a b"),
            event(Thought, "think", "hm", agent="b"),
            event(Progress, "progress", {"node_id": "b", "status": "working"}),
            said("hello\nthere"),
            event(RemoteErrorEvent, "error", {"agent": "nobody", "oh": "no"}),
            event(Custom, "shape", [1]),
            event(Custom, None, 42),
        ],
        [
            "running a 8s",
            " running b 7s",
            "  think hm",
            "  progress working",
            " text hello there",
            ' error {"agent": "nobody", "oh": "no"}',
            " other shape [1]",
            " other 42",
        ],
    ),
    ("notes before any call", [said("early"), event(Progress, "progress", "soon")], ["text early", "progress soon"]),
    (
        "only the last progress of each",
        [
            called("user a"),
            said("one"),
            event(Progress, "progress", {"step": 1, "of": 4}),
            event(Progress, "progress", {"step": 2, "of": 4, "message": "half"}),
        ],
        ["running a 4s", " text one", " progress half 50%"],
    ),
    (
        "two calls of one id: the later one is meant",
        [
            called("user a"),
            called("user a b", node="x"),
            called("user a c", node="x"),
            said("note"),
            returned("x", "c's"),
        ],
        ["running a 5s", " running b 4s", " completed c c's 2s", " text note"],
    ),
    (
        "calls by the whole of their long ids",
        [
            called("user a"),
            called("user a b", node="x" * 200 + "1"),
            called("user a c", node="x" * 200 + "2"),
            returned("x" * 200 + "1", "b's"),
            event(Thought, "think", "hm", node_id="x" * 200 + "2"),
        ],
        ["running a 5s", " completed b b's 2s", " running c 3s", " think hm"],
    ),
    (
        "calls by the whole of their long stacks",
        [called("user " + "a " * 60), called("user " + "a " * 60 + "b"), called("user " + "a " * 59 + "b c")],
        ["running a 3s", " running b 2s", "running c 1s"],
    ),
    (
        "stacks that read alike in one piece",
        [called("user a"), called("us era t")],
        ["running a 2s", "running t 1s"],
    ),
    (
        "the line that an inner agent writes",
        [
            called("user a"),
            called("user a b"),
            delta("one\n", node_id="b"),
            delta("two\nth", agent="b"),
            delta("ree", agent="b"),
        ],
        ["running a 5s", " running b three 4s"],
    ),
]


@pytest.mark.parametrize(("events", "shown"), [row[1:] for row in VIEWS], ids=[row[0] for row in VIEWS])
def test_the_tree(events: list[Event], shown: list[str]) -> None:
    """The tree shows the calls by caller, with their time and text."""
    run = Followed()
    for at, each in enumerate(events):
        run.see(each, at)
    assert outlined(run.at(len(events))) == shown
    assert run.view.events == len(events)


BIG: Final = 10**400  # no float can hold it

PROGRESS: Final[list[tuple[Any, str]]] = [
    ("a word", "a word"),
    ({"step": 1, "of": 2}, "1 of 2 50%"),
    ({"step": 9, "of": 2}, "9 of 2 100%"),
    ({"step": -1, "of": 2}, "-1 of 2 0%"),
    ({"progress": 45, "message": "reading"}, "reading 45%"),
    ({"progress": 45}, "45 of 100 45%"),
    ({"step": 1, "of": 0}, '{"step": 1, "of": 0}'),
    ({"step": "1", "of": 2}, '{"step": "1", "of": 2}'),
    ({"text": "words"}, "words"),
    ({"step": math.nan, "of": 3}, '{"step": NaN, "of": 3}'),
    ([1, 2], "[1, 2]"),
    ({"step": 1, "of": math.inf}, '{"step": 1, "of": Infinity}'),
    ({"step": math.inf, "of": 3}, '{"step": Infinity, "of": 3}'),
    ({"step": True, "of": 3}, '{"step": true, "of": 3}'),
    ({"step": 1, "of": True}, '{"step": 1, "of": true}'),
    ({"progress": None}, '{"progress": null}'),
    ({"step": BIG, "of": 3}, f'{{"step": {BIG}, "of": 3}}'),
    ({"step": 1, "of": BIG}, f'{{"step": 1, "of": {BIG}}}'),
    ({"progress": -BIG}, f'{{"progress": -{BIG}}}'),
]


@pytest.mark.parametrize(("content", "shown"), PROGRESS, ids=[str(row[0])[:40] for row in PROGRESS])
def test_progress(content: Any, shown: str) -> None:
    """Progress of known shapes is a share and a text; other shapes are shown unchanged."""
    run = Followed()
    run.see(event(Progress, "progress", content))
    assert outlined(run.at(0)) == [f"progress {shown}"]


def test_counts() -> None:
    """Events and calls are counted."""
    run = Followed()
    for each in [
        delta("ea"),
        called("user a"),
        delta("rly", agent="a"),
        event(Answer, "answer", 1),
        event(Answer, "answer", 2),
    ]:
        run.see(each)
    assert run.view.events == 5
    assert run.view.calls == 1


def test_open_calls_at_the_end() -> None:
    """At the end an open call is marked, without a time."""
    run = Followed()
    run.see(called("user a"))
    assert outlined(run.at(1, "canceled")) == ["lost a"]


def test_calls_that_the_trace_does_not_have() -> None:
    """A call that the trace has dropped, or does not have yet, is not drawn."""
    run = Followed()
    run.see(called("user a"))
    dropped = View()
    dropped.see(returned("b"), None)
    assert outlined(run.view) == []
    assert outlined(dropped) == []


def test_the_calls_of_a_record() -> None:
    """Once the calls are those of the server's record, notes are below the same calls, or at the top."""
    run = Followed()
    for each in [said("early"), called("user a"), called("user a b"), called("user a c")]:
        run.see(each)
    for name in "bc":
        run.see(event(Thought, "think", name, agent=name))
    calls = (
        TraceCall(index=0, name="a", node_id="a", status="completed"),
        TraceCall(index=1, name="d", node_id="d", parent=0, depth=1, status="completed", ended=2, output="d's"),
        TraceCall(index=2, name="b", node_id="b", parent=0, depth=1, status="failed", error="no"),
    )
    view = run.at(1)
    view.show_trace(Trace(calls=calls, source="record", status="completed"))
    assert outlined(view) == ["completed a", " completed d d's", " failed b no", "  think b", "text early", "think c"]


def test_the_tree_is_bounded() -> None:
    """Endless calls, in width or depth, and endless text use bounded memory and stack."""
    of_wide, of_deep = Followed(), Followed()
    for number in range(MAX_PARTS + 10):
        of_wide.see(called(f"user t{number}"))
        of_deep.see(called(" ".join(f"a{n}" for n in range(min(number, 100) + 1)), node=f"n{number}"))
    wide, deep = of_wide.at(0), of_deep.at(0)
    assert len(list(wide.lines())) == MAX_PARTS
    assert wide.hidden == 10
    assert max(len(each.branches) // 3 for each in deep.lines()) == MAX_DEPTH
    assert deep.hidden > 0
    wide.show_text("0123456789" * MAX_TEXT)
    assert wide.text == "0123456789" * (MAX_TEXT // 10)


def test_progress_in_a_full_view() -> None:
    """When the view is full, progress is still counted."""
    run = Followed()
    for _ in range(MAX_PARTS):
        run.see(said("note"))
    run.see(event(Progress, "progress", "soon"))
    run.see(event(Progress, "progress", "sooner"))
    assert run.view.hidden == 2


HELD: Final[list[tuple[str, Callable[[int], list[Event]]]]] = [
    ("long ids", lambda n: [called("user a", node=f"{n}" + "N" * 400_000)]),
    ("long stacks", lambda n: [called("x", call_stack=[f"u{n}-{k}" for k in range(20_000)], node=f"{n}")]),
    ("long names", lambda n: [called("x", callee=f"{n}" + "N" * 400_000, callee_category="N" * 400_000, node=f"{n}")]),
    ("long arguments", lambda n: [called("user a", f"{n}" + "N" * 400_000, node=f"{n}")]),
    ("long outputs", lambda n: [called("user a", node=f"{n}"), returned(f"{n}", f"{n}" + "N" * 400_000)]),
    ("long texts", lambda n: [called("user a", node="a"), called("user a b"), delta("N" * 400_000, node_id="b")]),
    ("long notes", lambda n: [said(f"{n}" + "N" * 400_000)]),
]


@pytest.mark.seconds
@pytest.mark.parametrize("events", [row[1] for row in HELD], ids=[row[0] for row in HELD])
def test_a_view_is_bounded(events: Callable[[int], list[Event]]) -> None:
    """A view keeps a bounded part of long ids, stacks and texts."""
    view = View()
    call = TraceCall(index=1)

    def feed(number: int) -> None:
        for each in events(number):
            view.see(each, call)

    tracemalloc.start()
    try:
        for number in range(10):
            feed(number)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 400_000


def test_an_inner_line_is_bounded() -> None:
    """Of an endless line of an inner agent only the shown part is kept."""
    run = Followed()
    for each in [called("user a"), called("user a b"), *[delta("0123456789" * 50, node_id="b")] * 10]:
        run.see(each)
    assert len(run.view.texts[1]) == MAX_LINE


def test_the_lines_of_many_inner_agents_are_bounded() -> None:
    """Of calls that do not fit into the view no line is kept."""
    run = Followed()
    for number in range(MAX_PARTS + 10):
        run.see(called("user a", node=f"n{number}"))
        run.see(delta("x", node_id=f"n{number}"))
    assert len(run.view.texts) == MAX_PARTS


def test_calls_are_looked_up_in_constant_time() -> None:
    """The call of an event is looked up in constant time."""
    run = Followed()
    for number in range(MAX_PARTS):
        run.see(called("user a", node=f"n{number}"))
    steps: list[str] = []
    sys.setprofile(lambda _frame, what, _function: steps.append(what))
    try:
        run.see(delta("x", agent="nobody"))
        run.see(called("nobody x"))
        run.see(returned("n7"))
    finally:
        sys.setprofile(None)
    assert len(steps) < MAX_PARTS / 4


# ----------------------------------------------------------------------------------------------------------------- View


def drawn(what: RenderableType, *, width: int = 40, height: int = 20, encoding: str = "utf-8") -> list[str]:
    """Return the lines on a terminal, without styles and trailing spaces."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=out, width=width, height=height, force_terminal=True, color_system=None)
    console.print(what)
    out.seek(0)
    return [each.rstrip() for each in out.read().split("\n")[:-1]]


def example() -> View:
    """Return a small conversation."""
    run = Followed()
    for at, each in enumerate(
        [
            called("user a"),
            called("user a b", "a question that is longer than the line has room for"),
            called("user a b t"),
            returned("t", "[bold]told[/]"),
            event(Progress, "progress", {"step": 1, "of": 2}),
        ]
    ):
        run.see(each, at)
    return run.at(5)


PICTURES: Final = [
    (
        "utf-8",
        [
            "⠋ a                                 5.0s",
            "├─ ⠋ b  a question that is longer … 4.0s",
            "│  └─ ✓ t  [bold]told[/]            1.0s",
            "└─ ▸ ━━━━━━━━━━ 1 of 2",
        ],
    ),
    (
        "ascii",
        [
            "- a                                 5.0s",
            "|- - b  a question that is longer . 4.0s",
            "|  `- + t  [bold]told[/]            1.0s",
            "`- > #####..... 1 of 2",
        ],
    ),
]


@pytest.mark.parametrize(("encoding", "picture"), PICTURES)
def test_the_picture(encoding: str, picture: list[str]) -> None:
    """Each call and note is one line with its time at the edge; a terminal without Unicode gets ASCII."""
    shown = drawn(tree(example(), 5, ascii_only=encoding == "ascii"), encoding="utf-8")
    assert [each.replace("…", ".") if encoding == "ascii" else each for each in shown] == picture


def test_hidden_lines() -> None:
    """A view that does not show all has a line with the number of hidden lines."""
    view = example()
    view.hidden = 3
    assert drawn(tree(view, 5))[-1] == "and 3 more, not shown"


def test_fitted() -> None:
    """A view higher than the terminal keeps its first two lines and as many of the last as fit."""
    whole = "\n".join(f"line {n}" for n in range(10))
    assert drawn(FitHeight(whole, 10)) == whole.split("\n")
    assert drawn(FitHeight(whole, 5)) == ["line 0", "line 1", "   … 6 lines above", "line 8", "line 9"]


ANSWERS: Final[list[tuple[Any, str]]] = [
    ("**bold** [red]x[/red]", "bold [red]x[/red]"),
    ("[words](http://there)", "words (http://there)"),
    ("a &#x202e; b", r"a \u202e b"),
    ("\x1b]8;;http://evil\x07x", r"\x1b]8;;http://evil\x07x"),
    ({"a": [1]}, '"a": ['),
    (None, "null"),
    ("*" * 50_001, "*" * 34),
    ("a\n" * 3000 + "end", "end"),
    ([0] * 20_000, "0, 0, 0"),
]


@pytest.mark.parametrize(("content", "shown"), ANSWERS, ids=[repr(row[0])[:30] for row in ANSWERS])
def test_the_answer(content: Any, shown: str) -> None:
    """A text is Markdown, other values JSON, huge ones plain, without markup and control characters of their own."""
    lines = drawn(answer(content, finished=True))
    assert any(shown in each for each in lines)
    assert all(each.isprintable() for each in lines)


MARKDOWN: Final[list[tuple[str, list[str]]]] = [
    ("# Head **x**\n\ntext", ["Head x", "", "text"]),
    ("- one\n  * two\n+ three", [" • one", "   • two", " • three"]),
    ("1. one", ["1. one"]),
    ("> said\n>> - twice", ["▌ said", "▌ ▌  • twice"]),
    ("* * *\n---", ["─" * 20, "─" * 20]),
    ("*em* _em_ __strong__ ~~gone~~ `a*b*c` ``d``", ["em em strong gone a*b*c d"]),
    ("2 * 3 * 4, snake_case_name", ["2 * 3 * 4, snake_case_name"]),
    (r"\*no\* &lt;b&gt; `&lt;`", ["*no* <b> &lt;"]),
    ("```python\n**as** &lt;\n\n# is\n````\n**x**", ["python", "**as** &lt;", "", "# is", "x"]),
    ("~~~\n```\n~~~ no end\nx", ["", "```", "~~~ no end", "x"]),
    ("**" + "a" * 201 + "**", ["**" + "a" * 201 + "**"]),
    ("*" + "a" * 2000 + "*", ["*" + "a" * 2000 + "*"]),
    ("[a](b) ![c](d) [e]: f", ["a (b) !c (d) [e]: f"]),
    ("&#x202e;&#10;", [r"\u202e", ""]),
]


@pytest.mark.parametrize(("text", "shown"), MARKDOWN, ids=[row[0][:20] for row in MARKDOWN])
def test_markdown(text: str, shown: list[str]) -> None:
    """Markdown becomes styles, a code fence keeps its content, and no text is lost."""
    assert "\n".join(each.plain for each in render_markdown(text) if isinstance(each, Words)).split("\n") == shown


TABLES: Final[list[tuple[str, list[str]]]] = [
    (
        "| a | **b** | c |\n|:---|---:|:-:|\n| x | 1 | y |\n| longer | 22 | wider |\nafter",
        ["a         b     c", "─" * 19, "x         1     y", "longer   22   wider", "after"],
    ),
    ("a|b\n-|-\n1\\|2|3|4\n5|", ["a     b", "─" * 11, "1|2   3 | 4", "5"]),
    ("a\n|-|", ["a", "|-|"]),
    ("|a|b|\n|-|", ["|a|b|", "|-|"]),
    ("|a|\n|:-:-|", ["|a|", "|:-:-|"]),
    ("```\n|a|\n|-|", ["", "|a|", "|-|"]),
    ("|a|", ["|a|"]),
    ("|" * (COLUMNS + 2) + "\n" + "|-" * (COLUMNS + 1) + "|", ["|" * (COLUMNS + 2), "|-" * (COLUMNS + 1) + "|"]),
]


@pytest.mark.parametrize(("text", "shown"), TABLES, ids=[row[0][:20] for row in TABLES])
def test_tables(text: str, shown: list[str]) -> None:
    """A table is drawn in columns; a text that is no table, or too wide, is unchanged."""
    assert drawn(Group(*render_markdown(text))) == shown


def test_tables_are_bounded() -> None:
    """Of many or long tables the first cells are drawn, and the rest is shown unchanged."""
    many = render_markdown("|a|\n|-|\n\n" * CELLS)
    long = render_markdown("|a|\n|-|\n" + "|x|\n" * CELLS)
    assert len(many) < 3 * CELLS
    assert len([each for each in many if not isinstance(each, Words)]) < CELLS
    assert [each for each in long if not isinstance(each, Words)] == []


def test_the_last_lines_of_markdown() -> None:
    """Of a long text the last lines are drawn, code as code."""
    rows = render_markdown("```\n" + "**x**\n" * 10 + "```\n**y**", last=2)
    assert [str(each) for each in rows] == ["**x**", "y"]


class EndlessLexer:
    """A lexer of another installed package that never returns."""

    name = "Endless"
    aliases: ClassVar[list[str]] = ["endless"]

    def __init__(self, **options: object) -> None:
        raise AssertionError("a lexer was made")


def test_code_is_drawn_without_a_lexer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A code fence is drawn without a lexer, whatever its language."""
    info = tmp_path / "endless_lexer-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: endless-lexer\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[pygments.lexers]\nendless = {__name__}:EndlessLexer\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    lexers = importlib.import_module("pygments.lexers")
    aliases = sorted({"endless", *(alias for _, names, *_ in lexers.get_all_lexers(plugins=False) for alias in names)})
    assert EndlessLexer in importlib.import_module("pygments.plugin").find_plugin_lexers()
    pictures = {alias: drawn(answer(f"```{alias}\n<!-- seen", finished=True)) for alias in aliases}
    words = {alias: [each.strip("│ ") for each in shown[2:-2]] for alias, shown in pictures.items()}
    assert {alias: [alias, "<!-- seen"] for alias in aliases} == words


def test_no_lexer_is_loaded() -> None:
    """Drawing an answer does not import a syntax highlighter."""
    program = (
        "import sys; from rich.console import Console; from oxygent_client.cli._output import LiveDisplay;"
        "from oxygent_client.cli import _render; Console().print(_render.answer('```python\\nx = 1', finished=True));"
        "print({'pygments', 'rich.syntax', 'rich.markdown'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "set()"


class Broken:
    """A renderable that fails."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield "half of it"
        raise OverflowError


def test_a_part_that_cannot_be_drawn() -> None:
    """A line replaces the part that cannot be drawn, and the rest is drawn."""
    assert drawn(Guarded("the tree", Broken)) == ["the tree cannot be shown (OverflowError)"]


@pytest.mark.parametrize(("size", "lines"), [(2, 4), (30_000, 1)])
def test_long_json_is_not_indented(size: int, lines: int) -> None:
    """JSON is indented unless it is long: deeply nested JSON would grow a hundredfold."""
    assert indented([0] * size).count("\n") + 1 == lines


ORGANIZATIONS: Final[list[tuple[dict[str, Any], list[str]]]] = [
    (
        {
            "name": "a",
            "type": "agent",
            "children": [{"name": "t", "type": "tool"}, {"name": "m[x]", "type": "llm", "children": None}, "?"],
        },
        ["a  agent", "├── t  tool", "└── m[x]  llm"],
    ),
    ({"path": [""]}, ["(no agents)"]),
    ({"name": "\x1b[2J"}, [r"\x1b[2J"]),
]


@pytest.mark.parametrize(("document", "shown"), ORGANIZATIONS)
def test_the_organization(document: dict[str, Any], shown: list[str]) -> None:
    """Each member is a line with its type, for any shape of the document."""
    assert drawn(organization(document)) == shown


def nested(levels: int) -> dict[str, Any]:
    """Return an organization with one member in each member, and two in the last."""
    inner: dict[str, Any] = {"name": f"m{levels}", "children": [{"name": "t1"}, {"name": "t2"}]}
    for number in range(levels - 1, 0, -1):
        inner = {"name": f"m{number}", "children": [inner]}
    return inner


def test_a_deep_organization() -> None:
    """Members too deep to be indented are drawn with their level."""
    assert drawn(organization(nested(4)), width=40) == [
        "m1",
        "└── m2",
        "    └── m3",
        "    └── level 4: m4",
        "    ├── level 5: t1",
        "    └── level 5: t2",
    ]


def test_a_narrow_organization() -> None:
    """A name that is longer than the line is wrapped."""
    document = {"name": "a", "children": [{"name": "b" * 10}, {"name": "c" * 10}]}
    assert drawn(organization(document), width=10) == [
        "a", "├── bbbbbb", "│   bbbb", "└── cccccc", "    cccc"
    ]  # fmt: skip


def test_an_organization_in_ascii() -> None:
    """A terminal without Unicode gets ASCII."""
    assert drawn(organization(nested(1)), encoding="ascii") == ["m1", "|-- t1", "`-- t2"]


def test_a_large_organization() -> None:
    """The first members are drawn, and a line has the number of the others."""
    document = {"name": "a", "children": [{"name": "n" * 1000}, *({"name": f"m{n}"} for n in range(MEMBERS + 5))]}
    shown = drawn(organization(document), width=200)
    assert len(shown) == MEMBERS + 1
    assert shown[1] == f"├── {'n' * 100}…"
    assert shown[-1] == "and 7 more members, not shown; --json shows all"


# ------------------------------------------------------------------------------------------------------- Output formats


def outcome_of(output: Any) -> RunSummary:
    """Return a successful run."""
    return RunSummary(OxyResponse(state=OxyState.COMPLETED, output=output), "mine", "theirs")


def test_live() -> None:
    """The live view moves, the text grows below it, and the final view stays; a short terminal shows the end."""
    out = io.StringIO()
    console = Console(file=out, width=50, height=12, force_terminal=True, color_system=None)
    show = LiveDisplay(console, "why")
    with show:
        run = Followed(show.view)
        run.see(called("user a"))
        run.at(1)
        show.tick(1)
        show.show_text("the **ans")
        show.tick(2)
        for number in range(20):
            show.see(said(f"note {number}"), 2)
        show.tick(3)
        show.finish(outcome_of("the **answer**"), 4)
    moving, staying = out.getvalue().rsplit("▌ why", 1)
    for shown in ("⠹ a", "the **ans", "lines above"):
        assert shown in moving
    for shown in ("note 0", "note 19", "the answer", "21 events · 1 calls · 4.0 s", "trace theirs"):
        assert shown in staying
    assert "\x1b[?25h" in out.getvalue()  # the cursor is visible again


def test_live_that_failed() -> None:
    """A failed run leaves its view: open calls and the text so far."""
    out = io.StringIO()
    with LiveDisplay(Console(file=out, width=40), "why") as show:
        run = Followed(show.view)
        run.see(called("user a"))
        run.at(1, "failed")
        show.show_text("half an ans")
    assert "? a" in out.getvalue()
    assert "half an ans" in out.getvalue()
    assert "answer" not in out.getvalue()


def test_live_draft() -> None:
    """Until the answer's text is known, the current line of the root's text is shown in its place, as plain text."""
    out = io.StringIO()
    with LiveDisplay(Console(file=out, width=40, force_terminal=True, color_system=None), "why") as show:
        show.see(delta("```python\n<!-- dra"), 0)
        show.see(delta("ft"), 0)
        show.tick(1)
        show.show_text("known")
        show.tick(2)
    drafted, known = out.getvalue().split("<!-- draft")
    assert "python" not in drafted
    assert "known" in known


def test_a_frame_is_bounded() -> None:
    """A frame is at most the terminal's height, with the number of lines above."""
    out = io.StringIO()
    console = Console(file=out, width=50, height=12, force_terminal=True, color_system=None)
    with LiveDisplay(console, "why") as show:
        for number in range(MAX_PARTS):
            show.see(said(f"note {number}"), 0)
        show.tick(1)
    assert f"{MAX_PARTS - 7} lines above" in out.getvalue()


LINES: Final = [
    (called("user a t", "asked"), "call        a > t  asked"),
    (called("a", call_stack=None), "call        a"),
    (returned("t", 5), "result      t  5"),
    (delta("a \n", agent="a"), r'delta       a  "a \n"'),
    (said("x\x1by"), r"text        x\x1by"),
    (event(Progress, "progress", {"step": 1}), 'progress    {"step": 1}'),
    (event(Custom, None, 1), "other       1"),
    (event(Custom, "a type that is long", ""), "a type that is long"),
]


@pytest.mark.parametrize(("seen", "shown"), LINES, ids=[row[1] for row in LINES])
def test_lines(seen: Event, shown: str) -> None:
    """Without a terminal each event is one plain line."""
    written: list[str] = []
    with LinesDisplay(written.append, "why\n?", pytest.fail) as show:
        show.see(seen, 1.234)
        show.show_text("because")
        show.tick(2)
    assert written == ["question  why ?\n", f"   1.23s  {shown}\n"]


BARE: Final[list[tuple[Any, str]]] = [
    # the answer, the text in a pipe
    ("a\r\n\tb\x1b\n\n", "a\n\tb\\x1b\n"),
    ("", "\n"),
    ({"b": [None, "\u202e"]}, '{"b": [null, "\\u202e"]}\n'),
    (math.nan, '"NaN"\n'),
]


@pytest.mark.parametrize(("output", "text"), BARE, ids=[repr(row[0]) for row in BARE])
def test_the_answer_alone(output: Any, text: str) -> None:
    """A pipe gets a `str` with its lines and tabs, and other values as JSON."""
    written: list[str] = []
    with AnswerDisplay(written.append) as show:
        show.see(said("a note"), 1)
        show.finish(outcome_of(output), 2)
    assert bare(output) == text
    assert written == [text]


def test_the_last_lines() -> None:
    """The answer is written by itself, and a line about the run."""
    written: list[str] = []
    answers: list[str] = []
    with LinesDisplay(written.append, "", answers.append) as show:
        show.finish(outcome_of("42"), 2)
    assert answers == ["42\n"]
    assert written[1:] == ["0 events, 0 calls, 2.0 s, trace theirs\n"]


def test_a_live_view_whose_answer_is_elsewhere() -> None:
    """The live view of a run whose answer goes to a pipe ends without the answer."""
    out, answers = io.StringIO(), list[str]()
    with LiveDisplay(Console(file=out, width=60), "why", answers.append) as show:
        show.see(called("user a"), 0)
        show.finish(outcome_of("the answer"), 4)
    assert answers == ["the answer\n"]
    assert "trace theirs" in out.getvalue()
    assert "the answer" not in out.getvalue()


def test_json_objects() -> None:
    """With JSON output each event is one JSON object, and the response is the last."""
    written: list[str] = []
    with JSONDisplay(written.append) as show:
        show.see(event(Custom, "odd", [math.nan, "\ud800"]), 1.23456)
        show.tick(2)
        show.finish(outcome_of(math.inf), 2)
    first, last = (json.loads(each) for each in written)
    assert first["kind"] == "event"
    assert first["at"] == 1.235
    assert first["type"] == "odd"
    assert first["content"] == ["NaN", "\ud800"]
    assert first["message"]["type"] == "odd"
    assert first["event"] == "message"
    assert last["kind"] == "response"
    assert last["state"] == "COMPLETED"
    assert last["output"] == "Infinity"
    assert last["trace_id"] == "mine"
    assert last["remote_trace_id"] == "theirs"


# -------------------------------------------------------------------------------------------------------- Conversations


def in_process(toy: ToyRemote) -> SSEOxyGent:
    """Return an agent that uses the toy in process."""
    return SSEOxyGent(server_url="http://toy", transport=ASGITransport(toy))


@define
class Leaving:
    """An output whose reader leaves after some events."""

    events: int
    error: type[BaseException] = BrokenPipeError
    interval: ClassVar[float | None] = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def see(self, event: Event, at: float, call: TraceCall | None = None) -> None:  # it looks at nothing
        self.events -= 1
        if not self.events:
            raise self.error

    def show_text(self, text: str) -> None:
        """Do nothing."""

    def show_trace(self, trace: Trace) -> None:
        """Do nothing."""

    def tick(self, at: float) -> None:
        """Do nothing."""

    def finish(self, summary: RunSummary, at: float) -> None:
        """Fail."""


class Stopping(Leaving):
    """An output that is cancelled at its first event."""

    def __init__(self, scope: anyio.CancelScope) -> None:
        super().__init__(1)
        self._scope = scope

    def see(self, event: Event, at: float, call: TraceCall | None = None) -> None:
        """Cancel."""
        self._scope.cancel()


async def test_broken_pipe_during_a_run() -> None:
    """A broken pipe stops the remote run, and the error is raised unchanged."""
    toy = ToyRemote(pace=0)
    with pytest.raises(BrokenPipeError):
        await run_query(in_process(toy), "slow", Leaving(3))
    assert [run.state for run in toy.runs] == ["cancelled"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError])
async def test_exceptions_of_the_output(error: type[BaseException]) -> None:
    """An exception of the output is raised unchanged, not in a group."""
    with pytest.raises(error):
        await run_query(in_process(ToyRemote(pace=0)), "slow", Leaving(3, error))


async def test_a_conversation_that_is_cancelled() -> None:
    """A cancelled conversation ends, and the remote run with it."""
    toy = ToyRemote(pace=0)
    with anyio.CancelScope() as scope:
        await run_query(in_process(toy), "slow", Stopping(scope))
    assert scope.cancelled_caught
    assert [run.state for run in toy.runs] == ["cancelled"]


@define
class Stumbling:
    """An output that fails for some events."""

    error: Exception
    over: tuple[str, ...]
    interval: ClassVar[float | None] = 0.001
    ticked: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def see(self, event: Event, at: float, call: TraceCall | None = None) -> None:
        self._step("see")

    def show_text(self, text: str) -> None:
        self._step("text")

    def show_trace(self, trace: Trace) -> None:
        self._step("trace")

    def tick(self, at: float) -> None:
        self.ticked += 1
        self._step("tick")

    def finish(self, summary: RunSummary, at: float) -> None:
        self._step("finish")

    def _step(self, name: str) -> None:
        if name in self.over:
            raise self.error


STUMBLES: Final[list[tuple[tuple[str, ...], str]]] = [
    (("see",), "an event of the class ToolCall (OverflowError), and 2 more"),
    (("finish",), "the answer (OverflowError)."),
    (("tick",), "the picture (OverflowError)"),
    (("text",), "the text (OverflowError)"),
    ((), ""),
]


@pytest.mark.parametrize(("over", "says"), STUMBLES, ids=["events", "answer", "picture", "text", "nothing"])
async def test_events_that_cannot_be_shown(over: tuple[str, ...], says: str) -> None:
    """A run goes on when a part of it cannot be shown, with one line about it."""
    lines: list[str] = []
    show = Stumbling(OverflowError(), over)
    outcome = await run_query(in_process(ToyRemote(pace=0)), "echo hi", show, report=lines.append)
    assert outcome.response.output == "hi"
    assert len(lines) == bool(over)
    assert says in "".join(lines)


async def test_a_picture_that_can_no_longer_be_written() -> None:
    """An error in writing the live view is raised unchanged, not in a group, and stops the remote run."""
    toy = ToyRemote(pace=0)
    with pytest.raises(BrokenPipeError):
        await run_query(in_process(toy), "hang", Stumbling(BrokenPipeError(), ("tick",)))
    assert {run.state for run in toy.runs} <= {"cancelled"}


def test_the_line_about_events_that_cannot_be_shown() -> None:
    """The line about a part that cannot be shown goes to stderr."""
    err = io.StringIO()
    with redirect_stderr(err):
        code = ask_with(in_process(ToyRemote(pace=0)), "echo hi", Stumbling(ValueError(), ("see",)))
    assert code == 0
    assert err.getvalue().count("\n") == 1
    assert "--json" in err.getvalue()


# ------------------------------------------------------------------------------------------------------------- Commands


@define
class Server:
    """A toy remote on a port; a first path segment in TRICKS selects another application."""

    toy: ToyRemote
    url: str = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        trick = TRICKS.get(scope["path"].split("/")[1])
        if trick is None:
            await self.toy(scope, receive, send)
            return
        status, headers, body = trick
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        await send({"type": "http.response.body", "body": body.encode()})


TRICKS: Final[dict[str, tuple[int, dict[str, str], str]]] = {
    "moved": (302, {"location": "http://127.0.0.1:1/elsewhere"}, ""),
    "login": (401, {}, "who are you?"),
    "never": (403, {}, ""),
    "busy": (429, {"retry-after": "0"}, ""),
    "broken": (500, {}, "Internal Server Error"),
    "page": (200, {"content-type": "text/html"}, "<html>"),
    "envelope": (200, {"content-type": "application/json"}, '{"code": 403, "message": "no\\u001b[2J", "data": {}}'),
    "cut": (200, {"content-type": "text/event-stream"}, "data: half\n\n"),
}

ODD_SAYINGS = Script(
    [Say("\x1b[2Jcleared"), Say("[bold]x"), Say('{"type": "progress", "content": "\\ud800 \\u202e"}'), Say(math.nan)],
    output="\x1b]0;title\x07 done \u202e",
)


LARGE = Script([Say(json.dumps({"type": "progress", "content": {"step": BIG, "of": 3}}))], output="the answer is 42")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server for all tests of this file."""
    scripts = {**SCRIPTS, "sayings": ODD_SAYINGS, "number": Script([Call("add_up")], output={"n": 1}), "large": LARGE}
    served = Server(ToyRemote(pace=0, scripts=scripts))
    with serving(served) as url:
        served.url = url
        yield served


def test_ask(server: Server) -> None:
    """`ask` prints the answer to stdout; a line for each event, and the duration, to stderr."""
    ran = command("ask", server.url, "echo hello there")
    run = server.toy.runs[-1]
    assert ran.code == 0
    assert ran.out == "hello there\n"
    lines = ran.err.splitlines()
    assert [each[10:20].strip() for each in lines[1:4]] == ["call", "result", "answer"]
    assert lines[0] == "question  echo hello there"
    assert re.fullmatch(rf"3 events, 1 calls, \d\.\d s, trace {run.trace_id}", lines[4])


def test_ask_quietly(server: Server) -> None:
    """With -q nothing but the answer is printed."""
    ran = command("ask", server.url, "echo hello there", "-q")
    assert ran == Ran(0, "hello there\n", "")


SERVERS: Final[dict[str, tuple[tuple[str, ...], dict[str, str]]]] = {
    # how the server is named: (the words of the command line, the environment)
    "URL": (("{}", "echo hi"), {}),
    "URL without scheme": (("{host}", "echo hi"), {"OXYGENT_SERVER_URL": "http://127.0.0.1:1"}),
    "variable": (("echo hi",), {"OXYGENT_SERVER_URL": "{}"}),
    "profile": (("echo hi", "--profile", "p"), {}),
    "default profile": (("echo hi",), {}),
}


@pytest.mark.parametrize(("words", "environment"), SERVERS.values(), ids=SERVERS)
def test_the_server_of_a_command(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    environment: dict[str, str],
) -> None:
    """The server is that of the argument, else that of the variable, else that of a profile."""
    if not environment:
        (tmp_path / "oxygent.toml").write_text(f'default = "p"\n[profiles.p]\nserver_url = "{server.url}"\n')
        monkeypatch.setenv("OXYGENT_PROFILES", str(tmp_path / "oxygent.toml"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(server.url))
    host = server.url.removeprefix("http://")
    ran = command("ask", *(each.format(server.url, host=host) for each in words), "-q")
    assert ran == Ran(0, "hi\n", "")


CALLEES: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    # the command line, the called agent
    "of the profile": (("ask", "echo hi"), "trip_planner"),
    "of a detached run": (("start", "echo hi"), "trip_planner"),
    "of the option": (("ask", "echo hi", "--callee", "hotel_agent"), "hotel_agent"),
}


@pytest.mark.parametrize(("words", "callee"), CALLEES.values(), ids=CALLEES)
def test_the_callee_of_a_command(
    server: Server, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], callee: str
) -> None:
    """The called agent is that of the option, else that of the profile or its variable."""
    monkeypatch.setenv("OXYGENT_SERVER_URL", server.url)
    monkeypatch.setenv("OXYGENT_CALLEE", "trip_planner")
    assert command(*words).code == 0
    assert server.toy.runs[-1].callee == callee


def test_a_query_on_stdin(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The query `-` is the text of stdin."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("echo two\nlines\n"))
    assert command("ask", server.url, "-", "-q").out == "two\nlines\n"


def not_text() -> str:
    """Read bytes that are no UTF-8."""
    return b"\xff".decode()


@pytest.mark.parametrize("read", [lambda: " \n", not_text], ids=["empty", "binary"])
def test_stdin_without_a_text(read: Callable[[], str]) -> None:
    """A stdin without text is an error."""
    with pytest.raises(errors.ConfigurationError, match="stdin"):
        read_query("-", read)


def test_confirm(server: Server) -> None:
    """With --confirm the server's record decides: an agent that raised is a failure."""
    assert command("ask", server.url, "echo hi", "--confirm", "-q").out == "hi\n"


class TerminalOutput(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def test_ask_with_stderr_alone_on_a_terminal(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The live view goes to the terminal, and the answer to the pipe."""
    monkeypatch.setenv("TERM", "xterm")
    out, err = io.StringIO(), TerminalOutput()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["ask", server.url, "echo hello"])
    assert code == 0
    assert out.getvalue() == "hello\n"
    assert "▌" in err.getvalue()


def test_ask_for_json(server: Server) -> None:
    """With --json each line is a JSON object, the last the response, and nothing is lost."""
    ran = command("ask", server.url, "sayings", "--json")
    *events, last = (json.loads(each, parse_constant=pytest.fail) for each in ran.out.splitlines())
    assert ran.out.isascii()
    assert [each["content"] for each in events[1:5]] == ["\x1b[2Jcleared", "[bold]x", "\ud800 \u202e", "NaN"]
    assert events[0]["id"] != events[1]["id"]
    assert last["kind"] == "response"
    assert last["state"] == "COMPLETED"
    assert last["output"] == ODD_SAYINGS.output
    assert last["remote_trace_id"] == server.toy.runs[-1].trace_id


def test_ask_shows_no_control_characters(server: Server) -> None:
    """For any message of the remote, the output has only printable characters and line ends."""
    ran = command("ask", server.url, "sayings")
    assert ran.code == 0
    assert all(each.isprintable() for each in (ran.out + ran.err).split("\n"))
    for shown in (r"\x1b[2Jcleared", "[bold]x", r"\ud800 \u202e", "NaN"):
        assert shown in ran.err
    assert ran.out == "\\x1b]0;title\\x07 done \\u202e\n"


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["lines", "json"])
def test_ask_with_large_numbers(server: Server, options: tuple[str, ...]) -> None:
    """Numbers that no float can hold are shown, and the answer after them."""
    ran = command("ask", server.url, "large", *options)
    assert ran.code == 0
    assert str(BIG) in ran.out + ran.err
    assert "the answer is 42" in ran.out


OPTIONS: Final[list[tuple[list[str], Callable[[Any], Any], Any]]] = [
    (["--callee", "read_reviews"], lambda run: run.callee, "read_reviews"),
    (
        ["--header", "X-One: 1", "-H", "X-Two:two: 2"],
        lambda run: (run.headers["x-one"], run.headers["x-two"]),
        ("1", "two: 2"),
    ),
    (["--independent"], lambda run: "call_stack" in run.payload, False),
    (["--share"], lambda run: "call_stack" in run.payload, True),
    (["--timeout", "20"], lambda run: run.state, "finished"),
]


@pytest.mark.parametrize(("options", "seen", "expected"), OPTIONS, ids=[" ".join(row[0]) for row in OPTIONS])
def test_options(server: Server, options: list[str], seen: Callable[[Any], Any], expected: Any) -> None:
    """Each option is sent to the server."""
    assert command("ask", server.url, "echo hi", *options).code == 0
    assert seen(server.toy.runs[-1]) == expected


def test_credentials_from_elsewhere(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials are read from environment variables, a file and a profile."""
    monkeypatch.setenv("A_KEY", "one")
    monkeypatch.setenv("A_TOKEN", "two")
    monkeypatch.setenv("OXYGENT_PROFILES", str(tmp_path / "oxygent.toml"))
    (tmp_path / "oxygent.toml").write_text('[profiles.p]\nheaders = {x-profile = "three"}\n', encoding="utf-8")
    (tmp_path / "oxygent.toml").chmod(0o600)
    (tmp_path / "headers").write_text("X-File: four\n\nX-More: five: 5\n", encoding="utf-8")
    options = ["--header-env", "X-KEY=A_KEY", "--token-env", "A_TOKEN", "--profile", "p", "-H", f"@{tmp_path}/headers"]
    ran = command("ask", server.url, "echo hi", "-q", *options)
    assert ran.code == 0
    assert ran.err == ""
    sent = server.toy.runs[-1].headers
    names = ("x-key", "authorization", "x-profile", "x-file", "x-more")
    assert [sent[name] for name in names] == ["one", "Bearer two", "three", "four", "five: 5"]


def test_a_file_of_headers_that_is_not_text(server: Server, tmp_path: Path) -> None:
    """The error names the file of headers and shows nothing of its content."""
    (tmp_path / "headers").write_bytes(b"canary: \xff")
    ran = command("ask", server.url, "hi", "-H", f"@{tmp_path}/headers")
    assert ran.code == 2
    assert "UTF-8" in ran.err
    assert "canary" not in ran.err


@pytest.mark.parametrize("content", ["precious", '{"cassette": 1}\n'], ids=["another file", "a cassette"])
def test_record_to_a_file_that_exists(server: Server, tmp_path: Path, content: str) -> None:
    """A file that exists is refused before the run; with --force it is replaced."""
    path = tmp_path / "notes.txt"
    path.write_text(content, encoding="utf-8")
    runs = len(server.toy.runs)
    ran = command("record", server.url, "echo hi", str(path))
    assert ran.code == 2
    assert "--force" in ran.err
    assert len(server.toy.runs) == runs
    assert path.read_text(encoding="utf-8") == content
    assert command("record", server.url, "echo hi", str(path), "--force").code == 0
    assert command("replay", str(path)).code == 0


def test_tree(server: Server) -> None:
    """The organization is drawn as a tree, or printed as JSON."""
    ran, as_data = command("tree", server.url), command("tree", server.url, "--json", "--timeout", "20")
    lines = ran.out.splitlines()
    assert ran.code == 0
    assert as_data.code == 0
    assert len(lines) == 10
    assert lines[0] == "trip_planner  agent"
    assert lines[7] == "│       └── read_reviews  tool"
    assert json.loads(as_data.out)["children"][0]["name"] == "flight_agent"


WRONG: Final = [
    # the command line ({} is the server), the exit code, a word of the line
    ("ask {}/moved hi", 4, "redirect"),
    ("ask {}/login hi", 4, "--token-env VARIABLE"),
    ("ask {}/never hi", 4, "permission"),
    ("ask {}/nowhere hi", 4, "root URL, without /sse/chat"),
    ("ask {}/broken hi", 4, "server's log"),
    ("ask {}/envelope hi", 4, "server's log"),
    ("ask {}/page hi", 6, "root of an OxyGent server"),
    ("ask {}/cut hi", 6, "may have run"),
    ("ask {} cut", 6, "may have run"),
    ("ask {} silent", 7, "without an answer"),
    ("ask {} fail", 7, "the agent gave up"),
    ("ask {} hang --timeout 0.2", 5, "--timeout"),
    ("ask {} hi --callee nobody", 2, "oxygent-client tree URL"),
    ("ask {} hi --header broken", 2, "'Name: value'"),
    ("ask {} hi --header :broken", 2, "'Name: value'"),
    ("ask {} hi --header @/nowhere/at/all", 2, "/nowhere/at/all"),
    ("ask {} hi --header-env X-KEY", 2, "NAME=VARIABLE"),
    ("ask {} hi --header-env =VARIABLE", 2, "NAME=VARIABLE"),
    ("ask {} hi --header-env X-KEY=NOT_SET_AT_ALL", 2, "NOT_SET_AT_ALL"),
    ("ask {} hi --token-env NOT_SET_AT_ALL", 2, "NOT_SET_AT_ALL"),
    ("ask {} hi --profile nowhere", 2, "nowhere"),
    ("record {} hi /", 2, "not a regular file"),
    ("record {} hi /nowhere/at/all", 2, "/nowhere/at/all"),
    ("ask ftp://host hi", 2, "oxygent-client ask --help"),
    ("ask http://127.0.0.1:1 hi", 3, "server is running"),
    ("tree http://127.0.0.1:1", 3, "server is running"),
    ("tree {}/nowhere", 4, "root URL"),
    ("record http://127.0.0.1:1 hi /dev/null/x", 2, "cannot be written: Not a directory"),
    ("record {} hi", 2, "oxygent-client record --help"),
    ("replay /dev/null/x", 2, "cannot be read: Not a directory"),
    ("replay /dev/null", 2, "not a cassette"),
    ("replay /dev/null --pace -1", 2, "--help"),
    ("ask {}", 2, "oxygent-client ask --help"),
    ("ask", 2, "oxygent-client ask --help"),
    ("ask hi", 2, "OXYGENT_SERVER_URL"),
    ("tree", 2, "OXYGENT_SERVER_URL"),
    ("ask {} hello there", 2, "quotes"),
    ("ask {} hi --timeout soon", 2, "oxygent-client ask --help"),
    ("ask {} hi --no-such-option", 2, "oxygent-client ask --help"),
    ("no-such-command", 2, "oxygent-client --help"),
    ("demo --dialect 2", 2, "--help"),
]


@pytest.mark.parametrize(("argv", "code", "says"), WRONG, ids=[row[0] for row in WRONG])
def test_error_messages(server: Server, argv: str, code: int, says: str) -> None:
    """An error is one line with advice, and an exit code, without a traceback."""
    ran = command(*argv.format(server.url).split())
    error = ran.err.splitlines()[-1]
    assert ran.code == code, ran.err
    assert error.startswith("oxygent-client: ")
    assert says in error
    assert error.isprintable()
    assert "Traceback" not in ran.err


ENDS: Final[list[tuple[str, dict[str, Any]]]] = [
    # the command line ({} is the server), facts of the last object
    ("ask {} cut", {"error": "IncompleteStreamError", "exit_code": 6, "outcome": "STARTED"}),
    ("ask {} fail", {"error": "RemoteAgentError", "exit_code": 7, "outcome": "COMPLETED"}),
    ("ask {}/login hi", {"error": "AuthenticationError", "exit_code": 4, "outcome": "REJECTED"}),
    ("ask http://127.0.0.1:1 hi", {"error": "ConnectError", "exit_code": 3, "outcome": "NOT_SENT"}),
    ("ask {} hi --header broken", {"error": "ConfigurationError", "exit_code": 2}),
    ("tree {}/nowhere", {"error": "NotFoundError", "exit_code": 4}),
]


@pytest.mark.parametrize(("argv", "facts"), ENDS, ids=[row[0] for row in ENDS])
def test_the_last_object_of_a_failure(server: Server, argv: str, facts: dict[str, Any]) -> None:
    """With --json the last object has the error and the exit code."""
    ran = command(*argv.format(server.url).split(), "--json")
    last = json.loads(ran.out.splitlines()[-1])
    assert ran.code == facts["exit_code"]
    assert last["kind"] == "error"
    assert last["message"] in ran.err
    assert {name: last[name] for name in facts} == facts


def test_a_pipe_that_breaks_at_the_last_object() -> None:
    """A reader that has left before the last object is a broken pipe, without a traceback."""

    class Closed(io.StringIO):
        def write(self, text: str, /) -> int:
            raise BrokenPipeError

    def work() -> int:
        raise errors.ConnectError("no")

    err = io.StringIO()
    with redirect_stdout(Closed()), redirect_stderr(err):
        code = attempt(work, debug=False, as_json=True, silence=lambda _: None)
    assert code == 141
    assert err.getvalue() == ""


def test_record_and_replay(server: Server, tmp_path: Path) -> None:
    """`replay` shows a recorded conversation unchanged, at any pace, and sends nothing."""
    path = tmp_path / "talk.cassette"
    asked = ("tools", str(path), "--header", "Authorization: Bearer canary", "--timeout", "30", "--json")
    recorded = command("record", server.url, *asked)
    assert recorded.code == 0
    assert recorded.err == ""
    runs = len(server.toy.runs)
    assert "canary" not in path.read_text()
    for pace in ("0", "1"):
        replayed = command("replay", str(path), "--pace", pace, "--json")
        *events, last = map(json.loads, replayed.out.splitlines())
        *were, was = map(json.loads, recorded.out.splitlines())
        assert replayed.code == 0
        assert replayed.err == ""
        assert [[each[key] for key in ("kind", "id", "content")] for each in events] == [
            [each[key] for key in ("kind", "id", "content")] for each in were
        ]
        assert last["state"] == was["state"]
        assert last["output"] == was["output"]
    assert len(server.toy.runs) == runs
    shown = command("replay", str(path))
    assert shown.err.splitlines()[0] == "question  tools"
    assert shown.out == "5 20 HELLO\n"


def test_a_cassette_without_a_run(tmp_path: Path) -> None:
    """A cassette without a run is refused."""
    path = tmp_path / "talk.cassette"
    Cassette().save(path)
    ran = command("replay", str(path))
    assert ran.code == 2
    assert "holds no run" in ran.err


def test_record_a_callee(server: Server, tmp_path: Path) -> None:
    """With a callee, discovery is recorded too, and a replay needs none."""
    path = tmp_path / "talk.cassette"
    assert command("record", server.url, "hi", str(path), "--callee", "read_reviews").code == 0
    assert "/get_agents" in path.read_text()
    assert command("replay", str(path)).code == 0


@pytest.mark.parametrize(("query", "says"), [("cut", "may have run"), ("silent", "without an answer")])
def test_recording_a_failure(server: Server, tmp_path: Path, query: str, says: str) -> None:
    """A failed conversation is recorded, and its replay fails in the same way."""
    path = tmp_path / "talk.cassette"
    recorded = command("record", server.url, query, str(path))
    replayed = command("replay", str(path))
    assert recorded.code == replayed.code != 0
    assert says in recorded.err
    assert recorded.err.splitlines()[-1] == replayed.err.splitlines()[-1]


@pytest.mark.seconds
def test_ctrl_c_while_recording(server: Server, tmp_path: Path) -> None:
    """Ctrl-C keeps the recording so far."""
    path = tmp_path / "talk.cassette"
    before = len(server.toy.runs)
    with subprocess.Popen([*PROGRAM, "record", server.url, "hang", str(path)], stdout=subprocess.DEVNULL) as process:
        assert wait_until(lambda: len(server.toy.runs) > before and bool(server.toy.runs[-1].messages))
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert '"end": "left"' in path.read_text()
    replayed = command("replay", str(path), "--pace", "0")
    assert replayed.code == 2
    assert "its reader left" in replayed.err


def test_debug(server: Server) -> None:
    """With --debug the traceback is printed before the line."""
    ran = command("ask", server.url, "cut", "--debug")
    assert ran.code == 6
    assert "Traceback (most recent call last):" in ran.err.splitlines()
    assert ran.err.splitlines()[-1].startswith("oxygent-client: ")


ATTEMPTS: Final[list[tuple[BaseException, int, str]]] = [
    (KeyboardInterrupt(), 130, "oxygent-client: stopped.\n"),
    (BrokenPipeError(), 141, ""),
    (
        ZeroDivisionError("by zero\x1b"),
        1,
        "oxygent-client: ZeroDivisionError: by zero\\x1b. Use --debug to see the traceback.\n",
    ),
    (errors.ConnectError("no"), 3, "oxygent-client: no. Check that the server is running, and check host and port.\n"),
    (errors.ClosedError(), 1, "oxygent-client: no reason given. Use --debug to see the traceback.\n"),
]


@pytest.mark.parametrize(("error", "code", "text"), ATTEMPTS, ids=[repr(row[0]) for row in ATTEMPTS])
def test_exit_codes(error: BaseException, code: int, text: str) -> None:
    """Each exception becomes an exit code and a line; a broken pipe has none."""

    def work() -> int:
        raise error

    silenced: list[object] = []
    err = io.StringIO()
    with redirect_stderr(err):
        assert attempt(work, debug=False, silence=silenced.append) == code
    assert err.getvalue() == text
    assert len(silenced) == (code == 141)
    if text:
        with redirect_stderr(err):
            attempt(work, debug=True)
        assert "Traceback (most recent call last)" in err.getvalue()


def test_silenced_streams(tmp_path: Path) -> None:
    """The buffer of a silenced stream is discarded."""
    path = tmp_path / "out"
    with path.open("w") as stream:
        stream.write("still in the buffer")
        silence(stream)
    assert path.read_text() == ""


def test_every_error_has_advice() -> None:
    """Each class of error has advice and a documented exit code, and each advice can be reached."""
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.OxyError)]
    found = {advice_for(each.__new__(each)).error for each in classes}
    assert {remedy.error for remedy in ADVICE} == found
    assert {remedy.code for remedy in ADVICE} <= dict(EXIT_CODES).keys()
    assert error_line("what\nhappened?", "Do this.") == "oxygent-client: what happened? Do this.\n"


class FailedAgent:
    """An agent whose response has the state FAILED."""

    sent = Context().sent
    remote_trace_id = trace_id = "trace"
    text = ""
    response = OxyResponse(state=OxyState.FAILED, output="")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *args: object) -> None:
        pass

    def stream(self, _: str) -> Self:
        """Return the run itself."""
        return self

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[Event]:
        raise StopAsyncIteration


def test_a_failed_state() -> None:
    """A response with the state FAILED has an exit code."""
    agent: Any = FailedAgent()
    assert ask_with(agent, "", JSONDisplay(len)) == 7


def test_an_output_that_cannot_encode() -> None:
    """A stream that cannot encode a character gets its escape."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with redirect_stdout(out):
        main(["--version"])
        out.write("é")
        out.flush()
    assert out.buffer.getvalue().endswith(b"\\xe9")


@pytest.mark.parametrize("name", ["demo", "ask", "record", "replay", "tree", "toy", "serve"])
def test_the_help_of_a_command(name: str) -> None:
    """The help lists each command, and each command has a help."""
    assert name in command("--help").out
    assert command(name, "--help").code == 0


def test_version_and_help() -> None:
    """--version prints the package's version; --help lists each exit code; without arguments the help is shown."""
    assert command("--version").out == f"oxygent-client {oxygent_client.__version__}\n"
    ran = command("--help")
    assert ran.code == 0
    for code, _ in EXIT_CODES:
        assert f" {code} " in ran.out


@pytest.mark.parametrize("dialect", ["1.1.3", "1.0.8"])
def test_demo(tmp_path: Path, dialect: str) -> None:
    """The demonstration runs to its end in each dialect, and can be saved as a picture."""
    ran = command("demo", "--fast", "--dialect", dialect, "tools 1")
    assert ran.code == 0
    assert ran.out == "5 20 HELLO\n"
    path = tmp_path / "demo.svg"
    assert command("demo", "nested 1", "--fast", "--save-svg", str(path)).code == 0
    drawing = path.read_text(encoding="utf-8")
    assert "review_agent" in drawing
    assert "https://cdn" not in drawing


ENVIRONMENTS: Final = [
    ("http_proxy", "http://127.0.0.1:9"),
    ("ALL_PROXY", "socks://127.0.0.1:9"),
    ("NO_PROXY", "localhost,::1/128"),
    ("SSL_CERT_FILE", "/nonexistent"),
    ("SSLKEYLOGFILE", "/nonexistent/keys"),
]


@pytest.mark.seconds
@pytest.mark.parametrize(("name", "value"), ENVIRONMENTS)
def test_demo_and_the_environment(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The demonstration ignores the environment."""
    monkeypatch.setenv(name, value)
    assert command("demo", "--fast", "tools 1").code == 0


def test_toy(server: Server) -> None:
    """The toy remote is served for a while; a port in use is an error."""
    ran = command("toy", "--port", "0", "--seconds", "0")
    assert ran.code == 0
    assert ran.err == ""
    assert re.search(r" http://127\.0\.0\.1:\d+ ", ran.out)
    port = server.url.rpartition(":")[2]
    ran = command("toy", "--port", port)
    assert ran.code == 2
    assert ran.out == ""
    assert f"port {port} is not available: Address already in use" in ran.err


def test_without_the_extra() -> None:
    """Without typer one line has the install command; another missing module is raised."""

    def lacking(name: str) -> Callable[[], Any]:
        def load() -> Any:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        return load

    err = io.StringIO()
    with redirect_stderr(err):
        assert main([], load=lacking("typer")) == 2
    assert err.getvalue() == "oxygent-client: needs typer: pip install 'oxygent-client[cli]'\n"
    with pytest.raises(ModuleNotFoundError, match="other"):
        main([], load=lacking("other"))


# ------------------------------------------------------------------------------------------------ In a separate process

PROGRAM: Final = [sys.executable, "-m", "oxygent_client"]


def test_python_m() -> None:
    """`python -m oxygent_client` is the command; here it gets the arguments of pytest, and refuses them."""
    err = io.StringIO()
    with redirect_stderr(err), redirect_stdout(err), pytest.raises(SystemExit):
        # By its path: where the pytest plugin is installed, pytest's own importer has the package, not runpy's.
        path = Path(oxygent_client.__file__).with_name("__main__.py")
        runpy.run_path(str(path), run_name="oxygent_client.__main__")  # coverage finds modules by their name
    assert "oxygent-client" in err.getvalue()


def test_the_help_loads_no_agent() -> None:
    """`--help` shows at once: agents, servers, event loops and views are loaded by the commands that need them."""
    program = (
        "import sys; from oxygent_client.cli import main; main(['--help']);"
        " print('loaded:', *set(sys.argv[1:]) & set(sys.modules))"
    )
    heavy = ["anyio", "asyncio", "attr", "httpx", "ssl", "rich", "oxygent_client._core", "oxygent_client.errors"]
    done = subprocess.run([sys.executable, "-c", program, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_the_number_of_runs_of_a_served_agent() -> None:
    """The option's default is that of the limits, which are not loaded for the help."""
    assert ServeLimits().runs == MAX_RUNS


def test_imports() -> None:
    """Importing the package, or the command's module, imports neither typer nor rich."""
    program = "import sys, oxygent_client.cli; print({'typer', 'rich', 'uvicorn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "set()"


@pytest.mark.seconds
def test_ctrl_c(server: Server) -> None:
    """Ctrl-C stops the remote run and exits with 130, without a traceback."""
    before = len(server.toy.runs)
    with subprocess.Popen(
        [*PROGRAM, "ask", server.url, "hang"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert wait_until(lambda: len(server.toy.runs) > before)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == b"oxygent-client: stopped."
    assert b"Traceback" not in err
    assert wait_until(lambda: server.toy.runs[-1].state == "cancelled")


@pytest.mark.seconds
def test_toy_until_ctrl_c() -> None:
    """`toy` serves a remote at the printed URL until Ctrl-C, and logs its runs."""
    with subprocess.Popen([*PROGRAM, "toy", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        url = next(word for word in process.stdout.readline().decode().split() if word.startswith("http"))
        assert command("ask", url, "echo hi\x1b").out == "hi\\x1b\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    asked, finished, stopped = err.decode().splitlines()
    assert asked.endswith(r": asked echo hi\x1b")
    assert finished.endswith(": finished")
    assert stopped == "oxygent-client: stopped."


@pytest.mark.seconds
def test_broken_pipe(server: Server) -> None:
    """A broken pipe ends the command and the remote run, without a traceback."""
    before = len(server.toy.runs)
    command_line = [*PROGRAM, "ask", server.url, "slow", "--json"]
    with subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"{")
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(30) == 141
        assert err == b""
    assert len(server.toy.runs) == before + 1


def test_a_terminal_without_unicode(server: Server) -> None:
    """An output that cannot encode a character gets its escape, and nothing fails."""
    done = subprocess.run(
        [*PROGRAM, "ask", server.url, "echo é🚀"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert done.stdout == b"\\xe9\\U0001f680\n"


def wait_until(fact: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Wait for a condition in another process, and return whether it became true."""
    until = time.monotonic() + seconds
    while not fact() and time.monotonic() < until:
        time.sleep(0.01)
    return fact()


NAMES: Final = [each.name or each.callback.__name__ for each in app.registered_commands if each.callback is not None]


@pytest.mark.parametrize("words", [(), *([name] for name in NAMES)], ids=["program", *NAMES])
def test_flags_show_no_type(words: list[str]) -> None:
    """The help of a flag has its description, without the type bool; `-h` shows it, too."""
    shown = command(*words, "-h").out
    assert "--help" in shown
    assert "bool" not in shown.lower()


def test_shell_completion() -> None:
    """The shell completes the names of commands."""
    asked = {"_OXYGENT_CLIENT_COMPLETE": "complete_bash", "COMP_WORDS": "oxygent-client loo", "COMP_CWORD": "1"}
    done = subprocess.run(PROGRAM, env={**os.environ, **asked}, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == ["lookup"]


def test_every_event_class_has_its_row_in_the_view() -> None:
    """Each event class has a row in `HANDLERS` of `cli/_view`."""
    assert set(HANDLERS) == set(get_args(AnyEvent))
