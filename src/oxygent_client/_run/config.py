"""Configuration of one run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import attrs

from oxygent_client._core.events import Event
from oxygent_client._core.requests import OxyRequest
from oxygent_client._core.settings import ConfirmState, Limits, Timeouts
from oxygent_client._core.transport import HTTPRequest, Transport
from oxygent_client._protocol.router import Action, EventRouter, NameMap
from oxygent_client._protocol.schema import Schema, Validator
from oxygent_client.telemetry._observers import RunObservation

__all__ = ["Listener", "RunConfig"]


class Listener(Protocol):
    """The program's callbacks during a run; what a listener raises ends the run."""

    async def opened(self) -> None:
        """The run is about to be requested."""
        ...

    def is_listening(self) -> bool:
        """Whether `on_event` would do anything. It is asked for each event: callbacks may be assigned during a run."""
        ...

    async def on_event(self, event: Event, action: Action) -> None:
        """An event was received, and `action` is the router's decision."""
        ...

    async def completed(self) -> None:
        """The run is complete and has an answer."""
        ...


@attrs.frozen(kw_only=True)
class RunConfig:
    """Everything that a run needs."""

    request: OxyRequest
    """What is executed; it is not changed, but for the note of how its run ended badly."""
    trace_id: str
    """What the caller calls the run."""
    base_url: str
    lease: Callable[[], AbstractAsyncContextManager[Transport]]
    """Lends a transport for the time of the run, which reports to `Context.outcome`."""
    prepare: Callable[[Transport, str, float], Awaitable[tuple[HTTPRequest, NameMap]]]
    """The request to send, and how the remote's names translate; from a transport, the run's id at the remote, and the
    deadline (`math.inf` for none)."""
    router: EventRouter
    listener: Listener
    timeouts: Timeouts
    limits: Limits
    record_request: Callable[[], HTTPRequest]
    """Makes the template of the GETs for the server's record of the run."""
    confirm_state: ConfirmState = "auto"
    """When the record of a run is asked for, although the run has an answer."""
    failure_detector: Callable[[Any], bool] | None = None
    """Whether an output is one of a run that failed."""
    schema: Schema = attrs.field(factory=dict[str, Validator])
    """What is expected of messages."""
    strict: bool = False
    """Whether a message that is not as expected is an error."""
    attached_to: str = ""
    """The id, at the remote, of the detached run that is listened to; empty: the run is asked for."""
    observed: RunObservation = attrs.field(factory=RunObservation)
    """This run, for those who observe it."""
