"""Cassettes: recording and replaying, matching of requests, files, and scrubbing of secrets.

Rule 1: time is virtual, so that a recording has its seconds and costs none.
Rule 2: a canary is a word that must not be found; the tests look for it in each text of a cassette.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import os
import pickle
import re
import stat
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import Event, HTTPRequest, OxyRequest, SSEOxyGent, Timeouts, errors
from oxygent_client._core.redaction import SCRUBBED, is_secret, scrub_json, scrub_text
from oxygent_client.policies import APIKey
from oxygent_client.testing import (
    Cassette,
    CassetteError,
    Entry,
    FakeTransport,
    Pause,
    Piece,
    RecordingTransport,
    ReplayTransport,
    Reply,
    ToyRemote,
    answer,
    close,
    delta,
    faults,
    message,
    pause,
    progress,
    text,
)
from oxygent_client.testing._scrub import scrub_body, scrub_path
from oxygent_client.transports import Context
from oxygent_client.transports.asgi import ASGITransport
from tests.support.plain import plain
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oxygent_client import Transport

URL: Final = "http://remote.test"
STREAM: Final = {"content-type": "text/event-stream"}


async def seen(agent: SSEOxyGent, query: str | OxyRequest = "hi") -> tuple[Sequence[Event], Any]:
    """Return the events and the output of a run."""
    async with agent.stream(query) as run:
        events = [event async for event in run]
    return events, run.response.output


def agent_on(transport: Transport, **options: Any) -> SSEOxyGent:
    """Return an agent that uses this transport."""
    return plain(server_url=URL, transport=transport, **options)


def written(cassette: Cassette) -> list[dict[str, Any]]:
    """Return the lines of its file after the first."""
    return [json.loads(line) for line in cassette.dumps().splitlines()[1:]]


def request(path: str = "/sse/chat", payload: Any = None, *, method: str = "POST", purpose: Any = "run") -> HTTPRequest:
    """Return a request made by hand."""
    body = b"" if payload is None else json.dumps(payload).encode()
    return HTTPRequest(method, URL, path, {}, body, context=Context(purpose=purpose))


async def body_of(transport: Transport, asked: HTTPRequest) -> bytes:
    """Return the body of a response."""
    async with transport.exchange(asked) as response:
        return b"".join([piece async for piece in response.chunks])


# ---------------------------------------------------------------------------------------------- Recording and replaying


async def test_a_conversation(tmp_path: Path) -> None:
    """A cassette from a file replays the same events, answers and discovery documents, in order."""
    path = tmp_path / "trip.cassette"
    cassette = Cassette()
    agent = agent_on(RecordingTransport(ASGITransport(ToyRemote(pace=0)), cassette), desc="")
    await agent.init()
    was = [await seen(agent, query) for query in ("tools", "odd", "trip")]
    cassette.save(path)
    loaded = Cassette.load(path)
    assert [[entry.path, entry.purpose, entry.end] for entry in loaded.entries] == [
        *([name, "discover", "complete"] for name in ("/get_organization", "/get_description", "/get_agents")),
        *[["/sse/chat", "run", "complete"]] * 3,
    ]
    replay = ReplayTransport(loaded)
    again = agent_on(replay)
    await again.init()
    assert agent.org == again.org
    assert agent.desc == again.desc
    for query, (events, output) in zip(("tools", "odd", "trip"), was, strict=True):
        replayed, answered = await seen(again, query)
        assert repr(events) == repr(replayed)  # NaN is not equal to itself
        assert output == answered
    assert replay.unused == ()
    assert written(cassette) == written(loaded)
    await replay.aclose()
    with pytest.raises(errors.ClosedError):
        await again.init()


async def test_file_format() -> None:
    """The file has a header line, then each exchange: request, response, each chunk with its seconds, the end."""
    cassette = Cassette()
    fake = FakeTransport.script(pause(1.5), answer("é\x9b\u2028"), pause(0.25), close(), b"\xff")
    await agent_on(RecordingTransport(fake, cassette), headers={"x-tenant": "acme"}).ask("hi")
    lines = cassette.dumps().split("\n")
    assert re.fullmatch(r'\{"cassette": 1, "made_by": "oxygent-client/[^"]+"\}', lines[0])
    asked, headed, first, second, third, end = (json.loads(line) for line in lines[1:-1])
    assert asked["request"] == "POST /sse/chat"
    assert asked["purpose"] == "run"
    assert asked["payload"]["query"] == "hi"
    assert asked["headers"]["accept"] == "text/event-stream"
    assert asked["headers"]["x-tenant"] == SCRUBBED
    assert headed == {"at": 0.0, "status": 200, "headers": {"content-type": "text/event-stream; charset=utf-8"}}
    assert {"at": 1.5, "text": answer("é\x9b\u2028").decode()} == first
    assert "é\\u009b\\u2028" in lines[3]
    assert {"at": 1.75, "text": close().decode()} == second
    assert {"at": 1.75, "base64": base64.b64encode(b"\xff").decode()} == third
    assert end == {"at": 1.75, "end": "complete"}


PACES: Final = [(0.0, [0, 0, 0]), (1.0, [1, 3, 3]), (0.5, [0.5, 1.5, 1.5]), (2.0, [2, 6, 6])]


@pytest.mark.parametrize(("pace", "times"), PACES)
async def test_pace(pace: float, times: list[float]) -> None:
    """At pace 0 nothing is waited for, at 1 each event comes at its time; a slow reader does not add delays."""
    cassette = Cassette()
    reply = Reply([pause(0.5), progress(1), pause(2), progress(2), answer(3), close()], before=Pause(0.5))
    await agent_on(RecordingTransport(FakeTransport({"/sse/chat": reply}), cassette)).ask("hi")
    replay = ReplayTransport(cassette, pace=pace)
    began = anyio.current_time()
    came: list[float] = []
    async with agent_on(replay).stream("hi") as run:
        async for _ in run:
            came.append(anyio.current_time() - began)
            if pace == 1:
                await anyio.sleep(0.1)
    assert came == pytest.approx(times, abs=0.11)
    assert f"pace={pace:g}" in repr(replay)


@pytest.mark.parametrize("pace", [-1, math.inf, math.nan])
def test_invalid_pace(pace: float) -> None:
    """A pace is a number from 0 on."""
    with pytest.raises(errors.ConfigurationError, match="pace"):
        ReplayTransport(Cassette(), pace=pace)


FAILURES: Final[list[tuple[Callable[[Transport], Transport], type[errors.OxyError], str]]] = [
    # what happens during the recording, the result of the run, a word of the error
    (faults.refuse, errors.ConnectError, "refused by a fault"),
    (faults.lose_before_headers, errors.ConnectionLostError, "reset by a fault"),
    (partial(faults.cut_after, bytes=1000), errors.IncompleteStreamError, "without its close event"),
    (partial(faults.reset_after, bytes=1000), errors.IncompleteStreamError, "reset by a fault"),
    (partial(faults.status, code=503, headers={"retry-after": "7"}), errors.ServerError, "503"),
    (faults.html_page, errors.NotAnEventStreamError, "not with an event stream"),
    (faults.envelope, errors.EnvelopeError, "failed"),
]


@pytest.mark.parametrize(("fault", "error", "says"), FAILURES)
async def test_failures(fault: Callable[[Transport], Transport], error: type[errors.OxyError], says: str) -> None:
    """A recorded failure is replayed as the same error, each time."""
    cassette = Cassette()
    first = agent_on(RecordingTransport(fault(ASGITransport(ToyRemote(pace=0))), cassette))
    raised: list[errors.OxyError] = []
    with pytest.raises(error) as caught:
        await seen(first, "tools")
    raised.append(caught.value)
    for _ in range(2):
        with pytest.raises(error) as caught:
            await seen(agent_on(ReplayTransport(Cassette.loads(cassette.dumps()))), "tools")
        raised.append(caught.value)
    assert all(says in str(each) for each in raised), [str(each) for each in raised]
    known = [(each.outcome, each.partial and len(each.partial.events)) for each in raised]
    assert len(set(known)) == 1
    assert type(raised[0].__cause__) is type(raised[1].__cause__)


class MyLostError(errors.ConnectionLostError):
    """An error of a user's transport."""


async def test_a_users_error_class() -> None:
    """An error of the program's own class is replayed as its base class in this package."""
    cassette = Cassette()
    recording = RecordingTransport(
        FakeTransport({"/sse/chat": Reply(before=MyLostError("token=abcdefgh", outcome=errors.Outcome.NOT_SENT))}),
        cassette,
    )
    with pytest.raises(MyLostError):
        await body_of(recording, request())
    with pytest.raises(errors.ConnectionLostError) as caught:
        await body_of(ReplayTransport(cassette), request())
    assert type(caught.value) is errors.ConnectionLostError
    assert caught.value.outcome == errors.Outcome.NOT_SENT
    assert str(caught.value) == f"token={SCRUBBED}"


async def test_a_stream_that_was_left() -> None:
    """A stream that was left is replayed as far as it was read; reading on raises an error."""
    cassette = Cassette()
    recording = RecordingTransport(FakeTransport.script(progress(1), progress(2), answer(3), close()), cassette)
    async with agent_on(recording).stream("hi") as run:
        await anext(run)
    assert [entry.end for entry in cassette.entries] == ["left"]
    events: list[Event] = []
    with pytest.raises(CassetteError, match=r"recording of POST /sse/chat 'hi' is incomplete"):
        async with agent_on(ReplayTransport(cassette)).stream("hi") as run:
            async for event in run:
                events.append(event)  # noqa: PERF401  (the events before an error count)
    assert [event.content for event in events] == [1]


async def test_an_exchange_without_response() -> None:
    """An exchange without headers, or with a foreign error, is recorded without response, and its replay is refused."""
    cassette = Cassette()
    recording = RecordingTransport(faults.hang_before_headers(FakeTransport.script(), times=1), cassette)
    with anyio.move_on_after(3):
        await body_of(recording, request())

    async def broken(*_: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await body_of(RecordingTransport(ASGITransport(broken), cassette), request())
    replay = ReplayTransport(Cassette.loads(cassette.dumps()), pace=1)
    began = anyio.current_time()
    for _ in range(2):
        with pytest.raises(CassetteError, match="incomplete"):
            await body_of(replay, request())
    assert anyio.current_time() - began == pytest.approx(3)


async def test_an_error_of_the_block_is_not_recorded() -> None:
    """An exception of the caller's block is not recorded, even if it is an error of this package."""
    cassette = Cassette()
    error = errors.ClosedError("mine")
    with pytest.raises(errors.ClosedError) as caught:
        async with RecordingTransport(FakeTransport.script(b"x"), cassette).exchange(request()):
            raise error
    assert caught.value is error
    assert cassette.entries[0].end == "left"


async def test_exchanges_at_the_same_time() -> None:
    """Concurrent exchanges are recorded in the order of their beginning, each once it has ended."""
    cassette = Cassette()
    script = {"/slow": Reply([pause(5), b"slow"]), "/fast": Reply([pause(1), b"fast"])}
    fake = FakeTransport(script)
    recording = RecordingTransport(fake, cassette)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(body_of, recording, request("/slow"))
        await anyio.sleep(1)
        tasks.start_soon(body_of, recording, request("/fast"))
        await anyio.sleep(2)
        assert [entry.path for entry in cassette.entries] == ["/fast"]
    assert [entry.path for entry in cassette.entries] == ["/slow", "/fast"]
    assert await body_of(ReplayTransport(cassette), request("/slow")) == b"slow"
    assert repr(cassette) == "<Cassette 2 exchanges>"
    await recording.aclose()
    assert fake.closed


async def test_a_cancelled_wait() -> None:
    """A chunk whose wait was cancelled is delivered to the next wait."""
    cassette = Cassette()
    await body_of(RecordingTransport(FakeTransport.script(pause(4), b"x"), cassette), request())
    async with ReplayTransport(cassette, pace=1).exchange(request()) as response:
        with anyio.move_on_after(1) as scope:
            await anext(response.chunks)
        assert scope.cancelled_caught
        assert [piece async for piece in response.chunks] == [b"x"]


# ------------------------------------------------------------------------------------------------------------- Matching


def entry(path: str = "/sse/chat", payload: Any = None, **more: Any) -> Entry:
    """Return a recording, of a run by default."""
    known: dict[str, Any] = {"method": "POST", "purpose": "run", "status": 200, **more}
    return Entry(path=path, payload=payload, **known)


def numbered(*payloads: Any) -> Cassette:
    """Return recordings of `/sse/chat` with their numbers as bodies."""
    return Cassette(entry(payload=each, pieces=(Piece(0, str(n).encode()),)) for n, each in enumerate(payloads))


async def test_equal_requests_are_used_up_in_order() -> None:
    """Each recording is replayed once: the first unused one that matches."""
    cassette = numbered({"query": "a"}, {"query": "b"}, {"query": "a"})
    replay = ReplayTransport(cassette)
    asked = [await body_of(replay, request(payload={"query": query})) for query in ("b", "a", "a")]
    assert asked == [b"1", b"0", b"2"]
    with pytest.raises(CassetteError, match=r"POST /sse/chat 'a' was recorded 2 times"):
        await body_of(replay, request(payload={"query": "a"}))
    assert await body_of(ReplayTransport(cassette), request(payload={"query": "a"})) == b"0", "another begins anew"


SAME: Final[list[tuple[bool, Any, Any]]] = [
    # whether it matches, the recorded payload, the requested payload
    (True, {"query": "hi"}, {"query": "hi"}),
    (False, {"query": "hi"}, {"query": "ho"}),
    (True, {"query": "hi", "node_id": "1", "call_stack": ["u"]}, {"node_id": "2", "call_stack": ["u"], "query": "hi"}),
    (True, {"query": "hi"}, {"query": "hi", "current_trace_id": "x", "group_id": "g", "create_time": 1.0}),
    (False, {"query": "hi"}, {"query": "hi", "shared_data": {}}),
    (True, {"shared_data": {"token": "abc"}}, {"shared_data": {"token": "def"}}),
    (False, {"shared_data": {"note": "abc"}}, {"shared_data": {"note": "def"}}),
    (True, None, None),
    (False, None, {"query": "hi"}),
    (True, [1], [1]),
    (False, [1], [2]),
]  # fmt: skip


@pytest.mark.parametrize(("same", "recorded", "asked"), SAME)
async def test_matching(same: bool, recorded: Any, asked: Any) -> None:
    """The payload must match except random and scrubbed values, unless matching ignores it."""
    cassette = Cassette()
    await body_of(RecordingTransport(FakeTransport.script(b"x"), cassette), request(payload=recorded))
    if same:
        assert await body_of(ReplayTransport(cassette), request(payload=asked)) == b"x"
    else:
        with pytest.raises(CassetteError):
            await body_of(ReplayTransport(cassette), request(payload=asked))
    assert await body_of(ReplayTransport(cassette, match_payload=False), request(payload=asked)) == b"x"


REFUSED: Final[list[tuple[HTTPRequest, str]]] = [
    # the request, a word of the error
    (request("/get_agents", method="GET"), "GET /get_agents was not recorded; the cassette holds"),
    (request("/sse/chat", method="GET"), "GET /sse/chat was not recorded; the cassette holds"),
    (
        request(payload={"query": "ho", "callee": "x"}),
        (
            "POST /sse/chat 'ho' was not recorded: the nearest recording differs in 'callee', 'query'; "
            "the cassette holds POST /sse/chat 'hi', GET /view?item_id=[scrubbed]"
        ),
    ),
    (request(payload=[1]), "differs in its payload"),
    (request(payload={"query": {"no": "text"}}), """POST /sse/chat '{"no": "text"}' was not recorded"""),
    (request(payload={"query": "ho" * 99}), f"POST /sse/chat {'ho' * 30!r} was not recorded"),
    (request(payload={"query": "password=hunter22"}), "POST /sse/chat 'password=[scrubbed]' was not recorded"),
]


@pytest.mark.parametrize(("asked", "says"), REFUSED)
async def test_requests_without_a_recording(asked: HTTPRequest, says: str) -> None:
    """A request without a recording raises ConfigurationError with the request and the recordings."""
    cassette = Cassette([entry(payload={"query": "hi"}), entry("/view?item_id=x", method="GET").scrubbed()])
    with pytest.raises(CassetteError) as caught:
        await body_of(ReplayTransport(cassette), asked)
    assert says in str(caught.value)
    assert caught.value.outcome is errors.Outcome.NOT_SENT
    assert isinstance(caught.value, errors.ConfigurationError)
    copy: CassetteError = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)


async def test_the_error_has_lines() -> None:
    """The advice is a line of its own, and a line break of the request is escaped."""
    replay = ReplayTransport(Cassette(), advice="Record it again.")
    with pytest.raises(CassetteError) as caught:
        await body_of(replay, request(payload={"query": "a\nb"}))
    assert str(caught.value).split("\n")[1:] == ["Record it again."]


@pytest.mark.parametrize(("count", "shown"), [(14, "POST /9 and 4 more"), (0, "nothing")], ids=["many", "none"])
async def test_the_error_is_short(count: int, shown: str) -> None:
    """The error for a request without a recording lists a few recordings only."""
    cassette = Cassette(entry(f"/{number}") for number in range(count))
    with pytest.raises(CassetteError) as caught:
        await body_of(ReplayTransport(cassette), request())
    assert str(caught.value).endswith(shown)


async def test_a_body_that_is_not_json() -> None:
    """Of a body that is not JSON only the size is kept and compared."""
    asked = attrs.evolve(request(), body=b"canary")
    cassette = Cassette()
    await body_of(RecordingTransport(FakeTransport.script(b"x"), cassette), asked)
    assert cassette.entries[0].payload == "6 bytes that are no JSON"
    assert "canary" not in cassette.dumps()
    assert await body_of(ReplayTransport(cassette), attrs.evolve(asked, body=b"123 45")) == b"x"
    assert cassette.entries[0].query == ""
    deep = attrs.evolve(asked, body=b"[" * 100_000)
    await body_of(RecordingTransport(FakeTransport.script(b"x"), cassette), deep)
    assert cassette.entries[1].payload == "100000 bytes that are no JSON"


# ---------------------------------------------------------------------------------------------------------------- Files

HEAD: Final = '{"cassette": 1}'
ASKED: Final = '{"request": "GET /a", "purpose": "run", "headers": {}, "payload": null}'
ANSWERED: Final = '{"at": 0, "status": 200, "headers": {}}'
END: Final = '{"at": 1, "end": "complete"}'
TEXTS: Final[list[tuple[str, str]]] = [
    # the file, what is wrong with it
    ("", "cassette"),
    ("{}", "cassette"),
    ("[1]", "cassette"),
    ("<html>", "cassette"),
    ('{"cassette": 2}', "version"),
    (f"{HEAD}\n{ASKED.replace('{}', '[]')}", "line 2"),
    (f"{HEAD}\n{ASKED}\n{ANSWERED.replace('200', '-1')}", "line 3"),
    (f"{HEAD}\n{ASKED}\n{ANSWERED.replace('200', '600')}", "line 3"),
    (f"{HEAD}\n{ASKED}\n{ANSWERED.replace('200', 'true')}", "line 3"),
    (f"{HEAD}\n{ASKED}\n{ANSWERED.replace('{}', '[]')}", "line 3"),
    (f"{HEAD}\n{ASKED}\n" + ANSWERED.replace("{}", '{"age": 1}'), "line 3"),
    (f"{HEAD}\n{ASKED}\n{ANSWERED.replace('0', '1e999', 1)}", "line 3"),
    (f"{HEAD}\n{ASKED}\n{ANSWERED.replace('0', 'NaN', 1)}", "line 3"),
    (f"{HEAD}\n{ASKED}\n{ANSWERED.replace('0', '-1', 1)}", "line 3"),
    (f"{HEAD}\n{ASKED}\n{ANSWERED.replace('0', '9' * 400, 1)}", "line 3"),
    (f"{HEAD}\n{ASKED}\n{ANSWERED.replace('0', '9' * 5000, 1)}", "line 3"),
    (f"{HEAD}\n{ASKED}\n{ANSWERED.replace('0', 'true', 1)}", "line 3"),
    (f"{HEAD}\nnothing", "line 2"),
    (f"{HEAD}\n\n", "line 2"),
    (f"{HEAD}\n[]", "line 2"),
    (f"{HEAD}\n" + "[" * 100_000, "line 2"),
    (f"{HEAD}\n{ASKED.replace('run', 'fun')}", "line 2"),
    (f"{HEAD}\n{ASKED.replace('GET /a', 'GET')}", "line 2"),
    (f"{HEAD}\n{ASKED}", "in the middle of an exchange, after line 2"),
    (f"{HEAD}\n{ASKED}\n{END}", "line 3"),
    (f'{HEAD}\n{ASKED}\n{{"at": 1, "text": "x"}}\n{END.replace("complete", "left")}', "line 4"),
    (f"{HEAD}\n{ASKED}\n{ANSWERED.replace('200', 'null')}", "line 3"),
    (f"{HEAD}\n{ASKED}\n{ANSWERED}\n{ANSWERED}\n{END.replace('complete', 'never')}", "line 5"),
    (f'{HEAD}\n{ASKED}\n{ANSWERED}\n{{"at": 1}}', "line 4"),
    (f'{HEAD}\n{ASKED}\n{ANSWERED}\n{{"at": 1, "base64": "?"}}', "line 4"),
    (f'{HEAD}\n{ASKED}\n{ANSWERED}\n{{"at": null, "text": ""}}', "line 4"),
    (f'{HEAD}\n{ASKED}\n{{"at": 1, "error": "Outcome", "text": "", "outcome": "unknown"}}', "line 3"),
    (f'{HEAD}\n{ASKED}\n{{"at": 1, "error": 1, "text": "", "outcome": "unknown"}}', "line 3"),
    (f'{HEAD}\n{ASKED}\n{{"at": 1, "error": "OxyError", "text": "", "outcome": "?"}}', "line 3"),
]


@pytest.mark.parametrize(("content", "says"), TEXTS, ids=[str(number) for number in range(len(TEXTS))])
def test_invalid_files(content: str, says: str, tmp_path: Path) -> None:
    """An invalid file raises an error with its path and line."""
    with pytest.raises(CassetteError, match=says):
        Cassette.loads(content)
    path = tmp_path / "x.cassette"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CassetteError, match=rf"{path} cannot be read: .*{says}"):
        Cassette.load(path)


def test_missing_files(tmp_path: Path) -> None:
    """A missing file, invalid UTF-8 and a missing directory each raise CassetteError."""
    with pytest.raises(CassetteError, match="cannot be read: No such file"):
        Cassette.load(tmp_path / "nothing")
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(CassetteError, match="not UTF-8"):
        Cassette.load(tmp_path / "binary")
    with pytest.raises(CassetteError, match="cannot be written"):
        Cassette().save(tmp_path / "no" / "directory")
    with pytest.raises(CassetteError, match="cannot be written"):
        Cassette().save(tmp_path / "binary" / "x")
    with pytest.raises(CassetteError, match="cannot be written"):
        Cassette().save(tmp_path / ("x" * 250))  # the temporary file beside it has a name that is too long


@pytest.mark.parametrize(
    "content", [f"{HEAD}\ncanary", f"{HEAD}\n" + '{"request": "canary"}', "canary", '{"cassette": "canary"}'], ids=str
)
def test_an_error_shows_nothing_of_the_file(content: str, tmp_path: Path) -> None:
    """The error for an invalid file shows nothing of its content, nor do its causes."""
    path = tmp_path / "x"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CassetteError) as caught:
        Cassette.load(path)
    assert "canary" not in "".join(traceback.format_exception(caught.value, limit=0))


@pytest.mark.parametrize(
    ("before", "after"), [(None, 0o600), (0o600, 0o600), (0o640, 0o640), (0o644, 0o644)], ids=["new", *"ors"]
)
def test_file_mode(before: int | None, after: int, tmp_path: Path) -> None:
    """A new file is readable by its owner only; an existing one keeps its mode."""
    path = tmp_path / "x"
    if before is not None:
        numbered(1).save(path)
        path.chmod(before)
    numbered(2).save(path)
    assert stat.S_IMODE(path.stat().st_mode) == after


def test_symbolic_links(tmp_path: Path) -> None:
    """The target of a symbolic link is written."""
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    numbered(1).save(link)
    assert link.is_symlink()
    assert [each.payload for each in Cassette.load(target).entries] == [1]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with a text, a pipe, an empty file and a loop of links."""
    (tmp_path / "notes").write_text("precious\n", encoding="utf-8")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return tmp_path


@pytest.mark.parametrize(("name", "force"), [("notes", False), ("pipe", True), (os.devnull, True), (".", True)])
def test_files_that_are_not_replaced(files: Path, name: str, force: bool) -> None:
    """A file that is no cassette is not replaced without `force`; a pipe, a device and a directory never are."""
    path = files / name
    before = path.stat()
    with pytest.raises(CassetteError, match=re.escape(str(path))):
        numbered(1).save(path, force=force)
    assert (files / "notes").read_text(encoding="utf-8") == "precious\n"
    assert path.stat().st_mode == before.st_mode


@pytest.mark.parametrize(("name", "force"), [("notes", True), ("empty", False)])
def test_files_that_are_replaced(files: Path, name: str, force: bool) -> None:
    """An empty file is replaced, and with `force` one that is no cassette."""
    numbered(1).save(files / name, force=force)
    assert [each.payload for each in Cassette.load(files / name).entries] == [1]


@pytest.mark.parametrize("name", ["loop", "x" * 300], ids=["a loop of links", "a long name"])
def test_impossible_paths(files: Path, name: str) -> None:
    """A link loop and an impossible file name raise CassetteError."""
    with pytest.raises(CassetteError, match="cannot be written"):
        Cassette().save(files / name)


def test_atomic_writes(tmp_path: Path) -> None:
    """An existing file is replaced atomically, and no other file stays in its directory."""
    path = tmp_path / "x.cassette"
    numbered(1, 2).save(path)
    numbered(3).save(path)
    assert [each.payload for each in Cassette.load(path).entries] == [3]
    assert list(tmp_path.iterdir()) == [path]
    path.chmod(0o444)
    directory = tmp_path / "directory"
    (directory / "inner").mkdir(parents=True)
    with pytest.raises(CassetteError, match="cannot be written"):
        numbered(4).save(directory)
    assert sorted(tmp_path.iterdir()) == sorted([path, directory])


def test_an_empty_cassette() -> None:
    """An empty cassette is one line."""
    assert Cassette.loads(Cassette().dumps()).entries == ()


TEXT: Final = st.text(st.characters(codec="utf-8"), max_size=20)
ANY_JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(
        st.builds(
            Entry,
            method=st.sampled_from(["GET", "POST"]),
            path=TEXT.map(lambda text: f"/{text}"),
            purpose=st.sampled_from(["run", "health"]),
            payload=ANY_JSON,
            status=st.integers(100, 599),
            headers=st.dictionaries(TEXT, TEXT, max_size=2),
            pieces=st.lists(st.builds(Piece, st.just(0.5), st.binary(min_size=1, max_size=9)), max_size=3).map(tuple),
            end=st.sampled_from(["complete", "left"]),
        ),
        max_size=3,
    )
)
def test_round_trip(entries: list[Entry]) -> None:
    """Any cassette is read back from its text, which is printable, one line for each item."""
    text = Cassette(entries).dumps()
    assert Cassette.loads(text).entries == tuple(entries)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", text)


# ------------------------------------------------------------------------------------------------------------ Scrubbing

KEYS: Final[list[tuple[bool, str, Any]]] = [
    # whether it is a secret, the key, the value
    *((True, key, "x") for key in "token Token access_token accessToken ACCESS-TOKEN refreshtoken tokens".split()),
    *((True, key, "x") for key in "password userPassword passwd pwd passphrase secret client_secret".split()),
    *((True, key, "x") for key in "api_key apiKey x-api-key apikey APIKey private_key accessKey".split()),
    *((True, key, "x") for key in "authorization Proxy-Authorization auth cookie Set-Cookie cookies jwt".split()),
    *((True, key, "x") for key in "credentials session_id sessionid.token csrf_token 密码 用户令牌 _headers".split()),
    *((False, key, "x") for key in "note query key keys keyboard author authored secretary tokenizer headers".split()),
    *((False, key, "x") for key in "sort_key passage compass mastermind input output 内容 content".split()),
    (True, "password", 1234),
    (True, "password", ["x"]),
    (True, "token", {"a": 1}),
    (False, "max_tokens", 512),
    (False, "token_count", "512"),
    (False, "tokenLimit", 512),
    (False, "completion_tokens", 512),
    (True, "token", "123456789"),
    (True, "access_token", 123456789),
    (True, "adminToken", "123456789"),
    (False, "token", None),
    (False, "token", ""),
    (False, "password", False),
    (False, "password", True),
]


@pytest.mark.parametrize(("secret", "key", "value"), KEYS)
def test_keys_that_look_secret(secret: bool, key: str, value: Any) -> None:
    """A key is secret by its words, in any spelling; a number under a token's key is a count."""
    assert is_secret(key, value) == secret


S: Final = SCRUBBED
STRINGS: Final[list[tuple[str, str]]] = [
    # a text, the scrubbed text
    ("nothing to see", "nothing to see"),
    ("", ""),
    ("see https://ada:pw@host/x?y=1", f"see https://{S}@host/x?y=1"),
    ("mail ada@host", "mail ada@host"),
    ("Authorization: Bearer abc.def-123456", f"Authorization: Bearer {S}"),
    ("Bearer " + "x" * 20, f"Bearer {S}"),
    ("the bearer documents", "the bearer documents"),
    ("eyJhbGciOi.eyJzdWIi.sig-nature", S),
    ("https://host/?page=2&api_key=abc&x=1", f"https://host/?page=2&api_key={S}&x=1"),
    ("max_tokens=5 token=a5", f"max_tokens=5 token={S}"),
    ('{"a": 1.0,  "b": "x"}', '{"a": 1.0,  "b": "x"}'),
    ('{"a": NaN, "token": "x"}', f'{{"a": NaN, "token": "{S}"}}'),
    (' [{"password": "x"}, "é"]', f'[{{"password": "{S}"}}, "\\u00e9"]'),
    ('{"out": "{\\"token\\": \\"x\\"}"}', json.dumps({"out": json.dumps({"token": S})})),
    ('{"token": "x", "token": null}', '{"token": null}'),
    ('{"a": ["Bearer abcdefgh1"]}', f'{{"a": ["Bearer {S}"]}}'),
    ('{"a": 1, "token": "x', f'{{"a": 1, "token": "{S}"'),
    ("{'token': 'x', 'a': 1}", f"{{'token': \"{S}\""),
    ('{"a": 1, "b": "x', '{"a": 1, "b": "x'),
    ("{not json", "{not json"),
    ("[" * 100_000 + "]" * 100_000, f'"{S}"'),
    ("[" * 129 + "]" * 129, f'"{S}"'),
    ("[" * 126 + "]" * 126, "[" * 126 + "]" * 126),
]


@pytest.mark.parametrize(("before", "after"), STRINGS, ids=[str(number) for number in range(len(STRINGS))])
def test_texts(before: str, after: str) -> None:
    """Texts that look like credentials are scrubbed, also in JSON in a text; other texts are unchanged."""
    assert scrub_text(before) == after
    assert scrub_text(after) == after, "what is scrubbed stays as it is"
    if before == after:
        assert scrub_text(before) is before


def test_json_without_secrets() -> None:
    """JSON without secrets is not copied; otherwise only the secrets are replaced."""
    clean = {"a": [1, {"b": None, "c": math.nan}], "d": "text"}
    assert scrub_json(clean) is clean
    assert scrub_json({"a": clean, "pwd": 1})["a"] is clean
    deep: Any = []
    for _ in range(200):
        deep = {"a": deep}
    assert scrub_json(deep) == SCRUBBED


PATHS: Final = [("/a", "/a"), ("/a?", "/a?"), ("/a?b=c&d=&e", f"/a?b={S}&d={S}&e={S}")]


@pytest.mark.parametrize(("before", "after"), PATHS)
def test_paths(before: str, after: str) -> None:
    """Of a query only the names are kept."""
    assert scrub_path(before) == after


BODIES: Final[list[tuple[dict[str, str], bytes, bytes]]] = [
    # headers, the body, the scrubbed body
    (STREAM, b'data: {"token": "x"}\r\n\r\n', b'data: {"token": "[scrubbed]"}\r\n\r\n'),
    (STREAM, b'data:{"token": "x"}\n\ndata: [1 ,2]\n\n', b'data:{"token": "[scrubbed]"}\n\ndata: [1 ,2]\n\n'),
    (STREAM, b'\xef\xbb\xbfdata: {"pwd": 1}\r\r', b'\xef\xbb\xbfdata: {"pwd": "[scrubbed]"}\r\r'),
    (STREAM, b'a\ndata: {\ndata:\ndata: "pwd": 1}\nb\n\n', b'a\ndata: {"pwd": "[scrubbed]"}\ndata:\ndata: \nb\n\n'),
    (STREAM, b'data:\ndata: {"pwd": 1}\n\n', b'data:\ndata: {"pwd": "[scrubbed]"}\n\n'),
    (STREAM, b"data: a\ndata: pwd=abc\n\n", b"data: a\ndata: pwd=[scrubbed]\n\n"),
    (STREAM, b'data: {"token": "canary', b'data: {"token": "[scrubbed]"'),
    (STREAM, b": ping\n\nevent: close\ndata: done\n\n", b": ping\n\nevent: close\ndata: done\n\n"),
    (STREAM, b"data: \xff\n\n", b"data: \xff\n\n"),
    (STREAM, b"", b""),
    ({"content-type": "application/json"}, b'{"cookie": "x", "a": 1}', b'{"cookie": "[scrubbed]", "a": 1}'),
    ({}, b'{"a" : 1}', b'{"a" : 1}'),
    ({}, b"password=x&a=1", b"password=[scrubbed]&a=1"),
    ({"content-encoding": "gzip", **STREAM}, b"\x1f\x8b", b"[scrubbed]"),
    ({"content-encoding": "identity"}, b"x", b"x"),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "before", "after"), BODIES)
def test_bodies(headers: dict[str, str], before: bytes, after: bytes) -> None:
    """Events and documents are scrubbed for any chunks; a body without secrets is unchanged byte for byte."""
    whole, single = scrub_body([before], headers), scrub_body([before[n : n + 1] for n in range(len(before))], headers)
    assert after == b"".join(whole) == b"".join(single)
    for cut in range(len(before)):
        assert b"".join(scrub_body([before[:cut], before[cut:]], headers)) == after


def test_scrubbed_chunks() -> None:
    """Scrubbing one chunk does not change the others; a text over several chunks is moved to the first."""
    pieces = [b"data: 1\n\n", b'data: {"pwd"', b': "x"', b', "a": 1}\n\nda', b"ta: 2\n\n"]
    assert scrub_body(pieces, STREAM) == [
        b"data: 1\n\n", b'data: {"pwd": "[scrubbed]", "a": 1}', b"", b"\n\nda", b"ta: 2\n\n"
    ]  # fmt: skip
    scrubbed = Entry(
        method="GET", path="/", purpose="run", status=200, response_headers=STREAM,
        pieces=tuple(Piece(n, piece) for n, piece in enumerate(pieces)),
    ).scrubbed()  # fmt: skip
    assert [piece.at for piece in scrubbed.pieces] == [0, 1, 3, 4], "an empty piece is none"


# ------------------------------------------------------------------------------------------------------------- Canaries

PLACES: Final = {
    # where a canary is: True if it is scrubbed by default
    "header": True,
    "cookie": True,
    "query": True,
    "userinfo": True,
    "secret argument": True,
    "note": False,
    "shared secret": True,
    "shared headers": True,
    "shared note": False,
    "response secret": True,
    "nested response secret": True,
    "answer": False,
    "delta": False,
    "set-cookie": True,
    "response header": True,
    "discovered secret": True,
    "lost": True,
}


def canary(place: str) -> str:
    """Return a word that occurs nowhere else."""
    return f"canary{place.replace(' ', '')}7Q"


def server() -> FakeTransport:
    """A server that sends secrets."""
    headers = {**STREAM, "set-cookie": f"sid={canary('set-cookie')}", "x-internal": canary("response header")}
    tells = {"type": "progress", "content": {"token": canary("response secret"), "page": 1}}
    nested = {"type": "progress", "content": json.dumps({"env": {"API_KEY": canary("nested response secret")}})}
    said = answer(f"the answer is {canary('answer')}")
    steps = [message(tells), message(nested), delta(canary("delta")), said[:40], said[40:], close()]
    lost = errors.ConnectionLostError(f"no route to http://ada:{canary('lost')}@host")
    document = {"code": 200, "data": {"organization": {"name": "m", "password": canary("discovered secret")}}}
    return FakeTransport(
        {
            "/get_organization": Reply.json(document),
            "/sse/chat": [Reply(steps, headers=headers), Reply([*steps[:1], lost], headers=headers)],
        }
    )


def asking(transport: Transport) -> SSEOxyGent:
    """Return an agent that sends secrets."""
    return plain(
        server_url=f"https://ada:{canary('userinfo')}@remote.test/base?key={canary('query')}",
        transport=transport,
        headers={"authorization": f"Bearer {canary('header')}", "cookie": f"sid={canary('cookie')}"},
    )


QUESTION: Final = OxyRequest(
    arguments={"query": "hi", "api_key": canary("secret argument"), "note": canary("note")},
    shared_data={
        "deep": [{"password": canary("shared secret"), "note": canary("shared note")}],
        "_headers": {"x-any": canary("shared headers")},
    },
)


def found_in(text: str) -> set[str]:
    """Return the places whose canaries are in `text`."""
    return {place for place in PLACES if canary(place) in text}


KEPT: Final = {place for place, by_rule in PLACES.items() if not by_rule}


@pytest.mark.parametrize("removed", [False, True])
async def test_canaries(removed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Default secrets are in no file, repr, log or traceback; the others are removed by `scrub=`."""
    # Not scrubbed by default: an argument and shared data under ordinary keys, and the agent's answer.
    left = set[str]() if removed else KEPT

    def scrub(each: Entry) -> Entry:
        return each.without(*map(canary, KEPT), "") if removed else each

    caplog.set_level(logging.DEBUG)
    path = tmp_path / "canaries.cassette"
    cassette = Cassette(scrub=scrub)
    recording = RecordingTransport(server(), cassette)
    shown: list[str] = []

    async def use(transport: Transport) -> None:
        agent = asking(transport)
        await agent.init()
        await agent.ask(QUESTION.clone_with())
        try:
            await agent.ask(QUESTION.clone_with())
        except errors.OxyError as error:
            shown.append("".join(traceback.format_exception(error)))
        shown.append(repr(transport))

    await use(recording)
    cassette.save(path)
    content = path.read_text(encoding="utf-8")
    assert found_in(content) == left
    assert PLACES.keys() - KEPT == {place for place, by_rule in PLACES.items() if by_rule}
    for place in ("password", "api_key", "token", "API_KEY", "authorization", "cookie", "set-cookie", "x-internal"):
        assert place in content, "what was scrubbed leaves its name"
    loaded = Cassette.load(path, scrub=scrub)
    replay = ReplayTransport(loaded)
    await use(replay)
    with suppress(CassetteError):
        await use(replay)
    with pytest.raises(CassetteError) as caught:
        await body_of(replay, request(f"/{'x'}?token={canary('query')}", {"query": "hi", "token": canary("header")}))
    shown += ["".join(traceback.format_exception(caught.value)), repr(loaded), repr(loaded.entries), caplog.text]
    # The error of a run quotes the server's text, which is not from the recording.
    quoted = {"lost"}
    assert [found_in(each) - quoted for each in shown] == [set[str]()] * len(shown)
    assert found_in("".join(shown[2:])) == set()


@pytest.mark.parametrize("header", ["x-trips", "server"])
async def test_a_header_of_an_auth_policy(header: str) -> None:
    """A header added by an auth policy is scrubbed by its mark, and its value wherever it occurs."""
    key = "canaryKEY7Q"
    said = answer(f"{key}!")
    transport = FakeTransport({"/sse/chat": Reply([said[:30], said[30:], close()], headers={**STREAM, "server": key})})
    cassette = Cassette()
    recording = RecordingTransport(transport, cassette)
    agent = plain(server_url="https://remote.test", transport=recording, auth=APIKey(key, header=header))
    assert (await agent.ask(f"who has {key}?")).output == f"{key}!"
    assert transport.requests[0].headers[header] == key
    (entry,) = cassette.entries
    assert entry.query == "who has [scrubbed]?"
    assert entry.headers[header] == SCRUBBED
    assert key not in f"{cassette.dumps()}{attrs.asdict(entry)}"
    replayed = plain(server_url="https://remote.test", transport=ReplayTransport(cassette), auth=agent.auth)
    assert (await replayed.ask(f"who has {key}?")).output == "[scrubbed]!"


async def test_replaying_a_scrubbed_recording() -> None:
    """A scrubbed recording is replayed with only the secret values replaced."""
    cassette = Cassette()
    events, output = await seen(asking(RecordingTransport(server(), cassette)), QUESTION.clone_with())
    again, answered = await seen(asking(ReplayTransport(cassette)), QUESTION.clone_with())
    assert output == answered == f"the answer is {canary('answer')}"
    assert events[2:] == again[2:]
    assert [event.content for event in again[:2]] == [
        {"token": SCRUBBED, "page": 1},
        json.dumps({"env": {"API_KEY": SCRUBBED}}),
    ]


SPELLINGS: Final = ["Ada", "Ädá \U0001f600", 'quo"te', "back\\slash"]


@pytest.mark.parametrize("name", SPELLINGS)
async def test_without(name: str) -> None:
    """`Entry.without` removes a text, plain and escaped in JSON, anywhere, over chunks of any size."""

    def scrub(each: Entry) -> Entry:
        return each.without(name)

    cassette = Cassette(scrub=scrub)
    reply = Reply(
        [answer({name: [name, 1]}), json.dumps(name).encode(), text(name), errors.ConnectionLostError(name)],
        headers={**STREAM, "server": "Ada"},
    )
    split = faults.split_every(FakeTransport({f"/{name}": reply}), 1)
    asked = request(f"/{name}", {"query": name, name: [name, 7]})
    with pytest.raises(errors.ConnectionLostError):
        await body_of(RecordingTransport(split, cassette), asked)
    assert not any(spelt in cassette.dumps() for spelt in (name, json.dumps(name)[1:-1]))
    with pytest.raises(errors.ConnectionLostError, match="scrubbed"):
        await body_of(ReplayTransport(Cassette.loads(cassette.dumps(), scrub=scrub)), asked)


SPELT: Final[dict[str, Callable[[str], str]]] = {
    "as it is": lambda text: text,
    "percent, upper case": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "percent, lower case": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "JSON escapes": lambda text: "".join(f"\\u{ord(letter):04x}" for letter in text),
    "HTML entities": lambda text: "".join(f"&#{ord(letter)};" for letter in text),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
}
"""Spellings in which a server may echo a credential."""


@pytest.mark.parametrize("spelt", SPELT.values(), ids=SPELT)
@pytest.mark.parametrize("size", [1, 7, 10_000], ids=["bytes", "pieces", "whole"])
async def test_sent_credentials(spelt: Callable[[str], str], size: int) -> None:
    """Credentials of headers and the URL are scrubbed from events, comments and ids, for any spelling and chunks."""
    key, password, code = "canary-key<1>", "canary-pass-2", "canary-code-3"
    secrets = [spelt(each) for each in (key, password, code)]
    stream = "".join(
        (
            f": you sent {secrets[0]}\n\n",
            f"id: {secrets[1]}\ndata: {secrets[2]}\n\n",
            *(f'data: {{"type": "note", "content": "{each}"}}\n\n' for each in secrets),
        )
    ).encode()
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    cassette = Cassette()
    recording = RecordingTransport(FakeTransport.script(*pieces, answer("42"), close()), cassette)
    asked = HTTPRequest(
        "POST", f"https://ada:{password}@remote/?code={code}", "/sse/chat", {"x-app": key}, b"{}", context=Context()
    )
    await body_of(recording, asked)
    (entry,) = cassette.entries
    assert [each for each in secrets if each.encode() in entry.body] == []
    assert "canary" not in cassette.dumps()
    assert entry.body.count(SCRUBBED.encode()) == 6


def test_without_nothing() -> None:
    """Without texts to remove an entry is unchanged."""
    for each in numbered({"query": "a"}).entries:
        assert each == each.without() == each.without("")


async def test_a_time_out_during_a_recording() -> None:
    """A run that timed out is recorded as one that was left."""
    cassette = Cassette()
    recording = RecordingTransport(faults.hang_after(ASGITransport(ToyRemote(pace=0)), bytes=1000), cassette)
    with pytest.raises(errors.IdleTimeoutError):
        await agent_on(recording, timeouts=Timeouts(idle=5)).ask("tools")
    (kept,) = cassette.entries
    assert kept.end == "left"
    assert round(kept.ended_at, 3) == 5
    assert len(kept.body) == 1000


def names(entries: Sequence[Entry]) -> list[str]:
    """Return the reprs of entries."""
    return [repr(each) for each in entries]


def test_reprs() -> None:
    """An entry's repr has the request and the size of the response, and no content."""
    assert names(numbered({"query": "canary"}).entries) == ["<Entry POST /sse/chat run 200 1 pieces>"]
    assert repr(Piece(1.0, b"canary")) == "Piece(at=1.0)"
