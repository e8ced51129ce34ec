"""A notebook in a real Jupyter kernel: the synchronous agent, runs that show themselves, and an interrupted cell."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.sync.conftest import ServedToy
from tests.sync.conftest import toy as toy

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGIN: Final = """
from oxygent_client import SSEOxyGent
from oxygent_client.sync import SyncSSEOxyGent
agent = SyncSSEOxyGent({url!r})
run = agent.stream("tools", trace_id="sync")
run
"""
READ: Final = """
for event in run:
    pass
"""
LEAVE: Final = """
for event in agent.stream("slow"):
    break
"""
ASYNC: Final = """
async with SSEOxyGent({url!r}).stream("tools", trace_id="async") as run:
    display(run)
    async for event in run:
        pass
"""
CALLS: Final = ["trip_planner", "search_flights", "search_hotels", "add_up"]
"""The calls of the run of `tools`, each on a line of its own."""


def check(data: dict[str, str], title: str) -> None:
    """Check what is shown of the run of `tools` at its end."""
    first, *lines, output = data["text/plain"].split("\n")
    assert first == title
    assert [line.partition("✓ ")[2].partition("(")[0] for line in lines] == CALLS
    assert output == "5 20 HELLO"


class Notebook:
    """A notebook whose cells run one by one."""

    def __init__(self, client: Any, runner: asyncio.Runner, url: str) -> None:
        self.client = client
        self._runner = runner
        self._url = url

    def run(self, code: str) -> Any:
        """Run a cell, and return it with its outputs."""
        cell = import_module("nbformat").v4.new_code_cell(code.format(url=self._url))
        self.client.nb.cells.append(cell)
        return self._runner.run(self.client.async_execute_cell(cell, len(self.client.nb.cells) - 1))


@pytest.fixture(scope="module")
def notebook(toy: ServedToy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """A kernel of this interpreter, on sockets that only this user can reach."""
    manager: Any = import_module("jupyter_client.manager").AsyncKernelManager(transport="ipc")
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager._kernel_spec = import_module("jupyter_client.kernelspec").KernelSpec(argv=argv, language="python")
    manager.connection_file = str(tmp_path_factory.mktemp("kernel") / "kernel.json")
    empty: Any = import_module("nbformat").v4.new_notebook()
    client: Any = import_module("nbclient").NotebookClient(empty, km=manager, timeout=60)
    with asyncio.Runner() as runner:
        kernel = client.async_setup_kernel()
        runner.run(kernel.__aenter__())
        try:
            yield Notebook(client, runner, toy.url)
        finally:
            runner.run(kernel.__aexit__(None, None, None))


def test_a_synchronous_run_shows_itself(notebook: Notebook) -> None:
    """The output of the first cell is updated while the second one reads the run."""
    shown = notebook.run(BEGIN)
    assert shown.outputs[0].data["text/plain"] == "Run sync: not started"
    notebook.run(READ)
    check(shown.outputs[0].data, "Run sync: completed")
    assert "<b>Run sync: completed</b>" in shown.outputs[0].data["text/html"]


def test_an_asynchronous_run_shows_itself(notebook: Notebook) -> None:
    """It does so in a cell that awaits."""
    (output,) = notebook.run(ASYNC).outputs
    check(output.data, "Run async: completed")


def test_leaving_a_stream(notebook: Notebook, toy: ServedToy) -> None:
    """A cell that leaves a `for` cancels the remote."""
    notebook.run(LEAVE)
    assert toy.state_after_leaving() == "cancelled"


def test_interrupting_a_cell(notebook: Notebook, toy: ServedToy) -> None:
    """Stopping the cell cancels the remote; the next cell works."""
    before = len(toy.runs)

    def interrupt() -> None:
        while len(toy.runs) == before:
            time.sleep(0.01)
        notebook.client.km.provisioner.process.send_signal(signal.SIGINT)

    stopping = threading.Thread(target=interrupt)
    stopping.start()
    with pytest.raises(import_module("nbclient.exceptions").CellExecutionError, match="KeyboardInterrupt"):
        notebook.run("agent.ask('hang')")
    stopping.join()
    assert toy.state_after_leaving() == "cancelled"
    assert notebook.run("agent.ask('echo 42').output").outputs[0].data["text/plain"] == "'42'"
