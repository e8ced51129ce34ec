"""Read a run input of AG-UI: which thread, which query, which history, which answers to interrupts. Pure.

Rule 1: only the texts of messages, the context and the answers are read. State goes back to the client as it is; tools
    of the client, `forwardedProps` and metadata are ignored.
Rule 2: the last message is the user's, and its text is the query. The messages before it are the history.
Rule 3: parts of a message that are no text are skipped, as the protocol demands.

Source: https://docs.ag-ui.com/spec/1.0/basic/run-input
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import attrs
from ag_ui.core import RunAgentInput
from pydantic import ValidationError

from oxygent_client.serve import ROLES, Refused

ID_LENGTH: Final = 200
"""Characters of the id of a thread or of a run."""


@attrs.frozen(kw_only=True)
class Answer:
    """An answer to an interrupt."""

    interrupt_id: str
    data: Any
    """What the user has given; empty if the interrupt was abandoned."""


@attrs.frozen(kw_only=True)
class RunInput:
    """One run input."""

    thread_id: str
    run_id: str
    query: str
    history: tuple[Mapping[str, str], ...] = ()
    """The messages before the query, as the memory of the framework has them."""
    context: tuple[str, ...] = ()
    """Texts that the agent should know."""
    state: Any = None
    answers: tuple[Answer, ...] = ()
    is_current: bool = True
    """Whether the client knows AG-UI 1.0; older ones fail at events that they do not know."""

    @property
    def digest(self) -> str:
        """A hash of what the user has said up to this query."""
        return self._digest([*self.history, {"role": "user", "content": self.query}])

    @property
    def digest_before(self) -> str:
        """A hash of what the user has said before this query; empty if that is nothing."""
        return self._digest(self.history)

    def _digest(self, messages: Sequence[Mapping[str, str]]) -> str:
        said = [message["content"] for message in messages if message["role"] == "user"]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest() if said else ""

    def query_with_context(self, *, has_memory: bool) -> str:
        """The query after the context, and after the instructions if the history is not sent."""
        instructions = [each["content"] for each in self.history if each["role"] == "system"] if has_memory else []
        return "\n\n".join([*instructions, *self.context, self.query])


def run_input(document: Mapping[str, Any]) -> RunInput:
    """Read a run input.

    Raises:
        Refused: it is invalid.
    """
    try:
        given = RunAgentInput.model_validate(document)
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"][:4]) or "body"
        raise Refused(400, "invalid_value", f"{place[:100]} is missing or invalid", param=place[:100]) from error
    for name, value in (("threadId", given.thread_id), ("runId", given.run_id)):
        if len(value) > ID_LENGTH:
            raise Refused(400, "invalid_value", f"{name} may have at most {ID_LENGTH} characters", param=name)
    answers = tuple(
        Answer(interrupt_id=each.interrupt_id, data=each.payload if each.status == "resolved" else None)
        for each in given.resume or ()
    )
    messages = [_message(each) for each in given.messages]
    said = [each for each in messages if each["content"]]
    if answers:
        query = ""
    elif not messages or messages[-1]["role"] != "user" or not messages[-1]["content"]:
        raise Refused(400, "invalid_value", "the last of messages must be the user's, with a text", param="messages")
    else:
        query = said.pop()["content"]
    return RunInput(
        thread_id=given.thread_id,
        run_id=given.run_id,
        query=query,
        history=tuple(said),
        context=tuple(f"{each.description}: {each.value}" for each in given.context or ()),
        state=given.state,
        answers=answers,
        is_current=given.protocol_version is not None,
    )


def _message(message: Any) -> dict[str, str]:
    """The role and the text of a message; the text is empty if it is none for an agent."""
    role = ROLES.get(message.role, "")
    content = message.content if role else None
    if isinstance(content, list):
        content = "\n".join(part.text for part in cast("list[Any]", content) if part.type == "text")
    return {"role": role, "content": content or ""}
