"""Measure a served agent under load, beside a bare relay, and write its tables in docs/performance.md.

Usage: nox -s serve_load     (or: python -m benchmarks.serve_load [--streams 500] [--rounds 3] [--calls 10000])

Rule 1: each gateway is a process of its own: ours is `oxygent-client serve` with `--openai` or `--agui`, or its
    application with another transport; a bare one is a starlette application, which passes on the bytes of the same
    server by the same HTTP library. All run under uvicorn. Rounds are interleaved.
Rule 2: a figure is CPU time of the gateway's process, or its resident memory, read from outside.
Rule 3: each stream is counted and must be complete.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import statistics
import subprocess
import sys
import time
import urllib.request
import uuid
from collections import defaultdict
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from benchmarks import report
from benchmarks.bench import ROOT, environment, server
from benchmarks.server import raise_file_limit

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

BARE: Final = "bare "
GATEWAYS: Final = {
    "bare httpx": "bare httpx",
    "httpx": "ours, OpenAI's API, httpx",
    "agui httpx": "ours, AG-UI, httpx",
    "bare aiohttp": "bare aiohttp",
    "aiohttp": "ours, OpenAI's API, aiohttp",
    "agui aiohttp": "ours, AG-UI, aiohttp",
}
"""The names of the gateways, and what the table shows of them."""
AGUI: Final = "agui "
EVENTS: Final = 40
SECONDS: Final = 0.25
"""Between two events of a stream."""
AT_ONCE: Final = 20
"""Short calls at a time; a stream of the load is opened with so many others."""
COLUMNS: Final = {
    "event_us": "an event of a stream, µs",
    "open_us": "opening a stream, µs",
    "kib": "an open stream, KiB",
}
BEGIN: Final = "<!-- made by benchmarks/serve_load.py -->"
END: Final = "<!-- end of the tables of serve_load -->"
ENDS: Final = (b"data: [DONE]\n\n", b'data: "done"\r\nretry: 3000\r\n\r\n')
TICK: Final = os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")


# --- gateways, each in a process of its own ---------------------------------------------------------------------------


def bare_app(library: str, url: str) -> Any:
    """Return an application that passes on the bytes of the server."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    sessions: list[Any] = []

    async def pieces(body: bytes) -> AsyncGenerator[bytes]:
        headers = {"content-type": "application/json"}
        if library == "httpx":
            async with sessions[0].stream("POST", f"{url}/sse/chat", content=body, headers=headers) as response:
                async for piece in response.aiter_raw():
                    yield piece
        else:
            async with sessions[0].post(f"{url}/sse/chat", data=body, headers=headers) as response:
                async for piece in response.content.iter_any():
                    yield piece

    async def relay(request: Request) -> StreamingResponse:
        return StreamingResponse(pieces(await request.body()), media_type="text/event-stream")

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncGenerator[None]:
        if library == "httpx":
            import httpx

            limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
            async with httpx.AsyncClient(timeout=None, trust_env=False, limits=limits) as client:
                sessions.append(client)
                yield
        else:
            import aiohttp

            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(None), connector=connector) as session:
                sessions.append(session)
                yield

    return Starlette(routes=[Route("/relay", relay, methods=["POST"])], lifespan=lifespan)


def run_bare(library: str, url: str) -> None:
    """Serve the bare relay."""
    import socket

    import uvicorn

    config = uvicorn.Config(bare_app(library, url), log_config=None, access_log=False, server_header=False, ws="none")
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        print(f"serving at http://127.0.0.1:{listener.getsockname()[1]} ", flush=True)
        uvicorn.Server(config).run(sockets=[listener])


def run_ours(name: str, url: str, streams: int) -> None:
    """Serve an agent over aiohttp, for which the command has no option."""
    from oxygent_client import SSEOxyGent
    from oxygent_client.serve import ServeLimits, serve_forever
    from oxygent_client.serve.agui import create_app as create_agui
    from oxygent_client.serve.openai import create_app
    from oxygent_client.transports.aiohttp import AiohttpTransport

    logging.basicConfig(level=logging.INFO)
    agent = SSEOxyGent(url, transport=AiohttpTransport())
    service = (create_agui if name.startswith(AGUI) else create_app)(agent, limits=ServeLimits(runs=streams))
    serve_forever(service, host="127.0.0.1", port=0, on_start=lambda at: print(f"serving at {at} ", flush=True))


@attrs.frozen
class Gateway:
    """A gateway that runs."""

    name: str
    url: str
    pid: int

    @property
    def cpu(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    @property
    def resident(self) -> int:
        """Bytes of memory in use."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE

    def question(self, query: str) -> tuple[str, dict[str, Any]]:
        """Return the URL and the body of a request."""
        if self.name.startswith(BARE):
            return f"{self.url}/relay", {"query": query}
        messages = [{"role": "user", "content": query}]
        if self.name.startswith(AGUI):
            ids = {"threadId": uuid.uuid4().hex, "runId": uuid.uuid4().hex, "protocolVersion": "1.0"}
            return f"{self.url}/agui", {**ids, "messages": [{"id": "1", **messages[0]}]}
        return f"{self.url}/v1/chat/completions", {"model": "master", "stream": True, "messages": messages}


@contextmanager
def gateway(name: str, remote: str, streams: int) -> Generator[Gateway]:
    """Run a gateway."""
    own = [sys.executable, "-m", "benchmarks.serve_load", "--gateway", name, remote, "--streams", str(streams)]
    protocol = "--agui" if name.startswith(AGUI) else "--openai"
    command = [sys.executable, "-m", "oxygent_client", "serve", remote, protocol, "--port", "0"]
    command = [*command, "--max-runs", str(streams)] if name in ("httpx", "agui httpx") else own
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield Gateway(name, process.stdout.readline().split()[2], process.pid)
        finally:
            process.terminate()


# --- the load ---------------------------------------------------------------------------------------------------------


async def read(session: Any, there: Gateway, query: str) -> int:
    """Read one stream up to its end; return the number of its events."""
    url, body = there.question(query)
    data = b""
    async with session.post(url, json=body) as response:
        async for piece in response.content.iter_any():
            data += piece
    *_, last = data.rstrip().split(b"\n\n")
    is_complete = data.endswith(ENDS) or last.startswith(b'data: {"type": "RUN_FINISHED"')
    if not is_complete or b"42" not in data:
        raise SystemExit(f"{there.name}: a stream was not complete: {data[-300:]!r}")
    return data.count(b"data: ")


@asynccontextmanager
async def session() -> AsyncGenerator[Any]:
    """A client for the load, the same for all gateways."""
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(None), connector=connector) as opened:
        yield opened


async def opened(remote: str, number: int, most: int) -> None:
    """Wait until the server has so many streams; when it has all, it lets them go after a second."""

    def count() -> int:
        with urllib.request.urlopen(f"{remote}/open") as response:
            return int(response.read()) or most

    while await asyncio.to_thread(count) < number:  # noqa: ASYNC110  (the server has no way to call us)
        await asyncio.sleep(0.01)


async def load(there: Gateway, remote: str, streams: int) -> dict[str, float]:
    """Measure concurrent streams: opening them, their events, and their memory."""
    query = json.dumps({"events": EVENTS, "every": SECONDS, "wait": streams, "root": True})
    async with session() as client:
        await read(client, there, json.dumps({"events": 1}))  # names and connections are known then
        cpu, memory = there.cpu, there.resident
        reading = list[asyncio.Task[int]]()
        while len(reading) < streams:
            wave = min(AT_ONCE, streams - len(reading))
            reading += [asyncio.create_task(read(client, there, query)) for _ in range(wave)]
            await asyncio.sleep(0.02)
            await opened(remote, len(reading), streams)
        held, after = there.resident, there.cpu
        await asyncio.gather(*reading)
    return {
        "open_us": (after - cpu) / streams * 1e6,
        "event_us": (there.cpu - after) / (streams * EVENTS) * 1e6,
        "kib": (held - memory) / streams / 1024,
    }


async def calls(there: Gateway, number: int) -> list[tuple[int, float, float]]:
    """Make so many short calls; return calls, MiB in use and CPU of a call, after a tenth and at the end."""
    found, done, cpu = list[tuple[int, float, float]](), 0, there.cpu
    query = json.dumps({"events": 1})
    async with session() as client:
        for target in (number // 10, number):
            before, cpu = done, there.cpu
            while done < target:
                await asyncio.gather(*(read(client, there, query) for _ in range(AT_ONCE)))
                done += AT_ONCE
            await asyncio.sleep(1)
            found.append((done, there.resident / 2**20, (there.cpu - cpu) / (done - before) * 1e6))
    return found


# --- the page ---------------------------------------------------------------------------------------------------------


def cell(found: dict[tuple[str, str], list[float]], name: str, column: str) -> str:
    """Return the median, and the median and range of the ratios to the bare gateway in the same round."""
    values = found[name, column]
    shown = report.number(statistics.median(values))
    if name.startswith(BARE):
        return shown
    base = f"{BARE}{name.removeprefix(AGUI)}"
    ratios = [value / bare for value, bare in zip(values, found[base, column], strict=True)]
    return f"{shown} (**{statistics.median(ratios):.2f}x**, {min(ratios):.2f} to {max(ratios):.2f})"


def tables(
    found: dict[tuple[str, str], list[float]], growth: list[tuple[int, float, float]], streams: int, said: str
) -> str:
    """Return the tables, as Markdown."""
    body = [(shown, *(cell(found, name, column) for column in COLUMNS)) for name, shown in GATEWAYS.items()]
    memory = [(f"{number:,}", f"{mib:.1f}", report.number(us)) for number, mib, us in growth]
    lines = [
        f"{said}. {streams} streams at once, {EVENTS} events each, {1 / SECONDS:g} a second. In brackets: in times of",
        "the bare relay in the same round, the median and the range.",
        "",
        *report.rows(("gateway", *COLUMNS.values()), body),
        *report.rows(("calls of `serve --openai`", "memory, MiB", "CPU of a call, µs"), memory),
    ]
    return "\n".join(lines).rstrip()


def main() -> None:
    """Measure, print and write; or be a gateway."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--streams", type=int, default=500, help="streams at once")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds")
    parser.add_argument("--calls", type=int, default=10_000, help="short calls, for the memory")
    parser.add_argument("--no-write", action="store_true", help="only print")
    parser.add_argument("--gateway", nargs=2, metavar=("NAME", "URL"), help="be a gateway")
    chosen = parser.parse_args()
    raise_file_limit()
    if chosen.gateway:
        name, remote = chosen.gateway
        if name.startswith(BARE):
            run_bare(name.removeprefix(BARE), remote)
        else:
            run_ours(name, remote, chosen.streams)
        return
    began, found = time.monotonic(), defaultdict[tuple[str, str], list[float]](list)
    busy = os.getloadavg()[0]
    with server() as remote:
        for number in range(chosen.rounds):
            for name in GATEWAYS:
                print(f"{time.monotonic() - began:6.0f} s  round {number + 1}: {name}", flush=True)
                gc.collect()
                with gateway(name, remote, chosen.streams) as there:
                    for column, value in asyncio.run(load(there, remote, chosen.streams)).items():
                        found[name, column].append(value)
        print(f"{time.monotonic() - began:6.0f} s  {chosen.calls} calls", flush=True)
        with gateway("httpx", remote, chosen.streams) as there:
            growth = asyncio.run(calls(there, chosen.calls))
    said = f"{environment()}, load average {busy:.1f} before; medians of {chosen.rounds} rounds"
    text = tables(found, growth, chosen.streams, said)
    print(text)
    if not chosen.no_write:
        report.replace_between(ROOT / "docs" / "performance.md", BEGIN, END, text)


if __name__ == "__main__":
    main()
