"""Virtual time for tests in memory: when nothing is left to do, the clock jumps to the next timer.

Rule 1: a module opts in by importing the fixture: `from tests.support.virtual import anyio_backend as anyio_backend`.
Rule 2: only for what happens within the event loop. A thread, a process or a socket takes time of its own.
Rule 3: an hour costs nothing, so a test says the numbers that it means.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio
import trio.testing

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["VirtualLoop", "advance", "anyio_backend"]


class _Jumping(selectors.DefaultSelector):
    """A selector that skips waiting."""

    jump: Callable[[float], None]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now; if nothing is, advance the clock instead of waiting."""
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:  # no timer at all: only another thread can wake it
            return super().select(None)
        self.jump(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, with a virtual clock."""

    def __init__(self) -> None:
        self._virtual_now = 0.0
        selector = _Jumping()
        selector.jump = self.advance
        super().__init__(selector)

    def time(self) -> float:
        """Return the virtual time; it begins with 0."""
        return self._virtual_now

    def advance(self, seconds: float) -> None:
        """Advance the time."""
        self._virtual_now += seconds


def advance(seconds: float) -> None:
    """Advance virtual time without a checkpoint, as when the event loop is busy."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(seconds)
    else:
        assert isinstance(loop, VirtualLoop)
        loop.advance(seconds)


_OPTIONS: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "asyncio": lambda: {"loop_factory": VirtualLoop},
    "trio": lambda: {"clock": trio.testing.MockClock(autojump_threshold=0)},
}


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The event loop of an async test, asyncio, then trio, in virtual time."""
    return request.param, _OPTIONS[request.param]()
