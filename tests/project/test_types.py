"""Promises to type checkers: both check this file in the session `types`; the functions run as tests too."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final, Literal, assert_never, assert_type, get_args

import attrs
import pytest

import oxygent_client
from oxygent_client import (
    Answer,
    AnyEvent,
    Custom,
    Event,
    Observation,
    Outcome,
    OxyRequest,
    OxyResponse,
    OxyState,
    Progress,
    RemoteErrorEvent,
    ServerSentEvent,
    SSEOxyGent,
    Text,
    TextDelta,
    Thought,
    ToolCall,
)
from oxygent_client._protocol.messages import EVENTS, to_event
from oxygent_client._protocol.router import ROUTES
from oxygent_client.testing import FakeTransport, answer, close, progress

if TYPE_CHECKING:
    from oxygent_client import Run

EVENT_CLASSES: Final[tuple[type[Event], ...]] = get_args(AnyEvent)


def name_of(event: AnyEvent) -> str:
    """Without a case for one of the classes, `match` would be an error in both type checkers."""
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
        case Thought():
            assert_type(event.type, Literal["think"])
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
    """A run yields events of the union."""
    agent = SSEOxyGent(server_url="http://remote.test", transport=FakeTransport.script(progress(1), answer(2), close()))
    stream: Run = agent.stream("hi")
    async with stream as run:
        assert [name_of(event) async for event in run] == ["progress", "answer"]


async def test_a_sender_is_assigned() -> None:
    """An async function can be assigned to `send_message`, and a clone keeps it."""
    heard: list[Any] = []

    async def mine(message: Any) -> None:
        heard.append(message)

    request = OxyRequest(arguments={"query": "hi"})
    request.send_message = mine
    await request.clone_with().send_message("progress")
    assert heard == ["progress"]


def test_the_fields_of_a_request_are_shown() -> None:
    """`help()` shows the fields of a request as keyword parameters, with types and defaults."""
    parameters = inspect.signature(OxyRequest).parameters
    assert [*parameters] == [field.name for field in attrs.fields(OxyRequest)]
    assert str(parameters["idempotent"]) == "idempotent: 'bool' = False"


FAILED: Final = OxyResponse(
    OxyState.FAILED, "no", {"trace_id": "t", "remote_trace_id": "r", "outcome": "started", "error": "StatusError"}
)
VIEWS: Final = [
    (FAILED, "t", "r", Outcome.STARTED, "StatusError", False),
    (OxyResponse(OxyState.COMPLETED, 42, {"recovered": True}), "", "", Outcome.COMPLETED, "", True),
    (OxyResponse(OxyState.FAILED, "no", {"outcome": "unheard-of"}), "", "", None, "", False),
]


@pytest.mark.parametrize(
    ("response", "trace_id", "remote_trace_id", "outcome", "error", "recovered"), VIEWS, ids=["failed", "good", "other"]
)
def test_the_views_of_a_response(
    response: OxyResponse, trace_id: str, remote_trace_id: str, outcome: Outcome | None, error: str, recovered: bool
) -> None:
    """The usual keys of `extra` are typed properties."""
    assert assert_type(response.trace_id, str) == trace_id
    assert assert_type(response.remote_trace_id, str) == remote_trace_id
    assert assert_type(response.outcome, Outcome | None) == outcome
    assert assert_type(response.error, str) == error
    assert assert_type(response.recovered, bool) == recovered


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
