"""A real client of AG-UI on node against a served agent: a toy, a real server, and a real agent with a model.

Rule 1: the client verifies the types and the order of all events, so a run without an error is one that it accepts.
Rule 2: how often an agent ran is counted at the remote, never by what the client says.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from oxygent_client import SSEOxyGent
from oxygent_client.serve.agui import create_app
from oxygent_client.testing import ToyRemote, serve
from oxygent_client.testing.script import Call, Cut, Pause, Say, Script, Together, Words
from tests.clients.remotes import CUT, Remote, cut_server, drive, react_server
from tests.conftest import scaled
from tests.interop.environments import node_home_with
from tests.interop.model import ANSWER, PREFACE

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("node")

DRIVER: Final = Path(__file__).with_name("drive_agui.mjs")
RUNS: Final = scaled(200)
QUERIES: Final = {
    # the name of the fact: the query
    "answer": "echo hello you.",
    "both": "both of you.",
    "failing": "raise it.",
    "cut": f"paced {CUT}-x. 100",
}
SCRIPTS: Final = {
    "echo": Script(output=Words.REST),
    "both": Script(
        [
            Together(
                [
                    Call("flight_agent", [Pause(0.2), Call("search_flights", output=5)], output="a"),
                    Call("hotel_agent", output="b"),
                ]
            )
        ],
        output="a and b",
    ),
    "raise": ToyRemote().scripts["raise"],
    "paced": Script([Say({"type": "progress", "content": 1}), Cut()]),
    "memory": Script(output=Words.MEMORY),
    "feedback": Script([Say({"type": "feedback", "content": "May I?"}), Pause(1)], output=["yes"]),
}


@attrs.define(eq=False)
class Target:
    """A served agent, and what its remote knows of its runs."""

    url: str
    remote: Remote
    client: str = "ag-ui"
    """The environment of the client."""
    _results: dict[str, dict[str, Any]] = attrs.field(factory=dict[str, dict[str, Any]])

    @property
    def command(self) -> list[str]:
        """The command line of the client."""
        return ["node", str(DRIVER), str(node_home_with(self.client)), f"{self.url}/agui"]

    def drive(self, *tasks: dict[str, Any]) -> list[dict[str, Any]]:
        """What the client makes of these tasks."""
        return drive(self.command, *tasks)

    def turns(self, *queries: str) -> list[dict[str, Any]]:
        """What the client makes of the turns of one thread."""
        (result,) = self.drive({"way": "turns", "queries": queries})
        found: list[dict[str, Any]] = result["results"]
        return found

    def result(self, fact: str) -> dict[str, Any]:
        """What the client made of one query; the first time, of all of them, which share a process."""
        if not self._results:
            done = self.drive(*({"way": "turns", "queries": [query]} for query in QUERIES.values()))
            self._results.update(zip(QUERIES, (each["results"][0] for each in done), strict=True))
        return self._results[fact]


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
        serve(create_app(SSEOxyGent(url), reasoning=True)) as at,
    ):
        yield Target(at, remote)


def test_an_answer(target: Target) -> None:
    """It is the agent's, once, and the agent ran once."""
    result = target.result("answer")
    assert (result["texts"], result["result"], result["outcome"]) == (["hello you."], "hello you.", "success")
    (trace_id,) = target.remote.trace_ids("echo hello you.")
    assert result["trace"]["trace_id"] == trace_id


def test_two_agents_at_once(target: Target) -> None:
    """Both are sub-agents, and the answer is the master's."""
    is_toy = target.remote.is_toy
    result = target.result("both")
    assert result["texts"] == ["a and b" if is_toy else "middle(leaf(42)) and other_agent heard hello"]
    agents = ["flight_agent", "hotel_agent"] if is_toy else ["leaf_agent", "middle_agent", "other_agent"]
    assert sorted(result["agents"]) == agents
    assert (result["tools"], result["results"]) == ((["search_flights"], ["5"]) if is_toy else (["add"], ["42"]))


def test_a_failing_agent(target: Target) -> None:
    """Its run is an error with the text of the failure, and it ran once."""
    result = target.result("failing")
    assert (result["code"], result["outcome"]) == ("agent_failed", "completed")
    assert "scripted failure" in result["message"]
    assert len(target.remote.trace_ids("raise it.")) == 1


def test_a_run_that_is_cut(target: Target) -> None:
    """Its run is an error with the outcome, and the agent ran once. The real one is cut before its first event."""
    result = target.result("cut")
    assert (result["code"], result["events"][-1]) == ("cut", "RUN_ERROR")
    assert result["outcome"] == ("started" if target.remote.is_toy else "unknown")
    assert len(target.remote.trace_ids(f"{CUT}-x.")) == 1


def test_two_turns(target: Target) -> None:
    """A thread is a conversation: the agent remembers the turn before."""
    _, second = target.turns("echo first", "memory")
    remembered = json.loads(second["texts"][0])
    is_toy = target.remote.is_toy
    assert remembered == (["echo first", "memory"] if is_toy else {"asked": ["echo first"], "answered": 1})


def test_one_id_for_all_runs(target: Target) -> None:
    """A client whose runs in a thread all have the same id gets the answer of each, also to the same query."""
    queries = ["echo one id", "echo one id", "echo other"]
    (result,) = target.drive({"way": "turns", "queries": queries, "runId": "r"})
    assert [each["texts"] for each in result["results"]] == [["one id"], ["one id"], ["other"]]
    assert len(target.remote.trace_ids("one id")) == 2


def test_a_turn_of_another_client(real: Target) -> None:
    """Without a thread of this server, the history of the client is the memory of the agent."""
    messages = [
        {"id": "1", "role": "user", "content": "echo first"},
        {"id": "2", "role": "assistant", "content": "first"},
    ]
    (result,) = real.drive({"way": "history", "messages": messages, "query": "memory"})
    assert json.loads(result["texts"][0]) == {"asked": ["echo first"], "answered": 1}


def test_a_run_that_is_sent_again(target: Target) -> None:
    """Each client that sends the ids of a run gets all of its events, in an order that it accepts; it ran once."""
    (result,) = target.drive({"way": "again", "query": "both again."})
    first, *others = result["results"]
    assert first["outcome"] == "success"
    assert others == [first, first]
    assert len(target.remote.trace_ids("both again.")) == 1


def test_an_agent_that_asks(target: Target) -> None:
    """The client gets an interrupt, and its answer continues the same run."""
    (result,) = target.drive({"way": "answers", "query": "feedback please", "answers": ["yes"]})
    asked, answered = result["results"]
    assert (asked["outcome"], answered["outcome"]) == ("interrupt", "success")
    assert answered["result"] == ["yes"]
    assert len(target.remote.trace_ids("feedback please")) == 1


def test_an_agent_with_a_model(react: Target) -> None:
    """The answer is the text of the last model call alone: no JSON of a tool call, nothing twice."""
    (result,) = react.turns("What is 40 plus 2?")
    assert result["texts"] == [ANSWER]
    assert (result["tools"], result["results"]) == (["add_tool"], ["42"])
    assert result["events"].count("TEXT_MESSAGE_CONTENT") > 3


def test_a_preface_of_a_model(react: Target) -> None:
    """What the model writes before its tool call is a message before the answer."""
    (result,) = react.turns("preface please")
    assert result["texts"] == [PREFACE, ANSWER]


def test_a_client_that_leaves(real: Target) -> None:
    """The run is cancelled at the remote within 2 s."""
    query = "quiet 30"
    with subprocess.Popen(real.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps({"way": "leave", "query": query}) + "\n")
        process.stdin.flush()
        real.remote.wait_for_start(query)
        result = json.loads(process.communicate("\n")[0])
    real.remote.check_cancelled(query, result["time"])


@pytest.mark.parametrize(
    ("query", "text"), [("both of you.", "a and b"), ("feedback please", '["yes"]')], ids=["agents", "question"]
)
def test_a_client_of_an_older_protocol(toy: Target, query: str, text: str) -> None:
    """It gets no event that it does not know, at which it would fail."""
    (result,) = attrs.evolve(toy, client="ag-ui-0").turns(query)
    assert (result["texts"], result["events"][-1]) == ([text], "RUN_FINISHED")


def test_many_runs_at_once(toy: Target) -> None:
    """Each has its own answer, and is one run."""
    (result,) = toy.drive({"way": "storm", "count": RUNS})
    assert result == {"wrong": [], "count": RUNS}
    assert len(toy.remote.trace_ids("echo storm")) == RUNS
