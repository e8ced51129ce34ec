"""End runs that the program dropped without leaving their block.

Rule 1: the garbage collector may run in any thread, while any lock is held. So it only records the lost run; observers
    are notified in the run's event loop soon after, or when the next run begins or statistics are read.
Rule 2: a run whose event loop is closed is over, also where a task of that loop still holds it: anyio keeps such tasks.
Rule 3: a forked child sends no notifications about its parent's runs.
"""

from __future__ import annotations

import os
import time
import weakref
from collections import deque
from typing import Any, Final, Protocol, cast

from oxygent_client._core.log import log_event
from oxygent_client._core.per_loop import call_soon
from oxygent_client._core.transport import Context
from oxygent_client._run.outcome import OutcomeTracker
from oxygent_client.telemetry._observers import RunObservation


class Abandonable(Protocol):
    """A run."""

    def abandon(self) -> None:
        """End the run, which cannot be read any more."""
        ...


class AbandonedWatch(weakref.ref[Abandonable]):
    """A run in flight, and the data of its last notification if it is lost."""

    __slots__ = ("began", "context", "loop", "observed", "tracker")

    observed: RunObservation
    context: Context
    tracker: OutcomeTracker
    began: float
    loop: weakref.ref[Any]
    """The event loop of the run."""

    def end(self) -> None:
        """Stop watching a run that has ended."""
        _WATCHED.get(self.loop, set()).discard(self)


_WATCHED: Final[dict[weakref.ref[Any], set[AbandonedWatch]]] = {}
"""By event loop."""
_LOST: Final[deque[AbandonedWatch]] = deque()


def watch(
    run: Abandonable, running: object, observed: RunObservation, context: Context, tracker: OutcomeTracker
) -> AbandonedWatch:
    """Watch over `run`, which begins now in this event loop, until `end`."""
    if _LOST:
        sweep()
    loop = weakref.ref(running)
    watched = _WATCHED.get(loop)
    if watched is None or len(_WATCHED) > 1:
        _end_with_their_loops()
        watched = _WATCHED.setdefault(loop, set())
    each = AbandonedWatch(run, _lose)
    each.observed, each.context, each.tracker = observed, context, tracker
    each.began, each.loop = time.monotonic(), loop
    watched.add(each)
    return each


def sweep() -> None:
    """Notify the observers of all lost runs."""
    while _LOST:
        try:
            lost = _LOST.popleft()
        except IndexError:  # pragma: no cover  (another thread was faster)
            return
        log_event(
            "warning", lost.context, "a run was dropped without leaving its block (`async with agent.stream(...)`)"
        )
        said = {"end": "left", "error": None, "response": None, "outcome": str(lost.tracker.outcome)}
        lost.observed.hold(0)
        lost.observed.note("ended", lost.context, {**said, "seconds": time.monotonic() - lost.began})


def _end_with_their_loops() -> None:
    """End the runs of event loops that are closed; trio has ended all tasks of a loop before that."""
    for loop_ref in [*_WATCHED]:
        loop = loop_ref()
        if loop is None or (hasattr(loop, "is_closed") and loop.is_closed()):
            for each in [*_WATCHED.pop(loop_ref, set())]:
                run = each()
                if run is not None:
                    run.abandon()
                else:  # `_lose` has not run yet, and will not find it
                    _LOST.append(each)


def _lose(ref: weakref.ref[Any]) -> None:
    lost = cast("AbandonedWatch", ref)
    watched = _WATCHED.get(lost.loop, set())
    if lost not in watched:
        return
    watched.discard(lost)
    _LOST.append(lost)
    call_soon(lost.loop(), sweep)


def forget() -> None:
    """Stop watching all runs."""
    _WATCHED.clear()
    _LOST.clear()


if hasattr(os, "register_at_fork"):  # pragma: no branch  (absent on Windows)
    os.register_at_fork(after_in_child=forget)
