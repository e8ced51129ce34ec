"""Real clients of A2A against a served agent: a toy, a real server, and a real agent with a model.

The clients are that of the package a2a-sdk, and Google ADK.

Rule 1: for each target, one process does all tasks, once; a test looks at one fact of each.
Rule 2: how often an agent ran is counted at the remote, never by what a client says.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from oxygent_client import SSEOxyGent
from oxygent_client.serve.a2a import create_app
from oxygent_client.testing import ToyRemote, serve
from oxygent_client.testing.script import Call, Cut, Pause, Say, Script, Together, Words
from tests.clients.remotes import CUT, Remote, cut_server, drive, react_server
from tests.conftest import scaled
from tests.interop.environments import python_with
from tests.interop.model import ANSWER

if TYPE_CHECKING:
    from collections.abc import Iterator

DRIVER: Final = Path(__file__).with_name("drive_a2a.py")
WAYS: Final = ("send", "stream")
MESSAGES: Final = scaled(200)
QUERIES: Final = {
    # the name of the fact: the query; it names its way, so that runs can be counted
    "answer": "echo hello {way}.",
    "both": "both {way}.",
    "failing": "raise {way}.",
    "cut": f"paced {CUT}-{{way}}. 100",
}
SCRIPTS: Final = {
    "echo": Script(output=Words.REST),
    "both": Script(
        [Together([Call("flight_agent", [Pause(0.2)], output="a"), Call("hotel_agent", output="b")])], output="a and b"
    ),
    "raise": ToyRemote().scripts["raise"],
    "paced": Script([Say({"type": "progress", "content": 1}), Cut()]),
    "memory": Script(output=Words.MEMORY),
    "quiet": Script([Pause(30)], output="quiet"),
}


@attrs.define(eq=False)
class Target:
    """A served agent, and what its remote knows of its runs."""

    url: str
    remote: Remote
    facts: tuple[str, ...] = tuple(QUERIES)
    _results: dict[tuple[str, str], dict[str, Any]] = attrs.field(factory=dict[tuple[str, str], dict[str, Any]])

    @property
    def command(self) -> list[str]:
        """The command line of the client."""
        return [str(python_with("a2a")), "-I", str(DRIVER), self.url]

    def drive(self, *tasks: dict[str, Any]) -> list[dict[str, Any]]:
        """What the client makes of these tasks."""
        return drive(self.command, *tasks)

    def result(self, way: str, fact: str) -> dict[str, Any]:
        """What the client made of one task; the first time, of all tasks, which share a process."""
        if not self._results:
            asked = {
                (each, fact): {"way": each, "query": QUERIES[fact].format(way=each)}
                for each in WAYS
                for fact in self.facts
            }
            self._results.update(zip(asked, self.drive(*asked.values()), strict=True))
        return self._results[way, fact]

    def memory_of(self, query: str) -> Any:
        """What the agent answers to `memory` after this query."""
        return [query, "memory"] if self.remote.is_toy else {"asked": [query], "answered": 1}


@pytest.fixture(scope="module")
def toy() -> Iterator[Target]:
    """A toy."""
    remote = ToyRemote(scripts=SCRIPTS)
    with serve(remote) as url, serve(create_app(SSEOxyGent(url))) as at:
        yield Target(at, Remote(remote))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A real server, by a line that is cut where a query says so."""
    with (
        cut_server(tmp_path_factory.mktemp("clients") / "server") as (url, remote),
        serve(create_app(SSEOxyGent(url))) as at,
    ):
        yield Target(at, remote)


@pytest.fixture(scope="module")
def react(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A real agent that thinks, calls a tool and answers, by a model that streams."""
    with (
        react_server(tmp_path_factory.mktemp("react") / "server") as (url, remote),
        serve(create_app(SSEOxyGent(url))) as at,
    ):
        yield Target(at, remote, ("answer",))


@pytest.mark.parametrize("way", WAYS)
def test_an_answer(target: Target, way: str) -> None:
    """It is the agent's, once, and the agent ran once."""
    result = target.result(way, "answer")
    assert (result["state"], result["texts"]) == ("COMPLETED", [f"hello {way}."])
    assert len(target.remote.trace_ids(f"echo hello {way}.")) == 1


@pytest.mark.parametrize("way", WAYS)
def test_two_agents_at_once(target: Target, way: str) -> None:
    """The answer is the master's."""
    expected = "a and b" if target.remote.is_toy else "middle(leaf(42)) and other_agent heard hello"
    assert target.result(way, "both")["texts"] == [expected]


@pytest.mark.parametrize("way", WAYS)
def test_a_failing_agent(target: Target, way: str) -> None:
    """Its task fails with the text of the failure, and it ran once."""
    result = target.result(way, "failing")
    assert result["state"] == "FAILED"
    assert "scripted failure" in result["status"]
    assert len(target.remote.trace_ids(f"raise {way}.")) == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_cut(target: Target, way: str) -> None:
    """Its task fails, and has the outcome; the agent ran once. The real one is cut before its first event."""
    result = target.result(way, "cut")
    expected = "started" if target.remote.is_toy else "unknown"
    assert (result["state"], result["outcome"]) == ("FAILED", expected)
    assert len(target.remote.trace_ids(f"{CUT}-{way}.")) == 1


@pytest.mark.parametrize("way", WAYS)
def test_an_agent_with_a_model(react: Target, way: str) -> None:
    """The answer is the text of the last model call alone: no JSON of a tool call, nothing twice."""
    result = react.result(way, "answer")
    assert (result["state"], result["texts"]) == ("COMPLETED", [ANSWER])


def test_how_often_it_ran(react: Target) -> None:
    """One message of a client is one run at the remote."""
    react.result(WAYS[0], "answer")
    assert react.remote.requests == len(WAYS)


def test_two_turns(target: Target) -> None:
    """A context is a conversation: the agent remembers the turn before."""
    (before,) = target.drive({"way": "send", "query": "echo first"})
    (after,) = target.drive({"way": "stream", "query": "memory", "context": before["context"]})
    assert [json.loads(text) for text in after["texts"]] == [target.memory_of("echo first")]


def test_a_client_that_cancels(real: Target) -> None:
    """The run is cancelled at the remote within 2 s, and the stream of its task ends so."""
    query = "quiet 30"
    with subprocess.Popen(real.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps({"way": "cancel", "query": query}) + "\n")
        process.stdin.flush()
        real.remote.wait_for_start(query)
        result = json.loads(process.communicate("\n")[0])
    assert (result["state"], result["states"][-1]) == ("CANCELED", "CANCELED")
    real.remote.check_cancelled(query, result["time"])


def test_a_client_that_comes_back(toy: Target) -> None:
    """A client that left, and subscribes to its task, has its state and its further events; the agent ran once."""
    (result,) = toy.drive({"way": "subscribe", "query": "quiet back"})
    assert result == {"states": ["WORKING", "CANCELED"]}
    assert len(toy.remote.trace_ids("quiet back")) == 1


def test_many_messages_at_once(toy: Target) -> None:
    """Each has its own answer, and is one run."""
    (result,) = toy.drive({"way": "storm", "count": MESSAGES})
    assert result == {"wrong": [], "count": MESSAGES}
    assert len(toy.remote.trace_ids("echo storm")) == MESSAGES


def test_google_adk(toy: Target) -> None:
    """An agent of Google ADK that is remote has the answers, remembers the turn before, and ran once a turn."""
    (result,) = toy.drive({"way": "adk", "query": "echo adk.", "second": "memory"})
    assert result["texts"][0] == "adk."
    assert json.loads(result["texts"][1]) == toy.memory_of("echo adk.")
    assert result["errors"] == []
    assert len(toy.remote.trace_ids("echo adk.")) == 1


def test_google_adk_with_a_model(react: Target) -> None:
    """Its last event has the whole answer, though it came in pieces."""
    (result,) = react.drive({"way": "adk", "query": "echo hello adk."})
    assert result["texts"] == [ANSWER]


def test_the_card(target: Target) -> None:
    """It has a skill for each agent, the master first."""
    (result,) = target.drive({"way": "card"})
    assert result["skills"][0] == result["name"]
    assert len(result["skills"]) > 1
