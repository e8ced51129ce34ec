"""Collaborative Systems: several people watch one run, each sees their own messages, and secrets are redacted.

Prints:
    Ada sees {'number': 'TP 533', 'password': '[scrubbed]'}
    Ben sees {'name': 'Casa do Miradouro', 'api_key': '[scrubbed]'}
"""

import json
import os
from typing import Any

import anyio

from oxygent_client import AgentRegistry, SSEOxyGent
from oxygent_client.sanitize import redact
from oxygent_client.testing import ToyRemote
from oxygent_client.testing.script import Say, Script
from oxygent_client.transports.asgi import ASGITransport

FLIGHT = {"type": "flight", "content": {"number": "TP 533", "password": "hunter2"}}
HOTEL = {"type": "hotel", "content": {"name": "Casa do Miradouro", "api_key": "k-4711"}}
REMOTE = ToyRemote(scripts={"strings": Script([Say(FLIGHT), Say(HOTEL)])})
URL = os.environ.get("OXYGENT_URL", "http://toy")
TOY = None if "OXYGENT_URL" in os.environ else ASGITransport(REMOTE)


async def show(message: Any, **_: Any) -> None:
    """Pass a message to the person it concerns."""
    if person := {"flight": "Ada", "hotel": "Ben"}.get(message["type"]):
        print(person, "sees", message["content"])


async def main() -> None:
    """Run once, with several observers."""
    async with AgentRegistry(SSEOxyGent(server_url=URL, transport=TOY, sanitize=redact()), on_message=show) as registry:
        await registry.call("remote", query=f"strings {json.dumps([FLIGHT, HOTEL])}")


if __name__ == "__main__":
    anyio.run(main)
