"""The answer's text while it is written: the agent's own text, its steps, and the final output.

Rule 1: a row is a list of events and the updates that follow; a rule of the module is a test of its own.
Rule 2: the rules hold for any order of the deltas of several agents.
"""

from __future__ import annotations

import pickle
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import TextDelta, TextUpdate, ToolCall
from oxygent_client._run.answer_text import TextCursor
from oxygent_client._run.texts import AgentText, Texts
from tests.core.test_linear import MOST, times_as_long

if TYPE_CHECKING:
    from collections.abc import Sequence

CHOICE: Final = '{"tool_name": "add_tool", "arguments": {"a": 40, "b": 2}}'


def call(node: Any, *stack: str, category: str = "agent", of: str | None = None, **changes: Any) -> ToolCall:
    """Return a call, with the names from the user down to the callee."""
    content: dict[str, Any] = {
        "node_id": node,
        "caller": stack[-2],
        "callee": stack[-1],
        "caller_category": of if of is not None else "user" if stack[-2] == "user" else "agent",
        "callee_category": category,
        "call_stack": [*stack],
        **changes,
    }
    return ToolCall("tool_call", {name: value for name, value in content.items() if value is not None}, None)


def llm(node: str, *stack: str) -> ToolCall:
    """Return a call of a model by the last agent of the stack."""
    return call(node, *stack, "model", category="llm")


def text(node: Any, agent: Any, *pieces: Any) -> list[TextDelta]:
    """Return text deltas, and the end of the text."""
    names = {name: value for name, value in (("node_id", node), ("agent", agent)) if value is not None}
    deltas = [TextDelta("stream", {"delta": piece, **names}, None) for piece in pieces]
    return [*deltas, TextDelta("stream_end", {"delta": "", **names}, None)]


ROOT: Final = call("r", "user", "master")
STEP: Final = llm("s1", "user", "master")
NEXT: Final = llm("s2", "user", "master")
TOOL: Final = call("t", "user", "master", "add_tool", category="tool")
POET: Final = call("p", "user", "master", "poet")
VERSE: Final = llm("v", "user", "master", "poet")

Events = list[ToolCall | TextDelta]


def follow(events: Sequence[ToolCall | TextDelta], output: str | None = None) -> list[TextUpdate]:
    """Return the updates after each event, and at the end."""
    texts, cursor = Texts(), TextCursor()
    updates: list[TextUpdate | None] = []
    for event in events:
        texts.add([event])
        updates.append(cursor.take(texts.answer))
    if output is not None:
        texts.answer.finish(output)
        updates.append(cursor.take(texts.answer))
    assert cursor.take(texts.answer) is None
    return [update for update in updates if update is not None]


def replay(updates: Sequence[TextUpdate]) -> str:
    """Return the text after these updates."""
    whole = ""
    for update in updates:
        whole = update.delta if update.is_reset else whole + update.delta
        assert update.text == whole
    return whole


# ------------------------------------------------------------------------------------------------------- Text of agents

LIVE: Final[dict[str, tuple[Events, list[str]]]] = {
    # the events, and the deltas that are shown while they are received
    "a model of the agent": ([ROOT, STEP, *text("s1", "master", "Forty", "-two.")], ["Forty", "-two."]),
    "the agent itself": ([ROOT, *text("r", "master", "Forty", "-two.")], ["Forty", "-two."]),
    "a model that was called directly": ([call("r", "user", "model"), *text("r", "user", "42")], ["42"]),
    "an agent that an agent calls": ([ROOT, POET, VERSE, *text("v", "poet", "Roses")], []),
    "such an agent itself": ([ROOT, POET, *text("p", "poet", "Roses")], []),
    "a tool": ([ROOT, TOOL, *text("t", "master", "log line")], []),
    "an agent of the same name": (
        [ROOT, llm("x", "user", "master", "far", "master"), *text("x", "master", "far away")],
        [],
    ),
    "the agent within itself": ([ROOT, llm("x", "user", "master", "master"), *text("x", "master", "inner")], []),
    "a call that was not seen": ([ROOT, *text("unseen", "master", "42")], ["42"]),
    "a call of another that was not seen": ([ROOT, *text("unseen", "poet", "Roses")], []),
    "no name of a call": ([ROOT, *text(None, "master", "42")], ["42"]),
    "no name of an agent": ([ROOT, *text("unseen", None, "?")], []),
    "no name at all": ([ROOT, *text(None, None, "42")], ["42"]),
    "names that are no texts": ([ROOT, *text(7, ["poet"], "42")], ["42"]),
    "no call at all": ([*text(None, None, "42")], ["42"]),
    "no call at all, with names": ([*text("s1", "master", "42")], []),
    "no call at all, two agents": (
        [*text(None, "a", "42"), *text(None, "b", "no"), *text(None, "a", "!")],
        ["42", "!"],
    ),
    "a text without a form": ([ROOT, TextDelta("stream", "42", None)], ["42"]),
    "a number": ([ROOT, TextDelta("stream", 42, None), *text("r", "master", 42, None)], []),
    "a root without a category": ([call("r", "user", "master", of=""), *text("r", "master", "42")], ["42"]),
    "a caller of another category": ([call("r", "me", "master", of="user"), *text("r", "master", "42")], ["42"]),
    "another call before the root": ([VERSE, ROOT, *text("v", "poet", "Roses")], []),
    "a model without a category": (
        [ROOT, call("s", "user", "master", "model", category=""), *text("s", "master", "42")],
        ["42"],
    ),
    "calls without stacks": (
        [
            call("r", "user", "master", call_stack=None),
            call("s", "master", "model", category="llm", call_stack=None),
            call("v", "poet", "model", category="llm", call_stack=None),
            *text("v", "poet", "Roses"),
            *text("s", "master", "42"),
        ],
        ["42"],
    ),
    "a call without an id": ([ROOT, call(None, "user", "master", "model"), *text(None, "master", "42")], ["42"]),
    "the agent run once more": ([ROOT, call("r2", "user", "master"), *text("r2", "master", "42")], ["42"]),
}


@pytest.mark.parametrize(("events", "deltas"), LIVE.values(), ids=LIVE)
def test_whose_text_is_shown(events: Events, deltas: list[str]) -> None:
    """The text of the called agent is shown at once, and no other text."""
    assert [update.delta for update in follow(events)] == deltas


# ---------------------------------------------------------------------------------------------------------------- Steps

U = TextUpdate
RUNS: Final[dict[str, tuple[Events, str, list[TextUpdate]]]] = {
    "a choice of a tool, and the answer": (
        [ROOT, STEP, *text("s1", "master", CHOICE[:9], CHOICE[9:]), TOOL, NEXT, *text("s2", "master", "42", "!")],
        "42!",
        [U("42", "42"), U("!", "42!")],
    ),
    "a preface, and the answer": (
        [ROOT, STEP, *text("s1", "master", "Let me ", "add. ", CHOICE), TOOL, NEXT, *text("s2", "master", "It ", "is")],
        "It is",
        [U("Let me", "Let me"), U(" add.", "Let me add."), U("It", "It", is_reset=True), U(" is", "It is")],
    ),
    "a preface that is the answer": (
        [ROOT, STEP, *text("s1", "master", "42"), TOOL],
        "42",
        [U("42", "42")],
    ),
    "an answer that is JSON": (
        [ROOT, STEP, *text("s1", "master", '{"sum":', " 42}")],
        '{"sum": 42}',
        [U('{"sum": 42}', '{"sum": 42}')],
    ),
    "an answer that ends with JSON": (
        [ROOT, STEP, *text("s1", "master", "So: ", '{"sum":', " 42}")],
        'So: {"sum": 42}',
        [U("So:", "So:"), U(' {"sum": 42}', 'So: {"sum": 42}')],
    ),
    "no text": ([ROOT, STEP], "42", [U("42", "42")]),
    "no output": ([ROOT, STEP], "", []),
    "no output after a text": (
        [ROOT, STEP, *text("s1", "master", "hm")],
        "",
        [U("hm", "hm"), U("", "", is_reset=True)],
    ),
    "another output": (
        [ROOT, STEP, *text("s1", "master", "hm")],
        "42",
        [U("hm", "hm"), U("42", "42", is_reset=True)],
    ),
    "an output that is stripped": ([ROOT, STEP, *text("s1", "master", "42", "\n")], "42", [U("42", "42")]),
    "a thought, and the answer": (
        [ROOT, STEP, *text("s1", "master", "<think>", "hm", "</think>", "\n42")],
        "42",
        [U("42", "42")],
    ),
    "two steps at once: the first is shown": (
        [ROOT, STEP, NEXT, *text("s1", "master", "one")[:1], *text("s2", "master", "two"), *text("s1", "master", " 1")],
        "one 1",
        [U("one", "one"), U(" 1", "one 1")],
    ),
    "two steps at once: the other is the answer": (
        [ROOT, STEP, NEXT, *text("s1", "master", "one")[:1], *text("s2", "master", "two"), *text("s1", "master", " 1")],
        "two",
        [U("one", "one"), U(" 1", "one 1"), U("two", "two", is_reset=True)],
    ),
    "a step without an end": (
        [ROOT, STEP, *text("s1", "master", "hm")[:1], TOOL, NEXT, *text("s2", "master", "42")],
        "42",
        [U("hm", "hm"), U("42", "42", is_reset=True)],
    ),
    "a step that goes on after the next": (
        [ROOT, STEP, *text("s1", "master", "a"), NEXT, *text("s2", "master", "b"), *text("s1", "master", "c")],
        "b",
        [U("a", "a"), U("b", "b", is_reset=True)],
    ),
    "the agent itself around a tool": (
        [ROOT, *text("r", "master", "part 1")[:1], TOOL, *text("r", "master", ", part 2")],
        "part 1, part 2",
        [U("part 1", "part 1"), U(", part 2", "part 1, part 2")],
    ),
    "the agent itself, then its model": (
        [ROOT, *text("r", "master", "Wait...")[:1], STEP, *text("s1", "master", "42")],
        "42",
        [U("Wait...", "Wait..."), U("42", "42", is_reset=True)],
    ),
    "two agents at once": (
        [
            ROOT,
            POET,
            VERSE,
            *text("v", "poet", "Roses ")[:1],
            *text("p", "critic", "bad "),
            *text("v", "poet", "are red"),
            STEP,
            *text("s1", "master", "final"),
        ],
        "final",
        [U("final", "final")],
    ),
}


@pytest.mark.parametrize(("events", "output", "updates"), RUNS.values(), ids=RUNS)
def test_the_updates_of_a_run(events: Events, output: str, updates: list[TextUpdate]) -> None:
    """The steps of the agent are shown as they are written, and at the end its output."""
    assert follow(events, output) == updates


PIECES: Final = st.lists(
    st.sampled_from(["a", " b", "\n", "c. ", "{", '"', "}", "<", "x>", "`", "```", "["]), max_size=6
)
PATHS: Final = st.sampled_from(
    [("r", "user", "master"), ("p", "user", "master", "poet"), ("c", "user", "master", "critic")]
)


@st.composite
def writers(draw: st.DrawFn) -> tuple[Events, dict[str, str]]:
    """Agents that write concurrently, in any order; and the whole text of each model, by call."""
    queues: list[Events] = []
    whole: dict[str, str] = {}
    for number in range(draw(st.integers(1, 4))):
        _, *stack = draw(PATHS)
        node = f"{stack[-1]}-{number}"
        pieces = draw(PIECES)
        whole[node] = "".join(pieces) if stack[-1] == "master" else ""
        queues.append([llm(node, *stack), *text(node, stack[-1], *pieces)])
    mixed: Events = [ROOT, POET, call("c", "user", "master", "critic")]
    while queues:
        queue = queues[draw(st.integers(0, len(queues) - 1))]
        mixed.append(queue.pop(0))
        queues = [each for each in queues if each]
    return mixed, whole


@given(writers(), st.integers(0, 4))
def test_every_interleaving(written: tuple[Events, dict[str, str]], which: int) -> None:
    """For any order only the agent's text is shown, and the updates end with the output."""
    events, whole = written
    output = [*whole.values(), "something else"][min(which, len(whole))]
    updates = follow(events)
    assert all(any(own.startswith(update.text) for own in whole.values()) for update in updates)
    assert replay(follow(events, output)) == output
    assert all(update.delta for update in updates)


@given(writers())
def test_batches_change_nothing(written: tuple[Events, dict[str, str]]) -> None:
    """A text read only at the end is equal to one read after each event."""
    texts = Texts()
    for event in written[0]:
        texts.add([event])
    assert texts.answer.text == replay(follow(written[0]))


# ---------------------------------------------------------------------------------------------------------- The texts


def test_all_texts() -> None:
    """All texts are listed by call and agent, in the order of their start, tool calls and other agents' texts too."""
    texts = Texts()
    pieces = [*text("s1", "master", CHOICE), *text("v", "poet", "Roses ")[:1], *text("s2", "master", "42")]
    for event in [*pieces, *text("v", "poet", "are red"), *text("e", "empty", "")]:
        texts.add([event])
    assert texts.all == (
        AgentText("master", "s1", CHOICE),
        AgentText("poet", "v", "Roses are red"),
        AgentText("master", "s2", "42"),
    )
    assert texts.text == f"{CHOICE}Roses are red42"


@pytest.mark.parametrize("kind", ["call", "text", "end"])
def test_messages_are_not_kept(kind: str) -> None:
    """While the texts are not read, the contents of a bounded number of messages are kept."""
    events: dict[str, ToolCall | TextDelta] = {
        "call": TOOL,
        "text": text("s1", "master", "a")[0],
        "end": text("s1", "master")[0],
    }
    event = events[kind]
    part = event.content
    before, texts = sys.getrefcount(part), Texts()
    for _ in range(3000):
        texts.add([event])
    assert sys.getrefcount(part) - before < 300


@pytest.mark.parametrize("looks", [False, True], ids=["deltas alone", "each whole text"])
def test_linear_time(looks: bool) -> None:
    """The time for each delta does not grow with the text."""

    def read(count: int) -> None:
        texts, cursor = Texts(), TextCursor()
        [piece, _] = text("r", "master", "some text ")
        texts.add([ROOT])
        for _ in range(count):
            texts.add([piece])
            update = cursor.take(texts.answer)
            assert update is not None
            assert (update.text if looks else update.delta).endswith("text")
            del update

    assert times_as_long(read, 2000) < MOST


def test_an_update_is_a_value() -> None:
    """An update compares, hashes and pickles by its content, also before its text was read."""
    [first, second] = follow([ROOT, *text("r", "master", "a", "b")])
    assert second == TextUpdate("b", "ab")
    assert pickle.loads(pickle.dumps(second)) == second
    assert len({first, second, TextUpdate("a", "a")}) == 2
    assert second != "b"
    assert repr(second) == "TextUpdate(delta='b', text='ab', is_reset=False)"
