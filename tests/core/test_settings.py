"""Settings: validated at construction, compared by content, pickled."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any, Final

import attrs
import pytest

from oxygent_client import Limits, Timeouts, errors
from oxygent_client._core import json_codec
from oxygent_client._protocol.router import copy_json

CLASSES: Final[list[type[Any]]] = [Timeouts, Limits]
FIELDS: Final = [(cls, field.name) for cls in CLASSES for field in attrs.fields(cls)]
MAY_BE_OFF: Final = {
    *("connect", "silence", "idle", "total", "lookup", "confirm"),
    *("line_bytes", "event_bytes", "stream_bytes", "body_bytes"),
}
MIB: Final = 1024 * 1024


def test_the_defaults() -> None:
    """The defaults are the documented ones, in seconds and bytes."""
    assert attrs.asdict(Timeouts()) == {
        "connect": 10,
        "silence": 45,
        "idle": 600,
        "total": 3600,
        "lookup": 0.75,
        "confirm": 30,
    }
    assert attrs.asdict(Limits()) == {
        "line_bytes": None,
        "event_bytes": 16 * MIB,
        "stream_bytes": 1024 * MIB,
        "body_bytes": 8 * MIB,
        "error_body_bytes": 16 * 1024,
        "depth": 128,
        "nodes": 100_000,
        "partial_events": 1000,
        "partial_bytes": MIB,
    }


@pytest.mark.parametrize("value", [0, -1, -0.5, math.nan, -math.inf, "10", [1]])
@pytest.mark.parametrize(("cls", "name"), FIELDS)
def test_invalid_values(cls: type[Any], name: str, value: Any) -> None:
    """A time or size must be a number above zero; the error names the setting and is a ValueError."""
    with pytest.raises(errors.ConfigurationError, match=rf"^{cls.__name__}\.{name} must be") as caught:
        cls(**{name: value})
    assert isinstance(caught.value, ValueError)


def test_maximum_depth() -> None:
    """JSON is copied by recursion, so there is a maximum for the depth setting, at which copying works."""
    with pytest.raises(errors.ConfigurationError, match=r"^Limits\.depth must be .*400; got 401"):
        Limits(depth=401)
    deepest = json_codec.loads("[" * 400 + "]" * 400, depth=Limits(depth=400).depth)
    assert copy_json(deepest) == deepest


@pytest.mark.parametrize(("cls", "name"), FIELDS)
def test_none(cls: type[Any], name: str) -> None:
    """None turns a time-out or a limit off, where its type allows None."""
    if name in MAY_BE_OFF:
        assert getattr(cls(**{name: None}), name) is None
    else:
        with pytest.raises(errors.ConfigurationError, match=name):
            cls(**{name: None})


@pytest.mark.parametrize(("cls", "name"), FIELDS)
def test_values(cls: type[Any], name: str) -> None:
    """Settings are frozen, compare by content, are hashable and pickle."""
    value = cls(**{name: 7})
    assert getattr(value, name) == 7
    assert {cls(**{name: 7}): 1} == {value: 1}
    assert value != cls()
    assert [pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)] == [value] * 3
    assert attrs.evolve(value, **{name: 8}) == cls(**{name: 8})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(value, name, 8)


@pytest.mark.parametrize("cls", CLASSES)
def test_by_keyword_only(cls: type[Any]) -> None:
    """Settings take no positional arguments."""
    with pytest.raises(TypeError):
        cls(10)
