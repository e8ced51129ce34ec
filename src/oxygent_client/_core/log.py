"""Log records, each with a stable event name.

Rule 1: every record has the attributes `event`, `trace_id`, `node_id`, `purpose` and `server_url`, for formatters and
    filters; its text begins with purpose, run and server, as far as they are known.
Rule 2: no record holds a secret: URLs have no user information and no query, remote text is redacted.
Rule 3: every text in a record, also its attributes, is one line without control characters, since formatters write ids
    unchanged.
Rule 4: import only creates the logger; the program sets handlers and levels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from oxygent_client._core.text import escape_text
from oxygent_client._core.transport import Context, redact_url

logger: Final = logging.getLogger("oxygent_client")

VALUE_LENGTH: Final = 1000
"""Limit of one value in a record, in characters."""

LEVELS: Final[Mapping[str, int]] = {
    "connect": logging.INFO,  # a request for a run is sent; `attempt`
    "opened": logging.DEBUG,  # response headers with status 200; `status`
    "first_event": logging.DEBUG,  # first event, after so many `seconds`
    "closed": logging.INFO,  # end of the run; `outcome`, `reason`, `seconds`, `bytes`, `events`
    "retry": logging.WARNING,  # a request is retried after a backoff; `attempt`, `seconds`, `reason`
    "hedge": logging.INFO,  # a replica is slow, and a second one is asked; `attempt`, `seconds`
    "refused": logging.WARNING,  # response with another status; `status`
    "reattach": logging.WARNING,  # reconnect to a detached run; `seconds`
    "record": logging.DEBUG,  # the server's record of a run was requested; `state`
    "warning": logging.WARNING,  # something unexpected that does not end the run; the message says what
    "debug": logging.DEBUG,  # details for debugging
}
"""The level of each event."""


def _redacted(value: object, context: Context) -> object:
    if not isinstance(value, str | BaseException):
        return value
    return escape_text(context.sent.strip_text(str(value)), VALUE_LENGTH)


def describe_request(context: Context) -> str:
    """The purpose of a request, its run and its server, for the text of a record; empty if it belongs to neither.

    The server is not known while a cluster has not picked one.
    """
    url = redact_url(context.replica or context.server_url)
    if not context.trace_id and not url:
        return ""
    return " ".join(filter(None, (context.purpose, context.trace_id, url and f"at {url}")))


def log_event(
    event: str, context: Context, text: str, *args: object, cause: BaseException | None = None, **fields: Any
) -> None:
    """Write one record, with the traceback of `cause` if given, and notify the observers of the run.

    Secrets that were sent are redacted from all texts, also from errors; each text becomes one line.
    """
    if logger.isEnabledFor(LEVELS[event]):
        request = describe_request(context)
        extra = {
            "event": event,
            "trace_id": context.trace_id,
            "node_id": context.node_id,
            "purpose": context.purpose if request else "",
            "server_url": redact_url(context.replica or context.server_url),
            **fields,
        }
        redacted = {name: _redacted(value, context) for name, value in extra.items()}
        if request:
            text, args = f"%s: {text}", (request, *args)
        logger.log(LEVELS[event], text, *(_redacted(each, context) for each in args), exc_info=cause, extra=redacted)
    if context.observed is not None:
        context.observed.note(event, context, fields)
