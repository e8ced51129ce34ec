"""A recorded conversation with a real server replays on either event loop."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from oxygent_client import HTTPXTransport, SSEOxyGent
from oxygent_client.testing import Cassette, RecordingTransport, ReplayTransport

from .harness import PATIENT

if TYPE_CHECKING:
    from pathlib import Path

    from oxygent_client import Transport

    from .harness import RemoteServer

LOOPS = ("asyncio", "trio")
QUERIES = (
    "nested",
    "tools",
    'stream ["It ", "will be ", "sunny."]',
    'strings ["two\\nlines", "done", 42, [1, null], {"no": "type"}, "\u4f60\u597d"]',
    "progress",
    "raise",
)
CANARY = "canary7Q"


async def talk(transport: Transport, url: str) -> tuple[list[list[Any]], list[Any], dict[str, Any]]:
    """Return the events and the answers, and the result of discovery."""
    agent = SSEOxyGent(
        server_url=url,
        transport=transport,
        timeouts=PATIENT,
        headers={"authorization": f"Bearer {CANARY}"},
        confirm_state=False,  # one of the answers is that of a failed agent
    )
    events: list[list[Any]] = []
    answers: list[Any] = []
    try:
        await agent.init()
        for query in QUERIES:
            async with agent.stream(query, shared_data={"api_key": CANARY}) as run:
                events.append([event async for event in run])
            answers.append(run.response.output)
    finally:
        await transport.aclose()
    return events, answers, agent.org


@pytest.mark.parametrize("recorder", LOOPS)
def test_a_conversation_replays(server: RemoteServer, recorder: str, tmp_path: Path) -> None:
    """A recording of one loop replays on both to equal events and answers, and holds no secret."""
    path = tmp_path / "talk.cassette"
    cassette = Cassette()
    recording = RecordingTransport(HTTPXTransport(), cassette)
    events, answers, org = anyio.run(partial(talk, recording, server.url), backend=recorder)
    cassette.save(path)
    content = path.read_text(encoding="utf-8")
    assert CANARY not in content
    assert server.url not in content
    assert "\u4f60\u597d" in content, "a file is there to be read"
    for replayer in LOOPS:
        replay = ReplayTransport(Cassette.load(path))
        replayed = anyio.run(partial(talk, replay, "https://elsewhere"), backend=replayer)
        assert (events, answers, org) == replayed
        assert replay.unused == ()
