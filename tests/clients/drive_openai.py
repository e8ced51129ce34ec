"""Clients of OpenAI's API, asked for tasks: a program for the environment that has them.

Rule 1: it imports nothing of ours. A client is used as its documentation shows, with its default retries.
Rule 2: a task is a line of JSON on standard input, its result a line on standard output: the text, or the error.

Usage: python drive_openai.py URL MODEL, in an environment with openai, litellm and langchain-openai
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import sys
import time
from typing import Any

URL, MODEL = sys.argv[1:3]
Messages = list[dict[str, str]]
# `Any`, since the libraries are not there where types are checked.


@functools.cache
def _openai() -> Any:
    return importlib.import_module("openai").OpenAI(base_url=URL, api_key="none")


def _openai_async() -> Any:
    """A client of its own for each event loop."""
    return importlib.import_module("openai").AsyncOpenAI(base_url=URL, api_key="none")


def _chunks(stream: Any) -> dict[str, Any]:
    """The text and the id of a stream of chunks."""
    text, found = "", ""
    for chunk in stream:
        found = chunk.id
        for choice in chunk.choices:
            text += choice.delta.content or ""
    return {"text": text, "id": found}


def plain(messages: Messages, **options: Any) -> dict[str, Any]:
    """`openai`, a chat completion."""
    done = _openai().chat.completions.create(model=MODEL, messages=messages, **options)
    return {"text": done.choices[0].message.content, "id": done.id, "usage": done.usage}


def streamed(messages: Messages, **options: Any) -> dict[str, Any]:
    """`openai`, streamed."""
    usage = {"include_usage": True}
    create = _openai().chat.completions.create
    return _chunks(create(model=MODEL, messages=messages, stream=True, stream_options=usage, **options))


def plain_async(messages: Messages, **options: Any) -> dict[str, Any]:
    """`openai`, async."""

    async def ask() -> Any:
        async with _openai_async() as client:
            return await client.chat.completions.create(model=MODEL, messages=messages, **options)

    done = asyncio.run(ask())
    return {"text": done.choices[0].message.content, "id": done.id}


def streamed_async(messages: Messages, **options: Any) -> dict[str, Any]:
    """`openai`, async and streamed."""

    async def ask() -> dict[str, Any]:
        async with _openai_async() as client:
            stream = await client.chat.completions.create(model=MODEL, messages=messages, stream=True, **options)
            return _chunks([chunk async for chunk in stream])

    return asyncio.run(ask())


def response(messages: Messages, **options: Any) -> dict[str, Any]:
    """`openai`, a response."""
    done = _openai().responses.create(model=MODEL, input=messages, **options)
    return {"text": done.output_text, "id": done.id, "usage": done.usage}


def streamed_response(messages: Messages, **options: Any) -> dict[str, Any]:
    """`openai`, a response by its helper for streams."""
    text = ""
    with _openai().responses.stream(model=MODEL, input=messages, **options) as stream:
        for event in stream:
            text += event.delta if event.type == "response.output_text.delta" else ""
        done = stream.get_final_response()
    assert done.output_text == text
    return {"text": text, "id": done.id}


def _litellm(messages: Messages, **options: Any) -> Any:
    completion = importlib.import_module("litellm").completion
    return completion(model=f"openai/{MODEL}", api_base=URL, api_key="none", messages=messages, **options)


def litellm(messages: Messages, **options: Any) -> dict[str, Any]:
    """`litellm`."""
    done = _litellm(messages, **options)
    return {"text": done.choices[0].message.content, "id": done.id}


def streamed_litellm(messages: Messages, **options: Any) -> dict[str, Any]:
    """`litellm`, streamed."""
    return _chunks(_litellm(messages, stream=True, **options))


@functools.cache
def _langchain(**options: Any) -> Any:
    return importlib.import_module("langchain_openai").ChatOpenAI(model=MODEL, base_url=URL, api_key="none", **options)


def langchain(messages: Messages, **options: Any) -> dict[str, Any]:
    """`langchain-openai`."""
    done = _langchain(**options).invoke(messages)
    return {"text": done.text, "id": done.id}


def streamed_langchain(messages: Messages, **options: Any) -> dict[str, Any]:
    """`langchain-openai`, streamed."""
    return {"text": "".join(chunk.text for chunk in _langchain(**options).stream(messages))}


def response_langchain(messages: Messages, **options: Any) -> dict[str, Any]:
    """`langchain-openai`, by responses, streamed."""
    model = _langchain(use_responses_api=True, **options)
    return {"text": "".join(chunk.text for chunk in model.stream(messages))}


def leave(messages: Messages) -> dict[str, Any]:
    """`openai`: a stream that is left after its first chunk."""
    with _openai().chat.completions.create(model=MODEL, messages=messages, stream=True) as stream:
        first = next(iter(stream))
    return {"id": first.id, "time": time.time()}


def leave_plain(messages: Messages) -> dict[str, Any]:
    """`openai`: an answer that is not waited for; the next line on standard input says when to leave."""

    async def ask() -> None:
        async with _openai_async() as client:
            await client.chat.completions.create(model=MODEL, messages=messages)

    async def leave() -> None:
        task = asyncio.create_task(ask())
        await asyncio.to_thread(sys.stdin.readline)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(leave())
    return {"time": time.time()}


def storm(messages: Messages) -> dict[str, Any]:
    """`openai`: many calls at once, every other one streamed; the queries whose answers are not their own."""

    async def ask() -> dict[str, Any]:
        async with _openai_async() as client:
            create = client.chat.completions.create

            async def one(number: int, query: str) -> str:
                own = [{"role": "user", "content": query}]
                if number % 2:
                    stream = await create(model=MODEL, messages=own, stream=True)
                    return str(_chunks([chunk async for chunk in stream])["text"])
                done = await create(model=MODEL, messages=own)
                return str(done.choices[0].message.content)

            queries = [message["content"] for message in messages]
            texts = await asyncio.gather(*(one(*each) for each in enumerate(queries)))
            pairs = zip(queries, texts, strict=True)
            return {"wrong": [pair for pair in pairs if pair[0].partition(" ")[2] != pair[1]], "count": len(texts)}

    return asyncio.run(ask())


def models(_: Messages) -> dict[str, Any]:
    """`openai`: the models."""
    return {"models": [model.id for model in _openai().models.list()]}


WAYS = {
    each.__name__: each
    for each in (
        *(plain, streamed, plain_async, streamed_async, response, streamed_response, litellm, streamed_litellm),
        *(langchain, streamed_langchain, response_langchain, leave, leave_plain, storm, models),
    )
}


def main() -> None:
    """Do what is asked for, one task after another."""
    while line := sys.stdin.readline():
        task = json.loads(line)
        try:
            result = WAYS[task.pop("way")](task.pop("messages", []), **task)
        except Exception as error:  # noqa: BLE001  (it is the result)
            status = getattr(error, "status_code", None)
            result = {"error": type(error).__name__, "status": status, "text": str(error)}
        sys.stdout.write(json.dumps(result, default=str) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
