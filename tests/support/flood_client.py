"""A client in a flood: its result, the growth of its process, and the time it takes.

Rule 1: each flood has a process of its own, since a process does not shrink again.
Rule 2: the size is the kernel's high-water mark, reset after a first run has loaded everything.
Rule 3: the time of a limit is taken by a transport around ours, which counts the bytes.

Usage: python tests/support/flood_client.py URL FLOOD LOOP OPTIONS, the options as JSON (`Options`);
prints `Measured` as JSON.
"""

from __future__ import annotations

import gc
import json
import re
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import attrs

from oxygent_client import HTTPXTransport, Limits, Retry, SSEOxyGent, Timeouts, errors

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from oxygent_client import HTTPRequest, HTTPResponse


@attrs.frozen(kw_only=True)
class Options:
    """The settings and the actions of the client."""

    limits: dict[str, Any] = attrs.field(factory=dict[str, Any])
    idle: float | None = None
    cancel: int | None = None
    """After so many bytes of a body the block is left."""
    seconds: float = 0
    """For so many seconds the flood is entered again; at least once."""
    marked: int | None = None
    """The limit in bytes of a body; the time is taken when they are received."""
    discover: bool = False
    """Call discovery instead of a run."""


@attrs.frozen(kw_only=True)
class Measured:
    """The results."""

    ends: list[str]
    """The classes and texts of the errors, each once; "cancelled" for a block that was left."""
    rounds: int
    events: int
    received: int
    """Bytes of bodies, as returned by the transport."""
    grown: int
    """The growth of the process, in bytes."""
    seconds: float
    """Seconds of the longest round."""
    late: float | None
    """The most seconds from the limit's last byte, the byte that cancels, or `idle` to the end; None without these."""


@attrs.define
class Counting:
    """A transport that counts the bytes of a body, and records when `marked` of them were received.

    It cancels `scope` then, if it has one.
    """

    inner: HTTPXTransport
    marked: int | None = None
    received: int = 0
    reached: float | None = None
    scope: anyio.CancelScope | None = None

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        async with self.inner.exchange(request) as response:
            yield attrs.evolve(response, chunks=Counted(self, response.chunks))

    async def aclose(self) -> None:
        """As `Transport.aclose`."""
        await self.inner.aclose()


@attrs.define
class Counted:
    """The chunks of a body, counted."""

    counting: Counting
    chunks: AsyncIterator[bytes]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await anext(self.chunks)
        counting = self.counting
        counting.received += len(piece)
        if counting.marked is not None and counting.reached is None and counting.received >= counting.marked:
            counting.reached = time.monotonic()
            if counting.scope is not None:
                counting.scope.cancel()
        return piece


def memory(name: str) -> int:
    """Return `VmRSS`, the size of the process, or `VmHWM`, its greatest size, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def set_high_water_mark_back() -> None:
    """Reset the high-water mark. Source: `man 5 proc_pid_clear_refs`."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


@attrs.frozen
class Round:
    """The result of one run in a flood."""

    end: str
    events: int
    received: int
    seconds: float
    late: float | None


async def go_into(url: str, transport: Counting, options: Options) -> Round:
    """Make one run, or one discovery."""
    marked = options.marked if options.cancel is None else options.cancel
    transport.received, transport.marked, transport.reached = 0, marked, None
    timeouts = Timeouts(silence=None, idle=options.idle, total=60)
    limits = Limits(**options.limits)
    agent = SSEOxyGent(server_url=url, transport=transport, timeouts=timeouts, limits=limits, retry=Retry(attempts=1))
    end = ""
    events = 0
    began = time.monotonic()
    with anyio.CancelScope() as scope:
        transport.scope = None if options.cancel is None else scope
        try:
            if options.discover:
                await agent.init()
            else:
                async with agent.stream("hi") as run:
                    async for _ in run:
                        events += 1
        except errors.OxyError as error:
            end = f"{type(error).__name__}: {error}"
    ended = time.monotonic()
    since = transport.reached if options.idle is None else began + options.idle
    if scope.cancelled_caught:
        end = "cancelled"
    return Round(end, events, transport.received, ended - began, None if since is None else ended - since)


async def measure(url: str, flood: str, options: Options) -> Measured:
    """Enter the flood, and return the measurements."""
    transport = Counting(HTTPXTransport(trust_env=False))
    async with SSEOxyGent(server_url=f"{url}/answer", transport=transport) as agent:
        assert (await agent.ask("hi")).output == "42"
    gc.collect()
    set_high_water_mark_back()
    before = memory("VmRSS")
    until = time.monotonic() + options.seconds
    rounds = [await go_into(f"{url}/{flood}", transport, options)]
    while time.monotonic() < until:
        rounds.append(await go_into(f"{url}/{flood}", transport, options))
    grown = memory("VmHWM") - before
    await transport.aclose()
    return Measured(
        ends=sorted({each.end for each in rounds}),
        rounds=len(rounds),
        events=sum(each.events for each in rounds),
        received=sum(each.received for each in rounds),
        grown=grown,
        seconds=max(each.seconds for each in rounds),
        late=max((each.late for each in rounds if each.late is not None), default=None),
    )


def main() -> None:
    """Read the command line, and print the measurements."""
    url, flood, loop, options = sys.argv[1:]
    measured = anyio.run(measure, url, flood, Options(**json.loads(options)), backend=loop)
    sys.stdout.write(json.dumps(attrs.asdict(measured)))


if __name__ == "__main__":
    main()
