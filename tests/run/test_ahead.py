"""Events of one chunk are taken ahead of the reader: it must not notice, whether the program listens or not."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from oxygent_client import (
    EventRouter,
    Timeouts,
    errors,
)
from oxygent_client._protocol.router import SetAnswer, answer, forward, forwards, inner_step
from oxygent_client._run.run import FORWARDED_TYPES
from oxygent_client.testing import FakeTransport, close, delta, message, pause, progress, text, tool_call
from oxygent_client.testing import answer as answer_event
from tests.support.plain import plain
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oxygent_client import Run, SSEOxyGent, Trace

URL: Final = "https://remote.test"
STEP: Final = {
    "node_id": "n",
    "caller": "user",
    "callee": "master",
    "caller_category": "user",
    "callee_category": "agent",
    "call_stack": ["user", "master"],
}
EVERYTHING: Final = [
    message({"type": "tool_call", "content": STEP}),
    *(delta(piece) for piece in "abc"),
    message({"type": "stream", "content": {"delta": "d"}}),
    message({"type": "stream", "content": "e"}),
    message({"type": "stream_end", "content": {"delta": "", "node_id": "n", "agent": "master"}}),
    message({"type": "stream", "content": {"delta": "x", "node_id": "n" * 5000, "agent": "master"}}),
    message({"type": "think", "content": "hm"}),
    progress(1),
    message({"type": "progress", "content": int("9" * 4000), "x": [1]}).replace(b"9" * 4000, b"9" * 5000),
    tool_call("search"),
    message({"type": "tool_call", "content": "malformed"}),
    message({"type": "metrics", "content": 1}),
    message({"type": "progress"}),
    message([1, 2]),
    text("plain text"),
    message({"type": "error", "content": "no tool"}),
    b'event: error\ndata: {"content": "no type"}\n\n',
    answer_event("1"),
    message({"type": "observation", "content": {**STEP, "output": "2"}}),
    *[progress(n) for n in range(70)],
    answer_event("2"),
    close(),
]
"""An event of each kind, and more of one kind than are taken at once."""


async def nothing(_: Any) -> None:
    """Handle a message: do nothing."""


def accept(_: Any) -> bool:
    """Accept a message."""
    return True


def own_forward(event: Any, link: Any) -> Any:
    """A route of the program, which does what the documented one does."""
    return forward(event, link)


LISTENERS: Final[Mapping[str, dict[str, Any]]] = {
    "nothing": {},
    "a handler of each type": {
        "event_handlers": dict.fromkeys((*FORWARDED_TYPES, "answer", "metrics", "error"), nothing)
    },
    "a filter": {"event_filter": accept},
    "a schema": {"schema": {"other": accept}},
    "routes of its own": {"router": EventRouter(dict.fromkeys(("stream", "progress", "think"), own_forward))},
}


def calls(trace: Trace) -> list[tuple[Any, ...]]:
    """The calls of a trace, without times."""
    return [(call.name, call.status, call.arguments, call.output, call.error) for call in trace.calls]


def seen(run: Run) -> dict[str, Any]:
    """What a run shows at one moment."""
    partial = run.partial
    return {
        "text": run.text,
        "texts": run.texts,
        "calls": calls(run.trace()),
        "outcome": run.outcome,
        "kept": [(type(event), event.content, event.sse, event.problems) for event in partial.events],
        "partial": (partial.text, partial.answer, partial.dropped),
    }


async def watched(agent: SSEOxyGent, every: int) -> list[Any]:
    """The events of a run, what it shows after every so many of them, and its result."""
    found: list[Any] = []
    async with agent.stream("hi") as run:
        async for event in run:
            found.append((type(event), event.type, event.content, event.message, event.sse, event.problems))
            if len(found) % every == 0:
                found.append(seen(run))
    return [*found, seen(run), run.response.output, agent.stats().events]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("every", [5, 1000])
@pytest.mark.parametrize("listener", [name for name in LISTENERS if name != "nothing"])
async def test_a_run_is_the_same_for_listeners(listener: str, every: int) -> None:
    """A run hands out and shows the same after each event, whether the program listens, and for any chunks."""
    chunks = {"one chunk": [b"".join(EVERYTHING)], "a chunk for each event": EVERYTHING}
    runs = [
        await watched(plain(server_url=URL, transport=FakeTransport.script(*pieces), **LISTENERS[name]), every)
        for name in ("nothing", listener)
        for pieces in chunks.values()
    ]
    assert runs[1:] == [runs[0]] * 3


@pytest.mark.parametrize("first", [0, 1, 2])
async def test_a_schema_that_is_filled_during_a_run(first: int) -> None:
    """It validates the events that are received from then on."""
    seen_by_it: list[Any] = []
    schema: dict[str, Any] = {}
    transport = FakeTransport.script(
        progress(1), pause(1), progress(2), pause(1), progress(3), answer_event("42"), close()
    )
    run, count = plain(server_url=URL, transport=transport, schema=schema).stream("hi"), 0
    if first == 0:
        schema["progress"] = seen_by_it.append
    async with run:
        async for _ in run:
            count += 1
            if count == first:
                schema["progress"] = seen_by_it.append
    assert [each["content"] for each in seen_by_it] == [1, 2, 3][first:]


async def test_a_handler_that_is_added_between_two_events_of_a_chunk() -> None:
    """It is called from the next event on."""
    heard: list[Any] = []

    async def handle(content: Any) -> None:
        heard.append(content)

    agent = plain(
        server_url=URL, transport=FakeTransport.script(b"".join([*map(progress, range(5)), answer_event(1), close()]))
    )
    async with agent.stream("hi") as run:
        await anext(run)
        await anext(run)
        agent.event_handlers = {"progress": handle}
        await run.final_response()
    assert heard == [2, 3, 4]


@pytest.mark.parametrize("name", ["_process_custom_event", "handle_tool_call_event", "handle_observation_event"])
async def test_a_hook_that_is_assigned_between_two_events_of_a_chunk(name: str) -> None:
    """It is called from the next event of its kind on."""
    heard: list[str] = []

    async def hook(event_data: Any, oxy_request: Any) -> None:
        heard.append(event_data["type"])

    kinds = {"_process_custom_event": "progress"}
    kind = kinds.get(name, name.removeprefix("handle_").removesuffix("_event"))
    events = [message({"type": kind, "content": {**STEP, "x": number}}) for number in range(3)]
    agent = plain(server_url=URL, transport=FakeTransport.script(b"".join([*events, answer_event(1), close()])))
    async with agent.stream("hi") as run:
        await anext(run)
        setattr(agent, name, hook)
        await run.final_response()
    assert heard == [kind, kind]


async def test_total_between_two_events_of_a_chunk() -> None:
    """The time-out of the whole call fires while a slow program reads the events of one chunk."""
    transport = FakeTransport.script(b"".join([*map(progress, range(9)), answer_event(1), close()]))
    agent = plain(server_url=URL, transport=transport, timeouts=Timeouts(total=10))
    count = 0
    with pytest.raises(errors.DeadlineExceededError) as caught:
        async with agent.stream("hi") as run:
            async for _ in run:
                count += 1
                await anyio.sleep(3)
    assert count == 4
    assert caught.value.partial is not None
    assert len(caught.value.partial.events) == 10
    assert agent.stats().events == 10


ROUTERS: Final[dict[str, tuple[Any, bool]]] = {
    "the documented routes": (EventRouter(), True),
    "another route of answers": (EventRouter({"answer": lambda event, link: SetAnswer(1)}), True),
    "another route of text": (EventRouter({"stream": answer}), False),
    "another route of steps": (EventRouter({"tool_call": own_forward}), False),
    "its own names for the routes": (EventRouter({"tool_call": inner_step, "stream": forward}), True),
    "the route of steps for text": (EventRouter({"stream": inner_step}), False),
    "the route of text for steps": (EventRouter({"tool_call": forward}), True),
    "another class": (type("Own", (EventRouter,), {})(), False),
}


@pytest.mark.parametrize(("router", "expected"), ROUTERS.values(), ids=ROUTERS)
def test_routers_that_only_forward(router: Any, expected: bool) -> None:
    """A route is left out only if all that it does is known."""
    assert forwards(router, FORWARDED_TYPES) is expected


class Mark:
    """An object in a message: it is gone when nobody holds the message."""


async def test_what_was_handed_out_is_not_held() -> None:
    """While the program has the last event of a chunk, the run holds nothing of it: that would be cold memory later."""
    transport = FakeTransport.script(delta("a"), delta("b"), progress(1), answer_event("1"), close())
    held = list[bool]()
    async with plain(server_url=URL, transport=transport).stream("hi") as run:
        async for event in run:
            event.message["mark"] = Mark()
            mark = weakref.ref(event.message["mark"])
            del event
            held.append(mark() is not None)
    assert held == [False] * 4
