"""Live things: one per event loop, and gone when the loop is."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import weakref
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel
import pytest

from oxygent_client._core.per_loop import PerLoop, _store, this_loop
from tests.conftest import LOOPS

if TYPE_CHECKING:
    from collections.abc import Callable


class Thing:
    """Something live, which refers to its loop as live objects do."""

    def __init__(self) -> None:
        self.closed = 0
        self.loop: object = None

    async def close(self) -> None:
        """Close it, which takes a moment."""
        await anyio.lowlevel.checkpoint()
        self.closed += 1


async def test_one_loop() -> None:
    """A loop has nothing, then what was put, then what was put last; what is taken is gone."""
    kept = PerLoop[Thing]()
    one, other = Thing(), Thing()
    assert kept.get() is None
    assert kept.take() is None
    assert kept.put(one) is one
    assert kept.get() is one
    assert kept.put(other) is other
    assert kept.take() is other
    assert kept.get() is None
    assert kept.take() is None


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
        thing = kept.put(Thing())
        thing.loop = this_loop()
        return weakref.ref(thing)

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


ENDS: Final = [
    pytest.param("asyncio", {}, id="asyncio"),
    pytest.param("asyncio", {"use_uvloop": True}, id="uvloop"),
    pytest.param("trio", {}, id="trio"),
]
"""What runs an event loop to its end."""


@pytest.mark.parametrize(("backend", "options"), ENDS)
def test_closing_at_the_end(backend: str, options: dict[str, bool]) -> None:
    """What is still there is closed while its loop runs, and forgotten; what was taken or replaced is not closed."""
    kept, other = PerLoop[Thing](), PerLoop[Thing]()
    there, taken, replaced = Thing(), Thing(), Thing()

    async def put() -> None:
        kept.put(replaced, Thing.close)
        kept.put(there, Thing.close)
        other.put(taken, Thing.close)
        other.take()

    anyio.run(put, backend=backend, backend_options=options)
    assert kept.everywhere() == []
    assert {"there": there.closed, "taken": taken.closed, "replaced": replaced.closed} == {
        "there": 1,
        "taken": 0,
        "replaced": 0,
    }


def test_a_holder_that_is_gone() -> None:
    """A value goes with its holder; on asyncio it is closed then, too."""
    thing = Thing()

    async def put() -> None:
        PerLoop[Thing]().put(thing, Thing.close)
        gc.collect()
        with anyio.fail_after(20):
            while not thing.closed:
                await anyio.lowlevel.checkpoint()

    anyio.run(put)
    assert thing.closed == 1


def test_a_holder_that_is_gone_at_the_end() -> None:
    """What its holder left behind, held by something else, is closed at the end of the loop."""
    thing = Thing()

    async def put() -> object:
        kept = PerLoop[Thing]()
        kept.put(thing, Thing.close)
        store = _store()
        return [*store.values()]

    held = anyio.run(put)
    assert held
    assert thing.closed == 1


def test_a_closed_loop() -> None:
    """What is left of a loop that was closed and no more can be asked for, once; it does not keep the loop."""
    kept, thing = PerLoop[Thing](), Thing()

    async def put() -> weakref.ref[object]:
        kept.put(thing, Thing.close)
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.new_event_loop()
    gone = loop.run_until_complete(put())
    assert kept.take_closed() == []
    loop.close()
    assert kept.take_closed() == [thing]
    assert kept.take_closed() == []
    del loop
    gc.collect()
    assert gone() is None
    assert thing.closed == 0


def test_another_closed_loop() -> None:
    """A value of a loop that was closed is forgotten when another loop gets one."""
    kept = PerLoop[Thing]()

    async def put() -> weakref.ref[Thing]:
        return weakref.ref(kept.put(Thing(), Thing.close))

    first = asyncio.new_event_loop()
    thing = first.run_until_complete(put())
    first.close()
    anyio.run(put)
    gc.collect()
    assert thing() is None
