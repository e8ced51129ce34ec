"""Remember which message became which task, so that a message that is sent again does not run again.

Rule 1: a message was sent before if an earlier one had the same id and the same context. A message without a context
    begins its own; it counts only if its id is so long that it is random, since two clients may both begin with `1`.
Rule 2: a message whose agent surely did not run is forgotten: a client may send it again.
Rule 3: a client that leaves does not cancel the call of its message before the task is known: the agent may run, and
    the message that is sent again must find the task.
Rule 4: the last messages are remembered, up to a number, and those whose calls have not ended.

Source: https://a2a-protocol.org/v1.0.0/specification/ ("Agents may utilize the messageId to detect duplicate messages")
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias

import anyio
import attrs
from a2a.types import Message

from oxygent_client.serve import RunTable

MESSAGES: Final = 10_000
"""The messages that are remembered."""
RANDOM: Final = 16
"""Characters of an id that is random."""
SENT: Final = "oxygent_client.sent"
"""The key in the state of a call: its `SentMessage`."""
_Key: TypeAlias = tuple[str, str]


class SentMessages:
    """The messages that were sent to one server."""

    def __init__(self, most: int = MESSAGES) -> None:
        self._sent = RunTable[SentMessage](most, math.inf)

    def find(self, message: Message) -> SentMessage | None:
        """Return the earlier message that this one repeats; None if it is new."""
        return self._sent.find(_key(message), 0.0)

    def add(self, message: Message, call: anyio.CancelScope) -> SentMessage:
        """Remember a new message. Its call is not cancelled before its task is known."""
        call.shield = True
        sent = SentMessage(self, _key(message), call)
        if message.context_id or len(message.message_id) >= RANDOM:
            self._sent.add(sent.key, sent)
        return sent

    def finish(self, sent: SentMessage) -> None:
        """Note that the call of a message has ended."""
        if self._is_known(sent):
            self._sent.finish(sent.key, 0.0)

    def forget(self, sent: SentMessage) -> None:
        """Forget a message."""
        if self._is_known(sent):
            self._sent.remove(sent.key)

    def _is_known(self, sent: SentMessage) -> bool:
        return self._sent.find(sent.key, 0.0) is sent


@attrs.define(eq=False)
class SentMessage:
    """A message, and its task."""

    messages: SentMessages
    key: _Key
    call: anyio.CancelScope
    """The scope of its call."""
    task_id: str = ""
    """The id of its task; empty until the task can be found, and if there is none."""
    is_known: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Set when the task can be found, or there is none."""

    def begin(self, task_id: str) -> None:
        """Note the task, which can be found now."""
        self.task_id = task_id
        self._know()

    def end(self) -> None:
        """Note that the call of the message has ended: without a task it is forgotten."""
        if self.task_id:
            self.messages.finish(self)
        else:
            self.forget()
        self._know()

    def forget(self) -> None:
        """Forget the message, since nothing ran."""
        self.messages.forget(self)

    def _know(self) -> None:
        self.is_known.set()
        self.call.shield = False


def _key(message: Message) -> _Key:
    return message.context_id, message.message_id
