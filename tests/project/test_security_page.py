"""The security page names existing tests for each promise."""

from __future__ import annotations

import re
from typing import Final

import pytest

from tests.conftest import ROOT

PAGE: Final = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
PROMISED: Final = PAGE.partition("## Guarantees")[2].partition("## Not guaranteed")[0]
PROMISES: Final = {promise[2:60]: promise for promise in re.split(r"\n(?=- |#)", PROMISED) if promise.startswith("- ")}
TESTS: Final = frozenset(
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
)


@pytest.mark.parametrize("promise", PROMISES.values(), ids=PROMISES)
def test_a_promise_names_its_tests(promise: str) -> None:
    """A promise has at least one test, and each exists."""
    named = set(re.findall(r"`(test_\w+)`", promise))
    assert named != set()
    assert set() == named - TESTS


def test_the_files_exist() -> None:
    """The test files on the page exist."""
    assert [path for path in re.findall(r"`(tests/[\w/]+\.py)`", PAGE) if not (ROOT / path).is_file()] == []
