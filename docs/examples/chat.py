"""Chat Applications: a conversation of several turns, in which the remote remembers those before.

Prints:
    You: stream ["You like ", "tea."]
    Remote: You like tea.
    You: memory
    Remote: {'asked': ['stream ["You like ", "tea."]'], 'answered': 1}
"""

import os

import anyio

from oxygent_client import SSEOxyGent, TextDelta
from oxygent_client.testing import ToyRemote
from oxygent_client.testing.script import Script, Stream
from oxygent_client.transports.asgi import ASGITransport

ASKED = 'stream ["You like ", "tea."]'
TEXT = Script([Stream("You like tea.", 0.2)], output="You like tea.")
MEMORY = Script(output={"asked": [ASKED], "answered": 1})
URL = os.environ.get("OXYGENT_URL", "http://toy")
TOY = None if "OXYGENT_URL" in os.environ else ASGITransport(ToyRemote(scripts={"stream": TEXT, "memory": MEMORY}))


async def main() -> None:
    """Each turn names the one before it; text is shown as the model writes it, where it comes in pieces."""
    before = ""
    async with SSEOxyGent(server_url=URL, transport=TOY) as agent:
        for said in (ASKED, "memory"):
            print(f"You: {said}\nRemote: ", end="")
            async with agent.stream(said, group_id="my-chat", from_trace_id=before) as run:
                async for event in run:
                    print(event.text if isinstance(event, TextDelta) else "", end="", flush=True)
            print("" if run.text else run.response.output)
            before = run.trace_id


if __name__ == "__main__":
    anyio.run(main)
