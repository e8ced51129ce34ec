"""Load balancing strategies: a candidate, in the right proportions; with affinity always the same."""

from __future__ import annotations

import collections
import itertools
import random
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client.cluster._strategies import STRATEGIES, Candidate, Strategy, pick, smooth

FIVE: Final = [Candidate(url) for url in "abcde"]
CHI_SQUARE: Final = 18.47
"""Four degrees of freedom: a fair draw exceeds it once in a thousand times (NIST, table 1.3.6.7.4)."""

CANDIDATES: Final = st.lists(
    st.builds(
        Candidate,
        url=st.text("abcdefgh", min_size=1, max_size=2),
        weight=st.floats(0.01, 100),
        share=st.floats(0.1, 1),
        in_flight=st.integers(0, 50),
        last=st.integers(0, 50),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda each: each.url,
)
LOTS: Final = st.floats(0, 1, exclude_max=True)
MEMORY: Final = st.dictionaries(st.text("abcdefgh", max_size=2), st.floats(-1e6, 1e6))


@given(st.sampled_from(sorted(STRATEGIES)), CANDIDATES, st.text(max_size=5), MEMORY, st.lists(LOTS, min_size=2))
def test_only_candidates_are_picked(
    strategy: Strategy, candidates: list[Candidate], key: str, memory: dict[str, float], lots: list[float]
) -> None:
    """A strategy picks one of the candidates, for any state and random numbers."""
    picked = STRATEGIES[strategy](candidates, key, memory, itertools.cycle(lots).__next__)
    assert picked in candidates


def counted(strategy: Strategy, candidates: list[Candidate], times: int, key: str = "") -> dict[str, int]:
    """Return the picks of each, with a fixed seed; `last` is kept up to date."""
    lot, memory = random.Random(7).random, dict[str, float]()
    count: collections.Counter[str] = collections.Counter()
    places = {each.url: each for each in candidates}
    for number in range(1, times + 1):
        chosen = STRATEGIES[strategy](list(places.values()), key, memory, lot)
        places[chosen.url] = Candidate(chosen.url, chosen.weight, chosen.share, chosen.in_flight, number)
        count[chosen.url] += 1
    return count


@pytest.mark.parametrize("strategy", ["round_robin", "weighted", "least_in_flight"])
def test_round_robin(strategy: Strategy) -> None:
    """Round robin picks each equally often."""
    assert dict.fromkeys("abcde", 1000) == counted(strategy, FIVE, 5000)


@pytest.mark.parametrize("strategy", ["random", "power_of_two"])
def test_random(strategy: Strategy) -> None:
    """Random picks are balanced: the chi-square of 5,000 with a fixed seed."""
    count = counted(strategy, FIVE, 5000)
    assert sum((count[url] - 1000) ** 2 / 1000 for url in "abcde") < CHI_SQUARE


def test_smooth() -> None:
    """Smooth weighted round robin, by nginx's example: small weights are spread, and each round repeats."""
    memory: dict[str, float] = {}
    assert "".join(smooth({"a": 5, "b": 1, "c": 1}, memory) for _ in range(7)) == "aabacaa"
    assert memory == {"a": 0, "b": 0, "c": 0}


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_smooth_keeps_the_proportions(weights: list[int]) -> None:
    """In a round as long as the sum of the weights each is picked as often as its weight."""
    named = {str(number): float(weight) for number, weight in enumerate(weights)}
    memory: dict[str, float] = {}
    assert collections.Counter(smooth(named, memory) for _ in range(sum(weights))) == named


PROPORTIONS: Final[list[tuple[Strategy, int, str]]] = [
    # of 4,000, the picks of the one of weight 3 and of one of weight 1
    ("round_robin", 2000, "takes no notice of weights"),
    ("weighted", 3000, ""),
    ("random", 3000, ""),
    ("affinity", 3000, "no key: as weighted"),
]


@pytest.mark.parametrize(("strategy", "many", "why"), PROPORTIONS)
def test_weights(strategy: Strategy, many: int, why: str) -> None:
    """Picks are in proportion to weights."""
    count = counted(strategy, [Candidate("a", weight=3), Candidate("b")], 4000)
    assert count["a"] == pytest.approx(many, rel=0.05), why


@pytest.mark.parametrize("strategy", ["round_robin", "weighted", "random"])
def test_slow_start(strategy: Strategy) -> None:
    """A replica in slow start with a share of a tenth gets a tenth of the picks."""
    count = counted(strategy, [Candidate("a", share=0.1), Candidate("b")], 5500)
    assert count["a"] == pytest.approx(500, rel=0.15)


LOADED: Final[list[tuple[str, list[Candidate]]]] = [
    ("b", [Candidate("a", in_flight=2), Candidate("b", in_flight=1)]),
    ("b", [Candidate("a", last=7), Candidate("b", last=3)]),
    ("a", [Candidate("a", in_flight=2, weight=4), Candidate("b", in_flight=0)]),
    ("b", [Candidate("a", share=0.1), Candidate("b", in_flight=8)]),
    ("a", [Candidate("a", share=0.1), Candidate("b", in_flight=10)]),
]


@pytest.mark.parametrize(("expected", "candidates"), LOADED)
def test_least_in_flight(expected: str, candidates: list[Candidate]) -> None:
    """The one with the fewest calls for its weight is picked; of equals, the one not picked longest."""
    assert STRATEGIES["least_in_flight"](candidates, "", {}, float).url == expected


def test_power_of_two() -> None:
    """Of two random candidates the less busy is picked: never the busiest of all."""
    candidates = [Candidate(url, in_flight=busy) for url, busy in zip("abcde", (1, 1, 9, 1, 1), strict=True)]
    assert set(counted("power_of_two", candidates, 500)) == {"a", "b", "d", "e"}
    assert set(counted("power_of_two", [Candidate("a", in_flight=9)], 5)) == {"a"}


def test_a_random_number_beyond_the_sum() -> None:
    """A random number at the rounded sum of the weights picks the last."""
    assert STRATEGIES["random"](FIVE, "", {}, lambda: 1.0).url == "e"


def affine(candidates: list[Candidate], key: str) -> str:
    """Return the pick for a key: random numbers and state do not matter."""
    no: Any = None
    return STRATEGIES["affinity"](candidates, key, no, no).url


@given(CANDIDATES, st.text(min_size=1), st.randoms(use_true_random=False))
def test_affinity_moves_only_keys_of_a_replica_that_leaves(
    candidates: list[Candidate], key: str, order: random.Random
) -> None:
    """A key moves only if its own replica leaves, and moves back when it returns."""
    home = affine(candidates, key)
    shuffled = order.sample(candidates, len(candidates))
    assert affine(shuffled, key) == home
    for gone in candidates:
        left = [each for each in candidates if each != gone]
        if left:
            assert (home == affine(left, key)) == (gone.url != home)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_second_choice(strategy: Strategy) -> None:
    """The second choice is random, not the neighbour or the idlest; with affinity it is fixed by the group."""
    candidates = [Candidate("a"), Candidate("b", in_flight=9, last=9), Candidate("c", in_flight=9, last=9)]
    lots = itertools.cycle((0.1, 0.5, 0.9)).__next__
    drawn = {pick(strategy, candidates, "k", {}, lots, again=True).url for _ in range(3)}
    assert drawn == ({affine(candidates, "k")} if strategy == "affinity" else {"a", "b", "c"})


def test_affinity_follows_weights() -> None:
    """Keys are in proportion to weights."""
    candidates = [Candidate("a", weight=3), *FIVE[1:]]
    count = collections.Counter(affine(candidates, f"group {number}") for number in range(7000))
    assert count == pytest.approx({"a": 3000, "b": 1000, "c": 1000, "d": 1000, "e": 1000}, rel=0.1)
    assert affine(candidates, "a lone \ud800") in "abcde"
