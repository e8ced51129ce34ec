"""Remember which replica has which run.

Rule: the memory is bounded, of one process, and shared by its threads. Pickled or copied, it is empty.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Final

import attrs

__all__ = ["RunLocation", "RunLocations"]

SIZE: Final = 10_000


@attrs.frozen
class RunLocation:
    """Where a run is."""

    base_url: str
    """The replica."""
    remote_trace_id: str
    """What that calls it."""


class RunLocations:
    """The last runs; of each name the last."""

    def __init__(self) -> None:
        self._homes: OrderedDict[str, RunLocation] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, home: RunLocation, *names: str) -> None:
        """A run that goes by these names (a trace id, a node id) goes there."""
        with self._lock:
            for name in filter(None, names):
                self._homes[name] = home
                self._homes.move_to_end(name)
            while len(self._homes) > SIZE:
                self._homes.popitem(last=False)

    def find(self, name: str) -> RunLocation | None:
        """Where the last run of this name went; None if none did, or it was long ago."""
        with self._lock:
            return self._homes.get(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return RunLocations, ()
