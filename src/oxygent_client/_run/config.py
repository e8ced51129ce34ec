"""Configuration of one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import attrs

from oxygent_client._core.events import Event
from oxygent_client._core.plain_http import PlaintextRules
from oxygent_client._core.requests import OxyRequest
from oxygent_client._core.settings import ConfirmState, Limits, Timeouts
from oxygent_client._core.transport import Context, HTTPRequest, Transport
from oxygent_client._protocol.router import Action, EventRouter, NameMap
from oxygent_client._protocol.schema import Schema, Validator
from oxygent_client.telemetry._observers import RunObservation


class Lease(Protocol):
    """A transport for the time of a run, until `__aexit__`."""

    @property
    def transport(self) -> Transport:
        """The transport."""
        ...

    @property
    def temporary(self) -> Transport | None:
        """What is closed at the end; None if there is nothing to do."""
        ...

    async def __aexit__(self, *error: object) -> None:
        """Give the transport back."""
        ...


class RequestSource(Protocol):
    """Builds the requests of one run."""

    async def __call__(self, transport: Transport, context: Context) -> tuple[HTTPRequest, NameMap]:
        """Return the request for the stream and its `NameMap`.

        `context` is that of the request so far: with the run's id at the server and the deadline.
        """
        ...

    def record_request(self) -> HTTPRequest:
        """Return the GET request for the server's record of the run."""
        ...


class Listener(Protocol):
    """The program's callbacks during a run; what a listener raises ends the run."""

    async def opened(self) -> None:
        """The run is about to be requested."""
        ...

    def hears(self, event: Event) -> bool:
        """Whether `on_event` would do anything. It is asked for each event: callbacks may be assigned during a run."""
        ...

    async def on_event(self, event: Event, action: Action) -> None:
        """An event was received, and `action` is the router's decision."""
        ...

    async def completed(self) -> None:
        """The run is complete and has an answer."""
        ...


@attrs.define(kw_only=True, eq=False, repr=False)
class RunConfig:
    """Everything that a run needs.

    It does not change; it is not frozen, since attrs sets each field of a frozen instance by a call.
    """

    request: OxyRequest
    """The request; only the error of its run is stored in it."""
    trace_id: str
    """The caller's trace id."""
    base_url: str
    lease: Callable[[], Lease]
    """Opens a transport for the time of the run; it reports to `Context.outcome`."""
    prepare: RequestSource
    """Builds the requests of the run."""
    router: EventRouter
    listener: Listener
    timeouts: Timeouts
    limits: Limits
    confirm_state: ConfirmState = "auto"
    """When the record is looked up although the run has an answer."""
    failure_detector: Callable[[Any], bool] | None = None
    """Returns whether an output reports a failure."""
    schema: Schema = attrs.field(factory=dict[str, Validator])
    """Validators of messages, by their type."""
    strict: bool = False
    """Whether an invalid message is an error."""
    https_only: PlaintextRules | None = None
    """That of the agent's policies, which would make a copy of the request to put it there."""
    attached_to: str = ""
    """The server's id of a detached run to attach to; empty to start a run."""
    observed: RunObservation = attrs.field(factory=RunObservation)
    """Notifies the observers of this run."""
