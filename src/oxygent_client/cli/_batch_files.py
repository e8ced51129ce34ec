"""Files of a batch: the queries, the journal and the results.

Rule 1: the journal gets the trace id of a run, and is flushed to the disk, before the run is requested. So every run
    that may have started is in the journal.
Rule 2: a line that a crash cut off is removed: nothing was requested for it, or the server has its result.
Rule 3: one process at a time: the journal is locked while a batch runs.
Rule 4: of the results only the statuses are kept in memory: outputs may be large.
Rule 5: the files are readable by this user alone.
Rule 6: the journal names its server and a digest of each query. Another server, or another query with the same id, is
    an error before anything is sent.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self, cast

from attrs import field, frozen

from oxygent_client.cli._terminal_text import as_json
from oxygent_client.errors import ConfigurationError

VERSION: Final = 1
"""Of the journal's format."""
FINAL: Final = ("completed", "failed")
"""The results after which a query is not looked at again."""


@frozen
class Item:
    """One query of a batch."""

    id: str | int
    """The id in the file, or the number of the line. 1 and "1" are the same."""
    query: str
    arguments: Mapping[str, Any] = field(factory=dict[str, Any])

    @property
    def digest(self) -> str:
        """A short text that differs between queries."""
        content = json.dumps([self.query, self.arguments], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


@frozen
class Attempt:
    """A run that was, or is about to be, requested."""

    id: str | int
    digest: str
    trace_id: str
    node_id: str


@frozen
class _Result:
    """What is kept of a result."""

    status: str
    trace_id: str

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Self:
        return cls(str(line.get("status", "")), str(line.get("trace_id", "")))


def read_items(path: Path) -> list[Item]:
    """Read the queries of a file of JSON lines: a string, or an object with `query`, and perhaps `id` and `arguments`.

    Raises:
        ConfigurationError: the file cannot be read, or a line is invalid; the text has its number.
    """
    items: list[Item] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(_read_bytes(path).split(b"\n"), 1):
        if not line.strip():
            continue
        item = _item(f"{path}, line {number}", number, line)
        if (earlier := lines.setdefault(str(item.id), number)) != number:
            raise ConfigurationError(f"{path}, line {number}: the id {str(item.id)[:100]!r} is that of line {earlier}")
        items.append(item)
    return items


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def _item(place: str, number: int, line: bytes) -> Item:
    value = _json(place, line)
    fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {"query": value}
    if unknown := fields.keys() - {"id", "query", "arguments"}:
        raise ConfigurationError(f"{place}: unknown member {min(unknown)[:100]!r}; use query, id and arguments")
    name, query, arguments = fields.get("id", number), fields.get("query"), fields.get("arguments", {})
    if not isinstance(query, str):
        raise ConfigurationError(f"{place}: must be a string, or an object whose query is a string")
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise ConfigurationError(f"{place}: id must be a string or an integer")
    if not isinstance(arguments, dict):
        raise ConfigurationError(f"{place}: arguments must be an object")
    return Item(name, query, cast("dict[str, Any]", arguments))


def _json(place: str, line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{place}: not JSON in UTF-8") from error


class LineFile:
    """A file of JSON objects, one a line, to which this process appends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes]
        try:
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+b")
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error

    def lock(self) -> None:
        """Lock the file, until it is closed or the process ends; Windows has no such lock.

        Raises:
            ConfigurationError: another process has it.
        """
        with suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigurationError(f"another batch uses {self.path}; wait for its end") from error

    def read(self) -> Iterator[dict[str, Any]]:
        """Iterate over the objects of all complete lines, and remove a line that was cut off.

        Raises:
            ConfigurationError: a complete line is no object.
        """
        self._file.seek(0)
        size = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                self._file.truncate(size)
                return
            size += len(line)
            yield self._object(number, line)

    def _object(self, number: int, line: bytes) -> dict[str, Any]:
        value = _json(f"{self.path}, line {number}", line)
        if not isinstance(value, dict):
            raise ConfigurationError(f"{self.path}, line {number}: not a line of a batch; use another --output")
        return cast("dict[str, Any]", value)

    def append(self, value: Mapping[str, Any], *, to_disk: bool = False) -> None:
        """Append one line, if `to_disk` safe from a power failure."""
        self._file.write(as_json(value).encode() + b"\n")
        self._file.flush()
        if to_disk:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class BatchFiles:
    """The journal and the results of a batch: `with BatchFiles(output, server_url) as files`."""

    def __init__(self, output: Path, server_url: str) -> None:
        self._output_path = output
        self._server_url = server_url

    def __enter__(self) -> Self:
        self._journal = LineFile(self._output_path.with_name(self._output_path.name + ".journal"))
        try:
            self._open()
        except BaseException:
            self._journal.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._output.close()
        self._journal.close()

    def _open(self) -> None:
        self._journal.lock()
        head, *lines = [*self._journal.read()] or [{}]
        path = self._journal.path
        if head and head.get("oxygent_client_batch") != VERSION:
            raise ConfigurationError(f"{path} is no journal of this release; use another --output")
        if head and head.get("server_url") != self._server_url:
            raise ConfigurationError(f"{path} is of a batch at {head.get('server_url')!s}; use another --output")
        try:
            attempts = [Attempt(**line) for line in lines]
        except TypeError as error:
            raise ConfigurationError(f"{path} is no journal of this release; use another --output") from error
        if not head and self._output_path.exists() and self._output_path.stat().st_size:
            raise ConfigurationError(f"{self._output_path} exists, and has no journal; use another --output")
        self._attempts = {str(attempt.id): attempt for attempt in attempts}
        self._output = LineFile(self._output_path)
        try:
            self._results = {str(line.get("id")): _Result.of(line) for line in self._output.read()}
        except BaseException:
            self._output.close()
            raise
        if not head:
            self._journal.append({"oxygent_client_batch": VERSION, "server_url": self._server_url}, to_disk=True)

    def to_do(self, items: Sequence[Item]) -> list[tuple[Item, Attempt | None]]:
        """Return the queries without a final result; first those whose run may have started, with their attempt.

        Raises:
            ConfigurationError: the journal has another query with the id of one of them.
        """
        left: list[tuple[Item, Attempt | None]] = []
        for item in items:
            attempt, status = self._attempts.get(str(item.id)), self.status(item)
            if attempt is not None and attempt.digest != item.digest:
                raise ConfigurationError(
                    f"the journal has another query with the id {str(item.id)[:100]!r}; use another --output"
                )
            if status == "not_run" and attempt is not None:
                # A journal with a later attempt is that of a batch which ended before its result.
                is_last = self._results[str(item.id)].trace_id == attempt.trace_id
                attempt = None if is_last else attempt
            if status not in FINAL:
                left.append((item, attempt))
        return sorted(left, key=lambda pair: pair[1] is None)

    def begin(self, item: Item) -> Attempt:
        """Note a run that is about to be requested, with new ids, and return it."""
        attempt = Attempt(item.id, item.digest, uuid.uuid4().hex, uuid.uuid4().hex[:16])
        line = {"id": attempt.id, "digest": attempt.digest, "trace_id": attempt.trace_id, "node_id": attempt.node_id}
        self._journal.append(line, to_disk=True)
        return attempt

    def finish(self, result: Mapping[str, Any]) -> None:
        """Append a result."""
        self._output.append(result)
        self._results[str(result["id"])] = _Result.of(result)

    def status(self, item: Item) -> str:
        """Return the status of the last result of a query; empty if it has none."""
        found = self._results.get(str(item.id))
        return "" if found is None else found.status
