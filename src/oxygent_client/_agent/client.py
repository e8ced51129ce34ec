"""Methods beside runs: discovery, detached runs, records, feedback, files.

Rule 1: each method borrows a transport with the agent's policies around it, asks, and gives it back.
Rule 2: what is configured is read when it is used.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, Unpack

import anyio

from oxygent_client._agent.callbacks import CallbackDispatcher
from oxygent_client._agent.detached import AttachRequestBuilder, RunHandle, start_detached
from oxygent_client._agent.options import AgentOptions, check_settings
from oxygent_client._agent.remote_agent import CallOptions, make_request
from oxygent_client._agent.request_builder import RequestBuilder, lookup_request
from oxygent_client._agent.transport_lease import TransportPool
from oxygent_client._api import services
from oxygent_client._api.discovery import DISCOVERY_SECONDS, RemoteCatalog
from oxygent_client._api.records import RunRecord, look_until
from oxygent_client._core.errors import ConfigurationError, OxyError
from oxygent_client._core.requests import OxyRequest
from oxygent_client._core.sent_secrets import SentSecrets
from oxygent_client._core.server_identity import server_identity
from oxygent_client._core.transport import HTTPRequest, Transport, redact_url
from oxygent_client._core.validation import instance_of
from oxygent_client._run.abandoned import sweep
from oxygent_client._run.config import RunConfig
from oxygent_client._run.outcome import OutcomeTracker
from oxygent_client._run.run import Run
from oxygent_client._run.trace_claims import TraceIdClaims
from oxygent_client._run.trace_ids import TRACE_IDS
from oxygent_client._run.watched_transport import OutcomeTransport
from oxygent_client.cluster import RunLocation, cluster_of, home_of
from oxygent_client.policies import HTTPSOnly, Policies, Policy, Redirect
from oxygent_client.telemetry._stats import Stats, StatsCollector

__all__ = ["Client"]

_TOKEN: Final = instance_of(str, "the str that handle.to_token() returns")


class Client(AgentOptions):
    """An agent's dealings with its remote."""

    _connections: TransportPool
    _directory: RemoteCatalog
    _keeper: StatsCollector
    _policies: Policies

    def _checked(self, server_url: str) -> str:
        if cluster_of(self.transport) is None:
            return super()._checked(server_url)
        if server_url:
            raise ConfigurationError(
                "a Cluster chooses the server: give server_url or transport=Cluster(...), not both"
            )
        return server_url

    @asynccontextmanager
    async def _lease(self, word: OutcomeTracker | None = None) -> AsyncGenerator[Transport, None]:
        """A transport for one operation, with the agent's policies around it."""
        async with self._connections.lease(self.transport) as transport:
            yield self._policies.wrap(
                OutcomeTransport(transport, OutcomeTracker() if word is None else word), *self._in_force()
            )

    def _in_force(self) -> list[Policy]:
        """The policies, in any order."""
        own: list[Policy] = [
            self.retry,
            HTTPSOnly(https_only=self.https_only, plaintext_hosts=self.plaintext_hosts),
            *self.policies,
        ]
        if self.auth is not None:
            own.append(self.auth)
        if not any(isinstance(policy, Redirect) for policy in self.policies):
            own.append(Redirect())
        return own

    async def init(self) -> None:
        """Find out what the remote is: `org`, `desc` if it is empty, and the names it knows.

        Raises:
            OxyError: the remote could not be asked, or answered nonsense.
        """
        await super().init()
        async with self._asking() as (transport, pattern, until):
            remote = await self._directory.look(transport, pattern, self.limits, until=until)
        self.org = remote.organization
        self.desc = self.desc or remote.description

    @property
    def sent(self) -> SentSecrets:
        """What the latest discovery has sent in confidence, for `sanitize.without_credentials`."""
        return self._directory.sent

    async def check_alive(self) -> bool:
        """True if an OxyGent server answers at `server_url`; False if it says itself that it is not alive.

        Raises:
            OxyError: none does; the class says why.
        """
        async with self._asking() as (transport, pattern, until):
            return await services.check_alive(transport, pattern, self.limits, until=until)

    async def lookup(self, trace_id: str) -> RunRecord | None:
        """The server's own record of the last run that you called `trace_id`.

        A record may lag behind its run: while it does not say how the run ended, it is looked at again, for
        `Timeouts.lookup` at the most. None where the server has none, keeps no records, or cannot be asked.
        """
        if (home := self._home_of(trace_id)) is None:
            return None
        async with self._asking(home.base_url) as (transport, pattern, until):
            record = await look_until(
                lambda record: record.is_over,
                transport,
                pattern,
                home.remote_trace_id,
                self.limits,
                until=anyio.current_time() + (self.timeouts.lookup or 0),
                first_until=until,
            )
        return record if record is not None and record.nodes else None

    async def feedback(self, channel_id: str, data: Any) -> None:
        """Give a running agent what it asked the human for; `data` is any JSON, and empty data says that it is all.

        The channel is the one that the agent opened: the trace id of the run, unless the agent chose a name.

        Raises:
            PayloadError: `data` is no JSON.
            ConfigurationError: there are several servers, and this program has begun no run of that name.
            EnvelopeError: no run has such a channel, or no longer; nothing was given.
            OxyError: the server could not be reached, or refused.
        """
        if (home := self._home_of(channel_id)) is None:
            raise ConfigurationError(f"nobody knows at which server {channel_id[:100]!r} is: it was not begun here")
        async with self._asking(home.base_url) as (transport, pattern, until):
            await services.feedback(transport, pattern, home.remote_trace_id, data, self.limits, until=until)

    async def upload(self, name: str, content: bytes) -> str:
        """Store a file at the server; what comes back is what the server calls it, for the argument `attachments`.

        It may take as long as a run: `Timeouts.total`.

        Raises:
            PayloadError: `name` is no plain file name.
            OxyError: the server could not be reached, or refused.
        """
        async with self._asking(seconds=math.inf) as (transport, pattern, until):
            return await services.upload(transport, pattern, name, content, self.limits, until=until)

    def stats(self) -> Stats:
        """What this agent's runs came to until now: a snapshot. Any thread may ask."""
        sweep()
        return self._keeper.stats(self._connections if self.transport is None else self.transport)

    async def start(self, query: str | OxyRequest, **fields: Unpack[CallOptions]) -> RunHandle:
        """Have the remote work on `query` whether anybody listens or not; `attach` listens.

        Raises:
            OxyError: it was not begun, or (`outcome` UNKNOWN) nobody can say whether it was.
        """
        request = self.prepared(make_request(query, fields))
        trace_id = str(request.current_trace_id)
        claims, became = (
            TraceIdClaims(TRACE_IDS.claim(self.server_url, trace_id, request.node_id or "")),
            OutcomeTracker(),
        )
        try:
            async with self._lease(became) as transport:
                prepare = RequestBuilder(self, self._directory, request, trace_id, self.server_url)
                http, link = await start_detached(transport, prepare, claims, became)
        except OxyError as error:
            error.trace_id, error.server_url = trace_id, error.server_url or redact_url(self.server_url)
            became.know(error.outcome)
            raise
        finally:
            claims.release(ran=became.has_run, closed=False)
        return RunHandle(
            server_url=claims.replica or http.base_url,
            trace_id=trace_id,
            remote_trace_id=claims.remote,
            node_id=http.context.node_id,
            group_id=request.group_id,
            call_stack=tuple(request.call_stack),
            is_share_call_stack=link.call_stack is None,
        )

    def attach(self, token: str, *, request: OxyRequest | None = None) -> Run:
        """The events of a detached run, from where they were left: `async with agent.attach(token) as run: ...`.

        `token` is what `RunHandle.to_token` gave. If the connection breaks it is made again; leaving the block leaves
        the run at work. The server keeps 1,024 messages for whoever comes next, hands each out once, and loses what was
        on its way when a connection broke: where the end is lost, the answer comes from the server's record.

        `request` is whose `send_message` the messages are forwarded to; None: to nobody.

        Raises:
            ConfigurationError: it is no such token, or the run is at another server.
        """
        _TOKEN.check("token", token)
        handle = RunHandle.from_token(token)
        if self.server_url and server_identity(handle.server_url) != server_identity(self.server_url):
            raise ConfigurationError(f"this run is at {handle.server_url}, and this agent's remote elsewhere")
        listens = (request or OxyRequest()).clone_with(
            current_trace_id=handle.trace_id,
            group_id=handle.group_id,
            node_id=handle.node_id,
            callee=self.name,
            call_stack=[*handle.call_stack],
        )
        return Run(
            self._plan(
                listens,
                handle.trace_id,
                AttachRequestBuilder(self, handle, listens, self.server_url or handle.server_url),
                attached_to=handle.remote_trace_id,
            )
        )

    def _plan(
        self,
        request: OxyRequest,
        trace_id: str,
        prepare: RequestBuilder | AttachRequestBuilder,
        *,
        attached_to: str = "",
    ) -> RunConfig:
        check_settings({"confirm_state": self.confirm_state})  # set later, perhaps
        return RunConfig(
            request=request,
            trace_id=trace_id,
            base_url=prepare.base_url,
            lease=self._lease,
            prepare=prepare,
            router=self.router,
            listener=CallbackDispatcher(self, request),
            timeouts=self.timeouts,
            limits=self.limits,
            question=partial(lookup_request, self, request, prepare.base_url),
            confirm_state=self.confirm_state,
            failure_detector=self.failure_detector,
            schema=self.schema,
            strict=self.strict,
            attached_to=attached_to,
            observed=self._keeper.observed(self.observers),
        )

    @asynccontextmanager
    async def _asking(
        self, base_url: str = "", *, seconds: float = DISCOVERY_SECONDS
    ) -> AsyncGenerator[tuple[Transport, HTTPRequest, float], None]:
        """A transport, the pattern of a request, and until when the answer must be there: `Timeouts.total` at most."""
        total = self.timeouts.total
        until = anyio.current_time() + (seconds if total is None else min(seconds, total))
        pattern = lookup_request(self, OxyRequest(), base_url or self.server_url)
        async with self._lease() as transport:
            yield transport, pattern, until

    def _home_of(self, name: str) -> RunLocation | None:
        """Where the last run is that the caller called so; None if that is one of several servers, unknown which."""
        if self.server_url:
            return RunLocation(self.server_url, TRACE_IDS.remote_name(self.server_url, name))
        return home_of(self.transport, name)
