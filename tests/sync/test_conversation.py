"""`SyncConversation`: turns that follow each other."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Final

import pytest

from oxygent_client import Conversation
from oxygent_client.errors import ClosedError, ConfigurationError
from oxygent_client.sync import SyncConversation, SyncSSEOxyGent

if TYPE_CHECKING:
    from tests.sync.conftest import ServedToy

NAMES: Final = [name for name in dir(Conversation) if not name.startswith("_")]


@pytest.mark.parametrize("name", NAMES)
def test_the_names(name: str) -> None:
    """It has each public name of the asynchronous class, with a docstring, and the same parameters."""
    theirs, ours = getattr(Conversation, name), getattr(SyncConversation, name)
    assert ours.__doc__
    if inspect.isfunction(theirs):
        assert inspect.signature(ours).parameters.keys() == inspect.signature(theirs).parameters.keys()


def test_turns(toy: ServedToy) -> None:
    """A turn names the one before; a turn that was left is not in the history."""
    with SyncSSEOxyGent(toy.url).conversation(group_id="g") as chat:
        assert chat.ask("echo 1").output == "1"
        first = toy.runs[-1]
        assert [event.type for event in chat.stream("echo 2")][-1] == "answer"
        assert toy.runs[-1].payload["from_trace_id"] == first.trace_id
        for _ in chat.stream("slow"):
            break
        assert toy.state_after_leaving() == "cancelled"
        assert chat.ask("memory").output == ["echo 1", "echo 2", "memory"]
        assert [turn.query for turn in chat.history] == ["echo 1", "echo 2", "memory"]
        assert chat.group_id == "g"
        assert repr(chat) == "<SyncConversation g of 3 turns>"


def test_tokens_and_branches(toy: ServedToy) -> None:
    """A conversation goes on from a token, and from any of its turns."""
    agent = SyncSSEOxyGent(toy.url)
    chat = agent.conversation()
    chat.ask("echo 1")
    chat.ask("echo 2")
    again = agent.conversation(chat.to_token())
    assert [turn.query for turn in again.load_history()] == ["echo 1", "echo 2"]
    branch = again.branch(0)
    branch.ask("echo 3")
    assert toy.runs[-1].payload["from_trace_id"] == chat.history[0].trace_id
    assert len(branch.history) == 2
    with pytest.raises(ConfigurationError):
        again.branch(7)


def test_a_turn_before_it_begins(toy: ServedToy) -> None:
    """It has no ids yet; its end is that of any run."""
    run = SyncSSEOxyGent(toy.url).conversation().stream("echo 1")
    assert repr(run) == "<SyncRun>"
    with pytest.raises(ClosedError):
        _ = run.trace_id
    assert run.final_response().output == "1"
    assert run.trace_id == toy.runs[-1].trace_id
