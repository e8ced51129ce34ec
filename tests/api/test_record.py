"""The server's record of a run (rule 16 of the contract): state, output and nodes, without secrets.

Rule 1: an invalid record is an error in `parse_record`, and None in `look_until`.
Rule 2: time is virtual.
"""

from __future__ import annotations

import json
import logging
import pickle
from contextlib import suppress
from typing import Any, Final

import anyio
import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import Cluster, HTTPRequest, Limits, OxyError, OxyState, Transport, errors
from oxygent_client._api.records import RunNode, RunRecord, look_until
from oxygent_client._core.transport import Context
from oxygent_client._protocol.responses import parse_envelope
from oxygent_client._protocol.run_record import parse_record
from oxygent_client.testing import FakeTransport, Reply, ToyRemote, pause
from oxygent_client.transports.asgi import ASGITransport
from tests.support.virtual import anyio_backend as anyio_backend

SECRET: Final = "hunter2"
LIMITS: Final = Limits()
NOTHING: Final = RunRecord(None, None, ())
PATTERN: Final = HTTPRequest("GET", "http://remote.test/base?key=1", "", context=Context(purpose="run"))


def node(node_id: str, father: str = "", **fields: Any) -> dict[str, Any]:
    """Return a node as a real server stores it, with secrets."""
    stored: dict[str, Any] = {
        "node_id": node_id,
        "caller": "user",
        "callee": "master",
        "node_type": "agent",
        "father_node_id": father,
        "call_stack": ["user", "master"],
        "shared_data": {"_headers": {"authorization": SECRET}},
        "input": {"arguments": {"query": SECRET}},
        "output": None,
        "state": None,
    }
    return {**stored, **fields}


def under(node_id: str, father: str, **fields: Any) -> dict[str, Any]:
    """Return a node below another."""
    return node(node_id, father, call_stack=["user", "master", "tool"], **fields)


# -------------------------------------------------------------------------------------------------------------- Records

RUNS: Final[list[tuple[list[dict[str, Any]], str, tuple[OxyState | None, Any]]]] = [
    # the nodes, the node id of the run: its state and output
    ([], "", (None, None)),
    ([node("r")], "", (None, None)),
    ([node("r", state=3, output="hi")], "", (OxyState.COMPLETED, "hi")),
    ([node("r", state=4, output="Error")], "", (OxyState.FAILED, "Error")),
    ([node("r", state=7, output="cancelled")], "", (OxyState.CANCELED, "cancelled")),
    ([node("r", state=2)], "", (OxyState.RUNNING, None)),
    # The caller sent a parent of its own.
    ([node("r", "mine", state=3, output="hi"), under("t", "r", state=4, output="no")], "", (OxyState.COMPLETED, "hi")),
    # In any order; a call whose parent is not stored yet is no root.
    ([under("t", "r", state=4), node("r", state=3, output="hi")], "", (OxyState.COMPLETED, "hi")),
    ([node("r"), under("t", "not yet", state=3, output="no")], "", (None, None)),
    # Several runs in one trace: the latest, or the one of the node id.
    ([node("a", state=3, output="old"), node("b")], "", (None, None)),
    ([node("a", state=3, output="old"), node("b")], "a", (OxyState.COMPLETED, "old")),
    ([node("a", state=3, output="old"), under("t", "a", state=4, output="in")], "t", (OxyState.FAILED, "in")),
]


@pytest.mark.parametrize(("nodes", "meant", "expected"), RUNS)
def test_state_and_output(nodes: list[Any], meant: str, expected: tuple[OxyState | None, Any]) -> None:
    """State and output are those of the root, and all nodes are kept in order."""
    found = parse_record({"nodes": nodes, "trace_id": "t"}, node_id=meant)
    assert (*expected, [each["node_id"] for each in nodes]) == (
        found.state,
        found.output,
        [each.node_id for each in found.nodes],
    )


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        pytest.param(NOTHING, "<RunRecord no end, 0 calls: none>", id="no record"),
        pytest.param(
            parse_record({"nodes": [node("r", state=3)] + [under(f"t{n}", "r", callee="tool") for n in range(5)]}),
            "<RunRecord COMPLETED, 6 calls: master, tool, tool, tool, tool, and 1 more>",
            id="many calls",
        ),
    ],
)
def test_repr(record: RunRecord, shown: str) -> None:
    """The repr has the state and the callees; it shows no output and no argument."""
    assert repr(record) == shown


def test_another_run_of_the_trace() -> None:
    """Another run of the same trace is ignored."""
    assert parse_record({"nodes": [node("a", state=3, output="old")]}, node_id="b") == NOTHING


def test_a_node() -> None:
    """A node keeps the data of its call without arguments and headers."""
    found = parse_record({"nodes": [node("r", "f", state=3, output={"a": SECRET}, call_stack=["user", 7, "master"])]})
    kept = RunNode(
        node_id="r",
        caller="user",
        callee="master",
        node_type="agent",
        father_node_id="f",
        call_stack=("user", "master"),
        state=OxyState.COMPLETED,
        output={"a": SECRET},
    )
    assert found.nodes == (kept,)
    assert SECRET not in repr(found)


TIMES: Final[dict[str, tuple[str, str, float | None]]] = {
    "as stored": ("2026-11-28 14:07:54.884348000", "2026-11-28 14:07:55.134348000", 0.25),
    "in another time zone": ("2026-11-28T14:07:54+02:00", "2026-11-28T14:07:55+02:00", 1.0),
    "running": ("2026-11-28 14:07:54.884348000", "", None),
    "nonsense": ("yesterday", "2026-11-28 14:07:54", None),
}


@pytest.mark.parametrize(("begun", "ended", "seconds"), TIMES.values(), ids=TIMES)
def test_the_times_of_a_call(begun: str, ended: str, seconds: float | None) -> None:
    """A call has the stored times, and its duration if both are known."""
    row = node("r", create_time=begun, update_time=ended)
    assert parse_record({"nodes": [row]}).nodes[0].seconds == seconds


INPUTS: Final[dict[str, tuple[Any, dict[str, Any]]]] = {
    "as stored": ('{"class_attr": {"api_key": "hunter2"}, "arguments": {"a": 1}}', {"a": 1}),
    "an object": ({"arguments": {"a": 1}}, {"a": 1}),
    "no arguments": ("{}", {}),
    "of another type": ({"arguments": [1]}, {}),
    "no JSON": ("nonsense", {}),
    "too deep": ("[" * 10_000, {}),
    "none": (None, {}),
}


@pytest.mark.parametrize(("stored", "expected"), INPUTS.values(), ids=INPUTS)
def test_the_arguments_of_a_call(stored: Any, expected: dict[str, Any]) -> None:
    """The arguments of a call are read on request and not shown; the settings of the callee are dropped."""
    rows = {"nodes": [node("r", input=stored)]}
    found = parse_record(rows, with_arguments=True)
    assert found.nodes[0].arguments == expected
    assert parse_record(rows).nodes[0].arguments == {}
    assert SECRET not in f"{found!r} {attrs.asdict(found)}"
    assert isinstance(hash(found.nodes[0]), int)


def test_finding_a_call() -> None:
    """A call is found by its node id; the root is the call of the run."""
    found = parse_record({"nodes": [node("r"), under("t", "r")]})
    assert found.find("t") == found.nodes[1]
    assert found.find("another") is None
    assert found.root == found.nodes[0]


def at(second: int, node_id: str, father: str = "", **fields: Any) -> dict[str, Any]:
    """Return a call that began at this second and took one."""
    times = {"create_time": f"2026-01-01 00:00:{second:02}", "update_time": f"2026-01-01 00:00:{second + 1:02}"}
    return node(node_id, father, **{"callee": node_id, "state": 3, **times, **fields})


TREES: Final[dict[str, tuple[list[dict[str, Any]], list[tuple[str, int | None, int]]]]] = {
    "in the order of their starts": (
        [at(0, "r"), at(5, "b", "r"), at(3, "a", "r"), at(4, "c", "a")],
        [("r", None, 0), ("a", 0, 1), ("c", 1, 2), ("b", 0, 1)],
    ),
    "a father that began later": ([at(9, "r"), at(3, "a", "r")], [("r", None, 0), ("a", 0, 1)]),
    "without times": (
        [node("r", callee="r"), node("a", "r", callee="a"), at(1, "b", "r")],
        [("r", None, 0), ("b", 0, 1), ("a", 0, 1)],
    ),
    "a father of the caller's": ([at(0, "r", "mine")], [("r", None, 0)]),
    "a circle beside the root": (
        [at(0, "r"), at(1, "a", "b"), at(2, "b", "a")],
        [("r", None, 0), ("b", None, 0), ("a", 1, 1)],
    ),
}


@pytest.mark.parametrize(("nodes", "expected"), TREES.values(), ids=TREES)
def test_the_trace_of_a_record(nodes: list[dict[str, Any]], expected: list[tuple[str, int | None, int]]) -> None:
    """Each call is below its parent, for any order of the nodes."""
    trace = parse_record({"nodes": nodes, "trace_id": "t"}).trace()
    assert [(call.name, call.parent, call.depth) for call in trace.calls] == expected


FATES: Final[list[tuple[int | None, int | None, str, str]]] = [
    # the states of the root and of its call; the status and the error of the call
    (3, 3, "completed", ""),
    (3, 4, "failed", "out"),
    (7, 7, "canceled", "out"),
    (3, 6, "skipped", "out"),
    (3, None, "lost", ""),
    (None, None, "running", ""),
    (2, 5, "running", ""),
    (3, 1, "lost", ""),
]


@pytest.mark.parametrize(("root", "call", "status", "error"), FATES)
def test_the_status_of_a_call(root: int | None, call: int | None, status: str, error: str) -> None:
    """The status of a call depends on its state, and on whether the run is over."""
    trace = parse_record({"nodes": [at(0, "r", state=root), at(1, "a", "r", state=call, output="out")]}).trace()
    assert (trace.calls[1].status, trace.calls[1].error) == (status, error)


def test_the_values_of_a_trace() -> None:
    """Arguments and outputs are redacted; times are seconds since the run began."""
    values = {"arguments": {"query": f"Bearer {'x' * 20}", "password": SECRET}}
    row = at(2, "r", input=values, output=f"Bearer {'y' * 20}")
    trace = parse_record({"nodes": [row], "trace_id": "t"}, with_arguments=True).trace()
    (call,) = trace.calls
    assert call.arguments == {"query": "Bearer [scrubbed]", "password": "[scrubbed]"}
    assert (call.output, call.started, call.ended) == ("Bearer [scrubbed]", 0.0, 1.0)
    assert (trace.remote_trace_id, trace.seconds, trace.output) == ("t", 1.0, "Bearer [scrubbed]")


def test_arguments_that_are_too_deep_to_search() -> None:
    """Arguments that are too deep to search are left out of the trace."""
    deep = json.loads("[" * 200 + "]" * 200)
    record = parse_record({"nodes": [at(0, "r", input={"arguments": {"a": deep}})]}, with_arguments=True)
    assert record.trace().calls[0].arguments == {}


def test_the_trace_of_no_run() -> None:
    """A record without nodes has no calls."""
    trace = NOTHING.trace()
    assert (trace.calls, trace.status, trace.seconds) == ((), "lost", None)


async def test_the_credentials_of_a_lookup() -> None:
    """The secrets of the record's request are redacted in its trace, and are not pickled."""
    headers = {"authorization": f"Bearer {SECRET}-42"}
    template = HTTPRequest("GET", "http://remote.test", "", headers)
    node = at(0, f"r-{SECRET}-42", output=f"you sent {SECRET}-42", node_type=f"{SECRET}-42")
    transport = FakeTransport({"/view": stored(node)})
    record = await look_up(transport, template, "t", LIMITS, until=anyio.current_time() + 5)
    assert record is not None
    assert record.trace().output == "you sent [scrubbed]"
    assert f"{SECRET}-42" not in record.trace().report()
    assert f"{SECRET}-42" in pickle.loads(pickle.dumps(record)).trace().output


def test_missing_fields() -> None:
    """Missing fields of a node, or those of another type, are empty."""
    found = parse_record({"nodes": [{"node_id": "r", "caller": 7, "call_stack": "user"}]})
    kept = RunNode(
        node_id="r", caller="", callee="", node_type="", father_node_id="", call_stack=(), state=None, output=None
    )
    assert RunRecord(None, None, (kept,)) == found


# ------------------------------------------------------------------------------------------------------ Invalid records

STATES: Final[list[Any]] = ["3", 3.0, float("nan"), True, [3], {}, 0, 8, -1, 10**4000]
NONSENSE: Final[list[tuple[dict[str, Any], type[OxyError]]]] = [
    ({}, errors.MalformedResponseError),
    ({"nodes": None}, errors.MalformedResponseError),
    ({"nodes": {"r": node("r")}}, errors.MalformedResponseError),
    ({"nodes": [None]}, errors.MalformedResponseError),
    ({"nodes": [["r"]]}, errors.MalformedResponseError),
    ({"nodes": [{}]}, errors.MalformedResponseError),
    ({"nodes": [node("")]}, errors.MalformedResponseError),
    ({"nodes": [{**node("r"), "node_id": 7}]}, errors.MalformedResponseError),
    ({"nodes": [node("a", "b"), node("b", "a")]}, errors.MalformedResponseError),
    ({"nodes": [node("r", "r")]}, errors.MalformedResponseError),
    *(({"nodes": [node("r", state=state)]}, errors.MalformedResponseError) for state in STATES),
    ({"nodes": [node(str(n)) for n in range(11)]}, errors.TooLargeError),
]


@pytest.mark.parametrize(("data", "error"), NONSENSE)
def test_invalid_records(data: dict[str, Any], error: type[OxyError]) -> None:
    """An invalid record raises a typed error without the record's text."""
    with pytest.raises(error) as caught:
        parse_record(data, Limits(nodes=10))
    assert SECRET not in str(caught.value)


@pytest.mark.seconds
def test_many_nodes() -> None:
    """Nodes up to the limit, each below the one before, are read without recursion."""
    chain = [node(str(n), str(n - 1), state=3, output=n) for n in range(LIMITS.nodes)]
    assert parse_record({"nodes": chain}).output == 0


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["nodes", "node_id", "father_node_id", "state", "call_stack", "output"]), inner, max_size=6
        )
    ),
    max_leaves=20,
)


@given(st.lists(JSON, max_size=5) | JSON, st.text(max_size=2))
def test_any_response(nodes: Any, meant: str) -> None:
    """Any response is a record or raises a typed error."""
    body = json.dumps({"code": 200, "data": {"nodes": nodes}}).encode()
    with suppress(OxyError):
        assert isinstance(parse_record(parse_envelope(body), node_id=meant), RunRecord)


# ------------------------------------------------------------------------------------------------------------- Requests


def stored(*nodes: dict[str, Any]) -> Reply:
    """Return a server with this `/view`."""
    return Reply.json({"code": 200, "message": "SUCCESS", "data": {"nodes": list(nodes), "trace_id": "t"}})


async def look_up(*asked: Any, until: float, node_id: str = "") -> RunRecord | None:
    """Return the result of one record check."""
    now = anyio.current_time()
    return await look_until(lambda _: True, *asked, until=now, first_until=until, node_id=node_id)


async def test_the_request() -> None:
    """A record check is one GET for the trace id, idempotent and with a deadline."""
    transport = FakeTransport({"/view": stored(node("r", state=3, output="hi"))})
    until = anyio.current_time() + 5
    found = await look_up(transport, PATTERN, "a b&c=/ü\udc80", LIMITS, until=until, node_id="r")
    assert found is not None
    assert found.state is OxyState.COMPLETED
    assert found.output == "hi"
    (sent,) = transport.requests
    assert sent.method == "GET"
    assert sent.url == "http://remote.test/base/view?item_id=a%20b%26c%3D%2F%C3%BC%ED%B2%80&key=1"
    assert sent.body == b""
    assert sent.context == Context(
        purpose="discover",
        trace_id="a b&c=/ü\udc80",
        deadline=until,
        idempotent=False,
        node_id="r",
        server_url=PATTERN.base_url,
    )


async def test_a_server_without_this_run() -> None:
    """A server that stores runs, but not this one, returns a record without state."""
    assert await look_up(FakeTransport({"/view": stored()}), PATTERN, "t", LIMITS, until=anyio.current_time() + 5) == (
        NOTHING
    )


DEEP: Final = b'{"code": 200, "data": {"nodes": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
SILENCES: Final = {
    "no such path": Reply.json({"detail": "Not Found"}, status=404),
    "a server that failed": Reply([b"Internal Server Error"], status=500),
    "an error in a 200": Reply.json({"code": 400, "message": SECRET, "data": {}}),
    "a page": Reply([b"<html>"]),
    "not UTF-8": Reply([b"\xff"]),
    "no object": Reply.json([]),
    "no data": Reply.json({"code": 200}),
    "no nodes": Reply.json({"code": 200, "data": {}}),
    "a state of text": stored(node("r", state="3")),
    "too deep": Reply([DEEP]),
    "too large": Reply([b" " * 20_000] * 500),
    "too slow": Reply([pause(60)]),
    "too many digits": Reply([b'{"code": 200, "data": {"nodes": [{"node_id": "r", "state": %s}]}}' % (b"9" * 5000)]),
    "no connection": Reply(before=errors.ConnectError("refused")),
    "a lost connection": Reply([b"{", errors.ConnectionLostError("reset")]),
}


@pytest.mark.parametrize("reply", SILENCES.values(), ids=SILENCES.keys())
async def test_no_record(reply: Reply, caplog: pytest.LogCaptureFixture) -> None:
    """If a server gives no record in time, the result is None and the reason is logged."""
    with caplog.at_level(logging.DEBUG, "oxygent_client"):
        start = anyio.current_time()
        assert await look_up(FakeTransport({"/view": reply}), PATTERN, "t", LIMITS, until=start + 5) is None
    assert anyio.current_time() <= start + 5
    assert [vars(line)["event"] for line in caplog.records] == ["debug"]
    assert caplog.records[0].getMessage().startswith("discover t at http://remote.test/base: ")


async def test_cancellation() -> None:
    """A record check can be cancelled."""
    with anyio.move_on_after(1) as scope:
        await look_up(
            FakeTransport({"/view": Reply([pause(60)])}), PATTERN, "t", LIMITS, until=anyio.current_time() + 5
        )
    assert scope.cancelled_caught


# ------------------------------------------------------------------------------------------------------- The toy remote


async def test_the_toy() -> None:
    """The toy remote's record of a run is first running, then completed, with all calls."""
    root = HTTPRequest("GET", "http://remote.test", "")
    transport = ASGITransport(ToyRemote())
    body = json.dumps({"query": "trip", "current_trace_id": "t", "node_id": "r", "shared_data": {"key": SECRET}})
    async with transport.exchange(HTTPRequest("POST", root.base_url, "/async/chat", body=body.encode())):
        pass
    seen: list[tuple[OxyState | None, int]] = []
    for _ in range(2):
        found = await look_up(transport, root, "t", LIMITS, until=anyio.current_time() + 5, node_id="r")
        assert found is not None
        assert SECRET not in str(found)
        seen.append((found.state, len(found.nodes)))
        await anyio.sleep(60)
    assert seen == [(None, 1), (OxyState.COMPLETED, 10)]
    without = ASGITransport(ToyRemote(records=False))
    assert await look_up(without, root, "t", LIMITS, until=anyio.current_time() + 5) is None


@pytest.mark.parametrize("transport", [FakeTransport({}), Cluster(["http://a.test"], transport=FakeTransport({}))])
async def test_a_run_that_was_not_sent(transport: Transport) -> None:
    """With several servers no record is requested for a run that was sent to none."""
    pattern, began = attrs.evolve(PATTERN, base_url=""), anyio.current_time()
    asked = await look_until(bool, transport, pattern, "t", LIMITS, until=began + 5, node_id="n")
    assert asked is None
    assert anyio.current_time() == began
