"""Argument validation; async functions are recognized by their definition, without a call."""

from __future__ import annotations

import functools
import math
import types
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import AsyncMock, MagicMock

import pytest

from oxygent_client import errors
from oxygent_client._core.validation import (
    ASYNC,
    DICT,
    FLAG,
    MAPPING,
    NAMES,
    PLAIN,
    TEXT,
    TEXTS,
    Rule,
    check_async,
    check_plain,
    either,
    has_method,
    integer,
    is_async,
    number,
    one_of,
    optional,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator


async def waits(content: Any = None) -> None:
    """An async function."""


def does(content: Any = None) -> None:
    """A plain function."""


async def yields() -> AsyncGenerator[int, None]:
    """An async generator: a call returns nothing to await."""
    yield 1


@types.coroutine
def generates() -> Generator[None, None, None]:
    """A generator that can be awaited."""
    yield


@functools.wraps(waits)
def wraps(*given: Any) -> Any:
    """A wrapper that returns its argument."""
    return waits(*given)


class Waits:
    """An object with an async call, and methods of both kinds."""

    async def __call__(self, content: Any) -> None:
        """Wait."""

    async def waits(self, content: Any) -> None:
        """Wait."""

    def does(self, content: Any) -> None:
        """Do not wait."""

    @classmethod
    async def of_the_class(cls, content: Any) -> None:
        """Wait."""

    @staticmethod
    async def static(content: Any) -> None:
        """Wait."""


class Does:
    """An object with a plain call."""

    def __call__(self, content: Any) -> None:
        """Do not wait."""


class Awaited:
    """A class whose objects are awaitable."""

    def __await__(self) -> Generator[None, None, None]:
        yield


ASYNC_FUNCTIONS: Final[dict[str, Any]] = {
    "a function": waits,
    "a partial": functools.partial(waits, 1),
    "a partial of a partial": functools.partial(functools.partial(Waits().waits)),
    "a method": Waits().waits,
    "a class method": Waits.of_the_class,
    "a static method": Waits.static,
    "an object": Waits(),
    "a partial of an object": functools.partial(Waits()),
    "a wrapper": wraps,
    "a generator that can be awaited": generates,
    "a class whose objects are awaited": Awaited,
    "a mock": AsyncMock(),
}
HEARD: Final[list[Any]] = []
PLAIN_FUNCTIONS: Final[dict[str, tuple[Any, str]]] = {
    # name: (the function, its description in an error)
    "a function": (does, "function 'does'"),
    "a lambda": (lambda content: None, "function '<lambda>'"),  # pyright: ignore[reportUnknownLambdaType]  (a lambda cannot say its types)
    "a partial": (functools.partial(does, 1), "function 'does'"),
    "a method": (Waits().does, "method 'Waits.does'"),
    "an object": (Does(), "Does"),
    "a class": (dict, "the class dict"),
    "of the system": (print, "builtin_function_or_method 'print'"),
    "a method of the system": (HEARD.append, "builtin_function_or_method 'list.append'"),
    "an async generator": (yields, "function 'yields'"),
    "a mock": (MagicMock(), "MagicMock"),
}


@pytest.mark.parametrize("function", ASYNC_FUNCTIONS.values(), ids=ASYNC_FUNCTIONS)
def test_async_functions(function: Any) -> None:
    """An async function is recognized behind partials, methods and wrappers, and refused where it is not awaited."""
    assert is_async(function)
    check_async("mine", function)
    with pytest.raises(errors.ConfigurationError, match=r"^mine must be a plain function"):
        check_plain("mine", function)


@pytest.mark.parametrize(("function", "shown"), PLAIN_FUNCTIONS.values(), ids=PLAIN_FUNCTIONS)
def test_plain_functions(function: Any, shown: str) -> None:
    """A plain function is refused where it would be awaited; the error describes it."""
    assert not is_async(function)
    check_plain("mine", function)
    with pytest.raises(errors.ConfigurationError) as caught:
        check_async("mine", function)
    assert str(caught.value).startswith("mine must be an async function")
    assert str(caught.value).endswith(f"got {shown}")


def test_objects_that_are_not_callable() -> None:
    """An object that is not callable is neither."""
    with pytest.raises(errors.ConfigurationError, match="got int"):
        check_async("mine", 1)
    with pytest.raises(errors.ConfigurationError, match="got int"):
        check_plain("mine", 1)


class Unprintable:
    """A value whose repr never returns."""

    def __repr__(self) -> str:
        raise RecursionError

    def does(self) -> None:
        """Do nothing."""


RULES: Final = {
    "text": TEXT,
    "flag": FLAG,
    "dict": DICT,
    "mapping": MAPPING,
    "texts": TEXTS,
    "names": NAMES,
    "async": ASYNC,
    "number": number(),
    "integer": integer(),
    "choice": one_of("x"),
    "either": either(FLAG, NAMES),
    "optional": optional(TEXT),
    "method": has_method("exchange", "a transport"),
}
VALUES: Final[list[Any]] = [[Unprintable()], {"x": Unprintable()}, Unprintable().does, 10**5000]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_value_is_not_shown(rule: Rule) -> None:
    """No rule uses the repr of a value, which may be long, secret or endless."""
    with pytest.raises(errors.ConfigurationError, match=r"^mine must be .*; got Unprintable$"):
        rule.check("mine", Unprintable())


@pytest.mark.parametrize("value", VALUES, ids=["list", "dict", "method", "digits"])
def test_members_are_not_shown(value: Any) -> None:
    """No rule uses the repr of a collection."""
    with pytest.raises(errors.ConfigurationError, match=r"^mine must be a str; got "):
        TEXT.check("mine", value)
    assert PLAIN.accepts(Unprintable().does)


NUMBERS: Final[list[tuple[Rule, Any, bool]]] = [
    # rule, value, whether it is accepted
    (number(), 1.5, True),
    (number(), True, False),
    (number(), math.nan, False),
    (number(), math.inf, False),
    (number(), -math.inf, False),
    (number(ge=0), 0, True),
    (number(gt=0), 0, False),
    (number(gt=0, le=1), 1.1, False),
    (integer(ge=1), 1, True),
    (integer(ge=1), 1.0, False),
    (integer(ge=1), 0, False),
    (integer(ge=1), 10**5000, False),
]


@pytest.mark.parametrize(("rule", "value", "accepted"), NUMBERS, ids=range(len(NUMBERS)))
def test_numbers(rule: Rule, value: Any, accepted: bool) -> None:
    """A number must be finite and within its bounds."""
    assert rule.accepts(value) == accepted


def test_a_refused_number_is_shown() -> None:
    """The error of a refused number shows it."""
    with pytest.raises(errors.ConfigurationError, match=r"^pace must be a finite number > 0 and <= 1; got -0\.5$"):
        number(gt=0, le=1).check("pace", -0.5)
