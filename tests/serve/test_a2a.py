"""A2A: the card, calls of JSON-RPC, tasks and their events.

Rule: time is virtual; the remote is a toy in the same process, and so are the clients. Real clients are in
tests/clients.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections.abc import AsyncGenerator
from typing import Any, Final

import anyio
import attrs
import pytest
from a2a.server.agent_execution import RequestContext
from a2a.server.context import ServerCallContext
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.types import Artifact, Message, Part, Task, TaskState, TaskStatus
from a2a.utils.errors import InternalError

from oxygent_client import BearerAuth, Conversation, SSEOxyGent
from oxygent_client.errors import ConnectError
from oxygent_client.serve import ASGIApp, Exchange, Runs, ServedAgent, ServeLimits, Service
from oxygent_client.serve._a2a.calls import answer_call
from oxygent_client.serve._a2a.documents import agent_card
from oxygent_client.serve._a2a.executor import RunExecutor
from oxygent_client.serve._a2a.sent_messages import RANDOM, SentMessages
from oxygent_client.serve._a2a.store import BoundedTaskStore
from oxygent_client.serve.a2a import create_app
from oxygent_client.testing import FakeTransport, Reply, Step, ToyRemote, answer, close, delta, pause, tool_call
from oxygent_client.testing.script import Call as Calls
from oxygent_client.testing.script import Cut, Pause, Script, Think
from oxygent_client.transports.asgi import ASGITransport
from tests.support.asgi_client import Call, request
from tests.support.virtual import anyio_backend as anyio_backend

REMOTE: Final = "https://remote.test"
CARD: Final = "/.well-known/agent-card.json"
VERSION: Final = {"a2a-version": "1.0"}
UNSUPPORTED: Final = -32004
UNKNOWN_TASK: Final = -32001
NUMBERS: Final = itertools.count()
SCRIPTS: Final = {
    **ToyRemote().scripts,
    "json": Script(output={"sum": 42, "ö": None}),
    "think": Script([Think("hm"), Calls("search_flights", query="BER\nto LIS"), Calls("add_up")], output="thought"),
    "many": Script([Calls("add_up") for _ in range(250)], output="done"),
    "slow": Script([Pause(100)], output="late"),
    "cut": Script([Pause(1), Cut()]),
}


def send(text: str, *, method: str = "SendMessage", parts: Any = None, context: str = "", **params: Any) -> Any:
    """Return the call that sends a message; each has an id of its own, if it is given none."""
    number = params.pop("message_id", "") or f"message {next(NUMBERS)}"
    message = {"messageId": number, "role": "ROLE_USER", "parts": parts or [{"text": text}], "contextId": context}
    message["metadata"] = params.pop("metadata", {})
    return call(method, {"message": message, **params})


def call(method: str, params: Any) -> Any:
    """Return a call of JSON-RPC."""
    return {"jsonrpc": "2.0", "id": "7", "method": method, "params": params}


@attrs.define(eq=False)
class Site:
    """A service, and the toy that it serves."""

    service: ASGIApp
    toy: ToyRemote

    async def call(self, document: Any, **headers: str) -> Call:
        """Send a call, and return the complete response."""
        return await request(self.service, "POST", "/a2a", document, **VERSION, **headers)

    async def task(self, text: str, **options: Any) -> Any:
        """Send a message, and return its task."""
        return (await self.call(send(text, **options))).document["result"]["task"]

    def streamed(self, text: str, **options: Any) -> Call:
        """Return a call whose response is a stream."""
        body = json.dumps(send(text, method="SendStreamingMessage", **options)).encode()
        return Call(self.service, "POST", "/a2a", body, VERSION)


def site(agent: dict[str, Any] | None = None, **options: Any) -> Site:
    """Return a service of a toy."""
    toy = ToyRemote(scripts=SCRIPTS)
    served = SSEOxyGent(server_url=REMOTE, transport=ASGITransport(toy), **(agent or {}))
    return Site(create_app(served, **options), toy)


def of_one_agent(*steps: Step) -> Site:
    """Return a service of the agent `x`, which sends these steps."""
    organization = {"id_dict": {}, "organization": {"name": "x", "type": "agent"}}
    remote = FakeTransport(
        {
            "/get_organization": Reply.json({"code": 200, "data": organization}),
            "/get_description": Reply.json({"code": 200, "data": {"description": ""}}),
            "/sse/chat": Reply(steps),
        }
    )
    return Site(create_app(SSEOxyGent(server_url=REMOTE, transport=remote)), ToyRemote())


def handler_of(executor: RunExecutor) -> DefaultRequestHandler:
    """Return the package's handler of an executor."""
    return DefaultRequestHandler(executor, BoundedTaskStore(), agent_card((ServedAgent("x"),), "/", needs_token=False))


def endpoint(handler: Any) -> ASGIApp:
    """Return an application whose calls go to a handler of the package, or to one like it."""
    messages = SentMessages()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        exchange = Exchange(scope, send)
        exchange.body = (await receive())["body"]
        async with anyio.create_task_group() as exchange.group:
            await answer_call(exchange, handler, messages)
            exchange.group.cancel_scope.cancel()

    return app


def shown(reply: Call) -> list[Any]:
    """Return the events of a stream: states, calls, and pieces with whether each is appended, and is the last."""
    return [short(event["result"]) for event in reply.events]


def short(result: Any) -> Any:
    """Return the facts of one event."""
    if "artifactUpdate" in result:
        update = result["artifactUpdate"]
        return update["artifact"]["parts"][0]["text"], update.get("append", False), update.get("lastChunk", False)
    status = result.get("task", result.get("statusUpdate"))["status"]
    state = status["state"].removeprefix("TASK_STATE_")
    return f"{state}: {status['message']['parts'][0]['text']}" if "message" in status else state


def text_of(task: Any) -> list[str]:
    """Return the text of each artifact's parts."""
    return [part["text"] for artifact in task.get("artifacts", []) for part in artifact["parts"]]


# ------------------------------------------------------------------------------------------------------------ The card


async def test_the_card() -> None:
    """The card has the master's name and description, the URL of the request, and a skill for each agent."""
    reply = await request(site().service, "GET", CARD)
    card = reply.document
    assert card["name"] == "trip_planner"
    assert card["description"] == "Plans trips with flights and hotels"
    assert [skill["id"] for skill in card["skills"]] == ["trip_planner", "flight_agent", "hotel_agent", "review_agent"]
    assert card["supportedInterfaces"] == [
        {"url": "http://testserver/a2a", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
    ]
    assert card["capabilities"]["streaming"]
    assert "securitySchemes" not in card


URLS: Final[list[Any]] = [
    # the URL that was given, the place where the application is mounted, the URL of the card
    pytest.param("", "/agents", "http://testserver/agents/a2a", id="mounted"),
    pytest.param("https://x.test/y/", "/agents", "https://x.test/y/a2a", id="given"),
]


@pytest.mark.parametrize(("url", "root_path", "expected"), URLS)
async def test_the_url_of_the_card(url: str, root_path: str, expected: str) -> None:
    """The URL is that of the place where the application is mounted, or the given one."""
    reply = await Call(site(url=url).service, "GET", CARD, root_path=root_path)()
    assert reply.document["supportedInterfaces"][0]["url"] == expected


async def test_a_token() -> None:
    """With a token, the card says so, and is for clients with the token only."""
    here = site(token="t0ken")
    refused = await request(here.service, "GET", CARD)
    reply = await request(here.service, "GET", CARD, authorization="Bearer t0ken")
    assert refused.status == 401
    assert refused.document["error"]["data"][0]["metadata"]["code"] == "invalid_token"
    assert reply.document["securitySchemes"]["bearer"]["httpAuthSecurityScheme"]["scheme"] == "bearer"
    assert reply.document["securityRequirements"] == [{"schemes": {"bearer": {}}}]


# --------------------------------------------------------------------------------------------------------------- Tasks


@pytest.mark.parametrize(
    ("query", "text"), [("echo hello", "hello"), ("json", '{"sum": 42, "ö": null}')], ids=["text", "json"]
)
async def test_an_answer(query: str, text: str) -> None:
    """A message is a task, which has the answer as its one artifact; the agent ran once."""
    here = site()
    task = await here.task(query)
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert text_of(task) == [text]
    assert task["metadata"] == {"trace_id": here.toy.runs[0].trace_id}
    assert [run.query for run in here.toy.runs] == [query]


async def test_a_task_by_its_id() -> None:
    """A finished task can be read again."""
    here = site()
    task = await here.task("echo hello")
    reply = await here.call(call("GetTask", {"id": task["id"]}))
    assert reply.document == {"jsonrpc": "2.0", "id": "7", "result": task}


async def test_an_agent_by_its_name() -> None:
    """The metadata of a message select an agent."""
    here = site()
    task = await here.task("echo x", metadata={"agent": "flight_agent"})
    assert text_of(task) == ["x"]
    assert here.toy.runs[0].payload["callee"] == "flight_agent"


REFUSED: Final[list[Any]] = [
    # the options of a message, the code
    pytest.param({"metadata": {"agent": "nobody"}}, "agent_not_found", id="no-agent"),
    pytest.param({"metadata": {"agent": 5}}, "invalid_value", id="agent-is-no-text"),
    pytest.param({"parts": [{"data": {"x": 1}}]}, "unsupported_value", id="data"),
    pytest.param({"context": "x" * 201}, "invalid_value", id="long-context"),
]


@pytest.mark.parametrize(("options", "code"), REFUSED)
async def test_rejected_messages(options: dict[str, Any], code: str) -> None:
    """A task of an invalid message is rejected, and nothing runs."""
    here = site()
    task = await here.task("echo x", **options)
    assert task["status"]["state"] == "TASK_STATE_REJECTED"
    assert task["status"]["message"]["metadata"]["code"] == code
    assert task["metadata"]["outcome"] == "not_sent"
    assert here.toy.runs == []


async def test_only_allowed_headers_are_forwarded() -> None:
    """Of a client's headers, the agent gets those in `forward_headers`."""
    here = site({"forward_headers": ["x-tenant"]})
    await here.call(send("echo x"), x_tenant="t1", x_other="o")
    assert here.toy.runs[0].headers["x-tenant"] == "t1"
    assert "x-other" not in here.toy.runs[0].headers


async def test_echoed_credentials() -> None:
    """A credential that the remote returns is removed."""
    here = site({"auth": BearerAuth("s3cret-token")})
    assert text_of(await here.task("echo s3cret-token")) == ["[scrubbed]"]


# --------------------------------------------------------------------------------------------------------------- Events


async def test_a_stream() -> None:
    """A stream has the states, the calls inside the remote as short lines, and the answer; no thoughts."""
    assert shown(await site().streamed("think")()) == [
        "SUBMITTED",
        "WORKING",
        "WORKING: trip_planner calls search_flights: BER to LIS",
        "WORKING: trip_planner calls add_up",
        ("thought", False, True),
        "COMPLETED",
    ]


NO_UNICODE: Final = {
    # what the remote sends: the text of the task
    "answer": ([rb'{"type": "answer", "content": "a\ud800b"}'], "a?b"),
    "JSON": ([rb'{"type": "answer", "content": {"\ud800": 1}}'], '{"?": 1}'),
    "piece": ([rb'{"type": "stream", "content": {"delta": "\ud800", "agent": "x"}}'], "?"),
}


@pytest.mark.parametrize("kind", NO_UNICODE)
async def test_texts_that_are_no_unicode(kind: str) -> None:
    """Lone surrogates, which cannot be sent, are replaced; the run is told as it ended."""
    messages, text = NO_UNICODE[kind]
    here = of_one_agent(*(b"data: " + each + b"\r\n\r\n" for each in messages), pause(1), close())
    task = await here.task("q")
    assert text_of(task) == [text]
    assert task["metadata"].get("code") == ("no_answer" if kind == "piece" else None)


def test_a_name_that_is_no_unicode() -> None:
    """The card has names with replaced surrogates."""
    card = agent_card((ServedAgent("a\ud800"),), "/", needs_token=False)
    assert [card.name, card.skills[0].id] == ["a?", "a?"]


async def test_pieces() -> None:
    """The answer comes in pieces; a text that the model takes back is replaced; the last piece replaces all."""
    reply = await of_one_agent(
        tool_call("x", caller="user", node_id="1"),
        delta("Let me look that up.", agent="x", node_id="2"),
        pause(1),
        tool_call("search", {"query": "Nara"}, caller="x"),
        delta("Nara has ", agent="x", node_id="3"),
        pause(1),
        delta("deer.", agent="x", node_id="3"),
        pause(1),
        answer("Nara has deer."),
        close(),
    ).streamed("x")()
    assert [each for each in shown(reply) if isinstance(each, tuple)] == [
        ("Let me look that up.", False, False),
        ("Nara has", False, False),
        (" deer.", True, False),
        ("Nara has deer.", False, True),
    ]


async def test_many_calls() -> None:
    """Of many calls the first 200 are reported."""
    events = shown(await site().streamed("many")())
    assert len([each for each in events if "calls" in each]) == 200
    assert events[-1] == "COMPLETED"


# ---------------------------------------------------------------------------------------------------------------- Ends

ENDS: Final[list[Any]] = [
    # the query, the code, the outcome
    pytest.param("fail", "agent_failed", "completed", id="failed"),
    pytest.param("cut", "cut", "started", id="cut"),
    pytest.param("slow", "timeout", "started", id="time-out"),
]


@pytest.mark.parametrize(("query", "code", "outcome"), ENDS)
async def test_failed_runs(query: str, code: str, outcome: str) -> None:
    """A run that fails, is cut or takes too long is a failed task with code, outcome and trace id; it ran once."""
    here = site(limits=ServeLimits(run_seconds=50))
    task = await here.task(query)
    assert task["status"]["state"] == "TASK_STATE_FAILED"
    assert task["status"]["message"]["metadata"] == task["metadata"]
    assert task["metadata"] == {
        "code": code,
        "outcome": outcome,
        "retryable": False,
        "trace_id": here.toy.runs[0].trace_id,
    }
    assert len(here.toy.runs) == 1


async def test_an_unreachable_remote() -> None:
    """A remote that cannot be reached is a failed task of which nothing ran."""
    remote = SSEOxyGent(server_url=REMOTE, transport=FakeTransport.script(ConnectError("refused")))
    task = await Site(create_app(remote), ToyRemote()).task("x")
    assert task["status"]["state"] == "TASK_STATE_FAILED"
    assert task["metadata"]["code"] == "unreachable"
    assert (task["metadata"]["outcome"], task["metadata"]["retryable"]) == ("not_sent", True)


async def test_a_cut_has_the_text_so_far() -> None:
    """A run that is cut in the middle of its answer is a failed task with the text so far."""
    steps = (
        tool_call("x", caller="user", node_id="1"),
        delta("Nara has ", agent="x", node_id="2"),
        delta("de", agent="x", node_id="2"),
    )
    task = await of_one_agent(*steps).task("x")
    assert task["status"]["state"] == "TASK_STATE_FAILED"
    assert text_of(task) == ["Nara has de"]


async def test_too_many_runs() -> None:
    """A message beyond the limit is rejected, and may be sent again."""
    here = site(limits=ServeLimits(runs=1))
    async with anyio.create_task_group() as group:
        group.start_soon(here.streamed("slow"))
        await anyio.sleep(1)
        task = await here.task("echo x")
        assert task["status"]["state"] == "TASK_STATE_REJECTED"
        assert (task["metadata"]["code"], task["metadata"]["retryable"]) == ("too_many_runs", True)


class _BrokenRuns(Runs):
    """Runs with a fault."""

    def conversation(self, token: str = "") -> Conversation:
        """Raise an error whose text is not for clients."""
        raise ValueError("a secret of the program")


async def test_an_unexpected_error() -> None:
    """An unexpected error is a failed task without its text, and is logged."""
    runs = _BrokenRuns(SSEOxyGent(REMOTE), ServeLimits())
    reply = await Site(endpoint(handler_of(RunExecutor(runs))), ToyRemote()).call(send("x"))
    assert reply.document["result"]["task"]["metadata"]["code"] == "internal_error"
    assert "secret" not in reply.text


# --------------------------------------------------------------------------------------- Cancelling, leaving, attaching


async def test_cancelling() -> None:
    """A client that cancels stops the run, and ends the task and its stream."""
    here, task_id = site(), ""
    reply = here.streamed("slow")
    async with anyio.create_task_group() as group:
        group.start_soon(reply)
        await reply.wait_for("WORKING")
        task_id = reply.events[0]["result"]["task"]["id"]
        cancelled = await here.call(call("CancelTask", {"id": task_id}))
        assert cancelled.document["result"]["status"]["state"] == "TASK_STATE_CANCELED"
        assert anyio.current_time() < 2
    assert shown(reply)[-1] == "CANCELED"
    assert [run.state for run in here.toy.runs] == ["cancelled"]
    again = await here.call(call("CancelTask", {"id": task_id}))
    assert again.document["error"]["message"] == "Task cannot be canceled"


async def test_cancelling_what_has_ended() -> None:
    """Cancelling a task without a run does nothing."""
    runs = Runs(SSEOxyGent(REMOTE), ServeLimits())
    queue: Any = None
    await RunExecutor(runs).cancel(RequestContext(ServerCallContext(), task_id="1"), queue)
    assert runs.running == 0


async def test_leaving_and_attaching() -> None:
    """A client that leaves does not stop the task; one that subscribes gets the task so far, and the rest."""
    here, task_id = site(), ""
    first = later = here.streamed("slow")
    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await first.wait_for("WORKING")
        task_id = first.events[0]["result"]["task"]["id"]
        first.left.set()
        await anyio.sleep(10)
        assert not first.is_complete
        later = await here.call(call("SubscribeToTask", {"id": task_id}))
    assert shown(later) == ["WORKING", ("late", False, True), "COMPLETED"]
    assert [run.state for run in here.toy.runs] == ["finished"]
    again = await here.call(call("SubscribeToTask", {"id": task_id}))
    assert "terminal state" in again.document["error"]["message"]


async def test_stopping() -> None:
    """A service that stops ends its tasks: they fail, and their streams end."""
    here = site()
    reply = here.streamed("slow")
    assert isinstance(here.service, Service)
    async with anyio.create_task_group() as group, here.service.running():
        group.start_soon(reply)
        await reply.wait_for("WORKING")
        await here.service.stop()
    assert shown(reply)[-1] == "FAILED: the server is stopping"
    assert [run.state for run in here.toy.runs] == ["cancelled"]


async def test_running_without_a_task() -> None:
    """A service without tasks has nothing to end."""
    service = site().service
    assert isinstance(service, Service)
    async with service.running():
        assert service.runs.running == 0


# ------------------------------------------------------------------------------------------------------- Conversations


def links(here: Site) -> list[Any]:
    """Return which run each run follows, by index; None for the first turn of a conversation."""
    ids = [run.trace_id for run in here.toy.runs]
    return [ids.index(given) if (given := run.payload.get("from_trace_id")) else None for run in here.toy.runs]


async def test_a_conversation() -> None:
    """A context is a conversation: each task follows the last good one, which the remote has stored."""
    here = site()
    first = await here.task("echo first")
    for query in ("echo second", "fail", "echo third"):
        await here.task(query, context=first["contextId"])
    await here.task("echo other")
    assert links(here) == [None, 0, 1, 1, None]
    assert [run.payload["is_async_storage"] for run in here.toy.runs] == [False] * 5


async def test_the_id_of_a_context_stays_here() -> None:
    """The remote gets an id of ours for the conversation."""
    here = site()
    for _ in range(2):
        await here.task("echo x", context="another-group")
    first, second = (run.payload["group_id"] for run in here.toy.runs)
    assert first == second
    assert first not in ("", "another-group")


async def test_each_agent_has_its_own_memory() -> None:
    """Another agent of the same context begins a conversation of its own."""
    here = site()
    for name in ("", "flight_agent", "flight_agent"):
        await here.task("echo x", context="c", metadata={"agent": name})
    assert links(here) == [None, None, 1]


async def test_one_task_at_a_time() -> None:
    """A second task of a context is rejected while the first is running."""
    here = site()
    reply = here.streamed("slow", context="c")
    async with anyio.create_task_group() as group:
        group.start_soon(reply)
        await reply.wait_for("WORKING")
        task = await here.task("echo x", context="c")
        assert task["metadata"]["code"] == "context_busy"
    assert shown(reply)[-1] == "COMPLETED"
    assert len(here.toy.runs) == 1


@pytest.mark.parametrize("method", ["SendMessage", "SendStreamingMessage"])
async def test_a_message_to_a_task(method: str) -> None:
    """A message to a task, running or not, is an error, and runs nothing; the task goes on."""
    here = site()
    first = here.streamed("slow", context="c")
    more = send("echo x", method=method, context="c")
    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await first.wait_for("WORKING")
        more["params"]["message"]["taskId"] = first.events[0]["result"]["task"]["id"]
        assert (await here.call(more)).document["error"]["code"] == UNSUPPORTED
    assert shown(first)[-1] == "COMPLETED"
    assert (await here.call(more)).document["error"]["code"] == UNSUPPORTED
    more["params"]["message"]["taskId"] = "nope"
    assert (await here.call(more)).document["error"]["code"] == UNKNOWN_TASK
    assert [run.query for run in here.toy.runs] == ["slow"]


async def test_old_conversations_are_forgotten() -> None:
    """The conversations of the last tasks are kept."""
    toy = ToyRemote()
    runs = Runs(SSEOxyGent(server_url=REMOTE, transport=ASGITransport(toy)), ServeLimits())
    executor = RunExecutor(runs, contexts=2)
    here = Site(endpoint(handler_of(executor)), toy)
    for context in ("a", "b", "a", "c", "b", "a"):
        await here.task("echo x", context=context)
    assert links(here) == [None, None, 0, None, None, None]


# ------------------------------------------------------------------------------------------------- Repeated messages

AGAIN: Final[list[Any]] = [
    # the context of both messages, their id, whether the second is the first one again
    pytest.param("c", "m1", True, id="context"),
    pytest.param("", "x" * RANDOM, True, id="random-id"),
    pytest.param("", "m1", False, id="no-context"),
]


@pytest.mark.parametrize(("context", "message_id", "is_same"), AGAIN)
async def test_a_message_that_is_sent_again(context: str, message_id: str, is_same: bool) -> None:
    """A message with the id and the context of an earlier one has its task, and runs nothing."""
    here = site()
    first, second = [await here.task("echo x", context=context, message_id=message_id) for _ in range(2)]
    assert (second["id"] == first["id"]) == is_same
    assert text_of(second) == ["x"]
    assert len(here.toy.runs) == (1 if is_same else 2)


async def test_another_context_or_id() -> None:
    """The same id in another context, and another id in the same context, are new messages."""
    here = site()
    for context, message_id in (("c", "1"), ("d", "1"), ("c", "2")):
        await here.task("echo x", context=context, message_id=message_id)
    assert len(here.toy.runs) == 3


@pytest.mark.parametrize("method", ["SendMessage", "SendStreamingMessage"])
async def test_a_message_that_is_sent_again_while_it_runs(method: str) -> None:
    """A message that is sent again while its task runs gets the task up to its end; the agent runs once."""
    here = site()
    first = here.streamed("slow", context="c", message_id="1")
    body = json.dumps(send("slow", method=method, context="c", message_id="1")).encode()
    second = Call(here.service, "POST", "/a2a", body, VERSION)
    async with anyio.create_task_group() as group:
        group.start_soon(first)
        group.start_soon(second)
    task_id = first.events[0]["result"]["task"]["id"]
    if method == "SendMessage":
        assert second.document["result"]["task"]["id"] == task_id
        assert second.document["result"]["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
    else:
        assert second.events[0]["result"]["task"]["id"] == task_id
        assert shown(second)[-1] == "COMPLETED"
    assert len(here.toy.runs) == 1


@pytest.mark.parametrize("method", ["SendMessage", "SendStreamingMessage"])
async def test_a_message_whose_client_left_at_once(method: str) -> None:
    """A message is found when it is sent again, even if its client left before its task began."""
    here = site()
    message = send("echo x", method=method, context="c")
    first = Call(here.service, "POST", "/a2a", json.dumps(message).encode(), VERSION)
    first.left.set()
    await first()
    task = (await here.call({**message, "method": "SendMessage"})).document["result"]["task"]
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert len(here.toy.runs) == 1


async def test_a_message_that_is_sent_again_and_does_not_wait() -> None:
    """With `returnImmediately`, the response has the task as it is."""
    here = site()
    first = here.streamed("slow", context="c", message_id="1")
    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await first.wait_for("WORKING")
        options = {"configuration": {"returnImmediately": True}}
        task = await here.task("slow", context="c", message_id="1", **options)
        assert task["status"]["state"] == "TASK_STATE_WORKING"
        assert anyio.current_time() < 2
    assert len(here.toy.runs) == 1


async def test_a_finished_task_as_a_stream() -> None:
    """The stream of a message that is sent again after its end has the finished task."""
    here = site()
    await here.task("echo x", context="c", message_id="1")
    reply = await here.streamed("echo x", context="c", message_id="1")()
    assert shown(reply) == ["COMPLETED"]
    assert len(here.toy.runs) == 1


async def test_a_message_that_did_not_run() -> None:
    """A message that was rejected before anything ran can be sent again, and then runs."""
    here = site(limits=ServeLimits(runs=1))
    tasks: list[Any] = []
    async with anyio.create_task_group() as group:
        group.start_soon(here.streamed("slow"))
        await anyio.sleep(1)
        tasks.append(await here.task("echo x", context="c", message_id="1"))
    tasks.append(await here.task("echo x", context="c", message_id="1"))
    assert [task["status"]["state"] for task in tasks] == ["TASK_STATE_REJECTED", "TASK_STATE_COMPLETED"]
    assert tasks[0]["id"] != tasks[1]["id"]


async def test_a_message_that_was_invalid() -> None:
    """A message whose call was an error has no task, and is not remembered."""
    here = site()
    history: dict[str, Any] = {"configuration": {"historyLength": -1}}
    refused = await here.call(send("echo x", context="c", message_id="1", **history))
    assert refused.document["error"]["code"] == -32602
    assert (await here.task("echo x", context="c", message_id="1"))["status"]["state"] == "TASK_STATE_COMPLETED"


@attrs.define(eq=False)
class _Fails:
    """A handler that has an error for each message, after a second."""

    count: int = 0

    async def on_message_send(self, *_: object) -> Any:
        """Raise an error."""
        self.count += 1
        await anyio.sleep(1)
        raise InternalError


async def test_a_message_without_a_task_that_is_sent_again() -> None:
    """A message that is sent again before the first has failed without a task is tried itself."""
    handler = _Fails()
    here = Site(endpoint(handler), ToyRemote())
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(here.call, send("x", context="c", message_id="1"))
    assert handler.count == 2


async def test_old_messages_are_forgotten() -> None:
    """The last messages are remembered, and those whose calls have not ended."""
    messages = SentMessages(2)
    sent = [Message(message_id=str(number), context_id="c") for number in range(4)]
    added = [messages.add(message, anyio.CancelScope()) for message in sent]
    for each in added[1:]:
        each.begin("task")
        each.end()
    assert [messages.find(message) is not None for message in sent] == [True, False, True, True]


# --------------------------------------------------------------------------------------------------------------- Calls


async def test_tokens_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """No log, the package's neither, shows the headers of a request."""
    caplog.set_level(logging.DEBUG)
    here = site(token="inbound-secret")
    await here.call(send("echo x"), authorization="Bearer inbound-secret", x_user="user-secret")
    assert len(here.toy.runs) == 1
    assert "secret" not in caplog.text


INVALID: Final[list[Any]] = [
    # the call, the code of JSON-RPC
    pytest.param({"id": 1, "method": "GetTask"}, -32600, id="no-jsonrpc"),
    pytest.param({"jsonrpc": "2.0", "id": 1, "method": 5}, -32600, id="no-method"),
    pytest.param(call("Nope", {}), -32601, id="unknown-method"),
    pytest.param(call("SendMessage", {"message": 5}), -32602, id="wrong-type"),
    pytest.param(call("SendMessage", 5), -32602, id="no-params"),
    pytest.param(call("SendMessage", {}), -32602, id="no-message"),
    pytest.param(send("echo x", metadata={"x": math.inf}), -32602, id="infinite-number"),
    pytest.param(call("GetTask", {"id": "nope"}), -32001, id="unknown-task"),
    pytest.param(call("ListTasks", {}), -32004, id="list"),
    pytest.param(call("CreateTaskPushNotificationConfig", {}), -32003, id="push"),
]


@pytest.mark.parametrize(("document", "code"), INVALID)
async def test_invalid_calls(document: Any, code: int) -> None:
    """An invalid call is an error of JSON-RPC."""
    reply = await site().call(document)
    assert (reply.status, reply.document["error"]["code"]) == (200, code)


@pytest.mark.parametrize(("number", "expected"), [(5, 5), ("x", "x"), (True, None), ([], None)])
async def test_the_id_of_a_call(number: Any, expected: Any) -> None:
    """The id of a call is that of its response, if it is a valid one."""
    reply = await site().call({**call("Nope", {}), "id": number})
    assert reply.document["id"] == expected


async def test_another_version() -> None:
    """A client of another version gets an error that names the versions."""
    reply = await request(site().service, "POST", "/a2a", send("echo x"), a2a_version="2.0")
    assert reply.document["error"]["code"] == -32009


BODIES: Final[list[Any]] = [
    # the body, the status, the code of JSON-RPC
    pytest.param(b"{", 400, -32600, id="no-json"),
    pytest.param(b"x" * 2000, 413, -32600, id="too-large"),
]


@pytest.mark.parametrize(("body", "status", "code"), BODIES)
async def test_refused_requests(body: bytes, status: int, code: int) -> None:
    """A request that is refused is an error of JSON-RPC with its status."""
    reply = await site(limits=ServeLimits(body_bytes=1000)).call(body)
    assert (reply.status, reply.document["error"]["code"]) == (status, code)


class _Dropped:
    """A handler whose streams end before their tasks, as the package does with a client that reads too slowly."""

    async def on_message_send_stream(self, *_: object) -> AsyncGenerator[Any]:
        """Send the task alone."""
        yield Task(id="1", context_id="2", status=TaskStatus(state=TaskState.TASK_STATE_WORKING))


async def test_a_client_that_is_too_slow() -> None:
    """A stream that was dropped ends with an error, never as if the task were at its end."""
    reply = await Site(endpoint(_Dropped()), ToyRemote()).streamed("x")()
    assert short(reply.events[0]["result"]) == "WORKING"
    assert "subscribe" in reply.events[-1]["error"]["message"]
    assert reply.is_complete


# ---------------------------------------------------------------------------------------------------------------- Store


def finished(number: int, text: str = "") -> Task:
    """Return a finished task."""
    artifact = Artifact(artifact_id="a", parts=[Part(text=text), Part(text=text)])
    return Task(id=str(number), status=TaskStatus(state=TaskState.TASK_STATE_COMPLETED), artifacts=[artifact])


LIMITS: Final[list[Any]] = [
    # limits, the text of each task, the tasks that are kept
    pytest.param({"tasks": 2}, "", [False, True, True], id="number"),
    pytest.param({"size": 250}, "x" * 50, [False, True, True], id="size"),
]


@pytest.mark.parametrize(("limits", "text", "kept"), LIMITS)
async def test_the_store_is_bounded(limits: dict[str, int], text: str, kept: list[bool]) -> None:
    """The oldest finished tasks are forgotten."""
    store, context = BoundedTaskStore(**limits), ServerCallContext()
    for number in range(3):
        await store.save(finished(number, text), context)
    assert [await store.get(str(number), context) is not None for number in range(3)] == kept


async def test_pieces_are_joined() -> None:
    """The pieces of an artifact are stored as one part."""
    store, context = BoundedTaskStore(), ServerCallContext()
    await store.save(finished(1, "ab"), context)
    task = await store.get("1", context)
    assert task is not None
    assert [part.text for part in task.artifacts[0].parts] == ["abab"]
