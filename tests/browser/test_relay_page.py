"""The relay in a real Chromium: the page of the documentation, and an `EventSource` whose connection breaks.

Rule: the page asks for nothing but its own server.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from oxygent_client import SSEOxyGent
from oxygent_client.serve.relay import RelayLimits, create_app
from oxygent_client.testing import ToyRemote, serve
from oxygent_client.testing.script import Pause, Say, Script
from tests.browser.chromium import Tab, chromium
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oxygent_client.serve import Service

pytestmark = pytest.mark.needs("chromium")

HOW_TO: Final = (ROOT / "docs" / "howto" / "serve.md").read_text(encoding="utf-8")
EXAMPLE: Final = re.findall(r"^```html\n(.*?)^```$", HOW_TO, re.MULTILINE | re.DOTALL)
LINES: Final = "[...document.querySelectorAll('#steps li')].map((each) => each.textContent)"
STATES: Final = "window.seen = []; window.names = []; const source = new EventSource('/relay/ID');" + "".join(
    f"source.addEventListener('{name}', (event) => {{ seen.push(event.lastEventId); names.push('{name}'); }});"
    for name in ("message", "end", "gap", "dropped")
)
SCRIPTS: Final = {
    **ToyRemote().scripts,
    "Plan": Script([Say({"type": "progress", "content": 1}), Pause(0.2)], output="Lisbon"),
    "steps": Script([step for number in range(8) for step in (Say({"step": number}), Pause(0.4))], output="done"),
}


@attrs.define(eq=False)
class Site:
    """A page, and a relay whose first stream breaks after a number of events if it is told so."""

    service: Service
    page: str
    break_after: bytes = b""
    """The last bytes of the first stream; empty for none."""
    requests: list[tuple[str, int]] = attrs.field(factory=list[tuple[str, int]])
    """The last event id of each request for a stream, and the status of the response."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"] in ("/", "/favicon.ico"):
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
            await send({"type": "http.response.body", "body": self.page.encode()})
            return

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start" and scope["method"] == "GET":
                seen = dict(scope["headers"]).get(b"last-event-id", b"").decode()
                self.requests.append((seen, message["status"]))
            await send(message)
            if len(self.requests) == 1 and self.break_after and self.break_after in message.get("body", b""):
                raise BrokenPipeError

        await self.service(scope, receive, counted)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """A browser."""
    with chromium(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def toy() -> Iterator[tuple[ToyRemote, str]]:
    """A remote, and its URL."""
    remote = ToyRemote(scripts=SCRIPTS)
    with serve(remote) as url:
        yield remote, url


def site(url: str, page: str, **limits: Any) -> Site:
    """Return a page with a relay of a remote."""
    return Site(create_app(SSEOxyGent(url), hosts=["127.0.0.1"], relay=RelayLimits(**limits)), page)


def test_the_page_of_the_documentation(browser: Tab, toy: tuple[ToyRemote, str]) -> None:
    """The page shows each message and the answer, asks for the stream once, and runs the agent once."""
    remote, url = toy
    (page,) = EXAMPLE
    here = site(url, page)
    with serve(here) as at:
        browser.open(at, is_offline=False)
        browser.wait_for(f"{LINES}.at(-1) === '\"Lisbon\"'")
        assert browser.run(LINES) == ["tool_call", "progress", "observation", "answer", '"Lisbon"']
        assert browser.problems == []
    assert here.requests == [("", 200)]
    assert [run.query for run in remote.runs] == ["Plan my trip"]


def test_a_connection_that_breaks(browser: Tab, toy: tuple[ToyRemote, str]) -> None:
    """The browser resumes after the last event that it got; after the end it asks once more, and then stops."""
    remote, url = toy
    here = site(url, "<title>x</title>", grace_seconds=10)
    here.break_after = b"id: 4\n"
    with serve(here) as at:
        browser.open(at, is_offline=False)
        body = "fetch('/relay', {method: 'POST', body: JSON.stringify({query: 'steps'})})"
        browser.run(f"{body}.then((reply) => reply.json()).then((run) => {{ window.id = run.id; }}); 0")
        browser.wait_for("window.id")
        run = browser.run("window.id")
        browser.run(STATES.replace("ID", run) + "window.source = source; 0")
        browser.wait_for("window.source.readyState === EventSource.CLOSED")
        last = browser.run("seen.length")
        assert browser.run("seen") == [str(number + 1) for number in range(last)]
        assert browser.run("names") == ["message"] * (last - 1) + ["end"]
    assert here.requests == [("", 200), ("4", 200), (str(last), 204)]
    assert len(remote.runs) == 1
    assert remote.runs[0].state == "finished"
