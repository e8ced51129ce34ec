"""Discovery: organization, description and agent names, and the callee of a run (rule 7 of the contract).

Rule 1: only the organization is required, and nothing in it is trusted.
Rule 2: a name that is known needs no further request, and a plain call none at all.
"""

from __future__ import annotations

import copy
import logging
import math
import pickle
import re
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from oxygent_client import Limits, Outcome, SSEOxyGent, Timeouts, errors
from oxygent_client._api.catalog import NO_LIST_SECONDS, RemoteCatalog
from oxygent_client._api.discovery import UNKNOWN, CatalogEntry, RemoteInfo
from oxygent_client._core.ids import new_id
from oxygent_client._protocol.documents import KnownAgents
from oxygent_client.cluster import Cluster
from oxygent_client.testing import FakeTransport, Reply, answer, close, pause
from tests.support.plain import plain
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping


URL: Final = "https://user:secret@remote.test/base?token=secret"
ORGANIZATION: Final = {
    "name": "master",
    "type": "agent",
    "children": [
        {"name": "flights", "type": "agent", "children": [{"name": "search", "type": "tool"}]},
        {"name": "add_up", "type": "tool", "extra": {"children": "no member"}},
    ],
}


def data(**members: Any) -> Reply:
    """Return an envelope with these data."""
    return Reply.json({"code": 200, "message": "SUCCESS", "data": members})


TREE: Final = data(id_dict={}, organization=ORGANIZATION)
LISTED: Final = data(agents=[{"name": "master"}, {"name": "hidden"}, {"name": ""}, {"no": "name"}, "text", 7])
ANSWER: Final = Reply([answer("42"), close()])


def remote(replies: Mapping[str, Reply]) -> FakeTransport:
    """Return a remote that answers runs and these documents."""
    return FakeTransport({"/sse/chat": ANSWER, **{f"/{name}": reply for name, reply in replies.items()}})


def paths(transport: FakeTransport) -> list[str]:
    """Return the paths of its requests."""
    return [request.path.removeprefix("/") for request in transport.requests]


ALL: Final = ["get_organization", "get_description", "get_agents"]


# ----------------------------------------------------------------------------------------------------------------- init


async def test_init() -> None:
    """`init` stores the organization unchanged, the description and all names, with one request for each in order."""
    transport = remote({"get_organization": TREE, "get_description": data(description="plans"), "get_agents": LISTED})
    agent = plain(server_url=URL, transport=transport, headers={"x-a": "1"})
    await agent.init()
    assert agent.org == ORGANIZATION
    assert agent.desc == "plans"
    assert paths(transport) == ALL
    assert [(each.method, each.body, each.headers["x-a"]) for each in transport.requests] == [("GET", b"", "1")] * 3
    assert transport.requests[2].url == f"{URL.partition('?')[0]}/get_agents?token=secret"
    org = agent.get_org()
    assert org == [
        {
            "name": "flights",
            "type": "agent",
            "is_remote": True,
            "children": [{"name": "search", "type": "tool", "is_remote": True}],
        },
        {"name": "add_up", "type": "tool", "extra": {"children": "no member"}, "is_remote": True},
    ]
    org[0]["children"].clear()
    assert (agent.org, len(agent.get_org()[0]["children"])) == (ORGANIZATION, 1), "it was a copy"


DOCUMENTS: Final[dict[str, tuple[dict[str, Reply], Any, str, int]]] = {
    # the remote's replies: (its documents, the error or None, the description, how many children)
    "organization only": ({"get_organization": TREE}, None, "", 2),
    "no agents (a real server)": (
        {
            "get_organization": data(id_dict={}, organization={"path": [""]}),
            "get_description": Reply([b"Internal Server Error"], status=500),
        },
        None,
        "",
        0,
    ),
    "empty": ({"get_organization": data(organization={})}, None, "", 0),
    "description is no text": ({"get_organization": TREE, "get_description": data(description=[1])}, None, "", 2),
    "description is missing": ({"get_organization": TREE, "get_description": data()}, None, "", 2),
    "description is refused": (
        {"get_organization": TREE, "get_description": Reply.json({"code": 500, "message": "no"})},
        None,
        "",
        2,
    ),
    "agents are no list": ({"get_organization": TREE, "get_agents": data(agents={"a": 1})}, None, "", 2),
    "agents are refused": ({"get_organization": TREE, "get_agents": Reply(status=403)}, None, "", 2),
    "nothing": ({}, errors.NotFoundError, "", 0),
    "401": ({"get_organization": Reply(status=401)}, errors.AuthenticationError, "", 0),
    "302": ({"get_organization": Reply(status=302, headers={"location": "/login"})}, errors.RedirectError, "", 0),
    "500": ({"get_organization": Reply(status=500)}, errors.ServerError, "", 0),
    "refused": ({"get_organization": Reply(before=errors.ConnectError("no"))}, errors.ConnectError, "", 0),
    "broken off": (
        {"get_organization": Reply([b"{", errors.ConnectionLostError("x")])},
        errors.ConnectionLostError,
        "",
        0,
    ),
    "no JSON": ({"get_organization": Reply([b"<html>"])}, errors.MalformedResponseError, "", 0),
    "half of it": ({"get_organization": Reply([TREE.steps[0][:50]])}, errors.MalformedResponseError, "", 0),  # type: ignore[index]  # pyright: ignore[reportIndexIssue, reportUnknownArgumentType]  (the step is bytes)
    "no UTF-8": ({"get_organization": Reply([b'{"code": "\xff"}'])}, errors.MalformedResponseError, "", 0),
    "no object": ({"get_organization": Reply.json([1])}, errors.MalformedResponseError, "", 0),
    "no envelope": ({"get_organization": Reply.json(ORGANIZATION)}, errors.EnvelopeError, "", 0),
    "an error": ({"get_organization": Reply.json({"code": 400, "message": "no"})}, errors.EnvelopeError, "", 0),
    "no data": ({"get_organization": Reply.json({"code": 200})}, errors.MalformedResponseError, "", 0),
    "no tree": ({"get_organization": data(organization=[])}, errors.MalformedResponseError, "", 0),
    "children null": (
        {"get_organization": data(organization={"children": None})},
        errors.MalformedResponseError,
        "",
        0,
    ),
    "children texts": (
        {"get_organization": data(organization={"children": [{"children": ["x"]}]})},
        errors.MalformedResponseError,
        "",
        0,
    ),
    "too many members": (
        {"get_organization": data(organization={"children": [{}] * 100})},
        errors.TooLargeError,
        "",
        0,
    ),
    "too deep": (
        {"get_organization": Reply([b'{"code":200,"data":{"organization":' + b"[" * 99 + b"]" * 99 + b"}}"])},
        errors.TooLargeError,
        "",
        0,
    ),
    "too many bytes": ({"get_organization": Reply([b" " * 5000] * 10)}, errors.TooLargeError, "", 0),
    "description broken": (
        {"get_organization": TREE, "get_description": Reply([b"{"])},
        errors.MalformedResponseError,
        "",
        0,
    ),
}
LIMITS: Final = Limits(nodes=99, depth=50, body_bytes=20_000)


@pytest.mark.parametrize("which", DOCUMENTS)
async def test_documents(which: str) -> None:
    """An optional document may be missing; an invalid one raises a typed error and leaves the agent unchanged."""
    documents, expected, description, children = DOCUMENTS[which]
    agent = plain(server_url=URL, transport=(transport := remote(documents)), limits=LIMITS)
    got = None
    try:
        await agent.init()
    except errors.OxyError as error:
        got = error
    assert (type(got) if got else None) == expected
    assert "secret" not in f"{got} {got!r}"
    assert agent.desc == description
    assert len(agent.get_org()) == children
    assert transport.requests == transport.left
    if got is None:  # it can still run
        assert (await agent.ask("hi")).output == "42"


async def test_a_large_organization() -> None:
    """A wide and deep organization within the limits is copied and marked whole."""
    tree: dict[str, Any] = {}
    for _ in range(40):
        tree = {"name": "x", "children": [tree, {"name": "leaf"}]}
    agent = plain(server_url=URL, transport=remote({"get_organization": data(organization=tree)}))
    await agent.init()
    count, waiting = 0, agent.get_org()
    while waiting:
        node = waiting.pop()
        count += node["is_remote"]
        waiting += node.get("children", [])
    assert count == 80


# --------------------------------------------------------------------------------------------------------------- Callee

UNLISTED: Final = {"get_organization": TREE}
KNOWN: Final = {"get_organization": TREE, "get_agents": LISTED}
NO_NAME: Final = "organization"
NO_WORD: Final = "discovery"

CALLEES: Final[dict[str, tuple[Mapping[str, Reply], dict[str, Any], bool, Any, list[str], list[str]]]] = {
    # case: (the documents, the agent's options, whether `init` was called, the callee of the run or the error, the
    # logged warning, the requests of two runs)
    "local name, no init": (KNOWN, {"name": "search"}, False, None, [], []),
    "local name, shown": (KNOWN, {"name": "search"}, True, "search", [], []),
    "local name, listed": (KNOWN, {"name": "hidden"}, True, "hidden", [], []),
    "local name, not shown": (KNOWN, {"name": "mine"}, True, None, [], []),
    "in the organization": (UNLISTED, {"callee": "search"}, False, "search", [], ALL),
    "the root": (UNLISTED, {"callee": "master"}, False, "master", [], ALL),
    "not in the organization": (UNLISTED, {"callee": "hidden"}, False, "hidden", [NO_NAME], ALL),
    "in the list": (KNOWN, {"callee": "hidden"}, False, "hidden", [], ALL),
    "in the organization, not in the list": (KNOWN, {"callee": "add_up"}, False, "add_up", [], ALL),
    "nowhere": (KNOWN, {"callee": "nobody"}, False, errors.UnknownCalleeError, [], ALL * 2),
    "nowhere, after init": (KNOWN, {"callee": "nobody"}, True, errors.UnknownCalleeError, [], ALL * 2),
    "nowhere, unchecked": (KNOWN, {"callee": "nobody", "check_callee": False}, False, "nobody", [], []),
    "empty list": (
        {"get_organization": data(organization={}), "get_agents": data(agents=[])},
        {"callee": "nobody"},
        False,
        errors.UnknownCalleeError,
        [],
        ALL * 2,
    ),
    "nothing is said": ({}, {"callee": "x"}, False, "x", [NO_WORD, NO_NAME], ["get_organization"] * 2),
    "broken JSON": (
        {"get_organization": Reply([b"{"])},
        {"callee": "x"},
        False,
        "x",
        [NO_WORD, NO_NAME],
        ["get_organization"] * 2,
    ),
    "forbidden": (
        {"get_organization": Reply(status=403)},
        {"callee": "x"},
        False,
        "x",
        [NO_WORD, NO_NAME],
        ["get_organization"] * 2,
    ),
    "hostile": (
        {"get_organization": data(organization=3)},
        {"callee": "x"},
        False,
        "x",
        [NO_WORD, NO_NAME],
        ["get_organization"] * 2,
    ),
    "no remote": (
        {"get_organization": Reply(before=errors.ConnectError("no"))},
        {"callee": "x"},
        False,
        errors.ConnectError,
        [],
        ["get_organization"] * 2,
    ),
}


@pytest.mark.parametrize("which", CALLEES)
async def test_the_callee_of_a_run(which: str, caplog: pytest.LogCaptureFixture) -> None:
    """The local name is the callee only if discovery found it; an explicit callee unless the remote's list lacks it."""
    documents, options, inits, expected, warnings, gets = CALLEES[which]
    transport = remote(documents)
    agent = plain(server_url=URL, transport=transport, **options)
    if inits:
        await agent.init()
    asked = len(transport.requests)
    assert asked == 3 * inits
    with caplog.at_level(logging.WARNING, "oxygent_client"):
        for _ in range(2):
            if isinstance(expected, type):
                with pytest.raises(errors.OxyError) as caught:
                    await agent.ask("hi")
                assert type(caught.value) is expected
                assert caught.value.outcome is Outcome.NOT_SENT
            else:
                await agent.ask("hi")
                assert transport.payloads[-1].get("callee") == expected
    said = [record.getMessage() for record in caplog.records]
    assert [True] * len(warnings) == [word in text for text, word in zip(said[: len(warnings)], warnings, strict=True)]
    assert bool(warnings) == bool(said)
    assert "secret" not in "".join(said)
    assert [path for path in paths(transport)[asked:] if path != "sse/chat"] == gets


@pytest.mark.parametrize(
    ("documents", "names"),
    [
        (KNOWN, ["add_up", "flights", "hidden", "master", "search"]),
        ({"get_organization": data(organization={}), "get_agents": data(agents=[])}, []),
        (
            {
                "get_organization": data(organization={}),
                "get_agents": data(agents=[{"name": f"agent {n:02}"} for n in range(20)]),
            },
            [f"agent {n:02}" for n in range(10)],
        ),
    ],
    ids=["some", "none", "many"],
)
async def test_an_unknown_callee(documents: Mapping[str, Reply], names: list[str]) -> None:
    """The error has the callee, and up to ten agents of the remote."""
    with pytest.raises(errors.UnknownCalleeError) as caught:
        await plain(server_url=URL, transport=remote(documents), callee="nobody").ask("hi")
    assert re.findall(r"'([^']+)'", str(caught.value)) == ["nobody", *names]


async def test_concurrent_runs_share_discovery() -> None:
    """Twenty concurrent runs that need discovery share one; the others wait for it."""
    slow = Reply(TREE.steps, before=pause(5))
    transport = remote({"get_organization": slow, "get_agents": LISTED})
    agent = plain(server_url=URL, transport=transport, callee="hidden")
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(agent.ask, "hi")
    assert paths(transport)[:3] == ALL
    assert paths(transport)[3:].count("sse/chat") == 20


async def test_a_cancelled_discovery() -> None:
    """If the run that does discovery is cancelled, a waiting run does it."""
    replies = [Reply(before=pause(math.inf)), TREE]
    transport = FakeTransport({"/get_organization": replies, "/get_agents": LISTED, "/sse/chat": ANSWER})
    agent = plain(server_url=URL, transport=transport, callee="hidden")
    with anyio.move_on_after(1) as scope:
        await agent.ask("hi")
    assert scope.cancelled_caught
    assert (await agent.ask("hi")).output == "42"
    assert paths(transport) == ["get_organization", *ALL, "sse/chat"]


async def test_the_server_url_in_an_error() -> None:
    """The error of `init` has the server's URL, without user information and query."""
    agent = plain(server_url="https://me:pw@h/p?key=1", transport=FakeTransport({}))
    with pytest.raises(errors.NotFoundError) as caught:
        await agent.init()
    assert caught.value.server_url == "https://h/p"


async def test_init_again() -> None:
    """`init` always sends its requests, and their results replace the earlier ones."""
    replies = [TREE, data(organization={"name": "other"})]
    transport = FakeTransport({"/get_organization": replies, "/sse/chat": ANSWER})
    agent = plain(server_url=URL, transport=transport, name="other")
    for callee in (None, "other"):
        await agent.init()
        await agent.ask("hi")
        assert transport.payloads[-1].get("callee") == callee


def test_copies() -> None:
    """A catalog is copied and pickled with its content, without live objects."""
    directory, here = RemoteCatalog(), frozenset({URL})
    assert not directory.knows("x", here)
    agents = KnownAgents(frozenset({"x"}), complete=True)
    directory.entry = CatalogEntry(RemoteInfo(organization={"a": 1}, description="d", agents=agents), here, 0.0)
    clones: list[RemoteCatalog] = [copy.deepcopy(directory), pickle.loads(pickle.dumps(directory))]
    for clone in clones:
        assert clone.entry == directory.entry
        assert clone.entry is not directory.entry
        assert clone.knows("x", here)
        assert not clone.knows("y", here)
    assert RemoteInfo(organization={}, description="", agents=KnownAgents(frozenset(), complete=False)) == UNKNOWN


# --------------------------------------------------------------------------------------------------- Scope and lifetime

HERE: Final = "http://localhost:8082/base"
ELSEWHERE: Final[dict[str, tuple[dict[str, Any], str | None]]] = {
    # assignments after `init`, the callee of the next run
    "another port": ({"server_url": "http://localhost:8083/base"}, None),
    "another path": ({"server_url": "http://localhost:8082/other"}, None),
    "another address": ({"server_url": "http://127.0.0.2:8082/base"}, None),
    "another spelling": ({"server_url": "http://me:pw@LOCALHOST:8082/base/"}, "search"),
    "a cluster": ({"server_url": "", "of": ["http://localhost:8083"]}, None),
    "a cluster with it": ({"server_url": "", "of": ["http://localhost:8083", HERE]}, "search"),
}


@pytest.mark.parametrize("which", ELSEWHERE)
async def test_a_discovery_belongs_to_its_server(which: str) -> None:
    """A name found at one server is not sent to another, and is sent to the first again."""
    assigned, callee = ELSEWHERE[which]
    transport = remote(KNOWN)
    agent = plain(server_url=HERE, transport=transport, name="search")
    await agent.init()
    agent.transport = Cluster(assigned["of"], transport=transport) if "of" in assigned else transport
    agent.server_url = assigned["server_url"]
    await agent.ask("hi")
    assert transport.payloads[-1].get("callee") == callee
    agent.transport, agent.server_url = transport, HERE
    await agent.ask("hi")
    assert transport.payloads[-1].get("callee") == "search"


async def test_the_members_of_a_cluster_change() -> None:
    """The catalog of a cluster is valid while one of its members stays."""
    transport = remote(KNOWN)
    cluster = Cluster([HERE, "http://b"], transport=transport)
    agent = plain(transport=cluster, name="search")
    await agent.init()
    sent: list[str | None] = []
    for members in (["http://b", "http://c"], ["http://c"]):
        cluster.set_members(members)
        await agent.ask("hi")
        sent.append(transport.payloads[-1].get("callee"))
    assert sent == ["search", None]


async def test_an_explicit_callee_is_checked_at_each_server() -> None:
    """After `server_url` changed, the next run does discovery at the new server."""
    transport = remote(KNOWN)
    agent = plain(server_url=HERE, transport=transport, callee="search")
    for url in (HERE, HERE, "http://b"):
        agent.server_url = url
        await agent.ask("hi")
    assert paths(transport) == [*ALL, "sse/chat", "sse/chat", *ALL, "sse/chat"]


PASSING: Final[dict[str, dict[str, list[Reply]]]] = {
    # the replies to the first run
    "organization, 500": {"get_organization": [Reply(status=500)]},
    "organization, 404": {"get_organization": [Reply(status=404)]},
    "organization, too late": {"get_organization": [Reply(before=pause(math.inf))]},
    "organization, broken": {"get_organization": [Reply([b"{"])]},
    "list, 500": {"get_agents": [Reply(status=500)]},
    "list, an error": {"get_agents": [Reply.json({"code": 500, "message": "no"})]},
    "list, none": {"get_agents": [data(agents={})]},
}


@pytest.mark.parametrize("which", PASSING)
async def test_a_failure_is_not_cached(which: str) -> None:
    """A failed discovery is not cached: the next run tries again."""
    documents = {"get_organization": [TREE], "get_agents": [LISTED], "get_description": [data(description="")] * 2}
    replies = {f"/{name}": [*PASSING[which].get(name, []), *there * 2] for name, there in documents.items()}
    agent = plain(server_url=URL, transport=FakeTransport({**replies, "/sse/chat": ANSWER}), callee="nobody")
    assert (await agent.ask("hi")).output == "42"
    with pytest.raises(errors.UnknownCalleeError):
        await agent.ask("hi")


async def test_a_callee_added_later() -> None:
    """A missing name is not cached: a run after it was added is sent there."""
    transport = FakeTransport(
        {"/get_organization": TREE, "/get_agents": [data(agents=[]), LISTED], "/sse/chat": ANSWER}
    )
    agent = plain(server_url=URL, transport=transport, callee="hidden")
    with pytest.raises(errors.UnknownCalleeError):
        await agent.ask("hi")
    assert (await agent.ask("hi")).output == "42"


async def test_a_list_is_used_while_the_remote_fails() -> None:
    """If discovery cannot be repeated, the earlier list decides about a missing name."""
    transport = FakeTransport({"/get_organization": [TREE, Reply(status=500)], "/get_agents": LISTED})
    agent = plain(server_url=URL, transport=transport, callee="nobody")
    for _ in range(2):
        with pytest.raises(errors.UnknownCalleeError):
            await agent.ask("hi")


async def test_a_server_without_a_list() -> None:
    """A server without a list is asked for it again after a minute."""
    transport = FakeTransport(
        {"/get_organization": TREE, "/get_agents": [Reply(status=404), LISTED], "/sse/chat": ANSWER}
    )
    agent = plain(server_url=URL, transport=transport, callee="nobody")
    for _ in range(3):
        await agent.ask("hi")
    assert paths(transport).count("get_agents") == 1
    await anyio.sleep(NO_LIST_SECONDS)
    with pytest.raises(errors.UnknownCalleeError):
        await agent.ask("hi")


# ----------------------------------------------------------------------------------------------------- Shared discovery


async def asked_by(agent: SSEOxyGent, runs: int) -> list[tuple[errors.OxyError, float]]:
    """Return the errors of so many concurrent runs, and when each was raised."""
    began, came = anyio.current_time(), list[tuple[errors.OxyError, float]]()

    async def ask(number: int) -> None:
        with pytest.raises(errors.OxyError) as caught:
            await agent.ask("hi", trace_id=f"{new_id()}-{number}")
        came.append((caught.value, anyio.current_time() - began))

    async with anyio.create_task_group() as tasks:
        for number in range(runs):
            tasks.start_soon(ask, number)
    return came


async def _after(seconds: float, what: Callable[[], Awaitable[None]]) -> None:
    await anyio.sleep(seconds)
    await what()


async def test_a_failure_is_shared() -> None:
    """Runs that share a failed discovery each get an error of their own."""
    transport = FakeTransport({"/get_organization": Reply([pause(3), errors.ConnectTimeoutError("no")])})
    came = await asked_by(plain(server_url=URL, transport=transport, callee="x"), 10)
    assert {seconds for _, seconds in came} == {3}
    assert {type(error) for error, _ in came} == {errors.ConnectTimeoutError}
    assert {error.outcome for error, _ in came} == {Outcome.NOT_SENT}
    assert len({error.trace_id for error, _ in came}) == 10
    assert paths(transport) == ["get_organization"]


async def test_the_discovering_run_is_cancelled() -> None:
    """If the run that does discovery is cancelled, the next waiting run does it for all."""
    replies = [Reply(before=pause(math.inf)), TREE]
    transport = FakeTransport({"/get_organization": replies, "/get_agents": LISTED, "/sse/chat": ANSWER})
    agent = plain(server_url=URL, transport=transport, callee="hidden")
    outputs: list[Any] = []

    async def ask() -> None:
        outputs.append((await agent.ask("hi")).output)

    async with anyio.create_task_group() as tasks:
        with anyio.move_on_after(2):
            for _ in range(5):
                tasks.start_soon(_after, 1, ask)
            await ask()
    assert outputs == ["42"] * 5
    assert paths(transport).count("get_organization") == 2


async def test_all_waiting_runs_are_cancelled() -> None:
    """Successive cancellations of the runs that do discovery take effect at once, and nothing is left."""
    replies = [*[Reply(before=pause(math.inf))] * 3, TREE]
    transport = FakeTransport({"/get_organization": replies, "/get_agents": LISTED, "/sse/chat": ANSWER})
    agent = plain(server_url=URL, transport=transport, callee="hidden")
    began, ended = anyio.current_time(), list[float]()

    async def ask(patience: float) -> None:
        with anyio.move_on_after(patience):
            await agent.ask("hi")
        ended.append(anyio.current_time() - began)

    async with anyio.create_task_group() as tasks:
        for patience in (1, 2, 3):
            tasks.start_soon(ask, patience)
    assert ended == [1, 2, 3]
    # The event loop decides which of them did it.
    for _ in range(3 - paths(transport).count("get_organization")):
        with anyio.move_on_after(1):
            await agent.ask("hi")
    assert (await agent.ask("hi")).output == "42"


async def test_init_shares_a_discovery() -> None:
    """`init` shares a discovery in progress, and waits no longer than its time-out."""
    slow = Reply(TREE.steps, before=pause(5))
    transport = remote({"get_organization": slow, "get_agents": LISTED})
    agent = plain(server_url=URL, transport=transport, callee="hidden")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agent.ask, "hi")
        await anyio.sleep(1)
        agent.timeouts, began = Timeouts(total=1), anyio.current_time()
        with pytest.raises(errors.DeadlineExceededError) as caught:
            await agent.init()
        assert caught.value.outcome is Outcome.NOT_SENT
        assert anyio.current_time() - began == pytest.approx(1)
        agent.timeouts = Timeouts()
        await agent.init()
    assert paths(transport).count("get_organization") == 1
    assert agent.org == ORGANIZATION


# ------------------------------------------------------------------------------------------------------------ Time-outs

STALLING: Final[dict[str, Reply]] = {
    "headers": Reply(before=pause(math.inf)),
    "body": Reply([b"{", pause(math.inf)]),
    "drops": Reply([step for _ in range(1000) for step in (b" ", pause(1))]),
    "redirects": Reply(status=307, headers={"location": "/there"}, before=pause(5)),
}


@pytest.mark.parametrize(("seconds", "total"), [(30.0, None), (30.0, 3600.0), (12.0, 12.0)])
@pytest.mark.parametrize("ask", [SSEOxyGent.init, SSEOxyGent.check_alive])
@pytest.mark.parametrize("stalls", STALLING)
async def test_time_outs(
    stalls: str, ask: Callable[[SSEOxyGent], Awaitable[object]], seconds: float, total: float | None
) -> None:
    """A request of discovery ends after 30 s, or `Timeouts.total` if less, body and redirects included."""
    reply, there = STALLING[stalls], Reply(before=pause(math.inf))
    transport = FakeTransport({"/get_organization": reply, "/check_alive": reply, "/there": there})
    agent = plain(server_url="http://localhost", transport=transport, timeouts=Timeouts(total=total))
    began = anyio.current_time()
    with pytest.raises(errors.DeadlineExceededError):
        await ask(agent)
    assert anyio.current_time() - began == pytest.approx(seconds)
