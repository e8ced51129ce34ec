"""What the tests of all clients share: the real remotes, and what a remote knows of its runs."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio.from_thread
import attrs

from oxygent_client import OxyState, SSEOxyGent
from oxygent_client.testing import ToyRemote
from tests.interop.cuts import Cut, line
from tests.interop.environments import RELEASES
from tests.interop.harness import RemoteServer
from tests.interop.model import served_model

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

CUT: Final = "CUT-HERE"


def drive(command: Sequence[str], *tasks: dict[str, Any], **environment: str) -> list[dict[str, Any]]:
    """Return what a driver, a program with a client, makes of these tasks: a line of JSON each."""
    done = subprocess.run(
        command,
        input="".join(json.dumps(task) + "\n" for task in tasks),
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    found = [json.loads(each) for each in done.stdout.splitlines() if each.startswith("{")]
    assert (done.returncode, len(found)) == (0, len(tasks)), done.stderr
    return found


@attrs.frozen
class Remote:
    """A toy or a real server, as a witness."""

    system: ToyRemote | RemoteServer

    @property
    def is_toy(self) -> bool:
        """Whether it is a toy."""
        return isinstance(self.system, ToyRemote)

    @property
    def server(self) -> RemoteServer:
        """The real server."""
        assert isinstance(self.system, RemoteServer)
        return self.system

    def trace_ids(self, query: str) -> set[str]:
        """The runs with such a query; an agent of the framework that raises begins twice in one run."""
        if isinstance(self.system, ToyRemote):
            return {run.trace_id for run in self.system.runs if query in run.query}
        return {each.get("trace_id", "") for each in self.system.records("started") if query in each.get("query", "")}

    @property
    def requests(self) -> int:
        """How many runs were requested of the real server."""
        return len([each for each in self.server.records("request") if each.get("path") == "/sse/chat"])

    def wait_for_start(self, query: str) -> None:
        """Wait until an agent of the real server works on this query."""
        anyio.run(partial(self.server.wait_for, "started", within=60.0, query=query))

    def check_cancelled(self, query: str, left_at: float) -> None:
        """Check that the run was cancelled at the real server within 2 s."""
        found = anyio.run(partial(self.server.wait_for, "cancelled", within=10.0, query=query))
        assert found["time"] - left_at < 2.0
        record = anyio.run(SSEOxyGent(self.server.url).lookup, found.get("trace_id", ""))
        assert record is not None
        assert record.state is OxyState.CANCELED


@contextmanager
def cut_server(directory: Path) -> Generator[tuple[str, Remote]]:
    """A real server, and its URL by a line that is cut where a query has CUT."""
    server = RemoteServer(RELEASES[0], directory)
    with anyio.from_thread.start_blocking_portal() as portal, ExitStack() as stack:
        stack.callback(server.close)
        cuts = [Cut(said=CUT.encode())] * 10_000
        way = stack.enter_context(portal.wrap_async_context_manager(line(server.port, *cuts)))
        yield way.url, Remote(server)


@contextmanager
def react_server(directory: Path) -> Generator[tuple[str, Remote]]:
    """A real server whose agent thinks, calls a tool and answers, by a model that streams; and its URL."""
    with served_model() as model, ExitStack() as stack:
        server = RemoteServer(RELEASES[0], directory, "--model", model)
        stack.callback(server.close)
        yield server.url, Remote(server)
