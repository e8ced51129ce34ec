"""Redact the log records that HTTP libraries write about our requests.

Rule 1: a record is about a request of this package if it is written while the block of `our_records` runs, tasks that
    begin in it included. The loggers serve the whole program: its other records stay as they are.
Rule 2: what stays of such a record is a table of what is harmless: URLs without user information and query, methods,
    versions, numbers, standard reason phrases, names of events. Everything else may repeat what was sent, or hold
    control characters, and is replaced.
Rule 3: filters are set when a request is sent, not at import, and on each logger by its name: a logger's filter does
    not see the records of the loggers below it.

Without a line here: h2 has a logger only if it is given one, and httpcore gives it none; asyncio writes addresses and
tasks, and no bytes.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from http import HTTPMethod, HTTPStatus
from typing import Final

from oxygent_client._core.redaction import SCRUBBED
from oxygent_client._core.text import escape_text
from oxygent_client._core.transport import redact_url

__all__ = ["LOGGERS", "our_records", "rewrite_records"]

_CORE: Final = ("connection", "http11", "http2", "proxy", "socks")
_HPACK: Final = ("hpack.hpack", "hpack.table")
LOGGERS: Final[Mapping[str, tuple[str, ...]]] = {
    "httpx": ("httpx", *(f"httpcore.{each}" for each in _CORE), *_HPACK),
    "httpx2": ("httpx2", *(f"httpcore2.{each}" for each in _CORE), *_HPACK),
    "aiohttp": ("aiohttp.client", "aiohttp.internal"),
}
"""The loggers of each library's client, and of what lies below it."""

_HARMLESS: Final = frozenset(
    ["", "HTTP/1.0", "HTTP/1.1", "HTTP/2", *HTTPMethod, *(status.phrase for status in HTTPStatus)]
)
"""Texts that stay, if an argument of a record is one of them as a whole."""
_STARTED: Final = re.compile(
    r"(?:host|server_hostname)='[\w.:-]*'|port=\d+|timeout=[\d.]+|request=<Request \[b'[A-Z]+'\]>"
)
"""What stays of an event of httpcore that begins. One that sets up a proxy has its password, too."""
_ENDED: Final = re.compile(r"return_value=\((?:b'HTTP/[\d.]+', )?(?P<status>\d{3}),|exception=(?P<error>\w+)")
"""What stays of one that ends: the status of a response, the class of an error."""
_LONGEST: Final = 1000

_OURS: ContextVar[bool] = ContextVar("_OURS", default=False)


@contextmanager
def our_records() -> Generator[None]:
    """What the libraries write in the block is about a request of this package."""
    token = _OURS.set(True)
    try:
        yield
    finally:
        # A coroutine whose event loop was closed in the middle may be closed in another context.
        with suppress(ValueError):
            _OURS.reset(token)


def rewrite_records(library: str) -> None:
    """From now on, records about requests of this package that this library writes hold no secret."""
    for log in _loggers(library):
        log.addFilter(_rewritten)  # once, however often it is added


@functools.cache
def _loggers(library: str) -> tuple[logging.Logger, ...]:
    return tuple(logging.getLogger(name) for name in LOGGERS[library])


def _rewritten(record: logging.LogRecord) -> bool:
    """A filter: every record passes, and one of ours is changed."""
    if _OURS.get():
        if not record.args:
            record.msg = _message(record.name, str(record.msg))
        elif isinstance(record.args, Mapping):
            record.args = {name: _argument(value) for name, value in record.args.items()}
        else:
            record.args = tuple(map(_argument, record.args))
        record.exc_info = record.exc_text = None  # the text of an error may quote the server
    return True


def _argument(value: object) -> object:
    """What may stand in the place of an argument of a record."""
    if isinstance(value, int | float) or (isinstance(value, str) and value in _HARMLESS):
        return value
    return redact_url(str(value)) if type(value).__name__ == "URL" else SCRUBBED


def _message(logger: str, text: str) -> str:
    """What stays of a message without arguments: only httpcore builds those of values."""
    if not logger.startswith("httpcore"):
        return escape_text(text, _LONGEST)
    event, _, values = text.partition(" ")
    if event.endswith(".started"):
        return " ".join([event, *_STARTED.findall(values)])
    ended = _ENDED.match(values)
    return event if ended is None else f"{event} {ended['status'] or ended['error']}"
