"""Record a run to a file and replay it without a server.

Rule 1: a recording is kept only after its secrets are gone (`_scrub.py`); what `scrub=` takes away goes then, too.
    Nothing of the server's address is kept but the path of each request.
Rule 2: what was not recorded is refused: a request that is not there, one time too many, a stream that was left.
Rule 3: the file is text: JSON Lines, first what it is, then for each exchange its request, its response, a line for
    each piece of the body with the seconds since the request was made, and how it ended.
"""

from __future__ import annotations

import base64
import errno
import json
import math
import os
import re
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias, cast, get_args

import anyio
import attrs

from oxygent_client._core import errors
from oxygent_client._core.errors import ConfigurationError, Outcome, OxyError
from oxygent_client._core.per_loop import Closed
from oxygent_client._core.redaction import SCRUBBED, scrub_json, scrub_text
from oxygent_client._core.spellings import SHORT, needles
from oxygent_client._core.transport import HTTPRequest, HTTPResponse, Purpose, Transport
from oxygent_client._version import __version__
from oxygent_client.testing._scrub import (
    body_without,
    scrub_body,
    scrub_headers,
    scrub_path,
    secrets_out_of,
    secrets_out_of_body,
    without,
)

__all__ = [
    "Cassette",
    "CassetteError",
    "End",
    "Entry",
    "Failure",
    "Piece",
    "RecordingTransport",
    "ReplayTransport",
    "Scrub",
]

VERSION: Final = 1

DRAWN: Final = frozenset(
    """
    copied_node_id create_time current_trace_id father_node_id from_trace_id group_id input_md5 node_id node_id_stack
    pre_node_ids request_id root_trace_ids update_time
    """.split()
)
"""Fields of a payload that are drawn by lot, read from a clock, or follow from those that are; they need not agree."""

HEAD_BYTES: Final = 1024
"""How much of a file is read to see whether it is a cassette."""
SHOWN: Final = 10
"""How many recordings an error names."""


class CassetteError(ConfigurationError):
    """A cassette does not hold what was asked for, or cannot be read. Record it again, or ask for what there is."""


# --- values -----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Piece:
    """A piece of a body."""

    at: float
    """Seconds since the request was made."""
    data: bytes = attrs.field(repr=False)


@attrs.frozen
class Failure:
    """An error of the transport, in the place of what would have come."""

    name: str
    """Of a class in `oxygent_client.errors`."""
    text: str
    outcome: Outcome

    def error(self) -> OxyError:
        """The error itself, new each time."""
        return cast("type[OxyError]", getattr(errors, self.name))(self.text, outcome=self.outcome)


def _is_error(name: object) -> bool:
    cls = getattr(errors, name, None) if isinstance(name, str) else None
    return isinstance(cls, type) and issubclass(cls, OxyError)


End: TypeAlias = Literal["complete", "left"] | Failure
"""Complete: the body came to its end. Left: its reader did not wait for that."""


def _with_text(end: End, change: Callable[[str], str]) -> End:
    return attrs.evolve(end, text=change(end.text)) if isinstance(end, Failure) else end


@attrs.frozen(kw_only=True)
class Entry:
    """One exchange as it is kept: a request, and what came of it."""

    method: str
    path: str
    """Of its query only the names."""
    purpose: Purpose
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    payload: Any = None
    """The request's body, which is JSON; None if there was none."""
    answered_at: float = 0.0
    """Seconds from the request to the headers, or to the error in their place."""
    status: int | None = None
    """None: no response came."""
    response_headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    pieces: tuple[Piece, ...] = ()
    end: End = "complete"
    ended_at: float = 0.0
    credentials: frozenset[str] = attrs.field(default=frozenset(), repr=False)
    """The credentials that the request carried, in its headers and its URL; they are removed wherever they stand, in
    every usual spelling."""

    @property
    def body(self) -> bytes:
        """The response's body."""
        return b"".join(piece.data for piece in self.pieces)

    @property
    def query(self) -> str:
        """What the agent was asked."""
        fields = cast("dict[str, Any]", self.payload) if isinstance(self.payload, dict) else {}
        asked = fields.get("query", "")
        return asked if isinstance(asked, str) else json.dumps(asked)

    def without(self, *texts: str) -> Entry:
        """This entry with each of these texts replaced, wherever it stands, and however it is cut into pieces."""
        texts = tuple(filter(None, texts))
        return attrs.evolve(
            _with_pieces(self, body_without(texts, [piece.data for piece in self.pieces])),
            path=without(texts, self.path),
            headers=without(texts, dict(self.headers)),
            payload=without(texts, self.payload),
            response_headers=without(texts, dict(self.response_headers)),
            end=_with_text(self.end, lambda text: without(texts, text)),
        )

    def scrubbed(self) -> Entry:
        """This entry without the secrets that are known by rule."""
        secrets = needles(self.credentials)
        left = attrs.evolve(
            _with_pieces(self, secrets_out_of_body([piece.data for piece in self.pieces], secrets)),
            path=secrets_out_of(self.path, secrets),
            headers=secrets_out_of(dict(self.headers), secrets),
            payload=secrets_out_of(self.payload, secrets),
            response_headers=secrets_out_of(dict(self.response_headers), secrets),
            end=_with_text(self.end, lambda text: cast("str", secrets_out_of(text, secrets))),
        )
        return attrs.evolve(
            _with_pieces(left, scrub_body([piece.data for piece in left.pieces], left.response_headers)),
            path=scrub_path(left.path),
            headers=scrub_headers(left.headers),
            payload=scrub_json(left.payload),
            response_headers=scrub_headers(left.response_headers),
            end=_with_text(left.end, scrub_text),
            credentials=frozenset(),
        )

    def __repr__(self) -> str:
        return f"<Entry {self.method} {self.path} {self.purpose} {self.status} {len(self.pieces)} pieces>"


def _with_pieces(entry: Entry, pieces: Iterable[bytes]) -> Entry:
    changed = zip(entry.pieces, pieces, strict=True)
    return attrs.evolve(entry, pieces=tuple(Piece(old.at, new) for old, new in changed if new))


Scrub: TypeAlias = Callable[[Entry], Entry]
"""An entry in, what may be kept of it out. Pure: it is applied to what is asked of a replay as well."""


def _as_it_is(entry: Entry) -> Entry:
    return entry


def _asked(request: HTTPRequest) -> Entry:
    """What `request` asks, with nothing scrubbed but what is marked as a credential."""
    marked = request.context.secret_headers
    payload: Any = None
    if request.body:
        try:
            payload = json.loads(request.body)
        except (ValueError, RecursionError):
            payload = f"{len(request.body)} bytes that are no JSON"
    return Entry(
        method=request.method,
        path=request.path,
        purpose=request.context.purpose,
        headers={name: SCRUBBED if name.lower() in marked else value for name, value in request.headers.items()},
        payload=payload,
        credentials=_credentials(request),
    )


def _credentials(request: HTTPRequest) -> frozenset[str]:
    """What a request carried in confidence; not what is so short that it may be a part of any word."""
    values = request.context.sent.values()
    return frozenset(value for value in values if len(value) >= SHORT)


# --- the cassette -----------------------------------------------------------------------------------------------------


class Cassette:
    """Exchanges, in the order in which they began.

    Args:
        scrub: takes away what the rules leave: `lambda entry: entry.without("Ada Lovelace")`. A cassette that is
            replayed needs the same, if it changes what is asked.
    """

    def __init__(self, entries: Iterable[Entry] = (), *, scrub: Scrub = _as_it_is) -> None:
        self._entries = dict(enumerate(entries))
        self._begun = len(self._entries)
        self._scrub = scrub

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What there is; an exchange comes in when it has ended."""
        return tuple(self._entries[place] for place in sorted(self._entries))

    def begin(self) -> int:
        """The place of an exchange that begins now."""
        self._begun += 1
        return self._begun - 1

    def keep(self, place: int, entry: Entry) -> None:
        """Keep what may be kept of `entry` in its place."""
        self._entries[place] = self.clean(entry)

    def clean(self, entry: Entry) -> Entry:
        """What may be kept of `entry`."""
        return self._scrub(entry.scrubbed())

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the file, whole or not at all. Only its owner may read a new file; an old one keeps its mode.

        A symbolic link stays, and the file that it names is written.

        Raises:
            CassetteError: it cannot be written, or something other than a cassette is there: see `check_path`.
        """
        self.check_path(path, force=force)
        target = _real(path)
        draft = target.with_name(f".{target.name}.{os.getpid()}.{id(self):x}")
        try:
            try:
                with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(self.dumps().encode())
                if target.exists():
                    draft.chmod(stat.S_IMODE(target.stat().st_mode))
                draft.replace(target)
            finally:
                with suppress(FileNotFoundError, NotADirectoryError):
                    draft.unlink()
        except OSError as error:
            raise CassetteError(f"the cassette {path} cannot be written: {error.strerror}") from error

    @staticmethod
    def check_path(path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Check that `save` may write there, before anything is recorded. `force` allows to replace any regular file.

        Raises:
            CassetteError: there is a directory, a device, a pipe or a socket; or, without `force`, a file that is not
                a cassette.
        """
        target = _real(path)
        try:
            if not target.parent.is_dir():
                why = os.strerror(errno.ENOTDIR if target.parent.exists() else errno.ENOENT)
                raise CassetteError(f"the cassette {path} cannot be written: {why}")
            if not target.exists() and not target.is_symlink():  # what is a link still leads in a circle
                return
            if not target.is_file():
                raise CassetteError(f"the cassette {path} cannot be written: it is not a regular file")
            if force:
                return
            with target.open("rb") as file:
                first = file.readline(HEAD_BYTES)
        except OSError as error:
            raise CassetteError(f"the cassette {path} cannot be written: {error.strerror}") from error
        if first and not _is_head(first):
            raise CassetteError(f"{path} is a file and not a cassette; force=True (--force) replaces it")

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, scrub: Scrub = _as_it_is) -> Self:
        """The cassette in a file.

        Raises:
            CassetteError: there is none, or it cannot be read.
        """
        text, why = "", ""
        try:
            text = Path(path).read_bytes().decode()
        except OSError as error:
            why = error.strerror or type(error).__name__
        except UnicodeDecodeError:
            why = "it is not UTF-8"
        if not why:
            try:
                return cls.loads(text, scrub=scrub)
            except CassetteError as error:
                why = str(error)
        # Outside of the except clauses: the errors of the libraries hold the text of the file.
        raise CassetteError(f"the cassette {path} cannot be read: {why}")

    def dumps(self) -> str:
        """The text of the file."""
        lines: list[dict[str, Any]] = [{"cassette": VERSION, "made_by": f"oxygent-client/{__version__}"}]
        for entry in self.entries:
            lines += _lines(entry)
        return "".join(_line(line) for line in lines)

    @classmethod
    def loads(cls, text: str, *, scrub: Scrub = _as_it_is) -> Self:
        """The cassette in the text of a file.

        Raises:
            CassetteError: it is none; the error names the line.
        """
        return cls(_entries(text), scrub=scrub)

    def __repr__(self) -> str:
        return f"<Cassette {len(self._entries)} exchanges>"


def _real(path: str | os.PathLike[str]) -> Path:
    """The file that a symbolic link names; `Path.resolve` raises where links lead in a circle."""
    return Path(os.path.realpath(path))


# --- the file ---------------------------------------------------------------------------------------------------------

# What JSON lets pass, and a terminal or an editor might obey: DEL, C1, marks of direction, line separators, halves of
# surrogate pairs, the byte order mark.
_UNSAFE: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def _line(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"


def _lines(entry: Entry) -> Iterator[dict[str, Any]]:
    yield {
        "request": f"{entry.method} {entry.path}",
        "purpose": entry.purpose,
        "headers": dict(entry.headers),
        "payload": entry.payload,
    }
    if entry.status is not None:
        at = _seconds(entry.answered_at)
        yield {"at": at, "status": entry.status, "headers": dict(entry.response_headers)}
    for piece in entry.pieces:
        try:
            shown = {"text": piece.data.decode()}
        except UnicodeDecodeError:
            shown = {"base64": base64.b64encode(piece.data).decode()}
        yield {"at": _seconds(piece.at), **shown}
    at = _seconds(entry.ended_at)
    if isinstance(entry.end, Failure):
        yield {"at": at, "error": entry.end.name, "text": entry.end.text, "outcome": entry.end.outcome}
    else:
        yield {"at": at, "end": entry.end}


def _seconds(value: float) -> float:
    return round(value, 4)


def _entries(text: str) -> Iterator[Entry]:
    """The entries in the text of a file."""
    lines = text.removesuffix("\n").split("\n")
    _check_head(lines[0])
    entry: Entry | None = None
    pieces: list[Piece] = []
    for number, line in enumerate(lines[1:], start=2):
        fields = _fields(line)
        try:
            if entry is None:
                entry, pieces = _request(fields), []
                continue
            if "status" in fields:
                entry = _answered(entry, fields)
                continue
            if "end" not in fields and "error" not in fields:
                pieces.append(_piece(fields))
                continue
            ended = _ended(attrs.evolve(entry, pieces=tuple(pieces)), fields)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
            ended = None
        # Outside of the except clause: the errors of the libraries hold the text of the file.
        if ended is None:
            raise CassetteError(f"line {number} is not what must stand there")
        yield ended
        entry = None
    if entry is not None:
        raise CassetteError(f"it ends in the middle of an exchange, after line {len(lines)}")


def _fields(line: str) -> dict[str, Any]:
    """The object in a line; empty if it is none. NaN and infinities are not JSON."""
    try:
        fields: Any = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", fields) if isinstance(fields, dict) else {}


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _is_head(line: bytes) -> bool:
    """Whether a file that begins with this line is a cassette, of whatever version."""
    return "cassette" in _fields(line.decode("utf-8", "replace"))


def _check_head(line: str) -> None:
    fields = _fields(line)
    if "cassette" not in fields:
        raise CassetteError("it is no cassette: its first line does not say so")
    if fields["cassette"] != VERSION:
        raise CassetteError(f"it has another version than this release reads, which is {VERSION}")


def _request(fields: dict[str, Any]) -> Entry:
    method, space, path = fields["request"].partition(" ")
    if not space or fields["purpose"] not in get_args(Purpose):
        raise ValueError("no request")
    return Entry(
        method=method,
        path=path,
        purpose=fields["purpose"],
        headers=_texts(fields["headers"]),
        payload=fields["payload"],
    )


def _answered(entry: Entry, fields: dict[str, Any]) -> Entry:
    status: Any = fields["status"]
    if type(status) is not int or not 100 <= status <= 599:
        raise ValueError("no status")
    at, headers = _time(fields["at"]), _texts(fields["headers"])
    return attrs.evolve(entry, answered_at=at, status=status, response_headers=headers)


def _piece(fields: dict[str, Any]) -> Piece:
    data = fields["text"].encode() if "text" in fields else base64.b64decode(fields["base64"], validate=True)
    return Piece(_time(fields["at"]), data)


def _ended(entry: Entry, fields: dict[str, Any]) -> Entry:
    if "error" in fields and _is_error(fields["error"]):
        end: End = Failure(fields["error"], str(fields["text"]), Outcome(fields["outcome"]))
    elif fields.get("end") in ("complete", "left"):
        end = fields["end"]
    else:
        raise ValueError("no such end")
    if entry.status is None and (entry.pieces or end == "complete"):
        raise ValueError("a body without a response")
    return attrs.evolve(entry, end=end, ended_at=_time(fields["at"]))


def _time(value: Any) -> float:
    """Seconds since a request was made."""
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError("no time")
    return float(value)


def _texts(value: Any) -> dict[str, str]:
    """Headers."""
    if not isinstance(value, dict):
        raise TypeError("no headers")
    headers = cast("dict[str, Any]", value)
    if not all(isinstance(each, str) for each in headers.values()):
        raise TypeError("no headers")
    return headers


# --- recording --------------------------------------------------------------------------------------------------------


class RecordingTransport:
    """Records each exchange of the transport it holds.

    Args:
        inner: what really moves the bytes; closed with this.
        cassette: where the exchanges go. To have a file, `save` it when all is over.
    """

    def __init__(self, inner: Transport, cassette: Cassette) -> None:
        self._inner = inner
        self._cassette = cassette

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        place = self._cassette.begin()
        taken = _Taken(request, anyio.current_time())
        try:
            async with self._inner.exchange(request) as response:
                taken.answered(response)
                yield attrs.evolve(response, chunks=_Taping(response.chunks, taken))
        except OxyError as error:
            if taken.status is None:  # else it is the error of the block
                taken.end = _failure(error)
            raise
        finally:
            self._cassette.keep(place, taken.entry())

    async def aclose(self) -> None:
        """As `Transport.aclose`: closes the wrapped transport."""
        await self._inner.aclose()

    def __repr__(self) -> str:
        return f"RecordingTransport({self._inner!r}, {self._cassette!r})"


def _failure(error: OxyError) -> Failure:
    name = next(cls.__name__ for cls in type(error).__mro__ if _is_error(cls.__name__))
    return Failure(name, str(error), error.outcome)


class _Taken:
    """What is known of an exchange that is going on."""

    def __init__(self, request: HTTPRequest, began: float) -> None:
        self._request = request
        self._began = began
        self._answered_at = 0.0
        self._headers: Mapping[str, str] = {}
        self._credentials = _credentials(request)
        self._pieces: list[Piece] = []
        self.status: int | None = None
        self.end: End = "left"

    def seconds(self) -> float:
        return anyio.current_time() - self._began

    def answered(self, response: HTTPResponse) -> None:
        self._answered_at = self.seconds()
        self.status = response.status
        self._headers = dict(response.headers)
        self._credentials |= _credentials(response.request)  # what was added below the recording

    def piece(self, data: bytes) -> None:
        self._pieces.append(Piece(self.seconds(), data))

    def entry(self) -> Entry:
        """All of it, secrets included."""
        return attrs.evolve(
            _asked(self._request),
            answered_at=self._answered_at,
            status=self.status,
            response_headers=self._headers,
            pieces=tuple(self._pieces),
            end=self.end,
            ended_at=self.seconds(),
            credentials=self._credentials,
        )


class _Taping:
    """The pieces of a response, each noted as it is handed over."""

    def __init__(self, chunks: AsyncIterator[bytes], taken: _Taken) -> None:
        self._chunks = chunks
        self._taken = taken

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await anext(self._chunks)
        except StopAsyncIteration:
            self._taken.end = "complete"
            raise
        except OxyError as error:
            self._taken.end = _failure(error)
            raise
        self._taken.piece(piece)
        return piece


# --- replaying --------------------------------------------------------------------------------------------------------


class ReplayTransport:
    """Answers from a cassette, and from nothing else.

    A request is answered by the first recording with the same method, path and payload that has not been used yet.
    Fields of the payload that are drawn by lot (trace ids, node ids, ...) need not agree; headers and the server's
    address do not count. The run is known by the recorded trace id: as `HTTPResponse.request` says, that was sent.

    Args:
        cassette: what there is.
        pace: what the recorded waits are multiplied by: 0 waits for nothing, 1 is as it was.
        match_payload: False looks at method and path alone.
    """

    def __init__(self, cassette: Cassette, *, pace: float = 0.0, match_payload: bool = True) -> None:
        if not 0 <= pace < float("inf"):
            raise ConfigurationError(f"ReplayTransport(pace={pace!r}): must be 0 or more, and an end to it")
        self._cassette = cassette
        self._pace = pace
        self._match_payload = match_payload
        self._left = list(cassette.entries)
        self._closed = Closed()

    @property
    def unused(self) -> tuple[Entry, ...]:
        """What has not been asked for."""
        return tuple(self._left)

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`.

        Raises:
            CassetteError: this was not recorded, or not so many times.
            ClosedError: it was closed.
        """
        self._closed.check(self)
        entry = self._take(self._cassette.clean(_asked(request)))
        playing = _Playing(entry, anyio.current_time(), self._pace)
        if entry.status is None:
            await playing.end()
        await playing.until(entry.answered_at)
        assert entry.status is not None
        context = attrs.evolve(request.context, remote_trace_id=_trace_id(entry) or request.context.remote_trace_id)
        sent = attrs.evolve(request, context=context)
        yield HTTPResponse(entry.status, dict(entry.response_headers), playing, sent)

    async def aclose(self) -> None:
        """As `Transport.aclose`: there is nothing that is kept open."""
        self._closed.note()

    def _take(self, asked: Entry) -> Entry:
        for place, entry in enumerate(self._left):
            if self._is_same(asked, entry):
                return self._left.pop(place)
        raise CassetteError(_refusal(asked, self._cassette.entries, self._is_same))

    def _is_same(self, asked: Entry, entry: Entry) -> bool:
        return _place(asked) == _place(entry) and (not self._match_payload or not _differences(asked, entry))

    def __repr__(self) -> str:
        return f"ReplayTransport({self._cassette!r}, pace={self._pace:g})"


class _Playing:
    """The pieces of a recording, each in its time."""

    def __init__(self, entry: Entry, began: float, pace: float) -> None:
        self._entry = entry
        self._began = began
        self._pace = pace
        self._next = 0

    async def until(self, at: float) -> None:
        """Wait until the recording is there."""
        await anyio.sleep_until(self._began + at * self._pace)

    async def end(self) -> None:
        """Do what the recording does at its end, unless it is complete."""
        await self.until(self._entry.ended_at)
        if isinstance(self._entry.end, Failure):
            raise self._entry.end.error()
        if self._entry.end == "left":
            raise CassetteError(f"the recording of {_shown(self._entry)} ends here: its reader left")

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._next == len(self._entry.pieces):
            await self.end()
            raise StopAsyncIteration
        piece = self._entry.pieces[self._next]
        await self.until(piece.at)
        self._next += 1
        return piece.data


def _trace_id(entry: Entry) -> str:
    """The trace id in a payload."""
    payload = entry.payload
    trace_id = cast("dict[str, Any]", payload).get("current_trace_id") if isinstance(payload, dict) else None
    return trace_id if isinstance(trace_id, str) else ""


def _place(entry: Entry) -> tuple[str, str]:
    return entry.method, entry.path


def _differences(asked: Entry, entry: Entry) -> list[str]:
    """The names of the payload's fields that do not agree; the empty name is the payload as a whole."""
    one, other = asked.payload, entry.payload
    if not isinstance(one, dict) or not isinstance(other, dict):
        return [] if one == other else [""]
    mine, theirs = cast("dict[str, Any]", one), cast("dict[str, Any]", other)
    nothing = object()
    names = sorted((mine.keys() | theirs.keys()) - DRAWN)
    return [name for name in names if mine.get(name, nothing) != theirs.get(name, nothing)]


def _shown(entry: Entry) -> str:
    """A request in a few words, after its secrets are gone."""
    return f"{entry.method} {entry.path}" + (f" {entry.query[:60]!r}" if entry.query else "")


def _refusal(asked: Entry, entries: Sequence[Entry], is_same: Callable[[Entry, Entry], bool]) -> str:
    same = [entry for entry in entries if is_same(asked, entry)]
    near = [_differences(asked, entry) for entry in entries if _place(asked) == _place(entry)]
    if same:
        why = f"was recorded {len(same)} times, and asked for once more"
    elif near:
        names = ", ".join(repr(name) for name in min(near, key=len) if name)
        why = "was not recorded: the nearest recording differs in " + (names or "its payload")
    else:
        why = "was not recorded"
    there = list(dict.fromkeys(_shown(entry) for entry in entries))
    more = f" and {len(there) - SHOWN} more" if len(there) > SHOWN else ""
    return f"{_shown(asked)} {why}; the cassette holds {', '.join(there[:SHOWN]) or 'nothing'}{more}"
