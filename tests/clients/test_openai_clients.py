"""Real clients of OpenAI's API against a served agent: a toy, a real server, and a real agent with a model.

Rule 1: for each target, one process does all tasks of all clients, once; a test looks at one fact of each.
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
from oxygent_client.serve.openai import create_app
from oxygent_client.testing import ToyRemote, serve
from oxygent_client.testing.script import Call, Cut, Pause, Say, Script, Together, Words
from tests.clients.remotes import CUT, Remote, cut_server, drive, react_server
from tests.conftest import scaled
from tests.interop.environments import python_with
from tests.interop.model import ANSWER

if TYPE_CHECKING:
    from collections.abc import Iterator

DRIVER: Final = Path(__file__).with_name("drive_openai.py")
WAYS: Final = (
    *("plain", "streamed", "plain_async", "streamed_async", "response", "streamed_response"),
    *("litellm", "streamed_litellm", "langchain", "streamed_langchain", "response_langchain"),
)
"""Functions of the driver, one a client and a kind of call."""
CALLS: Final = scaled(200)
TWO: Final = Script(
    [Together([Call("flight_agent", [Pause(0.2)], output="a"), Call("hotel_agent", output="b")])], output="a and b"
)
SCRIPTS: Final = {
    "echo": Script(output=Words.REST),
    "both": TWO,
    "memory": Script(output="{}"),
    "raise": ToyRemote().scripts["raise"],
    "paced": Script([Say({"type": "progress", "content": 1}), Cut()]),
    "quiet": Script([Pause(30)], output="quiet"),
}


def user(text: str) -> dict[str, str]:
    """A message of the user."""
    return {"role": "user", "content": text}


def tasks_of(way: str) -> dict[str, dict[str, Any]]:
    """What a client is asked for in one way, by the name of the fact; a query names its way, so it is counted."""
    history = [user("echo first"), {"role": "assistant", "content": "first"}]
    return {
        "answer": {"messages": [user(f"echo hello {way}.")]},
        "both": {"messages": [user(f"both {way}.")]},
        "turns": {"messages": [*history, user(f"memory {way}.")]},
        "failing": {"messages": [user(f"raise {way}.")]},
        "cut": {"messages": [user(f"paced {CUT}-{way}. 100")]},
    }


@attrs.define(eq=False)
class Target:
    """A served agent, and what its remote knows of its runs."""

    url: str
    model: str
    remote: Remote
    facts: tuple[str, ...] = ("answer", "both", "turns", "failing", "cut")
    _results: dict[tuple[str, str], dict[str, Any]] = attrs.field(factory=dict[tuple[str, str], dict[str, Any]])

    @property
    def command(self) -> list[str]:
        """The command line of the clients."""
        return [str(python_with("openai-clients")), "-I", str(DRIVER), f"{self.url}/v1", self.model]

    def drive(self, *tasks: dict[str, Any]) -> list[dict[str, Any]]:
        """What the clients make of these tasks."""
        return drive(self.command, *tasks, LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_LOG="ERROR")

    def result(self, way: str, fact: str) -> dict[str, Any]:
        """What a client made of one task; the first time, of all tasks of all clients, which share a process."""
        if not self._results:
            tasks = {(each, fact): {"way": each, **tasks_of(each)[fact]} for each in WAYS for fact in self.facts}
            self._results.update(zip(tasks, self.drive(*tasks.values()), strict=True))
        return self._results[way, fact]


@pytest.fixture(scope="module")
def toy() -> Iterator[Target]:
    """A toy."""
    remote = ToyRemote(scripts=SCRIPTS)
    with serve(remote) as url, serve(create_app(SSEOxyGent(url))) as at:
        yield Target(at, "trip_planner", Remote(remote))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A real server, by a line that is cut where a query says so."""
    with (
        cut_server(tmp_path_factory.mktemp("clients") / "server") as (url, remote),
        serve(create_app(SSEOxyGent(url))) as at,
    ):
        yield Target(at, "master", remote)


@pytest.fixture(scope="module")
def react(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A real agent that thinks, calls a tool and answers, by a model that streams."""
    with (
        react_server(tmp_path_factory.mktemp("react") / "server") as (url, remote),
        serve(create_app(SSEOxyGent(url))) as at,
    ):
        yield Target(at, "master_agent", remote, ("answer",))


@pytest.mark.parametrize("way", WAYS)
def test_an_answer(target: Target, way: str) -> None:
    """It is the agent's, once, and the agent ran once."""
    assert target.result(way, "answer")["text"] == f"hello {way}."
    assert len(target.remote.trace_ids(f"echo hello {way}.")) == 1


@pytest.mark.parametrize("way", WAYS)
def test_two_agents_at_once(target: Target, way: str) -> None:
    """The answer is the master's."""
    expected = "a and b" if target.remote.is_toy else "middle(leaf(42)) and other_agent heard hello"
    assert target.result(way, "both")["text"] == expected


@pytest.mark.parametrize("way", WAYS)
def test_a_second_turn(target: Target, way: str) -> None:
    """The messages before the query are the memory of the agent."""
    text = target.result(way, "turns")["text"]
    if isinstance(target.remote.system, ToyRemote):
        (run,) = (run for run in target.remote.system.runs if run.query == f"memory {way}.")
        assert [each["content"] for each in run.payload["short_memory"]] == ["echo first", "first"]
    else:
        assert json.loads(text) == {"asked": ["echo first"], "answered": 1}


@pytest.mark.parametrize("way", WAYS)
def test_a_failing_agent(target: Target, way: str) -> None:
    """It is an error, and the default retries of the client did not run it again."""
    result = target.result(way, "failing")
    assert "scripted failure" in result["text"]
    assert "error" in result
    assert len(target.remote.trace_ids(f"raise {way}.")) == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_cut(target: Target, way: str) -> None:
    """It is an error, and the default retries of the client did not run it again."""
    result = target.result(way, "cut")
    assert "error" in result
    assert len(target.remote.trace_ids(f"{CUT}-{way}.")) == 1


@pytest.mark.parametrize("way", WAYS)
def test_an_agent_with_a_model(react: Target, way: str) -> None:
    """The answer is the text of the last model call alone: no JSON of a tool call, nothing twice."""
    assert react.result(way, "answer")["text"] == ANSWER


def test_how_often_it_ran(react: Target) -> None:
    """One request of a client is one run at the remote."""
    react.result(WAYS[0], "answer")
    assert react.remote.requests == len(WAYS)


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [("response", "streamed_response", "previous_response_id"), ("plain", "streamed", "extra_headers")],
    ids=["responses", "chat"],
)
def test_the_memory_of_the_remote(real: Target, first: str, second: str, name: str) -> None:
    """The id of a response continues its conversation; only the new query is sent."""
    (before,) = real.drive({"way": first, "messages": [user("echo first")]})
    previous = before["id"]
    option = {name: previous if name == "previous_response_id" else {"x-previous-response-id": previous}}
    (after,) = real.drive({"way": second, "messages": [user("memory")], **option})
    assert json.loads(after["text"]) == {"asked": ["echo first"], "answered": 1}


@pytest.mark.parametrize(("way", "query"), [("leave", "quiet 30"), ("leave_plain", "quiet 30.0")])
def test_a_client_that_leaves(real: Target, way: str, query: str) -> None:
    """The run is cancelled at the remote within 2 s."""
    with subprocess.Popen(real.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps({"way": way, "messages": [user(query)]}) + "\n")
        process.stdin.flush()
        real.remote.wait_for_start(query)
        result = json.loads(process.communicate("\n")[0])
    real.remote.check_cancelled(query, result["time"])


def test_many_calls_at_once(toy: Target) -> None:
    """Each has its own answer, and is one run."""
    messages = [user(f"echo storm {number}") for number in range(CALLS)]
    (result,) = toy.drive({"way": "storm", "messages": messages})
    assert result == {"wrong": [], "count": CALLS}
    assert len(toy.remote.trace_ids("echo storm")) == CALLS


def test_the_models(target: Target) -> None:
    """They are the agents."""
    (result,) = target.drive({"way": "models"})
    assert result["models"][0] == target.model
    assert len(result["models"]) > 1
