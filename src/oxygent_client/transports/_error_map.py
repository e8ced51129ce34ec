"""Map the exceptions of an HTTP library to error classes.

Rule 1: nothing here imports a library. What libraries let through of what lies below them has its lines in LEAKED.
Rule 2: whatever leaves a library leaves as an `OxyError`. What no line foresees is a lost connection, which promises
    nothing: a run may have started.
Rule 3: "nothing was sent" is said only of what cannot happen later; while a response is read it is never said.
Rule 4: a text quotes no user information, no query and no header's value.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
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

__all__ = ["ErrorRule", "Translation", "reason", "without_phrase"]

ErrorRule = tuple[type[Exception], type[OxyError], str]
"""A library's class, ours, and what is said of it; `{}` is what was to be connected to, `{proxy}` the proxy."""

NOT_CONNECTED: Final = "could not connect to {}"
NO_TLS: Final = "the TLS handshake with {} failed"
LOST: Final = "the connection was lost"

LEAKED: Final[tuple[ErrorRule, ...]] = (
    (ssl.SSLCertVerificationError, TLSError, NO_TLS),
    (socket.gaierror, ConnectError, NOT_CONNECTED),
    (ConnectionRefusedError, ConnectError, NOT_CONNECTED),
    # A header's name or value, which has come; what is sent is ASCII by now.
    (UnicodeDecodeError, RemoteProtocolError, "the response cannot be decoded"),
    # `http://a..b/`: the name becomes bytes on its way to the resolver.
    (UnicodeError, ConfigurationError, "{} has a host name that no resolver takes"),
    (zlib.error, RemoteProtocolError, "the response cannot be decoded"),
    # The server may refuse a client's certificate after the handshake: any other error of TLS is here, too.
    (OSError, ConnectionLostError, LOST),
)
"""What comes from below the libraries; a library's own lines are asked first."""

DISCONNECTED: Final = ("Server disconnected", "peer closed connection", "incomplete chunked read")
"""A lost connection and garbage have one class in httpx; only the text of httpcore and h11 tells them apart."""

CLOSED: Final = "the server closed the connection during the handshake"
PLAIN: Final[tuple[tuple[str, str, str], ...]] = (
    ("has expired", "", "the server needs a new certificate, or this machine's clock is wrong"),
    ("not yet valid", "", "this machine's clock is wrong, or the server uses the certificate too early"),
    ("self.signed", "", "if you trust it, give the transport's `verify` a context that has loaded it"),
    ("issuer", "", "if you trust its issuer, give the transport's `verify` a context that has loaded the issuer's"),
    ("not valid for", "", "use a name that the certificate is for"),
    (
        "WRONG_VERSION|RECORD_LAYER|PACKET_LENGTH",
        "the server does not speak TLS at this port",
        "is it one of http?",
    ),
    ("UNEXPECTED_EOF|closed", CLOSED, "it may want another version of TLS, or speak none"),
)
"""What OpenSSL says, as a pattern; the same in plain words, where its own are not; and what to do."""


def reason(error: object) -> str:
    """What `error`, of a parser of HTTP, complains of; not what it quotes, which may be an echoed secret."""
    return re.sub(r"(?s)<?((?:n't|[\w .,-])*).*", r"\1", str(error), count=1).strip()


def without_phrase(text: str) -> str:
    """A status and its name; not the name that the other side gives it, which may repeat what was sent."""
    status = re.match(r"(\d{3})(?!\d)", text)
    if status is None:
        return text
    name = next((each.phrase for each in HTTPStatus if each == int(status[1])), "a status without a name")
    return f"{status[1]} ({name})"


@attrs.frozen
class Translation:
    """The errors of one library, as errors of this package."""

    library: str
    lines: tuple[ErrorRule, ...]
    """The first line that fits counts, here and then in LEAKED."""
    says: Callable[[Exception], str] = str
    """What an error says of itself, as far as it may be shown."""

    def __call__(self, error: Exception, url: str = "", *, proxy: object = None, reading: bool = False) -> OxyError:
        """The error of this package that `error`, of the library, is.

        `url` is where the request was to go, and `proxy`, as it may be shown, what leads there, if it is true;
        `reading` says that the response had begun.
        """
        unforeseen: ErrorRule = (Exception, ConnectionLostError, f"{self.library} failed")
        lines = (*self.lines, *LEAKED, unforeseen)
        theirs, cls, text = next(line for line in lines if isinstance(error, line[0]))
        said = "" if theirs is Exception else self.says(error)  # nobody knows what an unforeseen one quotes
        if cls is RemoteProtocolError and any(sign in said for sign in DISCONNECTED):
            cls, text = ConnectionLostError, LOST
        if cls is ConfigurationError and any(type(cause).__module__.startswith("h2.") for cause in _causes(error)):
            # To httpcore every complaint of h2 is one of the request, also if the server's frames are at fault.
            cls, text = RemoteProtocolError, "the server does not speak proper HTTP"
        place = _place(url)
        if cls in (ConnectError, TLSError):
            if tls := _of_tls(error, secure=url.startswith("https:")):
                cls, text, said = TLSError, NO_TLS, tls
            else:
                said = _of_network(error) or said
        if proxy:
            # What fails to connect is the proxy; what takes too long, or fails in TLS, may be what is behind it.
            place = f"the proxy {proxy}" if cls is ConnectError else f"{place} over the proxy {proxy}"
        if reading and cls.default_outcome is Outcome.NOT_SENT:
            cls = ConnectionLostError
        said = " ".join(said.split()) or type(error).__name__
        shown = f"the proxy {proxy}" if proxy else "the proxy"
        return cls(f"{text.format(place, proxy=shown)}: {said}"[:500])

    @contextmanager
    def translated(self, url: str, *, proxy: object = None, reading: bool = False) -> Generator[None]:
        """Errors of the library leave the block as errors of this package."""
        try:
            yield
        except (OxyError, StopAsyncIteration):
            raise
        except Exception as error:
            raise self(error, url, proxy=proxy, reading=reading) from error


def _place(url: str) -> str:
    """Where `url` leads: host and port, or the path of a Unix socket."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "the server", parts.port
    except ValueError:  # it is no URL, which is what the error says
        return "the server"
    if parts.scheme == "unix":
        return url
    port = port or {"http": 80, "https": 443}.get(parts.scheme)
    return (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")


def _causes(error: BaseException) -> list[BaseException]:
    """`error` and what it comes from; of several attempts, the first."""
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in found:
        found.append(following)
        several: tuple[BaseException, ...] = getattr(following, "exceptions", ())
        following = several[0] if several else following.__cause__ or following.__context__
    return found


def _of_tls(error: Exception, *, secure: bool) -> str:
    """Why there is no TLS, in plain words and with what to do; empty if it is not about TLS."""
    causes = _causes(error)
    ours = [cause for cause in causes if isinstance(cause, ssl.SSLError)]
    # What was cut while a connection was made secure: TCP itself is refused, not reset.
    cut = secure and any(isinstance(cause, ConnectionResetError | ConnectionAbortedError) for cause in causes)
    whys = [getattr(cause, "verify_message", "") or getattr(cause, "reason", "") for cause in ours]
    said = next(filter(None, whys), "") or (str(ours[-1]) if ours else "closed" if cut else "")
    for pattern, plain, advice in PLAIN:
        if re.search(pattern, said):
            return f"{plain or said.rstrip('.')}; {advice}"
    return said


def _of_network(error: Exception) -> str:
    """Why there is no connection, in the system's words; empty if no system has said anything."""
    said = ""
    for cause in _causes(error):  # the deepest knows best
        if isinstance(cause, socket.gaierror):
            said = cause.strerror or said
        elif isinstance(cause, OSError) and cause.errno:
            said = os.strerror(cause.errno)
    return said
