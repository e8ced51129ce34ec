"""The command `chat` at real servers, on a terminal with a user who presses keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from tests.support.command_line import Terminal, on_terminal

if TYPE_CHECKING:
    from .conftest import _Servers
    from .harness import Record, RemoteServer

PROMPT = "you> "


def cancel(terminal: Terminal, server: RemoteServer) -> Record:
    """Ask a question, press Ctrl-C when the agent works on it, and return the server's entry of its end."""
    terminal.press("quiet 61\r")
    anyio.run(lambda: server.wait_for("started", query="quiet 61", within=20))
    terminal.press("\x03")
    terminal.read_until("stopped")
    entry = anyio.run(lambda: server.wait_for("cancelled", query="quiet 61", within=10))
    terminal.read_until(PROMPT)
    return entry


def test_memory_and_cancellation(server: RemoteServer) -> None:
    """A turn remembers those before; Ctrl-C cancels the agent at the server, and the chat goes on without that turn."""
    with on_terminal("chat", server.url) as terminal:
        terminal.read_until(PROMPT)
        terminal.press("echo my name is Ada\r")
        terminal.read_until("trace")
        terminal.read_until(PROMPT)
        terminal.press("memory\r")
        terminal.read_until('"answered": 1')
        terminal.read_until(PROMPT)
        cancelled = cancel(terminal, server)
        terminal.press("echo still here\r")
        terminal.read_until("trace")
        terminal.read_until(PROMPT)
        terminal.press("/history\r")
        terminal.read_until("  3  echo still here")
        terminal.press("/quit\r")
        code = terminal.wait()
    assert code == 0
    assert cancelled.get("query") == "quiet 61"
    assert '"echo my name is Ada"' in terminal.text


@pytest.mark.parametrize("version", ["1.1.3", "1.0.13"])
def test_feedback(servers: _Servers, version: str) -> None:
    """An agent that asks gets the answers of the user; an empty line tells it that there is no other."""
    server = servers.shared(version)
    with on_terminal("chat", server.url, "--ask-type", "asked") as terminal:
        terminal.read_until(PROMPT)
        terminal.press("human\r")
        terminal.read_until("the agent asks")
        terminal.read_until("answer> ")
        terminal.press("a window seat\r")
        terminal.read_until("more (")
        terminal.press("\r")
        terminal.read_until('"a window seat"')
        terminal.read_until(PROMPT)
        terminal.press("/rate like\r")
        terminal.read_until("thank you")
        terminal.read_until(PROMPT)  # before it, the terminal is not in the mode in which Ctrl-D is seen
        terminal.press("\x04")
        code = terminal.wait()
    assert code == 0
