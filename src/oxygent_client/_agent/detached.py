"""Start detached runs and attach to them later, perhaps from another process.

Rule 1: what is needed to come back is a value, `RunHandle`, and its token: a text without a secret in it.
Rule 2: a run is begun once. Where the answer to the request was lost, the server's record says whether it began.
Rule 3: whoever listens needs no memory of who began: names and ids are in the handle.
"""

from __future__ import annotations

import base64
import json
import math
from typing import Any, Final, Self, cast

import anyio
import attrs

from oxygent_client._agent.options import AgentOptions
from oxygent_client._agent.request_builder import RequestBuilder, build_headers, lookup_request
from oxygent_client._api import services
from oxygent_client._api.records import look_until
from oxygent_client._core.errors import ConfigurationError, DeadlineExceededError, Outcome, OxyError
from oxygent_client._core.requests import OxyRequest
from oxygent_client._core.transport import Context, HTTPRequest, Transport, check_url, redact_url
from oxygent_client._protocol.endpoints import PATHS, RUN_HEADERS
from oxygent_client._protocol.payload import encode
from oxygent_client._protocol.router import NameMap
from oxygent_client._run.outcome import OutcomeTracker
from oxygent_client._run.trace_claims import TraceIdClaims
from oxygent_client.telemetry._observers import RunObservation

__all__ = ["AttachRequestBuilder", "RunHandle", "home", "start_detached"]

START_SECONDS: Final = 30.0
"""To have the server's word that a detached run has begun."""
PREFIX: Final = "oxyrun1."


def home(server_url: str) -> str:
    """A server's URL as a handle has it: without user information, query, and slash at its end.

    Raises:
        ConfigurationError: it is no server's URL.
    """
    return redact_url(check_url(server_url)).rstrip("/")


@attrs.frozen(kw_only=True)
class RunHandle:
    """A run that goes on at the remote, whether anybody listens or not."""

    server_url: str = attrs.field(converter=home)
    """Where it runs; user information and query are left out."""
    trace_id: str
    """What the caller calls it."""
    remote_trace_id: str
    """What the server calls it."""
    node_id: str
    """The caller's own node of the call."""
    group_id: str = ""
    """What the caller calls the conversation."""
    call_stack: tuple[str, ...] = ()
    """Who called whom, in the caller's own program."""
    is_share_call_stack: bool = True
    """Whether the remote was told of it."""

    def to_token(self) -> str:
        """The handle as a text of letters, digits, `.`, `-` and `_`: to be kept, and given to `attach` by any program.

        It holds no credentials. Who has it, and may use the server, may read the run's events, and so take them away.
        """
        return PREFIX + base64.urlsafe_b64encode(json.dumps(attrs.astuple(self)).encode()).decode().rstrip("=")

    @classmethod
    def from_token(cls, token: str) -> Self:
        """The handle that `to_token` was called on.

        Raises:
            ConfigurationError: it is no such token.
        """
        try:
            if not token.startswith(PREFIX):
                raise ValueError
            body = token.removeprefix(PREFIX)
            fields: Any = json.loads(base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True))
            *texts, stack, shared = cast("list[Any]", fields)
            if not isinstance(stack, list) or not isinstance(shared, bool):
                raise TypeError
            stack = cast("list[Any]", stack)
            if not all(isinstance(text, str) for text in [*texts, *stack]):
                raise TypeError
            names = [field.name for field in attrs.fields(cls)]
            values: list[Any] = [*texts, tuple(stack), shared]
            return cls(**dict(zip(names, values, strict=True)))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigurationError("this is no token of a detached run") from error


@attrs.frozen
class AttachRequestBuilder:
    """How one agent asks for the events of a detached run; as `RequestBuilder` for a run."""

    agent: AgentOptions
    handle: RunHandle
    request: OxyRequest
    base_url: str

    async def __call__(
        self, transport: Transport, remote_trace_id: str, deadline: float
    ) -> tuple[HTTPRequest, NameMap]:
        """The POST that asks for the events, and how the names in them translate."""
        agent, handle = self.agent, self.handle
        stack = None if handle.is_share_call_stack else handle.call_stack
        link = NameMap(call_stack=stack, trace_id=handle.trace_id, remote_trace_id=remote_trace_id)
        context = Context(
            purpose="attach",
            trace_id=handle.trace_id,
            group_id=handle.group_id,
            node_id=handle.node_id,
            remote_trace_id=remote_trace_id,
            deadline=deadline if deadline < math.inf else None,
            idempotent=True,
        )
        # A server wants the time stamp, and does nothing with it.
        body = encode({"trace_id": remote_trace_id, "timestamp": 0})
        headers = build_headers(agent, self.request) | RUN_HEADERS
        return HTTPRequest("POST", self.base_url, PATHS["attach"], headers, body, context=context), link


async def start_detached(
    transport: Transport, prepare: RequestBuilder, claims: TraceIdClaims, became: OutcomeTracker
) -> tuple[HTTPRequest, NameMap]:
    """Have the remote begin a detached run: what it was sent, and how names translate.

    `became` is what the transport says of the request.

    Raises:
        OxyError: it did not, or (`outcome` UNKNOWN) nobody can say whether it did.
    """
    agent, request = prepare.agent, prepare.request
    now = anyio.current_time()
    deadline = now + (agent.timeouts.total or math.inf)
    until = min(now + START_SECONDS, deadline)
    sent: tuple[HTTPRequest, NameMap] | None = None
    try:
        with anyio.CancelScope(deadline=until):
            http, link = await prepare(transport, claims.remote, until)
            http = claims.over(http)
            http = attrs.evolve(http, path=PATHS["start"], headers={**http.headers, "accept": "application/json"})
            http = RunObservation(observers=tuple(agent.observers)).sign(http)
            sent = http, link
            await services.start(transport, http, agent.limits, until=until)
            return sent
        raise DeadlineExceededError("the remote did not say in time that the run has begun")
    except OxyError as error:
        if became.is_last or became.outcome is not Outcome.UNKNOWN:
            error.outcome = became.outcome
        patience = agent.timeouts.lookup
        if error.outcome is not Outcome.UNKNOWN or patience is None or sent is None:
            raise
        record = await look_until(
            lambda record: record.has_begun,
            transport,
            lookup_request(agent, request, prepare.base_url),
            claims.remote,
            agent.limits,
            until=min(anyio.current_time() + patience, deadline),
            node_id=sent[0].context.node_id,
        )
        if record is None or not record.has_begun:
            raise
        return sent
