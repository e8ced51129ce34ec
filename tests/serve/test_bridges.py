"""What all protocols promise alike, each asked over HTTP: errors of hooks, and the `sanitize` of runs and of lists.

Rule: time is virtual; the remote is a toy in the same process, and so are the clients.
"""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest
from sse_starlette.sse import AppStatus

from oxygent_client import SSEOxyGent
from oxygent_client.sanitize import redact
from oxygent_client.serve import Service
from oxygent_client.serve.a2a import A2AAdapter
from oxygent_client.serve.agui import AGUIAdapter
from oxygent_client.serve.mcp import MCPAdapter
from oxygent_client.serve.openai import OpenAIAdapter
from oxygent_client.serve.relay import RelayAdapter
from oxygent_client.testing import ToyRemote
from oxygent_client.testing.script import Call as Calls
from oxygent_client.testing.script import Cut, Fail, Pause, Say, Script, Stream, Think
from oxygent_client.transports.asgi import ASGITransport
from tests.support.asgi_client import Call
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

REMOTE: Final = "https://remote.test"
MASTER: Final = "trip_planner"
ORGANIZATION: Final[dict[str, Any]] = {
    "name": MASTER,
    "type": "agent",
    "children": [{"name": "zanzibar_agent", "type": "agent", "desc": "flies to zanzibar", "children": []}],
}
SCRIPTS: Final = {
    **ToyRemote().scripts,
    "words": Script(
        [
            Think("zanzibar, then"),
            Calls(
                "flight_agent",
                [Calls("search_flights", query="to zanzibar", output="zanzibar at 8"), Think("zanzibar")],
                query="fly to zanzibar",
                output="Error executing oxy flight_agent: no zanzibar",
            ),
            Stream("Fly to zanzibar at 8.", 1),
            Say({"type": "progress", "content": "zanzibar"}),
        ],
        output="Fly to zanzibar at 8. Or stay in zanzibar.",
    ),
    "words_asked": Script([Say({"type": "feedback", "content": "zanzibar?"}), Pause(1)], output={"to": "zanzibar"}),
    "words_fail": Script([Fail("no way to zanzibar")]),
    "words_cut": Script([Stream("Fly to zanzibar at", 1), Pause(1), Cut()]),
    "words_half": Script([Stream("Fly to zanzi", 1), Pause(1), Cut()]),
    "words_split": Script([Stream("zan", 1), Pause(1), Stream("zibar at 8", 1), Pause(1)], output="zanzibar at 8"),
    "keys": Script([Calls("search", output={"place": "zanzibar"})], output={"place": "zanzibar"}),
    "half": Script([Stream("Half of", 1), Say({"type": "progress", "content": "step"}), Pause(1)], output="done"),
    "step": Script([Pause(1), Say({"type": "progress", "content": "step"}), Pause(1)], output="done"),
}


@attrs.define(eq=False)
class Site:
    """A service of all protocols, and the toy that it serves."""

    service: Service
    toy: ToyRemote

    async def post(self, path: str, document: Any, **headers: str) -> str:
        """Send a document, and return the whole body of the response."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return (await Call(self.service, "POST", path, json.dumps(document).encode(), given)()).text


@asynccontextmanager
async def site(
    kind: type[SSEOxyGent] = SSEOxyGent, *, whole_answers: bool = False, **options: Any
) -> AsyncGenerator[Site]:
    """Serve a toy by all protocols while the block lasts."""
    toy = ToyRemote(scripts=SCRIPTS, organization=ORGANIZATION)
    agent = kind(server_url=REMOTE, transport=ASGITransport(toy), **options)
    adapters: list[Any] = [
        OpenAIAdapter(reasoning=True),
        AGUIAdapter(reasoning=True, page=True),
        MCPAdapter(),
        A2AAdapter(),
        RelayAdapter(),
    ]
    service = Service(agent, adapters, whole_answers=whole_answers)
    AppStatus.should_exit = False
    async with service.running():
        yield Site(service, toy)
    with suppress(RuntimeError):  # on trio; a task of sse-starlette waits for uvicorn's end, as long as the loop
        for task in asyncio.all_tasks():
            if getattr(task.get_coro(), "__name__", "") == "_shutdown_watcher":
                task.cancel()


# ----------------------------------------------------------------------------------- One question by each protocol


def chat(*, is_streamed: bool) -> Callable[[Site, str], Coroutine[Any, Any, str]]:
    """Return a client of chat completions."""

    async def ask(here: Site, query: str) -> str:
        body = {"model": MASTER, "stream": is_streamed, "messages": [{"role": "user", "content": query}]}
        return await here.post("/v1/chat/completions", body)

    return ask


async def responses(here: Site, query: str) -> str:
    """Ask by the API of responses."""
    return await here.post("/v1/responses", {"model": MASTER, "stream": True, "input": query})


async def agui(here: Site, query: str) -> str:
    """Ask by AG-UI."""
    messages = [{"id": "m", "role": "user", "content": query}]
    body = {"threadId": "t", "runId": f"r {query}", "protocolVersion": "1.0", "messages": messages}
    return await here.post("/agui", body)


async def call_mcp(here: Site, method: str, headers: dict[str, str], **params: Any) -> str:
    """Send a request of MCP."""
    meta: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "progressToken": 1,
    }
    document: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
    kinds = {"accept": "application/json, text/event-stream", "content_type": "application/json"}
    return await here.post("/mcp", document, mcp_protocol_version="2026-07-28", mcp_method=method, **kinds, **headers)


async def mcp(here: Site, query: str) -> str:
    """Ask by MCP."""
    return await call_mcp(here, "tools/call", {"mcp_name": MASTER}, name=MASTER, arguments={"query": query})


async def a2a(here: Site, query: str) -> str:
    """Ask by A2A."""
    message = {"messageId": f"message {query}", "role": "ROLE_USER", "parts": [{"text": query}]}
    document = {"jsonrpc": "2.0", "id": "7", "method": "SendStreamingMessage", "params": {"message": message}}
    return await here.post("/a2a", document, a2a_version="1.0")


async def relay(here: Site, query: str) -> str:
    """Start a run at the relay, and view it."""
    started = await here.post("/relay", {"query": query})
    run = json.loads(started).get("id", "none")
    return started + (await Call(here.service, "GET", f"/relay/{run}")()).text


BRIDGES: Final[dict[str, Callable[[Site, str], Coroutine[Any, Any, str]]]] = {
    "chat": chat(is_streamed=False),
    "chat-stream": chat(is_streamed=True),
    "responses": responses,
    "agui": agui,
    "mcp": mcp,
    "a2a": a2a,
    "relay": relay,
}
each_bridge: Final = pytest.mark.parametrize("bridge", BRIDGES)


# ------------------------------------------------------------------------------------------------------ Errors of hooks


def fail_at_step(message: Any) -> Any:
    """Fail at one message of a run, as a hook with a fault does."""
    if message.get("type") == "progress":
        raise OSError("a secret of the program")
    return message


HOOKS: Final[list[Any]] = [
    pytest.param({"sanitize": fail_at_step}, id="sanitize"),
    pytest.param({"event_filter": fail_at_step}, id="filter"),
]


@each_bridge
@pytest.mark.parametrize("options", HOOKS)
async def test_a_hook_that_raises(bridge: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """A hook that raises ends its run with an error of the protocol; its text is logged, and other runs go on."""
    async with site(**options) as here, anyio.create_task_group() as group:
        group.start_soon(BRIDGES[bridge], here, "echo other")
        failed = await BRIDGES[bridge](here, "step")
        assert "the run failed" in failed
        assert "a secret" not in failed
        assert "a secret of the program" in caplog.text
        assert "hello" in await BRIDGES[bridge](here, "echo hello")
        assert [run.query for run in here.toy.runs].count("step") == 1


class _FailsFromStep:
    """A `sanitize` that fails from one message of a run on."""

    has_begun = False

    def __call__(self, message: Any) -> Any:
        """Fail, or return the message."""
        self.has_begun |= message.get("type") == "progress"
        if self.has_begun:
            raise ValueError("a secret of the program")
        return message


@each_bridge
async def test_a_hook_that_goes_on_raising(bridge: str) -> None:
    """A hook that also fails at what is sent of a failed run takes that away, and not the error."""
    async with site(sanitize=_FailsFromStep()) as here:
        failed = await BRIDGES[bridge](here, "half")
        assert "the run failed" in failed
        assert "a secret" not in failed
        assert (await Call(here.service, "GET", "/healthz")()).status == 200


class _Broken(SSEOxyGent):
    """An agent with a fault that no rule of the package foresees."""

    def conversation(self, token: str = "", **options: Any) -> Any:
        """Raise an error that is no `OxyError`, and looks like one of a connection."""
        raise ConnectionResetError("a secret of the program")

    def stream(self, *_: Any, **__: Any) -> Any:
        """Raise such an error."""
        raise ConnectionResetError("a secret of the program")


@each_bridge
async def test_a_fault(bridge: str, caplog: pytest.LogCaptureFixture) -> None:
    """An error before the run is one of its request alone, and is not taken for a client that has left."""
    async with site(_Broken) as here:
        failed = [await BRIDGES[bridge](here, query) for query in ("one", "two")]
    assert ["internal_error" in each for each in failed] == [True, True]
    assert "a secret" not in "".join(failed)
    assert caplog.text.count("ConnectionResetError: a secret of the program") >= 2


# ------------------------------------------------------------------------------------------------------------ Sanitize

WORD: Final = "zanzibar"
RANDOM_ID: Final = re.compile(r"[A-Za-z0-9_-]{16,}")
"""An id may have three letters of the word by chance."""


def replace(message: Any) -> Any:
    """Replace the word, in a message only."""
    assert "type" in message
    return json.loads(json.dumps(message).replace(WORD, "[gone]"))


SANITIZERS: Final[list[Any]] = [
    # `sanitize`, the query, what the client gets
    pytest.param(replace, "words", "[gone]", id="calls-and-text"),
    pytest.param(replace, "words_asked", "[gone]", id="question"),
    pytest.param(replace, "words_fail", "[gone]", id="failure"),
    pytest.param(replace, "words_cut", "cut", id="cut"),
    pytest.param(redact("place"), "keys", "[scrubbed]", id="keys"),
]


@each_bridge
@pytest.mark.parametrize(("sanitize", "query", "shown"), SANITIZERS)
async def test_sanitize(bridge: str, sanitize: Any, query: str, shown: str) -> None:
    """What `sanitize` removes is nowhere in the bytes that a client gets."""
    async with site(sanitize=sanitize) as here:
        received = await BRIDGES[bridge](here, query)
    assert shown in received
    assert WORD not in received


@each_bridge
@pytest.mark.parametrize(("query", "shown"), [("words_split", "[gone]"), ("words_cut", "cut"), ("words_half", "cut")])
async def test_sanitize_of_whole_answers(bridge: str, query: str, shown: str) -> None:
    """With `whole_answers`, no piece of a word that `sanitize` removes reaches a client."""
    async with site(sanitize=replace, whole_answers=True) as here:
        received = await BRIDGES[bridge](here, query)
    assert shown in received
    assert "zan" not in RANDOM_ID.sub("", received)


@pytest.mark.parametrize("bridge", ["chat-stream", "responses", "agui", "a2a", "relay"])
async def test_sanitize_of_pieces(bridge: str) -> None:
    """Without it, `sanitize` gets each piece of a text alone, and a word that is split over two of them is sent."""
    async with site(sanitize=replace) as here:
        received = await BRIDGES[bridge](here, "words_split")
    assert "zan" in RANDOM_ID.sub("", received)


@pytest.mark.parametrize("query", ["words", "keys"])
async def test_sanitize_of_a_report(query: str) -> None:
    """So is it nowhere in the report of a run."""
    async with site(sanitize=replace) as here:
        await agui(here, query)
        reply = await Call(here.service, "GET", f"/agui/reports/{here.toy.runs[0].trace_id}")()
    assert reply.status == 200
    assert "[gone]" in reply.text
    assert WORD not in reply.text


async def models(here: Site) -> str:
    """Read the list of models."""
    return (await Call(here.service, "GET", "/v1/models")()).text


async def model(here: Site) -> str:
    """Read one model, by its name for clients."""
    return (await Call(here.service, "GET", "/v1/models/[gone]_agent")()).text


async def tools(here: Site) -> str:
    """Read the list of tools."""
    return await call_mcp(here, "tools/list", {})


async def card(here: Site) -> str:
    """Read the agent card."""
    return (await Call(here.service, "GET", "/.well-known/agent-card.json")()).text


async def agents(here: Site) -> str:
    """Read the list of the page."""
    return (await Call(here.service, "GET", "/agui/agents")()).text


LISTS: Final[dict[str, Callable[[Site], Coroutine[Any, Any, str]]]] = {
    "models": models,
    "model": model,
    "mcp": tools,
    "a2a": card,
    "page": agents,
}


@pytest.mark.parametrize("read", LISTS)
async def test_sanitize_of_a_list(read: str) -> None:
    """What `sanitize` removes is nowhere in a list of agents, neither in names nor in descriptions."""
    async with site(sanitize=replace) as here:
        received = await LISTS[read](here)
    assert "[gone]_agent" in received
    assert "flies to [gone]" in received
    assert WORD not in received
