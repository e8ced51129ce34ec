"""`Stats`: the statistics of an agent's runs at one moment, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import attrs


@attrs.frozen
class Quantiles:
    """Quantiles of a duration in seconds, rounded to two significant digits; None before the first one.

    Half of the durations are at most `p50`, nine tenths at most `p90`, 99 of 100 at most `p99`.
    """

    count: int = 0
    """Number of durations."""
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None


def _frozen(failures: Mapping[str, int]) -> Mapping[str, int]:
    return MappingProxyType(dict(failures))


@attrs.frozen(kw_only=True, repr=False)
class Stats:
    """Statistics of an agent's runs at one moment. A run counts once its block is entered; attached runs count too."""

    runs: int
    """All runs: successes, failures, left, in flight."""
    successes: int
    """Runs that ended with a response."""
    failures: Mapping[str, int] = attrs.field(converter=_frozen)
    """Runs that ended with an error, by the name of its class."""
    left: int
    """Runs left before their end, by the program or by cancellation, or dropped without an end."""
    in_flight: int
    """Runs that have not ended."""
    headers: Quantiles
    """Time to the response headers. All times are since the block was entered, so they include retries."""
    first_byte: Quantiles
    """Time to the first byte of the stream."""
    first_event: Quantiles
    """Time to the first event."""
    end: Quantiles
    """Time to the end, of successes and failures."""
    bytes: int
    """Bytes of streams received."""
    events: int
    """Messages received."""
    retries: int
    """Requests that were retried."""
    buffered: int
    """Bytes buffered now: of incomplete events, and of chunks whose events are not all read."""
    buffered_peak: int
    """The most bytes that were buffered at once."""
    oldest: float
    """Seconds since the oldest run in flight was entered; 0 without one."""
    connections: int | None
    """Connections of the agent's transport, busy and idle; None if unknown (see `CountsConnections`)."""
    idle_connections: int | None
    """Idle connections among them."""

    def __repr__(self) -> str:
        parts = [f"{self.runs} runs", f"{self.successes} successes"]
        if self.failures:
            names = ", ".join(f"{name} {count}" for name, count in self.failures.items())
            parts.append(f"{sum(self.failures.values())} failures ({names})")
        parts += [f"{count} {name}" for name, count in (("left", self.left), ("in flight", self.in_flight)) if count]
        times = (("first event", self.first_event), ("end", self.end))
        parts += [f"{name} after {of.p50:g} s (p99 {of.p99:g} s)" for name, of in times if of.p50 and of.p99]
        return f"<Stats: {', '.join(parts)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Stats, **{**attrs.asdict(self, recurse=False), "failures": dict(self.failures)}), ()
