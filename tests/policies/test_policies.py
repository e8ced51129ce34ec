"""Policies together: their order, shared state, and each wrapper as a transport."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any, Final, get_args

import anyio
import attrs
import pytest

from oxygent_client import HTTPRequest, Transport, errors, policies
from oxygent_client.policies import (
    ORDER,
    APIKey,
    BasicAuth,
    BearerAuth,
    BearerAuthTransport,
    ConcurrencyLimit,
    ConcurrencyLimitTransport,
    Headers,
    HTTPSOnly,
    HTTPSOnlyTransport,
    Policies,
    Policy,
    PolicyKind,
    RateLimit,
    RateLimitTransport,
    Redirect,
    RedirectTransport,
    Retry,
    RetryBudget,
    RetryTransport,
    Wrapper,
)
from oxygent_client.policies._base import Layer
from oxygent_client.testing import FakeTransport, Peer, Reply, check_transport, pause
from oxygent_client.transports import Context
from oxygent_client.transports.asgi import ASGITransport
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

URL: Final = "https://remote.example"
IN_PROCESS: Final = ("refused", "reset_unframed", "closes_kept", "connecting", "closing")
"""Promises of a transport that can only be checked on a network."""
GOOD: Final = Reply((b"x",))
BUSY: Final = Reply(status=429, headers={})
MOVED: Final = Reply(status=307, headers={"location": "/new"})


async def no_headers(_: HTTPRequest) -> Mapping[str, str]:
    """Return no headers."""
    return {}


VALUES: Final[dict[str, Any]] = {
    # each policy by the name of its class, as a value
    "ConcurrencyLimit": ConcurrencyLimit(1000),
    "RateLimit": RateLimit(1000, burst=1000),
    "Retry": Retry(),
    "BearerAuth": BearerAuth("token-1"),
    "BasicAuth": BasicAuth("user", "word-1"),
    "APIKey": APIKey("key-1"),
    "Headers": Headers(no_headers),
    "Redirect": Redirect(),
    "HTTPSOnly": HTTPSOnly(),
}
each_value = pytest.mark.parametrize("name", VALUES)
ONE_EACH: Final = [value for name, value in VALUES.items() if name not in {"BasicAuth", "APIKey", "Headers"}]


def run(base: str = URL, **said: Any) -> HTTPRequest:
    """Return a run at this server."""
    return HTTPRequest("POST", base, "/sse/chat", body=b"{}", context=Context(**said))


async def test_a_layer_alone() -> None:
    """A layer that overrides nothing passes requests on."""
    assert await met(Layer(FakeTransport({"/sse/chat": GOOD}))) == 200


async def met(transport: Transport, request: HTTPRequest | None = None) -> int:
    """Return the status that is handed on."""
    async with transport.exchange(request or run()) as response:
        async for _ in response.chunks:
            pass
        return response.status


def pickled(value: Any) -> Any:
    """Return the copy made by pickling."""
    return pickle.loads(pickle.dumps(value))


def chain(transport: Any) -> list[str]:
    """Return the names of the wrappers, from the outside in."""
    names: list[str] = []
    while transport is not None:
        names.append(type(transport).__name__)
        transport = getattr(transport, "inner", None)
    return names


class Noting(FakeTransport):
    """A transport that records the times of its requests."""

    def __init__(self, replies: Mapping[str, Reply | Iterable[Reply]]) -> None:
        super().__init__(replies)
        self.times: list[float] = []

    def exchange(self, request: HTTPRequest, /) -> Any:
        """As `Transport.exchange`."""
        self.times.append(anyio.current_time())
        return super().exchange(request)


# ------------------------------------------------------------------------------------------------------------- Wrappers


@each_value
def test_each_is_a_policy(name: str) -> None:
    """A policy has its place in the order, compares by content, and has a wrapper of its name."""
    value = VALUES[name]
    assert isinstance(value, Policy)
    assert value.kind in ORDER
    inner = FakeTransport({})
    wrapper = value.wrap(inner, value.new_state())
    assert type(wrapper) is getattr(policies, f"{name}Transport")
    assert isinstance(wrapper, Wrapper)
    assert isinstance(wrapper, Transport)
    assert wrapper.inner == inner
    assert value.kind == wrapper.kind
    assert value == value  # noqa: PLR0124  (it is asked whenever a chain is built)
    for secret in ("token-1", "word-1", "key-1"):
        assert secret not in repr(value) + repr(wrapper)


async def test_each_keeps_the_promises_of_a_transport() -> None:
    """All wrappers together, and each wrapper outside that chain, keep the promises of a transport."""
    chains: list[list[Any]] = [ONE_EACH, *([value] for value in VALUES.values() if value not in ONE_EACH)]
    for chosen in chains:
        follows = ["redirect"] * any(isinstance(value, Redirect) for value in chosen)
        # A 401 before a token refresh is drained for a while before the next request.
        follows += ["left_early"] * any(value.kind == "auth" for value in chosen)

        def make(peer: Peer, chosen: list[Any] = chosen) -> Transport:
            return Policies().wrap(ASGITransport(peer.app), *chosen)

        report = await check_transport(make, skip=follows)
        assert {*report.names("skipped")} == {*IN_PROCESS, *follows}, str(report)


# ---------------------------------------------------------------------------------------------------------------- Order


def test_the_order() -> None:
    """Each kind of policy has one place in the order."""
    assert sorted(get_args(PolicyKind)) == sorted(ORDER)
    assert {value.kind for value in VALUES.values()} == {*ORDER}


@pytest.mark.parametrize("given", [ONE_EACH, ONE_EACH[::-1], ONE_EACH[3:] + ONE_EACH[:3]])
def test_order_of_arguments(given: list[Any]) -> None:
    """The chain does not depend on the order of the arguments, and has only the given policies."""
    whole = [
        "ConcurrencyLimitTransport",
        "RateLimitTransport",
        "RetryTransport",
        "BearerAuthTransport",
        "RedirectTransport",
        "HTTPSOnlyTransport",
        "FakeTransport",
    ]
    assert chain(Policies().wrap(FakeTransport({}), *given)) == whole
    assert chain(Policies().wrap(FakeTransport({}), Retry())) == ["RetryTransport", "FakeTransport"]
    bare = FakeTransport({})
    assert Policies().wrap(bare) is bare


async def test_concurrency_stands_outside_the_rate() -> None:
    """The rate limit is inside the concurrency limit: queued runs do not begin faster than the rate allows."""
    runs = [Reply((pause(11),)), Reply((pause(10),)), GOOD, GOOD]  # the first two end together
    noting = Noting({"/sse/chat": iter(runs)})
    transport = Policies().wrap(noting, RateLimit(1), ConcurrencyLimit(2))
    start = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for _ in runs:
            tasks.start_soon(met, transport)
    assert [round(time - start, 6) for time in noting.times] == [0, 1, 11, 12]


async def test_concurrency_stands_outside_retry() -> None:
    """Retries are inside the concurrency limit: a call keeps its slot during backoff."""
    noting = Noting({"/sse/chat": iter([Reply(status=429, headers={"retry-after": "9"}), GOOD, GOOD])})
    transport = Policies().wrap(noting, Retry(base=0), ConcurrencyLimit(1))
    async with anyio.create_task_group() as tasks:
        for name in "ab":
            tasks.start_soon(met, transport, run(trace_id=name))
    first, second, third = (sent.context.trace_id for sent in noting.requests)
    assert first == second != third


async def test_the_rate_stands_outside_retry() -> None:
    """Retries are inside the rate limit: a retry takes no turn."""
    noting = Noting({"/sse/chat": iter([Reply(status=429, headers={"retry-after": "2"}), GOOD, GOOD])})
    transport = Policies().wrap(noting, Retry(base=0), RateLimit(0.1))
    start = anyio.current_time()
    assert [await met(transport), await met(transport)] == [200, 200]
    assert [round(time - start, 6) for time in noting.times] == [0, 2, 10]


async def test_retry_stands_outside_auth() -> None:
    """Authentication is inside retries: a retry asks for the credentials again."""
    given = iter(("one", "two"))

    async def provide(_: HTTPRequest) -> Mapping[str, str]:
        return {"x-user": next(given)}

    fake = FakeTransport({"/sse/chat": iter([BUSY, GOOD])})
    assert await met(Policies().wrap(fake, Headers(provide), Retry())) == 200
    assert [sent.headers["x-user"] for sent in fake.requests] == ["one", "two"]


async def test_auth_stands_outside_redirects() -> None:
    """Redirects are inside authentication: a redirected call has credentials, and a 401 refreshes the token."""
    given = iter(("one", "two"))

    async def provide() -> str:
        return next(given)

    refused = Reply(status=401, headers={})
    fake = FakeTransport({"/sse/chat": MOVED, "/new": iter([refused, GOOD])})
    assert await met(Policies().wrap(fake, BearerAuth(provider=provide), Redirect())) == 200
    assert [(sent.path, sent.headers["authorization"]) for sent in fake.requests] == [
        ("/sse/chat", "Bearer one"),
        ("/new", "Bearer one"),
        ("/sse/chat", "Bearer two"),
        ("/new", "Bearer two"),
    ]


async def test_redirects_stand_outside_https_only() -> None:
    """The https check is inside redirects: a credential in a redirect's query is not sent over plain http."""
    led = Reply(status=307, headers={"location": "/new?api_key=s3cret"})
    fake = FakeTransport({"/sse/chat": led, "/new": GOOD})
    transport = Policies().wrap(fake, HTTPSOnly(), Redirect())
    with pytest.raises(errors.InsecureTransportError):
        await met(transport, run("http://remote.example"))
    assert len(fake.requests) == 1
    assert await met(transport) == 200


async def test_https_only_stands_inside_auth() -> None:
    """The https check is inside authentication: a credential added by a policy is not sent over plain http."""
    fake = FakeTransport({"/sse/chat": GOOD})
    transport = Policies().wrap(fake, HTTPSOnly(), BearerAuth("token-1"))
    with pytest.raises(errors.InsecureTransportError):
        await met(transport, run("http://remote.example"))
    assert fake.requests == []


# ------------------------------------------------------------------------------------------------------ No policy twice


@each_value
def test_kinds_of_the_transport(name: str) -> None:
    """A kind in the transport's own chain is not added again, however deep it is, except a check."""
    value = VALUES[name]
    mine = value.wrap(FakeTransport({}), value.new_state())
    outer: Any = Redirect() if name != "Redirect" else Retry()
    deep = outer.wrap(mine, outer.new_state())
    expected = [f"{name}Transport"] if name == "HTTPSOnly" else []
    assert [*expected, *chain(deep)] == chain(Policies().wrap(deep, value))


async def test_retries_are_not_multiplied() -> None:
    """A transport with its own retries is not retried."""
    fake = FakeTransport({"/sse/chat": BUSY})
    assert await met(Policies().wrap(RetryTransport(fake, Retry(attempts=2)), Retry(attempts=5))) == 429
    assert len(fake.requests) == 2


async def test_a_check_is_never_left_out() -> None:
    """The agent's check is added even if the transport has one."""
    lax = HTTPSOnlyTransport(FakeTransport({"/sse/chat": GOOD}), HTTPSOnly(plaintext_hosts=("remote.example",)))
    with pytest.raises(errors.InsecureTransportError):
        await met(Policies().wrap(lax, HTTPSOnly(https_only=True)), run("http://remote.example"))


async def test_a_check_by_another_policy() -> None:
    """A URL to which credentials could be sent is checked again once the transport has another policy."""
    fake = FakeTransport({"/sse/chat": GOOD})
    transport = HTTPSOnlyTransport(fake, HTTPSOnly(plaintext_hosts=("remote.example",)))
    request = HTTPRequest("POST", "http://remote.example", "/sse/chat", {"authorization": "Bearer token-1"})
    assert await met(transport, request) == 200
    transport.policy = HTTPSOnly()
    with pytest.raises(errors.InsecureTransportError):
        await met(transport, request)
    assert len(fake.requests) == 1


WRONG: Final[list[tuple[str, tuple[Any, ...]]]] = [
    ("'retry': Retry, Retry", (Retry(), Retry(attempts=5))),
    ("'retry': Retry, Retry", (Retry(), Retry())),
    ("'auth'", (BearerAuth("token-1"), Retry(), APIKey("key-1"))),
    ("^Retry ", (Retry,)),
    ("^RetryTransport ", (RetryTransport(FakeTransport({})),)),
    ("^str ", ("token-1",)),
    ("^NoneType ", (Retry(), None)),
]


@pytest.mark.parametrize(("text", "given"), WRONG)
def test_invalid_combinations(text: str, given: tuple[Any, ...]) -> None:
    """Two policies of a kind, or a value that is no policy, raise an error without a secret."""
    with pytest.raises(errors.ConfigurationError, match=text) as caught:
        Policies().wrap(FakeTransport({}), *given)
    assert "-1" not in str(caught.value)


def test_an_unknown_kind() -> None:
    """A policy of an unknown kind is refused."""

    @attrs.frozen
    class Mine:
        """A policy with its own kind."""

        kind = "mine"

        def new_state(self) -> None:
            """Return None."""

        def wrap(self, inner: Transport, _state: None) -> Transport:
            return inner

    mine: Any = Mine()
    with pytest.raises(errors.ConfigurationError, match=r"^Mine "):
        Policies().wrap(FakeTransport({}), mine)


# ---------------------------------------------------------------------------------------------------------------- State


async def test_one_budget_for_all_chains() -> None:
    """Chains with equal policies share one retry budget."""
    kept, retry = Policies(), Retry(attempts=2, budget=3, base=0)
    fake = FakeTransport({"/sse/chat": BUSY})
    for _ in range(5):
        assert await met(kept.wrap(fake, copy.copy(retry))) == 429
    assert len(fake.requests) == 5 + 3
    assert await met(kept.wrap(fake, Retry(attempts=2, budget=1, base=0))) == 429
    assert len(fake.requests) == 5 + 3 + 2


async def test_one_set_of_slots_for_all_chains() -> None:
    """Chains with equal policies share their concurrency slots."""
    kept, limit = Policies(), ConcurrencyLimit(1)
    one, other = (kept.wrap(FakeTransport({"/sse/chat": GOOD}), limit) for _ in range(2))
    async with one.exchange(run()):
        with anyio.move_on_after(1) as scope:
            await met(other)
    assert scope.cancelled_caught
    assert await met(other) == 200


@pytest.mark.parametrize("make", [pickled, copy.deepcopy, copy.copy])
async def test_a_copy_has_new_state(make: Callable[[Policies], Policies]) -> None:
    """A copy starts with new state."""
    kept, retry = Policies(), Retry(attempts=2, budget=1, base=0)
    fake = FakeTransport({"/sse/chat": BUSY})
    await met(kept.wrap(fake, retry))
    assert len(fake.requests) == 2
    await met(make(kept).wrap(fake, retry))
    assert len(fake.requests) == 4
    await met(kept.wrap(fake, retry))
    assert len(fake.requests) == 5


def test_shared_state() -> None:
    """A wrapper made by hand has its own state, or takes a shared one."""
    fake = FakeTransport({})
    budget = RetryBudget(1, 1)
    assert RetryTransport(fake, budget=budget).budget is budget
    assert RetryTransport(fake).budget is not RetryTransport(fake).budget


BY_HAND: Final[list[Callable[[FakeTransport], Any]]] = [
    lambda fake: ConcurrencyLimitTransport(fake, ConcurrencyLimit(1)),
    lambda fake: RateLimitTransport(fake, RateLimit(1)),
    lambda fake: BearerAuthTransport(fake, BearerAuth("token-1")),
    RedirectTransport,
    HTTPSOnlyTransport,
]


@pytest.mark.parametrize("make", BY_HAND, ids=["concurrency", "rate", "auth", "redirect", "https-only"])
def test_a_wrapper_made_by_hand(make: Callable[[FakeTransport], Any]) -> None:
    """A wrapper made by hand wraps the transport that it is given."""
    fake = FakeTransport({})
    assert make(fake).inner is fake
