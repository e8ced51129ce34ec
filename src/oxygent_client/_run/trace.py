"""Collect the trace of a run from its events, within limits.

Rule 1: a call is found by its node id, and its parent by its stack (`_core/open_calls`).
Rule 2: bounded: MOST_CALLS calls and MOST_BYTES of data are kept, and linear, however many calls are open.
Rule 3: an event costs little until a trace is made, or until many wait.
Rule 4: values are kept as received, and redacted once, when a trace is first made of them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, cast
from weakref import ref

import attrs

from oxygent_client._core.call_tree import CallStatus, TraceCall
from oxygent_client._core.errors import OxyError, RemoteAgentError
from oxygent_client._core.events import Event, Observation, RemoteErrorEvent, ToolCall
from oxygent_client._core.open_calls import OpenCalls
from oxygent_client._core.requests import OxyResponse
from oxygent_client._core.trace import Trace
from oxygent_client._protocol.messages import as_text
from oxygent_client._protocol.run_record import STATUSES, RunRecord, is_failure_text

TRACED: Final[frozenset[type[Event]]] = frozenset({ToolCall, Observation, RemoteErrorEvent})
"""The classes of the events that a trace is made of."""
MOST_CALLS: Final = 10_000
MOST_BYTES: Final = 4 * 1024 * 1024
"""Data of the events of calls, in characters, as the events have it."""
MOST_WAITING: Final = 512
"""Events that wait. Most runs have fewer, and no trace is made of them."""
MOST_WAITING_BYTES: Final = 256 * 1024
"""Their data, in characters."""


@attrs.define(eq=False)
class _Call:
    """A call as its events tell of it."""

    parent: int | None
    depth: int
    node_id: str
    name: str
    category: str
    arguments: dict[str, Any]
    started: float | None
    ended: float | None = None
    output: Any = None
    error: Any = ""
    is_failed: bool = False
    is_cut: bool = False
    made: TraceCall | None = None
    """The value of the call, until it changes again."""


NO_EVENT: Final[tuple[Callable[[], Event | None], int]] = (lambda: None, 0)


class TraceCollector:
    """Takes the events of a run; `at` is the time of the event loop's clock."""

    __slots__ = (
        *("_calls", "_end", "_latest", "_places", "_size", "_start", "_waiting", "_waiting_size", "began"),
        "dropped",
    )

    def __init__(self) -> None:
        self.began: datetime | None = None
        self.dropped = 0
        self._start = 0.0
        self._end: float | None = None
        self._size = 0
        self._waiting: list[tuple[Event, float]] | None = None  # while there is none
        self._waiting_size = 0
        self._calls: list[_Call] = []
        self._places: OpenCalls[int] | None = None  # until events are assigned to their calls
        self._latest = NO_EVENT
        """The latest event that began a call, and the call's place: the event may have no node id."""

    @property
    def _open_calls(self) -> OpenCalls[int]:
        """The places of the calls in the list."""
        if self._places is None:
            self._places = OpenCalls()
        return self._places

    def begin(self, at: float) -> None:
        """The run begins."""
        self.began, self._start = datetime.now(UTC), at

    def end(self, at: float) -> None:
        """The run is over."""
        self._end = at

    def _seconds(self, now: Callable[[], float]) -> float | None:
        """How long the run has taken, until now or until its end; None if it has not begun."""
        return None if self.began is None else (now() if self._end is None else self._end) - self._start

    def note(self, event: Event, at: float) -> None:
        """Take an event of a class in TRACED. It waits until a trace is made, or until there are many."""
        waiting = self._waiting = self._waiting or []
        waiting.append((event, at))
        self._waiting_size += len(event.sse.data)
        if len(waiting) >= MOST_WAITING or self._waiting_size >= MOST_WAITING_BYTES:
            self._sort()

    def _sort(self) -> None:
        """Assign the waiting events to their calls."""
        waiting, self._waiting, self._waiting_size = self._waiting, None, 0
        for event, at in waiting or ():
            self._assign(event, at - self._start)

    def _assign(self, event: Event, at: float) -> None:
        if isinstance(event, ToolCall):
            self._begin_call(event, at)
        elif isinstance(event, Observation):
            self._end_call(event, at)
        else:
            self._report(event)

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
        self._sort()
        values: dict[str, Any] = {"began": self.began, "seconds": self._seconds(now), "status": status, **fields}
        if record is None:
            made = [self._made(index, call, clean, status != "running") for index, call in enumerate(self._calls)]
            return Trace(calls=tuple(made), dropped=self.dropped, **values)
        stored = record.trace()
        calls = [attrs.evolve(call, arguments=self._arguments(call.node_id, clean)) for call in stored.calls]
        return attrs.evolve(stored, calls=tuple(calls), **values)

    def call_of(self, event: Event, clean: Callable[[Any], Any]) -> TraceCall | None:
        """Return the call that an event is about: its own, or the one that a message names; None if it is not known."""
        self._sort()
        latest, index = self._latest
        if event is latest():
            place: int | None = index
        elif isinstance(event, ToolCall | Observation):
            place = self._open_calls.find(event.node_id)
        else:
            place = self._open_calls.subject_of(event)
        return None if place is None else self._made(place, self._calls[place], clean, self._end is not None)

    def _arguments(self, node_id: str, clean: Callable[[Any], Any]) -> dict[str, Any]:
        index = self._open_calls.find(node_id)
        return {} if index is None else self._made(index, self._calls[index], clean, is_over=True).arguments

    def _takes(self, event: Event) -> bool:
        """Whether there is room for the data of `event`."""
        size = self._size + len(event.sse.data)
        if size > MOST_BYTES:
            return False
        self._size = size
        return True

    def _begin_call(self, event: ToolCall, at: float) -> None:
        if len(self._calls) >= MOST_CALLS or not self._takes(event):
            self.dropped += 1
            return
        self._add(event, event.arguments, at)

    def _add(self, event: ToolCall | Observation, arguments: dict[str, Any], at: float | None) -> int:
        index, above = len(self._calls), self._open_calls.caller_of(event)
        depth = 0 if above is None else self._calls[above].depth + 1
        self._calls.append(_Call(above, depth, event.node_id, event.callee, event.callee_category, arguments, at))
        self._open_calls.begin(event, index)
        self._latest = ref(event), index  # weak: an event may be several times as large as its text
        return index

    def _end_call(self, event: Observation, at: float) -> None:
        fits = self._takes(event)
        index = self._open_calls.find(event.node_id)
        if index is None:  # the start was not seen: the run was attached to, or the call was dropped
            if not fits or self.dropped:
                return
            index = self._add(event, {}, None)
        call = self._calls[index]
        call.ended, call.is_cut, call.made = at, not fits, None
        if fits:
            call.output = event.output
            if is_failure_text(call.output):
                call.error, call.is_failed = call.output, True
        self._open_calls.end(event.node_id)

    def _report(self, event: Event) -> None:
        """Note an error at the call that it names, by node id or agent; otherwise at the root."""
        if not self._calls or not self._takes(event):
            return
        call = self._calls[self._open_calls.subject_of(event) or 0]
        call.error, call.made = event.content, None

    def _made(self, index: int, call: _Call, clean: Callable[[Any], Any], is_over: bool) -> TraceCall:
        status: CallStatus = "lost" if is_over else "running"
        if call.ended is not None:
            status = "failed" if call.is_failed else "completed"
        if call.made is None:
            arguments = clean(call.arguments)
            call.made = TraceCall(
                index=index,
                parent=call.parent,
                depth=call.depth,
                node_id=clean(call.node_id),
                name=clean(call.name),
                category=clean(call.category),
                status=status,
                started=call.started,
                ended=call.ended,
                arguments=cast("dict[str, Any]", arguments if isinstance(arguments, dict) else {}),
                output=clean(call.output),
                error=clean(as_text(call.error)),
                is_cut=call.is_cut,
            )
        elif call.made.status != status:
            call.made = attrs.evolve(call.made, status=status)
        return call.made


def status_of(
    response: OxyResponse | None, error: BaseException | None, *, is_left: bool, is_detached: bool
) -> CallStatus:
    """How a run stands, by its response, its error, and whether its block was left."""
    if response is not None:
        return "completed"
    if isinstance(error, RemoteAgentError) and error.state is not None:
        return STATUSES[error.state]
    if isinstance(error, OxyError) and not is_left:
        return "failed"
    if error is None and not is_left:
        return "running"
    return "lost" if is_detached else "canceled"
