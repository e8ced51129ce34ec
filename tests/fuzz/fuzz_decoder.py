"""The decoder against the reference, on whatever bytes atheris thinks of.

Rule 1: an input is bytes, and says all of it: how the stream is cut, its limits, the stream (`Attempt.read`).
Rule 2: `check` is the target, and knows nothing of atheris: what was found is tried again by `test_found.py`.
Rule 3: a target that finds nothing proves nothing, so each mutant of `mutants.py` must be found first.

Usage, in the environment of `nox -s fuzz`: python -m tests.fuzz.fuzz_decoder
    [--seconds 60]   how long the decoder is tried, after its mutants; else OXYGENT_CLIENT_FUZZ_SECONDS
    [--mutant NAME]  try this mutant alone
    [--replay FILE]  try one input again
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import attrs

from oxygent_client import Decoder, Limits, ServerSentEvent, errors
from tests.fuzz.mutants import MUTANTS
from tests.support.reference import Dispatched, Interpretation, interpret, passed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    MakeDecoder = Callable[[Limits], Decoder]

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent
FIXTURES: Final = HERE.parent / "fixtures"
FOUND: Final = HERE / "found"
"""What once made the target fail. It stays here, and every run of the tests tries it; `mutant-x` is for mutant x."""
BOM: Final = b"\xef\xbb\xbf"
SECONDS_VARIABLE: Final = "OXYGENT_CLIENT_FUZZ_SECONDS"
LONGEST: Final = 8192
"""Bytes of an input. A `retry` of 4,301 digits fits."""
LONGEST_SEED: Final = 1024
"""Bytes of what it begins with: the short ones are tried more often."""
MUTANT_SECONDS: Final = 60
"""In which a mutant must be found. Really it takes a second, and never took ten."""
INPUT_SECONDS: Final = 20
"""In which one input must be done."""
WORDS: Final = (
    *(b"data:", b"event:", b"id:", b"retry:", b"retry:7\n", b"retry:+5\n", b": ping"),
    *(b"\r\n", b"\r\r", b"\n\n", BOM, b"\1\1" + BOM, b"\xe2\x80\xa8"),
)
"""Of the language, to be put in anywhere."""
MISTAKE: Final = "MISTAKE: "


def cut(stream: bytes, sizes: Sequence[int]) -> list[bytes]:
    """`stream` in pieces of these sizes, over and over; at 0 there is an empty piece."""
    if not any(sizes):
        return [stream]
    pieces: list[bytes] = []
    start = turn = 0
    while start < len(stream):
        size = sizes[turn % len(sizes)]
        pieces.append(stream[start : start + size])
        start, turn = start + size, turn + 1
    return pieces


@attrs.frozen
class Attempt:
    """What an input says."""

    sizes: tuple[int, ...]
    """Of the pieces, over and over."""
    limits: Limits
    stream: bytes

    @classmethod
    def read(cls, data: bytes) -> Self:
        """What `data` says: three bytes of limits, the number of sizes, the sizes, the stream. What is missing is 0."""
        line, event, all_, count = data[:4].ljust(4, b"\0")
        count %= 8
        sizes = tuple(data[4 : 4 + count].ljust(count, b"\0"))
        # 0 is off. A stream may be longer than a byte can say.
        limits = Limits(line_bytes=line or None, event_bytes=event or None, stream_bytes=all_ * 4 or None)
        return cls(sizes, limits, data[4 + count :])

    def write(self) -> bytes:
        """An input that says this."""
        limits = self.limits
        head = [limits.line_bytes or 0, limits.event_bytes or 0, (limits.stream_bytes or 0) // 4, len(self.sizes)]
        return bytes([*head, *self.sizes]) + self.stream


# ---------------------------------------------------------------------------------------------------------- The target


def check(data: bytes, make: MakeDecoder = Decoder) -> None:
    """Nothing, if the decoder does with this input what the reference does.

    Raises:
        AssertionError: it does not.
        Exception: whatever else the decoder raised.
    """
    attempt = Attempt.read(data)
    without_limits(attempt, make)
    within_limits(attempt, make)


def without_limits(attempt: Attempt, make: MakeDecoder) -> None:
    """The events and the end state are the reference's, however the stream is cut."""
    decoder = make(Limits(event_bytes=None, stream_bytes=None))
    events = [event for piece in cut(attempt.stream, attempt.sizes) for event in decoder.feed(piece)]
    found = Interpretation(
        dispatched(events),
        decoder.last_event_id,
        decoder.reconnection_time,
        decoder.comments,
        decoder.names_events,
    )
    expected = interpret(attempt.stream)
    assert found == expected, f"the reference says\n    {expected}\nand the decoder\n    {found}"


def within_limits(attempt: Attempt, make: MakeDecoder) -> None:
    """The limit that is passed is the reference's, with the events before it, and never is more held than allowed."""
    stream, limits = attempt.stream, attempt.limits
    if BOM.startswith(stream[:2]) and not stream.startswith(BOM):
        stream = b"\n" + stream  # half a byte order mark counts for nothing until it is known to be none
    name, length = passed(stream, limits) or ("", len(stream))
    expected = interpret(stream[:length]).events

    decoder = make(limits)
    events: list[ServerSentEvent] = []
    said = ""
    for piece in cut(stream, attempt.sizes):
        try:
            events += decoder.feed(piece)
        except errors.TooLargeError as error:
            said = said or str(error)
            events += error.events if str(error) is said else ()
            break
        assert len(decoder._line) <= min(limits.line_bytes or LONGEST, limits.event_bytes or LONGEST)
    assert bool(name) == bool(said), f"the reference says {name!r} is passed, and the decoder {said!r}"
    assert name in said, f"the reference says {name!r} is passed, and the decoder {said!r}"
    assert dispatched(events) == expected, (
        f"before {name!r}: the reference {expected}, the decoder {dispatched(events)}"
    )
    if limits.event_bytes is not None:
        assert all(len(event.data) <= limits.event_bytes for event in events)
    if said:
        try:
            after: object = decoder.feed(b"\n\ndata: after\n\n")
        except errors.TooLargeError as error:
            after = str(error)
        assert said == after, f"after {said!r} the decoder gives {after!r}"


def dispatched(events: Iterable[ServerSentEvent]) -> list[Dispatched]:
    """Events in the reference's words."""
    return [Dispatched(event.event, event.data, event.id, event.retry) for event in events]


# ------------------------------------------------------------------------------------------- The inputs that are there


def seeds() -> dict[str, bytes]:
    """The inputs to begin with, by their names: the conformance cases as they are cut, and what servers sent."""
    cases: list[dict[str, Any]] = json.loads((FIXTURES / "conformance" / "cases.json").read_text(encoding="utf-8"))
    made: dict[str, bytes] = {}
    for case in cases:
        pieces = [b64decode(piece) for piece in case["chunks_b64"]]
        sizes = tuple(min(len(piece), 255) for piece in pieces[:7])
        made[case["name"]] = Attempt(sizes, Limits(event_bytes=None, stream_bytes=None), b"".join(pieces)).write()
    for number, recording in enumerate(sorted((FIXTURES / "wire").glob("*.sse"))):
        limits = Limits(line_bytes=200, event_bytes=40 + number % 200, stream_bytes=4 * (1 + number % 250))
        made[recording.name] = Attempt((1 + number % 255,), limits, recording.read_bytes()).write()
    return {re.sub(r"\W+", "-", name): seed[:LONGEST_SEED] for name, seed in made.items()}


def found() -> dict[str, bytes]:
    """The inputs in `found/`, by their names."""
    return {path.name: path.read_bytes() for path in sorted(FOUND.iterdir()) if path.is_file()}


# ------------------------------------------------------------------------------------------------------------ One run


@attrs.frozen
class Result:
    """How a run ended."""

    failed: bool
    output: str
    seconds: float

    @property
    def mistake(self) -> str:
        """The difference that the target found, and the input that shows it; empty if it found none."""
        return self.output[self.output.find(MISTAKE) :] if MISTAKE in self.output else ""

    @property
    def executions(self) -> int:
        """How many inputs were tried."""
        counted = re.search(r"stat::number_of_executed_units: +(\d+)", self.output)
        return int(counted[1]) if counted else 0


def run(seconds: int, mutant: str = "") -> Result:
    """Try for so long, in a process of its own. A mutant has to be found from nothing, and its input is not kept."""
    with tempfile.TemporaryDirectory() as directory:
        corpus = Path(directory) / "corpus"
        corpus.mkdir()
        for name, data in ({} if mutant else seeds() | found()).items():
            (corpus / name).write_bytes(data)
        words = Path(directory) / "words"
        words.write_text("".join(f'"{escaped(word)}"\n' for word in WORDS), encoding="ascii")
        flags: dict[str, object] = {
            "max_total_time": seconds,
            "max_len": LONGEST,
            "timeout": INPUT_SECONDS,
            "rss_limit_mb": 1024,
            "dict": words,
            "artifact_prefix": f"{directory if mutant else FOUND}{os.sep}",
            "print_final_stats": 1,
        }
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.fuzz_decoder", "--child", mutant]
            + [f"-{flag}={value}" for flag, value in flags.items()]
            + [str(corpus)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            check=False,
            timeout=seconds + 2 * INPUT_SECONDS,
        )
        return Result(done.returncode != 0, done.stdout, time.monotonic() - began)


def escaped(word: bytes) -> str:
    """As a dictionary of libFuzzer has it."""
    return "".join(f"\\x{byte:02x}" for byte in word)


def try_inputs(mutant: str, arguments: list[str]) -> None:
    """Hand the target to atheris, which never comes back: it ends the process."""
    atheris: Any = importlib.import_module("atheris")  # it has wheels for Linux only; the rest of this file needs none
    decoder = MUTANTS[mutant] if mutant else Decoder
    # The decoder alone: the reference goes from byte to byte, and is five times as slow where atheris looks.
    members: list[Any] = [*vars(Decoder).values(), *(vars(decoder).values() if mutant else ())]
    for function in filter(inspect.isfunction, members):
        atheris.instrument_func(function)  # in its place

    def target(data: bytes) -> None:
        try:
            check(data, decoder)
        except BaseException as error:
            sys.stderr.write(f"\n{MISTAKE}{type(error).__name__}: {error}\n{Attempt.read(data)}\ninput: {data!r}\n")
            raise

    atheris.Setup([sys.argv[0], *arguments], target)
    atheris.Fuzz()


# --------------------------------------------------------------------------------------------------- The command line


def is_found(mutant: str) -> bool:
    """Whether this mutant was found; prints a line."""
    result = run(MUTANT_SECONDS, mutant)
    show(f"mutant: {mutant}", result)
    if not result.mistake:
        sys.stdout.write(f"THE TARGET IS BLIND: a mistake was not found\n{result.output[-2000:]}\n")
    return bool(result.mistake)


def is_right(seconds: int) -> bool:
    """Whether no mistake of the decoder was found; prints a line, and what was found."""
    result = run(seconds)
    show("the decoder", result)
    if result.failed:
        sys.stdout.write(f"{result.mistake or result.output[-4000:]}\n")
        sys.stdout.write(f"again: python -m tests.fuzz.fuzz_decoder --replay {FOUND.relative_to(ROOT)}/crash-...\n")
    return not result.failed


def show(name: str, result: Result) -> None:
    """A line of the table."""
    ended = "found" if result.mistake else "FAILED" if result.failed else "nothing found"
    speed = result.executions / result.seconds
    sys.stdout.write(f"{name:24}{result.executions:>12}{result.seconds:>10.1f}{speed:>10.0f}  {ended}\n")
    sys.stdout.flush()


def main() -> int:
    """Read the command line; 0 if all is as it should be."""
    if sys.argv[1:2] == ["--child"]:
        try_inputs(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=int(os.environ.get(SECONDS_VARIABLE, "60")))
    parser.add_argument("--mutant", choices=MUTANTS)
    parser.add_argument("--replay", type=Path)
    chosen = parser.parse_args()
    if chosen.replay:
        data = chosen.replay.read_bytes()
        sys.stdout.write(f"{Attempt.read(data)}\n")
        check(data, MUTANTS[chosen.mutant] if chosen.mutant else Decoder)
        return 0
    sys.stdout.write(f"{'':24}{'executions':>12}{'seconds':>10}{'per s':>10}\n")
    good = [is_found(mutant) for mutant in ([chosen.mutant] if chosen.mutant else MUTANTS)]
    if not chosen.mutant:
        good.append(is_right(chosen.seconds))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
