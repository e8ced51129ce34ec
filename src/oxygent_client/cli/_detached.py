"""Commands for detached runs: start one, watch it, look up its record.

Rule 1: `start` prints a token, which has the server and the ids of the run; `watch` needs nothing else.
Rule 2: leaving `watch` leaves the run alone.
Rule 3: a token is no reason to send credentials: they are those of the command line, or of a profile of its server.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

import oxygent_client
from oxygent_client.cli._exit_codes import FAILED, NOT_ENDED, error_line
from oxygent_client.cli._options import (
    AsJSON,
    Callee,
    Connection,
    Quiet,
    Seconds,
    UrlAndQuery,
    command,
    read_query,
    split_url,
    write,
    write_error,
)

if TYPE_CHECKING:
    from oxygent_client import RunHandle, RunRecord, SSEOxyGent, Trace


@command
def start(
    words: UrlAndQuery,
    *,
    callee: Callee = None,
    timeout: Seconds = None,
    connection: Connection,
    json: AsJSON = False,
) -> int:
    """Start a detached run, which needs no connection, and print its token for `watch`."""
    import anyio

    url, (query,) = split_url(words, "QUERY")
    agent = connection.agent(url, timeout=timeout, callee=callee)
    return _show_handle(anyio.run(_start, agent, read_query(query)), json=json)


async def _start(agent: SSEOxyGent, query: str) -> RunHandle:
    async with agent:
        return await agent.start(query)


def _show_handle(handle: RunHandle, *, json: bool) -> int:
    from oxygent_client.cli._terminal_text import as_json, line

    token = handle.to_token()
    if json:
        ids = {"trace_id": handle.trace_id, "remote_trace_id": handle.remote_trace_id}
        write(as_json({"kind": "started", "token": token, **ids, "server_url": handle.server_url}) + "\n")
    else:
        write_error(f"started the run {line(handle.trace_id)}; pass this token to `oxygent-client watch`:\n")
        write(f"{token}\n")
    return 0


@partial(command, stopped="stopped watching; the run goes on")
def watch(
    token: Annotated[str, typer.Argument(help="The token that `start` has printed.", show_default=False)],
    *,
    timeout: Seconds = None,
    quiet: Quiet = False,
    connection: Connection,
    json: AsJSON = False,
) -> int:
    """Show a detached run until its end. Ctrl-C leaves it alone, and a later `watch` goes on from there.

    The server sends each event once: the events of an earlier `watch` are not shown again.
    """
    import anyio

    from oxygent_client import RunHandle
    from oxygent_client.cli._ask import exit_code, show_run
    from oxygent_client.cli._output import make_display

    handle = RunHandle.from_token(token)
    agent = _agent(None, handle, connection, timeout)
    display = make_display(f"watch {handle.trace_id}", as_json=json, quiet=quiet)
    return exit_code(anyio.run(show_run, agent, lambda: agent.attach(token), display))


@command
def lookup(
    words: Annotated[
        list[str],
        typer.Argument(
            help="URL: as for `ask`. RUN: the trace id of a run, or the token of a detached one, which has the URL.",
            metavar="[URL] RUN",
            show_default=False,
        ),
    ],
    *,
    timeout: Seconds = None,
    quiet: Quiet = False,
    connection: Connection,
    json: AsJSON = False,
) -> int:
    """Show the server's record of a run: its calls and its answer. With --json, the trace as JSON."""
    return _show(trace_of_record(words, connection, timeout), json=json, quiet=quiet)


def trace_of_record(words: Sequence[str], connection: Connection, timeout: float | None) -> Trace:
    """Return the trace of the server's record of a run, for the arguments `[URL] RUN`.

    Raises:
        OxyError: the server has no record of the run, or cannot be reached.
    """
    import anyio

    url, (run,) = split_url(words, "RUN")
    handle = _handle(run)
    trace_id = run if handle is None else handle.remote_trace_id
    return anyio.run(_look_up, _agent(url, handle, connection, timeout), trace_id).trace()


def _handle(run: str) -> RunHandle | None:
    """Return the handle of a token, or None for a trace id."""
    from oxygent_client import RunHandle

    try:
        return RunHandle.from_token(run)
    except oxygent_client.errors.ConfigurationError:
        return None


def _agent(url: str | None, handle: RunHandle | None, connection: Connection, timeout: float | None) -> SSEOxyGent:
    """Return the agent; the server is that of the token, unless another is named."""
    if url is None and connection.profile is None and handle is not None:
        url = handle.server_url
    return connection.agent(url, timeout=timeout)


async def _look_up(agent: SSEOxyGent, trace_id: str) -> RunRecord:
    async with agent:
        record = await agent.lookup(trace_id)
        if record is None:
            await agent.check_alive()  # a server that does not answer has an error of its own
            raise oxygent_client.errors.ConfigurationError("the server has no record of this run")
        return record


def _show(trace: Trace, *, json: bool, quiet: bool) -> int:
    from oxygent_client.cli._output import bare

    if json:
        write(f"{trace.to_json()}\n")
        return _exit_code(trace)
    if not quiet:
        write_error(f"{trace.to_tree()}\n")
    if trace.status == "completed":
        write(bare(trace.output))
    elif trace.status == "running":
        write_error(error_line("the run has not ended yet", "Look again later."))
    else:
        write_error(error_line(trace.error or f"the run is {trace.status}", "See the server's log."))
    return _exit_code(trace)


def _exit_code(trace: Trace) -> int:
    return {"completed": 0, "running": NOT_ENDED}.get(trace.status, FAILED)
