"""Hybrid Deployments: a local agent calls a local tool and a remote agent by name.

Prints:
    166 euros on average, and the remote says 5 20 HELLO
    planner: agent, fmean: tool, enterprise_brain: agent
"""

import os
from statistics import fmean

import anyio

from oxygent_client import AgentRegistry, OxyRequest, SSEOxyGent
from oxygent_client.registry import Function
from oxygent_client.testing import ToyRemote
from oxygent_client.transports.asgi import ASGITransport

URL = os.environ.get("OXYGENT_URL", "http://toy")
TOY = None if "OXYGENT_URL" in os.environ else ASGITransport(ToyRemote(pace=0.1))


async def planner(request: OxyRequest) -> str:
    """Call the tool, then the remote agent; call stacks and node ids are set as in the framework."""
    price = await request.call(callee="fmean", arguments={"data": [89, 142, 267]})
    found = await request.call(callee="enterprise_brain", arguments={"query": "tools"})
    return f"{price.output:.0f} euros on average, and the remote says {found.output}"


async def main() -> None:
    """Register all three as members of one organization."""
    brain = SSEOxyGent(name="enterprise_brain", server_url=URL, transport=TOY)
    async with AgentRegistry(planner, Function(fmean, by_name=True), brain) as registry:
        print((await registry.call("planner", query="Plan my trip")).output)
        print(", ".join(f"{node['name']}: {node['type']}" for node in registry.organization()["children"]))


if __name__ == "__main__":
    anyio.run(main)
