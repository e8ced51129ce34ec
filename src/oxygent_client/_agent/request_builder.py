"""Build the HTTP request of a run: payload, headers, names of agents.

Rule 1: the user's `prepare_payload` and `prepare_headers` come first, `finalize_payload` and the protocol's own headers
    last.
Rule 2: the local name of an agent is the name of nothing at the remote, unless a discovery showed it there.
"""

from __future__ import annotations

import math

import attrs

from oxygent_client._agent.options import AgentOptions, user_code_errors
from oxygent_client._api.discovery import RemoteCatalog
from oxygent_client._core.errors import Outcome
from oxygent_client._core.ids import new_id
from oxygent_client._core.requests import OxyRequest
from oxygent_client._core.transport import Context, HTTPRequest, Transport
from oxygent_client._protocol.endpoints import HEADERS, PATHS, RUN_HEADERS
from oxygent_client._protocol.payload import RESTART, check_arguments, check_restart, encode, finalize_payload
from oxygent_client._protocol.router import NameMap
from oxygent_client._run.trace_ids import TRACE_IDS
from oxygent_client.cluster import servers_of

__all__ = ["RequestBuilder", "build_headers", "lookup_request"]


@attrs.frozen
class RequestBuilder:
    """How one agent asks for one run."""

    agent: AgentOptions
    directory: RemoteCatalog
    request: OxyRequest
    trace_id: str
    base_url: str
    """The agent's, when the run was asked for: somebody may assign another one meanwhile."""

    async def __call__(
        self, transport: Transport, remote_trace_id: str, deadline: float
    ) -> tuple[HTTPRequest, NameMap]:
        """The POST that asks for the run, and how the names in its messages translate.

        Raises:
            PayloadError: the request cannot become a payload.
            UnknownCalleeError: the remote does not have the callee.
        """
        agent, request = self.agent, self.request
        check_arguments(request.arguments, agent.argument_overrides)
        check_restart({name: getattr(request, name) for name in RESTART})
        callee = await self._callee(transport, deadline)
        with user_code_errors("prepare_payload", Outcome.NOT_SENT):
            payload = agent.prepare_payload(request)
        payload = finalize_payload(
            payload,
            trace_id=remote_trace_id,
            callee=callee,
            from_trace_id=request.from_trace_id or "",
            share_data=agent.share_data,
        )
        if isinstance(before := payload["from_trace_id"], str):
            payload["from_trace_id"] = TRACE_IDS.remote_name(self.base_url, before)
        # By it the run is found in the server's record.
        node_id = payload["node_id"] = str(payload.get("node_id") or request.node_id or new_id())
        stack = None if "call_stack" in payload else tuple(request.call_stack)
        link = NameMap(call_stack=stack, trace_id=self.trace_id, remote_trace_id=remote_trace_id)
        context = Context(
            purpose="run",
            trace_id=self.trace_id,
            group_id=request.group_id,
            deadline=deadline if deadline < math.inf else None,
            idempotent=request.idempotent,
            node_id=node_id,
            remote_trace_id=remote_trace_id,
        )
        headers = build_headers(agent, request) | RUN_HEADERS
        return HTTPRequest("POST", self.base_url, PATHS["run"], headers, encode(payload), context=context), link

    async def _callee(self, transport: Transport, deadline: float) -> str | None:
        agent = self.agent
        if agent.callee is None:
            servers = servers_of(transport, self.base_url)
            return agent.name if self.directory.shows(agent.name, servers) else None
        if agent.check_callee:
            pattern = lookup_request(agent, self.request, self.base_url)
            await self.directory.check(agent.callee, transport, pattern, agent.limits, until=deadline)
        return agent.callee


def lookup_request(agent: AgentOptions, request: OxyRequest, base_url: str) -> HTTPRequest:
    """The pattern of the GETs by which `agent` asks its remote what it is."""
    context = Context(
        purpose="discover",
        trace_id=str(request.current_trace_id),
        group_id=request.group_id,
        node_id=request.node_id or "",
        idempotent=True,
    )
    return HTTPRequest("GET", base_url, "", build_headers(agent, request), context=context)


def build_headers(agent: AgentOptions, request: OxyRequest) -> dict[str, str]:
    """The headers of every request: the agent's own, and over them what the protocol needs."""
    with user_code_errors("prepare_headers", Outcome.NOT_SENT):
        own = {name.lower(): value for name, value in agent.prepare_headers(request).items()}
    return {**HEADERS, **own, "accept-encoding": HEADERS["accept-encoding"]}
