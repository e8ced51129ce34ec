"""Detached runs: start, attach by a token, reconnect, recovery by the record, and leftovers.

Rule 1: time is virtual. The backoff before a reconnect has jitter, so a test checks its range.
Rule 2: servers are scripted, or the toy remote, whose queue loses events as real servers do.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from contextlib import aclosing, asynccontextmanager, nullcontext, suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import (
    EventRouter,
    HTTPResponse,
    Limits,
    Outcome,
    OxyRequest,
    RunHandle,
    SSEOxyGent,
    Timeouts,
    errors,
)
from oxygent_client._core.ids import new_id
from oxygent_client._protocol.router import Forward
from oxygent_client.policies import BearerAuth, ConcurrencyLimit, Retry
from oxygent_client.testing import (
    FakeTransport,
    Pause,
    Reply,
    ToyRemote,
    answer,
    close,
    heartbeat,
    message,
    pause,
    progress,
)
from oxygent_client.testing.script import Call, Fail, Hang, Say, Script
from oxygent_client.testing.script import Pause as Work
from oxygent_client.transports.asgi import ASGITransport
from tests.run.test_recovery import CANCELLED, DONE, FAILED, NO_RECORDS, NOTHING, RUNNING, record
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from oxygent_client import Event, HTTPRequest, Run, Transport

URL: Final = "https://remote.test"
HANDLE: Final = RunHandle(server_url=URL, trace_id="t", remote_trace_id="t", node_id="n", call_stack=("user", "remote"))
TOKEN: Final = HANDLE.to_token()
FOREVER: Final = Pause(float("inf"))
PINGS: Final = (heartbeat(), pause(15)) * 300
SECRET: Final = "hunter2"

# ------------------------------------------------------------------------------------------------------------- Tokens

TEXTS: Final = st.text(max_size=8)
HANDLES: Final = st.builds(
    RunHandle,
    server_url=st.sampled_from(
        [URL, "http://127.0.0.1:8082/", "https://user:pw@h:8/base/path/?key=1", "http://bücher"]
    ),
    trace_id=TEXTS,
    remote_trace_id=TEXTS,
    node_id=TEXTS,
    group_id=TEXTS,
    call_stack=st.lists(TEXTS, max_size=3).map(tuple),
    is_share_call_stack=st.booleans(),
)


@given(HANDLES)
def test_a_token_is_the_handle(handle: RunHandle) -> None:
    """A token gives its handle back and is safe in a URL, a file name and a shell command."""
    token = handle.to_token()
    assert RunHandle.from_token(token) == handle
    assert re.fullmatch("[A-Za-z0-9._-]+", token)


def token_of(value: Any) -> str:
    """Return a token with this text in place of the handle."""
    return "oxyrun1." + base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@given(
    st.one_of(
        st.text(),
        st.binary().map(lambda body: "oxyrun1." + base64.urlsafe_b64encode(body).decode()),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
            lambda inner: st.one_of(st.lists(inner, max_size=8), st.dictionaries(TEXTS, inner, max_size=8)),
        ).map(token_of),
        st.tuples(*[TEXTS] * 5, st.one_of(TEXTS, st.lists(TEXTS)), st.booleans()).map(token_of),
    )
)
def test_any_text_as_a_token(text: str) -> None:
    """Any text as a token is a handle or raises ConfigurationError."""
    with suppress(errors.ConfigurationError):
        assert isinstance(RunHandle.from_token(text), RunHandle)


@pytest.mark.parametrize("odd", [5, None, b"oxyrun1.", RunHandle], ids=["int", "none", "bytes", "class"])
def test_tokens_that_are_no_str(odd: Any) -> None:
    """A value that is not a str raises ConfigurationError."""
    with pytest.raises(errors.ConfigurationError):
        RunHandle.from_token(odd)


FIELDS: Final[list[Any]] = [URL, "t", "t", "n", "", ["user"], True]
HOSTILE: Final[dict[str, str]] = {
    "empty": "",
    "its prefix": "oxyrun1.",
    "another prefix": TOKEN.replace("oxyrun1", "oxyrun2"),
    "truncated": TOKEN[:-9],
    "a sign more": TOKEN + "A",
    "not of base 64": TOKEN[:-4] + "!!!!",
    "not of ASCII": TOKEN + "ü",
    "not of UTF-8": "oxyrun1._____w",
    "no JSON": "oxyrun1." + base64.urlsafe_b64encode(b"{").decode(),
    "deep": "oxyrun1." + base64.urlsafe_b64encode(b"[" * 300_000).decode(),
    "a long number": "oxyrun1." + base64.urlsafe_b64encode(b"9" * 5000).decode(),
    "huge": "oxyrun1." + "A" * 4_000_000,
    "nothing": token_of(None),
    "an object": token_of(dict.fromkeys("abcdefg", "")),
    "a text": token_of("abcdefg"),
    "a field less": token_of(FIELDS[1:]),
    "a field more": token_of(["", *FIELDS]),
    "a number for a text": token_of([URL, 1, *FIELDS[2:]]),
    "a text for a stack": token_of([*FIELDS[:5], "user", True]),
    "a number in the stack": token_of([*FIELDS[:5], [1], True]),
    "a number for a truth": token_of([*FIELDS[:6], 1]),
    "no server": token_of(["file:///etc/passwd", *FIELDS[1:]]),
    "no URL": token_of(["http://[", *FIELDS[1:]]),
    "another server": attrs.evolve(HANDLE, server_url="https://other.test").to_token(),
    "another scheme": attrs.evolve(HANDLE, server_url="http://remote.test").to_token(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tokens(name: str) -> None:
    """An invalid token, or one of another server, raises ConfigurationError, and nothing is sent."""
    agent = SSEOxyGent(server_url=URL, transport=(transport := FakeTransport({})))
    with pytest.raises(errors.ConfigurationError) as caught:
        agent.attach(HOSTILE[name])
    assert caught.value.outcome is Outcome.NOT_SENT
    assert transport.requests == []
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (URL, URL + "/"),
        (URL + "/?key=1", URL),
        ("https://user:pw@remote.test", URL),
        (URL + "/base", URL + "/base/"),
        ("HTTPS://Remote.test:443", URL),
        ("http://localhost:8082", "http://127.0.0.1:8082"),
    ],
)
def test_a_token_with_another_spelling_of_the_url(ours: str, theirs: str) -> None:
    """A token is valid for another password and another spelling of the server's URL."""
    agent = SSEOxyGent(server_url=ours, transport=FakeTransport({}))
    assert repr(agent.attach(attrs.evolve(HANDLE, server_url=theirs).to_token())) == "<Run t started>"


# -------------------------------------------------------------------------------------------------------------- Start

OK: Final = Reply.json({"code": 200, "message": "SUCCESS", "data": {}})
LOST: Final = errors.ConnectionLostError("reset")
RUN: Final = OxyRequest(arguments={"query": "hi"}, node_id="n", current_trace_id="")
UNKNOWN, REJECTED, NOT_SENT = Outcome.UNKNOWN, Outcome.REJECTED, Outcome.NOT_SENT


@attrs.frozen
class Begun:
    """The handle or the error of a start, its outcome, the requests and the duration."""

    what: Any
    outcome: Outcome | None = None
    posts: int = 1
    looks: int = 0
    seconds: float = 0.0


async def begun(replies: Any, *, records: Any = NO_RECORDS, **options: Any) -> Begun:
    """Start a run at a server with these replies."""
    transport = FakeTransport({"/async/chat": replies, "/view": records})
    options = {"retry": Retry(base=0), **options}
    agent = SSEOxyGent(server_url=URL, transport=transport, **options)
    start = anyio.current_time()
    result: RunHandle | errors.OxyError
    try:
        result = await agent.start(RUN)
        assert result.node_id == "n"
        assert result.trace_id == result.remote_trace_id
    except errors.OxyError as error:
        result = error
    assert result.trace_id
    assert result.server_url == URL
    paths = [request.path.partition("?")[0] for request in transport.requests]
    assert len(transport.left) == len(transport.requests)
    seconds = round(anyio.current_time() - start, 2)
    outcome = result.outcome if isinstance(result, errors.OxyError) else None
    return Begun(type(result), outcome, paths.count("/async/chat"), paths.count("/view"), seconds)


def envelope(code: Any) -> Reply:
    """Return an error envelope in a 200."""
    return Reply.json({"code": code, "message": "no", "data": {}})


async def endless() -> str:
    """A token provider that never returns."""
    await anyio.sleep_forever()
    return ""


STARTS: Final[dict[str, tuple[Begun, Any, Any, dict[str, Any]]]] = {
    # name: (the result, the replies, the records, the agent's options)
    "begun": (Begun(RunHandle), OK, NO_RECORDS, {}),
    "429": (Begun(RunHandle, posts=2), [Reply(status=429), OK], NO_RECORDS, {}),
    "429 for ever": (Begun(errors.RateLimitedError, REJECTED, 3), Reply(status=429), DONE, {}),
    "refused connection": (
        Begun(RunHandle, posts=2),
        [Reply(before=errors.ConnectError("refused")), OK],
        NO_RECORDS,
        {},
    ),
    "403": (Begun(errors.PermissionDeniedError, REJECTED), Reply(status=403), DONE, {}),
    "an envelope of 400": (Begun(errors.EnvelopeError, REJECTED), envelope(400), DONE, {}),
    "an envelope of 500": (Begun(errors.EnvelopeError, UNKNOWN, 1, 4, 0.35), envelope(500), NOTHING, {}),
    "lost, and it runs": (Begun(RunHandle, looks=1), Reply(before=LOST), RUNNING, {}),
    "lost, and it is done": (Begun(RunHandle, looks=1), Reply(before=LOST), DONE, {}),
    "lost, and it runs a moment later": (
        Begun(RunHandle, looks=2, seconds=0.05),
        Reply(before=LOST),
        [NOTHING, RUNNING],
        {},
    ),
    "lost, and never seen": (
        Begun(errors.ConnectionLostError, UNKNOWN, 1, 4, 0.35),
        Reply(before=LOST),
        NOTHING,
        {},
    ),
    "lost, and no records": (Begun(errors.ConnectionLostError, UNKNOWN, 1, 1), Reply(before=LOST), NO_RECORDS, {}),
    "lost, and records are not asked": (
        Begun(errors.ConnectionLostError, UNKNOWN),
        Reply(before=LOST),
        DONE,
        {"timeouts": Timeouts(lookup=None)},
    ),
    "bad gateway, and it runs": (Begun(RunHandle, looks=1), Reply(status=502), RUNNING, {}),
    "no answer": (
        Begun(errors.DeadlineExceededError, UNKNOWN, 1, 1, 30),
        Reply(before=FOREVER),
        NO_RECORDS,
        {},
    ),
    "no answer, and it runs": (Begun(RunHandle, looks=1, seconds=30), Reply(before=FOREVER), RUNNING, {}),
    "no answer in all the time there is": (
        Begun(errors.DeadlineExceededError, UNKNOWN, 1, 1, 5),
        Reply(before=FOREVER),
        Reply(before=FOREVER),
        {"timeouts": Timeouts(total=5)},
    ),
    "no token in time": (
        Begun(errors.DeadlineExceededError, NOT_SENT, 0, 0, 30),
        OK,
        DONE,
        {"auth": BearerAuth(provider=endless)},
    ),
    "another body": (Begun(errors.MalformedResponseError, UNKNOWN, 1, 1), Reply((b"<html>",)), NO_RECORDS, {}),
}


@pytest.mark.parametrize("name", STARTS)
async def test_start(name: str) -> None:
    """A start is retried only if it was surely not accepted; otherwise the record decides."""
    expected, replies, records, options = STARTS[name]
    found = await begun(replies, records=records, **options)
    assert attrs.evolve(found, seconds=round(found.seconds, 0 if found.seconds > 1 else 2)) == expected


async def test_the_payload_of_a_start() -> None:
    """The payload is that of a run, and the token holds no secret."""
    name = new_id()  # the ids in flight are shared by the whole process
    transport = FakeTransport({"/async/chat": OK})
    agent = SSEOxyGent(
        server_url=f"https://user:{SECRET}@remote.test/base?key={SECRET}",
        transport=transport,
        headers={"x-api-key": SECRET},
    )
    handle = await agent.start("hi", trace_id=name, group_id="g", arguments={"a": SECRET}, shared_data={"b": SECRET})
    (payload,) = transport.payloads
    assert tuple(payload[field] for field in ("query", "current_trace_id", "caller_category", "is_send_message")) == (
        "hi",
        name,
        "user",
        True,
    )
    (sent,) = transport.requests
    assert sent.headers["accept"] == "application/json"
    assert sent.context.purpose == "run"
    expected = RunHandle(
        server_url=URL + "/base",
        trace_id=name,
        remote_trace_id=name,
        node_id=payload["node_id"],
        group_id="g",
        call_stack=("user", "remote"),
    )
    assert handle == expected
    body = handle.to_token().removeprefix("oxyrun1.")
    assert SECRET.encode() not in base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))


async def test_a_node_id_of_a_subclass() -> None:
    """A node id set by a subclass is the one that is looked up in the record."""

    class Own(SSEOxyGent):
        def prepare_payload(self, oxy_request: OxyRequest) -> dict[str, Any]:
            return {**super().prepare_payload(oxy_request), "node_id": "own"}

    assert (await Own(server_url=URL, transport=FakeTransport({"/async/chat": OK})).start("hi")).node_id == "own"


async def test_an_unknown_callee() -> None:
    """The callee is checked before a start; a check that takes too long ends in time, and nothing is sent."""
    toy = ToyRemote()
    agent = SSEOxyGent(server_url=URL, transport=ASGITransport(toy), callee="nobody")
    with pytest.raises(errors.UnknownCalleeError):
        await agent.start("hi")
    assert toy.runs == []
    slow = FakeTransport({"/get_organization": Reply(before=FOREVER), "/async/chat": OK})
    agent = SSEOxyGent(server_url=URL, transport=slow, callee="nobody", timeouts=Timeouts(total=5))
    start = anyio.current_time()
    with pytest.raises(errors.DeadlineExceededError) as caught:
        await agent.start("hi")
    assert anyio.current_time() - start == pytest.approx(5)
    assert caught.value.outcome == NOT_SENT


async def test_a_start_cancelled_before_it_was_sent() -> None:
    """A start cancelled before anything was sent frees its trace id."""

    async def forever() -> str:
        await anyio.sleep_forever()
        raise AssertionError

    trace_id, waits = new_id(), Reply(before=Pause(60))
    unsent = SSEOxyGent(server_url=URL, transport=FakeTransport({}), auth=BearerAuth(provider=forever))
    agent = SSEOxyGent(server_url=URL, transport=FakeTransport({"/async/chat": [OK, waits, OK]}))
    with anyio.move_on_after(1):
        await unsent.start("hi", trace_id=trace_id)
    assert (await agent.start("hi", trace_id=trace_id)).remote_trace_id == trace_id
    other = new_id()
    with anyio.move_on_after(1):
        await agent.start("hi", trace_id=other)
    assert other != (await agent.start("hi", trace_id=other)).remote_trace_id


# ------------------------------------------------------------------------------------------ Attach to a scripted server


class Timed:
    """A transport that records the time of each request."""

    def __init__(self, inner: Transport) -> None:
        self.inner = inner
        self.times: list[tuple[str, float]] = []

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """Record the time. A cancelled read ends the stream, as with httpx."""
        self.times.append((request.path.partition("?")[0], anyio.current_time()))
        async with self.inner.exchange(request) as response, aclosing(_brittle(response.chunks)) as chunks:
            yield HTTPResponse(response.status, response.headers, chunks, response.request)

    async def aclose(self) -> None:
        """As `Transport.aclose`."""

    def at(self, path: str) -> list[float]:
        """Return the times of the requests to this path."""
        return [when for asked, when in self.times if asked == path]


async def _brittle(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    async for chunk in chunks:
        yield chunk


@attrs.frozen
class Heard:
    """The result of an attachment."""

    what: Any
    told: list[Any]
    outcome: Outcome
    attached: list[float]
    looked: list[float]
    seconds: float
    recovered: bool = False
    dropped: int = 0


async def attach(*replies: Any, records: Reply | Iterable[Reply] = NO_RECORDS, **options: Any) -> Heard:
    """Attach to a server with these replies, one after the other."""
    table = [reply if isinstance(reply, Reply) else Reply(reply) for reply in replies]
    fake = FakeTransport({"/async/trace": _then_forever(table), "/view": records})
    transport = Timed(fake)
    agent = SSEOxyGent(server_url=URL, transport=transport, retry=Retry(attempts=1), **options)
    began = anyio.current_time()
    told: list[Any] = []
    run = agent.attach(TOKEN)
    what: Any
    recovered, failure = False, None
    try:
        async with run:
            async for event in run:
                told.append(event.content)  # noqa: PERF401  (what was told before it failed counts)
        what, recovered = run.response.output, run.response.extra.get("recovered", False)
    except errors.OxyError as error:
        what, failure = type(error), error
    if failure is not None:
        assert failure.outcome is run.outcome
        seen = failure.partial.events if failure.partial is not None else ()
        assert [event.content for event in seen] == told
    assert len(fake.left) == len(fake.requests)
    assert {tuple(payload.items()) for payload in fake.payloads} == {(("trace_id", "t"), ("timestamp", 0))}
    attached, looked = ([round(at - began, 2) for at in transport.at(path)] for path in ("/async/trace", "/view"))
    seconds, dropped = round(anyio.current_time() - began, 2), run.partial.dropped
    return Heard(what, told, run.outcome, attached, looked, seconds, recovered, dropped)


def _then_forever(table: Sequence[Reply]) -> Iterable[Reply]:
    """Return these replies, the last one repeated."""
    yield from table
    while True:
        yield table[-1]


def say(number: int, retry: int | None = None) -> bytes:
    """Return a message with this number as its id."""
    return message({"type": "progress", "content": number}, id=f"id{number}", retry=retry)


ANSWER: Final = message({"type": "answer", "content": "42"}, id="answer")
END: Final = (ANSWER, close())
STARTED, COMPLETED = Outcome.STARTED, Outcome.COMPLETED

CUTS: Final[dict[str, tuple[list[Any], list[Any]]]] = {
    # name: (the events, the connections one after the other)
    "none": ([1, 2, "42"], [(say(1), say(2), *END)]),
    "a clean end": ([1, 2, "42"], [(say(1),), (say(2), *END)]),
    "a reset": ([1, 2, "42"], [(say(1), LOST), (say(2), *END)]),
    "nonsense in the framing": ([1, 2, "42"], [(say(1), errors.RemoteProtocolError("chunk")), (say(2), *END)]),
    "half an event": ([1, 2, "42"], [(say(1), say(2)[:20]), (say(2), *END)]),
    "half an event, and it is gone": ([1, 3, "42"], [(say(1), say(2)[:20]), (say(3), *END)]),
    "the same once more": ([1, 1, 2, "42"], [(say(1),), (say(1), say(2), *END)]),
    "the same, without ids": ([1, 1, "42"], [(progress(1),), (progress(1), answer("42"), close())]),
    "the same, over and over": ([1] * 6 + ["42"], [(say(1),) * 3, (*(say(1),) * 3, *END)]),
    "the answer, and then a break": (["42"], [(ANSWER,), (close(),)]),
    "a heartbeat, then silence": ([1, 2, "42"], [(say(1), heartbeat(), FOREVER), (say(2), *END)]),
    "refused for a while": ([1, "42"], [(say(1),), *[Reply(before=errors.ConnectError("refused"))] * 5, END]),
    "lost for a while": ([1, "42"], [(say(1),), *[Reply(before=LOST)] * 5, END]),
    "a gateway without its server": ([1, "42"], [(say(1),), Reply(status=502), Reply(status=503), END]),
    "too many requests": ([1, "42"], [(say(1),), Reply(status=429), END]),
    "a page in between": ([1, "42"], [(say(1),), Reply((b"<html>",), headers={"content-type": "text/html"}), END]),
    "cut ten times": ([*range(10), "42"], [*[(say(n),) for n in range(10)], END]),
    "done, in a stream without names": (
        [1, "done", "42"],
        [(b'data: {"type": "progress", "content": 1}\n\ndata: done\n\n', heartbeat(), FOREVER), END],
    ),
}


@pytest.mark.parametrize("name", CUTS)
async def test_cuts(name: str) -> None:
    """After a lost connection the reader reconnects and each event is handed out; equal events are kept."""
    told, connections = CUTS[name]
    heard = await attach(*connections)
    assert heard.what == "42"
    assert heard.told == told
    assert heard.outcome == COMPLETED
    assert len(connections) == len(heard.attached)


async def test_a_cut_at_every_byte() -> None:
    """For a cut at any byte, complete events are handed out; an event that was cut is counted as dropped."""
    parts = [progress(1), progress(2), heartbeat(), answer("42")]
    for number, part in enumerate(parts):
        for place in range(1, len(part)):
            heard = await attach((*parts[:number], part[:place]), (*parts[number + 1 :], answer("43"), close()))
            lost = place < len(part) - 1 and part is not parts[2]  # of the last line end, one byte is enough
            told = [content for at, content in enumerate([1, 2, None, "42"]) if not (lost and at == number)]
            assert heard.told == [*filter(None, told), "43"]
            assert heard.dropped == lost


PAUSES: Final[dict[str, tuple[list[float], list[Any]]]] = {
    # name: (the longest delays, the connections)
    "by itself": ([1, 2, 4], [(progress(1),), (), Reply(before=LOST), END]),
    "as the stream says": ([3, 6], [(say(1, 3000),), Reply(status=503), END]),
    "an event sets it back": ([3, 6, 3], [(say(1, 3000),), (), (say(2),), END]),
    "at once": ([0.1, 0.2], [(say(1, 0),), (), END]),
    "30 s at the most": ([20, 30, 30], [(say(1, 20_000),), (), (), END]),
}


@pytest.mark.parametrize("name", PAUSES)
async def test_reconnect_delays(name: str) -> None:
    """A reconnect waits between half of the delay and all of it; failures double the delay that `retry:` sets."""
    longest, connections = PAUSES[name]
    times = (await attach(*connections)).attached
    pauses = [after - before for before, after in pairwise(times)]
    assert len(longest) == len(pauses)
    for most, slept in zip(longest, pauses, strict=True):
        assert most / 2 - 0.01 <= slept <= most + 0.01


QUIET: Final[dict[str, tuple[Heard, list[Any], Any, Timeouts]]] = {
    # name: (the result, the connections, the records, the time-outs)
    "done": (Heard("42", [], COMPLETED, [0], [2, 3], 3, recovered=True), [PINGS], DONE, Timeouts()),
    "done, and not a byte": (
        Heard("42", [], COMPLETED, [0], [2, 3], 3, recovered=True),
        [(FOREVER,)],
        DONE,
        Timeouts(),
    ),
    "done, and its events come": (
        Heard("42", [1, "42"], COMPLETED, [0], [2], 2.5),
        [(pause(2.5), say(1), *END)],
        DONE,
        Timeouts(),
    ),
    "failed": (Heard(errors.RemoteAgentError, [], COMPLETED, [0], [2, 3], 3), [PINGS], FAILED, Timeouts()),
    "cancelled": (Heard(errors.RemoteAgentError, [], COMPLETED, [0], [2, 3], 3), [PINGS], CANCELLED, Timeouts()),
    "at work, and then an answer": (
        Heard("42", ["42"], COMPLETED, [0], [2, 4, 8, 16, 32], 60),
        [(heartbeat(), pause(15)) * 4 + END],
        RUNNING,
        Timeouts(),
    ),
    "at work, and then done": (
        Heard("42", [], COMPLETED, [0], [2, 4, 8, 9], 9, recovered=True),
        [PINGS],
        [RUNNING, RUNNING, DONE, DONE],
        Timeouts(),
    ),
    "never seen": (
        Heard(errors.IdleTimeoutError, [], STARTED, [0], [], 600),
        [PINGS],
        NOTHING,
        Timeouts(),
    ),
    "no records": (
        Heard(errors.IdleTimeoutError, [], STARTED, [0], [2, 600], 600.1),  # events on their way are taken in
        [PINGS],
        NO_RECORDS,
        Timeouts(),
    ),
    "records are not asked": (
        Heard(errors.IdleTimeoutError, [], STARTED, [0], [], 600),
        [PINGS],
        DONE,
        Timeouts(lookup=None),
    ),
    "an event, and then its end was lost": (
        Heard("42", [1], COMPLETED, [0], [600], 600, recovered=True),
        [(say(1), *PINGS)],
        DONE,
        Timeouts(),
    ),
    "at work for ever": (
        Heard(errors.DeadlineExceededError, [], STARTED, [0], [2, 4, 8, 16, 32, 64], 100),
        [PINGS],
        RUNNING,
        Timeouts(total=100),
    ),
    "no clock but total": (
        Heard(errors.DeadlineExceededError, [], STARTED, [0], [2], 100),
        [PINGS],
        NO_RECORDS,
        Timeouts(total=100, idle=None, silence=None),
    ),
}


@pytest.mark.parametrize("name", QUIET)
async def test_a_quiet_stream(name: str) -> None:
    """Without events the record is checked after 2 s, 4 s, 8 s, ...: it has the answer, or the run is waited for."""
    expected, connections, records, timeouts = QUIET[name]
    heard = await attach(*connections, records=records, timeouts=timeouts)
    if name == "never seen":  # each time it is looked up four times: a record may lag
        assert heard.looked[::4] == pytest.approx([2, 4, 8, 16, 32, 64, 128, 256, 512, 600], abs=4)
        assert 600 <= heard.seconds <= 604
        heard = attrs.evolve(heard, looked=[], seconds=600)
    assert heard == expected


@pytest.mark.parametrize(
    ("seconds", "what", "records"),
    [
        ((3.4, 4.1), "42", DONE),
        ((3.4, 4.1), errors.RemoteAgentError, FAILED),
        ((600, 606), errors.IncompleteStreamError, NOTHING),
    ],
)
async def test_a_lost_end(seconds: tuple[float, float], what: Any, records: Reply) -> None:
    """If the end was lost with a connection, the record is checked after the next connection."""
    heard = await attach((say(1), LOST), PINGS, records=records)
    assert heard.what == what
    assert heard.told == [1]
    assert seconds[0] <= heard.seconds <= seconds[1]


async def test_connections_that_do_not_last() -> None:
    """If every connection ends within 2 s, the record is checked all the same."""
    heard = await attach((heartbeat(), pause(0.5)), records=DONE)
    assert heard.what == "42"
    assert heard.recovered is True
    assert heard.seconds < 12


@pytest.mark.parametrize(("what", "records"), [("42", DONE), (errors.RemoteAgentError, FAILED)])
async def test_a_record_without_a_stream(what: Any, records: Reply) -> None:
    """If the events are no longer available, the record is checked after `idle` and has the answer."""
    heard = await attach((say(1),), Reply(status=502), records=records)
    assert heard.what == what
    assert heard.told == [1]
    assert heard.outcome == COMPLETED
    assert heard.seconds == 600


@pytest.mark.parametrize(("looks", "idle"), [(29, 50), (24, 60), (2, 600)])
async def test_the_connection_is_kept_during_record_checks(looks: int, idle: float) -> None:
    """Reading goes on while the record is checked: losing the connection would stop a run that is not detached."""
    steps = (progress(1), *(heartbeat(), pause(15)) * 99, answer("42"), close())
    moving = [record(None, update_time=f"{n}") for n in range(looks)]
    transport = Timed(FakeTransport({"/sse/chat": Reply(steps), "/view": moving}))
    response = await SSEOxyGent(server_url=URL, transport=transport, timeouts=Timeouts(idle=idle)).ask(RUN)
    assert response.output == "42"
    assert len(transport.at("/sse/chat")) == 1
    assert len(transport.at("/view")) == looks


async def test_a_slow_server_is_waited_for() -> None:
    """A server that is slow with the headers is waited for in spite of a due record check."""
    heard = await attach((say(1),), Reply(END, before=Pause(20)), records=RUNNING)
    assert heard.what == "42"
    assert heard.told == [1, "42"]
    assert len(heard.attached) == 2


ENDS: Final[dict[str, tuple[type[errors.OxyError], Any, float, float]]] = {
    # name: (the error, the replies to the reconnects, the range of seconds until it is raised)
    "401": (errors.AuthenticationError, Reply(status=401), 0, 1),
    "403": (errors.PermissionDeniedError, Reply(status=403), 0, 1),
    "404": (errors.NotFoundError, Reply(status=404), 0, 1),
    "refused for ever": (errors.IncompleteStreamError, Reply(before=errors.ConnectError("refused")), 600, 600),
    "lost for ever": (errors.IncompleteStreamError, Reply(before=LOST), 600, 600),
    "no headers for ever": (errors.IncompleteStreamError, Reply(before=FOREVER), 600, 600),
    "an end at once, for ever": (errors.IncompleteStreamError, Reply(), 600, 600),
    "an end after a while, for ever": (errors.IncompleteStreamError, Reply((pause(100),)), 600, 600),
}


@pytest.mark.parametrize("name", ENDS)
async def test_reconnects_that_fail(name: str) -> None:
    """A refusal is raised at once; if no server can be reached, `idle` ends the run. `partial` has the events."""
    expected, reply, least, most = ENDS[name]
    heard = await attach((say(1),), reply)
    assert heard.what == expected
    assert heard.told == [1]
    assert heard.outcome == STARTED
    assert least <= heard.seconds <= most
    bounded = await attach((say(1),), reply, timeouts=Timeouts(total=50))
    assert 1 >= bounded.seconds if most <= 1 else 50 == bounded.seconds


FIRSTS: Final[dict[str, tuple[Any, Outcome, Any, Any]]] = {
    # name: (the result, the outcome, the replies to the first attachment, the records)
    "no connection": (errors.ConnectError, STARTED, Reply(before=errors.ConnectError("refused")), DONE),
    "401": (errors.AuthenticationError, STARTED, Reply(status=401), DONE),
    "404": (errors.NotFoundError, STARTED, Reply(status=404), DONE),
    "lost": (errors.ConnectionLostError, STARTED, Reply(before=LOST), NO_RECORDS),
    "lost, and done": ("42", COMPLETED, Reply(before=LOST), DONE),
    "lost, and failed": (errors.RemoteAgentError, COMPLETED, Reply(before=LOST), FAILED),
    "a page": (errors.NotAnEventStreamError, STARTED, Reply((b"<html>",), headers={}), RUNNING),
    "too large": (errors.TooLargeError, STARTED, Reply((b"data: " + b"x" * 2000,)), DONE),
    "closed without an answer": (errors.NoAnswerError, COMPLETED, Reply((close(),)), NO_RECORDS),
}


@pytest.mark.parametrize("name", FIRSTS)
async def test_the_first_attachment(name: str) -> None:
    """The run was started, so no error of an attachment has outcome NOT_SENT."""
    expected, outcome, reply, records = FIRSTS[name]
    heard = await attach(reply, records=records, limits=Limits(event_bytes=1000))
    assert heard.what == expected
    assert heard.outcome == outcome


@pytest.mark.parametrize(
    ("what", "records"),
    [
        (errors.IdleTimeoutError, NO_RECORDS),
        (errors.IdleTimeoutError, RUNNING),
        ("42", DONE),
        (errors.RemoteAgentError, FAILED),
    ],
    ids=["no records", "at work", "done", "failed"],
)
async def test_an_attachment_without_headers(what: Any, records: Reply) -> None:
    """`idle` counts while the headers of the first attachment are missing."""
    heard = await attach(Reply(before=FOREVER), records=records, timeouts=Timeouts(total=None))
    assert heard.what == what
    assert len(heard.attached) == 1
    assert heard.seconds == 600


async def test_concurrency_limit() -> None:
    """A concurrency limit counts attachments; an error while queued leaves the outcome STARTED."""
    transport = FakeTransport({"/async/trace": Reply((FOREVER,))})
    agent = SSEOxyGent(server_url=URL, transport=transport, policies=(ConcurrencyLimit(1),), timeouts=Timeouts(total=9))
    other = attrs.evolve(HANDLE, trace_id="o", remote_trace_id="o")
    async with agent.attach(TOKEN):
        with pytest.raises(errors.DeadlineExceededError) as caught:
            async with agent.attach(other.to_token()):
                pytest.fail("there was no slot")
    assert caught.value.outcome == STARTED
    assert len(transport.requests) == 1


async def test_two_readers() -> None:
    """A second reader is refused while the first is attached, and gets the rest afterwards."""
    transport = FakeTransport({"/async/trace": [Reply((say(1), FOREVER)), Reply(END)]})
    agent, other = (SSEOxyGent(server_url=url, transport=transport) for url in (URL, URL + "/"))
    async with agent.attach(TOKEN) as run:
        assert (await anext(run)).content == 1
        with pytest.raises(errors.ConfigurationError, match="has a reader") as caught:
            async with other.attach(TOKEN):
                pytest.fail("there are two")
        assert caught.value.outcome is STARTED
    async with other.attach(TOKEN) as run:
        assert (await run.final_response()).output == "42"


async def test_a_failing_handler() -> None:
    """An exception of a user's handler ends the attachment, not the run."""

    async def broken(content: Any) -> None:
        raise KeyError(content)

    transport = FakeTransport({"/async/trace": Reply((say(1), *END)), "/view": DONE})
    agent = SSEOxyGent(server_url=URL, transport=transport, event_handlers={"progress": broken})
    run = agent.attach(TOKEN)
    with pytest.raises(errors.HandlerError) as caught:
        async with run:
            await run.final_response()
    assert isinstance(caught.value.__cause__, KeyError)
    assert run.outcome == STARTED
    assert [request.path for request in transport.requests] == ["/async/trace"]
    assert caught.value.partial is not None
    assert [event.content for event in caught.value.partial.events] == [1]


WAITS: Final[dict[str, tuple[float, Sequence[Any], Any]]] = {
    # name: (when it is cancelled, the connections, the records)
    "for headers": (1, [Reply(before=FOREVER)], NO_RECORDS),
    "for bytes": (1, [(say(1), FOREVER)], NO_RECORDS),
    "for bytes, with the record in view": (1, [(FOREVER,)], NO_RECORDS),
    "for the record": (2.1, [(FOREVER,)], Reply(before=FOREVER)),
    "before coming back": (0.4, [()], NO_RECORDS),
    "for headers on coming back": (1.5, [(), Reply(before=FOREVER)], NO_RECORDS),
    "for bytes on coming back": (1.5, [(), (FOREVER,)], NO_RECORDS),
}


@pytest.mark.parametrize("name", WAITS)
async def test_cancellation(name: str) -> None:
    """A reader that is cancelled leaves at once wherever it waits, and releases everything."""
    when, connections, records = WAITS[name]
    table = [reply if isinstance(reply, Reply) else Reply(reply) for reply in connections]
    transport = FakeTransport({"/async/trace": _then_forever(table), "/view": records})
    agent = SSEOxyGent(server_url=URL, transport=transport)
    began = anyio.current_time()
    run = agent.attach(TOKEN)
    with anyio.move_on_after(when) as scope:
        async with run:
            await run.final_response()
    assert scope.cancelled_caught
    assert anyio.current_time() - began == pytest.approx(when)
    assert len(transport.requests) == len(transport.left)
    assert run.outcome == STARTED


@pytest.mark.parametrize("name", [name for name in WAITS if name != "for headers"])
async def test_leaving_by_another_task(name: str) -> None:
    """If another task leaves the block, a waiting reader gets ClosedError at once and does not reconnect."""
    when, connections, records = WAITS[name]
    table = [reply if isinstance(reply, Reply) else Reply(reply) for reply in connections]
    transport = FakeTransport({"/async/trace": _then_forever(table), "/view": records})
    agent = SSEOxyGent(server_url=URL, transport=transport)

    async def read(run: Run) -> None:
        with pytest.raises(errors.ClosedError):
            await run.final_response()

    began, asked, run = anyio.current_time(), 0, agent.attach(TOKEN)
    async with anyio.create_task_group() as tasks:
        async with run:
            tasks.start_soon(read, run)
            await anyio.sleep(when)
        assert anyio.current_time() - began == pytest.approx(when)
        assert len(transport.left) == len(transport.requests)
        asked = len(transport.requests)
        await anyio.sleep(1000)
    assert len(transport.requests) == asked
    assert run.outcome == STARTED


# --------------------------------------------------------------------------------------------- Attach to the toy remote

SCRIPT: Final = Script(
    [
        Say({"type": "progress", "content": 1}),
        Call("flight_agent", [Call("search_flights", [Work(1)], output=5)], output="flights"),
        Work(5),
        Say({"type": "progress", "content": 2}),
        Work(5),
        Say({"type": "progress", "content": 3}),
    ],
    output="42",
)


class Listening:
    """An agent, and the messages it forwarded."""

    def __init__(self, toy: ToyRemote | Transport, **options: Any) -> None:
        transport = ASGITransport(toy) if isinstance(toy, ToyRemote) else toy
        self.forwarded: list[Any] = []
        documented = EventRouter().route

        def spied(event: Event, link: Any) -> Any:
            action = documented(event, link)
            if isinstance(action, Forward):
                self.forwarded.append(action.message)
            return action

        router = EventRouter(dict.fromkeys(EventRouter().routes, spied))
        self.agent = SSEOxyGent(server_url=URL, transport=transport, router=router, **options)


def steady(events: Iterable[Any]) -> list[Any]:
    """Return the messages without the ids that are new for each run."""
    drawn = ("node_id", "copied_node_id", "request_id")
    return [
        {
            **each,
            "content": {key: value for key, value in each["content"].items() if key not in drawn}
            if isinstance(each["content"], dict)
            else each["content"],
        }
        for each in events
    ]


@pytest.mark.parametrize("share", [True, False])
async def test_a_detached_run_forwards_like_a_direct_one(share: bool) -> None:
    """A run started in one program and read in another forwards the same as a direct run, stacks included."""
    toy = ToyRemote(default=SCRIPT)
    request = OxyRequest(
        arguments={"query": "?"}, caller="local_master", call_stack=["user", "local_master"], current_trace_id="mine"
    )
    direct = Listening(toy, is_share_call_stack=share, name="abroad")
    async with direct.agent.stream(request) as run:
        events = [event async for event in run]
        output = run.response.output
    token = (await Listening(toy, is_share_call_stack=share, name="abroad").agent.start(request)).to_token()
    await anyio.sleep(2)
    # Neither the name nor the shared data is in the other program's configuration: both are in the token.
    later = Listening(toy)
    sent: list[Any] = []
    mine = OxyRequest()

    async def send(message: Any) -> None:
        sent.append(message)

    mine.__dict__["send_message"] = send  # as programs do, though type checkers reject it
    async with later.agent.attach(token, request=mine) as run:
        again = [event async for event in run]
    assert later.forwarded == sent
    assert run.response.output == output
    assert output == "42"
    assert [(type(event), event.type) for event in events] == [(type(event), event.type) for event in again]
    assert steady(direct.forwarded) == steady(later.forwarded)
    stacks = [sent["content"]["call_stack"] for sent in later.forwarded if sent["type"] == "tool_call"]
    above = ["user", "local_master", "abroad"] if not share else ["user", "local_master", "trip_planner"]
    assert [[*above, "flight_agent"], [*above, "flight_agent", "search_flights"]] == stacks
    assert {"trace_id": "mine", "remote_trace_id": run.remote_trace_id} == run.response.extra


async def test_two_runs_with_one_trace_id() -> None:
    """Two starts with one trace id are two runs; a token refers to one of them, and its events have the caller's id."""
    toy, name = ToyRemote(default=SCRIPT), new_id()
    first, second = [await Listening(toy).agent.start("?", trace_id=name) for _ in range(2)]
    assert first.trace_id == name
    assert first.remote_trace_id == name
    assert second.trace_id == name
    assert re.fullmatch(f"{name}-.{{12}}", second.remote_trace_id)
    assert [first.remote_trace_id, second.remote_trace_id] == [run.trace_id for run in toy.runs]
    for handle in (first, second):
        listening = Listening(toy)
        async with listening.agent.attach(handle.to_token()) as run:
            assert (await run.final_response()).output == "42"
        assert run.trace_id == name
        assert handle.remote_trace_id == run.remote_trace_id
        named = [
            sent["content"].get("current_trace_id") for sent in listening.forwarded if sent["type"] == "observation"
        ]
        assert [name] * 2 == named


async def test_leaving_and_attaching_again() -> None:
    """A run goes on after its reader left or was cancelled, and the next reader continues where it was."""
    toy = ToyRemote(default=SCRIPT)
    agent = Listening(toy).agent
    token = (await agent.start("?")).to_token()
    told: list[Any] = []
    async with agent.attach(token) as run:
        async for event in run:
            if event.type == "progress":
                told.append(event.content)
                break
    with anyio.move_on_after(7):
        async with agent.attach(token) as run:
            async for event in run:
                told += [event.content] * (event.type == "progress")
    assert toy.runs[0].state == "detached"
    assert len(toy.runs) == 1
    async with agent.attach(token) as run:
        async for event in run:
            told += [event.content] * (event.type == "progress")
    assert told == [1, 2, 3]
    assert run.response.output == "42"


LEFT_BY: Final[dict[str, Callable[[Run], Awaitable[None]]]] = {}
"""Ways to leave for a reader that holds an event."""


def leaving(leave: Callable[[Run], Awaitable[None]]) -> Callable[[Run], Awaitable[None]]:
    """Add it to the table."""
    LEFT_BY[leave.__name__] = leave
    return leave


@leaving
async def by_break(run: Run) -> None:
    """Leave the block by `break`."""
    async with run:
        await anext(run)


@leaving
async def by_an_error(run: Run) -> None:
    """Leave by an exception of the user's own."""
    with pytest.raises(ZeroDivisionError):
        async with run:
            raise ZeroDivisionError(await anext(run))


@leaving
async def by_cancellation(run: Run) -> None:
    """Cancel the task while it holds the event."""
    with anyio.move_on_after(1):
        async with run:
            await anext(run)
            await anyio.sleep_forever()


@leaving
async def by_total(run: Run) -> None:
    """Let `total` expire."""
    with pytest.raises(errors.DeadlineExceededError):
        async with run:
            await anext(run)
            await anyio.sleep(3600)
            await anext(run)


@leaving
async def by_another_task(run: Run) -> None:
    """Leave the block in another task before the reader reads again."""
    async with run, anyio.create_task_group() as tasks:
        tasks.start_soon(anext, run)
    with pytest.raises(errors.ClosedError):
        await anext(run)


PIECES: Final[dict[str, tuple[Any, ...]]] = {
    "one piece": (b"".join(map(say, range(300))) + ANSWER + close(), FOREVER),
    "many pieces": (*map(say, range(300)), ANSWER, close(), FOREVER),
    "a piece for each reader": (b"".join(map(say, range(10))), pause(0.01), say(10) + ANSWER + close()),
    "without its end": (*map(say, range(300)), ANSWER),
}


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("leave", LEFT_BY)
async def test_leftovers_of_a_reader(leave: str, pieces: str) -> None:
    """Events that a reader received and did not hand out are handed out first by the next one, in order and once."""
    steps = PIECES[pieces]
    transport = FakeTransport({"/async/trace": [Reply(steps), Reply((close(),))], "/view": NO_RECORDS})
    agent, other = (SSEOxyGent(server_url=url, transport=transport) for url in (URL, f"{URL}:443/"))
    run = agent.attach(TOKEN)
    await LEFT_BY[leave](run)
    async with other.attach(TOKEN) as again:
        events = [event async for event in again]
    everything = [event.content for event in (*run.partial.events[:1], *events)]
    count = 11 if pieces == "a piece for each reader" else 300
    assert [*range(count), "42"] == everything
    assert again.response.output == "42"
    assert run.partial.dropped == 0
    assert again.partial.dropped == 0
    # if the end was received, no request follows
    attached = [request.path for request in transport.requests]
    assert attached == ["/async/trace"] * (2 if pieces == "without its end" else 1)


async def test_only_the_end_is_left() -> None:
    """If only the end was not handed out, the record has the output and no attachment follows."""
    transport = FakeTransport({"/async/trace": [Reply((ANSWER + close(), FOREVER))], "/view": DONE})
    agent = SSEOxyGent(server_url=URL, transport=transport)
    async with agent.attach(TOKEN) as run:
        assert (await anext(run)).content == "42"
    async with agent.attach(TOKEN) as run:
        assert (await run.final_response()).output == "42"
    assert [request.path.partition("?")[0] for request in transport.requests] == ["/async/trace", "/view"]


async def test_half_an_event_is_dropped() -> None:
    """Half an event is not kept: it is counted as dropped, for both readers."""
    transport = FakeTransport({"/async/trace": [Reply((say(1) + say(2) + say(3)[:30], FOREVER)), Reply(END)]})
    agent = SSEOxyGent(server_url=URL, transport=transport)
    async with agent.attach(TOKEN) as left:
        await anext(left)
    async with agent.attach(TOKEN) as run:
        assert [event.content async for event in run] == [2, "42"]
    assert left.partial.dropped == 1
    assert run.partial.dropped == 1


async def test_leftovers_belong_to_one_run() -> None:
    """Leftovers are not handed out to another run of the server, or to the same id at another server."""
    transport = FakeTransport({"/async/trace": [Reply((say(1) + say(2), FOREVER)), *[Reply(END)] * 2]})
    agent = SSEOxyGent(server_url=URL, transport=transport)
    async with agent.attach(TOKEN) as run:
        await anext(run)
    others = (("https://other.test", "t"), (URL, "u"))
    for url, name in others:
        token = attrs.evolve(HANDLE, server_url=url, remote_trace_id=name).to_token()
        async with SSEOxyGent(server_url=url, transport=transport).attach(token) as run:
            assert [event.content async for event in run] == ["42"]
    async with agent.attach(TOKEN) as run:
        assert (await anext(run)).content == 2


async def test_no_connection_after_the_leftovers() -> None:
    """Leftovers are handed out even if the server is gone; then the error is that of a first attachment."""
    gone = Reply(before=errors.ConnectError("refused"))
    transport = FakeTransport({"/async/trace": [Reply((say(1) + say(2), FOREVER)), gone, Reply(before=FOREVER)]})
    agent = SSEOxyGent(server_url=URL, transport=transport, retry=Retry(attempts=1), timeouts=Timeouts(total=9))
    async with agent.attach(TOKEN) as run:
        await anext(run)
    run = agent.attach(TOKEN)
    with pytest.raises(errors.ConnectError) as caught:
        async with run:
            assert (await anext(run)).content == 2
            await anext(run)
    assert caught.value.outcome is STARTED
    assert caught.value.partial == run.partial
    assert [event.content for event in run.partial.events] == [2]
    with pytest.raises(errors.DeadlineExceededError):
        async with agent.attach(TOKEN) as run:
            await anext(run)


@pytest.mark.parametrize(
    ("what", "records", "total"),
    [
        ("42", DONE, None),
        (errors.IdleTimeoutError, NO_RECORDS, None),
        (errors.DeadlineExceededError, DONE, 50.0),
    ],
    ids=["records", "no records", "total"],
)
async def test_no_headers_after_the_leftovers(what: Any, records: Reply, total: float | None) -> None:
    """If the server does not answer after the leftovers, the record is checked after `idle`, bounded by `total`."""
    replies = [Reply((say(1) + say(2), FOREVER)), Reply(before=FOREVER)]
    transport = FakeTransport({"/async/trace": replies, "/view": records})
    agent = SSEOxyGent(server_url=URL, transport=transport, timeouts=Timeouts(total=total))
    async with agent.attach(TOKEN) as run:
        await anext(run)
    with nullcontext() if what == "42" else pytest.raises(what):
        async with agent.attach(TOKEN) as run:
            assert (await anext(run)).content == 2
            assert (await run.final_response()).output == what


async def test_an_event_whose_handler_failed() -> None:
    """An event whose handler failed was handed out; the events behind it are kept."""

    async def picky(content: Any) -> None:
        if content == 2:
            raise ValueError

    transport = FakeTransport({"/async/trace": [Reply((say(1) + say(2) + say(3) + ANSWER + close(),))]})
    agent = SSEOxyGent(server_url=URL, transport=transport, event_handlers={"progress": picky})
    with pytest.raises(errors.HandlerError) as caught:
        async with agent.attach(TOKEN) as run:
            await run.final_response()
    assert caught.value.partial is not None
    assert [event.content for event in caught.value.partial.events] == [1, 2, 3, "42"]
    async with agent.attach(TOKEN) as run:
        assert [event.content async for event in run] == [3, "42"]


def test_the_loop_of_a_reader_is_closed() -> None:
    """The events of a reader whose event loop was closed are kept."""
    transport = FakeTransport({"/async/trace": [Reply((say(1) + say(2), FOREVER)), Reply(END)]})
    agent = SSEOxyGent(server_url=URL, transport=transport)

    async def begin() -> Run:
        run = agent.attach(TOKEN)
        await run.__aenter__()
        await anext(run)
        return run

    async def go_on() -> list[Any]:
        async with agent.attach(TOKEN) as run:
            return [event.content async for event in run]

    loop = asyncio.new_event_loop()
    run = loop.run_until_complete(begin())
    loop.close()
    assert asyncio.run(go_on()) == [2, "42"]
    assert run.outcome is STARTED


async def test_an_endless_stream_is_left() -> None:
    """Leaving an endless stream stops reading after a limit."""
    flood = say(1) * 4000
    transport = FakeTransport({"/async/trace": Reply((flood,) * 1000)})
    agent = SSEOxyGent(server_url=URL, transport=transport)
    async with agent.attach(TOKEN) as run:
        await anext(run)
    assert run.partial.dropped < 40_000


class Cutting:
    """A transport that cuts each stream after so many chunks and drops the last of them."""

    def __init__(self, inner: Transport, pieces: Callable[[], float]) -> None:
        self.inner = inner
        self.pieces = pieces

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        async with self.inner.exchange(request) as response:
            chunks = response.chunks if request.context.purpose != "attach" else self._cut(response.chunks)
            yield HTTPResponse(response.status, response.headers, chunks, response.request)

    async def _cut(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        left = self.pieces()
        async for chunk in chunks:
            left -= 1
            if left < 0:
                raise LOST
            yield chunk

    async def aclose(self) -> None:
        """As `Transport.aclose`."""
        await self.inner.aclose()


@pytest.mark.parametrize("pieces", range(12))
async def test_many_cuts(pieces: int) -> None:
    """However often the stream is cut, the record has the answer and the agent ran once."""
    toy = ToyRemote(default=SCRIPT)
    agent = Listening(Cutting(ASGITransport(toy), lambda: pieces)).agent
    token = (await agent.start("?")).to_token()
    with anyio.fail_after(120):
        async with agent.attach(token) as run:
            told = [event.sse.id async for event in run]
    assert run.response.output == "42"
    assert len(toy.runs) == 1
    assert len(told) == len({*told})


async def test_without_records() -> None:
    """If the end was lost and there are no records, an error is raised with the events so far."""
    toy = ToyRemote(default=SCRIPT, records=False)
    cuts = iter([10.0])
    agent = Listening(Cutting(ASGITransport(toy), lambda: next(cuts, float("inf")))).agent
    token = (await agent.start("?")).to_token()
    with pytest.raises(errors.IncompleteStreamError) as caught:
        async with agent.attach(token) as run:
            await run.final_response()
    assert caught.value.partial is not None
    assert len(caught.value.partial.events) == 10
    assert caught.value.partial.answer == "42"
    assert caught.value.outcome == STARTED


ELSEWHERE: Final[dict[str, tuple[Any, Script, dict[str, Any]]]] = {
    "an agent that raised": (errors.RemoteAgentError, Script([Fail()]), {}),
    "an agent that raised, confirmed": (errors.RemoteAgentError, Script([Fail()]), {"confirm_state": True}),
    "an agent that raised, and nobody asks": (
        "Error executing oxy trip_planner: scripted failure",
        Script([Fail()]),
        {"confirm_state": False},
    ),
    "a task that died": (errors.IdleTimeoutError, Script([Hang()]), {"timeouts": Timeouts(total=3600)}),
    "a detector": (errors.RemoteAgentError, Script(output="bad"), {"failure_detector": "bad".__eq__}),
    "an odd answer": ({"a": [1, None]}, Script(output={"a": [1, None]}), {}),
}


@pytest.mark.parametrize("name", ELSEWHERE)
async def test_states_of_detached_runs(name: str) -> None:
    """States, failure detectors and answers work as for a run that was streamed from its start."""
    expected, script, options = ELSEWHERE[name]
    agent = Listening(ToyRemote(default=script), **options).agent
    token = (await agent.start("?")).to_token()
    try:
        async with agent.attach(token) as run:
            found: Any = (await run.final_response()).output
    except errors.OxyError as error:
        found = type(error)
    assert found == expected


async def test_an_unknown_run() -> None:
    """A run that the server does not know is waited for until `idle`, and the error names it."""
    agent = Listening(ToyRemote()).agent
    with pytest.raises(errors.IdleTimeoutError, match="no record of the run") as caught:
        async with agent.attach(TOKEN) as run:
            await run.final_response()
    assert caught.value.outcome is STARTED


async def test_feedback_to_a_detached_run() -> None:
    """Feedback to a detached run goes by the caller's trace id."""
    toy, name = ToyRemote(default=SCRIPT), new_id()
    agent = Listening(toy).agent
    handles = [await agent.start("?", trace_id=name) for _ in range(2)]
    async with agent.attach(handles[1].to_token()) as run:
        await anext(run)
        await agent.feedback(name, {"go": "on"})
        await agent.feedback(handles[1].remote_trace_id, "stop")
        await run.final_response()
    assert [run.feedback for run in toy.runs] == [[], [{"go": "on"}, "stop"]]
    with pytest.raises(errors.EnvelopeError) as caught:
        await agent.feedback(name, "")
    assert caught.value.outcome is REJECTED
