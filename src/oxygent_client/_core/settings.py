"""`Timeouts`, `Limits` and other bounds of a call; `CallOptions`.

Rule 1: a value here is frozen, compares by content and pickles; it holds no live object.
Rule 2: a float is seconds, sizes are bytes, and None is "off".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias, cast

import attrs

from oxygent_client._core.validation import TEXT, TEXTS, either, instance_of, integer, number, optional

ConfirmState: TypeAlias = bool | Literal["auto"]
"""Whether the server's record must confirm an answer; "auto": if the answer looks like a failure."""

MIB = 1024 * 1024


MAX_DEPTH: Final = 400
"""JSON is copied by recursion, one call a level, and Python allows 1,000 calls with those of your program."""

_SECONDS_OR_OFF: Final = optional(number(gt=0))
_COUNT: Final = integer(ge=1)
_COUNT_OR_OFF: Final = optional(_COUNT)


@attrs.frozen(kw_only=True)
class Timeouts:
    """Time-outs of one call, in seconds; None disables a time-out.

    While your code handles an event, no time-out but `total` runs.
    """

    connect: float | None = attrs.field(default=10.0, validator=_SECONDS_OR_OFF)
    """Time to connect, TLS included, for the agent's own transport; a transport that you pass has its own `connect`."""
    silence: float | None = attrs.field(default=45.0, validator=_SECONDS_OR_OFF)
    """Time without one byte. It runs once a first heartbeat was received (real servers send one every 15 s)."""
    idle: float | None = attrs.field(default=600.0, validator=_SECONDS_OR_OFF)
    """Time without one event, from the moment the request is sent, also before the headers of its response.
    Heartbeats do not count: a server whose task has died sends them forever. While the server's record of the run
    changes (a call starts or ends), a run with a stream is not idle, up to `total`."""
    total: float | None = attrs.field(default=3600.0, validator=_SECONDS_OR_OFF)
    """Time for the whole call: discovery, a token, connecting, retries, the stream to its last event."""
    lookup: float | None = attrs.field(default=0.75, validator=_SECONDS_OR_OFF)
    """Time to read the server's record of a run whose end is unclear; None never reads it."""
    confirm: float | None = attrs.field(default=30.0, validator=_SECONDS_OR_OFF)
    """With `confirm_state=True`: time to wait for a record with the end of the run; None: up to `total`."""


@attrs.frozen(kw_only=True)
class Limits:
    """How much data of a remote is accepted, in bytes unless noted otherwise; None disables a limit."""

    line_bytes: int | None = attrs.field(default=None, validator=_COUNT_OR_OFF)
    """One line of the stream. A line is a part of a block, so `event_bytes` limits it, too."""
    event_bytes: int | None = attrs.field(default=16 * MIB, validator=_COUNT_OR_OFF)
    """One block of the stream, with every byte up to its blank line: comments and unknown fields count."""
    stream_bytes: int | None = attrs.field(default=1024 * MIB, validator=_COUNT_OR_OFF)
    """One stream, heartbeats included."""
    body_bytes: int | None = attrs.field(default=8 * MIB, validator=_COUNT_OR_OFF)
    """One body that is not a stream: an organization, a description."""
    error_body_bytes: int = attrs.field(default=16 * 1024, validator=_COUNT)
    """The part of an error response that `StatusError.body` keeps."""
    depth: int = attrs.field(default=128, validator=integer(ge=1, le=MAX_DEPTH))
    """Levels of nested JSON, at most 400."""
    nodes: int = attrs.field(default=100_000, validator=_COUNT)
    """Members of an organization (a count)."""
    partial_events: int = attrs.field(default=1000, validator=_COUNT)
    """Last events that the `partial` of an error keeps (a count)."""
    partial_bytes: int = attrs.field(default=MIB, validator=_COUNT)
    """Data of those events together."""


def _names_only(headers: Mapping[str, str]) -> str:
    """The repr of headers, without their values."""
    return repr([*headers])


def _headers(value: Any) -> Any:
    """None stands for no headers; a mapping is copied, since the caller may change it."""
    if value is None:
        return {}
    return dict(cast("Mapping[str, str]", value)) if isinstance(value, Mapping) else value


@attrs.frozen(kw_only=True)
class CallOptions:
    """Settings of one call, over those of the agent; the others stay as the agent has them."""

    timeout: float | Timeouts | None = attrs.field(
        default=None,
        validator=optional(either(number(gt=0), instance_of(Timeouts, "Timeouts(...)"))),
    )
    """Seconds for the whole call (`Timeouts.total`), or all time-outs of the call. `Timeouts.connect` belongs to the
    transport, so that of a call has no effect."""
    headers: Mapping[str, str] = attrs.field(default=None, converter=_headers, validator=TEXTS, repr=_names_only)
    """Headers of every request of the call, over the agent's own and before its `auth`: credentials of one user."""
    callee: str | None = attrs.field(default=None, validator=optional(TEXT))
    """The name of the agent that the remote runs."""

    def timeouts(self, of_agent: Timeouts) -> Timeouts:
        """The time-outs of the call, for an agent with the time-outs `of_agent`."""
        if self.timeout is None:
            return of_agent
        return self.timeout if isinstance(self.timeout, Timeouts) else attrs.evolve(of_agent, total=self.timeout)
