"""Assign the events of a run to its calls, and make the calls of a trace of them, within limits.

Rule 1: a call is found by its node id, and its parent by its stack (`_core/open_calls`).
Rule 2: bounded: MOST_CALLS calls and MOST_BYTES of data are kept, and linear, however many calls are open.
Rule 3: values are kept as received, and redacted once, when a trace is first made of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast
from weakref import ref

import attrs

from oxygent_client._core.call_tree import CallStatus, TraceCall
from oxygent_client._core.events import Event, Observation, ToolCall
from oxygent_client._core.open_calls import OpenCalls
from oxygent_client._protocol.failure_texts import is_failure_text
from oxygent_client._protocol.messages import as_text

MOST_CALLS: Final = 10_000
MOST_BYTES: Final = 4 * 1024 * 1024
"""Data of the events of calls, in characters, as the events have it."""


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


class TracedCalls:
    """The calls of a run, as its events tell of them."""

    __slots__ = ("_calls", "_latest", "_places", "_size", "dropped")

    def __init__(self) -> None:
        self.dropped = 0
        self._size = 0
        self._calls: list[_Call] = []
        self._places: OpenCalls[int] = OpenCalls()
        """The places of the calls in the list."""
        self._latest = NO_EVENT
        """The latest event that began a call, and the call's place: the event may have no node id."""

    def assign(self, event: Event, at: float) -> None:
        """Assign an event of a class in `oxygent_client._run.trace.TRACED`, so many seconds after the run began."""
        if isinstance(event, ToolCall):
            self._begin_call(event, at)
        elif isinstance(event, Observation):
            self._end_call(event, at)
        else:
            self._report(event)

    def made(self, clean: Callable[[Any], Any], *, is_over: bool) -> tuple[TraceCall, ...]:
        """Return the calls so far, with values redacted by `clean`."""
        return tuple(self._made(index, call, clean, is_over) for index, call in enumerate(self._calls))

    def call_of(self, event: Event, clean: Callable[[Any], Any], *, is_over: bool) -> TraceCall | None:
        """Return the call that an event is about: its own, or the one that a message names; None if it is not known."""
        latest, index = self._latest
        if event is latest():
            place: int | None = index
        elif isinstance(event, ToolCall | Observation):
            place = self._places.find(event.node_id)
        else:
            place = self._places.subject_of(event)
        return None if place is None else self._made(place, self._calls[place], clean, is_over)

    def arguments(self, node_id: str, clean: Callable[[Any], Any]) -> dict[str, Any]:
        """Return the arguments of the call with this node id; empty if it is not known."""
        index = self._places.find(node_id)
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
        index, above = len(self._calls), self._places.caller_of(event)
        depth = 0 if above is None else self._calls[above].depth + 1
        self._calls.append(_Call(above, depth, event.node_id, event.callee, event.callee_category, arguments, at))
        self._places.begin(event, index)
        self._latest = ref(event), index  # weak: an event may be several times as large as its text
        return index

    def _end_call(self, event: Observation, at: float) -> None:
        fits = self._takes(event)
        index = self._places.find(event.node_id)
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
        self._places.end(event.node_id)

    def _report(self, event: Event) -> None:
        """Note an error at the call that it names, by node id or agent; otherwise at the root."""
        if not self._calls or not self._takes(event):
            return
        call = self._calls[self._places.subject_of(event) or 0]
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
