"""A real local multi-agent system with remote agents: the framework's own, and our drop-in.

Rule 1: it runs inside the environment of one OxyGent release; of ours it imports what the tests give it.
Rule 2: `POST /interop/agent` puts a remote agent into the running system, replacing one of the same name.
Rule 3: a query names the callee and its query: `NAME QUERY`, or `NAME QUERY | QUERY | ...` for several at once. The
        answer is the state and the output of each call.
Rule 4: it ends when its standard input is closed.

Usage: python -m tests.interop.local_mas --port PORT --spec JSON      (the working directory becomes its store)
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
from contextlib import AbstractAsyncContextManager
from typing import Any

from oxygent_client import Cluster, HTTPRequest, HTTPResponse, HTTPXTransport, Retry, Timeouts
from oxygent_client.integrations.oxygent import SSEOxyGent
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


class Raises(SSEOxyGent):
    """A subclass that fails after the run: the framework calls it again."""

    async def _execute(self, oxy_request: Any) -> Any:
        response = await super()._execute(oxy_request)
        raise KeyError(response.state.name)


class Faulty(SSEOxyGent):
    """A subclass that fails before the run."""

    def prepare_payload(self, oxy_request: Any) -> dict[str, Any]:
        """Raise."""
        raise KeyError("mine")


class Strange:
    """A user's transport that fails."""

    def __init__(self) -> None:
        self._inner = HTTPXTransport()

    def exchange(self, request: HTTPRequest, /) -> AbstractAsyncContextManager[HTTPResponse]:
        """Raise for a run."""
        if request.context.purpose == "run":
            raise KeyError("mine")
        return self._inner.exchange(request)

    async def aclose(self) -> None:
        """Close the wrapped transport."""
        await self._inner.aclose()


class Transported(SSEOxyGent):
    """A subclass whose transport fails."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, transport=Strange())


class Loops(SSEOxyGent):
    """A subclass that retries until it has an answer."""

    async def _execute(self, oxy_request: Any) -> Any:
        response: Any = None
        for _ in range(3):
            response = await super()._execute(oxy_request)
            if response.state.name == "COMPLETED":
                break
        return response


class Twice(SSEOxyGent):
    """A subclass that makes two runs, and returns the second answer."""

    async def _execute(self, oxy_request: Any) -> Any:
        await super()._execute(oxy_request)
        return await super()._execute(oxy_request)


class Documented(SSEOxyGent):
    """A subclass as in the framework's documentation: its attributes are assigned after `super().__init__`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.api_key = "of its own"
        self.noted: list[str] = []
        self.event_handlers = {"metrics": self.handle_metrics}
        self.event_filter = self.is_wanted
        self.sanitize = self.clean
        self.call_stack_strategy = "none"
        self.set_progress_callback(self.note)

    async def note(self, text: str) -> None:
        """Keep a progress text."""
        self.noted.append(text)

    async def handle_metrics(self, event_data: Any) -> None:
        """Keep the arguments of a handler."""
        self.noted.append(f"metrics {event_data}")

    def clean(self, message: Any) -> Any:
        """Mark forwarded messages."""
        return {**message, "clean": True}

    def is_wanted(self, message: Any) -> bool:
        """Filter events."""
        return bool(message["type"] != "noise")

    def prepare_payload(self, oxy_request: Any) -> dict[str, Any]:
        """Change the payload as in the documentation."""
        payload: dict[str, Any] = oxy_request.model_dump(exclude={"mas", "parallel_id", "latest_node_ids"})
        payload.update(payload.pop("arguments"), mine=1)
        del payload["call_stack"], payload["node_id_stack"]
        return payload

    def prepare_headers(self, oxy_request: Any) -> dict[str, str]:
        """Add a header."""
        return {**super().prepare_headers(oxy_request), "x-api-key": self.api_key}

    async def handle_tool_call_event(self, event_data: dict[str, Any], oxy_request: Any) -> None:
        """Keep the arguments of a hook: the framework's own request."""
        self.noted.append(f"tool call of {event_data['content']['callee']} for {oxy_request.get_query()}")

    async def handle_observation_event(self, event_data: dict[str, Any], oxy_request: Any) -> None:
        """Keep the arguments of a hook: the framework's own request."""
        self.noted.append(f"output {event_data['content']['output']} for {oxy_request.get_query()}")

    async def _process_custom_event(self, event_data: Any, oxy_request: Any) -> None:
        self.noted.append(f"custom {event_data['type']}")

    async def _execute(self, oxy_request: Any) -> Any:
        response = await self._get_base_execution_logic(oxy_request)
        response.output = [response.output, *self.noted]
        return response


KINDS: dict[str, Any] = {
    "builtin": oxy.SSEOxyGent,
    "ours": SSEOxyGent,
    "raises": Raises,
    "faulty": Faulty,
    "transported": Transported,
    "loops": Loops,
    "twice": Twice,
    "documented": Documented,
}
VALUES: dict[str, Any] = {"timeouts": Timeouts, "retry": Retry, "transport": Cluster}
"""Settings that are not JSON, by name."""


def remote_agent(spec: dict[str, Any]) -> Any:
    """Return the remote agent for `spec`: `kind`, and the keywords of the agent."""
    settings = {key: VALUES[key](**value) if key in VALUES else value for key, value in spec.items() if key != "kind"}
    return KINDS[spec["kind"]](**settings)


def shorten(seconds: float) -> None:
    """Shorten the framework's time-out for a run, which is 300 s and no setting."""
    aiohttp: Any = importlib.import_module("aiohttp")
    aiohttp.client.DEFAULT_TIMEOUT = aiohttp.ClientTimeout(total=seconds)


async def entry(request: Any) -> Any:
    """Call the agent in the query."""
    name, _, queries = request.get_query().partition(" ")

    async def call(query: str) -> dict[str, Any]:
        response = await request.call(callee=name, arguments={"query": query.strip()})
        return {"state": response.state.name, "output": response.output}

    answers = await asyncio.gather(*(call(query) for query in queries.split(" | ")))
    return answers if len(answers) > 1 else answers[0]


def management(system: list[Any], master: str) -> Any:
    """Add the route that puts agents into the system."""

    async def add(spec: dict[str, Any]) -> dict[str, Any]:
        mas = system[0]
        agent = remote_agent(spec)
        agent.set_mas(mas)
        mas.oxy_name_to_oxy[agent.name] = agent
        try:
            await agent.init()
        except Exception as error:  # noqa: BLE001  (whatever it is, the test wants to know)
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
    """Start the framework and its web service, and wait until it is stopped."""
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
