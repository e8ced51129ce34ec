"""`SyncConversation`: turns of one user that follow each other, for programs without `async`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, Self

from oxygent_client import Conversation, Turn
from oxygent_client.sync._mirror import blocking, converting, plain
from oxygent_client.sync._portal import Portal
from oxygent_client.sync._run import SyncRun


class _Agent(AbstractContextManager[Any], Protocol):
    """The parts of a synchronous agent that a conversation uses."""

    def _get_portal(self) -> Portal: ...


class SyncConversation:
    """A conversation with a remote agent, which remembers the turns before: `with agent.conversation() as chat`.

    It has the methods of `Conversation`, without `async`. The block holds the agent's connections open.
    """

    def __init__(self, conversation: Conversation, agent: _Agent) -> None:
        self._conversation = conversation
        self._agent = agent

    @property
    def group_id(self) -> str:
        """The id of the conversation, which all its runs have in the server's records."""
        return self._conversation.group_id

    @property
    def history(self) -> tuple[Turn, ...]:
        """The good turns so far, the latest last. After a restart from a token they have ids only: `load_history`."""
        return self._conversation.history

    @blocking(Conversation.ask)
    def ask(self) -> None:
        """Run the next turn and return its response, as `SyncSSEOxyGent.ask` does.

        A failed turn is not part of the conversation: the next one follows the last good turn.
        """

    @converting(Conversation.stream)
    def stream(self, *args: Any, **options: Any) -> SyncRun:
        """Run the next turn and iterate over its events: `for event in chat.stream(query): ...`; see `ask`.

        The turn is in the history once its events have come to their end. It is dropped if it is left before.
        """
        return SyncRun(self._conversation.stream(*args, **options), self._get_portal)

    @converting(Conversation.branch)
    def branch(self, *args: Any, **options: Any) -> SyncConversation:
        """Make a conversation that goes on from a turn of the history, or its index; this one stays as it is."""
        return SyncConversation(self._conversation.branch(*args, **options), self._agent)

    @blocking(Conversation.load_history)
    def load_history(self) -> None:
        """Read the queries and answers of turns that came from a token from the server's records.

        Returns the history. A turn whose record cannot be read keeps its query None.
        """

    @plain(Conversation.to_token)
    def to_token(self) -> None:
        """Return the conversation as a text, for `SyncSSEOxyGent.conversation`, without credentials and contents."""

    def __enter__(self) -> Self:
        self._agent.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._agent.__exit__(kind, error, traceback)

    def _get_inner(self) -> Conversation:
        return self._conversation

    def _get_portal(self) -> Portal:
        return self._agent._get_portal()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  (of this folder)

    def _wait_for(self, function: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        return self._get_portal().run(function, *args, **kwargs)

    def __repr__(self) -> str:
        return repr(self._conversation).replace("<Conversation", "<SyncConversation", 1)
