"""A scripted multi-agent OxyGent server: real framework, real web service, no language model.

Rule 1: it runs inside the environment of one OxyGent release (see `environments.py`), and imports nothing of ours.
Rule 2: the first word of a query selects a line in SCENARIOS. Nothing is random.
Rule 3: each run writes records, one JSON line each, when things happen: tests trust the agent, not the stream.
Rule 4: differences between releases are in the part "Releases" only.
Rule 5: it ends when its standard input is closed, so it does not outlive the tests.

Usage: python server.py --port PORT --records FILE [--model URL]      (the working directory becomes its store)
With `--model`, its master is a `ReActAgent` of the framework that uses the language model at that URL and streams.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import sys
import threading
import time
import uuid
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# ---------------------------------------------------------------------------------------------------------- Releases
# `Any`, since the contents of these modules differ by release and are missing where types are checked.

fastapi: Any = importlib.import_module("fastapi")
oxygent: Any = importlib.import_module("oxygent")
Config: Any = importlib.import_module("oxygent.config").Config
oxy: Any = oxygent.oxy
RELEASE = version("oxygent")


def language_model(name: str = "default_llm", **options: Any) -> Any:
    """Return a language model, which each agent must have, though none of ours uses it; 1.0.8 has no mock."""
    if hasattr(oxy, "MockLLM"):
        return oxy.MockLLM(name=name, **options)
    return oxy.HttpLLM(name=name, api_key="none", base_url="http://127.0.0.1:9", model_name="none", **options)


async def send_named(request: Any, message: Any, **fields: Any) -> None:
    """Send with its own event name, id or retry; 1.0.8 supports none of them and sends the message only."""
    if RELEASE == "1.0.8":
        await request.send_message(message)
    else:
        await request.send_message(message, **fields)


# ----------------------------------------------------------------------------------------------------------- Records


class Records:
    """An append-only file of JSON lines; one write per line, so that readers never get a part of one."""

    def __init__(self) -> None:
        self._file = -1

    def open(self, path: str) -> None:
        """Open the file."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, event: str, **facts: Any) -> None:
        """Append one record, stamped with the wall clock and the system's monotonic clock."""
        line = json.dumps({"event": event, **facts, "time": time.time(), "monotonic": time.monotonic()})
        os.write(self._file, line.encode() + b"\n")


RECORDS = Records()


def recorded(scenario: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    """Return the same workflow with records of its start and end."""

    async def run(request: Any) -> Any:
        facts = {
            "run": uuid.uuid4().hex,
            "agent": request.callee,
            "trace_id": request.current_trace_id,
            "query": request.get_query()[:200],
        }
        RECORDS.write("started", **facts)
        try:
            output = await scenario(request)
        except asyncio.CancelledError:
            RECORDS.write("cancelled", **facts)
            raise
        except BaseException as exc:
            RECORDS.write("raised", error=str(exc), **facts)
            raise
        RECORDS.write("finished", **facts)
        return output

    return run


class RecordConnections:
    """ASGI middleware that records the connection (the peer's port) of each request."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Record the request and pass it on untouched."""
        if scope["type"] == "http":
            RECORDS.write("request", method=scope["method"], path=scope["path"], peer=(scope["client"] or ("", 0))[1])
        await self.app(scope, receive, send)


class ShowNoRecords:
    """ASGI middleware: `/bare` is the same server without the paths of records."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on under its own path, or under one that the framework does not have."""
        path = scope.get("path", "")
        if path.startswith("/bare/"):
            path = path.removeprefix("/bare")
            scope = {**scope, "path": "/none" if path in {"/view", "/node"} else path}
        await self.app(scope, receive, send)


# --------------------------------------------------------------------------------------------------------- Scenarios


async def output_of(request: Any, callee: str, **arguments: Any) -> Any:
    """Return the answer of another member."""
    return (await request.call(callee=callee, arguments=arguments)).output


def rest_of(request: Any) -> str:
    """Return the query without its first word."""
    return str(request.get_query().partition(" ")[2])


async def echo(request: Any) -> str:
    """Answer the rest of the query."""
    return rest_of(request)


async def tools(request: Any) -> str:
    """Call one tool, then two at once; the second of the two finishes first."""
    first = await output_of(request, "add", a=2, b=3)
    product, upper = await asyncio.gather(
        output_of(request, "multiply", a=first, b=4),
        output_of(request, "shout", text="both"),
    )
    return f"{first} {product} {upper}"


async def nested(request: Any) -> str:
    """Agent -> agent -> agent -> tool."""
    return f"master({await output_of(request, 'middle_agent', query='nested')})"


async def both(request: Any) -> str:
    """Two agents at once."""
    outputs = await asyncio.gather(
        output_of(request, "middle_agent", query="nested"), output_of(request, "other_agent", query="hello")
    )
    return " and ".join(outputs)


async def middle(request: Any) -> str:
    """The second agent of `nested`."""
    return f"middle({await output_of(request, 'leaf_agent', query='leaf')})"


async def leaf(request: Any) -> str:
    """The third agent of `nested`: calls a tool."""
    await request.send_message({"type": "progress", "content": {"from": "leaf"}})
    return f"leaf({await output_of(request, 'add', a=40, b=2)})"


async def stream(request: Any) -> str:
    """Send text deltas: the rest of the query is a JSON list of them."""
    deltas = json.loads(rest_of(request))
    content = {"agent": request.callee, "node_id": request.node_id}
    for delta in deltas:
        await request.send_message({"type": "stream", "content": {"delta": delta, **content}})
    await request.send_message({"type": "stream_end", "content": {"delta": "", **content}})
    return "".join(deltas)


async def strings(request: Any) -> str:
    """Send each member of a JSON list as a message of its own."""
    messages = json.loads(rest_of(request))
    for message in messages:
        await request.send_message(message)
    return f"sent {len(messages)}"


async def done(request: Any) -> str:
    """Send the text with which the framework ends a stream, wait (seconds), and go on."""
    await request.send_message("done")
    await asyncio.sleep(float(rest_of(request) or 0))
    for step in range(3):
        await request.send_message({"type": "progress", "content": {"step": step}})
    await request.send_message("done")
    return "not done before"


async def fail(request: Any) -> str:
    """Raise, as a failing agent would."""
    await request.send_message({"type": "progress", "content": {"step": "before the failure"}})
    raise ValueError("scripted failure")


async def big(request: Any) -> str:
    """Answer with so many bytes, numbered throughout."""
    size = int(rest_of(request))
    return "".join(f"{n:07d} " for n in range(size // 8 + 1))[:size]


async def progress(request: Any) -> str:
    """Send messages of a type unknown to the framework, without type, and with their own framing."""
    for step in range(3):
        await request.send_message({"type": "progress", "content": {"step": step, "of": 3}})
    await request.send_message({"no": "type"})
    await send_named(
        request, {"type": "named", "content": "own framing"}, event="custom_event", id="my-id-1", retry=1500
    )
    return "progressed"


async def think(request: Any) -> str:
    """Send a thought, as the framework's own agents do."""
    await request.send_message({"type": "think", "content": "let me see", "agent": request.callee})
    return "thought"


async def memory(request: Any) -> dict[str, Any]:
    """Answer with the earlier turns that the framework gave this run."""
    turns = [(entry["role"], entry["content"]) for entry in request.get_short_memory()]
    return {
        "asked": [text for role, text in turns if role == "user"],
        "answered": sum(role == "assistant" for role, _ in turns),
    }


async def slow(request: Any) -> str:
    """Send a message every 0.05 s for so many seconds."""
    for step in range(round(float(rest_of(request)) / 0.05)):
        await request.send_message({"type": "progress", "content": {"step": step}})
        await asyncio.sleep(0.05)
    return "slow"


async def quiet(request: Any) -> str:
    """Send nothing for so many seconds."""
    await asyncio.sleep(float(rest_of(request)))
    return "quiet"


async def human(request: Any) -> list[Any]:
    """Ask the human until there is no more feedback, and answer with all of it; 1.0.8 cannot ask."""
    channel = rest_of(request) or None
    await request.send_message({"type": "asked", "content": channel})
    return [said async for said in request.get_feedback_stream(channel)]


async def feedback(request: Any) -> list[Any]:
    """As `human`, by the type of message for which a served agent asks the user of its client."""
    await request.send_message({"type": "feedback", "content": "May I?"})
    return [said async for said in request.get_feedback_stream()]


async def tagged(request: Any) -> str:
    """Send numbered messages with a tag, then the tag."""
    tag, count = rest_of(request).split()
    for n in range(int(count)):
        await request.send_message({"type": "progress", "content": {"tag": tag, "n": n}})
        await asyncio.sleep(0.001)
    return tag


async def paced(request: Any) -> str:
    """As `tagged`, slower."""
    tag, count = rest_of(request).split()
    for n in range(int(count)):
        await request.send_message({"type": "progress", "content": {"tag": tag, "n": n}})
        await asyncio.sleep(0.03)
    return tag


async def stopped(request: Any) -> str:
    """Be stopped by the server itself; 1.0.8 cannot do that."""
    await request.break_task()
    await asyncio.sleep(30)
    return "not stopped"


async def unsendable(_: Any) -> Any:
    """Return an output that the framework can neither store nor send: the stream stays open forever."""
    return {(1, 2): 3}


async def steps(request: Any) -> str:
    """Make so many calls, each of half a second, of an agent that sends nothing."""
    for _ in range(int(rest_of(request))):
        await output_of(request, "mute_agent", query="work")
    return "steps"


async def block(request: Any) -> str:
    """Block the whole server for so many seconds."""
    time.sleep(float(rest_of(request).partition(" ")[0]))  # noqa: ASYNC251  (that is what it is for)
    return "blocked"


async def closed(request: Any) -> Any:
    """End its stream itself, and return the rest of the query afterwards; 1.0.8 cannot do that."""
    await request.send_message("done", event="close")
    return rest_of(request) or None


async def total(request: Any) -> str:
    """The sum of two numbers, by one tool, and shouted by another.

    The 1.0 releases store the beginning of each call beside the run, and cannot read their local store meanwhile: a
    restart that looks for a call just then does not find it.
    """
    a, b = map(int, rest_of(request).split())
    await asyncio.sleep(0.3)
    found = await output_of(request, "add", a=a, b=b)
    await asyncio.sleep(0.3)
    return str(await output_of(request, "shout", text=f"the sum is {found}"))


SCENARIOS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "echo": echo,
    "tools": tools,
    "nested": nested,
    "both": both,
    "stream": stream,
    "strings": strings,
    "done": done,
    "raise": fail,
    "big": big,
    "progress": progress,
    "think": think,
    "memory": memory,
    "slow": slow,
    "quiet": quiet,
    "human": human,
    "feedback": feedback,
    "tagged": tagged,
    "paced": paced,
    "stopped": stopped,
    "unsendable": unsendable,
    "steps": steps,
    "block": block,
    "closed": closed,
    "total": total,
}


async def master(request: Any) -> Any:
    """Run the scenario in the query."""
    return await SCENARIOS[request.get_query().partition(" ")[0]](request)


async def other(request: Any) -> str:
    """A second agent that can be called by name: answers with its name."""
    return f"{request.callee} heard {request.get_query()}"


# ------------------------------------------------------------------------------------------------------------- Failures


async def raises(_: Any) -> Any:
    """Fail."""
    raise ValueError("scripted failure")


async def relay(request: Any) -> Any:
    """Answer with the response of the callee in the query, with its state."""
    return await request.call(callee=request.get_query(), arguments={"query": "relayed"})


async def half_a_second(_: Any) -> str:
    """Work for half a second."""
    await asyncio.sleep(0.5)
    return "worked"


def failing() -> list[Any]:
    """Members that fail in the ways that the framework has a text for, and an agent that returns such texts."""
    return [
        oxy.WorkflowAgent(
            name="relay_agent",
            desc="Asks another",
            sub_agents=["late_agent", "broken_agent", "empty_agent", "empty_flow"],
            func_execute=relay,
        ),
        oxy.WorkflowAgent(name="late_agent", desc="Is late", timeout=0.2, func_workflow=half_a_second),
        oxy.WorkflowAgent(name="broken_agent", desc="Never begins", func_process_input=raises, func_workflow=other),
        oxy.WorkflowAgent(name="empty_agent", desc="Has nothing to do"),
        oxy.Workflow(name="empty_flow", desc="Has nothing to do"),
        language_model(name="broken_llm", func_execute=raises, retries=1),
        oxy.WorkflowAgent(
            name="mute_agent",
            desc="Works and says nothing",
            is_send_tool_call=False,
            is_send_observation=False,
            func_workflow=half_a_second,
        ),
    ]


# ----------------------------------------------------------------------------------------------------- Tools and agents


async def add(a: int, b: int) -> int:
    """Add two integers."""
    RECORDS.write("tool", agent="add", query=f"{a} {b}")
    return a + b


async def multiply(a: int, b: int) -> int:
    """Multiply two integers, slowly."""
    await asyncio.sleep(0.3)
    return a * b


async def shout(text: str) -> str:
    """Upper-case a text, faster."""
    await asyncio.sleep(0.1)
    return text.upper()


def hub() -> Any:
    """Return the tools."""
    functions = oxy.FunctionHub(name="tool_hub", timeout=60)
    for function in (add, multiply, shout):
        functions.tool(description=function.__doc__)(function)
    return functions


def agents() -> list[Any]:
    """Return the organization: a master with two agents below it, and two agents beside it."""
    return [
        oxy.WorkflowAgent(
            name="master",
            desc="Runs the scenario that the query names",
            is_master=True,
            sub_agents=["middle_agent", "other_agent", "mute_agent"],
            tools=["tool_hub"],
            func_workflow=recorded(master),
        ),
        oxy.WorkflowAgent(name="middle_agent", desc="Asks the leaf", sub_agents=["leaf_agent"], func_workflow=middle),
        oxy.WorkflowAgent(name="leaf_agent", desc="Asks a tool", tools=["tool_hub"], func_workflow=leaf),
        oxy.WorkflowAgent(name="other_agent", desc="Says who it is", func_workflow=recorded(other)),
        # The framework's storage is switched off agent by agent.
        oxy.WorkflowAgent(
            name="unstored_agent", desc="As the master, unstored", is_save_data=False, func_workflow=recorded(master)
        ),
    ]


async def add_tool(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def react(model_url: str) -> list[Any]:
    """Return another organization: an agent that thinks, calls a tool and answers, by a streaming model."""
    tools = oxy.FunctionHub(name="math_tools", timeout=60)
    tools.tool(description=add_tool.__doc__)(add_tool)
    model = oxy.HttpLLM(
        name="default_llm", api_key="none", base_url=model_url, model_name="none", llm_params={"stream": True}
    )
    whole = oxy.HttpLLM(
        name="whole_llm", api_key="none", base_url=model_url, model_name="none", llm_params={"stream": False}
    )
    return [
        model,
        whole,
        tools,
        oxy.ReActAgent(name="master_agent", is_master=True, llm_model="default_llm", tools=["math_tools"]),
        oxy.ReActAgent(name="whole_agent", desc="Does not stream", llm_model="whole_llm", tools=["math_tools"]),
        oxy.ChatAgent(name="poet_agent", desc="Writes", llm_model="default_llm"),
        oxy.ChatAgent(name="critic_agent", desc="Judges", llm_model="default_llm"),
        oxy.WorkflowAgent(
            name="editor_agent",
            desc="Has two agents write at the same time, then writes",
            llm_model="default_llm",
            sub_agents=["poet_agent", "critic_agent"],
            func_workflow=edited,
        ),
    ]


async def edited(request: Any) -> Any:
    """Two agents that stream at the same time; then the agent's own model."""
    await asyncio.gather(
        output_of(request, "poet_agent", query="verse please"),
        output_of(request, "critic_agent", query="review please"),
    )
    return await output_of(request, "default_llm", messages=[{"role": "user", "content": "summary please"}])


def identity() -> Any:
    """Add a route that returns the process id, so that the tests know which process answers."""

    def who() -> dict[str, Any]:
        return {"pid": os.getpid(), "release": RELEASE}

    router = fastapi.APIRouter()
    router.get("/interop/identity")(who)
    return router


def end_with_standard_input() -> None:
    """Rule 5: exit when the parent's pipe is closed."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def stored_before_answered(payload: dict[str, Any]) -> dict[str, Any]:
    """Have each run stored before its answer is sent.

    The framework stores beside the run by default. Its 1.0 releases move a file of the local store away to write it; a
    turn that looks for the one before it just then finds no memory, or fails and leaves its stream open for ever.
    The argument `stored` of a run is "by default" where that is what a test wants.
    """
    return payload if payload.get("stored") == "by default" else {**payload, "is_async_storage": False}


def come_back(message: dict[str, Any], request: Any) -> dict[str, Any]:
    """Send `retry` in each message of a run whose argument of that name has it, in milliseconds."""
    retry = request.arguments.get("retry")
    return message if retry is None else {**message, "retry": retry}


async def serve(port: int, model_url: str | None) -> None:
    """Start the framework and its web service, and wait until it is stopped."""
    space = react(model_url) if model_url else [language_model(), hub(), *agents(), *failing()]
    hooks = {} if RELEASE == "1.0.8" else {"func_process_message": come_back}
    async with oxygent.MAS(
        name="interop",
        oxy_space=space,
        routers=[identity()],
        middlewares=[RecordConnections, ShowNoRecords],
        func_filter=stored_before_answered,
        **hooks,
    ) as mas:
        await mas.start_web_service(host="127.0.0.1", port=port)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--records", required=True)
    parser.add_argument("--model")
    options = parser.parse_args()
    RECORDS.open(options.records)
    Config.set_server_auto_open_webpage(False)
    # The messages of a busy run would fill the log; errors are logged as warnings or higher.
    Config.set_log_level_root("WARNING")
    Config.set_server_log_level("WARNING")
    end_with_standard_input()
    asyncio.run(serve(options.port, options.model))


if __name__ == "__main__":
    main()
