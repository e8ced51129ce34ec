"""Derive synchronous methods and settings from those of an asynchronous class.

Rule 1: the asynchronous class declares parameters, types and defaults; here only names are repeated.
Rule 2: plain callbacks run in the calling thread.
Rule 3: type checkers, `help()` and `inspect.signature` show the parameters of the asynchronous method.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar, cast

import attrs

from oxygent_client.sync._portal import in_calling_thread

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound="Face")
S = TypeVar("S")

_SECTIONS: Final = ("Args:", "Raises:")


class Face(Protocol):
    """A synchronous object."""

    def _get_inner(self) -> Any:
        """Return the asynchronous object."""
        ...

    def _wait_for(self, function: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Run an async function in the loop, and wait for its result."""
        ...


def blocking(
    method: Callable[Concatenate[Any, P], Awaitable[T]],
) -> Callable[[Callable[[F], None]], Callable[Concatenate[F, P], T]]:
    """Make the decorated method run this async one, and wait for its result."""

    def decorate(declared: Callable[[F], None]) -> Callable[Concatenate[F, P], T]:
        def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            inner = self._get_inner()
            return self._wait_for(getattr(inner, method.__name__), *args, **kwargs)

        return cast("Callable[Concatenate[F, P], T]", _named(call, declared, method))

    return decorate


def plain(
    method: Callable[Concatenate[Any, P], T],
) -> Callable[[Callable[[F], None]], Callable[Concatenate[F, P], T]]:
    """Make the decorated method call this one, which does not wait."""

    def decorate(declared: Callable[[F], None]) -> Callable[Concatenate[F, P], T]:
        def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            return getattr(self._get_inner(), method.__name__)(*args, **kwargs)

        return cast("Callable[Concatenate[F, P], T]", _named(call, declared, method))

    return decorate


def constructor(
    model: Callable[Concatenate[Any, P], None],
) -> Callable[[Callable[Concatenate[S, ...], None]], Callable[Concatenate[S, P], None]]:
    """Give the decorated `__init__` the parameters of this one."""

    def decorate(declared: Callable[Concatenate[S, ...], None]) -> Callable[Concatenate[S, P], None]:
        return cast("Callable[Concatenate[S, P], None]", _named(declared, declared, model))

    return decorate


def converting(
    method: Callable[Concatenate[Any, P], Any],
) -> Callable[[Callable[Concatenate[S, ...], T]], Callable[Concatenate[S, P], T]]:
    """Give the decorated method, which has a result of its own, the parameters of this one."""

    def decorate(declared: Callable[Concatenate[S, ...], T]) -> Callable[Concatenate[S, P], T]:
        return cast("Callable[Concatenate[S, P], T]", _named(declared, declared, method))

    return decorate


def _named(function: Any, declared: Any, method: Any) -> Any:
    """Name and document `function` like `declared`, with the parameters of `method`."""
    signature = inspect.signature(method)
    returned = inspect.signature(declared).return_annotation
    if returned != "None":
        signature = signature.replace(return_annotation=returned)
    own, text = inspect.getdoc(declared) or "", inspect.getdoc(method) or ""
    begin = min((found for name in _SECTIONS if (found := text.find(f"\n{name}\n")) >= 0), default=len(text))
    function.__doc__ = own if any(f"\n{name}\n" in own for name in _SECTIONS) else f"{own}\n{text[begin:]}".rstrip()
    function.__name__, function.__qualname__ = declared.__name__, declared.__qualname__
    function.__module__, function.__signature__ = declared.__module__, signature
    return function


class _Setting:
    """An attribute of the asynchronous object, under the same name."""

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type[Any]) -> Any:
        return self if instance is None else getattr(instance._get_inner(), self._name)  # noqa: SLF001  (a `Face`)

    def __set__(self, instance: Any, value: Any) -> None:
        setattr(instance._get_inner(), self._name, value)  # noqa: SLF001  (a `Face`)


def setting() -> Any:
    """Declare an attribute that is that of the asynchronous object."""
    return _Setting()


@attrs.frozen
class PlainCallback:
    """A callback that runs in the thread which waits for the present call. To the loop it is an async function."""

    function: Callable[..., Any]

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function, and await what it returns if that is awaitable."""
        return await in_calling_thread(self.function, *args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.function)


def as_async(function: Callable[..., object]) -> Callable[..., Awaitable[Any]]:
    """Return an async callable: `function` itself, or one that runs it in the calling thread.

    What is not callable is returned, too, for a validator to refuse it.
    """
    if isinstance(function, PlainCallback) or inspect.iscoroutinefunction(function) or not _is_callable(function):
        return cast("Callable[..., Awaitable[Any]]", function)
    return PlainCallback(function)


def _is_callable(value: Any) -> bool:
    return callable(value)
