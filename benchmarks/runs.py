"""CPU time per event and per call, beside the least that a program on the same HTTP library can do.

A server in a process of its own sends events over loopback; each client reads them. "bare" reads chunks, splits them at
blank lines and calls `json.loads`: no time-outs, no limits, no typed events. Each figure is CPU time of the client
process, the median of interleaved rounds; in brackets how many times as much as the bare loop of the same library took.

What rests on it: events that are decoded already are handed out without waiting, a run has one timer instead of a
cancel scope per read, and messages are copied only for code that can change them.

    client                   1 per chunk, us      50 per chunk, us            a call, us
    bare httpx                 62.3 ( 1.00x)         26.5 ( 1.00x)       2523.7 ( 1.00x)
    ours, httpx               119.3 ( 1.91x)         33.8 ( 1.28x)       6747.1 ( 2.67x)
      idle=30                  97.4 ( 1.56x)         35.5 ( 1.34x)       6428.5 ( 2.55x)
      a handler               150.6 ( 2.42x)         41.1 ( 1.55x)       5828.2 ( 2.31x)
      send_message            111.1 ( 1.78x)         49.1 ( 1.85x)       7065.6 ( 2.80x)
    bare aiohttp               12.2 ( 1.00x)          9.8 ( 1.00x)        629.6 ( 1.00x)
    ours, aiohttp              31.6 ( 2.58x)         29.6 ( 3.01x)       3684.7 ( 5.85x)
      idle=30                  30.1 ( 2.46x)         26.3 ( 2.67x)       3340.5 ( 5.31x)
      a handler                50.3 ( 4.11x)         40.2 ( 4.09x)       3518.3 ( 5.59x)
      send_message             52.7 ( 4.31x)         36.6 ( 3.73x)       5002.0 ( 7.94x)

(2026-11-28, after c38e0c6, CPython 3.11.7, 2 cores with much other work on them, `--events 3000 --calls 50`; ratios
differ by 15 % from one time to the next. Before the state of a run had one timer, "ours, httpx" took 2.95x and 2.55x,
with idle=30 10.2x and 3.1x; "ours, aiohttp" 3.5x and 4.2x; and a call 2.6x and 8.9x.)

Usage: python benchmarks/runs.py [--rounds 3] [--events 20000] [--calls 300]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx

from oxygent_client import OxyRequest, SSEOxyGent, Timeouts
from oxygent_client.transports.aiohttp import AiohttpTransport
from oxygent_client.transports.httpx import HTTPXTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Client = Callable[[str, str, int], Coroutine[Any, Any, int]]

SEPARATOR = b"\r\n\r\n"
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-store\r\n"
    b"connection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n"
)
WRITES = 64
"""How many chunks the server writes before it lets its event loop run."""


# --- the server -------------------------------------------------------------------------------------------------------


def framed(number: int, message: object, name: str = "message") -> bytes:
    """One event as a real server frames it."""
    return b"id: VQaQFdz2E9g3a%06d\r\nevent: %b\r\ndata: %b\r\nretry: 3000\r\n\r\n" % (
        number,
        name.encode(),
        json.dumps(message).encode(),
    )


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection: the query of a request is `EVENTS PER_CHUNK`."""
    while True:
        try:
            head = await reader.readuntil(SEPARATOR)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        body = json.loads(await reader.readexactly(int(fields[b"content-length"])))
        events, per_chunk = map(int, body["query"].split())
        writer.write(HEAD)
        delta = {
            "type": "stream",
            "content": {"delta": "a few words ", "agent": "master", "node_id": "xQ3kz7Wm2bHc9TpA"},
        }
        for start in range(0, events, per_chunk):
            writer.write(chunk(b"".join(framed(start + each, delta) for each in range(per_chunk))))
            if start // per_chunk % WRITES == 0:
                await writer.drain()
        writer.write(chunk(framed(events, {"type": "answer", "content": "42"})))
        writer.write(chunk(framed(events + 1, "done", "close")) + b"0\r\n\r\n")
        await writer.drain()


async def serve() -> None:
    """Print a port and serve until standard input ends."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


# --- the clients ------------------------------------------------------------------------------------------------------


def split(rest: bytes, piece: bytes) -> tuple[list[Any], bytes]:
    """The messages that `piece` completes, and what is left of it."""
    *blocks, rest = (rest + piece).split(SEPARATOR)
    found: list[Any] = []
    for block in blocks:
        data = block[block.index(b"data: ") + 6 :]
        found.append(json.loads(data[: data.index(b"\r\n")]))
    return found, rest


async def bare_httpx(url: str, query: str, calls: int) -> int:
    """Read streams by httpx alone."""
    count = 0
    async with httpx.AsyncClient(timeout=None, trust_env=False) as client:
        for _ in range(calls):
            async with client.stream("POST", f"{url}/sse/chat", json={"query": query}) as response:
                rest = b""
                async for piece in response.aiter_raw():
                    found, rest = split(rest, piece)
                    count += len(found)
    return count


async def bare_aiohttp(url: str, query: str, calls: int) -> int:
    """Read streams by aiohttp alone."""
    count = 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(None)) as session:
        for _ in range(calls):
            async with session.post(f"{url}/sse/chat", json={"query": query}) as response:
                rest = b""
                async for piece in response.content.iter_any():
                    found, rest = split(rest, piece)
                    count += len(found)
    return count


def ours(transport: Callable[[], Any], timeouts: Timeouts = Timeouts(), *, heard: str = "") -> Client:
    """An agent of this package; `heard` names who listens, if anybody does."""

    async def client(url: str, query: str, calls: int) -> int:
        count = 0
        moves = transport()

        async def handler(content: Any) -> None:
            """Take an event."""

        handlers = {"stream": handler} if heard == "handler" else {}
        agent = SSEOxyGent(server_url=url, transport=moves, timeouts=timeouts, event_handlers=handlers)
        for _ in range(calls):
            request = OxyRequest(arguments={"query": query})
            if heard == "send_message":
                vars(request)["send_message"] = handler
            async with agent.stream(request) as run:
                async for _event in run:
                    count += 1
        await moves.aclose()
        return count + calls  # the close event is none of ours

    return client


CLIENTS: dict[str, tuple[str, Client]] = {
    "bare httpx": ("bare httpx", bare_httpx),
    "ours, httpx": ("bare httpx", ours(HTTPXTransport)),
    "  idle=30": ("bare httpx", ours(HTTPXTransport, Timeouts(idle=30))),
    "  a handler": ("bare httpx", ours(HTTPXTransport, heard="handler")),
    "  send_message": ("bare httpx", ours(HTTPXTransport, heard="send_message")),
    "bare aiohttp": ("bare aiohttp", bare_aiohttp),
    "ours, aiohttp": ("bare aiohttp", ours(AiohttpTransport)),
    "  idle=30 ": ("bare aiohttp", ours(AiohttpTransport, Timeouts(idle=30))),
    "  a handler ": ("bare aiohttp", ours(AiohttpTransport, heard="handler")),
    "  send_message ": ("bare aiohttp", ours(AiohttpTransport, heard="send_message")),
}


def micros(client: Client, url: str, query: str, calls: int, per: int) -> float:
    """CPU microseconds of this process."""
    start = time.process_time()
    count = asyncio.run(client(url, query, calls))
    taken = time.process_time() - start
    expected = calls * (int(query.split(maxsplit=1)[0]) + 2)
    if count != expected:
        raise SystemExit(f"{count} events instead of {expected}")
    return taken / per * 1e6


def measure(url: str, rounds: int, events: int, calls: int) -> None:
    """Print the table."""
    columns = {
        "1 per chunk, us": (f"{events} 1", 1, events),
        "50 per chunk, us": (f"{events} 50", 1, events),
        "a call, us": ("2 1", calls, calls),
    }
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for column, (query, repeat, per) in columns.items():
            for name, (_, client) in CLIENTS.items():
                times.setdefault((name, column), []).append(micros(client, url, query, repeat, per))
    print(f"{'client':18}" + "".join(f"{column:>22}" for column in columns))
    for name, (base, _) in CLIENTS.items():
        cells: list[str] = []
        for column in columns:
            own, least = (statistics.median(times[each, column]) for each in (name, base))
            cells.append(f"{own:12.1f} ({own / least:5.2f}x)")
        print(f"{name:18}" + "".join(f"{cell:>22}" for cell in cells))


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    arguments.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    arguments.add_argument("--events", type=int, default=20_000, help="events of a stream")
    arguments.add_argument("--calls", type=int, default=300, help="short calls, one after the other")
    arguments.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.serve:
        asyncio.run(serve())
        return
    with subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            print(f"Python {sys.version.split()[0]}\n")
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            measure(url, chosen.rounds, chosen.events - chosen.events % 50, chosen.calls)
        finally:
            server.stdin.close()


if __name__ == "__main__":
    main()
