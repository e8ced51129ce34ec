"""Import the public names of a package when they are first used.

Rule: type checkers see plain imports, so a package lists its names twice; `tests/project/test_public_names.py` compares
    the two lists.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from importlib import import_module
from typing import Any

from oxygent_client._core.deprecation import ModuleGetattr, moved_names


def lazy_names(package: str, homes: Mapping[str, Collection[str]], moved: Mapping[str, str]) -> ModuleGetattr:
    """Return a `__getattr__` for `package`.

    Args:
        package: the name of the package.
        homes: the names of each of its modules; a module is imported when one of them is first used. A dot in front
            leads to the package above, as in an import.
        moved: as for `moved_names`.
    """
    deprecated = moved_names(package, moved, stacklevel=3)

    def look_up(name: str) -> Any:
        for home, names in homes.items():
            if name in names:
                value = getattr(import_module(f".{home}", package), name)
                setattr(sys.modules[package], name, value)
                return value
        return deprecated(name)

    return look_up
