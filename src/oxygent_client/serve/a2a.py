"""Serve a remote agent by A2A, the Agent2Agent protocol (extra `[a2a]`).

Rule 1: the card has a skill for each agent of the organization, read when it is asked for.
Rule 2: a message is a task with a run of its own, which goes on without its client. Its events are those of the run.
Rule 3: asyncio only, as the package `a2a-sdk` is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import anyio
import attrs
from a2a.server.request_handlers import DefaultRequestHandler, build_error_response
from a2a.utils.constants import AGENT_CARD_WELL_KNOWN_PATH
from a2a.utils.errors import InternalError, InvalidRequestError
from google.protobuf.json_format import MessageToDict

from oxygent_client import SSEOxyGent
from oxygent_client.serve import Exchange, Failure, Mount, Route, Runs, ServedAgent, ServeLimits, Service
from oxygent_client.serve._a2a.calls import answer_call
from oxygent_client.serve._a2a.documents import agent_card, failure_metadata
from oxygent_client.serve._a2a.executor import RunExecutor
from oxygent_client.serve._a2a.sent_messages import SentMessages
from oxygent_client.serve._a2a.store import BoundedTaskStore

__all__ = ["A2AAdapter", "create_app"]

PATH: Final = "/a2a"
"""The path of the calls."""
CLOSE_SECONDS: Final = 1.0
"""How long the last responses get to be sent when the service ends."""


@attrs.define(eq=False)
class A2AAdapter:
    """A2A by JSON-RPC, for one `Service`."""

    url: str = ""
    """The URL of this server for its clients, without `/a2a`; empty for the one of the request for the card."""
    needs_token: bool = False
    """Whether the card says that clients need a bearer token."""
    _runs: Runs | None = attrs.field(default=None, init=False)
    _handler: DefaultRequestHandler | None = attrs.field(default=None, init=False)
    _messages: SentMessages = attrs.field(factory=SentMessages, init=False)
    _calls: int = attrs.field(default=0, init=False)
    _idle: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Set when no call is left."""

    def routes(self, runs: Runs) -> Sequence[Route | Mount]:
        """Return the card and the endpoint of the protocol."""
        self._runs = runs
        return (Route("GET", AGENT_CARD_WELL_KNOWN_PATH, self._card), Route("POST", PATH, self._call))

    def error_document(self, failure: Failure) -> Any:
        """Return an error of JSON-RPC."""
        kind = InternalError if failure.status >= 500 else InvalidRequestError
        document = build_error_response(None, kind(failure.message))
        document["error"]["data"][0]["metadata"] = {
            name: str(value) for name, value in failure_metadata(failure).items()
        }
        return document

    def running(self) -> AbstractAsyncContextManager[None]:
        """Return a block after which no task runs."""
        return self._running()

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            if self._handler is not None:
                with anyio.move_on_after(CLOSE_SECONDS):  # streams of runs that were stopped
                    await self._idle.wait()
                await self._handler.aclose()
                self._handler = None

    async def _card(self, exchange: Exchange) -> None:
        assert self._runs is not None  # a service asks for the routes first
        url = (self.url or exchange.base_url).rstrip("/") + PATH
        card = agent_card(await self._runs.agents(), url, needs_token=self.needs_token)
        await exchange.respond(200, MessageToDict(card))

    async def _call(self, exchange: Exchange) -> None:
        assert self._runs is not None  # as above
        if self._handler is None:
            card = agent_card((ServedAgent("any"),), PATH, needs_token=False)  # for its capabilities
            self._messages = SentMessages()  # of its tasks
            self._handler = DefaultRequestHandler(RunExecutor(self._runs), BoundedTaskStore(), card)
        if not self._calls:
            self._idle = anyio.Event()
        self._calls += 1
        try:
            await answer_call(exchange, self._handler, self._messages)
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()


def create_app(
    agent: SSEOxyGent,
    *,
    url: str = "",
    token: str = "",
    cors: Sequence[str] = (),
    hosts: Sequence[str] | None = None,
    limits: ServeLimits | None = None,
    whole_answers: bool = False,
) -> Service:
    """Return an ASGI application that serves the agent by A2A: its card, and calls of JSON-RPC at `/a2a`.

    Args:
        agent: the agent.
        url: the URL of the application for its clients, if a proxy changes it; empty for the one of each request.
        token: the bearer token that clients must send, for the card too; empty for none.
        cors: the origins of pages whose requests are accepted; `*` accepts all.
        hosts: the host names under which the application may be called; None accepts all.
        limits: the limits; None for the default ones.
        whole_answers: whether the text of an answer is sent at its end only, so that `sanitize` sees all of it at once.

    Raises:
        ConfigurationError: an argument is invalid.
    """
    adapter = A2AAdapter(url, needs_token=bool(token))
    return Service(agent, [adapter], token=token, cors=cors, hosts=hosts, limits=limits, whole_answers=whole_answers)
