"""The calls of one run as a tree of values: the fields of `Trace`, and the walk over them.

Rule 1: the calls are a flat tuple, each after its parent, so that nothing here recurses, however deep the tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias, TypeVar

import attrs

CallStatus: TypeAlias = Literal["running", "completed", "failed", "canceled", "skipped", "lost"]
"""How a call or a run stands; `lost`: it is over, and its end was not seen."""
Source: TypeAlias = Literal["events", "record"]

N = TypeVar("N")

DRAWN_LEVELS: Final = 40
"""Levels of the tree that are drawn; 80 columns have no room for more."""

MARKS: Final[Mapping[CallStatus, str]] = {
    "running": "…",
    "completed": "✓",
    "failed": "✗",
    "canceled": "✗",
    "skipped": "-",
    "lost": "?",
}


@attrs.frozen(kw_only=True)
class TraceCall:
    """One call of an agent, tool or model in a run. Times are seconds since the run began."""

    index: int
    """Its place in `Trace.calls`."""
    parent: int | None = None
    """The place of the call that made it; None at the top."""
    depth: int = 0
    """The number of calls above it."""
    node_id: str = ""
    """Its id in the events and in the server's record."""
    name: str = ""
    """The callee."""
    category: str = ""
    """`agent`, `tool`, `llm`, ..."""
    status: CallStatus = "running"
    started: float | None = None
    """None if the start was not seen."""
    ended: float | None = None
    """None if the end was not seen."""
    arguments: dict[str, Any] = attrs.field(factory=dict[str, Any], repr=False, hash=False)
    """Redacted. Events of real servers have the `query` only; a record has all."""
    output: Any = attrs.field(default=None, repr=False, hash=False)
    """Redacted. A record has texts only."""
    error: str = attrs.field(default="", repr=False)
    """The text of the failure, or of an error that was reported during the call; redacted."""
    is_cut: bool = False
    """Whether the output was too large to be kept."""

    @property
    def seconds(self) -> float | None:
        """How long it took; None if its start or end was not seen."""
        return None if self.started is None or self.ended is None else self.ended - self.started

    @property
    def mark(self) -> str:
        """The character for its status: `✓`, `✗`, ..."""
        return MARKS[self.status]

    @property
    def is_failed(self) -> bool:
        """Whether it ended without an output of its own; `error` has the reason."""
        return self.status in ("failed", "canceled", "skipped")


def _children(calls: tuple[TraceCall, ...]) -> dict[int | None, list[TraceCall]]:
    found: dict[int | None, list[TraceCall]] = {}
    for call in calls:
        found.setdefault(call.parent, []).append(call)
    return found


@attrs.frozen(kw_only=True)
class CallTree:
    """The calls of one run as a tree, and how the run ended."""

    trace_id: str = ""
    """The caller's trace id; from a record, the server's is not known either."""
    remote_trace_id: str = ""
    """The server's trace id."""
    server_url: str = ""
    """Without user information and query; empty if it is not known."""
    source: Source = "events"
    began: datetime | None = None
    """When the run began: in UTC from events, without a time zone from a record, in the server's own."""
    seconds: float | None = None
    """How long the run took, or has taken so far."""
    status: CallStatus = "running"
    error: str = ""
    """The text of the error that ended the run; redacted."""
    output: Any = attrs.field(default=None, repr=False, hash=False)
    """The answer; redacted."""
    calls: tuple[TraceCall, ...] = attrs.field(default=(), repr=lambda calls: f"<{len(calls)} calls>")
    """All calls in the order in which they began, each after its parent."""
    dropped: int = 0
    """How many calls were left out, since there were too many or they were too large."""
    _below: dict[int | None, list[TraceCall]] = attrs.field(
        default=attrs.Factory(lambda self: _children(self.calls), takes_self=True), init=False, eq=False, repr=False
    )

    @property
    def roots(self) -> tuple[TraceCall, ...]:
        """The calls at the top; usually one."""
        return tuple(self._below.get(None, ()))

    def children(self, call: TraceCall) -> tuple[TraceCall, ...]:
        """Return the calls that `call` made, in the order in which they began."""
        return tuple(self._below.get(call.index, ()))

    def walk(self) -> Iterator[TraceCall]:
        """Iterate over all calls from the top down, each followed by those that it made."""
        waiting = [*reversed(self.roots)]
        while waiting:
            call = waiting.pop()
            yield call
            waiting.extend(reversed(self._below.get(call.index, ())))

    def outline(
        self, parts: Mapping[int | None, Sequence[TraceCall | N]] | None = None, *, levels: int = DRAWN_LEVELS
    ) -> Iterator[tuple[str, TraceCall | N]]:
        """Iterate over the lines of a drawn tree: the branches before a call, such as `│  └─ `, and the call.

        With `parts`, these stand below each call (None: at the top): calls, and notes of your own between them.
        Deeper levels are left out.
        """
        below = self._below if parts is None else parts
        waiting: list[tuple[str, str, TraceCall | N, int]] = [
            ("", "", part, 1) for part in reversed(below.get(None, ()))
        ]
        while waiting:
            above, branch, part, level = waiting.pop()
            yield above + branch, part
            if isinstance(part, TraceCall) and level < levels:
                above += _BELOW[branch]
                inner = reversed(below.get(part.index, ()))
                waiting.extend((above, "├─ " if place else "└─ ", each, level + 1) for place, each in enumerate(inner))


_BELOW: Final[Mapping[str, str]] = {"": "", "├─ ": "│  ", "└─ ": "   "}
"""The branches before what stands below a line, by the line's own."""
