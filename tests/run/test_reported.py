"""Errors that a server reports inside an event stream: the raised errors, without secrets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from oxygent_client import BearerAuth, Limits, Outcome, SSEOxyGent, Timeouts, errors
from oxygent_client._protocol.messages import as_text
from oxygent_client._protocol.sse import Decoder
from oxygent_client.sanitize import redact
from oxygent_client.testing import FakeTransport, Reply, answer, close, heartbeat, message, pause, progress, text
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Sequence

URL: Final = "https://remote.test"
BUSY: Final = {"code": 500, "message": "model overloaded"}
BARE: Final = json.dumps(BUSY).encode()
NAMED: Final = b'event: error\ndata: {"message": "model overloaded"}\n\n'

REPORTED: Final[dict[str, tuple[Sequence[bytes], type[errors.OxyError], Outcome]]] = {
    # name: (the stream, the error, its outcome)
    "bare": ([BARE], errors.EnvelopeError, Outcome.UNKNOWN),
    "bare, with a line end": ([BARE + b"\n"], errors.EnvelopeError, Outcome.UNKNOWN),
    "bare, over several lines": ([json.dumps(BUSY, indent=2).encode()], errors.EnvelopeError, Outcome.UNKNOWN),
    "bare, after a heartbeat": ([heartbeat(), BARE], errors.EnvelopeError, Outcome.UNKNOWN),
    "bare, after an event": ([progress(1), BARE], errors.IncompleteStreamError, Outcome.STARTED),
    "bare, no envelope": ([b'{"error": "model overloaded"}'], errors.IncompleteStreamError, Outcome.UNKNOWN),
    "bare, no JSON": ([b"model overloaded"], errors.IncompleteStreamError, Outcome.UNKNOWN),
    "bare, then close": ([BARE + b"\n\n", close()], errors.EnvelopeError, Outcome.COMPLETED),
    "data": ([message(BUSY)], errors.EnvelopeError, Outcome.STARTED),
    "data, without a blank line": ([b"data: " + BARE + b"\n"], errors.EnvelopeError, Outcome.UNKNOWN),
    "data, without a line end": ([b"data: " + BARE], errors.EnvelopeError, Outcome.UNKNOWN),
    "data, then close": ([message(BUSY), close()], errors.EnvelopeError, Outcome.COMPLETED),
    "data, after an event": ([progress(1), message(BUSY)], errors.IncompleteStreamError, Outcome.STARTED),
    "data, after an event, then close": (
        [progress(1), message(BUSY), close()],
        errors.NoAnswerError,
        Outcome.COMPLETED,
    ),
    "data, no envelope": ([message({"detail": "model overloaded"})], errors.IncompleteStreamError, Outcome.STARTED),
    "error": ([NAMED], errors.IncompleteStreamError, Outcome.STARTED),
    "error, a text": ([b"event: error\ndata: model overloaded\n\n"], errors.IncompleteStreamError, Outcome.STARTED),
    "error, then close": ([NAMED, close()], errors.RemoteAgentError, Outcome.COMPLETED),
    "error with a type": (
        [message({"type": "error", "content": "model overloaded"})],
        errors.IncompleteStreamError,
        Outcome.STARTED,
    ),
}


async def failed(stream: Sequence[Any], **options: Any) -> errors.OxyError:
    """Return the error of a run with this stream."""
    agent = SSEOxyGent(
        server_url=URL, transport=FakeTransport.script(*stream), timeouts=Timeouts(lookup=None), **options
    )
    try:
        await agent.ask("hi")
    except errors.OxyError as error:
        return error
    raise AssertionError("it went well")


@pytest.mark.parametrize(("stream", "cls", "outcome"), REPORTED.values(), ids=REPORTED)
async def test_the_text_of_the_server(stream: Sequence[Any], cls: type[errors.OxyError], outcome: Outcome) -> None:
    """The server's text is in the error's text; the class shows whether an event was received."""
    error = await failed(stream)
    assert type(error) is cls
    assert "model overloaded" in str(error)
    assert error.outcome is outcome


async def test_the_code_of_an_envelope() -> None:
    """The code of the envelope is an attribute of the error."""
    error = await failed([message(BUSY)])
    assert isinstance(error, errors.EnvelopeError)
    assert error.code == 500


UNSAID: Final[dict[str, Sequence[bytes]]] = {
    "nothing": [],
    "a cut event": [b'data: {"type": "answer", "content": "model overloaded'],
    "a cut success": [b'data: {"code": 200, "message": "model overloaded", "data": {}}'],
    "no words": [progress(1), message({"model": "overloaded"})],
    "a text": [text("model overloaded")],
    "too deep": [b'data: {"message": ' + b"[" * 300 + b'"model overloaded"' + b"]" * 300 + b"}"],
}


@pytest.mark.parametrize("stream", UNSAID.values(), ids=UNSAID)
async def test_texts_that_are_not_quoted(stream: Sequence[bytes]) -> None:
    """An event that was cut, or that reports no error, is not quoted."""
    error = await failed(stream)
    assert type(error) is errors.IncompleteStreamError
    assert "overloaded" not in str(error)


SAID: Final = {
    "bare": b'{"code": 401, "message": "no agent for CANARY/7+q"}',
    "no JSON": b"no agent for CANARY/7+q",
    "data": b'data: {"code": 401, "message": "no agent for CANARY/7+q"}\n\n',
    "error": b"event: error\ndata: no agent for CANARY/7+q\n\n",
}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
async def test_quoted_texts_hold_no_secret(said: bytes) -> None:
    """The quoted text holds no header or token of the request."""
    error = await failed([said], auth=BearerAuth("CANARY/7+q"))
    assert "no agent for [scrubbed]" in str(error)


@pytest.mark.parametrize("said", [b"x" * 100_000, b'{"code": 1, "message": "%b"}' % (b"x" * 100_000)])
async def test_quoted_texts_are_bounded(said: bytes) -> None:
    """The text of an error stays short, however long the server's text is."""
    assert len(str(await failed([said]))) < 700


async def test_an_answer_that_is_too_deep() -> None:
    """An answer that is nested too deep raises an error that names the limit; earlier events are kept."""
    error = await failed([progress(1), answer([[[]]]), close()], limits=Limits(depth=3))
    assert type(error) is errors.TooLargeError
    assert "Limits.depth (3)" in str(error)
    assert error.outcome is Outcome.COMPLETED
    assert error.partial is not None
    assert len(error.partial.events) == 2


async def test_an_answer_after_one_that_is_too_deep() -> None:
    """A later answer is the output, even if one before was nested too deep."""
    sent = [answer([[[]]]), answer("42"), close()]
    agent = SSEOxyGent(server_url=URL, transport=FakeTransport.script(*sent), limits=Limits(depth=3))
    assert (await agent.ask("hi")).output == "42"


async def test_an_old_server_and_an_answer_that_is_too_deep() -> None:
    """The bare `done` of an old server after an answer that is nested too deep is the end."""
    sent = [b'data: {"type": "answer", "content": [[[]]]}\n\n', b"data: done\n\n", pause(1000)]
    error = await failed(sent, limits=Limits(depth=3))
    assert type(error) is errors.TooLargeError
    assert error.outcome is Outcome.COMPLETED


async def test_an_event_that_is_too_deep() -> None:
    """An event that is nested too deep is a text with a problem, and the run goes on."""
    agent = SSEOxyGent(
        server_url=URL,
        transport=FakeTransport.script(progress([[[[]]]]), answer("42"), close()),
        limits=Limits(depth=4),
        schema=cast("dict[str | None, Any]", {None: _refuses}),
    )
    async with agent.stream("hi") as run:
        deep, _ = [event async for event in run]
    assert type(deep).__name__ == "Text"
    assert "Limits.depth (4)" in deep.problems[0]
    assert deep.problems[1] == "not mine"
    assert run.response.output == "42"


def _refuses(message: Any) -> None:
    if isinstance(message, str):
        raise ValueError("not mine")  # noqa: TRY004  (a validator's way)


async def test_no_answer_and_a_message_that_is_too_deep() -> None:
    """Without another answer, a message that is nested too deep raises an error: it may have been the answer."""
    error = await failed([message([[[[]]]]), close()], limits=Limits(depth=3))
    assert type(error) is errors.NoAnswerError
    assert "Limits.depth (3)" in str(error)


# Measured code has fewer frames left, so the deep ones are left out of the session `coverage`.
@pytest.mark.parametrize("frames", [1, 200, *(pytest.param(frames, marks=pytest.mark.slow) for frames in (500, 800))])
async def test_a_deeply_nested_program(frames: int) -> None:
    """A program that is deeply nested itself gets a typed error, or an event with a problem."""
    deep: Any = []
    for _ in range(395):
        deep = [deep]
    sent = [progress(deep), message({"type": "tool_call", "content": {"a": deep}}), answer(deep), close()]
    agent = SSEOxyGent(
        server_url=URL,
        transport=FakeTransport.script(*sent),
        limits=Limits(depth=400),
        sanitize=redact("password"),
        schema=cast("dict[str | None, Any]", {None: bool.__instancecheck__}),
        failure_detector=bool.__instancecheck__,
    )

    async def ask(frames: int) -> Any:
        return await (ask(frames - 1) if frames else agent.ask("hi"))

    try:
        output = (await ask(frames)).output
    except errors.TooLargeError as error:
        assert "deeper than Python can read" in str(error)  # noqa: PT017  (the other way is right, too)
    else:
        assert json.dumps(output) == json.dumps(deep)


def test_an_event_that_is_too_deep_to_format() -> None:
    """An event that is too deep to be formatted has a text."""
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert "too deep" in as_text(deep)


async def test_an_answer_with_a_long_integer() -> None:
    """An answer with a long integer is kept, with the digits as a text, and its event has a problem."""
    sent = b'data: {"type": "answer", "content": {"n": %b}}\n\n' % (b"9" * 5000)
    agent = SSEOxyGent(server_url=URL, transport=FakeTransport.script(sent, close()))
    async with agent.stream("hi") as run:
        (event,) = [event async for event in run]
    assert run.response.output == {"n": "9" * 5000}
    assert "5000 digits" in event.problems[0]


async def test_json_in_the_place_of_a_stream() -> None:
    """JSON of another shape is quoted in the error."""
    transport = FakeTransport({"/sse/chat": Reply.json({"code": 200, "data": {}, "x": "not here"})})
    with pytest.raises(errors.NotAnEventStreamError, match="not here"):
        await SSEOxyGent(server_url=URL, transport=transport).ask("hi")


LEFT: Final = {
    # name: (the stream, the quoted rest)
    "nothing": (b"", ("", "")),
    "events and comments": (b": 1\nid: 2\nretry: x\ndata: 3\n\n", ("", "")),
    "lines": (b"{\n  1: 2\n}\n\n", ("{\n  1: 2\n}\n", "")),
    "a block": (b"data: 1\ndata: 2\n", ("", "1\n2")),
    "a block and a line": (b"data: 1\ndata:2", ("", "1\n2")),
    "both": (b"stray\ndata: 1\nmore", ("stray\n\nmore", "1")),
    "much": (b"x" * 3000 + b"\n" + b"y" * 3000 + b"\n" + b"z" * 3000, ("x" * 3000 + "\n" + "y" * 1095, "")),
    "much data": (b"data: " + b"x" * 5000 + b"\n", ("", "x" * 4096)),
    "no UTF-8": (b"\xff", ("\ufffd", "")),
}


@pytest.mark.parametrize(("stream", "left"), LEFT.values(), ids=LEFT)
def test_leftovers(stream: bytes, left: tuple[str, str]) -> None:
    """The decoder keeps the beginning of bytes that became no event."""
    decoder = Decoder()
    decoder.feed(stream)
    assert decoder.leftovers == left
