"""The checks of conftest.py find what they should: small tests, run by pytest in a separate process.

Rule: a test that should fail must fail for the reason in its row.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow  # it starts processes

SOURCE: Final = """
import asyncio, socket, anyio, pytest, trio
from hypothesis import given, strategies

KEPT = []

async def test_clean():
    with socket.socket():
        await anyio.sleep(0)

async def test_socket_kept():
    KEPT.append(socket.socket())

async def test_file_kept(tmp_path):
    KEPT.append((tmp_path / "a-file").open("w"))

async def test_socket_forgotten():
    ring = [socket.socket()]
    ring.append(ring)

async def test_task_kept(anyio_backend_name):
    if anyio_backend_name == "asyncio":
        KEPT.append(asyncio.create_task(asyncio.sleep(60)))
    else:
        trio.lowlevel.spawn_system_task(trio.sleep_forever)

@given(strategies.integers())
async def test_examples(number):
    await anyio.sleep(0)

@pytest.mark.needs("no-such-program")
def test_needs():
    pass

def test_skipped():
    pytest.skip("no weather")

@pytest.mark.xfail(reason="known")
def test_known():
    assert False
"""

SKIPPED_FILE: Final = 'import pytest\npytest.skip("no sun", allow_module_level=True)\n'

CASES: Final = {
    # the environment: (the tests, the outcomes, lines of the output)
    "": (
        "test",
        {"passed": 10, "failed": 2, "errors": 6, "skipped": 3, "xfailed": 1},
        [
            "PASSED *::test_clean[[]asyncio[]]",
            "PASSED *::test_clean[[]trio[]]",
            "ERROR *::test_socket_kept[[]asyncio[]] - *left open: *socket:*",
            "ERROR *::test_socket_kept[[]trio[]] - *left open: *socket:*",
            "ERROR *::test_file_kept[[]asyncio[]] - *left open: *a-file*",
            "ERROR *::test_file_kept[[]trio[]] - *left open: *a-file*",
            "ERROR *::test_socket_forgotten[[]asyncio[]] - *PytestUnraisableExceptionWarning*socket*",
            "ERROR *::test_socket_forgotten[[]trio[]] - *PytestUnraisableExceptionWarning*socket*",
            "FAILED *::test_task_kept[[]asyncio[]] - *left running: *sleep*",
            "FAILED *::test_task_kept[[]trio[]] - *left running: *sleep_forever*",
            "skipped for want of something: 3 (needs no-such-program: 1, no sun: 1, no weather: 1)",
        ],
    ),
    "REQUIRE_ALL": (
        "clean or examples or needs or skipped or known",
        {"passed": 4, "errors": 2, "failed": 1, "xfailed": 1},
        [
            "ERROR *test_skipped_file.py - skipped, though REQUIRE_ALL is set: no sun",
            "ERROR *::test_needs - skipped, though REQUIRE_ALL is set: needs no-such-program",
            "FAILED *::test_skipped - skipped, though REQUIRE_ALL is set: no weather",
            "skipped for want of something: 0",
        ],
    ),
}


@pytest.fixture
def run_alone(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], pytest.RunResult]:
    """Run some of the tests above with our configuration, conftest and this environment variable."""

    def run(variable: str, which: str) -> pytest.RunResult:
        tests = pytester.mkpydir("tests")
        shutil.copy(ROOT / "tests" / "conftest.py", tests)
        for name in ("__init__.py", "machine.py", "soak.py"):
            (tests / "support").mkdir(exist_ok=True)
            shutil.copy(ROOT / "tests" / "support" / name, tests / "support")
        shutil.copy(ROOT / "pyproject.toml", pytester.path)
        (tests / "test_alone.py").write_text(SOURCE, encoding="utf-8")
        (tests / "test_skipped_file.py").write_text(SKIPPED_FILE, encoding="utf-8")
        monkeypatch.setenv("COLUMNS", "500")  # a summary in full
        for name in ("REQUIRE_ALL", "OXYGENT_CLIENT_SIZE"):
            monkeypatch.delenv(name, raising=False)
        if variable:
            monkeypatch.setenv(variable, "1")
        return pytester.runpytest_subprocess("-rA", "-k", which, "--continue-on-collection-errors", timeout=60)

    return run


@pytest.mark.parametrize(
    ("variable", "which", "outcomes", "lines"), [(name, *row) for name, row in CASES.items()], ids=["as usual", "all"]
)
def test_the_watch(
    run_alone: Callable[[str, str], pytest.RunResult],
    variable: str,
    which: str,
    outcomes: dict[str, int],
    lines: list[str],
) -> None:
    """A leak fails its test; a missing program is a counted skip, or a failure with REQUIRE_ALL."""
    done = run_alone(variable, which)
    seen = done.parseoutcomes()
    assert {name: seen.get(name) for name in outcomes} == outcomes
    done.stdout.fnmatch_lines_random(lines)
