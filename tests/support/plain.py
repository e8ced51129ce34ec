"""An agent for tests of a single run.

Rule: it sends a request once, and checks no record. Retries and record checks have their own tests.
"""

from __future__ import annotations

from typing import Any

import attrs

from oxygent_client import Retry, SSEOxyGent, Timeouts

__all__ = ["plain"]


def plain(*, timeouts: Timeouts = Timeouts(), **options: Any) -> SSEOxyGent:
    """Return an `SSEOxyGent` without retries and record checks."""
    return SSEOxyGent(timeouts=attrs.evolve(timeouts, lookup=None), retry=Retry(attempts=1), **options)
