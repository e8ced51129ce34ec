"""Storms of deadlines, cancellations and cut streams: no run twice, no event lost, no resource left.

Rule 1: in a storm, server and client are processes of their own (`storm_server.py`, `storm_client.py`); the client's
    outcomes are compared with the server's log.
Rule 2: a test adds its row to a table of docs/soak.md.
Rule 3: the expected partial result of a cut stream is computed by the reference decoder (`reference.py`).
"""

from __future__ import annotations

import collections
import json
import random
import resource
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest

from oxygent_client import Limits, OxyError, SSEOxyGent, Timeouts, errors
from tests.conftest import LOOPS, ROOT, SIZE, UVLOOP
from tests.support.reference import Dispatched, interpret
from tests.support.servers import LAST, OK, Conversation, chunk, closed_port, serving
from tests.support.storm_client import Ended, Round, transport_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oxygent_client import Event, Transport

    Row = Callable[..., None]

SIZES: Final[dict[str, dict[str, Any]]] = {
    # calls of a storm of deadlines; streams at a time, for how many seconds, with how many between heartbeats; cuts at
    # random, beside those at the bounds of events (None: at every byte)
    "smoke": {"calls": 50, "streams": 20, "seconds": 0.5, "heartbeat": 0.1, "cuts": 10},
    "normal": {"calls": 120, "streams": 60, "seconds": 1.0, "heartbeat": 0.1, "cuts": 60},
    "soak": {"calls": 2000, "streams": 1000, "seconds": 60.0, "heartbeat": 1.0, "cuts": None},
}
HERE: Final = SIZES[SIZE]
TRANSPORTS: Final = ("httpx", "httpx2", "aiohttp")
# The soak has the machine to itself; otherwise a storm shares it with other tests.
HANGS: Final = 10.0 if SIZE == "soak" else 30.0
"""Seconds after which a call that timed out or was cancelled is taken to hang."""
SOON: Final = 5.0 if SIZE == "soak" else 30.0
"""Seconds within which a hundred calls succeed after a storm."""
ALIKE: Final = 1.05
"""The allowed growth factor of the process in the second round."""

each_transport: Final = pytest.mark.parametrize("transport", TRANSPORTS)
each_loop: Final = pytest.mark.parametrize("loop", LOOPS)


@pytest.fixture
def url() -> Iterator[str]:
    """The URL of the storm server, with a log for this test alone."""
    command = [
        sys.executable,
        str(ROOT / "tests" / "support" / "storm_server.py"),
        "--heartbeat",
        str(HERE["heartbeat"]),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.stdin.close()  # so that it exits


def weathered(storm: str, url: str, transport: str, loop: str, **options: Any) -> dict[str, Any]:
    """Return the client's report of a storm."""
    command = [sys.executable, "-m", "tests.support.storm_client", storm, url, transport, loop, json.dumps(options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    left: dict[str, Any] = json.loads(done.stdout)
    return left


# ------------------------------------------------------------------------------------------------------------ Deadlines

STARTED: Final[dict[str, set[int]]] = {
    # reported outcome: how often the server may have started the run
    "NOT_SENT": {0},
    "REJECTED": {0},
    "UNKNOWN": {0, 1},
    "STARTED": {1},
    "COMPLETED": {1},
}
SURE: Final = {
    # the results of calls with no deadline, and with none left
    "quick": "COMPLETED",
    "cut": "STARTED",
    "refused": "REJECTED",
    "nobody": "NOT_SENT",
    "late": "UNKNOWN",
}


@pytest.mark.slow
@pytest.mark.table("deadlines")
@each_loop
@each_transport
def test_a_storm_of_deadlines(transport: str, loop: str, url: str, row: Row) -> None:
    """Each call of a storm ends with the right answer or a typed error whose outcome agrees with the server's log.

    Afterwards a hundred calls by the same agent succeed soon, no run goes on, and no connection is left.
    """
    nobody = f"http://127.0.0.1:{closed_port()}"
    found = weathered("deadlines", url, transport, loop, calls=HERE["calls"], seed=1, nobody=nobody)
    ended = [Ended(**each) for each in found["ended"]]
    log: dict[str, dict[str, int]] = found["log"]
    nothing = dict.fromkeys(("asked", "refused", "started", "finished", "broken", "stopped"), 0)
    outcomes = collections.Counter(each.outcome for each in ended)
    worst = max(each.late for each in ended)
    times = (found["seconds"], worst, found["after"])
    row(transport, loop, len(ended), *(outcomes[name] for name in STARTED), *times)
    sure = {each.query.removeprefix("sure "): each.outcome for each in ended if each.query.startswith("sure ")}
    assert sure == SURE
    assert len({each.query for each in ended}) == HERE["calls"] + len(SURE)
    for each in ended:
        fate = log.get(each.query, nothing)
        assert fate["started"] in STARTED[each.outcome], (each, fate)
        assert fate["finished"] == 1 or each.end != "answer", (each, fate)
        assert each.end in {"answer", "left", "cancelled"} or issubclass(getattr(errors, each.end), OxyError)
        assert each.outcome == "COMPLETED" or each.end != "answer"
    assert worst < HANGS
    assert found["after"] < SOON
    assert found["running"] == 0
    assert found["before"] == found["left"]


# -------------------------------------------------------------------------------------------------------------- Streams


@pytest.mark.slow
@pytest.mark.table("crowds")
@each_loop
@each_transport
def test_cancelling_many_streams(transport: str, loop: str, url: str, row: Row) -> None:
    """Many streams that are cancelled at once all stop, and a second round does not grow the process."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(HERE["streams"], most - 100)
    found = weathered("streams", url, transport, loop, count=count, seconds=HERE["seconds"])
    first, second = rounds = [Round(**each) for each in found["rounds"]]
    for number, each in enumerate(rounds, start=1):
        full, empty = (round(size / 2**20, 1) for size in (each.full, each.empty))
        times = (each.opening, each.leaving, each.stopping)
        row(transport, loop, count, number, *times, full, empty)
        assert each.stopped == number * count
        assert each.stopping < HANGS
        assert found["before"] == each.left
    # Closing many at once takes memory, too, which the process keeps.
    assert second.full <= ALIKE * max(first.full, first.empty)
    assert second.empty <= ALIKE * first.empty
    if count < HERE["streams"]:
        pytest.skip(f"needs {HERE['streams'] + 100} open files, went well with {count} streams")


# ----------------------------------------------------------------------------------------------------------------- Cuts


def framed(data: bytes, event: str = "message") -> bytes:
    """Return one event as a real server sends it."""
    lines = b"".join(b"data: %b\r\n" % line for line in data.split(b"\n"))
    return b"id: 7\r\nevent: %b\r\n%bretry: 3000\r\n\r\n" % (event.encode(), lines)


def piece(text: str) -> bytes:
    """Return a text delta that is not all ASCII."""
    message = {"type": "stream", "content": {"delta": text, "agent": "master", "node_id": "n"}}
    return framed(json.dumps(message, ensure_ascii=False).encode())


PARTS: Final = (
    framed(b'{"type": "tool_call", "content": {"caller": "user", "callee": "master", "arguments": {"query": "hi"}}}'),
    piece("Grüße, "),
    b": ping - 2026-11-20 09:27:10.682690+00:00\r\n\r\n",
    piece("\u4f60\u597d \U0001f600"),
    framed(b'{"type": "answer", "content": "41"}'),
    framed(b"two lines\nof text"),
    framed(b"[1, null]", "own"),
    b"data: {\ndata: }\n\n",
    piece("."),
    framed(b'{"type": "answer", "content": {"total": 42}}'),
    framed("after the answer: é".encode()),
    framed(b"done", "close"),
)
STREAM: Final = b"".join(PARTS)
BOUNDS: Final = (Limits(), Limits(partial_events=3), Limits(partial_bytes=150))
"""Parts of the stream that are kept; the cuts take them in turn."""


def cut_points() -> list[int]:
    """Return where the stream is cut: around each bound of an event, and at random."""
    if HERE["cuts"] is None:
        return list(range(len(STREAM) + 1))
    ends = [sum(map(len, PARTS[:number])) for number in range(len(PARTS) + 1)]
    around = {end + offset for end in ends for offset in (-1, 0, 1)}
    some = random.Random(1).sample(range(len(STREAM)), HERE["cuts"])
    return sorted({*around, *some} & {*range(len(STREAM) + 1)})


@attrs.frozen
class Kept:
    """What a run knows of its stream when it is over."""

    events: list[tuple[str, str, str, Any]]
    """Name, data and id of each event, and its message."""
    text: str
    answer: Any
    dropped: int
    outcome: str


def as_sent(data: str) -> Any:
    """Return the message in an event's data."""
    try:
        return json.loads(data)
    except ValueError:
        return data


def promised(events: list[Dispatched], limits: Limits) -> Kept:
    """Return what must be kept of these events, computed slowly by the rules of the design."""
    names = [each.event for each in events]
    closed = "close" in names
    known = events[: names.index("close")] if closed else events
    messages = [as_sent(each.data) for each in known]
    typed: list[dict[str, Any]] = [each for each in messages if isinstance(each, dict) and "type" in each]
    answers = [each["content"] for each in typed if each["type"] == "answer"]
    first = 0
    while (
        len(known) - first > limits.partial_events
        or sum(len(each.data.encode()) for each in known[first:]) > limits.partial_bytes
    ):
        first += 1
    return Kept(
        events=[(each.event, each.data, each.id, as_sent(each.data)) for each in known[first:]],
        text="".join(each["content"]["delta"] for each in typed if each["type"] == "stream"),
        answer=answers[-1] if answers else None,
        dropped=first,
        outcome="COMPLETED" if closed else "STARTED" if known else "UNKNOWN",
    )


def begun(cut: int) -> bytes:
    """Return the stream up to there, as one chunk."""
    return OK + (chunk(STREAM[:cut]) if cut else b"")


KNOWN_LENGTH: Final = OK.replace(b"transfer-encoding: chunked", b"content-length: %d" % len(STREAM))
NO_LENGTH: Final = OK.replace(b"transfer-encoding: chunked\r\n", b"").replace(b"keep-alive", b"close")
CUTS: Final[dict[str, tuple[Callable[[int], bytes], str]]] = {
    # how it is cut: (what is sent until then, what happens then)
    "a clean end": (lambda cut: begun(cut) + LAST, "next"),
    "FIN after a chunk": (begun, "close"),
    "FIN within a chunk": (lambda cut: OK + b"%x\r\n" % len(STREAM) + STREAM[:cut], "close"),
    "FIN before the length": (lambda cut: KNOWN_LENGTH + STREAM[:cut], "close"),
    "FIN, no length": (lambda cut: NO_LENGTH + STREAM[:cut], "close"),
    "RST when all was read": (begun, "reset when read"),
    "RST at once": (begun, "reset"),
    "nothing more": (begun, "hang"),
}
AT_A_TIME: Final = 20
IDLE: Final = 2.0
"""Seconds after which a hanging stream is given up: long enough to receive all of it on a busy machine."""
PATIENT: Final = 60.0
"""Seconds of every other stream: it is the server that ends it, however long that takes."""


def cuts_of(kind: str, transport: str, loop: str) -> list[int]:
    """The cuts of one case: in a soak all of them, else every fourth; another case begins at another one."""
    if HERE["cuts"] is None:
        return cut_points()
    case = [*CUTS].index(kind) + TRANSPORTS.index(transport) + (*LOOPS, UVLOOP).index(loop)
    return cut_points()[case % 4 :: 4]


@attrs.define
class Cutter:
    """A server that cuts a stream where the path says, and knows when its client has read all."""

    kind: str
    read: dict[int, anyio.Event] = attrs.field(factory=lambda: collections.defaultdict(anyio.Event))

    async def __call__(self, conversation: Conversation) -> None:
        sent, then = CUTS[self.kind]
        while (request := await conversation.request()) is not None:
            if not request.line.startswith("POST"):
                await conversation.send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                continue
            cut = int(request.line.split("/")[1])
            await conversation.send(sent(cut))
            if then == "reset when read":
                await self.read[cut].wait()
            if then == "hang":
                await conversation.client_left()
            if then.startswith("reset"):
                await conversation.reset()
            if then != "next":
                return


async def kept(url: str, transport: Transport, cut: int, cutter: Cutter, limits: Limits, events: int) -> Kept:
    """Return what a run keeps of the stream that is cut there, after reading so many events."""
    timeouts = Timeouts(idle=IDLE if cutter.kind == "nothing more" else PATIENT, total=120)
    run = SSEOxyGent(server_url=f"{url}/{cut}", transport=transport, timeouts=timeouts, limits=limits).stream("hi")
    came: list[Event] = []
    failure = None
    try:
        async with run:
            while True:
                if len(came) == events:
                    cutter.read[cut].set()
                event = await anext(run, None)
                if event is None:
                    break
                came.append(event)
    except OxyError as error:
        failure = error
    assert failure is None or failure.outcome is run.outcome
    partial = failure.partial if failure and failure.partial else run.partial
    return Kept(
        events=[(each.sse.event, each.sse.data, each.sse.id, each.message) for each in partial.events],
        text=partial.text,
        answer=partial.answer,
        dropped=partial.dropped,
        outcome=run.outcome.name,
    )


@pytest.mark.slow
@pytest.mark.table("cuts")
@each_transport
@pytest.mark.parametrize("kind", CUTS)
async def test_cut_streams(kind: str, transport: str, loop: str, row: Row) -> None:
    """Wherever a stream is cut, `.partial` is what the server had sent, within its limits.

    A reset discards what the client has not yet read from the kernel, so after an immediate one it is the beginning.
    """
    cutter = Cutter(kind)
    inner = transport_of(transport)
    at_a_time = anyio.CapacityLimiter(AT_A_TIME)
    found: dict[int, Kept] = {}
    wanted = {cut: interpret(STREAM[:cut]).events for cut in cuts_of(kind, transport, loop)}
    limits = {cut: BOUNDS[cut % len(BOUNDS)] for cut in wanted}

    async def play(url: str, cut: int) -> None:
        async with at_a_time:
            events = sum(each.event != "close" for each in wanted[cut])
            found[cut] = await kept(url, inner, cut, cutter, limits[cut], events)

    async with serving(cutter) as server:
        async with anyio.create_task_group() as group:
            for cut in wanted:
                group.start_soon(play, server.url, cut)
        await inner.aclose()
    row(kind, transport, loop, len(found))
    if kind == "RST at once":
        for cut, seen in found.items():
            beginnings = [promised(wanted[cut][:count], limits[cut]) for count in range(len(wanted[cut]) + 1)]
            assert seen in beginnings
    else:
        assert {cut: promised(events, limits[cut]) for cut, events in wanted.items()} == found
