"""What a remote is: organization, description, the names it knows; and whom a run is sent to (rule 7 of the contract).

Rule 1: only the organization must be there, and nothing in it is trusted.
Rule 2: the remote is asked once, whatever it says, and never for a plain call.
"""

from __future__ import annotations

import copy
import logging
import math
import pickle
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from oxygent_client import Limits, Outcome, errors
from oxygent_client._discovery import UNKNOWN, Directory, Remote
from oxygent_client._wire import Agents
from oxygent_client.testing import FakeTransport, Reply, answer, close, pause
from tests.plain import plain
from tests.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    """A server's envelope around `members`."""
    return Reply.json({"code": 200, "message": "SUCCESS", "data": members})


TREE: Final = data(id_dict={}, organization=ORGANIZATION)
LISTED: Final = data(agents=[{"name": "master"}, {"name": "hidden"}, {"name": ""}, {"no": "name"}, "text", 7])
ANSWER: Final = Reply([answer("42"), close()])


def remote(replies: Mapping[str, Reply]) -> FakeTransport:
    """A remote that runs, and says this of itself."""
    return FakeTransport({"/sse/chat": ANSWER, **{f"/{name}": reply for name, reply in replies.items()}})


def paths(transport: FakeTransport) -> list[str]:
    """What it was asked."""
    return [request.path.removeprefix("/") for request in transport.requests]


ALL: Final = ["get_organization", "get_description", "get_agents"]


# ----------------------------------------------------------------------------------------------------------------- init


async def test_init() -> None:
    """`init` keeps the organization as it is, the description, and every name; the documents are asked for in order."""
    transport = remote({"get_organization": TREE, "get_description": data(description="plans"), "get_agents": LISTED})
    agent = plain(server_url=URL, transport=transport, headers={"x-a": "1"})
    await agent.init()
    assert (ORGANIZATION, "plans", ALL) == (agent.org, agent.desc, paths(transport))
    assert [("GET", b"", "1")] * 3 == [(each.method, each.body, each.headers["x-a"]) for each in transport.requests]
    assert f"{URL.partition('?')[0]}/get_agents?token=secret" == transport.requests[2].url
    org = agent.get_org()
    assert [
        {
            "name": "flights",
            "type": "agent",
            "is_remote": True,
            "children": [{"name": "search", "type": "tool", "is_remote": True}],
        },
        {"name": "add_up", "type": "tool", "extra": {"children": "no member"}, "is_remote": True},
    ] == org
    org[0]["children"].clear()
    assert (ORGANIZATION, 1) == (agent.org, len(agent.get_org()[0]["children"])), "it was a copy"


DOCUMENTS: Final[dict[str, tuple[dict[str, Reply], Any, str, int]]] = {
    # what the remote says: (its documents, the error or None, the description, how many children)
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
    """What may be missing is missing; what is wrong is a typed error, and the agent stays as it was."""
    documents, expected, description, children = DOCUMENTS[which]
    agent = plain(server_url=URL, transport=(transport := remote(documents)), limits=LIMITS)
    got = None
    try:
        await agent.init()
    except errors.OxyError as error:
        got = error
    assert expected == (type(got) if got else None)
    assert "secret" not in f"{got} {got!r}"
    assert (description, children) == (agent.desc, len(agent.get_org()))
    assert transport.requests == transport.left
    if got is None:  # it runs, too
        assert "42" == (await agent.ask("hi")).output


async def test_an_organization_without_end() -> None:
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
    assert 80 == count


# --------------------------------------------------------------------------------------------------------------- Callee

UNLISTED: Final = {"get_organization": TREE}
KNOWN: Final = {"get_organization": TREE, "get_agents": LISTED}
NO_NAME: Final = "the remote does not show anything called"
NO_WORD: Final = "the remote does not say whom it knows"

CALLEES: Final[dict[str, tuple[Mapping[str, Reply], dict[str, Any], bool, Any, list[str]]]] = {
    # which: (the documents, how the agent is made, whether `init` was called, whom the run is sent to or the error,
    #         what is logged as a warning)
    "local name, no init": (KNOWN, {"name": "search"}, False, None, []),
    "local name, shown": (KNOWN, {"name": "search"}, True, "search", []),
    "local name, listed": (KNOWN, {"name": "hidden"}, True, "hidden", []),
    "local name, not shown": (KNOWN, {"name": "mine"}, True, None, []),
    "in the organization": (UNLISTED, {"callee": "search"}, False, "search", []),
    "the root": (UNLISTED, {"callee": "master"}, False, "master", []),
    "not in the organization": (UNLISTED, {"callee": "hidden"}, False, "hidden", [NO_NAME]),
    "in the list": (KNOWN, {"callee": "hidden"}, False, "hidden", []),
    "in the organization, not in the list": (KNOWN, {"callee": "add_up"}, False, "add_up", []),
    "nowhere": (KNOWN, {"callee": "nobody"}, False, errors.UnknownCalleeError, []),
    "nowhere, after init": (KNOWN, {"callee": "nobody"}, True, errors.UnknownCalleeError, []),
    "nowhere, unchecked": (KNOWN, {"callee": "nobody", "check_callee": False}, False, "nobody", []),
    "empty list": (
        {"get_organization": data(organization={}), "get_agents": data(agents=[])},
        {"callee": "nobody"},
        False,
        errors.UnknownCalleeError,
        [],
    ),
    "nothing is said": ({}, {"callee": "x"}, False, "x", [NO_WORD, NO_NAME]),
    "broken JSON": ({"get_organization": Reply([b"{"])}, {"callee": "x"}, False, "x", [NO_WORD, NO_NAME]),
    "forbidden": ({"get_organization": Reply(status=403)}, {"callee": "x"}, False, "x", [NO_WORD, NO_NAME]),
    "hostile": ({"get_organization": data(organization=3)}, {"callee": "x"}, False, "x", [NO_WORD, NO_NAME]),
    "no remote": (
        {"get_organization": Reply(before=errors.ConnectError("no"))},
        {"callee": "x"},
        False,
        errors.ConnectError,
        [],
    ),
}


@pytest.mark.parametrize("which", CALLEES)
async def test_whom_a_run_is_sent_to(which: str, caplog: pytest.LogCaptureFixture) -> None:
    """The local name only if a discovery showed it; an explicit callee unless the remote's own list lacks it."""
    documents, options, inits, expected, warnings = CALLEES[which]
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
                assert (expected, Outcome.NOT_SENT) == (type(caught.value), caught.value.outcome)
            else:
                await agent.ask("hi")
                assert expected == transport.payloads[-1].get("callee")
    said = [record.getMessage() for record in caplog.records]
    assert [True] * len(warnings) == [
        text.startswith(begin) for text, begin in zip(said[: len(warnings)], warnings, strict=True)
    ]
    assert bool(warnings) == bool(said)
    assert "secret" not in "".join(said)
    gets = [path for path in paths(transport)[asked:] if path != "sse/chat"]
    if expected is errors.ConnectError:
        assert ["get_organization"] * 2 == gets, "where nobody is, one asks again"
    elif "callee" not in options or inits or options.get("check_callee") is False:
        assert [] == gets
    else:
        assert ALL[: len(gets)] == gets, "once"
        assert gets


async def test_an_unknown_callee_is_told_of_others() -> None:
    """The error names some of those that are there."""
    many = data(agents=[{"name": f"agent {n:02}"} for n in range(20)])
    cases = [
        (KNOWN, "the remote has nothing called 'nobody'; it has 'add_up', 'flights', 'hidden', 'master', 'search'"),
        (
            {"get_organization": data(organization={}), "get_agents": data(agents=[])},
            "the remote has nothing called 'nobody'; it has nothing at all",
        ),
        (
            {"get_organization": data(organization={}), "get_agents": many},
            "the remote has nothing called 'nobody'; it has " + ", ".join(f"'agent {n:02}'" for n in range(10)),
        ),
    ]
    for documents, said in cases:
        with pytest.raises(errors.UnknownCalleeError) as caught:
            await plain(server_url=URL, transport=remote(documents), callee="nobody").ask("hi")
        assert said == str(caught.value)


async def test_many_ask_once() -> None:
    """Twenty runs at once that need to know their callee ask the remote once; the others wait for it."""
    slow = Reply(TREE.steps, before=pause(5))
    transport = remote({"get_organization": slow, "get_agents": LISTED})
    agent = plain(server_url=URL, transport=transport, callee="hidden")
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(agent.ask, "hi")
    assert (ALL, 20) == (paths(transport)[:3], paths(transport)[3:].count("sse/chat"))


async def test_a_cancelled_discovery_is_none() -> None:
    """Who is cancelled while the remote is asked leaves the question to the next."""
    replies = [Reply(before=pause(math.inf)), TREE]
    transport = FakeTransport({"/get_organization": replies, "/get_agents": LISTED, "/sse/chat": ANSWER})
    agent = plain(server_url=URL, transport=transport, callee="hidden")
    with anyio.move_on_after(1) as scope:
        await agent.ask("hi")
    assert scope.cancelled_caught
    assert "42" == (await agent.ask("hi")).output
    assert ["get_organization", *ALL, "sse/chat"] == paths(transport)


async def test_an_error_of_init_says_where() -> None:
    """Which server did not answer stands in the error, without user information and query."""
    agent = plain(server_url="https://me:pw@h/p?key=1", transport=FakeTransport({}))
    with pytest.raises(errors.NotFoundError) as caught:
        await agent.init()
    assert "https://h/p" == caught.value.server_url


async def test_init_asks_again() -> None:
    """`init` always asks, and what it finds replaces what was known."""
    replies = [TREE, data(organization={"name": "other"})]
    transport = FakeTransport({"/get_organization": replies, "/sse/chat": ANSWER})
    agent = plain(server_url=URL, transport=transport, name="other")
    for callee in (None, "other"):
        await agent.init()
        await agent.ask("hi")
        assert callee == transport.payloads[-1].get("callee")


def test_what_is_known_travels() -> None:
    """A directory is copied and pickled with what it knows, and nothing live."""
    directory = Directory()
    assert not directory.shows("x")
    directory.remote = Remote(organization={"a": 1}, description="d", agents=Agents(frozenset({"x"}), complete=True))
    clones: list[Directory] = [copy.deepcopy(directory), pickle.loads(pickle.dumps(directory))]
    for clone in clones:
        assert (directory.remote, True, False) == (clone.remote, clone.shows("x"), clone.shows("y"))
        assert clone.remote is not directory.remote
    assert ({}, "", False) == (UNKNOWN.organization, UNKNOWN.description, UNKNOWN.agents.complete)
