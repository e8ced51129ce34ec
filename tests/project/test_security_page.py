"""Each promise of the page about security names the tests that hold it, and they exist."""

from __future__ import annotations

import ast
import re
from typing import Final

import pytest

from tests.conftest import ROOT

PAGE: Final = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
PROMISED: Final = PAGE.partition("## Guarantees")[2].partition("## Not guaranteed")[0]
PROMISES: Final = {promise[2:60]: promise for promise in re.split(r"\n(?=- |#)", PROMISED) if promise.startswith("- ")}
TESTS: Final = frozenset(
    node.name
    for path in (ROOT / "tests").rglob("test_*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
)


@pytest.mark.parametrize("promise", PROMISES.values(), ids=PROMISES)
def test_a_promise_names_its_tests(promise: str) -> None:
    """At least one, and each is a test of this project."""
    named = set(re.findall(r"`(test_\w+)`", promise))
    assert named != set()
    assert set() == named - TESTS


def test_the_files_exist() -> None:
    """So a reader finds the tests where the page says."""
    assert [path for path in re.findall(r"`(tests/[\w/]+\.py)`", PAGE) if not (ROOT / path).is_file()] == []
