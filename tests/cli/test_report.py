"""The command `report`."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Final

import pytest

from oxygent_client.testing import ToyRemote, serve
from tests.support.command_line import command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def toy() -> ToyRemote:
    """A toy without pauses."""
    return ToyRemote(pace=0)


@pytest.fixture(scope="module")
def url(toy: ToyRemote) -> Iterator[str]:
    """The URL of the toy."""
    with serve(toy) as at:
        yield at


@pytest.fixture(scope="module")
def recording(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of one run."""
    path = tmp_path_factory.mktemp("report") / "run.jsonl"
    assert command("record", url, "tools", str(path)).code == 0
    return path


def test_the_report_of_a_recording(recording: Path) -> None:
    """A recording becomes a page, without a server."""
    ran = command("report", str(recording))
    assert ran.code == 0
    assert ran.err == ""
    assert ran.out.startswith("<!DOCTYPE html>")
    assert "search_flights" in ran.out
    assert "5 20 HELLO" in ran.out


def test_the_report_of_a_record(url: str, toy: ToyRemote, recording: Path) -> None:
    """The server's record of a run becomes a page."""
    ran = command("report", url, toy.runs[-1].trace_id)
    assert ran.code == 0
    assert "search_flights" in ran.out
    assert "the record of the server" in ran.out


def test_the_report_of_a_trace(url: str, toy: ToyRemote, recording: Path, tmp_path: Path) -> None:
    """A trace in JSON, as `lookup` prints it, gives the same page as the record."""
    trace_id = toy.runs[-1].trace_id
    path = tmp_path / "trace.json"
    path.write_text(command("lookup", url, trace_id, "--json").out, encoding="utf-8")
    assert command("report", str(path)).out == command("report", url, trace_id).out


def test_the_file(recording: Path, tmp_path: Path) -> None:
    """The page is written to a file for its owner; an existing file is replaced with --force only."""
    path = tmp_path / "run.html"
    ran = command("report", str(recording), "-o", str(path))
    assert ran.code == 0
    assert ran.out == ""
    assert path.read_text(encoding="utf-8") == command("report", str(recording)).out
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("mine", encoding="utf-8")
    refused = command("report", str(recording), "-o", str(path))
    assert refused.code == 2
    assert "--force" in refused.err
    assert path.read_text(encoding="utf-8") == "mine"
    assert command("report", str(recording), "-o", str(path), "--force").code == 0
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_one_of_several_runs(url: str, recording: Path, tmp_path: Path) -> None:
    """Of a recording of several runs one is chosen by its number."""
    other = tmp_path / "other.jsonl"
    assert command("record", url, "echo hello", str(other)).code == 0
    both = tmp_path / "both.jsonl"
    lines = other.read_text(encoding="utf-8").split("\n", 1)[1]
    both.write_text(recording.read_text(encoding="utf-8") + lines, encoding="utf-8")
    unclear = command("report", str(both))
    assert unclear.code == 2
    assert "--run" in unclear.err
    assert "2 'echo hello'" in unclear.err
    assert command("report", str(both), "--run", "2").out == command("report", str(other)).out
    assert command("report", str(both), "--run", "3").code == 2


EMPTY: Final = json.dumps({"cassette": 1, "made_by": "a test"})
FILES: Final = {
    "no trace": ("nonsense", "no trace in JSON"),
    "no run": (f"{EMPTY}\n", "holds none"),
    "a broken recording": (f"{EMPTY}\nnonsense\n", "line 2"),
}


@pytest.mark.parametrize(("text", "shown"), FILES.values(), ids=FILES)
def test_files_that_hold_no_run(text: str, shown: str, tmp_path: Path) -> None:
    """A file without a run is an error."""
    path = tmp_path / "run.jsonl"
    path.write_text(text, encoding="utf-8")
    ran = command("report", str(path))
    assert ran.code == 2
    assert shown in ran.err


def test_a_file_that_cannot_be_written(recording: Path, tmp_path: Path) -> None:
    """A file that cannot be written is an error that names the option."""
    ran = command("report", str(recording), "-o", str(tmp_path / "none" / "run.html"))
    assert ran.code == 2
    assert "--output" in ran.err
