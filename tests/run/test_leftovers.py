"""Events that a reader of a detached run leaves unread: kept for the next reader, the oldest dropped first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from oxygent_client import ServerSentEvent
from oxygent_client._run.event_buffer import Unread, sse_of
from oxygent_client._run.unread_events import UNREAD_EVENTS, UnreadEvents
from oxygent_client.testing import forget_runs

if TYPE_CHECKING:
    from collections.abc import Iterable

URL: Final = "http://localhost:8080"


def events(data: Iterable[str]) -> list[Unread]:
    """Return events with these contents."""
    return [ServerSentEvent(data=each) for each in data]


def taken(table: UnreadEvents, name: str, url: str = URL) -> tuple[str, int]:
    """Return what was left of a run, and the number of dropped events."""
    rest = table.take(url, name)
    return "".join(sse_of(unread).data for unread in rest.events), rest.dropped


def test_leftovers_are_taken_once() -> None:
    """Leftovers are taken once, under any spelling of the server's URL."""
    table = UnreadEvents()
    assert table.put(URL, "run", events("abc")) == 0
    assert taken(table, "other") == ("", 0)
    assert taken(table, "run", "HTTP://127.0.0.1:8080/") == ("abc", 0)
    assert taken(table, "run") == ("", 0)


def test_dropped_events_are_counted() -> None:
    """Dropped events are counted even if none is kept; without leftovers nothing is noted."""
    table = UnreadEvents(runs=1)
    assert table.put(URL, "run", [], dropped=1) == 1
    assert table.put(URL, "complete", []) == 0
    assert taken(table, "run") == ("", 1)


BOUNDS: Final[dict[str, tuple[UnreadEvents, list[int], list[tuple[str, int]]]]] = {
    # name: (the bounds, the events dropped of "abc", "de" and "f" put one after the other, the leftovers)
    "all fits": (UnreadEvents(), [0, 0, 0], [("abc", 0), ("de", 0), ("f", 0)]),
    "runs": (UnreadEvents(runs=2), [0, 0, 0], [("", 0), ("de", 0), ("f", 0)]),
    "events": (UnreadEvents(events=4), [0, 0, 0], [("c", 2), ("de", 0), ("f", 0)]),
    "events of more than one run": (UnreadEvents(events=2), [1, 0, 0], [("", 3), ("e", 1), ("f", 0)]),
    "bytes": (UnreadEvents(bytes=4), [0, 0, 0], [("c", 2), ("de", 0), ("f", 0)]),
    "nothing fits": (UnreadEvents(bytes=0), [3, 2, 1], [("", 3), ("", 2), ("", 1)]),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds(name: str) -> None:
    """The oldest events are dropped first and counted for their own run; taking leftovers frees room."""
    table, dropped, rests = BOUNDS[name]
    table.forget()
    assert [table.put(URL, data, events(data)) for data in ("abc", "de", "f")] == dropped
    assert [taken(table, data) for data in ("abc", "de", "f")] == rests
    assert table._held_events == 0
    assert table._held_bytes == 0


def test_forget_runs() -> None:
    """`forget_runs` drops all leftovers."""
    UNREAD_EVENTS.put(URL, "run", events("abc"))
    forget_runs()
    assert taken(UNREAD_EVENTS, "run") == ("", 0)


def test_a_forked_child_has_none() -> None:
    """A forked child does not inherit leftovers, which would hand out the same events twice."""
    table = UnreadEvents()
    table.put(URL, "run", events("abc"))
    table._lock.acquire()
    table.after_fork()
    assert taken(table, "run") == ("", 0)
