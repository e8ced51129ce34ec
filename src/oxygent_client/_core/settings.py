"""`Timeouts`, `Limits` and other bounds of a call.

Rule 1: a value here is frozen, compares by content and pickles; it holds no live thing.
Rule 2: a float is seconds and None is "off"; sizes are bytes.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import attrs

from oxygent_client._core.errors import ConfigurationError

__all__ = ["ConfirmState", "Limits", "Timeouts"]

ConfirmState: TypeAlias = bool | Literal["auto"]
"""Whether the server's record must confirm an answer; "auto": where the answer reads like a failure."""

MIB = 1024 * 1024


def _positive(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Refuse what is no length of time and no size: zero, less than zero, NaN, no number at all."""
    if not isinstance(value, int | float) or not value > 0:
        raise ConfigurationError(f"{type(instance).__name__}({attribute.name}={value!r}): must be more than 0")


def _positive_or_off(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Likewise, where None is "off"."""
    if value is not None:
        _positive(instance, attribute, value)


MAX_DEPTH = 400
"""JSON is copied by recursion, one call for each level; Python allows 1,000 in all, and your program has some too."""


def _shallow(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Refuse a depth to which JSON could not be copied."""
    _positive(instance, attribute, value)
    if value > MAX_DEPTH:
        raise ConfigurationError(
            f"{type(instance).__name__}({attribute.name}={value!r}): must be {MAX_DEPTH} at the most"
        )


@attrs.frozen(kw_only=True)
class Timeouts:
    """The clocks of one call, in seconds; None switches a clock off.

    The clocks stand still while your code holds an event, except `total`.
    """

    connect: float | None = attrs.field(default=10.0, validator=_positive_or_off)
    """To have a connection, TLS included. For the agent's own transport: one that you give has its own `connect`."""
    silence: float | None = attrs.field(default=45.0, validator=_positive_or_off)
    """Without one byte; counts once a first heartbeat was seen (real servers send one every 15 s)."""
    idle: float | None = attrs.field(default=600.0, validator=_positive_or_off)
    """Without one event, from the moment the request is sent, also while the headers of its response are missing.
    Heartbeats do not count: a server whose task has died sends them for ever. While the server's record of the run
    moves (a call begins or ends), a run with a stream is waited for, up to `total`."""
    total: float | None = attrs.field(default=3600.0, validator=_positive_or_off)
    """For everything: discovery, a token, connection, retries, the stream to its last event."""
    lookup: float | None = attrs.field(default=0.75, validator=_positive_or_off)
    """To ask the server for its own record of a run, when it is unclear what became of it; None never asks."""
    confirm: float | None = attrs.field(default=30.0, validator=_positive_or_off)
    """With `confirm_state=True`: to have the record that says how the run ended; None: as long as `total` allows."""


@attrs.frozen(kw_only=True)
class Limits:
    """How much of a remote's data is taken in, in bytes unless said otherwise; None switches a limit off."""

    line_bytes: int | None = attrs.field(default=None, validator=_positive_or_off)
    """One line of the stream. A line is a part of a block, so `event_bytes` bounds it too."""
    event_bytes: int | None = attrs.field(default=16 * MIB, validator=_positive_or_off)
    """One block of the stream: every byte up to its blank line counts, comments and unknown fields too."""
    stream_bytes: int | None = attrs.field(default=1024 * MIB, validator=_positive_or_off)
    """One whole stream, heartbeats included."""
    body_bytes: int | None = attrs.field(default=8 * MIB, validator=_positive_or_off)
    """One body that is not a stream: an organization, a description."""
    error_body_bytes: int = attrs.field(default=16 * 1024, validator=_positive)
    """How much of an error response is kept for `StatusError.body`."""
    depth: int = attrs.field(default=128, validator=_shallow)
    """How deep JSON may be nested (levels); 400 at the most."""
    nodes: int = attrs.field(default=100_000, validator=_positive)
    """How many members an organization may have (a count)."""
    partial_events: int = attrs.field(default=1000, validator=_positive)
    """How many of the last events an error keeps in `partial` (a count)."""
    partial_bytes: int = attrs.field(default=MIB, validator=_positive)
    """How many bytes of data those events may hold together."""
