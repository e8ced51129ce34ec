"""Chat Applications: a conversation of several turns that the remote remembers; answers appear while they are written.

Prints:
    You: tools
    Remote: 5 20 HELLO
    You: memory
    Remote: {'asked': ['tools'], 'answered': 1}
"""

import os

import anyio

from oxygent_client import SSEOxyGent
from oxygent_client.testing import ToyRemote, script
from oxygent_client.transports.asgi import ASGITransport

SAYS = {**script.SCRIPTS, "memory": script.Script(output={"asked": ["tools"], "answered": 1})}
URL = os.environ.get("OXYGENT_URL", "http://toy")
TOY = None if "OXYGENT_URL" in os.environ else ASGITransport(ToyRemote(scripts=SAYS))


async def main() -> None:
    """Each turn remembers those before; show each answer while it is written."""
    async with SSEOxyGent(server_url=URL, transport=TOY).conversation() as chat:
        for said in ("tools", "memory"):
            print(f"You: {said}\nRemote: ", end="")
            async with chat.stream(said) as run:
                async for text in run.text_stream:
                    print(text, end="", flush=True)
            print()


if __name__ == "__main__":
    anyio.run(main)
