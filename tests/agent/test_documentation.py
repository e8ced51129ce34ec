"""The code blocks of the OxyGent `SSEOxyGent` documentation run and have their documented effects.

Rule 1: an effect is a function of the base class of the block's classes; it asserts what a user observes: the output,
    the requests, the results and the number of attempts.
Rule 2: a block that cannot run unchanged is in the harness's EXCEPTIONS; its effect shows that it fails, and the
    way that works.
Rule 3: a mutant of the base that ignores a hook fails the effects that its row names, and no other.
Rule 4: the documentation's own `init` and `_execute`, as methods of a `RemoteAgent`, behave as ours do.
"""

from __future__ import annotations

import ast
import base64
import importlib
import importlib.util
import inspect
import itertools
import json
import re
import sys
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oxygent_client
from docs.examples.documentation.harness import CLASS, EXCEPTIONS, FILES, METHODS, STEPS, Lines, Session, build_url, toy
from oxygent_client import (
    Answer,
    Decoder,
    EventRouter,
    Observation,
    OxyRequest,
    OxyResponse,
    OxyState,
    Progress,
    RemoteAgent,
    Retry,
    SSEOxyGent,
    ToolCall,
    errors,
)
from oxygent_client._agent.callbacks import CallbackDispatcher
from oxygent_client._protocol.messages import CLOSE, to_event
from oxygent_client._protocol.router import Forward, NameMap, SetAnswer
from oxygent_client.testing import FakeTransport, Reply, ToyRemote, answer, close, message, observation, tool_call
from oxygent_client.testing.script import Say
from oxygent_client.transports.asgi import ASGITransport
from tests.agent.test_callbacks import deaf, delivering, ignoring
from tests.conftest import CONFORMANCE, ROOT, WIRE
from tests.support.documentation import BLOCKS, HOME, INDEX, LOCAL, Program, digest, framework, needs, pasted
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from oxygent_client import Transport

NO_PYTHON: Final = {block for block, (raised, _) in EXCEPTIONS.items() if raised is SyntaxError}
DIAGRAM: Final = "flow"
"""The block that is a drawing, not code."""

MEMBERS: Final = ["flight_agent", "hotel_agent", "price_history", "add_up"]
"""Below the master of the toy remote."""


def program(base: type[SSEOxyGent], *sites: tuple[str, ToyRemote | Transport], **names: Any) -> Program:
    """Return a program whose agents reach these remotes at their URLs."""
    there = {url: ASGITransport(site) if isinstance(site, ToyRemote) else site for url, site in sites}
    return Program(there, base, names)


def refused(times: int, then: tuple[bytes, ...] = (answer("42"), close())) -> FakeTransport:
    """Return a server that refuses its first connections."""
    refusals = [Reply(before=errors.ConnectError("no connection")) for _ in range(times)]
    return FakeTransport({"/sse/chat": itertools.chain(refusals, itertools.repeat(Reply(then)))})


def names_of(members: list[dict[str, Any]]) -> list[str]:
    """Return the names of an organization's members."""
    return [member["name"] for member in members]


EFFECTS: Final[dict[str, Callable[[type[SSEOxyGent], str], Awaitable[None]]]] = {}


def effect(*blocks: str) -> Callable[[Any], Any]:
    """Register the function below as the effect of these blocks."""

    def noted(function: Any) -> Any:
        for block in blocks:
            EFFECTS[block] = function
        return function

    return noted


# ----------------------------------------------------------------------------------------------- Construction and calls


@effect("class_line")
async def class_line(base: type[SSEOxyGent], block: str) -> None:
    """As the line states, the class is a `RemoteAgent`."""
    assert BLOCKS[block] == "class SSEOxyGent(RemoteAgent)\n"
    assert issubclass(base, RemoteAgent)


@effect("flow")
async def flow(base: type[SSEOxyGent], block: str) -> None:
    """A run is the one request of the drawing, and its events are received."""
    made = program(base, ("http://remote.test", remote := toy()))
    agent = made.agent_class(server_url="http://remote.test")
    await made.execute(agent)
    (request,) = made.internet.requests
    assert f"HTTP {request.method} {request.path}" in BLOCKS[block]
    assert request.headers["accept"] == "text/event-stream"
    assert made.kinds() == ["progress", "tool_call", "observation"]
    assert remote.runs[0].state == "finished"


@effect("basic")
async def basic(base: type[SSEOxyGent], block: str) -> None:
    """The remote gets both arguments and the caller's stack; its steps are shown and its answer is returned."""
    made = program(base, ("https://remote-oxygent.example.com", remote := toy(output="up")))
    response = (await made.run(block))["response"]
    (run,) = remote.runs
    assert response.state is OxyState.COMPLETED
    assert response.output == "up"
    assert run.query == "Analyze the current market trends"
    assert run.payload["domain"] == "technology"
    assert run.payload["call_stack"] == LOCAL
    assert run.payload["caller"] == "local_agent"
    assert run.payload["caller_category"] == "user"
    assert made.kinds() == ["progress", "tool_call", "observation"]
    assert made.heard[1]["content"]["call_stack"] == [*LOCAL, "trip_planner", "search_flights"]


@effect("multi_service")
async def multi_service(base: type[SSEOxyGent], block: str) -> None:
    """The members of the remote are printed; it gets a plain user, and its steps are shown under the caller's stack."""
    made = program(base, ("https://enterprise-ai.company.com", remote := toy(output="done")))
    left = await made.run(block)
    (line,) = made.printed
    said, _, listed = line.partition(": ")
    assert said == "Available remote services"
    assert names_of(ast.literal_eval(listed)) == MEMBERS
    assert {member["is_remote"] for member in left["available_services"]} == {True}
    (run,) = remote.runs
    assert left["response"].output == "done"
    assert tuple(run.payload[name] for name in ("department", "quarter", "include_forecasting")) == (
        "finance",
        "Q3_2024",
        True,
    )
    assert run.payload["caller"] == "user"
    assert "call_stack" not in run.payload
    assert "node_id_stack" not in run.payload
    assert made.heard[1]["content"]["call_stack"] == [*LOCAL, "enterprise_brain", "search_flights"]


@effect("class_definition")
async def class_definition(base: type[SSEOxyGent], block: str) -> None:
    """The agent has the given settings and reaches its URL."""
    made = program(base, ("https://remote-oxygent.example.com", toy()))
    agent = (await made.run(block))["sse_agent"]
    assert agent.name == "remote_assistant"
    assert agent.is_share_call_stack is True
    assert (await made.execute(agent)).output == "42"


@effect("init_call", "practice_init")
async def init_call(base: type[SSEOxyGent], block: str) -> None:
    """`init` fetches the documents that the comments name, so that the agent knows the remote's capabilities."""
    made = program(base, ("http://remote.test", toy()))
    agent = made.names["sse_agent"] = made.agent_class(server_url="http://remote.test")
    assert agent.get_org() == []
    await made.run(block)
    assert made.internet.requests[0].method == "GET"
    assert made.internet.requests[0].path == "/get_organization"
    assert agent.org["name"] == "trip_planner"
    assert names_of(agent.get_org()) == MEMBERS


@effect("remote_communication")
async def remote_communication(base: type[SSEOxyGent], block: str) -> None:
    """The organization is known, and requests are streamed as to any other agent."""
    made = program(base, ("https://oxygent-instance.company.com", toy()))
    agent = (await made.run(block))["remote_assistant"]
    assert names_of(agent.get_org()) == MEMBERS
    assert (await made.execute(agent)).output == "42"
    assert made.kinds() == ["progress", "tool_call", "observation"]


@effect("multi_instance")
async def multi_instance(base: type[SSEOxyGent], block: str) -> None:
    """Two remotes have their own names and answers."""
    sites = [(f"https://{name}.company.com", toy(output=name)) for name in ("analytics", "research")]
    made = program(base, *sites)
    left = await made.run(block)
    assert made.printed == [
        "Connected to analytics: 4 capabilities available",
        "Connected to research: 4 capabilities available",
    ]
    for name in ("analytics", "research"):
        agent = left[f"{name}_agent"]
        assert agent.name == f"remote_{name}"
        assert (await made.execute(agent)).output == name
    assert left["distributed"].get_instance("sales") is None


@effect("load_balancing")
async def load_balancing(base: type[SSEOxyGent], block: str) -> None:
    """With its argument, the cluster leaves out an unreachable replica and balances the load over the others."""
    urls = [f"https://node{number}.oxygent.com" for number in (1, 2, 3)]
    made = program(base, (urls[0], toy(output="one")), (urls[2], toy(output="three")))
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'server_urls'"):
        await made.run(block)
    cluster = made.names["LoadBalancedSSECluster"](urls)
    for pick in (cluster.get_next_agent, cluster.get_random_agent):
        with pytest.raises(Exception, match="No healthy agents available"):
            pick()
    with made.printing():
        await cluster.initialize(urls)
    assert made.printed == [
        f"✓ Connected to {urls[0]}",
        f"✗ Failed to connect to {urls[1]}: nobody listens there",
        f"✓ Connected to {urls[2]}",
    ]
    outputs = [(await made.execute(cluster.get_next_agent())).output for _ in range(4)]
    assert outputs == ["one", "three", "one", "three"]
    assert {cluster.get_random_agent().name for _ in range(100)} == {"cluster_node_1", "cluster_node_3"}


@effect("environments")
async def environments(base: type[SSEOxyGent], block: str) -> None:
    """An environment has a server and a way to share the stack; an unknown one is refused."""
    remotes = {url: toy() for url in ("http://localhost:8000", "https://oxygent.company.com")}
    made = program(base, *remotes.items())
    left = await made.run(block)
    seen: list[tuple[str, bool]] = []
    for name in ("dev_agent", "prod_agent"):
        agent = left[name]
        await made.execute(agent)
        seen.append((agent.environment, "call_stack" in remotes[agent.server_url].runs[0].payload))
    assert seen == [("development", True), ("production", False)]
    assert left["ConfigurableSSEAgent"](environment="staging").server_url == "https://staging.oxygent.company.com"
    with pytest.raises(ValueError, match="Unknown environment: moon"):
        left["ConfigurableSSEAgent"](environment="moon")


# -------------------------------------------------------------------------------------------------- Events and progress


@effect("progress_monitoring")
async def progress_monitoring(base: type[SSEOxyGent], block: str) -> None:
    """The four texts are printed, each step is forwarded, and the request is unchanged."""
    made = program(base, ("https://slow-processing.example.com", toy()))
    agent = (await made.run(block))["progress_agent"]
    assert (await made.execute(agent)).output == "42"
    assert made.printed == [
        "[PROGRESS] Starting remote execution...",
        "[PROGRESS] Executing tool: search_flights",
        "[PROGRESS] Tool execution completed",
        "[PROGRESS] Remote execution completed",
    ]
    assert made.kinds() == ["progress", "tool_call", "observation"]


@effect("custom_events")
async def custom_events(base: type[SSEOxyGent], block: str) -> None:
    """The handlers that the class assigns get the contents, and all messages are forwarded."""
    said = {
        "custom_event": {"id": 7},
        "progress_update": {"progress": 45, "status": "working"},
        "metrics": {"metrics": {"cpu": 3}},
    }
    remote = toy(*(Say({"type": kind, "content": content}) for kind, content in said.items()))
    made = program(base, ("https://custom-oxygent.example.com", remote))
    await made.execute((await made.run(block))["custom_agent"])
    assert made.printed == ["Custom event received: {'id': 7}", "Progress: 45% - working", "Metrics: {'cpu': 3}"]
    assert made.kinds() == [*said]


@effect("event_filtering")
async def event_filtering(base: type[SSEOxyGent], block: str) -> None:
    """The filter keeps messages back; the custom hook turns progress into its own message and logs errors."""
    remote = toy(*STEPS, Say({"type": "error", "content": "disk full"}), Say({"type": "secret", "content": 1}))
    made = program(base, ("http://remote.test", remote))
    logged: list[str] = []
    made.names["logger"] = SimpleNamespace(error=logged.append)
    left = await made.run(block)

    def keep(said: Any) -> bool:
        return bool(said["type"] != "secret")

    cases: list[tuple[Any, list[str]]] = [
        (keep, ["progress_update", "progress", "tool_call", "observation", "error"]),
        (None, ["progress_update", "progress", "tool_call", "observation", "error", "secret"]),
    ]
    for event_filter, expected in cases:
        made.heard.clear()
        logged.clear()
        agent = left["CustomEventSSEAgent"](event_filter=event_filter, server_url="http://remote.test")
        assert (await made.execute(agent)).output == "42"
        assert made.kinds() == expected
        assert [made.heard[1]["content"]] == [made.heard[0]["content"]]
        assert logged == ["Remote error: disk full"]


@effect("event_processing")
async def event_processing(base: type[SSEOxyGent], block: str) -> None:
    """With a stream, the block calls the two hooks and finds the answer; our runs call the same in the same order."""
    steps = (tool_call("search"), observation("search", 3), answer("first"), tool_call("add"), answer("42"))
    made = program(base, ("http://remote.test", FakeTransport.script(*steps, close())))
    heard: list[tuple[str, str]] = []

    class Hearing(made.agent_class):  # type: ignore[name-defined, misc]  # the base is what varies
        async def handle_tool_call_event(self, event_data: Any, oxy_request: OxyRequest) -> None:
            heard.append((event_data["type"], event_data["content"]["callee"]))

        async def handle_observation_event(self, event_data: Any, oxy_request: OxyRequest) -> None:
            heard.append((event_data["type"], event_data["content"]["callee"]))

    agent = Hearing(server_url="http://remote.test")
    lines = b"".join(steps) + b"data: done\r\n\r\n"
    made.names |= {"self": agent, "resp": SimpleNamespace(content=Lines(lines))}
    left = await made.run(block)
    by_the_block = [*heard]
    assert by_the_block == [("tool_call", "search"), ("observation", "search"), ("tool_call", "add")]
    heard.clear()
    assert left["answer"] == (await made.execute(agent)).output == "42"
    assert by_the_block == heard


MESSAGES: Final[dict[str, tuple[type[Any], bool]]] = {
    # block: (its event, whether it is forwarded)
    "message_answer": (Answer, False),
    "message_tool_call": (ToolCall, True),
    "message_observation": (Observation, True),
    "message_custom": (Progress, True),
}


@effect(*MESSAGES)
async def messages(base: type[SSEOxyGent], block: str) -> None:
    """The message of a remote becomes its event, and is forwarded unchanged unless it is the answer."""
    kind, is_forwarded = MESSAGES[block]
    said = ast.literal_eval(BLOCKS[block])
    site = FakeTransport.script(message(said), answer("Final response content"), close())
    made = program(base, ("http://remote.test", site))
    agent = made.agent_class(server_url="http://remote.test")
    async with agent.stream(made.request()) as run:
        events = [event async for event in run]
    assert type(events[0]) is kind
    assert events[0].message == said
    assert made.heard == [said] * is_forwarded
    assert run.response.output == "Final response content"


@effect("filtering", "forwarding")
async def filtering(base: type[SSEOxyGent], block: str) -> None:
    """In the loop it is taken from, the block forwards what our runs forward, with the same stacks."""
    source = pasted("async def step(self, oxy_request, data):\n    for _ in [data]:", block, depth=2)
    sent = [
        tool_call("master", caller="user"),
        tool_call("search", call_stack=["user", "master", "search"]),
        observation("search", 3, call_stack=["user", "master", "search"]),
        observation("master", 42, caller="user"),
    ]
    for is_shared in (True, False):
        made = program(base, ("http://remote.test", FakeTransport.script(*sent, answer("42"), close())))
        agent = made.agent_class(server_url="http://remote.test", name="me", is_share_call_stack=is_shared)
        step = (await made.run(block, source=source))["step"]
        request = agent.prepared(made.request())
        for each in sent:
            await step(agent, request, json.loads(Decoder().feed(each)[0].data))
        by_the_block = [*made.heard]
        made.heard.clear()
        await made.execute(agent)
        assert made.heard == by_the_block
        stack = ["user", "master", "search"] if is_shared else [*LOCAL, "me", "search"]
        assert [each["content"]["call_stack"] for each in made.heard] == [stack, stack]


# ------------------------------------------------------------------------------------------------- Payloads and headers


@effect("stack_shared", "stack_independent", "practice_stacks")
async def stacks(base: type[SSEOxyGent], block: str) -> None:
    """The remote gets the stack that the comments state, and its messages have the stack that they state."""
    assert ast.parse(BLOCKS[block]).body == []
    for is_shared in (True, False):
        made = program(base, ("http://remote.test", remote := toy()))
        agent = made.agent_class(server_url="http://remote.test", name="sse_agent", is_share_call_stack=is_shared)
        response = await made.execute(agent)
        payload = remote.runs[0].payload
        assert response.oxy_request is not None
        assert response.oxy_request.call_stack == ["user", "local_agent", "sse_agent"]
        if is_shared:
            assert payload["call_stack"] == ["user", "local_agent"]
            assert payload["caller"] == "local_agent"
        else:
            assert payload["caller"] == "user"
            assert "call_stack" not in payload
        theirs = remote.runs[0].messages[2]["content"]["call_stack"]
        shown = theirs if is_shared else [*response.oxy_request.call_stack, *theirs[2:]]
        assert made.heard[1]["content"]["call_stack"] == shown


@effect("call_stack")
async def call_stack(base: type[SSEOxyGent], block: str) -> None:
    """The class's own payload is sent; stacks are rewritten exactly if the payload had none."""
    made = program(base, ("http://remote.test", remote := toy()))
    agent = (await made.run(block))["CallStackAwareSSEAgent"](server_url="http://remote.test", name="me")
    cases: list[tuple[str, bool, list[str] | None]] = [
        # (the strategy, whether the stack is shared, the part of it that the remote gets)
        ("partial", True, LOCAL),
        ("partial", False, [*LOCAL, "me"]),  # the class's own payload, not ours
        ("full", True, [*LOCAL, "me"]),
        ("none", True, None),
    ]
    for agent.call_stack_strategy, agent.is_share_call_stack, expected in cases:
        await made.execute(agent)
        payload = remote.runs[-1].payload
        assert payload.get("call_stack") == expected
        assert payload["caller"] == ("user" if expected is None else LOCAL[-1])
        assert (expected is None) == ("node_id_stack" not in payload)
        assert payload["query"] == "hi"
        assert "arguments" not in payload
        theirs = remote.runs[-1].messages[2]["content"]["call_stack"]
        shown = [*LOCAL, "me", "search_flights"] if expected is None else theirs
        assert made.heard[-1]["content"]["call_stack"] == shown


@effect("authenticated")
async def authenticated(base: type[SSEOxyGent], block: str) -> None:
    """Unchanged, the class sends none of its headers, as its comment states; with `prepare_headers` it does."""
    url = "https://remote.example.com"
    made = program(base, (url, remote := toy()))
    as_it_stands = (await made.run(block))["AuthenticatedSSEAgent"]

    class Completed(as_it_stands):  # type: ignore[misc, valid-type]  # the base is what the block made
        def prepare_headers(self, oxy_request: OxyRequest) -> dict[str, str]:
            return {"Authorization": f"Bearer {self.api_key}", "User-Agent": "OxyGent-SSEClient/1.0"}

    for cls in (as_it_stands, Completed):
        assert (await made.execute(cls(api_key="k-12345678", server_url=url))).output == "42"
    bare, completed = (run.headers for run in remote.runs)
    assert "authorization" not in bare
    assert completed["authorization"] == "Bearer k-12345678"
    assert completed["user-agent"] == "OxyGent-SSEClient/1.0"
    assert completed["accept"] == "text/event-stream"
    assert completed["content-type"] == "application/json"


@effect("secure")
async def secure(base: type[SSEOxyGent], block: str) -> None:
    """Only https is accepted at construction."""
    made = program(base, ("https://remote.example.com", toy()))
    cls = (await made.run(block))["SecureSSEAgent"]
    for wrong in ({"server_url": "http://remote.example.com"}, {}):
        with pytest.raises(ValueError, match="Only HTTPS connections are allowed"):
            cls(**wrong)
    assert (await made.execute(cls(server_url="https://remote.example.com"))).output == "42"


@effect("practice_https")
async def practice_https(base: type[SSEOxyGent], block: str) -> None:
    """`https_only` accepts the preferred URL and refuses the one for development."""
    urls = [ast.literal_eval(each.value) for each in ast.parse(BLOCKS[block]).body if isinstance(each, ast.Assign)]
    left = await program(base).run(block)
    preferred, local = urls
    assert left["server_url"] == local
    assert base(server_url=preferred, https_only=True).server_url == preferred
    with pytest.raises(errors.InsecureTransportError):
        base(server_url=local, https_only=True)
    assert base(server_url=local, https_only=True, plaintext_hosts={"localhost"}).server_url == local


# ------------------------------------------------------------------------------------------------- Failures and retries


RESILIENT: Final = {
    # block: (its delays, its last text)
    "resilient_short": ([5.0, 5.0, 5.0], "SSE connection failed after 3 attempts: no connection"),
    "resilient_long": ([2.0, 4.0, 8.0], "Failed to connect to remote system after 3 attempts: no connection"),
}


@effect(*RESILIENT)
async def resilient(base: type[SSEOxyGent], block: str) -> None:
    """A refused connection is retried after the delays of the class; after the last retry its text is printed."""
    once: Any = Retry(attempts=1)  # only the class's own loop retries
    waits, gave_up = RESILIENT[block]
    for failures in (0, 2, 3, 9):
        site = refused(failures)
        made = program(base, ("https://remote.example.com", site))
        left = await made.run(block)
        options = {"server_url": "https://remote.example.com", "retry": once}
        if block == "resilient_long":
            options["retry_delay"] = 2.0  # as in its own last lines
            assert left["resilient_agent"].max_retries == 3
            assert left["resilient_agent"].retry_delay == 2.0
        start = anyio.current_time()
        response = await made.execute(left["ResilientSSEAgent"](**options))
        tries = min(failures + 1, 4)
        assert len(site.requests) == tries
        assert sum(waits[: tries - 1]) == pytest.approx(anyio.current_time() - start)
        expected = (OxyState.COMPLETED, "42") if failures < 4 else (OxyState.FAILED, gave_up)
        assert (response.state, response.output) == expected
    cut = refused(0, then=(tool_call("search"),))
    made = program(base, ("https://remote.example.com", cut))
    cls = (await made.run(block))["ResilientSSEAgent"]
    response = await made.execute(cls(server_url="https://remote.example.com", retry=once))
    assert (response.state, len(cut.payloads)) == (OxyState.FAILED, 1), "a run that was cut is not begun again"


@effect("practice_failures")
async def practice_failures(base: type[SSEOxyGent], block: str) -> None:
    """With a body the fallback is reached by `ask`; `execute` returns FAILED instead of raising."""
    completed = BLOCKS[block] + "    print('fallback')\n"
    for source, printed in ((completed, []), (completed.replace(".execute(", ".ask("), ["fallback"])):
        made = program(base)
        made.names["request"] = made.request()
        made.names["sse_agent"] = made.agent_class(server_url="http://remote.test", retry=Retry(attempts=1))
        left = await made.run(block, source=source)
        assert made.printed == printed
        assert ("response" in left) == (not printed)
        assert printed or left["response"].state is OxyState.FAILED


@effect("monitored", "practice_monitoring")
async def monitored(base: type[SSEOxyGent], block: str) -> None:
    """The last line fails before a first call; after a success and a failure it prints the statistics."""
    url = "https://remote.example.com"
    site = FakeTransport({"/sse/chat": [Reply((answer("42"), close())), Reply((progress_only(),))]})
    made = program(base, (url, site))
    with pytest.raises(ZeroDivisionError):
        await made.run("monitored")
    agent = made.names["monitored_agent"]
    states = [(await made.execute(agent)).state for _ in range(2)]
    assert states == [OxyState.COMPLETED, OxyState.FAILED]
    tree = ast.parse(BLOCKS["monitored"])
    await made.run("monitored", source=ast.Module(tree.body[-2:], []))
    assert made.printed == ["Success rate: 50.0%"]
    stats = agent.get_connection_stats()
    assert tuple(stats[f"{kind}_requests"] for kind in ("total", "successful", "failed")) == (2, 1, 1)
    own = agent.stats()  # needs no class: "success rates, response times, and error patterns"
    assert own.runs == 2
    assert own.successes == 1
    assert dict(own.failures) == {"IncompleteStreamError": 1}
    assert own.end.count == 2
    assert block == "monitored" or ast.parse(BLOCKS[block]).body == []


def progress_only() -> bytes:
    """Return a stream that is cut after one message."""
    return message({"type": "progress", "content": 1})


# ----------------------------------------------------------------------------------------------------------- The blocks


ELSEWHERE: Final = {
    "init": "test_the_documented_init",
    "execute": "test_the_documented_execute",
    "error_recovery": "tests/agent/test_documentation_sockets.py",
}
"""Blocks whose effect needs no base class."""


def suffix(block: str) -> str:
    """Return the suffix of a block's file: `.py` if the block is valid Python on its own."""
    return ".txt" if block in NO_PYTHON else ".py"


def test_each_block_has_a_file_and_an_effect() -> None:
    """Each block has its file, as copied from the documentation, and its effect."""
    files = {(path.parent.name, path.stem, path.suffix) for path in FILES}
    assert {(each["document"], each["name"], suffix(each["name"])) for each in INDEX} == files
    assert len(FILES) == len(BLOCKS)
    assert {each["name"]: each["sha256"] for each in INDEX} == {block: digest(block) for block in BLOCKS}
    assert tuple(sum(each["document"] == one for each in INDEX) for one in ("short", "long")) == (16, 20)
    assert {*BLOCKS} == {*EFFECTS, *ELSEWHERE}


@pytest.mark.parametrize("block", EFFECTS)
async def test_effects(block: str) -> None:
    """A block has its effect."""
    await EFFECTS[block](SSEOxyGent, block)


def runs(block: str) -> str:
    """Return how a block runs, as in the table of the docs."""
    if block in EXCEPTIONS:
        return "a drawing" if block == DIAGRAM else "exception"
    return "with the header" if needs(block) else "unchanged"


@pytest.mark.parametrize("block", BLOCKS)
async def test_blocks_that_are_not_valid_python(block: str) -> None:
    """A block that does not compile is in the table of exceptions; without the header, names are undefined."""
    if block in NO_PYTHON:
        with pytest.raises(SyntaxError):
            needs(block)
        return
    made = program(SSEOxyGent, ("https://oxygent-instance.company.com", toy()))
    made.names = {"__name__": "documentation"}
    if not needs(block):
        await made.run(block)
    elif block != "init":  # alone it is a function that is not called
        with pytest.raises(NameError):
            await made.run(block)


PAGE: Final = ROOT / "docs" / "from-the-documentation.md"
POINTS: Final[list[dict[str, str]]] = json.loads((HOME / "points.json").read_text(encoding="utf-8"))
"""The other points of the documentation: document, section, text."""


def table(head: str) -> list[list[str]]:
    """Return the rows of the table below a heading of the page that lists what is built in."""
    text = PAGE.read_text(encoding="utf-8").partition(f"\n## {head}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line[:1] == "|"]
    return rows[2:]


def test_the_table_of_blocks() -> None:
    """The docs list for each block its place, how it runs, the names in the header, and its effect."""
    documents = {each["name"]: each["document"] for each in INDEX}
    shown = ELSEWHERE | {block: function.__name__ for block, function in EFFECTS.items()}
    rows = {row[0]: row[1:] for row in table("The code blocks")}
    links = {block: f"[{block}](examples/documentation/{documents[block]}/{block}{suffix(block)})" for block in BLOCKS}
    assert {*links.values()} == rows.keys()
    for block, link in links.items():
        where, how, header, because, by = rows[link]
        lacks: set[str] = set() if block in NO_PYTHON else needs(block)
        assert runs(block) == how
        assert {*re.findall(r"`(\w+)`", header)} == lacks
        assert shown[block] == by.strip("`")
        assert where.startswith(f"{documents[block]}er: ")
        assert block not in EXCEPTIONS or EXCEPTIONS[block][1] in because


def test_the_tables_of_points() -> None:
    """The docs list the points of both documents in their order, and no others."""
    for each in POINTS:
        each["heading"] = f"{each['section']} ({each['document']}er document)"
    for heading in {each["heading"] for each in POINTS}:
        expected = [each["point"] for each in POINTS if each["heading"] == heading]
        assert (heading, [row[0] for row in table(heading)]) == (heading, expected)


def found(name: str) -> bool:
    """Return whether the package has this name at its top, in a module, or as a member."""
    thing: Any = oxygent_client
    for part in name.split("."):
        classes: tuple[type, ...] = getattr(thing, "__mro__", ())
        declared = any(part in inspect.get_annotations(cls) for cls in classes)
        if not hasattr(thing, part) and not declared:
            if not isinstance(thing, ModuleType) or importlib.util.find_spec(f"{thing.__name__}.{part}") is None:
                return False
            importlib.import_module(f"{thing.__name__}.{part}")
        thing = getattr(thing, part, None)
    return True


@pytest.mark.parametrize(("expected", "name"), [(True, "SSEOxyGent.org"), (True, "testing.faults"), (False, "Run.none"),
                                                 (False, "none"), (False, "testing.none")])  # fmt: skip
def test_missing_names_are_found(expected: bool, name: str) -> None:
    """The check below finds missing names."""
    assert found(name) == expected


def linked(page: str, anchor: str) -> str:
    """Return the text at a link: a page, or the section below a heading.

    Raises:
        KeyError: it has no such heading.
    """
    text = (PAGE.parent / page).read_text(encoding="utf-8")
    _, *parts = re.split(r"^##+ (.+)\n", text, flags=re.MULTILINE)
    below = {heading.lower().replace(" ", "-"): part for heading, part in zip(parts[::2], parts[1::2], strict=True)}
    return below[anchor] if anchor else text


def test_built_in_names_exist() -> None:
    """Each name in the tables exists in the package, and the linked section mentions it."""
    rows = [row for each in POINTS for row in table(f"{each['section']} ({each['document']}er document)")]
    silent: list[tuple[str, str]] = []
    for point, built_in, links in rows:
        names = re.findall(r"`([^`]+)`", built_in)
        assert names, point
        assert [name for name in names if not found(name)] == []
        text = "".join(linked(*link.partition("#")[::2]) for link in re.findall(r"\]\((.+?)\)", links))
        silent += [(point, name) for name in names if not re.search(rf"\b{name.rpartition('.')[2]}\b", text)]
    assert silent == []


def test_stand_in_modules_are_removed() -> None:
    """The stand-in modules exist within the block only; earlier modules are restored after it."""
    before = {name for name in sys.modules if name.partition(".")[0] == "oxygent"}
    kept = sys.modules["oxygent"] = ModuleType("oxygent")
    try:
        with framework(SSEOxyGent):
            assert importlib.import_module("oxygent.oxy.agents").SSEOxyGent is SSEOxyGent
            assert sys.modules["oxygent"] is not kept
        assert sys.modules["oxygent"] is kept
    finally:
        del sys.modules["oxygent"]
    assert {name for name in sys.modules if name.partition(".")[0] == "oxygent"} == before


# -------------------------------------------------------------------------------------------------------------- Mutants


class Unreplaced(CallbackDispatcher):
    """Ignores a `send_message` that was assigned to the request, and uses the class's own."""

    def _take_sender(self) -> Any:
        return partial(type(self.request).send_message, self.request)


MUTANTS: Final[Mapping[str, tuple[type[SSEOxyGent], frozenset[str]]]] = {
    # what is ignored: (the base, the blocks whose effects fail; no others fail)
    "event_handlers": (ignoring("event_handlers", {}), frozenset({"custom_events"})),
    "event_filter": (ignoring("event_filter", None), frozenset({"event_filtering"})),
    "prepare_payload": (deaf("prepare_payload"), frozenset({"call_stack"})),
    "prepare_headers": (deaf("prepare_headers"), frozenset({"authenticated"})),
    "send_message": (delivering(Unreplaced), frozenset({"progress_monitoring"})),
    "the custom hook": (deaf("_process_custom_event"), frozenset({"event_filtering"})),
    "the tool call hook": (deaf("handle_tool_call_event"), frozenset({"event_processing"})),
    "the observation hook": (deaf("handle_observation_event"), frozenset({"event_processing"})),
    "is_share_call_stack": (
        ignoring("is_share_call_stack", True),
        frozenset(
            """
            multi_service environments call_stack filtering forwarding stack_shared stack_independent practice_stacks
            """.split()
        ),
    ),
    "_execute": (
        deaf("_execute"),
        frozenset({"resilient_short", "resilient_long", "monitored", "practice_monitoring", "progress_monitoring"}),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("ignored", MUTANTS)
async def test_mutants(ignored: str) -> None:
    """A base class that ignores one hook fails the effects of the blocks that need it, and no others."""
    base, fatal = MUTANTS[ignored]
    failed: set[str] = set()
    for block, shows in EFFECTS.items():
        try:
            await shows(base, block)
        except (Exception, pytest.fail.Exception):  # noqa: BLE001  (however it fails, it fails)
            failed.add(block)
    assert fatal == failed


# -------------------------------------------------------------------------------- The documentation's own method bodies


def documented(**names: Any) -> Callable[..., Any]:
    """Return a subclass of `RemoteAgent` with the documentation's `init` and `_execute`."""
    names |= {
        "RemoteAgent": RemoteAgent,
        "OxyRequest": OxyRequest,
        "OxyResponse": OxyResponse,
        "OxyState": OxyState,
        "build_url": build_url,
        "json": json,
        "logger": SimpleNamespace(info=lambda *_, **__: None),  # pyright: ignore[reportUnknownLambdaType]  (nothing of it is looked at)
    }
    exec(pasted(CLASS, *METHODS), names)
    return cast("Callable[..., Any]", names["Documented"])


def at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that does not wait, and return its result."""
    with pytest.raises(StopIteration) as done:
        work.send(None)
    return done.value.value


def by_the_documentation(stream: bytes, *, is_shared: bool) -> tuple[Any, list[Any], Session]:
    """Return the answer that the documented body finds in a stream, the forwarded messages, and the requests."""
    session = Session(stream)
    aiohttp = SimpleNamespace(ClientSession=lambda: session)
    agent = documented(aiohttp=aiohttp)(server_url="http://remote.test", name="me")
    agent.is_share_call_stack = is_shared
    forwarded: list[Any] = []

    async def send_message(said: Any) -> None:
        forwarded.append(said)

    request = agent.prepared(OxyRequest(call_stack=[*LOCAL], node_id_stack=["", "n"], arguments={"query": "hi"}))
    request.send_message = send_message
    response = at_once(agent._execute(request))
    assert response.state is OxyState.COMPLETED
    return response.output, forwarded, session


NOT_DOCUMENTED: Final = {
    # Parts of recorded streams on which the documentation's loop fails or stops.
    "v1.1.3_close_early.sse": "closes with a word of its own",
    "v1.1.3_progress.sse": "a message without a type",
    "v1.1.3_strings.sse": "messages that are no objects",
}
CAPTURED: Final = {path.name: path.read_bytes() for path in WIRE.glob("*.sse") if path.name not in NOT_DOCUMENTED}
EVENT_STREAMS: Final = {
    case["name"]: b"".join(map(base64.b64decode, case["chunks_b64"]))
    for case in json.loads(CONFORMANCE.read_text(encoding="utf-8"))
}


def is_documented(stream: bytes) -> bool:
    """Return whether each event up to the end is an object with a type, as in the documentation."""
    try:
        said = [json.loads(sse.data) for sse in Decoder().feed(stream) if sse.event != CLOSE]
    except ValueError:
        return False
    return said != [] and all(isinstance(each, dict) and "type" in each for each in said)


STREAMS: Final = CAPTURED | {name: stream for name, stream in EVENT_STREAMS.items() if is_documented(stream)}


def compare(stream: bytes, *, is_shared: bool) -> None:
    """Assert that our router finds the same answer in a stream as the documentation's body, and forwards the same."""
    output, forwarded, session = by_the_documentation(stream, is_shared=is_shared)
    link = NameMap(call_stack=None if is_shared else (*LOCAL, "me"))
    actions = [EventRouter().route(to_event(sse), link) for sse in Decoder().feed(stream) if sse.event != CLOSE]
    assert [action.message for action in actions if isinstance(action, Forward)] == forwarded
    assert ["", *(action.output for action in actions if isinstance(action, SetAnswer))][-1] == output
    assert (b"data: done" in stream) == bool(session.released)


@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("name", STREAMS)
def test_the_documented_execute(name: str, is_shared: bool) -> None:
    """On recorded and on well-formed streams, our agent and the documentation's body have the same result."""
    compare(STREAMS[name], is_shared=is_shared)


def test_well_formed_streams() -> None:
    """Streams of typed messages are well-formed; streams with other texts, or objects without a type, are not."""
    assert {"oxy-ping-first", "oxy-cut-before-blank-line"} < STREAMS.keys()
    assert not {"spec-multiline-data", "hx-u2028-in-data", "oxy-split-at-001"} & STREAMS.keys()


STEP: Final[st.SearchStrategy[dict[str, Any]]] = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["tool_call", "observation"]),
        "content": st.fixed_dictionaries(
            {
                "caller_category": st.sampled_from(["user", "agent", "tool"]),
                "callee_category": st.sampled_from(["user", "agent", "tool"]),
                "call_stack": st.lists(st.text(max_size=3), max_size=4),
            },
            optional={"output": st.none() | st.integers() | st.text(max_size=9)},
        ),
    }
)
OTHER: Final[st.SearchStrategy[dict[str, Any]]] = st.fixed_dictionaries(
    {"type": st.sampled_from(["answer", "progress", "stream", "think", "error", "metrics"])},
    optional={"content": st.none() | st.integers() | st.text(max_size=9) | st.lists(st.integers(), max_size=2)},
)


@given(said=st.lists(STEP | OTHER), is_shared=st.booleans(), is_whole=st.booleans())
def test_the_documented_execute_on_any_messages(said: list[Any], is_shared: bool, is_whole: bool) -> None:
    """For any messages in the documented form, our agent and the documentation's body have the same result."""
    compare(b"".join(map(message, said)) + close() * is_whole, is_shared=is_shared)


@pytest.mark.parametrize("file", NOT_DOCUMENTED)
def test_recordings_on_which_the_documented_execute_fails(file: str) -> None:
    """On the recordings that are left out above, the documentation's body fails."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        by_the_documentation((WIRE / file).read_bytes(), is_shared=True)


@pytest.mark.parametrize("is_shared", [True, False])
async def test_the_documented_payload(is_shared: bool) -> None:
    """The documentation's body posts what we post, except ids and fields that the protocol forbids."""
    _, _, session = by_the_documentation(answer("42") + close(), is_shared=is_shared)
    ((url, theirs, headers),) = session.posted
    site = FakeTransport.script(answer("42"), close())
    agent = SSEOxyGent(
        server_url="http://remote.test", name="me", is_share_call_stack=is_shared, callee="me", check_callee=False,
        transport=site,
    )  # fmt: skip
    await agent.ask(OxyRequest(call_stack=[*LOCAL], node_id_stack=["", "n"], arguments={"query": "hi"}))
    (ours,) = site.payloads
    assert site.requests[0].url == url
    assert site.requests[0].method == "POST"
    assert {name.lower(): value for name, value in headers.items()}.items() <= site.requests[0].headers.items()
    drawn = {"request_id", "group_id", "current_trace_id", "node_id"}
    some = {"original_payload", "copied_node_id", "create_time", "update_time", "is_load_data_for_restart"}
    assert {*ours} == {*theirs} - some, "what only some servers know is sent if it says something"
    differing = {name for name in ours if ours[name] != theirs[name]}
    assert differing <= drawn


async def test_the_documented_init() -> None:
    """The documentation's body of `init` and ours store the same organization and show the same members."""
    remote = toy()
    over = SimpleNamespace(AsyncClient=partial(httpx.AsyncClient, transport=httpx.ASGITransport(remote)))
    theirs = documented(httpx=over)(server_url="http://remote.test")
    ours = SSEOxyGent(server_url="http://remote.test", transport=ASGITransport(remote))
    for agent in (theirs, ours):
        await agent.init()
    assert theirs.org == ours.org
    assert theirs.get_org() == ours.get_org()
    assert names_of(ours.get_org()) == MEMBERS
