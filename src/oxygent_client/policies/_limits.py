"""Rate limit and concurrency limit.

Rule 1: limits count runs and attachments to runs. Lookups pass: they must not wait behind streams that last minutes.
Rule 2: waiting calls are served in order. A call that is cancelled while it waits takes nothing.
Rule 3: waiting ends before the caller's deadline, with an error whose outcome is NOT_SENT.
Rule 4: each event loop counts by itself.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from typing import Any, ClassVar

import anyio
import attrs

from oxygent_client._core.errors import DeadlineExceededError, Outcome
from oxygent_client._core.per_loop import PerLoop
from oxygent_client._core.transport import HTTPRequest, HTTPResponse, OpenExchange, Transport
from oxygent_client._core.validation import integer, number
from oxygent_client.policies._base import COUNTED, Layer, PolicyKind, Wrapper, wait_deadline

# --- concurrency limit ------------------------------------------------------------------------------------------------


@attrs.frozen
class ConcurrencyLimit:
    """Limit how many runs of an agent are open at once; further runs wait for a free slot.

    A run that one of your handlers starts on the same agent counts too. If the run that called the handler holds the
    last slot, the inner run waits until its deadline.

    Raises:
        ConfigurationError: `max` is not a whole number >= 1.
    """

    kind: ClassVar[PolicyKind] = "concurrency"

    max: int = attrs.field(validator=integer(ge=1))

    def new_state(self) -> Slots:
        """Slots, all of them free."""
        return Slots(self.max)

    def wrap(self, inner: Transport, state: Slots) -> ConcurrencyLimitTransport:
        """As `Policy.wrap`."""
        return ConcurrencyLimitTransport(inner, self, slots=state)


class Slots:
    """Free slots for runs, counted per event loop. A copy has all slots free."""

    def __init__(self, max: int) -> None:
        self._max = max
        self._semaphores: PerLoop[anyio.Semaphore] = PerLoop()

    async def take(self, deadline: float) -> anyio.Semaphore:
        """Wait for a slot; `release()` of the result frees it.

        Raises:
            DeadlineExceededError: no slot was free before `deadline`.
        """
        slots = self._semaphores.get() or self._semaphores.put(anyio.Semaphore(self._max))
        with anyio.CancelScope(deadline=deadline):
            await slots.acquire()
            return slots
        raise DeadlineExceededError(
            f"no slot was free before the deadline (ConcurrencyLimit.max={self._max})", outcome=Outcome.NOT_SENT
        )

    @asynccontextmanager
    async def held(self, deadline: float) -> AsyncGenerator[None, None]:
        """Hold a slot in the block. A generator is closed, and so frees its slot, also when a run is dropped.

        Raises:
            DeadlineExceededError: no slot was free before `deadline`.
        """
        slot = await self.take(deadline)
        try:
            yield
        finally:
            slot.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return Slots, (self._max,)


@attrs.define(eq=False)
class ConcurrencyLimitTransport(Wrapper):
    """Applies `ConcurrencyLimit`: a run holds its slot until its exchange is left.

    Raises:
        DeadlineExceededError: `exchange` found no free slot in time. Nothing was sent.
    """

    kind: ClassVar[PolicyKind] = "concurrency"

    limit: ConcurrencyLimit
    slots: Slots = attrs.field(
        default=attrs.Factory(lambda self: self.limit.new_state(), takes_self=True), kw_only=True, repr=False
    )
    """Its own, unless you pass slots to share."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        is_counted = request.context.purpose in COUNTED
        slot = self.slots.held(wait_deadline(request.context)) if is_counted else nullcontext()
        async with slot, self.inner.exchange(request) as response:
            yield response


# --- rate limit -------------------------------------------------------------------------------------------------------


@attrs.frozen
class RateLimit:
    """Limit how many runs an agent starts per second, on average; after a pause up to `burst` start at once.

    Raises:
        ConfigurationError: `per_second` is not a number > 0, or `burst` not a whole number >= 1.
    """

    kind: ClassVar[PolicyKind] = "rate"

    per_second: float = attrs.field(validator=number(gt=0))
    burst: int = attrs.field(default=1, validator=integer(ge=1))

    def new_state(self) -> Bucket:
        """A full token bucket."""
        return Bucket(self)

    def wrap(self, inner: Transport, state: Bucket) -> RateLimitTransport:
        """As `Policy.wrap`."""
        return RateLimitTransport(inner, self, bucket=state)


@attrs.define(eq=False)
class Level:
    """The level of a token bucket in one event loop."""

    limit: RateLimit
    full: float = -math.inf
    """When the bucket is full again."""
    waiting: int = 0
    turn: anyio.Lock = attrs.field(factory=anyio.Lock)
    """Held by the first of the waiting calls."""

    def due(self, now: float, ahead: int) -> float:
        """When a call with so many waiting calls ahead of it gets a token."""
        return max(now, max(self.full, now) + (ahead + 1 - self.limit.burst) / self.limit.per_second)

    def take(self, now: float) -> None:
        """Take a token."""
        self.full = max(self.full, now) + 1 / self.limit.per_second


class Bucket:
    """A token bucket per event loop: each run takes a token, tokens come back with time. A copy is full."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._levels: PerLoop[Level] = PerLoop()

    async def take(self, deadline: float) -> None:
        """Wait for a token and take it.

        Raises:
            DeadlineExceededError: there will be no token before `deadline`; raised at once.
        """
        level = self._levels.get() or self._levels.put(Level(self._limit))
        now = anyio.current_time()
        wait = level.due(now, level.waiting) - now
        if now + wait > deadline:
            raise DeadlineExceededError(
                f"the rate limit allows this run in {wait:.2f} s, after its deadline", outcome=Outcome.NOT_SENT
            )
        level.waiting += 1
        try:
            async with level.turn:
                await anyio.sleep_until(level.due(anyio.current_time(), 0))
                level.take(anyio.current_time())
        finally:
            level.waiting -= 1

    def __reduce__(self) -> tuple[Any, ...]:
        return Bucket, (self._limit,)


@attrs.define(eq=False)
class RateLimitTransport(Wrapper):
    """Applies `RateLimit`: delays the start of runs.

    Raises:
        DeadlineExceededError: `exchange` would have to wait beyond the deadline. Nothing was sent.
    """

    kind: ClassVar[PolicyKind] = "rate"

    limit: RateLimit
    bucket: Bucket = attrs.field(
        default=attrs.Factory(lambda self: self.limit.new_state(), takes_self=True), kw_only=True, repr=False
    )
    """Its own, unless you pass a bucket to share."""

    async def _respond(self, exchange: OpenExchange, request: HTTPRequest) -> HTTPResponse:
        if request.context.purpose in COUNTED:
            await self.bucket.take(wait_deadline(request.context))
        return await Layer.respond(self.inner, exchange, request)
