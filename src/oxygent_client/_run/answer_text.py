"""Follow the answer's text while it is written: calls and pieces of text in, the answer's text so far out.

Rule 1: pure, and linear in the text.
Rule 2: only the agent that the run calls writes its answer: within its own call, or in that of a language model that it
    calls. Text of other agents and of tools is never shown.
Rule 3: an agent writes in steps, one for each call of a model. Of two steps at once, the first is shown alone. A later
    step replaces what was shown before, with the first piece that is shown of it.
Rule 4: a step is shown as far as it is prose (`oxygent_client._run.prose`).
Rule 5: the output decides: at the end, what is missing of it is shown, or it replaces what was shown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

from oxygent_client._run.prose import ProseFilter

PIECES: Final = 256
"""How many pieces of text are kept apart: each costs some 50 bytes beside its characters."""


MOST_CALLS: Final = 10_000
"""Of how many calls it is known whose text is written within them. Text within later ones is that of no known agent."""


class Call(NamedTuple):
    """The members of a tool call that tell whose text is written within it: any JSON, as received."""

    node_id: Any
    caller: Any
    callee: Any
    caller_category: Any
    callee_category: Any
    call_stack: Any


class GrowingText:
    """A text in pieces."""

    __slots__ = ("_joined", "_pieces", "length")

    def __init__(self) -> None:
        self.length: int = 0
        """Its characters."""
        self._joined = ""
        self._pieces: list[str] = []

    def append(self, piece: str) -> None:
        """Add a piece."""
        self.length += len(piece)
        self._pieces.append(piece)
        if len(self._pieces) >= PIECES:
            self._join()

    @property
    def text(self) -> str:
        """The whole text."""
        return self._join()

    def _join(self) -> str:
        """Return the text, with the pieces that were added since the last call.

        A string that only one name refers to grows in place (CPython): so a text that is looked at after each of its
        pieces is not copied each time.
        """
        if self._pieces:
            text, self._joined = self._joined, ""
            text += "".join(self._pieces)
            self._pieces.clear()
            self._joined = text
        return self._joined


class TextUpdate:
    """A change of the answer's text while it is written."""

    __slots__ = ("_text", "delta", "is_reset")

    def __init__(self, delta: str, text: str | Callable[[], str], *, is_reset: bool = False) -> None:
        self.delta: Final = delta
        """The new piece; never empty, unless the whole text is."""
        self.is_reset: Final = is_reset
        """Whether the text before turned out not to be the answer: the text begins anew, with `delta`."""
        self._text = text

    @property
    def text(self) -> str:
        """The answer's text so far, with `delta` at its end."""
        if not isinstance(self._text, str):  # to make it for each update that nobody looks at would take too long
            self._text = self._text()
        return self._text

    def __eq__(self, other: object) -> bool:
        return self._facts == other._facts if isinstance(other, TextUpdate) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._facts)

    def __reduce__(self) -> tuple[Any, ...]:
        return _text_update, self._facts

    def __repr__(self) -> str:
        return f"TextUpdate(delta={self.delta!r}, text={self.text!r}, is_reset={self.is_reset})"

    @property
    def _facts(self) -> tuple[str, str, bool]:
        return self.delta, self.text, self.is_reset


def _text_update(delta: str, text: str, is_reset: bool) -> TextUpdate:
    """Unpickle an update."""
    return TextUpdate(delta, text, is_reset=is_reset)


class _Step:
    """The text of one call of a model, or of the agent's own call."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.is_over = False
        """Whether another step may follow."""
        self.is_shown = False
        self.filter = ProseFilter()


class AnswerText:
    """The text of the answer of one run so far."""

    def __init__(self) -> None:
        self.shown: GrowingText = GrowingText()
        """The text so far; another object after each reset."""
        self._agent: Call | None = None
        """The call of the agent that the run calls."""
        self._writer: str | None = None
        """The name with the first text, where no call is named."""
        self._nodes: dict[str, bool] = {}
        """Whether text within a call is that agent's, by node id."""
        self._passed: set[str] = set()
        """The steps that are not shown any more."""
        self._step: _Step | None = None

    @property
    def text(self) -> str:
        """The text so far."""
        return self.shown.text

    def add_call(self, call: Call) -> None:
        """A call inside the remote starts."""
        agent = self._agent
        if agent is None:
            if call.caller_category == "user" or (not call.caller_category and call.caller == "user"):
                self._agent = call
                self._know(call, is_own=True)
        elif call.call_stack == agent.call_stack and call.caller == agent.caller:  # the agent is run once more
            self._know(call, is_own=True)
        elif not self._calls(agent, call):
            self._know(call, is_own=False)
        else:
            if self._step is not None:
                self._step.is_over = True
            if call.callee_category:  # else the name of the agent decides
                self._know(call, is_own=call.callee_category == "llm")

    def add_piece(self, node: str, agent: str, text: str) -> None:
        """`agent` has written a piece of text within the call `node`; both may be empty."""
        if not text or not self._is_own(node, agent) or node in self._passed:
            return
        step = self._step
        if step is None or step.node != node:
            if step is not None and not step.is_over:
                self._passed.add(node)
                return
            if step is not None:
                self._passed.add(step.node)
            step = self._step = _Step(node)
        piece = step.filter.feed(text)
        if piece:
            if not step.is_shown:
                step.is_shown = True
                self._reset()
            self.shown.append(piece)

    def end_step(self, node: str) -> None:
        """The text within the call `node` has ended."""
        if self._step is not None and self._step.node == node:
            self._step.is_over = True

    def finish(self, output: str) -> None:
        """The run has ended with this output."""
        before = self.shown.text
        if not output.startswith(before):
            self._reset()
            before = ""
        if len(output) > len(before):
            self.shown.append(output[len(before) :])

    def _reset(self) -> None:
        if self.shown.length:
            self.shown = GrowingText()

    def _know(self, call: Call, *, is_own: bool) -> None:
        if isinstance(call.node_id, str) and call.node_id and len(self._nodes) < MOST_CALLS:
            self._nodes[call.node_id] = is_own

    def _calls(self, agent: Call, call: Call) -> bool:
        """Whether the agent itself makes this call."""
        stack, above = call.call_stack, agent.call_stack
        if isinstance(stack, list) and isinstance(above, list) and stack and above:
            return cast("list[Any]", stack)[:-1] == above
        return bool(call.caller == agent.callee)

    def _is_own(self, node: str, agent: str) -> bool:
        is_own = self._nodes.get(node)
        if is_own is not None:
            return is_own
        if self._agent is not None and agent:
            return bool(agent == self._agent.callee)
        if node:
            return False
        # Some servers, and scripts of tests, name no calls: there the first that writes is the one that answers.
        if self._writer is None:
            self._writer = agent
        return agent == self._writer


class TextCursor:
    """The updates of an answer's text for one reader, from the beginning on."""

    def __init__(self) -> None:
        self._shown: GrowingText | None = None
        self._length = 0

    def take(self, answer: AnswerText) -> TextUpdate | None:
        """What changed since the last call; None if nothing did."""
        shown, length = answer.shown, self._length
        is_reset = shown is not self._shown and length > 0
        if shown is not self._shown:
            self._shown, length = shown, 0
        if shown.length == length and not is_reset:
            return None
        self._length = until = shown.length
        return TextUpdate(shown.text[length:], lambda: shown.text[:until], is_reset=is_reset)
