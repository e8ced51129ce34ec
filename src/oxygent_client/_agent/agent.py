"""`SSEOxyGent`: composes a transport, a payload builder and an event router.

Rule 1: a setting is one field, and is checked whenever it is assigned; it is read when it is used, since subclasses
    assign after `super().__init__(...)`.
Rule 2: names and signatures of settings and hooks are those of the OxyGent `SSEOxyGent` documentation.
Rule 3: a hook does nothing by itself, and none replaces the forwarding of a message;
    `oxygent_client._agent.callbacks` describes the order of the calls.
Rule 4: each operation borrows a transport with the agent's policies around it, and returns it.
Rule 5: a plain run loads what it needs. A method that most programs do not call imports what it needs itself.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast

import anyio
import attrs

from oxygent_client._agent import rules
from oxygent_client._agent.call_options import make_options, make_request, with_options
from oxygent_client._agent.callbacks import HOOKS, CallbackDispatcher
from oxygent_client._agent.remote_agent import RemoteAgent, single_attempt
from oxygent_client._agent.request_builder import RequestBuilder, lookup_request
from oxygent_client._agent.rules import EventFilter, EventHandler, ProgressCallback
from oxygent_client._agent.transport_lease import TransportLease, TransportPool
from oxygent_client._api.catalog import DISCOVERY_SECONDS, RemoteCatalog
from oxygent_client._core.errors import ConfigurationError
from oxygent_client._core.ids import new_id
from oxygent_client._core.plain_http import check_secure
from oxygent_client._core.requests import OxyRequest, OxyResponse
from oxygent_client._core.sent_secrets import SentSecrets
from oxygent_client._core.settings import CallOptions, ConfirmState, Limits, Timeouts
from oxygent_client._core.transport import HTTPRequest, Transport
from oxygent_client._core.validation import FLAG, NAMES, TEXTS
from oxygent_client._protocol.payload import CallStackStrategy, build_payload
from oxygent_client._protocol.router import EventRouter
from oxygent_client._protocol.schema import Schema
from oxygent_client._run.abandoned import sweep
from oxygent_client._run.config import RunConfig
from oxygent_client._run.run import Run
from oxygent_client._run.trace_ids import TRACE_IDS
from oxygent_client._run.watched_transport import OutcomeTransport
from oxygent_client.cluster._lookup import cluster_of, home_of, home_of_turn
from oxygent_client.policies._base import Policy
from oxygent_client.policies._chain import Policies
from oxygent_client.policies._https import HTTPSOnly
from oxygent_client.policies._redirect import Redirect
from oxygent_client.policies._retry import Retry
from oxygent_client.telemetry._observers import Observer
from oxygent_client.telemetry._stats_collector import StatsCollector

if TYPE_CHECKING:
    from oxygent_client._agent.conversation import Conversation, ConversationAgent
    from oxygent_client._agent.detached import AttachRequestBuilder, RunHandle
    from oxygent_client._agent.query_map import QueryResults
    from oxygent_client._agent.restart import RestartRequestBuilder
    from oxygent_client._agent.tool import AgentTool
    from oxygent_client._api.services import Rating
    from oxygent_client._protocol.documents import Welcome
    from oxygent_client._protocol.run_record import RunRecord
    from oxygent_client.cluster._run_locations import RunLocation
    from oxygent_client.telemetry._stats import Stats


def _own_transport() -> Callable[..., Transport]:
    """The class of an agent's own transport.

    It is imported as soon as an agent needs it: other agents load no httpx, and no call waits for the import.
    """
    from oxygent_client.transports.httpx import HTTPXTransport

    return HTTPXTransport


_REDIRECT: Final = Redirect()


@lru_cache(maxsize=64)
def _https_only(https_only: bool, plaintext_hosts: tuple[str, ...]) -> HTTPSOnly:
    """The policy of these settings, which each call needs."""
    return HTTPSOnly(https_only=https_only, plaintext_hosts=plaintext_hosts)


def _url_by_position(cls: type[Any], fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """Undo what attrs before 25.4 does: there `kw_only=True` makes inherited fields keyword-only, too."""
    return [
        field if field.kw_only is (field.name != "server_url") else field.evolve(kw_only=not field.kw_only)
        for field in fields
    ]


@attrs.define(slots=False, eq=False, repr=False, kw_only=True, field_transformer=_url_by_position)
class SSEOxyGent(RemoteAgent):
    """A remote OxyGent system, used like a local agent.

    Each argument is the attribute of the same name, which can be assigned later, too.

    Raises:
        ConfigurationError: a setting is invalid, also when it is assigned later.
    """

    _live = ("_transports", "_catalog", "_stats", "_policies")

    is_share_call_stack: bool = attrs.field(default=True, validator=FLAG)
    """Whether the call stack is sent to the remote. If not, the remote sees a plain user as its caller."""
    call_stack_strategy: CallStackStrategy | None = attrs.field(default=None, validator=rules.STRATEGY)
    """How much of the call stack is sent, see `build_payload`; None follows `is_share_call_stack`."""
    callee: str | None = attrs.field(default=None, validator=rules.OPTIONAL_TEXT)
    """The name of the agent that the remote runs. None leaves the choice to the remote, whose master answers."""
    check_callee: bool = attrs.field(default=True, validator=FLAG)
    """Whether to ask the remote for its names before the first call of `callee`: a server does not answer a call of a
    name that it lacks."""
    transport: Transport | None = attrs.field(default=None, validator=rules.TRANSPORT)
    """Moves the bytes; the agent does not close it. None: an `HTTPXTransport` of the agent. A `Cluster` chooses the
    server: then there is no `server_url`."""
    router: EventRouter = attrs.field(default=None, converter=rules.router_or_default, validator=rules.ROUTER)
    """Decides what each type of event does; None is the documented table."""
    event_handlers: Mapping[str, EventHandler] = attrs.field(
        default=None, converter=rules.handlers_or_empty, validator=rules.HANDLERS
    )
    """From message type to `async f(content)`; it gets the whole message if that has no content."""
    event_filter: EventFilter | None = attrs.field(default=None, validator=rules.OPTIONAL_PLAIN)
    """`f(message) -> bool`: False keeps an event from its handler and from `send_message`."""
    progress_callback: ProgressCallback | None = attrs.field(default=None, validator=rules.OPTIONAL_ASYNC)
    """`async f(text)`, called when a run starts, for each forwarded call and its end, and when the run completes. A
    class that overrides `set_progress_callback` reports progress itself."""
    auth: Policy | None = attrs.field(default=None, validator=rules.OPTIONAL_POLICY)
    """Credentials: `BearerAuth`, `BasicAuth`, `APIKey` or `Headers` of `oxygent_client.policies`."""
    headers: Mapping[str, str] = attrs.field(default=None, converter=rules.headers_or_empty, validator=TEXTS)
    """Headers of every request."""
    forward_headers: Collection[str] = attrs.field(default=frozenset[str](), validator=NAMES)
    """Names of incoming headers (`shared_data["_headers"]`) that are sent to the remote."""
    timeouts: Timeouts = attrs.field(default=Timeouts(), validator=rules.TIMEOUTS)
    """Time-outs, in seconds."""
    retry: Retry = attrs.field(default=Retry(), validator=rules.RETRY)
    """When a request that surely ran nothing is repeated."""
    limits: Limits = attrs.field(default=Limits(), validator=rules.LIMITS)
    """How much data of the remote is accepted."""
    https_only: bool = attrs.field(default=False, validator=FLAG)
    """Whether plain http is refused, except to `plaintext_hosts`."""
    plaintext_hosts: Collection[str] = attrs.field(default=(), validator=rules.check_plaintext_hosts)
    """Hosts to which credentials, and with `https_only` anything, may be sent unencrypted."""
    policies: Collection[Policy] = attrs.field(default=(), validator=rules.POLICIES)
    """More policies of `oxygent_client.policies`: `ConcurrencyLimit`, `RateLimit`, another `Redirect`."""
    argument_overrides: Collection[str] = attrs.field(default=frozenset[str](), validator=NAMES)
    """Protocol fields that an argument may overwrite."""
    share_data: bool | Collection[str] = attrs.field(default=True, validator=rules.SHARE_DATA)
    """How much of `shared_data` and `group_data` is sent: all, nothing, or these keys."""
    sanitize: Callable[[Any], Any] | None = attrs.field(default=None, validator=rules.OPTIONAL_PLAIN)
    """`f(message) -> message`, applied to the copy that the filter, handlers and `send_message` get."""
    schema: Schema = attrs.field(default=None, converter=rules.schema_or_empty, validator=rules.SCHEMA)
    """From message type to `f(message)`, which raises ValueError or TypeError if the message is not valid."""
    strict: bool = attrs.field(default=False, validator=FLAG)
    """Whether a message that is not valid by `schema` is an error; if not, its event has `problems`."""
    confirm_state: ConfirmState = attrs.field(default="auto", validator=rules.CONFIRM_STATE)
    """Whether the server's record must confirm an answer: a real server reports a failed agent as a normal answer.
    "auto" reads the record, within `Timeouts.lookup`, if the answer looks like a failure text of the framework; without
    a record, the answer stands. True always reads it, within `Timeouts.confirm`, and raises an `UnconfirmedError`
    without a confirmation. False never reads it."""
    failure_detector: Callable[[Any], bool] | None = attrs.field(default=None, validator=rules.OPTIONAL_PLAIN)
    """`f(output) -> bool`: True makes a failure of an answer. For servers without records."""
    observers: Collection[Observer] = attrs.field(default=(), validator=rules.OBSERVERS)
    """Observers of all runs, beside `stats()`."""

    _catalog: RemoteCatalog = attrs.field(factory=RemoteCatalog, init=False)
    _policies: Policies = attrs.field(factory=Policies, init=False)
    _stats: StatsCollector = attrs.field(factory=StatsCollector, init=False)
    _transports: TransportPool = attrs.field(
        default=attrs.Factory(lambda self: TransportPool(self._make_transport), takes_self=True), init=False
    )

    def _check_together(self) -> None:
        if self.transport is None:
            _own_transport()
        if cluster_of(self.transport) is None:
            super()._check_together()
            check_secure(self.server_url, {}, self._https_only)
        elif self.server_url:
            raise ConfigurationError("server_url cannot be combined with a Cluster, which chooses the server")

    # --- hooks ---

    def prepare_payload(self, oxy_request: OxyRequest) -> dict[str, Any]:
        """Build the payload of a request. Override it to change the payload; the protocol's fields are set after it.

        Raises:
            PayloadError: an argument has the name of a protocol field.
        """
        return self._build_payload(oxy_request)

    def _build_shared_payload(self, request: OxyRequest) -> dict[str, Any]:
        return self._build_payload(request, copy=False)

    def _build_payload(self, request: OxyRequest, *, copy: bool = True) -> dict[str, Any]:
        return build_payload(
            request,
            name=self.name,
            is_share_call_stack=self.is_share_call_stack,
            call_stack_strategy=self.call_stack_strategy,
            argument_overrides=self.argument_overrides,
            copy=copy,
        )

    def prepare_headers(self, oxy_request: OxyRequest) -> dict[str, str]:
        """Build the headers of a request, without those of the protocol. Override it to add headers."""
        inbound: dict[str, str] = oxy_request.get_shared_data("_headers") or {}
        if not inbound:
            return {**self.headers}
        rules.INBOUND_HEADERS.check("_headers", inbound)
        allowed = {name.lower() for name in self.forward_headers}
        return {**{name: value for name, value in inbound.items() if name.lower() in allowed}, **self.headers}

    async def handle_tool_call_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
        """Handle a `tool_call` message (`{"type": ..., "content": {...}}`), that of the run's root too."""

    async def handle_observation_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
        """Handle an `observation` message, like `handle_tool_call_event`."""

    async def _process_custom_event(self, event_data: Any, oxy_request: OxyRequest) -> None:
        """Handle a message that is no answer, tool call or observation: any JSON, or a text."""

    def replaced_hooks(self) -> Collection[str]:
        """The names of the hooks that a subclass, or an assignment, replaced, in the order of the checks."""
        cls, assigned = type(self), self.__dict__
        if cls is SSEOxyGent:
            return [name for name in HOOKS if name in assigned]
        return [name for name in HOOKS if name in assigned or getattr(cls, name) is not getattr(SSEOxyGent, name)]

    @staticmethod
    def _replaced_in(face: object, base: type) -> list[str]:
        """As `replaced_hooks`, of another object that has the hooks of this agent, and its base class."""
        return [name for name in HOOKS if getattr(getattr(face, name), "__func__", None) is not getattr(base, name)]

    def set_progress_callback(self, callback: ProgressCallback | None) -> None:
        """Set `progress_callback`; None disables it.

        Raises:
            ConfigurationError: `callback` is not async.
        """
        self.progress_callback = callback

    # --- runs ---

    async def ask(
        self,
        query: str | OxyRequest,
        *,
        arguments: Mapping[str, Any] | None = None,
        trace_id: str = "",
        from_trace_id: str = "",
        group_id: str = "",
        shared_data: dict[str, Any] | None = None,
        group_data: dict[str, Any] | None = None,
        idempotent: bool = False,
        timeout: float | Timeouts | None = None,  # noqa: ASYNC109  (httpx and openai name it so)
        headers: Mapping[str, str] | None = None,
        callee: str | None = None,
    ) -> OxyResponse:
        """Run the remote and return its response.

        Args:
            query: the query, or a request with all of what follows.
            arguments: more arguments of the agent (any JSON).
            trace_id: your id of this run; generated if empty.
            from_trace_id: the trace id of the previous turn, for the memory of the remote.
            group_id: your id for runs that belong together, in the server's records; generated if empty. It gives no
                memory: `from_trace_id` does, and `conversation` sets both.
            shared_data: data that all calls of the run read and write.
            group_data: data that all runs of the conversation read and write.
            idempotent: True allows that the remote runs twice, so that a request is repeated after more failures.
            timeout: seconds for this call (`Timeouts.total`), or all its time-outs; None: those of the agent.
            headers: headers of this call, over those of the agent: credentials of one user, for example.
            callee: the name of the agent that the remote runs for this call; None: that of the agent.

        Raises:
            OxyError: the run failed; the class, `outcome` and `retryable` tell what to do next.
        """
        request = make_request(
            query,
            arguments=arguments,
            trace_id=trace_id,
            from_trace_id=from_trace_id,
            group_id=group_id,
            shared_data=shared_data,
            group_data=group_data,
            idempotent=idempotent,
        )
        options = make_options(timeout=timeout, headers=headers, callee=callee)
        return await self._execute(with_options(self.prepared(request), options))

    def stream(
        self,
        query: str | OxyRequest,
        *,
        arguments: Mapping[str, Any] | None = None,
        trace_id: str = "",
        from_trace_id: str = "",
        group_id: str = "",
        shared_data: dict[str, Any] | None = None,
        group_data: dict[str, Any] | None = None,
        idempotent: bool = False,
        timeout: float | Timeouts | None = None,
        headers: Mapping[str, str] | None = None,
        callee: str | None = None,
    ) -> Run:
        """Run the remote and iterate over its events, with the arguments of `ask`.

        `async with agent.stream(query) as run: async for event in run: ...`
        """
        request = make_request(
            query,
            arguments=arguments,
            trace_id=trace_id,
            from_trace_id=from_trace_id,
            group_id=group_id,
            shared_data=shared_data,
            group_data=group_data,
            idempotent=idempotent,
        )
        options = make_options(timeout=timeout, headers=headers, callee=callee)
        return self._run(with_options(self.prepared(request), options))

    async def start(
        self,
        query: str | OxyRequest,
        *,
        arguments: Mapping[str, Any] | None = None,
        trace_id: str = "",
        from_trace_id: str = "",
        group_id: str = "",
        shared_data: dict[str, Any] | None = None,
        group_data: dict[str, Any] | None = None,
        idempotent: bool = False,
        timeout: float | Timeouts | None = None,  # noqa: ASYNC109  (httpx and openai name it so)
        headers: Mapping[str, str] | None = None,
        callee: str | None = None,
    ) -> RunHandle:
        """Start a detached run, with the arguments of `ask`: it needs no connection; `attach` reads its events.

        Raises:
            OxyError: it was not started, or (`outcome` UNKNOWN) it may have been.
        """
        from oxygent_client._agent.detached import start_detached

        request = make_request(
            query,
            arguments=arguments,
            trace_id=trace_id,
            from_trace_id=from_trace_id,
            group_id=group_id,
            shared_data=shared_data,
            group_data=group_data,
            idempotent=idempotent,
        )
        options = make_options(timeout=timeout, headers=headers, callee=callee)
        build = self._request_builder(with_options(self.prepared(request), options))
        timeouts = options.timeouts(self.timeouts)
        return await start_detached(build, self._lease, timeouts=timeouts, observers=self.observers)

    def map(
        self,
        queries: Iterable[str | OxyRequest] | AsyncIterable[str | OxyRequest],
        *,
        limit: int = 10,
        ordered: bool = True,
        timeout: float | Timeouts | None = None,
        headers: Mapping[str, str] | None = None,
        callee: str | None = None,
    ) -> QueryResults:
        """Run many queries, at most `limit` at a time.

        `async with agent.map(queries, limit=8) as results: async for result in results: ...`

        Each result has the query and its response or error: a query that fails does not stop the others. Queries are
        read as they are needed: at most `limit` are in progress, or have a result that you have not read. Leaving the
        block cancels the runs in progress.

        Args:
            queries: an iterable, or async iterable, of queries and requests. A plain iterable must not block.
            limit: how many runs are in progress at a time.
            ordered: True gives the results in the order of the queries, like `map` of Python; one slow run then holds
                back those after it. False gives each result as soon as its run ends.
            timeout: seconds for each call, or all its time-outs, as for `ask`.
            headers: headers of each call, over those of the agent.
            callee: the name of the agent that the remote runs; None: that of the agent.

        Raises:
            ConfigurationError: an argument is invalid.
        """
        from oxygent_client._agent.query_map import QueryResults

        CallOptions(timeout=timeout, headers=headers, callee=callee)  # raises before the first query
        ask = partial(self.ask, timeout=timeout, headers=headers, callee=callee)
        return QueryResults(ask, queries, limit=limit, ordered=ordered)

    def attach(self, token: str, *, request: OxyRequest | None = None) -> Run:
        """Read the events of a detached run: `async with agent.attach(token) as run: ...`.

        A connection that breaks is made again; leaving the block does not stop the run. The server keeps 1,024 messages
        for the next reader, sends each once, and loses those that were under way when a connection broke: if the end is
        lost, the answer is read from the server's record.

        Args:
            token: the result of `RunHandle.to_token`.
            request: its `send_message` gets the forwarded messages; None discards them.

        Raises:
            ConfigurationError: `token` is no token, or its run is at another server.
        """
        from oxygent_client._agent.detached import AttachRequestBuilder, attach_request, read_token

        handle = read_token(token, self.server_url)
        request = attach_request(handle, request, self.name)
        build = AttachRequestBuilder(
            handle=handle,
            request=request,
            base_url=self.server_url or handle.server_url,
            prepare_headers=self.prepare_headers,
        )
        return Run(self._run_config(request, handle.trace_id, build, attached_to=handle.remote_trace_id))

    def conversation(self, token: str = "", *, group_id: str = "") -> Conversation:
        """Start a conversation, whose turns remember those before: `async with agent.conversation() as chat`.

        Over a `Cluster` all turns go to the replica that ran the first, unless `Cluster.shared_storage`.

        Args:
            token: the result of `Conversation.to_token`, to continue that conversation; empty for a new one.
            group_id: your id of a new conversation; generated if empty.

        Raises:
            ConfigurationError: `token` is no token, or its conversation is at another server.
        """
        from oxygent_client._agent.conversation import start_conversation

        return start_conversation(cast("ConversationAgent", self), token, group_id)

    def restart(
        self,
        trace_id: str,
        node_id: str,
        *,
        output: str | None = None,
        request: OxyRequest | None = None,
        options: CallOptions | None = None,
    ) -> Run:
        """Restart an earlier run from one of its calls: `async with agent.restart(...) as run: ...`.

        It is a new run with the arguments of the earlier one. The server replays the calls of tools and models that had
        ended before this call from its record, gives this call `output`, and runs everything after it again. The record
        is read when the block is entered; nothing is sent unless it has the call.

        Args:
            trace_id: your id of the earlier run, or the server's.
            node_id: the id of a call of a tool or model in it, as `lookup` and the events show it.
            output: the output that the call gets instead; None runs the call again.
            request: ids and `send_message` of the new run; its arguments are not used.
            options: time-outs and headers of this call alone; its callee is not used.

        Raises:
            UnknownNodeError: on entering the block: the record does not have the call, or it cannot be restarted.
            ConfigurationError: an argument is invalid, or there are several servers, and this program started no such
                run.
        """
        from oxygent_client._agent.restart import RestartRequestBuilder, check_restart_options

        check_restart_options(trace_id=trace_id, node_id=node_id, output=output)
        location = self._known_location("trace_id", trace_id)
        build = RestartRequestBuilder(
            build=self._request_builder(
                with_options(self.prepared(request or OxyRequest()), options or CallOptions()), location.base_url
            ),
            reference_trace_id=location.remote_trace_id,
            node_id=node_id,
            output=output,
        )
        return Run(self._run_config(build.build.request, build.build.trace_id, build))

    @single_attempt
    async def _execute(self, oxy_request: OxyRequest) -> OxyResponse:
        async with self._run(oxy_request) as run:
            return await run.final_response()

    async def _get_base_execution_logic(self, oxy_request: OxyRequest) -> OxyResponse:
        """Do what `_execute` does unless a subclass replaces it."""
        return await SSEOxyGent._execute(self, oxy_request)

    def _run(self, request: OxyRequest) -> Run:
        build = self._request_builder(request)
        return Run(self._run_config(request, build.trace_id, build))

    def _request_builder(self, request: OxyRequest, base_url: str = "") -> RequestBuilder:
        return RequestBuilder(
            request=request,
            trace_id=str(request.current_trace_id or new_id()),
            base_url=base_url or self.server_url or home_of_turn(self.transport, request.from_trace_id or ""),
            name=self.name,
            callee=request.call_options.callee or self.callee,
            check_callee=self.check_callee,
            argument_overrides=self.argument_overrides,
            share_data=self.share_data,
            limits=self.limits,
            catalog=self._catalog,
            prepare_payload=(
                self.prepare_payload if "prepare_payload" in self.replaced_hooks() else self._build_shared_payload
            ),
            prepare_headers=self.prepare_headers,
        )

    def _run_config(
        self,
        request: OxyRequest,
        trace_id: str,
        build: RequestBuilder | RestartRequestBuilder | AttachRequestBuilder,
        *,
        attached_to: str = "",
    ) -> RunConfig:
        callbacks: Any = self  # to pyright a field with a converter is no property
        return RunConfig(
            request=request,
            trace_id=trace_id,
            base_url=build.base_url,
            lease=self._lease,
            prepare=build,
            router=self.router,
            listener=CallbackDispatcher(callbacks, request),
            timeouts=request.call_options.timeouts(self.timeouts),
            limits=self.limits,
            confirm_state=self.confirm_state,
            failure_detector=self.failure_detector,
            schema=self.schema,
            strict=self.strict,
            https_only=self._https_only,
            attached_to=attached_to,
            observed=self._stats.observed(self.observers),
        )

    # --- the server ---

    async def init(self) -> None:
        """Discover the remote: `org`, `desc` if it is empty, and the names of its agents.

        Raises:
            OxyError: the remote could not be reached, or its answer is malformed.
        """
        await super().init()
        async with self._operation() as (transport, template, until):
            remote = await self._catalog.refresh(transport, template, self.limits, until=until)
        self._keep(remote.organization, remote.description)

    @property
    def sent(self) -> SentSecrets:
        """The credentials that the latest discovery sent, for `sanitize.without_credentials`."""
        return self._catalog.sent

    async def check_alive(self) -> bool:
        """Health check: True if an OxyGent server answers at `server_url`; False if it reports that it is not alive.

        Raises:
            OxyError: no OxyGent server answers; the class tells why.
        """
        from oxygent_client._api import services

        async with self._operation() as (transport, template, until):
            return await services.check_alive(transport, template, self.limits, until=until)

    async def lookup(self, trace_id: str, *, must_read: bool = False) -> RunRecord | None:
        """Return the server's record of the last run with your id `trace_id`.

        A record may lag behind its run: while it does not show the end of the run, it is read again, for at most
        `Timeouts.lookup`. None if the server has no such record, keeps no records, or cannot be reached.

        With `must_read`, None means only that the server has no such record: that a run never began is known then.

        Raises:
            ConfigurationError: with `must_read`, there are several servers, and this program started no such run.
            OxyError: with `must_read`, the server keeps no records or cannot be reached, or its answer is malformed.
        """
        from oxygent_client._api.records import look_until

        location = self._known_location("trace_id", trace_id) if must_read else self._location(trace_id)
        if location is None:
            return None
        async with self._operation(location.base_url) as (transport, template, until):
            record = await look_until(
                lambda record: record.is_over,
                transport,
                template,
                location.remote_trace_id,
                self.limits,
                until=anyio.current_time() + (self.timeouts.lookup or 0),
                first_until=until,
                with_arguments=True,
                must_read=must_read,
            )
        return record if record is not None and record.nodes else None

    async def feedback(self, channel_id: str, data: Any) -> None:
        """Send a running agent the input of a human that it waits for; `data` is any JSON, and empty data is the last.

        The channel is the one that the agent opened: the trace id of the run, unless the agent chose another name.

        Raises:
            PayloadError: `data` is not JSON.
            ConfigurationError: there are several servers, and this program started no run of that name.
            EnvelopeError: no run has such a channel; nothing was delivered.
            OxyError: the server could not be reached, or refused.
        """
        from oxygent_client._api import services

        location = self._known_location("channel_id", channel_id)
        async with self._operation(location.base_url) as (transport, template, until):
            await services.feedback(transport, template, location.remote_trace_id, data, self.limits, until=until)

    async def rate(self, trace_id: str, rating: Rating, comment: str = "") -> None:
        """Rate the answer of a run, for the statistics of the server: `"like"` or `"dislike"`.

        A run can be rated several times; each counts.

        Args:
            trace_id: your id of the run, or the server's.
            rating: the rating.
            comment: a text of at most 500 characters.

        Raises:
            ConfigurationError: an argument is invalid, or there are several servers, and this program started no such
                run.
            NotFoundError: the server's release has no ratings.
            OxyError: the server could not be reached, or refused.
        """
        from oxygent_client._api import services

        location = self._known_location("trace_id", trace_id)
        async with self._operation(location.base_url) as (transport, template, until):
            remote = location.remote_trace_id
            await services.rate(transport, template, remote, rating, comment, self.limits, until=until)

    async def welcome(self) -> Welcome:
        """Read the server's welcome message and suggested first queries; both are empty at a server without them.

        Raises:
            OxyError: the server could not be reached, or its response is malformed.
        """
        from oxygent_client._api import services

        async with self._operation() as (transport, template, until):
            return await services.welcome(transport, template, self.limits, until=until)

    async def upload(self, name: str, content: bytes) -> str:
        """Store a file at the server and return the server's name of it, for the argument `attachments`.

        The time-out is that of a run, `Timeouts.total`.

        Raises:
            PayloadError: `name` is no plain file name.
            OxyError: the server could not be reached, or refused.
        """
        from oxygent_client._api import services

        async with self._operation(seconds=math.inf) as (transport, template, until):
            return await services.upload(transport, template, name, content, self.limits, until=until)

    def as_tool(self, *, name: str = "", description: str = "", callee: str | None = None) -> AgentTool:
        """Return the agent as a tool for another framework, such as LangGraph, pydantic-ai or OpenAI Agents.

        Args:
            name: the name of the tool; by default that of `callee`, or of this agent. Other characters than letters,
                digits, `_` and `-` become `_`.
            description: what the agent does, for the model that chooses; by default `desc`, which `init` may fill in.
            callee: the name of the agent that the remote runs; None is the agent's own setting.
        """
        from oxygent_client._agent.tool import make_tool

        return make_tool(
            self,
            name=name or callee or self.name,
            description=description or ("" if callee else self.desc),
            callee=callee,
        )

    def stats(self) -> Stats:
        """Return a snapshot of the statistics of this agent's runs; safe to call from any thread."""
        sweep()
        return self._stats.stats(self._transports if self.transport is None else self.transport)

    def _known_location(self, argument: str, name: str) -> RunLocation:
        if (location := self._location(name)) is None:
            raise ConfigurationError(
                f"{argument} {name[:100]!r} is unknown: this program started no such run in the cluster"
            )
        return location

    def _location(self, name: str) -> RunLocation | None:
        """The server of the last run with the caller's id `name`; None if that is an unknown replica of a cluster."""
        from oxygent_client.cluster._run_locations import RunLocation

        if self.server_url:
            return RunLocation(self.server_url, TRACE_IDS.remote_name(self.server_url, name))
        return home_of(self.transport, name)

    @asynccontextmanager
    async def _operation(
        self, base_url: str = "", *, seconds: float = DISCOVERY_SECONDS
    ) -> AsyncGenerator[tuple[Transport, HTTPRequest, float], None]:
        """Borrow a transport; also yield the template of a request, and the deadline, within `Timeouts.total`."""
        total = self.timeouts.total
        until = anyio.current_time() + (seconds if total is None else min(seconds, total))
        template = lookup_request(self.prepare_headers, OxyRequest(), base_url or self.server_url)
        async with self._lease() as transport:
            yield transport, template, until

    # --- the transport ---

    def _lease(self) -> TransportLease:
        """Borrow a transport for one operation, with the agent's policies around it."""
        policies = (self.retry, self._https_only, self.auth, *self.policies)
        return self._transports.lease(self.transport, policies, self._wrapped)

    def _wrapped(self, transport: Transport, policies: tuple[Policy | None, ...]) -> Transport:
        given = [policy for policy in policies if policy is not None]
        if not any(isinstance(policy, Redirect) for policy in given):
            given.append(_REDIRECT)
        return self._policies.wrap(OutcomeTransport(transport), *given)

    @property
    def _https_only(self) -> HTTPSOnly:
        return _https_only(self.https_only, tuple(self.plaintext_hosts))

    def _make_transport(self) -> Transport:
        """Make a transport of the agent's own, by its present settings."""
        return _own_transport()(connect=self.timeouts.connect)

    async def __aenter__(self) -> Self:
        self._transports.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._transports.leave()

    async def aclose(self) -> None:
        """Close the connections that the agent keeps; a transport that you passed stays open."""
        await self._transports.aclose()
