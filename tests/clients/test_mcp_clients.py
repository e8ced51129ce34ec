"""Real clients of MCP against a served agent: a toy, a real server, and a real agent with a model.

Rule 1: for each target and client, one in Python of each release and one on node, one process does all tasks, once; a
    test looks at one fact of each.
Rule 2: how often an agent ran is counted at the remote, never by what a client says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from oxygent_client import SSEOxyGent
from oxygent_client.serve.mcp import create_app
from oxygent_client.testing import ToyRemote, serve
from oxygent_client.testing.script import Cut, Pause, Say, Script, Words
from tests.clients.remotes import CUT, Remote, cut_server, drive, react_server
from tests.conftest import scaled
from tests.interop.environments import node_home_with, python_with
from tests.interop.model import ANSWER

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

DRIVER: Final = Path(__file__).with_name("drive_mcp.py")
NODE_DRIVER: Final = Path(__file__).with_name("drive_mcp.mjs")
WAYS: Final = {
    # a release of the client in Python, or the one on node, and how it connects
    "1": ("http-legacy", "stdio-legacy"),
    "2": ("http-legacy", "http-modern", "stdio-legacy", "stdio-modern"),
    "node": ("http-legacy", "stdio-legacy"),
}


def case(release: str, way: str) -> Any:
    """A row of a table of clients."""
    marks = [pytest.mark.needs("node")] if release == "node" else []
    return pytest.param(release, way, id=f"{release}-{way}", marks=marks)


def seconds_of(seconds: int, release: str) -> str:
    """A query for a run of so many seconds and a fraction, which tells the client."""
    return f"quiet {seconds}.{[*WAYS].index(release) + 1}"


EACH: Final = [case(release, way) for release, ways in WAYS.items() for way in ways]
SERVED: Final = [case("1", "http-legacy"), case("2", "http-modern"), case("node", "http-legacy")]
CALLS: Final = scaled(200)
SCRIPTS: Final = {
    "echo": Script(output=Words.REST),
    "memory": Script(output="{}"),
    "raise": ToyRemote().scripts["raise"],
    "paced": Script([Say({"type": "progress", "content": 1}), Cut()]),
    "quiet": Script([Pause(8)], output="quiet"),
    "feedback": Script([Say({"type": "feedback", "content": "May I?"}), Pause(0.5)], output=["May I? yes"]),
}
COMMAND: Final = (sys.executable, "-m", "oxygent_client")
NEEDS: Final = {"quiet": "http", "feedback": "legacy"}
"""Part of the ways in which a fact is looked at; an agent would wait for a modern client."""
ENVIRONMENT: Final = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}


def queries_of(client: str) -> dict[str, str]:
    """The queries by the name of the fact; each names its client, a release and a way, so it is counted."""
    return {
        "answer": f"echo hello {client}.",
        "failing": f"raise {client}.",
        "cut": f"paced {CUT}-{client}. 100",
        "quiet": "quiet 8",
        "feedback": "feedback",
    }


@attrs.define(eq=False)
class Target:
    """A served agent, and what its remote knows of its runs."""

    served: str
    """The URL of the served agent."""
    url: str
    """The URL of the remote, for a command that serves it on standard input."""
    tool: str
    remote: Remote
    facts: tuple[str, ...] = ("answer", "failing", "cut", "feedback")
    _results: dict[tuple[str, str, str], dict[str, Any]] = attrs.field(
        factory=dict[tuple[str, str, str], dict[str, Any]]
    )

    def command(self, release: str) -> list[str]:
        """The command line of the clients."""
        places = (f"{self.served}/mcp", json.dumps([*COMMAND, "serve", self.url, "--mcp-stdio"]))
        if release == "node":
            return ["node", str(NODE_DRIVER), str(node_home_with("mcp-sdk")), *places]
        return [str(python_with(f"mcp-{release}")), "-I", str(DRIVER), release, *places]

    def task(self, way: str, arguments: Any, task: str = "call") -> dict[str, Any]:
        """A task for the clients."""
        return {"way": way, "task": task, "tool": self.tool, "arguments": arguments}

    def drive(self, release: str, *tasks: dict[str, Any]) -> list[dict[str, Any]]:
        """What the clients make of these tasks."""
        return drive(self.command(release), *tasks, **ENVIRONMENT)

    def result(self, release: str, way: str, fact: str) -> dict[str, Any]:
        """What a client made of one task; the first time, of all tasks of its release, which share a process."""
        if (release, way, fact) not in self._results:
            tasks = {
                (release, each, name): self.task(each, {"query": query})
                for each in WAYS[release]
                for name, query in queries_of(f"{release}-{each}").items()
                if name in self.facts and NEEDS.get(name, "") in each
            }
            self._results.update(zip(tasks, self.drive(release, *tasks.values()), strict=True))
        return self._results[release, way, fact]


def served(url: str) -> Any:
    """A block that serves the remote, with progress often enough for the clients."""
    return serve(create_app(SSEOxyGent(url), progress_seconds=0.5))


@pytest.fixture(scope="module")
def toy() -> Iterator[Target]:
    """A toy."""
    remote = ToyRemote(scripts=SCRIPTS)
    with serve(remote) as url, served(url) as at:
        yield Target(at, url, "trip_planner", Remote(remote), ("answer", "failing", "cut", "quiet", "feedback"))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A real server, by a line that is cut where a query says so."""
    with cut_server(tmp_path_factory.mktemp("clients") / "server") as (url, remote), served(url) as at:
        yield Target(at, url, "master", remote)


@pytest.fixture(scope="module")
def react(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A real agent that thinks, calls a tool and answers, by a model that streams."""
    with react_server(tmp_path_factory.mktemp("react") / "server") as (url, remote), served(url) as at:
        yield Target(at, url, "master_agent", remote, ("answer",))


@pytest.mark.parametrize(("release", "way"), EACH)
def test_an_answer(target: Target, release: str, way: str) -> None:
    """It is the agent's, as text and in the structure, and the agent ran once."""
    result = target.result(release, way, "answer")
    runs = target.remote.trace_ids(f"echo hello {release}-{way}.")
    assert result["text"] == f"hello {release}-{way}."
    assert result["structuredContent"] == {
        "answer": f"hello {release}-{way}.",
        "trace_id": min(runs),
        "outcome": "completed",
    }
    assert len(runs) == 1


@pytest.mark.parametrize(("release", "way"), EACH)
def test_a_failing_agent(target: Target, release: str, way: str) -> None:
    """It is a result with an error, and the agent ran once."""
    result = target.result(release, way, "failing")
    assert result["isError"]
    assert "scripted failure" in result["text"]
    assert len(target.remote.trace_ids(f"raise {release}-{way}.")) == 1


@pytest.mark.parametrize(("release", "way"), EACH)
def test_a_run_that_is_cut(target: Target, release: str, way: str) -> None:
    """It is a result with an error, which says that the agent may have run, and the agent ran once."""
    result = target.result(release, way, "cut")
    assert result["isError"]
    assert result["structuredContent"]["outcome"] in {"unknown", "started"}
    assert len(target.remote.trace_ids(f"{CUT}-{release}-{way}.")) == 1


@pytest.mark.parametrize(("release", "way"), [each for each in EACH if "http" in str(each.id)])
def test_a_silent_run(toy: Target, release: str, way: str) -> None:
    """A run that is silent for longer than the time-out of the client survives by progress."""
    result = toy.result(release, way, "quiet")
    assert result["text"] == "quiet"
    assert len(result["progress"]) >= 3


@pytest.mark.parametrize(("release", "way"), [each for each in EACH if "legacy" in str(each.id)])
def test_feedback(target: Target, release: str, way: str) -> None:
    """An agent that waits for feedback gets that of the user of the client."""
    assert target.result(release, way, "feedback")["structuredContent"]["answer"] == ["May I? yes"]


@pytest.mark.parametrize(("release", "way"), EACH)
def test_an_agent_with_a_model(react: Target, release: str, way: str) -> None:
    """The answer is the text of the last model call alone, and the client saw the call of the tool."""
    result = react.result(release, way, "answer")
    assert result["text"] == ANSWER
    assert [text for text in result["progress"] if "calls add_tool" in text] != []


@pytest.mark.needs("node")
def test_how_often_it_ran(react: Target) -> None:
    """One call of a client is one run at the remote."""
    for release, ways in WAYS.items():
        react.result(release, ways[0], "answer")
    assert react.remote.requests == len(EACH)


@pytest.mark.parametrize(("release", "way"), [*SERVED, case("node", "stdio-legacy")])
def test_a_second_turn(real: Target, release: str, way: str) -> None:
    """The trace id of a result continues its conversation."""
    (first,) = real.drive(release, real.task(way, {"query": "echo first"}))
    context = first["structuredContent"]["trace_id"]
    (second,) = real.drive(release, real.task(way, {"query": "memory", "context": context}))
    assert second["structuredContent"]["answer"] == {"asked": ["echo first"], "answered": 1}


@contextmanager
def waiting(real: Target, release: str, way: str, query: str, task: str = "leave") -> Generator[subprocess.Popen[str]]:
    """A client whose call has started at the remote."""
    with subprocess.Popen(
        real.command(release), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        # A client asks for the tools after a result, if it does not know them, to check the result.
        process.stdin.write(json.dumps(real.task(way, {}, "tools")) + "\n")
        process.stdin.flush()
        process.stdout.readline()
        process.stdin.write(json.dumps(real.task(way, {"query": query}, task)) + "\n")
        process.stdin.flush()
        real.remote.wait_for_start(query)
        yield process


@pytest.mark.parametrize(("release", "way"), [case(release, way) for release in ("2", "node") for way in WAYS[release]])
def test_a_call_that_is_cancelled(real: Target, release: str, way: str) -> None:
    """A cancelled call stops the run at the remote; clients of release 1 do not report it."""
    query = seconds_of(30 + WAYS[release].index(way), release)
    with waiting(real, release, way, query) as process:
        result = json.loads(process.communicate("\n")[0])
    real.remote.check_cancelled(query, result["time"])


@pytest.mark.parametrize(("release", "way"), EACH)
def test_a_client_that_is_killed(real: Target, release: str, way: str) -> None:
    """The run of a client that is killed is cancelled at the remote."""
    query = seconds_of(40 + WAYS[release].index(way), release)
    with waiting(real, release, way, query) as process:
        process.kill()
        left_at = time.time()
    real.remote.check_cancelled(query, left_at)


@pytest.mark.parametrize(("release", "way"), SERVED)
def test_a_server_that_is_stopped(real: Target, release: str, way: str) -> None:
    """A call that runs when the server receives SIGTERM gets its result."""
    query = seconds_of(3, release)
    with subprocess.Popen(
        [*COMMAND, "serve", real.url, "--mcp", "--port", "0"], stdout=subprocess.PIPE, env=ENVIRONMENT, text=True
    ) as server:
        assert server.stdout is not None
        at = server.stdout.readline().split()[2]
        there = attrs.evolve(real, served=at)
        with waiting(there, release, way, query, "call") as process:
            server.terminate()
            result = json.loads(process.communicate()[0])
    assert result["text"] == "quiet"
    assert server.returncode == 0


STORMS: Final = [*SERVED, case("2", "stdio-legacy")]


@pytest.mark.parametrize(("release", "way"), STORMS)
def test_many_calls_at_once(target: Target, release: str, way: str) -> None:
    """Each has its own answer, and is one run."""
    queries = [f"echo storm {release} {way} {number}" for number in range(CALLS)]
    (result,) = target.drive(release, target.task(way, queries, "storm"))
    assert result == {"wrong": [], "count": CALLS}
    assert len(target.remote.trace_ids(f"echo storm {release} {way}")) == CALLS


@pytest.mark.parametrize(("release", "way"), [case(release, ways[0]) for release, ways in WAYS.items()])
def test_the_tools(target: Target, release: str, way: str) -> None:
    """They are the agents."""
    (result,) = target.drive(release, target.task(way, {}, "tools"))
    assert result["tools"][0] == target.tool
    assert len(result["tools"]) > 1
