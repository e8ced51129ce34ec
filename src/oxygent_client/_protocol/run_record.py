"""Parse the record that a server stores of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, cast

import attrs

from oxygent_client._core import json_codec
from oxygent_client._core.call_tree import CallStatus, TraceCall
from oxygent_client._core.errors import MalformedResponseError, TooLargeError
from oxygent_client._core.events import OxyState
from oxygent_client._core.redaction import scrub_json
from oxygent_client._core.settings import Limits
from oxygent_client._core.text import escape_text
from oxygent_client._core.trace import Trace

__all__ = ["RunNode", "RunRecord", "parse_record"]

SHOWN: Final = 60
SHOWN_CALLS: Final = 5
"""Characters of a name, and names, that the repr of a record shows."""


@attrs.frozen(kw_only=True)
class RunNode:
    """One call inside a run, as the server stored it. Inbound headers and settings of the callee are not kept."""

    node_id: str
    caller: str
    callee: str
    node_type: str
    """Type of the callee: `agent`, `tool`, `llm`, ..."""
    father_node_id: str
    """Node id of the calling node; for a root empty, or a node of the caller."""
    call_stack: tuple[str, ...]
    """The names from the user down to the callee."""
    state: OxyState | None
    """The final state; None if the call has not ended."""
    output: Any = attrs.field(repr=False)
    """The callee's output as the server stored it: a `str`. Real servers store other values as JSON."""
    create_time: datetime | None = None
    """Start of the call, in the server's own time zone; None if it is not known."""
    update_time: datetime | None = None
    """When the server stored the end of the call, in its own time zone; None if the call has not ended."""
    arguments: dict[str, Any] = attrs.field(factory=dict[str, Any], repr=False, hash=False)
    """The callee's arguments as the server stored them, with those that the framework adds. The server stores them at
    the end of the call."""
    input_md5: str = attrs.field(default="", repr=False)
    """The server's digest of the arguments, by which a restart finds a call."""

    @property
    def seconds(self) -> float | None:
        """How long the call took, as the server stored it; None if it has not ended."""
        if self.create_time is None or self.update_time is None:
            return None
        return (self.update_time - self.create_time).total_seconds()


@attrs.frozen(repr=False)
class RunRecord:
    """The record that a server stores of a run."""

    state: OxyState | None
    """The final state; None or RUNNING if the run has not ended; None without nodes if the server has no such run."""
    output: Any = attrs.field(repr=False)
    """The run's output, or the text of its failure; stored like `RunNode.output`, so 42 and "42" are the same."""
    nodes: tuple[RunNode, ...]
    """All calls stored under the run's trace id, in the server's order."""
    fingerprint: int = attrs.field(default=0, eq=False, repr=False)
    """A number, in this process, that changes when a call starts, ends or is stored again."""
    root: RunNode | None = attrs.field(default=None, eq=False, repr=False)
    """The call of the run itself, one of `nodes`."""
    trace_id: str = attrs.field(default="", eq=False, repr=False)
    """The server's trace id."""
    _clean: Callable[[Any], Any] = attrs.field(default=scrub_json, eq=False, repr=False)
    """Redacts the values of a trace."""

    @property
    def has_begun(self) -> bool:
        """Whether the server has a record of the run."""
        return bool(self.nodes)

    @property
    def is_over(self) -> bool:
        """Whether the run has ended, with success or failure."""
        return self.state is OxyState.COMPLETED or self.is_failure

    @property
    def is_failure(self) -> bool:
        """Whether the run has failed, was canceled or was skipped."""
        return self.state in (OxyState.FAILED, OxyState.CANCELED, OxyState.SKIPPED)

    def __repr__(self) -> str:
        state = "no end" if self.state is None else self.state.name
        names = [escape_text(node.callee, SHOWN) for node in self.nodes[:SHOWN_CALLS]]
        more = [f"and {len(self.nodes) - SHOWN_CALLS} more"] if len(self.nodes) > SHOWN_CALLS else []
        return f"<RunRecord {state}, {len(self.nodes)} calls: {', '.join([*names, *more]) or 'none'}>"

    def find(self, node_id: str) -> RunNode | None:
        """Return the call with this node id; None if the record does not have it."""
        return next((node for node in self.nodes if node.node_id == node_id), None)

    def trace(self) -> Trace:
        """Return the calls of the run as a `Trace`, with times in seconds since the first of them began.

        Each call is below its father, which the server names; a call that has not ended is `running`, or `lost` if the
        run has ended.
        """
        begun = [node.create_time for node in self.nodes if node.create_time is not None]
        began = min(begun, default=None)
        calls: list[TraceCall] = []
        places: dict[str, int] = {}
        for node in _fathers_first(self.nodes):
            parent = places.get(node.father_node_id)
            places[node.node_id] = len(calls)
            calls.append(self._call(node, began, parent, 0 if parent is None else calls[parent].depth + 1, len(calls)))
        root = calls[places[self.root.node_id]] if self.root is not None else None
        return Trace(
            remote_trace_id=self._clean(self.trace_id),
            source="record",
            began=began,
            seconds=None if root is None else root.seconds,
            status="lost" if root is None else root.status,
            error="" if root is None else root.error,
            output=None if root is None else root.output,
            calls=tuple(calls),
        )

    def _call(self, node: RunNode, began: datetime | None, parent: int | None, depth: int, index: int) -> TraceCall:
        status: CallStatus = STATUSES[node.state] if node.state is not None else "running"
        if status == "running" and self.is_over:
            status = "lost"
        arguments, output = self._clean(node.arguments), self._clean(node.output)
        return TraceCall(
            index=index,
            parent=parent,
            depth=depth,
            node_id=self._clean(node.node_id),
            name=self._clean(node.callee),
            category=self._clean(node.node_type),
            status=status,
            started=_since(began, node.create_time),
            ended=_since(began, node.update_time),
            arguments=cast("dict[str, Any]", arguments if isinstance(arguments, dict) else {}),
            output=output,
            error=str(output) if status in ("failed", "canceled", "skipped") else "",
        )


STATUSES: Final[Mapping[OxyState, CallStatus]] = {
    OxyState.CREATED: "running",
    OxyState.RUNNING: "running",
    OxyState.PAUSED: "running",
    OxyState.COMPLETED: "completed",
    OxyState.FAILED: "failed",
    OxyState.CANCELED: "canceled",
    OxyState.SKIPPED: "skipped",
}


def _since(began: datetime | None, moment: datetime | None) -> float | None:
    return None if began is None or moment is None else (moment - began).total_seconds()


def _fathers_first(nodes: tuple[RunNode, ...]) -> Iterator[RunNode]:
    """The nodes by the time of their start, but each after its father."""
    known = {node.node_id: node for node in nodes}
    seen = set[str]()
    for node in sorted(nodes, key=lambda node: "~" if node.create_time is None else node.create_time.isoformat()):
        line = list[RunNode]()
        above: RunNode | None = node
        while above is not None and above.node_id not in seen:  # a circle ends here, too
            seen.add(above.node_id)
            line.append(above)
            above = known.get(above.father_node_id)
        yield from reversed(line)


STATES: Final[dict[int, OxyState]] = {state.value: state for state in OxyState}


def parse_record(
    data: dict[str, Any],
    limits: Limits = Limits(),
    *,
    node_id: str = "",
    with_arguments: bool = False,
    clean: Callable[[Any], Any] = scrub_json,
) -> RunRecord:
    """Parse the data of a `/view` envelope: the run with the root `node_id`, or the latest run.

    The arguments of the calls are read only `with_arguments`. `clean` redacts the values of a trace of the record.

    Raises:
        MalformedResponseError: it is not a list of nodes with a root.
        TooLargeError: it has more nodes than `limits.nodes`.
    """
    rows = data.get("nodes")
    if not isinstance(rows, list):
        raise MalformedResponseError("the `nodes` of a record must be a list")
    rows = cast("list[Any]", rows)
    if len(rows) > limits.nodes:
        raise TooLargeError(f"the record has more nodes than Limits.nodes ({limits.nodes})")
    nodes = tuple(_node(row, limits if with_arguments else None) for row in rows)
    known = {node.node_id for node in nodes}
    if not nodes or (node_id and node_id not in known):
        return RunRecord(None, None, ())
    # The caller's own node may be the father; it is not among the nodes.
    roots = [node for node in nodes if (node.node_id == node_id if node_id else node.father_node_id not in known)]
    if not roots:
        raise MalformedResponseError("a record must have a root node")
    # A call whose father is not stored yet looks like a root; its stack is longer than that of the real root.
    root = min(reversed(roots), key=lambda node: len(node.call_stack))
    states = [(node.node_id, node.state, *_times(row)) for node, row in zip(nodes, rows, strict=True)]
    return RunRecord(root.state, root.output, nodes, hash(frozenset(states)), root, _text(data, "trace_id"), clean)


def _times(row: dict[str, Any]) -> Iterator[str]:
    """When a call was first and last stored, in the server's format."""
    return (str(row.get(name))[:64] for name in ("create_time", "update_time"))


def _node(row: Any, limits: Limits | None) -> RunNode:
    if not isinstance(row, dict):
        raise MalformedResponseError("a node of a record must be an object")
    fields = cast("dict[str, Any]", row)
    node_id, state, stack = _text(fields, "node_id"), fields.get("state"), fields.get("call_stack")
    if not node_id:
        raise MalformedResponseError("a node of a record must have a node_id")
    if state is not None and (type(state) is not int or state not in STATES):
        raise MalformedResponseError("the state of a node must be a value of OxyState, or null")
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
        create_time=_time(fields, "create_time"),
        update_time=_time(fields, "update_time"),
        arguments={} if limits is None else _arguments(fields.get("input"), limits),
        input_md5=_text(fields, "input_md5"),
    )


def _time(fields: dict[str, Any], name: str) -> datetime | None:
    """A time as the server wrote it, such as `2026-11-28 14:07:54.884348000`; None if it is not one."""
    try:
        moment = datetime.fromisoformat(_text(fields, name))
    except ValueError:
        return None
    return moment.replace(tzinfo=None)


def _arguments(stored: Any, limits: Limits) -> dict[str, Any]:
    """The arguments in the `input` of a node, which also has the settings of the callee: an API key may be among them.

    Real servers store it as JSON text. Empty if it is missing or malformed.
    """
    if isinstance(stored, str):
        try:
            stored = json_codec.loads(stored, depth=limits.depth)
        except (ValueError, TooLargeError):
            return {}
    arguments = cast("dict[str, Any]", stored).get("arguments") if isinstance(stored, dict) else None
    return cast("dict[str, Any]", arguments) if isinstance(arguments, dict) else {}


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""
