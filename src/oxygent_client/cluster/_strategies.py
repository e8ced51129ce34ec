"""Load-balancing strategies: pick the next replica.

Rule 1: a strategy is a function of the candidates, a key, a memory and a random source; STRATEGIES lists all.
Rule 2: the second choice for a call is random: neighbours often fail together, and a replica that fails at once seems
    idle.
Rule 3: a strategy picks one of the candidates, whatever its memory holds of others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import attrs

Strategy: TypeAlias = Literal["round_robin", "random", "least_in_flight", "power_of_two", "weighted", "affinity"]
RandomSource: TypeAlias = Callable[[], float]
"""Returns a random number from 0 to 1, without 1."""
Memory: TypeAlias = dict[str, float]
"""The current weight of each replica, for the weighted round robin."""


@attrs.frozen
class Candidate:
    """A replica that may be picked."""

    url: str
    weight: float = 1.0
    share: float = 1.0
    """Less than 1 during a slow start."""
    in_flight: int = 0
    last: int = 0
    """Number of the last pick that took it."""

    @property
    def load(self) -> float:
        """Calls in flight and one more, relative to its weight and share."""
        return (self.in_flight + 1) / (self.weight * self.share)


def smooth(weights: Mapping[str, float], memory: Memory) -> str:
    """Smooth weighted round robin, as in nginx: in proportion to the weights, spread evenly (5, 1, 1: a a b a c a a).

    With equal weights it is round robin. It updates `memory`.
    """
    for name, weight in weights.items():
        memory[name] = memory.get(name, 0.0) + weight
    chosen = max(weights, key=lambda name: memory[name])
    memory[chosen] -= sum(weights.values())
    return chosen


def _by_url(candidates: Sequence[Candidate], url: str) -> Candidate:
    return next(candidate for candidate in candidates if candidate.url == url)


def _round_robin(candidates: Sequence[Candidate], key: str, memory: Memory, rng: RandomSource) -> Candidate:
    return _by_url(candidates, smooth({each.url: each.share for each in candidates}, memory))


def _weighted(candidates: Sequence[Candidate], key: str, memory: Memory, rng: RandomSource) -> Candidate:
    return _by_url(candidates, smooth({each.url: each.weight * each.share for each in candidates}, memory))


def _random(candidates: Sequence[Candidate], key: str, memory: Memory, rng: RandomSource) -> Candidate:
    left = rng() * sum(each.weight * each.share for each in candidates)
    for each in candidates:
        left -= each.weight * each.share
        if left < 0:
            return each
    return candidates[-1]  # if the sum was rounded up


def _least_in_flight(candidates: Sequence[Candidate], key: str, memory: Memory, rng: RandomSource) -> Candidate:
    return min(candidates, key=lambda each: (each.load, each.last))


def _power_of_two(candidates: Sequence[Candidate], key: str, memory: Memory, rng: RandomSource) -> Candidate:
    first = int(rng() * len(candidates))
    if len(candidates) == 1:
        return candidates[first]
    second = (first + 1 + int(rng() * (len(candidates) - 1))) % len(candidates)
    return min(candidates[first], candidates[second], key=lambda each: each.load)


def _affinity(candidates: Sequence[Candidate], key: str, memory: Memory, rng: RandomSource) -> Candidate:
    """Rendezvous hashing: a replica that leaves or returns moves only its own keys."""
    if not key:
        return _weighted(candidates, key, memory, rng)
    return max(candidates, key=lambda each: _score(each, key))


def _score(candidate: Candidate, key: str) -> float:
    digest = hashlib.blake2b(f"{candidate.url}\n{key}".encode(errors="surrogatepass"), digest_size=8).digest()
    number = int.from_bytes(digest) >> 12  # with more bits the quotient could be rounded to 1
    return -candidate.weight / math.log((number + 0.5) / 2.0**52)  # so that keys fall in proportion to weight


STRATEGIES: Final[Mapping[Strategy, Callable[[Sequence[Candidate], str, Memory, RandomSource], Candidate]]] = (
    MappingProxyType(
        {
            "round_robin": _round_robin,
            "random": _random,
            "least_in_flight": _least_in_flight,
            "power_of_two": _power_of_two,
            "weighted": _weighted,
            "affinity": _affinity,
        }
    )
)
"""`affinity` picks by `key`; the other strategies ignore it."""


def pick(
    strategy: Strategy, candidates: Sequence[Candidate], key: str, memory: Memory, rng: RandomSource, *, again: bool
) -> Candidate:
    """Pick the next replica; `again` for a failover, after another was tried."""
    by = "random" if again and strategy != "affinity" else strategy
    return STRATEGIES[by](candidates, key, memory, rng)
