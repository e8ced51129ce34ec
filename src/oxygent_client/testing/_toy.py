"""A remote OxyGent system small enough to carry along: for tests, demonstrations, and trying things out.

Rule 1: a plain ASGI 3 app; only json, anyio and attrs, so it runs in process or under any server, on both event loops.
Rule 2: what a run says is data: a Script of steps, turned into a timeline before the first byte goes out. Nothing
    is left to chance (ids come from the seed), and nothing but pauses and heartbeats reads a clock.
Rule 3: the bytes are those of real servers; what differs between releases is a line in DIALECTS.
Rule 4: one event is one body chunk, as it was in every one of 2,943 chunks captured from real servers.
Rule 5: when the client leaves, the run stops at once, and its record says so.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeAlias, cast
from urllib.parse import parse_qs

import anyio
from attrs import define, field, frozen
from attrs.validators import in_

from oxygent_client.testing.script import (
    AGENTS,
    SCRIPTS,
    TRIP,
    Call,
    Close,
    Cut,
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
    paths: frozenset[str]


_PATHS = frozenset({"/sse/chat", "/get_organization", "/check_alive"})
DIALECTS: Mapping[str, _Dialect] = {
    "1.1.3": _Dialect(
        named=True,
        own_copies=True,
        text_output=False,
        drops_falsy=False,
        paths=_PATHS | {"/get_description", "/get_agents"},
    ),
    "1.0.8": _Dialect(named=False, own_copies=False, text_output=True, drops_falsy=True, paths=_PATHS),
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
class _Entry:
    """One thing that is sent, or (cut, hang) the end of sending; `at` in seconds of the script."""

    at: float
    kind: Literal["message", "ping", "close", "cut", "hang"]
    message: Any = None
    event: str = "message"
    id: str = ""
    retry: int = 3000

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


def _ping(after: float) -> bytes:
    return f": ping - {_EPOCH + timedelta(seconds=after)}\r\n\r\n".encode()


@frozen
class _Node:
    """Who has the word: the agent or tool a call opened."""

    node_id: str
    callee: str
    category: str
    stack: tuple[str, ...]


@define
class _Timeline:
    """Turns a script into the entries of one run; parallel steps are merged by their time, ties by their order."""

    run: ToyRun
    dialect: _Dialect
    categories: Mapping[str, str]
    ids: _Ids
    entries: list[_Entry] = field(factory=list)

    def of(self, script: Script) -> list[_Entry]:
        """All entries of the run, in the order of sending, up to the first that ends the stream."""
        payload = self.run.payload
        caller = str(payload.get("caller") or "user")
        category = str(payload.get("caller_category") or "user")
        stack = tuple(payload.get("call_stack") or ("user",))
        root = self._node(self.run.callee, stack, node_id=str(payload.get("node_id") or ""))
        self._tell_call(0.0, root, caller, category, payload.get("query", ""))
        at = self._play_all(script.steps, 0.0, root)
        output = self._said(script.output)
        self._tell_observation(at, root, caller, category, output)
        if category == "user":
            answer = {"type": "answer", "content": output, "current_trace_id": self.run.trace_id}
            self._message(at, {**answer, "request_id": self.run.request_id})
        self.entries.append(_Entry(at, "close", "done", "close"))
        ordered = sorted(self.entries, key=lambda entry: entry.at)
        last = next(place for place, entry in enumerate(ordered) if entry.kind in _ENDS)
        return list(self._numbered(ordered[: last + 1]))

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

    def _message(self, at: float, message: Any) -> None:
        self.entries.append(_Entry(at, "message", message))

    def _content(self, node: _Node, caller: str, category: str, **more: Any) -> dict[str, Any]:
        return {
            "node_id": node.node_id,
            **({"copied_node_id": ""} if self.dialect.own_copies else {}),
            "caller": caller,
            "callee": node.callee,
            "caller_category": category,
            "callee_category": node.category,
            "call_stack": list(node.stack),
            **more,
            "request_id": self.run.request_id,
        }

    def _tell_call(self, at: float, node: _Node, caller: str, category: str, query: Any) -> None:
        arguments = {"query": query} if query else {}
        self._message(at, {"type": "tool_call", "content": self._content(node, caller, category, arguments=arguments)})

    def _tell_observation(self, at: float, node: _Node, caller: str, category: str, output: Any) -> None:
        if self.dialect.text_output and not isinstance(output, str):
            output = json.dumps(output, ensure_ascii=False)
        content = self._content(node, caller, category, output=output, current_trace_id=self.run.trace_id)
        self._message(at, {"type": "observation", "content": content})

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
            case Call(callee, steps):
                called = self._node(callee, node.stack)
                self._tell_call(at, called, node.callee, node.category, step.query)
                at = self._play_all(steps, at, called)
                if not step.lost:
                    self._tell_observation(at, called, node.callee, node.category, self._said(step.output))
            case Together(steps):
                at = max((self._play(part, at, node) for part in steps), default=at)
            case Close(data):
                self.entries.append(_Entry(at, "close", data, "close"))
            case _:
                self.entries.append(_Entry(at, _MARKS[type(step)]))
        return at


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


@define
class ToyRun:
    """The record of one run: who was asked what, what was sent, and how it ended."""

    query: str
    trace_id: str
    callee: str
    request_id: str
    payload: dict[str, Any] = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    state: Literal["started", "finished", "cancelled"] = "started"
    messages: list[Any] = field(factory=list, repr=False)
    pings: int = 0


@define(eq=False)
class ToyRemote:
    """A remote OxyGent system as an ASGI app: `ASGITransport(ToyRemote())`, or any server on a port.

    The first word of the query chooses the script, `default` where none has that name. An agent below the master that
    is called by name does what it does in the default script. `pace` multiplies every pause (0 waits for nothing),
    `heartbeat` is the seconds between two pings and is not paced.
    """

    dialect: str = field(default="1.1.3", kw_only=True, validator=in_(DIALECTS))
    scripts: Mapping[str, Script] = field(default=SCRIPTS, kw_only=True, repr=False)
    default: Script = field(default=TRIP, kw_only=True, repr=False)
    organization: Mapping[str, Any] = field(default=AGENTS, kw_only=True, repr=False)
    description: str = field(default="Plans trips with flights and hotels", kw_only=True)
    pace: float = field(default=1.0, kw_only=True)
    heartbeat: float = field(default=15.0, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    runs: list[ToyRun] = field(factory=list, init=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection: an HTTP request, or the server's own lifespan."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path not in DIALECTS[self.dialect].paths:
            await _respond(send, 404, {"detail": "Not Found"})
        elif method != "GET" and (path, method) != ("/sse/chat", "POST"):
            await _respond(send, 405, {"detail": "Method Not Allowed"})
        elif path == "/sse/chat":
            await self._chat(scope, receive, send)
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
        return {"code": 200, "message": "SUCCESS", "data": data}

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            payload = json.loads(await _body(scope, receive))
            ids = _Ids(f"{self.seed}/{len(self.runs)}")
            run = self._started(scope, payload, ids)
        except (ValueError, TypeError, LookupError):
            await _respond(send, 500, None)
            return
        self.runs.append(run)
        entries = self._entries(run, ids)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_leave_with_client, receive, group.cancel_scope)
                try:
                    await self._stream(run, entries, send)
                    run.state = "finished"
                except OSError:
                    pass  # what a server raises from send() when the client has left
                group.cancel_scope.cancel()
        finally:
            if run.state == "started":
                run.state = "cancelled"

    def _started(self, scope: Scope, document: Any, ids: _Ids) -> ToyRun:
        if not isinstance(document, dict):
            raise TypeError("real servers fail here too")
        payload = cast("dict[str, Any]", document)
        if payload.get("shared_data", {}) is None:
            raise TypeError("and here")
        query = payload.get("query", "")
        return ToyRun(
            query=query if isinstance(query, str) else "hang",  # a query that is no text kills a real server's task
            trace_id=str(payload.get("current_trace_id", ids.new())),
            callee=str(payload.get("callee") or self.organization.get("name")),
            request_id=str(payload.get("request_id") or ids.new()),
            payload=payload,
            headers={name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
        )

    def _entries(self, run: ToyRun, ids: _Ids) -> Sequence[_Entry]:
        categories = {str(node["name"]): str(node["type"]) for node in _flat(self.organization)}
        if run.callee not in categories:
            return [_Entry(0.0, "hang")]
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

    async def _stream(self, run: ToyRun, entries: Sequence[_Entry], send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        start = anyio.current_time()
        beat = start + self.heartbeat
        for entry in entries:
            due = math.inf if entry.kind == "hang" else start + entry.at * self.pace
            while beat < due:
                await anyio.sleep_until(beat)
                await _beat(run, beat - start, send)
                beat += self.heartbeat
            await anyio.sleep_until(due)
            if entry.kind == "ping":
                await _beat(run, entry.at, send)
            elif entry.kind != "cut":
                run.messages.append(entry.message)
                await _send_piece(send, entry.framed(DIALECTS[self.dialect]))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


_STREAM_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
    (b"content-type", b"text/event-stream; charset=utf-8"),
]


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
