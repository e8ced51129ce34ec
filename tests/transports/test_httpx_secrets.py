"""What httpx would tell or keep by itself, and must not: whole URLs in its log, and the cookies of another run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import httpx
import pytest

from oxygent_client import HTTPXTransport, SSEOxyGent
from oxygent_client.testing import answer, close
from oxygent_client.transports.httpx2 import HTTPX2Transport
from tests.support.servers import LAST, OK, chunk, play, serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from oxygent_client import Transport

ANSWER: Final = OK + chunk(answer("42")) + chunk(close()) + LAST
WITH_COOKIE: Final = ANSWER.replace(b"\r\n", b"\r\nset-cookie: session=user-a\r\n", 1)


@pytest.mark.parametrize(("library", "make"), [("httpx", HTTPXTransport), ("httpx2", HTTPX2Transport)])
async def test_the_log_shows_no_secret(
    library: str, make: Callable[[], Transport], caplog: pytest.LogCaptureFixture
) -> None:
    """The library logs each request with its URL: of ours it shows neither user information nor query."""
    async with serving(play(ANSWER)) as server:
        transport = make()
        with caplog.at_level(logging.DEBUG):
            url = server.url.replace("://", "://ada:CANARY@") + "/prefix?key=CANARY"
            assert (await SSEOxyGent(server_url=url, transport=transport).ask("hi")).output == "42"
        await transport.aclose()
        shown = [record.getMessage() for record in caplog.records if record.name == library]
        assert [f'HTTP Request: POST {server.url}/prefix/sse/chat "HTTP/1.1 200 OK"'] == shown
        assert "CANARY" not in caplog.text


async def test_the_log_of_others_stays_theirs(caplog: pytest.LogCaptureFixture) -> None:
    """What the rest of the program asks by the library is logged as ever; odd records pass."""
    async with serving(play(ANSWER)) as server:
        await SSEOxyGent(server_url=server.url).ask("hi")
        with caplog.at_level(logging.INFO, "httpx"):
            async with httpx.AsyncClient() as client:
                await client.get(f"{server.url}/?key=theirs")
            logging.getLogger("httpx").info("%(a)s", {"a": 1})
    assert "/?key=theirs" in caplog.text


async def test_no_cookie_goes_from_run_to_run() -> None:
    """An agent may serve many users: a cookie that one run was given is not sent by the next."""
    async with serving(play(WITH_COOKIE)) as server:
        transport = HTTPXTransport()
        agent = SSEOxyGent(server_url=server.url, transport=transport)
        for _ in range(2):
            assert (await agent.ask("hi")).output == "42"
        await transport.aclose()
    assert [request.headers.get("cookie") for request in server.requests] == [None, None]
