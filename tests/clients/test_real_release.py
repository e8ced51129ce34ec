"""One client of each protocol against one real server, by one service: the part of these tests that CI runs.

Rule: how often an agent ran is counted at the remote, never by what the client says.
"""

from __future__ import annotations

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
from tests.interop.environments import node_home_with, python_with

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE: Final = Path(__file__).parent
MASTER: Final = "master"


@attrs.frozen
class Site:
    """A service of a real server, and what that knows of its runs."""

    url: str
    remote: Remote

    def ask(self, protocol: str, *queries: str) -> list[Any]:
        """Return what a client of a protocol makes of queries."""
        if protocol == "agui":
            command = ["node", str(HERE / "drive_agui.mjs"), str(node_home_with("ag-ui")), f"{self.url}/agui"]
            return [each["results"][0] for each in drive(command, *({"way": "turns", "queries": [q]} for q in queries))]
        if protocol == "openai":
            command = [
                str(python_with("openai-clients")),
                "-I",
                str(HERE / "drive_openai.py"),
                f"{self.url}/v1",
                MASTER,
            ]
            messages = [[{"role": "user", "content": query}] for query in queries]
            return drive(command, *({"way": "streamed", "messages": each} for each in messages))
        if protocol == "mcp":
            command = [str(python_with("mcp-2")), "-I", str(HERE / "drive_mcp.py"), "2", f"{self.url}/mcp", "[]"]
            task = {"way": "http-modern", "task": "call", "tool": MASTER}
            return drive(command, *({**task, "arguments": {"query": query}} for query in queries))
        command = [str(python_with("a2a")), "-I", str(HERE / "drive_a2a.py"), self.url]
        return drive(command, *({"way": "stream", "query": query} for query in queries))


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
