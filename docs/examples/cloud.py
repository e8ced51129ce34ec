"""Cloud Distribution: load balancing and failover over several instances, without running anything twice.

Prints:
    call 1
    call 2
    call 3
    2 connections were refused, and 3 of 3 calls went well
"""

import os

import anyio

from oxygent_client import Cluster, HTTPXTransport, SSEOxyGent
from oxygent_client.testing import ToyRemote, faults
from oxygent_client.transports.asgi import ASGITransport

URLS = os.environ.get("OXYGENT_URL", "http://one,http://two,http://three").split(",")
MOVER = HTTPXTransport() if "OXYGENT_URL" in os.environ else ASGITransport(ToyRemote(pace=0.1))


async def main() -> None:
    """The first two instances that are called refuse the connection."""
    starting = faults.refuse(MOVER, times=2)
    agent = SSEOxyGent(transport=Cluster(URLS, strategy="round_robin", transport=starting))
    for number in (1, 2, 3):
        print((await agent.ask(f"echo call {number}")).output)
    stats = agent.stats()
    print(f"{starting.struck} connections were refused, and {stats.successes} of {stats.runs} calls went well")
    await starting.aclose()


if __name__ == "__main__":
    anyio.run(main)
