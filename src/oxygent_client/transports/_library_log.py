"""Redact the log records that HTTP libraries write about our requests.

Rule 1: a record is about our request if it is written in the block of `our_records`, or in a task started there. The
    loggers serve the whole program: its other records are unchanged.
Rule 2: only values known to be harmless are kept: URLs without user information and query, methods, versions, numbers,
    standard reason phrases, names of events. All else may echo what was sent, or hold control characters, and is
    replaced.
Rule 3: filters are added when a request is sent, not at import, and to each logger by name: a logger's filter does not
    see the records of its child loggers.

Not listed: h2, which logs only to a logger that it is given, and httpcore gives it none; asyncio, which logs addresses
and tasks, but no bytes.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from http import HTTPMethod, HTTPStatus
from typing import Final

from oxygent_client._core.patterns import compiled
from oxygent_client._core.redaction import SCRUBBED
from oxygent_client._core.text import escape_text
from oxygent_client._core.transport import redact_url

_HTTPCORE: Final = ("connection", "http11", "http2", "proxy", "socks")
_HPACK: Final = ("hpack.hpack", "hpack.table")
LOGGERS: Final[Mapping[str, tuple[str, ...]]] = {
    "httpx": ("httpx", *(f"httpcore.{each}" for each in _HTTPCORE), *_HPACK),
    "httpx2": ("httpx2", *(f"httpcore2.{each}" for each in _HTTPCORE), *_HPACK),
    "aiohttp": ("aiohttp.client", "aiohttp.internal"),
}
"""The loggers of each library's client, and of the libraries below it."""

_HARMLESS: Final = frozenset(
    ["", "HTTP/1.0", "HTTP/1.1", "HTTP/2", *HTTPMethod, *(status.phrase for status in HTTPStatus)]
)
"""Texts that are kept where an argument of a record is exactly one of them."""
_STARTED: Final = r"(?:host|server_hostname)='[\w.:-]*'|port=\d+|timeout=[\d.]+|request=<Request \[b'[A-Z]+'\]>"
"""The parts kept of httpcore's `.started` events, which show a proxy's password among others."""
_ENDED: Final = r"return_value=\((?:b'HTTP/[\d.]+', )?(?P<status>\d{3}),|exception=(?P<error>\w+)"
"""The parts kept of its other events: a response's status, an error's class."""
_MAX_LENGTH: Final = 1000

_OURS: ContextVar[bool] = ContextVar("_OURS", default=False)


class our_records:  # noqa: N801  (used like a function; a generator would cost a read of a body as much as the read)
    """Treat what the libraries log in the block as being about our request; a block may follow another."""

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token = _OURS.set(True)

    def __exit__(self, *_: object) -> None:
        try:  # noqa: SIM105  (`suppress` would cost as much as the read)
            _OURS.reset(self._token)
        except ValueError:  # a coroutine whose event loop was closed midway may be closed in another context
            pass


def redact_records(library: str) -> None:
    """Redact from now on what this library logs about our requests."""
    for log in _loggers(library):
        if _redact not in log.filters:  # the program may have configured its logging anew
            log.addFilter(_redact)


@functools.cache
def _loggers(library: str) -> tuple[logging.Logger, ...]:
    return tuple(logging.getLogger(name) for name in LOGGERS[library])


def _redact(record: logging.LogRecord) -> bool:
    """Pass every record, as a filter, and change those about our requests."""
    if _OURS.get():
        if not record.args:
            record.msg = _redacted_message(record.name, str(record.msg))
        elif isinstance(record.args, Mapping):
            record.args = {name: _redacted_argument(value) for name, value in record.args.items()}
        else:
            record.args = tuple(map(_redacted_argument, record.args))
        record.exc_info = record.exc_text = None  # an error's text may quote the server
    return True


def _redacted_argument(value: object) -> object:
    """Return the argument of a record if it is harmless, else a replacement."""
    if isinstance(value, int | float) or (isinstance(value, str) and value in _HARMLESS):
        return value
    return redact_url(str(value)) if type(value).__name__ == "URL" else SCRUBBED


def _redacted_message(logger: str, text: str) -> str:
    """Return a message without arguments, redacted; only httpcore's contain values."""
    if not logger.startswith("httpcore"):
        return escape_text(text, _MAX_LENGTH)
    event, _, values = text.partition(" ")
    if event.endswith(".started"):
        return " ".join([event, *compiled(_STARTED).findall(values)])
    ended = compiled(_ENDED).match(values)
    return event if ended is None else f"{event} {ended['status'] or ended['error']}"
