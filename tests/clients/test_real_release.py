"""One client of each protocol, and Google ADK, against one real server, by one service: CI runs these.

Rule: how often an agent ran is counted at the remote, never by what the client says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from oxygent_client import SSEOxyGent
from oxygent_client.serve import Service
from oxygent_client.serve.a2a import A2AAdapter
from oxygent_client.serve.agui import AGUIAdapter
from oxygent_client.serve.mcp import MCPAdapter
from oxygent_client.serve.openai import OpenAIAdapter
from oxygent_client.testing import serve
from tests.clients.remotes import CUT, Remote, cut_server, drive
from tests.conftest import scaled
from tests.interop.environments import node_home_with, python_with

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE: Final = Path(__file__).parent
MASTER: Final = "master"
MCP: Final = {"way": "http-modern", "tool": MASTER}
CALLS: Final = scaled(200)


@attrs.frozen
class Site:
    """A service of a real server, and what that knows of its runs."""

    url: str
    remote: Remote

    def command(self, protocol: str) -> list[str]:
        """Return the command line of a client of a protocol."""
        if protocol == "agui":
            return ["node", str(HERE / "drive_agui.mjs"), str(node_home_with("ag-ui")), f"{self.url}/agui"]
        if protocol == "openai":
            python = python_with("openai-clients")
            return [str(python), "-I", str(HERE / "drive_openai.py"), f"{self.url}/v1", MASTER]
        if protocol == "mcp":
            return [str(python_with("mcp-2")), "-I", str(HERE / "drive_mcp.py"), "2", f"{self.url}/mcp", "[]"]
        return [str(python_with("a2a")), "-I", str(HERE / "drive_a2a.py"), self.url]

    def ask(self, protocol: str, *queries: str) -> list[Any]:
        """Return what a client of a protocol makes of queries."""
        done = drive(self.command(protocol), *(question(protocol, query) for query in queries))
        return [each["results"][0] for each in done] if protocol == "agui" else done


def user(text: str) -> dict[str, str]:
    """Return a message of the user."""
    return {"role": "user", "content": text}


def question(protocol: str, query: str) -> dict[str, Any]:
    """Return the task of a client that asks."""
    tasks: dict[str, dict[str, Any]] = {
        "agui": {"way": "turns", "queries": [query]},
        "openai": {"way": "streamed", "messages": [user(query)]},
        "mcp": {**MCP, "task": "call", "arguments": {"query": query}},
        "a2a": {"way": "stream", "query": query},
    }
    return tasks[protocol]


def storm(protocol: str) -> dict[str, Any]:
    """Return the task of a client that asks many times at once."""
    queries = [f"echo storm {number}" for number in range(CALLS)]
    tasks: dict[str, dict[str, Any]] = {
        "openai": {"way": "storm", "messages": [user(query) for query in queries]},
        "mcp": {**MCP, "task": "storm", "arguments": queries},
    }
    return tasks.get(protocol, {"way": "storm", "count": CALLS})


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A real server, by a line that is cut where a query says so, served by all protocols."""
    with cut_server(tmp_path_factory.mktemp("clients") / "server") as (url, remote):
        adapters: list[Any] = [OpenAIAdapter(), AGUIAdapter(), MCPAdapter(), A2AAdapter()]
        with serve(Service(SSEOxyGent(url), adapters)) as at:
            yield Site(at, remote)


PROTOCOLS: Final[list[Any]] = [
    # the protocol, the member of a result that has the answer, what it is, the member that tells of an error
    pytest.param("openai", "text", "hello openai.", "error", id="openai"),
    pytest.param("mcp", "text", "hello mcp.", "isError", id="mcp"),
    pytest.param("a2a", "texts", ["hello a2a."], "outcome", id="a2a"),
    pytest.param("agui", "texts", ["hello agui."], "code", id="agui", marks=pytest.mark.needs("node")),
]


@pytest.mark.parametrize(("protocol", "member", "answer", "error"), PROTOCOLS)
def test_a_real_release(real: Site, protocol: str, member: str, answer: Any, error: str) -> None:
    """The answer is the agent's, once, for one run; a run that is cut is an error, and did not run again."""
    cut = f"paced {CUT}-{protocol}. 100"
    answered, broken = real.ask(protocol, f"echo hello {protocol}.", cut)
    assert answered[member] == answer
    assert not answered.get("error")
    assert broken[error]
    assert [len(real.remote.trace_ids(query)) for query in (f"echo hello {protocol}.", cut[:-4])] == [1, 1]


@pytest.mark.parametrize("protocol", ["openai", "mcp", "a2a", pytest.param("agui", marks=pytest.mark.needs("node"))])
def test_calls_at_once(real: Site, protocol: str) -> None:
    """Of many calls at once each has its own answer, and is one run."""
    before = len(real.remote.trace_ids("echo storm"))
    (result,) = drive(real.command(protocol), storm(protocol))
    assert result == {"wrong": [], "count": CALLS}
    assert len(real.remote.trace_ids("echo storm")) - before == CALLS


def test_google_adk(real: Site) -> None:
    """An agent of Google ADK that is remote has the answers, remembers the turn before, and ran once a turn."""
    (result,) = drive(real.command("a2a"), {"way": "adk", "query": "echo adk.", "second": "memory"})
    assert result["errors"] == []
    assert result["texts"][0] == "adk."
    assert json.loads(result["texts"][1]) == {"asked": ["echo adk."], "answered": 1}
    assert len(real.remote.trace_ids("echo adk.")) == 1
