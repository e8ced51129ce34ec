"""Failures at a real server: the caller's error, and never a false success."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from oxygent_client import OxyState, Progress, SSEOxyGent, Timeouts, errors

from .environments import RELEASES
from .harness import PATIENT, RECORDED

if TYPE_CHECKING:
    from collections.abc import Callable

    from .harness import RemoteServer

pytestmark = pytest.mark.anyio


async def test_an_agent_that_raises(server: RemoteServer) -> None:
    """A failed agent sends a normal answer, and its record has FAILED; the framework ran it twice for one request."""
    trace = uuid.uuid4().hex
    before = len(server.records())
    async with SSEOxyGent(server_url=server.url, timeouts=RECORDED) as agent:
        with pytest.raises(errors.RemoteAgentError) as caught:
            await agent.ask("raise", trace_id=trace)

    error = caught.value
    assert error.state is OxyState.FAILED
    assert error.output == "Error executing oxy master: scripted failure"
    assert [r["event"] for r in server.records(trace_id=trace)] == ["started", "raised"] * 2
    assert len([r for r in server.records("request", since=before) if r.get("path") == "/sse/chat"]) == 1


async def test_an_unknown_callee(server: RemoteServer) -> None:
    """A callee that the server's list lacks is refused before a run is sent; 1.0.8 has no such list."""
    before = len(server.records())
    async with SSEOxyGent(server_url=server.url, callee="nobody", timeouts=Timeouts(idle=1.0)) as agent:
        if server.version == "1.0.8":
            with pytest.raises(errors.IdleTimeoutError):
                await agent.ask("echo anyone?")
        else:
            with pytest.raises(errors.UnknownCalleeError, match="nobody"):
                await agent.ask("echo anyone?")

    posts = [r for r in server.records("request", since=before) if r.get("path") == "/sse/chat"]
    assert len(posts) == (server.version == "1.0.8")


async def test_an_unknown_callee_unchecked(server: RemoteServer) -> None:
    """Unchecked, such a run never starts and its stream stays open: the idle time-out ends it."""
    async with SSEOxyGent(
        server_url=server.url, callee="nobody", check_callee=False, timeouts=Timeouts(idle=1.0)
    ) as agent:
        with pytest.raises(errors.IdleTimeoutError):
            await agent.ask("echo anyone?")


async def test_a_named_callee(server: RemoteServer) -> None:
    """A callee that the server knows answers in place of the master."""
    async with SSEOxyGent(server_url=server.url, callee="other_agent", timeouts=PATIENT) as agent:
        response = await agent.ask("who?")

    assert response.output == "other_agent heard who?"


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("end", ["kill", "terminate"])
async def test_a_server_that_dies_in_mid_stream(
    start_server: Callable[[str], RemoteServer], version: str, end: str
) -> None:
    """A run whose server is killed or stopped, without a `close` event, is not COMPLETED, and its events are kept."""
    server = start_server(version)
    seen: list[object] = []
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent, agent.stream("slow 30") as run:
        with pytest.raises((errors.IncompleteStreamError, errors.ConnectionLostError)) as caught:
            async for event in run:
                if isinstance(event, Progress):
                    seen.append(event.content)
                    if len(seen) == 5:
                        getattr(server, end)()

    assert len(seen) >= 5
    error = caught.value
    assert error.outcome == errors.Outcome.STARTED
    assert error.partial is not None
    assert [e.content for e in error.partial.events if isinstance(e, Progress)] == seen
    assert error.partial.answer is None
    with pytest.raises(type(error)):
        _ = run.response


async def test_a_server_that_dies_fails_execute(start_server: Callable[[str], RemoteServer]) -> None:
    """`ask` raises the error that the stream raises."""
    server = start_server(RELEASES[0])

    async def stop(_: object) -> None:
        server.terminate()

    async with SSEOxyGent(server_url=server.url, event_handlers={"progress": stop}, timeouts=PATIENT) as agent:
        with pytest.raises((errors.IncompleteStreamError, errors.ConnectionLostError)):
            await agent.ask("slow 30")
