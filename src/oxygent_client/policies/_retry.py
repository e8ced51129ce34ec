"""Retry with backoff, a retry budget and a circuit breaker.

Rule 1: the error decides whether a repeat is safe and may help: `retryable`; for lookups (`Context.idempotent`, but not
    for runs) `transient`. There is no second table.
Rule 2: nothing is held while waiting: the response is drained and its exchange closed before the backoff.
Rule 3: a response or error without a retry is returned or raised at once, unchanged. There is no retry after the
    exchange was entered.
Rule 4: if the backoff would reach the caller's deadline, or `Retry-After` exceeds its cap, there is no retry.
Rule 5: retries are paid from a budget that successes refill. An empty budget works as a circuit breaker: a broken
    server gets no retry storm.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import anyio
import attrs

from oxygent_client._core.bodies import DRAIN_SECONDS, drain
from oxygent_client._core.errors import OxyError, StatusError
from oxygent_client._core.ids import uniform
from oxygent_client._core.log import log_event
from oxygent_client._core.transport import Context, HTTPRequest, HTTPResponse, OpenExchange, Transport, find_wrapped
from oxygent_client._core.validation import integer, number
from oxygent_client._protocol.responses import error_from_response
from oxygent_client.policies._base import COUNTED, Layer, PolicyKind, Wrapper


@attrs.frozen(kw_only=True)
class Retry:
    """Retry calls that surely ran nothing, with exponential backoff and full jitter. `Retry(attempts=1)` disables it.

    Raises:
        ConfigurationError: a number is out of range.
    """

    kind: ClassVar[PolicyKind] = "retry"

    attempts: int = attrs.field(default=3, validator=integer(ge=1))
    """How many attempts at most, the first included."""
    base: float = attrs.field(default=0.5, validator=number(ge=0))
    """Longest backoff before the second attempt, in seconds; it doubles with each attempt. The jitter is full: the
    wait is a random number between 0 and this."""
    cap: float = attrs.field(default=8.0, validator=number(ge=0))
    """Upper limit of the backoff, in seconds."""
    retry_after_cap: float = attrs.field(default=60.0, validator=number(ge=0))
    """Longest `Retry-After` that is waited for, in seconds; after a longer one the call is not retried."""
    budget: float = attrs.field(default=10.0, validator=number(ge=0))
    """How many retries an agent may make without a success."""
    refill: float = attrs.field(default=0.1, validator=number(ge=0))
    """How many retries each success adds to the budget: with 0.1, ten successes pay for one retry."""

    def wait(self, attempt: int, retry_after: float | None, uniform: Callable[[float, float], float]) -> float | None:
        """The backoff in seconds after this attempt failed; None if it was the last.

        `retry_after` is the server's. It is never shortened; a little jitter is added, so that clients that were
        refused together do not return together.
        """
        if attempt >= self.attempts:
            return None
        if retry_after is not None:
            if retry_after > self.retry_after_cap:
                return None
            return retry_after + uniform(0.0, min(self.cap, self.base))
        return uniform(0.0, min(self.cap, self.base * 2.0 ** min(attempt - 1, 64)))

    def new_state(self) -> RetryBudget:
        """A full budget."""
        return RetryBudget(self.budget, self.refill)

    def wrap(self, inner: Transport, state: RetryBudget) -> RetryTransport:
        """As `Policy.wrap`."""
        return RetryTransport(inner, self, budget=state)


class RetryBudget:
    """How many retries are left: each costs 1, each success adds `refill`. It does not refill with time.

    Event loops and threads may share one. A copy is full.
    """

    def __init__(self, capacity: float, refill: float) -> None:
        self._capacity = capacity
        self._refill = refill
        self._left = capacity
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """How many retries are left."""
        return self._left

    def spend(self) -> bool:
        """Pay for a retry; False, and nothing is taken, if less than 1 is left."""
        with self._lock:
            can = self._left >= 1
            self._left -= can
        return can

    def earn(self) -> None:
        """Add the refill for a success."""
        with self._lock:
            self._left = min(self._capacity, self._left + self._refill)

    def __repr__(self) -> str:
        return f"RetryBudget({self._left:g} of {self._capacity:g})"

    def __reduce__(self) -> tuple[Any, ...]:
        return RetryBudget, (self._capacity, self._refill)


def find_retry(transport: object) -> RetryTransport | None:
    """The retry policy's wrapper around `transport`; None without one."""
    return find_wrapped(transport, RetryTransport)


@attrs.define(eq=False)
class RetryTransport(Wrapper):
    """Applies `Retry`. `Context.attempt` counts attempts; an error that is raised has them as `attempts`."""

    kind: ClassVar[PolicyKind] = "retry"

    retry: Retry = attrs.field(factory=Retry)
    budget: RetryBudget = attrs.field(
        default=attrs.Factory(lambda self: self.retry.new_state(), takes_self=True), kw_only=True
    )
    """Its own, unless you pass a budget to share."""
    uniform: Callable[[float, float], float] = attrs.field(default=uniform, kw_only=True, repr=False)
    """Source of the jitter: a random number between two."""

    async def _respond(self, exchange: OpenExchange, request: HTTPRequest) -> HTTPResponse:
        attempt = request.context.attempt - 1  # an outer wrapper may have made attempts already
        while True:
            attempt += 1
            sent = request
            if attempt != request.context.attempt:
                sent = request.with_context(attempt=attempt)
            try:
                response = await Layer.respond(self.inner, exchange, sent)
            except OxyError as error:
                error.attempts = attempt
                retry_at = self._retry_at(error, sent)
                if retry_at is None:
                    raise
                await exchange.close_quietly()
            else:
                if response.status == 200:
                    if sent.context.purpose in COUNTED:
                        self.budget.earn()
                    return response
                retry_at = self._retry_at(error_from_response(response.status, response.headers, b""), sent)
                if retry_at is None:
                    return response
                await drain(response.chunks)
                await exchange.close_quietly()
            await anyio.sleep_until(retry_at)

    def _is_paid(self, context: Context) -> bool:
        return context.purpose not in COUNTED or self.budget.spend()

    def _retry_at(self, error: OxyError, request: HTTPRequest) -> float | None:
        # Sent again under one trace id, a run would find what the first attempt left; the run itself repeats those.
        context = request.context
        harmless = context.idempotent and context.purpose != "run"
        if not (error.transient if harmless else error.retryable):
            return None
        return self.retry_at(error, context)

    def retry_at(self, error: OxyError, context: Context) -> float | None:
        """When to repeat a call that may be repeated, by the event loop's clock; None if no retry is left."""
        retry_after = error.retry_after if isinstance(error, StatusError) else None
        seconds = self.retry.wait(context.attempt, retry_after, self.uniform)
        if seconds is None:
            return None
        now = anyio.current_time()
        deadline = math.inf if context.deadline is None else context.deadline
        # The response is drained first, which may take longer than the backoff.
        if now + max(seconds, DRAIN_SECONDS) >= deadline or not self._is_paid(context):
            return None
        reason, attempt = type(error).__name__, context.attempt + 1
        fields: dict[str, Any] = {"attempt": attempt, "seconds": seconds, "reason": reason}
        log_event("retry", context, "%s; attempt %d follows in %.2f s", reason, attempt, seconds, **fields)
        return now + seconds
