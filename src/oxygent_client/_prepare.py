"""From a request to the HTTP request that carries it: what may be said, and how names translate on the way back.

Rule 1: the user's `prepare_payload` and `prepare_headers` come first, `seal` and the protocol's own headers last.
Rule 2: the local name of an agent is the name of nothing at the remote, unless a discovery showed it there.
"""

from __future__ import annotations

import math

import attrs

from oxygent_client._discovery import Directory
from oxygent_client._hooks import Hooks
from oxygent_client._models import OxyRequest
from oxygent_client._payload import check_arguments, encode, seal
from oxygent_client._router import Link
from oxygent_client._traces import TRACES
from oxygent_client._transport import Context, HTTPRequest, Transport
from oxygent_client._wire import HEADERS, PATHS, RUN_HEADERS

__all__ = ["Preparation", "headers_of", "question"]


@attrs.frozen
class Preparation:
    """How one agent asks for one run."""

    agent: Hooks
    directory: Directory
    request: OxyRequest
    trace_id: str

    async def __call__(self, transport: Transport, remote_trace_id: str, deadline: float) -> tuple[HTTPRequest, Link]:
        """The POST that asks for the run, and how the names in its messages translate.

        Raises:
            PayloadError: the request cannot become a payload.
            UnknownCalleeError: the remote does not have the callee.
        """
        agent, request = self.agent, self.request
        check_arguments(request.arguments, agent.argument_overrides)
        callee = await self._callee(transport)
        payload = seal(
            agent.prepare_payload(request),
            trace_id=remote_trace_id,
            callee=callee,
            from_trace_id=TRACES.remote_name(agent.server_url, request.from_trace_id or ""),
            share_data=agent.share_data,
        )
        stack = None if "call_stack" in payload else tuple(request.call_stack)
        link = Link(call_stack=stack, trace_id=self.trace_id, remote_trace_id=remote_trace_id)
        context = Context(
            purpose="run",
            trace_id=self.trace_id,
            group_id=request.group_id,
            deadline=deadline if deadline < math.inf else None,
            idempotent=request.idempotent,
            node_id=str(payload.get("node_id") or ""),
        )
        headers = headers_of(agent, request) | RUN_HEADERS
        return HTTPRequest("POST", agent.server_url, PATHS["run"], headers, encode(payload), context=context), link

    async def _callee(self, transport: Transport) -> str | None:
        agent = self.agent
        if agent.callee is None:
            return agent.name if self.directory.shows(agent.name) else None
        if agent.check_callee:
            await self.directory.check(agent.callee, transport, question(agent, self.request), agent.limits)
        return agent.callee


def question(agent: Hooks, request: OxyRequest) -> HTTPRequest:
    """The pattern of the GETs by which `agent` asks its remote what it is."""
    context = Context(
        purpose="discover",
        trace_id=str(request.current_trace_id),
        group_id=request.group_id,
        node_id=request.node_id or "",
        idempotent=True,
    )
    return HTTPRequest("GET", agent.server_url, "", headers_of(agent, request), context=context)


def headers_of(agent: Hooks, request: OxyRequest) -> dict[str, str]:
    """The headers of every request: the agent's own, and over them what the protocol needs."""
    own = {name.lower(): value for name, value in agent.prepare_headers(request).items()}
    return {**HEADERS, **own, "accept-encoding": HEADERS["accept-encoding"]}
