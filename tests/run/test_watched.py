"""The outcome of a run that was cancelled or failed before its response: whether its request was sent."""

from __future__ import annotations

from contextlib import AsyncExitStack, nullcontext
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from oxygent_client import Outcome, SSEOxyGent, Timeouts, errors
from oxygent_client._run.watched_transport import OutcomeTransport
from oxygent_client.policies import BearerAuth, ConcurrencyLimit, RateLimit, Retry
from oxygent_client.testing import FakeTransport, Pause, Reply, answer, close
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Callable

URL: Final = "https://remote.test"
FOREVER: Final = Pause(float("inf"))
BUSY: Final = Reply(status=429)
DOWN: Final = Reply(before=errors.ConnectError("refused"))
GOOD: Final = Reply((answer("42"), close()))
PATIENT: Final = Retry(attempts=2, base=1e9, cap=1e9)
"""Its delay is random, and so long that the run is cancelled in it or, where its end is known, before it."""
NOT_SENT, REJECTED, UNKNOWN = Outcome.NOT_SENT, Outcome.REJECTED, Outcome.UNKNOWN


async def endless() -> str:
    """A token provider that never returns."""
    await anyio.sleep_forever()
    return ""


def second() -> BearerAuth:
    """A token provider that returns one token only."""
    given: list[str] = []

    async def provider() -> str:
        if given:
            await anyio.sleep_forever()
        given.append("token")
        return "token"

    return BearerAuth(provider=provider)


CALLED_OFF: Final[dict[str, tuple[Outcome, int, Any, Callable[[], dict[str, Any]]]]] = {
    # name: (the outcome, the number of requests, the replies, the agent's options)
    "waiting for a token": (NOT_SENT, 0, GOOD, lambda: {"auth": BearerAuth(provider=endless)}),
    "waiting for another token": (REJECTED, 1, Reply(status=401), lambda: {"auth": second()}),
    "waiting for a slot": (NOT_SENT, 0, Reply((FOREVER,)), lambda: {"policies": (ConcurrencyLimit(1),)}),
    "waiting for its turn": (NOT_SENT, 0, Reply((FOREVER,)), lambda: {"policies": (RateLimit(0.01),)}),
    "waiting for another attempt, after 429": (REJECTED, 1, BUSY, lambda: {"retry": PATIENT}),
    "waiting for another attempt, without a connection": (NOT_SENT, 1, DOWN, lambda: {"retry": PATIENT}),
    "waiting for headers": (UNKNOWN, 1, Reply(before=FOREVER), dict),
    "waiting for headers, after 429": (
        UNKNOWN,
        2,
        [BUSY, Reply(before=FOREVER)],
        lambda: {"retry": Retry(base=0)},
    ),
    "waiting for the first byte": (UNKNOWN, 1, Reply((FOREVER,)), dict),
}


@pytest.mark.parametrize("how", ["total", "cancelled"])
@pytest.mark.parametrize("name", CALLED_OFF)
async def test_cancelled(name: str, how: str) -> None:
    """A run that timed out or was cancelled knows whether a request was sent, and how the last one ended."""
    expected, requests, replies, options = CALLED_OFF[name]
    timeouts = Timeouts(total=30 if how == "total" else None, lookup=None)
    transport = FakeTransport({"/sse/chat": replies})
    agent = SSEOxyGent(server_url=URL, transport=transport, timeouts=timeouts, **options())
    async with AsyncExitStack() as stack:
        if "policies" in options():
            await stack.enter_async_context(agent.stream("another run, which takes what there is"))
        before = len(transport.requests)
        run = agent.stream("hi")
        error: errors.OxyError | None = None
        with anyio.move_on_after(10) if how == "cancelled" else nullcontext() as scope:
            try:
                async with run:
                    await run.final_response()
            except errors.OxyError as caught:
                error = caught
    assert run.outcome == expected
    assert len(transport.requests) - before == requests
    if scope is not None:
        assert scope.cancelled_caught
    else:
        assert error is not None
        assert error.outcome is expected


FAILED: Final[dict[str, tuple[type[errors.OxyError], Outcome, Any]]] = {
    "no connection": (errors.ConnectError, NOT_SENT, DOWN),
    "lost": (errors.ConnectionLostError, UNKNOWN, Reply(before=errors.ConnectionLostError("reset"))),
    "refused": (errors.RateLimitedError, REJECTED, BUSY),
    "a bad gateway": (errors.ServerError, UNKNOWN, Reply(status=502)),
    "busy, and says for how long": (
        errors.ServerError,
        REJECTED,
        Reply(status=503, headers={"retry-after": "1000"}),
    ),
    "no stream": (errors.NotAnEventStreamError, UNKNOWN, Reply((b"<html>",), headers={})),
    "broken at once": (errors.IncompleteStreamError, UNKNOWN, Reply((errors.ConnectionLostError("reset"),))),
}


@pytest.mark.parametrize("name", FAILED)
async def test_failed(name: str) -> None:
    """A run that failed before an event has exactly the outcome of its error."""
    expected, outcome, reply = FAILED[name]
    agent = SSEOxyGent(
        server_url=URL,
        transport=FakeTransport({"/sse/chat": reply}),
        retry=Retry(attempts=1),
        timeouts=Timeouts(lookup=None),
    )
    run = agent.stream("hi")
    with pytest.raises(expected) as caught:
        async with run:
            await run.final_response()
    assert caught.value.outcome == outcome
    assert run.outcome == outcome


async def test_closing() -> None:
    """Closing the run closes the connection it holds."""
    inner = FakeTransport({})
    await OutcomeTransport(inner).aclose()
    assert inner.closed
