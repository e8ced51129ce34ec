"""Reset the runs that the process remembers, between tests."""

from __future__ import annotations

from oxygent_client._run import abandoned
from oxygent_client._run.trace_ids import TRACE_IDS
from oxygent_client._run.unread_events import UNREAD_EVENTS

__all__ = ["forget_runs"]


def forget_runs() -> None:
    """Forget every run of this process, so that a test does not depend on the tests before it.

    A process remembers which trace ids it has used at which server: an id whose run was cut off is sent with a suffix
    the next time. After this call every id is sent as it is given. The pytest plugin calls it before each test; call
    it yourself in tests that use another runner. What readers of detached runs left unread is forgotten, too.

    Runs that were dropped without leaving their block are told to their observers first.
    """
    abandoned.sweep()
    abandoned.forget()
    TRACE_IDS.forget()
    UNREAD_EVENTS.forget()
