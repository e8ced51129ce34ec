"""Texts for clients: of an answer, and of a call inside the remote. Pure."""

from __future__ import annotations

import json
from typing import Any

from oxygent_client import Event, ToolCall


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
