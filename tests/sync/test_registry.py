"""`SyncAgentRegistry`, and other parts of the package for programs without `async`."""

from __future__ import annotations

import inspect
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from oxygent_client import AgentRegistry, OxyRequest, SSEOxyGent
from oxygent_client.errors import ConfigurationError
from oxygent_client.registry import Function
from oxygent_client.sync import SyncAgentRegistry, SyncSSEOxyGent, call
from oxygent_client.sync._portal import Process
from oxygent_client.testing import FakeTransport, answer, close

if TYPE_CHECKING:
    from tests.sync.conftest import ServedToy

WITHOUT: Final = {"send_message": "called by requests, which belong to the asynchronous registry"}
"""Public names of the asynchronous class that the synchronous one lacks, with reasons."""


def remote(name: str = "remote") -> SyncSSEOxyGent:
    """Return a remote that answers 42."""
    return SyncSSEOxyGent("http://remote.test", name=name, transport=FakeTransport.script(answer("42"), close()))


def test_the_names() -> None:
    """The synchronous registry has each public name of the asynchronous one, with its parameters."""
    names = {name for name in (*dir(AgentRegistry), *vars(AgentRegistry())) if not name.startswith("_")}
    assert [name for name in sorted(names - WITHOUT.keys()) if not hasattr(SyncAgentRegistry, name)] == []
    expected = inspect.signature(AgentRegistry).parameters
    assert {name: each.default for name, each in inspect.signature(SyncAgentRegistry).parameters.items()} == {
        name: each.default for name, each in expected.items()
    }


def test_members() -> None:
    """Agents and plain functions call each other; a plain function runs in the calling thread."""
    threads: list[threading.Thread] = []

    def double(number: int) -> int:
        """Double a number."""
        threads.append(threading.current_thread())
        return 2 * number

    def both(request: OxyRequest) -> str:
        output = registry.call("remote", query=request.arguments["query"]).output
        return f"{output} {registry.call('double', arguments={'number': 4}).output}"

    async def later(request: OxyRequest) -> Any:
        return (await request.call(callee="remote", arguments={"query": "hi"})).output

    registry = SyncAgentRegistry(remote(), both, later, Function(double, by_name=True), name="mine")
    with registry:
        assert registry.call("both", query="hi").output == "42 8"
        assert registry.call("later").output == "42"
        assert registry.init().keys() == {"remote"}
    assert threads == [threading.current_thread()]
    assert registry.names == ("remote", "both", "later", "double")
    assert isinstance(registry.member("remote"), SSEOxyGent)
    assert registry.organization()["children"][3] == {"name": "double", "type": "tool", "desc": "Double a number."}
    assert repr(registry) == "<SyncAgentRegistry 'remote', 'both', 'later', 'double'>"
    assert registry.name == "mine"


def test_messages_and_fallbacks() -> None:
    """`on_message` and a fallback may be plain functions."""
    heard: list[str] = []

    def instead(request: OxyRequest) -> str:
        return "instead"

    def note(message: Any, **_: Any) -> None:
        heard.append(message["type"])

    down = SyncSSEOxyGent("http://127.0.0.1:1", name="down")
    registry = SyncAgentRegistry(down, remote(), fallback={"down": instead, "remote": "down"}, on_message=note)
    assert registry.on_message is note
    assert registry.call("down", query="hi").output == "instead"
    assert heard[0] == "tool_call"
    registry.on_message = None
    assert registry.call("remote", query="hi").output == "42"


@pytest.mark.parametrize("member", [3, int, "x"])
def test_what_is_no_member(member: Any) -> None:
    """An invalid member is refused, as in the asynchronous registry."""
    with pytest.raises(ConfigurationError):
        SyncAgentRegistry(member)


def test_a_registry_whose_loop_ended(toy: ServedToy) -> None:
    """After its event loop has ended, leaving the block closes nothing: the connections ended with the loop."""
    registry = SyncAgentRegistry(SyncSSEOxyGent(toy.url))
    registry.__enter__()
    other = Process()
    registry._entered_in[:] = [other.portal()]
    registry.__exit__(None, None, None)
    other.exit()
    call(registry._registry.__aexit__, None, None, None)
