"""The scripted transport: replies by script, and recorded requests.

Rule: these are the features that tests of users may rely on.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from oxygent_client import Decoder, HTTPRequest, SSEOxyGent, Transport, errors
from oxygent_client._protocol.messages import to_event
from oxygent_client.testing import (
    FakeTransport,
    Pause,
    Reply,
    answer,
    close,
    delta,
    heartbeat,
    message,
    observation,
    pause,
    progress,
    text,
    tool_call,
)
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Mapping

URL: Final = "http://remote.test"
STREAM: Final = {"content-type": "text/event-stream; charset=utf-8"}


def post(body: Any = None) -> HTTPRequest:
    """Return a request for a run."""
    return HTTPRequest("POST", URL, "/sse/chat", {}, json.dumps(body or {}).encode())


def get(path: str) -> HTTPRequest:
    """Return a request for a document."""
    return HTTPRequest("GET", URL, path)


async def reading(transport: FakeTransport, request: HTTPRequest) -> tuple[int, Mapping[str, str], list[Any], float]:
    """Return status, headers, chunks (or an error), and the duration."""
    began = anyio.current_time()
    chunks: list[Any] = []
    async with transport.exchange(request) as response:
        assert response.request is request
        try:
            async for chunk in response.chunks:
                chunks.append(chunk)  # noqa: PERF401  (the chunks before an error count)
        except errors.OxyError as error:
            chunks.append(repr(error))
    return response.status, response.headers, chunks, round(anyio.current_time() - began, 3)


LOST: Final = errors.ConnectionLostError("lost")
REPLIES: Final[dict[str, tuple[Reply, int, Mapping[str, str], list[Any], float]]] = {
    # case: (the reply, status, headers, chunks, seconds)
    "nothing": (Reply(), 200, STREAM, [], 0),
    "chunks": (Reply([b"a", b"", b"b"]), 200, STREAM, [b"a", b"", b"b"], 0),
    "waits": (Reply([pause(1), b"a", pause(2), pause(0.5)]), 200, STREAM, [b"a"], 3.5),
    "an error": (Reply([b"a", LOST, b"b"]), 200, STREAM, [b"a", repr(LOST)], 0),
    "a status": (Reply([b"no"], status=503, headers={"retry-after": "1"}), 503, {"retry-after": "1"}, [b"no"], 0),
    "late headers": (Reply([b"a"], before=pause(7)), 200, STREAM, [b"a"], 7),
    "JSON": (Reply.json({"é": 1}, status=201), 201, {"content-type": "application/json"}, [b'{"\\u00e9": 1}'], 0),
}


@pytest.mark.parametrize("which", REPLIES)
async def test_replies(which: str) -> None:
    """A reply follows its script each time."""
    reply, *expected = REPLIES[which]
    transport = FakeTransport({"/sse/chat": reply})
    for count in (1, 2):
        assert [*await reading(transport, post())] == expected
        assert len(transport.requests) == count
        assert len(transport.left) == count


async def test_a_scripted_error() -> None:
    """A scripted error is raised on entering, and the exchange counts as left."""
    transport = FakeTransport({"/sse/chat": Reply(before=LOST)})
    with pytest.raises(errors.ConnectionLostError) as caught:
        await reading(transport, post())
    assert repr(caught.value) == repr(LOST)
    assert len(transport.requests) == 1
    assert len(transport.left) == 1


async def test_lists_of_replies() -> None:
    """A list of replies is used in order; after the last one an error is raised."""
    transport = FakeTransport({"/sse/chat": [Reply([b"1"]), Reply([b"2"])], "/x": Reply([b"x"])})
    assert [(await reading(transport, post()))[2] for _ in range(2)] == [[b"1"], [b"2"]]
    with pytest.raises(errors.ConfigurationError, match="no reply is left for /sse/chat"):
        await reading(transport, post())
    assert (await reading(transport, get("/x")))[2] == [b"x"]


async def test_other_paths() -> None:
    """A path without a reply is a 404."""
    transport = FakeTransport.script(answer(1), close())
    status, headers, chunks, _ = await reading(transport, get("/get_organization"))
    assert status == 404
    assert headers["content-type"] == "application/json"
    assert chunks == [b'{"detail": "Not Found"}']


async def test_recorded_requests() -> None:
    """Requests are kept in the order of sending, and of their end, with decoded payloads."""
    transport = FakeTransport({"/sse/chat": Reply([pause(math.inf)]), "/x": Reply()})
    first, second, third = post({"n": 1}), get("/x"), post({"n": 2})
    async with transport.exchange(first):
        await reading(transport, second)
        with anyio.move_on_after(1) as scope:
            await reading(transport, third)
        assert scope.cancelled_caught
    assert transport.requests == [first, second, third]
    assert transport.left == [second, third, first]
    assert transport.payloads == [{"n": 1}, {"n": 2}]
    closed = [transport.closed]
    for _ in range(2):
        await transport.aclose()
        closed.append(transport.closed)
    assert closed == [False, True, True]
    with pytest.raises(errors.ClosedError):
        await reading(transport, get("/x"))
    assert isinstance(transport, Transport)


async def test_on_close() -> None:
    """A reply's `on_close` is called once with each request whose exchange has ended, however it ended."""
    told: list[HTTPRequest] = []
    replies = [
        Reply(on_close=told.append),
        Reply([pause(math.inf)], on_close=told.append),
        Reply(before=LOST, on_close=told.append),
    ]
    transport = FakeTransport({"/sse/chat": replies})
    requests = [post({"n": n}) for n in range(3)]
    await reading(transport, requests[0])
    with anyio.move_on_after(1):
        async with transport.exchange(requests[1]) as response:
            assert len(told) == 1
            await anext(response.chunks)
    with pytest.raises(errors.ConnectionLostError):
        await reading(transport, requests[2])
    assert requests == told == transport.left


@pytest.mark.parametrize(
    "reply",
    [Reply(before=pause(math.inf)), Reply([pause(math.inf), b"never"])],
    ids=["before the headers", "before a chunk"],
)
async def test_endless_pauses(reply: Reply) -> None:
    """`pause(math.inf)` waits until the reader leaves, before the headers and between chunks."""
    transport = FakeTransport({"/sse/chat": reply})
    with anyio.move_on_after(10**5) as scope:
        await reading(transport, post())
    assert scope.cancelled_caught
    assert transport.requests == transport.left


async def test_entering_is_a_checkpoint() -> None:
    """Entering an exchange without a pause is a checkpoint."""
    transport = FakeTransport({"/x": Reply()})
    with anyio.CancelScope() as scope:
        scope.cancel()
        await reading(transport, get("/x"))
    assert scope.cancelled_caught


BUILT: Final[dict[str, tuple[bytes, str, Any]]] = {
    # builder: (its bytes, the class of the event, its content)
    "tool_call": (tool_call("search", {"query": "x"}), "ToolCall", ("search", "master", "agent", "tool")),
    "tool_call of the root": (tool_call("master", caller="user"), "ToolCall", ("master", "user", "user", "agent")),
    "observation": (observation("search", [1], caller="a"), "Observation", ("search", "a", "agent", "tool")),
    "answer": (answer({"a": [1]}), "Answer", {"a": [1]}),
    "delta": (delta("é\n🚀"), "TextDelta", {"delta": "é\n🚀", "agent": "master", "node_id": ""}),
    "progress": (progress(None), "Progress", None),
    "text": (text("two\nlines"), "Text", "two\nlines"),
    "text that is JSON": (text("[1]"), "Custom", [1]),
    "message": (message(7), "Custom", 7),
}


@pytest.mark.parametrize("which", BUILT)
def test_builders(which: str) -> None:
    """A builder makes one event with the bytes of a real server, which decodes to its arguments."""
    piece, cls, expected = BUILT[which]
    (sse,) = Decoder().feed(piece)
    event = to_event(sse)
    got = event.content
    if cls in ("ToolCall", "Observation"):
        got = tuple(event.content[name] for name in ("callee", "caller", "caller_category", "callee_category"))
    assert type(event).__name__ == cls
    assert got == expected
    assert piece.startswith(b"event: message\r\ndata: ")
    assert piece.endswith(b"\r\n\r\n")


def test_more_builders() -> None:
    """Ids, names, retry times and stacks are optional; a pause is a value; a heartbeat is no event."""
    piece = message("x", event="own", id="7", retry=10)
    assert piece == b"id: 7\r\nevent: own\r\ndata: x\r\nretry: 10\r\n\r\n"
    assert close() == b"event: close\r\ndata: done\r\n\r\n"
    assert close("bye") == b"event: close\r\ndata: bye\r\n\r\n"
    assert Decoder().feed(heartbeat()) == []
    assert pause(3) == Pause(3)
    assert Reply([pause(1)]) == Reply((pause(1),))
    stacks = {
        ("user", "master", "search"): tool_call("search"),
        ("user", "master"): observation("master", 1, caller="user"),
        ("user", "a", "b"): tool_call("b", call_stack=("user", "a", "b"), node_id="n"),
    }
    contents = [to_event(Decoder().feed(step)[0]).content for step in stacks.values()]
    assert [[*stack] for stack in stacks] == [content["call_stack"] for content in contents]
    assert [content["node_id"] for content in contents] == ["search", "master", "n"]


async def test_with_an_agent() -> None:
    """A script is a remote: without `close` its run is cut."""
    whole = FakeTransport.script(tool_call("search"), answer("42"), close())
    assert (await SSEOxyGent(server_url=URL, transport=whole).ask("hi")).output == "42"
    with pytest.raises(errors.IncompleteStreamError):
        await SSEOxyGent(server_url=URL, transport=FakeTransport.script(answer("42"))).ask("hi")
    assert whole.payloads[0]["query"] == "hi"


async def test_scripted_errors_are_copied() -> None:
    """A scripted error is copied for each run; a foreign exception is raised as it is."""
    scripted = errors.ConnectError("refused")
    own = OSError("own")
    agent = SSEOxyGent(server_url=URL, transport=FakeTransport({"/sse/chat": Reply(before=scripted)}))
    caught: list[errors.OxyError] = []
    for trace_id in ("first", "second"):
        with pytest.raises(errors.ConnectError, match="refused") as each:
            await agent.ask("hi", trace_id=trace_id)
        caught.append(each.value)
    assert [error.trace_id for error in (*caught, scripted)] == ["first", "second", ""]
    with pytest.raises(OSError, match="own") as foreign:
        await reading(FakeTransport({"/sse/chat": Reply([own])}), post())
    assert foreign.value is own
