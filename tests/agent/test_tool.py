"""An agent as a tool of another framework: name, schema, functions, and the text of an error."""

from __future__ import annotations

import inspect
import typing
from typing import Any, Final

import pytest

from oxygent_client import AgentTool, Outcome, OxyError, SSEOxyGent, errors
from oxygent_client.testing import ToyRemote
from oxygent_client.transports.asgi import ASGITransport

NAMES: Final[list[Any]] = [
    # settings of the agent, arguments, name, description
    pytest.param({}, {}, "remote", "Ask the agent remote.", id="nothing"),
    pytest.param({"name": "trip planner!", "desc": "Plans"}, {}, "trip_planner_", "Plans", id="settings"),
    pytest.param({"desc": "Plans"}, {"callee": "flights"}, "flights", "Ask the agent flights.", id="callee"),
    pytest.param({"desc": "Plans"}, {"name": "x" * 99, "description": "y"}, "x" * 64, "y", id="arguments"),
]


def agent_of(toy: ToyRemote, **settings: Any) -> SSEOxyGent:
    """An agent at this toy."""
    return SSEOxyGent(server_url="http://remote.test", transport=ASGITransport(toy), **settings)


@pytest.mark.parametrize(("settings", "arguments", "name", "description"), NAMES)
def test_what_a_framework_reads(
    settings: dict[str, Any], arguments: dict[str, str], name: str, description: str
) -> None:
    """Name and description, also of the functions, and a schema that fits their signature."""
    tool = agent_of(ToyRemote(), **settings).as_tool(**arguments)
    assert (tool.name, tool.description) == (name, description)
    for function in (tool.ask, tool.ask_sync):
        assert (function.__name__, function.__doc__) == (name, description)
        assert [*inspect.signature(function).parameters] == tool.schema["required"]
        assert typing.get_type_hints(function) == {"query": str, "return": str}


async def test_it_asks_the_agent() -> None:
    """The text of the answer; anything else as JSON."""
    tool = agent_of(ToyRemote()).as_tool()
    assert await tool.ask("echo hello") == "hello"
    assert await tool.ask("odd") == '{"a": [1, 2, null], "b": "é🚀"}'


async def test_it_asks_the_callee() -> None:
    """Where one is named."""
    toy = ToyRemote()
    await agent_of(toy).as_tool(callee="flight_agent").ask("echo hello")
    assert toy.runs[0].payload["callee"] == "flight_agent"


async def test_without_async_where_a_loop_runs() -> None:
    """A framework may call the plain function in its event loop."""
    assert agent_of(ToyRemote()).as_tool().ask_sync("echo hello") == "hello"


def test_without_async() -> None:
    """Where no event loop runs, it makes one."""
    assert agent_of(ToyRemote()).as_tool().ask_sync("echo hello") == "hello"


async def test_a_failing_agent() -> None:
    """The error is that of the run."""
    with pytest.raises(errors.RemoteAgentError):
        await agent_of(ToyRemote()).as_tool().ask("raise")


TEXTS: Final[list[Any]] = [
    pytest.param(errors.RemoteAgentError("it failed"), "may have run", id="completed"),
    pytest.param(errors.IncompleteStreamError("cut", outcome=Outcome.STARTED), "may have run", id="started"),
    pytest.param(errors.ConnectError("refused"), "can be repeated", id="not-sent"),
    pytest.param(errors.AuthenticationError("who?", status=401), "would fail, too", id="refused"),
]


@pytest.mark.parametrize(("error", "words"), TEXTS)
def test_the_text_for_a_model(error: OxyError, words: str) -> None:
    """It tells whether the call may be repeated."""
    text = AgentTool.error_text(error)
    assert words in text
    assert str(error) in text
