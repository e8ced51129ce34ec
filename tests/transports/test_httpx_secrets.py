"""Secrets of requests over httpx: no whole URLs in its log, and no cookies shared between runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import httpx
import pytest

from oxygent_client import HTTPXTransport, SSEOxyGent
from oxygent_client.testing import answer, close
from oxygent_client.transports.httpx2 import HTTPX2Transport
from tests.support.servers import LAST, OK, chunk, play, serving
from tests.support.tls import NO_AUTHORITY

if TYPE_CHECKING:
    from collections.abc import Callable

    from oxygent_client import Transport

ANSWER: Final = OK + chunk(answer("42")) + chunk(close()) + LAST
WITH_COOKIE: Final = ANSWER.replace(b"\r\n", b"\r\nset-cookie: session=user-a\r\n", 1)


@pytest.mark.parametrize(("library", "make"), [("httpx", HTTPXTransport), ("httpx2", HTTPX2Transport)])
async def test_the_log_shows_no_secret(
    library: str, make: Callable[[], Transport], caplog: pytest.LogCaptureFixture
) -> None:
    """The library's log has the URL of a request without user information and query."""
    async with serving(play(ANSWER)) as server:
        transport = make()
        with caplog.at_level(logging.DEBUG):
            url = server.url.replace("://", "://ada:CANARY@") + "/prefix?key=CANARY"
            assert (await SSEOxyGent(server_url=url, transport=transport).ask("hi")).output == "42"
        await transport.aclose()
        lines = [record.getMessage() for record in caplog.records if record.name == library]
        shown = [line for line in lines if line.startswith("HTTP Request")]  # older httpx writes lines about TLS, too
        assert shown == [f'HTTP Request: POST {server.url}/prefix/sse/chat "HTTP/1.1 200 OK"']
        assert "CANARY" not in caplog.text


async def test_the_log_of_other_requests(caplog: pytest.LogCaptureFixture) -> None:
    """Log records of other requests of the program are unchanged, odd records too."""
    async with serving(play(ANSWER)) as server:
        await SSEOxyGent(server_url=server.url).ask("hi")
        with caplog.at_level(logging.INFO, "httpx"):
            async with httpx.AsyncClient(verify=NO_AUTHORITY) as client:
                await client.get(f"{server.url}/?key=theirs")
            logging.getLogger("httpx").info("%(a)s", {"a": 1})
    assert "/?key=theirs" in caplog.text


async def test_no_cookie_is_kept_between_runs() -> None:
    """A cookie set in one run is not sent in the next: an agent may serve many users."""
    async with serving(play(WITH_COOKIE)) as server:
        transport = HTTPXTransport()
        agent = SSEOxyGent(server_url=server.url, transport=transport)
        for _ in range(2):
            assert (await agent.ask("hi")).output == "42"
        await transport.aclose()
    assert [request.headers.get("cookie") for request in server.requests] == [None, None]
