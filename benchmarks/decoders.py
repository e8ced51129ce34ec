"""The decoder alone, beside those of httpx-sse, httpx2, openai and langgraph-sdk, on the same bytes.

langgraph-sdk's decoder reads the JSON too. "split" is no decoder: it cuts at blank lines, and finds the data;
"split, JSON" reads that too, as the bare clients of the tables do.
"""

from __future__ import annotations

import functools
import json
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from benchmarks.server import chunks, framed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Decode = Callable[[Sequence[bytes]], int]

HEADERS: Final = {"content-type": "text/event-stream"}


def ours() -> Decode:
    """The decoder of this package."""
    from oxygent_client import Decoder

    def decode(pieces: Sequence[bytes]) -> int:
        feed = Decoder().feed
        return sum(len(feed(piece)) for piece in pieces)

    return decode


def split(read: Callable[[bytes], object] = bytes.decode) -> Decode:
    """Cut at blank lines, and `read` the data."""

    def decode(pieces: Sequence[bytes]) -> int:
        found, rest = 0, b""
        for piece in pieces:
            *blocks, rest = (rest + piece).split(b"\r\n\r\n")
            for block in blocks:
                start = block.find(b"data: ") + 6
                if start > 5:
                    read(block[start : block.index(b"\r\n", start)])
                    found += 1
        return found

    return decode


def httpx_sse() -> Decode:
    """The decoder of httpx-sse."""
    import httpx
    from httpx_sse import EventSource

    def decode(pieces: Sequence[bytes]) -> int:
        response = httpx.Response(200, headers=HEADERS, content=iter(pieces))
        return sum(1 for _ in EventSource(response).iter_sse())

    return decode


def httpx2() -> Decode:
    """The decoder of httpx2."""
    http: Any = import_module("httpx2")
    request = http.Request("GET", "http://127.0.0.1")

    def decode(pieces: Sequence[bytes]) -> int:
        response = http.Response(200, headers=HEADERS, content=iter(pieces), request=request)
        return sum(1 for _ in http.EventSource(response))

    return decode


def openai() -> Decode:
    """The decoder of openai."""
    library: Any = import_module("openai._streaming")
    return lambda pieces: sum(1 for _ in library.SSEDecoder().iter_bytes(iter(pieces)))


def langgraph() -> Decode:
    """The decoder of langgraph-sdk."""
    library: Any = import_module("langgraph_sdk.sse")

    def decode(pieces: Sequence[bytes]) -> int:
        lines, events, found = library.BytesLineDecoder(), library.SSEDecoder(), 0
        for piece in pieces:
            for line in lines.decode(piece):
                found += events.decode(line.rstrip(b"\r\n")) is not None
        return found

    return decode


DECODERS: Final[Mapping[str, Callable[[], Decode]]] = {
    "ours": ours,
    "split": split,
    "split, JSON": functools.partial(split, json.loads),
    "httpx-sse": httpx_sse,
    "httpx2": httpx2,
    "openai": openai,
    "langgraph-sdk": langgraph,
}


def cut(stream: bytes, size: int) -> list[bytes]:
    """`stream` in pieces of one size."""
    return [stream[start : start + size] for start in range(0, len(stream), size)]


def streams(events: int) -> dict[str, list[bytes]]:
    """The streams that are measured."""
    return {
        "an event per piece": chunks(events),
        "50 events per piece": chunks(events, 50),
        "pieces of 64 KiB": cut(b"".join(chunks(events)), 65536),
        "pieces of 10 bytes": cut(b"".join(chunks(events // 10)), 10),
        "byte by byte": cut(b"".join(chunks(events // 50)), 1),
        "an event of 1 MB, pieces of 1 KiB": cut(framed(0, "x" * 1_000_000), 1024),
    }


def installed() -> dict[str, Decode]:
    """The decoders that can be imported; the others are named."""
    found: dict[str, Decode] = {}
    for name, make in DECODERS.items():
        try:
            found[name] = make()
        except ImportError:
            print(f"skipped: {name} is not installed")
    return found


def seconds(decode: Decode, pieces: Sequence[bytes]) -> float:
    """CPU seconds of decoding."""
    start = time.process_time()
    decode(pieces)
    return time.process_time() - start
