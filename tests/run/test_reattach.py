"""How a reader comes back to a detached run: how long it pauses, when it asks for the record.

Rule: the state is pure, so a test is a list of what happened and what came of it.
"""

from __future__ import annotations

from typing import Final

import pytest

from oxygent_client import ServerSentEvent
from oxygent_client._run.reconnect import LAST_WORDS, LONGEST_PAUSE, ReconnectState


def event(name: str, *, retry: int | None = None) -> ServerSentEvent:
    """An event: its id, and what it says, "1:a"; ":a" has no id."""
    number, _, data = name.partition(":")
    return ServerSentEvent(id=number, data=data, retry=retry)


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
    state = ReconnectState()
    for round_ in range(2):
        for number, retry in enumerate(retries):
            state.heard(event(f"{round_}-{number}:", retry=retry))
        assert [state.broke() for _ in expected] == pytest.approx(expected)
    days = [state.broke() for _ in range(2000)]
    assert days[-1] == LONGEST_PAUSE


def due(state: ReconnectState) -> float | None:
    """When the record is to be asked."""
    return state.check


def test_checks() -> None:
    """The record is asked 2 s after a connection without an event, then twice as late each time."""
    state = ReconnectState()
    checks: list[float | None] = []
    for _ in range(4):
        checks.append(due(state))
        state.goes_on(due(state) or 0.0, known=True)
    assert checks == [2, 4, 8, 16]
    state.goes_on(50.0, known=True)  # it was due while there was no connection
    assert due(state) == 100
    state.goes_on(100.0, known=False)
    assert due(state) is None  # there are no records
    state.goes_on(600.0, known=True)
    assert due(state) is None
    state.broke()
    state.came_back(10.0)
    assert due(state) == 12
    state.heard(event("1:a"))
    assert due(state) is None  # the queue speaks


def test_a_check_that_a_break_prevents() -> None:
    """Where connections do not last until the record is asked, it is asked as soon as there is one again."""
    state = ReconnectState()
    for waited in (1.0, 1.5):
        state.broke()
        assert due(state) is None  # without a connection there is nobody to be asked
        state.came_back(waited)
        assert due(state) == 2
    state.broke()
    state.broke()
    state.came_back(9.0)
    assert due(state) == 2
    state.goes_on(9.0, known=True)
    assert due(state) == 18


def test_the_last_words() -> None:
    """Events that are on their way when the record says that it is over have a moment; an event gives them more."""
    state = ReconnectState()
    assert not state.is_over(2.0)
    assert due(state) == 2.0 + LAST_WORDS
    assert state.is_over(3.0)
    state.heard(event("1:a"))
    assert not state.is_over(4.0)
    state.goes_on(5.0, known=True)
    assert not state.is_over(6.0)
