"""Retry with backoff, a retry budget and a circuit breaker.

Rule 1: the error says whether a repeat is safe and may help: `retryable`, and where nothing runs (`Context.idempotent`,
    but for runs), `transient`. There is no other table.
Rule 2: nothing is held while waiting: a refusal is read a little and its exchange is left before the wait.
Rule 3: what is not repeated is handed on at once, as it came. So is everything once the exchange is the caller's.
Rule 4: a wait that would reach the caller's deadline, or the server's wish for a long one, is no wait: it is over.
Rule 5: repeats are paid for out of a budget that successes fill: a broken remote is not stormed.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, ClassVar, Final

import anyio
import attrs

from oxygent_client._core.errors import OxyError, StatusError
from oxygent_client._core.log import log_event
from oxygent_client._core.transport import Context, HTTPRequest, HTTPResponse, Purpose, Transport, find_wrapped
from oxygent_client._core.validation import integer, number
from oxygent_client._protocol.responses import error_from_response
from oxygent_client.policies._base import DRAIN_SECONDS, PolicyKind, Wrapper, drain

__all__ = ["Retry", "RetryBudget", "RetryTransport", "retrying"]


def _uniform(low: float, high: float) -> float:
    """A number between the two, by lot. A function of its own: a copy elsewhere must not draw the same numbers."""
    return random.uniform(low, high)  # noqa: S311  (it spreads calls over time, and keeps no secret)


COUNTED: Final[tuple[Purpose, ...]] = ("run", "attach")
"""What the budget is for; a question that is asked again runs nothing, and must not take from those that do."""


@attrs.frozen(kw_only=True)
class Retry:
    """When and how often a call that surely ran nothing is made again. `Retry(attempts=1)` never does so.

    Raises:
        ConfigurationError: a number is out of its range.
    """

    kind: ClassVar[PolicyKind] = "retry"

    attempts: int = attrs.field(default=3, validator=integer(ge=1))
    """How often a call is made at most, the first time included."""
    base: float = attrs.field(default=0.5, validator=number(ge=0))
    """The longest wait before the first repeat, in seconds; it doubles with each. The wait is drawn from 0 to there."""
    cap: float = attrs.field(default=8.0, validator=number(ge=0))
    """What that longest wait grows to, in seconds."""
    retry_after_cap: float = attrs.field(default=60.0, validator=number(ge=0))
    """The longest `Retry-After` that is waited for, in seconds; after a longer one the call is not repeated."""
    budget: float = attrs.field(default=10.0, validator=number(ge=0))
    """How many repeats an agent may make without a success."""
    refill: float = attrs.field(default=0.1, validator=number(ge=0))
    """What each success gives back of them: with 0.1, ten successes pay for one repeat."""

    def wait(self, attempt: int, retry_after: float | None, uniform: Callable[[float, float], float]) -> float | None:
        """Seconds to wait after this attempt failed; None if it shall be the last.

        `retry_after` is what the server asked for. It is never shortened, and stretched a little by lot, so that those
        who were refused together do not come back together.
        """
        if attempt >= self.attempts:
            return None
        if retry_after is not None:
            within = retry_after <= self.retry_after_cap
            return retry_after + uniform(0.0, min(self.cap, self.base)) if within else None
        return uniform(0.0, min(self.cap, self.base * 2.0 ** min(attempt - 1, 64)))

    def remember(self) -> RetryBudget:
        """A full budget."""
        return RetryBudget(self.budget, self.refill)

    def over(self, inner: Transport, memory: RetryBudget) -> RetryTransport:
        """The transport that repeats what goes through `inner`."""
        return RetryTransport(inner, self, budget=memory)


class RetryBudget:
    """How many repeats there may still be: each costs 1, each success gives `refill` back. It knows no clock.

    Loops and threads may share one. Pickled or copied, it is full again.
    """

    def __init__(self, capacity: float, refill: float) -> None:
        self._capacity = capacity
        self._refill = refill
        self._left = capacity
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """What is left, in repeats."""
        return self._left

    def spend(self) -> bool:
        """Pay for a repeat; False if there is not enough left, and then nothing is taken."""
        with self._lock:
            can = self._left >= 1
            self._left -= can
        return can

    def earn(self) -> None:
        """Note a success."""
        with self._lock:
            self._left = min(self._capacity, self._left + self._refill)

    def __repr__(self) -> str:
        return f"RetryBudget({self._left:g} of {self._capacity:g})"

    def __reduce__(self) -> tuple[Any, ...]:
        return RetryBudget, (self._capacity, self._refill)


def retrying(transport: object) -> RetryTransport | None:
    """What repeats the calls that go through `transport`."""
    return find_wrapped(transport, RetryTransport)


@attrs.define(eq=False)
class RetryTransport(Wrapper):
    """Makes a call again as `Retry` has it. `Context.attempt` counts; of an error that comes out, `attempts` does."""

    kind: ClassVar[PolicyKind] = "retry"

    retry: Retry = attrs.field(factory=Retry)
    budget: RetryBudget = attrs.field(
        default=attrs.Factory(lambda self: self.retry.remember(), takes_self=True), kw_only=True
    )
    """Its own, unless it is given one to share."""
    uniform: Callable[[float, float], float] = attrs.field(default=_uniform, kw_only=True, repr=False)
    """How lots are drawn: a number between two."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`; entering it may take several exchanges, one after the other."""
        async with AsyncExitStack() as stack:
            yield await self._respond(stack, request)

    async def _respond(self, stack: AsyncExitStack, request: HTTPRequest) -> HTTPResponse:
        """The first response that is handed on; the stack holds its exchange."""
        attempt = request.context.attempt - 1  # of those before, if it was repeated before it came here
        while True:
            attempt += 1
            sent = attrs.evolve(request, context=attrs.evolve(request.context, attempt=attempt))
            try:
                response = await stack.enter_async_context(self.inner.exchange(sent))
            except OxyError as error:
                error.attempts = attempt
                until = self._until(error, sent.context)
                if until is None:
                    raise
            else:
                if response.status == 200:
                    if sent.context.purpose in COUNTED:
                        self.budget.earn()
                    return response
                until = self._until(error_from_response(response.status, response.headers, b""), sent.context)
                if until is None:
                    return response
                await drain(response)
                with suppress(OxyError):  # that it did not end well matters to nobody any more
                    await stack.aclose()
            await anyio.sleep_until(until)

    def _is_paid(self, context: Context) -> bool:
        return context.purpose not in COUNTED or self.budget.spend()

    def _until(self, error: OxyError, context: Context) -> float | None:
        # A run that is sent again under one id would meet what the first attempt left: the run itself sees to that.
        harmless = context.idempotent and context.purpose != "run"
        return self.until(error, context) if (error.transient if harmless else error.retryable) else None

    def until(self, error: OxyError, context: Context) -> float | None:
        """When to make a call again that may be made again; None if it is not to be."""
        asked = error.retry_after if isinstance(error, StatusError) else None
        seconds = self.retry.wait(context.attempt, asked, self.uniform)
        if seconds is None:
            return None
        now = anyio.current_time()
        deadline = math.inf if context.deadline is None else context.deadline
        # A response is read to its end meanwhile, which may take longer than the wait.
        if now + max(seconds, DRAIN_SECONDS) >= deadline or not self._is_paid(context):
            return None
        reason = type(error).__name__
        attempt = context.attempt + 1
        said = "%s; attempt %d follows in %.2f s"
        log_event("retry", context, said, reason, attempt, seconds, attempt=attempt, seconds=seconds, reason=reason)
        return now + seconds
