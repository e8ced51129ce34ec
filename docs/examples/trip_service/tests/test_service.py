"""The service, called over HTTP in process."""

from typing import Any

import httpx
import pytest

from oxygent_client import SSEOxyGent, errors
from oxygent_client.pytest_plugin import FakeFactory, ServedToy
from oxygent_client.testing import tool_call
from service import TripService

pytestmark = pytest.mark.anyio


async def get(agent: SSEOxyGent, wish: str) -> tuple[int, Any]:
    """Return the status and the document that a browser gets."""
    transport = httpx.ASGITransport(TripService(agent))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        response = await client.get("/", params={"wish": wish})
    return response.status_code, response.json()


async def test_over_a_socket(toy_remote: ServedToy) -> None:
    """The remote gets the browser's wish."""
    status, trip = await get(SSEOxyGent(server_url=toy_remote.url), "echo a week in Rome")
    assert (status, trip["plan"]) == (200, "a week in Rome")
    assert [(run.query, run.state) for run in toy_remote.settled().runs] == [("echo a week in Rome", "finished")]


async def test_a_cut_run_is_not_repeated(oxygent_fake: FakeFactory) -> None:
    """The connection broke during a run, so a retry is not safe."""
    fake = oxygent_fake(tool_call("book_a_room"), errors.ConnectionLostError("gone"))
    agent = SSEOxyGent(server_url="http://remote", transport=fake)
    assert await get(agent, "Rome") == (502, {"error": "IncompleteStreamError"})
    assert len(fake.payloads) == 1
