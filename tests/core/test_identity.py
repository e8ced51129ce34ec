"""Identity of servers: URLs that name one server are equal, and others differ."""

from __future__ import annotations

import pytest

from oxygent_client._core.server_identity import server_address, server_identity, url_origin

ONE_SERVER = {
    "scheme": ("HTTP://a.example:8082", "http://a.example:8082"),
    "host": ("http://A.Example:8082", "http://a.example:8082"),
    "root dot": ("http://a.example.:8082", "http://a.example:8082"),
    "default port of http": ("http://a.example:80", "http://a.example"),
    "default port of https": ("https://a.example:443", "https://a.example"),
    "empty port": ("https://a.example:", "https://a.example"),
    "slash": ("http://a.example/p/", "http://a.example/p"),
    "slashes": ("http://a.example//", "http://a.example"),
    "user information": ("http://me:pw@a.example/p", "http://a.example/p"),
    "query": ("http://a.example/p?key=1", "http://a.example/p"),
    "fragment": ("http://a.example/p#part", "http://a.example/p"),
    "dots": ("http://a.example/x/.././p/.", "http://a.example/p"),
    "too many dots": ("http://a.example/../../p", "http://a.example/p"),
    "escaped letter": ("http://a.example/%70%7e", "http://a.example/p~"),
    "case of an escape": ("http://a.example/%2f%c3%bc", "http://a.example/%2F%C3%BC"),
    "letter beyond ASCII": ("http://a.example/ü", "http://a.example/%C3%BC"),
    "name beyond ASCII": ("http://Bücher.example", "http://xn--bcher-kva.example"),
    "IPv6": ("http://[2001:DB8:0::1]", "http://[2001:db8::1]"),
    "IPv4 in IPv6": ("http://[::ffff:10.0.0.1]", "http://10.0.0.1"),
    "IPv4 as one number": ("http://167772161", "http://10.0.0.1"),
    "IPv4 in two parts": ("http://0xa.1", "http://10.0.0.1"),
}
LOOPBACK = [
    "http://localhost:8082",
    "http://LOCALHOST:8082",
    "http://localhost.:8082",
    "http://127.0.0.1:8082",
    "http://127.1:8082",
    "http://127.9.9.9:8082",
    "http://[::1]:8082",
    "http://[0:0::1]:8082",
    "http://[::ffff:127.0.0.1]:8082",
    "http://0.0.0.0:8082",
    "http://[::]:8082",
]
OTHERS = [
    "http://a.example",
    "https://a.example",
    "http://a.example:443",
    "http://b.example",
    "http://a.example/p",
    "http://a.example/P",
    "http://a.example/p%2Fq",
    "http://a.example/p/q",
    "http://app.localhost",
    "http://localhost",
    "http://10.0.0.1",
    "http://999999999999",
    "http://1.2.3.4.5",
    "http://" + "a" * 64,
    "",
]


@pytest.mark.parametrize("name", ONE_SERVER)
def test_one_server(name: str) -> None:
    """Spellings of one server have one identity and one address."""
    left, right = ONE_SERVER[name]
    assert server_identity(left) == server_identity(right)
    assert server_address(left) == server_address(right)


@pytest.mark.parametrize("url", LOOPBACK)
def test_loopback(url: str) -> None:
    """All names of loopback are one host."""
    assert server_identity(url) == "http://localhost:8082"
    assert url_origin(url) == ("http", "localhost", 8082)


def test_addresses_of_the_loopback_stay_apart() -> None:
    """For the address, the addresses of loopback differ."""
    assert len({server_address(f"http://{host}") for host in ("127.0.0.1", "127.0.0.2", "localhost", "[::1]")}) == 4


@pytest.mark.parametrize("normal", [server_identity, server_address])
def test_other_servers(normal: type[str]) -> None:
    """Different servers have different identities, and a normal form is its own."""
    forms = [normal(url) for url in OTHERS]
    assert len({*forms}) == len(OTHERS)
    assert [normal(form) for form in forms[:-1]] == forms[:-1]


def test_an_origin_goes_by_the_whole_name() -> None:
    """The origin keeps the root dot of a host name, since a certificate is for one name."""
    assert url_origin("http://a.example.") != url_origin("http://a.example")


@pytest.mark.parametrize("url", ["http://[::1", "http://a:99999"])
def test_texts_that_are_not_urls(url: str) -> None:
    """A text that is not a URL has no identity."""
    with pytest.raises(ValueError, match=r"."):
        server_identity(url)
