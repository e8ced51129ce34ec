"""A replica for storms: it answers runs, refuses some, and logs on disk which of them it began.

Rule 1: it is independent of the package, and runs in a process of its own, which may be killed at any time.
Rule 2: a run is logged before any response; the log outlives the process.
Rule 3: each run is refused by one of the replicas, chosen by its NUMBER.
Rule 4: on SIGTERM it stops listening and ends its runs; on SIGKILL it is gone.

Usage: python tests/support/cluster_server.py PORT LOG NUMBER; prints a line when it listens, and ends with its
standard input.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from contextlib import suppress
from typing import Final

HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"connection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n"
)
LAST: Final = b"0\r\n\r\n"
PIECES: Final = 3
SECONDS: Final = 0.005
"""Seconds between two chunks of a stream."""
REFUSED: Final = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n"
SILENT_SECONDS: Final = 0.02
"""Seconds between the beginning of a run and the headers."""
NOT_FOUND: Final = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"

STARTED: Final[list[int]] = []
"""The log's descriptor."""
REPLICAS: Final = 5
ENDING: Final = asyncio.Event()
BUSY: Final[set[asyncio.Task[None]]] = set()
"""Conversations in the middle of a run."""


def event(data: str, name: str = "message") -> bytes:
    """Return one event as a chunk."""
    framed = f"event: {name}\r\ndata: {data}\r\n\r\n".encode()
    return b"%x\r\n%b\r\n" % (len(framed), framed)


async def run(nonce: str, writer: asyncio.StreamWriter) -> None:
    """Log the run, and answer in chunks; a "quick" one is answered at once, and never refused."""
    quick = nonce.startswith("quick")
    if not quick and sum(nonce.encode()) % REPLICAS == int(sys.argv[3]):
        writer.write(REFUSED)
        await writer.drain()
        return
    os.write(STARTED[0], f"{nonce}\n".encode())
    if not quick:  # if killed now, it has run, and no response was sent
        await asyncio.sleep(SILENT_SECONDS)
    writer.write(HEAD)
    for number in range(0 if quick else PIECES):
        writer.write(event(json.dumps({"type": "think", "content": number})))
        await writer.drain()
        await asyncio.sleep(SECONDS)
    writer.write(event(json.dumps({"type": "answer", "content": nonce})) + event("done", "close") + LAST)
    await writer.drain()


async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client."""
    task = asyncio.current_task()
    assert task is not None
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        while not ENDING.is_set():
            head = await reader.readuntil(b"\r\n\r\n")
            BUSY.add(task)
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1])) if length else b""
            if head.startswith(b"POST /sse/chat "):
                await run(json.loads(body)["query"], writer)
            else:
                writer.write(NOT_FOUND)
                await writer.drain()
            BUSY.discard(task)
    BUSY.discard(task)
    writer.close()


async def serve(port: int, log: str) -> None:
    """Serve until SIGTERM, or until standard input is closed."""
    STARTED.append(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ENDING.set)
    loop.add_reader(sys.stdin.fileno(), ENDING.set)
    server = await asyncio.start_server(converse, "127.0.0.1", port, backlog=2048)
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    await ENDING.wait()
    server.close()
    await asyncio.gather(*BUSY, return_exceptions=True)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2]))
