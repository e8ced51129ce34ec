"""Multi-system Integration: one system's answer goes through a function to another system.

Prints:
    flights says 142 euros
    billing says invoice over 161.88 dollars
    systems: flights, to_dollars, billing
"""

import os

import anyio

from oxygent_client import AgentRegistry, SSEOxyGent
from oxygent_client.registry import Function
from oxygent_client.testing import ToyRemote
from oxygent_client.transports.asgi import ASGITransport

URL = os.environ.get("OXYGENT_URL", "http://toy")
TOY = None if "OXYGENT_URL" in os.environ else ASGITransport(ToyRemote(pace=0.1))


def to_dollars(euros: float) -> float:
    """Convert an amount to the other currency."""
    return round(euros * 1.14, 2)


async def main() -> None:
    """Call both systems, each at its own URL in practice; foreign systems get no call stack."""
    flights = SSEOxyGent(name="flights", server_url=URL, transport=TOY, is_share_call_stack=False)
    billing = SSEOxyGent(name="billing", server_url=URL, transport=TOY, is_share_call_stack=False)
    async with AgentRegistry(flights, Function(to_dollars, by_name=True), billing) as registry:
        price = await registry.call("flights", query="echo 142")
        dollars = await registry.call("to_dollars", arguments={"euros": float(price.output)})
        invoice = await registry.call("billing", query=f"echo invoice over {dollars.output} dollars")
        print(f"flights says {price.output} euros\nbilling says {invoice.output}")
        print("systems:", ", ".join(registry.names))


if __name__ == "__main__":
    anyio.run(main)
