"""Texts for clients: of an answer, and of a call inside the remote; the roles of their messages. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from oxygent_client import Event, ToolCall

ROLES: Final[Mapping[str, str]] = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
"""The roles of a client's messages, and those of the agent's memory."""


def text_of(output: Any) -> str:
    """Return the text of an answer: a str unchanged, anything else as JSON."""
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)


def call_of(event: Event) -> str:
    """Return a line about a call inside the remote; empty for other events, and for the call that is the run itself."""
    if not isinstance(event, ToolCall) or event.caller_category == "user":
        return ""
    arguments = event.arguments
    shown = arguments.get("query") if [*arguments] == ["query"] else arguments
    return f"{event.caller} calls {event.callee}{f': {text_of(shown)}' if shown else ''}"
