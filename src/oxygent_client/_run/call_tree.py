"""Keep the calls of a run as a tree that can be shown.

Rule 1: bounded memory. Calls beyond MAX_CALLS are only counted, and names are cut.
Rule 2: the parent of a call is the latest call whose call stack is that of its caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, Final

import attrs

from oxygent_client._core.events import Event, Observation, ToolCall
from oxygent_client.telemetry._observers import Notification

MAX_CALLS: Final = 500
MAX_DEPTH: Final = 40
"""The number of levels that are indented."""
MAX_NAME: Final = 100
"""The number of characters of a name."""
RUNNING, DONE, LOST = "…", "✓", "✗"
"""The mark of a call that is running, that has ended, or that never returned."""


@attrs.define(eq=False)
class _Call:
    name: str
    key: tuple[object, ...]
    depth: int
    has_ended: bool = False
    children: list[_Call] = attrs.field(factory=list["_Call"])


@attrs.define(eq=False)
class CallTree:
    """The calls of one run. It is an observer of the run, or is built from events."""

    wants_events: ClassVar[bool] = True

    hidden: int = 0
    """How many calls were not kept."""
    _roots: list[_Call] = attrs.field(factory=list[_Call], init=False)
    _kept: int = attrs.field(default=0, init=False)
    _by_key: dict[tuple[object, ...], _Call] = attrs.field(factory=dict[tuple[object, ...], _Call], init=False)
    """By node id and callee, while they run."""
    _by_stack: dict[tuple[str, ...], _Call] = attrs.field(factory=dict[tuple[str, ...], _Call], init=False)

    @classmethod
    def of(cls, events: Iterable[Event]) -> CallTree:
        """Return the tree of the calls among these events."""
        tree = cls()
        for event in events:
            tree.see(event)
        return tree

    def note(self, notification: Notification, /) -> None:
        """As `Observer.note`."""
        if "event" in notification.fields:
            self.see(notification.fields["event"])

    def see(self, event: Event) -> None:
        """Take a call or its end; other events do nothing."""
        if isinstance(event, ToolCall):
            self._begin(event)
        elif isinstance(event, Observation) and (call := self._by_key.pop(_key(event), None)) is not None:
            call.has_ended = True

    def _begin(self, event: ToolCall) -> None:
        if self._kept >= MAX_CALLS:
            self.hidden += 1
            return
        self._kept += 1
        stack = event.call_stack
        parent = self._by_stack.get(stack[:-1]) if stack else None
        call = _Call(event.callee[:MAX_NAME], _key(event), 0 if parent is None else parent.depth + 1)
        (self._roots if parent is None else parent.children).append(call)
        self._by_key[call.key] = call
        self._by_stack[stack] = call

    def lines(self, *, is_over: bool, shown: Callable[[str], str]) -> Iterator[tuple[str, str, str]]:
        """Each call as its indentation, mark and name; `is_over`: the run has ended. `shown` makes a name safe."""
        waiting = [("", call) for call in reversed(self._roots)]
        while waiting:
            indent, call = waiting.pop()
            mark = DONE if call.has_ended else LOST if is_over else RUNNING
            yield indent, mark, shown(call.name)
            below = indent + "   " if call.depth < MAX_DEPTH else indent
            waiting += [(below, child) for child in reversed(call.children)]


def _key(event: ToolCall | Observation) -> tuple[object, ...]:
    return event.node_id or event.call_stack, event.callee[:MAX_NAME]
