"""What counts as async: by how a function is defined, since a call might do something already."""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import AsyncMock, MagicMock

import pytest

from oxygent_client import errors
from oxygent_client._core.validation import check_async, check_plain, is_async

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator


async def waits(content: Any = None) -> None:
    """An async function."""


def does(content: Any = None) -> None:
    """A plain one."""


async def yields() -> AsyncGenerator[int, None]:
    """An async generator: a call gives nothing to await."""
    yield 1


@types.coroutine
def generates() -> Generator[None, None, None]:
    """A generator that can be awaited."""
    yield


@functools.wraps(waits)
def wraps(*given: Any) -> Any:
    """A wrapper that gives what it wraps."""
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
    """A class whose objects are awaited."""

    def __await__(self) -> Generator[None, None, None]:
        yield


ASYNC: Final[dict[str, Any]] = {
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
PLAIN: Final[dict[str, tuple[Any, str]]] = {
    # name: (the function, what an error calls it)
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


@pytest.mark.parametrize("function", ASYNC.values(), ids=ASYNC)
def test_what_is_async(function: Any) -> None:
    """It is recognized behind partials, methods, objects and wrappers, and refused where nothing awaits it."""
    assert is_async(function)
    check_async("mine", function)
    with pytest.raises(errors.ConfigurationError, match=r"^mine must be a plain function"):
        check_plain("mine", function)


@pytest.mark.parametrize(("function", "shown"), PLAIN.values(), ids=PLAIN)
def test_what_is_plain(function: Any, shown: str) -> None:
    """It is refused where it would be awaited, and the error says what it is."""
    assert not is_async(function)
    check_plain("mine", function)
    with pytest.raises(errors.ConfigurationError) as caught:
        check_async("mine", function)
    assert str(caught.value).startswith("mine must be an async function")
    assert str(caught.value).endswith(f"got {shown}")


def test_what_is_no_function() -> None:
    """What cannot be called is neither."""
    with pytest.raises(errors.ConfigurationError, match="got int"):
        check_async("mine", 1)
    with pytest.raises(errors.ConfigurationError, match="got int"):
        check_plain("mine", 1)
