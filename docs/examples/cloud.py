"""Cloud distribution: calls spread over instances; where one is down, the next is asked, and nothing runs twice.

Prints:
    call 1; failures: 1 1 0
    call 2; failures: 0 1 0
    call 3; failures: 0 0 0
"""

import os

import anyio

from oxygent_client import HTTPXTransport, SSEOxyGent
from oxygent_client.cluster import Cluster
from oxygent_client.testing import ToyRemote, faults
from oxygent_client.transports.asgi import ASGITransport

URLS = os.environ.get("OXYGENT_URL", "http://one,http://two,http://three").split(",")
MOVER = HTTPXTransport() if "OXYGENT_URL" in os.environ else ASGITransport(ToyRemote(pace=0.1))


async def main() -> None:
    """The first two instances that are asked are not there yet."""
    cluster = Cluster(URLS, strategy="round_robin", transport=faults.refuse(MOVER, times=2))
    async with SSEOxyGent(transport=cluster) as agent:
        for number in (1, 2, 3):
            response = await agent.ask(f"echo call {number}")
            print(f"{response.output}; failures:", *(each.failures for each in await cluster.status()))
    await cluster.aclose()


if __name__ == "__main__":
    anyio.run(main)
