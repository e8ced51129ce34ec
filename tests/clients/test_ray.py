"""`AskAgent` in a local Ray: the program of the page, and a worker that is killed, whose work Ray repeats."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import TYPE_CHECKING, Final

from oxygent_client.testing import ToyRemote, serve
from tests.conftest import ROOT
from tests.interop.environments import python_with
from tests.project.test_docs import DOCUMENTED_URL

if TYPE_CHECKING:
    from pathlib import Path

ROWS: Final = 40
PAGE: Final = (ROOT / "docs" / "howto" / "ray.md").read_text("utf-8")
INIT: Final = "import ray\nray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)\n"
KILLED: Final = """
import json, os, signal
from pathlib import Path
from oxygent_client.integrations.ray import AskAgent

home = Path(os.environ["HOME"])
marker = home / "killed"

class Dying(AskAgent):
    def __call__(self, batch):
        done = super().__call__(batch)
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return done

queries = ray.data.from_items([{"id": number, "query": f"echo {number}"} for number in range(40)])
settings = {"server_url": "http://127.0.0.1:8082", "job": "echoes"}
done = queries.map_batches(Dying, fn_constructor_kwargs=settings, concurrency=2, batch_size=8)
found = sorted(done.take_all(), key=lambda row: row["id"])
(home / "found.json").write_text(json.dumps([[row["status"], row["output"]] for row in found]))  # Ray prints, too
"""


def ran(program: str, home: Path) -> tuple[str, list[str]]:
    """Run a program in the environment of Ray; return its output, and the queries of the runs at the server."""
    toy = ToyRemote(pace=0)
    with serve(toy) as url:
        done = subprocess.run(
            [python_with("ray"), "-c", INIT + program.replace(DOCUMENTED_URL, url)],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "PYTHONPATH": os.environ.get("OXYGENT_CLIENT_WHEEL") or str(ROOT / "src"),  # a wheel is a path, too
                "RAY_USAGE_STATS_ENABLED": "0",
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout, sorted(run.query for run in toy.runs)


def test_the_page(tmp_path: Path) -> None:
    """The program of the page prints the output on the page."""
    found = re.search(r"```py\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    assert ran(found[1], tmp_path) == (found[2], sorted(f"echo {number}" for number in range(ROWS)))


def test_a_worker_that_is_killed(tmp_path: Path) -> None:
    """All rows are answered, and no query runs twice."""
    _, queries = ran(KILLED, tmp_path)
    assert (tmp_path / "killed").exists()
    assert json.loads((tmp_path / "found.json").read_text()) == [["completed", str(number)] for number in range(ROWS)]
    assert queries == sorted(f"echo {number}" for number in range(ROWS))
