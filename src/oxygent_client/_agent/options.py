"""Settings and hooks that an agent's user assigns or overrides.

Rule 1: names and signatures are those of the OxyGent `SSEOxyGent` documentation.
Rule 2: a hook does nothing by itself, and none replaces the forwarding of a message;
    `oxygent_client._agent.callbacks` says when each is called.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import attrs
from attrs import validators

from oxygent_client._agent.remote_agent import RemoteAgent
from oxygent_client._core.errors import HandlerError, Outcome, OxyError
from oxygent_client._core.requests import OxyRequest
from oxygent_client._core.settings import ConfirmState, Limits, Timeouts
from oxygent_client._core.transport import Transport
from oxygent_client._core.validation import (
    FLAG,
    MAPPING,
    NAMES,
    TEXT,
    TEXTS,
    Rule,
    Validator,
    check_async,
    check_each,
    check_plain,
    either,
    instance_of,
    optional,
)
from oxygent_client._protocol.payload import CallStackStrategy, build_payload
from oxygent_client._protocol.router import EventRouter
from oxygent_client._protocol.schema import Schema
from oxygent_client.policies import Policy, Retry
from oxygent_client.telemetry._observers import Observer
from oxygent_client.transports.httpx import HTTPXTransport

__all__ = ["AgentOptions", "EventFilter", "EventHandler", "ProgressCallback", "check_settings", "user_code_errors"]

EventFilter = Callable[[Any], bool]
EventHandler = Callable[[Any], Awaitable[None]]
ProgressCallback = Callable[[str], Awaitable[None]]


def _has(method: str) -> Validator:
    """Accept whatever has such a method: a fake needs no more than the one that is used."""

    def check(instance: object, attribute: object, value: object) -> None:
        if isinstance(value, type) or not callable(getattr(value, method, None)):
            raise TypeError

    return check


_FUNCTION: Final = optional(Rule("a function", validators.is_callable()))
_INBOUND: Final = {"_headers": attrs.evolve(TEXTS, expected=f"{TEXTS.expected}, in shared_data")}
_POLICY: Final = instance_of(Policy, "a policy such as BearerAuth('a-token') or BasicAuth('user', 'password')")

_SETTINGS: Final[Mapping[str, Rule]] = {
    "server_url": TEXT,
    "name": TEXT,
    "desc": TEXT,
    "is_share_call_stack": FLAG,
    "callee": optional(TEXT),
    "check_callee": FLAG,
    "transport": optional(Rule("a transport such as HTTPXTransport(...)", _has("exchange"))),
    "router": optional(Rule("an EventRouter(...)", _has("route"))),
    "event_handlers": optional(MAPPING),
    "event_filter": _FUNCTION,
    "progress_callback": _FUNCTION,
    "auth": optional(_POLICY),
    "headers": optional(TEXTS),
    "forward_headers": NAMES,
    "timeouts": instance_of(Timeouts, "Timeouts(...), such as Timeouts(total=60)"),
    "retry": instance_of(Retry, "Retry(...), such as Retry(attempts=3)"),
    "limits": instance_of(Limits, "Limits(...), such as Limits(body_bytes=1_000_000)"),
    "https_only": FLAG,
    "plaintext_hosts": NAMES,
    "policies": instance_of(Collection, "a collection of policies, such as (ConcurrencyLimit(8),)"),
    "argument_overrides": NAMES,
    "share_data": either(FLAG, NAMES),
    "sanitize": _FUNCTION,
    "schema": optional(MAPPING),
    "strict": FLAG,
    "confirm_state": either(FLAG, Rule('"auto"', validators.in_(["auto"]))),
    "failure_detector": _FUNCTION,
    "observers": instance_of(Collection, "a collection of observers"),
}
"""What kind each argument of an agent must be of."""


def check_settings(given: Mapping[str, Any]) -> None:
    """Nothing, if each argument of an agent is of its kind.

    Raises:
        ConfigurationError: one is not; the text says what to give.
    """
    check_each(given, _SETTINGS)
    for name, function in _functions(given):
        if function is not None:
            (check_async if name.partition("[")[0] in _AWAITED else check_plain)(name, function)


_AWAITED: Final = frozenset({"event_handlers", "progress_callback"})
_CALLED: Final = ("event_filter", "sanitize", "failure_detector", "progress_callback")
_TABLES: Final = ("event_handlers", "schema")
_METHODS: Final = ("handle_tool_call_event", "handle_observation_event", "_process_custom_event")
_PREPARATIONS: Final = ("prepare_payload", "prepare_headers")


def _functions(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The functions among the arguments of an agent, with the names that an error gives them."""
    for name in _CALLED:
        yield name, given.get(name)
    for name in _TABLES:
        table: Mapping[Any, Any] = given.get(name) or {}
        for key, function in table.items():
            yield f"{name}[{str(key)[:100]!r}]", function


@contextmanager
def user_code_errors(whose: str, outcome: Outcome | None = None) -> Generator[None]:
    """What the user's code raises leaves the block as a `HandlerError`.

    With an outcome, that of a run which has not begun, errors of this package say by themselves what is wrong.
    """
    try:
        yield
    except Exception as error:
        if outcome is not None and isinstance(error, OxyError):
            raise
        raise HandlerError(f"{whose} raised {type(error).__name__}", outcome=outcome) from error


class AgentOptions(RemoteAgent):
    """An agent's own configuration, and its hooks; left alone, each does what the documentation says."""

    _live = ("_connections", "_directory", "_keeper", "_policies")

    callee: str | None
    """Whom the remote shall run. None leaves it to the remote, whose master answers."""
    check_callee: bool
    """Whether the remote is asked if it has `callee`, until it says that it does. A real server never answers for a
    name that it lacks."""
    is_share_call_stack: bool
    """Whether the remote is told who called whom before it. If not, it sees a plain user."""
    call_stack_strategy: CallStackStrategy | None
    """Says the same with three words, see `build_payload`; None goes by `is_share_call_stack`."""
    share_data: bool | Collection[str]
    """How much of `shared_data` and `group_data` goes along: all, nothing, or these keys."""
    argument_overrides: Collection[str]
    """Protocol fields that an argument may overwrite."""
    headers: Mapping[str, str]
    """Sent with every request."""
    forward_headers: Collection[str]
    """Names of inbound headers (`shared_data["_headers"]`) that the remote may see; none by default."""
    event_handlers: Mapping[str, EventHandler]
    """From message type to `async f(content)`; the whole message is given where it has no content."""
    event_filter: EventFilter | None
    """`f(message) -> bool`: False keeps an event from its handler and from `send_message`."""
    progress_told: ProgressCallback | None
    """What `set_progress_callback` set."""
    transport: Transport | None
    """What moves the bytes; never closed by the agent. None: an `HTTPXTransport` of the agent's own."""
    router: EventRouter
    """What becomes of each type of event."""
    auth: Policy | None
    """Who asks: `BearerAuth`, `BasicAuth`, `APIKey` or `Headers` of `oxygent_client.policies`."""
    retry: Retry
    """When a request that surely ran nothing is sent again."""
    https_only: bool
    """Whether everything goes over https, but to `plaintext_hosts`."""
    plaintext_hosts: Collection[str]
    """Hosts to which credentials, and with `https_only` anything, may go unencrypted."""
    policies: Collection[Policy]
    """More of `oxygent_client.policies`: `ConcurrencyLimit`, `RateLimit`, another `Redirect`."""
    sanitize: Callable[[Any], Any] | None
    """`f(message) -> message`, over the copy that the filter, handlers and `send_message` get."""
    schema: Schema
    """From message type to `f(message)`, which raises ValueError or TypeError if the message is not as it should be."""
    strict: bool
    """Whether such a message is an error; if not, its event has `problems`."""
    confirm_state: ConfirmState
    """Whether the server's record must confirm an answer: a real server reports a failed agent as a normal answer.
    "auto" asks for the record, within `Timeouts.lookup`, where the answer reads like a failure of the framework's; if
    there is no record, the answer stands. True always asks, within `Timeouts.confirm`, and what is not confirmed is an
    `UnconfirmedError`. False never asks."""
    failure_detector: Callable[[Any], bool] | None
    """`f(output) -> bool`: True makes a failure of an answer. For servers without records."""
    observers: Collection[Observer]
    """Who is told of each run as it goes, beside `stats()`."""
    timeouts: Timeouts
    """The clocks, in seconds."""
    limits: Limits
    """How much of the remote's data is taken in."""

    def set_progress_callback(self, callback: ProgressCallback | None) -> None:
        """Have `async callback(text)` told of each run's beginning, its forwarded calls, their ends, and its good end.

        Pass None to disable.

        Raises:
            ConfigurationError: it is not an async function.
        """
        check_settings({"progress_callback": callback})
        self.progress_told = callback

    def check_hooks(self) -> None:
        """Nothing, if what is awaited is async, and what is not awaited is not.

        Attributes may be assigned, and methods overridden, after the arguments were checked.

        Raises:
            ConfigurationError: the text names the function and says what it must be.
        """
        check_settings(
            {
                "event_handlers": self.event_handlers,
                "event_filter": self.event_filter,
                "sanitize": self.sanitize,
                "failure_detector": self.failure_detector,
                "schema": self.schema,
                "progress_callback": self.progress_told,
            }
        )
        for name in _METHODS:
            check_async(name, getattr(self, name))
        for name in _PREPARATIONS:
            check_plain(name, getattr(self, name))

    def is_hooked(self, name: str) -> bool:
        """Whether a subclass, or an assignment, put something in the place of a hook that does nothing."""
        return getattr(getattr(self, name), "__func__", None) is not getattr(AgentOptions, name)

    def _make_transport(self) -> Transport:
        """A transport of the agent's own, by its configuration as it is now."""
        return HTTPXTransport(connect=self.timeouts.connect)

    def prepare_payload(self, oxy_request: OxyRequest) -> dict[str, Any]:
        """The payload of a request. Override it to send something else; what the protocol needs is set after it.

        Raises:
            PayloadError: an argument has the name of a protocol field.
        """
        return build_payload(
            oxy_request,
            name=self.name,
            is_share_call_stack=self.is_share_call_stack,
            call_stack_strategy=self.call_stack_strategy,
            argument_overrides=self.argument_overrides,
        )

    def prepare_headers(self, oxy_request: OxyRequest) -> dict[str, str]:
        """The headers of a request, without the protocol's own. Override it to add some."""
        inbound: dict[str, str] = oxy_request.get_shared_data("_headers") or {}
        check_settings({"headers": self.headers, "forward_headers": self.forward_headers})  # set later, perhaps
        check_each({"_headers": inbound}, _INBOUND)
        allowed = {name.lower() for name in self.forward_headers}
        return {**{name: value for name, value in inbound.items() if name.lower() in allowed}, **self.headers}

    async def handle_tool_call_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
        """Called with each `tool_call` message (`{"type": ..., "content": {...}}`), that of the run's root too."""

    async def handle_observation_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
        """Called with each `observation` message, as `handle_tool_call_event` with calls."""

    async def _process_custom_event(self, event_data: Any, oxy_request: OxyRequest) -> None:
        """Called with each message that is no answer, tool call or observation: any JSON, or a text."""
