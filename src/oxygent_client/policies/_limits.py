"""Rate limit and concurrency limit.

Rule 1: what is counted are runs and the attaching to runs. What only looks something up passes by: it must not wait
    behind streams that last for minutes.
Rule 2: who came first is served first. Who is cancelled while waiting takes nothing.
Rule 3: waiting ends before the caller's deadline does, with an error that says that nothing was sent.
Rule 4: what is counted is counted for each event loop by itself.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar, Final

import anyio
import attrs

from oxygent_client._core.errors import DeadlineExceededError, Outcome
from oxygent_client._core.per_loop import PerLoop
from oxygent_client._core.transport import HTTPRequest, HTTPResponse, Purpose, Transport
from oxygent_client._core.validation import integer, number
from oxygent_client.policies._base import PolicyKind, Wrapper, waiting_ends

__all__ = ["Bucket", "ConcurrencyLimit", "ConcurrencyLimitTransport", "RateLimit", "RateLimitTransport", "Slots"]

COUNTED: Final[tuple[Purpose, ...]] = ("run", "attach")


# --- at a time --------------------------------------------------------------------------------------------------------


@attrs.frozen
class ConcurrencyLimit:
    """How many runs an agent has open at a time; further ones wait until one is left.

    A run that one of your handlers begins with the same agent is a further one: where the run that called the handler
    holds the last slot, it waits for a slot that is free only after it, so until its deadline.

    Raises:
        ConfigurationError: `max` is no whole number, or less than 1.
    """

    kind: ClassVar[PolicyKind] = "concurrency"

    max: int = attrs.field(validator=integer(ge=1))

    def remember(self) -> Slots:
        """Slots, all of them free."""
        return Slots(self.max)

    def over(self, inner: Transport, memory: Slots) -> ConcurrencyLimitTransport:
        """The transport that lets so many through to `inner`."""
        return ConcurrencyLimitTransport(inner, self, slots=memory)


class Slots:
    """Places for runs, as many in each event loop. Pickled or copied, all are free."""

    def __init__(self, max: int) -> None:
        self._max = max
        self._semaphores: PerLoop[anyio.Semaphore] = PerLoop()

    async def take(self, until: float) -> anyio.Semaphore:
        """A slot, which is given back by `release()`.

        Raises:
            DeadlineExceededError: there was none until then.
        """
        slots = self._semaphores.get() or self._semaphores.put(anyio.Semaphore(self._max))
        with anyio.CancelScope(deadline=until):
            await slots.acquire()
            return slots
        raise DeadlineExceededError(
            f"none of the {self._max} runs that may go on at a time ended in time", outcome=Outcome.NOT_SENT
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Slots, (self._max,)


@attrs.define(eq=False)
class ConcurrencyLimitTransport(Wrapper):
    """Lets so many runs through at a time as `ConcurrencyLimit` has it; a run has its slot until its block is left."""

    kind: ClassVar[PolicyKind] = "concurrency"

    limit: ConcurrencyLimit
    slots: Slots = attrs.field(
        default=attrs.Factory(lambda self: self.limit.remember(), takes_self=True), kw_only=True, repr=False
    )
    """Its own, unless it is given some to share."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`.

        Raises:
            DeadlineExceededError: no slot was free in time. Nothing was sent.
        """
        async with AsyncExitStack() as stack:
            if request.context.purpose in COUNTED:
                stack.callback((await self.slots.take(waiting_ends(request.context))).release)
            yield await stack.enter_async_context(self.inner.exchange(request))


# --- in a second ------------------------------------------------------------------------------------------------------


@attrs.frozen
class RateLimit:
    """How many runs an agent begins in a second, in the long run; `burst` of them may begin at once after a pause.

    Raises:
        ConfigurationError: `per_second` is not more than 0, or `burst` no whole number from 1 on.
    """

    kind: ClassVar[PolicyKind] = "rate"

    per_second: float = attrs.field(validator=number(gt=0))
    burst: int = attrs.field(default=1, validator=integer(ge=1))

    def remember(self) -> Bucket:
        """A full bucket."""
        return Bucket(self)

    def over(self, inner: Transport, memory: Bucket) -> RateLimitTransport:
        """The transport that lets so many through to `inner`."""
        return RateLimitTransport(inner, self, bucket=memory)


@attrs.define(eq=False)
class Level:
    """How full a bucket is, in one event loop."""

    limit: RateLimit
    full: float = -math.inf
    """When all tokens will be there again."""
    waiting: int = 0
    turn: anyio.Lock = attrs.field(factory=anyio.Lock)
    """Whose turn it is to wait for a token; the others wait for their turn."""

    def due(self, now: float, ahead: int) -> float:
        """When there will be a token for one who has so many ahead."""
        return max(now, max(self.full, now) + (ahead + 1 - self.limit.burst) / self.limit.per_second)

    def take(self, now: float) -> None:
        """Take a token."""
        self.full = max(self.full, now) + 1 / self.limit.per_second


class Bucket:
    """Tokens, one for each run, that come back with time; as many in each event loop. Pickled or copied, it is full."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._levels: PerLoop[Level] = PerLoop()

    async def take(self, until: float) -> None:
        """Take a token, when there is one.

        Raises:
            DeadlineExceededError: there will be none until then; this is known, and said, at once.
        """
        level = self._levels.get() or self._levels.put(Level(self._limit))
        now = anyio.current_time()
        wait = level.due(now, level.waiting) - now
        if now + wait > until:
            raise DeadlineExceededError(
                f"the rate limit has no place before {wait:.2f} s are over, which is too late", outcome=Outcome.NOT_SENT
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
    """Lets runs begin no faster than `RateLimit` has it."""

    kind: ClassVar[PolicyKind] = "rate"

    limit: RateLimit
    bucket: Bucket = attrs.field(
        default=attrs.Factory(lambda self: self.limit.remember(), takes_self=True), kw_only=True, repr=False
    )
    """Its own, unless it is given one to share."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`.

        Raises:
            DeadlineExceededError: its turn would come too late. Nothing was sent.
        """
        if request.context.purpose in COUNTED:
            await self.bucket.take(waiting_ends(request.context))
        async with self.inner.exchange(request) as response:
            yield response
