"""A real OxyGent server for tests: start it, read its records, end it.

Rule 1: a server is a process with its own directory, port and log, so that parallel tests do not share one.
Rule 2: only processes started here are signalled, by their handle.
Rule 3: a server is ready when the started process answers; another process on that port does not count.
Rule 4: nothing sleeps for a fixed time: conditions are polled up to a time-out.
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
"""For complete runs: a server that never ends one fails its test, and does not block the others."""
RECORDED = attrs.evolve(PATIENT, lookup=20.0)
"""For runs whose record has their end: on a busy machine it may come later than the default waits for it."""

UNRECORDED: Final[dict[str, tuple[str, str]]] = {
    # why there is no record: (the agent, the path under which the server is reached)
    "nothing stored": ("unstored_agent", ""),
    "nothing shown": ("master", "/bare"),
}

_SERVER = Path(__file__).with_name("server.py")
_START_SECONDS = 60.0  # importing a release takes 3 s on an idle machine; tests may share it
_STOP_SECONDS = 10.0
_LOOK_AGAIN_SECONDS = 0.02


class Record(TypedDict):
    """One entry of the server's own file; the entries of a run share `run`."""

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
    """A running server of one release; `close()` ends it and its processes."""

    def __init__(self, version: str, directory: Path, *arguments: str) -> None:
        """Start it in `directory` (made, and removed by `close()`), and wait until it answers."""
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
        """The `server_url` for clients."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def records(self, event: str = "", *, query: str = "", trace_id: str = "", since: int = 0) -> list[Record]:
        """Return the records so far, in order; optionally of one kind, one query, one run, after so many lines."""
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
        """Return the first such record as soon as it exists; raise AssertionError with the others after a time-out."""
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
        """Send SIGKILL, and wait for the end of the process."""
        self._process.kill()
        self._process.wait()

    def start_again(self) -> None:
        """Start it at the same port and with the same store, after `kill`, and wait until it answers."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process = self._spawn(python_for(self.version))
        assert self._answers(), f"oxygent {self.version} did not start again: see {self.log_path}"

    def terminate(self) -> None:
        """Send SIGTERM, without waiting."""
        self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End the process, first by SIGTERM, and remove its directory; log and records are kept with the test run."""
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
        # -I: neither our package, nor the directory of the tests, nor a user's site is on the path of the release.
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
                stdin=subprocess.PIPE,  # never written to: the server ends when it is closed, even if we were killed
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests, which then end their servers
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
    """Return an agent for whose runs this server shows no record."""
    callee, path = UNRECORDED[kind]
    return SSEOxyGent(server_url=url + path, callee=callee, check_callee=False, **options)


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
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
