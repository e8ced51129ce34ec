"""Build the documents of OpenAI's API: chat completions, responses, models, errors. Pure.

Rule 1: the usage is null: a remote does not report how many tokens its models used.
Rule 2: an id holds the remote's trace id, by which the next request continues the conversation.

Source: https://platform.openai.com/docs/api-reference (chat, responses, models)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import attrs

from oxygent_client import Event, Thought
from oxygent_client.serve import Failure, ServedAgent, call_of
from oxygent_client.serve._openai.requests import CHAT_ID, RESPONSE_ID, Question


def reasoning_of(event: Event) -> str:
    """Return the line of a thought or of a call inside the remote; empty for other events."""
    text = event.text if isinstance(event, Thought) else call_of(event)
    return f"{text}\n" if text else ""


_ENCODE: Final = json.JSONEncoder(ensure_ascii=False).encode
_MARK: Final = "\0"
_TYPES: Final = ((401, "authentication_error"), (429, "rate_limit_error"), (500, "server_error"))


def error_document(failure: Failure) -> dict[str, Any]:
    """Return the document of an error, with the outcome and the trace id beside OpenAI's members."""
    kind = dict(_TYPES).get(failure.status, "server_error" if failure.status >= 500 else "invalid_request_error")
    error = {
        "message": failure.message,
        "type": "server_error" if failure.status == 424 else kind,
        "param": failure.param or None,
        "code": failure.code,
        "outcome": str(failure.outcome),
        "trace_id": failure.trace_id or None,
    }
    return {"error": error}


def model_document(agent: ServedAgent) -> dict[str, Any]:
    """Return the document of a model: an agent."""
    return {
        "id": agent.name,
        "object": "model",
        "created": 0,
        "owned_by": "oxygent",
        "description": agent.description,
    }


@attrs.frozen
class ChatDocuments:
    """The documents of one chat completion."""

    question: Question
    trace_id: str
    created: int

    @property
    def _head(self) -> dict[str, Any]:
        return {"id": f"{CHAT_ID}{self.trace_id}", "created": self.created, "model": self.question.model}

    def whole(self, text: str, reasoning: str) -> dict[str, Any]:
        """Return the completion as a whole."""
        message = {"role": "assistant", "content": text, "refusal": None}
        if reasoning:
            message["reasoning_content"] = reasoning
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": None}

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        """Return one chunk of the stream."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], "usage": None}

    def frame(self, name: str) -> Callable[[str], str]:
        """Return a function that encodes the chunk with this member of the delta: only its text differs each time."""
        before, _, after = _ENCODE(self.chunk({name: _MARK})).rpartition(_ENCODE(_MARK))

        def encode(text: str) -> str:
            return f"{before}{_ENCODE(text)}{after}"

        return encode

    def usage(self) -> dict[str, Any]:
        """Return the last chunk of a request with `include_usage`."""
        return {**self.chunk({}), "choices": []}


@attrs.define
class ResponseDocuments:
    """The documents of one response, and the events of its stream, each numbered."""

    question: Question
    trace_id: str
    created: int
    _number: int = attrs.field(default=-1, init=False)
    _items: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]], init=False)
    """The complete items of the output."""
    _thoughts: list[str] = attrs.field(factory=list[str], init=False)
    _texts: list[str] = attrs.field(factory=list[str], init=False)

    def response(self, status: str, items: Sequence[Any] = (), error: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the response."""
        question = self.question
        return {
            "id": f"{RESPONSE_ID}{self.trace_id}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": None,
            "instructions": question.instructions or None,
            "max_output_tokens": None,
            "metadata": {},
            "model": question.model,
            "output": [*items],
            "parallel_tool_calls": True,
            "previous_response_id": question.previous_id or None,
            "reasoning": {"effort": None, "summary": None},
            "store": True,
            "temperature": None,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
            "truncation": "disabled",
            "usage": None,
        }

    def whole(self, text: str, reasoning: str) -> dict[str, Any]:
        """Return the response as a whole."""
        thoughts = [self._reasoning(reasoning, "completed")] if reasoning else []
        return self.response("completed", [*thoughts, self._message([self._part(text)], "completed")])

    def _message(self, parts: list[Any], status: str) -> dict[str, Any]:
        return {
            "id": f"msg_{self.trace_id}",
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": parts,
        }

    def _reasoning(self, text: str, status: str) -> dict[str, Any]:
        summary = [{"type": "summary_text", "text": text}] if text else []
        return {"id": f"rs_{self.trace_id}", "type": "reasoning", "summary": summary, "status": status}

    @staticmethod
    def _part(text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    # --- the events of a stream ---

    def _event(self, kind: str, **members: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number, **members}

    def begin(self) -> Iterator[dict[str, Any]]:
        """Return the events at the beginning."""
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, response=self.response("in_progress"))

    def piece(self, kind: str, text: str) -> Iterator[dict[str, Any]]:
        """Return the events of a piece of the `reasoning`, or of the `text`."""
        if kind == "reasoning":
            if not self._thoughts:
                yield from self._begin_reasoning()
            self._thoughts.append(text)
            yield self._event("response.reasoning_summary_text.delta", **self._summary_place, delta=text)
        else:
            if not self._texts:
                yield from self._end_reasoning()
                yield from self._begin_text()
            self._texts.append(text)
            yield self._event("response.output_text.delta", **self._text_place, delta=text, logprobs=[])

    def end(self) -> Iterator[dict[str, Any]]:
        """Return the events at the end of the text and of the response."""
        text = "".join(self._texts)
        part = self._part(text)
        item = self._message([part], "completed")
        yield self._event("response.output_text.done", **self._text_place, text=text, logprobs=[])
        yield self._event("response.content_part.done", **self._text_place, part=part)
        yield self._event("response.output_item.done", **self._place, item=item)
        self._items.append(item)
        yield self._event("response.completed", response=self.response("completed", self._items))

    def failed(self, failure: Failure) -> Iterator[dict[str, Any]]:
        """Return the events of a failure: OpenAI's own, and one that makes its clients raise an error."""
        error = {"code": "server_error", "message": failure.message}
        yield self._event("response.failed", response=self.response("failed", self._items, error))
        yield self._event("error", **error_document(failure), message=failure.message, code=failure.code, param=None)

    @property
    def _place(self) -> dict[str, Any]:
        return {"output_index": len(self._items)}

    @property
    def _summary_place(self) -> dict[str, Any]:
        return {"item_id": f"rs_{self.trace_id}", **self._place, "summary_index": 0}

    @property
    def _text_place(self) -> dict[str, Any]:
        return {"item_id": f"msg_{self.trace_id}", **self._place, "content_index": 0}

    def _begin_reasoning(self) -> Iterator[dict[str, Any]]:
        part = {"type": "summary_text", "text": ""}
        yield self._event("response.output_item.added", **self._place, item=self._reasoning("", "in_progress"))
        yield self._event("response.reasoning_summary_part.added", **self._summary_place, part=part)

    def _end_reasoning(self) -> Iterator[dict[str, Any]]:
        if self._thoughts:
            text = "".join(self._thoughts)
            part, item = {"type": "summary_text", "text": text}, self._reasoning(text, "completed")
            yield self._event("response.reasoning_summary_text.done", **self._summary_place, text=text)
            yield self._event("response.reasoning_summary_part.done", **self._summary_place, part=part)
            yield self._event("response.output_item.done", **self._place, item=item)
            self._items.append(item)

    def _begin_text(self) -> Iterator[dict[str, Any]]:
        yield self._event("response.output_item.added", **self._place, item=self._message([], "in_progress"))
        yield self._event("response.content_part.added", **self._text_place, part=self._part(""))
