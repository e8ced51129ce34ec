"""Collect the trace of a run from its events, within limits.

Rule 1: bounded and linear, however many calls are open (`oxygent_client._run.traced_calls`).
Rule 2: an event costs little until a trace is made, or until many wait: most runs load no more than this module.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import attrs

from oxygent_client._core.errors import OxyError, RemoteAgentError
from oxygent_client._core.events import Event, Observation, RemoteErrorEvent, ToolCall
from oxygent_client._core.requests import OxyResponse

if TYPE_CHECKING:
    from oxygent_client._core.call_tree import CallStatus, TraceCall
    from oxygent_client._core.trace import Trace
    from oxygent_client._protocol.run_record import RunRecord
    from oxygent_client._run.traced_calls import TracedCalls

TRACED: Final[frozenset[type[Event]]] = frozenset({ToolCall, Observation, RemoteErrorEvent})
"""The classes of the events that a trace is made of."""
MOST_WAITING: Final = 512
"""Events that wait. Most runs have fewer, and no trace is made of them."""
MOST_WAITING_BYTES: Final = 256 * 1024
"""Their data, in characters."""


class TraceCollector:
    """Takes the events of a run; `at` is the time of the event loop's clock."""

    __slots__ = ("_began", "_calls", "_end", "_start", "_waiting", "_waiting_size")

    def __init__(self) -> None:
        self._began: float | None = None  # by the system's clock, in seconds
        self._start = 0.0
        self._end: float | None = None
        self._waiting: list[tuple[Event, float]] | None = None  # while there is none
        self._waiting_size = 0
        self._calls: TracedCalls | None = None  # until events are assigned to their calls

    def begin(self, at: float) -> None:
        """The run begins."""
        self._began, self._start = time.time(), at

    def end(self, at: float) -> None:
        """The run is over."""
        self._end = at

    def _seconds(self, now: Callable[[], float]) -> float | None:
        """How long the run has taken, until now or until its end; None if it has not begun."""
        return None if self._began is None else (now() if self._end is None else self._end) - self._start

    def note(self, event: Event, at: float) -> None:
        """Take an event of a class in TRACED. It waits until a trace is made, or until there are many."""
        waiting = self._waiting = self._waiting or []
        waiting.append((event, at))
        self._waiting_size += len(event.sse.data)
        if len(waiting) >= MOST_WAITING or self._waiting_size >= MOST_WAITING_BYTES:
            self._sort()

    def _sort(self) -> TracedCalls:
        """Assign the waiting events to their calls; return those."""
        if self._calls is None:
            from oxygent_client._run.traced_calls import TracedCalls

            self._calls = TracedCalls()
        waiting, self._waiting, self._waiting_size = self._waiting, None, 0
        for event, at in waiting or ():
            self._calls.assign(event, at - self._start)
        return self._calls

    def trace(
        self,
        *,
        now: Callable[[], float],
        status: CallStatus,
        record: RunRecord | None,
        clean: Callable[[Any], Any],
        **fields: Any,
    ) -> Trace:
        """Return the trace so far, with values redacted by `clean`.

        `record` is that of a run whose stream was cut: the calls are its calls then, with the arguments of the events.
        """
        from oxygent_client._core.trace import Trace

        traced = self._sort()
        began = None if self._began is None else datetime.fromtimestamp(self._began, UTC)
        values: dict[str, Any] = {"began": began, "seconds": self._seconds(now), "status": status, **fields}
        if record is None:
            made = traced.made(clean, is_over=status != "running")
            return Trace(calls=made, dropped=traced.dropped, **values)
        stored = record.trace()
        calls = [attrs.evolve(call, arguments=traced.arguments(call.node_id, clean)) for call in stored.calls]
        return attrs.evolve(stored, calls=tuple(calls), **values)

    def call_of(self, event: Event, clean: Callable[[Any], Any]) -> TraceCall | None:
        """Return the call that an event is about: its own, or the one that a message names; None if it is not known."""
        return self._sort().call_of(event, clean, is_over=self._end is not None)


def status_of(
    response: OxyResponse | None, error: BaseException | None, *, is_left: bool, is_detached: bool
) -> CallStatus:
    """How a run stands, by its response, its error, and whether its block was left."""
    if response is not None:
        return "completed"
    if isinstance(error, RemoteAgentError) and error.state is not None:
        from oxygent_client._protocol.run_record import STATUSES

        return STATUSES[error.state]
    if isinstance(error, OxyError) and not is_left:
        return "failed"
    if error is None and not is_left:
        return "running"
    return "lost" if is_detached else "canceled"
