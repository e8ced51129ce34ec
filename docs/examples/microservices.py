"""Microservices Architecture: services by name, each with its own token, and a fallback for one that is down.

Prints:
    search: flights to Lisbon
    prices: COMPLETED yesterday's prices (for prices)
    search is BearerAuth.from_env('SEARCH_TOKEN')
"""

import os

import anyio

from oxygent_client import AgentRegistry, BearerAuth, OxyRequest, Retry, SSEOxyGent
from oxygent_client.testing import FakeTransport, ToyRemote, faults
from oxygent_client.transports.asgi import ASGITransport

os.environ.setdefault("SEARCH_TOKEN", "t0p-secret")  # your platform does this
URL = os.environ.get("OXYGENT_URL", "https://toy")
TOY = None if "OXYGENT_URL" in os.environ else ASGITransport(ToyRemote(pace=0.1))
DOWN = faults.refuse(FakeTransport({}), times=None)


async def old_prices(request: OxyRequest) -> str:
    """Fall back to the last known prices."""
    return "yesterday's prices"


async def main() -> None:
    """A service that surely ran nothing is retried; then the fallback answers."""
    search = SSEOxyGent(name="search", server_url=URL, transport=TOY, auth=BearerAuth.from_env("SEARCH_TOKEN"))
    prices = SSEOxyGent(name="prices", server_url="https://prices", transport=DOWN, retry=Retry(attempts=2, base=0.1))
    async with AgentRegistry(search, prices, fallback={"prices": old_prices}) as registry:
        print("search:", (await registry.call("search", query="echo flights to Lisbon")).output)
        known = await registry.call("prices", query="Lisbon in June")
        print("prices:", known.state.name, known.output, f"(for {known.extra['fallback_for']})")
    print("search is", search.auth)


if __name__ == "__main__":
    anyio.run(main)
