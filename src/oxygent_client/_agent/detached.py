"""Start detached runs and attach to them later, perhaps from another process.

Rule 1: a detached run is identified by a value, `RunHandle`, and by its token, a text without secrets.
Rule 2: a run is started once. If the response is lost, the server's record shows whether the run started.
Rule 3: attaching needs no state of the program that started the run: names and ids are in the handle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Self, cast

import anyio
import attrs

from oxygent_client._agent.request_builder import PrepareHeaders, RequestBuilder, build_headers, lookup_request
from oxygent_client._agent.tokens import decode_token, encode_token
from oxygent_client._api import services
from oxygent_client._api.records import look_until
from oxygent_client._core.errors import ConfigurationError, DeadlineExceededError, Outcome, OxyError
from oxygent_client._core.requests import OxyRequest
from oxygent_client._core.server_identity import server_identity
from oxygent_client._core.settings import Timeouts
from oxygent_client._core.transport import Context, HTTPRequest, Transport, check_url, redact_url
from oxygent_client._core.validation import instance_of
from oxygent_client._protocol.endpoints import PATHS, STREAM_HEADERS
from oxygent_client._protocol.payload import encode
from oxygent_client._protocol.router import NameMap
from oxygent_client._run.outcome import OutcomeTracker
from oxygent_client._run.trace_claims import TraceIdClaims
from oxygent_client._run.trace_ids import TRACE_IDS
from oxygent_client.telemetry._observers import Observer, RunObservation

START_SECONDS: Final = 30.0
"""Time for the server's confirmation that a detached run has started."""
_TOKEN: Final = instance_of(str, "the str that handle.to_token() returns")
PREFIX: Final = "oxyrun1."


def home(server_url: str) -> str:
    """Return the URL of a server without user information, query and trailing slash.

    Raises:
        ConfigurationError: it is no URL of a server.
    """
    return redact_url(check_url(server_url)).rstrip("/")


@attrs.frozen(kw_only=True)
class RunHandle:
    """A detached run: it goes on at the remote while no program is connected."""

    server_url: str = attrs.field(converter=home)
    """The base URL of its server, without user information and query."""
    trace_id: str
    """The caller's trace id of the run."""
    remote_trace_id: str
    """The server's trace id of the run."""
    node_id: str
    """The caller's node id of the call."""
    group_id: str = ""
    """The id of the conversation."""
    call_stack: tuple[str, ...] = ()
    """The names from the user down to this agent, in the caller's program."""
    is_share_call_stack: bool = True
    """Whether the call stack was sent to the remote."""

    def to_token(self) -> str:
        """Return the handle as a text of letters, digits, `.`, `-` and `_`; any program can pass it to `attach`.

        It holds no credentials. A program that has the token, and access to the server, can read the run's events;
        the server sends each event once.
        """
        return encode_token(PREFIX, attrs.astuple(self))

    @classmethod
    def from_token(cls, token: str) -> Self:
        """Return the handle of a token.

        Raises:
            ConfigurationError: `token` is no result of `to_token`.
        """
        try:
            *texts, stack, shared = decode_token(PREFIX, token)
            if not isinstance(stack, list) or not isinstance(shared, bool):
                raise TypeError
            stack = cast("list[Any]", stack)
            if not all(isinstance(text, str) for text in [*texts, *stack]):
                raise TypeError
            names = [field.name for field in attrs.fields(cls)]
            values: list[Any] = [*texts, tuple(stack), shared]
            return cls(**dict(zip(names, values, strict=True)))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigurationError("token is no token of a detached run") from error


@attrs.frozen(kw_only=True)
class AttachRequestBuilder:
    """Builds the request for the events of a detached run; called as `RequestBuilder` is."""

    handle: RunHandle
    request: OxyRequest
    base_url: str
    prepare_headers: PrepareHeaders

    async def __call__(self, transport: Transport, context: Context) -> tuple[HTTPRequest, NameMap]:
        """Return the POST that asks for the events, and the translation of the names in them."""
        handle, remote_trace_id = self.handle, context.remote_trace_id
        stack = None if handle.is_share_call_stack else handle.call_stack
        names = NameMap(call_stack=stack, trace_id=handle.trace_id, remote_trace_id=remote_trace_id)
        context = context.changed(group_id=handle.group_id, node_id=handle.node_id, idempotent=True)
        # The server requires a time stamp, and does not use it.
        body = encode({"trace_id": remote_trace_id, "timestamp": 0})
        headers = build_headers(self.prepare_headers, self.request) | STREAM_HEADERS
        return HTTPRequest("POST", self.base_url, PATHS["attach"], headers, body, context=context), names

    def record_request(self) -> HTTPRequest:
        """As `RequestBuilder.record_request`."""
        return lookup_request(self.prepare_headers, self.request, self.base_url)


def read_token(token: str, server_url: str) -> RunHandle:
    """Return the handle of a token, for an agent of the server at `server_url`; empty is any server.

    Raises:
        ConfigurationError: `token` is no token, or its run is at another server.
    """
    _TOKEN.check("token", token)
    handle = RunHandle.from_token(token)
    if server_url and server_identity(handle.server_url) != server_identity(server_url):
        raise ConfigurationError(
            f"the run of this token is at {handle.server_url}, and server_url is another server; use an agent for it"
        )
    return handle


def attach_request(handle: RunHandle, request: OxyRequest | None, name: str) -> OxyRequest:
    """Return the request as whose run the events of a detached run are handled, by the agent `name`."""
    return (request or OxyRequest()).clone_with(
        current_trace_id=handle.trace_id,
        group_id=handle.group_id,
        node_id=handle.node_id,
        callee=name,
        call_stack=[*handle.call_stack],
    )


async def start_detached(
    build: RequestBuilder,
    lease: Callable[[], AbstractAsyncContextManager[Transport]],
    *,
    timeouts: Timeouts,
    observers: Collection[Observer],
) -> RunHandle:
    """Start a detached run.

    Raises:
        OxyError: it was not started, or (`outcome` UNKNOWN) it may have been.
    """
    request, base_url = build.request, build.base_url
    claims = TraceIdClaims(TRACE_IDS.claim(base_url, build.trace_id, request.node_id or ""))
    outcome = OutcomeTracker()
    try:
        async with lease() as transport:
            http, names = await _start(transport, build, claims, outcome, timeouts, observers)
    except OxyError as error:
        error.trace_id, error.server_url = build.trace_id, error.server_url or redact_url(base_url)
        outcome.know(error.outcome)
        raise
    finally:
        claims.release(ran=outcome.has_run, closed=False)
    return RunHandle(
        server_url=claims.replica or http.base_url,
        trace_id=build.trace_id,
        remote_trace_id=claims.remote,
        node_id=http.context.node_id,
        group_id=request.group_id,
        call_stack=tuple(request.call_stack),
        is_share_call_stack=names.call_stack is None,
    )


async def _start(
    transport: Transport,
    build: RequestBuilder,
    claims: TraceIdClaims,
    outcome: OutcomeTracker,
    timeouts: Timeouts,
    observers: Collection[Observer],
) -> tuple[HTTPRequest, NameMap]:
    """Send the request; return it, and the translation of names. `outcome` is updated by the transport."""
    now = anyio.current_time()
    deadline = now + (timeouts.total or math.inf)
    until = min(now + START_SECONDS, deadline)
    sent: tuple[HTTPRequest, NameMap] | None = None
    try:
        with anyio.CancelScope(deadline=until):
            context = Context(
                trace_id=build.trace_id,
                group_id=build.request.group_id,
                server_url=build.base_url,
                remote_trace_id=claims.remote,
                deadline=until,
                outcome=outcome,
            )
            http, names = await build(transport, context)
            http = claims.over(http)
            http = attrs.evolve(
                http,
                path=PATHS["start"],
                headers={**http.headers, "accept": "application/json"},
            )
            http = RunObservation(observers=tuple(observers)).add_headers(http)
            sent = http, names
            await services.start(transport, http, build.limits, until=until)
            return sent
        raise DeadlineExceededError("the server did not confirm in time that the run has started")
    except OxyError as error:
        if outcome.is_last or outcome.outcome is not Outcome.UNKNOWN:
            error.outcome = outcome.outcome
        if error.outcome is not Outcome.UNKNOWN or timeouts.lookup is None or sent is None:
            raise
        record = await look_until(
            lambda record: record.has_begun,
            transport,
            lookup_request(build.prepare_headers, build.request, build.base_url),
            claims.remote,
            build.limits,
            until=min(anyio.current_time() + timeouts.lookup, deadline),
            node_id=sent[0].context.node_id,
        )
        if record is None or not record.has_begun:
            raise
        return sent
