"""Clients of MCP, asked for tasks: a program for an environment with the package `mcp`, of release 1 or 2.

Rule 1: it imports nothing of ours. A client is used as its documentation shows.
Rule 2: a task is a line of JSON on standard input, its result a line on standard output. Each way has one session for
    all of its tasks.

Usage: python drive_mcp.py RELEASE URL COMMAND, where COMMAND is JSON: the command line of a server on standard input
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

RELEASE, URL, COMMAND = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
READ_SECONDS = {"call": 5.0}
"""How long the client of a task waits for the next bytes over HTTP; else as by default."""
DEFAULT_READ_SECONDS = 300.0
# `Any`, since the libraries are not there where types are checked.


async def _elicit(_: Any, params: Any) -> Any:
    """The user of the client: says yes to whatever is asked."""
    types = importlib.import_module("mcp.types")
    return types.ElicitResult(action="accept", content={"answer": f"{params.message} yes"})


async def _session_1(stack: AsyncExitStack, way: str, seconds: float) -> Any:
    mcp = importlib.import_module("mcp")
    if way == "stdio-legacy":
        parameters = mcp.StdioServerParameters(command=COMMAND[0], args=COMMAND[1:])
        streams = await stack.enter_async_context(mcp.stdio_client(parameters))
    else:
        client = importlib.import_module("mcp.client.streamable_http").streamablehttp_client
        streams = await stack.enter_async_context(client(URL, sse_read_timeout=seconds))
    session = await stack.enter_async_context(mcp.ClientSession(*streams[:2], elicitation_callback=_elicit))
    await session.initialize()
    return session


async def _session_2(stack: AsyncExitStack, way: str, seconds: float) -> Any:
    mcp, httpx2 = importlib.import_module("mcp"), importlib.import_module("httpx2")
    transport, _, era = way.partition("-")
    if transport == "stdio":
        server = mcp.StdioServerParameters(command=COMMAND[0], args=COMMAND[1:])
    else:
        http = httpx2.AsyncClient(timeout=httpx2.Timeout(30, read=seconds))
        http = await stack.enter_async_context(http)
        server = importlib.import_module("mcp.client.streamable_http").streamable_http_client(URL, http_client=http)
    mode = "legacy" if era == "legacy" else "auto"
    return await stack.enter_async_context(mcp.Client(server, mode=mode, elicitation_callback=_elicit))


async def _call(session: Any, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call a tool; the result has the names of the protocol, and the texts of the progress."""
    progress: list[str | None] = []

    async def note(_: float, __: float | None, message: str | None) -> None:
        progress.append(message)

    try:
        result = await session.call_tool(tool, arguments, progress_callback=note)
    except Exception as error:  # noqa: BLE001  (it is the result)
        return {"raised": type(error).__name__, "text": str(error)}
    shown = result.model_dump(mode="json", by_alias=True)
    return {**shown, "text": result.content[0].text, "progress": progress}


async def _storm(session: Any, tool: str, queries: list[str]) -> dict[str, Any]:
    """Call a tool many times at once; the queries whose answers are not their own."""
    results = await asyncio.gather(*(_call(session, tool, {"query": query}) for query in queries))
    pairs = zip(queries, (result["text"] for result in results), strict=True)
    return {"wrong": [pair for pair in pairs if pair[0].partition(" ")[2] != pair[1]], "count": len(results)}


async def _leave(session: Any, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call a tool, and cancel the call after the next line on standard input."""
    call = asyncio.create_task(_call(session, tool, arguments))
    await asyncio.to_thread(sys.stdin.readline)
    call.cancel()
    await asyncio.wait([call])
    return {"time": time.time()}


async def _tools(session: Any, _: str, __: Any) -> dict[str, Any]:
    return {"tools": [tool.name for tool in (await session.list_tools()).tools]}


TASKS: dict[str, Any] = {"call": _call, "storm": _storm, "leave": _leave, "tools": _tools}
SESSIONS = {"1": _session_1, "2": _session_2}


async def main() -> None:
    """Do what is asked for, one task after another."""
    async with AsyncExitStack() as stack:
        sessions: dict[str, Any] = {}
        while line := await asyncio.to_thread(sys.stdin.readline):
            task = json.loads(line)
            way = task["way"]
            if way not in sessions:
                seconds = READ_SECONDS.get(task["task"], DEFAULT_READ_SECONDS)
                sessions[way] = await SESSIONS[RELEASE](stack, way, seconds)
            result = await TASKS[task["task"]](sessions[way], task["tool"], task["arguments"])
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
