"""Health of replicas: ejection, its duration, slow start, and the floor of replicas that stay in use."""

from __future__ import annotations

import itertools
import math
import pickle
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import errors
from oxygent_client.cluster import Health
from oxygent_client.cluster._health import LEAST_SHARE, ReplicaHealth, usable

HEALTH: Final = Health(failures=3, base=5.0, cap=30.0, jitter=0.0, slow_start=10.0)
FRESH: Final = ReplicaHealth()


def after(events: str, start: ReplicaHealth = FRESH) -> ReplicaHealth:
    """Return the health after these events, one each second from 0 on.

    f: a call failed, s: one succeeded; m: a check failed, p: one passed; a digit lets so many seconds pass.
    """
    now, standing = 0.0, start
    for event in events:
        if event.isdigit():
            now += int(event)
            continue
        match event:
            case "f":
                standing = standing.failed(HEALTH, now, 0.0)
            case "m":
                standing = standing.missed_check(HEALTH, now, 0.0)
            case "p":
                standing = standing.passed_check(HEALTH, now)
            case _:
                standing = standing.succeeded(now)
        now += 1
    return standing


JUDGED: Final[list[tuple[float, str]]] = [
    # until when it is ejected; the events
    (-math.inf, ""),
    (-math.inf, "ff"),
    (-math.inf, "ffsff"),
    (7.0, "fff"),
    (7.0, "ffff"),  # calls that fail meanwhile had begun before
    (7.0, "mmm"),
    (-math.inf, "mmpmm"),
    (-math.inf, "fmfm"),  # runs and checks are counted apart
    (18.0, "fff5f"),  # one more failure is enough: twice as long
    (38.0, "fff5f9f"),
    (3.0, "fffs"),  # a success ends the ejection
    (3.0, "mmmp"),
    (7.0, "fffp"),  # checks pass, but calls still fail
    (-math.inf, "ffp"),
]


@pytest.mark.parametrize(("until", "events"), JUDGED)
def test_ejection(until: float, events: str) -> None:
    """Failures in a row eject a replica, longer each time; a success ends the ejection."""
    assert after(events).until == until


def test_checks_and_calls() -> None:
    """A passed check clears failed checks only; a successful call clears all."""
    assert after("ffmp").failures == 2
    assert after("ffmp").missed == 0
    assert after("ffms").failures == 0
    assert after("ffms").missed == 0
    assert after("fffmp").failures == 3
    assert after("fffmp").missed == 0


@pytest.mark.parametrize(
    ("seconds", "ejections", "lot"),
    [(5.0, 1, 0.0), (5.5, 1, 0.5), (10.0, 2, 0.0), (20.0, 3, 0.0), (30.0, 4, 0.0), (33.0, 99, 0.5), (30.0, 10**6, 0.0)],
)
def test_the_duration_grows(seconds: float, ejections: int, lot: float) -> None:
    """The duration doubles up to `cap`, plus jitter."""
    assert Health(base=5.0, cap=30.0, jitter=0.2).ejection_seconds(ejections, lot) == seconds


@pytest.mark.parametrize(
    ("share", "now"),
    [(LEAST_SHARE, 6.0), (LEAST_SHARE, 7.0), (LEAST_SHARE, 7.5), (0.5, 12.0), (1.0, 17.0), (1.0, 1000.0)],
)
def test_slow_start(share: float, now: float) -> None:
    """Slow start: the share grows to the whole over `slow_start`; during ejection it is the least."""
    assert after("fff").share(HEALTH, now) == share
    assert after("").share(HEALTH, now) == 1
    assert tuple(after("fff").share(Health(slow_start=0), now) for now in (6.0, 7.0)) == (LEAST_SHARE, 1)


WRONG: Final[list[dict[str, Any]]] = [
    {"failures": 0},
    {"failures": True},
    {"base": -1},
    {"base": math.nan},
    {"min_available": 1.1},
    {"check_seconds": 0},
    {"cap": "long"},
]


@pytest.mark.parametrize("fields", WRONG, ids=str)
def test_invalid_values(fields: dict[str, Any]) -> None:
    """A number out of range raises an error with the field."""
    with pytest.raises(errors.ConfigurationError, match=f"Health.{next(iter(fields))} must be"):
        Health(**fields)


def test_copies() -> None:
    """Health pickles and compares by content."""
    assert pickle.loads(pickle.dumps(HEALTH)) == HEALTH


# ---------------------------------------------------------------------------------------------------------------- Floor

STANDINGS: Final = st.builds(
    ReplicaHealth, failures=st.integers(0, 9), missed=st.integers(0, 9), until=st.floats(-100, 100, allow_nan=False)
)


@given(st.lists(STANDINGS, max_size=12), st.floats(0, 1), st.floats(-100, 100))
def test_floor(listed: list[ReplicaHealth], part: float, now: float) -> None:
    """Enough replicas stay in use: all healthy ones, and of the others those with the fewest failures."""
    standings = {str(number): standing for number, standing in enumerate(listed)}
    able = usable(standings, Health(min_available=part), now)
    well = [name for name in standings if not standings[name].is_ejected(now)]
    assert set(well) <= set(able) <= set(standings)
    assert sorted(able, key=int) == list(able)
    least = min(len(standings), max(1, math.ceil(part * len(standings))))
    assert len(able) == max(len(well), least)
    spared = [standings[name].badness for name in able if name not in well]
    alone = [standings[name].badness for name in standings if name not in able]
    assert not spared or not alone or max(spared) <= min(alone)


def in_a_row(events: list[str], counted: str, forgotten: str) -> int:
    """Return the number of `counted` events since the last of `forgotten`."""
    since = itertools.takewhile(lambda event: event not in forgotten, reversed(events))
    return sum(event == counted for event in since)


def slow_model(story: str) -> tuple[int, int, float, float]:
    """Return failures, failed checks, the end of the ejection and of the slow start, computed from all events."""
    now, until, since, ejections, events = 0.0, -math.inf, -math.inf, 0, list[str]()
    for event in story:
        if event.isdigit():
            now += int(event)
            continue
        events.append(event)
        failures, missed = in_a_row(events, "f", "s"), in_a_row(events, "m", "sp")
        if event == "s" or (event == "p" and failures < 3):
            until, since, ejections = min(until, now), min(since, now), 0
        elif event in "fm" and max(failures, missed) >= 3 and now >= until:
            until = since = now + (5.0, 10.0, 20.0, 30.0)[min(ejections, 3)]
            ejections += 1
        now += 1
    return in_a_row(events, "f", "s"), in_a_row(events, "m", "sp"), until, since


@given(st.text("fffmmmsp19", max_size=60))
def test_slow_model(story: str) -> None:
    """The health, which keeps only the last events, equals that of the slow model."""
    standing = after(story)
    assert slow_model(story) == (standing.failures, standing.missed, standing.until, standing.since)


@given(st.text("fsmp123456789", max_size=60))
def test_a_success_ends_any_ejection(events: str) -> None:
    """After any events a successful call ends the ejection, and successes alone never eject."""
    standing = after(events).succeeded(1000.0)
    assert not standing.is_ejected(1000.0)
    assert standing.failures == 0
    assert standing.missed == 0
    assert standing.ejections == 0
    assert after(events.replace("f", "s").replace("m", "p")).until == -math.inf
    assert 0 < after(events).share(HEALTH, 30.0) <= 1
