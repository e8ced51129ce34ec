"""Instructions per event and per call, which a busy machine does not change: the guard against a slow-down.

valgrind counts the instructions of each piece of work in `WORK`. A figure is their number in times of a reference loop,
which calls `json.loads` for the same events; the stored figures, per minor version of Python, are in
`instructions.json`. More than `SLOWER` above its stored figure, a piece of work fails; more than `FASTER` below, the
stored figures are out of date, and would hide the next slow-down: record them.

One process imports the package, runs each piece once, and forks a child for each: what a child counts more than a child
that does nothing is its work. The hash seed is fixed and the garbage collector is off.

Usage: python -m benchmarks.instructions [--record]     (or: nox -s instructions -- --record)
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping

    from oxygent_client import HTTPRequest, HTTPResponse

STORED: Final = Path(__file__).with_suffix(".json")
MINOR: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
SLOWER: Final = 0.06
"""The same work on the same interpreter differs by less than 0.01 from one time to the next."""
FASTER: Final = 0.10
REFERENCE: Final = "reference"
EVENTS: Final = 500
CALLS: Final = 20
TIMES: Final = 2
"""How often a child does its work: what it takes to be a child hardly counts then."""


# --- the work ---------------------------------------------------------------------------------------------------------


def messages() -> list[str]:
    """The data of the events: of ten, eight are pieces of a text, and two a call and its result."""
    step = {
        "node_id": "xQ3kz7Wm2bHc9TpA",
        "caller": "master",
        "callee": "time_tool",
        "caller_category": "agent",
        "callee_category": "tool",
        "call_stack": ["user", "master", "time_tool"],
        "current_trace_id": "5hQ2mXw8",
    }
    delta = {"type": "stream", "content": {"delta": "a few words ", "agent": "master", "node_id": "xQ3kz7Wm2bHc9TpA"}}
    call = {"type": "tool_call", "content": {**step, "arguments": {"query": "the time in Lisbon"}}}
    result = {"type": "observation", "content": {**step, "output": "It is 12:00 o'clock in Lisbon. \u4f60\u597d"}}
    return [json.dumps(each, ensure_ascii=False) for each in [delta] * 8 + [call, result]] * (EVENTS // 10)


def framed(name: str, data: str, number: int) -> bytes:
    """An event as a real server frames it."""
    return f"id: VQaQFdz2E9g3a{number:05d}\r\nevent: {name}\r\ndata: {data}\r\nretry: 3000\r\n\r\n".encode()


DATA: Final = messages()
SINGLE: Final = [framed("message", data, number) for number, data in enumerate(DATA)]
"""A chunk for each event."""
BATCHES: Final = [b"".join(SINGLE[start : start + 50]) for start in range(0, EVENTS, 50)]
END: Final = [framed("message", '{"type": "answer", "content": "42"}', EVENTS), framed("close", '"done"', EVENTS + 1)]


class Canned:
    """A transport that answers every request with the same chunks."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = [*chunks, *END]

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest) -> AsyncGenerator[HTTPResponse]:
        """As `Transport.exchange`."""
        from oxygent_client import HTTPResponse

        async def chunks() -> AsyncIterator[bytes]:
            for chunk in self._chunks:
                yield chunk

        yield HTTPResponse(200, {"content-type": "text/event-stream"}, chunks(), request)

    async def aclose(self) -> None:
        """As `Transport.aclose`."""


def reference() -> None:
    """Parse the data of all events."""
    loads = json.loads
    for data in DATA:
        loads(data)


def decoder(pieces: Iterable[bytes]) -> Callable[[], None]:
    """Decode bytes into server-sent events."""
    from oxygent_client import Decoder

    def work() -> None:
        feed = Decoder().feed
        for piece in pieces:
            feed(piece)

    return work


def state(pieces: Iterable[bytes]) -> Callable[[], None]:
    """Decode and buffer events, with the clocks of a run, until they are handed out."""
    from oxygent_client import Limits, Timeouts
    from oxygent_client._run.state import RunState

    def work() -> None:
        run = RunState(Timeouts(idle=30), Limits())
        run.start(0.0)
        run.request_sent(0.0)
        run.restart(0.0, 0.0)
        for now, piece in enumerate(pieces):
            run.receive_data(piece, now / 100)
            while run.next_events(now / 100, 64):
                pass

    return work


def router() -> Callable[[], None]:
    """Turn server-sent events into typed events, and route them."""
    from oxygent_client import EventRouter, ServerSentEvent
    from oxygent_client._protocol.messages import to_event

    received, route = [ServerSentEvent("message", data) for data in DATA], EventRouter().route

    def work() -> None:
        for each in received:
            route(to_event(each))

    return work


def builder() -> Callable[[], None]:
    """Build and encode the body of requests."""
    from oxygent_client import OxyRequest, build_payload
    from oxygent_client._protocol.payload import encode, finalize_payload

    stack = ["user", "planner", "time_agent"]
    request = OxyRequest(arguments={"query": "hi"}, call_stack=stack, node_id_stack=stack, shared_data={"k": "v"})

    def work() -> None:
        for _ in range(10 * CALLS):
            encode(finalize_payload(build_payload(request, name="time_agent"), trace_id="5hQ2mXw8", callee="master"))

    return work


def run(pieces: Iterable[bytes] = (), heard: str = "", calls: int = 1) -> Callable[[], None]:
    """Whole runs of an agent, without a network; `heard` names the callback that gets their messages."""
    from oxygent_client import OxyRequest, SSEOxyGent

    async def callback(_: Any) -> None:
        """Take a message."""

    handlers = {"stream": callback} if heard == "handler" else {}
    agent = SSEOxyGent(server_url="http://127.0.0.1", transport=Canned(pieces), event_handlers=handlers)

    async def read() -> None:
        for _ in range(calls):
            request = OxyRequest(arguments={"query": "hi"})
            if heard == "send_message":
                vars(request)["send_message"] = callback
            async with agent.stream(request) as run:
                async for _event in run:
                    pass

    return lambda: asyncio.run(read())


WORK: Final[Mapping[str, Callable[[], Callable[[], None]]]] = {
    REFERENCE: lambda: reference,
    "decoder, an event per piece": lambda: decoder(SINGLE),
    "decoder, 50 events per piece": lambda: decoder(BATCHES),
    "state, an event per piece": lambda: state(SINGLE),
    "state, 50 events per piece": lambda: state(BATCHES),
    "router": router,
    "payload builder": builder,
    "run, an event per piece": lambda: run(SINGLE),
    "run, 50 events per piece": lambda: run(BATCHES),
    "run, heard by a handler": lambda: run(BATCHES, "handler"),
    "run, heard by send_message": lambda: run(BATCHES, "send_message"),
    "calls": lambda: run(calls=CALLS),
}
"""What is measured."""


def work() -> None:
    """In valgrind: run each piece in a child of its own, and print the numbers of the processes."""
    cast("dict[str, Any]", sys.modules)["msgspec"] = None  # as if the extra `fast` was not installed
    pieces = {name: make() for name, make in WORK.items()}
    gc.disable()
    for piece in pieces.values():  # what is imported late, and what an interpreter adapts to
        piece()
    gc.freeze()
    for name, piece in {"nothing": lambda: None, **pieces}.items():
        child = os.fork()
        if not child:
            for _ in range(TIMES):
                piece()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(f"{name}: failed")
        print(child, name, flush=True)


# --- the measurement --------------------------------------------------------------------------------------------------


def measure(valgrind: str) -> dict[str, float]:
    """Instructions of each piece of work, in times of the reference."""
    with tempfile.TemporaryDirectory() as directory:
        tool = (valgrind, "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={os.devnull}")
        program = (sys.executable, "-m", "benchmarks.instructions", "--work")
        done = subprocess.run(
            (*tool, f"--log-file={directory}/%p", *program),
            env={"PYTHONHASHSEED": "0"},
            cwd=Path(__file__).parent.parent,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        counts = dict[str, int]()
        for line in done.stdout.splitlines():
            child, _, name = line.partition(" ")
            counted = re.search(r"I +refs: +([\d,]+)", (Path(directory) / child).read_text())
            assert counted is not None
            counts[name] = int(counted[1].replace(",", ""))
    nothing = counts.pop("nothing")
    least = counts[REFERENCE] - nothing
    return {name: round((count - nothing) / least, 3) for name, count in counts.items() if name != REFERENCE}


def verdict(figure: float, stored: float | None) -> str:
    """What is wrong with a figure; empty if nothing is."""
    if stored is None:
        return "not recorded"
    if figure > stored * (1 + SLOWER):
        return f"SLOWER by {figure / stored - 1:.0%}"
    if figure < stored * (1 - FASTER):
        return f"faster by {1 - figure / stored:.0%}: record it"
    return ""


def compare(figures: Mapping[str, float], stored: Mapping[str, float]) -> list[str]:
    """Print a line for each figure; return the lines that are not as stored."""
    wrong = list[str]()
    print(f"{'instructions, in times of json.loads':40}{'now':>9}{'stored':>9}")
    for name, figure in figures.items():
        before = stored.get(name)
        said = verdict(figure, before)
        line = f"{name:40}{figure:9.3f}{'-' if before is None else format(before, '.3f'):>9}  {said}".rstrip()
        print(line)
        if said:
            wrong.append(line)
    return wrong


def main() -> None:
    """Measure, and compare or record."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--record", action="store_true", help="store the figures")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        work()
        return
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise SystemExit("needs valgrind")
    stored: dict[str, dict[str, float]] = json.loads(STORED.read_text()) if STORED.exists() else {}
    figures = measure(valgrind)
    wrong = compare(figures, stored.get(MINOR, {}))
    if chosen.record:
        STORED.write_text(json.dumps({**stored, MINOR: figures}, indent=2, sort_keys=True) + "\n")
        print(f"recorded for Python {MINOR}")
    elif wrong:
        raise SystemExit(
            f"Not as stored for Python {MINOR}. If that is meant: python -m benchmarks.instructions --record"
        )


if __name__ == "__main__":
    main()
