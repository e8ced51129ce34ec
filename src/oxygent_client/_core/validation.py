"""Validate arguments.

Rule 1: an error names the argument, the expected kind of value and the class of the given value; never the value.
Rule 2: a `Rule` is an attrs validator; `Rule.check` applies it to an argument of a function.
Rule 3: a rule is a predicate. The validators of attrs build their texts with the repr of a value that they refuse, also
    inside `not_`: that may be long, fail, or never end.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Final, TypeAlias, cast

import attrs

from oxygent_client._core.errors import ConfigurationError

Predicate: TypeAlias = Callable[[Any], bool]


@attrs.frozen(eq=False, repr=False)
class Rule:
    """An attrs validator; its errors are `ConfigurationError`."""

    expected: str
    """The values that it accepts, to be read after "must be"."""
    accepts: Predicate
    is_number: bool = False
    """Whether the values are numbers: a number that is refused may be shown, since it is no secret."""

    def __call__(self, instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        self.check(f"{type(instance).__name__}.{attribute.name}", value)

    def check(self, name: str, value: object) -> None:
        """Check an argument.

        Raises:
            ConfigurationError: `value` is invalid; the text starts with `name`.
        """
        if not self.accepts(value):
            shown = self.is_number and type(value) in (int, float) and abs(cast("float", value)) <= _SHOWN
            got = f"{value:g}" if shown else _description(value)
            raise ConfigurationError(f"{name} must be {self.expected}; got {got}")


LARGEST: Final = sys.float_info.max
"""The largest number that is finite; an int may be larger, and is no float then."""
_SHOWN: Final = 1e18
"""The largest number in the text of an error."""


def check_each(given: Mapping[str, object], rules: Mapping[str, Rule]) -> None:
    """Check those of the given arguments that have a rule.

    Raises:
        ConfigurationError: one is invalid.
    """
    for name, value in given.items():
        if name in rules:
            rules[name].check(name, value)


def instance_of(cls: type[Any], expected: str) -> Rule:
    """Accept instances of `cls`; a class is none, though it may pass for one of a runtime-checkable protocol."""
    return Rule(expected, lambda value: isinstance(value, cls) and not isinstance(value, type))


def has_method(name: str, expected: str) -> Rule:
    """Accept any object with such a method: a fake needs no more."""
    return Rule(expected, lambda value: callable(getattr(value, name, None)) and not isinstance(value, type))


def one_of(*choices: str) -> Rule:
    """Accept these texts."""
    return Rule(
        " or ".join(f'"{choice}"' for choice in choices), lambda value: isinstance(value, str) and value in choices
    )


def optional(rule: Rule) -> Rule:
    """Accept None too."""
    return Rule(f"{rule.expected}, or None", lambda value: value is None or rule.accepts(value), rule.is_number)


def either(one: Rule, other: Rule) -> Rule:
    """Accept the values of two rules."""
    return Rule(f"{one.expected} or {other.expected}", lambda value: one.accepts(value) or other.accepts(value))


def number(*, ge: float = -LARGEST, gt: float = -math.inf, le: float = LARGEST) -> Rule:
    """Accept numbers that are at least `ge`, more than `gt` and at most `le`; True and False are no numbers."""
    return _number("a finite number", (int, float), ge, gt, le)


def integer(*, ge: float = -LARGEST, gt: float = -math.inf, le: float = LARGEST) -> Rule:
    """Likewise, whole numbers (`int`)."""
    return _number("an integer", (int,), ge, gt, le)


def _number(expected: str, types: tuple[type, ...], ge: float, gt: float, le: float) -> Rule:
    bounds = [f"{sign} {limit:g}" for sign, limit in ((">=", ge), (">", gt), ("<=", le)) if abs(limit) < LARGEST]

    def accepts(value: Any) -> bool:
        is_number = isinstance(value, types) and not isinstance(value, bool)
        return is_number and ge <= value <= le and value > gt

    return Rule(" ".join(filter(None, (expected, " and ".join(bounds)))), accepts, is_number=True)


@attrs.frozen(eq=False, repr=False)
class ValuesRule:
    """A validator of mappings: applies a rule to each value; an error names the key."""

    rule: Rule

    def __call__(self, instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        self.check(f"{type(instance).__name__}.{attribute.name}", value)

    def check(self, name: str, value: object) -> None:
        """Check an argument.

        Raises:
            ConfigurationError: it is no mapping, or one of its values is invalid.
        """
        MAPPING.check(name, value)
        for key, member in cast("Mapping[Any, Any]", value).items():
            self.rule.check(f"{name}[{str(key)[:100]!r}]", member)


def is_async(function: Any) -> bool:
    """Whether a call of `function` has to be awaited, by how it is defined: it is not called.

    Partials, bound methods, objects with an async `__call__`, and wrappers that name the function they wrap
    (`functools.wraps`) count as the function behind them.
    """
    while isinstance(function, partial):
        function = cast("partial[Any]", function).func
    if isinstance(function, type):
        return hasattr(cast("type[Any]", function), "__await__")
    of_its_class = getattr(cast("type[Any]", type(function)), "__call__", None)  # noqa: B004  (it is inspected, not tested)
    return _is_coroutine(function) or _is_coroutine(of_its_class)


def _is_coroutine(function: Any) -> bool:
    function = inspect.unwrap(function)
    by_types = inspect.isfunction(function) and function.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE
    return bool(by_types) or inspect.iscoroutinefunction(function)


def _are_texts(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_mapping_of_texts(value: Any) -> bool:
    return isinstance(value, Mapping) and _are_texts(value) and _are_texts(cast("Mapping[Any, Any]", value).values())


def _is_collection_of_texts(value: Any) -> bool:
    return isinstance(value, Collection) and not isinstance(value, str) and _are_texts(value)


def _description(value: object) -> str:
    """The class of a value, with the name of a function or the classes of the members of a collection."""
    while isinstance(value, partial):
        value = cast("partial[Any]", value).func
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    if callable(value):
        function = getattr(value, "__qualname__", "")
        name = f"async {name}" if is_async(value) else name
        return f"{name} {function[:100]!r}" if isinstance(function, str) and function else name
    held: list[Any] = []
    if isinstance(value, Collection) and not isinstance(value, str | bytes):
        held = [*cast("Collection[Any]", value)]
    if isinstance(value, Mapping):
        held += cast("Mapping[Any, Any]", value).values()
    names = ", ".join(sorted({type(item).__name__ for item in held}))
    return f"{name} of {names}" if names else name


TEXT: Final = instance_of(str, "a str")
FLAG: Final = instance_of(bool, "True or False")
DICT: Final = instance_of(dict, "a dict")
MAPPING: Final = instance_of(Mapping, "a mapping such as a dict")
TEXTS: Final = Rule("a mapping from names to str, such as {'x-name': 'value'}", _is_mapping_of_texts)
NAMES: Final = Rule("a collection of names, such as {'name'}", _is_collection_of_texts)
ASYNC: Final = Rule("an async function (`async def`)", is_async)
PLAIN: Final = Rule("a plain function, not an async one", lambda value: callable(value) and not is_async(value))
check_async: Final = ASYNC.check
check_plain: Final = PLAIN.check
