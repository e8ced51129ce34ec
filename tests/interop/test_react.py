"""The programs of README.md and the tutorial, and the chat, at a real `ReActAgent` with a streaming language model.

Rule 1: the output shows the calls as they happen, and the answer once: no JSON of the model, no text in chunks.
Rule 2: a program runs unchanged in a separate process, except for the server's address.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from oxygent_client import SSEOxyGent, TextDelta
from tests.conftest import ROOT
from tests.project.test_docs import BLOCK, DOCUMENTED_URL

from .harness import PATIENT, RemoteServer
from .model import ANSWER, served_model

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAT: Final = ROOT / "docs" / "examples" / "chat.py"
PAGES: Final = (ROOT / "README.md", ROOT / "docs" / "tutorial.md")
PROGRAMS: Final = {
    **{
        f"{page.name}:{number}": match["code"]
        for page in PAGES
        for number, match in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8")), 1)
        if DOCUMENTED_URL in match["code"]
    },
    "chat.py": CHAT.read_text(encoding="utf-8"),
}
CALLS: Final = ("master_agent", "default_llm", "add_tool", "default_llm")
"""The callees, in order."""
PRINTED: Final[dict[str, tuple[int, tuple[str, ...]]]] = {
    # program: (the number of its queries, the callees that it shows)
    "README.md:1": (1, CALLS),
    "tutorial.md:1": (1, ()),
    "tutorial.md:2": (1, CALLS),
    "tutorial.md:4": (1, CALLS),
    "chat.py": (2, CALLS[1:]),
}
CALLEE: Final = re.compile(r"(?:->|calls) (\w+)$", re.MULTILINE)


@pytest.fixture(scope="module", params=["1.1.3", "1.0.13"])
def react(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteServer]:
    """A server of each release whose master is a ReAct agent."""
    directory = tmp_path_factory.mktemp(f"react-{request.param}-", numbered=True) / "server"
    with served_model() as model:
        server = RemoteServer(request.param, directory, "--model", model)
        yield server
        server.close()


def test_all_programs() -> None:
    """Each program that uses a server is a line in the table."""
    assert PROGRAMS.keys() == PRINTED.keys()


@pytest.mark.parametrize("program", PRINTED)
def test_output(react: RemoteServer, program: str) -> None:
    """A program run against an agent of the framework prints the calls and the answer once."""
    asked, callees = PRINTED[program]
    code = PROGRAMS[program].replace(DOCUMENTED_URL, react.url)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "OXYGENT_URL": react.url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(ANSWER) == asked
    assert "tool_name" not in done.stdout
    assert tuple(CALLEE.findall(done.stdout)) == callees * asked
    assert ANSWER in done.stdout.splitlines()[-1]


async def test_text_deltas(react: RemoteServer) -> None:
    """The text deltas contain the tool call and the answer, so that a program shows only the answer event."""
    async with SSEOxyGent(server_url=react.url, timeouts=PATIENT).stream("What is 40 plus 2?") as run:
        pieces = [event.text async for event in run if isinstance(event, TextDelta)]
    assert "tool_name" in "".join(pieces)
    assert "".join(pieces).endswith(ANSWER)
    assert run.response.output == ANSWER
