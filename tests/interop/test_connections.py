"""Connections to a real server: reused while fresh, and never when the server may have closed them."""

from __future__ import annotations

import os
import random
import uuid
from typing import TYPE_CHECKING

import anyio
import pytest

from oxygent_client import OxyState, SSEOxyGent

from .harness import PATIENT

if TYPE_CHECKING:
    from .harness import RemoteServer

pytestmark = pytest.mark.anyio

# uvicorn closes an idle connection after 5 s, so the pauses reach from none to beyond it.
LONGEST_SPACING_SECONDS = 6.0
# They share the pauses: the mean is 3 s, so that one user would take two minutes for 40 calls.
USERS = 4
# The number of calls times this; the pauses stay spread from 0 to 6 s.
CALLS = max(3, round(40 * float(os.environ.get("OXYGENT_CLIENT_INTEROP_SPACING", "1"))))


def runs_by_connection(server: RemoteServer, since: int) -> list[int]:
    """Return the client's port of each run since then."""
    return [r["peer"] for r in server.records("request", since=since) if r.get("path") == "/sse/chat" and "peer" in r]


async def test_keep_alive(server: RemoteServer) -> None:
    """Inside `async with agent`, successive calls share a connection."""
    before = len(server.records())
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        for n in range(5):
            assert (await agent.ask(f"echo {n}")).output == str(n)

    ports = runs_by_connection(server, before)
    assert len(ports) == 5
    assert len(set(ports)) == 1


async def test_a_complete_stream_releases_its_connection(newest: RemoteServer) -> None:
    """A stream of hundreds of events that was read to its end releases its connection."""
    before = len(newest.records())
    async with SSEOxyGent(server_url=newest.url, timeouts=PATIENT) as agent:
        for _ in range(5):
            async with agent.stream("tagged x 200") as run:
                async for _ in run:
                    pass

    ports = runs_by_connection(newest, before)
    assert len(ports) == 5
    assert len(set(ports)) == 1


async def test_calls_with_any_pause(newest: RemoteServer) -> None:
    """Calls with pauses from 0 to 6 s all succeed, and each runs once: no stale connection is used."""
    spacings = [LONGEST_SPACING_SECONDS * n / (CALLS - 1) for n in range(CALLS)]
    mark = uuid.uuid4().hex

    async def use(numbers: list[int]) -> None:
        async with SSEOxyGent(server_url=newest.url, timeouts=PATIENT) as agent:
            await agent.ask("echo first")  # from here on there is a connection to be kept
            for n in numbers:
                await anyio.sleep(spacings[n])
                response = await agent.ask(f"echo {mark} {n}")
                seen = (n, spacings[n], response.state, response.output)
                assert (n, spacings[n], OxyState.COMPLETED, f"{mark} {n}") == seen

    async with anyio.create_task_group() as users:
        for user in range(USERS):
            numbers = list(range(user, CALLS, USERS))
            random.Random(user).shuffle(numbers)
            users.start_soon(use, numbers)

    for n in range(CALLS):
        assert len(newest.records("started", query=f"echo {mark} {n}")) == 1
