"""Serve a remote agent by AG-UI, the Agent User Interaction protocol (extra `[agui]`).

Rule 1: a request is one run, streamed: the answer's text once, the calls inside the remote, and how the run ended.
Rule 2: an agent that asks the user ends the response with an interrupt; its run waits for the answer, for some minutes.
Rule 3: the history of the client counts; where the remote has the same in its memory, only the query is sent.
Rule 4: a request with the same ids of thread and run, and the same user messages, was sent before: it gets the events
    of its run, from the first. With other messages it is another run, once that with these ids has ended.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final

import attrs

from oxygent_client import SSEOxyGent
from oxygent_client.errors import ConfigurationError
from oxygent_client.serve import (
    Exchange,
    Failure,
    HostedTasks,
    Mount,
    Refused,
    Route,
    Runs,
    ServeLimits,
    Service,
    SharedResponses,
    positive,
)
from oxygent_client.serve._agui.page import AGENTS, PAGE, REPORTS, Page
from oxygent_client.serve._agui.requests import RunInput, run_input
from oxygent_client.serve._agui.session import Interrupts, RunSession
from oxygent_client.serve._agui.threads import Threads

__all__ = ["AGUIAdapter", "create_app"]

PATH: Final = "/agui"
"""The path of the default agent; another one is below it, by its name."""
ANSWER_SECONDS: Final = 300.0
"""How long an agent waits for the answer of the user."""
CLOSE_SECONDS: Final = 1.0
"""How long the last responses get to be sent when the service ends."""


@attrs.define(eq=False)
class AGUIAdapter:
    """AG-UI over HTTP and server-sent events, for one `Service`."""

    reasoning: bool = False
    """Whether thoughts are sent as reasoning."""
    answer_seconds: float = attrs.field(default=ANSWER_SECONDS, validator=positive)
    """How long an agent waits for the answer of the user."""
    page: bool = False
    """Whether there is a page for browsers at `/`."""
    _endpoint: _Endpoint | None = attrs.field(default=None, init=False)

    def routes(self, runs: Runs) -> Sequence[Route | Mount]:
        """Return the endpoint of each agent, and what the page needs."""
        page = Page(runs) if self.page else None
        responses = SharedResponses(runs.limits.return_seconds)
        self._endpoint = _Endpoint(runs, Threads(runs), responses, self.reasoning, self.answer_seconds, page)
        routes = (Route("POST", PATH, self._endpoint.run), Route("POST", f"{PATH}/*", self._endpoint.run))
        if page is None:
            return routes
        return (
            *routes,
            Route("GET", PAGE, page.page, needs_token=False),
            Route("GET", AGENTS, page.agents),
            Route("GET", f"{REPORTS}/*", page.report),
        )

    def error_document(self, failure: Failure) -> Any:
        """Return the members of an error: the protocol names none."""
        return {
            "code": failure.code,
            "message": failure.message,
            "param": failure.param or None,
            "outcome": str(failure.outcome),
            "retryable": failure.retryable,
            "trace_id": failure.trace_id or None,
        }

    def running(self) -> AbstractAsyncContextManager[None]:
        """Return a block that hosts the runs."""
        assert self._endpoint is not None  # a service asks for the routes first
        return self._endpoint.running()


@attrs.define(eq=False)
class _Endpoint:
    """The handler, and the tasks of the runs."""

    runs: Runs
    threads: Threads
    responses: SharedResponses
    reasoning: bool
    answer_seconds: float
    page: Page | None
    _interrupts: Interrupts = attrs.field(factory=Interrupts, init=False)
    _active: set[tuple[str, str]] = attrs.field(factory=set[tuple[str, str]], init=False)
    """The ids of thread and run of the responses that are being made."""
    _tasks: HostedTasks = attrs.field(factory=lambda: HostedTasks(CLOSE_SECONDS), init=False)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with self._tasks.running(), self.responses.running():
            yield

    async def run(self, exchange: Exchange) -> None:
        asked = run_input(exchange.json())
        agent = exchange.path.removeprefix(PATH).removeprefix("/")
        said = self.runs.digest([agent, asked.digest, asked.query, [attrs.astuple(each) for each in asked.answers]], {})
        key = (asked.thread_id, asked.run_id, said)
        sender = self.runs.digest(None, exchange.headers)
        await self.responses.respond(exchange, key, sender, partial(self._run_alone, asked, agent))

    async def _run_alone(self, asked: RunInput, agent: str, exchange: Exchange) -> None:
        ids = (asked.thread_id, asked.run_id)
        if ids in self._active:
            raise Refused(409, "id_in_use", "another run has this runId, and has not ended", retry_after=1.0)
        self._active.add(ids)
        try:
            await self._run(asked, agent, exchange)
        finally:
            self._active.remove(ids)

    async def _run(self, asked: RunInput, agent: str, exchange: Exchange) -> None:
        if asked.answers:
            session, answer = self._interrupts.take(asked)
            session.resume(asked, exchange, answer)
        else:
            self._interrupts.check_answered(asked)
            session = RunSession(
                self.runs,
                self.threads,
                self._interrupts,
                asked,
                exchange,
                agent=agent,
                reasoning=self.reasoning,
                answer_seconds=self.answer_seconds,
                on_begin=None if self.page is None else self.page.keep,
            )
            self._tasks.start(session.host)
        await session.respond()


def create_app(
    agent: SSEOxyGent,
    *,
    reasoning: bool = False,
    answer_seconds: float = ANSWER_SECONDS,
    page: bool = False,
    token: str = "",
    cors: Sequence[str] = (),
    hosts: Sequence[str] | None = None,
    limits: ServeLimits | None = None,
    whole_answers: bool = False,
) -> Service:
    """Return an ASGI application that serves the agent by AG-UI, at `/agui`.

    Args:
        agent: the agent.
        reasoning: whether thoughts are sent as reasoning.
        answer_seconds: how long an agent that asks waits for the answer of the user.
        page: whether there is a page for browsers at `/`. It needs `hosts` or a token.
        token: the bearer token that clients must send; empty for none.
        cors: the origins of pages whose requests are accepted; `*` accepts all.
        hosts: the host names under which the application may be called; None accepts all.
        limits: the limits; None for the default ones.
        whole_answers: whether the text of an answer is sent at its end only, so that `sanitize` sees all of it at once.

    Raises:
        ConfigurationError: an argument is invalid.
    """
    if page and hosts is None and not token:
        raise ConfigurationError("page needs hosts or a token: else its requests are refused, as those of any page are")
    adapter = AGUIAdapter(reasoning, answer_seconds, page)
    return Service(agent, [adapter], token=token, cors=cors, hosts=hosts, limits=limits, whole_answers=whole_answers)
