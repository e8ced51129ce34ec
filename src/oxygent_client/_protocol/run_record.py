"""Parse the record that a server stores of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

import attrs

from oxygent_client._core.errors import (
    MalformedResponseError,
    TooLargeError,
)
from oxygent_client._core.events import (
    OxyState,
)
from oxygent_client._core.settings import Limits

__all__ = ["RunNode", "RunRecord", "is_failure_text", "parse_record"]


# --- the record of a run ----------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class RunNode:
    """One call inside a run, as the server stored it. Its arguments and the inbound headers are not kept."""

    node_id: str
    caller: str
    callee: str
    node_type: str
    """What the callee is: `agent`, `tool`, `llm`, ..."""
    father_node_id: str
    """The node of the call within which this one was made; empty, or a node of the caller's, for a root."""
    call_stack: tuple[str, ...]
    """The names from the user down to the callee."""
    state: OxyState | None
    """How the call ended; None: it has not, as real servers say it."""
    output: Any = attrs.field(repr=False)
    """What the callee gave, as the server stored it: a text. Real servers turn all else into its JSON."""


@attrs.frozen
class RunRecord:
    """What a server has stored of a run."""

    state: OxyState | None
    """How the run ended; None or RUNNING: it has not; None and no nodes: the server knows of no such run."""
    output: Any = attrs.field(repr=False)
    """What the run gave, or the text of its failure: as `RunNode.output`, so 42 and "42" look the same."""
    nodes: tuple[RunNode, ...]
    """Every call stored under the run's trace id, in the server's order."""
    fingerprint: int = attrs.field(default=0, eq=False, repr=False)
    """A number, in this process, that changes when a call begins, ends or is stored again."""

    @property
    def has_begun(self) -> bool:
        """Whether the server knows of the run."""
        return bool(self.nodes)

    @property
    def is_over(self) -> bool:
        """Whether the run has ended, well or not."""
        return self.state is OxyState.COMPLETED or self.is_failure

    @property
    def is_failure(self) -> bool:
        """Whether the run has ended, and not well."""
        return self.state in (OxyState.FAILED, OxyState.CANCELED, OxyState.SKIPPED)


STATES: Final[dict[int, OxyState]] = {state.value: state for state in OxyState}


def parse_record(data: dict[str, Any], limits: Limits = Limits(), *, node_id: str = "") -> RunRecord:
    """The record in the data of a `/view` envelope: of the run whose root is `node_id`, or of the latest run.

    Raises:
        MalformedResponseError: it is no list of nodes, or none of them is a root.
        TooLargeError: it has more nodes than `limits.nodes`.
    """
    rows = data.get("nodes")
    if not isinstance(rows, list):
        raise MalformedResponseError("the `nodes` of a record should be a list")
    rows = cast("list[Any]", rows)
    if len(rows) > limits.nodes:
        raise TooLargeError(f"the record has more nodes than Limits.nodes ({limits.nodes})")
    nodes = tuple(_node(row) for row in rows)
    known = {node.node_id for node in nodes}
    if not nodes or (node_id and node_id not in known):
        return RunRecord(None, None, ())
    # A caller may have sent a father of its own, which is not among the nodes.
    roots = [node for node in nodes if (node.node_id == node_id if node_id else node.father_node_id not in known)]
    if not roots:
        raise MalformedResponseError("a record should have a node that no other has called")
    # A call whose father is not stored yet looks like a root; its stack is longer than that of the real one.
    root = min(reversed(roots), key=lambda node: len(node.call_stack))
    moving = [(node.node_id, node.state, *_times(row)) for node, row in zip(nodes, rows, strict=True)]
    return RunRecord(root.state, root.output, nodes, hash(frozenset(moving)))


def _times(row: dict[str, Any]) -> Iterator[str]:
    """When a call was stored first, and last, as the server writes it."""
    return (str(row.get(name))[:64] for name in ("create_time", "update_time"))


def _node(row: Any) -> RunNode:
    if not isinstance(row, dict):
        raise MalformedResponseError("a node of a record should be an object")
    fields = cast("dict[str, Any]", row)
    node_id, state, stack = _text(fields, "node_id"), fields.get("state"), fields.get("call_stack")
    if not node_id:
        raise MalformedResponseError("a node of a record should have an id")
    if state is not None and (type(state) is not int or state not in STATES):
        raise MalformedResponseError("the state of a node should be one of OxyState, or null")
    return RunNode(
        node_id=node_id,
        caller=_text(fields, "caller"),
        callee=_text(fields, "callee"),
        node_type=_text(fields, "node_type"),
        father_node_id=_text(fields, "father_node_id"),
        call_stack=tuple(name for name in cast("list[Any]", stack) if isinstance(name, str))
        if isinstance(stack, list)
        else (),
        state=None if state is None else STATES[state],
        output=fields.get("output"),
    )


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


# --- an answer that reads like a failure ------------------------------------------------------------------------------

FAILURES: Final[tuple[tuple[str, str], ...]] = (
    # How the text begins, and how it ends. A source is a module of oxygent: 1.0.8, 1.0.13 and 1.1.3, or as it says.
    ("Error executing oxy ", ""),  # oxy.base_oxy, `execute`: it raised at its last attempt
    ("Error executing tool ", ""),  # schemas.oxy, `call`: it raised outside of its attempts
    ("Executing tool ", " timed out"),  # schemas.oxy, `call`: its `timeout` ran out
    ("Tool ", " not exists"),  # schemas.oxy, `call`: there is no such oxy
    ("Tool ", " was cancelled"),  # oxy.base_oxy, `execute`: stored so, and given by a run that replays it
    ("No permission for tool: ", ""),  # schemas.oxy, `call`: the state is SKIPPED
    # oxy.llms.base_llm, `friendly_error_text`: a language model failed, perhaps that of an agent that passes it on.
    ("Sorry, I seem to have encountered a problem. Please try again.", ""),
    ("SSE connection failed after ", ""),  # oxy.agents.sse_oxy_agent, since 1.0.10
    ("Unexpected error in SSE connection: ", ""),  # likewise
    ("WorkflowAgent '", "' has no func_workflow defined."),  # oxy.agents.workflow_agent, 1.1
    ("Workflow '", "' has no func_workflow defined."),  # oxy.flows.workflow, 1.1
    ("[", "] agent_generate_one_step failed"),  # oxy.llms.actor_llm, 1.1
    ("[", "] agent_generate_one_step failed to return response or generated_ids"),  # likewise
)
"""The texts with which an oxy of the framework answers that failed or did not run. There is no state on the wire.

What an agent's own `friendly_error_text`, an interceptor or a failing tool says (any text) is not among them.
"""


def is_failure_text(output: object) -> bool:
    """Whether an answer reads like a failure of the framework's. An agent may say the same: the record tells."""
    if not isinstance(output, str):
        return False
    return any(
        len(output) >= len(begin) + len(end) and output.startswith(begin) and output.endswith(end)
        for begin, end in FAILURES
    )
