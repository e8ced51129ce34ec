"""Inputs found by atheris, and the initial inputs, run again without atheris."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from oxygent_client import Limits
from tests.fuzz.fuzz_decoder import Attempt, check, cut, found, seeds
from tests.fuzz.mutants import MUTANTS

if TYPE_CHECKING:
    from collections.abc import Sequence

INPUTS: Final = seeds() | found()


@pytest.mark.parametrize("name", INPUTS)
def test_inputs(name: str) -> None:
    """The decoder and the reference agree on each kept input."""
    check(INPUTS[name])


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants(mutant: str) -> None:
    """Each mutant fails on the input that atheris found for it."""
    with pytest.raises(AssertionError):
        check(found()[f"mutant-{mutant}"], MUTANTS[mutant])


ATTEMPTS: Final = {
    # the input: the decoded attempt
    b"": Attempt((), Limits(event_bytes=None, stream_bytes=None), b""),
    b"\x01\x02\x03": Attempt((), Limits(line_bytes=1, event_bytes=2, stream_bytes=12), b""),
    b"\x00\x00\x00\x02\x05": Attempt((5, 0), Limits(event_bytes=None, stream_bytes=None), b""),
    b"\x00\xff\x00\x09\x07data": Attempt((7,), Limits(event_bytes=255, stream_bytes=None), b"data"),
}


@pytest.mark.parametrize(("data", "attempt"), ATTEMPTS.items(), ids=repr)
def test_decoding_inputs(data: bytes, attempt: Attempt) -> None:
    """Missing bytes of an input are 0, which is off; an initial input is decoded to itself."""
    assert attempt == Attempt.read(data) == Attempt.read(attempt.write())


CUTS: Final[list[tuple[list[bytes], Sequence[int]]]] = [
    ([b"abcdef"], ()),
    ([b"abcdef"], (0, 0)),
    ([b"a", b"", b"b", b"", b"c", b"", b"d", b"", b"e", b"", b"f"], (1, 0)),
    ([b"ab", b"cde", b"f"], (2, 3)),
]


@pytest.mark.parametrize(("pieces", "sizes"), CUTS)
def test_cuts(pieces: list[bytes], sizes: Sequence[int]) -> None:
    """A stream is cut in these sizes, repeated, without loss."""
    assert cut(b"abcdef", sizes) == pieces
