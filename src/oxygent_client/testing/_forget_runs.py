"""Reset the runs that the process remembers, between tests."""

from __future__ import annotations

from oxygent_client._run import abandoned
from oxygent_client._run.trace_ids import TRACE_IDS
from oxygent_client._run.unread_events import UNREAD_EVENTS


def forget_runs() -> None:
    """Forget all runs of this process, so that a test does not depend on earlier tests.

    The process remembers the trace ids that it used at each server: an id whose run was incomplete is sent with a
    suffix the next time. After this call ids are sent unchanged. The pytest plugin calls it before each test; call it
    yourself with other test runners. Unread events of detached runs are forgotten too.

    Observers are notified first of runs that were dropped without leaving their block.
    """
    abandoned.sweep()
    abandoned.forget()
    TRACE_IDS.forget()
    UNREAD_EVENTS.forget()
