"""Relay the messages of a remote agent to browsers, as server-sent events (extra `[openai]`).

Rule 1: a run is started by a POST, which returns its id, and viewed by any number of GETs, as the `EventSource` of a
    browser sends them.
Rule 2: the id of a run is a secret, since `EventSource` can send no token: its holder can view the run, and answer an
    agent that asks.
Rule 3: a viewer gets all events from the one that it asks for, or is told which are missing and why.
Rule 4: messages are as the remote sent them, calls and thoughts included, without credentials.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import anyio
import attrs

from oxygent_client import SSEOxyGent
from oxygent_client.errors import ConfigurationError
from oxygent_client.serve import (
    Audience,
    Exchange,
    Failure,
    HostedTasks,
    Refused,
    Route,
    Runs,
    RunTable,
    ServeLimits,
    Service,
    Viewer,
)
from oxygent_client.serve._relay.documents import RETRY, Question, answer_of, error_document, last_seen, question_of
from oxygent_client.serve._relay.event_log import EventLog
from oxygent_client.serve._relay.relay_run import RelayRun

__all__ = ["RelayAdapter", "RelayLimits", "create_app"]

PATH: Final = "/relay"
FEEDBACK: Final = "feedback"
"""The path of answers, below that of a run."""

_logger: Final = logging.getLogger("oxygent_client.serve")


def _at_least(least: float) -> Any:
    def check(_: object, field: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
            raise ConfigurationError(f"{field.name} must be a number >= {least:g}")

    return check


@attrs.frozen(kw_only=True)
class RelayLimits:
    """Limits of relayed runs and their viewers."""

    buffer_events: int = attrs.field(default=1000, validator=_at_least(1))
    """Events of a run that are kept for viewers who come later, or again."""
    buffer_bytes: int = attrs.field(default=1024 * 1024, validator=_at_least(1))
    """Bytes of these events; the newest is kept, whatever its size."""
    viewers: int = attrs.field(default=100, validator=_at_least(1))
    """Viewers of one run; one more is refused with status 429."""
    grace_seconds: float = attrs.field(default=30.0, validator=_at_least(0))
    """Seconds for which a run goes on without viewers; then it is stopped at the remote."""
    send_seconds: float = attrs.field(default=30.0, validator=_at_least(0.001))
    """Seconds in which a viewer must take the next 64 KiB; then its connection is closed."""
    finished_runs: int = attrs.field(default=100, validator=_at_least(0))
    """Finished runs that can still be viewed."""
    finished_seconds: float = attrs.field(default=300.0, validator=_at_least(0))
    """Seconds for which a finished run can be viewed."""


class RelayAdapter:
    """The relay, for one `Service`."""

    def __init__(self, limits: RelayLimits | None = None) -> None:
        self._limits = limits or RelayLimits()
        self._known = RunTable[RelayRun](self._limits.finished_runs, self._limits.finished_seconds)
        self._runs: Runs | None = None
        self._tasks = HostedTasks()

    def routes(self, runs: Runs) -> Sequence[Route]:
        """Return the routes of the relay."""
        self._runs = runs
        return (
            Route("POST", PATH, self._start),
            Route("GET", f"{PATH}/*", self._view, needs_token=False),
            Route("POST", f"{PATH}/*", self._answer, needs_token=False),
            Route("DELETE", f"{PATH}/*", self._stop),
        )

    def error_document(self, failure: Failure) -> Any:
        """Return an error, in the member `error`."""
        return error_document(failure)

    def running(self) -> AbstractAsyncContextManager[None]:
        """Return a block that has the runs; those which are active at its end are stopped."""
        return self._tasks.running()

    async def _start(self, exchange: Exchange) -> None:
        assert self._runs is not None  # a service asks for the routes first
        self._tasks.check_running()
        question, limits = question_of(exchange.json()), self._limits
        audience = Audience(EventLog(limits.buffer_events, limits.buffer_bytes), limits.grace_seconds)
        run = RelayRun(secrets.token_urlsafe(16), self._runs, audience)
        self._tasks.start(self._execute, run, question, exchange.headers)
        try:
            await run.opened.wait()
        finally:
            if not run.trace_id:  # the client has left, and nobody knows the id
                run.stop()
        if run.error is not None and not run.trace_id:
            raise run.error
        await exchange.respond(201, {"id": run.id, "trace_id": run.trace_id}, {"location": f"relay/{run.id}"})

    async def _execute(self, run: RelayRun, question: Question, headers: Mapping[str, str]) -> None:
        self._known.add(run.id, run)
        try:
            await run.execute(question, headers)
        finally:
            if run.trace_id:
                self._known.finish(run.id, anyio.current_time())
            else:  # no client has the id of a run that was refused
                self._known.remove(run.id)

    async def _view(self, exchange: Exchange) -> None:
        run, limits = self._find(_id(exchange)), self._limits
        seen = last_seen(exchange.headers, run.log.last)
        if run.log.is_ended and seen == run.log.last:
            await exchange.respond_empty(204)  # after which a browser does not connect again
            return
        if len(run.log.viewers) >= limits.viewers:
            raise Refused(429, "too_many_viewers", f"{limits.viewers} viewers are connected", retry_after=1.0)
        viewer = run.audience.join(seen)
        try:
            await exchange.start_stream()
            await exchange.send_piece(RETRY)
            await self._send(exchange, run, viewer)
            await exchange.end_stream()
        finally:
            run.audience.leave(viewer)

    async def _send(self, exchange: Exchange, run: RelayRun, viewer: Viewer) -> None:
        while not viewer.is_over:
            if not (piece := viewer.take()):
                await run.audience.wait()
                continue
            try:
                with anyio.fail_after(self._limits.send_seconds):
                    await exchange.send_piece(piece)
            except TimeoutError:
                exchange.is_left = True  # the service counts it as a client that has left
                _logger.warning("run %s: a viewer was dropped: it did not read", run.trace_id)
                raise
        if viewer.is_dropped:
            _logger.warning("run %s: a viewer was dropped: it read too slowly", run.trace_id)

    async def _answer(self, exchange: Exchange) -> None:
        run_id, _, rest = exchange.path.removeprefix(f"{PATH}/").partition("/")
        if rest != FEEDBACK:
            raise Refused(404, "not_found", "there is no such path")
        data = answer_of(exchange.json())
        if not await self._find(run_id).answer(data):
            raise Refused(409, "no_question", "no agent of this run waits for an answer")
        await exchange.respond_empty(204)

    async def _stop(self, exchange: Exchange) -> None:
        run = self._find(_id(exchange))
        run.stop()
        await run.ended.wait()
        await exchange.respond_empty(204)

    def _find(self, run_id: str) -> RelayRun:
        run = self._known.find(run_id, anyio.current_time())
        if run is None:
            kept = f"finished runs are kept for {self._limits.finished_seconds:g} s"
            raise Refused(404, "run_not_found", f"there is no such run: {kept}")
        return run


def _id(exchange: Exchange) -> str:
    return exchange.path.removeprefix(f"{PATH}/")


def create_app(
    agent: SSEOxyGent,
    *,
    relay: RelayLimits | None = None,
    token: str = "",
    cors: Sequence[str] = (),
    hosts: Sequence[str] | None = None,
    limits: ServeLimits | None = None,
    whole_answers: bool = False,
) -> Service:
    """Return an ASGI application that relays runs of the agent to browsers: `POST /relay`, `GET /relay/ID`.

    Args:
        agent: the agent.
        relay: the limits of buffers and viewers; None for the default ones.
        token: the bearer token that clients must send to start and to stop a run; empty for none.
        cors: the origins of pages whose requests are accepted; `*` accepts all.
        hosts: the host names under which the application may be called; None accepts all.
        limits: the limits of runs and requests; None for the default ones.
        whole_answers: whether messages of the type `stream` are not sent: `sanitize` sees each piece of text alone.

    Raises:
        ConfigurationError: an argument is invalid.
    """
    return Service(
        agent, [RelayAdapter(relay)], token=token, cors=cors, hosts=hosts, limits=limits, whole_answers=whole_answers
    )
