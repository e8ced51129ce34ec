"""How fast the decoder is, against httpx-sse's and the slow reference of the tests, and that its work is linear.

Each line is one stream: what our decoder takes for it, and how many times as long the others take, all in the same run,
the best of several. Below 1 another is faster. The last lines double a stream's size: a linear decoder takes twice as
long each time.

What rests on it: lines are cut by `bytes.splitlines`, which runs in C, an event's text is decoded once, and a line that
comes in pieces is gathered in one `bytearray`; there is no state machine that looks at each byte.

    stream                                    bytes  events  ours, ms    MB/s  httpx-sse  reference
    recordings, as chunks of one event        48144     231       1.0    47.5       1.4x       6.8x
    recordings, byte by byte                  48144     231      35.7     1.3       1.8x       0.3x
    one event                               1048638       1       1.0  1016.6       1.0x     133.6x
    one event, pieces of 1 KiB              1048638       1       1.6   662.5       1.5x      84.6x
    one event of many lines                 1048573       1      25.6    40.9       1.0x      51.2x
    tiny events                             1048560   13107      45.4    23.1       1.0x       4.2x
    tiny events, byte by byte                131070    1638      99.7     1.3       1.8x       0.3x
    heartbeats                              1048545       0      12.5    83.8       0.9x      10.2x

(2026-11-21, before the first commit, CPython 3.11.7, httpx-sse 0.4.3, 2 cores; doublings between 1.84 and 2.32.)

Usage: python benchmarks/decoder.py [--repeat 2] [--mib 1]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from httpx_sse import EventSource

from oxygent_client import Decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # for the tests' reference
from tests.support.reference import interpret  # noqa: E402  (found by the line above)

WIRE = ROOT / "tests" / "fixtures" / "wire"
PIECE = 64 * 1024


def ours(pieces: Sequence[bytes]) -> int:
    """How many events our decoder finds."""
    decoder = Decoder()
    return sum(len(decoder.feed(piece)) for piece in pieces)


def peers(pieces: Sequence[bytes]) -> int:
    """How many events with data httpx-sse finds; after an id, a heartbeat is an empty one."""
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=iter(pieces))
    return sum(1 for event in EventSource(response).iter_sse() if event.data)


def reference(pieces: Sequence[bytes]) -> int:
    """How many events the reference finds."""
    return len(interpret(b"".join(pieces)).events)


DECODERS: dict[str, Callable[[Sequence[bytes]], int]] = {"ours": ours, "httpx-sse": peers, "reference": reference}


def seconds(decode: Callable[[Sequence[bytes]], int], pieces: Sequence[bytes], repeat: int) -> float:
    """The least time that this took."""
    taken: list[float] = []
    for _ in range(repeat):
        start = time.perf_counter()
        decode(pieces)
        taken.append(time.perf_counter() - start)
    return min(taken)


def cut(stream: bytes, size: int = PIECE) -> list[bytes]:
    """`stream` in pieces of one size."""
    return [stream[start : start + size] for start in range(0, len(stream), size)]


def event(data: bytes, number: int = 0) -> bytes:
    """An event as a real server frames it."""
    return b"id: VQaQFdz2E9g3a%04d\r\nevent: message\r\ndata: %b\r\nretry: 3000\r\n\r\n" % (number % 10_000, data)


def streams(size: int) -> dict[str, list[bytes]]:
    """The streams that are measured, of about `size` bytes each."""
    recorded = [path.read_bytes() for path in sorted(WIRE.glob("*.sse"))]
    # A recording that was cut off ends in the middle of a block, which must not run into the next.
    joined = b"".join(stream + b"\r\n\r\n" * (not stream.endswith(b"\n\r\n")) for stream in recorded)
    tiny = b"".join(event(b'{"type": "stream"}', number) for number in range(size // 80))
    lines = b"data: a line of text\n" * (size // 21) + b"\n"
    return {
        "recordings, as chunks of one event": [part + b"\r\n\r\n" for part in joined.split(b"\r\n\r\n") if part],
        "recordings, byte by byte": cut(joined, 1),
        "one event": cut(event(b"x" * size)),
        "one event, pieces of 1 KiB": cut(event(b"x" * size), 1024),
        "one event of many lines": cut(lines),
        "tiny events": cut(tiny),
        "tiny events, byte by byte": cut(tiny[: len(tiny) // 8], 1),
        "heartbeats": cut(b": ping - 2026-11-20 09:27:10.682690+00:00\r\n\r\n" * (size // 45)),
    }


def compare(size: int, repeat: int) -> None:
    """Print a line for each stream."""
    print(f"{'stream':38}{'bytes':>9}{'events':>8}{'ours, ms':>10}{'MB/s':>8}{'httpx-sse':>11}{'reference':>11}")
    for name, pieces in streams(size).items():
        counts = {decode(pieces) for decode in DECODERS.values()}
        length = sum(map(len, pieces))
        if len(counts) > 1 and "recordings" not in name:  # a recording may hold an empty message: it has no data
            raise SystemExit(f"{name}: the decoders disagree: {counts}")
        own, peer = (seconds(decode, pieces, repeat) for decode in (ours, peers))
        slow = seconds(reference, pieces, 1)
        print(
            f"{name:38}{length:9}{ours(pieces):8}{own * 1000:10.1f}{length / own / 1e6:8.1f}"
            f"{peer / own:10.1f}x{slow / own:10.1f}x"
        )


def double(size: int, repeat: int) -> None:
    """Print how long each doubling takes, in times of the one before."""
    kinds: dict[str, Callable[[int], list[bytes]]] = {
        "one event": lambda n: cut(event(b"x" * n)),
        "one event, pieces of 64 bytes": lambda n: cut(event(b"x" * n), 64),
        "one event of many lines": lambda n: cut(b"data: x\n" * (n // 8) + b"\n"),
        "tiny events": lambda n: cut(b"data: x\n\n" * (n // 9)),
        "one piece": lambda n: [b"data: x\n\n" * (n // 9)],
    }
    sizes = [size // 4, size // 2, size, size * 2, size * 4]
    print(f"\n{'doubling (2.0 is linear)':38}" + "".join(f"{each:>10}" for each in sizes))
    for name, make in kinds.items():
        taken = [seconds(ours, make(each), repeat) for each in sizes]
        ratios = [f"{later / earlier:9.2f}x" for earlier, later in itertools.pairwise(taken)]
        print(f"{name:38}{taken[0] * 1000:8.2f}ms" + "".join(ratios))


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    arguments.add_argument("--repeat", type=int, default=2, help="each time is the best of so many")
    arguments.add_argument("--mib", type=float, default=1.0, help="how large a stream is")
    chosen = arguments.parse_args()
    size = round(chosen.mib * 1024 * 1024)
    print(f"Python {sys.version.split()[0]}\n")
    compare(size, chosen.repeat)
    double(size, chosen.repeat)


if __name__ == "__main__":
    main()
