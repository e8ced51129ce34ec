"""Promises to type checkers: both read this file in the session `types`; as tests the functions run, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, assert_never, assert_type, get_args

import pytest

import oxygent_client
from oxygent_client import (
    Answer,
    AnyEvent,
    Custom,
    Event,
    Observation,
    Progress,
    RemoteErrorEvent,
    ServerSentEvent,
    SSEOxyGent,
    Text,
    TextDelta,
    ToolCall,
)
from oxygent_client._protocol.messages import EVENTS, to_event
from oxygent_client._protocol.router import ROUTES
from oxygent_client.testing import FakeTransport, answer, close, progress

if TYPE_CHECKING:
    from oxygent_client import Run

EVENT_CLASSES: Final[tuple[type[Event], ...]] = get_args(AnyEvent)


def name_of(event: AnyEvent) -> str:
    """A `match` without a case for one of the classes would be an error in both type checkers."""
    match event:
        case Answer():
            assert_type(event.type, Literal["answer"])
            return "answer"
        case ToolCall():
            assert_type(event.type, Literal["tool_call"])
            return event.callee
        case Observation():
            assert_type(event.type, Literal["observation"])
            return event.callee
        case TextDelta():
            assert_type(event.type, Literal["stream", "stream_end"])
            return event.text
        case Progress():
            assert_type(event.type, Literal["progress"])
            return "progress"
        case RemoteErrorEvent():
            assert_type(event.type, Literal["error"])
            return "error"
        case Custom():
            return event.type or "custom"
        case Text():
            return event.text
        case _:
            assert_never(event)


async def test_the_events_of_a_run() -> None:
    """A run hands out events of the union."""
    agent = SSEOxyGent(server_url="http://remote.test", transport=FakeTransport.script(progress(1), answer(2), close()))
    stream: Run = agent.stream("hi")
    async with stream as run:
        assert [name_of(event) async for event in run] == ["progress", "answer"]


@pytest.mark.parametrize(("kind", "cls"), EVENTS.items(), ids=EVENTS)
def test_a_class_declares_its_types(kind: str, cls: type[Any]) -> None:
    """A message of a declared type is an event of that class, and its type has a row in the router."""
    event = to_event(ServerSentEvent(data=f'{{"type": "{kind}", "content": {{}}}}'))
    assert type(event) is cls
    assert kind in ROUTES


@pytest.mark.parametrize("cls", EVENT_CLASSES)
def test_a_class_of_events_is_public(cls: type[Event]) -> None:
    """Each class of the union is a public name of the package."""
    assert getattr(oxygent_client, cls.__name__) is cls
    assert cls.__name__ in oxygent_client.__all__
