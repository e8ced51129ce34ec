"""`Timeouts`, `Limits` and other bounds of a call.

Rule 1: a value here is frozen, compares by content and pickles; it holds no live thing.
Rule 2: a float is seconds and None is "off"; sizes are bytes.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import attrs

from oxygent_client._core.validation import integer, number, optional

__all__ = ["ConfirmState", "Limits", "Timeouts"]

ConfirmState: TypeAlias = bool | Literal["auto"]
"""Whether the server's record must confirm an answer; "auto": where the answer reads like a failure."""

MIB = 1024 * 1024


MAX_DEPTH: Final = 400
"""JSON is copied by recursion, one call for each level; Python allows 1,000 in all, and your program has some too."""

_SECONDS_OR_OFF: Final = optional(number(gt=0))
_COUNT: Final = integer(ge=1)
_COUNT_OR_OFF: Final = optional(_COUNT)


@attrs.frozen(kw_only=True)
class Timeouts:
    """The clocks of one call, in seconds; None switches a clock off.

    The clocks stand still while your code holds an event, except `total`.
    """

    connect: float | None = attrs.field(default=10.0, validator=_SECONDS_OR_OFF)
    """To have a connection, TLS included. For the agent's own transport: one that you give has its own `connect`."""
    silence: float | None = attrs.field(default=45.0, validator=_SECONDS_OR_OFF)
    """Without one byte; counts once a first heartbeat was seen (real servers send one every 15 s)."""
    idle: float | None = attrs.field(default=600.0, validator=_SECONDS_OR_OFF)
    """Without one event, from the moment the request is sent, also while the headers of its response are missing.
    Heartbeats do not count: a server whose task has died sends them for ever. While the server's record of the run
    moves (a call begins or ends), a run with a stream is waited for, up to `total`."""
    total: float | None = attrs.field(default=3600.0, validator=_SECONDS_OR_OFF)
    """For everything: discovery, a token, connection, retries, the stream to its last event."""
    lookup: float | None = attrs.field(default=0.75, validator=_SECONDS_OR_OFF)
    """To ask the server for its own record of a run, when it is unclear what became of it; None never asks."""
    confirm: float | None = attrs.field(default=30.0, validator=_SECONDS_OR_OFF)
    """With `confirm_state=True`: to have the record that says how the run ended; None: as long as `total` allows."""


@attrs.frozen(kw_only=True)
class Limits:
    """How much of a remote's data is taken in, in bytes unless said otherwise; None switches a limit off."""

    line_bytes: int | None = attrs.field(default=None, validator=_COUNT_OR_OFF)
    """One line of the stream. A line is a part of a block, so `event_bytes` bounds it too."""
    event_bytes: int | None = attrs.field(default=16 * MIB, validator=_COUNT_OR_OFF)
    """One block of the stream: every byte up to its blank line counts, comments and unknown fields too."""
    stream_bytes: int | None = attrs.field(default=1024 * MIB, validator=_COUNT_OR_OFF)
    """One whole stream, heartbeats included."""
    body_bytes: int | None = attrs.field(default=8 * MIB, validator=_COUNT_OR_OFF)
    """One body that is not a stream: an organization, a description."""
    error_body_bytes: int = attrs.field(default=16 * 1024, validator=_COUNT)
    """How much of an error response is kept for `StatusError.body`."""
    depth: int = attrs.field(default=128, validator=integer(ge=1, le=MAX_DEPTH))
    """How deep JSON may be nested (levels); 400 at the most."""
    nodes: int = attrs.field(default=100_000, validator=_COUNT)
    """How many members an organization may have (a count)."""
    partial_events: int = attrs.field(default=1000, validator=_COUNT)
    """How many of the last events an error keeps in `partial` (a count)."""
    partial_bytes: int = attrs.field(default=MIB, validator=_COUNT)
    """How many bytes of data those events may hold together."""
