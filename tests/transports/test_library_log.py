"""Log records of the HTTP libraries about requests of this package: redacted, and no other records."""

from __future__ import annotations

import contextvars
import inspect
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import anyio
import httpx
import httpx2
import pytest

from oxygent_client import HTTPXTransport, SSEOxyGent, errors
from oxygent_client.policies import APIKey
from oxygent_client.testing import answer, close
from oxygent_client.transports._library_log import LOGGERS, our_records, redact_records
from oxygent_client.transports.aiohttp import AiohttpTransport
from oxygent_client.transports.httpx2 import HTTPX2Transport
from tests.support.servers import CLOSE, LAST, chunk, play, serving
from tests.support.tls import NO_AUTHORITY

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from oxygent_client import Transport

CANARY: Final = "canary-key-4711"
ECHO: Final = f"bad key {CANARY} \x1b]0;owned\x07\x1b[2J"
HEADERS: Final = f"x-echo: {CANARY}\r\nset-cookie: {CANARY}=1; path=/\r\nset-cookie: {CANARY}{{}}=1\r\n"
STREAM: Final = "content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
MOVED: Final = f"location: http:{CANARY}\r\ncontent-length: 0\r\n"

TRANSPORTS: Final = pytest.mark.parametrize(
    "make", [HTTPXTransport, HTTPX2Transport, AiohttpTransport], ids=["httpx", "httpx2", "aiohttp"]
)


def head(status: str, headers: str) -> bytes:
    """Return a response head that echoes the request's secrets."""
    return f"HTTP/1.1 {status} {ECHO}\r\n{HEADERS}{headers}connection: close\r\n\r\n".encode("latin-1")


RESPONSES: Final = {
    "a stream": head("200", STREAM) + chunk(answer("42")) + chunk(close()) + LAST,
    "a refusal": head("401", "content-length: 2\r\n") + b"no",
    "an error of the server": head("500", "content-length: 2\r\n") + b"no",
    "a redirect to nowhere": head("302", MOVED),
    "a body that is cut": head("200", STREAM) + b"5\r\nab",
    "no proper chunk": head("200", STREAM) + f"{CANARY}\r\n".encode(),
    "no proper header": f"HTTP/1.1 200 OK\r\n{CANARY} \x1b[2J\r\n\r\n".encode(),
    "no proper HTTP": f"{CANARY} \x1b[2J\r\n\r\n".encode(),
}


@pytest.mark.seconds
@TRANSPORTS
@pytest.mark.parametrize("response", RESPONSES)
async def test_no_record_holds_a_credential(
    make: Callable[[], Transport], response: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At no level does a record hold a credential or a control character, whatever the server sends."""
    async with serving(play([RESPONSES[response], CLOSE])) as server:
        transport = make()
        url = server.url.replace("://", f"://ada:{CANARY}@") + f"/prefix?key={CANARY}"
        agent = SSEOxyGent(server_url=url, transport=transport, auth=APIKey(CANARY))
        with caplog.at_level(logging.DEBUG):
            with anyio.fail_after(20), suppress(errors.OxyError):
                await agent.ask("hi")
            await transport.aclose()
    shown = [str(value) for record in caplog.records for value in (record.getMessage(), *vars(record).values())]
    assert [text for text in shown if CANARY in text or "\x1b" in text] == []


@pytest.mark.parametrize(("library", "make"), [("httpx", HTTPXTransport), ("httpx2", HTTPX2Transport)])
async def test_the_line_about_a_request(
    library: str, make: Callable[[], Transport], caplog: pytest.LogCaptureFixture
) -> None:
    """The line about a request has its URL and status, without the server's own text."""
    async with serving(play(RESPONSES["a refusal"])) as server:
        transport = make()
        with caplog.at_level(logging.DEBUG), pytest.raises(errors.AuthenticationError):
            await SSEOxyGent(server_url=f"{server.url}/prefix?key={CANARY}", transport=transport).ask("hi")
        await transport.aclose()
    lines = [record.getMessage() for record in caplog.records if record.name == library]
    told = [line for line in lines if line.startswith("HTTP Request")]  # older httpx writes lines about TLS, too
    assert told == [f'HTTP Request: POST {server.url}/prefix/sse/chat "HTTP/1.1 401 [scrubbed]"']
    events = [record.getMessage() for record in caplog.records if record.name.startswith("httpcore")]
    assert "receive_response_headers.complete 401" in events


PAIR: Final = f"[(b'x-echo', b'{CANARY}')]"
REWRITTEN: Final = [
    # the logger, the message, its arguments, the redacted arguments
    ("httpcore.http11", "send_request_headers.started request=<Request [b'POST']>", (), None),
    ("httpcore.http11", "send_request_headers.complete", (), None),
    (
        "httpcore.connection",
        "connect_tcp.started host='127.0.0.1' port=82 local_address=None timeout=10.0 socket_options=None",
        (),
        "connect_tcp.started host='127.0.0.1' port=82 timeout=10.0",
    ),
    (
        "httpcore2.socks",
        f"setup_socks5_connection.started stream=<S> host='a.test' port=80 auth=(b'u', b'{CANARY}')",
        (),
        "setup_socks5_connection.started host='a.test' port=80",
    ),
    (
        "httpcore.http11",
        f"receive_response_headers.complete return_value=(b'HTTP/1.1', 401, b'{CANARY}', {PAIR})",
        (),
        "receive_response_headers.complete 401",
    ),
    (
        "httpcore2.http2",
        f"receive_response_headers.complete return_value=(200, {PAIR})",
        (),
        "receive_response_headers.complete 200",
    ),
    (
        "httpcore.http11",
        f"receive_response_headers.failed exception=RemoteProtocolError('{CANARY}')",
        (),
        "receive_response_headers.failed RemoteProtocolError",
    ),
    ("httpcore.connection", f"start_tls.complete return_value=<{CANARY}>", (), "start_tls.complete"),
    ("hpack.hpack", "Decoded %s, consumed %d", ((b"x", CANARY.encode()), 7), "Decoded [scrubbed], consumed 7"),
    ("hpack.hpack", "sensitive:%s", (True,), "sensitive:True"),
    ("hpack.table", "Evicting %(name)s", ({"name": CANARY},), "Evicting [scrubbed]"),
    ("aiohttp.internal", "Can not load cookies: %r", (CANARY,), "Can not load cookies: '[scrubbed]'"),
    ("aiohttp.internal", "Exception in eof callback\x1b", (), r"Exception in eof callback\x1b"),
    ("httpx", "%s %s", ("GET", httpx.URL(f"http://a:{CANARY}@b.test/c?d={CANARY}")), "GET http://b.test/c"),
    ("httpx", "%s", (CANARY,), "[scrubbed]"),
    ("httpx", "%s", ([CANARY],), "[scrubbed]"),
    ("httpx", '"%s %d %s"', ("HTTP/1.1", 404, "Not Found"), '"HTTP/1.1 404 Not Found"'),
    ("httpx", '"%s %d %s"', ("HTTP/2", 200, ""), '"HTTP/2 200 "'),
]


@pytest.mark.parametrize(("logger", "message", "args", "expected"), REWRITTEN)
def test_redacted_records(
    logger: str, message: str, args: tuple[Any, ...], expected: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Only values that are known to be harmless are kept; None keeps all."""
    for library in LOGGERS:
        redact_records(library)
    with caplog.at_level(logging.DEBUG), our_records():
        try:
            raise ValueError(CANARY)
        except ValueError:
            logging.getLogger(logger).debug(message, *args, exc_info=True)
    assert caplog.records[0].getMessage() == (message if expected is None else expected)
    assert CANARY not in caplog.text


async def test_records_about_other_requests(caplog: pytest.LogCaptureFixture) -> None:
    """Records about other requests of the program are unchanged."""
    async with serving(play(RESPONSES["a stream"])) as server:
        await SSEOxyGent(server_url=server.url).ask("hi")
        with caplog.at_level(logging.INFO, "httpx"):
            async with httpx.AsyncClient(verify=NO_AUTHORITY) as client:
                await client.get(f"{server.url}/?key=theirs")
    assert "/?key=theirs" in caplog.text
    assert CANARY in caplog.text


def test_every_logger_of_the_libraries_is_known() -> None:
    """A new logger of a library must be added to the table, or be listed as one of servers."""
    loaded = {
        httpx.__name__,
        httpx2.__name__,
        aiohttp.__name__,
        "httpcore",
        "httpcore2",
        "hpack",
        "h2",
        "h11",
        "httpx_sse",
    }
    made = {
        name
        for name, log in logging.root.manager.loggerDict.items()
        if isinstance(log, logging.Logger) and name.partition(".")[0] in loaded
    }
    of_servers = {"aiohttp.access", "aiohttp.server", "aiohttp.web", "aiohttp.websocket"}
    assert made - of_servers - {name for names in LOGGERS.values() for name in names} == set()


def test_a_block_that_ends_in_another_context() -> None:
    """A coroutine that is closed in another context than it began in closes without an error."""

    async def waits() -> None:
        with our_records():
            await _Never()

    waiting = waits()
    contextvars.copy_context().run(_step, waiting)
    waiting.close()
    assert inspect.getcoroutinestate(waiting) == inspect.CORO_CLOSED


class _Never:
    """Waits forever."""

    def __await__(self) -> Any:
        yield


def _step(work: Coroutine[Any, Any, None]) -> None:
    work.send(None)
