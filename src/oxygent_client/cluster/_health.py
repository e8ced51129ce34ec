"""Health of replicas: failures, ejection, backoff, slow start.

Rule 1: pure: a `ReplicaHealth` and what happened give the next one. The clock and the lot are passed in.
Rule 2: runs and checks are counted apart: a server that says that it lives may fail every run all the same. What only
    looks something up counts as a check.
Rule 3: a replica that fails is left alone for a time that grows with each failure, and comes back gently.
Rule 4: never are too many left alone: of those that should be, the least bad are asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import attrs

from oxygent_client._core.validation import number

__all__ = ["Health", "ReplicaHealth", "usable"]

LEAST_SHARE: Final = 0.1
"""What one that has just come back gets of its share, at least: without calls nobody would see that it is well."""


@attrs.frozen(kw_only=True)
class Health:
    """When a replica is left alone, for how long, and how it comes back.

    Raises:
        ConfigurationError: a number is out of its range.
    """

    failures: int = attrs.field(default=3, validator=number(ge=1))
    """After how many failures in a row, of runs or of checks."""
    base: float = attrs.field(default=5.0, validator=number(ge=0))
    """For how many seconds the first time; twice as long each time that it fails again without a success."""
    cap: float = attrs.field(default=120.0, validator=number(ge=0))
    """What that time grows to, in seconds."""
    jitter: float = attrs.field(default=0.2, validator=number(ge=0))
    """By what part that time is stretched at most, by lot, so that not all come back together."""
    min_available: float = attrs.field(default=0.5, validator=number(ge=0, le=1))
    """What part of the replicas is asked whatever happens; one at least."""
    slow_start: float = attrs.field(default=10.0, validator=number(ge=0))
    """Over how many seconds the share of one that has come back, or has joined, grows from a tenth to the whole."""
    check_seconds: float = attrs.field(default=5.0, validator=number(gt=0))
    """How long a check may take."""

    def absence(self, ejections: int, lot: float) -> float:
        """For how many seconds a replica is left alone; `lot` is from 0 to 1."""
        return min(self.cap, self.base * 2.0 ** min(ejections - 1, 64)) * (1 + self.jitter * lot)


@attrs.frozen(kw_only=True)
class ReplicaHealth:
    """How one replica is doing."""

    failures: int = 0
    """Of runs and other calls, in a row."""
    missed: int = 0
    """Checks, in a row."""
    ejections: int = 0
    """How often it has been left alone since its last success."""
    until: float = -math.inf
    """Until when it is left alone, by the clock of the event loop."""
    since: float = -math.inf
    """From when on its share grows to the whole."""

    def is_out(self, now: float) -> bool:
        """Whether it should be left alone."""
        return now < self.until

    @property
    def badness(self) -> tuple[float, ...]:
        """Smaller is better, of two that should be left alone."""
        return self.failures + self.missed, self.until

    def share(self, health: Health, now: float) -> float:
        """What part of its share it is to get: more than 0, at most 1."""
        if now >= self.since + health.slow_start:
            return 1.0
        return max(LEAST_SHARE, (now - self.since) / health.slow_start) if now > self.since else LEAST_SHARE

    def failed(self, health: Health, now: float, lot: float) -> ReplicaHealth:
        """After a call that failed by its fault."""
        return self._judged(health, now, lot, failures=self.failures + 1)

    def missed_check(self, health: Health, now: float, lot: float) -> ReplicaHealth:
        """After a check that it did not pass."""
        return self._judged(health, now, lot, missed=self.missed + 1)

    def _judged(self, health: Health, now: float, lot: float, **counted: int) -> ReplicaHealth:
        after = attrs.evolve(self, **counted)
        # What fails while it is left alone had begun before, or was asked for want of others: it is punished already.
        if self.is_out(now) or max(after.failures, after.missed) < health.failures:
            return after
        until = now + health.absence(self.ejections + 1, lot)
        return attrs.evolve(after, ejections=self.ejections + 1, until=until, since=until)

    def succeeded(self, now: float) -> ReplicaHealth:
        """After a call that went well: whatever was, it is back."""
        return ReplicaHealth(until=min(self.until, now), since=min(self.since, now))

    def passed_check(self, health: Health, now: float) -> ReplicaHealth:
        """After a check that it passed: it is back, unless its calls fail."""
        if self.failures >= health.failures:
            return attrs.evolve(self, missed=0)
        return attrs.evolve(self.succeeded(now), failures=self.failures)


def usable(standings: Mapping[str, ReplicaHealth], health: Health, now: float) -> tuple[str, ...]:
    """The names of those that may be asked, in their order; none only if there are none."""
    out = [name for name, standing in standings.items() if standing.is_out(now)]
    least = max(1, math.ceil(health.min_available * len(standings)))
    missing = max(0, least - (len(standings) - len(out)))
    left_alone = set(sorted(out, key=lambda name: standings[name].badness)[missing:])
    return tuple(name for name in standings if name not in left_alone)
