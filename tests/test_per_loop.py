"""Live things: one per event loop, and gone when the loop is."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from oxygent_client._per_loop import PerLoop
from tests.conftest import LOOPS

if TYPE_CHECKING:
    from collections.abc import Callable


class Thing:
    """Something live."""


async def test_one_loop() -> None:
    """A loop has nothing, then what was put, then what was put last; what is taken is gone."""
    kept = PerLoop[Thing]()
    one, other = Thing(), Thing()
    assert (kept.get(), kept.take()) == (None, None)
    assert kept.put(one) is one
    assert kept.get() is one
    assert kept.put(other) is other
    assert kept.take() is other
    assert (kept.get(), kept.take()) == (None, None)


async def test_two_holders() -> None:
    """Two holders have nothing in common."""
    one, other = PerLoop[Thing](), PerLoop[Thing]()
    one.put(Thing())
    assert other.get() is None


def _pickled(kept: PerLoop[Thing]) -> PerLoop[Thing]:
    """It, after a journey."""
    there: PerLoop[Thing] = pickle.loads(pickle.dumps(kept))
    return there


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, _pickled])
async def test_it_does_not_travel(travel: Callable[[PerLoop[Thing]], PerLoop[Thing]]) -> None:
    """A copy is empty, and so is what was pickled; what it was made of keeps what it has."""
    kept = PerLoop[Thing]()
    thing = kept.put(Thing())
    assert travel(kept).get() is None
    assert kept.get() is thing


SECOND: Final = [(first, second) for first in LOOPS for second in LOOPS]


@pytest.mark.parametrize(("first", "second"), SECOND)
def test_another_loop(first: str, second: str) -> None:
    """What belongs to one loop is not seen by the next, and goes with its loop."""
    kept = PerLoop[Thing]()

    async def put() -> weakref.ref[Thing]:
        return weakref.ref(kept.put(Thing()))

    async def get() -> Thing | None:
        return kept.get()

    thing = anyio.run(put, backend=first)
    assert anyio.run(get, backend=second) is None
    gc.collect()
    assert thing() is None


def test_without_a_loop() -> None:
    """Without an event loop there is nothing to ask for."""
    with pytest.raises(RuntimeError):  # which one is anyio's own business
        PerLoop[Thing]().get()
