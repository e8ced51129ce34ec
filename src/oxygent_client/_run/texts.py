"""Keep the text that the agents of one run write, by call and agent, and follow the answer's text in it.

Rule 1: pure. An event costs an append to a list; the list is worked off when it is long, or when a text is looked at.
Rule 2: a message is not kept: only the members that are needed.
"""

from __future__ import annotations

from typing import Any, Final, cast

import attrs

from oxygent_client._core.events import TextDelta, ToolCall
from oxygent_client._run.answer_text import AnswerText, Call, GrowingText

__all__ = ["AgentText", "Texts"]

BATCH: Final = 256
"""How many events are worked off at once."""


@attrs.frozen
class AgentText:
    """The text that an agent has written within one call."""

    agent: str
    """The name of the agent; empty where the remote does not tell."""
    node_id: str
    """The call: that of a language model, mostly; empty where the remote does not tell."""
    text: str
    """Its text: of a model that is to choose a tool, for example, the choice as JSON."""


class Texts:
    """The texts of one run."""

    def __init__(self) -> None:
        self._waiting: list[Any] = []  # contents of deltas, calls, and END after the content of an end
        self._texts: dict[tuple[str, str], GrowingText] = {}
        self._answer = AnswerText()

    def add_delta(self, event: TextDelta) -> None:
        """A piece of text was received."""
        self._waiting.append(event.content)
        if event.type == "stream_end":
            self._waiting.append(END)
        if len(self._waiting) >= BATCH:
            self._work_off()

    def add_call(self, event: ToolCall) -> None:
        """A call inside the remote starts."""
        get = cast("dict[str, Any]", event.content).get
        self._waiting.append(Call(*map(get, Call._fields)))
        if len(self._waiting) >= BATCH:
            self._work_off()

    @property
    def answer(self) -> AnswerText:
        """The answer's text."""
        self._work_off()
        return self._answer

    @property
    def all(self) -> tuple[AgentText, ...]:
        """The texts, in the order in which they began."""
        self._work_off()
        return tuple(AgentText(agent, node, growing.text) for (node, agent), growing in self._texts.items())

    @property
    def text(self) -> str:
        """All texts, one after the other."""
        self._work_off()
        return "".join(growing.text for growing in self._texts.values())

    def _work_off(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        key = ("", "")
        pieces: list[str] = []  # in a row, of one key
        for entry in waiting:
            if entry is END:
                self._add(key, pieces)
                self._answer.end_step(key[0])
            elif type(entry) is Call:
                self._add(key, pieces)
                self._answer.add_call(entry)
            else:
                of, text = _delta(entry)
                if of != key:
                    self._add(key, pieces)
                    key = of
                pieces.append(text)
        self._add(key, pieces)

    def _add(self, key: tuple[str, str], pieces: list[str]) -> None:
        text = "".join(pieces)
        pieces.clear()
        if text:
            growing = self._texts.get(key)
            if growing is None:
                growing = self._texts[key] = GrowingText()
            growing.append(text)
            self._answer.add_piece(*key, text)


END: Final = object()


def _delta(content: Any) -> tuple[tuple[str, str], str]:
    """The call and the agent of a piece of text, and the piece; empty where the remote does not tell."""
    if not isinstance(content, dict):
        return ("", ""), content if isinstance(content, str) else ""
    get = cast("dict[str, Any]", content).get
    node, agent, text = get("node_id"), get("agent"), get("delta")
    key = node if isinstance(node, str) else "", agent if isinstance(agent, str) else ""
    return key, text if isinstance(text, str) else ""
