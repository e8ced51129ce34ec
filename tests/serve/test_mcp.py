"""MCP: tools, results, progress, cancellation and feedback, for clients of both generations of the protocol.

Rule 1: time is virtual; the remote is a toy in the same process. Real clients are in tests/clients.
Rule 2: `legacy` is the protocol up to 2025-11-25, which begins with a handshake; `modern` has no sessions.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal

import anyio
import attrs
import mcp_types as types
import pytest
from mcp import Client, MCPError
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.message import SessionMessage
from sse_starlette.sse import AppStatus

from oxygent_client import BearerAuth, SSEOxyGent
from oxygent_client.errors import ConfigurationError, ConnectError
from oxygent_client.serve import ASGIApp, ServedAgent, ServeLimits, Service
from oxygent_client.serve._mcp.documents import NAME_LENGTH, named_tools, tool
from oxygent_client.serve.mcp import MCPAdapter, create_app, create_server
from oxygent_client.testing import FakeTransport, Reply, ToyRemote, answer, close
from oxygent_client.testing.script import Call as Calls
from oxygent_client.testing.script import Cut, Pause, Say, Script, Stream, Words
from oxygent_client.transports.asgi import ASGITransport
from tests.support.asgi_client import Call, request
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

    from mcp.server import Server

Era = Literal["legacy", "modern"]
REMOTE: Final = "https://remote.test"
MASTER: Final = "trip_planner"
MODES: Final[dict[Era, Literal["legacy", "auto"]]] = {"legacy": "legacy", "modern": "auto"}
SCRIPTS: Final = {
    **{name: ToyRemote().scripts[name] for name in ("raise", "memory")},
    "echo": Script(output=Words.REST),
    "json": Script(output={"sum": 42, "ö": [None]}),
    "calls": Script([Calls("search", query="BER to LIS"), Calls("add_up"), Pause(1)], output="42"),
    "cut": Script([Stream("Half of the", 1.0), Pause(1), Cut()]),
    "quiet": Script([Pause(100)], output="late"),
    "chatty": Script([Say({"type": "progress", "content": 1}), Pause(10)] * 6, output="late"),
    "calling": Script([Pause(10), Calls("search"), Pause(5), Calls("search"), Pause(30)], output="late"),
    "ask": Script([Say({"type": "feedback", "content": {"may I": True}}), Pause(100)], output="done"),
}
each_era: Final = pytest.mark.parametrize("era", MODES)


@attrs.define
class Site:
    """A server of a toy, the toy, and the progress that a client has received: text and time."""

    server: Server[None]
    toy: ToyRemote
    progress: list[tuple[str | None, float]] = attrs.field(factory=list[tuple[str | None, float]])

    def client(self, era: Era = "legacy", **options: Any) -> Client:
        """Return a client in the same process."""
        return Client(self.server, mode=MODES[era], **options)

    async def note(self, progress: float, total: float | None, message: str | None) -> None:
        """Note the progress that a client receives, which grows by one."""
        assert (progress, total) == (len(self.progress) + 1, None)
        self.progress.append((message, anyio.current_time()))

    async def ask(self, query: str, era: Era = "legacy", **arguments: str) -> types.CallToolResult:
        """Ask the master, as a client that wants progress."""
        async with self.client(era) as client:
            return await client.call_tool(MASTER, {"query": query, **arguments}, progress_callback=self.note)


def site(toy: dict[str, Any] | None = None, agent: dict[str, Any] | None = None, **options: Any) -> Site:
    """Return a server of a toy."""
    remote = ToyRemote(scripts=SCRIPTS, **(toy or {}))
    served = SSEOxyGent(server_url=REMOTE, transport=ASGITransport(remote), **(agent or {}))
    return Site(create_server(served, **options), remote)


def of(transport: FakeTransport, **options: Any) -> Site:
    """Return a server of a scripted remote."""
    return Site(create_server(SSEOxyGent(server_url=REMOTE, transport=transport, **options)), ToyRemote())


def of_one_agent(*steps: Any, before: Pause | None = None) -> FakeTransport:
    """Return a remote with one agent, which sends these steps."""
    organization = {"id_dict": {}, "organization": {"name": MASTER, "type": "agent"}}
    return FakeTransport(
        {
            "/get_organization": Reply.json({"code": 200, "data": organization}),
            "/get_description": Reply.json({"code": 200, "data": {"description": ""}}),
            "/sse/chat": Reply(steps, before=before),
        }
    )


def text_of(result: types.CallToolResult) -> str:
    """Return the text of a result."""
    (block,) = result.content
    assert isinstance(block, types.TextContent)
    return block.text


# --------------------------------------------------------------------------------------------------------------- Tools


@each_era
async def test_the_tools(era: Era) -> None:
    """Each agent of the organization is a tool, with its description; tools of the remote are none."""
    async with site().client(era) as client:
        tools = (await client.list_tools()).tools
    assert [each.name for each in tools] == [MASTER, "flight_agent", "hotel_agent", "review_agent"]
    assert tools[0].description == "Plans trips with flights and hotels"
    assert tools[1].description == "Ask the agent flight_agent of a remote system."
    assert {*tools[0].input_schema["properties"]} == {"query", "context"}
    assert tools[0].input_schema["required"] == ["query"]
    assert tools[0].output_schema is not None
    assert tools[0].output_schema["required"] == ["answer", "trace_id", "outcome"]


async def test_the_master_alone() -> None:
    """With `master_only` the master is the only tool."""
    here = site(master_only=True)
    async with here.client() as client:
        assert [each.name for each in (await client.list_tools()).tools] == [MASTER]
        with pytest.raises(MCPError):
            await client.call_tool("flight_agent", {"query": "echo x"})
    assert here.toy.runs == []


NAMES: Final[list[Any]] = [
    # names of agents, names of tools
    pytest.param(["a_b-C1"], ["a_b-C1"], id="unchanged"),
    pytest.param(["a b", "a.b", "a/b"], ["a_b", "a_b_2", "a_b_3"], id="not-allowed"),
    pytest.param(["天气", "航班", "__"], ["__", "___2", "___3"], id="other-scripts"),
    pytest.param(["x" * 70, "x" * 80], ["x" * 64, "x" * 62 + "_2"], id="long"),
    pytest.param(["a", "a_2", "a!", "a?"], ["a", "a_2", "a_", "a__2"], id="like-a-number"),
    pytest.param(["a.", "a__2", "a!"], ["a_", "a__2", "a__3"], id="the-number-is-taken"),
]


@pytest.mark.parametrize(("agents", "tools"), NAMES)
def test_names_of_tools(agents: list[str], tools: list[str]) -> None:
    """The name of a tool has the characters and the length that clients accept, and is that of one agent only."""
    found = named_tools(map(ServedAgent, agents))
    assert [*found] == tools
    assert [agent.name for agent in found.values()] == agents
    assert max(map(len, found)) <= NAME_LENGTH


def test_texts_of_a_remote_in_a_tool() -> None:
    """The texts of a tool are bounded and have no hidden characters."""
    shown = tool("x", ServedAgent("evil\u200b\n" + "name" * 100, "do\u202e this\x1b" + "!" * 10_000 + "\ud800"))
    assert shown.title is not None
    assert shown.title.startswith("evil name")
    assert len(shown.title) == 300
    assert shown.description is not None
    assert shown.description.startswith("do this!")
    assert len(shown.description) < 4100


async def test_the_tools_of_an_unreachable_remote() -> None:
    """If the remote cannot be asked, the error names no server."""
    transport = FakeTransport({"/get_organization": Reply(before=ConnectError("refused at 10.0.0.1"))})
    async with of(transport).client() as client:
        with pytest.raises(MCPError) as raised:
            await client.list_tools()
    assert "10.0.0.1" not in str(raised.value)


# ------------------------------------------------------------------------------------------------------------- Results


@each_era
async def test_an_answer(era: Era) -> None:
    """A result has the answer as text and in a structure, and the agent ran once."""
    here = site()
    result = await here.ask("echo hello", era)
    (run,) = here.toy.runs
    assert text_of(result) == "hello"
    assert result.structured_content == {"answer": "hello", "trace_id": run.trace_id, "outcome": "completed"}
    assert not result.is_error


async def test_an_agent_by_its_tool() -> None:
    """A tool calls its own agent."""
    here = site()
    async with here.client() as client:
        await client.call_tool("hotel_agent", {"query": "echo x"})
    assert here.toy.runs[0].payload["callee"] == "hotel_agent"


async def test_an_answer_that_is_no_text() -> None:
    """An answer that is not text is JSON in the structure, and its text is that JSON."""
    result = await site().ask("json")
    assert result.structured_content["answer"] == {"sum": 42, "ö": [None]}
    assert text_of(result) == '{"sum": 42, "ö": [null]}'


@each_era
async def test_an_answer_that_is_no_unicode(era: Era) -> None:
    """Lone surrogates, which cannot be sent, are replaced."""
    message = rb'data: {"type": "answer", "content": {"\ud800": "a\ud800b"}}' + b"\r\n\r\n"
    result = await of(of_one_agent(message, close())).ask("x", era)
    assert result.structured_content["answer"] == {"?": "a?b"}


async def test_a_credential_in_an_answer() -> None:
    """Credentials of the gateway that the remote echoes are redacted."""
    secret = "s3cret-of-the-gateway"
    transport = of_one_agent(answer(f"you sent {secret}"), close())
    result = await of(transport, auth=BearerAuth(secret)).ask("hi")
    assert text_of(result) == "you sent [scrubbed]"
    assert secret not in str(result)


async def test_two_turns() -> None:
    """With the trace id of the first result as its `context`, a run has its memory."""
    here = site()
    first = await here.ask("echo first")
    await here.ask("memory", context=first.structured_content["trace_id"])
    await here.ask("memory")
    assert [run.payload["from_trace_id"] for run in here.toy.runs] == ["", here.toy.runs[0].trace_id, ""]


# ------------------------------------------------------------------------------------------------------------ Failures


async def test_a_failing_agent() -> None:
    """A failure is a result with the agent's own text and the outcome."""
    here = site()
    result = await here.ask("raise")
    assert result.is_error
    assert "scripted failure" in text_of(result)
    assert result.structured_content["outcome"] == "completed"
    assert result.structured_content["error"]["code"] == "agent_failed"
    assert len(here.toy.runs) == 1


@each_era
async def test_a_run_that_is_cut(era: Era) -> None:
    """A failure has the text that was received before, and says that the agent ran."""
    here = site()
    result = await here.ask("cut", era)
    assert result.structured_content == {
        "answer": "Half of the",
        "trace_id": here.toy.runs[0].trace_id,
        "outcome": "started",
        "error": {"code": "cut", "message": "the run was cut off before its end", "retryable": False},
    }
    assert "Half of the" in text_of(result)
    assert len(here.toy.runs) == 1


async def test_an_unreachable_remote() -> None:
    """If nothing was sent, the result says that the agent did not run, and that the call may be repeated."""
    transport = FakeTransport({"/get_organization": Reply(before=ConnectError("refused at 10.0.0.1"))})
    result = await of(transport).ask("echo x")
    assert result.structured_content == {
        "answer": "",
        "trace_id": "",
        "outcome": "not_sent",
        "error": {"code": "unreachable", "message": "the agent's server cannot be reached", "retryable": True},
    }


async def test_too_many_runs() -> None:
    """A call over the limit is refused at once, and is retryable."""
    here = site(limits=ServeLimits(runs=1))
    async with here.client() as client, anyio.create_task_group() as group:
        group.start_soon(client.call_tool, MASTER, {"query": "quiet"})
        await anyio.sleep(1)
        result = await client.call_tool(MASTER, {"query": "echo x"})
        assert result.structured_content["error"]["code"] == "too_many_runs"
        assert result.structured_content["error"]["retryable"]
    assert len(here.toy.runs) == 1


ARGUMENTS: Final[list[Any]] = [
    # arguments, the name that the error has
    pytest.param({}, "query", id="no-query"),
    pytest.param({"query": 1}, "query", id="no-text"),
    pytest.param({"query": "echo x", "context": 1}, "context", id="context-no-text"),
    pytest.param({"query": "echo x", "context": "a\nb"}, "context", id="context-with-line-break"),
    pytest.param({"query": "echo x", "context": "a" * 201}, "context", id="long-context"),
    pytest.param({"query": "echo x", "shared_data": {}}, "argument", id="unknown"),
]


@pytest.mark.parametrize(("arguments", "name"), ARGUMENTS)
async def test_invalid_arguments(arguments: dict[str, Any], name: str) -> None:
    """Invalid arguments are a result that a model can correct, and nothing runs."""
    here = site()
    async with here.client() as client:
        result = await client.call_tool(MASTER, arguments)
    assert result.is_error
    assert result.structured_content["error"]["code"] == "invalid_value"
    assert name in text_of(result)
    assert here.toy.runs == []


@each_era
async def test_an_unknown_tool(era: Era) -> None:
    """An unknown tool is an error of the protocol; tools of the remote are unknown, too."""
    here = site()
    async with here.client(era) as client:
        with pytest.raises(MCPError) as raised:
            await client.call_tool("search_flights", {"query": "echo x"})
    assert raised.value.error.code == types.INVALID_PARAMS
    assert here.toy.runs == []


async def test_an_unexpected_error(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is logged, and its text is not sent."""

    class Broken(SSEOxyGent):
        def stream(self, *_: Any, **__: Any) -> Any:
            raise ValueError("a secret of the program")

    server = create_server(Broken(server_url=REMOTE, transport=ASGITransport(ToyRemote())))
    result = await Site(server, ToyRemote()).ask("x")
    assert result.structured_content["error"]["code"] == "internal_error"
    assert "secret" not in str(result)
    assert "a secret of the program" in caplog.text


# ------------------------------------------------------------------------------------------------------------ Progress


@each_era
async def test_calls_are_progress(era: Era) -> None:
    """The client sees the calls inside the remote."""
    here = site()
    await here.ask("calls", era)
    assert [text for text, _ in here.progress] == [f"{MASTER} calls search: BER to LIS", f"{MASTER} calls add_up"]


@pytest.mark.parametrize("query", ["quiet", "chatty", "calling"])
@each_era
async def test_progress_of_a_silent_run(era: Era, query: str) -> None:
    """A call is never silent for more than 15 s, though the remote sends nothing that is shown."""
    here = site()
    began = anyio.current_time()
    result = await here.ask(query, era)
    times = [began, *(at for _, at in here.progress), anyio.current_time()]
    assert text_of(result) == "late"
    assert max(after - before for before, after in pairwise(times)) < 15.001
    assert f"{MASTER} is working (30 s)" in [text for text, _ in here.progress]


async def test_progress_before_the_run_begins() -> None:
    """A remote that does not respond is no silence for the client."""
    here = of(of_one_agent(answer("late"), close(), before=Pause(40)))
    await here.ask("x")
    assert len(here.progress) == 2


@pytest.mark.parametrize("seconds", [0, 15.1, float("nan")])
def test_seconds_of_progress(seconds: float) -> None:
    """An invalid time raises an error with the name of the setting."""
    with pytest.raises(ConfigurationError, match="progress_seconds"):
        site(progress_seconds=seconds)


# -------------------------------------------------------------------------------------------------------- Cancellation


@each_era
async def test_a_call_that_is_cancelled(era: Era) -> None:
    """When the client cancels a call, the run is stopped at the remote at once."""
    here = site()
    async with here.client(era) as client:
        with anyio.move_on_after(1):
            await client.call_tool(MASTER, {"query": "quiet"})
        await anyio.sleep(0.1)
        assert here.toy.runs[0].state == "cancelled"


async def test_a_client_that_is_closed() -> None:
    """When the client closes the connection, its runs are stopped at the remote."""
    here = site()
    async with here.client() as client, anyio.create_task_group() as group:
        group.start_soon(client.call_tool, MASTER, {"query": "quiet"})
        await anyio.sleep(1)
        group.cancel_scope.cancel()
    assert here.toy.runs[0].state == "cancelled"


# ------------------------------------------------------------------------------------------------------------ Feedback

REPLIES: Final[list[Any]] = [
    # what the user does, what the agent gets
    pytest.param(types.ElicitResult(action="accept", content={"answer": "yes"}), ["yes", ""], id="answer"),
    pytest.param(types.ElicitResult(action="accept", content={"answer": ""}), [""], id="empty-answer"),
    pytest.param(types.ElicitResult(action="decline"), [""], id="decline"),
    pytest.param(types.ErrorData(code=-1, message="no"), [""], id="error"),
]


@pytest.mark.parametrize(("reply", "feedback"), REPLIES)
async def test_feedback(reply: types.ElicitResult | types.ErrorData, feedback: list[str]) -> None:
    """The user of a client is asked what the agent asks; the agent gets the answer, and then that it is all."""
    asked: list[str] = []

    async def elicit(_: Any, params: Any) -> Any:
        asked.append(params.message)
        return reply

    here = site()
    async with here.client(elicitation_callback=elicit) as client:
        result = await client.call_tool(MASTER, {"query": "ask"})
    assert asked == ['{"may I": true}']
    assert here.toy.runs[0].feedback == feedback
    assert text_of(result) == "done"


@each_era
async def test_a_client_that_cannot_ask(era: Era) -> None:
    """If the client has no way to ask its user, it gets the question as progress: others may answer the agent."""
    here = site()
    result = await here.ask("ask", era)
    assert here.progress[0][0] == f'{MASTER} asks: {{"may I": true}}'
    assert here.toy.runs[0].feedback == []
    assert text_of(result) == "done"


# ---------------------------------------------------------------------------------------------------------------- HTTP

ACCEPT: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
MODERN: Final[dict[str, Any]] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


def served(**options: Any) -> tuple[Service, ToyRemote]:
    """Return the application, and the toy that it serves."""
    toy = ToyRemote(scripts=SCRIPTS)
    agent = SSEOxyGent(server_url=REMOTE, transport=ASGITransport(toy), forward_headers=["x-tenant"])
    return create_app(agent, **options), toy


@asynccontextmanager
async def ended(running: AbstractAsyncContextManager[None]) -> AsyncGenerator[None]:
    """Run an application; then end the task with which sse-starlette waits for uvicorn's end, as long as the loop.

    Its streams end at once in a process where uvicorn has ever received a signal, as in another test.
    """
    AppStatus.should_exit = False
    async with running:
        yield
    with suppress(RuntimeError):  # there is none on trio
        for task in asyncio.all_tasks():
            if getattr(task.get_coro(), "__name__", "") == "_shutdown_watcher":
                task.cancel()


def running(app: Service) -> AbstractAsyncContextManager[None]:
    """Run the application."""
    return ended(app.running())


def modern(query: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the document and the headers of a call without a session."""
    params: dict[str, Any] = {"name": MASTER, "arguments": {"query": query}, "_meta": {**MODERN, "progressToken": 1}}
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": MASTER}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}, {**ACCEPT, **headers}


async def legacy(app: ASGIApp) -> dict[str, str]:
    """Begin a session, and return its headers."""
    params: dict[str, Any] = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "x", "version": "1"},
    }
    reply = await post(app, {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}, ACCEPT)
    headers = {**ACCEPT, "mcp-session-id": reply.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
    await post(app, {"jsonrpc": "2.0", "method": "notifications/initialized"}, headers)
    return headers


async def call(app: ASGIApp, era: Era, query: str) -> Call:
    """Return a call of the master that was not yet sent."""
    document, headers = modern(query)
    if era == "legacy":
        headers = await legacy(app)
        del document["params"]["_meta"]
    return Call(app, "POST", "/mcp", encoded(document), headers)


def encoded(document: Any) -> bytes:
    """Return a document as bytes."""
    return json.dumps(document).encode()


async def post(app: ASGIApp, document: Any, headers: dict[str, str]) -> Call:
    """Send a document, and return the complete response."""
    return await Call(app, "POST", "/mcp", encoded(document), headers)()


def result_of(reply: Call) -> Any:
    """Return the result in a response, which is JSON or a stream."""
    is_stream = reply.headers["content-type"].startswith("text/event-stream")
    document = reply.events[-1] if is_stream else reply.document
    return document["result"]


@each_era
async def test_http(era: Era) -> None:
    """The endpoint has the tools; headers in `forward_headers` reach the remote, other headers do not."""
    app, toy = served()
    async with running(app):
        asked = await call(app, era, "echo hello")
        asked.given = {**asked.given, "x-tenant": "acme", "cookie": "c=1"}
        reply = await asked()
    assert result_of(reply)["structuredContent"]["answer"] == "hello"
    assert toy.runs[0].headers["x-tenant"] == "acme"
    assert "cookie" not in toy.runs[0].headers


@each_era
async def test_another_http_server(era: Era) -> None:
    """A server may be run by the package's own HTTP application."""
    here = site()
    manager = StreamableHTTPSessionManager(here.server)
    async with ended(manager.run()):
        reply = await (await call(manager.handle_request, era, "echo hello"))()
    assert result_of(reply)["structuredContent"]["answer"] == "hello"


@each_era
async def test_a_client_that_leaves(era: Era) -> None:
    """When the client drops the connection, the run is stopped at the remote at once."""
    app, toy = served()
    async with running(app), anyio.create_task_group() as group:
        asked = await call(app, era, "quiet")
        group.start_soon(asked)
        await anyio.sleep(1)
        assert app.runs.running == 1
        asked.left.set()
        await anyio.sleep(0.1)
        assert toy.runs[0].state == "cancelled"
        assert app.runs.running == 0


async def test_an_id_that_is_used_twice() -> None:
    """A second call with the id of one that runs is refused; the first gets its result; then the id is free."""
    app, toy = served()
    async with running(app), anyio.create_task_group() as group:
        first = await call(app, "legacy", "quiet")
        group.start_soon(first)
        await anyio.sleep(1)
        second = await Call(app, "POST", "/mcp", first.body, first.given)()
        assert second.status == 409
        assert second.document["error"]["data"]["code"] == "id_in_use"
        await anyio.sleep(100)
        assert result_of(first)["structuredContent"]["answer"] == "late"
        third = await Call(app, "POST", "/mcp", first.body, first.given)()
        assert result_of(third)["structuredContent"]["answer"] == "late"
    assert len(toy.runs) == 2


async def test_an_id_of_two_sessions() -> None:
    """Sessions, and requests without one, may use the same id."""
    app, toy = served()
    async with running(app), anyio.create_task_group() as group:
        for era in (*MODES, *MODES):
            group.start_soon(await call(app, era, "quiet"))
    assert len(toy.runs) == 4


async def test_an_id_that_is_used_twice_by_a_pipe() -> None:
    """On a connection that is not HTTP, a second call with the id of one that runs is an error, and runs nothing."""
    here = site()
    to_server, incoming = anyio.create_memory_object_stream[Any](9)
    outgoing, from_server = anyio.create_memory_object_stream[Any](9)
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    calls = {"name": MASTER, "arguments": {"query": "quiet"}}
    async with to_server, incoming, outgoing, from_server, anyio.create_task_group() as group:
        group.start_soon(here.server.run, incoming, outgoing, here.server.create_initialization_options())
        for number, method, params in (
            (0, "initialize", hello),
            (1, "tools/call", calls),
            (1, "tools/call", calls),
            ("1", "tools/call", calls),
        ):
            request = types.JSONRPCRequest(jsonrpc="2.0", id=number, method=method, params=params)
            await to_server.send(SessionMessage(request))
        replies = [(await from_server.receive()).message for _ in range(4)]
        assert [type(reply).__name__ for reply in replies] == [
            "JSONRPCResponse",
            "JSONRPCError",
            "JSONRPCError",
            "JSONRPCResponse",
        ]
        assert replies[1].error.code == types.INVALID_REQUEST
        group.cancel_scope.cancel()
    assert len(here.toy.runs) == 1


BODIES: Final = [b"", b"[", b"[]", b'{"id": 1, "result": {}}', b'{"jsonrpc": "2.0", "method": "notifications/x"}']


@pytest.mark.parametrize("body", BODIES)
async def test_bodies_that_are_no_request(body: bytes) -> None:
    """What is not a request reaches the library as it was sent."""
    app, _ = served()
    async with running(app):
        reply = await Call(app, "POST", "/mcp", body, await legacy(app))()
    assert reply.status in (202, 400)


@each_era
async def test_stopping(era: Era) -> None:
    """During the shutdown a run is stopped, and its client gets a result that says so."""
    app, toy = served()
    async with running(app), anyio.create_task_group() as group:
        asked = await call(app, era, "quiet")
        group.start_soon(asked)
        await anyio.sleep(1)
        await app.stop(2.0)
        await asked.left.wait()
        assert result_of(asked)["structuredContent"]["error"]["code"] == "stopping"
    assert toy.runs[0].state == "cancelled"


REFUSED: Final[list[Any]] = [
    # options, headers, the body, the status, the code
    pytest.param({}, {"origin": "https://evil.test"}, b"{}", 403, "origin_not_allowed", id="origin"),
    pytest.param({"hosts": ["localhost"]}, {}, b"{}", 403, "host_not_allowed", id="host"),
    pytest.param({"token": "t0ken"}, {}, b"{}", 401, "invalid_token", id="token"),
    pytest.param({}, {}, b"{" + b" " * 100_000, 413, "body_too_large", id="body"),
]


@pytest.mark.parametrize(("options", "headers", "body", "status", "code"), REFUSED)
async def test_refused_requests(
    options: dict[str, Any], headers: dict[str, str], body: bytes, status: int, code: str
) -> None:
    """A refused request gets an error of JSON-RPC, and nothing runs."""
    app, toy = served(limits=ServeLimits(body_bytes=90_000), **options)
    async with running(app):
        reply = await Call(app, "POST", "/mcp", body, {**ACCEPT, **headers})()
    assert reply.status == status
    assert reply.document["error"]["data"]["code"] == code
    assert toy.runs == []


async def test_a_body_that_does_not_come() -> None:
    """A client that sends no body is refused after a time-out."""
    app, _ = served()
    began = anyio.current_time()
    async with running(app):
        reply = await Call(app, "POST", "/mcp", given=ACCEPT, is_body_slow=True)()
    assert reply.status == 408
    assert anyio.current_time() - began == pytest.approx(30.0)


async def test_a_service_that_is_not_running(caplog: pytest.LogCaptureFixture) -> None:
    """Outside of `running()` a request is an error, and the log says what to enter."""
    app, _ = served()
    document, headers = modern("echo x")
    reply = await post(app, document, headers)
    assert reply.status == 500
    assert "app.running()" in caplog.text


async def test_running_again() -> None:
    """A service can run again."""
    app, _ = served()
    for query in ("echo a", "echo b"):
        async with running(app):
            reply = await (await call(app, "modern", query))()
        assert result_of(reply)["structuredContent"]["answer"] == query[-1]


async def test_two_protocols_with_the_path() -> None:
    """The path cannot be served twice."""
    agent = SSEOxyGent(server_url=REMOTE, transport=ASGITransport(ToyRemote()))
    with pytest.raises(ConfigurationError, match="/mcp"):
        Service(agent, [MCPAdapter(), MCPAdapter()])


async def test_cors() -> None:
    """A page may read the id of its session."""
    app, _ = served(cors=["https://app.test"])
    reply = await request(app, "GET", "/healthz", origin="https://app.test")
    assert "mcp-session-id" in reply.headers["access-control-expose-headers"]
