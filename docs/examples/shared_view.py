"""Collaborative Systems: several people watch one run, each what concerns them, and nobody sees a secret.

Prints:
    Ada sees calls: search_flights, search_hotels, add_up
    Ben sees results: 5, HELLO, 20
    Both see the answer: 5 20 HELLO
"""

import os
from typing import Any

import anyio

from oxygent_client import AgentRegistry, SSEOxyGent
from oxygent_client.sanitize import redact
from oxygent_client.testing import ToyRemote
from oxygent_client.transports.asgi import ASGITransport

URL = os.environ.get("OXYGENT_URL", "http://toy")
TOY = None if "OXYGENT_URL" in os.environ else ASGITransport(ToyRemote(pace=0.1))
SEEN: dict[str, list[str]] = {"tool_call": [], "observation": []}


async def show(message: Any, **_: Any) -> None:
    """Hand a message to whom it concerns."""
    SEEN[message["type"]].append(str(message["content"].get("output", message["content"]["callee"])))


async def main() -> None:
    """One registry, one run, many who watch."""
    agent = SSEOxyGent(server_url=URL, transport=TOY, sanitize=redact())
    async with AgentRegistry(agent, on_message=show) as registry:
        response = await registry.call("remote", query="tools")
    print("Ada sees calls:", ", ".join(SEEN["tool_call"]))
    print("Ben sees results:", ", ".join(SEEN["observation"]))
    print("Both see the answer:", response.output)


if __name__ == "__main__":
    anyio.run(main)
