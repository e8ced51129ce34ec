"""Notify observers about runs.

Rule 1: an observer cannot change a run. An exception of an observer is logged, once per run, and not raised.
Rule 2: observers get all events of the log, by the same names, and those in UNLOGGED.
Rule 3: a run without observers costs little: bytes and events are only counted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sized
from typing import Any, ClassVar, Final, Protocol

import attrs

from oxygent_client._core.events import Event, Observation, ToolCall
from oxygent_client._core.log import log_event
from oxygent_client._core.transport import Context, HTTPRequest

UNLOGGED: Final[Mapping[str, str]] = {
    "begun": "the run's block is entered; `request` (an `OxyRequest`), `server_url` (redacted)",
    "streaming": "response headers of an event stream, after `seconds`; `url` of the server",
    "first_byte": "first bytes of the stream, after `seconds`",
    "tool_call": "the remote calls an agent or tool; `event`, a `ToolCall`",
    "observation": "end of that call; `event`, an `Observation`",
    "ended": "always the last: `end` is `completed`, `failed` or `left`; `error`, `response`, `outcome`, `seconds`",
}
"""Events for observers that are not logged, with their fields. Seconds are since `begun`."""


class _NotificationSlots:
    __slots__ = ("__weakref__", "context", "event", "fields", "run")


@attrs.frozen
class Notification(_NotificationSlots):
    """One event in the life of a run."""

    event: str
    """Name of the event: one of the log (`connect`, `opened`, `retry`, ...), or `begun`, `streaming`, `first_byte`,
    `ended`; with `wants_events` also `tool_call`, `observation`."""
    run: RunObservation
    """The run."""
    context: Context
    """Context of the request."""
    fields: Mapping[str, Any] = attrs.field(repr=lambda fields: repr([*fields]))
    """Fields of the event, by name: the attributes of the log record."""


def new_notification(event: str, run: RunObservation, context: Context, fields: Mapping[str, Any]) -> Notification:
    """The same as `Notification(...)`, in less time (`_core/events`, rule 3)."""
    made: Any = _NotificationSlots()
    made.event, made.run, made.context, made.fields = event, run, context, fields
    made.__class__ = Notification
    notification: Notification = made
    return notification


class Observer(Protocol):
    """Gets notifications about runs; from several threads, if agents run in several.

    With a true attribute `wants_events` it also gets each tool call and observation.
    """

    def note(self, notification: Notification, /) -> None:
        """Handle a notification. It must not block: the run waits for it."""
        ...


class Propagator(Protocol):
    """An observer that adds headers to requests, to propagate a trace."""

    def headers(self, run: RunObservation, /) -> Mapping[str, str]:
        """Headers to add to the request that starts `run` or attaches to it.

        Also called for the request that starts a detached run, for which there are no notifications.
        """
        ...


class RunCounter(Protocol):
    """Counts the runs of an agent, for its statistics; it needs no notifications, which take longer than to count."""

    counted: ClassVar[Collection[str]]
    """The events that it counts."""

    def count(self, event: str, run: RunObservation, context: Context, fields: Mapping[str, Any], /) -> None:
        """Count one of these events."""
        ...

    def hold(self, run: RunObservation, size: int, /) -> None:
        """Set the `buffered` bytes of a run."""
        ...


CALLS: Final = (ToolCall, Observation)
"""The events that observers with `wants_events` get."""


def _wants_events(observer: Observer) -> bool:
    return bool(getattr(observer, "wants_events", False))


class _NoCounter:
    """Counts nothing."""

    counted: ClassVar[Collection[str]] = ()

    def count(self, event: str, run: RunObservation, context: Context, fields: Mapping[str, Any], /) -> None:
        """As `RunCounter.count`, which is not called."""

    def hold(self, run: RunObservation, size: int, /) -> None:
        """As `RunCounter.hold`."""
        run.buffered = size


_NO_COUNTER: Final = _NoCounter()


@attrs.define(eq=False, kw_only=True)
class RunObservation:
    """One run as its observers see it: its identity, and numbers that grow during the run."""

    observers: tuple[Observer, ...] = attrs.field(default=(), repr=False)
    """They get the notifications."""
    counter: RunCounter = attrs.field(default=_NO_COUNTER, repr=False)
    """Counts the run."""
    bytes: int = attrs.field(default=0, init=False)
    """Bytes of its stream received."""
    taken: int = attrs.field(default=0, init=False, repr=False)
    """Messages received, with those that are `ahead` of the reader."""
    ahead: Sized = attrs.field(default=(), init=False, repr=False)
    headers_after: float | None = attrs.field(default=None, init=False)
    """Seconds from the beginning to the first response headers of an event stream; None before them."""
    first_byte_after: float | None = attrs.field(default=None, init=False)
    """Seconds to the first bytes of the stream."""
    first_event_after: float | None = attrs.field(default=None, init=False)
    """Seconds to the first event."""
    buffered: int = attrs.field(default=0, init=False)
    """Bytes buffered: of an incomplete event, and of the last chunk until all of its events were read."""
    _has_failed: bool = attrs.field(default=False, init=False, repr=False)

    @property
    def events(self) -> int:
        """Messages received."""
        return self.taken - len(self.ahead)

    def note(self, event: str, context: Context, fields: Mapping[str, Any]) -> None:
        """Count an event, and notify all observers."""
        counter = self.counter
        if event in counter.counted:
            counter.count(event, self, context, fields)
        if self.observers:
            notification = new_notification(event, self, context, fields)
            for observer in self.observers:
                self._notify(observer, notification)

    def note_event(self, event: Event, context: Context) -> None:
        """Notify the observers with `wants_events` of a call."""
        if isinstance(event, CALLS) and (listeners := [*filter(_wants_events, self.observers)]):
            notification = new_notification(event.type, self, context, {"event": event})
            for observer in listeners:
                self._notify(observer, notification)

    def hold(self, size: int) -> None:
        """Set the number of buffered bytes."""
        if size != self.buffered:
            self.counter.hold(self, size)

    def add_headers(self, request: HTTPRequest) -> HTTPRequest:
        """Add the observers' headers to `request`."""
        for observer in self.observers:
            headers: Callable[[RunObservation], Mapping[str, str]] | None = getattr(observer, "headers", None)
            if headers is not None:
                try:
                    added = {name.lower(): value for name, value in headers(self).items()}
                    request = attrs.evolve(request, headers={**request.headers, **added})
                except Exception as error:  # noqa: BLE001  (rule 1)
                    self._report(observer, error, request.context)
        return request

    def _notify(self, observer: Observer, notification: Notification) -> None:
        try:
            observer.note(notification)
        except Exception as error:  # noqa: BLE001  (rule 1)
            self._report(observer, error, notification.context)

    def _report(self, observer: Observer, error: Exception, context: Context) -> None:
        """Log the first exception of an observer: only its class, since its text may hold anything."""
        if not self._has_failed:
            self._has_failed = True
            unobserved = attrs.evolve(context, observed=None)  # not a notification
            text = "%s raised %s; the run goes on"
            log_event("warning", unobserved, text, type(observer).__name__, type(error).__name__)
