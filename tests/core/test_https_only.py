"""Rules for plain http: the allowed requests, hosts and proxies."""

from __future__ import annotations

import copy
import pickle
from typing import Any, Final

import attrs
import pytest

from oxygent_client import HTTPRequest, errors
from oxygent_client._core.plain_http import PlaintextRules, check_proxied
from oxygent_client.policies import HTTPSOnly, HTTPSOnlyTransport, check_secure
from oxygent_client.testing import FakeTransport, Reply
from oxygent_client.transports import Context
from tests.support.virtual import anyio_backend as anyio_backend

SECRET: Final = "s3cret-4711"
AUTH: Final = {"authorization": f"Bearer {SECRET}"}
PLAIN: Final = {"accept": "text/event-stream", "user-agent": "x", "x-trace-id": "4711"}

ANYWHERE: Final = HTTPSOnly()
NAMED: Final = HTTPSOnly(plaintext_hosts=("Gateway.internal", "10.0.0.7", "fe80::7"))
STRICT: Final = HTTPSOnly(https_only=True, plaintext_hosts=("gateway.internal",))

MAY: Final[list[tuple[str, dict[str, str], HTTPSOnly]]] = [
    ("https://remote.example", AUTH, ANYWHERE),
    ("HTTPS://user:pw@remote.example?token=x1", AUTH, STRICT),
    ("http://remote.example", {}, ANYWHERE),
    ("http://remote.example/?name=1", PLAIN, ANYWHERE),
    ("http://remote.example", {"authorization": ""}, ANYWHERE),
    *[
        (f"http://{host}/path", AUTH, ANYWHERE)
        for host in (
            "localhost",
            "LOCALHOST:8082",
            "127.0.0.1:8082",
            "127.8.9.10",
            "user:pw@127.0.0.1",
            "[::1]:8082",
            "[::ffff:127.0.0.1]",
            "[0:0:0:0:0:0:0:1]",
        )
    ],
    ("http://remote.example/?max_tokens=5&token=&tokens=1", {}, ANYWHERE),
    ("http://gateway.internal:8082", AUTH, NAMED),
    ("http://GATEWAY.internal.", AUTH, NAMED),
    ("http://user:pw@10.0.0.7/", AUTH, NAMED),
    ("http://[FE80::7]/", AUTH, NAMED),
    ("http://gateway.internal", AUTH, STRICT),
]
MUST_NOT: Final[list[tuple[str, str, dict[str, str], HTTPSOnly]]] = [
    # a word of the error, the URL, the headers, the policy
    ("'remote.example'", "http://remote.example:8082/x", AUTH, ANYWHERE),
    ("the header 'Authorization'", "http://remote.example", {"Authorization": f"Basic {SECRET}"}, ANYWHERE),
    ("the header 'x-api-key'", "http://remote.example", {**PLAIN, "x-api-key": SECRET}, ANYWHERE),
    ("the header 'x-token'", "http://remote.example", {"x-token": "4711"}, ANYWHERE),
    ("the header 'cookie'", "http://remote.example", {"cookie": f"sid={SECRET}"}, ANYWHERE),
    ("the user information in the URL", f"http://user:{SECRET}@remote.example", {}, ANYWHERE),
    ("the user information in the URL", f"http://{SECRET}@remote.example", {}, ANYWHERE),
    ("a credential in the query", f"http://remote.example/?a=1&api_key={SECRET}", {}, ANYWHERE),
    *[
        (f"'{host.lower()}'", f"http://{host}", AUTH, NAMED)
        for host in (
            "localhost.example",
            "notlocalhost",
            "127.0.0.1.example",
            "128.0.0.1",
            "0.0.0.0",
            "10.0.0.70",
            "192.168.0.1",
            "127.1",
            "2130706433",
            "api.gateway.internal",
            "gateway.internal.example",
            "internal",
            # No library surely treats these as loopback, and a name below `localhost` may be any host's.
            "localhost.",
            "127.0.0.1.",
            "api.localhost",
            "api.localhost.",
            "localhost%2f",
            "localhost%2fx.example",
            "127.0.0.1%2f",
            "localhost;x",
            "127.0.0.1;x",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "127.0.0.1,x",
            "ⓛocalhost",
            "\uff1127.0.0.1",
        )
    ],
    ("'::1%25lo'", "http://[::1%25lo]", AUTH, ANYWHERE),
    ("'::1%lo'", "http://[::1%lo]", AUTH, ANYWHERE),
    ("'::ffff:127.0.0.1%lo'", "http://[::ffff:127.0.0.1%lo]", AUTH, ANYWHERE),
    *[
        ("a credential in the query", f"http://remote.example/?{query}", {}, ANYWHERE)
        for query in ("token=123456789", "a=1&access%5Ftoken=1", "a=1;token=4711", "a=1&api-token=0", "password=1")
    ],
    ("'::ffff:10.0.0.1'", "http://[::ffff:10.0.0.1]", AUTH, ANYWHERE),
    ("'::'", "http://[::]", AUTH, ANYWHERE),
    ("https_only", "http://remote.example", {}, STRICT),
    ("https_only", "http://localhost:8082", {}, STRICT),
    ("https_only", f"http://user:{SECRET}@127.0.0.1", AUTH, STRICT),
    ("'this address'", "/sse/chat", AUTH, ANYWHERE),
    ("'this address'", "/sse/chat", {}, STRICT),
]


@pytest.mark.parametrize(("url", "headers", "policy"), MAY)
async def test_allowed_requests(url: str, headers: dict[str, str], policy: HTTPSOnly) -> None:
    """Everything is allowed over https; over http credentials only to loopback and allowed hosts."""
    check_secure(url, headers, policy)
    fake = FakeTransport.script(b"x")
    request = HTTPRequest("POST", url, "/sse/chat", headers)
    if url.endswith(("/path", "/x")):
        request = HTTPRequest("POST", url[:-5], "/sse/chat", headers)
    async with HTTPSOnlyTransport(fake, policy).exchange(request):
        pass
    # The policy is passed on: the transport below may use a proxy.
    assert fake.requests == [attrs.evolve(request, context=attrs.evolve(request.context, https_only=policy))]


LAX: Final = PlaintextRules()
BOTH: Final = PlaintextRules(plaintext_hosts=("gateway.internal", "proxy.example"))
PROXY: Final = "http://proxy.example"
GATEWAY: Final = "http://gateway.internal"

MAY_BE_TOLD: Final = [
    pytest.param("https://remote.example", PROXY, LAX, id="https, in a tunnel"),
    pytest.param("http://localhost", "http://127.0.0.1:3128", LAX, id="loopback over loopback"),
    pytest.param(GATEWAY, "https://proxy.example", NAMED, id="a server that is named, over TLS"),
    pytest.param(GATEWAY, PROXY, BOTH, id="both are named"),
    pytest.param("http://localhost", "http://PROXY.example.", BOTH, id="a proxy that is named"),
    pytest.param(GATEWAY, "https://127.0.0.1", STRICT, id="https_only, over TLS"),
]
MUST_NOT_BE_TOLD: Final = [
    pytest.param("http://localhost", PROXY, LAX, id="loopback over another machine"),
    pytest.param("http://localhost", "socks5://proxy.example", LAX, id="over SOCKS"),
    pytest.param(
        "http://localhost", "https://proxy.example", LAX, id="over TLS, and loopback is another machine there"
    ),
    pytest.param(GATEWAY, PROXY, NAMED, id="only the server is named"),
    pytest.param(GATEWAY, "http://127.0.0.1", STRICT, id="https_only, a proxy on loopback"),
    pytest.param("http://localhost", "http://proxy.localhost:3128", LAX, id="a proxy below localhost"),
    pytest.param("http://localhost", "http://localhost.:3128", LAX, id="a proxy with a dot at its end"),
]


@pytest.mark.parametrize(("url", "proxy", "policy"), MAY_BE_TOLD)
def test_allowed_proxies(url: str, proxy: str, policy: PlaintextRules) -> None:
    """A credential may be sent to a proxy over TLS, on loopback, or allowed, or through it in TLS."""
    check_proxied(url, proxy, {"authorization": SECRET}, policy)


@pytest.mark.parametrize(("url", "proxy", "policy"), MUST_NOT_BE_TOLD)
def test_refused_proxies(url: str, proxy: str, policy: PlaintextRules) -> None:
    """A credential is not sent to another proxy; the error has the proxy and advice."""
    with pytest.raises(errors.InsecureTransportError, match=r"proxy .*plaintext_hosts") as caught:
        check_proxied(url, proxy, {"authorization": SECRET}, policy)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("before", ["http://remote.example", "http://localhost"], ids=["plain", "with a credential"])
async def test_a_request_after_another(before: str) -> None:
    """A request is refused although one before it was sent to the same server, or to another."""
    transport = HTTPSOnlyTransport(FakeTransport.script(b"x"))
    headers = AUTH if "localhost" in before else {}
    for _ in range(2):
        async with transport.exchange(HTTPRequest("GET", before, "/", headers)):
            pass
    with pytest.raises(errors.InsecureTransportError):
        async with transport.exchange(HTTPRequest("GET", "http://remote.example", "/", AUTH)):
            pass


async def test_a_header_that_is_marked() -> None:
    """A marked header is a credential, whatever its name and case."""
    fake = FakeTransport({})
    context = Context(secret_headers=frozenset({"x-trips"}))
    with pytest.raises(errors.InsecureTransportError, match="the header 'X-Trips'"):
        async with HTTPSOnlyTransport(fake).exchange(
            HTTPRequest("POST", "http://remote.example", "", {"X-Trips": SECRET}, context=context)
        ):
            pass
    assert fake.requests == []


@pytest.mark.parametrize("is_early", [True, False], ids=["checked", "sent"])
@pytest.mark.parametrize(("named", "url", "headers", "policy"), MUST_NOT)
async def test_refused_requests(
    named: str, url: str, headers: dict[str, str], policy: HTTPSOnly, is_early: bool
) -> None:
    """A refused request is not sent; the error has advice and no secret."""
    fake = FakeTransport({})
    with pytest.raises(errors.InsecureTransportError) as caught:
        if is_early:
            check_secure(url, headers, policy)
        async with HTTPSOnlyTransport(fake, policy).exchange(HTTPRequest("POST", url, "", headers)):
            pass
    text = str(caught.value)
    assert named in text
    assert "https://" in text
    assert "plaintext_hosts" in text
    assert SECRET not in text
    assert caught.value.outcome is errors.Outcome.NOT_SENT
    assert not caught.value.retryable
    assert fake.requests == []


LOOKED_UP: Final = [
    pytest.param("http://127.0.0.1:1", "http://agents.example:1", ANYWHERE, True, id="this machine by its address"),
    pytest.param("http://[::1]", "http://localhost", ANYWHERE, True, id="localhost"),
    pytest.param("http://192.0.2.2", "http://localhost", ANYWHERE, False, id="localhost, elsewhere"),
    pytest.param("http://192.0.2.2", "http://api.localhost", ANYWHERE, False, id="below localhost, elsewhere"),
    pytest.param("http://[::1%25eth0]", "http://agents.example", ANYWHERE, False, id="an address with a zone"),
    pytest.param("http://other.example", "http://localhost", ANYWHERE, False, id="a name in the place of an address"),
    pytest.param("http://192.0.2.2", "http://Gateway.internal", NAMED, True, id="the name is allowed"),
    pytest.param("http://10.0.0.7", "http://agents.example", NAMED, True, id="the address is allowed"),
    pytest.param("http://127.0.0.1", "http://localhost", STRICT, False, id="https_only"),
    pytest.param("http://192.0.2.2", "http://gateway.internal", STRICT, True, id="https_only, and the name is allowed"),
]


@pytest.mark.parametrize(("url", "named", "policy", "may"), LOOKED_UP)
def test_resolved_addresses(url: str, named: str, policy: HTTPSOnly, may: bool) -> None:
    """Loopback is decided by the resolved address; the name counts only if it is in plaintext_hosts."""
    refused: list[errors.InsecureTransportError] = []
    try:
        check_secure(url, AUTH, policy, named=named)
    except errors.InsecureTransportError as error:
        refused.append(error)
    assert len(refused) == (not may)
    assert all(SECRET not in str(error) and "plaintext_hosts" in str(error) for error in refused)


async def test_the_default_policy() -> None:
    """Without a policy the default is used: no credential over plain http."""
    transport = HTTPSOnlyTransport(FakeTransport({"/": Reply()}))
    assert transport.policy == HTTPSOnly()
    with pytest.raises(errors.InsecureTransportError):
        async with transport.exchange(HTTPRequest("GET", "http://remote.example", "/", AUTH)):
            pass
    mine = KeyError()
    with pytest.raises(KeyError) as caught:
        async with transport.exchange(HTTPRequest("GET", "https://remote.example", "/", AUTH)):
            raise mine
    assert caught.value is mine


async def test_closing() -> None:
    """`aclose` closes the inner transport."""
    fake = FakeTransport({})
    transport = HTTPSOnlyTransport(fake)
    assert transport.inner is fake
    await transport.aclose()
    assert fake.closed


WRONG: Final[list[Any]] = [
    "gateway.internal",
    [""],
    ["http://gateway.internal"],
    ["gateway.internal:8082"],
    ["gateway.internal/path"],
    ["user@gateway.internal"],
    ["two words"],
    ["[::1]"],
    [":"],
    ["*.internal"],
]


@pytest.mark.parametrize("hosts", WRONG)
def test_wrong_hosts(hosts: Any) -> None:
    """A str in place of a collection, and invalid host names, are refused."""
    with pytest.raises(errors.ConfigurationError, match="plaintext_hosts"):
        HTTPSOnly(plaintext_hosts=hosts)


def test_a_value() -> None:
    """Policies compare by content, for any spelling of the names, and pickle."""
    one = HTTPSOnly(plaintext_hosts=("b.example", "A.example"))
    assert one == HTTPSOnly(plaintext_hosts={"a.example.", "B.EXAMPLE"}) != HTTPSOnly()
    assert one == pickle.loads(pickle.dumps(one)) == copy.deepcopy(one)
    assert hash(one) == hash(copy.copy(one))
    assert "plaintext_hosts=('a.example', 'b.example')" in repr(one)
