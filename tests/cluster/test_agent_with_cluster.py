"""An agent with a `Cluster`: load balancing, failover, and calls that go to the replica of their run.

Rule 1: a replica is a toy remote or scripted; its URL has one letter, and credentials that must not be shown.
Rule 2: time is virtual.
"""

from __future__ import annotations

import copy
import logging
import pickle
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import pytest

from oxygent_client import (
    Outcome,
    OxyRequest,
    OxyState,
    RunHandle,
    SSEOxyGent,
    Timeouts,
    errors,
)
from oxygent_client._core.ids import new_id
from oxygent_client.cluster import DNS, Cluster
from oxygent_client.policies import BasicAuth, BearerAuth, Retry, RetryTransport
from oxygent_client.profiles import load_profile
from oxygent_client.testing import FakeTransport, Pause, Reply, ToyRemote, answer, close, heartbeat, progress
from oxygent_client.testing.script import Pause as Work
from oxygent_client.testing.script import Script
from oxygent_client.transports.asgi import ASGITransport
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from oxygent_client import HTTPRequest, HTTPResponse, Transport
    from oxygent_client.telemetry import Notification

SECRET: Final = "hunter2"
FOREVER: Final = Pause(float("inf"))
NOTHING: Final = Reply.json({"code": 200, "message": "SUCCESS", "data": {"nodes": [], "trace_id": "t"}})
SCRIPTS: Final = {
    "hi": Script(output="hello"),
    "slow": Script((Work(5),), output="late"),
}


def url(letter: str) -> str:
    """Return the public URL of a replica."""
    return f"https://{letter}.example"


def toy() -> ToyRemote:
    """Return a replica that follows `SCRIPTS`."""
    return ToyRemote(scripts=SCRIPTS)


class Replicas:
    """Replicas by letter: a toy remote, a transport, or the reply to each run."""

    def __init__(self, **each: Any) -> None:
        self.each: dict[str, Transport] = {
            letter: ASGITransport(one) if isinstance(one, ToyRemote) else one for letter, one in each.items()
        }
        self.urls = [f"https://user:{SECRET}@{letter}.example" for letter in each]
        self.requests: list[HTTPRequest] = []
        self.lost: Any = None

    def asked(self, path: str) -> str:
        """Return the letters of the replicas that got a request for this path, in order."""
        return "".join(letter(request) for request in self.requests if request.path.startswith(path))

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        assert f"user:{SECRET}@" in request.base_url  # or the server would refuse it
        self.requests.append(request)
        lost, self.lost = self.lost, None
        async with self.each[letter(request)].exchange(request) as response:
            if lost is not None:
                raise lost
            yield response

    async def aclose(self) -> None:
        """Do nothing: no connection is open."""


def letter(request: HTTPRequest) -> str:
    """Return the letter of the request's replica."""
    return request.base_url.rpartition("@")[2][0]


def cluster(replicas: Replicas) -> Cluster:
    """Return a cluster of all, in order; the first that is left is the second choice."""
    return Cluster(replicas.urls, transport=replicas, rng=float)


def agent(replicas: Replicas, **options: Any) -> SSEOxyGent:
    """Return an agent with that cluster."""
    return SSEOxyGent(transport=cluster(replicas), **options)


def down(outcome: type[errors.OxyError] = errors.ConnectError) -> FakeTransport:
    """Return a replica that runs nothing."""
    return FakeTransport({"/sse/chat": Reply(before=outcome("down")), "/async/chat": Reply(before=outcome("down"))})


# --------------------------------------------------------------------------------------------------------- Construction

A: Final = Cluster([url("a")], transport=FakeTransport({}))
WRONG: Final[dict[str, dict[str, Any]]] = {
    "both": {"server_url": url("a"), "transport": A},
    "both, and the cluster is wrapped": {"server_url": url("a"), "transport": RetryTransport(A)},
    "neither": {},
    "a transport that chooses nothing": {"transport": FakeTransport({})},
    "a wrapped transport that chooses nothing": {"transport": RetryTransport(FakeTransport({}))},
}


@pytest.mark.parametrize("name", WRONG)
def test_one_of_the_two(name: str) -> None:
    """An agent takes a server URL or a cluster, not both and not neither."""
    with pytest.raises(errors.ConfigurationError):
        SSEOxyGent(**WRONG[name])


@pytest.mark.parametrize("options", [{}, {"https_only": True}, {"plaintext_hosts": ["a.example"]}])
@pytest.mark.parametrize("transport", [A, RetryTransport(A)])
def test_copies_and_repr(transport: Any, options: Any) -> None:
    """An agent with a cluster has a repr without a secret, pickles and can be copied."""
    ours = SSEOxyGent(transport=transport, **options)
    theirs = Cluster([f"https://user:{SECRET}@a.example"])
    assert SECRET not in repr(SSEOxyGent(transport=theirs))
    again = [copy.deepcopy(ours), pickle.loads(pickle.dumps(SSEOxyGent(transport=theirs)))]
    assert [*map(repr, [ours, *again])] == ["<SSEOxyGent 'remote' at several servers>"] * 3
    assert [each.server_url for each in again] == ["", ""]


async def test_a_profile() -> None:
    """A profile without a server URL can be used with a cluster; one with a URL is refused."""
    replicas = Replicas(a=toy(), b=toy())
    ours = load_profile(environ={}).agent(transport=cluster(replicas))
    assert (await ours.ask("hi")).output == "hello"
    with pytest.raises(errors.ConfigurationError, match=r"server_url .* Cluster"):
        load_profile(environ={}, server_url=url("a")).agent(transport=cluster(replicas))


# ----------------------------------------------------------------------------------------------------------------- Runs


async def ended(ours: SSEOxyGent, how: str, query: str) -> Any:
    """Return the output of a run, called in this way."""
    if how == "ask":
        return (await ours.ask(query)).output
    if how == "execute":
        return (await ours.execute(OxyRequest(arguments={"query": query}))).output
    async with ours.stream(query) as run:
        return (await run.final_response()).output


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("how", ["ask", "stream", "execute"])
async def test_runs_are_spread(how: str, wrapped: bool) -> None:
    """Runs of each kind are balanced over the replicas."""
    replicas = Replicas(a=toy(), b=toy())
    chosen: Transport = cluster(replicas)
    async with SSEOxyGent(transport=RetryTransport(chosen) if wrapped else chosen) as ours:
        assert [await ended(ours, how, "hi") for _ in range(4)] == ["hello"] * 4
    assert replicas.asked("/sse/chat") == "abab"


async def test_discovery() -> None:
    """Discovery at one replica counts for all."""
    ours = agent(replicas := Replicas(a=toy(), b=toy()))
    await ours.init()
    assert ours.get_org()
    assert await ours.check_alive()
    assert "".join(sorted({letter(request) for request in replicas.requests})) == "ab"
    stored = await ours.upload("a.txt", b"text")
    assert stored.endswith("a.txt")


BUSY: Final = FakeTransport({"/sse/chat": Reply(status=503, headers={"retry-after": "1"})})
BROKEN: Final = FakeTransport({"/sse/chat": Reply(status=500)})
FAILOVER: Final[dict[str, tuple[Any, str, FakeTransport]]] = {
    # name: (the result, the requested replicas, the first replica)
    "refused": ("hello", "ab", down()),
    "a bad certificate": ("hello", "ab", down(errors.TLSError)),
    "busy": ("hello", "ab", BUSY),
    "lost": (errors.ConnectionLostError, "a", down(errors.ConnectionLostError)),
    "broken": (errors.ServerError, "a", BROKEN),
    "forbidden": (errors.PermissionDeniedError, "a", FakeTransport({"/sse/chat": Reply(status=403)})),
    "no stream": (errors.NotAnEventStreamError, "a", FakeTransport({"/sse/chat": Reply((b"<html>",), headers={})})),
    "cut": (errors.IncompleteStreamError, "a", FakeTransport.script(progress(1))),
    "no answer": (errors.NoAnswerError, "a", FakeTransport.script(close())),
    "silent": (errors.SilenceTimeoutError, "a", FakeTransport.script(heartbeat(), FOREVER)),
}


@pytest.mark.parametrize("name", FAILOVER)
async def test_failover(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Failover goes to another replica only if the run surely did not start; the error names the replica."""
    expected, asked, first = FAILOVER[name]
    replicas = Replicas(a=first, b=toy())
    what: Any
    with caplog.at_level(logging.DEBUG, "oxygent_client"):
        try:
            what = (await agent(replicas).ask("hi")).output
        except errors.OxyError as error:
            what, where, said = type(error), error.server_url, f"{error!r} {error}"
        else:
            where, said = url("a"), ""
    assert what == expected
    assert replicas.asked("/sse/chat") == asked
    assert url("a") == where
    assert SECRET not in said
    assert caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("name", ["lost", "broken", "cut", "silent"])
async def test_a_replica_that_fails_every_run_is_ejected(name: str) -> None:
    """A replica that fails each run is ejected, even if it answers record checks."""
    failing: FakeTransport = FAILOVER[name][2]
    chosen = cluster(Replicas(a=failing, b=toy()))
    ours = SSEOxyGent(transport=chosen)
    for _ in range(6):
        with suppress(errors.OxyError):
            await ours.ask("hi")
    assert [(each.usable, each.failures) for each in await chosen.status()] == [(False, 3), (True, 0)]
    assert name == "silent" or "/view" in {request.path.partition("?")[0] for request in failing.requests}


@pytest.mark.parametrize("name", ["refused", "busy", "lost", "broken"])
async def test_an_idempotent_run(name: str) -> None:
    """An idempotent run that may have started is retried at another replica, with another trace id."""
    first = FAILOVER[name][2]
    trace_id = new_id()
    replicas = Replicas(a=first, b=toy())
    response = await agent(replicas).ask("hi", idempotent=True, trace_id=trace_id)
    assert response.output == "hello"
    assert replicas.asked("/sse/chat") == "ab"
    may_have_run = name in ("lost", "broken")
    assert may_have_run == (response.extra["remote_trace_id"] != trace_id)


@pytest.mark.parametrize(
    "error", [errors.IncompleteStreamError("of another run"), errors.SilenceTimeoutError("of another run")]
)
async def test_an_exception_of_user_code(error: errors.OxyError) -> None:
    """An exception of the user's code in a run is no failure of its replica."""
    both = cluster(Replicas(a=toy()))
    for _ in range(3):
        with pytest.raises(type(error)):
            async with SSEOxyGent(transport=both).stream("slow"):
                raise error
    assert [each.failures for each in await both.status()] == [0]


async def test_no_replica_can_be_reached() -> None:
    """If no replica can be reached the default retry tries all again, and the error has the attempts."""
    replicas = Replicas(a=down(), b=down())
    with pytest.raises(errors.ConnectError) as caught:
        await agent(replicas, retry=Retry(attempts=2)).ask("hi")
    assert caught.value.outcome is Outcome.NOT_SENT
    assert len(replicas.asked("/sse/chat")) == 4


async def test_the_response_names_the_replica() -> None:
    """The response names the replica of the request, without its secret."""
    seen: list[str] = []

    class Seen:
        def note(self, happening: Notification, /) -> None:
            seen.extend([happening.fields["url"]] if happening.event == "streaming" else [])

    replicas = Replicas(a=toy(), b=toy())
    ours = agent(replicas, observers=[Seen()])
    await ours.ask("hi")
    await ours.ask("hi")
    assert [f"{url('a')}/sse/chat", f"{url('b')}/sse/chat"] == seen


# -------------------------------------------------------------------------------------------------------------- Records

LOSES: Final = errors.ConnectionLostError("reset")


class Cutting:
    """Loses each run, in its stream or before the headers; the server finishes them."""

    def __init__(self, remote: ToyRemote, *, before_headers: bool) -> None:
        self.inner_app = ASGITransport(remote)
        self.before_headers = before_headers

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        async with self.inner_app.exchange(request) as response:
            if not request.path.startswith("/sse/chat"):
                yield response
                return
            chunks = [chunk async for chunk in response.chunks]
            if self.before_headers:
                raise errors.ConnectionLostError("reset")
            yield type(response)(response.status, response.headers, _first(chunks), response.request)

    async def aclose(self) -> None:
        """Do nothing: no connection is open."""


async def _first(chunks: list[bytes]) -> AsyncGenerator[bytes, None]:
    yield chunks[0]
    raise errors.ConnectionLostError("reset")


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("before_headers", [False, True])
async def test_recovery_at_the_replica_of_the_run(before_headers: bool, idempotent: bool) -> None:
    """A run whose stream is cut or never begins is recovered from the record of its own replica."""
    cut = {letter: Cutting(toy(), before_headers=before_headers) for letter in "abc"}
    ours = agent(replicas := Replicas(**cut))
    for _ in "abc":
        response = await ours.ask("hi", idempotent=idempotent)
        assert response.output == "hello"
        assert response.extra.get("recovered") is True
    assert "abc" == replicas.asked("/sse/chat") == replicas.asked("/view")


async def test_recovery_of_a_cancelled_start() -> None:
    """After a cancelled start only the replica that got the request is checked for a record."""
    hangs = {letter: FakeTransport({"/async/chat": Reply(before=FOREVER), "/view": NOTHING}) for letter in "ab"}
    ours = agent(replicas := Replicas(**hangs))
    with pytest.raises(errors.DeadlineExceededError) as caught:
        await ours.start("hi")
    assert caught.value.outcome is Outcome.UNKNOWN
    assert replicas.asked("/async") == "a"
    assert {*replicas.asked("/view")} == {"a"}
    # The same for a run whose stream never began, when `idle` expires.
    silent = {letter: FakeTransport({"/sse/chat": Reply(before=FOREVER), "/view": NOTHING}) for letter in "ab"}
    ours = agent(replicas := Replicas(**silent), timeouts=Timeouts(total=5))
    with pytest.raises(errors.DeadlineExceededError) as caught:
        await ours.ask("hi")
    assert caught.value.outcome is Outcome.UNKNOWN
    assert replicas.asked("/sse") == "a"
    assert replicas.asked("/view") == ""


async def test_lookup_and_feedback() -> None:
    """`lookup` and `feedback` go to the replica of the run; for a run that was not started here they raise an error."""
    remotes = {letter: toy() for letter in "ab"}
    ours = agent(replicas := Replicas(**remotes))
    await ours.ask("hi")
    trace_id = new_id()
    async with ours.stream("slow", trace_id=trace_id) as run:
        await anext(aiter(run))
        record = await ours.lookup(trace_id)
        assert record is not None
        assert record.state is None
        await ours.feedback(trace_id, {"go": "on"})
        assert (await run.final_response()).output == "late"
    record = await ours.lookup(trace_id)
    assert record is not None
    assert record.state is OxyState.COMPLETED
    assert record.output == "late"
    assert remotes["b"].runs[0].feedback == [{"go": "on"}]
    assert replicas.asked("/view") == "bbbbb"
    assert replicas.asked("/feedback") == "b"
    assert await ours.lookup(new_id()) is None
    with pytest.raises(errors.ConfigurationError, match="trace_id"):
        await ours.lookup(new_id(), must_read=True)
    with pytest.raises(errors.ConfigurationError, match="channel_id"):
        await ours.feedback(new_id(), 1)
    assert replicas.asked("/view") == "bbbbb"
    assert replicas.asked("/feedback") == "b"


async def test_two_runs_with_one_trace_id() -> None:
    """Two concurrent runs with one trace id have different ids at the remotes, at any replica."""
    trace_id = new_id()
    ours = agent(Replicas(a=toy(), b=toy()))
    async with ours.stream("slow", trace_id=trace_id) as one, ours.stream("hi", trace_id=trace_id) as two:
        assert trace_id == one.remote_trace_id == one.trace_id == two.trace_id
        assert two.remote_trace_id.startswith(f"{trace_id}-")
        assert [(await each.final_response()).output for each in (one, two)] == ["late", "hello"]


async def test_two_clusters_with_one_trace_id() -> None:
    """Two clusters know their own runs by the ids at their replicas."""
    trace_id = new_id()
    agents = [agent(Replicas(a=toy(), b=toy())) for _ in range(2)]
    async with agents[0].stream("slow", trace_id=trace_id) as first:
        assert (await agents[1].ask("hi", trace_id=trace_id)).output == "hello"
        assert (await first.final_response()).output == "late"
    records = [await each.lookup(trace_id) for each in agents]
    assert [record and record.output for record in records] == ["late", "hello"]


# -------------------------------------------------------------------------------------------------------- Detached runs


@pytest.mark.parametrize("first", ["there", "down"])
@pytest.mark.parametrize("who", ["who began it", "another of this cluster", "one of that server"])
async def test_a_detached_run(who: str, first: str) -> None:
    """The handle names the replica, and any agent with the token reads the run from that replica only."""
    replicas = Replicas(a=down() if first == "down" else toy(), b=toy(), c=toy())
    ours = agent(replicas)
    if first == "there":
        await ours.ask("hi")
    handle = await ours.start("slow")
    assert url("b") == handle.server_url
    others = {
        "who began it": ours,
        "another of this cluster": agent(replicas),
        "one of that server": SSEOxyGent(server_url=replicas.urls[1], transport=replicas),
    }
    assert (await finished(others[who], handle)).output == "late"
    assert replicas.asked("/async/trace") == "b"
    assert replicas.asked("/view") == ""


async def test_an_attachment_that_breaks() -> None:
    """After a lost connection the reader reconnects to the same replica, and checks its record."""
    queue = [Reply((progress(1), LOSES)), Reply((answer("42"), close()))]
    done = {"node_id": "n", "caller": "user", "callee": "master", "father_node_id": "", "call_stack": ["user"]}
    record = Reply.json(
        {"code": 200, "message": "SUCCESS", "data": {"nodes": [{**done, "state": 3, "output": "42"}], "trace_id": "t"}}
    )
    replicas = Replicas(a=toy(), b=FakeTransport({"/async/trace": queue, "/view": record}))
    trace_id = new_id()
    handle = RunHandle(server_url=url("b"), trace_id=trace_id, remote_trace_id=trace_id, node_id="n")
    async with agent(replicas, confirm_state=True).attach(handle.to_token()) as run:
        assert (await run.final_response()).output == "42"
    assert replicas.asked("/async/trace") == "bb"
    assert replicas.asked("/view") == "b"


async def test_a_token_of_another_server() -> None:
    """A token of a server that is no replica raises ConfigurationError, and nothing is sent."""
    trace_id = new_id()
    token = RunHandle(server_url=url("z"), trace_id=trace_id, remote_trace_id=trace_id, node_id="n").to_token()
    replicas = Replicas(a=toy())
    with pytest.raises(errors.ConfigurationError, match=r"https://z\.example"):
        async with agent(replicas).attach(token):
            pass
    assert not replicas.requests


async def test_a_start_whose_answer_was_lost() -> None:
    """If the response to a start was lost, the record of its replica is checked, and the handle names it."""
    remotes = {letter: toy() for letter in "ab"}
    ours = agent(replicas := Replicas(**remotes))
    await ours.ask("hi")
    replicas.lost = errors.ConnectionLostError("reset")
    handle = await ours.start("slow")
    assert handle.server_url == url("b")
    assert replicas.asked("/async/chat") == "b"
    assert replicas.asked("/view") == "b"
    assert (await finished(ours, handle)).output == "late"


async def finished(ours: SSEOxyGent, handle: RunHandle) -> Any:
    """Return the response of a detached run."""
    async with ours.attach(handle.to_token()) as run:
        return await run.final_response()


REFUSALS: Final[dict[str, tuple[type[errors.OxyError], Reply]]] = {
    "a status": (errors.PermissionDeniedError, Reply(status=403)),
    "an envelope": (errors.EnvelopeError, Reply.json({"code": 400, "message": "no", "data": {}})),
    "nonsense": (errors.MalformedResponseError, Reply((b"<html>",))),
}


OTHER_CALLS: Final[dict[str, Callable[[SSEOxyGent], Awaitable[object]]]] = {
    "init": lambda agent: agent.init(),
    "start": lambda agent: agent.start("hi"),
    "upload": lambda agent: agent.upload("a.txt", b""),
}


@pytest.mark.parametrize("call", OTHER_CALLS.values(), ids=OTHER_CALLS)
@pytest.mark.parametrize("name", REFUSALS)
async def test_errors_of_other_calls_name_the_replica(
    name: str, call: Callable[[SSEOxyGent], Awaitable[object]]
) -> None:
    """Errors of `start`, `init` and `upload` have the replica as `server_url`, without its secret."""
    expected, reply = REFUSALS[name]
    fake = FakeTransport(dict.fromkeys(("/async/chat", "/get_organization", "/upload"), reply))
    ours = agent(Replicas(a=fake), timeouts=Timeouts(lookup=None))
    with pytest.raises(expected) as caught:
        await call(ours)
    assert caught.value.server_url == url("a")


# ----------------------------------------------------------------------------------------------------------- Plain http

PLAIN: Final = "http://a.example"
CREDENTIALS: Final[dict[str, dict[str, Any]]] = {
    "a token": {"auth": BearerAuth(SECRET)},
    "a password": {"auth": BasicAuth("user", SECRET)},
    "a header": {"headers": {"x-api-key": SECRET}},
    "none, and only https": {"https_only": True},
}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", CREDENTIALS)
async def test_plain_http(name: str, wrapped: bool) -> None:
    """A credential is sent to a replica over plain http only if its host is allowed."""
    transport = FakeTransport({"/sse/chat": Reply((answer("42"), close())), "/view": NOTHING})
    chosen: Transport = Cluster([PLAIN], transport=transport)
    chosen = RetryTransport(chosen) if wrapped else chosen
    ours = SSEOxyGent(transport=chosen, **CREDENTIALS[name])
    handle = RunHandle(server_url=PLAIN, trace_id="t", remote_trace_id=new_id(), node_id="n")
    with pytest.raises(errors.InsecureTransportError) as caught:
        await ours.ask("hi")
    assert caught.value.outcome is Outcome.NOT_SENT
    assert transport.requests == []
    assert SECRET not in str(caught.value)
    with pytest.raises(errors.InsecureTransportError):
        async with ours.attach(handle.to_token()):
            pass
    assert transport.requests == []
    named = SSEOxyGent(transport=chosen, plaintext_hosts=["a.example"], **CREDENTIALS[name])
    assert (await named.ask("hi")).output == "42"


@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_replica_behind_a_name(wrapped: bool) -> None:
    """A host name that is allowed over plain http covers its resolved addresses, for each kind of request."""

    async def resolver(host: str, port: int) -> list[str]:
        return ["10.0.0.1"]

    remote = ToyRemote(scripts=SCRIPTS)
    chosen: Transport = Cluster([DNS("http://agents.svc:8082", resolver=resolver)], transport=ASGITransport(remote))
    chosen = RetryTransport(chosen) if wrapped else chosen
    ours = SSEOxyGent(transport=chosen, auth=BearerAuth(SECRET), plaintext_hosts=["agents.svc"])
    handle = await ours.start("slow")
    assert handle.server_url == "http://10.0.0.1:8082"
    assert (await finished(ours, handle)).output == "late"
    record = await ours.lookup(handle.trace_id)
    assert record is not None
    assert record.output == "late"
