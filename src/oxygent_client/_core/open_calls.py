"""Find the calls of a run from its events: the caller of a call, and the call that a message is about.

Rule 1: events do not name the caller's node. The caller of a call is the latest open call whose stack is that of the
    caller; without a stack, the latest open call of the caller's name. So two calls of one agent at once, with the same
    stack, cannot be told apart.
Rule 2: constant time, however many calls are open. Ids, names and stacks are kept as hashes: a remote may send long
    ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar, cast

import attrs

from oxygent_client._core.events import Event, Observation, ToolCall

T = TypeVar("T")


@attrs.frozen
class _Known(Generic[T]):
    number: int
    stack: int
    name: int
    call: T


class OpenCalls(Generic[T]):
    """The calls of one run, as values of a type of yours: `begin` and `end` them by the events of the run."""

    def __init__(self) -> None:
        self._count = 0
        self._by_id: dict[int, _Known[T]] = {}
        """The latest call of each node id, open or not."""
        self._open: dict[int, T] = {}
        self._by_stack: dict[int, dict[int, T]] = {}
        """The open calls of each stack, the latest last."""
        self._by_name: dict[int, dict[int, T]] = {}

    def begin(self, step: ToolCall | Observation, call: T) -> None:
        """Add the call of an event. An earlier call with its node id is no longer open."""
        self.end(step.node_id)
        self._count += 1
        known = _Known(self._count, hash(step.call_stack), hash(step.callee), call)
        if step.node_id:
            self._by_id[hash(step.node_id)] = known
        self._open[known.number] = call
        self._by_stack.setdefault(known.stack, {})[known.number] = call
        self._by_name.setdefault(known.name, {})[known.number] = call

    def end(self, node_id: str) -> T | None:
        """Close the call with this node id, and return it; None if it is not open. `find` finds it further on."""
        known = self._by_id.get(hash(node_id))
        if known is None or known.number not in self._open:
            return None
        del self._open[known.number]
        for calls, key in ((self._by_stack, known.stack), (self._by_name, known.name)):
            del calls[key][known.number]
            if not calls[key]:
                del calls[key]
        return known.call

    def forget(self, node_id: str) -> T | None:
        """Remove the call with this node id, and return it if it was open."""
        call = self.end(node_id)
        self._by_id.pop(hash(node_id), None)
        return call

    def find(self, node_id: object) -> T | None:
        """Return the latest call with this node id, open or not."""
        known = self._by_id.get(hash(node_id)) if isinstance(node_id, str) else None
        return None if known is None else known.call

    def caller_of(self, step: ToolCall | Observation) -> T | None:
        """Return the open call that made the call of an event."""
        stack = step.call_stack
        return _latest(self._by_stack.get(hash(stack[:-1])) if stack else self._by_name.get(hash(step.caller)))

    def subject_of(self, event: Event) -> T | None:
        """Return the call that a message names: by its node id, else the latest open call of its agent."""
        content = cast("dict[str, Any]", event.content if isinstance(event.content, dict) else {})
        message = cast("dict[str, Any]", event.message if isinstance(event.message, dict) else {})
        if (found := self.find(content.get("node_id"))) is not None:
            return found
        agent = content.get("agent", message.get("agent"))
        return _latest(self._by_name.get(hash(agent))) if isinstance(agent, str) else None

    def __len__(self) -> int:
        """The number of open calls."""
        return len(self._open)

    def __iter__(self) -> Iterator[T]:
        """Iterate over the open calls, in the order in which they began."""
        return iter(self._open.values())


def _latest(calls: dict[int, T] | None) -> T | None:
    return next(reversed(calls.values()), None) if calls else None
