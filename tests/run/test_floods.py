"""Floods: a server that sends endlessly costs bounded memory, raises a typed error and can be left.

Rule 1: server and client are processes of their own (`flood_server.py`, `flood_client.py`); tests check the numbers
    that the client prints.
Rule 2: the limits are promises far from the measured values, so that a slow machine does not fail a test.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.conftest import LOOPS, ROOT, SIZE, scaled
from tests.support.flood_client import Measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Row = Callable[..., None]

pytestmark = [
    pytest.mark.table("floods"),
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux"),
]

MIB: Final = 1024 * 1024
SPARE: Final = 16 * MIB
"""Growth of a process beside the limit, in bytes."""
PROMPT: Final = 1.0 if SIZE == "soak" else 20.0
"""Seconds within which an error is raised, or a block is left. The soak has the machine to itself."""
LIMIT: Final = (16 if SIZE == "soak" else 4) * MIB
IDLE: Final = 10.0 if SIZE == "soak" else 0.5
"""Seconds of a flood that no limit ends."""
AGAIN: Final = 10.0 if SIZE == "soak" else 1.0


each_loop: Final = pytest.mark.parametrize("loop", LOOPS)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of the flood server."""
    command = [sys.executable, str(ROOT / "tests" / "support" / "flood_server.py"), "--seconds", "30"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.stdin.close()  # so that it exits


def measured(row: Row, url: str, flood: str, loop: str, **options: Any) -> Measured:
    """Return the client's numbers for this flood."""
    command = [sys.executable, "-m", "tests.support.flood_client", url, flood, loop, json.dumps(options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = Measured(**json.loads(done.stdout))
    ended = found.ends[-1].partition(":")[0]
    row(flood, loop, ended, found.rounds, round(found.received / 1e6, 1), round(found.grown / 1e6, 1))
    return found


EVENT_BYTES: Final[dict[str, Any]] = {"limits": {"event_bytes": LIMIT}, "marked": LIMIT}
STREAM_BYTES: Final[dict[str, Any]] = {"limits": {"stream_bytes": LIMIT}, "marked": LIMIT}
EVENT: Final = f"TooLargeError: an event is larger than Limits.event_bytes ({LIMIT})"
LINE: Final = f"TooLargeError: a line is longer than Limits.line_bytes ({LIMIT})"
STREAM: Final = f"TooLargeError: the stream is larger than Limits.stream_bytes ({LIMIT})"
NO_EVENT: Final = f"IdleTimeoutError: no event within Timeouts.idle ({IDLE:g} s)"

ENDLESS: Final[dict[str, tuple[str, dict[str, Any], str, int]]] = {
    # case: (the flood, the client's options, the result, the limit)
    "a line": ("line", EVENT_BYTES, EVENT, LIMIT),
    "a line, after an event": ("named-line", EVENT_BYTES, EVENT, LIMIT),
    "a line, by its own limit": ("line", {"limits": {"line_bytes": LIMIT}, "marked": LIMIT}, LINE, LIMIT),
    "an event": ("event", EVENT_BYTES, EVENT, LIMIT),
    "an event of small lines": ("event-of-small-lines", EVENT_BYTES, EVENT, LIMIT),
    "an event of empty lines": ("event-of-empty-lines", EVENT_BYTES, EVENT, LIMIT),
    "a comment": ("comment", EVENT_BYTES, EVENT, LIMIT),
    "comments": ("comments", EVENT_BYTES, EVENT, LIMIT),
    "an unknown field": ("unknown-field", EVENT_BYTES, EVENT, LIMIT),
    "a field without a colon": ("field-without-colon", EVENT_BYTES, EVENT, LIMIT),
    "blank lines": ("blank-lines", STREAM_BYTES, STREAM, 0),
    "blank lines, after an event": ("named-blank-lines", STREAM_BYTES, STREAM, 0),
    "heartbeats": ("heartbeats", STREAM_BYTES, STREAM, 0),
    "events": ("events", {"limits": {"stream_bytes": MIB}, "marked": MIB}, STREAM.replace(str(LIMIT), str(MIB)), 0),
    "blank lines, by the clock": ("blank-lines", {"idle": IDLE}, NO_EVENT, 0),
    "heartbeats, by the clock": ("heartbeats", {"idle": IDLE}, NO_EVENT, 0),
    "a document": (
        "json",
        {"limits": {"body_bytes": LIMIT}, "marked": LIMIT, "discover": True},
        f"TooLargeError: the response is larger than Limits.body_bytes ({LIMIT})",
        LIMIT,
    ),
}
"""Limits of 0 keep nothing of the stream."""
OF_THE_DECODER: Final = {
    "a line, after an event",
    "an event of small lines",
    "an event of empty lines",
    "a comment",
    "an unknown field",
    "a field without a colon",
    "blank lines, after an event",
    "heartbeats",
    "blank lines, by the clock",
}
"""Their memory is that of the decoder, which tests/protocol/test_sse.py measures; a process measures it in a soak."""


@each_loop
@pytest.mark.parametrize("what", [what for what in ENDLESS if SIZE == "soak" or what not in OF_THE_DECODER])
def test_endless_streams(what: str, loop: str, url: str, row: Row) -> None:
    """A flood raises its typed error within a second of the limit, and memory grows by little more than the limit."""
    flood, options, end, limit = ENDLESS[what]
    found = measured(row, url, flood, loop, **options)
    assert found.ends == [end]
    assert found.late is not None
    assert 0 <= found.late < PROMPT
    assert found.grown < limit + SPARE


@each_loop
@pytest.mark.parametrize("flood", ["line", "event", "comment"])
def test_repeated_failures(flood: str, loop: str, url: str, row: Row) -> None:
    """Repeated failures by a flood do not add up in memory.

    A line that grows is moved at times, and is then in memory twice. In a new process that costs nothing; in one
    that had freed so large a block before, it does (glibc, `M_MMAP_THRESHOLD`).
    """
    found = measured(row, url, flood, loop, seconds=AGAIN, **EVENT_BYTES)
    assert found.ends == [EVENT]
    assert found.late is not None
    assert found.late < PROMPT
    assert found.rounds > scaled(1)
    assert found.grown < 2 * LIMIT + SPARE


NO_LIMIT: Final = {"event_bytes": None, "stream_bytes": None, "body_bytes": None}
ALIKE: Final = ("event-of-small-lines", "comment", "unknown-field", "blank-lines", "named-blank-lines")
"""Leaving them does not differ from leaving the others: they are left in a soak only."""
LEFT: Final = {
    # the flood: whether it is a document
    "line": False,
    "event": False,
    "heartbeats": False,
    "events": False,
    "json": True,
    **(dict.fromkeys(ALIKE, False) if SIZE == "soak" else {}),
}


@each_loop
@pytest.mark.parametrize("flood", LEFT)
def test_leaving_a_flood(flood: str, loop: str, url: str, row: Row) -> None:
    """A flood that no limit ends is left soon after a cancellation."""
    found = measured(row, url, flood, loop, cancel=MIB // 4, discover=LEFT[flood], limits=NO_LIMIT)
    assert found.ends == ["cancelled"]
    assert found.late is not None
    assert found.late < PROMPT


BOMBS: Final[dict[str, tuple[str, bool, str, int]]] = {
    # the bomb: (the flood, whether it is a document, the result, the limit); 64 KiB of a bomb are 64 MiB
    "a stream": (
        "gzip-stream",
        False,
        f"TooLargeError: an event is larger than Limits.event_bytes ({16 * MIB})",
        16 * MIB,
    ),
    "a document": (
        "gzip-short-json",
        True,
        f"TooLargeError: the response is larger than Limits.body_bytes ({8 * MIB})",
        8 * MIB,
    ),
    "a document of bombs": (
        "gzip-json",
        True,
        f"TooLargeError: the response is larger than Limits.body_bytes ({8 * MIB})",
        8 * MIB,
    ),
    "a refusal of a run": ("gzip-refusal", False, "ServerError: the server responded 500 (Internal Server Error)", 0),
    "a refusal of a document": (
        "gzip-refusal",
        True,
        "ServerError: the server responded 500 (Internal Server Error)",
        0,
    ),
}


@each_loop
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs(bomb: str, loop: str, url: str, row: Row) -> None:
    """Limits count decompressed bytes: a compression bomb raises a typed error and costs bounded memory."""
    flood, document, end, limit = BOMBS[bomb]
    found = measured(row, url, flood, loop, discover=document)
    assert found.ends == [end]
    assert found.seconds < PROMPT
    assert found.grown < limit + SPARE
