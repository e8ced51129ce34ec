"""`Trace` as a value: the tree, JSON round trips, and drawings that are safe with hostile text."""

from __future__ import annotations

import json
import math
import pickle
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import Trace, TraceCall, errors

ROOT: Final = TraceCall(
    index=0, node_id="r", name="master", category="agent", status="completed", started=0.0, ended=2.5, output="done"
)
TOOL: Final = TraceCall(
    index=1,
    parent=0,
    depth=1,
    name="add",
    category="tool",
    status="completed",
    started=0.5,
    ended=1.0,
    arguments={"a": 40, "b": "two"},
    output=42,
)
BROKEN: Final = TraceCall(
    index=2, parent=0, depth=1, name="search", status="failed", started=1.0, ended=1.5, output="no", error="no"
)
INNER: Final = TraceCall(index=3, parent=1, depth=2, name="carry", status="lost", started=0.6)
TRACE: Final = Trace(
    trace_id="t",
    remote_trace_id="t-1",
    server_url="http://127.0.0.1:1",
    began=datetime(2026, 1, 1, tzinfo=UTC),
    seconds=2.5,
    status="completed",
    output="done",
    calls=(ROOT, TOOL, BROKEN, INNER),
)


def test_the_tree() -> None:
    """The trace has roots, children, and a walk from the top."""
    assert TRACE.roots == (ROOT,)
    assert TRACE.children(ROOT) == (TOOL, BROKEN)
    assert TRACE.children(BROKEN) == ()
    assert [call.name for call in TRACE.walk()] == ["master", "add", "carry", "search"]


@pytest.mark.parametrize(("call", "seconds"), [(TOOL, 0.5), (INNER, None), (attrs.evolve(TOOL, started=None), None)])
def test_the_length_of_a_call(call: TraceCall, seconds: float | None) -> None:
    """The duration of a call is known if its start and end are."""
    assert call.seconds == seconds


@pytest.mark.parametrize("indent", [None, 2])
def test_json_and_back(indent: int | None) -> None:
    """The JSON has all of the trace and is ASCII; a pickle is equal too."""
    text = TRACE.to_json(indent=indent)
    assert text.isascii()
    assert Trace.from_json(text) == TRACE
    assert pickle.loads(pickle.dumps(TRACE)) == TRACE
    assert hash(Trace.from_json(text)) == hash(TRACE)


@pytest.mark.parametrize("began", [None, datetime(2026, 1, 1)], ids=["none", "of a record"])  # noqa: DTZ001  (a record has none)
def test_other_times(began: datetime | None) -> None:
    """The start time of a record has no time zone, and that of an unopened run is None."""
    trace = attrs.evolve(TRACE, began=began, seconds=None, source="record")
    assert Trace.from_json(trace.to_json()) == trace


def test_numbers_that_json_does_not_have() -> None:
    """Numbers that JSON lacks become texts."""
    trace = attrs.evolve(TRACE, output={"a": [math.nan, -math.inf, 1.5, "x"]})
    assert Trace.from_json(trace.to_json()).output == {"a": ["nan", "-inf", 1.5, "x"]}


DOCUMENT: Final[dict[str, Any]] = json.loads(TRACE.to_json())
CALL: Final[dict[str, Any]] = DOCUMENT["calls"][0]
MEMBERS: Final[dict[str, dict[str, Any]]] = {
    "version": {"version": 2},
    "trace_id": {"trace_id": 7},
    "status": {"status": "good"},
    "source": {"source": "rumour"},
    "began": {"began": "yesterday"},
    "seconds": {"seconds": "2"},
    "dropped": {"dropped": -1},
    "calls": {"calls": {}},
    "a call": {"calls": [7]},
    "a parent after it": {"calls": [{**CALL, "parent": 1}, CALL]},
    "itself as parent": {"calls": [{**CALL, "parent": 0}]},
    "arguments": {"calls": [{**CALL, "arguments": []}]},
    "flag": {"calls": [{**CALL, "is_cut": 1}]},
    "not a number": {"calls": [{**CALL, "started": math.nan}]},
}
BAD: Final[dict[str, str]] = {
    "not JSON": "nonsense",
    "too deep": "[" * 2000,
    "a list": "[]",
    "empty": "{}",
    **{name: json.dumps({**DOCUMENT, **fields}) for name, fields in MEMBERS.items()},
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_is_no_trace(text: str) -> None:
    """An invalid text raises a typed error."""
    with pytest.raises(errors.ConfigurationError, match="trace"):
        Trace.from_json(text)


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*DOCUMENT, *CALL]), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([*DOCUMENT]), JSON)
def test_any_member(name: str, value: Any) -> None:
    """With any value as a member, the text is read or raises a typed error."""
    with suppress(errors.ConfigurationError):
        assert isinstance(Trace.from_json(json.dumps({**DOCUMENT, name: value})), Trace)


# ---------------------------------------------------------------------------------------------------------- Drawings

TREE: Final = """\
✓ master() 2.50 s
├─ ✓ add(a=40, b="two") 0.50 s → 42
│  └─ ? carry()
└─ ✗ search() 0.50 s ! no"""
MERMAID: Final = """\
flowchart TD
    c0["master<br/>2.50 s"]:::completed
    c1["add<br/>0.50 s"]:::completed
    c0 --> c1
    c2["search<br/>0.50 s"]:::failed
    c0 --> c2
    c3["carry"]:::lost
    c1 --> c3
    classDef failed,canceled stroke:#c00,stroke-width:2px
    classDef lost,running stroke-dasharray:4
"""


def test_a_tree_for_a_terminal() -> None:
    """The tree has a line for each call."""
    assert TRACE.to_tree() == TREE


def test_an_outline_with_notes() -> None:
    """Notes stand between the calls, with branches of their own; nothing is below a note, or beyond the last level."""
    below: dict[int | None, list[TraceCall | str]] = {None: [ROOT, "top"], 0: ["note", TOOL], 1: [INNER, "last"]}
    assert [f"{branches}{part if isinstance(part, str) else part.name}" for branches, part in TRACE.outline(below)] == [
        "master",
        "├─ note",
        "└─ add",
        "   ├─ carry",
        "   └─ last",
        "top",
    ]
    assert [part for _, part in TRACE.outline(below, levels=1)] == [ROOT, "top"]


def test_a_flow_chart() -> None:
    """The flow chart has a node for each call, and an edge to it."""
    assert TRACE.to_mermaid() == MERMAID


HOSTILE: Final = '\x1b[2J"]; click c0 "javascript:alert(1)" <script>\n\u202e`{}|#'


def test_hostile_text() -> None:
    """No text of the remote controls the terminal or ends a label."""
    call = attrs.evolve(TOOL, index=0, parent=None, name=HOSTILE, arguments={HOSTILE: HOSTILE}, error=HOSTILE)
    trace = attrs.evolve(TRACE, calls=(call,))
    tree, chart = trace.to_tree(), trace.to_mermaid()
    assert len(tree.splitlines()) == 1
    assert tree.isprintable()
    label = chart.splitlines()[1].removeprefix('    c0["').removesuffix('"]:::completed').removesuffix("<br/>0.50 s")
    assert not {*label} & {*'"<>[](){}|`\n\x1b'}


def chain(length: int) -> Trace:
    """Return calls, each below the one before."""
    calls = (TraceCall(index=n, parent=n - 1 if n else None, depth=n, name=f"a{n}") for n in range(length))
    return Trace(calls=tuple(calls), dropped=5)


def test_a_deep_trace() -> None:
    """Drawings are bounded and not recursive."""
    trace = chain(5000)
    tree = trace.to_tree().splitlines()
    assert len(tree) == 42
    assert tree[-2:] == ["(4960 deeper calls)", "(5 more calls)"]
    assert '    more["4705 more calls"]' in trace.to_mermaid().splitlines()
    assert Trace.from_json(trace.to_json()) == trace


def test_long_text() -> None:
    """A long line is cut."""
    call = attrs.evolve(TOOL, index=0, parent=None, arguments={"query": "x" * 10_000})
    assert "…)" in attrs.evolve(TRACE, calls=(call,)).to_tree()
    assert len(attrs.evolve(TRACE, calls=(call,)).to_tree()) < 200


def test_an_empty_trace() -> None:
    """The tree of a run without calls is empty."""
    assert Trace().to_tree() == ""
    assert Trace().roots == ()
