"""The texts of a run are bounded in what they keep beside the text itself."""

from __future__ import annotations

import json
import tracemalloc
from typing import TYPE_CHECKING, Any, Final

import pytest

from oxygent_client import TextDelta, ToolCall
from oxygent_client._core.events import ServerSentEvent
from oxygent_client._run import answer_text
from oxygent_client._run.texts import MOST_TEXTS, NAME_LENGTH, Texts

if TYPE_CHECKING:
    from collections.abc import Callable

LONG: Final = "N" * 100_000


def sent(kind: str, content: Any) -> tuple[Any, ...]:
    """The arguments of an event with this content."""
    message = {"type": kind, "content": content}
    return kind, content, message, ServerSentEvent(data=json.dumps(message))


def delta(text: str, node: str = "n", agent: str = "a", **more: Any) -> TextDelta:
    """A piece of text."""
    return TextDelta(*sent("stream", {"delta": text, "node_id": node, "agent": agent, **more}))


def call(node: str, **more: Any) -> ToolCall:
    """A call inside the remote."""
    names = {"caller": "boss", "callee": "tool", "caller_category": "agent", "callee_category": "tool"}
    return ToolCall(*sent("tool_call", {"node_id": node, **names, "call_stack": ["user", "boss", "tool"], **more}))


LARGE: Final[dict[str, Callable[[int], TextDelta | ToolCall]]] = {
    # what is large: the event of this number
    "call ids": lambda number: call(f"{number}{LONG}"),
    "stacks": lambda number: call(f"{number}", call_stack=[f"{number}-{index}" for index in range(10_000)]),
    "arguments": lambda number: call(f"{number}", arguments={"query": f"{number}{LONG}"}),
    "ids of pieces": lambda number: delta("", f"{number}{LONG}"),
    "notes": lambda number: delta("x", f"{number}", note=f"{number}{LONG}"),
    "agents": lambda number: delta("x", f"{number}", f"{number}{LONG}"),
}


@pytest.mark.seconds
@pytest.mark.parametrize("event", LARGE.values(), ids=LARGE)
def test_large_members_are_not_kept(event: Callable[[int], TextDelta | ToolCall]) -> None:
    """A call or a piece with large members costs a hundredth of them."""
    texts, count = Texts(), 40
    tracemalloc.start()
    try:
        for number in range(count):
            texts.add([event(number)])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / count < len(LONG) / 50


@pytest.mark.parametrize("is_large", [False, True], ids=["among small events", "in a large event"])
def test_a_long_name_is_cut(is_large: bool) -> None:
    """A piece belongs to the call of its long id, whether the event that names the id is large or small."""
    node = "N" * (2 * NAME_LENGTH)
    note = LONG if is_large else ""
    texts = Texts()
    user = {"caller": "user", "caller_category": "user", "callee": "boss", "callee_category": "agent"}
    texts.add([call(node, **user, call_stack=["user", "boss"], note=note)])
    texts.add([delta("hello", node, "boss")])
    (text,) = texts.all
    assert texts.answer.text == "hello"
    assert text.node_id.startswith("N" * 100)
    assert len(text.node_id) <= NAME_LENGTH


def test_more_texts_than_are_kept_apart() -> None:
    """Text of the calls beyond the bound is joined to one text without names: nothing is lost."""
    texts = Texts()
    for number in range(MOST_TEXTS + 3):
        texts.add([delta("x", f"{number}")])
    assert len(texts.all) == MOST_TEXTS + 1
    assert (texts.all[-1].node_id, texts.all[-1].agent, texts.all[-1].text) == ("", "", "xxx")
    assert len(texts.text) == MOST_TEXTS + 3


def test_more_calls_than_are_known() -> None:
    """It is not known whose text is written within the calls beyond the bound: it is not shown as the answer."""
    texts = Texts()
    user = {"caller": "user", "caller_category": "user", "callee": "boss", "callee_category": "agent"}
    texts.add([call("root", **user, call_stack=["user", "boss"])])
    for number in range(answer_text.MOST_CALLS):
        texts.add([call(f"{number}")])
    texts.add([call("late", callee_category="llm")])
    texts.add([delta("hello", "late", "tool")])
    assert texts.answer.text == ""
    assert texts.text == "hello"
