"""A real OxyGent server as a thing the tests hold: start it, read its own records, end it.

Rule 1: a server is a process of its own with a directory, a port and a log of its own, so that workers never meet.
Rule 2: only processes started here are ever signalled, by the handle that started them.
Rule 3: ready means that the process that was started answers itself; any other process on that port does not count.
Rule 4: nothing sleeps for a fixed time: whatever is waited for is looked at until it is there or its time is up.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final, Literal, NotRequired, TypedDict, cast

import anyio
import attrs

from oxygent_client import SSEOxyGent, Timeouts

from .environments import python_for

__all__ = ["PATIENT", "RECORDED", "UNRECORDED", "Record", "RemoteServer", "free_port", "unrecorded"]

PATIENT = Timeouts(idle=20.0, total=60.0)
"""For runs that should come to their end: a server that never ends one fails its test, and does not stop the others."""
RECORDED = attrs.evolve(PATIENT, lookup=20.0)
"""For runs whose record has their end: on a busy machine it may come later than the default waits for it."""

UNRECORDED: Final[dict[str, tuple[str, str]]] = {
    # how it is that there is no record: (the agent that is asked, the path under which the server is reached)
    "nothing stored": ("unstored_agent", ""),
    "nothing shown": ("master", "/bare"),
}

_SERVER = Path(__file__).with_name("server.py")
_START_SECONDS = 60.0  # importing a release takes 3 s on an idle machine; tests may share it
_STOP_SECONDS = 10.0
_LOOK_AGAIN_SECONDS = 0.02


class Record(TypedDict):
    """One fact from the server's own file; a run's facts share `run`."""

    event: Literal["request", "started", "finished", "cancelled", "raised", "tool"]
    time: float
    monotonic: float
    run: NotRequired[str]
    agent: NotRequired[str]
    trace_id: NotRequired[str]
    query: NotRequired[str]
    error: NotRequired[str]
    method: NotRequired[str]
    path: NotRequired[str]
    peer: NotRequired[int]


class RemoteServer:
    """A running server of one release; `close()` ends it and everything it left behind."""

    def __init__(self, version: str, directory: Path, *arguments: str) -> None:
        """Start it in `directory` (made, and removed by `close()`); returns when it answers."""
        self.version = version
        self._arguments = arguments
        self.directory = directory
        self.log_path = directory.with_suffix(".log")
        self._records_path = directory.with_suffix(".records.jsonl")
        directory.mkdir(parents=True)
        python = python_for(version)
        for _ in range(3):  # between choosing a port and taking it, another process may have taken it
            self.port = free_port()
            self._process = self._spawn(python)
            if self._answers():
                return
            self.close()
            directory.mkdir(parents=True, exist_ok=True)
        raise RuntimeError(f"oxygent {version} did not start: see {self.log_path}")

    @property
    def url(self) -> str:
        """What a client calls `server_url`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def records(self, event: str = "", *, query: str = "", trace_id: str = "", since: int = 0) -> list[Record]:
        """What the server wrote so far, in order; optionally of one kind, one query, one run, after so many lines."""
        found: list[Record] = []
        with self._records_path.open(encoding="utf-8") as file:
            for line in list(file)[since:]:
                if not line.endswith("\n"):  # the server is writing it
                    break
                record = cast("Record", json.loads(line))
                if event and record["event"] != event:
                    continue
                if query and record.get("query") != query:
                    continue
                if trace_id and record.get("trace_id") != trace_id:
                    continue
                found.append(record)
        return found

    async def wait_for(self, event: str, *, within: float, query: str = "", trace_id: str = "") -> Record:
        """The first such record, as soon as it is there; AssertionError with what is there instead when time is up."""
        deadline = time.monotonic() + within
        while not (found := self.records(event, query=query, trace_id=trace_id)):
            if time.monotonic() > deadline:
                every = self.records(query=query, trace_id=trace_id)
                raise AssertionError(
                    f"no {event!r} of {query or trace_id or 'any run'} within {within} s; the server says {every}"
                )
            await anyio.sleep(_LOOK_AGAIN_SECONDS)
        return found[0]

    def kill(self) -> None:
        """SIGKILL: the process is gone when this returns."""
        self._process.kill()
        self._process.wait()

    def start_again(self) -> None:
        """Start it at the same port and with the same store, after `kill`; returns when it answers."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process = self._spawn(python_for(self.version))
        assert self._answers(), f"oxygent {self.version} did not start again: see {self.log_path}"

    def terminate(self) -> None:
        """SIGTERM: asks the process to stop; does not wait for it."""
        self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End the process, politely first, and remove its directory; its log and records stay with the test run."""
        if self._process.poll() is None:
            self.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _spawn(self, python: Path) -> subprocess.Popen[bytes]:
        # -I: neither our package, nor the directory of the tests, nor a user's site may reach into the release.
        command = [
            str(python),
            "-I",
            "-X",
            "utf8",
            str(_SERVER),
            "--port",
            str(self.port),
            "--records",
            str(self._records_path),
            *self._arguments,
        ]
        kept = {
            name: value
            for name, value in os.environ.items()
            if name in {"PATH", "HOME", "LANG", "TMPDIR", "SYSTEMROOT"}
        }
        self._records_path.touch()
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.directory,
                env=kept,
                stdin=subprocess.PIPE,  # never written to: the server ends when it closes, whatever became of us
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests, which then close their servers
            )

    def _answers(self) -> bool:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            identity = _get_json(f"{self.url}/interop/identity")
            if identity is not None:
                return bool(identity == {"pid": self.pid, "release": self.version})
            time.sleep(0.05)
        return False


def unrecorded(kind: str, url: str, **options: Any) -> SSEOxyGent:
    """An agent of whose runs at this server no record is to be had."""
    callee, path = UNRECORDED[kind]
    return SSEOxyGent(server_url=url + path, callee=callee, check_callee=False, **options)


def free_port() -> int:
    """A loopback port that nobody used a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return cast("int", probe.getsockname()[1])


def _get_json(url: str) -> Any:
    # Without proxies: the environment's are not for loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as response:
            return json.load(response)
    except (urllib.error.URLError, OSError, ValueError):
        return None
