"""Health of replicas: failures, ejection, backoff, slow start.

Rule 1: pure: a `ReplicaHealth` and an outcome give the next `ReplicaHealth`. The clock and the random number for the
    jitter are arguments.
Rule 2: runs and health checks are counted apart: a server that passes checks may still fail every run. Lookups count as
    health checks.
Rule 3: a replica that fails too often is ejected for a time that grows with each ejection (backoff), and returns with a
    share of the load that grows (slow start).
Rule 4: at least `min_available` of the replicas stay usable: of those to be ejected, the least bad ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import attrs

from oxygent_client._core.validation import number

LEAST_SHARE: Final = 0.1
"""The share at the beginning of a slow start: without any calls the replica could not prove itself."""


@attrs.frozen(kw_only=True)
class Health:
    """When a replica is ejected, for how long, and how it returns.

    Raises:
        ConfigurationError: a number is out of range.
    """

    failures: int = attrs.field(default=3, validator=number(ge=1))
    """Eject a replica after so many failures in a row, of runs or of health checks."""
    base: float = attrs.field(default=5.0, validator=number(ge=0))
    """Length of the first ejection in seconds; it doubles with each further one until a success."""
    cap: float = attrs.field(default=120.0, validator=number(ge=0))
    """Upper limit of that backoff, in seconds."""
    jitter: float = attrs.field(default=0.2, validator=number(ge=0))
    """Lengthen an ejection by up to this part, at random, so that replicas do not return together."""
    min_available: float = attrs.field(default=0.5, validator=number(ge=0, le=1))
    """The part of the replicas that stays usable in any case; at least one replica."""
    slow_start: float = attrs.field(default=10.0, validator=number(ge=0))
    """Seconds over which the share of a replica that returned or joined grows from a tenth to the whole."""
    check_seconds: float = attrs.field(default=5.0, validator=number(gt=0))
    """Time-out of a health check, in seconds."""

    def ejection_seconds(self, ejections: int, jitter: float) -> float:
        """Length of an ejection, the so-many-th in a row; `jitter` is a random number from 0 to 1."""
        return min(self.cap, self.base * 2.0 ** min(ejections - 1, 64)) * (1 + self.jitter * jitter)


@attrs.frozen(kw_only=True)
class ReplicaHealth:
    """The health of one replica."""

    failures: int = 0
    """Failed calls since the last success."""
    missed: int = 0
    """Failed health checks since the last that passed."""
    ejections: int = 0
    """Ejections since the last success."""
    until: float = -math.inf
    """End of the ejection, by the event loop's clock."""
    since: float = -math.inf
    """Beginning of the slow start."""

    def is_ejected(self, now: float) -> bool:
        """Whether the replica is ejected at `now`."""
        return now < self.until

    @property
    def badness(self) -> tuple[float, ...]:
        """Sort key of ejected replicas: the least bad first."""
        return self.failures + self.missed, self.until

    def share(self, health: Health, now: float) -> float:
        """The replica's share of its load in a slow start: more than 0, at most 1."""
        if now >= self.since + health.slow_start:
            return 1.0
        return max(LEAST_SHARE, (now - self.since) / health.slow_start) if now > self.since else LEAST_SHARE

    def failed(self, health: Health, now: float, jitter: float) -> ReplicaHealth:
        """The health after a call that failed."""
        return self._counted(health, now, jitter, failures=self.failures + 1)

    def missed_check(self, health: Health, now: float, jitter: float) -> ReplicaHealth:
        """The health after a failed health check."""
        return self._counted(health, now, jitter, missed=self.missed + 1)

    def _counted(self, health: Health, now: float, jitter: float, **counts: int) -> ReplicaHealth:
        after = attrs.evolve(self, **counts)
        # A failure during an ejection is of a call that began before it, or for want of others: no second ejection.
        if self.is_ejected(now) or max(after.failures, after.missed) < health.failures:
            return after
        until = now + health.ejection_seconds(self.ejections + 1, jitter)
        return attrs.evolve(after, ejections=self.ejections + 1, until=until, since=until)

    def succeeded(self, now: float) -> ReplicaHealth:
        """The health after a call that succeeded: it ends an ejection."""
        return ReplicaHealth(until=min(self.until, now), since=min(self.since, now))

    def passed_check(self, health: Health, now: float) -> ReplicaHealth:
        """The health after a passed health check: it ends an ejection, unless calls fail."""
        if self.failures >= health.failures:
            return attrs.evolve(self, missed=0)
        return attrs.evolve(self.succeeded(now), failures=self.failures)


def usable(replicas: Mapping[str, ReplicaHealth], health: Health, now: float) -> tuple[str, ...]:
    """The names of the usable replicas, in their order; empty only if there are no replicas."""
    ejected = [name for name, each in replicas.items() if each.is_ejected(now)]
    least = max(1, math.ceil(health.min_available * len(replicas)))
    missing = max(0, least - (len(replicas) - len(ejected)))
    left_out = set(sorted(ejected, key=lambda name: replicas[name].badness)[missing:])
    return tuple(name for name in replicas if name not in left_out)
