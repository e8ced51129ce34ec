"""A scripted language model with OpenAI's API: a tool call of a ReAct agent as JSON, then the answer.

It streams chunks of four characters, on its own port, in a thread. The last chunk of an answer waits for a gate that a
test may close.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Generator

ANSWER: Final = "The sum is forty-two."
TOOL_CALL: Final = {"think": "I need to add", "tool_name": "add_tool", "arguments": {"a": 40, "b": 2}}
PREFACE: Final = "Let me add the two numbers."
SCRIPTS: Final[dict[str, tuple[str, str]]] = {
    # the first word of the query: (what the model writes first, and once it has the tool's result)
    "preface": (f"{PREFACE}\n{json.dumps(TOOL_CALL)}", ANSWER),
    "json": ('{"sum": 42}', ""),
    "reasoning": (
        f"<think>hm</think>\n{json.dumps(TOOL_CALL)}",
        f"<think>I have {{it}}</think>\n\n{ANSWER}",
    ),
    "verse": ("Roses are red, violets are blue.", ""),
    "review": ("It rhymes, and it does not scan.", ""),
    "summary": ("The critic is right.", ""),
    "recall": ("First you said: {first}", ""),
}
GATE_SECONDS: Final = 30.0


class _Model(BaseHTTPRequestHandler):
    """Answers one request after another."""

    def do_POST(self) -> None:
        """Write what the script of the query has: by default a tool call, and the answer once its result is there."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        has_result = "Tool [add_tool]" in json.dumps(body["messages"])
        asked = [each["content"].partition(" ")[0] for each in body["messages"] if each["role"] == "user"]
        script = next((SCRIPTS[word] for word in reversed(asked) if word in SCRIPTS), (json.dumps(TOOL_CALL), ANSWER))
        first = next(each["content"] for each in body["messages"] if each["role"] == "user")
        text = script[has_result].replace("{first}", first)
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
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        gate, is_answer = cast("_Server", self.server).gate, "".join(pieces).endswith(ANSWER)
        for number, event in enumerate([*events, "[DONE]"]):
            if gate is not None and is_answer and number == len(pieces) - 1:
                gate.wait(GATE_SECONDS)
            self.wfile.write(f"data: {event}\n\n".encode())
            self.wfile.flush()
            time.sleep(0.005)  # models that write at the same time take turns

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


class _Server(ThreadingHTTPServer):
    """The model's server."""

    gate: threading.Event | None


@contextmanager
def served_model(gate: threading.Event | None = None) -> Generator[str]:
    """Serve, and yield the base URL of the model. While `gate` is not set, answers lack their last chunk."""
    with _Server(("127.0.0.1", 0), _Model) as server:
        server.gate = gate
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
        thread.join()
