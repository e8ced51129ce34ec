"""Each fault and the result of a run: the table of the tests and of docs/faults.md.

Rule 1: a line has everything a caller may rely on, and holds over each transport.
Rule 2: `python -m tests.support.fault_cases` writes the page.
"""

from __future__ import annotations

import inspect
import math
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs

from oxygent_client import Limits, Outcome, Timeouts, errors
from oxygent_client.testing import FakeTransport, faults
from tests.conftest import ROOT
from tests.support.plain import plain

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from oxygent_client import HTTPRequest, HTTPResponse, Transport
    from oxygent_client.testing.faults import Faulty

__all__ = ["CASES", "PAGE", "QUERY", "SHORT", "Case", "Counted", "Ended", "page", "play"]

PAGE: Final = ROOT / "docs" / "faults.md"
QUERY: Final = "tools"
"""The query for the toy remote: nine events, the last of them the answer."""
EVENTS: Final = 9
ANSWER: Final = "5 20 HELLO"
LIMITS: Final = Limits(event_bytes=64 * 1024, stream_bytes=96 * 1024)
"""So that a flood ends soon."""
SHORT: Final = {"silence": 0.25, "idle": 0.5, "total": 0.5}
"""The time-outs over real sockets, in seconds."""


@attrs.frozen
class Case:
    """A fault, and the result of a run with it."""

    make: Callable[[Transport], Faulty]
    error: type[errors.OxyError] | None
    outcome: Outcome
    events: int | None
    """The number of complete events; None without a stream."""
    answer: str | None = None
    """The last answer received."""
    clock: str | None = attrs.field(default=None, kw_only=True)
    """The setting of `Timeouts` that ends the run."""
    requests: int = attrs.field(default=1, kw_only=True)
    """The number of requests for the run."""
    note: str = attrs.field(default="", kw_only=True)

    @property
    def name(self) -> str:
        """Its name."""
        return self.make(FakeTransport({})).fault.name

    @property
    def happens(self) -> str:
        """The description in the library."""
        function: Any = getattr(self.make, "func", self.make)
        return (inspect.getdoc(function) or "").partition("\n")[0]

    @property
    def partial(self) -> str:
        """The content of `error.partial`."""
        if self.error is None:
            return ""
        if self.events is None:
            return "None"
        events = "1 event" if self.events == 1 else f"{self.events} events"
        return events if self.answer is None else f"{events}, the answer"


def fine(make: Callable[[Transport], Faulty], note: str = "") -> Case:
    """Return a case of a fault that changes nothing."""
    return Case(make, None, Outcome.COMPLETED, EVENTS, ANSWER, note=note)


UNKNOWN, STARTED, REJECTED = Outcome.UNKNOWN, Outcome.STARTED, Outcome.REJECTED
INCOMPLETE: Final = errors.IncompleteStreamError
NO_STREAM: Final = errors.NotAnEventStreamError
LATER: Final = {"retry-after": "1"}

CASES: Final = (
    # No response, or another one.
    Case(faults.refuse, errors.ConnectError, Outcome.NOT_SENT, None, requests=0),
    Case(faults.lose_before_headers, errors.ConnectionLostError, UNKNOWN, None),
    Case(faults.hang_before_headers, errors.IdleTimeoutError, UNKNOWN, None, clock="idle"),
    Case(partial(faults.status, code=302), errors.RedirectError, REJECTED, None),
    Case(partial(faults.status, code=400), errors.StatusError, REJECTED, None),
    Case(partial(faults.status, code=401), errors.AuthenticationError, REJECTED, None),
    Case(partial(faults.status, code=403), errors.PermissionDeniedError, REJECTED, None),
    Case(partial(faults.status, code=404), errors.NotFoundError, REJECTED, None),
    Case(partial(faults.status, code=429), errors.RateLimitedError, REJECTED, None),
    Case(partial(faults.status, code=500), errors.ServerError, UNKNOWN, None),
    Case(partial(faults.status, code=502), errors.ServerError, UNKNOWN, None),
    Case(partial(faults.status, code=503), errors.ServerError, UNKNOWN, None),
    Case(partial(faults.status, code=503, headers=LATER), errors.ServerError, REJECTED, None),
    Case(partial(faults.status, code=504), errors.ServerError, UNKNOWN, None),
    Case(faults.html_page, NO_STREAM, UNKNOWN, None),
    Case(faults.envelope, errors.EnvelopeError, UNKNOWN, None),
    Case(faults.wrong_content_type, NO_STREAM, UNKNOWN, None),
    fine(faults.gzip_body),
    Case(faults.gzip_bomb, errors.TooLargeError, UNKNOWN, 0, note="`Limits` count inflated bytes"),
    # A stream that ends, or does not.
    Case(faults.empty_body, INCOMPLETE, UNKNOWN, 0),
    Case(faults.garbage, INCOMPLETE, UNKNOWN, 0),
    Case(partial(faults.cut_after, bytes=100), INCOMPLETE, UNKNOWN, 0),
    Case(partial(faults.cut_after, bytes=1000), INCOMPLETE, STARTED, 2),
    Case(partial(faults.reset_after, bytes=1000), INCOMPLETE, STARTED, 2),
    Case(partial(faults.half_event, after=3), INCOMPLETE, STARTED, 3),
    Case(faults.no_close, INCOMPLETE, STARTED, EVENTS, ANSWER),
    Case(faults.close_first, errors.NoAnswerError, Outcome.COMPLETED, 0),
    Case(partial(faults.hang_after, bytes=1000), errors.IdleTimeoutError, STARTED, 2, clock="idle"),
    Case(faults.heartbeats_only, errors.IdleTimeoutError, UNKNOWN, 0, clock="idle"),
    Case(faults.fall_silent, errors.SilenceTimeoutError, UNKNOWN, 0, clock="silence"),
    # Too much data.
    Case(faults.endless_line, errors.TooLargeError, UNKNOWN, 0, note="Limits.event_bytes"),
    Case(faults.endless_event, errors.TooLargeError, UNKNOWN, 0, note="Limits.event_bytes"),
    Case(faults.endless_comments, errors.TooLargeError, UNKNOWN, 0, note="Limits.event_bytes"),
    Case(faults.endless_field, errors.TooLargeError, UNKNOWN, 0, note="Limits.event_bytes"),
    Case(faults.blank_lines, errors.TooLargeError, UNKNOWN, 0, note="Limits.stream_bytes"),
    # Unusual but valid.
    fine(partial(faults.split_every, n=1)),
    fine(partial(faults.split_every, n=1000)),
    fine(faults.crlf_split),
    fine(faults.one_piece),
    fine(partial(faults.slow, seconds=0.01)),
    fine(faults.bom),
    fine(faults.lf_only),
    fine(faults.heartbeats_between),
    fine(faults.duplicate_close, note="what follows the first is not read"),
)


@attrs.define(eq=False)
class Counted:
    """A transport that counts requests and left exchanges."""

    inner: Transport
    requests: list[HTTPRequest] = attrs.field(factory=list["HTTPRequest"])
    left: list[HTTPRequest] = attrs.field(factory=list["HTTPRequest"])

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """Use the wrapped transport."""
        self.requests.append(request)
        try:
            async with self.inner.exchange(request) as response:
                yield response
        finally:
            self.left.append(request)

    async def aclose(self) -> None:
        """Close the wrapped transport."""
        await self.inner.aclose()


@attrs.frozen
class Ended:
    """The result of a run, as in a line of the table."""

    error: type[errors.OxyError] | None
    outcome: Outcome
    events: int | None
    answer: str | None
    requests: int


def expected(case: Case) -> Ended:
    """Return the expected result."""
    return Ended(case.error, case.outcome, case.events, case.answer, case.requests)


async def play(case: Case, inner: Transport, url: str, timeouts: Timeouts = Timeouts()) -> tuple[Ended, float]:
    """Return the result of a run with the fault, and its seconds."""
    counted = Counted(inner)
    agent = plain(server_url=url, transport=case.make(counted), timeouts=timeouts, limits=LIMITS)
    began = anyio.current_time()
    run = agent.stream(QUERY)
    error = None
    try:
        async with run:
            response = await run.final_response()
            assert response.output == ANSWER
    except errors.OxyError as caught:
        error = caught
    assert error is None or error.outcome is run.outcome
    came = run.partial if error is None else error.partial
    seconds = anyio.current_time() - began
    assert counted.left == counted.requests, "an exchange was not left"
    return Ended(
        None if error is None else type(error),
        run.outcome,
        None if came is None else len(came.events),
        None if came is None else came.answer,
        len(counted.requests),
    ), seconds


def allowed(case: Case, timeouts: Timeouts) -> tuple[float, float]:
    """Return the least and the most seconds of the run: its time-out, and a margin."""
    clock: float = 0.0 if case.clock is None else getattr(timeouts, case.clock)
    return clock, clock + (1.0 if math.isclose(clock, 0.0) else 0.1 * clock)


# ----------------------------------------------------------------------------------------------------------------- Page

HEAD: Final = """\
# Faults in tests, and how a run ends

The faults in `oxygent_client.testing.faults` are transports that wrap a transport, such as
`faults.cut_after(FakeTransport.script(...), bytes=1000)`. The table shows how a run ends with each of them. By default
a fault affects runs only (`purposes=` changes that), and every run (`times=` changes that; `refuse` affects one).

The tests write this table (`python -m tests.support.fault_cases`) and run each line over `FakeTransport`,
`ASGITransport` and a cassette, and on a real socket over `HTTPXTransport`, `HTTPX2Transport` and `AiohttpTransport`, on
asyncio and, except for the last, on trio, with the same result. The run has nine events, the last of them the answer.
Each exchange was closed, and the request was sent once, or never in case of `NOT_SENT`: retries are off
(`Retry(attempts=1)`), and so is recovery from the server's record (`Timeouts(lookup=None)`).

[Server faults](fault-server.md) has many more faults, over real sockets.

| Fault | What happens | The run ends with | `outcome` | `partial` |
|---|---|---|---|---|
"""


def page() -> str:
    """Return the page with the table."""
    lines: list[str] = []
    for case in CASES:
        ends = "its answer" if case.error is None else f"`{case.error.__name__}`"
        ends += f" (`Timeouts.{case.clock}`)" if case.clock else ""
        ends += f" ({case.note})" if case.note else ""
        cells = (f"`{case.name}`", case.happens, ends, f"`{case.outcome.name}`", case.partial)
        lines.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
