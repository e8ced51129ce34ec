"""Remember which replica has which run.

Rule: the table is bounded, belongs to one process, and is shared by its threads. A copy is empty.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Final

import attrs

SIZE: Final = 10_000


@attrs.frozen
class RunLocation:
    """The server that has a run, and the run's id there."""

    base_url: str
    """The URL of the replica."""
    remote_trace_id: str
    """The trace id at that replica."""


class RunLocations:
    """The locations of the last runs, by trace id and node id; the latest run of a name counts."""

    def __init__(self) -> None:
        self._locations: OrderedDict[str, RunLocation] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, location: RunLocation, *names: str) -> None:
        """Remember the location of a run under each of these names (trace id, node id)."""
        with self._lock:
            for name in filter(None, names):
                self._locations[name] = location
                self._locations.move_to_end(name)
            while len(self._locations) > SIZE:
                self._locations.popitem(last=False)

    def find(self, name: str) -> RunLocation | None:
        """The location of the last run of this name; None if unknown or forgotten."""
        with self._lock:
            return self._locations.get(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return RunLocations, ()
