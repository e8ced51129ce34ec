"""Validate arguments.

Rule 1: an error names the argument, what is expected, and the class of what was given; never the value.
Rule 2: what is checked is the kind. Whether the value is a good one is said by who uses it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Final, cast

import attrs

from oxygent_client._core.errors import ConfigurationError

__all__ = [
    "DICT",
    "FLAG",
    "ID",
    "MAPPING",
    "NAMES",
    "TEXT",
    "TEXTS",
    "TOKEN",
    "Kind",
    "check_async",
    "check_kinds",
    "check_plain",
    "having",
    "is_async",
    "of",
    "or_none",
]


@attrs.frozen
class Kind:
    """A kind of value."""

    holds: Callable[[Any], bool]
    """Whether a value is of it."""
    expected: str
    """What to give, to be read after "must be"."""


def check_kinds(given: Mapping[str, Any], table: Mapping[str, Kind]) -> None:
    """Nothing, if what was given is of the kinds that the table has for it; other names are passed over.

    Raises:
        ConfigurationError: the text says which is not, and what it must be.
    """
    for name, value in given.items():
        if name in table and not table[name].holds(value):
            raise ConfigurationError(f"{name} must be {table[name].expected}; this is {_shown(value)}")


def is_async(function: Any) -> bool:
    """Whether a call of `function` has to be awaited, by how it is defined: the call itself might do something already.

    Partials, bound methods, objects with an async `__call__`, and wrappers that name what they wrap
    (`functools.wraps`) count as what is behind them.
    """
    while isinstance(function, partial):
        function = cast("partial[Any]", function).func
    if isinstance(function, type):
        return hasattr(cast("type[Any]", function), "__await__")
    of_its_class = getattr(cast("type[Any]", type(function)), "__call__", None)  # noqa: B004  (it is looked at, not tested)
    return _is_coroutine(function) or _is_coroutine(of_its_class)


def _is_coroutine(function: Any) -> bool:
    function = inspect.unwrap(function)
    by_types = inspect.isfunction(function) and function.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE
    return bool(by_types) or inspect.iscoroutinefunction(function)


def check_async(name: str, function: Any) -> None:
    """Nothing, if `function` is async.

    Raises:
        ConfigurationError: it is not; the text has `name`, and says what `function` is.
    """
    if not is_async(function):
        raise ConfigurationError(
            f"{name} must be an async function: define it with `async def`; this is {_described(function)}"
        )


def check_plain(name: str, function: Any) -> None:
    """Nothing, if `function` is a callable that is not async.

    Raises:
        ConfigurationError: it is not; as for `check_async`.
    """
    if not callable(function) or is_async(function):
        raise ConfigurationError(
            f"{name} must be a plain function, without `async`: it is not awaited; this is {_described(function)}"
        )


def _described(function: Any) -> str:
    """The class of a function, and its name where it has one."""
    while isinstance(function, partial):
        function = cast("partial[Any]", function).func
    if isinstance(function, type):
        return f"the class {cast('type[Any]', function).__name__}"
    name = getattr(function, "__qualname__", "")
    kind = ("async " if is_async(function) else "") + type(function).__name__
    return f"{kind} {name[:100]!r}" if isinstance(name, str) and name else kind


def _shown(value: object) -> str:
    """The class of a value, and the classes of what it holds."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    held: list[Any] = []
    if isinstance(value, Collection) and not isinstance(value, str | bytes):
        held = [*cast("Collection[Any]", value)]
    if isinstance(value, Mapping):
        held += cast("Mapping[Any, Any]", value).values()
    names = ", ".join(sorted({type(item).__name__ for item in held}))
    return f"{name} of {names}" if names else name


def of(cls: type[Any], expected: str) -> Kind:
    """An instance of a class."""
    return Kind(lambda value: isinstance(value, cls) and not isinstance(value, type), expected)


def having(method: str, expected: str) -> Kind:
    """Whatever has a method of that name."""
    return Kind(lambda value: callable(getattr(value, method, None)) and not isinstance(value, type), expected)


def or_none(kind: Kind) -> Kind:
    """Likewise, or None."""
    return Kind(lambda value: value is None or kind.holds(value), f"{kind.expected}, or None")


def _are_texts(values: Collection[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_names(value: object) -> bool:
    return isinstance(value, Collection) and not isinstance(value, str) and _are_texts(cast("Collection[Any]", value))


def _is_texts(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    texts = cast("Mapping[Any, Any]", value)
    return _are_texts(texts.keys()) and _are_texts(texts.values())


TEXT: Final = of(str, "a text")
FLAG: Final = of(bool, "True or False")
ID: Final = or_none(of(str, "a text"))
DICT: Final = of(dict, "a dict")
MAPPING: Final = of(Mapping, "a mapping such as a dict")
TEXTS: Final = Kind(_is_texts, "a mapping from names to texts, such as {'x-name': 'value'}")
TOKEN: Final = of(str, "the text that handle.to_token() gives")
NAMES: Final = Kind(_is_names, "a collection of names, such as {'name'}")
