"""Command-line options and exit codes.

Rule 1: a command converts its options, runs one task and returns; a `Display` shows the run.
Rule 2: a command imports what it alone needs, since agents, servers and event loops take longer to load than `--help`.
Rule 3: an error is one line on stderr with advice (`_error_advice`), and a traceback only with --debug.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, cast

import attrs
import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

import oxygent_client
from oxygent_client import OxyRequest, OxyState, Timeouts, errors
from oxygent_client.cli._error_advice import (
    EXIT_CODES,
    INTERRUPTED,
    PIPE_CLOSED,
    UNEXPECTED,
    USAGE,
    advice_for,
    error_line,
)
from oxygent_client.cli._error_advice import FAILED as AGENT_FAILED
from oxygent_client.cli._output import Display, JSONDisplay, LinesDisplay, LiveDisplay, RunSummary
from oxygent_client.cli._render import organization
from oxygent_client.cli._terminal_text import as_json
from oxygent_client.sanitize import without_credentials

if TYPE_CHECKING:
    from oxygent_client import SSEOxyGent
    from oxygent_client.serve import Adapter
    from oxygent_client.testing import Entry

MAX_RUNS = 500
"""As in `ServeLimits`."""
QUESTION = "Plan a long weekend in Lisbon"


def _without_flag_types(params: list[Any]) -> list[Any]:
    """Leave the type of flags, `<bool>`, out of the help."""
    for param in params:
        if getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""
    return params


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_flag_types(super().get_params(ctx))


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_flag_types(super().get_params(ctx))


_codes = "\n".join(f"- **{code}** {meaning}" for code, meaning in EXIT_CODES)
app = typer.Typer(
    cls=_Group,
    help="Talk to a remote OxyGent multi-agent system.",
    epilog=f"Exit codes:\n\n{_codes}",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


class Dialect(StrEnum):
    """The OxyGent releases that the toy remote imitates."""

    NEW = "1.1.3"
    OLD = "1.0.8"


Url = Annotated[str, typer.Argument(help="The server's root URL, such as http://127.0.0.1:8080", show_default=False)]
Headers = Annotated[
    list[str] | None,
    typer.Option(
        "--header",
        "-H",
        help="A header as 'Name: value', or @FILE with one header per line. Can be repeated. Other users of this"
        " machine can see the command line: pass credentials by a file, an environment variable or a profile.",
        metavar="HEADER",
    ),
]
HeaderVariables = Annotated[
    list[str] | None,
    typer.Option(
        "--header-env",
        help="A header whose value is in an environment variable. Can be repeated.",
        metavar="NAME=VARIABLE",
    ),
]
TokenVariable = Annotated[
    str | None,
    typer.Option("--token-env", help="The environment variable that contains a bearer token.", metavar="VARIABLE"),
]
ProfileName = Annotated[
    str | None, typer.Option("--profile", help="Use the credentials and settings of a profile.", metavar="NAME")
]
Seconds = Annotated[
    float | None, typer.Option(help="Time limit in seconds for the whole command.", min=0.001, metavar="SECONDS")
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON lines, for programs.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.callback(invoke_without_command=True)
def _options(
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"oxygent-client {oxygent_client.__version__}\n")
        raise typer.Exit


@app.command(cls=_Command)
def demo(
    query: Annotated[str, typer.Argument(help="The query for the agent.")] = QUESTION,
    *,
    fast: Annotated[bool, typer.Option("--fast", help="Run five times as fast.")] = False,
    dialect: Annotated[Dialect, typer.Option(help="The OxyGent release to imitate.")] = Dialect.NEW,
    debug: Debug = False,
    save_svg: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> int:
    """Show a demo run of a small multi-agent system on this machine."""

    def work() -> int:
        from oxygent_client import HTTPXTransport, SSEOxyGent
        from oxygent_client.testing import ToyRemote, serve

        toy = ToyRemote(dialect=dialect.value, pace=0.2 if fast else 1.0)
        with serve(toy) as url:
            display = _display(query, as_json=False, live=save_svg is not None)
            transport = HTTPXTransport(trust_env=False)  # the environment's proxies are for other machines
            agent = SSEOxyGent(server_url=url, transport=transport)
            return _save_svg(display, save_svg, ask_with(agent, query, display, transport.aclose))

    return attempt(work, debug=debug)


@app.command(cls=_Command)
def ask(
    url: Url,
    query: Annotated[str, typer.Argument(help="The query for the agent.", show_default=False)],
    *,
    callee: Annotated[
        str | None, typer.Option(help="The name of an agent (default: the server's master).", metavar="NAME")
    ] = None,
    timeout: Seconds = None,
    share: Annotated[bool, typer.Option("--share/--independent", help="Send the call stack, or not.")] = True,
    header: Headers = None,
    header_env: HeaderVariables = None,
    token_env: TokenVariable = None,
    profile: ProfileName = None,
    json: AsJSON = False,
    debug: Debug = False,
) -> int:
    """Send a query to a server and show the run."""

    def work() -> int:
        from oxygent_client import SSEOxyGent

        settings = _settings(url, profile, _headers(header, header_env), token_env, timeout)
        settings |= {"callee": callee, "is_share_call_stack": share}
        agent = SSEOxyGent(**settings)
        return ask_with(agent, query, _display(query, as_json=json))

    return attempt(work, debug=debug)


@app.command(cls=_Command)
def record(
    url: Url,
    query: Annotated[str, typer.Argument(help="The query for the agent.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="The file to write.", show_default=False)],
    *,
    callee: Annotated[
        str | None, typer.Option(help="The name of an agent (default: the server's master).", metavar="NAME")
    ] = None,
    timeout: Seconds = None,
    header: Headers = None,
    header_env: HeaderVariables = None,
    token_env: TokenVariable = None,
    profile: ProfileName = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is not a cassette.")] = False,
    json: AsJSON = False,
    debug: Debug = False,
) -> int:
    """Send a query, show the run and record it to a file, without secrets."""

    def work() -> int:
        from oxygent_client import HTTPXTransport, SSEOxyGent
        from oxygent_client.testing import Cassette, RecordingTransport

        Cassette.check_path(file, force=force)  # before the agent runs
        settings = _settings(url, profile, _headers(header, header_env), token_env, timeout)
        cassette = Cassette()
        transport = RecordingTransport(HTTPXTransport(), cassette)
        settings |= {"callee": callee, "transport": transport}
        agent = SSEOxyGent(**settings)
        with ExitStack() as at_the_end:
            at_the_end.callback(cassette.save, file, force=force)  # failed runs are saved too
            return ask_with(agent, query, _display(query, as_json=json), transport.aclose)

    return attempt(work, debug=debug)


@app.command(cls=_Command)
def replay(
    file: Annotated[Path, typer.Argument(help="The recording to replay.", show_default=False)],
    *,
    pace: Annotated[float, typer.Option(help="Factor for the recorded pauses; 0 does not wait.", min=0.0)] = 1.0,
    json: AsJSON = False,
    debug: Debug = False,
) -> int:
    """Show a recorded run again, without a server."""

    def work() -> int:
        from oxygent_client import SSEOxyGent
        from oxygent_client.testing import Cassette, CassetteError, ReplayTransport

        cassette = Cassette.load(file)
        runs = [entry for entry in cassette.entries if entry.purpose == "run"]
        if not runs:
            raise CassetteError(f"the cassette {file} holds no run")
        agent = SSEOxyGent(
            server_url="http://recorded", transport=ReplayTransport(cassette, pace=pace, match_payload=False)
        )
        return max(ask_with(agent, _recorded_request(entry), _display(entry.query, as_json=json)) for entry in runs)

    return attempt(work, debug=debug)


@app.command(cls=_Command)
def tree(
    url: Url,
    *,
    header: Headers = None,
    header_env: HeaderVariables = None,
    token_env: TokenVariable = None,
    profile: ProfileName = None,
    timeout: Seconds = None,
    json: AsJSON = False,
    debug: Debug = False,
) -> int:
    """Show the agents and tools of a server as a tree."""

    def work() -> int:
        import anyio

        from oxygent_client import SSEOxyGent

        agent = SSEOxyGent(**_settings(url, profile, _headers(header, header_env), token_env, timeout))
        return _show_organization(anyio.run(_discover, agent), json=json)

    return attempt(work, debug=debug)


@app.command(cls=_Command)
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
    debug: Debug = False,
) -> int:
    """Serve a toy remote on this machine, to try things out."""

    def work() -> int:
        from oxygent_client.testing import ToyRemote, serve

        with serve(ToyRemote(dialect=dialect.value, pace=pace), port) as url:
            _write(f"toy remote at {url} (press Ctrl-C to stop)\n")
            threading.Event().wait(seconds)
        return 0

    return attempt(work, debug=debug)


@app.command("serve", cls=_Command)
def serve_agent(
    url: Url,
    *,
    openai: Annotated[bool, typer.Option("--openai", help="Serve OpenAI's API below /v1.")] = False,
    reasoning: Annotated[
        bool, typer.Option("--reasoning", help="Send thoughts and calls inside the remote as reasoning.")
    ] = False,
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
    max_runs: Annotated[int, typer.Option(help="Concurrent runs.", min=1, metavar="N")] = MAX_RUNS,
    timeout: Seconds = None,
    grace: Annotated[
        float, typer.Option(help="Seconds that runs get to end after Ctrl-C or SIGTERM.", min=0.0, metavar="SECONDS")
    ] = 30.0,
    header: Headers = None,
    header_env: HeaderVariables = None,
    profile: ProfileName = None,
    debug: Debug = False,
) -> int:
    """Serve a remote agent to clients of other protocols, several on one port.

    Credentials for the remote come from --profile, --header or --header-env.
    """

    def work() -> int:
        from oxygent_client import SSEOxyGent
        from oxygent_client.serve import LOOPBACK, ServeLimits, Service, serve_forever
        from oxygent_client.serve.openai import OpenAIAdapter

        adapters: list[Adapter] = [OpenAIAdapter(reasoning)] if openai else []
        if not adapters:
            raise errors.ConfigurationError("serve needs a protocol: --openai")
        is_local = host in LOOPBACK
        if not is_local and token_env is None:
            raise errors.ConfigurationError(f"--host {host} is not this machine alone, and needs --token-env VARIABLE")
        limits = ServeLimits(runs=max_runs, run_seconds=timeout or ServeLimits().run_seconds)
        service = Service(
            SSEOxyGent(**_settings(url, profile, _headers(header, header_env), None, None)),
            adapters,
            token="" if token_env is None else _variable("--token-env", token_env),
            cors=cors or (),
            hosts=sorted(LOOPBACK) if is_local else None,
            limits=limits,
        )
        if not is_local:
            sys.stderr.write("warning: other machines can connect, without encryption: put a TLS proxy in front\n")
        with _access_log():
            serve_forever(
                service,
                host=host,
                port=port,
                grace=grace,
                on_start=lambda at: _write(f"serving at {at} (press Ctrl-C to stop)\n"),
            )
        return 0

    return attempt(work, debug=debug)


@contextmanager
def _access_log() -> Generator[None]:
    """Write the log of the server to stderr while the block lasts."""
    logger, handler = logging.getLogger("oxygent_client.serve"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


async def _discover(agent: SSEOxyGent) -> dict[str, Any]:
    async with agent:
        await agent.init()
        organization: dict[str, Any] = without_credentials(agent.sent)(agent.org)
        return organization


def _show_organization(document: Mapping[str, Any], *, json: bool) -> int:
    if json:
        _write(as_json(document) + "\n")
    else:
        Console().print(organization(document))
    return 0


async def _nothing() -> None:
    pass


def _recorded_request(entry: Entry) -> OxyRequest:
    """Return the recorded request, with its node id, by which a recorded lookup of the run is found."""
    payload = cast("dict[str, Any]", entry.payload) if isinstance(entry.payload, dict) else {}
    return OxyRequest(arguments={"query": entry.query}, node_id=str(payload.get("node_id", "")))


def ask_with(
    agent: SSEOxyGent, query: str | OxyRequest, display: Display, close: Callable[[], Awaitable[None]] = _nothing
) -> int:
    """Run a query and return the exit code; afterwards `close` is called in the same event loop."""
    import anyio

    from oxygent_client.cli._ask import run_query

    async def ask() -> RunSummary:
        try:
            return await run_query(agent, query, display)
        finally:
            with anyio.CancelScope(shield=True):
                await close()

    summary = anyio.run(ask)
    return 0 if summary.response.state is OxyState.COMPLETED else AGENT_FAILED


def _display(query: str, *, as_json: bool, live: bool = False) -> Display:
    if as_json:
        return JSONDisplay(_write)
    console = Console()
    return (
        LiveDisplay(console, query)
        if live or (console.is_terminal and not console.is_dumb_terminal)
        else LinesDisplay(_write, query)
    )


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _headers(given: Sequence[str] | None, variables: Sequence[str] | None) -> dict[str, str]:
    """Return the headers of `--header` and `--header-env`. Errors show no value, which may be secret."""
    headers: dict[str, str] = {}
    for header in given or ():
        for line in _lines_of(Path(header[1:])) if header.startswith("@") else [header]:
            name, colon, value = line.partition(":")
            if not colon or not name.strip():
                raise errors.ConfigurationError("--header must be 'Name: value', or @FILE with one header per line")
            headers[name.strip()] = value.strip()
    for each in variables or ():
        name, equals, variable = each.partition("=")
        if not equals or not name.strip():
            raise errors.ConfigurationError("--header-env must be NAME=VARIABLE")
        headers[name.strip()] = _variable("--header-env", variable)
    return headers


def _lines_of(path: Path) -> list[str]:
    """Return the non-empty lines of a file of headers."""
    why = ""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        text, why = "", error.strerror or type(error).__name__
    except UnicodeDecodeError:
        text, why = "", "it is not UTF-8"
    if why:
        raise errors.ConfigurationError(f"--header: the file {str(path)!r} cannot be read: {why}")
    return [line for line in text.split("\n") if line.strip()]


def _variable(option: str, name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise errors.ConfigurationError(f"{option}: the environment variable {name!r} is not set")
    return value


def _settings(
    url: str, profile: str | None, headers: Mapping[str, str], token_env: str | None, timeout: float | None
) -> dict[str, Any]:
    """Return the arguments of the agent: those of the profile, overridden by the command line."""
    settings: dict[str, Any] = {}
    if profile is not None:
        from oxygent_client.profiles import load_profile

        settings = load_profile(profile).options()
    settings["server_url"] = url
    if headers:
        settings["headers"] = {**settings.get("headers", {}), **headers}
    if token_env is not None:
        settings["auth"] = oxygent_client.BearerAuth(_variable("--token-env", token_env))
    if timeout is not None:
        settings["timeouts"] = attrs.evolve(settings.get("timeouts", Timeouts()), total=timeout)
    return settings


def _save_svg(display: Display, path: Path | None, code: int) -> int:
    """Save the final display as an SVG of 80 columns, without web fonts, and return the exit code."""
    if path is None or not isinstance(display, LiveDisplay):
        return code
    console = Console(record=True, file=io.StringIO(), width=80, force_terminal=True, color_system="truecolor")
    console.print(display.closing)
    drawn = console.export_svg(title="oxygent-client demo")
    path.write_text(re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL), encoding="utf-8")
    return code


def silence(stream: TextIO) -> None:
    """Discard what is still in the stream's buffer, which would raise again at exit.

    Source: https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


def attempt(work: Callable[[], int], *, debug: bool, silence: Callable[[TextIO], None] = silence) -> int:
    """Run `work` and return its exit code, or that of its error."""
    try:
        return work()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        silence(sys.stdout)
        return PIPE_CLOSED
    except errors.OxyError as error:
        advice = advice_for(error)
        failed: Exception = error
        text, code = error_line(str(error), advice.text), advice.code
    except Exception as error:  # noqa: BLE001  (the command reports every error)
        failed = error
        text, code = error_line(f"{type(error).__name__}: {error}", "Use --debug to see the traceback."), UNEXPECTED
    if debug:
        traceback.print_exception(failed)
    sys.stderr.write(text)
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
        code = app(args=argv, prog_name="oxygent-client", standalone_mode=False)
    except usage_error as error:
        text: Callable[[], str] = getattr(error, "format_message", error.__str__)
        sys.stderr.write(error_line(text(), "See `oxygent-client --help`."))
        return USAGE
    return int(code or 0)
