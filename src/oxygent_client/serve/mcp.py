"""Serve a remote agent by MCP, the Model Context Protocol: one tool for each agent (extra `[mcp]`).

Rule 1: a failed run is a result with `isError`, never an error of the protocol, after which a client may call again.
Rule 2: a client that asks for progress gets it at least every 15 s, also before the first event: many clients give a
    silent call up after 60 s.
Rule 3: a client that cancels a call, or leaves, stops the run at the remote. A stream that broke cannot be resumed.
Rule 4: two calls of a session never have the same id at the same time; the second is an error of the protocol.
Rule 5: of an agent's events the client gets its calls, as progress; thoughts stay here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from typing import Any, Final, TypeAlias, cast

import anyio
import attrs
import mcp_types as types
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from sse_starlette.sse import AppStatus

from oxygent_client import AnyEvent, Run, SSEOxyGent, ToolCall, __version__
from oxygent_client.errors import ConfigurationError
from oxygent_client.serve import (
    INTERNAL,
    ASGIApp,
    Failure,
    Mount,
    Outbound,
    Refused,
    Runs,
    ServeLimits,
    Service,
    call_of,
    not_running,
    text_of,
)
from oxygent_client.serve._mcp.documents import (
    FEEDBACK_SCHEMA,
    INPUT_SCHEMA,
    answer_result,
    error_document,
    failure_result,
    line,
    named_tools,
    question_of,
    tool,
)

__all__ = ["MCPAdapter", "create_app", "create_server", "let_calls_end", "serve_stdio"]

PROGRESS_SECONDS: Final = 15.0
"""The longest time without progress."""
PATH: Final = "/mcp"
_LEFT: Final = "oxygent_client.left"
"""The key in the scope of a request: an event, set when the response has ended."""

_IN_USE: Final = "a request with this id is running in this session"

_Calls: TypeAlias = set[tuple[str, str]]
"""The calls that are running: session and id. All HTTP sessions share one; any other connection has its own."""
Context: TypeAlias = ServerRequestContext[_Calls, Any]


def _check_seconds(_: object, __: object, value: float) -> None:
    if not 0 < value <= PROGRESS_SECONDS:
        raise ConfigurationError(f"progress_seconds must be more than 0 and at most {PROGRESS_SECONDS:g}")


@attrs.define(eq=False)
class MCPAdapter:
    """MCP over streamable HTTP, for one `Service`."""

    master_only: bool = False
    """Whether the master is the only tool."""
    progress_seconds: float = attrs.field(default=PROGRESS_SECONDS, validator=_check_seconds)
    """The longest time without progress."""
    _endpoint: _Endpoint | None = attrs.field(default=None, init=False)

    def routes(self, runs: Runs) -> Sequence[Mount]:
        """Return the endpoint of the protocol."""
        self._endpoint = _Endpoint(_server(runs, self.master_only, self.progress_seconds), runs.limits)
        return (Mount(PATH, self._endpoint),)

    def error_document(self, failure: Failure) -> Any:
        """Return an error of JSON-RPC."""
        return error_document(failure)

    def running(self) -> AbstractAsyncContextManager[None]:
        """Return a block that keeps the sessions of clients."""
        assert self._endpoint is not None  # a service asks for the routes first
        return self._endpoint.running()


def create_app(
    agent: SSEOxyGent,
    *,
    master_only: bool = False,
    progress_seconds: float = PROGRESS_SECONDS,
    token: str = "",
    cors: Sequence[str] = (),
    hosts: Sequence[str] | None = None,
    limits: ServeLimits | None = None,
    whole_answers: bool = False,
) -> Service:
    """Return an ASGI application that serves the agent by MCP, over streamable HTTP at `/mcp`.

    Args:
        agent: the agent.
        master_only: whether the master is the only tool; without it, each agent of the organization is a tool.
        progress_seconds: the longest time without progress.
        token: the bearer token that clients must send; empty for none.
        cors: the origins of pages whose requests are accepted; `*` accepts all.
        hosts: the host names under which the application may be called; None accepts all.
        limits: the limits; None for the default ones.
        whole_answers: whether no text of a failed run is sent: `sanitize` does not find a word that is cut.

    Raises:
        ConfigurationError: an argument is invalid.
    """
    adapter = MCPAdapter(master_only, progress_seconds)
    return Service(agent, [adapter], token=token, cors=cors, hosts=hosts, limits=limits, whole_answers=whole_answers)


def create_server(
    agent: SSEOxyGent,
    *,
    master_only: bool = False,
    progress_seconds: float = PROGRESS_SECONDS,
    limits: ServeLimits | None = None,
    whole_answers: bool = False,
) -> Server[Any]:
    """Return a server of the package `mcp`, to be run over any transport of that package.

    Args:
        agent: the agent; its connections are kept while the server runs.
        master_only: whether the master is the only tool; without it, each agent of the organization is a tool.
        progress_seconds: the longest time without progress.
        limits: the limits; None for the default ones. Those of bodies are for `create_app` only.
        whole_answers: as for `create_app`.

    Raises:
        ConfigurationError: an argument is invalid.
    """
    adapter = MCPAdapter(master_only, progress_seconds)
    runs = Runs(agent, limits or ServeLimits(), whole_answers=whole_answers)
    return _server(runs, adapter.master_only, adapter.progress_seconds, runs.open)


def let_calls_end() -> None:
    """Let calls end in the time that `serve_forever` gives them after a signal, for the whole process.

    Else the library ends its streams of events at once when uvicorn receives a signal.
    """
    AppStatus.enable_automatic_graceful_drain = False


async def serve_stdio(server: Server[Any]) -> None:
    """Serve by standard input and standard output until the input ends; what else is printed goes to standard error."""
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


def _server(
    runs: Runs,
    master_only: bool,
    progress_seconds: float,
    opened: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
) -> Server[Any]:
    @asynccontextmanager
    async def lifespan(_: Server[Any]) -> AsyncGenerator[_Calls]:
        async with opened():
            yield set()

    def input_schema(_: str) -> dict[str, Any]:
        return INPUT_SCHEMA

    tools = _Tools(runs, master_only, progress_seconds)
    return Server(
        "oxygent-client",
        version=__version__,
        lifespan=lifespan,
        get_tool_input_schema=input_schema,
        on_list_tools=tools.list_tools,
        on_call_tool=tools.call_tool,
    )


class _Endpoint:
    """The ASGI application of streamable HTTP."""

    def __init__(self, server: Server[Any], limits: ServeLimits) -> None:
        self._server = server
        self._limits = limits
        self._app: ASGIApp | None = None
        self._requests: _Calls = set()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        manager = StreamableHTTPSessionManager(self._server, max_request_body_size=self._limits.body_bytes)
        async with manager.run():
            self._app = manager.handle_request
            try:
                yield
            finally:
                self._app = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._app is None:
            raise not_running()
        left = anyio.Event()
        alone: AbstractContextManager[None] = nullcontext()
        session = dict(scope["headers"]).get(b"mcp-session-id", b"").decode("latin-1")
        if (
            session and scope["method"] == "POST"
        ):  # for a second request, the library would drop the stream of the first
            number, receive = await _read_number(receive)
            if number:
                alone = _alone(self._requests, (session, number), Refused(409, "id_in_use", _IN_USE))
        try:
            with alone:
                await self._app({**scope, _LEFT: left}, receive, send)
        finally:  # the library goes on with the call, in a task of its session
            left.set()


async def _read_number(receive: Any) -> tuple[str, Any]:
    """Read a body; return the id of the request in it, empty if it is none, and a `receive` that has the body again."""
    body, message = b"", {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    whole = [{**message, "body": body}]

    async def again() -> Any:
        return whole.pop() if whole else await receive()

    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    fields = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
    return str(fields["id"]) if {"method", "id"} <= fields.keys() else "", again


@contextmanager
def _alone(calls: _Calls, key: tuple[str, str], refusal: Exception) -> Generator[None]:
    """Keep a call in the set of those that run while the block lasts; raise `refusal` if it is there already."""
    if key in calls:
        raise refusal
    calls.add(key)
    try:
        yield
    finally:
        calls.remove(key)


@attrs.frozen
class _Tools:
    """The handlers."""

    runs: Runs
    master_only: bool
    progress_seconds: float

    async def list_tools(self, _: Context, __: Any) -> types.ListToolsResult:
        try:
            found = await self._tools()
        except Exception as error:
            raise MCPError(types.INTERNAL_ERROR, self.runs.failure_of(error).message) from error
        return types.ListToolsResult(tools=[tool(name, agent) for name, agent in found.items()])

    async def call_tool(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        try:
            agent = (await self._tools()).get(params.name)
        except Exception as error:  # noqa: BLE001  (the result)
            return failure_result(self.runs.failure_of(error))
        if agent is None:
            raise MCPError(types.INVALID_PARAMS, "there is no such tool")
        progress = _Progress(context, self.progress_seconds, line(agent.name))
        call = _Call(self.runs, context, progress, agent.name, params.arguments or {})
        # Under an HTTP application that is not ours, only the package knows whether the client has left.
        left = None if context.request is None else context.request.scope.get(_LEFT)
        # A request without a session, of a modern client, is a session of its own.
        request = context.request
        session = "" if request is None else request.headers.get("mcp-session-id", f"of {id(context)}")
        key = session, str(context.request_id)
        with _alone(context.lifespan_context, key, MCPError(types.INVALID_REQUEST, _IN_USE)):
            async with anyio.create_task_group() as group:
                group.start_soon(progress.beat)
                if left is not None:
                    group.start_soon(_cancel_when, left, group.cancel_scope)
                await call.run()
                group.cancel_scope.cancel()
        return call.result

    async def _tools(self) -> dict[str, Any]:
        agents = await self.runs.agents()
        return named_tools(agents[:1] if self.master_only else agents)


async def _cancel_when(left: anyio.Event, scope: anyio.CancelScope) -> None:
    await left.wait()
    scope.cancel()


class _Progress:
    """The progress of one call."""

    def __init__(self, context: Context, seconds: float, name: str) -> None:
        self._context = context
        self._seconds = seconds
        self._name = name
        self._count = 0
        self._began = self._sent_at = anyio.current_time()

    async def send(self, text: str) -> None:
        self._count += 1
        self._sent_at = anyio.current_time()
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):  # the client has left
            await self._context.session.report_progress(self._count, message=text)

    async def beat(self) -> None:
        while True:  # until the end of the call
            await anyio.sleep_until(self._sent_at + self._seconds)
            if anyio.current_time() >= self._sent_at + self._seconds:
                await self.send(f"{self._name} is working ({anyio.current_time() - self._began:.0f} s)")


@attrs.define(eq=False)
class _Call:
    """One call of a tool, and its result."""

    runs: Runs
    context: Context
    progress: _Progress
    agent: str
    arguments: dict[str, Any]
    result: types.CallToolResult = attrs.field(factory=lambda: failure_result(INTERNAL), init=False)
    """The result; until the end of the run that for a client which has left."""
    _run: Run | None = attrs.field(default=None, init=False)

    async def run(self) -> None:
        try:
            question = question_of(self.arguments)
            request = self.context.request
            async with self.runs.stream(
                question.query,
                agent=self.agent,
                from_trace_id=question.context,
                headers=None if request is None else request.headers,
            ) as run:
                self._run, outbound = run, self.runs.outbound(run)
                async for event in run:
                    await self._report(run, event, outbound)
                self.result = answer_result(outbound.output(run.response.output), run.remote_trace_id)
        except Exception as error:  # noqa: BLE001  (the result)
            self.result = failure_result(self.runs.failure_of(error), *self._received)

    @property
    def _received(self) -> tuple[str, str]:
        """The text of the answer so far, and the trace id."""
        run = self._run
        return ("", "") if run is None else (self.runs.received(run), run.remote_trace_id)

    async def _report(self, run: Run, event: AnyEvent, outbound: Outbound) -> None:
        if isinstance(event, ToolCall):
            if call := call_of(outbound.event(event)):
                await self.progress.send(line(outbound.value(call)))
        elif event.type == "feedback":
            question = line(outbound.value(text_of(outbound.event(event).content)))
            await self.progress.send(f"{line(self.agent)} asks: {question}")
            if self._can_ask:
                await self._ask(run, question)

    @property
    def _can_ask(self) -> bool:
        session = self.context.session
        capabilities = session.client_capabilities
        return session.can_send_request and capabilities is not None and capabilities.elicitation is not None

    async def _ask(self, run: Run, question: str) -> None:
        """Ask the user of the client, and send the answer to the agent that waits for it, and then that it is all."""
        answer = ""
        with anyio.move_on_after(self.runs.limits.run_seconds), suppress(MCPError):
            reply = await self.context.session.elicit_form(question, FEEDBACK_SCHEMA, self.context.request_id)
            answer = str((reply.content or {}).get("answer") or "")
        await self.runs.answer(run, answer)
