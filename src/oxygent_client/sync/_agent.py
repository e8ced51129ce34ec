"""`SyncSSEOxyGent`: a remote agent for programs without `async`.

Rule 1: it is a face of an `SSEOxyGent`, which has the settings and does the work in the event loop of `_portal`.
Rule 2: the face has a method and a setting for each public name of `SSEOxyGent`; a test compares.
Rule 3: handlers, `send_message`, `progress_callback` and the hooks may be plain functions; they run in the calling
    thread. What must not block in `SSEOxyGent` (`event_filter`, `sanitize`, `prepare_headers`, ...) runs in the loop.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, cast

import attrs

from oxygent_client import AgentTool, EventRouter, Limits, OxyRequest, Retry, Run, SSEOxyGent, Timeouts, Transport
from oxygent_client.policies import Policy
from oxygent_client.sanitize import SentSecrets
from oxygent_client.sync._conversation import SyncConversation
from oxygent_client.sync._mirror import PlainCallback, as_async, blocking, constructor, converting, plain, setting
from oxygent_client.sync._portal import Portal, current_portal
from oxygent_client.sync._query_map import SyncQueryResults
from oxygent_client.sync._run import SyncRun
from oxygent_client.telemetry import Observer


@attrs.frozen
class _Handlers(Mapping[str, Callable[[Any], Awaitable[None]]]):
    """The user's mapping of handlers, with each as an async function; it may grow later."""

    given: Mapping[str, Callable[[Any], object]]

    def __getitem__(self, kind: str) -> Callable[[Any], Awaitable[None]]:
        return as_async(self.given[kind])

    def __iter__(self) -> Iterator[str]:
        return iter(self.given)

    def __len__(self) -> int:
        return len(self.given)


def _async_handlers(
    given: Mapping[str, Callable[[Any], object]] | None,
) -> Mapping[str, Callable[[Any], Awaitable[None]]]:
    value: Any = given or {}
    if isinstance(value, Mapping) and not isinstance(value, _Handlers):
        return _Handlers(cast("Mapping[str, Callable[[Any], object]]", value))
    return cast("Mapping[str, Callable[[Any], Awaitable[None]]]", value)


def _async_callback(given: Callable[[str], object] | None) -> Callable[[str], Awaitable[None]] | None:
    return None if given is None else as_async(given)


def _validator(name: str) -> Callable[[Any, attrs.Attribute[Any], Any], Any]:
    return cast("Callable[[Any, attrs.Attribute[Any], Any], Any]", getattr(attrs.fields(SSEOxyGent), name).validator)


@attrs.define(slots=False, eq=False, repr=False)
class _Agent(SSEOxyGent):
    """The asynchronous agent of a face, whose hooks are those of the face."""

    event_handlers: Mapping[str, Callable[[Any], Awaitable[None]]] = attrs.field(
        default=None, converter=_async_handlers, validator=_validator("event_handlers"), kw_only=True
    )
    progress_callback: Callable[[str], Awaitable[None]] | None = attrs.field(
        default=None, converter=_async_callback, validator=_validator("progress_callback"), kw_only=True
    )
    _face: SyncSSEOxyGent = attrs.field(init=False)

    def prepared(self, oxy_request: OxyRequest) -> OxyRequest:
        return _with_async_sender(super().prepared(oxy_request))

    def attach(self, token: str, *, request: OxyRequest | None = None) -> Run:
        return super().attach(token, request=None if request is None else _with_async_sender(request.clone_with()))

    def prepare_payload(self, oxy_request: OxyRequest) -> dict[str, Any]:
        return self._face.prepare_payload(oxy_request)

    def prepare_headers(self, oxy_request: OxyRequest) -> dict[str, str]:
        return self._face.prepare_headers(oxy_request)

    async def handle_tool_call_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
        await as_async(self._face.handle_tool_call_event)(event_data, oxy_request)

    async def handle_observation_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
        await as_async(self._face.handle_observation_event)(event_data, oxy_request)

    async def _process_custom_event(self, event_data: Any, oxy_request: OxyRequest) -> None:
        hook = self._face._process_custom_event  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  (the documentation's)
        await as_async(hook)(event_data, oxy_request)

    def replaced_hooks(self) -> Collection[str]:
        return self._replaced_in(self._face, SyncSSEOxyGent)


def _with_async_sender(request: OxyRequest) -> OxyRequest:
    if "send_message" in request.__dict__ or type(request).send_message is not OxyRequest.send_message:
        request.send_message = as_async(request.send_message)
    return request


class SyncSSEOxyGent:
    """A remote OxyGent system, used like a local agent, without `async`.

    It has the settings and methods of `SSEOxyGent`, and takes plain functions as handlers; they run in the calling
    thread. All threads of a program may share one agent. Use it in `with`, so that connections are kept between calls.

    Raises:
        ConfigurationError: a setting is invalid, also when it is assigned later.
    """

    category: str = SSEOxyGent.category
    _entered: int = 0
    """How many blocks of this agent are open."""
    _entered_in: Portal | None = None
    """The event loop in which the connections of these blocks are."""

    server_url: str = setting()
    name: str = setting()
    desc: str = setting()
    org: dict[str, Any] = setting()
    is_share_call_stack: bool = setting()
    call_stack_strategy: Literal["full", "partial", "none"] | None = setting()
    callee: str | None = setting()
    check_callee: bool = setting()
    transport: Transport | None = setting()
    router: EventRouter = setting()
    event_filter: Callable[[Any], bool] | None = setting()
    auth: Policy | None = setting()
    headers: Mapping[str, str] = setting()
    forward_headers: Collection[str] = setting()
    timeouts: Timeouts = setting()
    retry: Retry = setting()
    limits: Limits = setting()
    https_only: bool = setting()
    plaintext_hosts: Collection[str] = setting()
    policies: Collection[Policy] = setting()
    argument_overrides: Collection[str] = setting()
    share_data: bool | Collection[str] = setting()
    sanitize: Callable[[Any], Any] | None = setting()
    schema: Mapping[str, Callable[[Any], object]] | Mapping[str | None, Callable[[Any], object]] = setting()
    strict: bool = setting()
    confirm_state: bool | Literal["auto"] = setting()
    failure_detector: Callable[[Any], bool] | None = setting()
    observers: Collection[Observer] = setting()

    @constructor(_Agent.__init__)
    def __init__(self, *args: Any, **settings: Any) -> None:
        """Each argument is the attribute of the same name, which can be assigned later, too."""
        agent = _Agent(*args, **settings)
        agent._face = self  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self._agent: SSEOxyGent = agent

    @staticmethod
    def from_async(agent: SSEOxyGent) -> SyncSSEOxyGent:
        """Return a synchronous face of an existing agent, such as that of a profile; both share all settings."""
        face = SyncSSEOxyGent.__new__(SyncSSEOxyGent)
        vars(face)["_agent"] = agent
        return face

    # --- handlers ---

    @property
    def event_handlers(self) -> Mapping[str, Callable[[Any], object]]:
        """From message type to a plain or async function of the message's content."""
        handlers = self._agent.event_handlers
        return handlers.given if isinstance(handlers, _Handlers) else handlers

    @event_handlers.setter
    def event_handlers(self, value: Mapping[str, Callable[[Any], object]]) -> None:
        self._agent.event_handlers = _async_handlers(value)

    @property
    def progress_callback(self) -> Callable[[str], object] | None:
        """A plain or async function, called with a text when a run starts, calls, and completes."""
        callback = self._agent.progress_callback
        return callback.function if isinstance(callback, PlainCallback) else callback

    @progress_callback.setter
    def progress_callback(self, value: Callable[[str], object] | None) -> None:
        self._agent.progress_callback = _async_callback(value)

    def set_progress_callback(self, callback: Callable[[str], object] | None) -> None:
        """Set `progress_callback`; None disables it."""
        self.progress_callback = callback

    # --- hooks ---

    def prepare_payload(self, oxy_request: OxyRequest) -> dict[str, Any]:
        """Build the payload of a request. Override it to change the payload; it must not block."""
        agent = self._agent
        prepare = super(_Agent, agent).prepare_payload if isinstance(agent, _Agent) else agent.prepare_payload
        return prepare(oxy_request)

    def prepare_headers(self, oxy_request: OxyRequest) -> dict[str, str]:
        """Build the headers of a request. Override it to add headers; it must not block."""
        agent = self._agent
        prepare = super(_Agent, agent).prepare_headers if isinstance(agent, _Agent) else agent.prepare_headers
        return prepare(oxy_request)

    def handle_tool_call_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
        """Handle a `tool_call` message; override it."""

    def handle_observation_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
        """Handle an `observation` message; override it."""

    def _process_custom_event(self, event_data: Any, oxy_request: OxyRequest) -> None:
        """Handle a message that is no answer, tool call or observation; override it."""

    # --- runs ---

    @blocking(SSEOxyGent.execute)
    def execute(self) -> None:
        """Execute a request. A failure is a response, too: its `state` is FAILED, and `extra` describes the error."""

    @blocking(SSEOxyGent.ask)
    def ask(self) -> None:
        """Run the remote and return its response."""

    @converting(SSEOxyGent.stream)
    def stream(self, *args: Any, **options: Any) -> SyncRun:
        """Run the remote and iterate over its events: `for event in agent.stream(query): ...`.

        The arguments are those of `ask`.
        """
        return SyncRun(self._agent.stream(*args, **options), self._get_portal)

    @blocking(SSEOxyGent.start)
    def start(self) -> None:
        """Start a detached run, with the arguments of `ask`: it needs no connection; `attach` reads its events."""

    @converting(SSEOxyGent.map)
    def map(self, queries: Any, **options: Any) -> SyncQueryResults:
        """Run many queries, at most `limit` at a time: `for result in agent.map(queries, limit=8): ...`.

        Each result has the query and its response or error: a query that fails does not stop the others. Leaving the
        `for` cancels the runs in progress.

        Args:
            queries: an iterable of queries and requests, read in the calling thread; it may block. An async iterable
                is read in the event loop.
            limit: how many runs are in progress at a time.
            ordered: True gives the results in the order of the queries, False as soon as their runs end.
            timeout: seconds for each call, or all its time-outs, as for `ask`.
            headers: headers of each call, over those of the agent.
            callee: the name of the agent that the remote runs; None: that of the agent.
        """
        return SyncQueryResults(partial(self._agent.map, **options), queries, self._get_portal)

    @converting(SSEOxyGent.attach)
    def attach(self, *args: Any, **options: Any) -> SyncRun:
        """Read the events of a detached run: `for event in agent.attach(token): ...`. Leaving does not stop the run."""
        return SyncRun(self._agent.attach(*args, **options), self._get_portal)

    @converting(SSEOxyGent.conversation)
    def conversation(self, *args: Any, **options: Any) -> SyncConversation:
        """Start a conversation, or with a token continue one: `with agent.conversation() as chat: chat.ask(...)`."""
        return SyncConversation(self._agent.conversation(*args, **options), self)

    @converting(SSEOxyGent.restart)
    def restart(self, *args: Any, **options: Any) -> SyncRun:
        """Run again from one of a run's calls, with another output of that call."""
        return SyncRun(self._agent.restart(*args, **options), self._get_portal)

    @plain(SSEOxyGent.prepared)
    def prepared(self) -> None:
        """Return the clone of a request that this agent executes."""

    # --- the server ---

    @blocking(SSEOxyGent.init)
    def init(self) -> None:
        """Discover the remote: `org`, `desc` if it is empty, and the names of its agents."""

    @plain(SSEOxyGent.get_org)
    def get_org(self) -> None:
        """Return a copy of the members below the remote's root, each marked `is_remote`; empty before `init`."""

    @property
    def sent(self) -> SentSecrets:
        """The credentials that the latest discovery sent, for `sanitize.without_credentials`."""
        return self._agent.sent

    @blocking(SSEOxyGent.check_alive)
    def check_alive(self) -> None:
        """Health check: True if an OxyGent server answers at `server_url`; False if it reports that it is not alive."""

    @blocking(SSEOxyGent.lookup)
    def lookup(self) -> None:
        """Return the server's record of the last run with your id `trace_id`; None if there is none."""

    @blocking(SSEOxyGent.feedback)
    def feedback(self) -> None:
        """Send a running agent the input of a human that it waits for."""

    @blocking(SSEOxyGent.rate)
    def rate(self) -> None:
        """Rate the answer of a run, for the statistics of the server: `"like"` or `"dislike"`."""

    @blocking(SSEOxyGent.welcome)
    def welcome(self) -> None:
        """Return the server's welcome message and first query."""

    @blocking(SSEOxyGent.upload)
    def upload(self) -> None:
        """Store a file at the server and return the server's name of it, for the argument `attachments`."""

    @converting(SSEOxyGent.as_tool)
    def as_tool(self, *args: Any, **options: Any) -> AgentTool:
        """Return the agent as a tool for another framework; its `ask_sync` uses the connections of this agent."""
        tool = self._agent.as_tool(*args, **options)

        @functools.wraps(tool.ask_sync)
        def ask_sync(query: str) -> str:
            return cast("str", self._wait_for(tool.ask, query))

        return attrs.evolve(tool, ask_sync=ask_sync)

    @plain(SSEOxyGent.stats)
    def stats(self) -> None:
        """Return a snapshot of the statistics of this agent's runs."""

    # --- the transport ---

    def __enter__(self) -> Self:
        self._wait_for(self._agent.__aenter__)
        self._entered, self._entered_in = self._entered + 1, current_portal()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        portal = current_portal()
        self._entered -= 1
        if self._entered_in is portal:  # else its connections are gone with the event loop that had them
            portal.run(self._agent.__aexit__, None, None, None)

    def close(self) -> None:
        """Close the connections that the agent keeps; a transport that you passed stays open."""
        self._wait_for(self._agent.aclose)

    def _get_inner(self) -> SSEOxyGent:
        return self._agent

    def _get_portal(self) -> Portal:
        """The present event loop, with this agent open in it if it is open: another loop follows a fork."""
        portal = current_portal()
        if self._entered and self._entered_in is not portal:
            self._entered_in = portal
            for _ in range(self._entered):
                portal.run(self._agent.__aenter__)
        return portal

    def _wait_for(self, function: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        return self._get_portal().run(function, *args, **kwargs)

    # --- copies and pickles ---

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_entered": 0, "_entered_in": None}

    def __copy__(self) -> Self:
        clone, agent = type(self).__new__(type(self)), copy.copy(self._agent)
        clone.__dict__.update(self.__getstate__(), _agent=agent)
        if isinstance(agent, _Agent):
            agent._face = clone  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        return clone

    def __repr__(self) -> str:
        return repr(self._agent).replace(f"<{type(self._agent).__name__} ", f"<{type(self).__name__} ", 1)
