"""The programs of the page about tools, each with its framework and a model of the framework that is a script.

Rule: the framework's environment has neither this package nor its dependencies' newest versions by chance: the package
comes by its path, the dependencies are installed beside the framework.
"""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from oxygent_client.testing import ToyRemote, serve
from tests.conftest import ROOT
from tests.interop.environments import python_with
from tests.project.test_docs import DOCUMENTED_URL

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = (ROOT / "docs" / "howto" / "agent-as-tool.md").read_text("utf-8")
BLOCK: Final = re.compile(
    r"^## ([^\n]+)\n(?:(?!^## )[^\0])*?^```py\n(.*?)^```\n\n```text\n(.*?)^```\n", re.DOTALL | re.MULTILINE
)
PROGRAMS: Final = {name: (code, output) for name, code, output in BLOCK.findall(PAGE)}


@pytest.fixture(scope="module")
def remote() -> Iterator[tuple[ToyRemote, str]]:
    """A toy, and its URL."""
    toy = ToyRemote()
    with serve(toy) as url:
        yield toy, url


def test_the_page_has_programs() -> None:
    """One for each framework."""
    assert [*PROGRAMS] == ["LangGraph", "pydantic-ai", "OpenAI Agents"]


@pytest.mark.parametrize("framework", PROGRAMS)
def test_a_framework(framework: str, remote: tuple[ToyRemote, str]) -> None:
    """Its agent gets the answer; a failure is an error of the tool, and the run that failed is not repeated."""
    toy, url = remote
    code, output = PROGRAMS[framework]
    before = len(toy.runs)
    done = subprocess.run(
        [python_with("frameworks"), "-c", code.replace(DOCUMENTED_URL, url)],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("OXYGENT_CLIENT_WHEEL") or str(ROOT / "src"),  # a wheel is a path, too
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == output
    assert [run.query for run in toy.runs[before:]] == ["echo hello", "raise"]
