"""Redirects: which are followed, with which request, and to where."""

from __future__ import annotations

import copy
import pickle
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import pytest

from oxygent_client import HTTPRequest, HTTPResponse, Transport, errors
from oxygent_client.policies import Redirect, RedirectTransport
from oxygent_client.testing import FakeTransport, Reply
from oxygent_client.transports import Context
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

OURS: Final = "http://user:s3cret@remote.example:8082"


class Moved:
    """A remote with a table of redirects; other URLs are a 200."""

    def __init__(self, table: dict[str, str], status: int = 307) -> None:
        self.table = table
        self.status = status
        self.sent: list[HTTPRequest] = []
        self.left = 0

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        assert self.left == len(self.sent)
        self.sent.append(request)
        location = self.table.get(request.url)
        headers = {} if location is None else {"location": location}
        reply = Reply((b"moved",), status=200 if location is None else self.status, headers=headers)
        async with FakeTransport({request.path.partition("?")[0]: reply}).exchange(request) as response:
            yield response
        self.left += 1

    async def aclose(self) -> None:
        """Do nothing."""


def run(base: str = OURS) -> HTTPRequest:
    """Return a run at this server."""
    return HTTPRequest("POST", base, "/sse/chat", {"x-one": "1"}, b"body", context=Context(trace_id="t", attempt=2))


async def ended(transport: Transport, request: HTTPRequest) -> tuple[int, str]:
    """Return the status that is handed on, and its URL."""
    async with transport.exchange(request) as response:
        return response.status, response.request.url


FOLLOWED: Final[list[tuple[str, str, str]]] = [
    # where the request is then sent, the base URL, the Location
    (f"{OURS}/sse/chat/", OURS, "http://remote.example:8082/sse/chat/"),
    (f"{OURS}/sse/chat/", OURS, "/sse/chat/"),
    (f"{OURS}/sse/other", OURS, "other"),
    (f"{OURS}/other", OURS, "../other"),
    (f"{OURS}/other", OURS, "//remote.example:8082/other"),
    (f"{OURS}/", OURS, "http://remote.example:8082"),
    (f"{OURS}/sse/chat?a=1", OURS, "?a=1"),
    (f"{OURS}/new?a=1&b=/x?y", OURS, "/new?a=1&b=/x?y#part"),
    (f"{OURS}/new", OURS, "HTTP://REMOTE.example:8082/new"),
    (f"{OURS}/new", OURS, "http://evil:pw@remote.example:8082/new"),
    (f"{OURS}//new", OURS, "http://remote.example:8082//new"),
    ("http://remote.example/new", "http://remote.example", "http://remote.example:80/new"),
    ("https://remote.example/new", "https://remote.example", "https://remote.example:443/new"),
    ("https://remote.example:443/new", "https://remote.example:443", "https://remote.example/new"),
    ("http://REMOTE.example/new", "http://REMOTE.example", "http://remote.example/new"),
    ("http://[::1]:8082/new", "http://[::1]:8082", "http://[::1]:8082/new"),
    # The same server by another loopback name: the request keeps the name in the user's URL.
    ("http://localhost:8082/new", "http://localhost:8082", "http://127.0.0.1:8082/new"),
    ("http://127.0.0.1:8082/new", "http://127.0.0.1:8082", "http://LOCALHOST:8082/new"),
    # A prefix and a query of the base URL were part of the request; the server decides about them.
    ("http://remote.example/pre/new", "http://remote.example/pre?key=1", "/pre/new"),
    ("http://remote.example/pre/sse/new?key=1", "http://remote.example/pre/?key=1", "new?key=1"),
    ("http://remote.example/pre", "http://remote.example/pre/", "/pre"),
    ("http://remote.example/pre/", "http://remote.example/pre", "/a/../pre/"),
    ("http://remote.example/pre/a%2Fb", "http://remote.example/pre", "/pre/a%2Fb"),
    ("http://remote.example/pr%c3%a9/new", "http://remote.example/pr%C3%A9", "/pr%c3%a9/new"),
    ("http://remote.example/pr%C3%A9/new", "http://remote.example/pré", "/pr%C3%A9/new"),
    ("http://remote.example/%2e%2e/new", "http://remote.example/", "/%2e%2e/new"),
]


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize(("expected", "base", "location"), FOLLOWED)
async def test_redirects_that_are_followed(expected: str, base: str, location: str, status: int) -> None:
    """A redirect within the origin is followed with the same method, headers and body; only path and query change."""
    request = run(base)
    remote = Moved({request.url: location}, status)
    assert await ended(RedirectTransport(remote), request) == (200, expected)
    first, second = remote.sent
    assert first is request
    assert first.method == second.method
    assert first.headers == second.headers
    assert first.body == second.body
    assert first.context == second.context
    assert remote.left == 2


HANDED_ON: Final[list[tuple[int, str, str]]] = [
    # the status, the base URL, the Location
    (301, OURS, "/new"),
    (302, OURS, "/new"),
    (303, OURS, "/new"),
    (300, OURS, "/new"),
    (200, OURS, "/new"),
    (503, OURS, "/new"),
    *[
        (307, base, location)
        for base, location in [
            (OURS, "https://remote.example:8082/new"),
            (OURS, "http://remote.example/new"),
            (OURS, "http://remote.example:8083/new"),
            (OURS, "http://other.example:8082/new"),
            (OURS, "//other.example:8082/new"),
            (OURS, "http://remote.example:8082.other.example/new"),
            (OURS, "http://remote.example:8082@other.example/new"),
            (OURS, "http://remote.example.:8082/new"),
            ("http://localhost:8082", "http://127.0.0.1:8083/new"),
            ("http://localhost:8082", "http://localhost.example:8082/new"),
            (OURS, "ftp://remote.example:8082/new"),
            (OURS, "file:///etc/passwd"),
            (OURS, "javascript:alert(1)"),
            (OURS, "http://remote.example:99999/new"),
            (OURS, "http://remote.example:port/new"),
            (OURS, "http://[::1/new"),
            (OURS, "http://"),
            (OURS, "//"),
            (OURS, "///new"),
            (OURS, "http:new"),
            (OURS, "http:///other.example/new"),
            (OURS, ""),
            (OURS, " /new"),
            (OURS, "/new\r\nx-evil: 1"),
            (OURS, "/n\tew"),
            (OURS, "/n\x00ew"),
            (OURS, "/nëw"),
            (OURS, "\\\\other.example\\new"),
            (OURS, "http://other.example\\@remote.example:8082/new"),
            ("https://remote.example", "http://remote.example/new"),
            ("https://remote.example", "http://remote.example:443/new"),
            ("http://remote.example", "https://remote.example/new"),
            *[
                ("http://remote.example/pre/?key=1", location)
                for location in (
                    "/new",
                    "/",
                    "/PRE/new",
                    "/prefix/new",
                    "../../new",
                    "/pre/../new",
                    "/pre/a/../../new",
                    "/pre/%2e%2e/new",
                    "/pre/.%2E/new",
                    "/pre/..%2fnew",
                    "/pre/..%5cnew",
                    "/pre/%252e%252e/new",
                    "/pre/..;x/new",
                    "/pre%2Fnew",
                    "http://remote.example",
                    "http://remote.example//pre/new",
                    "//remote.example/new",
                )
            ],
        ]
    ],
]


@pytest.mark.parametrize(("status", "base", "location"), HANDED_ON)
async def test_redirects_that_are_handed_on(status: int, base: str, location: str) -> None:
    """Other statuses, other origins and invalid Locations are handed on unread, and nothing more is sent."""
    request = run(base)
    remote = Moved({request.url: location}, status)
    async with RedirectTransport(remote).exchange(request) as response:
        assert response.status == status
        assert response.request == request
        assert response.headers["location"] == location
        assert [piece async for piece in response.chunks] == [b"moved"]
    assert remote.sent == [request]


async def test_the_path_of_every_hop_counts() -> None:
    """The second redirect is checked against the path of the server's URL, not that of the first redirect."""
    base = "http://remote.example/pre"
    remote = Moved({f"{base}/sse/chat": "/pre/a/b", f"{base}/a/b": "/new"})
    assert await ended(RedirectTransport(remote), run(base)) == (307, f"{base}/a/b")


async def test_an_escaped_dot_segment() -> None:
    """A path with an escaped dot segment is below the path of the server's URL."""
    base = "http://remote.example/pre"
    remote = Moved({f"{base}/sse/chat": "/pre/%2e/x"})
    assert await ended(RedirectTransport(remote), run(base)) == (200, f"{base}/%2e/x")


@pytest.mark.parametrize("location", ["/new", "../../new", "http://remote.example/new"])
async def test_any_path(location: str) -> None:
    """With `any_path` a redirect may leave the path of the server's URL, never its origin."""
    base = "http://remote.example/pre"
    remote = Moved({f"{base}/sse/chat": location, "http://remote.example/new": "http://other.example/new"})
    assert await ended(RedirectTransport(remote, Redirect(any_path=True)), run(base)) == (
        307,
        "http://remote.example/new",
    )


@pytest.mark.parametrize("any_path", [1, 0, None, "no"])
def test_any_path_is_true_or_false(any_path: Any) -> None:
    """`any_path` must be a bool."""
    with pytest.raises(errors.ConfigurationError, match=r"^Redirect\.any_path must be"):
        Redirect(any_path=any_path)


async def test_without_a_location() -> None:
    """A redirect without a Location is handed on."""
    fake = FakeTransport({"/sse/chat": Reply(status=307, headers={})})
    assert await ended(RedirectTransport(fake), run()) == (307, run().url)


@pytest.mark.parametrize(("status", "sent", "hops"), [(307, 1, 0), (307, 2, 1), (307, 4, 3), (200, 5, 4), (200, 5, 9)])
async def test_hops(status: int, sent: int, hops: int) -> None:
    """At most `hops` redirects in a row are followed; the next is handed on."""
    chain = [f"{OURS}/{name}" for name in ("sse/chat", "a", "b", "c", "d")]
    remote = Moved(dict(pairwise(chain)))
    assert await ended(RedirectTransport(remote, Redirect(hops=hops)), run()) == (status, chain[sent - 1])
    assert sent == len(remote.sent) == remote.left


async def test_a_redirect_loop() -> None:
    """A redirect to itself is followed three times."""
    remote = Moved({run().url: "/sse/chat"})
    assert (await ended(RedirectTransport(remote), run()))[0] == 307
    assert len(remote.sent) == 4


async def test_errors() -> None:
    """Errors of the inner transport and of the block are raised unchanged, in the second exchange too."""
    replies = {"/sse/chat": Reply(status=307, headers={"location": "/new"}), "/new": Reply(before=errors.TLSError("x"))}
    fake = FakeTransport(replies)
    with pytest.raises(errors.TLSError):
        await ended(RedirectTransport(fake), run())
    assert len(fake.left) == 2
    mine = KeyError()
    with pytest.raises(KeyError) as caught:
        async with RedirectTransport(fake, Redirect(0)).exchange(run()):
            raise mine
    assert caught.value is mine


async def test_closing() -> None:
    """`aclose` closes the inner transport."""
    fake = FakeTransport({})
    transport = RedirectTransport(fake)
    assert transport.inner == fake
    assert transport.redirect == Redirect()
    await transport.aclose()
    assert fake.closed


@pytest.mark.parametrize("hops", [-1, 1.5, True, None])
def test_wrong_values(hops: Any) -> None:
    """An invalid number of hops is refused."""
    with pytest.raises(errors.ConfigurationError, match=r"^Redirect\.hops must be"):
        Redirect(hops)


def test_a_value() -> None:
    """Policies compare by content and pickle."""
    assert Redirect(hops=2) == Redirect(2) != Redirect()
    assert Redirect(2) == pickle.loads(pickle.dumps(Redirect(2))) == copy.deepcopy(Redirect(2))
    assert repr(Redirect(2)) == "Redirect(hops=2, any_path=False)"
