"""The command `chat`: a conversation with a remote agent on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import oxygent_client
from oxygent_client.cli._options import Callee, Connection, Url, command, write, write_error

if TYPE_CHECKING:
    from oxygent_client import Conversation, SSEOxyGent, Welcome
    from oxygent_client.cli._output import Display


@command
def chat(
    url: Url = None,
    *,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the conversation that /save wrote to this file.", metavar="FILE")
    ] = None,
    ask_type: Annotated[
        list[str] | None,
        typer.Option(
            help="A type of events with which an agent asks you, besides ask and feedback. Can be repeated.",
            metavar="TYPE",
        ),
    ] = None,
    callee: Callee = None,
    timeout: Annotated[
        float | None, typer.Option(help="Time limit in seconds for each turn.", min=0.001, metavar="SECONDS")
    ] = None,
    connection: Connection,
) -> int:
    """Have a conversation with a remote agent, which remembers the turns before.

    A line is a turn; /help shows the commands. Ctrl-C cancels a run, and at the prompt leaves.
    """
    import anyio

    from oxygent_client.cli._chat_session import ASKING, Chat
    from oxygent_client.cli._terminal_text import block
    from oxygent_client.sanitize import without_credentials

    agent = connection.agent(url, timeout=timeout, callee=callee)
    conversation = agent.conversation("" if resume is None else _saved(resume))
    is_terminal = sys.stdin.isatty()
    if resume is not None:
        write_error(anyio.run(_load, agent, conversation))
    elif is_terminal:
        welcome = without_credentials(agent.sent)(_texts(anyio.run(_welcome, agent)))
        write_error("".join(f"{block(each)}\n" for each in welcome))
    types = ASKING | frozenset(ask_type or ())
    return Chat(agent, conversation, _reader(), _display, write_error, is_terminal, types).run()


def _saved(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise oxygent_client.errors.ConfigurationError(
            f"--resume: {path} cannot be read ({type(error).__name__})"
        ) from error


async def _load(agent: SSEOxyGent, conversation: Conversation) -> str:
    async with agent:
        return f"{len(await conversation.load_history())} turns so far; /history shows them\n"


async def _welcome(agent: SSEOxyGent) -> Welcome:
    async with agent:
        return await agent.welcome()


def _texts(welcome: Welcome) -> list[str]:
    """Return the message of a server and its first queries, and how to go on."""
    queries = [f"  {each}" for each in welcome.first_queries]
    return [*([welcome.message] if welcome.message else []), *queries, "/help shows the commands, Ctrl-D leaves"]


def _display(query: str) -> Display:
    from rich.console import Console

    from oxygent_client.cli._output import AnswerDisplay, LiveDisplay, is_live

    console = Console()
    return LiveDisplay(console, query, is_turn=True) if is_live(console) else AnswerDisplay(write)


def _reader() -> Callable[[str], str]:
    """Return a function that reads a line: with line editing on a terminal; without one, no prompt is shown."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        with suppress(ImportError):  # not on every platform
            import_module("readline")  # `input` uses it
        return input
    return partial(_read_line, sys.stdin.isatty())


def _read_line(is_terminal: bool, prompt: str) -> str:
    write_error(prompt if is_terminal else "")
    text = sys.stdin.readline()
    if not text:
        raise EOFError
    return text
