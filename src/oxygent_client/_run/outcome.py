"""Track the outcome of a run over its attempts.

Rule: a certain outcome does not change any more. The reports of transports count until an attempt ends in UNKNOWN;
    later attempts do not change that.
"""

from __future__ import annotations

from collections.abc import Callable

from oxygent_client._core.errors import Outcome


class OutcomeTracker:
    """Tracks the outcome of a run; `OutcomeTracker(Outcome.STARTED)` is for a run that was started before."""

    __slots__ = ("is_last", "outcome", "watch")

    def __init__(self, outcome: Outcome = Outcome.NOT_SENT) -> None:
        self.outcome = outcome
        self.is_last = outcome is not Outcome.NOT_SENT
        """Whether reports of transports are ignored from now on."""
        self.watch: Callable[[bool], object] | None = None
        """Called with True when a request is sent, and with False when its headers were received or it failed."""

    def waits(self, on: bool) -> None:
        """Report that a request was sent and waits for its headers, or that it no longer waits."""
        if self.watch is not None:
            self.watch(on)

    @property
    def has_run(self) -> bool:
        """Whether the run has started, or may have."""
        return self.outcome.may_have_run

    def __call__(self, outcome: Outcome) -> None:
        """Report the outcome of a request: UNKNOWN when it is sent, and its outcome if it failed."""
        if not self.is_last:
            self.is_last = self.outcome is outcome is Outcome.UNKNOWN
            self.outcome = outcome

    def know(self, outcome: Outcome) -> None:
        """Set the outcome that events, or the server's record, have shown."""
        self.outcome, self.is_last = outcome, True
