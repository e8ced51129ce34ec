"""The examples of the documentation's fifteen use cases, and its code blocks, against a real server.

Rule 1: an example gets the server by `OXYGENT_URL` only; that of the cluster gets it under three names. Its output is
    that of its docstring, with the server's agents and tools in place of the toy remote's.
Rule 2: a block of the documentation runs unchanged; its URLs lead to the server. NOT_HERE has those that do not run,
    with reasons.
"""

from __future__ import annotations

import io
import json
import re
import runpy
from contextlib import asynccontextmanager, nullcontext, redirect_stdout
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import attrs
import httpx
import pytest

from oxygent_client import HTTPXTransport
from tests.agent.test_documentation import documented
from tests.conftest import ROOT
from tests.support.documentation import BLOCKS, LOCAL, Program

from .drop_in import same_ids

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from oxygent_client import HTTPRequest, HTTPResponse, OxyRequest

    from .harness import RemoteServer

pytestmark = pytest.mark.anyio

ALL: Final[dict[str, Any]] = runpy.run_path(str(ROOT / "docs" / "examples" / "run_all.py"))
EXAMPLES: Final[dict[str, Path]] = {path.stem: path for path in ALL["EXAMPLES"]}
NAMES: Final = {
    # the toy remote's name: the server's
    "trip_planner": "master",
    "search_flights": "add",
    "search_hotels": "multiply",
    "add_up": "shout",
    "HELLO": "BOTH",
}


@pytest.mark.parametrize("example", EXAMPLES)
async def test_output(newest: RemoteServer, example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example does the same with a real server as with the toy."""
    hosts = ("127.0.0.1", "localhost") if example == "cloud" else ("127.0.0.1",)
    monkeypatch.setenv("OXYGENT_URL", ",".join(newest.url.replace("127.0.0.1", host) for host in hosts))
    monkeypatch.setenv("SEARCH_TOKEN", "t0p-secret")
    program = runpy.run_path(str(EXAMPLES[example]))
    with redirect_stdout(io.StringIO()) as printed:
        await program["main"]()
    expected = re.sub("|".join(NAMES), lambda found: NAMES[found[0]], ALL["expected"](EXAMPLES[example]))
    assert printed.getvalue() == expected


@attrs.define
class Leading:
    """A transport on which each URL leads to one server."""

    url: str
    inner: HTTPXTransport
    requests: list[HTTPRequest] = attrs.field(factory=list["HTTPRequest"])

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        self.requests.append(request)
        async with self.inner.exchange(attrs.evolve(request, base_url=self.url)) as response:
            yield response

    async def aclose(self) -> None:
        """As `Transport.aclose`."""
        await self.inner.aclose()


MAKING: Final[dict[str, int]] = {
    # blocks that make agents: how many
    "basic": 1,
    "multi_service": 1,
    "progress_monitoring": 1,
    "class_definition": 1,
    "remote_communication": 1,
    "multi_instance": 2,
    "environments": 2,
    "resilient_long": 1,
    "monitored": 1,
}


@pytest.mark.parametrize("block", MAKING)
async def test_the_agents_of_the_documentation(newest: RemoteServer, block: str) -> None:
    """Each agent of a block is answered by a real server, and its tools' steps are in the right place."""
    server = Leading(newest.url, HTTPXTransport())
    made = Program(dict.fromkeys(re.findall(r'"(https?://[^"]+)"', BLOCKS[block]), server))
    try:
        # Its last line divides by the number of calls.
        with pytest.raises(ZeroDivisionError) if block == "monitored" else nullcontext():
            await made.run(block)
        assert len(made.agents) == MAKING[block]
        for agent in made.agents:
            made.heard.clear()
            assert (await made.execute(agent, "tools")).output == "5 20 BOTH"
            assert sorted({*made.kinds()}, reverse=True) == ["tool_call", "observation"]
            stack = LOCAL if agent.is_share_call_stack else [*LOCAL, agent.name]
            assert [each["content"]["call_stack"][: len(stack)] for each in made.heard] == [stack] * 6
    finally:
        await server.aclose()
    if block == "progress_monitoring":
        tools = [line for line in made.printed if "Executing" in line]
        assert [f"[PROGRESS] Executing tool: {name}" for name in ("add", "multiply", "shout")] == tools


REMOTE: Final = "https://remote.test"
MEMBERS: Final = {"middle_agent", "other_agent", "mute_agent", "add", "multiply", "shout"}
"""An agent below the server's master."""

SHOWN: Final[dict[str, Callable[[Leading], Awaitable[None]]]] = {}
"""The effects of other blocks with a real server."""


def shows(*blocks: str) -> Callable[[Any], Any]:
    """Register the function below as the effect of these blocks."""

    def noted(function: Any) -> Any:
        for block in blocks:
            SHOWN[block] = function
        return function

    return noted


def sends(*messages: dict[str, Any]) -> str:
    """Return the query for which the server's agent sends these messages."""
    return f"strings {json.dumps(messages)}"


@shows("init_call", "practice_init")
async def init_call(server: Leading) -> None:
    """The server's organization is known afterwards."""
    for block in ("init_call", "practice_init"):
        made = Program({REMOTE: server})
        agent = made.names["sse_agent"] = made.agent_class(server_url=REMOTE)
        await made.run(block)
        assert agent.org["name"] == "master"
        assert {member["name"] for member in agent.get_org()} >= MEMBERS


@shows("load_balancing")
async def load_balancing(server: Leading) -> None:
    """Reachable replicas are used in turn; the block's own last lines lack an argument."""
    urls = re.findall(r'"(https://[^"]+)"', BLOCKS["load_balancing"])
    made = Program({urls[0]: server, urls[2]: server})
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        await made.run("load_balancing")
    cluster = made.names["LoadBalancedSSECluster"](urls)
    with made.printing():
        await cluster.initialize(urls)
    assert [line[0] for line in made.printed] == ["✓", "✗", "✓"]
    answered: list[tuple[str, Any]] = []
    for _ in range(3):
        agent = cluster.get_next_agent()
        answered.append((agent.name, (await made.execute(agent, "echo hello")).output))
    assert answered == [("cluster_node_1", "hello"), ("cluster_node_3", "hello"), ("cluster_node_1", "hello")]


@shows("call_stack")
async def call_stack(server: Leading) -> None:
    """For each strategy of the class, the steps of the remote are in the right place."""
    made = Program({REMOTE: server})
    agent = (await made.run("call_stack"))["CallStackAwareSSEAgent"](server_url=REMOTE, name="me")
    for strategy, stack in (("partial", LOCAL), ("full", [*LOCAL, "me"]), ("none", [*LOCAL, "me"])):
        made.heard.clear()
        agent.call_stack_strategy = strategy
        assert (await made.execute(agent, "tools")).output == "5 20 BOTH"
        expected = stack if strategy == "none" else [*stack, "master"]
        assert [each["content"]["call_stack"][:-1] for each in made.heard] == [expected] * 6


@shows("event_filtering")
async def event_filtering(server: Leading) -> None:
    """The filter keeps a message back; the hook turns one into progress, and logs the error."""
    logged: list[str] = []
    made = Program({REMOTE: server}, names={"logger": SimpleNamespace(error=logged.append)})
    cls = (await made.run("event_filtering"))["CustomEventSSEAgent"]
    agent = cls(event_filter=lambda message: message["type"] != "secret", server_url=REMOTE)  # pyright: ignore[reportUnknownLambdaType]  (the block says nothing of types)
    said = [{"type": kind, "content": kind} for kind in ("progress", "error", "secret")]
    assert (await made.execute(agent, sends(*said))).output == "sent 3"
    assert [{"type": "progress_update", "content": "progress"}, *said[:2]] == made.heard
    assert logged == ["Remote error: error"]


@shows("custom_events")
async def custom_events(server: Leading) -> None:
    """Each of the three handlers prints the agent's message, and the front end gets it too."""
    made = Program({"https://custom-oxygent.example.com": server})
    agent = (await made.run("custom_events"))["custom_agent"]
    said = [
        {"type": "custom_event", "content": {"id": 7}},
        {"type": "progress_update", "content": {"progress": 45, "status": "working"}},
        {"type": "metrics", "content": {"metrics": {"cpu": 3}}},
    ]
    assert (await made.execute(agent, sends(*said))).output == "sent 3"
    assert made.printed == ["Custom event received: {'id': 7}", "Progress: 45% - working", "Metrics: {'cpu': 3}"]
    assert made.heard == said


@shows("authenticated")
async def authenticated(server: Leading) -> None:
    """The class is answered, and sends no key; with `prepare_headers` it sends one, and is answered as well."""
    made = Program({REMOTE: server})
    as_it_stands = (await made.run("authenticated"))["AuthenticatedSSEAgent"]

    class Completed(as_it_stands):  # type: ignore[misc, valid-type]  # the base is what the block made
        def prepare_headers(self, oxy_request: OxyRequest) -> dict[str, str]:
            return {"Authorization": f"Bearer {self.api_key}"}

    for cls in (as_it_stands, Completed):
        assert (await made.execute(cls(api_key="k-12345678", server_url=REMOTE), "echo hello")).output == "hello"
    runs = [request for request in server.requests if request.method == "POST"]
    assert [request.headers.get("authorization") for request in runs] == [None, "Bearer k-12345678"]


@shows("secure")
async def secure(server: Leading) -> None:
    """Plain http is refused; over https the class is answered."""
    made = Program({REMOTE: server})
    cls = (await made.run("secure"))["SecureSSEAgent"]
    with pytest.raises(ValueError, match="Only HTTPS"):
        cls(server_url=server.url)
    assert (await made.execute(cls(server_url=REMOTE), "echo hello")).output == "hello"


@shows("init", "execute")
async def bodies(server: Leading) -> None:
    """The documentation's own method bodies, with httpx and aiohttp, have the same results as ours."""
    over = SimpleNamespace(AsyncClient=partial(httpx.AsyncClient, trust_env=False))
    theirs = documented(httpx=over, aiohttp=aiohttp)(server_url=server.url, name="master")  # another name hangs
    for is_shared in (True, False):
        theirs.is_share_call_stack = is_shared
        made = Program({REMOTE: server})
        ours = made.agent_class(server_url=REMOTE, name="master", is_share_call_stack=is_shared)
        seen: list[Any] = []
        for agent in (theirs, ours):
            await agent.init()
            made.heard.clear()
            output = (await agent.execute(made.request("nested"))).output
            seen.append((output, agent.get_org(), same_ids(made.heard)))
        assert seen[0][0] == "master(middle(leaf(42)))"
        assert seen[0] == seen[1]


@pytest.mark.parametrize("block", SHOWN)
async def test_other_blocks(newest: RemoteServer, block: str) -> None:
    """A block without its own agent, or whose agent waits for certain messages, has its effect."""
    server = Leading(newest.url, HTTPXTransport())
    try:
        await SHOWN[block](server)
    finally:
        await server.aclose()


LOOP: Final = "a piece of the loop in `execute`"
NOT_HERE: Final[dict[str, str]] = {
    # block: why it does not run against a real server
    "class_line": "half a line",
    "flow": "a drawing",
    "filtering": LOOP,
    "forwarding": LOOP,
    "event_processing": LOOP,
    "message_answer": "a message, written down",
    "message_tool_call": "a message, written down",
    "message_observation": "a message, written down",
    "message_custom": "a message, written down",
    "stack_shared": "comments; `call_stack` shows it",
    "stack_independent": "comments; `call_stack` shows it",
    "practice_stacks": "comments; `call_stack` shows it",
    "practice_monitoring": "a comment; `monitored` shows it",
    "practice_https": "two addresses",
    "practice_failures": "no body: no Python",
    "error_recovery": "its session is for any server: tests/agent/test_documentation_sockets.py",
    "resilient_short": "a class for bad times: test_resilient.py gives it a real server, and them",
}


def test_all_blocks() -> None:
    """Each block runs here in one of two ways, or has a reason."""
    assert sorted(BLOCKS) == sorted([*MAKING, *SHOWN, *NOT_HERE])
