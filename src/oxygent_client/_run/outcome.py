"""Track the outcome of a run over its attempts.

Rule: what is known for sure stays known. A transport's word counts until an attempt has come to an end of which nobody
    knows: what a later one comes to does not change that.
"""

from __future__ import annotations

from collections.abc import Callable

from oxygent_client._core.errors import UNRUN, Outcome

__all__ = ["OutcomeTracker"]


class OutcomeTracker:
    """The last word on a run; `OutcomeTracker(Outcome.STARTED)` is that of one which somebody began before."""

    def __init__(self, outcome: Outcome = Outcome.NOT_SENT) -> None:
        self.outcome = outcome
        self.is_last = outcome is not Outcome.NOT_SENT
        """Whether no transport's word changes it any more."""
        self.watch: Callable[[bool], object] | None = None
        """Told True when a request departs, and False when its headers are there, or it came to nothing."""

    def waits(self, on: bool) -> None:
        """Take in that a request has departed and waits for its headers, or waits no more."""
        if self.watch is not None:
            self.watch(on)

    @property
    def has_run(self) -> bool:
        """Whether the run began, or may have."""
        return self.outcome not in UNRUN

    def __call__(self, outcome: Outcome) -> None:
        """Take in a transport's word: UNKNOWN when a request departs, and what that came to if it came to nothing."""
        if not self.is_last:
            self.is_last = self.outcome is outcome is Outcome.UNKNOWN
            self.outcome = outcome

    def know(self, outcome: Outcome) -> None:
        """Take in what events, or the server's record, have shown."""
        self.outcome, self.is_last = outcome, True
