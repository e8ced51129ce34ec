"""A server that sends endlessly: one flood for each path, as fast as the client reads.

Rule 1: it is independent of the package, and runs in a process of its own, so that only its bytes cost the client time.
Rule 2: a flood ends when the client closes, or is cut after `seconds`.

Usage: python tests/support/flood_server.py [--seconds 10]; prints its port, and ends with its standard input.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Final

PIECE: Final = 64 * 1024
HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n%b\r\n"
REFUSED: Final = HEAD.replace(b"200 OK", b"500 No")
EVENTS: Final = b"text/event-stream"
BOMB: Final = gzip.compress(b"data: " + bytes(64 * 1024 * 1024))
"""64 KiB of it become 64 MiB."""
GZIP: Final = b"content-encoding: gzip\r\n"
ANSWER: Final = b"data: %b\n\nevent: close\ndata: done\n\n" % json.dumps({"type": "answer", "content": "42"}).encode()


def filled(unit: bytes) -> bytes:
    """Return about a chunk of it."""
    return unit * (PIECE // len(unit))


FLOODS: Final[dict[str, tuple[bytes, bytes, bytes]]] = {
    # the path's first part: (the head, the first bytes, the repeated bytes)
    "line": (HEAD % (EVENTS, b""), b"data: ", b"x" * PIECE),
    "named-line": (HEAD % (EVENTS, b""), b"event: x\ndata: y\n\ndata: ", b"x" * PIECE),
    "event": (HEAD % (EVENTS, b""), b"", filled(b"data: " + b"x" * 1000 + b"\n")),
    "event-of-small-lines": (HEAD % (EVENTS, b""), b"", filled(b"data: x\n")),
    "event-of-empty-lines": (HEAD % (EVENTS, b""), b"", filled(b"data\n")),
    "comment": (HEAD % (EVENTS, b""), b": ", b"x" * PIECE),
    "comments": (HEAD % (EVENTS, b""), b"", filled(b": ping\n")),
    "unknown-field": (HEAD % (EVENTS, b""), b"what: ", b"x" * PIECE),
    "field-without-colon": (HEAD % (EVENTS, b""), b"", b"w" * PIECE),
    "blank-lines": (HEAD % (EVENTS, b""), b"", filled(b"\r\n")),
    "named-blank-lines": (HEAD % (EVENTS, b""), b"event: x\ndata: y\n\n", filled(b"\r\n")),
    "heartbeats": (HEAD % (EVENTS, b""), b"", filled(b": ping\r\n\r\n")),
    "events": (HEAD % (EVENTS, b""), b"", filled(b'data: {"type": "stream", "content": {"delta": "x"}}\n\n')),
    "json": (HEAD % (b"application/json", b""), b'{"data": "', b"x" * PIECE),
    "refusal": (REFUSED % (b"text/plain", b""), b"", b"x" * PIECE),
    "gzip-stream": (HEAD % (EVENTS, GZIP), b"", BOMB),
    "gzip-json": (HEAD % (b"application/json", GZIP), b"", BOMB),
    "gzip-short-json": (HEAD % (b"application/json", GZIP), BOMB, b""),
    "gzip-refusal": (REFUSED % (b"text/plain", GZIP), b"", BOMB),
    "answer": (HEAD % (EVENTS, b""), ANSWER, b""),
}


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def speak(client: socket.socket, seconds: float) -> None:
    """Read one request, and flood."""
    with client, suppress(OSError):
        asked = b""
        while b"\r\n\r\n" not in asked:
            asked += client.recv(PIECE) or b"\r\n\r\n"
        # Unread data resets a connection when it is closed.
        length = re.search(rb"content-length: (\d+)", asked, re.IGNORECASE)
        while length and len(asked.partition(b"\r\n\r\n")[2]) < int(length[1]):
            asked += client.recv(PIECE) or bytes(int(length[1]))
        head, first, again = FLOODS[asked.split(b"/", 2)[1].decode()]
        client.sendall(head + (chunk(first) if first else b""))
        if not again:
            client.sendall(b"0\r\n\r\n")
            return
        until = time.monotonic() + seconds
        piece = chunk(again)
        while time.monotonic() < until:
            client.sendall(piece)


def main() -> None:
    """Serve until standard input is closed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10.0)
    seconds = parser.parse_args().seconds
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=speak, args=(client, seconds), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
