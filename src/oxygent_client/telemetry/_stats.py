"""Statistics of an agent's runs.

Rule 1: any thread may ask, and runs in any thread are counted: one lock, held for a few additions.
Rule 2: memory does not grow with the runs: times are counted in at most BUCKETS classes, each as wide as GROWTH.
Rule 3: nor with runs that nobody ends: one that was dropped, and is gone, was left.
Rule 4: they stay at home: a pickled or copied agent begins at nothing, and so does one in a forked child.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Final, Protocol, runtime_checkable
from weakref import WeakKeyDictionary, WeakSet

import attrs

from oxygent_client._core.transport import find_wrapped
from oxygent_client.telemetry._observers import Notification, Observer, RunObservation

__all__ = ["CountsConnections", "Quantiles", "Stats", "StatsCollector"]

STEPS: Final = 8
"""Classes for each doubling of a time."""
GROWTH: Final = 2 ** (1 / STEPS)
SHORTEST: Final = 1e-6
LONGEST: Final = 1e6
"""Seconds; what is shorter or longer is counted as if it were not."""
BUCKETS: Final = round(STEPS * math.log2(LONGEST / SHORTEST)) + 1


@attrs.frozen
class Quantiles:
    """How long something took, in seconds: half of the times are at most `p50`, and so on. None: there was no time yet.

    A time that took place is not further from the one that is shown than the square root of `GROWTH`: 4.5 %.
    """

    count: int = 0
    """How many times there are."""
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None


@runtime_checkable
class CountsConnections(Protocol):
    """A transport that can say what it keeps."""

    def connections(self) -> tuple[int, int] | None:
        """How many connections there are, and how many of them are idle; None: nobody knows. Any thread may ask."""
        ...


def _frozen(failures: Mapping[str, int]) -> Mapping[str, int]:
    return MappingProxyType(dict(failures))


@attrs.frozen(kw_only=True)
class Stats:
    """What an agent's runs came to, at one moment. Runs are those that were entered, attached ones too."""

    runs: int
    """All of them: successes, failures, those left, those in flight."""
    successes: int
    """Ended with a response."""
    failures: Mapping[str, int] = attrs.field(converter=_frozen)
    """Ended with an error, by the name of its class."""
    left: int
    """Left before their end, by the program or by cancellation; also what was dropped without an end."""
    in_flight: int
    """Entered, and not at their end."""
    headers: Quantiles
    """Time to the headers of the stream. All times are since the block was entered: retries count."""
    first_byte: Quantiles
    """Time to the first byte of the stream."""
    first_event: Quantiles
    """Time to its first event."""
    end: Quantiles
    """Time to the end, of successes and failures."""
    bytes: int
    """Received of streams."""
    events: int
    """Messages received."""
    retries: int
    """Requests that were sent again."""
    buffered: int
    """Bytes that are held now: of events that are not complete, and of the pieces whose events are being read."""
    buffered_peak: int
    """The most that was held at once."""
    oldest: float
    """Seconds since the oldest run in flight was entered; 0 if there is none."""
    connections: int | None
    """Of the agent's transport, busy and idle; None where it cannot say (see `CountsConnections`)."""
    idle_connections: int | None
    """Those of them that wait for the next request."""

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Stats, **{**attrs.asdict(self, recurse=False), "failures": dict(self.failures)}), ()


class _Times:
    """Times, counted in classes that grow with them."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[round(STEPS * math.log2(min(max(seconds, SHORTEST), LONGEST)))] += 1

    def quantiles(self) -> Quantiles:
        """What is known of them: of a time with the rank in question, the middle of its class."""
        total = self._counts.total()
        shown: list[float] = []
        passed = 0
        for bucket in sorted(self._counts):
            passed += self._counts[bucket]
            while len(shown) < 3 and passed >= (0.5, 0.9, 0.99)[len(shown)] * total:
                shown.append(2 ** (bucket / STEPS))
        return Quantiles(total, *shown)


def _connections(transport: object) -> tuple[int, int] | tuple[None, None]:
    """What a transport says that it keeps; if it says nothing, what it wraps."""
    pool = find_wrapped(transport, CountsConnections)  # type: ignore[type-abstract]  # it is only looked for
    known = None if pool is None else pool.connections()
    return (None, None) if known is None else known


class StatsCollector:
    """Counts the runs of one agent."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._process = os.getpid()
        self._lock = threading.RLock()  # the collector may close a dropped run in the thread that holds it
        self._runs = 0
        self._live: WeakKeyDictionary[RunObservation, float] = WeakKeyDictionary()
        self._answered: WeakSet[RunObservation] = WeakSet()
        self._successes = 0
        self._failures: Counter[str] = Counter()
        self._times = {name: _Times() for name in ("streaming", "first_byte", "first_event", "ended")}
        self._bytes = 0
        self._events = 0
        self._retries = 0
        self._buffered = 0
        self._peak = 0

    def observed(self, observers: Iterable[Observer]) -> RunObservation:
        """A new run, which is counted here and told to `observers`."""
        return RunObservation(observers=(self, *observers), holds=self._hold)

    def note(self, happening: Notification, /) -> None:
        """As `Observer.note`."""
        act = self._ACTS.get(happening.event)
        if act is not None:
            with self._locked():
                act(self, happening)

    def _locked(self) -> AbstractContextManager[object]:
        """The lock; in a forked child a new one, since another thread may have held the parent's at that moment."""
        if os.getpid() != self._process:
            StatsCollector.__init__(self, self._clock)
        return self._lock

    def _hold(self, run: RunObservation, size: int) -> None:
        with self._locked():
            self._buffered += size - run.buffered
            run.buffered = size
            self._peak = max(self._peak, self._buffered)

    def _begin(self, happening: Notification) -> None:
        self._runs += 1
        self._live[happening.run] = self._clock()

    def _answer(self, happening: Notification) -> None:
        if happening.run not in self._answered:  # what is attached to again has headers again
            self._answered.add(happening.run)
            self._time(happening)

    def _time(self, happening: Notification) -> None:
        self._times[happening.event].add(happening.fields["seconds"])

    def _retry(self, happening: Notification) -> None:
        self._retries += happening.context.purpose != "discover"  # the record of a run may be asked for again, too

    def _end(self, happening: Notification) -> None:
        run, end = happening.run, happening.fields["end"]
        if self._live.pop(run, None) is None:  # it began in the process from which this one was forked
            return
        self._bytes += run.bytes
        self._events += run.events
        self._successes += end == "completed"
        if end == "failed":
            self._failures[type(happening.fields["error"]).__name__] += 1
        if end != "left":
            self._time(happening)

    _ACTS: ClassVar[Mapping[str, Callable[[Any, Notification], None]]] = {
        "begun": _begin,
        "streaming": _answer,
        "first_byte": _time,
        "first_event": _time,
        "retry": _retry,
        "ended": _end,
    }

    def stats(self, transport: object = None) -> Stats:
        """What was counted until now."""
        connections, idle = _connections(transport)
        with self._locked():
            live = dict(self._live)
            self._buffered = sum(run.buffered for run in live)  # what was dropped held something, too
            times = {name: each.quantiles() for name, each in self._times.items()}
            return Stats(
                runs=self._runs,
                successes=self._successes,
                failures=self._failures,
                left=self._runs - self._successes - self._failures.total() - len(live),
                in_flight=len(live),
                headers=times["streaming"],
                first_byte=times["first_byte"],
                first_event=times["first_event"],
                end=times["ended"],
                bytes=self._bytes + sum(run.bytes for run in live),
                events=self._events + sum(run.events for run in live),
                retries=self._retries,
                buffered=self._buffered,
                buffered_peak=self._peak,
                oldest=self._clock() - min(live.values()) if live else 0.0,
                connections=connections,
                idle_connections=idle,
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return StatsCollector, ()
