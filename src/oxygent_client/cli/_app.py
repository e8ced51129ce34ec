"""Commands of the command line.

Rule 1: a command converts its options, runs one task and returns; a `Display` shows the run.
Rule 2: a command imports what it alone needs, since agents, servers and event loops take longer to load than `--help`.
"""

from __future__ import annotations

import io
import logging
import re
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

import oxygent_client
from oxygent_client.cli import _chat, _detached, _doctor_command, _report
from oxygent_client.cli._exit_codes import EXIT_CODES, FAILED, USAGE, error_line
from oxygent_client.cli._options import (
    PROGRAM,
    AsJSON,
    Callee,
    Command,
    Confirm,
    Connection,
    Group,
    Headers,
    HeaderVariables,
    ProfileName,
    Quiet,
    Seconds,
    Url,
    UrlAndQuery,
    command,
    read_query,
    split_url,
    variable,
    write,
)

if TYPE_CHECKING:
    from oxygent_client import OxyRequest, SSEOxyGent
    from oxygent_client.cli._output import Display
    from oxygent_client.serve import Adapter
    from oxygent_client.testing import Entry

MAX_RUNS = 500
"""As in `ServeLimits`."""
EXTRAS: Mapping[str, tuple[str, Callable[[], ModuleType]]] = {
    "mcp": ("the package mcp", lambda: import_module("oxygent_client.serve.mcp")),
    "a2a": ("a2a-sdk", lambda: import_module("oxygent_client.serve.a2a")),
    "agui": ("ag-ui-protocol", lambda: import_module("oxygent_client.serve.agui")),
}
"""The library of each extra that serves a protocol, and our module over it."""
SERVED: Mapping[str, tuple[str, str]] = {
    "openai": ("OpenAI's API", "/v1"),
    "mcp": ("MCP", "/mcp"),
    "a2a": ("A2A", "/.well-known/agent-card.json"),
    "agui": ("AG-UI", "/agui"),
    "relay": ("relay", "/relay"),
    "ui": ("page", "/"),
}
"""Each protocol and its path, by the option of `serve`."""
QUESTION = "Plan a long weekend in Lisbon"


_codes = "\n".join(f"  {code:3} {meaning}" for code, meaning in EXIT_CODES)
app = typer.Typer(
    cls=Group,
    help="Talk to a remote OxyGent multi-agent system.",
    epilog=f"\b\nExit codes:\n{_codes}",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Dialect(StrEnum):
    """The OxyGent releases that the toy remote imitates."""

    NEW = "1.1.3"
    OLD = "1.0.8"


@app.callback(invoke_without_command=True)
def _options(
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"oxygent-client {oxygent_client.__version__}\n")
        raise typer.Exit


@app.command(cls=Command)
@command
def demo(
    query: Annotated[str, typer.Argument(help="The query for the agent.")] = QUESTION,
    *,
    fast: Annotated[bool, typer.Option("--fast", help="Run five times as fast.")] = False,
    dialect: Annotated[Dialect, typer.Option(help="The OxyGent release to imitate.")] = Dialect.NEW,
    save_svg: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> int:
    """Show a demo run of a small multi-agent system on this machine."""
    from oxygent_client import HTTPXTransport, SSEOxyGent
    from oxygent_client.cli._ask import ask_with
    from oxygent_client.cli._output import make_display
    from oxygent_client.testing import ToyRemote, serve

    toy = ToyRemote(dialect=dialect.value, pace=0.2 if fast else 1.0)
    with serve(toy) as url:
        display = make_display(query, live=save_svg is not None)
        transport = HTTPXTransport(trust_env=False)  # the environment's proxies are for other machines
        agent = SSEOxyGent(server_url=url, transport=transport)
        return _save_svg(display, save_svg, ask_with(agent, query, display, transport.aclose))


@app.command(cls=Command)
@command
def ask(
    words: UrlAndQuery,
    *,
    callee: Callee = None,
    timeout: Seconds = None,
    share: Annotated[
        bool | None,
        typer.Option("--share/--independent", help="Send the call stack, or not (default: send it)."),
    ] = None,
    confirm: Confirm = False,
    quiet: Quiet = False,
    connection: Connection,
    json: AsJSON = False,
) -> int:
    """Send a query to a server and show the run.

    On a terminal, a live view. Else stdout gets the answer alone, and stderr a line for each event.
    """
    from oxygent_client.cli._ask import ask_with
    from oxygent_client.cli._output import make_display

    url, (query,) = split_url(words, "QUERY")
    agent = connection.agent(
        url, timeout=timeout, callee=callee, is_share_call_stack=share, confirm_state=confirm or None
    )
    query = read_query(query)
    return ask_with(agent, query, make_display(query, as_json=json, quiet=quiet))


@app.command(cls=Command)
@command
def record(
    words: Annotated[
        list[str],
        typer.Argument(
            help="URL and QUERY: as for `ask`. FILE: the file to write.", metavar="[URL] QUERY FILE", show_default=False
        ),
    ],
    *,
    callee: Callee = None,
    timeout: Seconds = None,
    connection: Connection,
    quiet: Quiet = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    json: AsJSON = False,
) -> int:
    """Send a query, show the run and record it to a file, without secrets."""
    from oxygent_client import HTTPXTransport
    from oxygent_client.cli._ask import ask_with
    from oxygent_client.cli._output import make_display
    from oxygent_client.testing import Cassette, RecordingTransport

    url, (query, name) = split_url(words, "QUERY", "FILE")
    file = Path(name)
    Cassette.check_path(file, force=force)  # before the agent runs
    if file.exists() and not force:
        raise oxygent_client.errors.ConfigurationError(f"the file {name!r} exists; use --force to replace it")
    cassette = Cassette()
    transport = RecordingTransport(HTTPXTransport(), cassette)
    agent = connection.agent(url, timeout=timeout, callee=callee, transport=transport)
    query = read_query(query)
    with ExitStack() as at_the_end:
        at_the_end.callback(cassette.save, file, force=force)  # failed runs are saved too
        return ask_with(agent, query, make_display(query, as_json=json, quiet=quiet), transport.aclose)


@app.command(cls=Command)
@command
def replay(
    file: Annotated[Path, typer.Argument(help="The recording to replay.", show_default=False)],
    *,
    pace: Annotated[float, typer.Option(help="Factor for the recorded pauses; 0 does not wait.", min=0.0)] = 1.0,
    quiet: Quiet = False,
    json: AsJSON = False,
) -> int:
    """Show a recorded run again, without a server."""
    from oxygent_client import SSEOxyGent
    from oxygent_client.cli._ask import ask_with
    from oxygent_client.cli._output import make_display
    from oxygent_client.testing import Cassette, CassetteError, ReplayTransport

    cassette = Cassette.load(file)
    runs = [entry for entry in cassette.entries if entry.purpose == "run"]
    if not runs:
        raise CassetteError(f"the cassette {file} holds no run")
    agent = SSEOxyGent(
        server_url="http://recorded", transport=ReplayTransport(cassette, pace=pace, match_payload=False)
    )
    return max(
        ask_with(agent, _recorded_request(entry), make_display(entry.query, as_json=json, quiet=quiet))
        for entry in runs
    )


@app.command(cls=Command)
@command
def tree(
    url: Url = None,
    *,
    connection: Connection,
    timeout: Seconds = None,
    json: AsJSON = False,
) -> int:
    """Show the agents and tools of a server as a tree."""
    import anyio

    return _show_organization(anyio.run(_discover, connection.agent(url, timeout=timeout)), json=json)


@app.command(cls=Command)
@partial(command, stopped="stopped; the runs in progress go on at the server")
def batch(
    words: Annotated[
        list[str],
        typer.Argument(
            help="URL: as for `ask`. FILE: one query a line, as a JSON string, or as an object with `query`, and"
            " perhaps `id` and `arguments`.",
            metavar="[URL] FILE",
            show_default=False,
        ),
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to which results are appended, one JSON object a line (default: FILE.results.jsonl). Its"
            " journal, by which a batch is resumed, is beside it.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Runs at a time.", min=1, metavar="N")] = 8,
    callee: Callee = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", help="Time limit in seconds for each query.", min=0.001)
    ] = None,
    connection: Connection,
) -> int:
    """Run many queries as detached runs. After Ctrl-C or a crash, the same command resumes; no query runs twice."""
    from rich.console import Console

    from oxygent_client.cli._batch import run_batch
    from oxygent_client.cli._batch_files import read_items

    url, (name,) = split_url(words, "FILE")
    agent = connection.agent(url, timeout=timeout, callee=callee)
    results = output or Path(f"{name}.results.jsonl")
    return 0 if run_batch(agent, read_items(Path(name)), results, concurrency, Console(stderr=True)) else FAILED


@app.command(cls=Command)
@command
def toy(
    *,
    port: Annotated[int, typer.Option(help="The port; 0 chooses a free one.", min=0, max=65535)] = 8082,
    pace: Annotated[float, typer.Option(help="Factor for the pauses; 0 does not wait.", min=0.0)] = 1.0,
    dialect: Annotated[Dialect, typer.Option(help="The OxyGent release to imitate.")] = Dialect.NEW,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="Stop after N seconds (default: run until Ctrl-C).", min=0.0, metavar="N", show_default=False
        ),
    ] = None,
) -> int:
    """Serve a toy remote on this machine, to try things out. Its log, on stderr, has a line for each run."""
    from oxygent_client.testing import ToyRemote, serve

    with serve(ToyRemote(dialect=dialect.value, pace=pace), port) as url, _log_to_stderr("testing.toy"):
        write(f"toy remote at {url} (press Ctrl-C to stop)\n")
        threading.Event().wait(seconds)
    return 0


@app.command("serve", cls=Command)
@command
def serve_agent(
    url: Url = None,
    *,
    openai: Annotated[bool, typer.Option("--openai", help="Serve OpenAI's API below /v1.")] = False,
    reasoning: Annotated[
        bool, typer.Option("--reasoning", help="OpenAI, AG-UI: send thoughts and calls inside the remote as reasoning.")
    ] = False,
    mcp: Annotated[bool, typer.Option("--mcp", help="Serve MCP at /mcp: each agent is a tool.")] = False,
    mcp_stdio: Annotated[
        bool, typer.Option("--mcp-stdio", help="Serve MCP by standard input and output, without a port.")
    ] = False,
    master_only: Annotated[
        bool, typer.Option("--master-only", help="MCP: the server's master is the only tool.")
    ] = False,
    a2a: Annotated[bool, typer.Option("--a2a", help="Serve A2A at /a2a, with the agent card.")] = False,
    public_url: Annotated[
        str,
        typer.Option(help="A2A: the URL of this server in its card (default: that of each request).", metavar="URL"),
    ] = "",
    relay: Annotated[
        bool, typer.Option("--relay", help="Serve the server's messages at /relay, for browsers.")
    ] = False,
    relay_grace: Annotated[
        float | None,
        typer.Option(help="Relay: seconds that a run goes on without viewers.", min=0.0, metavar="SECONDS"),
    ] = None,
    agui: Annotated[bool, typer.Option("--agui", help="Serve AG-UI at /agui.")] = False,
    ui: Annotated[bool, typer.Option("--ui", help="Serve a page for browsers at /, with --agui.")] = False,
    host: Annotated[
        str, typer.Option(help="The address to listen on; any other than this machine's needs --token-env.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 chooses a free one.", min=0, max=65535)] = 8000,
    token_env: Annotated[
        str | None,
        typer.Option(
            "--token-env",
            help="The environment variable that contains the bearer token which clients must send.",
            metavar="VARIABLE",
        ),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(help="An origin of pages whose requests are accepted. Can be repeated.", metavar="ORIGIN"),
    ] = None,
    whole_answers: Annotated[
        bool,
        typer.Option("--whole-answers", help="Send the text of an answer at its end only, not while it is written."),
    ] = False,
    max_runs: Annotated[int, typer.Option(help="Concurrent runs.", min=1, metavar="N")] = MAX_RUNS,
    timeout: Seconds = None,
    return_seconds: Annotated[
        float | None,
        typer.Option(
            help="Seconds that a run goes on after its client has left, if the client can come back.",
            min=0.001,
            metavar="SECONDS",
        ),
    ] = None,
    grace: Annotated[
        float, typer.Option(help="Seconds that runs get to end after Ctrl-C or SIGTERM.", min=0.0, metavar="SECONDS")
    ] = 30.0,
    header: Headers = None,
    header_env: HeaderVariables = None,
    profile: ProfileName = None,
) -> None:
    """Serve a remote agent to clients of other protocols, several on one port.

    Credentials for the remote come from --profile, --header or --header-env.
    """
    from oxygent_client.serve import LOOPBACK, ServeLimits, Service, serve_forever

    standard = ServeLimits()
    limits = ServeLimits(
        runs=max_runs,
        run_seconds=timeout or standard.run_seconds,
        return_seconds=return_seconds or standard.return_seconds,
    )
    adapters = _adapters(openai=openai, reasoning=reasoning, mcp=mcp, master_only=master_only)
    if a2a:
        adapters.append(_extra("a2a").A2AAdapter(public_url, needs_token=token_env is not None))
    if relay:
        adapters.append(_relay(relay_grace))
    if agui or ui:
        adapters.append(_extra("agui").AGUIAdapter(reasoning, page=ui))
    if mcp_stdio == bool(adapters):
        raise oxygent_client.errors.ConfigurationError(
            "serve needs --mcp-stdio alone, or protocols: --openai, --mcp, --a2a, --agui, --ui, --relay"
        )
    agent = Connection(header, header_env, profile=profile).agent(url)
    if mcp_stdio:
        _serve_stdio(agent, master_only=master_only, limits=limits, whole_answers=whole_answers)
    else:
        is_local = host in LOOPBACK
        if not is_local and token_env is None:
            raise oxygent_client.errors.ConfigurationError(
                f"--host {host} is not this machine alone, and needs --token-env VARIABLE"
            )
        service = Service(
            agent,
            adapters,
            token="" if token_env is None else variable("--token-env", token_env),
            cors=cors or (),
            hosts=sorted(LOOPBACK) if is_local else None,
            limits=limits,
            whole_answers=whole_answers,
        )
        if not is_local:
            sys.stderr.write("warning: other machines can connect, without encryption: put a TLS proxy in front\n")
        served = {"openai": openai, "mcp": mcp, "a2a": a2a, "agui": agui or ui, "relay": relay, "ui": ui}
        places = [place for name, place in SERVED.items() if served[name]]
        with _log_to_stderr("serve"):
            serve_forever(service, host=host, port=port, grace=grace, on_start=lambda at: _show_start(at, places))


# Commands in modules of their own.
for _function in (
    _doctor_command.doctor,
    _chat.chat,
    _detached.start,
    _detached.watch,
    _detached.lookup,
    _report.report,
):
    app.command(cls=Command)(_function)


def _show_start(at: str, places: Iterable[tuple[str, str]]) -> None:
    lines = [f"  {name}: {at}{path}\n" for name, path in places]
    write(f"serving at {at} (press Ctrl-C to stop)\n{''.join(lines)}")


def _adapters(*, openai: bool, reasoning: bool, mcp: bool, master_only: bool) -> list[Adapter]:
    """Return the protocols on the port."""
    from oxygent_client.serve.openai import OpenAIAdapter

    adapters: list[Adapter] = [OpenAIAdapter(reasoning)] if openai else []
    if mcp:
        module = _extra("mcp")
        module.let_calls_end()
        adapters.append(module.MCPAdapter(master_only))
    return adapters


def _extra(name: str) -> ModuleType:
    """Return the module of a protocol."""
    library, load = EXTRAS[name]
    try:
        return load()
    except ImportError as missing:
        raise oxygent_client.errors.ConfigurationError(
            f"this needs {library}: pip install 'oxygent-client[{name}]'"
        ) from missing


def _relay(grace: float | None) -> Adapter:
    from oxygent_client.serve.relay import RelayAdapter, RelayLimits

    return RelayAdapter(RelayLimits() if grace is None else RelayLimits(grace_seconds=grace))


def _serve_stdio(agent: SSEOxyGent, **options: Any) -> None:
    """Serve MCP by standard input and output; what else is printed goes to stderr."""
    import anyio

    mcp = _extra("mcp")
    # A thread that reads standard input does not notice KeyboardInterrupt: Ctrl-C ends the process as SIGTERM does.
    with ExitStack() as handlers, _log_to_stderr("serve"):
        handlers.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_DFL))
        anyio.run(mcp.serve_stdio, mcp.create_server(agent, **options))


@contextmanager
def _log_to_stderr(name: str) -> Generator[None]:
    """Write the log of a server to stderr while the block lasts."""
    logger, handler = logging.getLogger(f"oxygent_client.{name}"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


async def _discover(agent: SSEOxyGent) -> dict[str, Any]:
    from oxygent_client.sanitize import without_credentials

    async with agent:
        await agent.init()
        organization: dict[str, Any] = without_credentials(agent.sent)(agent.org)
        return organization


def _show_organization(document: Mapping[str, Any], *, json: bool) -> int:
    if json:
        from oxygent_client.cli._terminal_text import as_json

        write(as_json(document) + "\n")
    else:
        from rich.console import Console

        from oxygent_client.cli._render import organization

        Console().print(organization(document))
    return 0


def _recorded_request(entry: Entry) -> OxyRequest:
    """Return the recorded request, with its node id, by which a recorded lookup of the run is found."""
    from oxygent_client import OxyRequest

    payload = cast("dict[str, Any]", entry.payload) if isinstance(entry.payload, dict) else {}
    return OxyRequest(arguments={"query": entry.query}, node_id=str(payload.get("node_id", "")))


def _save_svg(display: Display, path: Path | None, code: int) -> int:
    """Save the final display as an SVG of 80 columns, without web fonts, and return the exit code."""
    from rich.console import Console

    from oxygent_client.cli._output import LiveDisplay

    if path is None or not isinstance(display, LiveDisplay):
        return code
    console = Console(record=True, file=io.StringIO(), width=80, force_terminal=True, color_system="truecolor")
    console.print(display.closing)
    drawn = console.export_svg(title="oxygent-client demo")
    path.write_text(re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL), encoding="utf-8")
    return code


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal cannot show becomes its number, not a traceback.
            stream.reconfigure(errors="backslashreplace")
    # UsageError, whose name and module changed between releases of typer.
    usage_error = cast("type[Exception]", typer.BadParameter.__bases__[0])
    try:
        code = app(args=argv, prog_name=PROGRAM, standalone_mode=False)
    except usage_error as error:
        text: Callable[[], str] = getattr(error, "format_message", error.__str__)
        context: Any = getattr(error, "ctx", None)
        called = PROGRAM if context is None else context.command_path
        sys.stderr.write(error_line(text(), f"See `{called} --help`."))
        return USAGE
    return int(code or 0)
