"""The examples of the documentation's fifteen use cases, and its own code blocks, against a real server.

Rule 1: an example is told of the server by `OXYGENT_URL` alone; that of the cluster gets it under three names. What it
    prints is what its docstring says, in which the names of the toy remote's agents and tools stand for those of the
    server's.
Rule 2: a block of the documentation runs as it stands; the URLs in it lead to the server.
"""

from __future__ import annotations

import io
import re
import runpy
from contextlib import asynccontextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from oxygent_client import HTTPXTransport
from tests.conftest import ROOT
from tests.documentation import BLOCKS, LOCAL, Program

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from oxygent_client import HTTPRequest, HTTPResponse

    from .harness import RemoteServer

pytestmark = pytest.mark.anyio

ALL: Final[dict[str, Any]] = runpy.run_path(str(ROOT / "docs" / "examples" / "run_all.py"))
EXAMPLES: Final[dict[str, Path]] = {path.stem: path for path in ALL["EXAMPLES"]}
NAMES: Final = {
    # what the toy remote says: what the server says
    "trip_planner": "master",
    "search_flights": "add",
    "search_hotels": "multiply",
    "add_up": "shout",
    "HELLO": "BOTH",
}


@pytest.mark.parametrize("example", EXAMPLES)
async def test_each_prints_what_it_says(newest: RemoteServer, example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example that is given a real server does with it what it does with the toy."""
    hosts = ("127.0.0.1", "localhost", "LOCALHOST") if example == "cloud" else ("127.0.0.1",)
    monkeypatch.setenv("OXYGENT_URL", ",".join(newest.url.replace("127.0.0.1", host) for host in hosts))
    monkeypatch.setenv("SEARCH_TOKEN", "t0p-secret")
    program = runpy.run_path(str(EXAMPLES[example]))
    with redirect_stdout(io.StringIO()) as printed:
        await program["main"]()
    expected = re.sub("|".join(NAMES), lambda found: NAMES[found[0]], ALL["expected"](EXAMPLES[example]))
    assert expected == printed.getvalue()


@attrs.define
class Leading:
    """A transport on which every URL leads to one server."""

    url: str
    inner: HTTPXTransport

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
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
    "custom_events": 1,
    "resilient_long": 1,
    "monitored": 1,
}


@pytest.mark.parametrize("block", MAKING)
async def test_the_agents_of_the_documentation(newest: RemoteServer, block: str) -> None:
    """Each agent that a block makes is answered by a real server, and shows what its tools do, in the right place."""
    server = Leading(newest.url, HTTPXTransport())
    made = Program(dict.fromkeys(re.findall(r'"(https?://[^"]+)"', BLOCKS[block]), server))
    try:
        with suppress(ZeroDivisionError):  # the documentation's own, in the last line of `monitored`
            await made.run(block)
        assert MAKING[block] == len(made.agents)
        for agent in made.agents:
            made.heard.clear()
            assert "5 20 BOTH" == (await made.execute(agent, "tools")).output
            assert ["tool_call", "observation"] == sorted({*made.kinds()}, reverse=True)
            stack = LOCAL if agent.is_share_call_stack else [*LOCAL, agent.name]
            assert [stack] * 6 == [each["content"]["call_stack"][: len(stack)] for each in made.heard]
    finally:
        await server.aclose()
    if block == "progress_monitoring":
        tools = [line for line in made.printed if "Executing" in line]
        assert [f"[PROGRESS] Executing tool: {name}" for name in ("add", "multiply", "shout")] == tools
