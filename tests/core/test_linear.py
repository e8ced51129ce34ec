"""Time and memory grow linearly with the data of a remote, and with the calls of a run.

Rule 1: what can be counted is counted. A time is processor time, the best of several; quadratic code would take
    sixteen times as long, and MOST is far from both.
Rule 2: memory is what Python allocates.
"""

from __future__ import annotations

import gc
import json
import pickle
import time
import tracemalloc
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from oxygent_client import AgentRegistry, Custom, Decoder, Limits, OxyRequest, SSEOxyGent, TextDelta
from oxygent_client._agent.callbacks import CallbackDispatcher
from oxygent_client._core.events import ServerSentEvent
from oxygent_client._core.json_codec import loads
from oxygent_client._core.redaction import scrub_json, scrub_text
from oxygent_client._core.sent_secrets import SentSecrets
from oxygent_client._core.spellings import find, needles
from oxygent_client._core.text import escape_text
from oxygent_client._protocol.messages import is_event_stream, to_event
from oxygent_client._protocol.router import EventRouter, Forward, SetAnswer
from oxygent_client._protocol.schema import check
from oxygent_client._run.received import ReceivedEvents
from oxygent_client.sanitize import escape_control_characters, redact, strip_control_characters, truncate
from oxygent_client.testing import FakeTransport, answer, close, message
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST: Final = 9.0
"""The greatest ratio of times for four times as much data."""
ATTEMPTS: Final = 5
FLOOR: Final = 0.002
"""Shorter times in seconds are not measured reliably."""
SIZE: Final = 10_000


def times_as_long(work: Callable[[int], object], size: int = SIZE) -> float:
    """Return the ratio of times for four times as much: the least of some measurements, the first below MOST.

    Other programs and the allocator make single measurements too long, but a quadratic one never short.
    """

    def seconds(size: int) -> float:
        began = time.process_time()
        work(size)
        return time.process_time() - began

    def ratio() -> float:
        small = min(seconds(size) for _ in range(3))
        large = min(seconds(4 * size) for _ in range(2))
        return large / max(small, FLOOR)

    gc.disable()  # a collection visits all objects of the process
    try:
        ratios = [ratio()]
        while ratios[-1] >= MOST and len(ratios) < ATTEMPTS:
            ratios.append(ratio())
        return min(ratios)
    finally:
        gc.enable()


def repeated(part: str, before: str = "") -> Callable[[int], str]:
    """Return a text of so many characters."""
    return lambda size: before + part * (size // len(part))


def nested_texts(size: int) -> str:
    """Return JSON in a text, in JSON in a text, and so on: each level is decoded again."""
    text = "x"
    while len(text) < size:
        text = json.dumps({"a": text, "b": "y" * (size // 20)})
    return text


def sent() -> SentSecrets:
    """Return what a request with secrets of all lengths has sent."""
    secrets = SentSecrets()
    headers = {"authorization": "Bearer eyJ-a.b.c://a", "cookie": "a=a.-a; b=aaaaaaaa", "x-acme": "%25%41" * 9}
    secrets.note("http://ada:pass@h?key=value", headers)
    return secrets


TEXTS: Final[dict[str, Callable[[int], str]]] = {
    "quotes": repeated('\\"', "{"),
    "quotes and spaces": repeated('"   ', "{"),
    "single quotes": repeated("\\'", '{"'),
    "both quotes": repeated("\"'", "["),
    "ends of keys": repeated('":', "{"),
    "ends of keys, apart": repeated('" : ', "{"),
    "keys": repeated('"a":1,', "{"),
    "keys with spaces": repeated('"a" ', "{"),
    "backslashes": repeated("\\", '{"'),
    "one long key": lambda size: '{"' + "a" * size + '": 1',
    "one long value": lambda size: '{"a": "' + "a" * size,
    "digits": lambda size: '{"a": ' + "1" * size,
    "spaces": lambda size: '{"a"' + " " * size,
    "brackets": repeated("[],", "["),
    "open brackets": repeated("["),
    "half a web token": repeated("-eyJ"),
    "parts of web tokens": repeated("eyJaaaaa."),
    "web tokens": repeated("eyJaaaaa.b.c "),
    "names": repeated("a.-"),
    "names and values": repeated("a=b&"),
    "equal signs": repeated("a="),
    "bearer": repeated("a/", "bearer "),
    "bearers": repeated("bearer "),
    "addresses": repeated("://a"),
    "one address": repeated("a", "://"),
    "user information": repeated("://a@"),
    "control characters": repeated("\x1b[0m"),
    "secret words": repeated("password "),
    "a long word": repeated("Aa1密"),
    "nested texts": nested_texts,
    "escapes": repeated("%25"),
    "escapes of all kinds": repeated("%41\\u0061&#97;\\/&amp;"),
    "ampersands": repeated("&a"),
    "beginnings of a secret": repeated("aaaaaaa "),
}
WORK: Final[dict[str, Callable[[str], object]]] = {
    "scrub_text": scrub_text,
    "scrub_json": lambda text: scrub_json({"content": [text, {"a": text}]}),
    "what was sent": sent().clean,
    "redact": lambda text: redact("a")([{"a": 1, "b": text}]),
    "strip_control_characters": strip_control_characters,
    "escape_control_characters": escape_control_characters,
    "truncate": truncate(10),
    "shown_text": lambda text: escape_text(text, len(text)),
    "to_event": lambda text: to_event(ServerSentEvent(data=text)),
    "is_event_stream": lambda text: is_event_stream(f'text/event-stream; a="{text}'),
}


@pytest.mark.slow
@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
@pytest.mark.parametrize("make", TEXTS.values(), ids=TEXTS)
def test_texts(make: Callable[[int], str], work: Callable[[str], object]) -> None:
    """Redacting a text takes time in proportion to its length, for any text."""
    assert times_as_long(lambda size: work(make(size))) < MOST


STREAMS: Final = {
    "one line": b"x",
    "one line of data": b"data: " + b"x" * 58,
    "lines of data": b"data: x\n",
    "lines of data, CRLF": b"data: x\r\n",
    "lines that are no field": b"abc\n",
    "names alone": b"event\n",
    "ids": b"id: 7\n",
    "delays": b"retry: 1234567890\n",
    "comments": b":\n",
    "heartbeats": b": ping\r\n\r\n",
    "blank lines": b"\n",
    "CR": b"\r",
    "CR and LF in turn": b"\r\n\n\r",
    "events": b"id: 1\nevent: a\ndata: {}\nretry: 9\n\n",
    "events, CRLF": b"id: 1\r\nevent: a\r\ndata: {}\r\nretry: 9\r\n\r\n",
    "almost events": b"id: 1\nevent: a\ndata: {}\nretry: 9\nx\n",
    "LF in events with CRLF": b"data: a\nb\r\n\r\n",
    "bytes that are no UTF-8": b"data: \xff\n\n",
    "NUL": b"data: \0\n\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 10, 1000, 65536])
@pytest.mark.parametrize("part", STREAMS.values(), ids=STREAMS)
def test_decoding(part: bytes, size: int) -> None:
    """Decoding takes time in proportion to the bytes, whatever they are and however they are cut."""

    def decode(total: int) -> None:
        stream, decoder = part * (total // len(part)), Decoder(Limits(line_bytes=None, event_bytes=None))
        for start in range(0, len(stream), size):
            decoder.feed(stream[start : start + size])

    assert times_as_long(decode, 64 * 1024) < MOST


@pytest.mark.parametrize("part", ["ab", "a", "aab", "abc "])
def test_long_secrets(part: str) -> None:
    """A text that ends within a long secret is compared with it once."""
    texts = {times * SIZE: ((part * times * SIZE).encode(), needles([f"{part * times * SIZE}x"])) for times in (1, 4)}
    assert times_as_long(lambda size: find(*texts[size])) < MOST


DOCUMENTS: Final[dict[str, Callable[[int], str]]] = {
    "lists": lambda size: "[" + "[]," * size + "[]]",
    "objects": lambda size: "[" + '{"a":{}},' * size + "1]",
    "brackets in texts": lambda size: "[" + '"[[[",' * size + "[]]",
}


@pytest.mark.parametrize("make", DOCUMENTS.values(), ids=DOCUMENTS)
def test_the_depth_of_documents(make: Callable[[int], str]) -> None:
    """Decoding JSON and counting its depth take time in proportion to its length."""
    assert times_as_long(lambda size: loads(make(size), depth=128)) < MOST


# ----------------------------------------------------------------------------------------------------------------- Runs


def delta(text: str) -> TextDelta:
    """Return a text delta as received."""
    content = {"delta": text, "agent": "a", "node_id": "n"}
    sent = {"type": "stream", "content": content}
    return TextDelta("stream", content, sent, ServerSentEvent(data=json.dumps(sent)))


def test_the_text_after_each_delta() -> None:
    """Reading the text after each delta takes time in proportion to the deltas."""
    piece = delta("x" * 20)

    def read(count: int) -> None:
        seen, length = ReceivedEvents(Limits()), 0
        for _ in range(count):
            seen.note(piece, SetAnswer(None))
            length = len(seen.texts.text)
        assert length == 20 * count

    assert times_as_long(read, 10_000) < MOST


@pytest.mark.parametrize("every", [1, 7, 1000], ids=lambda every: f"every {every}")
def test_the_text_of_all_deltas(every: int) -> None:
    """The text is that of all deltas so far, at any time, even if earlier texts are kept."""
    seen, kept = ReceivedEvents(Limits()), list[tuple[str, str]]()
    said = ""
    for number in range(1500):
        piece = f"{number}ü " if number % 3 else "密"
        said += piece
        seen.note(delta(piece), SetAnswer(None))
        if number % every == 0:
            kept.append((seen.texts.text, said))
    assert seen.texts.text == said
    assert [text for text, _ in kept] == [expected for _, expected in kept]


@pytest.mark.seconds
def test_the_memory_of_deltas() -> None:
    """A delta that is no longer among the last events costs little more than its characters."""
    count, size = 20_000, 20
    seen = ReceivedEvents(Limits(partial_events=10))
    tracemalloc.start()
    try:
        for _ in range(count):
            seen.note(delta("x" * size), SetAnswer(None))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / count < size + 10


async def peak(agent: SSEOxyGent) -> int:
    """Return the peak of allocated bytes while a run is read."""
    tracemalloc.start()
    try:
        await agent.ask("hi")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def agent_for(content: Any, **options: Any) -> SSEOxyGent:
    """Return an agent whose remote sends one large message."""
    script = FakeTransport.script(message({"type": "x", "content": content}), answer("42"), close())
    return SSEOxyGent(server_url="https://remote.test", transport=script, **options)


async def test_the_memory_of_a_large_text() -> None:
    """An event with one large text takes a few times its size."""
    size = 4_000_000
    assert await peak(agent_for("x" * size)) < 6 * size


async def test_the_memory_of_a_large_document() -> None:
    """A message without a receiver is not copied, whatever it contains."""
    content: list[list[int]] = [[] for _ in range(100_000)]
    tracemalloc.start()
    document = json.loads(json.dumps(content))
    alone, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert await peak(agent_for(document)) < 2.5 * alone


class Filtering(SSEOxyGent):
    """An agent whose hook gets messages."""

    async def _process_custom_event(self, event_data: Any, oxy_request: OxyRequest) -> None:
        assert event_data


async def handle(content: Any) -> None:
    """A handler."""


async def send(said: Any) -> None:
    """A `send_message`."""


class Host:
    """A host that ignores all messages."""

    async def call(self, request: OxyRequest, /, **changes: Any) -> Any:
        """Fail."""

    async def send_message(self, request: OxyRequest, said: Any, /, **more: Any) -> None:
        """Do nothing."""


class Speaking(OxyRequest):
    """A request whose class has a `send_message`."""

    async def send_message(self, message: Any = None, *_: Any, **__: Any) -> None:
        assert message


def replaced() -> OxyRequest:
    """Return a request whose `send_message` was assigned."""
    request = OxyRequest()
    vars(request)["send_message"] = send
    return request


def borrowed() -> OxyRequest:
    """Return a request with the `send_message` of another."""
    request = OxyRequest()
    vars(request)["send_message"] = OxyRequest(mas=Host()).send_message
    return request


LISTENERS: Final[dict[str, tuple[list[str], type[SSEOxyGent], dict[str, Any], Callable[[], OxyRequest]]]] = {
    # the receivers of copies; the agent's class and options; the request
    "nobody": ([], SSEOxyGent, {}, OxyRequest),
    "a handler of another type": ([], SSEOxyGent, {"event_handlers": {"y": handle}}, OxyRequest),
    "a handler": (["seen"], SSEOxyGent, {"event_handlers": {"x": handle}}, OxyRequest),
    "a filter": (["seen"], SSEOxyGent, {"event_filter": bool}, OxyRequest),
    "sanitize": (["seen"], SSEOxyGent, {"sanitize": list}, OxyRequest),
    "a hook": (["seen"], Filtering, {}, OxyRequest),
    "a program": (["heard"], SSEOxyGent, {}, lambda: OxyRequest(mas=Host())),
    "a program that wants no messages": ([], SSEOxyGent, {}, lambda: OxyRequest(mas=Host(), is_send_message=False)),
    "send_message": (["heard"], SSEOxyGent, {}, replaced),
    "the send_message of another request": (["heard"], SSEOxyGent, {}, borrowed),
    "the send_message of a class": (["heard"], SSEOxyGent, {}, Speaking),
}


class Counted(dict[str, Any]):
    """A message, or its content, that records who reads all of it."""

    readers: list[str]

    def __iter__(self) -> Iterator[str]:
        self.readers.append("seen")
        return super().__iter__()

    def keys(self) -> Any:
        """Return the keys."""
        self.readers.append("seen")
        return super().keys()

    def copy(self) -> dict[str, Any]:
        """As of any dictionary."""
        self.readers.append("seen")
        return super().copy()

    def items(self) -> Any:
        """Return the items."""
        self.readers.append("seen")
        return super().items()


@pytest.mark.parametrize(("copies", "cls", "options", "request_of"), LISTENERS.values(), ids=LISTENERS)
async def test_copies_for_receivers(
    copies: list[str], cls: type[SSEOxyGent], options: dict[str, Any], request_of: Callable[[], OxyRequest]
) -> None:
    """A message is copied only for functions of the program that receive it."""
    made: list[str] = []
    content = Counted({"a": 1})
    received = Counted({"type": "x", "content": content})
    content.readers = received.readers = made
    delivery = CallbackDispatcher(cast("Any", cls(server_url="https://remote.test", **options)), request_of())

    def forwarded(_: Any) -> Any:
        made.append("heard")
        return {"type": "x"}

    await delivery.opened()
    await delivery.on_event(Custom("x", 1, received), Forward(None, forwarded))
    assert [*dict.fromkeys(made)] == copies


async def test_hooks_of_steps() -> None:
    """The type of the event decides which hook gets the message."""

    class OfCalls(SSEOxyGent):
        async def handle_tool_call_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
            assert event_data

    class OfObservations(SSEOxyGent):
        async def handle_observation_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
            assert event_data

    hooked = {
        cls.__name__: {*cls(server_url="https://remote.test").replaced_hooks()}
        for cls in (SSEOxyGent, OfCalls, OfObservations)
    }
    assert hooked == {
        "SSEOxyGent": set(),
        "OfCalls": {"handle_tool_call_event"},
        "OfObservations": {"handle_observation_event"},
    }


def test_a_forwarded_message_is_made_once() -> None:
    """A route's message is made when it is first used; equal routes give equal messages."""
    event = Custom("x", 1, {"type": "x", "content": [1]})
    action = EventRouter().route(event)
    assert isinstance(action, Forward)
    assert action.message is action.message
    assert action == Forward({"type": "x", "content": [1]})
    assert action != Forward(None)
    assert action != SetAnswer(None)
    assert pickle.loads(pickle.dumps(action)) == action
    assert {Forward("a"), Forward("a")} == {Forward("a")}
    assert repr(action) == "Forward(message={'type': 'x', 'content': [1]})"


# ---------------------------------------------------------------------------------------------------------------- Calls


@pytest.mark.parametrize("together", [False, True], ids=["one after the other", "in one batch"])
async def test_calls_in_a_loop(together: bool) -> None:
    """A call does not get what its caller stored about earlier calls."""
    given: list[int] = []

    async def tool(request: OxyRequest) -> int:
        given.append(len(request.parallel_dict or {}) + len(request.latest_node_ids or []))
        return len(request.pre_node_ids or [])

    async def boss(request: OxyRequest) -> list[Any]:
        batch = {"parallel_id": "batch"} if together else {}
        return [(await request.call(callee="tool", arguments={}, **batch)).output for _ in range(50)]

    said = (await AgentRegistry(tool, boss).call("boss", query="x")).output
    assert given == [0] * 50
    assert said == [0] + [0 if together else 1] * 49


async def test_the_time_of_calls_in_a_loop() -> None:
    """A call takes as long as the one before it."""
    ratios: list[float] = []

    async def tool(request: OxyRequest) -> int:
        return 1

    async def seconds(request: OxyRequest, count: int) -> float:
        began = time.process_time()
        for _ in range(count):
            await request.call(callee="tool", arguments={})
        return time.process_time() - began

    async def boss(request: OxyRequest) -> str:
        for _ in range(ATTEMPTS):
            small = max(await seconds(request, 200), await seconds(request, 200), FLOOR)
            ratios.append(await seconds(request, 800) / small)
            if ratios[-1] < MOST:
                break
        return "done"

    await AgentRegistry(tool, boss).call("boss", query="x")
    assert min(ratios) < MOST


# -------------------------------------------------------------------------------------------------------------- Schemas


def refuse(said: Any) -> None:
    """A validator that rejects each message and quotes it."""
    raise ValueError(json.dumps(said))


def test_many_secrets_in_a_message() -> None:
    """The text of a validator about a message with many secrets is not searched for each of them."""

    def work(size: int) -> None:
        check(Custom("x", None, [{"password": f"s{number}"} for number in range(size)]), {"x": refuse})

    assert times_as_long(work, 5_000) < MOST


def test_secrets_of_one_letter() -> None:
    """The mark in place of one secret is not searched for another, so that a text does not grow without bound."""
    secrets = [{"password": letter} for letter in "scrubed[]"] * 20
    (problem,) = check(Custom("x", None, secrets), {"x": refuse}).problems
    assert len(problem) <= 300


def test_a_secret_longer_than_the_text() -> None:
    """No part of a secret longer than the shown text is shown."""
    (problem,) = check(Custom("x", None, [{"password": "CANARY" * 2000}]), {"x": refuse}).problems
    assert "CANARY" not in problem
