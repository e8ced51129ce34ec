"""Chat Applications: a conversation of several turns that the remote remembers.

Prints:
    You: tools
      trip_planner calls search_flights
      trip_planner calls search_hotels
      trip_planner calls add_up
    Remote: 5 20 HELLO
    You: memory
    Remote: {'asked': ['tools'], 'answered': 1}
"""

import os

import anyio

from oxygent_client import SSEOxyGent, ToolCall
from oxygent_client.testing import ToyRemote, script
from oxygent_client.transports.asgi import ASGITransport

SAYS = {**script.SCRIPTS, "memory": script.Script(output={"asked": ["tools"], "answered": 1})}
URL = os.environ.get("OXYGENT_URL", "http://toy")
TOY = None if "OXYGENT_URL" in os.environ else ASGITransport(ToyRemote(scripts=SAYS))


async def main() -> None:
    """Each turn remembers those before; show calls as they happen, then the answer."""
    async with SSEOxyGent(server_url=URL, transport=TOY).conversation() as chat:
        for said in ("tools", "memory"):
            print(f"You: {said}")
            async with chat.stream(said) as run:
                async for event in run:
                    if isinstance(event, ToolCall) and event.caller != "user":
                        print(f"  {event.caller} calls {event.callee}")
            print(f"Remote: {run.response.output}")


if __name__ == "__main__":
    anyio.run(main)
