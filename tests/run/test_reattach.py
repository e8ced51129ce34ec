"""Reconnecting to a detached run: the backoff, and when the record is checked.

Rule: the state is pure, so a test is a list of inputs and the expected state.
"""

from __future__ import annotations

from typing import Final

import pytest

from oxygent_client import ServerSentEvent
from oxygent_client._run.reconnect import LAST_WORDS, LONGEST_PAUSE, ReconnectState


def event(name: str, *, retry: int | None = None) -> ServerSentEvent:
    """Return an event "1:a" with id 1 and content "a"; ":a" has no id."""
    number, _, data = name.partition(":")
    return ServerSentEvent(id=number, data=data, retry=retry)


PAUSES: Final[dict[str, tuple[list[float], list[int | None]]]] = {
    # name: (the delays of successive failures, the `retry:` fields of the events before)
    "nothing said": ([1, 2, 4, 8, 16, 30, 30], [None]),
    "real servers": ([3, 6, 12, 24, 30, 30], [3000]),
    "the last word counts": ([0.5, 1, 2], [3000, 500, None]),
    "at once": ([0.1, 0.2, 0.4], [0]),
    "never": ([30, 30], [10**9]),
    "a number that no float holds": ([30, 30], [10**4299]),
}


@pytest.mark.parametrize("name", PAUSES)
def test_backoff(name: str) -> None:
    """The stream's `retry:` sets the delay; failures double it up to 30 s, and an event resets it."""
    expected, retries = PAUSES[name]
    state = ReconnectState()
    for round_ in range(2):
        for number, retry in enumerate(retries):
            state.heard(event(f"{round_}-{number}:", retry=retry))
        assert [state.broke() for _ in expected] == pytest.approx(expected)
    days = [state.broke() for _ in range(2000)]
    assert days[-1] == LONGEST_PAUSE


def due(state: ReconnectState) -> float | None:
    """Return when the record is to be checked."""
    return state.check


def test_checks() -> None:
    """The record is checked 2 s after a connection without an event, then at doubling intervals."""
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
    assert due(state) is None  # an event arrived


def test_a_check_that_a_break_prevents() -> None:
    """If connections end before the record is checked, it is checked as soon as there is one again."""
    state = ReconnectState()
    for waited in (1.0, 1.5):
        state.broke()
        assert due(state) is None  # no connection, so no check is due
        state.came_back(waited)
        assert due(state) == 2
    state.broke()
    state.broke()
    state.came_back(9.0)
    assert due(state) == 2
    state.goes_on(9.0, known=True)
    assert due(state) == 18


def test_events_after_the_end_of_the_record() -> None:
    """Events on their way when the record shows the end have a moment; each event extends it."""
    state = ReconnectState()
    assert not state.is_over(2.0)
    assert due(state) == 2.0 + LAST_WORDS
    assert state.is_over(3.0)
    state.heard(event("1:a"))
    assert not state.is_over(4.0)
    state.goes_on(5.0, known=True)
    assert not state.is_over(6.0)
