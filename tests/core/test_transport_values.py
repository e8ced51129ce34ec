"""Requests and responses of a transport: URLs are joined and validated, and reprs show no secret."""

from __future__ import annotations

from typing import Any, cast

import attrs
import pytest

from oxygent_client import HTTPRequest, HTTPResponse, Transport, errors
from oxygent_client._core.sent_secrets import SentSecrets
from oxygent_client._core.transport import check_url, redact_url
from oxygent_client.testing import FakeTransport
from oxygent_client.transports import Context
from oxygent_client.transports.asgi import ASGITransport

BASE = "http://127.0.0.1:8082"


class Chunks:
    """A body that was read already."""

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


# ---------------------------------------------------------------------------------------------------------------- URLs

GOOD = [
    BASE,
    "http://localhost",
    "https://remote.example.com/",
    "https://user:pass@remote.example.com:8443/base/path?key=1#part",
    "http://[::1]:8082",
    "HTTP://EXAMPLE.COM",
    "http://xn--bcher-kva.example",
    "http://bücher.example",
]
BAD = [
    "",
    "127.0.0.1:8082",
    "localhost",
    "//example.com",
    "ftp://example.com",
    "file:///etc/passwd",
    "ws://example.com",
    "http://",
    "http:///path",
    "http://:8082",
    "http://example.com:0",
    "http://example.com:99999",
    "http://example.com:port",
    "http://[::1",
    "http://exa mple.com",
    " http://example.com",
    "http://example.com\n",
    "http://example.com/a\r\nHost: evil",
    "http://example.com/\t",
    "http://example.com/\x7f",
    "http://example.com/\0",
    "http://example.com\\@evil.example",
    "http://example.com/\\evil",
    "http://user@example.com@evil.example",
    "http://example.com/\u202e",
    "http://exam\u200bple.com",
    "http://example.com/\u2028",
    "http://example.com\u00a0",
    "http://example.com/\x85",
    "http://example\uff0fcom",
    "http://example.com/\ud800",
]


@pytest.mark.parametrize("url", GOOD)
def test_good_urls(url: str) -> None:
    """An http or https URL with a host is valid, with any other parts."""
    assert check_url(url) == url


@pytest.mark.parametrize("url", BAD)
def test_bad_urls(url: str) -> None:
    """Other URLs are refused; the error does not show them, since they may hold a password."""
    with pytest.raises(errors.ConfigurationError) as caught:
        check_url(url)
    assert str(caught.value) == "server_url must be an http:// or https:// URL with a host"


SHOWN = [
    (BASE, BASE),
    ("https://example.com:8443/base", "https://user:SECRET@example.com:8443/base?token=SECRET#SECRET"),
    ("http://[::1]:80/", "http://user@[::1]:80/"),
    ("http://example.com", "http://SE@CRET@example.com"),
]


@pytest.mark.parametrize(("expected", "url"), SHOWN)
def test_shown_urls(expected: str, url: str) -> None:
    """A URL is shown without user information, query and fragment."""
    assert redact_url(url) == expected


JOINED = [
    ("http://127.0.0.1:8082/sse/chat", BASE),
    ("http://127.0.0.1:8082/sse/chat", f"{BASE}/"),
    ("https://h/base/sse/chat", "https://h/base"),
    ("https://h/base/sse/chat", "https://h/base//"),
    ("https://h/base/sse/chat?tenant=1&x", "https://h/base?tenant=1&x"),
    ("https://h/sse/chat?tenant=1", "https://h?tenant=1#part"),
    ("https://u:p@h:1/sse/chat", "https://u:p@h:1"),
]


@pytest.mark.parametrize(("expected", "base_url"), JOINED)
def test_joined_urls(expected: str, base_url: str) -> None:
    """A path is appended to the base URL's path, before the base URL's query."""
    assert HTTPRequest("POST", base_url, "/sse/chat").url == expected


# ------------------------------------------------------------------------------------------------------------ Requests


def test_a_request_is_frozen() -> None:
    """A request and its headers are immutable."""
    headers = {"accept": "text/event-stream"}
    request = HTTPRequest("POST", BASE, "/sse/chat", headers, b"{}")
    headers["accept"] = "changed"
    assert request.headers == {"accept": "text/event-stream"}
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(request, "path", "/")  # noqa: B010  (type checkers refuse the plain way)
    with pytest.raises(TypeError):
        cast("dict[str, str]", request.headers)["accept"] = "x"
    other = attrs.evolve(request, headers={**request.headers, "authorization": "x"})
    assert other.headers.keys() == {"accept", "authorization"}
    assert attrs.evolve(request) == request
    assert request != other


def test_the_defaults() -> None:
    """By default a request is a run without body, headers and deadline, and is not idempotent."""
    request = HTTPRequest("GET", BASE, "/")
    assert request.headers == {}
    assert request.body == b""
    assert request.context == Context()
    assert Context() == Context(purpose="run", trace_id="", group_id="", deadline=None, idempotent=False)


def test_no_repr_shows_a_secret() -> None:
    """Reprs of requests and responses show no body, header, user information or query."""
    url = "http://user:SECRET@127.0.0.1:8082/base?token=SECRET"
    context = Context(purpose="discover", trace_id="t")
    request = HTTPRequest("GET", url, "/x", {"authorization": "SECRET"}, b"SECRET", context=context)
    response = HTTPResponse(200, {"set-cookie": "SECRET"}, Chunks(), request)
    assert repr(request) == "<HTTPRequest GET http://127.0.0.1:8082/base/x discover 6 bytes>"
    assert repr(response) == f"<HTTPResponse 200 to {request!r}>"


GOOD_HEADERS = [{}, {"x-tenant": "t1"}, {"X!#$%&'*+.^_`|~-9": ""}, {"a": 'b\tc ~ "d"'}]
BAD_HEADERS = [
    {"": "x"},
    {"a b": "x"},
    {"a:": "x"},
    {"ü": "x"},
    {"a\r\nb": "x"},
    {"a\n": "x"},
    {"x": "SECRET\r\nevil: 1"},
    {"x": "SECRET\n"},
    {"x": "SECRET\0"},
    {"x": "SECRETü"},
    {"x": "SECRET\x7f"},
    {"x": "SECRET "},
    {"x": "\tSECRET"},
    {"x": "SECRET\nevil\n1"},
    {"a\nb\nc": "d"},
    {"a": "b", "x": 5},
    {5: "a"},
]


@pytest.mark.parametrize("headers", GOOD_HEADERS)
def test_good_headers(headers: dict[str, str]) -> None:
    """Header values that HTTP allows are unchanged."""
    assert HTTPRequest("GET", BASE, "/", headers).headers == headers


@pytest.mark.parametrize("headers", BAD_HEADERS)
def test_bad_headers(headers: Any) -> None:
    """A name or value with a line break is refused, without the value in the error."""
    with pytest.raises(errors.ConfigurationError, match="header") as caught:
        HTTPRequest("GET", BASE, "/", headers)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("path", ["/a\r\nHost: evil", "/\n", "/\0", "/\x7f", "/\x85", "/\u2028", "/\udc80"])
def test_bad_paths(path: str) -> None:
    """A path with a line break is refused."""
    with pytest.raises(errors.ConfigurationError, match="path"):
        HTTPRequest("GET", BASE, path)


def test_transports_by_structure() -> None:
    """Any object with the two methods is a transport."""
    assert issubclass(FakeTransport, Transport)
    assert issubclass(ASGITransport, Transport)
    assert not isinstance(object(), Transport)


def test_a_path_with_a_query() -> None:
    """A query in the path is put before the query of the base URL."""
    request = HTTPRequest("GET", "http://127.0.0.1/base?token=1", "/view?item_id=a%20b")
    assert request.url == "http://127.0.0.1/base/view?item_id=a%20b&token=1"


def test_with_context() -> None:
    """A request with another context is as `attrs.evolve` makes it, and the secrets of its headers are known there."""
    request = HTTPRequest(
        "POST", "https://a", "/b?c=d", {"x-api-key": "the-api-key"}, b"{}", context=Context(attempt=1)
    )
    sent = SentSecrets()
    changed = request.with_context(attempt=2, sent=sent)
    assert changed == attrs.evolve(request, context=attrs.evolve(request.context, attempt=2))
    assert changed.url == "https://a/b?c=d"
    assert request.context.attempt == 1
    assert "the-api-key" in sent.values()


@pytest.mark.parametrize("cls", [Context, HTTPRequest])
def test_each_field_has_a_slot(cls: type[Any]) -> None:
    """The slots of a frozen class are its fields, so that a copy without attrs copies them all."""
    slots = {*vars(cls.__mro__[1])["__slots__"]} - {"__weakref__"}
    assert slots == {field.name for field in attrs.fields(cls)}


def test_a_changed_context_has_all_fields() -> None:
    """A context with changes has the value of each other field."""
    names = [field.name for field in attrs.fields(Context)]
    context = Context(**cast("Any", {name: object() for name in names}))
    changed = context.changed(attempt=2)
    assert {name: getattr(changed, name) for name in names} == {
        **{name: getattr(context, name) for name in names},
        "attempt": 2,
    }


def test_with_context_knows_its_fields() -> None:
    """A name that no context has is an error."""
    with pytest.raises(AttributeError):
        HTTPRequest("GET", "https://a", "").with_context(attempts=2)
