"""`SSEOxyGent`: a transport, a payload, a router, and nothing else of its own.

Rule 1: this file joins; what it joins knows nothing of it. It stays under 150 lines (`tests/test_layers.py`).
Rule 2: what subclasses assign after `super().__init__(...)` is read when it is used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from types import TracebackType
from typing import Self, Unpack

from oxygent_client._connections import Connections
from oxygent_client._delivery import Delivery
from oxygent_client._discovery import Directory
from oxygent_client._hooks import EventFilter, EventHandler, Hooks, ProgressCallback
from oxygent_client._ids import new_id
from oxygent_client._models import OxyRequest, OxyResponse
from oxygent_client._payload import CallStackStrategy
from oxygent_client._prepare import Preparation, question
from oxygent_client._remote import Asked, asked
from oxygent_client._router import EventRouter
from oxygent_client._run import Plan, Run
from oxygent_client._settings import Limits, Timeouts
from oxygent_client._transport import Transport
from oxygent_client.transports.httpx import HTTPXTransport

__all__ = ["SSEOxyGent"]


class SSEOxyGent(Hooks):
    """A remote OxyGent system, used as if it were a local agent.

    Each argument becomes the attribute of its name, where it is explained; `name` and `desc` are the caller's own words
    for the agent. A `transport` that you give is never closed by the agent; None makes an `HTTPXTransport`.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    def __init__(
        self,
        *,
        server_url: str,
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
        headers: Mapping[str, str] | None = None,
        forward_headers: Collection[str] = frozenset(),
        timeouts: Timeouts = Timeouts(),
        limits: Limits = Limits(),
        argument_overrides: Collection[str] = frozenset(),
        share_data: bool | Collection[str] = True,
    ) -> None:
        super().__init__(server_url=server_url, name=name, desc=desc)
        self.is_share_call_stack = is_share_call_stack
        self.call_stack_strategy = call_stack_strategy
        self.callee = callee
        self.check_callee = check_callee
        self.transport = transport
        self.router = router or EventRouter()
        self.event_handlers = event_handlers or {}
        self.event_filter = event_filter
        self.progress_told = progress_callback
        self.headers = headers or {}
        self.forward_headers = forward_headers
        self.timeouts = timeouts
        self.limits = limits
        self.argument_overrides = argument_overrides
        self.share_data = share_data
        self._directory = Directory()
        self._connections = Connections(partial(HTTPXTransport, connect=timeouts.connect))

    async def init(self) -> None:
        """Find out what the remote is: `org`, `desc` if it is empty, and the names it knows.

        Raises:
            OxyError: the remote could not be asked, or answered nonsense.
        """
        await super().init()
        async with self._connections.lease(self.transport) as transport:
            remote = await self._directory.look(transport, question(self, OxyRequest()), self.limits)
        self.org = remote.organization
        self.desc = self.desc or remote.description

    async def ask(self, query: str | OxyRequest, **fields: Unpack[Asked]) -> OxyResponse:
        """The remote's response to `query`.

        Raises:
            OxyError: there is none; the class, `outcome` and `retryable` say what to do about it.
        """
        return await self._execute(self.prepared(asked(query, fields)))

    def stream(self, query: str | OxyRequest, **fields: Unpack[Asked]) -> Run:
        """The remote's work on `query`: `async with agent.stream(query) as run: async for event in run: ...`."""
        return self._run(self.prepared(asked(query, fields)))

    async def _execute(self, oxy_request: OxyRequest) -> OxyResponse:
        async with self._run(oxy_request) as run:
            return await run.final_response()

    async def _get_base_execution_logic(self, oxy_request: OxyRequest) -> OxyResponse:
        """What `_execute` does unless a subclass replaces it."""
        return await SSEOxyGent._execute(self, oxy_request)

    def _run(self, request: OxyRequest) -> Run:
        trace_id = request.current_trace_id or new_id()
        return Run(
            Plan(
                request=request,
                trace_id=trace_id,
                base_url=self.server_url,
                lease=partial(self._connections.lease, self.transport),
                prepare=Preparation(self, self._directory, request, trace_id),
                router=self.router,
                listener=Delivery(self, request),
                timeouts=self.timeouts,
                limits=self.limits,
            )
        )

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
