"""Rate and concurrency limits: queueing, order, deadlines and cancellation."""

from __future__ import annotations

import copy
import math
import pickle
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import HTTPRequest, Transport, errors
from oxygent_client.policies import (
    ConcurrencyLimit,
    ConcurrencyLimitTransport,
    RateLimit,
    RateLimitTransport,
    Retry,
    RetryTransport,
)
from oxygent_client.policies._limits import Bucket, Level, Slots
from oxygent_client.testing import FakeTransport, Reply, pause
from oxygent_client.transports import Context
from tests.conftest import LOOPS
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

RUN: Final = HTTPRequest("POST", "http://remote.example", "/sse/chat")
LONG: Final = Reply((b"x", pause(10), b"y"))
"""A run of ten seconds."""


def about(**said: Any) -> HTTPRequest:
    """Return a run with this context."""
    return attrs.evolve(RUN, context=Context(**said))


def named(name: str, **said: Any) -> HTTPRequest:
    """Return a run with this trace id."""
    return about(trace_id=name, **said)


async def settled() -> None:
    """Wait until every task waits, without time passing."""
    for _ in range(10):
        await checkpoint()


def pickled(value: Any) -> Any:
    """Return the copy made by pickling."""
    return pickle.loads(pickle.dumps(value))


class Log:
    """Times of events since it was made."""

    def __init__(self) -> None:
        self.start = anyio.current_time()
        self.lines: list[tuple[float, str]] = []

    def note(self, what: str) -> None:
        """Record the event."""
        self.lines.append((round(anyio.current_time() - self.start, 6), what))

    async def run(self, transport: Transport, request: HTTPRequest) -> None:
        """Make a run, and record its beginning and its end."""
        name = request.context.trace_id
        try:
            async with transport.exchange(request) as response:
                self.note(f"{name} began")
                async for _ in response.chunks:
                    pass
        except errors.OxyError as error:
            self.note(f"{name} {type(error).__name__} {error.outcome}")

    async def all(self, transport: Transport, requests: Iterable[HTTPRequest]) -> list[tuple[float, str]]:
        """Make these runs concurrently, each started a moment after the one before."""
        async with anyio.create_task_group() as tasks:
            for request in requests:
                tasks.start_soon(self.run, transport, request)
                await settled()
        return self.lines


def remote(reply: Reply = LONG) -> FakeTransport:
    """Return a remote with these replies."""
    return FakeTransport({"/sse/chat": reply})


LIMITERS: Final[list[Callable[[Transport], Any]]] = [
    lambda inner: ConcurrencyLimitTransport(inner, ConcurrencyLimit(1)),
    lambda inner: RateLimitTransport(inner, RateLimit(0.1)),
]
each_limiter = pytest.mark.parametrize("limited", LIMITERS, ids=["concurrency", "rate"])

# ---------------------------------------------------------------------------------------------------------- Concurrency


@pytest.mark.parametrize(
    ("most", "begins"), [(1, [0, 10, 20, 30]), (2, [0, 0, 10, 10]), (3, [0, 0, 0, 10]), (9, [0] * 4)]
)
async def test_concurrency_limit(most: int, begins: list[float]) -> None:
    """At most `limit` runs are in flight; the others are queued first in, first out."""
    fake = remote()
    transport = ConcurrencyLimitTransport(fake, ConcurrencyLimit(most))
    lines = await Log().all(transport, map(named, "abcd"))
    # Those that are let in at the same moment may come in any order.
    assert [(when, f"{name} began") for when, name in zip(begins, "abcd", strict=True)] == sorted(lines)
    assert len(fake.left) == 4


async def test_a_slot_is_held_over_retries() -> None:
    """A run that is retried keeps its slot during the backoff, though the exchange before it is closed."""
    fake = FakeTransport({"/sse/chat": iter([Reply(status=429, headers={}), LONG, LONG])})
    retrying = RetryTransport(fake, Retry(base=4), uniform=lambda _low, high: high)
    lines = await Log().all(ConcurrencyLimitTransport(retrying, ConcurrencyLimit(1)), map(named, "ab"))
    assert lines == [(4, "a began"), (14, "b began")]


async def test_a_slot_is_released() -> None:
    """A slot is free at once after the exchange ends, by its end, an error or a cancellation."""
    refused, hangs, stalls = Reply(before=errors.ConnectError("x")), Reply(before=pause(99)), Reply((pause(99),))
    replies = [Reply(), refused, Reply(), hangs, stalls, Reply()]
    fake = FakeTransport({"/sse/chat": iter(replies)})
    transport = ConcurrencyLimitTransport(fake, ConcurrencyLimit(1))
    log = Log()
    await log.run(transport, named("a"))
    await log.run(transport, named("b"))
    mine = KeyError()
    with pytest.raises(KeyError) as caught:
        async with transport.exchange(RUN):
            raise mine
    assert caught.value is mine
    for name in "cd":
        with anyio.move_on_after(1):
            await log.run(transport, named(name))
    await log.run(transport, named("e"))
    assert log.lines == [(0, "a began"), (0, "b ConnectError not_sent"), (1, "d began"), (2, "e began")]
    assert len(fake.left) == 6


@pytest.mark.parametrize("at", [3, 10])
async def test_a_cancelled_waiter_gives_no_slot_away(at: float) -> None:
    """A queued run that is cancelled leaves its slot to the next, even if the slot was just freed."""
    transport = ConcurrencyLimitTransport(remote(), ConcurrencyLimit(1))
    log = Log()

    async def cancelled() -> None:
        with anyio.move_on_at(log.start + at):
            await log.run(transport, named("b"))

    async with anyio.create_task_group() as tasks:
        for waiter in (partial(log.run, transport, named("a")), cancelled, partial(log.run, transport, named("c"))):
            tasks.start_soon(waiter)
            await settled()
    begun = [line for line in log.lines if line[1] != "b began"]
    assert begun == [(0, "a began"), (10, "c began")]
    log.lines.clear()
    await log.run(transport, named("d"))
    assert log.lines == [(20, "d began")]


async def test_no_slot_in_time() -> None:
    """Queueing ends before the deadline with outcome NOT_SENT; runs that wait longer still get the slot."""
    fake = remote()
    transport = ConcurrencyLimitTransport(fake, ConcurrencyLimit(1))
    log = Log()
    lines = await log.all(
        transport, [named("a"), named("b", deadline=log.start + 5), named("c", deadline=log.start + 11)]
    )
    assert lines == [(0, "a began"), (4.99, "b DeadlineExceededError not_sent"), (10, "c began")]
    assert [sent.context.trace_id for sent in fake.requests] == ["a", "c"]


# ----------------------------------------------------------------------------------------------------------------- Rate

RATES: Final[list[tuple[list[float], RateLimit, list[float]]]] = [
    # when they begin, the limit, when they are sent
    ([0, 1, 2, 3], RateLimit(1), [0, 0, 0, 0]),
    ([0, 0.25, 0.5], RateLimit(4), [0, 0, 0]),
    ([0, 0, 0, 1, 2], RateLimit(1, burst=3), [0, 0, 0, 0, 0]),
    ([0, 2, 4, 6], RateLimit(0.5), [0, 0, 4, 4.5]),
    ([0, 1, 5, 6], RateLimit(1), [0, 0.5, 5, 5]),
    ([0, 0, 1, 9, 9, 10], RateLimit(1, burst=2), [0, 0, 0, 9, 9, 9]),
]


@pytest.mark.parametrize(("begins", "limit", "comes"), RATES)
async def test_rate_limit(begins: list[float], limit: RateLimit, comes: list[float]) -> None:
    """At most `rate` runs begin per second, and after a pause a burst of them at once."""
    transport = RateLimitTransport(remote(), limit)
    log = Log()

    async def come(number: int) -> None:
        await anyio.sleep_until(log.start + comes[number])
        await log.run(transport, named(str(number)))

    async with anyio.create_task_group() as tasks:
        for number in range(len(comes)):
            tasks.start_soon(come, number)
            await settled()
    assert [when for when, _ in log.lines] == begins


async def test_a_turn_after_the_deadline() -> None:
    """A turn after the deadline is refused at once with outcome NOT_SENT, and takes no turn from the next."""
    fake = remote()
    transport = RateLimitTransport(fake, RateLimit(0.1))
    log = Log()
    late, in_time = named("c", deadline=log.start + 20), named("d", deadline=log.start + 20.1)
    lines = await log.all(transport, [named("a"), named("b"), late, in_time])
    assert lines == [(0, "a began"), (0, "c DeadlineExceededError not_sent"), (10, "b began"), (20, "d began")]
    assert len(fake.requests) == 3


async def test_a_cancelled_waiter_takes_no_turn() -> None:
    """A queued run that is cancelled takes no turn: those behind it begin earlier."""
    transport = RateLimitTransport(remote(), RateLimit(0.1))
    log = Log()

    async def cancelled(name: str) -> None:
        with anyio.move_on_after(3):
            await log.run(transport, named(name))

    async with anyio.create_task_group() as tasks:
        waiters = [
            partial(log.run, transport, named("a")),
            partial(cancelled, "b"),
            partial(cancelled, "c"),
            partial(log.run, transport, named("d", deadline=log.start + 31)),
        ]
        for waiter in waiters:
            tasks.start_soon(waiter)
            await settled()
    assert log.lines == [(0, "a began"), (10, "d began")]


@given(
    st.builds(RateLimit, st.floats(0.01, 100), st.integers(1, 5)),
    st.lists(st.floats(0, 5), min_size=1, max_size=20),
)
def test_a_rate_is_kept(limit: RateLimit, gaps: list[float]) -> None:
    """In any interval no more runs begin than the burst and the rate allow."""
    level = Level(limit)
    now, begun = 0.0, list[float]()
    for gap in gaps:
        now = level.due(now + gap, 0)
        level.take(now)
        begun.append(now)
    for first, start in enumerate(begun):
        for last, end in enumerate(begun[first:], start=1):
            assert last <= limit.burst + (end - start) * limit.per_second + 1e-6


# ---------------------------------------------------------------------------------------------------------- Both limits


@each_limiter
async def test_requests_that_count(limited: Callable[[Transport], Any]) -> None:
    """Runs and attachments count; other requests are never queued."""
    transport = limited(remote())
    lines = await Log().all(
        transport, [named(purpose, purpose=purpose) for purpose in ("run", "discover", "feedback", "health")]
    )
    assert [(0, f"{purpose} began") for purpose in ("run", "discover", "feedback", "health")] == lines
    lines = await Log().all(transport, [named(purpose, purpose=purpose) for purpose in ("attach", "run")])
    assert [line for _, line in lines] == ["attach began", "run began"]
    assert lines[1][0] - lines[0][0] == 10


@each_limiter
async def test_the_caller_waits_under_the_same_deadline(limited: Callable[[Transport], Any]) -> None:
    """With a cancel scope of the caller at the same deadline, the error is still NOT_SENT."""
    transport = limited(remote())
    deadline = anyio.current_time() + 5
    async with transport.exchange(RUN):
        with pytest.raises(errors.DeadlineExceededError) as caught:
            with anyio.CancelScope(deadline=deadline):
                async with transport.exchange(about(deadline=deadline)):
                    pass
        assert caught.value.outcome is errors.Outcome.NOT_SENT


@each_limiter
async def test_no_scope_stays_open(limited: Callable[[Transport], Any]) -> None:
    """A caller may enter within its own cancel scope and leave outside of it."""
    transport = limited(remote())
    deadline = anyio.current_time() + 5
    exchange = transport.exchange(about(deadline=deadline))
    pieces: AsyncIterator[bytes] | None = None
    with anyio.CancelScope(deadline=deadline):
        pieces = (await exchange.__aenter__()).chunks
    assert pieces is not None
    assert [piece async for piece in pieces] == [b"x", b"y"]
    await exchange.__aexit__(None, None, None)


@each_limiter
async def test_cancellation_passes_through(limited: Callable[[Transport], Any]) -> None:
    """A queued run that is cancelled ends at once and sends nothing."""
    fake = remote()
    transport = limited(fake)
    async with transport.exchange(RUN):
        start = anyio.current_time()
        with anyio.move_on_after(1) as scope:
            async with transport.exchange(RUN):
                pass
        assert scope.cancelled_caught
        assert anyio.current_time() - start == pytest.approx(1)
    assert len(fake.requests) == 1


@each_limiter
async def test_closing(limited: Callable[[Transport], Any]) -> None:
    """`aclose` closes the inner transport."""
    fake = remote()
    transport = limited(fake)
    assert transport.inner is fake
    await transport.aclose()
    assert fake.closed


@each_limiter
def test_each_loop_counts_for_itself(limited: Callable[[Transport], Any]) -> None:
    """Limits count per event loop, so that no loop waits for another."""
    transport = limited(remote(Reply()))

    async def run(loops: list[str]) -> None:
        async with transport.exchange(about(deadline=anyio.current_time() + 1)):
            if loops:
                await anyio.to_thread.run_sync(lambda: anyio.run(run, loops[1:], backend=loops[0]))

    anyio.run(run, [*LOOPS, *LOOPS])


@pytest.mark.parametrize(
    ("limit", "make", "state"),
    [
        (ConcurrencyLimit(1), ConcurrencyLimitTransport, "slots"),
        (RateLimit(0.1), RateLimitTransport, "bucket"),
    ],
    ids=["concurrency", "rate"],
)
async def test_state_is_shared(limit: ConcurrencyLimit | RateLimit, make: Any, state: str) -> None:
    """Wrappers with one state count together; without, each by itself."""
    shared = {state: limit.new_state()}
    one, other, alone = make(remote(), limit, **shared), make(remote(), limit, **shared), make(remote(), limit)
    log = Log()
    async with anyio.create_task_group() as tasks:
        for transport, name in ((one, "a"), (other, "b"), (alone, "c")):
            tasks.start_soon(log.run, transport, named(name))
            await settled()
    assert log.lines == [(0, "a began"), (0, "c began"), (10, "b began")]


# --------------------------------------------------------------------------------------------------------------- Values

WRONG: Final[list[tuple[str, type[Any], dict[str, Any]]]] = [
    ("max", ConcurrencyLimit, {"max": 0}),
    ("max", ConcurrencyLimit, {"max": 1.5}),
    ("max", ConcurrencyLimit, {"max": True}),
    ("per_second", RateLimit, {"per_second": 0}),
    ("per_second", RateLimit, {"per_second": -1}),
    ("per_second", RateLimit, {"per_second": math.nan}),
    ("burst", RateLimit, {"per_second": 1, "burst": 0}),
]


@pytest.mark.parametrize(("name", "cls", "fields"), WRONG, ids=str)
def test_wrong_values(name: str, cls: type[Any], fields: dict[str, Any]) -> None:
    """A number out of range raises an error with its name."""
    with pytest.raises(errors.ConfigurationError, match=rf"^{cls.__name__}\.{name} must be"):
        cls(**fields)


@pytest.mark.parametrize("value", [ConcurrencyLimit(max=3), RateLimit(per_second=2, burst=3)])
def test_a_value(value: Any) -> None:
    """Policies compare by content, pickle, and have a repr."""
    assert value == pickle.loads(pickle.dumps(value)) == copy.deepcopy(value)
    assert value not in (ConcurrencyLimit(1), RateLimit(1))
    assert "=3" in repr(value)


@pytest.mark.parametrize("make", [pickled, copy.deepcopy])
async def test_a_copied_state(make: Callable[[Any], Any]) -> None:
    """A copied state has all slots free and a full bucket."""
    slots, bucket = Slots(1), Bucket(RateLimit(0.1))
    await slots.take(math.inf)
    await bucket.take(math.inf)
    now = anyio.current_time()
    await make(slots).take(math.inf)
    await make(bucket).take(now)
    assert anyio.current_time() == now
