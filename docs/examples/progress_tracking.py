"""Progress Tracking: a progress bar for a long task, from a handler of one event type.

Prints:
    [#..] step 1 of 3
    [##.] step 2 of 3
    [###] step 3 of 3
    COMPLETED
"""

import os
from typing import Any

import anyio

from oxygent_client import SSEOxyGent, Timeouts
from oxygent_client.testing import ToyRemote
from oxygent_client.testing.script import Pause, Say, Script
from oxygent_client.transports.asgi import ASGITransport

STEPS = [step for n in range(3) for step in (Pause(1), Say({"type": "progress", "content": {"step": n, "of": 3}}))]
URL = os.environ.get("OXYGENT_URL", "http://toy")
TOY = None if "OXYGENT_URL" in os.environ else ASGITransport(ToyRemote(pace=0.1, scripts={"progress": Script(STEPS)}))


async def bar(content: dict[str, Any]) -> None:
    """Draw the bar."""
    done, total = content["step"] + 1, content["of"]
    print(f"[{'#' * done}{'.' * (total - done)}] step {done} of {total}")


async def main() -> None:
    """A task may take hours, as long as an event arrives every ten minutes."""
    long = Timeouts(idle=600, total=6 * 3600)
    agent = SSEOxyGent(server_url=URL, transport=TOY, event_handlers={"progress": bar}, timeouts=long)
    print((await agent.ask("progress")).state.name)


if __name__ == "__main__":
    anyio.run(main)
