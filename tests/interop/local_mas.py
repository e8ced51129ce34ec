"""A real local multi-agent system whose agents are elsewhere: the framework's own remote agents, and our drop-in.

Rule 1: runs inside the environment of one OxyGent release; of ours it imports what the tests were given.
Rule 2: `POST /interop/agent` puts a remote agent into the running system, over one of the same name.
Rule 3: a query says whom to call and with what: `NAME QUERY`, or `NAME QUERY | QUERY | ...` for all at once. The answer is the
        state and the output of each call.
Rule 4: it lives no longer than its standard input.

Usage: python -m tests.interop.local_mas --port PORT --spec JSON      (the working directory becomes its store)
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
from typing import Any

from oxygent_client import Retry, Timeouts
from tests.interop.server import (
    Config,
    end_with_standard_input,
    fastapi,
    identity,
    language_model,
    oxy,
    oxygent,
    stored_before_answered,
)

VALUES: dict[str, Any] = {"timeouts": Timeouts, "retry": Retry}
"""Settings that are no JSON, by what makes them."""


def remote_agent(spec: dict[str, Any]) -> Any:
    """The remote agent that `spec` describes: `kind`, and the keywords of the agent."""
    settings = {key: VALUES[key](**value) if key in VALUES else value for key, value in spec.items() if key != "kind"}
    if spec["kind"] == "ours":
        return importlib.import_module("oxygent_client.integrations.oxygent").SSEOxyGent(**settings)
    return oxy.SSEOxyGent(**settings)


def shorten(seconds: float) -> None:
    """The time that the framework's own agent gives a run, which is 300 s and no setting of its own."""
    aiohttp: Any = importlib.import_module("aiohttp")
    aiohttp.client.DEFAULT_TIMEOUT = aiohttp.ClientTimeout(total=seconds)


async def entry(request: Any) -> Any:
    """Calls the agent that the query names."""
    name, _, queries = request.get_query().partition(" ")

    async def call(query: str) -> dict[str, Any]:
        response = await request.call(callee=name, arguments={"query": query.strip()})
        return {"state": response.state.name, "output": response.output}

    answers = await asyncio.gather(*(call(query) for query in queries.split(" | ")))
    return answers if len(answers) > 1 else answers[0]


def management(system: list[Any], master: str) -> Any:
    """The route by which agents come into the system."""

    async def add(spec: dict[str, Any]) -> dict[str, Any]:
        mas = system[0]
        agent = remote_agent(spec)
        agent.set_mas(mas)
        mas.oxy_name_to_oxy[agent.name] = agent
        try:
            await agent.init()
        except Exception as error:
            return {"error": str(error)}
        caller = mas.oxy_name_to_oxy[master]
        if agent.name not in caller.permitted_tool_name_list:
            caller.add_permitted_tool(agent.name)
        mas.init_agent_organization()
        return {"error": None}

    router = fastapi.APIRouter()
    router.post("/interop/agent")(add)
    return router


async def serve(port: int, spec: dict[str, Any]) -> None:
    """Start the framework and its own web service; returns when the service was told to stop."""
    system: list[Any] = []
    master = spec["master"]
    space = [language_model()]
    if master:
        agents = [remote_agent(agent) for agent in spec["agents"]]
        names = [agent.name for agent in agents]
        workflow = oxy.WorkflowAgent(name=master, is_master=True, sub_agents=names, func_workflow=entry)
        space += [workflow, *agents]
    async with oxygent.MAS(
        name="local",
        oxy_space=space,
        routers=[identity(), management(system, master)],
        func_filter=stored_before_answered,
    ) as mas:
        system.append(mas)
        await mas.start_web_service(host="127.0.0.1", port=port)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--spec", type=json.loads, required=True)
    options = parser.parse_args()
    Config.set_server_auto_open_webpage(False)
    Config.set_log_level_root("WARNING")
    Config.set_server_log_level("WARNING")
    if seconds := options.spec.get("shortened"):
        shorten(seconds)
    end_with_standard_input()
    asyncio.run(serve(options.port, options.spec))


if __name__ == "__main__":
    main()
