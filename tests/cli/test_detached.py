"""The commands `start`, `watch` and `lookup`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

from oxygent_client import RunHandle
from oxygent_client.testing import ToyRemote, serve
from oxygent_client.testing.script import SCRIPTS, Fail, Hang, Script, Stream
from tests.support.command_line import command, on_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.seconds

HANGS: Final = Script([Stream("working on"), Hang()])
CANARY: Final = "sk-canary-0123456789"


@pytest.fixture(scope="module")
def toy() -> ToyRemote:
    """A toy without pauses."""
    return ToyRemote(pace=0, scripts={**SCRIPTS, "works": HANGS, "breaks": Script([Fail("the agent gave up")])})


@pytest.fixture(scope="module")
def url(toy: ToyRemote) -> Iterator[str]:
    """The URL of the toy."""
    with serve(toy) as at:
        yield at


def started(url: str, query: str) -> str:
    """Start a run, and return its token."""
    return command("start", url, query).out.strip()


def test_start(url: str, toy: ToyRemote) -> None:
    """The token is the only line on stdout; stderr has the trace id."""
    ran = command("start", url, "echo hi")
    handle = RunHandle.from_token(ran.out.strip())
    assert ran.code == 0
    assert ran.out.count("\n") == 1
    assert handle.server_url == url
    assert handle.trace_id == toy.runs[-1].trace_id
    assert handle.trace_id in ran.err
    assert toy.runs[-1].state == "detached"


def test_start_for_programs(url: str) -> None:
    """With --json the token and the ids are one object."""
    ran = command("start", url, "echo hi", "--json")
    facts = json.loads(ran.out)
    handle = RunHandle.from_token(facts["token"])
    assert facts["kind"] == "started"
    assert facts["trace_id"] == handle.trace_id
    assert facts["remote_trace_id"] == handle.remote_trace_id
    assert facts["server_url"] == url
    assert ran.err == ""


def test_watch(url: str) -> None:
    """Events and answer are shown as `ask` shows them."""
    ran = command("watch", started(url, "tools"))
    assert ran.code == 0
    assert ran.out == "5 20 HELLO\n"
    assert ran.err.startswith("question  watch ")
    assert "search_flights" in ran.err


def test_watch_a_failed_run(url: str) -> None:
    """The exit code tells how the run ended."""
    ran = command("watch", started(url, "breaks"), "-q")
    assert ran.code == 7
    assert "the agent gave up" in ran.err


def test_leave_watch(url: str, toy: ToyRemote) -> None:
    """Ctrl-C leaves the run alone; the terminal's ^C stands on an empty line, so that the live view can be erased."""
    token = started(url, "works")
    with on_terminal("watch", token) as terminal:
        terminal.read_until("working on")
        terminal.press("\x03")
        code = terminal.wait()
    assert code == 130
    assert "the run goes on" in terminal.text
    assert "\n^C" in terminal.text
    assert toy.runs[-1].state == "detached"


def test_watch_at_another_server(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A profile of another server than the token's is refused: its credentials are not for that one."""
    monkeypatch.setenv("OXYGENT_PROFILES", f"{tmp_path}/oxygent.toml")
    (tmp_path / "oxygent.toml").write_text('[profiles.p]\nserver_url = "http://127.0.0.1:1"\n', encoding="utf-8")
    ran = command("watch", started(url, "echo hi"), "--profile", "p")
    assert ran.code == 2
    assert "another server" in ran.err


LOOKUPS: Final = [
    # the query, the exit code, the text on stdout, a text on stderr
    pytest.param("tools", 0, "5 20 HELLO\n", "✓ search_flights", id="completed"),
    pytest.param("breaks", 7, "", "the agent gave up", id="failed"),
    pytest.param("works", 75, "", "not ended", id="running"),
]


@pytest.mark.parametrize(("query", "code", "out", "err"), LOOKUPS)
def test_lookup(url: str, toy: ToyRemote, query: str, code: int, out: str, err: str) -> None:
    """The record's calls are drawn, and the exit code tells the state; a trace id and a token will do."""
    token = started(url, query)
    ran = command("lookup", url, toy.runs[-1].trace_id)
    assert ran.code == code
    assert ran.out == out
    assert err in ran.err
    assert command("lookup", token) == ran


def test_lookup_quietly(url: str) -> None:
    """With -q the answer alone is printed."""
    ran = command("lookup", started(url, "tools"), "-q")
    assert ran.out == "5 20 HELLO\n"
    assert ran.err == ""


def test_lookup_for_programs(url: str) -> None:
    """With --json the trace is printed, without the credentials that the record has."""
    token = started(url, f"echo {CANARY}")
    ran = command("lookup", token, "--json", "-H", f"x-api-key: {CANARY}")
    trace = json.loads(ran.out)
    assert trace["status"] == "completed"
    assert trace["calls"][0]["name"] == "trip_planner"
    assert CANARY not in ran.out


def test_lookup_without_a_record(url: str) -> None:
    """A run that the server does not have is an error."""
    ran = command("lookup", url, "no-such-run")
    assert ran.code == 2
    assert "no record" in ran.err


def test_lookup_without_a_server() -> None:
    """A server that does not answer is another error than a run that it does not have."""
    ran = command("lookup", "http://127.0.0.1:1", "no-such-run")
    assert ran.code == 3
