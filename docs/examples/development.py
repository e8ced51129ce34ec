"""Development/Testing: the environment selects the server; tests use a script, and a fault.

Prints:
    development: hello from the server
    a test: hello from a script
    a bad day: IncompleteStreamError
"""

import os

import anyio

from oxygent_client import OxyError, SSEOxyGent
from oxygent_client.profiles import load_profile
from oxygent_client.testing import FakeTransport, ToyRemote, answer, close, faults
from oxygent_client.transports.asgi import ASGITransport

URL = os.environ.get("OXYGENT_URL", "http://toy")
TOY = None if "OXYGENT_URL" in os.environ else ASGITransport(ToyRemote(pace=0.1))


async def program(agent: SSEOxyGent) -> str:
    """The program that you ship."""
    return str((await agent.ask("echo hello from the server")).output)


async def main() -> None:
    """Environments differ in their variables, set by hand here."""
    profile = load_profile(environ={"OXYGENT_SERVER_URL": URL, "OXYGENT_TIMEOUTS_IDLE": "30"})
    print("development:", await program(profile.agent(transport=TOY)))
    fake = FakeTransport.script(answer("hello from a script"), close())
    print("a test:", await program(profile.agent(transport=fake)))
    try:
        await program(profile.agent(transport=faults.no_close(fake)))
    except OxyError as error:
        print("a bad day:", type(error).__name__)


if __name__ == "__main__":
    anyio.run(main)
