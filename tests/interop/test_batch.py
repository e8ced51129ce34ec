"""`oxygent-client batch` at a real server, killed at random moments and resumed."""

from __future__ import annotations

import collections
import json
import random
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.conftest import scaled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .harness import RemoteServer

QUERIES: Final = min(scaled(200), 2000)
CONCURRENCY: Final = 12
KILLS: Final = 3
SECONDS: Final = 600.0
"""How long one process of a batch may take."""


def started(server: RemoteServer, file: Path) -> subprocess.Popen[str]:
    """Start a batch as a user does."""
    command = [sys.executable, "-m", "oxygent_client", "batch", server.url, str(file)]
    options = ["--output", str(file.with_name("results.jsonl")), "--concurrency", str(CONCURRENCY)]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def results(file: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a file that is written, or not there yet."""
    if not file.exists():
        return []
    *lines, _ = file.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines]


def wait_for_results(file: Path, number: int) -> None:
    """Wait until so many results are there."""
    until = time.monotonic() + SECONDS
    while len(results(file)) < number:
        assert time.monotonic() < until, "the batch makes no progress"
        time.sleep(0.002)


@pytest.mark.table("batch")
def test_a_batch_that_is_killed(start_server: Callable[[str], RemoteServer], tmp_path: Path, row: Any) -> None:
    """No query runs twice, and every query whose run was not in progress at a kill is answered once."""
    server = start_server("1.1.3")
    file, output = tmp_path / "queries.jsonl", tmp_path / "results.jsonl"
    queries = {f"q{number}": f"paced {number} {number % 4}" for number in range(QUERIES)}
    file.write_text("".join(json.dumps({"id": name, "query": query}) + "\n" for name, query in queries.items()))
    chance = random.SystemRandom()
    in_doubt: set[str] = set()
    for kill in range(KILLS):
        process = started(server, file)
        enough = round(QUERIES * (kill + chance.uniform(0.1, 0.9)) / (KILLS + 1))
        wait_for_results(output, enough)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.communicate()
        journal = {line["id"] for line in results(tmp_path / "results.jsonl.journal")[1:]}
        in_doubt |= journal - {line["id"] for line in results(output)}

    process = started(server, file)
    _, log = process.communicate(timeout=SECONDS)

    lines = results(output)
    ran = collections.Counter(record.get("query", "") for record in server.records("started"))
    statuses = {line["id"]: line["status"] for line in lines}
    completed = collections.Counter(line["id"] for line in lines if line["status"] == "completed")
    unknown = {name for name, status in statuses.items() if status == "unknown"}
    row(QUERIES, KILLS, len(in_doubt), completed.total(), len(unknown), ran.total(), max(ran.values()))

    assert statuses.keys() == queries.keys()
    assert max(ran.values()) == 1
    assert {*completed.values()} == {1}
    assert unknown <= in_doubt
    assert completed.keys() | unknown == queries.keys()
    assert {ran[queries[name]] for name in completed} == {1}
    assert [line["output"] for line in lines if line["status"] == "completed"] == [
        line["query"].split()[1] for line in lines if line["status"] == "completed"
    ]
    assert process.returncode == (7 if unknown else 0), log


@pytest.mark.parametrize("server", ["1.0.8"], indirect=True)
def test_an_old_server(server: RemoteServer, tmp_path: Path) -> None:
    """At a server without events of detached runs, the answers are those of its records."""
    file = tmp_path / "queries.jsonl"
    file.write_text("".join(json.dumps(f"tagged old-{number} 1") + "\n" for number in range(12)))
    process = started(server, file)
    _, log = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, log
    assert {line["output"] for line in results(tmp_path / "results.jsonl")} == {f"old-{number}" for number in range(12)}
    assert len([record for record in server.records("started") if "old-" in record.get("query", "")]) == 12
