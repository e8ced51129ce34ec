"""Restarts: the record is read first, and a restart that the server cannot do is not sent.

Rule 1: the toy remote restarts as a real 1.1.3 does; real servers are tested in tests/interop.
Rule 2: time is virtual.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

import anyio
import pytest

from oxygent_client import CallOptions, Cluster, Custom, Outcome, OxyRequest, SSEOxyGent, errors
from oxygent_client.testing import FakeTransport, Reply, ToyRemote, answer, close, pause
from oxygent_client.transports.asgi import ASGITransport
from tests.support.virtual import anyio_backend as anyio_backend

URL: Final = "http://127.0.0.1:1"
TIME: Final = "2026-11-28 14:07:54.884348000"


def node(node_id: str, father: str = "", **fields: Any) -> dict[str, Any]:
    """Return a call of a tool as a real server stores it, or the root."""
    stored: dict[str, Any] = {
        "node_id": node_id,
        "callee": "add" if father else "master",
        "node_type": "tool" if father else "agent",
        "father_node_id": father,
        "call_stack": ["user", "master", "add"] if father else ["user", "master"],
        "state": 3,
        "output": "42",
        "create_time": TIME,
        "update_time": TIME,
        "input": {"arguments": {"query": "sum", "city": "Lisbon"} if not father else {"a": 1}},
        "input_md5": node_id,
    }
    return {**stored, **fields}


def view(*nodes: dict[str, Any]) -> Reply:
    """Return a record."""
    return Reply.json({"code": 200, "data": {"nodes": list(nodes)}})


def server(*records: Reply) -> FakeTransport:
    """Return a server with these records, one for each request, the last repeated."""
    views = itertools.chain(records, itertools.repeat(records[-1]))
    return FakeTransport({"/view": views, "/sse/chat": Reply((answer("done"), close()))})


async def restarted(fake: FakeTransport, node_id: str = "tool", **options: Any) -> Any:
    """Return the answer of a restarted run."""
    agent = SSEOxyGent(server_url=URL, transport=fake)
    async with agent.restart("t0", node_id, **options) as run:
        return (await run.final_response()).output


# ------------------------------------------------------------------------------------------------------------- Requests


async def test_the_fields() -> None:
    """The payload has the ids of the run and the call, the output, and the run's callee and arguments."""
    fake = server(view(node("root"), node("tool", "root")))
    assert await restarted(fake, output="99", request=OxyRequest(current_trace_id="t1", arguments={"x": 1})) == "done"
    (payload,) = fake.payloads
    sent = {name: payload.get(name) for name in ("callee", "query", "city", "x", "current_trace_id")}
    assert sent == {"callee": "master", "query": "sum", "city": "Lisbon", "x": None, "current_trace_id": "t1"}
    restart = {name: value for name, value in payload.items() if name.startswith(("restart_", "reference_"))}
    assert restart == {
        "reference_trace_id": "t0",
        "restart_node_id": "tool",
        "restart_node_output": "99",
        "restart_node_order": "",
    }
    assert [request.path for request in fake.requests] == ["/view?item_id=t0", "/sse/chat"]


async def test_the_options_of_a_call() -> None:
    """The headers of the call are sent with the record's request and with the run."""
    fake = server(view(ROOT, TOOL))
    await restarted(fake, output="99", options=CallOptions(headers={"x-user": "ada"}))
    assert [request.headers.get("x-user") for request in fake.requests] == ["ada", "ada"]


async def test_without_an_output() -> None:
    """Without an output the call runs again: no output is sent."""
    fake = server(view(node("root"), node("tool", "root", node_type="llm")))
    await restarted(fake)
    assert fake.payloads[0]["restart_node_output"] == ""


async def test_the_root_of_the_call() -> None:
    """Of several runs in one trace, the callee and the arguments are those of the run that the call belongs to."""
    other = node("other", callee="late", input={"arguments": {"query": "late"}})
    inner = node("inner", "middle", node_type="agent")
    fake = server(view(node("root"), node("middle", "root", node_type="agent"), inner, node("tool", "inner"), other))
    await restarted(fake)
    assert [fake.payloads[0][name] for name in ("callee", "query")] == ["master", "sum"]


async def test_a_circle() -> None:
    """A record whose parent ids form a circle is handled."""
    fake = server(view(node("root"), node("tool", "b"), node("b", "tool", node_type="agent")))
    assert await restarted(fake) == "done"


async def test_a_record_that_lags() -> None:
    """The record is polled for a moment until it has the end of the call."""
    root = node("root")
    running = node("tool", "root", state=None, update_time=None)
    fake = server(view(), view(root), view(root, running), Reply.json({}, status=500), view(root, node("tool", "root")))
    assert await restarted(fake) == "done"


async def test_the_toy() -> None:
    """The events and the answer of a restarted run have the given output."""
    toy = ToyRemote(pace=0)
    agent = SSEOxyGent(server_url=URL, transport=ASGITransport(toy))
    first = await agent.ask("tools")
    record = await agent.lookup(first.trace_id)
    assert record is not None
    call = next(each for each in record.nodes if each.callee == "search_flights")
    async with agent.restart(first.trace_id, call.node_id, output="99") as run:
        types = [event.type async for event in run if isinstance(event, Custom)]
    assert run.response.output == "99 20 HELLO"
    assert types == ["re_run"]
    async with agent.restart(first.trace_id, call.node_id) as again:
        assert (await again.final_response()).output == "5 20 HELLO"


# ----------------------------------------------------------------------------------------------------- Refused restarts

ROOT: Final = node("root")
TOOL: Final = node("tool", "root")
REFUSED: Final[dict[str, tuple[list[dict[str, Any]], str]]] = {
    "no such run": ([], "no call"),
    "no such call": ([ROOT, node("another", "root")], "no call"),
    "an agent": ([ROOT, node("tool", "root", node_type="agent")], "tool"),
    "a call that has not ended": ([ROOT, node("tool", "root", update_time=None)], "end"),
    "a time that is none": ([ROOT, node("tool", "root", update_time="yesterday")], "end"),
    "a run that has not ended": ([node("root", state=None), TOOL], "ended"),
    "two calls with the same arguments": ([ROOT, TOOL, node("twin", "root", input_md5="tool")], "twin"),
}


@pytest.mark.parametrize(("nodes", "word"), REFUSED.values(), ids=REFUSED)
async def test_refused(nodes: list[dict[str, Any]], word: str) -> None:
    """A restart that the server cannot do raises an error within a second, and nothing is sent."""
    fake = server(view(*nodes))
    start = anyio.current_time()
    with pytest.raises(errors.UnknownNodeError, match=word) as caught:
        await restarted(fake, output="99")
    assert anyio.current_time() - start < 1
    assert caught.value.outcome is Outcome.NOT_SENT
    assert fake.payloads == []


async def test_calls_without_a_digest() -> None:
    """A server without digests can restart."""
    fake = server(view(ROOT, node("tool", "root", input_md5=None), node("b", "root", input_md5=None)))
    assert await restarted(fake) == "done"


RECORDLESS: Final[dict[str, tuple[Reply, type[errors.OxyError]]]] = {
    "no records": (Reply.json({"detail": "Not Found"}, status=404), errors.NotFoundError),
    "no connection": (Reply(before=errors.ConnectError("refused")), errors.ConnectError),
    "not a record": (Reply.json({"code": 200, "data": {}}), errors.MalformedResponseError),
    "a server that fails": (Reply.json({}, status=500), errors.ServerError),
    "no answer": (Reply([pause(60)]), errors.DeadlineExceededError),
}


@pytest.mark.parametrize(("reply", "error"), RECORDLESS.values(), ids=RECORDLESS)
async def test_no_record(reply: Reply, error: type[errors.OxyError]) -> None:
    """Without a record nothing is sent, and the error has the reason."""
    fake = server(reply)
    with pytest.raises(error) as caught:
        await restarted(fake)
    assert caught.value.outcome is Outcome.NOT_SENT
    assert fake.payloads == []


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("", "n", None), "trace_id"),
        (("t", "", None), "node_id"),
        (("t", 7, None), "node_id"),
        (("t", "n", ""), "output"),
        (("t", "n", 42), "output"),
    ],
)
def test_arguments(arguments: tuple[Any, Any, Any], name: str) -> None:
    """An invalid argument is refused at once."""
    trace_id, node_id, output = arguments
    with pytest.raises(errors.ConfigurationError, match=name):
        SSEOxyGent(server_url=URL).restart(trace_id, node_id, output=output)


# --------------------------------------------------------------------------------------------- Clusters and cut streams


async def test_over_a_cluster() -> None:
    """The replica that has the run restarts it; a run that this program did not start is unknown."""
    fake = server(view(ROOT, TOOL))
    agent = SSEOxyGent(transport=Cluster([f"{URL}/a", f"{URL}/b"], transport=fake))
    first = await agent.ask("sum")
    home = fake.requests[-1].base_url
    async with agent.restart(first.trace_id, "tool", output="99") as run:
        await run.final_response()
    assert [request.base_url for request in fake.requests] == [home] * 3
    with pytest.raises(errors.ConfigurationError, match="trace_id"):
        agent.restart("another", "tool")


async def test_a_restart_whose_stream_is_cut() -> None:
    """The answer is recovered from the record of the new run, for any node id of its root."""
    replies = iter([view(ROOT, TOOL), view(node("root", output="from the record"))])
    fake = FakeTransport({"/view": replies, "/sse/chat": Reply((answer("early"),))})
    assert await restarted(fake, output="99") == "from the record"
