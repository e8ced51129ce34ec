"""Map the exceptions of an HTTP library to error classes.

Rule 1: no library is imported here. Exceptions that libraries pass through from below have their rules in
    SYSTEM_ERRORS.
Rule 2: every exception of a library leaves as an `OxyError`. One without a rule is a `ConnectionLostError`, whose
    outcome is UNKNOWN: a run may have started.
Rule 3: the outcome is NOT_SENT only where nothing can have been sent; while a response is read it never is.
Rule 4: a text quotes no user information, no query and no header value.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import zlib
from collections.abc import Callable
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import attrs

from oxygent_client._core.errors import (
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    Outcome,
    OxyError,
    RemoteProtocolError,
    TLSError,
)

ErrorRule = tuple[type[Exception], type[OxyError], str]
"""A library's class, our class, and its text; `{}` stands for the host, `{proxy}` for the proxy."""

NOT_CONNECTED: Final = "could not connect to {}"
NO_TLS: Final = "the TLS handshake with {} failed"
NOT_HTTP: Final = "the server does not speak valid HTTP"
LOST: Final = "the connection was lost"
UNDECODABLE: Final = "the response cannot be decoded"

SYSTEM_ERRORS: Final[tuple[ErrorRule, ...]] = (
    (ssl.SSLCertVerificationError, TLSError, NO_TLS),
    (socket.gaierror, ConnectError, NOT_CONNECTED),
    (ConnectionRefusedError, ConnectError, NOT_CONNECTED),
    # A header name or value that was received; what is sent was checked to be ASCII.
    (UnicodeDecodeError, RemoteProtocolError, UNDECODABLE),
    # `http://a..b/`: the name is encoded on its way to the resolver.
    (UnicodeError, ConfigurationError, "{} is not a host name that can be resolved"),
    (zlib.error, RemoteProtocolError, UNDECODABLE),
    # Includes other TLS errors: the server may refuse a client certificate after the handshake.
    (OSError, ConnectionLostError, LOST),
)
"""Rules for exceptions from below the libraries; a library's own rules come first."""

DISCONNECTED: Final = ("Server disconnected", "peer closed connection", "incomplete chunked read")
"""httpx has one class for a lost connection and for invalid HTTP; only the text of httpcore and h11 tells which."""

CLOSED: Final = "the server closed the connection during the handshake"
TLS_ADVICE: Final[tuple[tuple[str, str, str], ...]] = (
    ("has expired", "", "renew the server's certificate, or correct the clock of this machine"),
    ("not yet valid", "", "correct the clock of this machine, or wait until the certificate is valid"),
    ("self.signed", "", "if you trust it, pass `verify` a context that has loaded it"),
    ("issuer", "", "if you trust its issuer, pass `verify` a context that has loaded the issuer's certificate"),
    ("not valid for", "", "use a host name that the certificate is valid for"),
    (
        "WRONG_VERSION|RECORD_LAYER|PACKET_LENGTH",
        "the server does not speak TLS at this port",
        "is it an http:// port?",
    ),
    ("UNEXPECTED_EOF|closed", CLOSED, "it may require another version of TLS, or not speak TLS"),
)
"""A pattern for OpenSSL's text, a plainer text to replace it (if needed), and advice."""


def reason(error: object) -> str:
    """Return the text of an HTTP parser's error up to what it quotes, which may be an echoed secret."""
    return re.sub(r"(?s)<?((?:n't|[\w .,-])*).*", r"\1", str(error), count=1).strip()


def standard_phrase(text: str) -> str:
    """Return the status that `text` starts with and its standard phrase, not the server's, which may echo a secret."""
    status = re.match(r"(\d{3})(?!\d)", text)
    if status is None:
        return text
    name = next((each.phrase for each in HTTPStatus if each == int(status[1])), "unknown status")
    return f"{status[1]} ({name})"


@attrs.frozen(eq=False, repr=False)
class ErrorMap:
    """Maps the exceptions of one library to our errors."""

    library: str
    rules: tuple[ErrorRule, ...]
    """The first rule that matches counts; SYSTEM_ERRORS follow."""
    describe: Callable[[Exception], str] = str
    """Return an exception's text, without what must not be shown."""

    def __call__(self, error: Exception, url: str = "", *, proxy: object = None, reading: bool = False) -> OxyError:
        """Return our error for the library's `error`.

        Args:
            error: the library's exception.
            url: the URL of the request.
            proxy: the proxy in use, safe to show; false if there is none.
            reading: whether the response had begun.
        """
        fallback: ErrorRule = (Exception, ConnectionLostError, f"{self.library} failed")
        rules = (*self.rules, *SYSTEM_ERRORS, fallback)
        matched, cls, text = next(rule for rule in rules if isinstance(error, rule[0]))
        detail = "" if matched is Exception else self.describe(error)  # an unknown exception may quote anything
        if cls is RemoteProtocolError and any(sign in detail for sign in DISCONNECTED):
            cls, text = ConnectionLostError, LOST
        if cls is ConfigurationError and any(type(cause).__module__.startswith("h2.") for cause in _causes(error)):
            # httpcore blames the request for every complaint of h2, also where the server's frames are invalid.
            cls, text = RemoteProtocolError, NOT_HTTP
        place = _place(url)
        if cls in (ConnectError, TLSError):
            if tls := _tls_reason(error, secure=url.startswith("https:")):
                cls, text, detail = TLSError, NO_TLS, tls
            else:
                detail = _system_reason(error) or detail
        if proxy:
            # A connection fails at the proxy; a time-out or a TLS error may come from the server behind it.
            place = f"the proxy {proxy}" if cls is ConnectError else f"{place} over the proxy {proxy}"
        if reading and cls.default_outcome is Outcome.NOT_SENT:
            cls = ConnectionLostError
        detail = " ".join(detail.split()) or type(error).__name__
        shown = f"the proxy {proxy}" if proxy else "the proxy"
        return cls(f"{text.format(place, proxy=shown)}: {detail}"[:500])

    def mapped(self, url: str, *, proxy: object = None, reading: bool = False) -> _Mapped:
        """Raise the library's exceptions in the block as our errors; for the arguments see `__call__`."""
        return _Mapped(self, url, proxy, reading)


class _Mapped:
    """A context manager; a generator would cost each read of a body as much as the read itself."""

    __slots__ = ("_arguments", "_errors")

    def __init__(self, errors: ErrorMap, url: str, proxy: object, reading: bool) -> None:
        self._errors = errors
        self._arguments = url, proxy, reading

    def __enter__(self) -> None:
        """Nothing is to be done."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, OxyError | StopAsyncIteration):
            return
        url, proxy, reading = self._arguments
        raise self._errors(error, url, proxy=proxy, reading=reading) from error


def _place(url: str) -> str:
    """Return the host and port of `url`, or the path of a Unix socket."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "the server", parts.port
    except ValueError:  # an invalid URL, which the error is about
        return "the server"
    if parts.scheme == "unix":
        return url
    port = port or {"http": 80, "https": 443}.get(parts.scheme)
    return (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")


def _causes(error: BaseException) -> list[BaseException]:
    """Return `error` and the chain of its causes; of an exception group the first member."""
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in found:
        found.append(following)
        members: tuple[BaseException, ...] = getattr(following, "exceptions", ())
        following = members[0] if members else following.__cause__ or following.__context__
    return found


def _tls_reason(error: Exception, *, secure: bool) -> str:
    """Return why the TLS handshake failed, with advice; empty if the error is not about TLS."""
    causes = _causes(error)
    tls_errors = [cause for cause in causes if isinstance(cause, ssl.SSLError)]
    # Reset during the handshake: a TCP connection itself would have been refused.
    reset = secure and any(isinstance(cause, ConnectionResetError | ConnectionAbortedError) for cause in causes)
    reasons = [getattr(cause, "verify_message", "") or getattr(cause, "reason", "") for cause in tls_errors]
    text = next(filter(None, reasons), "") or (str(tls_errors[-1]) if tls_errors else "closed" if reset else "")
    for pattern, plain, advice in TLS_ADVICE:
        if re.search(pattern, text):
            return f"{plain or text.rstrip('.')}; {advice}"
    return text


def _system_reason(error: Exception) -> str:
    """Return the operating system's text for why there is no connection; empty if it gave none."""
    text = ""
    for cause in _causes(error):  # the innermost is the most specific
        if isinstance(cause, socket.gaierror):
            text = cause.strerror or text
        elif isinstance(cause, OSError) and cause.errno:
            text = os.strerror(cause.errno)
    return text
