"""A server on loopback that streams what the query of a request asks for; it runs in a process of its own.

The query is a JSON object: `events` in chunks of `per`, each with `size` characters of text; a chunk every `every`
seconds, once `wait` such streams are open, after the call of the agent itself if `root`; or `idle`: one event, then a
heartbeat every 15 seconds. `GET /open` responds with the number of streams that are idle or wait, any other GET with
the organization and the description of one agent.

Usage: python -m benchmarks.server (prints a port; it ends with its standard input)
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import resource
import sys
from typing import Any, Final

BLANK: Final = b"\r\n\r\n"
HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-store\r\n"
    b"connection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n"
)
HEARTBEAT: Final = b": ping - 2026-11-20 09:27:10.682690+00:00\r\n\r\n"
HEARTBEAT_SECONDS: Final = 15.0
AGENT: Final = json.dumps(
    {
        "code": 200,
        "message": "",
        "data": {"id_dict": {}, "organization": {"name": "master", "type": "agent"}, "description": ""},
    }
).encode()
WRITES: Final = 64
"""How many chunks are written before the event loop runs."""


ROOT: Final = {
    "type": "tool_call",
    "content": {
        "node_id": "xQ3kz7Wm2bHc9TpA",
        "caller": "user",
        "callee": "master",
        "caller_category": "user",
        "callee_category": "agent",
        "call_stack": ["user", "master"],
        "arguments": {"query": "..."},
    },
}
"""The call of the agent itself, with which a real run begins."""


def framed(number: int, message: object, name: str = "message") -> bytes:
    """An event as a real server frames it."""
    data = json.dumps(message).encode()
    return b"id: VQaQFdz2E9g3a%06d\r\nevent: %b\r\ndata: %b\r\nretry: 3000\r\n\r\n" % (number, name.encode(), data)


def delta(size: int) -> dict[str, Any]:
    """A piece of a text."""
    text = "a few words "[:size] if size <= 12 else "x" * size
    return {"type": "stream", "content": {"delta": text, "agent": "master", "node_id": "xQ3kz7Wm2bHc9TpA"}}


@functools.lru_cache(maxsize=4)
def chunks(events: int, per: int = 1, size: int = 12) -> list[bytes]:
    """The stream of a run with so many pieces of a text, in chunks of `per` events."""
    message = delta(size)
    body = [
        b"".join(framed(number, message) for number in range(start, min(start + per, events)))
        for start in range(0, events, per)
    ]
    return [*body, framed(events, {"type": "answer", "content": "42"}), framed(events + 1, "done", "close")]


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Server:
    """The connections of one process."""

    def __init__(self) -> None:
        self.waiting = 0
        self.started = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while True:
                head = await reader.readuntil(BLANK)
                if head.startswith(b"GET"):
                    body = b"%d" % self.waiting if head.startswith(b"GET /open") else AGENT
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                    continue
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
                body = await reader.readexactly(int(fields[b"content-length"]))
                await self._respond(json.loads(json.loads(body)["query"]), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, RuntimeError):  # uvloop's, of a connection that is closed
            writer.close()

    async def _respond(
        self, wanted: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(HEAD)
        if wanted.get("idle"):
            await self._idle(reader, writer)
        elif "every" in wanted:
            await self._paced(writer, **wanted)
        else:
            for number, piece in enumerate(chunks(**wanted)):
                writer.write(chunk(piece))
                if number % WRITES == 0 or len(piece) > 2**16:
                    await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _idle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(chunk(framed(0, delta(12))))
        self.waiting += 1
        left = asyncio.ensure_future(reader.read(1))
        while not left.done():
            await asyncio.wait([left], timeout=HEARTBEAT_SECONDS)
            if not left.done():
                writer.write(chunk(HEARTBEAT))
        self.waiting -= 1
        left.exception()  # the client left, one way or the other
        raise ConnectionError

    async def _paced(
        self, writer: asyncio.StreamWriter, *, events: int, every: float, wait: int, root: bool = False
    ) -> None:
        if root:
            writer.write(chunk(framed(0, ROOT)))
        self.waiting += 1
        started = self.started
        if self.waiting == wait:  # the next ones wait for each other again
            self.started = asyncio.Event()
            started.set()
        await started.wait()
        loop = asyncio.get_running_loop()
        due = loop.time() + 1.0
        await asyncio.sleep(0.5)  # the client notes its time meanwhile
        self.waiting -= 1
        for piece in [*([chunk(framed(1, delta(12)))] * events), *(chunk(each) for each in chunks(0))]:
            await asyncio.sleep(max(0, due - loop.time()))
            writer.write(piece)
            due += every


async def serve() -> None:
    """Print a port and serve until standard input ends."""
    server = await asyncio.start_server(Server().serve, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)  # the connections of clients that were stopped


def raise_file_limit() -> int:
    """Allow as many open files as the machine does."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def main() -> None:
    """Serve."""
    raise_file_limit()
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve())
    else:
        uvloop.run(serve())


if __name__ == "__main__":
    main()
