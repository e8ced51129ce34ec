"""`SSEOxyGent`: composes a transport, a payload builder and an event router.

Rule 1: this file joins; what it joins knows nothing of it. It stays under 150 lines (`tests/project/test_layers.py`).
Rule 2: what subclasses assign after `super().__init__(...)` is read when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any, Self, Unpack

from oxygent_client._agent.client import Client
from oxygent_client._agent.options import EventFilter, EventHandler, ProgressCallback, check_settings
from oxygent_client._agent.remote_agent import CallOptions, make_request, single_attempt
from oxygent_client._agent.request_builder import RequestBuilder
from oxygent_client._agent.transport_lease import TransportPool
from oxygent_client._api.discovery import RemoteCatalog
from oxygent_client._core.ids import new_id
from oxygent_client._core.requests import OxyRequest, OxyResponse
from oxygent_client._core.settings import ConfirmState, Limits, Timeouts
from oxygent_client._core.transport import Transport
from oxygent_client._protocol.payload import CallStackStrategy
from oxygent_client._protocol.router import EventRouter
from oxygent_client._protocol.schema import Schema
from oxygent_client._run.run import Run
from oxygent_client.policies import HTTPSOnly, Policies, Policy, Retry, check_secure
from oxygent_client.telemetry._observers import Observer
from oxygent_client.telemetry._stats import StatsCollector

__all__ = ["SSEOxyGent"]


class SSEOxyGent(Client):
    """A remote OxyGent system, used as if it were a local agent.

    Each argument becomes the attribute of its name (`progress_callback`: `progress_told`), where it is explained;
    `name` and `desc` are your own words for the agent. A `transport` that you give is never closed by the agent; None
    makes an `HTTPXTransport`. A `Cluster` chooses the server: then there is no `server_url`.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    def __init__(
        self,
        *,
        server_url: str = "",
        name: str = "remote",
        desc: str = "",
        is_share_call_stack: bool = True,
        call_stack_strategy: CallStackStrategy | None = None,
        callee: str | None = None,
        check_callee: bool = True,
        transport: Transport | None = None,
        router: EventRouter | None = None,
        event_handlers: Mapping[str, EventHandler] | None = None,
        event_filter: EventFilter | None = None,
        progress_callback: ProgressCallback | None = None,
        auth: Policy | None = None,
        headers: Mapping[str, str] | None = None,
        forward_headers: Collection[str] = frozenset(),
        timeouts: Timeouts = Timeouts(),
        retry: Retry = Retry(),
        limits: Limits = Limits(),
        https_only: bool = False,
        plaintext_hosts: Collection[str] = (),
        policies: Collection[Policy] = (),
        argument_overrides: Collection[str] = frozenset(),
        share_data: bool | Collection[str] = True,
        sanitize: Callable[[Any], Any] | None = None,
        schema: Schema | None = None,
        strict: bool = False,
        confirm_state: ConfirmState = "auto",
        failure_detector: Callable[[Any], bool] | None = None,
        observers: Collection[Observer] = (),
    ) -> None:
        check_settings(locals())
        self.transport = transport
        super().__init__(server_url=server_url, name=name, desc=desc)
        judged = HTTPSOnly(https_only=https_only, plaintext_hosts=plaintext_hosts)
        if server_url:  # else a Cluster chooses it, and checks
            check_secure(server_url, {}, judged)
        self.is_share_call_stack = is_share_call_stack
        self.call_stack_strategy = call_stack_strategy
        self.callee = callee
        self.check_callee = check_callee
        self.router = EventRouter() if router is None else router
        self.event_handlers = {} if event_handlers is None else event_handlers
        self.event_filter = event_filter
        self.progress_told = progress_callback
        self.auth = auth
        self.headers = {} if headers is None else headers
        self.forward_headers = forward_headers
        self.timeouts = timeouts
        self.retry = retry
        self.limits = limits
        self.https_only = https_only
        self.plaintext_hosts = plaintext_hosts
        self.policies = policies
        self.argument_overrides = argument_overrides
        self.share_data = share_data
        self.sanitize = sanitize
        self.schema = {} if schema is None else schema
        self.strict = strict
        self.confirm_state = confirm_state
        self.failure_detector = failure_detector
        self.observers = observers
        self._keeper, self._directory, self._policies = StatsCollector(), RemoteCatalog(), Policies()
        self._connections = TransportPool(self._make_transport)

    async def ask(self, query: str | OxyRequest, **fields: Unpack[CallOptions]) -> OxyResponse:
        """The remote's response to `query`.

        Raises:
            OxyError: there is none; the class, `outcome` and `retryable` say what to do about it.
        """
        return await self._execute(self.prepared(make_request(query, fields)))

    def stream(self, query: str | OxyRequest, **fields: Unpack[CallOptions]) -> Run:
        """The remote's work on `query`: `async with agent.stream(query) as run: async for event in run: ...`."""
        return self._run(self.prepared(make_request(query, fields)))

    @single_attempt
    async def _execute(self, oxy_request: OxyRequest) -> OxyResponse:
        async with self._run(oxy_request) as run:
            return await run.final_response()

    async def _get_base_execution_logic(self, oxy_request: OxyRequest) -> OxyResponse:
        """What `_execute` does unless a subclass replaces it."""
        return await SSEOxyGent._execute(self, oxy_request)

    def _run(self, request: OxyRequest) -> Run:
        trace_id = str(request.current_trace_id or new_id())
        preparation = RequestBuilder(self, self._directory, request, trace_id, self.server_url)
        return Run(self._plan(request, trace_id, preparation))

    async def __aenter__(self) -> Self:
        self._connections.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._connections.leave()

    async def aclose(self) -> None:
        """Close the connections that the agent keeps; a transport that you gave stays open."""
        await self._connections.aclose()
