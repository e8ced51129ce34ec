"""Log records, each with a stable event name.

Rule 1: every record bears `event`, `trace_id` and `node_id` as attributes, for formatters and filters.
Rule 2: no record holds a secret: a URL stands without user information and query, a remote's text as it may be shown.
Rule 3: every text in a record, its attributes too, is one line without control characters: an id may be a stranger's,
    and a formatter writes it as it is.
Rule 4: nothing happens at import but that the logger gets its name; handlers and levels are the program's to set.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from oxygent_client._core.text import escape_text
from oxygent_client._core.transport import Context

__all__ = ["LEVELS", "log_event", "logger"]

logger: Final = logging.getLogger("oxygent_client")

LONGEST: Final = 1000
"""Characters of one value in a record."""

LEVELS: Final[Mapping[str, int]] = {
    "connect": logging.INFO,  # a request for a run departs; `attempt`
    "opened": logging.DEBUG,  # it was answered with 200, and the body is to come; `status`
    "first_event": logging.DEBUG,  # after so many `seconds`
    "closed": logging.INFO,  # the run is over; `outcome`, `reason`, `seconds`, `bytes`, `events`
    "retry": logging.WARNING,  # a request is repeated; `attempt`, `seconds`, `reason`
    "hedge": logging.INFO,  # the replica that was asked is slow, and another is asked, too; `attempt`, `seconds`
    "refused": logging.WARNING,  # it was answered with another status; `status`
    "reattach": logging.WARNING,  # a detached run's connection broke, and is made again; `seconds`
    "record": logging.DEBUG,  # the server's record of a run was asked; `state`
    "warning": logging.WARNING,  # something unexpected that does not end the run; the message says what
    "debug": logging.DEBUG,  # details for debugging
}
"""The events, and their levels."""


def _stripped(value: object, context: Context) -> object:
    if not isinstance(value, str | BaseException):
        return value
    return escape_text(context.sent.strip_text(str(value)), LONGEST)


def log_event(
    event: str, context: Context, text: str, *args: object, cause: BaseException | None = None, **fields: Any
) -> None:
    """Write one record, with the traceback of `cause` if there is one, and tell the observers of the run.

    What was sent in confidence is taken out of texts, also of those of errors; each is one line.
    """
    if logger.isEnabledFor(LEVELS[event]):
        extra = {"event": event, "trace_id": context.trace_id, "node_id": context.node_id, **fields}
        stripped = {name: _stripped(value, context) for name, value in extra.items()}
        logger.log(LEVELS[event], text, *(_stripped(each, context) for each in args), exc_info=cause, extra=stripped)
    if context.observed is not None:
        context.observed.note(event, context, fields)
