"""What a server's bytes mean: messages of a run, JSON envelopes, an organization, the record of a run.

Rule 1: plain functions of what was received. Unknown is not wrong: it becomes `Custom` or `Text`, and nothing is lost.
Rule 2: what must have a shape (an envelope, an organization, a record) is checked here, and an error says what was
    wrong with it.
Rule 3: paths and names of the wire are written here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, cast

import attrs

from oxygent_client import _json
from oxygent_client._errors import (
    AuthenticationError,
    EnvelopeError,
    MalformedResponseError,
    NotAnEventStreamError,
    NotFoundError,
    Outcome,
    OxyError,
    PermissionDeniedError,
    RateLimitedError,
    RedirectError,
    ServerError,
    StatusError,
    TooLargeError,
)
from oxygent_client._models import (
    Answer,
    Custom,
    Event,
    Observation,
    OxyState,
    Progress,
    RemoteErrorEvent,
    Text,
    TextDelta,
    ToolCall,
)
from oxygent_client._secrets import Clean, scrub_text
from oxygent_client._settings import Limits
from oxygent_client._sse import ServerSentEvent
from oxygent_client._text import shown_text
from oxygent_client._version import __version__

__all__ = [
    "CLOSE",
    "HEADERS",
    "LEGACY_DONE",
    "PATHS",
    "RUN_HEADERS",
    "SAYS",
    "Agents",
    "RunNode",
    "RunRecord",
    "alive",
    "as_text",
    "envelope",
    "error_envelope",
    "is_event_stream",
    "is_failure_text",
    "organization",
    "record",
    "refusal",
    "retry_after",
    "stored_name",
    "to_event",
    "trace_id_of",
]

CLOSE: Final = "close"
"""The name of the event that ends a stream, whatever its data. Nothing else does."""
LEGACY_DONE: Final = "done"
"""In a stream that names no event, a message that may be the end: see `oxygent_client._inbox`."""
PATHS: Final = {
    "run": "/sse/chat",
    "organization": "/get_organization",
    "description": "/get_description",
    "agents": "/get_agents",
    "record": "/view",
    "start": "/async/chat",
    "attach": "/async/trace",
    "feedback": "/feedback",
    "alive": "/check_alive",
    "upload": "/upload",
}

HEADERS: Final = {"accept-encoding": "identity", "user-agent": f"oxygent-client/{__version__}"}
RUN_HEADERS: Final = {"accept": "text/event-stream", "cache-control": "no-store", "content-type": "application/json"}
"""What every request carries, and what one that opens a stream carries too. A stream must not be compressed: a proxy
that does holds events back, and one compressed piece can be a thousand times its size."""

EVENTS: Final[dict[str, type[Event]]] = {
    "answer": Answer,
    "tool_call": ToolCall,
    "observation": Observation,
    "stream": TextDelta,
    "stream_end": TextDelta,
    "progress": Progress,
    "error": RemoteErrorEvent,
}
"""The class of each known message type; any other is `Custom`."""


def to_event(sse: ServerSentEvent, limits: Limits = Limits()) -> Event:
    """The typed event in `sse`.

    JSON that is nested deeper than `limits.depth` is a `Text` whose `problems` say so; where it is an answer all the
    same, its type is `answer`.
    """
    try:
        message, problems = _json.read(sse.data, depth=limits.depth)
    except TooLargeError as error:
        kind = "answer" if _json.text_member(sse.data, "type") == "answer" else None
        return Text(kind, sse.data, sse.data, sse, problems=(str(error),))
    except ValueError:
        return Text(None, sse.data, sse.data, sse)
    if not isinstance(message, dict):
        return Custom(None, message, message, sse, problems=problems)
    fields = cast("dict[str, Any]", message)
    kind = fields.get("type")
    kind = kind if isinstance(kind, str) else None
    content = fields.get("content")
    cls = EVENTS.get(kind or "", Custom)
    if issubclass(cls, ToolCall | Observation) and not isinstance(content, dict):
        cls = Custom
    return cls(kind, content, fields, sse, problems=problems)


def trace_id_of(event: Event) -> str:
    """The server's trace id of the run that an event which ends a run says it belongs to; else empty.

    That is an answer, an observation of a root, or the close event. Others may come from runs within the run, and the
    content of an answer is the agent's own.
    """
    message = event.message
    if not isinstance(message, dict):
        return ""
    places = [cast("dict[str, Any]", message)]
    if isinstance(event, Observation):
        content = cast("dict[str, Any]", event.content)
        if content.get("caller_category") != "user":
            return ""
        places.insert(0, content)
    elif not isinstance(event, Answer) and event.sse.event != CLOSE:
        return ""
    ids = [place.get("current_trace_id") for place in places]
    return next((str(each) for each in ids if each != "" and type(each) in (str, int)), "")


def is_event_stream(content_type: str) -> bool:
    """Whether a Content-Type says `text/event-stream`; its parameters do not matter.

    A header that was sent twice arrives as one with a comma; it counts if all its parts say the same.
    """
    return _is_type(content_type, "text/event-stream")


def _is_type(content_type: str, expected: str) -> bool:
    parts = (part.partition(";")[0].strip().lower() for part in _QUOTED.sub("", content_type).split(","))
    return {part for part in parts if part} == {expected}


_QUOTED: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?')
"""A value of a parameter, which may hold a comma."""


# --- responses that are no stream -------------------------------------------------------------------------------------

STATUS: Final[dict[int, type[StatusError]]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    429: RateLimitedError,
}
CLASSES: Final[dict[int, type[StatusError]]] = {3: RedirectError, 5: ServerError}
"""The class for each status that has one of its own, and for each hundred that has one."""
TEXT: Final = 4096
"""How many characters of a text are looked at that is shown in an error: more than are shown, so that what is secret in
it is there as a whole."""
PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a `Retry-After` asks to wait; None without one that is valid.

    A date is read against the server's own `Date`, so that no clock but the server's counts.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value) if len(value) < 10 else None
    until, now = _date(value), _date(headers.get("date", ""))
    return max(0.0, (until - now).total_seconds()) if until and now else None


def _date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # the latter for numbers beyond C's
        return None
    return moment if moment.tzinfo else None


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, limits: Limits = Limits(), *, clean: Clean = scrub_text
) -> OxyError:
    """The error that a response is, if it is not a stream of events; `body` may be cut short.

    No text in it holds what `clean` takes away, or a character that is unsafe to show.
    """
    if status != 200:
        cls = STATUS.get(status) or CLASSES.get(status // 100, StatusError)
        wait = retry_after(headers)
        # Only these say for sure that no agent ran; a bare 503 may be a proxy that gave up on a run.
        refused = 400 <= status < 500 or (status == 503 and wait is not None)
        name = PHRASES.get(status, "a status without a name")
        outcome = Outcome.REJECTED if refused else cls.default_outcome
        text = shown_text(clean(body.decode("utf-8", "replace")), limits.error_body_bytes, lines=True)
        return cls(
            f"the server answered {status} ({name})", status=status, body=text, retry_after=wait, outcome=outcome
        )
    if _is_type(headers.get("content-type", ""), "application/json"):
        try:
            envelope(body, limits, clean=clean)
        except EnvelopeError as error:
            return error
        except OxyError:
            pass
    kind = shown_text(clean(headers.get("content-type", "")[:TEXT]), 100)
    words = ""
    if any(_is_type(headers.get("content-type", ""), each) for each in ("application/json", "text/plain")) and body:
        words = f": {shown_text(clean(body[:TEXT].decode('utf-8', 'replace')), 300)}"
    return NotAnEventStreamError(
        f"the server answered 200 with '{kind or 'no content type'}', not with an event stream{words}"
    )


# --- JSON documents ---------------------------------------------------------------------------------------------------


def _document(body: bytes, limits: Limits) -> dict[str, Any]:
    """The JSON object in `body`."""
    try:
        document = _json.loads(body.decode(), depth=limits.depth)
    except TooLargeError:
        raise
    except ValueError as error:
        raise MalformedResponseError("the response should be JSON and is not") from error
    if not isinstance(document, dict):
        raise MalformedResponseError("the response should be a JSON object and is another value")
    return cast("dict[str, Any]", document)


def envelope(body: bytes, limits: Limits = Limits(), *, clean: Clean = scrub_text) -> dict[str, Any]:
    """The `data` of a server's `{"code": 200, "message": ..., "data": {...}}`.

    An envelope without `code`, or with one that is the text "200", is one of success.

    Raises:
        EnvelopeError: the code says that the call failed. Of the server's words it holds what `clean` leaves.
        MalformedResponseError, TooLargeError: the body is nothing of the kind.
    """
    document = _document(body, limits)
    if (error := error_envelope(document, clean)) is not None:
        raise error
    data = document.get("data")
    if not isinstance(data, dict):
        raise MalformedResponseError("the envelope's `data` should be an object")
    return cast("dict[str, Any]", data)


def error_envelope(document: dict[str, Any], clean: Clean = scrub_text) -> EnvelopeError | None:
    """The error that an envelope is; None if it is one of success.

    One without `code` is one of success if it has `data`.
    """
    code = document.get("code")
    if code in (200, "200") or (code is None and "data" in document):
        return None
    message = next((document[name] for name in SAYS if name in document), None)
    said = clean(as_text(message)[:TEXT])
    said = f"code '{shown_text(clean(as_text(code)[:TEXT]), 20)}', message '{shown_text(said, 300)}'"
    return EnvelopeError(
        f"the server answered with an error envelope: {said}", code=code if type(code) is int else None
    )


SAYS: Final = ("message", "error", "errors", "detail")
"""Members of an object by which servers and proxies say what went wrong."""


def as_text(value: Any) -> str:
    """Any JSON as a text for a person."""
    try:
        return str(value)
    except RecursionError:
        return "(JSON that is nested too deep to be shown)"


def alive(body: bytes, limits: Limits = Limits()) -> bool:
    """What the `alive` of a `/check_alive` document says.

    Raises:
        MalformedResponseError, TooLargeError: the body is nothing of the kind.
    """
    said = _document(body, limits).get("alive")
    if not isinstance(said, int):
        raise MalformedResponseError("the server should say `alive` and a number")
    return bool(said)


def stored_name(data: dict[str, Any]) -> str:
    """The name under which a server has stored a file: in the data of an `/upload` envelope.

    Raises:
        MalformedResponseError: it says none.
    """
    name = data.get("file_name")
    if not isinstance(name, str) or not name:
        raise MalformedResponseError("the server should say under which name it stored the file")
    return name


def organization(data: dict[str, Any], limits: Limits = Limits()) -> dict[str, Any]:
    """The tree in the data of a `/get_organization` envelope; wherever it has `children`, they are a list of objects.

    Raises:
        MalformedResponseError: it is no tree of objects.
        TooLargeError: it has more members than `limits.nodes`.
    """
    tree = data.get("organization")
    if not isinstance(tree, dict):
        raise MalformedResponseError("the organization should be an object")
    root = cast("dict[str, Any]", tree)
    for count, node in enumerate(members(root), start=1):
        if count > limits.nodes:
            raise TooLargeError(f"the organization has more members than Limits.nodes ({limits.nodes})")
        children = node.get("children", [])
        if not isinstance(children, list) or not all(isinstance(child, dict) for child in cast("list[Any]", children)):
            raise MalformedResponseError("the `children` of an organization should be a list of objects")
    return root


def members(root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every node of a tree of objects, the root first, without recursion. A node's children are looked at after it."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(cast("list[dict[str, Any]]", node.get("children", []))))


@attrs.frozen
class Agents:
    """What discovery found out about a remote."""

    names: frozenset[str]
    """Every name that the remote is known to have."""
    complete: bool
    """True if `/get_agents` listed them: a name that is not among them is unknown to the remote."""

    @classmethod
    def read(cls, root: dict[str, Any], listing: dict[str, Any] | None) -> Agents:
        """From an organization and, where the server has it, the data of `/get_agents`."""
        listed = listing.get("agents") if listing is not None else None
        rows: list[Any] = [*members(root)]
        if isinstance(listed, list):
            rows += cast("list[Any]", listed)
        names = (cast("dict[str, Any]", row).get("name") for row in rows if isinstance(row, dict))
        return cls(frozenset(name for name in names if isinstance(name, str) and name), isinstance(listed, list))


# --- the record of a run ----------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class RunNode:
    """One call inside a run, as the server stored it. Its arguments and the inbound headers are not kept."""

    node_id: str
    caller: str
    callee: str
    node_type: str
    """What the callee is: `agent`, `tool`, `llm`, ..."""
    father_node_id: str
    """The node of the call within which this one was made; empty, or a node of the caller's, for a root."""
    call_stack: tuple[str, ...]
    """The names from the user down to the callee."""
    state: OxyState | None
    """How the call ended; None: it has not, as real servers say it."""
    output: Any = attrs.field(repr=False)
    """What the callee gave, as the server stored it: a text. Real servers turn all else into its JSON."""


@attrs.frozen
class RunRecord:
    """What a server has stored of a run."""

    state: OxyState | None
    """How the run ended; None or RUNNING: it has not; None and no nodes: the server knows of no such run."""
    output: Any = attrs.field(repr=False)
    """What the run gave, or the text of its failure: as `RunNode.output`, so 42 and "42" look the same."""
    nodes: tuple[RunNode, ...]
    """Every call stored under the run's trace id, in the server's order."""
    fingerprint: int = attrs.field(default=0, eq=False, repr=False)
    """A number, in this process, that changes when a call begins, ends or is stored again."""

    @property
    def has_begun(self) -> bool:
        """Whether the server knows of the run."""
        return bool(self.nodes)

    @property
    def is_over(self) -> bool:
        """Whether the run has ended, well or not."""
        return self.state is OxyState.COMPLETED or self.is_failure

    @property
    def is_failure(self) -> bool:
        """Whether the run has ended, and not well."""
        return self.state in (OxyState.FAILED, OxyState.CANCELED, OxyState.SKIPPED)


STATES: Final[dict[int, OxyState]] = {state.value: state for state in OxyState}


def record(data: dict[str, Any], limits: Limits = Limits(), *, node_id: str = "") -> RunRecord:
    """The record in the data of a `/view` envelope: of the run whose root is `node_id`, or of the latest run.

    Raises:
        MalformedResponseError: it is no list of nodes, or none of them is a root.
        TooLargeError: it has more nodes than `limits.nodes`.
    """
    rows = data.get("nodes")
    if not isinstance(rows, list):
        raise MalformedResponseError("the `nodes` of a record should be a list")
    rows = cast("list[Any]", rows)
    if len(rows) > limits.nodes:
        raise TooLargeError(f"the record has more nodes than Limits.nodes ({limits.nodes})")
    nodes = tuple(_node(row) for row in rows)
    known = {node.node_id for node in nodes}
    if not nodes or (node_id and node_id not in known):
        return RunRecord(None, None, ())
    # A caller may have sent a father of its own, which is not among the nodes.
    roots = [node for node in nodes if (node.node_id == node_id if node_id else node.father_node_id not in known)]
    if not roots:
        raise MalformedResponseError("a record should have a node that no other has called")
    # A call whose father is not stored yet looks like a root; its stack is longer than that of the real one.
    root = min(reversed(roots), key=lambda node: len(node.call_stack))
    moving = [(node.node_id, node.state, *_times(row)) for node, row in zip(nodes, rows, strict=True)]
    return RunRecord(root.state, root.output, nodes, hash(frozenset(moving)))


def _times(row: dict[str, Any]) -> Iterator[str]:
    """When a call was stored first, and last, as the server writes it."""
    return (str(row.get(name))[:64] for name in ("create_time", "update_time"))


def _node(row: Any) -> RunNode:
    if not isinstance(row, dict):
        raise MalformedResponseError("a node of a record should be an object")
    fields = cast("dict[str, Any]", row)
    node_id, state, stack = _text(fields, "node_id"), fields.get("state"), fields.get("call_stack")
    if not node_id:
        raise MalformedResponseError("a node of a record should have an id")
    if state is not None and (type(state) is not int or state not in STATES):
        raise MalformedResponseError("the state of a node should be one of OxyState, or null")
    return RunNode(
        node_id=node_id,
        caller=_text(fields, "caller"),
        callee=_text(fields, "callee"),
        node_type=_text(fields, "node_type"),
        father_node_id=_text(fields, "father_node_id"),
        call_stack=tuple(name for name in cast("list[Any]", stack) if isinstance(name, str))
        if isinstance(stack, list)
        else (),
        state=None if state is None else STATES[state],
        output=fields.get("output"),
    )


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


# --- an answer that reads like a failure ------------------------------------------------------------------------------

FAILURES: Final[tuple[tuple[str, str], ...]] = (
    # How the text begins, and how it ends. A source is a module of oxygent: 1.0.8, 1.0.13 and 1.1.3, or as it says.
    ("Error executing oxy ", ""),  # oxy.base_oxy, `execute`: it raised at its last attempt
    ("Error executing tool ", ""),  # schemas.oxy, `call`: it raised outside of its attempts
    ("Executing tool ", " timed out"),  # schemas.oxy, `call`: its `timeout` ran out
    ("Tool ", " not exists"),  # schemas.oxy, `call`: there is no such oxy
    ("Tool ", " was cancelled"),  # oxy.base_oxy, `execute`: stored so, and given by a run that replays it
    ("No permission for tool: ", ""),  # schemas.oxy, `call`: the state is SKIPPED
    # oxy.llms.base_llm, `friendly_error_text`: a language model failed, perhaps that of an agent that passes it on.
    ("Sorry, I seem to have encountered a problem. Please try again.", ""),
    ("SSE connection failed after ", ""),  # oxy.agents.sse_oxy_agent, since 1.0.10
    ("Unexpected error in SSE connection: ", ""),  # likewise
    ("WorkflowAgent '", "' has no func_workflow defined."),  # oxy.agents.workflow_agent, 1.1
    ("Workflow '", "' has no func_workflow defined."),  # oxy.flows.workflow, 1.1
    ("[", "] agent_generate_one_step failed"),  # oxy.llms.actor_llm, 1.1
    ("[", "] agent_generate_one_step failed to return response or generated_ids"),  # likewise
)
"""The texts with which an oxy of the framework answers that failed or did not run. There is no state on the wire.

What an agent's own `friendly_error_text`, an interceptor or a failing tool says (any text) is not among them.
"""


def is_failure_text(output: object) -> bool:
    """Whether an answer reads like a failure of the framework's. An agent may say the same: the record tells."""
    if not isinstance(output, str):
        return False
    return any(
        len(output) >= len(begin) + len(end) and output.startswith(begin) and output.endswith(end)
        for begin, end in FAILURES
    )
