"""Serve names that moved to another module, with a `DeprecationWarning`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeAlias

ModuleGetattr: TypeAlias = Callable[[str], Any]
"""The type of a module\'s `__getattr__`."""


def moved_names(module: str, moved: Mapping[str, str], *, stacklevel: int = 2) -> ModuleGetattr:
    """Return a `__getattr__` for `module`, where each old name in `moved` stands for `"new.module:NewName"`.

    The warning shows the line of the caller; `stacklevel` is 3 if the module calls the result from its own
    `__getattr__`.
    """

    def look_up(name: str) -> Any:
        if name not in moved:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, new = moved[name].partition(":")
        warnings.warn(f"{module}.{name} is deprecated; use {home}.{new}", DeprecationWarning, stacklevel=stacklevel)
        return getattr(import_module(home), new)

    return look_up
