"""Viewers of a relayed run, over HTTP, of a real server, and of a real agent with a model.

Rule: how often an agent ran, and how it ended, is what the remote says.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from oxygent_client import Decoder, SSEOxyGent
from oxygent_client.serve.relay import RelayLimits, create_app
from oxygent_client.testing import serve
from tests.clients.remotes import CUT, Remote, cut_server, react_server
from tests.interop.model import ANSWER

if TYPE_CHECKING:
    from collections.abc import Iterator

GRACE: Final = 1.0
"""Long enough for a viewer to come, on a busy machine too."""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Remote]]:
    """A relay of a real server, by a line that is cut where a query says so."""
    with (
        cut_server(tmp_path_factory.mktemp("relay") / "server") as (url, remote),
        serve(create_app(SSEOxyGent(url), relay=RelayLimits(grace_seconds=GRACE))) as at,
    ):
        yield at, remote


def start(at: str, query: str) -> str:
    """Start a run, and return the URL of its stream."""
    reply = httpx.post(f"{at}/relay", json={"query": query})
    assert reply.status_code == 201
    return f"{at}/relay/{reply.json()['id']}"


def events_of(url: str, seen: str = "") -> Iterator[tuple[str, str, Any]]:
    """View a run up to its end; yield its events: id, name, data."""
    decoder = Decoder()
    with httpx.stream("GET", url, headers={"last-event-id": seen} if seen else {}, timeout=60) as response:
        for piece in response.iter_bytes():
            for event in decoder.feed(piece):
                yield event.id, event.event, json.loads(event.data)


def view(url: str, seen: str = "") -> list[tuple[str, str, Any]]:
    """View a run up to its end; return its events."""
    return [*events_of(url, seen)]


ENDS: Final[list[Any]] = [
    # the query, the state, the outcomes
    pytest.param("echo hello relay.", "completed", {"completed"}, id="answer"),
    pytest.param("raise relay.", "failed", {"completed"}, id="failing"),
    pytest.param(f"paced {CUT}-relay. 100", "cut", {"unknown", "started"}, id="cut"),
]


@pytest.mark.parametrize(("query", "state", "outcomes"), ENDS)
def test_an_end(real: tuple[str, Remote], query: str, state: str, outcomes: set[str]) -> None:
    """The end of a run says how it ended; a second viewer gets the same, and the agent ran once."""
    at, remote = real
    url = start(at, query)
    events = view(url)
    _, name, end = events[-1]
    assert (name, end["state"]) == ("end", state)
    assert end["outcome"] in outcomes
    assert view(url, seen="1") == events[1:]
    assert len(remote.trace_ids(query)) == 1


def test_the_last_viewer_leaves(real: tuple[str, Remote]) -> None:
    """A run whose last viewer has left is cancelled at the remote after the grace period."""
    at, remote = real
    query = "quiet 50"
    with httpx.stream("GET", start(at, query), timeout=60):
        remote.wait_for_start(query)
        left_at = time.time()
    remote.check_cancelled(query, left_at)


def test_a_run_that_is_stopped(real: tuple[str, Remote]) -> None:
    """A run that is stopped by DELETE is cancelled at the remote."""
    at, remote = real
    query = "quiet 51"
    url = start(at, query)
    with httpx.stream("GET", url, timeout=60):
        remote.wait_for_start(query)
        left_at = time.time()
        assert httpx.delete(url).status_code == 204
    remote.check_cancelled(query, left_at)


def test_a_question(real: tuple[str, Remote]) -> None:
    """An agent that asks gets the answer of a viewer, one only, and then goes on to its end."""
    at, remote = real
    url, end = start(at, "feedback relay."), None
    replies: list[int] = []
    for _, name, data in events_of(url):
        if data.get("type") == "feedback":
            replies += [httpx.post(f"{url}/feedback", json={"answer": said}).status_code for said in ("yes", "no")]
        if name == "end":
            end = data
    assert replies == [204, 409]
    assert end is not None
    assert (end["state"], end["output"]) == ("completed", ["yes"])
    assert len(remote.trace_ids("feedback relay.")) == 1


def test_an_agent_with_a_model(tmp_path: Any) -> None:
    """A viewer sees thoughts, the call of the tool and the pieces of a real agent with a model, and its answer."""
    with (
        react_server(tmp_path / "server") as (url, remote),
        serve(create_app(SSEOxyGent(url))) as at,
    ):
        events = view(start(at, "echo hello react."))
        assert events[-1][2]["output"] == ANSWER
        kinds = {data["type"] for _, name, data in events if name == "message"}
        assert {"tool_call", "observation", "stream", "answer"} <= kinds
        assert remote.requests == 1
