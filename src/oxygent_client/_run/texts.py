"""Keep the text that the agents of one run write, by call and agent, and follow the answer's text in it.

Rule 1: pure. A run whose texts are not looked at pays for a list, more or less: the pieces of many events are joined at
    once, and sorted when a text is looked at.
Rule 2: a message is not kept: only the members that are needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, Final, cast

import attrs

from oxygent_client._core.events import Event, TextDelta, ToolCall
from oxygent_client._run.answer_text import AnswerText, Call, GrowingText

LOG: Final = 2048
"""How many calls and joined pieces are kept unsorted: most runs have fewer, and nobody looks at their texts."""
MOST_PIECES: Final = 64
"""How many pieces are joined at once."""
LARGE: Final = 4096
"""Characters of an event's data above which its members are cut at once: the log has a bound."""
MOST_TEXTS: Final = 10_000
"""How many texts are kept apart. Text of more calls than that is joined to one without names."""
NAME_LENGTH: Final = 256
"""Characters of a name; of a longer one its beginning and its digest are kept."""
STACK_DEPTH: Final = 64
"""Names of a call stack; a longer stack is not kept, and the caller's name decides."""
MEMBERS: Final = cast("Callable[[Any], tuple[Any, ...]]", itemgetter(*Call._fields))
"""A quarter of the instructions that it takes to make a `Call`; that can wait."""
PIECE: Final = cast("Callable[[Any], tuple[Any, Any, Any]]", itemgetter("delta", "node_id", "agent"))


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

    __slots__ = ("_agent", "_answer", "_log", "_node", "_pieces", "_texts")

    def __init__(self) -> None:
        self._log: list[tuple[Any, ...]] = []  # calls and pieces
        # The pieces of one text, of a call and an agent as received, which are not joined yet; they follow the log.
        self._node: Any = None
        self._agent: Any = None
        self._pieces: list[str] = []
        self._texts: dict[tuple[str, str], GrowingText] = {}
        self._answer: AnswerText | None = None  # until a text is looked at

    def add(self, events: Iterable[Event]) -> None:
        """Events were received: join the pieces of text that follow each other in the same text."""
        pieces = self._pieces
        for event in events:
            cls = event.__class__
            if cls is TextDelta:
                content: Any = event.content
                try:
                    text, of, by = PIECE(content)
                except (KeyError, TypeError):  # a text alone, or some members
                    text, of, by = _piece(content)
                if of == self._node and by == self._agent and text and text.__class__ is str:
                    pieces.append(text)
                    continue
                self._join()
                if len(event.sse.data) > LARGE:
                    of, by = _name(of), _name(by)
                self._node, self._agent = of, by
                if text and text.__class__ is str:
                    pieces.append(text)
                else:  # `stream_end` has an empty piece
                    self._note((of, by, ""))
            elif cls is ToolCall:
                self._join()
                self._note(_call(event))
        if len(pieces) >= MOST_PIECES:
            self._join()

    def _note(self, entry: tuple[Any, ...]) -> None:
        self._log.append(entry)
        if len(self._log) >= LOG:
            self._sort()

    def _join(self) -> None:
        if self._pieces:
            text = "".join(self._pieces)
            self._pieces.clear()
            self._note((self._node, self._agent, text))

    @property
    def answer(self) -> AnswerText:
        """The answer's text."""
        return self._sort()

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

    def _sort(self) -> AnswerText:
        """Sort the texts by call and agent, and follow the answer in them; return that."""
        self._join()
        log, self._log = self._log, []
        answer = self._answer = self._answer or AnswerText()
        for entry in log:
            if len(entry) == len(Call._fields):
                answer.add_call(Call(*map(_bounded, entry)))
                continue
            # The call and the agent, as received, and their text; it is empty where the text has ended.
            node, agent, text = _name(entry[0]), _name(entry[1]), entry[2]
            if not text:
                answer.end_step(node)
                continue
            key = (node, agent)
            growing = self._texts.get(key)
            if growing is None:
                key = key if len(self._texts) < MOST_TEXTS else ("", "")
                growing = self._texts.setdefault(key, GrowingText())
            growing.append(text)
            answer.add_piece(node, agent, text)
        return answer


def _piece(content: Any) -> tuple[Any, Any, Any]:
    """Return the text of a delta, its call and its agent, where a member may be missing."""
    if type(content) is not dict:
        return content, None, None
    get = cast("dict[str, Any]", content).get
    return get("delta"), get("node_id"), get("agent")


def _call(event: Event) -> tuple[Any, ...]:
    """Return the members of a tool call as received; those of a large event are cut."""
    content: dict[str, Any] = event.content
    try:
        members = MEMBERS(content)
    except KeyError:
        members = tuple(map(content.get, Call._fields))
    return members if len(event.sse.data) <= LARGE else tuple(map(_bounded, members))


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
