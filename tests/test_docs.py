"""The programs in README.md and docs/, run as they stand.

Rule 1: a block marked `python` is a whole program; a `text` block right after it is what it prints.
Rule 2: the only thing that is changed is the port, which is the toy remote's own.
"""

from __future__ import annotations

import contextlib
import html
import io
import logging
import re
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest
import uvicorn

from oxygent_client.testing import ToyRemote
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGES: Final = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK: Final = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.DOTALL | re.MULTILINE
)
DOCUMENTED_URL: Final = "http://127.0.0.1:8082"


def programs() -> list[Any]:
    """Each program, with the line it stands in as its name."""
    found: list[Any] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start("code")) + 1
            found.append(pytest.param(page, line, match["code"], match["output"], id=f"{page.name}:{line}"))
    return found


@pytest.fixture(scope="module")
def toy_url() -> Iterator[str]:
    """A toy remote on a port of its own."""
    server = uvicorn.Server(uvicorn.Config(ToyRemote(pace=0), log_level="error", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """What a program makes of the log is over with it."""
    loggers = [logging.getLogger(name) for name in (None, "oxygent_client")]
    before = [(log.level, log.propagate, [*log.handlers]) for log in loggers]
    yield
    for log, (level, propagate, handlers) in zip(loggers, before, strict=True):
        log.setLevel(level)
        log.propagate = propagate
        log.handlers[:] = handlers


@pytest.mark.parametrize(("page", "line", "code", "output"), programs())
def test_a_program_of_the_docs_runs_and_prints_what_stands_there(
    page: Path, line: int, code: str, output: str | None, toy_url: str
) -> None:
    """What users copy works, and does what the page says."""
    printed = io.StringIO()
    # Padded, so that a traceback names the line of the page.
    program = compile("\n" * (line - 1) + code.replace(DOCUMENTED_URL, toy_url), str(page), "exec", dont_inherit=True)
    with contextlib.redirect_stdout(printed):
        exec(program, {"__name__": "__main__"})
    if output is not None:
        assert output == printed.getvalue()
    else:
        assert printed.getvalue()


TIMES: Final = re.compile(r"\d\.\d\s?s|(?<=trace\s)\w+")


def drawn(picture: Path) -> list[str]:
    """The texts of a drawing, without what differs from run to run."""
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", picture.read_text("utf-8"))
    return [TIMES.sub("", html.unescape(words)) for words in texts]


def test_the_picture_of_the_demonstration_is_true(tmp_path: Path) -> None:
    """What README shows is what the command draws."""
    path = tmp_path / "demo.svg"
    command = [sys.executable, "-m", "oxygent_client", "demo", "--fast", "--save-svg", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    kept = drawn(ROOT / "docs" / "assets" / "demo.svg")
    assert "trip_planner" in kept
    assert kept == drawn(path)


def test_the_docs_hold_programs() -> None:
    """The check above finds what it is to check."""
    assert {"README.md", "concepts.md", "tutorial.md"} <= {program.values[0].name for program in programs()}
