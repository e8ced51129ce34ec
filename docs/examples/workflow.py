"""Interactive Workflows: step by step; a person decides while the remote waits.

Prints:
    1. look: 5 20 HELLO
    the remote asks; the person says: yes, book it
    2. decide: ['yes, book it']
    3. book: booked
"""

import os

import anyio

from oxygent_client import SSEOxyGent
from oxygent_client.testing import ToyRemote
from oxygent_client.testing.script import SCRIPTS, Pause, Say, Script
from oxygent_client.transports.asgi import ASGITransport

ASKING = Script([Say({"type": "asked", "content": None}), Pause(2)], output=["yes, book it"])
URL = os.environ.get("OXYGENT_URL", "http://toy")
REMOTE = ToyRemote(pace=0.1, scripts={**SCRIPTS, "human": ASKING})
TOY = None if "OXYGENT_URL" in os.environ else ASGITransport(REMOTE)


async def main() -> None:
    """Each step is a run; `feedback` replies to the active one, and an empty text ends the input."""
    async with SSEOxyGent(server_url=URL, transport=TOY) as agent:
        for number, (step, query) in enumerate({"look": "tools", "decide": "human", "book": "echo booked"}.items(), 1):
            async with agent.stream(query) as run:
                async for event in run:
                    if event.type == "asked":
                        print("the remote asks; the person says: yes, book it")
                        await agent.feedback(run.trace_id, "yes, book it")
                        await agent.feedback(run.trace_id, "")
            print(f"{number}. {step}: {run.response.output}")


if __name__ == "__main__":
    anyio.run(main)
