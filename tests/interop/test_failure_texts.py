"""The framework's answers for a failed oxy: the table by which `confirm_state="auto"` checks the record."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import pytest

from oxygent_client import OxyState, SSEOxyGent, errors
from oxygent_client._protocol.failure_texts import FAILURES, is_failure_text

from .environments import RELEASES, python_for
from .harness import RECORDED

if TYPE_CHECKING:
    from .harness import RemoteServer

pytestmark = pytest.mark.anyio

TOLD: Final[list[tuple[str, str, OxyState, tuple[str, ...]]]] = [
    # the callee whose response is the agent's own; the agent's answer; its state; the releases
    ("nobody", "Tool nobody not exists", OxyState.FAILED, RELEASES),
    ("other_agent", "No permission for tool: other_agent", OxyState.SKIPPED, RELEASES),
    ("late_agent", "Executing tool late_agent timed out", OxyState.FAILED, RELEASES),
    ("broken_agent", "Error executing tool broken_agent: scripted failure", OxyState.FAILED, RELEASES),
    (
        "broken_llm",
        "Sorry, I seem to have encountered a problem. Please try again.",
        OxyState.FAILED,
        RELEASES,
    ),
    ("empty_agent", "WorkflowAgent 'empty_agent' has no func_workflow defined.", OxyState.FAILED, ("1.1.3",)),
    ("empty_flow", "Workflow 'empty_flow' has no func_workflow defined.", OxyState.FAILED, ("1.1.3",)),
]


@pytest.mark.parametrize(
    ("server", "callee", "text", "state"),
    [
        pytest.param(release, callee, text, state, id=f"{callee}-{release}")
        for callee, text, state, releases in TOLD
        for release in releases
    ],
    indirect=["server"],
)
async def test_texts(server: RemoteServer, callee: str, text: str, state: OxyState) -> None:
    """An agent that returns a failure answers with a text of the table, and its record has the state."""
    async with SSEOxyGent(server_url=server.url, callee="relay_agent", check_callee=False, timeouts=RECORDED) as agent:
        with pytest.raises(errors.RemoteAgentError) as caught:
            await agent.ask(callee)

    assert caught.value.output == text
    assert caught.value.state == state
    assert is_failure_text(text)


SOURCES: Final[dict[tuple[str, str], tuple[str, tuple[str, ...]]]] = {
    ("Error executing oxy ", ""): ("oxy/base_oxy.py", RELEASES),
    ("Error executing tool ", ""): ("schemas/oxy.py", RELEASES),
    ("Executing tool ", " timed out"): ("schemas/oxy.py", RELEASES),
    ("Tool ", " not exists"): ("schemas/oxy.py", RELEASES),
    ("Tool ", " was cancelled"): ("oxy/base_oxy.py", RELEASES),
    ("No permission for tool: ", ""): ("schemas/oxy.py", RELEASES),
    ("Sorry, I seem to have encountered a problem. Please try again.", ""): ("oxy/llms/base_llm.py", RELEASES),
    ("SSE connection failed after ", ""): ("oxy/agents/sse_oxy_agent.py", RELEASES[:2]),
    ("Unexpected error in SSE connection: ", ""): ("oxy/agents/sse_oxy_agent.py", RELEASES[:2]),
    ("WorkflowAgent '", "' has no func_workflow defined."): ("oxy/agents/workflow_agent.py", RELEASES[:1]),
    ("Workflow '", "' has no func_workflow defined."): ("oxy/flows/workflow.py", RELEASES[:1]),
    ("[", "] agent_generate_one_step failed"): ("oxy/llms/actor_llm.py", RELEASES[:1]),
    ("[", "] agent_generate_one_step failed to return response or generated_ids"): (
        "oxy/llms/actor_llm.py",
        RELEASES[:1],
    ),
}


def test_the_table() -> None:
    """The table of texts has exactly those of these tests."""
    assert {*SOURCES} == {*FAILURES}


@pytest.mark.parametrize(("begin", "end"), FAILURES)
def test_sources(begin: str, end: str) -> None:
    """Each named release has the text in its source, also if no scenario produces it."""
    module, releases = SOURCES[begin, end]
    for release in releases:
        library = python_for(release).parent.parent / "lib" / f"python3.{sys.version_info.minor}"
        source = (library / "site-packages" / "oxygent" / module).read_text(encoding="utf-8")
        assert begin in source
        assert end.partition(" to return ")[0] in source
