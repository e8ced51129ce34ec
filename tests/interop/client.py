"""A program as a user would start it in a terminal: it reads a run until it is interrupted.

Usage: python client.py asyncio|trio SERVER_URL TRACE_ID
"""

from __future__ import annotations

import asyncio
import sys

import trio

from oxygent_client import Progress, SSEOxyGent


async def stay(server_url: str, trace_id: str) -> None:
    """Print "running" once the remote agent has sent an event, then read on."""
    async with SSEOxyGent(server_url=server_url) as agent, agent.stream("slow 30", trace_id=trace_id) as run:
        said = False
        async for event in run:
            if isinstance(event, Progress) and not said:
                print("running", flush=True)
                said = True


if __name__ == "__main__":
    loop, url, trace = sys.argv[1:]
    if loop == "trio":
        trio.run(stay, url, trace)
    else:
        asyncio.run(stay(url, trace))
