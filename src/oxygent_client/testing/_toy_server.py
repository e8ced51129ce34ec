"""`ToyRemote`: a small OxyGent server as an ASGI application.

Rule 1: a plain ASGI 3 app; only json, anyio and attrs, so it runs in process or under any server, on both event loops.
Rule 2: what a run says is data: a Script of steps, turned into a timeline before the first byte goes out. Nothing
    is left to chance (ids come from the seed), and nothing but pauses and heartbeats reads a clock.
Rule 3: the bytes are those of real servers; what differs between releases is a line in DIALECTS.
Rule 4: one event is one body chunk, as it was in every one of 2,943 chunks captured from real servers.
Rule 5: when the client leaves, the run stops at once, and its record says so; a detached run has no client to leave.
Rule 6: nothing runs behind a detached run, or behind a record: a run is its timeline and the time at which it began;
    what has happened by now is worked out when somebody asks.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeAlias, cast
from urllib.parse import parse_qs

import anyio
from attrs import define, evolve, field, frozen
from attrs.validators import in_

from oxygent_client.testing.script import (
    AGENTS,
    SCRIPTS,
    TRIP,
    Call,
    Close,
    Cut,
    Fail,
    Hang,
    Pause,
    Ping,
    Say,
    Script,
    Step,
    Stream,
    Think,
    Together,
    Words,
)

__all__ = ["ToyRemote", "ToyRun"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# ---------------------------------------------------------------------------------------------------- Releases, framing


@frozen
class _Dialect:
    named: bool  # id, event and retry lines
    own_copies: bool  # copied_node_id in tool calls and observations
    text_output: bool  # observation.output is always a string
    drops_falsy: bool  # "", null, [], {}, 0 and false are never sent
    checks_uploads: bool  # only some kinds of files, and their names made harmless
    paths: frozenset[str]


_PATHS = frozenset({"/sse/chat", "/get_organization", "/check_alive", "/view", "/async/chat", "/upload"})
DIALECTS: Mapping[str, _Dialect] = {
    "1.1.3": _Dialect(
        named=True,
        own_copies=True,
        text_output=False,
        drops_falsy=False,
        checks_uploads=True,
        paths=_PATHS | {"/get_description", "/get_agents", "/async/trace", "/feedback"},
    ),
    "1.0.8": _Dialect(
        named=False, own_copies=False, text_output=True, drops_falsy=True, checks_uploads=False, paths=_PATHS
    ),
}

# The alphabet and length of the ids that real servers make.
_LETTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
# Heartbeats carry a time stamp; nobody reads it, so it counts from here and the same run has the same bytes.
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@define
class _Ids:
    """Ids that look like a real server's and are the same for the same seed."""

    seed: str
    made: int = 0

    def new(self) -> str:
        self.made += 1
        digest = hashlib.sha256(f"{self.seed}/{self.made}".encode()).digest()
        return "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:16])


@frozen
class _Noted:
    """What the server's own record holds of a call, from here on."""

    node: _Node
    caller: str
    father: str
    query: Any
    output: Any = None
    state: int | None = None


@frozen
class _Entry:
    """One thing that is sent, or (cut, hang) the end of sending; `at` in seconds of the script."""

    at: float
    kind: Literal["message", "ping", "close", "cut", "hang"]
    message: Any = None
    event: str = "message"
    id: str = ""
    retry: int = 3000
    noted: _Noted | None = None

    def framed(self, dialect: _Dialect) -> bytes:
        """The bytes of this event, one chunk: CRLF everywhere, a `data:` line for each line of a text."""
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


_MARKS: Mapping[type[Step], Literal["ping", "cut", "hang"]] = {Ping: "ping", Cut: "cut", Hang: "hang"}

_ENDS: Final = frozenset({"close", "cut", "hang"})
_DEATHS: Final = frozenset({"cut", "hang"})
"""After these the server writes no record either."""
_COMPLETED, _FAILED, _CANCELLED = 3, 4, 7


def _ping(after: float) -> bytes:
    return f": ping - {_EPOCH + timedelta(seconds=after)}\r\n\r\n".encode()


@frozen
class _Node:
    """Who has the word: the agent or tool a call opened."""

    node_id: str
    callee: str
    category: str
    stack: tuple[str, ...]


class _RaisedError(Exception):
    """An agent of the script raised, at `at`."""

    def __init__(self, at: float, reason: str) -> None:
        super().__init__(reason)
        self.at = at


@define
class _Timeline:
    """Turns a script into the entries of one run; parallel steps are merged by their time, ties by their order."""

    run: ToyRun
    dialect: _Dialect
    categories: Mapping[str, str]
    ids: _Ids
    entries: list[_Entry] = field(factory=list)

    def of(self, script: Script) -> tuple[Sequence[_Entry], Sequence[_Entry]]:
        """What is sent, in order, up to what ends the stream; and what is recorded, up to the server's own end."""
        payload = self.run.payload
        caller = str(payload.get("caller") or "user")
        category = str(payload.get("caller_category") or "user")
        stack = tuple(payload.get("call_stack") or ("user",))
        root = self._node(self.run.callee, stack, node_id=str(payload.get("node_id") or ""))
        noted = _Noted(root, caller, str(payload.get("father_node_id") or ""), payload.get("query", ""))
        at, output = self._perform(0.0, noted, category, script)
        if category == "user":
            answer = {"type": "answer", "content": output, "current_trace_id": self.run.trace_id}
            self._message(at, {**answer, "request_id": self.run.request_id})
        self.entries.append(_Entry(at, "close", "done", "close"))
        ordered = sorted(self.entries, key=lambda entry: entry.at)
        last = next(place for place, entry in enumerate(ordered) if entry.kind in _ENDS)
        alive = itertools.takewhile(lambda entry: entry.kind not in _DEATHS, ordered)
        return list(self._numbered(ordered[: last + 1])), [entry for entry in alive if entry.noted]

    def _perform(
        self, at: float, noted: _Noted, category: str, script: Script | Call, *, lost: bool = False
    ) -> tuple[float, Any]:
        """Enter one call from its beginning to its end, and return when that is and what came out."""
        self._tell_call(at, noted, category)
        try:
            at = self._play_all(script.steps, at, noted.node)
            output, state = self._said(script.output), _COMPLETED
        except _RaisedError as error:
            at = error.at
            output, state = f"Error executing oxy {noted.node.callee}: {error}", _FAILED
        if not lost:
            self._tell_observation(at, evolve(noted, output=output, state=state), category)
        return at, output

    def _numbered(self, entries: Sequence[_Entry]) -> Iterator[_Entry]:
        wanted = self.run.payload.get("is_send_message", True)
        for entry in entries:
            if entry.kind == "message" and (not wanted or (self.dialect.drops_falsy and not entry.message)):
                continue
            new = self.ids.new()
            yield _Entry(entry.at, entry.kind, entry.message, entry.event, entry.id or new, entry.retry)

    def _node(self, callee: str, stack: tuple[str, ...], *, node_id: str = "") -> _Node:
        category = self.categories.get(callee, "tool")
        return _Node(node_id or self.ids.new(), callee, category, (*stack, callee))

    def _message(self, at: float, message: Any, noted: _Noted | None = None) -> None:
        self.entries.append(_Entry(at, "message", message, noted=noted))

    def _content(self, noted: _Noted, category: str, **more: Any) -> dict[str, Any]:
        node = noted.node
        return {
            "node_id": node.node_id,
            **({"copied_node_id": ""} if self.dialect.own_copies else {}),
            "caller": noted.caller,
            "callee": node.callee,
            "caller_category": category,
            "callee_category": node.category,
            "call_stack": list(node.stack),
            **more,
            "request_id": self.run.request_id,
        }

    def _tell_call(self, at: float, noted: _Noted, category: str) -> None:
        arguments = {"query": noted.query} if noted.query else {}
        self._message(at, {"type": "tool_call", "content": self._content(noted, category, arguments=arguments)}, noted)

    def _tell_observation(self, at: float, noted: _Noted, category: str) -> None:
        output = _text(noted.output) if self.dialect.text_output else noted.output
        content = self._content(noted, category, output=output, current_trace_id=self.run.trace_id)
        self._message(at, {"type": "observation", "content": content}, noted)

    def _play_all(self, steps: Sequence[Step], at: float, node: _Node) -> float:
        for step in steps:
            at = self._play(step, at, node)
        return at

    def _said(self, output: Any) -> Any:
        words = {Words.ALL: self.run.query, Words.REST: self.run.query.partition(" ")[2]}
        return words[output] if isinstance(output, Words) else output

    def _play(self, step: Step, at: float, node: _Node) -> float:
        """Enter what the step sends, and return the time at which it is over."""
        match step:
            case Pause(seconds):
                at += seconds
            case Say(message, event, own_id, retry):
                self.entries.append(_Entry(at, "message", self._said(message), event, own_id, retry))
            case Think(text):
                self._message(at, {"type": "think", "content": text, "agent": node.callee})
            case Stream(text, seconds):
                # Two words with the white space around them: about what a language model sends at a time.
                deltas = re.findall(r"\s*\S+\s*(?:\S+\s*)?", text)
                agent = {"agent": node.callee, "node_id": node.node_id}
                for number, delta in enumerate(deltas):
                    sent = at + seconds * number / len(deltas)
                    self._message(sent, {"type": "stream", "content": {"delta": delta, **agent}})
                at += seconds
                self._message(at, {"type": "stream_end", "content": {"delta": "", **agent}})
            case Call(callee):
                noted = _Noted(self._node(callee, node.stack), node.callee, node.node_id, step.query)
                at, _ = self._perform(at, noted, node.category, step, lost=step.lost)
            case Together(steps):
                at = max((self._play(part, at, node) for part in steps), default=at)
            case Close(data):
                self.entries.append(_Entry(at, "close", data, "close"))
            case Fail(reason):
                raise _RaisedError(at, reason)
            case _:
                self.entries.append(_Entry(at, _MARKS[type(step)]))
        return at


def _text(output: Any) -> str:
    """An output as it is stored, and as the oldest dialect sends it."""
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)


def _calls_in(steps: Sequence[Step]) -> Iterator[Call]:
    for step in steps:
        if isinstance(step, Call):
            yield step
        if isinstance(step, (Call, Together)):
            yield from _calls_in(step.steps)


def _with_paths(node: Mapping[str, Any], above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The organization as the remote shows it: each node with the path that leads to it."""
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
"""How many messages of a detached run wait to be read; the oldest give way."""


def _cancelled(noted: _Noted) -> _Noted:
    return evolve(noted, output=f"Tool {noted.node.callee} was cancelled", state=_CANCELLED)


@define
class ToyRun:
    """The record of one run: who was asked what, what was sent, and how it ended."""

    query: str
    trace_id: str
    callee: str
    request_id: str
    payload: dict[str, Any] = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    state: Literal["started", "finished", "cancelled", "detached"] = "started"
    """How its stream ended; a detached run goes on without one, and only `/view` says how far it is."""
    messages: list[Any] = field(factory=list, repr=False)
    pings: int = 0
    feedback: list[Any] = field(factory=list, repr=False)
    """What the human said, as far as `/feedback` was called while it ran."""


@define
class _Course:
    """How far a run is: its timeline, and the time at which it began, by the event loop's clock."""

    run: ToyRun
    entries: Sequence[_Entry]
    log: Sequence[_Entry]
    start: float
    pace: float
    stopped: float | None = None
    """When its client left, and took it along."""
    taken: int = 0

    def due(self, entry: _Entry) -> float:
        """When this happens."""
        return math.inf if entry.kind == "hang" else self.start + entry.at * self.pace

    def past(self, entries: Sequence[_Entry]) -> int:
        """How many of these have happened by now, or by when it stopped."""
        now = anyio.current_time() if self.stopped is None else self.stopped
        return bisect_right(entries, now, key=self.due)

    def next(self) -> float:
        """When the next message is there that nobody has read yet."""
        return self.due(self.entries[self.taken]) if self.taken < len(self.entries) else math.inf

    def take(self) -> _Entry | None:
        """The oldest message that is there and unread, and was not pushed out by newer ones; whoever asks has it."""
        there = self.past(self.entries)
        self.taken = max(self.taken, there - QUEUE)
        if self.taken == there:
            return None
        self.taken += 1
        return self.entries[self.taken - 1]

    def nodes(self) -> dict[str, _Noted]:
        """What the server's record holds by now, by node id."""
        past = self.log[: self.past(self.log)]
        nodes = {entry.noted.node.node_id: entry.noted for entry in past if entry.noted}
        if self.stopped is None:
            return nodes
        return {key: noted if noted.state else _cancelled(noted) for key, noted in nodes.items()}

    def running(self) -> bool:
        """Whether its agent is at work, as far as the record says."""
        return any(noted.state is None for noted in [*self.nodes().values()][:1])  # the first is the root


@define(eq=False)
class ToyRemote:
    """A remote OxyGent system as an ASGI app: `ASGITransport(ToyRemote())`, or any server on a port.

    The first word of the query chooses the script, `default` where none has that name. An agent below the master that
    is called by name does what it does in the default script. `pace` multiplies every pause (0 waits for nothing),
    `heartbeat` is the seconds between two pings and is not paced. Without `records` there is no `/view`. `dialect` is
    the release that it speaks as, `1.1.3` or `1.0.8`.

    `runs` is what it was asked, in order: each has `query`, `callee`, `payload`, `headers`, the `messages` that were
    sent, and its `state`: `started`, `finished`, `cancelled`, `detached`. `files` is what was uploaded, by its name.
    """

    dialect: str = field(default="1.1.3", kw_only=True, validator=in_(DIALECTS))
    scripts: Mapping[str, Script] = field(default=SCRIPTS, kw_only=True, repr=False)
    default: Script = field(default=TRIP, kw_only=True, repr=False)
    organization: Mapping[str, Any] = field(default=AGENTS, kw_only=True, repr=False)
    description: str = field(default="Plans trips with flights and hotels", kw_only=True)
    pace: float = field(default=1.0, kw_only=True)
    heartbeat: float = field(default=15.0, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    records: bool = field(default=True, kw_only=True)
    runs: list[ToyRun] = field(factory=list, init=False)
    files: dict[str, bytes] = field(factory=dict[str, bytes], init=False, repr=False)
    _courses: list[_Course] = field(factory=list, init=False, repr=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection: an HTTP request, or the server's own lifespan."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        # What takes a JSON object: in a body, or in the query of a GET.
        asked = {
            "/sse/chat": self._chat,
            "/async/chat": self._start,
            "/async/trace": self._trace,
            "/feedback": self._feedback,
        }
        methods = ("GET", "POST") if path in asked else ("POST",) if path == "/upload" else ("GET",)
        if path not in DIALECTS[self.dialect].paths or (path == "/view" and not self.records):
            await _respond(send, 404, {"detail": "Not Found"})
        elif method not in methods:
            await _respond(send, 405, {"detail": "Method Not Allowed"})
        elif path in asked:
            try:
                payload = await _payload(scope, receive)
            except (ValueError, TypeError):
                await _respond(send, 500, None)
            else:
                await asked[path](payload, scope, receive, send)
        elif path == "/upload":
            await self._upload(scope, receive, send)
        elif path == "/view":
            await self._view(scope, send)
        else:
            await _respond(send, 200, self._document(path))

    def _document(self, path: str) -> dict[str, Any]:
        nodes = list(_flat(self.organization))
        agents = [str(node["name"]) for node in nodes if node["type"] == "agent"]
        if path == "/check_alive":
            return {"alive": 1}
        if path == "/get_organization":
            data: dict[str, Any] = {
                "id_dict": {name: number for number, name in enumerate(agents)},
                "organization": _with_paths(self.organization),
            }
        elif path == "/get_description":
            data = {"description": self.description}
        else:
            # Real servers say "agent" of tools too.
            data = {
                "agents": [
                    {"name": node["name"], "desc": "", "type": "agent", "class_name": "Toy", "path": [node["name"]]}
                    for node in nodes
                ]
            }
        return _envelope(data)

    async def _chat(self, payload: dict[str, Any], scope: Scope, receive: Receive, send: Send) -> None:
        course = self._begun(payload, scope)
        run = course.run
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_leave_with_client, receive, group.cancel_scope)
                try:
                    await self._stream(course, send)
                    run.state = "finished"
                except OSError:
                    pass  # what a server raises from send() when the client has left
                group.cancel_scope.cancel()
        finally:
            if run.state == "started":
                run.state = "cancelled"
                course.stopped = anyio.current_time()

    async def _start(self, payload: dict[str, Any], scope: Scope, _: Receive, send: Send) -> None:
        course = self._begun(payload, scope)
        course.run.state = "detached"
        course.entries = [entry for entry in course.entries if entry.kind != "ping"]
        await _respond(send, 200, _envelope({}))

    def _begun(self, payload: dict[str, Any], scope: Scope) -> _Course:
        ids = _Ids(f"{self.seed}/{len(self.runs)}")
        run = self._started(scope, payload, ids)
        course = _Course(run, *self._timeline(run, ids), anyio.current_time(), self.pace)
        self.runs.append(run)
        self._courses.append(course)
        return course

    async def _trace(self, payload: dict[str, Any], _: Scope, receive: Receive, send: Send) -> None:
        if not {"trace_id", "timestamp"} <= payload.keys():
            await _respond(send, 500, None)
            return
        detached = [course for course in self._of(payload["trace_id"]) if course.run.state == "detached"]
        async with anyio.create_task_group() as group:
            group.start_soon(_leave_with_client, receive, group.cancel_scope)
            with suppress(OSError):
                await self._read(detached[-1] if detached else None, send)
            group.cancel_scope.cancel()

    def _of(self, trace_id: str) -> list[_Course]:
        return [course for course in self._courses if course.run.trace_id == trace_id]

    async def _read(self, course: _Course | None, send: Send) -> None:
        """Send what waits in the queue of a run, and what comes; without a run, heartbeats for ever."""
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        start = anyio.current_time()
        beat = start + self.heartbeat
        while True:
            due = course.next() if course else math.inf
            await anyio.sleep_until(min(beat, due))
            if beat < due:
                await _send_piece(send, _ping(beat - start))
                beat += self.heartbeat
            elif course and (entry := course.take()):  # another reader may have been faster
                await self._tell(course.run, entry, send)
                if entry.kind in _ENDS:
                    break
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _feedback(self, payload: dict[str, Any], _: Scope, __: Receive, send: Send) -> None:
        channel = payload.get("channel_id", "")
        running = [course.run for course in self._of(channel) if course.running()]
        if running:
            running[-1].feedback.append(payload.get("data"))
            await _respond(send, 200, _envelope({}))
        else:
            await _respond(send, 200, {"code": 400, "message": "illegal channel_id", "data": {}})

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
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

    async def _view(self, scope: Scope, send: Send) -> None:
        query = parse_qs(cast("bytes", scope["query_string"]).decode("ascii"), keep_blank_values=True)
        if "item_id" not in query:
            await _respond(send, 422, _missing("query", "item_id"))
            return
        wanted = query["item_id"][0]
        trace_id = next((course.run.trace_id for course in self._courses if wanted in course.nodes()), wanted)
        nodes = [_shown(course.run, noted) for course in self._of(trace_id) for noted in course.nodes().values()]
        await _respond(send, 200, _envelope({"nodes": nodes, "trace_id": trace_id}))

    def _started(self, scope: Scope, payload: dict[str, Any], ids: _Ids) -> ToyRun:
        query = payload.get("query", "")
        return ToyRun(
            query=query if isinstance(query, str) else "hang",  # a query that is no text kills a real server's task
            trace_id=str(payload.get("current_trace_id", ids.new())),
            callee=str(payload.get("callee") or self.organization.get("name")),
            request_id=str(payload.get("request_id") or ids.new()),
            payload=payload,
            headers={name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
        )

    def _timeline(self, run: ToyRun, ids: _Ids) -> tuple[Sequence[_Entry], Sequence[_Entry]]:
        categories = {str(node["name"]): str(node["type"]) for node in _flat(self.organization)}
        if run.callee not in categories:
            return [_Entry(0.0, "hang")], []
        return _Timeline(run, DIALECTS[self.dialect], categories, ids).of(self._script(run))

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

    async def _stream(self, course: _Course, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        run, start = course.run, course.start
        beat = start + self.heartbeat
        for entry in course.entries:
            due = course.due(entry)
            while beat < due:
                await anyio.sleep_until(beat)
                await _beat(run, beat - start, send)
                beat += self.heartbeat
            await anyio.sleep_until(due)
            if entry.kind == "ping":
                await _beat(run, entry.at, send)
            else:
                await self._tell(run, entry, send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, run: ToyRun, entry: _Entry, send: Send) -> None:
        if entry.kind != "cut":
            run.messages.append(entry.message)
            await _send_piece(send, entry.framed(DIALECTS[self.dialect]))


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


def _shown(run: ToyRun, noted: _Noted) -> dict[str, Any]:
    """A node as a real server shows it, secrets included."""
    shared: dict[str, Any] = {**(run.payload.get("shared_data") or {}), "_headers": run.headers}
    return {
        "node_id": noted.node.node_id,
        "node_type": noted.node.category,
        "trace_id": run.trace_id,
        "request_id": run.request_id,
        "caller": noted.caller,
        "callee": noted.node.callee,
        "father_node_id": noted.father,
        "call_stack": list(noted.node.stack),
        "shared_data": json.dumps(shared),
        "input": json.dumps({"class_attr": {}, "arguments": {"query": noted.query}}),
        "output": None if noted.state is None else _text(noted.output),
        "state": noted.state,
    }


async def _lifespan(receive: Receive, send: Send) -> None:
    event = ""
    while event != "lifespan.shutdown":
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})


async def _leave_with_client(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _send_piece(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _beat(run: ToyRun, seconds: float, send: Send) -> None:
    run.pings += 1
    await _send_piece(send, _ping(seconds))


async def _payload(scope: Scope, receive: Receive) -> dict[str, Any]:
    document = json.loads(await _body(scope, receive))
    if not isinstance(document, dict):
        raise TypeError("real servers fail here too")
    payload = cast("dict[str, Any]", document)
    if payload.get("shared_data", {}) is None:
        raise TypeError("and here")
    return payload


async def _body(scope: Scope, receive: Receive) -> bytes:
    if scope["method"] == "GET":
        query = cast("bytes", scope["query_string"]).decode("ascii")
        return parse_qs(query).get("payload", ["{}"])[0].encode()
    body, more = b"", True
    while more:
        message = await receive()
        body += cast("bytes", message.get("body", b""))
        more = bool(message.get("more_body", False))
    return body


async def _respond(send: Send, status: int, document: Any) -> None:
    """A whole response: a JSON document, or (None) the bare text of a server that failed."""
    body = b"Internal Server Error" if document is None else json.dumps(document, separators=(",", ":")).encode()
    kind = b"text/plain; charset=utf-8" if document is None else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    if document is None:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
