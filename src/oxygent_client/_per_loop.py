"""Live things, one per event loop.

Rule: a connection belongs to the loop in which it was made. Configuration may be shared by loops and threads; what is
live may not, so it is kept here, and goes when its loop goes. It does not
travel: a copy is empty, and so is what was pickled.
"""

from __future__ import annotations

from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from anyio.lowlevel import current_token

__all__ = ["PerLoop"]

T = TypeVar("T")


class PerLoop(Generic[T]):
    """At most one value for each event loop."""

    def __init__(self) -> None:
        self._values: WeakKeyDictionary[object, T] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[PerLoop[T]], tuple[()]]:
        return type(self), ()

    def get(self) -> T | None:
        """The running loop's value; None if it has none."""
        return self._values.get(current_token().native_token)

    def everywhere(self) -> list[T]:
        """The values of all loops. Any thread may ask."""
        loops = [loop for each in self._values.keyrefs() if (loop := each()) is not None]
        return [value for loop in loops if (value := self._values.get(loop)) is not None]

    def put(self, value: T) -> T:
        """`value`, which is the running loop's from now on."""
        self._values[current_token().native_token] = value
        return value

    def take(self) -> T | None:
        """The running loop's value, which it has no more; None if it had none."""
        return self._values.pop(current_token().native_token, None)
