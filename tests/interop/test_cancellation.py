"""Each way of ending a call cancels the run at a real server within a second, by the agent's record."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from oxygent_client import Progress, SSEOxyGent, Timeouts, errors, sync

from .harness import PATIENT

if TYPE_CHECKING:
    from .harness import RemoteServer

pytestmark = pytest.mark.anyio

WITHIN_SECONDS = 1.0


async def assert_stopped(server: RemoteServer, trace_id: str, since: float) -> None:
    """Assert that the run started once, and was cancelled within a second of `since` (the system's monotonic clock)."""
    record = await server.wait_for("cancelled", trace_id=trace_id, within=5.0)
    assert record["monotonic"] - since <= WITHIN_SECONDS
    assert [r["event"] for r in server.records(trace_id=trace_id)] == ["started", "cancelled"]


@pytest.fixture
def trace_id() -> str:
    """Return an id by which the server's records have this test's run."""
    return uuid.uuid4().hex


async def test_leaving_the_block(server: RemoteServer, trace_id: str) -> None:
    """`break` inside the block cancels the run."""
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        async with agent.stream("slow 30", trace_id=trace_id) as run:
            async for event in run:
                if isinstance(event, Progress):
                    break
            left = time.monotonic()
        await assert_stopped(server, trace_id, left)


@pytest.fixture(scope="module")
def synchronous_loop() -> None:
    """Start the event loop of synchronous agents, whose sockets outlive each test."""
    sync.call(anyio.lowlevel.checkpoint)


@pytest.mark.usefixtures("synchronous_loop")
async def test_leaving_a_synchronous_loop(server: RemoteServer, trace_id: str) -> None:
    """`break` in a plain `for` cancels the run."""
    left = 0.0
    with sync.SyncSSEOxyGent(server.url, timeouts=PATIENT) as agent:
        for event in agent.stream("slow 30", trace_id=trace_id):
            if isinstance(event, Progress):
                left = time.monotonic()
                break
        await assert_stopped(server, trace_id, left)


async def test_an_error_in_the_block(newest: RemoteServer, trace_id: str) -> None:
    """An exception of the user leaves the block unchanged, and cancels the run."""
    async with SSEOxyGent(server_url=newest.url, timeouts=PATIENT) as agent:
        left = 0.0
        with pytest.raises(KeyError, match="mine"):
            async with agent.stream("slow 30", trace_id=trace_id) as run:
                async for event in run:
                    if isinstance(event, Progress):
                        left = time.monotonic()
                        raise KeyError("mine")
        await assert_stopped(newest, trace_id, left)


async def test_leaving_before_the_first_event(newest: RemoteServer, trace_id: str) -> None:
    """Leaving the block without reading cancels the run."""
    async with SSEOxyGent(server_url=newest.url, timeouts=PATIENT) as agent:
        async with agent.stream("quiet 30", trace_id=trace_id):
            await newest.wait_for("started", trace_id=trace_id, within=5.0)
            left = time.monotonic()
        await assert_stopped(newest, trace_id, left)


@pytest.mark.parametrize("query", ["slow 30", "quiet 30"])
async def test_cancelling_the_task(newest: RemoteServer, trace_id: str, query: str) -> None:
    """A cancel scope around `ask` cancels the run, busy or silent, and raises the cancellation."""
    async with SSEOxyGent(server_url=newest.url, timeouts=PATIENT) as agent:
        cancelled = 0.0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: agent.ask(query, trace_id=trace_id))
            await newest.wait_for("started", trace_id=trace_id, within=5.0)
            cancelled = time.monotonic()
            tasks.cancel_scope.cancel()
        assert tasks.cancel_scope.cancelled_caught
        await assert_stopped(newest, trace_id, cancelled)


async def test_a_scope_around_the_block(newest: RemoteServer, trace_id: str) -> None:
    """A scope cancelled while the reader holds an event cancels the run."""
    async with SSEOxyGent(server_url=newest.url, timeouts=PATIENT) as agent:
        cancelled = 0.0
        with anyio.CancelScope() as scope:
            async with agent.stream("slow 30", trace_id=trace_id) as run:
                async for event in run:
                    if isinstance(event, Progress) and not cancelled:
                        cancelled = time.monotonic()
                        scope.cancel()
        assert scope.cancelled_caught
        await assert_stopped(newest, trace_id, cancelled)


@pytest.mark.parametrize(
    ("query", "timeouts", "error"),
    [
        ("slow 30", Timeouts(total=1.0), errors.DeadlineExceededError),
        ("quiet 30", Timeouts(total=1.0), errors.DeadlineExceededError),
        ("quiet 30", Timeouts(idle=0.7, lookup=None), errors.IdleTimeoutError),
    ],
)
async def test_time_outs(
    newest: RemoteServer, trace_id: str, query: str, timeouts: Timeouts, error: type[errors.OxyError]
) -> None:
    """The total and the idle time-out raise their own errors, and cancel the run."""
    async with SSEOxyGent(server_url=newest.url, timeouts=timeouts) as agent:
        with pytest.raises(error):
            await agent.ask(query, trace_id=trace_id)
        await assert_stopped(newest, trace_id, time.monotonic())


async def test_ctrl_c(newest: RemoteServer, trace_id: str, anyio_backend_name: str, tmp_path: Path) -> None:
    """Ctrl-C in a program that reads a stream ends the program by that signal, quietly, and cancels the run."""
    log = tmp_path / "stderr"
    script = str(Path(__file__).with_name("client.py"))
    # Warnings are errors, except for generators that httpx leaves behind (as in pyproject.toml).
    options = ["-W", "error", "-W", "ignore:Async generator 'http:ResourceWarning"]
    command = [sys.executable, *options, script, anyio_backend_name, newest.url, trace_id]
    with log.open("wb") as err:
        client = await anyio.open_process(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, start_new_session=True
        )
    async with client:
        try:
            assert client.stdout is not None
            with anyio.fail_after(20.0):
                said = BufferedByteReceiveStream(client.stdout)
                assert await said.receive_until(b"\n", 100) == b"running"
                interrupted = time.monotonic()
                client.send_signal(signal.SIGINT)
                await assert_stopped(newest, trace_id, interrupted)
                assert await client.wait() == -signal.SIGINT
        finally:
            if client.returncode is None:
                client.kill()
    complaints = log.read_text(encoding="utf-8")
    assert complaints.splitlines()[-1] == "KeyboardInterrupt"
    assert "ignored" not in complaints  # as in "Exception ignored in: ..."
