"""The demonstration on a real terminal.

Rule 1: the frames are tested in their order, not by their time, which depends on the load of the machine. Duration and
    times are tested in test_cli_live.py.
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
from typing import Final

import pytest

pytestmark = pytest.mark.seconds

ROWS, COLUMNS = 24, 80

# The texts of the tree, in their order; each appears when its event is received.
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
_ERASED: Final = re.compile(r"\x1b\[1A\x1b\[2K")


def watched(*argv: str) -> tuple[int, str]:
    """Return the exit code of the command on a terminal of 80 by 24, and its output."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        environment.pop(name, None)
    decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end within a character
    seen: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", "oxygent_client", *argv], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        try:
            while data := os.read(ours, 65536):
                seen.append(decoder.decode(data))
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux reports that the other end was closed
                raise
        finally:
            os.close(ours)
        return process.wait(30), "".join(seen)


@pytest.fixture(scope="module")
def demo() -> tuple[int, str]:
    """The demonstration, in real time."""
    return watched("demo")


def pictures(text: str) -> list[str]:
    """Return the frames without styles: each begins by erasing the one before it."""
    return [_CONTROL.sub("", picture) for picture in _ERASED.split(text)]


def first_seen(drawn: list[str], text: str) -> int:
    """Return the number of the first frame with this text."""
    return next(number for number, picture in enumerate(drawn) if text in picture)


def test_live(demo: tuple[int, str]) -> None:
    """It succeeds, and its events appear in order in different frames."""
    code, text = demo
    assert code == 0
    seen = [first_seen(pictures(text), each) for each in APPEARING]
    assert sorted(seen) == seen
    assert len({*seen}) >= 5


def test_width(demo: tuple[int, str]) -> None:
    """No line is wider than the terminal, and the cursor is visible at the end."""
    _, text = demo
    lines = re.split(r"[\r\n]+|\x1b\[\d*[AK]", re.sub(r"\x1b\[[\d;]*m|\x1b\[\?25.", "", text))
    assert max(len(each) for each in lines) <= COLUMNS
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")


def test_fast() -> None:
    """With `--fast` it shows the same."""
    code, text = watched("demo", "--fast")
    assert code == 0
    assert APPEARING[-1] in pictures(text)[-1]
