"""Runs every code block of the OxyGent `SSEOxyGent` documentation: `python docs/examples/documentation/harness.py`.

The blocks are the files of `short/` and `long/`, the two documents. What ends in `.txt` is no Python on its own.

Rule 1: a block's own lines are never changed. What it uses and never imports or defines is in `Program.names`, as by an
    import header before it. The two that are methods stand in a class.
Rule 2: `from oxygent...` finds modules that are there while a block runs, and that hold our classes.
Rule 3: the agents of a block reach what `Program.sites` has at their URLs; everything else is as they made it.
Rule 4: a block that cannot run as it stands is in EXCEPTIONS, and is tried all the same: it must fail as it says there.
Rule 5: here a block runs, and the agents that come of it are answered. What it does besides is for the tests.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import json
import logging
import re
import sys
import textwrap
import time
from contextlib import asynccontextmanager, contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Self, cast

import anyio
import attrs
import httpx

from oxygent_client import AgentRegistry, OxyRequest, OxyResponse, OxyState, RemoteAgent, SSEOxyGent, errors
from oxygent_client.testing import ToyRemote, answer, close, tool_call
from oxygent_client.testing.script import Call, Say, Script
from oxygent_client.transports.asgi import ASGITransport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

    from oxygent_client import HTTPRequest, HTTPResponse, Transport

HERE: Final = Path(__file__).parent
FILES: Final = sorted(
    path
    for path in HERE.rglob("*")
    if path.is_file() and path != Path(__file__) and not any(part[0] in "._" for part in path.relative_to(HERE).parts)
)
"""Every file below this one's directory: a block is what lies there."""
BLOCKS: Final[dict[str, str]] = {path.stem: path.read_bytes().decode("utf-8") for path in FILES}
"""The blocks, word for word."""

EXCEPTIONS: Final[dict[str, tuple[type[Exception], str]]] = {
    # block: (what it raises as it stands, why)
    "class_line": (SyntaxError, "a line without a body is no Python"),
    "filtering": (SyntaxError, "`continue` without its loop is no Python"),
    "flow": (SyntaxError, "a drawing"),
    "forwarding": (SyntaxError, "`continue` without its loop is no Python"),
    "load_balancing": (TypeError, "`LoadBalancedSSECluster()` lacks its argument"),
    "monitored": (ZeroDivisionError, "the last line divides by the number of calls before there was one"),
    "practice_failures": (SyntaxError, "`except` without a body is no Python"),
}
METHODS: Final = ("init", "execute")
"""Blocks that are the methods of one class."""
CLASS: Final = "class Documented(RemoteAgent):\n    is_share_call_stack = True"
"""How that begins."""
ARGUMENTS: Final[dict[str, dict[str, Any]]] = {"authenticated": {"api_key": "k-12345678"}}
"""What the class of a block takes, besides the URL."""

NAME: Final = "documentation"
"""The module that the blocks are."""
REMOTE: Final = "https://remote.test"
LOCAL: Final = ["user", "local_agent"]
"""The stack above each agent of a block."""


STEPS: Final = (
    Say({"type": "progress", "content": {"stage": "processing", "progress": 45}}),
    Call("search_flights", query="BER to LIS", output="TP 533"),
)
"""Messages as the documentation has them: objects with a type."""


def toy(*steps: Any, output: Any = "42") -> ToyRemote:
    """A remote that does this, whatever it is asked."""
    return ToyRemote(pace=0, scripts={}, default=Script(steps or STEPS, output=output))


def pasted(head: str, *blocks: str, depth: int = 1) -> str:
    """Blocks as the body of what `head` begins."""
    return head + "\n" + "\n".join(textwrap.indent(BLOCKS[block], "    " * depth) for block in blocks)


@contextmanager
def framework(agent: type[SSEOxyGent]) -> Generator[None]:
    """While the block lasts, the modules that the documentation imports from are there, with `agent` in them."""
    contents: dict[str, dict[str, Any]] = {
        "oxygent": {},
        "oxygent.config": {"Config": type("Config", (), {})},
        "oxygent.oxy": {},
        "oxygent.oxy.agents": {"SSEOxyGent": agent},
        "oxygent.oxy.agents.sse_oxy_agent": {"SSEOxyGent": agent},
        "oxygent.schemas": {"OxyRequest": OxyRequest, "OxyResponse": OxyResponse},
    }
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "oxygent"}
    for name, held in contents.items():
        sys.modules[name] = module = ModuleType(name)
        vars(module).update(held)
    try:
        yield
    finally:
        for name in contents:
            del sys.modules[name]
        sys.modules.update(before)


class Internet:
    """A transport on which a test has put what is at each URL; elsewhere nobody listens."""

    def __init__(self, sites: Mapping[str, Transport]) -> None:
        self._sites = sites
        self.requests: list[HTTPRequest] = []

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        self.requests.append(request)
        site = self._sites.get(request.base_url.rstrip("/"))
        if site is None:
            raise errors.ConnectError("nobody listens there")
        async with site.exchange(request) as response:
            yield response

    async def aclose(self) -> None:
        """As `Transport.aclose`."""


@attrs.define
class Program:
    """A program with the documentation's classes in it: it hosts the requests, and keeps what it shows."""

    sites: Mapping[str, Transport]
    base: type[SSEOxyGent] = SSEOxyGent
    names: dict[str, Any] = attrs.field(factory=dict[str, Any])
    """What a block finds, and what it leaves."""
    agents: list[SSEOxyGent] = attrs.field(factory=list[SSEOxyGent])
    """Those that were made, in their order."""
    heard: list[Any] = attrs.field(factory=list[Any])
    """The messages that its users see."""
    internet: Internet = attrs.field(init=False)
    agent_class: type[SSEOxyGent] = attrs.field(init=False)
    _printed: io.StringIO = attrs.field(factory=io.StringIO, init=False)

    def __attrs_post_init__(self) -> None:
        program, self.internet = self, Internet(self.sites)

        class Placed(self.base):  # type: ignore[name-defined, misc]  # the base is what varies
            """The agent, where URLs lead to the sites of the program."""

            def __init__(self, **options: Any) -> None:
                placed: dict[str, Any] = {"transport": program.internet, **options}
                super().__init__(**placed)
                program.agents.append(self)

        self.agent_class = Placed
        self.names = {**self.header(), **self.names}

    def header(self) -> dict[str, Any]:
        """The import header: what the documentation's blocks use and never import or define."""
        return {
            "__name__": NAME,
            "OxyRequest": OxyRequest,
            "OxyResponse": OxyResponse,
            "OxyState": OxyState,
            "SSEOxyGent": self.agent_class,
            "aiohttp": errors,  # as by `from oxygent_client import errors as aiohttp`
            "asyncio": asyncio,
            "json": json,
            "logger": logging.getLogger(NAME),
            "oxy_request": self.request(),
            "time": time,
        }

    @property
    def printed(self) -> list[str]:
        """The lines that were printed."""
        return self._printed.getvalue().splitlines()

    @contextmanager
    def printing(self) -> Generator[None]:
        """While the block lasts, what is printed is kept."""
        with redirect_stdout(self._printed):
            yield

    async def run(self, block: str, *, source: str | ast.Module | None = None) -> dict[str, Any]:
        """Run a block; what comes back are the program's names after it."""
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(source or BLOCKS[block], f"{block}.txt", "exec", flags, dont_inherit=True)
        with framework(self.agent_class), self.printing():
            result = eval(code, self.names)  # noqa: S307  (a block, word for word)
            if code.co_flags & inspect.CO_COROUTINE:
                await result
        return self.names

    def request(self, query: str = "hi", **fields: Any) -> OxyRequest:
        """A request of a local agent of the program."""
        return OxyRequest(
            mas=self,
            arguments={"query": query},
            callee=LOCAL[-1],
            callee_category="agent",
            call_stack=[*LOCAL],
            node_id="local_node",
            node_id_stack=["", "local_node"],
            **fields,
        )

    async def execute(self, agent: RemoteAgent, query: str = "hi") -> OxyResponse:
        """What comes of it when the local agent calls this one."""
        with self.printing():
            return await self._registry(agent).call(self.request(), callee=agent.name, arguments={"query": query})

    async def call(self, request: OxyRequest, /, **changes: Any) -> OxyResponse:
        """As `Host.call`: among the agents that were made."""
        return await self._registry(*self.agents).call(request, **changes)

    def _registry(self, *agents: RemoteAgent) -> AgentRegistry:
        return AgentRegistry(*agents, on_message=self._hear)

    async def _hear(self, message: Any, *, request: OxyRequest, **_: Any) -> None:
        if not isinstance(message, dict) or not is_own(cast("dict[str, Any]", message), request):
            self.heard.append(message)

    async def send_message(self, request: OxyRequest, message: Any, /, **_: Any) -> None:
        """As `Host.send_message`."""
        self.heard.append(message)

    def kinds(self) -> list[str]:
        """The types of the messages that its users saw."""
        return [str(cast("dict[str, Any]", message)["type"]) for message in self.heard]


def is_own(message: dict[str, Any], request: OxyRequest) -> bool:
    """Whether it is the registry's word on the call itself, and so none of the remote's."""
    return message.get("type") in {"tool_call", "observation"} and message["content"].get("node_id") == request.node_id


# ---------------------------------------------------------------------------------------- What a block lacks of its own


class Lines:
    """The lines of a body, as aiohttp gives them; none has to be waited for."""

    def __init__(self, stream: bytes) -> None:
        self._lines = iter(stream.splitlines(keepends=True))

    def __aiter__(self) -> Lines:
        return self

    async def __anext__(self) -> bytes:
        for line in self._lines:
            return line
        raise StopAsyncIteration


class Session:
    """What the blocks use of `aiohttp.ClientSession`: whatever is posted is answered by one stream."""

    def __init__(self, stream: bytes) -> None:
        self.content = Lines(stream)
        self.posted: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.released = 0

    def post(self, url: str, *, data: str, headers: dict[str, str]) -> Session:
        """The response: again this."""
        self.posted.append((url, json.loads(data), headers))
        return self

    async def release(self) -> None:
        """Counted."""
        self.released += 1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass


def build_url(base: str, path: str) -> str:
    """As the framework's function of this name."""
    return base + path


def client_session(**_: Any) -> Session:
    """As `aiohttp.ClientSession`, with a server that answers each request alike."""
    return Session(tool_call("search_flights") + answer("42") + close())


AIOHTTP: Final = SimpleNamespace(ClientSession=client_session, ClientTimeout=dict, ClientError=errors.OxyError)


def lacking(block: str, program: Program, remote: ToyRemote) -> dict[str, Any]:
    """What a block needs besides the header: what is the reader's, and what would reach for the network."""
    match block:
        case "error_recovery":
            return {"aiohttp": AIOHTTP, "url": REMOTE, "kwargs": {"data": "{}", "headers": {}}}
        case "event_processing":
            return {"self": program.agent_class(server_url=REMOTE), "resp": client_session()}
        case "init" | "execute":
            client = partial(httpx.AsyncClient, transport=httpx.ASGITransport(remote))
            over_asgi = SimpleNamespace(AsyncClient=client)
            return {"RemoteAgent": RemoteAgent, "build_url": build_url, "aiohttp": AIOHTTP, "httpx": over_asgi}
        case "init_call" | "practice_init":
            return {"sse_agent": program.agent_class(name="sse_agent", server_url=REMOTE)}
        case _:
            return {}


# --------------------------------------------------------------------------------------------------------- Running them


async def show(block: str) -> str:
    """Run a block with the toy remote at its URLs; what comes back says what came of it.

    Raises:
        Exception: what the block raises, unless that is its exception; an agent of it was not answered.
    """
    remote = toy()
    urls = [REMOTE, *re.findall(r'"(https?://[^"]+)"', BLOCKS[block])]
    program = Program(dict.fromkeys(urls, ASGITransport(remote)))
    program.names |= lacking(block, program, remote)
    if block in EXCEPTIONS:
        expected, reason = EXCEPTIONS[block]
        try:
            await program.run(block)
        except expected:
            return f"cannot run as it stands: {reason} ({expected.__name__})"
        raise ValueError(f"it is an exception, and runs: {reason}")
    names = await program.run(block, source=pasted(CLASS, *METHODS) if block in METHODS else None)
    agents: list[RemoteAgent] = [*program.agents]
    for cls in [each for each in names.values() if isinstance(each, type) and each.__module__ == NAME]:
        if issubclass(cls, RemoteAgent) and cls not in map(type, agents):
            agents.append(cls(server_url=REMOTE, **ARGUMENTS.get(block, {})))
    for agent in agents:
        await agent.init()
        response = await program.execute(agent)
        if response.state is not OxyState.COMPLETED:
            raise ValueError(f"{agent.name} was not answered: {response.output}")
    if not ast.parse(BLOCKS[block]).body:
        return "ran: comments, and no more"
    return "ran" + "; answered: " * bool(agents) + ", ".join(agent.name for agent in agents)


def main() -> int:
    """How many failed; each block is named, with what came of it."""
    failed: list[str] = []
    for block in BLOCKS:
        try:
            said = anyio.run(show, block)
        except Exception as exc:  # noqa: BLE001  (the others are run all the same)
            said = f"FAILED: {type(exc).__name__}: {exc}"
            failed.append(block)
        print(f"{block}: {said}")
    excepted = sum(block in EXCEPTIONS and block not in failed for block in BLOCKS)
    print(f"{len(BLOCKS)} blocks: {len(BLOCKS) - excepted - len(failed)} ran, {excepted} cannot", end="")
    print(", FAILED:" * bool(failed), *failed)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
