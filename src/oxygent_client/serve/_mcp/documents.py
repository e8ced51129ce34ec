"""Build the tools and results of MCP, and read the arguments of a tool. Pure.

Rule 1: a result has the same schema with and without an error, since some clients check both.
Rule 2: texts of the remote in a list of tools are bounded, and have no hidden characters.

Source: https://modelcontextprotocol.io/specification (tools)
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs
import mcp_types as types

from oxygent_client import Outcome
from oxygent_client.sanitize import strip_control_characters
from oxygent_client.serve import Failure, Refused, ServedAgent, text_of

NAME_LENGTH: Final = 64
"""Characters of a tool's name; many clients refuse longer ones."""
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_-]")
_DESCRIPTION: Final = 4096
_LINE: Final = 300
_CONTEXT: Final = 200

INPUT_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "description": "The question or task, in plain text."},
        "context": {
            "type": "string",
            "description": "The trace_id of an earlier result, to continue its conversation.",
        },
    },
    "required": ["query"],
}
OUTPUT_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "answer": {"description": "The answer: a text, mostly. After an error, the text that was received before it."},
        "trace_id": {"type": "string", "description": "The id of the run, which is the `context` of the next turn."},
        "outcome": {
            "type": "string",
            "enum": [str(outcome) for outcome in Outcome],
            "description": "Whether the agent ran.",
        },
        "error": {
            "type": "object",
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "retryable": {"type": "boolean", "description": "Whether the same call may succeed later."},
            },
            "required": ["code", "message", "retryable"],
        },
    },
    "required": ["answer", "trace_id", "outcome"],
}
FEEDBACK_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"answer": {"type": "string", "title": "Answer"}},
    "required": ["answer"],
}
"""What a user is asked for by an agent that waits for feedback."""


def named_tools(agents: Iterable[ServedAgent]) -> dict[str, ServedAgent]:
    """Return the agents by the names of their tools: letters, digits, `_` and `-`, each name once."""
    found: dict[str, ServedAgent] = {}
    numbers = Counter[str]()
    for agent in agents:
        base = name = _UNFIT.sub("_", agent.name)[:NAME_LENGTH]
        while name in found:
            numbers[base] += 1
            suffix = f"_{numbers[base] + 1}"
            name = base[: NAME_LENGTH - len(suffix)] + suffix
        found[name] = agent
    return found


def tool(name: str, agent: ServedAgent) -> types.Tool:
    """Return the tool of an agent."""
    title = line(agent.name)
    return types.Tool(
        name=name,
        title=title,
        description=_encodable(strip_control_characters(agent.description[:_DESCRIPTION]))
        or f"Ask the agent {title} of a remote system.",
        input_schema=INPUT_SCHEMA,
        output_schema=OUTPUT_SCHEMA,
        annotations=types.ToolAnnotations(idempotent_hint=False, open_world_hint=True),
    )


def line(text: str) -> str:
    """Return a text as one bounded line."""
    shown = " ".join(str(strip_control_characters(_encodable(text[: _LINE + 1]))).split())
    return shown if len(shown) <= _LINE else shown[: _LINE - 1] + "…"


@attrs.frozen
class Question:
    """The arguments of a tool."""

    query: str
    context: str = ""
    """The trace id of the previous turn at the remote."""


def question_of(arguments: Mapping[str, Any]) -> Question:
    """Read the arguments of a tool.

    Raises:
        Refused: one of them is missing, unknown or invalid.
    """
    for name in arguments:
        if name not in INPUT_SCHEMA["properties"]:
            raise _refuse(line(name), "there is no such argument; there are query and context")
    query, context = arguments.get("query"), arguments.get("context") or ""
    if not isinstance(query, str):
        raise _refuse("query", "query must be a string")
    if not isinstance(context, str) or not context.isprintable() or len(context) > _CONTEXT:
        raise _refuse("context", "context must be the trace_id of an earlier result")
    return Question(query, context)


def _refuse(param: str, text: str) -> Refused:
    return Refused(400, "invalid_value", text, param=param)


def answer_result(output: Any, trace_id: str) -> types.CallToolResult:
    """Return the result of a run that completed."""
    answer = _encodable(output)
    return types.CallToolResult(
        content=[types.TextContent(text=text_of(answer))],
        structured_content={"answer": answer, "trace_id": trace_id, "outcome": str(Outcome.COMPLETED)},
    )


_OUTCOMES: Final = {
    Outcome.NOT_SENT: "the agent did not run",
    Outcome.REJECTED: "the agent did not run",
    Outcome.UNKNOWN: "the agent may have run: another call may run it twice",
    Outcome.STARTED: "the agent ran, and its end is unknown: another call runs it again",
    Outcome.COMPLETED: "the agent ran: another call runs it again",
}


def failure_result(failure: Failure, received: str = "", trace_id: str = "") -> types.CallToolResult:
    """Return the result of a failed call, with the text of the answer that was received before the failure."""
    message, received = _encodable(failure.message), _encodable(received)
    trace_id = trace_id or failure.trace_id
    lines = [f"Error: {message}", f"Outcome: {failure.outcome} ({_OUTCOMES[failure.outcome]})"]
    if trace_id:
        lines.append(f"Trace id: {trace_id}")
    if received:
        lines.append(f"Received before the error:\n{received}")
    return types.CallToolResult(
        content=[types.TextContent(text="\n".join(lines))],
        structured_content={
            "answer": received,
            "trace_id": trace_id,
            "outcome": str(failure.outcome),
            "error": {"code": failure.code, "message": message, "retryable": failure.retryable},
        },
        is_error=True,
    )


def error_document(failure: Failure) -> dict[str, Any]:
    """Return the JSON-RPC error of a request that is refused before it reaches the protocol."""
    data = {"code": failure.code, "outcome": str(failure.outcome)}
    return {"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": failure.message, "data": data}}


def _encodable(value: Any) -> Any:
    """Return a JSON value with `?` for each lone surrogate, which UTF-8 does not have."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
