"""The programs of README.md and the tutorial, and the chat, at a real `ReActAgent` with a streaming language model.

Rule 1: the output shows the answer once, while it is written, and no other text of the models.
Rule 2: a program runs unchanged in a separate process, except for the server's address.
Rule 3: a gate shows that a text is live: the model writes its last chunk only after the first one was shown.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

import attrs
import pytest

from oxygent_client import SSEOxyGent, TextDelta, TextUpdate
from tests.conftest import ROOT
from tests.project.test_docs import BLOCK, DOCUMENTED_URL
from tests.support.command_line import on_terminal

from .harness import PATIENT, RemoteServer
from .model import ANSWER, PREFACE, served_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oxygent_client import Run

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
    "README.md:1": (1, ()),
    "README.md:2": (1, ()),
    "tutorial.md:1": (1, ()),
    "tutorial.md:2": (1, CALLS),
    "tutorial.md:3": (1, ()),
    "tutorial.md:5": (1, CALLS),
    "chat.py": (2, ()),
}
LIVE: Final = ("README.md:1", "chat.py")
"""Programs that show the answer while it is written."""
CALLEE: Final = re.compile(r"(?:->|calls) (\w+)$", re.MULTILINE)
JSON_ANSWER: Final = '{"sum": 42}'


@pytest.fixture(scope="module")
def gate() -> threading.Event:
    """While it is not set, the model's answers lack their last piece."""
    event = threading.Event()
    event.set()
    return event


@pytest.fixture(scope="module", params=["1.1.3", "1.0.13"])
def react(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, gate: threading.Event
) -> Iterator[RemoteServer]:
    """A server of each release whose master is a ReAct agent."""
    directory = tmp_path_factory.mktemp(f"react-{request.param}-", numbered=True) / "server"
    with served_model(gate) as model:
        server = RemoteServer(request.param, directory, "--model", model)
        yield server
        server.close()


def test_all_programs() -> None:
    """Each program that uses a server is a line in the table."""
    assert PROGRAMS.keys() == PRINTED.keys()


def started(react: RemoteServer, program: str) -> subprocess.Popen[str]:
    """A program at work, as it stands."""
    code = PROGRAMS[program].replace(DOCUMENTED_URL, react.url)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "OXYGENT_URL": react.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("program", PRINTED)
def test_output(react: RemoteServer, program: str) -> None:
    """A program run against an agent of the framework prints the calls and the answer once."""
    asked, callees = PRINTED[program]
    with started(react, program) as running:
        output, complaints = running.communicate(timeout=60)
    assert running.returncode == 0, complaints
    assert output.count(ANSWER) == asked
    assert "tool_name" not in output
    assert tuple(CALLEE.findall(output)) == callees * asked
    assert ANSWER in output.splitlines()[-1]


@pytest.mark.parametrize("program", LIVE)
def test_a_program_shows_the_answer_live(react: RemoteServer, gate: threading.Event, program: str) -> None:
    """The beginning of the answer is printed before its end is written."""
    gate.clear()
    try:
        with started(react, program) as running:
            assert running.stdout is not None
            shown = ""
            while not shown.endswith(ANSWER[:4]):  # the test's time-out bounds it
                shown += running.stdout.read(1)
            at_first = time.monotonic()
            gate.set()
            running.communicate(timeout=60)
            assert time.monotonic() > at_first
    finally:
        gate.set()


@attrs.frozen
class Seen:
    """The updates of a run, and the seconds between the first of them and the end of the run."""

    updates: list[TextUpdate]
    seconds: float
    run: Run


async def follow(react: RemoteServer, query: str, callee: str | None = None) -> Seen:
    """Read the answer's text of a run."""
    agent, times = SSEOxyGent(server_url=react.url, timeouts=PATIENT), list[float]()
    updates: list[TextUpdate] = []
    async with agent.stream(query, callee=callee) as run:
        async for update in run.text_updates():
            updates.append(update)
            times.append(time.monotonic())
    return Seen(updates, time.monotonic() - times[0], run)


ANSWERS: Final[dict[str, tuple[str, str | None, str]]] = {
    # (the query, the agent that is called, its answer)
    "a tool": ("What is 40 plus 2?", None, ANSWER),
    "a model that reasons": ("reasoning please", None, ANSWER),
    "two agents at once": ("go", "editor_agent", "The critic is right."),
    "a chat agent": ("verse please", "poet_agent", "Roses are red, violets are blue."),
}


@pytest.mark.parametrize(("query", "callee", "expected"), ANSWERS.values(), ids=ANSWERS)
async def test_the_answer_is_shown_in_pieces(
    react: RemoteServer, query: str, callee: str | None, expected: str
) -> None:
    """Pieces of the answer are shown before the run ends, and nothing else of what agents and models write."""
    seen = await follow(react, query, callee)
    assert "".join(update.delta for update in seen.updates) == expected
    assert seen.run.response.output == expected
    assert not any(update.is_reset for update in seen.updates)
    assert len(seen.updates) > 3
    assert seen.seconds > 0


async def test_two_agents_write_at_once(react: RemoteServer) -> None:
    """All texts are there beside the answer, each by itself: what the agents wrote, and who."""
    seen = await follow(react, "go", "editor_agent")
    assert [(each.agent, each.text) for each in sorted(seen.run.texts, key=str)] == [
        ("critic_agent", "It rhymes, and it does not scan."),
        ("editor_agent", "The critic is right."),
        ("poet_agent", "Roses are red, violets are blue."),
    ]


async def test_a_preface(react: RemoteServer) -> None:
    """It is shown, without the tool call behind it, and the answer replaces it."""
    seen = await follow(react, "preface please")
    resets = [update.is_reset for update in seen.updates]
    first = resets.index(True)
    assert seen.updates[first - 1].text == PREFACE
    assert seen.updates[-1].text == ANSWER
    assert resets.count(True) == 1


@pytest.mark.parametrize(
    ("query", "callee", "expected"),
    [
        pytest.param("json please", "poet_agent", JSON_ANSWER, id="an answer that is JSON"),
        pytest.param("What is 40 plus 2?", "whole_agent", ANSWER, id="no streaming"),
    ],
)
async def test_the_answer_is_shown_at_the_end(
    react: RemoteServer, query: str, callee: str | None, expected: str
) -> None:
    """Where its text could be a tool call, or there is none, it is shown as a whole."""
    seen = await follow(react, query, callee)
    assert seen.updates == [TextUpdate(expected, expected)]


async def test_text_deltas(react: RemoteServer) -> None:
    """The text deltas contain the tool call and the answer, so that a program shows only the answer event."""
    async with SSEOxyGent(server_url=react.url, timeouts=PATIENT).stream("What is 40 plus 2?") as run:
        pieces = [event.text async for event in run if isinstance(event, TextDelta)]
    assert "tool_name" in "".join(pieces)
    assert "".join(pieces).endswith(ANSWER)
    assert run.text == ANSWER


def test_the_chat_command(react: RemoteServer, gate: threading.Event) -> None:
    """The answer is shown while it is written; Ctrl-C cancels it, and the chat goes on."""
    with on_terminal("chat", react.url) as terminal:
        terminal.read_until("you> ")
        terminal.press("What is 40 plus 2?\r")
        terminal.read_until(ANSWER)
        terminal.read_until("you> ")
        terminal.press("/tree\r")
        terminal.read_until("add_tool")
        terminal.read_until("you> ")
        gate.clear()
        try:
            terminal.press("What is 40 plus 2, again?\r")
            terminal.read_until(ANSWER[:16])
            terminal.press("\x03")
            terminal.read_until("stopped")
        finally:
            gate.set()
        terminal.read_until("you> ")
        terminal.press("recall please\r")
        terminal.read_until("First you said: ")  # 1.0.13 may lose records when a run is cancelled
        terminal.read_until("you> ")
        terminal.press("\x04")
        code = terminal.wait()
    assert code == 0
