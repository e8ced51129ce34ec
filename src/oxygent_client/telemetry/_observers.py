"""Notify observers about runs.

Rule 1: an observer changes nothing. What it raises is logged, once for each run, and never reaches the run.
Rule 2: an observer is told what the log is told, each by the same name, and what UNLOGGED has beside it.
Rule 3: what nobody asks for costs no more than adding integers: bytes and events are counted in the run, and read by
    whom they interest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

import attrs

from oxygent_client._core.events import Event, Observation, ToolCall
from oxygent_client._core.log import log_event
from oxygent_client._core.transport import Context, HTTPRequest

__all__ = ["UNLOGGED", "Notification", "Observer", "Propagator", "RunObservation"]

UNLOGGED: Final[Mapping[str, str]] = {
    "begun": "the block is entered; `request` (an `OxyRequest`), `server_url` (as it may be shown)",
    "streaming": "the headers of a stream of events came, after `seconds`; `url`, where they came from",
    "first_byte": "the first bytes of the stream came, after `seconds`",
    "tool_call": "the remote calls one of its own; `event`, a `ToolCall`",
    "observation": "that call is over; `event`, an `Observation`",
    "ended": "the last: `end` is `completed`, `failed` or `left`; `error`, `response`, `outcome`, `seconds`",
}
"""What observers are told and no log is, with its fields. Seconds are since `begun`."""


@attrs.frozen
class Notification:
    """Something that happened to a run."""

    event: str
    """Its name: one of the log's (`connect`, `opened`, `retry`, ...), or `begun`, `streaming`, `first_byte`, `ended`,
    and for those who want events `tool_call`, `observation`."""
    run: RunObservation
    """The run it happened to."""
    context: Context
    """Of the request it happened to."""
    fields: Mapping[str, Any] = attrs.field(repr=lambda fields: repr([*fields]))
    """More of it, by name: the attributes of the log's record."""


class Observer(Protocol):
    """Hears of runs. It may be told by several threads, if agents run in several.

    With an attribute `wants_events` that is true it is told each tool call and observation, too.
    """

    def note(self, happening: Notification, /) -> None:
        """Take notice. The run waits for it meanwhile, so this does not wait for anything."""
        ...


class Propagator(Protocol):
    """An observer that has something to tell the server."""

    def headers(self, run: RunObservation, /) -> Mapping[str, str]:
        """What is added to the headers of the request that asks for `run`, or attaches to it.

        Of the request that begins a detached run, too: that is a run of which nothing else is told.
        """
        ...


def _hold(run: RunObservation, size: int) -> None:
    """Note how much is held, for nobody else."""
    run.buffered = size


def _wanting_events(observers: Iterable[Observer]) -> tuple[Observer, ...]:
    return tuple(each for each in observers if getattr(each, "wants_events", False))


@attrs.define(eq=False, kw_only=True)
class RunObservation:
    """One run as its observers see it: the object itself says which run it is, its numbers grow as the run goes."""

    observers: tuple[Observer, ...] = attrs.field(default=(), repr=False)
    """Who is told of it."""
    bytes: int = attrs.field(default=0, init=False)
    """Received of its stream."""
    events: int = attrs.field(default=0, init=False)
    """Messages received."""
    buffered: int = attrs.field(default=0, init=False)
    """Bytes held: of an event that is not complete, and of the last piece until all its events are handed out."""
    _holds: Callable[[RunObservation, int], None] = attrs.field(default=_hold, repr=False, alias="holds")
    """Sets `buffered`."""
    _listeners: tuple[Observer, ...] = attrs.field(
        default=attrs.Factory(lambda self: _wanting_events(self.observers), takes_self=True), init=False, repr=False
    )
    _has_complained: bool = attrs.field(default=False, init=False, repr=False)

    def note(self, event: str, context: Context, fields: Mapping[str, Any]) -> None:
        """Tell all observers."""
        self._tell(self.observers, Notification(event, self, context, fields))

    def hear(self, event: Event, context: Context) -> None:
        """Count an event, and tell who wants to hear of it."""
        self.events += 1
        if self._listeners and isinstance(event, ToolCall | Observation):
            name = "tool_call" if isinstance(event, ToolCall) else "observation"
            self._tell(self._listeners, Notification(name, self, context, {"event": event}))

    def hold(self, size: int) -> None:
        """From now on, so many bytes are held."""
        if size != self.buffered:
            self._holds(self, size)

    def mark(self, request: HTTPRequest) -> HTTPRequest:
        """`request` as it is sent for this run: signed, and its observers are told what becomes of it."""
        return self.sign(attrs.evolve(request, context=attrs.evolve(request.context, observed=self)))

    def sign(self, request: HTTPRequest) -> HTTPRequest:
        """`request` with what observers have to tell the server."""
        signed = request
        for observer in self.observers:
            offered: Callable[[RunObservation], Mapping[str, str]] | None = getattr(observer, "headers", None)
            if offered is not None:
                try:
                    added = {name.lower(): value for name, value in offered(self).items()}
                    signed = attrs.evolve(signed, headers={**signed.headers, **added})
                except Exception as error:  # noqa: BLE001  (rule 1)
                    self._complain(observer, error, request.context)
        return signed

    def _tell(self, observers: Iterable[Observer], happening: Notification) -> None:
        for observer in observers:
            try:
                observer.note(happening)
            except Exception as error:  # noqa: BLE001  (rule 1)
                self._complain(observer, error, happening.context)

    def _complain(self, observer: Observer, error: Exception, context: Context) -> None:
        """Log what `observer` raised, the first time: only its class, since its text may hold anything."""
        if not self._has_complained:
            self._has_complained = True
            alone = attrs.evolve(context, observed=None)  # no observer hears of another's fault
            log_event("warning", alone, "%s raised %s; the run goes on", type(observer).__name__, type(error).__name__)
