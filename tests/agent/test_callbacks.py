"""User code in a run: filter, handlers, hooks, `send_message` and the progress callback.

Rule 1: a check is a function of an agent class, and `SSEOxyGent` passes all checks.
Rule 2: a mutant is that class with one fault; the check in its row must fail on it. Each check fails on some mutant.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import attrs
import pytest

from oxygent_client import Event, Observation, OxyRequest, OxyResponse, OxyState, SSEOxyGent, ToolCall, errors
from oxygent_client._agent.callbacks import HOOKS, WIRE_KEYWORDS, CallbackDispatcher
from oxygent_client._protocol.router import Action, Forward, SetAnswer
from oxygent_client.testing import (
    FakeTransport,
    answer,
    close,
    delta,
    message,
    observation,
    progress,
    text,
    tool_call,
)
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from oxygent_client import Run

URL: Final = "http://remote.test"
SCRIPT: Final = (
    tool_call("master", caller="user"),
    tool_call("search", {"query": "x"}, node_id="n"),
    progress({"p": 1}),
    message({"type": "metrics", "value": 2}),
    text("hello"),
    message([1, 2]),
    message({"no": "type"}),
    observation("search", {"found": 3}, node_id="n"),
    delta("4"),
    answer("first"),
    answer("42"),
    observation("master", "42", caller="user"),
    close(),
)
"""A run with each kind of message: two steps of the root, two inner ones, six other messages, two answers."""
FORWARDED: Final = ["tool_call", "progress", "metrics", "text", "list", "none", "observation", "stream"]
"""The part of it that is forwarded to `send_message`."""
ALL: Final = ["tool_call", *FORWARDED[:-2], "observation", "stream", "answer", "answer", "observation"]


def kind(said: Any) -> str:
    """Return a short label of a message."""
    if isinstance(said, dict):
        return str(cast("dict[str, Any]", said).get("type", "none"))
    return "text" if isinstance(said, str) else "list"


class Log(list[Any]):
    """Calls of user code, in order."""

    async def send(self, said: Any) -> None:
        """Return a `send_message`."""
        self.append(("sent", kind(said)))

    async def handle(self, content: Any) -> None:
        """Return a handler."""
        self.append(("handled", content))

    def of(self, what: str) -> list[Any]:
        """Return the calls of one of them."""
        return [heard for name, heard in self if name == what]


async def run(
    cls: type[SSEOxyGent], log: Log, steps: Collection[Any] = SCRIPT, **options: Any
) -> tuple[list[Event], OxyResponse]:
    """Run `cls` once; options that are no constructor arguments are set on the agent afterwards."""
    late: dict[str, Any] = options.pop("late", {})
    request = OxyRequest(arguments={"query": "x"}, **options.pop("request", {}))
    cast("Any", request).send_message = options.pop("send", log.send)
    agent = cls(server_url=URL, transport=FakeTransport.script(*steps), name="me", **options)
    for name, value in late.items():
        setattr(agent, name, value)
    async with agent.stream(request) as stream:
        return [event async for event in stream], stream.response


async def fails(cls: type[SSEOxyGent], log: Log, **options: Any) -> errors.HandlerError:
    """Return the error of a run that user code ended."""
    try:
        await run(cls, log, **options)
    except errors.HandlerError as error:
        return error
    raise AssertionError("the error was lost")


# --------------------------------------------------------------------------------------------------------------- Checks


async def filter_stops(cls: type[SSEOxyGent]) -> None:
    """A false filter keeps an event from its handler and `send_message` only; it sees each message."""
    log = Log()
    seen: list[str] = []

    def no_progress(said: Any) -> bool:
        seen.append(kind(said))
        return kind(said) in {"metrics", "stream"}

    events, response = await run(
        cls, log, event_filter=no_progress, event_handlers=dict.fromkeys(("progress", "metrics", "answer"), log.handle)
    )
    assert seen == ALL
    assert log.of("sent") == ["metrics", "stream"]
    assert log.of("handled") == [{"type": "metrics", "value": 2}]
    assert [kind(event.message) for event in events] == ALL
    assert response.output == "42"


async def handlers_hear(cls: type[SSEOxyGent]) -> None:
    """A handler gets the content, or the whole message if there is none, and forwarding goes on."""
    log = Log()
    kinds = ("tool_call", "progress", "metrics", "answer", "observation", "none", "text", "stream")
    _, response = await run(cls, log, event_handlers=dict.fromkeys(kinds, log.handle))
    root, search, step, metrics, found, written, first, second, end = log.of("handled")
    assert tuple(each["callee"] for each in (root, search, found, end)) == ("master", "search", "search", "master")
    assert step == {"p": 1}
    assert metrics == {"type": "metrics", "value": 2}
    assert written["delta"] == "4"
    assert first == "first"
    assert second == "42"
    assert response.output == "42"
    assert log.of("sent") == FORWARDED


async def in_order(cls: type[SSEOxyGent]) -> None:
    """The order for each event is filter, handler, hook, forwarding, progress."""
    log = Log()

    class Hooked(cls):  # type: ignore[misc, valid-type]  # the base is what varies
        async def handle_tool_call_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
            log.append(("hooked", kind(event_data)))

        async def _process_custom_event(self, event_data: Any, oxy_request: OxyRequest) -> None:
            log.append(("hooked", kind(event_data)))

    def keep(said: Any) -> bool:
        log.append(("filtered", kind(said)))
        return True

    async def tell(said: str) -> None:
        log.append(("told", said))

    await run(
        Hooked,
        log,
        [tool_call("search"), progress(1), answer(2), close()],
        event_filter=keep,
        event_handlers={"tool_call": log.handle, "progress": log.handle},
        progress_callback=tell,
    )
    content = log.of("handled")[0]
    assert [
        ("told", "Starting remote execution..."),
        ("filtered", "tool_call"),
        ("handled", content),
        ("hooked", "tool_call"),
        ("sent", "tool_call"),
        ("told", "Executing tool: search"),
        ("filtered", "progress"),
        ("handled", 1),
        ("hooked", "progress"),
        ("sent", "progress"),
        ("filtered", "answer"),
        ("told", "Remote execution completed"),
    ] == log


async def hooks_are_called(cls: type[SSEOxyGent]) -> None:
    """Each hook gets its messages and the executed request; answers have no hook."""
    log = Log()

    class Hooked(cls):  # type: ignore[misc, valid-type]  # the base is what varies
        async def handle_tool_call_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
            log.append(("called", (event_data["content"]["callee"], oxy_request.callee)))

        async def handle_observation_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
            log.append(("observed", (event_data["content"]["callee"], oxy_request.callee)))

        async def _process_custom_event(self, event_data: Any, oxy_request: OxyRequest) -> None:
            log.append(("custom", (kind(event_data), oxy_request.callee)))

    await run(Hooked, log)
    assert log.of("called") == [("master", "me"), ("search", "me")]
    assert log.of("observed") == [("search", "me"), ("master", "me")]
    assert [(each, "me") for each in ("progress", "metrics", "text", "list", "none", "stream")] == log.of("custom")


async def forwarding(cls: type[SSEOxyGent]) -> None:
    """All but answers and the root's own steps are forwarded in order, as one positional value each."""
    log = Log()
    heard: list[tuple[Any, ...]] = []

    async def positional(*values: Any) -> None:
        heard.append(values)

    await run(cls, log, send=positional)
    assert [kind(value) for (value,) in heard] == FORWARDED
    await run(cls, log)
    assert log.of("sent") == FORWARDED


async def sender_is_looked_up(cls: type[SSEOxyGent]) -> None:
    """`send_message` is looked up for each message, so that one assigned during the run gets the rest."""
    first, second = Log(), Log()

    class Replacing(cls):  # type: ignore[misc, valid-type]  # the base is what varies
        async def _process_custom_event(self, event_data: Any, oxy_request: OxyRequest) -> None:
            if kind(event_data) == "text":
                cast("Any", oxy_request).send_message = second.send

        async def handle_observation_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
            oxy_request.__dict__.pop("send_message", None)  # the class's own again, which is not observed

    await run(Replacing, first)
    assert first.of("sent") == FORWARDED[:3]
    assert second.of("sent") == FORWARDED[3:6]


async def sender_keywords(cls: type[SSEOxyGent]) -> None:
    """The keywords `event`, `id` and `retry` are passed only to a `send_message` that accepts them."""
    heard: list[Any] = []

    async def plain(said: Any) -> None:
        heard.append(said)

    async def all_of_them(said: Any, event: str, *, id: str | None, retry: int | None) -> None:
        heard.append((said, event, id, retry))

    async def some(said: Any, *, retry: int | None = 7, other: int = 8) -> None:
        heard.append((said, retry, other))

    async def any_of_them(said: Any, **wire: Any) -> None:
        heard.append((said, wire))

    async def called_event(event: Any) -> None:
        heard.append(event)

    async def called_id(id: Any, **wire: Any) -> None:
        heard.append((id, wire))

    async def called_event_only(event: Any, /, id: str | None = None) -> None:
        heard.append((event, id))

    async def starred(*said: Any, event: str = "") -> None:
        heard.append((said, event))

    class Callable:
        async def __call__(self, said: Any, *, event: str) -> None:
            heard.append((said, event))

    wire = {"event": "progress", "id": "i", "retry": 5}
    cases: list[tuple[Any, Any]] = [
        (plain, 1),
        (all_of_them, (1, "progress", "i", 5)),
        (some, (1, 5, 8)),
        (any_of_them, (1, wire)),
        (called_event, 1),
        (called_id, (1, {"event": "progress", "retry": 5})),
        (called_event_only, (1, "i")),
        (starred, ((1,), "progress")),
        (Callable(), (1, "progress")),
        (functools.partial(all_of_them, id="mine"), (1, "progress", "i", 5)),
    ]
    for send, expected in cases:
        heard.clear()
        await run(cls, Log(), [message(1, event="progress", id="i", retry=5), answer(2), close()], send=send)
        assert heard == [expected], send
    heard.clear()
    await run(cls, Log(), [b"data: 1\n\n", answer(2), close()], send=all_of_them)
    assert heard == [(1, "message", None, None)]


async def failures_are_blamed(cls: type[SSEOxyGent]) -> None:
    """An exception of user code is a HandlerError with the place and the cause; the run is closed."""

    def raising(*anything: Any) -> Any:
        raise ValueError("mine")

    async def failing(*anything: Any) -> None:
        raise ValueError("mine")

    hooked = {"handle_tool_call_event", "handle_observation_event", "_process_custom_event"}
    cases: list[tuple[str, dict[str, Any]]] = [
        ("the event filter raised ValueError", {"event_filter": raising}),
        ("an event handler raised ValueError", {"event_handlers": {"tool_call": failing}}),
        ("send_message raised ValueError", {"send": failing}),
        ("the progress callback raised ValueError", {"progress_callback": failing}),
        *(("an event handler raised ValueError", {"late": {name: failing}}) for name in sorted(hooked)),
    ]
    for said, options in cases:
        error = await fails(cls, Log(), **options)
        assert str(error) == said
        assert (str(error.__cause__) if isinstance(error.__cause__, ValueError) else "") == (
            "mine" if "Value" in said else ""
        )
        assert error.trace_id


async def progress_is_told(cls: type[SSEOxyGent]) -> None:
    """The progress callback gets the documented texts, whether from the constructor or set later."""
    told: list[str] = []

    async def tell(said: str) -> None:
        told.append(said)

    texts = [
        "Starting remote execution...",
        "Executing tool: search",
        "Tool execution completed",
        "Remote execution completed",
    ]
    await run(cls, Log(), progress_callback=tell)
    assert texts == told
    agent = cls(server_url=URL, transport=FakeTransport.script(message(_nameless("tool_call")), answer(1), close()))
    agent.set_progress_callback(tell)
    await agent.ask("hi")
    assert told[5:-1] == ["Executing tool: unknown"]
    agent.set_progress_callback(None)
    await agent.ask("hi")
    assert len(told) == 7


def _nameless(kind: str) -> dict[str, Any]:
    return {"type": kind, "content": {}}


async def copies_are_handed_out(cls: type[SSEOxyGent]) -> None:
    """A change by one callback reaches neither the event nor the other callbacks."""
    log: list[Any] = []

    def spoil(said: Any) -> bool:
        if isinstance(said, dict):
            cast("dict[str, Any]", said).setdefault("content", {})
            said["content"] = {"spoilt": True}
        elif isinstance(said, list):
            cast("list[Any]", said).append("spoilt")
        return True

    async def send(said: Any) -> None:
        log.append(kind(said) == "text" or "spoilt" not in str(said))
        spoil(said)

    events, _ = await run(cls, Log(), event_filter=spoil, send=send)
    assert log == [True] * len(FORWARDED)
    assert not [event for event in events if "spoilt" in f"{event.message!r} {event.content!r}"]


async def late_attributes(cls: type[SSEOxyGent]) -> None:
    """Assignments and overrides of a subclass take effect after `super().__init__()`."""
    log = Log()
    late: dict[str, Any] = {
        "event_filter": lambda said: kind(said) == "metrics",  # pyright: ignore[reportUnknownLambdaType]  (a lambda cannot say its types)
        "event_handlers": {"metrics": log.handle, "progress": log.handle},
    }
    await run(cls, log, late=late)
    assert log.of("sent") == ["metrics"]
    assert len(log.of("handled")) == 1

    class Preparing(cls):  # type: ignore[misc, valid-type]  # the base is what varies
        def prepare_payload(self, oxy_request: OxyRequest) -> dict[str, Any]:
            return {**super().prepare_payload(oxy_request), "mine": True}

        def prepare_headers(self, oxy_request: OxyRequest) -> dict[str, str]:
            return {**super().prepare_headers(oxy_request), "x-mine": "1"}

    agent = Preparing(server_url=URL, transport=(transport := FakeTransport.script(answer(1), close())))
    agent.is_share_call_stack = False
    await agent.ask("hi")
    assert transport.payloads[0].get("mine") is True
    assert "call_stack" not in transport.payloads[0]
    assert transport.requests[0].headers.get("x-mine") == "1"


CHECKS: Final = (
    filter_stops,
    handlers_hear,
    in_order,
    hooks_are_called,
    forwarding,
    sender_is_looked_up,
    sender_keywords,
    failures_are_blamed,
    progress_is_told,
    copies_are_handed_out,
    late_attributes,
)


@pytest.mark.parametrize("check", CHECKS)
async def test_hooks(check: Callable[[type[SSEOxyGent]], Awaitable[None]]) -> None:
    """`SSEOxyGent` passes each check."""
    await check(SSEOxyGent)


# -------------------------------------------------------------------------------------------------------------- Mutants


def delivering(delivery: type[CallbackDispatcher]) -> type[SSEOxyGent]:
    """Return an agent class with another dispatcher."""

    class Mutant(SSEOxyGent):
        def _run(self, request: OxyRequest) -> Run:
            stream = super()._run(request)
            stream._listener = delivery(cast("Any", self), request)
            stream._config = attrs.evolve(stream._config, listener=stream._listener)
            return stream

    return Mutant


def ignoring(name: str, instead: Any) -> type[SSEOxyGent]:
    """Return an agent class that ignores assignments to an attribute."""

    def read(agent: SSEOxyGent) -> Any:
        return instead

    def write(agent: SSEOxyGent, value: Any) -> None:
        pass

    return type("Mutant", (SSEOxyGent,), {name: property(read, write)})


def deaf(name: str) -> type[SSEOxyGent]:
    """Return an agent class that never calls one of its hooks."""
    own = getattr(SSEOxyGent, name)

    class Mutant(SSEOxyGent):
        def __init_subclass__(cls) -> None:
            setattr(cls, name, own)

        def __setattr__(self, attribute: str, value: Any) -> None:
            if attribute != name:
                super().__setattr__(attribute, value)

    return Mutant


def hearing(heard: Any) -> type[SSEOxyGent]:
    """Return an agent class that handles each event by `heard(delivery, event, action)`."""
    return delivering(type("Mutant", (CallbackDispatcher,), {"on_event": heard, "__slots__": ()}))


async def handle(self: CallbackDispatcher, event: Event, action: Action, message: Any) -> None:
    """Call the handler and the hook of an event with this message."""
    handler, hook = self._handler(event.type), self._hook(event, action)
    if handler is not None:
        fields = cast("dict[str, Any]", message) if isinstance(message, dict) else {}
        await handler(fields.get("content", message))
    if hook is not None:
        await hook(message, self.request)


async def filter_drops_nothing(self: CallbackDispatcher, event: Event, action: Action) -> None:
    """Call the filter and ignore its result."""
    if self.agent.event_filter is not None:
        self.agent.event_filter(event.message)
    await handle(self, event, action, event.message)
    if isinstance(action, Forward):
        await self.request.send_message(action.message)


async def handler_replaces(self: CallbackDispatcher, event: Event, action: Action) -> None:
    """Call the handler in place of forwarding."""
    if (handler := self.agent.event_handlers.get(event.type or "")) is not None:
        await handler(event.message.get("content", event.message))
    else:
        await CallbackDispatcher.on_event(self, event, action)


async def forwards_first(self: CallbackDispatcher, event: Event, action: Action) -> None:
    """Forward before the handler."""
    if isinstance(action, Forward):
        await self.request.send_message(action.message)
    await CallbackDispatcher.on_event(self, event, SetAnswer(None))


async def forwards_all(self: CallbackDispatcher, event: Event, action: Action) -> None:
    """Forward the root's steps too."""
    await CallbackDispatcher.on_event(self, event, Forward(event.message))


async def forwards_nothing(self: CallbackDispatcher, event: Event, action: Action) -> None:
    """Forward nothing to `send_message`."""
    await handle(self, event, action, event.message)


async def forwards_the_original(self: CallbackDispatcher, event: Event, action: Action) -> None:
    """Give the original to `send_message`, not a copy."""
    await CallbackDispatcher.on_event(self, event, Forward(event.message) if isinstance(action, Forward) else action)


async def shows_the_original(self: CallbackDispatcher, event: Event, action: Action) -> None:
    """Give the original to filter and handlers, not a copy."""
    if self.agent.event_filter is not None and not self.agent.event_filter(event.message):
        return
    await handle(self, event, action, event.message)
    if isinstance(action, Forward):
        await self.request.send_message(action.message)


async def handles_messages(self: CallbackDispatcher, event: Event, action: Action) -> None:
    """Call handlers with the whole message."""
    await handle(self, event, action, {"content": event.message})
    if isinstance(action, Forward):
        await self.request.send_message(action.message)


class Answers(CallbackDispatcher):
    """Handlers of answers are not called."""

    def _handler(self, kind: str | None) -> Any:
        return None if kind == "answer" else super()._handler(kind)


class AnswersAreCustom(CallbackDispatcher):
    """The custom hook gets answers."""

    def _hook(self, event: Event, action: Action) -> Any:
        return super()._hook(event, Forward(None))


class FirstSender(CallbackDispatcher):
    """`send_message` is looked up once."""

    async def opened(self) -> None:
        """Keep the first value."""
        kept = self.request.send_message
        object.__setattr__(self, "request", _Keeping(self.request, kept))


class _Keeping:
    def __init__(self, request: OxyRequest, send_message: Any) -> None:
        self.__dict__.update(vars(request), kept_of=request, send_message=send_message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["kept_of"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__.setdefault(name, value)


class NoKeywords(CallbackDispatcher):
    """`send_message` gets no keywords."""

    def _take_sender(self) -> Any:
        send, self._keywords = super()._take_sender(), ()
        return send


class AllKeywords(CallbackDispatcher):
    """`send_message` gets all keywords, accepted or not."""

    def _take_sender(self) -> Any:
        send, self._keywords = super()._take_sender(), WIRE_KEYWORDS
        return send


class Raw(CallbackDispatcher):
    """Exceptions of user code are not wrapped."""

    async def on_event(self, event: Event, action: Action) -> None:
        """Dispatch without wrapping exceptions."""
        try:
            await super().on_event(event, action)
        except errors.HandlerError as error:
            raise error.__cause__ or error from None


class Quiet(CallbackDispatcher):
    """No progress is reported."""

    async def _say(self, text: str) -> None:
        pass


class Early(SSEOxyGent):
    """Later assignments are ignored."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.__dict__ or not name.startswith(("event_", "is_share")):
            super().__setattr__(name, value)


MUTANTS: Final[Mapping[str, tuple[type[SSEOxyGent], str]]] = {
    # the fault: (the class, the check that must fail)
    "no filter": (ignoring("event_filter", None), "filter_stops"),
    "a filter that stops nothing": (hearing(filter_drops_nothing), "filter_stops"),
    "no handlers": (ignoring("event_handlers", {}), "handlers_hear"),
    "a handler replaces forwarding": (hearing(handler_replaces), "handlers_hear"),
    "handlers get the message": (hearing(handles_messages), "handlers_hear"),
    "no handlers of answers": (delivering(Answers), "handlers_hear"),
    "forwarding first": (hearing(forwards_first), "in_order"),
    "forwarding all": (hearing(forwards_all), "forwarding"),
    "forwarding nothing": (hearing(forwards_nothing), "forwarding"),
    "deaf to tool calls": (deaf("handle_tool_call_event"), "hooks_are_called"),
    "deaf to observations": (deaf("handle_observation_event"), "hooks_are_called"),
    "deaf to custom events": (deaf("_process_custom_event"), "hooks_are_called"),
    "answers are custom": (delivering(AnswersAreCustom), "hooks_are_called"),
    "the first sender": (delivering(FirstSender), "sender_is_looked_up"),
    "no keywords": (delivering(NoKeywords), "sender_keywords"),
    "all keywords": (delivering(AllKeywords), "sender_keywords"),
    "all keywords to all": (delivering(AllKeywords), "forwarding"),
    "nobody is blamed": (delivering(Raw), "failures_are_blamed"),
    "no progress": (delivering(Quiet), "progress_is_told"),
    "no callback": (ignoring("progress_callback", None), "progress_is_told"),
    "originals are shown": (hearing(shows_the_original), "copies_are_handed_out"),
    "originals are forwarded": (hearing(forwards_the_original), "copies_are_handed_out"),
    "late is too late": (delivering(CallbackDispatcher), ""),
    "what is assigned late": (Early, "late_attributes"),
    "its own payload": (deaf("prepare_payload"), "late_attributes"),
    "its own headers": (deaf("prepare_headers"), "late_attributes"),
}


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
async def test_mutants(mutant: str) -> None:
    """An agent with one fault fails the check of that fault; one without passes all checks."""
    cls, fatal = MUTANTS[mutant]
    agent = cls(server_url=URL, transport=FakeTransport.script(*SCRIPT))
    assert (await agent.ask("hi")).output == "42", "it is an agent for all that"
    failed: set[str] = set()
    for check in CHECKS:
        try:
            await check(cls)
        except Exception:  # noqa: BLE001  (however it fails, it fails)
            failed.add(check.__name__)
    assert not fatal or fatal in failed
    assert fatal or not failed


def test_each_check_has_a_mutant() -> None:
    """Each check fails on some mutant."""
    assert {check.__name__ for check in CHECKS} == {fatal for _, fatal in MUTANTS.values() if fatal}


# ---------------------------------------------------------------------------------------------------------- Other rules


async def test_default_hooks() -> None:
    """The default hooks may be called by anyone and change nothing."""
    agent, request = SSEOxyGent(server_url=URL), OxyRequest()
    before = {**vars(agent)}
    await agent.handle_tool_call_event({}, request)
    await agent.handle_observation_event({}, request)
    await agent._process_custom_event({}, request)
    assert vars(agent) == before


CALLED: Final[list[Any]] = []
"""Calls of the invalid functions: none."""


async def waits(*anything: Any) -> Any:
    """An async function."""
    CALLED.append(anything)


def does(*anything: Any) -> Any:
    """A plain function."""
    CALLED.append(anything)


WRONG_SETTINGS: Final[dict[str, tuple[str, Any]]] = {
    # the name in the error: (the attribute, its value)
    "event_handlers['tool_call']": ("event_handlers", {"tool_call": does}),
    "event_filter": ("event_filter", waits),
    "sanitize": ("sanitize", waits),
    "failure_detector": ("failure_detector", waits),
    "schema['answer']": ("schema", {"answer": waits}),
    "progress_callback": ("progress_callback", does),
}


@pytest.mark.parametrize("name", WRONG_SETTINGS)
def test_functions_of_the_wrong_kind(name: str) -> None:
    """A function of the wrong kind is refused at construction and at assignment."""
    attribute, value = WRONG_SETTINGS[name]
    with pytest.raises(errors.ConfigurationError, match=re.escape(f"SSEOxyGent.{name} must be ")):
        SSEOxyGent(server_url=URL, **{attribute: value})
    agent = SSEOxyGent(server_url=URL)
    with pytest.raises(errors.ConfigurationError, match=re.escape(f"SSEOxyGent.{name} must be ")):
        setattr(agent, attribute, value)


def test_a_progress_callback_of_the_wrong_kind() -> None:
    """`set_progress_callback` refuses a function of the wrong kind."""
    with pytest.raises(errors.ConfigurationError, match=r"progress_callback must be"):
        SSEOxyGent(server_url=URL).set_progress_callback(does)


WRONG_HOOKS: Final[dict[str, tuple[str, Any]]] = {
    # the name in the error: (the attribute, the value assigned to it or put into it)
    "event_handlers['tool_call']": ("event_handlers", {"tool_call": does}),
    "schema['answer']": ("schema", {"answer": waits}),
    "handle_tool_call_event": ("handle_tool_call_event", does),
    "handle_observation_event": ("handle_observation_event", does),
    "_process_custom_event": ("_process_custom_event", does),
    "prepare_payload": ("prepare_payload", waits),
    "prepare_headers": ("prepare_headers", waits),
}


@pytest.mark.parametrize("name", WRONG_HOOKS)
async def test_a_function_of_the_wrong_kind_before_a_run(name: str) -> None:
    """A replaced method, or a function added to a mapping, is checked before anything is sent."""
    attribute, value = WRONG_HOOKS[name]
    transport = FakeTransport.script(*SCRIPT)
    agent = SSEOxyGent(server_url=URL, transport=transport, event_handlers={}, schema={})
    if isinstance(value, dict):
        getattr(agent, attribute).update(value)
    else:
        setattr(agent, attribute, value)
    with pytest.raises(errors.ConfigurationError, match=re.escape(f"{name} must be ")) as caught:
        await agent.ask("hi")
    assert caught.value.outcome is errors.Outcome.NOT_SENT
    assert transport.requests == []
    assert CALLED == []


def test_the_order_of_replaced_hooks() -> None:
    """Replaced hooks have the order of all hooks, so that the error names the first of several wrong ones."""
    overriding: Any = type("Overriding", (SSEOxyGent,), dict.fromkeys(reversed(HOOKS), waits))
    assert [*overriding(server_url=URL).replaced_hooks()] == [*HOOKS]
    assigned = SSEOxyGent(server_url=URL)
    for name in reversed(HOOKS):
        setattr(assigned, name, waits)
    assert [*assigned.replaced_hooks()] == [*HOOKS]


async def test_several_wrong_hooks() -> None:
    """Of several replaced methods of the wrong kind, the error names the first."""
    agent = SSEOxyGent(server_url=URL, transport=FakeTransport.script(*SCRIPT))
    for name in ("prepare_headers", "prepare_payload"):
        setattr(agent, name, waits)
    for name in ("_process_custom_event", "handle_observation_event", "handle_tool_call_event"):
        setattr(agent, name, does)
    with pytest.raises(errors.ConfigurationError, match=r"^handle_tool_call_event must be "):
        await agent.ask("hi")


async def test_a_plain_send_message() -> None:
    """A `send_message` that is not async is refused before anything is sent."""
    request = OxyRequest(arguments={"query": "x"})
    cast("Any", request).send_message = does
    transport = FakeTransport.script(*SCRIPT)
    with pytest.raises(errors.ConfigurationError, match=r"send_message must be .*'does'"):
        await SSEOxyGent(server_url=URL, transport=transport).ask(request)
    assert transport.requests == []


async def test_a_plain_send_message_during_a_run() -> None:
    """A plain `send_message` assigned during a run is refused before it is called; the error has the outcome so far."""
    request = OxyRequest(arguments={"query": "x"})
    agent = SSEOxyGent(server_url=URL, transport=FakeTransport.script(progress(1), *SCRIPT))
    with pytest.raises(errors.ConfigurationError, match=r"^send_message must be ") as caught:
        async with agent.stream(request) as run:
            await anext(run)
            cast("Any", run)._config.request.send_message = does
            await run.final_response()
    assert caught.value.outcome in (errors.Outcome.STARTED, errors.Outcome.COMPLETED)
    assert CALLED == []


async def test_a_plain_handler_during_a_run() -> None:
    """A plain handler put into the mapping during a run is refused before it is called."""
    handlers: dict[str, Any] = {}
    agent = SSEOxyGent(server_url=URL, transport=FakeTransport.script(progress(1), *SCRIPT), event_handlers=handlers)
    with pytest.raises(errors.ConfigurationError, match=r"^event_handlers\['tool_call'\] must be ") as caught:
        async with agent.stream("hi") as run:
            await anext(run)
            handlers["tool_call"] = does
            await run.final_response()
    assert caught.value.outcome in (errors.Outcome.STARTED, errors.Outcome.COMPLETED)
    assert CALLED == []


async def test_handlers_without_regard_to_case() -> None:
    """A mapping of handlers is asked for types only: one that takes nothing but text is enough."""

    class AnyCase(dict[str, Any]):
        def __contains__(self, key: Any) -> bool:
            return super().__contains__(key.upper())

        def get(self, key: str, default: Any = None) -> Any:
            return super().get(key.upper(), default)

    log = Log()
    await run(SSEOxyGent, log, event_handlers=AnyCase(METRICS=log.handle))
    assert log.of("handled") == [{"type": "metrics", "value": 2}]


async def test_a_callable_without_a_signature() -> None:
    """A `send_message` without a signature gets the message alone."""

    class Opaque:
        __signature__ = "none"
        heard: Final[list[Any]] = []

        async def __call__(self, *values: Any, **named: Any) -> None:
            self.heard.append((values, named))

    opaque = Opaque()
    await run(SSEOxyGent, Log(), [progress(1), answer(2), close()], send=opaque)
    assert opaque.heard == [(({"type": "progress", "content": 1},), {})]


async def test_a_request_that_wants_no_messages() -> None:
    """The request's own `send_message` calls its host, unless the request asks for no messages."""
    heard: list[Any] = []

    class House:
        async def call(self, request: OxyRequest, /, **changes: Any) -> OxyResponse:
            return OxyResponse(OxyState.FAILED)

        async def send_message(self, request: OxyRequest, message: Any, /, **wire: Any) -> None:
            heard.append((message, wire))

    for wants in (True, False):
        agent = SSEOxyGent(server_url=URL, transport=FakeTransport.script(message("x", id="7"), answer(1), close()))
        response = await agent.execute(OxyRequest(mas=House(), is_send_message=wants, arguments={"query": "x"}))
        assert response.output == 1
    assert heard == [("x", {"event": "message", "id": "7", "retry": None})]


async def test_handlers_run_one_at_a_time() -> None:
    """The next event is handled only after user code has finished with this one."""
    running = 0

    async def slow(*anything: Any) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await anyio.sleep(1)
        running -= 1

    await run(SSEOxyGent, Log(), event_handlers={"progress": slow, "metrics": slow}, send=slow)


def test_the_script_of_the_checks() -> None:
    """The script has two pairs of root steps."""
    assert 2 == sum(b'"tool_call"' in step for step in SCRIPT) == sum(b'"observation"' in step for step in SCRIPT)
    assert issubclass(ToolCall, Event)
    assert issubclass(Observation, Event)
