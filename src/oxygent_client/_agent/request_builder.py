"""Build the HTTP request of a run: payload, headers, names of agents.

Rule 1: the user's `prepare_payload` and `prepare_headers` run first; the protocol's own fields and headers are set
    after them.
Rule 2: the local name of an agent is sent as the callee only if a discovery showed that name at the remote.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import attrs

from oxygent_client._api.catalog import RemoteCatalog
from oxygent_client._core.errors import Outcome
from oxygent_client._core.ids import new_id
from oxygent_client._core.requests import OxyRequest
from oxygent_client._core.settings import Limits
from oxygent_client._core.transport import Context, HTTPRequest, Transport
from oxygent_client._core.user_code import user_code_errors
from oxygent_client._protocol.endpoints import HEADERS, PATHS, STREAM_HEADERS
from oxygent_client._protocol.payload import check_arguments, check_restart, encode, finalize_payload
from oxygent_client._protocol.router import NameMap
from oxygent_client._run.trace_ids import TRACE_IDS
from oxygent_client.cluster._lookup import servers_of

PreparePayload = Callable[[OxyRequest], dict[str, Any]]
PrepareHeaders = Callable[[OxyRequest], dict[str, str]]
_PAYLOAD_ERRORS: Final = user_code_errors("prepare_payload", Outcome.NOT_SENT, keep_oxy_errors=True)
_HEADERS_ERRORS: Final = user_code_errors("prepare_headers", Outcome.NOT_SENT, keep_oxy_errors=True)
_NO_FIELDS: Final[Mapping[str, str]] = {}


@attrs.define(kw_only=True, eq=False, repr=False)
class RequestBuilder:
    """Builds the request of one run, by the settings that the agent has when the run is created.

    It does not change; it is not frozen, since attrs sets each field of a frozen instance by a call.
    """

    request: OxyRequest
    trace_id: str
    base_url: str
    name: str
    callee: str | None
    check_callee: bool
    argument_overrides: Collection[str]
    share_data: bool | Collection[str]
    limits: Limits
    catalog: RemoteCatalog
    prepare_payload: PreparePayload
    prepare_headers: PrepareHeaders
    restart: Mapping[str, str] = _NO_FIELDS
    """Fields that restart an earlier run of this server."""

    async def __call__(self, transport: Transport, context: Context) -> tuple[HTTPRequest, NameMap]:
        """Return the POST that starts the run, and the translation of the names in its messages.

        `context` is that of the run: it has the run's id at the server, and the deadline.

        Raises:
            PayloadError: the request cannot become a payload.
            UnknownCalleeError: the remote does not have the callee.
        """
        request, remote_trace_id = self.request, context.remote_trace_id
        check_arguments(request.arguments, self.argument_overrides)
        check_restart(vars(request))
        callee = self.callee
        if callee is None:
            catalog = self.catalog
            if catalog.entry is not None and catalog.knows(self.name, servers_of(transport, self.base_url)):
                callee = self.name
        elif self.check_callee:
            template = lookup_request(self.prepare_headers, request, self.base_url)
            until = math.inf if context.deadline is None else context.deadline
            await self.catalog.require(callee, transport, template, self.limits, until=until)
        with _PAYLOAD_ERRORS:
            payload = self.prepare_payload(request)
        payload = finalize_payload(
            payload,
            trace_id=remote_trace_id,
            callee=callee,
            from_trace_id=request.from_trace_id or "",
            share_data=self.share_data,
        )
        if isinstance(before := payload["from_trace_id"], str) and before:
            payload["from_trace_id"] = TRACE_IDS.remote_name(self.base_url, before)
        payload |= self.restart
        # The server's record of the run is searched for this id. A server of 1.1.3 restarts a run under the id that its
        # first request had: then the record is that of the trace id.
        node_id = payload["node_id"] = str(payload.get("node_id") or request.node_id or new_id())
        stack = None if "call_stack" in payload else tuple(request.call_stack)
        names = NameMap(call_stack=stack, trace_id=self.trace_id, remote_trace_id=remote_trace_id)
        recorded = "" if self.restart else node_id
        if recorded != context.node_id or request.idempotent is not context.idempotent:  # else that of the run has both
            context = context.changed(idempotent=request.idempotent, node_id=recorded)
        headers = build_headers(self.prepare_headers, request) | STREAM_HEADERS
        return HTTPRequest("POST", self.base_url, PATHS["run"], headers, encode(payload), context=context), names

    def record_request(self) -> HTTPRequest:
        """Return the GET request for the server's record of the run."""
        return lookup_request(self.prepare_headers, self.request, self.base_url)


def lookup_request(prepare_headers: PrepareHeaders, request: OxyRequest, base_url: str) -> HTTPRequest:
    """Return the template of the GET requests by which information about `request` or the remote is read."""
    context = Context(
        purpose="discover",
        trace_id=str(request.current_trace_id),
        group_id=request.group_id,
        node_id=request.node_id or "",
        server_url=base_url,
        idempotent=True,
    )
    return HTTPRequest("GET", base_url, "", build_headers(prepare_headers, request), context=context)


def build_headers(prepare_headers: PrepareHeaders, request: OxyRequest) -> dict[str, str]:
    """Return the headers of a request: the agent's own, over them those of the call and of the protocol."""
    headers = HEADERS.copy()
    with _HEADERS_ERRORS:
        for name, value in prepare_headers(request).items():
            headers[name.lower()] = value
    for name, value in request.call_options.headers.items():
        headers[name.lower()] = value
    headers["accept-encoding"] = HEADERS["accept-encoding"]
    return headers
