"""The demonstration over time: its duration, and when each part appears.

Rule: time is virtual, so that the test does not depend on the load of the machine. The same on a terminal is in
test_demo_pty.py.
"""

from __future__ import annotations

import io
from typing import Final

import anyio
import pytest
from rich.console import Console

from oxygent_client import SSEOxyGent
from oxygent_client.cli._app import QUESTION
from oxygent_client.cli._ask import run_query
from oxygent_client.cli._output import LiveDisplay, RunSummary
from oxygent_client.testing import ToyRemote
from oxygent_client.testing.script import TRIP
from oxygent_client.transports.asgi import ASGITransport
from tests.cli.test_demo_pty import APPEARING
from tests.support.virtual import anyio_backend as anyio_backend

FRAMES_A_SECOND: Final = 12


class Film(io.StringIO):
    """A terminal that records the time of each write, in virtual seconds since the first."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[tuple[float, str]] = []

    def write(self, text: str, /) -> int:
        """Record a frame, or a text between two frames."""
        self.frames.append((anyio.current_time(), text))
        return super().write(text)

    def first_seen(self, text: str) -> float:
        """Return when a frame first had this text."""
        return next(at for at, frame in self.frames if text in frame)


async def filmed(pace: float) -> tuple[float, RunSummary, LiveDisplay, Film]:
    """The demonstration: its duration, exit code, view and frames."""
    film = Film()
    show = LiveDisplay(Console(file=film, width=80, height=24, force_terminal=True), QUESTION)
    agent = SSEOxyGent(server_url="http://toy", transport=ASGITransport(ToyRemote(pace=pace)))
    began = anyio.current_time()
    outcome = await run_query(agent, QUESTION, show)
    return anyio.current_time() - began, outcome, show, film


Filmed = tuple[float, RunSummary, LiveDisplay, Film]


_DEMOS: Final[dict[str, Filmed]] = {}


@pytest.fixture
async def demo(anyio_backend_name: str) -> Filmed:
    """The demonstration, run once for each loop."""
    if anyio_backend_name not in _DEMOS:
        _DEMOS[anyio_backend_name] = await filmed(1.0)
    return _DEMOS[anyio_backend_name]


async def test_every_event_is_shown(demo: Filmed) -> None:
    """Each event of the run is in the view, and the answer is that of the run."""
    _, outcome, show, _ = demo
    assert outcome.response.output == TRIP.output
    assert show.view.events == 72


async def test_the_calls_are_those_of_the_trace(demo: Filmed) -> None:
    """At the end the tree has the calls of the run's trace, each with its time there."""
    *_, show, _ = demo
    calls = [(line.name, line.seconds) for line in show.view.lines() if line.name]
    assert calls == [(call.name, call.seconds) for call in show.view.trace.walk()]
    assert show.view.trace.status == "completed"


async def test_duration(demo: Filmed) -> None:
    """The demonstration lasts 5 to 15 seconds."""
    seconds, *_ = demo
    assert 5 <= seconds <= 15


async def test_fast() -> None:
    """With `--fast` it lasts a fifth of that."""
    seconds, *_ = await filmed(0.2)
    assert 1 <= seconds <= 3


async def test_frame_rate(demo: Filmed) -> None:
    """Twelve frames a second are drawn, with and without events."""
    seconds, _, _, film = demo
    pictures = len({at for at, _ in film.frames})
    assert seconds * FRAMES_A_SECOND == pytest.approx(pictures, abs=2)


async def test_events_appear_in_time(demo: Filmed) -> None:
    """The events appear in order, at different times."""
    *_, film = demo
    times = [film.first_seen(text) for text in APPEARING]
    assert sorted(times) == times
    assert len(set(times)) >= 10
    assert times[-1] - times[0] >= 4
