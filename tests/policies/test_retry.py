"""Retries: which requests are retried, the backoff, the budget, and the final result.

Rule: time is virtual, and the test sets the jitter.
"""

from __future__ import annotations

import copy
import logging
import math
import pickle
from collections import Counter
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import HTTPRequest, HTTPResponse, Outcome, OxyError, Transport, errors
from oxygent_client.policies import Retry, RetryBudget, RetryTransport
from oxygent_client.testing import FakeTransport, Reply, answer, close, faults, pause
from oxygent_client.transports import Context
from tests.conftest import scaled
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from oxygent_client.transports import Purpose

URL: Final = "http://user:s3cret@remote.example:8082/?key=s3cret"
RUN: Final = HTTPRequest("POST", URL, "/sse/chat", body=b"{}")
STEPS: Final = (answer("42"), close())
GOOD: Final = Reply(STEPS)


def highest(_low: float, high: float) -> float:
    """Return the longest delay."""
    return high


def refused(status: int, **headers: str) -> Reply:
    """Return a refusal with these headers."""
    return Reply((b"no",), status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})


def made(more: dict[str, Any]) -> dict[str, Any]:
    """Return a policy with the longest delays, unless set."""
    return {"uniform": highest, **more}


def fails(error: Exception) -> Reply:
    """Return an error in place of a response."""
    return Reply(before=error)


def pickled(value: Any) -> Any:
    """Return the copy made by pickling."""
    return pickle.loads(pickle.dumps(value))


def retrying(replies: Iterable[Reply], retry: Retry = Retry(), **more: Any) -> tuple[FakeTransport, RetryTransport]:
    """Return a remote with these replies, and a retrying wrapper of it."""
    fake = FakeTransport({"/sse/chat": iter([*replies])})
    return fake, RetryTransport(fake, retry, **made(more))


def about(**said: Any) -> HTTPRequest:
    """Return a run with this context."""
    return attrs.evolve(RUN, context=Context(**said))


async def met(transport: Transport, request: HTTPRequest = RUN) -> int | type[OxyError]:
    """Return the status that is handed on, or raise the error."""
    try:
        async with transport.exchange(request) as response:
            return response.status
    except OxyError as error:
        return type(error)


# -------------------------------------------------------------------------------------------- Requests that are retried

NOT_SENT: Final = Outcome.NOT_SENT
REPEATED: Final[list[tuple[str, Reply, bool, bool]]] = [
    # case, the reply, whether it is retried, and whether it is if idempotent
    ("refused", fails(errors.ConnectError("x")), True, True),
    ("no connection in time", fails(errors.ConnectTimeoutError("x")), True, True),
    ("no replica", fails(errors.NoHealthyReplicaError("x")), True, True),
    ("a certificate", fails(errors.TLSError("x")), False, False),
    ("a lost connection", fails(errors.ConnectionLostError("x")), False, True),
    ("a lost connection, unsent", fails(errors.ConnectionLostError("x", outcome=NOT_SENT)), True, True),
    ("a deadline", fails(errors.DeadlineExceededError("x", outcome=NOT_SENT)), False, False),
    ("a wrong call", fails(errors.ConfigurationError("x")), False, False),
    ("nonsense", fails(errors.MalformedResponseError("x")), False, False),
    ("301", refused(301, location="/"), False, False),
    ("307", refused(307, location="/"), False, False),
    ("400", refused(400), False, False),
    ("401", refused(401), False, False),
    ("403", refused(403), False, False),
    ("404", refused(404), False, False),
    ("408", refused(408), False, False),
    ("429", refused(429), True, True),
    ("429 with seconds", refused(429, retry_after="2"), True, True),
    ("500", refused(500), False, True),
    ("500 with seconds", refused(500, retry_after="2"), False, True),
    ("502", refused(502), False, True),
    ("503", refused(503), False, True),
    ("503 with seconds", refused(503, retry_after="2"), True, True),
    ("503 with nonsense", refused(503, retry_after="soon"), False, True),
    ("504", refused(504), False, True),
    ("204", refused(204), False, False),
]


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize(
    ("reply", "is_repeated", "if_idempotent"), [row[1:] for row in REPEATED], ids=[row[0] for row in REPEATED]
)
async def test_requests_that_are_retried(
    reply: Reply, is_repeated: bool, if_idempotent: bool, idempotent: bool
) -> None:
    """A transient failure is retried if the request surely did not run, or may run twice."""
    fake, transport = retrying([reply, GOOD])
    expected = if_idempotent if idempotent else is_repeated
    found = await met(transport, about(idempotent=idempotent, purpose="attach" if idempotent else "run"))
    assert (found == 200) == expected
    assert len(fake.requests) == len(fake.left) == 1 + expected


CLASSES: Final = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, OxyError)]


@pytest.mark.parametrize(
    ("purpose", "idempotent", "decisive"), [("run", False, "retryable"), ("attach", True, "transient")]
)
async def test_each_error_class(purpose: Purpose, idempotent: bool, decisive: str) -> None:
    """For each error class and outcome, `retryable` and `transient` decide about a retry."""
    raised = [cls("x", outcome=outcome) for cls in CLASSES for outcome in Outcome]
    request = about(idempotent=idempotent, purpose=purpose)
    retried = [error for error in raised if await met(retrying([fails(error), GOOD])[1], request) == 200]
    assert retried == [error for error in raised if getattr(error, decisive)]


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_the_last_attempt_is_returned(attempts: int) -> None:
    """After `attempts` the last refusal is returned unread; an error has the number of attempts."""
    fake, transport = retrying([refused(429)] * 9, Retry(attempts=attempts))
    async with transport.exchange(RUN) as response:
        assert response.status == 429
        assert response.request.context.attempt == attempts
        assert [piece async for piece in response.chunks] == [b"no"]
        assert len(fake.left) == attempts - 1
    assert len(fake.left) == attempts
    _, transport = retrying([fails(errors.ConnectError("x"))] * 9, Retry(attempts=attempts))
    with pytest.raises(errors.ConnectError) as caught:
        await met_or_raised(transport)
    assert caught.value.attempts == attempts


async def met_or_raised(transport: Transport) -> None:
    """Enter and leave."""
    async with transport.exchange(RUN):
        pass


async def test_attempts_are_numbered() -> None:
    """Each attempt is the caller's request with its own number."""
    fake, transport = retrying([refused(429), fails(errors.ConnectError("x")), GOOD])
    request = about(purpose="attach", trace_id="t", group_id="g", node_id="n", deadline=1e9)
    assert await met(transport, request) == 200
    assert [sent.context.attempt for sent in fake.requests] == [1, 2, 3]
    for sent in fake.requests:
        assert attrs.evolve(sent, context=attrs.evolve(sent.context, attempt=1)) == request


@pytest.mark.parametrize("error", [errors.ConnectError("the block's"), KeyError("the block's")])
async def test_an_error_of_the_block(error: Exception) -> None:
    """An error of the block, after the exchange was entered, is raised unchanged."""
    fake, transport = retrying([GOOD, GOOD])
    with pytest.raises(type(error)) as caught:
        async with transport.exchange(about(idempotent=True)):
            raise error
    assert caught.value is error
    assert len(fake.requests) == len(fake.left) == 1


async def test_a_body_that_breaks_off() -> None:
    """A connection lost while the body is read is not retried."""
    fake, transport = retrying([Reply((errors.ConnectionLostError("cut"),)), GOOD])
    with pytest.raises(errors.ConnectionLostError):
        async with transport.exchange(about(idempotent=True)) as response:
            await anext(response.chunks)
    assert len(fake.requests) == len(fake.left) == 1


# -------------------------------------------------------------------------------------------------------------- Backoff


async def waits(
    replies: Iterable[Reply], retry: Retry = Retry(), request: HTTPRequest = RUN, **more: Any
) -> list[float]:
    """Return the seconds between requests, and from the last to its end."""
    times: list[float] = []

    class Timed(FakeTransport):
        """A transport that records the times of its requests."""

        def exchange(self, request: HTTPRequest, /) -> Any:
            times.append(anyio.current_time())
            return super().exchange(request)

    fake = Timed({"/sse/chat": iter([*replies])})
    await met(RetryTransport(fake, retry, **made(more)), request)
    times.append(anyio.current_time())
    return [round(later - earlier, 6) for earlier, later in pairwise(times)]


DATED: Final = {"date": "Wed, 21 Oct 2026 07:28:00 GMT", "retry_after": "Wed, 21 Oct 2026 07:28:09 GMT"}
WAITS: Final[list[tuple[list[float], list[Reply], Retry]]] = [
    # the longest delays, the replies before the good one, the policy
    ([0], [], Retry()),
    ([0.5, 0], [refused(429)], Retry()),
    ([0.5, 0], [fails(errors.ConnectError("x"))], Retry()),
    ([0.5, 1, 2, 4, 8, 8, 8, 0], [refused(429)] * 7, Retry(attempts=8)),
    ([1, 2, 3, 3, 0], [refused(429)] * 4, Retry(attempts=5, base=1, cap=3)),
    ([0, 0, 0], [refused(429)] * 2, Retry(base=0)),
    ([2.5, 0], [refused(429, retry_after="2")], Retry()),
    ([2.5, 2.5, 0], [refused(503, retry_after="2")] * 2, Retry()),
    ([9.5, 0], [refused(429, **DATED)], Retry()),
    ([0.5, 0], [refused(429, retry_after="0")], Retry()),
    ([60.5, 0], [refused(429, retry_after="60")], Retry()),
    ([0], [refused(429, retry_after="61")], Retry()),
    ([0], [refused(429, retry_after="3")], Retry(retry_after_cap=2)),
    ([0.5, 0], [refused(429, retry_after="soon")], Retry()),
    ([10.25, 0], [refused(429, retry_after="10")], Retry(cap=0.25)),
]


@pytest.mark.parametrize(("expected", "replies", "retry"), WAITS)
async def test_backoff(expected: list[float], replies: list[Reply], retry: Retry) -> None:
    """Backoff is exponential up to the cap, follows Retry-After plus jitter, and gives up if that is too long."""
    assert await waits([*replies, GOOD], retry) == expected


async def test_full_jitter() -> None:
    """Full jitter: a delay is between zero and its longest; Retry-After is never shortened."""
    drawn: list[tuple[float, float]] = []

    def lowest(low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    assert await waits(
        [refused(429)] * 2 + [refused(429, retry_after="2"), GOOD], Retry(attempts=4), uniform=lowest
    ) == [0, 0, 2, 0]
    assert drawn == [(0.0, 0.5), (0.0, 1.0), (0.0, 0.5)]


async def test_jitter_is_random() -> None:
    """By default the jitter is random: a hundred callers refused together do not retry together."""
    seconds = {
        (await waits([refused(429), GOOD], uniform=RetryTransport(FakeTransport({})).uniform))[0] for _ in range(100)
    }
    assert len(seconds) > 90
    assert 0 <= min(seconds) < 0.1
    assert 0.4 < max(seconds) <= 0.5


def test_the_delay_of_an_endless_retry() -> None:
    """The ten thousandth delay does not overflow."""
    assert Retry(attempts=10_001).wait(10_000, None, highest) == 8.0


@given(
    st.builds(Retry, attempts=st.integers(1, 10_000), base=st.floats(0, 1e6), cap=st.floats(0, 1e6)),
    st.integers(1, 10_000),
    st.none() | st.floats(0, 1e6),
    st.floats(0, 1),
)
def test_delays_are_bounded(retry: Retry, attempt: int, retry_after: float | None, lot: float) -> None:
    """A delay is within the cap, or within Retry-After and Retry-After plus jitter."""
    seconds = retry.wait(attempt, retry_after, lambda low, high: low + (high - low) * lot)
    if attempt >= retry.attempts or (retry_after is not None and retry_after > retry.retry_after_cap):
        assert seconds is None
    else:
        assert seconds is not None
        asked = retry_after or 0.0
        assert asked <= seconds <= asked + retry.cap
        assert retry_after is None or seconds <= asked + retry.base


DEADLINES: Final[list[tuple[int, list[float], float, Reply]]] = [
    # number of requests, when it ends, the deadline, the reply to all but the last
    (2, [2.5, 0], 2.6, refused(429, retry_after="2")),
    (1, [0], 2.5, refused(429, retry_after="2")),
    (1, [0], 2.4, refused(429, retry_after="2")),
    (2, [0.5, 0], 0.6, fails(errors.ConnectError("x"))),
    (1, [0], 0.5, fails(errors.ConnectError("x"))),
    (1, [0], 0.0, fails(errors.ConnectError("x"))),
]


@pytest.mark.parametrize(("sent", "expected", "deadline", "reply"), DEADLINES)
async def test_deadline(sent: int, expected: list[float], deadline: float, reply: Reply) -> None:
    """A retry that would start after the deadline is not waited for: the last result is returned at once."""
    request = about(deadline=anyio.current_time() + deadline)
    assert await waits([reply, GOOD], request=request) == expected
    assert sent == len(expected)


async def test_draining_a_slow_refusal() -> None:
    """Draining a slow refusal counts as backoff and respects the deadline."""
    drip = Reply((b".", pause(math.inf)), status=429, headers={})
    assert await waits([drip, GOOD]) == [0.5, 0]
    assert await waits([drip, GOOD], Retry(base=0)) == [0.25, 0]
    near = about(deadline=anyio.current_time() + 0.2)
    assert await waits([drip, GOOD], Retry(base=0), near) == [0]


# ------------------------------------------------------------------------------------------------------------ Resources


async def test_nothing_is_open_during_backoff() -> None:
    """During backoff no exchange is open: the refusal is drained and its exchange left."""
    seen: list[str] = []

    async def read() -> None:
        seen.append(f"read at {anyio.current_time() - start:g}")

    def left(_: HTTPRequest) -> None:
        seen.append(f"left at {anyio.current_time() - start:g}")

    fake, transport = retrying([Reply((b"no", read), status=429, headers={"retry-after": "9"}, on_close=left), GOOD])
    start = anyio.current_time()
    async with transport.exchange(RUN) as response:
        assert response.status == 200
        assert seen == ["read at 0", "left at 0"]
        assert anyio.current_time() - start == pytest.approx(9.5)
        assert len(fake.left) == 1


@pytest.mark.parametrize(
    ("before", "chunks", "expected"),
    [
        ([], 1000, 63),
        ([errors.ConnectionLostError("cut")], 1, 0),
        ([pause(math.inf)], 1, 0),
        ([], 1, 1),
    ],
    ids=["limit in bytes", "broken connection", "limit in seconds", "all of it"],
)
async def test_a_refusal_is_drained(before: list[Any], chunks: int, expected: int) -> None:
    """A refusal is drained within limits of bytes and seconds, so that its connection is reused."""
    pieces = Counter[str]()

    async def count() -> None:
        pieces["read"] += 1

    steps = [*before, *(step for _ in range(chunks) for step in (b"x" * 1024, count))]
    fake, transport = retrying([Reply(steps, status=429, headers={}), GOOD])
    assert await met(transport) == 200
    assert pieces["read"] == expected
    assert len(fake.left) == 2


async def test_an_exchange_that_fails_to_close() -> None:
    """An error in leaving the exchange of a refusal is ignored."""

    class Breaks:
        """A refusal whose exchange fails to close, then a success."""

        def __init__(self) -> None:
            self.sent = 0

        @asynccontextmanager
        async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
            self.sent += 1
            async with FakeTransport({"/sse/chat": GOOD}).exchange(request) as response:
                yield attrs.evolve(response, status=429 if self.sent == 1 else 200)
            if self.sent == 1:
                raise errors.ConnectionLostError("in leaving")

        async def aclose(self) -> None:
            """Do nothing."""

    assert await met(RetryTransport(Breaks())) == 200


@pytest.mark.parametrize(
    "reply", [refused(429, retry_after="9"), fails(errors.ConnectError("x"))], ids=["Retry-After", "backoff"]
)
async def test_cancellation_during_backoff(reply: Reply) -> None:
    """A cancellation ends the backoff at once, and nothing more is sent."""
    fake, transport = retrying([reply, GOOD], Retry(base=8))
    start = anyio.current_time()
    with anyio.move_on_after(1) as scope:
        await met(transport)
    assert scope.cancelled_caught
    assert anyio.current_time() - start == pytest.approx(1)
    assert len(fake.requests) == len(fake.left) == 1


async def test_no_scope_stays_open() -> None:
    """The block may be left in another order than the caller's cancel scopes."""
    fake, transport = retrying([refused(429), GOOD])
    exchange = transport.exchange(RUN)
    with anyio.CancelScope():
        await exchange.__aenter__()
    await exchange.__aexit__(None, None, None)
    assert len(fake.left) == 2


async def test_closing() -> None:
    """`aclose` closes the inner transport."""
    fake, transport = retrying([])
    assert transport.inner is fake
    await transport.aclose()
    assert fake.closed


# -------------------------------------------------------------------------------------------------------------- Budget


@given(st.floats(0, 100), st.floats(0, 10), st.lists(st.booleans(), max_size=200))
def test_a_budget(capacity: float, refill: float, calls: list[bool]) -> None:
    """The budget is never overspent, never overfilled, and not charged for requests that are not retried."""
    budget = RetryBudget(capacity, refill)
    spent = earned = 0
    for is_success in calls:
        before = budget.left
        if is_success:
            budget.earn()
            earned += 1
            assert before <= budget.left <= capacity
        elif budget.spend():
            spent += 1
            assert budget.left == before - 1
        else:
            assert before == budget.left < 1
        assert spent <= capacity + earned * refill + 1e-6


async def test_a_budget_is_shared_and_refilled() -> None:
    """Requests that share a budget are charged together; without budget refusals are returned; successes refill it."""
    budget = RetryBudget(2, 0.5)
    busy = FakeTransport({"/sse/chat": refused(429)})
    one, other = (RetryTransport(busy, Retry(attempts=2), budget=budget, uniform=highest) for _ in range(2))
    assert [await met(transport) for transport in (one, other, one)] == [429, 429, 429]
    assert len(busy.requests) == 2 + 2 + 1
    assert budget.left == 0
    start = anyio.current_time()
    assert await met(other) == 429
    assert anyio.current_time() == pytest.approx(start)
    good = RetryTransport(FakeTransport({"/sse/chat": GOOD}), budget=budget)
    assert [await met(good) for _ in range(2)] == [200, 200]
    assert budget.left == 1.0
    assert [await met(one) for _ in range(2)] == [429, 429]
    assert len(busy.requests) == 6 + 2 + 1


async def test_requests_that_are_not_retried_cost_no_budget() -> None:
    """A last attempt, a delay that is too long and a permanent error cost no budget."""
    replies = [refused(404), refused(429, retry_after="99"), fails(errors.TLSError("x"))]
    _, transport = retrying(replies)
    for _ in replies:
        await met(transport)
    assert transport.budget.left == 10


@pytest.mark.parametrize("reply", [refused(429), refused(503, retry_after="1"), fails(errors.ConnectError("x"))])
async def test_a_storm(reply: Reply) -> None:
    """200 concurrent calls to a remote that refuses all send 200 requests plus the budget."""
    calls = scaled(200)
    busy = FakeTransport({"/sse/chat": reply})
    transport = RetryTransport(busy)
    async with anyio.create_task_group() as tasks:
        for _ in range(calls):
            tasks.start_soon(met, transport)
    assert len(busy.requests) == len(busy.left) == calls + 10


async def test_recovery_after_one_retry() -> None:
    """A remote that recovers is reached, at the cost of one retry."""
    faulty = faults.refuse(FakeTransport.script(*STEPS))
    assert await met(RetryTransport(faulty)) == 200
    assert faulty.struck == 1


# -------------------------------------------------------------------------------------------------------------- Logging


async def test_log_records(caplog: pytest.LogCaptureFixture) -> None:
    """Each retry is logged once, with its fields and no secret."""
    _, transport = retrying([refused(429), fails(errors.ConnectError("x")), GOOD])
    with caplog.at_level(logging.DEBUG, "oxygent_client"):
        assert await met(transport, about(trace_id="t-1", node_id="n-1")) == 200
    told = ("event", "trace_id", "node_id", "attempt", "seconds", "reason")
    assert [tuple(getattr(record, name) for name in told) for record in caplog.records] == [
        ("retry", "t-1", "n-1", 2, 0.5, "RateLimitedError"),
        ("retry", "t-1", "n-1", 3, 1.0, "ConnectError"),
    ]
    assert "s3cret" not in caplog.text


# --------------------------------------------------------------------------------------------------------------- Values

WRONG: Final[list[dict[str, Any]]] = [
    {"attempts": 0},
    {"attempts": 1.5},
    {"attempts": True},
    {"attempts": "3"},
    {"base": -1},
    {"base": math.nan},
    {"base": None},
    {"cap": math.inf},
    {"cap": -0.1},
    {"retry_after_cap": -1},
    {"budget": -1},
    {"budget": True},
    {"refill": "x"},
]


@pytest.mark.parametrize("said", WRONG)
def test_wrong_values(said: dict[str, Any]) -> None:
    """A number out of range raises an error with its name."""
    with pytest.raises(errors.ConfigurationError, match=rf"^Retry\.{next(iter(said))} must be"):
        Retry(**said)


def test_a_value() -> None:
    """Policies compare by content, pickle, and have a repr."""
    retry = Retry(attempts=5)
    assert retry == Retry(attempts=5) != Retry()
    assert retry == pickle.loads(pickle.dumps(retry)) == copy.deepcopy(retry)
    assert hash(retry) == hash(Retry(attempts=5))
    assert "attempts=5" in repr(retry)


@pytest.mark.parametrize("make", [pickled, copy.deepcopy])
def test_a_copy_of_a_wrapper(make: Any) -> None:
    """A copy of a wrapper has the same policy, a full budget and its own jitter."""
    budget = RetryBudget(3, 0.5)
    budget.spend()
    copied = make(RetryTransport(NOTHING, Retry(attempts=7), budget=budget))
    assert copied.retry == Retry(attempts=7)
    assert copied.budget.left == 3
    assert repr(budget) == "RetryBudget(2 of 3)"
    assert copied.uniform is RetryTransport(NOTHING).uniform


class Nothing:
    """A transport that can be copied."""

    def exchange(self, request: HTTPRequest, /) -> Any:
        """Never called."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Do nothing."""


NOTHING: Final = Nothing()
