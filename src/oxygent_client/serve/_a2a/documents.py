"""Build the agent card and the messages of A2A, and read the message of a client. Pure.

Rule 1: texts of the remote in a card or in a status are bounded, and have no hidden characters.
Rule 2: a lone surrogate, which a text of the protocol cannot have, becomes `?`.

Source: https://a2a-protocol.org/v1.0.0/specification/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    HTTPAuthSecurityScheme,
    Message,
    Part,
    SecurityRequirement,
    SecurityScheme,
    StringList,
)
from google.protobuf.json_format import MessageToDict

from oxygent_client import __version__
from oxygent_client.sanitize import strip_control_characters
from oxygent_client.serve import Failure, Refused, ServedAgent

TEXT: Final = "text/plain"
CONTEXT_LENGTH: Final = 200
"""Characters of a context's id."""
_DESCRIPTION: Final = 4096
_LINE: Final = 300
_SCHEME: Final = "bearer"


def line(text: str) -> str:
    """Return a text of the remote as one short line."""
    short = text if len(text) <= _LINE else f"{text[:_LINE]}..."
    return str(strip_control_characters(short.replace("\n", " ")))


def _description(text: str) -> str:
    return str(strip_control_characters(text[:_DESCRIPTION]))


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def agent_card(agents: Sequence[ServedAgent], url: str, *, needs_token: bool) -> AgentCard:
    """Return the card of a server: its first agent, and a skill for each agent."""
    first = agents[0]
    card = AgentCard(
        name=_encodable(first.name),
        description=_description(first.description) or f"The OxyGent agent {_encodable(first.name)}",
        version=__version__,
        supported_interfaces=[AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0")],
        capabilities=AgentCapabilities(streaming=True, push_notifications=False),
        default_input_modes=[TEXT],
        default_output_modes=[TEXT],
        skills=[
            AgentSkill(
                id=name,
                name=name,
                description=_description(agent.description) or f"The OxyGent agent {name}",
                tags=["oxygent"],
            )
            for agent in agents
            for name in (_encodable(agent.name),)
        ],
    )
    if needs_token:
        scheme = SecurityScheme(http_auth_security_scheme=HTTPAuthSecurityScheme(scheme=_SCHEME))
        card.security_schemes[_SCHEME].CopyFrom(scheme)
        card.security_requirements.append(SecurityRequirement(schemes={_SCHEME: StringList()}))
    return card


@attrs.frozen
class Question:
    """One question to an agent."""

    query: str
    agent: str = ""
    """The name of the agent; empty for the default."""


def question_of(message: Message) -> Question:
    """Read a message: its text is the query, and `agent` of its metadata selects an agent.

    Raises:
        Refused: it has something other than text, or an id that is too long.
    """
    if any(part.WhichOneof("content") != "text" for part in message.parts):
        raise Refused(400, "unsupported_value", "the parts of a message may be text only", param="message.parts")
    if len(message.context_id) > CONTEXT_LENGTH:
        raise Refused(400, "invalid_value", f"contextId may have at most {CONTEXT_LENGTH} characters")
    agent: Any = MessageToDict(message.metadata).get("agent", "")
    if not isinstance(agent, str):
        raise Refused(400, "invalid_value", "agent must be a string", param="message.metadata.agent")
    return Question("\n".join(part.text for part in message.parts), agent)


def text_parts(text: str) -> list[Part]:
    """Return the parts of an artifact or of a message with this text."""
    return [Part(text=_encodable(text), media_type=TEXT)]


def failure_metadata(failure: Failure) -> dict[str, Any]:
    """Return what the status of a failed task has beside its text."""
    return {
        "code": failure.code,
        "outcome": str(failure.outcome),
        "retryable": failure.retryable,
        "trace_id": failure.trace_id,
    }
