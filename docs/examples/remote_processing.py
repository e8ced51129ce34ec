"""Remote Processing: start a detached run, disconnect, and reconnect for its events and its result.

Prints:
    started; the token says where: True
    back again: 9 events, and the answer 5 20 HELLO
    the server's own record: COMPLETED
"""

import os

import anyio

from oxygent_client import SSEOxyGent
from oxygent_client.testing import ToyRemote
from oxygent_client.transports.asgi import ASGITransport

URL = os.environ.get("OXYGENT_URL", "http://toy")
TOY = None if "OXYGENT_URL" in os.environ else ASGITransport(ToyRemote(pace=0.1))


async def begin() -> str:
    """Start the run; store the token in a file, a database, a cookie."""
    handle = await SSEOxyGent(server_url=URL, transport=TOY).start("tools")
    print("started; the token says where:", handle.server_url == URL)
    return handle.to_token()


async def main() -> None:
    """Attach with another agent, perhaps in another process."""
    token = await begin()
    agent = SSEOxyGent(server_url=URL, transport=TOY)
    async with agent.attach(token) as run:
        events = [event async for event in run]
    print(f"back again: {len(events)} events, and the answer {run.response.output}")
    record = await agent.lookup(run.trace_id)
    print("the server's own record:", record and record.state and record.state.name)


if __name__ == "__main__":
    anyio.run(main)
