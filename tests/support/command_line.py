"""Run the command line: in this process, or as a program on a terminal of its own."""

from __future__ import annotations

import codecs
import errno
import fcntl
import io
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Final

from attrs import define, field

from oxygent_client.cli import main

if TYPE_CHECKING:
    from collections.abc import Generator

PATIENCE: Final = 60.0
"""Seconds without a text; the machine may be busy."""
_OWN_TERMINAL: Final = """
import os, sys
os.close(os.open(os.ttyname(0), os.O_RDWR))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Makes the terminal that of this session (a leader that opens one gets it), and becomes the program."""


@define
class Ran:
    """The result of a command."""

    code: int
    out: str
    err: str


def command(*argv: str) -> Ran:
    """Run the command line in this process, without a terminal."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(argv)
    return Ran(code, out.getvalue(), err.getvalue())


@define
class Terminal:
    """A program on a terminal, as a user sees and uses it."""

    process: subprocess.Popen[bytes]
    ours: int
    text: str = ""
    """All that was written, control characters included."""
    _place: int = 0
    """The end of the text that was waited for last."""
    _decoder: codecs.IncrementalDecoder = field(factory=codecs.getincrementaldecoder("utf-8"))

    def press(self, keys: str) -> None:
        """Press keys: CR for Enter, ETX for Ctrl-C."""
        os.write(self.ours, keys.encode())

    def read_until(self, text: str) -> None:
        """Read until the terminal shows `text`, after the one before; raise AssertionError with all that it shows."""
        while text not in self.text[self._place :]:
            data = self._read()
            assert data, f"the program has ended without {text!r}: {self.text!r}"
            self.text += self._decoder.decode(data)
        self._place = self.text.index(text, self._place) + len(text)

    def wait(self) -> int:
        """Read to the end of the program, and return its exit code."""
        while data := self._read():
            self.text += self._decoder.decode(data)
        return self.process.wait(PATIENCE)

    def leave_prompt(self) -> int:
        """Press Ctrl-C at a prompt until the program ends, and return its exit code.

        CPython's `input` shows the prompt before it looks for signals: on a busy machine one that arrives between is
        noticed with the next key.
        """
        self.press("\x03")
        while self.process.poll() is None:
            if select.select([self.ours], [], [], 2.0)[0]:
                self.text += self._decoder.decode(self._read())
            else:
                self.press("\x03")
        return self.wait()

    def _read(self) -> bytes:
        ready, _, _ = select.select([self.ours], [], [], PATIENCE)
        assert ready, f"the terminal shows nothing more than {self.text!r}"
        try:
            return os.read(self.ours, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux reports that the other end was closed
                raise
            return b""


@contextmanager
def on_terminal(*argv: str, rows: int = 24, columns: int = 80) -> Generator[Terminal]:
    """Run the command line on a terminal of its own, which sends it a signal for Ctrl-C."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        environment.pop(name, None)
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _OWN_TERMINAL, "-m", "oxygent_client", *argv],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            os.close(ours)
