"""The page of the command line: its examples and its table of exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from oxygent_client.cli._exit_codes import EXIT_CODES
from oxygent_client.testing import ToyRemote, serve
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.seconds

PAGE: Final = (ROOT / "docs" / "howto" / "command-line.md").read_text(encoding="utf-8")
SESSIONS: Final = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
DOCUMENTED_URL: Final = "http://127.0.0.1:8082"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a toy without pauses."""
    with serve(ToyRemote(pace=0)) as at:
        yield at


@pytest.mark.parametrize("session", SESSIONS, ids=[each.splitlines()[1][2:40] for each in SESSIONS])
def test_a_session(session: str, url: str, tmp_path: Path) -> None:
    """The commands of a session print what the page shows."""
    lines = session.replace(DOCUMENTED_URL, url).splitlines()
    program = f'oxygent-client() {{ "{sys.executable}" -m oxygent_client "$@"; }}'
    commands = [each.removeprefix("$ ") for each in lines if each.startswith("$ ")]
    done = subprocess.run(
        ["bash", "-c", "\n".join([program, *commands])],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.splitlines() == [each for each in lines if not each.startswith("$ ")]
    assert done.stderr == ""


def test_exit_codes() -> None:
    """The table of exit codes is that of the program."""
    _, _, table = PAGE.partition("## Exit codes")
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE)
    assert [(int(code), text) for code, text in rows] == [*EXIT_CODES]
