"""The page for browsers over the endpoint of AG-UI, and the reports of its runs.

Rule 1: the page is one file, always the same: it needs no other, and no network but this server. Its policy allows its
    own script and style only, and those of a report, by their hashes.
Rule 2: the page itself needs no token, since a browser sends none with an address; all that it reads does.
Rule 3: the last runs are kept for their reports.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import re
from collections import OrderedDict
from typing import Final

import attrs

from oxygent_client import Run, Trace
from oxygent_client.serve import Exchange, Refused, Runs

MOST_REPORTS: Final = 30
"""The runs whose reports are kept. A run keeps some megabytes at most."""
PAGE: Final = "/"
AGENTS: Final = "/agui/agents"
REPORTS: Final = "/agui/reports"


@functools.cache
def page_and_headers() -> tuple[str, dict[str, str]]:
    """Return the page, and the headers with which it is sent."""
    page = importlib.resources.files("oxygent_client.serve._agui").joinpath("page.html").read_text("utf-8")
    of_report = re.search("style-src ([^;]*); script-src ([^;]*);", Trace().report())
    assert of_report is not None  # its policy
    policy = (
        "default-src 'none'",
        f"style-src '{_hash(page, 'style')}' {of_report[1]}",
        f"script-src '{_hash(page, 'script')}' {of_report[2]}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return page, {
        "content-security-policy": "; ".join(policy),
        "cache-control": "no-store",
        "cross-origin-opener-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }


def _hash(page: str, name: str) -> str:
    found = re.search(f"<{name}>(.*?)</{name}>", page, re.DOTALL)
    assert found is not None
    return f"sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}"


@attrs.define(eq=False)
class Page:
    """The handlers, and the last runs."""

    runs: Runs
    most: int = MOST_REPORTS
    _kept: OrderedDict[str, Run] = attrs.field(factory=OrderedDict[str, Run], init=False)

    def keep(self, run: Run) -> None:
        """Keep a run for its report."""
        self._kept[run.remote_trace_id] = run
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)

    async def page(self, exchange: Exchange) -> None:
        """Send the page."""
        page, headers = page_and_headers()
        await exchange.respond_page(page, headers)

    async def agents(self, exchange: Exchange) -> None:
        """Send the names and descriptions of the agents, the default one first."""
        found = [{"name": each.name, "description": each.description} for each in await self.runs.agents()]
        await exchange.respond(200, found)

    async def report(self, exchange: Exchange) -> None:
        """Send the report of a run, by the trace id of the remote."""
        run = self._kept.get(exchange.path.removeprefix(f"{REPORTS}/"))
        if run is None:
            raise Refused(404, "not_found", "there is no report of this run")
        _, headers = page_and_headers()
        trace = self.runs.outbound(run).trace(run.trace())
        # The server, and the text of an error that may name it, are not for clients.
        shown = attrs.evolve(trace, server_url="", error="the run failed" if trace.error else "")
        await exchange.respond_page(shown.report(), headers)
