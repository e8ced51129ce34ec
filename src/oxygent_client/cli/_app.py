"""Command-line options and exit codes.

Rule 1: a command turns its options into values, starts one thing, and returns; what is shown is the Show's.
Rule 2: what went wrong is one line on stderr that says what to do (`_remedies.py`), and a traceback only with --debug.
"""

from __future__ import annotations

import io
import os
import re
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TextIO, cast

import anyio
import attrs
import typer
from rich.console import Console

import oxygent_client
from oxygent_client import BearerAuth, HTTPXTransport, OxyRequest, OxyState, SSEOxyGent, Timeouts, errors
from oxygent_client.cli._ask import converse
from oxygent_client.cli._error_advice import (
    EXIT_CODES,
    INTERRUPTED,
    PIPE_CLOSED,
    UNEXPECTED,
    USAGE,
    complaint,
    remedy_of,
)
from oxygent_client.cli._error_advice import FAILED as AGENT_FAILED
from oxygent_client.cli._output import JSONShow, LinesShow, LiveShow, RunSummary, Show
from oxygent_client.cli._render import organization
from oxygent_client.cli._serve import serving
from oxygent_client.cli._terminal_text import as_json
from oxygent_client.profiles import load_profile
from oxygent_client.sanitize import without_credentials
from oxygent_client.testing import Cassette, CassetteError, Entry, RecordingTransport, ReplayTransport, ToyRemote

__all__ = ["app", "run"]

QUESTION = "Plan a long weekend in Lisbon"

_codes = "\n".join(f"- **{code}** {meaning}" for code, meaning in EXIT_CODES)
app = typer.Typer(
    help="Talk to a remote OxyGent multi-agent system.",
    epilog=f"Exit codes:\n\n{_codes}",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


class Dialect(StrEnum):
    """The releases whose wire the toy remote speaks."""

    NEW = "1.1.3"
    OLD = "1.0.8"


Url = Annotated[str, typer.Argument(help="The server's root, such as http://127.0.0.1:8080", show_default=False)]
Headers = Annotated[
    list[str] | None,
    typer.Option(
        "--header",
        "-H",
        help="'Name: value', or @FILE with one on each line. Other users of this machine can see the command line:"
        " read a credential from a file, an environment variable or a profile. May be repeated.",
    ),
]
HeaderVariables = Annotated[
    list[str] | None,
    typer.Option("--header-env", help="NAME=VARIABLE: a header whose value is in an environment variable.", metavar=""),
]
TokenVariable = Annotated[
    str | None, typer.Option("--token-env", help="An environment variable with a bearer token.", metavar="VARIABLE")
]
ProfileName = Annotated[
    str | None, typer.Option("--profile", help="Credentials and settings of a profile.", metavar="NAME")
]
Seconds = Annotated[float | None, typer.Option(help="Seconds for everything together.", min=0.001)]
AsJSON = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.callback(invoke_without_command=True)
def _options(
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"oxygent-client {oxygent_client.__version__}\n")
        raise typer.Exit


@app.command()
def demo(
    query: Annotated[str, typer.Argument(help="What to ask.")] = QUESTION,
    *,
    fast: Annotated[bool, typer.Option("--fast", help="Five times as fast.")] = False,
    dialect: Annotated[Dialect, typer.Option(help="The release whose wire is spoken.")] = Dialect.NEW,
    debug: Debug = False,
    save_svg: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> int:
    """Watch a small multi-agent system at work: it runs on this machine and needs nothing."""

    def work() -> int:
        toy = ToyRemote(dialect=dialect.value, pace=0.2 if fast else 1.0)
        with serving(toy) as url:
            show = _show(query, as_json=False, live=save_svg is not None)
            transport = HTTPXTransport(trust_env=False)  # what the environment says is of other machines
            agent = SSEOxyGent(server_url=url, transport=transport)
            return _kept(show, save_svg, ask_with(agent, query, show, transport.aclose))

    return attempt(work, debug=debug)


@app.command()
def ask(
    url: Url,
    query: Annotated[str, typer.Argument(help="What to ask.", show_default=False)],
    *,
    callee: Annotated[str | None, typer.Option(help="An agent by name, instead of the remote's master.")] = None,
    timeout: Seconds = None,
    share: Annotated[bool, typer.Option("--share/--independent", help="Send the call stack, or none.")] = True,
    header: Headers = None,
    header_env: HeaderVariables = None,
    token_env: TokenVariable = None,
    profile: ProfileName = None,
    json: AsJSON = False,
    debug: Debug = False,
) -> int:
    """Ask a remote system, and watch it work."""

    def work() -> int:
        settings = _settings(url, profile, _headers(header, header_env), token_env, timeout)
        settings |= {"callee": callee, "is_share_call_stack": share}
        agent = SSEOxyGent(**settings)
        return ask_with(agent, query, _show(query, as_json=json))

    return attempt(work, debug=debug)


@app.command()
def record(
    url: Url,
    query: Annotated[str, typer.Argument(help="What to ask.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="Where to keep the conversation.", show_default=False)],
    *,
    callee: Annotated[str | None, typer.Option(help="An agent by name, instead of the remote's master.")] = None,
    timeout: Seconds = None,
    header: Headers = None,
    header_env: HeaderVariables = None,
    token_env: TokenVariable = None,
    profile: ProfileName = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is not a cassette.")] = False,
    json: AsJSON = False,
    debug: Debug = False,
) -> int:
    """Ask a remote system, watch it work, and keep the conversation in a file, without the secrets in it."""

    def work() -> int:
        Cassette.check_path(file, force=force)  # before the agent runs
        settings = _settings(url, profile, _headers(header, header_env), token_env, timeout)
        cassette = Cassette()
        transport = RecordingTransport(HTTPXTransport(), cassette)
        settings |= {"callee": callee, "transport": transport}
        agent = SSEOxyGent(**settings)
        with ExitStack() as at_the_end:
            at_the_end.callback(cassette.save, file, force=force)  # a conversation that failed is worth keeping, too
            return ask_with(agent, query, _show(query, as_json=json), transport.aclose)

    return attempt(work, debug=debug)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="A conversation that was recorded.", show_default=False)],
    *,
    pace: Annotated[float, typer.Option(help="What pauses are multiplied by; 0 waits for nothing.", min=0.0)] = 1.0,
    json: AsJSON = False,
    debug: Debug = False,
) -> int:
    """Watch a recorded conversation once more: nothing is sent."""

    def work() -> int:
        cassette = Cassette.load(file)
        runs = [entry for entry in cassette.entries if entry.purpose == "run"]
        if not runs:
            raise CassetteError(f"the cassette {file} holds no run")
        agent = SSEOxyGent(
            server_url="http://recorded", transport=ReplayTransport(cassette, pace=pace, match_payload=False)
        )
        return max(ask_with(agent, _again(entry), _show(entry.query, as_json=json)) for entry in runs)

    return attempt(work, debug=debug)


@app.command()
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
    """Show who is in a remote system: its agents and their tools."""

    def work() -> int:
        agent = SSEOxyGent(**_settings(url, profile, _headers(header, header_env), token_env, timeout))
        return _show_organization(anyio.run(_discover, agent), json=json)

    return attempt(work, debug=debug)


@app.command()
def toy(
    *,
    port: Annotated[int, typer.Option(help="0 takes any that is free.", min=0, max=65535)] = 8082,
    pace: Annotated[float, typer.Option(help="What pauses are multiplied by.", min=0.0)] = 1.0,
    dialect: Annotated[Dialect, typer.Option(help="The release whose wire is spoken.")] = Dialect.NEW,
    seconds: Annotated[float | None, typer.Option(help="How long; until Ctrl-C if not said.", min=0.0)] = None,
    debug: Debug = False,
) -> int:
    """Serve the toy remote on this machine, to try things out on."""

    def work() -> int:
        with serving(ToyRemote(dialect=dialect.value, pace=pace), port) as url:
            _write(f"a toy remote answers at {url} (Ctrl-C ends it)\n")
            threading.Event().wait(seconds)
        return 0

    return attempt(work, debug=debug)


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


def _again(entry: Entry) -> OxyRequest:
    """What was asked, as the node that asked it: the server's record of a run, if one was read, is found by it."""
    payload = cast("dict[str, Any]", entry.payload) if isinstance(entry.payload, dict) else {}
    return OxyRequest(arguments={"query": entry.query}, node_id=str(payload.get("node_id", "")))


def ask_with(
    agent: SSEOxyGent, query: str | OxyRequest, show: Show, close: Callable[[], Awaitable[None]] = _nothing
) -> int:
    """The exit code of a conversation; after it, `close` is called in the same event loop."""

    async def talk() -> RunSummary:
        try:
            return await converse(agent, query, show)
        finally:
            with anyio.CancelScope(shield=True):
                await close()

    outcome = anyio.run(talk)
    return 0 if outcome.response.state is OxyState.COMPLETED else AGENT_FAILED


def _show(query: str, *, as_json: bool, live: bool = False) -> Show:
    if as_json:
        return JSONShow(_write)
    console = Console()
    return (
        LiveShow(console, query)
        if live or (console.is_terminal and not console.is_dumb_terminal)
        else LinesShow(_write, query)
    )


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _headers(given: Sequence[str] | None, variables: Sequence[str] | None) -> dict[str, str]:
    """The headers of `--header` and `--header-env`. Errors do not repeat a value: it may be half a secret."""
    headers: dict[str, str] = {}
    for header in given or ():
        for line in _lines_of(Path(header[1:])) if header.startswith("@") else [header]:
            name, colon, value = line.partition(":")
            if not colon or not name.strip():
                raise errors.ConfigurationError("--header takes 'Name: value', or @FILE with one on each line")
            headers[name.strip()] = value.strip()
    for each in variables or ():
        name, equals, variable = each.partition("=")
        if not equals or not name.strip():
            raise errors.ConfigurationError("--header-env takes NAME=VARIABLE")
        headers[name.strip()] = _variable("--header-env", variable)
    return headers


def _lines_of(path: Path) -> list[str]:
    """The lines of a file of headers that are not empty."""
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
    """Arguments of an agent: those of a profile, and over them what the command line says."""
    settings: dict[str, Any] = {} if profile is None else load_profile(profile).options()
    settings["server_url"] = url
    if headers:
        settings["headers"] = {**settings.get("headers", {}), **headers}
    if token_env is not None:
        settings["auth"] = BearerAuth(_variable("--token-env", token_env))
    if timeout is not None:
        settings["timeouts"] = attrs.evolve(settings.get("timeouts", Timeouts()), total=timeout)
    return settings


def _kept(show: Show, path: Path | None, code: int) -> int:
    """The exit code, after the last picture was saved as an SVG of 80 columns, which names no font of another host."""
    if path is None or not isinstance(show, LiveShow):
        return code
    console = Console(record=True, file=io.StringIO(), width=80, force_terminal=True, color_system="truecolor")
    console.print(show.closing)
    drawn = console.export_svg(title="oxygent-client demo")
    path.write_text(re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL), encoding="utf-8")
    return code


def silence(stream: TextIO) -> None:
    """Send what is still in the stream's buffer nowhere: it would raise once more at exit.

    Source: https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def attempt(work: Callable[[], int], *, debug: bool, silence: Callable[[TextIO], None] = silence) -> int:
    """The exit code of `work`, whatever happens in it."""
    try:
        return work()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        silence(sys.stdout)
        return PIPE_CLOSED
    except errors.OxyError as error:
        remedy = remedy_of(error)
        failed: Exception = error
        text, code = complaint(str(error), remedy.advice), remedy.code
    except Exception as error:  # noqa: BLE001  # the command's last line of defence: a person reads it
        failed = error
        text, code = complaint(f"{type(error).__name__}: {error}", "--debug shows where it happened."), UNEXPECTED
    if debug:
        traceback.print_exception(failed)
    sys.stderr.write(text)
    return code


def run(argv: Sequence[str] | None = None) -> int:
    """The exit code of a command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character gets its number, not a traceback.
            stream.reconfigure(errors="backslashreplace")
    # UsageError, whose name and place changed between the releases of typer.
    usage_error = cast("type[Exception]", typer.BadParameter.__bases__[0])
    try:
        code = app(args=argv, prog_name="oxygent-client", standalone_mode=False)
    except usage_error as error:
        said: Callable[[], str] = getattr(error, "format_message", error.__str__)
        sys.stderr.write(complaint(said(), "`oxygent-client --help` shows how it is meant."))
        return USAGE
    return int(code or 0)
