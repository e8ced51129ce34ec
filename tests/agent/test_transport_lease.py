"""The transport of an agent: one per operation, or one per event loop while the agent is entered.

Rule: a transport that the agent made is closed by the agent.
"""

from __future__ import annotations

import copy
import gc
import pickle
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from oxygent_client import Transport
from oxygent_client._agent.transport_lease import TransportPool
from oxygent_client._core.per_loop import PerLoop
from oxygent_client.policies import Retry
from oxygent_client.testing import FakeTransport
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Callable

    from oxygent_client.policies import Policy


class Made(FakeTransport):
    """A transport that records its creation."""

    all: Final[list[Made]] = []

    def __init__(self) -> None:
        super().__init__({})
        self.all.append(self)


@pytest.fixture
def made() -> list[Made]:
    """The transports that this test made."""
    Made.all.clear()
    return Made.all


async def test_outside(made: list[Made]) -> None:
    """Outside the block each operation has its own transport, which is closed afterwards, also on failure."""
    connections = TransportPool(Made)
    async with connections.lease(None) as first:
        async with connections.lease(None) as second:
            assert first is not second
        assert [each.closed for each in made] == [False, True]
    with pytest.raises(KeyError):
        async with connections.lease(None):
            raise KeyError
    assert [each.closed for each in made] == [True] * 3


async def test_inside(made: list[Made]) -> None:
    """Between the first `enter` and the last `leave` all operations share one transport."""
    connections = TransportPool(Made)
    for _ in range(2):  # and again, with another
        connections.enter()
        connections.enter()
        async with connections.lease(None) as first, connections.lease(None) as second:
            assert first is second is made[-1]
        await connections.leave()
        assert not made[-1].closed
        await connections.leave()
        assert made[-1].closed
    assert len(made) == 2


async def test_given(made: list[Made]) -> None:
    """A given transport is used inside and outside the block, and never closed."""
    connections, given = TransportPool(Made), FakeTransport({})
    async with connections.lease(given) as lent:
        assert lent is given
    connections.enter()
    async with connections.lease(given) as lent:
        assert lent is given
    await connections.leave()
    assert given.closed is False
    assert [each.closed for each in made] == [True]


class Empty(Made):
    """A transport with a false truth value."""

    def __len__(self) -> int:
        return 0


async def test_a_transport_with_a_false_truth_value(made: list[Made]) -> None:
    """A transport with a false truth value is used, given or kept."""
    given = Empty()
    connections = TransportPool(Empty)
    async with connections.lease(given) as transport:
        assert given is transport
    connections.enter()
    async with connections.lease(None) as transport:
        assert made[1] is transport
    await connections.leave()
    assert len(made) == 2


async def test_closing(made: list[Made]) -> None:
    """`aclose` closes the kept transport; leaving the block afterwards closes nothing twice."""
    connections = TransportPool(Made)
    await connections.aclose()
    connections.enter()
    await connections.aclose()
    assert [each.closed for each in made] == [True]
    async with connections.lease(None) as lent:
        assert lent is made[1]
    await connections.leave()
    assert [each.closed for each in made] == [True, True]


class Uncopied(FakeTransport):
    """A transport that cannot be copied."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise AssertionError


COPIES: Final[dict[str, Callable[[TransportPool], TransportPool]]] = {
    "pickle": lambda connections: pickle.loads(pickle.dumps(connections)),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", COPIES)
async def test_copies(way: str, made: list[Made]) -> None:
    """A copy keeps no transport, and makes its own."""
    connections = TransportPool(Made)
    connections.lease(Uncopied({}))
    connections.enter()
    clone = COPIES[way](connections)
    async with clone.lease(None) as lent:
        assert lent is made[1]
    await connections.leave()
    assert [each.closed for each in made] == [True, True]


async def test_entered_in_another_event_loop(made: list[Made]) -> None:
    """A transport kept by another event loop is neither used nor closed in this one."""
    connections = TransportPool(Made)

    async def elsewhere() -> None:
        connections.enter()
        async with connections.lease(None) as lent:
            assert lent is made[-1]
        await connections.leave()

    connections.enter()
    for backend in ("asyncio", "trio"):
        await anyio.to_thread.run_sync(partial(anyio.run, elsewhere, backend=backend))
    async with connections.lease(None) as lent:
        assert lent is made[0]
    assert [each.closed for each in made] == [False, True, True]
    await connections.leave()


def test_per_loop() -> None:
    """A value belongs to the event loop that stored it, and is dropped with that loop."""
    values: PerLoop[str] = PerLoop()
    seen: list[str | None] = []

    async def use(word: str) -> None:
        seen.append(values.get())
        assert values.put(word) == word
        seen.extend([values.get(), values.take(), values.take()])
        values.put(word)

    for backend in ("asyncio", "trio", "asyncio"):
        anyio.run(use, backend, backend=backend)
    assert seen == [None, "asyncio", "asyncio", None, None, "trio", "trio", None, None, "asyncio", "asyncio", None]
    gc.collect()
    assert len(values._stores) == 0


async def test_a_chain_of_policies_is_built_once() -> None:
    """The chain of policies is built once for a kept transport, and again if the policies or the transport change."""
    pool, given, other, built = TransportPool(Made), FakeTransport({}), FakeTransport({}), list[FakeTransport]()

    def chain(transport: Transport | None, *policies: Policy) -> Transport:
        def wrap(_transport: Transport, _policies: object) -> Transport:
            built.append(FakeTransport({}))
            return built[-1]

        return pool.lease(transport, policies, wrap).transport

    pool.enter()
    for transport in (given, None):
        built.clear()
        assert chain(transport, Retry()) is built[0]
        assert chain(transport, Retry()) is built[0]
        assert chain(transport, Retry(attempts=7)) is built[1]
        assert chain(transport, Retry(attempts=7)) is built[1]
    assert chain(other, Retry(attempts=7)) is built[2]
    await pool.aclose()
    assert chain(other, Retry(attempts=7)) is built[3]
    assert chain(None, Retry(attempts=7)) is built[4]
    assert chain(None, Retry(attempts=7)) is built[5]


def test_a_chain_of_policies_for_each_event_loop() -> None:
    """Each event loop has a chain of its own around a given transport, also when two run at the same time."""
    pool, given, chains = TransportPool(Made), FakeTransport({}), list[Transport]()

    def chain() -> Transport:
        return pool.lease(given, (), lambda _transport, _policies: FakeTransport({})).transport

    async def use(*others: str) -> None:
        chains.append(first := chain())
        if others:
            await anyio.to_thread.run_sync(partial(anyio.run, use, *others[1:], backend=others[0]))
        assert chain() is first

    anyio.run(use, "asyncio", "trio", "asyncio")
    anyio.run(use)
    assert len({id(each) for each in chains}) == len(chains) == 5
