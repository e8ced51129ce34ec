"""Real-time Dashboards: the active agents and tools, redrawn at every call.

Prints:
    At work: trip_planner
    At work: trip_planner, search_flights
    At work: trip_planner, search_hotels
    At work: trip_planner, search_hotels, add_up
    At work: none; the answer: 5 20 HELLO
"""

import os

import anyio

from oxygent_client import Observation, SSEOxyGent, ToolCall
from oxygent_client.testing import ToyRemote
from oxygent_client.transports.asgi import ASGITransport

URL = os.environ.get("OXYGENT_URL", "http://toy")
TOY = None if "OXYGENT_URL" in os.environ else ASGITransport(ToyRemote(pace=0.1))


async def main() -> None:
    """Track the calls that have started and not ended."""
    busy: dict[str, str] = {}
    async with SSEOxyGent(server_url=URL, transport=TOY).stream("tools") as run:
        async for event in run:
            if isinstance(event, ToolCall):
                busy[event.node_id] = event.callee
                print("At work:", ", ".join(busy.values()))
            elif isinstance(event, Observation):
                del busy[event.node_id]
    print(f"At work: {', '.join(busy) or 'none'}; the answer: {run.response.output}")


if __name__ == "__main__":
    anyio.run(main)
