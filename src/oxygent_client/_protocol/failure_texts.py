"""Recognize the texts that the framework sends as the answer of an agent that failed."""

from __future__ import annotations

from typing import Final

FAILURES: Final[tuple[tuple[str, str], ...]] = (
    # Beginning and end of the text. The source is a module of oxygent, of 1.0.8, 1.0.13 and 1.1.3 unless noted.
    ("Error executing oxy ", ""),  # oxy.base_oxy, `execute`: the last attempt raised
    ("Error executing tool ", ""),  # schemas.oxy, `call`: an exception outside of its attempts
    ("Executing tool ", " timed out"),  # schemas.oxy, `call`: time-out
    ("Tool ", " not exists"),  # schemas.oxy, `call`: there is no such oxy
    ("Tool ", " was cancelled"),  # oxy.base_oxy, `execute`: stored, and returned by a run that replays it
    ("No permission for tool: ", ""),  # schemas.oxy, `call`: the state is SKIPPED
    # oxy.llms.base_llm, `friendly_error_text`: a language model failed, perhaps that of an agent that forwards it.
    ("Sorry, I seem to have encountered a problem. Please try again.", ""),
    ("SSE connection failed after ", ""),  # oxy.agents.sse_oxy_agent, since 1.0.10
    ("Unexpected error in SSE connection: ", ""),  # likewise
    ("WorkflowAgent '", "' has no func_workflow defined."),  # oxy.agents.workflow_agent, 1.1
    ("Workflow '", "' has no func_workflow defined."),  # oxy.flows.workflow, 1.1
    ("[", "] agent_generate_one_step failed"),  # oxy.llms.actor_llm, 1.1
    ("[", "] agent_generate_one_step failed to return response or generated_ids"),  # likewise
)
"""Texts that the framework sends as the answer of an oxy that failed or did not run; events have no state.

The texts of an agent's own `friendly_error_text`, an interceptor or a failing tool can be anything, and are not listed.
"""

_BEGINNINGS: Final = tuple(begin for begin, _ in FAILURES)


def is_failure_text(output: object) -> bool:
    """Whether an answer reads like a failure text of the framework. Only the record tells it from a genuine answer."""
    if not isinstance(output, str) or not output.startswith(_BEGINNINGS):
        return False
    return any(
        len(output) >= len(begin) + len(end) and output.startswith(begin) and output.endswith(end)
        for begin, end in FAILURES
    )
