"""Keep the text that the agents of one run write, by call and agent, and follow the answer's text in it.

Rule 1: pure. A run whose texts are not looked at pays for a list, more or less: pieces are joined when the list is
    long, and sorted when a text is looked at.
Rule 2: a message is not kept: only the members that are needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final, cast

import attrs

from oxygent_client._core.events import TextDelta, ToolCall
from oxygent_client._run.answer_text import AnswerText, Call, GrowingText

BATCH: Final = 256
"""How many events are joined at once."""
LOG: Final = 2048
"""How many calls and joined pieces are kept unsorted: most runs have fewer, and nobody looks at their texts."""
LARGE: Final = 4096
"""Characters of an event's data above which its members are cut at once: what waits, and the log, have a bound."""
MOST_TEXTS: Final = 10_000
"""How many texts are kept apart. Text of more calls than that is joined to one without names."""
NAME_LENGTH: Final = 256
"""Characters of a name; of a longer one its beginning and its digest are kept."""
STACK_DEPTH: Final = 64
"""Names of a call stack; a longer stack is not kept, and the caller's name decides."""
MEMBERS: Final = cast("Callable[[Any], tuple[Any, ...]]", itemgetter(*Call._fields))
"""A quarter of the instructions that it takes to make a `Call`; that can wait."""


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
        self._waiting: list[Any] = []  # contents of deltas, and calls
        self._log: list[tuple[Any, ...]] = []  # calls and pieces
        self._texts: dict[tuple[str, str], GrowingText] = {}
        self._answer = AnswerText()

    def add_delta(self, event: TextDelta) -> None:
        """A piece of text was received."""
        waiting = self._waiting
        content: Any = event.content
        if len(event.sse.data) > LARGE and type(content) is dict:
            get = cast("dict[str, Any]", content).get
            content = {"delta": get("delta"), "node_id": _name(get("node_id")), "agent": _name(get("agent"))}
        waiting.append(content)
        if len(waiting) >= BATCH:
            self._join()

    def add_call(self, event: ToolCall) -> None:
        """A call inside the remote starts."""
        waiting = self._waiting
        content: dict[str, Any] = event.content
        try:
            members = MEMBERS(content)
        except KeyError:
            members = tuple(map(content.get, Call._fields))
        waiting.append(members if len(event.sse.data) <= LARGE else tuple(map(_bounded, members)))
        if len(waiting) >= BATCH:
            self._join()

    @property
    def answer(self) -> AnswerText:
        """The answer's text."""
        self._sort()
        return self._answer

    @property
    def all(self) -> tuple[AgentText, ...]:
        """The texts, in the order in which they began."""
        self._sort()
        return tuple(AgentText(agent, node, growing.text) for (node, agent), growing in self._texts.items())

    @property
    def text(self) -> str:
        """All texts, one after the other."""
        self._sort()
        return "".join(growing.text for growing in self._texts.values())

    def _join(self) -> None:
        """Join the pieces that follow each other in the same text."""
        waiting, self._waiting = self._waiting, []
        log = self._log
        node: Any = None
        agent: Any = None
        pieces: list[str] = []
        for entry in waiting:
            if type(entry) is dict:
                get = cast("dict[str, Any]", entry).get
                text, of, by = get("delta"), get("node_id"), get("agent")
            elif type(entry) is tuple:
                if pieces:
                    log.append((node, agent, "".join(pieces)))
                    pieces.clear()
                log.append(cast("tuple[Any, ...]", entry))
                continue
            else:
                text, of, by = entry, None, None
            if pieces and (of != node or by != agent):
                log.append((node, agent, "".join(pieces)))
                pieces.clear()
            node, agent = of, by
            if text and type(text) is str:
                pieces.append(text)
            else:  # `stream_end` has an empty piece
                if pieces:
                    log.append((node, agent, "".join(pieces)))
                    pieces.clear()
                log.append((node, agent, ""))
        if pieces:
            log.append((node, agent, "".join(pieces)))
        if len(log) >= LOG:
            self._sort()

    def _sort(self) -> None:
        """Sort the texts by call and agent, and follow the answer in them."""
        if self._waiting:
            self._join()
        log, self._log = self._log, []
        for entry in log:
            if len(entry) == len(Call._fields):
                self._answer.add_call(Call(*map(_bounded, entry)))
                continue
            # The call and the agent, as received, and their text; it is empty where the text has ended.
            node, agent, text = _name(entry[0]), _name(entry[1]), entry[2]
            if not text:
                self._answer.end_step(node)
                continue
            key = (node, agent)
            growing = self._texts.get(key)
            if growing is None:
                key = key if len(self._texts) < MOST_TEXTS else ("", "")
                growing = self._texts.setdefault(key, GrowingText())
            growing.append(text)
            self._answer.add_piece(node, agent, text)


def _name(value: Any) -> str:
    """Return a name from the wire, cut if it is long; empty where the remote does not tell."""
    if not isinstance(value, str):
        return ""
    if len(value) <= NAME_LENGTH:
        return value
    digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{value[: NAME_LENGTH // 2]}...{digest}"


def _bounded(value: Any) -> Any:
    """Return a member of a call as it is needed: a name, or a stack of names."""
    if not isinstance(value, list):
        return _name(value)
    stack = cast("list[Any]", value)
    return [*map(_name, stack)] if len(stack) <= STACK_DEPTH else None
