"""How a reader comes back to a detached run: what it leaves out, how long it pauses, when it asks for the record.

Rule: the state is pure, so a test is a list of what happened and what came of it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import ServerSentEvent
from oxygent_client._reattach import LAST_WORDS, LONGEST_PAUSE, REMEMBERED, Reattachment

if TYPE_CHECKING:
    from collections.abc import Sequence


def event(name: str, *, retry: int | None = None) -> ServerSentEvent:
    """An event: its id, and what it says, "1:a"; ":a" has no id."""
    number, _, data = name.partition(":")
    return ServerSentEvent(id=number, data=data, retry=retry)


HEARD: Final[dict[str, tuple[str, str]]] = {
    # name: (what is told, what came; "|" is where the connection broke)
    "in one go": ("1:a 2:b 3:c", "1:a 2:b 3:c"),
    "goes on": ("1:a 2:b 3:c", "1:a 2:b | 3:c"),
    "all again": ("1:a 2:b 3:c", "1:a 2:b | 1:a 2:b 3:c"),
    "the last again": ("1:a 2:b 3:c", "1:a 2:b | 2:b 3:c"),
    "again, and then the same once more": ("1:a 1:a", "1:a | 1:a 1:a"),
    "the same, twice from the beginning": ("1:a 1:a 2:b", "1:a 1:a | 1:a 1:a 2:b"),
    "another after the same id": ("1:a 1:b", "1:a | 1:b"),
    "without ids": (":a :a :b :b", ":a | :a :b | :b"),
    "over two breaks": ("1:a 2:b 3:c", "1:a | 1:a 2:b | 1:a 2:b 3:c"),
    "a break without a word between": ("1:a 2:b", "1:a | | 1:a 2:b"),
    "again in part, twice": ("1:a 2:b 3:c", "1:a 2:b | 1:a | 1:a 2:b 3:c"),
}


@pytest.mark.parametrize("name", HEARD)
def test_what_is_told(name: str) -> None:
    """What comes again after a break is left out, once for each time that it was told; all else is told."""
    expected, came = HEARD[name]
    state = Reattachment()
    told: list[str] = []
    for word in came.split():
        if word == "|":
            state.broke()
        elif state.is_new(event(word)):
            told.append(word)
    assert expected.split() == told


def test_names_count() -> None:
    """Two events of one id and one text are two, if their names are: the close of a run is no message of it."""
    state = Reattachment()
    assert state.is_new(ServerSentEvent(id="1", data="done"))
    state.broke()
    assert state.is_new(ServerSentEvent(id="1", data="done", event="close"))


@given(count=st.integers(0, 12), connections=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12)), max_size=6))
def test_nothing_twice_and_nothing_lost(count: int, connections: Sequence[tuple[int, int]]) -> None:
    """However a server goes back after a break, and whatever repeats in a run: each of its events is told once."""
    events = [event(f"{number}:{number % 3}") for number in range(count)]
    state = Reattachment()
    told: list[ServerSentEvent] = []
    place = 0
    for back, forth in [*connections, (0, count)]:
        start = max(0, place - back)
        sent = events[start : max(place, start + forth)]
        told += [each for each in sent if state.is_new(each)]
        place = max(place, start + len(sent))
        state.broke()
    assert events == told


@given(st.lists(st.one_of(st.none(), st.sampled_from(["1:a", "1:b", "2:a", ":a"])), max_size=40))
def test_each_is_left_out_once(happened: Sequence[str | None]) -> None:
    """Of equal events, no fewer are told than came over any one connection; None is a break."""
    state = Reattachment()
    told: Counter[str] = Counter()
    stretch: Counter[str] = Counter()
    for word in happened:
        if word is None:
            state.broke()
            stretch.clear()
            continue
        stretch[word] += 1
        told[word] += state.is_new(event(word))
        assert stretch[word] <= told[word]


def test_what_is_remembered_is_bounded() -> None:
    """So many events are recognised, and what is kept of each is a few bytes, however large it was."""
    state = Reattachment()
    for number in range(REMEMBERED + 1):
        assert state.is_new(event(f"{number}:{'x' * 1000}"))
    state.broke()
    assert state.is_new(event(f"0:{'x' * 1000}"))
    assert not state.is_new(event(f"1:{'x' * 1000}"))
    assert REMEMBERED * 32 == sum(map(len, state._told))


PAUSES: Final[dict[str, tuple[list[float], list[int | None]]]] = {
    # name: (the pauses of failures one after the other, the `retry:` of the events before)
    "nothing said": ([1, 2, 4, 8, 16, 30, 30], [None]),
    "real servers": ([3, 6, 12, 24, 30, 30], [3000]),
    "the last word counts": ([0.5, 1, 2], [3000, 500, None]),
    "at once": ([0.1, 0.2, 0.4], [0]),
    "never": ([30, 30], [10**9]),
    "a number that no float holds": ([30, 30], [10**4299]),
}


@pytest.mark.parametrize("name", PAUSES)
def test_pauses(name: str) -> None:
    """The stream's `retry:` says how long to pause; failures double it, up to 30 s; an event sets it back."""
    expected, retries = PAUSES[name]
    state = Reattachment()
    for round_ in range(2):
        for number, retry in enumerate(retries):
            state.is_new(event(f"{round_}-{number}:", retry=retry))
        assert pytest.approx(expected) == [state.broke() for _ in expected]
    days = [state.broke() for _ in range(2000)]
    assert LONGEST_PAUSE == days[-1]


def due(state: Reattachment) -> float | None:
    """When the record is to be asked."""
    return state.check


def test_checks() -> None:
    """The record is asked 2 s after a connection without an event, then twice as late each time."""
    state = Reattachment()
    checks: list[float | None] = []
    for _ in range(4):
        checks.append(due(state))
        state.goes_on(due(state) or 0.0, known=True)
    assert [2, 4, 8, 16] == checks
    state.goes_on(50.0, known=True)  # it was due while there was no connection
    assert 100 == due(state)
    state.goes_on(100.0, known=False)
    assert due(state) is None  # there are no records
    state.goes_on(600.0, known=True)
    assert due(state) is None
    state.broke()
    state.came_back(10.0)
    assert 12 == due(state)
    state.is_new(event("1:a"))
    assert due(state) is None  # the queue speaks


def test_a_check_that_a_break_prevents() -> None:
    """Where connections do not last until the record is asked, it is asked as soon as there is one again."""
    state = Reattachment()
    for waited in (1.0, 1.5):
        state.broke()
        assert due(state) is None  # without a connection there is nobody to be asked
        state.came_back(waited)
        assert 2 == due(state)
    state.broke()
    state.broke()
    state.came_back(9.0)
    assert 2 == due(state)
    state.goes_on(9.0, known=True)
    assert 18 == due(state)


def test_the_last_words() -> None:
    """Events that are on their way when the record says that it is over have a moment; an event gives them more."""
    state = Reattachment()
    assert not state.is_over(2.0)
    assert 2.0 + LAST_WORDS == due(state)
    assert state.is_over(3.0)
    state.is_new(event("1:a"))
    assert not state.is_over(4.0)
    state.goes_on(5.0, known=True)
    assert not state.is_over(6.0)
