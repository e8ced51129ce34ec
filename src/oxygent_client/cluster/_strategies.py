"""Load-balancing strategies: pick the next replica.

Rule 1: a strategy is a plain function of the candidates, a key, a memory and a source of lots; STRATEGIES names all.
Rule 2: the second choice for a call is by lot: neighbours often fail together, and who fails at once seems idle.
Rule 3: whom it picks is one of the candidates, whatever it remembers of others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import attrs

__all__ = ["STRATEGIES", "Candidate", "Lot", "Memory", "Strategy", "pick", "smooth"]

Strategy: TypeAlias = Literal["round_robin", "random", "least_in_flight", "power_of_two", "weighted", "affinity"]
Lot: TypeAlias = Callable[[], float]
"""Gives a number from 0 to 1, the 1 excluded."""
Memory: TypeAlias = dict[str, float]
"""By how much each is behind its turn."""


@attrs.frozen
class Candidate:
    """A replica that may be asked."""

    url: str
    weight: float = 1.0
    share: float = 1.0
    """Less than 1 for one that has just come back."""
    in_flight: int = 0
    last: int = 0
    """The number of the pick that took it last."""

    @property
    def load(self) -> float:
        """How busy it would be with one call more, for its size."""
        return (self.in_flight + 1) / (self.weight * self.share)


def smooth(weights: Mapping[str, float], memory: Memory) -> str:
    """Whose turn it is, in proportion to the weights and spread evenly: 5, 1, 1 give a a b a c a a.

    nginx's smooth weighted round robin; with equal weights it is round robin. `memory` is brought up to date.
    """
    for name, weight in weights.items():
        memory[name] = memory.get(name, 0.0) + weight
    chosen = max(weights, key=lambda name: memory[name])
    memory[chosen] -= sum(weights.values())
    return chosen


def _by_url(candidates: Sequence[Candidate], url: str) -> Candidate:
    return next(candidate for candidate in candidates if candidate.url == url)


def _round_robin(candidates: Sequence[Candidate], key: str, memory: Memory, lot: Lot) -> Candidate:
    return _by_url(candidates, smooth({each.url: each.share for each in candidates}, memory))


def _weighted(candidates: Sequence[Candidate], key: str, memory: Memory, lot: Lot) -> Candidate:
    return _by_url(candidates, smooth({each.url: each.weight * each.share for each in candidates}, memory))


def _random(candidates: Sequence[Candidate], key: str, memory: Memory, lot: Lot) -> Candidate:
    left = lot() * sum(each.weight * each.share for each in candidates)
    for each in candidates:
        left -= each.weight * each.share
        if left < 0:
            return each
    return candidates[-1]  # for a sum that was rounded up


def _least_in_flight(candidates: Sequence[Candidate], key: str, memory: Memory, lot: Lot) -> Candidate:
    return min(candidates, key=lambda each: (each.load, each.last))


def _power_of_two(candidates: Sequence[Candidate], key: str, memory: Memory, lot: Lot) -> Candidate:
    first = int(lot() * len(candidates))
    if len(candidates) == 1:
        return candidates[first]
    second = (first + 1 + int(lot() * (len(candidates) - 1))) % len(candidates)
    return min(candidates[first], candidates[second], key=lambda each: each.load)


def _affinity(candidates: Sequence[Candidate], key: str, memory: Memory, lot: Lot) -> Candidate:
    """Rendezvous hashing: one that leaves or comes back moves no key but its own."""
    if not key:
        return _weighted(candidates, key, memory, lot)
    return max(candidates, key=lambda each: _score(each, key))


def _score(candidate: Candidate, key: str) -> float:
    digest = hashlib.blake2b(f"{candidate.url}\n{key}".encode(errors="surrogatepass"), digest_size=8).digest()
    number = int.from_bytes(digest) >> 12  # with more bits than these the quotient could be rounded to 1
    return -candidate.weight / math.log((number + 0.5) / 2.0**52)  # so that keys fall in proportion to weight


STRATEGIES: Final[Mapping[Strategy, Callable[[Sequence[Candidate], str, Memory, Lot], Candidate]]] = MappingProxyType(
    {
        "round_robin": _round_robin,
        "random": _random,
        "least_in_flight": _least_in_flight,
        "power_of_two": _power_of_two,
        "weighted": _weighted,
        "affinity": _affinity,
    }
)
"""`key` is what `affinity` goes by; the others take no notice of it."""


def pick(
    strategy: Strategy, candidates: Sequence[Candidate], key: str, memory: Memory, lot: Lot, *, again: bool
) -> Candidate:
    """Who is asked; `again` says that another has refused this call."""
    by = "random" if again and strategy != "affinity" else strategy
    return STRATEGIES[by](candidates, key, memory, lot)
