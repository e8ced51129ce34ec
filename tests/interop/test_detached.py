"""Detached runs at real servers: started by one agent, read by another, and a lost end."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

import pytest

from oxygent_client import OxyState, Progress, SSEOxyGent, Timeouts, errors

from .cuts import Cut, line
from .environments import RELEASES
from .harness import PATIENT, UNRECORDED, unrecorded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oxygent_client import Event

    from .harness import RemoteServer

pytestmark = pytest.mark.anyio

with_detached_runs = pytest.mark.parametrize("server", RELEASES[:2], indirect=True)  # 1.0.8 has none to listen to
STARTED: Final = errors.Outcome.STARTED
SOON: Final = {"retry": 50}
"""Arguments with which the server sets a short `retry:`; the default is 3,000 ms."""
LOST: Final = Cut(said=b'"type": "answer"')
"""The answer and the close event are written to a lost connection."""


def steps(events: Sequence[Event]) -> list[Any]:
    """Return the numbers of the messages among `events`."""
    return [event.content["n"] for event in events if isinstance(event, Progress)]


@with_detached_runs
async def test_another_agent_reads(server: RemoteServer) -> None:
    """Any agent with the token gets all events since the start, and the answer."""
    tag = uuid.uuid4().hex
    handle = await SSEOxyGent(server_url=server.url, timeouts=PATIENT).start(f"tagged {tag} 5")
    await server.wait_for("finished", query=f"tagged {tag} 5", within=10.0)

    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT).attach(handle.to_token()) as run:
        events = [event async for event in run]

    assert steps(events) == [0, 1, 2, 3, 4]
    assert run.response.state is OxyState.COMPLETED
    assert run.response.output == tag
    assert handle.trace_id == run.response.extra["trace_id"]


@with_detached_runs
async def test_leaving_and_attaching_again(server: RemoteServer) -> None:
    """The run goes on after its reader left, and the next reader gets the rest, except events in transit."""
    query = f"paced {uuid.uuid4().hex} 15"
    agent = SSEOxyGent(server_url=server.url, timeouts=PATIENT)
    token = (await agent.start(query)).to_token()
    heard: list[Event] = []
    async with agent.attach(token) as run:
        async for event in run:
            heard.append(event)
            if len(steps(heard)) == 5:
                break
    first = len(heard)
    async with agent.attach(token) as run:
        heard += [event async for event in run]

    assert query.split()[1] == run.response.output
    assert sorted({*steps(heard)}) == steps(heard)
    assert len(heard) > first
    assert [record["event"] for record in server.records(query=query)] == ["started", "finished"]


@with_detached_runs
async def test_a_lost_end(server: RemoteServer) -> None:
    """An answer lost with a connection is recovered from the record."""
    query = f"tagged {uuid.uuid4().hex} 5"
    async with line(server.port, Cut(), LOST) as way:
        agent = SSEOxyGent(server_url=way.url, timeouts=PATIENT)
        token = (await agent.start(query, arguments=SOON)).to_token()
        async with agent.attach(token) as run:
            events = [event async for event in run]
        assert way.cut == 1

    assert steps(events) == [0, 1, 2, 3, 4]
    assert run.response.output == query.split()[1]
    assert run.response.extra["recovered"] is True
    assert len(server.records("started", query=query)) == 1


# ---------------------------------------------------------------------------------------------- Servers without records

without_records = pytest.mark.parametrize("kind", UNRECORDED)


@without_records
async def test_a_cut_without_records(newest: RemoteServer, kind: str) -> None:
    """A cut in mid-stream needs no record: the server keeps unsent events."""
    tag = uuid.uuid4().hex
    async with line(newest.port, Cut(), Cut(said=b'"n": 5}')) as way:
        agent = unrecorded(kind, way.url, timeouts=PATIENT)
        token = (await agent.start(f"paced {tag} 15", arguments=SOON)).to_token()
        async with agent.attach(token) as run:
            heard = steps([event async for event in run])
        assert way.cut == 1

    assert heard[:5] == [0, 1, 2, 3, 4]
    assert sorted({*heard}) == heard
    assert run.response.output == tag
    assert "recovered" not in run.response.extra


@without_records
async def test_a_lost_end_without_records(newest: RemoteServer, kind: str) -> None:
    """A lost answer without records raises IncompleteStreamError with the events so far."""
    seen: list[Event] = []
    async with line(newest.port, Cut(), LOST) as way:
        agent = unrecorded(kind, way.url, timeouts=Timeouts(idle=2.0, total=30.0))
        token = (await agent.start(f"tagged {uuid.uuid4().hex} 5", arguments=SOON)).to_token()
        with pytest.raises(errors.IncompleteStreamError) as caught:
            async with agent.attach(token) as run:
                async for event in run:
                    seen.append(event)  # noqa: PERF401  (what came before the error counts)

    assert caught.value.outcome is STARTED
    assert steps(seen) == [0, 1, 2, 3, 4]
    assert caught.value.partial is not None
    assert tuple(seen) == caught.value.partial.events
