"""Conversations: several turns of one user, each with the memory of those before.

Rule 1: the memory is the server's. Each turn names the last good one (`from_trace_id`); a turn that failed is not part
    of the conversation.
Rule 2: a turn waits until the server has stored it (`is_async_storage` is false), so that the next one finds it.
Rule 3: a conversation has one turn at a time. `branch` makes another conversation with the same past.
Rule 4: a token holds ids only. Queries and answers are read from the server's records.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Final, Protocol, Self, cast

import attrs

from oxygent_client._agent.call_options import make_request
from oxygent_client._agent.detached import home
from oxygent_client._agent.tokens import decode_token, encode_token
from oxygent_client._api.records import RunRecord
from oxygent_client._core.errors import ClosedError, ConfigurationError, OxyError
from oxygent_client._core.events import OxyState
from oxygent_client._core.ids import new_id
from oxygent_client._core.requests import OxyRequest, OxyResponse
from oxygent_client._core.server_identity import server_identity
from oxygent_client._core.settings import CallOptions, Timeouts
from oxygent_client._core.transport import Transport
from oxygent_client._core.validation import instance_of
from oxygent_client._run.run import Run
from oxygent_client.cluster._lookup import cluster_of, home_of
from oxygent_client.cluster._run_locations import RunLocation

PREFIX: Final = "oxychat1."
TURNS_IN_TOKEN: Final = 200
"""How many of the last turns a token holds; it has some 20 characters for each."""
_TOKEN: Final = instance_of(str, "the str that chat.to_token() returns")


class ConversationAgent(Protocol):
    """The parts of an agent that a conversation uses."""

    @property
    def server_url(self) -> str:
        """As `SSEOxyGent.server_url`."""
        ...

    @property
    def transport(self) -> Transport | None:
        """As `SSEOxyGent.transport`."""
        ...

    async def ask(
        self,
        query: OxyRequest,
        /,
        *,
        timeout: float | Timeouts | None,  # noqa: ASYNC109  (as the agent's)
        headers: Mapping[str, str] | None,
        callee: str | None,
    ) -> OxyResponse:
        """As `SSEOxyGent.ask`."""
        ...

    def stream(
        self,
        query: OxyRequest,
        /,
        *,
        timeout: float | Timeouts | None,
        headers: Mapping[str, str] | None,
        callee: str | None,
    ) -> Run:
        """As `SSEOxyGent.stream`."""
        ...

    async def lookup(self, trace_id: str, /) -> RunRecord | None:
        """As `SSEOxyGent.lookup`."""
        ...

    async def __aenter__(self) -> Any:
        """Enter the block of the agent."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the block of the agent."""
        ...


@attrs.frozen(kw_only=True)
class Turn:
    """A good turn of a conversation."""

    trace_id: str
    """The server's trace id of its run, for `lookup`, `rate` and `restart`."""
    query: str | None = attrs.field(default=None, repr=False)
    """None after the conversation was restored from a token, until `load_history`."""
    output: Any = attrs.field(default=None, repr=False)
    """The answer: any JSON, or the `str` that the server stored, after `load_history`."""


class Conversation:
    """A conversation with a remote agent, which remembers the turns before: `async with agent.conversation() as chat`.

    The block holds the agent's connections open, as `async with agent` does; the conversation itself needs no block.
    """

    def __init__(self, agent: ConversationAgent, group_id: str, turns: tuple[Turn, ...] = ()) -> None:
        self._agent = agent
        self._group_id = group_id
        self._turns = turns
        self._is_asking = False
        self._streaming: tuple[Run, OxyRequest] | None = None

    @property
    def group_id(self) -> str:
        """The id of the conversation, which all its runs have in the server's records."""
        return self._group_id

    @property
    def history(self) -> tuple[Turn, ...]:
        """The good turns so far, the latest last. After a restart from a token they have ids only: `load_history`."""
        self._settle()
        return self._turns

    # --- turns ---

    async def ask(
        self,
        query: str | OxyRequest,
        *,
        arguments: Mapping[str, Any] | None = None,
        trace_id: str = "",
        shared_data: dict[str, Any] | None = None,
        group_data: dict[str, Any] | None = None,
        idempotent: bool = False,
        timeout: float | Timeouts | None = None,  # noqa: ASYNC109  (as the agent's)
        headers: Mapping[str, str] | None = None,
        callee: str | None = None,
    ) -> OxyResponse:
        """Run the next turn and return its response, as `SSEOxyGent.ask` does.

        A failed turn is not part of the conversation: the next one follows the last good turn. The group, the previous
        turn and `is_async_storage` of a request are set here. Each agent has a memory of its own: another `callee` does
        not remember the turns before.

        Raises:
            OxyError: the turn failed.
            ConfigurationError: another turn has not ended, or `trace_id` is that of an earlier one.
        """
        request = self._next(
            query,
            arguments=arguments,
            trace_id=trace_id,
            shared_data=shared_data,
            group_data=group_data,
            idempotent=idempotent,
        )
        self._is_asking = True
        try:
            response = await self._agent.ask(request, timeout=timeout, headers=headers, callee=callee)
        finally:
            self._is_asking = False
        self._add(request, response)
        return response

    def stream(
        self,
        query: str | OxyRequest,
        *,
        arguments: Mapping[str, Any] | None = None,
        trace_id: str = "",
        shared_data: dict[str, Any] | None = None,
        group_data: dict[str, Any] | None = None,
        idempotent: bool = False,
        timeout: float | Timeouts | None = None,
        headers: Mapping[str, str] | None = None,
        callee: str | None = None,
    ) -> AbstractAsyncContextManager[Run]:
        """Run the next turn and iterate over its events: `async with chat.stream(query) as run`; see `ask`.

        The turn is in the history once its events have come to their end. It is dropped if the block is left before.
        """
        return self._stream(
            query,
            CallOptions(timeout=timeout, headers=headers, callee=callee),
            arguments=arguments,
            trace_id=trace_id,
            shared_data=shared_data,
            group_data=group_data,
            idempotent=idempotent,
        )

    @asynccontextmanager
    async def _stream(self, query: str | OxyRequest, call: CallOptions, **options: Any) -> AsyncGenerator[Run, None]:
        request = self._next(query, **options)
        run = self._agent.stream(request, timeout=call.timeout, headers=call.headers, callee=call.callee)
        self._streaming = own = (run, request)
        try:
            async with run:
                yield run
        finally:
            self._settle()
            if self._streaming is own:
                self._streaming = None

    def _next(self, query: str | OxyRequest, **options: Any) -> OxyRequest:
        """The request of the next turn."""
        self._settle()
        if self._is_asking or self._streaming is not None:
            raise ConfigurationError("a conversation has one turn at a time: wait for its end, or use branch()")
        request = make_request(query, **options)
        trace_id = request.current_trace_id or new_id()
        if trace_id in (turn.trace_id for turn in self._turns):
            raise ConfigurationError("trace_id is that of an earlier turn: the server would overwrite it")
        return request.clone_with(
            current_trace_id=trace_id,
            from_trace_id=self._turns[-1].trace_id if self._turns else "",
            group_id=self._group_id,
            is_async_storage=False,
        )

    def _settle(self) -> None:
        """Add a streamed turn to the history, if its run has come to its end."""
        if self._streaming is None:
            return
        run, request = self._streaming
        try:
            response = run.response
        except ClosedError:  # it has not ended, or was left
            return
        except OxyError:
            self._streaming = None
            return
        self._streaming = None
        self._add(request, response)

    def _add(self, request: OxyRequest, response: OxyResponse) -> None:
        """Add a turn, unless its response is a failure: an `_execute` of a subclass may return one."""
        if response.state is OxyState.COMPLETED:
            trace_id = response.remote_trace_id or str(request.current_trace_id)
            turn = Turn(trace_id=trace_id, query=str(request.get_query()), output=response.output)
            self._turns = (*self._turns, turn)

    # --- the past ---

    def branch(self, turn: Turn | int) -> Conversation:
        """Make a conversation that goes on from `turn`, a turn of the history or its index; this one stays as it is.

        Raises:
            ConfigurationError: the history does not have this turn.
        """
        history = self.history
        places = range(len(history))
        try:
            place = places[turn] if isinstance(turn, int) else [each.trace_id for each in history].index(turn.trace_id)
        except (IndexError, ValueError) as error:
            raise ConfigurationError("turn is not in the history of this conversation") from error
        return Conversation(self._agent, self._group_id, history[: place + 1])

    async def load_history(self) -> tuple[Turn, ...]:
        """Read the queries and answers of turns that came from a token from the server's records; return the history.

        A turn whose record cannot be read keeps its query None.
        """
        for turn in self.history:
            if turn.query is None and (record := await self._agent.lookup(turn.trace_id)) is not None:
                query = record.root.arguments.get("query") if record.root is not None else None
                loaded = attrs.evolve(turn, query=query if isinstance(query, str) else None, output=record.output)
                self._turns = tuple(loaded if each is turn else each for each in self._turns)
        return self._turns

    def to_token(self) -> str:
        """Return the conversation as a text of letters, digits, `.`, `-` and `_`, for `SSEOxyGent.conversation`.

        It holds the server's URL without user information and query, the ids of the last 200 turns and no credential,
        query or answer. It is not signed: anyone with it and with access to the server can continue the conversation.
        """
        turns = [turn.trace_id for turn in self.history[-TURNS_IN_TOKEN:]]
        location = home_of(self._agent.transport, turns[-1]) if turns else None
        url = self._agent.server_url or (location.base_url if location is not None else "")
        return encode_token(PREFIX, [home(url) if url else "", self._group_id, turns])

    # --- the block ---

    async def __aenter__(self) -> Self:
        await self._agent.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._agent.__aexit__(kind, error, traceback)

    def __repr__(self) -> str:
        return f"<Conversation {self._group_id} of {len(self.history)} turns>"


def start_conversation(agent: ConversationAgent, token: str, group_id: str) -> Conversation:
    """Start a conversation, or with a token continue one.

    Raises:
        ConfigurationError: `token` is no token of a conversation, or its server is another one.
    """
    _TOKEN.check("token", token)
    if not token:
        return Conversation(agent, group_id or new_id())
    if group_id:
        raise ConfigurationError("group_id cannot be combined with a token, which has one")
    url, group_id, turns = _read(token)
    if agent.server_url and url and server_identity(url) != server_identity(agent.server_url):
        raise ConfigurationError(
            f"the conversation of this token is at {url}, and server_url is another server; use an agent for it"
        )
    if url and (cluster := cluster_of(agent.transport)) is not None:
        for turn in turns:
            cluster.note_home(RunLocation(url, turn.trace_id))
    return Conversation(agent, group_id, turns)


def _read(token: str) -> tuple[str, str, tuple[Turn, ...]]:
    """The server's URL, the group and the turns in a token."""
    try:
        url, group_id, ids = decode_token(PREFIX, token)
        texts: list[Any] = [url, group_id, *ids]
        if not isinstance(ids, list) or not all(isinstance(text, str) for text in texts) or not group_id:
            raise TypeError("another content")
        turns = tuple(Turn(trace_id=trace_id) for trace_id in cast("list[str]", ids))
        return home(url) if url else "", group_id, turns
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigurationError("token is no token of a conversation") from error
