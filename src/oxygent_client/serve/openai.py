"""Serve a remote agent by OpenAI's API: chat completions, responses, models (extra `[openai]`).

Rule 1: the content is the answer of the agent, once, streamed while it is written, without other agents' texts and
    tool calls of models. Thoughts and calls inside the remote are `reasoning_content`, if `reasoning` is set.
Rule 2: every error tells by `x-should-retry` whether OpenAI's clients retry: only if the agent surely did not run.
Rule 3: a request with an `Idempotency-Key` runs an agent once: sent again, it gets the same response.
Rule 4: a stream begins when the remote has accepted the run, so that a refusal is a status. A later error is an event
    of the stream, and there is no `[DONE]`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import attrs

from oxygent_client import Run, SSEOxyGent, TextDelta, TextUpdate
from oxygent_client.serve import (
    Exchange,
    Failure,
    Mount,
    Refused,
    Route,
    Runs,
    ServeLimits,
    Service,
    SharedResponses,
    text_of,
)
from oxygent_client.serve._openai.documents import (
    ChatDocuments,
    ResponseDocuments,
    error_document,
    model_document,
    reasoning_of,
)
from oxygent_client.serve._openai.requests import Question, chat_question, response_question

__all__ = ["OpenAIAdapter", "create_app"]

MODELS: Final = "/v1/models"
DELTAS: Final = {"text": "content", "reasoning": "reasoning_content"}
"""The members of a delta of a chat completion, by the kinds of pieces."""
KEY: Final = "idempotency-key"
KEY_LENGTH: Final = 255
"""Characters of a key."""


@attrs.define(eq=False)
class OpenAIAdapter:
    """The protocol of OpenAI's API, for a `Service`."""

    reasoning: bool = False
    """Whether thoughts and calls inside the remote are sent as reasoning."""
    clock: Callable[[], float] = time.time
    """The time that `created` of a response has."""
    _responses: SharedResponses | None = attrs.field(default=None, init=False)

    def routes(self, runs: Runs) -> Sequence[Route | Mount]:
        """Return the routes of the API."""
        self._responses = SharedResponses(runs.limits.return_seconds)
        api = _API(runs, self._responses, self.reasoning, self.clock)
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
        """Return a block that hosts the responses to requests with an `Idempotency-Key`."""
        assert self._responses is not None  # a service asks for the routes first
        return self._responses.running()


def create_app(
    agent: SSEOxyGent,
    *,
    reasoning: bool = False,
    token: str = "",
    cors: Sequence[str] = (),
    hosts: Sequence[str] | None = None,
    limits: ServeLimits | None = None,
    whole_answers: bool = False,
) -> Service:
    """Return an ASGI application that serves the agent by OpenAI's API.

    Args:
        agent: the agent.
        reasoning: whether thoughts and calls inside the remote are sent as reasoning.
        token: the bearer token that clients must send (their `api_key`); empty for none.
        cors: the origins of pages whose requests are accepted; `*` accepts all.
        hosts: the host names under which the application may be called; None accepts all.
        limits: the limits; None for the default ones.
        whole_answers: whether the text of an answer is sent at its end only, so that `sanitize` sees all of it at once.

    Raises:
        ConfigurationError: an argument is invalid.
    """
    return Service(
        agent,
        [OpenAIAdapter(reasoning)],
        token=token,
        cors=cors,
        hosts=hosts,
        limits=limits,
        whole_answers=whole_answers,
    )


class _ShownText:
    """The text that a client has: it cannot take back a part, so an answer that replaces one follows a blank line."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def add(self, update: TextUpdate) -> str:
        """Return what to send after an update."""
        if update.is_reset:  # a model wrote a preface before a tool call
            self._pieces.clear()
        self._pieces.append(update.delta)
        return f"\n\n{update.delta}" if update.is_reset else update.delta

    def finish(self, text: str) -> str | None:
        """Return the missing rest of the whole text; None if nothing is missing."""
        before = "".join(self._pieces)
        if before:
            return text[len(before) :] or None if text.startswith(before) else f"\n\n{text}"
        return text


@attrs.frozen
class _API:
    """The handlers."""

    runs: Runs
    shared: SharedResponses
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
        await self._once(exchange, self._chat)

    async def responses(self, exchange: Exchange) -> None:
        await self._once(exchange, self._response)

    async def _once(self, exchange: Exchange, handler: Callable[[Exchange], Awaitable[None]]) -> None:
        key = exchange.headers.get(KEY, "")
        if len(key) > KEY_LENGTH:
            raise Refused(400, "invalid_value", f"the key may have at most {KEY_LENGTH} characters", param=KEY)
        if key and self.shared.is_running:
            content = self.runs.digest([exchange.path, exchange.json()], exchange.headers)
            await self.shared.respond(exchange, key, content, handler)
        else:
            await handler(exchange)

    async def _chat(self, exchange: Exchange) -> None:
        question = chat_question(exchange.json(), exchange.headers)
        try:
            async with self._stream(exchange, question) as run:
                documents = ChatDocuments(question, run.remote_trace_id, int(self.clock()))
                if question.is_streamed:
                    await self._stream_chat(exchange, run, documents)
                else:
                    await self._respond(exchange, run, documents)
        except Exception as error:
            if not exchange.status or exchange.is_left:
                raise
            await exchange.send_event(error_document(self.runs.failure_of(error)))
            await exchange.end_stream()

    async def _response(self, exchange: Exchange) -> None:
        question = response_question(exchange.json())
        documents = ResponseDocuments(question, "", 0)
        try:
            async with self._stream(exchange, question) as run:
                documents = ResponseDocuments(question, run.remote_trace_id, int(self.clock()))
                if question.is_streamed:
                    await self._stream_response(exchange, run, documents)
                else:
                    await self._respond(exchange, run, documents)
        except Exception as error:
            if not exchange.status or exchange.is_left:
                raise
            for event in documents.failed(self.runs.failure_of(error)):
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
        outbound, shown, take_update = self.runs.outbound(run), _ShownText(), self.runs.text_updates(run)
        async for event in run:
            if isinstance(event, TextDelta):
                if (update := take_update()) is not None:
                    await take("text", outbound.text(shown.add(update)))
            elif self.reasoning and (thought := reasoning_of(outbound.event(event))):
                await take("reasoning", outbound.value(thought))
        output = run.response.output
        piece = shown.finish(text_of(output))
        if piece == text_of(output):
            await take("text", text_of(outbound.output(output)))
        elif piece is not None:
            await take("text", outbound.text(piece))

    async def _read_whole(self, run: Run) -> tuple[str, str]:
        """Read the run, and return its text and its reasoning."""
        outbound = self.runs.outbound(run)
        thoughts = [reasoning_of(outbound.event(event)) if self.reasoning else "" async for event in run]
        return text_of(outbound.output(run.response.output)), outbound.value("".join(thoughts))

    async def _respond(self, exchange: Exchange, run: Run, documents: ChatDocuments | ResponseDocuments) -> None:
        text, reasoning = await self._read_whole(run)
        await exchange.respond(200, documents.whole(text, reasoning), {"x-request-id": run.trace_id})

    async def _stream_chat(self, exchange: Exchange, run: Run, documents: ChatDocuments) -> None:
        await exchange.start_stream({"x-request-id": run.trace_id})
        await exchange.send_event(documents.chunk({"role": "assistant", "content": ""}))

        frames = {kind: documents.frame(name) for kind, name in DELTAS.items()}

        async def take(kind: str, piece: str) -> None:
            await exchange.send_event(frames[kind](piece))

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
