"""Monitoring Systems: a health check, the outcomes of runs, and an alert.

Prints:
    alive: True
    3 runs: 2 went well, 1 failed (RemoteAgentError: 1), 0 in flight
    ALERT: 33 % of the runs failed
"""

import os

import anyio

from oxygent_client import OxyRequest, SSEOxyGent
from oxygent_client.testing import ToyRemote
from oxygent_client.transports.asgi import ASGITransport

URL = os.environ.get("OXYGENT_URL", "http://toy")
TOY = None if "OXYGENT_URL" in os.environ else ASGITransport(ToyRemote(pace=0.1))
MOST_FAILURES = 0.2


async def main() -> None:
    """A failed agent looks like a normal answer; `confirm_state=True` checks each one against the server's record."""
    agent = SSEOxyGent(server_url=URL, transport=TOY, confirm_state=True)
    print("alive:", await agent.check_alive())
    for query in ("echo one", "raise", "echo two"):
        await agent.execute(OxyRequest(arguments={"query": query}))
    stats = agent.stats()
    failed = sum(stats.failures.values())
    reasons = ", ".join(f"{name}: {count}" for name, count in stats.failures.items())
    print(f"{stats.runs} runs: {stats.successes} went well, {failed} failed ({reasons}), {stats.in_flight} in flight")
    if failed > MOST_FAILURES * stats.runs:
        print(f"ALERT: {100 * failed / stats.runs:.0f} % of the runs failed")


if __name__ == "__main__":
    anyio.run(main)
