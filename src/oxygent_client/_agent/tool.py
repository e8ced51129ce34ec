"""An agent as a tool of another framework: name, description, JSON schema, and two functions.

Rule 1: it needs no framework; pages show how each takes it.
Rule 2: an error is an `OxyError`. `error_text` puts it into words for a language model, which would else call the tool
    again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

import anyio
import anyio.lowlevel
import attrs

from oxygent_client._core.errors import OxyError
from oxygent_client._core.requests import OxyResponse

NAME: Final = 64
"""The longest name of a tool that models accept, in characters."""
DESCRIPTION: Final = "Ask the agent {name}."


class Asks(Protocol):
    """An agent that can be asked."""

    async def ask(self, query: str, /, *, callee: str | None) -> OxyResponse:
        """Run the agent."""
        ...


@attrs.frozen(kw_only=True)
class AgentTool:
    """An agent as a tool, as the frameworks of language models take it."""

    name: str
    """The name: letters, digits, `_` and `-`, at most 64."""
    description: str
    """What the agent does, for the model that chooses a tool."""
    schema: dict[str, Any]
    """The JSON schema of the arguments: an object with the member `query`."""
    ask: Callable[[str], Awaitable[str]]
    """The async function of the tool: `async f(query: str) -> str`. It raises the `OxyError` of the run."""
    ask_sync: Callable[[str], str]
    """The function of the tool for code without async; it also works where an event loop runs, which it blocks."""

    @staticmethod
    def error_text(error: OxyError) -> str:
        """Return the text of an error for a language model: whether the agent ran, and whether to call it again."""
        if error.outcome.may_have_run:
            return f"The call failed: {error}. The agent may have run: do not repeat the call."
        if error.retryable:
            return f"The call failed: {error}. The agent did not run; the call can be repeated later."
        return f"The call failed: {error}. The agent did not run; a repeated call would fail, too."


def _describe(function: Any, name: str, description: str) -> None:
    """Set what frameworks read of a function."""
    function.__name__ = function.__qualname__ = name
    function.__doc__ = description
    function.__annotations__ = {"query": str, "return": str}


def make_tool(agent: Asks, *, name: str, description: str, callee: str | None) -> AgentTool:
    """Make the tool of an agent."""
    shown = re.sub(r"[^a-zA-Z0-9_-]+", "_", name)[:NAME]
    described = description or DESCRIPTION.format(name=name)

    async def ask(query: str) -> str:
        output = (await agent.ask(query, callee=callee)).output
        return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)

    def ask_sync(query: str) -> str:
        try:
            anyio.lowlevel.current_token()
        except RuntimeError:  # no event loop runs in this thread
            return anyio.run(ask, query)
        with ThreadPoolExecutor(1) as thread:  # not in this context, which names the event loop
            return thread.submit(anyio.run, ask, query).result()

    _describe(ask, shown, described)
    _describe(ask_sync, shown, described)
    schema = {
        "type": "object",
        "properties": {"query": {"type": "string", "description": "The question or task, in full."}},
        "required": ["query"],
        "additionalProperties": False,
    }
    return AgentTool(name=shown, description=described, schema=schema, ask=ask, ask_sync=ask_sync)
