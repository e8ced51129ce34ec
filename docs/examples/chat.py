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
    """Continue the conversation by trace id; show calls as they happen, then the answer."""
    agent, before = SSEOxyGent(server_url=URL, transport=TOY), ""
    for said in ("tools", "memory"):
        print(f"You: {said}")
        async with agent.stream(said, group_id="my-chat", from_trace_id=before) as run:
            async for event in run:
                if isinstance(event, ToolCall) and event.caller != "user":
                    print(f"  {event.caller} calls {event.callee}")
        print(f"Remote: {run.response.output}")
        before = run.trace_id


if __name__ == "__main__":
    anyio.run(main)
