"""The code blocks of the OxyGent `SSEOxyGent` documentation, and a program in which they run as they stand.

Rule 1: a block's own lines are never changed. What it uses and never imports or defines is in `Program.names`, as by an
    import header before it.
Rule 2: `from oxygent...` finds modules that are there while a block runs, and that hold our classes.
Rule 3: the agents of a block reach what the test has put at their URLs; everything else is as they made it.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import hashlib
import inspect
import io
import json
import logging
import symtable
import sys
import textwrap
import time
from contextlib import asynccontextmanager, contextmanager, redirect_stdout
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from oxygent_client import AgentRegistry, OxyRequest, OxyResponse, OxyState, SSEOxyGent, errors
from tests.conftest import FIXTURES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

    from oxygent_client import HTTPRequest, HTTPResponse, Transport

__all__ = ["BLOCKS", "HOME", "INDEX", "LOCAL", "Internet", "Program", "digest", "framework", "needs", "pasted"]

HOME: Final = FIXTURES / "documentation"
INDEX: Final[list[dict[str, Any]]] = json.loads((HOME / "blocks.json").read_text(encoding="utf-8"))
"""Of each block its name, its document (the short or the long one), the line where it begins, and its digest."""
BLOCKS: Final[dict[str, str]] = {
    each["name"]: (HOME / f"{each['name']}.txt").read_bytes().decode("utf-8") for each in INDEX
}
"""The blocks, word for word."""

LOCAL: Final = ["user", "local_agent"]
"""The stack above each agent of a block."""


def digest(block: str) -> str:
    """What tells whether a block is as it was copied."""
    return hashlib.sha256(BLOCKS[block].encode()).hexdigest()


def pasted(head: str, *blocks: str, depth: int = 1) -> str:
    """Blocks as the body of what `head` begins."""
    return head + "\n" + "\n".join(textwrap.indent(BLOCKS[block], "    " * depth) for block in blocks)


def needs(block: str) -> set[str]:
    """The names that a block uses and never imports or defines.

    Raises:
        SyntaxError: the block is no Python on its own.
    """
    ast.parse(BLOCKS[block])
    compile(BLOCKS[block], block, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    # As the body of a function, its own names are local; what is global there is what it lacks.
    waiting = [symtable.symtable(pasted("async def block():", block) + "\n    ...", block, "exec")]
    found: set[str] = set()
    while waiting:
        table = waiting.pop()
        waiting += table.get_children()
        if table.get_type() != "module":
            found |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    return found - {*dir(builtins), "__class__"}  # the latter is what `super()` stands on


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
            "__name__": "documentation",
            "OxyRequest": OxyRequest,
            "OxyResponse": OxyResponse,
            "OxyState": OxyState,
            "SSEOxyGent": self.agent_class,
            "aiohttp": errors,  # as by `from oxygent_client import errors as aiohttp`
            "asyncio": asyncio,
            "json": json,
            "logger": logging.getLogger("documentation"),
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
            result = eval(code, self.names)
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

    async def execute(self, agent: SSEOxyGent, query: str = "hi") -> OxyResponse:
        """What comes of it when the local agent calls this one."""
        with self.printing():
            return await self._registry(agent).call(self.request(), callee=agent.name, arguments={"query": query})

    async def call(self, request: OxyRequest, /, **changes: Any) -> OxyResponse:
        """As `Host.call`: among the agents that were made."""
        return await self._registry(*self.agents).call(request, **changes)

    def _registry(self, *agents: SSEOxyGent) -> AgentRegistry:
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
