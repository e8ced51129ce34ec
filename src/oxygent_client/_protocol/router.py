"""Decide what an event does, by a dispatch table keyed by event type.

Rule 1: every message type that a remote is known to send has its line in ROUTES; any other goes by the line of None.
Rule 2: nothing here does I/O, keeps state, or changes an event. A forwarded message is a copy.
Rule 3: a route decides which action an event needs; the run carries it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeVar, cast

import attrs

from oxygent_client._core.events import Event, Observation, Text, ToolCall
from oxygent_client._core.validation import check_plain


@attrs.frozen(kw_only=True)
class NameMap:
    """How names of the remote's run translate into the caller's."""

    call_stack: tuple[str, ...] | None = None
    """The caller's own stack, if the remote was not told of it: forwarded stacks start with it. None: they stay."""
    trace_id: str = ""
    """What the caller calls the run."""
    remote_trace_id: str = ""
    """What the remote calls it."""


@attrs.frozen
class SetAnswer:
    """The event is an answer: the output so far."""

    output: Any


class Forward:
    """The message goes on to the caller's `send_message`."""

    __slots__ = ("_make", "_message")

    def __init__(self, message: Any, make: Callable[[Any], Any] | None = None) -> None:
        """Forward `message`; with `make`, what that makes of it when it is first looked at.

        To copy a large message costs as much as to read it.
        """
        self._make = make
        self._message = message

    @property
    def message(self) -> Any:
        """What goes on."""
        if self._make is not None:
            self._message, self._make = self._make(self._message), None
        return self._message

    def __eq__(self, other: object) -> bool:
        return bool(self.message == other.message) if isinstance(other, Forward) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        return Forward, (self.message,)

    def __repr__(self) -> str:
        return f"Forward(message={self.message!r})"


@attrs.frozen
class Drop:
    """The message goes no further; the caller has its own word for it."""

    reason: str
    """For a person to read."""


Action = SetAnswer | Forward | Drop
Route = Callable[[Event, NameMap], Action]
Name = TypeVar("Name", bound="str | None")  # a table of the user's may have None among its names, or not


def answer(event: Event, link: NameMap) -> Action:
    """The output of the run, until another answer comes."""
    return SetAnswer(event.message.get("content"))


def inner_step(event: Event, link: NameMap) -> Action:
    """A call inside the remote: goes on, in the caller's terms, unless it is the root of the run.

    The root's caller, or callee, is of the category `user`: the caller's own program shows that call itself. A message
    without categories is not "user".
    """
    step = cast("ToolCall | Observation", event)
    if "user" in (step.caller_category, step.callee_category):
        return Drop("the root of the remote's run")
    return Forward(event.message, partial(_translated, link))


def _translated(link: NameMap, received: Any) -> Any:
    """A copy of the message of a step, in the caller's terms."""
    message = copy_json(received)
    content = message["content"]
    if link.call_stack is not None and isinstance(content.get("call_stack"), list):
        # The remote's first two are its "user" and the agent that was called; both stand in the caller's stack.
        content["call_stack"] = [*link.call_stack, *content["call_stack"][2:]]
    if link.remote_trace_id != link.trace_id and content.get("current_trace_id") == link.remote_trace_id:
        content["current_trace_id"] = link.trace_id
    return message


def forward(event: Event, link: NameMap) -> Action:
    """Forward the message unchanged."""
    return Forward(event.message, copy_json)


ROUTES: Final[Mapping[str | None, Route]] = MappingProxyType(
    {
        "answer": answer,
        "tool_call": inner_step,
        "observation": inner_step,
        "stream": forward,
        "stream_end": forward,
        "think": forward,
        "progress": forward,
        "error": forward,
        None: forward,
    }
)
"""The documented behaviour, by message type; None is every type that has no line."""


class EventRouter:
    """A dispatch table from message type to route: `f(event, link)`, which gives `SetAnswer`, `Forward` or `Drop`.

    `EventRouter({"metrics": drop})` adds a line, or replaces one, of the documented table; None is the line of every
    type without a line. An exception in a route ends the run with a `HandlerError`. Two routers are never joined by
    inheritance: a router is its table.

    Raises:
        ConfigurationError: a route is not a plain function.
    """

    def __init__(self, routes: Mapping[Name, Route] | None = None) -> None:
        table = dict(ROUTES)
        for name, route in (routes or {}).items():
            check_plain(f"the route of {name!r}", route)
            table[name] = route
        self._table = table
        self.forwarding: frozenset[str | None] = frozenset(
            name for name, route in table.items() if route is forward or (route is inner_step and name in STEPS)
        )
        """The types whose messages are forwarded: unchanged, or those of steps as documented."""

    @property
    def routes(self) -> Mapping[str | None, Route]:
        """The whole table."""
        return MappingProxyType(self._table)

    def route(self, event: Event, link: NameMap = NameMap()) -> Action:
        """Return the action for `event`."""
        kind, cls = event.type, event.__class__
        if cls is Text and kind is not None:
            return Drop("an answer that could not be read")
        route = self._table.get(kind)
        # A malformed tool call is a Custom event that kept its type: no route that relies on the shape may get it.
        if route is None or (kind in STEPS and cls is not ToolCall and cls is not Observation):
            route = self._table[None]
        return route(event, link)

    def __reduce__(self) -> tuple[Any, ...]:
        return EventRouter, (dict(self._table),)

    def __repr__(self) -> str:
        return f"EventRouter({[*self._table]})"


def forwards(router: EventRouter, kinds: Iterable[str]) -> bool:
    """Whether `router` only forwards messages of these types: unchanged, or steps as documented."""
    return type(router) is EventRouter and router.forwarding.issuperset(kinds)


STEPS: Final = frozenset({"tool_call", "observation"})
"""Types of messages whose content is an object."""


def copy_json(value: Any) -> Any:
    """A deep copy of a JSON value.

    A loop: a value may be nested deeper than functions may call each other.
    """
    if not isinstance(value, _CONTAINERS):
        return value
    copied: Any = value.copy()
    places: list[Any] = [copied]  # containers of ours; the members of the last ones are still to be copied
    for place in places:
        members: Iterable[tuple[Any, Any]] = place.items() if isinstance(place, _OBJECTS) else _numbered(place)
        for at, member in members:
            if member.__class__ is not str and isinstance(member, _CONTAINERS):
                place[at] = own = member.copy()
                places.append(own)
    return copied


_OBJECTS: Final[Any] = dict
_CONTAINERS: Final[Any] = (dict, list)
_numbered: Final[Callable[[Any], Iterable[tuple[Any, Any]]]] = enumerate
