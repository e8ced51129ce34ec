"""Real-time Collaboration: several users and agents at once, each with their own answers.

Prints:
    Ada asked hotels: quiet nights
    Ben asked flights: mornings
    Cem asked hotels: a terrace
    one conversation, 3 runs
"""

import os

import anyio

from oxygent_client import AgentRegistry, OxyResponse, SSEOxyGent
from oxygent_client.testing import ToyRemote
from oxygent_client.transports.asgi import ASGITransport

URL = os.environ.get("OXYGENT_URL", "http://toy")
TOY = None if "OXYGENT_URL" in os.environ else ASGITransport(ToyRemote(pace=0.1))
USERS = {"Ada": ("hotels", "quiet nights"), "Ben": ("flights", "mornings"), "Cem": ("hotels", "a terrace")}


async def main() -> None:
    """Each call is a run of its own, also with the same trace id as others in flight."""
    agents = [SSEOxyGent(name=name, server_url=URL, transport=TOY) for name in ("hotels", "flights")]
    done: dict[str, OxyResponse] = {}
    async with AgentRegistry(*agents) as registry, anyio.create_task_group() as tasks:

        async def work(user: str, agent: str, wish: str) -> None:
            done[user] = await registry.call(agent, query=f"echo {wish}", group_id="trip-42", current_trace_id="plan")

        for user, (agent, wish) in USERS.items():
            tasks.start_soon(work, user, agent, wish)
    for user, (agent, _) in USERS.items():
        print(f"{user} asked {agent}: {done[user].output}")
    print("one conversation,", len({response.extra["remote_trace_id"] for response in done.values()}), "runs")


if __name__ == "__main__":
    anyio.run(main)
