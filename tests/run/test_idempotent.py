"""Retries of idempotent runs: a run that may have started is sent again as a new run, if it is idempotent."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final

import anyio
import pytest

from oxygent_client import Outcome, OxyRequest, Retry, SSEOxyGent, Timeouts, errors
from oxygent_client._core.ids import new_id
from oxygent_client.policies import ConcurrencyLimit, PolicyKind, Redirect, Wrapper
from oxygent_client.testing import FakeTransport, Pause, Reply, answer, close, message, progress
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from oxygent_client import HTTPRequest, HTTPResponse

URL: Final = "https://remote.test"
FINE: Final = Reply([answer(42), close()])
LOST: Final = Reply(before=errors.ConnectionLostError("reset"))
REFUSED: Final = Reply(before=errors.ConnectError("refused"))
BUSY: Final = Reply(status=429)
BAD: Final = Reply(status=502)
CUT: Final = Reply([progress(1)])

CASES: Final[dict[str, tuple[Any, Outcome, int, bool, list[Reply]]]] = {
    # name: (the result, the outcome, the number of requests, whether it is idempotent, the replies)
    "lost": (42, Outcome.COMPLETED, 2, True, [LOST, FINE]),
    "lost twice": (42, Outcome.COMPLETED, 3, True, [LOST, BAD, FINE]),
    "lost for good": (errors.ConnectionLostError, Outcome.UNKNOWN, 3, True, [LOST] * 5),
    "lost, then refused": (errors.ConnectError, Outcome.UNKNOWN, 3, True, [LOST, *[REFUSED] * 9]),
    "lost, then busy": (errors.RateLimitedError, Outcome.UNKNOWN, 3, True, [LOST, *[BUSY] * 9]),
    "refused, then lost for good": (errors.ConnectionLostError, Outcome.UNKNOWN, 3, True, [REFUSED, *[LOST] * 9]),
    "refused, then lost": (42, Outcome.COMPLETED, 3, True, [REFUSED, LOST, FINE]),
    "cut": (errors.IncompleteStreamError, Outcome.STARTED, 1, True, [CUT, FINE]),
    "a page": (errors.NotAnEventStreamError, Outcome.UNKNOWN, 1, True, [Reply([b"<html>"], headers={}), FINE]),
    "not idempotent": (errors.ConnectionLostError, Outcome.UNKNOWN, 1, False, [LOST, FINE]),
    "not idempotent, refused": (42, Outcome.COMPLETED, 2, False, [REFUSED, FINE]),
}


@pytest.mark.parametrize("name", CASES)
async def test_retries_of_runs(name: str) -> None:
    """Each attempt has its own trace id; after an attempt that may have run, the outcome is never NOT_SENT."""
    expected, outcome, times, idempotent, replies = CASES[name]
    transport = FakeTransport({"/sse/chat": replies})
    agent = SSEOxyGent(server_url=URL, transport=transport)
    run = agent.stream("hi", trace_id=new_id(), idempotent=idempotent)
    got: Any
    attempts = times
    try:
        async with run:
            got = (await run.final_response()).output
    except errors.OxyError as error:
        got, attempts = type(error), error.attempts
    assert got == expected
    assert run.outcome == outcome
    assert attempts == times
    assert len(transport.payloads) == times
    assert len(transport.left) == len(transport.requests)
    ids = [payload["current_trace_id"] for payload in transport.payloads]
    lost = sum(reply in (LOST, BAD) for reply in replies[: times - 1])
    assert len(set(ids)) == lost + 1
    assert run.trace_id == ids[0]


@pytest.mark.parametrize(("seconds", "retry"), [(0.0, Retry(attempts=1)), (0.2, Retry(base=50, cap=50))])
async def test_attempts_and_delays(seconds: float, retry: Retry) -> None:
    """`Retry` sets attempts and delays; no delay goes past the deadline."""
    transport = FakeTransport({"/sse/chat": [LOST, FINE]})
    agent = SSEOxyGent(server_url=URL, transport=transport, retry=retry, timeouts=Timeouts(total=0.2))
    began = anyio.current_time()
    with pytest.raises(errors.ConnectionLostError):
        await agent.ask("hi", idempotent=True)
    assert len(transport.payloads) == 1
    assert seconds >= anyio.current_time() - began


async def test_retry_budget() -> None:
    """Retries of runs take from the same retry budget as retries of refused requests."""
    transport = FakeTransport({"/sse/chat": [LOST] * 9})
    retry, limit = Retry(attempts=3, budget=3), ConcurrencyLimit(1)
    agent = SSEOxyGent(server_url=URL, transport=transport, retry=retry, policies=(limit,))
    for expected in (3, 5, 6):
        with pytest.raises(errors.ConnectionLostError):
            await agent.ask("hi", idempotent=True)
        assert len(transport.payloads) == expected


class GivesUp(Wrapper):
    """A policy of the user's that gives up on a run that the server has started."""

    kind: ClassVar[PolicyKind] = "rate"

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        async with self.inner.exchange(request) as response:
            if request.context.purpose == "run":
                raise errors.ConnectionLostError("enough")
            yield response


async def test_a_refused_retry_after_a_record() -> None:
    """A run that its record shows as started stays STARTED, even if its retry was refused."""
    transport = FakeTransport({"/sse/chat": [FINE, *[REFUSED] * 9], "/view": view("n", None, state=2)})
    request = OxyRequest(arguments={"query": "a"}, node_id="n", current_trace_id=new_id(), idempotent=True)
    agent = SSEOxyGent(server_url=URL, transport=GivesUp(transport))
    with pytest.raises(errors.ConnectError) as caught:
        await agent.ask(request)
    assert caught.value.outcome is Outcome.STARTED
    assert caught.value.retryable is False
    assert caught.value.attempts == 3


async def test_a_deadline_while_a_retry_is_prepared() -> None:
    """If the deadline passes while a retry is prepared, the error is DeadlineExceededError."""
    refused = Reply(status=403)  # a failure is not cached: the next attempt calls the provider again
    late = Reply(before=Pause(float("inf")))
    transport = FakeTransport({"/sse/chat": [BAD, FINE], "/get_organization": [refused, late]})
    agent = SSEOxyGent(
        server_url=URL,
        transport=transport,
        callee="somebody",
        retry=Retry(base=0.01),
        timeouts=Timeouts(total=5),
    )
    with pytest.raises(errors.DeadlineExceededError) as caught:
        await agent.ask("hi", idempotent=True)
    assert caught.value.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(("expected", "first"), [(1, REFUSED), (1, BUSY), (2, CUT)])
async def test_executing_a_request_again(expected: int, first: Reply) -> None:
    """A request that is executed again keeps its trace id at the remote, unless it may have run."""
    request = OxyRequest(arguments={"query": "a"}, node_id="n", current_trace_id=new_id(), idempotent=True)
    transport = FakeTransport({"/sse/chat": [first, FINE]})
    agent = SSEOxyGent(server_url=URL, transport=transport, retry=Retry(attempts=1), timeouts=Timeouts(lookup=None))
    with pytest.raises(errors.OxyError):
        await agent._execute(request)
    assert (await agent._execute(request)).output == 42
    assert len({payload["current_trace_id"] for payload in transport.payloads}) == expected


def view(node_id: str, output: str | None, *, state: int = 3) -> Reply:
    """Return the record of a finished run (3), or of one at work (2)."""
    node = {"node_id": node_id, "father_node_id": "", "call_stack": ["user"], "state": state, "output": output}
    return Reply.json({"code": 200, "message": "SUCCESS", "data": {"nodes": [node], "trace_id": "t"}})


async def test_the_record_of_another_execution() -> None:
    """The record of the first execution of a request is not the answer of the second."""
    request = OxyRequest(arguments={"query": "a"}, node_id="n", current_trace_id=new_id())
    transport = FakeTransport({"/sse/chat": [FINE, CUT], "/view": view("n", "old")})
    agent = SSEOxyGent(server_url=URL, transport=transport)
    assert (await agent.execute(request)).output == 42
    again = await agent.execute(request)
    first, second = (payload["current_trace_id"] for payload in transport.payloads)
    assert first != second
    (asked,) = [each.path for each in transport.requests if each.method == "GET"]
    assert second in asked
    assert again.extra.get("recovered")  # for any id; a real one has only the new run under the new id


async def test_a_read_that_idle_interrupts() -> None:
    """If `idle` interrupts a read and the connection is lost, the error is IdleTimeoutError."""
    running = Reply.json(
        {"code": 200, "data": {"nodes": [{"node_id": "n", "father_node_id": "", "call_stack": [], "state": None}]}}
    )
    transport = FakeTransport({"/sse/chat": Reply([progress(1), Pause(900)]), "/view": running})
    request = OxyRequest(arguments={"query": "a"}, node_id="n", current_trace_id=new_id())
    with pytest.raises(errors.IdleTimeoutError, match="at work"):
        await SSEOxyGent(server_url=URL, transport=transport).ask(request)


async def test_total_while_events_wait() -> None:
    """`total` goes on while the program holds events that came in one chunk."""

    async def slow(content: object) -> None:
        await anyio.sleep(1)

    steps: Sequence[bytes] = [b"".join(message({"type": "progress", "content": number}) for number in range(60))]
    agent = SSEOxyGent(
        server_url=URL,
        transport=FakeTransport({"/sse/chat": Reply([*steps, close()])}),
        event_handlers={"progress": slow},
        timeouts=Timeouts(total=5.5),
    )
    began = anyio.current_time()
    with pytest.raises(errors.DeadlineExceededError) as caught:
        await agent.ask("hi")
    assert round(anyio.current_time() - began) == 6
    assert caught.value.partial is not None
    assert len(caught.value.partial.events) == 60


@pytest.mark.parametrize("hook", ["prepare_payload", "prepare_headers"])
async def test_a_failing_hook(hook: str) -> None:
    """An exception in a user's hook before anything is sent is a HandlerError with that cause."""

    def broken(self: object, oxy_request: OxyRequest) -> dict[str, Any]:
        raise KeyError("session")

    agent = type("Broken", (SSEOxyGent,), {hook: broken})(server_url=URL, transport=FakeTransport({}))
    with pytest.raises(errors.HandlerError, match=hook) as caught:
        await agent.ask("hi")
    assert caught.value.outcome is Outcome.NOT_SENT
    assert type(caught.value.__cause__) is KeyError


async def test_an_answer_keeps_its_type() -> None:
    """Records hold texts; if the wire brought the same answer, its type is kept."""
    price = {"price": 42}
    transport = FakeTransport({"/sse/chat": Reply([answer(price)]), "/view": view("n", '{"price": 42}')})
    request = OxyRequest(arguments={"query": "a"}, node_id="n", current_trace_id=new_id())
    response = await SSEOxyGent(server_url=URL, transport=transport).ask(request)
    assert response.output == price
    assert response.extra["recovered"] is True


async def test_another_answer_in_the_record() -> None:
    """If the record has another answer than the stream, the record's is used."""
    transport = FakeTransport({"/sse/chat": Reply([answer("on the way")]), "/view": view("n", "at the end")})
    request = OxyRequest(arguments={"query": "a"}, node_id="n", current_trace_id=new_id())
    response = await SSEOxyGent(server_url=URL, transport=transport).ask(request)
    assert response.output == "at the end"
    assert response.extra["recovered"] is True


async def test_a_redirect_policy() -> None:
    """A `Redirect` among the policies replaces the default one."""
    away = Reply(status=307, headers={"location": "/elsewhere"})
    replies = {"/sse/chat": away, "/elsewhere": FINE}
    assert (await SSEOxyGent(server_url=URL, transport=FakeTransport(replies)).ask("hi")).output == 42
    agent = SSEOxyGent(server_url=URL, transport=FakeTransport(replies), policies=(Redirect(hops=0),))
    with pytest.raises(errors.RedirectError):
        await agent.ask("hi")
