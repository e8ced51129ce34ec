"""Serve a remote agent by OpenAI's API: chat completions, responses, models (extra `[openai]`).

Rule 1: the content is the answer of the agent, once, streamed while it is written, without other agents' texts and
    tool calls of models. Thoughts and calls inside the remote are `reasoning_content`, if `reasoning` is set.
Rule 2: every error tells by `x-should-retry` whether OpenAI's clients retry: only if the agent surely did not run.
Rule 3: a stream begins when the remote has accepted the run, so that a refusal is a status. A later error is an event
    of the stream, and there is no `[DONE]`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final

import attrs

from oxygent_client import OxyError, Run, SSEOxyGent, TextDelta
from oxygent_client.sanitize import without_credentials
from oxygent_client.serve import Exchange, Failure, Mount, Refused, Route, Runs, ServeLimits, Service, failure_of
from oxygent_client.serve._openai.documents import (
    ChatDocuments,
    ResponseDocuments,
    error_document,
    model_document,
    reasoning_of,
    text_of,
)
from oxygent_client.serve._openai.requests import Question, chat_question, response_question

__all__ = ["OpenAIAdapter", "create_app"]

MODELS: Final = "/v1/models"
OFTEN: Final = 65_536
"""The length of a text, in characters, up to which each of its pieces is sent at once."""
SELDOM: Final = 64
"""How many pieces of a longer text are sent together."""


@attrs.frozen
class OpenAIAdapter:
    """The protocol of OpenAI's API, for a `Service`."""

    reasoning: bool = False
    """Whether thoughts and calls inside the remote are sent as reasoning."""
    clock: Callable[[], float] = time.time
    """The time that `created` of a response has."""

    def routes(self, runs: Runs) -> Sequence[Route | Mount]:
        """Return the routes of the API."""
        api = _API(runs, self.reasoning, self.clock)
        return (
            Route("GET", MODELS, api.models),
            Route("GET", f"{MODELS}/*", api.model),
            Route("POST", "/v1/chat/completions", api.chat),
            Route("POST", "/v1/responses", api.responses),
        )

    def error_document(self, failure: Failure) -> Any:
        """Return an error in OpenAI's shape."""
        return error_document(failure)

    def running(self) -> AbstractAsyncContextManager[None]:
        """Return a block without effect."""
        return nullcontext()


def create_app(
    agent: SSEOxyGent,
    *,
    reasoning: bool = False,
    token: str = "",
    cors: Sequence[str] = (),
    hosts: Sequence[str] | None = None,
    limits: ServeLimits | None = None,
) -> Service:
    """Return an ASGI application that serves the agent by OpenAI's API.

    Args:
        agent: the agent.
        reasoning: whether thoughts and calls inside the remote are sent as reasoning.
        token: the bearer token that clients must send (their `api_key`); empty for none.
        cors: the origins of pages whose requests are accepted; `*` accepts all.
        hosts: the host names under which the application may be called; None accepts all.
        limits: the limits; None for the default ones.

    Raises:
        ConfigurationError: an argument is invalid.
    """
    return Service(agent, [OpenAIAdapter(reasoning)], token=token, cors=cors, hosts=hosts, limits=limits)


@attrs.define
class _ShownText:
    """The part of a growing text that a client has."""

    text: str = ""
    _looks: int = 0

    def is_due(self) -> bool:
        """Whether to look at the text after one more piece: a look takes time in proportion to the whole text."""
        self._looks += 1
        return len(self.text) < OFTEN or self._looks % SELDOM == 0

    def show(self, text: str) -> str:
        """Return what to send, so that the client has `text`: after a blank line, if what it has is not a part of it.

        A client cannot take back what it has. That happens if a model writes a preface before a tool call.
        """
        before, self.text = self.text, text
        return text[len(before) :] if text.startswith(before) else f"\n\n{text}"


@attrs.frozen
class _API:
    """The handlers."""

    runs: Runs
    reasoning: bool
    clock: Callable[[], float]

    async def models(self, exchange: Exchange) -> None:
        agents = await self.runs.agents()
        await exchange.respond(200, {"object": "list", "data": [model_document(agent) for agent in agents]})

    async def model(self, exchange: Exchange) -> None:
        name = exchange.path.removeprefix(f"{MODELS}/")
        for agent in await self.runs.agents():
            if agent.name == name:
                await exchange.respond(200, model_document(agent))
                return
        raise Refused(404, "model_not_found", "there is no such model; see /v1/models", param="model")

    async def chat(self, exchange: Exchange) -> None:
        question = chat_question(exchange.json(), exchange.headers)
        try:
            async with self._stream(exchange, question) as run:
                documents = ChatDocuments(question, run.remote_trace_id, int(self.clock()))
                if question.is_streamed:
                    await self._stream_chat(exchange, run, documents)
                else:
                    await self._respond(exchange, run, documents)
        except (OxyError, Refused) as error:
            if not exchange.status:
                raise
            await exchange.send_event(error_document(failure_of(error)))
            await exchange.end_stream()

    async def responses(self, exchange: Exchange) -> None:
        question = response_question(exchange.json())
        documents = ResponseDocuments(question, "", 0)
        try:
            async with self._stream(exchange, question) as run:
                documents = ResponseDocuments(question, run.remote_trace_id, int(self.clock()))
                if question.is_streamed:
                    await self._stream_response(exchange, run, documents)
                else:
                    await self._respond(exchange, run, documents)
        except (OxyError, Refused) as error:
            if not exchange.status:
                raise
            for event in documents.failed(failure_of(error)):
                await exchange.send_event(event, event["type"])
            await exchange.end_stream()

    def _stream(self, exchange: Exchange, question: Question) -> AbstractAsyncContextManager[Run]:
        return self.runs.stream(
            question.query,
            agent=question.model,
            arguments=question.arguments,
            from_trace_id=question.previous,
            headers=exchange.headers,
        )

    async def _read(self, run: Run, take: Callable[[str, str], Awaitable[None]]) -> None:
        """Read the run, and have `take` get each piece of its `reasoning` and of its `text`."""
        clean, shown = without_credentials(run.sent), _ShownText()
        async for event in run:
            if self.reasoning and (thought := reasoning_of(event)):
                await take("reasoning", clean(thought))
            if isinstance(event, TextDelta) and shown.is_due() and (piece := shown.show(run.text)):
                await take("text", clean(piece))
        if (piece := shown.show(text_of(run.response.output))) or not shown.text:
            await take("text", clean(piece))

    async def _read_whole(self, run: Run) -> tuple[str, str]:
        """Read the run, and return its text and its reasoning."""
        clean = without_credentials(run.sent)
        thoughts = [reasoning_of(event) async for event in run]
        return clean(text_of(run.response.output)), clean("".join(thoughts)) if self.reasoning else ""

    async def _respond(self, exchange: Exchange, run: Run, documents: ChatDocuments | ResponseDocuments) -> None:
        text, reasoning = await self._read_whole(run)
        await exchange.respond(200, documents.whole(text, reasoning), {"x-request-id": run.trace_id})

    async def _stream_chat(self, exchange: Exchange, run: Run, documents: ChatDocuments) -> None:
        await exchange.start_stream({"x-request-id": run.trace_id})
        await exchange.send_event(documents.chunk({"role": "assistant", "content": ""}))

        async def take(kind: str, piece: str) -> None:
            name = "content" if kind == "text" else "reasoning_content"
            await exchange.send_event(documents.chunk({name: piece}))

        await self._read(run, take)
        await exchange.send_event(documents.chunk({}, "stop"))
        if documents.question.has_usage:
            await exchange.send_event(documents.usage())
        await exchange.send_event("[DONE]")
        await exchange.end_stream()

    async def _stream_response(self, exchange: Exchange, run: Run, documents: ResponseDocuments) -> None:
        async def take(kind: str, piece: str) -> None:
            for event in documents.piece(kind, piece):
                await exchange.send_event(event, event["type"])

        await exchange.start_stream({"x-request-id": run.trace_id})
        for event in documents.begin():
            await exchange.send_event(event, event["type"])
        await self._read(run, take)
        for event in documents.end():
            await exchange.send_event(event, event["type"])
        await exchange.end_stream()
