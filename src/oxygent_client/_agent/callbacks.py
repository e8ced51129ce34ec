"""Call the user's callbacks: message filter, event handlers, `send_message`, progress.

Rule 1: the order for each event: `event_filter`; the handler of its type, and the hook; forwarding. A false filter
    stops the rest; a handler does not replace forwarding. The run has taken answers and the end before.
Rule 2: callbacks are looked up when they are called: subclasses and users assign them late.
Rule 3: callbacks get a copy of the message, after `sanitize`; the `message` of the event is not changed.
Rule 4: an exception of the user's code becomes a `HandlerError`, with the exception as its cause.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final, Protocol, cast

from oxygent_client._agent.rules import HANDLERS, SCHEMA, EventFilter, EventHandler, ProgressCallback
from oxygent_client._core.events import Event, Observation, ToolCall
from oxygent_client._core.requests import OxyRequest
from oxygent_client._core.text import escape_text
from oxygent_client._core.user_code import user_code_error, user_code_errors
from oxygent_client._core.validation import check_async, check_plain
from oxygent_client._protocol.router import Action, Forward, SetAnswer, copy_json
from oxygent_client._protocol.schema import Schema


class AgentCallbacks(Protocol):
    """The callbacks of an agent; each is looked up when it is called."""

    @property
    def event_filter(self) -> EventFilter | None:
        """As `SSEOxyGent.event_filter`."""
        ...

    @property
    def event_handlers(self) -> Mapping[str, EventHandler]:
        """As `SSEOxyGent.event_handlers`."""
        ...

    @property
    def progress_callback(self) -> ProgressCallback | None:
        """As `SSEOxyGent.progress_callback`."""
        ...

    @property
    def sanitize(self) -> Callable[[Any], Any] | None:
        """As `SSEOxyGent.sanitize`."""
        ...

    @property
    def schema(self) -> Schema:
        """As `SSEOxyGent.schema`."""
        ...

    def replaced_hooks(self) -> Collection[str]:
        """The names of the HOOKS that were replaced, in their order."""
        ...


_HOOK_OF_EVENT: Final[Mapping[type[Event], str]] = {
    ToolCall: "handle_tool_call_event",
    Observation: "handle_observation_event",
}
"""The hook of each class of events; all others but answers have `_CUSTOM`."""
_CUSTOM: Final = "_process_custom_event"
_EVENT_HOOKS: Final = (*_HOOK_OF_EVENT.values(), _CUSTOM)
_PREPARATIONS: Final = ("prepare_payload", "prepare_headers")
_SET_PROGRESS: Final = "set_progress_callback"
HOOKS: Final[tuple[str, ...]] = (*_EVENT_HOOKS, *_PREPARATIONS, _SET_PROGRESS)
"""The methods of an agent that may be replaced: overridden by a subclass, or assigned; in the order of the checks."""
_OWN_SENDER: Final = cast("Any", OxyRequest).send_message
_FILTER: Final = user_code_errors("the event filter")
_SANITIZE: Final = user_code_errors("sanitize")


class CallbackDispatcher:
    """Calls the callbacks of one agent during one run."""

    __slots__ = (
        *("_assigned", "_checked", "_has_sender", "_hooks", "_is_replaced", "_keywords", "_sender", "_sent"),
        *("agent", "request"),
    )

    def __init__(self, agent: AgentCallbacks, request: OxyRequest) -> None:
        self.agent: Final = agent
        self.request: Final = request
        self._assigned: dict[str, Any] = vars(agent)  # what was assigned to the agent itself
        self._sent: dict[str, Any] = vars(request)
        self._sender: Callable[..., Any] | None = None
        self._keywords: tuple[str, ...] = ()
        # Handlers that were checked; a check for each event would take too long.
        self._checked: dict[str, object] | None = None
        # The hooks that were replaced when the run began; what is assigned later is in `_assigned`.
        self._hooks: Collection[str] = ()
        self._has_sender = cast("Any", type(request)).send_message is not _OWN_SENDER
        self._is_replaced = self._has_sender

    def _take_hooks(self) -> None:
        """Look up the hooks, and check what no assignment of a setting checks: these, and members of mappings.

        Raises:
            ConfigurationError: a function that is awaited is not async, or the other way round; the text names it.
        """
        agent = self.agent
        if agent.event_handlers:
            HANDLERS.check("event_handlers", agent.event_handlers)
        if agent.schema:
            SCHEMA.check("schema", agent.schema)
        hooks = self._hooks = agent.replaced_hooks()
        for name in hooks:
            if name in _EVENT_HOOKS:
                self._is_replaced = True
                check_async(name, getattr(agent, name))
            elif name in _PREPARATIONS:
                check_plain(name, getattr(agent, name))

    async def opened(self) -> None:
        """As `Listener.opened`.

        Raises:
            ConfigurationError: a function that is to be awaited is not async, or the other way round.
        """
        self._take_hooks()
        if self._is_forwarding():
            self._take_sender()
        await self._say("Starting remote execution...")

    def hears(self, event: Event) -> bool:
        """As `Listener.hears`."""
        agent = self.agent
        if (
            self._is_replaced
            or (agent.event_handlers and event.type is not None and event.type in agent.event_handlers)
            or agent.event_filter is not None
            or agent.sanitize is not None
            or "send_message" in self._sent
            or self.request.mas is not None
        ):
            return True
        hook = _HOOK_OF_EVENT.get(event.__class__)
        return (
            _CUSTOM in self._assigned if hook is None else hook in self._assigned or agent.progress_callback is not None
        )

    async def on_event(self, event: Event, action: Action) -> None:
        """As `Listener.on_event`."""
        agent, message, is_whole = self.agent, event.message, False
        if agent.event_filter is not None or agent.sanitize is not None or self._hook(event, action) is not None:
            message, is_whole = self._clean(copy_json(message)), True
            if agent.event_filter is not None:
                with _FILTER:
                    if not agent.event_filter(message):
                        return
        handler = self._handler(event.type) if agent.event_handlers else None
        try:  # a context manager, or a coroutine, would cost as much as most handlers
            if handler is not None:  # it gets a copy too, of no more than it needs: a message may be large
                await handler(_content(message) if is_whole else copy_json(_content(message)))
            if is_whole and (hook := self._hook(event, action)) is not None:
                await hook(message, self.request)
        except Exception as error:
            raise user_code_error("an event handler", error) from error
        if isinstance(action, Forward):
            if self._is_forwarding():
                message = action.message if agent.sanitize is None else self._clean(action.message)
                send = self._take_sender()
                try:
                    await (self._send_all(send, event, message) if self._keywords else send(message))
                except Exception as error:
                    raise user_code_error("send_message", error) from error
            if event.__class__ in _HOOK_OF_EVENT and agent.progress_callback is not None:
                await self._say_step(event)

    async def _say_step(self, event: Event) -> None:
        """Report a call, or its end, to the progress callback."""
        if isinstance(event, ToolCall):
            await self._say(f"Executing tool: {escape_text(event.callee, 200) or 'unknown'}")
        else:
            await self._say("Tool execution completed")

    async def completed(self) -> None:
        """As `Listener.completed`."""
        await self._say("Remote execution completed")

    def _hook(self, event: Event, action: Action) -> Callable[[Any, OxyRequest], Awaitable[None]] | None:
        """The hook for this event; None if it was not replaced, and so does nothing."""
        name = _HOOK_OF_EVENT.get(event.__class__, _CUSTOM)
        if not (name in self._assigned or name in self._hooks) or (name is _CUSTOM and isinstance(action, SetAnswer)):
            return None
        hook: Callable[[Any, OxyRequest], Awaitable[None]] = getattr(self.agent, name)
        return hook

    def _is_forwarding(self) -> bool:
        """Whether `send_message` has an effect: it was replaced, or the request belongs to a program."""
        request = self.request
        return (
            "send_message" in request.__dict__
            or self._has_sender
            or (request.mas is not None and request.is_send_message)
        )

    def _clean(self, message: Any) -> Any:
        sanitize = self.agent.sanitize
        if sanitize is None:
            return message
        with _SANITIZE:
            return sanitize(message)

    def _take_sender(self) -> Callable[..., Any]:
        """Where messages go now."""
        send = self.request.send_message
        if send != self._sender:  # it may be replaced between two messages; to inspect it for each would cost too much
            check_async("send_message", send)
            self._sender, self._keywords = send, _keywords(send)
        return send

    def _handler(self, kind: str | None) -> EventHandler | None:
        """The handler of a type; checked once, since it may have been added to the mapping a moment ago."""
        handler = None if kind is None else self.agent.event_handlers.get(kind)
        if kind is not None and handler is not None and (self._checked or {}).get(kind) is not handler:
            check_async(f"event_handlers[{kind[:100]!r}]", handler)
            self._checked = {**(self._checked or {}), kind: handler}
        return handler

    def _send_all(self, send: Callable[..., Any], event: Event, message: Any) -> Awaitable[Any]:
        """Send a message with the fields of the wire that `send` takes."""
        wire: dict[str, Any] = {"event": event.sse.event, "id": event.sse.id or None, "retry": event.sse.retry}
        sent: Awaitable[Any] = send(message, **{name: wire[name] for name in self._keywords})
        return sent

    async def _say(self, text: str) -> None:
        callback = self.agent.progress_callback
        # A class with its own `set_progress_callback` reports progress itself, as one of the documentation does.
        if callback is not None and _SET_PROGRESS not in self.agent.replaced_hooks():
            with user_code_errors("the progress callback"):
                await callback(text)


def _content(message: Any) -> Any:
    """The content of a message; the message itself if it has no content, or is no object any more."""
    fields: dict[str, Any] = message
    return fields.get("content", fields) if isinstance(message, dict) else message


WIRE_KEYWORDS: Final = ("event", "id", "retry")


def _keywords(send: Callable[..., Any]) -> tuple[str, ...]:
    """Which of the wire's own fields `send` takes beside the message."""
    try:
        parameters = [*inspect.signature(send).parameters.values()]
    except (TypeError, ValueError):  # a callable written in C may have no signature
        return ()
    by_keyword = {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    taken: set[str] = set()
    if parameters and parameters[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
        taken.add(parameters[0].name)  # this parameter gets the message, whatever its name
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        by_keyword.update(WIRE_KEYWORDS)
    return tuple(name for name in WIRE_KEYWORDS if name in by_keyword - taken)
