"""Options that commands share, the settings that they make, and the end of a command.

Rule 1: an error is one line on stderr with advice (`_error_advice`), and a traceback only with --debug. With --json
    it is a last object on stdout, too.
Rule 2: without a URL as argument, server and settings are those of a profile and of the `OXYGENT_*` variables. With
    one, nothing is read that was not named: credentials must not go to another server than theirs.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, TextIO, cast, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

import oxygent_client
from oxygent_client.cli._exit_codes import INTERRUPTED, PIPE_CLOSED, UNEXPECTED, error_line

if TYPE_CHECKING:
    from oxygent_client import SSEOxyGent

PROGRAM: Final = "oxygent-client"
_COMMAND: Final = ContextVar("_COMMAND", default=PROGRAM)
"""The command that runs, as the user called it."""


def _without_flag_types(params: list[Any]) -> list[Any]:
    """Leave the type of flags, `<bool>`, out of the help."""
    for param in params:
        if getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""
    return params


class Command(TyperCommand):
    """A command whose help shows no type of a flag, and whose name is in the hints of its errors."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters."""
        return _without_flag_types(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the arguments for the line of usage: `[URL] QUERY` without the marks of a list."""
        return [re.sub(r"\{(.*)\}\.\.\.", r"\1", piece) for piece in super().collect_usage_pieces(ctx)]

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        token = _COMMAND.set(ctx.command_path)
        try:
            return super().invoke(ctx)
        finally:
            _COMMAND.reset(token)


class Group(TyperGroup):
    """The program; as `Command`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters."""
        return _without_flag_types(super().get_params(ctx))


# --- options ----------------------------------------------------------------------------------------------------------

_SERVER: Final = (
    "The server's root URL, such as http://127.0.0.1:8080 (default: OXYGENT_SERVER_URL, or that of a profile)."
)
Url = Annotated[str | None, typer.Argument(help=_SERVER, show_default=False, metavar="[URL]")]
UrlAndQuery = Annotated[
    list[str],
    typer.Argument(
        help=f"URL: {_SERVER} QUERY: the query for the agent; - reads it from stdin.",
        show_default=False,
        metavar="[URL] QUERY",
    ),
]
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
Callee = Annotated[
    str | None, typer.Option("--callee", help="The name of an agent (default: the server's master).", metavar="NAME")
]
Seconds = Annotated[
    float | None,
    typer.Option("--timeout", help="Time limit in seconds for the whole command.", min=0.001, metavar="SECONDS"),
]
Confirm = Annotated[bool, typer.Option("--confirm", help="Check at the server's record of the run that it completed.")]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON lines, for programs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the answer only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


# --- arguments --------------------------------------------------------------------------------------------------------


def split_url(words: Sequence[str], *names: str) -> tuple[str | None, list[str]]:
    """Return the URL, or None, and the other words of a command line `[URL] NAME ...`.

    Raises:
        ConfigurationError: there are too few or too many words.
    """
    url, rest = (words[0], [*words[1:]]) if len(words) > len(names) else (None, [*words])
    is_lone_url = url is None and _is_url(words[0])
    if len(rest) != len(names) or is_lone_url:
        given = "; a query of several words needs quotes" if len(rest) > len(names) else ""
        raise oxygent_client.errors.ConfigurationError(f"the arguments must be [URL] {' '.join(names)}{given}")
    return url, rest


def _is_url(word: str) -> bool:
    return re.fullmatch(r"https?://\S+|[\w.-]+:\d+(/\S*)?", word) is not None


def read_query(text: str, read: Callable[[], str] | None = None) -> str:
    """Return the query of an argument, or the text of stdin if it is `-`.

    Raises:
        ConfigurationError: stdin is empty, or no text.
    """
    if text != "-":
        return text
    try:
        query = (read or sys.stdin.read)().strip()
    except UnicodeDecodeError:
        query = ""
    if not query:
        raise oxygent_client.errors.ConfigurationError("QUERY is -, and stdin holds no text")
    return query


# --- settings ---------------------------------------------------------------------------------------------------------


class Connection(NamedTuple):
    """The options about the server that commands share: credentials and a profile."""

    header: Headers = None
    header_env: HeaderVariables = None
    token_env: TokenVariable = None
    profile: ProfileName = None

    def settings(self, url: str | None, *, timeout: float | None = None, **settings: Any) -> dict[str, Any]:
        """Return the arguments of the agent: those of the profile, overridden by the command line.

        Raises:
            ConfigurationError: an option is invalid, or there is no URL.
        """
        found: dict[str, Any] = {}
        if self.profile is not None or url is None:
            from oxygent_client.profiles import load_profile

            found = load_profile(self.profile).options()
        if url is not None:
            found["server_url"] = url if "://" in url else f"http://{url}"
        elif "server_url" not in found:
            raise oxygent_client.errors.ConfigurationError(
                "there is no server: pass its URL, set OXYGENT_SERVER_URL, or use --profile"
            )
        if headers := _headers(self.header, self.header_env):
            found["headers"] = {**found.get("headers", {}), **headers}
        if self.token_env is not None:
            found["auth"] = oxygent_client.BearerAuth(variable("--token-env", self.token_env))
        if timeout is not None:
            import attrs

            found["timeouts"] = attrs.evolve(found.get("timeouts", oxygent_client.Timeouts()), total=timeout)
        return found | {name: value for name, value in settings.items() if value is not None}

    def agent(self, url: str | None, *, timeout: float | None = None, **settings: Any) -> SSEOxyGent:
        """Return an agent with the settings of `settings`."""
        return oxygent_client.SSEOxyGent(**self.settings(url, timeout=timeout, **settings))


_CONNECTION: Final = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
    for name, hint in get_type_hints(Connection, include_extras=True).items()
)


def shown_url(server_url: str) -> str:
    """Return the URL of a server without user information, query and trailing slash."""
    from oxygent_client import RunHandle

    return RunHandle(server_url=server_url, trace_id="", remote_trace_id="", node_id="").server_url


def _headers(given: Sequence[str] | None, variables: Sequence[str] | None) -> dict[str, str]:
    """Return the headers of `--header` and `--header-env`. Errors show no value, which may be secret."""
    headers: dict[str, str] = {}
    for header in given or ():
        for line in _lines_of(Path(header[1:])) if header.startswith("@") else [header]:
            name, colon, value = line.partition(":")
            if not colon or not name.strip():
                raise oxygent_client.errors.ConfigurationError(
                    "--header must be 'Name: value', or @FILE with one header per line"
                )
            headers[name.strip()] = value.strip()
    for each in variables or ():
        name, equals, of = each.partition("=")
        if not equals or not name.strip():
            raise oxygent_client.errors.ConfigurationError("--header-env must be NAME=VARIABLE")
        headers[name.strip()] = variable("--header-env", of)
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
        raise oxygent_client.errors.ConfigurationError(f"--header: the file {str(path)!r} cannot be read: {why}")
    return [line for line in text.split("\n") if line.strip()]


def variable(option: str, name: str) -> str:
    """Return the value of an environment variable that an option names.

    Raises:
        ConfigurationError: it is not set.
    """
    value = os.environ.get(name, "")
    if not value:
        raise oxygent_client.errors.ConfigurationError(f"{option}: the environment variable {name!r} is not set")
    return value


# --- the end of a command ---------------------------------------------------------------------------------------------


def write(text: str) -> None:
    """Write to stdout at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def write_error(text: str) -> None:
    """Write to stderr."""
    sys.stderr.write(text)


def silence(stream: TextIO) -> None:
    """Discard what is still in the stream's buffer, which would raise again at exit.

    Source: https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


def attempt(
    work: Callable[[], int | None],
    *,
    debug: bool,
    as_json: bool = False,
    stopped: str = "stopped",
    silence: Callable[[TextIO], None] = silence,
) -> int:
    """Run `work` and return its exit code (None: 0), or that of its error; `stopped` is said after Ctrl-C."""
    try:
        try:
            return work() or 0
        except BrokenPipeError:
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (the command reports every error)
            failed = error
        message, advice, code = _explained(failed, stopped)
        if as_json:
            from oxygent_client.cli._terminal_text import as_json as json_line

            write(json_line(_end(failed, message, code)) + "\n")
    except BrokenPipeError:
        silence(sys.stdout)
        return PIPE_CLOSED
    if debug:
        traceback.print_exception(failed)
    sys.stderr.write(error_line(message, advice))
    return code


def command(function: Callable[..., int | None], *, stopped: str = "stopped") -> Callable[..., int]:
    """Make a command of a function: `attempt` reports its errors, and --debug shows their tracebacks.

    Its options are the parameters of the function; for `connection`, those of `Connection`.
    """
    signature = inspect.signature(function, eval_str=True)
    is_connected = "connection" in signature.parameters

    def run(*, debug: bool, **given: Any) -> int:
        if is_connected:
            given["connection"] = Connection(**{each.name: given.pop(each.name) for each in _CONNECTION})
        return attempt(lambda: function(**given), debug=debug, as_json=given.get("json", False), stopped=stopped)

    parameters: list[inspect.Parameter] = []
    for each in signature.parameters.values():
        parameters += _CONNECTION if each.name == "connection" else (each,)
    debug = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    of_command: Any = functools.update_wrapper(run, function)
    of_command.__signature__ = signature.replace(parameters=[*parameters, debug])
    # As they were evaluated above: typer evaluates what is text, several times.
    of_command.__annotations__ = {each.name: each.annotation for each in (*parameters, debug)}
    return cast("Callable[..., int]", of_command)


def _explained(failed: BaseException, stopped: str) -> tuple[str, str, int]:
    """Return the message, the advice and the exit code of an error."""
    if isinstance(failed, KeyboardInterrupt):
        return stopped, "", INTERRUPTED
    if isinstance(failed, oxygent_client.errors.OxyError):
        from oxygent_client.cli._error_advice import advice_for

        advice = advice_for(failed)
        return str(failed), advice.text.replace(f"{PROGRAM} COMMAND", _COMMAND.get()), advice.code
    return f"{type(failed).__name__}: {failed}", "Use --debug to see the traceback.", UNEXPECTED


def _end(failed: BaseException, message: str, code: int) -> Mapping[str, Any]:
    """Return the last object of --json for a run that has no response."""
    known = (
        {"outcome": failed.outcome.name, "trace_id": failed.trace_id}
        if isinstance(failed, oxygent_client.errors.OxyError)
        else {}
    )
    return {"kind": "error", "error": type(failed).__name__, "message": message, "exit_code": code, **known}
