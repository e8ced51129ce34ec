"""The page of `run.report()` in a real Chromium, from a file and without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from oxygent_client import Trace, TraceCall
from tests.browser.chromium import Tab, chromium

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("chromium")

HOSTILE: Final = "<script>document.title = 'run'</script></script><img src=x onerror=\"document.title = 'run'\">\u202e"


def call(index: int, name: str, parent: int | None = 0, **fields: Any) -> TraceCall:
    """Return a call of a second."""
    values: dict[str, Any] = {"status": "completed", "started": float(index), "ended": index + 1.0, **fields}
    return TraceCall(index=index, parent=parent, depth=0 if parent is None else 1, name=name, **values)


TRACE: Final = Trace(
    trace_id="t",
    status="completed",
    seconds=4.0,
    calls=(
        call(0, "master", None, ended=4.0),
        call(1, "flights", arguments={"query": "Lisbon"}),
        call(2, "hotels", output=HOSTILE),
        call(3, "reviews", status="failed", error="timed out"),
    ),
)
SHOWN: Final = "[...document.querySelectorAll('.calls > li')].filter((call) => !call.hidden).map((call) => call.id)"
FOCUS: Final = "document.activeElement.id || document.activeElement.closest('li').id"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """A browser."""
    with chromium(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def tab(browser: Tab, tmp_path: Path) -> Iterator[Tab]:
    """A tab with the page. It asks for nothing else, and the console stays empty."""
    page = tmp_path / "run.html"
    page.write_text(TRACE.report(), encoding="utf-8")
    browser.open(page.as_uri())
    yield browser
    assert browser.problems == []
    assert browser.requests == [page.as_uri()]


def test_nothing_runs(tab: Tab) -> None:
    """Text of a remote stays text: no element, no script."""
    assert tab.run("document.title") == "Run t: completed"
    assert tab.run("document.images.length") == 0
    assert tab.run("document.scripts.length") == 1
    assert tab.run("document.querySelector('#c2 pre').textContent") == HOSTILE.replace("\u202e", "\\u202e")


def test_the_search(tab: Tab) -> None:
    """The search shows matches and their callers; Escape shows all again."""
    tab.press("/")
    assert tab.run(FOCUS) == "search"
    tab.call("Input.insertText", text="LISBON")
    assert tab.run(SHOWN) == ["c0", "c1"]
    assert tab.run("document.getElementById('found').textContent") == "1 of 4 calls"
    tab.press("Escape")
    assert tab.run(SHOWN) == ["c0", "c1", "c2", "c3"]


def test_errors_only(tab: Tab) -> None:
    """A box shows the calls with an error, and their callers."""
    tab.run("document.getElementById('errors').click()")
    assert tab.run(SHOWN) == ["c0", "c3"]


def test_the_keyboard(tab: Tab) -> None:
    """The arrow keys go from call to call; the buttons open and close all."""
    tab.run("document.querySelector('#c0 summary').focus()")
    tab.press("ArrowDown")
    tab.press("ArrowDown")
    tab.press("ArrowUp")
    assert tab.run(FOCUS) == "c1"
    tab.run("document.getElementById('expand').click()")
    assert tab.run("document.querySelectorAll('details[open]').length") == 4
    tab.run("document.getElementById('collapse').click()")
    assert tab.run("document.querySelectorAll('details[open]').length") == 0


def test_a_link_opens_the_caller(tab: Tab) -> None:
    """The link to the caller of a call opens the caller."""
    tab.run("document.querySelector('#c1 a').click()")
    tab.run("new Promise((done) => setTimeout(done, 0))")
    assert tab.run("location.hash") == "#c0"
    assert tab.run("document.querySelector('#c0 details').open") is True


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_the_scheme(scheme: str, is_dark: bool, tab: Tab) -> None:
    """The page follows the light or dark scheme of the browser."""
    tab.prefer(scheme)
    shade = tab.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(shade) < 3 * 128) is is_dark


@pytest.mark.parametrize("width", [320, 800, 1600])
def test_the_width(width: int, tab: Tab) -> None:
    """The page fits screens of all widths."""
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    tab.run("document.getElementById('expand').click()")
    assert tab.run("document.documentElement.scrollWidth") <= width
