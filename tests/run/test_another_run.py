"""Events of another run in the stream: they never end this run or become its result.

Rule: time is virtual, and each run has a trace id of its own.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Final

import pytest

from oxygent_client import Outcome, OxyRequest, RunHandle, SSEOxyGent, Timeouts, errors
from oxygent_client._core.ids import new_id
from oxygent_client.cluster import Cluster
from oxygent_client.testing import FakeTransport, Reply, answer, close, delta, message, progress
from tests.conftest import WIRE
from tests.support.plain import plain
from tests.support.virtual import anyio_backend as anyio_backend

URL: Final = "https://remote.test"
THEIRS: Final = "theirs"


def observation(category: Any, **more: Any) -> dict[str, Any]:
    """Return the observation message of a callee, as real servers send it."""
    content = {"node_id": "n", "caller": "user", "callee": "master", "output": "secret", **more}
    return {"type": "observation", "content": {**content, "caller_category": category, "callee_category": "agent"}}


FOREIGN: Final[dict[str, bytes]] = {
    "answer": message({"type": "answer", "content": "secret", "current_trace_id": THEIRS}),
    "answer, a number": message({"type": "answer", "content": "secret", "current_trace_id": 7}),
    "answer of another name": message({"type": "answer", "content": "secret", "current_trace_id": THEIRS}, event="x"),
    "root observation": message(observation("user", current_trace_id=THEIRS)),
    "root observation, beside its content": message({**observation("user"), "current_trace_id": THEIRS}),
    "close": message({"current_trace_id": THEIRS}, event="close"),
    "close, an answer": message({"type": "answer", "content": "s", "current_trace_id": THEIRS}, event="close"),
}
ITS_OWN: Final[dict[str, Any]] = {
    "no id": {"type": "answer", "content": "x"},
    "null": {"type": "answer", "content": "x", "current_trace_id": None},
    "empty": {"type": "answer", "content": "x", "current_trace_id": ""},
    "no id at all": {"type": "answer", "content": "x", "current_trace_id": {"a": [1]}},
    "a truth": {"type": "answer", "content": "x", "current_trace_id": True},
    "in the content of an answer": {"type": "answer", "content": {"current_trace_id": THEIRS}},
    "observation of a run within the run": observation("agent", current_trace_id=THEIRS),
    "observation without a category": observation(None, current_trace_id=THEIRS),
    "observation without an object": {"type": "observation", "content": "x", "current_trace_id": THEIRS},
    "tool call": {"type": "tool_call", "content": {"current_trace_id": THEIRS}, "current_trace_id": THEIRS},
    "another type": {"type": "memory", "content": {}, "current_trace_id": THEIRS},
    "no object": [THEIRS],
}
WAYS: Final = ("run", "detached", "cluster")


def at(way: str, *steps: Any) -> tuple[SSEOxyGent, FakeTransport]:
    """Return an agent whose remote sends these bytes for every run."""
    fake = FakeTransport({"/sse/chat": Reply(steps), "/async/trace": Reply(steps)})
    if way == "cluster":
        return SSEOxyGent(transport=Cluster([URL], transport=fake), timeouts=Timeouts(lookup=None)), fake
    return plain(server_url=URL, transport=fake), fake


def begun(agent: SSEOxyGent, way: str, trace_id: str, request: OxyRequest) -> Any:
    """Start the run, or attach to it."""
    if way != "detached":
        return agent.stream(request.clone_with(current_trace_id=trace_id))
    handle = RunHandle(server_url=URL, trace_id=trace_id, remote_trace_id=trace_id, node_id="n")
    return agent.attach(handle.to_token(), request=request)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FOREIGN)
async def test_the_end_of_another_run(name: str, way: str) -> None:
    """The end of another run raises a typed error with outcome STARTED; nothing of it or after it becomes a result."""
    agent, fake = at(way, progress("p"), FOREIGN[name], delta("more"), answer("more"), close())
    trace_id, request = new_id(), OxyRequest(arguments={"query": "hi"})
    run = begun(agent, way, trace_id, request)
    with pytest.raises(errors.MalformedResponseError, match="trace id") as caught:
        async with run:
            await run.final_response()
    assert caught.value.outcome is (Outcome.STARTED if way == "detached" else Outcome.UNKNOWN)
    assert caught.value.partial is not None
    assert [event.type for event in caught.value.partial.events] == ["progress"]
    assert caught.value.partial.answer is None
    assert run.text == ""
    assert fake.left == fake.requests
    with pytest.raises(errors.MalformedResponseError):
        _ = run.response
    if way != "detached":
        again = begun(agent, way, trace_id, request)
        with suppress(errors.MalformedResponseError):
            async with again:
                pass
        assert again.remote_trace_id != trace_id, "it did not close"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ITS_OWN)
async def test_events_that_name_no_other_run(name: str, way: str) -> None:
    """An event without a run's id, or from a call within this run, is handled as usual."""
    agent, _ = at(way, message(ITS_OWN[name]), answer("42"), close('{"current_trace_id": ' + "[" * 5000))
    async with begun(agent, way, new_id(), OxyRequest(arguments={"query": "hi"})) as run:
        assert (await run.final_response()).output == "42"
    assert len(run.partial.events) == 2


async def test_an_event_with_the_sent_trace_id() -> None:
    """An event with the trace id that was sent belongs to this run, even if the caller's id differs."""
    trace_id = new_id()

    class Echo(FakeTransport):
        """Answers with the trace id of the request."""

        def _reply(self, path: str) -> Reply:
            sent = self.payloads[-1]["current_trace_id"]
            said = {"type": "answer", "content": sent, "current_trace_id": sent}
            root = observation("user", current_trace_id=sent)
            return Reply([message(root), message(said), message({"current_trace_id": sent}, event="close")])

    agent = plain(server_url="https://echo.test", transport=Echo({}))
    async with agent.stream("hi", trace_id=trace_id):
        response = await agent.ask("hi", trace_id=trace_id)
    assert response.output == response.extra["remote_trace_id"] != trace_id


@pytest.mark.parametrize("name", FOREIGN)
async def test_events_not_handed_out(name: str) -> None:
    """A failed run keeps no events of another run, and that run's close event does not complete it."""

    async def fail(content: Any) -> None:
        raise RuntimeError

    agent, _ = at("run", b"".join((progress("p"), FOREIGN[name], answer("more"), close())))
    agent.event_handlers = {"progress": fail}
    with pytest.raises(errors.HandlerError) as caught:
        await agent.ask("hi")
    assert caught.value.outcome is Outcome.UNKNOWN
    assert caught.value.partial is not None
    assert [event.type for event in caught.value.partial.events] == ["progress"]


CAPTURED: Final = {
    path.name: (path.read_bytes(), ids[-1])
    for path in sorted(WIRE.glob("*.sse"))
    if (ids := re.findall(r'"type": "answer".*"current_trace_id": "(\w+)"', path.read_text("utf-8")))
}


@pytest.mark.parametrize("name", CAPTURED)
async def test_recordings_of_real_servers(name: str) -> None:
    """The recorded stream of a real server belongs to its run only."""
    stream, trace_id = CAPTURED[name]
    asked: dict[str, Any] = {"arguments": {"query": "hi"}}
    agent = plain(server_url=f"https://{new_id()}.test".lower(), transport=FakeTransport.script(stream))
    with suppress(errors.IncompleteStreamError):
        await agent.ask(OxyRequest(**asked, current_trace_id=trace_id))
    with pytest.raises(errors.MalformedResponseError):
        await agent.ask(OxyRequest(**asked, current_trace_id=new_id()))


def test_most_recordings_name_their_run() -> None:
    """In the recordings of all server versions, most answers carry the id of their run."""
    assert len(CAPTURED) > 20
    assert {name.partition("_")[0] for name in CAPTURED} == {"v1.0.8", "v1.0.13", "v1.1.3"}
