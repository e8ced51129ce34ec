"""Event classes, `Partial` and `OxyState`: what a remote sends, as frozen values.

Rule 1: an event is frozen. Its `message` is as received; nothing here or later changes it.
Rule 2: this module needs nothing of the package, so that errors can hold events.
Rule 3: each frozen class has its slots from a base class that is not frozen. `new_sse` and `new_event` set the fields
    of an instance of that base, and then make it one of the frozen class: attrs sets each field of a frozen instance by
    a call, which takes three times as long.
"""

from __future__ import annotations

import enum
from typing import Any, Literal, TypeAlias, TypeVar, cast

import attrs


class _ServerSentEventSlots:
    __slots__ = ("__weakref__", "data", "event", "id", "retry")


@attrs.frozen
class ServerSentEvent(_ServerSentEventSlots):
    """One event as the stream dispatched it. Source: the HTML standard, section 9.2.6."""

    event: str = "message"
    """The event's name; `message` where the block gave none."""
    data: str = ""
    """The lines of data, joined by a line feed."""
    id: str = ""
    """The last event id at that moment; it persists over blocks that have none."""
    retry: int | None = None
    """Milliseconds to wait before reconnecting, if this block said so."""


def new_sse(event: str, data: str, id_: str, retry: int | None) -> ServerSentEvent:
    """The same as `ServerSentEvent(...)`, in less time (rule 3)."""
    sse: Any = _ServerSentEventSlots()
    sse.event = event
    sse.data = data
    sse.id = id_
    sse.retry = retry
    sse.__class__ = ServerSentEvent
    frozen: ServerSentEvent = sse
    return frozen


# --- events -----------------------------------------------------------------------------------------------------------


def _field(content: Any, name: str) -> str:
    """The text at `name` of an object from the wire; empty if it is missing or not text."""
    value: Any = cast("dict[str, Any]", content).get(name) if isinstance(content, dict) else None
    return value if isinstance(value, str) else ""


class _EventSlots:
    __slots__ = ("__weakref__", "content", "message", "problems", "sse", "type")


@attrs.frozen
class Event(_EventSlots):
    """One message of a run, as the remote sent it. Its class tells its kind."""

    type: str | None
    """The message's own `type`; None where it has none, or one that is no text."""
    content: Any
    """The message's `content` (any JSON); the whole message where it is no object."""
    message: Any = attrs.field(repr=False)
    """The message as it was received: any JSON, or a text. Leave it as it is: others read it too."""
    sse: ServerSentEvent = attrs.field(factory=ServerSentEvent, repr=False, eq=False)
    """The server-sent event that carried it (name, id, retry)."""
    problems: tuple[str, ...] = attrs.field(default=(), eq=False, kw_only=True)
    """What is wrong with the message: what the agent's `schema` found, an integer that is too long and was kept as a
    text, or that it was nested too deep to be read (the event is a `Text` then). For a person to read: bounded, and
    without secrets."""

    def __repr__(self) -> str:
        problems = f", problems={self.problems!r}" if self.problems else ""
        return f"{type(self).__name__}(type={self.type!r}, content={self.content!r}{problems})"


E = TypeVar("E", bound=Event)


def new_event(
    cls: type[E], kind: str | None, content: Any, message: Any, sse: ServerSentEvent, problems: tuple[str, ...] = ()
) -> E:
    """The same as `cls(...)`, in less time (rule 3)."""
    event: Any = _EventSlots()
    event.type = kind
    event.content = content
    event.message = message
    event.sse = sse
    event.problems = problems
    event.__class__ = cls
    frozen: E = event
    return frozen


class _Step(Event):
    """A message about one call inside the remote; `content` is an object."""

    __slots__ = ()

    @property
    def node_id(self) -> str:
        """Joins a tool call with its observation."""
        return _field(self.content, "node_id")

    @property
    def caller(self) -> str:
        """The caller."""
        return _field(self.content, "caller")

    @property
    def callee(self) -> str:
        """The callee: an agent, a tool or a model."""
        return _field(self.content, "callee")

    @property
    def caller_category(self) -> str:
        """`user` for the root of the run; else `agent`, `tool`, `llm`, ... Empty where the remote says nothing."""
        return _field(self.content, "caller_category")

    @property
    def callee_category(self) -> str:
        """As `caller_category`, of the callee."""
        return _field(self.content, "callee_category")

    @property
    def call_stack(self) -> tuple[str, ...]:
        """The names from the user down to the callee, in the remote's own words."""
        stack = self.content.get("call_stack")
        return (
            tuple(name for name in cast("list[Any]", stack) if isinstance(name, str)) if isinstance(stack, list) else ()
        )


class ToolCall(_Step):
    """The remote starts a call: of a tool, or of another agent."""

    __slots__ = ()
    type: Literal["tool_call"]

    @property
    def arguments(self) -> dict[str, Any]:
        """What the callee is given. Real servers show `query` only, unless they are configured to show all."""
        arguments = self.content.get("arguments")
        return cast("dict[str, Any]", arguments) if isinstance(arguments, dict) else {}


class Observation(_Step):
    """A call inside the remote has ended."""

    __slots__ = ()
    type: Literal["observation"]

    @property
    def output(self) -> Any:
        """What the callee gave: any JSON. Servers of 1.0.8 and older send its text instead."""
        return self.content.get("output")


class Answer(Event):
    """An answer. A run may send several: the last one is its output."""

    __slots__ = ()
    type: Literal["answer"]


class TextDelta(Event):
    """A piece of text as a model writes it (`stream`, and `stream_end` after the last)."""

    __slots__ = ()
    type: Literal["stream", "stream_end"]

    @property
    def text(self) -> str:
        """The piece; empty at the end of a text."""
        content = self.content
        return content if isinstance(content, str) else _field(content, "delta")

    @property
    def agent(self) -> str:
        """Whose text it is."""
        return _field(self.content, "agent")

    @property
    def node_id(self) -> str:
        """The call within which it is written."""
        return _field(self.content, "node_id")


class Thought(Event):
    """A thought of a language model, as the framework's base class of models reports it (`think`)."""

    __slots__ = ()
    type: Literal["think"]

    @property
    def text(self) -> str:
        """The thought; empty where the content is no text."""
        return self.content if isinstance(self.content, str) else ""

    @property
    def agent(self) -> str:
        """The agent that thinks; empty where the remote does not name it."""
        return _field(self.message, "agent")


class Progress(Event):
    """An intermediate word of the remote about how far it is; its content is the application's own."""

    __slots__ = ()
    type: Literal["progress"]


class RemoteErrorEvent(Event):
    """The remote reports an error. The run may go on after it."""

    __slots__ = ()
    type: Literal["error"]


class Custom(Event):
    """A message of the application's own: of another type, of none, or JSON that is no object."""

    __slots__ = ()


class Text(Event):
    """A message that is plain text."""

    __slots__ = ()

    @property
    def text(self) -> str:
        """The text; the same as `message`."""
        return cast("str", self.message)


AnyEvent: TypeAlias = (
    Answer | Custom | Observation | Progress | RemoteErrorEvent | Text | TextDelta | Thought | ToolCall
)
"""Every class of events: type checkers check a `match` over it for completeness, with `typing.assert_never`."""


@attrs.frozen(kw_only=True)
class Partial:
    """What had been received of a stream that did not end well."""

    events: tuple[Event, ...] = attrs.field(default=(), repr=lambda events: f"<{len(events)} events>")
    """The last events, in their order, within `Limits.partial_events` and `Limits.partial_bytes`."""
    text: str = attrs.field(default="", repr=lambda text: f"<{len(text)} characters>")
    """The texts of all deltas, one call after the other."""
    answer: Any = None
    """The content of the last answer; None where none came."""
    dropped: int = 0
    """How many events came before those in `events`; of a detached run, also those that were received and are lost."""


# --- requests and responses -------------------------------------------------------------------------------------------


class OxyState(enum.Enum):
    """Where a call stands; members and values are the framework's."""

    CREATED = 1
    RUNNING = 2
    COMPLETED = 3
    FAILED = 4
    PAUSED = 5
    SKIPPED = 6
    CANCELED = 7
    ERROR = 4
    """The documentation's other word for FAILED."""
