"""`ToyRemote`: a small OxyGent server as an ASGI application.

Rule 1: a plain ASGI 3 application over json, anyio and attrs: it runs in process or under any server, on both event
    loops.
Rule 2: a run is data: a Script of steps, turned into a timeline before the first byte is sent. Ids come from the seed,
    and only pauses and heartbeats read a clock.
Rule 3: the bytes are those of real servers; the releases differ by a line in DIALECTS.
Rule 4: one event is one body chunk, as in all 2,943 chunks captured from real servers.
Rule 5: when the client leaves, the run stops at once, and its record shows that; a detached run has no client.
Rule 6: a detached run has no task: a run is its timeline and its start time, from which its present state is computed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, cast
from urllib.parse import parse_qs

import anyio
from attrs import define, evolve, field, frozen
from attrs.validators import in_

from oxygent_client._core.text import escape_text
from oxygent_client.testing._asgi import Message, Receive, Send, cancel_on_disconnect, read_body
from oxygent_client.testing.script import (
    AGENTS,
    SCRIPTS,
    TRIP,
    AgentStep,
    Call,
    Close,
    Cut,
    Fail,
    Hang,
    Pause,
    Ping,
    Say,
    Script,
    Stream,
    Think,
    Together,
    Words,
)

_logger: Final = logging.getLogger("oxygent_client.testing.toy")
_LOGGED: Final = 200  # characters of a query in the log

# ---------------------------------------------------------------------------------------------------- Releases, framing


@frozen
class _Dialect:
    named: bool  # id, event and retry lines
    own_copies: bool  # copied_node_id in tool calls and observations
    text_output: bool  # observation.output is always a string
    drops_falsy: bool  # "", null, [], {}, 0 and false are never sent
    checks_uploads: bool  # only some file types, with sanitized names
    paths: frozenset[str]


_PATHS = frozenset(
    """
    /sse/chat /get_organization /check_alive /view /async/chat /upload /get_welcome_message /get_first_query
    """.split()
)
DIALECTS: Mapping[str, _Dialect] = {
    "1.1.3": _Dialect(
        named=True,
        own_copies=True,
        text_output=False,
        drops_falsy=False,
        checks_uploads=True,
        paths=_PATHS | {"/get_description", "/get_agents", "/async/trace", "/feedback", "/rating"},
    ),
    "1.0.8": _Dialect(
        named=False, own_copies=False, text_output=True, drops_falsy=True, checks_uploads=False, paths=_PATHS
    ),
}

# The alphabet of the ids of real servers.
_LETTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
# Heartbeats carry a time stamp, which clients ignore; it counts from here, so that equal runs have equal bytes.
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@define
class _Ids:
    """Ids like a real server's, reproducible by their seed."""

    seed: str
    made: int = 0

    def new(self) -> str:
        self.made += 1
        digest = hashlib.sha256(f"{self.seed}/{self.made}".encode()).digest()
        return "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:16])


@frozen
class _CallRecord:
    """A call of an agent or tool in the server's record, from here on."""

    node_id: str
    callee: str
    category: str
    stack: tuple[str, ...]
    caller: str
    father: str
    query: Any
    place: int
    """The number of the call in its script, by which a restart finds it."""
    start: float = 0.0
    """In seconds of the script, like `end`."""
    output: Any = None
    state: int | None = None
    end: float | None = None


@frozen
class _Entry:
    """One event that is sent, or (cut, hang) the end of sending; `at` in seconds of the script."""

    at: float
    kind: Literal["message", "ping", "close", "cut", "hang"]
    message: Any = None
    event: str = "message"
    id: str = ""
    retry: int = 3000
    record: _CallRecord | None = None

    def framed(self, dialect: _Dialect) -> bytes:
        """Return the bytes of this event, one chunk: CRLF line ends, a `data:` line for each line of a text."""
        if self.message is None:
            text = ""
        elif isinstance(self.message, str):
            text = self.message
        else:
            text = json.dumps(self.message, ensure_ascii=False)
        data = [f"data: {line}" for line in re.split("\r\n|\r|\n", text)]
        if dialect.named:
            lines = [f"id: {self.id}", f"event: {self.event}", *data, f"retry: {self.retry}"]
        else:
            lines = [f"event: {self.event}", *data] if self.kind == "close" else data
        return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


_KINDS: Mapping[type[AgentStep], Literal["ping", "cut", "hang"]] = {Ping: "ping", Cut: "cut", Hang: "hang"}

_ENDS: Final = frozenset({"close", "cut", "hang"})
_DEATHS: Final = frozenset({"cut", "hang"})
"""After these the server writes no record."""
_COMPLETED, _FAILED, _CANCELLED = 3, 4, 7


class _RaisedError(Exception):
    """An agent of the script raised an exception, at `at`."""

    def __init__(self, at: float, reason: str) -> None:
        super().__init__(reason)
        self.at = at


@define
class _Timeline:
    """Turns a script into the entries of one run; parallel steps are merged by time, then by order."""

    run: ToyRun
    dialect: _Dialect
    categories: Mapping[str, str]
    ids: _Ids
    restarted: int = 0
    """The number of the call whose output is replaced, or that runs again; 0 for none."""
    entries: list[_Entry] = field(factory=list)
    outputs: dict[str, list[Any]] = field(factory=dict[str, list[Any]])
    """The outputs of the calls of each node."""
    calls: int = 0

    def of(self, script: Script) -> tuple[Sequence[_Entry], Sequence[_Entry]]:
        """Return the entries to send, up to the end of the stream, and those to record, up to the server's end."""
        payload = self.run.payload
        caller = str(payload.get("caller") or "user")
        category = str(payload.get("caller_category") or "user")
        stack = tuple(payload.get("call_stack") or ("user",))
        node_id, father = str(payload.get("node_id") or ""), str(payload.get("father_node_id") or "")
        record = self._record(self.run.callee, stack, caller, father, payload.get("query", ""), node_id)
        at, output = self._perform(0.0, record, category, script)
        if category == "user":
            answer = {"type": "answer", "content": output, "current_trace_id": self.run.trace_id}
            self._message(at, {**answer, "request_id": self.run.request_id})
        self.entries.append(_Entry(at, "close", "done", "close"))
        ordered = sorted(self.entries, key=lambda entry: entry.at)
        last = next(place for place, entry in enumerate(ordered) if entry.kind in _ENDS)
        alive = itertools.takewhile(lambda entry: entry.kind not in _DEATHS, ordered)
        return list(self._numbered(ordered[: last + 1])), [entry for entry in alive if entry.record]

    def _perform(
        self, at: float, record: _CallRecord, category: str, script: Script | Call, *, lost: bool = False
    ) -> tuple[float, Any]:
        """Add one call from its start to its end, and return the time of its end and its output."""
        record = evolve(record, start=at)
        arguments = {"query": record.query} if record.query else {}
        self._step(at, "tool_call", record, category, arguments=arguments)
        try:
            for step in script.steps:
                at = self._play(step, at, record)
            output, state = self._output(script.output, record), _COMPLETED
        except _RaisedError as error:
            at = error.at
            output, state = f"Error executing oxy {record.callee}: {error}", _FAILED
        if not lost:
            shown = _text(output) if self.dialect.text_output else output
            record = evolve(record, output=output, state=state, end=at)
            self._step(at, "observation", record, category, output=shown, current_trace_id=self.run.trace_id)
        return at, output

    def _numbered(self, entries: Sequence[_Entry]) -> Iterator[_Entry]:
        wanted = self.run.payload.get("is_send_message", True)
        for entry in entries:
            if entry.kind == "message" and (not wanted or (self.dialect.drops_falsy and not entry.message)):
                continue
            new = self.ids.new()
            yield _Entry(entry.at, entry.kind, entry.message, entry.event, entry.id or new, entry.retry)

    def _record(
        self, callee: str, stack: tuple[str, ...], caller: str, father: str, query: Any, node_id: str = ""
    ) -> _CallRecord:
        category = self.categories.get(callee, "tool")
        node_id = node_id or self.ids.new()
        self.calls += 1
        return _CallRecord(node_id, callee, category, (*stack, callee), caller, father, query, self.calls)

    def _message(self, at: float, message: Any, record: _CallRecord | None = None) -> None:
        self.entries.append(_Entry(at, "message", message, record=record))

    def _step(self, at: float, kind: str, record: _CallRecord, category: str, **more: Any) -> None:
        """Add the message of the start or the end of a call."""
        content = {
            "node_id": record.node_id,
            **({"copied_node_id": ""} if self.dialect.own_copies else {}),
            "caller": record.caller,
            "callee": record.callee,
            "caller_category": category,
            "callee_category": record.category,
            "call_stack": list(record.stack),
            **more,
            "request_id": self.run.request_id,
        }
        self._message(at, {"type": kind, "content": content}, record)

    def _output(self, output: Any, node: _CallRecord) -> Any:
        words: dict[Words, Any] = {
            Words.ALL: self.run.query,
            Words.REST: self.run.query.partition(" ")[2],
            Words.MEMORY: [*self.run.turns, self.run.query],
            Words.OUTPUTS: " ".join(map(_text, self.outputs.get(node.node_id, ()))),
        }
        return words[output] if isinstance(output, Words) else output

    def _restarted(self, at: float, call: Call) -> Call:
        """Return the call that is restarted, with the output that the request gives it."""
        if self.dialect.own_copies:
            self._message(at, {"type": "re_run", "content": {}})
        output = self.run.payload.get("restart_node_output")
        return Call(call.callee, query=call.query, output=output) if output else call

    def _play(self, step: AgentStep, at: float, node: _CallRecord) -> float:
        """Add the entries of a step, and return the time of its end."""
        match step:
            case Pause(seconds):
                at += seconds
            case Say(message, event, own_id, retry):
                self.entries.append(_Entry(at, "message", self._output(message, node), event, own_id, retry))
            case Think(text):
                self._message(at, {"type": "think", "content": text, "agent": node.callee})
            case Stream(text, seconds):
                # Two words with the white space around them, about what a language model sends at once.
                deltas = re.findall(r"\s*\S+\s*(?:\S+\s*)?", text)
                agent = {"agent": node.callee, "node_id": node.node_id}
                for number, delta in enumerate(deltas):
                    sent = at + seconds * number / len(deltas)
                    self._message(sent, {"type": "stream", "content": {"delta": delta, **agent}})
                at += seconds
                self._message(at, {"type": "stream_end", "content": {"delta": "", **agent}})
            case Call(callee):
                record = self._record(callee, node.stack, node.callee, node.node_id, step.query)
                call = self._restarted(at, step) if record.place == self.restarted else step
                at, output = self._perform(at, record, node.category, call, lost=step.lost)
                self.outputs.setdefault(node.node_id, []).append(output)
            case Together(steps):
                at = max((self._play(part, at, node) for part in steps), default=at)
            case Close(data):
                self.entries.append(_Entry(at, "close", data, "close"))
            case Fail(reason):
                raise _RaisedError(at, reason)
            case _:
                self.entries.append(_Entry(at, _KINDS[type(step)]))
        return at


def _text(output: Any) -> str:
    """Return an output as it is stored, and as the oldest dialect sends it."""
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)


def _calls_in(steps: Sequence[AgentStep]) -> Iterator[Call]:
    for step in steps:
        if isinstance(step, Call):
            yield step
        if isinstance(step, (Call, Together)):
            yield from _calls_in(step.steps)


def _with_paths(node: Mapping[str, Any], above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the organization as a server shows it: each node with its path."""
    path = (*above, str(node.get("name", "")))
    shown = {key: value for key, value in node.items() if key != "children"}
    if "children" in node:
        shown["children"] = [_with_paths(child, path) for child in node["children"]]
    return {**shown, "path": list(path)}


def _flat(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "name" in node:
        yield node
    for child in node.get("children", ()):
        yield from _flat(child)


# ------------------------------------------------------------------------------------------------------------- The app


QUEUE: Final = 1024
"""Number of unread messages kept of a detached run; the oldest are dropped."""


@define
class ToyRun:
    """The record of one run: the request, the messages sent, and how it ended."""

    query: str
    trace_id: str
    callee: str
    request_id: str
    payload: dict[str, Any] = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    turns: list[str] = field(factory=list, repr=False)
    """The queries of the turns before it in the conversation (`from_trace_id`)."""
    state: Literal["started", "finished", "cancelled", "detached"] = "started"
    """How its stream ended; a detached run has no stream, and only `/view` shows its progress."""
    messages: list[Any] = field(factory=list, repr=False)
    pings: int = 0
    feedback: list[Any] = field(factory=list, repr=False)
    """The data of `/feedback` calls during the run."""


@define
class _Progress:
    """The progress of a run: its timeline, and its start by the event loop's clock."""

    run: ToyRun
    entries: Sequence[_Entry]
    log: Sequence[_Entry]
    start: float
    pace: float
    stopped: float | None = None
    """When its client left, which stopped it."""
    taken: int = 0

    def due(self, entry: _Entry) -> float:
        """Return the time of an entry."""
        return math.inf if entry.kind == "hang" else self.start + entry.at * self.pace

    def past(self, entries: Sequence[_Entry]) -> int:
        """Return how many entries have happened by now, or by the time it stopped."""
        now = anyio.current_time() if self.stopped is None else self.stopped
        return bisect_right(entries, now, key=self.due)

    def next(self) -> float:
        """Return the time of the next unread message."""
        return self.due(self.entries[self.taken]) if self.taken < len(self.entries) else math.inf

    def take(self) -> _Entry | None:
        """Take the oldest unread message that was not dropped; None if there is none."""
        available = self.past(self.entries)
        if self.run.state == "detached":
            self.taken = max(self.taken, available - QUEUE)
        if self.taken == available:
            return None
        self.taken += 1
        return self.entries[self.taken - 1]

    def nodes(self) -> dict[str, _CallRecord]:
        """Return the server's record so far, by node id."""
        past = self.log[: self.past(self.log)]
        nodes = {entry.record.node_id: entry.record for entry in past if entry.record}
        for key, record in nodes.items():
            if self.stopped is not None and record.state is None:
                nodes[key] = evolve(record, output=f"Tool {record.callee} was cancelled", state=_CANCELLED)
        return nodes

    def running(self) -> bool:
        """Return whether its root call has no output yet."""
        return any(record.state is None for record in [*self.nodes().values()][:1])  # the first is the root


@define(eq=False)
class ToyRemote:
    """A remote OxyGent system as an ASGI application, for `ASGITransport(ToyRemote())` or any ASGI server.

    The first word of the query selects one of `scripts`; without a match, `default` is used. An agent below the master
    that is called by name behaves as in the default script. `pace` multiplies every pause (0 does not wait);
    `heartbeat` is the time between two heartbeats in seconds, without the pace. With `records=False` there is no
    `/view`. `dialect` is the release to imitate, `1.1.3` or `1.0.8`.

    `runs` lists the runs in order, each with `query`, `callee`, `payload`, `headers`, the `messages` sent, and its
    `state`: `started`, `finished`, `cancelled` or `detached`. `files` has the uploads by name, `ratings` those of runs.
    """

    dialect: str = field(default="1.1.3", kw_only=True, validator=in_(DIALECTS))
    scripts: Mapping[str, Script] = field(default=SCRIPTS, kw_only=True, repr=False)
    default: Script = field(default=TRIP, kw_only=True, repr=False)
    organization: Mapping[str, Any] = field(default=AGENTS, kw_only=True, repr=False)
    description: str = field(default="Plans trips with flights and hotels", kw_only=True)
    welcome_message: str = field(default="", kw_only=True, repr=False)
    first_query: str | list[str] = field(default="", kw_only=True, repr=False)
    pace: float = field(default=1.0, kw_only=True)
    heartbeat: float = field(default=15.0, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    records: bool = field(default=True, kw_only=True)
    runs: list[ToyRun] = field(factory=list, init=False)
    files: dict[str, bytes] = field(factory=dict[str, bytes], init=False, repr=False)
    ratings: list[dict[str, Any]] = field(factory=list[dict[str, Any]], init=False, repr=False)
    _progress: list[_Progress] = field(factory=list, init=False, repr=False)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection: an HTTP request, or the server's own lifespan."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        # Endpoints with a JSON object, in the body or in the query of a GET.
        handlers = {
            "/sse/chat": self._chat,
            "/async/chat": self._start,
            "/async/trace": self._trace,
            "/feedback": self._feedback,
            "/rating": self._rate,
        }
        methods = ("POST",) if path in ("/upload", "/rating") else ("GET", "POST") if path in handlers else ("GET",)
        if path not in DIALECTS[self.dialect].paths or (path == "/view" and not self.records):
            await _respond(send, 404, {"detail": "Not Found"})
        elif method not in methods:
            await _respond(send, 405, {"detail": "Method Not Allowed"})
        elif path in handlers:
            try:
                payload = await _payload(scope, receive)
            except (ValueError, TypeError):
                await _respond(send, 500, None)
            else:
                await handlers[path](payload, scope, receive, send)
        elif path == "/upload":
            await self._upload(scope, receive, send)
        elif path == "/view":
            await self._view(scope, send)
        else:
            await _respond(send, 200, self._document(path))

    def _document(self, path: str) -> dict[str, Any]:
        if path == "/check_alive":
            return {"alive": 1}
        nodes = list(_flat(self.organization))
        agents = [str(node["name"]) for node in nodes if node["type"] == "agent"]
        documents: dict[str, dict[str, Any]] = {
            "/get_organization": {
                "id_dict": {name: number for number, name in enumerate(agents)},
                "organization": _with_paths(self.organization),
            },
            "/get_description": {"description": self.description},
            "/get_welcome_message": {"welcome_message": self.welcome_message},
            "/get_first_query": {"first_query": self.first_query},
            "/get_agents": {
                # Real servers report the type "agent" for tools too.
                "agents": [
                    {"name": node["name"], "desc": "", "type": "agent", "class_name": "Toy", "path": [node["name"]]}
                    for node in nodes
                ]
            },
        }
        return _envelope(documents[path])

    async def _chat(self, payload: dict[str, Any], scope: Message, receive: Receive, send: Send) -> None:
        progress = self._begin(payload, scope)
        run = progress.run
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(cancel_on_disconnect, receive, group.cancel_scope)
                try:
                    await self._stream(progress, progress.start, send)
                    run.state = "finished"
                except OSError:
                    pass  # raised by send() of a server when the client has left
                group.cancel_scope.cancel()
        finally:
            if run.state == "started":
                run.state = "cancelled"
                progress.stopped = anyio.current_time()
            _log(run, run.state)

    async def _start(self, payload: dict[str, Any], scope: Message, _: Receive, send: Send) -> None:
        progress = self._begin(payload, scope)
        progress.run.state = "detached"
        progress.entries = [entry for entry in progress.entries if entry.kind != "ping"]
        await _respond(send, 200, _envelope({}))

    def _begin(self, payload: dict[str, Any], scope: Message) -> _Progress:
        ids = _Ids(f"{self.seed}/{len(self.runs)}")
        run = self._new_run(scope, payload, ids)
        progress = _Progress(run, *self._timeline(run, ids), anyio.current_time(), self.pace)
        self.runs.append(run)
        self._progress.append(progress)
        _log(run, "asked", run.query)
        return progress

    async def _trace(self, payload: dict[str, Any], _: Message, receive: Receive, send: Send) -> None:
        if not {"trace_id", "timestamp"} <= payload.keys():
            await _respond(send, 500, None)
            return
        detached = [progress for progress in self._of(payload["trace_id"]) if progress.run.state == "detached"]
        async with anyio.create_task_group() as group:
            group.start_soon(cancel_on_disconnect, receive, group.cancel_scope)
            with suppress(OSError):
                await self._stream(detached[-1] if detached else None, anyio.current_time(), send)
            group.cancel_scope.cancel()

    def _of(self, trace_id: str) -> list[_Progress]:
        return [progress for progress in self._progress if progress.run.trace_id == trace_id]

    async def _stream(self, progress: _Progress | None, start: float, send: Send) -> None:
        """Send the unread and following messages of a run, and heartbeats since `start`; without a run only those."""
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        beat = start + self.heartbeat
        end = False
        while not end:
            due = progress.next() if progress else math.inf
            await anyio.sleep_until(min(beat, due))
            if beat < due:
                await _send_heartbeat(progress, beat - start, send)
                beat += self.heartbeat
            elif progress and (entry := progress.take()):  # another reader may have taken it
                if entry.kind == "ping":
                    await _send_heartbeat(progress, entry.at, send)
                elif entry.kind != "cut":
                    progress.run.messages.append(entry.message)
                    await _send_piece(send, entry.framed(DIALECTS[self.dialect]))
                end = entry.kind in _ENDS
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _feedback(self, payload: dict[str, Any], _: Message, __: Receive, send: Send) -> None:
        channel = payload.get("channel_id", "")
        running = [progress.run for progress in self._of(channel) if progress.running()]
        if running:
            running[-1].feedback.append(payload.get("data"))
            _log(running[-1], "feedback", json.dumps(payload.get("data")))
            await _respond(send, 200, _envelope({}))
        else:
            await _respond(send, 200, {"code": 400, "message": "illegal channel_id", "data": {}})

    async def _rate(self, payload: dict[str, Any], _: Message, __: Receive, send: Send) -> None:
        if payload.get("rating_type") not in ("like", "dislike"):
            await _respond(send, 422, _missing("body", "rating_type"))
            return
        self.ratings.append(payload)
        await _respond(send, 200, _envelope({"rating_id": str(len(self.ratings))}))

    async def _upload(self, scope: Message, receive: Receive, send: Send) -> None:
        kind = dict(scope["headers"]).get(b"content-type", b"")
        boundary = b"--" + kind.partition(b"boundary=")[2]
        head, _, rest = (await _body(scope, receive)).partition(boundary)[2].partition(b"\r\n\r\n")
        found = re.search(rb'name="file"; filename="([^"]*)"', head)
        if found is None:
            await _respond(send, 422, _missing("body", "file"))
            return
        name = found[1].decode()
        stem, dot, end = name.rpartition(".")
        if DIALECTS[self.dialect].checks_uploads:
            if not stem or f".{end.lower()}" not in _UPLOADS:
                end = f".{end.lower()}" if stem else ""
                await _respond(send, 400, {"detail": f"File type '{end}' is not allowed."})
                return
            name = re.sub(r"[^\w\-.]", "_", stem) + dot + end.lower()
        stored = f"../static/{_EPOCH + timedelta(seconds=len(self.files)):%Y%m%d%H%M%S}_{name}"
        self.files[stored] = rest.partition(b"\r\n" + boundary)[0]
        await _respond(send, 200, _envelope({"file_name": stored}))

    async def _view(self, scope: Message, send: Send) -> None:
        query = parse_qs(cast("bytes", scope["query_string"]).decode("ascii"), keep_blank_values=True)
        if "item_id" not in query:
            await _respond(send, 422, _missing("query", "item_id"))
            return
        wanted = query["item_id"][0]
        trace_id = next((progress.run.trace_id for progress in self._progress if wanted in progress.nodes()), wanted)
        nodes = [
            _view_node(progress.run, record) for progress in self._of(trace_id) for record in progress.nodes().values()
        ]
        await _respond(send, 200, _envelope({"nodes": nodes, "trace_id": trace_id}))

    def _new_run(self, scope: Message, payload: dict[str, Any], ids: _Ids) -> ToyRun:
        query = payload.get("query", "")
        return ToyRun(
            query=query if isinstance(query, str) else "hang",  # any other query kills a real server's task
            trace_id=str(payload.get("current_trace_id", ids.new())),
            callee=str(payload.get("callee") or self.organization.get("name")),
            request_id=str(payload.get("request_id") or ids.new()),
            payload=payload,
            headers={name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
            turns=self._turns(payload.get("from_trace_id")),
        )

    def _turns(self, trace_id: Any) -> list[str]:
        """The queries of the conversation up to the run of this trace id."""
        for run in reversed(self.runs):
            if run.trace_id == trace_id:
                return [*run.turns, run.query]
        return []

    def _restarted(self, node_id: str) -> int:
        """The number of the call that a request restarts; 0 if no record has it."""
        nodes = (progress.nodes().get(node_id) for progress in self._progress)
        return next((record.place for record in nodes if record is not None), 0)

    def _timeline(self, run: ToyRun, ids: _Ids) -> tuple[Sequence[_Entry], Sequence[_Entry]]:
        categories = {str(node["name"]): str(node["type"]) for node in _flat(self.organization)}
        node_id = run.payload.get("restart_node_id")
        restarted = self._restarted(str(node_id)) if node_id else 0
        if run.callee not in categories or (node_id and not restarted):
            return [_Entry(0.0, "hang")], []
        return _Timeline(run, DIALECTS[self.dialect], categories, ids, restarted).of(self._script(run))

    def _script(self, run: ToyRun) -> Script:
        named = self.scripts.get(run.query.partition(" ")[0])
        if named is not None:
            return named
        own = (
            Script(call.steps, output=call.output)
            for call in _calls_in(self.default.steps)
            if call.callee == run.callee
        )
        return next(own, self.default)


def _log(run: ToyRun, happened: str, text: str = "") -> None:
    """Log a line about a run. Text of clients is escaped, since the log may go to a terminal."""
    shown = [escape_text(each, _LOGGED) for each in (run.trace_id, f"{happened} {text}".rstrip())]
    _logger.info("run %s: %s", *shown)


_UPLOADS: Final = frozenset(".txt .jpg .jpeg .png .mp4 .xlsx .xls .doc .docx .pdf .csv .tsv .ods .py .md .json".split())


def _envelope(data: Mapping[str, Any]) -> dict[str, Any]:
    return {"code": 200, "message": "SUCCESS", "data": data}


def _missing(where: str, name: str) -> dict[str, Any]:
    return {"detail": [{"type": "missing", "loc": [where, name], "msg": "Field required", "input": None}]}


_STREAM_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
    (b"content-type", b"text/event-stream; charset=utf-8"),
]


def _view_node(run: ToyRun, record: _CallRecord) -> dict[str, Any]:
    """Return a node as a real server shows it, secrets included."""
    shared: dict[str, Any] = {**(run.payload.get("shared_data") or {}), "_headers": run.headers}
    arguments = {"query": record.query} if record.query else {}
    return {
        "node_id": record.node_id,
        "node_type": record.category,
        "trace_id": run.trace_id,
        "request_id": run.request_id,
        "caller": record.caller,
        "callee": record.callee,
        "father_node_id": record.father,
        "call_stack": list(record.stack),
        "shared_data": json.dumps(shared),
        "input": json.dumps({"class_attr": {}, "arguments": arguments}),
        "input_md5": hashlib.md5(json.dumps(arguments).encode(), usedforsecurity=False).hexdigest(),
        "output": None if record.state is None else _text(record.output),
        "state": record.state,
        "create_time": _stored_time(record.start),
        "update_time": None if record.end is None else _stored_time(record.end),
    }


def _stored_time(at: float) -> str:
    """A time as a real server stores it."""
    return f"{_EPOCH + timedelta(seconds=at):%Y-%m-%d %H:%M:%S.%f}000"


async def _lifespan(receive: Receive, send: Send) -> None:
    event = ""
    while event != "lifespan.shutdown":
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})


async def _send_piece(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _send_heartbeat(progress: _Progress | None, seconds: float, send: Send) -> None:
    if progress is not None:
        progress.run.pings += 1
    await _send_piece(send, f": ping - {_EPOCH + timedelta(seconds=seconds)}\r\n\r\n".encode())


async def _payload(scope: Message, receive: Receive) -> dict[str, Any]:
    document = json.loads(await _body(scope, receive))
    if not isinstance(document, dict):
        raise TypeError("the payload must be an object")
    payload = cast("dict[str, Any]", document)
    if payload.get("shared_data", {}) is None:
        raise TypeError("shared_data must not be null")
    return payload


async def _body(scope: Message, receive: Receive) -> bytes:
    if scope["method"] == "GET":
        query = cast("bytes", scope["query_string"]).decode("ascii")
        return parse_qs(query).get("payload", ["{}"])[0].encode()
    return await read_body(receive)


async def _respond(send: Send, status: int, document: Any) -> None:
    """Send a response: a JSON document, or (None) the plain text of a failed server."""
    body = b"Internal Server Error" if document is None else json.dumps(document, separators=(",", ":")).encode()
    kind = b"text/plain; charset=utf-8" if document is None else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    if document is None:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
