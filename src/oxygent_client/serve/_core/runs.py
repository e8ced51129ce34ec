"""Run remote agents for inbound requests, within limits.

Rule 1: a request that exceeds a limit is refused at once; nothing queues.
Rule 2: of an inbound request, only the arguments that its protocol names and the headers in the agent's
    `forward_headers` reach the remote.
Rule 3: only agents of the remote's organization can be called; tools and models cannot. An agent whose `callee` is set
    serves that one only. Clients know each by the name that `sanitize` returns.
Rule 4: leaving a run, in whatever way, stops it at the remote.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from itertools import islice
from typing import Any, Final

import anyio
import attrs

from oxygent_client import Conversation, Outcome, Run, SSEOxyGent, TextUpdate
from oxygent_client.errors import ConfigurationError, EnvelopeError, OxyError, RemoteAgentError
from oxygent_client.sanitize import without_credentials
from oxygent_client.serve._core.failures import MAY_HAVE_RUN, Failure, Refused, failure_of
from oxygent_client.serve._core.outbound import Outbound

_logger: Final = logging.getLogger("oxygent_client.serve")

KNOWN_SECONDS: Final = 60.0
"""How long an organization is kept before it is read again."""
READY_SECONDS: Final = 2.0
"""How long the result of a health check is kept: a flood of probes does not reach the remote."""
FEEDBACK_SECONDS: Final = 5.0
"""How long an agent gets to wait for the input that it has asked for."""
FEEDBACK_PAUSE: Final = 0.25
MOST_AGENTS: Final = 1000
"""More agents of an organization are not listed."""


def positive(_: object, field: attrs.Attribute[Any], value: Any) -> None:
    """Accept a positive number as a setting.

    Raises:
        ConfigurationError: the value is something else; the text names the setting.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigurationError(f"{field.name} must be a positive number")


@attrs.frozen(kw_only=True)
class ServeLimits:
    """Limits of a served agent."""

    runs: int = attrs.field(default=500, validator=positive)
    """Concurrent runs; one more is refused with status 429."""
    body_bytes: int = attrs.field(default=4 * 1024 * 1024, validator=positive)
    """Bytes of a request's body; a larger one is refused with status 413."""
    body_seconds: float = attrs.field(default=30.0, validator=positive)
    """Seconds in which a request's body must arrive."""
    run_seconds: float = attrs.field(default=570.0, validator=positive)
    """Seconds for one run; the agent's own `Timeouts.total` counts if it is less. OpenAI's clients give up after 600 s,
    and then repeat the request: an error of this side comes first."""
    return_seconds: float = attrs.field(default=1.0, validator=positive)
    """Seconds for which a run goes on after its client has left, if the same request can continue it: see
    `SharedResponses`."""


@attrs.frozen
class ServedAgent:
    """An agent that clients can call."""

    name: str
    """Its name for clients."""
    description: str = ""
    callee: str | None = None
    """Its name at the remote; the same, if `sanitize` does not change it. None for the agent that a call without a name
    runs."""


class Runs:
    """The runs of one served agent."""

    def __init__(self, agent: SSEOxyGent, limits: ServeLimits, *, whole_answers: bool = False) -> None:
        self.limits = limits
        self.whole_answers = whole_answers
        """Whether the text of an answer is sent at its end only, so that `sanitize` sees all of it at once."""
        self.stopping: bool = False
        self.on_stop: anyio.Event = anyio.Event()
        """Set when `stopping` is: runs that wait for something need not go on waiting."""
        self._agent = agent
        self._known: tuple[ServedAgent, ...] = ()
        self._known_until = 0.0
        self._ready = False
        self._ready_until = 0.0
        self._discovering = anyio.Lock()
        self._checking = anyio.Lock()
        self._failures = 0
        """How often the remote could not be asked for its agents."""
        self._failure: OxyError | None = None
        """The last such error. All requests that waited get it: else each would wait for a time-out of its own."""
        self._scopes: set[anyio.CancelScope] = set()
        self._idle: anyio.Event | None = None

    @property
    def running(self) -> int:
        """The number of runs."""
        return len(self._scopes)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Keep connections to the remote while the block lasts; without it each run makes its own."""
        async with self._agent:
            yield

    async def agents(self) -> tuple[ServedAgent, ...]:
        """Return the agents that clients can call; the first is the default.

        Raises:
            OxyError: the remote could not be asked.
        """
        failures = self._failures
        async with self._discovering:
            if self._failure is not None and self._failures > failures:  # while it waited
                raise self._failure
            if not self._known or anyio.current_time() >= self._known_until:
                try:
                    self._known = await self._discover()
                except OxyError as error:
                    self._failures += 1
                    self._failure = error
                    raise
                self._known_until = anyio.current_time() + KNOWN_SECONDS
            return self._known

    async def is_ready(self) -> bool:
        """Whether the remote reports that it is alive, and this side is not stopping."""
        async with self._checking:
            if anyio.current_time() >= self._ready_until:
                try:
                    self._ready = await self._agent.check_alive()
                except OxyError:
                    self._ready = False
                self._ready_until = anyio.current_time() + READY_SECONDS
            return self._ready and not self.stopping

    @asynccontextmanager
    async def stream(
        self,
        query: str,
        *,
        agent: str = "",
        arguments: Mapping[str, Any] | None = None,
        from_trace_id: str = "",
        group_id: str = "",
        conversation: Conversation | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Run]:
        """Run an agent; the block has its `Run`.

        Args:
            query: the query.
            agent: the name of an agent; empty for the default.
            arguments: more arguments of the agent.
            from_trace_id: the remote's trace id of the previous turn.
            group_id: the id of the conversation.
            conversation: a conversation whose next turn it is, instead of the two before.
            headers: the headers of the inbound request, of which those in `forward_headers` are sent.

        Raises:
            Refused: a limit is exceeded, there is no such agent, or the server is stopping.
            OxyError: the run failed.
        """
        outcome, trace_id = Outcome.NOT_SENT, ""
        with self._slot() as scope:
            total, most = self._agent.timeouts.total, self.limits.run_seconds
            options: dict[str, Any] = {
                "arguments": arguments,
                "shared_data": self._forwarded(headers or {}),
                "timeout": most if total is None else min(total, most),
                "callee": await self._callee(agent),
            }
            run: Run | None = None
            opened: AbstractAsyncContextManager[Run]
            if conversation is None:
                opened = run = self._agent.stream(query, from_trace_id=from_trace_id, group_id=group_id, **options)
            else:
                opened = conversation.stream(query, **options)
                outcome = Outcome.UNKNOWN  # it does not show its run before the remote has accepted it
            try:
                async with opened as run:
                    yield run
            except OxyError as error:
                kind, server = type(error).__name__, error.server_url or "no server"
                _logger.warning("run %s at %s: %s: %s (%s)", error.trace_id, server, kind, error, error.outcome)
                raise
            finally:
                outcome, trace_id = (outcome, trace_id) if run is None else (run.outcome, run.trace_id)
        if scope.cancelled_caught:
            refused = Refused(503, "stopping", "the server is stopping")
            refused.failure = attrs.evolve(
                refused.failure,
                status=MAY_HAVE_RUN if outcome.may_have_run else 503,
                outcome=outcome,
                retryable=not outcome.may_have_run,
                trace_id=trace_id,
            )
            raise refused

    async def feedback(self, run: Run, data: Any) -> bool:
        """Send the agent of a run the input of a human; False if no agent waits for it within 5 s.

        Empty data is the last that the agent gets.

        Raises:
            OxyError: the remote could not be reached, or refused.
        """
        until = anyio.current_time() + FEEDBACK_SECONDS
        while True:
            try:
                await self._agent.feedback(run.trace_id, data)
            except EnvelopeError:  # the agent announces its question before it waits
                if not data or anyio.current_time() >= until:
                    return False
                await anyio.sleep(FEEDBACK_PAUSE)
            else:
                return True

    async def answer(self, run: Run, data: Any) -> bool:
        """Answer an agent that asks, and tell it that it is all; False if no agent waits. Empty data is no answer.

        Raises:
            OxyError: as `feedback`.
        """
        is_taken = await self.feedback(run, data or "")
        if data and is_taken:  # else it would end a question that the agent begins to wait for
            await self.feedback(run, "")
        return is_taken

    def text_updates(self, run: Run) -> Callable[[], TextUpdate | None]:
        """Return what takes the next change of the answer's text to send, or None; with `whole_answers` always None."""
        return _nothing if self.whole_answers else run.text_updates().take

    def received(self, run: Run) -> str:
        """Return the text of a failed run, for a client; with `whole_answers` none, since its last word may be cut."""
        return "" if self.whole_answers else self.outbound(run).received(run.text)

    def outbound(self, run: Run) -> Outbound:
        """Return what messages of a run pass to a client."""
        return Outbound(self._agent.sanitize, without_credentials(run.sent))

    def failure_of(self, error: Exception) -> Failure:
        """Return what a client is told about an error. The text of an agent's failure passes `sanitize`."""
        failure = failure_of(error)
        if not isinstance(error, RemoteAgentError):
            return failure
        try:
            return attrs.evolve(failure, message=Outbound(self._agent.sanitize, _same).error(failure.message))
        except Exception as raised:  # noqa: BLE001  (it is logged)
            return attrs.evolve(failure, message=failure_of(raised).message)

    def digest(self, asked: Any, headers: Mapping[str, str]) -> str:
        """Return a hash of what a request asks, JSON, with its headers that are sent: the same if it is sent again."""
        text = json.dumps([asked, self._forwarded(headers)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def conversation(self, token: str = "") -> Conversation:
        """Start a conversation, or continue that of a token; see `SSEOxyGent.conversation`."""
        return self._agent.conversation(token)

    async def stop(self, grace: float) -> None:
        """Refuse new runs, wait up to `grace` seconds for those that are running, then stop them."""
        self.stopping = True
        self.on_stop.set()
        self._idle = anyio.Event()
        if self._scopes:
            with anyio.move_on_after(grace):
                await self._idle.wait()
        for scope in self._scopes:
            scope.cancel()

    @contextmanager
    def _slot(self) -> Generator[anyio.CancelScope]:
        if self.stopping:
            raise Refused(503, "stopping", "the server is stopping", retry_after=1.0)
        if len(self._scopes) >= self.limits.runs:
            raise Refused(429, "too_many_runs", f"{self.limits.runs} runs are running already", retry_after=1.0)
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)
                if self._idle is not None and not self._scopes:
                    self._idle.set()

    async def _callee(self, name: str) -> str | None:
        """The callee of a run; None for the agent that a call without a name runs."""
        if not name:
            return self._known[0].callee if self._known else None
        for agent in await self.agents():
            if agent.name == name:
                return agent.callee
        raise Refused(404, "agent_not_found", "there is no such agent")

    async def _discover(self) -> tuple[ServedAgent, ...]:
        agent, found = self._agent, dict[str, ServedAgent]()
        await agent.init()
        outbound = Outbound(agent.sanitize, without_credentials(agent.sent))
        # Then a call without a name runs what has that name there.
        has_local_name = any(node.get("name") == agent.name for node in _nodes(agent.org))
        for callee, own in islice(_organization(agent), MOST_AGENTS):
            name, description = outbound.agent(callee, own)
            if not found:  # the default agent is always there
                name = name or agent.name
                found[name] = ServedAgent(name, description, callee if has_local_name else None)
            elif name:
                found.setdefault(name, ServedAgent(name, description, callee))
        return tuple(found.values()) or (ServedAgent(agent.name),)

    def _forwarded(self, headers: Mapping[str, str]) -> dict[str, Any] | None:
        allowed = {name.lower() for name in self._agent.forward_headers}
        forwarded = {name: value for name, value in headers.items() if name.lower() in allowed}
        return {"_headers": forwarded} if forwarded else None


def _organization(agent: SSEOxyGent) -> Generator[tuple[str, str]]:
    """Yield the names and descriptions of the agents that the remote has, the default one first."""
    if agent.callee is not None:
        yield agent.callee, agent.desc
        return
    is_first = True
    for node in _nodes(agent.org):
        name, desc = node.get("name"), node.get("desc")
        if isinstance(name, str) and name and (is_first or node.get("type") == "agent"):
            own = desc if isinstance(desc, str) else ""
            yield name, (agent.desc or own) if is_first else own
            is_first = False


def _nodes(organization: dict[str, Any]) -> Generator[dict[str, Any]]:
    """Yield the agents and tools of an organization, each before those below it."""
    waiting = [organization]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(node.get("children", [])))


def _nothing() -> None:
    """Take nothing."""


def _same(value: Any) -> Any:
    return value
