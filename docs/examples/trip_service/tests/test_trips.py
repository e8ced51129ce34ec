"""Trips planned by a real remote: recorded once, then replayed."""

import pytest

from oxygent_client import SSEOxyGent, Transport
from trips import plan


@pytest.mark.anyio
async def test_a_trip_to_lisbon(oxygent_cassette: Transport) -> None:
    """The plan comes from the remote, which called flights before hotels."""
    agent = SSEOxyGent(server_url="http://127.0.0.1:8082", transport=oxygent_cassette)
    trip = await plan(agent, "trip to Lisbon")
    assert trip.plan.startswith("## Lisbon, Friday to Monday")
    assert trip.asked.index("search_flights") < trip.asked.index("search_hotels")
