"""Chat Applications: a conversation of several turns, in which the remote remembers those before.

Prints:
    You: Good morning!
    Remote: Good morning!
    You: What did I say?
    Remote: What did I say?
    2 turns in one conversation, the second after the first: True
"""

import os

import anyio

from oxygent_client import SSEOxyGent, TextDelta
from oxygent_client.testing import ToyRemote
from oxygent_client.transports.asgi import ASGITransport

URL = os.environ.get("OXYGENT_URL", "http://toy")
TOY = None if "OXYGENT_URL" in os.environ else ASGITransport(ToyRemote(pace=0.1))


async def main() -> None:
    """Each turn names the one before it; text is shown as the model writes it, where it comes in pieces."""
    turns = [""]
    async with SSEOxyGent(server_url=URL, transport=TOY) as agent:
        for said in ("Good morning!", "What did I say?"):
            print(f"You: {said}\nRemote: ", end="")
            async with agent.stream(f"echo {said}", group_id="my-chat", from_trace_id=turns[-1]) as run:
                async for event in run:
                    if isinstance(event, TextDelta):
                        print(event.text, end="", flush=True)
            print(run.response.output if not run.text else "")
            turns.append(run.trace_id)
    print(len(turns) - 1, "turns in one conversation, the second after the first:", turns[1] != turns[2])


if __name__ == "__main__":
    anyio.run(main)
