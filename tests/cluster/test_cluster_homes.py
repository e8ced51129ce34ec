"""Locations of runs: the replica of each trace id, bounded, for this process only."""

from __future__ import annotations

import pickle
from typing import Final

import pytest

from oxygent_client.cluster import RunLocation
from oxygent_client.cluster._run_locations import SIZE, RunLocations

A: Final = RunLocation("http://a", "t")
B: Final = RunLocation("http://b", "t-2")


@pytest.mark.parametrize(
    ("expected", "name"),
    [(B, "t"), (A, "n"), (B, "m"), (None, "u"), (None, "")],
    ids=["last", "n", "m", "none", "empty"],
)
def test_names(expected: RunLocation | None, name: str) -> None:
    """A run is found by each of its ids; for an id of two runs, the later is found."""
    homes = RunLocations()
    homes.note(A, "t", "n")
    homes.note(B, "t", "m", "")
    assert homes.find(name) == expected


def test_bounded() -> None:
    """The newest entries are kept; using an id again makes it the newest."""
    homes = RunLocations()
    for number in (*range(SIZE), 0, SIZE):
        homes.note(A, str(number))
    assert tuple(homes.find(str(number)) for number in (0, 1, 2, SIZE)) == (A, None, A, A)


def test_a_copy_is_empty() -> None:
    """A copy has no entries."""
    homes = RunLocations()
    homes.note(A, "t")
    assert pickle.loads(pickle.dumps(homes)).find("t") is None
