"""Compile regular expressions when they are first used.

Rule: a pattern that a plain run does not need is a `str`, and is compiled here. All of them together would take as long
    as a tenth of the package's import.
"""

from __future__ import annotations

import functools
import re


@functools.cache
def compiled(pattern: str) -> re.Pattern[str]:
    """Return the compiled pattern, always the same object."""
    return re.compile(pattern)
