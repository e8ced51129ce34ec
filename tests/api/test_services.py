"""Calls beside runs: feedback, upload, check_alive, and the start of a detached run.

Rule 1: requests are compared byte by byte; their effect at real servers is tested in `tests/interop/test_records.py`.
Rule 2: time is virtual.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest

from oxygent_client import HTTPRequest, Limits, Outcome, SSEOxyGent, Welcome, errors
from oxygent_client._api.services import check_alive, feedback, rate, start, upload, welcome
from oxygent_client._core.transport import Context
from oxygent_client.policies import APIKey, APIKeyTransport
from oxygent_client.testing import FakeTransport, Reply, ToyRemote, pause
from oxygent_client.transports.asgi import ASGITransport
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oxygent_client import Transport

SECRET: Final = "hunter2"
LIMITS: Final = Limits()
SECONDS: Final = 5.0
PATTERN: Final = HTTPRequest(
    "GET", "http://remote.test", "", {"user-agent": "test"}, context=Context(trace_id="t", idempotent=True)
)
RUN: Final = HTTPRequest("POST", "http://remote.test", "/async/chat", body=b"{}", context=Context(trace_id="t"))
OK: Final = Reply.json({"code": 200, "message": "SUCCESS", "data": {}})


def until() -> float:
    """Return the deadline of the call."""
    return anyio.current_time() + SECONDS


async def alive(transport: Transport) -> bool:
    """Call `check_alive`."""
    return await check_alive(transport, PATTERN, LIMITS, until=until())


async def say(transport: Transport, data: Any = "yes") -> None:
    """Call `feedback`."""
    await feedback(transport, PATTERN, "channel", data, LIMITS, until=until())


async def put(transport: Transport, name: str = "a.txt", content_type: str = "text/plain") -> str:
    """Call `upload`."""
    return await upload(transport, PATTERN, name, b"\x00\r\n\xff", LIMITS, until=until(), content_type=content_type)


async def like(transport: Transport, rating: Any = "like", comment: str = "") -> None:
    """Call `rate`."""
    await rate(transport, PATTERN, "t-1", rating, comment, LIMITS, until=until())


async def greet(transport: Transport) -> Welcome:
    """Call `welcome`."""
    return await welcome(transport, PATTERN, LIMITS, until=until())


async def begin(transport: Transport) -> None:
    """Call `start`."""
    await start(transport, RUN, LIMITS, until=until())


# ------------------------------------------------------------------------------------------------------------- Requests


@pytest.mark.parametrize("number", [1, 0])
async def test_check_alive(number: int) -> None:
    """`check_alive` is one idempotent GET, and returns the server's value."""
    transport = FakeTransport({"/check_alive": Reply.json({"alive": number})})
    assert await alive(transport) is bool(number)
    (sent,) = transport.requests
    context = Context(purpose="health", trace_id="t", deadline=until(), idempotent=True)
    assert attrs.evolve(PATTERN, path="/check_alive", context=context) == sent


@pytest.mark.parametrize("data", ["yes", {"a": [1, None, "ü"]}, 42, "", None, False, []])
async def test_feedback(data: Any) -> None:
    """`feedback` is one POST of the channel and any JSON, not idempotent."""
    transport = FakeTransport({"/feedback": OK})
    await say(transport, data)
    (sent,) = transport.requests
    headers = {"user-agent": "test", "content-type": "application/json"}
    context = Context(purpose="feedback", trace_id="t", deadline=until())
    assert HTTPRequest("POST", PATTERN.base_url, "/feedback", headers, sent.body, context=context) == sent
    assert json.loads(sent.body) == {"channel_id": "channel", "data": data}


async def test_upload() -> None:
    """`upload` is one POST of a form with the file, under a random boundary."""
    transport = FakeTransport({"/upload": Reply.json({"code": 200, "data": {"file_name": "../static/1_ü b.txt"}})})
    boundaries: set[str] = set()
    for _ in range(2):
        assert await put(transport, "ü b.txt") == "../static/1_ü b.txt"
        sent = transport.requests[-1]
        boundary = sent.headers["content-type"].removeprefix("multipart/form-data; boundary=")
        boundaries.add(boundary)
        assert (
            f"--{boundary}\r\n"
            'content-disposition: form-data; name="file"; filename="ü b.txt"\r\n'
            "content-type: text/plain\r\n\r\n"
        ).encode() + b"\x00\r\n\xff" + f"\r\n--{boundary}--\r\n".encode() == sent.body
        context = Context(purpose="feedback", trace_id="t", deadline=until())
        assert sent.method == "POST"
        assert sent.path == "/upload"
        assert sent.context == context
    assert len(boundaries) == 2
    assert all(len(boundary) == 32 for boundary in boundaries)


async def test_start() -> None:
    """`start` sends the request once, with its deadline."""
    transport = FakeTransport({"/async/chat": OK})
    await begin(transport)
    (sent,) = transport.requests
    assert sent.context.deadline is not None
    assert attrs.evolve(sent, context=RUN.context) == RUN


@pytest.mark.parametrize(("comment", "more"), [("", {}), ("x" * 500, {"comment": "x" * 500})], ids=["none", "long"])
async def test_rate(comment: str, more: dict[str, str]) -> None:
    """`rate` is one POST, with a comment if given, not idempotent."""
    transport = FakeTransport({"/rating": OK})
    await like(transport, "dislike", comment)
    (sent,) = transport.requests
    assert json.loads(sent.body) == {"trace_id": "t-1", "rating_type": "dislike", **more}
    assert sent.context == Context(purpose="feedback", trace_id="t", deadline=until())


def document(**data: Any) -> Reply:
    """Return an envelope with these data."""
    return Reply.json({"code": 200, "message": "SUCCESS", "data": data})


NONE: Final = Reply.json({"detail": "Not Found"}, status=404)
GREETINGS: Final[dict[str, tuple[Reply, Reply, Welcome]]] = {
    "a text": (document(welcome_message="hi"), document(first_query="one"), Welcome("hi", ("one",))),
    "a list": (
        document(welcome_message="hi"),
        document(first_query=["one", "", 7, "two"]),
        Welcome("hi", ("one", "two")),
    ),
    "empty": (document(welcome_message=""), document(first_query=""), Welcome()),
    "of another type": (document(welcome_message=7), document(first_query={"a": 1}), Welcome()),
    "no such path": (NONE, NONE, Welcome()),
}


@pytest.mark.parametrize(("message", "queries", "expected"), GREETINGS.values(), ids=GREETINGS)
async def test_welcome(message: Reply, queries: Reply, expected: Welcome) -> None:
    """`welcome` returns the message and the queries of a server, or empty values."""
    transport = FakeTransport({"/get_welcome_message": message, "/get_first_query": queries})
    assert await greet(transport) == expected


@pytest.mark.parametrize("path", ["/get_welcome_message", "/get_first_query"])
async def test_a_welcome_that_fails(path: str) -> None:
    """An error of the server is raised."""
    replies = {"/get_welcome_message": document(), "/get_first_query": document(), path: Reply.json({}, status=500)}
    with pytest.raises(errors.ServerError):
        await greet(FakeTransport(replies))


# ---------------------------------------------------------------------------------------------------- Refused arguments


@pytest.mark.parametrize(("rating", "comment", "name"), [("best", "", "rating"), ("like", "x" * 501, "comment")])
async def test_ratings_that_are_none(rating: str, comment: str, name: str) -> None:
    """An invalid rating or comment is refused before anything is sent."""
    transport = FakeTransport({})
    with pytest.raises(errors.ConfigurationError, match=name):
        await like(transport, rating, comment)
    assert transport.requests == []


NAMES: Final = [
    "", ".", "..", 'a".txt', "a\r\n.txt", "a\n.txt", "a\0.txt", "a/b.txt", "../b.txt", "a\\b.txt", "a\x7f.txt", "\ud800"
]  # fmt: skip
TYPES: Final = ["", "text", "text/plain\r\nx: y", "text/plain; a=\n", "text/ü", "/", "text/plain, a/b"]


@pytest.mark.parametrize("name", NAMES)
async def test_invalid_names(name: str) -> None:
    """A file name or channel with a line break or a path is refused before anything is sent."""
    transport = FakeTransport({})
    with pytest.raises(errors.PayloadError):
        await put(transport, name)
    assert transport.requests == []


@pytest.mark.parametrize("content_type", TYPES)
async def test_invalid_content_types(content_type: str) -> None:
    """A content type with a line break is refused."""
    transport = FakeTransport({})
    with pytest.raises(errors.PayloadError):
        await put(transport, content_type=content_type)
    assert transport.requests == []


@pytest.mark.parametrize("content_type", ["text/plain; charset=utf-8", "application/vnd.ms-excel", "image/svg+xml"])
async def test_content_types(content_type: str) -> None:
    """Valid content types are accepted."""
    transport = FakeTransport({"/upload": Reply.json({"code": 200, "data": {"file_name": "f"}})})
    assert await put(transport, content_type=content_type) == "f"
    assert f"\r\ncontent-type: {content_type}\r\n\r\n".encode() in transport.requests[0].body


@pytest.mark.parametrize("data", [float("nan"), {1, 2}, "\ud800", object()])
async def test_feedback_that_is_not_json(data: Any) -> None:
    """A value that is not JSON is refused before anything is sent."""
    transport = FakeTransport({})
    with pytest.raises(errors.PayloadError, match="'data'"):
        await say(transport, data)
    assert transport.requests == []


# --------------------------------------------------------------------------------------------------------------- Errors

CALLS: Final[dict[str, Callable[[Transport], Awaitable[object]]]] = {
    "/check_alive": alive,
    "/feedback": say,
    "/upload": put,
    "/async/chat": begin,
    "/rating": like,
}


def said(code: Any) -> Reply:
    """Return an error envelope in a 200."""
    return Reply.json({"code": code, "message": "illegal channel_id", "data": {}})


INSTEAD: Final = [
    # the response of the server: the error, and the outcome
    (said(400), errors.EnvelopeError, Outcome.REJECTED),
    (said(401), errors.EnvelopeError, Outcome.REJECTED),
    (said(499), errors.EnvelopeError, Outcome.REJECTED),
    (said(500), errors.EnvelopeError, Outcome.UNKNOWN),
    (said(399), errors.EnvelopeError, Outcome.UNKNOWN),
    (said("400"), errors.EnvelopeError, Outcome.UNKNOWN),
    (Reply.json({}), errors.EnvelopeError, Outcome.UNKNOWN),
    (Reply([b"<html>"]), errors.MalformedResponseError, Outcome.UNKNOWN),
    (Reply([b"[]"]), errors.MalformedResponseError, Outcome.UNKNOWN),
    (Reply([b"[" * 100_000]), errors.TooLargeError, Outcome.UNKNOWN),
    (Reply([b" " * 20_000] * 500), errors.TooLargeError, Outcome.UNKNOWN),
    (Reply.json({"detail": "Not Found"}, status=404), errors.NotFoundError, Outcome.REJECTED),
    (Reply.json({"detail": "no .exe"}, status=400), errors.StatusError, Outcome.REJECTED),
    (Reply([b"Internal Server Error"], status=500), errors.ServerError, Outcome.UNKNOWN),
    (Reply([pause(60)]), errors.DeadlineExceededError, Outcome.UNKNOWN),
    (Reply(before=errors.ConnectError("refused")), errors.ConnectError, Outcome.NOT_SENT),
    (Reply(before=errors.ConnectionLostError("reset")), errors.ConnectionLostError, Outcome.UNKNOWN),
]


@pytest.mark.parametrize(("reply", "error", "outcome"), INSTEAD)
@pytest.mark.parametrize("path", ["/feedback", "/upload", "/async/chat", "/rating"])
async def test_errors(path: str, reply: Reply, error: type[errors.OxyError], outcome: Outcome) -> None:
    """Each error is typed, in time and with its outcome, and nothing is retried."""
    transport = FakeTransport({path: reply})
    late = until()
    with pytest.raises(error) as caught:
        await CALLS[path](transport)
    assert caught.value.outcome == outcome
    assert len(transport.requests) == 1
    assert anyio.current_time() <= late


NOT_ALIVE: Final = [
    *((reply, error) for reply, error, _ in INSTEAD[7:]),
    (Reply.json({}), errors.MalformedResponseError),
    (Reply.json({"alive": "1"}), errors.MalformedResponseError),
    (Reply.json({"alive": None}), errors.MalformedResponseError),
    (said(200), errors.MalformedResponseError),
]


@pytest.mark.parametrize(("reply", "error"), NOT_ALIVE)
async def test_check_alive_errors(reply: Reply, error: type[errors.OxyError]) -> None:
    """If a server cannot be reached, or gives another response, the error has the reason."""
    with pytest.raises(error):
        await alive(FakeTransport({"/check_alive": reply}))


@pytest.mark.parametrize("data", [{}, {"file_name": ""}, {"file_name": 7}, {"file_name": ["a"]}])
async def test_a_response_without_a_file_name(data: dict[str, Any]) -> None:
    """A response to an upload without the file's name is an error."""
    with pytest.raises(errors.MalformedResponseError):
        await put(FakeTransport({"/upload": Reply.json({"code": 200, "data": data})}))


async def test_no_secret() -> None:
    """Neither feedback nor an upload is shown in an error or in the request's repr."""
    transport = FakeTransport({"/feedback": said(400)})
    with pytest.raises(errors.EnvelopeError) as caught:
        await say(transport, SECRET)
    assert SECRET not in f"{caught.value!r} {transport.requests}"


@pytest.mark.parametrize("path", ["/feedback", "/upload", "/async/chat"])
async def test_an_envelope_that_echoes_a_credential(path: str) -> None:
    """A credential is redacted in the error of an envelope."""
    repeats = Reply.json({"code": 401, "message": f"{SECRET}-42 is no key"})
    transport = APIKeyTransport(FakeTransport({path: repeats}), APIKey(f"{SECRET}-42"))
    with pytest.raises(errors.EnvelopeError, match=r"'\[scrubbed\] is no key'") as caught:
        await CALLS[path](transport)
    assert caught.value.outcome is Outcome.REJECTED
    assert SECRET not in f"{caught.value!r}"


@pytest.mark.parametrize("path", CALLS)
async def test_cancellation(path: str) -> None:
    """A call can be cancelled."""
    with anyio.move_on_after(1) as scope:
        await CALLS[path](FakeTransport({path: Reply([pause(60)])}))
    assert scope.cancelled_caught


# ------------------------------------------------------------------------------------------------------- The toy remote


async def test_the_toy() -> None:
    """The toy remote serves these calls: a run that was started takes feedback while it runs."""
    toy = ToyRemote()
    transport = ASGITransport(toy)
    body = json.dumps({"query": "trip", "current_trace_id": "channel"}).encode()
    assert await alive(transport)
    assert await put(transport, "a b#ü.txt") == "../static/20260101000000_a_b_ü.txt"
    assert toy.files == {"../static/20260101000000_a_b_ü.txt": b"\x00\r\n\xff"}
    with pytest.raises(errors.EnvelopeError):
        await say(transport)
    await start(transport, attrs.evolve(RUN, body=body), LIMITS, until=until())
    await say(transport)
    assert toy.runs[0].feedback == ["yes"]
    await anyio.sleep(60)
    with pytest.raises(errors.EnvelopeError):
        await say(transport)


async def test_the_toy_and_the_agent() -> None:
    """The agent's `welcome` and `rate` work with the toy; a rating has the caller's trace id."""
    toy = ToyRemote(pace=0, welcome_message="hi", first_query=["one", "two"])
    agent = SSEOxyGent(server_url="http://127.0.0.1:1", transport=ASGITransport(toy))
    await agent.ask("echo one", trace_id="t")
    assert await agent.welcome() == Welcome("hi", ("one", "two"))
    await agent.rate("t", "like", "well done")
    assert toy.ratings == [{"trace_id": "t", "rating_type": "like", "comment": "well done"}]


async def test_a_rating_that_the_toy_refuses() -> None:
    """The toy refuses a rating as a real server does."""
    request = HTTPRequest("POST", "http://127.0.0.1:1", "/rating", body=b"{}")
    async with ASGITransport(ToyRemote()).exchange(request) as response:
        assert response.status == 422
