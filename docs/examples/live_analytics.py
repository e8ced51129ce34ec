"""Live Analytics: figures about the running agents, updated at every call.

Prints:
    1 calls, depth 1, most asked: trip_planner
    2 calls, depth 2, most asked: trip_planner
    3 calls, depth 3, most asked: trip_planner
    4 calls, depth 4, most asked: trip_planner
    4 of 4 calls have ended; the answer: master(middle(leaf(42)))
"""

import os
from collections import Counter

import anyio

from oxygent_client import Observation, SSEOxyGent, ToolCall
from oxygent_client.testing import ToyRemote
from oxygent_client.transports.asgi import ASGITransport

URL = os.environ.get("OXYGENT_URL", "http://toy")
TOY = None if "OXYGENT_URL" in os.environ else ASGITransport(ToyRemote(pace=0.1))


async def main() -> None:
    """Count typed events while they stream."""
    asked: Counter[str] = Counter()
    ended = deepest = 0
    async with SSEOxyGent(server_url=URL, transport=TOY).stream("nested") as run:
        async for event in run:
            if isinstance(event, ToolCall):
                asked[event.callee] += 1
                deepest = max(deepest, len(event.call_stack) - 1)
                print(f"{asked.total()} calls, depth {deepest}, most asked: {asked.most_common(1)[0][0]}")
            ended += isinstance(event, Observation)
    print(f"{ended} of {asked.total()} calls have ended; the answer: {run.response.output}")


if __name__ == "__main__":
    anyio.run(main)
