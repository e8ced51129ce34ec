"""A scripted language model with OpenAI's API: a tool call of a ReAct agent as JSON, then the answer.

It streams chunks of four characters, on its own port, in a thread.
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["ANSWER", "TOOL_CALL", "served_model"]

ANSWER: Final = "The sum is forty-two."
TOOL_CALL: Final = {"think": "I need to add", "tool_name": "add_tool", "arguments": {"a": 40, "b": 2}}


class _Model(BaseHTTPRequestHandler):
    """Answers one request after another."""

    def do_POST(self) -> None:
        """Call the tool; when its result is among the messages, answer."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        has_result = "Tool [add_tool]" in json.dumps(body["messages"])
        text = ANSWER if has_result else json.dumps(TOOL_CALL)
        if body.get("stream"):
            self._stream([text[start : start + 4] for start in range(0, len(text), 4)])
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            self._send("application/json", json.dumps(_chunk("chat.completion", choice)).encode())

    def _stream(self, pieces: list[str]) -> None:
        choices: list[dict[str, Any]] = [
            {"index": 0, "delta": {"role": "assistant", "content": piece}, "finish_reason": None} for piece in pieces
        ]
        choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
        events = [json.dumps(_chunk("chat.completion.chunk", choice)) for choice in choices]
        self._send("text/event-stream", "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode())

    def _send(self, kind: str, data: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


def _chunk(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {"id": "x", "object": kind, "created": 0, "model": "none", "choices": [choice]}


@contextmanager
def served_model() -> Generator[str]:
    """Serve, and yield the base URL of the model."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Model) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
        thread.join()
