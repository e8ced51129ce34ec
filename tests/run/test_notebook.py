"""A run in a notebook: the tree of its calls, as text and HTML, updated until the run's end."""

from __future__ import annotations

import gc
import sys
from types import ModuleType
from typing import Any, Final

import pytest

from oxygent_client import BearerAuth, Retry, SSEOxyGent
from oxygent_client._run import notebook
from oxygent_client.errors import StatusError
from oxygent_client.sync import SyncSSEOxyGent
from oxygent_client.testing import FakeTransport, Reply, answer, close, observation, progress, tool_call
from tests.support.virtual import anyio_backend as anyio_backend

URL: Final = "https://remote.test"
HOSTILE: Final = "<script>alert(1)</script>\x1b[31m\u202e"
STEPS: Final = (
    tool_call("planner", call_stack=["user", "planner"], node_id="1"),
    tool_call("search", call_stack=["user", "planner", "search"], node_id="2"),
    progress("half"),
    observation("search", 3, call_stack=["user", "planner", "search"], node_id="2"),
    tool_call("lost", call_stack=["user", "planner", "lost"], node_id="3"),
    observation("planner", "42", call_stack=["user", "planner"], node_id="1"),
    answer("42"),
    close(),
)


class Display:
    """A fake of `IPython.display`, and its handle."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def display(self, bundle: dict[str, str], *, raw: bool, display_id: bool) -> Display:
        """Show a bundle, and return the handle."""
        assert raw
        assert display_id
        self.shown.append(bundle)
        return self

    def update(self, bundle: dict[str, str], *, raw: bool) -> None:
        """Replace the bundle."""
        assert raw
        self.shown.append(bundle)

    @property
    def titles(self) -> list[str]:
        """Return the first lines, each once."""
        return [*dict.fromkeys(bundle["text/plain"].partition("\n")[0] for bundle in self.shown)]


@pytest.fixture
def ipython(monkeypatch: pytest.MonkeyPatch) -> Display:
    """A notebook that runs this program."""
    shown, module = Display(), ModuleType("IPython.display")
    module.display = shown.display  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  (made here)
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return shown


def agent(*steps: Any, **settings: Any) -> SSEOxyGent:
    """Return an agent whose remote sends these steps."""
    return SSEOxyGent(URL, transport=FakeTransport.script(*(steps or STEPS)), **settings)


async def test_the_states_of_a_run() -> None:
    """The display shows the state of the run, and at the end its result."""
    run = agent().stream("hi", trace_id="t")
    assert run._repr_mimebundle_()["text/plain"] == "Run t: not started"
    async with run:
        await anext(run)
        assert run._repr_mimebundle_()["text/plain"] == "Run t: running\n… planner()"
        await run.final_response()
    assert run._repr_mimebundle_()["text/plain"].split("\n") == [
        "Run t: completed",
        "✓ planner() 0.00 s",
        "├─ ✓ search() 0.00 s → 3",
        "└─ ? lost()",
        "42",
    ]
    async with agent().stream("hi", trace_id="t") as left:
        pass
    assert left._repr_mimebundle_()["text/plain"].startswith("Run t: canceled")


async def test_a_run_that_failed() -> None:
    """The display shows the error with its class."""
    refused = SSEOxyGent(URL, transport=FakeTransport({"/sse/chat": Reply(status=500)}), retry=Retry(attempts=1))
    run = refused.stream("hi", trace_id="t")
    with pytest.raises(StatusError):
        async with run:
            pass
    title, error = run._repr_mimebundle_()["text/plain"].split("\n", 1)
    assert title == "Run t: failed"
    assert "500" in error


async def test_hostile_text_and_secrets() -> None:
    """Markup and control characters are escaped, and credentials are redacted."""
    steps = (tool_call(HOSTILE, node_id="1"), tool_call("t0p-secret", node_id="2"), answer(f"{HOSTILE} t0p-secret"))
    async with agent(*steps, close(), auth=BearerAuth("t0p-secret")).stream("hi", trace_id="<b>") as run:
        await run.final_response()
    bundle = run._repr_mimebundle_()
    for text in bundle.values():
        assert "t0p-secret" not in text
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "<script" not in bundle["text/html"]
    assert "&lt;script&gt;" in bundle["text/html"]
    assert "Run &lt;b&gt;: completed" in bundle["text/html"]


async def test_a_display_follows_its_run(ipython: Display) -> None:
    """The display is updated at the end of the run, after any events."""
    run = agent().stream("hi", trace_id="t")
    run._ipython_display_()
    async with run:
        async for _ in run:
            pass
    assert ipython.titles == ["Run t: not started", "Run t: completed"]


async def test_a_display_is_updated_during_its_run(ipython: Display, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls and their ends are shown during the run, a few times a second."""
    monkeypatch.setattr(notebook, "REFRESH_SECONDS", 0.0)
    run = agent().stream("hi", trace_id="t")
    run._ipython_display_()
    async with run:
        await run.final_response()
    assert ipython.titles == ["Run t: not started", "Run t: running", "Run t: completed"]
    assert len(ipython.shown) == 7


def test_a_synchronous_run(ipython: Display) -> None:
    """A synchronous run has the same display."""
    run = SyncSSEOxyGent(URL, transport=FakeTransport.script(*STEPS)).stream("hi", trace_id="t")
    run._ipython_display_()
    assert [*run][-1].content == "42"
    assert ipython.titles == ["Run t: not started", "Run t: completed"]
    assert ipython.shown[-1] == run._repr_mimebundle_()


async def test_a_display_does_not_keep_its_run(ipython: Display) -> None:
    """A display does not keep a dropped run alive."""
    run = agent().stream("hi")
    run._ipython_display_()
    observed, context = run._config.observed, run._context
    del run
    gc.collect()
    observed.note("ended", context, {})
    assert len(ipython.shown) == 1
