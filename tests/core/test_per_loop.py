"""Values per event loop: each loop has its own, and they are dropped with it."""

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
import trio

from oxygent_client._core.per_loop import PerLoop, _store, this_loop
from tests.conftest import LOOPS

if TYPE_CHECKING:
    from collections.abc import Callable


class Thing:
    """A live object that refers to its loop."""

    def __init__(self) -> None:
        self.closed = 0
        self.loop: object = None

    async def close(self) -> None:
        """Close it, with a checkpoint."""
        await anyio.lowlevel.checkpoint()
        self.closed += 1


async def test_one_loop() -> None:
    """A loop has no value at first, then the last one put; a taken value is gone."""
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
    """Holders are independent."""
    one, other = PerLoop[Thing](), PerLoop[Thing]()
    one.put(Thing())
    assert other.get() is None


def _pickled(kept: PerLoop[Thing]) -> PerLoop[Thing]:
    """Return the copy made by pickling."""
    there: PerLoop[Thing] = pickle.loads(pickle.dumps(kept))
    return there


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, _pickled])
async def test_copies(travel: Callable[[PerLoop[Thing]], PerLoop[Thing]]) -> None:
    """A copied or pickled holder is empty, and its original is unchanged."""
    kept = PerLoop[Thing]()
    thing = kept.put(Thing())
    assert travel(kept).get() is None
    assert kept.get() is thing


SECOND: Final = [(first, second) for first in LOOPS for second in LOOPS]


@pytest.mark.parametrize(("first", "second"), SECOND)
def test_another_loop(first: str, second: str) -> None:
    """A value of one loop is not seen in the next, and is dropped with its loop."""
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
    """Without an event loop there is no value."""
    with pytest.raises(RuntimeError):  # the exception is anyio's
        PerLoop[Thing]().get()


ENDS: Final = [
    pytest.param("asyncio", {}, id="asyncio"),
    pytest.param("asyncio", {"use_uvloop": True}, id="uvloop"),
    pytest.param("trio", {}, id="trio"),
]
"""Runners that run an event loop to its end."""


@pytest.mark.parametrize(("backend", "options"), ENDS)
def test_closing_at_the_end(backend: str, options: dict[str, bool]) -> None:
    """Values that are left are closed while their loop still runs; taken or replaced ones are not."""
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


def test_a_dropped_holder() -> None:
    """A value is dropped with its holder; on asyncio it is also closed."""
    thing = Thing()

    async def put() -> None:
        PerLoop[Thing]().put(thing, Thing.close)
        gc.collect()
        with anyio.fail_after(20):
            while not thing.closed:
                await anyio.lowlevel.checkpoint()

    anyio.run(put)
    assert thing.closed == 1


def test_a_value_that_outlives_its_holder() -> None:
    """A value that outlives its holder is closed at the end of the loop."""
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
    """The value of a closed loop can be taken once; it does not keep the loop alive."""
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
    """The value of a closed loop is dropped when another loop gets one."""
    kept = PerLoop[Thing]()

    async def put() -> weakref.ref[Thing]:
        return weakref.ref(kept.put(Thing(), Thing.close))

    first = asyncio.new_event_loop()
    thing = first.run_until_complete(put())
    first.close()
    anyio.run(put)
    gc.collect()
    assert thing() is None


def test_the_loop_of_a_guest() -> None:
    """In a trio that runs as a guest of asyncio's loop, the running loop is trio's."""

    async def guest() -> bool:
        return this_loop() is trio.lowlevel.current_trio_token()

    async def host() -> bool:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bool] = loop.create_future()
        trio.lowlevel.start_guest_run(
            guest,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=lambda outcome: done.set_result(outcome.unwrap()),
        )
        return await done

    assert asyncio.run(host()) is True
