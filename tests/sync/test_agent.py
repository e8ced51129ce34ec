"""`SyncSSEOxyGent`: the settings and methods of `SSEOxyGent`, callbacks in the calling thread, threads, event loops."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, assert_type, get_type_hints

import attrs
import pytest

from oxygent_client import (
    AnyEvent,
    Cluster,
    Observation,
    OxyRequest,
    OxyResponse,
    OxyState,
    RunHandle,
    RunRecord,
    SSEOxyGent,
    Timeouts,
    ToolCall,
)
from oxygent_client.errors import ConfigurationError, HandlerError, StatusError
from oxygent_client.sync import SyncRun, SyncSSEOxyGent, call, hold
from oxygent_client.testing import FakeTransport, Reply, answer, close, observation, progress, tool_call
from tests.conftest import scaled

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sync.conftest import ServedToy

URL: Final = "http://remote.test"
STEPS: Final = (
    tool_call("search", {"query": "x"}, node_id="n"),
    progress("half"),
    observation("search", 3, node_id="n"),
    answer("42"),
    close(),
)


def scripted(*steps: Any, **settings: Any) -> SyncSSEOxyGent:
    """Return an agent whose remote sends these steps."""
    return SyncSSEOxyGent(URL, transport=FakeTransport.script(*(steps or STEPS)), **settings)


# --------------------------------------------------------------------------------------------------------------- Names

WITHOUT: Final = {
    "aclose": "close",
    "replaced_hooks": "asked by a run, which belongs to the asynchronous agent",
}
"""Public names of the asynchronous class that the synchronous one lacks, with reasons."""
NAMES: Final = sorted(
    {name for name in (*dir(SSEOxyGent), *attrs.fields_dict(SSEOxyGent)) if not name.startswith("_")} - WITHOUT.keys()
)
METHODS: Final = [name for name in NAMES if inspect.isfunction(getattr(SSEOxyGent, name, None))]
SETTINGS: Final = [name for name in attrs.fields_dict(SSEOxyGent) if not name.startswith("_")]
PLAIN: Final = {
    "event_handlers": "Mapping[str, Callable[[Any], object]]",
    "progress_callback": "Callable[[str], object] | None",
}
"""Settings that take plain functions, too."""


def test_the_names() -> None:
    """The synchronous class has each public name of the asynchronous one."""
    assert [name for name in NAMES if not hasattr(SyncSSEOxyGent, name)] == []


@pytest.mark.parametrize("name", METHODS)
def test_the_parameters_of_a_method(name: str) -> None:
    """A method has the parameters of the asynchronous one, and a docstring with the same sections."""
    theirs, ours = getattr(SSEOxyGent, name), getattr(SyncSSEOxyGent, name)
    expected = inspect.signature(theirs).parameters
    assert inspect.signature(ours).parameters.keys() == expected.keys()
    assert "Args:" in ours.__doc__ or "Args:" not in theirs.__doc__
    assert not inspect.iscoroutinefunction(ours)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in PLAIN])
def test_the_type_of_a_setting(name: str) -> None:
    """A setting has the type that the asynchronous class declares."""
    assert get_type_hints(SyncSSEOxyGent)[name] == get_type_hints(SSEOxyGent)[name]


def test_the_constructor() -> None:
    """The constructor has the parameters of the asynchronous class, with their defaults."""
    expected = inspect.signature(SSEOxyGent).parameters
    parameters = inspect.signature(SyncSSEOxyGent).parameters
    assert {name: each.default for name, each in parameters.items()} == {
        name: each.default for name, each in expected.items()
    }
    assert parameters["event_handlers"].annotation == "Mapping[str, Callable[[Any], object]] | None"


def test_types() -> None:
    """Type checkers know what each method returns."""
    agent = scripted()
    assert assert_type(agent.ask("hi"), OxyResponse).output == "42"
    assert assert_type(agent.stream("hi"), SyncRun).trace_id
    assert [assert_type(event, AnyEvent).type for event in agent.stream("hi")][-1] == "answer"
    start: Callable[..., RunHandle] = agent.start
    lookup: Callable[[str], RunRecord | None] = agent.lookup
    assert start.__name__ == "start"
    assert lookup.__name__ == "lookup"


# ------------------------------------------------------------------------------------------------------------ Settings


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_that_of_the_agent(name: str) -> None:
    """A setting is read and assigned under its own name."""
    agent = scripted()
    value = getattr(agent, name)
    setattr(agent, name, value)
    assert getattr(agent, name) == value


def test_a_wrong_setting() -> None:
    """An invalid setting raises an error with its name, in the constructor and at assignment."""
    with pytest.raises(ConfigurationError, match="timeouts"):
        SyncSSEOxyGent(URL, timeouts=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    agent = scripted()
    with pytest.raises(ConfigurationError, match="event_handlers"):
        agent.event_handlers = {"a": 3}  # type: ignore[dict-item]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ConfigurationError, match="event_handlers"):
        agent.event_handlers = 3  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ConfigurationError, match="progress_callback"):
        agent.progress_callback = 3  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]


def test_an_agent_of_before() -> None:
    """`from_async` wraps an asynchronous agent, with its own handlers and hooks."""
    heard: list[Any] = []

    async def hear(content: Any) -> None:
        heard.append(content)

    class Mine(SSEOxyGent):
        def prepare_headers(self, oxy_request: OxyRequest) -> dict[str, str]:
            return {"x-mine": "1"}

    transport = FakeTransport.script(*STEPS)
    agent = SyncSSEOxyGent.from_async(Mine(URL, transport=transport, event_handlers={"progress": hear}))
    assert agent.event_handlers == {"progress": hear}
    assert agent.ask("hi").output == "42"
    assert heard == ["half"]
    assert transport.requests[-1].headers["x-mine"] == "1"
    assert agent.prepare_headers(OxyRequest()) == {"x-mine": "1"}
    assert agent.prepare_payload(OxyRequest(arguments={"query": "q"}))["query"] == "q"
    assert repr(agent) == "<SyncSSEOxyGent 'remote' at http://remote.test>"


def test_copies_and_pickles() -> None:
    """A copy has its own settings and the hooks of its class; open connections stay with the original."""
    with Hooked(URL, timeouts=Timeouts(total=5)) as agent:
        for clone in (copy.copy(agent), copy.deepcopy(agent), pickle.loads(pickle.dumps(agent))):
            clone.timeouts = Timeouts(total=9)
            clone.extra = "2"
            assert agent.timeouts.total == 5
            assert type(clone) is Hooked
            assert clone._agent.prepare_headers(OxyRequest()) == {"x-extra": "2"}
    face = copy.copy(SyncSSEOxyGent.from_async(SSEOxyGent(URL)))
    assert face.server_url == URL


# ----------------------------------------------------------------------------------------------------------- Callbacks


class Hooked(SyncSSEOxyGent):
    """An agent with plain functions as hooks."""

    extra = "1"

    def prepare_headers(self, oxy_request: OxyRequest) -> dict[str, str]:
        return {**super().prepare_headers(oxy_request), "x-extra": self.extra}

    def prepare_payload(self, oxy_request: OxyRequest) -> dict[str, Any]:
        return {**super().prepare_payload(oxy_request), "mine": 1}

    def handle_tool_call_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
        self.heard("tool_call")

    def handle_observation_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
        self.heard("observation")

    def _process_custom_event(self, event_data: Any, oxy_request: OxyRequest) -> None:
        self.heard("custom")

    def heard(self, kind: str) -> None:
        """Record a message and the thread of its hook."""
        self.__dict__.setdefault("log", []).append((kind, threading.current_thread()))


def test_hooks() -> None:
    """Hooks of a subclass may be plain functions; those for messages run in the calling thread."""
    transport = FakeTransport.script(*STEPS)
    agent = Hooked(URL, transport=transport, headers={"x-a": "b"})
    agent.ask("hi")
    me = threading.current_thread()
    assert agent.__dict__["log"] == [("tool_call", me), ("custom", me), ("observation", me)]
    assert transport.payloads[-1]["mine"] == 1
    assert transport.requests[-1].headers["x-extra"] == "1"
    assert transport.requests[-1].headers["x-a"] == "b"


def test_no_hooks() -> None:
    """The default hooks do nothing."""
    agent, request = scripted(), OxyRequest()
    agent.handle_tool_call_event({}, request)
    agent.handle_observation_event({}, request)
    agent._process_custom_event({}, request)
    assert agent.prepare_headers(request) == {}


def test_plain_callbacks() -> None:
    """Handlers, `send_message` and the progress callback may be plain, and run in the calling thread."""
    heard: list[tuple[str, Any, threading.Thread]] = []

    def note(kind: str) -> Callable[[Any], None]:
        return lambda content: heard.append((kind, content, threading.current_thread()))

    agent = scripted(progress("half"), answer("42"), close(), progress_callback=note("said"))
    handlers = agent.event_handlers = {"progress": note("handled")}
    assert agent.event_handlers is handlers
    handlers["answer"] = note("handled")  # a mapping may grow
    request = OxyRequest(arguments={"query": "hi"})
    sent: Any = note("sent")
    request.send_message = sent
    agent.execute(request)
    assert [(kind, content) for kind, content, _ in heard] == [
        ("said", "Starting remote execution..."),
        ("handled", "half"),
        ("sent", {"type": "progress", "content": "half"}),
        ("handled", "42"),
        ("said", "Remote execution completed"),
    ]
    assert {thread for _, _, thread in heard} == {threading.current_thread()}
    assert request.send_message is sent


class Forwarding(OxyRequest):
    """A request whose class has a plain `send_message`."""

    def send_message(self, message: Any, event: str | None = None) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """Record a message and its event."""
        self.shared_data.setdefault("heard", []).append((message, event))


def test_a_request_that_is_attached(toy: ServedToy) -> None:
    """The messages of a detached run are forwarded to a plain `send_message`, with the keywords that it accepts."""
    agent, request = SyncSSEOxyGent(toy.url), Forwarding()
    agent.attach(agent.start("tools").to_token(), request=request).final_response()
    assert {event for _, event in request.shared_data["heard"]} == {"message"}


def test_async_callbacks() -> None:
    """An async handler runs in the event loop, where using the agent is an error: it would wait for itself."""
    agent = scripted()
    threads: list[threading.Thread] = []

    async def hear(content: Any) -> None:
        threads.append(threading.current_thread())

    async def call_again(content: Any) -> None:
        agent.ask("again")

    agent.event_handlers = {"tool_call": hear}
    agent.ask("hi")
    assert threads[0].name == "oxygent_client.sync"
    agent.event_handlers = {"tool_call": call_again}
    with pytest.raises(HandlerError) as caught:
        agent.ask("hi")
    assert isinstance(caught.value.__cause__, ConfigurationError)


def test_what_a_plain_callback_returns() -> None:
    """An awaitable returned by a plain callback is awaited, such as that of a partial or a lambda."""
    heard: list[Any] = []

    async def hear(content: Any) -> None:
        await asyncio.sleep(0)
        heard.append(content)

    scripted(event_handlers={"progress": partial(partial(hear))}).ask("hi")
    assert heard == ["half"]


def test_a_callback_that_raises() -> None:
    """An exception in a callback ends the run with a `HandlerError`, as in the asynchronous class."""

    def fail(content: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(HandlerError) as caught:
        scripted(event_handlers={"progress": fail}).ask("hi")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_callback_that_uses_the_agent() -> None:
    """A plain handler may use the same agent."""
    agent = scripted()
    outputs: list[Any] = []

    def ask_again(content: Any) -> None:
        agent.event_handlers = {}
        outputs.append(agent.ask("again").output)

    agent.event_handlers = {"progress": ask_again}
    assert agent.ask("hi").output == "42"
    assert outputs == ["42"]


def test_set_progress_callback() -> None:
    """As in the asynchronous class, a subclass that overrides this method reports progress itself."""
    said: list[str] = []

    class Reporting(SyncSSEOxyGent):
        def set_progress_callback(self, callback: Callable[[str], object] | None) -> None:
            said.append("mine")

    agent = scripted()
    agent.set_progress_callback(said.append)
    agent.ask("hi")
    assert len(said) == 4
    agent.set_progress_callback(None)
    assert agent.progress_callback is None
    said.clear()
    mine = Reporting(URL, transport=FakeTransport.script(*STEPS), progress_callback=said.append)
    mine.ask("hi")
    assert said == []


def test_set_progress_callback_replaced_during_a_run() -> None:
    """An agent to which this method is assigned during a run reports progress itself from then on."""
    said: list[str] = []
    agent: Any = scripted(progress_callback=said.append)
    with agent.stream("hi") as run:
        agent.set_progress_callback = said.append
        assert run.final_response().output == "42"
    assert said == ["Starting remote execution..."]


# ---------------------------------------------------------------------------------------------------------- Operations


def test_execute() -> None:
    """`execute` returns a failure as a response; `ask` raises it."""
    refused = FakeTransport({"/sse/chat": Reply(status=400)})
    agent = SyncSSEOxyGent(URL, transport=refused)
    response = agent.execute(OxyRequest(arguments={"query": "hi"}))
    assert response.state is OxyState.FAILED
    assert response.error == "StatusError"
    with pytest.raises(StatusError):
        agent.ask("hi")


def test_the_server(toy: ServedToy) -> None:
    """Discovery, health check, records, feedback, upload and statistics work as in the asynchronous class."""
    with SyncSSEOxyGent(toy.url) as agent:
        assert agent.check_alive()
        agent.init()
        assert agent.org["name"] == "trip_planner"
        assert agent.get_org()[0]["is_remote"]
        assert agent.sent.values() == set()
        response = agent.ask("echo 42", trace_id="mine")
        record = agent.lookup("mine")
        assert record is not None
        assert record.output == response.output == "42"
        assert agent.upload("a.txt", b"text")
        for event in agent.stream("hang", trace_id="here"):
            agent.feedback("here", {"data": event.type})
            break
        assert toy.state_after_leaving() == "cancelled"
        assert toy.runs[-1].feedback == [{"data": "tool_call"}]
        assert agent.stats().runs == 2
        agent.rate(response.trace_id, "like")
        assert agent.welcome().message == ""
        assert agent.prepared(OxyRequest()).call_stack == ["user", "remote"]
        agent.close()


def test_a_tool(toy: ServedToy) -> None:
    """The tool of an agent asks over the agent's own connections."""
    with SyncSSEOxyGent(toy.url, name="toy") as agent:
        tool = agent.as_tool(callee="trip_planner")
        assert tool.ask_sync("echo 42") == "42"
        assert tool.ask_sync.__name__ == tool.name == "trip_planner"
        assert agent.stats().connections == 1


def test_a_restart(toy: ServedToy) -> None:
    """An earlier run is restarted from one of its calls."""
    agent = SyncSSEOxyGent(toy.url)
    run = agent.stream("tools")
    (call_id,) = [event.node_id for event in run if isinstance(event, ToolCall) and event.callee == "search_flights"]
    events = [*agent.restart(run.trace_id, call_id, output="99")]
    assert next(event.output for event in events if isinstance(event, Observation)) == "99"


def test_an_agent_whose_loop_ended() -> None:
    """After its event loop has ended, leaving the block closes nothing: the connections ended with the loop."""
    agent = scripted()
    agent.__enter__()
    agent._entered_in = None
    agent.__exit__(None, None, None)
    call(agent._agent.aclose)


def test_a_cluster(toy: ServedToy) -> None:
    """A cluster can be the transport; its own functions are called by `sync.call`."""
    cluster = Cluster([toy.url])
    with hold(cluster.watching(every=60)):
        assert SyncSSEOxyGent(transport=cluster).ask("echo 42").output == "42"
        (status,) = call(cluster.status)
    assert status.usable


# ------------------------------------------------------------------------------------------- Threads and event loops


def test_threads_share_an_agent(toy: ServedToy) -> None:
    """Threads share an agent: each gets its own answers, and its handlers run in it."""
    threads = scaled(32)
    together = threading.Barrier(threads)
    mistakes: list[Any] = []

    def use(number: int) -> tuple[Any, Any]:
        together.wait()
        output = agent.ask(f"echo {number}").output
        run = agent.stream(f"echo {number}", shared_data={"thread": number})
        return output, [event.content for event in run if event.type == "answer"][-1]

    def check(content: dict[str, Any]) -> None:
        name = threading.current_thread().name
        if "worker" not in name:
            mistakes.append(name)

    with (
        SyncSSEOxyGent(toy.url, event_handlers={"tool_call": check}) as agent,
        ThreadPoolExecutor(threads, "worker") as pool,
    ):
        results = [*pool.map(use, range(threads))]
    assert results == [(str(number), str(number)) for number in range(threads)]
    assert mistakes == []


async def test_under_a_running_loop(toy: ServedToy) -> None:
    """A thread that runs an event loop, asyncio's or trio's, may use the agent, which blocks the loop."""
    with SyncSSEOxyGent(toy.url) as agent:
        assert agent.ask("echo 42").output == "42"
        for _ in agent.stream("slow"):
            break
        assert toy.state_after_leaving() == "cancelled"
