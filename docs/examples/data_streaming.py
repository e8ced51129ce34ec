"""Data Streaming: rows from the remote are validated and summed up; a slow stage slows the remote down.

Prints:
    20, total 20
    many, total 20, invalid literal for int() with base 10: 'many'
    30, total 50
    sent 3
"""

import json
import os

import anyio

from oxygent_client import SSEOxyGent
from oxygent_client.testing import ToyRemote
from oxygent_client.testing.script import Say, Script
from oxygent_client.transports.asgi import ASGITransport

ROWS = [{"type": "row", "content": cents} for cents in (20, "many", 30)]
REMOTE = ToyRemote(scripts={"strings": Script([Say(row) for row in ROWS], output="sent 3")})
URL = os.environ.get("OXYGENT_URL", "http://toy")
TOY = None if "OXYGENT_URL" in os.environ else ASGITransport(REMOTE)


async def main() -> None:
    """Events are pulled one at a time; `schema` validates each."""
    total = 0
    agent = SSEOxyGent(server_url=URL, transport=TOY, schema={"row": lambda row: int(row["content"])})
    async with agent.stream(f"strings {json.dumps(ROWS)}") as run:
        async for event in run:
            if event.type == "row":
                await anyio.sleep(0.01)  # the database
                total += 0 if event.problems else event.content
                print(event.content, f"total {total}", *event.problems, sep=", ")
    print(run.response.output)


if __name__ == "__main__":
    anyio.run(main)
