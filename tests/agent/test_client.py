"""Calls beside runs (lookup, feedback, upload, ...): the agent's policies, typed errors, 30 s at most."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from oxygent_client import Outcome, SSEOxyGent, Timeouts, errors
from oxygent_client.policies import BearerAuth, ConcurrencyLimit, Retry
from oxygent_client.testing import FakeTransport, Pause, Reply, ToyRemote
from oxygent_client.testing.script import Pause as Work
from oxygent_client.testing.script import Script
from oxygent_client.transports.asgi import ASGITransport
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

URL: Final = "https://remote.test"
OK: Final = Reply.json(
    {"code": 200, "message": "SUCCESS", "data": {"file_name": "stored", "nodes": [{"node_id": "n", "state": 3}]}}
)
ALIVE: Final = Reply.json({"alive": 1})

CALLS: Final[dict[str, tuple[str, Reply, Callable[[SSEOxyGent], Awaitable[Any]]]]] = {
    # name: (its path, a good answer, the call)
    "feedback": ("/feedback", OK, lambda agent: agent.feedback("channel", "yes")),
    "upload": ("/upload", OK, lambda agent: agent.upload("a.txt", b"text")),
    "check_alive": ("/check_alive", ALIVE, lambda agent: agent.check_alive()),
    "lookup": ("/view", OK, lambda agent: agent.lookup("t")),
    "start": ("/async/chat", OK, lambda agent: agent.start("hi")),
}
EACH: Final = pytest.mark.parametrize("name", CALLS)
RAISING: Final = pytest.mark.parametrize("name", [name for name in CALLS if name != "lookup"])
"""`lookup` does not raise: a run whose record cannot be read has none."""


def rotating() -> BearerAuth:
    """Return a token that the server rejects, then a good one."""
    tokens = iter(["old", "new"])

    async def provider() -> str:
        return next(tokens)

    return BearerAuth(provider=provider)


@EACH
async def test_policies_are_in_force(name: str) -> None:
    """A call carries the agent's headers and token; a 401 refreshes the token and the call is sent again."""
    path, good, call = CALLS[name]
    transport = FakeTransport({path: [Reply(status=401), good]})
    agent = SSEOxyGent(server_url=URL, transport=transport, auth=rotating(), headers={"x-tenant": "ours"})
    await call(agent)
    assert [(sent.headers["authorization"], sent.headers["x-tenant"]) for sent in transport.requests] == [
        ("Bearer old", "ours"),
        ("Bearer new", "ours"),
    ]
    assert len(transport.left) == 2


@RAISING
async def test_plain_http(name: str) -> None:
    """A credential is not sent to another machine over plain http, by any call."""
    transport = FakeTransport({CALLS[name][0]: CALLS[name][1]})
    agent = SSEOxyGent(server_url="http://remote.test", transport=transport, auth=BearerAuth("token"))
    with pytest.raises(errors.InsecureTransportError):
        await CALLS[name][2](agent)
    assert transport.requests == []


async def test_lookup_over_plain_http() -> None:
    """A credential is not sent to another machine over plain http; the lookup returns None."""
    transport = FakeTransport({"/view": OK})
    agent = SSEOxyGent(server_url="http://remote.test", transport=transport, auth=BearerAuth("token"))
    assert await agent.lookup("t") is None
    assert transport.requests == []


@EACH
async def test_refused_connections(name: str) -> None:
    """A request that was not sent is retried, feedback and uploads too."""
    path, good, call = CALLS[name]
    transport = FakeTransport({path: [Reply(before=errors.ConnectError("refused")), good]})
    await call(SSEOxyGent(server_url=URL, transport=transport, retry=Retry(base=0)))
    assert len(transport.requests) == 2


ERRORS: Final[dict[str, tuple[type[errors.OxyError], Outcome, Reply]]] = {
    "403": (errors.PermissionDeniedError, Outcome.REJECTED, Reply(status=403)),
    "404": (errors.NotFoundError, Outcome.REJECTED, Reply(status=404)),
    "500": (errors.ServerError, Outcome.UNKNOWN, Reply(status=500)),
    "a page": (errors.MalformedResponseError, Outcome.UNKNOWN, Reply((b"<html>",))),
    "lost": (errors.ConnectionLostError, Outcome.UNKNOWN, Reply(before=errors.ConnectionLostError("reset"))),
    "no end": (errors.DeadlineExceededError, Outcome.UNKNOWN, Reply(before=Pause(float("inf")))),
}


def failing(path: str, reply: Reply) -> SSEOxyGent:
    """Return an agent without retries whose remote gives this reply."""
    transport = FakeTransport({path: reply})
    return SSEOxyGent(server_url=URL, transport=transport, retry=Retry(attempts=1), timeouts=Timeouts(total=90))


@pytest.mark.parametrize("error", ERRORS)
@RAISING
async def test_errors(name: str, error: str) -> None:
    """Each error is typed and raised within 30 s, for an upload within `total`."""
    path, _, call = CALLS[name]
    expected, outcome, reply = ERRORS[error]
    began = anyio.current_time()
    with pytest.raises(expected) as caught:
        await call(failing(path, reply))
    assert caught.value.outcome is outcome
    assert anyio.current_time() - began <= (90 if name == "upload" else 30)


@pytest.mark.parametrize("error", ERRORS)
async def test_errors_of_lookup(error: str) -> None:
    """A lookup that fails returns None within 30 s."""
    began = anyio.current_time()
    assert await failing("/view", ERRORS[error][2]).lookup("t") is None
    assert anyio.current_time() - began <= 30


async def test_calls_are_not_queued_behind_runs() -> None:
    """A concurrency limit counts runs only: calls that help a run are not queued behind it."""
    toy = ToyRemote(default=Script([Work(10)], output="42"))
    agent = SSEOxyGent(server_url=URL, transport=ASGITransport(toy), policies=(ConcurrencyLimit(1),))
    async with agent.stream("?") as run:
        await anext(run)
        began = anyio.current_time()
        await agent.feedback(run.trace_id, "go on")
        assert await agent.check_alive()
        record = await agent.lookup(run.trace_id)
        stored = await agent.upload("a b.txt", b"text")
        assert anyio.current_time() - began < 0.75  # `lookup` polls: a record may lag
    assert (record and (record.state, len(record.nodes))) == (None, 1)
    assert toy.runs[0].feedback == ["go on"]
    assert toy.files == {stored: b"text"}


async def test_lookup_by_trace_id() -> None:
    """`lookup` finds the last run of a trace id, and no record for an unknown one."""
    toy = ToyRemote(pace=0)
    agent = SSEOxyGent(server_url=URL, transport=ASGITransport(toy))
    for query in ("echo one", "echo two"):
        await agent.start(query, trace_id="looked-up")
        await anyio.sleep(1)
    found = await agent.lookup("looked-up")
    assert found is not None
    assert found.output == "two"
    assert await agent.lookup("nothing") is None


async def test_feedback_to_a_closed_channel() -> None:
    """Feedback to a channel that is not open raises EnvelopeError; data that is not JSON is not sent."""
    transport = ASGITransport(ToyRemote())
    agent = SSEOxyGent(server_url=URL, transport=transport)
    with pytest.raises(errors.EnvelopeError) as caught:
        await agent.feedback("nobody", "yes")
    assert caught.value.code == 400
    assert caught.value.outcome is Outcome.REJECTED
    with pytest.raises(errors.PayloadError):
        await agent.feedback("nobody", {1, 2})
    with pytest.raises(errors.StatusError):
        await agent.upload("a.exe", b"")
    with pytest.raises(errors.PayloadError):
        await agent.upload("../a.txt", b"")


async def test_a_long_upload() -> None:
    """An upload may take as long as `total`, or forever without it."""
    late = Reply([b'{"code": 200, "data": {', Pause(7200), b'"file_name": "f"}}'], headers={})
    agent = SSEOxyGent(server_url=URL, transport=FakeTransport({"/upload": late}), timeouts=Timeouts(total=None))
    assert await agent.upload("a.txt", b"") == "f"


async def test_the_body_of_feedback() -> None:
    """Feedback is JSON with the remote's own id of the channel."""
    transport = FakeTransport({"/feedback": OK})
    await SSEOxyGent(server_url=URL, transport=transport).feedback("channel", {"a": None})
    (sent,) = transport.requests
    assert json.loads(sent.body) == {"channel_id": "channel", "data": {"a": None}}
