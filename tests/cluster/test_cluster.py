"""The cluster as a transport, over scripted replicas: load balancing, failover, health checks and hedging.

Rule 1: a replica is a `FakeTransport`; its URL has one letter.
Rule 2: time is virtual.
"""

from __future__ import annotations

import copy
import logging
import math
import pickle
import random
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import HTTPRequest, HTTPResponse, Transport, errors
from oxygent_client.cluster import DNS, Cluster, Health, Hedge, Replica, RunLocation
from oxygent_client.cluster._strategies import STRATEGIES
from oxygent_client.policies import HTTPSOnly, HTTPSOnlyTransport, Redirect, RedirectTransport, Retry, RetryTransport
from oxygent_client.testing import FakeTransport, Pause, Reply
from oxygent_client.transports import Context
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from oxygent_client._core.transport import Purpose
    from oxygent_client.cluster import Strategy


OK: Final = Reply((b"ok",))
REFUSED: Final = Reply(before=errors.ConnectError("refused"))
NO_TLS: Final = Reply(before=errors.TLSError("expired"))
LOST: Final = Reply(before=errors.ConnectionLostError("lost"))
GARBAGE: Final = Reply(before=errors.RemoteProtocolError("no HTTP"))
BUSY: Final = Reply((b"busy",), status=503, headers={"retry-after": "1"})
CUT: Final = Reply((b"ok", errors.ConnectionLostError("cut")))
HANGS: Final = Reply(before=Pause(1e6))


def status(code: int) -> Reply:
    """Return an error response."""
    return Reply((b"body",), status=code, headers={})


def url(letter: str) -> str:
    """Return the URL of a replica."""
    return f"https://{letter}.example"


class Replicas:
    """Replicas by letter. Unless `several` may be open at a time, each exchange ends before the next begins."""

    def __init__(self, *, several: bool = False, **replies: Any) -> None:
        self.fakes = {
            url(letter): FakeTransport({"/sse/chat": reply, "/get_organization": reply, "/check_alive": reply})
            if isinstance(reply, Reply)
            else FakeTransport({"/sse/chat": reply})
            for letter, reply in replies.items()
        }
        self.several = several
        self.open = 0
        self.requests: list[HTTPRequest] = []
        self.closed = 0

    @property
    def asked(self) -> str:
        """Return the letters of the requested replicas, in order."""
        return "".join(request.base_url.removeprefix("https://")[0] for request in self.requests)

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        assert self.several or not self.open
        self.requests.append(request)
        self.open += 1
        try:
            async with self.fakes[request.base_url].exchange(request) as response:
                yield response
        finally:
            self.open -= 1

    async def aclose(self) -> None:
        """As `Transport.aclose`."""
        self.closed += 1


def cluster(replicas: Replicas, **options: Any) -> Cluster:
    """Return a cluster of all, in order."""
    settings: dict[str, Any] = {"rng": float, **options}
    some = Cluster([*replicas.fakes] or [url("a")], transport=replicas, **settings)
    some.set_members([*replicas.fakes])  # perhaps none
    return some


def run(base_url: str = "", **context: Any) -> HTTPRequest:
    """Return a run, at any replica unless one is named."""
    return HTTPRequest("POST", base_url, "/sse/chat", {"x-one": "1"}, b"body", context=Context(**context))


async def ended(transport: Transport, request: HTTPRequest) -> str:
    """Return the status and its replica, or the error."""
    try:
        async with transport.exchange(request) as response:
            with anyio.fail_after(1):  # no cancel scope of another is open
                async for _ in response.chunks:
                    pass
            return f"{response.status} {response.request.base_url.removeprefix('https://')[0]}"
    except errors.OxyError as error:
        return type(error).__name__


# ------------------------------------------------------------------------------------------------------------- Failover

FAILOVER: Final[list[tuple[str, str, dict[str, Any], dict[str, Any]]]] = [
    # the result, the requested replicas, the replies, the context
    ("200 a", "a", {"a": OK, "b": OK}, {}),
    ("200 b", "ab", {"a": REFUSED, "b": OK}, {}),
    ("200 b", "ab", {"a": NO_TLS, "b": OK}, {}),
    ("200 c", "abc", {"a": BUSY, "b": status(429), "c": OK}, {}),
    ("ConnectError", "abc", {"a": BUSY, "b": BUSY, "c": REFUSED}, {}),
    ("503 c", "abc", {"a": REFUSED, "b": REFUSED, "c": BUSY}, {}),
    ("429 a", "a", {"a": status(429)}, {}),
    ("NoHealthyReplicaError", "", {}, {}),
    # an agent may have run
    ("ConnectionLostError", "a", {"a": LOST, "b": OK}, {}),
    ("RemoteProtocolError", "a", {"a": GARBAGE, "b": OK}, {}),
    ("ConnectionLostError", "a", {"a": CUT, "b": OK}, {}),
    ("500 a", "a", {"a": status(500), "b": OK}, {}),
    ("502 a", "a", {"a": status(502), "b": OK}, {}),
    ("503 a", "a", {"a": status(503), "b": OK}, {}),
    ("504 a", "a", {"a": status(504), "b": OK}, {}),
    # another replica would answer the same
    *((f"{code} a", "a", {"a": status(code), "b": OK}, {}) for code in (204, 307, 400, 401, 403, 404, 413)),
    # an idempotent run is retried as another run, not here
    ("ConnectionLostError", "a", {"a": LOST, "b": OK}, {"idempotent": True}),
    ("500 a", "a", {"a": status(500), "b": OK}, {"idempotent": True}),
    # a repeated request does no harm
    ("200 b", "ab", {"a": LOST, "b": OK}, {"purpose": "discover"}),
    ("200 b", "ab", {"a": status(502), "b": OK}, {"purpose": "health"}),
    ("ConnectionLostError", "a", {"a": LOST, "b": OK}, {"purpose": "attach"}),
    ("ConnectionLostError", "a", {"a": LOST, "b": OK}, {"purpose": "feedback"}),
    ("401 a", "a", {"a": status(401), "b": OK}, {"idempotent": True}),
    ("ConnectionLostError", "a", {"a": CUT, "b": OK}, {"idempotent": True}),  # the headers had arrived
    # an invalid request is invalid everywhere
    ("ConfigurationError", "a", {"a": Reply(before=errors.ConfigurationError("x")), "b": OK}, {}),
    ("ClosedError", "a", {"a": Reply(before=errors.ClosedError("x")), "b": OK}, {}),
]


@pytest.mark.parametrize(("end", "asked", "replies", "context"), FAILOVER)
async def test_failover(end: str, asked: str, replies: dict[str, Any], context: dict[str, Any]) -> None:
    """Failover tries each replica once, while the request surely did not run; the last result is handed on."""
    replicas = Replicas(**replies)
    assert await ended(cluster(replicas), run(**context)) == end
    assert replicas.asked == asked
    assert list(range(1, len(asked) + 1)) == [request.context.attempt for request in replicas.requests]
    assert {(b"body", "1")} >= {(request.body, request.headers["x-one"]) for request in replicas.requests}


NOT_RUN: Final = (REFUSED, NO_TLS, BUSY, status(429))
BEHAVIOURS: Final = (*NOT_RUN, OK, LOST, GARBAGE, status(500), status(503), status(404))


@given(
    st.lists(st.sampled_from(range(len(BEHAVIOURS))), min_size=1, max_size=7),
    st.sampled_from(sorted(STRATEGIES)),
    st.integers(1, 7),
    st.randoms(use_true_random=False),
)
async def test_any_replies(listed: list[int], strategy: Strategy, tries: int, lots: random.Random) -> None:
    """No replica is tried twice, and failover happens exactly if the request did not run and a replica is left."""
    behaviours: dict[str, Any] = dict(zip("abcdefg", (BEHAVIOURS[number] for number in listed), strict=False))
    replicas = Replicas(**behaviours)
    health = Health(failures=1, min_available=0)
    some = cluster(replicas, strategy=strategy, tries=tries, health=health, rng=lots.random)
    for _ in range(4):  # replicas that fail are ejected in time
        replicas.requests.clear()
        end = await ended(some, run(group_id="g"))
        asked = replicas.asked
        assert len(set(asked)) == len(asked) <= min(tries, len(listed))
        assert all(behaviours[each] in NOT_RUN for each in asked[:-1])
        last = behaviours[asked[-1]]
        assert (last is OK) == end.startswith("200")
        assert last not in NOT_RUN or len(asked) == min(tries, len(listed))
        assert not any(each.in_flight for each in await some.status())


async def test_tries() -> None:
    """At most `tries` replicas are tried; the last error has the number of attempts."""
    replicas = Replicas(a=REFUSED, b=REFUSED, c=REFUSED)
    with pytest.raises(errors.ConnectError) as caught:
        async with cluster(replicas, tries=2).exchange(run(attempt=4)):
            pass
    assert caught.value.attempts == 5
    assert replicas.asked == "ab"


async def test_an_ejected_replica_is_tried_last() -> None:
    """An ejected replica is tried last, so that no call fails that it could serve; a success ends its ejection."""
    replicas = Replicas(a=[REFUSED, OK, OK], b=[OK, REFUSED, OK])
    both = cluster(replicas, health=Health(failures=1, slow_start=0))
    assert await ended(both, run()) == "200 b"
    assert [each.usable for each in await both.status()] == [False, True]
    assert await ended(both, run()) == "200 a"
    assert [each.usable for each in await both.status()] == [True, False]
    assert replicas.asked == "abba"


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("moment", range(12))
async def test_cancelled_at_any_moment(moment: int, idempotent: bool) -> None:
    """A cancellation at any point of a failover or a hedge closes all exchanges."""
    slow = Reply((Pause(0.4), b"ok", Pause(0.4), b"ok"), before=Pause(1))
    replicas = Replicas(several=idempotent, a=attrs.evolve(BUSY, before=Pause(1)), b=slow, c=slow)
    three = cluster(replicas, hedge=Hedge(after=0.5))
    with anyio.move_on_after(0.3 * moment + 0.1):
        async with three.exchange(run(idempotent=idempotent)) as response:
            async for _ in response.chunks:
                pass
            await anyio.sleep_forever()
    assert replicas.open == 0
    assert [each.in_flight for each in await three.status()] == [0, 0, 0]
    assert (await ended(three, run(idempotent=idempotent))).startswith("200")


async def test_under_a_retry() -> None:
    """If all replicas refuse, a retry around the cluster tries all of them again."""
    replicas = Replicas(a=[BUSY, BUSY], b=[BUSY, OK])
    assert await ended(RetryTransport(cluster(replicas), Retry(base=0.0)), run()) == "200 b"
    assert replicas.asked == "abb"


# ----------------------------------------------------------------------------------------- Requests for a named replica


async def test_a_request_for_a_named_replica() -> None:
    """A request for a named replica goes only there, even if it is ejected; another path of its origin counts."""
    replicas = Replicas(a=OK, b=REFUSED)
    both = cluster(replicas, health=Health(failures=1))
    replicas.fakes["https://b.example:443/moved"] = replicas.fakes[url("b")]
    for base_url in (url("b"), url("b"), "https://b.example:443/moved"):
        assert await ended(both, run(base_url)) == "ConnectError"
    assert replicas.asked == "bbb"
    assert await ended(both, run("https://user:s3cret@elsewhere.example?key=s3cret")) == "ConfigurationError"
    with pytest.raises(errors.ConfigurationError, match=r"^https://x.example:9 "):
        async with both.exchange(run("https://user:pw@x.example:9?key=1")):
            pass
    assert replicas.asked == "bbb"


# --------------------------------------------------------------------------------------------------------------- Health

COUNTED: Final[list[tuple[int, Reply]]] = [
    # failures counted after one such exchange
    (0, OK),
    (0, status(404)),
    (0, status(429)),
    (1, REFUSED),
    (1, LOST),
    (1, GARBAGE),
    (1, CUT),
    (1, BUSY),
    (1, status(500)),
    (0, Reply(before=errors.ConfigurationError("x"))),
]


@pytest.mark.parametrize(("failures", "reply"), COUNTED)
async def test_failures_that_count(failures: int, reply: Reply) -> None:
    """No connection, a lost connection and 5xx count as failures; other results do not."""
    one = cluster(Replicas(a=reply))
    await ended(one, run())
    assert [(each.url, each.failures, each.in_flight) for each in await one.status()] == [(url("a"), failures, 0)]


async def test_other_requests_count_as_checks() -> None:
    """A success of another request is a passed check: it clears no failures of runs; three that fail eject."""
    replicas = Replicas(a=[REFUSED, REFUSED, OK, OK, REFUSED], b=[REFUSED] * 3)
    three = Cluster([url(letter) for letter in "abc"], transport=replicas, health=Health(min_available=0))
    purposes: tuple[Purpose, ...] = ("run", "run", "discover", "health", "run")
    for purpose in purposes:
        await ended(three, run(url("a"), purpose=purpose))
    for _ in range(3):
        await ended(three, run(url("b"), purpose="discover"))
    assert [(each.usable, each.failures) for each in await three.status()] == [(False, 3), (False, 0), (True, 0)]


async def test_leaving_is_no_failure() -> None:
    """An exchange that the caller leaves counts as no failure."""
    replicas = Replicas(a=[OK, HANGS, OK])
    one = cluster(replicas)
    async with one.exchange(run()):
        assert [each.in_flight for each in await one.status()] == [1]
    with anyio.move_on_after(1):
        async with one.exchange(run()):
            pass
    assert [(each.failures, each.in_flight) for each in await one.status()] == [(0, 0)]
    with pytest.raises(KeyError):
        async with one.exchange(run()):
            raise KeyError
    assert [each.failures for each in await one.status()] == [0]


@pytest.mark.parametrize("error", [errors.SilenceTimeoutError("no heartbeat"), errors.IncompleteStreamError("no end")])
async def test_failures_of_a_stream(error: errors.OxyError) -> None:
    """Silence and an incomplete stream count as failures, though no connection broke."""
    one = cluster(Replicas(a=OK))
    with pytest.raises(type(error)):
        async with one.exchange(run()):
            raise error
    assert [each.failures for each in await one.status()] == [1]


async def test_ejection() -> None:
    """Three failures in a row eject a replica for five seconds, and each later one for twice as long."""
    replicas = Replicas(a=REFUSED, b=OK)
    both = cluster(replicas, health=Health(slow_start=0, jitter=0))
    start, times = anyio.current_time(), list[float]()
    for _ in range(36):
        assert await ended(both, run()) == "200 b"
        times += [anyio.current_time() - start] * ("a" in replicas.asked)
        replicas.requests.clear()
        await anyio.sleep(1)
    assert times == [0, 2, 4, 10, 21]  # ejected until 9, until 20, until 41


CHI_SQUARE: Final = 18.47
"""Four degrees of freedom: a fair draw exceeds it once in a thousand times (NIST, table 1.3.6.7.4)."""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["round_robin", "least_in_flight", "random", "power_of_two"])
async def test_balance_after_recovery(strategy: Strategy) -> None:
    """After recovery, 2,000 calls, 20 at a time, are balanced within a tenth, or as by a fair draw."""
    replicas = Replicas(a=OK, b=REFUSED, c=OK, d=status(500), e=OK)
    five = cluster(replicas, strategy=strategy, rng=random.Random(1).random)
    for _ in range(100):
        await ended(five, run())
    assert [each.usable for each in await five.status()] == [True, False, True, False, True]
    replicas.fakes = {url: FakeTransport({"/sse/chat": OK}) for url in replicas.fakes}
    for _ in range(500):
        await ended(five, run())
        await anyio.sleep(0.5)
    replicas.requests.clear()
    replicas.several, lengths = True, random.Random(2)

    async def call(times: int) -> None:
        for _ in range(times):
            async with five.exchange(run()):
                await anyio.sleep(lengths.uniform(0, 1))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(call, 100)
    counts = [replicas.asked.count(letter) for letter in "abcde"]
    if strategy in {"random", "power_of_two"}:
        assert sum((count - 400) ** 2 / 400 for count in counts) < CHI_SQUARE
    else:
        assert counts == pytest.approx([400] * 5, rel=0.1)


# -------------------------------------------------------------------------------------------------------- Health checks

ALIVE: Final[list[tuple[bool, Reply]]] = [
    (True, Reply.json({"alive": 1})),
    (True, status(401)),
    (True, status(404)),
    (False, Reply.json({"alive": 0})),
    (False, Reply.json({"dead": 1})),
    (False, Reply((b"x" * 20000,) * 3)),
    (False, status(502)),
    (False, REFUSED),
    (False, HANGS),
    (False, Reply((Pause(1e6),))),
]


@pytest.mark.parametrize(("lives", "reply"), ALIVE)
async def test_health_check(lives: bool, reply: Reply) -> None:
    """Replicas are checked concurrently, each with a time-out; a status below 500 is usually healthy."""
    replicas = Replicas(several=True, a=reply, b=Reply.json({"alive": 1}), c=HANGS)
    three = cluster(replicas, health=Health(failures=1, base=100, check_seconds=5, min_available=0))
    start = anyio.current_time()
    assert await three.check() == {url("a"): lives, url("b"): True, url("c"): False}
    assert anyio.current_time() - start == pytest.approx(5)
    assert [each.usable for each in await three.status()][:2] == [lives, True]
    assert {(request.method, request.context.purpose) for request in replicas.requests} == {("GET", "health")}


async def test_repeated_health_checks() -> None:
    """Health checks repeat while the block is open; an exception of the block is raised."""
    replicas = Replicas(several=True, a=Reply.json({"alive": 1}), b=REFUSED)
    both = cluster(replicas, health=Health(failures=2))
    mine = KeyError()
    with pytest.raises(KeyError) as caught:
        async with both.watching(every=10):
            await anyio.sleep(25)
            raise mine
    assert caught.value is mine
    assert replicas.asked in {"ababab", "abbaab", "ababba", "baabab", "bababa", "baabba", "abbaba", "babaab"}
    async with both.watching():
        pass
    with anyio.move_on_after(1) as scope:
        async with both.watching():
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    count = len(replicas.requests)
    await anyio.sleep(100)
    assert len(replicas.requests) == count


@pytest.mark.parametrize("ends", [SystemExit, KeyboardInterrupt])
async def test_exit_during_health_checks(ends: type[BaseException]) -> None:
    """A KeyboardInterrupt or SystemExit in the block is raised unchanged."""
    one = cluster(Replicas(a=Reply.json({"alive": 1})))
    with pytest.raises(ends):
        async with one.watching():
            await anyio.sleep(1)
            raise ends


async def test_an_unexpected_exception_of_a_check() -> None:
    """An unexpected exception of a user's transport in a check is raised unchanged."""
    one = cluster(Replicas(a=Reply(before=OSError("mine"))))
    with pytest.raises(OSError, match="mine"):
        await one.check()


async def test_an_error_of_a_health_check() -> None:
    """An error of a health check is raised, not in a group, and cancels the block."""
    there = cluster(Replicas(a=Reply.json({"alive": 1})))
    with pytest.raises(errors.InsecureTransportError):
        async with there.watching(every=1):
            await anyio.sleep(5)
            there.set_members(["http://user:s3cret@a.example"])
            await anyio.sleep_forever()


@pytest.mark.parametrize("every", [0, -1, math.nan, math.inf])
async def test_invalid_intervals(every: float) -> None:
    """The interval of health checks must be a finite number of seconds above 0."""
    with pytest.raises(errors.ConfigurationError, match="every"):
        async with cluster(Replicas()).watching(every=every):
            pass


@pytest.mark.parametrize("how", ["calls", "checks"])
async def test_an_ejection_is_logged(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each ejection is logged once, with the failures and the seconds."""
    two = cluster(Replicas(several=True, a=REFUSED, b=Reply.json({"alive": 1})), health=Health(failures=2, jitter=0))
    with caplog.at_level(logging.WARNING, "oxygent_client"):
        for _ in range(4):
            await (two.check() if how == "checks" else ended(two, run(url("a"))))
    (text,) = [record.getMessage() for record in caplog.records]
    assert {*re.findall(r"https://a.example|[\d.]+", text)} == {"https://a.example", "2", "5.0"}


# -------------------------------------------------------------------------------------------------------------- Members


async def test_membership() -> None:
    """After an update, kept members keep their state, removed ones finish their calls, and new ones start slowly."""
    replicas = Replicas(several=True, a=REFUSED, b=OK, c=OK)
    some = cluster(replicas, health=Health(failures=1, base=1000, slow_start=10), strategy="least_in_flight")
    some.set_members([url("a"), url("b")])
    assert await ended(some, run()) == "200 b"
    async with some.exchange(run()) as response:
        some.set_members([url("a"), Replica(url("c"), weight=2)])
        assert [piece async for piece in response.chunks] == [b"ok"]
        assert [(each.usable, each.failures) for each in await some.status()] == [(False, 1), (True, 0)]
    assert await ended(some, run()) == "200 c"
    some.set_members([])
    assert await ended(some, run()) == "NoHealthyReplicaError"
    with pytest.raises(errors.ConfigurationError, match="twice"):
        some.set_members([url("a"), Replica(url("a"))])


def test_no_members() -> None:
    """A cluster without members is an error that says what to give."""
    with pytest.raises(errors.ConfigurationError, match=r"members .*http://"):
        Cluster([])


async def test_slow_start_of_new_members() -> None:
    """Slow start: a new replica gets a tenth of its share at first; the first replicas get all of it."""
    replicas = Replicas(a=OK, b=OK)
    both = Cluster([url("a")], transport=replicas, health=Health(slow_start=10))
    await ended(both, run())
    both.set_members([url("a"), url("b")])
    for _ in range(22):
        await ended(both, run())
    assert replicas.asked.count("b") == 2
    await anyio.sleep(10)
    for _ in range(20):
        await ended(both, run())
    assert replicas.asked.count("b") in range(11, 14)


class Names:
    """A resolver with scripted answers."""

    def __init__(self, *answers: list[str] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        """Return the next answer; the last one is repeated."""
        self.asked.append((host, port))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await anyio.sleep(1)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_resolving_names() -> None:
    """A name is resolved again after its interval; a failed, empty or late answer changes nothing."""
    names = Names(["10.0.0.1", "10.0.0.2", "10.0.0.1"], OSError("no"), [], ["10.0.0.2", "fd00::3"])
    fake = FakeTransport({"/sse/chat": OK})
    found = Cluster(
        [DNS("http://agents.default.svc:8082/pre?x=1", every=30, resolver=names), "https://a.example"],
        transport=fake,
        health=Health(slow_start=0),
    )

    async def seen() -> list[str]:
        return [each.url for each in await found.status()]

    first = ["http://10.0.0.1:8082/pre", "http://10.0.0.2:8082/pre", "https://a.example"]
    assert await seen() == first
    for _ in range(3):
        assert await ended(found, run()) in {"200 h", "200 a"}
    assert {"http://10.0.0.1:8082/pre/sse/chat?x=1", "http://10.0.0.2:8082/pre/sse/chat?x=1"} < {
        request.url for request in fake.requests
    }
    assert names.asked == [("agents.default.svc", 8082)]
    for _ in range(2):
        await anyio.sleep(30)
        assert await seen() == first
    await anyio.sleep(30)
    assert await seen() == ["http://10.0.0.2:8082/pre", "http://[fd00::3]:8082/pre", "https://a.example"]
    assert len(names.asked) == 4


async def test_calls_while_a_name_is_resolved() -> None:
    """While one call resolves the name, others use the known addresses."""
    asking, answered = anyio.Event(), anyio.Event()
    addresses = ["10.0.0.1"]

    async def resolver(host: str, port: int) -> list[str]:
        if anyio.current_time() >= start + 30:
            asking.set()
            await answered.wait()
        return addresses

    start = anyio.current_time()
    found = Cluster([DNS("http://agents.svc", resolver=resolver)])
    assert len(await found.status()) == 1
    addresses = ["10.0.0.2", "10.0.0.3"]
    await anyio.sleep(30)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(found.status)
        await asking.wait()
        assert [each.url for each in await found.status()] == ["http://10.0.0.1"]
        answered.set()
    assert [each.url for each in await found.status()] == ["http://10.0.0.2", "http://10.0.0.3"]


async def test_members_that_change_while_a_name_is_resolved() -> None:
    """A call that waited for the resolver uses the new members; calls in flight are still counted."""
    answered = anyio.Event()

    async def resolver(host: str, port: int) -> list[str]:
        await answered.wait()
        return ["10.0.0.1"]

    replicas = Replicas(several=True, b=OK)
    some = Cluster([DNS("http://agents.svc", resolver=resolver)], transport=replicas)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ended, some, run())
        await anyio.wait_all_tasks_blocked()
        some.set_members([url("b")])
        async with some.exchange(run()):
            answered.set()
            await anyio.wait_all_tasks_blocked()
            assert replicas.asked == "bb"
            assert [(each.url, each.in_flight) for each in await some.status()] == [(url("b"), 1)]


async def test_a_resolved_name_is_kept_after_cancellation() -> None:
    """If a call is cancelled while it resolves a second name, the answer for the first is kept."""
    first, second = Names(["10.0.0.1"], ["10.0.0.2"]), Names(["10.1.0.1"])
    found = Cluster([DNS("http://a.svc", every=10, resolver=first), DNS("http://b.svc", every=10, resolver=second)])
    assert [each.url for each in await found.status()] == ["http://10.0.0.1", "http://10.1.0.1"]
    await anyio.sleep(10)
    with anyio.move_on_after(1.5):
        await found.status()
    assert [each.url for each in await found.status()] == ["http://10.0.0.2", "http://10.1.0.1"]
    assert len(first.asked) == 2
    assert len(second.asked) == 2


UNRESOLVED: Final[list[tuple[str, Any]]] = [
    ("OSError", OSError()),
    ("not known", OSError(-2, "not known")),
    ("UnicodeError", UnicodeError("x")),
    ("NotImplementedError", NotImplementedError("not of this world")),
    ("ConfigurationError", ["10.0.0.1/or so\n"]),
    ("TypeError", [None]),
    ("no address", []),
]


@pytest.mark.parametrize(("said", "answer"), UNRESOLVED)
async def test_a_name_that_cannot_be_resolved(said: str, answer: Any) -> None:
    """The error of a name that cannot be resolved has the cause, and the next call resolves it again."""
    names = Names(answer, ["10.0.0.1"])
    found = Cluster([DNS("http://agents.svc", resolver=names)], transport=FakeTransport({"/sse/chat": OK}))
    with pytest.raises(errors.NoHealthyReplicaError) as caught:
        async with found.exchange(run()):
            pass
    assert str(caught.value.__cause__).endswith(f"'agents.svc': {said}")
    assert caught.value.retryable
    found.set_members([])
    with pytest.raises(errors.NoHealthyReplicaError) as caught:
        async with found.exchange(run()):
            pass
    assert caught.value.__cause__ is None
    found.set_members([DNS("http://agents.svc", resolver=names)])
    assert await ended(found, run()) == "200 h"
    assert names.asked == [("agents.svc", 80)] * 2


async def test_a_resolver_that_hangs() -> None:
    """A hanging resolver is waited for five seconds."""

    async def resolver(host: str, port: int) -> list[str]:
        await anyio.sleep_forever()
        return []

    start = anyio.current_time()
    assert await ended(Cluster([DNS("http://a.svc", resolver=resolver)]), run()) == "NoHealthyReplicaError"
    assert anyio.current_time() - start == pytest.approx(5)


# -------------------------------------------------------------------------------------------------------------- Hedging

SLOW: Final = Reply((b"ok",), before=Pause(9))
SLOWER: Final = Reply((b"ok",), before=Pause(99))
LATE_FAULT: Final = attrs.evolve(status(500), before=Pause(4))
LATE_BUSY: Final = attrs.evolve(status(429), before=Pause(4))
LATE_REFUSAL: Final = attrs.evolve(status(403), before=Pause(4))

HEDGED: Final[list[tuple[str, float, str, dict[str, Reply], dict[str, Any]]]] = [
    # the result, when, the requested replicas, the replies, the context
    ("200 a", 0, "a", {"a": OK, "b": OK}, {}),
    ("200 b", 2, "ab", {"a": SLOW, "b": OK}, {}),
    ("200 a", 9, "ab", {"a": SLOW, "b": SLOW}, {}),
    ("200 a", 9, "ab", {"a": SLOW, "b": SLOWER}, {}),
    ("200 a", 9, "ab", {"a": SLOW, "b": REFUSED}, {}),
    ("200 a", 9, "ab", {"a": SLOW, "b": status(500)}, {}),
    ("200 a", 9, "ab", {"a": SLOW, "b": status(429)}, {}),
    # of two refusals, the one after which an agent may have run is handed on
    ("429 b", 4, "ab", {"a": LATE_BUSY, "b": status(429)}, {}),
    ("500 a", 4, "ab", {"a": LATE_FAULT, "b": status(429)}, {}),
    ("ConnectionLostError", 4, "abc", {"a": LATE_BUSY, "b": status(429), "c": LOST}, {}),
    ("200 c", 2, "abc", {"a": SLOW, "b": REFUSED, "c": OK}, {}),
    ("200 b", 11, "ab", {"a": LATE_FAULT, "b": SLOW}, {}),
    ("500 a", 4, "ab", {"a": LATE_FAULT, "b": REFUSED}, {}),
    ("200 b", 0, "ab", {"a": REFUSED, "b": OK}, {}),
    ("ConnectError", 0, "ab", {"a": REFUSED, "b": REFUSED}, {}),
    ("200 a", 9, "a", {"a": SLOW}, {}),
    # a refusal of one does not show whether the other began
    *(("200 a", 9, "ab", {"a": SLOW, "b": status(code)}, {}) for code in (204, 307, 401, 403, 404)),
    ("200 b", 11, "ab", {"a": LATE_REFUSAL, "b": SLOW}, {}),
    ("403 a", 4, "ab", {"a": LATE_REFUSAL, "b": REFUSED}, {}),
    ("503 b", 4, "ab", {"a": LATE_REFUSAL, "b": status(503)}, {}),
    ("500 a", 4, "ab", {"a": LATE_FAULT, "b": status(401)}, {}),
    ("ConnectionLostError", 4, "ab", {"a": LATE_REFUSAL, "b": LOST}, {}),
    ("ConnectionLostError", 4, "ab", {"a": attrs.evolve(BUSY, before=Pause(4)), "b": LOST}, {}),
    ("200 a", 9, "a", {"a": SLOW, "b": OK}, {"idempotent": False}),
]


@pytest.mark.parametrize(("end", "seconds", "asked", "replies", "context"), HEDGED)
async def test_hedging(end: str, seconds: float, asked: str, replies: dict[str, Any], context: dict[str, Any]) -> None:
    """After a delay a second replica is tried; the first good response is used and the other exchange left."""
    replicas = Replicas(several=True, **replies)
    start = anyio.current_time()
    hedged = cluster(replicas, hedge=Hedge(after=2))
    known: dict[str, Any] = {"idempotent": True, **context}
    try:
        async with hedged.exchange(run(**known)) as response:
            assert anyio.current_time() - start == pytest.approx(seconds)
            assert replicas.open == 1
            assert sum(each.in_flight for each in await hedged.status()) == 1
            assert f"{response.status} {response.request.base_url[8]}" == end
            assert b"".join([piece async for piece in response.chunks]) in {b"ok", b"body"}
    except errors.OxyError as error:
        assert type(error).__name__ == end  # noqa: PT017  (a row of the table may end in an error)
        assert anyio.current_time() - start == pytest.approx(seconds)
    assert replicas.asked == asked
    assert replicas.open == 0


async def test_hedging_with_one_replica(caplog: pytest.LogCaptureFixture) -> None:
    """With one replica there is no hedge, and its error is the call's."""
    replicas = Replicas(several=True, a=[REFUSED, LOST])
    with caplog.at_level(logging.INFO, "oxygent_client"):
        for error in ("ConnectError", "ConnectionLostError"):
            assert await ended(cluster(replicas, hedge=Hedge(after=0)), run(idempotent=True)) == error
    assert replicas.asked == "aa"
    assert caplog.records == []


async def test_a_hedge_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The hedge has its own attempt number, and is logged with the replica and without a secret."""
    replicas = Replicas(several=True, a=SLOW)
    secret = "https://user:s3cret@b.example?key=s3cret"
    replicas.fakes[secret] = FakeTransport({"/sse/chat": OK})
    hedged = cluster(replicas, hedge=Hedge(after=2))
    with caplog.at_level(logging.INFO, "oxygent_client"):
        async with hedged.exchange(run(idempotent=True, attempt=4)) as response:
            assert response.request.context.attempt == 5
    (said,) = caplog.records
    assert (said.levelname, *(vars(said)[name] for name in ("event", "attempt", "seconds"))) == ("INFO", "hedge", 5, 2)
    assert re.findall(r"https:\S+|[\d.]+", said.getMessage()) == ["2.0", "https://b.example"]


async def test_cancelling_a_hedged_call() -> None:
    """A cancellation closes both exchanges, and the cluster can be used again."""
    replicas = Replicas(several=True, a=SLOW, b=SLOW)
    hedged = cluster(replicas, hedge=Hedge(after=2))
    for seconds in (1, 5):
        with anyio.move_on_after(seconds) as scope:
            async with hedged.exchange(run(idempotent=True)):
                pass
        assert scope.cancelled_caught
        assert replicas.open == 0
    assert await ended(hedged, run(idempotent=True)) in {"200 a", "200 b"}


async def test_two_responses_at_once() -> None:
    """Of two responses at once, one is used and the other closed before; an error in closing it is ignored."""
    moment = Reply((b"ok",), before=Pause(2))
    replicas = Replicas(several=True, a=attrs.evolve(moment, before=Pause(4)), b=moment)
    hedged = cluster(replicas, hedge=Hedge(after=2))
    async with hedged.exchange(run(idempotent=True, trace_id="t")) as response:
        assert replicas.open == 1
        assert hedged.home_of("t") == RunLocation(response.request.base_url, "")
    assert replicas.asked == "ab"


@pytest.mark.parametrize(
    ("home", "replies"),
    [
        ("a", {"a": SLOW, "b": SLOW}),
        ("b", {"a": SLOW, "b": OK}),
        ("a", {"a": SLOW, "b": REFUSED}),
        ("c", {"a": SLOW, "b": REFUSED, "c": OK}),
    ],
    ids=["first", "second", "first, the second is down", "third"],
)
async def test_the_location_of_a_hedged_run(home: str, replies: dict[str, Any]) -> None:
    """The location of a hedged run is the replica whose response is used."""
    hedged = cluster(Replicas(several=True, **replies), hedge=Hedge(after=2))
    known: dict[str, Any] = {"idempotent": True, "trace_id": "t", "node_id": "n", "remote_trace_id": "r"}
    async with hedged.exchange(run(**known)) as response:
        assert response.request.base_url == url(home)
        assert hedged.home_of("t") == RunLocation(url(home), "r")
        assert hedged.home_of("n") == RunLocation(url(home), "r")


@pytest.mark.parametrize("location", ["/b/sse/chat/", "/moved/sse/chat"])
async def test_two_replicas_of_one_host(location: str) -> None:
    """A redirect is followed at the replica that sent it, even if another has the same host."""
    host = "https://one.example"
    fake = FakeTransport({"/sse/chat": Reply(status=307, headers={"location": location}), location: OK})
    ours = Cluster([f"{host}/a", f"{host}/b"], transport=fake, rng=float)
    asked = [replica.url for replica in ours.members]
    for replica in (asked[0], asked[1]):
        redirect = RedirectTransport(ours, Redirect(any_path=True))
        async with redirect.exchange(run(trace_id="t")) as response:
            assert response.request.url == f"{host}{location}"
            assert ours.home_of("t") == RunLocation(replica, "")
            assert {each.url: each.in_flight for each in await ours.status() if each.in_flight} == {replica: 1}


@pytest.mark.parametrize(
    ("replica", "named"),
    [
        ("https://one.example/a", "HTTPS://ONE.example:443/a/"),
        ("https://one.example/b", "https://me:pw@one.example/b?key=1"),
        ("https://one.example/b/c", "https://one.example/b/c/moved"),
        ("https://one.example/b", "https://one.example/b/cd"),
        ("http://127.0.0.2:1", "http://127.0.0.2:1/"),
        ("http://127.0.0.1:1", "http://localhost:1"),
    ],
)
async def test_a_replica_by_another_spelling(replica: str, named: str) -> None:
    """A request may name a replica in another spelling; of several at one host, the path decides."""
    urls = [f"https://one.example/{path}" for path in ("a", "b", "b/c")]
    fake = FakeTransport({"/sse/chat": OK})
    ours = Cluster([*urls, "http://127.0.0.1:1", "http://127.0.0.2:1"], transport=fake)
    async with ours.exchange(run(named, trace_id="t")):
        assert ours.home_of("t") == RunLocation(replica, "")


# ----------------------------------------------------------------------------------------------------------- Plain http

SECURE: Final[list[tuple[bool, str, HTTPSOnly]]] = [
    (True, "https://a.example", HTTPSOnly(https_only=True)),
    (False, "http://a.example", HTTPSOnly()),
    (True, "http://a.example", HTTPSOnly(plaintext_hosts=("a.example",))),
    (True, "http://127.0.0.1:1", HTTPSOnly()),
    (False, "http://127.0.0.1:1", HTTPSOnly(https_only=True)),
]


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(("may", "there", "policy"), SECURE)
async def test_plain_http(may: bool, there: str, policy: HTTPSOnly, named: bool) -> None:
    """The rules for plain http apply to the replica's URL, before anything is sent."""
    fake = FakeTransport({"/sse/chat": OK})
    transport = HTTPSOnlyTransport(Cluster([there], transport=fake), policy)
    request = attrs.evolve(run(there if named else ""), headers={"authorization": "Bearer s3cret"})
    assert (await ended(transport, request))[: 3 if may else 5] == ("200" if may else "Insec")
    assert int(may) == len(fake.requests)


@pytest.mark.parametrize("name", ["authorization", "x-mine"], ids=["by its name", "marked"])
async def test_plain_http_without_a_policy(name: str) -> None:
    """Without a policy no credential, not even a marked one, is sent over plain http."""
    fake = FakeTransport({})
    request = attrs.evolve(run(secret_headers=frozenset({"x-mine"})), headers={name: "s3cret"})
    assert await ended(Cluster(["http://a.example"], transport=fake), request) == "InsecureTransportError"
    assert fake.requests == []


async def test_a_health_check_over_plain_http() -> None:
    """Without a policy no credential is sent with a health check over plain http."""
    fake = FakeTransport({})
    with pytest.raises(errors.InsecureTransportError):
        await Cluster(["http://user:s3cret@a.example"], transport=fake).check()
    assert fake.requests == []


@pytest.mark.parametrize(
    ("named", "there", "expected"),
    [
        ("localhost", "127.0.0.1", "200"),
        ("agents.svc", "::1", "200"),
        ("localhost", "192.0.2.2", "Ins"),
        ("agents.localhost", "192.0.2.2", "Ins"),
        ("localhost", "127.1", "Ins"),
    ],
)
async def test_plain_http_to_a_resolved_address(named: str, there: str, expected: str) -> None:
    """A credential may be sent over plain http to a resolved loopback address, whatever its name is."""
    fake = FakeTransport({"/sse/chat": OK})
    found = Cluster([DNS(f"http://{named}:8082", resolver=Names([there]))], transport=fake)
    request = attrs.evolve(run(), headers={"authorization": "Bearer s3cret"})
    assert (await ended(HTTPSOnlyTransport(found), request))[:3] == expected
    assert len(fake.requests) == (expected == "200")


async def test_plain_http_to_an_allowed_name() -> None:
    """For replicas of a resolved name the allowed name counts, not their addresses."""
    fake = FakeTransport({"/sse/chat": OK})
    found = Cluster([DNS("http://agents.svc:8082", resolver=Names(["10.0.0.1"]))], transport=fake)
    request = attrs.evolve(run(), headers={"authorization": "Bearer s3cret"})
    assert await ended(HTTPSOnlyTransport(found), request) == "InsecureTransportError"
    allowed = HTTPSOnlyTransport(found, HTTPSOnly(plaintext_hosts=("agents.svc",)))
    assert await ended(allowed, request) == "200 h"
    assert await ended(allowed, attrs.evolve(request, base_url="http://10.0.0.1:8082")) == "200 h"


# --------------------------------------------------------------------------------------------------------------- Values


async def test_affinity() -> None:
    """With affinity a group stays at one replica, and goes to one other while that is ejected."""
    replicas = Replicas(a=OK, b=OK, c=OK, d=OK)
    some = cluster(replicas, strategy="affinity")
    for _ in range(3):
        for group in "12345678":
            await ended(some, run(group_id=group))
    asked = replicas.asked
    assert asked[:8] == asked[8:16] == asked[16:]
    assert len(set(asked)) > 1
    home = asked[0]
    replicas.fakes[url(home)] = FakeTransport({"/sse/chat": REFUSED})
    ends = {await ended(some, run(group_id="1")) for _ in range(5)}
    assert len(ends) == 1
    assert f"200 {home}" not in ends


WRONG: Final[list[tuple[str, Any, dict[str, Any]]]] = [
    ("members", "https://a.example", {}),
    ("http:// or https://", ["ftp://a.example"], {}),
    ("members .* int", [7], {}),
    ("twice", ["https://a.example", "https://a.example"], {}),
    ("Cluster.strategy must be .*round_robin", ["https://a.example"], {"strategy": "best"}),
    ("Cluster.tries", ["https://a.example"], {"tries": 0}),
]


@pytest.mark.parametrize(("said", "members", "options"), WRONG)
def test_invalid_arguments(said: str, members: Any, options: dict[str, Any]) -> None:
    """An invalid argument of a cluster raises an error with its name."""
    with pytest.raises(errors.ConfigurationError, match=said):
        Cluster(members, **options)


@pytest.mark.parametrize(
    ("said", "make"),
    [
        ("DNS", lambda: DNS("https://agents.svc")),
        ("http:// or https://", lambda: DNS("agents.svc")),
        ("Replica.weight", lambda: Replica("https://a.example", weight=0)),
        ("Hedge.after", lambda: Hedge(-1)),
    ],
)
def test_invalid_members(said: str, make: Any) -> None:
    """An invalid argument of a member raises an error with its name."""
    with pytest.raises(errors.ConfigurationError, match=said):
        make()


def test_repr_shows_no_secret() -> None:
    """Reprs show neither user information nor a query."""
    secret = "user:s3cret@a.example:81/p?key=s3cret"
    shown = repr(Cluster([f"https://{secret}", Replica(f"http://{secret}"), DNS(f"http://{secret}x")]))
    assert "s3cret" not in shown
    assert "Replica('http://a.example:81/p', weight=1)" in shown
    assert "DNS('http://a.example:81/p', every=30)" in shown


COPIES: Final[dict[str, Callable[[Cluster], Cluster]]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda some: pickle.loads(pickle.dumps(some)),
}


@pytest.mark.parametrize("clone", COPIES.values(), ids=COPIES)
def test_a_copy_has_the_configuration(clone: Callable[[Cluster], Cluster]) -> None:
    """A copy has the members and settings of its cluster."""
    some = Cluster([url("a"), DNS("http://agents.svc")], strategy="random", hedge=Hedge(2), health=Health(failures=7))
    other = clone(some)
    assert other.members == some.members
    assert other.strategy == "random"
    assert other.hedge == some.hedge
    assert other.health == some.health


async def test_closing() -> None:
    """`aclose` closes the inner transport."""
    replicas = Replicas(a=REFUSED)
    one = cluster(replicas)
    await ended(one, run())
    assert [each.failures for each in await one.status()] == [1]
    await one.aclose()
    assert replicas.closed == 1


def test_two_event_loops() -> None:
    """Each event loop has its own health state."""
    replicas = Replicas(a=REFUSED)
    one = cluster(replicas)

    async def failures() -> list[int]:
        await ended(one, run())
        return [each.failures for each in await one.status()]

    assert [anyio.run(failures, backend=backend) for backend in ("asyncio", "trio", "asyncio")] == [[1], [1], [1]]
