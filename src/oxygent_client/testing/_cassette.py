"""Record a run to a file and replay it without a server.

Rule 1: a recording is stored only after `_scrub` and the user's `scrub=` have removed its secrets. Of the server's URL
    only the path of each request is stored.
Rule 2: what was not recorded is refused: an unknown request, a request repeated too often, the rest of a stream that
    the recording left early.
Rule 3: the file is JSON Lines: a head, then for each exchange its request, its response, a line for each piece of the
    body with the seconds since the request, and its end.
"""

from __future__ import annotations

import base64
import errno
import json
import math
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias, cast, get_args

import anyio
import attrs

from oxygent_client._core import errors
from oxygent_client._core.errors import ConfigurationError, Outcome, OxyError
from oxygent_client._core.per_loop import Closed
from oxygent_client._core.redaction import NO_KEYS, SCRUBBED, map_json, scrub_json, scrub_text
from oxygent_client._core.spellings import SHORT, needles
from oxygent_client._core.text import replace_unsafe
from oxygent_client._core.trace import Trace
from oxygent_client._core.transport import BufferedChunks, HTTPRequest, HTTPResponse, Purpose, Transport
from oxygent_client._version import __version__
from oxygent_client.testing._recorded_trace import recorded_trace
from oxygent_client.testing._scrub import (
    Remove,
    remove_secrets,
    remove_texts,
    replace_in_body,
    scrub_body,
    scrub_headers,
    scrub_path,
)

VERSION: Final = 1

GENERATED: Final = frozenset(
    """
    copied_node_id create_time current_trace_id father_node_id from_trace_id group_id input_md5 node_id node_id_stack
    pre_node_ids request_id root_trace_ids update_time
    """.split()
)
"""Payload fields that are random, come from a clock, or depend on such fields; they need not match."""

HEAD_BYTES: Final = 1024
"""Bytes read of a file to see whether it is a cassette."""
SHOWN: Final = 10
"""Number of recordings that an error names."""


class CassetteError(ConfigurationError):
    """A cassette lacks the request, or cannot be read or written. Record it again, or send a recorded request."""

    has_lines = True


# --- values -----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Piece:
    """A piece of a body."""

    at: float
    """Seconds since the request."""
    data: bytes = attrs.field(repr=False)


@attrs.frozen
class Failure:
    """An error of the transport, instead of a response or of the rest of it."""

    name: str
    """The name of a class in `oxygent_client.errors`."""
    text: str
    outcome: Outcome

    def error(self) -> OxyError:
        """Return a new instance of the error."""
        return cast("type[OxyError]", getattr(errors, self.name))(self.text, outcome=self.outcome)


def _is_error(name: object) -> bool:
    cls = getattr(errors, name, None) if isinstance(name, str) else None
    return isinstance(cls, type) and issubclass(cls, OxyError)


End: TypeAlias = Literal["complete", "left"] | Failure
"""`complete`: the body was read to its end; `left`: the reader left before."""


def _with_text(end: End, change: Callable[[str], str]) -> End:
    return attrs.evolve(end, text=change(end.text)) if isinstance(end, Failure) else end


@attrs.frozen(kw_only=True)
class Entry:
    """One recorded exchange: a request and its response."""

    method: str
    path: str
    """Of the query only the names are stored."""
    purpose: Purpose
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    payload: Any = None
    """The request's JSON body; None without one."""
    answered_at: float = 0.0
    """Seconds from the request to the response headers, or to the error instead of them."""
    status: int | None = None
    """None without a response."""
    response_headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    pieces: tuple[Piece, ...] = ()
    end: End = "complete"
    ended_at: float = 0.0
    credentials: frozenset[str] = attrs.field(default=frozenset(), repr=False)
    """The credentials in the request's headers and URL; they are removed everywhere, in every usual spelling."""

    @property
    def body(self) -> bytes:
        """The response's body."""
        return b"".join(piece.data for piece in self.pieces)

    @property
    def query(self) -> str:
        """The query of the run."""
        fields = cast("dict[str, Any]", self.payload) if isinstance(self.payload, dict) else {}
        query = fields.get("query", "")
        return query if isinstance(query, str) else json.dumps(query)

    def trace(self) -> Trace:
        """Return the calls of a recorded run as a value, with the recorded times."""
        trace_id = _trace_id(self)
        end = self.end
        return recorded_trace(
            [(piece.at, piece.data) for piece in self.pieces],
            ended_at=self.ended_at,
            status=self.status,
            failure=end.text if isinstance(end, Failure) else "",
            is_left=end == "left",
            trace_id=trace_id,
            remote_trace_id=trace_id,
        )

    def without(self, *texts: str) -> Entry:
        """Return this entry with each of these texts replaced everywhere, also across pieces."""
        return self._without(remove_texts(tuple(filter(None, texts))))

    def _without(self, remove: Remove) -> Entry:
        change, find_spans = remove
        map_texts = partial(map_json, change, change, NO_KEYS)
        return attrs.evolve(
            _with_pieces(self, replace_in_body([piece.data for piece in self.pieces], find_spans)),
            path=change(self.path),
            headers=map_texts(dict(self.headers)),
            payload=map_texts(self.payload),
            response_headers=map_texts(dict(self.response_headers)),
            end=_with_text(self.end, change),
        )

    def scrubbed(self) -> Entry:
        """Return this entry without the secrets that the redaction rules find."""
        entry = self._without(remove_secrets(needles(self.credentials)))
        return attrs.evolve(
            _with_pieces(entry, scrub_body([piece.data for piece in entry.pieces], entry.response_headers)),
            path=scrub_path(entry.path),
            headers=scrub_headers(entry.headers),
            payload=scrub_json(entry.payload),
            response_headers=scrub_headers(entry.response_headers),
            end=_with_text(entry.end, scrub_text),
            credentials=frozenset(),
        )

    def __repr__(self) -> str:
        return f"<Entry {self.method} {self.path} {self.purpose} {self.status} {len(self.pieces)} pieces>"


def _with_pieces(entry: Entry, pieces: Iterable[bytes]) -> Entry:
    changed = zip(entry.pieces, pieces, strict=True)
    return attrs.evolve(entry, pieces=tuple(Piece(old.at, new) for old, new in changed if new))


Scrub: TypeAlias = Callable[[Entry], Entry]
"""Return an entry as it may be stored. A pure function: it is applied to the requests of a replay as well."""


def _unchanged(entry: Entry) -> Entry:
    return entry


def _request_entry(request: HTTPRequest) -> Entry:
    """Return the entry of `request`, not scrubbed except for headers marked as credentials."""
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
    """Return the credentials of a request, without those so short that they may be part of any word."""
    values = request.context.sent.values()
    return frozenset(value for value in values if len(value) >= SHORT)


# --- the cassette -----------------------------------------------------------------------------------------------------


class Cassette:
    """Recorded exchanges, in the order in which they started.

    Args:
        scrub: removes what the redaction rules leave: `lambda entry: entry.without("Ada Lovelace")`. A replay needs the
            same function if it changes requests.
    """

    def __init__(self, entries: Iterable[Entry] = (), *, scrub: Scrub = _unchanged) -> None:
        self._entries = dict(enumerate(entries))
        self._started = len(self._entries)
        self._scrub = scrub

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The exchanges that have ended."""
        return tuple(self._entries[place] for place in sorted(self._entries))

    def begin(self) -> int:
        """Reserve the place of an exchange that starts now, and return it."""
        self._started += 1
        return self._started - 1

    def keep(self, place: int, entry: Entry) -> None:
        """Store `entry`, cleaned, in its place."""
        self._entries[place] = self.clean(entry)

    def clean(self, entry: Entry) -> Entry:
        """Return `entry` without secrets."""
        return self._scrub(entry.scrubbed())

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the file atomically. A new file is readable by its owner only; an existing one keeps its mode.

        A symbolic link stays; the file that it points to is written.

        Raises:
            CassetteError: the file cannot be written, or is not a cassette: see `check_path`.
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
        """Check, before recording, that `save` may write this file. `force` allows replacing any regular file.

        Raises:
            CassetteError: the path is a directory, a device, a pipe or a socket; or, without `force`, a file other than
                a cassette.
        """
        target = _real(path)
        try:
            if not target.parent.is_dir():
                why = os.strerror(errno.ENOTDIR if target.parent.exists() else errno.ENOENT)
                raise CassetteError(f"the cassette {path} cannot be written: {why}")
            if not target.exists() and not target.is_symlink():  # a link that is left is a loop
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
            raise CassetteError(f"{path} is not a cassette; pass force=True (--force) to replace it")

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, scrub: Scrub = _unchanged) -> Self:
        """Load a cassette from a file.

        Raises:
            CassetteError: the file does not exist or cannot be read.
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
        # Outside the except clauses, since the libraries' errors contain the text of the file.
        raise CassetteError(f"the cassette {path} cannot be read: {why}")

    def dumps(self) -> str:
        """Return the text of the file."""
        lines: list[dict[str, Any]] = [{"cassette": VERSION, "made_by": f"oxygent-client/{__version__}"}]
        for entry in self.entries:
            lines += _lines(entry)
        return "".join(_line(line) for line in lines)

    @classmethod
    def loads(cls, text: str, *, scrub: Scrub = _unchanged) -> Self:
        """Load a cassette from the text of a file.

        Raises:
            CassetteError: it is not a cassette; the error names the line.
        """
        return cls(_entries(text), scrub=scrub)

    def __repr__(self) -> str:
        return f"<Cassette {len(self._entries)} exchanges>"


def _real(path: str | os.PathLike[str]) -> Path:
    """Return the file that a symbolic link points to; `Path.resolve` would raise for a loop of links."""
    return Path(os.path.realpath(path))


# --- the file ---------------------------------------------------------------------------------------------------------


def _line(value: Any) -> str:
    """Return a line of the file, with the characters escaped that a terminal or an editor might obey."""
    return replace_unsafe(json.dumps(value, ensure_ascii=False), lambda character: json.dumps(character)[1:-1]) + "\n"


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
    """Parse the entries in the text of a file."""
    lines = text.removesuffix("\n").split("\n")
    _check_head(lines[0])
    entry: Entry | None = None
    pieces: list[Piece] = []
    for number, line in enumerate(lines[1:], start=2):
        read = None
        with suppress(ValueError, OverflowError):
            read = _read(_fields(line), entry, pieces)
        # Outside the block, since the libraries' errors contain the text of the file.
        if read is None:
            raise CassetteError(f"line {number} is invalid")
        entry, is_over = read
        if is_over:
            yield entry
            entry, pieces = None, []
    if entry is not None:
        raise CassetteError(f"it ends in the middle of an exchange, after line {len(lines)}")


def _fields(line: str) -> dict[str, Any]:
    """Parse the object in a line; empty if it is invalid. NaN and infinities are not JSON."""
    try:
        fields: Any = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", fields) if isinstance(fields, dict) else {}


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _is_head(line: bytes) -> bool:
    """Return whether a file with this first line is a cassette, of any version."""
    return "cassette" in _fields(line.decode("utf-8", "replace"))


def _check_head(line: str) -> None:
    fields = _fields(line)
    if "cassette" not in fields:
        raise CassetteError("it is not a cassette: the first line has no `cassette` field")
    if fields["cassette"] != VERSION:
        raise CassetteError(f"its version is not supported; this release reads version {VERSION}")


def _read(fields: dict[str, Any], entry: Entry | None, pieces: list[Piece]) -> tuple[Entry, bool]:
    """Return the exchange with one more line of the file, and whether this was its last; `pieces` are those so far.

    Raises:
        ValueError: the line is invalid here.
    """
    if entry is None:
        match fields:
            case {"request": str(target), "purpose": purpose, "headers": headers, "payload": payload} if (
                " " in target and purpose in get_args(Purpose)
            ):
                method, _, path = target.partition(" ")
                headers = _parse_headers(headers)
                return Entry(method=method, path=path, purpose=purpose, headers=headers, payload=payload), False
            case _:
                raise ValueError("invalid request")
    at = _parse_seconds(fields.get("at"))
    match fields:
        case {"status": int(status), "headers": headers} if 100 <= status <= 599:
            headers = _parse_headers(headers)
            return attrs.evolve(entry, answered_at=at, status=status, response_headers=headers), False
        case {"error": name, "text": str(text), "outcome": outcome} if _is_error(name):
            end: End = Failure(name, text, Outcome(outcome))
        case {"end": "complete" | "left" as end}:
            pass
        case {"text": str(text)}:
            pieces.append(Piece(at, text.encode()))
            return entry, False
        case {"base64": str(text)}:
            pieces.append(Piece(at, base64.b64decode(text, validate=True)))
            return entry, False
        case _:
            raise ValueError("invalid line")
    if entry.status is None and (pieces or end == "complete"):
        raise ValueError("a body without a response")
    return attrs.evolve(entry, pieces=tuple(pieces), end=end, ended_at=at), True


def _parse_seconds(value: Any) -> float:
    """Parse seconds since a request."""
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError("invalid time")
    return float(value)


def _parse_headers(value: Any) -> dict[str, str]:
    """Parse headers."""
    headers: dict[str, Any] = value
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in headers.values()):
        raise ValueError("invalid headers")
    return headers


# --- recording --------------------------------------------------------------------------------------------------------


class RecordingTransport:
    """Records each exchange of another transport.

    Args:
        inner: the transport to record; closed with this one.
        cassette: stores the exchanges. Call its `save` afterwards to write a file.
    """

    def __init__(self, inner: Transport, cassette: Cassette) -> None:
        self._inner = inner
        self._cassette = cassette

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        place = self._cassette.begin()
        recording = _Recording(_request_entry(request), anyio.current_time())
        try:
            async with self._inner.exchange(request) as response:
                yield recording.answered(response)
        except OxyError as error:
            if recording.entry.status is None:  # otherwise the block raised it
                recording.end = _failure(error)
            raise
        finally:
            self._cassette.keep(place, recording.recorded())

    async def aclose(self) -> None:
        """As `Transport.aclose`: closes the wrapped transport."""
        await self._inner.aclose()

    def __repr__(self) -> str:
        return f"RecordingTransport({self._inner!r}, {self._cassette!r})"


def _failure(error: OxyError) -> Failure:
    name = next(cls.__name__ for cls in type(error).__mro__ if _is_error(cls.__name__))
    return Failure(name, str(error), error.outcome)


@attrs.define
class _Recording(AsyncIterator[bytes]):
    """An exchange that is being recorded: the chunks of its response are recorded as they are read."""

    entry: Entry
    """Without the body and its end; secrets included."""
    began: float
    chunks: AsyncIterator[bytes] = attrs.field(factory=BufferedChunks)
    pieces: list[Piece] = attrs.field(factory=list[Piece])
    end: End = "left"

    def seconds(self) -> float:
        return anyio.current_time() - self.began

    def answered(self, response: HTTPResponse) -> HTTPResponse:
        self.chunks = response.chunks
        self.entry = attrs.evolve(
            self.entry,
            answered_at=self.seconds(),
            status=response.status,
            response_headers=dict(response.headers),
            credentials=self.entry.credentials | _credentials(response.request),  # added by the wrapped transport
        )
        return attrs.evolve(response, chunks=self)

    async def __anext__(self) -> bytes:
        try:
            piece = await anext(self.chunks)
        except StopAsyncIteration:
            self.end = "complete"
            raise
        except OxyError as error:
            self.end = _failure(error)
            raise
        self.pieces.append(Piece(self.seconds(), piece))
        return piece

    def recorded(self) -> Entry:
        return attrs.evolve(self.entry, pieces=tuple(self.pieces), end=self.end, ended_at=self.seconds())


# --- replay -----------------------------------------------------------------------------------------------------------


class ReplayTransport:
    """Replays a cassette, without a network.

    The response to a request is the first unused recording with the same method, path and payload. Generated payload
    fields (trace ids, node ids, ...), headers and the server's address need not match. The run has the recorded trace
    id: `HTTPResponse.request` shows it as sent.

    Args:
        cassette: the recordings.
        pace: factor for the recorded waits: 0 does not wait, 1 waits as recorded.
        match_payload: False compares method and path only.
        advice: added to the errors of requests that were not recorded.

    Raises:
        ConfigurationError: `pace` is negative or not finite.
    """

    def __init__(self, cassette: Cassette, *, pace: float = 0.0, match_payload: bool = True, advice: str = "") -> None:
        if not 0 <= pace < float("inf"):
            raise ConfigurationError(f"ReplayTransport: pace must be a finite number >= 0, not {pace!r}")
        self._cassette = cassette
        self._pace = pace
        self._match_payload = match_payload
        self._advice = advice and f"\n{advice}"
        self._left = list(cassette.entries)
        self._closed = Closed()

    @property
    def unused(self) -> tuple[Entry, ...]:
        """The recordings that were not requested."""
        return tuple(self._left)

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`.

        Raises:
            CassetteError: the request was not recorded, or fewer times; the text names the nearest recording.
            ClosedError: the transport was closed.
        """
        self._closed.check(self)
        entry = self._take(self._cassette.clean(_request_entry(request)))
        replay = _Replay(entry, anyio.current_time(), self._pace)
        if entry.status is None:
            await replay.end()
        await replay.until(entry.answered_at)
        assert entry.status is not None
        context = attrs.evolve(request.context, remote_trace_id=_trace_id(entry) or request.context.remote_trace_id)
        sent = attrs.evolve(request, context=context)
        yield HTTPResponse(entry.status, dict(entry.response_headers), replay, sent)

    async def aclose(self) -> None:
        """As `Transport.aclose`; nothing is kept open."""
        self._closed.note()

    def _take(self, request: Entry) -> Entry:
        for place, entry in enumerate(self._left):
            if self._is_same(request, entry):
                return self._left.pop(place)
        raise CassetteError(_refusal(request, self._cassette.entries, self._is_same) + self._advice)

    def _is_same(self, request: Entry, entry: Entry) -> bool:
        return _place(request) == _place(entry) and (not self._match_payload or not _differences(request, entry))

    def __repr__(self) -> str:
        return f"ReplayTransport({self._cassette!r}, pace={self._pace:g})"


class _Replay(AsyncIterator[bytes]):
    """The chunks of a recording, at their recorded times."""

    def __init__(self, entry: Entry, began: float, pace: float) -> None:
        self._entry = entry
        self._began = began
        self._pace = pace
        self._next = 0

    async def until(self, at: float) -> None:
        """Wait until this time of the recording."""
        await anyio.sleep_until(self._began + at * self._pace)

    async def end(self) -> None:
        """End as the recording does; return if it is complete."""
        await self.until(self._entry.ended_at)
        if isinstance(self._entry.end, Failure):
            raise self._entry.end.error()
        if self._entry.end == "left":
            raise CassetteError(f"the recording of {_shown(self._entry)} is incomplete: its reader left here")

    async def __anext__(self) -> bytes:
        if self._next == len(self._entry.pieces):
            await self.end()
            raise StopAsyncIteration
        piece = self._entry.pieces[self._next]
        await self.until(piece.at)
        self._next += 1
        return piece.data


def _trace_id(entry: Entry) -> str:
    """Return the trace id in a payload."""
    payload = entry.payload
    trace_id = cast("dict[str, Any]", payload).get("current_trace_id") if isinstance(payload, dict) else None
    return trace_id if isinstance(trace_id, str) else ""


def _place(entry: Entry) -> tuple[str, str]:
    return entry.method, entry.path


def _differences(request: Entry, entry: Entry) -> list[str]:
    """Return the names of the payload fields that differ; the empty name stands for the whole payload."""
    one, other = request.payload, entry.payload
    if not isinstance(one, dict) or not isinstance(other, dict):
        return [] if one == other else [""]
    mine, theirs = cast("dict[str, Any]", one), cast("dict[str, Any]", other)
    nothing = object()
    names = sorted((mine.keys() | theirs.keys()) - GENERATED)
    return [name for name in names if mine.get(name, nothing) != theirs.get(name, nothing)]


def _shown(entry: Entry) -> str:
    """Return a short description of a scrubbed request."""
    return f"{entry.method} {entry.path}" + (f" {entry.query[:60]!r}" if entry.query else "")


def _refusal(request: Entry, entries: Sequence[Entry], is_same: Callable[[Entry, Entry], bool]) -> str:
    same = [entry for entry in entries if is_same(request, entry)]
    near = [_differences(request, entry) for entry in entries if _place(request) == _place(entry)]
    if same:
        why = f"was recorded {len(same)} times, but requested more often"
    elif near:
        names = ", ".join(repr(name) for name in min(near, key=len) if name)
        why = "was not recorded: the nearest recording differs in " + (names or "its payload")
    else:
        why = "was not recorded"
    there = list(dict.fromkeys(_shown(entry) for entry in entries))
    more = f" and {len(there) - SHOWN} more" if len(there) > SHOWN else ""
    return f"{_shown(request)} {why}; the cassette holds {', '.join(there[:SHOWN]) or 'nothing'}{more}"
