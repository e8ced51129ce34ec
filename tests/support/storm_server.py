"""A server for storms: runs that are quick, slow, endless, refused or cut, and a log of their states.

Rule 1: it is independent of the package, and runs in a process of its own.
Rule 2: the last word of a query selects its run (RUNS); two words return the log (REPORTS).
Rule 3: it reads while it sends, so that a run stops when its client closes, and is logged.

Usage: python tests/support/storm_server.py [--heartbeat 1]; prints its port, and ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import dataclasses
import json
import re
import resource
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias

OK: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"connection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n"
)
REFUSED: Final = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4\r\n\r\nbusy"
NOT_FOUND: Final = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
LAST: Final = b"0\r\n\r\n"
HEARTBEAT: Final = b": ping - 2026-11-20 09:27:10.682690+00:00\r\n\r\n"
CLOSE: Final = b"id: 9\r\nevent: close\r\ndata: done\r\nretry: 3000\r\n\r\n"

Say: TypeAlias = Callable[[bytes], Awaitable[None]]


OPTIONS: Final = argparse.Namespace()
"""The command line."""


class BrokenOff(Exception):
    """The run is cut here, in the middle of its stream."""


@dataclasses.dataclass
class Fate:
    """The requests and the runs of one query."""

    asked: int = 0
    refused: int = 0
    started: int = 0
    finished: int = 0
    broken: int = 0
    stopped: int = 0
    """The client closed."""


LOG: Final[dict[str, Fate]] = collections.defaultdict(Fate)


def word_of(query: str) -> str:
    """Return its last word."""
    return query.rsplit(maxsplit=1)[-1]


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(message: dict[str, Any]) -> bytes:
    """Return one event as a chunk."""
    return chunk(b"id: 1\r\nevent: message\r\ndata: %b\r\nretry: 3000\r\n\r\n" % json.dumps(message).encode())


def answer(content: object) -> bytes:
    """Return the answer and the end of the stream."""
    return event({"type": "answer", "content": content}) + chunk(CLOSE) + LAST


def delta(text: str) -> bytes:
    """Return a text delta."""
    return event({"type": "stream", "content": {"delta": text, "agent": "master", "node_id": "n"}})


async def quick(query: str, say: Say) -> None:
    """Answer at once."""
    await say(OK + answer(query))


async def slow(query: str, say: Say) -> None:
    """Answer after a tenth of a second, with events meanwhile."""
    await say(OK)
    for number in range(5):
        await say(delta(f"{number} "))
        await asyncio.sleep(0.02)
    await say(answer(query))


async def late(query: str, say: Say) -> None:
    """Wait before the head."""
    await asyncio.sleep(0.15)
    await quick(query, say)


async def endless(query: str, say: Say) -> None:
    """Send an event, and endless heartbeats."""
    await say(OK + delta(query))
    while True:
        await asyncio.sleep(OPTIONS.heartbeat)
        await say(chunk(HEARTBEAT))


async def cut(query: str, say: Say) -> None:
    """Send two events, and reset the connection in the middle of the third."""
    await say(OK + delta(query) + delta(query) + delta(query)[:20])
    await asyncio.sleep(0.02)
    raise BrokenOff


RUNS: Final = {"quick": quick, "slow": slow, "late": late, "endless": endless, "cut": cut, "busy": quick}
REFUSALS: Final = {"busy": 1, "refused": 1_000_000}
"""The number of refusals of a query before it is accepted."""


def census() -> dict[str, int]:
    """Return the sums of the log."""
    sums: collections.Counter[str] = collections.Counter()
    for fate in LOG.values():
        sums.update(dataclasses.asdict(fate))
    return {**sums, "running": sums["started"] - sums["finished"] - sums["broken"] - sums["stopped"]}


REPORTS: Final[dict[str, Callable[[], object]]] = {
    "census": census,
    "log": lambda: {query: dataclasses.asdict(fate) for query, fate in LOG.items()},
}


async def asked(reader: asyncio.StreamReader, begun: bytes) -> tuple[str, bytes]:
    """Return the next request, of which `begun` has been read: its first line and its body."""
    head = begun + await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    body = await reader.readexactly(int(length[1])) if length else b""
    return head.partition(b"\r\n")[0].decode(), body


async def run(query: str, say: Say, reader: asyncio.StreamReader) -> bytes:
    """Run it while the client is connected; return what was read of the next request."""
    fate = LOG[query]
    fate.started += 1
    speaking = asyncio.ensure_future(RUNS[word_of(query)](query, say))
    listening = asyncio.ensure_future(reader.read(1))
    await asyncio.wait({speaking, listening}, return_when=asyncio.FIRST_COMPLETED)
    # A client that asks again has the answer: the run is at its end, though its task may not know yet.
    begun = listening.result() if listening.done() and listening.exception() is None else b""
    if begun:
        await speaking
    for task in (speaking, listening):
        task.cancel()
    ends = await asyncio.gather(speaking, listening, return_exceptions=True)
    if isinstance(ends[0], BrokenOff):
        fate.broken += 1
        raise ends[0]
    if ends[0] is not None:
        fate.stopped += 1
        raise ConnectionResetError
    fate.finished += 1
    return begun


async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client."""

    async def say(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    begun = b""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            line, body = await asked(reader, begun)
            begun = b""
            if not line.startswith("POST /sse/chat "):
                await say(NOT_FOUND)
                continue
            query: str = json.loads(body)["query"]
            word = word_of(query)
            if word in REPORTS:
                await say(OK + answer(REPORTS[word]()))
                continue
            fate = LOG[query]
            fate.asked += 1
            if fate.refused < REFUSALS.get(word, 0):
                fate.refused += 1
                await say(REFUSED)
                continue
            try:
                begun = await run(query, say, reader)
            except BrokenOff:
                if not writer.is_closing():  # the client may have closed at this moment
                    raw = writer.get_extra_info("socket")
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                break
    writer.close()


async def serve() -> None:
    """Serve until standard input is closed."""
    server = await asyncio.start_server(converse, "127.0.0.1", 0, backlog=2048)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def main() -> None:
    """Read the command line, and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--heartbeat", type=float, default=1.0)
    parser.parse_args(namespace=OPTIONS)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(serve())


if __name__ == "__main__":
    main()
