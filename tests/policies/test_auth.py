"""Authentication policies: bearer tokens and token refresh, basic credentials, API keys and other headers."""

from __future__ import annotations

import copy
import functools
import logging
import math
import os
import pickle
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest

from oxygent_client import HTTPRequest, SSEOxyGent, Timeouts
from oxygent_client._core.transport import Context
from oxygent_client.errors import (
    AuthenticationError,
    ClosedError,
    ConfigurationError,
    ConnectionLostError,
    DeadlineExceededError,
    HandlerError,
    InsecureTransportError,
    Outcome,
    OxyError,
    PermissionDeniedError,
)
from oxygent_client.policies import (
    APIKey,
    APIKeyTransport,
    BasicAuth,
    BasicAuthTransport,
    BearerAuth,
    BearerAuthTransport,
    Headers,
    HeadersTransport,
    Policies,
    Policy,
    Token,
)
from oxygent_client.testing import FakeTransport, Pause, Reply, answer, close
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
    from pathlib import Path

    from oxygent_client import HTTPResponse, Transport

OK: Final = Reply.json({"ok": True})
DENIED: Final = Reply((b"who ", b"are you?"), status=401, headers={"www-authenticate": "Bearer"})
VARIABLE: Final = "OXYGENT_CLIENT_TEST_SECRET"
SECRET: Final = "CANARY-s3cr3t"


def remote(*replies: Reply) -> FakeTransport:
    """Return a server with these replies, or with 200."""
    return FakeTransport({"/": replies or OK})


def request(headers: Mapping[str, str] | None = None, deadline: float | None = None) -> HTTPRequest:
    """Return a request as the agent sends it."""
    own = {"accept": "text/event-stream", **(headers or {})}
    return HTTPRequest("POST", "http://remote", "/", own, b"{}", context=Context(deadline=deadline))


async def send(transport: Transport, headers: Mapping[str, str] | None = None, **more: Any) -> tuple[int, bytes]:
    """Return the status and the body."""
    async with transport.exchange(request(headers, **more)) as response:
        return response.status, b"".join([chunk async for chunk in response.chunks])


def sent(inner: FakeTransport, name: str = "authorization") -> list[str | None]:
    """Return this header of each request."""
    return [each.headers.get(name) for each in inner.requests]


def giving(*script: Any) -> Callable[[], Awaitable[Any]]:
    """Return a provider of these values in turn; an exception is raised."""
    values = iter(script)

    async def provider() -> Any:
        await anyio.sleep(1)
        value = next(values)
        if isinstance(value, Exception):
            raise value
        return value

    return provider


async def a_token() -> str:
    """A provider that can be pickled: it is defined in a module."""
    return SECRET


async def some_headers(request: HTTPRequest) -> dict[str, str]:
    """Return headers, as a provider that can be pickled."""
    return {"X-Tenant": "acme", "x-size": str(len(request.body))}


# -------------------------------------------------------------------------------------------------------- Added headers

ADDED: Final[dict[str, tuple[Callable[[FakeTransport], HeadersTransport | BearerAuthTransport], dict[str, str]]]] = {
    "bearer": (lambda inner: BearerAuthTransport(inner, BearerAuth("t")), {"authorization": "Bearer t"}),
    "bearer provider": (
        lambda inner: BearerAuthTransport(inner, BearerAuth(provider=a_token)),
        {"authorization": f"Bearer {SECRET}"},
    ),
    # The examples of RFC 7617, sections 2 and 2.1.
    "basic": (
        lambda inner: BasicAuthTransport(inner, BasicAuth("Aladdin", "open sesame")),
        {"authorization": "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="},
    ),
    "basic in UTF-8": (
        lambda inner: BasicAuthTransport(inner, BasicAuth("test", "123£")),
        {"authorization": "Basic dGVzdDoxMjPCow=="},
    ),
    "basic without a password": (
        lambda inner: BasicAuthTransport(inner, BasicAuth("key")),
        {"authorization": "Basic a2V5Og=="},
    ),
    "basic provider": (
        lambda inner: BasicAuthTransport(inner, BasicAuth("test", provider=giving("123£"))),
        {"authorization": "Basic dGVzdDoxMjPCow=="},
    ),
    "key": (lambda inner: APIKeyTransport(inner, APIKey("k 1")), {"x-api-key": "k 1"}),
    "key elsewhere": (lambda inner: APIKeyTransport(inner, APIKey("k", header="Api-Key")), {"api-key": "k"}),
    "key provider": (lambda inner: APIKeyTransport(inner, APIKey(provider=giving("k"))), {"x-api-key": "k"}),
    "headers": (
        lambda inner: HeadersTransport(inner, Headers(some_headers)),
        {"x-tenant": "acme", "x-size": "2"},
    ),
}


@pytest.mark.parametrize("case", ADDED)
async def test_added_headers(case: str) -> None:
    """The headers are added and marked as credentials; `aclose` closes the inner transport."""
    make, added = ADDED[case]
    inner = remote()
    wrapper = make(inner)
    assert await send(wrapper) == (200, b'{"ok": true}')
    marked = Context(secret_headers=frozenset(added))
    assert [attrs.evolve(request(), headers={"accept": "text/event-stream", **added}, context=marked)] == inner.requests
    assert wrapper.inner is inner
    await wrapper.aclose()
    assert inner.closed


@pytest.mark.parametrize("case", ADDED)
async def test_user_information_in_the_url(case: str) -> None:
    """User information in the URL beside an authorization header is refused, and nothing is sent."""
    make, added = ADDED[case]
    inner = remote()
    asked = attrs.evolve(request(), base_url=f"https://ada:{SECRET}@remote")
    if "authorization" not in added:
        async with make(inner).exchange(asked) as response:
            assert response.status == 200
        return
    with pytest.raises(ConfigurationError, match="auth=") as caught:
        async with make(inner).exchange(asked):
            pass
    assert inner.requests == []
    assert caught.value.outcome is Outcome.NOT_SENT
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("auth", [APIKey(SECRET, header="x-trips-key"), Headers(some_headers)])
async def test_a_credential_in_another_header(auth: Policy) -> None:
    """A credential in any header is sent over plain http to loopback only."""
    inner = FakeTransport({"/sse/chat": Reply([answer("42"), close()])})
    away = SSEOxyGent(server_url="http://remote", transport=inner, auth=auth)
    with pytest.raises(InsecureTransportError, match="the header 'x-t") as caught:
        await away.ask("hi")
    assert inner.requests == []
    assert SECRET not in str(caught.value)
    here = SSEOxyGent(server_url="http://127.0.0.1", transport=inner, auth=auth)
    assert (await here.ask("hi")).output == "42"


async def test_a_server_that_echoes_a_key() -> None:
    """A marked credential is redacted in the server's text, even if a header of that name is usually shown."""
    inner = FakeTransport({"/sse/chat": Reply([f"unknown id {SECRET}".encode()], status=403)})
    agent = SSEOxyGent(server_url="https://remote", transport=inner, auth=APIKey(SECRET, header="x-request-id"))
    with pytest.raises(PermissionDeniedError) as caught:
        await agent.ask("hi")
    assert caught.value.body == "unknown id [scrubbed]"


OWN: Final = {
    "bearer": {"Authorization": "mine"},
    "bearer provider": {"authorization": "mine"},
    "basic": {"Authorization": "mine"},
    "key": {"X-Api-Key": "mine"},
    "headers": {"X-Size": "mine", "x-tenant": "mine"},
}


@pytest.mark.parametrize("case", OWN)
async def test_a_header_of_the_request_wins(case: str) -> None:
    """A header of the request itself is sent unchanged, and its 401 is handed on without a token refresh."""
    inner = remote(DENIED)
    assert await send(ADDED[case][0](inner), OWN[case]) == (401, b"who are you?")
    assert [request(OWN[case])] == inner.requests


async def test_external_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A variable or a file is read for each request, so that a rotated secret is used."""
    path = tmp_path / "secret"
    wrappers: list[Callable[[FakeTransport], Transport]] = [
        lambda inner: BearerAuthTransport(inner, BearerAuth.from_env(VARIABLE)),
        lambda inner: BearerAuthTransport(inner, BearerAuth.from_file(path)),
        lambda inner: BasicAuthTransport(inner, BasicAuth.from_env("test", VARIABLE)),
        lambda inner: BasicAuthTransport(inner, BasicAuth.from_file("test", path)),
        lambda inner: APIKeyTransport(inner, APIKey.from_env(VARIABLE, header="authorization")),
        lambda inner: APIKeyTransport(inner, APIKey.from_file(path, header="authorization")),
    ]
    inners = [remote() for _ in wrappers]
    chains = [make(inner) for make, inner in zip(wrappers, inners, strict=True)]
    for secret in ("one", "123"):
        monkeypatch.setenv(VARIABLE, secret)
        path.write_text(f"{secret}\n", encoding="utf-8")
        for chain in chains:
            await send(chain)
    bearer, basic, key = ["Bearer one", "Bearer 123"], ["Basic dGVzdDpvbmU=", "Basic dGVzdDoxMjM="], ["one", "123"]
    assert [sent(inner) for inner in inners] == [bearer, bearer, basic, basic, key, key]


# -------------------------------------------------------------------------------------------- Token refresh after a 401


@attrs.frozen
class Denial:
    """The tokens of the provider, the replies of the server, and the result."""

    given: tuple[Any, ...]
    replies: tuple[Reply, ...]
    result: tuple[int, bytes]
    tokens: list[str | None]


DENIALS: Final = {
    "another token": Denial(("one", "two"), (DENIED, OK), (200, b'{"ok": true}'), ["Bearer one", "Bearer two"]),
    "twice": Denial(("one", "two"), (DENIED, DENIED), (401, b"who are you?"), ["Bearer one", "Bearer two"]),
    "the same token": Denial(("one", "one"), (DENIED,), (401, b"who are you?"), ["Bearer one"]),
    "an endless body": Denial(
        ("one", "one"), (attrs.evolve(DENIED, steps=(b"x" * 9_000,) * 9),), (401, b"x" * 16_384), ["Bearer one"]
    ),
    "a body that stops": Denial(
        ("one", "one"), (attrs.evolve(DENIED, steps=(b"who", Pause(math.inf))),), (401, b"who"), ["Bearer one"]
    ),
    "a body that breaks off": Denial(
        ("one", "one"), (attrs.evolve(DENIED, steps=(b"who", ConnectionLostError())),), (401, b"who"), ["Bearer one"]
    ),
    "no body": Denial(("one", "one"), (attrs.evolve(DENIED, steps=()),), (401, b""), ["Bearer one"]),
    "another status": Denial(("one",), (attrs.evolve(DENIED, status=403),), (403, b"who are you?"), ["Bearer one"]),
}


@pytest.mark.parametrize("case", DENIALS)
async def test_a_token_that_is_refused(case: str) -> None:
    """After a 401 the token is refreshed once and the request sent again; a second 401 is handed on with its body."""
    denial = DENIALS[case]
    inner = remote(*denial.replies)
    assert await send(BearerAuthTransport(inner, BearerAuth(provider=giving(*denial.given)))) == denial.result
    assert denial.tokens == sent(inner)
    assert [*range(1, len(denial.tokens) + 1)] == [each.context.attempt for each in inner.requests]
    assert len(inner.requests) == len(inner.left)


async def test_a_refused_literal_token() -> None:
    """The 401 for a literal token is handed on, and nothing is sent again."""
    inner = remote(DENIED)
    assert await send(BearerAuthTransport(inner, BearerAuth("t"))) == (401, b"who are you?")
    assert sent(inner) == ["Bearer t"]


async def test_a_rotated_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token source outside the program is read again after a 401."""
    monkeypatch.setenv(VARIABLE, "one")

    def rotate(_request: HTTPRequest) -> None:
        monkeypatch.setenv(VARIABLE, "two")

    inner = remote(attrs.evolve(DENIED, on_close=rotate), OK)
    assert (await send(BearerAuthTransport(inner, BearerAuth.from_env(VARIABLE))))[0] == 200
    assert sent(inner) == ["Bearer one", "Bearer two"]


async def test_the_refused_exchange_is_left_first() -> None:
    """The refused exchange is left before the token is refreshed."""
    inner = remote(DENIED, OK)
    open_exchanges: list[int] = []

    async def provider() -> str:
        open_exchanges.append(len(inner.requests) - len(inner.left))
        return f"t{len(open_exchanges)}"

    await send(BearerAuthTransport(inner, BearerAuth(provider=provider)))
    assert open_exchanges == [0, 0]


class Unclean(FakeTransport):
    """Its exchanges fail when they are left."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        async with super().exchange(request) as response:
            yield response
        if response.status == 401:
            raise ConnectionLostError


async def test_a_refused_exchange_that_fails_to_close() -> None:
    """An error in leaving the refused exchange is ignored, and the request is sent again."""
    inner = Unclean({"/": [DENIED, OK]})
    assert (await send(BearerAuthTransport(inner, BearerAuth(provider=giving("one", "two")))))[0] == 200


async def test_concurrent_refusals() -> None:
    """All chains of an agent share one token refresh."""
    policies, auth = Policies(), BearerAuth(provider=giving("one", "two"))
    inners = [remote(DENIED, OK) for _ in range(3)]
    async with anyio.create_task_group() as tasks:
        for inner in inners:
            tasks.start_soon(send, policies.wrap(inner, auth))
    assert [sent(inner) for inner in inners] == [["Bearer one", "Bearer two"]] * 3


# ------------------------------------------------------------------------------------------------------------- Failures

FAILURES: Final[dict[str, tuple[Any, type[OxyError], str]]] = {
    "an error of its own": (OSError(SECRET), HandlerError, "OSError"),
    "an error of ours": (ClosedError("closed", outcome=Outcome.UNKNOWN), ClosedError, "closed"),
    "no token": (f"{SECRET} {SECRET}ß", ConfigurationError, "token"),
}


@pytest.mark.parametrize("case", FAILURES)
async def test_a_provider_that_fails(case: str) -> None:
    """A failed provider gives outcome NOT_SENT, or REJECTED after a 401."""
    given, cls, text = FAILURES[case]
    inner = remote(DENIED)
    auth = BearerAuthTransport(inner, BearerAuth(provider=giving(given, "one", given)))
    for outcome, requests in ((Outcome.NOT_SENT, 0), (Outcome.REJECTED, 1)):
        with pytest.raises(cls, match=text) as caught:
            await send(auth)
        assert caught.value.outcome == outcome
        assert len(inner.requests) == requests
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("case", ["bearer", "basic", "key", "headers"])
async def test_the_deadline(case: str) -> None:
    """Waiting for a token ends at the call's deadline with outcome NOT_SENT."""

    async def never(*_: object) -> Any:
        await anyio.sleep_forever()

    policies: dict[str, Policy] = {
        "bearer": BearerAuth(provider=never),
        "basic": BasicAuth("ada", provider=never),
        "key": APIKey(provider=never),
        "headers": Headers(never),
    }
    inner = remote()
    chain = Policies().wrap(inner, policies[case])
    deadline = anyio.current_time() + 10
    with anyio.CancelScope(deadline=deadline) as scope, pytest.raises(DeadlineExceededError) as caught:
        await send(chain, deadline=deadline)
    assert caught.value.outcome is Outcome.NOT_SENT
    assert scope.cancelled_caught is False
    assert inner.requests == []
    assert anyio.current_time() == pytest.approx(deadline, abs=0.1)


async def test_the_deadline_after_a_refusal() -> None:
    """After a 401, a token refresh that passes the deadline has outcome REJECTED."""

    async def provider() -> str:
        await anyio.sleep(math.inf if inner.requests else 0)
        return "one"

    inner = remote(DENIED)
    with pytest.raises(DeadlineExceededError) as caught:
        await send(BearerAuthTransport(inner, BearerAuth(provider=provider)), deadline=anyio.current_time() + 10)
    assert caught.value.outcome is Outcome.REJECTED


async def test_cancellation() -> None:
    """A cancellation before, in or after the first exchange is raised, and the transport can be used again."""
    inner = remote(attrs.evolve(DENIED, before=Pause(1)), attrs.evolve(DENIED, before=Pause(1)), OK)
    auth = BearerAuthTransport(inner, BearerAuth(provider=giving("zero", "one", "two", "three", "four")))
    for seconds in (0.5, 1.5, 1.5):
        with anyio.move_on_after(seconds) as scope:
            await send(auth)
        assert scope.cancelled_caught
    assert (await send(auth))[0] == 200
    assert len(inner.requests) == len(inner.left)


PASSWORDS: Final[dict[str, tuple[Callable[[], Policy], str]]] = {
    "a password that is no text": (lambda: BasicAuth("ada", provider=giving(b"CANARY")), "provider"),
    "a password with a line end": (lambda: BasicAuth("ada", provider=giving("CANARY\r\nx: y")), "password"),
    "an empty key": (lambda: APIKey(provider=giving("")), "provider"),
    "a key with a line end": (lambda: APIKey(provider=giving("CANARY\r\nx: y")), "'x-api-key'"),
    "a key that is not ASCII": (lambda: APIKey(provider=giving("CANARYß")), "'x-api-key'"),
    "no mapping": (lambda: Headers(_headers(["CANARY"])), "mapping.*list"),
    "a value that is no text": (lambda: Headers(_headers({"x-a": b"CANARY"})), "provider of the headers"),
    "a name that is no text": (lambda: Headers(_headers({1: "CANARY"})), "provider of the headers"),
    "a value with a line end": (lambda: Headers(_headers({"x-a": "CANARY\nx: y"})), "'x-a'"),
    "a value with NUL": (lambda: Headers(_headers({"x-a": "CANARY\0"})), "'x-a'"),
    "a name with a line end": (lambda: Headers(_headers({"x: y\r\nx-a": "CANARY"})), r"'x: y\\r\\nx-a'"),
    "the protocol's own": (lambda: Headers(_headers({"Host": "CANARY", "Accept": "*/*"})), "^accept, host: "),
}


def _headers(given: Any) -> Callable[[HTTPRequest], Awaitable[Any]]:
    async def provider(_request: HTTPRequest) -> Any:
        return given

    return provider


@pytest.mark.parametrize("case", PASSWORDS)
async def test_invalid_values_of_a_provider(case: str) -> None:
    """Values of a provider are checked before they are sent; the error is typed and shows no value."""
    make, text = PASSWORDS[case]
    inner = remote()
    with pytest.raises(ConfigurationError, match=text) as caught:
        await send(Policies().wrap(inner, make()))
    assert "CANARY" not in f"{caught.value}{caught.value.__cause__}"
    assert caught.value.outcome is Outcome.NOT_SENT
    assert inner.requests == []


async def _broken(*_: object) -> Any:
    raise OSError(SECRET)


BROKEN: Final[dict[str, Callable[[], Policy]]] = {
    "secret": lambda: BasicAuth("ada", provider=_broken),
    "secret again": lambda: APIKey(provider=_broken),
    "headers": lambda: Headers(_broken),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_other_providers_that_fail(case: str) -> None:
    """Providers of headers and credentials fail as a token provider does."""
    text = rf"provider of the {case.partition(' ')[0]}.*OSError"
    with pytest.raises(HandlerError, match=text) as caught:
        await send(Policies().wrap(remote(), BROKEN[case]()))
    assert caught.value.outcome is Outcome.NOT_SENT


# --------------------------------------------------------------------------------------------------------------- Values

UNSET: Final[Any] = os.environ.get("OXYGENT_CLIENT_TEST_UNSET")
WRONG: Final[dict[str, tuple[Callable[[], object], str]]] = {
    "no source": (BearerAuth, "^BearerAuth"),
    "no token in the environment": (lambda: BearerAuth(UNSET), "provider"),
    "two sources": (lambda: BearerAuth("CANARY", provider=a_token), "provider"),
    "no token": (lambda: BearerAuth("CANARY CANARY"), "token"),
    "a time less than zero": (lambda: BearerAuth("CANARY", refresh_before=-1), r"BearerAuth\.refresh_before must be"),
    "a colon": (lambda: BasicAuth("ada:CANARY", "pw"), "username"),
    "two passwords": (lambda: BasicAuth("ada", "CANARY", provider=a_token), "password"),
    "a line end in a password": (lambda: BasicAuth("ada", "CANARY\r\n"), "password"),
    "DEL in a name": (lambda: BasicAuth("ada\x7f", "CANARY"), "username"),
    "half a character": (lambda: BasicAuth("ada", "CANARY\ud800"), "password"),
    "no key": (APIKey, "^APIKey"),
    "two keys": (lambda: APIKey("CANARY", provider=a_token), "provider"),
    "a line end in a key": (lambda: APIKey("CANARY\nx: y"), "'x-api-key'"),
    "a name that is none": (lambda: APIKey("CANARY", header="x y"), "'x y'"),
    "the protocol's own header": (lambda: APIKey("CANARY", header="Host"), "^host: "),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values(case: str) -> None:
    """An invalid value raises an error at construction that does not show it."""
    make, text = WRONG[case]
    with pytest.raises(ConfigurationError, match=text) as caught:
        make()
    assert "CANARY" not in f"{caught.value!r}{caught.value.__cause__!r}{caught.value.__context__!r}"


VALUES: Final[dict[str, tuple[Callable[[], Policy], str]]] = {
    # made twice, each is equal to the other; its repr
    "token": (lambda: BearerAuth(SECRET), "BearerAuth(...)"),
    "password": (lambda: BasicAuth("ada", SECRET), "BasicAuth(...)"),
    "key": (lambda: APIKey(SECRET), "APIKey(...)"),
    "token from env": (lambda: BearerAuth.from_env("T"), "BearerAuth.from_env('T')"),
    "token from file": (lambda: BearerAuth.from_file("/t"), "BearerAuth.from_file('/t')"),
    "token provider": (lambda: BearerAuth(provider=a_token), "BearerAuth(provider=a_token)"),
    "password from env": (lambda: BasicAuth.from_env("ada", "T"), "BasicAuth.from_env('T')"),
    "key from file": (lambda: APIKey.from_file("/t"), "APIKey.from_file('/t')"),
    "headers": (lambda: Headers(some_headers), "Headers(provider=some_headers)"),
}
LITERAL: Final = {"token", "password", "key"}


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("case", VALUES)
def test_copies_of_values(case: str, clone: Callable[[object], object]) -> None:
    """A copy of a policy is equal to it."""
    value = VALUES[case][0]()
    assert clone(value) == value


@pytest.mark.parametrize("case", VALUES)
def test_values(case: str) -> None:
    """Policies compare by content, and show no secret."""
    make, shown = VALUES[case]
    value = make()
    assert make() == value
    assert hash(value) == hash(make())
    assert repr(value) == shown
    assert isinstance(value, Policy)
    assert value.kind == "auth"


@pytest.mark.parametrize("case", sorted(LITERAL))
def test_a_literal_secret_is_not_pickled(case: str) -> None:
    """Pickling a literal secret raises an error with the class and without the secret."""
    value = VALUES[case][0]()
    with pytest.raises(ConfigurationError, match=f"^{type(value).__name__} ") as caught:
        pickle.dumps(value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("case", sorted(VALUES.keys() - LITERAL))
def test_a_source_is_pickled(case: str) -> None:
    """A policy that names the source of its secret can be pickled."""
    value = VALUES[case][0]()
    assert pickle.loads(pickle.dumps(value)) == value


def test_values_that_differ() -> None:
    """Policies with different sources are not equal."""
    values = [make() for make, _ in VALUES.values()]
    values += [BearerAuth("other"), BearerAuth.from_env("U"), BearerAuth(provider=a_token, refresh_before=5)]
    assert len(values) == len({*values})


def test_a_provider_shows_nothing() -> None:
    """Only the name of a provider is shown: the repr of a partial would show its arguments."""
    assert repr(BearerAuth(provider=functools.partial(_told, SECRET))) == "BearerAuth(provider=partial)"


async def _told(secret: str) -> str:
    return secret


# --------------------------------------------------------------------------------------------------------------- Agents


@attrs.frozen
class Ending:
    """Return the error of an agent's call with this provider and these replies."""

    given: tuple[Any, ...]
    replies: tuple[Reply, ...]
    error: type[OxyError]
    outcome: Outcome


async def _never() -> str:
    await anyio.sleep_forever()
    return ""


ENDINGS: Final = {
    "refused twice": Ending(("one", "two"), (DENIED, DENIED), AuthenticationError, Outcome.REJECTED),
    "no other token": Ending(("one", "one"), (DENIED,), AuthenticationError, Outcome.REJECTED),
    "no token": Ending((OSError(SECRET),), (), HandlerError, Outcome.NOT_SENT),
}


@pytest.mark.parametrize("case", ENDINGS)
async def test_an_agent_with_a_token(case: str) -> None:
    """The agent's error has the outcome of the run and is not retried."""
    ending = ENDINGS[case]
    inner = FakeTransport({"/sse/chat": ending.replies})
    auth = BearerAuth(provider=giving(*ending.given))
    agent = SSEOxyGent(server_url="http://localhost", transport=inner, auth=auth, timeouts=Timeouts(total=10))
    with pytest.raises(ending.error) as caught:
        await agent.ask("hi")
    assert ending.outcome == caught.value.outcome
    assert len(ending.replies) == len(inner.requests)
    if isinstance(caught.value, AuthenticationError):
        assert caught.value.body == "who are you?"


async def test_an_agent_whose_provider_hangs() -> None:
    """`Timeouts.total` ends a hanging provider with outcome NOT_SENT."""
    inner = FakeTransport({})
    agent = SSEOxyGent(
        server_url="http://localhost", transport=inner, auth=BearerAuth(provider=_never), timeouts=Timeouts(total=10)
    )
    with pytest.raises(DeadlineExceededError) as caught:
        await agent.ask("hi")
    assert caught.value.outcome is Outcome.NOT_SENT
    assert inner.requests == []


# --------------------------------------------------------------------------------------------------------------- Canary


async def test_no_secret_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    """In successful calls, 401s and failures no log, error or repr shows a secret."""
    caplog.set_level(logging.DEBUG, "oxygent_client")
    shown: list[str] = []
    stale = Token(SECRET, expires_in=61)
    policies: Iterable[Policy] = [
        BearerAuth(SECRET),
        BearerAuth(provider=giving(SECRET, f"{SECRET}2")),
        BearerAuth(provider=giving(SECRET, SECRET)),
        BearerAuth(provider=giving(SECRET, OSError(SECRET))),
        BearerAuth(provider=giving(SECRET, f"{SECRET} ")),
        BearerAuth(provider=giving(OSError(SECRET))),
        BearerAuth(provider=giving(stale, OSError(SECRET), OSError(SECRET))),
        BasicAuth(SECRET, SECRET),
        BasicAuth("ada", provider=giving(OSError(SECRET))),
        APIKey(SECRET),
        APIKey(provider=giving(f"{SECRET}\n")),
        Headers(_headers({"x-secret": SECRET})),
        Headers(_headers({"x-secret": f"{SECRET}\0"})),
    ]
    for policy in policies:
        inner = FakeTransport({"/": [OK, DENIED, DENIED]})
        chain = Policies().wrap(inner, policy)
        for _ in range(2):
            await anyio.sleep(2)
            try:
                async with chain.exchange(request()) as response:
                    shown += [repr(response), repr(response.request)]
            except OxyError as error:
                shown += [repr(error), repr(error.__dict__), str(pickle.loads(pickle.dumps(error)))]
        shown += [repr(policy), repr(chain), repr(inner.requests), repr(chain.__reduce_ex__(2)[:2])]
    assert 1 <= len(caplog.records)
    assert [text for text in (*shown, caplog.text) if SECRET in text] == []
