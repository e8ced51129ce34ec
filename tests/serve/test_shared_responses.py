"""Requests that are sent again: by AG-UI with the ids of a run, by OpenAI's API with a key. The agent runs once.

Rule: time is virtual; the remote is a toy in the same process, and so are the clients.
"""

from __future__ import annotations

import gc
import json
import weakref
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest

from oxygent_client import HTTPRequest, HTTPResponse, Outcome, Retry, SSEOxyGent
from oxygent_client.errors import ConnectError, HandlerError
from oxygent_client.serve import Exchange, PieceLog, Refused, Service, SharedResponses
from oxygent_client.serve.agui import AGUIAdapter
from oxygent_client.serve.openai import OpenAIAdapter
from oxygent_client.testing import ToyRemote
from oxygent_client.testing.script import Cut, Pause, Say, Script, Stream
from oxygent_client.transports.asgi import ASGITransport
from tests.support.asgi_client import Call
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

REMOTE: Final = "https://remote.test"
SCRIPTS: Final = {
    **ToyRemote().scripts,
    "slow": Script([Stream("Nara has deer", 1), Pause(10)], output="Nara has deer"),
    "cut": Script([Stream("Nara has", 1), Cut()]),
    "ask": Script([Say({"type": "feedback", "content": "May I?"}), Pause(1)], output="asked"),
}


def chat(query: str, *, is_streamed: bool = True) -> dict[str, Any]:
    """Return a request for a chat completion."""
    return {"model": "trip_planner", "stream": is_streamed, "messages": [{"role": "user", "content": query}]}


def agui(query: str, run: str = "r1", **members: Any) -> dict[str, Any]:
    """Return a run input."""
    messages = [{"id": "m", "role": "user", "content": query}]
    return {"threadId": "t", "runId": run, "protocolVersion": "1.0", "messages": messages, **members}


@attrs.define(eq=False)
class Site:
    """A service, and the toy that it serves."""

    service: Service
    toy: ToyRemote

    def call(self, way: str, query: str, **members: Any) -> Call:
        """Return a request by a protocol, always with the same id or key."""
        if way == "agui":
            body, path, headers = agui(query, **members), "/agui", dict[str, str]()
        else:
            path, headers = "/v1/chat/completions", {"idempotency-key": "k1"}
            body = chat(query, is_streamed=way == "stream", **members)
        return Call(self.service, "POST", path, json.dumps(body).encode(), headers)

    @property
    def states(self) -> list[str]:
        """The states of the toy's runs."""
        return [run.state for run in self.toy.runs]


@asynccontextmanager
async def site(**options: Any) -> AsyncGenerator[Site]:
    """Serve a toy by both protocols while the block lasts."""
    toy = ToyRemote(scripts=SCRIPTS)
    agent = SSEOxyGent(server_url=REMOTE, transport=ASGITransport(toy), **options)
    service = Service(agent, [AGUIAdapter(), OpenAIAdapter()])
    async with service.running():
        yield Site(service, toy)


WAYS: Final = ("agui", "stream", "whole")


@pytest.mark.parametrize("way", WAYS)
async def test_again_while_it_runs(way: str) -> None:
    """A request that is sent again gets the response of the first from its beginning, and the agent runs once."""
    async with site() as here, anyio.create_task_group() as group:
        first, second = here.call(way, "slow"), here.call(way, "slow")
        group.start_soon(first)
        await anyio.sleep(5)
        await second()
        assert (second.status, second.text) == (200, first.text)
        assert "deer" in second.text
        assert here.states == ["finished"]


@pytest.mark.parametrize("way", WAYS)
async def test_again_after_its_end(way: str) -> None:
    """A request that is sent again after the end gets the same response, with the same headers."""
    async with site() as here:
        first = await here.call(way, "slow")()
        await anyio.sleep(200)
        second = await here.call(way, "slow")()
        assert (second.status, second.headers, second.text) == (200, first.headers, first.text)
        assert len(here.toy.runs) == 1


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_comes_back(way: str) -> None:
    """A client that leaves and sends its request again in time gets the whole response of the same run."""
    async with site() as here, anyio.create_task_group() as group:
        first = here.call(way, "slow")
        group.start_soon(first)
        await anyio.sleep(3)
        first.left.set()
        await anyio.sleep(0.9)
        second = await here.call(way, "slow")()
        assert second.status == 200
        assert "deer" in second.text
        assert here.states == ["finished"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_comes_back_too_late(way: str) -> None:
    """A client that comes back after its run was stopped gets an error, and the agent does not run again."""
    async with site() as here, anyio.create_task_group() as group:
        first = here.call(way, "slow")
        group.start_soon(first)
        await anyio.sleep(3)
        first.left.set()
        await anyio.sleep(1.5)
        assert here.states == ["cancelled"]
        second = await here.call(way, "slow")()
        assert second.status == 424
        assert '"left"' in second.text
        assert len(here.toy.runs) == 1


@pytest.mark.parametrize("way", ["agui", "stream"])
async def test_a_run_that_was_cut(way: str) -> None:
    """A run that failed fails again in the same way, without another run."""
    async with site() as here:
        first = await here.call(way, "cut")()
        second = await here.call(way, "cut")()
        assert second.text == first.text
        assert '"cut"' in second.text
        assert len(here.toy.runs) == 1


@pytest.mark.parametrize("way", ["stream", "whole"])
async def test_another_request_with_the_same_key(way: str) -> None:
    """Another query with a key that was used is refused."""
    async with site() as here:
        await here.call(way, "echo one")()
        other = await here.call(way, "echo two")()
        assert other.status == 409
        assert "id_in_use" in other.text
        assert other.headers["x-should-retry"] == "false"
        assert len(here.toy.runs) == 1


def turns(*queries: str) -> dict[str, Any]:
    """Return the messages of a conversation."""
    return {"messages": [{"id": query, "role": "user", "content": query} for query in queries]}


async def test_another_query_with_the_ids_of_a_run() -> None:
    """Another query with the ids of a run that has ended is a run of its own, and either is repeated afterwards."""
    inputs = [turns("echo one"), turns("echo two"), turns("echo one", "echo one"), turns("echo one"), turns("echo two")]
    async with site() as here:
        replies = [await here.call("agui", "", **each)() for each in inputs]
    assert [run.query for run in here.toy.runs] == ["echo one", "echo two", "echo one"]
    assert replies[3].text == replies[0].text
    assert replies[4].text == replies[1].text


async def test_another_query_with_the_ids_of_an_active_run() -> None:
    """Another query with the ids of a run that has not ended is refused, and runs if it is sent again after that."""
    async with site() as here, anyio.create_task_group() as group:
        group.start_soon(here.call("agui", "slow"))
        await anyio.sleep(5)
        early = await here.call("agui", "echo two")()
        assert (early.status, early.document["code"]) == (409, "id_in_use")
        assert early.headers["x-should-retry"] == "true"
        await anyio.sleep(10)
        assert (await here.call("agui", "echo two")()).status == 200
        assert here.states == ["finished", "finished"]


async def test_an_answer_with_the_ids_of_its_question() -> None:
    """The answer to an interrupt may have the ids of the run that asks."""
    async with site() as here:
        first = await here.call("agui", "ask")()
        (interrupt,) = first.events[-1]["outcome"]["interrupts"]
        resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": "yes"}]
        answered = await here.call("agui", "ask", resume=resume)()
        assert answered.events[-1]["type"] == "RUN_FINISHED"
        assert here.toy.runs[0].feedback == ["yes", ""]


async def test_what_a_client_has_learnt() -> None:
    """State and history may have grown when a run input is sent again: ids and query count."""
    async with site() as here:
        first = await here.call("agui", "echo one")()
        second = await here.call("agui", "echo one", state={"oxygent": {"trace_id": "x"}})()
        assert second.text == first.text


async def test_headers_that_reach_the_agent() -> None:
    """A response is for the client only whose forwarded headers are the same."""
    async with site(forward_headers=["x-tenant"]) as here:
        await here.call("agui", "echo one")()
        other = here.call("agui", "echo one")
        other.given = {"x-tenant": "other"}
        assert (await other()).status == 409


async def test_attaching_only() -> None:
    """With a header, a request gets the response to an earlier one, or an error, and nothing runs."""
    async with site() as here:
        unknown = here.call("agui", "echo one")
        unknown.given = {"x-attach-only": "1"}
        await unknown()
        assert (unknown.status, unknown.document["code"]) == (404, "not_known")
        assert here.toy.runs == []
        first = await here.call("agui", "echo one")()
        second = here.call("agui", "echo one")
        second.given = {"x-attach-only": "1"}
        assert (await second()).text == first.text


async def test_an_answer_to_an_interrupt() -> None:
    """The request that answers an interrupt may be sent again, too: the agent gets one answer."""
    async with site() as here:
        first = await here.call("agui", "ask")()
        (interrupt,) = first.events[-1]["outcome"]["interrupts"]
        resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": "yes"}]
        answers = [await here.call("agui", "", run="r2", messages=[], resume=resume)() for _ in range(2)]
        assert answers[0].events[-1]["type"] == "RUN_FINISHED"
        assert answers[1].text == answers[0].text
        assert here.toy.runs[0].feedback == ["yes", ""]


@attrs.define
class _RefusedOnce:
    """A transport whose first run is refused."""

    transport: ASGITransport
    refused: int = 0

    def exchange(self, request: HTTPRequest, /) -> AbstractAsyncContextManager[HTTPResponse]:
        """Refuse the first run."""
        if request.context.purpose == "run" and not self.refused:
            self.refused += 1
            raise ConnectError("refused")
        return self.transport.exchange(request)

    async def aclose(self) -> None:
        """Close the transport."""
        await self.transport.aclose()


@pytest.mark.parametrize("way", WAYS)
async def test_what_surely_did_not_run(way: str) -> None:
    """A request whose agent did not run is forgotten: sent again, it runs."""
    toy = ToyRemote(scripts=SCRIPTS)
    agent = SSEOxyGent(server_url=REMOTE, transport=_RefusedOnce(ASGITransport(toy)), retry=Retry(attempts=1))
    service = Service(agent, [AGUIAdapter(), OpenAIAdapter()])
    async with service.running():
        here = Site(service, toy)
        first, second = [await here.call(way, "echo ok")() for _ in range(2)]
    assert first.status == 503
    assert second.status == 200
    assert "ok" in second.text


async def test_a_service_that_ends() -> None:
    """A response that is not complete when the service ends is an error of its own."""
    calls: list[Call] = []
    async with anyio.create_task_group() as group, site() as here:
        calls.extend(here.call("whole", "slow") for _ in range(2))
        for each in calls:
            group.start_soon(each)
        await anyio.sleep(2)
    assert [each.status for each in calls] == [424, 424]
    assert '"stopping"' in calls[0].text


async def test_without_a_key_or_a_running_service() -> None:
    """Without a key, or where the lifespan of the service is not run, each request is a run."""
    async with site() as here:
        for _ in range(2):
            call = here.call("whole", "echo x")
            call.given = {}
            assert (await call()).status == 200
        assert len(here.toy.runs) == 2
    for _ in range(2):
        assert (await here.call("whole", "echo x")()).status == 200
    assert len(here.toy.runs) == 4


async def test_a_long_key() -> None:
    """A key has a bounded length."""
    async with site() as here:
        call = here.call("whole", "echo x")
        call.given = {"idempotency-key": "k" * 256}
        assert (await call()).document["error"]["param"] == "idempotency-key"


# ------------------------------------------------------------------------------------------------- Bounds, by a handler


class _Reader(Exchange):
    """A request, and the bytes of its response."""

    def __init__(self) -> None:
        super().__init__({"method": "POST", "path": "/", "headers": []}, self._take)
        self.received = b""
        self.reads = anyio.Event()
        self.reads.set()

    async def _take(self, message: Any) -> None:
        await self.reads.wait()
        self.received += message.get("body", b"")


def pieces(number: int, done: list[int]) -> Any:
    """Return a handler that streams so many pieces of 100 KiB."""

    async def handler(exchange: Exchange) -> None:
        await exchange.start_stream()
        for each in range(number):
            await exchange.send_piece(bytes([65 + each]) * 100 * 1024)
            done.append(each)
            await anyio.sleep(0.01)
        await exchange.end_stream()

    return handler


async def test_a_slow_reader_slows_the_run() -> None:
    """A response waits for its quickest reader: no more than twice the kept bytes are made before they are read."""
    shared, reader, done = SharedResponses(1.0), _Reader(), list[int]()
    async with shared.running(), anyio.create_task_group() as group:
        reader.reads = anyio.Event()
        group.start_soon(shared.respond, reader, "k", "", pieces(40, done))
        await anyio.sleep(50)
        assert 5 < len(done) < 25
        reader.reads.set()
    assert len(reader.received) == 40 * 100 * 1024


async def test_a_first_piece_that_is_larger_than_what_is_kept() -> None:
    """A response whose first piece alone is larger than all that is kept is sent, also when it is asked for again."""

    async def large(exchange: Exchange) -> None:
        await exchange.respond(200, "x" * 2 * 1024 * 1024)

    shared, readers = SharedResponses(1.0), [_Reader(), _Reader()]
    async with shared.running():
        for reader in readers:
            with anyio.fail_after(10):
                await shared.respond(reader, "k", "", large)
    assert [len(reader.received) for reader in readers] == [2 * 1024 * 1024 + 2] * 2


async def test_a_slower_reader_is_cut_off() -> None:
    """A reader that is slower than another by more than the kept bytes is cut off; the other gets all."""
    shared, slow, quick = SharedResponses(1.0), _Reader(), _Reader()
    errors = list[BaseException]()

    async def read_slowly() -> None:
        try:
            await shared.respond(slow, "k", "", pieces(40, []))
        except OSError as error:
            errors.append(error)

    async with shared.running(), anyio.create_task_group() as group:
        group.start_soon(read_slowly)
        await anyio.sleep(0.05)
        slow.reads = anyio.Event()
        await shared.respond(quick, "k", "", pieces(0, []))
        slow.reads.set()
    assert len(quick.received) == 40 * 100 * 1024
    assert len(errors) == 1
    assert not slow.is_finished


def test_a_reader_whose_beginning_is_gone() -> None:
    """A reader that has taken nothing when the first pieces are dropped is cut off."""
    log = PieceLog(1, 100)
    viewer = log.join()
    log.append(b"a")
    log.append(b"b")
    assert viewer.take() == b""
    assert viewer.is_dropped
    assert viewer.is_over


async def test_a_response_that_is_too_long_to_be_repeated() -> None:
    """A response whose beginning is no longer kept is an error for whoever asks for it again."""
    shared, reader = SharedResponses(1.0), _Reader()
    async with shared.running():
        await shared.respond(reader, "k", "", pieces(40, []))
        with pytest.raises(Refused) as refused:
            await shared.respond(_Reader(), "k", "", pieces(40, []))
    assert refused.value.failure.code == "not_kept"
    assert refused.value.failure.outcome is Outcome.UNKNOWN


async def test_an_unexpected_error() -> None:
    """An error of a handler is that of its request alone, also when it is sent again; other requests are answered."""

    async def broken(exchange: Exchange) -> None:
        await exchange.start_stream()
        await anyio.sleep(1)
        raise ValueError("a fault")

    shared, after = SharedResponses(1.0), _Reader()
    async with shared.running():
        for _ in range(2):
            with pytest.raises(ValueError, match="a fault"):
                await shared.respond(_Reader(), "k", "", broken)
        await shared.respond(after, "other", "", pieces(1, []))
    assert after.is_finished


async def test_a_hook_that_fails_is_logged_by_the_service_alone(caplog: pytest.LogCaptureFixture) -> None:
    """An error that reaches the service, which logs it, is not logged before."""

    async def broken(exchange: Exchange) -> None:
        raise HandlerError("a hook raised ValueError")

    shared = SharedResponses(1.0)
    async with shared.running():
        with pytest.raises(HandlerError):
            await shared.respond(_Reader(), "k", "", broken)
    assert caplog.records == []


async def test_a_kept_error_holds_no_request() -> None:
    """An error that is kept for requests that are sent again does not keep those that have got it."""

    async def broken(exchange: Exchange) -> None:
        await exchange.start_stream()
        raise OSError(5, "a fault")

    shared, gone = SharedResponses(1.0), list[weakref.ref[_Reader]]()
    async with shared.running():
        for _ in range(2):
            readers = [_Reader()]
            gone.append(weakref.ref(readers[0]))
            with suppress(OSError):
                await shared.respond(readers.pop(), "k", "", broken)
        gc.collect()
        assert [each() for each in gone] == [None, None]
        with pytest.raises(OSError, match="a fault"):
            await shared.respond(_Reader(), "k", "", broken)


async def test_old_responses_are_forgotten() -> None:
    """The last finished responses are kept, for a time."""
    shared, done = SharedResponses(1.0, responses=1, seconds=60), list[int]()
    async with shared.running():
        for key in ("a", "b", "b", "a"):
            await shared.respond(_Reader(), key, "", pieces(1, done))
        assert len(done) == 3
        await anyio.sleep(61)
        await shared.respond(_Reader(), "a", "", pieces(1, done))
    assert len(done) == 4
