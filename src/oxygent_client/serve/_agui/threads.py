"""Remember the threads of clients: each is a conversation with the memory of the remote.

Rule 1: a thread continues its conversation only if the client's history is the one that the conversation has: the same
    queries, all of them good turns. Otherwise, as after a failed turn or an edited message, the history of the client
    counts, as the protocol demands.
Rule 2: bounded: the threads of the last good turns are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from oxygent_client import Conversation
from oxygent_client.serve import Runs
from oxygent_client.serve._agui.requests import RunInput

MOST_THREADS: Final = 1000


class Threads:
    """The conversations of the threads."""

    def __init__(self, runs: Runs, most: int = MOST_THREADS) -> None:
        self._runs = runs
        self._most = most
        self._known: OrderedDict[tuple[str, str], tuple[str, str]] = OrderedDict()
        """By thread and agent: the hash of what the user has said, and the token of the conversation."""

    def conversation(self, asked: RunInput, agent: str) -> Conversation | None:
        """Return the conversation of which the query is the next turn; None if there is none with its history."""
        if not asked.history:
            return self._runs.conversation()
        digest, token = self._known.get((asked.thread_id, agent), ("", ""))
        return self._runs.conversation(token) if digest and digest == asked.digest_before else None

    def remember(self, asked: RunInput, agent: str, conversation: Conversation) -> None:
        """Remember the conversation after a good turn."""
        key = (asked.thread_id, agent)
        self._known[key] = (asked.digest, conversation.to_token())
        self._known.move_to_end(key)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
