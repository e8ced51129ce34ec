"""Read requests of OpenAI's API: which agent, which query, which history.

Rule 1: a request for something that an agent cannot do is refused, with the name of its member: other tools than the
    agent's own, several choices, a format of the answer. Members that only tune a model (`temperature`, `max_tokens`,
    `seed`, ...) are ignored.
Rule 2: the last message of the user is the query, and the messages before it are the memory of the run. Where the
    previous response is named, the memory is the remote's own, and only the query is sent.

Source: https://platform.openai.com/docs/api-reference (chat, responses)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import attrs

from oxygent_client.serve import ROLES, Refused

CHAT_ID: Final = "chatcmpl-"
RESPONSE_ID: Final = "resp_"
"""An id is this, and the remote's trace id."""
PREVIOUS: Final = "x-previous-response-id"
"""The header by which a chat completion names the previous one."""
_TRACE_CHARACTERS: Final = 200


@attrs.frozen(kw_only=True)
class Question:
    """One question to an agent."""

    model: str
    query: str
    history: tuple[Mapping[str, str], ...] = ()
    """The messages before the query, as the memory of the framework has them."""
    previous: str = ""
    """The remote's trace id of the previous response."""
    is_streamed: bool = False
    has_usage: bool = False
    """Whether the stream has a last chunk for the usage."""
    instructions: str = ""
    previous_id: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the run beside the query."""
        return {"short_memory": [dict(message) for message in self.history]} if self.history else {}


def _refuse(param: str, text: str, code: str = "invalid_value") -> Refused:
    return Refused(400, code, text, param=param)


def _unsupported(param: str) -> Refused:
    return _refuse(param, f"{param} is not supported: the agent has tools and formats of its own", "unsupported_value")


_PLAIN: Final = (None, {"type": "text"})
_CHAT_ONLY: Final[Mapping[str, Sequence[Any]]] = {
    # member: the values that an agent can honour
    "n": (None, 1),
    "tools": (None, []),
    "functions": (None, []),
    "response_format": _PLAIN,
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
}
_RESPONSES_ONLY: Final[Mapping[str, Sequence[Any]]] = {
    "tools": (None, []),
    "text": (None, {}, {"format": {"type": "text"}}),
    "background": (None, False),
    "conversation": (None,),
    "prompt": (None,),
}


def _check(document: Mapping[str, Any], honoured: Mapping[str, Sequence[Any]]) -> None:
    for name, values in honoured.items():
        if document.get(name) not in values:
            raise _unsupported(name)


def _text_member(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _refuse(name, f"{name} must be a string")
    return value


def _flag(document: Mapping[str, Any], name: str) -> bool:
    value = document.get(name)
    if not isinstance(value, bool | None):
        raise _refuse(name, f"{name} must be a boolean")
    return bool(value)


_TEXTS: Final = frozenset({"text", "input_text", "output_text"})


def _content(content: Any, param: str) -> str:
    """The text of a message's content: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _refuse(param, f"{param} must be a string or a list of parts")
    texts: list[str] = []
    for part in cast("list[Any]", content):
        kind = cast("dict[str, Any]", part).get("type") if isinstance(part, dict) else None
        text = cast("dict[str, Any]", part).get("text") if isinstance(part, dict) else None
        if kind not in _TEXTS or not isinstance(text, str):
            raise _refuse(param, f"{param} may have parts of text only", "unsupported_value")
        texts.append(text)
    return "".join(texts)


def _messages(messages: Any, param: str) -> list[dict[str, str]]:
    if not isinstance(messages, list) or not messages:
        raise _refuse(param, f"{param} must be a list with at least one message")
    found: list[dict[str, str]] = []
    for number, message in enumerate(cast("list[Any]", messages)):
        place = f"{param}[{number}]"
        fields = cast("dict[str, Any]", message) if isinstance(message, dict) else {}
        if fields.get("type") == "reasoning":  # of a response of ours, sent back
            continue
        role = ROLES.get(str(fields.get("role")))
        if role is None or fields.get("type", "message") != "message":
            raise _refuse(f"{place}.role", f"{place}.role must be one of {', '.join(ROLES)}")
        found.append({"role": role, "content": _content(fields.get("content"), f"{place}.content")})
    if not found or found[-1]["role"] != "user":
        raise _refuse(param, f"the last of {param} must be a message of the user")
    return found


def _trace_id(given: str, param: str) -> str:
    """The trace id in the id of a response of ours; empty without an id."""
    if not given:
        return ""
    for prefix in (CHAT_ID, RESPONSE_ID):
        trace_id = given.removeprefix(prefix)
        if trace_id not in (given, "") and trace_id.isprintable() and len(trace_id) <= _TRACE_CHARACTERS:
            return trace_id
    raise Refused(404, "previous_response_not_found", "the previous response is unknown", param=param)


def _question(messages: list[dict[str, str]], previous: str) -> dict[str, Any]:
    """The query and the history."""
    *history, last = messages
    if not previous:
        return {"query": last["content"], "history": tuple(history)}
    instructions = [message["content"] for message in history if message["role"] == "system"]
    return {"query": "\n\n".join([*instructions, last["content"]]), "previous": previous}


def _model(document: Mapping[str, Any]) -> str:
    model = document.get("model")
    if not isinstance(model, str) or not model:
        raise _refuse("model", "model must be the name of an agent: see /v1/models")
    return model


def chat_question(document: Mapping[str, Any], headers: Mapping[str, str]) -> Question:
    """Read the body of `/v1/chat/completions`.

    Raises:
        Refused: it is invalid, or asks for something that an agent cannot do.
    """
    _check(document, _CHAT_ONLY)
    options = document.get("stream_options")
    usage = cast("dict[str, Any]", options).get("include_usage") if isinstance(options, dict) else None
    previous = headers.get(PREVIOUS, "")
    return Question(
        model=_model(document),
        is_streamed=_flag(document, "stream"),
        has_usage=usage is True,
        **_question(_messages(document.get("messages"), "messages"), _trace_id(previous, PREVIOUS)),
    )


def response_question(document: Mapping[str, Any]) -> Question:
    """Read the body of `/v1/responses`.

    Raises:
        Refused: it is invalid, or asks for something that an agent cannot do.
    """
    _check(document, _RESPONSES_ONLY)
    given = document.get("input")
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else _messages(given, "input")
    instructions = _text_member(document, "instructions")
    if instructions:
        messages.insert(0, {"role": "system", "content": instructions})
    previous = _text_member(document, "previous_response_id")
    return Question(
        model=_model(document),
        is_streamed=_flag(document, "stream"),
        instructions=instructions,
        previous_id=previous,
        **_question(messages, _trace_id(previous, "previous_response_id")),
    )
