"""Statistics of an agent's runs.

Rule 1: thread-safe: runs of all threads are counted, under one lock that is held for a few additions.
Rule 2: memory does not grow with the number of runs: times are counted by their first two significant digits.
Rule 3: a run that was dropped without an end counts as left, once it is garbage.
Rule 4: a pickled or copied agent, and one in a forked child process, starts with empty statistics.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Final, Protocol, runtime_checkable
from weakref import WeakKeyDictionary, WeakSet

import attrs

from oxygent_client._core.transport import Context, find_wrapped
from oxygent_client.telemetry._observers import Observer, RunObservation

SHORTEST: Final = 1e-6
LONGEST: Final = 1e6
"""Seconds; times outside of these limits count as the limits."""
MOST_NEW: Final = 64
"""Durations that wait until they are counted."""
_two_digits: Final = "{:.1e}".format


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


@runtime_checkable
class CountsConnections(Protocol):
    """A transport that counts its connections."""

    def connections(self) -> tuple[int, int] | None:
        """Number of connections, and of idle ones among them; None if unknown. Thread-safe."""
        ...


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


class _Times:
    """Durations rounded to two significant digits, and how many of each: at most 90 counters a decade.

    They are rounded many at a time: that takes a third of the time.
    """

    def __init__(self) -> None:
        self._counts: Counter[float] = Counter()
        self._new: list[float] = []  # not counted yet

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self._new.append(seconds)
        if len(self._new) >= MOST_NEW:
            self._count()

    def _count(self) -> None:
        for text, count in Counter(map(_two_digits, self._new)).items():
            self._counts[min(max(float(text), SHORTEST), LONGEST)] += count
        self._new.clear()

    def quantiles(self) -> Quantiles:
        """The quantiles so far."""
        self._count()
        total = self._counts.total()
        found: list[float] = []
        passed = 0
        for seconds in sorted(self._counts):
            passed += self._counts[seconds]
            while len(found) < 3 and passed >= (0.5, 0.9, 0.99)[len(found)] * total:
                found.append(seconds)
        return Quantiles(total, *found)


class StatsCollector:
    """Counts the runs of one agent."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()  # the garbage collector may end a dropped run in the thread that holds it
        self._runs = 0
        self._live: WeakKeyDictionary[RunObservation, float] = WeakKeyDictionary()
        self._successes = 0
        self._failures: Counter[str] = Counter()
        self._times = {name: _Times() for name in ("streaming", "first_byte", "first_event", "ended")}
        self._bytes = 0
        self._events = 0
        self._retries = 0
        self._buffered = 0
        self._peak = 0
        _COLLECTORS.add(self)

    def observed(self, observers: Iterable[Observer]) -> RunObservation:
        """Create the observation of a new run, with these observers and the statistics."""
        return RunObservation(observers=tuple(observers), counter=self)

    def count(self, event: str, run: RunObservation, context: Context, fields: Mapping[str, Any], /) -> None:
        """As `RunCounter.count`."""
        with self._lock:
            self._ACTS[event](self, run, context, fields)

    def start_anew(self) -> None:
        """Forget all runs; with a new lock, since another thread may have held the old one when the process forked."""
        StatsCollector.__init__(self, self._clock)

    def hold(self, run: RunObservation, size: int, /) -> None:
        """As `RunCounter.hold`."""
        lock = self._lock
        lock.acquire()  # it is done for each piece of bytes: `with` takes three times as long
        try:
            held = self._buffered = self._buffered + size - run.buffered
            run.buffered = size
            if held > self._peak:  # noqa: PLR1730  (`max` is a call)
                self._peak = held
        finally:
            lock.release()

    def _begin(self, run: RunObservation, context: Context, fields: Mapping[str, Any]) -> None:
        self._runs += 1
        self._live[run] = self._clock()

    def _headers(self, run: RunObservation, context: Context, fields: Mapping[str, Any]) -> None:
        if not run.has_headers:  # a reconnect brings headers again
            run.has_headers = True
            self._times["streaming"].add(fields["seconds"])

    def _first_byte(self, run: RunObservation, context: Context, fields: Mapping[str, Any]) -> None:
        self._times["first_byte"].add(fields["seconds"])

    def _first_event(self, run: RunObservation, context: Context, fields: Mapping[str, Any]) -> None:
        self._times["first_event"].add(fields["seconds"])

    def _retry(self, run: RunObservation, context: Context, fields: Mapping[str, Any]) -> None:
        self._retries += context.purpose != "discover"  # requests for a record may be retried, too

    def _end(self, run: RunObservation, context: Context, fields: Mapping[str, Any]) -> None:
        if self._live.pop(run, None) is None:  # it began in the parent process, before a fork
            return
        end = fields["end"]
        self._bytes += run.bytes
        self._events += run.events
        self._successes += end == "completed"
        if end == "failed":
            self._failures[type(fields["error"]).__name__] += 1
        if end != "left":
            self._times["ended"].add(fields["seconds"])

    _ACTS: ClassVar[Mapping[str, Callable[[Any, RunObservation, Context, Mapping[str, Any]], None]]] = {
        "begun": _begin,
        "streaming": _headers,
        "first_byte": _first_byte,
        "first_event": _first_event,
        "retry": _retry,
        "ended": _end,
    }

    counted: ClassVar[Collection[str]] = _ACTS
    """As `RunCounter.counted`."""

    def stats(self, transport: object = None) -> Stats:
        """The statistics so far."""
        pool = find_wrapped(transport, CountsConnections)  # type: ignore[type-abstract]  # it is only looked for
        known = None if pool is None else pool.connections()
        connections, idle = (None, None) if known is None else known
        with self._lock:
            live = dict(self._live)
            self._buffered = sum(run.buffered for run in live)  # without runs that were dropped
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


_COLLECTORS: Final[WeakSet[StatsCollector]] = WeakSet()
"""Those of this process."""


def after_fork() -> None:
    """Start the statistics of a forked child anew."""
    for collector in [*_COLLECTORS]:
        collector.start_anew()


if hasattr(os, "register_at_fork"):  # pragma: no branch  (absent on Windows)
    os.register_at_fork(after_in_child=after_fork)
