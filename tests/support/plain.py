"""An agent for tests that look at one run and nothing around it.

Rule: it sends what it is told once, and asks for no record of it. What repeats and looks up has tests of its own.
"""

from __future__ import annotations

from typing import Any

import attrs

from oxygent_client import Retry, SSEOxyGent, Timeouts

__all__ = ["plain"]


def plain(*, timeouts: Timeouts = Timeouts(), **options: Any) -> SSEOxyGent:
    """An `SSEOxyGent` that asks once."""
    return SSEOxyGent(timeouts=attrs.evolve(timeouts, lookup=None), retry=Retry(attempts=1), **options)
