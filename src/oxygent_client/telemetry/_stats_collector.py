"""Count the runs of an agent, for its statistics.

Rule 1: thread-safe: runs of all threads are counted, under one lock that is held for a few additions.
Rule 2: memory does not grow with the number of runs: times are counted by their first two significant digits.
Rule 3: a run is in flight until its end is noted; `oxygent_client._run.abandoned` notes that of a run that was dropped.
Rule 4: a pickled or copied agent, and one in a forked child process, starts with empty statistics.
Rule 5: the values are made, and their classes loaded, when someone looks at them.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, runtime_checkable
from weakref import WeakSet

from oxygent_client._core.transport import Context, find_wrapped
from oxygent_client.telemetry._observers import Observer, RunObservation

if TYPE_CHECKING:
    from oxygent_client.telemetry._stats import Quantiles, Stats

SHORTEST: Final = 1e-6
LONGEST: Final = 1e6
"""Seconds; times outside of these limits count as the limits."""
_two_digits: Final = "{:.1e}".format


@runtime_checkable
class CountsConnections(Protocol):
    """A transport that counts its connections."""

    def connections(self) -> tuple[int, int] | None:
        """Number of connections, and of idle ones among them; None if unknown. Thread-safe."""
        ...


class _Times:
    """Durations rounded to two significant digits, and how many of each: at most 90 counters a decade."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}  # by their texts: to read one as a number takes longer than to count it

    def add(self, seconds: float) -> None:
        """Count a duration."""
        text = _two_digits(seconds)
        self._counts[text] = self._counts.get(text, 0) + 1

    def quantiles(self, more: Iterable[float | None] = ()) -> Quantiles:
        """The quantiles so far, with those of `more` that are known."""
        from oxygent_client.telemetry._stats import Quantiles

        counts = Counter[float]()
        for texts in self._counts, Counter(_two_digits(each) for each in more if each is not None):
            for text, count in texts.items():
                counts[min(max(float(text), SHORTEST), LONGEST)] += count
        total = counts.total()
        found: list[float] = []
        passed = 0
        for seconds in sorted(counts):
            passed += counts[seconds]
            while len(found) < 3 and passed >= (0.5, 0.9, 0.99)[len(found)] * total:
                found.append(seconds)
        return Quantiles(total, *found)


class StatsCollector:
    """Counts the runs of one agent."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()  # the garbage collector may end a dropped run in the thread that holds it
        self._runs = 0
        self._live: dict[RunObservation, float] = {}
        self._successes = 0
        self._failures: Counter[str] = Counter()
        self._headers, self._first_bytes, self._first_events, self._ends = _Times(), _Times(), _Times(), _Times()
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
            self._ends.add(fields["seconds"])
        if run.headers_after is not None:
            self._headers.add(run.headers_after)
        if run.first_byte_after is not None:
            self._first_bytes.add(run.first_byte_after)
        if run.first_event_after is not None:
            self._first_events.add(run.first_event_after)

    _ACTS: ClassVar[Mapping[str, Callable[[Any, RunObservation, Context, Mapping[str, Any]], None]]] = {
        "begun": _begin,
        "retry": _retry,
        "ended": _end,
    }

    counted: ClassVar[Collection[str]] = _ACTS
    """As `RunCounter.counted`."""

    def stats(self, transport: object = None) -> Stats:
        """The statistics so far."""
        from oxygent_client.telemetry._stats import Stats

        pool = find_wrapped(transport, CountsConnections)  # type: ignore[type-abstract]  # it is only looked for
        known = None if pool is None else pool.connections()
        connections, idle = (None, None) if known is None else known
        with self._lock:
            live = dict(self._live)  # the garbage collector may end a dropped coroutine here, and its run
            self._buffered = sum(run.buffered for run in live)  # without runs of the parent process, before a fork
            return Stats(
                runs=self._runs,
                successes=self._successes,
                failures=self._failures,
                left=self._runs - self._successes - self._failures.total() - len(live),
                in_flight=len(live),
                headers=self._headers.quantiles(run.headers_after for run in live),
                first_byte=self._first_bytes.quantiles(run.first_byte_after for run in live),
                first_event=self._first_events.quantiles(run.first_event_after for run in live),
                end=self._ends.quantiles(),
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
