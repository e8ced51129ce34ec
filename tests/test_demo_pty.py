"""The demonstration as a person sees it: on a terminal, live, for long enough to follow.

Rule 1: what counts is when something appears, so everything that is read has its time.
"""

from __future__ import annotations

import codecs
import errno
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from typing import Final

import pytest

ROWS, COLUMNS = 24, 80

# What the tree shows, in the order in which it happens; each appears when its event comes.
APPEARING: Final = (
    "trip_planner",
    "A way there and a room",
    "Looking at flights and hotels",
    "hotel_agent",
    "read_reviews",
    "one cabin bag",
    "212 reviews",
    "price_history",
    "upstream timed out",
    "409",
    "Casa do Miradouro, Alfama",
    "Sintra by train",
    "answer",
    "events · 10 calls",
)
_CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def watched(*argv: str) -> tuple[int, list[tuple[float, str]]]:
    """The exit code of the command on a terminal of 80 by 24, and what appeared when (seconds since its start)."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        environment.pop(name, None)
    start = time.monotonic()
    decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end within a character
    seen: list[tuple[float, str]] = []
    with subprocess.Popen(
        [sys.executable, "-m", "oxygent_client", *argv], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        try:
            while data := os.read(ours, 65536):
                seen.append((time.monotonic() - start, decoder.decode(data)))
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux says that the other end was closed
                raise
        finally:
            os.close(ours)
        return process.wait(30), seen


@pytest.fixture(scope="module")
def demo() -> tuple[int, list[tuple[float, str]]]:
    """One demonstration, in real time."""
    return watched("demo")


def first_seen(seen: list[tuple[float, str]], text: str) -> float:
    """When the text was on the screen for the first time; styles and cursor movements do not count."""
    shown = ""
    for at, data in seen:
        shown = _CONTROL.sub("", (shown + data)[-20_000:])
        if text in shown:
            return at
    raise AssertionError(f"{text!r} never appeared")


def test_it_lasts(demo: tuple[int, list[tuple[float, str]]]) -> None:
    """It ends well, and lasts long enough to be followed and not so long as to bore."""
    code, seen = demo
    assert code == 0
    assert 5 <= seen[-1][0] <= 15


def test_it_is_live(demo: tuple[int, list[tuple[float, str]]]) -> None:
    """Its events appear in their order, at many different times, and not all at the end."""
    _, seen = demo
    times = [first_seen(seen, text) for text in APPEARING]
    assert times == sorted(times)
    assert len({round(at, 1) for at in times}) >= 5
    assert times[-1] - times[0] >= 4


def test_it_fits(demo: tuple[int, list[tuple[float, str]]]) -> None:
    """No line is wider than the terminal, and the cursor is there again at the end."""
    text = "".join(data for _, data in demo[1])
    lines = re.split(r"[\r\n]+|\x1b\[\d*[AK]", re.sub(r"\x1b\[[\d;]*m|\x1b\[\?25.", "", text))
    assert max(len(each) for each in lines) <= COLUMNS
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")


def test_fast() -> None:
    """In a hurry it takes less than half the time."""
    code, seen = watched("demo", "--fast")
    assert (code, seen[-1][0] < 5) == (0, True)
