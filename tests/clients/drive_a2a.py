"""Clients of A2A, asked for tasks: a program for the environment that has them.

Rule 1: it imports nothing of ours. A client is used as its documentation shows.
Rule 2: a task is a line of JSON on standard input, its result a line on standard output.

Usage: python drive_a2a.py URL, in an environment with a2a-sdk and google-adk
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from typing import Any

client_module: Any = importlib.import_module("a2a.client")
helpers: Any = importlib.import_module("a2a.helpers")
types: Any = importlib.import_module("a2a.types")
# `Any`, since this program is for another environment than that in which types are checked.

URL = sys.argv[1]
_UNLIMITED: Any = importlib.import_module("httpx").Limits(max_connections=None)


def _client(*, streaming: bool) -> Any:
    return client_module.create_client(URL, client_module.ClientConfig(streaming=streaming))


def _request(query: str, context: str) -> Any:
    message = helpers.new_text_message(query, role=types.Role.ROLE_USER, context_id=context or None)
    return types.SendMessageRequest(message=message)


def _facts(task: Any) -> dict[str, Any]:
    return {
        "id": task.id,
        "context": task.context_id,
        "state": types.TaskState.Name(task.status.state).removeprefix("TASK_STATE_"),
        "status": helpers.get_message_text(task.status.message),
        "outcome": dict(task.metadata).get("outcome"),
        "texts": [helpers.get_artifact_text(artifact) for artifact in task.artifacts],
    }


async def send(query: str, context: str = "") -> dict[str, Any]:
    """Send a message, and wait for its task."""
    async with await _client(streaming=False) as client:
        (event,) = [event async for event in client.send_message(_request(query, context))]
        return _facts(event.task)


async def stream(query: str, context: str = "") -> dict[str, Any]:
    """Send a message, and put its task together from the events."""
    async with await _client(streaming=True) as client:
        shown: dict[str, str] = {}
        state, status, task_id, calls = "", "", "", list[str]()
        async for event in client.send_message(_request(query, context)):
            if event.HasField("task"):
                task_id = event.task.id
            elif event.HasField("artifact_update"):
                update = event.artifact_update
                before = shown.get(update.artifact.artifact_id, "") if update.append else ""
                shown[update.artifact.artifact_id] = before + helpers.get_artifact_text(update.artifact)
            else:
                state = types.TaskState.Name(event.status_update.status.state).removeprefix("TASK_STATE_")
                status = helpers.get_message_text(event.status_update.status.message)
                calls += [status] if state == "WORKING" and status else []
        stored = _facts(await client.get_task(types.GetTaskRequest(id=task_id)))
        assert stored["texts"] == [*shown.values()]
        assert (stored["state"], stored["status"]) == (state, status)
        return {**stored, "calls": calls}


async def cancel(query: str) -> dict[str, Any]:
    """Cancel a task once the next line on standard input says so; the states of its stream."""
    async with await _client(streaming=True) as client:
        events, states = client.send_message(_request(query, "")), list[str]()
        task_id = (await anext(events)).task.id

        async def read() -> None:
            async for event in events:
                states.append(types.TaskState.Name(event.status_update.status.state).removeprefix("TASK_STATE_"))

        reading = asyncio.create_task(read())
        await asyncio.to_thread(sys.stdin.readline)
        now = time.time()
        task = await client.cancel_task(types.CancelTaskRequest(id=task_id))
        await reading
        return {**_facts(task), "states": states, "time": now}


async def subscribe(query: str) -> dict[str, Any]:
    """Leave a stream after its first status, subscribe to the task, cancel it then, and read to its end."""
    async with await _client(streaming=True) as client:
        events = client.send_message(_request(query, ""))
        task_id = (await anext(events)).task.id
        await anext(events)
        await events.aclose()
    async with await _client(streaming=True) as client:
        events, states = client.subscribe(types.SubscribeToTaskRequest(id=task_id)), list[str]()
        async for event in events:
            state = (event.task if event.HasField("task") else event.status_update).status.state
            states.append(types.TaskState.Name(state).removeprefix("TASK_STATE_"))
            if len(states) == 1:
                await client.cancel_task(types.CancelTaskRequest(id=task_id))
        return {"states": states}


async def storm(count: int) -> dict[str, Any]:
    """Send many messages at once, every other one streamed; the queries whose answers are not their own."""
    async with importlib.import_module("httpx").AsyncClient(timeout=120, limits=_UNLIMITED) as http:
        made = [client_module.ClientConfig(streaming=streaming, httpx_client=http) for streaming in (False, True)]
        clients = [await client_module.create_client(URL, config) for config in made]

        async def one(number: int) -> list[str]:
            events = clients[number % 2].send_message(_request(f"echo storm {number}", ""))
            responses = [event async for event in events]
            task = responses[0].task if number % 2 == 0 else None
            artifact = responses[-2].artifact_update.artifact if task is None else task.artifacts[0]
            return [f"storm {number}", helpers.get_artifact_text(artifact)]

        answers = await asyncio.gather(*(one(number) for number in range(count)))
        return {"wrong": [each for each in answers if each[1] != each[0]], "count": len(answers)}


async def adk(query: str, second: str = "") -> dict[str, Any]:
    """Google ADK: an agent that is remote, asked in one session."""
    remote: Any = importlib.import_module("google.adk.agents.remote_a2a_agent").RemoteA2aAgent
    runners: Any = importlib.import_module("google.adk.runners")
    genai: Any = importlib.import_module("google.genai.types")
    agent = remote(name="remote", agent_card=f"{URL}/.well-known/agent-card.json")
    runner = runners.InMemoryRunner(agent=agent, app_name="test")
    session = await runner.session_service.create_session(app_name="test", user_id="user")
    texts, errors = list[str](), list[str]()
    for each in filter(None, (query, second)):
        message = genai.Content(role="user", parts=[genai.Part(text=each)])
        last = ""
        async for event in runner.run_async(user_id="user", session_id=session.id, new_message=message):
            errors += [event.error_message] if event.error_message else []
            if event.is_final_response() and event.content is not None:
                last = "".join(part.text or "" for part in event.content.parts if not part.thought) or last
        texts.append(last)
    await runner.close()
    return {"texts": texts, "errors": errors}


async def card() -> dict[str, Any]:
    """Read the card."""
    async with importlib.import_module("httpx").AsyncClient() as http:
        found = await client_module.A2ACardResolver(http, URL).get_agent_card()
        return {"name": found.name, "skills": [skill.id for skill in found.skills]}


WAYS = {each.__name__: each for each in (send, stream, cancel, subscribe, storm, adk, card)}


def main() -> None:
    """Do what is asked for, one task after another."""
    while line := sys.stdin.readline():
        task = json.loads(line)
        try:
            result = asyncio.run(WAYS[task.pop("way")](**task))
        except Exception as error:  # noqa: BLE001  (it is the result)
            result = {"error": type(error).__name__, "text": str(error)}
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
