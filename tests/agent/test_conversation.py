"""Conversations: each turn follows the last successful one, also after a failure, by a token, and over a cluster.

Rule 1: the toy remote has the memory of a chain of turns, and answers "memory" with its queries.
Rule 2: time is virtual.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import Cluster, Conversation, OxyRequest, OxyResponse, OxyState, SSEOxyGent, Turn, errors
from oxygent_client.testing import FakeTransport, Reply, ToyRemote, answer, close
from oxygent_client.transports.asgi import ASGITransport
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from oxygent_client import HTTPRequest, HTTPResponse

URL: Final = "http://127.0.0.1:1"
REPLICAS: Final = ("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3")


def agent_of(toy: ToyRemote, url: str = URL, **options: Any) -> SSEOxyGent:
    """An agent of the toy remote."""
    return SSEOxyGent(server_url=url, transport=ASGITransport(toy), **options)


def toy_remote(**options: Any) -> ToyRemote:
    """A toy remote that does not wait."""
    return ToyRemote(pace=0, **options)


async def remembered(chat: Conversation) -> Any:
    """Return the queries in the server's memory, by a turn of its own."""
    return (await chat.ask("memory")).output


# ---------------------------------------------------------------------------------------------------------- Turns


async def test_each_turn_follows_the_one_before() -> None:
    """The third turn has the memory of the first two, asked or streamed."""
    toy = toy_remote()
    async with agent_of(toy).conversation() as chat:
        await chat.ask("echo one")
        async with chat.stream("echo two") as run:
            await run.final_response()
        assert await remembered(chat) == ["echo one", "echo two", "memory"]


async def test_what_is_sent() -> None:
    """All turns have one group and the id of the previous turn, and are stored before they are answered."""
    toy = toy_remote()
    chat = agent_of(toy).conversation(group_id="g")
    await chat.ask("echo one", trace_id="t1", arguments={"city": "Lisbon"}, shared_data={"a": 1}, group_data={"b": 2})
    await chat.ask(OxyRequest(arguments={"query": "echo two"}, from_trace_id="another", group_id="other"))
    first, second = (run.payload for run in toy.runs)
    fields = ("group_id", "from_trace_id", "is_async_storage")
    assert [first[name] for name in fields] == ["g", "", False]
    assert [second[name] for name in fields] == ["g", "t1", False]
    assert [first[name] for name in ("current_trace_id", "city", "group_data")] == ["t1", "Lisbon", {"b": 2}]


@pytest.mark.parametrize("way", ["ask", "stream"])
async def test_the_options_of_a_call(way: str) -> None:
    """A turn takes the options that a call takes."""
    toy = toy_remote()
    chat = agent_of(toy).conversation()
    if way == "ask":
        await chat.ask("echo one", timeout=5, headers={"x-user": "ada"}, callee="flight_agent")
    else:
        async with chat.stream("echo one", timeout=5, headers={"x-user": "ada"}, callee="flight_agent") as run:
            await run.final_response()
    assert toy.runs[0].headers["x-user"] == "ada"
    assert toy.runs[0].callee == "flight_agent"


async def test_the_history() -> None:
    """A turn has its query, its answer and the server's trace id; a streamed one exists once it has ended."""
    toy = toy_remote()
    chat = agent_of(toy).conversation()
    await chat.ask("echo one", trace_id="t1")
    async with chat.stream("echo two", trace_id="t2") as run:
        lengths = [len(chat.history)]
        await run.final_response()
        lengths.append(len(chat.history))
    assert lengths == [1, 2]
    assert chat.history == (
        Turn(trace_id="t1", query="echo one", output="one"),
        Turn(trace_id="t2", query="echo two", output="two"),
    )
    assert "2 turns" in repr(chat)


@pytest.mark.parametrize("failure", ["raise", "silent", "cut"])
async def test_a_failed_turn_does_not_break_the_chain(failure: str) -> None:
    """After a failed turn the next one follows the last successful turn."""
    chat = agent_of(toy_remote()).conversation()
    await chat.ask("echo one")
    with pytest.raises(errors.OxyError):
        await chat.ask(failure)
    with pytest.raises(errors.OxyError):
        async with chat.stream(failure) as run:
            await run.final_response()
    assert await remembered(chat) == ["echo one", "memory"]


async def test_a_failure_that_is_caught_within_the_block() -> None:
    """After a failure that is caught within the block the conversation goes on."""
    chat = agent_of(toy_remote()).conversation()
    async with chat.stream("silent") as run:
        with pytest.raises(errors.NoAnswerError):
            await run.final_response()
        assert await remembered(chat) == ["memory"]


async def test_a_turn_that_is_left_is_dropped() -> None:
    """A block that is left before the run's end adds no turn."""
    chat = agent_of(toy_remote()).conversation()
    async with chat.stream("slow") as run:
        async for _ in run:
            break
    assert chat.history == ()
    assert await remembered(chat) == ["memory"]


async def test_an_execute_of_a_subclass() -> None:
    """A failed response adds no turn; one without a trace id has that of its request."""

    class Own(SSEOxyGent):
        async def _execute(self, oxy_request: OxyRequest) -> OxyResponse:
            is_good = oxy_request.get_query() == "good"
            return OxyResponse(OxyState.COMPLETED if is_good else OxyState.FAILED, "answered")

    chat = Own(server_url=URL).conversation()
    await chat.ask("bad")
    await chat.ask("good", trace_id="t")
    assert chat.history == (Turn(trace_id="t", query="good", output="answered"),)


async def test_one_turn_at_a_time() -> None:
    """A second turn during a stream is refused; after its end it is accepted."""
    chat = agent_of(toy_remote()).conversation()
    async with chat.stream("echo one") as run:
        with pytest.raises(errors.ConfigurationError, match="one turn"):
            await chat.ask("echo two")
        await run.final_response()
        await chat.ask("echo two")
    assert [turn.query for turn in chat.history] == ["echo one", "echo two"]


async def test_one_turn_at_a_time_while_it_is_asked() -> None:
    """A second turn during `ask` is refused."""
    refused: list[str] = []

    class Asking(SSEOxyGent):
        async def _execute(self, oxy_request: OxyRequest) -> OxyResponse:
            with pytest.raises(errors.ConfigurationError) as caught:
                await chat.ask("two")
            refused.append(str(caught.value))
            return OxyResponse(OxyState.COMPLETED, "one")

    chat = Asking(server_url=URL).conversation()
    await chat.ask("one")
    assert len(refused) == 1


async def test_a_trace_id_of_an_earlier_turn() -> None:
    """The trace id of an earlier turn is refused: the server would overwrite that turn."""
    chat = agent_of(toy_remote()).conversation()
    await chat.ask("echo one", trace_id="t")
    with pytest.raises(errors.ConfigurationError, match="trace_id"):
        await chat.ask("echo two", trace_id="t")


# ---------------------------------------------------------------------------------------------------------- Branches


@pytest.mark.parametrize(("turn", "expected"), [(0, ["echo 0"]), (-2, ["echo 0", "echo 1"]), (2, None)])
async def test_a_branch(turn: int, expected: list[str] | None) -> None:
    """A branch has the turns up to the given one, and does not change the conversation."""
    chat = agent_of(toy_remote()).conversation()
    for number in range(3):
        await chat.ask(f"echo {number}")
    expected = expected or ["echo 0", "echo 1", "echo 2"]
    assert await remembered(chat.branch(turn)) == [*expected, "memory"]
    assert await remembered(chat.branch(chat.history[turn])) == [*expected, "memory"]
    assert len(chat.history) == 3


@pytest.mark.parametrize("turn", [1, -2, Turn(trace_id="another")], ids=["after", "before", "another"])
async def test_no_such_turn(turn: int | Turn) -> None:
    """A turn that is not in the history is refused."""
    chat = agent_of(toy_remote()).conversation()
    await chat.ask("echo one")
    with pytest.raises(errors.ConfigurationError, match="turn"):
        chat.branch(turn)


# ---------------------------------------------------------------------------------------------------------- Tokens


async def test_a_token_continues_the_conversation() -> None:
    """Another agent, in another process, continues from the token; the records have the queries and answers."""
    toy = toy_remote()
    chat = agent_of(toy).conversation(group_id="g")
    await chat.ask("echo one")
    await chat.ask("tools")
    later = agent_of(toy, f"{URL}/").conversation(chat.to_token())
    assert later.group_id == "g"
    assert [(turn.query, turn.output) for turn in later.history] == [(None, None), (None, None)]
    loaded = await later.load_history()
    assert [(turn.query, turn.output) for turn in loaded] == [("echo one", "one"), ("tools", "5 20 HELLO")]
    assert later.history == loaded
    assert await remembered(later) == ["echo one", "tools", "memory"]


async def test_a_history_without_records() -> None:
    """Without records the turns have no query and answer."""
    toy = toy_remote(records=False)
    chat = agent_of(toy).conversation()
    await chat.ask("echo one")
    later = agent_of(toy).conversation(chat.to_token())
    assert [turn.query for turn in await later.load_history()] == [None]


@pytest.mark.parametrize("arguments", [{"arguments": {"query": 7}}, {}], ids=["another type", "no arguments"])
async def test_a_record_without_a_query(arguments: dict[str, Any]) -> None:
    """Without a query in the record the query is None."""
    node = {"node_id": "r", "state": 3, "output": "one", "input": arguments}
    fake = FakeTransport({"/view": Reply.json({"code": 200, "data": {"nodes": [node]}})})
    token = Conversation(SSEOxyGent(server_url=URL), "g", (Turn(trace_id="t"),)).to_token()
    later = SSEOxyGent(server_url=URL, transport=fake).conversation(token)
    assert await later.load_history() == (Turn(trace_id="t", query=None, output="one"),)


async def test_a_token_without_turns() -> None:
    """The token of a conversation without turns has the group only."""
    chat = agent_of(toy_remote()).conversation(group_id="g")
    later = agent_of(toy_remote()).conversation(chat.to_token())
    assert (later.group_id, later.history) == ("g", ())


async def test_a_token_holds_the_last_turns() -> None:
    """The token of a long conversation leaves out the oldest turns."""
    turns = tuple(Turn(trace_id=str(number), query="secret", output="secret") for number in range(201))
    agent = SSEOxyGent(server_url="http://user:secret@127.0.0.1:1/?key=secret")
    token = Conversation(agent, "g", turns).to_token()
    assert [turn.trace_id for turn in agent.conversation(token).history] == [str(n) for n in range(1, 201)]
    body = token.partition(".")[2]
    assert b"secret" not in base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))


def token_of(*fields: object) -> str:
    """A token with these fields."""
    return "oxychat1." + base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "token",
    [
        "nonsense",
        "oxychat1.",
        "oxychat1.e30",
        "oxyrun1.e30",
        token_of(URL, "g"),
        token_of(URL, "", []),
        token_of(URL, "g", "t"),
        token_of(URL, "g", [7]),
        token_of(7, "g", []),
        token_of("ftp://x", "g", []),
        token_of("http://127.0.0.1:2", "g", ["t"]),
        7,
    ],
)
def test_no_token(token: Any) -> None:
    """An invalid token, or one of another server, is refused."""
    with pytest.raises(errors.ConfigurationError, match="token"):
        SSEOxyGent(server_url=URL).conversation(token)


@pytest.mark.seconds
@given(st.text(max_size=40))
def test_any_text(text: str) -> None:
    """Any text is a conversation or a typed error."""
    try:
        chat = SSEOxyGent(server_url=URL).conversation(f"oxychat1.{text}")
    except errors.ConfigurationError:
        return
    assert isinstance(chat.history, tuple)


def test_a_group_beside_a_token() -> None:
    """A group beside a token is refused: the token has one."""
    agent = SSEOxyGent(server_url=URL)
    with pytest.raises(errors.ConfigurationError, match="group_id"):
        agent.conversation(agent.conversation().to_token(), group_id="g")


# ---------------------------------------------------------------------------------------------------------- Clusters


class Replicas:
    """Toy remotes at several URLs, each with a memory of its own; a replica that is `down` refuses connections."""

    def __init__(self) -> None:
        self.toys = {url: toy_remote() for url in REPLICAS}
        self.down: set[str] = set()

    def exchange(self, request: HTTPRequest, /) -> AbstractAsyncContextManager[HTTPResponse]:
        """One exchange with the toy at this URL."""
        if request.base_url in self.down:
            return FakeTransport({request.path: Reply(before=errors.ConnectError("down"))}).exchange(request)
        return ASGITransport(self.toys[request.base_url]).exchange(request)

    async def aclose(self) -> None:
        """There is nothing to close."""

    def asked(self) -> list[int]:
        """Return the number of runs of each replica."""
        return [len(toy.runs) for toy in self.toys.values()]


@pytest.fixture
def replicas() -> Replicas:
    """Three replicas."""
    return Replicas()


async def test_all_turns_go_to_the_replica_of_the_first(replicas: Replicas) -> None:
    """Without a shared storage all turns go to the replica of the first."""
    chat = SSEOxyGent(transport=Cluster(REPLICAS, transport=replicas)).conversation()
    for number in range(3):
        await chat.ask(f"echo {number}")
    assert await remembered(chat) == ["echo 0", "echo 1", "echo 2", "memory"]
    assert sorted(replicas.asked()) == [0, 0, 4]


async def test_a_token_of_a_cluster(replicas: Replicas) -> None:
    """A token leads to the replica, also in another process."""
    chat = SSEOxyGent(transport=Cluster(REPLICAS, transport=replicas)).conversation()
    await chat.ask("echo one")
    later = SSEOxyGent(transport=Cluster(REPLICAS[::-1], transport=replicas)).conversation(chat.to_token())
    assert [turn.query for turn in await later.load_history()] == ["echo one"]
    assert await remembered(later) == ["echo one", "memory"]


async def test_a_replica_that_is_down(replicas: Replicas) -> None:
    """If its replica is down a turn raises an error with outcome NOT_SENT: other replicas lack the memory."""
    chat = SSEOxyGent(transport=Cluster(REPLICAS, transport=replicas)).conversation()
    await chat.ask("echo one")
    replicas.down.add(next(url for url, toy in replicas.toys.items() if toy.runs))
    with pytest.raises(errors.ConnectError):
        await chat.ask("echo two")
    assert sum(replicas.asked()) == 1
    replicas.down.clear()
    assert await remembered(chat) == ["echo one", "memory"]


async def test_a_shared_storage(replicas: Replicas) -> None:
    """With `shared_storage` the turns are balanced like other calls."""
    agent = SSEOxyGent(transport=Cluster(REPLICAS, transport=replicas, shared_storage=True))
    chat = agent.conversation()
    for number in range(3):
        await chat.ask(f"echo {number}")
    assert replicas.asked() == [1, 1, 1]


async def test_a_token_of_a_cluster_without_turns(replicas: Replicas) -> None:
    """A token without turns is bound to no replica."""
    agent = SSEOxyGent(transport=Cluster(REPLICAS, transport=replicas))
    later = agent.conversation(agent.conversation(group_id="g").to_token())
    assert (await later.ask("echo one")).output == "one"


async def test_a_conversation_of_a_forgotten_replica() -> None:
    """A cluster that does not know the run leaves its URL out of the token."""
    agent = SSEOxyGent(transport=Cluster(REPLICAS))
    token = Conversation(agent, "g", (Turn(trace_id="t"),)).to_token()
    assert agent.conversation(token).history == (Turn(trace_id="t"),)


async def test_from_trace_id_by_hand(replicas: Replicas) -> None:
    """A request with a previous turn goes to its replica, by the caller's trace id or the server's."""
    agent = SSEOxyGent(transport=Cluster(REPLICAS, transport=replicas))
    first = await agent.ask("echo one")
    second = await agent.ask("memory", from_trace_id=first.remote_trace_id)
    unknown = await agent.ask("memory", from_trace_id="another")
    assert second.output == ["echo one", "memory"]
    assert unknown.output == ["memory"]


async def test_the_block_holds_the_connections() -> None:
    """The agent's transport is open during the block."""
    fake = FakeTransport({"/sse/chat": Reply((answer("hi"), close()))})
    async with SSEOxyGent(server_url=URL, transport=fake).conversation() as chat:
        assert (await chat.ask("hi")).output == "hi"
